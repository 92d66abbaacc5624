//! Faults of the store and damage at rest.

use std::path::Path;
use std::sync::Arc;

use backup_writer::backup::{BackupOptions, backup};
use backup_writer::check::{ReadData, check};
use backup_writer::create::{NewKey, add_key, put_hashed};
use backup_writer::device;
use backup_writer::forget::{forget, undo};
use bytes::Bytes;
use fs_core::config::{ChunkSizes, encode_config};
use fs_core::crypto::Key;
use fs_core::id::{PackId, RunId};
use fs_core::key::slot::{Credential, PasswordCost};
use fs_core::object::{self, Header, ObjectKind};
use fs_core::observer::Silent;
use fs_core::reader::ContentReader;
use fs_core::report::Severity;
use fs_core::snapshot::Manifest;
use fs_core::snapshot::codec::{Catalogue, CatalogueRow};
use fs_core::snapshot::mark::{GRACE_LEAST, Mark};
use fs_core::storage::memory::MemoryStore;
use fs_core::storage::{ReadStore, WriteStore};
use fs_core::testing::{Fault, FaultyStore, Rule};
use rustix::fs::XattrFlags;
use tests::{Bench, noise, options};
use zeroize::Zeroizing;

fn source() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    std::fs::create_dir(place.path().join("sub")).unwrap();
    std::fs::write(place.path().join("sub/one"), noise(1, 200_000)).unwrap();
    std::fs::write(place.path().join("two"), "text ".repeat(1000)).unwrap();
    std::fs::hard_link(place.path().join("two"), place.path().join("three")).unwrap();
    place
}

/// For every store call of a backup and every fault: no sealed snapshot is ever incomplete, success means sealed, and the next run repairs.
#[test]
fn every_store_call_may_fail_in_every_way() {
    let source = source();
    let memory = MemoryStore::new();
    let bench = Bench::new(Arc::new(memory.fork())).unwrap();
    let start = {
        let fresh = MemoryStore::new();
        let bench = Bench::new(Arc::new(fresh.clone())).unwrap();
        bench.backup(source.path(), None).unwrap();
        std::fs::write(source.path().join("sub/new"), noise(9, 100_000)).unwrap();
        (fresh, bench)
    };
    drop(bench);
    let run = |rules: Vec<Rule>| {
        let store = Arc::new(start.0.fork());
        let faulty = FaultyStore::new(Arc::clone(&store) as Arc<dyn WriteStore>, rules);
        let broken = Bench { store: Arc::clone(&faulty) as Arc<dyn WriteStore>, ..start.1.clone() };
        let result = broken.open().and_then(|repository| Ok(backup(&repository, &broken.store, &options(source.path(), None), &Silent)?));
        (store, faulty.calls(), result)
    };
    let (_, calls, result) = run(Vec::new());
    result.unwrap();
    for fault in [Fault::ErrorBefore, Fault::ErrorAfterEffect, Fault::Timeout, Fault::Full] {
        for n in 1..=calls {
            let (store, _, result) = run(vec![Rule::nth(n, fault)]);
            let healthy = Bench { store: store as Arc<dyn WriteStore>, ..start.1.clone() };
            let repository = healthy.open().unwrap();
            let sealed = repository.snapshots().unwrap().iter().filter(|snapshot| snapshot.sealed).count();
            assert!(sealed >= 1 && (result.is_err() || sealed == 2), "call {n}, {fault:?}: success means sealed");
            let report = check(&repository, ReadData::All, &Silent).unwrap();
            assert!(report.findings.iter().all(|finding| finding.severity == Severity::Note), "call {n}, {fault:?}: {:?}", report.findings);
            healthy.backup(source.path(), None).unwrap();
            let again = check(&healthy.open().unwrap(), ReadData::None, &Silent).unwrap();
            assert!(again.findings.iter().all(|finding| finding.severity == Severity::Note), "call {n}, {fault:?}: {:?}", again.findings);
        }
    }
}

/// Reads everything that a repository gives; damaged parts may fail, but no byte may differ.
fn read_all(bench: &Bench, expected: &[(Vec<u8>, Vec<u8>)]) {
    let Ok(repository) = bench.open() else { return };
    let Ok(snapshots) = repository.snapshots() else { return };
    for snapshot in &snapshots {
        let mut open = vec![snapshot.manifest().unwrap().root];
        while let Some(directory) = open.pop() {
            let _ = backup_writer::what::for_each_entry::<fs_core::repository::ReadError>(&repository, &directory, |entry| {
                if entry.subtree.is_some() {
                    open.push(entry.clone());
                } else if let Ok(bytes) = ContentReader::of_file(Arc::clone(&repository), entry).read(0, entry.size) {
                    let fits = expected.iter().any(|(name, content)| *name == entry.name_bytes() && *content == bytes);
                    assert!(fits, "a wrong byte was returned");
                }
                Ok(())
            });
        }
    }
}

/// A small repository with every kind of object and record: several slots and configurations, lists, tables, a catalogue.
fn one_of_each(source: &Path, state: &Path) -> (MemoryStore, Bench) {
    let memory = MemoryStore::new();
    let bench = Bench::new(Arc::new(memory.clone())).unwrap();
    let repository = bench.open().unwrap();
    let (ring, random) = (repository.ring(), &*bench.random);
    for credential in [Credential::Recovery(Key::from_bytes([1; 32])), Credential::Password(Zeroizing::new("a long password".into()))] {
        let key = NewKey { credential, label: "another".into(), cost: PasswordCost::LEAST };
        add_key(&*bench.store, ring, &key, &(Arc::clone(&bench.clock) as _), &bench.random).unwrap();
    }
    // A second configuration with tiny chunks, so that a small file needs a list.
    let mut config = repository.config().clone();
    (config.generation, config.chunks) = (2, ChunkSizes { min: 1024, mean: 1026, max: 2048, small: 1024 });
    let header = Header::new(ObjectKind::Config, ring.epoch(), ring.repository, random);
    let object = encode_config(&config, &header, &ring.current().structure, &ring.root_signer().unwrap());
    put_hashed(&*bench.store, object, |hash| object::config_name(2, hash)).unwrap();

    std::fs::create_dir(source.join("never")).unwrap();
    std::fs::write(source.join("file"), "content ".repeat(40)).unwrap();
    std::fs::write(source.join("list"), [0; 80_000]).unwrap();
    std::fs::hard_link(source.join("file"), source.join("link")).unwrap();
    rustix::fs::lsetxattr(source.join("file"), "user.long", &noise(5, 300), XattrFlags::empty()).unwrap();
    let how = BackupOptions { never: vec![source.join("never")], ..options(source, Some(state)) };
    let report = backup(&bench.open().unwrap(), &bench.store, &how, &Silent).unwrap();
    assert_eq!(report.findings.len(), 1, "something was left out, and the list of findings says so");

    let repository = bench.open().unwrap();
    let manifest_object = memory.contents().into_iter().find(|(name, _)| name.as_str().starts_with("snap/")).unwrap().1;
    let (_, header, signed) = Manifest::decode_object(&manifest_object, repository.ring()).unwrap();
    let seal = memory.contents().into_iter().find(|(name, _)| name.as_str().starts_with("seal/")).unwrap().1;
    let (manifest, seal) = (object::object_hash(&manifest_object).into(), Some(object::object_hash(&seal)));
    let row = CatalogueRow { manifest, header: header.encode(), signed, seal };
    let catalogue = Catalogue { rows: vec![row], superseded: Vec::new() };
    let signer = device::open(&repository, &*bench.store, Some(state), "host").unwrap();
    let object = catalogue.encode_object(repository.ring(), &signer, random).unwrap();
    put_hashed(&*bench.store, object, |hash| object::hashed_name(ObjectKind::Catalogue, hash)).unwrap();
    // The snapshot is forgotten and brought back.
    forget(&repository, &*bench.store, &signer, &[manifest].into(), "test").unwrap();
    undo(&repository, &*bench.store, &signer, &repository.all_snapshots().unwrap().forgotten).unwrap();
    // A mark of a pack that is gone.
    let (run, device, time) = (RunId::from_bytes([1; 16]), signer.device, repository.clock().now());
    let packs = vec![PackId::from_bytes([1; 16])];
    let mark = Mark { run, device, time, server_time: None, grace: GRACE_LEAST, packs, snapshots: Vec::new() };
    let object = mark.encode_object(repository.ring(), &signer, random);
    put_hashed(&*bench.store, object, |hash| object::run_name(ObjectKind::Mark, &run, hash)).unwrap();
    (memory, bench)
}

/// Flips every byte of every object in turn: noticed, no panic, no wrong byte.
#[test]
fn every_flipped_byte_is_detected() {
    let (place, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (memory, bench) = one_of_each(place.path(), state.path());
    let expected: Vec<_> =
        ["file", "link", "list"].map(|name| (name.as_bytes().to_vec(), std::fs::read(place.path().join(name)).unwrap())).to_vec();
    for (_, kind, prefix) in ObjectKind::ALL {
        assert!(memory.contents().iter().any(|(name, _)| name.as_str().starts_with(prefix)), "{kind:?}");
    }
    assert!(check(&bench.open().unwrap(), ReadData::All, &Silent).unwrap().findings.is_empty());
    let flips: Vec<_> =
        memory.contents().into_iter().flat_map(|(name, bytes)| (0..bytes.len()).map(move |at| (name.clone(), at))).collect();
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let (flips, memory, bench, expected) = (&flips, &memory, &bench, &expected);
            scope.spawn(move || {
                for (name, at) in flips.iter().skip(worker).step_by(workers) {
                    let store = memory.fork();
                    let mut bytes = store.overwrite(name, None).unwrap().to_vec();
                    bytes[*at] ^= 1 << (at % 8);
                    store.overwrite(name, Some(Bytes::from(bytes)));
                    let damaged = Bench { store: Arc::new(store), ..bench.clone() };
                    read_all(&damaged, expected);
                    let noticed = match damaged.open() {
                        Err(_) => true,
                        Ok(repository) => check(&repository, ReadData::All, &Silent).map_or(true, |report| !report.findings.is_empty()),
                    };
                    assert!(noticed, "{name} at {at}");
                }
            });
        }
    });
}

#[test]
fn a_lost_pack_costs_its_files_and_nothing_else() {
    let source = source();
    let memory = MemoryStore::new();
    let bench = Bench::new(Arc::new(memory.clone())).unwrap();
    bench.backup(source.path(), None).unwrap();
    let pack = memory.contents().into_iter().map(|(name, _)| name).find(|name| name.as_str().starts_with("pack/")).unwrap();
    memory.overwrite(&pack, None);
    let repository = bench.open().unwrap();
    assert_eq!(repository.snapshots().unwrap().len(), 1, "names and sizes still show");
    let report = check(&repository, ReadData::None, &Silent).unwrap();
    assert!(report.findings.iter().filter(|finding| finding.severity == Severity::Error).count() >= 3, "{:?}", report.findings);
    assert!(memory.capabilities().create_only);
    bench.backup(source.path(), None).unwrap();
    let repository = bench.open().unwrap();
    let report = check(&repository, ReadData::None, &Silent).unwrap();
    let newest = repository.snapshots().unwrap().last().unwrap().id.short();
    assert!(
        !report.findings.iter().any(|finding| finding.message.contains(&newest)),
        "the next run saves what was lost: {:?}",
        report.findings
    );
}
