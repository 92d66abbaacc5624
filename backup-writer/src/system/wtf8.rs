//! Names between Windows and snapshots. Snapshots have them as WTF-8: UTF-8, in which an unpaired surrogate takes the three bytes that UTF-8 would give it. So every
//! name of Windows has one form, and comes back as it was.

/// Where a character goes that NTFS does not take: U+F000 and the character.
const FORBIDDEN_BASE: u16 = 0xf000;
/// Where a byte goes that is no text: U+F100 and the byte.
const BYTE_BASE: u16 = 0xf100;

/// A name of Windows as a snapshot has it.
pub(crate) fn encode(units: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(units.len() + units.len() / 2);
    for c in char::decode_utf16(units.iter().copied()) {
        match c {
            Ok(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(lone) => bytes.extend_from_slice(&three_bytes(lone.unpaired_surrogate())),
        }
    }
    bytes
}

fn three_bytes(unit: u16) -> [u8; 3] {
    let six = |shift: u32| u8::try_from(unit >> shift & 0x3f).unwrap_or(0);
    [0xe0 | u8::try_from(unit >> 12).unwrap_or(0), 0x80 | six(6), 0x80 | six(0)]
}

/// The unpaired surrogate that bytes begin with.
fn surrogate(bytes: &[u8]) -> Option<u16> {
    match *bytes {
        [0xed, b @ 0xa0..=0xbf, c @ 0x80..=0xbf, ..] => Some(0xd000 | u16::from(b & 0x3f) << 6 | u16::from(c & 0x3f)),
        _ => None,
    }
}

/// The units of a name; what is no WTF-8 is handed to `other`, byte by byte.
fn decode(mut bytes: &[u8], other: &mut dyn FnMut(u8) -> u16) -> Vec<u16> {
    let mut units = Vec::with_capacity(bytes.len());
    while !bytes.is_empty() {
        let (text, rest) = match std::str::from_utf8(bytes) {
            Ok(text) => (text, &[][..]),
            Err(error) => {
                let (text, rest) = bytes.split_at(error.valid_up_to());
                (std::str::from_utf8(text).unwrap_or_default(), rest)
            }
        };
        units.extend(text.encode_utf16());
        bytes = match (surrogate(rest), rest) {
            (Some(unit), [_, _, _, after @ ..]) => {
                units.push(unit);
                after
            }
            (_, [byte, after @ ..]) => {
                units.push(other(*byte));
                after
            }
            (_, []) => rest,
        };
    }
    units
}

/// The units of text that is not a name: of a path, a pattern, a target.
pub(crate) fn to_units(bytes: &[u8]) -> Vec<u16> {
    decode(bytes, &mut |byte| BYTE_BASE + u16::from(byte))
}

/// A name of a snapshot as NTFS takes it: what came from there as it was, in what came from elsewhere forbidden characters and bytes that are no text moved to the
/// private range, where Cygwin and WSL put them too.
pub(crate) fn to_name(name: &[u8]) -> Vec<u16> {
    let mut units = to_units(name);
    for unit in &mut units {
        if is_forbidden(*unit) {
            *unit |= FORBIDDEN_BASE;
        }
    }
    units
}

fn is_forbidden(unit: u16) -> bool {
    let marks = [b'\\', b'/', b':', b'*', b'?', b'"', b'<', b'>', b'|'];
    unit < 0x20 || marks.iter().any(|mark| u16::from(*mark) == unit)
}

/// What names have in common that Windows takes for the same: upper case, unit by unit.
pub(crate) fn case_key(units: &[u16]) -> Vec<u16> {
    let upper = |unit: u16| {
        let mut mapped = char::from_u32(unit.into()).into_iter().flat_map(char::to_uppercase);
        match (mapped.next(), mapped.next()) {
            (Some(one), None) => u16::try_from(u32::from(one)).unwrap_or(unit),
            _ => unit,
        }
    };
    units.iter().copied().map(upper).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_windows_comes_back() {
        let plain: Vec<u16> = "Bücher 日本 😀.txt".encode_utf16().collect();
        let names =
            [plain, vec![0xd800], vec![0xdc00, 0x41], vec![0x41, 0xdbff], vec![0xdc00, 0xd800], vec![0xd83d, 0xd83d, 0xde00], vec![0xf03a]];
        for units in names {
            let bytes = encode(&units);
            assert_eq!(to_name(&bytes), units, "{bytes:?}");
        }
        // Every unit by itself and beside surrogates.
        for unit in 1..=u16::MAX {
            if !is_forbidden(unit) {
                for name in [vec![unit], vec![0xd800, unit], vec![unit, 0xdc00]] {
                    assert_eq!(to_name(&encode(&name)), name);
                }
            }
        }
        assert_eq!(encode(&[0xd83d, 0xde00]), "😀".as_bytes());
        assert_eq!(encode(&[0xd800]), b"\xed\xa0\x80");
    }

    #[test]
    fn names_of_other_systems_become_ones_that_ntfs_takes() {
        let units = |text: &str| text.encode_utf16().collect::<Vec<_>>();
        assert_eq!(to_name(b"a:b?"), units("a\u{f03a}b\u{f03f}"));
        assert_eq!(to_name(b"\x01\xff\xe4"), units("\u{f001}\u{f1ff}\u{f1e4}"));
        assert_eq!(to_name(b"back\\slash|"), units("back\u{f05c}slash\u{f07c}"));
        // Windows can name these, though not all of its programs can.
        for name in ["con", "a.", "b ", "..x"] {
            assert_eq!(to_name(name.as_bytes()), units(name));
        }
    }

    #[test]
    fn case_is_folded_unit_by_unit() {
        let key = |text: &str| case_key(&text.encode_utf16().collect::<Vec<_>>());
        assert_eq!(key("Ärger.TXT"), key("äRGER.txt"));
        assert_ne!(key("straße"), key("STRASSE"), "one unit stays one");
        assert_eq!(case_key(&[0xd800]), [0xd800]);
    }
}
