//! What fuzzing found worth keeping, replayed, and simple changes of it: no decoder panics, nor takes for right what does not come back.
//!
//! The corpus is made by `tests/fuzz/run`.

use std::path::Path;

use tests::decoders::{DECODERS, feed};
use tests::driven::is_long;
use tests::noise;

/// Changed forms of one input.
const CHANGES: u64 = 40;
const CHANGES_LONG: u64 = 4000;

#[test]
fn decoders_survive_the_corpus_and_what_is_near_it() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/corpus");
    for (name, _) in DECODERS {
        let inputs: Vec<_> =
            std::fs::read_dir(corpus.join(name)).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect();
        assert!(!inputs.is_empty(), "{name} has no corpus");
        for (number, input) in inputs.iter().enumerate() {
            feed(name, input);
            let other = &inputs[(number + 1) % inputs.len()];
            for seed in 0..if is_long() { CHANGES_LONG } else { CHANGES } {
                feed(name, &changed(input, other, seed));
            }
        }
    }
}

#[test]
fn no_corpus_is_without_its_decoder() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/corpus");
    for folder in std::fs::read_dir(corpus).unwrap() {
        let name = folder.unwrap().file_name().into_string().unwrap();
        assert!(DECODERS.iter().any(|(known, _)| *known == name), "{name}");
    }
}

/// One byte, bit or length changed, or the end of another input behind the beginning of this one.
fn changed(input: &[u8], other: &[u8], seed: u64) -> Vec<u8> {
    let dice = noise(seed, 16);
    let at = u32::from_le_bytes(*dice.first_chunk().unwrap()) as usize % input.len().max(1);
    let mut bytes = input.to_vec();
    match dice[4] % 5 {
        0 if at < bytes.len() => bytes[at] ^= 1 << (dice[5] % 8),
        1 if at < bytes.len() => bytes[at] = [0, 0x7f, 0x80, 0xff, 0x1b, 0x5b, 0x9b, 0xbb][usize::from(dice[5] % 8)],
        2 => bytes.truncate(at),
        3 => bytes.insert(at, dice[5]),
        _ => {
            bytes.truncate(at);
            bytes.extend_from_slice(&other[other.len().min(at)..]);
        }
    }
    bytes
}
