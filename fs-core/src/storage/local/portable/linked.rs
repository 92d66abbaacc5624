//! A name that only one gets: by a hard link, which fails where something stands.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Gives files their names.
#[derive(Debug)]
pub(super) struct Publisher {
    /// Whether hard links work here, as far as is known; without them only our own threads exclude each other.
    has_links: AtomicBool,
    rename: Mutex<()>,
}

impl Publisher {
    pub(super) fn new() -> Self {
        Self { has_links: AtomicBool::new(true), rename: Mutex::default() }
    }

    /// One that believes its file system to lack hard links.
    #[cfg(test)]
    pub(super) fn limited() -> Self {
        Self { has_links: AtomicBool::new(false), rename: Mutex::default() }
    }

    /// Gives a file that is written its name.
    pub(super) fn publish(&self, file: File, temporary: &Path, path: &Path) -> io::Result<()> {
        drop(file);
        if self.has_links.load(Ordering::Relaxed) {
            match fs::hard_link(temporary, path) {
                Ok(()) => {
                    // A second name left over does no harm: it is invisible and for `sweep_temporary`.
                    let _ = fs::remove_file(temporary);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
                // File systems without links have many ways to say so. A rename that fails as well says what is really wrong.
                Err(_) => {}
            }
        }
        let _one_at_a_time = self.rename.lock().unwrap_or_else(PoisonError::into_inner);
        match fs::symlink_metadata(path) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::rename(temporary, path)?;
                self.has_links.store(false, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a name is given once also under a race with other machines.
    pub(super) fn is_exclusive(&self) -> bool {
        self.has_links.load(Ordering::Relaxed)
    }
}

/// Nothing can be done for directories by the standard library alone: after a crash a deleted object may be back.
pub(super) fn sync_directory(_directory: &Path) -> io::Result<()> {
    Ok(())
}

/// The path as the system takes it.
pub(super) fn system_path(path: &Path) -> PathBuf {
    path.into()
}
