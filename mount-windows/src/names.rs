//! Names of a snapshot as Windows can show them, and back. Pure and reversible.
//!
//! A name is shown as it is where Windows allows it. What Windows forbids moves to the private use area of Unicode: a forbidden ASCII character `c` becomes
//! U+F000 + c, a byte that is not UTF-8 becomes U+F100 + byte, and a character that is itself in that range becomes its UTF-8 bytes, escaped. A reserved
//! device name gets its second letter escaped. So every shown name is legal, and every name has exactly one shown form.
//!
//! Windows takes names for the same that differ in case only. Of several such names in a folder the first by its bytes is shown as above; in the others
//! ([`twin`]) every letter that differs from it is escaped.

/// Where forbidden ASCII characters go.
const ASCII_BASE: u32 = 0xf000;
/// Where bytes that are not UTF-8 go.
const BYTE_BASE: u32 = 0xf100;
/// The range that both take.
const ESCAPES: std::ops::RangeInclusive<u32> = ASCII_BASE..=BYTE_BASE + 0xff;

/// The name as Windows shows it, in UTF-16.
pub fn present(name: &[u8]) -> Vec<u16> {
    let mut shown: Vec<char> = Vec::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            if ESCAPES.contains(&u32::from(c)) {
                shown.extend(c.encode_utf8(&mut [0; 4]).bytes().map(escaped_byte));
            } else if is_forbidden(c) {
                shown.push(escaped_ascii(c));
            } else {
                shown.push(c);
            }
        }
        shown.extend(chunk.invalid().iter().copied().map(escaped_byte));
    }
    // Windows drops blanks and dots at the end.
    if let Some(last) = shown.last_mut().filter(|last| matches!(last, '.' | ' ')) {
        *last = escaped_ascii(*last);
    }
    if let Some(at) = reserved(&shown)
        && let Some(letter) = shown.get_mut(at)
    {
        *letter = escaped_ascii(*letter);
    }
    let mut units = Vec::with_capacity(shown.len());
    shown.into_iter().for_each(|c| push(&mut units, c));
    units
}

/// The shown form of a name beside `leader`, which differs from it in case only and is shown as it is.
pub fn twin(leader: &[u8], name: &[u8]) -> Vec<u16> {
    let letters = |name: &[u8]| char::decode_utf16(present(name)).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect::<Vec<_>>();
    let (first, own) = (letters(leader), letters(name));
    let escaped = |c: char| match u8::try_from(u32::from(c)) {
        Ok(ascii) if c.is_ascii() => vec![char::from_u32(ASCII_BASE + u32::from(ascii)).unwrap_or(c)],
        _ => c.encode_utf8(&mut [0; 4]).bytes().map(escaped_byte).collect(),
    };
    let differs = |(at, c): (usize, char)| if first.get(at) == Some(&c) { vec![c] } else { escaped(c) };
    let shown: String = own.into_iter().enumerate().flat_map(differs).collect();
    shown.encode_utf16().collect()
}

/// What all names have in common that Windows takes for the same.
pub fn key(name: &[u8]) -> Vec<u16> {
    case_key(&present(name))
}

/// The name of a shown form; `None` for text that no name is shown as when it stands alone.
pub fn original(shown: &[u16]) -> Option<Vec<u8>> {
    unescaped(shown).filter(|name| present(name) == shown)
}

/// The name of any form, also one that [`twin`] makes; `None` for text that is none.
pub fn unescaped(shown: &[u16]) -> Option<Vec<u8>> {
    let mut name = Vec::with_capacity(shown.len());
    for c in char::decode_utf16(shown.iter().copied()) {
        let c = c.ok()?;
        let code = u32::from(c);
        match code.checked_sub(ASCII_BASE).and_then(|offset| u8::try_from(offset).ok()) {
            Some(ascii) => name.push(ascii),
            None => match code.checked_sub(BYTE_BASE).and_then(|offset| u8::try_from(offset).ok()) {
                Some(byte) => name.push(byte),
                None => name.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            },
        }
    }
    Some(name)
}

/// What two names that Windows takes for the same have in common: upper case, character by character. An approximation of the table in NTFS, which
/// maps no character to several.
pub fn case_key(shown: &[u16]) -> Vec<u16> {
    let upper = |c: char| {
        let mut mapped = c.to_uppercase();
        match (mapped.next(), mapped.next()) {
            (Some(one), None) => one,
            _ => c,
        }
    };
    // Listings of huge folders come here for each name.
    let mut key = Vec::with_capacity(shown.len());
    for c in char::decode_utf16(shown.iter().copied()) {
        match c {
            Ok(c) => push(&mut key, upper(c)),
            Err(lone) => key.push(lone.unpaired_surrogate()),
        }
    }
    key
}

fn push(units: &mut Vec<u16>, c: char) {
    units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
}

fn is_forbidden(c: char) -> bool {
    c.is_ascii_control() || matches!(c, '\\' | '/' | ':' | '*' | '?' | '"' | '<' | '>' | '|')
}

fn escaped_ascii(c: char) -> char {
    char::from_u32(ASCII_BASE + u32::from(c)).unwrap_or(c)
}

fn escaped_byte(byte: u8) -> char {
    char::from_u32(BYTE_BASE + u32::from(byte)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Where the last letter of a reserved device name stands, if this is one: `CON`, `nul.txt`, `COM¹`.
fn reserved(shown: &[char]) -> Option<usize> {
    const LENGTHS: std::ops::RangeInclusive<usize> = 3..="CONOUT$".len();
    let stem = shown.split(|c| *c == '.').next()?;
    let length = stem.iter().rposition(|c| *c != ' ')? + 1;
    if !LENGTHS.contains(&length) {
        return None;
    }
    let bare: String = stem.iter().take(length).map(char::to_ascii_uppercase).collect();
    let numbered = |prefix: &str| {
        let digit = bare.strip_prefix(prefix).map(|rest| rest.chars().collect::<Vec<_>>());
        matches!(digit.as_deref(), Some(['1'..='9' | '¹' | '²' | '³']))
    };
    let is_reserved = matches!(&*bare, "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$") || numbered("COM") || numbered("LPT");
    // The second letter: always ASCII, also where the last one is a superscript digit.
    is_reserved.then_some(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(name: &[u8]) -> String {
        String::from_utf16(&present(name)).unwrap()
    }

    fn is_legal(shown: &[u16]) -> bool {
        let text: Vec<char> = char::decode_utf16(shown.iter().copied()).map(Result::unwrap).collect();
        !text.iter().any(|c| is_forbidden(*c)) && !matches!(text.last(), Some('.' | ' ')) && reserved(&text).is_none()
    }

    #[test]
    fn ordinary_names_stay_as_they_are() {
        for name in ["letter.txt", "Bücher", "a b", "日本語", ".hidden", "COM", "console", "COM10", "nul_"] {
            assert_eq!(shown(name.as_bytes()), name);
        }
    }

    #[test]
    fn awkward_names_become_legal_and_come_back() {
        let names: [&[u8]; 12] = [
            b"a:b",
            b"what?",
            b"end.",
            b"end ",
            b"...",
            b"CON",
            b"nul.txt",
            b"aux .c",
            "COM¹".as_bytes(),
            b"\xff\xfe",
            b"tab\there",
            "\u{f03a}".as_bytes(),
        ];
        for name in names {
            let presented = present(name);
            assert!(is_legal(&presented), "{:?}", shown(name));
            assert_eq!(original(&presented).as_deref(), Some(name));
        }
        assert_eq!(original(&"a:b".encode_utf16().collect::<Vec<_>>()), None, "no name is shown like this");
        assert_eq!(original(&[0xd800]), None);
    }

    #[test]
    fn names_that_differ_in_case_only_are_told_apart() {
        let leader = "ABCÉ".as_bytes();
        let twins: Vec<_> = ["ABcÉ", "AbCÉ", "Abcé", "abcé", "ABCé"].map(|name| (name, twin(leader, name.as_bytes()))).into();
        let mut keys = vec![case_key(&present(leader))];
        for (name, shown) in twins {
            assert_eq!(key(name.as_bytes()), key(leader));
            assert_eq!(unescaped(&shown).as_deref(), Some(name.as_bytes()));
            assert!(is_legal(&shown) && !keys.contains(&case_key(&shown)), "{name}");
            keys.push(case_key(&shown));
        }
    }

    #[test]
    fn case_is_folded_without_changing_lengths() {
        let key = |text: &str| case_key(&text.encode_utf16().collect::<Vec<_>>());
        assert_eq!(key("Straße"), key("sTRAßE"));
        assert_ne!(key("Straße"), key("STRASSE"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_name_is_legal_and_reversible(name in proptest::collection::vec(any::<u8>(), 1..40)) {
            let presented = present(&name);
            prop_assert!(is_legal(&presented));
            prop_assert_eq!(original(&presented), Some(name));
        }

        #[test]
        fn text_names_too(name in "[ -~\u{e0f0}-\u{f2ff}.]{1,20}") {
            prop_assert_eq!(original(&present(name.as_bytes())), Some(name.into_bytes()));
        }
    }
}
