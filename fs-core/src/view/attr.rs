//! Attributes of an entry of the view.

use crate::time::Timestamp;
use crate::tree::EntryKind;

/// What `stat` tells. Times that the source did not record are those of its modification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    /// Number of the entry: one number, one entry, for ever.
    pub inode: u64,
    /// Kind.
    pub kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names that lead to this file in its snapshot; for a directory 2 and one for each subdirectory.
    pub link_count: u64,
    /// Length in bytes.
    pub size: u64,
    /// Bytes that are not holes.
    pub allocated: u64,
    /// Modification.
    pub mtime: Timestamp,
    /// Change.
    pub ctime: Timestamp,
    /// Birth.
    pub btime: Timestamp,
    /// Device number (major, minor) of a device.
    pub device: Option<(u32, u32)>,
    /// Windows attributes, if the source had them.
    pub windows_attributes: Option<u32>,
}
