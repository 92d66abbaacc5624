//! A whole world from one seed: machines that back up, forget, bring back, prune, merge, repair and check, drives that stay open, laptops that fall asleep in the
//! middle of a run while others go on for hours or months, clocks that are wrong, stores that fail, local state that is lost. All that is seen is compared with
//! plain maps of what must be there ([`model`]).
//!
//! What follows from the seed: who does what and when, sizes and contents, the store call at which a machine falls asleep, what happens meanwhile, faults, clocks.
//! What does not: in which order the threads of one backup call the store, draw random bytes and fill packs, and so what exactly is struck. A world that breaks
//! breaks again in most runs with its seed, not in all.
//!
//! A store that lies does so once in a run; one that hides every list of marks from a backup would leave it nothing to go by. A machine that brings back what is
//! forgotten meets faults or falls asleep, not both: if it wakes after the last moment and then dies, what it has brought back may be gone.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use fs_core::crypto::{Key, SharedRandom};
use fs_core::id::{DeviceId, SnapshotId};
use fs_core::key::slot::Credential;
use fs_core::object::{ObjectKind, parse_sequence_name};
use fs_core::repository::{OpenOptions, Repository};
use fs_core::storage::memory::MemoryStore;
use fs_core::storage::{ObjectName, ReadStore, WriteStore};
use fs_core::testing::simulator::{Random, random_script};
use fs_core::testing::{CallKind, Fault, FaultyStore, ManualClock, SeededRandom};
use fs_core::time::{Clock as _, Timestamp};
use tests::Bench;
use tests::driven::{is_long, minutes, seed};

mod acts;
mod drives;
mod line;
mod machine;
mod model;

use drives::Drive;
use line::{Line, Nap, Notice};
use machine::Machine;
use model::Model;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// Operations, of all worlds together.
const SHORT: u64 = 20_000;
const LONG: u64 = 1_000_000;
/// Steps of one world, without what others do while somebody sleeps.
const STEPS: u64 = 250;
/// How deep sleepers stand in one another.
const DEPTH_MAX: u32 = 2;
/// What a world tells of itself when it breaks.
const LINES_KEPT: usize = 200;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything there is.
struct World {
    /// What really is the time; the store's clock.
    truth: Arc<ManualClock>,
    memory: MemoryStore,
    credential: Credential,
    random: SharedRandom,
    machines: Vec<Machine>,
    drives: Mutex<Vec<Drive>>,
    model: Mutex<Model>,
    diary: Mutex<Diary>,
    /// Prunes that are under way, asleep ones too.
    prunes: AtomicU64,
}

/// What has happened.
#[derive(Default)]
struct Diary {
    seed: u64,
    lines: VecDeque<String>,
    counts: BTreeMap<&'static str, u64>,
    broken: Option<String>,
}

/// What may happen to a run.
#[derive(Clone, Copy)]
struct Risk {
    depth: u32,
    faults: bool,
    naps: bool,
}

/// A run of the program on one machine.
struct Run<'a> {
    world: &'a Arc<World>,
    machine: &'a Machine,
    line: Arc<Line>,
}

/// How it ended.
struct Ended<T> {
    result: Result<T>,
    struck: Vec<Fault>,
    has_slept: bool,
}

impl<T> Ended<T> {
    /// Whether nothing happened to it.
    fn is_calm(&self) -> bool {
        self.struck.is_empty() && !self.has_slept
    }
}

impl Run<'_> {
    fn store(&self) -> Arc<dyn WriteStore> {
        Arc::clone(&self.line) as _
    }

    /// As the program does, with what the machine remembers.
    fn open(&self) -> Result<Arc<Repository>> {
        self.world.open(Arc::clone(&self.line).as_read(), Some(self.machine))
    }
}

impl World {
    fn new(seed: u64) -> (Arc<Self>, Random) {
        let mut chance = Random::new(seed);
        // Later than any file of today, and the same in every run.
        let truth = ManualClock::at(Timestamp::new(4_102_444_800, 0).unwrap());
        let memory = MemoryStore::with_clock(truth.clone());
        let bench = Bench::new(Arc::new(memory.clone())).unwrap().with_small_packs().unwrap();
        // One that only maintains, and two to four others.
        let count = 3 + chance.below(3) as usize;
        let machines = (0..count).map(|number| Machine::new(number, &truth, &mut chance)).collect();
        let world = Self {
            truth,
            memory,
            credential: Credential::KeyFile(Key::from_bytes([42; 32])),
            random: SeededRandom::shared(seed),
            machines,
            drives: Mutex::default(),
            model: Mutex::default(),
            diary: Mutex::new(Diary { seed, ..Diary::default() }),
            prunes: AtomicU64::new(0),
        };
        drop(bench);
        (Arc::new(world), chance)
    }

    fn open(&self, store: Arc<dyn ReadStore>, machine: Option<&Machine>) -> Result<Arc<Repository>> {
        let state = machine.map(|machine| machine.state().to_path_buf());
        let clock = machine.map_or_else(|| Arc::clone(&self.truth) as _, |machine| Arc::clone(&machine.clock) as _);
        let options =
            OpenOptions { clock, random: Arc::clone(&self.random), state, list_ahead: machine.is_some(), ..OpenOptions::default() };
        Ok(Arc::new(Repository::open(store, &self.credential, &options)?))
    }

    /// The store without faults.
    fn sound(&self) -> Arc<dyn WriteStore> {
        Arc::new(self.memory.clone())
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        lock(&self.model)
    }

    fn tell(&self, depth: u32, line: &str) {
        let mut diary = lock(&self.diary);
        if diary.lines.len() >= LINES_KEPT {
            diary.lines.pop_front();
        }
        diary.lines.push_back(format!("{} {}{line}", self.truth.now(), "    ".repeat(depth as usize)));
    }

    /// The world is broken. Whoever catches the panic on its way, the diary knows.
    fn expect(&self, is_so: bool, what: impl FnOnce() -> String) {
        if !is_so {
            let what = what();
            lock(&self.diary).broken.get_or_insert_with(|| what.clone());
            panic!("{what}");
        }
    }

    /// Something of this name is done by a machine, which may meet faults and fall asleep. Nobody else uses the machine.
    fn run<T>(
        self: &Arc<Self>,
        (what, machine): (&'static str, &Machine),
        chance: &mut Random,
        risk: Risk,
        notice: Notice,
        work: impl FnOnce(&Run<'_>) -> Result<T>,
    ) -> Ended<T> {
        let (script, nap) = self.hazards(chance, risk, machine.number);
        self.tell(risk.depth, &format!("machine {}: {what} {script:?}{}", machine.number, if nap.is_some() { " with a nap" } else { "" }));
        let faulty = FaultyStore::new(self.sound(), script);
        let is_to_sleep = nap.is_some();
        let line = Line::new(Arc::clone(&faulty) as _, nap, notice);
        let run = Run { world: self, machine, line };
        let result = work(&run);
        let has_slept = is_to_sleep && run.line.is_awake();
        let struck = faulty.struck();
        let half = struck.iter().filter(|(call, fault)| *fault == Fault::TornWrite && call.kind == CallKind::Put);
        self.model().torn.extend(half.map(|(call, _)| ObjectName::new(call.place.clone())));
        *lock(&self.diary).counts.entry(what).or_default() += 1;
        let told = match &result {
            Ok(_) => "done".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        let places: Vec<_> = struck.iter().map(|(call, fault)| format!("{fault:?} at {:?} {}", call.kind, call.place)).collect();
        self.tell(risk.depth, &format!("machine {}: {what}: {told} {places:?}{}", machine.number, if has_slept { " slept" } else { "" }));
        if let Some(broken) = lock(&self.diary).broken.clone() {
            panic!("{broken}");
        }
        Ended { result, struck: struck.into_iter().map(|(_, fault)| fault).collect(), has_slept }
    }

    /// Faults and sleep for one run.
    fn hazards(self: &Arc<Self>, chance: &mut Random, risk: Risk, machine: usize) -> (Vec<fs_core::testing::Rule>, Option<Nap>) {
        let calls = [6, 25, 80][chance.below(3) as usize];
        let script = if risk.faults && chance.one_in(3) { script(chance, calls) } else { Vec::new() };
        let nap = (risk.naps && risk.depth < DEPTH_MAX && chance.one_in(4)).then(|| {
            let (world, mut chance) = (Arc::clone(self), chance.branch());
            let at = 1 + chance.below(calls);
            let meanwhile = Box::new(move || world.sleep(machine, &mut chance, risk.depth + 1));
            Nap { at, meanwhile }
        });
        (script, nap)
    }

    /// A machine sleeps; others go on.
    fn sleep(self: &Arc<Self>, machine: usize, chance: &mut Random, depth: u32) {
        let began = self.truth.elapsed();
        self.tell(depth, &format!("machine {machine} sleeps"));
        let long = [HOUR, DAY, 10 * DAY, 60 * DAY][chance.below(4) as usize];
        let steps = 1 + chance.below(6);
        if chance.one_in(3) {
            self.maintain(chance, depth);
        }
        for _ in 0..steps {
            self.pass(long / (steps as u32 + 1), chance);
            self.step(chance, depth);
        }
        let slept = self.truth.elapsed() - began;
        self.machines[machine].clock.slept(slept);
        *lock(&self.diary).counts.entry("sleep").or_default() += 1;
        self.tell(depth, &format!("machine {machine} wakes after {} hours", slept.as_secs() / 3600));
    }

    /// At most twice so much time goes by.
    fn pass(&self, about: Duration, chance: &mut Random) {
        self.truth.advance(Duration::from_secs(1 + chance.below(2 * about.as_secs())));
    }

    /// Somebody who is awake and has nothing to do, and who is busy until the result is dropped.
    fn somebody(&self, chance: &mut Random) -> Option<Busy<'_>> {
        let idle: Vec<_> = self.machines.iter().filter(|machine| !machine.is_busy.load(Ordering::Relaxed)).collect();
        let machine = *chance.one_of(&idle)?;
        machine.is_busy.store(true, Ordering::Relaxed);
        Some(Busy(machine))
    }

    fn end(self: &Arc<Self>, chance: &mut Random) {
        let calm = Risk { depth: 0, faults: false, naps: false };
        self.tell(0, "the end: nothing fails any more");
        self.machines.iter().for_each(|machine| machine.clock.set_right());
        self.remove_torn(chance, 0);
        // Once an ordinary run, and once more when everything that it has condemned is due.
        for _ in 0..2 {
            self.read_all_drives(chance);
            for machine in self.machines.iter().skip(1) {
                self.back_up(&Busy(machine), chance, calm);
            }
            self.prune_wholly(&Busy(&self.machines[0]), chance, calm);
            self.check(&Busy(&self.machines[0]), chance, calm, true);
            self.look(chance, 0, usize::MAX);
            self.truth.advance(9 * DAY);
        }
        self.read_all_drives(chance);
    }
}

/// A machine in use.
struct Busy<'a>(&'a Machine);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.is_busy.store(false, Ordering::Relaxed);
    }
}

/// One to three faults of which one lies at the most.
fn script(chance: &mut Random, calls: u64) -> Vec<fs_core::testing::Rule> {
    let (honest, liars): (Vec<_>, Vec<_>) = Fault::ALL.into_iter().partition(|fault| fault.keeps_contract());
    let mut script = random_script(chance, &honest, calls);
    if chance.one_in(3) {
        script.truncate(2);
        script.extend(random_script(chance, &liars, calls).pop());
    }
    script
}

/// The snapshot whose manifest has this name, with its device and number.
fn manifest(name: &ObjectName) -> Option<(SnapshotId, (DeviceId, u64))> {
    parse_sequence_name(ObjectKind::Manifest, name).map(|(device, number, hash)| (hash.into(), (device, number)))
}

/// Says how to come back, and what happened last.
struct TellWhere<'a>(&'a World);

impl Drop for TellWhere<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let diary = lock(&self.0.diary);
            let lines: Vec<_> = diary.lines.iter().map(String::as_str).collect();
            let told = format!("world of seed {}: {:?}\n{}\n", diary.seed, diary.broken, lines.join("\n"));
            let _ = std::io::stderr().write_all(told.as_bytes());
        }
    }
}

/// One world from beginning to end. What was done in it.
fn live(seed: u64) -> BTreeMap<&'static str, u64> {
    let (world, mut chance) = World::new(seed);
    let _where = TellWhere(&world);
    for _ in 0..STEPS {
        world.pass(2 * HOUR, &mut chance);
        world.step(&mut chance, 0);
    }
    world.end(&mut chance);
    lock(&world.drives).clear();
    lock(&world.diary).counts.clone()
}

#[test]
fn whatever_happens_nothing_that_was_saved_is_lost() {
    let (first, wanted) = (seed(), if is_long() { LONG } else { SHORT });
    let (next, done) = (AtomicU64::new(first), AtomicU64::new(0));
    let counts = Mutex::new(BTreeMap::<&str, u64>::new());
    let (clock, workers) = (fs_core::time::SystemClock::shared(), std::thread::available_parallelism().map_or(2, usize::from));
    let began = clock.elapsed();
    let is_over = || {
        let is_late = minutes().is_none_or(|minutes| clock.elapsed() - began >= minutes);
        done.load(Ordering::Relaxed) >= wanted && is_late
    };
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while !is_over() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let of_this = live(seed);
                    println!("world of seed {seed}: {of_this:?}");
                    done.fetch_add(of_this.values().sum(), Ordering::Relaxed);
                    let mut counts = lock(&counts);
                    of_this.into_iter().for_each(|(what, count)| *counts.entry(what).or_default() += count);
                }
            });
        }
    });
    // Shown also if the test passes.
    let line = format!("worlds of seeds {first} to {}: {} operations {:?}\n", next.into_inner() - 1, done.into_inner(), lock(&counts));
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}
