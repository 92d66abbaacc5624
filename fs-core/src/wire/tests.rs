use proptest::prelude::*;

use super::*;
use crate::time::Timestamp;

#[test]
fn a_fixed_layout_returns() {
    let mut writer = Writer::new();
    writer.u8(7).u16(0x0102).u32(3).u64(u64::MAX).bytes(b"abc").zeros(2).fill(8);
    let bytes = writer.finish();
    assert_eq!(bytes.len(), 24);
    let mut reader = Reader::new(&bytes);
    assert_eq!((reader.u8(), reader.u16(), reader.u32(), reader.u64()), (Ok(7), Ok(0x0102), Ok(3), Ok(u64::MAX)));
    assert_eq!(reader.bytes(3), Ok(&b"abc"[..]));
    assert_eq!(reader.zeros(2), Ok(()));
    assert_eq!(reader.clone().finish(), Err(WireError::TrailingBytes { count: 4 }));
    assert_eq!(reader.array::<5>(), Err(WireError::TooShort));
    assert_eq!(reader.rest(), [0; 4]);
}

#[test]
fn a_claimed_count_is_checked_before_anything_is_allocated() {
    let claim = [0xff, 0xff, 0xff, 0x7f, 1, 2];
    assert_eq!(Reader::new(&claim).count(100, 1), Err(WireError::TooLarge { limit: 100, found: 0x7fff_ffff }));
    assert_eq!(Reader::new(&claim).count(usize::MAX, 1), Err(WireError::TooShort));
    assert_eq!(Reader::new(&[2, 0, 0, 0, 1, 2]).count(2, 1), Ok(2));
    // An array head of 2⁶⁰ items.
    let claim = [0x9b, 0x10, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(CborReader::new(&claim).array(usize::MAX, |r| r.u64()), Err(WireError::TooShort));
    assert_eq!(CborReader::new(&claim).raw(), Err(WireError::TooShort));
    let claim = [0x5b, 0x10, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(CborReader::new(&claim).bytes(usize::MAX), Err(WireError::TooShort));
}

#[test]
fn a_padded_body_opens_only_with_zeros_behind_it() {
    for length in [0, 1, 1019, 1020, 1021, 5000] {
        let bytes = vec![0xab; length];
        let mut body = padded_body(&bytes, BODY_STEP);
        assert_eq!(body.len(), (length + 4).next_multiple_of(1024));
        assert_eq!(open_padded_body(&body), Ok(&bytes[..]));
        if length + 4 < body.len() {
            *body.last_mut().unwrap() = 1;
            assert_eq!(open_padded_body(&body), Err(WireError::NotZero));
        }
    }
    assert_eq!(open_padded_body(&[5, 0, 0, 0, 1]), Err(WireError::TooShort));
    assert_eq!(open_padded_body(&[0, 0, 0]), Err(WireError::TooShort));
    assert_eq!(padded_body(b"label", 240).len(), 240);
}

#[test]
fn padme_steps() {
    for (length, padded) in
        [(0, 0), (1, 1), (2, 2), (7, 7), (8, 8), (9, 10), (15, 16), (100, 104), (1 << 20, 1 << 20), ((1 << 20) + 1, (1 << 20) + (1 << 15))]
    {
        assert_eq!(padme(length), padded, "{length}");
    }
    assert_eq!(padme(u64::MAX), u64::MAX);
}

#[test]
fn a_map_counts_its_keys() {
    for count in [0_u64, 1, 23, 24, 300] {
        let mut writer = CborWriter::new();
        writer.map(|map| {
            (0..count).for_each(|key| {
                map.key(key).u64(key * 2);
            })
        });
        let bytes = writer.finish();
        let mut reader = CborReader::new(&bytes);
        let mut seen = 0;
        let result = reader.map(|key, reader| {
            assert_eq!((key, reader.u64()?), (seen, seen * 2));
            seen += 1;
            Ok::<_, WireError>(())
        });
        assert_eq!((result, seen, reader.finish()), (Ok(()), count, Ok(())));
    }
}

#[test]
fn what_is_not_deterministic_is_refused() {
    let raw = |bytes: &[u8]| CborReader::new(bytes).raw().map(<[u8]>::to_vec);
    assert_eq!(raw(&[0xa2, 1, 0, 1, 0]), Err(WireError::KeyOrder), "a key twice");
    assert_eq!(raw(&[0xa2, 2, 0, 1, 0]), Err(WireError::KeyOrder), "keys descend");
    assert_eq!(raw(&[0xa1, 0x61, b'a', 0]), Err(WireError::WrongType { expected: "an unsigned integer" }), "a text as key");
    for indefinite in [&[0x9f, 0xff][..], &[0xbf, 0xff], &[0x5f, 0xff], &[0x7f, 0xff]] {
        assert_eq!(raw(indefinite), Err(WireError::Indefinite), "{indefinite:x?}");
    }
    assert_eq!(CborReader::new(&[0x5f, 0x41, 0, 0xff]).bytes(9), Err(WireError::Indefinite));
    assert_eq!(CborReader::new(&[0xbf, 0xff]).map(|_, r| r.skip()), Err(WireError::Indefinite));
    assert!(matches!(raw(&[0xf9, 0, 0]), Err(WireError::WrongType { .. })), "a float");
    assert!(matches!(raw(&[0xc1, 0]), Err(WireError::WrongType { .. })), "a tag");
    assert_eq!(raw(&[0x62, 0xff, 0xff]), Err(WireError::Malformed), "a text that is not UTF-8");
}

#[test]
fn nesting_ends_at_the_limit() {
    let nested = |levels: usize| [vec![0x81; levels], vec![0]].concat();
    assert!(CborReader::new(&nested(8)).raw().is_ok());
    assert_eq!(CborReader::new(&nested(9)).raw(), Err(WireError::TooDeep));
    assert_eq!(CborReader::new(&nested(1_000_000)).raw(), Err(WireError::TooDeep));
    // Siblings do not add up.
    let mut reader = CborReader::new(&[0x81, 0, 0x81, 0]);
    assert_eq!((reader.skip(), reader.skip(), reader.depth), (Ok(()), Ok(()), 0));
}

#[test]
fn values_keep_to_their_range() {
    let time = |bytes: &[u8]| CborReader::new(bytes).time();
    assert_eq!(time(&[0x82, 0x20, 0x05]), Ok(Timestamp::new(-1, 5).unwrap()));
    assert_eq!(time(&[0x82, 0, 0x1a, 0x3b, 0x9a, 0xca, 0]), Err(WireError::OutOfRange), "10⁹ nanoseconds");
    assert_eq!(time(&[0x83, 0, 0, 0]), Err(WireError::WrongLength { expected: 2, found: 3 }));
    assert_eq!(CborReader::new(&[0x19, 1, 0]).u8(), Err(WireError::OutOfRange));
    assert_eq!(CborReader::new(&[0x3b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).i64(), Err(WireError::OutOfRange));
    assert_eq!(CborReader::new(&[0x43, 1, 2, 3]).byte_array::<4>(), Err(WireError::WrongLength { expected: 4, found: 3 }));
    assert_eq!(CborReader::new(&[0x43, 1, 2, 3]).bytes(2), Err(WireError::TooLarge { limit: 2, found: 3 }));
    assert_eq!(CborReader::new(&[0x62, b'a', b'b']).text(1), Err(WireError::TooLarge { limit: 1, found: 2 }));
    assert_eq!(CborReader::new(&[0xf6]).optional(|r| r.u64()), Ok(None));
    assert_eq!(CborReader::new(&[0x05]).optional(|r| r.u64()), Ok(Some(5)));
    assert_eq!(CborReader::new(&[]).optional(|r| r.u64()), Err(WireError::TooShort));
}

proptest! {
    #[test]
    fn any_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut reader = CborReader::new(&bytes);
        while let Ok(raw) = reader.raw() {
            prop_assert!(!raw.is_empty());
        }
        let _ = open_padded_body(&bytes);
        let _ = CborReader::new(&bytes).array(1000, |r| r.time());
        let _ = CborReader::new(&bytes).map(|_, r| r.optional(|r| r.text(10)).map(drop));
    }

    #[test]
    fn padme_is_the_next_multiple_of_its_step(length in 2_u64..1 << 50) {
        let exponent = length.ilog2();
        let step = 1_u64 << (exponent - (exponent.ilog2() + 1));
        let padded = padme(length);
        prop_assert!(padded >= length && padded - length < step && padded.is_multiple_of(step));
        prop_assert!((padded - length) * 100 <= length * 12);
        prop_assert_eq!(padme(padded), padded);
    }

    #[test]
    fn what_is_written_is_read(signed in any::<i64>(), seconds in any::<i64>(), nanos in 0_u32..1_000_000_000, bytes in any::<Vec<u8>>(), text in any::<String>()) {
        let time = Timestamp::new(seconds, nanos).unwrap();
        let mut writer = CborWriter::new();
        writer.i64(signed).time(time).bytes(&bytes).text(&text).optional(None::<u64>, |w, v| { w.u64(v); });
        writer.array_of(&bytes, |w, &byte| { w.u64(byte.into()); });
        let encoded = writer.finish();
        let mut reader = CborReader::new(&encoded);
        prop_assert_eq!((reader.i64(), reader.time()), (Ok(signed), Ok(time)));
        prop_assert_eq!((reader.bytes(bytes.len()), reader.text(text.len())), (Ok(&bytes[..]), Ok(&text[..])));
        prop_assert_eq!(reader.optional(|r| r.u64()), Ok(None));
        prop_assert_eq!(reader.array(bytes.len(), |r| r.u8()), Ok(bytes));
        prop_assert_eq!(reader.finish(), Ok(()));
    }
}
