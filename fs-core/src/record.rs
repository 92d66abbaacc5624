//! Records: one sealed piece of content or of a tree, and the reference that finds and opens it.
//!
//! Layout: docs/FORMAT.md, sections 6 and 9.

use std::ops::Range;

use bytes::{Buf as _, Bytes, BytesMut};

use crate::compress::{self, Codec};
use crate::crypto::{self, Key, NONCE_LENGTH, Pair, RandomSource, TAG_LENGTH};
use crate::id::{PackId, RecordId, RepositoryId};

/// Largest plaintext of a record, in bytes.
pub const PLAIN_LENGTH_MAX: usize = 16 << 20;
/// Random bytes that begin a sealed record.
const RANDOM_LENGTH: usize = 24;
/// Bytes that sealing adds to the compressed plaintext.
pub const OVERHEAD: usize = RANDOM_LENGTH + TAG_LENGTH;

/// Why a record's bytes did not give its plaintext.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
pub enum RecordError {
    /// The lengths cannot be those of such a record.
    #[error("its lengths are impossible")]
    Length,
    /// The bytes do not authenticate: damaged, cut, or another record.
    #[error("it does not authenticate")]
    NotAuthentic,
    /// It authenticates and does not decompress: a fault of the machine that wrote it.
    #[error("it does not decompress")]
    NotDecompressed,
    /// It opens, and its plaintext has another id: a fault of the machine that wrote it.
    #[error("its content does not have its id")]
    WrongId,
}

/// What a record holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RecordKind {
    /// One chunk of file data.
    Data,
    /// One tree page or page index.
    Tree,
    /// One chunk list.
    List,
    /// One part of a side table.
    Table,
}

impl RecordKind {
    /// The number in the format.
    pub fn to_byte(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Tree => 2,
            Self::List => 3,
            Self::Table => 4,
        }
    }

    /// The kind of a number in the format; `None` if this version does not know it.
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Data, Self::Tree, Self::List, Self::Table].into_iter().find(|kind| kind.to_byte() == byte)
    }

    /// The key pair that seals such records.
    pub fn pair(self) -> Pair {
        match self {
            Self::Data => Pair::Data,
            Self::Tree | Self::List | Self::Table => Pair::Tree,
        }
    }
}

/// What identifies a record beside its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordFacts {
    /// What it holds.
    pub kind: RecordKind,
    /// Its id.
    pub id: RecordId,
    /// How its plaintext is compressed.
    pub codec: Codec,
    /// Plaintext length in bytes.
    pub plain_len: u32,
}

/// The id that a plaintext has under an id key.
pub fn record_id(id_key: &Key, plain: &[u8]) -> RecordId {
    RecordId::from_bytes(crypto::keyed_hash(id_key, &[plain]))
}

/// Seals and opens the records of one session and key pair.
#[derive(Clone, Debug)]
pub struct RecordKey {
    /// Repository id.
    pub repository: RepositoryId,
    /// The session's key epoch.
    pub epoch: u16,
    /// `K_sess` of the format.
    pub key: Key,
}

impl RecordKey {
    /// Seals compressed plaintext: random bytes, ciphertext, tag; [`OVERHEAD`] bytes more than `body`.
    pub fn seal(&self, facts: &RecordFacts, body: &[u8], random: &dyn RandomSource) -> Vec<u8> {
        let mut sealed = Vec::new();
        self.seal_into(facts, body, random, &mut sealed);
        sealed
    }

    /// The same into a buffer, in place of what it holds.
    pub fn seal_into(&self, facts: &RecordFacts, body: &[u8], random: &dyn RandomSource, sealed: &mut Vec<u8>) {
        sealed.clear();
        sealed.reserve(OVERHEAD + body.len());
        let salt: [u8; RANDOM_LENGTH] = crypto::random_array(random);
        sealed.extend_from_slice(&salt);
        sealed.extend_from_slice(body);
        crypto::seal(&self.key_of(&salt, &facts.id), nonce_of(&salt), &self.associated(facts), sealed, RANDOM_LENGTH);
    }

    /// Opens, decompresses, computes the id again and compares: three independent checks. Bytes that nobody else holds are opened in place, without a copy.
    ///
    /// # Errors
    /// [`RecordError`], by the check that failed.
    pub fn open(&self, facts: &RecordFacts, id_key: &Key, sealed: impl Into<BytesMut>) -> Result<Bytes, RecordError> {
        let plain_len = facts.plain_len as usize;
        let mut body = sealed.into();
        let Some(salt) = body.first_chunk::<RANDOM_LENGTH>().copied() else { return Err(RecordError::Length) };
        body.advance(RANDOM_LENGTH);
        let body_len = body.len().checked_sub(TAG_LENGTH).ok_or(RecordError::Length)?;
        let fits = match facts.codec {
            Codec::Raw => body_len == plain_len,
            Codec::Zstd => body_len < plain_len,
        };
        if !fits || plain_len > PLAIN_LENGTH_MAX {
            return Err(RecordError::Length);
        }
        crypto::open(&self.key_of(&salt, &facts.id), nonce_of(&salt), &self.associated(facts), &mut body)
            .map_err(|_| RecordError::NotAuthentic)?;
        body.truncate(body_len);
        let plain = compress::decompress(facts.codec, body.freeze(), plain_len).map_err(|_| RecordError::NotDecompressed)?;
        if record_id(id_key, &plain) == facts.id { Ok(plain) } else { Err(RecordError::WrongId) }
    }

    fn key_of(&self, salt: &[u8; RANDOM_LENGTH], id: &RecordId) -> Key {
        Key::from_bytes(crypto::keyed_hash(&self.key, &[salt, id.as_bytes()]))
    }

    fn associated(&self, facts: &RecordFacts) -> [u8; 60] {
        let mut bytes = [0; 60];
        let parts: [&[u8]; 6] = [
            b"rec1",
            self.repository.as_bytes(),
            &self.epoch.to_le_bytes(),
            &[facts.kind.to_byte(), facts.codec.to_byte()],
            &facts.plain_len.to_le_bytes(),
            facts.id.as_bytes(),
        ];
        let mut rest = &mut bytes[..];
        for part in parts {
            let (slot, after) = rest.split_at_mut(part.len());
            slot.copy_from_slice(part);
            rest = after;
        }
        bytes
    }
}

fn nonce_of(salt: &[u8; RANDOM_LENGTH]) -> [u8; NONCE_LENGTH] {
    let (_, nonce) = salt.split_at(RANDOM_LENGTH - NONCE_LENGTH);
    nonce.try_into().expect("the salt is longer than a nonce")
}

/// The HPKE value of the session that sealed a record, and that session's key epoch: what is needed to open it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionKeyRef {
    /// Key epoch.
    pub epoch: u16,
    /// HPKE encapsulated key of the record kind's key pair.
    pub enc: [u8; 32],
}

/// A record's id with a hint where it lies.
///
/// Id, lengths, codec and session are facts; pack and offset may be out of date, then the index knows better.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Reference {
    /// The record.
    pub id: RecordId,
    /// Plaintext length in bytes.
    pub plain_len: u32,
    /// Length in the pack in bytes.
    pub stored_len: u32,
    /// Offset in the pack in bytes.
    pub offset: u32,
    /// How the plaintext is compressed.
    pub codec: Codec,
    /// The pack.
    pub pack: PackId,
    /// What opens it.
    pub session: SessionKeyRef,
}

impl Reference {
    /// What identifies the record, for opening it as `kind`.
    pub fn facts(&self, kind: RecordKind) -> RecordFacts {
        RecordFacts { kind, id: self.id, codec: self.codec, plain_len: self.plain_len }
    }

    /// Where it lies in its pack, in bytes.
    pub fn place(&self) -> Range<u64> {
        let start = u64::from(self.offset);
        start..start + u64::from(self.stored_len)
    }

    /// Bytes of memory that it takes while it comes, sealed and opened taken together.
    pub fn cost(&self) -> u64 {
        u64::from(self.stored_len) + u64::from(self.plain_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SystemRandom;

    fn sealed(plain: &[u8]) -> (RecordKey, Key, RecordFacts, Vec<u8>) {
        let id_key = Key::from_bytes([1; 32]);
        let key = RecordKey { repository: RepositoryId::from_bytes([2; 16]), epoch: 1, key: Key::from_bytes([3; 32]) };
        let mut compressor = compress::Compressor::new(compress::Compression::Auto);
        let (codec, body) = compressor.compress(plain);
        let plain_len = u32::try_from(plain.len()).unwrap();
        let facts = RecordFacts { kind: RecordKind::Data, id: record_id(&id_key, plain), codec, plain_len };
        let bytes = key.seal(&facts, body, &SystemRandom);
        (key, id_key, facts, bytes)
    }

    #[test]
    fn what_was_sealed_opens() {
        for plain in [&b""[..], b"short", &b"text that repeats ".repeat(50)] {
            let (key, id_key, facts, bytes) = sealed(plain);
            assert_eq!(key.open(&facts, &id_key, &bytes[..]).as_deref(), Ok(plain));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let (key, id_key, facts, bytes) = sealed(&b"text that repeats ".repeat(50));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(key.open(&facts, &id_key, &damaged[..]), Err(RecordError::NotAuthentic));
            assert!(key.open(&facts, &id_key, &bytes[..at]).is_err());
        }
    }

    #[test]
    fn a_record_is_bound_to_what_identifies_it() {
        let (key, id_key, facts, bytes) = sealed(b"bound");
        let other = |facts: RecordFacts| key.open(&facts, &id_key, &bytes[..]);
        assert!(other(RecordFacts { kind: RecordKind::Tree, ..facts }).is_err());
        assert!(other(RecordFacts { codec: Codec::Zstd, ..facts }).is_err());
        assert!(other(RecordFacts { plain_len: 4, ..facts }).is_err());
        assert!(other(RecordFacts { id: RecordId::from_bytes([0; 32]), ..facts }).is_err());
        assert!(RecordKey { epoch: 2, ..key.clone() }.open(&facts, &id_key, &bytes[..]).is_err());
        assert_eq!(key.open(&facts, &Key::from_bytes([9; 32]), &bytes[..]), Err(RecordError::WrongId));
    }
}
