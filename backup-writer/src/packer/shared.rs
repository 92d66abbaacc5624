//! What all threads of a run share: keys, and knowledge of what the repository has.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use fs_core::compress::Compressor;
use fs_core::crypto::{Pair, random_array};
use fs_core::id::{PackId, RecordId, SessionId};
use fs_core::index::{Places, Shard, ShardPack};
use fs_core::object::{self, ObjectError, ObjectKind, Signer};
use fs_core::record::{RecordFacts, RecordKey, RecordKind, Reference, SessionKeyRef, record_id};
use fs_core::repository::{ReadError, Repository};
use fs_core::storage::{StoreError, wait};
use fs_core::tree::Content;

use super::buffers::Buffers;
use super::placed::Placed;
use super::stages::{Stage, Stages};
use super::{PackError, left_over, shard_entries_max, usable_packs};
use crate::pace::Pace;

/// Buffers that wait to be used again: about as many as are in use while packs are full in a row.
const RECORDS_SPARE: usize = 32;
const PACKS_SPARE: usize = 3;

/// A record sealed and ready to be placed, or one that the repository has.
#[derive(Debug)]
pub enum Sealed {
    /// It is there already.
    Known(Reference),
    /// New bytes.
    New {
        /// What identifies it.
        facts: RecordFacts,
        /// Its stored form.
        bytes: Vec<u8>,
    },
}

/// A small file in the plaintext of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// Its whole-file hash.
    pub hash: [u8; 32],
    /// Where it begins.
    pub start: u32,
    /// Its length in bytes.
    pub length: u32,
}

/// What a run has placed, and who is about to place a small file.
#[derive(Debug)]
struct Own {
    placed: Placed,
    /// The groups that have read a small file that is not placed yet, by its whole-file hash.
    claims: HashMap<[u8; 32], u32>,
}

/// A shard, and what finds the records of fragments in it, made when it is first needed.
#[derive(Debug)]
pub(super) struct Indexed {
    pub(super) shard: Arc<Shard>,
    places: OnceLock<Places>,
}

/// What all threads of a run share: keys, and knowledge of what is there.
#[derive(Debug)]
pub struct Shared {
    pub(super) repository: Arc<Repository>,
    pub(super) session: SessionId,
    pub(super) data: (SessionKeyRef, RecordKey),
    pub(super) tree: (SessionKeyRef, RecordKey),
    /// Whether the run may go on.
    pub(super) pace: Arc<Pace>,
    /// Packs that could be relied on when the run began, with their sizes.
    pub(super) present: HashMap<PackId, (ObjectKind, u64)>,
    /// For sealed records.
    pub(super) records: Buffers,
    /// For data packs, and for the smaller ones of metadata.
    packs: [Buffers; 2],
    own: RwLock<Own>,
    pub(super) index: OnceLock<Index>,
    stages: Stages,
    /// Held by the thread that reads the index.
    reading: Mutex<()>,
    /// What memory will do to this run.
    #[cfg(test)]
    pub(super) flips: super::flips::Flips,
}

/// What the repository has.
#[derive(Debug)]
pub(super) struct Index {
    shards: Vec<Indexed>,
    /// What packs hold that no shard names.
    pub(super) left_over: Vec<Indexed>,
}

fn indexed_all(shards: impl IntoIterator<Item = Arc<Shard>>) -> Vec<Indexed> {
    shards.into_iter().map(|shard| Indexed { shard, places: OnceLock::new() }).collect()
}

impl Index {
    fn all(&self) -> impl Iterator<Item = &Indexed> {
        self.shards.iter().chain(&self.left_over)
    }
}

impl Shared {
    /// Begins a run: lists marks and packs. Nothing is written.
    ///
    /// # Errors
    /// [`PackError`].
    pub fn new(repository: Arc<Repository>, pace: Arc<Pace>) -> Result<Self, PackError> {
        let random = &**repository.random();
        let ring = repository.ring();
        let keys = |pair| -> Result<_, PackError> {
            let (enc, key) = ring.send(pair, "record", random)?;
            let epoch = ring.epoch();
            Ok((SessionKeyRef { epoch, enc }, RecordKey { repository: ring.repository, epoch, key }))
        };
        let (data, tree) = (keys(Pair::Data)?, keys(Pair::Tree)?);
        let session = SessionId::from_bytes(random_array(random));
        let present = usable_packs(&repository)?.into_iter().map(|(id, kind, size)| (id, (kind, size))).collect();
        Ok(Self {
            session,
            data,
            tree,
            pace,
            present,
            records: Buffers::new(RECORDS_SPARE),
            packs: [Buffers::new(PACKS_SPARE), Buffers::new(PACKS_SPARE)],
            own: RwLock::new(Own { placed: Placed::new(repository.state().map(Path::to_path_buf)), claims: HashMap::new() }),
            index: OnceLock::new(),
            stages: Stages::default(),
            reading: Mutex::default(),
            #[cfg(test)]
            flips: super::flips::Flips::default(),
            repository,
        })
    }

    /// The repository.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// Whether the run may go on.
    pub fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Busy times of this run.
    pub fn stages(&self) -> &Stages {
        &self.stages
    }

    /// Does something and counts how long it takes.
    pub fn busy<T>(&self, stage: Stage, work: impl FnOnce() -> T) -> T {
        self.stages.busy(stage, &**self.repository.clock(), work)
    }

    /// Waits for another thread inside of [`Self::busy`].
    pub fn waiting<T>(&self, stage: Stage, wait: impl FnOnce() -> T) -> T {
        self.stages.waiting(stage, &**self.repository.clock(), wait)
    }

    /// Whether a pack can be relied on: it was listed when the run began, and no prune had condemned it.
    pub fn is_listed(&self, pack: &PackId) -> bool {
        self.present.contains_key(pack)
    }

    /// The packs that the lists of a large file name; none for a file whose references stand in its entry.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn list_packs_of(&self, content: &Content) -> Result<Vec<PackId>, ReadError> {
        let mut packs = BTreeSet::new();
        let mut open = match content {
            Content::Inline(_) | Content::Fragment { .. } => Vec::new(),
            Content::List { depth, reference } => vec![(*depth, *reference)],
        };
        while let Some((depth, reference)) = open.pop() {
            for row in &self.repository.list(&reference)?.rows {
                packs.insert(row.reference.pack);
                if depth > 1 {
                    open.push((depth - 1, row.reference));
                }
            }
        }
        Ok(packs.into_iter().collect())
    }

    /// Whether a pack is listed with this size.
    fn is_there(&self, pack: &PackId, size: u64) -> bool {
        self.present.get(pack).is_some_and(|(_, listed)| *listed == size)
    }

    /// Seals a record unless the repository has it.
    ///
    /// # Errors
    /// [`PackError`] if the index cannot be read or the role lacks a key.
    pub fn seal(&self, kind: RecordKind, plain: &[u8], compressor: &mut Compressor) -> Result<Sealed, PackError> {
        let ring = self.repository.ring();
        let id_key = ring.current().id_key(kind).ok_or(ObjectError::NotAllowed)?;
        let id = record_id(id_key, plain);
        if let Some(known) = self.known(&id)? {
            return Ok(Sealed::Known(known));
        }
        #[cfg(test)]
        let plain = &self.flips.strike(super::flips::At::Plain, plain);
        let (codec, body) = compressor.compress(plain);
        #[cfg(test)]
        let body = &self.flips.strike(super::flips::At::Body, body);
        let plain_len = u32::try_from(plain.len()).map_err(|_| ObjectError::Broken("a record is too long"))?;
        let facts = RecordFacts { kind, id, codec, plain_len };
        let mut bytes = self.records.take();
        self.keys(kind).1.seal_into(&facts, body, &**self.repository.random(), &mut bytes);
        #[cfg(test)]
        let bytes = self.flips.strike(super::flips::At::Sealed, &bytes);
        Ok(Sealed::New { facts, bytes })
    }

    fn known(&self, id: &RecordId) -> Result<Option<Reference>, PackError> {
        if let Some(placed) = self.placed(id)? {
            return Ok(Some(placed));
        }
        let mut found = self.index()?.all().flat_map(|indexed| indexed.shard.find(id));
        let relied_on = |location: &fs_core::index::Location| self.is_there(&location.reference.pack, location.pack_size);
        Ok(found.find(relied_on).map(|location| location.reference))
    }

    /// Where the repository has a small file that shares its record with others; `None` if it has not, or if this run only is about to store it.
    ///
    /// # Errors
    /// [`PackError`] if the index cannot be read.
    pub fn fragment(&self, hash: &[u8; 32]) -> Result<Option<Content>, PackError> {
        let placed = self.own.read().unwrap_or_else(PoisonError::into_inner).placed.fragment(hash)?;
        if placed.is_some() {
            return Ok(placed);
        }
        let mut found = self.index()?.all().flat_map(|indexed| indexed.shard.find_fragment(hash, &indexed.places));
        let relied_on = found.find(|found| self.is_there(&found.reference.pack, found.pack_size));
        Ok(relied_on.map(|found| Content::Fragment { start: found.start, reference: found.reference }))
    }

    /// Whether the group of this number is to store a small file that it has read. A group before it may be about to do so: that is placed first.
    ///
    /// # Errors
    /// [`PackError::Local`].
    pub(crate) fn claim(&self, hash: &[u8; 32], number: u32) -> Result<bool, PackError> {
        let Own { placed, claims } = &mut *self.own.write().unwrap_or_else(PoisonError::into_inner);
        let is_ours = match claims.get(hash) {
            None => !placed.has_fragment(hash)?,
            Some(other) => *other > number,
        };
        if is_ours {
            claims.insert(*hash, number);
        }
        Ok(is_ours)
    }

    /// Where this run has placed a record.
    pub(super) fn placed(&self, id: &RecordId) -> Result<Option<Reference>, PackError> {
        Ok(self.own.read().unwrap_or_else(PoisonError::into_inner).placed.record(id)?)
    }

    /// Notes where a record is.
    pub(super) fn note_placed(&self, reference: &Reference) {
        self.own.write().unwrap_or_else(PoisonError::into_inner).placed.push_record(reference);
    }

    /// Notes where small files are. What is placed already stays there.
    pub(super) fn note_fragments(&self, reference: &Reference, parts: &[Part]) -> Result<(), PackError> {
        let Own { placed, claims } = &mut *self.own.write().unwrap_or_else(PoisonError::into_inner);
        // The repository may have had the record before this run.
        let record = placed.record_row(&reference.id)?.unwrap_or_else(|| placed.push_record(reference));
        for part in parts {
            placed.push_fragment(record, part)?;
            claims.remove(&part.hash);
        }
        Ok(())
    }

    /// The index, read when it is first needed: an unchanged run never does. Packs that an interrupted run left without an index are found by their trailers.
    fn index(&self) -> Result<&Index, PackError> {
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        // All who come need it and wait for the one who reads: that may be thousands of requests.
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        let index = match self.relies_on_its_own()? {
            // What packs hold that no shard names may be anybody's.
            Some(signer) => Index { shards: indexed_all(self.repository.own_shards(&signer)?), left_over: Vec::new() },
            None => self.everybodys_index()?,
        };
        Ok(self.index.get_or_init(|| index))
    }

    /// Who saves, if nobody else's word counts: a key that opens nothing cannot see whether what others claim to have stored is there.
    fn relies_on_its_own(&self) -> Result<Option<Signer>, PackError> {
        let ring = self.repository.ring();
        let Some(signer) = ring.device_signer().filter(|_| !ring.role.may_list()) else { return Ok(None) };
        let trusts_others = self.repository.certificate(&signer.device)?.is_some_and(|certificate| certificate.trusts_others);
        Ok((!trusts_others).then_some(signer))
    }

    fn everybodys_index(&self) -> Result<Index, PackError> {
        let (shards, _) = self.repository.shards_in_use()?;
        let indexed: HashSet<PackId> = shards.iter().flat_map(|shard| shard.packs()).map(|pack| pack.id).collect();
        let mut packs: Vec<_> = self.present.iter().map(|(&id, &(kind, size))| ShardPack { id, kind, size }).collect();
        packs.retain(|pack| !indexed.contains(&pack.id));
        packs.sort_by_key(|pack| pack.id);
        let left_over = left_over::read(self, &packs)?;
        Ok(Index { shards: indexed_all(shards), left_over: indexed_all(left_over.into_iter().map(Arc::new)) })
    }

    /// Whether the next shard is to be begun.
    pub(super) fn is_full(&self, shard: &Shard) -> bool {
        shard.is_full(shard_entries_max(&self.repository))
    }

    /// For packs of a kind.
    pub(super) fn packs(&self, kind: ObjectKind) -> &Buffers {
        let [data, meta] = &self.packs;
        if kind == ObjectKind::DataPack { data } else { meta }
    }

    pub(super) fn keys(&self, kind: RecordKind) -> &(SessionKeyRef, RecordKey) {
        match kind.pair() {
            Pair::Data => &self.data,
            Pair::Tree => &self.tree,
        }
    }
}

/// All packs that the store lists: id, kind, size.
///
/// # Errors
/// The store's.
pub fn list_packs(repository: &Repository) -> Result<Vec<(PackId, ObjectKind, u64)>, StoreError> {
    let mut packs = Vec::new();
    for kind in [ObjectKind::DataPack, ObjectKind::MetaPack] {
        let listed = wait(kind.prefix(), repository.store().list(kind.prefix(), None))?;
        packs.extend(listed.iter().filter_map(|meta| Some((object::parse_pack_name(kind, &meta.name)?, kind, meta.size))));
    }
    Ok(packs)
}
