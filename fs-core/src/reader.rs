//! A byte range of a file becomes records becomes bytes. Holes of sparse files become zeros here and nowhere else.

use std::sync::Arc;

use bytes::Bytes;

use crate::repository::{ReadError, Repository};
use crate::tree::{Content, Entry, Extent};

/// Reads one stream of bytes: a file, an extended attribute, an alternate stream. Shared between threads.
#[derive(Debug)]
pub struct ContentReader {}

impl ContentReader {
    /// A reader of a regular file.
    pub fn of_file(repository: Arc<Repository>, entry: &Entry) -> Self {
        Self::new(repository, entry.size, entry.content.clone(), entry.sparse.clone())
    }

    /// A reader of `content`, `size` bytes long with its holes.
    pub fn new(repository: Arc<Repository>, size: u64, content: Content, sparse: Option<Vec<Extent>>) -> Self {
        let _ = (repository, size, content, sparse);
        unimplemented!()
    }

    /// Length in bytes, holes included.
    pub fn size(&self) -> u64 {
        unimplemented!()
    }

    /// Reads if everything needed is in memory. Never blocks; see [`Self::read`].
    pub fn try_read(&self, offset: u64, length: u64) -> Option<Bytes> {
        let _ = (offset, length);
        unimplemented!()
    }

    /// Reads exactly `length` bytes from `offset`, fewer only at the end of the file, none beyond it. May wait for the store.
    ///
    /// # Errors
    /// See [`ReadError`]: never zeros instead of data.
    pub fn read(&self, offset: u64, length: u64) -> Result<Bytes, ReadError> {
        let _ = (offset, length);
        unimplemented!()
    }
}
