//! A part of the repository on the local disk: sealed bytes exactly as they lie in packs, and small whole objects.
//!
//! There is no plaintext and no key in it; names and headers reveal pack ids and ranges. Bytes are written one after the other into segment files.
//! When the quota is reached the oldest segment leaves, and what was used since it was written is written again: S3-FIFO on segments. Nothing is
//! ever synced, because everything is verified when it is read: what a crash, a full disk or a flipped bit has spoiled is simply not there.
//!
//! Several processes may use one folder. Each writes files of its own under a lock, reads what the others have finished, and counts all that lies
//! in the folder before it begins a new file; so all together exceed the quota by at most one segment for each process that begins one at the same
//! moment. A file that is removed under a reader is a miss. Who misses something looks whether the folder has changed: what another process has kept
//! meanwhile is then found (`look`).

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::crypto;
use crate::id::PackId;
use crate::state::private_folder;
use crate::storage::ObjectName;

mod grow;
mod index;
mod look;
mod name;
mod room;
mod segment;
mod shelf;

use grow::{PAUSE_WITHOUT_ROOM, Writer};
pub use look::CacheUsage;
use look::Look;
use name::Name;
use segment::{EMPTY_LENGTH, Entry, Extent};
pub use shelf::PIN_COUNT_MAX;
use shelf::Shelf;

/// Segments that a full cache has, about: what leaves at once is this part of it.
const SEGMENT_COUNT: u64 = 64;
/// Smallest segment; a smaller quota means no cache.
const SEGMENT_SIZE_MIN: u64 = 64 << 10;
/// Largest segment: rewriting what was used of it takes some ten milliseconds.
const SEGMENT_SIZE_MAX: u64 = 32 << 20;

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The folder cannot be made, listed or emptied.
    #[error("the cache folder {} cannot be used", .folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Numbers for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskCacheStatus {
    /// Bytes of the files that this process knows, pinned ones with them.
    pub used: u64,
    /// Most bytes they may come to.
    pub quota: u64,
    /// How many files.
    pub segments: usize,
    /// How often bytes were found.
    pub hits: u64,
    /// How often they were not.
    pub misses: u64,
    /// Bytes of the files that are pinned.
    pub pinned: u64,
}

/// The cache. Shared between threads.
#[derive(Debug)]
pub struct DiskCache {
    folder: PathBuf,
    quota: u64,
    segment_size: u64,
    free_space: fn(&Path) -> Option<(u64, u64)>,
    /// Held while something is written; taken before the shelf.
    writer: Mutex<Writer>,
    /// Never held while something is written.
    shelf: Mutex<Shelf>,
    /// How the folder was when it was looked at; taken after the writer.
    look: Mutex<Look>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl DiskCache {
    /// Opens the cache in a folder of its own, which is made if need be and belongs to this user alone. At most `quota` bytes will lie there, and
    /// at least one twentieth of the file system stays free. Reads a few kilobytes for each segment.
    ///
    /// # Errors
    /// [`CacheError`] if the folder cannot be made or listed.
    pub fn open(folder: &Path, quota: u64) -> Result<Self, CacheError> {
        Self::open_with(folder, quota, room::free_space)
    }

    /// Opens the cache in a folder for reading what others keep there, now or later: nothing is written, made or evicted.
    ///
    /// # Errors
    /// [`CacheError`] if the folder is there and cannot be listed.
    pub fn open_to_read(folder: &Path) -> Result<Self, CacheError> {
        let cache = Self::new(folder, 0, room::free_space);
        match cache.look() {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(CacheError::Folder { folder: folder.into(), source }),
            _ => Ok(cache),
        }
    }

    fn open_with(folder: &Path, quota: u64, free_space: fn(&Path) -> Option<(u64, u64)>) -> Result<Self, CacheError> {
        let refused = |source| CacheError::Folder { folder: folder.into(), source };
        own_folder(folder).map_err(refused)?;
        let cache = Self::new(folder, quota, free_space);
        cache.look().map_err(refused)?;
        // Where the quota is smaller than last time. What was used is not known yet, so nothing is rescued.
        cache.make_room(0);
        Ok(cache)
    }

    fn new(folder: &Path, quota: u64, free_space: fn(&Path) -> Option<(u64, u64)>) -> Self {
        Self {
            folder: folder.into(),
            quota,
            segment_size: (quota / SEGMENT_COUNT).clamp(SEGMENT_SIZE_MIN, SEGMENT_SIZE_MAX),
            free_space,
            writer: Mutex::default(),
            shelf: Mutex::new(Shelf::new(folder.into())),
            look: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes of a pack, if one extent that was put holds them all. Verified: they are what was put.
    pub fn get(&self, pack: &PackId, range: Range<u64>) -> Option<Bytes> {
        let found = self.find(pack, &range);
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// The same from what this process knows of already, in one pin or anywhere. Does not count.
    pub fn peek(&self, pin: Option<u64>, pack: &PackId, range: Range<u64>) -> Option<Bytes> {
        self.find_known(pin, pack, &range)
    }

    fn find(&self, pack: &PackId, range: &Range<u64>) -> Option<Bytes> {
        let found = self.find_known(None, pack, range);
        if found.is_none() && self.look_again() { self.find_known(None, pack, range) } else { found }
    }

    fn find_known(&self, pin: Option<u64>, pack: &PackId, range: &Range<u64>) -> Option<Bytes> {
        let start = u32::try_from(range.start).ok().filter(|_| range.start < range.end)?;
        loop {
            let place = lock(&self.shelf).locate(pin, pack, start, range.end)?;
            let from = usize::try_from(range.start - u64::from(place.held.start)).ok()?;
            let to = usize::try_from(range.end - u64::from(place.held.start)).ok()?;
            if let Some(bytes) = place.file.as_ref().and_then(|file| segment::read(file, &place.row, from, to)) {
                return Some(bytes);
            }
            lock(&self.shelf).remove(&place);
        }
    }

    /// Keeps `bytes`, which lie in the pack from `start`. Costs a hash of them and a write to the system's page cache, now and then also the
    /// rewriting of what was used of the oldest segment. What does not fit or fails is not kept, and the cache takes a rest.
    pub fn put(&self, pack: &PackId, start: u64, bytes: &Bytes) {
        self.keep(None, pack, start, bytes);
    }

    /// Keeps bytes until [`Self::release`], whatever the pressure and across restarts. Whether they are kept.
    pub fn put_pinned(&self, pin: u64, pack: &PackId, start: u64, bytes: &Bytes) -> bool {
        self.keep(Some(pin), pack, start, bytes)
    }

    /// Ends the files that grow, so that other processes can read them. Whether all that was pinned since the last time is in its files. What did not
    /// fit may be tried again at once.
    pub fn flush(&self) -> bool {
        let mut writer = lock(&self.writer);
        self.close(&mut writer.loose);
        self.close(&mut writer.pinned);
        !std::mem::take(&mut writer.pinned).has_lost
    }

    /// Removes all bytes of a pin, also those that other processes put; those of other pins stay.
    pub fn release(&self, pin: u64) {
        let mut writer = lock(&self.writer);
        if writer.pinned.active.as_ref().is_some_and(|(_, active, _)| active.name.pin == Some(pin)) {
            self.close(&mut writer.pinned);
        }
        // What cannot be listed cannot be removed now: it stays pinned, and the next release finds it.
        for item in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let Some((name, _)) = item.file_name().to_str().and_then(Name::parse) else { continue };
            if name.pin == Some(pin) {
                let _ = fs::remove_file(item.path());
                let mut shelf = lock(&self.shelf);
                if let Some(number) = shelf.number_of(name) {
                    shelf.remove_segment(number);
                }
            }
        }
    }

    /// Drops what holds any of these bytes, for all processes and for ever: they turned out damaged.
    pub fn forget(&self, pack: &PackId, range: Range<u64>) {
        let gone = lock(&self.shelf).remove_range(pack, range.start, range.end);
        for (held, file) in gone {
            if let Some(file) = file {
                segment::end_entry(&file, held.offset);
            }
        }
    }

    /// A small whole object.
    pub fn get_object(&self, name: &ObjectName) -> Option<Bytes> {
        let place = object_place(name);
        let length = lock(&self.shelf).length_from_start(&place);
        self.get(&place, 0..u64::from(length.unwrap_or(1)))
    }

    /// Keeps a small whole object, which must be of a kind that never changes.
    pub fn put_object(&self, name: &ObjectName, bytes: &Bytes) {
        self.put(&object_place(name), 0, bytes);
    }

    /// Numbers as of now.
    pub fn status(&self) -> DiskCacheStatus {
        let (hits, misses) = (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed));
        let shelf = lock(&self.shelf);
        let (used, pinned) = shelf.lengths();
        DiskCacheStatus { used, quota: self.quota, segments: shelf.segment_count(), hits, misses, pinned }
    }

    fn keep(&self, pin: Option<u64>, pack: &PackId, start: u64, bytes: &Bytes) -> bool {
        let (Ok(start), Ok(length)) = (u32::try_from(start), u32::try_from(bytes.len())) else { return false };
        let extent = Extent { pack: *pack, start, length };
        if length == 0 || self.quota < SEGMENT_SIZE_MIN || EMPTY_LENGTH + extent.cost() > (self.quota / 4).max(SEGMENT_SIZE_MIN) {
            return false;
        }
        if lock(&self.shelf).covers(pin, &extent) {
            return true;
        }
        let entry = Entry::new(extent, bytes.clone());
        let mut writer = lock(&self.writer);
        let slot = writer.slot(pin);
        if slot.pause > 0 {
            slot.pause -= 1;
            return false;
        }
        match self.append(&mut writer, pin, &entry) {
            Ok(true) => true,
            Ok(false) => {
                writer.slot(pin).pause = PAUSE_WITHOUT_ROOM;
                false
            }
            Err(error) => {
                self.rest(&mut writer, pin, &error);
                false
            }
        }
    }
}

impl Drop for DiskCache {
    fn drop(&mut self) {
        let mut writer = std::mem::take(&mut *lock(&self.writer));
        self.close(&mut writer.loose);
        self.close(&mut writer.pinned);
    }
}

/// Where a whole object lies: under a name that no pack has, because those are random.
fn object_place(name: &ObjectName) -> PackId {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = crypto::hash(name.as_str().as_bytes());
    PackId::from_bytes([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
}

fn own_folder(folder: &Path) -> io::Result<()> {
    private_folder(folder)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        if fs::metadata(folder)?.permissions().mode() & 0o777 != 0o700 {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
