//! Patterns of names as the system hands them to a listing. Pure.
//!
//! Programs write `*` and `?`; the system makes `<`, `>` and `"` of some of them, which keep the habits of DOS: `<` stops at the last dot, `>` also matches
//! nothing before a dot and at the end, `"` at the end. The driver compares once more, so a name too many costs time and a name too few would be missing.

use crate::names::case_key;

/// A pattern, without regard to case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern(Vec<u16>);

impl Pattern {
    /// As a program wrote it, or as the system changed it.
    pub fn new(pattern: &[u16]) -> Self {
        Self(case_key(pattern))
    }

    /// Whether a shown name matches.
    pub fn matches(&self, name: &[u16]) -> bool {
        matches(&self.0, &case_key(name))
    }
}

fn matches(pattern: &[u16], name: &[u16]) -> bool {
    // Places in the pattern that are reached by the name so far, and with its next letter.
    let (mut reached, mut next) = (vec![false; pattern.len() + 1], vec![false; pattern.len() + 1]);
    if let Some(first) = reached.first_mut() {
        *first = true;
    }
    skip_empty(pattern, &mut reached, name.first().copied());
    let last_dot = name.iter().rposition(|&unit| unit == DOT);
    for (at, &unit) in name.iter().enumerate() {
        next.fill(false);
        for (place, &sign) in pattern.iter().enumerate() {
            if !reached.get(place).copied().unwrap_or(false) {
                continue;
            }
            let (stays, goes_on) = match sign {
                STAR => (true, false),
                // Everything up to the last dot.
                DOS_STAR => (Some(at) != last_dot, true),
                QUESTION => (false, true),
                DOS_QUESTION => (false, unit != DOT),
                DOS_DOT => (false, unit == DOT),
                sign => (false, sign == unit),
            };
            let mut mark = |place: usize, yes: bool| {
                if let Some(slot) = next.get_mut(place) {
                    *slot |= yes;
                }
            };
            mark(place, stays);
            mark(place + 1, goes_on);
        }
        std::mem::swap(&mut reached, &mut next);
        skip_empty(pattern, &mut reached, name.get(at + 1).copied());
    }
    reached.last().copied().unwrap_or(false)
}

const STAR: u16 = b'*' as u16;
const QUESTION: u16 = b'?' as u16;
const DOT: u16 = b'.' as u16;
const DOS_STAR: u16 = b'<' as u16;
const DOS_QUESTION: u16 = b'>' as u16;
const DOS_DOT: u16 = b'"' as u16;

/// What a sign may match without any letter, before the letter that comes next.
fn skip_empty(pattern: &[u16], reached: &mut [bool], next: Option<u16>) {
    for (place, &sign) in pattern.iter().enumerate() {
        let may = match sign {
            STAR | DOS_STAR => true,
            DOS_QUESTION => next.is_none_or(|next| next == DOT),
            DOS_DOT => next.is_none(),
            _ => false,
        };
        if may
            && reached.get(place).copied().unwrap_or(false)
            && let Some(slot) = reached.get_mut(place + 1)
        {
            *slot = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_programs_and_of_the_system() {
        let wide = |text: &str| text.encode_utf16().collect::<Vec<_>>();
        for (pattern, name, expected) in [
            ("*", "anything.txt", true),
            ("*", "", true),
            ("*.TXT", "letter.txt", true),
            ("*.txt", "letter.txt.bak", false),
            ("l?tter.*", "LETTER.doc", true),
            ("?", "", false),
            ("ä*", "Änderung", true),
            ("exact", "Exact", true),
            ("exact", "exactly", false),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxcxxb", false),
            // `*.*` and `*.` as the system rewrites them.
            ("<\"*", "noextension", true),
            ("<\"*", "a.b.c", true),
            ("<", "noextension", true),
            ("<.txt", "a.b.txt", true),
            (">>>>>>>>\">>>", "short.c", true),
            (">>>>>>>>\">>>", "muchtoolongname.c", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(Pattern::new(&wide(pattern)).matches(&wide(name)), expected, "{pattern} {name}");
        }
    }
}
