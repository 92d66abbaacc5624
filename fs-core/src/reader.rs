//! A byte range of a file becomes records becomes bytes. Holes of sparse files become zeros here and nowhere else.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::record::Reference;
use crate::repository::{Held, Pause, ReadError, Repository};
use crate::tree::list::locate;
use crate::tree::{Content, Entry, Extent, TreeError};

/// Reads one stream of bytes: a file, an extended attribute, an alternate stream. Shared between threads.
#[derive(Debug)]
pub struct ContentReader {
    repository: Arc<Repository>,
    size: u64,
    content: Content,
    /// Where the stream begins in its content: a small file may be a part of a record.
    origin: u64,
    sparse: Option<Vec<Extent>>,
}

impl ContentReader {
    /// A reader of a regular file.
    pub fn of_file(repository: Arc<Repository>, entry: &Entry) -> Self {
        Self::new(repository, entry.size, entry.content.clone(), entry.sparse.clone())
    }

    /// A reader of `content`, `size` bytes long with its holes.
    pub fn new(repository: Arc<Repository>, size: u64, content: Content, sparse: Option<Vec<Extent>>) -> Self {
        let (content, origin) = match content {
            Content::Fragment { start, reference } => (Content::Inline(vec![reference]), start.into()),
            content => (content, 0),
        };
        Self { repository, size, content, origin, sparse }
    }

    /// Length in bytes, holes included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads exactly `length` bytes from `offset`, fewer only at the end of the file, none beyond it. May wait for the store.
    ///
    /// # Errors
    /// [`ReadError`]: never zeros instead of data.
    pub fn read(&self, offset: u64, length: u64) -> Result<Bytes, ReadError> {
        self.repository.answer(|held| self.read_in_memory(held, offset, length))
    }

    /// The same from what is in memory.
    ///
    /// # Errors
    /// [`Pause`], with all records that are missing for this range as far as the lists in memory tell.
    pub fn read_in_memory(&self, held: &Held, offset: u64, length: u64) -> Result<Bytes, Pause> {
        let end = offset.saturating_add(length).min(self.size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        let pieces = self.pieces(offset, end);
        if let [Piece::Data(range)] = &pieces[..] {
            return self.read_data(held, range.clone());
        }
        let mut bytes = BytesMut::with_capacity(usize::try_from(end - offset).unwrap_or(0));
        for piece in pieces {
            match piece {
                Piece::Hole(length) => bytes.resize(bytes.len() + usize::try_from(length).unwrap_or(0), 0),
                Piece::Data(range) => bytes.extend_from_slice(&self.read_data(held, range)?),
            }
        }
        Ok(bytes.freeze())
    }

    /// The data records that hold a range of the file, in order.
    ///
    /// # Errors
    /// [`Pause`] for lists that are not in memory.
    pub fn records(&self, held: &Held, range: Range<u64>) -> Result<Vec<Reference>, Pause> {
        let mut records: Vec<Reference> = Vec::new();
        for piece in self.pieces(range.start, range.end.min(self.size)) {
            let Piece::Data(mut at) = piece else { continue };
            while at.start < at.end {
                let (record, start) = self.record_at(held, at.start)?;
                at.start = start + u64::from(record.plain_len);
                records.push(record);
            }
        }
        Ok(records)
    }

    /// A range of the content, in records: without a copy where one record holds all of it.
    fn read_data(&self, held: &Held, range: Range<u64>) -> Result<Bytes, Pause> {
        let (mut at, mut missing) = (range.start, Vec::new());
        let mut gathered: Option<BytesMut> = None;
        while at < range.end {
            let (record, start) = self.record_at(held, at)?;
            let data = match self.repository.data_in_memory(held, &record) {
                Ok(data) => data,
                Err(Pause::Missing(wants)) => {
                    missing.extend(wants);
                    at = start + u64::from(record.plain_len);
                    continue;
                }
                Err(failed) => return Err(failed),
            };
            let from = usize::try_from(at - start).unwrap_or(usize::MAX).min(data.len());
            let to = usize::try_from(range.end - start).unwrap_or(usize::MAX).min(data.len());
            let piece = data.slice(from..to);
            if piece.is_empty() {
                return Err(SHORT.into());
            }
            at += piece.len() as u64;
            match &mut gathered {
                None if at == range.end && missing.is_empty() => return Ok(piece),
                None => {
                    let mut bytes = BytesMut::with_capacity(usize::try_from(range.end - range.start).unwrap_or(0));
                    bytes.extend_from_slice(&piece);
                    gathered = Some(bytes);
                }
                Some(bytes) if missing.is_empty() => bytes.extend_from_slice(&piece),
                Some(_) => {}
            }
        }
        if missing.is_empty() { Ok(gathered.map(BytesMut::freeze).unwrap_or_default()) } else { Err(Pause::Missing(missing)) }
    }

    /// The data record that holds a byte of the content, and where in the content it begins.
    fn record_at(&self, held: &Held, offset: u64) -> Result<(Reference, u64), Pause> {
        let (mut reference, mut depth) = match &self.content {
            Content::List { depth, reference } => (*reference, *depth),
            content => {
                let mut start = 0;
                for reference in content.references() {
                    let end = start + u64::from(reference.plain_len);
                    if offset < end {
                        return Ok((*reference, start));
                    }
                    start = end;
                }
                return Err(SHORT.into());
            }
        };
        let mut start = 0;
        while depth > 0 {
            let list = self.repository.list_in_memory(held, &reference)?;
            let found = if list.depth == depth { locate(&list, offset - start) } else { None };
            let (row, before) = found.ok_or(SHORT)?;
            (reference, start, depth) = (row.reference, start + before, depth - 1);
        }
        Ok((reference, start))
    }

    /// A range of the file as holes and ranges of the content.
    fn pieces(&self, start: u64, end: u64) -> Vec<Piece> {
        let Some(extents) = &self.sparse else { return vec![Piece::Data(self.origin + start..self.origin + end)] };
        let (mut pieces, mut at, mut content) = (Vec::new(), start, self.origin);
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
