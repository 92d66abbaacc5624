//! Pruning over a store in memory with a clock of its own: what is condemned, swept, packed anew, and what others do meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backup_writer::backup::{BackupReport, backup};
use backup_writer::check::{ReadData, check};
use backup_writer::create::put_hashed;
use backup_writer::forget::{ForgetError, authorise, forget, undo};
use backup_writer::prune::{Plan, PruneError, PruneOptions, PruneReport};
use backup_writer::restore::{RestoreOptions, restore};
use backup_writer::what::What;
use bytes::Bytes;
use fs_core::config::Certificate;
use fs_core::crypto::{self, Key};
use fs_core::id::{DeviceId, PackId, RunId, SnapshotId};
use fs_core::index::{Shard, ShardPack};
use fs_core::key::Role;
use fs_core::object::{self, Header, ObjectKind, Signer};
use fs_core::observer::Silent;
use fs_core::pack::PackBuilder;
use fs_core::path::TreePath;
use fs_core::repository::Repository;
use fs_core::snapshot::mark::{GRACE_LEAST, Mark};
use fs_core::storage::memory::MemoryStore;
use fs_core::storage::{ObjectName, WriteStore};
use fs_core::testing::ManualClock;
use fs_core::time::Clock as _;
use tests::hooked::HookedStore;
use tests::{Bench, later_than_any_file, look, noise, options};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// What a snapshot shows.
pub(crate) type Shown = BTreeMap<PathBuf, Vec<u8>>;

/// A repository with small packs, whose store has a clock that the test moves, and what each of its snapshots holds.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) source: Arc<tempfile::TempDir>,
    pub(crate) state: Arc<tempfile::TempDir>,
    pub(crate) memory: MemoryStore,
    pub(crate) bench: Bench,
    pub(crate) saved: BTreeMap<SnapshotId, Shown>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let clock = ManualClock::at(later_than_any_file());
        let memory = MemoryStore::with_clock(clock.clone());
        let bench = Bench { clock, ..Bench::new(Arc::new(memory.clone())).unwrap() }.with_small_packs().unwrap();
        let (source, state) = (Arc::new(tempfile::tempdir().unwrap()), Arc::new(tempfile::tempdir().unwrap()));
        Self { source, state, memory, bench, saved: BTreeMap::new() }
    }

    /// A day each: one file stays, one is new every day, one changes.
    pub(crate) fn with_days(days: u64) -> Self {
        let mut place = Self::new();
        place.write("stays", &noise(1000, 300_000));
        for day in 0..days {
            place.write("changes", &noise(day, 200_000));
            place.write(&format!("small {day}"), &noise(day + 500, 900));
            place.bench.clock.advance(DAY);
            place.backup();
        }
        // So that nothing is too young to be looked at.
        place.bench.clock.advance(GRACE_LEAST + HOUR);
        place
    }

    /// The same objects and clock, apart from here on.
    pub(crate) fn fork(&self) -> Self {
        let clock = ManualClock::at(self.bench.clock.now());
        let memory = MemoryStore::with_clock(clock.clone());
        for (name, bytes) in self.memory.contents() {
            memory.overwrite(&name, Some(bytes));
        }
        Self { bench: Bench { clock, store: Arc::new(memory.clone()), ..self.bench.clone() }, memory, ..self.clone() }
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.source.path().join(name), bytes).unwrap();
    }

    pub(crate) fn over(&self, store: Arc<dyn WriteStore>) -> Self {
        Self { bench: Bench { store, ..self.bench.clone() }, ..self.clone() }
    }

    pub(crate) fn shown(&self) -> Shown {
        look(self.source.path()).unwrap().into_iter().map(|(path, seen)| (path, seen.bytes)).collect()
    }

    pub(crate) fn try_backup(&self) -> anyhow::Result<BackupReport> {
        Ok(backup(&self.bench.open()?, &self.bench.store, &options(self.source.path(), Some(self.state.path())), &Silent)?)
    }

    pub(crate) fn backup(&mut self) -> SnapshotId {
        let id = self.try_backup().unwrap().snapshot;
        self.saved.insert(id, self.shown());
        id
    }

    pub(crate) fn signer(&self, repository: &Repository) -> Signer {
        authorise(repository, &*self.bench.store, Some(self.state.path()), "host").unwrap()
    }

    pub(crate) fn ids(&self) -> Vec<SnapshotId> {
        self.bench.open().unwrap().snapshots().unwrap().iter().map(|snapshot| snapshot.id).collect()
    }

    pub(crate) fn forget(&self, ids: &[SnapshotId]) {
        let repository = self.bench.open().unwrap();
        forget(&repository, &*self.bench.store, &self.signer(&repository), &ids.iter().copied().collect(), "test").unwrap();
    }

    pub(crate) fn undo(&self, ids: &[SnapshotId]) -> Result<RunId, ForgetError> {
        let repository = self.bench.open().unwrap();
        let listed = repository.all_snapshots().unwrap();
        let back: Vec<_> = listed.forgotten.iter().filter(|forgotten| ids.contains(&forgotten.snapshot.id)).collect();
        assert_eq!(back.len(), ids.len(), "they are forgotten");
        undo(&repository, &*self.bench.store, &self.signer(&repository), back)
    }

    pub(crate) fn try_prune(&self, options: &PruneOptions) -> Result<PruneReport, PruneError> {
        let repository = self.bench.open().unwrap();
        let signer = self.signer(&repository);
        Plan::make(&repository, options, &Silent)?.execute(&*self.bench.store, &signer)
    }

    pub(crate) fn prune(&self) -> PruneReport {
        self.try_prune(&PruneOptions { delete_percent: 100, ..PruneOptions::default() }).unwrap()
    }

    pub(crate) fn named(&self, prefix: &str) -> Vec<(ObjectName, Bytes)> {
        self.memory.contents().into_iter().filter(|(name, _)| name.as_str().starts_with(prefix)).collect()
    }

    pub(crate) fn count(&self, prefix: &str) -> usize {
        self.named(prefix).len()
    }

    fn packs(&self) -> BTreeSet<ObjectName> {
        self.named("pack/").into_iter().chain(self.named("meta/")).map(|(name, _)| name).collect()
    }

    /// Everything that nobody forgot reads whole, and nothing is wrong.
    pub(crate) fn expect_whole(&self, when: &str) {
        let repository = self.bench.open().unwrap();
        self.expect_readable(&repository, when);
        let findings = check(&repository, ReadData::All, &Silent).unwrap().findings;
        assert!(!fs_core::report::is_incomplete(&findings), "{when}: {findings:?}");
    }

    /// Everything that nobody forgot reads whole.
    pub(crate) fn expect_readable(&self, repository: &Arc<Repository>, when: &str) {
        let listed = repository.all_snapshots().unwrap();
        for snapshot in listed.live.iter().filter(|snapshot| snapshot.sealed) {
            let Some(saved) = self.saved.get(&snapshot.id) else { continue };
            let target = tempfile::tempdir().unwrap();
            let path = TreePath::parse(self.source.path().as_os_str().as_encoded_bytes()).unwrap();
            let what = [What { snapshot: snapshot.clone(), path }];
            let report = restore(repository, &what, target.path(), &RestoreOptions::default(), &Silent).unwrap();
            assert!(report.findings.is_empty(), "{when}: {:?}", report.findings);
            let read: Shown = look(target.path()).unwrap().into_iter().map(|(path, seen)| (path, seen.bytes)).collect();
            assert!(read == *saved, "{when}: snapshot {} reads as it was saved", snapshot.id);
        }
    }

    /// A mark as it is told, signed by this device.
    fn put_mark(&self, mark: &Mark, signer: &Signer) {
        let repository = self.bench.open().unwrap();
        let object = mark.encode_object(repository.ring(), signer, &*self.bench.random);
        put_hashed(&*self.bench.store, object, |hash| object::run_name(ObjectKind::Mark, &mark.run, hash)).unwrap();
    }

    /// A device of its own with a certificate of some role.
    pub(crate) fn enrolled(&self, n: u8, role: Role) -> Signer {
        let repository = self.bench.open().unwrap();
        let signer = Signer { device: DeviceId::from_bytes([n; 16]), seed: Key::from_bytes([n; 32]) };
        let (ring, public) = (repository.ring(), crypto::signing_public(&signer.seed));
        let certificate = Certificate {
            device: signer.device,
            public,
            role,
            created: repository.clock().now(),
            label: "x".into(),
            trusts_others: false,
            revoked: None,
        };
        let header = Header::new(ObjectKind::Device, ring.epoch(), ring.repository, &*self.bench.random);
        let object = certificate.encode_object(&header, &ring.current().structure, &ring.root_signer().unwrap());
        put_hashed(&*self.bench.store, object, |hash| object::device_name(&signer.device, hash)).unwrap();
        signer
    }

    /// All packs, condemned by this device from now on.
    fn mark_of_all(&self, signer: &Signer) -> Mark {
        let ids = self.packs().into_iter().map(|name| name.as_str().rsplit('/').next().unwrap().parse::<PackId>().unwrap());
        let (run, device, time) = (RunId::from_bytes([9; 16]), signer.device, self.bench.clock.now());
        let packs: BTreeSet<_> = ids.collect();
        Mark { run, device, time, server_time: Some(time), grace: GRACE_LEAST, packs: packs.into_iter().collect(), snapshots: Vec::new() }
    }
}

#[test]
fn what_is_forgotten_is_condemned_then_swept_and_everything_else_stays() {
    let mut place = Place::with_days(6);
    let ids = place.ids();
    let bytes = |place: &Place| place.memory.contents().iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    assert_eq!(place.prune(), place.prune(), "nothing to do, and the second time too");
    assert_eq!(place.count("mark/"), 0);
    place.forget(&ids[..4]);
    let (before, packs) = (bytes(&place), place.packs());

    let marked = place.prune();
    assert_eq!((marked.snapshots_condemned, marked.snapshots_swept, marked.swept.count), (4, 0, 0));
    assert!(marked.condemned.count >= 4 && marked.condemned.bytes > 600_000 && marked.repacked.count > 0, "{marked:?}");
    assert_eq!(marked.next_due, Some(place.bench.clock.now().saturating_add(7 * DAY)));
    assert!(packs.is_subset(&place.packs()) && place.count("mark/") == 2 && place.count("snap/") == 6, "nothing is deleted");
    place.expect_whole("marked");

    place.bench.clock.advance(6 * DAY);
    place.write("changes", &noise(77, 200_000));
    place.backup();
    let early = place.prune();
    assert_eq!((early.swept.count, early.snapshots_swept, early.condemned.count, early.pending.count), (0, 0, 0, marked.condemned.count));

    place.bench.clock.advance(DAY + HOUR);
    let swept = place.prune();
    assert_eq!((swept.swept.count, swept.snapshots_swept, swept.deferred), (marked.condemned.count, 4, 0), "{swept:?}");
    assert_eq!((place.count("snap/"), place.count("seal/")), (3, 3));
    assert!(bytes(&place) + 600_000 < before + 300_000, "{} bytes of {before}", bytes(&place));
    place.expect_whole("swept");
    let after = place.prune();
    assert_eq!((after.marks_removed, place.count("mark/")), (2, 0));
    place.expect_whole("unmarked");
    assert_eq!(place.ids().len(), 3);
    place.write("changes", &noise(0, 200_000));
    let again = place.backup();
    assert_eq!(place.bench.open().unwrap().snapshots().unwrap().iter().find(|s| s.id == again).unwrap().sequence(), 8);
    place.expect_whole("what was swept is saved again");
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let place = Place::with_days(4);
    place.forget(&place.ids()[..3]);
    let before = place.memory.contents();
    let planned = |place: &Place| Plan::make(&place.bench.open().unwrap(), &PruneOptions::default(), &Silent).unwrap().report().clone();
    let plan = planned(&place);
    assert!(plan.condemned.count >= 3 && plan.next_due.is_some() && plan.requests > 0, "{plan:?}");
    assert_eq!(place.memory.contents(), before);
    let done = place.prune();
    let same = |report: &PruneReport| {
        (report.packs, report.live, report.condemned, report.repacked, report.moved.bytes, report.snapshots_condemned)
    };
    assert_eq!(same(&plan), same(&done));
    place.bench.clock.advance(8 * DAY);
    let plan = Plan::make(&place.bench.open().unwrap(), &PruneOptions { delete_percent: 100, ..PruneOptions::default() }, &Silent)
        .unwrap()
        .report()
        .clone();
    let done = place.prune();
    assert_eq!((plan.swept, plan.snapshots_swept, plan.left.count), (done.swept, done.snapshots_swept, 0));
}

#[test]
fn a_run_deletes_a_fifth_at_most_and_the_next_ones_the_rest() {
    let place = Place::with_days(12);
    place.forget(&place.ids()[..11]);
    place.prune();
    place.bench.clock.advance(8 * DAY);
    let all = place.packs().len();
    let first = place.try_prune(&PruneOptions::default()).unwrap();
    assert_eq!(first.swept.count, all.div_ceil(5) as u64);
    assert!(first.left.count > 0, "{first:?}");
    place.expect_whole("a fifth is gone");
    let mut left = first.left.count;
    while left > 0 {
        let next = place.try_prune(&PruneOptions::default()).unwrap();
        assert!(next.swept.count > 0 && next.left.count < left, "{next:?}");
        left = next.left.count;
        place.expect_whole("more is gone");
    }
    place.prune();
    assert_eq!(place.count("mark/"), 0);
}

#[test]
fn what_is_forgotten_comes_back_whole_until_it_is_nearly_due_and_not_later() {
    let place = Place::with_days(5);
    let ids = place.ids();
    place.forget(&ids[..3]);
    place.prune();
    // Until half a day before.
    place.bench.clock.advance(6 * DAY + 11 * HOUR);
    place.undo(&ids[..1]).unwrap();
    place.bench.clock.advance(2 * HOUR);
    assert!(matches!(place.undo(&ids[1..2]), Err(ForgetError::TooLate { .. })));
    assert_eq!(place.ids().len(), 3);
    place.bench.clock.advance(DAY);
    let swept = place.prune();
    assert!(swept.snapshots_swept == 2 && swept.swept.count > 0, "{swept:?}");
    place.expect_whole("one is back");
    assert_eq!(place.ids(), [ids[0], ids[3], ids[4]]);
    // Forgotten again: its grace begins anew, whatever the old mark says.
    place.forget(&ids[..1]);
    let again = place.prune();
    assert_eq!((again.snapshots_swept, again.snapshots_condemned), (0, 1), "{again:?}");
    place.bench.clock.advance(6 * DAY);
    place.prune();
    place.undo(&ids[..1]).unwrap();
    place.expect_whole("it is back again");
    place.bench.clock.advance(30 * DAY);
    assert_eq!(place.prune().snapshots_swept, 0);
    place.expect_whole("and stays");
}

/// A pack that an old mark names must not go while a snapshot that was forgotten later can be brought back.
#[test]
fn an_old_mark_does_not_cut_short_the_grace_of_a_later_forgetting() {
    let place = Place::with_days(4);
    let ids = place.ids();
    place.forget(&ids[..1]);
    assert!(place.prune().condemned.count > 0);
    place.undo(&ids[..1]).unwrap();
    place.bench.clock.advance(7 * DAY);
    place.forget(&ids[..1]);
    let swept = place.prune();
    assert_eq!((swept.swept.count, swept.snapshots_swept), (0, 0), "{swept:?}");
    place.undo(&ids[..1]).unwrap();
    place.expect_whole("brought back at once");
}

#[test]
fn the_newest_manifest_of_a_device_stays_and_its_packs_go() {
    let mut place = Place::with_days(3);
    let ids = place.ids();
    place.forget(&ids);
    place.prune();
    place.bench.clock.advance(8 * DAY);
    let swept = place.prune();
    assert_eq!((swept.snapshots_swept, place.count("snap/"), place.packs().len()), (2, 1, 0), "{swept:?}");
    place.expect_whole("all gone");
    assert!(matches!(place.undo(&ids[2..]), Err(ForgetError::TooLate { .. })), "what is gone cannot be brought back");
    place.prune();
    assert_eq!(place.count("mark/"), 1, "the mark of the manifest stays with it");
    let next = place.backup();
    let listed = place.bench.open().unwrap().snapshots().unwrap();
    assert_eq!(listed.iter().find(|s| s.id == next).unwrap().sequence(), 4, "numbers go on");
    place.expect_whole("saved anew");
    assert_eq!(place.prune().snapshots_swept, 1, "it is not the newest any more");
    place.prune();
    assert_eq!((place.count("snap/"), place.count("mark/")), (1, 0));
    place.expect_whole("and clean");
}

#[test]
fn only_owners_and_maintainers_condemn() {
    for (n, role, counts) in [(1, Role::Owner, true), (2, Role::Maintainer, true), (3, Role::Writer, false), (4, Role::Reader, false)] {
        let mut place = Place::with_days(2);
        let bytes = |place: &Place| place.named("pack/").iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        let before = bytes(&place);
        let signer = place.enrolled(n, role);
        place.put_mark(&place.mark_of_all(&signer), &signer);
        assert_eq!(place.bench.open().unwrap().marks().unwrap().findings.is_empty(), counts, "{role:?}");
        // A backup of what is there already relies on it, or saves it again.
        place.write("small 0", b"changed");
        place.backup();
        let added = bytes(&place) - before;
        assert_eq!(added > 400_000, counts, "{role:?}: {added} bytes");
        place.expect_whole_but_planted(!counts);
        // Nor is anything deleted by it that is needed.
        place.bench.clock.advance(3 * DAY);
        place.prune();
        place.expect_whole_but_planted(!counts);
    }
}

impl Place {
    /// As [`Self::expect_whole`], where a planted mark is named.
    fn expect_whole_but_planted(&self, is_planted: bool) {
        let repository = self.bench.open().unwrap();
        self.expect_readable(&repository, "planted");
        let findings = check(&repository, ReadData::All, &Silent).unwrap().findings;
        assert_eq!(findings.iter().any(|finding| finding.message.contains("it condemns nothing")), is_planted, "{findings:?}");
        assert!(findings.iter().all(|finding| finding.message.contains("it condemns nothing")), "{findings:?}");
    }
}

#[test]
fn a_damaged_mark_condemns_nothing_and_stops_nobody() {
    let mut place = Place::with_days(4);
    place.forget(&place.ids()[..3]);
    place.prune();
    place.bench.clock.advance(8 * DAY);
    let marks = place.named("mark/");
    assert_eq!(marks.len(), 2);
    for (name, bytes) in &marks {
        let mut damaged = bytes.to_vec();
        damaged[100] ^= 4;
        place.memory.overwrite(name, Some(damaged.into()));
    }
    let report = place.prune();
    assert_eq!((report.swept.count, report.snapshots_swept, report.findings.len()), (0, 0, 2), "{report:?}");
    place.backup();
    place.expect_readable(&place.bench.open().unwrap(), "damaged");
    // Under the name of another run it is planted.
    let (name, bytes) = &marks[0];
    place.memory.overwrite(name, None);
    let other = object::run_name(ObjectKind::Mark, &RunId::from_bytes([5; 16]), &object::object_hash(bytes));
    place.memory.overwrite(&other, Some(bytes.clone()));
    assert_eq!(place.bench.open().unwrap().marks().unwrap().findings.len(), 2);
    place.bench.clock.advance(8 * DAY);
    // What was condemned anew goes.
    assert!(place.prune().swept.count > 0);
}

#[test]
fn nothing_is_deleted_while_what_may_keep_it_cannot_be_read() {
    let due = || {
        let place = Place::with_days(4);
        place.forget(&place.ids()[..2]);
        place.prune();
        place.bench.clock.advance(8 * DAY);
        place
    };
    for prefix in ["drop/", "snap/", "meta/"] {
        let place = due();
        let newest = place.bench.open().unwrap().snapshots().unwrap().pop().unwrap();
        let names = place.named(prefix);
        let is_it = |name: &ObjectName| match prefix {
            "snap/" => name.as_str().ends_with(&newest.id.to_string()),
            "meta/" => name.as_str().ends_with(&newest.manifest().unwrap().root.subtree.unwrap().page.unwrap().pack.to_string()),
            _ => true,
        };
        let (name, bytes) = names.into_iter().find(|(name, _)| is_it(name)).unwrap();
        let mut damaged = bytes.to_vec();
        let at = if prefix == "meta/" { 60..bytes.len() / 2 } else { 60..61 };
        at.for_each(|at| damaged[at] ^= 1);
        place.memory.overwrite(&name, Some(damaged.into()));
        let before = place.memory.contents();
        let refused = place.try_prune(&PruneOptions::default());
        assert!(matches!(refused, Err(PruneError::Damaged { .. } | PruneError::Unreadable { .. })), "{prefix}: {refused:?}");
        // A foreign object is none of ours.
        assert_eq!(place.memory.contents(), before, "{prefix}");
        place.memory.overwrite(&name, Some(bytes));
        place.memory.overwrite(&ObjectName::new("mark/readme"), Some(Bytes::from_static(b"x")));
        assert!(place.prune().swept.count > 0);
    }
}

#[test]
fn a_list_that_lacks_a_snapshot_deletes_nothing() {
    // Its seal is there; others name it; this machine has read it.
    for (seals, by_others) in [(true, false), (false, true)] {
        let place = Place::with_days(4);
        place.forget(&place.ids()[..1]);
        place.prune();
        place.bench.clock.advance(8 * DAY);
        let listed = place.bench.open().unwrap().snapshots().unwrap();
        let lost = if by_others { &listed[1] } else { &listed[2] };
        for (name, _) in place.named("snap/").into_iter().chain(place.named("seal/")) {
            let is_its = name.as_str().contains(&format!("{:010}", lost.sequence()));
            if is_its && (name.as_str().starts_with("snap/") || !seals) {
                place.memory.overwrite(&name, None);
            }
        }
        let before = place.memory.contents();
        let refused = place.try_prune(&PruneOptions::default());
        assert!(matches!(refused, Err(PruneError::Missing { .. })), "{refused:?}");
        assert_eq!(place.memory.contents(), before);
        let lost = PruneOptions { missing_is_lost: true, delete_percent: 100, ..PruneOptions::default() };
        assert!(place.try_prune(&lost).unwrap().swept.count > 0);
    }
    let place = Place::with_days(2);
    for prefix in ["snap/", "seal/"] {
        place.named(prefix).iter().for_each(|(name, _)| drop(place.memory.overwrite(name, None)));
    }
    assert!(matches!(
        place.try_prune(&PruneOptions { missing_is_lost: true, ..PruneOptions::default() }),
        Err(PruneError::NoSnapshot { .. })
    ));
}

#[test]
fn clocks_that_are_wrong_delete_nothing_early() {
    let place = Place::with_days(4);
    place.forget(&place.ids()[..2]);
    // The machine that marks is ten years behind.
    let behind = Place {
        bench: Bench { clock: ManualClock::at(place.bench.clock.now().saturating_sub(3650 * DAY)), ..place.bench.clone() },
        ..place.clone()
    };
    let marked = behind.prune();
    assert_eq!((marked.snapshots_condemned, marked.condemned.count), (2, 0), "by its clock everything came just now");
    assert!(place.prune().condemned.count > 0);
    place.bench.clock.advance(6 * DAY);
    // Another one is ten years ahead.
    let ahead = Place {
        bench: Bench { clock: ManualClock::at(place.bench.clock.now().saturating_add(3650 * DAY)), ..place.bench.clone() },
        ..place.clone()
    };
    let report = ahead.prune();
    assert_eq!((report.swept.count, report.snapshots_swept, report.findings.len()), (0, 0, 1), "{report:?}");
    // The store's clock is set back, and right again.
    place.bench.clock.set(place.bench.clock.now().saturating_sub(30 * DAY));
    let report = place.prune();
    assert_eq!((report.swept.count, report.snapshots_swept), (0, 0));
    place.bench.clock.set(place.bench.clock.now().saturating_add(32 * DAY));
    let swept = place.prune();
    assert!(swept.snapshots_swept == 2 && swept.swept.count > 0, "{swept:?}");
    place.expect_whole("at last");
}

#[test]
fn a_mark_from_the_future_keeps_nothing_for_ever() {
    let place = Place::with_days(4);
    place.forget(&place.ids()[..3]);
    let signer = place.signer(&place.bench.open().unwrap());
    let far = place.bench.clock.now().saturating_add(36_500 * DAY);
    place.put_mark(&Mark { time: far, server_time: None, ..place.mark_of_all(&signer) }, &signer);
    assert!(place.prune().condemned.count > 0, "condemned anew");
    place.bench.clock.advance(8 * DAY);
    assert!(place.prune().swept.count > 0);
    place.expect_whole("swept");
    // A shorter grace than that of the mark counts from when it is asked for.
    let place = Place::with_days(4);
    place.forget(&place.ids()[..3]);
    let long = place.try_prune(&PruneOptions { grace: 90 * DAY, ..PruneOptions::default() }).unwrap();
    let short = place.try_prune(&PruneOptions { grace: GRACE_LEAST, ..PruneOptions::default() }).unwrap();
    assert_eq!((long.condemned.count, long.snapshots_condemned), (short.condemned.count, short.snapshots_condemned));
    place.bench.clock.advance(GRACE_LEAST);
    assert_eq!(place.prune().swept.count, long.condemned.count);
    place.expect_whole("sooner");
}

/// Who may only back up can write packs and shards. What they say of copies is not believed.
#[test]
fn a_poisoned_copy_replaces_nothing() {
    let place = Place::with_days(3);
    let ids = place.ids();
    place.forget(&ids[..2]);
    place.prune();
    place.undo(&ids[..2]).unwrap();
    let repository = place.bench.open().unwrap();
    let (ring, thief) = (repository.ring(), place.enrolled(7, Role::Writer));
    let mut index = Shard::default();
    for (name, bytes) in place.named("pack/").into_iter().chain(place.named("meta/")) {
        let kind = if name.as_str().starts_with("pack/") { ObjectKind::DataPack } else { ObjectKind::MetaPack };
        let id = object::parse_pack_name(kind, &name).unwrap();
        let trailer = fs_core::pack::decode_whole(&bytes, (kind, id, repository.id()), |epoch| ring.structure(epoch)).unwrap();
        let mut poisoned = PackBuilder::new(kind, ring.epoch(), ring.repository, (0, Vec::new()), &*place.bench.random);
        for record in &trailer.records {
            let session = trailer.sessions[usize::from(record.session)];
            poisoned.push(&record.facts, &session, &vec![0; record.stored_len as usize]);
        }
        let poisoned = poisoned.finish(&ring.current().structure, &*place.bench.random);
        let name = object::pack_name(kind, &poisoned.id);
        let size = poisoned.bytes.len() as u64;
        place.memory.overwrite(&name, Some(poisoned.bytes.into()));
        index.add_pack(ShardPack { id: poisoned.id, kind, size }, &poisoned.trailer);
    }
    index.sort();
    let header = Header::new(ObjectKind::Shard, ring.epoch(), ring.repository, &*place.bench.random);
    let object = index.encode(&header, &ring.current().index, &thief);
    put_hashed(&*place.bench.store, object, |hash| object::hashed_name(ObjectKind::Shard, hash)).unwrap();
    place.bench.clock.advance(8 * DAY);
    let report = place.prune();
    assert_eq!(report.swept.count, 0, "{report:?}");
    place.expect_readable(&place.bench.open().unwrap(), "poisoned");
    place.bench.clock.advance(8 * DAY);
    place.prune();
    place.expect_readable(&place.bench.open().unwrap(), "poisoned, and swept");
}

#[test]
fn a_store_that_lets_go_of_nothing_is_told_of() {
    let place = Place::with_days(4);
    place.forget(&place.ids()[..3]);
    place.prune();
    place.bench.clock.advance(8 * DAY);
    let before = place.memory.contents();
    let locked = place.over(HookedStore::locked(Arc::new(place.memory.clone())) as Arc<dyn WriteStore>);
    let report = locked.prune();
    assert!(report.deferred > 3 && report.swept.count == 0 && report.snapshots_swept == 0, "{report:?}");
    assert!(fs_core::report::is_incomplete(&report.findings), "a warning");
    assert_eq!(place.memory.contents(), before);
    assert!(place.prune().swept.count > 0);
    place.expect_whole("let go at last");
}
