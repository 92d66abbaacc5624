//! Packs: objects that hold records back to back, with a sealed table at the end. Encoding and decoding side by side.
//!
//! Nothing inside a pack is readable without a key: no ids, no lengths, no boundaries. Layout: docs/FORMAT.md, section 7.

use crate::compress::Codec;
use crate::crypto::{Key, RandomSource, StreamHash};
use crate::id::{ObjectHash, PackId, RecordId, RepositoryId, SessionId};
use crate::object::{self, HEADER_LENGTH, Header, MAGIC_END, ObjectError, ObjectKind};
use crate::record::{RecordFacts, RecordKind, Reference, SessionKeyRef};
use crate::wire::{self, Reader};

/// Largest pack, in bytes.
pub const PACK_SIZE_MAX: u64 = 128 << 20;
/// Bytes after the trailer: tail and end hash.
pub const TAIL_LENGTH: usize = 16 + HASH_LENGTH;

const HASH_LENGTH: usize = 32;
const TRAILER_STEP: usize = 1024;
const SESSION_ROW: usize = 64;
/// Bytes that a record, or a small file that shares one, takes in the trailer.
pub const RECORD_ROW: usize = 48;
/// Most rows that a trailer can claim: bounded by the pack itself, since every record has at least its overhead.
const RECORD_COUNT_MAX: usize = 1 << 22;
const SESSION_COUNT_MAX: usize = 1 << 16;

/// The number that rows of fragments have where those of records have their kind, here and in the index.
pub const FRAGMENT_KIND: u8 = 5;

/// A session as packs and shards name it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PackSession {
    /// The session.
    pub id: SessionId,
    /// What opens its records.
    pub key: SessionKeyRef,
}

/// One record of a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackRecord {
    /// What identifies it.
    pub facts: RecordFacts,
    /// Where it begins in the pack.
    pub offset: u32,
    /// Its length in the pack.
    pub stored_len: u32,
    /// Its session, as an index into the pack's sessions.
    pub session: u16,
}

/// A small file that shares a record with others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackFragment {
    /// Its whole-file hash.
    pub hash: [u8; 32],
    /// Its record, as an index into the pack's records.
    pub record: usize,
    /// Where in the plaintext of the record it begins.
    pub start: u32,
    /// Its length in bytes.
    pub length: u32,
}

/// What a pack's trailer says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trailer {
    /// Sessions that sealed the records.
    pub sessions: Vec<PackSession>,
    /// Records in the order of their bytes.
    pub records: Vec<PackRecord>,
    /// Small files that share records, in the order of these.
    pub fragments: Vec<PackFragment>,
}

impl PackFragment {
    /// Whether these are the bytes of its record, as far as its own are concerned.
    pub fn is_in(&self, plain: &[u8], file_key: &Key) -> bool {
        let (start, length) = (self.start as usize, self.length as usize);
        let bytes = plain.get(start..).and_then(|rest| rest.get(..length));
        bytes.is_some_and(|bytes| crate::crypto::keyed_hash(file_key, &[bytes]) == self.hash)
    }
}

impl Trailer {
    /// The small files that share a record, given by its index.
    pub fn fragments_of(&self, record: usize) -> &[PackFragment] {
        let start = self.fragments.partition_point(|fragment| fragment.record < record);
        let end = self.fragments.partition_point(|fragment| fragment.record <= record);
        self.fragments.get(start..end).unwrap_or_default()
    }

    /// A reference to each record, in order; `pack` is the pack that this is the trailer of.
    pub fn references(&self, pack: PackId) -> impl Iterator<Item = (RecordKind, SessionId, Reference)> {
        self.records.iter().filter_map(move |record| {
            let session = self.sessions.get(usize::from(record.session))?;
            let RecordFacts { kind, id, codec, plain_len } = record.facts;
            let (stored_len, offset) = (record.stored_len, record.offset);
            Some((kind, session.id, Reference { id, plain_len, stored_len, offset, codec, pack, session: session.key }))
        })
    }
}

/// A pack that is being filled.
#[derive(Debug)]
pub struct PackBuilder {
    id: PackId,
    header: Header,
    buffer: Vec<u8>,
    trailer: Trailer,
}

/// A pack ready to be put.
#[derive(Debug)]
pub struct Pack {
    /// Its id.
    pub id: PackId,
    /// [`ObjectKind::DataPack`] or [`ObjectKind::MetaPack`].
    pub kind: ObjectKind,
    /// The whole object.
    pub bytes: Vec<u8>,
    /// The hash of all its bytes.
    pub hash: ObjectHash,
    /// What it holds.
    pub trailer: Trailer,
}

impl PackBuilder {
    /// An empty pack in an empty buffer. `capacity` is the size it will probably reach, in bytes.
    pub fn new(
        kind: ObjectKind,
        epoch: u16,
        repository: RepositoryId,
        (capacity, mut buffer): (usize, Vec<u8>),
        random: &dyn RandomSource,
    ) -> Self {
        let header = Header::new(kind, epoch, repository, random);
        buffer.reserve(capacity + capacity / 16 + 2 * TRAILER_STEP);
        buffer.extend_from_slice(&header.encode());
        Self { id: PackId::from_bytes(header.salt), header, buffer, trailer: Trailer::default() }
    }

    /// The pack's id.
    pub fn id(&self) -> PackId {
        self.id
    }

    /// Bytes so far with the rows of the trailer, without padding.
    pub fn len(&self) -> usize {
        self.buffer.len() + (self.trailer.records.len() + self.trailer.fragments.len()) * RECORD_ROW
    }

    /// Whether it holds no record yet.
    pub fn is_empty(&self) -> bool {
        self.trailer.records.is_empty()
    }

    /// Appends a sealed record and says where it lies.
    pub fn push(&mut self, facts: &RecordFacts, session: &PackSession, stored: &[u8]) -> Reference {
        let sessions = &mut self.trailer.sessions;
        let index = sessions.iter().position(|known| known == session).unwrap_or_else(|| {
            sessions.push(*session);
            sessions.len() - 1
        });
        let offset = u32::try_from(self.buffer.len()).expect("a pack is smaller than 4 GiB");
        let stored_len = u32::try_from(stored.len()).expect("a record is smaller than 4 GiB");
        let session_index = u16::try_from(index).expect("a writer puts one session into a pack, prune a few");
        self.buffer.extend_from_slice(stored);
        self.trailer.records.push(PackRecord { facts: *facts, offset, stored_len, session: session_index });
        let RecordFacts { id, codec, plain_len, .. } = *facts;
        Reference { id, plain_len, stored_len, offset, codec, pack: self.id, session: session.key }
    }

    /// Notes which small files the record pushed last is made of: hash, start and length of each.
    pub fn note_fragments(&mut self, fragments: impl IntoIterator<Item = ([u8; 32], u32, u32)>) {
        let Some(record) = self.trailer.records.len().checked_sub(1) else { return };
        self.trailer.fragments.extend(fragments.into_iter().map(|(hash, start, length)| PackFragment { hash, record, start, length }));
    }

    /// What it has gathered, for tests of what happens when memory changes it.
    #[cfg(any(test, feature = "testing"))]
    pub fn parts_mut(&mut self) -> (&mut Vec<u8>, &mut Trailer) {
        (&mut self.buffer, &mut self.trailer)
    }

    /// Pads, seals the trailer under `K_struct` and appends the end hash.
    pub fn finish(mut self, structure: &Key, random: &dyn RandomSource) -> Pack {
        let table = encode_table(&self.trailer);
        let head = self.header.encode();
        let trailer = object::seal_section(structure, &head, 0, true, table);
        let length = self.buffer.len() + trailer.len() + TAIL_LENGTH;
        let total = usize::try_from(wire::padme(length as u64)).expect("a pack fits into memory");
        let padding_start = self.buffer.len();
        self.buffer.resize(padding_start + total - length, 0);
        if let Some(padding) = self.buffer.get_mut(padding_start..) {
            random.fill(padding);
        }
        self.buffer.extend_from_slice(&trailer);
        let trailer_len = u32::try_from(trailer.len()).expect("a trailer is smaller than its pack");
        self.buffer.extend_from_slice(&trailer_len.to_le_bytes());
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&MAGIC_END);
        let mut hash = StreamHash::plain();
        hash.update(&self.buffer);
        let end = hash.finish();
        self.buffer.extend_from_slice(&end);
        hash.update(&end);
        let hash = ObjectHash::from_bytes(hash.finish());
        Pack { id: self.id, kind: self.header.kind, bytes: self.buffer, hash, trailer: self.trailer }
    }
}

/// Whether the object ends with the hash of what stands before: needs no key.
pub fn verify_end_hash(object: &[u8]) -> bool {
    object.split_last_chunk::<HASH_LENGTH>().is_some_and(|(before, hash)| crate::crypto::hash(before) == *hash)
}

/// How many bytes at the end of a pack hold trailer, tail and hash, from the pack's last [`TAIL_LENGTH`] bytes.
///
/// # Errors
/// [`ObjectError::Broken`] if they are no tail of a pack of `size` bytes.
pub fn trailer_span(tail: &[u8; TAIL_LENGTH], size: u64) -> Result<u64, ObjectError> {
    let mut reader = Reader::new(tail);
    let (length, zero, magic) = (reader.u32()?, reader.u32()?, reader.array::<8>()?);
    let span = u64::from(length) + TAIL_LENGTH as u64;
    let fits = zero == 0 && magic == MAGIC_END && size <= PACK_SIZE_MAX && span + HEADER_LENGTH as u64 <= size;
    if fits { Ok(span) } else { Err(ObjectError::Broken("it does not end like a pack")) }
}

/// Opens the trailer of a pack from its first [`HEADER_LENGTH`] bytes and its last [`trailer_span`] bytes.
///
/// # Errors
/// [`ObjectError`] if it is not exactly this pack of this repository.
pub fn decode_trailer(
    head: &[u8],
    end: &[u8],
    size: u64,
    (kind, id, repository): (ObjectKind, PackId, RepositoryId),
    structure_of: impl FnOnce(u16) -> Option<Key>,
) -> Result<Trailer, ObjectError> {
    let (header, head, _) = Header::expect(head, kind, repository)?;
    if header.salt != *id.as_bytes() {
        return Err(ObjectError::Misplaced);
    }
    let key = structure_of(header.epoch).ok_or(ObjectError::UnknownEpoch(header.epoch))?;
    let sealed = end.len().checked_sub(TAIL_LENGTH).and_then(|length| end.get(..length));
    let table = object::open_section(&key, head, 0, true, sealed.ok_or(ObjectError::Broken("it is too short for a pack"))?)?;
    let trailer = decode_table(&table, kind)?;
    let records_end = trailer.records.last().map_or(HEADER_LENGTH as u64, |r| u64::from(r.offset) + u64::from(r.stored_len));
    if records_end + end.len() as u64 <= size { Ok(trailer) } else { Err(ObjectError::Broken("its records reach into the trailer")) }
}

/// Opens the trailer of a whole pack.
///
/// # Errors
/// As [`trailer_span`] and [`decode_trailer`].
pub fn decode_whole(
    object: &[u8],
    place: (ObjectKind, PackId, RepositoryId),
    structure_of: impl FnOnce(u16) -> Option<Key>,
) -> Result<Trailer, ObjectError> {
    let short = ObjectError::Broken("it is too short for a pack");
    let Some((_, tail)) = object.split_last_chunk::<TAIL_LENGTH>() else { return Err(short) };
    let span = usize::try_from(trailer_span(tail, object.len() as u64)?).map_err(|_| ObjectError::Broken("it is too large"))?;
    let end = object.len().checked_sub(span).and_then(|start| object.get(start..)).ok_or(short)?;
    decode_trailer(object, end, object.len() as u64, place, structure_of)
}

fn encode_table(trailer: &Trailer) -> Vec<u8> {
    let row_count = trailer.records.len() + trailer.fragments.len();
    let length = 8 + trailer.sessions.len() * SESSION_ROW + row_count * RECORD_ROW;
    let padded = wire::padme_steps(length, TRAILER_STEP);
    let mut table = Vec::with_capacity(padded);
    let count = |n: usize| u32::try_from(n).expect("a pack holds fewer than 2^32 records").to_le_bytes();
    table.extend_from_slice(&count(trailer.sessions.len()));
    table.extend_from_slice(&count(row_count));
    for session in &trailer.sessions {
        table.extend_from_slice(session.id.as_bytes());
        table.extend_from_slice(&session.key.enc);
        table.extend_from_slice(&session.key.epoch.to_le_bytes());
        table.extend_from_slice(&[0; 14]);
    }
    let mut row = |id: &[u8; 32], lengths: [u32; 2], session: u16, kind: u8, codec: u8| {
        table.extend_from_slice(id);
        lengths.iter().for_each(|length| table.extend_from_slice(&length.to_le_bytes()));
        table.extend_from_slice(&session.to_le_bytes());
        table.extend_from_slice(&[kind, codec, 0, 0, 0, 0]);
    };
    let mut fragments = trailer.fragments.iter().peekable();
    for (index, record) in trailer.records.iter().enumerate() {
        let facts = &record.facts;
        row(facts.id.as_bytes(), [record.stored_len, facts.plain_len], record.session, facts.kind.to_byte(), facts.codec.to_byte());
        while let Some(fragment) = fragments.next_if(|fragment| fragment.record == index) {
            row(&fragment.hash, [fragment.start, fragment.length], record.session, FRAGMENT_KIND, 0);
        }
    }
    table.resize(padded, 0);
    table
}

fn decode_table(table: &[u8], kind: ObjectKind) -> Result<Trailer, ObjectError> {
    let mut reader = Reader::new(table);
    let (sessions, records) = (reader.u32()? as usize, reader.u32()? as usize);
    let length = sessions.saturating_mul(SESSION_ROW).saturating_add(records.saturating_mul(RECORD_ROW)).saturating_add(8);
    if sessions > SESSION_COUNT_MAX || records > RECORD_COUNT_MAX || length > table.len() {
        return Err(ObjectError::Broken("its trailer claims more rows than it holds"));
    }
    let mut trailer = Trailer { sessions: Vec::with_capacity(sessions), ..Trailer::default() };
    for _ in 0..sessions {
        let (id, enc, epoch) = (SessionId::from_bytes(reader.array()?), reader.array()?, reader.u16()?);
        reader.bytes(14)?;
        trailer.sessions.push(PackSession { id, key: SessionKeyRef { epoch, enc } });
    }
    let mut offset = u32::try_from(HEADER_LENGTH).expect("the header is short");
    for _ in 0..records {
        match decode_row(&mut reader, offset, (kind, sessions), &trailer.records)? {
            Row::Record(record) => {
                offset = offset.checked_add(record.stored_len).ok_or(ObjectError::Broken("its records are longer than a pack"))?;
                trailer.records.push(record);
            }
            Row::Fragment(fragment) => trailer.fragments.push(fragment),
        }
    }
    Ok(trailer)
}

/// A row of a trailer.
enum Row {
    Record(PackRecord),
    Fragment(PackFragment),
}

fn decode_row(
    reader: &mut Reader<'_>,
    offset: u32,
    (pack, sessions): (ObjectKind, usize),
    before: &[PackRecord],
) -> Result<Row, ObjectError> {
    let id = reader.array()?;
    let (stored_len, plain_len, session) = (reader.u32()?, reader.u32()?, reader.u16()?);
    let (kind, codec) = (reader.u8()?, Codec::from_byte(reader.u8()?));
    reader.bytes(4)?;
    if kind == FRAGMENT_KIND {
        let (start, length) = (stored_len, plain_len);
        let is_part = |record: &PackRecord| {
            let fits = start.checked_add(length).is_some_and(|end| end <= record.facts.plain_len);
            fits && record.session == session && record.facts.kind == RecordKind::Data
        };
        let record = before.len().checked_sub(1).filter(|_| before.last().is_some_and(is_part));
        let record = record.ok_or(ObjectError::Broken("a fragment is no part of the record before it"))?;
        return Ok(Row::Fragment(PackFragment { hash: id, record, start, length }));
    }
    let (id, kind) = (RecordId::from_bytes(id), RecordKind::from_byte(kind));
    let (Some(kind), Some(codec)) = (kind, codec) else {
        return Err(ObjectError::Broken("it holds records of a later version"));
    };
    if usize::from(session) >= sessions || pack_kind(kind) != pack {
        return Err(ObjectError::Broken("its trailer contradicts itself"));
    }
    Ok(Row::Record(PackRecord { facts: RecordFacts { kind, id, codec, plain_len }, offset, stored_len, session }))
}

/// Which kind of pack holds such records.
pub fn pack_kind(kind: RecordKind) -> ObjectKind {
    match kind {
        RecordKind::Data => ObjectKind::DataPack,
        RecordKind::Tree | RecordKind::List | RecordKind::Table => ObjectKind::MetaPack,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SystemRandom;

    const REPOSITORY: RepositoryId = RepositoryId::from_bytes([9; 16]);

    fn sample(count: u8) -> Pack {
        let mut builder = PackBuilder::new(ObjectKind::MetaPack, 1, REPOSITORY, (1000, Vec::new()), &SystemRandom);
        let session = PackSession { id: SessionId::from_bytes([4; 16]), key: SessionKeyRef { epoch: 1, enc: [5; 32] } };
        for n in 0..count {
            let facts = RecordFacts { kind: RecordKind::List, id: RecordId::from_bytes([n; 32]), codec: Codec::Raw, plain_len: 60 };
            builder.push(&facts, &session, &[n; 100]);
        }
        builder.finish(&key(1).unwrap(), &SystemRandom)
    }

    fn key(epoch: u16) -> Option<Key> {
        (epoch == 1).then(|| Key::from_bytes([1; 32]))
    }

    #[test]
    fn trailers_round_trip() {
        for count in [0, 1, 200] {
            let pack = sample(count);
            assert!(verify_end_hash(&pack.bytes));
            assert_eq!(wire::padme(pack.bytes.len() as u64), pack.bytes.len() as u64);
            let trailer = decode_whole(&pack.bytes, (pack.kind, pack.id, REPOSITORY), key).unwrap();
            assert_eq!(trailer, pack.trailer);
            for (n, (_, _, reference)) in trailer.references(pack.id).enumerate() {
                let at = reference.offset as usize;
                assert_eq!(pack.bytes[at..at + 100], [u8::try_from(n).unwrap(); 100]);
            }
        }
    }

    #[test]
    fn fragments_stand_behind_their_records() {
        let session = PackSession { id: SessionId::from_bytes([4; 16]), key: SessionKeyRef { epoch: 1, enc: [5; 32] } };
        type Parts<'a> = &'a [([u8; 32], u32, u32)];
        let made = |kind, parts: &[(u8, Parts<'_>)]| {
            let mut builder = PackBuilder::new(kind, 1, REPOSITORY, (1000, Vec::new()), &SystemRandom);
            builder.note_fragments([([0; 32], 0, 0)]);
            for (n, parts) in parts {
                let kind = if kind == ObjectKind::DataPack { RecordKind::Data } else { RecordKind::List };
                builder.push(
                    &RecordFacts { kind, id: RecordId::from_bytes([*n; 32]), codec: Codec::Raw, plain_len: 60 },
                    &session,
                    &[*n; 100],
                );
                builder.note_fragments(parts.iter().copied());
            }
            let pack = builder.finish(&key(1).unwrap(), &SystemRandom);
            (decode_whole(&pack.bytes, (kind, pack.id, REPOSITORY), key), pack)
        };
        let (read, pack) = made(ObjectKind::DataPack, &[(1, &[([7; 32], 0, 20), ([8; 32], 20, 40)]), (2, &[]), (3, &[([9; 32], 5, 1)])]);
        assert_eq!((read.as_ref().unwrap().records.len(), &read.as_ref().unwrap().fragments), (3, &pack.trailer.fragments));
        assert_eq!(
            pack.trailer.fragments.iter().map(|f| (f.hash[0], f.record, f.start, f.length)).collect::<Vec<_>>(),
            [(7, 0, 0, 20), (8, 0, 20, 40), (9, 2, 5, 1)]
        );
        let no_part = Err(ObjectError::Broken("a fragment is no part of the record before it"));
        assert_eq!(made(ObjectKind::DataPack, &[(1, &[([7; 32], 1, 60)])]).0, no_part);
        assert_eq!(made(ObjectKind::DataPack, &[(1, &[([7; 32], u32::MAX, 2)])]).0, no_part);
        assert_eq!(made(ObjectKind::MetaPack, &[(1, &[([7; 32], 0, 1)])]).0, no_part);
    }

    #[test]
    fn a_pack_under_another_name_is_refused() {
        let pack = sample(1);
        let other = PackId::from_bytes([0; 16]);
        assert_eq!(decode_whole(&pack.bytes, (pack.kind, other, REPOSITORY), key), Err(ObjectError::Misplaced));
        assert!(decode_whole(&pack.bytes, (ObjectKind::DataPack, pack.id, REPOSITORY), key).is_err());
        assert!(decode_whole(&pack.bytes, (pack.kind, pack.id, RepositoryId::from_bytes([0; 16])), key).is_err());
    }

    #[test]
    fn every_cut_and_every_flip_of_the_end_is_refused() {
        let pack = sample(3);
        let place = (pack.kind, pack.id, REPOSITORY);
        for end in 0..pack.bytes.len() {
            assert!(decode_whole(&pack.bytes[..end], place, key).is_err());
        }
        let end = TRAILER_STEP + 16 + TAIL_LENGTH;
        for at in pack.bytes.len() - end - 100..pack.bytes.len() {
            let mut damaged = pack.bytes.clone();
            damaged[at] ^= 1;
            assert!(!verify_end_hash(&damaged));
            let in_hash = at >= pack.bytes.len() - HASH_LENGTH;
            assert_eq!(decode_whole(&damaged, place, key).is_ok(), in_hash || damaged[at..].len() > end);
        }
    }
}
