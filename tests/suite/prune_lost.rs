//! Pruning where something is missing: what a store has lost, what nobody has named yet, and what two objects claim.

use std::sync::Arc;

use backup_writer::check::{ReadData, check};
use backup_writer::prune::{AGE, Plan, PruneError, PruneOptions, PruneReport};
use fs_core::id::SnapshotId;
use fs_core::observer::Silent;
use fs_core::report::Severity;
use fs_core::storage::{ObjectName, WriteStore};
use tests::hooked::{HookedStore, When};

use super::prune::{DAY, HOUR, Place};

/// Prunes as the program does on a machine that remembers.
fn prune(place: &Place, options: &PruneOptions) -> Result<PruneReport, PruneError> {
    let repository = place.bench.open_like_the_program(Some(place.state.path())).unwrap();
    Plan::make(&repository, options, &Silent)?.execute(&*place.bench.store, &place.signer(&repository))
}

/// Takes a snapshot out of the store, and gives back what was there.
fn lose(place: &Place, id: SnapshotId) -> Vec<(ObjectName, bytes::Bytes)> {
    let listed = place.bench.open().unwrap().snapshots().unwrap();
    let sequence = format!("{:010}", listed.iter().find(|snapshot| snapshot.id == id).unwrap().sequence());
    let objects = place.named("snap/").into_iter().chain(place.named("seal/"));
    let its: Vec<_> = objects.filter(|(name, _)| name.as_str().contains(&sequence)).collect();
    assert_eq!(its.len(), 2);
    its.iter().for_each(|(name, _)| drop(place.memory.overwrite(name, None)));
    its
}

#[test]
fn a_machine_remembers_what_the_store_has_lost() {
    let place = Place::with_days(4);
    place.forget(&place.ids()[..1]);
    prune(&place, &PruneOptions::default()).unwrap();
    // The newest: no other manifest names it, and nothing of it is left.
    let newest = place.ids()[2];
    let objects = lose(&place, newest);
    place.bench.clock.advance(8 * DAY);
    // Whoever lists in between does not make it forgotten.
    let listed = place.bench.open_like_the_program(Some(place.state.path())).unwrap().snapshots().unwrap();
    assert!(!listed.iter().any(|snapshot| snapshot.id == newest));
    for _ in 0..2 {
        let before = place.memory.contents();
        let refused = prune(&place, &PruneOptions::default());
        assert!(matches!(&refused, Err(PruneError::Missing { snapshot, .. }) if *snapshot == newest.to_string()), "{refused:?}");
        assert_eq!(place.memory.contents(), before);
    }
    // It was only away.
    objects.iter().for_each(|(name, bytes)| drop(place.memory.overwrite(name, Some(bytes.clone()))));
    assert!(prune(&place, &PruneOptions::default()).unwrap().swept.count > 0);
    place.expect_whole("it was away for a while");
}

#[test]
fn what_is_given_up_is_given_up_once_and_can_be_brought_back() {
    let place = Place::with_days(4);
    place.forget(&place.ids()[..1]);
    place.prune();
    place.bench.clock.advance(8 * DAY);
    let lost = place.ids()[1];
    let objects = lose(&place, lost);
    assert!(matches!(place.try_prune(&PruneOptions::default()), Err(PruneError::Missing { .. })));
    let give_up = PruneOptions { missing_is_lost: true, ..PruneOptions::default() };
    let planned = Plan::make(&place.bench.open().unwrap(), &give_up, &Silent).unwrap().report().clone();
    assert!(planned.swept.count > 0, "{planned:?}");
    assert_eq!(place.try_prune(&give_up).unwrap().snapshots_lost, 1);
    assert_eq!(place.try_prune(&PruneOptions::default()).unwrap().snapshots_lost, 0, "nobody has to say it again");
    // The store finds it again: it is forgotten, and nothing of it is deleted before its time.
    objects.iter().for_each(|(name, bytes)| drop(place.memory.overwrite(name, Some(bytes.clone()))));
    place.try_prune(&PruneOptions::default()).unwrap();
    place.undo(&[lost]).unwrap();
    place.expect_whole("brought back");
    assert!(place.ids().contains(&lost));
}

#[test]
fn what_was_brought_back_stays_if_the_store_loses_the_object_that_says_so() {
    let place = Place::with_days(4);
    let first = place.ids()[0];
    place.forget(&[first]);
    prune(&place, &PruneOptions::default()).unwrap();
    let forgetting = place.named("drop/");
    place.undo(&[first]).unwrap();
    // This machine has seen it.
    prune(&place, &PruneOptions::default()).unwrap();
    for (name, _) in place.named("drop/").iter().filter(|named| !forgetting.contains(named)) {
        place.memory.overwrite(name, None);
    }
    place.bench.clock.advance(8 * DAY);
    let swept = prune(&place, &PruneOptions::default()).unwrap();
    assert_eq!((swept.snapshots_swept, place.count("snap/")), (0, 4), "{swept:?}");
    let listed = place.bench.open_like_the_program(Some(place.state.path())).unwrap().snapshots().unwrap();
    assert!(listed.iter().any(|snapshot| snapshot.id == first));
}

/// What a first backup has sent in weeks, over a slow line, is not taken away under its hands; what was forgotten need not wait that long.
#[test]
fn packs_that_nobody_has_named_yet_stay_for_a_month() {
    let mut place = Place::with_days(3);
    let named = place.count("pack/") + place.count("meta/");
    place.write("of a first backup", &tests::noise(7, 1_000_000));
    let unfinished = place.backup();
    lose(&place, unfinished);
    let sent = (place.count("pack/") + place.count("meta/") - named) as u64;
    place.forget(&place.ids()[..1]);
    place.bench.clock.advance(3 * DAY);
    let marked = place.prune();
    assert!(marked.condemned.count > 0 && marked.young.count == sent, "{sent}: {marked:?}");
    place.bench.clock.advance(AGE - 3 * DAY - HOUR);
    assert_eq!(place.prune().young.count, sent);
    let in_a_hurry = PruneOptions { age: 3 * DAY, ..PruneOptions::default() };
    let soon = Plan::make(&place.bench.open().unwrap(), &in_a_hurry, &Silent).unwrap().report().clone();
    assert!(soon.condemned.count >= sent, "{soon:?}");
    place.bench.clock.advance(2 * HOUR);
    let late = place.prune();
    assert!(late.young.count == 0 && late.condemned.count >= sent, "{late:?}");
}

/// A mark names a pack by its id alone.
#[test]
fn a_pack_with_the_id_of_another_condemns_nothing() {
    let place = Place::with_days(3);
    for (name, _) in place.named("pack/") {
        let twin = ObjectName::new(name.as_str().replacen("pack/", "meta/", 1));
        place.memory.overwrite(&twin, Some(bytes::Bytes::from_static(&[7; 5000])));
    }
    place.bench.clock.advance(AGE + DAY);
    for _ in 0..3 {
        let report = place.prune();
        assert!(report.findings.iter().any(|finding| finding.message.contains("same id")), "{report:?}");
        place.bench.clock.advance(8 * DAY);
    }
    place.expect_readable(&place.bench.open().unwrap(), "twins");
    assert!(place.count("pack/") > 0);
}

/// The same folder, saved once more because the pack of its page was condemned, is sealed under another session. If that copy is the one that is left, it is
/// read under its own session, wherever the older snapshot says that the page is.
#[test]
fn a_folder_that_was_saved_twice_is_read_where_one_copy_is_left() {
    let mut place = Place::new();
    std::fs::create_dir(place.source.path().join("deep")).unwrap();
    place.write("deep/same", &tests::noise(1, 300_000));
    let first = place.backup();
    let pages = place.named("meta/");
    place.write("top", b"so that the second one has pages of its own");
    place.backup();
    place.forget(&[first]);
    pages.iter().for_each(|(name, _)| drop(place.memory.overwrite(name, None)));
    place.state = Arc::new(tempfile::tempdir().unwrap());
    place.backup();
    place.bench.clock.advance(3 * DAY);
    place.try_prune(&PruneOptions::default()).unwrap();
    assert_eq!(place.ids().len(), 2);
    place.expect_readable(&place.bench.open().unwrap(), "one copy is left");
}

/// A machine sleeps between its look at the store and its manifest, which then names what was swept meanwhile; before it can save that again, it is gone from
/// the source. Such a manifest never gets a seal, and is in nobody's way.
#[test]
fn a_manifest_that_came_too_late_is_in_nobodys_way() {
    let mut place = Place::with_days(3);
    let ids = place.ids();
    let (meanwhile, source) = (place.clone(), place.source.path().to_path_buf());
    let hook = move || {
        let repository = meanwhile.bench.open().unwrap();
        let ids = repository.snapshots().unwrap().iter().map(|snapshot| snapshot.id).collect::<Vec<_>>();
        meanwhile.forget(&ids);
        meanwhile.prune();
        meanwhile.bench.clock.advance(8 * DAY);
        meanwhile.prune();
        std::fs::write(source.join("stays"), b"something else").unwrap();
        std::fs::write(source.join("changes"), b"something else too").unwrap();
    };
    let store = HookedStore::new(Arc::new(place.memory.clone()), When::Put("snap/"), hook);
    let report = place.over(Arc::clone(&store) as Arc<dyn WriteStore>).try_backup().unwrap();
    assert!(store.is_done());
    place.saved.retain(|id, _| !ids.contains(id));
    place.saved.insert(report.snapshot, place.shown());
    let listed = place.bench.open().unwrap().all_snapshots().unwrap();
    let unsealed: Vec<_> = listed.live.iter().filter(|snapshot| !snapshot.sealed).collect();
    assert_eq!(unsealed.len(), 1, "the manifest that came too late");
    let lost = unsealed[0].id.short();
    place.expect_whole("with a manifest that came too late");
    for _ in 0..3 {
        let report = place.prune();
        let told: Vec<_> = report.findings.iter().filter(|finding| finding.message.contains("never sealed")).collect();
        assert!(told.len() == 1 && told[0].message.contains(&lost), "{:?}", report.findings);
        place.bench.clock.advance(8 * DAY);
        place.expect_whole("pruned beside it");
    }
    place.forget(&[unsealed[0].id]);
    assert!(place.prune().findings.iter().all(|finding| !finding.message.contains("never sealed")));
}

/// A seal that the store did not list to a sweep stays when its manifest goes. It is of no use, and no loss, also to a machine that has seen that manifest.
#[test]
fn a_seal_that_a_sweep_has_left_is_no_lost_snapshot() {
    let mut place = Place::with_days(4);
    let state = tempfile::tempdir().unwrap();
    let opened = |place: &Place| place.bench.open_like_the_program(Some(state.path())).unwrap();
    place.forget(&place.ids()[..2]);
    place.prune();
    assert_eq!(opened(&place).all_snapshots().unwrap().all().count(), 4);
    place.bench.clock.advance(8 * DAY);
    let seals = place.named("seal/");
    assert_eq!(place.prune().snapshots_swept, 2);
    seals.iter().for_each(|(name, bytes)| drop(place.memory.overwrite(name, Some(bytes.clone()))));
    place.backup();
    for looked in ["at once", "again"] {
        let findings = check(&opened(&place), ReadData::None, &Silent).unwrap().findings;
        let left = findings.iter().filter(|finding| finding.message.contains("is of no use")).count();
        assert!(left == 2 && findings.iter().all(|finding| finding.severity == Severity::Note), "{looked}: {findings:?}");
    }
}
