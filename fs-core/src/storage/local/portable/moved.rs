//! A name that only one gets: Windows moves a file only where nothing stands, on every file system and every share.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf, Prefix};
use std::time::Duration;

use tempfile::TempPath;

/// Virus scanners hold what is new for a moment, and who holds a file keeps it from being moved.
const WAITS_MS: [u64; 6] = [5, 10, 20, 50, 100, 200];
const ACCESS_DENIED: i32 = 5;
const SHARING_VIOLATION: i32 = 32;

/// Gives files their names.
#[derive(Debug)]
pub(super) struct Publisher;

impl Publisher {
    pub(super) fn new() -> Self {
        Self
    }

    /// Gives a file that is written its name.
    pub(super) fn publish(&self, file: File, temporary: &Path, path: &Path) -> io::Result<()> {
        let mut waits = WAITS_MS.into_iter().map(Duration::from_millis);
        loop {
            let moved = TempPath::try_from_path(temporary).and_then(|from| {
                from.persist_noclobber(path).map_err(|refused| {
                    let _ = refused.path.keep();
                    refused.error
                })
            });
            match (moved, waits.next()) {
                (Err(error), Some(wait)) if matches!(error.raw_os_error(), Some(ACCESS_DENIED | SHARING_VIOLATION)) => {
                    std::thread::park_timeout(wait);
                }
                (moved, _) => {
                    moved?;
                    break;
                }
            }
        }
        // The name stands in the journal of the file system, which is written out with any file.
        file.sync_all()
    }

    /// Whether a name is given once also under a race with other machines.
    pub(super) fn is_exclusive(&self) -> bool {
        true
    }
}

/// Makes durable what was removed from a directory, where the system lets us. What it refuses is no reason to fail: the deletion itself has happened.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    const GENERIC_WRITE: u32 = 0x4000_0000;
    const BACKUP_SEMANTICS: u32 = 0x0200_0000;
    let opened = OpenOptions::new().access_mode(GENERIC_WRITE).share_mode(7).custom_flags(BACKUP_SEMANTICS).open(directory);
    if let Ok(directory) = opened {
        let _ = directory.sync_all();
    }
    Ok(())
}

/// The path as the system takes it at any length.
pub(super) fn system_path(path: &Path) -> PathBuf {
    let mut parts = path.components();
    let prefix = match parts.next() {
        Some(Component::Prefix(prefix)) => match prefix.kind() {
            Prefix::Disk(drive) => format!(r"\\?\{}:\", char::from(drive)).into(),
            Prefix::UNC(server, share) => {
                let mut prefix = std::ffi::OsString::from(r"\\?\UNC\");
                for part in [server, share] {
                    prefix.push(part);
                    prefix.push(r"\");
                }
                prefix
            }
            _ => return path.into(),
        },
        _ => return path.into(),
    };
    let names = parts.filter(|part| matches!(part, Component::Normal(_)));
    names.fold(PathBuf::from(prefix), |path, name| path.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_drives_and_shares_may_be_long() {
        for (path, expected) in [
            (r"C:\a\b", r"\\?\C:\a\b"),
            (r"C:/a/b", r"\\?\C:\a\b"),
            (r"\\nas\backup\a", r"\\?\UNC\nas\backup\a"),
            (r"\\?\C:\a", r"\\?\C:\a"),
            (r"relative", r"relative"),
        ] {
            assert_eq!(system_path(Path::new(path)), Path::new(expected));
        }
    }
}
