//! Bounded reading and writing of bytes: every decoder stands on this.
//!
//! Nothing here panics on any input, and nothing is allocated by a length that the input merely claims. CBOR is read strictly: definite
//! lengths, maps with ascending unsigned keys. Layout: docs/FORMAT.md, section 1.

use minicbor::data::Type;

use crate::time::Timestamp;

/// Deepest nesting of CBOR that is skipped over.
const NESTING_MAX: u32 = 8;
/// Padded bodies are filled to a multiple of this.
pub const BODY_STEP: usize = 1024;

/// Bytes that do not decode.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
pub enum WireError {
    /// The input ends too early.
    #[error("it ends too early")]
    TooShort,
    /// The input goes on after its end.
    #[error("bytes follow after the end")]
    TrailingBytes,
    /// Filling that is not zero.
    #[error("its filling is not zero")]
    NotZero,
    /// A length beyond its limit.
    #[error("{what} is longer than {limit}")]
    TooLarge {
        /// What is too long.
        what: &'static str,
        /// How long it may be.
        limit: usize,
    },
    /// CBOR of another type or form than the format wants.
    #[error("{0} has another form")]
    Form(&'static str),
    /// A key that the format requires is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
}

/// Reads little-endian fields from the front of a slice.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the beginning of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `length` bytes.
    ///
    /// # Errors
    /// [`WireError::TooShort`], like all methods here.
    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(WireError::TooShort)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// [`WireError::TooShort`].
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or(WireError::TooShort)?;
        self.rest = rest;
        Ok(*bytes)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`WireError::TooShort`].
    pub fn u8(&mut self) -> Result<u8, WireError> {
        self.array().map(u8::from_le_bytes)
    }

    /// A u16.
    ///
    /// # Errors
    /// [`WireError::TooShort`].
    pub fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    /// A u32.
    ///
    /// # Errors
    /// [`WireError::TooShort`].
    pub fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    /// A u64.
    ///
    /// # Errors
    /// [`WireError::TooShort`].
    pub fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

/// `u32 length ‖ bytes ‖ zeros` up to a multiple of [`BODY_STEP`].
///
/// # Panics
/// If there are 4 GiB or more: no body is.
pub fn padded_body(bytes: &[u8]) -> Vec<u8> {
    let length = 4 + bytes.len();
    let mut body = Vec::with_capacity(length.next_multiple_of(BODY_STEP));
    body.extend_from_slice(&u32::try_from(bytes.len()).expect("a body is far below 4 GiB").to_le_bytes());
    body.extend_from_slice(bytes);
    body.resize(length.next_multiple_of(BODY_STEP), 0);
    body
}

/// The bytes of a body filled with zeros, whatever it was filled up to.
///
/// # Errors
/// [`WireError`] if the length does not fit or the filling is not zero.
pub fn open_padded_body(body: &[u8]) -> Result<&[u8], WireError> {
    let mut reader = Reader::new(body);
    let length = reader.u32()? as usize;
    let bytes = reader.bytes(length)?;
    if reader.rest().iter().all(|&b| b == 0) { Ok(bytes) } else { Err(WireError::NotZero) }
}

/// The next Padmé step: `length` rounded up so that only the top bits of its exponent and mantissa show.
pub fn padme(length: u64) -> u64 {
    if length < 2 {
        return length;
    }
    let exponent = length.ilog2();
    let kept = exponent.ilog2() + 1;
    length.next_multiple_of(1 << exponent.saturating_sub(kept))
}

/// Reads a CBOR item strictly. A thin layer over `minicbor` that names what it was reading when something is wrong.
#[derive(Debug, Clone)]
pub struct Cbor<'a> {
    decoder: minicbor::Decoder<'a>,
}

impl<'a> Cbor<'a> {
    /// A reader at the beginning of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { decoder: minicbor::Decoder::new(bytes) }
    }

    /// Bytes left.
    pub fn remaining(&self) -> usize {
        self.decoder.input().len().saturating_sub(self.decoder.position())
    }

    /// An unsigned integer that fits `T`.
    ///
    /// # Errors
    /// [`WireError::Form`], like all methods here.
    pub fn uint<T: TryFrom<u64>>(&mut self, what: &'static str) -> Result<T, WireError> {
        let value = self.decoder.u64().map_err(|_| WireError::Form(what))?;
        T::try_from(value).map_err(|_| WireError::Form(what))
    }

    /// A signed integer.
    ///
    /// # Errors
    /// [`WireError::Form`].
    pub fn int(&mut self, what: &'static str) -> Result<i64, WireError> {
        self.decoder.i64().map_err(|_| WireError::Form(what))
    }

    /// A byte string of at most `limit` bytes.
    ///
    /// # Errors
    /// [`WireError::Form`] or [`WireError::TooLarge`].
    pub fn bytes(&mut self, what: &'static str, limit: usize) -> Result<&'a [u8], WireError> {
        let bytes = self.decoder.bytes().map_err(|_| WireError::Form(what))?;
        if bytes.len() > limit { Err(WireError::TooLarge { what, limit }) } else { Ok(bytes) }
    }

    /// A byte string of exactly `N` bytes.
    ///
    /// # Errors
    /// [`WireError::Form`].
    pub fn array_of<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], WireError> {
        self.bytes(what, N)?.try_into().map_err(|_| WireError::Form(what))
    }

    /// Text of at most `limit` bytes.
    ///
    /// # Errors
    /// [`WireError::Form`] or [`WireError::TooLarge`].
    pub fn text(&mut self, what: &'static str, limit: usize) -> Result<String, WireError> {
        let text = self.decoder.str().map_err(|_| WireError::Form(what))?;
        if text.len() > limit { Err(WireError::TooLarge { what, limit }) } else { Ok(text.to_owned()) }
    }

    /// The length of an array that begins here, at most `limit` and at most what the bytes left can hold.
    ///
    /// # Errors
    /// [`WireError::Form`] or [`WireError::TooLarge`].
    pub fn array(&mut self, what: &'static str, limit: usize) -> Result<usize, WireError> {
        let length = self.decoder.array().ok().flatten().ok_or(WireError::Form(what))?;
        let length = usize::try_from(length).map_err(|_| WireError::Form(what))?;
        if length > limit {
            return Err(WireError::TooLarge { what, limit });
        }
        if length > self.remaining() { Err(WireError::TooShort) } else { Ok(length) }
    }

    /// An array of exactly `length` items begins here.
    ///
    /// # Errors
    /// [`WireError::Form`].
    pub fn tuple(&mut self, what: &'static str, length: usize) -> Result<(), WireError> {
        if self.array(what, length)? == length { Ok(()) } else { Err(WireError::Form(what)) }
    }

    /// An array of at most `limit` items, each read by `item`.
    ///
    /// # Errors
    /// Those of the array and of its items.
    pub fn list<T, E: From<WireError>>(
        &mut self,
        what: &'static str,
        limit: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, E>,
    ) -> Result<Vec<T>, E> {
        let length = self.array(what, limit)?;
        (0..length).map(|_| item(self)).collect()
    }

    /// A time.
    ///
    /// # Errors
    /// [`WireError::Form`].
    pub fn time(&mut self, what: &'static str) -> Result<Timestamp, WireError> {
        self.tuple(what, 2)?;
        let seconds = self.int(what)?;
        Timestamp::new(seconds, self.uint(what)?).ok_or(WireError::Form(what))
    }

    /// `None` for null, else what `item` reads.
    ///
    /// # Errors
    /// Those of the item.
    pub fn optional<T, E: From<WireError>>(&mut self, item: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<Option<T>, E> {
        if self.peek() == Some(Type::Null) {
            self.decoder.null().map_err(|_| WireError::Form("null"))?;
            return Ok(None);
        }
        item(self).map(Some)
    }

    /// The type of the next item; `None` at the end.
    pub fn peek(&self) -> Option<Type> {
        self.decoder.datatype().ok()
    }

    /// A map with ascending unsigned keys begins here: calls `field` with each key. `field` says whether it knew the key and read the value; the encoded
    /// values of unknown keys are returned.
    ///
    /// # Errors
    /// [`WireError::Form`], and those of `field`.
    pub fn map<E: From<WireError>>(
        &mut self,
        what: &'static str,
        mut field: impl FnMut(&mut Self, u64) -> Result<bool, E>,
    ) -> Result<Vec<(u64, Vec<u8>)>, E> {
        let length = self.decoder.map().ok().flatten().ok_or(WireError::Form(what))?;
        let mut unknown = Vec::new();
        let mut last = None;
        for _ in 0..length {
            let key: u64 = self.uint(what)?;
            if last.is_some_and(|last| key <= last) {
                return Err(WireError::Form(what).into());
            }
            last = Some(key);
            if !field(self, key)? {
                unknown.push((key, self.skip(what)?.to_vec()));
            }
        }
        Ok(unknown)
    }

    /// Skips one item of any type and returns its bytes.
    ///
    /// # Errors
    /// [`WireError::Form`] if it is malformed, indefinite or nested too deeply.
    pub fn skip(&mut self, what: &'static str) -> Result<&'a [u8], WireError> {
        let start = self.decoder.position();
        self.skip_nested(what, 0)?;
        self.decoder.input().get(start..self.decoder.position()).ok_or(WireError::Form(what))
    }

    /// Nothing may follow.
    ///
    /// # Errors
    /// [`WireError::TrailingBytes`].
    pub fn finish(&self) -> Result<(), WireError> {
        if self.remaining() == 0 { Ok(()) } else { Err(WireError::TrailingBytes) }
    }

    fn skip_nested(&mut self, what: &'static str, depth: u32) -> Result<(), WireError> {
        let form = |_| WireError::Form(what);
        if depth > NESTING_MAX {
            return Err(WireError::TooLarge { what: "nesting", limit: NESTING_MAX as usize });
        }
        match self.peek() {
            Some(Type::Array) => {
                for _ in 0..self.array(what, usize::MAX)? {
                    self.skip_nested(what, depth + 1)?;
                }
                Ok(())
            }
            Some(Type::Map) => {
                let length = self.decoder.map().map_err(form)?.ok_or(WireError::Form(what))?;
                for _ in 0..length {
                    self.skip_nested(what, depth + 1)?;
                    self.skip_nested(what, depth + 1)?;
                }
                Ok(())
            }
            Some(Type::ArrayIndef | Type::MapIndef | Type::BytesIndef | Type::StringIndef | Type::Break | Type::Tag) | None => {
                Err(WireError::Form(what))
            }
            Some(_) => self.decoder.skip().map_err(form),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padded_bodies_round_trip_and_show_tampering() {
        for length in [0, 1, 1019, 1020, 1021, 5000] {
            let bytes = vec![7; length];
            let body = padded_body(&bytes);
            assert_eq!(body.len() % BODY_STEP, 0);
            assert_eq!(open_padded_body(&body), Ok(&bytes[..]));
        }
        let mut body = padded_body(b"x");
        *body.last_mut().unwrap() = 1;
        assert_eq!(open_padded_body(&body), Err(WireError::NotZero));
        assert_eq!(open_padded_body(&[255; 8]), Err(WireError::TooShort));
        assert_eq!(open_padded_body(&[0; 3]), Err(WireError::TooShort));
    }

    #[test]
    fn padme_steps() {
        for (length, step) in [(0, 0), (1, 1), (8, 8), (9, 10), (1000, 1024), (33_000_000, 33_030_144), (33_554_433, 34_603_008)] {
            assert_eq!(padme(length), step, "{length}");
            assert_eq!(padme(step), step, "steps stay");
        }
    }

    #[test]
    fn claimed_lengths_allocate_nothing() {
        let huge = [0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert!(Cbor::new(&huge).list("list", usize::MAX, |c| c.uint::<u8>("item")).is_err());
        assert!(Cbor::new(&huge).skip("item").is_err());
        let map = [0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert!(Cbor::new(&map).map::<WireError>("map", |_, _| Ok(false)).is_err());
    }

    #[test]
    fn maps_are_strict_and_keep_what_they_do_not_know() {
        let read = |bytes: &[u8]| {
            let mut known = None;
            let unknown = Cbor::new(bytes).map::<WireError>("map", |cbor, key| {
                if key == 1 {
                    known = Some(cbor.uint::<u8>("one")?);
                }
                Ok(key == 1)
            });
            (known, unknown)
        };
        assert_eq!(read(&[0xa2, 1, 5, 9, 0x82, 1, 2]), (Some(5), Ok(vec![(9, vec![0x82, 1, 2])])));
        assert!(read(&[0xa2, 9, 0, 1, 5]).1.is_err(), "keys must ascend");
        assert!(read(&[0xa2, 1, 5, 1, 5]).1.is_err(), "keys must not repeat");
        assert!(read(&[0xbf, 1, 5, 0xff]).1.is_err(), "no indefinite lengths");
        assert!(read(&[0xa1, 9, 0x9f, 0xff]).1.is_err(), "no indefinite lengths inside");
        assert!(read(&[[0x81; 20].as_slice(), &[0]].concat()).1.is_err());
        let deep = [&[0xa1, 9][..], &[0x81; 20], &[0]].concat();
        assert!(read(&deep).1.is_err(), "nesting is bounded");
    }

    #[test]
    fn any_bytes_are_read_without_panic() {
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                for tail in [&[][..], &[0], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]] {
                    let bytes = [&[a, b], tail].concat();
                    let _ = Cbor::new(&bytes).skip("any");
                    let _ = Cbor::new(&bytes).time("any");
                    let _ = Cbor::new(&bytes).map::<WireError>("any", |_, _| Ok(false));
                }
            }
        }
    }
}
