//! The end of a repository: announced, taken back, early, interrupted, held back by the store, and proven.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backup_writer::backup::BackupError;
use backup_writer::close::{CLOSING_GRACE, CloseError, DestroyReport, close, destroy, reopen};
use fs_core::key::Role;
use fs_core::observer::{Observer, Progress, Silent};
use fs_core::report::Finding;
use fs_core::testing::Fault;
use fs_core::testing::simulator::{Simulator, run_at_every_call};
use fs_core::time::Clock as _;
use tests::hooked::HookedStore;
use tests::{Bench, later_than_any_file, noise};

use super::prune::{DAY, HOUR, Place};
use super::roles::give;

fn destroyed(place: &Place) -> Result<DestroyReport, CloseError> {
    destroy(&place.bench.open().unwrap(), &*place.bench.store, &Silent)
}

fn closed(place: &Place) {
    close(&place.bench.open().unwrap(), &*place.bench.store, CLOSING_GRACE).unwrap();
}

#[test]
fn a_closed_repository_is_read_for_two_weeks_and_then_gone() {
    let mut place = Place::with_days(3);
    assert!(matches!(destroyed(&place), Err(CloseError::NotClosed)));
    closed(&place);
    let refused = place.try_backup().unwrap_err();
    assert!(matches!(refused.downcast_ref(), Some(BackupError::Closed { .. })), "{refused}");
    place.expect_whole("closed");
    place.bench.clock.advance(CLOSING_GRACE - HOUR);
    assert!(matches!(destroyed(&place), Err(CloseError::Early { .. })));
    reopen(&place.bench.open().unwrap(), &*place.bench.store).unwrap();
    place.backup();
    place.bench.clock.advance(DAY * 30);
    assert!(matches!(destroyed(&place), Err(CloseError::NotClosed)), "it was taken back");

    closed(&place);
    place.bench.clock.advance(CLOSING_GRACE);
    let objects = place.memory.contents();
    let bytes: usize = objects.iter().map(|(_, bytes)| bytes.len()).sum();
    let report = destroyed(&place).unwrap();
    assert_eq!((report.total(), report.kept.len()), ((objects.len() as u64, bytes as u64), 0));
    assert!(place.memory.contents().is_empty());
    // What the report proves anybody can work out who has the list.
    let list: String = objects.iter().map(|(name, bytes)| format!("{name} {}\n", bytes.len())).collect();
    assert_eq!(report.list_hash.as_bytes(), &fs_core::crypto::hash(list.as_bytes()));
}

#[test]
fn only_an_owner_closes_and_destroys() {
    let place = Place::with_days(1);
    for (n, role) in [(7, Role::Maintainer), (8, Role::Reader), (9, Role::Writer)] {
        let device = give(&place, n, role, false);
        let refused = close(&device.bench.open().unwrap(), &*place.bench.store, CLOSING_GRACE);
        assert!(matches!(refused, Err(CloseError::NotAllowed(_))), "{role:?}");
        assert!(matches!(destroyed(&device), Err(CloseError::NotAllowed(_))), "{role:?}");
    }
}

/// A clock that runs ahead gives nobody less time.
#[test]
fn both_clocks_must_say_that_it_is_time() {
    let place = Place::with_days(1);
    closed(&place);
    let due = place.bench.open().unwrap().config().closing.unwrap().due;
    assert!(due >= place.bench.clock.now().saturating_add(CLOSING_GRACE));
    let ahead = fs_core::testing::ManualClock::at(due.saturating_add(DAY * 100));
    let mut other = place.clone();
    other.bench.clock = ahead;
    assert!(matches!(destroyed(&other), Err(CloseError::Early { .. })), "the store's clock says otherwise");
}

/// What a store holds on to keeps keys and configuration, so that the same command goes on.
#[test]
fn what_a_store_holds_on_to_is_named_and_can_be_destroyed_later() {
    let place = Place::with_days(2);
    closed(&place);
    place.bench.clock.advance(CLOSING_GRACE);
    let held = place.over(HookedStore::locked(Arc::clone(&place.bench.store)));
    let report = destroyed(&held).unwrap();
    assert_eq!((report.total().0, report.kept.len()), (0, place.memory.contents().len()));
    place.expect_readable(&place.bench.open().unwrap(), "held");
    assert!(destroyed(&place).unwrap().kept.is_empty());
    assert!(place.memory.contents().is_empty());
}

struct Stopping(AtomicU64);

impl Observer for Stopping {
    fn progress(&self, _: &Progress) {}
    fn finding(&self, _: &Finding) {}
    fn is_cancelled(&self) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed) > 0
    }
}

#[test]
fn every_store_call_of_destroying_may_fail_in_every_way() {
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("file"), noise(1, 5000)).unwrap();
    for fault in Fault::ALL {
        let bench_of = |simulator: &Simulator, store| Bench {
            store,
            clock: simulator.clock(),
            ..Bench::new(Arc::new(fs_core::storage::memory::MemoryStore::new())).unwrap()
        };
        let prepare = |simulator: &Simulator| {
            simulator.clock().set(later_than_any_file());
            let bench = Bench { clock: simulator.clock(), ..Bench::new(Arc::new(simulator.memory().clone())).unwrap() };
            bench.backup(source.path(), None).unwrap();
            close(&bench.open().unwrap(), &*bench.store, Duration::from_secs(1)).unwrap();
            simulator.clock().advance(DAY);
        };
        let operation = |simulator: &Simulator| -> Result<DestroyReport, anyhow::Error> {
            let bench = bench_of(simulator, simulator.store());
            let repository = bench.open()?;
            Ok(destroy(&repository, &*bench.store, &Silent)?)
        };
        run_at_every_call(5, fault, prepare, operation, |simulator, outcome| {
            let left = simulator.memory().contents().len();
            match &outcome.result {
                // An old list may show more than there is.
                Ok(report) => assert!(left <= report.kept.len(), "{fault:?}: what is said to be gone is: {left} are left"),
                Err(_) if left == 0 => {}
                Err(_) => {
                    let bench = bench_of(simulator, Arc::new(simulator.memory().clone()));
                    let again = destroy(&bench.open().unwrap(), &*bench.store, &Silent).unwrap();
                    assert!(again.kept.is_empty() && simulator.memory().contents().is_empty(), "{fault:?}");
                }
            }
        });
    }
    // Interrupted before anything was deleted.
    let place = Place::with_days(1);
    closed(&place);
    place.bench.clock.advance(CLOSING_GRACE);
    let stopped = destroy(&place.bench.open().unwrap(), &*place.bench.store, &Stopping(AtomicU64::new(1)));
    assert!(matches!(stopped, Err(CloseError::Cancelled { .. })));
    assert!(destroyed(&place).unwrap().kept.is_empty());
}
