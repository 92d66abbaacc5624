//! What was read and checked of the snapshots. Objects never change, so nothing here goes out of date; what the store no longer lists is only not shown.
//!
//! Of every manifest only what lists need is at hand; the rest stays compressed (`snapshot/kept.rs`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::listing::Listing;
use super::open::Ahead;
use crate::id::{ObjectHash, SnapshotId};
use crate::object::ObjectError;
use crate::snapshot::kept::{Block, Filling, Kept, Recent};
use crate::snapshot::mark::Mark;
use crate::snapshot::tombstone::{Tombstones, standing};
use crate::snapshot::{Manifest, Outline, Series};
use crate::time::Timestamp;

/// A manifest that was checked.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) outline: Outline,
    /// Whether it stands in a catalogue.
    pub(super) is_covered: bool,
}

/// What was read and checked before.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) manifests: BTreeMap<SnapshotId, Row>,
    /// What they have in common.
    pub(super) series: HashSet<Arc<Series>>,
    /// The blocks that they are kept in.
    pub(super) recent: Recent,
    /// Manifests that were read once, that nobody forgot, and that are not listed any more: the store has lost them.
    pub(super) gone: BTreeSet<SnapshotId>,
    /// Seals that were checked, by the hash of the seal object: what they seal.
    pub(super) seals: BTreeMap<ObjectHash, SnapshotId>,
    /// Tombstones that were checked, by the hash of their object.
    pub(super) tombstones: BTreeMap<ObjectHash, Arc<Tombstones>>,
    /// Marks that were checked, by the hash of their object.
    pub(super) marks: HashMap<ObjectHash, Arc<Mark>>,
    /// Catalogues that need not be read again: they were, or are useless.
    pub(super) done: HashSet<ObjectHash>,
    /// Those of them that are useless: damaged, or others replace them.
    pub(super) useless: HashSet<ObjectHash>,
    /// What opening the repository has listed and fetched already.
    pub(super) opening: Option<(Listing, Ahead)>,
}

/// A manifest that was checked just now.
pub(super) struct Checked {
    series: Series,
    sequence: u64,
    started: Timestamp,
    payload: Vec<u8>,
}

impl Checked {
    /// `payload` is what was signed.
    pub(super) fn new(manifest: &Manifest, payload: Vec<u8>) -> Self {
        Self { series: Series::of(manifest), sequence: manifest.sequence, started: manifest.started, payload }
    }
}

impl Known {
    /// Takes over a manifest that was checked.
    pub(super) fn insert(&mut self, id: SnapshotId, checked: Checked) {
        let Checked { series, sequence, started, payload } = checked;
        let (series, kept) = (self.share(series), Kept::alone(&payload, &self.recent));
        self.manifests.insert(id, Row { outline: Outline { series, sequence, started, kept }, is_covered: false });
    }

    /// The one copy of what many have in common.
    pub(super) fn share(&mut self, series: Series) -> Arc<Series> {
        if let Some(known) = self.series.get(&series) {
            return Arc::clone(known);
        }
        let series = Arc::new(series);
        self.series.insert(Arc::clone(&series));
        series
    }

    /// Notes that manifests stand in a catalogue.
    pub(super) fn cover(&mut self, ids: impl IntoIterator<Item = SnapshotId>) {
        for id in ids {
            if let Some(row) = self.manifests.get_mut(&id) {
                row.is_covered = true;
            }
        }
    }

    /// Manifests that stand in no catalogue.
    pub(super) fn loose_count(&self) -> usize {
        self.manifests.values().filter(|row| !row.is_covered).count()
    }

    /// What the store has no more is not kept by us, but for its name.
    pub(super) fn forget_lost_manifests(&mut self, listing: &Listing) {
        if self.manifests.len() > listing.manifests.len() {
            let listed: HashSet<_> = listing.manifests.iter().map(|named| SnapshotId::from(named.hash)).collect();
            let forgotten = standing(self.tombstones.iter().map(|(hash, said)| (hash, &**said)));
            let gone = self.manifests.keys().filter(|id| !listed.contains(id) && !forgotten.contains_key(id)).copied();
            self.gone.extend(gone);
            self.manifests.retain(|id, _| listed.contains(id));
            // A seal that a sweep has left over tells what it sealed: without that it would look like all that is left of a lost snapshot.
            let seals: HashSet<_> = listing.seals.iter().map(|named| named.hash).collect();
            self.seals.retain(|hash, id| listed.contains(id) || seals.contains(hash));
            self.series.retain(|series| Arc::strong_count(series) > 1);
        }
    }

    /// Tombstones that the store has no more do not count, unless all they do is bring back: nobody deletes tombstones, so the store has lost them, and
    /// what was brought back must not go for that.
    pub(super) fn forget_lost_tombstones(&mut self, listing: &Listing) {
        let listed: HashSet<_> = listing.tombstones.iter().map(|named| (named.run, named.hash)).collect();
        let only_undoes = |known: &Tombstones| known.forgotten.is_empty() && !known.undone.is_empty();
        self.tombstones.retain(|hash, known| listed.contains(&(known.run, *hash)) || only_undoes(known));
    }

    /// If a catalogue that was read is gone, nobody knows which manifests stand in one.
    pub(super) fn forget_lost_catalogues(&mut self, listing: &Listing) {
        let listed: HashSet<_> = listing.catalogues.iter().map(|named| named.hash).collect();
        if self.done.iter().any(|hash| !self.useless.contains(hash) && !listed.contains(hash)) {
            self.manifests.values_mut().for_each(|row| row.is_covered = false);
            self.done.clear();
            self.useless.clear();
        }
    }

    /// Puts manifests together that came one by one, or stand in blocks of which little is left: neighbours of one device, which are most alike.
    ///
    /// # Errors
    /// [`ObjectError`] if one of the blocks is of no use; what was kept is then as it was.
    pub(super) fn pack(&mut self) -> Result<(), ObjectError> {
        let mut used: HashMap<*const Block, usize> = HashMap::new();
        for row in self.manifests.values() {
            *used.entry(Arc::as_ptr(row.outline.kept.block())).or_default() += 1;
        }
        let used = |row: &Row| used.get(&Arc::as_ptr(row.outline.kept.block())).copied().unwrap_or(0);
        let is_loose = |row: &&Row| row.outline.kept.block().is_loose(used(row));
        let mut loose: Vec<_> = self.manifests.iter().filter(|(_, row)| is_loose(row)).collect();
        // One block that is not full yet is as it should be.
        let is_one = loose.iter().all(|(_, row)| used(row) == loose.len() && !row.outline.kept.block().has_unused(loose.len()));
        if is_one {
            return Ok(());
        }
        loose.sort_by_key(|(_, row)| (row.outline.series.device, row.outline.sequence, row.outline.kept.at()));
        let (mut filling, mut packed) = (Filling::new(&self.recent), Vec::with_capacity(loose.len()));
        for (id, row) in loose {
            row.outline.kept.read(|payload| {
                packed.extend(filling.add(*id, payload));
                Ok(())
            })?;
        }
        packed.extend(filling.close());
        for (id, kept) in packed {
            if let Some(row) = self.manifests.get_mut(&id) {
                row.outline.kept = kept;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::DeviceId;
    use crate::snapshot::codec::tests::manifest;

    fn id(n: u64) -> SnapshotId {
        SnapshotId::from_bytes(crate::crypto::hash(&n.to_le_bytes()))
    }

    fn insert(known: &mut Known, numbers: std::ops::Range<u64>) {
        for n in numbers {
            let manifest = manifest(DeviceId::from_bytes([1; 16]), n);
            known.insert(id(n), Checked::new(&manifest, manifest.encode()));
        }
    }

    fn blocks(known: &Known) -> usize {
        known.manifests.values().map(|row| Arc::as_ptr(row.outline.kept.block())).collect::<HashSet<_>>().len()
    }

    /// One by one, as a drive sees them come, or many at once: few blocks, nothing lost, and what was forgotten takes no room.
    #[test]
    fn manifests_that_come_and_go_stay_together() {
        let mut known = Known::default();
        insert(&mut known, 1..301);
        known.pack().unwrap();
        let at_once = blocks(&known);
        let mut one_by_one = Known::default();
        for n in 1..301 {
            insert(&mut one_by_one, n..n + 1);
            one_by_one.pack().unwrap();
        }
        assert!(at_once < 20 && blocks(&one_by_one) <= 2 * at_once, "{at_once} and {} blocks", blocks(&one_by_one));
        for known in [&mut known, &mut one_by_one] {
            known.manifests = std::mem::take(&mut known.manifests).into_iter().filter(|(_, row)| row.outline.sequence % 10 == 0).collect();
            known.pack().unwrap();
            assert!(known.manifests.len() == 30 && blocks(known) <= 3, "{} blocks for a tenth", blocks(known));
            for n in (10..301).step_by(10) {
                let read = known.manifests[&id(n)].outline.kept.read(Manifest::decode).unwrap();
                assert_eq!(read, manifest(DeviceId::from_bytes([1; 16]), n));
            }
            assert_eq!(known.series.len(), 2, "the first one says nothing of attributes");
        }
    }
}
