//! Access control lists as the text that archives carry.

/// The text of a list in the kernel's form, with numbers for names; `None` if it is none.
pub(super) fn text(list: &[u8]) -> Option<String> {
    const VERSION: u32 = 2;
    let (version, mut rest) = list.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != VERSION {
        return None;
    }
    let mut lines = Vec::new();
    while let Some((row, after)) = rest.split_first_chunk::<8>() {
        let [tag_low, tag_high, bits, _, id @ ..] = *row;
        let id = u32::from_le_bytes(id);
        let who = match u16::from_le_bytes([tag_low, tag_high]) {
            0x01 => "user:".to_owned(),
            0x02 => format!("user:{id}"),
            0x04 => "group:".to_owned(),
            0x08 => format!("group:{id}"),
            0x10 => "mask:".to_owned(),
            0x20 => "other:".to_owned(),
            _ => return None,
        };
        let may = |bit: u8, letter: char| if bits & bit == 0 { '-' } else { letter };
        lines.push(format!("{who}:{}{}{}", may(4, 'r'), may(2, 'w'), may(1, 'x')));
        rest = after;
    }
    rest.is_empty().then(|| lines.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_text() {
        let row = |tag: u16, bits: u16, id: u32| [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat();
        let list = [&2u32.to_le_bytes()[..], &row(1, 6, u32::MAX), &row(2, 5, 1234), &row(16, 7, u32::MAX), &row(32, 0, u32::MAX)].concat();
        assert_eq!(text(&list).as_deref(), Some("user::rw-,user:1234:r-x,mask::rwx,other::---"));
        assert_eq!((text(&list[..7]), text(&[]), text(&[1, 0, 0, 0])), (None, None, None));
    }
}
