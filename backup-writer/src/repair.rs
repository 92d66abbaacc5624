//! `repair_index()`: writes anew what the index lacks, from the trailers of the packs. It only ever adds.

use std::collections::HashSet;

use fs_core::crypto::Key;
use fs_core::index::digest::SetDigest;
use fs_core::index::{Shard, ShardPack};
use fs_core::object::{self, Signer};
use fs_core::observer::{Observer, Progress};
use fs_core::pack::Trailer;
use fs_core::report::{Finding, Severity};
use fs_core::repository::{Repository, RepositoryError};
use fs_core::storage::{ObjectName, StoreError, WriteStore};

use crate::packer::{ASKED_MAX, list_packs, put_shard, read_trailers, shard_entries_max};

/// So many packs in a row that cannot be read are no damage to them.
const FAILURES_MAX: u32 = 16;

/// How to repair.
#[derive(Clone, Copy, Debug, Default)]
pub struct RepairOptions {
    /// Whether the trailers of all packs are read and compared with the index, also of those that a shard names.
    pub all: bool,
}

/// What a repair found and added.
#[derive(Clone, Debug, Default)]
pub struct RepairReport {
    /// Packs that are listed.
    pub pack_count: u64,
    /// Packs whose trailers were read.
    pub read_count: u64,
    /// Packs that the index knows now.
    pub added_count: u64,
    /// Records and small files in those.
    pub entry_count: usize,
    /// Shards that were written.
    pub written_count: u64,
    /// Shards and packs that do not open. They are left alone.
    pub findings: Vec<Finding>,
}

/// Why a repair ended early. What it had written stands.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The key may not write the index.
    #[error("this key may not write the index")]
    NotAllowed,
    /// Somebody wished so.
    #[error("the index was not repaired to the end; what was written stays")]
    Cancelled,
    /// The repository cannot be read.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The store failed.
    #[error("the index could not be repaired")]
    Store(#[from] StoreError),
}

/// Repairs the index: afterwards every record of every pack that opens is found.
///
/// A shard enters packs whole, so packs that a sound shard names with their size are taken for known; `all` looks. Reads the index once, and the trailer of each pack that
/// it does not know with one request; takes memory for each pack, not for each record.
///
/// # Errors
/// [`RepairError`]. Damage is a finding.
pub fn repair_index(
    repository: &Repository,
    store: &dyn WriteStore,
    signer: &Signer,
    options: &RepairOptions,
    observer: &dyn Observer,
) -> Result<RepairReport, RepairError> {
    if !repository.ring().role.may_index() {
        return Err(RepairError::NotAllowed);
    }
    let mut packs: Vec<_> = list_packs(repository)?.into_iter().map(|(id, kind, size)| ShardPack { id, kind, size }).collect();
    packs.sort_by_key(|pack| pack.id);
    let key = &repository.ring().current().index;
    let (named, open, report) = (HashSet::new(), Shard::default(), RepairReport::default());
    let mut run = Run { repository, store, signer, observer, key, named, open, report, failures: 0 };
    run.report.pack_count = packs.len() as u64;
    run.read_index(options.all)?;
    packs.retain(|pack| options.all || !run.named.contains(&(*pack, None)));
    for some in packs.chunks(ASKED_MAX) {
        if observer.is_cancelled() {
            run.put()?;
            return Err(RepairError::Cancelled);
        }
        for (pack, trailer) in some.iter().zip(read_trailers(repository, some)) {
            if let Err(error) = run.note(*pack, trailer) {
                // What was read is of use.
                run.put()?;
                return Err(error);
            }
        }
        let (entry_count, entry_total) = (run.report.read_count, packs.len() as u64);
        observer.progress(&Progress { entry_count, entry_total, ..Progress::default() });
    }
    run.put()?;
    Ok(run.report)
}

struct Run<'a> {
    repository: &'a Repository,
    store: &'a dyn WriteStore,
    signer: &'a Signer,
    observer: &'a dyn Observer,
    key: &'a Key,
    /// Packs that sound shards name; if all are to be looked into, with what the entries amount to.
    named: HashSet<(ShardPack, Option<SetDigest>)>,
    /// What is to be added.
    open: Shard,
    report: RepairReport,
    /// Packs in a row that could not be read.
    failures: u32,
}

impl Run<'_> {
    fn read_index(&mut self, all: bool) -> Result<(), RepairError> {
        let (repository, observer) = (self.repository, self.observer);
        repository.read_shards(&repository.list_shards()?, |_, shard| {
            match shard {
                Ok(shard) if all => {
                    let digests = shard.digests_of_packs(self.key).into_iter().map(Some);
                    self.named.extend(shard.packs().iter().copied().zip(digests));
                }
                Ok(shard) => self.named.extend(shard.packs().iter().map(|pack| (*pack, None))),
                Err(RepositoryError::Object { name, source }) => {
                    self.found(&name, format!("{source}; it is left alone"));
                }
                // Somebody has just deleted it: what it held is in another one, which is listed.
                Err(RepositoryError::Store(StoreError::NotFound { .. })) => {}
                Err(error) => return Err(error.into()),
            }
            if observer.is_cancelled() { Err(RepairError::Cancelled) } else { Ok(()) }
        })
    }

    /// Enters a pack, unless a shard that names it has all of it.
    fn note(&mut self, pack: ShardPack, trailer: Result<Trailer, RepositoryError>) -> Result<(), RepairError> {
        let name = object::pack_name(pack.kind, &pack.id);
        let trailer = match trailer {
            Ok(trailer) => trailer,
            // It was deleted after it was listed.
            Err(RepositoryError::Store(StoreError::NotFound { .. })) => return Ok(()),
            Err(RepositoryError::Object { source, .. }) => {
                self.found(&name, format!("{source}; what it holds is not in the index, and it is left alone"));
                return Ok(());
            }
            // A disk may have lost just this one. If nothing can be read, that is no use.
            Err(RepositoryError::Store(error)) if self.failures < FAILURES_MAX => {
                self.failures += 1;
                self.found(&name, format!("{error}; what it holds is not in the index, and it is left alone"));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        self.failures = 0;
        self.report.read_count += 1;
        let mut whole = Shard::default();
        whole.add_pack(pack, &trailer);
        if self.named.contains(&(pack, Some(whole.digest(self.key)))) {
            return Ok(());
        }
        self.report.added_count += 1;
        self.report.entry_count += trailer.records.len() + trailer.fragments.len();
        self.open.add_pack(pack, &trailer);
        if self.open.is_full(shard_entries_max(self.repository)) { self.put() } else { Ok(()) }
    }

    fn found(&mut self, name: &ObjectName, message: String) {
        let finding = Finding::object(Severity::Error, name.as_str(), message);
        self.observer.finding(&finding);
        self.report.findings.push(finding);
    }

    fn put(&mut self) -> Result<(), RepairError> {
        let mut shard = std::mem::take(&mut self.open);
        if !shard.is_empty() {
            shard.sort();
            put_shard(self.repository, self.store, self.signer, &shard)?;
            self.report.written_count += 1;
        }
        Ok(())
    }
}
