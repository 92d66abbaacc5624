//! Memory for opened records of every kind, under one hard budget in bytes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::id::RecordId;

/// Says how many bytes of memory a value occupies.
pub trait Weight {
    /// Bytes, with those that it owns. Must not change while the value is kept.
    fn weight(&self) -> usize;
}

/// A cache of opened records that never holds more than its budget. Shared between threads; values are cheap to clone.
#[derive(Debug)]
pub struct MemoryCache<V> {
    state: Mutex<State<V>>,
    budget: usize,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Debug)]
struct State<V> {
    entries: LruCache<RecordId, (V, usize)>,
    used: usize,
}

impl<V: Clone + Weight> MemoryCache<V> {
    /// An empty cache that holds at most `budget` bytes.
    pub fn new(budget: usize) -> Self {
        let state = State { entries: LruCache::unbounded(), used: 0 };
        Self { state: Mutex::new(state), budget, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// The value, if it is here; it then counts as used.
    pub fn get(&self, id: &RecordId) -> Option<V> {
        let found = self.state().entries.get(id).map(|(value, _)| value.clone());
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Whether the value is here. Does not count as a use.
    pub fn contains(&self, id: &RecordId) -> bool {
        self.state().entries.contains(id)
    }

    /// Keeps a value and lets go of others as needed. A value larger than a quarter of the budget is not kept.
    pub fn insert(&self, id: RecordId, value: V) {
        let weight = value.weight();
        let mut state = self.state();
        if let Some((_, old)) = state.entries.pop(&id) {
            state.used -= old;
        }
        if weight > self.budget / 4 {
            return;
        }
        while state.used + weight > self.budget {
            let Some((_, (_, freed))) = state.entries.pop_lru() else { break };
            state.used -= freed;
        }
        state.used += weight;
        state.entries.put(id, (value, weight));
    }

    /// Bytes held; never more than [`Self::budget`].
    pub fn used(&self) -> usize {
        self.state().used
    }

    /// Most bytes it will hold.
    pub fn budget(&self) -> usize {
        self.budget
    }

    /// How often [`Self::get`] found a value.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// How often [`Self::get`] found none.
    pub fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Value(usize);

    impl Weight for Value {
        fn weight(&self) -> usize {
            self.0
        }
    }

    fn id(n: u8) -> RecordId {
        RecordId::from_bytes([n; 32])
    }

    #[test]
    fn a_value_larger_than_a_quarter_is_not_kept_and_replaces_none() {
        let cache = MemoryCache::new(100);
        cache.insert(id(1), Value(25));
        cache.insert(id(2), Value(26));
        assert_eq!((cache.get(&id(1)), cache.get(&id(2))), (Some(Value(25)), None));
        cache.insert(id(1), Value(26));
        assert_eq!((cache.get(&id(1)), cache.used()), (None, 0), "the old value is not the new one");
        assert_eq!((cache.hits(), cache.misses()), (1, 2));
    }
}
