//! The dry run: the same walk, the same reading and comparing as a backup, and nothing is written, neither to the store nor on this machine.
//!
//! Contents of files that look new or changed are read, cut, compressed and sealed like in a backup: so what is new is counted and not guessed. It costs the
//! time of a backup without its upload.

use std::collections::HashSet;
use std::sync::Arc;

use fs_core::id::SnapshotId;
use fs_core::observer::Observer;
use fs_core::report::{Finding, Stats};
use fs_core::repository::{ReadError, Repository};
use fs_core::snapshot::Snapshot;
use fs_core::time::Timestamp;

use super::before::Before;
use super::changes::Changes;
use super::collect::Collector;
use super::named::Named;
use super::walk::Walk;
use super::{BackupError, BackupOptions, find_parent, run_pipeline, set_of_paths, write_findings, write_links};
use crate::changes::ChangeList;
use crate::device;
use crate::pace::Pace;
use crate::packer::{Packer, Shared, StageTimes};
use crate::pause::Pauses;
use crate::source;
use crate::state::FileStates;

/// What a backup would do.
#[derive(Clone, Debug)]
pub struct DryRun {
    /// The snapshot that it would be compared with.
    pub parent: Option<SnapshotId>,
    /// The set that it would belong to.
    pub set: String,
    /// What would be saved.
    pub sources: Vec<Vec<u8>>,
    /// When the run began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// Numbers, as the backup would have them but for what it would send.
    pub stats: Stats,
    /// What it met, in the order of the walk.
    pub findings: Vec<Finding>,
    /// Busy times of its threads.
    pub times: StageTimes,
    /// What would become of each entry; `None` if there was no room for the list, or if nobody wanted it.
    pub changes: Option<Arc<ChangeList>>,
}

/// Says what a backup would do.
///
/// # Errors
/// [`BackupError`], where a backup would fail for the same reason.
pub fn dry_run(repository: &Arc<Repository>, options: &BackupOptions, observer: &dyn Observer) -> Result<DryRun, BackupError> {
    let started = repository.clock().now();
    let named = Named::of(options)?;
    let sources = named.sources();
    let device = device::known(repository, options.state.as_deref());
    let snapshots = repository.snapshots()?;
    let set = options.set.clone().map_or_else(|| set_of_paths(&snapshots, &options.host, &sources), Ok)?;
    let parent = find_parent(&snapshots, (&options.host, &set), device);
    let manifest = parent.map(Snapshot::manifest).transpose().map_err(ReadError::from)?;
    // Nothing is sent, so no hour is kept.
    let pace = Arc::new(Pace::new(Pauses::default(), Arc::clone(repository.clock())));
    let shared = Arc::new(Shared::new(Arc::clone(repository), Arc::clone(&pace))?);
    let never: HashSet<_> = options.never.iter().filter_map(|path| source::identity(path)).collect();
    let states = options.state.as_deref().and_then(|folder| FileStates::open_to_read(folder, repository));
    let before = Before {
        shared: &shared,
        parent: manifest.as_ref().map(|parent| (&parent.root, parent.started)),
        is_parent_ours: manifest.as_ref().is_some_and(|parent| Some(parent.device) == device),
        states: states.as_ref(),
        reread: options.reread,
    };
    let key = states.as_ref().map(FileStates::fingerprint_key);
    let walk = Walk::new(&named, (started, &never), options, (repository, parent.is_some()), key);
    let changes = Changes::new(repository, parent.is_some(), options.spool());
    let mut collector = Collector::new(&shared, (Packer::dry(Arc::clone(&shared)), changes), before, started, observer);
    let root = pace.watched(observer, || run_pipeline(&shared, &walk, options, &mut collector))?;
    collector.pulse.check()?;
    let Collector { mut packer, changes, mut stats, findings, .. } = collector;
    let told = changes.finish(&mut packer, &mut stats)?;
    write_links(&mut packer, &root.links)?;
    write_findings(&mut packer, &findings)?;
    let written = packer.finish()?;
    (stats.new_bytes, stats.stored_bytes) = (written.new_bytes, written.stored_bytes);
    Ok(DryRun {
        parent: parent.map(|parent| parent.id),
        set,
        sources,
        started,
        ended: repository.clock().now(),
        stats,
        findings,
        times: shared.stages().times(),
        changes: told.spool.map(|spool| Arc::new(ChangeList::Spooled(spool))),
    })
}
