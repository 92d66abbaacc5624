//! What has been read once and may be wanted again: opened records in memory ([`memory`]), sealed bytes on the disk
//! ([`disk`]). Both are bounded by bytes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::id::RecordId;

pub mod disk;
pub mod memory;

pub use disk::{CacheError, DiskCache, DiskCacheStatus};
pub use memory::{MemoryCache, Weight};

/// A bounded cache of opened records. Values are cheap to clone.
#[derive(Debug)]
pub struct RecordCache<V> {
    state: Mutex<State<V>>,
    budget: usize,
}

#[derive(Debug)]
struct State<V> {
    entries: LruCache<RecordId, (V, usize)>,
    used: usize,
}

impl<V: Clone> RecordCache<V> {
    /// A cache that holds at most `budget` bytes.
    pub fn new(budget: usize) -> Self {
        Self { state: Mutex::new(State { entries: LruCache::unbounded(), used: 0 }), budget }
    }

    /// The value, if it is here; it then counts as used.
    pub fn get(&self, id: &RecordId) -> Option<V> {
        self.state().entries.get(id).map(|(value, _)| value.clone())
    }

    /// Keeps a value of `size` bytes and lets go of the least used ones. A value larger than the whole budget is not kept.
    pub fn insert(&self, id: RecordId, value: V, size: usize) {
        if size > self.budget {
            return;
        }
        let mut state = self.state();
        if let Some((_, old)) = state.entries.put(id, (value, size)) {
            state.used -= old;
        }
        state.used += size;
        while state.used > self.budget {
            let Some((_, (_, freed))) = state.entries.pop_lru() else { break };
            state.used -= freed;
        }
    }

    /// Bytes held.
    pub fn used(&self) -> usize {
        self.state().used
    }

    fn state(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> RecordId {
        RecordId::from_bytes([n; 32])
    }

    #[test]
    fn the_budget_holds_and_what_is_used_stays() {
        let cache = RecordCache::new(100);
        for n in 0..10 {
            cache.insert(id(n), n, 20);
            assert_eq!(cache.get(&id(0)), Some(0), "used again each time");
            assert!(cache.used() <= 100);
        }
        assert_eq!((cache.get(&id(9)), cache.get(&id(1))), (Some(9), None));
        cache.insert(id(50), 50, 101);
        assert_eq!((cache.get(&id(50)), cache.used()), (None, 100));
        cache.insert(id(0), 1, 10);
        assert_eq!((cache.get(&id(0)), cache.used()), (Some(1), 90));
    }
}
