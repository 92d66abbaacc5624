//! What a backup writes, counted.

use std::sync::Arc;

use backup_writer::check::{ReadData, check};
use fs_core::observer::Silent;
use fs_core::storage::WriteStore;
use fs_core::storage::memory::MemoryStore;
use fs_core::testing::{CallKind, CountingStore, RecordingStore};
use tests::{Bench, noise};

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
