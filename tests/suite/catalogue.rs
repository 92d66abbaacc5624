//! What it costs to open a repository, and what catalogues may and may not claim.

use std::path::Path;
use std::sync::Arc;

use fs_core::path::Name;
use fs_core::reader::ContentReader;
use fs_core::repository::Repository;
use fs_core::snapshot::Snapshot;
use fs_core::storage::WriteStore;
use fs_core::storage::memory::MemoryStore;
use fs_core::testing::{CallKind, CountingStore, RecordingStore};
use fs_core::tree::page::Wanted;
use tests::{Bench, add_snapshots};

const FOLDERS: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];

/// A repository with one snapshot of a file at depth eight.
fn deep(store: Arc<dyn WriteStore>, place: &Path) -> Bench {
    let folder = place.join(FOLDERS.join("/"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("file"), "content").unwrap();
    let bench = Bench::new(store).unwrap();
    bench.backup(place, None).unwrap();
    bench
}

fn read_deep(repository: &Arc<Repository>, snapshot: &Snapshot, place: &Path) -> Vec<u8> {
    let mut entry = snapshot.manifest.root.clone();
    let above = place.components().skip(1).map(|part| part.as_os_str().to_str().unwrap());
    for part in above.chain(FOLDERS).chain(["file"]) {
        let name = Name::new(part.as_bytes()).unwrap();
        entry = repository.find_entry(entry.subtree.as_ref().unwrap(), Wanted::Name(name.as_bytes())).unwrap().unwrap().entry().clone();
    }
    ContentReader::of_file(Arc::clone(repository), &entry).read(0, 1).unwrap().to_vec()
}

fn ids(repository: &Repository) -> Vec<(String, bool)> {
    repository.snapshots().unwrap().iter().map(|snapshot| (snapshot.id.to_string(), snapshot.sealed)).collect()
}

#[test]
fn ten_thousand_snapshots_open_in_two_round_trips() {
    let (place, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = CountingStore::new(Arc::new(MemoryStore::new()));
    let bench = deep(Arc::clone(&store) as Arc<dyn WriteStore>, place.path());
    add_snapshots(&bench, 10_000, 1000).unwrap();
    store.reset();
    store.round_trips();
    let repository = bench.open_like_the_program(Some(state.path())).unwrap();
    let snapshots = repository.snapshots().unwrap();
    assert!(snapshots.len() == 10_001 && snapshots.iter().all(|snapshot| snapshot.sealed));
    let (counts, trips) = (store.reset(), store.round_trips());
    println!("cold: {trips} round trips, {counts:?}");
    assert!(trips <= 2 && counts.requests() <= 12, "cold: {trips} round trips, {counts:?}");
    assert_eq!(read_deep(&repository, snapshots.last().unwrap(), place.path()), b"c");
    println!("to the first byte: {} more round trips, {:?}", store.round_trips(), store.reset());

    let again = bench.open_like_the_program(Some(state.path())).unwrap();
    assert_eq!(ids(&again), ids(&repository));
    let (counts, trips) = (store.reset(), store.round_trips());
    println!("warm: {trips} round trips, {counts:?}");
    assert!(counts.bytes_down < 20_000, "what was checked once is not read again: {counts:?}");
}

#[test]
fn backups_write_catalogues_that_stay_few() {
    let place = tempfile::tempdir().unwrap();
    let store = RecordingStore::new(Arc::new(MemoryStore::new()));
    let bench = deep(Arc::clone(&store) as Arc<dyn WriteStore>, place.path());
    store.take();
    for _ in 1..40 {
        bench.backup(place.path(), None).unwrap();
    }
    let written = store.places(CallKind::Put).iter().filter(|name| name.starts_with("cat/")).count();
    assert_eq!(written, 5, "one for every eight");
    store.take();
    let repository = bench.open_like_the_program(None).unwrap();
    assert!(ids(&repository).len() == 40 && ids(&repository).iter().all(|(_, sealed)| *sealed));
    let read: Vec<_> = store.places(CallKind::Get).into_iter().filter(|name| !name.starts_with("repo/")).collect();
    let of = |prefix: &str| read.iter().filter(|name| name.starts_with(prefix)).count();
    assert!((of("cat/"), of("snap/"), of("seal/")) == (1, 0, 0), "each catalogue took in the one before: {read:?}");
}
