//! `check()`: whether everything that the snapshots need is there and opens. Changes nothing.

use std::collections::{HashMap, HashSet};

use fs_core::id::{PackId, RecordId};
use fs_core::object::{self, ObjectKind};
use fs_core::observer::{Observer, Progress};
use fs_core::pack::{self, Trailer};
use fs_core::path::TreePath;
use fs_core::record::{RecordKind, Reference};
use fs_core::report::{Finding, Place, Severity};
use fs_core::repository::{ReadError, Repository, RepositoryError};
use fs_core::snapshot::Snapshot;
use fs_core::storage::wait;
use fs_core::tree::{Content, Entry, Page, Value};

use crate::packer::{list_packs, read_trailer};

mod objects;

/// How much data is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReadData {
    /// Trees only; data packs by their trailers.
    #[default]
    None,
    /// The n-th of m parts of all packs, counted from 1: m runs read everything.
    Part {
        /// Which part.
        n: u64,
        /// Of how many.
        m: u64,
    },
    /// Everything.
    All,
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
    /// Packs read in full.
    pub packs_read: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Checks a repository.
///
/// # Errors
/// [`RepositoryError`] only if the store cannot be listed; damage is a finding.
pub fn check(repository: &Repository, read_data: ReadData, observer: &dyn Observer) -> Result<CheckReport, RepositoryError> {
    let mut run = Run {
        repository,
        observer,
        report: CheckReport::default(),
        packs: HashMap::new(),
        seen: HashSet::new(),
        index: HashMap::new(),
        absent: HashMap::new(),
    };
    run.small_objects(read_data)?;
    run.packs(read_data)?;
    run.index()?;
    let mut snapshots = repository.all_snapshots()?;
    run.note(std::mem::take(&mut snapshots.findings));
    let marks = repository.marks()?;
    run.note(marks.findings.iter().cloned());
    // Those that are forgotten can still be brought back; of those that a prune has condemned parts may be gone.
    let forgotten = snapshots.forgotten.iter().filter(|forgotten| marks.due(forgotten).is_none()).map(|forgotten| &forgotten.snapshot);
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
    /// Where each listed pack holds which record.
    packs: HashMap<PackId, HashMap<u32, (RecordId, u32)>>,
    /// Pages and lists that were checked.
    seen: HashSet<RecordId>,
    /// Records that moved: found by the index only.
    index: HashMap<RecordId, bool>,
    /// Packs that the index names and that are missing or damaged. A prune leaves such names behind: they are damage if something is missed.
    absent: HashMap<PackId, ObjectKind>,
}

impl Run<'_> {
    /// Sessions, manifests and seals are as many as runs: they count as data.
    fn small_objects(&mut self, read_data: ReadData) -> Result<(), RepositoryError> {
        let mut kinds = vec![ObjectKind::Config, ObjectKind::Slot, ObjectKind::Device];
        if read_data != ReadData::None {
            kinds.extend([
                ObjectKind::Session,
                ObjectKind::Manifest,
                ObjectKind::Seal,
                ObjectKind::Catalogue,
                ObjectKind::Tombstones,
                ObjectKind::Mark,
            ]);
        }
        let findings = objects::check_objects(self.repository, &kinds)?;
        self.note(findings);
        Ok(())
    }

    fn packs(&mut self, read_data: ReadData) -> Result<(), RepositoryError> {
        let packs = list_packs(self.repository)?;
        let mut progress = Progress { entry_total: packs.len() as u64, ..Progress::default() };
        for (id, kind, size) in packs {
            if self.observer.is_cancelled() {
                return Ok(());
            }
            let name = object::pack_name(kind, &id);
            let trailer = if wanted(read_data, &id) { self.read_whole(id, kind) } else { read_trailer(self.repository, id, kind, size) };
            match trailer {
                Ok(trailer) => {
                    self.report.record_count += trailer.records.len() as u64;
                    let records = trailer.records.iter().map(|record| (record.offset, (record.facts.id, record.stored_len)));
                    self.packs.insert(id, records.collect());
                }
                Err(RepositoryError::Object { source, .. }) => {
                    self.note([Finding::object(Severity::Error, name.as_str(), source.to_string())])
                }
                Err(RepositoryError::Store(error)) => self.note([Finding::object(Severity::Error, name.as_str(), error.to_string())]),
                Err(error) => return Err(error),
            }
            self.report.pack_count += 1;
            progress.entry_count += 1;
            progress.byte_count += size;
            self.observer.progress(&progress);
        }
        Ok(())
    }

    /// Reads a pack, its end hash and every record in it.
    fn read_whole(&mut self, id: PackId, kind: ObjectKind) -> Result<Trailer, RepositoryError> {
        let name = object::pack_name(kind, &id);
        let bytes = wait(name.as_str(), self.repository.store().get(&name))?;
        let mut findings = Vec::new();
        if !pack::verify_end_hash(&bytes) {
            findings.push(Finding::object(Severity::Error, name.as_str(), "its bytes do not have the hash at its end"));
        }
        let trailer = pack::decode_whole(&bytes, (kind, id, self.repository.id()), |epoch| self.repository.ring().structure(epoch))
            .map_err(|source| RepositoryError::Object { name: name.clone(), source })?;
        for (at, (record_kind, _, reference)) in trailer.references(id).enumerate() {
            let start = reference.offset as usize;
            let stored = bytes.get(start..start + reference.stored_len as usize).map(|stored| bytes.slice_ref(stored)).unwrap_or_default();
            let file_key = self.repository.ring().epochs.get(&reference.session.epoch).and_then(|keys| keys.file.as_ref());
            match self.repository.open_record(record_kind, &reference, stored) {
                Err(error) => findings.push(Finding::object(Severity::Error, name.as_str(), error.to_string())),
                Ok(plain) if trailer.fragments_of(at).iter().all(|part| file_key.is_none_or(|key| part.is_in(&plain, key))) => {}
                Ok(_) => {
                    let message = format!("the small files in record {} are not those that its list names", reference.id);
                    findings.push(Finding::object(Severity::Error, name.as_str(), message));
                }
            }
        }
        self.report.packs_read += 1;
        self.note(findings);
        Ok(trailer)
    }

    fn index(&mut self) -> Result<(), RepositoryError> {
        let (shards, findings) = self.repository.shards()?;
        self.note(findings);
        for shard in shards {
            let absent = shard.packs().iter().filter(|pack| !self.packs.contains_key(&pack.id)).map(|pack| (pack.id, pack.kind));
            self.absent.extend(absent);
        }
        Ok(())
    }

    /// Something that a snapshot needs was in this pack.
    fn missed(&mut self, pack: PackId) {
        if let Some(kind) = self.absent.remove(&pack) {
            let name = object::pack_name(kind, &pack);
            self.note([Finding::object(Severity::Error, name.as_str(), "a snapshot needs it, and it is missing or damaged")]);
        }
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
        if !self.seen.insert(page.id) {
            return;
        }
        match self.repository.page(&page).as_deref() {
            Ok(Page::Index(rows)) => rows.iter().for_each(|row| self.pages(row.reference, path, snapshot, open)),
            Ok(Page::Leaf(leaf)) => {
                for entry in leaf.entries() {
                    let Some(name) = entry.name.clone() else { continue };
                    let below = path.join(name);
                    if entry.subtree.is_some() { open.push((below, entry.clone())) } else { self.contents(entry, &below, snapshot) }
                }
            }
            Err(error) => {
                self.missed(page.pack);
                self.damaged(path, snapshot, "its list of entries", error);
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
    }

    fn content(&mut self, content: &Content, path: &TreePath, snapshot: &str) {
        match content {
            Content::Inline(_) | Content::Fragment { .. } => {
                content.references().iter().for_each(|reference| self.present(reference, path, snapshot))
            }
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
                    if depth == 1 {
                        self.present(&row.reference, path, snapshot)
                    } else {
                        self.list(depth - 1, &row.reference, path, snapshot)
                    }
                }
            }
            Ok(_) => {
                self.note([Finding::at(Severity::Error, path.clone(), format!("in snapshot {snapshot}: its lists contradict each other"))])
            }
            Err(error) => {
                self.missed(reference.pack);
                self.damaged(path, snapshot, "the list of its parts", &error);
            }
        }
    }

    /// A data record counts as present if its pack's trailer has it at that place, or the index knows another.
    fn present(&mut self, reference: &Reference, path: &TreePath, snapshot: &str) {
        let expected = (reference.id, reference.stored_len);
        if self.packs.get(&reference.pack).and_then(|records| records.get(&reference.offset)) == Some(&expected) {
            return;
        }
        let found = match self.index.get(&reference.id) {
            Some(found) => *found,
            None => {
                let located = self.repository.locate(&reference.id).unwrap_or_default();
                let found = located
                    .iter()
                    .any(|l| self.packs.get(&l.reference.pack).is_some_and(|records| records.contains_key(&l.reference.offset)));
                self.index.insert(reference.id, found);
                found
            }
        };
        if !found {
            self.missed(reference.pack);
            self.note([Finding::at(Severity::Error, path.clone(), format!("in snapshot {snapshot}: a part of it is missing or damaged"))]);
        }
    }

    fn read(&mut self, kind: RecordKind, reference: &Reference, path: &TreePath, snapshot: &str) {
        if let Err(error) = self.repository.read_record(kind, reference) {
            self.missed(reference.pack);
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

fn wanted(read_data: ReadData, id: &PackId) -> bool {
    match read_data {
        ReadData::None => false,
        ReadData::All => true,
        ReadData::Part { n, m } => {
            let [a, b, c, d, ..] = *id.as_bytes();
            u64::from(u32::from_le_bytes([a, b, c, d])) % m.max(1) + 1 == n
        }
    }
}
