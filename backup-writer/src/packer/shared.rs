//! What all threads of a run share: keys, and knowledge of what the repository has.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use fs_core::compress::{Codec, Compressor};
use fs_core::crypto::{Pair, random_array};
use fs_core::id::{PackId, RecordId, SessionId};
use fs_core::index::{Shard, ShardPack};
use fs_core::object::{self, HEADER_LENGTH, ObjectError, ObjectKind};
use fs_core::pack::{TAIL_LENGTH, Trailer, decode_trailer, trailer_span};
use fs_core::record::{RecordFacts, RecordKey, RecordKind, Reference, SessionKeyRef, record_id};
use fs_core::repository::{ReadError, Repository, RepositoryError};
use fs_core::storage::{StoreError, wait};
use fs_core::tree::Content;

use super::PackError;
use super::stages::{Stage, Stages};

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

/// What all threads of a run share: keys, and knowledge of what is there.
#[derive(Debug)]
pub struct Shared {
    pub(super) repository: Arc<Repository>,
    pub(super) session: SessionId,
    pub(super) data: (SessionKeyRef, RecordKey),
    pub(super) tree: (SessionKeyRef, RecordKey),
    /// Packs that the store listed when the run began, with their sizes.
    pub(super) present: HashMap<PackId, u64>,
    /// Records placed by this run.
    pub(super) placed: RwLock<HashMap<RecordId, Reference>>,
    pub(super) index: OnceLock<Vec<Arc<Shard>>>,
    stages: Stages,
}

impl Shared {
    /// Begins a run: lists the packs. Nothing is written.
    ///
    /// # Errors
    /// [`PackError`].
    pub fn new(repository: Arc<Repository>) -> Result<Self, PackError> {
        let random = &**repository.random();
        let ring = repository.ring();
        let keys = |pair| -> Result<_, PackError> {
            let (enc, key) = ring.send(pair, "record", random)?;
            let epoch = ring.epoch();
            Ok((SessionKeyRef { epoch, enc }, RecordKey { repository: ring.repository, epoch, key }))
        };
        let (data, tree) = (keys(Pair::Data)?, keys(Pair::Tree)?);
        let session = SessionId::from_bytes(random_array(random));
        let present = list_packs(&repository)?.into_iter().map(|(id, _, size)| (id, size)).collect();
        Ok(Self { session, data, tree, present, placed: RwLock::default(), index: OnceLock::new(), stages: Stages::default(), repository })
    }

    /// The repository.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
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

    /// Whether a pack can be relied on: it was listed when the run began.
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
            Content::Inline(_) => Vec::new(),
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
        let (codec, packed) = compressor.compress(plain);
        let body = if codec == Codec::Raw { plain } else { &packed };
        let plain_len = u32::try_from(plain.len()).map_err(|_| ObjectError::Broken("a record is too long"))?;
        let facts = RecordFacts { kind, id, codec, plain_len };
        let bytes = self.keys(kind).1.seal(&facts, body, &**self.repository.random());
        Ok(Sealed::New { facts, bytes })
    }

    fn known(&self, id: &RecordId) -> Result<Option<Reference>, PackError> {
        if let Some(placed) = self.placed.read().unwrap_or_else(PoisonError::into_inner).get(id) {
            return Ok(Some(*placed));
        }
        let locations = self.index()?.iter().flat_map(|shard| shard.find(id));
        let relied_on = |location: &fs_core::index::Location| self.present.get(&location.reference.pack) == Some(&location.pack_size);
        Ok(locations.into_iter().find(relied_on).map(|location| location.reference))
    }

    /// The index, read when it is first needed: an unchanged run never does. Packs that an interrupted run left without an index are found by their trailers.
    fn index(&self) -> Result<&[Arc<Shard>], PackError> {
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        let (mut shards, _) = self.repository.shards()?;
        let indexed: HashSet<PackId> = shards.iter().flat_map(|shard| shard.packs()).map(|pack| pack.id).collect();
        let mut left_over = Shard::default();
        for (id, kind, size) in list_packs(&self.repository)? {
            if !indexed.contains(&id) {
                match read_trailer(&self.repository, id, kind, size) {
                    Ok(trailer) => left_over.add_pack(ShardPack { id, kind, size }, &trailer),
                    Err(error) => tracing::warn!(pack = %id, %error, "a pack without an index does not open and is not used"),
                }
            }
        }
        left_over.sort();
        if !left_over.is_empty() {
            shards.push(Arc::new(left_over));
        }
        Ok(self.index.get_or_init(|| shards))
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

/// Reads the trailer of a pack: three small ranged reads.
///
/// # Errors
/// [`RepositoryError`].
pub fn read_trailer(repository: &Repository, id: PackId, kind: ObjectKind, size: u64) -> Result<Trailer, RepositoryError> {
    let (name, store) = (object::pack_name(kind, &id), repository.store());
    let wrong = |source| RepositoryError::Object { name: name.clone(), source };
    let range = |from: u64, to: u64| wait(name.as_str(), store.get_range(&name, from..to));
    let Some(tail_start) = size.checked_sub(TAIL_LENGTH as u64) else {
        return Err(wrong(ObjectError::Broken("it is too short for a pack")));
    };
    let tail = range(tail_start, size)?;
    let tail = tail.first_chunk::<TAIL_LENGTH>().ok_or_else(|| wrong(ObjectError::NotOurs))?;
    let span = trailer_span(tail, size).map_err(wrong)?;
    let (head, end) = (range(0, HEADER_LENGTH as u64)?, range(size - span, size)?);
    decode_trailer(&head, &end, size, (kind, id, repository.id()), |epoch| repository.ring().structure(epoch)).map_err(wrong)
}
