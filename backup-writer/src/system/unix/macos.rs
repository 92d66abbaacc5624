//! What macOS does in its own way. Its types are checked (`tests/windows/run macos`); it has not run yet.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use fs_core::tree::EntryKind;
use nix::sys::stat::{FileFlag, SFlag};
use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::path::Arg;

use super::Status;

/// Every reading shows in the time of access.
pub(crate) const UNSEEN: OFlags = OFlags::empty();
/// Whether what the system tells of holes can be relied on: disk images on APFS call what was just written a hole.
pub(crate) const TELLS_HOLES: bool = false;
/// Whether holes can be made in a file.
pub(crate) const MAKES_HOLES: bool = false;
/// There is no such attribute.
pub(crate) const NO_ATTRIBUTE: Errno = Errno::NOATTR;
/// Whether the end of a device can be found by going there.
pub(crate) const DEVICES_END: bool = false;

impl From<Stat> for Status {
    fn from(stat: Stat) -> Self {
        let time = |seconds: i64, nanos: i64| (seconds, u32::try_from(nanos).unwrap_or(0));
        Self {
            device: numbers(stat.st_dev),
            inode: stat.st_ino,
            mode: stat.st_mode,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            allocated: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
            uid: stat.st_uid,
            gid: stat.st_gid,
            link_count: stat.st_nlink.into(),
            modified: time(stat.st_mtime, stat.st_mtime_nsec),
            changed: time(stat.st_ctime, stat.st_ctime_nsec),
            born: Some(time(stat.st_birthtime, stat.st_birthtime_nsec)),
            names_device: numbers(stat.st_rdev),
            flags: Some(stat.st_flags),
        }
    }
}

fn numbers(device: rustix::fs::Dev) -> (u32, u32) {
    (rustix::fs::major(device), rustix::fs::minor(device))
}

/// What the system tells of an entry: of a link itself.
pub(crate) fn status(directory: impl AsFd, name: impl Arg) -> Result<Status, Errno> {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map(Status::from)
}

/// What the system tells of something open.
pub(crate) fn status_of(open: impl AsFd) -> Result<Status, Errno> {
    rustix::fs::fstat(open).map(Status::from)
}

/// What the system tells of a path, links followed.
pub(crate) fn status_at(path: &Path) -> Result<Status, Errno> {
    rustix::fs::stat(path).map(Status::from)
}

/// Tells the names in a directory that was just opened, as the system lists them.
pub(crate) fn list(directory: BorrowedFd<'_>, _buffer: &mut Vec<u8>, name: &mut dyn FnMut(&CStr)) -> Result<(), Errno> {
    for item in rustix::fs::Dir::read_from(directory)? {
        name(item?.file_name());
    }
    Ok(())
}

/// A path that leads to an entry itself: calls that follow no links (`l…`) need one.
pub(crate) fn path_in(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>, Errno> {
    Ok([rustix::fs::getpath(directory)?.as_bytes(), b"/", name].concat())
}

/// Makes a pipe or a device. Sockets are made by those who listen on them only.
pub(crate) fn make_special(directory: BorrowedFd<'_>, name: &[u8], kind: EntryKind, device: u64) -> Result<(), Errno> {
    let kind = match kind {
        EntryKind::Fifo => SFlag::S_IFIFO,
        EntryKind::CharDevice => SFlag::S_IFCHR,
        EntryKind::BlockDevice => SFlag::S_IFBLK,
        EntryKind::Socket => return Err(Errno::NOTSUP),
        EntryKind::File | EntryKind::Directory | EntryKind::Symlink => return Err(Errno::INVAL),
    };
    let path = path_in(directory, name)?;
    let device = nix::libc::dev_t::try_from(device).map_err(|_| Errno::INVAL)?;
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
    nix::sys::stat::mknod(&*path, kind, mode, device).map_err(told)
}

/// Changes the mode of what stands under a name in a directory, and of no other that a link leads to.
pub(crate) fn set_mode_of(directory: BorrowedFd<'_>, name: &[u8], mode: Mode) -> Result<(), Errno> {
    rustix::fs::chmodat(directory, name, mode, AtFlags::SYMLINK_NOFOLLOW)
}

/// Sets the flags that a user may set: hidden, no dump, and the like. Not those that lock a file, which would keep the restore from giving it its name; and those of
/// the system need its administrator in a mode of its own.
pub(crate) fn set_flags(open: BorrowedFd<'_>, flags: u32) -> Result<(), Errno> {
    const OF_USERS: u32 = 0xffff;
    /// `UF_IMMUTABLE | UF_APPEND`
    const LOCKS: u32 = 0x2 | 0x4;
    let path = rustix::fs::getpath(open)?;
    nix::unistd::chflags(&*path, FileFlag::from_bits_retain(flags & OF_USERS & !LOCKS)).map_err(told)
}

fn told(error: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(error as i32)
}

/// Makes no hole: what would be one is written as zeros.
pub(crate) fn punch_hole(_file: &File, _offset: u64, _length: u64) -> Result<(), Errno> {
    Err(Errno::NOTSUP)
}

/// Makes the bytes of a file durable: the plain call leaves them in the cache of the drive.
pub(crate) fn sync_data(file: &File) -> Result<(), Errno> {
    rustix::fs::fcntl_fullfsync(file).or_else(|_| rustix::fs::fsync(file))
}

/// Has the system forget the bytes of a file; there is no call for it.
pub(crate) fn forget(_file: &File) {}

/// Reads at an offset, or where the file stands, past the system's cache.
pub(crate) fn read_past_cache(file: &File, buffer: &mut [u8], offset: Option<u64>) -> Result<usize, Errno> {
    rustix::fs::fcntl_nocache(file, true)?;
    match offset {
        Some(offset) => rustix::io::pread(file, buffer, offset),
        None => rustix::io::read(file, buffer),
    }
}

/// Whether the file system of a directory gives its entries the same inodes again after a remount: those that have none make them up.
pub(crate) fn keeps_inodes(directory: BorrowedFd<'_>) -> bool {
    let Some((kind, _)) = file_system(directory) else { return true };
    !is_fuse(&kind) && !matches!(&*kind, b"msdos" | b"exfat" | b"smbfs" | b"webdav")
}

/// Whether a directory belongs to a file system that the kernel makes up, or is one of our own mounts.
pub(crate) fn is_pseudo(directory: BorrowedFd<'_>) -> bool {
    let Some((kind, source)) = file_system(directory) else { return false };
    matches!(&*kind, b"devfs" | b"autofs") || is_fuse(&kind) && source == b"yesterdrive"
}

fn is_fuse(kind: &[u8]) -> bool {
    matches!(kind, b"macfuse" | b"osxfuse")
}

/// The kind of the file system that a directory is on, and what is mounted.
fn file_system(directory: BorrowedFd<'_>) -> Option<(Vec<u8>, Vec<u8>)> {
    let text = |units: &[nix::libc::c_char]| units.iter().take_while(|unit| **unit != 0).map(|unit| unit.to_ne_bytes()[0]).collect();
    let info = rustix::fs::fstatfs(directory).ok()?;
    Some((text(&info.f_fstypename), text(&info.f_mntfromname)))
}
