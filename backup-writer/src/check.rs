//! `check()`: whether everything that the snapshots need is there and opens. Changes nothing in the repository.
//!
//! Every check opens all trees and asks of each record of data whether a listed pack of the right size has it, by the index; the ends of packs are read only where
//! the index does not speak of them. What is read beyond that says [`ReadData`].

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use fs_core::id::{DeviceId, PackId, RecordId};
use fs_core::index::{Shard, ShardPack};
use fs_core::object::{self, ObjectKind};
use fs_core::observer::{Observer, Progress};
use fs_core::pack;
use fs_core::record::RecordKind;
use fs_core::report::{Finding, Place, Severity, chain};
use fs_core::repository::{ReadError, Repository, RepositoryError};
use fs_core::snapshot::Snapshot;
use fs_core::storage::{StoreError, wait};
use fs_core::time::Timestamp;

use crate::packer::{ASKED_MAX, read_trailers};
use crate::proven::Proven;
use objects::Which;
use packs::{Packs, Records};
use trees::Damage;

mod history;
mod objects;
mod packs;
mod trees;

/// So many objects in a row that cannot be read are no damage to them: nothing can be read.
const FAILURES_MAX: u32 = 16;

/// How much data is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReadData {
    /// Trees only; of data packs, whether they are there.
    #[default]
    None,
    /// The n-th of m parts of all packs, counted from 1: m runs read everything.
    Part {
        /// Which part.
        n: u64,
        /// Of how many.
        m: u64,
    },
    /// What is due today so that daily runs read everything within so many days: [`crate::proven::cycle`].
    Cycle {
        /// Days, at least 1.
        days: u64,
    },
    /// Everything.
    All,
}

/// What to check.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// How much data is read.
    pub read_data: ReadData,
    /// Bytes of packs that are read at the most; what waited longest comes first. `None` for no limit.
    pub download_max: Option<u64>,
    /// Snapshots that somebody has seen: the beginnings of their ids, from a report.
    pub expected: Vec<String>,
    /// The repository's local folder, where it is noted which packs are in order; `None` to note nothing.
    pub state: Option<PathBuf>,
}

impl From<ReadData> for CheckOptions {
    fn from(read_data: ReadData) -> Self {
        Self { read_data, ..Self::default() }
    }
}

/// What a check saw.
#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    /// Snapshots that open.
    pub snapshot_count: u64,
    /// Packs listed.
    pub pack_count: u64,
    /// Records that the packs hold.
    pub record_count: u64,
    /// Packs of which no index speaks: left by a run that was interrupted, or an index was lost.
    pub unindexed_count: u64,
    /// Packs read in full.
    pub packs_read: u64,
    /// Their bytes.
    pub bytes_read: u64,
    /// Packs that were to be read, and were not: for want of bytes, or because the run was stopped.
    pub waiting_count: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// Packs of which this machine does not know that they were ever read in full and in order; `None` if it notes nothing.
    pub never_read: Option<u64>,
    /// When that one of the others was read that was read longest ago.
    pub oldest_read: Option<Timestamp>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Checks a repository.
///
/// # Errors
/// [`ReadError`] if the store cannot be listed, or nothing more can be read of it; damage is a finding, and so is an object that cannot be read. The observer is told
/// of findings as they come, so that none is lost then.
pub fn check(repository: &Repository, how: impl Into<CheckOptions>, observer: &dyn Observer) -> Result<CheckReport, ReadError> {
    let how = how.into();
    let proven = how.state.as_deref().and_then(|state| {
        let opened = Proven::open(state, repository);
        opened.inspect_err(|error| tracing::warn!(%error, "it is not remembered what is read")).ok()
    });
    // Before the packs: what a snapshot that is seen needs is listed then. And before hours of reading, so that no failure hides what they find.
    let inventory = repository.inventory().map_err(listing)?;
    // By the store's clock, if it has one: nothing was swept before its time by that, whatever this machine's says.
    let server = wait("clock", repository.store().server_time())?;
    let (marks, now) = (repository.marks().map_err(listing)?, server.unwrap_or_else(|| repository.clock().now()));
    let unsealing = objects::check_seals(repository, &inventory)?;
    let (shards, damaged_shards) = repository.shards().map_err(listing)?;
    let mut run = Run {
        repository,
        observer,
        report: CheckReport::default(),
        packs: Packs::list(repository, &shards)?,
        shards,
        seen: HashSet::new(),
        missing: 0,
        moved: HashMap::new(),
        absent: HashSet::new(),
        tainted: HashSet::new(),
        damage: Damage::default(),
        failure: None,
        failures: 0,
    };
    run.small_objects(how.read_data, proven.as_ref())?;
    run.note(damaged_shards);
    run.index();
    packs::read(&mut run, &how, proven.as_ref())?;
    run.trailers()?;
    run.note(unsealing);
    run.note(history::look(&inventory, &how.expected));
    let mut snapshots = inventory.snapshots;
    run.note(std::mem::take(&mut snapshots.findings));
    run.note(marks.findings.iter().cloned());
    // Those that are forgotten can still be brought back; of those that are due to be swept parts may be gone.
    let forgotten = snapshots
        .forgotten
        .iter()
        .filter(|forgotten| marks.due(forgotten).is_none_or(|due| due > now))
        .map(|forgotten| &forgotten.snapshot);
    let newest = newest_sealed(&snapshots.live);
    for snapshot in snapshots.live.iter().chain(forgotten) {
        let is_replaced = newest.get(&series(snapshot)).is_some_and(|newest| snapshot.sequence() < *newest);
        if !snapshot.sealed && is_replaced {
            run.note([replaced(snapshot)]);
        } else {
            run.snapshot(snapshot);
        }
    }
    let damage = std::mem::take(&mut run.damage);
    run.note(damage.findings());
    match run.failure {
        Some(failure) => Err(failure),
        None => Ok(run.report),
    }
}

/// Whose snapshot it is, and of which set.
fn series(snapshot: &Snapshot) -> (DeviceId, &str, &str) {
    (snapshot.device(), snapshot.host(), snapshot.set())
}

fn newest_sealed(snapshots: &[Snapshot]) -> HashMap<(DeviceId, &str, &str), u64> {
    let mut newest: HashMap<_, u64> = HashMap::new();
    for snapshot in snapshots.iter().filter(|snapshot| snapshot.sealed) {
        let sequence = newest.entry(series(snapshot)).or_default();
        *sequence = (*sequence).max(snapshot.sequence());
    }
    newest
}

/// Of a snapshot that nobody will ever seal, nobody relies on any part.
fn replaced(snapshot: &Snapshot) -> Finding {
    let id = snapshot.id.short();
    let message = format!(
        "snapshot {id} is incomplete: its backup was interrupted before the last check, and a later one took its place; 'yesterdrive forget {id}' lets go of it"
    );
    Finding { severity: Severity::Note, place: Place::Operation, message }
}

fn listing(error: RepositoryError) -> ReadError {
    match error {
        RepositoryError::Store(error) => error.into(),
        error => ReadError::Index(Box::new(error)),
    }
}

struct Run<'a> {
    repository: &'a Repository,
    observer: &'a dyn Observer,
    report: CheckReport,
    packs: Packs,
    shards: Vec<Arc<Shard>>,
    /// Pages and lists that were checked.
    seen: HashSet<RecordId>,
    /// Parts of the entry at hand that nobody has.
    missing: u64,
    /// Records that are not where a reference says: whether the index knows them elsewhere.
    moved: HashMap<RecordId, bool>,
    /// Packs that are not there and that something needs, as far as told.
    absent: HashSet<PackId>,
    /// Pages and lists with something damaged in or below them: these are looked at again for each snapshot that shows them.
    tainted: HashSet<RecordId>,
    /// What is damaged in the trees.
    damage: Damage,
    /// Why the run ends before it has seen everything.
    failure: Option<ReadError>,
    /// Objects in a row that could not be read.
    failures: u32,
}

impl Run<'_> {
    /// Sessions, manifests and seals are as many as runs: they count as data.
    fn small_objects(&mut self, read_data: ReadData, proven: Option<&Proven>) -> Result<(), StoreError> {
        use ObjectKind::{Catalogue, Config, Device, Manifest, Mark, Seal, Session, Slot, Tombstones};
        let (repository, now) = (self.repository, self.repository.clock().now());
        let mut findings = objects::check_objects(repository, &[Config, Slot, Device], &Which::All, self.observer)?;
        if let Some(which) = Which::of(read_data, proven, now) {
            let kinds = [Session, Manifest, Seal, Catalogue, Tombstones, Mark];
            let found = objects::check_objects(repository, &kinds, &which, self.observer)?;
            // What is damaged stays due until it is not.
            if found.is_empty() && !self.observer.is_cancelled() {
                proven.into_iter().for_each(|proven| proven.note_small(now));
            }
            findings.extend(found);
        }
        self.note(findings);
        Ok(())
    }

    /// What the index says of packs against what the store lists.
    fn index(&mut self) {
        let (mut findings, mut told) = (Vec::new(), HashSet::new());
        for pack in self.shards.iter().flat_map(|shard| shard.packs()) {
            if !told.insert((pack.id, pack.size)) {
                continue;
            }
            let name = object::pack_name(pack.kind, &pack.id);
            let wrong = |message: String| Finding::object(Severity::Error, name.as_str(), message);
            // Names of packs that are not listed a prune leaves behind: they are damage if something is missed.
            if let Some(listed) = self.packs.get(&pack.id).filter(|listed| (listed.kind, listed.size) != (pack.kind, pack.size)) {
                findings.push(wrong(format!("it has {} bytes, and the index says {}", listed.size, pack.size)));
            }
        }
        self.note(findings);
        self.report.pack_count = self.packs.len() as u64;
        self.report.record_count = self.packs.count_by_index(&self.shards);
        self.report.unindexed_count = self.packs.without_records().len() as u64;
    }

    /// Something that a snapshot needs was in this pack.
    fn missed(&mut self, pack: PackId, kind: RecordKind) {
        if self.packs.get(&pack).is_none() && self.absent.insert(pack) {
            let name = object::pack_name(pack::pack_kind(kind), &pack);
            self.note([Finding::object(Severity::Error, name.as_str(), "a snapshot needs it, and it is missing")]);
        }
    }

    /// Packs that no shard speaks of say at their ends what they hold.
    fn trailers(&mut self) -> Result<(), ReadError> {
        let unknown = self.packs.without_records();
        let mut progress = Progress { entry_total: unknown.len() as u64, ..Progress::default() };
        let unknown: Vec<_> = unknown.into_iter().map(|(id, kind, size)| ShardPack { id, kind, size }).collect();
        for some in unknown.chunks(ASKED_MAX) {
            if self.is_over() {
                return Ok(());
            }
            for (pack, trailer) in some.iter().zip(read_trailers(self.repository, some)) {
                match trailer {
                    Ok(trailer) => {
                        self.failures = 0;
                        self.report.record_count += trailer.records.len() as u64;
                        self.packs.set_records(&pack.id, Records::of(&trailer));
                    }
                    Err(error) => self.pack_failed(pack.id, pack.kind, error)?,
                }
            }
            progress.entry_count += some.len() as u64;
            self.observer.progress(&progress);
        }
        Ok(())
    }

    /// A pack of which it is not known what it holds.
    fn pack_failed(&mut self, id: PackId, kind: ObjectKind, error: RepositoryError) -> Result<(), ReadError> {
        let name = object::pack_name(kind, &id);
        let message = match error {
            // A prune took it after it was listed: damage only if something is missed.
            RepositoryError::Store(StoreError::NotFound { .. }) => {
                self.packs.remove(&id);
                return Ok(());
            }
            RepositoryError::Object { source, .. } => source.to_string(),
            RepositoryError::Store(error) => self.unread(error.into()),
            error => return Err(listing(error)),
        };
        self.packs.set_records(&id, Records::default());
        self.note([Finding::object(Severity::Error, name.as_str(), message)]);
        Ok(())
    }

    /// Something cannot be read: what there is to say of it. A disk may have lost just that, so the run goes on, unless nothing else can be read either.
    fn unread(&mut self, error: ReadError) -> String {
        let message = chain(&error);
        if error.is_damage() {
            self.failures = 0;
        } else {
            self.failures += 1;
            if self.failures >= FAILURES_MAX {
                self.failure.get_or_insert(error);
            }
        }
        message
    }

    fn is_over(&self) -> bool {
        self.failure.is_some() || self.observer.is_cancelled()
    }

    fn note(&mut self, findings: impl IntoIterator<Item = Finding>) {
        for finding in findings {
            self.observer.finding(&finding);
            self.report.findings.push(finding);
        }
    }
}
