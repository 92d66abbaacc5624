//! `merge::run()`: puts small index shards together, and deletes shards and catalogues that others have replaced for long enough.
//!
//! Nothing rests on what a shard says of others: one is deleted only after it was read once more, and everything in it was found in the one that supersedes it or speaks
//! of packs that the store is sure not to have. So a run that dies, a lying list or a merge that went wrong cost another run and no entry. Called by `repair index --merge`
//! and by whoever prunes.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use fs_core::crypto::Key;
use fs_core::id::{ObjectHash, PackId};
use fs_core::index::merge::{Merged, Merging};
use fs_core::index::{Shard, ShardPack};
use fs_core::object::{self, HEADER_LENGTH, Signer};
use fs_core::observer::{Observer, Progress};
use fs_core::report::{Finding, Place, Severity};
use fs_core::repository::{ListedShard, Repository, RepositoryError};
use fs_core::snapshot::mark::GRACE_LEAST;
use fs_core::storage::{ObjectName, StoreError, WriteStore, get_ranges, wait};

use crate::packer::{list_packs, put_shard, shard_entries_max};

mod look;
mod sweep;

/// How long what is superseded stays, so that everybody who listed before has read.
pub const GRACE: Duration = Duration::from_secs(7 * 86_400);

/// Fewer shards are not worth putting together.
const TOGETHER_MIN: usize = 8;
/// A shard is taken in unless it is so many times larger than what has been gathered: so each entry is written a few times only.
const GROWTH: u64 = 16;
/// A shard of whose packs one in so many is gone is written again without them.
const GONE_SHARE: usize = 4;
/// About what an entry takes in the store.
const ENTRY_SIZE: u64 = 52;

/// How to merge.
#[derive(Clone, Debug)]
pub struct MergeOptions {
    /// How long what is superseded stays; at least [`GRACE_LEAST`] counts.
    pub grace: Duration,
    /// Entries of a shard that is large enough; `None` for what backups take for that.
    pub entries_max: Option<usize>,
    /// Packs that the caller has just deleted: the store need not be asked for them.
    pub gone: HashSet<PackId>,
}

impl Default for MergeOptions {
    fn default() -> Self {
        Self { grace: GRACE, entries_max: None, gone: HashSet::new() }
    }
}

/// What a merge did.
#[derive(Clone, Debug, Default)]
pub struct MergeReport {
    /// Shards that were listed.
    pub shard_count: u64,
    /// Shards that were put together.
    pub merged_count: u64,
    /// Shards that were written.
    pub written_count: u64,
    /// Superseded shards that were deleted.
    pub deleted_count: u64,
    /// Superseded shards that stay until their time has come.
    pub waiting_count: u64,
    /// Entries that were left out because their packs are gone.
    pub left_out_count: u64,
    /// Catalogues that were listed.
    pub catalogue_count: u64,
    /// Superseded catalogues that were deleted.
    pub catalogues_deleted_count: u64,
    /// What the store does not let go of yet.
    pub held: Vec<ObjectName>,
    /// What is wrong with shards and catalogues that do not open, and with clocks.
    pub findings: Vec<Finding>,
}

/// Why a merge ended early. What it had done stands, and the next one goes on.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// Neither an owner nor a maintainer.
    #[error("this key may not replace parts of the index: it takes the owner's or a maintainer's")]
    NotAllowed,
    /// What was put did not come back, or does not amount to what was merged.
    #[error("{name} does not read as it was written: store, memory or processor may be faulty; nothing was deleted for it")]
    NotAsWritten {
        /// The new shard, which counts for nothing unless it opens.
        name: ObjectName,
    },
    /// Somebody wished so.
    #[error("the index was not merged to the end")]
    Cancelled,
    /// The repository cannot be read.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The store failed.
    #[error("the index could not be merged")]
    Store(#[from] StoreError),
}

/// Merges what is small and deletes what was superseded long enough ago by the store's clock. At any moment the shards that are listed hold all that they held before.
///
/// Costs one request for each small shard, two or three for each large one, and two more for each one that is deleted; memory for one large shard a few times over.
///
/// # Errors
/// [`MergeError`]. Damage is a finding: what does not open is left alone.
pub fn run(
    repository: &Repository,
    store: &dyn WriteStore,
    signer: &Signer,
    options: &MergeOptions,
    observer: &dyn Observer,
) -> Result<MergeReport, MergeError> {
    if !repository.ring().role.may_forget() {
        return Err(MergeError::NotAllowed);
    }
    let now = wait("clock", store.server_time())?;
    let before = now.map(|now| now.saturating_sub(options.grace.max(GRACE_LEAST)));
    let key = &repository.ring().current().index;
    let entries_max = options.entries_max.unwrap_or_else(|| shard_entries_max(repository));
    let present: HashSet<_> = list_packs(repository)?.into_iter().map(|(id, _, _)| id).collect();
    let packs = Packs { gone: options.gone.difference(&present).copied().collect(), present };
    let report = MergeReport::default();
    let mut run = Run { repository, store, signer, observer, key, entries_max, packs, report };
    let mut seen = run.look()?;
    match before {
        Some(before) => run.sweep(&mut seen, before)?,
        None => run.note("the store tells no time: what is superseded stays"),
    }
    run.merge(&mut seen)?;
    if let Some(before) = before {
        run.sweep_catalogues(before)?;
    }
    Ok(run.report)
}

struct Run<'a> {
    repository: &'a Repository,
    store: &'a dyn WriteStore,
    signer: &'a Signer,
    observer: &'a dyn Observer,
    key: &'a Key,
    entries_max: usize,
    packs: Packs,
    report: MergeReport,
}

/// What is known of the shards. No entries, but of the smallest ones.
#[derive(Default)]
struct Seen {
    listed: HashMap<ObjectHash, ListedShard>,
    /// Those that open.
    sound: Vec<Sound>,
    /// What one of those supersedes.
    superseded: HashSet<ObjectHash>,
    /// Small ones that were read whole.
    kept: HashMap<ObjectHash, Shard>,
}

/// A shard that opens.
struct Sound {
    listed: ListedShard,
    superseded: Vec<ObjectHash>,
    /// Whether it is written again in any case: so many of its packs are gone, or what supersedes it lacks some of it.
    is_urgent: bool,
}

/// Which packs there are.
struct Packs {
    present: HashSet<PackId>,
    /// Of those that were not listed: the store said for each that it has it not.
    gone: HashSet<PackId>,
}

impl Packs {
    /// Asks for each of the packs that were not listed: a list may be wrong, and this decides what is left out.
    fn ask(&mut self, repository: &Repository, packs: &[ShardPack]) -> Result<(), StoreError> {
        let mut unknown: Vec<_> = packs.iter().filter(|pack| !self.present.contains(&pack.id) && !self.gone.contains(&pack.id)).collect();
        unknown.sort_unstable_by_key(|pack| pack.id);
        unknown.dedup_by_key(|pack| pack.id);
        let head = |pack: &&ShardPack| (object::pack_name(pack.kind, &pack.id), 0..HEADER_LENGTH as u64);
        let heads: Vec<_> = unknown.iter().map(head).collect();
        for (pack, head) in unknown.into_iter().zip(get_ranges(&**repository.store(), &heads)) {
            match head {
                Ok(_) | Err(StoreError::WrongSize { .. }) => self.present.insert(pack.id),
                Err(StoreError::NotFound { .. }) => self.gone.insert(pack.id),
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }
}

impl<'a> Run<'a> {
    fn note(&mut self, message: &str) {
        self.report.findings.push(Finding { severity: Severity::Note, place: Place::Operation, message: message.into() });
    }

    fn progress(&self, seen: &Seen) -> Result<(), MergeError> {
        let count = seen.sound.len() as u64 + self.report.merged_count + self.report.deleted_count;
        self.observer.progress(&Progress { entry_count: count, ..Progress::default() });
        if self.observer.is_cancelled() { Err(MergeError::Cancelled) } else { Ok(()) }
    }

    /// Puts together what is small, and writes again what has to be.
    fn merge(&mut self, seen: &mut Seen) -> Result<(), MergeError> {
        let chosen = self.choose(seen);
        let (kept, unread): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|listed| seen.kept.contains_key(&listed.hash));
        let mut gathered = Gathered::new(self.key);
        // Side by side for all of them: after a prune most of the small ones name packs that are gone.
        let named = kept.iter().filter_map(|listed| seen.kept.get(&listed.hash)).flat_map(|shard| shard.packs().iter().copied());
        self.packs.ask(self.repository, &named.collect::<Vec<_>>())?;
        for listed in kept {
            if let Some(shard) = seen.kept.remove(&listed.hash) {
                self.gather(seen, &mut gathered, listed.hash, &shard)?;
            }
        }
        let repository = self.repository;
        repository.read_shards(&unread, |listed, shard| match shard {
            Ok(shard) => self.gather(seen, &mut gathered, listed.hash, &shard),
            // It stays as it is.
            Err(RepositoryError::Object { .. }) => Ok(()),
            Err(RepositoryError::Store(error)) if error.is_of_object() => Ok(()),
            Err(error) => Err(error.into()),
        })?;
        self.flush(seen, gathered)
    }

    /// The shards to put together, the smallest first.
    fn choose(&self, seen: &Seen) -> Vec<ListedShard> {
        let in_use = seen.sound.iter().filter(|sound| !seen.superseded.contains(&sound.listed.hash));
        let (urgent, others): (Vec<_>, Vec<_>) = in_use.partition(|sound| sound.is_urgent);
        let mut others: Vec<_> = others.into_iter().map(|sound| sound.listed).collect();
        others.sort_unstable_by_key(|listed| (listed.size, listed.hash));
        let (mut size, large) = (0, self.entries_max as u64 * ENTRY_SIZE / 2);
        let is_taken = |listed: &ListedShard| {
            let is_taken = listed.size < large && (size == 0 || listed.size <= size * GROWTH);
            size += listed.size;
            is_taken
        };
        let mut chosen: Vec<_> = others.into_iter().take_while(is_taken).collect();
        if chosen.len() < TOGETHER_MIN {
            chosen.clear();
        }
        chosen.extend(urgent.into_iter().map(|sound| sound.listed));
        chosen
    }

    fn gather(&mut self, seen: &Seen, gathered: &mut Gathered<'a>, hash: ObjectHash, shard: &Shard) -> Result<(), MergeError> {
        if !gathered.merging.has_room_for(shard, self.entries_max) {
            let full = std::mem::replace(gathered, Gathered::new(self.key));
            self.flush(seen, full)?;
        }
        self.packs.ask(self.repository, shard.packs())?;
        gathered.merging.add(hash, shard, |pack| self.packs.gone.contains(pack));
        gathered.count += 1;
        gathered.is_worth_it |= gathered.count > 1 || seen.sound.iter().any(|sound| sound.listed.hash == hash && sound.is_urgent);
        Ok(())
    }

    /// Puts what was gathered, reads it back, and only then counts it.
    fn flush(&mut self, seen: &Seen, gathered: Gathered<'a>) -> Result<(), MergeError> {
        self.progress(seen)?;
        let Gathered { merging, count, is_worth_it } = gathered;
        let Merged { shard, expected, left_out } = merging.finish(|hash| seen.listed.contains_key(hash));
        if !is_worth_it {
            return Ok(());
        }
        let hash = put_shard(self.repository, self.store, self.signer, &shard)?;
        let put = ListedShard { hash, size: shard.len() as u64 * ENTRY_SIZE, modified: None };
        self.repository.read_shards(&[put], |put, read| match read {
            Ok(read) if read == shard && read.digest(self.key) == expected => Ok(()),
            Ok(_) | Err(RepositoryError::Object { .. }) => Err(MergeError::NotAsWritten { name: put.name() }),
            Err(error) => Err(error.into()),
        })?;
        self.report.merged_count += count;
        self.report.written_count += 1;
        self.report.left_out_count += left_out;
        Ok(())
    }
}

/// What is put together to become the next shard.
struct Gathered<'a> {
    merging: Merging<'a>,
    /// Shards in it.
    count: u64,
    /// One that is alone stays as it is, unless it has to be written again.
    is_worth_it: bool,
}

impl<'a> Gathered<'a> {
    fn new(key: &'a Key) -> Self {
        Self { merging: Merging::new(key), count: 0, is_worth_it: false }
    }
}
