//! What the store lists of snapshots, and which catalogues are worth reading. Sizes and times are hints: they decide what is fetched first, never what counts.

use std::collections::HashSet;

use super::RepositoryError;
use crate::id::{DeviceId, ObjectHash, RunId};
use crate::object::{ObjectKind, parse_run_name, parse_sequence_name, sequence_name};
use crate::storage::{Listed, ListedNames, ObjectMeta, ObjectName, ReadStore, StoreError, list_all};
use crate::time::Timestamp;

/// Catalogues that are fetched at once. Those of a repository with a million snapshots are no more.
const CATALOGUES_AT_ONCE: usize = 8;
/// Manifests and seals beside the catalogues that are fetched before it is known that they are needed.
const LOOSE_AT_ONCE: usize = 64;
/// Bytes of a catalogue that are read as fast as a manifest and its seal by themselves: two requests, 64 KiB each on an ordinary line.
const CATALOGUE_BYTES_PER_MANIFEST: u64 = 128 << 10;

/// A manifest or a seal by what its name says, in that order. The name itself is made again when it is needed: there are many.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Named {
    pub(super) device: DeviceId,
    pub(super) sequence: u64,
    pub(super) hash: ObjectHash,
    kind: ObjectKind,
    modified: Option<Timestamp>,
}

impl Named {
    pub(super) fn name(&self) -> ObjectName {
        sequence_name(self.kind, &self.device, self.sequence, &self.hash)
    }
}

/// A catalogue by its name.
#[derive(Clone, Debug)]
pub(super) struct NamedCatalogue {
    pub(super) hash: ObjectHash,
    pub(super) name: ObjectName,
    pub(super) size: u64,
    pub(super) modified: Option<Timestamp>,
}

/// Tombstones by their name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct NamedTombstones {
    pub(super) run: RunId,
    pub(super) hash: ObjectHash,
    pub(super) name: ObjectName,
}

/// All names.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    pub(super) manifests: Vec<Named>,
    pub(super) seals: Vec<Named>,
    pub(super) catalogues: Vec<NamedCatalogue>,
    pub(super) tombstones: Vec<NamedTombstones>,
}

impl Listing {
    /// What is listed by name.
    pub(super) const NAMES: [&str; 3] = ["snap/", "seal/", "drop/"];
    /// What is listed with sizes and times.
    pub(super) const WHOLE: &str = "cat/";

    pub(super) fn read(store: &dyn ReadStore) -> Result<Self, RepositoryError> {
        let (mut whole, names) = list_all(store, [Self::WHOLE], Self::NAMES);
        Self::new(names, whole.pop())
    }

    /// From what [`list_all`] gives for [`Self::NAMES`] and [`Self::WHOLE`].
    pub(super) fn new(names: Vec<ListedNames>, catalogues: Option<Listed>) -> Result<Self, RepositoryError> {
        let mut names = names.into_iter();
        let mut next = |kind| {
            let named = |(name, modified): (ObjectName, _)| {
                let (device, sequence, hash) = parse_sequence_name(kind, &name)?;
                Some(Named { device, sequence, hash, kind, modified })
            };
            let listed = names.next().transpose()?.unwrap_or_default();
            let mut all: Vec<_> = listed.into_iter().filter_map(named).collect();
            all.sort_unstable();
            Ok::<_, StoreError>(all)
        };
        let (manifests, seals) = (next(ObjectKind::Manifest)?, next(ObjectKind::Seal)?);
        let tombstones = |(name, _): (ObjectName, _)| {
            let (run, hash) = parse_run_name(ObjectKind::Tombstones, &name)?;
            Some(NamedTombstones { run, hash, name })
        };
        let mut tombstones: Vec<_> = names.next().transpose()?.unwrap_or_default().into_iter().filter_map(tombstones).collect();
        tombstones.sort_unstable();
        let catalogue = |meta: ObjectMeta| {
            let hash = meta.name.as_str().strip_prefix(Self::WHOLE)?.parse().ok()?;
            Some(NamedCatalogue { hash, name: meta.name, size: meta.size, modified: meta.modified })
        };
        let catalogues = catalogues.transpose()?.unwrap_or_default();
        Ok(Self { manifests, seals, catalogues: catalogues.into_iter().filter_map(catalogue).collect(), tombstones })
    }

    /// The place of a manifest among those that are listed.
    pub(super) fn manifest_at(&self, device: DeviceId, sequence: u64, hash: ObjectHash) -> Option<usize> {
        self.manifests.binary_search_by_key(&(device, sequence, hash), |named| (named.device, named.sequence, named.hash)).ok()
    }

    /// The catalogues that most likely hold what `manifest_count` manifests are read for, without those that are known to be of no use.
    ///
    /// A catalogue that replaces others is newer and larger than they are. So those count that are larger than everything newer; should that be wrong,
    /// the others are looked at when these have been read.
    pub(super) fn best_catalogues(&self, manifest_count: usize, useless: &HashSet<ObjectHash>) -> Vec<&NamedCatalogue> {
        let worth = CATALOGUE_BYTES_PER_MANIFEST.saturating_mul(manifest_count as u64);
        let mut left: Vec<_> = self.catalogues.iter().filter(|catalogue| !useless.contains(&catalogue.hash)).collect();
        left.sort_by_key(|catalogue| std::cmp::Reverse((catalogue.modified, std::cmp::Reverse(catalogue.size))));
        let mut largest = 0;
        left.retain(|catalogue| {
            let is_larger = catalogue.size > largest;
            largest = largest.max(catalogue.size);
            is_larger
        });
        left.retain(|catalogue| catalogue.size <= worth);
        left.reverse();
        left.truncate(CATALOGUES_AT_ONCE);
        left
    }

    /// What somebody who knows nothing yet will want: the best catalogues, and what came after them. Names and sizes.
    pub(super) fn worth_fetching(&self) -> Vec<(ObjectName, u64)> {
        let newest = self.catalogues.iter().filter_map(|catalogue| catalogue.modified).max();
        let is_loose = |named: &&Named| self.catalogues.is_empty() || newest.is_some() && named.modified > newest;
        let loose: Vec<_> = self.manifests.iter().chain(&self.seals).filter(is_loose).take(LOOSE_AT_ONCE + 1).collect();
        let best = self.best_catalogues(self.manifests.len(), &HashSet::new());
        let mut wanted: Vec<_> = best.into_iter().map(|catalogue| (catalogue.name.clone(), catalogue.size)).collect();
        if loose.len() <= LOOSE_AT_ONCE {
            wanted.extend(loose.into_iter().map(|named| (named.name(), 0)));
        }
        wanted.extend(self.tombstones.iter().take(LOOSE_AT_ONCE).map(|named| (named.name.clone(), 0)));
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue(n: u8, size: u64, second: i64) -> NamedCatalogue {
        let hash = ObjectHash::from_bytes([n; 32]);
        let name = crate::object::hashed_name(ObjectKind::Catalogue, &hash);
        NamedCatalogue { hash, name, size, modified: Timestamp::new(second, 0) }
    }

    #[test]
    fn catalogues_larger_than_everything_newer_are_read_first() {
        let catalogues = vec![catalogue(1, 10, 1), catalogue(2, 100, 2), catalogue(3, 10, 3), catalogue(4, 20, 4), catalogue(5, 10, 5)];
        let listing = Listing { manifests: Vec::new(), seals: Vec::new(), catalogues, tombstones: Vec::new() };
        let best = |count, useless: &[u8]| {
            let useless = useless.iter().map(|n| ObjectHash::from_bytes([*n; 32])).collect();
            listing.best_catalogues(count, &useless).iter().map(|catalogue| catalogue.hash.as_bytes()[0]).collect::<Vec<_>>()
        };
        assert_eq!(best(1, &[]), [2, 4, 5]);
        assert_eq!(best(1, &[2, 4, 5]), [3], "of the others, if it is not named as replaced");
        assert_eq!(best(1, &[2, 3, 4, 5]), [1]);
        assert_eq!(best(0, &[]), [0; 0]);
    }
}
