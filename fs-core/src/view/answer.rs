//! What operations on a view answer.

use super::attr::Attr;
use super::error::ViewError;
use crate::repository::{Pause, ReadError, Want};
use crate::tree::TreeError;

/// Why an operation gave no answer.
#[derive(Debug)]
pub enum Stop {
    /// These records are not in memory: ask again when they are.
    Missing(Vec<Want>),
    /// It failed.
    Failed(ViewError),
}

impl From<ViewError> for Stop {
    fn from(error: ViewError) -> Self {
        Self::Failed(error)
    }
}

impl From<ReadError> for ViewError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Key { .. } => Self::Closed(error),
            error if error.is_damage() => Self::Damaged(error),
            error => Self::Unreachable(error),
        }
    }
}

impl From<Pause> for Stop {
    fn from(pause: Pause) -> Self {
        match pause {
            Pause::Missing(wants) => Self::Missing(wants),
            Pause::Failed(error) => Self::Failed(error.into()),
        }
    }
}

impl From<TreeError> for Stop {
    fn from(error: TreeError) -> Self {
        Self::Failed(ReadError::from(error).into())
    }
}

/// What an operation answers.
pub type Answer<T> = Result<T, Stop>;

/// One line of a directory.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Name; `.` and `..` included.
    pub name: Vec<u8>,
    /// What `stat` would tell.
    pub attr: Attr,
    /// Where to go on after this line.
    pub next: u64,
    /// Whether the name may come to mean something else: then nobody should remember it for long.
    pub moves: bool,
}
