//! How far the parts of a run may be ahead of one another: so far that none of them waits for another, and no further than the system's limit of open files
//! allows, because what is under way may hold its folder open.

use crate::system;

/// How much may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ahead {
    /// Steps that the walk hands over together: where nothing changed, handing each over by itself costs more than the walk.
    pub batch: usize,
    /// Steps that the walk is ahead.
    pub steps: usize,
    /// Entries that were begun and are not gathered. Small files are read in groups: fewer than eight of those leave readers without work while a large
    /// directory is gathered.
    pub entries: usize,
}

impl Ahead {
    /// As far as helps.
    const MOST: Self = Self { batch: 32, steps: 512, entries: 1024 };

    /// As far as this program may go.
    pub(super) fn allowed() -> Self {
        Self::of(system::open_files_max())
    }

    /// Half of all open files: a quarter for what was begun, an eighth for the steps.
    fn of(files_max: Option<u64>) -> Self {
        let files_max = files_max.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
        let share = |divisor: usize, most: usize| (files_max / divisor).clamp(1, most);
        Self { batch: share(32, Self::MOST.batch), steps: share(8, Self::MOST.steps), entries: share(4, Self::MOST.entries) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_fits_into_the_open_files() {
        assert_eq!((Ahead::of(None), Ahead::of(Some(65_536))), (Ahead::MOST, Ahead::MOST));
        for files in [64, 100, 256, 1024, 4096_usize] {
            let Ahead { batch, steps, entries } = Ahead::of(Some(files as u64));
            assert!(batch >= 1 && steps >= batch, "{files}");
            assert!(2 * batch + steps + entries <= files / 2, "{files}");
        }
    }
}
