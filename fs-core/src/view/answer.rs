//! What operations on a view answer, and whether they may wait for it.

use super::attr::Attr;
use super::error::ViewError;
use crate::repository::ReadError;
use crate::tree::TreeError;

/// Whether an operation may wait for the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patience {
    /// Answer from memory or not at all.
    None,
    /// Whatever it takes, up to the deadline of the store.
    Wait,
}

/// Why an operation gave no answer.
#[derive(Debug)]
pub enum Stop {
    /// It would have to wait for the store: ask again with patience.
    WouldWait,
    /// It failed.
    Failed(ViewError),
}

impl From<ViewError> for Stop {
    fn from(error: ViewError) -> Self {
        Self::Failed(error)
    }
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Self {
        Self::Failed(if error.is_damage() { ViewError::Damaged(error) } else { ViewError::Unreachable(error) })
    }
}

impl From<TreeError> for Stop {
    fn from(error: TreeError) -> Self {
        ReadError::from(error).into()
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
