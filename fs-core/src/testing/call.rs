//! One call to a store, as the wrappers see it.

use std::ops::Range;

use crate::storage::{ObjectName, StoreError};

/// Which method of a store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum CallKind {
    /// `get`
    Get,
    /// `get_range`
    GetRange,
    /// `stat`
    Stat,
    /// `list`
    List,
    /// `server_time`
    ServerTime,
    /// `put_new`
    Put,
    /// `delete`
    Delete,
    /// `retain`
    Retain,
}

/// One call to a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// The method.
    pub kind: CallKind,
    /// The object's name, the prefix of a `list`, empty for `server_time`.
    pub place: String,
    /// The range of a `get_range`; for a `put_new`, all its bytes.
    pub range: Option<Range<u64>>,
}

impl Call {
    /// A call without a range.
    pub fn new(kind: CallKind, place: impl Into<String>) -> Self {
        Self { kind, place: place.into(), range: None }
    }

    pub(super) fn on(kind: CallKind, name: &ObjectName) -> Self {
        Self::new(kind, name.as_str())
    }

    pub(super) fn with_range(kind: CallKind, name: &ObjectName, range: &Range<u64>) -> Self {
        Self { range: Some(range.clone()), ..Self::on(kind, name) }
    }

    /// The call's own failure, as from a connection that broke.
    pub(super) fn failure(&self, text: &str) -> StoreError {
        let source = std::io::Error::new(std::io::ErrorKind::ConnectionReset, text.to_owned());
        StoreError::Failed { place: self.place.clone(), source }
    }
}

pub(super) fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
