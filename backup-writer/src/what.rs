//! What somebody wants back: a path of a snapshot, or several of them.
//!
//! A directory named alone is meant as what is in it. Several things stand beside one another under their last names, as `cp` puts them; so no two of them may have the
//! same one, and a whole snapshot, which has none, goes alone. All that is checked here, before anything is written.

use std::collections::{HashMap, HashSet};

use fs_core::path::{Name, TreePath};
use fs_core::report::{Finding, Severity, chain};
use fs_core::repository::{ReadError, Repository};
use fs_core::snapshot::Snapshot;
use fs_core::tree::Entry;
use fs_core::tree::page::Wanted;

/// A path of a snapshot that somebody wants back.
#[derive(Clone, Debug)]
pub struct What {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// The path in it.
    pub path: TreePath,
}

/// Why nothing of it can be had.
#[derive(Debug, thiserror::Error)]
pub enum WhatError {
    /// The snapshot has no such path.
    #[error("snapshot {snapshot} has no {path}")]
    NotFound {
        /// The snapshot.
        snapshot: String,
        /// The path.
        path: TreePath,
    },
    /// Of several paths none is there.
    #[error("none of the {count} paths is in its snapshot, {first} among them")]
    NoneFound {
        /// How many were named.
        count: usize,
        /// The first of them.
        first: TreePath,
    },
    /// Two of them would stand in one place.
    #[error("{first} and {second} would both be named {name}")]
    SameName {
        /// Their last name.
        name: Name,
        /// Snapshot and path of the one.
        first: String,
        /// Snapshot and path of the other.
        second: String,
    },
    /// A whole snapshot beside something else has no name.
    #[error("snapshot {snapshot} as a whole has no name under which it could stand beside something else")]
    NoName {
        /// The snapshot.
        snapshot: String,
    },
    /// The tree cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// What was found of it.
#[derive(Debug)]
pub(crate) struct Tops {
    /// For each snapshot what was found in it; groups of hard links count within one.
    pub(crate) of_snapshots: Vec<(Snapshot, Vec<Entry>)>,
    /// Whether each stands under its name. Otherwise there is one, and of a directory its contents are meant.
    pub(crate) is_named: bool,
    /// What is not there.
    pub(crate) missing: Vec<Finding>,
}

impl Tops {
    /// Files and bytes of all of it.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let of = |entry: &Entry| entry.subtree.as_ref().map_or((1, entry.size), |below| (below.file_count, below.byte_count));
        let all = self.of_snapshots.iter().flat_map(|(_, entries)| entries).map(of);
        all.fold((0, 0), |(files, bytes), (more_files, more_bytes)| (files + more_files, bytes + more_bytes))
    }
}

/// Looks up what is wanted. What was named twice counts once.
///
/// # Errors
/// [`WhatError`]. Of several paths one that is not there, or that cannot be read because of damage, is a finding.
pub(crate) fn find(repository: &Repository, whats: &[What]) -> Result<Tops, WhatError> {
    let named = named(whats)?;
    let (mut tops, mut damage) = (Tops { of_snapshots: Vec::new(), is_named: named.len() > 1, missing: Vec::new() }, None);
    for What { snapshot, path } in &named {
        let reason = match entry_at(repository, snapshot, path) {
            Ok(Some(entry)) => {
                match tops.of_snapshots.iter_mut().find(|(known, _)| known.id == snapshot.id) {
                    Some((_, entries)) => entries.push(entry),
                    None => tops.of_snapshots.push((snapshot.clone(), vec![entry])),
                }
                continue;
            }
            Ok(None) if !tops.is_named => return Err(WhatError::NotFound { snapshot: snapshot.id.short(), path: path.clone() }),
            Ok(None) => format!("snapshot {} has no such path", snapshot.id.short()),
            Err(error) if !tops.is_named || !error.is_damage() => return Err(error.into()),
            Err(error) => {
                let reason = format!("it cannot be reached in snapshot {}: {}", snapshot.id.short(), chain(&error));
                damage.get_or_insert(error);
                reason
            }
        };
        tops.missing.push(Finding::at(Severity::Error, path.clone(), reason));
    }
    match (named.first(), damage) {
        (Some(_), Some(damage)) if tops.of_snapshots.is_empty() => Err(damage.into()),
        (Some(first), None) if tops.of_snapshots.is_empty() => Err(WhatError::NoneFound { count: named.len(), first: first.path.clone() }),
        _ => Ok(tops),
    }
}

/// What is named, each once; several must have names of their own.
fn named(whats: &[What]) -> Result<Vec<&What>, WhatError> {
    let mut seen = HashSet::new();
    let named: Vec<_> = whats.iter().filter(|what| seen.insert((what.snapshot.id, &what.path))).collect();
    let mut names = HashMap::<&Name, &What>::new();
    let in_words = |what: &What| format!("{}:{}", what.snapshot.id.short(), what.path);
    for what in named.iter().filter(|_| named.len() > 1) {
        let Some(name) = what.path.last() else { return Err(WhatError::NoName { snapshot: what.snapshot.id.short() }) };
        if let Some(other) = names.insert(name, what) {
            return Err(WhatError::SameName { name: name.clone(), first: in_words(other), second: in_words(what) });
        }
    }
    Ok(named)
}

/// Finds the entry at a path of a snapshot; `None` if there is none.
///
/// # Errors
/// [`ReadError`].
pub fn entry_at(repository: &Repository, snapshot: &Snapshot, path: &TreePath) -> Result<Option<Entry>, ReadError> {
    let mut entry = snapshot.manifest()?.root;
    for name in path.names() {
        let Some(subtree) = &entry.subtree else { return Ok(None) };
        match repository.find_entry(subtree, Wanted::Name(name.as_bytes()))? {
            Some(found) => entry = found.entry().clone(),
            None => return Ok(None),
        }
    }
    Ok(Some(entry))
}

/// All entries of a directory, in order, one page after the other.
///
/// # Errors
/// [`ReadError`], also half-way.
pub fn for_each_entry<E: From<ReadError>>(
    repository: &Repository,
    directory: &Entry,
    mut each: impl FnMut(&Entry) -> Result<(), E>,
) -> Result<(), E> {
    let Some(subtree) = &directory.subtree else { return Ok(()) };
    let mut index = 0;
    while let Some(found) = repository.find_entry(subtree, Wanted::Index(index))? {
        let mut next = Some(found);
        while let Some(found) = next {
            each(found.entry())?;
            index = found.entry_index + 1;
            next = found.next_in_page();
        }
    }
    Ok(())
}
