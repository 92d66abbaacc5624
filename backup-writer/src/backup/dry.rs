//! The dry run: the same walk, the same reading and comparing as a backup, and nothing is written, neither to the store nor on this machine.
//!
//! Contents of files that look new or changed are read, cut, compressed and sealed like in a backup: so what is new is counted and not guessed. It costs the
//! time of a backup without its upload.

use std::sync::Arc;

use fs_core::id::SnapshotId;
use fs_core::observer::Observer;
use fs_core::report::{Finding, Stats};
use fs_core::repository::Repository;
use fs_core::time::Timestamp;

use super::collect::Collector;
use super::named::Named;
use super::start::Start;
use super::walk::Ground;
use super::{BackupError, BackupOptions, Tables, put_tables, run_pipeline};
use crate::changes::ChangeList;
use crate::device;
use crate::pace::Pace;
use crate::packer::{Packer, StageTimes};
use crate::pause::Pauses;
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
    let (started, named) = (repository.clock().now(), Named::of(options)?);
    let device = device::known(repository, options.state.as_deref());
    // Nothing is sent, so no hour is kept.
    let pace = Arc::new(Pace::new(Pauses::default(), Arc::clone(repository.clock())));
    let start = Start::look(repository, (options, None), (started, named), (device, Arc::clone(&pace), FileStates::open_to_read))?;
    let (shared, walk) = (&start.shared, Ground::Live(start.walk()));
    let mut collector = start.collector(Packer::dry(Arc::clone(shared)), observer);
    let root = pace.watched(observer, || run_pipeline(shared, &walk, options, &mut collector))?;
    collector.pulse.check()?;
    let Collector { mut packer, changes, mut stats, findings, .. } = collector;
    let Tables { told, .. } = put_tables(&mut packer, changes, &root.links, &findings, &mut stats)?;
    packer.finish()?.count(&mut stats);
    Ok(DryRun {
        parent: start.parent.as_ref().map(|(id, _)| *id),
        set: start.set.clone(),
        sources: start.named.sources(),
        started,
        ended: repository.clock().now(),
        stats,
        findings,
        times: shared.stages().times(),
        changes: told.spool.map(|spool| Arc::new(ChangeList::Spooled(spool))),
    })
}
