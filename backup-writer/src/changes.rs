//! The list of changes of a run: what became of each entry. Kept with the snapshot, or on this machine while a report is still to be written.
//!
//! A list may have millions of rows, so it is only ever handed out row by row. Of a snapshot without a parent the new entries are not stored: they are
//! what the tree holds. Written by `backup/changes.rs`, read by the program's reports.

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};

use fs_core::path::TreePath;
use fs_core::record::Reference;
use fs_core::report::{Finding, Place, Severity, chain};
use fs_core::repository::{ReadError, Repository};
use fs_core::snapshot::Manifest;
use fs_core::tree::change::{Change, ChangeKind};
use fs_core::tree::codec::{decode_changes, encode_changes};
use fs_core::tree::page::Wanted;
use fs_core::tree::{Entry, Subtree};

/// A list of changes, wherever it is.
#[derive(Debug)]
pub enum ChangeList {
    /// In a snapshot.
    Stored {
        /// The records of its rows.
        records: Vec<Reference>,
        /// The tree whose entries are all new; `None` if the snapshot has a parent.
        tree: Option<Box<Entry>>,
    },
    /// On this machine, until it is dropped.
    Spooled(Spool),
}

impl ChangeList {
    /// That of a snapshot; `None` if the program that wrote it kept none.
    pub fn of(manifest: &Manifest) -> Option<Self> {
        let stats = &manifest.stats;
        let has_parent = manifest.parent.is_some();
        let tells_of_changes = stats.new_count + stats.changed_count + stats.failed_count > 0;
        if has_parent && manifest.changes.is_empty() && tells_of_changes {
            return None;
        }
        let tree = (!has_parent).then(|| Box::new(manifest.root.clone()));
        Some(Self::Stored { records: manifest.changes.clone(), tree })
    }

    /// Hands out each row, in the order in which the run met them. What cannot be read of the list is told by the findings.
    ///
    /// # Errors
    /// Those of `each`, and the store's.
    pub fn for_each<E: From<ReadError> + From<io::Error>>(
        &self,
        repository: &Repository,
        each: &mut dyn FnMut(&Change) -> Result<(), E>,
    ) -> Result<Vec<Finding>, E> {
        let (records, tree) = match self {
            Self::Spooled(spool) => return spool.for_each(each).map(|()| Vec::new()),
            Self::Stored { records, tree } => (records, tree),
        };
        let mut findings = Vec::new();
        for record in records {
            match repository.stored_changes(record) {
                Ok(changes) => changes.iter().try_for_each(&mut *each)?,
                Err(error) if error.is_damage() => findings.push(lost("a part of the list of changes cannot be read", &error)),
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(subtree) = tree.as_ref().and_then(|root| root.subtree.as_ref()) {
            let damage = for_each_below(repository, &TreePath::ROOT, subtree, &mut |path, entry| {
                each(&Change {
                    path: path.clone(),
                    kind: ChangeKind::New,
                    entry_kind: Some(entry.kind),
                    size: Some(entry.size),
                    size_before: None,
                    mtime: entry.mtime,
                })
            })?;
            findings.extend(damage.iter().map(|error| lost("a part of the tree cannot be read", error)));
        }
        Ok(findings)
    }
}

fn lost(what: &str, error: &ReadError) -> Finding {
    Finding { severity: Severity::Error, place: Place::Operation, message: format!("{what}: {}", chain(error)) }
}

/// Hands out everything below a directory that is no directory itself, with its path, in the order of the tree. Memory is bounded by the depth of the tree:
/// a directory that it comes back to is looked up again. Says what could not be read.
///
/// # Errors
/// Those of `each`, and the store's.
pub fn for_each_below<E: From<ReadError>>(
    repository: &Repository,
    path: &TreePath,
    directory: &Subtree,
    each: &mut dyn FnMut(&TreePath, &Entry) -> Result<(), E>,
) -> Result<Vec<ReadError>, E> {
    let (mut open, mut path, mut damage) = (vec![(directory.clone(), 0)], path.clone(), Vec::new());
    while let Some((subtree, index)) = open.last_mut() {
        let mut next = match repository.find_entry(subtree, Wanted::Index(*index)) {
            Err(error) if error.is_damage() => {
                damage.push(error);
                None
            }
            found => found?,
        };
        let mut below = None;
        if next.is_none() {
            open.pop();
            path.pop();
            continue;
        }
        while let Some(found) = next.take_if(|_| below.is_none()) {
            let entry = found.entry();
            *index = found.entry_index + 1;
            let Some(name) = entry.name.clone() else { break };
            path.push(name);
            match &entry.subtree {
                Some(subtree) => below = Some(subtree.clone()),
                None => {
                    each(&path, entry)?;
                    path.pop();
                }
            }
            next = found.next_in_page();
        }
        open.extend(below.map(|below| (below, 0)));
    }
    Ok(damage)
}

/// Rows in a file without a name, which is gone when the program ends: nobody else can open it.
#[derive(Debug)]
pub struct Spool {
    file: File,
    /// Where the next rows go.
    end: AtomicU64,
}

impl Spool {
    /// An empty one, in the system's folder for temporary files.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile()?, end: AtomicU64::new(0) })
    }

    /// Adds rows.
    ///
    /// # Errors
    /// The system's: there may be no room.
    pub fn push(&self, changes: &[Change]) -> io::Result<()> {
        let plain = encode_changes(changes);
        let length = plain.len() as u64;
        (&self.file).write_all(&length.to_le_bytes())?;
        (&self.file).write_all(&plain)?;
        self.end.fetch_add(length + size_of::<u64>() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn for_each<E: From<io::Error>>(&self, each: &mut dyn FnMut(&Change) -> Result<(), E>) -> Result<(), E> {
        let (mut at, end) = (0, self.end.load(Ordering::Relaxed));
        while at < end {
            let mut length = [0; size_of::<u64>()];
            crate::system::read_exact_at(&self.file, &mut length, at)?;
            at += length.len() as u64;
            let length = u64::from_le_bytes(length);
            let mut plain = vec![0; usize::try_from(length.min(end - at)).unwrap_or(0)];
            crate::system::read_exact_at(&self.file, &mut plain, at)?;
            at += length;
            decode_changes(&plain).map_err(io::Error::other)?.iter().try_for_each(&mut *each)?;
        }
        Ok(())
    }
}
