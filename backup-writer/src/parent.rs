//! Unchanged since it was last saved? A pure comparison of what the system tells now with what was kept.

use std::time::Duration;

use fs_core::id::PackId;
use fs_core::time::Timestamp;
use fs_core::tree::Entry;

/// A file changed within this time before a run began may have changed again unseen: clocks of file systems tick coarsely.
const RACE_MARGIN: Duration = Duration::from_secs(2);

/// A file as it was last saved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileState {
    /// Name, size, times and content; whatever else it holds is not looked at.
    pub entry: Entry,
    /// Its number in the file system; `None` where that is not known or means nothing after a remount.
    pub inode: Option<u64>,
    /// Packs that hold its content, where the references of the entry do not name them all: they stand in lists.
    pub packs: Vec<PackId>,
}

impl FileState {
    /// What is kept of a saved file: what it is compared by, and its content.
    pub fn of(entry: &Entry, inode: Option<u64>, packs: Vec<PackId>) -> Self {
        let mut kept = Entry::new(entry.name.clone(), entry.kind);
        (kept.size, kept.mtime, kept.ctime) = (entry.size, entry.mtime, entry.ctime);
        kept.take_content(entry);
        Self { entry: kept, inode, packs }
    }

    /// All packs that hold the content.
    pub fn packs(&self) -> impl Iterator<Item = PackId> {
        self.entry.content.references().iter().map(|reference| reference.pack).chain(self.packs.iter().copied())
    }
}

/// Whether a file was quiet for long enough before a run began, so that every later write must show in its times.
pub fn is_settled(entry: &Entry, began: Timestamp) -> bool {
    // Every write moves the time of change; the time of modification can be set to anything, also to the future.
    entry.ctime.or(entry.mtime).is_some_and(|changed| changed < began.saturating_sub(RACE_MARGIN))
}

/// Whether `now` is the file that `before` was. Numbers are compared where both are known: a file that was put in the place of another may have its times.
pub fn is_unchanged(now: &Entry, inode: Option<u64>, before: &Entry, inode_before: Option<u64>) -> bool {
    let same_number = inode.is_none() || inode_before.is_none() || inode == inode_before;
    let seen = |entry: &Entry| (entry.kind, entry.size, entry.mtime, entry.ctime);
    same_number && now.mtime.is_some() && seen(now) == seen(before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_core::tree::EntryKind;

    fn file() -> Entry {
        let mut entry = Entry::new(None, EntryKind::File);
        entry.size = 5;
        (entry.mtime, entry.ctime) = (Timestamp::new(100, 5), Timestamp::new(200, 7));
        entry
    }

    #[test]
    fn every_difference_counts() {
        let before = file();
        assert!(is_unchanged(&file(), Some(3), &before, Some(3)));
        assert!(is_unchanged(&file(), None, &before, Some(3)) && is_unchanged(&file(), Some(3), &before, None));
        assert!(!is_unchanged(&file(), Some(3), &before, Some(4)), "another file with the same times");
        let changes: [fn(&mut Entry); 5] = [
            |entry| entry.size = 6,
            |entry| entry.mtime = Timestamp::new(100, 6),
            |entry| entry.ctime = Timestamp::new(200, 8),
            |entry| entry.kind = EntryKind::Fifo,
            |entry| entry.mtime = None,
        ];
        for change in changes {
            let mut now = file();
            change(&mut now);
            assert!(!is_unchanged(&now, Some(3), &before, Some(3)), "{now:?}");
        }
        let mut timeless = file();
        (timeless.mtime, timeless.ctime) = (None, None);
        assert!(!is_unchanged(&timeless, None, &timeless, None), "what has no time is always read");
    }

    #[test]
    fn a_change_within_two_seconds_of_the_start_settles_nothing() {
        let at = |seconds| Timestamp::new(seconds, 7).unwrap();
        assert!(is_settled(&file(), at(203)));
        assert!(!is_settled(&file(), at(202)));
        assert!(!is_settled(&file(), at(100)), "a clock set back");
        let mut future = file();
        future.mtime = Timestamp::new(9_999_999_999, 0);
        assert!(is_settled(&future, at(300)), "a time of modification in the future is no change");
    }
}
