//! What opening a repository reads. Names come first, all prefixes at once; then everything that is small or worth it, at once too:
//! two round trips to a store far away, however many snapshots there are.

use std::collections::HashMap;

use bytes::Bytes;

use super::catalogue::fetch;
use super::listing::Listing;
use super::{OpenOptions, Repository, RepositoryError, lock, verified};
use crate::config::{self, Certificate, Config};
use crate::id::{DeviceId, ObjectHash, RepositoryId};
use crate::key::slot::Credential;
use crate::key::{KeyRing, slot};
use crate::object::{self, Header, ObjectError, ObjectKind, SMALL_OBJECT_SIZE_MAX};
use crate::snapshot::codec::check_hash;
use crate::storage::{ObjectMeta, ObjectName, ReadStore, StoreError, get_all, list_all, wait};

/// Reads an object that must be small.
pub(super) fn get_small(store: &dyn ReadStore, name: &ObjectName) -> Result<Bytes, RepositoryError> {
    Ok(small(name, wait(name.as_str(), store.get(name)))?)
}

/// Refuses an object that is too large for its kind.
pub(super) fn small(name: &ObjectName, object: Result<Bytes, StoreError>) -> Result<Bytes, StoreError> {
    let object = object?;
    let size = object.len() as u64;
    if size > SMALL_OBJECT_SIZE_MAX { Err(StoreError::WrongSize { name: name.clone(), size }) } else { Ok(object) }
}

/// Objects that were fetched together, before anybody asked for them. Each is given out once: who asks again wants to know how it is now.
#[derive(Debug, Default)]
pub(super) struct Ahead(HashMap<ObjectName, Result<Bytes, StoreError>>);

impl Ahead {
    pub(super) fn fetch(store: &dyn ReadStore, objects: &[(ObjectName, u64)]) -> Self {
        let fetched = get_all(store, objects.iter().map(|(name, size)| (name, *size)));
        Self(objects.iter().map(|(name, _)| name.clone()).zip(fetched).collect())
    }

    pub(super) fn take(&mut self, name: &ObjectName) -> Option<Result<Bytes, StoreError>> {
        self.0.remove(name)
    }

    fn get_small(&mut self, store: &dyn ReadStore, name: &ObjectName) -> Result<Bytes, RepositoryError> {
        self.take(name).map_or_else(|| get_small(store, name), |object| Ok(small(name, object)?))
    }
}

type NamedConfig = (u64, ObjectHash, ObjectName);

/// What the first two round trips brought.
pub(super) struct Opening<'a> {
    store: &'a dyn ReadStore,
    /// Configurations by generation, the newest first.
    configs: Vec<NamedConfig>,
    /// Those that were read.
    read: HashMap<ObjectName, Bytes>,
    slots: Vec<ObjectName>,
    /// Names of device certificates.
    pub(super) devices: Vec<ObjectName>,
    /// The snapshots, if they were to be listed.
    pub(super) listing: Option<Listing>,
    /// What nobody has asked for yet.
    pub(super) ahead: Ahead,
}

impl<'a> Opening<'a> {
    pub(super) fn read(store: &'a dyn ReadStore, options: &OpenOptions) -> Result<Self, RepositoryError> {
        let kinds = [ObjectKind::Config, ObjectKind::Slot, ObjectKind::Device].map(ObjectKind::prefix);
        let (mut listed, listing) = if options.list_ahead {
            let [config, slot, device] = kinds;
            let (mut whole, names) = list_all(store, [config, slot, device, Listing::WHOLE], Listing::NAMES);
            let catalogues = whole.pop();
            (whole.into_iter(), Some(Listing::new(names, catalogues)?))
        } else {
            (list_all(store, kinds, []).0.into_iter(), None)
        };
        let mut next = || listed.next().transpose().map(Option::unwrap_or_default);
        let (configs, slots, devices) = (by_generation(next()?), next()?, next()?);
        let Some((_, _, newest)) = configs.first() else { return Err(RepositoryError::NotThere { location: store.location() }) };
        let mut wanted = vec![(newest.clone(), 0)];
        wanted.extend(slots.iter().chain(&devices).map(|meta| (meta.name.clone(), meta.size)));
        // Who has opened a repository on this machine knows most of its snapshots already: which ones turns out with the keys.
        if let Some(listing) = &listing
            && !options.state.as_deref().is_some_and(verified::is_any)
        {
            wanted.extend(listing.worth_fetching());
        }
        let ahead = Ahead::fetch(store, &wanted);
        let names = |metas: Vec<ObjectMeta>| metas.into_iter().map(|meta| meta.name).collect();
        Ok(Self { store, configs, read: HashMap::new(), slots: names(slots), devices: names(devices), listing, ahead })
    }

    /// The keys that the credential opens, and the configuration.
    pub(super) fn unlock(&mut self, credential: &Credential) -> Result<(KeyRing, Config), RepositoryError> {
        let repository = self.first_valid(claimed_id)?;
        let ring = self.open_slots(repository, credential)?;
        let config = self.first_valid(|(generation, hash), object| {
            check_hash(object, &hash)?;
            let config = config::decode_config(object, ring.repository, &ring.root_public, |epoch| ring.structure(epoch))?;
            if config.generation == generation { Ok(config) } else { Err(ObjectError::Misplaced) }
        })?;
        Ok((ring, config))
    }

    /// Of the newest configuration that makes sense: what `read` makes of it.
    fn first_valid<T>(&mut self, read: impl Fn((u64, ObjectHash), &[u8]) -> Result<T, ObjectError>) -> Result<T, RepositoryError> {
        let mut first_error = None;
        for (generation, hash, name) in &self.configs {
            let object = match self.read.get(name) {
                Some(object) => object.clone(),
                None => match self.ahead.get_small(self.store, name) {
                    Err(RepositoryError::Store(error)) if error.is_of_object() => {
                        first_error.get_or_insert(error.into());
                        continue;
                    }
                    object => object?,
                },
            };
            self.read.insert(name.clone(), object.clone());
            match read((*generation, *hash), &object) {
                Ok(value) => return Ok(value),
                Err(source) => drop(first_error.get_or_insert(RepositoryError::Object { name: name.clone(), source })),
            }
        }
        Err(first_error.unwrap_or(RepositoryError::NotThere { location: self.store.location() }))
    }

    fn open_slots(&mut self, repository: RepositoryId, credential: &Credential) -> Result<KeyRing, RepositoryError> {
        let mut damaged = None;
        for name in &self.slots {
            let Some(id) = name.as_str().strip_prefix(ObjectKind::Slot.prefix()).and_then(|id| id.parse().ok()) else { continue };
            let object = match self.ahead.get_small(self.store, name) {
                Err(RepositoryError::Store(error)) if error.is_of_object() => {
                    damaged = Some(error.into());
                    continue;
                }
                object => object?,
            };
            match slot::open(id, &object, credential) {
                Ok(Some(ring)) if ring.repository == repository => return Ok(ring),
                Ok(Some(_)) => damaged = Some(RepositoryError::Object { name: name.clone(), source: ObjectError::Misplaced }),
                Ok(None) => {}
                Err(source) => damaged = Some(RepositoryError::Object { name: name.clone(), source }),
            }
        }
        Err(damaged.unwrap_or(RepositoryError::WrongKey { kind: credential.kind().as_str() }))
    }
}

impl Repository {
    /// The id of the repository in a store, by what its configuration says in clear: nothing shows yet that it is right.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn identify(store: &dyn ReadStore) -> Result<RepositoryId, RepositoryError> {
        Opening::read(store, &OpenOptions::default())?.first_valid(claimed_id)
    }

    /// Looks for certificates of new devices.
    pub(super) fn load_certificates(&self) -> Result<(), RepositoryError> {
        let prefix = ObjectKind::Device.prefix();
        let names = wait(prefix, self.store.list(prefix, None))?.into_iter().map(|meta| meta.name).collect();
        self.read_certificates(names, &mut Ahead::default())
    }

    pub(super) fn read_certificates(&self, names: Vec<ObjectName>, ahead: &mut Ahead) -> Result<(), RepositoryError> {
        let parse = |name: ObjectName| {
            let (device, hash) = name.as_str().strip_prefix(ObjectKind::Device.prefix())?.split_once('-')?;
            let (device, hash): (DeviceId, ObjectHash) = (device.parse().ok()?, hash.parse().ok()?);
            (!lock(&self.certificates).has_read(&hash)).then_some((device, hash, name))
        };
        let unknown: Vec<_> = names.into_iter().filter_map(parse).collect();
        let objects = fetch(self, ahead, unknown.iter().map(|(_, _, name)| (name, 0)));
        for ((device, hash, name), object) in unknown.into_iter().zip(objects) {
            let object = match small(&name, object) {
                Err(error) if error.is_of_object() => {
                    tracing::warn!(%name, %error, "a device certificate cannot be read");
                    continue;
                }
                object => object?,
            };
            let read = check_hash(&object, &hash)
                .and_then(|()| Certificate::decode_object(&object, self.id(), &self.ring.root_public, |epoch| self.ring.structure(epoch)));
            match read {
                Ok(certificate) if certificate.device == device => lock(&self.certificates).insert(hash, certificate),
                Ok(_) => tracing::warn!(%name, "a certificate stands under another device's name"),
                Err(error) => tracing::warn!(%name, %error, "a device certificate is not valid"),
            }
        }
        Ok(())
    }
}

/// The repository that a configuration says to belong to, if its bytes are those that were written: one that has rotted must not speak for the others.
fn claimed_id((_, hash): (u64, ObjectHash), object: &[u8]) -> Result<RepositoryId, ObjectError> {
    // A newer format says so before anything else.
    let (header, ..) = Header::decode(object)?;
    check_hash(object, &hash).map(|()| header.repository)
}

/// Configurations by generation, the newest first.
fn by_generation(listed: Vec<ObjectMeta>) -> Vec<NamedConfig> {
    let named = |meta: ObjectMeta| {
        let (generation, hash) = object::parse_numbered(meta.name.as_str().strip_prefix(ObjectKind::Config.prefix())?)?;
        Some((generation, hash, meta.name))
    };
    let mut configs: Vec<_> = listed.into_iter().filter_map(named).collect();
    configs.sort_by_key(|(generation, hash, _)| std::cmp::Reverse((*generation, *hash)));
    configs
}
