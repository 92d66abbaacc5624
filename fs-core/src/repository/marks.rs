//! Which marks count: read once and checked.
//!
//! One that does not open, or that nobody signed who may forget, condemns nothing: neither for a backup, which nobody can stop by planting one, nor for a
//! sweep, which deletes nothing without a mark. What both see is the same, because the bytes under a name never change. So only what cannot be read, or
//! does not read twice alike, is an error.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use super::catalogue::damaged;
use super::forgotten::{FORGETTERS, Forgotten};
use super::open::small;
use super::{Repository, RepositoryError, lock};
use crate::id::{ObjectHash, PackId, RunId};
use crate::object::{ObjectError, ObjectKind, object_hash, parse_run_name};
use crate::report::{Finding, Severity};
use crate::snapshot::mark::Mark;
use crate::storage::{ObjectMeta, ObjectName, StoreError, get_all, wait};
use crate::time::Timestamp;

/// A mark that counts.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its name.
    pub name: ObjectName,
    /// What it says.
    pub mark: Arc<Mark>,
    /// When it may be swept.
    pub due: Timestamp,
}

/// All marks that the store lists.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    /// Those that count.
    pub standing: Vec<Standing>,
    /// What is wrong with the others.
    pub findings: Vec<Finding>,
}

impl Marks {
    /// All packs that are condemned, due or not: nothing new may rely on them.
    pub fn packs(&self) -> HashSet<PackId> {
        self.standing.iter().flat_map(|standing| &standing.mark.packs).copied().collect()
    }

    /// When a forgotten snapshot may be swept; `None` while nothing condemns it.
    pub fn due(&self, forgotten: &Forgotten) -> Option<Timestamp> {
        let names =
            |mark: &Mark| forgotten.by.iter().any(|(hash, _)| mark.snapshots.binary_search(&(*hash, forgotten.snapshot.id)).is_ok());
        self.standing.iter().filter(|standing| names(&standing.mark)).map(|standing| standing.due).min()
    }
}

impl Repository {
    /// All marks. Lists the store; those seen before are not read again.
    ///
    /// # Errors
    /// If the store cannot be listed or read, or if a mark does not read twice alike.
    pub fn marks(&self) -> Result<Marks, RepositoryError> {
        let prefix = ObjectKind::Mark.prefix();
        let named = |meta: ObjectMeta| Some((parse_run_name(ObjectKind::Mark, &meta.name)?, meta));
        let listed: Vec<_> = wait(prefix, self.store.list(prefix, None))?.into_iter().filter_map(named).collect();
        let is_known = |hash: &ObjectHash| lock(&self.catalogue).marks.contains_key(hash);
        let missing: Vec<_> = listed.iter().filter(|((_, hash), _)| !is_known(hash)).collect();
        let mut marks = Marks::default();
        let objects = get_all(&*self.store, missing.iter().map(|(_, meta)| (&meta.name, meta.size)));
        for ((place, meta), object) in missing.into_iter().zip(objects) {
            match self.sound(&meta.name, &place.1, object)? {
                Sound::Bytes(object) => match open(self, &meta.name, place, &object) {
                    Ok(mark) => drop(lock(&self.catalogue).marks.insert(place.1, Arc::new(mark))),
                    Err(RepositoryError::Object { source, .. }) => marks.findings.push(planted(&meta.name, &source)),
                    Err(error) => return Err(error),
                },
                Sound::Others => {
                    marks.findings.push(planted(&meta.name, &ObjectError::Broken("its bytes do not have the hash in its name")))
                }
                // Somebody swept what it named: it condemns nothing that is still there.
                Sound::Gone => {}
            }
        }
        let known = lock(&self.catalogue);
        let standing = |((_, hash), meta): ((RunId, ObjectHash), ObjectMeta)| {
            let mark = Arc::clone(known.marks.get(&hash)?);
            Some(Standing { due: mark.due(meta.modified), name: meta.name, mark })
        };
        marks.standing = listed.into_iter().filter_map(standing).collect();
        drop(known);
        Ok(marks)
    }

    /// What the store has under a name that ends in a hash.
    fn sound(&self, name: &ObjectName, hash: &ObjectHash, first: Result<Bytes, StoreError>) -> Result<Sound, RepositoryError> {
        let mut before = None;
        let mut object = small(name, first);
        loop {
            let bytes = match object {
                Ok(bytes) if object_hash(&bytes) == *hash => return Ok(Sound::Bytes(bytes)),
                Ok(bytes) => Some(bytes),
                Err(StoreError::NotFound { .. }) => return Ok(Sound::Gone),
                Err(StoreError::WrongSize { .. }) => None,
                Err(error) => return Err(error.into()),
            };
            match before {
                None => before = Some(bytes),
                Some(before) if before == bytes => return Ok(Sound::Others),
                Some(_) => {
                    let source = ObjectError::Broken("it reads differently each time");
                    return Err(RepositoryError::Object { name: name.clone(), source });
                }
            }
            object = small(name, wait(name.as_str(), self.store.get(name)));
        }
    }
}

/// What stands under a name.
enum Sound {
    /// Bytes that have the hash of their name.
    Bytes(Bytes),
    /// Surely others.
    Others,
    /// Nothing any more.
    Gone,
}

fn planted(name: &ObjectName, error: &ObjectError) -> Finding {
    Finding { severity: Severity::Warning, ..damaged(name, format!("{error}: it condemns nothing")) }
}

/// Opens a mark with all checks but that of its hash.
fn open(repository: &Repository, name: &ObjectName, (run, hash): &(RunId, ObjectHash), object: &[u8]) -> Result<Mark, RepositoryError> {
    let wrong = |source| RepositoryError::Object { name: name.clone(), source };
    let opened = Mark::decode_object(object, repository.id(), |epoch| repository.ring().structure(epoch));
    let (mark, header, signed) = opened.map_err(wrong)?;
    repository.certificates_of([signed.signer])?.check(FORGETTERS, Some(hash), &header, &signed).map_err(wrong)?;
    if mark.run == *run { Ok(mark) } else { Err(wrong(ObjectError::Misplaced)) }
}
