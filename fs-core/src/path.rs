//! Names and paths as the source gave them: raw bytes.
//!
//! Order is bytewise everywhere. A name is made presentable only here ([`display`]) and in the Windows adapter.

use std::borrow::Cow;
use std::fmt;

/// Longest name of an entry, in bytes. Windows names of 255 UTF-16 units fit; Linux ends at 255 bytes.
pub const NAME_LENGTH_MAX: usize = 4096;

/// Bytes that cannot be the name of an entry.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
#[error("'{}' cannot be the name of an entry", display(.0))]
pub struct NameError(pub Vec<u8>);

/// The name of one entry: not empty, not `.` or `..`, without `/` and NUL, at most [`NAME_LENGTH_MAX`] bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// [`NameError`] if the bytes break one of the rules above.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Result<Self, NameError> {
        let bytes = bytes.into();
        let forbidden = bytes.is_empty()
            || bytes.len() > NAME_LENGTH_MAX
            || matches!(&*bytes, b"." | b"..")
            || bytes.iter().any(|&b| b == b'/' || b == 0);
        if forbidden { Err(NameError(bytes.into())) } else { Ok(Self(bytes)) }
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&display(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", display(&self.0))
    }
}

/// A place in a snapshot: names from the root, which is the empty path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TreePath(Vec<Name>);

impl TreePath {
    /// The root.
    pub const ROOT: Self = Self(Vec::new());

    /// Splits raw bytes at `/`; empty parts and `.` are dropped, so `/a//b/./` is `a/b`.
    ///
    /// # Errors
    /// [`NameError`] for `..`, NUL or a part that is too long.
    pub fn parse(bytes: &[u8]) -> Result<Self, NameError> {
        let parts = bytes.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".");
        parts.map(Name::new).collect::<Result<_, _>>().map(Self)
    }

    /// The names from the root down.
    pub fn names(&self) -> &[Name] {
        &self.0
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// This path with one more name.
    pub fn join(&self, name: Name) -> Self {
        let mut names = Vec::with_capacity(self.0.len() + 1);
        names.extend_from_slice(&self.0);
        names.push(name);
        Self(names)
    }

    /// Appends a name.
    pub fn push(&mut self, name: Name) {
        self.0.push(name);
    }

    /// Removes and returns the last name; `None` at the root.
    pub fn pop(&mut self) -> Option<Name> {
        self.0.pop()
    }

    /// The path without its last name; `None` at the root.
    pub fn parent(&self) -> Option<Self> {
        let (_, names) = self.0.split_last()?;
        Some(Self(names.to_vec()))
    }

    /// The last name; `None` at the root.
    pub fn last(&self) -> Option<&Name> {
        self.0.last()
    }

    /// Whether `self` is `other` or lies below it.
    pub fn starts_with(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// The raw bytes: names joined by `/`, no leading one; empty for the root.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for name in &self.0 {
            if !bytes.is_empty() {
                bytes.push(b'/');
            }
            bytes.extend_from_slice(name.as_bytes());
        }
        bytes
    }
}

impl FromIterator<Name> for TreePath {
    fn from_iter<I: IntoIterator<Item = Name>>(names: I) -> Self {
        Self(names.into_iter().collect())
    }
}

/// With a leading `/`, made presentable.
impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str("/");
        }
        self.0.iter().try_for_each(|name| write!(f, "/{name}"))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Makes raw bytes presentable on one line: what is not UTF-8, control characters, characters that change the direction of writing and the
/// backslash itself become `\xNN`, so the original can always be read off and a terminal is never commanded by a file name.
pub fn display(bytes: &[u8]) -> Cow<'_, str> {
    let harmless =
        |c: char| !c.is_control() && c != '\\' && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if let Ok(text) = std::str::from_utf8(bytes)
        && text.chars().all(harmless)
    {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(bytes.len() + 16);
    let escape = |shown: &mut String, bytes: &[u8]| bytes.iter().for_each(|b| shown.push_str(&format!("\\x{b:02x}")));
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if harmless(c) {
                shown.push(c);
            } else {
                escape(&mut shown, c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        escape(&mut shown, chunk.invalid());
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_their_directory_are_refused() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'x'; NAME_LENGTH_MAX + 1]] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
        assert!(Name::new(&b"..."[..]).is_ok());
        assert!(Name::new(&b"\xff\xfe"[..]).is_ok());
    }

    #[test]
    fn paths_are_normalised_but_never_climb() {
        let path = TreePath::parse(b"/a//b/./c/").unwrap();
        assert_eq!(path.to_bytes(), b"a/b/c");
        assert_eq!(path.to_string(), "/a/b/c");
        assert!(TreePath::parse(b"a/../b").is_err());
        assert!(path.starts_with(&TreePath::parse(b"a/b").unwrap()));
        assert!(!path.starts_with(&TreePath::parse(b"a/bb").unwrap()));
    }

    #[test]
    fn a_name_commands_no_terminal() {
        assert_eq!(display("Bücher".as_bytes()), "Bücher");
        assert_eq!(display(b"a\x1b[2Jb\n"), "a\\x1b[2Jb\\x0a");
        assert_eq!(display(b"\xffx\\"), "\\xffx\\x5c");
        assert_eq!(display("a\u{202e}b".as_bytes()), "a\\xe2\\x80\\xaeb");
    }
}
