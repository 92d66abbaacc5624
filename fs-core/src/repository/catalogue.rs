//! Which snapshots there are: manifests and seals, read once, and the roll-ups that spare reading them one by one.

use std::cell::LazyCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::thread;

use bytes::Bytes;

use super::certified::{Certificates, WRITERS};
use super::forgotten::{Snapshots, part, read_tombstones};
use super::known::{Checked, Known, Row};
use super::listing::{Listing, Named, NamedCatalogue};
use super::open::{Ahead, small};
use super::{Repository, RepositoryError, heads, verified};
use crate::id::{ObjectHash, SnapshotId};
use crate::object::{self, Header, ObjectError, ObjectKind, Signed};
use crate::report::{Finding, Place, Severity};
use crate::snapshot::codec::{Catalogue, CatalogueRow, Seal, check_hash};
use crate::snapshot::tombstone::standing;
use crate::snapshot::{Manifest, Snapshot};
use crate::storage::{ObjectName, StoreError, get_all, wait};

/// Objects that are read and checked together; bounds what is in memory on the way.
const BATCH: usize = 256;
/// Threads that check signatures.
const CHECKERS_MAX: usize = 8;
/// Fewer signatures than this are not worth a thread.
const CHECKS_PER_THREAD_MIN: usize = 32;

pub(super) fn refresh(repository: &Repository, known: &mut Known) -> Result<Snapshots, RepositoryError> {
    Ok(refresh_all(repository, known)?.0)
}

/// The same with what was listed.
pub(super) fn refresh_all(repository: &Repository, known: &mut Known) -> Result<(Snapshots, Listing), RepositoryError> {
    let role = repository.ring.role;
    if !role.may_list() {
        return Err(RepositoryError::NotAllowed { role });
    }
    let (listing, mut findings) = look(repository, known, Thoroughness::WhatIsWorthIt)?;
    let sealed = sealed(repository, known, &listing, &mut findings)?;
    let snapshot = |(named, sealed): (&Named, bool)| {
        let id = SnapshotId::from(named.hash);
        Some(Snapshot { id, sealed, outline: known.manifests.get(&id)?.outline.clone() })
    };
    let mut snapshots: Vec<_> = listing.manifests.iter().zip(sealed).filter_map(snapshot).collect();
    snapshots.sort_unstable_by_key(|snapshot| (snapshot.started(), snapshot.id));
    let heads = heads::newest(snapshots.iter());
    let missing = missing(known, &listing);
    findings.extend(newest_missing(known, &missing));
    let (live, forgotten) = part(known, snapshots);
    Ok((Snapshots { live, forgotten, heads, missing, findings }, listing))
}

/// Snapshots that this machine has read before, that are not listed, and that nobody forgot.
fn missing(known: &Known, listing: &Listing) -> BTreeSet<SnapshotId> {
    let is_listed =
        |(id, row): (&SnapshotId, &Row)| listing.manifest_at(row.outline.series.device, row.outline.sequence, (*id).into()).is_some();
    let mut missing: BTreeSet<_> = known.manifests.iter().filter(|row| !is_listed(*row)).map(|(id, _)| *id).collect();
    if !known.gone.is_empty() {
        let listed: HashSet<SnapshotId> = listing.manifests.iter().map(|named| named.hash.into()).collect();
        missing.extend(known.gone.iter().filter(|id| !listed.contains(id)));
    }
    if !missing.is_empty() {
        let forgotten = standing(known.tombstones.iter().map(|(hash, said)| (hash, &**said)));
        missing.retain(|id| !forgotten.contains_key(id));
    }
    missing
}

/// What is said of them: the store has lost them, or shows an older state.
fn newest_missing(known: &Known, missing: &BTreeSet<SnapshotId>) -> Option<Finding> {
    let first = missing.first()?;
    let newest = missing.iter().filter_map(|id| Some((known.manifests.get(id)?.outline.started, id))).max().map_or(first, |(_, id)| id);
    let message = format!(
        "this machine has seen snapshots that are not in the store any more, though nobody forgot them ({}, among them {}): the store has lost them, or shows an older state",
        missing.len(),
        newest.short()
    );
    Some(Finding { severity: Severity::Warning, place: Place::Operation, message })
}

/// Which catalogues are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Thoroughness {
    /// Those that spare reading manifests.
    WhatIsWorthIt,
    /// All that are of use, so that it is known which manifests stand in none.
    Everything,
}

/// What the store lists; the first time what opening the repository has listed and fetched.
pub(super) fn list(repository: &Repository, opening: Option<(Listing, Ahead)>) -> Result<(Listing, Ahead), RepositoryError> {
    opening.map_or_else(|| Ok((Listing::read(&*repository.store)?, Ahead::default())), Ok)
}

/// Lists the store and reads what is new.
pub(super) fn look(
    repository: &Repository,
    known: &mut Known,
    thoroughness: Thoroughness,
) -> Result<(Listing, Vec<Finding>), RepositoryError> {
    let (listing, mut ahead) = list(repository, known.opening.take())?;
    let mut findings = Vec::new();
    let counts = |known: &Known| (known.manifests.len(), known.seals.len(), known.done.len(), known.tombstones.len());
    let before = counts(known);
    read_catalogues(repository, known, &listing, thoroughness, &mut ahead, &mut findings);
    read_manifests(repository, known, &listing, &mut ahead, &mut findings)?;
    read_seals(repository, known, &listing, &mut ahead, &mut findings)?;
    read_tombstones(repository, known, &listing, &mut ahead, &mut findings)?;
    if before != counts(known) {
        known.forget_lost_manifests(&listing);
        if let Err(error) = known.pack() {
            tracing::warn!(%error, "manifests that were kept cannot be put together");
        }
        verified::save(repository, known);
    }
    Ok((listing, findings))
}

pub(super) fn damaged(name: &ObjectName, error: impl ToString) -> Finding {
    Finding::object(Severity::Error, name.as_str(), error.to_string())
}

/// What is wrong with an object that was read. One that never had the right to count is no damage.
pub(super) fn refused(name: &ObjectName, error: &ObjectError) -> Finding {
    let severity = if error.is_without_right() { Severity::Warning } else { Severity::Error };
    Finding { severity, ..damaged(name, error) }
}

/// Of every manifest that is listed whether a seal stands for it.
fn sealed(repository: &Repository, known: &Known, listing: &Listing, findings: &mut Vec<Finding>) -> Result<Vec<bool>, RepositoryError> {
    let mut sealed = vec![false; listing.manifests.len()];
    let forgotten = LazyCell::new(|| standing(known.tombstones.iter().map(|(hash, said)| (hash, &**said))));
    for seal in &listing.seals {
        let Some(manifest) = known.seals.get(&seal.hash) else { continue };
        let place = listing.manifest_at(seal.device, seal.sequence, (*manifest).into()).and_then(|at| sealed.get_mut(at));
        if let Some(sealed) = place
            && known.manifests.contains_key(manifest)
        {
            *sealed = true;
            continue;
        }
        // It was swept by a run to which the store did not list the seal.
        if forgotten.contains_key(manifest) {
            continue;
        }
        // Both were listed at once: the manifest may have been written and sealed in between. Of a damaged one, that is the finding.
        let name = object::sequence_name(ObjectKind::Manifest, &seal.device, seal.sequence, &(*manifest).into());
        if let Err(StoreError::NotFound { .. }) = wait(name.as_str(), repository.store.stat(&name)) {
            findings.push(damaged(&seal.name(), format!("it seals snapshot {manifest}, which is missing")));
        }
    }
    Ok(sealed)
}

/// A damaged catalogue costs time only: the manifests are read one by one.
fn read_catalogues(
    repository: &Repository,
    known: &mut Known,
    listing: &Listing,
    thoroughness: Thoroughness,
    ahead: &mut Ahead,
    findings: &mut Vec<Finding>,
) {
    known.forget_lost_catalogues(listing);
    loop {
        let missing: HashMap<_, _> = listing
            .manifests
            .iter()
            .map(|named| (SnapshotId::from(named.hash), named))
            .filter(|(id, _)| !known.manifests.contains_key(id))
            .collect();
        let manifest_count = if thoroughness == Thoroughness::Everything { usize::MAX } else { missing.len() };
        let best: Vec<_> = listing.best_catalogues(manifest_count, &known.done).into_iter().cloned().collect();
        if best.is_empty() {
            return;
        }
        let seals: HashMap<_, _> = listing.seals.iter().map(|named| (named.hash, named)).collect();
        for (named, object) in best.iter().zip(fetch(repository, ahead, best.iter().map(|named| (&named.name, named.size)))) {
            let opened = open_catalogue(repository, named, object);
            match opened.and_then(|catalogue| take_rows(repository, known, catalogue, (&missing, &seals))) {
                Ok(()) => {}
                // Whoever wrote it was revoked later: what it says is read from the manifests.
                Err(RepositoryError::Object { source: ObjectError::Revoked(_), .. }) => drop(known.useless.insert(named.hash)),
                Err(RepositoryError::Object { name, source }) => {
                    known.useless.insert(named.hash);
                    findings.push(damaged(&name, &source));
                }
                Err(error) => tracing::warn!(name = %named.name, %error, "a catalogue cannot be read"),
            }
            known.done.insert(named.hash);
        }
    }
}

/// Opens a catalogue with all checks.
pub(super) fn open_catalogue(
    repository: &Repository,
    named: &NamedCatalogue,
    object: Result<Bytes, StoreError>,
) -> Result<Catalogue, RepositoryError> {
    let wrong = |source| RepositoryError::Object { name: named.name.clone(), source };
    let object = object?;
    check_hash(&object, &named.hash).map_err(wrong)?;
    let (catalogue, header, signed) = Catalogue::decode_object(&object, &repository.ring).map_err(wrong)?;
    drop(object);
    repository.check_signature(&named.name, &header, &signed)?;
    Ok(catalogue)
}

/// Takes over the rows of a checked catalogue, each checked as if it had been read itself. One that is not sound counts as absent.
fn take_rows(
    repository: &Repository,
    known: &mut Known,
    catalogue: Catalogue,
    (missing, seals): (&HashMap<SnapshotId, &Named>, &HashMap<ObjectHash, &Named>),
) -> Result<(), RepositoryError> {
    let certificates = repository.certificates_of(catalogue.rows.iter().map(|row| row.signed.signer))?;
    known.done.extend(&catalogue.superseded);
    known.useless.extend(&catalogue.superseded);
    let mut wanted = Vec::new();
    for row in catalogue.rows {
        match missing.get(&row.manifest).filter(|_| !known.manifests.contains_key(&row.manifest)) {
            Some(named) => wanted.push((*named, row)),
            None => take_row(known, &row, seals),
        }
    }
    let check = |(named, mut row): (&Named, CatalogueRow)| {
        let read = || {
            let (header, _, _) = Header::expect(&row.header, ObjectKind::Manifest, repository.id())?;
            let manifest = Manifest::decode(&row.signed.payload)?;
            check_place(&certificates, named, &manifest, &header, &row.signed)?;
            Ok::<_, ObjectError>(manifest)
        };
        let manifest = read().ok();
        let payload = std::mem::take(&mut row.signed.payload);
        (manifest.map(|manifest| Checked::new(&manifest, payload)), row)
    };
    for (checked, row) in in_parallel(wanted, CHECKS_PER_THREAD_MIN, check) {
        if let Some(checked) = checked {
            known.insert(row.manifest, checked);
            take_row(known, &row, seals);
        }
    }
    Ok(())
}

/// A seal that is listed and named by the row of a manifest need not be read: whoever signed the catalogue has.
fn take_row(known: &mut Known, row: &CatalogueRow, seals: &HashMap<ObjectHash, &Named>) {
    let Some(manifest) = known.manifests.get_mut(&row.manifest) else { return };
    manifest.is_covered = true;
    if let Some((hash, named)) = row.seal.and_then(|hash| Some((hash, seals.get(&hash)?)))
        && (named.device, named.sequence) == (manifest.outline.series.device, manifest.outline.sequence)
    {
        known.seals.insert(hash, row.manifest);
    }
}

fn read_manifests(
    repository: &Repository,
    known: &mut Known,
    listing: &Listing,
    ahead: &mut Ahead,
    findings: &mut Vec<Finding>,
) -> Result<(), RepositoryError> {
    let missing: Vec<_> = listing.manifests.iter().filter(|named| !known.manifests.contains_key(&named.hash.into())).collect();
    let certificates = repository.certificates_of(missing.iter().map(|named| named.device))?;
    let check = |named: &Named, object: &[u8]| {
        let (manifest, _, signed) = open_manifest(repository, &certificates, named, object)?;
        Ok(Checked::new(&manifest, signed.payload))
    };
    let mut found = |named: &Named, checked| known.insert(named.hash.into(), checked);
    read_each(repository, &missing, ahead, findings, check, &mut found)
}

/// Opens a manifest with all checks.
pub(super) fn open_manifest(
    repository: &Repository,
    certificates: &Certificates,
    named: &Named,
    object: &[u8],
) -> Result<(Manifest, Header, Signed), ObjectError> {
    check_hash(object, &named.hash)?;
    let (manifest, header, signed) = Manifest::decode_object(object, &repository.ring)?;
    check_place(certificates, named, &manifest, &header, &signed)?;
    Ok((manifest, header, signed))
}

/// The checks that are the same for a manifest by itself and in a catalogue.
fn check_place(
    certificates: &Certificates,
    named: &Named,
    manifest: &Manifest,
    header: &Header,
    signed: &Signed,
) -> Result<(), ObjectError> {
    certificates.check(WRITERS, Some(&named.hash), header, signed)?;
    let is_at_its_place = (manifest.device, manifest.sequence) == (named.device, named.sequence) && signed.signer == named.device;
    if is_at_its_place { Ok(()) } else { Err(ObjectError::Misplaced) }
}

fn read_seals(
    repository: &Repository,
    known: &mut Known,
    listing: &Listing,
    ahead: &mut Ahead,
    findings: &mut Vec<Finding>,
) -> Result<(), RepositoryError> {
    let missing: Vec<_> = listing.seals.iter().filter(|named| !known.seals.contains_key(&named.hash)).collect();
    let certificates = repository.certificates_of(missing.iter().map(|named| named.device))?;
    let check = |named: &Named, object: &[u8]| open_seal(repository, &certificates, named, object);
    let mut found = |named: &Named, manifest| {
        known.seals.insert(named.hash, manifest);
    };
    read_each(repository, &missing, ahead, findings, check, &mut found)
}

/// Opens a seal with all checks: what it seals.
pub(super) fn open_seal(
    repository: &Repository,
    certificates: &Certificates,
    named: &Named,
    object: &[u8],
) -> Result<SnapshotId, ObjectError> {
    check_hash(object, &named.hash)?;
    let (seal, header, signed) = Seal::decode_object(object, repository.id(), |epoch| repository.ring.structure(epoch))?;
    certificates.check(WRITERS, Some(&named.hash), &header, &signed)?;
    let is_at_its_place = (seal.device, seal.sequence) == (named.device, named.sequence) && signed.signer == named.device;
    if is_at_its_place { Ok(seal.manifest) } else { Err(ObjectError::Misplaced) }
}

/// Reads small objects, many at a time. What is wrong with one of them is a finding.
pub(super) fn read_each<T: Send>(
    repository: &Repository,
    wanted: &[&Named],
    ahead: &mut Ahead,
    findings: &mut Vec<Finding>,
    check: impl Fn(&Named, &[u8]) -> Result<T, ObjectError> + Sync,
    found: &mut dyn FnMut(&Named, T),
) -> Result<(), RepositoryError> {
    for batch in wanted.chunks(BATCH) {
        let names: Vec<_> = batch.iter().map(|named| named.name()).collect();
        let objects = fetch(repository, ahead, names.iter().map(|name| (name, 0)));
        let mut read = Vec::with_capacity(batch.len());
        for ((named, name), object) in batch.iter().zip(names).zip(objects) {
            match small(&name, object) {
                Ok(object) => read.push((*named, object)),
                // A prune may take a forgotten snapshot between the list and this: that is no failure of whoever looks on.
                Err(StoreError::NotFound { .. }) => {
                    let message = "it was listed, and is not there any more: a prune may have deleted it just now";
                    findings.push(Finding { severity: Severity::Note, ..damaged(&name, message) });
                }
                // Anybody who may put objects can put one that is too large: it counts for nothing.
                Err(error @ StoreError::WrongSize { .. }) => findings.push(damaged(&name, error)),
                Err(error) => return Err(error.into()),
            }
        }
        for (named, result) in in_parallel(read, CHECKS_PER_THREAD_MIN, |(named, object)| (named, check(named, &object))) {
            match result {
                Ok(value) => found(named, value),
                Err(error) => findings.push(refused(&named.name(), &error)),
            }
        }
    }
    Ok(())
}

/// Gets objects, except those that were fetched ahead, in their order.
pub(super) fn fetch<'a>(
    repository: &Repository,
    ahead: &mut Ahead,
    objects: impl Iterator<Item = (&'a ObjectName, u64)>,
) -> Vec<Result<Bytes, StoreError>> {
    let (mut results, mut late) = (Vec::new(), Vec::new());
    for (place, (name, size)) in objects.enumerate() {
        let there = ahead.take(name);
        if there.is_none() {
            late.push((place, name, size));
        }
        results.push(there);
    }
    let got = get_all(&*repository.store, late.iter().map(|(_, name, size)| (*name, *size)));
    let mut got = got.into_iter();
    results.into_iter().filter_map(|there| there.or_else(|| got.next())).collect()
}

/// Works on all items, in their order, with a thread for each `share_min` of them. Checking a signature takes 50 µs: ten thousand are worth all processors.
pub(super) fn in_parallel<T: Send, R: Send>(items: Vec<T>, share_min: usize, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(CHECKERS_MAX).min(items.len() / share_min);
    if threads < 2 {
        return items.into_iter().map(work).collect();
    }
    let share = items.len().div_ceil(threads);
    let mut items = items.into_iter();
    let work = &work;
    thread::scope(|scope| {
        let shares: Vec<Vec<_>> = (0..threads).map(|_| items.by_ref().take(share).collect()).collect();
        let running: Vec<_> =
            shares.into_iter().map(|share| scope.spawn(move || share.into_iter().map(work).collect::<Vec<_>>())).collect();
        let results = running.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        results.flatten().collect()
    })
}
