//! Repository: a store with its keys and index. It speaks records: opens, loads them verified, lists snapshots.
//!
//! A record is read where its reference says; only where it does not open there, the index is asked. Nothing that a store returns is believed:
//! names are compared with hashes, signatures with certificates, records with their ids.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

use crate::cache::{DiskCache, MemoryCache};
use crate::config::Config;
use crate::crypto::{SharedRandom, SystemRandom};
use crate::id::{ObjectHash, PackId, RecordId, RepositoryId};
use crate::index::Shard;
use crate::key::slot::Credential;
use crate::key::{KeyRing, Role};
use crate::object::{self, ObjectError};
use crate::pack::pack_kind;
use crate::record::{RecordError, RecordKey, RecordKind, Reference, SessionKeyRef, record_id};
use crate::snapshot::{ManifestError, Snapshot};
use crate::state::private_folder;
use crate::storage::{ObjectName, ReadStore, StoreError, wait};
use crate::time::{SharedClock, SystemClock};
use crate::tree::page::{self, Found, Wanted};
use crate::tree::{LinkRow, List, Page, Subtree, TreeError};

mod bulk;
mod catalogue;
mod certified;
mod fetch;
mod flights;
mod forgotten;
mod heads;
mod inventory;
mod keep;
mod known;
mod listing;
mod marks;
mod near;
mod open;
mod opened;
mod past;
mod pin;
mod pins;
mod plan;
mod roll_up;
mod sealed;
mod shards;
mod superseded;
mod tables;
mod verified;
mod worker;

pub use bulk::{BATCH_MAX, Batch, Sealed};
use certified::Certificates;
use fetch::Fetcher;
pub use fetch::{FetchStatus, PART_MAX};
pub use flights::{Urgency, Waiter};
pub use forgotten::{Forgotten, Snapshots};
pub use heads::Heads;
pub use inventory::Inventory;
use known::Known;
pub use marks::{Marks, Standing};
use near::NearStore;
pub use opened::{Held, Opened, Pause, Want};
use past::Past;
pub use pin::{PinError, PinReport};
pub use pins::{Pinned, forget_pins};
use sealed::{Extents, Neighbourhoods};
pub use shards::ListedShard;
pub use superseded::SupersededCatalogues;

use open::Opening;

/// Why a repository could not be opened or listed.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// There is none.
    #[error("there is no Yesterdrive repository in {location}")]
    NotThere {
        /// Where we looked.
        location: String,
    },
    /// The credential opens none of the slots.
    #[error("this {kind} opens none of the repository's keys")]
    WrongKey {
        /// What kind of credential.
        kind: &'static str,
    },
    /// An object that everything rests on is damaged, forged or newer.
    #[error("object {name} cannot be used")]
    Object {
        /// The object.
        name: ObjectName,
        /// What is wrong.
        #[source]
        source: ObjectError,
    },
    /// The key does not open what was asked for, whatever there is.
    #[error("this key belongs to a {}: {}", .role.as_str(), opens(*.role))]
    NotAllowed {
        /// What its holder may do.
        role: Role,
    },
    /// A near copy is one of something else.
    #[error("{location} is no copy of this repository: it holds another one")]
    OtherNear {
        /// Where.
        location: String,
    },
    /// The store failed.
    #[error("the repository cannot be reached")]
    Store(#[from] StoreError),
}

/// What a key of a role opens, in words.
fn opens(role: Role) -> &'static str {
    match role {
        Role::Owner | Role::Reader => "it opens everything that was saved",
        Role::Writer => "it saves, and opens nothing that was saved",
        Role::Maintainer => "it sees names and sizes, and opens no contents",
    }
}

/// Why a record could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Neither the hint nor the index finds it.
    #[error("record {id} is missing from the repository")]
    Missing {
        /// The record.
        id: RecordId,
    },
    /// Its bytes do not authenticate, decompress or hash.
    #[error("record {id} in pack {pack} at byte {offset} is damaged")]
    Damaged {
        /// The record.
        id: RecordId,
        /// Where it was read.
        pack: PackId,
        /// Where in the pack.
        offset: u32,
        /// Which check failed.
        #[source]
        source: RecordError,
    },
    /// It opened and is no tree, list or table.
    #[error("record {id} does not decode")]
    Malformed {
        /// The record.
        id: RecordId,
        /// What is wrong.
        #[source]
        source: TreeError,
    },
    /// References that contradict each other.
    #[error("the tree contradicts itself")]
    Tree(#[from] TreeError),
    /// The keys at hand do not open it.
    #[error("record {id} cannot be opened with this key")]
    Key {
        /// The record.
        id: RecordId,
        /// Why.
        #[source]
        source: ObjectError,
    },
    /// What this machine keeps of a snapshot is of no use.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The index could not be loaded to look for a record that is not where its reference says.
    #[error("the index cannot be read")]
    Index(#[source] Box<RepositoryError>),
    /// The store failed.
    #[error("a record could not be fetched")]
    Store(#[from] StoreError),
    /// What somebody else was told who waited for the same record.
    #[error(transparent)]
    Shared(Arc<ReadError>),
}

impl ReadError {
    /// Whether the bytes are damaged or missing for good; otherwise the store may answer another time.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Store(error) => error.is_of_object(),
            Self::Index(_) => false,
            Self::Shared(error) => error.is_damage(),
            Self::Missing { .. } | Self::Damaged { .. } | Self::Malformed { .. } | Self::Tree(_) | Self::Key { .. } | Self::Manifest(_) => {
                true
            }
        }
    }
}

/// Memory for reading unless somebody says otherwise, in bytes.
pub const MEMORY_DEFAULT: usize = 256 << 20;

/// How to open a repository.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Memory for opened records, for what is on its way and for sealed trees, in bytes.
    pub memory_max: usize,
    /// Bytes on the local disk for sealed records that were read before, in the state folder; 0 where reading again costs nothing.
    pub cache_size: u64,
    /// Whether what is pinned on this machine is read also where `cache_size` is 0.
    pub reads_pinned: bool,
    /// The folder of this machine in which every repository has a folder of its own, named by its id. What was checked once is kept there; `None` to keep
    /// nothing.
    pub state: Option<PathBuf>,
    /// Whether the snapshots are listed while the keys are fetched, which spares a round trip. The first [`Repository::snapshots`] then shows those that
    /// there were before the keys were opened.
    pub list_ahead: bool,
    /// Copies that are nearer: what they have is read from them, the nearest first.
    pub near: Vec<Arc<dyn ReadStore>>,
    /// Clock.
    pub clock: SharedClock,
    /// Randomness.
    pub random: SharedRandom,
}

impl Default for OpenOptions {
    fn default() -> Self {
        let (clock, random) = (SystemClock::shared(), SystemRandom::shared());
        let (state, near) = (None, Vec::new());
        Self { memory_max: MEMORY_DEFAULT, cache_size: 0, reads_pinned: false, state, list_ahead: false, near, clock, random }
    }
}

/// An open repository for reading. Shared between threads behind an [`Arc`].
#[derive(Debug)]
pub struct Repository {
    store: Arc<dyn ReadStore>,
    /// Where it lies itself, if `store` has nearer copies.
    far: Option<Arc<dyn ReadStore>>,
    state: Option<PathBuf>,
    ring: KeyRing,
    config: Config,
    clock: SharedClock,
    random: SharedRandom,
    certificates: Mutex<Certificates>,
    record_keys: Mutex<HashMap<(SessionKeyRef, RecordKind), RecordKey>>,
    catalogue: Mutex<Known>,
    shards: Mutex<HashMap<ObjectHash, Arc<Shard>>>,
    memory_max: usize,
    memory: MemoryCache<Opened>,
    extents: Mutex<Extents>,
    neighbourhoods: Mutex<Neighbourhoods>,
    disk: Option<DiskCache>,
    /// Only for a key that opens no snapshots.
    past: Option<Past>,
    fetcher: Fetcher,
}

impl Repository {
    /// Opens a repository: reads the configuration and the key slots. Takes seconds with a password.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn open(store: Arc<dyn ReadStore>, credential: &Credential, options: &OpenOptions) -> Result<Self, RepositoryError> {
        let near = (!options.near.is_empty()).then(|| Arc::new(NearStore::new(&options.near, Arc::clone(&store))));
        let far = near.is_some().then(|| Arc::clone(&store));
        let store = near.clone().map_or(store, |near| near as _);
        let mut opening = Opening::read(&*store, options)?;
        let (ring, config) = opening.unlock(credential)?;
        near.map_or(Ok(()), |near| near.expect(ring.repository))?;
        let Opening { devices, listing, mut ahead, .. } = opening;
        let disk = open_disk(&ring.repository, options);
        let past = options.state.as_deref().filter(|_| !ring.role.may_list()).and_then(|state| {
            let past = Past::open(state, &ring, &options.random);
            past.inspect_err(|error| tracing::warn!(%error, "nothing is kept of what is saved here: every run compares everything")).ok()
        });
        let opened = Self {
            store: Arc::clone(&store),
            far,
            state: options.state.clone(),
            ring,
            config,
            clock: Arc::clone(&options.clock),
            random: Arc::clone(&options.random),
            certificates: Mutex::default(),
            record_keys: Mutex::default(),
            catalogue: Mutex::default(),
            shards: Mutex::default(),
            memory_max: options.memory_max,
            memory: MemoryCache::new(options.memory_max / 16 * 13),
            extents: Mutex::new(Extents::new(options.memory_max / 16)),
            neighbourhoods: Mutex::default(),
            disk,
            past,
            fetcher: Fetcher::new(options.memory_max / 8),
        };
        opened.read_certificates(devices, &mut ahead)?;
        *lock(&opened.catalogue) = Known { opening: listing.map(|listing| (listing, ahead)), ..verified::load(&opened) };
        Ok(opened)
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn ReadStore> {
        &self.store
    }

    /// The keys.
    pub fn ring(&self) -> &KeyRing {
        &self.ring
    }

    /// The parameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The repository's id.
    pub fn id(&self) -> RepositoryId {
        self.ring.repository
    }

    /// The clock that it was opened with.
    pub fn clock(&self) -> &SharedClock {
        &self.clock
    }

    /// The folder of this machine that it was opened with: all repositories have theirs in it.
    pub fn state(&self) -> Option<&Path> {
        self.state.as_deref()
    }

    /// The randomness that it was opened with.
    pub fn random(&self) -> &SharedRandom {
        &self.random
    }

    /// All snapshots that are not forgotten, sealed or not, oldest first. Lists the store; manifests seen before are not read again, and none is decoded.
    ///
    /// # Errors
    /// If the store cannot be listed or read. A manifest that does not open is left out here; [`Self::all_snapshots`] names it.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>, RepositoryError> {
        Ok(self.all_snapshots()?.live)
    }

    /// All snapshots, also those that are forgotten and not swept yet, and what is wrong with those that do not open.
    ///
    /// # Errors
    /// If the store cannot be listed or read; [`RepositoryError::NotAllowed`] for a key that opens none.
    pub fn all_snapshots(&self) -> Result<Snapshots, RepositoryError> {
        catalogue::refresh(self, &mut lock(&self.catalogue))
    }

    /// Makes sure that the key opens contents, for those who are about to read them.
    ///
    /// # Errors
    /// [`RepositoryError::NotAllowed`].
    pub fn expect_contents(&self) -> Result<(), RepositoryError> {
        let role = self.ring.role;
        if role.may_read() { Ok(()) } else { Err(RepositoryError::NotAllowed { role }) }
    }

    /// Bytes of a record as stored, verbatim and unopened, where its reference says: from the repository itself, also where copies are nearer.
    ///
    /// # Errors
    /// The store's.
    pub fn stored(&self, kind: RecordKind, reference: &Reference) -> Result<Bytes, StoreError> {
        let name = object::pack_name(pack_kind(kind), &reference.pack);
        wait(name.as_str(), self.far.as_ref().unwrap_or(&self.store).get_range(&name, reference.place()))
    }

    /// What opens the records of a session.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn record_key(&self, session: &SessionKeyRef, kind: RecordKind) -> Result<RecordKey, ObjectError> {
        let place = (*session, kind);
        if let Some(known) = lock(&self.record_keys).get(&place) {
            return Ok(known.clone());
        }
        let key = self.ring.record_key(session, kind.pair())?;
        lock(&self.record_keys).insert(place, key.clone());
        Ok(key)
    }

    /// Opens the stored bytes of a record with all checks; in place where nobody else holds them.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn open_record(&self, kind: RecordKind, reference: &Reference, stored: impl Into<BytesMut>) -> Result<Bytes, ReadError> {
        let id = reference.id;
        let epoch = self.ring.epochs.get(&reference.session.epoch);
        let id_key = epoch.and_then(|keys| keys.id_key(kind)).ok_or(ReadError::Key { id, source: ObjectError::NotAllowed })?;
        let key = self.record_key(&reference.session, kind).map_err(|source| ReadError::Key { id, source })?;
        let damaged = |source| ReadError::Damaged { id, pack: reference.pack, offset: reference.offset, source };
        key.open(&reference.facts(kind), id_key, stored).map_err(damaged)
    }

    /// Whether bytes are the plaintext of a data record.
    pub fn is_record(&self, reference: &Reference, plain: &[u8]) -> bool {
        let epoch = self.ring.epochs.get(&reference.session.epoch);
        epoch.and_then(|keys| keys.id_key(RecordKind::Data)).is_some_and(|id_key| record_id(id_key, plain) == reference.id)
    }

    /// A record's plaintext, from its hint or, failing that, from the index. Not cached.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read_record(&self, kind: RecordKind, reference: &Reference) -> Result<Bytes, ReadError> {
        let first = match self.read_at(kind, reference) {
            Ok(plain) => return Ok(plain),
            Err(error) if !is_elsewhere(&error) => return Err(error),
            Err(error) => error,
        };
        let mut unasked = None;
        for location in self.locate(&reference.id)? {
            let other = location.reference;
            // The same place counts again with another session: whoever was told of it may have known the place, and not who sealed what is there.
            if (other.pack, other.offset, &other.session) == (reference.pack, reference.offset, &reference.session) {
                continue;
            }
            match self.read_at(kind, &other) {
                Ok(plain) => return Ok(plain),
                Err(error) if is_elsewhere(&error) => {}
                // It may be there: what could not be asked for is not missing.
                Err(error) => unasked = Some(error),
            }
        }
        match (unasked, first) {
            (Some(error), _) => Err(error),
            (None, ReadError::Store(error)) if error.is_of_object() => Err(ReadError::Missing { id: reference.id }),
            (None, error) => Err(error),
        }
    }

    /// The cache on the local disk, if there is one.
    pub fn disk(&self) -> Option<&DiskCache> {
        self.disk.as_ref()
    }

    /// Asks a question until it is answered, and brings the records that it misses meanwhile. Waits for the store.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn answer<T>(&self, mut ask: impl FnMut(&Held) -> Result<T, Pause>) -> Result<T, ReadError> {
        let mut held = Held::default();
        loop {
            match ask(&held) {
                Ok(answer) => return Ok(answer),
                Err(Pause::Failed(error)) => return Err(error),
                Err(Pause::Missing(wants)) => {
                    for want in wants {
                        held.insert(want.reference.id, self.load(want.kind, &want.reference)?);
                    }
                }
            }
        }
    }

    /// A tree page that is in memory.
    ///
    /// # Errors
    /// [`Pause`].
    pub fn page_in_memory(&self, held: &Held, reference: &Reference) -> Result<Arc<Page>, Pause> {
        match self.in_memory(held, RecordKind::Tree, reference)? {
            Opened::Page(page) => Ok(page),
            _ => Err(OTHER_KIND.into()),
        }
    }

    /// A list record that is in memory.
    ///
    /// # Errors
    /// [`Pause`].
    pub fn list_in_memory(&self, held: &Held, reference: &Reference) -> Result<Arc<List>, Pause> {
        match self.in_memory(held, RecordKind::List, reference)? {
            Opened::List(list) => Ok(list),
            _ => Err(OTHER_KIND.into()),
        }
    }

    /// Rows of one record of a hard-link table that is in memory.
    ///
    /// # Errors
    /// [`Pause`].
    pub fn links_in_memory(&self, held: &Held, reference: &Reference) -> Result<Arc<Vec<LinkRow>>, Pause> {
        match self.in_memory(held, RecordKind::Table, reference)? {
            Opened::Links(rows) => Ok(rows),
            _ => Err(OTHER_KIND.into()),
        }
    }

    /// A data record's plaintext that is in memory.
    ///
    /// # Errors
    /// [`Pause`].
    pub fn data_in_memory(&self, held: &Held, reference: &Reference) -> Result<Bytes, Pause> {
        match self.in_memory(held, RecordKind::Data, reference)? {
            Opened::Data(plain) => Ok(plain),
            _ => Err(OTHER_KIND.into()),
        }
    }

    /// Whether a record is in memory. Does not count as a use of it.
    pub fn has_in_memory(&self, id: &RecordId) -> bool {
        self.memory.contains(id)
    }

    fn in_memory(&self, held: &Held, kind: RecordKind, reference: &Reference) -> Result<Opened, Pause> {
        let known = held.get(&reference.id).cloned().or_else(|| self.memory.get(&reference.id));
        known.ok_or_else(|| Pause::Missing(vec![Want { kind, reference: *reference }]))
    }

    /// A tree page. May wait for the store: one ranged read where the hint is right.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn page(&self, reference: &Reference) -> Result<Arc<Page>, ReadError> {
        self.answer(|held| self.page_in_memory(held, reference))
    }

    /// Finds an entry of a directory; `None` if there is none. May wait for the store.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn find_entry(&self, directory: &Subtree, wanted: Wanted<'_>) -> Result<Option<Found>, ReadError> {
        let Some(top) = &directory.page else { return Ok(None) };
        page::find(top, wanted, &|reference| self.page(reference))
    }

    /// A list record. May wait for the store.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn list(&self, reference: &Reference) -> Result<Arc<List>, ReadError> {
        self.answer(|held| self.list_in_memory(held, reference))
    }

    /// Rows of one record of a hard-link table. May wait for the store.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn link_rows(&self, reference: &Reference) -> Result<Arc<Vec<LinkRow>>, ReadError> {
        self.answer(|held| self.links_in_memory(held, reference))
    }

    /// From a near copy, or, where that has it not or damaged, from the repository itself.
    fn read_at(&self, kind: RecordKind, reference: &Reference) -> Result<Bytes, ReadError> {
        if self.far.is_some() {
            let name = object::pack_name(pack_kind(kind), &reference.pack);
            let near = wait(name.as_str(), self.store.get_range(&name, reference.place()));
            if let Some(plain) = near.ok().and_then(|near| self.open_record(kind, reference, near).ok()) {
                return Ok(plain);
            }
        }
        self.open_record(kind, reference, self.stored(kind, reference)?)
    }
}

const OTHER_KIND: TreeError = TreeError::Broken("a record is of another kind than its reference says");

/// The folder of a repository's state folder that holds sealed records.
pub const CACHE_FOLDER: &str = "records";

/// The cache on the local disk. Without it everything works, and is fetched again.
fn open_disk(repository: &RepositoryId, options: &OpenOptions) -> Option<DiskCache> {
    let folder = options.state.as_ref()?.join(repository.to_string());
    let opened = match options.cache_size {
        0 if options.reads_pinned => DiskCache::open_to_read(&folder.join(CACHE_FOLDER)).map_err(|error| error.to_string()),
        0 => return None,
        size => private_folder(&folder)
            .map_err(|error| error.to_string())
            .and_then(|()| DiskCache::open(&folder.join(CACHE_FOLDER), size).map_err(|error| error.to_string())),
    };
    opened.inspect_err(|error| tracing::warn!(%error, "nothing is cached on the disk")).ok()
}

/// Whether a record may lie somewhere else: it is certainly not here, or not in order.
fn is_elsewhere(error: &ReadError) -> bool {
    use StoreError::{Denied, Failed, Timeout};
    !matches!(error, ReadError::Key { .. } | ReadError::Store(Timeout { .. } | Denied { .. } | Failed { .. }))
}

fn malformed(reference: &Reference) -> impl FnOnce(TreeError) -> ReadError {
    let id = reference.id;
    move |source| ReadError::Malformed { id, source }
}

/// No lock of this file is held while anything can panic half-way through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
