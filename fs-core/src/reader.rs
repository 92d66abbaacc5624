//! A byte range of a file becomes records becomes bytes. Holes of sparse files become zeros here and nowhere else.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::record::Reference;
use crate::repository::{ReadError, Repository};
use crate::tree::list::locate;
use crate::tree::{Content, Entry, Extent, List, TreeError};

/// Reads one stream of bytes: a file, an extended attribute, an alternate stream. Shared between threads.
#[derive(Debug)]
pub struct ContentReader {
    repository: Arc<Repository>,
    size: u64,
    content: Content,
    sparse: Option<Vec<Extent>>,
}

/// What is wanted of the records of a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Only what is in memory.
    Memory,
    /// Whatever it takes.
    Store,
}

impl ContentReader {
    /// A reader of a regular file.
    pub fn of_file(repository: Arc<Repository>, entry: &Entry) -> Self {
        Self::new(repository, entry.size, entry.content.clone(), entry.sparse.clone())
    }

    /// A reader of `content`, `size` bytes long with its holes.
    pub fn new(repository: Arc<Repository>, size: u64, content: Content, sparse: Option<Vec<Extent>>) -> Self {
        Self { repository, size, content, sparse }
    }

    /// Length in bytes, holes included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads if everything needed is in memory. Never waits for the store; see [`Self::read`].
    pub fn try_read(&self, offset: u64, length: u64) -> Option<Bytes> {
        self.read_in(Mode::Memory, offset, length).ok().flatten()
    }

    /// Reads exactly `length` bytes from `offset`, fewer only at the end of the file, none beyond it. May wait for the store.
    ///
    /// # Errors
    /// [`ReadError`]: never zeros instead of data.
    pub fn read(&self, offset: u64, length: u64) -> Result<Bytes, ReadError> {
        self.read_in(Mode::Store, offset, length)?.ok_or(ReadError::Tree(SHORT))
    }

    /// The data records that hold a range of the file, in order. May wait for the store for lists.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn records(&self, range: Range<u64>) -> Result<Vec<Reference>, ReadError> {
        Ok(self.records_in(Mode::Store, range)?.unwrap_or_default())
    }

    /// The same if the lists needed are in memory. Never waits for the store.
    pub fn try_records(&self, range: Range<u64>) -> Option<Vec<Reference>> {
        self.records_in(Mode::Memory, range).ok().flatten()
    }

    fn records_in(&self, mode: Mode, range: Range<u64>) -> Result<Option<Vec<Reference>>, ReadError> {
        let mut records: Vec<Reference> = Vec::new();
        for piece in self.pieces(range.start, range.end.min(self.size)) {
            let Piece::Data(mut at) = piece else { continue };
            while at.start < at.end {
                let Some((record, start)) = self.record_at(mode, at.start)? else { return Ok(None) };
                at.start = start + u64::from(record.plain_len);
                records.push(record);
            }
        }
        Ok(Some(records))
    }

    fn read_in(&self, mode: Mode, offset: u64, length: u64) -> Result<Option<Bytes>, ReadError> {
        let end = offset.saturating_add(length).min(self.size);
        if offset >= end {
            return Ok(Some(Bytes::new()));
        }
        let pieces = self.pieces(offset, end);
        if let [Piece::Data(range)] = &pieces[..] {
            return self.read_data(mode, range.clone());
        }
        let mut bytes = BytesMut::with_capacity(usize::try_from(end - offset).unwrap_or(0));
        for piece in pieces {
            match piece {
                Piece::Hole(length) => bytes.resize(bytes.len() + usize::try_from(length).unwrap_or(0), 0),
                Piece::Data(range) => match self.read_data(mode, range)? {
                    Some(data) => bytes.extend_from_slice(&data),
                    None => return Ok(None),
                },
            }
        }
        Ok(Some(bytes.freeze()))
    }

    /// A range of the content, in records: without a copy where one record holds all of it.
    fn read_data(&self, mode: Mode, range: Range<u64>) -> Result<Option<Bytes>, ReadError> {
        let mut at = range.start;
        let mut gathered: Option<BytesMut> = None;
        while at < range.end {
            let Some((record, start)) = self.record_at(mode, at)? else { return Ok(None) };
            let data = match mode {
                Mode::Memory => match self.repository.cached_data(&record.id) {
                    Some(data) => data,
                    None => return Ok(None),
                },
                Mode::Store => self.repository.data(&record)?,
            };
            let from = usize::try_from(at - start).unwrap_or(usize::MAX).min(data.len());
            let to = usize::try_from(range.end - start).unwrap_or(usize::MAX).min(data.len());
            let piece = data.slice(from..to);
            if piece.is_empty() {
                return Err(ReadError::Tree(SHORT));
            }
            at += piece.len() as u64;
            match &mut gathered {
                None if at == range.end => return Ok(Some(piece)),
                None => {
                    let mut bytes = BytesMut::with_capacity(usize::try_from(range.end - range.start).unwrap_or(0));
                    bytes.extend_from_slice(&piece);
                    gathered = Some(bytes);
                }
                Some(bytes) => bytes.extend_from_slice(&piece),
            }
        }
        Ok(Some(gathered.map(BytesMut::freeze).unwrap_or_default()))
    }

    /// The data record that holds a byte of the content, and where in the content it begins. `None` only if a list is not in memory.
    fn record_at(&self, mode: Mode, offset: u64) -> Result<Option<(Reference, u64)>, ReadError> {
        let (mut reference, mut depth) = match &self.content {
            Content::List { depth, reference } => (*reference, *depth),
            Content::Inline(references) => {
                let mut start = 0;
                for reference in references {
                    let end = start + u64::from(reference.plain_len);
                    if offset < end {
                        return Ok(Some((*reference, start)));
                    }
                    start = end;
                }
                return Err(ReadError::Tree(SHORT));
            }
        };
        let mut start = 0;
        while depth > 0 {
            let Some(list) = self.list(mode, &reference)? else { return Ok(None) };
            let found = if list.depth == depth { locate(&list, offset - start) } else { None };
            let (row, before) = found.ok_or(ReadError::Tree(SHORT))?;
            (reference, start, depth) = (row.reference, start + before, depth - 1);
        }
        Ok(Some((reference, start)))
    }

    fn list(&self, mode: Mode, reference: &Reference) -> Result<Option<Arc<List>>, ReadError> {
        match mode {
            Mode::Memory => Ok(self.repository.cached_list(&reference.id)),
            Mode::Store => self.repository.list(reference).map(Some),
        }
    }

    /// A range of the file as holes and ranges of the content.
    fn pieces(&self, start: u64, end: u64) -> Vec<Piece> {
        let Some(extents) = &self.sparse else { return vec![Piece::Data(start..end)] };
        let (mut pieces, mut at, mut content) = (Vec::new(), start, 0);
        for extent in extents {
            let extent_end = extent.offset + extent.length;
            if extent.offset >= end {
                break;
            }
            if extent_end > at {
                if extent.offset > at {
                    pieces.push(Piece::Hole(extent.offset - at));
                    at = extent.offset;
                }
                let stop = extent_end.min(end);
                pieces.push(Piece::Data(content + (at - extent.offset)..content + (stop - extent.offset)));
                at = stop;
            }
            content += extent.length;
        }
        if at < end {
            pieces.push(Piece::Hole(end - at));
        }
        pieces
    }
}

const SHORT: TreeError = TreeError::Broken("the records of a file are shorter than the file");

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    /// So many zeros.
    Hole(u64),
    /// A range of the content.
    Data(Range<u64>),
}
