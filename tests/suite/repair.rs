//! The index is rebuilt from the packs, and nothing is deleted by it.

use std::collections::BTreeSet;
use std::sync::Arc;

use backup_writer::check::{ReadData, check};
use backup_writer::forget::authorise;
use backup_writer::packer::{list_packs, put_shard, read_trailer};
use backup_writer::repair::{RepairOptions, RepairReport, repair_index};
use bytes::Bytes;
use fs_core::index::Shard;
use fs_core::object::{self, ObjectKind};
use fs_core::observer::Silent;
use fs_core::pack::PackBuilder;
use fs_core::storage::memory::MemoryStore;
use fs_core::storage::{ObjectName, WriteStore, wait};
use fs_core::testing::simulator::{Simulator, run_at_every_call};
use fs_core::testing::{CallKind, Fault, RecordingStore, SeededRandom};
use serde_json::Value;
use tests::{Bench, later_than_any_file};

use super::cli::Shell;
use super::merge::{Place, record_count, said};

fn repair(bench: &Bench, all: bool) -> anyhow::Result<RepairReport> {
    let repository = bench.open()?;
    let signer = authorise(&repository, &*bench.store, None, "host")?;
    Ok(repair_index(&repository, &*bench.store, &signer, &RepairOptions { all }, &Silent)?)
}

/// A repository of its own with the same objects.
fn fork(place: &Place) -> (MemoryStore, Bench) {
    let memory = place.memory.fork();
    (memory.clone(), Bench { store: Arc::new(memory), ..place.bench.clone() })
}

/// What the next backup of the same and something new adds, by kind of object.
fn growth(memory: &MemoryStore, bench: &Bench, place: &Place) -> Vec<(String, usize)> {
    let packs = |memory: &MemoryStore| -> BTreeSet<(ObjectName, usize)> {
        let all = memory.contents().into_iter().map(|(name, bytes)| (name, bytes.len()));
        all.filter(|(name, _)| name.as_str().starts_with("pack/") || name.as_str().starts_with("meta/")).collect()
    };
    let before = packs(memory);
    // All that was ever saved once more, under other names.
    for n in 0..6 {
        std::fs::write(place.source.path().join(format!("again {n}")), format!("what run {n} saves")).unwrap();
    }
    bench.backup(place.source.path(), None).unwrap();
    for n in 0..6 {
        std::fs::remove_file(place.source.path().join(format!("again {n}"))).unwrap();
    }
    let mut new: Vec<_> = packs(memory).difference(&before).map(|(name, size)| (name.as_str()[..4].to_owned(), *size)).collect();
    new.sort();
    new
}

#[test]
fn whatever_is_lost_of_the_index_is_there_again_afterwards() {
    let place = Place::new();
    place.back_up(0..6, None);
    let (whole, shards) = (said(&place.bench), place.names("idx/"));
    let expected = {
        let (memory, bench) = fork(&place);
        growth(&memory, &bench, &place)
    };
    assert!(expected.iter().all(|(kind, _)| kind == "meta"), "{expected:?}");
    let check_repaired = |lose: &dyn Fn(&MemoryStore), (damaged, added): (usize, u64), what: &str| {
        let (memory, bench) = fork(&place);
        lose(&memory);
        let kept: BTreeSet<_> = memory.contents().into_iter().map(|(name, _)| name).collect();
        let report = repair(&bench, false).unwrap();
        assert_eq!((report.findings.len(), report.added_count, report.read_count), (damaged, added, added), "{what}: {report:?}");
        assert_eq!(said(&bench), whole, "{what}");
        let now: BTreeSet<_> = memory.contents().into_iter().map(|(name, _)| name).collect();
        assert!(now.is_superset(&kept), "{what}: it only adds");
        assert_eq!(growth(&memory, &bench, &place), expected, "{what}");
        assert_eq!(repair(&bench, true).unwrap().added_count, 0, "{what}: once is enough");
    };
    check_repaired(&|_| {}, (0, 0), "nothing");
    check_repaired(&|memory| shards.iter().for_each(|name| drop(memory.overwrite(name, None))), (0, 12), "all");
    for name in &shards {
        check_repaired(&|memory| drop(memory.overwrite(name, None)), (0, 2), "one");
        let cut = |memory: &MemoryStore| drop(memory.overwrite(name, Some(Bytes::from_static(b"\x89YDR damaged"))));
        check_repaired(&cut, (1, 2), "one damaged");
    }
}

/// A shard that names a pack and has a part of it, as no writer makes them.
#[test]
fn all_looks_into_packs_that_are_named() {
    let place = Place::new();
    place.back_up(0..3, None);
    let whole = said(&place.bench);
    let repository = place.bench.open().unwrap();
    let signer = authorise(&repository, &*place.bench.store, None, "host").unwrap();
    let (listed, mut parts) = (repository.list_shards().unwrap(), Vec::new());
    repository
        .read_shards(&listed, |listed, shard| {
            parts.push((*listed, shard.unwrap()));
            Ok::<_, ()>(())
        })
        .unwrap();
    let (first, shard) = &parts[0];
    let mut part = Shard::default();
    for pack in shard.packs() {
        let mut trailer = read_trailer(&repository, pack.id, pack.kind, pack.size).unwrap();
        if pack.kind == ObjectKind::MetaPack {
            trailer.records.pop();
        }
        part.add_pack(*pack, &trailer);
    }
    part.sort();
    put_shard(&repository, &*place.bench.store, &signer, &part).unwrap();
    place.memory.overwrite(&first.name(), None);
    assert_ne!(said(&place.bench), whole);
    assert_eq!(repair(&place.bench, false).unwrap().read_count, 0);
    let report = repair(&place.bench, true).unwrap();
    assert_eq!((report.read_count, report.added_count, report.written_count), (6, 1, 1));
    assert_eq!(said(&place.bench), whole);
}

#[test]
fn packs_that_do_not_open_are_told_and_left_alone() {
    let place = Place::new();
    place.back_up(0..3, None);
    let (packs, shards) = (place.names("pack/"), place.names("idx/"));
    shards.iter().for_each(|name| drop(place.memory.overwrite(name, None)));
    place.memory.overwrite(&packs[0], Some(Bytes::from(vec![7; 4000])));
    place.memory.overwrite(&packs[1], Some(Bytes::from_static(b"x")));
    let report = repair(&place.bench, false).unwrap();
    assert_eq!((report.pack_count, report.added_count, report.findings.len()), (6, 4, 2), "{report:?}");
    assert_eq!(place.names("pack/"), packs);
}

#[test]
fn every_store_call_of_a_repair_may_fail_in_every_way() {
    let source = tempfile::tempdir().unwrap();
    for fault in Fault::ALL {
        let bench_of = |simulator: &Simulator, store, seed| Bench {
            store,
            clock: simulator.clock(),
            random: SeededRandom::shared(seed),
            ..Bench::new(Arc::new(MemoryStore::new())).unwrap()
        };
        let prepare = |simulator: &Simulator| {
            simulator.clock().set(later_than_any_file());
            let bench = Bench { clock: simulator.clock(), ..Bench::new(Arc::new(simulator.memory().clone())).unwrap() };
            for n in 0..4 {
                std::fs::write(source.path().join("file"), format!("{fault:?} {n}")).unwrap();
                bench.backup(source.path(), None).unwrap();
            }
            let shards: Vec<_> = simulator.memory().contents().into_iter().filter(|(name, _)| name.as_str().starts_with("idx/")).collect();
            shards.iter().skip(1).for_each(|(name, _)| drop(simulator.memory().overwrite(name, None)));
        };
        let operation = |simulator: &Simulator| repair(&bench_of(simulator, simulator.store(), 8), true);
        let calls = run_at_every_call(5, fault, prepare, operation, |simulator, outcome| {
            let bench = bench_of(simulator, Arc::new(simulator.memory().clone()), 9);
            let is_whole = said(&bench).len() == record_count(&bench);
            let is_told = outcome.result.as_ref().map_or(true, |report| !report.findings.is_empty());
            assert!(is_whole || is_told || !fault.keeps_contract(), "call {}: {:?}", outcome.call, outcome.result);
            repair(&bench, false).unwrap();
            assert_eq!(said(&bench).len(), record_count(&bench), "call {}", outcome.call);
            let torn = fault == Fault::TornWrite && outcome.was_struck();
            let findings = check(&bench.open().unwrap(), ReadData::None, &Silent).unwrap().findings;
            assert!(torn || findings.is_empty(), "{fault:?}: {findings:?}");
        });
        assert!(calls >= 10, "{calls} calls");
    }
}

/// Copies the records of all packs verbatim into others, as a prune does, and removes the old ones.
fn move_packs(place: &Place) {
    let repository = place.bench.open().unwrap();
    let (ring, random) = (repository.ring(), &*place.bench.random);
    for (id, kind, size) in list_packs(&repository).unwrap() {
        let (trailer, name) = (read_trailer(&repository, id, kind, size).unwrap(), object::pack_name(kind, &id));
        let bytes = wait("", repository.store().get(&name)).unwrap();
        let mut builder = PackBuilder::new(kind, ring.epoch(), ring.repository, (size as usize, Vec::new()), random);
        for record in &trailer.records {
            let start = record.offset as usize;
            builder.push(&record.facts, &trailer.sessions[usize::from(record.session)], &bytes[start..start + record.stored_len as usize]);
        }
        let pack = builder.finish(&ring.current().structure, random);
        let moved = object::pack_name(kind, &pack.id);
        wait("", place.bench.store.put_new(&moved, pack.bytes.into(), &pack.hash)).unwrap();
        place.memory.overwrite(&name, None);
    }
}

/// Records that moved are found by the index that was rebuilt.
#[test]
fn what_moved_is_found_by_the_new_index() {
    let place = Place::new();
    std::fs::write(place.source.path().join("file"), "what moves").unwrap();
    place.bench.backup(place.source.path(), None).unwrap();
    // The same pack under another id is what a prune makes of it: the same records, elsewhere.
    let repository = place.bench.open().unwrap();
    let snapshot = repository.snapshots().unwrap().pop().unwrap();
    drop(repository);
    move_packs(&place);
    place.names("idx/").iter().for_each(|name| drop(place.memory.overwrite(name, None)));
    let restored = |bench: &Bench| {
        let target = tempfile::tempdir().unwrap();
        let repository = bench.open().unwrap();
        let options = backup_writer::restore::RestoreOptions::default();
        let what = tests::only(&snapshot, &fs_core::path::TreePath::ROOT);
        let _ = backup_writer::restore::restore(&repository, &what, target.path(), &options, &Silent);
        let file = place.source.path().strip_prefix("/").unwrap().join("file");
        std::fs::read_to_string(target.path().join(file)).ok()
    };
    assert_eq!(restored(&place.bench), None, "without an index nobody finds it");
    assert_eq!(repair(&place.bench, false).unwrap().added_count, 2);
    assert_eq!(restored(&place.bench).as_deref(), Some("what moves"));
}

#[test]
fn the_command_repairs_and_merges() {
    let shell = Shell::with_backup(&[("letter.txt", b"dear all")]);
    let shards = || std::fs::read_dir(shell.path("repository/idx")).unwrap().map(|item| item.unwrap().path()).collect::<Vec<_>>();
    assert!(shell.ok(&["repair", "index"]).contains("the index lacks nothing: 2 packs, 0 of them looked into"));
    assert!(shell.ok(&["repair", "index", "--all"]).contains("2 of them looked into"));
    shards().iter().for_each(|path| std::fs::remove_file(path).unwrap());
    assert!(shell.ok(&["repair", "index"]).contains("added 2 of 2 packs with"));
    let [shard] = &shards()[..] else { panic!("one shard") };
    std::fs::write(shard, "damaged").unwrap();
    shell.fails(&["repair", "index"], 3, "it is left alone");
    assert_eq!(shards().len(), 2);
    assert!(shell.ok(&["backup", "source"]).contains("snapshot"));
    std::fs::remove_file(shard).unwrap();
    (0..9).for_each(|n| {
        std::fs::write(shell.path("source/letter.txt"), format!("letter {n}")).unwrap();
        shell.ok(&["backup", "source"]);
    });
    let text = shell.ok(&["repair", "index", "--merge", "--json"]);
    let merged = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).find(|record| record["type"] == "merge").unwrap();
    assert_eq!(
        (&merged["shards"], &merged["merged"], &merged["written"], &merged["deleted"]),
        (&10.into(), &10.into(), &1.into(), &0.into())
    );
    assert!(shell.ok(&["repair", "index", "--merge"]).contains("10 wait for their time"));
    assert!(shell.ok(&["check", "--read-data"]).contains("no damage found"));
}

/// Adds nothing while nothing is lost: then it only lists and reads.
#[test]
fn a_repair_of_what_is_whole_writes_nothing() {
    let mut recording = None;
    let place = Place::with(|store| {
        let store = RecordingStore::new(store);
        recording = Some(Arc::clone(&store));
        store
    });
    place.back_up(0..3, None);
    let recording: Arc<RecordingStore> = recording.unwrap();
    let repository = place.bench.open().unwrap();
    let signer = authorise(&repository, &*place.bench.store, None, "host").unwrap();
    recording.take();
    let store: &dyn WriteStore = &*place.bench.store;
    repair_index(&repository, store, &signer, &RepairOptions { all: true }, &Silent).unwrap();
    assert_eq!((recording.places(CallKind::Put).len(), recording.places(CallKind::Delete).len()), (0, 0));
}
