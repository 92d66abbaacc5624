//! Snapshots: the manifest that a backup commits, the seal that makes it count, and the selection of one by what people type.
//!
//! Layout: docs/FORMAT.md, section 12.

use std::sync::Arc;

pub mod attributes;
pub mod codec;
pub(crate) mod kept;
pub mod mark;
pub mod select;
pub mod tombstone;

use attributes::AttributeNames;
use kept::{Kept, Recent};

use crate::id::{DeviceId, RepositoryId, SnapshotId};
use crate::object::ObjectError;
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

/// What a snapshot was copied from: a snapshot of a repository with other keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Original {
    /// The repository.
    pub repository: RepositoryId,
    /// Its snapshot.
    pub snapshot: SnapshotId,
    /// When it was copied, by the device's clock: all other times are those of the original.
    pub copied: Timestamp,
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
    /// Records of the list of changes: all rows but those that the tree itself tells, which are the new entries of a snapshot without a parent.
    pub changes: Vec<Reference>,
    /// What it is a copy of; `None` if it was taken of a source.
    pub original: Option<Original>,
}

impl Manifest {
    /// When it came into the repository: by the store's clock, or if that has none by the device's.
    pub fn committed(&self) -> Timestamp {
        self.server_time.unwrap_or_else(|| self.original.map_or(self.ended, |original| original.copied))
    }
}

/// What many snapshots have in common, kept once for all of them.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Series {
    /// Who wrote them.
    pub device: DeviceId,
    /// Host name.
    pub host: String,
    /// Set; empty for the host's default set.
    pub set: String,
    /// Tags.
    pub tags: Vec<String>,
    /// Which extended attributes occur in each tree; `None` if that is not known.
    pub attribute_names: Option<AttributeNames>,
}

impl Series {
    /// That of a manifest.
    pub fn of(manifest: &Manifest) -> Self {
        Self {
            device: manifest.device,
            host: manifest.host.clone(),
            set: manifest.set.clone(),
            tags: manifest.tags.clone(),
            attribute_names: manifest.attribute_names.clone(),
        }
    }
}

/// What is at hand of every snapshot. The rest of its manifest is kept compressed and decoded for those who ask.
#[derive(Clone, Debug)]
pub struct Outline {
    /// What it has in common with others.
    pub series: Arc<Series>,
    /// Counts the device's manifests from 1.
    pub sequence: u64,
    /// When the run began, by the device's clock.
    pub started: Timestamp,
    pub(crate) kept: Kept,
}

/// A snapshot as a repository lists it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Hash of its manifest object.
    pub id: SnapshotId,
    /// Whether its seal stands: only sealed snapshots are ever "latest".
    pub sealed: bool,
    /// What is at hand of its manifest.
    pub outline: Outline,
}

/// What this machine keeps of a manifest is of no use: it was checked when it came.
#[derive(Debug, thiserror::Error)]
#[error("what is kept of snapshot {snapshot} cannot be read")]
pub struct ManifestError {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// What is wrong.
    #[source]
    pub source: ObjectError,
}

impl Snapshot {
    /// A snapshot of a manifest.
    pub fn new(id: SnapshotId, manifest: &Manifest, sealed: bool) -> Self {
        let (series, kept) = (Arc::new(Series::of(manifest)), Kept::alone(&manifest.encode(), &Recent::default()));
        Self { id, sealed, outline: Outline { series, sequence: manifest.sequence, started: manifest.started, kept } }
    }

    /// All that it says, decoded anew. Costs some microseconds, a few more if its neighbours were not asked for just before.
    ///
    /// # Errors
    /// [`ManifestError`], if what was kept on this machine is of no use.
    pub fn manifest(&self) -> Result<Manifest, ManifestError> {
        self.outline.kept.read(Manifest::decode).map_err(|source| ManifestError { snapshot: self.id, source })
    }

    /// Who wrote it.
    pub fn device(&self) -> DeviceId {
        self.outline.series.device
    }

    /// Counts the device's manifests from 1.
    pub fn sequence(&self) -> u64 {
        self.outline.sequence
    }

    /// When the run began, by the device's clock.
    pub fn started(&self) -> Timestamp {
        self.outline.started
    }

    /// Host name.
    pub fn host(&self) -> &str {
        &self.outline.series.host
    }

    /// Set; empty for the host's default set.
    pub fn set(&self) -> &str {
        &self.outline.series.set
    }

    /// Tags.
    pub fn tags(&self) -> &[String] {
        &self.outline.series.tags
    }
}
