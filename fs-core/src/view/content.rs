//! Bytes: of files, of extended attributes, and where the holes are.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::error::ViewError;
use super::handle::Handle;
use super::inode::Inode;
use super::layout::{Virtual, VirtualKind};
use super::{Answer, View, lock};
use crate::reader::ContentReader;
use crate::record::Reference;
use crate::repository::Held;
use crate::snapshot::attributes::{ACL_ACCESS, ACL_DEFAULT, AttributeNames, names_of};
use crate::tree::{EntryKind, Value};

impl View {
    /// Reads exactly `length` bytes of a file, fewer only at its end.
    ///
    /// # Errors
    /// [`Stop`](super::Stop); never zeros instead of data.
    pub fn read(&self, held: &Held, inode: u64, offset: u64, length: u64) -> Answer<Bytes> {
        let tree = self.tree();
        if let Some(made_up) = tree.get(inode) {
            let VirtualKind::File(bytes) = &made_up.kind else { return Err(ViewError::IsDirectory.into()) };
            return Ok(part_of(bytes, offset, length));
        }
        if let Some(text) = self.status_text(inode) {
            return Ok(part_of(&text, offset, length));
        }
        let handle = self.handle(held, inode)?;
        Ok(handle.reader.read_in_memory(held, offset, length)?)
    }

    /// The records that hold a range of a file, in order.
    ///
    /// # Errors
    /// [`Stop`](super::Stop).
    pub fn records(&self, held: &Held, inode: u64, range: Range<u64>) -> Answer<Vec<Reference>> {
        Ok(self.handle(held, inode)?.reader.records(held, range)?)
    }

    /// The names of a file's extended attributes.
    ///
    /// # Errors
    /// [`Stop`](super::Stop).
    pub fn xattr_names(&self, held: &Held, inode: u64) -> Answer<Vec<Vec<u8>>> {
        let tree = self.tree();
        if Inode::from_number(inode).is_made_up() || listed_attributes(&tree, inode).is_some_and(AttributeNames::is_empty) {
            return Ok(Vec::new());
        }
        let entry = self.node(&tree, held, inode)?.entry;
        Ok(names_of(&entry).map(<[u8]>::to_vec).collect())
    }

    /// The value of an extended attribute. One that no entry of its snapshot has is answered without looking at the entry.
    ///
    /// # Errors
    /// [`Stop`](super::Stop). [`ViewError::Unsupported`] for names of the system's own that no snapshot has: `ls` then asks for them once and not at every file.
    pub fn xattr(&self, held: &Held, inode: u64, name: &[u8]) -> Answer<Bytes> {
        let tree = self.tree();
        let of_system = name.starts_with(b"system.") || name.starts_with(b"security.");
        if of_system && tree.attribute_names.as_ref().is_some_and(|names| !names.contains(name)) {
            return Err(ViewError::Unsupported.into());
        }
        if Inode::from_number(inode).is_made_up() || listed_attributes(&tree, inode).is_some_and(|names| !names.contains(name)) {
            return Err(ViewError::NoAttribute.into());
        }
        let entry = self.node(&tree, held, inode)?.entry;
        let acl = match name {
            ACL_ACCESS => entry.acl.access.clone(),
            ACL_DEFAULT => entry.acl.default.clone(),
            _ => None,
        };
        if let Some(acl) = acl {
            return Ok(acl.into());
        }
        let value = entry.xattrs.iter().find(|(known, _)| known == name).map(|(_, value)| value);
        self.value(held, value.ok_or(ViewError::NoAttribute)?, 0, u64::MAX)
    }

    /// The alternate streams of an entry: names, and lengths in bytes.
    ///
    /// # Errors
    /// [`Stop`](super::Stop).
    pub fn streams(&self, held: &Held, inode: u64) -> Answer<Vec<(Vec<u8>, u64)>> {
        if Inode::from_number(inode).is_made_up() {
            return Ok(Vec::new());
        }
        let entry = self.node(&self.tree(), held, inode)?.entry;
        Ok(entry.streams.iter().map(|stream| (stream.name.clone(), stream.value.len())).collect())
    }

    /// Reads exactly `length` bytes of an alternate stream, fewer only at its end.
    ///
    /// # Errors
    /// [`Stop`](super::Stop). [`ViewError::NotFound`] if the entry has no such stream.
    pub fn read_stream(&self, held: &Held, inode: u64, name: &[u8], offset: u64, length: u64) -> Answer<Bytes> {
        let entry = self.node(&self.tree(), held, inode)?.entry;
        let stream = entry.streams.iter().find(|stream| stream.name == name).ok_or(ViewError::NotFound)?;
        self.value(held, &stream.value, offset, length)
    }

    /// A part of what stands beside the content of an entry.
    fn value(&self, held: &Held, value: &Value, offset: u64, length: u64) -> Answer<Bytes> {
        match value {
            Value::Inline(bytes) => Ok(part_of(&bytes.clone().into(), offset, length)),
            Value::Stored { size, content } => {
                let reader = ContentReader::new(Arc::clone(&self.repository), *size, content.clone(), None);
                Ok(reader.read_in_memory(held, offset, length.min(size.saturating_sub(offset)))?)
            }
        }
    }

    /// Where data or a hole begins at or after an offset.
    ///
    /// # Errors
    /// [`ViewError::NoMoreData`] beyond the end, or for data in a hole that reaches to the end.
    pub fn seek(&self, held: &Held, inode: u64, offset: u64, to_data: bool) -> Answer<u64> {
        let tree = self.tree();
        let (size, sparse) = if Inode::from_number(inode).is_made_up() {
            (self.attr_in(&tree, held, inode)?.size, None)
        } else {
            let entry = self.node(&tree, held, inode)?.entry;
            (entry.size, entry.sparse.clone())
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

    pub(super) fn handle(&self, held: &Held, inode: u64) -> Answer<Arc<Handle>> {
        if let Some(handle) = lock(&self.handles).get(&inode) {
            return Ok(Arc::clone(handle));
        }
        let node = self.node(&self.tree(), held, inode)?;
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

fn part_of(bytes: &Bytes, offset: u64, length: u64) -> Bytes {
    let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(at(offset)..at(offset.saturating_add(length)))
}

/// The attributes that occur in the snapshot of an entry, if it says.
fn listed_attributes(tree: &Virtual, inode: u64) -> Option<&AttributeNames> {
    tree.snapshot(Inode::from_number(inode).slot)?.0.outline.series.attribute_names.as_ref()
}
