//! `backup()`: a source becomes a snapshot. Readable from top to bottom: walk, read and seal, pack, commit.
//!
//! One thread walks the source in pack order, several read files and seal their chunks, and the calling thread takes the results in order, fills
//! packs and writes trees. All queues are bounded; order is kept because every file has a queue of its own, and files are begun in order.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::bounded;
use fs_core::chunker::Chunker;
use fs_core::compress::Compression;
use fs_core::config::Closing;
use fs_core::crypto;
use fs_core::id::{DeviceId, ObjectHash, PackId, SnapshotId};
use fs_core::object::{self, ObjectError, ObjectKind, Signer};
use fs_core::observer::Observer;
use fs_core::path::{Name, display};
use fs_core::record::{RecordKind, Reference};
use fs_core::report::{Finding, Place, Severity, Stats};
use fs_core::repository::{ReadError, Repository, RepositoryError, Snapshots};
use fs_core::snapshot::attributes::AttributeNames;
use fs_core::snapshot::codec::Seal;
use fs_core::snapshot::{Head, Manifest, Snapshot, SourcePath};
use fs_core::storage::{StoreError, WriteStore};
use fs_core::tree::codec::{FINDINGS_MAX, LINK_ROWS_MAX, encode_findings, encode_links};
use fs_core::tree::{Entry, LinkRow, ROOT_POSITION};

use crate::changes::{ChangeList, Spool};
use crate::create::put_hashed;
use crate::device::{self, DeviceError};
use crate::pace::Pace;
use crate::packer::{PackError, Packer, Shared, Stage, StageTimes, Written};
use crate::pause::Pauses;
use crate::source::rules::Rules;
use crate::source::stream::{Stream, StreamError};
use crate::source::{LiveTree, SourceError};
use crate::state::FileStates;

mod again;
mod ahead;
mod before;
mod blocks;
mod changes;
mod checkpoint;
mod collect;
mod dry;
mod fingerprint;
mod group;
mod named;
mod pulse;
mod read;
mod scan;
mod seal;
mod sieve;
mod start;
mod unchanged;
mod walk;
pub(crate) mod window;

pub use again::{Again, Known};
use ahead::Ahead;
use changes::{Changes, Told};
use collect::{Built, Collector, Jobs};
pub use dry::{DryRun, dry_run};
use group::Groups;
use named::Named;
use read::{FileJob, FileReader};
use seal::Sealer;
use start::Start;
use unchanged::Unchanged;
use walk::{Ground, Step};
use window::Window;

/// Longest set that is named by its paths, in bytes.
const SET_LENGTH_MAX: usize = 120;
/// How often a run begins because something that it relied on is gone at its end.
const STARTS_MAX: usize = 3;

/// What to back up and how.
#[derive(Clone, Debug)]
pub struct BackupOptions {
    /// Paths to save.
    pub paths: Vec<PathBuf>,
    /// Where the snapshot shows them: one for each path, or none to show them where they are.
    pub shown_as: Vec<PathBuf>,
    /// Block devices, or files in their place, to save as files.
    pub devices: Vec<PathBuf>,
    /// Files that stand in no file system.
    pub streams: Vec<Stream>,
    /// Host name under which the snapshot is filed.
    pub host: String,
    /// Set; empty for the host's default set, `None` for one of its own for each list of paths.
    pub set: Option<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// What is left out.
    pub rules: Rules,
    /// Paths that are never entered: repository, cache, mount points.
    pub never: Vec<PathBuf>,
    /// This repository's local state folder; `None` to keep nothing locally.
    pub state: Option<PathBuf>,
    /// Whether others go first: what is read is not kept in the system's cache, where the system can do that.
    pub gentle: bool,
    /// Read drives from shadow copies, which hold also what other programs have open, where this program may make some (Windows).
    pub shadow_copies: bool,
    /// Whether all files are read even if they look unchanged.
    pub reread: bool,
    /// How hard contents are compressed.
    pub compression: Compression,
    /// Hours in which nothing is read or sent.
    pub pauses: Pauses,
    /// Offset of local time from UTC, in minutes.
    pub utc_offset_minutes: i32,
    /// What stands in the manifest as the tool.
    pub tool_version: String,
    /// Whether the list of changes is kept on this machine until the report is dropped, for those who write it down at once. It can be had from the snapshot too.
    pub keep_changes: bool,
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
    /// The manifest, as it was committed: what was saved, when, and the head of the device's chain.
    pub manifest: Manifest,
    /// Busy times of its threads.
    pub times: StageTimes,
    /// What became of each entry.
    pub changes: Option<Arc<ChangeList>>,
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
    /// Nothing is saved any more into a repository that ends.
    #[error("this repository was closed on {}: nothing is saved into it any more", .closing.since)]
    Closed {
        /// Since when, until when.
        closing: Closing,
    },
    /// Nothing to save was named.
    #[error("no path to back up was given")]
    Nothing,
    /// A device cannot be read.
    #[error("{} cannot be backed up as a device", .path.display())]
    BlockDevice {
        /// The device.
        path: PathBuf,
        /// Why.
        #[source]
        source: SourceError,
    },
    /// Places to show paths at, but not one for each.
    #[error("{paths} paths cannot be shown at {places} places: name one for each")]
    ShownAs {
        /// Number of paths.
        paths: usize,
        /// Number of places.
        places: usize,
    },
    /// One place in the snapshot would hold two things.
    #[error("{} cannot stand in one snapshot with {}: take another one of it", .inner.display(), .outer.display())]
    Inside {
        /// What is shown inside.
        inner: PathBuf,
        /// What it is inside of.
        outer: PathBuf,
    },
    /// Names of snapshots have ten digits.
    #[error(
        "snapshot {snapshot} of this device has the last number there is: remove the file 'device' in this repository's local folder, and the next run enrols a new device"
    )]
    NoNumberLeft {
        /// The beginning of its id.
        snapshot: String,
    },
    /// Two streams have one name.
    #[error("two things to save are named {name}")]
    Twice {
        /// The name.
        name: Name,
    },
    /// A stream is not complete.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The observer cancelled.
    #[error("the backup was interrupted; {kept_bytes} bytes are kept and the next run goes on from there")]
    Cancelled {
        /// Bytes of this run that the store has taken.
        kept_bytes: u64,
    },
    /// The store cannot be looked at within the commit window.
    #[error("looking at the store took longer than {} minutes again and again", window::COMMIT_WINDOW.as_secs() / 60)]
    Overdue,
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
    Pack(PackError),
    /// The manifest or seal could not be put.
    #[error("the snapshot could not be committed")]
    Store(#[from] StoreError),
    /// The key's role does not allow it.
    #[error("this key may not write")]
    Key(#[from] ObjectError),
}

impl From<PackError> for BackupError {
    fn from(error: PackError) -> Self {
        if matches!(error, PackError::Stopped) { Self::Cancelled { kept_bytes: 0 } } else { Self::Pack(error) }
    }
}

/// Takes a snapshot. If something that it relies on vanishes while it runs, it begins anew with what is there then.
///
/// # Errors
/// [`BackupError`]: then there is no new sealed snapshot, and nothing that was there before has changed. Files that cannot be read are findings.
pub fn backup(
    repository: &Arc<Repository>,
    store: &Arc<dyn WriteStore>,
    options: &BackupOptions,
    observer: &dyn Observer,
) -> Result<BackupReport, BackupError> {
    run(repository, store, (options, None), observer)
}

/// Saves a snapshot of another repository as one of this, with all that it says of its source. Of the options count the host, the set, the tags, the state
/// folder, compression, pauses, offset and tool; paths and rules do not.
///
/// # Errors
/// Those of [`backup`], and [`PackError::Original`] if the other repository does not answer. What is damaged there is a finding.
pub fn backup_again(
    repository: &Arc<Repository>,
    store: &Arc<dyn WriteStore>,
    (options, again): (&BackupOptions, &Again<'_>),
    observer: &dyn Observer,
) -> Result<BackupReport, BackupError> {
    run(repository, store, (options, Some(again)), observer)
}

fn run(
    repository: &Arc<Repository>,
    store: &Arc<dyn WriteStore>,
    what: (&BackupOptions, Option<&Again<'_>>),
    observer: &dyn Observer,
) -> Result<BackupReport, BackupError> {
    let options = what.0;
    let pace = Arc::new(Pace::new(options.pauses.clone(), Arc::clone(repository.clock())));
    // What comes through a pipe comes once.
    let starts = if options.streams.iter().any(Stream::is_open) { 1 } else { STARTS_MAX };
    let mut lost = Vec::new();
    pace.watched(observer, || {
        loop {
            match take(repository, store, what, (observer, &pace)) {
                Err(BackupError::Pack(PackError::Vanished { pack })) if lost.len() + 1 < starts => {
                    tracing::warn!(%pack, "a pack vanished from the repository while the backup ran: it begins anew");
                    let message =
                        "it vanished from the repository while the backup ran, or a prune condemned it; what it held was saved again";
                    lost.push(Finding::object(Severity::Note, pack.to_string(), message));
                }
                Ok(mut report) => {
                    report.findings.append(&mut lost);
                    return Ok(report);
                }
                error => return error,
            }
        }
    })
}

fn take(
    repository: &Arc<Repository>,
    store: &Arc<dyn WriteStore>,
    (options, again): (&BackupOptions, Option<&Again<'_>>),
    (observer, pace): (&dyn Observer, &Arc<Pace>),
) -> Result<BackupReport, BackupError> {
    if !pace.pass() {
        return Err(BackupError::Cancelled { kept_bytes: 0 });
    }
    if let Some(closing) = repository.config().closing {
        return Err(BackupError::Closed { closing });
    }
    let begun = match again {
        None => (repository.clock().now(), Named::of(options)?),
        Some(again) => (again.started(), Named::default()),
    };
    let machine = again.map_or(options.host.as_str(), |again| again.machine);
    let signer = device::open(repository, &**store, options.state.as_deref(), machine)?;
    let mut window = Window::open(repository, &**store)?;
    let start = Start::look(repository, (options, again), begun, (Some(signer.device), Arc::clone(pace), open_states))?;
    let (sequence, previous) = start.number(signer.device)?;
    let shared = Arc::clone(&start.shared);
    let packer = Packer::new(Arc::clone(&shared), Arc::clone(store), signer.clone());
    let mut collector = start.collector(packer, observer);
    // What the original's run met belongs to what the snapshot says, and not to what this run did.
    collector.findings = again.map_or_else(|| Ok(Vec::new()), Again::findings)?;
    let told_before = collector.findings.len();
    let Gathered { root, tables, attribute_names, stats, mut findings, written } =
        gather(&shared, &start.ground(), options, collector, start.states.as_ref())?;
    findings.drain(..told_before);
    let Tables { told, link_table, finding_list } = tables;
    let snapshots = &start.snapshots;
    let manifest = Manifest {
        device: signer.device,
        sequence,
        previous,
        heads: heads(snapshots, &signer),
        started: start.started,
        ended: repository.clock().now(),
        server_time: None,
        host: options.host.clone(),
        set: start.set,
        sources: start.named.sources().into_iter().map(|path| SourcePath { path, case_insensitive: !crate::system::HAS_CASE }).collect(),
        tags: options.tags.clone(),
        root,
        link_table,
        stats,
        findings: finding_list,
        tool_version: options.tool_version.clone(),
        parent: start.parent.as_ref().map(|(id, _)| *id),
        utc_offset_minutes: options.utc_offset_minutes,
        attribute_names,
        changes: told.records,
        original: None,
    };
    let manifest = if let Some(again) = again { again.date(manifest) } else { manifest };
    let snapshot = shared.busy(Stage::Commit, || commit(&mut window, &signer, manifest, &written.relied_on));
    // All packs are put: what was noted is true also if there is no snapshot.
    if let Some(Err(error)) = start.states.map(FileStates::commit) {
        tracing::warn!(%error, "what was seen of the files cannot be kept: the next run reads more");
    }
    let (snapshot, manifest) = snapshot?;
    repository.keep_snapshot(&snapshot, &manifest);
    findings.extend(start.snapshots.findings.iter().filter(|finding| finding.place == Place::Operation).cloned());
    findings.extend(roll_up(repository, &**store, &signer).err().as_ref().map(not_rolled_up));
    let changes = told.spool.map(ChangeList::Spooled).or_else(|| ChangeList::of(&manifest)).map(Arc::new);
    Ok(BackupReport { snapshot, parent: manifest.parent, stats, findings, times: shared.stages().times(), changes, manifest })
}

/// All that a manifest says of a source, with its packs put.
struct Gathered {
    root: Entry,
    tables: Tables,
    attribute_names: Option<AttributeNames>,
    stats: Stats,
    findings: Vec<Finding>,
    written: Written,
}

/// What stands beside a tree, in records of its own.
struct Tables {
    told: Told,
    link_table: Vec<(u64, Reference)>,
    finding_list: Vec<Reference>,
}

/// Reads the source and puts what is new of it. If it ends early, what is put is kept for the next run.
fn gather(
    shared: &Arc<Shared>,
    ground: &Ground<'_>,
    options: &BackupOptions,
    mut collector: Collector<'_>,
    states: Option<&FileStates>,
) -> Result<Gathered, BackupError> {
    let pulse = collector.pulse;
    let root = run_pipeline(shared, ground, options, &mut collector).and_then(|root| pulse.check().map(|()| root));
    let Collector { mut packer, changes, mut stats, findings, attribute_names, mut checkpoints, .. } = collector;
    let root = match root {
        Ok(root) => root,
        Err(error) => return Err(checkpoints.give_up(error, packer, states, pulse)),
    };
    let last = || -> Result<_, BackupError> {
        let tables = put_tables(&mut packer, changes, &root.links, &findings, &mut stats)?;
        checkpoints.look(&packer);
        Ok((tables, packer.finish()?))
    };
    let (tables, written) = last().map_err(|error| checkpoints.ended_late(error, states))?;
    written.count(&mut stats);
    Ok(Gathered { root: root.entry, tables, attribute_names, stats, findings, written })
}

/// Writes what is known only when all was gathered.
fn put_tables(
    packer: &mut Packer,
    changes: Changes,
    links: &[(u64, u64)],
    findings: &[Finding],
    stats: &mut Stats,
) -> Result<Tables, BackupError> {
    let told = changes.finish(packer, stats)?;
    Ok(Tables { told, link_table: write_links(packer, links)?, finding_list: write_findings(packer, findings)? })
}

impl BackupOptions {
    /// Where the list of changes is kept, if it is. Without room for it there is a snapshot all the same.
    fn spool(&self) -> Option<Spool> {
        let made = self.keep_changes.then(Spool::new)?;
        made.inspect_err(|error| tracing::warn!(%error, "the list of changes cannot be kept on this machine")).ok()
    }
}

fn not_rolled_up(error: &BackupError) -> Finding {
    let message = format!("the catalogue of snapshots could not be written, the next backup tries again: {error}");
    Finding { severity: Severity::Note, place: Place::Operation, message }
}

/// From time to time a backup writes a catalogue, so that whoever opens the repository need not read every manifest.
fn roll_up(repository: &Repository, store: &dyn WriteStore, signer: &Signer) -> Result<(), BackupError> {
    if !repository.is_roll_up_due(1) {
        return Ok(());
    }
    if let Some(catalogue) = repository.roll_up()? {
        let object = catalogue.encode_object(repository.ring(), signer, &**repository.random())?;
        let hash = put_hashed(store, object, |hash| object::hashed_name(ObjectKind::Catalogue, hash))?;
        repository.rolled_up(hash, &catalogue);
    }
    Ok(())
}

/// Without what this machine knew, unchanged files are recognised by the parent snapshot.
fn open_states(folder: &Path, repository: &Repository) -> Option<FileStates> {
    FileStates::open(folder, repository).inspect_err(|error| tracing::warn!(%error, "what this machine knew of its files is not used")).ok()
}

/// Manifest, second look, seal: only then it is a success.
fn commit(
    window: &mut Window<'_>,
    signer: &Signer,
    mut manifest: Manifest,
    relied_on: &HashSet<PackId>,
) -> Result<(SnapshotId, Manifest), BackupError> {
    let (repository, store) = (window.repository, window.store);
    let random = &**repository.random();
    let name = |kind| move |hash: &ObjectHash| object::sequence_name(kind, &signer.device, manifest.sequence, hash);
    manifest.server_time = window.before_manifest(relied_on)?;
    let object = manifest.encode_object(repository.ring(), signer, random)?;
    let id = SnapshotId::from(put_hashed(store, object, name(ObjectKind::Manifest))?);
    window.look(relied_on)?;
    let seal = Seal { device: manifest.device, sequence: manifest.sequence, manifest: id, time: repository.clock().now() };
    put_hashed(store, seal.encode_object(repository.ring(), signer, random), name(ObjectKind::Seal))?;
    Ok((id, manifest))
}

/// The set of a list of paths: the host's default set for the list that it has held so far, one named by its paths for every other. So an hourly run
/// for `/home` and a nightly one for `/etc` never look like each other's deletions.
fn set_of_paths(snapshots: &Snapshots, host: &str, paths: &[Vec<u8>]) -> Result<String, ReadError> {
    // Forgotten ones count: they may come back, and with them what the default set held.
    let of_default_set = snapshots.all().filter(|s| s.host() == host && s.set().is_empty());
    let in_default_set = of_default_set.max_by_key(|s| (s.started(), s.id)).map(Snapshot::manifest).transpose()?;
    let is_same = |manifest: Manifest| manifest.sources.iter().map(|source| &source.path).eq(paths);
    if in_default_set.is_none_or(is_same) {
        return Ok(String::new());
    }
    let name = |path: &Vec<u8>| display(path).trim_matches('/').replace('/', "-");
    let mut set = paths.iter().map(name).collect::<Vec<_>>().join("+");
    if set.len() > SET_LENGTH_MAX {
        let mut hash = fs_core::id::to_hex(&crypto::hash(set.as_bytes()));
        hash.truncate(16);
        set = format!("{}…{hash}", set.chars().take(SET_LENGTH_MAX / 4).collect::<String>());
    }
    Ok(set)
}

/// The newest sealed snapshot of this device and set, or else of this host and set.
fn find_parent<'a>(snapshots: &'a [Snapshot], (host, set): (&str, &str), device: Option<DeviceId>) -> Option<&'a Snapshot> {
    let fits = |s: &&Snapshot| s.sealed && s.host() == host && s.set() == set;
    let newest = |own: bool| snapshots.iter().filter(fits).rfind(|s| !own || Some(s.device()) == device);
    newest(true).or_else(|| newest(false))
}

/// What the device has seen of the others.
fn heads(snapshots: &Snapshots, signer: &Signer) -> Vec<Head> {
    snapshots.heads.values().filter(|head| head.device != signer.device).cloned().collect()
}

/// Runs the walk, the readers and the collector until the walk is done.
fn run_pipeline(
    shared: &Arc<Shared>,
    ground: &Ground<'_>,
    options: &BackupOptions,
    collector: &mut Collector<'_>,
) -> Result<Built, BackupError> {
    let (mut source, compression) = (LiveTree::new(options.gentle), options.compression);
    let (_still, unchanged) = match ground {
        Ground::Live(walk) => {
            let (still, told) = source.hold_still(&walk.named.read_paths(), options.shadow_copies);
            told.into_iter().for_each(|told| collector.tell(told));
            (Some(still), Unchanged::look(shared, options, (walk, &source), collector.pulse.observer))
        }
        Ground::Saved(_) => (None, None),
    };
    let chunker = shared.repository().ring().current().chunker.as_ref().map(|key| Chunker::new(key, shared.repository().config().chunks));
    let chunker = chunker.ok_or(ObjectError::NotAllowed)?;
    let ahead = Ahead::allowed();
    let (steps, to_collect) = bounded::<Vec<Step>>(ahead.steps / ahead.batch);
    // As many as are begun: handing one over never waits for readers that wait for what they have read to be taken.
    let (files, to_read) = bounded::<FileJob>(ahead.entries);
    let (groups, groups_to_read) = bounded(ahead.entries);
    let reader_count = crate::worker_count();
    let (bench, idle) = seal::bench(reader_count);
    thread::scope(|scope| {
        for _ in 0..reader_count {
            let (source, bench) = (&source, bench.clone());
            let sealer = || Sealer::new(shared, compression);
            let reader = || FileReader::new(&chunker, sealer(), idle.clone());
            let (to_read, groups_to_read) = (to_read.clone(), groups_to_read.clone());
            let (of_files, of_groups, mut sealer) = (reader(), reader(), sealer());
            scope.spawn(move || read::serve(&to_read, source, of_files));
            // A reader of large files may wait until they are wanted: small ones have readers of their own.
            scope.spawn(move || group::serve(&groups_to_read, source, of_groups));
            scope.spawn(move || sealer.serve(&bench));
        }
        drop((to_read, groups_to_read, bench, idle));
        let (source, steps) = (&source, steps);
        // Owned by the walk: it is closed when that is done, and what was noted can be kept.
        scope.spawn(move || ground.run(shared, (source, unchanged.as_ref()), (&steps, ahead.batch)));
        // Dropped at the end whatever happens, so that walk and readers end too.
        let result = collector.collect(&to_collect, Jobs { files, groups: Groups::new(groups), ahead });
        drop(to_collect);
        result
    })
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
