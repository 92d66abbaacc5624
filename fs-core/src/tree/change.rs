//! What became of an entry from one snapshot to the next: the rows of the list that every run keeps. Their bytes: `codec/tables.rs`.

use super::EntryKind;
use crate::path::TreePath;
use crate::time::Timestamp;

/// What became of an entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ChangeKind {
    /// The parent snapshot has no such entry.
    New,
    /// It differs from the one in the parent snapshot: in its content or in what else is saved of it.
    Changed,
    /// The parent snapshot has it, the source has it no more.
    Removed,
    /// The parent snapshot has it, the source may still have it: rules or the choice of paths leave it out now.
    LeftOut,
    /// It could not be saved, or only in part.
    Failed,
}

impl ChangeKind {
    /// All kinds with their numbers in the format.
    pub const ALL: [(u8, Self); 5] = [(1, Self::New), (2, Self::Changed), (3, Self::Removed), (4, Self::LeftOut), (5, Self::Failed)];

    /// The word used in records and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Changed => "changed",
            Self::Removed => "removed",
            Self::LeftOut => "left_out",
            Self::Failed => "failed",
        }
    }
}

/// One row of the list. Directories have none, unless they could not be read.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Change {
    /// Where it stands or stood.
    pub path: TreePath,
    /// What became of it.
    pub kind: ChangeKind,
    /// What it is, or was; `None` if that could not be found out.
    pub entry_kind: Option<EntryKind>,
    /// Bytes it has now; `None` if it is gone or not known.
    pub size: Option<u64>,
    /// Bytes it had in the parent snapshot; `None` if it was not there.
    pub size_before: Option<u64>,
    /// Its time of modification; of what is gone, the last one that is known.
    pub mtime: Option<Timestamp>,
}
