//! Numbers that follow from a seed, the same on every machine.

use fs_core::crypto::{Key, keyed_hash};

/// Draws numbers.
#[derive(Debug)]
pub struct Draw {
    key: Key,
    count: u64,
}

impl Draw {
    /// Begins a sequence.
    pub fn new(seed: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = seed.to_le_bytes();
        let mut key = [0; 32];
        key.iter_mut().zip([a, b, c, d, e, f, g, h]).for_each(|(byte, of_seed)| *byte = of_seed);
        Self { key: Key::from_bytes(key), count: 0 }
    }

    /// A number below a bound, each as likely as the others to within one in 2⁶⁴; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.count += 1;
        let [a, b, c, d, e, f, g, h, ..] = keyed_hash(&self.key, &[&self.count.to_le_bytes()]);
        let drawn = u128::from(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
        u64::try_from((drawn * u128::from(bound)) >> 64).unwrap_or(0)
    }
}
