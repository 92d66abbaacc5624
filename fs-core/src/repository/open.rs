//! What opening a repository reads: configurations and key slots.

use bytes::Bytes;

use super::RepositoryError;
use crate::config::{self, Config};
use crate::id::{ObjectHash, RepositoryId};
use crate::key::slot::Credential;
use crate::key::{KeyRing, slot};
use crate::object::{self, Header, ObjectError, ObjectKind, SMALL_OBJECT_SIZE_MAX};
use crate::snapshot::codec::check_hash;
use crate::storage::{ObjectMeta, ObjectName, ReadStore, StoreError, wait};

/// Reads an object that must be small.
pub(super) fn get_small(store: &dyn ReadStore, name: &ObjectName) -> Result<Bytes, RepositoryError> {
    let size = wait(name.as_str(), store.stat(name))?.size;
    if size > SMALL_OBJECT_SIZE_MAX {
        return Err(StoreError::WrongSize { name: name.clone(), size }.into());
    }
    Ok(wait(name.as_str(), store.get(name))?)
}

pub(super) type NamedConfig = (u64, ObjectHash, ObjectMeta);

/// Configurations by generation, the newest first.
pub(super) fn list_configs(store: &dyn ReadStore) -> Result<Vec<NamedConfig>, RepositoryError> {
    let prefix = ObjectKind::Config.prefix();
    let named = |meta: ObjectMeta| {
        let (generation, hash) = object::parse_numbered(meta.name.as_str().strip_prefix(prefix)?)?;
        Some((generation, hash, meta))
    };
    let mut configs: Vec<_> = wait(prefix, store.list(prefix, None))?.into_iter().filter_map(named).collect();
    configs.sort_by_key(|(generation, hash, _)| std::cmp::Reverse((*generation, *hash)));
    if configs.is_empty() { Err(RepositoryError::NotThere { location: store.location() }) } else { Ok(configs) }
}

pub(super) fn repository_id(store: &dyn ReadStore, configs: &[NamedConfig]) -> Result<RepositoryId, RepositoryError> {
    let mut first_error = None;
    for (_, _, meta) in configs {
        match Header::decode(&get_small(store, &meta.name)?) {
            Ok((header, _, _)) => return Ok(header.repository),
            Err(source) => drop(first_error.get_or_insert(RepositoryError::Object { name: meta.name.clone(), source })),
        }
    }
    Err(first_error.unwrap_or(RepositoryError::NotThere { location: store.location() }))
}

pub(super) fn open_slots(store: &dyn ReadStore, repository: RepositoryId, credential: &Credential) -> Result<KeyRing, RepositoryError> {
    let prefix = ObjectKind::Slot.prefix();
    let mut damaged = None;
    for meta in wait(prefix, store.list(prefix, None))? {
        let Some(id) = meta.name.as_str().strip_prefix(prefix).and_then(|id| id.parse().ok()) else { continue };
        match slot::open(id, &get_small(store, &meta.name)?, credential) {
            Ok(Some(ring)) if ring.repository == repository => return Ok(ring),
            Ok(Some(_)) => damaged = Some(RepositoryError::Object { name: meta.name, source: ObjectError::Misplaced }),
            Ok(None) => {}
            Err(source) => damaged = Some(RepositoryError::Object { name: meta.name, source }),
        }
    }
    Err(damaged.unwrap_or(RepositoryError::WrongKey { kind: credential.kind().as_str() }))
}

pub(super) fn read_config(store: &dyn ReadStore, configs: &[NamedConfig], ring: &KeyRing) -> Result<Config, RepositoryError> {
    let mut first_error = None;
    for (generation, hash, meta) in configs {
        let object = get_small(store, &meta.name)?;
        let read = check_hash(&object, hash)
            .and_then(|()| config::decode_config(&object, ring.repository, &ring.root_public, |epoch| ring.structure(epoch)));
        match read {
            Ok(config) if config.generation == *generation => return Ok(config),
            Ok(_) => drop(first_error.get_or_insert(RepositoryError::Object { name: meta.name.clone(), source: ObjectError::Misplaced })),
            Err(source) => drop(first_error.get_or_insert(RepositoryError::Object { name: meta.name.clone(), source })),
        }
    }
    Err(first_error.unwrap_or(RepositoryError::NotThere { location: store.location() }))
}
