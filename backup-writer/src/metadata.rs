//! Gives a restored entry the metadata that it had: owner, then mode (changing the owner clears bits of it), attributes, ACLs, times last.
//!
//! Nothing here follows a symbolic link. What the system does not allow is a problem to report, not an error. What is captured stands in `source.rs`.

use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::Arc;

use fs_core::path::Name;
use fs_core::reader::ContentReader;
use fs_core::repository::{ReadError, Repository};
use fs_core::time::Timestamp;
use fs_core::tree::{Entry, EntryKind, Value};
use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

/// What is restored beside the content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MetadataOptions {
    /// Owner and group; otherwise everything belongs to who restores.
    pub owner: bool,
}

/// Something of an entry's metadata that could not be restored.
#[derive(Debug, thiserror::Error)]
pub enum MetadataProblem {
    /// The system refused.
    #[error("its {what} could not be restored: {error}")]
    Refused {
        /// Which part.
        what: String,
        /// What the system said.
        error: Errno,
    },
    /// A long attribute value could not be read from the repository.
    #[error("a value of its attributes could not be read")]
    Read(#[from] ReadError),
}

/// Applies the metadata of `entry` to what stands under `name` in `directory`.
pub fn apply(
    repository: &Arc<Repository>,
    directory: BorrowedFd<'_>,
    name: &Name,
    entry: &Entry,
    options: MetadataOptions,
) -> Vec<MetadataProblem> {
    let mut problems = Vec::new();
    let raw_name = name.as_bytes();
    let mut note = |what: &str, result: Result<(), Errno>| {
        if let Err(error) = result {
            problems.push(MetadataProblem::Refused { what: what.into(), error });
        }
    };
    if options.owner && (entry.uid.is_some() || entry.gid.is_some()) {
        let (uid, gid) = (entry.uid.map(Uid::from_raw), entry.gid.map(Gid::from_raw));
        note("owner", rustix::fs::chownat(directory, raw_name, uid, gid, AtFlags::SYMLINK_NOFOLLOW));
    }
    // The path leads through an open descriptor and names the entry itself: calls on it do not follow links where they say so (`l…`).
    let path = [format!("/proc/self/fd/{}/", directory.as_raw_fd()).as_bytes(), raw_name].concat();
    if entry.kind != EntryKind::Symlink {
        // No entry of another kind is a link, and the directory is ours: nobody swaps it meanwhile without being its owner.
        note("mode", rustix::fs::chmodat(directory, raw_name, Mode::from_raw_mode(entry.mode), AtFlags::empty()));
    }
    for (xattr, value) in [(&b"system.posix_acl_access"[..], &entry.acl.access), (b"system.posix_acl_default", &entry.acl.default)] {
        if let Some(value) = value {
            note("access control list", rustix::fs::lsetxattr(&path[..], xattr, value, XattrFlags::empty()));
        }
    }
    for (xattr, value) in &entry.xattrs {
        let result = match value {
            Value::Inline(bytes) => Ok(bytes.clone()),
            Value::Stored { size, content } => {
                ContentReader::new(Arc::clone(repository), *size, content.clone(), None).read(0, *size).map(|bytes| bytes.to_vec())
            }
        };
        match result {
            Ok(bytes) => {
                if let Err(error) = rustix::fs::lsetxattr(&path[..], &xattr[..], &bytes, XattrFlags::empty()) {
                    let what = format!("attribute {}", fs_core::path::display(xattr));
                    problems.push(MetadataProblem::Refused { what, error });
                }
            }
            Err(error) => problems.push(error.into()),
        }
    }
    if let Some(mtime) = entry.mtime {
        let times = Timestamps { last_access: timespec(mtime), last_modification: timespec(mtime) };
        if let Err(error) = rustix::fs::utimensat(directory, raw_name, &times, AtFlags::SYMLINK_NOFOLLOW) {
            problems.push(MetadataProblem::Refused { what: "time of modification".into(), error });
        }
    }
    problems
}

fn timespec(time: Timestamp) -> Timespec {
    Timespec { tv_sec: time.seconds(), tv_nsec: time.nanos().into() }
}
