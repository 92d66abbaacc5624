//! Symbolic links of a snapshot as Windows follows them. Pure.

/// `IO_REPARSE_TAG_SYMLINK`
pub const SYMLINK_TAG: u32 = 0xa000_000c;
const RELATIVE: u32 = 1;
const SEPARATOR: u16 = b'\\' as u16;

/// The parts of a target as Windows writes them. It is relative: the view is asked for links that stay in their snapshot.
pub fn joined(parts: &[Vec<u16>]) -> Vec<u16> {
    if parts.is_empty() { vec![u16::from(b'.')] } else { parts.join(&SEPARATOR) }
}

/// The bytes that Windows reads of a link (`REPARSE_DATA_BUFFER`), always relative.
pub fn reparse_data(target: &[u16]) -> Vec<u8> {
    let text: Vec<u8> = target.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let size = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX);
    let length = size(text.len());
    let mut data = SYMLINK_TAG.to_le_bytes().to_vec();
    // Twice the text: what is followed, then what is shown.
    for field in [size(12 + 2 * text.len()), 0, 0, length, length, length] {
        data.extend(field.to_le_bytes());
    }
    data.extend(RELATIVE.to_le_bytes());
    data.extend(&text);
    data.extend(&text);
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_of_a_link_says_its_lengths() {
        let data = reparse_data(&"a\\b".encode_utf16().collect::<Vec<_>>());
        assert_eq!(data.len(), 20 + 12);
        assert_eq!(u16::from_le_bytes([data[4], data[5]]) as usize, data.len() - 8);
        assert_eq!((data[10], data[12], data[14]), (6, 6, 6));
        assert_eq!(data[20..26], data[26..32]);
    }
}
