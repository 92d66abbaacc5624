//! What differs between systems below the source and the restore: names in open directories, what stands under them, who runs this.
//!
//! Each system has the same face (`unix.rs`, `windows.rs`), so nothing above asks which one it is. Everything is relative to an open directory and follows no link,
//! unless it says so.

use fs_core::tree::EntryKind;

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;
#[cfg_attr(unix, allow(dead_code, reason = "for Windows; pure, and tested on every system"))]
pub(crate) mod reparse;
#[cfg_attr(unix, allow(dead_code, reason = "for Windows; pure, and tested on every system"))]
pub(crate) mod security;
#[cfg_attr(unix, allow(dead_code, reason = "for Windows; pure, and tested on every system"))]
pub(crate) mod wtf8;

#[cfg(unix)]
pub use unix::*;
#[cfg(windows)]
pub use windows::*;

/// What stands under a name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// `None` for kinds that no snapshot has.
    pub kind: Option<EntryKind>,
    /// The low twelve bits. Where there are no modes, those of something that its owner may read and write.
    pub mode: u32,
    /// Owner; 0 where owners have no numbers.
    pub owner: u32,
    /// Group; 0 where groups have no numbers.
    pub group: u32,
    /// Names of the same file.
    pub link_count: u64,
    /// Length in bytes.
    pub size: u64,
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// File system and number in it.
    pub identity: (u64, u64),
    /// The device that it stands for.
    #[cfg_attr(windows, expect(dead_code, reason = "Windows has no such entries"))]
    pub device: u64,
}
