//! `backup()`: a source becomes a snapshot. Readable from top to bottom: walk, read and seal, pack, commit.
//!
//! One thread walks the source in pack order, several read files and seal their chunks, and the calling thread takes the results in order, fills
//! packs and writes trees. All queues are bounded; order is kept because every file has a queue of its own, and files are begun in order.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use fs_core::chunker::Chunker;
use fs_core::crypto;
use fs_core::id::{ObjectHash, PackId, SnapshotId};
use fs_core::object::{self, ObjectError, ObjectKind, Signer};
use fs_core::observer::{Observer, Progress};
use fs_core::path::{Name, TreePath};
use fs_core::record::{RecordKind, Reference};
use fs_core::report::{Finding, Severity, Stats};
use fs_core::repository::{ReadError, Repository, RepositoryError};
use fs_core::snapshot::attributes::AttributeNames;
use fs_core::snapshot::codec::Seal;
use fs_core::snapshot::{Head, Manifest, Snapshot, SourcePath};
use fs_core::storage::{StoreError, WriteStore, wait};
use fs_core::tree::codec::{FINDINGS_MAX, LINK_ROWS_MAX, encode_findings, encode_links};
use fs_core::tree::list::ListBuilder;
use fs_core::tree::page;
use fs_core::tree::{Content, Entry, EntryKind, LinkRow, ROOT_POSITION, Subtree, Value, XATTR_INLINE_MAX};

use crate::create::put_hashed;
use crate::device::{self, DeviceError};
use crate::packer::{PackError, Packer, Shared, list_packs};
use crate::source::{self, LiveTree};

mod read;
mod walk;

use read::{FileJob, FileResult, Piece};
use walk::{Step, Walk};

/// A file changed within this time before the parent snapshot began may have changed again unseen.
const RACE_MARGIN: Duration = Duration::from_secs(2);
/// Steps that the walk may be ahead.
const STEPS_AHEAD: usize = 128;
/// Findings kept in memory and in the snapshot; more are only counted.
const FINDINGS_KEPT: usize = 100_000;

/// What to back up and how.
#[derive(Clone, Debug)]
pub struct BackupOptions {
    /// Paths to save.
    pub paths: Vec<PathBuf>,
    /// Host name under which the snapshot is filed.
    pub host: String,
    /// Set; empty for the host's default set.
    pub set: String,
    /// Tags.
    pub tags: Vec<String>,
    /// Paths that are never entered: repository, cache, mount points.
    pub never: Vec<PathBuf>,
    /// This repository's local state folder; `None` to keep nothing locally.
    pub state: Option<PathBuf>,
    /// Whether all files are read even if they look unchanged.
    pub reread: bool,
    /// zstd level.
    pub level: i32,
    /// Offset of local time from UTC, in minutes.
    pub utc_offset_minutes: i32,
    /// What stands in the manifest as the tool.
    pub tool_version: String,
}

/// What a backup did.
#[derive(Clone, Debug)]
pub struct BackupReport {
    /// The new snapshot.
    pub snapshot: SnapshotId,
    /// The one that unchanged files were taken from.
    pub parent: Option<SnapshotId>,
    /// Numbers.
    pub stats: Stats,
    /// What it met, in the order of the walk.
    pub findings: Vec<Finding>,
}

/// Why there is no new snapshot.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A path does not exist or cannot be reached.
    #[error("{} cannot be backed up", .path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Nothing to save was named.
    #[error("no path to back up was given")]
    Nothing,
    /// The observer cancelled.
    #[error("the backup was interrupted; what was uploaded is used by the next run")]
    Cancelled,
    /// This machine cannot sign.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The repository cannot be read.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The parent snapshot cannot be read.
    #[error("the parent snapshot cannot be read: use another parent")]
    Parent(#[from] ReadError),
    /// The repository cannot be written.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The manifest or seal could not be put.
    #[error("the snapshot could not be committed")]
    Store(#[from] StoreError),
    /// The key's role does not allow it.
    #[error("this key may not write")]
    Key(#[from] ObjectError),
}

/// Takes a snapshot.
///
/// # Errors
/// [`BackupError`]: then there is no new sealed snapshot, and nothing that was there before has changed. Files that cannot be read are findings.
pub fn backup(
    repository: &Arc<Repository>,
    store: &Arc<dyn WriteStore>,
    options: &BackupOptions,
    observer: &dyn Observer,
) -> Result<BackupReport, BackupError> {
    let started = repository.clock().now();
    let sources = absolute_paths(&options.paths)?;
    let signer = device::open(repository, &**store, options.state.as_deref(), &options.host)?;
    let snapshots = repository.snapshots()?;
    let parent = if options.reread { None } else { find_parent(&snapshots, options, &signer) };
    let shared = Arc::new(Shared::new(Arc::clone(repository))?);
    let packer = Packer::new(Arc::clone(&shared), Arc::clone(store), signer.clone(), options.level);
    let never: HashSet<_> = options.never.iter().filter_map(|path| source::identity(path)).collect();
    let trusted_before = parent.map(|parent| parent.manifest.started.saturating_sub(RACE_MARGIN));
    let walk = Walk { sources: &sources, never: &never, small: repository.config().chunks.small.into() };

    let mut collector = Collector::new(&shared, packer, trusted_before, observer);
    let root = run_pipeline(&shared, &walk, options.level, &mut collector, parent)?;
    if observer.is_cancelled() {
        return Err(BackupError::Cancelled);
    }
    let Collector { mut packer, mut stats, findings, relied_on, attribute_names, .. } = collector;
    let link_table = write_links(&mut packer, &root.links)?;
    let finding_list = write_findings(&mut packer, &findings)?;
    let written = packer.finish()?;
    (stats.new_bytes, stats.stored_bytes) = (written.new_bytes, written.stored_bytes);

    let previous = snapshots.iter().filter(|s| s.manifest.device == signer.device).max_by_key(|s| s.manifest.sequence);
    let manifest = Manifest {
        device: signer.device,
        sequence: previous.map_or(1, |previous| previous.manifest.sequence + 1),
        previous: previous.map(|previous| previous.id),
        heads: heads(&snapshots, &signer),
        started,
        ended: repository.clock().now(),
        server_time: wait("clock", store.server_time())?,
        host: options.host.clone(),
        set: options.set.clone(),
        sources: sources.iter().map(|path| SourcePath { path: path_bytes(path), case_insensitive: false }).collect(),
        tags: options.tags.clone(),
        root: root.entry,
        link_table,
        stats,
        findings: finding_list,
        tool_version: options.tool_version.clone(),
        parent: parent.map(|parent| parent.id),
        utc_offset_minutes: options.utc_offset_minutes,
        attribute_names,
    };
    let snapshot = commit(repository, &**store, &signer, &manifest, &relied_on)?;
    Ok(BackupReport { snapshot, parent: manifest.parent, stats, findings })
}

/// Manifest, second look, seal: only then it is a success.
fn commit(
    repository: &Repository,
    store: &dyn WriteStore,
    signer: &Signer,
    manifest: &Manifest,
    relied_on: &HashSet<PackId>,
) -> Result<SnapshotId, BackupError> {
    let random = &**repository.random();
    let object = manifest.encode_object(repository.ring(), signer, random)?;
    let name = |kind| move |hash: &ObjectHash| object::sequence_name(kind, &manifest.device, manifest.sequence, hash);
    let id = SnapshotId::from(put_hashed(store, object, name(ObjectKind::Manifest))?);
    let listed: HashSet<_> = list_packs(repository)?.into_iter().map(|(id, _, _)| id).collect();
    if let Some(&pack) = relied_on.iter().find(|pack| !listed.contains(pack)) {
        return Err(PackError::Vanished { pack }.into());
    }
    let seal = Seal { device: manifest.device, sequence: manifest.sequence, manifest: id, time: repository.clock().now() };
    put_hashed(store, seal.encode_object(repository.ring(), signer, random), name(ObjectKind::Seal))?;
    Ok(id)
}

/// The newest sealed snapshot of this device and set, or else of this host and set.
fn find_parent<'a>(snapshots: &'a [Snapshot], options: &BackupOptions, signer: &Signer) -> Option<&'a Snapshot> {
    let fits = |s: &&Snapshot| s.sealed && s.manifest.host == options.host && s.manifest.set == options.set;
    let newest = |own: bool| snapshots.iter().filter(fits).rfind(|s| !own || s.manifest.device == signer.device);
    newest(true).or_else(|| newest(false))
}

fn heads(snapshots: &[Snapshot], signer: &Signer) -> Vec<Head> {
    let mut heads = BTreeMap::new();
    for snapshot in snapshots.iter().filter(|s| s.manifest.device != signer.device) {
        let head = heads.entry(snapshot.manifest.device).or_insert((0, snapshot.id));
        *head = (*head).max((snapshot.manifest.sequence, snapshot.id));
    }
    heads.into_iter().map(|(device, (sequence, manifest))| Head { device, sequence, manifest }).collect()
}

/// Absolute, sorted, none inside another.
fn absolute_paths(paths: &[PathBuf]) -> Result<Vec<PathBuf>, BackupError> {
    let absolute = |path: &PathBuf| source::absolute(path).map_err(|source| BackupError::Path { path: path.clone(), source });
    let mut all = paths.iter().map(absolute).collect::<Result<Vec<_>, _>>()?;
    all.sort();
    all.dedup_by(|later, earlier| later.starts_with(&*earlier));
    if all.is_empty() { Err(BackupError::Nothing) } else { Ok(all) }
}

fn path_bytes(path: &Path) -> Vec<u8> {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec()
}

/// Runs the walk, the readers and the collector until the walk is done.
fn run_pipeline(
    shared: &Arc<Shared>,
    walk: &Walk<'_>,
    level: i32,
    collector: &mut Collector<'_>,
    parent: Option<&Snapshot>,
) -> Result<Built, BackupError> {
    let source = LiveTree::default();
    let chunker = shared.repository().ring().current().chunker.as_ref().map(|key| Chunker::new(key, shared.repository().config().chunks));
    let chunker = chunker.ok_or(ObjectError::NotAllowed)?;
    let (steps, to_collect) = bounded::<Step>(STEPS_AHEAD);
    let (jobs, to_read) = bounded::<FileJob>(STEPS_AHEAD);
    let reader_count = thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
    let parent_root = parent.map(|parent| &parent.manifest.root);
    thread::scope(|scope| {
        for _ in 0..reader_count {
            let (to_read, source, chunker) = (to_read.clone(), &source, &chunker);
            scope.spawn(move || read::serve(&to_read, shared, source, chunker, level));
        }
        drop(to_read);
        scope.spawn(|| walk.run(&source, &steps));
        // Dropped at the end whatever happens, so that walk and readers end too.
        let result = collector.collect(&to_collect, &jobs, parent_root);
        drop((to_collect, jobs));
        result
    })
}

/// A finished directory: its entry and its hard-linked entries by position relative to it.
struct Built {
    entry: Entry,
    links: Vec<(u64, u64)>,
}

/// A directory that is being gathered.
struct Frame {
    entry: Entry,
    children: Vec<Built>,
    /// The same directory in the parent snapshot.
    parent: HashMap<Name, Entry>,
    parent_page: Option<Reference>,
}

/// A file that was handed to the readers, or anything that needs none.
enum Pending {
    Ready(Box<Entry>),
    Reading { entry: Box<Entry>, results: Receiver<Piece>, had_parent: bool },
}

struct Collector<'a> {
    shared: &'a Arc<Shared>,
    packer: Packer,
    trusted_before: Option<fs_core::time::Timestamp>,
    observer: &'a dyn Observer,
    stats: Stats,
    findings: Vec<Finding>,
    relied_on: HashSet<PackId>,
    /// Those of all entries so far; `None` once they are too many to list.
    attribute_names: Option<AttributeNames>,
    progress: Progress,
}

impl<'a> Collector<'a> {
    fn new(shared: &'a Arc<Shared>, packer: Packer, trusted_before: Option<fs_core::time::Timestamp>, observer: &'a dyn Observer) -> Self {
        let (stats, findings, relied_on) = (Stats::default(), Vec::new(), HashSet::new());
        let (attribute_names, progress) = (Some(AttributeNames::default()), Progress::default());
        Self { shared, packer, trusted_before, observer, stats, findings, relied_on, attribute_names, progress }
    }

    /// Takes the steps of the walk in order. Files are handed to the readers a bounded number of steps before their results are taken.
    fn collect(&mut self, steps: &Receiver<Step>, jobs: &Sender<FileJob>, parent_root: Option<&Entry>) -> Result<Built, BackupError> {
        let (mut frames, mut path): (Vec<Frame>, TreePath) = (Vec::new(), TreePath::ROOT);
        let mut waiting: std::collections::VecDeque<Pending> = std::collections::VecDeque::new();
        for step in steps {
            if self.observer.is_cancelled() {
                return Err(BackupError::Cancelled);
            }
            match step {
                Step::Finding(finding) => self.finding(finding),
                Step::Enter(entry) => {
                    self.drain(&mut frames, &mut waiting, &path, 0)?;
                    if let Some(name) = &entry.name {
                        path.push(name.clone());
                    }
                    self.observer.at(&path);
                    let frame = self.enter(*entry, frames.last(), parent_root)?;
                    frames.push(frame);
                }
                Step::Entry(child, directory) => {
                    let Some(frame) = frames.last() else { continue };
                    let pending = self.begin(*child, directory, frame, jobs)?;
                    waiting.push_back(pending);
                    self.drain(&mut frames, &mut waiting, &path, STEPS_AHEAD / 2)?;
                }
                Step::Leave => {
                    self.drain(&mut frames, &mut waiting, &path, 0)?;
                    let Some(frame) = frames.pop() else { continue };
                    let built = self.leave(frame)?;
                    path.pop();
                    match frames.last_mut() {
                        Some(above) => above.children.push(built),
                        None => return Ok(built),
                    }
                }
            }
        }
        Err(BackupError::Cancelled)
    }

    fn enter(&mut self, entry: Entry, above: Option<&Frame>, parent_root: Option<&Entry>) -> Result<Frame, BackupError> {
        self.stats.directory_count += 1;
        let before = match (above, &entry.name) {
            (Some(above), Some(name)) => above.parent.get(name),
            _ => parent_root,
        };
        let parent_page = before.and_then(|before| before.subtree.as_ref()).and_then(|subtree| subtree.page);
        let mut parent = HashMap::new();
        if let Some(top) = &parent_page {
            let mut next = page::find(top, page::Wanted::Index(0), &|reference| self.shared.repository().page(reference))?;
            while let Some(found) = next {
                if let Some(name) = &found.entry().name {
                    parent.insert(name.clone(), found.entry().clone());
                }
                next = match found.next_in_page() {
                    Some(found) => Some(found),
                    None => page::find(top, page::Wanted::Index(found.entry_index + 1), &|r| self.shared.repository().page(r))?,
                };
            }
        }
        Ok(Frame { entry, children: Vec::new(), parent, parent_page })
    }

    /// Decides whether a file has to be read.
    fn begin(
        &mut self,
        child: source::Child,
        directory: source::Directory,
        frame: &Frame,
        jobs: &Sender<FileJob>,
    ) -> Result<Pending, BackupError> {
        let source::Child { mut entry, stamp } = child;
        for (_, value) in &mut entry.xattrs {
            store_long_value(&mut self.packer, value)?;
        }
        if entry.kind != EntryKind::File {
            self.stats.other_count += 1;
            return Ok(Pending::Ready(Box::new(entry)));
        }
        let before = entry.name.as_ref().and_then(|name| frame.parent.get(name)).filter(|before| before.kind == EntryKind::File);
        if let Some(before) = before
            && self.is_unchanged(&entry, before)
        {
            entry.content = before.content.clone();
            entry.sparse.clone_from(&before.sparse);
            (entry.file_hash, entry.block_size) = (before.file_hash, before.block_size);
            entry.unknown.clone_from(&before.unknown);
            self.stats.unchanged_count += 1;
            return Ok(Pending::Ready(Box::new(entry)));
        }
        let had_parent = before.is_some();
        let block_size = match before {
            Some(before) => before.block_size,
            None => self.shared.repository().config().block_size(entry.name_bytes(), entry.size),
        };
        let (results, receiver) = bounded(read::PIECES_AHEAD);
        let Some(name) = entry.name.clone() else { return Ok(Pending::Ready(Box::new(entry))) };
        let job = FileJob { directory, name, stamp, block_size, results };
        if jobs.send(job).is_err() {
            return Err(BackupError::Cancelled);
        }
        Ok(Pending::Reading { entry: Box::new(entry), results: receiver, had_parent })
    }

    fn is_unchanged(&self, now: &Entry, before: &Entry) -> bool {
        let Some(trusted_before) = self.trusted_before else { return false };
        // Every write moves the time of change; the time of modification can be set to anything, also to the future.
        let old_enough = now.ctime.or(now.mtime) < Some(trusted_before);
        let same = (now.size, now.mtime, now.ctime) == (before.size, before.mtime, before.ctime);
        old_enough && same && before.content.references().iter().all(|reference| self.shared.is_present(reference))
    }

    /// Takes results until at most `keep` files are left waiting.
    fn drain(
        &mut self,
        frames: &mut [Frame],
        waiting: &mut std::collections::VecDeque<Pending>,
        path: &TreePath,
        keep: usize,
    ) -> Result<(), BackupError> {
        while waiting.len() > keep {
            let Some(pending) = waiting.pop_front() else { break };
            let Some(frame) = frames.last_mut() else { break };
            let entry = match pending {
                Pending::Ready(entry) => Some(*entry),
                Pending::Reading { entry, results, had_parent } => self.take_file(*entry, &results, had_parent, path)?,
            };
            let Some(entry) = entry else { continue };
            self.progress.entry_count += 1;
            self.observer.progress(&self.progress);
            if entry.kind == EntryKind::File {
                self.stats.file_count += 1;
                self.stats.byte_count += entry.size;
            }
            self.rely_on(entry.content.references());
            self.note_attributes(&entry);
            let links = entry.link_group.map(|group| (0, group)).into_iter().collect();
            frame.children.push(Built { entry, links });
        }
        Ok(())
    }

    /// Places the chunks of a file as they come; `None` if it could not be read.
    fn take_file(
        &mut self,
        mut entry: Entry,
        results: &Receiver<Piece>,
        had_parent: bool,
        path: &TreePath,
    ) -> Result<Option<Entry>, BackupError> {
        let mut list = ListBuilder::default();
        let packer = &mut self.packer;
        for piece in results {
            let result = match piece {
                Piece::Chunk(sealed) => {
                    let reference = packer.place(sealed)?;
                    self.progress.byte_count += u64::from(reference.plain_len);
                    self.relied_on.insert(reference.pack);
                    list.push(reference, &mut |list| packer.put(RecordKind::List, &list.encode()))?;
                    continue;
                }
                Piece::End(result) => result?,
            };
            let place = entry.name.clone().map_or_else(|| path.clone(), |name| path.join(name));
            match result {
                FileResult::Read { size, sparse, file_hash, block_size, changed } => {
                    entry.content = list.finish(&mut |list| packer.put(RecordKind::List, &list.encode()))?;
                    (entry.size, entry.sparse, entry.file_hash, entry.block_size) = (size, sparse, Some(file_hash), block_size);
                    let count = if had_parent { &mut self.stats.changed_count } else { &mut self.stats.new_count };
                    *count += 1;
                    if changed {
                        self.stats.failed_count += 1;
                        self.finding(Finding::at(
                            Severity::Warning,
                            place,
                            "it changed while it was read: this version may mix two states",
                        ));
                    }
                    return Ok(Some(entry));
                }
                FileResult::Failed(error) => {
                    self.stats.failed_count += 1;
                    self.finding(Finding::at(Severity::Warning, place, error.to_string()));
                    return Ok(None);
                }
            }
        }
        Err(BackupError::Cancelled)
    }

    /// Writes the pages of a finished directory, or takes those of the parent snapshot if nothing in it changed.
    fn leave(&mut self, frame: Frame) -> Result<Built, BackupError> {
        let Frame { mut entry, mut children, parent, parent_page } = frame;
        self.note_attributes(&entry);
        for (_, value) in &mut entry.xattrs {
            store_long_value(&mut self.packer, value)?;
        }
        children.sort_by(|a, b| a.entry.name.cmp(&b.entry.name));
        let mut subtree = Subtree::EMPTY;
        let mut links = Vec::new();
        for child in &children {
            links.extend(child.links.iter().map(|(offset, group)| (subtree.position_count + offset, *group)));
            subtree.position_count += child.entry.position_count();
            match &child.entry.subtree {
                Some(below) => {
                    subtree.directory_count += 1;
                    subtree.byte_count += below.byte_count;
                    subtree.file_count += below.file_count;
                }
                None => {
                    subtree.byte_count += if child.entry.kind == EntryKind::File { child.entry.size } else { 0 };
                    subtree.file_count += 1;
                }
            }
        }
        let entries: Vec<_> = children.into_iter().map(|child| child.entry).collect();
        let same = entries.len() == parent.len() && entries.iter().all(|e| e.name.as_ref().and_then(|name| parent.get(name)) == Some(e));
        subtree.page = match parent_page.filter(|page| same && self.shared.is_present(page)) {
            Some(page) => Some(page),
            None => self.write_pages(entries)?,
        };
        self.rely_on(subtree.page.as_slice());
        entry.subtree = Some(subtree);
        Ok(Built { entry, links })
    }

    fn write_pages(&mut self, entries: Vec<Entry>) -> Result<Option<Reference>, BackupError> {
        let id_tree = self.shared.repository().ring().current().id_tree.clone();
        let splits = |name: &[u8]| {
            let [low, high, ..] = crypto::keyed_hash(&id_tree, &[name]);
            u16::from_le_bytes([low, high]).is_multiple_of(2048)
        };
        let packer = &mut self.packer;
        Ok(page::build(entries, &splits, &mut |page| packer.put(RecordKind::Tree, &page.encode()))?)
    }

    fn rely_on(&mut self, references: &[Reference]) {
        self.relied_on.extend(references.iter().map(|reference| reference.pack));
    }

    fn note_attributes(&mut self, entry: &Entry) {
        self.attribute_names = self.attribute_names.take().and_then(|names| names.with(entry));
    }

    fn finding(&mut self, finding: Finding) {
        self.observer.finding(&finding);
        if self.findings.len() < FINDINGS_KEPT {
            self.findings.push(finding);
        }
    }
}

/// A long attribute value becomes a data record.
fn store_long_value(packer: &mut Packer, value: &mut Value) -> Result<(), PackError> {
    if let Value::Inline(bytes) = value
        && bytes.len() > XATTR_INLINE_MAX
    {
        let size = bytes.len() as u64;
        let content = Content::Inline(vec![packer.put(RecordKind::Data, bytes)?]);
        *value = Value::Stored { size, content };
    }
    Ok(())
}

fn write_links(packer: &mut Packer, links: &[(u64, u64)]) -> Result<Vec<(u64, Reference)>, BackupError> {
    let mut groups: HashMap<u64, (u64, u64)> = HashMap::new();
    for (offset, group) in links {
        let position = ROOT_POSITION + offset;
        let (leader, count) = groups.entry(*group).or_insert((position, 0));
        *leader = (*leader).min(position);
        *count += 1;
    }
    let row = |(offset, group): &(u64, u64)| {
        let (leader, link_count) = *groups.get(group)?;
        (link_count > 1).then_some(LinkRow { position: ROOT_POSITION + offset, leader, link_count })
    };
    let mut rows: Vec<_> = links.iter().filter_map(row).collect();
    rows.sort_by_key(|row| row.position);
    let records = rows.chunks(LINK_ROWS_MAX).filter_map(|rows| Some((rows.first()?.position, rows)));
    records.map(|(first, rows)| Ok((first, packer.put(RecordKind::Table, &encode_links(rows))?))).collect()
}

fn write_findings(packer: &mut Packer, findings: &[Finding]) -> Result<Vec<Reference>, BackupError> {
    findings.chunks(FINDINGS_MAX).map(|findings| Ok(packer.put(RecordKind::Table, &encode_findings(findings))?)).collect()
}
