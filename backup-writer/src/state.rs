//! What this machine saw when it last saved: files by directory, with the references to their content (SQLite).
//!
//! With it an unchanged file is recognised without reading the parent snapshot. Rows are facts about files at a path and hold for every set;
//! they are written only for files that were quiet before the run began, and only when the store has taken every pack that they name: then they are as true
//! without a snapshot as with one, because whoever uses them looks whether those packs are listed. Paths are hashed and rows sealed, so the database tells
//! nothing but how many directories there are and how large they are.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

use fs_core::crypto::{self, Key, SharedRandom, rows};
use fs_core::id::PackId;
use fs_core::path::{NAME_LENGTH_MAX, Name, TreePath};
use fs_core::repository::Repository;
use fs_core::state::{StateError, open_database};
use fs_core::tree::TreeError;
use fs_core::tree::codec::{Places, decode_entry, encode_entry};
use fs_core::wire::{CborReader, CborWriter};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};

use crate::parent::FileState;

mod summaries;

pub use summaries::{Counts, Summaries, Summary};

const FILE: &str = "files.db";
/// `seen` is a day: directories that are gone are forgotten after a time, and unchanged ones cost one write a day.
const SCHEMA: &str = "
    PRAGMA synchronous = NORMAL;
    CREATE TABLE IF NOT EXISTS directories (path BLOB PRIMARY KEY, seen INTEGER NOT NULL, files BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS summaries (path BLOB PRIMARY KEY, written INTEGER NOT NULL, fingerprint BLOB NOT NULL, summary BLOB NOT NULL);";
/// What a run notes, until it is committed: in memory while it is not much.
const FRESH: &str = "
    PRAGMA temp.cache_size = -16384;
    PRAGMA temp.journal_mode = MEMORY;
    CREATE TEMP TABLE fresh (path BLOB PRIMARY KEY, files BLOB);
    CREATE TEMP TABLE fresh_summaries (path BLOB PRIMARY KEY, written INTEGER, fingerprint BLOB, summary BLOB);";
/// Rows that were not seen for so many days belong to directories that are gone.
const DAYS_KEPT: i64 = 180;
const DAY_SECONDS: i64 = 86_400;
/// Rows that are written together: each transaction costs, also one of temporary tables.
const NOTED_MAX: usize = 256;
/// Layout of a row. Others are read as if there were none.
const VERSION: u64 = 2;
/// Files of one row: what a row of a gigabyte, SQLite's limit, could hold at most.
const FILES_MAX: usize = 1 << 24;
/// Packs of one file: 512 TiB of full ones.
const PACKS_MAX: usize = 1 << 24;

/// The database of one repository.
#[derive(Debug)]
pub struct FileStates {
    database: Connection,
    key: Key,
    random: SharedRandom,
    today: i64,
    /// There was nothing in it when it was opened: each look would cost locks.
    was_empty: bool,
    /// What is to be written next.
    noted: RefCell<Vec<Noted>>,
}

/// A row that a run notes.
#[derive(Debug)]
enum Noted {
    Files { key: [u8; 32], sealed: Option<Vec<u8>> },
    Summary { key: [u8; 32], written: i64, fingerprint: Vec<u8>, sealed: Vec<u8> },
}

/// The files of one directory as they were last saved; each is decoded when it is asked for.
#[derive(Debug)]
pub struct Directory {
    plain: Vec<u8>,
    places: Places,
    /// Where in `plain` the name and the facts of each file stand, sorted by name.
    rows: Vec<(Range<usize>, Range<usize>)>,
}

impl Directory {
    /// What is known of a file.
    pub fn get(&self, name: &Name) -> Option<FileState> {
        self.at(self.find(name)?)
    }

    /// Where a file stands among all.
    pub fn find(&self, name: &Name) -> Option<usize> {
        let name_at = |row: &(Range<usize>, Range<usize>)| self.plain.get(row.0.clone()).unwrap_or_default();
        self.rows.binary_search_by(|row| name_at(row).cmp(name.as_bytes())).ok()
    }

    /// What is known of the file that stands there.
    pub fn at(&self, at: usize) -> Option<FileState> {
        let facts = self.plain.get(self.rows.get(at)?.1.clone())?;
        decode_file(&mut CborReader::new(facts), &self.places).ok()
    }

    fn decode(plain: Vec<u8>) -> Result<Self, TreeError> {
        // What was just read ends where the rest begins.
        let just_read = |bytes: &[u8], reader: &CborReader<'_>| {
            let end = plain.len() - reader.remaining();
            end - bytes.len()..end
        };
        let mut reader = CborReader::new(&plain);
        let (places, rows) = reader.tuple(3, |reader| {
            if reader.u64()? != VERSION {
                return Err(TreeError::Broken("a row of another version"));
            }
            let places = Places::decode(reader)?;
            let rows = reader.array(FILES_MAX, |reader| {
                reader.tuple(2, |reader| {
                    let name = reader.bytes(NAME_LENGTH_MAX)?;
                    let name = just_read(name, reader);
                    let facts = reader.raw()?;
                    Ok::<_, TreeError>((name, just_read(facts, reader)))
                })
            })?;
            Ok((places, rows))
        })?;
        reader.finish()?;
        Ok(Self { plain, places, rows })
    }
}

/// Gathers the files of one directory, in any order.
#[derive(Clone, Debug, Default)]
pub struct DirectoryBuilder {
    places: Places,
    files: Vec<(Name, Vec<u8>)>,
    /// Files that are what they were, by their places among those before.
    kept: Vec<usize>,
}

impl DirectoryBuilder {
    /// Adds a file.
    pub fn push(&mut self, file: &FileState) {
        let Some(name) = file.entry.name.clone() else { return };
        let mut writer = CborWriter::new();
        encode_file(&mut writer, file, &mut self.places);
        self.files.push((name, writer.finish()));
    }

    /// Adds a file that is as [`Directory::find`] finds it.
    pub fn keep(&mut self, at: usize) {
        self.kept.push(at);
    }

    /// Whether there are no files.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.kept.is_empty()
    }

    /// Files that were added, not those that are what they were.
    pub fn new_count(&self) -> usize {
        self.files.len()
    }

    /// These files, and of those before all that have other names.
    fn with_others(&self, before: Option<&Directory>) -> Self {
        let mut all = Self { places: self.places.clone(), files: self.files.clone(), kept: Vec::new() };
        let names: HashSet<&[u8]> = self.files.iter().map(|(name, _)| name.as_bytes()).collect();
        let others = before.into_iter().flat_map(|before| (0..before.rows.len()).filter_map(|at| before.at(at)));
        others.filter(|file| !names.contains(file.entry.name_bytes())).for_each(|file| all.push(&file));
        all
    }

    /// The row; `None` if it is what it was.
    fn encode(mut self, before: Option<&Directory>) -> Option<Vec<u8>> {
        if let Some(before) = before {
            if self.files.is_empty() && self.kept.len() == before.rows.len() {
                return None;
            }
            std::mem::take(&mut self.kept).into_iter().filter_map(|at| before.at(at)).for_each(|file| self.push(&file));
        }
        let plain = self.encode_all();
        before.is_none_or(|before| before.plain != plain).then_some(plain)
    }

    fn encode_all(mut self) -> Vec<u8> {
        self.files.sort_unstable();
        let mut all = CborWriter::new();
        all.array(3).u64(VERSION);
        self.places.encode(&mut all);
        all.array_of(&self.files, |writer, (name, facts)| {
            writer.array(2).bytes(name.as_bytes()).raw(facts);
        });
        all.finish()
    }
}

impl FileStates {
    /// Opens the database in the repository's local folder. One that is damaged is begun anew.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn open(folder: &Path, repository: &Repository) -> Result<Self, StateError> {
        let database = open_database(folder, FILE, SCHEMA).or_else(|error| {
            if !matches!(error, StateError::Database { .. }) {
                return Err(error);
            }
            tracing::warn!(%error, "what this machine knew of its files is begun anew");
            let path = folder.join(FILE);
            std::fs::remove_file(&path).map_err(|source| StateError::Folder { path, source })?;
            open_database(folder, FILE, SCHEMA)
        })?;
        database.execute_batch(FRESH).map_err(|source| StateError::Database { path: folder.join(FILE), source })?;
        Ok(Self::with(database, repository))
    }

    /// Opens the database to read it only: nothing is written, and nothing of what is noted stays. `None` if there is none.
    pub fn open_to_read(folder: &Path, repository: &Repository) -> Option<Self> {
        let database = Connection::open_with_flags(folder.join(FILE), OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
        database.execute_batch(FRESH).ok()?;
        Some(Self::with(database, repository))
    }

    fn with(database: Connection, repository: &Repository) -> Self {
        let key = repository.ring().current().structure.derive("yesterdrive 1 local file states");
        let today = repository.clock().now().seconds().div_euclid(DAY_SECONDS);
        let has_rows = database.query_row("SELECT EXISTS (SELECT 1 FROM directories)", [], |row| row.get::<_, bool>(0));
        let was_empty = has_rows.is_ok_and(|has_rows| !has_rows);
        Self { database, key, random: repository.random().clone(), today, was_empty, noted: RefCell::default() }
    }

    /// What is known of a directory; `None` if nothing is, or if the row cannot be read.
    pub fn directory(&self, path: &TreePath) -> Option<Directory> {
        if self.was_empty {
            return None;
        }
        let key = self.path_key(path);
        let query = self.database.prepare_cached("SELECT files FROM directories WHERE path = ?1");
        let found = query.and_then(|mut query| query.query_row([&key[..]], |row| row.get(0)).optional());
        let sealed: Option<Vec<u8>> = match found {
            Ok(sealed) => sealed,
            Err(error) => {
                tracing::warn!(%error, "what this machine knew of its files cannot be read");
                None
            }
        };
        let plain = self.open_row(&key, sealed?)?;
        Directory::decode(plain).ok()
    }

    /// Notes the files of a directory; takes effect with [`Self::commit`].
    ///
    /// # Errors
    /// SQLite's.
    pub fn note(&self, path: &TreePath, files: DirectoryBuilder, before: Option<&Directory>) -> rusqlite::Result<()> {
        let key = self.path_key(path);
        let sealed = files.encode(before).map(|plain| self.seal_row(&key, plain));
        self.add(Noted::Files { key, sealed })
    }

    /// Notes the new files of a directory that has more of them: what is known of the others stays. Takes effect with [`Self::keep`].
    ///
    /// # Errors
    /// SQLite's.
    pub fn note_part(&self, path: &TreePath, files: &DirectoryBuilder) -> rusqlite::Result<()> {
        self.note(path, files.with_others(self.directory(path).as_ref()), None)
    }

    fn add(&self, row: Noted) -> rusqlite::Result<()> {
        self.noted.borrow_mut().push(row);
        if self.noted.borrow().len() < NOTED_MAX { Ok(()) } else { self.write_noted() }
    }

    fn write_noted(&self) -> rusqlite::Result<()> {
        let all = self.database.unchecked_transaction()?;
        for row in self.noted.take() {
            match row {
                Noted::Files { key, sealed } => {
                    all.prepare_cached("INSERT OR REPLACE INTO fresh VALUES (?1, ?2)")?.execute(params![&key[..], sealed])?
                }
                Noted::Summary { key, written, fingerprint, sealed } => {
                    let mut insert = all.prepare_cached("INSERT OR REPLACE INTO fresh_summaries VALUES (?1, ?2, ?3, ?4)")?;
                    insert.execute(params![&key[..], written, fingerprint, sealed])?
                }
            };
        }
        all.commit()
    }

    /// Keeps what was noted of these directories, though the run has not come to its end. The store must have taken all packs that it names.
    ///
    /// # Errors
    /// SQLite's; then everything is as it was.
    pub fn keep<'a>(&self, paths: impl IntoIterator<Item = &'a TreePath>) -> rusqlite::Result<()> {
        self.write_noted()?;
        let all = self.database.unchecked_transaction()?;
        for path in paths {
            let key = self.path_key(path);
            let copy = "INSERT OR REPLACE INTO directories SELECT path, ?2, files FROM fresh WHERE path = ?1 AND files IS NOT NULL";
            all.prepare_cached(copy)?.execute(params![&key[..], self.today])?;
            all.prepare_cached("DELETE FROM fresh WHERE path = ?1 AND files IS NOT NULL")?.execute([&key[..]])?;
        }
        all.commit()
    }

    /// Keeps all that was noted. The store must have taken all packs of the run.
    ///
    /// # Errors
    /// SQLite's; then everything is as it was.
    pub fn commit(mut self) -> rusqlite::Result<()> {
        self.write_noted()?;
        let is_noted = "SELECT EXISTS (SELECT 1 FROM fresh) OR EXISTS (SELECT 1 FROM fresh_summaries)";
        if !self.database.query_row(is_noted, [], |row| row.get(0))? {
            return Ok(());
        }
        let all = self.database.transaction()?;
        all.execute("INSERT OR REPLACE INTO directories SELECT path, ?1, files FROM fresh WHERE files IS NOT NULL", [self.today])?;
        all.execute(
            "UPDATE directories SET seen = ?1 WHERE seen < ?1 AND path IN (SELECT path FROM fresh WHERE files IS NULL)",
            [self.today],
        )?;
        all.execute("DELETE FROM directories WHERE seen < ?1", [self.today - DAYS_KEPT])?;
        summaries::commit(&all, self.today)?;
        all.commit()
    }

    fn path_key(&self, path: &TreePath) -> [u8; 32] {
        crypto::keyed_hash(&self.key, &[b"path", &path.to_bytes()])
    }

    fn seal_row(&self, path: &[u8], plain: Vec<u8>) -> Vec<u8> {
        rows::seal(&self.key, &*self.random, path, &plain)
    }

    fn open_row(&self, path: &[u8], row: Vec<u8>) -> Option<Vec<u8>> {
        rows::open(&self.key, path, row)
    }
}

/// `[inode, [pack], entry]`, the entry as in a tree page. A row is `[version, places, [[name, file]]]`.
fn encode_file(writer: &mut CborWriter, file: &FileState, places: &mut Places) {
    // Each file is read by itself.
    places.begin_part();
    writer.array(3);
    writer.optional(file.inode, |writer, inode| {
        writer.u64(inode);
    });
    writer.array_of(&file.packs, |writer, pack| {
        writer.bytes(pack.as_bytes());
    });
    encode_entry(writer, &file.entry, places);
}

fn decode_file(reader: &mut CborReader<'_>, places: &Places) -> Result<FileState, TreeError> {
    reader.tuple(3, |reader| {
        let inode = reader.optional(|reader| Ok::<_, TreeError>(reader.u64()?))?;
        let packs = reader.array(PACKS_MAX, |reader| Ok::<_, TreeError>(PackId::from_bytes(reader.byte_array()?)))?;
        Ok(FileState { inode, packs, entry: decode_entry(reader, &mut places.references())? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_core::tree::{Content, Entry, EntryKind};

    fn file(name: &str) -> FileState {
        let mut entry = Entry::new(Name::new(name.as_bytes()).ok(), EntryKind::File);
        (entry.size, entry.mtime, entry.file_hash) = (7, fs_core::time::Timestamp::new(-5, 9), Some([3; 32]));
        entry.content = Content::EMPTY;
        FileState { entry, inode: Some(u64::MAX), packs: vec![PackId::from_bytes([9; 16])] }
    }

    #[test]
    fn a_part_of_a_directory_leaves_what_is_known_of_the_others() {
        let (a, b, c) = (file("a"), file("b"), file("c"));
        let builder = |files: &[&FileState]| {
            let mut builder = DirectoryBuilder::default();
            files.iter().for_each(|file| builder.push(file));
            builder
        };
        let before = Directory::decode(builder(&[&a, &b]).encode(None).unwrap()).unwrap();
        let changed = FileState { inode: Some(3), ..b.clone() };
        let row = builder(&[&changed, &c]).with_others(Some(&before)).encode(None).unwrap();
        let after = Directory::decode(row).unwrap();
        let name = |text: &str| Name::new(text.as_bytes()).unwrap();
        let found = ["a", "b", "c"].map(|text| after.get(&name(text)));
        assert_eq!((found, after.rows.len()), ([Some(a), Some(changed), Some(c)], 3));
    }

    #[test]
    fn rows_come_back_and_other_versions_are_none() {
        let (a, b) = (file("a"), FileState { inode: None, packs: Vec::new(), ..file("b") });
        let mut builder = DirectoryBuilder::default();
        builder.push(&b);
        builder.push(&a);
        let row = builder.encode(None).unwrap();
        let read = Directory::decode(row.clone()).unwrap();
        let name = |text: &str| Name::new(text.as_bytes()).unwrap();
        assert_eq!((read.get(&name("a")), read.get(&name("b")), read.get(&name("c"))), (Some(a.clone()), Some(b.clone()), None));
        let written = |kept: &[&str], new: &[&FileState]| {
            let mut builder = DirectoryBuilder::default();
            kept.iter().for_each(|kept| builder.keep(read.find(&name(kept)).unwrap()));
            new.iter().for_each(|file| builder.push(file));
            builder.encode(Some(&read))
        };
        assert_eq!(written(&["b", "a"], &[]), None, "nothing has changed");
        assert_eq!(written(&["a"], &[&b]), None, "the same, seen anew");
        let changed = FileState { inode: Some(3), ..b.clone() };
        let second = Directory::decode(written(&["a"], &[&changed]).unwrap()).unwrap();
        assert_eq!((second.get(&name("a")), second.get(&name("b"))), (Some(a.clone()), Some(changed)));
        assert_eq!(Directory::decode(written(&["b"], &[]).unwrap()).unwrap().get(&name("a")), None, "it is gone");
        let mut newer = row.clone();
        newer[1] = 3;
        assert!(Directory::decode(newer).is_err());
        for length in 0..row.len() {
            assert!(Directory::decode(row[..length].to_vec()).is_err());
        }
    }
}
