//! Errors and attributes of the view as Windows wants them: total and pure.

use fs_core::time::Timestamp;
use fs_core::tree::EntryKind;
use fs_core::view::attr::Attr;
use fs_core::view::error::ViewError;

/// `STATUS_OBJECT_NAME_NOT_FOUND`
pub const OBJECT_NAME_NOT_FOUND: u32 = 0xc000_0034;
/// `STATUS_FILE_INVALID`
pub const FILE_INVALID: u32 = 0xc000_0098;
/// `STATUS_NOT_A_DIRECTORY`
pub const NOT_A_DIRECTORY: u32 = 0xc000_0103;
/// `STATUS_FILE_IS_A_DIRECTORY`
pub const FILE_IS_A_DIRECTORY: u32 = 0xc000_00ba;
/// `STATUS_INVALID_PARAMETER`
pub const INVALID_PARAMETER: u32 = 0xc000_000d;
/// `STATUS_NOT_FOUND`
pub const NOT_FOUND: u32 = 0xc000_0225;
/// `STATUS_END_OF_FILE`
pub const END_OF_FILE: u32 = 0xc000_0011;
/// `STATUS_MEDIA_WRITE_PROTECTED`
pub const MEDIA_WRITE_PROTECTED: u32 = 0xc000_00a2;
/// `STATUS_ACCESS_DENIED`
pub const ACCESS_DENIED: u32 = 0xc000_0022;
/// `STATUS_FILE_CORRUPT_ERROR`
pub const FILE_CORRUPT_ERROR: u32 = 0xc000_0102;
/// `STATUS_IO_TIMEOUT`
pub const IO_TIMEOUT: u32 = 0xc000_00b5;

/// `FILE_ATTRIBUTE_HIDDEN`
pub const HIDDEN: u32 = 0x2;
/// `FILE_ATTRIBUTE_DIRECTORY`
pub const DIRECTORY: u32 = 0x10;
/// `FILE_ATTRIBUTE_NORMAL`
pub const NORMAL: u32 = 0x80;
/// `FILE_ATTRIBUTE_NOT_CONTENT_INDEXED`: keeps the indexer from reading the backup.
pub const NOT_CONTENT_INDEXED: u32 = 0x2000;

/// The NTSTATUS of an error.
pub fn status(error: &ViewError) -> u32 {
    match error {
        ViewError::NotFound => OBJECT_NAME_NOT_FOUND,
        ViewError::Stale => FILE_INVALID,
        ViewError::NotDirectory => NOT_A_DIRECTORY,
        ViewError::IsDirectory => FILE_IS_A_DIRECTORY,
        ViewError::Invalid => INVALID_PARAMETER,
        ViewError::NoAttribute | ViewError::Unsupported => NOT_FOUND,
        ViewError::NoMoreData => END_OF_FILE,
        ViewError::ReadOnly => MEDIA_WRITE_PROTECTED,
        ViewError::Closed(_) => ACCESS_DENIED,
        ViewError::Damaged(_) => FILE_CORRUPT_ERROR,
        ViewError::Unreachable(_) => IO_TIMEOUT,
    }
}

/// What Windows asks about a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileInformation {
    /// `FILE_ATTRIBUTE_…`
    pub attributes: u32,
    /// Bytes on disk, a multiple of 4096.
    pub allocation_size: u64,
    /// Length in bytes.
    pub size: u64,
    /// Birth, in 100 ns since 1601.
    pub created: u64,
    /// Modification, in 100 ns since 1601.
    pub written: u64,
    /// Change, in 100 ns since 1601.
    pub changed: u64,
    /// Number of the file.
    pub index: u64,
    /// Names of the file.
    pub link_count: u32,
}

/// What Windows is told about an entry. `hidden`: its name begins with a dot.
pub fn information(attr: &Attr, hidden: bool) -> FileInformation {
    let kept = attr.windows_attributes.unwrap_or(if hidden { HIDDEN } else { 0 }) & !(DIRECTORY | NORMAL);
    let kind = if attr.kind == EntryKind::Directory { DIRECTORY } else { 0 };
    FileInformation {
        attributes: kept | kind | NOT_CONTENT_INDEXED,
        allocation_size: attr.allocated.div_ceil(4096).saturating_mul(4096),
        size: attr.size,
        created: file_time(attr.btime),
        written: file_time(attr.mtime),
        changed: file_time(attr.ctime),
        index: attr.inode,
        link_count: u32::try_from(attr.link_count).unwrap_or(u32::MAX),
    }
}

/// 100 ns since 1601-01-01 UTC; times outside of what Windows can hold become the nearest that it can.
pub fn file_time(time: Timestamp) -> u64 {
    const TICKS: i128 = 10_000_000;
    const FROM_1601_TO_1970: i128 = 11_644_473_600;
    let ticks = (i128::from(time.seconds()) + FROM_1601_TO_1970) * TICKS + i128::from(time.nanos() / 100);
    u64::try_from(ticks.clamp(0, i64::MAX.into())).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_windows() {
        assert_eq!(file_time(Timestamp::new(0, 0).unwrap()), 116_444_736_000_000_000);
        assert_eq!(file_time(Timestamp::new(-11_644_473_600, 100).unwrap()), 1);
        assert_eq!(file_time(Timestamp::new(i64::MIN, 0).unwrap()), 0);
        assert_eq!(file_time(Timestamp::new(i64::MAX, 0).unwrap()), i64::MAX as u64);
    }

    #[test]
    fn folders_are_folders_and_nothing_is_indexed() {
        let time = Timestamp::default();
        let attr = Attr {
            inode: 9,
            kind: EntryKind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            link_count: 2,
            size: 0,
            allocated: 1,
            mtime: time,
            ctime: time,
            btime: time,
            device: None,
            windows_attributes: Some(NORMAL | HIDDEN),
        };
        let shown = information(&attr, false);
        assert_eq!((shown.attributes, shown.allocation_size), (DIRECTORY | HIDDEN | NOT_CONTENT_INDEXED, 4096));
        assert_eq!(status(&ViewError::ReadOnly), MEDIA_WRITE_PROTECTED);
    }
}
