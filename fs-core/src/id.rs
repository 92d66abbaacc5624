//! Identifiers: newtypes over fixed-size bytes, so that two of them can never be swapped by accident.
//!
//! Inside the program they are bytes; they become hexadecimal only here, when shown to a person or put into an object name.

use std::fmt;
use std::str::FromStr;

/// Text that was meant to be an identifier and is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{text}' is not {digits} hexadecimal digits")]
pub struct IdError {
    /// What was given.
    pub text: String,
    /// How many digits this kind of identifier has.
    pub digits: usize,
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $length:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $length]);

        impl $name {
            /// Length in bytes.
            pub const LENGTH: usize = $length;

            /// Wraps raw bytes.
            pub const fn from_bytes(bytes: [u8; $length]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; $length] {
                &self.0
            }

            /// Takes a slice of exactly [`Self::LENGTH`] bytes; `None` for any other length.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                Some(Self(bytes.try_into().ok()?))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = [0; $length];
                parse_hex(text, &mut bytes).ok_or_else(|| IdError { text: text.into(), digits: 2 * $length })?;
                Ok(Self(bytes))
            }
        }
    };
}

identifier!(
    /// Names a record: keyed BLAKE3 of its plaintext.
    RecordId, 32
);
identifier!(
    /// Names an object by its content: BLAKE3 of all its bytes.
    ObjectHash, 32
);
identifier!(
    /// Names a snapshot: the hash of its manifest object.
    SnapshotId, 32
);
identifier!(
    /// Names a pack; random, repeated in the pack's header.
    PackId, 16
);
identifier!(
    /// Names a key slot; random.
    KeyId, 16
);
identifier!(
    /// Names a repository; random, in every object's header.
    RepositoryId, 16
);
identifier!(
    /// Names a device that writes; random. All zeros stands for the root key as a signer.
    DeviceId, 16
);
identifier!(
    /// Names one writing session of a device; random.
    SessionId, 16
);
identifier!(
    /// Names what was forgotten, or undone, at once; random.
    RunId, 16
);

impl DeviceId {
    /// The signer that is no device: the repository's root key.
    pub const ROOT: Self = Self([0; 16]);
}

impl RecordId {
    /// The first eight bytes as a number, for fences and hash tables.
    pub fn prefix(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

impl From<ObjectHash> for SnapshotId {
    fn from(hash: ObjectHash) -> Self {
        Self(hash.0)
    }
}

impl From<SnapshotId> for ObjectHash {
    fn from(id: SnapshotId) -> Self {
        Self(id.0)
    }
}

impl SnapshotId {
    /// Sixteen digits: enough to tell snapshots apart on a screen.
    pub fn short(&self) -> String {
        let (first, _) = self.0.split_at(8);
        to_hex(first)
    }
}

/// Lower-case hexadecimal of any bytes.
pub fn to_hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from(if n < 10 { b'0' + n } else { b'a' + n - 10 });
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Bytes of an even number of hexadecimal digits; `None` for anything else. Only lower case: a name has one spelling.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let mut bytes = vec![0; text.len() / 2];
    parse_hex(text, &mut bytes)?;
    Some(bytes)
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    f.write_str(&to_hex(bytes))
}

fn parse_hex(text: &str, bytes: &mut [u8]) -> Option<()> {
    if text.len() != 2 * bytes.len() {
        return None;
    }
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let (pairs, _) = text.as_bytes().as_chunks::<2>();
    for (byte, &[high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let id = PackId::from_bytes(*b"\x00\x01\x7f\x80\xff56789abcdef");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(from_hex(&to_hex(b"any length")).as_deref(), Some(&b"any length"[..]));
    }

    #[test]
    fn one_spelling_only() {
        assert!("AB".repeat(16).parse::<PackId>().is_err());
        assert!("ab".repeat(15).parse::<PackId>().is_err());
        assert!("äb".repeat(16).parse::<PackId>().is_err());
        assert_eq!(from_hex("abc"), None);
    }
}
