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

/// `STATUS_OBJECT_PATH_NOT_FOUND`
pub const OBJECT_PATH_NOT_FOUND: u32 = 0xc000_003a;
/// `STATUS_NOT_A_REPARSE_POINT`
pub const NOT_A_REPARSE_POINT: u32 = 0xc000_0275;
/// `STATUS_BUFFER_TOO_SMALL`
pub const BUFFER_TOO_SMALL: u32 = 0xc000_0023;
/// `STATUS_BUFFER_OVERFLOW`
pub const BUFFER_OVERFLOW: u32 = 0x8000_0005;
/// `STATUS_VOLUME_DISMOUNTED`: the drive is being unmounted.
pub const VOLUME_DISMOUNTED: u32 = 0xc000_026e;

/// `FILE_ATTRIBUTE_HIDDEN`
pub const HIDDEN: u32 = 0x2;
/// `FILE_ATTRIBUTE_REPARSE_POINT`
pub const REPARSE_POINT: u32 = 0x400;
/// `FILE_ATTRIBUTE_RECALL_ON_DATA_ACCESS`: reading it costs something, so nobody should who only looks around.
pub const RECALL_ON_DATA_ACCESS: u32 = 0x0040_0000;
/// What of saved attributes is shown of files: read-only, hidden, system, archive, temporary. Others say how the source's disk kept its bytes: a file that
/// was encrypted or compressed there is neither here.
const SHOWN_OF_FILES: u32 = 0x1 | HIDDEN | 0x4 | 0x20 | 0x100;
/// Of folders not "read-only" and "system": the shell takes them for a sign that there are settings in the folder, and asks for them.
const SHOWN_OF_FOLDERS: u32 = HIDDEN | 0x20;
/// `FILE_ATTRIBUTE_DIRECTORY`
pub const DIRECTORY: u32 = 0x10;
/// `FILE_ATTRIBUTE_NORMAL`
#[cfg(test)]
const NORMAL: u32 = 0x80;
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

/// What Windows is told about an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Look {
    /// Its name begins with a dot: hidden, if the source knew no attributes.
    pub is_dotted: bool,
    /// Windows is to take it for a folder.
    pub is_folder: bool,
    /// Its content has to come over a network.
    pub is_far: bool,
}

/// What Windows is told about an entry.
pub fn information(attr: &Attr, look: Look) -> FileInformation {
    let kept = attr.windows_attributes.unwrap_or(if look.is_dotted { HIDDEN } else { 0 });
    let kind = if look.is_folder { kept & SHOWN_OF_FOLDERS | DIRECTORY } else { kept & SHOWN_OF_FILES };
    let link = if attr.kind == EntryKind::Symlink { REPARSE_POINT } else { 0 };
    let far = if look.is_far && attr.kind == EntryKind::File && attr.size > 0 { RECALL_ON_DATA_ACCESS } else { 0 };
    // Of a link and of what is no file there is nothing to be read.
    let is_file = attr.kind == EntryKind::File;
    FileInformation {
        attributes: kind | link | far | NOT_CONTENT_INDEXED,
        allocation_size: if is_file { allocation(attr.allocated) } else { 0 },
        size: if is_file { attr.size } else { 0 },
        created: file_time(attr.btime),
        written: file_time(attr.mtime),
        changed: file_time(attr.ctime),
        index: attr.inode,
        link_count: u32::try_from(attr.link_count).unwrap_or(u32::MAX),
    }
}

/// What Windows is told about an alternate stream of an entry: it is read like a file, also that of a folder.
pub fn of_stream(of_entry: FileInformation, size: u64) -> FileInformation {
    let attributes = of_entry.attributes & !(DIRECTORY | REPARSE_POINT);
    FileInformation { attributes, size, allocation_size: allocation(size), ..of_entry }
}

/// Bytes on disk, in whole blocks.
pub fn allocation(size: u64) -> u64 {
    size.div_ceil(4096).saturating_mul(4096)
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

    fn attr(kind: EntryKind, windows_attributes: Option<u32>) -> Attr {
        let time = Timestamp::default();
        Attr {
            inode: 9,
            kind,
            mode: 0o755,
            uid: 0,
            gid: 0,
            link_count: 2,
            size: 5,
            allocated: 1,
            mtime: time,
            ctime: time,
            btime: time,
            device: None,
            windows_attributes,
        }
    }

    #[test]
    fn folders_invite_nobody_to_look_for_settings_and_nothing_is_indexed() {
        let folder = Look { is_folder: true, is_far: true, is_dotted: false };
        let shown = information(&attr(EntryKind::Directory, Some(NORMAL | HIDDEN | 0x5)), folder);
        assert_eq!((shown.attributes, shown.size), (DIRECTORY | HIDDEN | NOT_CONTENT_INDEXED, 0));
        assert_eq!(status(&ViewError::ReadOnly), MEDIA_WRITE_PROTECTED);
    }

    #[test]
    fn files_keep_what_is_true_here_and_say_if_they_are_far() {
        let saved = Some(0x1 | 0x20 | 0x4000 | 0x800 | REPARSE_POINT);
        let near = information(&attr(EntryKind::File, saved), Look::default());
        assert_eq!((near.attributes, near.size, near.allocation_size), (0x21 | NOT_CONTENT_INDEXED, 5, 4096));
        let far = information(&attr(EntryKind::File, None), Look { is_far: true, is_dotted: true, is_folder: false });
        assert_eq!(far.attributes, HIDDEN | RECALL_ON_DATA_ACCESS | NOT_CONTENT_INDEXED);
        let link = information(&attr(EntryKind::Symlink, None), Look { is_far: true, is_folder: true, is_dotted: false });
        assert_eq!((link.attributes, link.size), (DIRECTORY | REPARSE_POINT | NOT_CONTENT_INDEXED, 0));
    }
}
