//! Extended attributes and ACLs.

use std::cell::RefCell;

use fs_core::tree::{Acl, Entry, Value};
use rustix::io::Errno;

use crate::system::NO_ATTRIBUTE;

/// As long as Linux lets a list of names or a value be.
const SIZE_MAX: usize = 1 << 16;

/// Longer ones are not saved. They are held in memory until they are stored.
const LONG_SIZE_MAX: usize = 32 << 20;

/// The extended attributes and ACLs of an entry.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    acl: Acl,
    /// By name.
    xattrs: Vec<(Vec<u8>, Value)>,
    /// Why some of them are missing here.
    problem: Option<Errno>,
}

impl Attributes {
    /// None, because they cannot be read.
    pub(super) fn none(problem: Errno) -> Self {
        Self { problem: Some(problem), ..Self::default() }
    }

    /// Reads them by the system's calls for a list of names and for a value.
    pub(super) fn read(list: impl Fn(&mut [u8]) -> Result<usize, Errno>, value: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>) -> Self {
        thread_local! {
            /// Most attributes are short: what is kept of one is no longer than it.
            static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SIZE_MAX]);
        }
        BUFFER.with_borrow_mut(|buffer| Self::read_with(buffer, list, value))
    }

    fn read_with(
        buffer: &mut [u8],
        list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
        value: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
    ) -> Self {
        let mut read = Self::default();
        let names = match list(buffer) {
            Ok(length) => buffer.get(..length).unwrap_or_default().to_vec(),
            // The file system has none, the entry is gone, or they are not for us.
            Err(Errno::NOTSUP | Errno::NOENT | Errno::ACCESS | Errno::PERM | Errno::LOOP | Errno::BADF) => return read,
            Err(problem) => return Self { problem: Some(problem), ..read },
        };
        for name in names.split(|&b| b == 0).filter(|name| !name.is_empty()) {
            let bytes = match value(name, buffer).map(|length| buffer.get(..length).unwrap_or_default().to_vec()) {
                Err(Errno::RANGE) => long_value(|buffer| value(name, buffer)),
                read => read,
            };
            let bytes = match bytes {
                Ok(bytes) => bytes,
                // Removed since, or listed for everybody and read by root alone.
                Err(NO_ATTRIBUTE | Errno::NOTSUP | Errno::NOENT | Errno::ACCESS | Errno::PERM) => continue,
                Err(problem) => {
                    read.problem = Some(problem);
                    continue;
                }
            };
            match name {
                b"system.posix_acl_access" => read.acl.access = Some(bytes),
                b"system.posix_acl_default" => read.acl.default = Some(bytes),
                _ => read.xattrs.push((name.to_vec(), Value::Inline(bytes))),
            }
        }
        read.xattrs.sort_by(|a, b| a.0.cmp(&b.0));
        read
    }

    /// Says them of an entry. If some are missing, says why, and the entry does without the time that would let the next run take it over.
    pub fn give(self, entry: &mut Entry) -> Option<String> {
        (entry.acl, entry.xattrs) = (self.acl, self.xattrs);
        self.problem.map(|problem| {
            entry.ctime = None;
            format!("not all of its extended attributes could be read: {problem}")
        })
    }
}

/// A value that is longer than any on Linux: on macOS the resource fork of a file is one.
fn long_value(value: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let length = value(&mut [])?;
    if length > LONG_SIZE_MAX {
        return Err(Errno::FBIG);
    }
    let mut bytes = vec![0; length];
    let length = value(&mut bytes)?;
    bytes.truncate(length);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use fs_core::path::Name;
    use fs_core::time::Timestamp;
    use fs_core::tree::EntryKind;

    use super::*;

    fn put(bytes: &[u8], into: &mut [u8]) -> Result<usize, Errno> {
        into[..bytes.len()].copy_from_slice(bytes);
        Ok(bytes.len())
    }

    fn given(attributes: Attributes) -> (Entry, Option<String>) {
        let mut entry = Entry::new(Name::new(&b"file"[..]).ok(), EntryKind::File);
        entry.ctime = Some(Timestamp::new(5, 0).unwrap());
        let problem = attributes.give(&mut entry);
        (entry, problem)
    }

    #[test]
    fn what_cannot_be_read_is_told_and_read_again_by_the_next_run() {
        let list = |names: &mut [u8]| put(b"user.a\0user.b\0system.posix_acl_access\0", names);
        let (entry, problem) = given(Attributes::read(list, put));
        assert_eq!((entry.xattrs.len(), entry.acl.access.as_deref(), problem), (2, Some(&b"system.posix_acl_access"[..]), None));
        let refused = |errno| move |name: &[u8], value: &mut [u8]| if name == b"user.a" { Err(errno) } else { put(name, value) };
        let (entry, problem) = given(Attributes::read(list, refused(Errno::IO)));
        assert_eq!((entry.xattrs.len(), entry.ctime), (1, None));
        assert!(problem.is_some_and(|problem| problem.contains("extended attributes")));
        let (entry, problem) = given(Attributes::read(list, refused(Errno::NODATA)));
        assert!(entry.xattrs.len() == 1 && entry.ctime.is_some() && problem.is_none());
        for (errno, is_told) in [(Errno::IO, true), (Errno::STALE, true), (Errno::NOTSUP, false)] {
            let (entry, problem) = given(Attributes::read(|_| Err(errno), put));
            assert_eq!((entry.ctime.is_none(), problem.is_some()), (is_told, is_told), "{errno}");
        }
    }

    #[test]
    fn a_short_value_takes_little_memory() {
        let (entry, _) = given(Attributes::read(|names| put(b"user.a\0", names), |_, value| put(b"x", value)));
        assert!(matches!(&entry.xattrs[..], [(_, Value::Inline(value))] if value.capacity() < 64));
    }
}
