//! The collector: takes the steps of the walk in order, decides what has to be read, and builds trees from the bottom up.
//!
//! It runs on the calling thread. Files are handed to the readers a bounded number of steps before their results are taken, so that packs
//! hold them in the order of the walk and the readers have work also where a directory ends.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use fs_core::crypto;
use fs_core::id::PackId;
use fs_core::observer::{Observer, Progress};
use fs_core::path::TreePath;
use fs_core::record::{RecordKind, Reference};
use fs_core::report::{Finding, Severity, Stats};
use fs_core::snapshot::attributes::AttributeNames;
use fs_core::time::Timestamp;
use fs_core::tree::list::ListBuilder;
use fs_core::tree::page::{self, Found};
use fs_core::tree::{Content, Entry, EntryKind, List, Subtree};

use super::before::{Before, BeforeDirectory, Seen};
use super::fingerprint::Fingerprint;
use super::read::{FileJob, FileResult, Origin, PIECES_AHEAD, Piece};
use super::unchanged::Sum;
use super::walk::Step;
use super::{BackupError, STEPS_AHEAD};
use crate::packer::{PackError, Packer, Shared};
use crate::parent::{FileState, is_settled};
use crate::source;
use crate::state::{DirectoryBuilder, FileStates, Summary};

/// Findings kept in memory and in the snapshot; more are only counted.
const FINDINGS_KEPT: usize = 100_000;

/// Devices are cut like disk images.
const DEVICE_NAME: &[u8] = b"device.img";
/// A stream is cut as if it had this size: its own is known too late.
const STREAM_SIZE: u64 = 1 << 30;

/// A finished directory: its entry and its hard-linked entries by position relative to it.
pub(super) struct Built {
    pub entry: Entry,
    pub links: Vec<(u64, u64)>,
    /// What the directory above sums up.
    sum: Option<Box<Sum>>,
}

/// A directory that the walk is in.
struct Lead {
    path: TreePath,
    before: BeforeDirectory,
}

/// A directory that is being gathered, some steps behind the walk.
struct Frame {
    entry: Entry,
    /// What the parent snapshot has in its place.
    was: Option<Found>,
    path: TreePath,
    children: Vec<Built>,
    /// Children that are in the parent snapshot as they are now.
    same_count: usize,
    /// What this machine will know of its files.
    states: DirectoryBuilder,
    /// What it will know of the directory as a whole.
    sum: Sum,
}

/// What was met and is still to be gathered, in the order of the walk: files are read meanwhile.
enum Pending {
    Enter(Box<Frame>),
    /// An entry that is complete.
    Ready(Box<Ready>),
    Reading(Box<Reading>),
    Finding(Finding),
    Leave(Box<BeforeDirectory>, Option<Fingerprint>),
    /// A directory that is taken over, with what the parent snapshot has in its place.
    Same(Box<Summary>, Option<Found>),
}

struct Ready {
    entry: Entry,
    /// `None` if the next run must read it again.
    seen: Option<Seen>,
    was: Option<Found>,
}

/// A file that was handed to the readers.
struct Reading {
    entry: Entry,
    inode: Option<u64>,
    results: Receiver<Piece>,
    had_parent: bool,
    was: Option<Found>,
    /// It stands in no file system as a file, or its times say nothing: no later run may take it for unchanged.
    is_made: bool,
}

pub(super) struct Collector<'a> {
    shared: &'a Arc<Shared>,
    pub(super) packer: Packer,
    before: Before<'a>,
    began: Timestamp,
    observer: &'a dyn Observer,
    pub(super) stats: Stats,
    pub(super) findings: Vec<Finding>,
    /// Attributes of all entries so far; `None` once they are too many to list.
    pub(super) attribute_names: Option<AttributeNames>,
    progress: Progress,
}

impl<'a> Collector<'a> {
    pub(super) fn new(shared: &'a Arc<Shared>, packer: Packer, before: Before<'a>, began: Timestamp, observer: &'a dyn Observer) -> Self {
        Self {
            shared,
            packer,
            before,
            began,
            observer,
            stats: Stats::default(),
            findings: Vec::new(),
            attribute_names: Some(AttributeNames::default()),
            progress: Progress::default(),
        }
    }

    /// Takes the steps of the walk until it is done. Files are begun some steps before they are gathered, across the ends of directories, so that there is
    /// always something to read.
    pub(super) fn collect(&mut self, steps: &Receiver<Vec<Step>>, jobs: &Sender<FileJob>) -> Result<Built, BackupError> {
        let (mut leads, mut frames): (Vec<Lead>, Vec<Frame>) = (Vec::new(), Vec::new());
        let mut waiting: VecDeque<Pending> = VecDeque::new();
        for step in steps.iter().flatten() {
            if self.observer.is_cancelled() {
                return Err(BackupError::Cancelled);
            }
            // One after the other: a dump that waits for us holds locks in its database.
            let mut is_alone = false;
            let pending = match step {
                Step::Finding(finding) => Pending::Finding(finding),
                Step::Enter(entry) => {
                    let (lead, frame) = self.enter(*entry, leads.last_mut())?;
                    leads.push(lead);
                    Pending::Enter(Box::new(frame))
                }
                Step::Entry(child, directory) => {
                    let Some(lead) = leads.last_mut() else { continue };
                    self.begin(*child, directory, lead, jobs)?
                }
                Step::Made(entry, origin) => {
                    self.gather_all(&mut waiting, &mut frames, 0)?;
                    is_alone = true;
                    let Some(lead) = leads.last_mut() else { continue };
                    self.begin_made(*entry, origin, lead, jobs)?
                }
                Step::Leave(fingerprint) => {
                    let Some(lead) = leads.pop() else { continue };
                    Pending::Leave(Box::new(lead.before), fingerprint)
                }
                Step::Same(summary) => {
                    let (Some(lead), Some(name)) = (leads.last_mut(), &summary.entry.name) else { continue };
                    let was = self.before.entry(&mut lead.before, name, &lead.path)?;
                    Pending::Same(summary, was)
                }
            };
            waiting.push_back(pending);
            let keep = if leads.is_empty() || is_alone { 0 } else { STEPS_AHEAD / 2 };
            if let Some(root) = self.gather_all(&mut waiting, &mut frames, keep)? {
                return Ok(root);
            }
        }
        Err(BackupError::Cancelled)
    }

    /// Gathers until at most `keep` steps are left waiting. The root when that is complete.
    fn gather_all(&mut self, waiting: &mut VecDeque<Pending>, frames: &mut Vec<Frame>, keep: usize) -> Result<Option<Built>, BackupError> {
        while waiting.len() > keep {
            let Some(pending) = waiting.pop_front() else { break };
            let root = self.gather(pending, frames)?;
            if root.is_some() {
                return Ok(root);
            }
        }
        Ok(None)
    }

    fn enter(&mut self, entry: Entry, above: Option<&mut Lead>) -> Result<(Lead, Frame), BackupError> {
        let (mut path, mut was) = (TreePath::ROOT, None);
        if let (Some(above), Some(name)) = (above, &entry.name) {
            path = above.path.join(name.clone());
            was = self.before.entry(&mut above.before, name, &above.path)?;
        }
        let before = match (&was, &entry.name) {
            (_, None) => self.before.parent.map(|(root, _)| root),
            (was, Some(_)) => was.as_ref().map(Found::entry),
        };
        let before = self.before.directory(before, &path);
        let frame = Frame {
            entry,
            was,
            path: path.clone(),
            children: Vec::new(),
            same_count: 0,
            states: DirectoryBuilder::default(),
            sum: Sum::default(),
        };
        Ok((Lead { path, before }, frame))
    }

    /// Decides whether a file has to be read.
    fn begin(
        &mut self,
        child: source::Child,
        directory: source::Directory,
        lead: &mut Lead,
        jobs: &Sender<FileJob>,
    ) -> Result<Pending, BackupError> {
        let source::Child { mut entry, stamp, lasting_inode: inode, alias, .. } = child;
        let ready = |entry, seen, was| Ok(Pending::Ready(Box::new(Ready { entry, seen, was })));
        let Some(name) = entry.name.clone() else { return ready(entry, None, None) };
        let was = self.before.entry(&mut lead.before, &name, &lead.path)?;
        let before = was.as_ref().map(Found::entry).filter(|before| before.kind == entry.kind);
        if entry.kind != EntryKind::File {
            self.packer.put_values(&mut entry, before)?;
            self.stats.other_count += 1;
            return ready(entry, None, was);
        }
        let seen = self.before.unchanged(&entry, inode, before, &lead.before)?;
        match before.filter(|before| seen.is_some() && self.before.has_attributes(&entry, inode, before)) {
            Some(before) => entry.take_attributes(before),
            None => {
                directory.read_attributes(alias.as_ref().unwrap_or(&name).as_bytes(), &mut entry);
                self.packer.put_values(&mut entry, before)?;
            }
        }
        if let Some(seen) = seen {
            entry.take_content(&seen.state.entry);
            self.stats.unchanged_count += 1;
            return ready(entry, Some(seen), was);
        }
        let known = lead.before.known.as_ref().and_then(|known| known.get(&name));
        let last = before.or(known.as_ref().map(|known| &known.entry));
        // A file keeps the way in which it was cut.
        let block_size = match last {
            Some(last) => last.block_size,
            None => self.shared.repository().config().block_size(entry.name_bytes(), entry.size),
        };
        let origin = Origin::Listed { directory, name: alias.unwrap_or(name), stamp };
        let (results, had_parent) = (send(jobs, origin, block_size)?, last.is_some());
        Ok(Pending::Reading(Box::new(Reading { entry, inode, results, had_parent, is_made: false, was })))
    }

    /// What is no listed file is always read.
    fn begin_made(&mut self, entry: Entry, origin: Origin, lead: &mut Lead, jobs: &Sender<FileJob>) -> Result<Pending, BackupError> {
        let was = entry.name.as_ref().map(|name| self.before.entry(&mut lead.before, name, &lead.path)).transpose()?.flatten();
        let before = was.as_ref().map(Found::entry).filter(|before| before.kind == EntryKind::File);
        let config = self.shared.repository().config();
        let block_size = match (&origin, before) {
            (Origin::Device(_, size), _) => before.and_then(|before| before.block_size).or(config.block_size(DEVICE_NAME, *size)),
            (_, Some(before)) => before.block_size,
            (_, None) => config.block_size(entry.name_bytes(), STREAM_SIZE),
        };
        let (results, had_parent) = (send(jobs, origin, block_size)?, before.is_some());
        Ok(Pending::Reading(Box::new(Reading { entry, inode: None, results, had_parent, is_made: true, was })))
    }

    /// Gathers what comes next, and waits for it if it is still being read. The root when that is complete.
    fn gather(&mut self, pending: Pending, frames: &mut Vec<Frame>) -> Result<Option<Built>, BackupError> {
        let taken = match pending {
            Pending::Finding(finding) => {
                self.finding(finding);
                None
            }
            Pending::Enter(frame) => {
                self.stats.directory_count += 1;
                self.observer.at(&frame.path);
                frames.push(*frame);
                None
            }
            Pending::Ready(ready) => Some(*ready),
            Pending::Reading(reading) => {
                let Some(frame) = frames.last_mut() else { return Ok(None) };
                let taken = self.take_file(*reading, &frame.path)?;
                if taken.is_none() {
                    frame.sum.spoil();
                }
                taken
            }
            Pending::Same(summary, was) => {
                let Some(frame) = frames.last_mut() else { return Ok(None) };
                self.take_over(*summary, frame, was.as_ref());
                None
            }
            Pending::Leave(before, fingerprint) => {
                let Some(frame) = frames.pop() else { return Ok(None) };
                let (built, was) = self.leave(frame, *before, fingerprint)?;
                let Some(above) = frames.last_mut() else {
                    self.note_attributes(&built.entry);
                    return Ok(Some(built));
                };
                self.add(above, built, was.as_ref());
                None
            }
        };
        let (Some(Ready { entry, seen, was }), Some(frame)) = (taken, frames.last_mut()) else { return Ok(None) };
        self.progress.entry_count += 1;
        self.observer.progress(&self.progress);
        if entry.kind == EntryKind::File {
            self.stats.file_count += 1;
            self.stats.byte_count += entry.size;
        }
        frame.sum.add(&entry, seen.as_ref().map(|seen| seen.state.packs()), self.began);
        if let Some(Seen { state, kept_at }) = seen {
            self.packer.rely_on(state.packs());
            match kept_at {
                Some(at) => frame.states.keep(at),
                None => frame.states.push(&state),
            }
        }
        let links = entry.link_group.map(|group| (0, group)).into_iter().collect();
        self.add(frame, Built { entry, links, sum: None }, was.as_ref());
        Ok(None)
    }

    /// Takes over a directory in which nothing has changed.
    fn take_over(&mut self, summary: Summary, frame: &mut Frame, was: Option<&Found>) {
        summary.count(&mut self.stats);
        self.progress.entry_count += summary.counts.files + summary.counts.others;
        self.observer.progress(&self.progress);
        self.packer.rely_on(summary.packs.iter().copied());
        frame.sum.add_summary(&summary);
        self.attribute_names = self.attribute_names.take().and_then(|mut names| {
            names.add(&summary.attributes.iter().cloned().collect());
            names.fits()
        });
        let Summary { entry, links, .. } = summary;
        self.add(frame, Built { entry, links, sum: None }, was);
    }

    fn add(&mut self, frame: &mut Frame, mut child: Built, was: Option<&Found>) {
        if let Some(sum) = child.sum.take() {
            frame.sum.add_below(*sum);
        }
        self.note_attributes(&child.entry);
        frame.same_count += usize::from(was.is_some_and(|was| *was.entry() == child.entry));
        frame.children.push(child);
    }

    /// Places the chunks of a file as they come; `None` if it could not be read.
    fn take_file(&mut self, reading: Reading, path: &TreePath) -> Result<Option<Ready>, BackupError> {
        let Reading { mut entry, inode, results, had_parent, is_made, was } = reading;
        let (mut chunk_packs, mut list_packs) = (HashSet::new(), Vec::new());
        let (mut list, packer) = (ListBuilder::default(), &mut self.packer);
        let mut put_list = |packer: &mut Packer, list: List| {
            let reference = packer.put(RecordKind::List, &list.encode());
            reference.inspect(|reference| list_packs.push(reference.pack))
        };
        for piece in &results {
            let result = match piece {
                Piece::Chunk(_) | Piece::Waiting if self.observer.is_cancelled() => return Err(BackupError::Cancelled),
                Piece::Chunk(sealed) => {
                    let reference = packer.place(sealed)?;
                    self.progress.byte_count += u64::from(reference.plain_len);
                    chunk_packs.insert(reference.pack);
                    list.push(reference, &mut |list| put_list(packer, list))?;
                    continue;
                }
                Piece::Waiting => continue,
                Piece::End(result) => result?,
            };
            let place = entry.name.clone().map_or_else(|| path.clone(), |name| path.join(name));
            match result {
                FileResult::Read { size, sparse, file_hash, block_size, changed, said } => {
                    entry.content = list.finish(&mut |list| put_list(packer, list))?;
                    (entry.size, entry.sparse, entry.file_hash, entry.block_size) = (size, sparse, file_hash, block_size);
                    let is_same = was.as_ref().is_some_and(|was| *was.entry() == entry);
                    let count = match (had_parent, is_same) {
                        (true, true) => &mut self.stats.unchanged_count,
                        (true, false) => &mut self.stats.changed_count,
                        (false, _) => &mut self.stats.new_count,
                    };
                    *count += 1;
                    if !said.is_empty() {
                        self.finding(Finding::at(Severity::Note, place.clone(), format!("its command said:\n{said}")));
                    }
                    if changed {
                        self.stats.failed_count += 1;
                        let message = "it changed while it was read: this version may mix two states";
                        self.finding(Finding::at(Severity::Warning, place, message));
                    }
                    let packs = match &entry.content {
                        Content::Inline(_) => Vec::new(),
                        Content::List { .. } => sorted(chunk_packs.into_iter().chain(list_packs)),
                    };
                    let is_kept = !changed && !is_made && is_settled(&entry, self.began);
                    let seen = is_kept.then(|| Seen { state: FileState::of(&entry, inode, packs), kept_at: None });
                    return Ok(Some(Ready { entry, seen, was }));
                }
                FileResult::Cut(error) => return Err(error.into()),
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
    fn leave(
        &mut self,
        frame: Frame,
        before: BeforeDirectory,
        fingerprint: Option<Fingerprint>,
    ) -> Result<(Built, Option<Found>), BackupError> {
        let Frame { mut entry, was, path, mut children, same_count, states, mut sum } = frame;
        self.note_states(states, &before, &path);
        let known = match &entry.name {
            Some(_) => was.as_ref().map(Found::entry),
            None => self.before.parent.map(|(root, _)| root),
        };
        self.packer.put_values(&mut entry, known)?;
        if let Some(damage) = before.damage.clone() {
            self.finding(damage);
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
        let same = if same_count == entries.len() { self.before.page(&before, same_count)? } else { None };
        subtree.page = match same {
            Some(page) => {
                self.packer.rely_on(before.packs.iter().copied());
                sum.close(&entry, before.packs, self.began);
                Some(page)
            }
            None => {
                let (page, packs) = self.write_pages(entries)?;
                sum.close(&entry, packs, self.began);
                page
            }
        };
        entry.subtree = Some(subtree);
        let summary = fingerprint.and_then(|fingerprint| Some((fingerprint, sum.summary(&entry, &links)?)));
        if let Some((fingerprint, summary)) = summary {
            self.note(|states| states.note_summary(&path, &fingerprint, &summary));
        }
        Ok((Built { entry, links, sum: Some(Box::new(sum)) }, was))
    }

    /// What cannot be noted is read again by the next run.
    fn note_states(&mut self, files: DirectoryBuilder, before: &BeforeDirectory, path: &TreePath) {
        if !files.is_empty() {
            self.note(|states| states.note(path, files, before.known.as_ref()));
        }
    }

    fn note(&mut self, note: impl FnOnce(&FileStates) -> rusqlite::Result<()>) {
        let Some(states) = self.before.states else { return };
        if let Err(error) = note(states) {
            tracing::warn!(%error, "what was seen of the files cannot be noted");
            self.before.states = None;
        }
    }

    /// The top page, and the packs of all.
    fn write_pages(&mut self, entries: Vec<Entry>) -> Result<(Option<Reference>, HashSet<PackId>), BackupError> {
        let id_tree = self.shared.repository().ring().current().id_tree.clone();
        let splits = |name: &[u8]| {
            let [low, high, ..] = crypto::keyed_hash(&id_tree, &[name]);
            u16::from_le_bytes([low, high]).is_multiple_of(2048)
        };
        let (packer, mut packs) = (&mut self.packer, HashSet::new());
        let top = page::build(entries, &splits, &mut |page| {
            let reference = packer.put(RecordKind::Tree, &page.encode())?;
            packs.insert(reference.pack);
            Ok::<_, PackError>(reference)
        })?;
        Ok((top, packs))
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

/// Hands a file to the readers.
fn send(jobs: &Sender<FileJob>, origin: Origin, block_size: Option<u32>) -> Result<Receiver<Piece>, BackupError> {
    let (results, receiver) = bounded(PIECES_AHEAD);
    jobs.send(FileJob { origin, block_size, results }).map_err(|_| BackupError::Cancelled)?;
    Ok(receiver)
}

fn sorted(packs: impl Iterator<Item = PackId>) -> Vec<PackId> {
    packs.collect::<BTreeSet<_>>().into_iter().collect()
}
