//! The collector: takes the steps of the walk in order, decides what has to be read, and builds trees from the bottom up.
//!
//! It runs on the calling thread. Files are handed to the readers a bounded number of steps before their results are taken, so that packs
//! hold them in the order of the walk and the readers have work also where a directory ends.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use crossbeam_channel::Receiver;
use fs_core::crypto;
use fs_core::id::PackId;
use fs_core::observer::{Observer, Progress};
use fs_core::path::{Name, TreePath};
use fs_core::record::{RecordKind, Reference};
use fs_core::report::{Finding, Place, Severity, Stats};
use fs_core::snapshot::attributes::AttributeNames;
use fs_core::time::Timestamp;
use fs_core::tree::page::{self, Found};
use fs_core::tree::{Entry, EntryKind, Subtree};

use super::BackupError;
use super::again::Known;
use super::before::{Before, BeforeDirectory, Seen};
use super::changes::{Absent, Changes};
use super::checkpoint::{Checkpoints, Files};
use super::group::Member;
use super::pulse::Pulse;
use super::read::Origin;
use super::unchanged::Sum;
use super::walk::{Mark, Step};
use crate::packer::{PackError, Packer, Shared};
use crate::source::{self};
use crate::state::{FileStates, Summary};

mod saved;
mod take;

pub(super) use take::Jobs;
use take::{Reading, Results, send};

/// Findings kept in memory and in the snapshot; more are only counted.
const FINDINGS_KEPT: usize = 100_000;

/// Bytes that may be read ahead of what is gathered.
const BYTES_AHEAD: u64 = 64 << 20;

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
    files: Files,
    /// What this machine will know of the directory as a whole.
    sum: Sum,
}

/// What was met and is still to be gathered, in the order of the walk: files are read meanwhile.
enum Pending {
    Enter(Box<Frame>),
    /// An entry that is complete.
    Ready(Box<Ready>),
    Reading(Box<Reading>),
    Finding(Finding),
    Absent(Absent),
    Leave(Box<BeforeDirectory>, Option<Mark>),
    /// A directory that is taken over, with what the parent snapshot has in its place.
    Same(Box<Summary>, Option<Found>),
}

struct Ready {
    entry: Entry,
    /// `None` if the next run must read it again.
    seen: Option<Seen>,
    was: Option<Found>,
}

impl Pending {
    /// Whether it can be gathered without much waiting.
    fn is_there(&self) -> bool {
        if let Self::Reading(reading) = self { reading.is_there() } else { true }
    }
}

pub(super) struct Collector<'a> {
    shared: &'a Arc<Shared>,
    pub(super) packer: Packer,
    before: Before<'a>,
    /// What changed after this may have changed again unseen.
    pub(super) began: Timestamp,
    /// When the source was as it is saved.
    started: Timestamp,
    observer: &'a dyn Observer,
    pub(super) pulse: Pulse<'a>,
    pub(super) checkpoints: Checkpoints,
    pub(super) stats: Stats,
    pub(super) changes: Changes,
    pub(super) findings: Vec<Finding>,
    /// Attributes of all entries so far; `None` once they are too many to list.
    pub(super) attribute_names: Option<AttributeNames>,
    /// Directories of another repository that were copied before.
    pub(super) known: Option<&'a Known>,
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
            started: began,
            observer,
            pulse: Pulse { observer, pace: shared.pace() },
            checkpoints: Checkpoints::default(),
            stats: Stats::default(),
            changes,
            findings: Vec::new(),
            attribute_names: Some(AttributeNames::default()),
            known: None,
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
                Step::Broken(reason) => return Err(PackError::Original { reason }.into()),
                Step::Enter(mut entry, from) => {
                    from.map_or(Ok(()), |from| {
                        self.bring_streams(&mut entry, &from, leads.last().map_or(&TreePath::ROOT, |lead| &lead.path))
                    })?;
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
                Step::Saved(saved) => {
                    let Some(lead) = leads.last_mut() else { continue };
                    self.begin_saved(*saved, lead, jobs)?
                }
                Step::Leave(mark) => {
                    let Some(lead) = leads.pop() else { continue };
                    Pending::Leave(Box::new(lead.before), mark)
                }
                Step::Same(summary) => {
                    let (Some(lead), Some(name)) = (leads.last_mut(), &summary.entry.name) else { continue };
                    let was = self.before.entry(&mut lead.before, name, &lead.path)?;
                    Pending::Same(summary, was)
                }
            };
            waiting.push_back(pending);
            let keep = if leads.is_empty() || is_alone { 0 } else { jobs.ahead.entries };
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
            if self.noting().is_some() && self.checkpoints.is_due(&self.packer) {
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
        let (path_of_frame, children, files, sum) = (path.clone(), Vec::new(), Files::default(), Sum::default());
        let frame = Frame { entry, was, path: path_of_frame, children, same_count: 0, files, sum };
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
        let source::Child { mut entry, stamp, lasting_inode: inode, alias, problem, .. } = child;
        let ready = |entry, seen, was| Ok(Pending::Ready(Box::new(Ready { entry, seen, was })));
        let Some(name) = entry.name.clone() else { return ready(entry, None, None) };
        let was = self.before.entry(&mut lead.before, &name, &lead.path)?;
        let before = was.as_ref().map(Found::entry).filter(|before| before.kind == entry.kind);
        if let Some(problem) = problem {
            self.finding(Finding::at(Severity::Warning, lead.path.join(name.clone()), problem));
        }
        if entry.kind != EntryKind::File {
            self.packer.put_values(&mut entry, before)?;
            self.stats.other_count += 1;
            return ready(entry, None, was);
        }
        let seen = self.before.unchanged(&entry, inode, before, &lead.before)?;
        if let Some(seen) = seen {
            match before.filter(|before| self.before.has_attributes(&entry, inode, before)) {
                Some(before) => entry.take_attributes(before),
                None => {
                    let problem = directory.attributes(alias.as_ref().unwrap_or(&name).as_bytes()).give(&mut entry);
                    if let Some(problem) = problem {
                        self.finding(Finding::at(Severity::Warning, lead.path.join(name.clone()), problem));
                    }
                    self.packer.put_values(&mut entry, before)?;
                }
            }
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
            Results::Group(jobs.groups.add(Member::Listed { directory, name, stamp }, stamp.size))
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
                let Some(frame) = frames.last_mut() else { return Ok(None) };
                let taken = self.take_file(*reading, &frame.path, &mut jobs.groups)?;
                if taken.is_none() {
                    frame.sum.spoil();
                }
                taken
            }
            Pending::Same(summary, was) => {
                let Some(frame) = frames.last_mut() else { return Ok(None) };
                self.take_over(*summary, frame, was.as_ref())?;
                None
            }
            Pending::Leave(before, mark) => {
                let Some(frame) = frames.pop() else { return Ok(None) };
                let (built, was) = self.leave(frame, *before, mark)?;
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
        frame.sum.add(&entry, seen.as_ref().map(|seen| seen.state.packs()), self.began);
        if let Some(Seen { state, kept_at }) = seen {
            self.packer.rely_on(state.packs());
            match kept_at {
                Some(at) => frame.files.rows.keep(at),
                None => frame.files.push(&state, |pack| self.shared.is_listed(pack)),
            }
        }
        let links = entry.link_group.map(|group| (0, group)).into_iter().collect();
        self.add(frame, Built { entry, links, sum: None }, was.as_ref())?;
        Ok(None)
    }

    /// Takes over a directory in which nothing has changed.
    fn take_over(&mut self, summary: Summary, frame: &mut Frame, was: Option<&Found>) -> Result<(), BackupError> {
        let told = self.changes.take_over(&mut self.packer, &frame.path, (&summary, was.map(Found::entry)), self.pulse)?;
        if !told.is_empty() {
            frame.sum.spoil();
        }
        told.into_iter().for_each(|finding| self.finding(finding));
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
        self.add(frame, Built { entry, links, sum: None }, was)
    }

    fn add(&mut self, frame: &mut Frame, mut child: Built, was: Option<&Found>) -> Result<(), BackupError> {
        if let Some(sum) = child.sum.take() {
            frame.sum.add_below(*sum);
        }
        self.note_attributes(&child.entry);
        let is_same = was.is_some_and(|was| *was.entry() == child.entry);
        self.changes.entry(&mut self.packer, &frame.path, &child.entry, (was.map(Found::entry), is_same))?;
        frame.same_count += usize::from(is_same);
        frame.children.push(child);
        Ok(())
    }

    /// Writes the pages of a finished directory, or takes those of the parent snapshot if nothing in it changed.
    fn leave(&mut self, frame: Frame, before: BeforeDirectory, mark: Option<Mark>) -> Result<(Built, Option<Found>), BackupError> {
        let Frame { mut entry, was, path, mut children, same_count, files, mut sum } = frame;
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
        if let Some((mark, summary)) = mark.and_then(|mark| Some((mark, sum.summary(&entry, &links)?))) {
            self.note_summary(&path, &mark, summary);
        }
        Ok((Built { entry, links, sum: Some(Box::new(sum)) }, was))
    }

    /// Where what was seen is noted; nowhere in a dry run.
    fn noting(&self) -> Option<&'a FileStates> {
        self.before.states.filter(|_| !self.packer.is_dry())
    }

    /// What cannot be noted is read again by the next run.
    fn note_files(&mut self, files: Files, before: &BeforeDirectory, path: &TreePath) {
        let Some(states) = self.noting().filter(|_| !files.rows.is_empty()) else { return };
        let (new_count, packs) = (files.rows.new_count(), files.packs);
        let noted = states.note(path, files.rows, before.known.as_ref());
        if new_count > 0 {
            self.checkpoints.noted(path, packs);
        }
        self.forget_states_after(noted);
    }

    /// Keeps what may be kept by now, and notes what is new in the directories that are being gathered.
    fn checkpoint(&mut self, frames: &mut [Frame]) {
        let Some(states) = self.noting() else { return };
        let kept = self.checkpoints.keep(states);
        self.forget_states_after(kept);
        self.note_parts(frames, false);
    }

    fn note_parts(&mut self, frames: &mut [Frame], is_last: bool) {
        let Some(states) = self.noting() else { return };
        let mut note = |frame: &mut Frame| self.checkpoints.note_part(states, &frame.path, &mut frame.files, is_last);
        let noted = frames.iter_mut().try_for_each(&mut note);
        self.forget_states_after(noted);
    }

    fn note_summary(&mut self, path: &TreePath, mark: &Mark, summary: Summary) {
        match mark {
            Mark::Page(page) => self.known.into_iter().for_each(|known| known.insert(*page, summary.clone())),
            Mark::Fingerprint(fingerprint) => {
                let Some(states) = self.noting() else { return };
                let noted = states.note_summary(path, fingerprint, &summary);
                self.forget_states_after(noted);
            }
        }
    }

    fn forget_states_after(&mut self, result: rusqlite::Result<()>) {
        if let Err(error) = result {
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

    /// Tells something of the run as a whole.
    pub(super) fn tell(&mut self, message: String) {
        self.finding(Finding { severity: Severity::Note, place: Place::Operation, message });
    }

    fn finding(&mut self, finding: Finding) {
        self.observer.finding(&finding);
        if self.findings.len() < FINDINGS_KEPT {
            self.findings.push(finding);
        }
    }
}
