//! The bytes of trees, lists and tables. Layout: docs/FORMAT.md, section 10.

use super::{DEPTH_MAX, Entry, LIST_ROWS_MAX, Leaf, List, ListRow, POSITION_MAX, Page, PageRow, TreeError};
use crate::path::{NAME_LENGTH_MAX, Name};
use crate::wire::{CborReader, CborWriter, required};

mod entry;
mod places;
mod tables;

pub use entry::{decode_entry, encode_entry};
pub use places::{Places, References};
pub use tables::{decode_changes, decode_findings, decode_links, encode_changes, encode_findings, encode_links};

/// Largest plaintext of a tree page, in bytes.
pub const PAGE_SIZE_MAX: usize = 2 << 20;
/// Rows of one record of the hard-link table.
pub const LINK_ROWS_MAX: usize = 16_384;
/// Rows of one record of the finding list.
pub const FINDINGS_MAX: usize = 4096;
/// Rows of one record of the list of changes.
pub const CHANGES_MAX: usize = 4096;

const ENTRIES_MAX: usize = 1 << 16;
const TARGET_MAX: usize = 65_536;
const BLOB_MAX: usize = 1 << 20;
const TEXT_MAX: usize = 4096;
const ITEMS_MAX: usize = 1 << 16;
const LEAF: u64 = 1;
const INDEX: u64 = 2;
const LINKS: u64 = 1;
const FINDINGS: u64 = 2;
const CHANGES: u64 = 3;

/// Ends a chain of writer calls where a closure must return nothing.
fn drop_ref(_: &mut CborWriter) {}

impl Page {
    /// The record's plaintext.
    pub fn encode(&self) -> Vec<u8> {
        let (mut body, mut places) = (CborWriter::new(), Places::default());
        let kind = match self {
            Self::Leaf(leaf) => {
                body.array_of(leaf.entries(), |writer, entry| encode_entry(writer, entry, &mut places));
                LEAF
            }
            Self::Index(rows) => {
                body.array_of(rows, |writer, row| {
                    writer.array(4).bytes(row.first_name.as_bytes()).u64(row.entry_end).u64(row.position_end);
                    places.encode_reference(writer, &row.reference);
                });
                INDEX
            }
        };
        with_places(kind, &places, &body)
    }

    /// Reads a record's plaintext and checks all that can be checked without other records.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn decode(plain: &[u8]) -> Result<Self, TreeError> {
        if plain.len() > PAGE_SIZE_MAX {
            return Err(TreeError::Broken("a page is too long"));
        }
        let (kind, places, mut body) = split_places(plain)?;
        let mut references = places.references();
        match kind {
            LEAF => {
                let entries = body.array(ENTRIES_MAX, |reader| decode_entry(reader, &mut references))?;
                check_leaf(&entries)?;
                Ok(Self::Leaf(Leaf::new(entries)))
            }
            INDEX => {
                let rows = body.array(ENTRIES_MAX, |reader| decode_row(reader, &mut references))?;
                check_index(&rows)?;
                Ok(Self::Index(rows))
            }
            _ => Err(TreeError::Broken("a page is of an unknown kind")),
        }
    }
}

fn decode_row(reader: &mut CborReader<'_>, references: &mut References<'_>) -> Result<PageRow, TreeError> {
    reader.tuple(4, |reader| {
        let first_name = Name::new(reader.bytes(NAME_LENGTH_MAX)?)?;
        let (entry_end, position_end) = (reader.u64()?, reader.u64()?);
        Ok(PageRow { first_name, entry_end, position_end, reference: references.decode_reference(reader)? })
    })
}

fn check_leaf(entries: &[Entry]) -> Result<(), TreeError> {
    let named = entries.iter().all(|entry| entry.name.is_some());
    let sorted = entries.is_sorted_by(|a, b| a.name_bytes() < b.name_bytes());
    let positions = entries.iter().try_fold(0u64, |sum, entry| sum.checked_add(entry.position_count()));
    if named && sorted && positions.is_some_and(|sum| sum <= POSITION_MAX) {
        Ok(())
    } else {
        Err(TreeError::Broken("a page's entries are out of order"))
    }
}

fn check_index(rows: &[PageRow]) -> Result<(), TreeError> {
    let ascending = |a: &PageRow, b: &PageRow| a.first_name < b.first_name && a.entry_end < b.entry_end && a.position_end < b.position_end;
    let nonzero = rows.first().is_some_and(|row| row.entry_end > 0 && row.position_end > 0);
    let bounded = rows.last().is_some_and(|row| row.position_end <= POSITION_MAX);
    if nonzero && bounded && rows.is_sorted_by(ascending) { Ok(()) } else { Err(TreeError::Broken("a page index is out of order")) }
}

impl List {
    /// The record's plaintext.
    pub fn encode(&self) -> Vec<u8> {
        let (mut body, mut places) = (CborWriter::new(), Places::default());
        body.array_of(&self.rows, |writer, row| {
            writer.array(2).u64(row.end);
            places.encode_reference(writer, &row.reference);
        });
        with_places(self.depth.into(), &places, &body)
    }

    /// Reads a record's plaintext.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn decode(plain: &[u8]) -> Result<Self, TreeError> {
        let (depth, places, mut body) = split_places(plain)?;
        let depth = u8::try_from(depth).ok().filter(|depth| (1..=DEPTH_MAX).contains(depth));
        let depth = depth.ok_or(TreeError::Broken("a list is nested too deeply"))?;
        let mut references = places.references();
        let rows = body.array(LIST_ROWS_MAX, |reader| {
            reader.tuple(2, |reader| Ok::<_, TreeError>(ListRow { end: reader.u64()?, reference: references.decode_reference(reader)? }))
        })?;
        let nonzero = rows.first().is_some_and(|row| row.end > 0);
        if nonzero && rows.is_sorted_by(|a, b| a.end < b.end) {
            Ok(Self { depth, rows })
        } else {
            Err(TreeError::Broken("a list is out of order"))
        }
    }
}

/// `{0: kind, 1: places, 2: body}`: the places are complete only when the body is written.
fn with_places(kind: u64, places: &Places, body: &CborWriter) -> Vec<u8> {
    let mut writer = CborWriter::new();
    writer.map(|map| {
        map.key(0).u64(kind);
        places.encode(map.key(1));
        map.key(2).raw(body.as_bytes());
    });
    writer.finish()
}

fn split_places(plain: &[u8]) -> Result<(u64, Places, CborReader<'_>), TreeError> {
    let (mut kind, mut places, mut body) = (None, None, None);
    let mut reader = CborReader::new(plain);
    reader.map::<TreeError>(|key, reader| {
        match key {
            0 => kind = Some(reader.u64()?),
            1 => places = Some(Places::decode(reader)?),
            2 => {
                body = Some(reader.clone());
                reader.skip()?;
            }
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    reader.finish()?;
    Ok((required(kind, 0)?, required(places, 1)?, required(body, 2)?))
}

#[cfg(test)]
pub(crate) mod tests;
