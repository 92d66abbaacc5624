//! Where a drive can be mounted on Windows. Pure.

use std::fmt;

/// A place for a drive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Spot {
    /// A drive letter, of this session of the user who mounts.
    Letter(char),
    /// The last letter that is free.
    FreeLetter,
    /// A folder that does not exist yet, on a disk of this machine.
    Folder(String),
    /// `\\server\share`, reachable in every session.
    Share {
        /// First part.
        server: String,
        /// Second part.
        share: String,
    },
}

/// Why a text names no place.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SpotError {
    /// A share needs two parts.
    #[error(r"{0} is no share: write \\server\share, with two names and nothing behind them")]
    Share(String),
    /// Nothing was named.
    #[error("name a drive letter (X:), a folder that does not exist yet, or \\\\server\\share")]
    Empty,
}

/// The most that WinFsp takes of a share, in UTF-16 units.
const PREFIX_MAX: usize = 191;

impl Spot {
    /// Reads what a person writes: `X:`, `*` for any letter, `\\server\share`, or a folder.
    ///
    /// # Errors
    /// [`SpotError`].
    pub fn parse(text: &str) -> Result<Self, SpotError> {
        let letters: Vec<char> = text.chars().collect();
        match &*letters {
            [] => return Err(SpotError::Empty),
            ['*'] => return Ok(Self::FreeLetter),
            [letter, ':'] | [letter, ':', '\\' | '/'] if letter.is_ascii_alphabetic() => {
                return Ok(Self::Letter(letter.to_ascii_uppercase()));
            }
            _ => {}
        }
        let plain = text.replace('/', "\\");
        let Some(rest) = plain.strip_prefix("\\\\") else { return Ok(Self::Folder(plain.trim_end_matches('\\').into())) };
        // Paths of the system's own, `\\?\C:\x` and `\\.\X:`, name no share.
        if rest.starts_with("?\\") || rest.starts_with(".\\") {
            return Ok(Self::Folder(plain));
        }
        let refused = || SpotError::Share(text.into());
        let (server, share) = rest.trim_end_matches('\\').split_once('\\').ok_or_else(refused)?;
        let is_name = |name: &str| !name.is_empty() && !name.contains(['\\', ':', '*', '?', '"', '<', '>', '|']);
        let spot = Self::Share { server: server.into(), share: share.into() };
        let fits = spot.prefix().is_some_and(|prefix| prefix.encode_utf16().count() <= PREFIX_MAX);
        if is_name(server) && is_name(share) && fits { Ok(spot) } else { Err(refused()) }
    }

    /// A share as WinFsp wants it: with one separator at the beginning.
    pub fn prefix(&self) -> Option<String> {
        match self {
            Self::Share { server, share } => Some(format!("\\{server}\\{share}")),
            _ => None,
        }
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Letter(letter) => write!(f, "{letter}:"),
            Self::FreeLetter => f.write_str("*"),
            Self::Folder(path) => f.write_str(path),
            Self::Share { server, share } => write!(f, "\\\\{server}\\{share}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write() {
        let share = Spot::Share { server: "yesterdrive".into(), share: "pc".into() };
        for (text, spot) in [
            ("x:", Spot::Letter('X')),
            ("X:\\", Spot::Letter('X')),
            ("*", Spot::FreeLetter),
            ("C:\\Users\\anna\\yesterday\\", Spot::Folder("C:\\Users\\anna\\yesterday".into())),
            ("yesterday", Spot::Folder("yesterday".into())),
            ("//yesterdrive/pc", share.clone()),
            ("\\\\yesterdrive\\pc\\", share.clone()),
            ("\\\\.\\X:", Spot::Folder("\\\\.\\X:".into())),
        ] {
            assert_eq!(Spot::parse(text), Ok(spot), "{text}");
        }
        assert_eq!(share.prefix().as_deref(), Some("\\yesterdrive\\pc"));
        assert_eq!(share.to_string(), "\\\\yesterdrive\\pc");
        for text in ["", "\\\\server", "\\\\server\\", "\\\\a\\b\\c", "\\\\\\b", "\\\\a\\b?"] {
            assert!(Spot::parse(text).is_err(), "{text}");
        }
        assert!(Spot::parse(&format!("\\\\a\\{}", "b".repeat(200))).is_err());
    }
}
