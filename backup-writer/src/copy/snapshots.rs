//! Snapshots of one repository saved again into another one, which has keys of its own: opened here, cut and sealed there.
//!
//! Each is a new snapshot of the other repository, signed by this machine, with all that the original says of its source. By what it says it is a copy of, the next
//! run knows what need not be copied again.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use fs_core::compress::Compression;
use fs_core::id::{RepositoryId, SnapshotId};
use fs_core::observer::Observer;
use fs_core::report::Finding;
use fs_core::repository::{Repository, RepositoryError, Snapshots};
use fs_core::snapshot::{Manifest, ManifestError, Snapshot};
use fs_core::storage::WriteStore;

use crate::backup::{Again, BackupError, BackupOptions, BackupReport, Known, backup_again};
use crate::pause::Pauses;
use crate::source::rules::Rules;

/// How snapshots are copied.
#[derive(Clone, Debug)]
pub struct SnapshotCopyOptions {
    /// The name of this machine, should it be new to the other repository.
    pub machine: String,
    /// The other repository's local state folder; `None` to keep nothing locally.
    pub state: Option<PathBuf>,
    /// How hard contents are compressed.
    pub compression: Compression,
}

/// One snapshot that was copied.
#[derive(Clone, Debug)]
pub struct Copied {
    /// The original.
    pub original: SnapshotId,
    /// What saving it again did.
    pub report: BackupReport,
}

/// Why a snapshot was not copied. Those before it are.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotCopyError {
    /// Both are one repository.
    #[error("both are repository {id}: 'copy' without --snapshots keeps a second copy of it")]
    Same {
        /// Which.
        id: RepositoryId,
    },
    /// The repository that is copied cannot be read.
    #[error(transparent)]
    From(RepositoryError),
    /// The other repository cannot be read.
    #[error(transparent)]
    To(RepositoryError),
    /// What is kept of a snapshot is of no use.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// One of them could not be saved again.
    #[error("snapshot {} could not be copied", .snapshot.short())]
    Copy {
        /// The original.
        snapshot: SnapshotId,
        /// Why.
        #[source]
        source: BackupError,
    },
}

/// What is to be copied from one repository to another.
#[derive(Debug)]
pub struct SnapshotCopy {
    from: Arc<Repository>,
    to: Arc<Repository>,
    snapshots: Snapshots,
    /// What was copied before: originals by the ids of their copies.
    copies: HashMap<SnapshotId, SnapshotId>,
    /// Those to copy, oldest first.
    pub missing: Vec<Snapshot>,
    /// Those that were copied before.
    pub copied_before: u64,
    /// Those that are copies of what the other repository has, or had, itself.
    pub at_home: u64,
    /// What is wrong with the list of snapshots.
    pub findings: Vec<Finding>,
}

impl SnapshotCopy {
    /// Looks at both repositories: which snapshots are to be copied, of all that are sealed and not forgotten, or of those that `wanted` names. Nothing is written.
    ///
    /// # Errors
    /// [`SnapshotCopyError`].
    pub fn look(from: &Arc<Repository>, to: &Arc<Repository>, wanted: Option<&HashSet<SnapshotId>>) -> Result<Self, SnapshotCopyError> {
        if from.id() == to.id() {
            return Err(SnapshotCopyError::Same { id: from.id() });
        }
        from.expect_contents().map_err(SnapshotCopyError::From)?;
        let snapshots = from.all_snapshots().map_err(SnapshotCopyError::From)?;
        let mut copies = HashMap::new();
        // Forgotten ones count: who let go of a copy does not want it back with the next run.
        for copy in to.snapshots_before().map_err(SnapshotCopyError::To)?.all().filter(|copy| copy.sealed) {
            if let Some(original) = copy.manifest()?.original.filter(|original| original.repository == from.id()) {
                copies.insert(copy.id, original.snapshot);
            }
        }
        let there: HashSet<_> = copies.values().copied().collect();
        let (mut missing, mut copied_before, mut at_home) = (Vec::new(), 0, 0);
        for snapshot in
            snapshots.live.iter().filter(|snapshot| snapshot.sealed && wanted.is_none_or(|wanted| wanted.contains(&snapshot.id)))
        {
            if there.contains(&snapshot.id) {
                copied_before += 1;
            } else if snapshot.manifest()?.original.is_some_and(|original| original.repository == to.id()) {
                at_home += 1;
            } else {
                missing.push(snapshot.clone());
            }
        }
        let findings = snapshots.findings.clone();
        Ok(Self { from: Arc::clone(from), to: Arc::clone(to), snapshots, copies, missing, copied_before, at_home, findings })
    }

    /// Copies them, oldest first, and tells of each when it is there.
    ///
    /// # Errors
    /// [`SnapshotCopyError`]: those that were told of are copied, and the next run goes on.
    pub fn run(
        mut self,
        store: &Arc<dyn WriteStore>,
        options: &SnapshotCopyOptions,
        observer: &dyn Observer,
        each: &mut dyn FnMut(&Copied),
    ) -> Result<(), SnapshotCopyError> {
        let known = Known::default();
        for snapshot in std::mem::take(&mut self.missing) {
            let manifest = snapshot.manifest()?;
            let again = Again {
                repository: &self.from,
                snapshots: &self.snapshots,
                snapshot: snapshot.id,
                manifest: &manifest,
                copies: &self.copies,
                known: &known,
                machine: &options.machine,
            };
            let report = backup_again(&self.to, store, (&backup_options(&manifest, options), &again), observer)
                .map_err(|source| SnapshotCopyError::Copy { snapshot: snapshot.id, source })?;
            self.copies.insert(report.snapshot, snapshot.id);
            each(&Copied { original: snapshot.id, report });
        }
        Ok(())
    }
}

/// What a backup takes from its options, from the original.
fn backup_options(manifest: &Manifest, options: &SnapshotCopyOptions) -> BackupOptions {
    BackupOptions {
        paths: Vec::new(),
        shown_as: Vec::new(),
        devices: Vec::new(),
        streams: Vec::new(),
        host: manifest.host.clone(),
        set: Some(manifest.set.clone()),
        tags: manifest.tags.clone(),
        rules: Rules::default(),
        never: Vec::new(),
        state: options.state.clone(),
        gentle: false,
        shadow_copies: false,
        reread: false,
        compression: options.compression,
        pauses: Pauses::default(),
        utc_offset_minutes: manifest.utc_offset_minutes,
        tool_version: manifest.tool_version.clone(),
        keep_changes: false,
    }
}
