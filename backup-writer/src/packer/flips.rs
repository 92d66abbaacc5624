//! What if memory flips a bit? One bit of one run, at any place between the hash of what was read and the bytes that leave: the run must end before they do.

#![allow(clippy::cast_possible_truncation, reason = "numbers are small here")]

use std::sync::{Arc, Mutex, PoisonError};

use fs_core::compress::{Compression, Compressor};
use fs_core::crypto::{Key, RandomSource as _, SharedRandom, keyed_hash};
use fs_core::id::{RecordId, SessionId};
use fs_core::index::ShardPack;
use fs_core::key::slot::{Credential, PasswordCost};
use fs_core::object;
use fs_core::pack::{self, Pack, PackBuilder, Trailer};
use fs_core::record::RecordKind;
use fs_core::repository::{OpenOptions, Repository};
use fs_core::storage::WriteStore;
use fs_core::storage::memory::MemoryStore;
use fs_core::testing::{ManualClock, SeededRandom};

use super::{PackError, Packer, Part, Shared, Written, read_trailer};
use crate::create::{NewKey, create};
use crate::device;
use crate::pace::Pace;
use crate::pause::Pauses;

/// Between two stages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum At {
    /// The plaintext, when its id is known.
    Plain,
    /// What is left of it when it is compressed.
    Body,
    /// The sealed record.
    Sealed,
    /// The records of a pack, and its header.
    Buffer,
    /// What its trailer will say.
    Trailer,
    /// The finished pack.
    Finished,
}

impl At {
    const ALL: [Self; 6] = [Self::Plain, Self::Body, Self::Sealed, Self::Buffer, Self::Trailer, Self::Finished];
}

/// One bit that will flip.
#[derive(Clone, Copy, Debug)]
struct Flip {
    at: At,
    /// How often this place is passed before.
    passes: u64,
    /// Which bit, of however many there are.
    bit: u64,
}

/// The bits that will flip in a run.
#[derive(Debug, Default)]
pub(super) struct Flips(Mutex<Option<Flip>>);

impl Flips {
    fn plan(&self, flip: Flip) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(flip);
    }

    /// Whether there is none left.
    fn is_done(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// The bit, if it flips now.
    fn now(&self, at: At) -> Option<u64> {
        let mut flip = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let planned = flip.as_mut().filter(|flip| flip.at == at)?;
        if planned.passes > 0 {
            planned.passes -= 1;
            return None;
        }
        flip.take().map(|flip| flip.bit)
    }

    /// What becomes of bytes.
    pub(super) fn strike(&self, at: At, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        if let Some(bit) = self.now(at) {
            flip(&mut bytes, bit);
        }
        bytes
    }

    /// What becomes of a pack that is full.
    pub(super) fn strike_builder(&self, mut builder: PackBuilder) -> PackBuilder {
        let (buffer, trailer) = builder.parts_mut();
        if let Some(bit) = self.now(At::Buffer) {
            flip(buffer, bit);
        }
        if let Some(bit) = self.now(At::Trailer) {
            flip_trailer(trailer, bit);
        }
        builder
    }

    /// What becomes of a pack that is finished.
    pub(super) fn strike_pack(&self, mut pack: Pack) -> Pack {
        pack.bytes = self.strike(At::Finished, &pack.bytes);
        pack
    }
}

fn flip(bytes: &mut [u8], bit: u64) {
    let at = (bit / 8) as usize % bytes.len();
    bytes[at] ^= 1 << (bit % 8);
}

/// One field of one row.
fn flip_trailer(trailer: &mut Trailer, bit: u64) {
    let (field, bit) = (bit % 9, bit / 9);
    let row = (bit / 256) as usize;
    let flip_number = |number: &mut u32| *number ^= 1 << (bit % 32);
    let has_fragments = !trailer.fragments.is_empty();
    let count = trailer.records.len();
    let record = &mut trailer.records[row % count];
    match field {
        0 => {
            let mut id = *record.facts.id.as_bytes();
            flip(&mut id, bit);
            record.facts.id = RecordId::from_bytes(id);
        }
        1 => flip_number(&mut record.facts.plain_len),
        2 => flip_number(&mut record.stored_len),
        3 => flip_number(&mut record.offset),
        4 => flip(&mut trailer.sessions[0].key.enc, bit),
        5 => {
            let mut id = *trailer.sessions[0].id.as_bytes();
            flip(&mut id, bit);
            trailer.sessions[0].id = SessionId::from_bytes(id);
        }
        _ if !has_fragments => flip_number(&mut record.stored_len),
        field => {
            let count = trailer.fragments.len();
            let fragment = &mut trailer.fragments[row % count];
            match field {
                6 => flip(&mut fragment.hash, bit),
                7 => flip_number(&mut fragment.start),
                _ => flip_number(&mut fragment.length),
            }
        }
    }
}

struct Bench {
    memory: MemoryStore,
    credential: Credential,
    clock: Arc<ManualClock>,
    random: SharedRandom,
}

impl Bench {
    fn new() -> Self {
        let (memory, clock, random): (_, _, SharedRandom) = (MemoryStore::new(), ManualClock::shared(), SeededRandom::shared(7));
        let credential = Credential::KeyFile(Key::from_bytes([42; 32]));
        let key = NewKey { credential: credential.clone(), label: "test".into(), cost: PasswordCost::LEAST };
        create(&memory, &[key], &(Arc::clone(&clock) as _), &random).unwrap();
        Self { memory, credential, clock, random }
    }

    /// A small run: contents that compress and some that do not, small files in one record, trees.
    fn run(&self, flip: Option<Flip>) -> (Result<Written, PackError>, bool) {
        let memory = self.memory.fork();
        let options = OpenOptions { clock: Arc::clone(&self.clock) as _, random: Arc::clone(&self.random), ..OpenOptions::default() };
        let repository = Arc::new(Repository::open(Arc::new(memory.clone()), &self.credential, &options).unwrap());
        let signer = device::open(&repository, &memory, None, "test").unwrap();
        let pace = Arc::new(Pace::new(Pauses::default(), Arc::clone(repository.clock())));
        let shared = Arc::new(Shared::new(Arc::clone(&repository), pace).unwrap());
        if let Some(flip) = flip {
            shared.flips.plan(flip);
        }
        let store: Arc<dyn WriteStore> = Arc::new(memory.clone());
        let result = write(Packer::new(Arc::clone(&shared), store, signer), &shared);
        if let Ok(written) = &result {
            written.put.iter().for_each(|pack| is_whole(&shared, &memory, pack));
        }
        (result, shared.flips.is_done())
    }
}

/// Opens all that a pack in the store holds.
fn is_whole(shared: &Shared, memory: &MemoryStore, pack: &ShardPack) {
    let name = object::pack_name(pack.kind, &pack.id);
    let bytes = memory.contents().into_iter().find(|(found, _)| *found == name).unwrap().1;
    assert!(pack::verify_end_hash(&bytes));
    for record in read_trailer(&shared.repository, pack.id, pack.kind, pack.size).unwrap().records {
        let stored = &bytes[record.offset as usize..][..record.stored_len as usize];
        let id_key = shared.repository.ring().current().id_key(record.facts.kind).unwrap();
        shared.keys(record.facts.kind).1.open(&record.facts, id_key, bytes::BytesMut::from(stored)).unwrap();
    }
}

/// Records of each kind.
const RECORDS: u64 = 4;

fn write(mut packer: Packer, shared: &Shared) -> Result<Written, PackError> {
    let mut noise = vec![0; 5000];
    for number in 0..RECORDS {
        SeededRandom::shared(number).fill(&mut noise);
        packer.put(RecordKind::Data, &noise)?;
        packer.put(RecordKind::Tree, format!("a tree {number} ").repeat(200).as_bytes())?;
    }
    let plain: Vec<u8> = (0..RECORDS).flat_map(|number| format!("a small file {number} ").repeat(50).into_bytes()).collect();
    let length = plain.len() / RECORDS as usize;
    let file_key = shared.repository().ring().current().file.clone().unwrap();
    let part = |(number, bytes): (usize, &[u8])| Part {
        hash: keyed_hash(&file_key, &[bytes]),
        start: (number * length) as u32,
        length: bytes.len() as u32,
    };
    let parts: Vec<_> = plain.chunks_exact(length).enumerate().map(part).collect();
    let sealed = shared.seal(RecordKind::Data, &plain, &mut Compressor::new(Compression::Auto))?;
    packer.place_parts(sealed, &parts)?;
    packer.finish()
}

#[test]
fn a_flipped_bit_never_leaves_the_machine() {
    #[expect(clippy::disallowed_methods, reason = "tests/run hands over how long the tests may take")]
    let is_long = std::env::var_os("YESTERDRIVE_TEST_LONG").is_some();
    let bench = Bench::new();
    assert!(bench.run(None).0.unwrap().put.len() == 2, "a pack of data, one of trees");
    let chance = SeededRandom::shared(11);
    let below = |limit: u64| {
        let mut bytes = [0; 8];
        chance.fill(&mut bytes);
        u64::from_le_bytes(bytes) % limit
    };
    let trials = if is_long { 10_000 } else { 200 };
    for at in At::ALL.into_iter().cycle().take(trials) {
        let places = if matches!(at, At::Plain | At::Body | At::Sealed) { 2 * RECORDS + 1 } else { 2 };
        let flip = Flip { at, passes: below(places), bit: below(1 << 40) };
        let (result, is_done) = bench.run(Some(flip));
        assert!(is_done, "{flip:?}: it was not passed");
        match result {
            Err(PackError::NotVerified { .. }) => {}
            // A few bits of a compressed frame mean nothing: it opens to what it should.
            Ok(_) if at == At::Body => {}
            result => panic!("{flip:?}: {:?}", result.map(|written| written.put)),
        }
    }
}
