//! The packs of a repository: which are there, what they hold, and reading them whole.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use crossbeam_channel as channel;
use fs_core::id::{PackId, RecordId};
use fs_core::index::Shard;
use fs_core::object::{self, ObjectKind};
use fs_core::observer::Progress;
use fs_core::pack::{self, Trailer};
use fs_core::record::{RecordKind, Reference};
use fs_core::report::{Finding, Place, Severity};
use fs_core::repository::{ReadError, Repository, RepositoryError};
use fs_core::storage::whole::read_in_parts;
use fs_core::storage::{StoreError, wait};
use fs_core::time::Timestamp;

use super::{CheckOptions, ReadData, Run};
use crate::proven::Proven;
use crate::proven::cycle::{self, Known, Listed};

/// Packs that are read at a time; each is in memory.
const READERS_MAX: usize = 4;
/// Packs that are noted together.
const NOTED_MAX: usize = 16;

/// Where a pack holds which record: offset, id and stored length.
#[derive(Clone, Debug, Default)]
pub(super) struct Records(HashMap<u32, (RecordId, u32)>);

impl Records {
    /// What a trailer says.
    pub(super) fn of(trailer: &Trailer) -> Self {
        Self(trailer.records.iter().map(|record| (record.offset, (record.facts.id, record.stored_len))).collect())
    }
}

/// A pack that the store lists.
#[derive(Debug)]
pub(super) struct ListedPack {
    pub(super) kind: ObjectKind,
    pub(super) size: u64,
    modified: Option<i64>,
    /// Shards that speak of it with this size.
    shards: Vec<usize>,
    /// What it holds by its own trailer, damaged records left out. Counts more than the index.
    records: Option<Records>,
}

/// All packs that the store lists.
#[derive(Debug)]
pub(super) struct Packs(HashMap<PackId, ListedPack>);

impl Packs {
    pub(super) fn list(repository: &Repository, shards: &[Arc<Shard>]) -> Result<Self, StoreError> {
        let mut packs = HashMap::new();
        for kind in [ObjectKind::DataPack, ObjectKind::MetaPack] {
            for meta in wait(kind.prefix(), repository.store().list(kind.prefix(), None))? {
                let Some(id) = object::parse_pack_name(kind, &meta.name) else { continue };
                let modified = meta.modified.map(Timestamp::seconds);
                packs.insert(id, ListedPack { kind, size: meta.size, modified, shards: Vec::new(), records: None });
            }
        }
        for (at, shard) in shards.iter().enumerate() {
            for named in shard.packs() {
                let listed = packs.get_mut(&named.id).filter(|listed| (listed.kind, listed.size) == (named.kind, named.size));
                listed.into_iter().for_each(|listed| listed.shards.push(at));
            }
        }
        Ok(Self(packs))
    }

    /// Takes a pack out that is not there any more.
    pub(super) fn remove(&mut self, id: &PackId) {
        self.0.remove(id);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn get(&self, id: &PackId) -> Option<&ListedPack> {
        self.0.get(id)
    }

    /// How many records the index knows in packs that are there.
    pub(super) fn count_by_index(&self, shards: &[Arc<Shard>]) -> u64 {
        let (mut counted, mut count) = (HashSet::new(), 0);
        for (at, shard) in shards.iter().enumerate() {
            for (named, records) in shard.packs().iter().zip(shard.record_counts()) {
                let is_there = self.0.get(&named.id).is_some_and(|listed| listed.shards.contains(&at));
                count += if is_there && counted.insert(named.id) { records } else { 0 };
            }
        }
        count
    }

    /// Packs of which nobody says what they hold, sorted.
    pub(super) fn without_records(&self) -> Vec<(PackId, ObjectKind, u64)> {
        let unknown = self.0.iter().filter(|(_, listed)| listed.records.is_none() && listed.shards.is_empty());
        let mut unknown: Vec<_> = unknown.map(|(id, listed)| (*id, listed.kind, listed.size)).collect();
        unknown.sort_unstable_by_key(|(id, ..)| *id);
        unknown
    }

    pub(super) fn set_records(&mut self, id: &PackId, records: Records) {
        self.0.get_mut(id).into_iter().for_each(|listed| listed.records = Some(records.clone()));
    }

    /// Whether a record lies where its reference says.
    pub(super) fn has(&self, shards: &[Arc<Shard>], reference: &Reference) -> bool {
        let Some(listed) = self.0.get(&reference.pack) else { return false };
        if let Some(Records(records)) = &listed.records {
            return records.get(&reference.offset) == Some(&(reference.id, reference.stored_len));
        }
        let place = |found: &Reference| (found.pack, found.offset, found.stored_len);
        let mut found = listed.shards.iter().filter_map(|at| shards.get(*at)).flat_map(|shard| shard.find(&reference.id));
        found.any(|found| place(&found.reference) == place(reference))
    }

    fn all(&self) -> Vec<Listed> {
        let mut all: Vec<_> = self.0.iter().map(|(id, listed)| Listed { id: *id, size: listed.size, modified: listed.modified }).collect();
        all.sort_unstable_by_key(|listed| listed.id);
        all
    }
}

/// Reads the packs that are wanted, and notes those that are in order as it goes: whoever stops it keeps what is proven.
pub(super) fn read(run: &mut Run<'_>, how: &CheckOptions, proven: Option<&Proven>) -> Result<(), ReadError> {
    let now = run.repository.clock().now();
    let (wanted, waiting) = choose(run, how, proven, now);
    if !wanted.is_empty() && !run.repository.ring().role.may_read() {
        let message = "this key opens no contents: packs of them are compared with their own hashes only".into();
        run.note([Finding { severity: Severity::Note, place: Place::Operation, message }]);
    }
    let mut notes = Notes { proven, packs: Vec::new(), now };
    let read = read_all(run, &wanted, &mut notes);
    notes.write();
    let done = read?;
    let left: Vec<_> = wanted.iter().filter(|pack| !done.contains(&pack.id)).chain(&waiting).collect();
    run.report.waiting_count = left.len() as u64;
    run.report.waiting_bytes = left.iter().map(|pack| pack.size).sum();
    if let Some(proven) = proven {
        let known = proven.keep_packs(&run.packs.0.keys().copied().collect()).and_then(|()| proven.packs()).unwrap_or_default();
        run.report.never_read = Some(run.packs.0.keys().filter(|id| !known.contains_key(*id)).count() as u64);
        run.report.oldest_read = known.values().min().and_then(|seconds| Timestamp::new(*seconds, 0));
    }
    Ok(())
}

/// Which packs are read, those first that wait longest, and which have to wait.
fn choose(run: &Run<'_>, how: &CheckOptions, proven: Option<&Proven>, now: Timestamp) -> (Vec<Listed>, Vec<Listed>) {
    let read = proven.and_then(|proven| proven.packs().ok()).unwrap_or_default();
    let mut all = run.packs.all();
    all.sort_by_key(|pack| read.get(&pack.id).copied());
    let wanted = match how.read_data {
        ReadData::None => Vec::new(),
        ReadData::All => all,
        ReadData::Part { n, m } => all.into_iter().filter(|pack| cycle::part(&pack.id, m) + 1 == n).collect(),
        ReadData::Cycle { days } => {
            let began = proven.and_then(|proven| proven.began(now).ok()).unwrap_or(now.seconds());
            cycle::due(&all, Known { read: &read, began, now: now.seconds() }, days)
        }
    };
    cycle::within(wanted, how.download_max.unwrap_or(u64::MAX))
}

/// Packs that are in order and not noted yet.
struct Notes<'a> {
    proven: Option<&'a Proven>,
    packs: Vec<PackId>,
    now: Timestamp,
}

impl Notes<'_> {
    fn add(&mut self, pack: PackId) {
        self.packs.push(pack);
        if self.packs.len() >= NOTED_MAX {
            self.write();
        }
    }

    fn write(&mut self) {
        let packs = std::mem::take(&mut self.packs);
        if let Some(proven) = self.proven.filter(|_| !packs.is_empty())
            && let Err(error) = proven.note_packs(&packs, self.now)
        {
            tracing::warn!(%error, "it is not remembered what was read");
        }
    }
}

/// What reading a pack gave.
struct WholePack {
    id: PackId,
    size: u64,
    /// What is wrong with it.
    findings: Vec<Finding>,
    /// What it holds and opens; an error if nobody knows.
    records: Result<Records, RepositoryError>,
}

/// Reads packs side by side; those that were read to their end.
fn read_all(run: &mut Run<'_>, wanted: &[Listed], notes: &mut Notes<'_>) -> Result<HashSet<PackId>, ReadError> {
    let (next, observer, repository) = (AtomicUsize::new(0), run.observer, run.repository);
    let shards = run.shards.clone();
    let kinds: HashMap<_, _> = wanted.iter().filter_map(|pack| Some((pack.id, run.packs.get(&pack.id)?.kind))).collect();
    let byte_total = wanted.iter().map(|pack| pack.size).sum();
    let mut progress = Progress { entry_total: wanted.len() as u64, byte_total, ..Progress::default() };
    let mut done = HashSet::new();
    std::thread::scope(|scope| {
        let (sender, receiver) = channel::bounded(READERS_MAX);
        for _ in 0..crate::worker_count().min(READERS_MAX) {
            let (sender, next, shards, kinds) = (sender.clone(), &next, &shards, &kinds);
            scope.spawn(move || {
                while let Some(pack) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Some(kind) = kinds.get(&pack.id) else { continue };
                    let Some(whole) = read_whole(repository, pack, *kind, shards, &|| observer.is_cancelled()) else { return };
                    if sender.send(whole).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for whole in receiver {
            progress.entry_count += 1;
            progress.byte_count += whole.size;
            observer.progress(&progress);
            done.insert(whole.id);
            run.take(whole, notes)?;
            if run.is_over() {
                break;
            }
        }
        Ok(done)
    })
}

impl Run<'_> {
    fn take(&mut self, whole: WholePack, notes: &mut Notes<'_>) -> Result<(), ReadError> {
        self.report.packs_read += 1;
        self.report.bytes_read += whole.size;
        if whole.findings.is_empty() && whole.records.is_ok() {
            notes.add(whole.id);
        }
        self.note(whole.findings);
        match whole.records {
            Ok(records) => {
                self.failures = 0;
                let is_new = self.packs.get(&whole.id).is_some_and(|listed| listed.shards.is_empty());
                self.report.record_count += if is_new { records.0.len() as u64 } else { 0 };
                self.packs.set_records(&whole.id, records);
                Ok(())
            }
            Err(error) => {
                let kind = self.packs.get(&whole.id).map_or(ObjectKind::DataPack, |listed| listed.kind);
                self.pack_failed(whole.id, kind, error)
            }
        }
    }
}

/// Reads a pack, its end hash and every record in it; `None` if it was stopped.
fn read_whole(
    repository: &Repository,
    pack: &Listed,
    kind: ObjectKind,
    shards: &[Arc<Shard>],
    is_cancelled: &dyn Fn() -> bool,
) -> Option<WholePack> {
    let (id, size) = (pack.id, pack.size);
    let name = object::pack_name(kind, &id);
    let failed = |error| Some(WholePack { id, size, findings: Vec::new(), records: Err(error) });
    let mut bytes = BytesMut::with_capacity(usize::try_from(size.min(pack::PACK_SIZE_MAX)).unwrap_or(0));
    if size > pack::PACK_SIZE_MAX {
        let source = object::ObjectError::Broken("it is larger than any pack");
        return failed(RepositoryError::Object { name, source });
    }
    let mut add = |part: bytes::Bytes| {
        bytes.extend_from_slice(&part);
        !is_cancelled()
    };
    match read_in_parts(&**repository.store(), &name, size, &mut add) {
        Ok(true) => {}
        Ok(false) => return None,
        Err(error) => return failed(error.into()),
    }
    let mut findings = Vec::new();
    let wrong = |message: String| Finding::object(Severity::Error, name.as_str(), message);
    if !pack::verify_end_hash(&bytes) {
        findings.push(wrong("its bytes do not have the hash at its end".into()));
    }
    let trailer = pack::decode_whole(&bytes, (kind, id, repository.id()), |epoch| repository.ring().structure(epoch));
    let records = match trailer {
        Ok(trailer) => open_all(repository, (id, kind), &trailer, &bytes, &mut findings),
        Err(source) => {
            // What it holds the index may know too: then only the end is lost.
            let known: Vec<_> = shards.iter().flat_map(|shard| shard.records_in(&id)).map(|place| (place.kind, place.reference)).collect();
            if known.is_empty() {
                return Some(WholePack { id, size, findings, records: Err(RepositoryError::Object { name, source }) });
            }
            findings.push(wrong(source.to_string()));
            let opens = known.into_iter().filter(|(kind, reference)| open_one(repository, *kind, reference, &bytes).is_ok());
            Records(opens.map(|(_, reference)| (reference.offset, (reference.id, reference.stored_len))).collect())
        }
    };
    Some(WholePack { id, size, findings, records: Ok(records) })
}

/// Opens every record that a trailer lists, and looks at the small files in each; those that are in order.
fn open_all(
    repository: &Repository,
    (id, kind): (PackId, ObjectKind),
    trailer: &Trailer,
    bytes: &[u8],
    findings: &mut Vec<Finding>,
) -> Records {
    let name = object::pack_name(kind, &id);
    let mut records = Records::of(trailer);
    for (at, (record_kind, _, reference)) in trailer.references(id).enumerate() {
        let file_key = repository.ring().epochs.get(&reference.session.epoch).and_then(|keys| keys.file.as_ref());
        let problem = match open_one(repository, record_kind, &reference, bytes) {
            Err(message) => message,
            Ok(_) if !repository.ring().role.may_read() => continue,
            Ok(plain) if trailer.fragments_of(at).iter().all(|part| file_key.is_none_or(|key| part.is_in(&plain, key))) => continue,
            Ok(_) => format!("the small files in record {} are not those that its list names", reference.id),
        };
        records.0.remove(&reference.offset);
        findings.push(Finding::object(Severity::Error, name.as_str(), problem));
    }
    records
}

/// A key that opens no contents has nothing but the hash of the pack for them, and no key to look at the small files in them.
fn open_one(repository: &Repository, kind: RecordKind, reference: &Reference, pack: &[u8]) -> Result<bytes::Bytes, String> {
    let start = reference.offset as usize;
    let stored = pack.get(start..start + reference.stored_len as usize).unwrap_or_default();
    if kind == RecordKind::Data && !repository.ring().role.may_read() {
        return Ok(bytes::Bytes::new());
    }
    repository.open_record(kind, reference, BytesMut::from(stored)).map_err(|error| error.to_string())
}
