//! What a run does, decided from the table, the marks and the clock. Pure.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::time::Duration;

use fs_core::id::{ObjectHash, PackId, SnapshotId};
use fs_core::repository::Marks;
use fs_core::snapshot::mark::{GRACE_LEAST, Mark};
use fs_core::storage::ObjectName;
use fs_core::time::Timestamp;

use super::table::{Copy, LIVE, PROTECTED, Pack, Table};
use super::walk::Walk;
use super::{PruneOptions, PruneReport};

/// A pack with less than this share of live bytes is packed anew, in per cent.
const LIVE_PERCENT_MIN: u64 = 50;
/// Requests that a pack costs: its trailer, and that it is deleted.
const REQUESTS_FOR_SWEPT: u64 = 2;
/// Its trailer, its records in a few parts, and its share of a new pack.
const REQUESTS_FOR_REPACKED: u64 = 4;

/// Numbers are those of packs in the table.
#[derive(Debug, Default)]
pub(super) struct Decision {
    /// When each pack may be swept that is condemned.
    pub(super) due: Vec<Option<Timestamp>>,
    /// When what this run condemns may be swept.
    asked: Timestamp,
    /// Packs to be swept, if a closer look finds nothing in them that is needed.
    pub(super) sweep: Vec<usize>,
    /// How many of those go at the most. What cannot go does not count: it must not be in the way of the others for ever.
    pub(super) delete_max: usize,
    /// Packs to be condemned: no live record depends on them.
    pub(super) condemn: Vec<usize>,
    /// Packs of which the live records move; then they are condemned too.
    pub(super) repack: Vec<usize>,
    /// Forgotten snapshots to be condemned, each with a tombstone that forgets it.
    pub(super) snapshots: Vec<(ObjectHash, SnapshotId)>,
    /// Marks of which nothing is left: no pack is listed, and no snapshot is forgotten as they say.
    pub(super) marks: Vec<ObjectName>,
}

impl Decision {
    pub(super) fn make(
        table: &Table,
        (marks, walk): (&Marks, &Walk<'_>),
        (now, options): (Timestamp, &PruneOptions),
        report: &mut PruneReport,
    ) -> Self {
        let asked = now.saturating_add(options.grace);
        let mut decision = Self { due: dues(table, marks), asked, ..Self::default() };
        let used = decision.used(table, report);
        if walk.unknown.is_empty() {
            decision.sweep(table, now, options, report);
        }
        decision.condemn(table, &used, (now, options), report);
        let is_new = |due: &Option<Timestamp>| due.is_none_or(|due| due > asked);
        let snapshots = walk.forgotten.iter().filter(|(_, _, due)| is_new(due));
        decision.snapshots = snapshots.map(|(hash, id, _)| (*hash, *id)).collect();
        // What is condemned stays condemned, also if it is live again: a sweep that is asleep may still act on the mark.
        let is_listed = |pack: &PackId| table.at(pack).is_some() || walk.listed_last.contains(pack);
        let is_done = |mark: &Mark| !mark.packs.iter().any(is_listed) && !mark.snapshots.iter().any(|row| walk.standing.contains(row));
        decision.marks = marks.standing.iter().filter(|standing| is_done(&standing.mark)).map(|standing| standing.name.clone()).collect();
        decision.count(table, (walk, now), report);
        decision
    }

    /// Bytes of each pack that live records depend on: of each record one copy is enough.
    fn used(&self, table: &Table, report: &mut PruneReport) -> Vec<u64> {
        let mut used = vec![0; table.packs().len()];
        for (_, copies) in table.needed(LIVE) {
            let Some(kept) = self.keeper(table, copies) else { continue };
            report.live.add(kept.stored_len.into());
            if let Some(used) = used.get_mut(kept.pack) {
                *used += u64::from(kept.stored_len);
            }
        }
        used
    }

    /// The copy of a record that stays: one that nobody has condemned, that readers find, and where references say, if there is a choice.
    pub(super) fn keeper(&self, table: &Table, copies: impl Iterator<Item = Copy>) -> Option<Copy> {
        let is_indexed = |copy: &Copy| table.packs().get(copy.pack).is_some_and(|pack| pack.is_indexed);
        copies.max_by_key(|copy| (!self.is_condemned(copy.pack), is_indexed(copy), copy.is_hinted, Reverse((copy.pack, copy.offset))))
    }

    /// Whether a copy may take the place of one that is deleted.
    pub(super) fn may_replace(&self, table: &Table, copy: &Copy) -> bool {
        let pack = table.packs().get(copy.pack);
        !self.is_condemned(copy.pack) && pack.is_some_and(|pack| pack.is_indexed && !pack.is_unknown)
    }

    /// Whether no mark condemns a pack as soon as this run would.
    pub(super) fn is_to_be_marked(&self, pack: usize) -> bool {
        self.due.get(pack).copied().flatten().is_none_or(|due| due > self.asked)
    }

    /// Whether a mark names a pack.
    pub(super) fn is_condemned(&self, pack: usize) -> bool {
        self.due.get(pack).copied().flatten().is_some()
    }

    /// What is due goes, the oldest first, if all that is needed of it has another copy; as much as one run may delete.
    fn sweep(&mut self, table: &Table, now: Timestamp, options: &PruneOptions, report: &mut PruneReport) {
        let is_due = |pack: usize| self.due.get(pack).copied().flatten().is_some_and(|due| due <= now);
        let mut needed = HashSet::new();
        for (_, copies) in table.needed(LIVE | PROTECTED) {
            if !copies.clone().any(|copy| self.may_replace(table, &copy)) {
                needed.extend(copies.map(|copy| copy.pack).filter(|pack| is_due(*pack)));
            }
        }
        let is_known = |at: &usize| table.packs().get(*at).is_some_and(|pack| !pack.is_unknown);
        let mut all: Vec<_> = (0..table.packs().len()).filter(|at| is_due(*at) && is_known(at) && !needed.contains(at)).collect();
        all.sort_by_key(|at| (self.due.get(*at).copied().flatten(), *at));
        let most = (table.packs().len() * usize::from(options.delete_percent)).div_ceil(100);
        for at in all.iter().skip(most) {
            report.left.add(size(table, *at));
        }
        (self.sweep, self.delete_max) = (all, most);
    }

    fn condemn(&mut self, table: &Table, used: &[u64], (now, options): (Timestamp, &PruneOptions), report: &mut PruneReport) {
        let mut mostly_dead = Vec::new();
        let named = named(table);
        for (at, (pack, used)) in table.packs().iter().zip(used).enumerate().filter(|(_, (pack, _))| !pack.is_unknown) {
            let (is_dead, is_condemned) = (*used == 0, self.is_condemned(at));
            if is_condemned && !is_dead {
                // Live again, and condemned for ever: whatever the limit, what is needed of it moves.
                self.repack.push(at);
                report.moved.bytes += used;
            } else if is_condemned {
                // By a mark that takes longer than this run was asked for.
                self.condemn.extend(self.is_to_be_marked(at).then_some(at));
            } else if is_younger(pack, now, if named.contains(&at) { GRACE_LEAST } else { options.age.max(GRACE_LEAST) }) {
                if is_dead {
                    report.young.add(pack.size);
                }
            } else if is_dead {
                self.condemn.push(at);
            } else if used * 100 < pack.record_bytes * LIVE_PERCENT_MIN {
                mostly_dead.push((at, *used));
            }
        }
        // What gives most room for what is moved goes first.
        mostly_dead.sort_by_key(|(at, used)| (used * 1000 / table.packs().get(*at).map_or(1, |pack| pack.record_bytes.max(1)), *at));
        let mut left = options.repack_bytes;
        for (at, used) in mostly_dead {
            if used > left {
                report.not_repacked.add(size(table, at));
                continue;
            }
            left -= used;
            self.repack.push(at);
            report.moved.bytes += used;
        }
        // In the order in which they came: what was saved together stays together.
        self.repack.sort_unstable();
    }

    fn count(&self, table: &Table, (walk, now): (&Walk<'_>, Timestamp), report: &mut PruneReport) {
        table.packs().iter().for_each(|pack| report.packs.add(pack.size));
        self.sweep.iter().take(self.delete_max).for_each(|at| report.swept.add(size(table, *at)));
        let moved = self.repack.iter().filter(|at| self.is_to_be_marked(**at));
        self.condemn.iter().chain(moved).for_each(|at| report.condemned.add(size(table, *at)));
        self.repack.iter().for_each(|at| report.repacked.add(size(table, *at)));
        let pending = (0..table.packs().len()).filter(|at| self.due.get(*at).copied().flatten().is_some_and(|due| due > now));
        pending.for_each(|at| report.pending.add(size(table, at)));
        report.snapshots_swept = walk.objects.len() as u64;
        report.snapshots_condemned = self.snapshots.len() as u64;
        report.marks_removed = self.marks.len() as u64;
        let is_new = report.condemned.count + report.snapshots_condemned > 0;
        let later = self.due.iter().flatten().chain(walk.forgotten.iter().filter_map(|(_, _, due)| due.as_ref()));
        let later = later.copied().filter(|due| *due > now).chain(is_new.then_some(self.asked));
        report.next_due = later.min();
        report.requests = REQUESTS_FOR_SWEPT * report.swept.count + REQUESTS_FOR_REPACKED * report.repacked.count;
        report.requests += walk.objects.values().map(|names| names.len() as u64).sum::<u64>() + report.marks_removed;
    }
}

/// When each pack may be swept: by the mark that is due first.
fn dues(table: &Table, marks: &Marks) -> Vec<Option<Timestamp>> {
    let mut dues: Vec<Option<Timestamp>> = vec![None; table.packs().len()];
    for standing in &marks.standing {
        for at in standing.mark.packs.iter().filter_map(|pack| table.at(pack)) {
            if let Some(due) = dues.get_mut(at) {
                *due = Some(due.map_or(standing.due, |due| due.min(standing.due)));
            }
        }
    }
    dues
}

/// Packs of which a snapshot has named something, forgotten or not.
fn named(table: &Table) -> HashSet<usize> {
    let needed = table.needed(LIVE | PROTECTED).flat_map(|(_, copies)| copies);
    needed.filter(|copy| copy.is_named).map(|copy| copy.pack).collect()
}

/// A backup that runs may be about to need what it put, and nothing says so yet.
fn is_younger(pack: &Pack, now: Timestamp, age: Duration) -> bool {
    pack.received.is_some_and(|received| received > now.saturating_sub(age))
}

fn size(table: &Table, at: usize) -> u64 {
    table.packs().get(at).map_or(0, |pack| pack.size)
}
