//! Pruning where somebody who may only back up means harm, or something is damaged.

use backup_writer::create::put_hashed;
use backup_writer::device;
use backup_writer::prune::PruneOptions;
use fs_core::id::SnapshotId;
use fs_core::object::{self, ObjectKind};
use fs_core::record::Reference;
use fs_core::repository::Repository;
use fs_core::snapshot::Manifest;
use fs_core::snapshot::codec::Seal;
use fs_core::time::Timestamp;
use fs_core::tree::{Content, Page};

use super::prune::{DAY, Place};

/// Pages and lists of a snapshot.
fn inner(repository: &Repository, page: Reference, found: &mut Vec<Reference>) {
    found.push(page);
    match &*repository.page(&page).unwrap() {
        Page::Index(rows) => rows.iter().for_each(|row| inner(repository, row.reference, found)),
        Page::Leaf(leaf) => {
            for entry in leaf.entries() {
                if let Content::List { reference, .. } = &entry.content {
                    found.push(*reference);
                }
                if let Some(page) = entry.subtree.as_ref().and_then(|subtree| subtree.page) {
                    inner(repository, page, found);
                }
            }
        }
    }
}

/// Puts a sealed snapshot of another device, dated before all others, that shows nothing and names records where nobody descends into them.
fn plant(place: &Place, model: &Manifest, names: Vec<Reference>) {
    const SEQUENCE: u64 = 1;
    let repository = place.bench.open().unwrap();
    let signer = device::open(&repository, &*place.bench.store, None, "thief").unwrap();
    let (started, ended) = (Timestamp::default(), Timestamp::default());
    let manifest = Manifest {
        device: signer.device,
        sequence: SEQUENCE,
        previous: None,
        parent: None,
        heads: Vec::new(),
        link_table: Vec::new(),
        findings: names,
        changes: Vec::new(),
        original: None,
        started,
        ended,
        ..model.clone()
    };
    let object = manifest.encode_object(repository.ring(), &signer, &*place.bench.random).unwrap();
    let name = |kind| move |hash: &_| object::sequence_name(kind, &signer.device, SEQUENCE, hash);
    let id = SnapshotId::from(put_hashed(&*place.bench.store, object, name(ObjectKind::Manifest)).unwrap());
    let seal = Seal { device: signer.device, sequence: SEQUENCE, manifest: id, time: ended };
    let seal = seal.encode_object(repository.ring(), &signer, &*place.bench.random);
    put_hashed(&*place.bench.store, seal, name(ObjectKind::Seal)).unwrap();
}

#[test]
fn what_a_planted_snapshot_names_hides_nothing_that_others_need() {
    let mut place = Place::new();
    place.write("large", &tests::noise(1, 2_000_000));
    std::fs::create_dir(place.source.path().join("folder")).unwrap();
    place.write("folder/small", &tests::noise(2, 100_000));
    place.backup();
    let repository = place.bench.open().unwrap();
    let model = repository.snapshots().unwrap()[0].manifest().unwrap();
    let mut found = Vec::new();
    inner(&repository, model.root.subtree.as_ref().unwrap().page.unwrap(), &mut found);
    let own = tempfile::tempdir().unwrap();
    let model = place.bench.backup(own.path(), None).unwrap().snapshot;
    let snapshots = place.bench.open().unwrap().snapshots().unwrap();
    let model = snapshots.iter().find(|snapshot| snapshot.id == model).unwrap().manifest().unwrap();
    plant(&place, &model, found);
    place.bench.clock.advance(3 * DAY);
    for _ in 0..3 {
        let report = place.try_prune(&PruneOptions::default()).unwrap();
        assert_eq!((report.condemned.count, report.swept.count), (0, 0), "{report:?}");
        place.bench.clock.advance(8 * DAY);
    }
    place.expect_readable(&place.bench.open().unwrap(), "planted");
}
