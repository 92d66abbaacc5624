//! The commit window: how old a look at the store may be that a snapshot relies on.
//!
//! A prune condemns packs that no snapshot names and deletes them when its grace time has passed, days later. A run names packs that it saw long before its
//! snapshot is there to protect them, and a laptop may sleep for days at any point between. So: what a manifest relies on was seen within the window before
//! it is put, and is seen again afterwards, before the seal. From the manifest on every prune finds the packs in use; one that looked before has marked
//! or deleted them by the second look, however long the machine slept meanwhile: [`usable_packs`] leaves out what a mark names.

use std::collections::HashSet;
use std::time::Duration;

use fs_core::id::PackId;
use fs_core::repository::Repository;
use fs_core::storage::{ReadStore, StoreError, WriteStore, wait};
use fs_core::time::Timestamp;

use super::BackupError;
use crate::packer::{PackError, usable_packs};

/// Longest time from a look at the store to the manifest that relies on it. Far below the shortest grace time, 48 hours.
pub(crate) const COMMIT_WINDOW: Duration = Duration::from_secs(10 * 60);
/// How often a look that took longer than the window is repeated.
const LOOKS_MAX: u32 = 5;

/// What a run relies on, and when that was seen last.
pub(super) struct Window<'a> {
    pub repository: &'a Repository,
    pub store: &'a dyn WriteStore,
    looked_at: Moment,
}

/// A moment by every clock there is. Not every system's running time counts sleep, any wall clock may be set, and not every store has one.
pub(crate) struct Moment {
    running: Duration,
    wall: Timestamp,
    server: Option<Timestamp>,
}

impl<'a> Window<'a> {
    /// The look that a run begins with comes after this.
    ///
    /// # Errors
    /// The store's.
    pub(super) fn open(repository: &'a Repository, store: &'a dyn WriteStore) -> Result<Self, StoreError> {
        Ok(Self { repository, store, looked_at: Moment::now(repository, store)? })
    }

    /// Whether a manifest may be put: all that it relies on was there within the window. The store's time, if it has one.
    ///
    /// # Errors
    /// [`PackError::Vanished`]; [`BackupError::Overdue`]; the store's.
    pub(super) fn before_manifest(&mut self, relied_on: &HashSet<PackId>) -> Result<Option<Timestamp>, BackupError> {
        for _ in 0..LOOKS_MAX {
            let now = Moment::now(self.repository, self.store)?;
            if now.since(&self.looked_at) <= COMMIT_WINDOW {
                return Ok(now.server);
            }
            tracing::info!("the store was looked at too long ago: it is looked at again");
            self.look(relied_on)?;
        }
        Err(BackupError::Overdue)
    }

    /// Looks whether everything is there that the snapshot relies on.
    ///
    /// # Errors
    /// [`PackError::Vanished`]; the store's.
    pub(super) fn look(&mut self, relied_on: &HashSet<PackId>) -> Result<(), BackupError> {
        let now = Moment::now(self.repository, self.store)?;
        let usable: HashSet<PackId> = usable_packs(self.repository)?.into_iter().map(|(id, _, _)| id).collect();
        if let Some(&pack) = relied_on.iter().find(|pack| !usable.contains(pack)) {
            return Err(PackError::Vanished { pack }.into());
        }
        self.looked_at = now;
        Ok(())
    }
}

impl Moment {
    /// Asks all clocks.
    pub(crate) fn now(repository: &Repository, store: &dyn ReadStore) -> Result<Self, StoreError> {
        let server = wait("clock", store.server_time())?;
        let clock = repository.clock();
        Ok(Self { running: clock.elapsed(), wall: clock.now(), server })
    }

    /// The longest time that any clock says has passed.
    pub(crate) fn since(&self, earlier: &Self) -> Duration {
        let by_server = self.server.zip(earlier.server).map_or(Duration::ZERO, |(now, then)| now.since(then));
        by_server.max(self.wall.since(earlier.wall)).max(self.running.saturating_sub(earlier.running))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(running: u64, wall: i64, server: Option<i64>) -> Moment {
        let time = |seconds| Timestamp::new(seconds, 0).unwrap();
        Moment { running: Duration::from_secs(running), wall: time(wall), server: server.map(time) }
    }

    #[test]
    fn the_clock_that_says_most_counts_and_one_that_is_set_back_says_nothing() {
        let began = moment(1000, 1000, Some(1000));
        for (now, seconds) in [
            (moment(1005, 1003, Some(1001)), 5),
            (moment(1000, 1900, Some(1001)), 900),
            (moment(1000, 1, Some(1700)), 700),
            (moment(1800, 1, Some(1)), 800),
            (moment(1000, 1, None), 0),
        ] {
            assert_eq!(now.since(&began), Duration::from_secs(seconds));
        }
        assert_eq!(moment(1000, 1000, Some(5)).since(&moment(1000, 1000, None)), Duration::ZERO);
    }
}
