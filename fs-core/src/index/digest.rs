//! Set digests: what entries amount to, whatever their order and however they are split into shards.
//!
//! A merge proves by them that nothing was lost: what it wrote amounts to the sum of what it read without what it left out.

/// A sum modulo 2^256 over entries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct SetDigest([u64; 4]);

impl SetDigest {
    /// What one entry amounts to.
    pub(super) fn from_bytes(bytes: &[u8; 32]) -> Self {
        let mut digest = Self::default();
        for (digit, limb) in digest.0.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *digit = u64::from_le_bytes(*limb);
        }
        digest
    }

    /// As it stands in a shard.
    pub(super) fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (limb, digit) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(self.0) {
            *limb = digit.to_le_bytes();
        }
        bytes
    }

    /// Adds what other entries amount to.
    pub fn add(&mut self, other: Self) {
        self.combine(other, u64::overflowing_add);
    }

    /// Takes away what some of the entries amount to.
    pub fn remove(&mut self, other: Self) {
        self.combine(other, u64::overflowing_sub);
    }

    fn combine(&mut self, other: Self, step: impl Fn(u64, u64) -> (u64, bool)) {
        let mut carry = false;
        for (digit, limb) in self.0.iter_mut().zip(other.0) {
            let (partial, first) = step(*digit, limb);
            let (total, second) = step(partial, u64::from(carry));
            (*digit, carry) = (total, first || second);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto;

    #[test]
    fn what_was_added_can_be_taken_away_in_any_order() {
        let terms: Vec<_> = (0..100u32).map(|n| SetDigest::from_bytes(&crypto::hash(&n.to_le_bytes()))).collect();
        let mut all = SetDigest::default();
        terms.iter().for_each(|term| all.add(*term));
        let mut backwards = SetDigest::default();
        terms.iter().rev().for_each(|term| backwards.add(*term));
        assert_eq!(all, backwards);
        assert_eq!(SetDigest::from_bytes(&all.to_bytes()), all);
        terms.iter().skip(1).for_each(|term| all.remove(*term));
        assert_eq!(all, terms[0]);
        all.remove(terms[0]);
        assert_eq!(all, SetDigest::default());
        // Carries run through all digits, both ways.
        let (one, most) = (SetDigest([1, 0, 0, 0]), SetDigest([u64::MAX; 4]));
        all.remove(one);
        assert_eq!(all, most);
        all.add(one);
        assert_eq!(all, SetDigest::default());
    }
}
