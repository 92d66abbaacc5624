//! What is left out of a snapshot, as data and pure decisions; `backup/sieve.rs` applies it to the walk.
//!
//! Patterns are those of gitignore, relative to each source: the last one that fits decides, `!` takes back in, and nothing comes back from a
//! folder that is left out. Braces are names here, as for git, though the matcher below would take them for alternatives.

use std::path::PathBuf;

use fs_core::path::{Name, NameError, display};
use fs_core::time::Timestamp;
use fs_core::tree::{Entry, EntryKind};
use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// Files of this name hold patterns for the folder they stand in and for all below.
pub const IGNORE_FILE: &str = ".yesterignore";
/// How a cache is marked: <https://bford.info/cachedir/>.
const CACHE_TAG: (&str, &str) = ("CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55");

/// What is left out. What is named as a source is saved whatever its name, size and marks: rules hold for what is below it.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Patterns relative to each source. They count more than those of [`IGNORE_FILE`]s.
    pub patterns: Patterns,
    /// Whether [`IGNORE_FILE`]s count.
    pub ignore_files: bool,
    /// Marks of folders whose contents are left out; the folder and its mark stay.
    pub markers: Vec<Marker>,
    /// Larger files are left out, in bytes.
    pub size_max: Option<u64>,
    /// Files that were modified before are left out.
    pub modified_min: Option<Timestamp>,
    /// Files that were modified after are left out.
    pub modified_max: Option<Timestamp>,
    /// Whether folders on other file systems than their source are left empty.
    pub one_file_system: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            patterns: Patterns::default(),
            ignore_files: true,
            markers: Vec::new(),
            size_max: None,
            modified_min: None,
            modified_max: None,
            one_file_system: false,
        }
    }
}

impl Rules {
    /// The rule by which an entry is left out for what it is, wherever it stands.
    pub fn left_out_as(&self, entry: &Entry) -> Option<&'static str> {
        if entry.kind != EntryKind::File {
            return None;
        }
        let is_beyond = |limit: Option<Timestamp>, is: fn(&Timestamp, &Timestamp) -> bool| {
            limit.zip(entry.mtime).is_some_and(|(limit, mtime)| is(&mtime, &limit))
        };
        if self.size_max.is_some_and(|size_max| entry.size > size_max) {
            Some("too large")
        } else if is_beyond(self.modified_min, Timestamp::lt) {
            Some("too old")
        } else if is_beyond(self.modified_max, Timestamp::gt) {
            Some("too new")
        } else {
            None
        }
    }
}

/// A file that marks its folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Marker {
    /// Its name.
    pub name: Name,
    /// What it begins with; empty for anything.
    pub header: Vec<u8>,
}

impl Marker {
    /// The mark that programs put into their caches.
    pub fn cache_tag() -> Self {
        let (name, signature) = CACHE_TAG;
        Self { name: Name::new(name.as_bytes()).expect("the tag is a name"), header: signature.into() }
    }

    /// Reads `NAME` or `NAME:HEADER`.
    ///
    /// # Errors
    /// If it is no name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let (name, header) = text.split_once(':').unwrap_or((text, ""));
        Ok(Self { name: Name::new(name.as_bytes())?, header: header.into() })
    }
}

/// A line of patterns, and where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// For people: `FILE:NUMBER`, or the flag.
    pub place: String,
    /// The line.
    pub text: Vec<u8>,
}

/// The lines of a file of patterns.
pub fn lines_of(file: &str, bytes: &[u8]) -> Vec<Line> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let line = |(at, text): (usize, &[u8])| Line { place: format!("{file}:{}", at + 1), text: text.trim_ascii_end_of_line().into() };
    bytes.split(|&b| b == b'\n').enumerate().map(line).collect()
}

/// A line that is no pattern.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
#[error("{place}: '{text}' is no pattern: {reason}")]
pub struct PatternError {
    /// Where it stands.
    pub place: String,
    /// The line, made presentable.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

/// gitignore patterns that belong together.
#[derive(Clone, Debug)]
pub struct Patterns(Gitignore);

impl Default for Patterns {
    fn default() -> Self {
        Self(Gitignore::empty())
    }
}

/// What patterns say about an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Left out, by this pattern with its place.
    Out(String),
    /// Taken, whatever others say.
    In,
    /// Nothing.
    Silent,
}

impl Patterns {
    /// Takes lines; those that are no patterns come back as errors and do not count. Blank ones and comments are none.
    pub fn parse(lines: &[Line]) -> (Self, Vec<PatternError>) {
        let mut builder = GitignoreBuilder::new("");
        builder.allow_unclosed_class(false);
        let mut errors = Vec::new();
        for Line { place, text } in lines {
            let failed = |reason: &str| PatternError { place: place.clone(), text: display(text).into_owned(), reason: reason.into() };
            let Ok(line) = std::str::from_utf8(text) else {
                errors.push(failed("it is no UTF-8 text"));
                continue;
            };
            let origin = PathBuf::from(format!("'{}' ({place})", line.trim_end()));
            match builder.add_line(Some(origin), &without_alternatives(line)) {
                Ok(_) => {}
                Err(ignore::Error::Glob { err, .. }) => errors.push(failed(&err)),
                Err(error) => errors.push(failed(&error.to_string())),
            }
        }
        match builder.build() {
            Ok(patterns) => (Self(patterns), errors),
            Err(error) => {
                let place = lines.first().map_or_else(String::new, |line| line.place.clone());
                errors.push(PatternError { place, text: "these patterns together".into(), reason: error.to_string() });
                (Self::default(), errors)
            }
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What they say about a path relative to where they hold.
    pub fn decide(&self, path: &[u8], is_directory: bool) -> Verdict {
        match self.0.matched(crate::system::pattern_path(path), is_directory) {
            Match::None => Verdict::Silent,
            Match::Whitelist(_) => Verdict::In,
            Match::Ignore(glob) => Verdict::Out(glob.from().map_or_else(String::new, |origin| origin.to_string_lossy().into_owned())),
        }
    }
}

/// The same pattern with its braces as classes of one character. Inside of a class they mean themselves anyway.
fn without_alternatives(line: &str) -> String {
    let (mut plain, mut in_class, mut escaped) = (String::with_capacity(line.len()), false, false);
    for c in line.chars() {
        match c {
            '{' | '}' if !in_class && !escaped => plain.extend(['[', c, ']']),
            _ => plain.push(c),
        }
        match c {
            '[' if !escaped => in_class = true,
            ']' if !escaped => in_class = false,
            _ => {}
        }
        escaped = c == '\\' && !escaped && !in_class;
    }
    plain
}

/// Takes away what a line ends with on Windows.
trait TrimEndOfLine {
    fn trim_ascii_end_of_line(&self) -> &[u8];
}

impl TrimEndOfLine for [u8] {
    fn trim_ascii_end_of_line(&self) -> &[u8] {
        self.strip_suffix(b"\r").unwrap_or(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(lines: &[&str]) -> Patterns {
        let line = |text: &&str| Line { place: "here".into(), text: text.as_bytes().into() };
        let (patterns, errors) = Patterns::parse(&lines.iter().map(line).collect::<Vec<_>>());
        assert_eq!(errors, []);
        patterns
    }

    #[test]
    fn patterns_mean_what_they_mean_to_git() {
        let set = patterns(&["# a comment", "", "*.tmp", "!keep.tmp", "/top", "build/", "a/**/z", "doc/*.txt", "{x}", "\\!odd", "spa ce "]);
        let is_out = |path: &str, is_directory| matches!(set.decide(path.as_bytes(), is_directory), Verdict::Out(_));
        for path in ["a.tmp", "deep/er/b.tmp", "top", "a/z", "a/b/c/z", "doc/a.txt", "{x}", "deep/{x}", "!odd", "spa ce"] {
            assert!(is_out(path, false), "{path}");
        }
        for path in ["deep/top", "build", "doc/deep/a.txt", "x", "a.tmp.txt", "# a comment"] {
            assert!(!is_out(path, false), "{path}");
        }
        assert!(is_out("deep/build", true));
        assert_eq!(set.decide(b"deep/keep.tmp", false), Verdict::In);
        assert_eq!(set.decide(b"not \xff utf-8.tmp", false), Verdict::Out("'*.tmp' (here)".into()));
    }

    #[test]
    fn what_is_no_pattern_is_named_with_its_place_and_does_not_count() {
        let (patterns, errors) = Patterns::parse(&lines_of("rules", b"\xef\xbb\xbf*.tmp\r\n[a-\nz\xff\n*.bak"));
        let places: Vec<_> = errors.iter().map(|error| (error.place.as_str(), error.text.as_str())).collect();
        assert_eq!(places, [("rules:2", "[a-"), ("rules:3", "z\\xff")]);
        assert!(errors[0].to_string().starts_with("rules:2: '[a-' is no pattern: "), "{}", errors[0]);
        assert_eq!(patterns.decide(b"a.tmp", false), Verdict::Out("'*.tmp' (rules:1)".into()));
        assert_eq!(patterns.decide(b"a.bak", false), Verdict::Out("'*.bak' (rules:4)".into()));
    }

    #[test]
    fn marks_have_a_name_and_perhaps_a_header() {
        let marker = |name: &str, header: &str| Marker { name: Name::new(name.as_bytes()).unwrap(), header: header.into() };
        assert_eq!(Marker::parse(".nobackup"), Ok(marker(".nobackup", "")));
        assert_eq!(Marker::parse("TAG:a:b"), Ok(marker("TAG", "a:b")));
        assert!(Marker::parse("a/b").is_err() && Marker::parse("").is_err());
    }

    #[test]
    fn limits_hold_for_files_only() {
        let at = |seconds| Timestamp::new(seconds, 0).unwrap();
        let rules = Rules { size_max: Some(10), modified_min: Some(at(100)), modified_max: Some(at(200)), ..Rules::default() };
        let entry = |kind, size, mtime| {
            let mut entry = Entry::new(None, kind);
            (entry.size, entry.mtime) = (size, Some(at(mtime)));
            rules.left_out_as(&entry)
        };
        assert_eq!(entry(EntryKind::File, 10, 100), None);
        assert_eq!(entry(EntryKind::File, 10, 200), None);
        assert_eq!(entry(EntryKind::File, 11, 150), Some("too large"));
        assert_eq!(entry(EntryKind::File, 1, 99), Some("too old"));
        assert_eq!(entry(EntryKind::File, 1, 201), Some("too new"));
        assert_eq!(entry(EntryKind::Directory, 11, 1), None);
    }
}
