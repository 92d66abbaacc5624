//! How long the threads of a run were busy, by stage.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fs_core::time::Clock;

/// What a thread is busy with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Listing directories and looking at entries.
    Walk,
    /// Reading, cutting, hashing, compressing and sealing contents.
    Read,
    /// Opening every record of a finished pack again.
    Verify,
    /// Putting packs.
    Upload,
    /// Manifest, second look and seal.
    Commit,
}

/// Busy times, gathered by all threads.
#[derive(Debug, Default)]
pub struct Stages([AtomicU64; 5]);

/// Busy times of a run: threads that are busy side by side count each, waiting for others does not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StageTimes {
    /// [`Stage::Walk`].
    pub walk: Duration,
    /// [`Stage::Read`].
    pub read: Duration,
    /// [`Stage::Verify`].
    pub verify: Duration,
    /// [`Stage::Upload`].
    pub upload: Duration,
    /// [`Stage::Commit`].
    pub commit: Duration,
}

impl Stages {
    /// Does something and counts how long it takes.
    pub fn busy<T>(&self, stage: Stage, clock: &dyn Clock, work: impl FnOnce() -> T) -> T {
        let began = clock.elapsed();
        let result = work();
        self.of(stage).fetch_add(nanos(clock, began), Ordering::Relaxed);
        result
    }

    /// Waits inside of [`Self::busy`]: that time does not count. The sums are right when both have ended.
    pub fn waiting<T>(&self, stage: Stage, clock: &dyn Clock, wait: impl FnOnce() -> T) -> T {
        let began = clock.elapsed();
        let result = wait();
        // Below zero for a while: it wraps, and comes back.
        self.of(stage).fetch_sub(nanos(clock, began), Ordering::Relaxed);
        result
    }

    /// The sums, once nobody is busy any more.
    pub fn times(&self) -> StageTimes {
        let of = |stage| Duration::from_nanos(self.of(stage).load(Ordering::Relaxed));
        StageTimes {
            walk: of(Stage::Walk),
            read: of(Stage::Read),
            verify: of(Stage::Verify),
            upload: of(Stage::Upload),
            commit: of(Stage::Commit),
        }
    }

    fn of(&self, stage: Stage) -> &AtomicU64 {
        let [walk, read, verify, upload, commit] = &self.0;
        match stage {
            Stage::Walk => walk,
            Stage::Read => read,
            Stage::Verify => verify,
            Stage::Upload => upload,
            Stage::Commit => commit,
        }
    }
}

fn nanos(clock: &dyn Clock, began: Duration) -> u64 {
    u64::try_from(clock.elapsed().saturating_sub(began).as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_core::testing::ManualClock;
    use fs_core::time::Timestamp;

    #[test]
    fn waiting_does_not_count() {
        let (stages, clock) = (Stages::default(), ManualClock::at(Timestamp::default()));
        let second = Duration::from_secs(1);
        stages.busy(Stage::Read, &*clock, || {
            clock.advance(3 * second);
            stages.waiting(Stage::Read, &*clock, || clock.advance(2 * second));
        });
        stages.busy(Stage::Read, &*clock, || clock.advance(second));
        stages.busy(Stage::Commit, &*clock, || clock.advance(5 * second));
        assert_eq!(stages.times(), StageTimes { read: 4 * second, commit: 5 * second, ..StageTimes::default() });
    }
}
