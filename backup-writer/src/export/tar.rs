//! A tar archive with extended headers (POSIX.1-2001, `pax`): names of any length and bytes, times to the nanosecond, attributes, access control lists, holes.
//!
//! Holes are written as GNU tar does (its sparse format 1.0): a map before the data. Attributes and lists have the keys that GNU tar, star and libarchive read.

use std::io::{Error, Write};
use std::sync::Arc;

use fs_core::path::TreePath;
use fs_core::report::Severity;
use fs_core::repository::{ReadError, Repository};
use fs_core::tree::{Entry, EntryKind};
use tar::{Builder, EntryType, Header};

use super::ahead::data_length;
use super::{Archive, Refusal, acl};
use crate::metadata::bytes_of;

const BLOCK: usize = 512;
/// What the header itself has room for.
const NAME_MAX: usize = 100;
const ID_MAX: u32 = 0o7_777_777;
const SIZE_MAX: u64 = 0o77_777_777_777;

pub(super) struct TarArchive<'a, W: Write> {
    /// Has long values of attributes.
    repository: &'a Arc<Repository>,
    builder: Builder<W>,
    /// Bytes of the entry that is being written.
    length: u64,
}

impl<'a, W: Write> TarArchive<'a, W> {
    pub(super) fn new(output: W, repository: &'a Arc<Repository>) -> Self {
        Self { repository, builder: Builder::new(output), length: 0 }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.length += bytes.len() as u64;
        self.builder.get_mut().write_all(bytes)
    }

    fn pad(&mut self) -> Result<(), Error> {
        let over = usize::try_from(self.length % BLOCK as u64).unwrap_or(0);
        if over == 0 { Ok(()) } else { self.write(&vec![0; BLOCK - over]) }
    }
}

impl<W: Write> Archive for TarArchive<'_, W> {
    fn begin(&mut self, path: &TreePath, entry: &Entry, link: Option<&TreePath>) -> Result<Option<Refusal>, Error> {
        let Some(kind) = type_of(entry, link.is_some()) else { return Ok(Some((Severity::Note, "a tar archive has no sockets"))) };
        let mut name = [b"./", &path.to_bytes()[..]].concat();
        if entry.kind == EntryKind::Directory && !path.is_root() {
            name.push(b'/');
        }
        let target = link.map(|link| [b"./", &link.to_bytes()[..]].concat()).or_else(|| entry.target.clone());
        let map = sparse_map(entry).filter(|_| link.is_none());
        let has_content = entry.kind == EntryKind::File && link.is_none();
        let size = if has_content { data_length(entry) + map.as_ref().map_or(0, |map| map.len() as u64) } else { 0 };
        let Ok(mut records) = Records::of(self.repository, entry, link.is_some()) else {
            return Ok(Some((Severity::Error, "its attributes cannot be read")));
        };
        if map.is_some() {
            records.add("GNU.sparse.major", "1");
            records.add("GNU.sparse.minor", "0");
            records.add("GNU.sparse.name", name.clone());
            records.add("GNU.sparse.realsize", entry.size.to_string());
        } else if name.len() > NAME_MAX || !name.is_ascii() {
            records.add("path", name.clone());
        }
        if let Some(target) = target.as_ref().filter(|target| target.len() > NAME_MAX || !target.is_ascii()) {
            records.add("linkpath", target.clone());
        }
        if size > SIZE_MAX {
            records.add("size", size.to_string());
        }
        self.builder.append_pax_extensions(records.0.iter().map(|(key, value)| (key.as_str(), &value[..])))?;
        let header = header(entry, kind, &name, target.as_deref(), size)?;
        self.builder.get_mut().write_all(header.as_bytes())?;
        self.length = 0;
        self.write(&map.unwrap_or_default())?;
        Ok(None)
    }

    fn data(&mut self, _entry: &Entry, _start: u64, bytes: &[u8]) -> Result<(), Error> {
        self.write(bytes)
    }

    fn end(&mut self, _entry: &Entry) -> Result<(), Error> {
        self.pad()
    }

    fn finish(mut self) -> Result<(), Error> {
        self.builder.finish()?;
        self.builder.get_mut().flush()
    }
}

fn type_of(entry: &Entry, is_link: bool) -> Option<EntryType> {
    Some(match entry.kind {
        EntryKind::Socket => return None,
        _ if is_link => EntryType::Link,
        EntryKind::File => EntryType::Regular,
        EntryKind::Directory => EntryType::Directory,
        EntryKind::Symlink => EntryType::Symlink,
        EntryKind::Fifo => EntryType::Fifo,
        EntryKind::CharDevice => EntryType::Char,
        EntryKind::BlockDevice => EntryType::Block,
    })
}

fn header(entry: &Entry, kind: EntryType, name: &[u8], target: Option<&[u8]>, size: u64) -> Result<Header, Error> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    let cut = |bytes: &[u8]| bytes.iter().copied().take(NAME_MAX).collect::<Vec<u8>>();
    {
        let old = header.as_old_mut();
        old.name.iter_mut().zip(cut(name)).for_each(|(to, from)| *to = from);
        old.linkname.iter_mut().zip(cut(target.unwrap_or_default())).for_each(|(to, from)| *to = from);
    }
    header.set_mode(entry.mode);
    header.set_uid(entry.uid.filter(|uid| *uid <= ID_MAX).unwrap_or(0).into());
    header.set_gid(entry.gid.filter(|gid| *gid <= ID_MAX).unwrap_or(0).into());
    let seconds = entry.mtime.map_or(0, |mtime| mtime.seconds());
    header.set_mtime(u64::try_from(seconds).ok().filter(|seconds| *seconds <= SIZE_MAX).unwrap_or(0));
    header.set_size(if size > SIZE_MAX { 0 } else { size });
    let short = |name: &Option<String>| name.clone().filter(|name| name.len() < 32).unwrap_or_default();
    header.set_username(&short(&entry.user))?;
    header.set_groupname(&short(&entry.group))?;
    if let Some((major, minor)) = entry.device {
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
    }
    header.set_cksum();
    Ok(header)
}

/// The records of an extended header.
#[derive(Default)]
struct Records(Vec<(String, Vec<u8>)>);

impl Records {
    fn add(&mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) {
        self.0.push((key.into(), value.into()));
    }

    fn of(repository: &Arc<Repository>, entry: &Entry, is_link: bool) -> Result<Self, ReadError> {
        let mut records = Self::default();
        if let Some(mtime) = entry.mtime {
            let (seconds, nanos) = (mtime.seconds(), mtime.nanos());
            if nanos != 0 || u64::try_from(seconds).is_ok_and(|seconds| seconds > SIZE_MAX) || seconds < 0 {
                records.add("mtime", decimal(seconds, nanos));
            }
        }
        for (key, id) in [("uid", entry.uid), ("gid", entry.gid)] {
            if let Some(id) = id.filter(|id| *id > ID_MAX) {
                records.add(key, id.to_string());
            }
        }
        for (key, name) in [("uname", &entry.user), ("gname", &entry.group)] {
            if let Some(name) = name.as_ref().filter(|name| name.len() >= 32 || !name.is_ascii()) {
                records.add(key, name.as_bytes());
            }
        }
        if is_link {
            return Ok(records);
        }
        for (key, list) in [("SCHILY.acl.access", &entry.acl.access), ("SCHILY.acl.default", &entry.acl.default)] {
            if let Some(text) = list.as_deref().and_then(acl::text) {
                records.add(key, text);
            }
        }
        for (name, value) in &entry.xattrs {
            // Names that are no text cannot be keys.
            if let Ok(name) = std::str::from_utf8(name) {
                records.add(format!("SCHILY.xattr.{name}"), bytes_of(repository, value)?);
            }
        }
        Ok(records)
    }
}

/// Seconds with nine decimals. Before 1970 the fraction counts away from zero.
fn decimal(seconds: i64, nanos: u32) -> String {
    if seconds < 0 && nanos > 0 {
        let (whole, rest) = ((seconds + 1).unsigned_abs(), 1_000_000_000 - nanos);
        format!("-{whole}.{rest:09}")
    } else {
        format!("{seconds}.{nanos:09}")
    }
}

/// The map of a file with holes: how many parts it has, where they begin and how long they are, in lines, padded.
fn sparse_map(entry: &Entry) -> Option<Vec<u8>> {
    let extents = entry.sparse.as_ref()?;
    let mut lines: Vec<u64> = extents.iter().flat_map(|extent| [extent.offset, extent.length]).collect();
    let mut count = extents.len();
    if extents.last().is_none_or(|last| last.offset + last.length < entry.size) {
        // A part of no bytes says where the file ends.
        lines.extend([entry.size, 0]);
        count += 1;
    }
    let mut map: Vec<u8> = format!("{count}\n").into_bytes();
    lines.iter().for_each(|number| map.extend_from_slice(format!("{number}\n").as_bytes()));
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    Some(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_core::tree::Extent;

    #[test]
    fn times_count_from_zero() {
        for (seconds, nanos, text) in
            [(5, 1, "5.000000001"), (-1, 999_999_999, "-0.000000001"), (-2, 500_000_000, "-1.500000000"), (-3, 0, "-3.000000000")]
        {
            assert_eq!(decimal(seconds, nanos), text);
        }
    }

    #[test]
    fn the_map_of_a_sparse_file_tells_its_end() {
        let mut entry = Entry { size: 100, sparse: Some(vec![Extent { offset: 10, length: 5 }]), ..Entry::new(None, EntryKind::File) };
        let map = |entry: &Entry| String::from_utf8(sparse_map(entry).unwrap()).unwrap();
        assert_eq!(map(&entry).trim_end_matches('\0'), "2\n10\n5\n100\n0\n");
        assert_eq!(map(&entry).len(), BLOCK);
        entry.size = 15;
        assert_eq!(map(&entry).trim_end_matches('\0'), "1\n10\n5\n");
    }
}
