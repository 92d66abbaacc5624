//! The collector: takes the steps of the walk in order, decides what has to be read, and builds trees from the bottom up.
//!
//! It runs on the calling thread. Files are handed to the readers a bounded number of steps before their results are taken, so that packs
//! hold them in the order of the walk and the readers have work also where a directory ends.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use fs_core::crypto;
use fs_core::id::PackId;
use fs_core::object::ObjectError;
use fs_core::observer::{Observer, Progress};
use fs_core::path::{Name, TreePath};
use fs_core::record::{RecordKind, Reference};
use fs_core::report::{Finding, Severity, Stats};
use fs_core::snapshot::attributes::AttributeNames;
use fs_core::time::Timestamp;
use fs_core::tree::list::ListBuilder;
use fs_core::tree::page::{self, Found};
use fs_core::tree::{Content, Entry, EntryKind, List, Subtree};

use super::before::{Before, BeforeDirectory, Seen};
use super::changes::{Absent, Changes};
use super::checkpoint::{Checkpoints, Files};
use super::group::{Group, Groups, MemberResult};
use super::pulse::Pulse;
use super::read::{FileJob, FileResult, Origin, PIECES_AHEAD, Piece, Read};
use super::walk::Step;
use super::{BackupError, STEPS_AHEAD};
use crate::packer::{PackError, Packer, Shared};
use crate::parent::{FileState, is_settled};
use crate::source::{self, SourceError};

/// Findings kept in memory and in the snapshot; more are only counted.
const FINDINGS_KEPT: usize = 100_000;

/// Bytes that may be read ahead of what is gathered.
const BYTES_AHEAD: u64 = 64 << 20;
/// As large as a chunk may become.
const CHUNK_MAX: u64 = 1 << 20;

/// Devices are cut like disk images.
const DEVICE_NAME: &[u8] = b"device.img";
/// A stream is cut as if it had this size: its own is known too late.
const STREAM_SIZE: u64 = 1 << 30;

/// A finished directory: its entry and its hard-linked entries by position relative to it.
pub(super) struct Built {
    pub entry: Entry,
    pub links: Vec<(u64, u64)>,
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
    files: Files,
}

/// What was met and is still to be gathered, in the order of the walk: files are read meanwhile.
enum Pending {
    Enter(Box<Frame>),
    /// An entry that is complete.
    Ready(Box<Ready>),
    Reading(Box<Reading>),
    Finding(Finding),
    Absent(Absent),
    Leave(Box<BeforeDirectory>),
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
    results: Results,
    was: Option<Found>,
    /// It stands in no file system as a file, or its times say nothing: no later run may take it for unchanged.
    is_made: bool,
}

impl Pending {
    /// Whether it can be gathered without much waiting.
    fn is_there(&self) -> bool {
        match self {
            Self::Reading(reading) => match &reading.results {
                // A reader that waits for us must not, and the rest of a file of few chunks comes soon.
                Results::Pieces(pieces) => pieces.is_full() || reading.entry.size <= CHUNK_MAX && !pieces.is_empty(),
                Results::Group(group) => group.is_there(),
            },
            _ => true,
        }
    }
}

/// What is handed to the readers.
pub(super) struct Jobs {
    pub files: Sender<FileJob>,
    pub groups: Groups,
}

/// Where the result of a reader comes.
enum Results {
    /// Chunk by chunk.
    Pieces(Receiver<Piece>),
    /// With others.
    Group(Rc<Group>),
}

impl Reading {
    /// Bytes that may have been read of it and wait.
    fn bytes_ahead(&self) -> u64 {
        self.entry.size.min(PIECES_AHEAD as u64 * CHUNK_MAX)
    }

    fn place(&self, folder: &TreePath) -> TreePath {
        self.entry.name.clone().map_or_else(|| folder.clone(), |name| folder.join(name))
    }
}

pub(super) struct Collector<'a> {
    shared: &'a Arc<Shared>,
    pub(super) packer: Packer,
    before: Before<'a>,
    began: Timestamp,
    observer: &'a dyn Observer,
    pub(super) pulse: Pulse<'a>,
    pub(super) checkpoints: Checkpoints,
    pub(super) stats: Stats,
    pub(super) changes: Changes,
    pub(super) findings: Vec<Finding>,
    /// Attributes of all entries so far; `None` once they are too many to list.
    pub(super) attribute_names: Option<AttributeNames>,
    progress: Progress,
    /// Of what was begun and is not gathered.
    bytes_ahead: u64,
}

impl<'a> Collector<'a> {
    pub(super) fn new(
        shared: &'a Arc<Shared>,
        (packer, changes): (Packer, Changes),
        before: Before<'a>,
        began: Timestamp,
        observer: &'a dyn Observer,
    ) -> Self {
        Self {
            shared,
            packer,
            before,
            began,
            observer,
            pulse: Pulse { observer, pace: shared.pace() },
            checkpoints: Checkpoints::default(),
            stats: Stats::default(),
            changes,
            findings: Vec::new(),
            attribute_names: Some(AttributeNames::default()),
            progress: Progress::default(),
            bytes_ahead: 0,
        }
    }

    /// Takes the steps of the walk until it is done. Files are begun some steps before they are gathered, across the ends of directories, so that there is
    /// always something to read.
    pub(super) fn collect(&mut self, steps: &Receiver<Vec<Step>>, mut jobs: Jobs) -> Result<Built, BackupError> {
        let mut frames = Vec::new();
        let result = self.take_steps(steps, &mut jobs, &mut frames);
        if let Err(error) = &result {
            self.note_parts(&mut frames, matches!(error, BackupError::Cancelled { .. }));
        }
        result
    }

    fn take_steps(&mut self, steps: &Receiver<Vec<Step>>, jobs: &mut Jobs, frames: &mut Vec<Frame>) -> Result<Built, BackupError> {
        let (mut leads, mut waiting): (Vec<Lead>, VecDeque<Pending>) = Default::default();
        let mut batch = Vec::new().into_iter();
        loop {
            let Some(step) = batch.next() else {
                let Some(next) = self.pulse.next(steps)? else { break };
                batch = next.into_iter();
                continue;
            };
            self.pulse.check()?;
            // One after the other: a dump that waits for us holds locks in its database.
            let mut is_alone = false;
            let pending = match step {
                Step::Finding(finding) => Pending::Finding(finding),
                Step::Absent(absent) => Pending::Absent(absent),
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
                    self.gather_all(&mut waiting, (frames, jobs), 0)?;
                    is_alone = true;
                    let Some(lead) = leads.last_mut() else { continue };
                    self.begin_made(*entry, origin, lead, jobs)?
                }
                Step::Leave => {
                    let Some(lead) = leads.pop() else { continue };
                    Pending::Leave(Box::new(lead.before))
                }
            };
            waiting.push_back(pending);
            let keep = if leads.is_empty() || is_alone { 0 } else { STEPS_AHEAD / 2 };
            if let Some(root) = self.gather_all(&mut waiting, (frames, jobs), keep)? {
                return Ok(root);
            }
        }
        Err(BackupError::Cancelled { kept_bytes: 0 })
    }

    /// Gathers what is there, and waits for it while more than `keep` steps are waiting. The root when that is complete.
    fn gather_all(
        &mut self,
        waiting: &mut VecDeque<Pending>,
        (frames, jobs): (&mut Vec<Frame>, &mut Jobs),
        keep: usize,
    ) -> Result<Option<Built>, BackupError> {
        while let Some(next) = waiting.front() {
            let is_due = waiting.len() > keep || self.bytes_ahead > BYTES_AHEAD;
            if !is_due && !next.is_there() {
                break;
            }
            let Some(pending) = waiting.pop_front() else { break };
            let root = self.gather(pending, frames, jobs)?;
            if root.is_some() {
                return Ok(root);
            }
            if self.before.states.is_some() && self.checkpoints.is_due(&self.packer) {
                self.checkpoint(frames);
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
        let frame = Frame { entry, was, path: path.clone(), children: Vec::new(), same_count: 0, files: Files::default() };
        Ok((Lead { path, before }, frame))
    }

    /// Decides whether a file has to be read.
    fn begin(
        &mut self,
        child: source::Child,
        directory: source::Directory,
        lead: &mut Lead,
        jobs: &mut Jobs,
    ) -> Result<Pending, BackupError> {
        let source::Child { mut entry, stamp, lasting_inode: inode, alias } = child;
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
            return ready(entry, Some(seen), was);
        }
        let known = lead.before.known.as_ref().and_then(|known| known.get(&name));
        let last = before.or(known.as_ref().map(|known| &known.entry));
        // A file keeps the way in which it was cut.
        let block_size = match last {
            Some(last) => last.block_size,
            None => self.shared.repository().config().block_size(entry.name_bytes(), entry.size),
        };
        let name = alias.unwrap_or(name);
        let is_small = block_size.is_none() && entry.size <= self.shared.repository().config().chunks.small.into();
        let results = if is_small {
            Results::Group(jobs.groups.add(directory, name, stamp))
        } else {
            Results::Pieces(send(&jobs.files, Origin::Listed { directory, name, stamp }, block_size)?)
        };
        Ok(self.reading(Reading { entry, inode, results, is_made: false, was }))
    }

    /// What is no listed file is always read.
    fn begin_made(&mut self, entry: Entry, origin: Origin, lead: &mut Lead, jobs: &Jobs) -> Result<Pending, BackupError> {
        let was = entry.name.as_ref().map(|name| self.before.entry(&mut lead.before, name, &lead.path)).transpose()?.flatten();
        let before = was.as_ref().map(Found::entry).filter(|before| before.kind == EntryKind::File);
        let config = self.shared.repository().config();
        let block_size = match (&origin, before) {
            (Origin::Device(_, size), _) => before.and_then(|before| before.block_size).or(config.block_size(DEVICE_NAME, *size)),
            (_, Some(before)) => before.block_size,
            (_, None) => config.block_size(entry.name_bytes(), STREAM_SIZE),
        };
        let results = Results::Pieces(send(&jobs.files, origin, block_size)?);
        Ok(self.reading(Reading { entry, inode: None, results, is_made: true, was }))
    }

    fn reading(&mut self, reading: Reading) -> Pending {
        self.bytes_ahead += reading.bytes_ahead();
        Pending::Reading(Box::new(reading))
    }

    /// Gathers what comes next, and waits for it if it is still being read. The root when that is complete.
    fn gather(&mut self, pending: Pending, frames: &mut Vec<Frame>, jobs: &mut Jobs) -> Result<Option<Built>, BackupError> {
        let taken = match pending {
            Pending::Finding(finding) => {
                self.finding(finding);
                None
            }
            Pending::Absent(absent) => {
                self.changes.absent(absent);
                None
            }
            Pending::Enter(frame) => {
                self.stats.directory_count += 1;
                self.changes.enter();
                self.observer.at(&frame.path);
                frames.push(*frame);
                None
            }
            Pending::Ready(ready) => Some(*ready),
            Pending::Reading(reading) => {
                let Some(frame) = frames.last() else { return Ok(None) };
                self.take_file(*reading, &frame.path, &mut jobs.groups)?
            }
            Pending::Leave(before) => {
                let Some(frame) = frames.pop() else { return Ok(None) };
                let (built, was) = self.leave(frame, *before)?;
                let Some(above) = frames.last_mut() else {
                    self.note_attributes(&built.entry);
                    return Ok(Some(built));
                };
                self.add(above, built, was.as_ref())?;
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
        if let Some(Seen { state, kept_at }) = seen {
            self.packer.rely_on(state.packs());
            match kept_at {
                Some(at) => frame.files.rows.keep(at),
                None => frame.files.push(&state, |pack| self.shared.is_listed(pack)),
            }
        }
        let links = entry.link_group.map(|group| (0, group)).into_iter().collect();
        self.add(frame, Built { entry, links }, was.as_ref())?;
        Ok(None)
    }

    fn add(&mut self, frame: &mut Frame, child: Built, was: Option<&Found>) -> Result<(), BackupError> {
        self.note_attributes(&child.entry);
        let is_same = was.is_some_and(|was| *was.entry() == child.entry);
        self.changes.entry(&mut self.packer, &frame.path, &child.entry, (was.map(Found::entry), is_same))?;
        frame.same_count += usize::from(is_same);
        frame.children.push(child);
        Ok(())
    }

    /// Takes what the readers made of a file; `None` if it could not be read.
    fn take_file(&mut self, reading: Reading, path: &TreePath, groups: &mut Groups) -> Result<Option<Ready>, BackupError> {
        self.bytes_ahead -= reading.bytes_ahead();
        match &reading.results {
            Results::Pieces(pieces) => {
                let pieces = pieces.clone();
                self.take_pieces(reading, &pieces, path)
            }
            Results::Group(group) => {
                let group = Rc::clone(group);
                groups.want(&group);
                self.take_member(reading, &group, path)
            }
        }
    }

    /// Places the record of a group before its first file.
    fn take_member(&mut self, reading: Reading, group: &Rc<Group>, path: &TreePath) -> Result<Option<Ready>, BackupError> {
        let packer = &mut self.packer;
        let result = group.next(self.pulse, |record, parts| record.map_or(Ok(()), |record| packer.place_parts(record, parts).map(drop)))?;
        match result.ok_or(BackupError::Cancelled { kept_bytes: 0 })? {
            MemberResult::Alone(pieces) => self.take_pieces(reading, &pieces, path),
            MemberResult::Failed(error) => self.failed(&reading, path, &error),
            MemberResult::Read { size, file_hash, known, changed } => {
                self.progress.byte_count += size;
                self.stats.read_bytes += size;
                let content = match file_hash {
                    None => Content::EMPTY,
                    Some(hash) => {
                        // What is as it was stays where it was.
                        let was = reading.was.as_ref().map(|was| was.entry()).filter(|was| was.file_hash == file_hash && was.size == size);
                        let was = was.filter(|was| was.content.references().iter().all(|record| self.shared.is_listed(&record.pack)));
                        let was = was.map(|was| was.content.clone()).filter(|content| matches!(content, Content::Fragment { .. }));
                        match was.or(known) {
                            Some(content) => content,
                            None => {
                                self.shared.fragment(&hash)?.ok_or(PackError::Key(ObjectError::Broken("a small file was not placed")))?
                            }
                        }
                    }
                };
                self.packer.rely_on(content.references().iter().map(|record| record.pack));
                let read = Read { size, sparse: None, file_hash, block_size: None, changed, said: String::new() };
                self.took(reading, (content, Vec::new()), read, path)
            }
        }
    }

    /// Places the chunks of a file as they come.
    fn take_pieces(&mut self, reading: Reading, results: &Receiver<Piece>, path: &TreePath) -> Result<Option<Ready>, BackupError> {
        let (mut chunk_packs, mut list_packs) = (HashSet::new(), Vec::new());
        let (mut list, packer) = (ListBuilder::default(), &mut self.packer);
        let mut put_list = |packer: &mut Packer, list: List| {
            let reference = packer.put(RecordKind::List, &list.encode());
            reference.inspect(|reference| list_packs.push(reference.pack))
        };
        while let Some(piece) = self.pulse.next(results)? {
            let result = match piece {
                Piece::Chunk(sealed) => {
                    let reference = packer.place(sealed)?;
                    self.progress.byte_count += u64::from(reference.plain_len);
                    self.stats.read_bytes += u64::from(reference.plain_len);
                    chunk_packs.insert(reference.pack);
                    list.push(reference, &mut |list| put_list(packer, list))?;
                    continue;
                }
                Piece::Waiting => continue,
                Piece::End(result) => result?,
            };
            match result {
                FileResult::Read(read) => {
                    let content = list.finish(&mut |list| put_list(packer, list))?;
                    let packs = match &content {
                        Content::Inline(_) | Content::Fragment { .. } => Vec::new(),
                        Content::List { .. } => sorted(chunk_packs.into_iter().chain(list_packs)),
                    };
                    return self.took(reading, (content, packs), read, path);
                }
                FileResult::Cut(error) => return Err(error.into()),
                FileResult::Failed(error) => return self.failed(&reading, path, &error),
            }
        }
        Err(BackupError::Cancelled { kept_bytes: 0 })
    }

    /// A file is saved: `packs` are those that hold its content beside those that it names itself.
    fn took(
        &mut self,
        reading: Reading,
        (content, packs): (Content, Vec<PackId>),
        read: Read,
        path: &TreePath,
    ) -> Result<Option<Ready>, BackupError> {
        let place = reading.place(path);
        let Reading { mut entry, inode, is_made, was, .. } = reading;
        (entry.content, entry.size, entry.sparse) = (content, read.size, read.sparse);
        (entry.file_hash, entry.block_size) = (read.file_hash, read.block_size);
        if !read.said.is_empty() {
            self.finding(Finding::at(Severity::Note, place.clone(), format!("its command said:\n{}", read.said)));
        }
        if read.changed {
            self.changes.failed(&mut self.packer, path, &entry, was.as_ref().map(Found::entry))?;
            let message = "it changed while it was read: this version may mix two states";
            self.finding(Finding::at(Severity::Warning, place, message));
        }
        let is_kept = !read.changed && !is_made && is_settled(&entry, self.began);
        let seen = is_kept.then(|| Seen { state: FileState::of(&entry, inode, packs), kept_at: None });
        Ok(Some(Ready { entry, seen, was }))
    }

    fn failed(&mut self, reading: &Reading, path: &TreePath, error: &SourceError) -> Result<Option<Ready>, BackupError> {
        self.changes.lost(&mut self.packer, path, &reading.entry, reading.was.as_ref().map(Found::entry))?;
        self.finding(Finding::at(Severity::Warning, reading.place(path), error.to_string()));
        Ok(None)
    }

    /// Writes the pages of a finished directory, or takes those of the parent snapshot if nothing in it changed.
    fn leave(&mut self, frame: Frame, before: BeforeDirectory) -> Result<(Built, Option<Found>), BackupError> {
        let Frame { mut entry, was, path, mut children, same_count, files } = frame;
        self.note_files(files, &before, &path);
        let known = match &entry.name {
            Some(_) => was.as_ref().map(Found::entry),
            None => self.before.parent.map(|(root, _)| root),
        };
        self.packer.put_values(&mut entry, known)?;
        if let Some(damage) = before.damage.clone() {
            self.finding(damage);
        }
        children.sort_by(|a, b| a.entry.name.cmp(&b.entry.name));
        let same = if same_count == children.len() { self.before.page(&before, same_count)? } else { None };
        // Where nothing changed nothing is gone either.
        let was_below = known.filter(|_| same.is_none() && before.damage.is_none()).and_then(|known| known.subtree.as_ref());
        let is_met = |name: &Name| children.binary_search_by(|child| child.entry.name.as_ref().cmp(&Some(name))).is_ok();
        let gone = self.changes.leave(&mut self.packer, &path, was_below, &is_met)?;
        gone.into_iter().for_each(|finding| self.finding(finding));
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
        subtree.page = match same {
            Some(page) => {
                self.packer.rely_on(before.packs);
                Some(page)
            }
            None => self.write_pages(entries)?,
        };
        entry.subtree = Some(subtree);
        Ok((Built { entry, links }, was))
    }

    /// What cannot be noted is read again by the next run.
    fn note_files(&mut self, files: Files, before: &BeforeDirectory, path: &TreePath) {
        let Some(states) = self.before.states.filter(|_| !files.rows.is_empty()) else { return };
        let (new_count, packs) = (files.rows.new_count(), files.packs);
        let noted = states.note(path, files.rows, before.known.as_ref());
        if new_count > 0 {
            self.checkpoints.noted(path, packs);
        }
        self.forget_states_after(noted);
    }

    /// Keeps what may be kept by now, and notes what is new in the directories that are being gathered.
    fn checkpoint(&mut self, frames: &mut [Frame]) {
        let Some(states) = self.before.states else { return };
        let kept = self.checkpoints.keep(states);
        self.forget_states_after(kept);
        self.note_parts(frames, false);
    }

    fn note_parts(&mut self, frames: &mut [Frame], is_last: bool) {
        let Some(states) = self.before.states else { return };
        let mut note = |frame: &mut Frame| self.checkpoints.note_part(states, &frame.path, &mut frame.files, is_last);
        let noted = frames.iter_mut().try_for_each(&mut note);
        self.forget_states_after(noted);
    }

    fn forget_states_after(&mut self, result: rusqlite::Result<()>) {
        if let Err(error) = result {
            tracing::warn!(%error, "what was seen of the files cannot be noted");
            self.before.states = None;
        }
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
    jobs.send(FileJob { origin, block_size, results }).map_err(|_| BackupError::Cancelled { kept_bytes: 0 })?;
    Ok(receiver)
}

fn sorted(packs: impl Iterator<Item = PackId>) -> Vec<PackId> {
    packs.collect::<BTreeSet<_>>().into_iter().collect()
}
