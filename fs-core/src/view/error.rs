//! What a view answers when it cannot: one small list that both adapters translate completely.

use crate::repository::ReadError;

/// Why a view operation failed.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// No entry of that name.
    #[error("no such entry")]
    NotFound,
    /// The number belongs to nothing any more, for instance because its snapshot was forgotten.
    #[error("this entry is gone: its snapshot no longer exists")]
    Stale,
    /// A directory was needed.
    #[error("not a directory")]
    NotDirectory,
    /// A directory was met where a file was needed.
    #[error("is a directory")]
    IsDirectory,
    /// Not a symbolic link, no device, or an argument out of range.
    #[error("this does not apply to such an entry")]
    Invalid,
    /// No extended attribute of that name.
    #[error("no such attribute")]
    NoAttribute,
    /// No entry of any snapshot has an attribute of that name: whoever asks entry after entry may stop.
    #[error("nothing here has such an attribute")]
    Unsupported,
    /// An offset behind the last data (lseek).
    #[error("no more data behind this offset")]
    NoMoreData,
    /// The drive is read-only.
    #[error("the drive is read-only")]
    ReadOnly,
    /// The key opens names and no contents.
    #[error("this key does not open it")]
    Closed(#[source] ReadError),
    /// The bytes are damaged or missing; everything else still works.
    #[error("the backup is damaged here")]
    Damaged(#[source] ReadError),
    /// The store did not answer in time.
    #[error("the store did not answer in time")]
    Unreachable(#[source] ReadError),
}
