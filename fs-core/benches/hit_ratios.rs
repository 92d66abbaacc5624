//! How often the memory for records has what is wanted, beside least-recently-used: `cargo bench -p fs-core --bench hit_ratios`.

#![allow(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a table for people"
)]

mod traces;

use fs_core::cache::{MemoryCache, Weight};
use fs_core::id::RecordId;
use lru::LruCache;
use traces::{BUDGET, Policy, TRACES, play};

#[derive(Clone)]
struct Bytes(usize);

impl Weight for Bytes {
    fn weight(&self) -> usize {
        self.0
    }
}

fn id(record: u64) -> RecordId {
    let mut bytes = [0; 32];
    let (head, _) = bytes.split_at_mut(8);
    head.copy_from_slice(&record.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    RecordId::from_bytes(bytes)
}

struct Ours(MemoryCache<Bytes>);

impl Policy for Ours {
    fn get(&mut self, record: u64) -> bool {
        self.0.get(&id(record)).is_some()
    }

    fn insert(&mut self, record: u64, weight: usize) {
        self.0.insert(id(record), Bytes(weight));
    }
}

struct Lru {
    entries: LruCache<RecordId, usize>,
    used: usize,
}

impl Policy for Lru {
    fn get(&mut self, record: u64) -> bool {
        self.entries.get(&id(record)).is_some()
    }

    fn insert(&mut self, record: u64, weight: usize) {
        self.used += weight;
        self.used -= self.entries.put(id(record), weight).unwrap_or(0);
        while self.used > BUDGET {
            self.used -= self.entries.pop_lru().map_or(0, |(_, weight)| weight);
        }
    }
}

fn main() {
    println!("{:34}{:>9}{:>9}", "hits in percent", "ours", "lru");
    for (name, trace) in TRACES {
        let ours = play(&mut Ours(MemoryCache::new(BUDGET)), trace);
        let lru = play(&mut Lru { entries: LruCache::unbounded(), used: 0 }, trace);
        println!("{name:34}{ours:9.1}{lru:9.1}");
    }
}
