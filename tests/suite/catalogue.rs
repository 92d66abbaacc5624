//! What it costs to open a repository, and what catalogues may and may not claim.

use std::path::Path;
use std::sync::Arc;

use backup_writer::create::put_hashed;
use backup_writer::device;
use bytes::Bytes;
use fs_core::crypto::Key;
use fs_core::id::{DeviceId, ObjectHash, SnapshotId};
use fs_core::object::{self, ObjectKind, Signer};
use fs_core::path::Name;
use fs_core::reader::ContentReader;
use fs_core::repository::{Repository, Snapshots};
use fs_core::snapshot::Snapshot;
use fs_core::snapshot::codec::{Catalogue, CatalogueRow};
use fs_core::storage::local::LocalStore;
use fs_core::storage::memory::MemoryStore;
use fs_core::storage::{ObjectName, WriteStore};
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
    let mut entry = snapshot.manifest().unwrap().root;
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
fn of_ten_thousand_snapshots_the_first_byte_is_four_round_trips_away() {
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
    let (more_trips, more) = (store.round_trips(), store.reset());
    println!("to the first byte at depth 8: {more_trips} more round trips, {more:?}");
    assert!(trips + more_trips <= 4, "{trips} and {more_trips} round trips");
    assert!(counts.requests() + more.requests() <= 15, "{counts:?} {more:?}");

    let again = bench.open_like_the_program(Some(state.path())).unwrap();
    assert_eq!(ids(&again), ids(&repository));
    let (counts, trips) = (store.reset(), store.round_trips());
    println!("warm: {trips} round trips, {counts:?}");
    assert!(counts.bytes_down < 20_000, "what was checked once is not read again: {counts:?}");
}

/// For measurements with the real program: `cargo test -p tests -- --ignored make_many_snapshots`. The key is tests/data/format1.key.
#[test]
#[ignore = "writes into /dev/shm and is for measuring"]
fn make_many_snapshots() {
    let source = tempfile::tempdir().unwrap();
    for count in [10, 10_000] {
        let place = format!("/dev/shm/yesterdrive-many/{count}");
        let bench = deep(Arc::new(LocalStore::create(place).unwrap()), source.path());
        add_snapshots(&bench, count - 1, 1000).unwrap();
    }
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

/// Every object of a kind, by name.
fn named(memory: &MemoryStore, prefix: &str) -> Vec<(ObjectName, Bytes)> {
    memory.contents().into_iter().filter(|(name, _)| name.as_str().starts_with(prefix)).collect()
}

/// A repository with 20 snapshots, the last one without its seal, and what it shows.
fn rolled_up(place: &Path) -> (MemoryStore, Bench, Vec<(String, bool)>) {
    let memory = MemoryStore::new();
    let bench = deep(Arc::new(memory.clone()), place);
    add_snapshots(&bench, 19, 100).unwrap();
    let last =
        named(&memory, "seal/").into_iter().map(|(name, _)| name).max_by_key(|name| name.as_str().rsplit('/').next().map(str::to_owned));
    memory.overwrite(&last.unwrap(), None);
    let shown = ids(&bench.open().unwrap());
    assert_eq!((shown.len(), shown.iter().filter(|(_, sealed)| *sealed).count()), (20, 19));
    (memory, bench, shown)
}

fn put_catalogue(bench: &Bench, catalogue: &Catalogue, signer: &Signer) {
    let repository = bench.open().unwrap();
    let object = catalogue.encode_object(repository.ring(), signer, &*bench.random).unwrap();
    put_hashed(&*bench.store, object, |hash| object::hashed_name(ObjectKind::Catalogue, hash)).unwrap();
}

#[test]
fn a_damaged_catalogue_costs_time_only() {
    let place = tempfile::tempdir().unwrap();
    let (memory, bench, shown) = rolled_up(place.path());
    let signer = device::open(&bench.open().unwrap(), &*bench.store, None, "roll").unwrap();
    put_catalogue(&bench, &bench.open().unwrap().roll_up().unwrap().unwrap(), &signer);
    let (name, bytes) = named(&memory, "cat/").remove(0);
    for at in (0..bytes.len()).step_by(97) {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 0x10;
        memory.overwrite(&name, Some(damaged.into()));
        let repository = bench.open().unwrap();
        let Snapshots { live: snapshots, findings, .. } = repository.all_snapshots().unwrap();
        assert_eq!(snapshots.len(), shown.len());
        assert!(findings.len() == 1 && ids(&repository) == shown, "byte {at}: {findings:?}");
    }
}

/// Catalogues that are sealed well and lie: by rows that are not signed, that belong elsewhere, or that nobody lists.
#[test]
fn a_forged_catalogue_changes_nothing() {
    let place = tempfile::tempdir().unwrap();
    let (memory, bench, shown) = rolled_up(place.path());
    let repository = bench.open().unwrap();
    let signer = device::open(&repository, &*bench.store, None, "roll").unwrap();
    let honest = repository.roll_up().unwrap().unwrap();
    let unsealed = repository.snapshots().unwrap().into_iter().find(|snapshot| !snapshot.sealed).unwrap().id;
    let changed = |change: &dyn Fn(usize, &mut CatalogueRow)| {
        let mut catalogue = honest.clone();
        catalogue.rows.iter_mut().enumerate().for_each(|(n, row)| change(n, row));
        catalogue.rows.sort_by_key(|row| row.manifest);
        catalogue
    };
    let other = |n: usize| honest.rows[(n + 1) % honest.rows.len()].clone();
    let lies = [
        ("other payloads", changed(&|n, row| row.signed.payload = other(n).signed.payload)),
        ("other manifests", changed(&|n, row| row.signed = other(n).signed)),
        ("signatures", changed(&|_, row| row.signed.signature[5] ^= 1)),
        ("headers", changed(&|_, row| row.header[40] ^= 1)),
        ("seals of others", changed(&|n, row| row.seal = other(n).seal)),
        ("a seal where there is none", changed(&|n, row| row.seal = if row.manifest == unsealed { other(n).seal } else { row.seal })),
        ("seals that nobody lists", changed(&|_, row| row.seal = Some(ObjectHash::from_bytes([9; 32])))),
        ("manifests that nobody lists", changed(&|n, row| row.manifest = SnapshotId::from_bytes([n as u8; 32]))),
        ("nothing, and supersedes all", Catalogue { rows: Vec::new(), superseded: vec![ObjectHash::from_bytes([1; 32])] }),
    ];
    for (lie, catalogue) in lies {
        let bench = Bench { store: Arc::new(memory.fork()), ..bench.clone() };
        put_catalogue(&bench, &catalogue, &signer);
        let state = tempfile::tempdir().unwrap();
        assert_eq!(ids(&bench.open_like_the_program(Some(state.path())).unwrap()), shown, "{lie}");
        assert_eq!(ids(&bench.open_like_the_program(Some(state.path())).unwrap()), shown, "{lie}, from what was kept");
    }
    let stranger = Signer { device: DeviceId::from_bytes([3; 16]), seed: Key::from_bytes([4; 32]) };
    let bench = Bench { store: Arc::new(memory.fork()), ..bench.clone() };
    put_catalogue(&bench, &honest, &stranger);
    let Snapshots { live: snapshots, findings, .. } = bench.open().unwrap().all_snapshots().unwrap();
    assert_eq!((snapshots.len(), findings.len()), (20, 1), "nobody who may write signed it");
}

#[test]
fn what_was_checked_counts_only_while_its_signer_does() {
    let (place, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (memory, bench, shown) = rolled_up(place.path());
    let open = || bench.open_like_the_program(Some(state.path())).unwrap();
    assert_eq!(ids(&open()), shown);
    let file = state.path().join(open().id().to_string()).join("snapshots");
    let kept = std::fs::read(&file).unwrap();
    // Damaged, cut and foreign files are as good as none.
    for damaged in
        [vec![], kept[..kept.len() / 2].to_vec(), [&kept[..60], &[kept[60] ^ 1], &kept[61..]].concat(), b"something else".repeat(90)]
    {
        std::fs::write(&file, damaged).unwrap();
        assert_eq!(ids(&open()), shown);
        assert_ne!(std::fs::read(&file).unwrap().len(), 0);
        std::fs::write(&file, &kept).unwrap();
        assert_eq!(ids(&open()), shown);
    }
    // A device whose certificate is gone may not have written anything.
    let devices = named(&memory, "dev/");
    assert_eq!(devices.len(), 2);
    for (name, bytes) in &devices {
        memory.overwrite(name, None);
        let cold = ids(&bench.open().unwrap());
        assert!(cold.len() < shown.len());
        std::fs::write(&file, &kept).unwrap();
        assert_eq!(ids(&open()), cold);
        memory.overwrite(name, Some(bytes.clone()));
    }
    // What the store no longer lists is not shown.
    std::fs::write(&file, &kept).unwrap();
    let (name, _) = named(&memory, "snap/").remove(3);
    memory.overwrite(&name, None);
    assert_eq!(ids(&open()), ids(&bench.open().unwrap()));
    assert_eq!(ids(&open()).len(), 19);
}
