//! The restore drill: it proves what comes back, says what does not, and takes every byte from the store.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use backup_writer::backup::{BackupOptions, backup};
use backup_writer::drill::{DrillOptions, DrillReport, drill};
use fs_core::observer::{Observer, Silent};
use fs_core::path::TreePath;
use fs_core::report::Place;
use fs_core::storage::WriteStore;
use fs_core::storage::memory::MemoryStore;
use fs_core::testing::{CallKind, CountingStore, Fault, FaultyStore, Rule};
use rustix::fs::XattrFlags;
use serde_json::Value;
use tests::{Bench, noise, options};

use super::cli::Shell;
use super::mount::view;

const FILES: u64 = 46;

/// Files of every way of being stored, in one folder.
fn write_source(folder: &Path) {
    std::fs::create_dir_all(folder.join("small")).unwrap();
    (0..40u64).for_each(|n| std::fs::write(folder.join(format!("small/{n}")), noise(n, 100 + 37 * usize::try_from(n).unwrap())).unwrap());
    std::fs::write(folder.join("one record"), noise(50, 200_001)).unwrap();
    std::fs::write(folder.join("few records"), noise(51, 3_000_001)).unwrap();
    std::fs::write(folder.join("list"), noise(52, 12_000_003)).unwrap();
    std::fs::write(folder.join("empty"), "").unwrap();
    std::fs::write(folder.join("described"), "x".repeat(5000)).unwrap();
    rustix::fs::lsetxattr(folder.join("described"), "user.long", &noise(53, 3000), XattrFlags::empty()).unwrap();
    let sparse = std::fs::File::create(folder.join("sparse")).unwrap();
    sparse.set_len(40_000_000).unwrap();
    sparse.write_all_at(&noise(54, 300_000), 1_000_001).unwrap();
    sparse.write_all_at(b"at the end", 39_999_000).unwrap();
}

fn saved() -> (tempfile::TempDir, MemoryStore, Bench) {
    let (place, memory) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    write_source(&place.path().join("source"));
    let bench = Bench::new(Arc::new(memory.clone())).unwrap();
    bench.backup(&place.path().join("source"), None).unwrap();
    (place, memory, bench)
}

fn all(seed: u64) -> DrillOptions<'static> {
    DrillOptions { file_max: u64::MAX, byte_max: u64::MAX, seed, prefers_new: true, state: None }
}

fn drilled(bench: &Bench, how: &DrillOptions<'_>) -> (DrillReport, Vec<String>) {
    let paths = Paths::default();
    let report = drill(&view(bench, None), how, &paths).unwrap();
    (report, paths.0.into_inner().unwrap())
}

/// Notes which files are drilled.
#[derive(Default)]
struct Paths(Mutex<Vec<String>>);

impl Observer for Paths {
    fn at(&self, path: &TreePath) {
        self.0.lock().unwrap().push(path.to_string());
    }
}

#[test]
fn every_kind_of_file_comes_back_and_every_byte_comes_from_the_store() {
    let (_place, memory, bench) = saved();
    let counting = CountingStore::new(Arc::new(memory));
    let bench = Bench { store: Arc::clone(&counting) as Arc<dyn WriteStore>, ..bench };
    let shown = view(&bench, None);
    counting.reset();
    let report = drill(&shown, &all(1), &Silent).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert!(report.file_count > FILES * 9 / 10 && report.empty_count <= 1 && report.unproven_count == 0, "{report:?}");
    let large = 12_000_003 + 3_000_001;
    let stored = counting.counts().bytes_down;
    assert!(report.byte_count > large && stored > large, "{report:?}, {stored} bytes of it were fetched");
    assert_eq!(report.drills.len(), 1);
    assert_eq!((report.drills[0].file_count, report.drills[0].byte_count), (report.file_count, report.byte_count));
}

#[test]
fn a_seed_draws_the_same_files_and_another_one_others() {
    let (_place, _memory, bench) = saved();
    let some = |seed| DrillOptions { file_max: 8, prefers_new: false, ..all(seed) };
    let (first, again, other) = (drilled(&bench, &some(1)).1, drilled(&bench, &some(1)).1, drilled(&bench, &some(2)).1);
    assert_eq!((first.len(), &first), (8, &again));
    assert_ne!(first, other);
}

#[test]
fn what_was_never_drilled_comes_first_and_the_last_proof_is_remembered() {
    let (place, _memory, bench) = saved();
    let state = place.path().join("state");
    let some = |seed| DrillOptions { file_max: 10, state: Some(&state), ..all(seed) };
    let mut seen = BTreeSet::new();
    for seed in 0..4 {
        let (report, paths) = drilled(&bench, &some(seed));
        assert_eq!((report.file_count, paths.len()), (10, 10), "{report:?}");
        seen.extend(paths);
        bench.clock.advance(std::time::Duration::from_secs(86_400));
    }
    // Of 46, 40 were drawn; without memory about 27 different ones would be.
    assert!(seen.len() >= 35, "{} different files", seen.len());
    let repository = bench.open().unwrap();
    let last = backup_writer::proven::Proven::open_to_read(&state, &repository).unwrap().last_drills();
    let snapshot = repository.snapshots().unwrap().pop().unwrap();
    assert_eq!((last.len(), last[0].host.as_str(), last[0].file_count, last[0].snapshot), (1, "host", 10, snapshot.id));
    assert_eq!(last[0].time.seconds(), fs_core::time::Clock::now(&*bench.clock).seconds() - 86_400);
    let text = std::fs::read(state.join("proven.db")).unwrap();
    assert!(!text.windows(4).any(|window| window == b"host"), "no name stands there in clear");
}

#[test]
fn hosts_and_sets_take_turns_and_old_snapshots_are_drilled_too() {
    let (place, _memory, bench) = saved();
    let other = place.path().join("other");
    std::fs::create_dir(&other).unwrap();
    (0..30u64).for_each(|n| std::fs::write(other.join(n.to_string()), noise(100 + n, 500)).unwrap());
    for round in 0..5u64 {
        bench.clock.advance(std::time::Duration::from_secs(60));
        std::fs::write(other.join("changes"), noise(200 + round, 1000)).unwrap();
        let how = BackupOptions { set: Some("other".into()), ..options(&other, None) };
        backup(&bench.open().unwrap(), &bench.store, &how, &Silent).unwrap();
    }
    let (report, paths) = drilled(&bench, &DrillOptions { file_max: 30, ..all(5) });
    assert!(report.findings.is_empty() && report.file_count == 30, "{report:?}");
    assert_eq!(report.drills.iter().map(|drill| (drill.set.as_str(), drill.file_count)).collect::<Vec<_>>(), [("", 15), ("other", 15)]);
    assert_eq!(paths.iter().filter(|path| path.contains("/other/")).count(), 15);
}

#[test]
fn what_does_not_come_back_is_named_and_proves_nothing() {
    let (place, memory, bench) = saved();
    let state = place.path().join("state");
    let pack =
        memory.contents().into_iter().filter(|(name, _)| name.as_str().starts_with("pack/")).max_by_key(|(_, bytes)| bytes.len()).unwrap();
    let mut bytes = pack.1.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    memory.overwrite(&pack.0, Some(bytes.into()));
    let (report, _) = drilled(&bench, &DrillOptions { state: Some(&state), ..all(1) });
    assert_eq!((report.failed_count, report.findings.len(), report.drills.len()), (1, 1, 0), "{:?}", report.findings);
    let finding = &report.findings[0];
    let snapshot = bench.open().unwrap().snapshots().unwrap().pop().unwrap().id.short();
    assert!(matches!(&finding.place, Place::Path(path) if path.to_string().ends_with("/list")), "{finding}");
    assert!(finding.message.contains(&snapshot) && finding.message.contains("at byte"), "{finding}");
    assert!(report.file_count > FILES / 2, "the others come back");
    // A tree that is gone is no file, and is told.
    memory
        .contents()
        .into_iter()
        .filter(|(name, _)| name.as_str().starts_with("meta/"))
        .for_each(|(name, _)| drop(memory.overwrite(&name, None)));
    let (report, _) = drilled(&bench, &all(1));
    assert!(report.file_count == 0 && report.failed_count == 1 && !report.findings.is_empty(), "{report:?}");
}

#[test]
fn a_store_that_does_not_answer_is_no_damage() {
    let (_place, memory, bench) = saved();
    let rule = Rule::every(Fault::Timeout).kind(CallKind::GetRange);
    let faulty = FaultyStore::new(Arc::new(memory), vec![rule]);
    let bench = Bench { store: faulty as Arc<dyn WriteStore>, ..bench };
    let error = drill(&view(&bench, None), &all(1), &Silent).unwrap_err();
    assert!(!error.is_damage(), "{error}");
}

#[test]
fn bytes_bound_a_drill_and_what_is_too_large_is_counted() {
    let (_place, _memory, bench) = saved();
    let (report, _) = drilled(&bench, &DrillOptions { byte_max: 100_000, ..all(3) });
    assert!(report.byte_count <= 100_000 && report.file_count > 10 && report.passed_over_count > 0, "{report:?}");
    let empty = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    assert_eq!(drilled(&empty, &all(1)).0.file_count, 0, "where nothing is saved nothing is proven");
}

fn records(text: &str, kind: &str) -> Vec<Value> {
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|record| record["type"] == kind).collect()
}

#[test]
fn the_program_drills_and_shows_it_where_snapshots_are_listed() {
    let shell = Shell::with_backup(&[("letter.txt", b"dear all"), ("large", &noise(1, 2_000_000))]);
    assert!(!shell.ok(&["snapshots"]).contains("restorable"), "nothing is claimed before");
    let said = shell.ok(&["check", "--restore-drill=20"]);
    assert!(said.contains("everything that was read came back: 2 files") && said.contains("--seed "), "{said}");
    assert!(said.contains("last proven restorable: "), "{said}");
    for command in [&["snapshots"][..], &["check"]] {
        let shown = shell.ok(command);
        assert!(shown.contains("last proven restorable: ") && shown.contains("2 files"), "{shown}");
    }
    let text = shell.ok(&["check", "--restore-drill", "--seed", "7", "--json"]);
    let (drills, proven) = (records(&text, "drill"), records(&text, "proven"));
    assert_eq!((drills[0]["seed"].as_u64(), drills[0]["files"].as_u64(), proven[0]["files"].as_u64()), (Some(7), Some(2), Some(2)));
    assert_eq!(records(&shell.ok(&["snapshots", "--json"]), "proven"), proven);
    // Whatever this machine remembers, the store is what is proven.
    let pack =
        std::fs::read_dir(shell.path("repository/pack")).unwrap().flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap());
    let pack = pack.map(|file| file.unwrap().path()).max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(&pack).unwrap();
    std::fs::write(&pack, bytes).unwrap();
    shell.fails(&["check", "--restore-drill"], 3, "source/large: in snapshot ");
    assert_eq!(records(&shell.ok(&["snapshots", "--json"]), "proven"), proven, "the last proof stays the last");
    shell.fails(&["check", "--seed", "1"], 2, "--restore-drill");
    shell.fails(&["check", "--restore-drill=0"], 2, "proves nothing");
    shell.fails(&["check", "--read-data=cycle:0d"], 2, "cycle:30d");
}

#[test]
fn the_program_reads_in_a_cycle() {
    let shell = Shell::with_backup(&[("letter.txt", b"dear all")]);
    // New packs wait for their day: these are three days old.
    for folder in ["pack", "meta"].iter().flat_map(|kind| std::fs::read_dir(shell.path("repository").join(kind)).unwrap()) {
        for pack in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let file = std::fs::File::open(pack.unwrap().path()).unwrap();
            file.set_modified(file.metadata().unwrap().modified().unwrap() - std::time::Duration::from_secs(3 * 86_400)).unwrap();
        }
    }
    let read = |flags: &[&str]| records(&shell.ok(&[&["check", "--json"], flags].concat()), "check").remove(0);
    let first = read(&["--read-data=cycle:1d"]);
    assert_eq!((first["packs_read"].as_u64(), first["packs_never_read"].as_u64()), (Some(2), Some(0)));
    let again = read(&["--read-data=cycle:1d"]);
    assert_eq!(again["packs_read"].as_u64(), Some(0));
    let bounded = read(&["--read-data", "--max-download", "10"]);
    assert_eq!((bounded["packs_read"].as_u64(), bounded["packs_waiting"].as_u64()), (Some(0), Some(2)));
    assert!(shell.ok(&["check"]).contains("all packs were read since "));
    assert!(shell.ok(&["check", "--read-data=1/1"]).contains("2 packs read in full"));
}
