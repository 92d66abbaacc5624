//! Bytes in and out, with bounds: every decoder of the format stands on this module.
//!
//! Two layers. [`Reader`] and [`Writer`] are for fixed layouts with little-endian integers; [`CborReader`] and [`CborWriter`] for the
//! deterministic CBOR of docs/FORMAT.md, section 1. Both readers take any bytes without panic, and neither allocates for a length
//! that the input merely claims: a count is compared with its limit and with the bytes that are left before anything is reserved.

mod cbor;

pub use cbor::{CborReader, CborWriter, MapWriter};

/// Levels of arrays and maps in each other.
pub const NESTING_MAX: u8 = 8;
/// A padded body is filled up to a multiple of this.
pub const BODY_STEP: usize = 1024;

/// Why bytes do not have the layout that was expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// They end too early.
    #[error("the bytes end too early")]
    TooShort,
    /// Something follows the end.
    #[error("{count} bytes follow the end")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// Filling or a reserved field is not zero.
    #[error("bytes that must be zero are not")]
    NotZero,
    /// A length or count exceeds its limit.
    #[error("a length of {found} exceeds the limit of {limit}")]
    TooLarge {
        /// The limit.
        limit: u64,
        /// What the bytes claim.
        found: u64,
    },
    /// A string or array of a fixed length has another one.
    #[error("a length is {found} instead of {expected}")]
    WrongLength {
        /// The fixed length.
        expected: u64,
        /// What the bytes claim.
        found: u64,
    },
    /// A value has another type.
    #[error("a value is not {expected}")]
    WrongType {
        /// The type that belongs there, with its article.
        expected: &'static str,
    },
    /// An integer does not fit its field.
    #[error("an integer is out of range")]
    OutOfRange,
    /// A length is indefinite.
    #[error("a length is indefinite")]
    Indefinite,
    /// Map keys do not ascend.
    #[error("map keys do not ascend")]
    KeyOrder,
    /// A map lacks a key that it must have.
    #[error("key {key} is missing")]
    KeyMissing {
        /// The key.
        key: u64,
    },
    /// Arrays and maps are nested too deeply.
    #[error("arrays and maps are nested more than {NESTING_MAX} deep")]
    TooDeep,
    /// Not CBOR at all.
    #[error("the bytes are no valid CBOR")]
    Malformed,
}

/// Reads a fixed layout: little-endian integers and runs of bytes, front to back.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Begins at the front of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`WireError::TooShort`], as for all methods below.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(WireError::TooShort)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// If fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(WireError::TooShort)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// One byte.
    ///
    /// # Errors
    /// If none is left.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    /// A 16-bit integer.
    ///
    /// # Errors
    /// If the bytes end before it does.
    pub fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    /// A 32-bit integer.
    ///
    /// # Errors
    /// If the bytes end before it does.
    pub fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    /// A 64-bit integer.
    ///
    /// # Errors
    /// If the bytes end before it does.
    pub fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A 32-bit count of items that take `item_len` bytes each, checked before anything is allocated for them.
    ///
    /// # Errors
    /// [`WireError::TooLarge`] beyond `limit`; [`WireError::TooShort`] if that many items cannot follow.
    pub fn count(&mut self, limit: usize, item_len: usize) -> Result<usize, WireError> {
        let found = self.u32()?;
        let count = check_limit(found.into(), limit)?;
        match count.checked_mul(item_len) {
            Some(length) if length <= self.rest.len() => Ok(count),
            _ => Err(WireError::TooShort),
        }
    }

    /// `count` bytes that must be zero.
    ///
    /// # Errors
    /// [`WireError::NotZero`] if they are not.
    pub fn zeros(&mut self, count: usize) -> Result<(), WireError> {
        check_zero(self.bytes(count)?)
    }

    /// Everything that is left.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Ends: nothing may be left.
    ///
    /// # Errors
    /// [`WireError::TrailingBytes`] otherwise.
    pub fn finish(self) -> Result<(), WireError> {
        check_end(self.rest.len())
    }
}

/// Writes a fixed layout: little-endian integers and runs of bytes.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Begins with nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity) }
    }

    /// Appends bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends one byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    /// Appends a 16-bit integer.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Appends a 32-bit integer.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Appends a 64-bit integer.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Appends `count` zeros.
    pub fn zeros(&mut self, count: usize) -> &mut Self {
        self.bytes.resize(self.bytes.len() + count, 0);
        self
    }

    /// Appends zeros up to the next multiple of `step` bytes.
    pub fn fill(&mut self, step: usize) -> &mut Self {
        let length = self.bytes.len().next_multiple_of(step.max(1));
        self.bytes.resize(length, 0);
        self
    }

    /// How many bytes there are so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are none so far.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Puts the length before `bytes` and zeros behind them up to a multiple of `step` bytes: [`BODY_STEP`] for a padded body.
///
/// Also makes the fields of a key slot, which have one exact length: with that length as `step`, a longer result is too long for the slot.
///
/// # Panics
/// If there are 4 GiB or more; every body has a far lower limit.
pub fn padded_body(bytes: &[u8], step: usize) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("limits of bodies are far below 4 GiB");
    let mut writer = Writer::with_capacity((bytes.len() + 4).next_multiple_of(step.max(1)));
    writer.u32(length).bytes(bytes).fill(step);
    writer.finish()
}

/// The bytes inside a padded body.
///
/// # Errors
/// [`WireError::TooShort`] if the length exceeds the body, [`WireError::NotZero`] if the filling is not zero.
pub fn open_padded_body(body: &[u8]) -> Result<&[u8], WireError> {
    let mut reader = Reader::new(body);
    let length = reader.u32()?;
    let bytes = reader.bytes(usize::try_from(length).map_err(|_| WireError::TooShort)?)?;
    check_zero(reader.rest())?;
    Ok(bytes)
}

/// Rounds a length up to the next Padmé step, which hides all but its highest bits and adds at most 12 %.
///
/// Lengths below 2 stay as they are; beyond the largest step the result is `u64::MAX`.
pub fn padme(length: u64) -> u64 {
    let Some(exponent) = length.checked_ilog2() else { return 0 };
    let Some(significant) = exponent.checked_ilog2() else { return length };
    let step = 1_u64 << exponent.saturating_sub(significant + 1);
    length.checked_next_multiple_of(step).unwrap_or(u64::MAX)
}

/// The next Padmé step, then the next multiple of `step`: for parts of objects, so that small ones do not tell their length either.
pub fn padme_steps(length: usize, step: usize) -> usize {
    usize::try_from(padme(length as u64)).unwrap_or(usize::MAX - step).next_multiple_of(step)
}

/// The value of a map key that must be there.
///
/// # Errors
/// [`WireError::KeyMissing`] for `None`.
pub fn required<T>(value: Option<T>, key: u64) -> Result<T, WireError> {
    value.ok_or(WireError::KeyMissing { key })
}

fn check_limit(found: u64, limit: usize) -> Result<usize, WireError> {
    match usize::try_from(found) {
        Ok(count) if count <= limit => Ok(count),
        _ => Err(WireError::TooLarge { limit: limit as u64, found }),
    }
}

fn check_zero(bytes: &[u8]) -> Result<(), WireError> {
    if bytes.iter().all(|&byte| byte == 0) { Ok(()) } else { Err(WireError::NotZero) }
}

fn check_end(count: usize) -> Result<(), WireError> {
    if count == 0 { Ok(()) } else { Err(WireError::TrailingBytes { count }) }
}

#[cfg(test)]
mod tests;
