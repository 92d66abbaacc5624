//! Bytes: of files, of extended attributes, and where the holes are.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::error::ViewError;
use super::handle::Handle;
use super::inode::Inode;
use super::layout::{Virtual, VirtualKind};
use super::{Answer, Patience, Stop, View, lock};
use crate::reader::ContentReader;
use crate::record::Reference;
use crate::snapshot::attributes::{ACL_ACCESS, ACL_DEFAULT, AttributeNames, names_of};
use crate::tree::{EntryKind, Value};

impl View {
    /// Reads exactly `length` bytes of a file, fewer only at its end.
    ///
    /// # Errors
    /// [`Stop`]; never zeros instead of data.
    pub fn read(&self, patience: Patience, inode: u64, offset: u64, length: u64) -> Answer<Bytes> {
        let tree = self.tree();
        if let Some(made_up) = tree.get(inode) {
            let VirtualKind::File(bytes) = &made_up.kind else { return Err(ViewError::IsDirectory.into()) };
            let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(bytes.len());
            return Ok(bytes.slice(at(offset)..at(offset.saturating_add(length))));
        }
        let handle = self.handle(patience, inode)?;
        match patience {
            Patience::None => handle.reader.try_read(offset, length).ok_or(Stop::WouldWait),
            Patience::Wait => Ok(handle.reader.read(offset, length)?),
        }
    }

    /// What a reader of this file will want next, after it has read a range: empty unless it reads on from where it was. Never waits for the store.
    pub fn ahead(&self, inode: u64, offset: u64, length: u64) -> Range<u64> {
        let handle = self.handle(Patience::None, inode);
        handle.ok().and_then(|handle| handle.advance(offset, length)).unwrap_or_default()
    }

    /// The records of a range of a file that are not in memory.
    ///
    /// # Errors
    /// [`Stop`]: the lists that name them may have to be waited for.
    pub fn missing(&self, patience: Patience, inode: u64, range: Range<u64>) -> Answer<Vec<Reference>> {
        let handle = self.handle(patience, inode)?;
        let mut records = match patience {
            Patience::None => handle.reader.try_records(range).ok_or(Stop::WouldWait)?,
            Patience::Wait => handle.reader.records(range)?,
        };
        records.retain(|record| self.repository.cached_data(&record.id).is_none());
        Ok(records)
    }

    /// The names of a file's extended attributes.
    ///
    /// # Errors
    /// [`Stop`].
    pub fn xattr_names(&self, patience: Patience, inode: u64) -> Answer<Vec<Vec<u8>>> {
        let tree = self.tree();
        if tree.get(inode).is_some() || listed_attributes(&tree, inode).is_some_and(AttributeNames::is_empty) {
            return Ok(Vec::new());
        }
        let entry = self.node(&tree, patience, inode)?.entry;
        Ok(names_of(&entry).map(<[u8]>::to_vec).collect())
    }

    /// The value of an extended attribute. One that no entry of its snapshot has is answered without looking at the entry.
    ///
    /// # Errors
    /// [`Stop`]. [`ViewError::Unsupported`] for names of the system's own that no snapshot has: `ls` then asks for them once and not at every file.
    pub fn xattr(&self, patience: Patience, inode: u64, name: &[u8]) -> Answer<Bytes> {
        let tree = self.tree();
        let of_system = name.starts_with(b"system.") || name.starts_with(b"security.");
        if of_system && tree.attribute_names.as_ref().is_some_and(|names| !names.contains(name)) {
            return Err(ViewError::Unsupported.into());
        }
        if tree.get(inode).is_some() || listed_attributes(&tree, inode).is_some_and(|names| !names.contains(name)) {
            return Err(ViewError::NoAttribute.into());
        }
        let entry = self.node(&tree, patience, inode)?.entry;
        let acl = match name {
            ACL_ACCESS => entry.acl.access.clone(),
            ACL_DEFAULT => entry.acl.default.clone(),
            _ => None,
        };
        if let Some(acl) = acl {
            return Ok(acl.into());
        }
        let value = entry.xattrs.iter().find(|(known, _)| known == name).map(|(_, value)| value);
        match value.ok_or(ViewError::NoAttribute)? {
            Value::Inline(bytes) => Ok(bytes.clone().into()),
            Value::Stored { size, content } => {
                let reader = ContentReader::new(Arc::clone(&self.repository), *size, content.clone(), None);
                match patience {
                    Patience::None => reader.try_read(0, *size).ok_or(Stop::WouldWait),
                    Patience::Wait => Ok(reader.read(0, *size)?),
                }
            }
        }
    }

    /// Where data or a hole begins at or after an offset.
    ///
    /// # Errors
    /// [`ViewError::NoMoreData`] beyond the end, or for data in a hole that reaches to the end.
    pub fn seek(&self, patience: Patience, inode: u64, offset: u64, to_data: bool) -> Answer<u64> {
        let tree = self.tree();
        let (size, sparse) = match tree.get(inode) {
            Some(_) => (self.attr_in(&tree, patience, inode)?.size, None),
            None => {
                let entry = self.node(&tree, patience, inode)?.entry;
                (entry.size, entry.sparse.clone())
            }
        };
        if offset >= size {
            return Err(ViewError::NoMoreData.into());
        }
        let Some(extents) = sparse else { return Ok(if to_data { offset } else { size }) };
        let mut at = offset;
        for extent in extents.iter().filter(|extent| extent.offset + extent.length > offset) {
            if to_data {
                return Ok(at.max(extent.offset));
            }
            if extent.offset > at {
                return Ok(at);
            }
            at = extent.offset + extent.length;
        }
        if to_data { Err(ViewError::NoMoreData.into()) } else { Ok(at) }
    }

    fn handle(&self, patience: Patience, inode: u64) -> Answer<Arc<Handle>> {
        if let Some(handle) = lock(&self.handles).get(&inode) {
            return Ok(Arc::clone(handle));
        }
        let node = self.node(&self.tree(), patience, inode)?;
        match node.entry.kind {
            EntryKind::File => {}
            EntryKind::Directory => return Err(ViewError::IsDirectory.into()),
            _ => return Err(ViewError::Invalid.into()),
        }
        let handle = Arc::new(Handle::new(ContentReader::of_file(Arc::clone(&self.repository), &node.entry)));
        lock(&self.handles).put(inode, Arc::clone(&handle));
        Ok(handle)
    }
}

/// The attributes that occur in the snapshot of an entry, if it says.
fn listed_attributes(tree: &Virtual, inode: u64) -> Option<&AttributeNames> {
    tree.snapshot(Inode::from_number(inode).slot)?.0.manifest.attribute_names.as_ref()
}
