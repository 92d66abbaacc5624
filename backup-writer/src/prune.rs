//! Pruning without locks: what no snapshot needs is condemned by a mark, and deleted by a later run when the mark is due and still nobody needs it.
//!
//! [`Plan::make`] looks and decides, [`Plan::execute`] acts: it sweeps what earlier marks allow, packs anew what is mostly dead, and puts new marks. Backups
//! and drives go on meanwhile. What keeps them safe, in this order: a backup relies on nothing that a mark names, and looks again before its seal; a sweep
//! reads the marks before it walks, walks all trees until the list of snapshots stands still, and deletes a pack only when each record in it that is needed
//! was opened in another one. Rules and reasons: docs/FORMAT.md, section 12; docs/decisions/0013.

use std::sync::Arc;
use std::time::Duration;

use fs_core::id::PackId;
use fs_core::object::{ObjectKind, Signer};
use fs_core::observer::Observer;
use fs_core::report::Finding;
use fs_core::repository::{ReadError, Repository, RepositoryError};
use fs_core::snapshot::mark::GRACE_LEAST;
use fs_core::storage::{StoreError, WriteStore};
use fs_core::time::Timestamp;

use crate::forget::{self, ForgetError};
use crate::merge::GRACE;

mod decide;
mod mark;
mod read;
mod repack;
mod sweep;
mod table;
mod walk;

use decide::Decision;
use table::Table;
use walk::Walk;

/// How much of all packs a run deletes at most, in per cent, unless somebody says otherwise.
pub const DELETE_PERCENT: u8 = 20;

/// How long packs stay that no snapshot has ever named: a first backup over a slow line may take so long.
pub const AGE: Duration = Duration::from_secs(30 * 86_400);

/// What may be done.
#[derive(Clone, Copy, Debug)]
pub struct PruneOptions {
    /// How long what is condemned now stays; at least [`fs_core::snapshot::mark::GRACE_LEAST`].
    pub grace: Duration,
    /// How long packs stay that no listed snapshot names, since the store received them; at least [`fs_core::snapshot::mark::GRACE_LEAST`].
    pub age: Duration,
    /// How much of all packs this run may delete, in per cent.
    pub delete_percent: u8,
    /// Most bytes of records that are packed anew.
    pub repack_bytes: u64,
    /// Whether snapshots that are missing from the list, and that nobody forgot, are given up for lost: they are then forgotten.
    pub missing_is_lost: bool,
}

impl Default for PruneOptions {
    fn default() -> Self {
        Self { grace: GRACE, age: AGE, delete_percent: DELETE_PERCENT, repack_bytes: u64::MAX, missing_is_lost: false }
    }
}

/// Why nothing was pruned, or not all of it. Whatever was done is sound.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// Something that may be what keeps a snapshot is damaged or planted.
    #[error("object {name} cannot be used: {message}")]
    Damaged {
        /// The object.
        name: String,
        /// What is wrong with it.
        message: String,
    },
    /// A tree is damaged, so nobody knows what it needs.
    #[error("{what} cannot be read")]
    Unreadable {
        /// What it is.
        what: String,
        /// Why.
        #[source]
        source: Box<ReadError>,
    },
    /// A snapshot that was there is not listed.
    #[error("snapshot {snapshot} is missing from the list of the store, though nobody forgot it: {by} names it")]
    Missing {
        /// The snapshot.
        snapshot: String,
        /// How that is known.
        by: String,
    },
    /// There are packs and no snapshot at all.
    #[error("no snapshot is listed, though there are {packs} packs")]
    NoSnapshot {
        /// How many.
        packs: usize,
    },
    /// A record that a snapshot needs is nowhere.
    #[error("record {record} of pack {pack} is missing, and a snapshot needs it")]
    Lost {
        /// The record.
        record: String,
        /// Where it should be.
        pack: PackId,
    },
    /// New snapshots came faster than they were looked at.
    #[error("the list of snapshots did not stand still")]
    Unsteady,
    /// A record did not come out as it went in.
    #[error("pack {pack} did not survive packing: memory or processor of this machine may be faulty")]
    NotVerified {
        /// The pack, which was not uploaded.
        pack: PackId,
    },
    /// It was stopped.
    #[error("the run was stopped")]
    Cancelled,
    /// Clocks or snapshots cannot be looked at.
    #[error(transparent)]
    Look(#[from] ForgetError),
    /// A record cannot be read now.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The repository cannot be read.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The store failed.
    #[error("the repository could not be reached")]
    Store(#[from] StoreError),
}

/// Packs, or what is in them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    /// How many.
    pub count: u64,
    /// Bytes of them.
    pub bytes: u64,
}

impl Counted {
    pub(crate) fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// What a run did; of a plan, what it would do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PruneReport {
    /// All packs that are listed.
    pub packs: Counted,
    /// Records that snapshots need, each once.
    pub live: Counted,
    /// Missing snapshots that are given up for lost, and forgotten.
    pub snapshots_lost: u64,
    /// Forgotten snapshots whose manifests are deleted.
    pub snapshots_swept: u64,
    /// Packs that are deleted.
    pub swept: Counted,
    /// Which those are.
    pub deleted: Vec<PackId>,
    /// Packs that are due, and wait for the next run because of the limit.
    pub left: Counted,
    /// Objects that the store does not let go of yet.
    pub deferred: u64,
    /// Marks that are deleted: nothing that they name is there and dead.
    pub marks_removed: u64,
    /// Packs that are condemned now, those of [`Self::repacked`] among them.
    pub condemned: Counted,
    /// Forgotten snapshots that are condemned now.
    pub snapshots_condemned: u64,
    /// Packs of which little is live, and which are packed anew.
    pub repacked: Counted,
    /// Records of those that are live: read, and sent again.
    pub moved: Counted,
    /// Packs that are mostly dead, and left as they are because of the limit.
    pub not_repacked: Counted,
    /// Packs that no snapshot needs and that came so late that a running backup may be about to need them.
    pub young: Counted,
    /// Packs that earlier runs condemned, and that are not due.
    pub pending: Counted,
    /// When the first of what is condemned may be swept, now and before; `None` if nothing is.
    pub next_due: Option<Timestamp>,
    /// Requests that it takes, roughly.
    pub requests: u64,
    /// What is wrong with what is not needed.
    pub findings: Vec<Finding>,
}

/// What is to be done, and what it is based on.
pub struct Plan<'a> {
    repository: &'a Arc<Repository>,
    options: PruneOptions,
    now: Timestamp,
    table: Table,
    walk: Walk<'a>,
    decision: Decision,
    report: PruneReport,
    observer: &'a dyn Observer,
}

impl std::fmt::Debug for Plan<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plan({:?})", self.report)
    }
}

impl<'a> Plan<'a> {
    /// Looks at everything and decides. Nothing is written.
    ///
    /// # Errors
    /// [`PruneError`].
    pub fn make(repository: &'a Arc<Repository>, options: &PruneOptions, observer: &'a dyn Observer) -> Result<Self, PruneError> {
        let looked = forget::look(repository)?;
        // Read before anything is walked: a snapshot that is not seen by the walk was put later, and whoever seals it has seen these marks.
        let marks = Arc::new(repository.marks()?);
        let mut findings = looked.findings;
        findings.extend(marks.findings.iter().cloned());
        let mut table = Table::read(repository, &mut findings)?;
        let is_due = |pack: &PackId| table.at(pack).is_some();
        let is_for_sweep = marks.standing.iter().any(|standing| standing.due <= looked.now && standing.mark.packs.iter().any(is_due));
        let unneeded = (!is_for_sweep).then(|| looked.now.saturating_sub(options.age.max(GRACE_LEAST)));
        let mut walk = Walk::new(repository, (Arc::clone(&marks), looked.now), (options.missing_is_lost, unneeded), observer);
        walk.run(&mut table)?;
        let is_empty = walk.fates.live.is_empty() && walk.fates.protected.is_empty() && walk.fates.due.is_empty();
        if is_empty && !table.packs().is_empty() {
            return Err(PruneError::NoSnapshot { packs: table.packs().len() });
        }
        let mut report = PruneReport { findings, ..PruneReport::default() };
        report.findings.extend(walk.unknown.iter().chain(&walk.told).cloned());
        let decision = Decision::make(&table, (&marks, &walk), (looked.now, options), &mut report);
        Ok(Self { repository, options: *options, now: looked.now, table, walk, decision, report, observer })
    }

    /// What it would do.
    pub fn report(&self) -> &PruneReport {
        &self.report
    }

    /// Bytes of memory that the table of records takes, and how many records and places it holds.
    pub fn memory(&self) -> (usize, usize) {
        (self.table.memory(), self.table.row_count())
    }

    /// Sweeps, packs anew and marks.
    ///
    /// # Errors
    /// [`PruneError`]. Whatever was done is sound, and the same command goes on with it.
    pub fn execute(mut self, store: &dyn WriteStore, signer: &Signer) -> Result<PruneReport, PruneError> {
        let planned = self.report.clone();
        self.report = PruneReport {
            packs: planned.packs,
            live: planned.live,
            left: planned.left,
            not_repacked: planned.not_repacked,
            young: planned.young,
            pending: planned.pending,
            next_due: planned.next_due,
            findings: planned.findings,
            ..PruneReport::default()
        };
        if !self.walk.lost.is_empty() {
            forget::forget(self.repository, store, signer, &self.walk.lost, "missing from the store, and given up for lost")?;
            self.report.snapshots_lost = self.walk.lost.len() as u64;
        }
        self.sweep(store)?;
        let condemned = self.repack(store, signer)?;
        self.mark(store, signer, condemned)?;
        // What was stopped while it packed has marked what was done by then.
        self.is_stopped()?;
        Ok(self.report)
    }

    fn is_stopped(&self) -> Result<(), PruneError> {
        if self.observer.is_cancelled() { Err(PruneError::Cancelled) } else { Ok(()) }
    }
}

/// Whether a kind of pack holds records that this key opens: who prunes opens what it relies on.
fn may_open(repository: &Repository, kind: ObjectKind) -> bool {
    let keys = repository.ring().current();
    let pair = if kind == ObjectKind::DataPack { keys.data.as_ref() } else { Some(&keys.tree) };
    pair.is_some_and(|pair| pair.secret.is_some())
}
