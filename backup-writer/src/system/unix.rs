//! Unix: file descriptors, modes, numbers of users.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::{Path, PathBuf};

use fs_core::path::Name;
use fs_core::tree::{Entry, EntryKind};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawMode, Uid};
use rustix::process::{Resource, getrlimit};

pub use rustix::io::Errno;

use super::Found;

#[cfg(not(target_os = "macos"))]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(not(target_os = "macos"))]
use linux as own;
#[cfg(target_os = "macos")]
use macos as own;
pub(crate) use own::{
    DEVICES_END, MAKES_HOLES, NO_ATTRIBUTE, TELLS_HOLES, UNSEEN, forget, is_pseudo, keeps_inodes, list, path_in, punch_hole,
    read_past_cache, set_flags, status, status_at, status_of, sync_data,
};

/// What the system tells of an entry in one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Status {
    /// Device of the file system, by its two numbers.
    pub(crate) device: (u32, u32),
    /// Its number there.
    pub(crate) inode: u64,
    /// Kind and mode.
    pub(crate) mode: u16,
    /// Length in bytes.
    pub(crate) size: u64,
    /// Bytes on the disk.
    pub(crate) allocated: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) link_count: u32,
    /// Seconds and nanoseconds since 1970, as all times here.
    pub(crate) modified: (i64, u32),
    pub(crate) changed: (i64, u32),
    /// `None` where the file system does not keep it.
    pub(crate) born: Option<(i64, u32)>,
    /// The device that it stands for.
    pub(crate) names_device: (u32, u32),
    /// `st_flags` of macOS.
    pub(crate) flags: Option<u32>,
}

/// Something open that is ours.
pub type Owned = OwnedFd;
/// Something open that is somebody else's.
pub(crate) type Borrowed<'a> = BorrowedFd<'a>;

/// Whether a mode can say that something is not complete.
pub(crate) const HAS_MODES: bool = true;
/// Whether two names that differ only in case are two names.
pub(crate) const HAS_CASE: bool = true;

/// Lends what is open.
pub(crate) fn lend(open: &impl AsFd) -> Borrowed<'_> {
    open.as_fd()
}

/// Owner and group of who runs this.
pub fn me() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// The number of a user's name.
pub(crate) fn user_number(name: &str) -> Option<u32> {
    nix::unistd::User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
}

/// The number of a group's name.
pub(crate) fn group_number(name: &str) -> Option<u32> {
    nix::unistd::Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
}

/// Who reads, as far as it decides what can be read.
pub(crate) fn reader() -> u32 {
    me().0
}

/// What a restore may do that is not switched on by itself.
pub(crate) fn prepare_restore() {}

/// How many files this program may have open; `None` without limit.
pub(crate) fn open_files_max() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// How a snapshot shows a path of this machine.
pub fn shown_bytes(path: &Path) -> Cow<'_, [u8]> {
    Cow::Borrowed(path.as_os_str().as_bytes())
}

/// A path of a snapshot as somebody typed it.
pub fn typed_path(bytes: &[u8]) -> Cow<'_, [u8]> {
    Cow::Borrowed(bytes)
}

/// Whether what somebody typed is a path of this machine, though it has a colon.
pub fn is_path_with_drive(_bytes: &[u8]) -> bool {
    false
}

/// A path of a snapshot as patterns look at it.
pub(crate) fn pattern_path(bytes: &[u8]) -> Cow<'_, Path> {
    Cow::Borrowed(Path::new(OsStr::from_bytes(bytes)))
}

/// The path under which all others are shown.
pub(crate) fn root() -> PathBuf {
    "/".into()
}

/// A time of modification as this system keeps it.
pub(crate) fn kept_time(time: (i64, i64)) -> (i64, i64) {
    time
}

/// Starts what a shell understands.
pub fn shell(text: &str) -> std::process::Command {
    let mut command = std::process::Command::new("sh");
    command.arg("-c").arg(text);
    command
}

/// Reads all of it at an offset.
pub(crate) fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
    file.read_exact_at(bytes, offset)
}

/// Writes all of it at an offset.
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    file.write_all_at(bytes, offset)
}

/// What stands under a name.
pub(crate) fn look(directory: Borrowed<'_>, name: &Name) -> Result<Found, Errno> {
    rustix::fs::statat(directory, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW).map(|stat| found(&stat.into()))
}

/// What is open.
pub(crate) fn look_at(open: Borrowed<'_>) -> Result<Found, Errno> {
    rustix::fs::fstat(open).map(|stat| found(&stat.into()))
}

/// Opens a directory by its path; links are followed.
pub(crate) fn open_path(path: &Path) -> Result<Owned, Errno> {
    rustix::fs::open(path.as_os_str().as_bytes(), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Opens a directory that is no link.
pub(crate) fn open_directory(parent: Borrowed<'_>, name: &Name) -> Result<Owned, Errno> {
    rustix::fs::openat(parent, name.as_bytes(), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Opens an open directory once more.
pub(crate) fn open_again(directory: Borrowed<'_>) -> Result<Owned, Errno> {
    rustix::fs::openat(directory, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Makes a directory by its path.
pub(crate) fn make_path(path: &Path, mode: u32) -> std::io::Result<()> {
    std::fs::DirBuilder::new().mode(mode).create(path)
}

/// Makes a directory.
pub(crate) fn make_directory(parent: Borrowed<'_>, name: &Name, mode: u32) -> Result<(), Errno> {
    rustix::fs::mkdirat(parent, name.as_bytes(), bits(mode))
}

/// Makes a file that is to be written. `None` if something has that name.
pub(crate) fn make_file(directory: Borrowed<'_>, name: &Name, mode: u32) -> Result<Option<File>, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, name.as_bytes(), flags, bits(mode)) {
        Ok(fd) => Ok(Some(File::from(fd))),
        Err(Errno::EXIST) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a file to write into it, without waiting for anything.
pub(crate) fn open_to_write(directory: Borrowed<'_>, name: &Name) -> Result<File, Errno> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name.as_bytes(), flags, Mode::empty()).map(File::from)
}

/// Opens a file to read it, without waiting for anything.
pub(crate) fn open_to_read(directory: Borrowed<'_>, name: &Name) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name.as_bytes(), flags, Mode::empty()).map(File::from)
}

/// Removes a name of what is no directory.
pub(crate) fn remove(directory: Borrowed<'_>, name: &Name) -> Result<(), Errno> {
    rustix::fs::unlinkat(directory, name.as_bytes(), AtFlags::empty())
}

/// Renames within a directory; what had the name before is replaced.
pub(crate) fn rename(directory: Borrowed<'_>, from: &Name, to: &Name) -> Result<(), Errno> {
    rustix::fs::renameat(directory, from.as_bytes(), directory, to.as_bytes())
}

/// Gives a file a further name.
pub(crate) fn link(from: Borrowed<'_>, first: &Name, directory: Borrowed<'_>, name: &Name) -> Result<(), Errno> {
    rustix::fs::linkat(from, first.as_bytes(), directory, name.as_bytes(), AtFlags::empty())
}

/// Makes a link, a pipe, a socket or a device.
pub(crate) fn make_node(directory: Borrowed<'_>, name: &Name, entry: &Entry) -> Result<(), Errno> {
    match entry.kind {
        EntryKind::Symlink => rustix::fs::symlinkat(entry.target.as_deref().unwrap_or_default(), directory, name.as_bytes()),
        kind => own::make_special(directory, name.as_bytes(), kind, device_of(entry)),
    }
}

/// Whether what stands under a name is the link, pipe, socket or device that was saved.
pub(crate) fn is_same_node(directory: Borrowed<'_>, name: &Name, there: &Found, entry: &Entry) -> bool {
    match entry.kind {
        EntryKind::Symlink => {
            let target = rustix::fs::readlinkat(directory, name.as_bytes(), Vec::new());
            target.is_ok_and(|target| Some(target.as_bytes()) == entry.target.as_deref())
        }
        EntryKind::CharDevice | EntryKind::BlockDevice => there.device == device_of(entry),
        EntryKind::Fifo | EntryKind::Socket => true,
        EntryKind::File | EntryKind::Directory => false,
    }
}

/// Changes the mode of what is open.
pub(crate) fn set_mode(open: Borrowed<'_>, mode: u32) -> Result<(), Errno> {
    rustix::fs::fchmod(open, bits(mode))
}

/// Changes the mode of what stands under a name in a directory, and of nothing that a link leads to.
pub(crate) fn set_mode_of(directory: Borrowed<'_>, name: &Name, mode: u32) -> Result<(), Errno> {
    own::set_mode_of(directory, name.as_bytes(), bits(mode))
}

/// Makes what is open somebody's.
pub(crate) fn set_owner(open: Borrowed<'_>, owner: u32) -> Result<(), Errno> {
    rustix::fs::fchown(open, Some(Uid::from_raw(owner)), None)
}

/// Prepares a new file for holes.
pub(crate) fn make_sparse(_file: &File) -> Result<(), Errno> {
    Ok(())
}

/// Whether the place is why there is no link.
pub(crate) fn has_no_links(refused: Errno) -> bool {
    // One number on Linux, two on macOS.
    refused == Errno::NOTSUP || matches!(refused, Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP | Errno::NOSYS)
}

/// File system and number of a path, to recognise it wherever it is met; `None` if there is nothing.
pub fn identity(path: &Path) -> Option<((u32, u32), u64)> {
    status_at(path).ok().map(|status| (status.device, status.inode))
}

/// The kind of an entry by its mode; `None` for kinds that no snapshot has.
pub(crate) fn kind_of(mode: u16) -> Option<EntryKind> {
    match FileType::from_raw_mode(RawMode::from(mode)) {
        FileType::RegularFile => Some(EntryKind::File),
        FileType::Directory => Some(EntryKind::Directory),
        FileType::Symlink => Some(EntryKind::Symlink),
        FileType::Fifo => Some(EntryKind::Fifo),
        FileType::Socket => Some(EntryKind::Socket),
        FileType::CharacterDevice => Some(EntryKind::CharDevice),
        FileType::BlockDevice => Some(EntryKind::BlockDevice),
        FileType::Unknown => None,
    }
}

fn device_of(entry: &Entry) -> u64 {
    entry.device.map_or(0, |(major, minor)| number_of(major, minor))
}

#[cfg(not(target_os = "macos"))]
fn number_of(major: u32, minor: u32) -> u64 {
    rustix::fs::makedev(major, minor)
}

#[cfg(target_os = "macos")]
fn number_of(major: u32, minor: u32) -> u64 {
    u64::try_from(rustix::fs::makedev(major, minor)).unwrap_or(0)
}

/// The twelve bits of a mode.
fn bits(mode: u32) -> Mode {
    Mode::from_raw_mode(RawMode::try_from(mode & 0o7777).unwrap_or(0))
}

fn found(status: &Status) -> Found {
    Found {
        kind: kind_of(status.mode),
        mode: u32::from(status.mode) & 0o7777,
        owner: status.uid,
        group: status.gid,
        link_count: status.link_count.into(),
        size: status.size,
        mtime: (status.modified.0, status.modified.1.into()),
        identity: (number_of(status.device.0, status.device.1), status.inode),
        device: number_of(status.names_device.0, status.names_device.1),
    }
}
