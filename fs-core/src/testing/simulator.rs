//! Breaks an operation at every store call it makes, or at random ones, all from one seed.
//!
//! An operation under test is a closure that uses [`Simulator::store`] and [`Simulator::clock`]. Whatever it does to them, the objects that reached
//! the store are in [`Simulator::memory`], which never fails: what a program finds that comes after the crash.

use std::sync::Arc;

use super::{CallKind, Fault, FaultyStore, ManualClock, Rule};
use crate::storage::WriteStore;
use crate::storage::memory::MemoryStore;
use crate::time::Timestamp;

/// Of so many places for a fault one is tried where there is no time for all.
const PLACES_FOR_ONE: u64 = 10;
/// Most faults in one random script.
const RANDOM_FAULTS_MAX: u64 = 3;

/// A store that can be broken, over one that cannot, and a clock.
#[derive(Debug)]
pub struct Simulator {
    seed: u64,
    clock: Arc<ManualClock>,
    memory: MemoryStore,
    faulty: Arc<FaultyStore>,
}

impl Simulator {
    /// An empty store without faults.
    pub fn new(seed: u64) -> Self {
        let clock = ManualClock::shared();
        Self::with(seed, MemoryStore::with_clock(clock.clone()), clock)
    }

    /// A store without faults that holds a copy of what another one holds, at some moment.
    pub fn over(seed: u64, start: &MemoryStore, now: Timestamp) -> Self {
        let clock = ManualClock::at(now);
        Self::with(seed, start.fork_with_clock(clock.clone()), clock)
    }

    fn with(seed: u64, memory: MemoryStore, clock: Arc<ManualClock>) -> Self {
        let faulty = FaultyStore::new(Arc::new(memory.clone()), []);
        Self { seed, clock, memory, faulty }
    }

    /// The seed, for whatever else in the test is random.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The store for the operation under test.
    pub fn store(&self) -> Arc<dyn WriteStore> {
        self.faulty.clone()
    }

    /// The clock of the store and of the operation.
    pub fn clock(&self) -> Arc<ManualClock> {
        Arc::clone(&self.clock)
    }

    /// What has reached the store, without faults.
    pub fn memory(&self) -> &MemoryStore {
        &self.memory
    }

    /// The wrapper that fails: its script, its count of calls, and what it struck.
    pub fn faulty(&self) -> &FaultyStore {
        &self.faulty
    }
}

/// One run of an operation, after the faults have been lifted.
#[derive(Debug)]
pub struct Outcome<T> {
    /// The call that was to be struck, counted from 1; 0 for a random script.
    pub call: u64,
    /// The faults that struck, in order. None if the operation made fewer calls this time.
    pub struck: Vec<Fault>,
    /// What the operation returned.
    pub result: T,
}

impl<T> Outcome<T> {
    /// Whether any fault struck.
    pub fn was_struck(&self) -> bool {
        !self.struck.is_empty()
    }
}

/// Runs `operation` once without faults to count its store calls, then once for each of them with `fault` at it.
///
/// Each run begins with a new simulator of the same seed that `prepare` has filled; its calls are neither counted nor struck. After each run, the
/// undisturbed one included, the store works again and `check` looks at what is left. Returns the number of calls.
///
/// # Panics
/// If a closure does; the seed and the call are then printed.
pub fn run_at_every_call<T>(
    seed: u64,
    fault: Fault,
    prepare: impl Fn(&Simulator),
    operation: impl Fn(&Simulator) -> T,
    check: impl Fn(&Simulator, Outcome<T>),
) -> u64 {
    let run = |call: u64| {
        let rules = (call > 0).then(|| Rule::nth(call, fault));
        run_once(seed, &format!("{fault:?} at store call {call}"), rules, call, (&prepare, &operation, &check))
    };
    let calls = run(0);
    for call in 1..=calls {
        run(call);
    }
    calls
}

/// Which places for a fault are tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Places {
    /// All.
    All,
    /// One in ten: which ones follows from the seed, and ten seeds in a row try all.
    Tenth,
}

/// Runs `operation` once without faults to count its store calls, then with every fault at each of them, or at a tenth of these places.
///
/// Each run begins with a copy of `start`, at its moment. After each run, the undisturbed one included, the store works again and `check` looks at what is
/// left. Returns the number of runs with a fault.
///
/// # Panics
/// If a closure does; seed, fault and call are then printed.
pub fn run_with_every_fault<T>(
    (seed, places): (u64, Places),
    (start, now): (&MemoryStore, Timestamp),
    operation: impl Fn(&Simulator) -> T,
    check: impl Fn(&Simulator, Outcome<T>),
) -> u64 {
    let begin = || Simulator::over(seed, start, now);
    let run = |fault: Option<Fault>, call: u64| {
        let rules = fault.map(|fault| Rule::nth(call, fault));
        let what = fault.map_or_else(|| "no fault".to_owned(), |fault| format!("{fault:?} at store call {call}"));
        run_over(&begin, seed, &what, rules, call, (&|_| {}, &operation, &check))
    };
    let calls = run(None, 0);
    let all = (1..=calls).flat_map(|call| Fault::ALL.map(|fault| (fault, call)));
    let is_tried = |place: u64| places == Places::All || place % PLACES_FOR_ONE == seed % PLACES_FOR_ONE;
    let tried = (0..).zip(all).filter(|(place, _)| is_tried(*place));
    tried.inspect(|(_, (fault, call))| _ = run(Some(*fault), *call)).count() as u64
}

/// Runs `operation` with two faults at once, `count` times: which ones and at which two calls follows from the seed. Otherwise as [`run_with_every_fault`].
///
/// # Panics
/// If a closure does; seed, faults and calls are then printed.
pub fn run_with_pairs_of_faults<T>(
    (seed, count): (u64, u64),
    (start, now): (&MemoryStore, Timestamp),
    operation: impl Fn(&Simulator) -> T,
    check: impl Fn(&Simulator, Outcome<T>),
) {
    let begin = || Simulator::over(seed, start, now);
    let run = |script: Vec<Rule>| {
        let what = format!("{script:?}");
        run_over(&begin, seed, &what, script, 0, (&|_| {}, &operation, &check))
    };
    let (calls, mut random) = (run(Vec::new()), Random::new(seed));
    for _ in 0..count {
        let mut fault = || random.one_of(&Fault::ALL).copied().unwrap_or(Fault::ErrorBefore);
        let faults = [fault(), fault()];
        run(faults.map(|fault| Rule::nth(1 + random.below(calls), fault)).into());
    }
}

/// Runs `operation` with one to three random faults from `faults`, once for each seed; otherwise as [`run_at_every_call`].
///
/// # Panics
/// If a closure does; the seed and the script are then printed.
pub fn run_with_random_faults<T>(
    seeds: std::ops::Range<u64>,
    faults: &[Fault],
    prepare: impl Fn(&Simulator),
    operation: impl Fn(&Simulator) -> T,
    check: impl Fn(&Simulator, Outcome<T>),
) {
    for seed in seeds {
        let calls = run_once(seed, "no fault", [], 0, (&prepare, &operation, &check));
        let script = random_script(&mut Random::new(seed), faults, calls);
        run_once(seed, &format!("{script:?}"), script, 0, (&prepare, &operation, &check));
    }
}

/// The three closures of a run.
type Steps<'a, T> = (&'a dyn Fn(&Simulator), &'a dyn Fn(&Simulator) -> T, &'a dyn Fn(&Simulator, Outcome<T>));

fn run_once<T>(seed: u64, what: &str, rules: impl IntoIterator<Item = Rule>, call: u64, steps: Steps<'_, T>) -> u64 {
    run_over(&|| Simulator::new(seed), seed, what, rules, call, steps)
}

fn run_over<T>(
    begin: &dyn Fn() -> Simulator,
    seed: u64,
    what: &str,
    rules: impl IntoIterator<Item = Rule>,
    call: u64,
    (prepare, operation, check): Steps<'_, T>,
) -> u64 {
    let _guard = TellWhere { seed, what };
    let simulator = begin();
    prepare(&simulator);
    let calls_before = simulator.faulty.calls();
    for rule in rules {
        simulator.faulty.add(rule);
    }
    let result = operation(&simulator);
    let calls = simulator.faulty.calls() - calls_before;
    let struck = simulator.faulty.struck().into_iter().map(|(_, fault)| fault).collect();
    simulator.faulty.heal();
    check(&simulator, Outcome { call, struck, result });
    calls
}

/// One to three of these faults, each at one of the first `calls` calls that it can mean something for.
pub fn random_script(random: &mut Random, faults: &[Fault], calls: u64) -> Vec<Rule> {
    let count = 1 + random.below(RANDOM_FAULTS_MAX);
    let mut rule = || {
        let fault = faults.iter().cycle().nth(usize::try_from(random.below(64)).unwrap_or(0)).copied().unwrap_or(Fault::ErrorBefore);
        let rule = Rule::nth(1 + random.below(calls), fault);
        // Faults that mean something for one kind of call only would rarely strike such a call by chance.
        match fault {
            Fault::TornWrite | Fault::Full => rule.kind(CallKind::Put),
            Fault::StaleList | Fault::EmptyList => rule.kind(CallKind::List),
            _ => rule,
        }
    };
    (0..count).map(|_| rule()).collect()
}

/// Numbers that look random and follow from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Another sequence that follows from this one, for something that happens at its own pace.
    pub fn branch(&mut self) -> Self {
        Self(self.below(u64::MAX))
    }

    /// Whether something happens that happens once in `count` times.
    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// One of several; `None` if there are none.
    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(usize::try_from(self.below(all.len() as u64)).unwrap_or(0))
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).checked_rem(bound).unwrap_or(0)
    }
}

/// Says how to come back to a failed run.
struct TellWhere<'a> {
    seed: u64,
    what: &'a str,
}

impl Drop for TellWhere<'_> {
    #[expect(clippy::print_stderr, reason = "the only way to add to a panic that is not ours; tests only")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("simulator: seed {}, {}", self.seed, self.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    use super::*;
    use crate::storage::{StoreError, wait};
    use crate::testing::contract;

    /// A small operation with an order to keep: data before the name that promises them.
    fn publish(simulator: &Simulator) -> Result<(), StoreError> {
        let store = simulator.store();
        contract::put(&*store, "pack/1", b"data")?;
        contract::put(&*store, "pack/2", b"data")?;
        contract::put(&*store, "snap/1", b"promise")
    }

    fn names(simulator: &Simulator) -> Vec<String> {
        simulator.memory().contents().into_iter().map(|(name, _)| name.to_string()).collect()
    }

    #[test]
    fn every_crash_is_seen_once() {
        let seen = RefCell::new(Vec::new());
        let prepare = |simulator: &Simulator| contract::put(&*simulator.store(), "repo/1", b"").unwrap();
        let calls = run_at_every_call(7, Fault::KillFromHere, prepare, publish, |simulator, outcome| {
            assert_eq!(outcome.was_struck(), outcome.call > 0);
            assert_eq!(outcome.result.is_err(), outcome.was_struck());
            seen.borrow_mut().push(names(simulator).len());
            assert!(wait("", simulator.store().list("", None)).is_ok(), "the store works again");
        });
        assert_eq!((calls, seen.into_inner()), (3, vec![4, 1, 2, 3]));
    }

    #[test]
    fn ten_seeds_in_a_row_try_every_fault_at_every_call() {
        let start = MemoryStore::new();
        contract::put(&start, "repo/1", b"").unwrap();
        let now = Timestamp::new(1_900_000_000, 0).unwrap();
        let tried = RefCell::new(BTreeSet::new());
        let run = |seed, places| {
            run_with_every_fault((seed, places), (&start, now), publish, |simulator, outcome| {
                assert!(names(simulator).contains(&"repo/1".to_owned()) && crate::time::Clock::now(&*simulator.clock()) == now);
                assert_eq!(outcome.was_struck(), outcome.call > 0);
                tried.borrow_mut().extend(outcome.struck.iter().map(|fault| format!("{fault:?} {}", outcome.call)));
            })
        };
        let all = 3 * Fault::ALL.len();
        assert_eq!((0..10).map(|seed| run(seed, Places::Tenth)).sum::<u64>(), all as u64);
        assert_eq!(tried.take().len(), all);
        assert_eq!(run(3, Places::All), all as u64);
        assert_eq!(start.contents().len(), 1, "nobody touched where it began");
    }

    #[test]
    fn pairs_of_faults_follow_from_the_seed_and_strike_together() {
        let (start, now) = (MemoryStore::new(), Timestamp::new(1_900_000_000, 0).unwrap());
        // Goes on after an error, so that the second fault has something to strike.
        let stubborn = |simulator: &Simulator| {
            for n in 0..6 {
                let _ = contract::put(&*simulator.store(), &format!("pack/{n}"), b"data");
            }
        };
        let run = |seed| {
            let struck = RefCell::new(Vec::new());
            run_with_pairs_of_faults((seed, 200), (&start, now), stubborn, |_, outcome| struck.borrow_mut().push(outcome.struck));
            struck.into_inner()
        };
        let struck = run(3);
        assert_eq!((struck.len(), &struck), (201, &run(3)));
        let pairs = struck.iter().filter(|faults| faults.len() == 2).count();
        assert!(pairs > 20 && struck != run(4), "{pairs} pairs");
    }

    #[test]
    fn an_operation_in_the_wrong_order_is_caught() {
        let wrong = |simulator: &Simulator| {
            contract::put(&*simulator.store(), "snap/1", b"promise")?;
            contract::put(&*simulator.store(), "pack/1", b"data")
        };
        let broken = RefCell::new(Vec::new());
        run_at_every_call(
            7,
            Fault::KillFromHere,
            |_| {},
            wrong,
            |simulator, outcome| {
                if names(simulator) == ["snap/1"] {
                    broken.borrow_mut().push(outcome.call);
                }
            },
        );
        assert_eq!(broken.into_inner(), [2]);
    }

    #[test]
    fn random_faults_follow_from_the_seed_and_reach_everything() {
        let run = || {
            let left = RefCell::new(Vec::new());
            let check = |simulator: &Simulator, outcome: Outcome<Result<(), StoreError>>| {
                left.borrow_mut().push((names(simulator), outcome.result.is_ok(), outcome.was_struck()));
            };
            run_with_random_faults(0..40, &[Fault::ErrorAfterEffect, Fault::KillFromHere, Fault::Full], |_| {}, publish, check);
            left.into_inner()
        };
        let left = run();
        assert_eq!(left, run());
        let lengths: BTreeSet<_> = left.iter().map(|(names, ..)| names.len()).collect();
        assert_eq!(lengths, (0..=3).collect());
    }
}
