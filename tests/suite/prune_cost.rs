//! What a prune asks of the store.

use std::collections::BTreeSet;
use std::sync::Arc;

use backup_writer::prune::{AGE, PruneOptions, PruneReport};
use fs_core::storage::WriteStore;
use fs_core::testing::{Call, CallKind, RecordingStore};

use super::prune::{DAY, Place};

/// A run, and all its calls.
fn calls_of(place: &Place) -> (PruneReport, Vec<Call>) {
    let recording = RecordingStore::new(Arc::new(place.memory.clone()));
    let place = place.over(Arc::clone(&recording) as Arc<dyn WriteStore>);
    let report = place.try_prune(&PruneOptions { delete_percent: 100, ..PruneOptions::default() }).unwrap();
    (report, recording.take())
}

/// What forgotten snapshots need matters only to a run that deletes: one that marks reads the trees of the others.
#[test]
fn a_marking_run_reads_no_trees_of_old_forgotten_snapshots() {
    let read_with = |days: usize| {
        let place = Place::with_days(days as u64);
        place.forget(&place.ids()[..days - 3]);
        // Younger ones say which packs belong to a backup that has come to its end.
        place.bench.clock.advance(AGE + DAY);
        let (report, calls) = calls_of(&place);
        assert!(report.snapshots_condemned as usize == days - 3 && report.condemned.count as usize > days - 3, "{report:?}");
        let read = calls.into_iter().filter(|call| call.kind == CallKind::GetRange && call.place.starts_with("meta/"));
        read.map(|call| call.place).collect::<BTreeSet<_>>().len()
    };
    let (few, many) = (read_with(6), read_with(18));
    assert!(few > 0 && many == few, "{few} packs of trees are read where three snapshots are forgotten, {many} with fifteen");
}

/// Each manifest goes after its seals, and not each snapshot after the one before it: far away that would be two round trips for each.
#[test]
fn forgotten_snapshots_are_deleted_side_by_side() {
    let place = Place::with_days(12);
    place.forget(&place.ids()[..9]);
    place.prune();
    place.bench.clock.advance(8 * DAY);
    let (report, calls) = calls_of(&place);
    assert_eq!(report.snapshots_swept, 9);
    let deleted = calls.iter().filter(|call| call.kind == CallKind::Delete).filter_map(|call| call.place.split('/').next());
    let deleted: Vec<_> = deleted.take(18).collect();
    assert_eq!(deleted, [["seal"; 9], ["snap"; 9]].concat());
}
