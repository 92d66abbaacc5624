//! Forgetting and bringing back, over a store in memory: what lists, drives, backups and restores make of it, who may, what the clock may do, and every fault.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backup_writer::backup::backup;
use backup_writer::check::{ReadData, check};
use backup_writer::create::put_hashed;
use backup_writer::forget::{ForgetError, authorise, forget, look, undo};
use backup_writer::restore::{RestoreOptions, restore};
use backup_writer::retention::{Policy, decide, forgotten_ids};
use backup_writer::what::What;
use bytes::Bytes;
use fs_core::config::Certificate;
use fs_core::crypto::{self, Key};
use fs_core::id::{DeviceId, RunId, SnapshotId};
use fs_core::key::Role;
use fs_core::object::{self, Header, ObjectKind, Signer};
use fs_core::observer::Silent;
use fs_core::path::TreePath;
use fs_core::report::{Finding, Severity};
use fs_core::repository::{Repository, Snapshots};
use fs_core::snapshot::tombstone::Tombstones;
use fs_core::storage::memory::MemoryStore;
use fs_core::storage::{ObjectName, WriteStore};
use fs_core::testing::simulator::{Simulator, run_at_every_call};
use fs_core::testing::{CallKind, Fault, ManualClock, RecordingStore};
use fs_core::time::Timestamp;
use tests::{Bench, add_snapshots, later_than_any_file, options};

const DAY: Duration = Duration::from_secs(86_400);

/// A repository whose store has a clock that the test moves.
struct Place {
    source: tempfile::TempDir,
    state: tempfile::TempDir,
    memory: MemoryStore,
    bench: Bench,
}

impl Place {
    /// With so many snapshots, one a day.
    fn with(days: usize) -> Self {
        let clock = ManualClock::at(later_than_any_file());
        let memory = MemoryStore::with_clock(clock.clone());
        let bench = Bench { clock, ..Bench::new(Arc::new(memory.clone())).unwrap() };
        let place = Self { source: tempfile::tempdir().unwrap(), state: tempfile::tempdir().unwrap(), memory, bench };
        for day in 0..days {
            place.next(day);
        }
        place
    }

    /// What a machine sees that remembers in this folder what it has checked.
    fn shown_to(&self, remembered: &Path) -> Vec<SnapshotId> {
        let repository = self.bench.open_like_the_program(Some(remembered)).unwrap();
        repository.snapshots().unwrap().iter().map(|snapshot| snapshot.id).collect()
    }

    fn next(&self, day: usize) -> SnapshotId {
        std::fs::write(self.source.path().join("file"), format!("day {day}")).unwrap();
        self.bench.clock.advance(DAY);
        let how = options(self.source.path(), Some(self.state.path()));
        backup(&self.bench.open().unwrap(), &self.bench.store, &how, &Silent).unwrap().snapshot
    }

    fn signer(&self, repository: &Repository) -> Signer {
        authorise(repository, &*self.bench.store, Some(self.state.path()), "host").unwrap()
    }

    fn listed(&self) -> Snapshots {
        let listed = self.bench.open().unwrap().all_snapshots().unwrap();
        assert!(listed.findings.is_empty(), "{:?}", listed.findings);
        listed
    }

    fn live(&self) -> Vec<SnapshotId> {
        self.listed().live.iter().map(|snapshot| snapshot.id).collect()
    }

    fn forgotten(&self) -> Vec<SnapshotId> {
        self.listed().forgotten.iter().map(|forgotten| forgotten.snapshot.id).collect()
    }

    fn forget(&self, ids: &[SnapshotId]) -> RunId {
        let repository = self.bench.open().unwrap();
        forget(&repository, &*self.bench.store, &self.signer(&repository), &ids.iter().copied().collect(), "test").unwrap()
    }

    fn undo(&self, ids: &[SnapshotId]) {
        let repository = self.bench.open().unwrap();
        let listed = repository.all_snapshots().unwrap();
        let back = listed.forgotten.iter().filter(|forgotten| ids.contains(&forgotten.snapshot.id));
        undo(&repository, &*self.bench.store, &self.signer(&repository), back).unwrap();
    }

    fn by_rules(&self, rules: &str) -> BTreeSet<SnapshotId> {
        let looked = look(&self.bench.open().unwrap()).unwrap();
        forgotten_ids(&decide(&looked.candidates, &Policy::parse(rules).unwrap(), looked.now))
    }

    fn content(&self, snapshot: SnapshotId) -> Vec<u8> {
        let (repository, target) = (self.bench.open().unwrap(), tempfile::tempdir().unwrap());
        let listed = repository.all_snapshots().unwrap();
        let snapshot = listed.all().find(|listed| listed.id == snapshot).unwrap();
        let path = TreePath::parse(self.source.path().join("file").as_os_str().as_encoded_bytes()).unwrap();
        let what = [What { snapshot: snapshot.clone(), path }];
        restore(&repository, &what, &target.path().join("file"), &RestoreOptions::default(), &Silent).unwrap();
        let restored = target.path().join("file");
        std::fs::read(if restored.is_dir() { restored.join("file") } else { restored }).unwrap()
    }

    fn named(&self, prefix: &str) -> Vec<(ObjectName, Bytes)> {
        self.memory.contents().into_iter().filter(|(name, _)| name.as_str().starts_with(prefix)).collect()
    }
}

#[test]
fn what_is_forgotten_leaves_every_list_and_comes_back_whole() {
    let place = Place::with(5);
    let ids = place.live();
    place.forget(&ids[1..3]);
    assert_eq!((place.live(), place.forgotten()), (vec![ids[0], ids[3], ids[4]], ids[1..3].to_vec()));
    assert_eq!(place.content(ids[1]), b"day 1", "all of it is there until it is swept");
    assert!(place.named("pack/").len() >= 5 && place.named("snap/").len() == 5, "nothing was deleted");
    place.undo(&ids[1..2]);
    assert_eq!((place.live(), place.forgotten()), (vec![ids[0], ids[1], ids[3], ids[4]], vec![ids[2]]));
    // Forgotten again, twice, and undone once for all.
    place.forget(&ids[1..3]);
    place.forget(&ids[2..3]);
    assert_eq!(place.forgotten(), ids[1..3]);
    assert_eq!(place.listed().forgotten[1].by.len(), 3);
    place.undo(&ids);
    assert_eq!((place.live(), place.forgotten()), (ids.clone(), vec![]));
    assert!(check(&place.bench.open().unwrap(), ReadData::All, &Silent).unwrap().findings.is_empty());
}

#[test]
fn a_machine_that_remembers_sees_the_same() {
    let place = Place::with(9);
    let (ids, remembered) = (place.live(), tempfile::tempdir().unwrap());
    let shown = || place.shown_to(remembered.path());
    assert_eq!(shown(), ids);
    place.forget(&ids[..4]);
    assert_eq!(shown(), ids[4..]);
    assert_eq!(shown(), ids[4..], "from what was kept");
    place.undo(&ids[..2]);
    assert_eq!(shown(), [&ids[..2], &ids[4..]].concat());
    // Tombstones that the store has no more do not count, whoever remembers them.
    for (name, _) in place.named("drop/") {
        place.memory.overwrite(&name, None);
    }
    assert_eq!(shown(), ids);
}

#[test]
fn what_was_checked_once_is_not_read_again() {
    let store = RecordingStore::new(Arc::new(MemoryStore::new()));
    let (source, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bench = Bench::new(Arc::clone(&store) as Arc<dyn WriteStore>).unwrap();
    bench.backup(source.path(), None).unwrap();
    add_snapshots(&bench, 6, 100).unwrap();
    for snapshot in bench.open().unwrap().snapshots().unwrap().iter().skip(1).take(3) {
        let repository = bench.open().unwrap();
        let signer = authorise(&repository, &*bench.store, None, "host").unwrap();
        forget(&repository, &*bench.store, &signer, &BTreeSet::from([snapshot.id]), "test").unwrap();
    }
    let read = || {
        store.take();
        let repository = bench.open_like_the_program(Some(state.path())).unwrap();
        assert_eq!(repository.snapshots().unwrap().len(), 4);
        assert_eq!(repository.snapshots().unwrap().len(), 4);
        store.places(CallKind::Get).iter().filter(|name| name.starts_with("drop/")).count()
    };
    assert_eq!((read(), read()), (3, 0));
}

#[test]
fn backups_go_on_where_they_were_after_everything_is_forgotten() {
    let place = Place::with(3);
    let ids = place.live();
    place.forget(&ids);
    assert!(place.live().is_empty());
    std::fs::write(place.source.path().join("other"), "new").unwrap();
    place.next(2);
    let snapshot = place.listed().live.pop().unwrap();
    let manifest = snapshot.manifest().unwrap();
    assert_eq!(
        (manifest.sequence, manifest.previous, manifest.parent),
        (4, Some(ids[2]), None),
        "numbers go on; nothing is a parent that is forgotten"
    );
    assert_eq!(place.content(snapshot.id), b"day 2");
    assert!(check(&place.bench.open().unwrap(), ReadData::All, &Silent).unwrap().findings.is_empty());
    // Another machine sees the newest of this one also if it is forgotten.
    place.forget(&[snapshot.id]);
    let other = backup(&place.bench.open().unwrap(), &place.bench.store, &options(place.source.path(), None), &Silent).unwrap();
    assert_eq!(other.manifest.heads.iter().map(|head| head.sequence).collect::<Vec<_>>(), [4]);
}

#[test]
fn rules_count_by_the_clock_of_the_store() {
    let place = Place::with(40);
    let ids = place.live();
    // The newest 28 days, and what was there when they began.
    assert_eq!(place.by_rules("28d").len(), 40 - 29 - 1);
    // A machine whose clock runs ahead makes nothing old; one whose clock is behind does not see the newest yet.
    let wrong = |now: Timestamp| {
        let bench = Bench { clock: ManualClock::at(now), ..place.bench.clone() };
        let looked = look(&bench.open().unwrap()).unwrap();
        assert_eq!(looked.findings.len(), 1, "it is said: {:?}", looked.findings);
        forgotten_ids(&decide(&looked.candidates, &Policy::parse("28d").unwrap(), looked.now)).len()
    };
    use fs_core::time::Clock as _;
    let now = place.bench.clock.now();
    assert_eq!(wrong(now.saturating_add(DAY * 3650)), 10);
    assert_eq!(wrong(now.saturating_sub(DAY * 5)), 5);
    assert_eq!(wrong(now.saturating_sub(DAY * 3650)), 0);
    // What a device dates in the future neither counts nor goes.
    add_dated(&place, 30, now.saturating_add(DAY));
    assert_eq!(place.by_rules("last:39"), BTreeSet::from([ids[0]]));
}

/// Snapshots of this device that say that they began then.
fn add_dated(place: &Place, count: u64, started: Timestamp) {
    let repository = place.bench.open().unwrap();
    let (signer, model) = (place.signer(&repository), repository.snapshots().unwrap().pop().unwrap().manifest().unwrap());
    for n in 1..=count {
        let mut manifest = model.clone();
        (manifest.sequence, manifest.started, manifest.ended) = (model.sequence + n, started, started);
        let name = |kind| move |hash: &_| object::sequence_name(kind, &signer.device, model.sequence + n, hash);
        let object = manifest.encode_object(repository.ring(), &signer, &*place.bench.random).unwrap();
        let id = SnapshotId::from(put_hashed(&*place.bench.store, object, name(ObjectKind::Manifest)).unwrap());
        let seal = fs_core::snapshot::codec::Seal { device: signer.device, sequence: manifest.sequence, manifest: id, time: started };
        put_hashed(&*place.bench.store, seal.encode_object(repository.ring(), &signer, &*place.bench.random), name(ObjectKind::Seal))
            .unwrap();
    }
}

/// A device with a certificate of some role.
fn enrolled(place: &Place, repository: &Repository, n: u8, role: Role) -> Signer {
    let signer = Signer { device: DeviceId::from_bytes([n; 16]), seed: Key::from_bytes([n; 32]) };
    let (ring, public) = (repository.ring(), crypto::signing_public(&signer.seed));
    let certificate = Certificate {
        device: signer.device,
        public,
        role,
        created: repository.clock().now(),
        label: role.as_str().into(),
        trusts_others: false,
        revoked: None,
    };
    let header = Header::new(ObjectKind::Device, ring.epoch(), ring.repository, &*place.bench.random);
    let object = certificate.encode_object(&header, &ring.current().structure, &ring.root_signer().unwrap());
    put_hashed(&*place.bench.store, object, |hash| object::device_name(&signer.device, hash)).unwrap();
    signer
}

#[test]
fn only_owners_and_maintainers_forget() {
    for (n, role, counts) in [(1, Role::Owner, true), (2, Role::Maintainer, true), (3, Role::Writer, false), (4, Role::Reader, false)] {
        let place = Place::with(3);
        let (ids, repository) = (place.live(), place.bench.open().unwrap());
        let signer = enrolled(&place, &repository, n, role);
        // Whatever the program that wrote it thought: what counts is the certificate.
        let put = |tombstones: &Tombstones, signer: &Signer| {
            let object = tombstones.encode_object(repository.ring(), signer, &*place.bench.random);
            put_hashed(&*place.bench.store, object, |hash| object::run_name(ObjectKind::Tombstones, &tombstones.run, hash)).unwrap()
        };
        let said = Tombstones {
            run: RunId::from_bytes([9; 16]),
            device: signer.device,
            time: repository.clock().now(),
            server_time: None,
            why: "test".into(),
            forgotten: vec![ids[0]],
            undone: Vec::new(),
        };
        put(&said, &signer);
        let listed = place.bench.open().unwrap().all_snapshots().unwrap();
        assert_eq!(
            (listed.live.len(), listed.forgotten.len(), listed.findings.len()),
            if counts { (2, 1, 0) } else { (3, 0, 1) },
            "{role:?}"
        );
        // Nor do they undo what others forgot.
        place.forget(&ids[1..2]);
        let by =
            place.bench.open().unwrap().all_snapshots().unwrap().forgotten.into_iter().find(|f| f.snapshot.id == ids[1]).unwrap().by[0].0;
        put(&Tombstones { forgotten: Vec::new(), undone: vec![(by, ids[1])], ..said.clone() }, &signer);
        let is_back = place.bench.open().unwrap().snapshots().unwrap().iter().any(|snapshot| snapshot.id == ids[1]);
        assert_eq!(is_back, counts, "{role:?}");
    }
}

#[test]
fn a_device_that_is_enrolled_as_a_writer_is_told() {
    let place = Place::with(1);
    let repository = place.bench.open().unwrap();
    let signer = place.signer(&repository);
    // Its certificate is replaced by a writer's: the key at hand is still an owner's.
    for (name, _) in place.named(&format!("dev/{}", signer.device)) {
        place.memory.overwrite(&name, None);
    }
    let (ring, public) = (repository.ring(), crypto::signing_public(&signer.seed));
    let certificate = Certificate {
        device: signer.device,
        public,
        role: Role::Writer,
        created: repository.clock().now(),
        label: "w".into(),
        trusts_others: false,
        revoked: None,
    };
    let header = Header::new(ObjectKind::Device, ring.epoch(), ring.repository, &*place.bench.random);
    let object = certificate.encode_object(&header, &ring.current().structure, &ring.root_signer().unwrap());
    put_hashed(&*place.bench.store, object, |hash| object::device_name(&signer.device, hash)).unwrap();
    let refused = authorise(&place.bench.open().unwrap(), &*place.bench.store, Some(place.state.path()), "host");
    assert!(matches!(refused, Err(ForgetError::NotAllowed)));
    assert!(place.named("drop/").is_empty());
}

/// Damaged, foreign or under another name, tombstones are named and change nothing.
#[test]
fn damaged_tombstones_forget_nothing() {
    let place = Place::with(3);
    let ids = place.live();
    place.forget(&ids[..2]);
    let (name, bytes) = place.named("drop/").remove(0);
    for at in (0..bytes.len()).step_by(7) {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 0x20;
        place.memory.overwrite(&name, Some(damaged.into()));
        let listed = place.bench.open().unwrap().all_snapshots().unwrap();
        assert_eq!((listed.live.len(), listed.findings.len()), (3, 1), "byte {at}");
    }
    place.memory.overwrite(&name, None);
    let hash = object::object_hash(&bytes);
    let other = object::run_name(ObjectKind::Tombstones, &RunId::from_bytes([5; 16]), &hash);
    place.memory.overwrite(&other, Some(bytes));
    let listed = place.bench.open().unwrap().all_snapshots().unwrap();
    assert_eq!((listed.live.len(), listed.findings.len()), (3, 1), "of another run");
    // A name that is none of ours is left alone, an object that is too large is no reason to list nothing.
    place.memory.overwrite(&other, None);
    place.memory.overwrite(&ObjectName::new("drop/readme"), Some(Bytes::from_static(b"x")));
    place.memory.overwrite(&other, Some(Bytes::from(vec![0; 2 << 20])));
    let listed = place.bench.open().unwrap().all_snapshots().unwrap();
    assert_eq!((listed.live.len(), listed.findings.len()), (3, 1));
}

/// At every store call and for every fault: no more is forgotten than the rules say, and the same command finishes it.
#[test]
fn every_store_call_of_forget_and_undo_may_fail_in_every_way() {
    let source = tempfile::tempdir().unwrap();
    for fault in Fault::ALL {
        let bench_of =
            |simulator: &Simulator, store| Bench { store, clock: simulator.clock(), ..Bench::new(Arc::new(MemoryStore::new())).unwrap() };
        let prepare = |simulator: &Simulator| {
            simulator.clock().set(later_than_any_file());
            let bench = Bench { clock: simulator.clock(), ..Bench::new(Arc::new(simulator.memory().clone())).unwrap() };
            bench.backup(source.path(), None).unwrap();
            add_snapshots(&bench, 9, 100).unwrap();
            simulator.clock().advance(DAY);
        };
        let ids = |repository: &Repository| repository.snapshots().unwrap().iter().map(|snapshot| snapshot.id).collect::<Vec<_>>();
        let operation = |simulator: &Simulator| -> Result<(), anyhow::Error> {
            let bench = bench_of(simulator, simulator.store());
            let repository = bench.open()?;
            let looked = look(&repository)?;
            let gone = forgotten_ids(&decide(&looked.candidates, &Policy::parse("last:4")?, looked.now));
            let signer = authorise(&repository, &*bench.store, None, "host")?;
            forget(&repository, &*bench.store, &signer, &gone, "test")?;
            let listed = repository.all_snapshots()?;
            undo(&repository, &*bench.store, &signer, listed.forgotten.iter().filter(|forgotten| forgotten.snapshot.sequence() == 2))?;
            Ok(())
        };
        let calls = run_at_every_call(3, fault, prepare, operation, |simulator, outcome| {
            let bench = bench_of(simulator, Arc::new(simulator.memory().clone()));
            let repository = bench.open().unwrap();
            let live = ids(&repository).len();
            // Ten snapshots of two devices, of which one has one: five go, and one of them is back.
            assert!((5..=10).contains(&live), "{live} are left");
            assert!(outcome.result.is_err() || outcome.was_struck() || live == 6, "{:?}", outcome.result);
            let signer = authorise(&repository, &*bench.store, None, "host").unwrap();
            let looked = look(&repository).unwrap();
            let gone = forgotten_ids(&decide(&looked.candidates, &Policy::parse("last:4").unwrap(), looked.now));
            forget(&repository, &*bench.store, &signer, &gone, "again").unwrap();
            assert_eq!(ids(&repository).len(), 5, "the same again");
            // What was cut off under its name stays there and is named; it changes nothing.
            let is_cut = |finding: &Finding| fault == Fault::TornWrite && matches!(&finding.place, fs_core::report::Place::Object(_));
            let findings = check(&repository, ReadData::All, &Silent).unwrap().findings;
            assert!(findings.iter().all(|finding| finding.severity < Severity::Error || is_cut(finding)), "{fault:?}: {findings:?}");
        });
        assert!(calls >= 10, "{calls} calls");
    }
}

#[test]
fn a_drive_that_is_there_notices() {
    let place = Place::with(4);
    let shown = super::mount::view(&place.bench, None);
    let names = |view: &fs_core::view::View| {
        let folder = super::view::step(view, super::view::step(view, fs_core::view::layout::ROOT, b"Snapshots"), b"host");
        super::view::list(view, folder, 0, usize::MAX).0.len() - 2
    };
    assert_eq!(names(&shown), 4);
    let ids = place.live();
    place.forget(&ids[..3]);
    assert!(!shown.refresh().unwrap().is_empty());
    assert_eq!(names(&shown), 1);
    place.undo(&ids[1..2]);
    shown.refresh().unwrap();
    assert_eq!(names(&shown), 2);
}

/// More than one object holds.
#[test]
fn very_many_are_forgotten_at_once() {
    let source = tempfile::tempdir().unwrap();
    let (clock, count) = (ManualClock::at(later_than_any_file()), 8300);
    let memory = MemoryStore::with_clock(clock.clone());
    let bench = Bench { clock, ..Bench::new(Arc::new(memory.clone())).unwrap() };
    bench.backup(source.path(), None).unwrap();
    add_snapshots(&bench, count, 1000).unwrap();
    bench.clock.advance(DAY * 30);
    let repository = bench.open().unwrap();
    let looked = look(&repository).unwrap();
    let gone = forgotten_ids(&decide(&looked.candidates, &Policy::parse("last:1").unwrap(), looked.now));
    assert_eq!(gone.len() as u64, count - 1);
    let signer = authorise(&repository, &*bench.store, None, "host").unwrap();
    let run = forget(&repository, &*bench.store, &signer, &gone, "test").unwrap();
    let tombstones: Vec<_> = memory.contents().into_iter().filter(|(name, _)| name.as_str().starts_with("drop/")).collect();
    assert!(tombstones.len() == 2 && tombstones.iter().all(|(name, _)| name.as_str().contains(&run.to_string())));
    let salts: BTreeSet<_> = tombstones.iter().map(|(_, bytes)| bytes[..48].to_vec()).collect();
    assert_eq!(salts.len(), 2, "objects of one run have keys of their own");
    let listed = bench.open().unwrap().all_snapshots().unwrap();
    assert_eq!((listed.live.len(), listed.forgotten.len()), (2, gone.len()));
    undo(&repository, &*bench.store, &signer, &listed.forgotten).unwrap();
    assert_eq!(bench.open().unwrap().snapshots().unwrap().len() as u64, count + 1);
}

#[test]
fn a_tombstone_that_is_gone_does_not_count_though_another_has_come() {
    let place = Place::with(4);
    let (ids, remembered) = (place.live(), tempfile::tempdir().unwrap());
    let shown = || place.shown_to(remembered.path());
    place.forget(&ids[..1]);
    assert_eq!(shown(), ids[1..]);
    let [(gone, _)] = &place.named("drop/")[..] else { panic!("one tombstone") };
    let gone = gone.clone();
    place.forget(&ids[1..2]);
    let (come, _) = place.named("drop/").into_iter().find(|(name, _)| *name != gone).unwrap();
    place.memory.overwrite(&gone, None);
    place.memory.overwrite(&come, Some(Bytes::from_static(b"damaged")));
    assert_eq!(shown(), ids, "as many are listed as are remembered, and none of them counts");
}
