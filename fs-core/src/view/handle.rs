//! A file that is being read: its reader, and who reads it where.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::prefetch::Cursors;
use crate::reader::ContentReader;

/// A file with the places where it is read.
#[derive(Debug)]
pub struct Handle {
    /// Reads the file.
    pub reader: ContentReader,
    cursors: Mutex<Cursors>,
}

impl Handle {
    /// A file of which nothing was read.
    pub fn new(reader: ContentReader) -> Self {
        Self { reader, cursors: Mutex::default() }
    }

    /// Notes a read; what should be fetched because of it.
    pub fn advance(&self, offset: u64, length: u64) -> Range<u64> {
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner).advance(offset, length, self.reader.size())
    }
}
