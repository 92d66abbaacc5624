//! `check()`: whether everything that the snapshots need is there and opens. Changes nothing in the repository.
//!
//! Every check opens all trees and asks of each record of data whether a listed pack of the right size has it, by the index; the ends of packs are read only where
//! the index does not speak of them. What is read beyond that says [`ReadData`].

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use fs_core::id::{PackId, RecordId};
use fs_core::index::{Shard, ShardPack};
use fs_core::object::{self, ObjectKind};
use fs_core::observer::{Observer, Progress};
use fs_core::pack;
use fs_core::path::TreePath;
use fs_core::record::{RecordKind, Reference};
use fs_core::report::{Finding, Place, Severity};
use fs_core::repository::{ReadError, Repository, RepositoryError};
use fs_core::snapshot::Snapshot;
use fs_core::storage::StoreError;
use fs_core::time::Timestamp;
use fs_core::tree::{Content, Entry, Page, Value};

use crate::packer::{ASKED_MAX, read_trailers};
use packs::{Packs, Records};

mod objects;
mod packs;

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
/// [`RepositoryError`] only if the store cannot be listed; damage is a finding.
pub fn check(repository: &Repository, how: impl Into<CheckOptions>, observer: &dyn Observer) -> Result<CheckReport, RepositoryError> {
    let how = how.into();
    // Before the packs: what a snapshot that is seen needs is listed then. And before hours of reading, so that no failure hides what they find.
    let mut snapshots = repository.all_snapshots()?;
    let (marks, now) = (repository.marks()?, repository.clock().now());
    let unsealing = objects::check_seals(repository)?;
    let (shards, damaged_shards) = repository.shards()?;
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
    };
    run.small_objects(how.read_data)?;
    run.note(damaged_shards);
    run.index();
    packs::read(&mut run, &how)?;
    run.trailers()?;
    run.note(unsealing);
    run.note(std::mem::take(&mut snapshots.findings));
    run.note(marks.findings.iter().cloned());
    // Those that are forgotten can still be brought back; of those that are due to be swept parts may be gone.
    let forgotten = snapshots
        .forgotten
        .iter()
        .filter(|forgotten| marks.due(forgotten).is_none_or(|due| due > now))
        .map(|forgotten| &forgotten.snapshot);
    for snapshot in snapshots.live.iter().chain(forgotten) {
        if observer.is_cancelled() {
            break;
        }
        run.snapshot(snapshot);
    }
    Ok(run.report)
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
}

impl Run<'_> {
    /// Sessions, manifests and seals are as many as runs: they count as data.
    fn small_objects(&mut self, read_data: ReadData) -> Result<(), RepositoryError> {
        let mut kinds = vec![ObjectKind::Config, ObjectKind::Slot, ObjectKind::Device];
        if read_data != ReadData::None {
            use ObjectKind::{Catalogue, Manifest, Mark, Seal, Session, Tombstones};
            kinds.extend([Session, Manifest, Seal, Catalogue, Tombstones, Mark]);
        }
        let findings = objects::check_objects(self.repository, &kinds)?;
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
    fn trailers(&mut self) -> Result<(), RepositoryError> {
        let unknown = self.packs.without_records();
        let mut progress = Progress { entry_total: unknown.len() as u64, ..Progress::default() };
        let unknown: Vec<_> = unknown.into_iter().map(|(id, kind, size)| ShardPack { id, kind, size }).collect();
        for some in unknown.chunks(ASKED_MAX) {
            if self.observer.is_cancelled() {
                return Ok(());
            }
            for (pack, trailer) in some.iter().zip(read_trailers(self.repository, some)) {
                match trailer {
                    Ok(trailer) => {
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
    fn pack_failed(&mut self, id: PackId, kind: ObjectKind, error: RepositoryError) -> Result<(), RepositoryError> {
        let name = object::pack_name(kind, &id);
        let message = match error {
            // A prune took it after it was listed: damage only if something is missed.
            RepositoryError::Store(StoreError::NotFound { .. }) => {
                self.packs.remove(&id);
                return Ok(());
            }
            RepositoryError::Object { source, .. } => source.to_string(),
            RepositoryError::Store(error) => error.to_string(),
            error => return Err(error),
        };
        self.packs.set_records(&id, Records::default());
        self.note([Finding::object(Severity::Error, name.as_str(), message)]);
        Ok(())
    }

    fn snapshot(&mut self, snapshot: &Snapshot) {
        self.report.snapshot_count += 1;
        let id = snapshot.id.short();
        if !snapshot.sealed {
            let message =
                format!("snapshot {id} is incomplete: its backup was interrupted before the last check; the next run replaces it");
            self.note([Finding { severity: Severity::Note, place: Place::Operation, message }]);
        }
        let manifest = match snapshot.manifest() {
            Ok(manifest) => manifest,
            Err(error) => return self.damaged(&TreePath::ROOT, &id, "its manifest", &error.into()),
        };
        for reference in manifest.link_table.iter().map(|(_, reference)| reference).chain(&manifest.findings).chain(&manifest.changes) {
            self.read(RecordKind::Table, reference, &TreePath::ROOT, &id);
        }
        let mut open = vec![(TreePath::ROOT, manifest.root)];
        while let Some((path, entry)) = open.pop() {
            if self.observer.is_cancelled() {
                return;
            }
            self.observer.at(&path);
            self.contents(&entry, &path, &id);
            let Some(page) = entry.subtree.as_ref().and_then(|subtree| subtree.page) else { continue };
            self.pages(page, &path, &id, &mut open);
        }
    }

    fn pages(&mut self, page: Reference, path: &TreePath, snapshot: &str, open: &mut Vec<(TreePath, Entry)>) {
        // No recursion: whoever writes decides how deep pages stand in one another.
        let mut pages = vec![page];
        while let Some(page) = pages.pop().filter(|_| !self.observer.is_cancelled()) {
            if !self.seen.insert(page.id) {
                continue;
            }
            match self.repository.page(&page).as_deref() {
                Ok(Page::Index(rows)) => pages.extend(rows.iter().rev().map(|row| row.reference)),
                Ok(Page::Leaf(leaf)) => {
                    for entry in leaf.entries() {
                        let Some(name) = entry.name.clone() else { continue };
                        let below = path.join(name);
                        if entry.subtree.is_some() { open.push((below, entry.clone())) } else { self.contents(entry, &below, snapshot) }
                    }
                }
                Err(error) => {
                    self.missed(page.pack, RecordKind::Tree);
                    self.damaged(path, snapshot, "its list of entries", error);
                }
            }
        }
    }

    fn contents(&mut self, entry: &Entry, path: &TreePath, snapshot: &str) {
        self.content(&entry.content, path, snapshot);
        let values = entry.xattrs.iter().map(|(_, value)| value).chain(&entry.security_descriptor);
        for value in values {
            if let Value::Stored { content, .. } = value {
                self.content(content, path, snapshot);
            }
        }
        for stream in &entry.streams {
            self.content(&stream.content, path, snapshot);
        }
        let what = match std::mem::take(&mut self.missing) {
            0 => return,
            1 => "a part of it is".to_owned(),
            count => format!("{count} parts of it are"),
        };
        self.note([Finding::at(Severity::Error, path.clone(), format!("in snapshot {snapshot}: {what} missing or damaged"))]);
    }

    fn content(&mut self, content: &Content, path: &TreePath, snapshot: &str) {
        match content {
            Content::Inline(_) | Content::Fragment { .. } => content.references().iter().for_each(|reference| self.present(reference)),
            Content::List { depth, reference } => self.list(*depth, reference, path, snapshot),
        }
    }

    fn list(&mut self, depth: u8, reference: &Reference, path: &TreePath, snapshot: &str) {
        if !self.seen.insert(reference.id) {
            return;
        }
        match self.repository.list(reference) {
            Ok(list) if list.depth == depth => {
                for row in &list.rows {
                    if depth == 1 { self.present(&row.reference) } else { self.list(depth - 1, &row.reference, path, snapshot) }
                }
            }
            Ok(_) => {
                self.note([Finding::at(Severity::Error, path.clone(), format!("in snapshot {snapshot}: its lists contradict each other"))])
            }
            Err(error) => {
                self.missed(reference.pack, RecordKind::List);
                self.damaged(path, snapshot, "the list of its parts", &error);
            }
        }
    }

    /// A data record counts as present if its pack has it at that place, or the index knows another pack that has it.
    fn present(&mut self, reference: &Reference) {
        if self.packs.has(&self.shards, reference) {
            return;
        }
        let found = match self.moved.get(&reference.id) {
            Some(found) => *found,
            None => {
                let mut places = self.shards.iter().flat_map(|shard| shard.find(&reference.id));
                let found = places.any(|place| self.packs.has(&self.shards, &place.reference));
                self.moved.insert(reference.id, found);
                found
            }
        };
        if !found {
            self.missed(reference.pack, RecordKind::Data);
            self.missing += 1;
        }
    }

    fn read(&mut self, kind: RecordKind, reference: &Reference, path: &TreePath, snapshot: &str) {
        if let Err(error) = self.repository.read_record(kind, reference) {
            self.missed(reference.pack, kind);
            self.damaged(path, snapshot, "a table", &error);
        }
    }

    fn damaged(&mut self, path: &TreePath, snapshot: &str, what: &str, error: &ReadError) {
        self.note([Finding::at(Severity::Error, path.clone(), format!("in snapshot {snapshot}: {what} cannot be read: {error}"))]);
    }

    fn note(&mut self, findings: impl IntoIterator<Item = Finding>) {
        for finding in findings {
            self.observer.finding(&finding);
            self.report.findings.push(finding);
        }
    }
}
