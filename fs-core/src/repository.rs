//! Repository: a store with its keys and index. It speaks records: loads them verified, lists snapshots.

use std::sync::Arc;

use bytes::Bytes;

use crate::id::{PackId, RecordId};
use crate::record::Reference;
use crate::snapshot::Snapshot;
use crate::storage::StoreError;
use crate::tree::{LinkRow, List, Page};

/// Why a record could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Neither the hint nor the index finds it.
    #[error("record {id} is missing from the repository")]
    Missing {
        /// The record.
        id: RecordId,
    },
    /// Its bytes do not authenticate, decompress, hash or decode.
    #[error("record {id} in pack {pack} at byte {offset} is damaged: {reason}")]
    Damaged {
        /// The record.
        id: RecordId,
        /// Where it was read.
        pack: PackId,
        /// Where in the pack.
        offset: u32,
        /// Which check failed.
        reason: String,
    },
    /// The store failed.
    #[error("a record could not be fetched")]
    Store(#[from] StoreError),
}

/// An open repository for reading. Shared between threads behind an [`Arc`].
#[derive(Debug)]
pub struct Repository {}

impl Repository {
    /// All snapshots, sealed or not, oldest first. Lists the store; manifests seen before are not read again.
    ///
    /// # Errors
    /// If the store cannot be listed. A manifest that does not open is left out here and is a finding of `check`.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>, ReadError> {
        unimplemented!()
    }

    /// A tree page, if it is in memory. Never blocks.
    pub fn cached_page(&self, id: &RecordId) -> Option<Arc<Page>> {
        let _ = id;
        unimplemented!()
    }

    /// A tree page. May wait for the store: at most one ranged read where the hint is right.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn page(&self, reference: &Reference) -> Result<Arc<Page>, ReadError> {
        let _ = reference;
        unimplemented!()
    }

    /// A list record, if it is in memory. Never blocks.
    pub fn cached_list(&self, id: &RecordId) -> Option<Arc<List>> {
        let _ = id;
        unimplemented!()
    }

    /// A list record. May wait for the store.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn list(&self, reference: &Reference) -> Result<Arc<List>, ReadError> {
        let _ = reference;
        unimplemented!()
    }

    /// Rows of one record of a hard-link table.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn link_rows(&self, reference: &Reference) -> Result<Arc<Vec<LinkRow>>, ReadError> {
        let _ = reference;
        unimplemented!()
    }

    /// A data record's plaintext, if it is in memory. Never blocks.
    pub fn cached_data(&self, id: &RecordId) -> Option<Bytes> {
        let _ = id;
        unimplemented!()
    }

    /// A data record's plaintext. May wait for the store.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn data(&self, reference: &Reference) -> Result<Bytes, ReadError> {
        let _ = reference;
        unimplemented!()
    }
}
