//! The 24 words of a recovery code, and how people copy them: in lines of six, each with a check word.
//!
//! The last word already holds a check sum, but it only says that something is wrong. A check word for each line says where, so that one line has to be
//! compared with the sheet and not four. Layout: docs/FORMAT.md, section 4.

use bip39::{Language, Mnemonic};
use zeroize::Zeroizing;

use super::slot::CredentialError;
use crate::crypto::{self, Key};

/// Words of a recovery code.
pub const RECOVERY_WORDS: usize = 24;
/// Words of a line of the sheet.
pub const LINE_WORDS: usize = 6;
/// Stands before the check word of a line.
pub const CHECK_MARK: &str = "check";

/// The words of a recovery code.
pub fn recovery_words(code: &Key) -> Zeroizing<String> {
    let mnemonic = Mnemonic::from_entropy(code.expose()).expect("256 bits are 24 words");
    Zeroizing::new(mnemonic.words().collect::<Vec<_>>().join(" "))
}

/// The check word of a line, which is counted from 1: another word for other words, another order or another line, but for one case in 2048.
pub fn check_word(line: usize, words: &[&str]) -> &'static str {
    let words = Zeroizing::new(words.join(" "));
    let hash = crypto::derive("recovery check word", &[&[u8::try_from(line).unwrap_or(u8::MAX)], words.as_bytes()]);
    let [first, second, ..] = *hash.expose();
    let list = Language::English.word_list();
    list.get(usize::from(u16::from_le_bytes([first, second])) % list.len()).expect("a remainder is smaller")
}

/// Reads the words as they are, in lines with their check words, or out of the text of a whole sheet.
pub(super) fn parse(text: &str) -> Result<Key, CredentialError> {
    let text = Zeroizing::new(text.to_lowercase());
    let tokens: Vec<&str> = text.split_whitespace().collect();
    let copy = match Copied::numbered(&tokens) {
        Some(copy) => copy,
        None => Copied::plain(&tokens),
    };
    if let Some(place) = copy.words.iter().position(|word| Language::English.find_word(word).is_none()) {
        return Err(CredentialError::RecoveryWord { number: place + 1 });
    }
    for (line, words) in (1..).zip(copy.words.chunks(LINE_WORDS)) {
        let copied = copy.checks.iter().find(|(of, _)| *of == line);
        if copied.is_some_and(|(_, word)| *word != check_word(line, words)) {
            return Err(CredentialError::RecoveryLine { line });
        }
    }
    let words = Zeroizing::new(copy.words.join(" "));
    let mnemonic = Mnemonic::parse_in_normalized(Language::English, &words).map_err(|_| CredentialError::Recovery)?;
    Key::from_slice(&Zeroizing::new(mnemonic.to_entropy())).ok_or(CredentialError::Recovery)
}

/// What somebody has copied.
struct Copied<'a> {
    words: Vec<&'a str>,
    /// With the number of their line.
    checks: Vec<(usize, &'a str)>,
}

impl<'a> Copied<'a> {
    /// Words with their numbers before them, whatever else there is; `None` unless all are there.
    fn numbered(tokens: &[&'a str]) -> Option<Self> {
        let mut copy = Self { words: Vec::new(), checks: Vec::new() };
        let mut tokens = tokens.iter();
        while let Some(token) = tokens.next() {
            let (is_line_full, line) = (copy.words.len().is_multiple_of(LINE_WORDS), copy.words.len() / LINE_WORDS);
            if copy.words.len() < RECOVERY_WORDS && *token == format!("{}.", copy.words.len() + 1) {
                copy.words.push(tokens.next()?);
            } else if *token == CHECK_MARK && is_line_full && line > 0 && copy.checks.len() < line {
                copy.checks.push((line, tokens.next()?));
            }
        }
        (copy.words.len() == RECOVERY_WORDS).then_some(copy)
    }

    /// Nothing but words, in lines of six and a check word if there are as many.
    fn plain(tokens: &[&'a str]) -> Self {
        if tokens.len() != RECOVERY_WORDS / LINE_WORDS * (LINE_WORDS + 1) {
            return Self { words: tokens.to_vec(), checks: Vec::new() };
        }
        let lines = || (1..).zip(tokens.chunks(LINE_WORDS + 1));
        Self {
            words: lines().flat_map(|(_, line)| line.iter().take(LINE_WORDS).copied()).collect(),
            checks: lines().filter_map(|(number, line)| Some((number, *line.last()?))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(words: &[&str], line_of: impl Fn(usize, &[&str]) -> String) -> String {
        (1..).zip(words.chunks(LINE_WORDS)).map(|(line, words)| line_of(line, words)).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn words_are_read_in_every_way_in_which_they_are_copied() {
        let key = Key::from_bytes([7; 32]);
        let words = recovery_words(&key);
        let words: Vec<_> = words.split(' ').collect();
        assert_eq!(words.len(), RECOVERY_WORDS);
        let sloppy = format!("  {}\n", words.join("\n ").to_uppercase());
        let with_checks = copied(&words, |line, words| format!("{} {}", words.join(" "), check_word(line, words)));
        let sheet = copied(&words, |line, words| {
            let numbered = (1..).zip(words).map(|(place, word)| format!("{}. {word}", (line - 1) * LINE_WORDS + place));
            format!("{} check {}", numbered.collect::<Vec<_>>().join("  "), check_word(line, words))
        });
        let sheet = format!("sheet of 2026\n\n{sheet}\n\n1. install it\n2. check it 24. times");
        for text in [sloppy, with_checks, sheet] {
            assert_eq!(parse(&text), Ok(key.clone()), "{text}");
        }
    }

    #[test]
    fn a_wrong_copy_says_where_as_well_as_it_can_be_known() {
        let words = recovery_words(&Key::from_bytes([9; 32]));
        let words: Vec<_> = words.split(' ').collect();
        let with_checks = |copy: &[&str]| {
            let checks: Vec<_> = (1..).zip(words.chunks(LINE_WORDS)).map(|(line, words)| check_word(line, words)).collect();
            copied(copy, |line, words| format!("{} {}", words.join(" "), checks[line - 1]))
        };
        let mut swapped = words.clone();
        swapped.swap(13, 14);
        assert_ne!(words[13], words[14]);
        assert_eq!(parse(&with_checks(&swapped)), Err(CredentialError::RecoveryLine { line: 3 }));
        assert_eq!(parse(&swapped.join(" ")), Err(CredentialError::Recovery));
        let mut lines = words.clone();
        lines.rotate_left(LINE_WORDS);
        assert_eq!(parse(&with_checks(&lines)), Err(CredentialError::RecoveryLine { line: 1 }));
        let mut misspelt = words.clone();
        misspelt[20] = "abandn";
        for text in [with_checks(&misspelt), misspelt.join(" ")] {
            assert_eq!(parse(&text), Err(CredentialError::RecoveryWord { number: 21 }));
        }
        assert_eq!(parse("abandon abandon"), Err(CredentialError::Recovery));
        assert_eq!(parse(""), Err(CredentialError::Recovery));
    }
}
