//! What this machine has proven of a repository: which packs it has read whole, and which files it has drilled, each with its time (SQLite).
//!
//! Nothing rests on it: whoever loses it reads again. Packs go by their names, which the store sees too; files by a keyed hash; what the last drill of a
//! set has proven is sealed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use fs_core::crypto::{self, Key, SharedRandom, rows};
use fs_core::id::{PackId, SnapshotId};
use fs_core::repository::Repository;
use fs_core::state::{StateError, open_database};
use fs_core::time::Timestamp;
use fs_core::wire::{CborReader, CborWriter, WireError};
use rusqlite::{Connection, OpenFlags, params};

pub mod cycle;

const FILE: &str = "proven.db";
const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    CREATE TABLE IF NOT EXISTS packs (pack BLOB PRIMARY KEY, seconds INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS files (file BLOB PRIMARY KEY, seconds INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS drills (series BLOB PRIMARY KEY, facts BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS small (only_one INTEGER PRIMARY KEY CHECK (only_one = 1), seconds INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS began (only_one INTEGER PRIMARY KEY CHECK (only_one = 1), seconds INTEGER NOT NULL);";
/// Files that were drilled longer ago may as well be drilled again.
const FILE_DAYS_KEPT: i64 = 400;
const DAY_SECONDS: i64 = 86_400;
/// Longest name of a host or set.
const LABEL_LENGTH_MAX: usize = 4096;

/// When the snapshots of a host and set were last proven restorable, and how much of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LastDrill {
    /// The host.
    pub host: String,
    /// The set; empty for the default one.
    pub set: String,
    /// The newest snapshot of which a file was read.
    pub snapshot: SnapshotId,
    /// When.
    pub time: Timestamp,
    /// Files that were read whole and were what they should be.
    pub file_count: u64,
    /// Their bytes.
    pub byte_count: u64,
}

/// The database of one repository.
#[derive(Debug)]
pub struct Proven {
    database: Connection,
    key: Key,
    random: SharedRandom,
}

impl Proven {
    /// Opens the database in the repository's local folder. One that is damaged is begun anew.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn open(folder: &Path, repository: &Repository) -> Result<Self, StateError> {
        let database = open_database(folder, FILE, SCHEMA).or_else(|error| {
            if !matches!(error, StateError::Database { .. }) {
                return Err(error);
            }
            tracing::warn!(%error, "what this machine has proven is forgotten");
            let path = folder.join(FILE);
            std::fs::remove_file(&path).map_err(|source| StateError::Folder { path, source })?;
            open_database(folder, FILE, SCHEMA)
        })?;
        Ok(Self::with(database, repository))
    }

    /// Opens it to look only; `None` if there is none.
    pub fn open_to_read(folder: &Path, repository: &Repository) -> Option<Self> {
        let database = Connection::open_with_flags(folder.join(FILE), OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
        Some(Self::with(database, repository))
    }

    fn with(database: Connection, repository: &Repository) -> Self {
        let key = repository.ring().current().structure.derive("yesterdrive 1 local proofs");
        Self { database, key, random: repository.random().clone() }
    }

    /// When each pack was last read whole and was in order, in seconds.
    ///
    /// # Errors
    /// SQLite's.
    pub fn packs(&self) -> rusqlite::Result<HashMap<PackId, i64>> {
        let mut query = self.database.prepare("SELECT pack, seconds FROM packs")?;
        let rows = query.query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get(1)?)))?;
        rows.filter_map(|row| row.map(|(pack, seconds)| Some((PackId::from_slice(&pack)?, seconds))).transpose()).collect()
    }

    /// Notes packs that are in order.
    ///
    /// # Errors
    /// SQLite's; then none is noted.
    pub fn note_packs(&self, packs: &[PackId], now: Timestamp) -> rusqlite::Result<()> {
        let all = self.database.unchecked_transaction()?;
        for pack in packs {
            all.prepare_cached("INSERT OR REPLACE INTO packs VALUES (?1, ?2)")?.execute(params![&pack.as_bytes()[..], now.seconds()])?;
        }
        all.commit()
    }

    /// Lets go of packs that are not listed any more.
    ///
    /// # Errors
    /// SQLite's.
    pub fn keep_packs(&self, listed: &HashSet<PackId>) -> rusqlite::Result<()> {
        let gone: Vec<_> = self.packs()?.into_keys().filter(|pack| !listed.contains(pack)).collect();
        let all = self.database.unchecked_transaction()?;
        for pack in gone {
            all.prepare_cached("DELETE FROM packs WHERE pack = ?1")?.execute([&pack.as_bytes()[..]])?;
        }
        all.commit()
    }

    /// When this machine began to read in a cycle; it begins now if it has not.
    ///
    /// # Errors
    /// SQLite's.
    pub fn began(&self, now: Timestamp) -> rusqlite::Result<i64> {
        self.database.execute("INSERT OR IGNORE INTO began VALUES (1, ?1)", [now.seconds()])?;
        self.database.query_row("SELECT seconds FROM began", [], |row| row.get(0))
    }

    /// When all small objects that were due in a cycle were last in order, in seconds.
    pub(crate) fn small(&self) -> Option<i64> {
        self.database.query_row("SELECT seconds FROM small", [], |row| row.get(0)).ok()
    }

    /// Notes that all small objects that were due are in order. What cannot be noted is opened again.
    pub(crate) fn note_small(&self, now: Timestamp) {
        if let Err(error) = self.database.execute("INSERT OR REPLACE INTO small VALUES (1, ?1)", [now.seconds()]) {
            tracing::warn!(%error, "it is not remembered what was opened");
        }
    }

    /// What a file goes by: its path and what proves its content, whatever snapshot it is in.
    pub fn file_key(&self, path: &[u8], proof: &[u8]) -> [u8; 32] {
        crypto::keyed_hash(&self.key, &[b"file", proof, path])
    }

    /// When a file was last drilled, in seconds.
    pub fn drilled(&self, file: &[u8; 32]) -> Option<i64> {
        let query = self.database.prepare_cached("SELECT seconds FROM files WHERE file = ?1");
        query.and_then(|mut query| query.query_row([&file[..]], |row| row.get(0))).ok()
    }

    /// Notes files that are what they should be, and what that proves of each host and set.
    ///
    /// # Errors
    /// SQLite's; then nothing is noted.
    pub fn note_drill(&self, files: &[[u8; 32]], drills: &[LastDrill], now: Timestamp) -> rusqlite::Result<()> {
        let all = self.database.unchecked_transaction()?;
        for file in files {
            all.prepare_cached("INSERT OR REPLACE INTO files VALUES (?1, ?2)")?.execute(params![&file[..], now.seconds()])?;
        }
        for drill in drills {
            let series = crypto::keyed_hash(&self.key, &[b"series", drill.host.as_bytes(), &[0], drill.set.as_bytes()]);
            let facts = rows::seal(&self.key, &*self.random, &series, &encode(drill));
            all.execute("INSERT OR REPLACE INTO drills VALUES (?1, ?2)", params![&series[..], facts])?;
        }
        all.execute("DELETE FROM files WHERE seconds < ?1", [now.seconds() - FILE_DAYS_KEPT * DAY_SECONDS])?;
        all.commit()
    }

    /// What was last proven of each host and set, by host and set. A row that cannot be read is left out.
    pub fn last_drills(&self) -> Vec<LastDrill> {
        let read = || {
            let mut query = self.database.prepare("SELECT series, facts FROM drills")?;
            let rows = query.query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?)))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        let facts = read().unwrap_or_default().into_iter().filter_map(|(series, facts)| rows::open(&self.key, &series, facts));
        let drills = facts.filter_map(|facts| decode(&facts)).map(|drill| ((drill.host.clone(), drill.set.clone()), drill));
        drills.collect::<BTreeMap<_, _>>().into_values().collect()
    }
}

fn encode(drill: &LastDrill) -> Vec<u8> {
    let mut writer = CborWriter::new();
    writer.array(6).bytes(drill.host.as_bytes()).bytes(drill.set.as_bytes()).bytes(drill.snapshot.as_bytes());
    writer.bytes(&drill.time.seconds().to_le_bytes()).u64(drill.file_count).u64(drill.byte_count);
    writer.finish()
}

fn decode(facts: &[u8]) -> Option<LastDrill> {
    let mut reader = CborReader::new(facts);
    let drill = reader.tuple(6, |reader| {
        let (host, set) = (reader.bytes(LABEL_LENGTH_MAX)?.to_vec(), reader.bytes(LABEL_LENGTH_MAX)?.to_vec());
        let (snapshot, seconds) = (SnapshotId::from_bytes(reader.byte_array()?), i64::from_le_bytes(reader.byte_array()?));
        Ok::<_, WireError>((host, set, snapshot, seconds, reader.u64()?, reader.u64()?))
    });
    let (host, set, snapshot, seconds, file_count, byte_count) = drill.ok()?;
    let (host, set) = (String::from_utf8(host).ok()?, String::from_utf8(set).ok()?);
    Some(LastDrill { host, set, snapshot, time: Timestamp::new(seconds, 0)?, file_count, byte_count })
}
