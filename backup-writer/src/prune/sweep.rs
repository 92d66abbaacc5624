//! The sweep: forgotten manifests that are due, then packs, then marks that nothing stands behind any more.
//!
//! A pack is deleted only after its own trailer was read, and after each record in it that is needed was read and opened in another pack. What the index says
//! is not enough, nor what trailers say: both are written by those who may only back up.

use std::collections::HashMap;

use fs_core::id::PackId;
use fs_core::object::{self, ObjectKind};
use fs_core::observer::Progress;
use fs_core::pack::Trailer;
use fs_core::record::{RecordKind, Reference};
use fs_core::report::{Finding, Place, Severity};
use fs_core::repository::RepositoryError;
use fs_core::storage::{ObjectName, StoreError, WriteStore, delete_all};

use super::read::{records, trailer as trailer_of, trailers};
use super::table::{LIVE, PROTECTED, Pack};
use super::{Plan, PruneError, may_open};
use crate::backup::window::{COMMIT_WINDOW, Moment};

/// Packs, or snapshots, between two looks at clock and snapshots.
const AT_ONCE: usize = 64;
/// Trailers that are kept of packs that hold copies.
const TRAILERS_KEPT: usize = 16;

/// Where a record is that is about to be deleted elsewhere.
type Copies = Vec<(RecordKind, Reference)>;

impl Plan<'_> {
    pub(super) fn sweep(&mut self, store: &dyn WriteStore) -> Result<(), PruneError> {
        let snapshots: Vec<_> = std::mem::take(&mut self.walk.objects).into_values().collect();
        for some in snapshots.chunks(AT_ONCE) {
            if !self.may_go_on()? {
                return Ok(());
            }
            self.delete_snapshots(store, some)?;
        }
        let packs = std::mem::take(&mut self.decision.sweep);
        let mut progress = Progress { entry_total: packs.len() as u64, ..Progress::default() };
        let mut kept = HashMap::new();
        let most = self.decision.delete_max as u64;
        for some in packs.chunks(AT_ONCE) {
            if self.report.swept.count >= most {
                break;
            }
            let of_table: Vec<_> = some.iter().filter_map(|at| self.table.packs().get(*at).cloned().map(|pack| (*at, pack))).collect();
            let mut read = Vec::with_capacity(of_table.len());
            trailers(self.repository, of_table.iter().map(|(_, pack)| pack), |_, trailer| {
                read.push(trailer);
                Ok(())
            })?;
            let mut dead = Vec::new();
            for ((at, pack), trailer) in of_table.into_iter().zip(read) {
                self.is_stopped()?;
                if self.is_dead(at, &pack, trailer, &mut kept)? {
                    dead.push((object::pack_name(pack.kind, &pack.id), (pack.id, pack.size)));
                }
                progress.entry_count += 1;
                progress.byte_count += pack.size;
                self.observer.progress(&progress);
            }
            dead.truncate(usize::try_from(most - self.report.swept.count).unwrap_or(usize::MAX));
            if !self.may_go_on()? {
                return Ok(());
            }
            let (names, packs): (Vec<_>, Vec<_>) = dead.into_iter().unzip();
            for (_, (id, size)) in self.delete(store, &names)?.into_iter().zip(packs).filter(|(is_gone, _)| *is_gone) {
                self.report.swept.add(size);
                self.report.deleted.push(id);
            }
        }
        let marks = std::mem::take(&mut self.decision.marks);
        self.report.marks_removed = self.delete(store, &marks)?.into_iter().map(u64::from).sum();
        Ok(())
    }

    /// Deletes the objects of snapshots, side by side those that come first of each: the manifest last, for a seal without one is what a lost snapshot looks like.
    fn delete_snapshots(&mut self, store: &dyn WriteStore, snapshots: &[Vec<ObjectName>]) -> Result<(), PruneError> {
        let mut left: Vec<&[ObjectName]> = snapshots.iter().map(Vec::as_slice).filter(|names| !names.is_empty()).collect();
        while !left.is_empty() {
            let firsts: Vec<_> = left.iter().filter_map(|names| names.first().cloned()).collect();
            let gone = self.delete(store, &firsts)?;
            left = left.iter().zip(gone).filter(|(_, is_gone)| *is_gone).filter_map(|(names, _)| names.get(1..)).collect();
            self.report.snapshots_swept += left.iter().filter(|names| names.is_empty()).count() as u64;
            left.retain(|names| !names.is_empty());
        }
        Ok(())
    }

    /// Whether the walk may still be relied on: it is young, or nothing has changed since.
    fn may_go_on(&mut self) -> Result<bool, PruneError> {
        self.is_stopped()?;
        let now = Moment::now(self.repository, &**self.repository.store())?;
        if self.walk.seen.as_ref().is_some_and(|seen| now.since(seen) <= COMMIT_WINDOW) || self.walk.is_still()? {
            return Ok(true);
        }
        self.note(Severity::Note, "snapshots came or went while old packs were deleted: the next run goes on");
        Ok(false)
    }

    /// Whether nothing is needed of a pack that has no copy which opens.
    fn is_dead(
        &mut self,
        at: usize,
        pack: &Pack,
        trailer: Result<Trailer, RepositoryError>,
        kept: &mut HashMap<PackId, Trailer>,
    ) -> Result<bool, PruneError> {
        let name = object::pack_name(pack.kind, &pack.id);
        let trailer = match trailer {
            Ok(trailer) => trailer,
            Err(RepositoryError::Object { source, .. }) => {
                let message = format!("it is due to be deleted, and does not open: it is left alone: {source}");
                self.report.findings.push(Finding::object(Severity::Warning, name.as_str(), message));
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        let mut copies: HashMap<ObjectKind, Copies> = HashMap::new();
        for (_, _, reference) in trailer.references(pack.id) {
            if self.table.needs(&reference.id) & (LIVE | PROTECTED) == 0 {
                continue;
            }
            let Some(copy) = self.table.copies(&reference.id).find(|copy| copy.pack != at && self.decision.may_replace(&self.table, copy))
            else {
                return Ok(false);
            };
            let Some(other) = self.table.packs().get(copy.pack).cloned() else { return Ok(false) };
            if kept.len() >= TRAILERS_KEPT && !kept.contains_key(&other.id) {
                kept.clear();
            }
            if let std::collections::hash_map::Entry::Vacant(place) = kept.entry(other.id) {
                match trailer_of(self.repository, &other) {
                    Ok(trailer) => drop(place.insert(trailer)),
                    Err(RepositoryError::Object { .. }) => return Ok(false),
                    Err(error) => return Err(error.into()),
                }
            }
            let found = kept.get(&other.id).and_then(|trailer| {
                let found = trailer.records.binary_search_by_key(&copy.offset, |record| record.offset).ok()?;
                let (kind, _, found) = trailer.references(other.id).nth(found)?;
                (found.id == reference.id).then_some((kind, found))
            });
            let Some(found) = found else { return Ok(false) };
            copies.entry(other.kind).or_default().push(found);
        }
        for (kind, copies) in copies {
            if let Some(rotten) = self.rotten(kind, copies)? {
                let rotten = object::pack_name(kind, &rotten);
                let message = format!("it is due to be deleted, and stays: what is needed of it does not open in {rotten}");
                self.report.findings.push(Finding::object(Severity::Warning, name.as_str(), message));
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A pack in which one of these records does not open where it is said to be.
    fn rotten(&self, kind: ObjectKind, mut copies: Copies) -> Result<Option<PackId>, PruneError> {
        if !may_open(self.repository, kind) {
            return Ok(copies.first().map(|(_, reference)| reference.pack));
        }
        copies.sort_by_key(|(_, reference)| (reference.pack, reference.offset));
        let kinds: HashMap<_, _> = copies.iter().map(|(kind, reference)| ((reference.pack, reference.offset), *kind)).collect();
        let references: Vec<_> = copies.into_iter().map(|(_, reference)| reference).collect();
        let mut rotten = None;
        records::<PruneError>(self.repository, (kind, &references), |reference, stored| {
            let opened = stored.ok().zip(kinds.get(&(reference.pack, reference.offset)));
            if opened.is_none_or(|(stored, kind)| self.repository.open_record(*kind, reference, stored).is_err()) {
                rotten = Some(reference.pack);
            }
            Ok(())
        })?;
        Ok(rotten)
    }

    /// Deletes objects, several at a time. Of each whether it is gone; what the store holds on to is told.
    fn delete(&mut self, store: &dyn WriteStore, names: &[ObjectName]) -> Result<Vec<bool>, PruneError> {
        let mut gone = Vec::with_capacity(names.len());
        for deleted in delete_all(store, names) {
            match deleted {
                Ok(()) => gone.push(true),
                Err(StoreError::Denied { .. }) => {
                    // An address that asks for keeping gets what it asked for.
                    let severity = if store.capabilities().retention.is_some() { Severity::Note } else { Severity::Warning };
                    if self.report.deferred == 0 {
                        self.note(severity, "the store does not let go of what is to be deleted: it keeps objects for a time, or these credentials may not delete");
                    }
                    self.report.deferred += 1;
                    gone.push(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(gone)
    }

    fn note(&mut self, severity: Severity, message: &str) {
        self.report.findings.push(Finding { severity, place: Place::Operation, message: message.into() });
    }
}
