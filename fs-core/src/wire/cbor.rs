//! Deterministic CBOR (docs/FORMAT.md, section 1) over `minicbor`: definite lengths, ascending integer keys, bounded nesting.

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

use super::{NESTING_MAX, WireError, check_end, check_limit};
use crate::time::Timestamp;

/// Reads deterministic CBOR: definite lengths, ascending integer keys, bounded nesting.
///
/// Arrays and maps take a function that is called for each item, so that nesting is counted in one place. Cloning is cheap and starts
/// a second pass at the same place.
#[derive(Clone, Debug)]
pub struct CborReader<'b> {
    decoder: Decoder<'b>,
    pub(super) depth: u8,
}

impl<'b> CborReader<'b> {
    /// Begins at the front of `bytes`.
    pub fn new(bytes: &'b [u8]) -> Self {
        Self { decoder: Decoder::new(bytes), depth: 0 }
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.decoder.input().len().saturating_sub(self.decoder.position())
    }

    /// An unsigned integer.
    ///
    /// # Errors
    /// [`WireError::WrongType`] if something else stands there, [`WireError::TooShort`] at the end: as for all methods below.
    pub fn u64(&mut self) -> Result<u64, WireError> {
        self.decoder.u64().map_err(|error| wire_error(&error, "an unsigned integer"))
    }

    /// An unsigned integer of at most 32 bits.
    ///
    /// # Errors
    /// [`WireError::OutOfRange`] if it is larger.
    pub fn u32(&mut self) -> Result<u32, WireError> {
        u32::try_from(self.u64()?).map_err(|_| WireError::OutOfRange)
    }

    /// An unsigned integer of at most 16 bits.
    ///
    /// # Errors
    /// [`WireError::OutOfRange`] if it is larger.
    pub fn u16(&mut self) -> Result<u16, WireError> {
        u16::try_from(self.u64()?).map_err(|_| WireError::OutOfRange)
    }

    /// An unsigned integer of at most 8 bits.
    ///
    /// # Errors
    /// [`WireError::OutOfRange`] if it is larger.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        u8::try_from(self.u64()?).map_err(|_| WireError::OutOfRange)
    }

    /// A signed integer.
    ///
    /// # Errors
    /// [`WireError::OutOfRange`] if it does not fit 64 bits with their sign.
    pub fn i64(&mut self) -> Result<i64, WireError> {
        let value = self.decoder.int().map_err(|error| wire_error(&error, "an integer"))?;
        i64::try_from(value).map_err(|_| WireError::OutOfRange)
    }

    /// A byte string of at most `limit` bytes.
    ///
    /// # Errors
    /// [`WireError::TooLarge`] if it is longer.
    pub fn bytes(&mut self, limit: usize) -> Result<&'b [u8], WireError> {
        self.refuse_indefinite(Type::BytesIndef)?;
        let bytes = self.decoder.bytes().map_err(|error| wire_error(&error, "a byte string"))?;
        check_limit(bytes.len() as u64, limit)?;
        Ok(bytes)
    }

    /// A byte string of exactly `N` bytes.
    ///
    /// # Errors
    /// [`WireError::WrongLength`] if it has another length.
    pub fn byte_array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let bytes = self.bytes(usize::MAX)?;
        bytes.try_into().map_err(|_| WireError::WrongLength { expected: N as u64, found: bytes.len() as u64 })
    }

    /// A text of at most `limit` bytes.
    ///
    /// # Errors
    /// [`WireError::TooLarge`] if it is longer, [`WireError::Malformed`] if it is not UTF-8.
    pub fn text(&mut self, limit: usize) -> Result<&'b str, WireError> {
        self.refuse_indefinite(Type::StringIndef)?;
        let text = self.decoder.str().map_err(|error| wire_error(&error, "a text"))?;
        check_limit(text.len() as u64, limit)?;
        Ok(text)
    }

    /// A time: `[seconds, nanoseconds]`.
    ///
    /// # Errors
    /// [`WireError::OutOfRange`] for 10⁹ nanoseconds or more.
    pub fn time(&mut self) -> Result<Timestamp, WireError> {
        self.tuple(2, |reader| {
            let seconds = reader.i64()?;
            Timestamp::new(seconds, reader.u32()?).ok_or(WireError::OutOfRange)
        })
    }

    /// Null, or what `read` reads.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn optional<T, E: From<WireError>>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<Option<T>, E> {
        if self.peek()? == Type::Null {
            self.decoder.null().map_err(|error| wire_error(&error, "null"))?;
            return Ok(None);
        }
        read(self).map(Some)
    }

    /// Whether the next value is an array; nothing is consumed.
    ///
    /// # Errors
    /// At the end.
    pub fn at_array(&self) -> Result<bool, WireError> {
        Ok(self.peek()? == Type::Array)
    }

    /// Whether the next value is an unsigned integer; nothing is consumed.
    ///
    /// # Errors
    /// At the end.
    pub fn at_unsigned(&self) -> Result<bool, WireError> {
        Ok(matches!(self.peek()?, Type::U8 | Type::U16 | Type::U32 | Type::U64))
    }

    /// An array of exactly `count` items, all of which `read` reads.
    ///
    /// # Errors
    /// [`WireError::WrongLength`] for another number of items; those of `read`.
    pub fn tuple<T, E: From<WireError>>(&mut self, count: u64, read: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<T, E> {
        self.tuple_of(&[count], |reader, _| read(reader))
    }

    /// An array whose number of items is one of `counts`, all of which `read` reads; it is told how many there are.
    ///
    /// # Errors
    /// [`WireError::WrongLength`] for another number of items; those of `read`.
    pub fn tuple_of<T, E: From<WireError>>(&mut self, counts: &[u64], read: impl FnOnce(&mut Self, u64) -> Result<T, E>) -> Result<T, E> {
        let found = self.array_head()?;
        if !counts.contains(&found) {
            return Err(WireError::WrongLength { expected: counts.last().copied().unwrap_or(0), found }.into());
        }
        self.enter()?;
        let value = read(self, found)?;
        self.leave();
        Ok(value)
    }

    /// An array of at most `limit` items of one shape, each of which `read` reads.
    ///
    /// # Errors
    /// [`WireError::TooLarge`] beyond the limit; those of `read`.
    pub fn array<T, E: From<WireError>>(&mut self, limit: usize, mut read: impl FnMut(&mut Self) -> Result<T, E>) -> Result<Vec<T>, E> {
        let mut items = Vec::new();
        self.each(limit, |reader, count| {
            if items.capacity() == 0 {
                // What is allocated ahead never exceeds the bytes that are there, whatever the count claims.
                items.reserve(count.min(reader.remaining() / size_of::<T>().max(1) + 1));
            }
            items.push(read(reader)?);
            Ok::<_, E>(())
        })?;
        Ok(items)
    }

    /// Like [`Self::array`], but what to do with the items is up to `read`, which is also told their number.
    ///
    /// # Errors
    /// [`WireError::TooLarge`] beyond the limit; those of `read`.
    pub fn each<E: From<WireError>>(&mut self, limit: usize, mut read: impl FnMut(&mut Self, usize) -> Result<(), E>) -> Result<(), E> {
        let count = check_limit(self.array_head()?, limit)?;
        if count > self.remaining() {
            return Err(WireError::TooShort.into());
        }
        self.enter()?;
        for _ in 0..count {
            read(self, count)?;
        }
        self.leave();
        Ok(())
    }

    /// A map with ascending unsigned keys. `read` is called for each key and must consume its value: [`Self::raw`] for an unknown one.
    ///
    /// # Errors
    /// [`WireError::KeyOrder`] for keys that do not ascend; those of `read`.
    pub fn map<E: From<WireError>>(&mut self, mut read: impl FnMut(u64, &mut Self) -> Result<(), E>) -> Result<(), E> {
        self.refuse_indefinite(Type::MapIndef)?;
        let count = self.decoder.map().map_err(|error| wire_error(&error, "a map"))?.ok_or(WireError::Indefinite)?;
        self.enter()?;
        let mut last = None;
        for _ in 0..count {
            let key = self.u64()?;
            if last.is_some_and(|last| key <= last) {
                return Err(WireError::KeyOrder.into());
            }
            last = Some(key);
            let before = self.decoder.position();
            read(key, self)?;
            debug_assert!(self.decoder.position() > before, "the value of key {key} was not consumed");
        }
        self.leave();
        Ok(())
    }

    /// The bytes of one value of any shape, checked to be deterministic CBOR within the nesting limit.
    ///
    /// # Errors
    /// [`WireError::WrongType`] for floats, tags and other things that the format does not use.
    pub fn raw(&mut self) -> Result<&'b [u8], WireError> {
        let begin = self.decoder.position();
        self.skip()?;
        self.decoder.input().get(begin..self.decoder.position()).ok_or(WireError::TooShort)
    }

    /// Passes over one value, checked like [`Self::raw`].
    ///
    /// # Errors
    /// Those of [`Self::raw`].
    pub fn skip(&mut self) -> Result<(), WireError> {
        let no_value = |error: minicbor::decode::Error| wire_error(&error, "a value");
        match self.peek()? {
            Type::U8 | Type::U16 | Type::U32 | Type::U64 | Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::Int => {
                self.decoder.int().map_err(no_value).map(drop)
            }
            Type::Bytes => self.decoder.bytes().map_err(no_value).map(drop),
            Type::String => self.decoder.str().map_err(no_value).map(drop),
            Type::Bool => self.decoder.bool().map_err(no_value).map(drop),
            Type::Null => self.decoder.null().map_err(no_value),
            Type::Array => self.each(usize::MAX, |reader, _| reader.skip()),
            Type::Map => self.map(|_, reader| reader.skip()),
            Type::BytesIndef | Type::StringIndef | Type::ArrayIndef | Type::MapIndef => Err(WireError::Indefinite),
            _ => Err(WireError::WrongType { expected: "an integer, a string, an array, a map, a truth value or null" }),
        }
    }

    /// Ends: nothing may be left.
    ///
    /// # Errors
    /// [`WireError::TrailingBytes`] otherwise.
    pub fn finish(self) -> Result<(), WireError> {
        check_end(self.remaining())
    }

    fn peek(&self) -> Result<Type, WireError> {
        self.decoder.datatype().map_err(|error| wire_error(&error, "a value"))
    }

    fn refuse_indefinite(&self, indefinite: Type) -> Result<(), WireError> {
        if self.peek()? == indefinite { Err(WireError::Indefinite) } else { Ok(()) }
    }

    fn array_head(&mut self) -> Result<u64, WireError> {
        self.decoder.array().map_err(|error| wire_error(&error, "an array"))?.ok_or(WireError::Indefinite)
    }

    fn enter(&mut self) -> Result<(), WireError> {
        if self.depth >= NESTING_MAX {
            return Err(WireError::TooDeep);
        }
        self.depth += 1;
        Ok(())
    }

    fn leave(&mut self) {
        self.depth -= 1;
    }
}

/// Writes deterministic CBOR.
///
/// An array or tuple is its head ([`Self::array`]) followed by exactly that many values. A map counts its keys itself.
#[derive(Clone, Debug)]
pub struct CborWriter {
    encoder: Encoder<Vec<u8>>,
}

/// Writing into a vector has no way to fail.
const NEVER_FAILS: &str = "writing to memory does not fail";

impl Default for CborWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl CborWriter {
    /// Begins with nothing.
    pub fn new() -> Self {
        Self { encoder: Encoder::new(Vec::new()) }
    }

    /// Appends an unsigned integer.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.encoder.u64(value).expect(NEVER_FAILS);
        self
    }

    /// Appends a signed integer.
    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.encoder.i64(value).expect(NEVER_FAILS);
        self
    }

    /// Appends a byte string.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.encoder.bytes(bytes).expect(NEVER_FAILS);
        self
    }

    /// Appends a text.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.encoder.str(text).expect(NEVER_FAILS);
        self
    }

    /// Appends null.
    pub fn null(&mut self) -> &mut Self {
        self.encoder.null().expect(NEVER_FAILS);
        self
    }

    /// Appends a time.
    pub fn time(&mut self, time: Timestamp) -> &mut Self {
        self.array(2).i64(time.seconds()).u64(time.nanos().into())
    }

    /// Appends what `write` writes, or null.
    pub fn optional<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) -> &mut Self {
        match value {
            Some(value) => write(self, value),
            None => {
                self.null();
            }
        }
        self
    }

    /// Appends the head of an array; `count` values must follow.
    pub fn array(&mut self, count: usize) -> &mut Self {
        self.encoder.array(count as u64).expect(NEVER_FAILS);
        self
    }

    /// Appends a whole array: `write` is called for each item.
    pub fn array_of<T>(&mut self, items: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>, mut write: impl FnMut(&mut Self, T)) {
        let items = items.into_iter();
        self.array(items.len());
        items.for_each(|item| write(self, item));
    }

    /// Appends a map of the keys that `write` writes, in ascending order.
    pub fn map(&mut self, write: impl FnOnce(&mut MapWriter<'_>)) -> &mut Self {
        let begin = self.len();
        // Nearly every map has fewer than 24 keys, so its head is this one byte; otherwise the rest is moved once.
        self.encoder.map(0).expect(NEVER_FAILS);
        let mut map = MapWriter { writer: self, count: 0, last: None };
        write(&mut map);
        let count = map.count;
        let mut head = Self::new();
        head.encoder.map(count).expect(NEVER_FAILS);
        self.encoder.writer_mut().splice(begin..=begin, head.finish());
        self
    }

    /// Appends one value that is CBOR already.
    pub fn raw(&mut self, value: &[u8]) -> &mut Self {
        self.encoder.writer_mut().extend_from_slice(value);
        self
    }

    /// How many bytes there are so far.
    pub fn len(&self) -> usize {
        self.encoder.writer().len()
    }

    /// Whether there are none so far.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes back everything after the first `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        self.encoder.writer_mut().truncate(length);
    }

    /// The bytes so far.
    pub fn as_bytes(&self) -> &[u8] {
        self.encoder.writer()
    }

    /// The bytes.
    pub fn finish(self) -> Vec<u8> {
        self.encoder.into_writer()
    }
}

/// Writes the keys of one map; see [`CborWriter::map`].
#[derive(Debug)]
pub struct MapWriter<'w> {
    writer: &'w mut CborWriter,
    count: u64,
    last: Option<u64>,
}

impl MapWriter<'_> {
    /// Appends a key; exactly one value must be written to the result. Keys ascend.
    pub fn key(&mut self, key: u64) -> &mut CborWriter {
        debug_assert!(self.last.is_none_or(|last| last < key), "key {key} does not ascend");
        self.last = Some(key);
        self.count += 1;
        self.writer.u64(key)
    }

    /// Appends a key if it has a value.
    pub fn optional<T>(&mut self, key: u64, value: Option<T>, write: impl FnOnce(&mut CborWriter, T)) {
        if let Some(value) = value {
            write(self.key(key), value);
        }
    }
}

fn wire_error(error: &minicbor::decode::Error, expected: &'static str) -> WireError {
    if error.is_end_of_input() {
        WireError::TooShort
    } else if error.is_type_mismatch() {
        WireError::WrongType { expected }
    } else {
        WireError::Malformed
    }
}
