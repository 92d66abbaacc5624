//! Stores that keep their objects for a time against anybody's wish: what is needed is kept, whoever deletes; what is to go goes when its time is over.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use backup_writer::copy::{CopyOptions, Purpose, copy};
use backup_writer::merge::{self, MergeOptions};
use backup_writer::prolong::{Kept, Prolonged, Prolonging, to_go};
use fs_core::observer::Silent;
use fs_core::report::is_incomplete;
use fs_core::storage::memory::MemoryStore;
use fs_core::storage::{ObjectName, StoreError, WriteStore, wait};
use fs_core::testing::{CallKind, CountingStore, Fault, FaultyStore, ManualClock, Rule};
use fs_core::time::Clock as _;
use tests::{Bench, noise};

use super::prune::{DAY, HOUR, Place};

const TIME: Duration = Duration::from_secs(24 * 86_400);

/// A place whose store keeps what it is given.
fn place() -> Place {
    let plain = Place::new();
    let memory = MemoryStore::with_clock(plain.bench.clock.clone()).with_retention(TIME);
    let bench = Bench { clock: plain.bench.clock.clone(), ..Bench::new(Arc::new(memory.clone())).unwrap() }.with_small_packs().unwrap();
    Place { memory, bench, ..plain }
}

fn prolong(place: &Place, state: Option<&Path>) -> Result<Option<Prolonged>> {
    let store = &*place.bench.store;
    let Some(due) = Prolonging::look(store, state)? else { return Ok(None) };
    let is_to_go = to_go(&*place.bench.open()?, due.now)?;
    Ok(Some(due.execute(is_to_go, &Silent)?))
}

/// What the command `prune` does.
fn maintain(place: &Place) {
    let pruned = place.prune();
    assert!(!is_incomplete(&pruned.findings), "{:?}", pruned.findings);
    let (repository, store) = (place.bench.open().unwrap(), &*place.bench.store);
    let options = MergeOptions { gone: pruned.deleted.iter().copied().collect(), ..MergeOptions::default() };
    let merged = merge::run(&repository, store, &place.signer(&repository), &options, &Silent).unwrap();
    Kept::open(place.state.path(), store).unwrap().leave(&merged.held).unwrap();
    let prolonged = prolong(place, Some(place.state.path())).unwrap();
    assert!(prolonged.is_none_or(|prolonged| prolonged.findings.is_empty()));
}

/// Somebody with all credentials deletes what the store lets him, so much later.
fn attacked(place: &Place, later: Duration) -> Place {
    let clock = ManualClock::at(place.bench.clock.now().saturating_add(later));
    let memory = place.memory.fork_with_clock(clock.clone());
    for (name, _) in memory.contents() {
        assert!(matches!(wait("", memory.delete(&name)), Ok(()) | Err(StoreError::Denied { .. })));
    }
    Place { bench: Bench { clock, store: Arc::new(memory.clone()), ..place.bench.clone() }, memory, ..place.clone() }
}

#[test]
fn what_is_needed_survives_whoever_deletes_and_what_is_forgotten_goes() {
    let mut place = place();
    let mut forgotten = BTreeSet::new();
    for day in 0..90_u64 {
        place.bench.clock.advance(DAY);
        if day % 6 == 0 {
            place.write("changes", &noise(day, 200_000));
            place.write(&format!("file {day}"), &noise(day + 500, 3000));
            place.backup();
        }
        if day == 20 {
            forgotten = place.named("pack/").into_iter().map(|(name, _)| name).collect();
            let ids: Vec<_> = place.ids();
            place.forget(&ids[..3]);
        }
        maintain(&place);
        if day % 10 == 3 {
            let later = attacked(&place, TIME / 2);
            later.expect_readable(&later.bench.open().unwrap(), &format!("day {day}"));
        }
    }
    let left: BTreeSet<ObjectName> = place.named("pack/").into_iter().map(|(name, _)| name).collect();
    assert!(forgotten.iter().any(|name| !left.contains(name)), "something that only forgotten snapshots needed is gone");
    let now = place.prune();
    assert_eq!((now.deferred, now.condemned.count, now.pending.count, now.swept.count), (0, 0, 0, 0), "{now:?}");
    place.expect_whole("at the end");
}

#[test]
fn it_costs_a_request_for_each_object_in_a_quarter_of_the_time() {
    let mut place = place();
    place.write("file", &noise(1, 500_000));
    place.backup();
    place.bench.clock.advance(TIME / 4);
    let counting = CountingStore::new(Arc::clone(&place.bench.store));
    let place = place.over(Arc::<CountingStore>::clone(&counting));
    let objects = place.memory.contents().len() as u64;
    let state = place.state.path();
    counting.reset();
    let all = prolong(&place, Some(state)).unwrap().unwrap();
    assert_eq!((all.count, counting.reset().retain), (objects, objects));
    assert!(place.memory.contents().iter().all(|(name, _)| place.memory.kept_until(name) == all.until));
    for hours in [0, 1, 24] {
        place.bench.clock.advance(HOUR * hours);
        counting.reset();
        assert_eq!(prolong(&place, Some(state)).unwrap(), None);
        assert_eq!(counting.reset().requests(), 1, "the store's clock");
    }
    // A machine that remembers nothing does it all once more, and nothing ends earlier.
    assert_eq!(prolong(&place, None).unwrap().unwrap().count, objects);
    assert!(place.memory.contents().iter().all(|(name, _)| place.memory.kept_until(name) > all.until));
    // A store that keeps nothing is not asked.
    let plain = Place::with_days(1);
    assert_eq!(prolong(&plain, None).unwrap(), None);
}

#[test]
fn what_a_run_could_not_do_the_next_one_does() {
    let mut place = place();
    place.write("file", &noise(1, 500_000));
    place.backup();
    place.bench.clock.advance(TIME / 4);
    let objects = place.memory.contents().len();
    for n in 1..=objects as u64 {
        let memory = place.memory.fork();
        let over = |store: Arc<dyn WriteStore>| Place { memory: memory.clone(), ..place.over(store) };
        let state = tempfile::tempdir().unwrap();
        let faulty = FaultyStore::new(Arc::new(memory.clone()), [Rule::nth(n, Fault::ErrorBefore).kind(CallKind::Retain)]);
        assert!(prolong(&over(faulty), Some(state.path())).is_err(), "{n}");
        let denying = FaultyStore::new(Arc::new(memory.clone()), [Rule::nth(n, Fault::Denied).kind(CallKind::Retain)]);
        let told = prolong(&over(denying), Some(state.path())).unwrap().unwrap();
        assert_eq!((told.count, told.findings.len()), (objects as u64 - 1, 1), "{told:?}");
        let all = prolong(&over(Arc::new(memory.clone())), Some(state.path())).unwrap().unwrap();
        assert!(memory.contents().iter().all(|(name, _)| memory.kept_until(name) == all.until));
        assert_eq!(prolong(&over(Arc::new(memory.clone())), Some(state.path())).unwrap(), None);
    }
}

/// A key that was removed where nothing can be deleted goes when its time is over: nobody prolongs it.
#[test]
fn what_was_to_be_deleted_is_not_prolonged() {
    let place = place();
    let (name, _) = place.named("keys/").swap_remove(0);
    let store = &*place.bench.store;
    assert!(matches!(wait("", store.delete(&name)), Err(StoreError::Denied { .. })));
    Kept::open(place.state.path(), store).unwrap().leave([&name]).unwrap();
    let first = place.memory.kept_until(&name);
    place.bench.clock.advance(TIME / 2);
    assert_eq!(prolong(&place, Some(place.state.path())).unwrap().unwrap().leaving, 1);
    assert_eq!(place.memory.kept_until(&name), first);
    place.bench.clock.advance(TIME / 2);
    wait("", store.delete(&name)).unwrap();
}

#[test]
fn a_copy_is_kept_as_long_as_the_repository_has_it() {
    let mut place = Place::with_days(3);
    let clock = &place.bench.clock;
    let far = MemoryStore::with_clock(clock.clone()).with_retention(TIME);
    let options = CopyOptions { state: Some(place.state.path().into()), ..CopyOptions::new(Purpose::Copy, 1, clock.clone()) };
    let run = |place: &Place| copy(&*place.bench.store, &far, &options, &Silent).unwrap();
    assert_eq!(run(&place).prolonged, 0);
    clock.advance(TIME / 4);
    place.write("later", &noise(9, 1000));
    place.backup();
    let report = run(&place);
    assert_eq!((report.prolonged, run(&place).prolonged), (report.objects.count - report.copied.count, 0), "{report:?}");
    // What is gone there is not kept here.
    let (gone, _) = place.named("pack/").swap_remove(0);
    place.memory.overwrite(&gone, None);
    let before = far.kept_until(&gone);
    place.bench.clock.advance(TIME / 4);
    assert!(run(&place).prolonged > 0);
    assert_eq!(far.kept_until(&gone), before);
}
