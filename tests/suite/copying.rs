//! Copies: the same objects at a second place, without any key.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backup_writer::copy::{CopyError, CopyOptions, CopyReport, Purpose, WHOLE, copy};
use backup_writer::create::{NewKey, create};
use backup_writer::prune::PruneReport;
use bytes::Bytes;
use fs_core::key::slot::PasswordCost;
use fs_core::object::ObjectKind;
use fs_core::observer::{Observer, Progress, Silent};
use fs_core::report::{Finding, Severity, is_incomplete};
use fs_core::storage::memory::MemoryStore;
use fs_core::storage::{ObjectName, WriteStore};
use fs_core::testing::simulator::{Outcome, Simulator, run_at_every_call};
use fs_core::testing::{CountingStore, Fault, ManualClock, SeededRandom};
use fs_core::time::Clock as _;
use tests::driven::is_long;
use tests::hooked::{HookedStore, When};
use tests::pages::PagedStore;
use tests::{Bench, noise};

use super::cli::Shell;
use super::prune::{DAY, HOUR, Place};

pub(crate) fn usual(clock: &Arc<ManualClock>) -> CopyOptions {
    CopyOptions::new(Purpose::Copy, 1, Arc::clone(clock) as _)
}

/// A repository with snapshots, tombstones and marks of all ages, and an empty place by the same clock.
pub(crate) struct Pair {
    pub(crate) place: Place,
    pub(crate) there: MemoryStore,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let mut place = Place::with_days(3);
        place.forget(&place.ids()[..1]);
        place.prune();
        place.bench.clock.advance(HOUR);
        place.write("changes", b"less");
        place.backup();
        let there = MemoryStore::with_clock(place.bench.clock.clone());
        Self { place, there }
    }

    /// Apart from here on.
    pub(crate) fn fork(&self) -> Self {
        let clock = ManualClock::at(self.place.bench.clock.now());
        let [memory, there] = [&self.place.memory, &self.there].map(|store| store.fork_with_clock(clock.clone()));
        let bench = Bench { clock, store: Arc::new(memory.clone()), ..self.place.bench.clone() };
        Self { place: Place { bench, memory, ..self.place.clone() }, there }
    }

    pub(crate) fn options(&self) -> CopyOptions {
        usual(&self.place.bench.clock)
    }

    pub(crate) fn verifying(&self) -> CopyOptions {
        CopyOptions { verify: (WHOLE, WHOLE), ..self.options() }
    }

    pub(crate) fn copy_with(&self, options: &CopyOptions) -> Result<CopyReport, CopyError> {
        copy(&*self.place.bench.store, &self.there, options, &Silent)
    }

    pub(crate) fn copy(&self) -> CopyReport {
        self.copy_with(&self.options()).unwrap()
    }

    pub(crate) fn expect_equal(&self, when: &str) {
        let names = |store: &MemoryStore| store.contents().into_iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&self.there), names(&self.place.memory), "{when}");
        assert!(self.there.contents() == self.place.memory.contents(), "{when}: the bytes are the same");
    }

    /// The copy as a repository.
    pub(crate) fn opened(&self) -> Place {
        Place {
            bench: Bench { store: Arc::new(self.there.clone()), ..self.place.bench.clone() },
            memory: self.there.clone(),
            ..self.place.clone()
        }
    }

    /// Sealed snapshots that the copy shows are whole; how many they are. A copy that does not open yet shows none.
    pub(crate) fn expect_sound(&self, when: &str) -> usize {
        let copy = self.opened();
        let Ok(repository) = copy.bench.open() else { return 0 };
        copy.expect_readable(&repository, when);
        repository.snapshots().unwrap().iter().filter(|snapshot| snapshot.sealed).count()
    }

    pub(crate) fn damage(store: &MemoryStore, name: &ObjectName, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = store.overwrite(name, None).unwrap().to_vec();
        change(&mut bytes);
        store.overwrite(name, Some(bytes.into()));
    }
}

pub(crate) fn worst(report: &CopyReport) -> Option<Severity> {
    report.findings.iter().map(|finding| finding.severity).max()
}

#[test]
fn a_copy_has_the_same_bytes_and_opens() {
    let pair = Pair::new();
    pair.place.memory.overwrite(&ObjectName::new("probe/left-over"), Some(Bytes::from_static(b"x")));
    let first = pair.copy();
    assert!(first.findings.is_empty() && first.copied == first.objects, "{first:?}");
    pair.place.memory.overwrite(&ObjectName::new("probe/left-over"), None);
    pair.expect_equal("what is no object is left alone");
    for kind in ["snap/", "seal/", "drop/", "mark/", "pack/", "meta/", "idx/", "sess/", "dev/", "keys/", "repo/"] {
        assert!(pair.opened().count(kind) > 0, "{kind} is among them");
    }
    pair.opened().expect_whole("the copy");
    assert_eq!(pair.copy().copied.count, 0);
}

#[test]
fn a_copy_of_what_is_there_only_lists() {
    let pair = Pair::new();
    pair.copy();
    let (here, there) = (CountingStore::new(Arc::clone(&pair.place.bench.store)), CountingStore::new(Arc::new(pair.there.clone())));
    let report = copy(&*here, &*there, &pair.options(), &Silent).unwrap();
    assert_eq!(report.copied.count + report.verified.count, 0);
    let (here, there) = (here.counts(), there.counts());
    assert_eq!((here.list, here.get_range, here.requests()), (3, 1, 4), "and reads one configuration: {here:?}");
    assert_eq!((there.list, there.requests()), (1, 1), "{there:?}");
    assert!(here.bytes_down < 5000);
    let sample = CopyOptions { verify: (20, 20), ..pair.options() };
    let verified = pair.copy_with(&sample).unwrap().verified.count;
    assert!(verified > 5 && verified < report.objects.count, "{verified} of {}", report.objects.count);
}

#[test]
fn a_dry_run_says_what_would_be_copied_and_puts_nothing() {
    let pair = Pair::new();
    let dry = CopyOptions { dry_run: true, ..pair.options() };
    let said = pair.copy_with(&dry).unwrap();
    assert!(pair.there.contents().is_empty());
    assert_eq!(said.copied, pair.copy().copied);
    assert_eq!(pair.copy_with(&dry).unwrap().copied.count, 0);
}

/// Cancelled after so many objects.
struct After(u64, AtomicU64);

impl Observer for After {
    fn progress(&self, _: &Progress) {
        self.1.fetch_add(1, Ordering::Relaxed);
    }

    fn is_cancelled(&self) -> bool {
        self.1.load(Ordering::Relaxed) >= self.0
    }
}

#[test]
fn a_copy_that_is_stopped_anywhere_goes_on() {
    let all = Pair::new();
    let count = all.fork().copy().copied.count;
    for after in 0..count {
        let pair = all.fork();
        let stopped = copy(&*pair.place.bench.store, &pair.there, &pair.options(), &After(after, AtomicU64::new(0)));
        let copied = match stopped {
            Err(CopyError::Cancelled { copied }) => copied.count,
            done => done.unwrap().copied.count,
        };
        pair.expect_sound(&format!("stopped after {after}"));
        assert_eq!(pair.copy().copied.count, count - copied, "what was copied is not copied again");
        pair.expect_equal(&format!("after {after}"));
    }
}

/// Every fault at every call, of the store that is copied to or from: what is there is sound, and the next run makes it equal.
fn every_fault(is_there: bool) {
    let all = Pair::new();
    let run = |fault: Fault| {
        let prepare = |simulator: &Simulator| {
            simulator.clock().set(all.place.bench.clock.now());
            if !is_there {
                all.place.memory.contents().into_iter().for_each(|(name, bytes)| _ = simulator.memory().overwrite(&name, Some(bytes)));
            }
        };
        let pair_of = |simulator: &Simulator, other: MemoryStore| {
            let memory = simulator.memory().clone();
            let (here, there) = if is_there { (all.place.memory.clone(), memory) } else { (memory, other) };
            let bench = Bench { store: Arc::new(here.clone()), clock: simulator.clock(), ..all.place.bench.clone() };
            Pair { place: Place { bench, memory: here, ..all.place.clone() }, there }
        };
        let operation = |simulator: &Simulator| {
            let other = MemoryStore::new();
            let pair = pair_of(simulator, other.clone());
            let (here, there): (Arc<dyn WriteStore>, Arc<dyn WriteStore>) = match is_there {
                true => (Arc::clone(&pair.place.bench.store), simulator.store()),
                false => (simulator.store(), Arc::new(other.clone())),
            };
            (copy(&*here, &*there, &pair.options(), &Silent), other)
        };
        let calls = run_at_every_call(3, fault, prepare, operation, |simulator, outcome: Outcome<_>| {
            // In short runs a third of the calls, others for each fault.
            if !is_long() && outcome.call > 0 && !(outcome.call + fault as u64).is_multiple_of(3) {
                return;
            }
            let was_struck = outcome.was_struck();
            let (result, other) = outcome.result;
            let pair = pair_of(simulator, other);
            let complete = result.is_ok_and(|report| !is_incomplete(&report.findings));
            assert!(complete || was_struck);
            let shown = pair.expect_sound("struck");
            // A list that lies may hide snapshots.
            assert!(!complete || shown == 3 || !fault.keeps_contract(), "{shown} snapshots");
            let again = pair.copy();
            assert!(!is_incomplete(&again.findings) || again.healed_in_copy.count > 0, "{:?}", again.findings);
            pair.expect_equal("run again");
        });
        assert!(calls > 30, "{calls} calls");
    };
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let run = &run;
            scope.spawn(move || Fault::ALL.into_iter().skip(worker).step_by(workers).for_each(run));
        }
    });
}

#[test]
fn every_store_call_there_may_fail_in_every_way() {
    every_fault(true);
}

#[test]
fn every_store_call_here_may_fail_in_every_way() {
    every_fault(false);
}

/// Something else happens at each call of a copy. How many copies had to list again what was deleted meanwhile.
fn beside(all: &Pair, what: impl Fn(&mut Place) + Send + Sync + Copy + 'static) -> usize {
    let mut listed_again = 0;
    let calls = {
        let counting = CountingStore::new(Arc::clone(&all.place.bench.store));
        copy(&*counting, &all.fork().there, &all.options(), &Silent).unwrap();
        counting.counts().requests()
    };
    for call in 1..=calls {
        if !is_long() && !call.is_multiple_of(2) {
            continue;
        }
        let pair = all.fork();
        let mut other = pair.place.clone();
        let saved = Arc::new(std::sync::Mutex::new(None));
        let result = Arc::clone(&saved);
        let hooked = HookedStore::new(Arc::clone(&pair.place.bench.store), When::Call(call), move || {
            what(&mut other);
            *result.lock().unwrap() = Some(other.saved);
        });
        let report = copy(&*hooked, &pair.there, &pair.options(), &Silent).unwrap();
        listed_again += usize::from(report.findings.iter().any(|finding| finding.message.contains("listed again")));
        let when = format!("at call {call}");
        let mut pair = pair;
        if let Some(saved) = saved.lock().unwrap().take() {
            pair.place.saved = saved;
        }
        assert!(pair.expect_sound(&when) >= 1, "{when}");
        let (copy, repository) = (pair.opened(), pair.opened().bench.open().unwrap());
        let findings = backup_writer::check::check(&repository, backup_writer::check::ReadData::All, &Silent).unwrap().findings;
        assert!(findings.iter().all(is_harmless), "{when}: {findings:?}");
        let again = pair.copy();
        assert!(!is_incomplete(&again.findings), "{when}: {:?}", again.findings);
        copy.expect_readable(&repository, &when);
        assert_eq!(pair.opened().ids(), pair.place.ids(), "{when}");
    }
    listed_again
}

/// Lists are no moment: what comes between two pages of one may show its manifest and seal, and not its packs.
#[test]
fn a_backup_while_a_copy_lists_waits_for_the_next_run() {
    let all = Pair::new();
    for (_, kind, prefix) in ObjectKind::ALL {
        let mut pair = all.fork();
        let mut other = pair.place.clone();
        let saved = Arc::new(std::sync::Mutex::new(None));
        let result = Arc::clone(&saved);
        let paged = PagedStore::new(Arc::clone(&pair.place.bench.store), kind, move || {
            other.write("new", &noise(78, 400_000));
            other.backup();
            *result.lock().unwrap() = Some(other.saved);
        });
        copy(&*paged, &pair.there, &pair.options(), &Silent).unwrap();
        pair.place.saved = saved.lock().unwrap().take().unwrap();
        let shown = pair.expect_sound(prefix);
        assert_eq!(shown + 1, pair.place.ids().len(), "{prefix}: the new one waits");
        pair.opened().expect_whole(prefix);
        pair.copy();
        pair.expect_equal(prefix);
    }
}

/// A snapshot whose seal comes with the next run is no damage.
fn is_harmless(finding: &Finding) -> bool {
    finding.severity < Severity::Error
}

#[test]
fn a_copy_beside_a_backup_shows_nothing_that_is_not_whole() {
    beside(&Pair::new(), |place| {
        place.write("new", &noise(77, 400_000));
        place.backup();
    });
}

#[test]
fn a_copy_beside_a_prune_shows_nothing_that_is_not_whole() {
    let pair = Pair::new();
    // What the prune of before has condemned is due.
    pair.place.bench.clock.advance(8 * DAY);
    let listed_again = beside(&pair, |place| {
        let pruned: PruneReport = place.prune();
        assert!(pruned.swept.count > 0, "{pruned:?}");
    });
    assert!(listed_again > 0, "what was swept before it was read was missed");
}

/// A mark is as young in the copy as it came there: who prunes the copy deletes nothing early, whatever it says.
#[test]
fn marks_in_a_copy_count_from_when_they_came() {
    let pair = Pair::new();
    pair.place.bench.clock.advance(8 * DAY);
    pair.copy();
    let copy = pair.opened();
    let packs = copy.count("pack/");
    let at_once = copy.prune();
    assert_eq!((at_once.swept.count, copy.count("pack/")), (0, packs), "here it is due, there it is not: {at_once:?}");
    copy.expect_whole("pruned");
    copy.bench.clock.advance(8 * DAY);
    let mut later = copy;
    later.backup();
    assert!(later.prune().swept.count > 0);
    later.expect_whole("swept");
}

/// Another repository with a snapshot.
pub(crate) fn of_another_repository() -> MemoryStore {
    let memory = MemoryStore::new();
    let (bench, random) = (Place::new().bench, SeededRandom::shared(8));
    let key = NewKey { credential: bench.credential.clone(), label: "other".into(), cost: PasswordCost::LEAST };
    create(&memory, &[key], &(bench.clock.clone() as _), &(random.clone() as _)).unwrap();
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("file"), "of somebody else").unwrap();
    Bench { store: Arc::new(memory.clone()), random, ..bench }.backup(source.path(), None).unwrap();
    memory
}

#[test]
fn another_repository_is_refused() {
    let pair = Pair::new();
    let other = of_another_repository();
    for kept in ["", "pack/", "repo/", "keys/"] {
        let pair = pair.fork();
        let objects = other.contents().into_iter().filter(|(name, _)| name.as_str().starts_with(kept));
        let objects: Vec<_> = objects.collect();
        objects.iter().for_each(|(name, bytes)| _ = pair.there.overwrite(name, Some(bytes.clone())));
        let before = pair.there.contents();
        let refused = pair.copy_with(&pair.options());
        assert!(matches!(refused, Err(CopyError::Foreign { .. })), "{kept}: {refused:?}");
        assert!(pair.there.contents() == before, "nothing was written");
        // Nor does it mix with a copy.
        let mixed = pair.fork();
        pair.place.memory.contents().into_iter().for_each(|(name, bytes)| _ = mixed.there.overwrite(&name, Some(bytes)));
        assert_eq!(mixed.copy_with(&mixed.options()).is_err(), kept.is_empty() || kept == "repo/", "{kept}");
    }
    let nothing = MemoryStore::new();
    let empty = copy(&nothing, &pair.there, &pair.options(), &Silent);
    assert!(matches!(empty, Err(CopyError::NotThere { .. })), "{empty:?}");
    // A later version of the format.
    let newer = pair.fork();
    newer.there.overwrite(&ObjectName::new(format!("idx/{}", "ab".repeat(32))), Some(Bytes::from_static(&[9; 100])));
    let unknown = newer.copy_with(&newer.options());
    assert!(matches!(unknown, Err(CopyError::Unknown { .. })), "{unknown:?}");
}

#[test]
fn the_program_copies_without_a_key_to_several_places() {
    let shell = Shell::with_backup(&[("letter.txt", b"dear all"), ("large", &noise(1, 3_000_000))]);
    std::fs::rename(shell.path("key"), shell.path("hidden")).unwrap();
    assert!(shell.ok(&["copy", "--to", "one", "--dry-run"]).starts_with("would copy"));
    assert!(!shell.path("one").exists());
    let said = shell.ok(&["copy", "--to", "one", "--to", "two/below"]);
    assert_eq!(said.matches("copied ").count(), 2, "{said}");
    let files = |place: &str| {
        let seen = tests::look(&shell.path(place)).unwrap().into_iter().filter(|(_, seen)| !seen.bytes.is_empty());
        seen.map(|(path, seen)| (path, seen.bytes)).collect::<Vec<_>>()
    };
    let compare = |place: &str| assert!(files(place) == files("repository"), "{place} is the same");
    compare("one");
    compare("two/below");
    let again = shell.run(&["copy", "--to", "one", "--verify", "--json"]);
    let record: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(
        (&record["type"], &record["copied"]["count"], &record["verified"]["count"]),
        (&"copy".into(), &0.into(), &record["objects"]["count"])
    );
    // What is wrong with one place keeps nobody from the others.
    std::fs::create_dir(shell.path("photos")).unwrap();
    std::fs::write(shell.path("photos/Sea.jpg"), "mine").unwrap();
    let output = shell.run(&["copy", "--to", "photos", "--to", "three"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("holds other things"));
    compare("three");
    shell.fails(&["copy", "--to", "repository"], 2, "in one place");
    shell.fails(&["copy"], 2, "--to");
    shell.fails(&["copy", "--to", "one", "--delete-after", "1h"], 2, "at least 48h");
    shell.fails(&["--repository", "nowhere", "copy", "--to", "one"], 5, "no folder");
    // A byte in the copy.
    let pack = std::fs::read_dir(shell.path("one/pack")).unwrap().flatten().next().unwrap().path();
    let pack = std::fs::read_dir(pack).unwrap().flatten().next().unwrap().path();
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[1000] ^= 1;
    std::fs::remove_file(&pack).unwrap();
    std::fs::write(&pack, &bytes).unwrap();
    shell.fails(&["copy", "--to", "one", "--verify", "--no-heal"], 3, "in order in the repository");
    shell.fails(&["copy", "--to", "one", "--verify"], 3, "put anew from the repository");
    shell.ok(&["copy", "--to", "one", "--verify"]);
    // It is a repository.
    std::fs::rename(shell.path("hidden"), shell.path("key")).unwrap();
    shell.ok(&["--repository", "one", "check", "--read-data"]);
    shell.ok(&["--repository", "two/below", "restore", "latest:/", "--to", "restored"]);
    let restored = super::cli::source_in(&shell, &shell.path("restored"));
    assert_eq!(tests::look(&shell.path("source")).unwrap(), tests::look(&restored).unwrap());
}
