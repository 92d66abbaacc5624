//! Rows of local databases, sealed: 24 random bytes, then the row under a key derived from them, tied to its place.

use super::{Key, NONCE_LENGTH, RandomSource, random_array};

const RANDOM_LENGTH: usize = 24;

/// Seals a row under a key of the database; it opens in this place only.
pub fn seal(key: &Key, random: &dyn RandomSource, place: &[u8], plain: &[u8]) -> Vec<u8> {
    let random: [u8; RANDOM_LENGTH] = random_array(random);
    let mut row = [&random[..], plain].concat();
    super::seal(&row_key(key, &random), [0; NONCE_LENGTH], place, &mut row, RANDOM_LENGTH);
    row
}

/// What was sealed; `None` if the row is damaged or of another place.
pub fn open(key: &Key, place: &[u8], mut row: Vec<u8>) -> Option<Vec<u8>> {
    let (random, sealed) = row.split_first_chunk_mut::<RANDOM_LENGTH>()?;
    let key = row_key(key, random);
    Some(super::open(&key, [0; NONCE_LENGTH], place, sealed).ok()?.to_vec())
}

fn row_key(key: &Key, random: &[u8; RANDOM_LENGTH]) -> Key {
    Key::from_bytes(super::keyed_hash(key, &[b"row", random]))
}
