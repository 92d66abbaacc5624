//! Which parts of snapshots are kept on this machine, by name: one small sealed file for each pin, so that several processes never rewrite each other's.
//!
//! The number of a pin stands in the names of the cache's files. It is a keyed hash: who reads the disk cannot try out paths.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::Repository;
use crate::crypto::{Key, keyed_hash, random_array};
use crate::id::{SnapshotId, to_hex};
use crate::object::{self, HEADER_LENGTH, Header, ObjectError, ObjectKind};
use crate::path::TreePath;
use crate::state::private_folder;
use crate::time::Timestamp;
use crate::wire::{CborReader, CborWriter};

/// The folder of a repository's state folder that holds the names.
const FOLDER: &str = "pins";
/// Largest file: a path has at most some thousand bytes.
const SIZE_MAX: u64 = 1 << 20;
const PATH_LENGTH_MAX: usize = 1 << 19;

/// A part of a snapshot that is kept on this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pinned {
    /// What its bytes are kept under.
    pub number: u64,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The file or folder.
    pub path: TreePath,
    /// When it was asked for.
    pub since: Timestamp,
    /// Bytes of all files in it.
    pub byte_count: u64,
    /// Whether all of it is kept; otherwise the work was interrupted, or something is damaged.
    pub is_complete: bool,
}

impl Repository {
    /// All pins, oldest first. A file that cannot be read is none.
    pub fn pins(&self) -> Vec<Pinned> {
        let Some(folder) = self.pins_folder() else { return Vec::new() };
        let items = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut pins: Vec<_> = items.filter_map(|item| read(self, &item.path())).collect();
        pins.sort_by(|a, b| (a.since, &a.path).cmp(&(b.since, &b.path)));
        pins
    }

    /// Lets go of a pin, and of all bytes that are kept for it.
    ///
    /// # Errors
    /// The system's: then it is still listed.
    pub fn unpin(&self, pin: &Pinned) -> io::Result<()> {
        if let Some(disk) = self.disk() {
            disk.release(pin.number);
        }
        let Some(folder) = self.pins_folder() else { return Ok(()) };
        match fs::remove_file(file(&folder, pin.number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The number for a path of a snapshot: that of its pin, if there is one.
    pub(super) fn pin_number(&self, snapshot: &SnapshotId, path: &TreePath) -> Option<u64> {
        if let Some(known) = self.pins().into_iter().find(|pin| (&pin.snapshot, &pin.path) == (snapshot, path)) {
            return Some(known.number);
        }
        let key = self.ring.catalogue(self.ring.epoch())?.derive("yesterdrive 1 local pin numbers");
        let [a, b, c, d, e, f, g, h, ..] = keyed_hash(&key, &[self.id().as_bytes(), snapshot.as_bytes(), &path.to_bytes()]);
        Some(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    /// Keeps the name of a pin, in place of what was known of it.
    pub(super) fn save_pin(&self, pin: &Pinned) -> io::Result<()> {
        let epoch = self.ring.epoch();
        let (Some(folder), Some(key)) = (self.pins_folder(), local_key(self, epoch)) else { return Err(io::ErrorKind::Unsupported.into()) };
        private_folder(&folder)?;
        let head = Header::new(ObjectKind::Catalogue, epoch, self.id(), &*self.random).encode();
        let mut bytes = head.to_vec();
        bytes.extend(object::seal_section(&key, &head, 0, true, encode(pin)));
        let temporary = folder.join(to_hex(&random_array::<8>(&*self.random)) + ".new");
        let mut new = fs::OpenOptions::new();
        new.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut new, 0o600);
        let written = new.open(&temporary).and_then(|mut to| to.write_all(&bytes));
        let result = written.and_then(|()| fs::rename(&temporary, file(&folder, pin.number)));
        if result.is_err() {
            // It may not even be there.
            let _ = fs::remove_file(&temporary);
        }
        result
    }

    fn pins_folder(&self) -> Option<PathBuf> {
        Some(self.state.as_ref()?.join(self.id().to_string()).join(FOLDER))
    }
}

/// Forgets the names of all pins in a repository's state folder, for those who have removed what they kept.
///
/// # Errors
/// The system's.
pub fn forget_pins(state: &Path) -> io::Result<()> {
    match fs::remove_dir_all(state.join(FOLDER)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn file(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:016x}"))
}

fn local_key(repository: &Repository, epoch: u16) -> Option<Key> {
    Some(repository.ring.catalogue(epoch)?.derive("yesterdrive 1 local pins"))
}

fn read(repository: &Repository, path: &Path) -> Option<Pinned> {
    if fs::metadata(path).ok()?.len() > SIZE_MAX {
        return None;
    }
    let pin = open(repository, &fs::read(path).ok()?).inspect_err(|error| tracing::debug!(%error, "a pin's name cannot be read")).ok()?;
    path.ends_with(format!("{:016x}", pin.number)).then_some(pin)
}

fn open(repository: &Repository, bytes: &[u8]) -> Result<Pinned, ObjectError> {
    let (header, head, sealed) = Header::expect(bytes, ObjectKind::Catalogue, repository.id())?;
    let head: &[u8; HEADER_LENGTH] = head;
    let key = local_key(repository, header.epoch).ok_or(ObjectError::UnknownEpoch(header.epoch))?;
    decode(&object::open_section(&key, head, 0, true, sealed)?)
}

/// `[number, snapshot, path, since, bytes, is complete]`
fn encode(pin: &Pinned) -> Vec<u8> {
    let mut writer = CborWriter::new();
    writer.array(6).u64(pin.number).bytes(pin.snapshot.as_bytes()).bytes(&pin.path.to_bytes());
    writer.time(pin.since).u64(pin.byte_count).u64(pin.is_complete.into());
    writer.finish()
}

fn decode(plain: &[u8]) -> Result<Pinned, ObjectError> {
    let mut reader = CborReader::new(plain);
    let pin = reader.tuple(6, |reader| {
        let (number, snapshot) = (reader.u64()?, SnapshotId::from_bytes(reader.byte_array()?));
        let path = TreePath::parse(reader.bytes(PATH_LENGTH_MAX)?).map_err(|_| ObjectError::Broken("it holds an impossible path"))?;
        let (since, byte_count, is_complete) = (reader.time()?, reader.u64()?, reader.u64()? == 1);
        Ok::<_, ObjectError>(Pinned { number, snapshot, path, since, byte_count, is_complete })
    })?;
    reader.finish()?;
    Ok(pin)
}
