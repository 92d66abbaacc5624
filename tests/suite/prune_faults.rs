//! Every single fault at every store call of a prune: one that marks and packs anew, and one that sweeps.

use std::sync::Arc;
use std::time::Duration;

use backup_writer::check::{ReadData, check};
use backup_writer::forget::authorise;
use backup_writer::prune::{Plan, PruneOptions, PruneReport};
use fs_core::observer::Silent;
use fs_core::report::{Finding, Place as Where, Severity};
use fs_core::snapshot::mark::GRACE_LEAST;
use fs_core::storage::WriteStore;
use fs_core::testing::Fault;
use fs_core::testing::simulator::{Outcome, Simulator, run_at_every_call};
use fs_core::time::Clock as _;
use tests::Bench;
use tests::driven::is_long;

use super::prune::{DAY, HOUR, Place};

const EVERYTHING: PruneOptions = PruneOptions {
    grace: Duration::from_secs(7 * 86_400),
    age: GRACE_LEAST,
    delete_percent: 100,
    repack_bytes: u64::MAX,
    missing_is_lost: false,
};

/// What is at stake, with all that it takes to prune: `wait` passes between its last change and the prune.
struct Stage {
    place: Place,
    wait: Duration,
}

impl Stage {
    fn put_into(&self, simulator: &Simulator) {
        simulator.clock().set(self.place.bench.clock.now());
        for (name, bytes) in self.place.memory.contents() {
            simulator.memory().overwrite(&name, Some(bytes));
        }
        simulator.clock().advance(self.wait);
    }

    fn over(&self, simulator: &Simulator, store: Arc<dyn WriteStore>) -> Place {
        let bench = Bench { store, clock: simulator.clock(), ..self.place.bench.clone() };
        Place { bench, memory: simulator.memory().clone(), ..self.place.clone() }
    }

    /// Nothing is lost after any fault, and one further run leaves everything in order.
    fn stands(&self, fault: Fault) {
        let operation = |simulator: &Simulator| prune(&self.over(simulator, simulator.store()));
        let calls = run_at_every_call(
            5,
            fault,
            |simulator| self.put_into(simulator),
            operation,
            |simulator, outcome| {
                self.expect_sound(fault, simulator, &outcome);
            },
        );
        assert!(calls > 20, "{calls} calls");
    }

    fn expect_sound(&self, fault: Fault, simulator: &Simulator, outcome: &Outcome<anyhow::Result<PruneReport>>) {
        // In short runs a third of the calls, others for each fault.
        if !is_long() && outcome.call > 0 && !(outcome.call + fault as u64).is_multiple_of(3) {
            return;
        }
        assert!(outcome.result.is_ok() || outcome.was_struck(), "{:?}", outcome.result);
        let place = self.over(simulator, Arc::new(simulator.memory().clone()));
        let is_sound = |finding: &Finding| {
            // What was cut off under its name stays there and is named; it changes nothing.
            let is_cut = fault == Fault::TornWrite && matches!(&finding.place, Where::Object(_));
            finding.severity < Severity::Warning || is_cut
        };
        let expect_clean = |when: &str| {
            let findings = check(&place.bench.open().unwrap(), ReadData::All, &Silent).unwrap().findings;
            assert!(findings.iter().all(is_sound), "{when}: {findings:?}");
            assert_eq!(place.ids().len(), self.place.ids().len(), "{when}: nothing vanishes that nobody forgot");
        };
        expect_clean("struck");
        place.try_prune(&EVERYTHING).unwrap();
        expect_clean("run again");
        simulator.clock().advance(8 * DAY);
        place.try_prune(&EVERYTHING).unwrap();
        expect_clean("swept");
    }
}

/// As the program does it, from the opening on.
fn prune(place: &Place) -> anyhow::Result<PruneReport> {
    let repository = place.bench.open()?;
    let signer = authorise(&repository, &*place.bench.store, Some(place.state.path()), "host")?;
    Ok(Plan::make(&repository, &EVERYTHING, &Silent)?.execute(&*place.bench.store, &signer)?)
}

/// Something to forget, to pack anew and to keep.
fn forgotten() -> Place {
    let place = Place::with_days(4);
    place.forget(&place.ids()[..2]);
    place
}

fn all_faults(stage: &Stage) {
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for worker in 0..workers {
            scope.spawn(move || Fault::ALL.into_iter().skip(worker).step_by(workers).for_each(|fault| stage.stands(fault)));
        }
    });
}

#[test]
fn every_store_call_of_a_marking_run_may_fail_in_every_way() {
    // Late enough for nothing to be young.
    all_faults(&Stage { place: forgotten(), wait: 3 * DAY });
}

#[test]
fn every_store_call_of_a_sweep_may_fail_in_every_way() {
    let mut place = forgotten();
    place.prune();
    place.bench.clock.advance(HOUR);
    // Something to mark too.
    place.write("changes", b"less");
    place.backup();
    place.forget(&place.ids()[..1]);
    all_faults(&Stage { place, wait: 8 * DAY });
}
