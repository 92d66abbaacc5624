//! Room on the disk: what lies in the folder, and what has to leave before something new may come.

use std::collections::HashMap;
use std::fs;
use std::io;

use super::name::{Name, Stage};
use super::segment::{self, Active, Entry};
use super::{DiskCache, lock};

/// A file system keeps at least this part of it free: one in so many.
const FREE_SHARE: u64 = 20;
/// Entries in memory at most: with the growth of their lists and a pack for every eight of them about 32 MiB. Beyond, the oldest segment leaves
/// as if the disk were full.
pub(super) const ENTRY_COUNT_MAX: usize = 1 << 19;
/// Entries of one segment, so that what leaves at once is a small part.
pub(super) const SEGMENT_ENTRY_COUNT_MAX: usize = ENTRY_COUNT_MAX / 16;

impl DiskCache {
    /// Looks at the folder: takes over what other processes have finished, or left behind, and forgets what they have removed.
    pub(super) fn survey(&self) -> io::Result<()> {
        let mut found = HashMap::new();
        for item in fs::read_dir(&self.folder)? {
            let item = item?;
            let Some((name, stage)) = item.file_name().to_str().and_then(Name::parse) else { continue };
            // Removed since, or unreadable: either way not there for us.
            let Ok(meta) = item.metadata() else { continue };
            found.insert(name, (stage, meta.len()));
        }
        let known = lock(&self.shelf).names();
        for (name, number, length) in known {
            // A longer one was gone on with by another process, and holds more.
            if length.is_none() || length.map(|length| (Stage::Finished, length)) == found.get(&name).copied() {
                found.remove(&name);
            } else {
                lock(&self.shelf).remove_segment(number);
            }
        }
        let (mut foreign_claim, mut new) = (0, found.into_iter().collect::<Vec<_>>());
        new.sort_by_key(|(name, _)| *name);
        for (name, (stage, length)) in new {
            if stage == Stage::Open && !self.salvage(name) {
                foreign_claim += length.max(self.segment_size);
            } else {
                self.adopt(name);
            }
        }
        lock(&self.shelf).foreign_claim = foreign_claim;
        Ok(())
    }

    /// Finishes what a process has left behind that is no more; `false` if it lives.
    fn salvage(&self, name: Name) -> bool {
        match Active::salvage(&self.folder, name) {
            Ok(left) => left.finish(&self.folder).is_ok(),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => fs::remove_file(name.path(&self.folder, Stage::Open)).is_ok(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    fn adopt(&self, name: Name) {
        // What cannot be opened is gone again.
        let Ok(file) = segment::open(&self.folder, name) else { return };
        let (Ok(length), Ok((rows, _))) = (file.metadata().map(|meta| meta.len()), segment::rows(&file)) else { return };
        lock(&self.shelf).adopt(name, length, &rows);
    }

    /// Lets the oldest segments go until `need` more bytes may be written, and gives back what was used of them, up to half of `need`. `None` if
    /// there is not enough to let go.
    pub(super) fn make_room(&self, need: u64) -> Option<Vec<Entry>> {
        let (mut rescued, mut rescued_length) = (Vec::new(), 0);
        while !self.has_room(need) {
            let (name, number, _) = lock(&self.shelf).finished(None).first().copied()?;
            let used = lock(&self.shelf).remove_segment(number);
            for place in used {
                let (Some(file), extent) = (&place.file, place.row.extent) else { continue };
                if rescued_length + extent.cost() > need / 2 {
                    break;
                }
                if let Some(bytes) = segment::read(file, &place.row, 0, extent.length as usize) {
                    rescued_length += extent.cost();
                    rescued.push(Entry::new(extent, bytes));
                }
            }
            match fs::remove_file(name.path(&self.folder, Stage::Finished)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return None,
                _ => {}
            }
        }
        Some(rescued)
    }

    fn has_room(&self, need: u64) -> bool {
        let shelf = lock(&self.shelf);
        let (entries, _) = shelf.entry_counts();
        let fits = shelf.claim().saturating_add(need) <= self.quota && entries + SEGMENT_ENTRY_COUNT_MAX <= ENTRY_COUNT_MAX;
        drop(shelf);
        // A file system that does not say how full it is says so when it is full.
        fits && (self.free_space)(&self.folder).is_none_or(|(free, total)| free >= (total / FREE_SHARE).saturating_add(need))
    }
}

/// Free bytes and all bytes of the file system that a folder lies in.
pub(super) fn free_space(folder: &std::path::Path) -> Option<(u64, u64)> {
    let found = fs4::statvfs(folder).ok()?;
    Some((found.available_space(), found.total_space()))
}
