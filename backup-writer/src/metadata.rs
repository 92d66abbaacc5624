//! Gives a restored entry the metadata that it had.
//!
//! The order matters: the owner first, because changing it clears set-user-id bits and capabilities; then attributes, while the file can still be written to; the
//! mode; access control lists, which contain a mode; times last. Nothing here follows a symbolic link. What the system does not allow is a problem to report,
//! not an error. What is captured stands in `source`.

use std::sync::Arc;

use fs_core::path::Name;
use fs_core::reader::ContentReader;
use fs_core::repository::{ReadError, Repository};
use fs_core::tree::Value;

use crate::system::{Borrowed, Errno};

mod owners;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

pub use owners::{Names, Owner, Owners};
#[cfg(unix)]
pub use unix::{apply, hands_down_a_list, leaves_out};
#[cfg(windows)]
pub use windows::{apply, hands_down_a_list, leaves_out};

/// Something of an entry's metadata that could not be restored.
#[derive(Debug, thiserror::Error)]
pub enum MetadataProblem {
    /// The system refused.
    #[error("its {what} could not be restored: {error}")]
    Refused {
        /// Which part.
        what: String,
        /// What the system said.
        error: Errno,
    },
    /// A long attribute value could not be read from the repository.
    #[error("a value of its attributes could not be read")]
    Read(#[from] ReadError),
}

/// What gets the metadata.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// An open file or directory.
    Open(Borrowed<'a>),
    /// What stands under a name in a directory that nobody else changes meanwhile: a link, a pipe, a device.
    Named(Borrowed<'a>, &'a Name),
}

/// What an entry has before it gets its metadata.
#[derive(Clone, Copy, Debug, Default)]
pub struct Before {
    /// Owner and group, where they are known for certain.
    pub owner: Option<Owner>,
    /// It may have attributes or access control lists that were not saved, and must lose them.
    pub has_more: bool,
}

/// The bytes of an attribute's value, read from the repository if it is long.
pub(crate) fn bytes_of(repository: &Arc<Repository>, value: &Value) -> Result<Vec<u8>, ReadError> {
    match value {
        Value::Inline(bytes) => Ok(bytes.clone()),
        Value::Stored { size, content } => {
            ContentReader::new(Arc::clone(repository), *size, content.clone(), None).read(0, *size).map(|bytes| bytes.to_vec())
        }
    }
}
