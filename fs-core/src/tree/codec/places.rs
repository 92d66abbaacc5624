//! The table of packs that a record names, and its references into them. Layout: docs/FORMAT.md, section 9.
//!
//! A reference that begins where the one before it ended does not say where it lies, so both sides remember the one before.

use std::collections::HashMap;

use super::super::{Content, DEPTH_MAX, INLINE_REFERENCES_MAX, Stream, TreeError, Value};
use super::{ITEMS_MAX, drop_ref};
use crate::compress::Codec;
use crate::id::{PackId, RecordId};
use crate::record::{OVERHEAD, PLAIN_LENGTH_MAX, Reference, SessionKeyRef};
use crate::wire::{CborReader, CborWriter};

/// Items of a reference that is stored raw and follows the one before, of a compressed one that follows, and of one that says where it lies.
const ITEMS: [u64; 3] = [2, 3, 5];

type Place = (PackId, SessionKeyRef);

/// The table of packs and sessions that the references of one record name.
#[derive(Clone, Debug, Default)]
pub struct Places {
    rows: Vec<Place>,
    index: HashMap<Place, usize>,
    /// Place and end of the reference that was written last.
    last: Option<(usize, u32)>,
    /// The record of the fragment that was written last.
    fragment: Option<Reference>,
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
        Ok(Self { rows: reader.array(ITEMS_MAX, row)?, ..Self::default() })
    }

    /// Begins a part that is read without what was written before it.
    pub fn begin_part(&mut self) {
        (self.last, self.fragment) = (None, None);
    }

    /// Writes a reference and remembers its place.
    pub fn encode_reference(&mut self, writer: &mut CborWriter, reference: &Reference) {
        let place = (reference.pack, reference.session);
        let next = self.rows.len();
        let index = *self.index.entry(place).or_insert_with(|| {
            self.rows.push(place);
            next
        });
        let packed_len = (reference.codec == Codec::Zstd).then_some(reference.stored_len);
        let follows = self.last == Some((index, reference.offset));
        writer.array(if !follows { 5 } else { 2 + usize::from(packed_len.is_some()) });
        writer.bytes(reference.id.as_bytes()).u64(reference.plain_len.into());
        if !follows || packed_len.is_some() {
            writer.optional(packed_len, |writer, length| drop_ref(writer.u64(length.into())));
        }
        if !follows {
            writer.u64(index as u64).u64(reference.offset.into());
        }
        let stored_len = packed_len.unwrap_or_else(|| raw_len(reference.plain_len));
        self.last = reference.offset.checked_add(stored_len).map(|end| (index, end));
    }

    pub(super) fn encode_content(&mut self, writer: &mut CborWriter, content: &Content) {
        match content {
            Content::Inline(references) => {
                writer.array_of(references, |writer, reference| self.encode_reference(writer, reference));
            }
            Content::List { depth, reference } => {
                writer.array(2).u64((*depth).into());
                self.encode_reference(writer, reference);
            }
            Content::Fragment { reference, .. } => self.encode_reference(writer.array(1), reference),
        }
    }

    /// Whether the record of a fragment is that of the fragment before it, so that it need not be written. It is remembered for the next one.
    pub(super) fn is_fragment_of_the_last(&mut self, reference: &Reference) -> bool {
        self.fragment.replace(*reference) == Some(*reference)
    }

    pub(super) fn encode_value(&mut self, writer: &mut CborWriter, value: &Value) {
        match value {
            Value::Inline(bytes) => drop_ref(writer.bytes(bytes)),
            Value::Stored { size, content } => {
                writer.array(2).u64(*size);
                self.encode_content(writer, content);
            }
        }
    }

    /// Writes a stream, whose bytes stand in records by now.
    pub(super) fn encode_stream(&mut self, writer: &mut CborWriter, stream: &Stream) {
        let (size, content) = match &stream.value {
            Value::Stored { size, content } => (*size, content),
            Value::Inline(bytes) => {
                assert!(bytes.is_empty(), "a writer puts streams into records before it writes their entry");
                (0, &Content::EMPTY)
            }
        };
        self.encode_content(writer.array(3).bytes(&stream.name).u64(size), content);
    }

    /// Reads references, in the order in which they were written since the beginning or [`Self::begin_part`].
    pub fn references(&self) -> References<'_> {
        References { rows: &self.rows, last: None, fragment: None }
    }
}

/// Length in the pack of a record that is stored raw.
fn raw_len(plain_len: u32) -> u32 {
    plain_len.saturating_add(u32::try_from(OVERHEAD).expect("sealing adds few bytes"))
}

/// Reads the references of one record, in order.
#[derive(Debug)]
pub struct References<'p> {
    rows: &'p [Place],
    /// Place and end of the reference that was read last.
    last: Option<(usize, u32)>,
    /// The record of the fragment that was read last.
    pub(super) fragment: Option<Reference>,
}

impl References<'_> {
    /// Reads a reference.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn decode_reference(&mut self, reader: &mut CborReader<'_>) -> Result<Reference, TreeError> {
        let last = self.last.take();
        let (reference, at) = reader.tuple_of(&ITEMS, |reader, count| {
            let id = RecordId::from_bytes(reader.byte_array()?);
            let plain_len = reader.u32()?;
            if plain_len as usize > PLAIN_LENGTH_MAX {
                return Err(TreeError::Broken("a reference is longer than a record"));
            }
            let packed_len = match count {
                2 => None,
                3 => Some(reader.u32()?),
                _ => reader.optional(|reader| Ok::<_, TreeError>(reader.u32()?))?,
            };
            let (at, offset) = match count {
                5 => (usize::try_from(reader.u64()?).unwrap_or(usize::MAX), reader.u32()?),
                _ => last.ok_or(TreeError::Broken("a reference follows none"))?,
            };
            let &(pack, session) = self.rows.get(at).ok_or(TreeError::Broken("a reference names no place"))?;
            let codec = if packed_len.is_some() { Codec::Zstd } else { Codec::Raw };
            let stored_len = packed_len.unwrap_or_else(|| raw_len(plain_len));
            Ok((Reference { id, plain_len, codec, pack, session, offset, stored_len }, at))
        })?;
        let end = reference.offset.checked_add(reference.stored_len);
        self.last = Some((at, end.ok_or(TreeError::Broken("a reference reaches beyond every pack"))?));
        Ok(reference)
    }

    pub(super) fn decode_content(&mut self, reader: &mut CborReader<'_>) -> Result<Content, TreeError> {
        let mut ahead = reader.clone();
        let mut is_list = false;
        ahead.each::<TreeError>(INLINE_REFERENCES_MAX, |item, _| {
            is_list |= item.at_unsigned()?;
            Ok(item.skip()?)
        })?;
        if is_list { self.decode_list_content(reader) } else { self.decode_inline(reader) }
    }

    pub(super) fn decode_inline(&mut self, reader: &mut CborReader<'_>) -> Result<Content, TreeError> {
        Ok(Content::Inline(reader.array(INLINE_REFERENCES_MAX, |reader| self.decode_reference(reader))?))
    }

    pub(super) fn decode_list_content(&mut self, reader: &mut CborReader<'_>) -> Result<Content, TreeError> {
        reader.tuple(2, |reader| {
            let depth = reader.u8()?;
            if depth == 0 || depth > DEPTH_MAX {
                return Err(TreeError::Broken("a list is nested too deeply"));
            }
            Ok(Content::List { depth, reference: self.decode_reference(reader)? })
        })
    }

    pub(super) fn decode_value(&mut self, reader: &mut CborReader<'_>, limit: usize) -> Result<Value, TreeError> {
        if !reader.at_array()? {
            return Ok(Value::Inline(reader.bytes(limit)?.to_vec()));
        }
        reader.tuple(2, |reader| Ok(Value::Stored { size: reader.u64()?, content: self.decode_content(reader)? }))
    }
}
