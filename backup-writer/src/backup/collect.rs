//! The collector: takes the steps of the walk in order, decides what has to be read, and builds trees from the bottom up.
//!
//! It runs on the calling thread. Files are handed to the readers a bounded number of steps before their results are taken, so that packs
//! hold them in the order of the walk.

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

use super::before::{Before, BeforeDirectory};
use super::read::{FileJob, FileResult, PIECES_AHEAD, Piece};
use super::walk::Step;
use super::{BackupError, STEPS_AHEAD};
use crate::packer::{Packer, Shared};
use crate::parent::{FileState, is_settled};
use crate::source;
use crate::state::DirectoryBuilder;

/// Findings kept in memory and in the snapshot; more are only counted.
const FINDINGS_KEPT: usize = 100_000;

/// A finished directory: its entry and its hard-linked entries by position relative to it.
pub(super) struct Built {
    pub entry: Entry,
    pub links: Vec<(u64, u64)>,
}

/// A directory that is being gathered.
struct Frame {
    entry: Entry,
    children: Vec<Built>,
    before: BeforeDirectory,
    /// Children that are in the parent snapshot as they are now.
    same_count: usize,
    /// What this machine will know of its files.
    states: DirectoryBuilder,
}

/// A file that was handed to the readers, or anything that needs none.
enum Pending {
    Ready(Box<(Entry, Option<FileState>)>),
    Reading(Box<Reading>),
}

struct Reading {
    entry: Entry,
    inode: Option<u64>,
    results: Receiver<Piece>,
    had_parent: bool,
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

    /// Takes the steps of the walk until it is done.
    pub(super) fn collect(&mut self, steps: &Receiver<Step>, jobs: &Sender<FileJob>) -> Result<Built, BackupError> {
        let (mut frames, mut path): (Vec<Frame>, TreePath) = (Vec::new(), TreePath::ROOT);
        let mut waiting: VecDeque<Pending> = VecDeque::new();
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
                    let frame = self.enter(*entry, frames.last_mut(), &path)?;
                    frames.push(frame);
                }
                Step::Entry(child, directory) => {
                    let Some(frame) = frames.last_mut() else { continue };
                    let pending = self.begin(*child, directory, frame, &path, jobs)?;
                    waiting.push_back(pending);
                    self.drain(&mut frames, &mut waiting, &path, STEPS_AHEAD / 2)?;
                }
                Step::Leave => {
                    self.drain(&mut frames, &mut waiting, &path, 0)?;
                    let Some(frame) = frames.pop() else { continue };
                    let built = self.leave(frame, frames.last_mut(), &path)?;
                    path.pop();
                    match frames.last_mut() {
                        Some(above) => self.add(above, built, &path)?,
                        None => {
                            self.note_attributes(&built.entry);
                            return Ok(built);
                        }
                    }
                }
            }
        }
        Err(BackupError::Cancelled)
    }

    fn enter(&mut self, entry: Entry, above: Option<&mut Frame>, path: &TreePath) -> Result<Frame, BackupError> {
        self.stats.directory_count += 1;
        let before = match (above, &entry.name) {
            (Some(above), Some(name)) => {
                let found = self.before.entry(&mut above.before, name, path)?;
                self.before.directory(found.as_ref().map(Found::entry), path)
            }
            _ => self.before.directory(self.before.parent.map(|(root, _)| root), path),
        };
        Ok(Frame { entry, children: Vec::new(), before, same_count: 0, states: DirectoryBuilder::default() })
    }

    /// Decides whether a file has to be read.
    fn begin(
        &mut self,
        child: source::Child,
        directory: source::Directory,
        frame: &mut Frame,
        path: &TreePath,
        jobs: &Sender<FileJob>,
    ) -> Result<Pending, BackupError> {
        let source::Child { mut entry, stamp, lasting_inode: inode } = child;
        let Some(name) = entry.name.clone() else { return Ok(Pending::Ready(Box::new((entry, None)))) };
        let found = self.before.entry(&mut frame.before, &name, path)?;
        let before = found.as_ref().map(Found::entry).filter(|before| before.kind == entry.kind);
        self.packer.put_values(&mut entry, before)?;
        if entry.kind != EntryKind::File {
            self.stats.other_count += 1;
            return Ok(Pending::Ready(Box::new((entry, None))));
        }
        if let Some(state) = self.before.unchanged(&entry, inode, before, &frame.before)? {
            entry.take_content(&state.entry);
            self.stats.unchanged_count += 1;
            return Ok(Pending::Ready(Box::new((entry, Some(state)))));
        }
        let known = frame.before.known.as_ref().and_then(|known| known.get(&name));
        let last = before.or(known.as_ref().map(|known| &known.entry));
        // A file keeps the way in which it was cut.
        let block_size = match last {
            Some(last) => last.block_size,
            None => self.shared.repository().config().block_size(entry.name_bytes(), entry.size),
        };
        let (results, receiver) = bounded(PIECES_AHEAD);
        if jobs.send(FileJob { directory, name, stamp, block_size, results }).is_err() {
            return Err(BackupError::Cancelled);
        }
        Ok(Pending::Reading(Box::new(Reading { had_parent: last.is_some(), entry, inode, results: receiver })))
    }

    /// Takes results until at most `keep` files are left waiting.
    fn drain(&mut self, frames: &mut [Frame], waiting: &mut VecDeque<Pending>, path: &TreePath, keep: usize) -> Result<(), BackupError> {
        while waiting.len() > keep {
            let Some(pending) = waiting.pop_front() else { break };
            let Some(frame) = frames.last_mut() else { break };
            let taken = match pending {
                Pending::Ready(ready) => Some(*ready),
                Pending::Reading(reading) => self.take_file(*reading, path)?,
            };
            let Some((entry, state)) = taken else { continue };
            self.progress.entry_count += 1;
            self.observer.progress(&self.progress);
            if entry.kind == EntryKind::File {
                self.stats.file_count += 1;
                self.stats.byte_count += entry.size;
            }
            if let Some(state) = state {
                self.packer.rely_on(state.packs());
                frame.states.push(&state);
            }
            let links = entry.link_group.map(|group| (0, group)).into_iter().collect();
            self.add(frame, Built { entry, links }, path)?;
        }
        Ok(())
    }

    fn add(&mut self, frame: &mut Frame, child: Built, path: &TreePath) -> Result<(), BackupError> {
        self.note_attributes(&child.entry);
        if let Some(name) = &child.entry.name {
            let before = self.before.entry(&mut frame.before, name, path)?;
            frame.same_count += usize::from(before.is_some_and(|before| *before.entry() == child.entry));
        }
        frame.children.push(child);
        Ok(())
    }

    /// Places the chunks of a file as they come; `None` if it could not be read.
    fn take_file(&mut self, reading: Reading, path: &TreePath) -> Result<Option<(Entry, Option<FileState>)>, BackupError> {
        let Reading { mut entry, inode, results, had_parent } = reading;
        let (mut chunk_packs, mut list_packs) = (HashSet::new(), Vec::new());
        let (mut list, packer) = (ListBuilder::default(), &mut self.packer);
        let mut put_list = |packer: &mut Packer, list: List| {
            let reference = packer.put(RecordKind::List, &list.encode());
            reference.inspect(|reference| list_packs.push(reference.pack))
        };
        for piece in &results {
            let result = match piece {
                Piece::Chunk(sealed) => {
                    let reference = packer.place(sealed)?;
                    self.progress.byte_count += u64::from(reference.plain_len);
                    chunk_packs.insert(reference.pack);
                    list.push(reference, &mut |list| put_list(packer, list))?;
                    continue;
                }
                Piece::End(result) => result?,
            };
            let place = entry.name.clone().map_or_else(|| path.clone(), |name| path.join(name));
            match result {
                FileResult::Read { size, sparse, file_hash, block_size, changed } => {
                    entry.content = list.finish(&mut |list| put_list(packer, list))?;
                    (entry.size, entry.sparse, entry.file_hash, entry.block_size) = (size, sparse, file_hash, block_size);
                    let count = if had_parent { &mut self.stats.changed_count } else { &mut self.stats.new_count };
                    *count += 1;
                    if changed {
                        self.stats.failed_count += 1;
                        let message = "it changed while it was read: this version may mix two states";
                        self.finding(Finding::at(Severity::Warning, place, message));
                    }
                    let packs = match &entry.content {
                        Content::Inline(_) => Vec::new(),
                        Content::List { .. } => sorted(chunk_packs.into_iter().chain(list_packs)),
                    };
                    let is_kept = !changed && is_settled(&entry, self.began);
                    let state = is_kept.then(|| FileState::of(&entry, inode, packs));
                    return Ok(Some((entry, state)));
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
    fn leave(&mut self, frame: Frame, above: Option<&mut Frame>, path: &TreePath) -> Result<Built, BackupError> {
        let Frame { mut entry, mut children, before, same_count, states } = frame;
        self.note_states(states, &before, path);
        match (above, &entry.name) {
            (Some(above), Some(name)) => {
                let found = self.before.entry(&mut above.before, &name.clone(), path)?;
                self.packer.put_values(&mut entry, found.as_ref().map(Found::entry))?;
            }
            _ => self.packer.put_values(&mut entry, self.before.parent.map(|(root, _)| root))?,
        }
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
                self.packer.rely_on(before.packs);
                Some(page)
            }
            None => self.write_pages(entries)?,
        };
        entry.subtree = Some(subtree);
        Ok(Built { entry, links })
    }

    /// What cannot be noted is read again by the next run.
    fn note_states(&mut self, files: DirectoryBuilder, before: &BeforeDirectory, path: &TreePath) {
        let Some(states) = self.before.states.filter(|_| !files.is_empty()) else { return };
        if let Err(error) = states.note(path, files, before.known.as_ref()) {
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

fn sorted(packs: impl Iterator<Item = PackId>) -> Vec<PackId> {
    packs.collect::<BTreeSet<_>>().into_iter().collect()
}
