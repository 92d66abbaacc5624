//! The index and the catalogue stay small: merges, what they delete and when, and what they cost.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use backup_writer::backup::backup;
use backup_writer::check::{ReadData, check};
use backup_writer::device;
use backup_writer::forget::authorise;
use backup_writer::merge::{self, GRACE, MergeError, MergeOptions, MergeReport};
use backup_writer::packer::put_shard;
use bytes::Bytes;
use fs_core::id::ObjectHash;
use fs_core::index::merge::Merging;
use fs_core::observer::{Cancel, Silent};
use fs_core::report::{self, Severity};
use fs_core::repository::Repository;
use fs_core::storage::memory::MemoryStore;
use fs_core::storage::{ObjectName, WriteStore};
use fs_core::testing::simulator::{Simulator, run_at_every_call};
use fs_core::testing::{Call, CallKind, CountingStore, Fault, ManualClock, RecordingStore, SeededRandom};
use fs_core::time::Clock as _;
use tests::driven::is_long;
use tests::{Bench, later_than_any_file, noise};

const DAY: Duration = Duration::from_secs(86_400);

/// A repository whose store has the same clock as everybody else.
pub(super) struct Place {
    pub(super) memory: MemoryStore,
    pub(super) bench: Bench,
    pub(super) source: tempfile::TempDir,
}

impl Place {
    pub(super) fn new() -> Self {
        Self::with(|store| store)
    }

    /// With something between the repository and its store.
    pub(super) fn with(between: impl FnOnce(Arc<dyn WriteStore>) -> Arc<dyn WriteStore>) -> Self {
        let clock = ManualClock::at(later_than_any_file());
        let memory = MemoryStore::with_clock(clock.clone());
        let bench = Bench { clock, ..Bench::new(between(Arc::new(memory.clone()))).unwrap() };
        Self { memory, bench, source: tempfile::tempdir().unwrap() }
    }

    /// Small backups, each of one file that is new.
    pub(super) fn back_up(&self, numbers: std::ops::Range<u64>, state: Option<&Path>) {
        for n in numbers {
            std::fs::write(self.source.path().join("file"), format!("what run {n} saves")).unwrap();
            self.bench.clock.advance(Duration::from_secs(60));
            let repository = open(&self.bench, state).unwrap();
            backup(&repository, &self.bench.store, &tests::options(self.source.path(), state), &Silent).unwrap();
        }
    }

    pub(super) fn names(&self, prefix: &str) -> Vec<ObjectName> {
        self.memory.contents().into_iter().map(|(name, _)| name).filter(|name| name.as_str().starts_with(prefix)).collect()
    }

    pub(super) fn size(&self, prefix: &str) -> usize {
        self.memory.contents().into_iter().filter(|(name, _)| name.as_str().starts_with(prefix)).map(|(_, bytes)| bytes.len()).sum()
    }

    fn merge(&self) -> MergeReport {
        merge(&self.bench, &MergeOptions::default()).unwrap()
    }
}

/// As the program does on a machine that keeps what it has seen: otherwise thousands of runs check millions of signatures.
fn open(bench: &Bench, state: Option<&Path>) -> Result<Arc<Repository>> {
    state.map_or_else(|| bench.open(), |state| bench.open_like_the_program(Some(&state.join("seen"))))
}

fn merge(bench: &Bench, options: &MergeOptions) -> Result<MergeReport> {
    merge_as(bench, options, None)
}

/// As a machine that keeps who it is.
fn merge_as(bench: &Bench, options: &MergeOptions, state: Option<&Path>) -> Result<MergeReport> {
    let repository = open(bench, state)?;
    let signer = authorise(&repository, &*bench.store, state, "host")?;
    Ok(merge::run(&repository, &*bench.store, &signer, options, &Silent)?)
}

/// How many records there are in packs that are listed.
pub(super) fn record_count(bench: &Bench) -> usize {
    let repository = bench.open().unwrap();
    let packs = backup_writer::packer::list_packs(&repository).unwrap();
    packs.into_iter().map(|(id, kind, size)| backup_writer::packer::read_trailer(&repository, id, kind, size).unwrap().records.len()).sum()
}

/// Everything that the index says of packs that are listed.
pub(super) fn said(bench: &Bench) -> BTreeSet<String> {
    let repository = bench.open().unwrap();
    let (shards, _) = repository.shards().unwrap();
    let packs: Vec<_> = backup_writer::packer::list_packs(&repository).unwrap();
    let mut said = BTreeSet::new();
    for (id, kind, size) in packs {
        let trailer = backup_writer::packer::read_trailer(&repository, id, kind, size).unwrap();
        for (_, _, reference) in trailer.references(id) {
            let is_found = shards.iter().any(|shard| shard.find(&reference.id).any(|found| found.reference == reference));
            said.extend(is_found.then(|| format!("{reference:?}")));
        }
    }
    said
}

#[test]
fn small_shards_become_one_and_go_when_their_time_has_come() {
    let place = Place::new();
    place.back_up(0..20, None);
    let (before, shards) = (said(&place.bench), place.names("idx/"));
    assert_eq!((shards.len(), before.len()), (20, record_count(&place.bench)));
    let report = place.merge();
    assert_eq!((report.merged_count, report.written_count, report.deleted_count), (20, 1, 0));
    assert_eq!((place.names("idx/").len(), said(&place.bench)), (21, before.clone()));
    place.bench.clock.advance(GRACE - DAY);
    let report = place.merge();
    assert_eq!((report.merged_count, report.written_count, report.deleted_count, report.waiting_count), (0, 0, 0, 20), "not yet");
    place.bench.clock.advance(DAY);
    let report = place.merge();
    assert_eq!((report.deleted_count, report.waiting_count), (20, 0));
    assert_eq!((place.names("idx/").len(), said(&place.bench)), (1, before.clone()));
    assert!(shards.iter().all(|name| !place.names("idx/").contains(name)));
    assert!(check(&place.bench.open().unwrap(), ReadData::All, &Silent).unwrap().findings.is_empty());
    // What is known is not saved again.
    std::fs::write(place.source.path().join("copy"), "what run 7 saves").unwrap();
    let saved = place.bench.backup(place.source.path(), None).unwrap();
    assert!(saved.stats.new_count == 1 && saved.stats.read_bytes > 0);
    let chunks = |prefix| place.names(prefix).len();
    assert_eq!(chunks("pack/"), 20, "no new pack of data");
}

/// One machine merges while another one's lists are old, and a third dies: whatever comes out, a merge of the merges is right.
#[test]
fn merges_at_the_same_time_and_merges_of_merges_lose_nothing() {
    let place = Place::new();
    place.back_up(0..10, None);
    let (before, other) = (said(&place.bench), Place { memory: place.memory.fork(), ..Place::new() });
    let other_bench = Bench { store: Arc::new(other.memory.clone()), ..place.bench.clone() };
    merge(&other_bench, &MergeOptions::default()).unwrap();
    place.merge();
    for (name, bytes) in other.memory.contents() {
        if name.as_str().starts_with("idx/") || name.as_str().starts_with("dev/") {
            place.memory.overwrite(&name, Some(bytes));
        }
    }
    assert_eq!(place.names("idx/").len(), 12, "both have put the same together");
    place.back_up(10..30, None);
    place.bench.clock.advance(GRACE);
    for _ in 0..3 {
        place.merge();
        assert!(said(&place.bench).is_superset(&before));
        place.bench.clock.advance(GRACE);
    }
    assert_eq!((place.names("idx/").len(), said(&place.bench).len()), (1, record_count(&place.bench)));
}

/// A shard that names others without holding what they hold: neither a reader nor a merge falls for it, and a writer only saves again.
#[test]
fn a_shard_that_wrongly_supersedes_costs_nothing_but_time() {
    let place = Place::new();
    place.back_up(0..12, None);
    let before = said(&place.bench);
    let repository = place.bench.open().unwrap();
    let signer = device::open(&repository, &*place.bench.store, None, "liar").unwrap();
    let key = &repository.ring().current().index;
    let mut merging = Merging::new(key);
    let listed = repository.list_shards().unwrap();
    repository
        .read_shards(&listed, |listed, shard| {
            merging.add(listed.hash, &shard.unwrap(), |pack| pack.as_bytes()[0] % 2 == 0);
            Ok::<_, ()>(())
        })
        .unwrap();
    let liar = merging.finish(|_| true).shard;
    assert!(!liar.is_empty() && liar.superseded().len() == 12);
    put_shard(&repository, &*place.bench.store, &signer, &liar).unwrap();
    assert_eq!(said(&place.bench), before, "readers take all");
    place.bench.clock.advance(GRACE);
    let report = place.merge();
    assert_eq!(said(&place.bench), before);
    assert!(report.deleted_count < 12 && report.written_count == 1, "{report:?}");
    place.bench.clock.advance(GRACE);
    place.merge();
    assert_eq!((said(&place.bench), place.names("idx/").len()), (before, 2), "one that holds the rest has replaced them");
}

#[test]
fn entries_of_packs_that_are_gone_go_too() {
    let place = Place::new();
    place.back_up(0..16, None);
    place.merge();
    place.bench.clock.advance(GRACE);
    place.merge();
    let [name] = &place.names("idx/")[..] else { panic!("one shard") };
    // A third of the packs is gone, as after a prune.
    for pack in place.names("pack/").into_iter().take(11) {
        place.memory.overwrite(&pack, None);
    }
    let left = said(&place.bench);
    let report = place.merge();
    assert_eq!((report.merged_count, report.written_count), (1, 1), "{report:?}");
    assert!(report.left_out_count >= 11, "{report:?}");
    place.bench.clock.advance(GRACE);
    assert_eq!(place.merge().deleted_count, 1);
    assert!(!place.names("idx/").contains(name));
    assert_eq!(said(&place.bench), left);
    // Few are not worth writing everything again.
    place.memory.overwrite(&place.names("pack/")[0], None);
    assert_eq!(place.merge().written_count, 0);
}

/// After a prune most shards name packs that are gone. The store is asked for each, and not for one after the other.
#[test]
fn packs_that_are_gone_are_asked_for_side_by_side() {
    let trips_with = |gone: usize| {
        let mut counting = None;
        let place = Place::with(|store| {
            let store = CountingStore::new(store);
            counting = Some(Arc::clone(&store));
            store
        });
        place.back_up(0..30, None);
        place.names("pack/").iter().take(gone).for_each(|pack| drop(place.memory.overwrite(pack, None)));
        let counting = counting.unwrap();
        counting.round_trips();
        assert_eq!(place.merge().written_count, 1);
        counting.round_trips()
    };
    let (none, many) = (trips_with(0), trips_with(24));
    assert!(many <= none + 2, "{none} round trips if all packs are there, {many} if many are gone");
}

#[test]
fn damaged_shards_are_told_and_left_alone() {
    let place = Place::new();
    place.back_up(0..12, None);
    let name = place.names("idx/")[3].clone();
    let (_, bytes) = place.memory.contents().into_iter().find(|(known, _)| *known == name).unwrap();
    for damaged in [Bytes::new(), bytes.slice(..bytes.len() / 2), Bytes::from_static(b"something else")] {
        place.memory.overwrite(&name, Some(damaged));
        let place = Place { memory: place.memory.fork(), bench: place.bench.clone(), source: tempfile::tempdir().unwrap() };
        let bench = Bench { store: Arc::new(place.memory.clone()), ..place.bench.clone() };
        let left = said(&bench);
        let report = merge(&bench, &MergeOptions::default()).unwrap();
        assert_eq!(report.merged_count, 11);
        let is_named = |finding: &fs_core::report::Finding| finding.place == report::Place::Object(name.to_string());
        assert!(report.findings.len() == 1 && report.findings.iter().all(is_named), "{:?}", report.findings);
        bench.clock.advance(GRACE);
        assert_eq!(merge(&bench, &MergeOptions::default()).unwrap().deleted_count, 11);
        assert!(place.names("idx/").contains(&name));
        assert_eq!(said(&bench), left);
    }
}

/// Shards that are superseded, shards that are to be merged, one of a pack that is gone; catalogues.
fn half_merged() -> Vec<(ObjectName, Bytes)> {
    let place = Place::new();
    place.back_up(0..9, None);
    place.merge();
    place.back_up(9..18, None);
    place.memory.overwrite(&place.names("pack/")[0], None);
    place.memory.contents()
}

/// At every store call and for every fault: no entry is lost, nothing goes before its time, and one more run makes it right.
#[test]
fn every_store_call_of_a_merge_may_fail_in_every_way() {
    let objects = half_merged();
    for fault in Fault::ALL {
        let bench_of = |simulator: &Simulator, store, seed| Bench {
            store,
            clock: simulator.clock(),
            random: SeededRandom::shared(seed),
            ..Bench::new(Arc::new(MemoryStore::new())).unwrap()
        };
        let prepare = |simulator: &Simulator| {
            simulator.clock().set(later_than_any_file());
            objects.iter().for_each(|(name, bytes)| drop(simulator.memory().overwrite(name, Some(bytes.clone()))));
            simulator.clock().advance(GRACE);
        };
        let operation = |simulator: &Simulator| merge(&bench_of(simulator, simulator.store(), 8), &MergeOptions::default());
        let calls = run_at_every_call(5, fault, prepare, operation, |simulator, outcome| {
            let bench = bench_of(simulator, Arc::new(simulator.memory().clone()), 9);
            let count = |prefix: &str| simulator.memory().contents().iter().filter(|(name, _)| name.as_str().starts_with(prefix)).count();
            let all = record_count(&bench);
            assert!(all > 50);
            assert_eq!(said(&bench).len(), all, "call {}: {:?}", outcome.call, outcome.result);
            assert!(outcome.result.is_err() || outcome.was_struck() || count("idx/") == 11, "{} {:?}", count("idx/"), outcome.result);
            merge(&bench, &MergeOptions::default()).unwrap();
            assert_eq!(said(&bench).len(), all, "call {}: the same again", outcome.call);
            for _ in 0..2 {
                simulator.clock().advance(GRACE);
                merge(&bench, &MergeOptions::default()).unwrap();
                assert_eq!(said(&bench).len(), all, "call {}: later", outcome.call);
            }
            let torn = usize::from(fault == Fault::TornWrite && outcome.was_struck());
            // What looked damaged once was not taken in, and is too little to be merged by itself.
            let few = 1 + torn + usize::from(!fault.keeps_contract());
            assert!(count("idx/") <= few && count("cat/") <= few, "call {}: {} {}", outcome.call, count("idx/"), count("cat/"));
            let is_torn = |finding: &fs_core::report::Finding| torn > 0 && matches!(&finding.place, report::Place::Object(_));
            let findings = check(&bench.open().unwrap(), ReadData::None, &Silent).unwrap().findings;
            let is_of_lost_pack = |finding: &fs_core::report::Finding| finding.message.contains("missing");
            let unexplained =
                findings.iter().filter(|finding| finding.severity >= Severity::Error && !is_torn(finding) && !is_of_lost_pack(finding));
            assert_eq!(unexplained.count(), 0, "{fault:?}: {findings:?}");
        });
        assert!(calls >= 30, "{calls} calls");
    }
}

#[test]
fn only_owners_and_maintainers_merge_and_who_cancels_loses_nothing() {
    let place = Place::new();
    place.back_up(0..10, None);
    let before = said(&place.bench);
    let repository = place.bench.open().unwrap();
    let signer = authorise(&repository, &*place.bench.store, None, "host").unwrap();
    let cancel = Cancel::default();
    cancel.cancel();
    let result = merge::run(&repository, &*place.bench.store, &signer, &MergeOptions::default(), &cancel);
    assert!(matches!(result, Err(MergeError::Cancelled)));
    assert_eq!((said(&place.bench), place.names("idx/").len()), (before, 10));
    // A key that may not: everything else of it is the owner's.
    let short = MergeOptions { grace: Duration::ZERO, ..MergeOptions::default() };
    merge(&place.bench, &short).unwrap();
    place.bench.clock.advance(DAY);
    assert_eq!(merge(&place.bench, &short).unwrap().deleted_count, 0, "two days are the least");
}

/// A shard takes no more entries than it should, and memory has a bound with it.
#[test]
fn large_shards_stay_as_they_are() {
    let place = Place::new();
    place.back_up(0..40, None);
    let before = said(&place.bench);
    let options = MergeOptions { entries_max: Some(32), ..MergeOptions::default() };
    // Every shard is larger than half of so few entries: nothing is small.
    assert_eq!(merge(&place.bench, &options).unwrap().written_count, 0);
    let options = MergeOptions { entries_max: Some(130), ..MergeOptions::default() };
    let report = merge(&place.bench, &options).unwrap();
    assert_eq!((report.merged_count, report.written_count), (40, 2), "{report:?}");
    place.bench.clock.advance(GRACE);
    merge(&place.bench, &options).unwrap();
    assert_eq!((place.names("idx/").len(), said(&place.bench)), (2, before));
    assert_eq!(merge(&place.bench, &options).unwrap().written_count, 0);
}

/// While the superseded ones wait, a backup reads only the one that has everything.
#[test]
fn a_backup_reads_what_supersedes_and_not_what_is_superseded() {
    let mut recording = None;
    let place = Place::with(|store| {
        let store = RecordingStore::new(store);
        recording = Some(Arc::clone(&store));
        store
    });
    let recording = recording.unwrap();
    place.back_up(0..30, None);
    place.merge();
    recording.take();
    place.back_up(30..31, None);
    let read = recording.places(CallKind::Get).into_iter().filter(|name| name.starts_with("idx/")).count();
    assert_eq!(read, 1);
}

fn hash_of(name: &ObjectName) -> ObjectHash {
    name.as_str().rsplit('/').next().unwrap().parse().unwrap()
}

#[test]
fn superseded_catalogues_go_when_one_that_has_all_of_theirs_is_old_enough() {
    let place = Place::new();
    place.back_up(0..33, None);
    let catalogues = place.names("cat/");
    assert_eq!(catalogues.len(), 4);
    assert_eq!(place.merge().catalogues_deleted_count, 0);
    place.bench.clock.advance(GRACE);
    let report = place.merge();
    assert_eq!((report.catalogue_count, report.catalogues_deleted_count, place.names("cat/").len()), (4, 3, 1));
    let ids = |bench: &Bench| bench.open_like_the_program(None).unwrap().snapshots().unwrap().len();
    assert_eq!(ids(&place.bench), 33);
    place.back_up(33..43, None);
    assert_eq!(ids(&place.bench), 43);
    // One that opens no more supersedes nothing.
    let place = Place::new();
    place.back_up(0..17, None);
    let repository = place.bench.open().unwrap();
    let newest = repository.superseded_catalogues(place.bench.clock.now()).unwrap();
    let [old] = &newest.names[..] else { panic!("{newest:?}") };
    let newest = place.names("cat/").into_iter().find(|name| hash_of(name) != hash_of(old)).unwrap();
    place.memory.overwrite(&newest, Some(Bytes::from_static(b"damaged")));
    place.bench.clock.advance(GRACE);
    let report = place.merge();
    assert_eq!((report.catalogues_deleted_count, report.findings.len()), (0, 1));
    assert_eq!(ids(&place.bench), 17);
}

/// A year of small backups, merged once a week: what is left is small, and a further backup asks for little.
#[test]
fn thousands_of_small_backups_leave_a_small_index() {
    let count = if is_long() { 10_000 } else { 1000 };
    let state = tempfile::tempdir().unwrap();
    let mut counting = None;
    let place = Place::with(|store| {
        let store = CountingStore::new(store);
        counting = Some(Arc::clone(&store));
        store
    });
    let counting = counting.unwrap();
    let mut costs = Vec::new();
    for week in 0..count / 100 {
        for n in week * 100..(week + 1) * 100 {
            place.back_up(n..n + 1, Some(state.path()));
            place.bench.clock.advance(DAY * 7 / 100);
        }
        counting.reset();
        merge_as(&place.bench, &MergeOptions::default(), Some(state.path())).unwrap();
        costs.push(counting.reset().requests());
        assert!(
            place.names("idx/").len() <= 210 && place.names("cat/").len() <= 40,
            "{} {}",
            place.names("idx/").len(),
            place.names("cat/").len()
        );
    }
    place.bench.clock.advance(GRACE);
    merge_as(&place.bench, &MergeOptions::default(), Some(state.path())).unwrap();
    let entries = said(&place.bench).len();
    assert_eq!(entries, record_count(&place.bench));
    let (shards, catalogues) = (place.names("idx/").len(), place.names("cat/").len());
    println!(
        "{count} backups: {shards} shards of {} bytes, {catalogues} catalogues of {} bytes; requests of the merges: {costs:?}",
        place.size("idx/"),
        place.size("cat/")
    );
    assert!(shards <= 8 && catalogues <= 8, "{shards} shards, {catalogues} catalogues");
    assert!(place.size("idx/") as u64 <= 600 * count, "{} bytes of index", place.size("idx/"));
    for (machine, most) in [("one that has never opened it", 40), ("one that has", 20)] {
        let recording = RecordingStore::new(Arc::new(place.memory.fork()));
        let bench = Bench { store: Arc::clone(&recording) as Arc<dyn WriteStore>, ..place.bench.clone() };
        std::fs::write(place.source.path().join("file"), noise(1, 1000)).unwrap();
        let repository = bench.open_like_the_program(Some(&state.path().join("opened"))).unwrap();
        let options = tests::options(place.source.path(), Some(state.path()));
        backup(&repository, &bench.store, &options, &Silent).unwrap();
        let calls = recording.take();
        let is_pack = |call: &&Call| call.kind == CallKind::Put && call.place.starts_with("pack/");
        let before: Vec<_> = calls.iter().take_while(|call| !is_pack(call)).map(|call| format!("{:?} {}", call.kind, call.place)).collect();
        println!("{machine}: {} requests before the first pack: {before:#?}", before.len());
        assert!(before.len() < calls.len() && before.len() <= most, "{machine}: {before:#?}");
    }
}

/// Each shard is asked for once to merge it; once more, and the one that has everything of it, before it is deleted.
#[test]
fn a_merge_of_a_thousand_shards_asks_for_each_once() {
    const SHARDS: u64 = 1000;
    const FEW: u64 = 16;
    let mut counting = None;
    let place = Place::with(|store| {
        let store = CountingStore::new(store);
        counting = Some(Arc::clone(&store));
        store
    });
    let (counting, repository) = (counting.unwrap(), place.bench.open().unwrap());
    place.back_up(0..1, None);
    let signer = device::open(&repository, &*place.bench.store, None, "many").unwrap();
    let listed = repository.list_shards().unwrap();
    let mut model = None;
    repository
        .read_shards(&listed, |_, shard| {
            model = shard.ok();
            Ok::<_, ()>(())
        })
        .unwrap();
    for _ in 0..SHARDS {
        put_shard(&repository, &*place.bench.store, &signer, model.as_ref().unwrap()).unwrap();
    }
    counting.reset();
    assert_eq!(place.merge().merged_count, SHARDS + 1);
    let merging = counting.reset();
    place.bench.clock.advance(GRACE);
    assert_eq!(place.merge().deleted_count, SHARDS + 1);
    let deleting = counting.reset();
    println!("merging: {merging:?}; deleting: {deleting:?}");
    // Beside them few: what opening asks for, what was written read back, lists.
    for (counts, deletes) in [(merging, 0), (deleting, SHARDS + 1)] {
        assert!((SHARDS + 1..=SHARDS + FEW).contains(&(counts.get + counts.get_range)), "{counts:?}");
        assert!(counts.delete == deletes && counts.put + counts.list + counts.stat + counts.server_time <= FEW, "{counts:?}");
    }
}
