//! The tree that is backed up: directories with everything the system tells about their entries, and the bytes of files.
//!
//! Everything is opened relative to its directory and never through a symbolic link, so nothing is read that another program put in place of
//! what was listed.

use std::path::{Path, PathBuf};

use fs_core::crypto;
use fs_core::path::Name;
use fs_core::report::Severity;
use fs_core::time::Timestamp;
use fs_core::tree::Entry;

use crate::system::{self, Errno};

pub mod rules;
#[cfg_attr(unix, allow(dead_code, reason = "for Windows; pure, and tested on every system"))]
mod shadow;
pub mod stream;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub use unix::{Attributes, Directory, Facts, LiveTree, Names, SourceFile, Still};
#[cfg(windows)]
pub use windows::{Attributes, Directory, Facts, LiveTree, Names, SourceFile, Still};

pub use crate::system::identity;

/// Extents beyond this number are not kept: the file is then saved in full.
const EXTENTS_MAX: usize = 10_000;

/// Why something in the source could not be saved. A finding, never the end of a run.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It was there when the directory was listed and is not any more.
    #[error("it vanished while the backup ran")]
    Vanished,
    /// It is another entry than the one listed.
    #[error("it was replaced while the backup ran")]
    Replaced,
    /// The system refuses.
    #[error("permission denied: run the backup as an administrator, or leave it out")]
    Denied,
    /// Another program has it open for itself alone.
    #[error("another program has it open and lets nobody read it: run the backup as an administrator, which saves it from a shadow copy")]
    InUse,
    /// Its content is only in the cloud, and reading it would fetch it.
    #[error("left out: its content is only in the cloud; to save it, keep it on this device")]
    InCloud,
    /// It leads somewhere in a way that this program does not know.
    #[error("left out: it is a reparse point of an unknown kind ({tag:#x})")]
    Strange {
        /// Its kind.
        tag: u32,
    },
    /// It comes from another repository, which has it damaged.
    #[error("it is damaged in the repository that is copied: {reason}")]
    Damaged {
        /// What is wrong.
        reason: String,
    },
    /// Anything else.
    #[error("it could not be read: {0}")]
    Failed(Errno),
}

impl SourceError {
    /// How much it says against the snapshot.
    pub(crate) fn severity(&self) -> Severity {
        match self {
            Self::InCloud => Severity::Note,
            _ => Severity::Warning,
        }
    }
}

impl From<Errno> for SourceError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOENT => Self::Vanished,
            Errno::ACCESS | Errno::PERM => Self::Denied,
            Errno::LOOP | Errno::NOTDIR => Self::Replaced,
            #[cfg(windows)]
            Errno::BUSY => Self::InUse,
            #[cfg(windows)]
            Errno::CLOUD => Self::InCloud,
            error => Self::Failed(error),
        }
    }
}

/// What tells one entry of a file system from another, and a changed one from an unchanged one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Device of the file system.
    pub device: (u32, u32),
    /// Inode.
    pub inode: u64,
    /// Length in bytes.
    pub size: u64,
    /// Modification.
    pub mtime: Timestamp,
    /// Change.
    pub ctime: Timestamp,
    /// Bytes on disk.
    pub allocated: u64,
}

impl Stamp {
    /// Whether the file was written to between two looks, as far as its size and times say.
    pub fn has_changed(&self, now: &Self) -> bool {
        (now.size, now.mtime, now.ctime) != (self.size, self.mtime, self.ctime)
    }
}

/// One entry as listed.
#[derive(Clone, Debug)]
pub struct Child {
    /// Everything but content and what is below, and of regular files also without extended attributes and ACLs: most are known from before.
    pub entry: Entry,
    /// Its identity.
    pub stamp: Stamp,
    /// All that the system told.
    pub facts: Facts,
    /// Its inode, where the file system gives it the same again after a remount.
    pub lasting_inode: Option<u64>,
    /// Its name in the file system, where the snapshot shows it under another.
    pub alias: Option<Name>,
    /// What could not be read of its attributes.
    pub problem: Option<String>,
}

/// A path made absolute, without `.`, `..` and symbolic links in its parent; the last part is kept as it is.
///
/// # Errors
/// The system's, with the path.
pub fn absolute(path: &Path) -> Result<PathBuf, std::io::Error> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let whole = parent.canonicalize()?.join(name);
            let found = whole.symlink_metadata()?;
            // Where case does not count, the system says how the name is written.
            if system::HAS_CASE || found.is_symlink() { Ok(whole) } else { whole.canonicalize() }
        }
        _ => path.canonicalize(),
    }
}

/// A number for all names of a file. Inodes are unique in a file system, file systems by their device: hashed, so that two files of two file systems do not
/// get the same.
fn link_group((major, minor): (u32, u32), inode: u64) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = crypto::hash(&[&major.to_le_bytes()[..], &minor.to_le_bytes(), &inode.to_le_bytes()].concat());
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_two_file_systems_are_no_links_of_each_other() {
        let inode = 77_777_777;
        assert_eq!(link_group((253, 0), inode), link_group((253, 0), inode));
        for other in [((253, 1), inode), ((253, 1), inode ^ 1 << 24), ((254, 0), inode), ((253, 0), inode + 1)] {
            assert_ne!(link_group((253, 0), inode), link_group(other.0, other.1), "{other:?}");
        }
    }
}
