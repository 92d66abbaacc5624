//! How many folders and old files are held open at a time. The walk is far ahead of the workers, and a system gives a program few open files.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::system;

/// Of all files that this program may have open.
const SHARE: u64 = 4;
/// Enough to go on with, and no more than helps.
const COUNT: std::ops::RangeInclusive<u64> = 8..=1024;

/// What is held open, and what is under way to let go of it.
#[derive(Debug)]
pub(super) struct Held {
    open: Arc<AtomicU64>,
    open_max: u64,
    under_way: Arc<Batches>,
}

/// Batches that the workers have not done with.
#[derive(Debug, Default)]
struct Batches {
    count: Mutex<u64>,
    fewer: Condvar,
}

/// Something that is held open.
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicU64>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A batch that is under way, whatever becomes of it.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Batches>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        *self.0.count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.fewer.notify_all();
    }
}

impl Held {
    pub(super) fn new() -> Self {
        let limit = system::open_files_max().map_or(*COUNT.end(), |limit| limit / SHARE);
        Self { open: Arc::default(), open_max: limit.clamp(*COUNT.start(), *COUNT.end()), under_way: Arc::default() }
    }

    /// Counts something until it is dropped.
    pub(super) fn count(&self) -> Counted {
        self.open.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(&self.open))
    }

    /// Counts a batch until it is done with.
    pub(super) fn under_way(&self) -> UnderWay {
        *self.under_way.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        UnderWay(Arc::clone(&self.under_way))
    }

    /// Whether so much is open that the workers should be let catch up.
    pub(super) fn is_full(&self) -> bool {
        self.open.load(Ordering::Relaxed) >= self.open_max
    }

    /// Waits until there is room, or until nothing is under way that could make some: a deep tree holds all its folders.
    pub(super) fn wait(&self) {
        let mut count = self.under_way.count.lock().unwrap_or_else(PoisonError::into_inner);
        while *count > 0 && self.is_full() {
            count = self.under_way.fewer.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
