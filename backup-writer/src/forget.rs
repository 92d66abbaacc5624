//! Forgetting: snapshots vanish from lists and drives by signed tombstones, and come back by more of them. Nothing is deleted here.
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
use fs_core::snapshot::tombstone::{ROWS_MAX, Tombstones};
use fs_core::storage::{StoreError, WriteStore, wait};
use fs_core::time::Timestamp;

use crate::create::put_hashed;
use crate::device::{self, DeviceError};
use crate::retention::Candidate;

/// Clocks that differ by more are worth a note.
const SKEW_NOTED: Duration = Duration::from_secs(3600);

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
        !self.findings.iter().any(|finding| is_tombstone(&finding.place))
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
    put(repository, store, signer, why, rows.chunks(ROWS_MAX).map(|part| (part.to_vec(), Vec::new())))
}

/// Brings back what is forgotten: undoes everything that says so of these snapshots.
///
/// # Errors
/// As [`forget`].
pub fn undo<'a>(
    repository: &Repository,
    store: &dyn WriteStore,
    signer: &Signer,
    forgotten: impl IntoIterator<Item = &'a Forgotten>,
) -> Result<RunId, ForgetError> {
    let rows_of = |forgotten: &'a Forgotten| forgotten.by.iter().map(|(hash, _)| (*hash, forgotten.snapshot.id));
    let rows: BTreeSet<(ObjectHash, SnapshotId)> = forgotten.into_iter().flat_map(rows_of).collect();
    let rows: Vec<_> = rows.into_iter().collect();
    put(repository, store, signer, "undone", rows.chunks(ROWS_MAX).map(|part| (Vec::new(), part.to_vec())))
}

fn put(
    repository: &Repository,
    store: &dyn WriteStore,
    signer: &Signer,
    why: &str,
    parts: impl Iterator<Item = (Vec<SnapshotId>, Vec<(ObjectHash, SnapshotId)>)>,
) -> Result<RunId, ForgetError> {
    let random = &**repository.random();
    let run = RunId::from_bytes(random_array(random));
    let (time, server_time) = (repository.clock().now(), wait("clock", store.server_time())?);
    for (forgotten, undone) in parts {
        let tombstones = Tombstones { run, device: signer.device, time, server_time, why: why.to_owned(), forgotten, undone };
        let object = tombstones.encode_object(repository.ring(), signer, random);
        put_hashed(store, object, |hash| object::tombstones_name(&run, hash))?;
    }
    Ok(run)
}
