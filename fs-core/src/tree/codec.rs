//! The bytes of trees, lists and tables. Layout: docs/FORMAT.md, sections 9 and 10.

use std::collections::HashMap;

use super::{
    Acl, Content, DEPTH_MAX, Entry, EntryKind, Extent, INLINE_REFERENCES_MAX, LIST_ROWS_MAX, Leaf, LinkRow, List, ListRow, POSITION_MAX,
    Page, PageRow, Stream, Subtree, TreeError, Value, XATTR_INLINE_MAX,
};
use crate::compress::Codec;
use crate::id::{PackId, RecordId};
use crate::path::{NAME_LENGTH_MAX, Name, TreePath};
use crate::record::{PLAIN_LENGTH_MAX, Reference, SessionKeyRef};
use crate::report::{Finding, Place, Severity};
use crate::wire::{CborReader, CborWriter, MapWriter, required};

/// Largest plaintext of a tree page, in bytes.
pub const PAGE_SIZE_MAX: usize = 2 << 20;
/// Rows of one record of the hard-link table.
pub const LINK_ROWS_MAX: usize = 16_384;
/// Rows of one record of the finding list.
pub const FINDINGS_MAX: usize = 4096;

const ENTRIES_MAX: usize = 1 << 16;
const TARGET_MAX: usize = 65_536;
const BLOB_MAX: usize = 1 << 20;
const TEXT_MAX: usize = 4096;
const ITEMS_MAX: usize = 1 << 16;
const LEAF: u64 = 1;
const INDEX: u64 = 2;
const LINKS: u64 = 1;
const FINDINGS: u64 = 2;

type Packs = (PackId, SessionKeyRef);

/// The table of packs and sessions that the references of one record name.
#[derive(Debug, Default)]
pub struct Places {
    rows: Vec<Packs>,
    index: HashMap<Packs, u64>,
}

impl Places {
    /// Writes the table.
    pub fn encode(&self, writer: &mut CborWriter) {
        writer.array_of(&self.rows, |writer, (pack, session)| {
            writer.array(3).bytes(pack.as_bytes()).u64(session.epoch.into()).bytes(&session.enc);
        });
    }

    /// Reads a table.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn decode(reader: &mut CborReader<'_>) -> Result<Self, TreeError> {
        let row = |reader: &mut CborReader<'_>| {
            reader.tuple(3, |reader| {
                let pack = PackId::from_bytes(reader.byte_array()?);
                Ok::<_, TreeError>((pack, SessionKeyRef { epoch: reader.u16()?, enc: reader.byte_array()? }))
            })
        };
        Ok(Self { rows: reader.array(ITEMS_MAX, row)?, index: HashMap::new() })
    }

    /// Writes a reference and remembers its place.
    pub fn encode_reference(&mut self, writer: &mut CborWriter, reference: &Reference) {
        let place = (reference.pack, reference.session);
        let next = self.rows.len() as u64;
        let index = *self.index.entry(place).or_insert_with(|| {
            self.rows.push(place);
            next
        });
        writer.array(6).bytes(reference.id.as_bytes()).u64(reference.plain_len.into()).u64(reference.codec.to_byte().into());
        writer.u64(index).u64(reference.offset.into()).u64(reference.stored_len.into());
    }

    /// Reads a reference.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn decode_reference(&self, reader: &mut CborReader<'_>) -> Result<Reference, TreeError> {
        reader.tuple(6, |reader| {
            let id = RecordId::from_bytes(reader.byte_array()?);
            let plain_len = reader.u32()?;
            let codec = Codec::from_byte(reader.u8()?).ok_or(TreeError::Broken("a reference has an unknown codec"))?;
            let place = usize::try_from(reader.u64()?).ok().and_then(|place| self.rows.get(place));
            let &(pack, session) = place.ok_or(TreeError::Broken("a reference names no place"))?;
            if plain_len as usize > PLAIN_LENGTH_MAX {
                return Err(TreeError::Broken("a reference is longer than a record"));
            }
            Ok(Reference { id, plain_len, codec, pack, session, offset: reader.u32()?, stored_len: reader.u32()? })
        })
    }

    fn encode_content(&mut self, writer: &mut CborWriter, content: &Content) {
        match content {
            Content::Inline(references) => {
                writer.array_of(references, |writer, reference| self.encode_reference(writer, reference));
            }
            Content::List { depth, reference } => {
                writer.array(2).u64((*depth).into());
                self.encode_reference(writer, reference);
            }
        }
    }

    fn decode_content(&self, reader: &mut CborReader<'_>) -> Result<Content, TreeError> {
        let mut ahead = reader.clone();
        let mut is_list = false;
        ahead.each::<TreeError>(INLINE_REFERENCES_MAX, |item, _| {
            is_list |= item.at_unsigned()?;
            Ok(item.skip()?)
        })?;
        if is_list { self.decode_list_content(reader) } else { self.decode_inline(reader) }
    }

    fn decode_inline(&self, reader: &mut CborReader<'_>) -> Result<Content, TreeError> {
        Ok(Content::Inline(reader.array(INLINE_REFERENCES_MAX, |reader| self.decode_reference(reader))?))
    }

    fn decode_list_content(&self, reader: &mut CborReader<'_>) -> Result<Content, TreeError> {
        reader.tuple(2, |reader| {
            let depth = reader.u8()?;
            if depth == 0 || depth > DEPTH_MAX {
                return Err(TreeError::Broken("a list is nested too deeply"));
            }
            Ok(Content::List { depth, reference: self.decode_reference(reader)? })
        })
    }

    fn encode_value(&mut self, writer: &mut CborWriter, value: &Value) {
        match value {
            Value::Inline(bytes) => drop_ref(writer.bytes(bytes)),
            Value::Stored { size, content } => {
                writer.array(2).u64(*size);
                self.encode_content(writer, content);
            }
        }
    }

    fn decode_value(&self, reader: &mut CborReader<'_>, limit: usize) -> Result<Value, TreeError> {
        if !reader.at_array()? {
            return Ok(Value::Inline(reader.bytes(limit)?.to_vec()));
        }
        reader.tuple(2, |reader| Ok(Value::Stored { size: reader.u64()?, content: self.decode_content(reader)? }))
    }
}

/// Ends a chain of writer calls where a closure must return nothing.
fn drop_ref(_: &mut CborWriter) {}

/// Writes an entry; its references go into `places`.
pub fn encode_entry(writer: &mut CborWriter, entry: &Entry, places: &mut Places) {
    let known = |map: &mut MapWriter<'_>, places: &mut Places| {
        map.key(0).bytes(entry.name_bytes());
        let kind = EntryKind::ALL.into_iter().find(|row| row.1 == entry.kind).map_or(0, |row| row.0);
        map.key(1).u64(kind.into());
        map.key(2).u64(entry.mode.into());
        map.optional(3, entry.uid, |w, uid| drop_ref(w.u64(uid.into())));
        map.optional(4, entry.gid, |w, gid| drop_ref(w.u64(gid.into())));
        map.optional(5, entry.mtime, |w, time| drop_ref(w.time(time)));
        map.optional(6, entry.ctime, |w, time| drop_ref(w.time(time)));
        let has_size = entry.size > 0 || matches!(entry.kind, EntryKind::File | EntryKind::Symlink);
        map.optional(7, has_size.then_some(entry.size), |w, size| drop_ref(w.u64(size)));
        map.optional(8, entry.btime, |w, time| drop_ref(w.time(time)));
        map.optional(9, entry.link_group, |w, group| drop_ref(w.u64(group)));
        match &entry.content {
            Content::Inline(references) if references.is_empty() => {}
            content @ Content::Inline(_) => places.encode_content(map.key(10), content),
            content @ Content::List { .. } => places.encode_content(map.key(11), content),
        }
        map.optional(12, entry.subtree.as_ref().and_then(|s| s.page.as_ref()), |w, page| places.encode_reference(w, page));
        map.optional(13, entry.target.as_ref(), |w, target| drop_ref(w.bytes(target)));
        map.optional(14, (!entry.xattrs.is_empty()).then_some(&entry.xattrs), |w, xattrs| {
            w.array_of(xattrs, |w, (name, value)| places.encode_value(w.array(2).bytes(name), value));
        });
        map.optional(15, (entry.acl != Acl::default()).then_some(&entry.acl), |w, acl| {
            let half =
                |w: &mut CborWriter, half: &Option<Vec<u8>>| drop_ref(w.optional(half.as_ref(), |w, bytes| drop_ref(w.bytes(bytes))));
            w.array(2);
            half(w, &acl.access);
            half(w, &acl.default);
        });
        map.optional(16, entry.windows_attributes, |w, attributes| drop_ref(w.u64(attributes.into())));
        map.optional(17, entry.security_descriptor.as_ref(), |w, value| places.encode_value(w, value));
        map.optional(18, (!entry.streams.is_empty()).then_some(&entry.streams), |w, streams| {
            w.array_of(streams, |w, stream| places.encode_content(w.array(3).bytes(&stream.name).u64(stream.size), &stream.content));
        });
        map.optional(19, entry.sparse.as_ref(), |w, extents| {
            w.array_of(extents, |w, extent| drop_ref(w.array(2).u64(extent.offset).u64(extent.length)));
        });
        map.optional(20, entry.device, |w, (major, minor)| drop_ref(w.array(2).u64(major.into()).u64(minor.into())));
        map.optional(21, entry.user.as_ref(), |w, name| drop_ref(w.text(name)));
        map.optional(22, entry.group.as_ref(), |w, name| drop_ref(w.text(name)));
        map.optional(23, entry.file_hash.as_ref(), |w, hash| drop_ref(w.bytes(hash)));
        map.optional(24, entry.placeholder, |w, state| drop_ref(w.u64(state)));
        map.optional(25, entry.link_count, |w, count| drop_ref(w.u64(count)));
        if let Some(subtree) = &entry.subtree {
            map.key(26).u64(subtree.position_count);
            map.key(27).u64(subtree.directory_count);
            map.key(28).u64(subtree.byte_count);
            map.key(29).u64(subtree.file_count);
        }
        map.optional(30, entry.reparse.as_ref(), |w, bytes| drop_ref(w.bytes(bytes)));
        map.optional(31, entry.block_size, |w, size| drop_ref(w.u64(size.into())));
    };
    writer.map(|map| {
        known(map, places);
        for (key, value) in &entry.unknown {
            map.key(*key).raw(value);
        }
    });
}

/// Reads an entry whose references name `places`.
///
/// # Errors
/// [`TreeError`].
pub fn decode_entry(reader: &mut CborReader<'_>, places: &Places) -> Result<Entry, TreeError> {
    let mut entry = Entry::new(None, EntryKind::File);
    let (mut kind, mut subtree, mut has_positions) = (None, Subtree::EMPTY, false);
    reader.map::<TreeError>(|key, reader| {
        match key {
            // Only the root of a snapshot has no name.
            0 => match reader.bytes(NAME_LENGTH_MAX)? {
                b"" => entry.name = None,
                name => entry.name = Some(Name::new(name)?),
            },
            1 => kind = Some(decode_kind(reader.u8()?)?),
            2 => entry.mode = reader.u32()?,
            12 => subtree.page = Some(places.decode_reference(reader)?),
            26 => {
                has_positions = true;
                subtree.position_count = reader.u64()?;
            }
            27 => subtree.directory_count = reader.u64()?,
            28 => subtree.byte_count = reader.u64()?,
            29 => subtree.file_count = reader.u64()?,
            3..=9 | 20..=25 | 30 | 31 => decode_scalar(key, reader, &mut entry)?,
            10 | 11 | 13..=19 => decode_body(key, reader, &mut entry, places)?,
            _ => entry.unknown.push((key, reader.raw()?.to_vec())),
        }
        Ok(())
    })?;
    entry.kind = required(kind, 1)?;
    let is_directory = entry.kind == EntryKind::Directory;
    entry.subtree = is_directory.then_some(subtree);
    check_entry(&entry, has_positions)?;
    Ok(entry)
}

fn decode_kind(byte: u8) -> Result<EntryKind, TreeError> {
    let row = EntryKind::ALL.into_iter().find(|row| row.0 == byte);
    row.map(|row| row.1).ok_or(TreeError::Broken("an entry is of an unknown kind"))
}

fn decode_scalar(key: u64, reader: &mut CborReader<'_>, entry: &mut Entry) -> Result<(), TreeError> {
    match key {
        3 => entry.uid = Some(reader.u32()?),
        4 => entry.gid = Some(reader.u32()?),
        5 => entry.mtime = Some(reader.time()?),
        6 => entry.ctime = Some(reader.time()?),
        7 => entry.size = reader.u64()?,
        8 => entry.btime = Some(reader.time()?),
        9 => entry.link_group = Some(reader.u64()?),
        20 => entry.device = Some(reader.tuple(2, |r| Ok::<_, TreeError>((r.u32()?, r.u32()?)))?),
        21 => entry.user = Some(reader.text(TEXT_MAX)?.to_owned()),
        22 => entry.group = Some(reader.text(TEXT_MAX)?.to_owned()),
        23 => entry.file_hash = Some(reader.byte_array()?),
        24 => entry.placeholder = Some(reader.u64()?),
        25 => entry.link_count = Some(reader.u64()?),
        30 => entry.reparse = Some(reader.bytes(TARGET_MAX)?.to_vec()),
        31 => entry.block_size = Some(reader.u32()?),
        _ => reader.skip()?,
    }
    Ok(())
}

fn decode_body(key: u64, reader: &mut CborReader<'_>, entry: &mut Entry, places: &Places) -> Result<(), TreeError> {
    match key {
        10 => entry.content = places.decode_inline(reader)?,
        11 => entry.content = places.decode_list_content(reader)?,
        13 => entry.target = Some(reader.bytes(TARGET_MAX)?.to_vec()),
        14 => {
            entry.xattrs = reader.array(ITEMS_MAX, |reader| {
                reader.tuple(2, |r| Ok::<_, TreeError>((r.bytes(NAME_LENGTH_MAX)?.to_vec(), places.decode_value(r, XATTR_INLINE_MAX)?)))
            })?;
        }
        15 => {
            let half = |r: &mut CborReader<'_>| r.optional(|r| Ok::<_, TreeError>(r.bytes(TARGET_MAX)?.to_vec()));
            entry.acl = reader.tuple(2, |r| Ok::<_, TreeError>(Acl { access: half(r)?, default: half(r)? }))?;
        }
        16 => entry.windows_attributes = Some(reader.u32()?),
        17 => entry.security_descriptor = Some(places.decode_value(reader, BLOB_MAX)?),
        18 => {
            entry.streams = reader.array(ITEMS_MAX, |reader| {
                reader.tuple(3, |r| {
                    let (name, size) = (r.bytes(NAME_LENGTH_MAX)?.to_vec(), r.u64()?);
                    Ok::<_, TreeError>(Stream { name, size, content: places.decode_content(r)? })
                })
            })?;
        }
        19 => {
            let extent = |r: &mut CborReader<'_>| r.tuple(2, |r| Ok::<_, TreeError>(Extent { offset: r.u64()?, length: r.u64()? }));
            entry.sparse = Some(reader.array(BLOB_MAX, extent)?);
        }
        _ => reader.skip()?,
    }
    Ok(())
}

fn check_entry(entry: &Entry, has_positions: bool) -> Result<(), TreeError> {
    let broken = |what| Err(TreeError::Broken(what));
    let positions = entry.position_count();
    if has_positions != entry.subtree.is_some() || positions == 0 || positions > POSITION_MAX {
        return broken("an entry's positions are out of range");
    }
    if entry.mode > 0o7777 {
        return broken("an entry's mode is out of range");
    }
    let mut end = 0u64;
    for extent in entry.sparse.iter().flatten() {
        let next = extent.offset.checked_add(extent.length);
        match next {
            Some(next) if extent.offset >= end && extent.length > 0 && next <= entry.size => end = next,
            _ => return broken("a sparse map is out of order"),
        }
    }
    Ok(())
}

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
        match kind {
            LEAF => {
                let entries = body.array(ENTRIES_MAX, |reader| decode_entry(reader, &places))?;
                check_leaf(&entries)?;
                Ok(Self::Leaf(Leaf::new(entries)))
            }
            INDEX => {
                let rows = body.array(ENTRIES_MAX, |reader| decode_row(reader, &places))?;
                check_index(&rows)?;
                Ok(Self::Index(rows))
            }
            _ => Err(TreeError::Broken("a page is of an unknown kind")),
        }
    }
}

fn decode_row(reader: &mut CborReader<'_>, places: &Places) -> Result<PageRow, TreeError> {
    reader.tuple(4, |reader| {
        let first_name = Name::new(reader.bytes(NAME_LENGTH_MAX)?)?;
        let (entry_end, position_end) = (reader.u64()?, reader.u64()?);
        Ok(PageRow { first_name, entry_end, position_end, reference: places.decode_reference(reader)? })
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
        let rows = body.array(LIST_ROWS_MAX, |reader| {
            reader.tuple(2, |reader| Ok::<_, TreeError>(ListRow { end: reader.u64()?, reference: places.decode_reference(reader)? }))
        })?;
        let nonzero = rows.first().is_some_and(|row| row.end > 0);
        if nonzero && rows.is_sorted_by(|a, b| a.end < b.end) {
            Ok(Self { depth, rows })
        } else {
            Err(TreeError::Broken("a list is out of order"))
        }
    }
}

/// One record of the hard-link table.
pub fn encode_links(rows: &[LinkRow]) -> Vec<u8> {
    let mut writer = CborWriter::new();
    writer.map(|map| {
        map.key(0).u64(LINKS);
        map.key(1).array_of(rows, |writer, row| drop_ref(writer.array(3).u64(row.position).u64(row.leader).u64(row.link_count)));
    });
    writer.finish()
}

/// Reads one record of the hard-link table.
///
/// # Errors
/// [`TreeError`].
pub fn decode_links(plain: &[u8]) -> Result<Vec<LinkRow>, TreeError> {
    let row =
        |r: &mut CborReader<'_>| r.tuple(3, |r| Ok::<_, TreeError>(LinkRow { position: r.u64()?, leader: r.u64()?, link_count: r.u64()? }));
    let rows = decode_table(plain, LINKS, |reader| reader.array(LINK_ROWS_MAX, row))?;
    let plausible = |row: &LinkRow| row.leader <= row.position && row.leader > 0 && row.link_count > 1;
    if rows.is_sorted_by(|a, b| a.position < b.position) && rows.iter().all(plausible) {
        Ok(rows)
    } else {
        Err(TreeError::Broken("a hard-link table is out of order"))
    }
}

/// One record of the finding list.
pub fn encode_findings(findings: &[Finding]) -> Vec<u8> {
    let mut writer = CborWriter::new();
    writer.map(|map| {
        map.key(0).u64(FINDINGS);
        map.key(1).array_of(findings, |writer, finding| {
            let path = match &finding.place {
                Place::Path(path) => path.to_bytes(),
                Place::Object(name) => name.clone().into_bytes(),
                Place::Operation => Vec::new(),
            };
            writer.array(3).text(finding.severity.as_str()).bytes(&path).text(&finding.message);
        });
    });
    writer.finish()
}

/// Reads one record of the finding list.
///
/// # Errors
/// [`TreeError`].
pub fn decode_findings(plain: &[u8]) -> Result<Vec<Finding>, TreeError> {
    decode_table(plain, FINDINGS, |reader| {
        reader.array(FINDINGS_MAX, |reader| {
            reader.tuple(3, |reader| {
                let word = reader.text(TEXT_MAX)?;
                let severity = [Severity::Note, Severity::Warning, Severity::Error].into_iter().find(|s| s.as_str() == word);
                let path = TreePath::parse(reader.bytes(BLOB_MAX)?)?;
                let message = reader.text(BLOB_MAX)?.to_owned();
                Ok(Finding { severity: severity.unwrap_or(Severity::Error), place: Place::Path(path), message })
            })
        })
    })
}

fn decode_table<T>(
    plain: &[u8],
    kind: u64,
    read: impl FnOnce(&mut CborReader<'_>) -> Result<Vec<T>, TreeError>,
) -> Result<Vec<T>, TreeError> {
    let (mut found, mut rows, mut read) = (None, None, Some(read));
    let mut reader = CborReader::new(plain);
    reader.map::<TreeError>(|key, reader| {
        match (key, read.take_if(|_| key == 1)) {
            (0, _) => found = Some(reader.u64()?),
            (_, Some(read)) => rows = Some(read(reader)?),
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    reader.finish()?;
    if found != Some(kind) {
        return Err(TreeError::Broken("a table is of another kind"));
    }
    Ok(required(rows, 1)?)
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
