//! Forgetting: snapshots vanish from lists and drives by signed tombstones, and come back by more of them. Nothing is deleted here: that is [`crate::prune`].
//!
//! Called by `forget`. What is to be forgotten is the caller's choice: by name, or by rules ([`crate::retention`]).

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use fs_core::crypto::random_array;
use fs_core::id::{ObjectHash, RunId, SnapshotId};
use fs_core::object::{self, ObjectKind, Signer};
use fs_core::report::{Finding, Place, Severity};
use fs_core::repository::{Forgotten, ReadError, Repository, RepositoryError, Snapshots};
use fs_core::snapshot::tombstone::{ROWS_MAX, Saying, Tombstones};
use fs_core::storage::{StoreError, WriteStore, wait};
use fs_core::time::Timestamp;

use crate::create::put_hashed;
use crate::device::{self, DeviceError};
use crate::retention::Candidate;

/// Clocks that differ by more are worth a note.
const SKEW_NOTED: Duration = Duration::from_secs(3600);
/// Nothing is brought back so shortly before a prune may sweep it: what is written down now has to be there by then. A quarter of the shortest grace.
const UNDO_MARGIN: Duration = Duration::from_secs(12 * 3600);

/// Why nothing was forgotten, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    /// Neither an owner nor a maintainer.
    #[error("this key may not forget snapshots, nor undo that: it takes the owner's or a maintainer's")]
    NotAllowed,
    /// This machine cannot sign.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The repository cannot be read.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A manifest cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A prune has condemned it long ago, and may be deleting it.
    #[error("snapshot {snapshot} cannot be brought back any more: a prune has condemned it, and deletes it from {due} on")]
    TooLate {
        /// The snapshot.
        snapshot: String,
        /// When it may be swept.
        due: Timestamp,
    },
    /// The tombstones could not be put.
    #[error("what is forgotten could not be written down")]
    Store(#[from] StoreError),
}

/// What rules are asked about.
#[derive(Clone, Debug)]
pub struct Looked {
    /// All snapshots.
    pub snapshots: Snapshots,
    /// What rules look at of the live ones, in the same order.
    pub candidates: Vec<Candidate>,
    /// The moment that counts as now: see [`look`].
    pub now: Timestamp,
    /// What is wrong with objects or clocks.
    pub findings: Vec<Finding>,
}

impl Looked {
    /// Whether all tombstones could be read. If not, forgotten snapshots may look alive, and rules would let go of others in their place.
    pub fn is_whole(&self) -> bool {
        let is_tombstone = |place: &Place| matches!(place, Place::Object(name) if name.starts_with(ObjectKind::Tombstones.prefix()));
        !self.findings.iter().any(|finding| finding.severity == Severity::Error && is_tombstone(&finding.place))
    }
}

/// Lists the snapshots and asks what time it is.
///
/// Of this machine's clock and the store's the earlier one counts, so that one that runs ahead makes nothing old. If the store has no clock, it is not later
/// than the newest snapshot either.
///
/// # Errors
/// [`ForgetError`].
pub fn look(repository: &Repository) -> Result<Looked, ForgetError> {
    // Asked first: what is committed meanwhile is dated later, and does not count yet.
    let (here, server) = (repository.clock().now(), wait("clock", repository.store().server_time())?);
    let mut snapshots = repository.all_snapshots()?;
    let candidates = snapshots.live.iter().map(Candidate::of).collect::<Result<Vec<_>, _>>().map_err(ReadError::from)?;
    let newest = || candidates.iter().map(Candidate::dated).filter(|dated| *dated <= here).max();
    let now = server.or_else(newest).map_or(here, |other| other.min(here));
    let mut findings = std::mem::take(&mut snapshots.findings);
    findings.extend(server.and_then(|server| skew(here, server)));
    Ok(Looked { snapshots, candidates, now, findings })
}

fn skew(here: Timestamp, server: Timestamp) -> Option<Finding> {
    let apart = here.since(server).max(server.since(here));
    let message = format!("this machine's clock says {here}, the store's {server}: the earlier one counts");
    (apart > SKEW_NOTED).then_some(Finding { severity: Severity::Note, place: Place::Operation, message })
}

/// The signer of this machine, if it may forget. `label` is its name for people should it be new.
///
/// # Errors
/// [`ForgetError::NotAllowed`]; [`ForgetError::Device`].
pub fn authorise(repository: &Repository, store: &dyn WriteStore, state: Option<&Path>, label: &str) -> Result<Signer, ForgetError> {
    if !repository.ring().role.may_forget() {
        return Err(ForgetError::NotAllowed);
    }
    let signer = device::open(repository, store, state, label)?;
    // What counts is the certificate, not the key that is at hand.
    let certificate = repository.certificate(&signer.device)?.filter(|certificate| certificate.role.may_forget());
    certificate.map(|_| signer).ok_or(ForgetError::NotAllowed)
}

/// Forgets snapshots. They are back as soon as what this wrote is undone.
///
/// # Errors
/// [`ForgetError`]. Of very many snapshots some may be forgotten then, and the same call forgets the others.
pub fn forget(
    repository: &Repository,
    store: &dyn WriteStore,
    signer: &Signer,
    snapshots: &BTreeSet<SnapshotId>,
    why: &str,
) -> Result<RunId, ForgetError> {
    let rows: Vec<_> = snapshots.iter().copied().collect();
    put(repository, store, signer, why, rows.chunks(ROWS_MAX).map(|part| (part.to_vec(), Vec::new()))).map(|(run, _)| run)
}

/// Of forgotten snapshots those that cannot be brought back for certain any more, each with the moment from which on a prune may sweep it.
///
/// # Errors
/// [`ForgetError`].
pub fn too_late(repository: &Repository, forgotten: &[&Forgotten]) -> Result<Vec<(SnapshotId, Timestamp)>, ForgetError> {
    let server = wait("clock", repository.store().server_time())?;
    // A sweep goes by the earlier clock, this by the later one.
    let now = repository.clock().now();
    let now = server.map_or(now, |server| server.max(now)).saturating_add(UNDO_MARGIN);
    let marks = repository.marks()?;
    let due = |forgotten: &&Forgotten| Some((forgotten.snapshot.id, marks.due(forgotten)?));
    Ok(forgotten.iter().filter_map(due).filter(|(_, due)| *due <= now).collect())
}

/// Brings back what is forgotten: undoes everything that says so of these snapshots.
///
/// # Errors
/// [`ForgetError::TooLate`] if a prune may sweep one of them soon: nothing is brought back then. Otherwise as [`forget`].
pub fn undo<'a>(
    repository: &Repository,
    store: &dyn WriteStore,
    signer: &Signer,
    forgotten: impl IntoIterator<Item = &'a Forgotten>,
) -> Result<RunId, ForgetError> {
    let forgotten: Vec<_> = forgotten.into_iter().collect();
    let expect_time = || match too_late(repository, &forgotten)?.first() {
        Some((id, due)) => Err(ForgetError::TooLate { snapshot: id.short(), due: *due }),
        None => Ok(()),
    };
    expect_time()?;
    let rows_of = |forgotten: &&'a Forgotten| forgotten.by.iter().map(|(hash, _)| (*hash, forgotten.snapshot.id)).collect::<Vec<_>>();
    let (run, said) = put_undone(repository, store, signer, "undone", forgotten.iter().flat_map(rows_of).collect())?;
    // A machine may have slept for days before it was put. Marks are looked at first: one goes after what it names.
    let expect_there = || {
        let listed: BTreeSet<_> = repository.all_snapshots()?.all().map(|snapshot| snapshot.id).collect();
        match forgotten.iter().find(|forgotten| !listed.contains(&forgotten.snapshot.id)) {
            Some(gone) => Err(ForgetError::TooLate { snapshot: gone.snapshot.id.short(), due: repository.clock().now() }),
            None => Ok(()),
        }
    };
    let is_in_time = expect_time().and_then(|()| expect_there());
    if is_in_time.is_err() {
        // What may be deleted by now must not look alive, nor what is deleted look lost: all is as it was, what is due included.
        put_undone(repository, store, signer, "undone too late", said)?;
    }
    is_in_time.map(|()| run)
}

/// Undoes what was said. What the objects say that this took.
fn put_undone(
    repository: &Repository,
    store: &dyn WriteStore,
    signer: &Signer,
    why: &str,
    undone: BTreeSet<Saying>,
) -> Result<(RunId, BTreeSet<Saying>), ForgetError> {
    let rows: Vec<_> = undone.into_iter().collect();
    let (run, hashes) = put(repository, store, signer, why, rows.chunks(ROWS_MAX).map(|part| (Vec::new(), part.to_vec())))?;
    let said = rows.chunks(ROWS_MAX).zip(hashes).flat_map(|(part, hash)| part.iter().map(move |(_, id)| (hash, *id)));
    Ok((run, said.collect()))
}

/// Puts objects of tombstones, of one run. Their hashes, in order.
fn put(
    repository: &Repository,
    store: &dyn WriteStore,
    signer: &Signer,
    why: &str,
    parts: impl Iterator<Item = (Vec<SnapshotId>, Vec<Saying>)>,
) -> Result<(RunId, Vec<ObjectHash>), ForgetError> {
    let random = &**repository.random();
    let run = RunId::from_bytes(random_array(random));
    let (time, server_time) = (repository.clock().now(), wait("clock", store.server_time())?);
    let mut hashes = Vec::new();
    for (forgotten, undone) in parts {
        let tombstones = Tombstones { run, device: signer.device, time, server_time, why: why.to_owned(), forgotten, undone };
        let object = tombstones.encode_object(repository.ring(), signer, random);
        hashes.push(put_hashed(store, object, |hash| object::run_name(ObjectKind::Tombstones, &run, hash))?);
    }
    Ok((run, hashes))
}
