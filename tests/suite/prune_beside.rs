//! What others do while a prune runs, and what a prune does while others run: at every call of each, and with a real drive. And what a large table takes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backup_writer::create::put_hashed;
use backup_writer::forget::ForgetError;
use backup_writer::prune::{AGE, Plan, PruneOptions};
use bytes::Bytes;
use fs_core::compress::Codec;
use fs_core::crypto;
use fs_core::id::{PackId, RecordId, SessionId, SnapshotId};
use fs_core::index::{Shard, ShardPack};
use fs_core::key::Role;
use fs_core::object::{self, Header, ObjectKind};
use fs_core::observer::Silent;
use fs_core::pack::{PackRecord, PackSession, Trailer};
use fs_core::record::{RecordFacts, RecordKind, SessionKeyRef};
use fs_core::report::Severity;
use fs_core::snapshot::Manifest;
use fs_core::storage::WriteStore;
use fs_core::testing::ManualClock;
use fs_core::time::Clock as _;
use tests::Bench;
use tests::driven::is_long;
use tests::hooked::{HookedStore, When};
use tests::noise;

use super::prune::{DAY, HOUR, Place};

/// At every call of a backup that would use what is condemned: marked there; marked and swept there; marked there and swept at a later call.
#[test]
fn a_backup_is_whole_whatever_a_prune_does_at_any_of_its_calls() {
    let start = {
        let place = Place::with_days(4);
        place.forget(&place.ids()[..2]);
        // What only forgotten snapshots have comes back to the source.
        place.write("changes", &noise(0, 200_000));
        place.write("another", &noise(1, 200_000));
        place
    };
    let prune = |place: &Place| drop(place.try_prune(&PruneOptions { delete_percent: 100, ..PruneOptions::default() }).unwrap());
    let run = |first: u64, second: u64, advance: Duration| {
        let mut place = start.fork();
        let (marker, sweeper) = (place.clone(), place.clone());
        let inner = HookedStore::new(Arc::new(place.memory.clone()), When::Call(second), move || {
            sweeper.bench.clock.advance(advance);
            prune(&sweeper);
        });
        let store = HookedStore::new(inner, When::Call(first), move || prune(&marker));
        let what = format!("marked at call {first}, swept at call {second}");
        let saved = place.over(Arc::clone(&store) as Arc<dyn WriteStore>).try_backup().unwrap_or_else(|error| panic!("{what}: {error:#}"));
        place.saved.insert(saved.snapshot, place.shown());
        place.expect_whole(&what);
        place.bench.clock.advance(9 * DAY);
        prune(&place);
        place.expect_whole(&format!("{what}, and swept afterwards"));
        store.calls()
    };
    let calls = run(u64::MAX, u64::MAX, Duration::ZERO);
    assert!(calls > 10, "{calls}");
    for call in 1..=calls {
        run(call, u64::MAX, Duration::ZERO);
        run(call, call, 8 * DAY);
        for later in (call + 1..=calls + 4).step_by(if is_long() { 1 } else { 6 }) {
            run(call, later, 8 * DAY);
        }
    }
}

/// At every call of a prune that sweeps, packs anew and marks: another prune, a backup, a forgetting and an undoing.
#[test]
fn a_prune_is_sound_whatever_others_do_at_any_of_its_calls() {
    let start = {
        let mut place = Place::with_days(5);
        let ids = place.ids();
        place.forget(&ids[..2]);
        place.prune();
        place.bench.clock.advance(8 * DAY);
        place.write("changes", &noise(90, 200_000));
        place.backup();
        place.bench.clock.advance(3 * DAY);
        place.forget(&ids[2..3]);
        // What is due is about to be saved again.
        place.write("changes", &noise(0, 200_000));
        place
    };
    let third = start
        .bench
        .open()
        .unwrap()
        .all_snapshots()
        .unwrap()
        .forgotten
        .iter()
        .map(|f| (f.snapshot.sequence(), f.snapshot.id))
        .max()
        .unwrap()
        .1;
    type Other = fn(&mut Place, SnapshotId);
    let others: [(&str, Other); 4] = [
        ("another prune", |place, _| drop(place.try_prune(&PruneOptions { delete_percent: 100, ..PruneOptions::default() }).unwrap())),
        ("a backup", |place, _| {
            place.backup();
        }),
        ("an undoing", |place, third| {
            place.undo(&[third]).unwrap();
        }),
        ("a forgetting", |place, _| place.forget(&place.ids()[..1])),
    ];
    for (what, other) in others {
        let run = |call: u64| {
            let place = start.fork();
            let done = Arc::new(Mutex::new(place.clone()));
            let theirs = Arc::clone(&done);
            let store =
                HookedStore::new(Arc::new(place.memory.clone()), When::Call(call), move || other(&mut theirs.lock().unwrap(), third));
            // A list that changes again and again may end a run; nothing is lost by that.
            let _ = place
                .over(Arc::clone(&store) as Arc<dyn WriteStore>)
                .try_prune(&PruneOptions { delete_percent: 100, ..PruneOptions::default() });
            let place = done.lock().unwrap().clone();
            let when = format!("{what} at call {call}");
            place.expect_whole(&when);
            place.prune();
            place.expect_whole(&format!("{when}, and pruned again"));
            place.bench.clock.advance(9 * DAY);
            place.prune();
            place.expect_whole(&format!("{when}, and swept"));
            store.calls()
        };
        let calls = run(u64::MAX);
        assert!(calls > 30, "{calls}");
        let step = if is_long() { 1 } else { 3 };
        for call in (1..=calls).step_by(step) {
            run(call);
        }
    }
}

#[test]
fn a_pruner_that_slept_looks_again_before_it_goes_on() {
    let place = Place::with_days(5);
    let ids = place.ids();
    place.forget(&ids[..3]);
    place.prune();
    place.bench.clock.advance(8 * DAY);
    let sleeper = place.clone();
    let store = HookedStore::new(Arc::new(place.memory.clone()), When::Delete("seal/"), move || {
        sleeper.bench.clock.advance(DAY);
        sleeper.clone().backup();
    });
    let report = place.over(store as Arc<dyn WriteStore>).try_prune(&PruneOptions::default()).unwrap();
    assert_eq!(report.swept.count, 0, "{report:?}");
    assert!(report.findings.iter().any(|finding| finding.message.contains("the next run goes on")), "{report:?}");
    place.expect_whole("stopped");
    assert!(place.prune().swept.count > 0);
    place.expect_whole("gone on");
}

/// A drive, or whoever reads, opened before everything moved and was deleted underneath.
#[test]
fn who_reads_meanwhile_reads_on() {
    let place = Place::with_days(8);
    let ids = place.ids();
    let (reader, view) = (place.bench.open().unwrap(), super::mount::view(&place.bench, None));
    place.forget(&ids[..6]);
    let marked = place.prune();
    assert!(marked.repacked.count > 2, "{marked:?}");
    place.expect_readable(&reader, "marked and packed anew");
    place.bench.clock.advance(8 * DAY);
    let swept = place.prune();
    assert_eq!(swept.swept.count, marked.condemned.count);
    let cold = place.bench.open().unwrap();
    for (repository, when) in [(&reader, "opened before"), (&cold, "opened after")] {
        place.expect_readable(repository, when);
    }
    for (name, bytes) in &place.saved[&ids[7]] {
        let node = super::view::find(&view, &place.source.path().join(name));
        let read = view.wait(|view, held| view.read(held, node, 0, 1 << 20)).unwrap();
        assert!(read == *bytes, "{}", name.display());
    }
}

/// A real drive, read all the time while packs move and go.
#[test]
fn a_drive_that_is_read_throughout_sees_no_error() {
    let place = Place::with_days(8);
    let ids = place.ids();
    let (view, target) = (super::mount::view(&place.bench, None), tempfile::tempdir().unwrap());
    let drive = super::mount::mount(view, target.path());
    let shown = place.saved[&ids[7]].clone();
    let folder = super::mount::latest(target.path(), place.source.path());
    let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let reader = std::thread::spawn({
        let (stop, rounds) = (Arc::clone(&stop), Arc::clone(&rounds));
        move || {
            while !stop.load(Ordering::Relaxed) {
                for (name, bytes) in &shown {
                    let read = std::fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{}: {error}", name.display()));
                    assert!(read == *bytes, "{}", name.display());
                }
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let round = || {
        let so_far = rounds.load(Ordering::Relaxed);
        super::mount::within_five_seconds(|| reader.is_finished() || rounds.load(Ordering::Relaxed) > so_far + 1);
    };
    round();
    place.forget(&ids[..6]);
    assert!(place.prune().repacked.count > 2);
    round();
    place.bench.clock.advance(8 * DAY);
    assert!(place.prune().swept.count > 2);
    round();
    stop.store(true, Ordering::Relaxed);
    reader.join().unwrap();
    drop(drive);
}

/// Ten thousand packs of a hundred records.
#[test]
fn the_table_takes_less_than_64_bytes_for_each_record() {
    const PACKS: u64 = 10_000;
    const RECORDS: u64 = 100;
    let place = Place::with_days(1);
    let repository = place.bench.open().unwrap();
    let (ring, signer) = (repository.ring(), place.signer(&repository));
    let session = PackSession { id: SessionId::from_bytes([1; 16]), key: SessionKeyRef { epoch: 1, enc: [1; 32] } };
    let clock = place.bench.clock.now();
    let mut index = Shard::default();
    for pack in 0..PACKS {
        let id = PackId::from_slice(&crypto::hash(&pack.to_le_bytes())[..16]).unwrap();
        let record = |n: u64| {
            let id = RecordId::from_bytes(crypto::hash(&(pack * RECORDS + n).to_be_bytes()));
            let facts = RecordFacts { kind: RecordKind::Data, id, codec: Codec::Raw, plain_len: 10 };
            PackRecord { facts, offset: (48 + 50 * n) as u32, stored_len: 50, session: 0 }
        };
        let trailer = Trailer { sessions: vec![session], records: (0..RECORDS).map(record).collect(), fragments: Vec::new() };
        place.memory.overwrite(&object::pack_name(ObjectKind::DataPack, &id), Some(Bytes::from_static(b"a pack")));
        index.add_pack(ShardPack { id, kind: ObjectKind::DataPack, size: 6 }, &trailer);
    }
    index.sort();
    let header = Header::new(ObjectKind::Shard, ring.epoch(), ring.repository, &*place.bench.random);
    let object = index.encode(&header, &ring.current().index, &signer);
    put_hashed(&*place.bench.store, object, |hash| object::hashed_name(ObjectKind::Shard, hash)).unwrap();
    drop(index);
    assert_eq!(place.bench.clock.now(), clock);
    place.bench.clock.advance(AGE + HOUR);
    let plan = Plan::make(&repository, &PruneOptions::default(), &Silent).unwrap();
    let (bytes, rows) = plan.memory();
    assert!(rows as u64 >= PACKS * RECORDS && bytes <= 64 * rows, "{bytes} bytes for {rows} records");
    assert_eq!(plan.report().condemned.count, PACKS);
    let report = plan.execute(&*place.bench.store, &signer).unwrap();
    assert_eq!((report.condemned.count, place.count("mark/")), (PACKS, 2));
    place.expect_readable(&place.bench.open().unwrap(), "marked");
}

/// A sweep that has decided falls asleep; a manifest that somebody put late makes the pack live again, another prune looks at it, a backup wants what is in it;
/// then the sweep wakes and deletes. What is condemned stays condemned, so nobody relies on it.
#[test]
fn a_sweep_that_wakes_late_harms_nobody() {
    let mut place = Place::with_days(4);
    let forgotten = place.ids()[..2].to_vec();
    let repository = place.bench.open().unwrap();
    let late = repository.snapshots().unwrap()[1].manifest().unwrap();
    place.forget(&forgotten);
    place.prune();
    let writer = place.enrolled(8, Role::Owner);
    place.bench.clock.advance(8 * DAY);
    place.write("changes", &noise(1, 200_000));
    let others = Arc::new(Mutex::new(place.clone()));
    let meanwhile = Arc::clone(&others);
    let store = HookedStore::new(Arc::new(place.memory.clone()), When::Delete("seal/"), move || {
        let mut others = meanwhile.lock().unwrap();
        let manifest = Manifest { device: writer.device, sequence: 1, previous: None, heads: Vec::new(), parent: None, ..late };
        let object = manifest.encode_object(repository.ring(), &writer, &*others.bench.random).unwrap();
        put_hashed(&*others.bench.store, object, |hash| object::sequence_name(ObjectKind::Manifest, &writer.device, 1, hash)).unwrap();
        let other = others.prune();
        assert!(other.marks_removed == 0 && other.repacked.count > 0, "{other:?}");
        others.backup();
    });
    let swept = place.over(Arc::clone(&store) as Arc<dyn WriteStore>).prune();
    assert!(store.is_done() && swept.swept.count > 0, "{swept:?}");
    place = others.lock().unwrap().clone();
    place.expect_whole("awake again");
    place.bench.clock.advance(8 * DAY);
    place.prune();
    place.prune();
    place.expect_whole("and pruned");
}

/// Of what is swept the newest manifest of a device stays. To a machine whose clock is behind it looks as if it could still be brought back.
#[test]
fn to_a_clock_that_is_behind_nothing_that_was_swept_is_lost() {
    let place = Place::with_days(3);
    place.forget(&place.ids()[2..]);
    place.prune();
    place.bench.clock.advance(8 * DAY);
    assert!(place.prune().swept.count > 0 && place.count("snap/") == 3);
    let clock = ManualClock::at(place.bench.clock.now().saturating_sub(20 * DAY));
    let behind = Place { bench: Bench { clock, ..place.bench.clone() }, ..place.clone() };
    behind.expect_whole("checked by a clock that is behind");
    let report = behind.prune();
    assert!(report.swept.count == 0 && report.findings.iter().any(|finding| finding.severity == Severity::Warning), "{report:?}");
    place.expect_whole("pruned by a clock that is behind");
}

/// Who brings back several, and sleeps until it is too late, forgets all of them again, by tombstones that everybody can read.
#[test]
fn several_that_are_brought_back_too_late_are_forgotten_again() {
    let place = Place::with_days(7);
    let ids = place.ids();
    place.forget(&ids[..6]);
    place.prune();
    let clock = Arc::clone(&place.bench.clock);
    let store = HookedStore::new(Arc::new(place.memory.clone()), When::Put("drop/"), move || clock.advance(8 * DAY));
    let undone = place.over(store as Arc<dyn WriteStore>).undo(&ids[..6]);
    assert!(matches!(undone, Err(ForgetError::TooLate { .. })), "{undone:?}");
    assert_eq!(place.ids(), ids[6..]);
    place.prune();
    place.expect_whole("forgotten again");
}

/// The manifest of a device's newest snapshot stays when its records are swept. Who brings it back, and sleeps meanwhile, leaves it as gone as it was.
#[test]
fn the_newest_of_a_device_is_not_brought_back_when_its_records_are_swept() {
    let place = Place::with_days(3);
    let newest = &place.ids()[2..];
    place.forget(newest);
    place.prune();
    let others = place.clone();
    let store = HookedStore::new(Arc::new(place.memory.clone()), When::Put("drop/"), move || {
        others.bench.clock.advance(8 * DAY);
        assert!(others.prune().swept.count > 0 && others.count("snap/") == 3);
    });
    let undone = place.over(store as Arc<dyn WriteStore>).undo(newest);
    assert!(matches!(undone, Err(ForgetError::TooLate { .. })), "{undone:?}");
    place.expect_whole("forgotten again");
    assert!(matches!(place.undo(newest), Err(ForgetError::TooLate { .. })), "nor is it later");
    place.prune();
    place.expect_whole("pruned");
}
