//! Index: finds a record without a hint. Shards on the store, their union in memory.
//!
//! Entries are hints; whoever uses one checks that the pack is listed and that the record opens. Readers need the index only where
//! prune has moved a record. Layout: docs/FORMAT.md, section 11.

use std::sync::OnceLock;

use digest::SetDigest;

use crate::compress::Codec;
use crate::crypto::{self, Key};
use crate::id::{ObjectHash, PackId, RecordId, RepositoryId, SessionId};
use crate::object::{self, HEADER_LENGTH, Header, MAGIC_END, ObjectError, ObjectKind, Signed, Signer};
use crate::pack::{FRAGMENT_KIND, PackSession, Trailer};
use crate::record::{RecordFacts, RecordKind, Reference, SessionKeyRef};
use crate::wire::{CborReader, CborWriter, Reader, padme_steps};

pub mod digest;
pub mod merge;

/// Most entries of one shard.
pub const SHARD_ENTRIES_MAX: usize = 4 << 20;
/// A shard that names so many sessions is closed. An entry has two bytes for its session, and one more pack may bring thousands.
pub const SHARD_SESSIONS_ENOUGH: usize = 1 << 14;

/// Bytes of an entry.
pub const ENTRY_LENGTH: usize = 52;
/// Where in an entry the pack stands, and the session: indexes into tables.
const PACK_PLACE: std::ops::Range<usize> = 32..36;
const SESSION_PLACE: std::ops::Range<usize> = 48..50;
const BLOCK_LENGTH: usize = 16 * 1024;
const BLOCK_ENTRIES: usize = (BLOCK_LENGTH - crypto::TAG_LENGTH) / ENTRY_LENGTH;
/// The blocks of a shard together have a multiple of this many bytes.
const BLOCKS_STEP: usize = 1024;
const TAIL_LENGTH: usize = 16;
const FENCE_LENGTH: usize = 8;

/// A pack that a shard speaks of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ShardPack {
    /// The pack.
    pub id: PackId,
    /// [`ObjectKind::DataPack`] or [`ObjectKind::MetaPack`].
    pub kind: ObjectKind,
    /// Size of the object in bytes: an entry counts only while the store lists the pack with this size.
    pub size: u64,
}

/// Where a record was when the shard was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Location {
    /// What it holds.
    pub kind: RecordKind,
    /// Id, lengths, place and session.
    pub reference: Reference,
    /// Size of the pack that holds it.
    pub pack_size: u64,
}

/// Where a small file lies that shares its record with others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentLocation {
    /// The record.
    pub reference: Reference,
    /// Where in its plaintext the file begins.
    pub start: u32,
    /// Length of the file in bytes.
    pub length: u32,
    /// Size of the pack that holds the record.
    pub pack_size: u64,
}

/// The data records of a shard by where they lie.
#[derive(Debug, Default)]
pub struct Places(Vec<u32>);

/// One index shard in memory: entries as on the store, sorted.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Shard {
    packs: Vec<ShardPack>,
    sessions: Vec<PackSession>,
    entries: Vec<[u8; ENTRY_LENGTH]>,
    superseded: Vec<ObjectHash>,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shard({} entries in {} packs)", self.entries.len(), self.packs.len())
    }
}

impl Shard {
    /// Adds all records of a pack. Call [`Self::sort`] when all packs are added.
    pub fn add_pack(&mut self, pack: ShardPack, trailer: &Trailer) {
        let pack_index = u32::try_from(self.packs.len()).expect("a shard has at most 2^22 entries");
        self.packs.push(pack);
        let sessions: Vec<Option<u16>> = trailer.sessions.iter().map(|session| self.session_index(session)).collect();
        for record in &trailer.records {
            let Some(Some(session)) = sessions.get(usize::from(record.session)) else { continue };
            let RecordFacts { kind, id, codec, plain_len } = &record.facts;
            let lengths = [record.offset, record.stored_len, *plain_len];
            self.entries.push(encode_entry(id.as_bytes(), pack_index, lengths, *session, [kind.to_byte(), codec.to_byte()]));
        }
        for fragment in &trailer.fragments {
            let Some(record) = trailer.records.get(fragment.record) else { continue };
            let Some(Some(session)) = sessions.get(usize::from(record.session)) else { continue };
            let lengths = [record.offset, fragment.start, fragment.length];
            self.entries.push(encode_entry(&fragment.hash, pack_index, lengths, *session, [FRAGMENT_KIND, 0]));
        }
    }

    /// Adds what another shard says of the wanted packs. Call [`Self::sort`] afterwards.
    pub fn add_part(&mut self, other: &Self, wanted: impl Fn(&PackId) -> bool) {
        if !other.packs.iter().any(|pack| wanted(&pack.id)) {
            return;
        }
        let mut packs: Vec<Option<u32>> = Vec::with_capacity(other.packs.len());
        for pack in &other.packs {
            let index = u32::try_from(self.packs.len()).expect("a shard has at most 2^22 entries");
            let is_wanted = wanted(&pack.id);
            packs.push(is_wanted.then_some(index));
            self.packs.extend(is_wanted.then_some(*pack));
        }
        self.add_entries(other, &packs, |_| {});
    }

    /// Adds the entries of another shard; `packs` says where each of its packs stands here. `left_out` sees those whose pack stands nowhere.
    fn add_entries(&mut self, other: &Self, packs: &[Option<u32>], mut left_out: impl FnMut(&Row)) {
        let sessions: Vec<Option<u16>> = other.sessions.iter().map(|session| self.session_index(session)).collect();
        for mut entry in other.entries.iter().copied() {
            let row = Row::decode(&entry);
            let (pack, session) = (packs.get(row.pack as usize), sessions.get(usize::from(row.session)));
            let (Some(Some(pack)), Some(Some(session))) = (pack, session) else {
                left_out(&row);
                continue;
            };
            for (place, bytes) in [(PACK_PLACE, &pack.to_le_bytes()[..]), (SESSION_PLACE, &session.to_le_bytes())] {
                entry.get_mut(place).expect("an entry has these places").copy_from_slice(bytes);
            }
            self.entries.push(entry);
        }
    }

    /// Brings the entries into the order that lookups and the store want.
    pub fn sort(&mut self) {
        self.entries.sort_unstable();
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the next shard is to be begun, `entries_max` being what its writer takes for large.
    pub fn is_full(&self, entries_max: usize) -> bool {
        self.entries.len() >= entries_max || self.sessions.len() >= SHARD_SESSIONS_ENOUGH
    }

    /// Packs that it speaks of.
    pub fn packs(&self) -> &[ShardPack] {
        &self.packs
    }

    /// Shards that need not be read because everything of use in them is in this one.
    pub fn superseded(&self) -> &[ObjectHash] {
        &self.superseded
    }

    /// All records: id, pack, offset and stored length of each.
    pub fn records(&self) -> impl Iterator<Item = (RecordId, &ShardPack, u32, u32)> {
        let rows = self.entries.iter().map(Row::decode).filter(|row| row.kind != FRAGMENT_KIND);
        rows.filter_map(|row| Some((RecordId::from_bytes(row.id), self.packs.get(row.pack as usize)?, row.offset, row.stored_len)))
    }

    /// How many records it knows in each of its packs, in their order.
    pub fn record_counts(&self) -> Vec<u64> {
        let mut counts = vec![0; self.packs.len()];
        for row in self.entries.iter().map(Row::decode).filter(|row| row.kind != FRAGMENT_KIND) {
            counts.get_mut(row.pack as usize).into_iter().for_each(|count| *count += 1);
        }
        counts
    }

    /// All records that it knows in one pack, in no order. Looks at every entry.
    pub fn records_in(&self, pack: &PackId) -> impl Iterator<Item = Location> {
        let wanted: Vec<_> = self.packs.iter().map(|known| known.id == *pack).collect();
        let rows = self.entries.iter().map(Row::decode).filter(move |row| wanted.get(row.pack as usize) == Some(&true));
        rows.filter(|row| row.kind != FRAGMENT_KIND).filter_map(|row| self.location(&row))
    }

    /// All places where the shard saw a record.
    pub fn find(&self, id: &RecordId) -> impl Iterator<Item = Location> {
        self.rows_of(id.as_bytes()).filter_map(|row| self.location(&row))
    }

    /// All places where the shard saw a small file of this whole-file hash that shares its record with others. `places` is filled with [`Self::places`] when
    /// it is needed.
    pub fn find_fragment(&self, hash: &[u8; 32], places: &OnceLock<Places>) -> impl Iterator<Item = FragmentLocation> {
        self.rows_of(hash).filter(|row| row.kind == FRAGMENT_KIND).filter_map(|row| {
            let places = places.get_or_init(|| self.places());
            let row_at = |at: &u32| self.entries.get(*at as usize).map(Row::decode);
            let found = places.0.binary_search_by(|at| row_at(at).map(|row| row.place()).cmp(&Some(row.place()))).ok()?;
            let Location { reference, pack_size, .. } = self.location(&row_at(places.0.get(found)?)?)?;
            let (start, length) = (row.stored_len, row.plain_len);
            let is_part = start.checked_add(length).is_some_and(|end| end <= reference.plain_len);
            is_part.then_some(FragmentLocation { reference, start, length, pack_size })
        })
    }

    /// The data records in the order in which they lie in the packs: for those who look for many fragments.
    pub fn places(&self) -> Places {
        let is_data = |entry: &[u8; ENTRY_LENGTH]| Row::decode(entry).kind == RecordKind::Data.to_byte();
        let mut places: Vec<_> =
            (0u32..).zip(&self.entries).filter(|(_, entry)| is_data(entry)).map(|(at, entry)| (Row::decode(entry).place(), at)).collect();
        places.sort_unstable();
        Places(places.into_iter().map(|(_, at)| at).collect())
    }

    fn rows_of(&self, id: &[u8; 32]) -> impl Iterator<Item = Row> {
        let start = self.entries.partition_point(|entry| entry.split_at(RecordId::LENGTH).0 < &id[..]);
        let tail = self.entries.get(start..).unwrap_or_default();
        tail.iter().take_while(move |entry| entry.starts_with(id)).map(Row::decode)
    }

    /// The whole object, signed.
    ///
    /// # Panics
    /// If there are more than [`SHARD_ENTRIES_MAX`] entries: the writer starts another shard before.
    pub fn encode(&self, header: &Header, key: &Key, signer: &Signer) -> Vec<u8> {
        assert!(self.entries.len() <= SHARD_ENTRIES_MAX, "the writer splits its index into shards");
        let head = header.encode();
        let mut object = Vec::with_capacity(HEADER_LENGTH + blocks_length(self.entries.len()) + BLOCK_LENGTH);
        object.extend_from_slice(&head);
        let mut fences = Vec::new();
        let blocks = self.entries.chunks(BLOCK_ENTRIES);
        let block_count = blocks.len() as u64;
        for (index, block) in blocks.enumerate() {
            fences.extend(block.iter().take(1).flat_map(|entry| entry.iter().take(FENCE_LENGTH)));
            let length = (blocks_length(self.entries.len()) - index * BLOCK_LENGTH).min(BLOCK_LENGTH);
            let mut plain = block.concat();
            plain.resize(length - crypto::TAG_LENGTH, 0xff);
            object.extend_from_slice(&object::seal_section(key, &head, index as u64, false, plain));
        }
        let block_hash = crypto::hash(object.split_at(HEADER_LENGTH).1);
        let payload = self.encode_fence(&fences, &self.set_digest(key).to_bytes(), &block_hash);
        let fence = object::seal_section(key, &head, block_count, true, Signed::new(payload, &head, signer).encode());
        object.extend_from_slice(&fence);
        object.extend_from_slice(&u32::try_from(fence.len()).expect("a fence is small").to_le_bytes());
        object.extend_from_slice(&u32::try_from(block_count).expect("a shard has few blocks").to_le_bytes());
        object.extend_from_slice(&MAGIC_END);
        object
    }

    /// Opens a shard: every block, the fence, order and digests. The signature is the caller's to check.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn decode_object(
        object: &[u8],
        repository: RepositoryId,
        key_of: impl FnOnce(u16) -> Option<Key>,
    ) -> Result<(Header, Self, Signed), ObjectError> {
        let (header, head, body) = Header::expect(object, ObjectKind::Shard, repository)?;
        let key = key_of(header.epoch).ok_or(ObjectError::UnknownEpoch(header.epoch))?;
        let End { length, block_count } = End::decode(body)?;
        let fence_start = body.len().checked_sub(length).ok_or(NOT_A_SHARD)?;
        let (blocks, end) = body.split_at(fence_start);
        let (mut fence, signed) = Fence::open(&key, head, block_count, end)?;
        let is_whole = fence.entry_count <= SHARD_ENTRIES_MAX && blocks.len() == blocks_length(fence.entry_count);
        if !is_whole || crypto::hash(blocks) != fence.block_hash || fence.entry_count.div_ceil(BLOCK_ENTRIES) != block_count {
            return Err(ObjectError::Broken("its fence does not fit its blocks"));
        }
        for (index, block) in blocks.chunks(BLOCK_LENGTH).enumerate() {
            let plain = object::open_section(&key, head, index as u64, false, block)?;
            let room = fence.entry_count - fence.shard.entries.len();
            let (entries, _) = plain.as_chunks::<ENTRY_LENGTH>();
            fence.shard.entries.extend(entries.iter().take(room.min(BLOCK_ENTRIES)));
        }
        let shard = fence.shard;
        shard.check(&key, &fence.fences, &fence.digest)?;
        Ok((header, shard, signed))
    }

    /// Opens the tables of a shard without its entries, by the header and the end of the object: what is superseded, which packs it speaks of. The signature is
    /// the caller's to check. `None` if `end` is too short; [`Self::end_length`] says how long it has to be.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn decode_tables(
        head: &[u8],
        end: &[u8],
        repository: RepositoryId,
        key_of: impl FnOnce(u16) -> Option<Key>,
    ) -> Result<Option<(Header, Self, Signed)>, ObjectError> {
        let (header, head, _) = Header::expect(head, ObjectKind::Shard, repository)?;
        let key = key_of(header.epoch).ok_or(ObjectError::UnknownEpoch(header.epoch))?;
        let End { length, block_count } = End::decode(end)?;
        let Some(start) = end.len().checked_sub(length) else { return Ok(None) };
        let (fence, signed) = Fence::open(&key, head, block_count, end.split_at(start).1)?;
        Ok(Some((header, fence.shard, signed)))
    }

    /// How many bytes at the end of an object [`Self::decode_tables`] wants, by what was read of them.
    ///
    /// # Errors
    /// [`ObjectError`] if it does not end like a shard.
    pub fn end_length(end: &[u8]) -> Result<usize, ObjectError> {
        Ok(End::decode(end)?.length)
    }

    fn check(&self, key: &Key, fences: &[u8], digest: &[u8; 32]) -> Result<(), ObjectError> {
        let broken = |what| Err(ObjectError::Broken(what));
        if !self.entries.is_sorted() {
            return broken("its entries are out of order");
        }
        let firsts = self.entries.chunks(BLOCK_ENTRIES).filter_map(|block| block.first()).flat_map(|entry| entry.iter().take(FENCE_LENGTH));
        if !firsts.eq(fences) {
            return broken("its fences do not fit its blocks");
        }
        if !self.entries.iter().all(|entry| self.is_known(&Row::decode(entry))) {
            return broken("an entry names what its tables do not have");
        }
        if self.set_digest(key).to_bytes() != *digest {
            return broken("its set digest does not fit its entries");
        }
        Ok(())
    }

    /// `None` beyond what an entry can name; whoever fills a shard ends it long before.
    fn session_index(&mut self, session: &PackSession) -> Option<u16> {
        let known = self.sessions.iter().position(|known| known == session);
        let index = u16::try_from(known.unwrap_or(self.sessions.len())).ok()?;
        if known.is_none() {
            self.sessions.push(*session);
        }
        Some(index)
    }

    /// What a row says of a record; `None` if it speaks of something else, or of what the tables do not have.
    fn location(&self, row: &Row) -> Option<Location> {
        let (pack, session) = (self.packs.get(row.pack as usize)?, self.sessions.get(usize::from(row.session))?);
        let (kind, codec) = (RecordKind::from_byte(row.kind)?, Codec::from_byte(row.codec)?);
        let &Row { plain_len, stored_len, offset, .. } = row;
        let reference =
            Reference { id: RecordId::from_bytes(row.id), plain_len, stored_len, offset, codec, pack: pack.id, session: session.key };
        Some(Location { kind, reference, pack_size: pack.size })
    }

    /// Whether a row says something that a reader understands.
    fn is_known(&self, row: &Row) -> bool {
        let has_tables = || self.packs.len() > row.pack as usize && self.sessions.len() > usize::from(row.session);
        if row.kind == FRAGMENT_KIND { has_tables() } else { self.location(row).is_some() }
    }

    /// What all entries amount to.
    fn set_digest(&self, key: &Key) -> SetDigest {
        let mut sum = SetDigest::default();
        self.entries.iter().map(Row::decode).for_each(|row| sum.add(self.term(key, &row)));
        sum
    }

    /// What an entry adds to the set digest: nothing of what it says by means of its own shard's tables.
    fn term(&self, key: &Key, row: &Row) -> SetDigest {
        let (Some(pack), Some(session)) = (self.packs.get(row.pack as usize), self.sessions.get(usize::from(row.session))) else {
            return SetDigest::default();
        };
        SetDigest::from_bytes(&crypto::keyed_hash(
            key,
            &[
                &row.id,
                pack.id.as_bytes(),
                &row.offset.to_le_bytes(),
                &row.stored_len.to_le_bytes(),
                &row.plain_len.to_le_bytes(),
                &session.key.epoch.to_le_bytes(),
                &session.key.enc,
                &[row.kind, row.codec],
            ],
        ))
    }

    fn encode_fence(&self, fences: &[u8], digest: &[u8; 32], block_hash: &[u8; 32]) -> Vec<u8> {
        let mut writer = CborWriter::new();
        writer.map(|map| {
            map.key(0).u64(self.entries.len() as u64);
            map.key(1).array_of(&self.packs, |writer, pack| {
                writer.array(3).bytes(pack.id.as_bytes()).u64(pack.kind.to_byte().into()).u64(pack.size);
            });
            map.key(2).array_of(&self.sessions, |writer, session| {
                writer.array(3).bytes(session.id.as_bytes()).u64(session.key.epoch.into()).bytes(&session.key.enc);
            });
            map.key(3).bytes(fences);
            map.key(4).bytes(digest);
            map.key(5).array_of(&self.superseded, |writer, hash| {
                writer.bytes(hash.as_bytes());
            });
            map.key(6).bytes(block_hash);
        });
        writer.finish()
    }
}

/// One entry as it is written.
#[derive(Clone, Copy)]
struct Row {
    /// Id of a record, hash of a fragment.
    id: [u8; 32],
    pack: u32,
    offset: u32,
    /// Stored length of a record, start of a fragment.
    stored_len: u32,
    plain_len: u32,
    session: u16,
    kind: u8,
    codec: u8,
}

impl Row {
    fn decode(entry: &[u8; ENTRY_LENGTH]) -> Self {
        let number = |at: usize| entry.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let [.., low, high, kind, codec] = *entry;
        Self {
            id: *entry.first_chunk().expect("an entry begins with an id"),
            pack: number(32),
            offset: number(36),
            stored_len: number(40),
            plain_len: number(44),
            session: u16::from_le_bytes([low, high]),
            kind,
            codec,
        }
    }

    /// Where it lies.
    fn place(&self) -> (u32, u32) {
        (self.pack, self.offset)
    }
}

fn encode_entry(id: &[u8; 32], pack: u32, numbers: [u32; 3], session: u16, kind_and_codec: [u8; 2]) -> [u8; ENTRY_LENGTH] {
    let mut entry = Vec::with_capacity(ENTRY_LENGTH);
    entry.extend_from_slice(id);
    entry.extend_from_slice(&pack.to_le_bytes());
    numbers.iter().for_each(|number| entry.extend_from_slice(&number.to_le_bytes()));
    entry.extend_from_slice(&session.to_le_bytes());
    entry.extend_from_slice(&kind_and_codec);
    entry.try_into().expect("the fields add up to an entry")
}

/// Bytes of the blocks that hold so many entries. The last block is shorter, so that the small shard of a small run stays small; what
/// the length says of their number is no more than what the length of a pack says.
fn blocks_length(entry_count: usize) -> usize {
    let Some(before) = entry_count.div_ceil(BLOCK_ENTRIES).checked_sub(1) else { return 0 };
    let last = (entry_count - before * BLOCK_ENTRIES) * ENTRY_LENGTH + crypto::TAG_LENGTH;
    padme_steps(before * BLOCK_LENGTH + last, BLOCKS_STEP).min((before + 1) * BLOCK_LENGTH)
}

const NOT_A_SHARD: ObjectError = ObjectError::Broken("it does not end like an index shard");

/// What the last bytes of a shard say.
struct End {
    /// Bytes of fence and tail.
    length: usize,
    block_count: usize,
}

impl End {
    fn decode(end: &[u8]) -> Result<Self, ObjectError> {
        let (_, tail) = end.split_last_chunk::<TAIL_LENGTH>().ok_or(NOT_A_SHARD)?;
        let mut reader = Reader::new(tail);
        let (fence_length, block_count) = (reader.u32()? as usize, reader.u32()? as usize);
        if reader.array::<8>()? != MAGIC_END || block_count > SHARD_ENTRIES_MAX {
            return Err(NOT_A_SHARD);
        }
        Ok(Self { length: fence_length.checked_add(TAIL_LENGTH).ok_or(NOT_A_SHARD)?, block_count })
    }
}

/// The fence of a shard: its tables, and what its blocks must amount to.
struct Fence {
    entry_count: usize,
    shard: Shard,
    fences: Vec<u8>,
    digest: [u8; 32],
    block_hash: [u8; 32],
}

impl Fence {
    /// Opens fence and tail, which are `end`.
    fn open(key: &Key, head: &[u8; HEADER_LENGTH], block_count: usize, end: &[u8]) -> Result<(Self, Signed), ObjectError> {
        let (fence, _) = end.split_last_chunk::<TAIL_LENGTH>().ok_or(NOT_A_SHARD)?;
        let signed = Signed::decode(&object::open_section(key, head, block_count as u64, true, fence)?)?;
        Ok((Self::decode(&signed.payload)?, signed))
    }

    fn decode(payload: &[u8]) -> Result<Self, ObjectError> {
        let (mut entry_count, mut shard) = (0, Shard::default());
        let (mut fences, mut digest, mut block_hash) = (None, None, None);
        let mut reader = CborReader::new(payload);
        reader.map::<ObjectError>(|key, reader| {
            match key {
                0 => entry_count = reader.u64()?,
                1 => shard.packs = reader.array(SHARD_ENTRIES_MAX, decode_pack)?,
                2 => shard.sessions = reader.array(usize::from(u16::MAX), decode_session)?,
                3 => fences = Some(reader.bytes(SHARD_ENTRIES_MAX)?.to_vec()),
                4 => digest = Some(reader.byte_array()?),
                5 => {
                    shard.superseded = reader.array(SHARD_ENTRIES_MAX, |r| Ok::<_, ObjectError>(ObjectHash::from_bytes(r.byte_array()?)))?
                }
                6 => block_hash = Some(reader.byte_array()?),
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        reader.finish()?;
        let entry_count = usize::try_from(entry_count).unwrap_or(usize::MAX);
        let (Some(fences), Some(digest), Some(block_hash)) = (fences, digest, block_hash) else {
            return Err(ObjectError::Broken("its fence is incomplete"));
        };
        Ok(Self { entry_count, shard, fences, digest, block_hash })
    }
}

fn decode_pack(reader: &mut CborReader<'_>) -> Result<ShardPack, ObjectError> {
    reader.tuple(3, |reader| {
        let id = PackId::from_bytes(reader.byte_array()?);
        let kind = ObjectKind::from_byte(reader.u8()?).filter(|kind| matches!(kind, ObjectKind::DataPack | ObjectKind::MetaPack));
        let kind = kind.ok_or(ObjectError::Broken("it names a pack of an unknown kind"))?;
        Ok(ShardPack { id, kind, size: reader.u64()? })
    })
}

fn decode_session(reader: &mut CborReader<'_>) -> Result<PackSession, ObjectError> {
    reader.tuple(3, |reader| {
        let id = SessionId::from_bytes(reader.byte_array()?);
        Ok(PackSession { id, key: SessionKeyRef { epoch: reader.u16()?, enc: reader.byte_array()? } })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SystemRandom;
    use crate::id::DeviceId;
    use crate::pack::{PackFragment, PackRecord};

    const REPOSITORY: RepositoryId = RepositoryId::from_bytes([9; 16]);

    fn key() -> Key {
        Key::from_bytes([1; 32])
    }

    fn sample(count: u32) -> Shard {
        let mut shard = Shard::default();
        for pack in 0..2u8 {
            let sessions = vec![PackSession { id: SessionId::from_bytes([pack; 16]), key: SessionKeyRef { epoch: 1, enc: [pack; 32] } }];
            let record = |n: u32| PackRecord {
                facts: RecordFacts { kind: RecordKind::Data, id: id(n), codec: Codec::Zstd, plain_len: n + 1 },
                offset: 48 + n,
                stored_len: 41,
                session: 0,
            };
            let records = (0..count).map(record).collect();
            let pack = ShardPack { id: PackId::from_bytes([pack; 16]), kind: ObjectKind::DataPack, size: 1000 };
            shard.add_pack(pack, &Trailer { sessions, records, fragments: Vec::new() });
        }
        shard.sort();
        shard
    }

    fn id(n: u32) -> RecordId {
        RecordId::from_bytes(crypto::hash(&n.to_le_bytes()))
    }

    fn encoded(shard: &Shard) -> Vec<u8> {
        let signer = Signer { device: DeviceId::from_bytes([7; 16]), seed: Key::from_bytes([8; 32]) };
        shard.encode(&Header::new(ObjectKind::Shard, 1, REPOSITORY, &SystemRandom), &key(), &signer)
    }

    #[test]
    fn shards_round_trip() {
        for count in [0, 1, 9, 10, 157, 158, 1000] {
            let shard = sample(count);
            let (_, read, _) = Shard::decode_object(&encoded(&shard), REPOSITORY, |_| Some(key())).unwrap();
            assert_eq!(read, shard);
            assert_eq!(read.len(), 2 * count as usize);
        }
    }

    #[test]
    fn a_fragment_is_found_with_its_record() {
        let mut shard = sample(10);
        let pack = ShardPack { id: PackId::from_bytes([5; 16]), kind: ObjectKind::DataPack, size: 77 };
        let sessions = vec![PackSession { id: SessionId::from_bytes([9; 16]), key: SessionKeyRef { epoch: 1, enc: [9; 32] } }];
        let record = |n: u32| PackRecord {
            facts: RecordFacts { kind: RecordKind::Data, id: id(100 + n), codec: Codec::Raw, plain_len: 60 },
            offset: 48 + 100 * n,
            stored_len: 100,
            session: 0,
        };
        let fragments =
            (0..6).map(|n| PackFragment { hash: *id(200 + n).as_bytes(), record: n as usize / 3, start: n % 3 * 20, length: 20 });
        shard.add_pack(pack, &Trailer { sessions, records: vec![record(0), record(1)], fragments: fragments.collect() });
        shard.sort();
        let (_, shard, _) = Shard::decode_object(&encoded(&shard), REPOSITORY, |_| Some(key())).unwrap();
        let places = OnceLock::new();
        for n in 0..6 {
            let found: Vec<_> = shard.find_fragment(id(200 + n).as_bytes(), &places).collect();
            let [found] = found[..] else { panic!("{found:?}") };
            assert_eq!((found.reference.id, found.reference.offset), (id(100 + n / 3), 48 + 100 * (n / 3)));
            assert_eq!((found.start, found.length, found.pack_size), (n % 3 * 20, 20, 77));
            assert_eq!(shard.find(&id(200 + n)).count(), 0, "it is no record");
        }
        assert_eq!(shard.find_fragment(id(100).as_bytes(), &places).count(), 0, "a record is no fragment");
    }

    #[test]
    fn blocks_hold_their_entries_and_a_few_take_little() {
        assert_eq!([0, 1, 19, 20, 314].map(blocks_length), [0, 1024, 1024, 2048, 16_384]);
        assert_eq!([315, 660].map(blocks_length), [17_408, 34_816]);
        for count in 1..5000 {
            let (length, before) = (blocks_length(count), (count - 1) / BLOCK_ENTRIES);
            let last = length - before * BLOCK_LENGTH;
            assert!(last <= BLOCK_LENGTH && last - crypto::TAG_LENGTH >= (count - before * BLOCK_ENTRIES) * ENTRY_LENGTH, "{count}");
        }
        let (few, many) = (encoded(&sample(1)), encoded(&sample(150)));
        assert!(few.len() < 3 * 1024 && many.len() > 15 * 1024, "{} {}", few.len(), many.len());
    }

    #[test]
    fn a_record_is_found_in_every_pack_that_holds_it() {
        let shard = sample(1000);
        for n in [0, 1, 500, 999] {
            let packs: Vec<_> = shard.find(&id(n)).map(|l| (l.reference.pack, l.reference.plain_len, l.pack_size)).collect();
            assert_eq!(packs, [(PackId::from_bytes([0; 16]), n + 1, 1000), (PackId::from_bytes([1; 16]), n + 1, 1000)]);
        }
        assert_eq!(shard.find(&id(1000)).count(), 0);
        assert_eq!(shard.find(&RecordId::from_bytes([255; 32])).count(), 0);
    }

    #[test]
    fn a_part_of_a_shard_says_of_its_packs_what_the_whole_said() {
        let (whole, second) = (sample(20), PackId::from_bytes([1; 16]));
        let other = ShardPack { id: PackId::from_bytes([9; 16]), kind: ObjectKind::MetaPack, size: 7 };
        let mut part = Shard::default();
        part.add_pack(
            other,
            &Trailer {
                sessions: vec![PackSession { id: SessionId::from_bytes([3; 16]), ..whole.sessions[0] }],
                records: Vec::new(),
                fragments: Vec::new(),
            },
        );
        part.add_part(&whole, |pack| *pack == second);
        part.add_part(&whole, |_| false);
        part.sort();
        assert_eq!(part.packs(), [other, whole.packs()[1]]);
        let locations = |shard: &Shard| shard.entries.iter().filter_map(|entry| shard.location(&Row::decode(entry))).collect::<Vec<_>>();
        let of_second: Vec<_> = locations(&whole).into_iter().filter(|location| location.reference.pack == second).collect();
        assert_eq!(of_second.len(), 20);
        assert_eq!(locations(&part), of_second);
        let (_, read, _) = Shard::decode_object(&encoded(&part), REPOSITORY, |_| Some(key())).unwrap();
        assert_eq!(read, part);
    }

    #[test]
    fn every_cut_is_refused_and_so_is_every_flip() {
        let object = encoded(&sample(3));
        for at in 0..object.len() {
            assert!(Shard::decode_object(&object[..at], REPOSITORY, |_| Some(key())).is_err());
            let mut damaged = object.clone();
            damaged[at] ^= 1;
            assert!(Shard::decode_object(&damaged, REPOSITORY, |_| Some(key())).is_err(), "byte {at}");
        }
    }
}
