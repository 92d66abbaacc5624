//! What became of each entry since the parent snapshot: told by the collector as it goes, counted, and kept in records of the snapshot.
//!
//! What is gone is found when a directory is left: the parent's entries that nobody met there. They are looked for only where their number says that there are some.

use std::collections::BTreeMap;
use std::sync::Arc;

use fs_core::path::{Name, TreePath};
use fs_core::record::{RecordKind, Reference};
use fs_core::report::{Finding, Severity, Stats, chain};
use fs_core::repository::{ReadError, Repository};
use fs_core::tree::change::{Change, ChangeKind};
use fs_core::tree::codec::{CHANGES_MAX, encode_changes};
use fs_core::tree::page::{Found, Wanted};
use fs_core::tree::{Entry, EntryKind, Page, Subtree};

use super::BackupError;
use super::pulse::Pulse;
use crate::changes::{Spool, for_each_below};
use crate::packer::Packer;
use crate::state::Summary;

/// Bytes of paths of one record: what waits in memory, and a small part of what a record may hold.
const PATH_BYTES_MAX: usize = 1 << 20;
/// A longer path is counted and not listed: it would not fit into a record.
const PATH_LENGTH_MAX: usize = 8 << 20;

/// Why an entry is not in the snapshot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// By rule or choice.
    LeftOut,
    /// It could not be read.
    Failed,
}

/// Something that the walk does not hand over.
pub(super) struct Absent {
    /// An entry of the directory that is open; `None` for all of it that does not come.
    pub name: Option<Name>,
    /// Why.
    pub why: Why,
}

/// A directory that the collector is in.
#[derive(Default)]
struct Directory {
    /// Entries met that the parent has under the same name.
    met_count: u64,
    /// Entries that do not come; `None` for those that were told already.
    absent: BTreeMap<Name, Option<Why>>,
    /// Why all others do not come.
    rest: Option<Why>,
}

/// A directory of the repository that is told.
struct Below {
    path: TreePath,
    now: Subtree,
    was: Option<Subtree>,
    /// The entry that comes next.
    index: u64,
}

/// What a run tells of changes when it is done.
pub(super) struct Told {
    /// The records of the rows.
    pub records: Vec<Reference>,
    /// The rows, if they were wanted.
    pub spool: Option<Spool>,
}

pub(super) struct Changes {
    repository: Arc<Repository>,
    /// Without one everything is new, and the tree tells it.
    has_parent: bool,
    spool: Option<Spool>,
    open: Vec<Directory>,
    /// Rows that wait to become a record, and the bytes of their paths.
    rows: Vec<Change>,
    path_bytes: usize,
    records: Vec<Reference>,
    counted: Stats,
    /// Why something below a directory that is gone could not be told.
    damage: Option<ReadError>,
}

impl Changes {
    /// Nothing yet. With a spool all rows are kept there too.
    pub(super) fn new(repository: &Arc<Repository>, has_parent: bool, spool: Option<Spool>) -> Self {
        let repository = Arc::clone(repository);
        let (open, rows, records) = (Vec::new(), Vec::new(), Vec::new());
        Self { repository, has_parent, spool, open, rows, path_bytes: 0, records, counted: Stats::default(), damage: None }
    }

    /// Into a directory.
    pub(super) fn enter(&mut self) {
        self.open.push(Directory::default());
    }

    /// Something in the open directory does not come.
    pub(super) fn absent(&mut self, absent: Absent) {
        let Some(directory) = self.open.last_mut() else { return };
        match absent.name {
            Some(name) => drop(directory.absent.insert(name, Some(absent.why))),
            None => directory.rest = Some(absent.why),
        }
    }

    /// An entry of the directory at `path`, which is open, what the parent has in its place, and whether that is the same.
    pub(super) fn entry(
        &mut self,
        packer: &mut Packer,
        path: &TreePath,
        now: &Entry,
        (was, is_same): (Option<&Entry>, bool),
    ) -> Result<(), BackupError> {
        if let Some(directory) = self.open.last_mut() {
            directory.met_count += u64::from(was.is_some());
        }
        let Some(name) = &now.name else { return Ok(()) };
        let new = |was: Option<&Entry>| Change { size: Some(now.size), ..change(ChangeKind::New, path.join(name.clone()), now, was) };
        match (now.subtree.is_some(), was) {
            (true, None) => Ok(()),
            (true, Some(was)) if was.subtree.is_some() => Ok(()),
            // Below a file there was nothing, so all that is in the directory is new.
            (true, Some(was)) => self.gone(packer, path.join(name.clone()), was, ChangeKind::Removed),
            (false, None) => self.new_entry(packer, now, || new(None)),
            (false, Some(was)) if was.subtree.is_some() => {
                self.gone(packer, path.join(name.clone()), was, ChangeKind::Removed)?;
                self.new_entry(packer, now, || new(None))
            }
            (false, Some(_)) if is_same => {
                if now.kind == EntryKind::File {
                    self.counted.unchanged_count += 1;
                    self.counted.unchanged_size += now.size;
                }
                Ok(())
            }
            (false, Some(was)) => self.row(packer, Change { kind: ChangeKind::Changed, ..new(Some(was)) }),
        }
    }

    /// A directory that is taken over whole into the one at `path`, and what the parent has in its place. Most often that is the same; where another set or
    /// an earlier run knows of the directory, each entry below is told as if it had been met.
    pub(super) fn take_over(
        &mut self,
        packer: &mut Packer,
        path: &TreePath,
        (summary, was): (&Summary, Option<&Entry>),
        pulse: Pulse<'_>,
    ) -> Result<Vec<Finding>, BackupError> {
        let (mut findings, now, counts) = (Vec::new(), &summary.entry, summary.counts);
        if was == Some(now) {
            self.counted.unchanged_count += counts.files;
            self.counted.unchanged_size += counts.bytes;
        } else if was.is_none() && !self.has_parent && self.spool.is_none() {
            self.counted.new_count += counts.files;
            self.counted.new_size += counts.bytes;
        } else if let (Some(name), Some(subtree)) = (&now.name, &now.subtree) {
            let top = Below { path: path.join(name.clone()), now: subtree.clone(), was: was.and_then(|was| was.subtree.clone()), index: 0 };
            self.tell_below(packer, top, pulse, &mut findings)?;
        }
        Ok(findings)
    }

    /// Tells all that is below a directory of the repository, as if it had been met. What is damaged is passed over: nobody has to read it to save it again.
    fn tell_below(&mut self, packer: &mut Packer, top: Below, pulse: Pulse<'_>, findings: &mut Vec<Finding>) -> Result<(), BackupError> {
        let repository = Arc::clone(&self.repository);
        let note = |path: &TreePath, error: &ReadError| {
            let message = format!(
                "it is as it was saved before, and that is damaged: not all of its files are counted. Save it with --reread: {}",
                chain(error)
            );
            Finding::at(Severity::Warning, path.clone(), message)
        };
        self.enter();
        // A stack and no recursion: a tree may be deeper than a thread's stack.
        let mut open = vec![top];
        while let Some(Below { path, now, was, index }) = open.last_mut() {
            pulse.check()?;
            let found = match repository.find_entry(now, Wanted::Index(*index)) {
                Err(error) if error.is_damage() => {
                    findings.push(note(path, &error));
                    *was = None;
                    None
                }
                found => found?,
            };
            let Some(found) = found else {
                let find = |name: &Name| repository.find_entry(now, Wanted::Name(name.as_bytes()));
                findings.extend(self.leave(packer, path, was.as_ref(), &|name| matches!(find(name), Ok(Some(_))))?);
                open.pop();
                continue;
            };
            *index = found.entry_index + 1;
            let (entry, Some(name)) = (found.entry(), &found.entry().name) else { continue };
            let before = match was.as_ref().map(|was| repository.find_entry(was, Wanted::Name(name.as_bytes()))).transpose() {
                Err(error) if error.is_damage() => {
                    findings.push(note(path, &error));
                    *was = None;
                    None
                }
                before => before?.flatten(),
            };
            let before = before.as_ref().map(Found::entry);
            self.entry(packer, path, entry, (before, before == Some(entry)))?;
            if let Some(subtree) = &entry.subtree {
                let was = before.and_then(|before| before.subtree.clone());
                let below = Below { path: path.join(name.clone()), now: subtree.clone(), was, index: 0 };
                self.enter();
                open.push(below);
            }
        }
        Ok(())
    }

    /// A file that could not be read, or only in part.
    pub(super) fn failed(&mut self, packer: &mut Packer, path: &TreePath, now: &Entry, was: Option<&Entry>) -> Result<(), BackupError> {
        let Some(name) = &now.name else { return Ok(()) };
        let was = was.filter(|was| was.subtree.is_none());
        self.row(packer, Change { size: Some(now.size), ..change(ChangeKind::Failed, path.join(name.clone()), now, was) })
    }

    /// A file that is not in the snapshot because it could not be read.
    pub(super) fn lost(&mut self, packer: &mut Packer, path: &TreePath, now: &Entry, was: Option<&Entry>) -> Result<(), BackupError> {
        self.failed(packer, path, now, was)?;
        if let (Some(directory), Some(name)) = (self.open.last_mut(), &now.name) {
            // A directory that was in its place is still to be looked at.
            let told = was.is_none_or(|was| was.subtree.is_none());
            directory.met_count += u64::from(told && was.is_some());
            if told {
                directory.absent.insert(name.clone(), None);
            }
        }
        Ok(())
    }

    /// Out of the directory at `path`: what the parent has in it and nobody met is gone. Says what the parent does not tell.
    pub(super) fn leave(
        &mut self,
        packer: &mut Packer,
        path: &TreePath,
        was: Option<&Subtree>,
        is_met: &dyn Fn(&Name) -> bool,
    ) -> Result<Option<Finding>, BackupError> {
        let Some(mut left) = self.open.pop() else { return Ok(None) };
        if left.rest == Some(Why::Failed) {
            self.row(packer, failed(path.clone(), Some(EntryKind::Directory)))?;
        }
        let found = was.map_or(Ok(()), |was| self.look_for_gone(packer, path, was, &mut left, is_met));
        let unknown = left.absent.into_iter().filter(|(_, why)| *why == Some(Why::Failed));
        for (name, _) in unknown {
            self.row(packer, failed(path.join(name), None))?;
        }
        let damage = match found {
            Err(BackupError::Parent(error)) if error.is_damage() => Some(error),
            found => found.map(|()| self.damage.take())?,
        };
        let told = |error| {
            let message = format!("the previous snapshot is damaged here, all that was removed since cannot be told: {}", chain(&error));
            Finding::at(Severity::Note, path.clone(), message)
        };
        Ok(damage.map(told))
    }

    fn look_for_gone(
        &mut self,
        packer: &mut Packer,
        path: &TreePath,
        was: &Subtree,
        left: &mut Directory,
        is_met: &dyn Fn(&Name) -> bool,
    ) -> Result<(), BackupError> {
        let Some(top) = &was.page else { return Ok(()) };
        let repository = Arc::clone(&self.repository);
        let count = match &*repository.page(top)? {
            Page::Leaf(leaf) => leaf.entries().len() as u64,
            Page::Index(rows) => rows.last().map_or(0, |row| row.entry_end),
        };
        let mut index = if count == left.met_count { count } else { 0 };
        while let Some(found) = repository.find_entry(was, Wanted::Index(index))? {
            let mut next = Some(found);
            while let Some(found) = next {
                index = found.entry_index + 1;
                let entry = found.entry();
                if let Some(name) = entry.name.as_ref().filter(|name| !is_met(name)) {
                    let why = left.absent.remove(name);
                    let kind = match why {
                        // Told when it was met.
                        Some(None) => None,
                        Some(why) => why.map(kind_of),
                        None => Some(left.rest.map_or(ChangeKind::Removed, kind_of)),
                    };
                    if why == Some(Some(Why::Failed)) && entry.subtree.is_some() {
                        self.row(packer, failed(path.join(name.clone()), Some(EntryKind::Directory)))?;
                    }
                    kind.map_or(Ok(()), |kind| self.gone(packer, path.join(name.clone()), entry, kind))?;
                }
                next = found.next_in_page();
            }
        }
        Ok(())
    }

    /// An entry of the parent that is gone, with all that was below it.
    fn gone(&mut self, packer: &mut Packer, path: TreePath, was: &Entry, kind: ChangeKind) -> Result<(), BackupError> {
        let row = |path, was: &Entry| Change { size: None, mtime: was.mtime, ..change(kind, path, was, Some(was)) };
        let Some(subtree) = &was.subtree else { return self.row(packer, row(path, was)) };
        let repository = Arc::clone(&self.repository);
        let damage = for_each_below(&repository, &path, subtree, &mut |path, was| self.row(packer, row(path.clone(), was)))?;
        self.damage = self.damage.take().or(damage.into_iter().next());
        Ok(())
    }

    /// A row is not even made where nobody wants it: a first run has one for each file.
    fn new_entry(&mut self, packer: &mut Packer, now: &Entry, row: impl FnOnce() -> Change) -> Result<(), BackupError> {
        if self.has_parent || self.spool.is_some() {
            return self.row(packer, row());
        }
        if now.kind == EntryKind::File {
            self.counted.new_count += 1;
            self.counted.new_size += now.size;
        }
        Ok(())
    }

    fn row(&mut self, packer: &mut Packer, row: Change) -> Result<(), BackupError> {
        self.count(&row);
        let length: usize = row.path.names().iter().map(|name| name.as_bytes().len() + 1).sum();
        if length > PATH_LENGTH_MAX {
            return Ok(());
        }
        if self.rows.len() >= CHANGES_MAX || self.path_bytes + length > PATH_BYTES_MAX {
            self.flush(packer)?;
        }
        self.path_bytes += length;
        self.rows.push(row);
        Ok(())
    }

    /// Files only, but everything that failed.
    fn count(&mut self, row: &Change) {
        let (is_file, counted) = (row.entry_kind == Some(EntryKind::File), &mut self.counted);
        let (count, size) = match row.kind {
            ChangeKind::Failed => (&mut counted.failed_count, &mut counted.failed_size),
            _ if !is_file => return,
            ChangeKind::New => (&mut counted.new_count, &mut counted.new_size),
            ChangeKind::Changed => (&mut counted.changed_count, &mut counted.changed_size),
            ChangeKind::Removed => (&mut counted.removed_count, &mut counted.removed_size),
            ChangeKind::LeftOut => (&mut counted.left_out_count, &mut counted.left_out_size),
        };
        *count += 1;
        *size += row.size.or(row.size_before).filter(|_| is_file).unwrap_or(0);
    }

    fn flush(&mut self, packer: &mut Packer) -> Result<(), BackupError> {
        let mut rows = std::mem::take(&mut self.rows);
        if rows.is_empty() {
            return Ok(());
        }
        self.path_bytes = 0;
        // Without room for the list there is a snapshot all the same, and the list can be had from there.
        if let Some(Err(error)) = self.spool.as_ref().map(|spool| spool.push(&rows)) {
            tracing::warn!(%error, "the list of changes cannot be kept on this machine");
            self.spool = None;
        }
        if !self.has_parent {
            rows.retain(|row| row.kind != ChangeKind::New);
        }
        if !rows.is_empty() {
            self.records.push(packer.put(RecordKind::Table, &encode_changes(&rows))?);
        }
        Ok(())
    }

    /// Writes what is left and adds what was counted to the numbers of the run.
    pub(super) fn finish(mut self, packer: &mut Packer, stats: &mut Stats) -> Result<Told, BackupError> {
        self.flush(packer)?;
        let Stats { file_count, directory_count, other_count, byte_count, read_bytes, .. } = *stats;
        *stats = Stats { file_count, directory_count, other_count, byte_count, read_bytes, ..self.counted };
        Ok(Told { records: self.records, spool: self.spool })
    }
}

fn kind_of(why: Why) -> ChangeKind {
    match why {
        Why::LeftOut => ChangeKind::LeftOut,
        Why::Failed => ChangeKind::Failed,
    }
}

/// Something of which nothing else is known.
fn failed(path: TreePath, entry_kind: Option<EntryKind>) -> Change {
    Change { path, kind: ChangeKind::Failed, entry_kind, size: None, size_before: None, mtime: None }
}

fn change(kind: ChangeKind, path: TreePath, entry: &Entry, was: Option<&Entry>) -> Change {
    Change { path, kind, entry_kind: Some(entry.kind), size: None, size_before: was.map(|was| was.size), mtime: entry.mtime }
}
