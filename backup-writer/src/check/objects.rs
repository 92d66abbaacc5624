//! The objects that nobody reads every day: configurations, key slots, certificates, sessions, catalogues, and manifests and seals that stand in one.
//! One that rots is missed only when it is needed.

use std::collections::HashSet;

use fs_core::config::{Certificate, Session, decode_config};
use fs_core::key::slot;
use fs_core::object::{self, ObjectError, ObjectKind, SMALL_OBJECT_SIZE_MAX};
use fs_core::report::{Finding, Severity};
use fs_core::repository::{Repository, RepositoryError};
use fs_core::snapshot::Manifest;
use fs_core::snapshot::codec::{CATALOGUE_SIZE_MAX, Catalogue, Seal};
use fs_core::snapshot::mark::Mark;
use fs_core::snapshot::tombstone::Tombstones;
use fs_core::storage::{ObjectName, StoreError, wait};

/// Opens every object of these kinds, and says what is wrong with which.
///
/// # Errors
/// The store's, if they cannot be listed.
pub(super) fn check_objects(repository: &Repository, kinds: &[ObjectKind]) -> Result<Vec<Finding>, StoreError> {
    let mut findings = Vec::new();
    for kind in kinds {
        for meta in wait(kind.prefix(), repository.store().list(kind.prefix(), None))? {
            let size_max = if *kind == ObjectKind::Catalogue { CATALOGUE_SIZE_MAX } else { SMALL_OBJECT_SIZE_MAX };
            let problem = if meta.size > size_max {
                Some("it is larger than any object of its kind".into())
            } else {
                match open(repository, *kind, &meta.name) {
                    // It was listed a moment ago: a prune, or somebody who took a key away.
                    Ok(()) | Err(RepositoryError::Store(StoreError::NotFound { .. })) => None,
                    Err(error) => Some(error.to_string()),
                }
            };
            findings.extend(problem.map(|message| Finding::object(Severity::Error, meta.name.as_str(), message)));
        }
    }
    Ok(findings)
}

/// Seals whose manifests are not listed: a manifest that is lost leaves nothing else behind.
///
/// # Errors
/// The store's, if they cannot be listed.
pub(super) fn check_seals(repository: &Repository) -> Result<Vec<Finding>, StoreError> {
    let list = |kind: ObjectKind| wait(kind.prefix(), repository.store().list_names(kind.prefix()));
    // Seals first: a manifest that comes meanwhile is then listed, and a seal that does is not missed.
    let (seals, manifests) = (list(ObjectKind::Seal)?, list(ObjectKind::Manifest)?);
    let place = |kind, name: &ObjectName| object::parse_sequence_name(kind, name).map(|(device, sequence, _)| (device, sequence));
    let there: HashSet<_> = manifests.iter().filter_map(|(name, _)| place(ObjectKind::Manifest, name)).collect();
    let is_alone = |name: &ObjectName| place(ObjectKind::Seal, name).is_some_and(|place| !there.contains(&place));
    let alone = seals.into_iter().map(|(name, _)| name).filter(is_alone);
    Ok(alone
        .map(|name| Finding::object(Severity::Warning, name.as_str(), "the manifest that it seals is missing: a snapshot is lost"))
        .collect())
}

fn open(repository: &Repository, kind: ObjectKind, name: &ObjectName) -> Result<(), RepositoryError> {
    let object = wait(name.as_str(), repository.store().get(name))?;
    let (ring, id) = (repository.ring(), repository.id());
    let wrong = |source| RepositoryError::Object { name: name.clone(), source };
    let hash = object::object_hash(&object);
    let structure = |epoch| ring.structure(epoch);
    let belongs_under = match kind {
        ObjectKind::Config => {
            let config = decode_config(&object, id, &ring.root_public, structure).map_err(wrong)?;
            object::config_name(config.generation, &hash)
        }
        ObjectKind::Slot => {
            let slot = name.as_str().strip_prefix(kind.prefix()).and_then(|slot| slot.parse().ok());
            let slot = slot.ok_or_else(|| wrong(ObjectError::NotOurs))?;
            slot::open_label(slot, &object, ring).map_err(wrong)?;
            object::slot_name(&slot)
        }
        ObjectKind::Device => {
            let certificate = Certificate::decode_object(&object, id, &ring.root_public, structure).map_err(wrong)?;
            object::device_name(&certificate.device, &hash)
        }
        ObjectKind::Session => {
            let (session, header, signed) = Session::decode_object(&object, id, structure).map_err(wrong)?;
            repository.check_signature(name, &header, &signed)?;
            object::session_name(&session.device, &session.id)
        }
        ObjectKind::Manifest => {
            let (manifest, header, signed) = Manifest::decode_object(&object, ring).map_err(wrong)?;
            repository.check_signature(name, &header, &signed)?;
            object::sequence_name(kind, &manifest.device, manifest.sequence, &hash)
        }
        ObjectKind::Seal => {
            let (seal, header, signed) = Seal::decode_object(&object, id, structure).map_err(wrong)?;
            repository.check_signature(name, &header, &signed)?;
            object::sequence_name(kind, &seal.device, seal.sequence, &hash)
        }
        ObjectKind::Catalogue => {
            let (_, header, signed) = Catalogue::decode_object(&object, ring).map_err(wrong)?;
            repository.check_signature(name, &header, &signed)?;
            object::hashed_name(kind, &hash)
        }
        ObjectKind::Tombstones => {
            // Who signed it was checked when the snapshots were listed.
            let (tombstones, _, _) = Tombstones::decode_object(&object, id, structure).map_err(wrong)?;
            object::run_name(ObjectKind::Tombstones, &tombstones.run, &hash)
        }
        ObjectKind::Mark => {
            // Who signed it is checked for all of them.
            let (mark, _, _) = Mark::decode_object(&object, id, structure).map_err(wrong)?;
            object::run_name(kind, &mark.run, &hash)
        }
        // These are opened by the check of packs and of the index.
        ObjectKind::DataPack | ObjectKind::MetaPack | ObjectKind::Shard => return Ok(()),
    };
    if belongs_under == *name { Ok(()) } else { Err(wrong(ObjectError::Misplaced)) }
}
