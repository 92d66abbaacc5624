//! Our errors to the kernel's, our attributes to the kernel's: total and pure.

use std::time::{Duration, SystemTime};

use fs_core::time::Timestamp;
use fs_core::tree::EntryKind;
use fs_core::view::attr::Attr;
use fs_core::view::error::ViewError;
use fuser::{Errno, FileAttr, FileType, INodeNo};

/// The number that the kernel hands to the caller.
pub(crate) fn errno(error: &ViewError) -> Errno {
    use rustix::io::Errno as E;
    let number = match error {
        ViewError::NotFound => E::NOENT,
        ViewError::Stale => E::STALE,
        ViewError::NotDirectory => E::NOTDIR,
        ViewError::IsDirectory => E::ISDIR,
        ViewError::Invalid => E::INVAL,
        ViewError::NoAttribute => E::NODATA,
        ViewError::Unsupported => E::OPNOTSUPP,
        ViewError::NoMoreData => E::NXIO,
        ViewError::ReadOnly => E::ROFS,
        ViewError::Closed(_) => E::ACCESS,
        ViewError::Damaged(_) => E::IO,
        ViewError::Unreachable(_) => E::TIMEDOUT,
    };
    Errno::from_i32(number.raw_os_error())
}

/// Attributes as the kernel wants them.
pub(crate) fn attributes(attr: &Attr) -> FileAttr {
    let mtime = system_time(attr.mtime);
    FileAttr {
        ino: INodeNo(attr.inode),
        size: attr.size,
        blocks: attr.allocated.div_ceil(512),
        atime: mtime,
        mtime,
        ctime: system_time(attr.ctime),
        crtime: system_time(attr.btime),
        kind: file_type(attr.kind),
        perm: u16::try_from(attr.mode & 0o7777).unwrap_or(0),
        nlink: u32::try_from(attr.link_count).unwrap_or(u32::MAX),
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.device.map_or(0, |(major, minor)| kernel_device(major, minor)),
        blksize: 4096,
        flags: 0,
    }
}

/// Kinds as the kernel wants them.
pub(crate) fn file_type(kind: EntryKind) -> FileType {
    match kind {
        EntryKind::File => FileType::RegularFile,
        EntryKind::Directory => FileType::Directory,
        EntryKind::Symlink => FileType::Symlink,
        EntryKind::Fifo => FileType::NamedPipe,
        EntryKind::Socket => FileType::Socket,
        EntryKind::CharDevice => FileType::CharDevice,
        EntryKind::BlockDevice => FileType::BlockDevice,
    }
}

/// The 32-bit device number of the FUSE protocol: the kernel's `new_encode_dev`.
fn kernel_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12
}

fn system_time(time: Timestamp) -> SystemTime {
    let (seconds, nanos) = (time.seconds(), time.nanos());
    let at = if seconds >= 0 {
        SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds.unsigned_abs(), nanos))
    } else {
        let before = SystemTime::UNIX_EPOCH.checked_sub(Duration::from_secs(seconds.unsigned_abs()));
        before.and_then(|before| before.checked_add(Duration::from_nanos(nanos.into())))
    };
    at.unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        let time = system_time(Timestamp::new(-2, 250_000_000).unwrap());
        assert_eq!(SystemTime::UNIX_EPOCH.duration_since(time).unwrap(), Duration::from_millis(1750));
        assert_eq!(system_time(Timestamp::new(5, 7).unwrap()), SystemTime::UNIX_EPOCH + Duration::new(5, 7));
    }

    #[test]
    fn device_numbers_as_the_kernel_packs_them() {
        assert_eq!(kernel_device(1, 3), 0x103);
        assert_eq!(kernel_device(259, 0x12345), 0x1231_0345);
    }
}
