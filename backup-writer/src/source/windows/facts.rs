//! What the system tells of an entry, apart from its name: enough to see that nothing has changed.

use std::ffi::{CStr, CString};

use fs_core::path::Name;
use fs_core::tree::{Entry, EntryKind};

use super::{Directory, LiveTree, SourceError};
use crate::system::{self, Info, lend};

/// Everything that an entry of a snapshot takes from the system's answer, and what tells one file from another. Times of access are no part of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Kind.
    pub kind: EntryKind,
    /// Serial number of the file system.
    pub device: (u32, u32),
    /// Number in it.
    pub inode: u64,
    /// Length in bytes.
    pub size: u64,
    /// Owners have no numbers here; who it is shows in the time of change.
    pub uid: u32,
    /// Groups neither.
    pub gid: u32,
    attributes: u32,
    tag: u32,
    link_count: u32,
    times: [i64; 3],
}

impl Facts {
    pub(super) fn of(info: &Info) -> Self {
        Self {
            kind: info.kind(),
            device: (0, info.serial),
            inode: info.index,
            size: info.size,
            uid: 0,
            gid: 0,
            attributes: info.attributes,
            tag: info.tag,
            link_count: info.link_count,
            times: info.times,
        }
    }

    /// Appends all of it in a form of fixed length.
    pub fn write(&self, bytes: &mut Vec<u8>) {
        for number in [self.attributes, self.tag, self.link_count, self.device.0, self.device.1] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.inode, self.size] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for time in self.times {
            bytes.extend_from_slice(&time.to_le_bytes());
        }
    }

    /// As much of the entry as rules look at.
    pub fn outline(&self, name: Name) -> Entry {
        let mut entry = Entry::new(Some(name), self.kind);
        entry.size = if self.kind == EntryKind::File { self.size } else { 0 };
        entry.mtime = Info { times: self.times, ..Info::default() }.modified();
        entry
    }
}

/// Names in a directory as they were listed.
#[derive(Debug, Default)]
pub struct Names(Vec<CString>);

impl Names {
    /// The names, sorted bytewise.
    pub fn iter(&self) -> impl Iterator<Item = &CStr> {
        self.0.iter().map(|name| &**name)
    }
}

impl LiveTree {
    /// Lists a directory that was just opened.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn list_into(&self, directory: &Directory, names: &mut Names) -> Result<(), SourceError> {
        names.0.clear();
        for name in self.names(directory)? {
            names.0.extend(CString::new(name.as_bytes()));
        }
        Ok(())
    }

    /// What the system tells of an entry.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn facts(&self, directory: &Directory, name: &CStr) -> Result<Facts, SourceError> {
        let open = directory.open(name.to_bytes(), system::looking_rights(), false)?;
        let info = system::info(lend(&open))?;
        if info.is_in_cloud() { Err(SourceError::InCloud) } else { Ok(Facts::of(&info)) }
    }

    /// Names of an owner and a group: they have no numbers by which one could ask.
    pub fn owners(&self, _uid: u32, _gid: u32) -> (Option<String>, Option<String>) {
        (None, None)
    }

    /// Whether the file system of a directory gives its entries the same numbers again after a restart.
    pub fn has_lasting_inodes(&self, directory: &Directory, facts: &Facts) -> bool {
        directory.handle().is_some_and(|handle| self.keeps_numbers(handle, facts.device.1))
    }

    /// Opens a subdirectory, whatever it is by now.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn open_named(&self, parent: &Directory, name: &CStr) -> Result<Directory, SourceError> {
        self.open_named_bytes(parent, name.to_bytes())
    }
}
