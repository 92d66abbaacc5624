//! What must be in the repository: plain maps, and no idea of how it is done.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use fs_core::id::{DeviceId, SnapshotId};
use fs_core::repository::Snapshots;
use fs_core::snapshot::mark::GRACE_LEAST;
use fs_core::storage::ObjectName;
use fs_core::time::Timestamp;

/// Files of a source by their path below it.
pub(super) type Files = BTreeMap<PathBuf, Arc<Vec<u8>>>;

/// Whether a snapshot is to be seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    Live,
    Forgotten,
    /// A run that changes it is under way, or has failed.
    Unsure,
}

/// A snapshot whose manifest somebody was about to put.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) files: Arc<Files>,
    pub(super) machine: usize,
    /// Device and number in its name.
    pub(super) place: (DeviceId, u64),
    /// Whether a run has said so, or a list.
    pub(super) is_sealed: bool,
    /// Whether somebody was about to seal it.
    pub(super) may_be_sealed: bool,
    pub(super) standing: Standing,
    /// Since when somebody may have forgotten it, by the store's clock.
    pub(super) forgotten_since: Option<Timestamp>,
    /// Runs under way that forget it or bring it back.
    under_way: u32,
    /// Such runs so far.
    touched: u64,
}

impl Known {
    /// Whether everybody must see it.
    pub(super) fn is_owed(&self) -> bool {
        self.is_sealed && self.standing == Standing::Live
    }

    /// Whether it comes later in the same series. Of two with one number each comes after the other: a device to which a store lied may give one twice.
    pub(super) fn is_after(&self, other: &Self) -> bool {
        self.place.0 == other.place.0 && self.place.1 >= other.place.1
    }

    /// Whether a prune may have deleted it.
    fn may_be_gone(&self, now: Timestamp) -> bool {
        self.standing != Standing::Live && self.forgotten_since.is_some_and(|since| now.since(since) >= GRACE_LEAST)
    }
}

#[derive(Default, Debug)]
pub(super) struct Model {
    pub(super) snapshots: BTreeMap<SnapshotId, Known>,
    /// Objects of which a store that breaks its contract holds a half under their names.
    pub(super) torn: BTreeSet<ObjectName>,
}

/// Snapshots that a run is about to forget or to bring back, with what had happened to each.
pub(super) type Touched = Vec<(SnapshotId, u64)>;

impl Model {
    /// A machine is about to put a manifest.
    pub(super) fn will_be(&mut self, (id, place): (SnapshotId, (DeviceId, u64)), machine: usize, files: &Arc<Files>) {
        let (is_sealed, may_be_sealed, standing, forgotten_since, under_way, touched) = (false, false, Standing::Live, None, 0, 0);
        let known =
            Known { files: Arc::clone(files), machine, place, is_sealed, may_be_sealed, standing, forgotten_since, under_way, touched };
        self.snapshots.entry(id).or_insert(known);
    }

    /// A machine is about to put a seal.
    pub(super) fn will_be_sealed(&mut self, place: (DeviceId, u64)) {
        self.snapshots.values_mut().filter(|known| known.place == place).for_each(|known| known.may_be_sealed = true);
    }

    /// A run begins that forgets snapshots or brings them back.
    pub(super) fn begin(&mut self, ids: impl IntoIterator<Item = SnapshotId>, forgotten_at: Option<Timestamp>) -> Touched {
        let mut touched = Vec::new();
        for id in ids {
            let Some(known) = self.snapshots.get_mut(&id) else { continue };
            known.standing = Standing::Unsure;
            known.under_way += 1;
            known.touched += 1;
            known.forgotten_since = known.forgotten_since.or(forgotten_at);
            touched.push((id, known.touched));
        }
        touched
    }

    /// It has ended. `becomes` is what is certain then, unless others were at work meanwhile.
    pub(super) fn end(&mut self, touched: &Touched, becomes: Option<Standing>) {
        for (id, before) in touched {
            let Some(known) = self.snapshots.get_mut(id) else { continue };
            known.under_way -= 1;
            if let Some(becomes) = becomes.filter(|_| known.touched == *before && known.under_way == 0) {
                known.settle(becomes);
            }
        }
    }

    /// Compares with what the repository lists, and learns what was not certain. What is wrong, if anything.
    pub(super) fn compare(&mut self, listed: &Snapshots, now: Timestamp) -> Result<(), String> {
        let live: BTreeMap<_, _> = listed.live.iter().map(|snapshot| (snapshot.id, snapshot.sealed)).collect();
        let forgotten: BTreeSet<_> = listed.forgotten.iter().map(|forgotten| forgotten.snapshot.id).collect();
        if let Some(id) = live.keys().chain(&forgotten).find(|id| !self.snapshots.contains_key(id)) {
            return Err(format!("nobody has put snapshot {}", id.short()));
        }
        for (id, known) in &mut self.snapshots {
            let seen = live.get(id);
            known.is_sealed |= seen == Some(&true);
            let wrong = |what: &str| Err(format!("snapshot {} of machine {} {what}: {known:?}", id.short(), known.machine));
            match (known.standing, seen) {
                (Standing::Live, Some(false)) if known.is_sealed => return wrong("has lost its seal"),
                (Standing::Live, None) if known.is_sealed => return wrong("is lost"),
                (Standing::Forgotten, Some(_)) => return wrong("was forgotten and is back"),
                (Standing::Forgotten | Standing::Unsure, None) if known.is_sealed && !forgotten.contains(id) && !known.may_be_gone(now) => {
                    return wrong("is gone before its time");
                }
                (Standing::Unsure, _) if known.under_way == 0 => {
                    known.settle(if seen.is_some() { Standing::Live } else { Standing::Forgotten });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Those that nobody has forgotten for certain.
    pub(super) fn not_forgotten(&self) -> BTreeSet<SnapshotId> {
        self.snapshots.iter().filter(|(_, known)| known.standing != Standing::Forgotten).map(|(id, _)| *id).collect()
    }

    /// Whether everybody must see it.
    pub(super) fn is_owed(&self, id: &SnapshotId) -> bool {
        self.snapshots.get(id).is_some_and(Known::is_owed)
    }

    /// Those that everybody must see.
    pub(super) fn owed(&self) -> Vec<SnapshotId> {
        self.snapshots.iter().filter(|(_, known)| known.is_owed()).map(|(id, _)| *id).collect()
    }
}

impl Known {
    fn settle(&mut self, standing: Standing) {
        self.standing = standing;
        if standing == Standing::Live {
            self.forgotten_since = None;
        }
    }
}
