//! Manifests as a repository keeps them at hand: as they were signed, many in one compressed block, so that ten thousand snapshots take little memory and
//! nothing is decoded that nobody asks for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;

use crate::compress::{Codec, Compression, Compressor, decompress};
use crate::object::ObjectError;
use crate::wire::{CborReader, CborWriter};

/// A block is closed when it has so many bytes: some thirty manifests. Larger ones take hardly less room, and opening one takes longer.
const BLOCK_SIZE: usize = 16 << 10;
/// Largest block that is opened; a single manifest may be long.
const BLOCK_SIZE_MAX: usize = 32 << 20;
/// Blocks that stay open for who asks for one manifest after the other.
const OPEN_MAX: usize = 8;

/// Opened blocks, the last one first.
type Open = VecDeque<(Weak<Block>, Bytes)>;

/// The blocks of a repository that were opened last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recent(Arc<Mutex<Open>>);

impl Recent {
    fn get(&self, block: &Arc<Block>) -> Option<Bytes> {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().find(|(known, _)| std::ptr::eq(known.as_ptr(), Arc::as_ptr(block))).map(|(_, plain)| plain.clone())
    }

    fn put(&self, block: &Arc<Block>, plain: &Bytes) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.truncate(OPEN_MAX - 1);
        open.push_front((Arc::downgrade(block), plain.clone()));
    }
}

/// Manifests, one after the other, each as a byte string.
#[derive(Debug)]
pub(crate) struct Block {
    codec: Codec,
    stored: Bytes,
    plain_length: usize,
    /// Manifests in it, also those that nobody refers to any more.
    count: usize,
    recent: Recent,
}

impl Block {
    /// A single manifest as it came.
    fn single(payload: &[u8], recent: &Recent) -> Self {
        let mut writer = CborWriter::new();
        let stored = Bytes::from(writer.bytes(payload).as_bytes().to_vec());
        Self { codec: Codec::Raw, plain_length: stored.len(), stored, count: 1, recent: recent.clone() }
    }

    /// Whether what `used` of its manifests take is so little that it had better stand with others.
    pub(crate) fn is_loose(&self, used: usize) -> bool {
        self.plain_length.saturating_mul(used) < BLOCK_SIZE / 2 * self.count
    }

    /// Whether some of its manifests are not among `used` ones.
    pub(crate) fn has_unused(&self, used: usize) -> bool {
        used < self.count
    }

    /// `[codec, plain length, manifests, stored]`
    pub(crate) fn encode(&self, writer: &mut CborWriter) {
        writer.array(4).u64(self.codec.to_byte().into()).u64(self.plain_length as u64).u64(self.count as u64).bytes(&self.stored);
    }

    /// Reads one; what is in it is looked at when somebody asks for it.
    pub(crate) fn decode(reader: &mut CborReader<'_>, recent: &Recent) -> Result<Self, ObjectError> {
        reader.tuple(4, |reader| {
            let codec = Codec::from_byte(reader.u8()?).ok_or(ObjectError::Broken("a block of manifests has an unknown codec"))?;
            let mut number = || usize::try_from(reader.u64()?).map_err(|_| ObjectError::Broken("a block of manifests is too large"));
            let (plain_length, count) = (number()?, number()?);
            if plain_length > BLOCK_SIZE_MAX {
                return Err(ObjectError::Broken("a block of manifests is too large"));
            }
            let stored = Bytes::copy_from_slice(reader.bytes(BLOCK_SIZE_MAX)?);
            Ok(Self { codec, stored, plain_length, count, recent: recent.clone() })
        })
    }

    fn open(self: &Arc<Self>) -> Result<Bytes, ObjectError> {
        if self.codec == Codec::Raw {
            return Ok(self.stored.clone());
        }
        if let Some(plain) = self.recent.get(self) {
            return Ok(plain);
        }
        let plain = decompress(self.codec, self.stored.clone(), self.plain_length);
        let plain = plain.map_err(|_| ObjectError::Broken("a block of manifests does not decompress"))?;
        self.recent.put(self, &plain);
        Ok(plain)
    }
}

/// Where the manifest of a snapshot is kept.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    block: Arc<Block>,
    at: u32,
}

impl Kept {
    /// A manifest's payload by itself.
    pub(crate) fn alone(payload: &[u8], recent: &Recent) -> Self {
        Self { block: Arc::new(Block::single(payload, recent)), at: 0 }
    }

    /// A place in a block that was read.
    pub(crate) fn new(block: &Arc<Block>, at: u32) -> Self {
        Self { block: Arc::clone(block), at }
    }

    /// The block.
    pub(crate) fn block(&self) -> &Arc<Block> {
        &self.block
    }

    /// Where in the block.
    pub(crate) fn at(&self) -> u32 {
        self.at
    }

    /// What `read` makes of the payload.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&[u8]) -> Result<T, ObjectError>) -> Result<T, ObjectError> {
        let plain = self.block.open()?;
        let at = usize::try_from(self.at).unwrap_or(usize::MAX);
        let rest = plain.get(at..).ok_or(ObjectError::Broken("a block of manifests ends too early"))?;
        read(CborReader::new(rest).bytes(rest.len())?)
    }
}

/// Puts manifests into blocks.
pub(crate) struct Filling<K> {
    recent: Recent,
    compressor: Compressor,
    writer: CborWriter,
    /// Whose they are, and where they begin.
    places: Vec<(K, u32)>,
}

impl<K> Filling<K> {
    /// Nothing yet.
    pub(crate) fn new(recent: &Recent) -> Self {
        Self { recent: recent.clone(), compressor: Compressor::new(Compression::Auto), writer: CborWriter::new(), places: Vec::new() }
    }

    /// Adds a manifest. A block that is full comes back, with the places of those in it.
    pub(crate) fn add(&mut self, key: K, payload: &[u8]) -> Vec<(K, Kept)> {
        // The block is closed long before.
        self.places.push((key, u32::try_from(self.writer.len()).unwrap_or(u32::MAX)));
        self.writer.bytes(payload);
        if self.writer.len() >= BLOCK_SIZE { self.close() } else { Vec::new() }
    }

    /// Closes the last block.
    pub(crate) fn close(&mut self) -> Vec<(K, Kept)> {
        let plain = std::mem::take(&mut self.writer).finish();
        let (codec, stored) = self.compressor.compress(&plain);
        let (plain_length, count) = (plain.len(), self.places.len());
        // Without the room that they might have grown into.
        let stored = Bytes::copy_from_slice(stored);
        let block = Arc::new(Block { codec, stored, plain_length, count, recent: self.recent.clone() });
        self.places.drain(..).map(|(key, at)| (key, Kept::new(&block, at))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kept: &Kept) -> Vec<u8> {
        kept.read(|payload| Ok(payload.to_vec())).unwrap()
    }

    #[test]
    fn many_manifests_take_little_and_come_back() {
        let recent = Recent::default();
        let payload = |n: u32| [&n.to_le_bytes()[..], &b"the same in every one ".repeat(20)].concat();
        let mut filling = Filling::new(&recent);
        let mut kept: Vec<_> = (0..1000).flat_map(|n| filling.add(n, &payload(n))).collect();
        kept.extend(filling.close());
        assert_eq!(kept.iter().map(|(n, _)| *n).collect::<Vec<_>>(), (0..1000).collect::<Vec<_>>());
        let mut writer = CborWriter::new();
        let mut blocks: Vec<_> = kept.iter().map(|(_, kept)| Arc::clone(kept.block())).collect();
        blocks.dedup_by(|a, b| Arc::ptr_eq(a, b));
        blocks.iter().for_each(|block| block.encode(&mut writer));
        assert!(blocks.len() > OPEN_MAX && writer.len() < 1000 * 30, "{} blocks, {} bytes", blocks.len(), writer.len());
        for (n, kept) in kept.iter().rev() {
            assert_eq!(read(kept), payload(*n));
        }
        assert_eq!(recent.0.lock().unwrap().len(), OPEN_MAX);
        let again = Arc::new(Block::decode(&mut CborReader::new(writer.as_bytes()), &recent).unwrap());
        assert_eq!(read(&Kept::new(&again, kept[1].1.at())), payload(1));
        assert!(Kept::new(&again, 1 << 20).read(|_| Ok(())).is_err() && Kept::new(&again, 1).read(|_| Ok(())).is_err());
    }

    #[test]
    fn what_is_loose_stands_alone_or_with_what_nobody_wants() {
        let recent = Recent::default();
        let alone = Kept::alone(b"short", &recent);
        assert_eq!(read(&alone), b"short");
        assert!(alone.block().is_loose(1) && !alone.block().has_unused(1));
        let mut filling = Filling::new(&recent);
        let full = (0..100_u64).find_map(|n| filling.add(n, &[7; 1000]).pop()).unwrap().1;
        assert!(!full.block().is_loose(full.block().count) && full.block().is_loose(full.block().count / 3));
        assert!(full.block().has_unused(3));
    }
}
