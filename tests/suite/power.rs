//! The program on a disk that loses its power, fails once, is full, or outlives the program: at every step that it takes there.
//!
//! Whatever happened: every snapshot that was there or was reported is whole, nothing that reads is wrong, the next ordinary run ends well, and what that one
//! says is still true when the power goes right after it and nothing survives that was not synced.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use backup_writer::check::{ReadData, check};
use backup_writer::forget::{authorise, forget};
use backup_writer::merge::{self, MergeOptions};
use backup_writer::prune::{Plan, PruneOptions};
use backup_writer::restore::{RestoreOptions, restore};
use fs_core::id::SnapshotId;
use fs_core::key::slot::{Credential, key_file_text};
use fs_core::observer::Silent;
use fs_core::path::TreePath;
use fs_core::storage::ObjectName;
use fs_core::storage::local::LocalStore;
use fs_core::storage::memory::MemoryStore;
use fs_core::testing::{ManualClock, SeededRandom};
use fs_core::time::{Clock as _, SystemClock};
use tests::disk::{Contents, Disk, Step, Survivors, Trouble, Ways};
use tests::driven::{Driven, is_long, seed};
use tests::{Bench, look, noise, only};

const DAY: Duration = Duration::from_secs(86_400);
/// Days of history; a prune marked and merged after `MARKED` of them, so that much is due now.
const DAYS: u32 = 16;
const MARKED: u32 = 8;
const BEGAN_BEFORE: u32 = 30;

/// The bytes of all files below a folder.
type Shown = BTreeMap<PathBuf, Vec<u8>>;

/// Where the machine keeps what it remembers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Memory {
    /// On another disk, which works: the repository lies on a NAS.
    Elsewhere,
    /// On the same disk.
    Beside,
}

/// What happens to a disk.
#[derive(Clone, Copy, Debug)]
enum Mishap {
    /// The power goes; this is left.
    PowerLoss(Survivors),
    /// The program dies, the disk lives on.
    Death,
    /// One step fails.
    Failure,
    /// There is no room from then on, until somebody makes some.
    Full,
}

/// A repository with a history on a disk, and a source that has changed since.
struct Place {
    folder: tempfile::TempDir,
    credential: Credential,
    memory: Memory,
    /// The disk as it is before the command, and what the machine remembers then.
    start: Contents,
    saved: BTreeMap<SnapshotId, Shown>,
    now: Shown,
    ways: Ways,
}

fn shown(folder: &Path) -> Shown {
    let is_file = |mode: u32| mode & 0o170_000 == 0o100_000;
    look(folder).unwrap().into_iter().filter(|(_, seen)| is_file(seen.mode)).map(|(path, seen)| (path, seen.bytes)).collect()
}

impl Place {
    /// What is forgotten is condemned for long, condemned by nobody yet, or still there; small shards have been merged, and there are new ones.
    fn new(memory: Memory) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (source, home, state) = (folder.path().join("source"), folder.path().join("home"), folder.path().join("earlier"));
        std::fs::create_dir_all(source.join("sub")).unwrap();
        let disk = Disk::mount(&folder.path().join("disk"), Contents::new()).unwrap();
        let (mut saved, began) = (BTreeMap::new(), SystemClock.now().saturating_sub(BEGAN_BEFORE * DAY));
        let credential = {
            let store = Arc::new(LocalStore::create(disk.path("repository")).unwrap());
            let bench = Bench::new(store).unwrap().with_small_packs().unwrap();
            std::fs::write(source.join("stays"), noise(1000, 100_000)).unwrap();
            for day in 0..DAYS {
                std::fs::write(source.join("sub/changes"), noise(day.into(), 30_000)).unwrap();
                std::fs::write(source.join(format!("small {day}")), noise(u64::from(day) + 500, 900)).unwrap();
                disk.set_clock_behind((BEGAN_BEFORE - day) * DAY);
                bench.clock.set(began.saturating_add(day * DAY));
                saved.insert(bench.backup(&source, Some(&state)).unwrap().snapshot, shown(&source));
                let repository = bench.open().unwrap();
                let signer = authorise(&repository, &*bench.store, Some(&state), "host").unwrap();
                let oldest: BTreeSet<_> = repository.snapshots().unwrap().iter().take(3).map(|snapshot| snapshot.id).collect();
                if day + 5 == MARKED || day + 1 == DAYS {
                    forget(&repository, &*bench.store, &signer, &oldest, "test").unwrap();
                    saved.retain(|id, _| !oldest.contains(id));
                }
                if day == MARKED {
                    let options = PruneOptions::default();
                    Plan::make(&repository, &options, &Silent).unwrap().execute(&*bench.store, &signer).unwrap();
                    merge::run(&repository, &*bench.store, &signer, &MergeOptions::default(), &Silent).unwrap();
                }
            }
            bench.credential
        };
        disk.set_clock_behind(Duration::ZERO);
        let Credential::KeyFile(key) = &credential else { panic!("a bench has a key file") };
        std::fs::write(folder.path().join("key"), &*key_file_text(key)).unwrap();
        std::fs::create_dir_all(&home).unwrap();
        let place = Self { folder, credential, memory, start: Contents::new(), saved, now: Shown::new(), ways: Ways::default() };
        place.ok(&disk, &["backup", "source"]);
        std::fs::write(source.join("sub/new"), noise(99, 60_000)).unwrap();
        std::fs::write(source.join("stays"), noise(1001, 90_000)).unwrap();
        let place = Self { now: shown(&source), ..place };
        if memory == Memory::Elsewhere {
            place.copy("home", "home before");
        }
        Self { start: disk.power_loss(Survivors::Everything), ..place }.with_first_by_the_program()
    }

    /// The program has saved once, which is the one snapshot that is not noted yet.
    fn with_first_by_the_program(mut self) -> Self {
        let found = self.read(&self.start);
        for (id, shown) in found.into_iter().filter(|(_, shown)| *shown != self.now) {
            let noted = self.saved.entry(id).or_insert_with(|| shown.clone());
            assert_eq!(*noted, shown);
        }
        assert_eq!(self.saved.len(), DAYS as usize - 6 + 1);
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn copy(&self, from: &str, to: &str) {
        let done = Command::new("cp").arg("-a").arg(self.path(from)).arg(self.path(to)).status().unwrap();
        assert!(done.success());
    }

    /// Mounts a disk. At the beginning, the machine remembers what it did then.
    fn begin(&self, contents: Contents) -> Disk {
        let disk = Disk::mount(&self.path("disk"), contents).unwrap();
        disk.set_ways(self.ways);
        disk
    }

    fn forget_home(&self) {
        if self.memory == Memory::Elsewhere {
            std::fs::remove_dir_all(self.path("home")).unwrap();
            self.copy("home before", "home");
        }
    }

    fn run(&self, disk: &Disk, arguments: &[&str]) -> Output {
        let home = if self.memory == Memory::Elsewhere { self.path("home") } else { disk.path("home") };
        run(self.folder.path(), &home, &[&["--key-file", "key"], arguments].concat())
    }

    fn ok(&self, disk: &Disk, arguments: &[&str]) {
        let output = self.run(disk, arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The repository on this disk, apart from it.
    fn bench(&self, contents: &Contents) -> Bench {
        let (clock, random) = (ManualClock::at(SystemClock.now()), SeededRandom::shared(1));
        let store = MemoryStore::with_clock(Arc::clone(&clock) as _);
        for (path, (bytes, modified)) in contents.files(Path::new("repository")) {
            if let Some(name) = ObjectName::parse(path.to_str().unwrap()) {
                clock.set(modified.into());
                store.overwrite(&name, Some(bytes.into()));
            }
        }
        clock.set(SystemClock.now());
        Bench { store: Arc::new(store), credential: self.credential.clone(), clock, random }
    }

    /// What all sealed snapshots hold. Everything comes back.
    fn read(&self, contents: &Contents) -> BTreeMap<SnapshotId, Shown> {
        let repository = self.bench(contents).open().unwrap();
        let path = TreePath::parse(self.path("source").as_os_str().as_encoded_bytes()).unwrap();
        let all = repository.all_snapshots().unwrap();
        let read = all.live.iter().filter(|snapshot| snapshot.sealed).map(|snapshot| {
            let target = tempfile::tempdir().unwrap();
            let report = restore(&repository, &only(snapshot, &path), target.path(), &RestoreOptions::default(), &Silent).unwrap();
            assert!(report.findings.is_empty(), "{}: {:?}", snapshot.id, report.findings);
            (snapshot.id, shown(target.path()))
        });
        read.collect()
    }

    /// What was there is there, except what may be gone; what came holds what the source held. How many came.
    fn expect_whole(&self, contents: &Contents, gone: &BTreeSet<SnapshotId>) -> usize {
        let read = self.read(contents);
        for (id, saved) in &self.saved {
            assert!(gone.contains(id) || read.get(id) == Some(saved), "{id} is lost");
        }
        let new = read.iter().filter(|(id, _)| !self.saved.contains_key(id));
        new.map(|(id, shown)| assert!(*shown == self.now, "{id} holds something else")).count()
    }

    fn expect_clean(&self, contents: &Contents) {
        let findings = check(&self.bench(contents).open().unwrap(), ReadData::All, &Silent).unwrap().findings;
        assert!(!fs_core::report::is_incomplete(&findings), "{findings:?}");
    }

    /// Every mishap at every step of a command, or at some of them.
    fn try_everywhere(&self, arguments: &[&str], gone: &BTreeSet<SnapshotId>) {
        let (seed, saves) = (seed(), usize::from(arguments[0] == "backup"));
        let steps = {
            self.forget_home();
            let disk = self.begin(self.start.clone());
            disk.set(Trouble::None);
            self.ok(&disk, arguments);
            let steps = disk.steps();
            let left = disk.power_loss(Survivors::Nothing);
            assert_eq!(self.expect_whole(&left, gone), saves);
            self.expect_clean(&left);
            let is_forgotten = || self.read(&left).keys().all(|id| !gone.contains(id));
            assert!(arguments[0] != "forget" || is_forgotten(), "what it said was forgotten is back");
            steps
        };
        assert!(steps.len() >= 10 && steps.contains(&Step::SyncFolder), "{steps:?}");
        let mishaps = [
            Mishap::PowerLoss(Survivors::Nothing),
            Mishap::PowerLoss(Survivors::Everything),
            Mishap::PowerLoss(Survivors::Some(seed)),
            Mishap::PowerLoss(Survivors::Some(seed + 1)),
            Mishap::Death,
            Mishap::Failure,
            Mishap::Full,
        ];
        let mut tried = 0;
        for (n, mishap) in (1..=steps.len()).flat_map(|n| mishaps.iter().enumerate().map(move |(m, mishap)| ((n, m), mishap))) {
            // One place in thirty for each, not the same ones.
            if is_long() || (n.0 + 4 * n.1 + seed as usize).is_multiple_of(30) {
                let place = format!("{arguments:?}, {:?}, seed {seed}: {mishap:?} at step {}, a {:?}", self.memory, n.0, steps[n.0 - 1]);
                let guard = Said(place);
                self.try_once(arguments, gone, (n.0, *mishap));
                std::mem::forget(guard);
                tried += 1;
            }
        }
        assert!(tried >= steps.len() / 10, "{tried} mishaps at {} steps", steps.len());
    }

    fn try_once(&self, arguments: &[&str], gone: &BTreeSet<SnapshotId>, (at, mishap): (usize, Mishap)) {
        let saves = usize::from(arguments[0] == "backup");
        self.forget_home();
        let mut disk = self.begin(self.start.clone());
        disk.set(match mishap {
            Mishap::PowerLoss(_) | Mishap::Death => Trouble::PowerCut { at },
            Mishap::Failure => Trouble::Failing { at },
            Mishap::Full => Trouble::Full { from: at, to: usize::MAX },
        });
        let output = self.run(&disk, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let reported = if output.status.success() { saves } else { 0 };
        assert!(matches!(output.status.code(), Some(0 | 1 | 3 | 5)) && !said.contains("panicked"), "{:?}: {said}", output.status);
        let after = if let Mishap::PowerLoss(survivors) = mishap { survivors } else { Survivors::Nothing };
        let left = disk.contents().after_power_loss(after);
        let came = self.expect_whole(&left, gone);
        assert!(came >= reported, "it reported {reported} snapshots, and {came} are there: {said}");
        if matches!(mishap, Mishap::PowerLoss(_)) {
            drop(disk);
            disk = self.begin(left);
        } else {
            disk.set(Trouble::None);
        }
        let again = self.run(&disk, arguments);
        // It may have been done though it was not said.
        let is_done = arguments[0] == "forget" && String::from_utf8_lossy(&again.stderr).contains("forgotten");
        assert!(again.status.success() || is_done, "{said}, and then {}", self::said(&again));
        let seen = disk.contents();
        let left = disk.power_loss(Survivors::Nothing);
        assert!(self.expect_whole(&left, gone) >= reported + saves, "the next run reported one more: {said}");
        // What a disk has refused to forget may come back; nothing can be done about that but say so, which the first run did.
        self.expect_clean(if matches!(mishap, Mishap::Failure) { &seen } else { &left });
    }
}

/// Runs the program in a folder with the disk in it.
fn run(folder: &Path, home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(tests::program());
    command.env_clear().env("HOME", home).env("PATH", "/usr/bin:/bin").current_dir(folder).stdin(Stdio::null());
    command.args(["--repository", "disk/repository"]).args(arguments).output().expect("tests/run builds the program first")
}

fn said(output: &Output) -> String {
    format!("{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr))
}

/// Says where something happened, if it panics there.
struct Said(String);

impl Drop for Said {
    #[expect(clippy::print_stdout, reason = "where it was is half of what a failed test has to say")]
    fn drop(&mut self) {
        println!("{}", self.0);
    }
}

#[test]
fn a_backup_to_a_disk_that_fails() {
    Place::new(Memory::Elsewhere).try_everywhere(&["backup", "source", "--json"], &BTreeSet::new());
}

#[test]
fn a_backup_of_a_machine_that_loses_its_power() {
    Place::new(Memory::Beside).try_everywhere(&["backup", "source", "--json"], &BTreeSet::new());
}

/// File systems that lack a way of renaming, or two.
#[test]
fn a_backup_to_a_disk_that_knows_fewer_ways() {
    for link in [true, false] {
        let place = Place { ways: Ways { rename_exclusively: false, link }, ..Place::new(Memory::Elsewhere) };
        place.try_everywhere(&["backup", "source", "--json"], &BTreeSet::new());
    }
}

#[test]
fn forgetting_on_a_disk_that_fails() {
    let place = Place::new(Memory::Elsewhere);
    let gone = *place.saved.keys().next().unwrap();
    place.try_everywhere(&["forget", &gone.to_string(), "--yes"], &BTreeSet::from([gone]));
}

#[test]
fn a_prune_on_a_disk_that_fails() {
    let place = Place::new(Memory::Beside);
    {
        // It does everything that a prune does.
        let disk = place.begin(place.start.clone());
        let output = place.run(&disk, &["prune", "--json", "--max-delete", "100"]);
        let said = String::from_utf8(output.stdout).unwrap();
        let records: Vec<serde_json::Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let count = |record: usize, pointer: &str| records[record].pointer(pointer).unwrap().as_u64().unwrap();
        let done =
            [(0, "/swept/count"), (0, "/snapshots_swept"), (0, "/condemned/count"), (0, "/repacked/count"), (0, "/snapshots_condemned")];
        let left_out: Vec<_> =
            done.iter().chain(&[(1, "/deleted"), (1, "/merged")]).filter(|(record, what)| count(*record, what) == 0).collect();
        assert!(left_out.is_empty(), "{left_out:?}: {said}");
    }
    place.try_everywhere(&["prune", "--max-delete", "100"], &BTreeSet::new());
}

#[test]
fn keeping_the_index_small_on_a_disk_that_fails() {
    let place = Place::new(Memory::Elsewhere);
    place.try_everywhere(&["repair", "index", "--merge"], &BTreeSet::new());
}

/// After a power loss there is either a repository that opens with the key that was written, or none, and a new one can be made in its place.
#[test]
fn a_repository_and_its_key_outlive_a_power_loss_or_can_be_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (seed, place) = (seed(), folder.path().join("disk"));
    let begin = |contents| Disk::mount(&place, contents).unwrap();
    let run = |arguments: &[&str]| run(folder.path(), &place.join("home"), arguments);
    let make = |key: &str| run(&["init", "--accept-loss", "--new-key-file", key]);
    let opens = |key: &str| run(&["--key-file", key, "snapshots"]).status.success();
    let disk = begin(Contents::new());
    assert!(make("disk/key").status.success());
    let steps = disk.steps().len();
    drop(disk);
    let mut made = 0;
    for survivors in [Survivors::Nothing, Survivors::Everything, Survivors::Some(seed)] {
        // The last one is after the end.
        for at in (1..=steps).chain([usize::MAX]).filter(|at| is_long() || *at > steps || (at % 10) == seed as usize % 10) {
            let guard = Said(format!("seed {seed}: {survivors:?} at step {at} of {steps}"));
            let disk = begin(Contents::new());
            disk.set(Trouble::PowerCut { at });
            let output = make("disk/key");
            let disk = {
                let left = disk.power_loss(survivors);
                begin(left)
            };
            if output.status.success() {
                assert!(opens("disk/key"), "it was made");
                made += 1;
            } else if !opens("disk/key") {
                let again = make("disk/another");
                assert!(again.status.success() && opens("disk/another"), "{} and then {}", said(&output), said(&again));
            }
            drop(disk);
            std::mem::forget(guard);
        }
    }
    assert!(made >= 3, "{made}");
}

/// What does not fit is told, nothing that looks complete is not, and with more room the rest comes.
#[test]
fn a_restore_to_a_disk_that_is_full_or_fails() {
    let machine = Driven::new("repository").unwrap();
    let files = [("a", 200_000), ("sub/b", 70_000), ("sub/c", 900), ("sub/deep/d", 300_000), ("z", 1)];
    for (name, length) in files {
        let path = machine.source().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, noise(length as u64, length)).unwrap();
    }
    machine.save().unwrap();
    let source = look(&machine.source()).unwrap();
    let what = format!("latest:{}", machine.source().display());
    let arguments = ["--key-file", "key", "restore", &what, "--to", "disk/restored"];
    let begin = || Disk::mount(&machine.path("disk"), Contents::new()).unwrap();
    let seen = || if machine.path("disk/restored").exists() { look(&machine.path("disk/restored")).unwrap() } else { BTreeMap::new() };
    let disk = begin();
    machine.run(&arguments).unwrap();
    let steps = disk.steps().len();
    assert!(steps > 20 && seen() == source, "{steps} steps");
    drop(disk);
    let seed = seed();
    for at in (1..=steps).filter(|at| is_long() || (at + seed as usize).is_multiple_of(5)) {
        for trouble in [Trouble::Full { from: at, to: usize::MAX }, Trouble::Full { from: at, to: at + 1 }, Trouble::Failing { at }] {
            let guard = Said(format!("seed {seed}: {trouble:?} of {steps}"));
            let disk = begin();
            disk.set(trouble);
            let output = machine.command(&arguments).output().unwrap();
            assert!(matches!(output.status.code(), Some(0 | 1 | 3)) && !said(&output).contains("panicked"), "{}", said(&output));
            assert!(output.status.success() || said(&output).contains("os error"), "it says why: {}", said(&output));
            let there = seen();
            assert!(!output.status.success() || there == source, "it says that everything is there: {}", said(&output));
            for (path, seen) in &there {
                // What is not complete has a mode that no saved file has.
                let saved = source.get(path).unwrap();
                assert!(seen.mode != saved.mode || seen.bytes == saved.bytes, "{} looks complete: {}", path.display(), said(&output));
            }
            disk.set(Trouble::None);
            let again = machine.command(&arguments).output().unwrap();
            assert!(again.status.success() && seen() == source, "{}, and then {}", said(&output), said(&again));
            drop(disk);
            std::mem::forget(guard);
        }
    }
}
