//! What a device whose key opens nothing remembers of what it saved itself: the newest manifest of each set, the trees below it, and its index shards.
//!
//! With them it tells what has changed and stores nothing twice, as everybody else does, though no object of the repository opens to it. All of it is its own
//! work, so nobody else can make it rely on something. It lies sealed in the state folder, tells no more than the files that were saved, and losing it costs
//! a run that reads and compares everything.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Opened, ReadError, Repository, RepositoryError, Snapshots, heads, lock};
use crate::compress::{Codec, Compression, Compressor, decompress};
use crate::crypto::{self, Key, SharedRandom, rows};
use crate::id::{RecordId, SnapshotId};
use crate::index::{SHARD_ENTRIES_MAX, Shard};
use crate::key::KeyRing;
use crate::object::{self, Header, ObjectError, ObjectKind, Signer};
use crate::record::{PLAIN_LENGTH_MAX, RecordKind, Reference};
use crate::report::{Finding, Place, Severity};
use crate::snapshot::{Manifest, Snapshot};
use crate::state::{StateError, open_database};
use crate::tree::{Content, Page};

const FILE: &str = "past.db";
const SCHEMA: &str = "
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS records (id BLOB PRIMARY KEY, sealed BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS manifests (series BLOB PRIMARY KEY, sealed BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shards (hash BLOB PRIMARY KEY, object BLOB NOT NULL) WITHOUT ROWID;";

/// Bytes of records that wait to be written together.
const WAITING_MAX: usize = 4 << 20;
/// Records more than were left the last time, after which those are looked for that no manifest needs any more; or as many as were left.
const RECORDS_BETWEEN: i64 = 1000;
/// Shards that are kept one by one; more become one.
const SHARDS_MAX: usize = 16;
/// Manifest, place in the database.
const MANIFEST_PLACE: &[u8] = b"manifest";

/// What the device remembers, in a database of the state folder.
#[derive(Debug)]
pub(super) struct Past {
    database: Mutex<Connection>,
    key: Key,
    random: SharedRandom,
    waiting: Mutex<Waiting>,
}

/// Records that are still to be written.
#[derive(Debug)]
struct Waiting {
    compressor: Compressor,
    records: Vec<(RecordId, Vec<u8>)>,
    bytes: usize,
}

impl Past {
    /// Opens the database in the repository's local folder. One that is damaged is begun anew.
    pub(super) fn open(state: &Path, ring: &KeyRing, random: &SharedRandom) -> Result<Self, StateError> {
        let folder = state.join(ring.repository.to_string());
        let database = open_database(&folder, FILE, SCHEMA).or_else(|error| {
            tracing::warn!(%error, "what this machine knew of its snapshots is begun anew");
            let path = folder.join(FILE);
            std::fs::remove_file(&path).map_err(|source| StateError::Folder { path, source })?;
            open_database(&folder, FILE, SCHEMA)
        })?;
        let key = ring.current().structure.derive("yesterdrive 1 local past");
        let waiting = Waiting { compressor: Compressor::new(Compression::Fast), records: Vec::new(), bytes: 0 };
        Ok(Self { database: Mutex::new(database), key, random: Arc::clone(random), waiting: Mutex::new(waiting) })
    }

    /// The plaintext of a record that this device has written.
    fn record(&self, id: &RecordId) -> Option<Bytes> {
        let found = lock(&self.database)
            .prepare_cached("SELECT sealed FROM records WHERE id = ?1")
            .and_then(|mut query| query.query_row([&id.as_bytes()[..]], |row| row.get(0)).optional());
        let sealed: Vec<u8> = found.inspect_err(|error| tracing::warn!(%error, "what this machine saved cannot be looked up")).ok()??;
        let plain = Bytes::from(rows::open(&self.key, id.as_bytes(), sealed)?);
        let (head, body) = plain.split_first_chunk::<5>()?;
        let [codec, length @ ..] = *head;
        let length = usize::try_from(u32::from_le_bytes(length)).ok().filter(|length| *length <= PLAIN_LENGTH_MAX)?;
        decompress(Codec::from_byte(codec)?, plain.slice_ref(body), length).ok()
    }

    fn keep(&self, id: &RecordId, plain: &[u8]) {
        let Ok(length) = u32::try_from(plain.len()) else { return };
        let is_enough = {
            let mut waiting = lock(&self.waiting);
            let (codec, body) = waiting.compressor.compress(plain);
            let row = [&[codec.to_byte()], &length.to_le_bytes()[..], body].concat();
            let sealed = rows::seal(&self.key, &*self.random, id.as_bytes(), &row);
            waiting.bytes += sealed.len();
            waiting.records.push((*id, sealed));
            waiting.bytes >= WAITING_MAX
        };
        if is_enough {
            self.write_waiting();
        }
    }

    fn write_waiting(&self) {
        let records = {
            let mut waiting = lock(&self.waiting);
            waiting.bytes = 0;
            std::mem::take(&mut waiting.records)
        };
        if records.is_empty() {
            return;
        }
        self.noted(|database| {
            let all = database.unchecked_transaction()?;
            for (id, sealed) in &records {
                all.prepare_cached("INSERT OR IGNORE INTO records VALUES (?1, ?2)")?.execute(params![&id.as_bytes()[..], sealed])?;
            }
            all.commit()
        });
    }

    /// Keeps shards in the place of others.
    fn keep_shards(&self, replaced: &[Vec<u8>], objects: &[Vec<u8>]) {
        self.noted(|database| {
            let all = database.unchecked_transaction()?;
            for object in replaced {
                let hash = object::object_hash(object);
                all.execute("DELETE FROM shards WHERE hash = ?1", [&hash.as_bytes()[..]])?;
            }
            for object in objects {
                let hash = object::object_hash(object);
                all.execute("INSERT OR IGNORE INTO shards VALUES (?1, ?2)", params![&hash.as_bytes()[..], object])?;
            }
            all.commit()
        });
    }

    /// Does something to the database. What cannot be kept costs the next run time, and nothing else.
    fn noted(&self, change: impl FnOnce(&Connection) -> rusqlite::Result<()>) {
        if let Err(error) = change(&lock(&self.database)) {
            tracing::warn!(%error, "what this machine saved cannot be noted: the next run compares more");
        }
    }

    /// The newest manifest of each set.
    fn manifests(&self) -> Vec<(SnapshotId, Manifest)> {
        let all = self.column("SELECT sealed FROM manifests");
        let read = |sealed| {
            let row = rows::open(&self.key, MANIFEST_PLACE, sealed)?;
            let (id, payload) = row.split_at_checked(SnapshotId::LENGTH)?;
            Some((SnapshotId::from_slice(id)?, Manifest::decode(payload).ok()?))
        };
        all.into_iter().filter_map(read).collect()
    }

    fn column(&self, query: &str) -> Vec<Vec<u8>> {
        let database = lock(&self.database);
        let all = database.prepare(query).and_then(|mut query| query.query_map([], |row| row.get(0))?.collect());
        all.inspect_err(|error| tracing::warn!(%error, "what this machine saved cannot be looked up")).unwrap_or_default()
    }

    /// Takes the place of the manifest of the same set. What only that one needed is forgotten from time to time.
    fn saved(&self, id: &SnapshotId, manifest: &Manifest) {
        self.write_waiting();
        let series = crypto::keyed_hash(&self.key, &[b"series", manifest.host.as_bytes(), &[0], manifest.set.as_bytes()]);
        let row = [&id.as_bytes()[..], &manifest.encode()].concat();
        let sealed = rows::seal(&self.key, &*self.random, MANIFEST_PLACE, &row);
        self.noted(|database| database.execute("INSERT OR REPLACE INTO manifests VALUES (?1, ?2)", params![&series[..], sealed]).map(drop));
        if self.is_crowded().unwrap_or(false) {
            self.forget_unneeded();
        }
    }

    fn is_crowded(&self) -> rusqlite::Result<bool> {
        let database = lock(&self.database);
        let left: i64 = database.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let count: i64 = database.query_row("SELECT count(*) FROM records", [], |row| row.get(0))?;
        Ok(count > left + left.max(RECORDS_BETWEEN))
    }

    fn forget_unneeded(&self) {
        let mut needed = HashSet::new();
        for (_, manifest) in self.manifests() {
            let root = manifest.root.subtree.and_then(|subtree| subtree.page);
            self.gather(root.map(|page| (RecordKind::Tree, page)).into_iter().collect(), &mut needed);
        }
        self.noted(|database| {
            let all = database.unchecked_transaction()?;
            let ids: Vec<Vec<u8>> = all.prepare("SELECT id FROM records")?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
            for id in ids.iter().filter(|id| !RecordId::from_slice(id).is_some_and(|id| needed.contains(&id))) {
                all.prepare_cached("DELETE FROM records WHERE id = ?1")?.execute([id])?;
            }
            all.pragma_update(None, "user_version", i32::try_from(needed.len()).unwrap_or(i32::MAX))?;
            all.commit()
        });
    }

    /// All trees and lists below some, as far as they are remembered.
    fn gather(&self, mut open: Vec<(RecordKind, Reference)>, needed: &mut HashSet<RecordId>) {
        while let Some((kind, reference)) = open.pop() {
            if !needed.insert(reference.id) {
                continue;
            }
            match self.record(&reference.id).map(|plain| Opened::decode(kind, plain)) {
                Some(Ok(Opened::Page(page))) => match &*page {
                    Page::Index(rows) => open.extend(rows.iter().map(|row| (RecordKind::Tree, row.reference))),
                    Page::Leaf(leaf) => {
                        for entry in leaf.entries() {
                            open.extend(entry.subtree.as_ref().and_then(|subtree| subtree.page).map(|page| (RecordKind::Tree, page)));
                            if let Content::List { reference, .. } = &entry.content {
                                open.push((RecordKind::List, *reference));
                            }
                        }
                    }
                },
                Some(Ok(Opened::List(list))) if list.depth > 1 => {
                    open.extend(list.rows.iter().map(|row| (RecordKind::List, row.reference)));
                }
                _ => {}
            }
        }
    }
}

impl Repository {
    /// Whether the key opens what was saved; otherwise only what this machine remembers of its own is known.
    fn opens_trees(&self) -> bool {
        self.ring.role.may_list()
    }

    /// What whoever saves here goes on from: all snapshots, or for a key that opens none the newest of each set that this device has saved.
    ///
    /// # Errors
    /// As [`Self::all_snapshots`].
    pub fn snapshots_before(&self) -> Result<Snapshots, RepositoryError> {
        if self.opens_trees() {
            return self.all_snapshots();
        }
        let (heads, listing, mut findings) = heads::sealed(self)?;
        let (mut live, mut missing) = (Vec::new(), BTreeSet::new());
        for (id, manifest) in self.past.iter().flat_map(Past::manifests) {
            if listing.manifest_at(manifest.device, manifest.sequence, id.into()).is_some() {
                live.push(Snapshot::new(id, &manifest, true));
            } else if heads.get(&manifest.device).is_none_or(|head| head.sequence < manifest.sequence) {
                // Somebody who may forget has swept it, or the store has lost it: then it shows an older state.
                findings.push(lost(&manifest));
                missing.insert(id);
            }
        }
        live.sort_unstable_by_key(|snapshot| (snapshot.started(), snapshot.id));
        Ok(Snapshots { live, heads, missing, findings, ..Snapshots::default() })
    }

    /// A tree or list that this device has written, for a key that opens none; `None` for a key that opens them.
    pub(super) fn of_past(&self, kind: RecordKind, id: &RecordId) -> Option<Result<Opened, ReadError>> {
        if self.opens_trees() {
            return None;
        }
        let plain = self.past.as_ref().filter(|_| kind != RecordKind::Data).and_then(|past| past.record(id));
        let plain = plain.ok_or(ReadError::Key { id: *id, source: ObjectError::NotAllowed });
        Some(plain.and_then(|plain| Opened::decode(kind, plain).map_err(|source| ReadError::Malformed { id: *id, source })))
    }

    /// Takes note of a tree or list that is being saved, if that is the only way to know of it later.
    pub fn keep_record(&self, kind: RecordKind, id: &RecordId, plain: &[u8]) {
        if let Some(past) = self.past.as_ref().filter(|_| matches!(kind, RecordKind::Tree | RecordKind::List)) {
            past.keep(id, plain);
        }
    }

    /// Takes note of a snapshot that this device has sealed, if that is the only way to know of it later.
    pub fn keep_snapshot(&self, id: &SnapshotId, manifest: &Manifest) {
        if let Some(past) = &self.past {
            past.saved(id, manifest);
        }
    }

    /// Takes note of a shard that this device has put, if it relies on its own only.
    pub fn keep_shard(&self, shard: &Shard, signer: &Signer) {
        if let Some(past) = &self.past {
            let object = self.encode_shard(shard, signer);
            past.keep_shards(&[], &[object]);
        }
    }

    fn encode_shard(&self, shard: &Shard, signer: &Signer) -> Vec<u8> {
        let header = Header::new(ObjectKind::Shard, self.ring.epoch(), self.id(), &*self.random);
        shard.encode(&header, &self.ring.current().index, signer)
    }

    /// The index as far as a device wrote it itself: what this machine keeps of it, or, if that is lost, what the store still has.
    ///
    /// # Errors
    /// If the store has to be asked and cannot be listed or read.
    pub fn own_shards(&self, signer: &Signer) -> Result<Vec<Arc<Shard>>, RepositoryError> {
        let kept = self.past.as_ref().map(|past| past.column("SELECT object FROM shards")).unwrap_or_default();
        let open = |object: &Vec<u8>| {
            let hash = object::object_hash(object);
            let (shard, signed) = self.open_signed_shard(&object::hashed_name(ObjectKind::Shard, &hash), &hash, object).ok()?;
            (signed.signer == signer.device).then_some(shard)
        };
        let known: Vec<Shard> = kept.iter().filter_map(open).collect();
        let shards = if known.is_empty() {
            self.shards_signed_by(&signer.device)?
        } else if known.iter().filter(|shard| !shard.is_full(SHARD_ENTRIES_MAX)).count() > SHARDS_MAX {
            gathered(known)
        } else {
            return Ok(known.into_iter().map(Arc::new).collect());
        };
        if let Some(past) = &self.past {
            let objects: Vec<_> = shards.iter().map(|shard| self.encode_shard(shard, signer)).collect();
            past.keep_shards(&kept, &objects);
        }
        Ok(shards.into_iter().map(Arc::new).collect())
    }
}

/// Many small shards as few.
fn gathered(shards: Vec<Shard>) -> Vec<Shard> {
    let (mut full, small): (Vec<_>, Vec<_>) = shards.into_iter().partition(|shard| shard.is_full(SHARD_ENTRIES_MAX));
    let mut one = Shard::default();
    for shard in small {
        if one.len() + shard.len() > SHARD_ENTRIES_MAX || one.is_full(SHARD_ENTRIES_MAX) {
            full.push(std::mem::take(&mut one));
        }
        one.add_part(&shard, |_| true);
        one.sort();
    }
    full.push(one);
    full
}

fn lost(manifest: &Manifest) -> Finding {
    let message = format!(
        "snapshot {} of this device was sealed on {} and is not in the store any more: it was forgotten and swept, or the store has lost it or shows an older state",
        manifest.sequence, manifest.ended
    );
    Finding { severity: Severity::Warning, place: Place::Operation, message }
}
