//! Gathers records into packs in order, verifies and uploads them, and writes index shards as they fill.
//!
//! A pack leaves the machine only after every record in it was opened again, decompressed and compared with its id: what a faulty memory,
//! processor or library made of it is noticed here and not in a year. Upload runs beside packing; its queue is bounded.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use fs_core::compress::{Compression, Compressor};
use fs_core::config::Session;
use fs_core::id::{ObjectHash, PackId};
use fs_core::index::{Shard, ShardPack};
use fs_core::object::{self, Header, ObjectError, ObjectKind, Signer};
use fs_core::pack::{self, PackBuilder, PackSession};
use fs_core::record::{RecordKind, Reference, record_id};
use fs_core::report::Stats;
use fs_core::repository::{Repository, RepositoryError};
use fs_core::storage::{StoreError, WriteStore, wait};
use fs_core::tree::{Content, Entry, Value, XATTR_INLINE_MAX};

use crate::create::put_hashed;

mod buffers;
#[cfg(test)]
mod flips;
mod left_over;
mod placed;
mod shared;
mod stages;
mod upload;
mod usable;

pub use left_over::read_trailer;
pub(crate) use left_over::{ASKED_MAX, read_trailers};
pub use shared::{Part, Sealed, Shared, list_packs};
pub use stages::{Stage, StageTimes, Stages};
use upload::{Put, Upload};
pub use usable::usable_packs;

/// Longest security descriptor that stands in an entry: most repeat those of their neighbours, which pages compress away.
const SECURITY_INLINE_MAX: usize = 1024;
/// A longer value is cut every so many bytes.
const VALUE_PART: usize = 1 << 20;
/// Bytes of a pack of metadata for each entry of a shard: shards become about half as large as those.
const SHARD_ENTRY: usize = 128;

/// Entries of a shard that its writer takes for full.
pub fn shard_entries_max(repository: &Repository) -> usize {
    repository.config().meta_pack_size as usize / SHARD_ENTRY
}

/// Puts a sorted shard; the store has taken all packs that it speaks of.
///
/// # Errors
/// The store's.
pub fn put_shard(repository: &Repository, store: &dyn WriteStore, signer: &Signer, shard: &Shard) -> Result<ObjectHash, StoreError> {
    let ring = repository.ring();
    let header = Header::new(ObjectKind::Shard, ring.epoch(), ring.repository, &**repository.random());
    let object = shard.encode(&header, &ring.current().index, signer);
    put_hashed(store, object, |hash| object::hashed_name(ObjectKind::Shard, hash))
}

/// Why the repository could not be written. Ends the run: never counted as an unreadable file.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A record did not come back as it was before upload: this machine makes mistakes.
    #[error("a record of pack {pack} did not survive sealing: memory or processor of this machine may be faulty")]
    NotVerified {
        /// The pack, which was not uploaded.
        pack: PackId,
    },
    /// A pack that the run relied on is not listed any more, or a prune has condemned it.
    #[error("pack {pack} vanished from the repository while the backup ran, or a prune condemned it: run it again")]
    Vanished {
        /// The pack.
        pack: PackId,
    },
    /// What the run keeps on the local disk cannot be read back.
    #[error("what this run keeps on the local disk cannot be read back: look after that disk, then run it again")]
    Local(#[from] io::Error),
    /// What is saved comes from another repository, and that does not answer.
    #[error("the repository that is copied cannot be read: {reason}")]
    Original {
        /// What happened, with causes.
        reason: String,
    },
    /// The run was stopped; nobody waits for the result.
    #[error("the run was stopped")]
    Stopped,
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

/// Writes the packs and shards of one run.
#[derive(Debug)]
pub struct Packer {
    shared: Arc<Shared>,
    /// `None` in a dry run: what is packed goes nowhere.
    target: Option<Arc<Target>>,
    compressor: Compressor,
    data: Option<PackBuilder>,
    meta: Option<PackBuilder>,
    upload: Option<Upload>,
    /// Packs that the snapshot will name, old and new: looked for again before it is sealed.
    relied_on: HashSet<PackId>,
    new_bytes: u64,
    stored_bytes: u64,
}

/// Where packs go, and who signs for them.
#[derive(Debug)]
struct Target {
    store: Arc<dyn WriteStore>,
    signer: Signer,
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
    /// Packs that were put.
    pub put: Vec<ShardPack>,
}

impl Written {
    /// Adds what was written to the numbers of a run.
    pub fn count(&self, stats: &mut Stats) {
        let sent_bytes = self.put.iter().map(|pack| pack.size).sum();
        (stats.new_bytes, stats.stored_bytes, stats.sent_bytes) = (self.new_bytes, self.stored_bytes, sent_bytes);
    }
}

impl Packer {
    /// A packer that has written nothing.
    pub fn new(shared: Arc<Shared>, store: Arc<dyn WriteStore>, signer: Signer) -> Self {
        let mut packer = Self::dry(shared);
        packer.target = Some(Arc::new(Target { store, signer }));
        packer
    }

    /// A packer that never writes anything: it packs and counts.
    pub fn dry(shared: Arc<Shared>) -> Self {
        let compressor = Compressor::new(Compression::Auto);
        let relied_on = HashSet::new();
        Self { shared, target: None, compressor, data: None, meta: None, upload: None, relied_on, new_bytes: 0, stored_bytes: 0 }
    }

    /// Whether nothing is written.
    pub fn is_dry(&self) -> bool {
        self.target.is_none()
    }

    /// Seals and places a record that was made here: trees, lists, tables, long attribute values.
    ///
    /// # Errors
    /// [`PackError`].
    pub fn put(&mut self, kind: RecordKind, plain: &[u8]) -> Result<Reference, PackError> {
        let sealed = self.shared.seal(kind, plain, &mut self.compressor)?;
        let reference = self.place(sealed)?;
        if self.target.is_some() {
            self.shared.repository.keep_record(kind, &reference.id, plain);
        }
        Ok(reference)
    }

    /// Places a sealed record into the current pack. Two records of one id that were sealed at the same time become one.
    ///
    /// # Errors
    /// [`PackError`].
    pub fn place(&mut self, sealed: Sealed) -> Result<Reference, PackError> {
        self.place_parts(sealed, &[])
    }

    /// The same for a record that several small files share.
    ///
    /// # Errors
    /// [`PackError`].
    pub fn place_parts(&mut self, sealed: Sealed, parts: &[Part]) -> Result<Reference, PackError> {
        let reference = self.place_or_find(sealed, parts)?;
        self.relied_on.insert(reference.pack);
        if !parts.is_empty() {
            self.shared.note_fragments(&reference, parts)?;
        }
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
            let known = before.and_then(|before| before.xattrs.iter().find(|(known, _)| known == name)).map(|(_, value)| value);
            self.put_value(value, XATTR_INLINE_MAX, known)?;
        }
        if let Some(value) = &mut entry.security_descriptor {
            self.put_value(value, SECURITY_INLINE_MAX, before.and_then(|before| before.security_descriptor.as_ref()))?;
        }
        for stream in &mut entry.streams {
            let known = before.and_then(|before| before.streams.iter().find(|known| known.name == stream.name)).map(|known| &known.value);
            self.put_value(&mut stream.value, 0, known)?;
        }
        Ok(())
    }

    /// Puts a value into records if it is longer than may stand in an entry.
    fn put_value(&mut self, value: &mut Value, inline_max: usize, known: Option<&Value>) -> Result<(), PackError> {
        let Value::Inline(bytes) = &*value else { return Ok(()) };
        if bytes.len() <= inline_max {
            return Ok(());
        }
        let mut references = Vec::new();
        if let Some(reference) = self.same_value(bytes, known) {
            references.push(reference);
        } else {
            for part in bytes.chunks(VALUE_PART) {
                references.push(self.put(RecordKind::Data, part)?);
            }
        }
        self.relied_on.extend(references.iter().map(|reference| reference.pack));
        *value = Value::Stored { size: bytes.len() as u64, content: Content::Inline(references) };
        Ok(())
    }

    /// Where a value stands that is the same as before: so an unchanged run need not read the index.
    fn same_value(&self, bytes: &[u8], known: Option<&Value>) -> Option<Reference> {
        let Some(Value::Stored { content: Content::Inline(references), .. }) = known else { return None };
        let [reference] = references[..] else { return None };
        let id = record_id(self.shared.repository.ring().current().id_key(RecordKind::Data)?, bytes);
        (reference.id == id && self.shared.is_listed(&reference.pack)).then_some(reference)
    }

    fn place_or_find(&mut self, sealed: Sealed, parts: &[Part]) -> Result<Reference, PackError> {
        let (facts, bytes) = match sealed {
            Sealed::Known(reference) => return Ok(reference),
            Sealed::New { facts, bytes } => (facts, bytes),
        };
        if let Some(placed) = self.shared.placed(&facts.id)? {
            return Ok(placed);
        }
        let kind = pack::pack_kind(facts.kind);
        let repository = Arc::clone(&self.shared.repository);
        let config = repository.config();
        let (slot, full) = match kind {
            ObjectKind::DataPack => (&mut self.data, config.data_pack_size as usize),
            _ => (&mut self.meta, config.meta_pack_size as usize),
        };
        if slot.as_ref().is_some_and(|builder| builder.len() + bytes.len() + parts.len() * pack::RECORD_ROW > full)
            && let Some(builder) = slot.take()
        {
            self.send(builder)?;
        }
        let slot = if kind == ObjectKind::DataPack { &mut self.data } else { &mut self.meta };
        let ring = repository.ring();
        let builder = slot.get_or_insert_with(|| {
            PackBuilder::new(kind, ring.epoch(), ring.repository, (full, self.shared.packs(kind).take()), &**repository.random())
        });
        let session = PackSession { id: self.shared.session, key: self.shared.keys(facts.kind).0 };
        let reference = builder.push(&facts, &session, &bytes);
        builder.note_fragments(parts.iter().map(|part| (part.hash, part.start, part.length)));
        self.shared.note_placed(&reference);
        self.new_bytes += u64::from(facts.plain_len);
        self.stored_bytes += bytes.len() as u64;
        self.shared.records.give(bytes);
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
        let Put { packs: put, index } = self.upload.take().map_or_else(|| Ok(Put::default()), Upload::finish)?;
        if let Some(target) = &self.target {
            self.write_index(target, index)?;
        }
        Ok(Written { relied_on: std::mem::take(&mut self.relied_on), new_bytes: self.new_bytes, stored_bytes: self.stored_bytes, put })
    }

    /// Packs that the store has taken from this run, beginning with the one of this number.
    pub fn put_since(&self, number: usize) -> Vec<ShardPack> {
        self.upload.as_ref().map_or_else(Vec::new, |upload| upload.done_since(number))
    }

    fn send(&mut self, builder: PackBuilder) -> Result<(), PackError> {
        let Some(target) = &self.target else { return Ok(()) };
        let structure = self.shared.repository.ring().current().structure.clone();
        #[cfg(test)]
        let builder = self.shared.flips.strike_builder(builder);
        let pack = builder.finish(&structure, &**self.shared.repository.random());
        #[cfg(test)]
        let pack = self.shared.flips.strike_pack(pack);
        if self.upload.is_none() {
            self.write_session(target)?;
        }
        let upload = self.upload.get_or_insert_with(|| Upload::start(&self.shared, target));
        upload.send(pack)
    }

    /// The session is written before the first pack that holds its records.
    fn write_session(&self, target: &Target) -> Result<(), PackError> {
        let shared = &self.shared;
        let ring = shared.repository.ring();
        let session = Session {
            device: target.signer.device,
            id: shared.session,
            started: shared.repository.clock().now(),
            enc_data: shared.data.0.enc,
            enc_tree: shared.tree.0.enc,
        };
        let object = session.encode_object(ring.epoch(), ring.repository, &ring.current().structure, &target.signer);
        let name = object::session_name(&target.signer.device, &shared.session);
        let hash = object::object_hash(&object);
        Ok(wait(name.as_str(), target.store.put_new(&name, Bytes::from(object), &hash))?)
    }

    /// Writes what no shard holds yet.
    fn write_index(&self, target: &Target, mut shard: Shard) -> Result<(), PackError> {
        // What was found by trailers and is relied on is found by the index from now on.
        for left_over in self.shared.index.get().map_or(&[][..], |index| &index.left_over) {
            shard.add_part(&left_over.shard, |pack| self.relied_on.contains(pack));
            if self.shared.is_full(&shard) {
                target.write_shard(&self.shared, std::mem::take(&mut shard))?;
            }
        }
        if shard.is_empty() { Ok(()) } else { target.write_shard(&self.shared, shard) }
    }
}

impl Target {
    /// Writes a shard; the store has taken all packs that it speaks of.
    fn write_shard(&self, shared: &Shared, mut shard: Shard) -> Result<(), PackError> {
        shard.sort();
        put_shard(&shared.repository, &*self.store, &self.signer, &shard)?;
        shared.repository.keep_shard(&shard, &self.signer);
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
