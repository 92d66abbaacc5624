//! Gathers records into packs in order, verifies and uploads them, then writes the index.
//!
//! A pack leaves the machine only after every record in it was opened again, decompressed and compared with its id: what a faulty memory,
//! processor or library made of it is noticed here and not in a year. Upload runs beside packing; its queue is bounded.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use fs_core::compress::{Codec, Compressor};
use fs_core::config::Session;
use fs_core::crypto::{Pair, random_array};
use fs_core::id::{PackId, RecordId, SessionId};
use fs_core::index::{Shard, ShardPack};
use fs_core::object::{self, HEADER_LENGTH, Header, ObjectError, ObjectKind, Signer};
use fs_core::pack::{self, Pack, PackBuilder, PackSession, TAIL_LENGTH, Trailer, decode_trailer, trailer_span};
use fs_core::record::{RecordFacts, RecordKey, RecordKind, Reference, SessionKeyRef, record_id};
use fs_core::repository::{ReadError, Repository, RepositoryError};
use fs_core::storage::{StoreError, WriteStore, wait};
use fs_core::tree::{Content, Entry, Value, XATTR_INLINE_MAX};

use crate::create::put_hashed;

/// Packs that wait for upload beside those being uploaded.
const UPLOAD_QUEUE: usize = 1;
/// Packs verified and uploaded at a time.
const UPLOAD_THREADS: usize = 2;
/// Entries of a shard before the next is begun.
const SHARD_ENTRIES: usize = 1 << 20;

/// Why the repository could not be written. Ends the run: never counted as an unreadable file.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A record did not come back as it was before upload: this machine makes mistakes.
    #[error("a record of pack {pack} did not survive sealing: memory or processor of this machine may be faulty")]
    NotVerified {
        /// The pack, which was not uploaded.
        pack: PackId,
    },
    /// A pack that the run relied on is not listed any more.
    #[error("pack {pack} vanished from the repository while the backup ran: run it again")]
    Vanished {
        /// The pack.
        pack: PackId,
    },
    /// The key's role does not allow it.
    #[error("this key may not write")]
    Key(#[from] ObjectError),
    /// The repository could not be read.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The store failed.
    #[error("the repository could not be written")]
    Store(#[from] StoreError),
}

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
    repository: Arc<Repository>,
    session: SessionId,
    data: (SessionKeyRef, RecordKey),
    tree: (SessionKeyRef, RecordKey),
    /// Packs that the store listed when the run began, with their sizes.
    present: HashMap<PackId, u64>,
    /// Records placed by this run.
    placed: RwLock<HashMap<RecordId, Reference>>,
    index: OnceLock<Vec<Arc<Shard>>>,
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
        Ok(Self { session, data, tree, present, placed: RwLock::default(), index: OnceLock::new(), repository })
    }

    /// The repository.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
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

    fn keys(&self, kind: RecordKind) -> &(SessionKeyRef, RecordKey) {
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

/// Writes the packs and shards of one run.
#[derive(Debug)]
pub struct Packer {
    shared: Arc<Shared>,
    store: Arc<dyn WriteStore>,
    signer: Signer,
    compressor: Compressor,
    data: Option<PackBuilder>,
    meta: Option<PackBuilder>,
    upload: Option<Upload>,
    /// Packs that the snapshot will name, old and new: looked for again before it is sealed.
    relied_on: HashSet<PackId>,
    new_bytes: u64,
    stored_bytes: u64,
}

#[derive(Debug)]
struct Upload {
    queue: Sender<Pack>,
    threads: Vec<JoinHandle<()>>,
    outcome: Arc<Mutex<Outcome>>,
}

#[derive(Debug, Default)]
struct Outcome {
    done: Vec<(ShardPack, Trailer)>,
    failure: Option<PackError>,
}

/// What a finished run wrote.
#[derive(Debug, Default, Clone)]
pub struct Written {
    /// Packs that hold what was placed, found or relied on.
    pub relied_on: HashSet<PackId>,
    /// Plaintext bytes of new records.
    pub new_bytes: u64,
    /// The same as stored.
    pub stored_bytes: u64,
}

impl Packer {
    /// A packer that has written nothing.
    pub fn new(shared: Arc<Shared>, store: Arc<dyn WriteStore>, signer: Signer, level: i32) -> Self {
        let compressor = Compressor::new(level);
        let relied_on = HashSet::new();
        Self { shared, store, signer, compressor, data: None, meta: None, upload: None, relied_on, new_bytes: 0, stored_bytes: 0 }
    }

    /// Seals and places a record that was made here: trees, lists, tables, long attribute values.
    ///
    /// # Errors
    /// [`PackError`].
    pub fn put(&mut self, kind: RecordKind, plain: &[u8]) -> Result<Reference, PackError> {
        let sealed = self.shared.seal(kind, plain, &mut self.compressor)?;
        self.place(sealed)
    }

    /// Places a sealed record into the current pack. Two records of one id that were sealed at the same time become one.
    ///
    /// # Errors
    /// [`PackError`].
    pub fn place(&mut self, sealed: Sealed) -> Result<Reference, PackError> {
        let reference = self.place_or_find(sealed)?;
        self.relied_on.insert(reference.pack);
        Ok(reference)
    }

    /// The snapshot will also name these packs.
    pub fn rely_on(&mut self, packs: impl IntoIterator<Item = PackId>) {
        self.relied_on.extend(packs);
    }

    /// Puts the long attribute values of an entry into records of their own. Values that `before` has are taken from there.
    ///
    /// # Errors
    /// [`PackError`].
    pub fn put_values(&mut self, entry: &mut Entry, before: Option<&Entry>) -> Result<(), PackError> {
        for (name, value) in &mut entry.xattrs {
            let Value::Inline(bytes) = &*value else { continue };
            if bytes.len() > XATTR_INLINE_MAX {
                let known = before.and_then(|before| before.xattrs.iter().find(|(known, _)| known == name)).map(|(_, value)| value);
                let reference = match self.same_value(bytes, known) {
                    Some(reference) => reference,
                    None => self.put(RecordKind::Data, bytes)?,
                };
                self.relied_on.insert(reference.pack);
                *value = Value::Stored { size: bytes.len() as u64, content: Content::Inline(vec![reference]) };
            }
        }
        Ok(())
    }

    /// Where a value stands that is the same as before: so an unchanged run need not read the index.
    fn same_value(&self, bytes: &[u8], known: Option<&Value>) -> Option<Reference> {
        let Some(Value::Stored { content: Content::Inline(references), .. }) = known else { return None };
        let [reference] = references[..] else { return None };
        let id = record_id(self.shared.repository.ring().current().id_key(RecordKind::Data)?, bytes);
        (reference.id == id && self.shared.is_listed(&reference.pack)).then_some(reference)
    }

    fn place_or_find(&mut self, sealed: Sealed) -> Result<Reference, PackError> {
        let (facts, bytes) = match sealed {
            Sealed::Known(reference) => return Ok(reference),
            Sealed::New { facts, bytes } => (facts, bytes),
        };
        if let Some(placed) = self.shared.placed.read().unwrap_or_else(PoisonError::into_inner).get(&facts.id) {
            return Ok(*placed);
        }
        let kind = pack::pack_kind(facts.kind);
        let repository = Arc::clone(&self.shared.repository);
        let config = repository.config();
        let (slot, full) = match kind {
            ObjectKind::DataPack => (&mut self.data, config.data_pack_size as usize),
            _ => (&mut self.meta, config.meta_pack_size as usize),
        };
        if slot.as_ref().is_some_and(|builder| builder.len() + bytes.len() > full)
            && let Some(builder) = slot.take()
        {
            self.send(builder)?;
        }
        let slot = if kind == ObjectKind::DataPack { &mut self.data } else { &mut self.meta };
        let ring = repository.ring();
        let builder = slot.get_or_insert_with(|| PackBuilder::new(kind, ring.epoch(), ring.repository, full, &**repository.random()));
        let session = PackSession { id: self.shared.session, key: self.shared.keys(facts.kind).0 };
        let reference = builder.push(&facts, &session, &bytes);
        self.shared.placed.write().unwrap_or_else(PoisonError::into_inner).insert(facts.id, reference);
        self.new_bytes += u64::from(facts.plain_len);
        self.stored_bytes += bytes.len() as u64;
        Ok(reference)
    }

    /// Uploads what is left, waits for all packs and writes the index. Only after this may anything refer to the records.
    ///
    /// # Errors
    /// [`PackError`].
    pub fn finish(mut self) -> Result<Written, PackError> {
        for builder in [self.data.take(), self.meta.take()].into_iter().flatten() {
            self.send(builder)?;
        }
        if let Some(upload) = self.upload.take() {
            let done = upload.finish()?;
            self.write_index(done)?;
        }
        Ok(Written { relied_on: std::mem::take(&mut self.relied_on), new_bytes: self.new_bytes, stored_bytes: self.stored_bytes })
    }

    fn send(&mut self, builder: PackBuilder) -> Result<(), PackError> {
        let structure = self.shared.repository.ring().current().structure.clone();
        let pack = builder.finish(&structure, &**self.shared.repository.random());
        if self.upload.is_none() {
            self.write_session()?;
        }
        let upload = self.upload.get_or_insert_with(|| Upload::start(&self.shared, &self.store));
        upload.send(pack)
    }

    /// The session is written before the first pack that holds its records.
    fn write_session(&self) -> Result<(), PackError> {
        let shared = &self.shared;
        let ring = shared.repository.ring();
        let session = Session {
            device: self.signer.device,
            id: shared.session,
            started: shared.repository.clock().now(),
            enc_data: shared.data.0.enc,
            enc_tree: shared.tree.0.enc,
        };
        let object = session.encode_object(ring.epoch(), ring.repository, &ring.current().structure, &self.signer);
        let name = object::session_name(&self.signer.device, &shared.session);
        let hash = object::object_hash(&object);
        Ok(wait(name.as_str(), self.store.put_new(&name, Bytes::from(object), &hash))?)
    }

    fn write_index(&self, mut done: Vec<(ShardPack, Trailer)>) -> Result<(), PackError> {
        done.sort_by_key(|(pack, _)| pack.id);
        let mut shard = Shard::default();
        for (pack, trailer) in &done {
            shard.add_pack(*pack, trailer);
            if shard.len() >= SHARD_ENTRIES {
                self.write_shard(std::mem::take(&mut shard))?;
            }
        }
        if shard.is_empty() { Ok(()) } else { self.write_shard(shard) }
    }

    fn write_shard(&self, mut shard: Shard) -> Result<(), PackError> {
        shard.sort();
        let repository = &self.shared.repository;
        let ring = repository.ring();
        let header = Header::new(ObjectKind::Shard, ring.epoch(), ring.repository, &**repository.random());
        let object = shard.encode(&header, &ring.current().index, &self.signer);
        put_hashed(&*self.store, object, |hash| object::hashed_name(ObjectKind::Shard, hash))?;
        Ok(())
    }
}

impl Drop for Packer {
    /// A run that is given up still joins its threads.
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take() {
            let _ = upload.finish();
        }
    }
}

impl Upload {
    fn start(shared: &Arc<Shared>, store: &Arc<dyn WriteStore>) -> Self {
        let (queue, packs) = bounded(UPLOAD_QUEUE);
        let outcome = Arc::new(Mutex::new(Outcome::default()));
        let threads = (0..UPLOAD_THREADS)
            .map(|_| {
                let (shared, store, packs, outcome) = (Arc::clone(shared), Arc::clone(store), packs.clone(), Arc::clone(&outcome));
                thread::spawn(move || upload_all(&shared, &*store, &packs, &outcome))
            })
            .collect();
        Self { queue, threads, outcome }
    }

    fn send(&self, pack: Pack) -> Result<(), PackError> {
        // The threads end only when one of them failed; the failure says why.
        let sent = self.queue.send(pack).is_ok();
        match self.outcome.lock().unwrap_or_else(PoisonError::into_inner).failure.take() {
            Some(failure) => Err(failure),
            None if sent => Ok(()),
            None => Err(ObjectError::Broken("the upload ended early").into()),
        }
    }

    fn finish(self) -> Result<Vec<(ShardPack, Trailer)>, PackError> {
        drop(self.queue);
        for thread in self.threads {
            thread.join().map_err(|_| ObjectError::Broken("the upload ended early"))?;
        }
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(std::mem::take(&mut outcome.done)),
        }
    }
}

fn upload_all(shared: &Shared, store: &dyn WriteStore, packs: &Receiver<Pack>, outcome: &Mutex<Outcome>) {
    for pack in packs {
        let result = verify(shared, &pack).and_then(|()| {
            let size = pack.bytes.len() as u64;
            let name = object::pack_name(pack.kind, &pack.id);
            let bytes = Bytes::from(pack.bytes);
            let hash = object::object_hash(&bytes);
            wait(name.as_str(), store.put_new(&name, bytes, &hash))?;
            Ok((ShardPack { id: pack.id, kind: pack.kind, size }, pack.trailer))
        });
        let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(done) => outcome.done.push(done),
            Err(error) => {
                outcome.failure.get_or_insert(error);
                return;
            }
        }
    }
}

/// Opens every record of a pack that is about to leave, from the very bytes that leave.
fn verify(shared: &Shared, pack: &Pack) -> Result<(), PackError> {
    let repository = &shared.repository;
    let failed = || PackError::NotVerified { pack: pack.id };
    let place = (pack.kind, pack.id, repository.id());
    let trailer = pack::decode_whole(&pack.bytes, place, |epoch| repository.ring().structure(epoch)).map_err(|_| failed())?;
    if trailer != pack.trailer {
        return Err(failed());
    }
    for record in &trailer.records {
        let start = record.offset as usize;
        let stored = pack.bytes.get(start..start + record.stored_len as usize).ok_or_else(failed)?;
        let id_key = repository.ring().current().id_key(record.facts.kind).ok_or(ObjectError::NotAllowed)?;
        shared.keys(record.facts.kind).1.open(&record.facts, id_key, stored).map_err(|_| failed())?;
    }
    Ok(())
}
