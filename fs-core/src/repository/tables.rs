//! What a run has stored of itself: findings and changes, a record at a time.

use super::{ReadError, Repository, malformed};
use crate::record::{RecordKind, Reference};
use crate::report::Finding;
use crate::tree::change::Change;
use crate::tree::codec::{decode_changes, decode_findings};

impl Repository {
    /// Findings that were stored with a snapshot.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn stored_findings(&self, reference: &Reference) -> Result<Vec<Finding>, ReadError> {
        decode_findings(&self.read_record(RecordKind::Table, reference)?).map_err(malformed(reference))
    }

    /// Changes that were stored with a snapshot.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn stored_changes(&self, reference: &Reference) -> Result<Vec<Change>, ReadError> {
        decode_changes(&self.read_record(RecordKind::Table, reference)?).map_err(malformed(reference))
    }
}
