//! Unix: file descriptors, modes, numbers of users.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::{Path, PathBuf};

use fs_core::path::Name;
use fs_core::tree::{Entry, EntryKind};
use rustix::fs::{Advice, AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, Stat, Uid};
use rustix::process::{Resource, getrlimit};

pub use rustix::io::Errno;

use super::Found;

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
    rustix::fs::statat(directory, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW).map(|stat| found(&stat))
}

/// What is open.
pub(crate) fn look_at(open: Borrowed<'_>) -> Result<Found, Errno> {
    rustix::fs::fstat(open).map(|stat| found(&stat))
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
    rustix::fs::mkdirat(parent, name.as_bytes(), Mode::from_raw_mode(mode))
}

/// Makes a file that is to be written. `None` if something has that name.
pub(crate) fn make_file(directory: Borrowed<'_>, name: &Name, mode: u32) -> Result<Option<File>, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, name.as_bytes(), flags, Mode::from_raw_mode(mode)) {
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
    let (raw, mode) = (name.as_bytes(), Mode::from_raw_mode(0o600));
    let device = device_of(entry);
    match entry.kind {
        EntryKind::Symlink => rustix::fs::symlinkat(entry.target.as_deref().unwrap_or_default(), directory, raw),
        EntryKind::Fifo => rustix::fs::mknodat(directory, raw, FileType::Fifo, mode, 0),
        EntryKind::Socket => rustix::fs::mknodat(directory, raw, FileType::Socket, mode, 0),
        EntryKind::CharDevice => rustix::fs::mknodat(directory, raw, FileType::CharacterDevice, mode, device),
        EntryKind::BlockDevice => rustix::fs::mknodat(directory, raw, FileType::BlockDevice, mode, device),
        EntryKind::File | EntryKind::Directory => Err(Errno::INVAL),
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
    rustix::fs::fchmod(open, Mode::from_raw_mode(mode))
}

/// Changes the mode of what stands under a name in a directory. Links have none, and a link that took its place meanwhile must not lead elsewhere: the call that takes
/// names follows links, so the entry is held first, in a way that opens neither pipes nor devices.
pub(crate) fn set_mode_of(directory: Borrowed<'_>, name: &Name, mode: u32) -> Result<(), Errno> {
    let held = rustix::fs::openat(directory, name.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&held)?.st_mode) == FileType::Symlink {
        return Err(Errno::LOOP);
    }
    rustix::fs::chmod(format!("/proc/self/fd/{}", held.as_raw_fd()), Mode::from_raw_mode(mode))
}

/// Makes what is open somebody's.
pub(crate) fn set_owner(open: Borrowed<'_>, owner: u32) -> Result<(), Errno> {
    rustix::fs::fchown(open, Some(Uid::from_raw(owner)), None)
}

/// Prepares a new file for holes.
pub(crate) fn make_sparse(_file: &File) -> Result<(), Errno> {
    Ok(())
}

/// Makes a hole in a file.
pub(crate) fn punch_hole(file: &File, offset: u64, length: u64) -> Result<(), Errno> {
    rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length)
}

/// Makes the bytes of a file durable.
pub(crate) fn sync_data(file: &File) -> Result<(), Errno> {
    rustix::fs::fdatasync(file)
}

/// Has the system forget the bytes of a file that are on the disk.
pub(crate) fn forget(file: &File) {
    let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
}

/// Whether the place is why there is no link.
pub(crate) fn has_no_links(refused: Errno) -> bool {
    matches!(refused, Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP | Errno::NOSYS)
}

/// File system and number of a path, to recognise it wherever it is met; `None` if there is nothing.
pub fn identity(path: &Path) -> Option<((u32, u32), u64)> {
    use rustix::fs::StatxFlags;
    let stat = rustix::fs::statx(CWD, path.as_os_str().as_bytes(), AtFlags::empty(), StatxFlags::BASIC_STATS).ok()?;
    Some(((stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino))
}

/// The kind of an entry by its mode; `None` for kinds that no snapshot has.
pub(crate) fn kind_of(mode: u32) -> Option<EntryKind> {
    match FileType::from_raw_mode(mode) {
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
    entry.device.map_or(0, |(major, minor)| rustix::fs::makedev(major, minor))
}

fn found(stat: &Stat) -> Found {
    Found {
        kind: kind_of(stat.st_mode),
        mode: stat.st_mode & 0o7777,
        owner: stat.st_uid,
        group: stat.st_gid,
        link_count: stat.st_nlink,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime: (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        identity: (stat.st_dev, stat.st_ino),
        device: stat.st_rdev,
    }
}
