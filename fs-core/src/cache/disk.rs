//! A part of the repository on the local disk: sealed bytes exactly as they lie in packs, and small whole objects.
//!
//! There is no plaintext and no key in it; names and headers reveal pack ids and ranges. Bytes are written one after the other into segment files.
//! When the quota is reached the oldest segment leaves, and what was used since it was written is written again: S3-FIFO on segments. Nothing is
//! ever synced, because everything is verified when it is read: what a crash, a full disk or a flipped bit has spoiled is simply not there.
//!
//! Several processes may use one folder. Each writes files of its own under a lock, reads what the others have finished, and counts all that lies
//! in the folder before it begins a new file; so all together exceed the quota by at most one segment for each process that begins one at the same
//! moment. A file that is removed under a reader is a miss.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::crypto::{self, SystemRandom};
use crate::id::PackId;
use crate::state::private_folder;
use crate::storage::ObjectName;

mod index;
mod name;
mod room;
mod segment;
mod shelf;

use name::{Name, Stage};
use room::{ENTRY_COUNT_MAX, SEGMENT_ENTRY_COUNT_MAX};
use segment::{Active, EMPTY_LENGTH, Entry, Extent};
use shelf::{PIN_COUNT_MAX, Shelf};

/// Segments that a full cache has, about: what leaves at once is this part of it.
const SEGMENT_COUNT: u64 = 64;
/// Smallest segment; a smaller quota means no cache.
const SEGMENT_SIZE_MIN: u64 = 64 << 10;
/// Largest segment: rewriting what was used of it takes some ten milliseconds.
const SEGMENT_SIZE_MAX: u64 = 32 << 20;
/// After a failure so many puts go by before the next attempt.
const PAUSE_AFTER_FAILURE: u32 = 1000;
/// The same where there was no room, which is nobody's fault.
const PAUSE_WITHOUT_ROOM: u32 = 100;

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
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Debug, Default)]
struct Writer {
    loose: Slot,
    pinned: Slot,
    has_warned: bool,
}

/// A segment that grows, or none.
#[derive(Debug, Default)]
struct Slot {
    active: Option<(u32, Active, u64)>,
    /// Puts that go by before the next attempt.
    pause: u32,
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

    fn open_with(folder: &Path, quota: u64, free_space: fn(&Path) -> Option<(u64, u64)>) -> Result<Self, CacheError> {
        let refused = |source| CacheError::Folder { folder: folder.into(), source };
        own_folder(folder).map_err(refused)?;
        let cache = Self {
            folder: folder.into(),
            quota,
            segment_size: (quota / SEGMENT_COUNT).clamp(SEGMENT_SIZE_MIN, SEGMENT_SIZE_MAX),
            free_space,
            writer: Mutex::default(),
            shelf: Mutex::new(Shelf::new(folder.into())),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        };
        cache.survey().map_err(refused)?;
        // Where the quota is smaller than last time. What was used is not known yet, so nothing is rescued.
        cache.make_room(0);
        Ok(cache)
    }

    /// Bytes of a pack, if one extent that was put holds them all. Verified: they are what was put.
    pub fn get(&self, pack: &PackId, range: Range<u64>) -> Option<Bytes> {
        let found = self.find(pack, &range);
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    fn find(&self, pack: &PackId, range: &Range<u64>) -> Option<Bytes> {
        let start = u32::try_from(range.start).ok().filter(|_| range.start < range.end)?;
        loop {
            let place = lock(&self.shelf).locate(pack, start, range.end)?;
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

    /// Removes everything that a cache has put into a folder, pinned or not. Processes that use it go on without.
    ///
    /// # Errors
    /// [`CacheError`] if the folder cannot be listed or a file not removed. A folder that is not there is empty.
    pub fn clear(folder: &Path) -> Result<(), CacheError> {
        let refused = |source| CacheError::Folder { folder: folder.into(), source };
        let items = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            items => items.map_err(refused)?,
        };
        for item in items {
            let item = item.map_err(refused)?;
            if item.file_name().to_str().and_then(Name::parse).is_some() {
                match fs::remove_file(item.path()) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refused(error)),
                    _ => {}
                }
            }
        }
        Ok(())
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

    /// Writes an entry into the segment that grows, or into a new one; `false` if there is no room.
    fn append(&self, writer: &mut Writer, pin: Option<u64>, entry: &Entry) -> io::Result<bool> {
        let cost = entry.extent.cost();
        let fits = |slot: &Slot| slot.active.as_ref().is_some_and(|active| active_fits(active, pin, cost));
        if !fits(writer.slot(pin)) && !self.roll(writer, pin, cost)? {
            return Ok(false);
        }
        self.write(writer.slot(pin), entry)?;
        Ok(true)
    }

    fn write(&self, slot: &mut Slot, entry: &Entry) -> io::Result<()> {
        let Some((number, active, _)) = &mut slot.active else { return Ok(()) };
        let row = active.append(entry)?;
        lock(&self.shelf).add(*number, &row, active.length());
        Ok(())
    }

    /// Ends the segment that grows and begins one with room for an entry of this cost; `false` if there is no room on the disk.
    fn roll(&self, writer: &mut Writer, pin: Option<u64>, cost: u64) -> io::Result<bool> {
        self.close(writer.slot(pin));
        own_folder(&self.folder)?;
        self.survey()?;
        let claim = self.segment_size.max(EMPTY_LENGTH + cost);
        if pin.is_some_and(|pin| !self.may_pin(pin)) {
            return Ok(false);
        }
        let mut rescued = self.make_room(claim);
        if rescued.is_none() && pin.is_some() {
            // What is pinned goes before what is not, even before what was just written.
            self.close(&mut writer.loose);
            rescued = self.make_room(claim);
        }
        let Some(rescued) = rescued else { return Ok(false) };
        let active = match self.resume(pin, claim - cost) {
            Some(active) => active,
            None => Active::create(&self.folder, self.new_name(pin))?,
        };
        let number = lock(&self.shelf).begin(active.name, active.file.clone(), active.length(), claim);
        writer.slot(pin).active = Some((number, active, claim));
        for entry in rescued.iter().filter(|_| pin.is_none()) {
            let with_both = cost + entry.extent.cost();
            if writer.loose.active.as_ref().is_some_and(|active| active_fits(active, None, with_both)) {
                self.write(&mut writer.loose, entry)?;
            }
        }
        Ok(true)
    }

    fn may_pin(&self, pin: u64) -> bool {
        let shelf = lock(&self.shelf);
        let (count, is_known) = shelf.pins(pin);
        let (_, pinned) = shelf.entry_counts();
        (is_known || count < PIN_COUNT_MAX) && pinned + SEGMENT_ENTRY_COUNT_MAX <= ENTRY_COUNT_MAX / 2
    }

    /// The newest segment, if it is short: runs that write little do not leave a file each.
    fn resume(&self, pin: Option<u64>, length_max: u64) -> Option<Active> {
        let (name, number, length) = lock(&self.shelf).finished(pin).last().copied()?;
        if length > length_max.min(self.segment_size / 2) {
            return None;
        }
        let active = Active::resume(&self.folder, name).ok()?;
        if active.rows().len() > SEGMENT_ENTRY_COUNT_MAX / 2 {
            // Many tiny entries. It goes on as it was.
            if active.finish(&self.folder).is_err() {
                lock(&self.shelf).remove_segment(number);
            }
            return None;
        }
        Some(active)
    }

    fn new_name(&self, pin: Option<u64>) -> Name {
        let newest = lock(&self.shelf).names().into_iter().map(|(name, ..)| name.order).max();
        let random = u64::from_le_bytes(crypto::random_array(&SystemRandom));
        Name { order: newest.map_or(0, |order| order.saturating_add(1)), random, pin }
    }

    /// Ends the segment that grows. If that fails, what it holds is lost, to this process and to others.
    fn close(&self, slot: &mut Slot) {
        let Some((number, active, _)) = slot.active.take() else { return };
        let (name, length) = (active.name, active.length());
        let result = active.finish(&self.folder);
        let mut shelf = lock(&self.shelf);
        shelf.end(number, length);
        if result.is_err() {
            shelf.remove_segment(number);
            let _ = fs::remove_file(name.path(&self.folder, Stage::Open));
        }
    }

    /// After a failure: the cache answers what it can and keeps nothing new for a while.
    fn rest(&self, writer: &mut Writer, pin: Option<u64>, error: &io::Error) {
        if !writer.has_warned {
            writer.has_warned = true;
            tracing::warn!(folder = %self.folder.display(), %error, "the disk cache cannot be written; reading goes on without it");
        }
        self.close(writer.slot(pin));
        writer.slot(pin).pause = PAUSE_AFTER_FAILURE;
    }
}

impl Drop for DiskCache {
    fn drop(&mut self) {
        let mut writer = std::mem::take(&mut *lock(&self.writer));
        self.close(&mut writer.loose);
        self.close(&mut writer.pinned);
    }
}

impl Writer {
    fn slot(&mut self, pin: Option<u64>) -> &mut Slot {
        if pin.is_some() { &mut self.pinned } else { &mut self.loose }
    }
}

fn active_fits((_, active, claim): &(u32, Active, u64), pin: Option<u64>, cost: u64) -> bool {
    active.name.pin == pin && active.length() + cost <= *claim && active.rows().len() < SEGMENT_ENTRY_COUNT_MAX
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
