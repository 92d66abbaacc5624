//! What a sweep has to know of the snapshots: all of them, the objects that they are made of, and which are missing from the list.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::catalogue;
use super::forgotten::Snapshots;
use super::listing::Named;
use super::{Repository, RepositoryError, lock};
use crate::id::SnapshotId;
use crate::index::{ENTRY_LENGTH, Shard};
use crate::report::Finding;
use crate::snapshot::tombstone::standing;
use crate::storage::{ObjectName, StoreError};

/// All snapshots, as whoever deletes has to see them.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// The snapshots.
    pub snapshots: Snapshots,
    /// The objects of each snapshot, in the order in which they may be deleted: seals, then the manifest.
    pub objects: HashMap<SnapshotId, Vec<ObjectName>>,
    /// Seals of snapshots that were forgotten and whose manifests are gone: they were swept by a run to which the store did not list the seal.
    pub left_seals: BTreeSet<ObjectName>,
    /// Snapshots that tombstones name, listed or not.
    pub forgotten: HashSet<SnapshotId>,
    /// Snapshots that were there and are not listed, though nobody forgot them: their seal is, or this machine has read them before.
    pub missing: BTreeSet<SnapshotId>,
}

impl Repository {
    /// Shows every sound shard of the index once, and keeps none of them: for those who have a table of their own. `expect` is told before how many entries
    /// there are at the most.
    ///
    /// # Errors
    /// If the store cannot be listed or read. Damaged shards are findings.
    pub fn visit_shards(&self, expect: impl FnOnce(u64), mut visit: impl FnMut(&Shard)) -> Result<Vec<Finding>, RepositoryError> {
        let listed = self.list_shards()?;
        expect(listed.iter().map(|shard| shard.size / ENTRY_LENGTH as u64).sum());
        let mut findings = Vec::new();
        self.read_shards(&listed, |_, shard| {
            match shard {
                Ok(shard) => visit(&shard),
                Err(RepositoryError::Object { name, source }) => findings.push(catalogue::damaged(&name, source)),
                // A merge replaced it days ago: what it said is in another one.
                Err(RepositoryError::Store(StoreError::NotFound { .. })) => {}
                Err(error) => return Err(error),
            }
            Ok(())
        })?;
        Ok(findings)
    }

    /// Lists all snapshots anew.
    ///
    /// # Errors
    /// If the store cannot be listed or read.
    pub fn inventory(&self) -> Result<Inventory, RepositoryError> {
        let mut known = lock(&self.catalogue);
        known.opening = None;
        let (snapshots, listing) = catalogue::refresh_all(self, &mut known)?;
        let mut objects: HashMap<SnapshotId, Vec<ObjectName>> = HashMap::new();
        let mut sealed = BTreeSet::new();
        for seal in &listing.seals {
            if let Some(id) = known.seals.get(&seal.hash) {
                objects.entry(*id).or_default().push(seal.name());
                sealed.insert(*id);
            }
        }
        let listed: HashSet<SnapshotId> = listing.manifests.iter().map(|named| named.hash.into()).collect();
        objects.retain(|id, _| listed.contains(id));
        for named in &listing.manifests {
            objects.entry(named.hash.into()).or_default().push(named.name());
        }
        let forgotten: HashSet<_> = standing(known.tombstones.iter().map(|(hash, said)| (hash, &**said))).into_keys().collect();
        let is_left = |id: &SnapshotId| !listed.contains(id) && forgotten.contains(id);
        let left = listing.seals.iter().filter(|seal| known.seals.get(&seal.hash).is_some_and(is_left));
        let left_seals = left.map(Named::name).collect();
        known.gone.retain(|id| !listed.contains(id) && !forgotten.contains(id));
        let is_missing = |id: &SnapshotId| !listed.contains(id) && !forgotten.contains(id);
        let missing = sealed.into_iter().filter(is_missing).chain(snapshots.missing.iter().copied()).collect();
        Ok(Inventory { snapshots, objects, left_seals, forgotten, missing })
    }
}
