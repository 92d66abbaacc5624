//! Snapshots: the manifest that a backup commits, the seal that makes it count, and the selection of one by what people type.
//!
//! Layout: docs/FORMAT.md, section 12.

use std::sync::Arc;

pub mod attributes;
pub mod codec;
pub mod select;

use attributes::AttributeNames;

use crate::id::{DeviceId, SnapshotId};
use crate::record::Reference;
use crate::report::Stats;
use crate::time::Timestamp;
use crate::tree::Entry;

/// One path that a snapshot was made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourcePath {
    /// The path as the source's system writes it, bytes.
    pub path: Vec<u8>,
    /// Whether the source treats names that differ only in case as one.
    pub case_insensitive: bool,
}

/// The newest manifest seen of another device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// The device.
    pub device: DeviceId,
    /// Its sequence number.
    pub sequence: u64,
    /// The manifest.
    pub manifest: SnapshotId,
}

/// What a backup commits: where the root of its tree is and what it was a backup of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// Who wrote it.
    pub device: DeviceId,
    /// Counts the device's manifests from 1.
    pub sequence: u64,
    /// The device's manifest before this one.
    pub previous: Option<SnapshotId>,
    /// What the device saw of the others.
    pub heads: Vec<Head>,
    /// When the run began, by the device's clock.
    pub started: Timestamp,
    /// When the run ended.
    pub ended: Timestamp,
    /// The same moment by the store's clock.
    pub server_time: Option<Timestamp>,
    /// Host name.
    pub host: String,
    /// Set; empty for the host's default set.
    pub set: String,
    /// What was backed up.
    pub sources: Vec<SourcePath>,
    /// Tags.
    pub tags: Vec<String>,
    /// The root directory.
    pub root: Entry,
    /// Records of the hard-link table with their first position.
    pub link_table: Vec<(u64, Reference)>,
    /// Numbers.
    pub stats: Stats,
    /// Records of the finding list.
    pub findings: Vec<Reference>,
    /// What wrote it.
    pub tool_version: String,
    /// The snapshot that unchanged files were taken from.
    pub parent: Option<SnapshotId>,
    /// Offset of the device's local time from UTC, in minutes.
    pub utc_offset_minutes: i32,
    /// Which extended attributes occur in the tree; `None` if that is not known.
    pub attribute_names: Option<AttributeNames>,
}

/// A snapshot as a repository lists it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Hash of its manifest object.
    pub id: SnapshotId,
    /// What it says.
    pub manifest: Arc<Manifest>,
    /// Whether its seal stands: only sealed snapshots are ever "latest".
    pub sealed: bool,
}
