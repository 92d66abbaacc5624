//! Where a file is cut into chunks: a pure function of its bytes, the parameters and the repository's key.
//!
//! The table of the rolling hash comes from the key, so that chunk lengths do not tell which known file this is. Layout: docs/FORMAT.md, section 8.

use fastcdc::v2020::{Normalization, cut_gear, select_masks};

use crate::config::ChunkSizes;
use crate::crypto::{self, Key};

/// Cuts by content or into blocks of one size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// By content.
    ByContent,
    /// Every so many bytes.
    Every(u32),
}

/// Cuts files into chunks.
pub struct Chunker {
    sizes: ChunkSizes,
    masks: (u64, u64),
    gear: Box<[u64]>,
    gear_shifted: Box<[u64]>,
}

impl std::fmt::Debug for Chunker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chunker({:?})", self.sizes)
    }
}

impl Chunker {
    /// A chunker with the repository's key and sizes; a `Config` has checked the sizes.
    pub fn new(key: &Key, sizes: ChunkSizes) -> Self {
        let mut stream = [0; 256 * 8];
        crypto::keyed_stream(key, b"gear", &mut stream);
        let (words, _) = stream.as_chunks::<8>();
        let gear: Box<[u64]> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let gear_shifted = gear.iter().map(|word| word << 1).collect();
        Self { sizes, masks: select_masks(sizes.mean as usize, Normalization::Level2), gear, gear_shifted }
    }

    /// Bytes that [`Self::cut`] needs to see, unless the file ends before.
    pub fn window(&self, cut: Cut) -> usize {
        match cut {
            Cut::ByContent => self.sizes.max as usize,
            Cut::Every(size) => size as usize,
        }
    }

    /// Files up to this size are one chunk when cut by content.
    pub fn small(&self) -> u64 {
        self.sizes.small.into()
    }

    /// Length of the chunk that begins `rest`: what follows in the file, at least [`Self::window`] bytes of it or all of it. 0 only for no bytes.
    pub fn cut(&self, cut: Cut, rest: &[u8]) -> usize {
        match cut {
            Cut::Every(size) => rest.len().min(size as usize),
            Cut::ByContent => {
                let ChunkSizes { min, mean, max, .. } = self.sizes;
                let (strict, loose) = self.masks;
                let (min, mean, max) = (min as usize, mean as usize, max as usize);
                cut_gear(rest, min, mean, max, strict, loose, strict << 1, loose << 1, &self.gear, &self.gear_shifted).1
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: ChunkSizes = ChunkSizes { min: 64 << 10, mean: 256 << 10, max: 1 << 20, small: 64 << 10 };

    fn chunker(byte: u8) -> Chunker {
        Chunker::new(&Key::from_bytes([byte; 32]), SIZES)
    }

    fn noise(seed: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        crypto::keyed_stream(&Key::from_bytes([seed; 32]), b"noise", &mut bytes);
        bytes
    }

    fn lengths(chunker: &Chunker, bytes: &[u8]) -> Vec<usize> {
        let (mut rest, mut lengths) = (bytes, Vec::new());
        while !rest.is_empty() {
            let length = chunker.cut(Cut::ByContent, rest);
            lengths.push(length);
            rest = &rest[length..];
        }
        lengths
    }

    /// The algorithm as docs/FORMAT.md states it, one byte at a time.
    fn cut_by_the_book(chunker: &Chunker, rest: &[u8]) -> usize {
        let (strict, loose) = (0x0000_d917_4753_7000, 0x0000_d903_0353_7000);
        let n = rest.len().min(SIZES.max as usize);
        if n <= SIZES.min as usize {
            return n;
        }
        let center = n.min(SIZES.mean as usize);
        let mut hash = 0u64;
        for i in SIZES.min as usize / 2..n / 2 {
            let mask: u64 = if i < center / 2 { strict } else { loose };
            hash = (hash << 2).wrapping_add(chunker.gear[usize::from(rest[2 * i])] << 1);
            if hash & (mask << 1) == 0 {
                return 2 * i;
            }
            hash = hash.wrapping_add(chunker.gear[usize::from(rest[2 * i + 1])]);
            if hash & mask == 0 {
                return 2 * i + 1;
            }
        }
        n
    }

    #[test]
    fn the_library_does_what_the_format_says() {
        let chunker = chunker(1);
        for (seed, length) in [(1, 5_000_001), (2, 3_000_000), (3, 70_000), (4, 65_536), (5, 1)] {
            let bytes = noise(seed, length);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let length = chunker.cut(Cut::ByContent, rest);
                assert_eq!(length, cut_by_the_book(&chunker, rest));
                rest = &rest[length..];
            }
        }
    }

    #[test]
    fn golden_cut_points() {
        let lengths = lengths(&chunker(1), &noise(1, 2_000_000));
        assert_eq!(lengths, GOLDEN);
        assert_ne!(lengths, super::tests::lengths(&chunker(2), &noise(1, 2_000_000)), "another key, other cuts");
    }

    const GOLDEN: &[usize] = &[138_305, 77_533, 316_558, 267_771, 339_382, 323_833, 282_460, 254_158];

    #[test]
    fn an_inserted_byte_changes_few_chunks() {
        let chunker = chunker(3);
        let bytes = noise(9, 8_000_000);
        let mut longer = bytes.clone();
        longer.insert(1000, 7);
        let (old, new) = (lengths(&chunker, &bytes), lengths(&chunker, &longer));
        let same = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
        assert!(old.len() - same <= 3, "{} of {} chunks changed", old.len() - same, old.len());
        let mean = bytes.len() / old.len();
        assert!((150_000..400_000).contains(&mean), "mean {mean}");
    }

    #[test]
    fn blocks_and_bounds() {
        let chunker = chunker(1);
        assert_eq!(chunker.cut(Cut::Every(4096), &[0; 5000]), 4096);
        assert_eq!(chunker.cut(Cut::Every(4096), &[0; 50]), 50);
        assert_eq!(chunker.cut(Cut::ByContent, &vec![0; 3 << 20]), 1 << 20);
        assert_eq!(chunker.cut(Cut::ByContent, &[]), 0);
    }
}
