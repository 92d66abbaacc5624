//! Makes a repository: first its key slots, last the configuration that makes it one.

use bytes::Bytes;
use fs_core::config::{Config, encode_config};
use fs_core::crypto::{SharedRandom, random_array};
use fs_core::id::{KeyId, RepositoryId};
use fs_core::key::KeyRing;
use fs_core::key::slot::{self, Credential, PasswordCost, SlotLabel};
use fs_core::object::{self, Header, ObjectError, ObjectKind};
use fs_core::storage::{ObjectName, StoreError, WriteStore, wait, wait_for_put};
use fs_core::time::SharedClock;

/// Why no repository was made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// There is one already.
    #[error("there is a repository in {location} already")]
    AlreadyThere {
        /// Where.
        location: String,
    },
    /// A key slot could not be made.
    #[error("a key slot could not be made")]
    Slot(#[from] ObjectError),
    /// The store failed.
    #[error("the repository could not be written")]
    Store(#[from] StoreError),
}

/// A key that the new repository gets.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// What opens it.
    pub credential: Credential,
    /// Its name for people.
    pub label: String,
    /// Cost of guessing, for passwords.
    pub cost: PasswordCost,
}

/// Creates a repository whose owner can open it with each of `keys`.
///
/// # Errors
/// [`CreateError`]. After an error there is no repository: slots without a configuration are none.
pub fn create(store: &dyn WriteStore, keys: &[NewKey], clock: &SharedClock, random: &SharedRandom) -> Result<KeyRing, CreateError> {
    let ring = new_ring(random);
    create_with(store, &ring, keys, clock, random)?;
    Ok(ring)
}

/// The keys of a repository that is still to be made: a sheet can name it before anything is written.
pub fn new_ring(random: &SharedRandom) -> KeyRing {
    KeyRing::generate(RepositoryId::from_bytes(random_array(&**random)), &**random)
}

/// Creates the repository of `ring`, which nobody has used before.
///
/// # Errors
/// As [`create`].
pub fn create_with(
    store: &dyn WriteStore,
    ring: &KeyRing,
    keys: &[NewKey],
    clock: &SharedClock,
    random: &SharedRandom,
) -> Result<(), CreateError> {
    let prefix = ObjectKind::Config.prefix();
    if !wait(prefix, store.list(prefix, None))?.is_empty() {
        return Err(CreateError::AlreadyThere { location: store.location() });
    }
    for key in keys {
        add_key(store, ring, key, clock, random)?;
    }
    let config = Config::new(clock.now());
    let header = Header::new(ObjectKind::Config, ring.epoch(), ring.repository, &**random);
    let root = ring.root_signer().ok_or(ObjectError::NotAllowed)?;
    let object = encode_config(&config, &header, &ring.current().structure, &root);
    put_hashed(store, object, |hash| object::config_name(config.generation, hash))?;
    Ok(())
}

/// Adds a key slot that holds the same role as `ring`.
///
/// # Errors
/// [`CreateError`].
pub fn add_key(
    store: &dyn WriteStore,
    ring: &KeyRing,
    key: &NewKey,
    clock: &SharedClock,
    random: &SharedRandom,
) -> Result<KeyId, CreateError> {
    let label = SlotLabel { label: key.label.clone(), role: ring.role, kind: key.credential.kind(), created: clock.now(), changed: None };
    put_slot(store, ring, &key.credential, &key.cost, &label, random)
}

/// Writes a slot as it is labelled: another one for a key that changes its password keeps its name and when it was made.
///
/// # Errors
/// [`CreateError`].
pub fn put_slot(
    store: &dyn WriteStore,
    ring: &KeyRing,
    credential: &Credential,
    cost: &PasswordCost,
    label: &SlotLabel,
    random: &SharedRandom,
) -> Result<KeyId, CreateError> {
    let id = KeyId::from_bytes(random_array(&**random));
    let object = slot::encode(id, ring, credential, cost, label, &**random)?;
    let hash = object::object_hash(&object);
    let name = object::slot_name(&id);
    wait(name.as_str(), store.put_new(&name, Bytes::from(object), &hash))?;
    Ok(id)
}

/// Puts an object whose name ends in its hash. Finding it there already is success: it has the same bytes.
///
/// # Errors
/// The store's.
pub fn put_hashed(
    store: &dyn WriteStore,
    object: Vec<u8>,
    name_of: impl FnOnce(&fs_core::id::ObjectHash) -> ObjectName,
) -> Result<fs_core::id::ObjectHash, StoreError> {
    let hash = object::object_hash(&object);
    let name = name_of(&hash);
    match wait_for_put(&name, object.len(), store.put_new(&name, Bytes::from(object), &hash)) {
        Ok(()) | Err(StoreError::AlreadyExists { .. }) => Ok(hash),
        Err(error) => Err(error),
    }
}
