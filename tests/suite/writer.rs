//! What a backup writes, counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backup_writer::backup::backup;
use backup_writer::check::{ReadData, check};
use backup_writer::restore::{RestoreOptions, restore};
use fs_core::observer::{Observer, Progress, Silent};
use fs_core::storage::WriteStore;
use fs_core::storage::memory::MemoryStore;
use fs_core::testing::{CallKind, CountingStore, RecordingStore};
use tests::{Bench, noise, options};

#[test]
fn a_second_backup_writes_one_manifest_and_one_seal() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    std::fs::create_dir(&source).unwrap();
    super::fidelity::every_kind(&source);
    let store = RecordingStore::new(Arc::new(MemoryStore::new()));
    let bench = Bench::new(Arc::clone(&store) as Arc<dyn WriteStore>).unwrap();
    let state = place.path().join("state");
    let first = bench.backup(&source, Some(&state)).unwrap();
    store.take();
    let second = bench.backup(&source, Some(&state)).unwrap();
    let puts = store.places(CallKind::Put);
    assert_eq!(puts.len(), 2, "{puts:?}");
    assert!(puts[0].starts_with("snap/") && puts[1].starts_with("seal/"), "{puts:?}");
    assert_eq!(second.stats.unchanged_count, first.stats.new_count);
    assert_eq!((second.stats.new_count, second.stats.changed_count, second.stats.new_bytes), (0, 0, 0));
    assert_eq!(second.parent, Some(first.snapshot));
}

#[test]
fn packs_come_before_index_before_manifest_before_seal() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("file"), noise(1, 100_000)).unwrap();
    let store = RecordingStore::new(Arc::new(MemoryStore::new()));
    let bench = Bench::new(Arc::clone(&store) as Arc<dyn WriteStore>).unwrap();
    store.take();
    bench.backup(place.path(), None).unwrap();
    let order = ["dev", "sess", "pack", "meta", "idx", "snap", "seal"];
    let rank = |name: &String| match order.iter().position(|prefix| name.starts_with(prefix)).unwrap() {
        3 => 2,
        rank => rank,
    };
    let ranks: Vec<_> = store.places(CallKind::Put).iter().map(rank).collect();
    assert!(ranks.is_sorted(), "{:?}", store.places(CallKind::Put));
}

#[test]
fn one_inserted_byte_costs_little_and_zeros_cost_nothing() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    let mut bytes = noise(3, 60_000_000);
    std::fs::write(&file, &bytes).unwrap();
    let store = CountingStore::new(Arc::new(MemoryStore::new()));
    let bench = Bench::new(Arc::clone(&store) as Arc<dyn WriteStore>).unwrap();
    bench.backup(place.path(), None).unwrap();
    store.reset();
    bytes.insert(1000, 7);
    std::fs::write(&file, &bytes).unwrap();
    let report = bench.backup(place.path(), None).unwrap();
    assert!(report.stats.new_bytes < 2 << 20 && store.counts().bytes_up < 2 << 20, "{:?} {:?}", report.stats, store.counts());
    store.reset();
    std::fs::write(place.path().join("zeros"), vec![0; 100_000_000]).unwrap();
    bench.backup(place.path(), None).unwrap();
    assert!(store.counts().bytes_up < 1 << 20, "{:?}", store.counts());
}

#[test]
fn a_clean_repository_checks_clean_and_nothing_is_readable_at_rest() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("a-telling-name");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("secret-plans.txt"), "the telling content ".repeat(50)).unwrap();
    let memory = Arc::new(MemoryStore::new());
    let bench = Bench::new(Arc::clone(&memory) as Arc<dyn WriteStore>).unwrap();
    bench.backup(&source, None).unwrap();
    let report = check(&bench.open().unwrap(), ReadData::All, &Silent).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert_eq!((report.snapshot_count, report.packs_read, report.pack_count), (1, 2, 2));
    for (name, bytes) in memory.contents() {
        for telling in ["telling", "secret-plans", "host", "test"] {
            let found = bytes.windows(telling.len()).any(|window| window == telling.as_bytes());
            assert!(!found, "{name} shows '{telling}'");
        }
    }
}

/// Removes every pack that `lost` names from a store.
fn lose(memory: &MemoryStore, lost: impl Fn(&str) -> bool) {
    for (name, _) in memory.contents() {
        if lost(name.as_str()) {
            memory.overwrite(&name, None);
        }
    }
}

#[test]
fn a_lost_chunk_of_an_unchanged_large_file_is_saved_again() {
    for with_state in [false, true] {
        let place = tempfile::tempdir().unwrap();
        let (source, state) = (place.path().join("source"), place.path().join("state"));
        std::fs::create_dir(&source).unwrap();
        std::fs::write(source.join("file"), noise(3, 20_000_000)).unwrap();
        let memory = MemoryStore::new();
        let bench = Bench::new(Arc::new(memory.clone()) as Arc<dyn WriteStore>).unwrap();
        let state = with_state.then_some(&*state);
        bench.backup(&source, state).unwrap();
        lose(&memory, |name| name.starts_with("pack/"));
        let again = bench.backup(&source, state).unwrap();
        assert_eq!((again.stats.unchanged_count, again.stats.changed_count), (0, 1), "its chunks are gone, though its list is there");
        restores_as(&bench, &source, place.path());
    }
}

/// Saves once more, with a new file, and then loses the trees of all snapshots before.
fn back_up_and_lose_first_trees(bench: &Bench, memory: &MemoryStore, source: &std::path::Path) {
    let first: Vec<_> = memory.contents().into_iter().map(|(name, _)| name).filter(|name| name.as_str().starts_with("meta/")).collect();
    std::fs::write(source.join("new"), "").unwrap();
    bench.backup(source, None).unwrap();
    lose(memory, |name| first.iter().any(|first| first.as_str() == name));
}

#[test]
fn a_lost_page_of_an_unchanged_large_directory_is_written_again() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    std::fs::create_dir(&source).unwrap();
    for n in 0..9000 {
        std::fs::write(source.join(format!("{n}-{}", "long".repeat(30))), "").unwrap();
    }
    let memory = MemoryStore::new();
    let bench = Bench::new(Arc::new(memory.clone()) as Arc<dyn WriteStore>).unwrap();
    bench.backup(&source, None).unwrap();
    // A new name rewrites one leaf and the index above; the other leaves stay in the first pack.
    back_up_and_lose_first_trees(&bench, &memory, &source);
    let third = bench.backup(&source, None).unwrap();
    assert!(third.findings.iter().any(|finding| finding.to_string().contains("previous snapshot is damaged")), "{:?}", third.findings);
    restores_as(&bench, &source, place.path());
}

#[test]
fn a_damaged_page_of_a_directory_that_is_empty_by_now_ends_nothing() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    std::fs::create_dir_all(source.join("emptied")).unwrap();
    std::fs::write(source.join("emptied/file"), "").unwrap();
    let memory = MemoryStore::new();
    let bench = Bench::new(Arc::new(memory.clone()) as Arc<dyn WriteStore>).unwrap();
    bench.backup(&source, None).unwrap();
    // The folder above is written anew, the page of this one stays in the first pack.
    back_up_and_lose_first_trees(&bench, &memory, &source);
    std::fs::remove_file(source.join("emptied/file")).unwrap();
    bench.backup(&source, None).unwrap();
    restores_as(&bench, &source, place.path());
}

#[test]
fn unchanged_files_are_recognised_without_any_earlier_snapshot() {
    let place = tempfile::tempdir().unwrap();
    let (source, state) = (place.path().join("source"), place.path().join("state"));
    std::fs::create_dir(&source).unwrap();
    super::fidelity::every_kind(&source);
    let memory = MemoryStore::new();
    let bench = Bench::new(Arc::new(memory.clone()) as Arc<dyn WriteStore>).unwrap();
    let first = bench.backup(&source, Some(&state)).unwrap();
    lose(&memory, |name| name.starts_with("snap/") || name.starts_with("seal/"));
    let second = bench.backup(&source, Some(&state)).unwrap();
    assert_eq!(second.parent, None);
    assert_eq!(
        (second.stats.read_bytes, second.stats.new_count),
        (0, first.stats.file_count),
        "new to the snapshot, and not read: {:?}",
        second.stats
    );
    restores_as(&bench, &source, place.path());
    // Another file in the place of one, with its size: it has another number and another time of change.
    std::fs::remove_file(source.join("deep/er/text")).unwrap();
    std::fs::write(source.join("deep/er/text"), b"the same line again\n".repeat(20_000)).unwrap();
    let third = bench.backup(&source, Some(&state)).unwrap();
    assert_eq!((third.stats.changed_count, third.stats.new_count), (1, 0));
}

#[test]
fn a_damaged_or_missing_state_costs_time_and_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let (source, state) = (place.path().join("source"), place.path().join("state"));
    std::fs::create_dir(&source).unwrap();
    super::fidelity::every_kind(&source);
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    let first = bench.backup(&source, Some(&state)).unwrap();
    let database = state.join("files.db");
    for damage in ["gone", "no database", "empty"] {
        match damage {
            "gone" => std::fs::remove_file(&database).unwrap(),
            "empty" => std::fs::write(&database, "").unwrap(),
            _ => std::fs::write(&database, noise(1, 20_000)).unwrap(),
        }
        let again = bench.backup(&source, Some(&state)).unwrap();
        assert_eq!(again.stats.unchanged_count, first.stats.file_count, "{damage}: the parent snapshot tells it too");
        assert_eq!(again.stats.new_bytes, 0, "{damage}");
    }
    let bytes = std::fs::read(&database).unwrap();
    for telling in ["small", "large", "deeper"] {
        assert!(!bytes.windows(telling.len()).any(|window| window == telling.as_bytes()), "the state shows '{telling}'");
    }
}

/// The bytes of files that were read.
#[derive(Default)]
struct BytesRead(AtomicU64);

impl Observer for BytesRead {
    fn progress(&self, progress: &Progress) {
        self.0.fetch_max(progress.byte_count, Ordering::Relaxed);
    }
}

#[test]
fn a_file_changed_just_before_the_run_is_read_again_by_the_next() {
    let place = tempfile::tempdir().unwrap();
    let (source, state) = (place.path().join("source"), place.path().join("state"));
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "content").unwrap();
    for state in [None, Some(&*state)] {
        let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
        // The run begins one second after the last change of the file.
        let changed = fs_core::time::Timestamp::from(source.join("file").metadata().unwrap().modified().unwrap());
        bench.clock.set(changed.saturating_add(std::time::Duration::from_secs(1)));
        backup(&bench.open().unwrap(), &bench.store, &options(&source, state), &Silent).unwrap();
        bench.clock.set(tests::later_than_any_file());
        for read in [7, 0] {
            let bytes = BytesRead::default();
            let report = backup(&bench.open().unwrap(), &bench.store, &options(&source, state), &bytes).unwrap();
            assert_eq!(bytes.0.into_inner(), read);
            assert_eq!((report.stats.unchanged_count, report.stats.changed_count), (1, 0), "it was only looked at again");
        }
    }
}

/// Whether the newest snapshot restores to what the source is.
fn restores_as(bench: &Bench, source: &std::path::Path, place: &std::path::Path) {
    let repository = bench.open().unwrap();
    let snapshot = repository.snapshots().unwrap().pop().unwrap();
    let target = place.join(format!("restored-{}", snapshot.id.short()));
    let what = fs_core::path::TreePath::parse(std::os::unix::ffi::OsStrExt::as_bytes(source.as_os_str())).unwrap();
    let report = restore(&repository, &tests::only(&snapshot, &what), &target, &RestoreOptions::default(), &Silent).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert_eq!(tests::look(source).unwrap(), tests::look(&target).unwrap());
}

#[test]
fn each_list_of_paths_has_a_set_of_its_own() {
    let place = tempfile::tempdir().unwrap();
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    let folder = |name: &str| {
        let folder = place.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), name).unwrap();
        folder
    };
    let (home, etc) = (folder("home"), folder("etc"));
    for _ in 0..2 {
        bench.backup(&home, None).unwrap();
        bench.backup(&etc, None).unwrap();
    }
    let snapshots = bench.open().unwrap().snapshots().unwrap();
    let sets: Vec<_> = snapshots.iter().map(|snapshot| snapshot.set()).collect();
    assert_eq!((sets[0], sets[2]), ("", ""), "the first list has the host's default set");
    assert!(sets[1].ends_with("-etc") && sets[1] == sets[3], "{sets:?}");
    for (earlier, later) in [(0, 2), (1, 3)] {
        assert_eq!(snapshots[later].manifest().unwrap().parent, Some(snapshots[earlier].id));
    }
}
