//! `repair_index()`: writes anew what the index lacks, from the trailers of the packs. It only ever adds.

use std::collections::HashMap;
use std::sync::Arc;

use fs_core::index::{Shard, ShardPack};
use fs_core::object::{self, Signer};
use fs_core::observer::{Observer, Progress};
use fs_core::pack::Trailer;
use fs_core::report::{Finding, Severity};
use fs_core::repository::{Repository, RepositoryError};
use fs_core::storage::{StoreError, WriteStore};

use crate::packer::{ASKED_MAX, list_packs, put_shard, read_trailers, shard_entries_max};

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
/// A shard enters packs whole, so packs that a sound shard names with their size are taken for known; `all` looks. Costs one request for each pack whose trailer is
/// read, and memory for the index.
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
    let (shards, damaged) = repository.shards()?;
    let mut named: HashMap<ShardPack, Vec<Arc<Shard>>> = HashMap::new();
    for shard in shards {
        shard.packs().iter().for_each(|pack| named.entry(*pack).or_default().push(Arc::clone(&shard)));
    }
    let mut run = Run { repository, store, signer, open: Shard::default(), report: RepairReport::default() };
    run.report.pack_count = packs.len() as u64;
    let left_alone = |finding: Finding| Finding { message: format!("{}; it is left alone", finding.message), ..finding };
    run.report.findings.extend(damaged.into_iter().map(left_alone));
    packs.retain(|pack| options.all || !named.contains_key(pack));
    for some in packs.chunks(ASKED_MAX) {
        if observer.is_cancelled() {
            run.put()?;
            return Err(RepairError::Cancelled);
        }
        for (pack, trailer) in some.iter().zip(read_trailers(repository, some)) {
            run.note(*pack, trailer, named.get(pack).map_or(&[], Vec::as_slice))?;
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
    /// What is to be added.
    open: Shard,
    report: RepairReport,
}

impl Run<'_> {
    /// Enters a pack, unless the shards that name it have all of it.
    fn note(&mut self, pack: ShardPack, trailer: Result<Trailer, RepositoryError>, naming: &[Arc<Shard>]) -> Result<(), RepairError> {
        let name = object::pack_name(pack.kind, &pack.id);
        let trailer = match trailer {
            Ok(trailer) => trailer,
            // It was deleted after it was listed.
            Err(RepositoryError::Store(StoreError::NotFound { .. })) => return Ok(()),
            Err(RepositoryError::Object { source, .. }) => {
                let message = format!("{source}; what it holds is not in the index, and it is left alone");
                self.report.findings.push(Finding::object(Severity::Error, name.as_str(), message));
                return Ok(());
            }
            Err(RepositoryError::Store(error @ StoreError::WrongSize { .. })) => {
                self.report.findings.push(Finding::object(Severity::Error, name.as_str(), error.to_string()));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        self.report.read_count += 1;
        if is_known(pack, &trailer, naming) {
            return Ok(());
        }
        self.report.added_count += 1;
        self.report.entry_count += trailer.records.len() + trailer.fragments.len();
        self.open.add_pack(pack, &trailer);
        if self.open.is_full(shard_entries_max(self.repository)) { self.put() } else { Ok(()) }
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

/// Whether shards have every entry of a pack.
fn is_known(pack: ShardPack, trailer: &Trailer, naming: &[Arc<Shard>]) -> bool {
    let mut all = Shard::default();
    all.add_pack(pack, trailer);
    let naming: Vec<&Shard> = naming.iter().map(|shard| &**shard).collect();
    !naming.is_empty() && all.packs_missing_in(&naming).is_empty()
}
