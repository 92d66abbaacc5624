//! Memory for opened records of every kind, under one hard budget in bytes.
//!
//! The policy is S3-FIFO with one change. New values wait in a queue of their own, a quarter of the memory; only what is used again while it waits, or
//! comes back soon after it left, gets into the main queue. So a file that streams through pushes out what streamed before and nothing else. The
//! change: the kernel reads a record in several pieces, one right after the other, and that is one use. A use counts when enough other bytes have
//! come in since the last one. Measured against others in docs/decisions/0005-memory-for-records.md.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::id::RecordId;

/// A value larger than this part of the budget is not kept: one in so many.
const VALUE_SHARE_MAX: usize = 4;
/// New values wait in this part of the budget: one in so many. What all readers together have fetched ahead must fit, or it leaves before it is read.
pub const NEW_SHARE: usize = 4;
/// Uses closer together than this part of the budget are one use.
const BURST_SHARE: usize = 16;
/// Uses while it waits that let a value stay: the one it was fetched for, and another.
const USES_TO_STAY: u8 = 2;
/// More uses than that are not remembered.
const USES_MAX: u8 = 3;
/// Memory of an entry beside its value: its places in the table and in a queue, and what is remembered when it has left.
const ENTRY_OVERHEAD: usize = 200;

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
    entries: HashMap<RecordId, Entry<V>>,
    new: Queue,
    main: Queue,
    /// Ids, by their first bytes, of values that have left the new queue without a second use.
    ghosts: VecDeque<u64>,
    ghost_set: HashSet<u64>,
    /// Bytes that ever came in: the clock by which uses are told apart.
    time: u64,
    budget: usize,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    weight: usize,
    is_main: bool,
    uses: u8,
    /// When a use last counted.
    used_at: u64,
}

/// Ids in the order in which they came, and what they weigh together.
#[derive(Debug, Default)]
struct Queue {
    ids: VecDeque<RecordId>,
    used: usize,
}

impl<V: Clone + Weight> MemoryCache<V> {
    /// An empty cache that holds at most `budget` bytes.
    pub fn new(budget: usize) -> Self {
        let state = State {
            entries: HashMap::new(),
            new: Queue::default(),
            main: Queue::default(),
            ghosts: VecDeque::new(),
            ghost_set: HashSet::new(),
            time: 0,
            budget,
        };
        Self { state: Mutex::new(state), budget, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// The value, if it is here; it then counts as used.
    pub fn get(&self, id: &RecordId) -> Option<V> {
        let found = self.state().get(id);
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Whether the value is here. Does not count as a use.
    pub fn contains(&self, id: &RecordId) -> bool {
        self.state().entries.contains_key(id)
    }

    /// Keeps a value and lets go of others as needed. A value larger than a quarter of the budget is not kept.
    pub fn insert(&self, id: RecordId, value: V) {
        let weight = value.weight().saturating_add(ENTRY_OVERHEAD);
        // What has to leave is dropped after the lock: freeing a large page takes its time.
        let _gone = self.state().insert(id, value, weight);
    }

    /// Bytes held, with a sum for the cache's own memory; never more than [`Self::budget`].
    pub fn used(&self) -> usize {
        self.state().used()
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

impl<V: Clone> State<V> {
    fn used(&self) -> usize {
        self.new.used + self.main.used
    }

    fn get(&mut self, id: &RecordId) -> Option<V> {
        let burst = (self.budget / BURST_SHARE) as u64;
        let entry = self.entries.get_mut(id)?;
        if entry.uses == 0 || self.time - entry.used_at >= burst {
            entry.uses = (entry.uses + 1).min(USES_MAX);
            entry.used_at = self.time;
        }
        Some(entry.value.clone())
    }

    fn insert(&mut self, id: RecordId, value: V, weight: usize) -> Vec<V> {
        // Two that fetched the same.
        if let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.weight == weight) {
            return vec![std::mem::replace(&mut entry.value, value)];
        }
        let mut gone: Vec<V> = self.remove(&id).into_iter().collect();
        if weight > self.budget / VALUE_SHARE_MAX {
            return gone;
        }
        while self.used() + weight > self.budget {
            let is_new = self.new.used > self.budget / NEW_SHARE || self.main.ids.is_empty();
            gone.extend(if is_new { self.shrink_new() } else { self.shrink_main() });
        }
        self.time += weight as u64;
        let is_main = self.ghost_set.contains(&id.prefix());
        let queue = if is_main { &mut self.main } else { &mut self.new };
        queue.push(id, weight);
        self.entries.insert(id, Entry { value, weight, is_main, uses: 0, used_at: self.time });
        gone
    }

    /// Content never changes, so the same id comes with other bytes only in tests; it may be slow.
    fn remove(&mut self, id: &RecordId) -> Option<V> {
        let entry = self.entries.remove(id)?;
        let queue = if entry.is_main { &mut self.main } else { &mut self.new };
        queue.ids.retain(|known| known != id);
        queue.used -= entry.weight;
        Some(entry.value)
    }

    /// The oldest of the new values stays for good or leaves.
    fn shrink_new(&mut self) -> Option<V> {
        let id = self.new.ids.pop_front()?;
        let entry = self.entries.get_mut(&id)?;
        self.new.used -= entry.weight;
        if entry.uses >= USES_TO_STAY {
            (entry.is_main, entry.uses) = (true, 0);
            self.main.push(id, entry.weight);
            return None;
        }
        self.remember(id.prefix());
        self.entries.remove(&id).map(|entry| entry.value)
    }

    /// The oldest of the others gets another round for each use, or leaves.
    fn shrink_main(&mut self) -> Option<V> {
        let id = self.main.ids.pop_front()?;
        let entry = self.entries.get_mut(&id)?;
        if entry.uses > 0 {
            entry.uses -= 1;
            self.main.ids.push_back(id);
            return None;
        }
        self.main.used -= entry.weight;
        self.entries.remove(&id).map(|entry| entry.value)
    }

    fn remember(&mut self, ghost: u64) {
        if self.ghost_set.insert(ghost) {
            self.ghosts.push_back(ghost);
        }
        // More of them would bring back what comes rarely.
        while self.ghosts.len() > self.entries.len() {
            if let Some(oldest) = self.ghosts.pop_front() {
                self.ghost_set.remove(&oldest);
            }
        }
    }
}

impl Queue {
    fn push(&mut self, id: RecordId, weight: usize) {
        self.ids.push_back(id);
        self.used += weight;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Value(usize);

    impl Weight for Value {
        fn weight(&self) -> usize {
            self.0 - ENTRY_OVERHEAD
        }
    }

    fn id(n: usize) -> RecordId {
        RecordId::from_bytes(crate::crypto::hash(&n.to_le_bytes()))
    }

    const STREAM: usize = 1 << 20;

    /// A record that a reader wants, in the three pieces in which the kernel asks for it.
    fn read(cache: &MemoryCache<Value>, n: usize) -> bool {
        let found = cache.get(&id(n)).is_some();
        if !found {
            cache.insert(id(n), Value(1000));
        }
        cache.get(&id(n));
        cache.get(&id(n));
        found
    }

    #[test]
    fn a_value_larger_than_a_quarter_is_not_kept_and_replaces_none() {
        let cache = MemoryCache::new(4000);
        cache.insert(id(1), Value(1000));
        cache.insert(id(2), Value(1001));
        assert_eq!((cache.get(&id(1)), cache.get(&id(2))), (Some(Value(1000)), None));
        cache.insert(id(1), Value(1001));
        assert_eq!((cache.get(&id(1)), cache.used()), (None, 0), "the old value is not the new one");
        assert_eq!((cache.hits(), cache.misses()), (1, 2));
    }

    #[test]
    fn what_is_used_again_survives_what_streams_through() {
        let cache = MemoryCache::new(100_000);
        let mut misses = 0;
        for n in 0..5000 {
            read(&cache, STREAM + n);
            if n % 3 == 0 {
                misses += usize::from(!read(&cache, n / 3 % 25));
            }
        }
        assert!(misses <= 3 * 25, "{misses} of 1667: each of them came in, was noticed and stayed");
    }

    #[test]
    fn what_was_fetched_ahead_is_there_when_it_is_read() {
        let cache = MemoryCache::new(100_000);
        (0..3 * 70).for_each(|n| _ = read(&cache, n % 70));
        for n in 0..2000 {
            cache.insert(id(STREAM + n + 20), Value(1000));
            assert!(n < 20 || read(&cache, STREAM + n), "record {n} left before it was read");
        }
    }

    #[test]
    fn what_is_used_no_more_leaves() {
        let cache = MemoryCache::new(100_000);
        for shift in [0, 1000, 2000] {
            let misses = (0..3000).filter(|n| !read(&cache, shift + n % 60)).count();
            assert!(misses <= 5 * 60, "{misses} of 3000 after {shift}");
        }
    }

    #[test]
    fn asking_whether_it_is_here_is_no_use() {
        let cache = MemoryCache::new(10_000);
        cache.insert(id(0), Value(1000));
        for n in 1..50 {
            cache.contains(&id(0));
            cache.insert(id(n), Value(1000));
        }
        assert!(!cache.contains(&id(0)));
        assert_eq!((cache.hits(), cache.misses()), (0, 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_budget_holds_and_values_are_those_that_were_kept(
            budget in 0..20_000usize, steps in proptest::collection::vec((0..40usize, ENTRY_OVERHEAD..6000, 0..3u8), 1..400),
        ) {
            let cache = MemoryCache::new(budget);
            let mut kept = HashMap::new();
            for (n, weight, action) in steps {
                if action == 0 {
                    cache.insert(id(n), Value(weight));
                    kept.insert(n, weight);
                } else if let Some(found) = cache.get(&id(n)) {
                    prop_assert_eq!(Some(&found.0), kept.get(&n));
                }
                let state = cache.state();
                prop_assert!(state.used() <= budget);
                prop_assert_eq!(state.entries.values().map(|entry| entry.weight).sum::<usize>(), state.used());
                prop_assert_eq!(state.new.ids.len() + state.main.ids.len(), state.entries.len());
                prop_assert!(state.ghosts.len() <= 41 && state.ghosts.len() == state.ghost_set.len());
            }
        }
    }
}
