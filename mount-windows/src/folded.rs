//! Finding names whatever their case: for each folder that was looked at, 16 bytes for each of its lines. Pure.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fs_core::view::inode::Inode;
use lru::LruCache;

/// Lines of all folders together whose places are kept: 32 MiB.
const LINES_MAX: usize = 1 << 21;
/// Folders whose lines are kept.
const FOLDERS_MAX: usize = 1 << 14;

/// Where the lines of one folder are, by what their names have in common with others that Windows takes for the same.
#[derive(Debug, Default)]
pub struct Folded(Vec<(u64, u64)>);

impl Folded {
    /// Takes a line: its folded name, and where a listing that begins with it goes on from.
    pub fn add(&mut self, key: &[u16], at: u64) {
        self.0.push((hash(key), at));
    }

    /// All lines are there.
    pub fn finish(mut self) -> Self {
        self.0.sort_unstable();
        self.0.shrink_to_fit();
        self
    }

    /// Where lines begin that may have this folded name; few others are among them.
    pub fn find(&self, key: &[u16]) -> impl ExactSizeIterator<Item = u64> {
        let wanted = hash(key);
        let from = self.0.partition_point(|(hash, _)| *hash < wanted);
        let rest = self.0.get(from..).unwrap_or_default();
        let count = rest.partition_point(|(hash, _)| *hash == wanted);
        rest.iter().take(count).map(|(_, at)| *at)
    }

    fn cost(&self) -> usize {
        self.0.len() + 1
    }
}

fn hash(key: &[u16]) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// Those of the folders that were looked at last, within a bound.
#[derive(Debug)]
pub struct Folds(Mutex<Kept>);

#[derive(Debug)]
struct Kept {
    folders: LruCache<u64, Arc<Folded>>,
    lines: usize,
    /// Counts changes of what the view makes up: what was read before is not kept after.
    round: u64,
}

impl Default for Folds {
    fn default() -> Self {
        let folders = LruCache::new(NonZeroUsize::new(FOLDERS_MAX).unwrap_or(NonZeroUsize::MIN));
        Self(Mutex::new(Kept { folders, lines: 0, round: 0 }))
    }
}

impl Folds {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lines of a folder, if they are kept.
    pub fn get(&self, folder: u64) -> Option<Arc<Folded>> {
        self.kept().folders.get(&folder).cloned()
    }

    /// To be asked before the lines of a folder are read, and handed to [`Self::put`].
    pub fn round(&self) -> u64 {
        self.kept().round
    }

    /// Keeps the lines of a folder. Those of one that may have changed since are not kept.
    pub fn put(&self, folder: u64, round: u64, folded: Arc<Folded>) {
        let mut kept = self.kept();
        if round != kept.round && Inode::from_number(folder).is_made_up() {
            return;
        }
        kept.lines += folded.cost();
        if let Some((_, old)) = kept.folders.push(folder, folded) {
            kept.lines -= old.cost();
        }
        while kept.lines > LINES_MAX && kept.folders.len() > 1 {
            let Some((_, old)) = kept.folders.pop_lru() else { break };
            kept.lines -= old.cost();
        }
    }

    /// What the view makes up has changed: folders of snapshots stay.
    pub fn changed(&self) {
        let mut kept = self.kept();
        kept.round += 1;
        let made_up: Vec<u64> =
            kept.folders.iter().map(|(folder, _)| *folder).filter(|folder| Inode::from_number(*folder).is_made_up()).collect();
        for folder in made_up {
            if let Some(old) = kept.folders.pop(&folder) {
                kept.lines -= old.cost();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(count: usize) -> Arc<Folded> {
        let mut folded = Folded::default();
        (0..count).for_each(|n| folded.add(&[u16::try_from(n).unwrap_or(u16::MAX)], n as u64));
        Arc::new(folded.finish())
    }

    #[test]
    fn lines_are_found_by_their_folded_names() {
        let mut lines = Folded::default();
        for (name, at) in [(1, 10), (2, 20), (1, 30)] {
            lines.add(&[name], at);
        }
        let lines = lines.finish();
        assert_eq!(lines.find(&[1]).collect::<Vec<_>>(), [10, 30]);
        assert_eq!(lines.find(&[2]).len(), 1);
        assert_eq!(lines.find(&[3]).len(), 0);
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_is_made_up_is_forgotten() {
        let folds = Folds::default();
        let of_snapshot = Inode { slot: 3, position: 1 }.number();
        folds.put(5, folds.round(), folded(4));
        folds.put(of_snapshot, folds.round(), folded(4));
        let before = folds.round();
        folds.changed();
        assert!(folds.get(5).is_none() && folds.get(of_snapshot).is_some());
        folds.put(5, before, folded(4));
        assert!(folds.get(5).is_none(), "read before the change");
        for n in 0..40 {
            folds.put(Inode { slot: 4, position: n }.number(), 0, folded(1 << 16));
        }
        assert!(folds.kept().lines <= LINES_MAX);
        assert!(folds.get(of_snapshot).is_none());
    }
}
