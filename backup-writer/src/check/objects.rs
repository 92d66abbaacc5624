//! The objects that nobody reads every day: configurations, key slots, certificates, sessions, catalogues, and manifests and seals that stand in one.
//! One that rots is missed only when it is needed.

use std::collections::HashSet;

use fs_core::config::{Certificate, Session, decode_config};
use fs_core::crypto;
use fs_core::id::PackId;
use fs_core::key::slot;
use fs_core::object::{self, ObjectError, ObjectKind, SMALL_OBJECT_SIZE_MAX};
use fs_core::observer::Observer;
use fs_core::report::{Finding, Severity};
use fs_core::repository::{Inventory, Repository, RepositoryError};
use fs_core::snapshot::Manifest;
use fs_core::snapshot::codec::{CATALOGUE_SIZE_MAX, Catalogue, Seal};
use fs_core::snapshot::mark::Mark;
use fs_core::snapshot::tombstone::Tombstones;
use fs_core::storage::{ObjectMeta, ObjectName, StoreError, get_all, wait};
use fs_core::time::Timestamp;

use super::ReadData;
use crate::proven::Proven;
use crate::proven::cycle::{self, Known, Listed};

/// Objects that are read together.
const BATCH: usize = 128;

/// Which of the objects are opened, by their names.
pub(super) enum Which {
    /// All.
    All,
    /// The n-th of m parts, from 1.
    Part { n: u64, m: u64 },
    /// Those whose day in a cycle has come since all were in order last.
    Days { days: u64, last: Option<i64>, began: i64, now: i64 },
}

impl Which {
    /// `None` if no data is read: then these need not be either.
    pub(super) fn of(read_data: ReadData, proven: Option<&Proven>, now: Timestamp) -> Option<Self> {
        match read_data {
            ReadData::None => None,
            ReadData::Part { n, m } => Some(Self::Part { n, m }),
            ReadData::Cycle { days } => {
                let began = proven.and_then(|proven| proven.began(now).ok()).unwrap_or(now.seconds());
                Some(Self::Days { days, last: proven.and_then(Proven::small), began, now: now.seconds() })
            }
            ReadData::All => Some(Self::All),
        }
    }

    fn takes(&self, name: &ObjectName) -> bool {
        let hash = crypto::hash(name.as_str().as_bytes());
        let Some(id) = hash.first_chunk().map(|id| PackId::from_bytes(*id)) else { return true };
        match *self {
            Self::All => true,
            Self::Part { n, m } => cycle::part(&id, m) + 1 == n,
            Self::Days { days, last, began, now } => {
                let known = Known { read: &last.map(|last| (id, last)).into_iter().collect(), began, now };
                !cycle::due(&[Listed { id, size: 0, modified: None }], known, days).is_empty()
            }
        }
    }
}

/// Opens objects of these kinds, and says what is wrong with which.
///
/// # Errors
/// The store's, if they cannot be listed.
pub(super) fn check_objects(
    repository: &Repository,
    kinds: &[ObjectKind],
    which: &Which,
    observer: &dyn Observer,
) -> Result<Vec<Finding>, StoreError> {
    let mut findings = Vec::new();
    for kind in kinds {
        let size_max = if *kind == ObjectKind::Catalogue { CATALOGUE_SIZE_MAX } else { SMALL_OBJECT_SIZE_MAX };
        let mut listed = wait(kind.prefix(), repository.store().list(kind.prefix(), None))?;
        listed.retain(|meta| which.takes(&meta.name));
        let (listed, too_large): (Vec<_>, Vec<_>) = listed.into_iter().partition(|meta| meta.size <= size_max);
        let wrong = |meta: &ObjectMeta, message: String| Finding::object(Severity::Error, meta.name.as_str(), message);
        findings.extend(too_large.iter().map(|meta| wrong(meta, "it is larger than any object of its kind".into())));
        for some in listed.chunks(BATCH) {
            if observer.is_cancelled() {
                return Ok(findings);
            }
            let objects = get_all(&**repository.store(), some.iter().map(|meta| (&meta.name, meta.size)));
            for (meta, object) in some.iter().zip(objects) {
                match object.map_err(RepositoryError::from).and_then(|object| open(repository, *kind, &meta.name, &object)) {
                    // It was listed a moment ago: a prune, or somebody who took a key away.
                    Ok(()) | Err(RepositoryError::Store(StoreError::NotFound { .. })) => {}
                    Err(error) => findings.push(wrong(meta, error.to_string())),
                }
            }
        }
    }
    Ok(findings)
}

/// Seals whose manifests are not listed: a manifest that is lost leaves nothing else behind.
///
/// # Errors
/// The store's, if they cannot be listed.
pub(super) fn check_seals(repository: &Repository, inventory: &Inventory) -> Result<Vec<Finding>, StoreError> {
    let list = |kind: ObjectKind| wait(kind.prefix(), repository.store().list_names(kind.prefix()));
    // Seals first: a manifest that comes meanwhile is then listed, and a seal that does is not missed.
    let (seals, manifests) = (list(ObjectKind::Seal)?, list(ObjectKind::Manifest)?);
    let place = |kind, name: &ObjectName| object::parse_sequence_name(kind, name).map(|(device, sequence, _)| (device, sequence));
    let there: HashSet<_> = manifests.iter().filter_map(|(name, _)| place(ObjectKind::Manifest, name)).collect();
    let is_alone = |name: &ObjectName| place(ObjectKind::Seal, name).is_some_and(|place| !there.contains(&place));
    let alone = seals.into_iter().map(|(name, _)| name).filter(is_alone);
    let told = |name: ObjectName| match inventory.left_seals.contains(&name) {
        true => Finding::object(Severity::Note, name.as_str(), "the snapshot that it seals was forgotten and swept: it is of no use"),
        false => Finding::object(Severity::Warning, name.as_str(), "the manifest that it seals is missing: a snapshot is lost"),
    };
    Ok(alone.map(told).collect())
}

fn open(repository: &Repository, kind: ObjectKind, name: &ObjectName, object: &[u8]) -> Result<(), RepositoryError> {
    let (ring, id) = (repository.ring(), repository.id());
    let wrong = |source| RepositoryError::Object { name: name.clone(), source };
    let hash = object::object_hash(object);
    let structure = |epoch| ring.structure(epoch);
    let belongs_under = match kind {
        ObjectKind::Config => {
            let config = decode_config(object, id, &ring.root_public, structure).map_err(wrong)?;
            object::config_name(config.generation, &hash)
        }
        ObjectKind::Slot => {
            let slot = name.as_str().strip_prefix(kind.prefix()).and_then(|slot| slot.parse().ok());
            let slot = slot.ok_or_else(|| wrong(ObjectError::NotOurs))?;
            slot::open_label(slot, object, ring).map_err(wrong)?;
            object::slot_name(&slot)
        }
        ObjectKind::Device => {
            let certificate = Certificate::decode_object(object, id, &ring.root_public, structure).map_err(wrong)?;
            object::device_name(&certificate.device, &hash)
        }
        ObjectKind::Session => {
            let (session, header, signed) = Session::decode_object(object, id, structure).map_err(wrong)?;
            repository.check_signature(name, &header, &signed)?;
            object::session_name(&session.device, &session.id)
        }
        ObjectKind::Manifest => {
            let (manifest, header, signed) = Manifest::decode_object(object, ring).map_err(wrong)?;
            repository.check_signature(name, &header, &signed)?;
            object::sequence_name(kind, &manifest.device, manifest.sequence, &hash)
        }
        ObjectKind::Seal => {
            let (seal, header, signed) = Seal::decode_object(object, id, structure).map_err(wrong)?;
            repository.check_signature(name, &header, &signed)?;
            object::sequence_name(kind, &seal.device, seal.sequence, &hash)
        }
        ObjectKind::Catalogue => {
            let (_, header, signed) = Catalogue::decode_object(object, ring).map_err(wrong)?;
            match repository.check_signature(name, &header, &signed) {
                // Whoever wrote it was revoked later: nobody reads it.
                Err(RepositoryError::Object { source: ObjectError::Revoked(_), .. }) => {}
                checked => checked?,
            }
            object::hashed_name(kind, &hash)
        }
        ObjectKind::Tombstones => {
            // Who signed it was checked when the snapshots were listed.
            let (tombstones, _, _) = Tombstones::decode_object(object, id, structure).map_err(wrong)?;
            object::run_name(ObjectKind::Tombstones, &tombstones.run, &hash)
        }
        ObjectKind::Mark => {
            // Who signed it is checked for all of them.
            let (mark, _, _) = Mark::decode_object(object, id, structure).map_err(wrong)?;
            object::run_name(kind, &mark.run, &hash)
        }
        // These are opened by the check of packs and of the index.
        ObjectKind::DataPack | ObjectKind::MetaPack | ObjectKind::Shard => return Ok(()),
    };
    if belongs_under == *name { Ok(()) } else { Err(wrong(ObjectError::Misplaced)) }
}
