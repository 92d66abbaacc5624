//! The stable walk: everything that the snapshots need, found by reading all their trees, until the list of snapshots stands still meanwhile.
//!
//! Two needs are told apart. What a snapshot needs that nobody forgot is live. What a forgotten one needs is protected as long as it may be brought back:
//! until a mark that condemns it is due. A mark run looks at what is live, a sweep at both.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use fs_core::id::{DeviceId, ObjectHash, PackId, RecordId, SnapshotId};
use fs_core::observer::{Observer, Progress};
use fs_core::record::{RecordKind, Reference};
use fs_core::report::{Finding, Place, Severity};
use fs_core::repository::{Inventory, Marks, PART_MAX, ReadError, Repository, Urgency, Want};
use fs_core::snapshot::{Manifest, Snapshot};
use fs_core::storage::ObjectName;
use fs_core::time::Timestamp;
use fs_core::tree::{Content, Entry, Page};

use super::PruneError;
use super::table::{LIVE, PROTECTED, Table};
use crate::backup::window::Moment;
use crate::packer::list_packs;

/// How often the snapshots are listed before it is given up that they stand still.
const LISTS_MAX: usize = 50;
/// How often a manifest may be listed that is not there: another prune deletes it meanwhile. After that it is missing.
const GOING_MAX: usize = 3;
/// Pages and lists that are asked for before it is their turn, and trees whose roots are.
const AHEAD_MAX: usize = 128;
/// So many of them are read before more are asked for.
const AHEAD_STEP: usize = 32;
/// Pages between two looks at the progress.
const PAGES_TOLD: u64 = 64;

/// What is to become of each listed snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Fates {
    /// Nobody forgot them.
    pub(super) live: BTreeSet<SnapshotId>,
    /// Forgotten, and not due to be swept.
    pub(super) protected: BTreeSet<SnapshotId>,
    /// Forgotten, condemned, and due.
    pub(super) due: BTreeSet<SnapshotId>,
}

/// A walk and what it found, beside what it noted in the table.
pub(super) struct Walk<'a> {
    repository: &'a Arc<Repository>,
    observer: &'a dyn Observer,
    marks: Arc<Marks>,
    now: Timestamp,
    /// Snapshots whose manifest is missing, and that are given up for lost.
    missing_is_lost: bool,
    /// Forgotten snapshots before this are not walked: nothing is deleted by what is found, and packs so old need nobody who names them.
    unneeded: Option<Timestamp>,
    /// Those that were walked, with the greatest need.
    walked: HashMap<SnapshotId, u8>,
    /// Manifests that others name, and one that names each.
    named: HashMap<SnapshotId, SnapshotId>,
    /// Pages and lists that were descended into, with the greatest need. Not those that something merely names: a reference says nothing of what stands below it.
    descended: HashMap<(RecordId, Inner), u8>,
    /// What is asked for ahead and not read yet.
    asked: HashSet<RecordId>,
    /// Packs that came after the list, and what is needed of them, and by whom.
    late: HashMap<PackId, HashMap<RecordId, u8>>,
    /// Missing snapshots that nobody forgot, and that are given up.
    pub(super) lost: BTreeSet<SnapshotId>,
    /// Forgotten snapshots that cannot be walked: what they need is not known, so nothing is swept.
    pub(super) unknown: Vec<Finding>,
    /// What is wrong and keeps nothing from being deleted.
    pub(super) told: Vec<Finding>,
    /// Parts that are missing of the snapshot that is walked, if it has no seal.
    gaps: Option<u64>,
    progress: Progress,
    pub(super) fates: Fates,
    /// The objects of each snapshot that is due, in the order in which they may go; not those of the newest manifest of a device.
    pub(super) objects: BTreeMap<SnapshotId, Vec<ObjectName>>,
    /// Forgotten ones that are not due, with a tombstone that says so and when a mark is due that condemns them.
    pub(super) forgotten: Vec<(ObjectHash, SnapshotId, Option<Timestamp>)>,
    /// What tombstones say of the snapshots that are listed.
    pub(super) standing: HashSet<(ObjectHash, SnapshotId)>,
    /// The packs that are listed after the walk.
    pub(super) listed_last: HashSet<PackId>,
    /// When the list was seen last.
    pub(super) seen: Option<Moment>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Inner {
    Page,
    List,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        repository: &'a Arc<Repository>,
        (marks, now): (Arc<Marks>, Timestamp),
        (missing_is_lost, unneeded): (bool, Option<Timestamp>),
        observer: &'a dyn Observer,
    ) -> Self {
        let (walked, named, descended, late, unknown, objects, progress, fates) = Default::default();
        let (forgotten, standing, listed_last, seen, lost, asked, told, gaps) = Default::default();
        Self {
            repository,
            observer,
            marks,
            now,
            missing_is_lost,
            unneeded,
            walked,
            named,
            descended,
            asked,
            late,
            lost,
            unknown,
            told,
            gaps,
            progress,
            fates,
            objects,
            forgotten,
            standing,
            listed_last,
            seen,
        }
    }

    /// Walks everything until two lists in a row are the same. Whatever was needed by any list stays needed.
    pub(super) fn run(&mut self, table: &mut Table) -> Result<(), PruneError> {
        for count in 0..LISTS_MAX {
            let seen = Moment::now(self.repository, &**self.repository.store())?;
            let inventory = self.repository.inventory()?;
            if count < GOING_MAX && is_going(&inventory.snapshots.findings) {
                continue;
            }
            let fates = self.fates_of(&inventory)?;
            if self.seen.is_some() && fates == self.fates {
                self.seen = Some(seen);
                self.note(&inventory);
                return self.late_ones_are_there();
            }
            self.expect_no_fewer(&inventory)?;
            (self.fates, self.seen) = (fates, Some(seen));
            let snapshots: Vec<_> = inventory.snapshots.all().filter(|snapshot| self.need_of(&snapshot.id).is_some()).collect();
            for some in snapshots.chunks(AHEAD_MAX) {
                let root = |snapshot: &&Snapshot| {
                    let (manifest, need) = (snapshot.manifest().ok()?, self.need_of(&snapshot.id)?);
                    let page = manifest.root.subtree.as_ref()?.page.filter(|_| self.is_to_be_walked(need, &manifest));
                    page.map(|page| (Inner::Page, page))
                };
                let roots: Vec<_> = some.iter().filter_map(root).collect();
                self.ask_ahead(&roots, table);
                for snapshot in some {
                    self.snapshot(snapshot, table)?;
                }
            }
            self.expect_named(&inventory)?;
        }
        Err(PruneError::Unsteady)
    }

    /// Whether the snapshots are what they were when they were walked.
    pub(super) fn is_still(&mut self) -> Result<bool, PruneError> {
        let seen = Moment::now(self.repository, &**self.repository.store())?;
        let inventory = self.repository.inventory()?;
        if is_going(&inventory.snapshots.findings) {
            return Ok(false);
        }
        let fates = self.fates_of(&inventory)?;
        self.seen = Some(seen);
        // What this run counts on must not be condemned meanwhile. Those that are due may be gone already.
        let is_condemned_as_before = self.repository.marks()?.packs().is_subset(&self.marks.packs());
        Ok(is_condemned_as_before
            && fates.live == self.fates.live
            && fates.protected == self.fates.protected
            && fates.due.is_subset(&self.fates.due))
    }

    fn fates_of(&mut self, inventory: &Inventory) -> Result<Fates, PruneError> {
        expect_readable(&inventory.snapshots.findings)?;
        for id in &inventory.missing {
            self.is_missing(*id, || "its seal, or what this machine remembers".into())?;
        }
        let live = inventory.snapshots.live.iter().map(|snapshot| snapshot.id).collect();
        let mut fates = Fates { live, ..Fates::default() };
        for forgotten in &inventory.snapshots.forgotten {
            let is_due = self.marks.due(forgotten).is_some_and(|due| due <= self.now);
            let fate = if is_due { &mut fates.due } else { &mut fates.protected };
            fate.insert(forgotten.snapshot.id);
        }
        Ok(fates)
    }

    /// A list that lacks what the one before had is no list to delete by. Only what was due may go meanwhile: another prune takes it.
    fn expect_no_fewer(&self, inventory: &Inventory) -> Result<(), PruneError> {
        let listed: HashSet<_> = inventory.snapshots.all().map(|snapshot| snapshot.id).collect();
        let mut before = self.fates.live.iter().chain(&self.fates.protected);
        match before.find(|id| !listed.contains(id)) {
            Some(id) => Err(PruneError::Missing { snapshot: id.to_string(), by: "the list of a moment ago".into() }),
            None => Ok(()),
        }
    }

    /// What the manifests name of one another is listed, or somebody forgot it.
    fn expect_named(&mut self, inventory: &Inventory) -> Result<(), PruneError> {
        let listed: HashSet<_> = inventory.snapshots.all().map(|snapshot| snapshot.id).collect();
        let is_lost = |id: &SnapshotId| !listed.contains(id) && !inventory.forgotten.contains(id);
        let lost: Vec<_> = self.named.iter().filter(|(id, _)| is_lost(id)).map(|(id, by)| (*id, *by)).collect();
        lost.into_iter().try_for_each(|(id, by)| self.is_missing(id, || format!("snapshot {}", by.short())))
    }

    /// A snapshot that nobody forgot is not there: given up if that was asked for.
    fn is_missing(&mut self, id: SnapshotId, by: impl FnOnce() -> String) -> Result<(), PruneError> {
        if !self.missing_is_lost {
            return Err(PruneError::Missing { snapshot: id.to_string(), by: by() });
        }
        self.lost.insert(id);
        Ok(())
    }

    fn note(&mut self, inventory: &Inventory) {
        let mut newest: HashMap<DeviceId, u64> = HashMap::new();
        for snapshot in inventory.snapshots.all() {
            let sequence = newest.entry(snapshot.device()).or_default();
            *sequence = (*sequence).max(snapshot.sequence());
        }
        // The numbers of a device go on from its newest manifest: that stays, with nothing that it names.
        let stays = |snapshot: &Snapshot| newest.get(&snapshot.device()) == Some(&snapshot.sequence());
        for forgotten in &inventory.snapshots.forgotten {
            let snapshot = &forgotten.snapshot;
            self.standing.extend(forgotten.by.iter().map(|(hash, _)| (*hash, snapshot.id)));
            if self.fates.due.contains(&snapshot.id) && !self.walked.contains_key(&snapshot.id) {
                if !stays(snapshot) {
                    self.objects.insert(snapshot.id, inventory.objects.get(&snapshot.id).cloned().unwrap_or_default());
                }
            } else if let Some((hash, _)) = forgotten.by.first() {
                self.forgotten.push((*hash, snapshot.id, self.marks.due(forgotten)));
            }
        }
    }

    /// What a snapshot's tree is to be walked for; `None` if it was, or need not be.
    fn need_of(&self, id: &SnapshotId) -> Option<u8> {
        let need = match (self.fates.live.contains(id), self.fates.protected.contains(id)) {
            (true, _) => LIVE,
            (_, true) => PROTECTED,
            _ => return None,
        };
        let walked = self.walked.get(id).copied();
        (walked != Some(LIVE) && walked != Some(need)).then_some(need)
    }

    /// Whether it matters what a snapshot needs.
    fn is_to_be_walked(&self, need: u8, manifest: &Manifest) -> bool {
        let saved = manifest.committed();
        need != PROTECTED || self.unneeded.is_none_or(|before| saved >= before)
    }

    fn snapshot(&mut self, snapshot: &Snapshot, table: &mut Table) -> Result<(), PruneError> {
        let id = snapshot.id;
        let Some(need) = self.need_of(&id) else { return Ok(()) };
        let manifest = snapshot
            .manifest()
            .map_err(|error| PruneError::Unreadable { what: format!("snapshot {}", id.short()), source: Box::new(error.into()) })?;
        self.note_named(id, &manifest);
        if !self.is_to_be_walked(need, &manifest) {
            self.walked.insert(id, need);
            return Ok(());
        }
        self.gaps = (!snapshot.sealed).then_some(0);
        let walked = self.tree(id, &manifest, need, table);
        if let Some(count @ 1..) = self.gaps.take() {
            self.told.push(never_sealed(snapshot, count));
        }
        match walked {
            // Of use to nobody but whoever brings it back: it must not be in the way of marks, which it needs to be gone one day.
            Err(error @ (PruneError::Unreadable { .. } | PruneError::Lost { .. })) if need == PROTECTED => {
                let message = format!("snapshot {} is forgotten, and damaged: nothing is deleted before it is due: {error}", id.short());
                self.unknown.push(Finding { severity: Severity::Warning, place: Place::Operation, message });
            }
            result => result?,
        }
        self.walked.insert(id, need);
        Ok(())
    }

    fn note_named(&mut self, id: SnapshotId, manifest: &Manifest) {
        let heads = manifest.heads.iter().map(|head| head.manifest);
        self.named.extend(heads.chain(manifest.previous).chain(manifest.parent).map(|named| (named, id)));
    }

    fn tree(&mut self, id: SnapshotId, manifest: &Manifest, need: u8, table: &mut Table) -> Result<(), PruneError> {
        let mut open = Vec::new();
        let tables = manifest.link_table.iter().map(|(_, reference)| reference).chain(&manifest.findings).chain(&manifest.changes);
        for reference in tables {
            self.reach(reference, need, table)?;
        }
        self.entry(&manifest.root, need, table, &mut open)?;
        let unreadable = |source: ReadError| match source.is_damage() {
            true => PruneError::Unreadable { what: format!("the tree of snapshot {}", id.short()), source: Box::new(source) },
            false => PruneError::Read(source),
        };
        while let Some(next) = open.pop() {
            if self.observer.is_cancelled() {
                return Err(PruneError::Cancelled);
            }
            let was_asked = self.asked.remove(&next.1.id);
            if !was_asked || open.len().is_multiple_of(AHEAD_STEP) {
                self.ask_ahead(open.get(open.len().saturating_sub(AHEAD_MAX)..).unwrap_or_default(), table);
            }
            match next {
                (Inner::Page, reference) if self.descend(Inner::Page, &reference, need, table)? => {
                    self.tell();
                    let page = self.repository.page(&table.placed(&reference));
                    if self.is_gap(Inner::Page, &reference, page.as_ref().err()) {
                        continue;
                    }
                    match &*page.map_err(unreadable)? {
                        Page::Index(rows) => open.extend(rows.iter().rev().map(|row| (Inner::Page, row.reference))),
                        Page::Leaf(leaf) => {
                            for entry in leaf.entries() {
                                self.entry(entry, need, table, &mut open)?;
                            }
                        }
                    }
                }
                (Inner::List, reference) if self.descend(Inner::List, &reference, need, table)? => {
                    let list = self.repository.list(&table.placed(&reference));
                    if self.is_gap(Inner::List, &reference, list.as_ref().err()) {
                        continue;
                    }
                    let list = list.map_err(unreadable)?;
                    for row in &list.rows {
                        // Its own depth counts: what names it may lie.
                        if list.depth > 1 {
                            open.push((Inner::List, row.reference));
                        } else {
                            self.reach(&row.reference, need, table)?;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether it is only a snapshot without a seal in which something is missing: that is passed over. A sealed one that has it too is still stopped by it.
    fn is_gap(&mut self, kind: Inner, reference: &Reference, error: Option<&ReadError>) -> bool {
        let (Some(count), Some(true)) = (&mut self.gaps, error.map(ReadError::is_damage)) else { return false };
        *count += 1;
        self.descended.remove(&(reference.id, kind));
        true
    }

    fn entry(&mut self, entry: &Entry, need: u8, table: &mut Table, open: &mut Vec<(Inner, Reference)>) -> Result<(), PruneError> {
        self.progress.entry_count += 1;
        open.extend(entry.subtree.as_ref().and_then(|subtree| subtree.page).map(|page| (Inner::Page, page)));
        self.content(&entry.content, need, table, open)?;
        entry.side_contents().try_for_each(|content| self.content(content, need, table, open))
    }

    fn content(&mut self, content: &Content, need: u8, table: &mut Table, open: &mut Vec<(Inner, Reference)>) -> Result<(), PruneError> {
        if let Content::List { reference, .. } = content {
            open.push((Inner::List, *reference));
            return Ok(());
        }
        for reference in content.references() {
            self.reach(reference, need, table)?;
        }
        Ok(())
    }

    /// Asks for what comes next, the last of it first, so that a store far away is not waited for each time.
    fn ask_ahead(&mut self, next: &[(Inner, Reference)], table: &Table) {
        let is_new = |(inner, reference): &&(Inner, Reference)| !self.descended.contains_key(&(reference.id, *inner));
        let unread: Vec<_> = next.iter().rev().filter(is_new).copied().collect();
        let mut wants = Vec::new();
        for (inner, reference) in unread {
            if self.asked.insert(reference.id) {
                let kind = if inner == Inner::Page { RecordKind::Tree } else { RecordKind::List };
                wants.push((Want { kind, reference: table.placed(&reference) }, None));
            }
        }
        if !wants.is_empty() {
            self.repository.request(wants, Urgency::Ahead, PART_MAX);
        }
    }

    /// Notes that a page or list is needed. Whether what stands below it is not noted yet.
    fn descend(&mut self, kind: Inner, reference: &Reference, need: u8, table: &mut Table) -> Result<bool, PruneError> {
        self.reach(reference, need, table)?;
        let before = self.descended.entry((reference.id, kind)).or_default();
        if *before == LIVE || *before == need {
            return Ok(false);
        }
        *before = need;
        Ok(true)
    }

    /// Notes that a record is needed.
    fn reach(&mut self, reference: &Reference, need: u8, table: &mut Table) -> Result<(), PruneError> {
        match table.reach(reference, need) {
            true => Ok(()),
            // Whoever saves it looks at all packs once more before he seals it.
            false if self.gaps.is_some() => {
                self.gaps = self.gaps.map(|count| count + u64::from(table.at(&reference.pack).is_some()));
                Ok(())
            }
            // Nothing that came after the list is condemned or swept by this run.
            false if table.at(&reference.pack).is_none() => {
                *self.late.entry(reference.pack).or_default().entry(reference.id).or_default() |= need;
                Ok(())
            }
            false => Err(PruneError::Lost { record: reference.id.to_string(), pack: reference.pack }),
        }
    }

    /// A pack that came after the list is there now; otherwise it is lost, and with it something that a snapshot needs. Of what only forgotten ones need that is told.
    fn late_ones_are_there(&mut self) -> Result<(), PruneError> {
        self.listed_last = list_packs(self.repository)?.into_iter().map(|(id, _, _)| id).collect();
        for (pack, records) in self.late.iter().filter(|(pack, _)| !self.listed_last.contains(pack)) {
            if let Some((record, _)) = records.iter().find(|(_, need)| **need & LIVE != 0) {
                return Err(PruneError::Lost { record: record.to_string(), pack: *pack });
            }
            // By a clock that is ahead of this machine's it may be due, and swept but for the newest manifest of its device.
            let message = format!("pack {pack} is missing, and a forgotten snapshot needs it: nothing is deleted before that is due");
            self.unknown.push(Finding { severity: Severity::Warning, place: Place::Operation, message });
        }
        Ok(())
    }

    fn tell(&mut self) {
        self.progress.byte_count += 1;
        if self.progress.byte_count.is_multiple_of(PAGES_TOLD) {
            self.observer.progress(&Progress { byte_count: 0, ..self.progress });
        }
    }
}

/// A run put a manifest after what it relied on had been swept, and died before it could save that again.
fn never_sealed(snapshot: &Snapshot, count: u64) -> Finding {
    let id = snapshot.id.short();
    let message = format!(
        "snapshot {id} was never sealed, and {count} of its parts are missing: it is of no use, 'yesterdrive forget {id}' lets go of it"
    );
    Finding { severity: Severity::Note, place: Place::Operation, message }
}

/// Whether something was listed, and was not there when it was read.
fn is_going(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Note && matches!(finding.place, Place::Object(_)))
}

/// Nothing is deleted while a manifest or tombstones cannot be read: they might be what keeps it. What somebody signed who has no right to keeps nothing, and
/// nobody stops a prune with it.
fn expect_readable(findings: &[Finding]) -> Result<(), PruneError> {
    let is_needed = |name: &str| ["snap/", "drop/"].iter().any(|prefix| name.starts_with(prefix));
    let unreadable = findings.iter().find_map(|finding| match &finding.place {
        Place::Object(name) if is_needed(name) && finding.severity != Severity::Warning => Some((name.clone(), finding.message.clone())),
        _ => None,
    });
    match unreadable {
        Some((name, message)) => Err(PruneError::Damaged { name, message }),
        None => Ok(()),
    }
}
