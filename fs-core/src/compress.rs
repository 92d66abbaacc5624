//! Compression with a bound: a record never opens to more than it claims.

use std::cell::RefCell;

use bytes::Bytes;

/// How a record's plaintext is stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Codec {
    /// As it is.
    Raw,
    /// One zstd frame.
    Zstd,
}

impl Codec {
    /// The number in the format.
    pub fn to_byte(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zstd => 1,
        }
    }

    /// The codec of a number in the format; `None` if this version does not know it.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Plaintext that could not be compressed or stored bytes that could not be decompressed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CompressError {
    /// The bytes are no valid frame of exactly the expected length.
    #[error("the compressed bytes do not give {expected} bytes")]
    Damaged {
        /// Expected plaintext length.
        expected: usize,
    },
}

/// How hard file contents are compressed. What says nothing new when compressed is stored as it is under all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Compression {
    /// Not at all.
    None,
    /// Level 1.
    Fast,
    /// Level 2.
    #[default]
    Auto,
    /// Level 15.
    Max,
}

impl Compression {
    /// The zstd level.
    fn level(self) -> Option<i32> {
        match self {
            Self::None => None,
            Self::Fast => Some(1),
            Self::Auto => Some(2),
            Self::Max => Some(15),
        }
    }
}

/// Compresses with one reusable context; one per thread.
pub struct Compressor {
    context: Option<zstd::bulk::Compressor<'static>>,
    packed: Vec<u8>,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Compressor")
    }
}

impl Compressor {
    /// A compressor that tries so hard.
    pub fn new(compression: Compression) -> Self {
        let context = |level| zstd::bulk::Compressor::new(level).expect("zstd has a context for every level");
        Self { context: compression.level().map(context), packed: Vec::new() }
    }

    /// What is stored of a plaintext: compressed if that saves at least 3 %, otherwise itself.
    pub fn compress<'p>(&'p mut self, plain: &'p [u8]) -> (Codec, &'p [u8]) {
        let Some(context) = &mut self.context else { return (Codec::Raw, plain) };
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        match context.compress_to_buffer(plain, &mut self.packed) {
            Ok(length) if length + plain.len().div_ceil(33) <= plain.len() => (Codec::Zstd, &self.packed),
            _ => (Codec::Raw, plain),
        }
    }
}

thread_local! {
    /// Making a context costs more than decompressing a small record.
    static DECOMPRESSOR: RefCell<zstd::bulk::Decompressor<'static>> =
        RefCell::new(zstd::bulk::Decompressor::new().expect("zstd has a context"));
}

/// Decompresses into exactly `plain_len` bytes. Never allocates more; the caller has checked `plain_len` against its limit.
///
/// # Errors
/// [`CompressError::Damaged`] for anything else than exactly that many bytes.
pub fn decompress(codec: Codec, stored: Bytes, plain_len: usize) -> Result<Bytes, CompressError> {
    let plain = match codec {
        Codec::Raw => Some(stored),
        Codec::Zstd => DECOMPRESSOR.with_borrow_mut(|context| context.decompress(&stored, plain_len)).ok().map(Bytes::from),
    };
    plain.filter(|plain| plain.len() == plain_len).ok_or(CompressError::Damaged { expected: plain_len })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_gains_is_compressed() {
        let mut compressor = Compressor::new(Compression::Auto);
        let text = b"the same words again and again ".repeat(100);
        let (codec, packed) = compressor.compress(&text);
        let packed = Bytes::copy_from_slice(packed);
        assert_eq!(codec, Codec::Zstd);
        assert_eq!(decompress(codec, packed.clone(), text.len()).as_deref(), Ok(&text[..]));
        let length = |compression| Compressor::new(compression).compress(&text).1.len();
        assert!(length(Compression::Max) <= length(Compression::Auto) && length(Compression::Fast) < text.len());
        assert_eq!(Compressor::new(Compression::None).compress(&text), (Codec::Raw, &text[..]));
        assert_eq!(compressor.compress(b"x").0, Codec::Raw);
        assert_eq!(compressor.compress(b"").0, Codec::Raw);
        assert!(decompress(codec, packed.clone(), text.len() - 1).is_err());
        assert!(decompress(codec, packed.clone(), text.len() + 1).is_err());
        assert!(decompress(Codec::Zstd, Bytes::from_static(b"no frame"), 8).is_err());
    }
}
