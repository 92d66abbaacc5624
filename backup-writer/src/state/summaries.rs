//! What this machine knows of whole directories: for each that a run has saved with all that is below and nothing to tell, its finished entry beside the
//! fingerprint by which it is known again. So an unchanged one is taken over without looking at what it holds.
//!
//! A row is as good as the rows of files: it is written only when the store has taken all packs that it names, and only if all below was quiet before that run began; whoever takes it
//! over makes sure that all its packs are listed.

use std::path::Path;

use fs_core::crypto::Key;
use fs_core::id::PackId;
use fs_core::path::TreePath;
use fs_core::repository::Repository;
use fs_core::tree::codec::{Places, decode_entry, encode_entry};
use fs_core::tree::{Entry, EntryKind, TreeError};
use fs_core::wire::{CborReader, CborWriter};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{FileStates, Noted};

/// A row that was written so many days ago is not believed any more: its directory is then looked at entry by entry, and the row is written anew. So what is
/// below stays known too, and an error that nobody thought of does not last.
const DAYS_BELIEVED: i64 = 30;
/// Rows that were not written for so many days belong to directories that are gone, or to no run's.
const DAYS_KEPT: i64 = 90;
/// Layout of a row. Others are read as if there were none.
const VERSION: u64 = 1;
/// Packs that hold one directory with all below: two tebibytes of full ones. Larger ones are looked at, and what is in them is taken over.
const PACKS_MAX: usize = 1 << 16;
/// Names of hard links below a directory.
const LINKS_MAX: usize = 1 << 12;
/// Attribute names below a directory, as many as a manifest may list, and the longest that there can be.
const ATTRIBUTES_MAX: usize = 64;
const ATTRIBUTE_LENGTH_MAX: usize = 4096;

/// Entries of a directory with all below, by kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Regular files.
    pub files: u64,
    /// Directories, itself included.
    pub directories: u64,
    /// All others.
    pub others: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

/// A directory as it was saved, with all below.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Summary {
    /// Its entry, finished.
    pub entry: Entry,
    /// All packs that hold contents and pages below.
    pub packs: Vec<PackId>,
    /// How much there is.
    pub counts: Counts,
    /// Names of the extended attributes that occur.
    pub attributes: Vec<Vec<u8>>,
    /// Names of files that have several: positions from its own, and the groups.
    pub links: Vec<(u64, u64)>,
    /// Day since which some of it was taken over without a look; `None` if all of it was just looked at.
    pub since: Option<i64>,
}

impl Summary {
    /// Whether it is of a size to be kept.
    pub fn fits(&self) -> bool {
        self.packs.len() <= PACKS_MAX && self.links.len() <= LINKS_MAX && self.attributes.len() <= ATTRIBUTES_MAX
    }

    fn encode(&self) -> Vec<u8> {
        let (mut places, mut entry) = (Places::default(), CborWriter::new());
        encode_entry(&mut entry, &self.entry, &mut places);
        let mut all = CborWriter::new();
        all.array(6).u64(VERSION);
        places.encode(&mut all);
        all.raw(entry.as_bytes());
        all.array_of(&self.packs, |writer, pack| {
            writer.bytes(pack.as_bytes());
        });
        let Counts { files, directories, others, bytes } = self.counts;
        all.array(4).u64(files).u64(directories).u64(others).u64(bytes);
        all.array(2);
        all.array_of(&self.attributes, |writer, name| {
            writer.bytes(name);
        });
        all.array_of(&self.links, |writer, (position, group)| {
            writer.array(2).u64(*position).u64(*group);
        });
        all.finish()
    }

    fn decode(plain: &[u8]) -> Result<Self, TreeError> {
        let mut reader = CborReader::new(plain);
        let summary = reader.tuple(6, |reader| {
            if reader.u64()? != VERSION {
                return Err(TreeError::Broken("a row of another version"));
            }
            let places = Places::decode(reader)?;
            let entry = decode_entry(reader, &mut places.references())?;
            let packs = reader.array(PACKS_MAX, |reader| Ok::<_, TreeError>(PackId::from_bytes(reader.byte_array()?)))?;
            let counts = reader.tuple(4, |reader| {
                let (files, directories, others) = (reader.u64()?, reader.u64()?, reader.u64()?);
                Ok::<_, TreeError>(Counts { files, directories, others, bytes: reader.u64()? })
            })?;
            let (attributes, links) = reader.tuple(2, |reader| {
                let name = |reader: &mut CborReader<'_>| Ok::<_, TreeError>(reader.bytes(ATTRIBUTE_LENGTH_MAX)?.to_vec());
                let link = |reader: &mut CborReader<'_>| reader.tuple(2, |reader| Ok::<_, TreeError>((reader.u64()?, reader.u64()?)));
                Ok::<_, TreeError>((reader.array(ATTRIBUTES_MAX, name)?, reader.array(LINKS_MAX, link)?))
            })?;
            Ok(Self { entry, packs, counts, attributes, links, since: None })
        })?;
        reader.finish()?;
        Ok(summary)
    }
}

impl FileStates {
    /// Notes a directory; takes effect with [`Self::commit`].
    ///
    /// # Errors
    /// SQLite's.
    pub fn note_summary(&self, path: &TreePath, fingerprint: &[u8], summary: &Summary) -> rusqlite::Result<()> {
        let key = self.path_key(path);
        let sealed = self.seal_row(&associated(&key, fingerprint), summary.encode());
        // Never younger than what it sums up: so nothing goes without a look for longer.
        let written = summary.since.map_or(self.today, |since| since.min(self.today));
        self.add(Noted::Summary { key, written, fingerprint: fingerprint.to_vec(), sealed })
    }

    /// The key of fingerprints.
    pub fn fingerprint_key(&self) -> Key {
        self.key.derive("yesterdrive 1 local fingerprints")
    }
}

/// Makes the rows of a run those that count.
pub(super) fn commit(database: &Connection, today: i64) -> rusqlite::Result<()> {
    let keep = "INSERT OR REPLACE INTO summaries SELECT path, written, fingerprint, summary FROM fresh_summaries";
    database.execute(keep, [])?;
    database.execute("DELETE FROM summaries WHERE written < ?1", [today - DAYS_KEPT])?;
    Ok(())
}

/// Reads what is known of whole directories, beside the thread that notes new rows.
#[derive(Debug)]
pub struct Summaries(FileStates);

impl Summaries {
    /// Opens what is known of a repository; `None` if that is nothing.
    pub fn open(folder: &Path, repository: &Repository) -> Option<Self> {
        // As it was left by who opened it to write; what is wrong with it is not mended here.
        let states = FileStates::open_to_read(folder, repository)?;
        let since = states.today - DAYS_BELIEVED;
        let known: rusqlite::Result<bool> =
            states.database.query_row("SELECT EXISTS (SELECT 1 FROM summaries WHERE written > ?1)", [since], |row| row.get(0));
        known.ok()?.then_some(Self(states))
    }

    /// The directory at a path as it was when it had this fingerprint; `None` if it was another one when it was last saved, or if that is too long ago.
    pub fn get(&self, path: &TreePath, fingerprint: &[u8]) -> Option<Summary> {
        let states = &self.0;
        let key = states.path_key(path);
        // Rows of a future day were written by a clock that was wrong.
        let query = "SELECT summary, written FROM summaries WHERE path = ?1 AND fingerprint = ?2 AND written > ?3 AND written <= ?4";
        let query = states.database.prepare_cached(query);
        let values = params![&key[..], fingerprint, states.today - DAYS_BELIEVED, states.today];
        let found = query.and_then(|mut query| query.query_row(values, |row| Ok((row.get(0)?, row.get(1)?))).optional());
        let (sealed, written): (Vec<u8>, i64) =
            found.inspect_err(|error| tracing::warn!(%error, "what this machine knew of its directories cannot be read")).ok()??;
        let plain = states.open_row(&associated(&key, fingerprint), sealed)?;
        let summary = Summary { since: Some(written), ..Summary::decode(&plain).ok()? };
        let is_it = summary.entry.kind == EntryKind::Directory && summary.entry.name.as_ref() == path.last();
        is_it.then_some(summary)
    }
}

/// A row is tied to its place and to what it is known by.
fn associated(path: &[u8; 32], fingerprint: &[u8]) -> Vec<u8> {
    [b"summary", &path[..], fingerprint].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_core::path::Name;

    #[test]
    fn a_summary_comes_back_and_a_part_of_one_does_not() {
        let mut entry = Entry::new(Name::new(&b"name"[..]).ok(), EntryKind::Directory);
        (entry.mode, entry.ctime) = (0o755, fs_core::time::Timestamp::new(7, 8));
        let summary = Summary {
            entry,
            packs: vec![PackId::from_bytes([1; 16]), PackId::from_bytes([2; 16])],
            counts: Counts { files: 1, directories: 2, others: 3, bytes: u64::MAX },
            attributes: vec![b"user.a".to_vec(), b"user.b".to_vec()],
            links: vec![(1, u64::MAX), (9, 0)],
            since: None,
        };
        let row = summary.encode();
        assert_eq!(Summary::decode(&row).unwrap(), summary);
        for length in 0..row.len() {
            assert!(Summary::decode(&row[..length]).is_err(), "{length}");
        }
        let mut newer = row;
        newer[1] += 1;
        assert!(Summary::decode(&newer).is_err(), "another version");
        assert!(!Summary { links: vec![(1, 1); LINKS_MAX + 1], ..summary.clone() }.fits() && summary.fits());
    }
}
