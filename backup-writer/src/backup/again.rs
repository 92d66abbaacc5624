//! A snapshot of another repository in place of a live tree: the walk of its trees gives the steps that a walk of folders gives, and bytes come from its records.
//!
//! Nothing need be guessed by times: beside the snapshot goes the one that the parent is a copy of, if its repository still has it. What is the same in
//! both, by the ids of all its records, is in the parent already. A directory that was copied before in this run is known again by the id of its page.

use std::collections::HashMap;
use std::sync::Arc;

use fs_core::id::{RecordId, SnapshotId};
use fs_core::path::TreePath;
use fs_core::report::{Finding, Place, Severity, chain};
use fs_core::repository::{ReadError, Repository, Snapshots};
use fs_core::snapshot::{Manifest, Original, Snapshot};
use fs_core::time::Timestamp;
use fs_core::tree::page::{Found, Wanted};
use fs_core::tree::{Entry, EntryKind, Subtree};

use super::changes::{Absent, Why};
use super::walk::{Emit, Mark, Step, Stopped};
use crate::packer::{PackError, Shared};
use crate::state::Summary;

mod bring;
mod known;

pub(super) use bring::{SavedFile, Trouble, bare, land};
pub use known::Known;

/// A snapshot of another repository that is to be saved again.
#[derive(Debug)]
pub struct Again<'a> {
    /// That repository.
    pub repository: &'a Arc<Repository>,
    /// All snapshots of it.
    pub snapshots: &'a Snapshots,
    /// The one that is saved.
    pub snapshot: SnapshotId,
    /// What it says.
    pub manifest: &'a Manifest,
    /// What was saved of that repository before: originals by the ids of their copies.
    pub copies: &'a HashMap<SnapshotId, SnapshotId>,
    /// Directories that were copied in this run.
    pub known: &'a Known,
    /// This machine, which signs.
    pub machine: &'a str,
}

/// The same directory in the snapshot that the parent is a copy of: `None` if there is no telling, else where it goes on, if it is there.
type Past = Option<Option<Subtree>>;

/// How an entry stands to the snapshot that the parent is a copy of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Since {
    /// It is there, the same in every respect.
    Same,
    /// A file has the same content there.
    SameContent,
    /// It is another one there, or none.
    Changed,
    /// There is no telling.
    Unknown,
}

/// An entry of another repository that is no directory.
pub(super) struct Saved {
    pub file: SavedFile,
    pub since: Since,
    /// What is saved of it beside its content, if it was worth bringing along.
    carried: Option<Result<Entry, Trouble>>,
}

impl Saved {
    /// The entry without content and streams; its values are brought here.
    pub(super) fn carry(&mut self) -> Result<Entry, Trouble> {
        self.carried.take().unwrap_or_else(|| self.file.carry())
    }
}

impl Again<'_> {
    /// The snapshot to compare with: of the copies of the same host and set the last one that is not younger, or else any.
    pub(super) fn parent<'s>(&self, live: &'s [Snapshot]) -> Option<&'s Snapshot> {
        let Manifest { host, set, started, .. } = self.manifest;
        let fits = |s: &&Snapshot| s.sealed && s.host() == host && s.set() == set && self.copies.contains_key(&s.id);
        live.iter().filter(fits).rfind(|s| s.started() <= *started).or_else(|| live.iter().find(fits))
    }

    /// A manifest of a copy: all that it says of its source is what the original says.
    pub(super) fn date(&self, copy: Manifest) -> Manifest {
        let Manifest { ended, ref sources, .. } = *self.manifest;
        let original = Original { repository: self.repository.id(), snapshot: self.snapshot, copied: copy.ended };
        Manifest { ended, sources: sources.clone(), original: Some(original), ..copy }
    }

    /// When it was begun.
    pub(super) fn started(&self) -> Timestamp {
        self.manifest.started
    }

    /// What its run met, as far as that can be read.
    ///
    /// # Errors
    /// [`PackError::Original`].
    pub(super) fn findings(&self) -> Result<Vec<Finding>, PackError> {
        let mut findings = Vec::new();
        for reference in &self.manifest.findings {
            match self.repository.stored_findings(reference) {
                Ok(more) => findings.extend(more),
                Err(error) if error.is_damage() => {
                    let message = format!("a part of what its run met is damaged in the repository that is copied: {}", chain(&error));
                    findings.push(Finding { severity: Severity::Note, place: Place::Operation, message });
                }
                Err(error) => return Err(PackError::Original { reason: chain(&error) }),
            }
        }
        Ok(findings)
    }

    /// Its walk, beside the original of the parent.
    pub(super) fn walk<'w>(&'w self, shared: &'w Shared, parent: Option<SnapshotId>) -> SavedWalk<'w> {
        let past = parent.and_then(|parent| self.copies.get(&parent)).and_then(|original| {
            let original = self.snapshots.all().find(|snapshot| snapshot.id == *original)?;
            original.manifest().ok().map(|manifest| manifest.root.subtree)
        });
        let small = shared.repository().config().chunks.small.into();
        SavedWalk { repository: self.repository, root: &self.manifest.root, past, known: self.known, shared, small }
    }
}

/// The walk of a snapshot.
pub(super) struct SavedWalk<'a> {
    repository: &'a Arc<Repository>,
    root: &'a Entry,
    past: Past,
    known: &'a Known,
    shared: &'a Shared,
    /// Files up to this size come first.
    small: u64,
}

/// A directory whose subdirectories are still to come.
struct Open {
    rest: std::vec::IntoIter<(Found, Past)>,
    /// Its page, if all that is in it was carried over so far.
    page: Option<RecordId>,
}

impl SavedWalk<'_> {
    pub(super) fn walk(&self, emit: &Emit<'_>) -> Result<(), Stopped> {
        let (mut open, mut path) = (Vec::new(), TreePath::ROOT);
        open.push(self.enter(self.root, &self.past, &path, emit)?);
        // A stack and no recursion: a tree may be deeper than a thread's stack.
        while let Some(top) = open.last_mut() {
            let Some((found, past)) = top.rest.next() else {
                let page = open.pop().and_then(|done| done.page);
                path.pop();
                emit(Step::Leave(page.map(Mark::Page)))?;
                if let Some(above) = open.last_mut().filter(|_| page.is_none()) {
                    above.page = None;
                }
                continue;
            };
            let entry = found.entry();
            if let Some(summary) = self.taken(entry) {
                emit(Step::Same(Box::new(summary)))?;
                continue;
            }
            entry.name.iter().for_each(|name| path.push(name.clone()));
            open.push(self.enter(entry, &past, &path, emit)?);
        }
        Ok(())
    }

    /// A directory that this run has copied before, if all that it was copied to is listed.
    fn taken(&self, entry: &Entry) -> Option<Summary> {
        let page = entry.subtree.as_ref()?.page?;
        let summary = self.known.get(&page.id).filter(|_| entry.side_contents().next().is_none())?;
        if !summary.packs.iter().all(|pack| self.shared.is_listed(pack)) {
            return None;
        }
        let entry = Entry { subtree: summary.entry.subtree.clone(), ..bare(entry) };
        Some(Summary { entry, ..Summary::clone(&summary) })
    }

    /// Into a directory: its entries that are no directories, in order; subdirectories are kept for later.
    fn enter(&self, directory: &Entry, past: &Past, path: &TreePath, emit: &Emit<'_>) -> Result<Open, Stopped> {
        let is_whole = self.emit_directory(directory, path, emit)?;
        let page = directory.subtree.as_ref().and_then(|subtree| subtree.page);
        let past_page = past.iter().flatten().find_map(|subtree| subtree.page);
        let is_same = page.is_some_and(|page| past_page.is_some_and(|past| past.id == page.id));
        let (mut large, mut directories) = (Vec::new(), Vec::new());
        let mut index = 0;
        let is_listed = loop {
            let found = directory.subtree.as_ref().map_or(Ok(None), |subtree| self.repository.find_entry(subtree, Wanted::Index(index)));
            let mut next = match found {
                Ok(None) => break true,
                Ok(next) => next,
                Err(error) => {
                    unreadable(&error, path, emit)?;
                    break false;
                }
            };
            while let Some(found) = next {
                next = found.next_in_page();
                index = found.entry_index + 1;
                let past = if is_same { Some(Some(found.clone())) } else { self.past(past, &found) };
                let entry = found.entry();
                match entry.kind {
                    EntryKind::Directory => {
                        let below = past.map(|past| past.and_then(|past| past.entry().subtree.clone()));
                        directories.push((found, below));
                    }
                    EntryKind::File if entry.size > self.small => {
                        let since = since(entry, past.as_ref());
                        large.push((found, since));
                    }
                    _ => emit(self.saved(entry, since(entry, past.as_ref())))?,
                }
            }
        };
        for (found, since) in large {
            emit(self.saved(found.entry(), since))?;
        }
        let page = page.map(|page| page.id).filter(|_| is_whole && is_listed);
        Ok(Open { rest: directories.into_iter(), page })
    }

    /// What stands under the same name in the snapshot that the parent is a copy of. Where that is damaged there is no telling.
    fn past(&self, past: &Past, found: &Found) -> Option<Option<Found>> {
        match past.as_ref()? {
            None => Some(None),
            Some(subtree) => self.repository.find_entry(subtree, Wanted::Name(found.entry().name_bytes())).ok(),
        }
    }

    fn saved(&self, entry: &Entry, since: Since) -> Step {
        let file = SavedFile::new(self.repository, entry);
        let carried = (since != Since::Same).then(|| file.carry());
        Step::Saved(Box::new(Saved { file, since, carried }))
    }

    /// The directory itself. Whether all that it has could be read.
    fn emit_directory(&self, directory: &Entry, path: &TreePath, emit: &Emit<'_>) -> Result<bool, Stopped> {
        let file = SavedFile::new(self.repository, directory);
        let (entry, damage) = match file.carry() {
            Ok(entry) => (entry, None),
            Err(Trouble::Damaged(reason)) => (file.without_values(), Some(reason)),
            Err(Trouble::Unreachable(reason)) => return Err(broken(reason, emit)),
        };
        let is_whole = damage.is_none();
        if let Some(reason) = damage {
            let message = format!("its long attributes are damaged in the repository that is copied, and left out: {reason}");
            emit(Step::Finding(Finding::at(Severity::Warning, path.clone(), message)))?;
        }
        let has_streams = !directory.streams.is_empty();
        emit(Step::Enter(Box::new(entry), has_streams.then(|| Box::new(file))))?;
        Ok(is_whole)
    }
}

/// The rest of a directory cannot be listed.
fn unreadable(error: &ReadError, path: &TreePath, emit: &Emit<'_>) -> Result<(), Stopped> {
    match Trouble::from(error) {
        Trouble::Unreachable(reason) => Err(broken(reason, emit)),
        Trouble::Damaged(reason) => {
            let message = format!("its list of entries is damaged in the repository that is copied: {reason}");
            emit(Step::Finding(Finding::at(Severity::Warning, path.clone(), message)))?;
            emit(Step::Absent(Absent { name: None, why: Why::Failed }))
        }
    }
}

/// That repository does not answer: the run ends.
fn broken(reason: String, emit: &Emit<'_>) -> Stopped {
    emit(Step::Broken(reason)).err().unwrap_or(Stopped)
}

fn since(entry: &Entry, past: Option<&Option<Found>>) -> Since {
    let Some(past) = past else { return Since::Unknown };
    let Some(past) = past.as_ref().map(Found::entry) else { return Since::Changed };
    let content = |entry: &Entry| (entry.size, entry.file_hash, entry.block_size);
    if past == entry {
        Since::Same
    } else if entry.kind == EntryKind::File
        && past.kind == EntryKind::File
        && content(past) == content(entry)
        && (&past.content, &past.sparse) == (&entry.content, &entry.sparse)
    {
        Since::SameContent
    } else {
        Since::Changed
    }
}
