//! Faults of the store, and a lost pack. What damage at rest does: `damage.rs`.

use std::sync::Arc;

use backup_writer::backup::backup;
use backup_writer::check::{ReadData, check};
use fs_core::observer::Silent;
use fs_core::report::Severity;
use fs_core::storage::memory::MemoryStore;
use fs_core::storage::{ReadStore, WriteStore};
use fs_core::testing::{Fault, FaultyStore, Rule};
use tests::{Bench, noise, options};

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
