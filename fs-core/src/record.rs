//! Records: one sealed piece of content or of a tree, and the reference that finds and opens it.
//!
//! Layout: docs/FORMAT.md, sections 6 and 9.

use crate::compress::Codec;
use crate::id::{PackId, RecordId};

/// What a record holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RecordKind {
    /// One chunk of file data.
    Data,
    /// One tree page or page index.
    Tree,
    /// One chunk list.
    List,
    /// One part of a side table.
    Table,
}

/// The HPKE value of the session that sealed a record, and that session's key epoch: what is needed to open it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionKeyRef {
    /// Key epoch.
    pub epoch: u16,
    /// HPKE encapsulated key of the record kind's key pair.
    pub enc: [u8; 32],
}

/// A record's id with a hint where it lies.
///
/// Id, lengths, codec and session are facts; pack and offset may be out of date, then the index knows better.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Reference {
    /// The record.
    pub id: RecordId,
    /// Plaintext length in bytes.
    pub plain_len: u32,
    /// Length in the pack in bytes.
    pub stored_len: u32,
    /// Offset in the pack in bytes.
    pub offset: u32,
    /// How the plaintext is compressed.
    pub codec: Codec,
    /// The pack.
    pub pack: PackId,
    /// What opens it.
    pub session: SessionKeyRef,
}
