//! Runs that end early, pause or sleep: what they leave, and what the next run makes of it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backup_writer::backup::{BackupError, BackupOptions, BackupReport, backup};
use backup_writer::check::{ReadData, check};
use backup_writer::packer::{PackError, list_packs, read_trailer};
use backup_writer::pause::{Hours, Pauses};
use backup_writer::restore::{RestoreOptions, restore};
use backup_writer::source::stream::{EndMark, Input, Stream};
use fs_core::observer::{Observer, Progress, Silent};
use fs_core::path::{Name, TreePath};
use fs_core::report::Severity;
use fs_core::storage::WriteStore;
use fs_core::storage::memory::MemoryStore;
use fs_core::testing::{CallKind, CountingStore, Fault, FaultyStore, RecordingStore, Rule};
use fs_core::time::{Clock as _, Timestamp, Zone};
use tests::{Bench, look, noise, options};

/// Size of a data pack of [`Bench::with_small_packs`].
pub(crate) const PACK: u64 = 1 << 20;
/// Headers, trailers, padding and small objects of a run, of which each has its own.
pub(crate) const OVERHEAD: u64 = PACK / 2;
pub(crate) const FILE_LENGTH: usize = 100_000;
const DAY: Duration = Duration::from_secs(86_400);

/// What so many files take at most, by one run or by several that send nothing twice: records are a few per cent longer than what they hold.
pub(crate) fn stored(files: usize) -> u64 {
    (files * FILE_LENGTH) as u64 * 104 / 100 + 2 * OVERHEAD
}

/// Folders of files of noise, so many bytes in all.
pub(crate) fn fill(source: &Path, files: usize) {
    for number in 0..files {
        let folder = source.join(format!("folder-{}", number % 4));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{number}")), noise(number as u64, FILE_LENGTH)).unwrap();
    }
}

/// A source with so many files, a place for the state, and a repository with small packs.
struct Place {
    folder: tempfile::TempDir,
    memory: MemoryStore,
    bench: Bench,
}

impl Place {
    fn new(files: usize) -> Self {
        let (folder, memory) = (tempfile::tempdir().unwrap(), MemoryStore::new());
        fill(&folder.path().join("source"), files);
        let bench = Bench::new(Arc::new(memory.clone())).unwrap().with_small_packs().unwrap();
        Self { folder, memory, bench }
    }

    fn source(&self) -> PathBuf {
        self.folder.path().join("source")
    }

    fn options(&self) -> BackupOptions {
        options(&self.source(), Some(&self.folder.path().join("state")))
    }

    /// A run over another store that ends up in the same memory.
    fn run(&self, store: Arc<dyn WriteStore>, options: &BackupOptions, observer: &dyn Observer) -> Result<BackupReport, BackupError> {
        let bench = Bench { store, ..self.bench.clone() };
        backup(&bench.open().unwrap(), &bench.store, options, observer)
    }

    /// The same with every call told to `hook`.
    fn run_with(
        &self,
        options: &BackupOptions,
        hook: impl Fn(CallKind, &str) + Send + Sync + 'static,
    ) -> Result<BackupReport, BackupError> {
        self.run(RecordingStore::telling(Arc::clone(&self.bench.store), hook), options, &Silent)
    }

    /// The newest snapshot is sealed, nothing is damaged, and everything comes back.
    fn is_whole(&self) {
        let repository = self.bench.open().unwrap();
        let findings = check(&repository, ReadData::All, &Silent).unwrap().findings;
        assert!(findings.iter().all(|finding| finding.severity == Severity::Note), "{findings:?}");
        let snapshot = repository.snapshots().unwrap().pop().unwrap();
        assert!(snapshot.sealed);
        let target = self.folder.path().join(format!("restored-{}", snapshot.id.short()));
        let what = TreePath::parse(self.source().to_str().unwrap().as_bytes()).unwrap();
        let report = restore(&repository, &tests::only(&snapshot, &what), &target, &RestoreOptions::default(), &Silent).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        assert_eq!(look(&self.source()).unwrap(), look(&target).unwrap());
    }
}

/// Bytes of all packs, and how many records are in more than one place.
pub(crate) fn packs(bench: &Bench) -> (u64, usize) {
    let repository = bench.open().unwrap();
    let (mut bytes, mut seen, mut twice) = (0, HashSet::new(), 0);
    for (id, kind, size) in list_packs(&repository).unwrap() {
        bytes += size;
        let records = read_trailer(&repository, id, kind, size).unwrap().records;
        twice += records.iter().filter(|record| !seen.insert(record.facts.id)).count();
    }
    (bytes, twice)
}

/// Packs that no shard names.
pub(crate) fn unindexed(bench: &Bench) -> usize {
    let repository = bench.open().unwrap();
    let indexed: HashSet<_> = repository.shards().unwrap().0.iter().flat_map(|shard| shard.packs()).map(|pack| pack.id).collect();
    list_packs(&repository).unwrap().iter().filter(|(id, _, _)| !indexed.contains(id)).count()
}

/// Cancels when so many bytes were read; counts them.
#[derive(Default)]
struct CancelAfter {
    limit: u64,
    read: AtomicU64,
}

impl Observer for CancelAfter {
    fn progress(&self, progress: &Progress) {
        self.read.fetch_max(progress.byte_count, Ordering::Relaxed);
    }

    fn is_cancelled(&self) -> bool {
        self.limit > 0 && self.read.load(Ordering::Relaxed) >= self.limit
    }
}

/// How many files were taken over from what an earlier run had put.
fn files_not_read(report: &BackupReport) -> u64 {
    (report.stats.byte_count - report.stats.read_bytes) / FILE_LENGTH as u64
}

#[test]
fn an_interrupted_run_keeps_what_was_begun_and_the_next_sends_and_reads_only_the_rest() {
    let files = 60;
    for part in [1, 3, 5] {
        let place = Place::new(files);
        let total = (files * FILE_LENGTH) as u64;
        let first = CancelAfter { limit: total * part / 6, ..CancelAfter::default() };
        let error = place.run(Arc::clone(&place.bench.store), &place.options(), &first).unwrap_err();
        let BackupError::Cancelled { kept_bytes } = error else { panic!("{error}") };
        let (bytes, _) = packs(&place.bench);
        assert_eq!(kept_bytes, bytes, "what it says is what is there");
        let read = first.read.into_inner();
        assert!(bytes + FILE_LENGTH as u64 > read, "{read} bytes were read and {bytes} are there");
        assert_eq!(unindexed(&place.bench), 0, "it wrote its index");
        assert!(place.bench.open().unwrap().snapshots().unwrap().is_empty());

        let second = CancelAfter::default();
        let report = place.run(Arc::clone(&place.bench.store), &place.options(), &second).unwrap();
        assert_eq!((report.stats.new_count, report.stats.read_bytes), (files as u64, second.read.into_inner()));
        let not_read = total - report.stats.read_bytes;
        assert!(not_read + FILE_LENGTH as u64 >= read, "{not_read} bytes are not read again of {read}");
        let (all, twice) = packs(&place.bench);
        assert_eq!(twice, 0, "nothing is sent twice");
        assert!(all < stored(files), "{all}");
        place.is_whole();
    }
}

#[test]
fn a_lost_line_loses_no_pack_that_was_put_and_what_is_found_by_trailers_gets_an_index() {
    let files = 150;
    let whole = {
        let place = Place::new(files);
        let counting = CountingStore::new(Arc::clone(&place.bench.store));
        place.run(Arc::clone(&counting) as _, &place.options(), &Silent).unwrap();
        counting.counts().bytes_up
    };
    let mut most_kept = 0;
    for (n, fault) in [(1, Fault::KillFromHere), (4, Fault::KillFromHere), (8, Fault::ErrorAfterEffect), (13, Fault::KillFromHere)] {
        let place = Place::new(files);
        let counting = CountingStore::new(Arc::clone(&place.bench.store));
        let rule = Rule::nth(n, fault).kind(CallKind::Put).prefix("pack/");
        let faulty = FaultyStore::new(Arc::clone(&counting) as _, [rule]);
        let error = place.run(Arc::clone(&faulty) as _, &place.options(), &Silent).unwrap_err();
        assert!(matches!(error, BackupError::Pack(PackError::Store(_))), "{error}");
        let (kept, _) = packs(&place.bench);
        let pack_count = kept / PACK;
        if pack_count > 0 {
            assert!(unindexed(&place.bench) > 0, "no index was written");
        }
        let report = place.run(Arc::clone(&counting) as _, &place.options(), &Silent).unwrap();
        let (_, twice) = packs(&place.bench);
        assert_eq!(twice, 0, "pack {n}: what was put is not sent again");
        let sent = counting.counts().bytes_up;
        assert!(sent <= whole + 2 * PACK, "pack {n}: {sent} bytes were sent instead of {whole}");
        assert_eq!(unindexed(&place.bench), 0, "pack {n}: all that the snapshot relies on is in the index");
        most_kept = most_kept.max(files_not_read(&report));
        place.is_whole();
    }
    assert!(most_kept >= 40, "files whose content is put are not read again: {most_kept}");
}

#[test]
fn trailers_of_a_dead_run_are_read_with_one_request_each_and_together() {
    let place = Place::new(150);
    let rule = Rule::nth(12, Fault::KillFromHere).kind(CallKind::Put).prefix("pack/");
    let faulty = FaultyStore::new(Arc::clone(&place.bench.store), [rule]);
    place.run(faulty, &place.options(), &Silent).unwrap_err();
    let left = unindexed(&place.bench);
    assert!(left >= 9, "{left}");
    let recording = RecordingStore::new(Arc::clone(&place.bench.store));
    place.run(Arc::clone(&recording) as _, &place.options(), &Silent).unwrap();
    let ranges = recording.places(CallKind::GetRange);
    let of_packs = ranges.iter().filter(|place| place.starts_with("pack/")).count();
    assert_eq!(of_packs, left, "{ranges:?}");
}

#[test]
fn rows_of_a_dead_run_count_only_while_their_packs_are_listed() {
    let place = Place::new(150);
    let rule = Rule::nth(13, Fault::KillFromHere).kind(CallKind::Put).prefix("pack/");
    place.run(FaultyStore::new(Arc::clone(&place.bench.store), [rule]), &place.options(), &Silent).unwrap_err();
    // Nobody protects the packs of a run without a snapshot.
    for (name, _) in place.memory.contents() {
        if name.as_str().starts_with("pack/") {
            place.memory.overwrite(&name, None);
        }
    }
    let report = place.run(Arc::clone(&place.bench.store), &place.options(), &Silent).unwrap();
    assert_eq!((files_not_read(&report), report.stats.new_count), (0, 150));
    place.is_whole();
}

#[test]
fn a_part_of_a_directory_that_was_noted_hides_nothing_of_the_parent_snapshot() {
    // The first snapshot is taken without a state, as by another machine's hand.
    let place = Place::new(60);
    place.run(Arc::clone(&place.bench.store), &options(&place.source(), None), &Silent).unwrap();
    std::fs::write(place.source().join("folder-0/0"), noise(1000, 3_000_000)).unwrap();
    place.bench.clock.advance(DAY);
    let cancelled = CancelAfter { limit: 1_000_000, ..CancelAfter::default() };
    place.run(Arc::clone(&place.bench.store), &place.options(), &cancelled).unwrap_err();
    let read = CancelAfter::default();
    let report = place.run(Arc::clone(&place.bench.store), &place.options(), &read).unwrap();
    assert_eq!(
        (report.stats.unchanged_count, report.stats.changed_count, read.read.into_inner()),
        (59, 1, 0),
        "the large file was saved by the run that was interrupted"
    );
    place.is_whole();
}

/// The names of calls that a run made, with times at which a hook acts.
#[derive(Default)]
struct Calls(Mutex<Vec<String>>);

impl Calls {
    fn add(&self, kind: CallKind, place: &str) {
        let folder = place.split('/').next().unwrap_or_default();
        self.0.lock().unwrap().push(format!("{kind:?} {folder}"));
    }

    /// How often packs were listed between the last index shard and the manifest.
    fn looks_before_manifest(&self) -> usize {
        let calls = self.0.lock().unwrap();
        let (shard, manifest) = (calls.iter().rposition(|call| call == "Put idx"), calls.iter().position(|call| call == "Put snap"));
        calls[shard.unwrap()..manifest.unwrap()].iter().filter(|call| *call == "List pack").count()
    }
}

#[test]
fn who_slept_for_days_looks_again_before_the_manifest() {
    for (slept, looks) in [(None, 0), (Some("idx/"), 1), (Some("pack/"), 1), (Some("snap/"), 0)] {
        let place = Place::new(10);
        let (calls, clock, is_over) = (Arc::new(Calls::default()), Arc::clone(&place.bench.clock), AtomicBool::new(false));
        let noted = Arc::clone(&calls);
        let report = place.run_with(&place.options(), move |kind, name| {
            noted.add(kind, name);
            if kind == CallKind::Put && slept.is_some_and(|slept| name.starts_with(slept)) && !is_over.swap(true, Ordering::Relaxed) {
                clock.advance(5 * DAY);
            }
        });
        assert!(report.unwrap().findings.is_empty());
        assert_eq!(calls.looks_before_manifest(), looks, "slept before {slept:?}");
        place.is_whole();
    }
}

/// Packs that are there when the hook is asked to take one away.
fn lose_a_pack(memory: &MemoryStore) {
    let mut names: Vec<_> = memory.contents().into_iter().map(|(name, _)| name).filter(|name| name.as_str().starts_with("pack/")).collect();
    names.sort();
    memory.overwrite(&names[0], None);
}

#[test]
fn a_pack_that_vanished_meanwhile_is_saved_again_in_the_same_run() {
    // Before the manifest, as far as a look again finds out; and after it, by the second look.
    for (when, manifests) in [("idx/", 1), ("snap/", 2)] {
        let place = Place::new(30);
        let (memory, clock, is_over) = (place.memory.clone(), Arc::clone(&place.bench.clock), AtomicBool::new(false));
        let report = place.run_with(&place.options(), move |kind, name| {
            if kind == CallKind::Put && name.starts_with(when) && !is_over.swap(true, Ordering::Relaxed) {
                clock.advance(5 * DAY);
                lose_a_pack(&memory);
            }
        });
        let report = report.unwrap();
        assert!(report.findings.iter().any(|finding| finding.to_string().contains("was saved again")), "{:?}", report.findings);
        let snapshots = place.bench.open().unwrap().snapshots().unwrap();
        assert_eq!(snapshots.iter().map(|snapshot| snapshot.sealed).collect::<Vec<_>>(), [vec![false; manifests - 1], vec![true]].concat());
        assert!(files_not_read(&report) > 0, "what is still there is not read again");
        let target = place.folder.path().join("restored");
        let what = TreePath::parse(place.source().to_str().unwrap().as_bytes()).unwrap();
        let snapshot = snapshots.last().unwrap();
        let restored =
            restore(&place.bench.open().unwrap(), &tests::only(snapshot, &what), &target, &RestoreOptions::default(), &Silent).unwrap();
        assert!(restored.findings.is_empty(), "{:?}", restored.findings);
        assert_eq!(look(&place.source()).unwrap(), look(&target).unwrap());
    }
}

#[test]
fn what_cannot_be_read_twice_or_vanishes_again_and_again_is_an_error_and_never_a_seal() {
    let place = Place::new(10);
    let (memory, clock) = (place.memory.clone(), Arc::clone(&place.bench.clock));
    let lose = move |kind, name: &str| {
        if kind == CallKind::Put && name.starts_with("idx/") {
            clock.advance(5 * DAY);
            lose_a_pack(&memory);
        }
    };
    let error = place.run_with(&place.options(), lose.clone()).unwrap_err();
    assert!(matches!(error, BackupError::Pack(PackError::Vanished { .. })), "{error}");

    let (reader, mut writer) = std::io::pipe().unwrap();
    std::io::Write::write_all(&mut writer, &noise(77, 10_000)).unwrap();
    drop(writer);
    let input = Input::Open(Arc::new(reader.into()));
    let stream = Stream { name: Name::new(&b"piped"[..]).unwrap(), input, end_mark: EndMark::Nothing, allow_empty: false };
    let puts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&puts);
    let how = BackupOptions { streams: vec![stream], ..place.options() };
    let error = place.run_with(&how, move |kind, name| {
        counted.fetch_add(usize::from(kind == CallKind::Put && name.starts_with("idx/")), Ordering::Relaxed);
        lose(kind, name);
    });
    assert!(matches!(error, Err(BackupError::Pack(PackError::Vanished { .. }))), "{error:?}");
    assert_eq!(puts.load(Ordering::Relaxed), 1, "it did not begin anew");
    assert!(place.bench.open().unwrap().snapshots().unwrap().iter().all(|snapshot| !snapshot.sealed));
}

#[test]
fn a_store_that_cannot_be_looked_at_in_time_gets_no_manifest() {
    let place = Place::new(3);
    let clock = Arc::clone(&place.bench.clock);
    let error = place.run_with(&place.options(), move |kind, name| {
        if kind == CallKind::List && name == "pack/" {
            clock.advance(Duration::from_secs(11 * 60));
        }
    });
    assert!(matches!(error, Err(BackupError::Overdue)), "{error:?}");
    assert!(place.bench.open().unwrap().snapshots().unwrap().is_empty());
}

/// Monday, 2035-01-08, so many hours after midnight UTC: later than all files.
fn monday(hours: u64) -> Timestamp {
    Timestamp::new(2_051_827_200, 0).unwrap().saturating_add(Duration::from_secs(hours * 3600))
}

fn pauses(hours: &str) -> Pauses {
    Pauses::new(vec![Hours::parse(hours).unwrap()], Zone::utc()).unwrap()
}

/// Does something when it is told of a pause.
struct Told<F: Fn() + Send + Sync> {
    what: Mutex<Vec<Option<String>>>,
    act: F,
    cancelled: Arc<AtomicBool>,
}

impl<F: Fn() + Send + Sync> Told<F> {
    fn new(cancelled: &Arc<AtomicBool>, act: F) -> Self {
        Self { what: Mutex::default(), act, cancelled: Arc::clone(cancelled) }
    }
}

impl<F: Fn() + Send + Sync> Observer for Told<F> {
    fn waits(&self, why: Option<&str>) {
        self.what.lock().unwrap().push(why.map(str::to_owned));
        if why.is_some_and(|why| why.starts_with("paused")) {
            (self.act)();
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

#[test]
fn a_run_pauses_at_its_hours_and_goes_on_by_itself_within_the_commit_window() {
    let place = Place::new(100);
    place.bench.clock.set(monday(7));
    let (clock, calls, puts) = (Arc::clone(&place.bench.clock), Arc::new(Calls::default()), AtomicUsize::new(0));
    let (noted, at_work) = (Arc::clone(&calls), Arc::clone(&clock));
    let store = RecordingStore::telling(Arc::clone(&place.bench.store), move |kind, name| {
        noted.add(kind, name);
        if kind == CallKind::Put && name.starts_with("pack/") && puts.fetch_add(1, Ordering::Relaxed) == 3 {
            at_work.advance(Duration::from_secs(3600));
        }
    });
    // At eight it waits until six, as soon as it is told.
    let told = Told::new(&Arc::default(), || clock.advance(Duration::from_secs(10 * 3600)));
    let how = BackupOptions { pauses: pauses("mon-fri 08:00-18:00"), ..place.options() };
    place.run(store, &how, &told).unwrap();
    assert_eq!(*told.what.lock().unwrap(), [Some("paused until 18:00".into()), None]);
    assert!(place.bench.clock.now() >= monday(18));
    assert_eq!(calls.looks_before_manifest(), 1, "its first look is too old by then");
    place.is_whole();
}

#[test]
fn in_a_pause_nothing_is_sent_and_an_interruption_ends_it() {
    let place = Place::new(100);
    place.bench.clock.set(monday(7));
    let (clock, puts) = (Arc::clone(&place.bench.clock), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&puts);
    let store = RecordingStore::telling(Arc::clone(&place.bench.store), move |kind, name| {
        if kind == CallKind::Put && name.starts_with("pack/") && counted.fetch_add(1, Ordering::Relaxed) == 3 {
            clock.advance(Duration::from_secs(3600));
        }
    });
    let cancelled = Arc::new(AtomicBool::new(false));
    let cancel = Arc::clone(&cancelled);
    let told = Told::new(&cancelled, move || cancel.store(true, Ordering::Relaxed));
    let how = BackupOptions { pauses: pauses("08:00-18:00"), ..place.options() };
    let error = place.run(store, &how, &told).unwrap_err();
    let BackupError::Cancelled { kept_bytes } = error else { panic!("{error}") };
    assert_eq!(kept_bytes, packs(&place.bench).0);
    let sent = puts.load(Ordering::Relaxed);
    assert!((4..=5).contains(&sent), "those on their way arrive, and no other is sent: {sent}");
    assert!(unindexed(&place.bench) > 0, "nothing else is sent either");

    // Whoever begins in such an hour asks the store for nothing.
    let counting = CountingStore::new(Arc::clone(&place.bench.store));
    let bench = Bench { store: Arc::clone(&counting) as _, ..place.bench.clone() };
    let repository = bench.open().unwrap();
    counting.reset();
    let error = backup(&repository, &bench.store, &how, &told).unwrap_err();
    assert!(matches!(error, BackupError::Cancelled { kept_bytes: 0 }), "{error}");
    assert_eq!(counting.counts().requests(), 0);

    place.bench.clock.set(monday(19));
    place.run(Arc::clone(&place.bench.store), &how, &Silent).unwrap();
    assert_eq!(packs(&place.bench).1, 0, "nothing is sent twice");
    place.is_whole();
}
