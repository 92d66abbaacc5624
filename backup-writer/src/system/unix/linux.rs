//! What Linux has a call of its own for.

use std::ffi::CStr;
use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::path::Path;

use fs_core::tree::EntryKind;
use rustix::fs::{Advice, AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RawDir, Stat, Statx, StatxFlags};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use rustix::path::Arg;

use super::Status;

/// Reading leaves the time of access alone; only the owner may.
pub(crate) const UNSEEN: OFlags = OFlags::NOATIME;
/// Whether what the system tells of holes can be relied on.
pub(crate) const TELLS_HOLES: bool = true;
/// Whether holes can be made in a file.
pub(crate) const MAKES_HOLES: bool = true;
/// There is no such attribute.
pub(crate) const NO_ATTRIBUTE: Errno = Errno::NODATA;
/// Whether the end of a device can be found by going there.
pub(crate) const DEVICES_END: bool = true;
/// What is asked of the system for every entry.
const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);
/// Room for the names that the system hands out at once.
const LISTING_SIZE: usize = 32 << 10;
/// Magic number of all FUSE file systems.
const FUSE: u64 = 0x6573_5546;

impl From<Statx> for Status {
    fn from(stat: Statx) -> Self {
        let has_birth = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        Self {
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            mode: stat.stx_mode,
            size: stat.stx_size,
            allocated: stat.stx_blocks.saturating_mul(512),
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            link_count: stat.stx_nlink,
            modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            changed: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
            born: has_birth.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)),
            names_device: (stat.stx_rdev_major, stat.stx_rdev_minor),
            flags: None,
        }
    }
}

/// From the older call, which does not tell of birth, and which every kernel has.
impl From<Stat> for Status {
    fn from(stat: Stat) -> Self {
        let numbers = |device| (rustix::fs::major(device), rustix::fs::minor(device));
        let time = |seconds, nanos: u64| (seconds, u32::try_from(nanos).unwrap_or(0));
        Self {
            device: numbers(stat.st_dev),
            inode: stat.st_ino,
            mode: u16::try_from(stat.st_mode & 0xffff).unwrap_or(0),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            allocated: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
            uid: stat.st_uid,
            gid: stat.st_gid,
            link_count: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            modified: time(stat.st_mtime, stat.st_mtime_nsec),
            changed: time(stat.st_ctime, stat.st_ctime_nsec),
            born: None,
            names_device: numbers(stat.st_rdev),
            flags: None,
        }
    }
}

/// What the system tells of an entry: of a link itself, and without mounting anything.
pub(crate) fn status(directory: impl AsFd, name: impl Arg) -> Result<Status, Errno> {
    rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, WANTED).map(Status::from)
}

/// What the system tells of something open.
pub(crate) fn status_of(open: impl AsFd) -> Result<Status, Errno> {
    rustix::fs::statx(open, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map(Status::from)
}

/// What the system tells of a path, links followed.
pub(crate) fn status_at(path: &Path) -> Result<Status, Errno> {
    rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS).map(Status::from)
}

/// Tells the names in a directory that was just opened, as the system lists them. `buffer` is used again and again.
pub(crate) fn list(directory: BorrowedFd<'_>, buffer: &mut Vec<u8>, name: &mut dyn FnMut(&CStr)) -> Result<(), Errno> {
    buffer.clear();
    buffer.reserve(LISTING_SIZE);
    let mut listing = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(item) = listing.next() {
        name(item?.file_name());
    }
    Ok(())
}

/// A path that leads through an open directory and names the entry itself: calls that follow no links (`l…`) need one.
pub(crate) fn path_in(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>, Errno> {
    Ok([format!("/proc/self/fd/{}/", directory.as_raw_fd()).as_bytes(), name].concat())
}

/// Makes a pipe, a socket or a device.
pub(crate) fn make_special(directory: BorrowedFd<'_>, name: &[u8], kind: EntryKind, device: u64) -> Result<(), Errno> {
    let (kind, device) = match kind {
        EntryKind::Fifo => (FileType::Fifo, 0),
        EntryKind::Socket => (FileType::Socket, 0),
        EntryKind::CharDevice => (FileType::CharacterDevice, device),
        EntryKind::BlockDevice => (FileType::BlockDevice, device),
        EntryKind::File | EntryKind::Directory | EntryKind::Symlink => return Err(Errno::INVAL),
    };
    rustix::fs::mknodat(directory, name, kind, Mode::from_raw_mode(0o600), device)
}

/// Changes the mode of what stands under a name in a directory. Links have none, and a link that took its place meanwhile must not lead elsewhere: the call that takes
/// names follows links, so the entry is held first, in a way that opens neither pipes nor devices.
pub(crate) fn set_mode_of(directory: BorrowedFd<'_>, name: &[u8], mode: Mode) -> Result<(), Errno> {
    let held = rustix::fs::openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&held)?.st_mode) == FileType::Symlink {
        return Err(Errno::LOOP);
    }
    rustix::fs::chmod(format!("/proc/self/fd/{}", held.as_raw_fd()), mode)
}

/// Sets the flags of macOS, which are none here.
pub(crate) fn set_flags(_open: BorrowedFd<'_>, _flags: u32) -> Result<(), Errno> {
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

/// Reads at an offset, or where the file stands, past the system's cache: pages that this read brings in go with it, those that were there stay. `OPNOTSUPP`, `INVAL` or
/// `NOSYS` where the system or the file system cannot do that.
pub(crate) fn read_past_cache(file: &File, buffer: &mut [u8], offset: Option<u64>) -> Result<usize, Errno> {
    /// `RWF_DONTCACHE`. To Linux the largest offset means where the file stands.
    const DONT_CACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);
    preadv2(file, &mut [IoSliceMut::new(buffer)], offset.unwrap_or(u64::MAX), DONT_CACHE)
}

/// Whether the file system of a directory gives its entries the same inodes again after a remount: those that have none make them up.
pub(crate) fn keeps_inodes(directory: BorrowedFd<'_>) -> bool {
    const MAKE_THEM_UP: [u64; 4] = [FUSE, 0x4d44 /* msdos */, 0x2011_bab0 /* exfat */, 0x0102_1997 /* 9p */];
    !file_system(directory).is_some_and(|kind| MAKE_THEM_UP.contains(&kind))
}

/// Whether a directory belongs to a file system that the kernel makes up, or is one of our own mounts.
pub(crate) fn is_pseudo(directory: BorrowedFd<'_>) -> bool {
    const PSEUDO: [u64; 16] = [
        0x9fa0,      // proc
        0x6265_6572, // sysfs
        0x1cd1,      // devpts
        0x0027_e0eb, // cgroup
        0x6367_7270, // cgroup2
        0x6462_6720, // debugfs
        0x7472_6163, // tracefs
        0x7363_6673, // securityfs
        0xcafe_4a11, // bpf
        0x1980_0202, // mqueue
        0x0187,      // autofs
        0x6165_676c, // pstore
        0x6265_6570, // configfs
        0xde5e_81e4, // efivarfs
        0x4249_4e4d, // binfmt_misc
        0x6e73_6673, // nsfs
    ];
    let Some(kind) = file_system(directory) else { return false };
    PSEUDO.contains(&kind) || (kind == FUSE && is_own_mount(directory)) || is_device_tree(directory)
}

/// The magic number of the file system that a directory is on.
fn file_system(directory: BorrowedFd<'_>) -> Option<u64> {
    let info = rustix::fs::fstatfs(directory).ok()?;
    #[expect(clippy::cast_sign_loss, reason = "a magic number, whatever type the C library gives it")]
    Some(info.f_type as u64 & 0xffff_ffff)
}

fn is_own_mount(directory: BorrowedFd<'_>) -> bool {
    let Ok(Status { device: (major, minor), .. }) = status_of(directory) else { return false };
    let device = format!(" {major}:{minor} ");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_ours = |line: &str| line.contains(" - fuse.yesterdrive ") || line.contains(" - fuse yesterdrive ");
    mounts.lines().any(|line| line.contains(&device) && is_ours(line))
}

/// A devtmpfs cannot be told from a tmpfs by its number, only by its mount.
fn is_device_tree(directory: BorrowedFd<'_>) -> bool {
    let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let mounted_on = std::fs::read_link(link).unwrap_or_default();
    mounted_on == Path::new("/dev")
}
