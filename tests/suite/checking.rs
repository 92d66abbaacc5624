//! What `check` costs, finds and remembers.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backup_writer::check::{CheckOptions, CheckReport, ReadData, check};
use backup_writer::packer::read_trailer;
use bytes::Bytes;
use fs_core::id::{DeviceId, KeyId, ObjectHash};
use fs_core::object::{self, ObjectKind};
use fs_core::observer::{Observer, Progress, Silent};
use fs_core::report::{Finding, Place};
use fs_core::storage::memory::MemoryStore;
use fs_core::storage::{ObjectName, WriteStore};
use fs_core::testing::{CallKind, CountingStore, Fault, FaultyStore, Rule};
use tests::{Bench, noise};

const DAY: Duration = Duration::from_secs(86_400);

/// A repository of many small packs, with what this machine remembers of it.
struct Saved {
    memory: MemoryStore,
    bench: Bench,
    place: tempfile::TempDir,
}

impl Saved {
    fn new() -> Self {
        let (place, memory) = (tempfile::tempdir().unwrap(), MemoryStore::new());
        let bench = Bench::new(Arc::new(memory.clone())).unwrap().with_small_packs().unwrap();
        let source = place.path().join("source");
        for n in 0..40u64 {
            let folder = source.join(format!("{}", n / 10));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(format!("{n}")), noise(n, 1_000_000)).unwrap();
        }
        bench.backup(&source, None).unwrap();
        let saved = Self { memory, bench, place };
        assert!(saved.packs("pack/").len() > 30, "{} packs", saved.packs("pack/").len());
        saved
    }

    fn packs(&self, prefix: &str) -> Vec<(ObjectName, Bytes)> {
        self.memory.contents().into_iter().filter(|(name, _)| name.as_str().starts_with(prefix)).collect()
    }

    fn state(&self) -> std::path::PathBuf {
        self.place.path().join("state")
    }

    fn check(&self, how: impl Into<CheckOptions>) -> CheckReport {
        check(&self.bench.open().unwrap(), how, &Silent).unwrap()
    }

    fn remembering(&self, read_data: ReadData) -> CheckOptions {
        CheckOptions { read_data, state: Some(self.state()), ..CheckOptions::default() }
    }

    fn flip(&self, name: &ObjectName, at: usize) {
        let mut bytes = self.memory.overwrite(name, None).unwrap().to_vec();
        bytes[at] ^= 1;
        self.memory.overwrite(name, Some(bytes.into()));
    }
}

fn names(report: &CheckReport, name: &ObjectName) -> bool {
    report.findings.iter().any(|finding| finding.place == Place::Object(name.as_str().into()))
}

/// Files that findings name.
fn files(report: &CheckReport) -> usize {
    report.findings.iter().filter(|finding| matches!(finding.place, Place::Path(_))).count()
}

#[test]
fn presence_costs_no_request_for_any_pack_of_data() {
    let saved = Saved::new();
    let counting = CountingStore::new(Arc::new(saved.memory.clone()));
    let bench = Bench { store: Arc::clone(&counting) as Arc<dyn WriteStore>, ..saved.bench.clone() };
    let repository = bench.open().unwrap();
    counting.reset();
    let report = check(&repository, ReadData::None, &Silent).unwrap();
    let (counts, packs) = (counting.counts(), saved.packs("pack/").len() as u64);
    assert!(report.findings.is_empty() && report.pack_count > packs && report.packs_read == 0, "{report:?}");
    println!("{packs} packs of data: {counts:?}");
    assert!(counts.requests() < packs && counts.bytes_down < 1 << 20, "{counts:?} for {packs} packs");
    let all = saved.check(ReadData::All);
    assert_eq!((all.record_count, all.packs_read, all.unindexed_count), (report.record_count, report.pack_count, 0));
}

#[test]
fn presence_misses_what_is_gone_or_has_another_size_and_says_whose_it_is() {
    let saved = Saved::new();
    let (name, bytes) = saved.packs("pack/").swap_remove(7);
    let longer = [&bytes[..], b"more"].concat();
    for damaged in [None, Some(bytes.slice(..bytes.len() - 1)), Some(longer.into())] {
        saved.memory.overwrite(&name, damaged);
        let report = saved.check(ReadData::None);
        assert!(names(&report, &name), "{:?}", report.findings);
        assert!((1..6).contains(&files(&report)), "a few files have parts in it: {:?}", report.findings);
    }
    saved.memory.overwrite(&name, Some(bytes));
    assert!(saved.check(ReadData::None).findings.is_empty());
}

#[test]
fn without_an_index_the_ends_of_packs_say_what_they_hold() {
    let saved = Saved::new();
    let indexed = saved.check(ReadData::None);
    for (name, _) in saved.packs("idx/") {
        saved.memory.overwrite(&name, None);
    }
    let report = saved.check(ReadData::None);
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert_eq!((report.unindexed_count, report.record_count), (report.pack_count, indexed.record_count));
    let (name, _) = saved.packs("pack/").swap_remove(3);
    let end = saved.memory.contents().into_iter().find(|(known, _)| *known == name).unwrap().1.len() - 60;
    saved.flip(&name, end);
    let report = saved.check(ReadData::None);
    assert!(names(&report, &name) && files(&report) > 0, "{:?}", report.findings);
}

#[test]
fn a_damaged_record_names_its_pack_and_its_file_and_a_damaged_end_only_the_pack() {
    let saved = Saved::new();
    let (name, bytes) = saved.packs("pack/").swap_remove(5);
    let (repository, id) = (saved.bench.open().unwrap(), object::parse_pack_name(ObjectKind::DataPack, &name).unwrap());
    let trailer = read_trailer(&repository, id, ObjectKind::DataPack, bytes.len() as u64).unwrap();
    saved.flip(&name, trailer.records[0].offset as usize + 30);
    assert!(saved.check(ReadData::None).findings.is_empty(), "it is there");
    let report = saved.check(ReadData::All);
    assert!(names(&report, &name) && files(&report) == 1, "{:?}", report.findings);
    saved.memory.overwrite(&name, Some(bytes.clone()));
    // The index knows what it holds, and all of it opens.
    let padding = {
        let last = trailer.records.last().unwrap();
        (last.offset + last.stored_len) as usize
    };
    for at in [bytes.len() - 100, bytes.len() - 10, padding] {
        saved.memory.overwrite(&name, Some(bytes.clone()));
        saved.flip(&name, at);
        let report = saved.check(ReadData::All);
        assert!(names(&report, &name) && files(&report) == 0, "at {at}: {:?}", report.findings);
    }
}

#[test]
fn a_cycle_reads_everything_in_its_days_and_finds_what_rots_meanwhile() {
    let saved = Saved::new();
    let cycle = || saved.check(saved.remembering(ReadData::Cycle { days: 5 }));
    let (mut read, mut all) = (0, 0);
    for day in 0..5 {
        let report = cycle();
        assert!(report.findings.is_empty() && report.packs_read < report.pack_count, "day {day}: {report:?}");
        (read, all) = (read + report.packs_read, report.pack_count);
        assert_eq!(report.never_read, Some(all - read), "day {day}");
        assert_eq!(cycle().packs_read, 0, "once a day is enough");
        saved.bench.clock.advance(DAY);
    }
    assert_eq!(read, all);
    // Two days without a run are caught up.
    let quiet = cycle().packs_read;
    saved.bench.clock.advance(DAY * 3);
    assert!(cycle().packs_read > quiet);
    let (name, bytes) = saved.packs("pack/").swap_remove(11);
    saved.flip(&name, bytes.len() / 3);
    let found = (0..5).any(|_| {
        saved.bench.clock.advance(DAY);
        names(&cycle(), &name)
    });
    assert!(found, "within the cycle");
    // What is damaged stays due until it is not.
    let again = cycle();
    assert!(again.packs_read == 1 && names(&again, &name), "{again:?}");
    saved.memory.overwrite(&name, Some(bytes));
    for _ in 0..5 {
        saved.bench.clock.advance(DAY);
        assert!(cycle().findings.is_empty());
    }
}

#[test]
fn a_bound_on_bytes_holds_and_the_rest_comes_next() {
    let saved = Saved::new();
    let bounded = |bytes| CheckOptions { download_max: Some(bytes), ..saved.remembering(ReadData::All) };
    let (mut runs, mut waiting) = (0, u64::MAX);
    while waiting > 0 {
        let report = saved.check(bounded(12 << 20));
        assert!(report.bytes_read <= 12 << 20 && report.findings.is_empty(), "{report:?}");
        // Those that were never read come first, so nothing is read twice before all were.
        if let Some(never) = report.never_read.filter(|_| waiting != u64::MAX && runs < 3) {
            assert!(never < waiting, "run {runs}");
        }
        (runs, waiting) = (runs + 1, report.never_read.unwrap());
        saved.bench.clock.advance(DAY);
        assert!(runs < 8);
    }
    assert!(runs >= 3, "{runs}");
    let none = saved.check(bounded(10));
    assert_eq!((none.packs_read, none.waiting_count), (0, none.pack_count));
}

/// Stops when so many packs were read.
struct StopsAfter(AtomicU64);

impl Observer for StopsAfter {
    fn progress(&self, progress: &Progress) {
        if progress.byte_total > 0 {
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(1))).unwrap();
        }
    }

    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

#[test]
fn who_stops_it_keeps_what_is_proven() {
    let saved = Saved::new();
    let how = saved.remembering(ReadData::All);
    let stopped = check(&saved.bench.open().unwrap(), how, &StopsAfter(AtomicU64::new(9))).unwrap();
    assert!((9..20).contains(&stopped.packs_read) && stopped.waiting_count == stopped.pack_count - stopped.packs_read, "{stopped:?}");
    assert_eq!(stopped.never_read, Some(stopped.waiting_count));
    let rest = CheckOptions { download_max: Some(stopped.waiting_bytes), ..saved.remembering(ReadData::All) };
    assert_eq!(saved.check(rest).never_read, Some(0), "it goes on where it was stopped");
}

#[test]
fn what_is_remembered_may_be_lost_or_damaged() {
    let saved = Saved::new();
    let all = saved.check(saved.remembering(ReadData::All));
    assert_eq!(all.never_read, Some(0));
    let spoil = |path: &Path| std::fs::write(path, "no database at all, but long enough to be looked at".repeat(50)).unwrap();
    for end in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(saved.state().join(format!("proven.db{end}")));
    }
    spoil(&saved.state().join("proven.db"));
    let again = saved.check(saved.remembering(ReadData::Cycle { days: 2 }));
    assert!(again.findings.is_empty() && again.never_read.is_some_and(|never| never < again.pack_count), "{again:?}");
    std::fs::remove_dir_all(saved.state()).unwrap();
    std::fs::write(saved.state(), "in the way").unwrap();
    let without = saved.check(saved.remembering(ReadData::Cycle { days: 1 }));
    assert_eq!((without.never_read, without.packs_read), (None, without.pack_count), "what cannot be remembered is read all the same");
}

/// Whoever may put objects can put some that are too large to be what they are called. They close nothing.
#[test]
fn objects_that_are_too_large_are_in_nobodys_way() {
    let saved = Saved::new();
    let hash = ObjectHash::from_bytes([7; 32]);
    let large = [
        object::config_name(99, &hash),
        object::slot_name(&KeyId::from_bytes([7; 16])),
        object::device_name(&DeviceId::from_bytes([7; 16]), &hash),
    ];
    for name in &large {
        saved.memory.overwrite(name, Some(vec![7; 3 << 20].into()));
    }
    saved.bench.backup(&saved.place.path().join("source"), None).unwrap();
    let report = saved.check(ReadData::None);
    assert!(large.iter().all(|name| names(&report, name)), "{:?}", report.findings);
    assert_eq!((report.findings.len(), report.snapshot_count), (3, 2));
}

/// Each snapshot is asked for: what they share is read once, and what is wrong with it is wrong with all of them.
#[test]
fn damage_is_told_of_every_snapshot_that_shows_it() {
    let saved = Saved::new();
    let source = saved.place.path().join("source");
    for n in 0..3u64 {
        std::fs::write(source.join("new"), noise(n + 100, 1000)).unwrap();
        saved.bench.backup(&source, None).unwrap();
    }
    let counting = CountingStore::new(Arc::new(saved.memory.clone()));
    let bench = Bench { store: Arc::clone(&counting) as Arc<dyn WriteStore>, ..saved.bench.clone() };
    let snapshots = bench.open().unwrap().snapshots().unwrap();
    let (first, last) = (snapshots[0].id.short(), snapshots[3].id.short());
    let (name, _) = saved.packs("pack/").swap_remove(2);
    let bytes = saved.memory.overwrite(&name, None);
    let report = saved.check(ReadData::None);
    assert!((1..6).contains(&files(&report)), "{:?}", report.findings);
    let told = format!("in 4 snapshots, from {first} to {last}: ");
    let of_files = report.findings.iter().filter(|finding| matches!(finding.place, Place::Path(_)));
    assert!(of_files.clone().all(|finding| finding.message.starts_with(&told)), "{:?}", report.findings);
    // In the newest one only.
    saved.memory.overwrite(&name, bytes);
    std::fs::write(source.join("newer"), noise(900, 300_000)).unwrap();
    let before = saved.packs("pack/");
    let newest = saved.bench.backup(&source, None).unwrap().snapshot.short();
    for (name, _) in saved.packs("pack/").into_iter().filter(|named| !before.contains(named)) {
        saved.memory.overwrite(&name, None);
    }
    let report = saved.check(ReadData::None);
    let told: Vec<_> =
        report.findings.iter().filter(|finding| matches!(finding.place, Place::Path(_))).map(|finding| &finding.message).collect();
    assert!(!told.is_empty() && told.iter().all(|message| message.starts_with(&format!("in snapshot {newest}: "))), "{told:?}");
}

/// A disk that has lost one object does not hide what else is wrong; a line that is cut is no damage to everything behind it.
#[test]
fn one_object_that_cannot_be_read_is_a_finding_and_a_store_that_cannot_be_read_an_error() {
    let saved = Saved::new();
    let over = |rules: Vec<Rule>| {
        let store = FaultyStore::new(Arc::new(saved.memory.clone()), rules);
        let bench = Bench { store: store as Arc<dyn WriteStore>, ..saved.bench.clone() };
        let seen = Seen::default();
        (check(&bench.open().unwrap(), ReadData::All, &seen), seen)
    };
    let (name, _) = saved.packs("pack/").swap_remove(4);
    let unreadable = Rule::every(Fault::ErrorBefore).prefix(name.as_str());
    let (report, _) = over(vec![unreadable.clone()]);
    let report = report.unwrap();
    assert!(names(&report, &name) && report.packs_read == report.pack_count, "{report:?}");
    let damaged = saved.packs("pack/").swap_remove(6).0;
    saved.flip(&damaged, 5000);
    let (error, seen) =
        over([CallKind::Get, CallKind::GetRange].map(|kind| Rule::every(Fault::ErrorBefore).prefix("pack/").kind(kind)).to_vec());
    assert!(error.is_err(), "{error:?}");
    let told = seen.0.lock().unwrap().len();
    assert!((16..40).contains(&told), "{told} findings");
}

/// What an observer is told.
#[derive(Default)]
struct Seen(Mutex<Vec<Finding>>);

impl Observer for Seen {
    fn finding(&self, finding: &Finding) {
        self.0.lock().unwrap().push(finding.clone());
    }
}

#[test]
fn small_objects_have_their_day_in_a_cycle_too() {
    let saved = Saved::new();
    let source = saved.place.path().join("source");
    for _ in 0..20 {
        saved.bench.backup(&source, None).unwrap();
    }
    let counting = CountingStore::new(Arc::new(saved.memory.clone()));
    let bench = Bench { store: Arc::clone(&counting) as Arc<dyn WriteStore>, ..saved.bench.clone() };
    let small = |read_data| {
        let repository = bench.open().unwrap();
        counting.reset();
        check(&repository, saved.remembering(read_data), &Silent).unwrap();
        counting.counts().get
    };
    let (none, all) = (small(ReadData::None), small(ReadData::All));
    assert!(all > none + 40, "{none} and {all} objects");
    let days: Vec<_> = (0..10)
        .map(|_| {
            saved.bench.clock.advance(DAY);
            small(ReadData::Cycle { days: 10 }) - none
        })
        .collect();
    assert!(days.iter().all(|count| *count < (all - none) / 2) && days.iter().sum::<u64>() >= all - none, "{days:?} of {}", all - none);
    let (name, bytes) = saved.packs("seal/").swap_remove(3);
    saved.flip(&name, bytes.len() - 10);
    let found = (0..10).filter(|_| {
        saved.bench.clock.advance(DAY);
        names(&check(&bench.open().unwrap(), saved.remembering(ReadData::Cycle { days: 10 }), &Silent).unwrap(), &name)
    });
    assert!(found.count() >= 1);
}
