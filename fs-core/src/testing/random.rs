//! Randomness from a seed: the same bytes in every run, for tests only.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::crypto::{self, Key, RandomSource};

/// A generator with a seed.
#[derive(Debug)]
pub struct SeededRandom {
    seed: u64,
    calls: AtomicU64,
}

impl SeededRandom {
    /// A generator that gives the same bytes to the same sequence of calls.
    pub fn shared(seed: u64) -> Arc<Self> {
        Arc::new(Self { seed, calls: AtomicU64::new(0) })
    }
}

impl RandomSource for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let key = Key::from_bytes(crypto::hash(&self.seed.to_le_bytes()));
        crypto::keyed_stream(&key, &call.to_le_bytes(), bytes);
    }
}
