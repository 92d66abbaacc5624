//! What an operation did and found. Numbers are counted once, by the operation, and only shown elsewhere.

use crate::path::TreePath;

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Severity {
    /// Worth knowing; nothing is missing.
    Note,
    /// Something was left out or could not be kept in full.
    Warning,
    /// Something is damaged or was lost.
    Error,
}

impl Severity {
    /// The word used in JSON records and in the repository.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing that an operation met and went on after.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Where: a path in the source or snapshot, or the name of an object.
    pub place: Place,
    /// What, in one sentence without a full stop, and what to do about it.
    pub message: String,
}

/// Where a finding belongs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// A path in a source or snapshot.
    Path(TreePath),
    /// An object in the store, by name.
    Object(String),
    /// The operation as a whole.
    Operation,
}

impl Finding {
    /// A finding about a path.
    pub fn at(severity: Severity, path: TreePath, message: impl Into<String>) -> Self {
        Self { severity, place: Place::Path(path), message: message.into() }
    }

    /// A finding about an object.
    pub fn object(severity: Severity, name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity, place: Place::Object(name.into()), message: message.into() }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Place::Path(path) => write!(f, "{path}: {}", self.message),
            Place::Object(name) => write!(f, "{name}: {}", self.message),
            Place::Operation => f.write_str(&self.message),
        }
    }
}

/// Whether findings that mean an incomplete result are among them: the exit code 3 of the commands.
pub fn is_incomplete(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity >= Severity::Warning)
}

/// Numbers of a backup, as they stand in the manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Regular files in the snapshot.
    pub file_count: u64,
    /// Directories in the snapshot.
    pub directory_count: u64,
    /// All other entries.
    pub other_count: u64,
    /// Bytes of all files, holes included.
    pub byte_count: u64,
    /// Files that the parent snapshot did not have; without one, all.
    pub new_count: u64,
    /// Files that differ from the parent snapshot, in content or in what else is saved of them.
    pub changed_count: u64,
    /// Files that are as in the parent snapshot, read again or not.
    pub unchanged_count: u64,
    /// Entries that could not be saved or only in part.
    pub failed_count: u64,
    /// Plaintext bytes of records that were new to the repository.
    pub new_bytes: u64,
    /// The same records as stored: compressed and sealed.
    pub stored_bytes: u64,
    /// Files of the parent snapshot that the source has no more.
    pub removed_count: u64,
    /// Files of the parent snapshot that rules or the choice of paths leave out now.
    pub left_out_count: u64,
    /// Bytes of the new files, and of the others in the same way: as they are now, and of what is gone as they were.
    pub new_size: u64,
    /// Bytes of the changed files.
    pub changed_size: u64,
    /// Bytes of the unchanged files.
    pub unchanged_size: u64,
    /// Bytes of the removed files.
    pub removed_size: u64,
    /// Bytes of the files that are left out now.
    pub left_out_size: u64,
    /// Bytes of what could not be saved, as far as they are known.
    pub failed_size: u64,
    /// Bytes of contents that were read from the source; holes are not read.
    pub read_bytes: u64,
    /// Bytes of the packs that were sent to the store, with their filling.
    pub sent_bytes: u64,
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
