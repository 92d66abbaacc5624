//! Which snapshots there are: manifests and seals, read once, and the roll-ups that spare reading them one by one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Repository, RepositoryError, get_small};
use crate::id::{DeviceId, ObjectHash, SnapshotId};
use crate::object::{Header, ObjectError, ObjectKind, parse_sequence_name};
use crate::report::{Finding, Severity};
use crate::snapshot::codec::{Catalogue, CatalogueRow, Seal, check_hash};
use crate::snapshot::{Manifest, Snapshot};
use crate::storage::{ObjectName, wait};

/// What was read before. Objects never change, so nothing here goes out of date; what the store no longer lists is only not shown.
#[derive(Debug, Default)]
pub(super) struct Known {
    manifests: HashMap<SnapshotId, Arc<Manifest>>,
    /// Seals that were checked, by the hash of the seal object.
    seals: HashMap<ObjectHash, Seal>,
    catalogues: HashSet<ObjectHash>,
    rows: HashMap<SnapshotId, CatalogueRow>,
}

type Named = (DeviceId, u64, ObjectHash, ObjectName);

pub(super) fn refresh(repository: &Repository, known: &mut Known) -> Result<(Vec<Snapshot>, Vec<Finding>), RepositoryError> {
    let mut findings = Vec::new();
    let manifests = list(repository, ObjectKind::Manifest)?;
    if manifests.iter().any(|(_, _, hash, _)| !known.manifests.contains_key(&SnapshotId::from(*hash))) {
        read_catalogues(repository, known, &mut findings)?;
    }
    let seals = list(repository, ObjectKind::Seal)?;
    let mut present = Vec::new();
    for (device, sequence, hash, name) in manifests {
        let id = SnapshotId::from(hash);
        match read_manifest(repository, known, (device, sequence, id), &name) {
            Ok(manifest) => present.push((id, manifest)),
            Err(RepositoryError::Object { name, source }) => findings.push(damaged(&name, &source)),
            Err(error) => return Err(error),
        }
    }
    let ids: HashSet<_> = present.iter().map(|(id, _)| *id).collect();
    let mut sealed = HashSet::new();
    for (device, sequence, hash, name) in seals {
        match read_seal(repository, known, (device, sequence, hash), &name) {
            Ok(seal) if ids.contains(&seal.manifest) => drop(sealed.insert(seal.manifest)),
            Ok(seal) => findings.push(Finding::object(
                Severity::Error,
                name.as_str(),
                format!("it seals snapshot {}, which is missing", seal.manifest),
            )),
            Err(RepositoryError::Object { name, source }) => findings.push(damaged(&name, &source)),
            Err(error) => return Err(error),
        }
    }
    let snapshot = |(id, manifest)| Snapshot { id, manifest, sealed: sealed.contains(&id) };
    let mut snapshots: Vec<_> = present.into_iter().map(snapshot).collect();
    snapshots.sort_by_key(|snapshot| (snapshot.manifest.started, snapshot.id));
    Ok((snapshots, findings))
}

fn damaged(name: &ObjectName, error: &ObjectError) -> Finding {
    Finding::object(Severity::Error, name.as_str(), error.to_string())
}

fn list(repository: &Repository, kind: ObjectKind) -> Result<Vec<Named>, RepositoryError> {
    let listed = wait(kind.prefix(), repository.store.list(kind.prefix(), None))?;
    let named = |name: ObjectName| parse_sequence_name(kind, &name).map(|(device, sequence, hash)| (device, sequence, hash, name));
    Ok(listed.into_iter().filter_map(|meta| named(meta.name)).collect())
}

fn read_manifest(
    repository: &Repository,
    known: &mut Known,
    (device, sequence, id): (DeviceId, u64, SnapshotId),
    name: &ObjectName,
) -> Result<Arc<Manifest>, RepositoryError> {
    if let Some(manifest) = known.manifests.get(&id) {
        return Ok(Arc::clone(manifest));
    }
    let wrong = |source| RepositoryError::Object { name: name.clone(), source };
    let (manifest, header, signed) = match known.rows.remove(&id) {
        Some(row) => {
            let (header, _, _) = Header::expect(&row.header, ObjectKind::Manifest, repository.id()).map_err(wrong)?;
            (Manifest::decode(&row.signed.payload).map_err(wrong)?, header, row.signed)
        }
        None => {
            let object = get_small(&*repository.store, name)?;
            check_hash(&object, &id.into()).map_err(wrong)?;
            Manifest::decode_object(&object, &repository.ring).map_err(wrong)?
        }
    };
    repository.check_signature(name, &header, &signed)?;
    if (manifest.device, manifest.sequence) != (device, sequence) || signed.signer != device {
        return Err(wrong(ObjectError::Misplaced));
    }
    let manifest = Arc::new(manifest);
    known.manifests.insert(id, Arc::clone(&manifest));
    Ok(manifest)
}

fn read_seal(
    repository: &Repository,
    known: &mut Known,
    (device, sequence, hash): (DeviceId, u64, ObjectHash),
    name: &ObjectName,
) -> Result<Seal, RepositoryError> {
    if let Some(seal) = known.seals.get(&hash) {
        return Ok(seal.clone());
    }
    let wrong = |source| RepositoryError::Object { name: name.clone(), source };
    let object = get_small(&*repository.store, name)?;
    check_hash(&object, &hash).map_err(wrong)?;
    let (seal, header, signed) = Seal::decode_object(&object, repository.id(), |epoch| repository.ring.structure(epoch)).map_err(wrong)?;
    repository.check_signature(name, &header, &signed)?;
    if (seal.device, seal.sequence) != (device, sequence) {
        return Err(wrong(ObjectError::Misplaced));
    }
    known.seals.insert(hash, seal.clone());
    Ok(seal)
}

/// A damaged catalogue costs time only: the manifests are read one by one.
fn read_catalogues(repository: &Repository, known: &mut Known, findings: &mut Vec<Finding>) -> Result<(), RepositoryError> {
    let prefix = ObjectKind::Catalogue.prefix();
    for meta in wait(prefix, repository.store.list(prefix, None))? {
        let Some(hash) = meta.name.as_str().strip_prefix(prefix).and_then(|hash| hash.parse::<ObjectHash>().ok()) else { continue };
        if known.catalogues.contains(&hash) {
            continue;
        }
        let object = wait(meta.name.as_str(), repository.store.get(&meta.name))?;
        let read = check_hash(&object, &hash).and_then(|()| Catalogue::decode_object(&object, &repository.ring));
        let checked =
            read.map_err(|source| RepositoryError::Object { name: meta.name.clone(), source }).and_then(|(catalogue, header, signed)| {
                repository.check_signature(&meta.name, &header, &signed)?;
                Ok(catalogue)
            });
        match checked {
            Ok(catalogue) => known.rows.extend(catalogue.rows.into_iter().map(|row| (row.manifest, row))),
            Err(RepositoryError::Object { name, source }) => findings.push(damaged(&name, &source)),
            Err(error) => return Err(error),
        }
        known.catalogues.insert(hash);
    }
    Ok(())
}
