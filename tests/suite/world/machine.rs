//! A machine: a source that changes, what it remembers, and a clock that may be wrong.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fs_core::testing::ManualClock;
use fs_core::testing::simulator::Random;
use fs_core::time::{Clock, Timestamp};
use tests::noise;

use super::lock;
use super::model::Files;

const DAY: u64 = 86_400;
/// Contents that several machines have.
const SHARED: u64 = 30;
/// Most files of a source.
const FILES_MAX: u64 = 12;

/// The clock of a machine: as far from the true time as somebody has set it.
#[derive(Debug)]
pub(super) struct SkewedClock {
    truth: Arc<ManualClock>,
    /// Seconds.
    skew: Mutex<i64>,
    /// What its running time has missed; not every system counts sleep.
    missed: Mutex<Duration>,
    counts_sleep: bool,
}

impl Clock for SkewedClock {
    fn now(&self) -> Timestamp {
        let (now, skew) = (self.truth.now(), *lock(&self.skew));
        let by = Duration::from_secs(skew.unsigned_abs());
        if skew < 0 { now.saturating_sub(by) } else { now.saturating_add(by) }
    }

    fn elapsed(&self) -> Duration {
        self.truth.elapsed() - *lock(&self.missed)
    }
}

impl SkewedClock {
    /// The machine was asleep for so long.
    pub(super) fn slept(&self, time: Duration) {
        if !self.counts_sleep {
            *lock(&self.missed) += time;
        }
    }

    /// Somebody sets it: mostly right, or wrong by minutes, days or years.
    pub(super) fn set(&self, chance: &mut Random) {
        let most = [0, 0, 0, 600, 3 * DAY, 40 * DAY, 4000 * DAY];
        let most = most[chance.below(most.len() as u64) as usize];
        let by = chance.below(2 * most + 1).cast_signed() - most.cast_signed();
        *lock(&self.skew) = by;
    }

    pub(super) fn set_right(&self) {
        *lock(&self.skew) = 0;
    }
}

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) number: usize,
    pub(super) host: String,
    pub(super) clock: Arc<SkewedClock>,
    pub(super) is_busy: AtomicBool,
    source: tempfile::TempDir,
    state: tempfile::TempDir,
    files: Mutex<Files>,
    /// Writes so far. File systems tick coarsely, and days pass here within one tick: so each write has a time of its own.
    writes: AtomicU64,
}

/// A folder in memory where the system has one.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

impl Machine {
    pub(super) fn new(number: usize, truth: &Arc<ManualClock>, chance: &mut Random) -> Self {
        let (skew, missed, counts_sleep) = (Mutex::default(), Mutex::default(), chance.one_in(2));
        let clock = Arc::new(SkewedClock { truth: Arc::clone(truth), skew, missed, counts_sleep });
        let (source, state, files, writes) = (folder(), folder(), Mutex::default(), AtomicU64::new(0));
        Self { number, host: format!("machine {number}"), clock, is_busy: AtomicBool::new(false), source, state, files, writes }
    }

    /// What is saved.
    pub(super) fn source(&self) -> &Path {
        self.source.path()
    }

    /// Where it remembers what it saw.
    pub(super) fn state(&self) -> &Path {
        self.state.path()
    }

    /// What is in the source now.
    pub(super) fn files(&self) -> Arc<Files> {
        Arc::new(lock(&self.files).clone())
    }

    /// People work: files come, change, move and go.
    pub(super) fn work(&self, chance: &mut Random) {
        let mut files = lock(&self.files);
        for _ in 0..chance.below(5) {
            let paths: Vec<_> = files.keys().cloned().collect();
            let some = chance.one_of(&paths).cloned();
            match (chance.below(6), some) {
                (0, Some(path)) => self.remove(&mut files, &path),
                (1, Some(path)) => {
                    let to = name(chance);
                    let bytes = files.remove(&path).unwrap_or_default();
                    std::fs::create_dir_all(self.source().join(&to).parent().unwrap()).unwrap();
                    std::fs::rename(self.source().join(&path), self.source().join(&to)).unwrap();
                    files.insert(to, bytes);
                }
                (2 | 3, Some(path)) => {
                    let bytes = change(&files[&path], chance);
                    self.write(&mut files, path, bytes);
                }
                (_, some) if files.len() as u64 >= FILES_MAX => self.remove(&mut files, &some.unwrap()),
                _ => {
                    let bytes = content(chance);
                    self.write(&mut files, name(chance), bytes);
                }
            }
        }
    }

    fn write(&self, files: &mut Files, path: PathBuf, bytes: Vec<u8>) {
        let place = self.source().join(&path);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(&place, &bytes).unwrap();
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        let seconds = u64::try_from(self.clock.now().seconds()).unwrap_or(0);
        let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, (number % 1_000_000_000) as u32);
        std::fs::File::options().write(true).open(&place).unwrap().set_modified(time).unwrap();
        files.insert(path, Arc::new(bytes));
    }

    fn remove(&self, files: &mut Files, path: &Path) {
        std::fs::remove_file(self.source().join(path)).unwrap();
        files.remove(path);
    }

    /// What it remembers is lost, or one file of it is cut off, as after a power loss.
    pub(super) fn forget_state(&self, chance: &mut Random) -> String {
        let mut found = below(self.state());
        if chance.one_in(2) {
            for item in std::fs::read_dir(self.state()).unwrap().map(Result::unwrap) {
                std::fs::remove_dir_all(item.path()).or_else(|_| std::fs::remove_file(item.path())).unwrap();
            }
            return "loses all that it remembers".into();
        }
        found.sort();
        let Some(path) = chance.one_of(&found) else { return "has nothing to lose".into() };
        let file = std::fs::File::options().write(true).open(path).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(chance.below(length + 1)).unwrap();
        format!("finds {} cut off", path.file_name().unwrap().display())
    }
}

/// All files below a folder.
fn below(folder: &Path) -> Vec<PathBuf> {
    let items = std::fs::read_dir(folder).unwrap().map(|item| item.unwrap().path());
    items.flat_map(|path| if path.is_dir() { below(&path) } else { vec![path] }).collect()
}

fn name(chance: &mut Random) -> PathBuf {
    let folder = ["", "letters", "letters/old", "pictures"][chance.below(4) as usize];
    Path::new(folder).join(format!("file {}", chance.below(40)))
}

/// New bytes: some that others have too, some that nobody has; small ones, some of several chunks, none at all.
fn content(chance: &mut Random) -> Vec<u8> {
    let seed = if chance.one_in(2) { chance.below(SHARED) } else { SHARED + chance.below(1 << 40) };
    let most = [1, 300, 3000, 3000, 60_000][(seed % 5) as usize];
    // The length follows from the seed, or the contents of two machines would never be the same.
    noise(seed, (seed.wrapping_mul(2_654_435_761) % most) as usize)
}

fn change(bytes: &[u8], chance: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    match chance.below(3) {
        0 => bytes.extend(noise(chance.below(1 << 40), 100)),
        1 => {
            let at = chance.below(bytes.len() as u64) as usize;
            bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1);
        }
        _ => return content(chance),
    }
    bytes
}
