//! Which snapshots are forgotten: tombstones, read once and checked, and what stands of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::catalogue::{damaged, fetch, refused};
use super::heads::Heads;
use super::known::Known;
use super::listing::{Listing, NamedTombstones};
use super::open::{Ahead, small};
use super::{Repository, RepositoryError};
use crate::id::{ObjectHash, SnapshotId};
use crate::key::Role;
use crate::object::{Header, ObjectError, Signed};
use crate::report::Finding;
use crate::snapshot::Snapshot;
use crate::snapshot::codec::check_hash;
use crate::snapshot::tombstone::{Tombstones, standing};
use crate::time::Timestamp;

/// Who may let go of snapshots, and what is wrong with what others sign.
pub(super) const FORGETTERS: (fn(Role) -> bool, &str) = (Role::may_forget, "nobody who may forget snapshots signed it");

/// What a repository lists.
#[derive(Clone, Debug, Default)]
pub struct Snapshots {
    /// Those that count, sealed or not, oldest first.
    pub live: Vec<Snapshot>,
    /// Those that are forgotten and not swept yet, oldest first.
    pub forgotten: Vec<Forgotten>,
    /// Those that this machine has seen before, that are not listed, and that nobody forgot. There is a finding that says so.
    pub missing: BTreeSet<SnapshotId>,
    /// The newest of each device, forgotten or not: numbers go on from there.
    pub heads: Heads,
    /// What is wrong with those that do not open, and with what does not count.
    pub findings: Vec<Finding>,
}

impl Snapshots {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Snapshot> {
        self.live.iter().chain(self.forgotten.iter().map(|forgotten| &forgotten.snapshot))
    }
}

/// A snapshot that is forgotten. All that it holds is there until a prune sweeps it.
#[derive(Clone, Debug)]
pub struct Forgotten {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// What says so, by the hash of the object. There is at least one.
    pub by: Vec<(ObjectHash, Arc<Tombstones>)>,
}

impl Forgotten {
    /// The newest that says so.
    pub fn newest(&self) -> Option<&Tombstones> {
        self.by.iter().map(|(_, tombstones)| &**tombstones).max_by_key(|tombstones| (tombstones.moment(), tombstones.run))
    }

    /// Since when, by the store's clock if it has one.
    pub fn since(&self) -> Option<Timestamp> {
        self.by.iter().map(|(_, tombstones)| tombstones.moment()).min()
    }
}

/// Takes the forgotten ones out of a list.
pub(super) fn part(known: &Known, snapshots: Vec<Snapshot>) -> (Vec<Snapshot>, Vec<Forgotten>) {
    let standing = standing(known.tombstones.iter().map(|(hash, tombstones)| (hash, &**tombstones)));
    if standing.is_empty() {
        return (snapshots, Vec::new());
    }
    let (mut live, mut forgotten) = (Vec::new(), Vec::new());
    for snapshot in snapshots {
        match by(&known.tombstones, &standing, &snapshot.id) {
            by if by.is_empty() => live.push(snapshot),
            by => forgotten.push(Forgotten { snapshot, by }),
        }
    }
    (live, forgotten)
}

fn by(
    tombstones: &BTreeMap<ObjectHash, Arc<Tombstones>>,
    standing: &HashMap<SnapshotId, Vec<ObjectHash>>,
    snapshot: &SnapshotId,
) -> Vec<(ObjectHash, Arc<Tombstones>)> {
    let of = |hash: &ObjectHash| Some((*hash, Arc::clone(tombstones.get(hash)?)));
    standing.get(snapshot).into_iter().flatten().filter_map(of).collect()
}

/// Reads the tombstones that are not known yet. One that does not open or that nobody signed who may is a finding and changes nothing.
pub(super) fn read_tombstones(
    repository: &Repository,
    known: &mut Known,
    listing: &Listing,
    ahead: &mut Ahead,
    findings: &mut Vec<Finding>,
) -> Result<(), RepositoryError> {
    known.forget_lost_tombstones(listing);
    let missing: Vec<_> = listing.tombstones.iter().filter(|named| !known.tombstones.contains_key(&named.hash)).collect();
    let objects = fetch(repository, ahead, missing.iter().map(|named| (&named.name, 0)));
    let mut opened = Vec::new();
    for (named, object) in missing.into_iter().zip(objects) {
        let object = match small(&named.name, object) {
            Err(error) if error.is_of_object() => {
                findings.push(damaged(&named.name, error));
                continue;
            }
            object => object?,
        };
        match open_tombstones(repository, named, &object) {
            Ok(tombstones) => opened.push((named, tombstones)),
            Err(error) => findings.push(damaged(&named.name, &error)),
        }
    }
    let certificates = repository.certificates_of(opened.iter().map(|(_, (_, _, signed))| signed.signer))?;
    for (named, (tombstones, header, signed)) in opened {
        match certificates.check(FORGETTERS, Some(&named.hash), &header, &signed) {
            Ok(()) => drop(known.tombstones.insert(named.hash, Arc::new(tombstones))),
            Err(error) => findings.push(refused(&named.name, &error)),
        }
    }
    Ok(())
}

/// Opens tombstones with all checks but that of who signed them.
fn open_tombstones(repository: &Repository, named: &NamedTombstones, object: &[u8]) -> Result<(Tombstones, Header, Signed), ObjectError> {
    check_hash(object, &named.hash)?;
    let opened = Tombstones::decode_object(object, repository.id(), |epoch| repository.ring().structure(epoch))?;
    if opened.0.run == named.run { Ok(opened) } else { Err(ObjectError::Misplaced) }
}
