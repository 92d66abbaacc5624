//! What a run that does not come to its end leaves for the next one, beside its packs: what this machine saw of the files whose content is in them.
//!
//! A row about files may be kept without a snapshot as soon as the store has taken every pack that it names, for the same reasons for which it may be kept
//! with one: its files were quiet before the run began, a file that is not what it was is read again, and so is one of whose packs one is not listed when
//! the next run begins. That run relies on those packs like on any other, and looks for them before its snapshot is sealed.

use std::collections::{HashMap, HashSet};

use fs_core::id::PackId;
use fs_core::path::TreePath;

use super::BackupError;
use super::pulse::Pulse;
use crate::packer::{PackError, Packer};
use crate::parent::FileState;
use crate::state::{DirectoryBuilder, FileStates};

/// Packs that are put from one checkpoint to the next. Each is one transaction of the local database.
const PACKS_BETWEEN: usize = 4;
/// Directories that wait before those are written that need not.
const DIRECTORIES_BETWEEN: usize = 4096;
/// A directory that is still being gathered is noted again when so many per cent of its files are new: otherwise a large one would be written over and over.
const GROWN_PER_CENT: usize = 12;

/// What waits to be kept.
#[derive(Default)]
pub(super) struct Checkpoints {
    /// Directories that were noted, with packs of this run that hold what is in them.
    waiting: HashMap<TreePath, HashSet<PackId>>,
    /// Packs that the store has taken, and their bytes.
    put: HashSet<PackId>,
    put_bytes: u64,
    /// How many had been taken at the last checkpoint.
    kept_at: usize,
    /// How many directories waited after it.
    left_waiting: usize,
}

/// The new files of one directory.
#[derive(Default)]
pub(super) struct Files {
    pub rows: DirectoryBuilder,
    /// Packs of this run that hold them.
    pub packs: HashSet<PackId>,
    /// How many there were when they were noted last.
    noted_count: usize,
}

impl Files {
    /// Adds a file.
    pub(super) fn push(&mut self, file: &FileState, is_listed: impl Fn(&PackId) -> bool) {
        self.packs.extend(file.packs().filter(|pack| !is_listed(pack)));
        self.rows.push(file);
    }
}

impl Checkpoints {
    /// What was noted of a directory names these packs of this run.
    pub(super) fn noted(&mut self, path: &TreePath, packs: HashSet<PackId>) {
        self.waiting.insert(path.clone(), packs);
    }

    /// Whether it is time for a checkpoint.
    pub(super) fn is_due(&mut self, packer: &Packer) -> bool {
        self.look(packer);
        self.put.len() >= self.kept_at + PACKS_BETWEEN || self.waiting.len() >= self.left_waiting + DIRECTORIES_BETWEEN
    }

    /// Keeps what may be kept by now.
    pub(super) fn keep(&mut self, states: &FileStates) -> rusqlite::Result<()> {
        self.kept_at = self.put.len();
        let put = &self.put;
        let ready: HashMap<_, _> = self.waiting.extract_if(|_, packs| packs.is_subset(put)).collect();
        self.left_waiting = self.waiting.len();
        states.keep(ready.keys())
    }

    /// Notes what is new in a directory that is still being gathered: nothing if that is little, or if what was noted last still waits. All of it if the run
    /// ends and uploads what was begun.
    pub(super) fn note_part(&mut self, states: &FileStates, path: &TreePath, files: &mut Files, is_last: bool) -> rusqlite::Result<()> {
        let count = files.rows.new_count();
        let new = count - files.noted_count;
        let is_little = new * 100 < count * GROWN_PER_CENT || self.waiting.contains_key(path);
        if new == 0 || is_little && !is_last {
            return Ok(());
        }
        states.note_part(path, &files.rows)?;
        files.noted_count = count;
        self.noted(path, files.packs.clone());
        Ok(())
    }

    /// A run that is interrupted uploads what was begun, so that nothing of it has to be sent again, unless it is an hour of pause. Whatever ends a run, what
    /// the store has taken is kept. Gives back why it ended, with how much that is.
    pub(super) fn give_up(mut self, error: BackupError, packer: Packer, states: Option<&FileStates>, pulse: Pulse<'_>) -> BackupError {
        let is_interrupted = matches!(error, BackupError::Cancelled { .. }) || pulse.observer.is_cancelled();
        let mut ended = error;
        if is_interrupted && pulse.pace.paused_until().is_none() {
            pulse.observer.waits(Some("interrupted: what was begun is being uploaded; once more ends it at once"));
            match packer.finish() {
                Ok(written) => {
                    self.put_bytes = written.put.iter().map(|pack| pack.size).sum();
                    self.put.extend(written.put.iter().map(|pack| pack.id));
                    ended = BackupError::Cancelled { kept_bytes: self.put_bytes };
                }
                Err(PackError::Stopped) => ended = BackupError::Cancelled { kept_bytes: self.put_bytes },
                Err(error) => ended = error.into(),
            }
        } else {
            self.look(&packer);
            if is_interrupted {
                ended = BackupError::Cancelled { kept_bytes: self.put_bytes };
            }
        }
        if let Some(Err(error)) = states.map(|states| self.keep(states)) {
            tracing::warn!(%error, "what was seen of the files cannot be kept: the next run reads more");
        }
        ended
    }

    /// A run that fails when all was gathered: what the store has taken, as far as this was looked at, is kept. Gives back why it ended, with how much that is.
    pub(super) fn ended_late(&mut self, error: BackupError, states: Option<&FileStates>) -> BackupError {
        if let Some(Err(error)) = states.map(|states| self.keep(states)) {
            tracing::warn!(%error, "what was seen of the files cannot be kept: the next run reads more");
        }
        if matches!(error, BackupError::Cancelled { .. }) { BackupError::Cancelled { kept_bytes: self.put_bytes } } else { error }
    }

    /// Looks which packs the store has taken.
    pub(super) fn look(&mut self, packer: &Packer) {
        for pack in packer.put_since(self.put.len()) {
            self.put.insert(pack.id);
            self.put_bytes += pack.size;
        }
    }
}
