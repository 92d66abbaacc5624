//! Which extended attributes occur in a snapshot. Programs ask for some of them at every file, and most trees have none: a mount that knows so need not look.
//!
//! Layout: docs/FORMAT.md, section 12, key 19.

use std::collections::BTreeSet;

use crate::tree::Entry;

/// A POSIX ACL, as Linux shows it.
pub const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
/// The POSIX ACL that new entries of a directory get, as Linux shows it.
pub const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// Most names that a manifest lists.
const COUNT_MAX: usize = 64;
/// Most bytes that they have together.
const BYTES_MAX: usize = 4096;

/// Names of extended attributes, sorted and without repetition. ACLs count among them.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct AttributeNames(BTreeSet<Vec<u8>>);

impl AttributeNames {
    /// These names and those of an entry; `None` if they are more than a manifest lists.
    pub fn with(mut self, entry: &Entry) -> Option<Self> {
        names_of(entry).for_each(|name| self.insert(name));
        self.fits()
    }

    /// These names; `None` if they are more than a manifest lists.
    pub fn fits(self) -> Option<Self> {
        (self.0.len() <= COUNT_MAX && self.0.iter().map(Vec::len).sum::<usize>() <= BYTES_MAX).then_some(self)
    }

    /// Adds another list.
    pub fn add(&mut self, other: &Self) {
        other.iter().for_each(|name| self.insert(name));
    }

    /// Whether a name is among them.
    pub fn contains(&self, name: &[u8]) -> bool {
        self.0.contains(name)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.0.iter().map(Vec::as_slice)
    }

    fn insert(&mut self, name: &[u8]) {
        // Nearly every name is there already: it is then not copied.
        if !self.0.contains(name) {
            self.0.insert(name.to_vec());
        }
    }
}

impl FromIterator<Vec<u8>> for AttributeNames {
    fn from_iter<I: IntoIterator<Item = Vec<u8>>>(names: I) -> Self {
        Self(names.into_iter().collect())
    }
}

/// The names of an entry's extended attributes and ACLs.
pub fn names_of(entry: &Entry) -> impl Iterator<Item = &[u8]> {
    let acls = [(&entry.acl.access, ACL_ACCESS), (&entry.acl.default, ACL_DEFAULT)];
    let acls = acls.into_iter().filter_map(|(acl, name)| acl.as_ref().map(|_| name));
    entry.xattrs.iter().map(|(name, _)| name.as_slice()).chain(acls)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{EntryKind, Value};

    #[test]
    fn names_are_gathered_until_they_are_too_many() {
        let mut entry = Entry::new(None, EntryKind::Directory);
        entry.acl.default = Some(b"acl".to_vec());
        entry.xattrs.push((b"user.mime_type".to_vec(), Value::Inline(Vec::new())));
        let names = AttributeNames::default().with(&entry).and_then(|names| names.with(&entry)).unwrap();
        assert_eq!(names.iter().collect::<Vec<_>>(), [ACL_DEFAULT, b"user.mime_type"]);
        entry.xattrs = (0..62).map(|n| (format!("user.{n}").into_bytes(), Value::Inline(Vec::new()))).collect();
        let full = names.with(&entry).unwrap();
        entry.xattrs.push((b"user.62".to_vec(), Value::Inline(Vec::new())));
        assert_eq!(full.with(&entry), None);
        entry.xattrs = (0..17).map(|n| (format!("user.{n:0250}").into_bytes(), Value::Inline(Vec::new()))).collect();
        assert_eq!(AttributeNames::default().with(&entry), None);
    }
}
