//! `restore()`: a snapshot, or a part of one, becomes a local tree with everything that was saved.
//!
//! One thread walks the tree, makes directories and decides what is written (`walk.rs`, `decide.rs`). The records of the files go to the workers in batches that lie
//! together in a pack (`feed.rs`); each worker opens and writes a whole batch (`file.rs`). A directory gets its metadata when the last file in it is done (`folder.rs`).
//!
//! Nothing is written through a symbolic link below the target, so a tree that somebody prepared there cannot lead outside of it. Until a file is complete it has
//! a mode that no saved file has (`decide.rs`): so a cut leaves nothing that a later run takes for complete, and that run writes only what is missing.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use fs_core::object::ObjectKind;
use fs_core::observer::{Observer, Progress};
use fs_core::path::TreePath;
use fs_core::report::{Finding, Place, Severity};
use fs_core::repository::{ReadError, Repository};
use fs_core::storage::{StoreError, wait};
use fs_core::tree::{Entry, EntryKind};

use crate::metadata::{self, Before, Owners, Subject};
use crate::selection::{PatternError, Selection};
use crate::system::{self, Errno};
use crate::what::{self, What, WhatError};

mod decide;
mod feed;
mod file;
mod folder;
mod held;
mod links;
mod node;
mod twin;
mod walk;

use folder::Folder;
use held::Held;
use links::Groups;
use walk::Wanted;

/// What to do where something stands already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Overwrite {
    /// Leave it.
    Never,
    /// Replace it unless size and time of modification are the same.
    #[default]
    Changed,
    /// Replace it if the saved one is newer.
    Newer,
    /// Replace it.
    Always,
    /// Leave it and write the saved one beside it.
    KeepBoth,
}

/// How to restore.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// What to do where something stands already.
    pub overwrite: Overwrite,
    /// Of large files that stand there with other content write only the parts that differ, where they stand. A cut then leaves such a file half new.
    pub in_place: bool,
    /// Everything belongs to who restores.
    pub as_me: bool,
    /// Owners by their saved numbers, also where others have their names.
    pub numeric_ids: bool,
    /// Restore only what fits one of these patterns, as in `.gitignore` and counted from what is restored; empty for everything.
    pub include: Vec<String>,
    /// Leave out what fits one of these patterns.
    pub exclude: Vec<String>,
    /// Read every written file again and compare its hash.
    pub verify: bool,
    /// Say what would be done and do nothing.
    pub dry_run: bool,
}

/// What a restore did.
#[derive(Clone, Debug, Default)]
pub struct RestoreReport {
    /// Files written.
    pub file_count: u64,
    /// Directories made or met.
    pub directory_count: u64,
    /// Other entries made.
    pub other_count: u64,
    /// Entries left as they were.
    pub kept_count: u64,
    /// Bytes of the files written.
    pub byte_count: u64,
    /// Bytes that had to be written for them: fewer where a part was there already.
    pub written_bytes: u64,
    /// What could not be restored, in full or in part.
    pub findings: Vec<Finding>,
}

/// Why nothing could be restored at all.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// What is wanted cannot be had.
    #[error(transparent)]
    What(#[from] WhatError),
    /// The tree cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The target cannot be made or entered.
    #[error("{} cannot be written to", .path.display())]
    Target {
        /// The target.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Nothing can be selected by a pattern.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// The observer cancelled.
    #[error("the restore was interrupted; run it again to continue")]
    Cancelled,
}

/// Restores into the directory `target` what is wanted: of a directory its contents, of several things each under its name, anything else under its name. A target
/// that is made here also gets the metadata of the directory whose contents it gets.
///
/// # Errors
/// [`RestoreError`]. Everything that concerns single entries is a finding.
pub fn restore(
    repository: &Arc<Repository>,
    whats: &[What],
    target: &Path,
    options: &RestoreOptions,
    observer: &dyn Observer,
) -> Result<RestoreReport, RestoreError> {
    let tops = what::find(repository, whats)?;
    system::prepare_restore();
    let mut run = Run {
        repository,
        options,
        observer,
        selection: Selection::new(&options.include, &options.exclude)?,
        owners: match (options.as_me, options.numeric_ids) {
            (true, _) => Owners::Me,
            (false, true) => Owners::ByNumber,
            (false, false) => Owners::ByName(metadata::Names::default()),
        },
        me: system::me(),
        suffix: String::new(),
        groups: Groups::default(),
        held: Held::new(),
        lost: OnceLock::new(),
        report: Mutex::default(),
        left_out: Mutex::default(),
        bytes: AtomicU64::new(0),
        files: AtomicU64::new(0),
        totals: tops.totals(),
    };
    for finding in tops.missing {
        run.note(finding);
    }
    for (snapshot, entries) in tops.of_snapshots {
        // Both are those of one snapshot.
        (run.suffix, run.groups) = (format!(".restored-{}", snapshot.id.short()), Groups::default());
        let ended = run.one(entries, tops.is_named, target);
        if let Some(lost) = run.lost.take() {
            return Err(ReadError::Store(lost).into());
        }
        ended?;
    }
    run.tell_left_out();
    Ok(run.report.into_inner().unwrap_or_else(PoisonError::into_inner))
}

struct Run<'a> {
    repository: &'a Arc<Repository>,
    options: &'a RestoreOptions,
    observer: &'a dyn Observer,
    selection: Selection,
    owners: Owners,
    /// Owner and group of who restores.
    me: (u32, u32),
    /// What a name ends with that stands beside one that is kept.
    suffix: String,
    groups: Groups,
    held: Held,
    /// Why the store is not there any more.
    lost: OnceLock<StoreError>,
    report: Mutex<RestoreReport>,
    /// Entries with something that this system has no place for, and what it is.
    left_out: Mutex<(u64, &'static str)>,
    bytes: AtomicU64,
    files: AtomicU64,
    totals: (u64, u64),
}

impl Run<'_> {
    /// Restores what is wanted of one snapshot.
    fn one(&self, mut entries: Vec<Entry>, is_named: bool, target: &Path) -> Result<(), RestoreError> {
        let whole = if is_named { None } else { entries.pop() };
        // A folder for several things is none of those that were saved.
        let of_target = whole.clone().unwrap_or_else(|| Entry::new(None, EntryKind::Directory));
        let top = self.target(target, &of_target).map_err(|source| RestoreError::Target { path: target.into(), source })?;
        match whole {
            Some(entry) => self.all(Wanted::Whole(Box::new(entry)), top),
            None => self.all(Wanted::Named(entries), top),
        }
    }

    /// Opens the target, or makes it. A folder that stood there keeps what it is: somebody's home must not change its owner because a tree is restored into it.
    fn target(&self, path: &Path, entry: &Entry) -> Result<Arc<Folder>, std::io::Error> {
        let is_new = !self.options.dry_run && !path.exists();
        if is_new {
            self.make_target(path, entry)?;
        }
        let fd = match system::open_path(path) {
            Ok(fd) => Some(fd),
            Err(Errno::NOENT) if self.options.dry_run => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Folder::top(self.opened(fd, is_new)?, entry))
    }

    /// What was for its owner alone is never open to others, not even before it has its mode.
    fn make_target(&self, path: &Path, entry: &Entry) -> Result<(), std::io::Error> {
        let Some(parent) = path.parent().filter(|_| folder::has_metadata(entry)) else { return std::fs::create_dir_all(path) };
        std::fs::create_dir_all(parent)?;
        system::make_path(path, folder::UNFINISHED)
    }

    /// Whether nothing more is to be restored.
    fn is_over(&self) -> bool {
        self.observer.is_cancelled() || self.lost.get().is_some()
    }

    /// Something could not be read. If that is no damage and the store does not answer something small either, all that is still to come would fail too, each
    /// after a long wait.
    fn note_failure(&self, error: &ReadError) {
        if !error.is_damage()
            && !self.is_over()
            && let Err(lost) = wait(ObjectKind::Slot.prefix(), self.repository.store().list(ObjectKind::Slot.prefix(), None))
        {
            let _ = self.lost.set(lost);
        }
    }

    fn count(&self, change: impl FnOnce(&mut RestoreReport)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn finding(&self, severity: Severity, path: &TreePath, message: impl Into<String>) {
        self.note(Finding::at(severity, path.clone(), message));
    }

    fn note(&self, finding: Finding) {
        self.observer.finding(&finding);
        self.count(|report| report.findings.push(finding));
    }

    /// Gives something its metadata, and notes what could not be set.
    fn describe(&self, subject: Subject<'_>, entry: &Entry, before: Before, path: &TreePath) {
        for problem in metadata::apply(self.repository, subject, entry, self.owners.of(entry), before) {
            self.finding(Severity::Warning, path, problem.to_string());
        }
        if let Some(what) = metadata::leaves_out(entry) {
            let mut left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
            *left_out = (left_out.0 + 1, what);
        }
    }

    /// What another system has no place for is told once, not of every entry.
    fn tell_left_out(&self) {
        let (count, what) = *self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        if count > 0 {
            let message = format!("{count} entries have {what}, which this system has no place for: these stay in the snapshot only");
            self.note(Finding { severity: Severity::Note, place: Place::Operation, message });
        }
    }

    /// Tells the observer of files that are done, whatever became of them.
    fn passed(&self, files: u64, bytes: u64) {
        let entry_count = self.files.fetch_add(files, Ordering::Relaxed) + files;
        let byte_count = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.observer.progress(&Progress { entry_count, entry_total: self.totals.0, byte_count, byte_total: self.totals.1 });
    }
}
