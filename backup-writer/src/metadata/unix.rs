//! The metadata on Unix.

use std::sync::Arc;

use fs_core::repository::Repository;
use fs_core::time::Timestamp;
use fs_core::tree::{Entry, EntryKind};
use rustix::fs::{AtFlags, Gid, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::{Before, MetadataProblem, Owner, Subject, bytes_of};
use crate::system::{self, Borrowed};

const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";
/// The longest list of attribute names that Linux gives.
const NAMES_SIZE_MAX: usize = 64 << 10;

/// The bits by which a program runs as its owner or group.
const SET_IDS: u32 = 0o6000;

/// Whether it belonged to who restores now.
fn is_mine(entry: &Entry) -> bool {
    let me = system::me();
    (entry.uid, entry.gid) == (Some(me.0), Some(me.1))
}

/// Applies the metadata of `entry`; `owner` is who it shall belong to.
pub fn apply(
    repository: &Arc<Repository>,
    subject: Subject<'_>,
    entry: &Entry,
    owner: Option<Owner>,
    before: Before,
) -> Vec<MetadataProblem> {
    let mut problems = Vec::new();
    let mut note = |what: &str, result: Result<(), Errno>| {
        if let Err(error) = result {
            problems.push(MetadataProblem::Refused { what: what.into(), error });
        }
    };
    let mut is_owned = owner.is_some();
    if let Some(owner) = owner.filter(|owner| before.owner != Some(*owner)) {
        let given = subject.chown(owner);
        is_owned = given.is_ok();
        note("owner", given);
    }
    if before.has_more {
        subject.remove_others(entry);
    }
    let mut unread = Vec::new();
    for (name, value) in &entry.xattrs {
        match bytes_of(repository, value) {
            Ok(bytes) => {
                if let Err(error) = subject.set_attribute(name, &bytes) {
                    note(&format!("attribute {}", fs_core::path::display(name)), Err(error));
                }
            }
            Err(error) => unread.push(error),
        }
    }
    if entry.kind != EntryKind::Symlink {
        // A program that ran as its owner must not run as somebody else.
        let has_ids = entry.mode & SET_IDS != 0 && entry.kind != EntryKind::Directory;
        let keeps_ids = !has_ids || is_owned || owner.is_none() && is_mine(entry);
        note("mode", subject.chmod(if keeps_ids { entry.mode } else { entry.mode & !SET_IDS }));
    }
    for (name, value) in [(ACL_ACCESS, &entry.acl.access), (ACL_DEFAULT, &entry.acl.default)] {
        if let Some(value) = value {
            note("access control list", subject.set_attribute(name, value));
        }
    }
    if let Some(mtime) = entry.mtime {
        note("time of modification", subject.set_time(mtime));
    }
    // Last: some of them forbid changes.
    if let (Some(flags), Subject::Open(open)) = (entry.flags, subject) {
        note("flags", system::set_flags(open, flags));
    }
    problems.extend(unread.into_iter().map(MetadataProblem::from));
    problems
}

/// Whether an entry has something that this system has no place for: it was saved on Windows. What it is, in words.
pub fn leaves_out(entry: &Entry) -> Option<&'static str> {
    (!entry.streams.is_empty()).then_some("alternate streams of Windows")
}

impl Subject<'_> {
    fn chown(self, owner: Owner) -> Result<(), Errno> {
        let (uid, gid) = (owner.uid.map(Uid::from_raw), owner.gid.map(Gid::from_raw));
        match self {
            Self::Open(fd) => rustix::fs::fchown(fd, uid, gid),
            Self::Named(directory, name) => rustix::fs::chownat(directory, name.as_bytes(), uid, gid, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    fn chmod(self, mode: u32) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => system::set_mode(fd, mode),
            Self::Named(directory, name) => system::set_mode_of(directory, name, mode),
        }
    }

    fn set_attribute(self, attribute: &[u8], value: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fsetxattr(fd, attribute, value, XattrFlags::empty()),
            Self::Named(directory, name) => {
                rustix::fs::lsetxattr(system::path_in(directory, name.as_bytes())?, attribute, value, XattrFlags::empty())
            }
        }
    }

    fn set_time(self, mtime: Timestamp) -> Result<(), Errno> {
        let time = Timespec { tv_sec: mtime.seconds(), tv_nsec: mtime.nanos().into() };
        let times = Timestamps { last_access: time, last_modification: time };
        match self {
            Self::Open(fd) => rustix::fs::futimens(fd, &times),
            Self::Named(directory, name) => rustix::fs::utimensat(directory, name.as_bytes(), &times, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    /// Takes away attributes that were not saved, as far as the system allows it. Labels that a system gives to every file are its own.
    fn remove_others(self, entry: &Entry) {
        let Self::Open(fd) = self else { return };
        let mut names = vec![0u8; NAMES_SIZE_MAX];
        let length = rustix::fs::flistxattr(fd, &mut names[..]).unwrap_or(0);
        for name in names.get(..length).unwrap_or_default().split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
            let is_saved = match name {
                ACL_ACCESS => entry.acl.access.is_some(),
                ACL_DEFAULT => entry.acl.default.is_some(),
                b"security.selinux" | b"security.ima" | b"security.evm" => true,
                _ => entry.xattrs.iter().any(|(saved, _)| saved == name),
            };
            if !is_saved {
                let _ = rustix::fs::fremovexattr(fd, name);
            }
        }
    }
}

/// Whether what is made in a directory gets an access control list from it.
pub fn hands_down_a_list(directory: Borrowed<'_>) -> bool {
    // A longer list than that is one too.
    matches!(rustix::fs::fgetxattr(directory, ACL_DEFAULT, &mut [0u8; 64][..]), Ok(1..) | Err(Errno::RANGE))
}

// On macOS the mode of a link is its own.
#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use fs_core::path::Name;
    use rustix::fs::Mode;

    use super::*;

    #[test]
    fn the_mode_of_a_pipe_does_not_go_where_a_link_leads_that_took_its_place() {
        let place = tempfile::tempdir().unwrap();
        let victim = place.path().join("victim");
        std::fs::write(&victim, "").unwrap();
        rustix::fs::chmod(&victim, Mode::from_raw_mode(0o600)).unwrap();
        symlink("victim", place.path().join("pipe")).unwrap();
        let (folder, name) = (std::fs::File::open(place.path()).unwrap(), Name::new(&b"pipe"[..]).unwrap());
        assert!(Subject::Named(folder.as_fd(), &name).chmod(0o666).is_err());
        assert_eq!(victim.metadata().unwrap().mode() & 0o7777, 0o600);
        std::fs::remove_file(place.path().join("pipe")).unwrap();
        rustix::fs::mknodat(&folder, "pipe", rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        Subject::Named(folder.as_fd(), &name).chmod(0o4666).unwrap();
        assert_eq!(place.path().join("pipe").metadata().unwrap().mode() & 0o7777, 0o4666);
    }
}
