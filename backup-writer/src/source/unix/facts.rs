//! What the system tells of an entry in one call, apart from its name: enough to see that nothing has changed, and gathered without making an entry of it.

use std::ffi::CStr;
use std::os::fd::AsFd as _;

use fs_core::path::Name;
use fs_core::time::Timestamp;
use fs_core::tree::{Entry, EntryKind};
use rustix::io::Errno;

use super::{Directory, LiveTree, SourceError, group_name, user_name};
use crate::system::{self, Status, kind_of};

/// Everything that an entry of a snapshot takes from the system's answer, and what tells one file from another. Times of access are no part of it; flags of macOS need
/// none, because whoever changes them changes the time of change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Kind.
    pub kind: EntryKind,
    /// Device of the file system.
    pub device: (u32, u32),
    /// Inode.
    pub inode: u64,
    /// Length in bytes.
    pub size: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    mode: u16,
    link_count: u32,
    modified: (i64, u32),
    changed: (i64, u32),
    /// `None` where the file system does not keep it.
    born: Option<(i64, u32)>,
    /// The device that it stands for.
    names_device: (u32, u32),
}

impl Facts {
    pub(super) fn of(status: &Status) -> Option<Self> {
        let Status { device, inode, mode, size, uid, gid, link_count, modified, changed, born, names_device, .. } = *status;
        Some(Self { kind: kind_of(mode)?, device, inode, size, uid, gid, mode, link_count, modified, changed, born, names_device })
    }

    /// Appends all of it in a form of fixed length.
    pub fn write(&self, bytes: &mut Vec<u8>) {
        let (born, has_birth) = (self.born.unwrap_or_default(), u16::from(self.born.is_some()));
        for half in [self.mode, has_birth] {
            bytes.extend_from_slice(&half.to_le_bytes());
        }
        let numbers = [self.uid, self.gid, self.link_count, self.modified.1, self.changed.1, born.1];
        let devices = [self.device.0, self.device.1, self.names_device.0, self.names_device.1];
        for number in numbers.into_iter().chain(devices) {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.inode, self.size] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for seconds in [self.modified.0, self.changed.0, born.0] {
            bytes.extend_from_slice(&seconds.to_le_bytes());
        }
    }

    /// As much of the entry as rules look at.
    pub fn outline(&self, name: Name) -> Entry {
        let mut entry = Entry::new(Some(name), self.kind);
        entry.size = if self.kind == EntryKind::File { self.size } else { 0 };
        entry.mtime = Timestamp::new(self.modified.0, self.modified.1);
        entry
    }
}

/// Names in a directory as they were listed, in one piece of memory that is used again for the next directory.
#[derive(Debug, Default)]
pub struct Names {
    bytes: Vec<u8>,
    /// Where each begins in `bytes`; it ends before the zero byte there.
    starts: Vec<usize>,
    buffer: Vec<u8>,
}

impl Names {
    /// The names, sorted bytewise.
    pub fn iter(&self) -> impl Iterator<Item = &CStr> {
        self.starts.iter().filter_map(|&start| CStr::from_bytes_until_nul(self.bytes.get(start..)?).ok())
    }

    fn push(&mut self, name: &CStr) {
        if !matches!(name.to_bytes(), b"" | b"." | b"..") {
            self.starts.push(self.bytes.len());
            self.bytes.extend_from_slice(name.to_bytes_with_nul());
        }
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        // The zero byte at the end of a name is less than any in a name, so what follows it decides nothing.
        self.starts.sort_unstable_by(|&a, &b| bytes.get(a..).cmp(&bytes.get(b..)));
    }
}

impl LiveTree {
    /// Lists a directory that was just opened.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn list_into(&self, directory: &Directory, names: &mut Names) -> Result<(), SourceError> {
        names.bytes.clear();
        names.starts.clear();
        let mut buffer = std::mem::take(&mut names.buffer);
        let listed = system::list(directory.0.as_fd(), &mut buffer, &mut |name| names.push(name));
        names.buffer = buffer;
        names.sort();
        Ok(listed?)
    }

    /// What the system tells of an entry.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn facts(&self, directory: &Directory, name: &CStr) -> Result<Facts, SourceError> {
        Facts::of(&system::status(&*directory.0, name)?).ok_or(SourceError::Failed(Errno::NOTSUP))
    }

    /// Names of an owner and a group.
    pub fn owners(&self, uid: u32, gid: u32) -> (Option<String>, Option<String>) {
        (super::cached(&self.users, uid, user_name), super::cached(&self.groups, gid, group_name))
    }

    /// Whether the file system of a directory gives its entries the same inodes again after a remount.
    pub fn has_lasting_inodes(&self, directory: &Directory, facts: &Facts) -> bool {
        self.keeps_inodes(directory, facts.device)
    }

    /// Opens a subdirectory, whatever it is by now.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn open_named(&self, parent: &Directory, name: &CStr) -> Result<Directory, SourceError> {
        Ok(Directory(std::sync::Arc::new(super::open_at(&*parent.0, name.to_bytes())?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_bytewise_and_dots_are_none() {
        let place = tempfile::tempdir().unwrap();
        for name in ["b", "a", "ab", "a b", "B", "ä", ".", ".x"] {
            let _ = std::fs::write(place.path().join(name), "");
        }
        let tree = LiveTree::default();
        let mut names = Names::default();
        for _ in 0..2 {
            let (directory, _) = tree.at(place.path()).unwrap();
            tree.list_into(&directory, &mut names).unwrap();
            let as_names = tree.names(&tree.at(place.path()).unwrap().0).unwrap();
            assert!(names.iter().map(CStr::to_bytes).eq(as_names.iter().map(Name::as_bytes)), "{names:?}");
        }
    }

    #[test]
    fn every_fact_shows() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("file"), "x").unwrap();
        let tree = LiveTree::default();
        let (directory, _) = tree.at(place.path()).unwrap();
        let facts = tree.facts(&directory, c"file").unwrap();
        let bytes = |facts: &Facts| {
            let mut bytes = Vec::new();
            facts.write(&mut bytes);
            bytes
        };
        let changes: [fn(&mut Facts); 13] = [
            |facts| facts.device.1 += 1,
            |facts| facts.inode += 1,
            |facts| facts.size += 1,
            |facts| facts.uid += 1,
            |facts| facts.gid += 1,
            |facts| facts.mode ^= 0o1,
            |facts| facts.link_count += 1,
            |facts| facts.modified.0 += 1,
            |facts| facts.modified.1 ^= 1,
            |facts| facts.changed.1 ^= 1,
            |facts| facts.born = None,
            |facts| facts.names_device.0 += 1,
            |facts| facts.changed.0 += 1,
        ];
        for (at, change) in changes.into_iter().enumerate() {
            let mut other = facts;
            change(&mut other);
            assert_ne!(bytes(&other), bytes(&facts), "change {at}");
            assert_eq!(bytes(&other).len(), bytes(&facts).len());
        }
    }
}
