//! The tree on Unix.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fs_core::path::Name;
use fs_core::time::Timestamp;
use fs_core::tree::{Entry, EntryKind, Extent};
use rustix::fs::{CWD, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::{Child, EXTENTS_MAX, SourceError, Stamp, link_group};
use crate::system::{self, Status, kind_of};

mod attributes;
mod facts;

pub use attributes::Attributes;
pub use facts::{Facts, Names};

/// An open directory. Shared with the threads that read its files.
#[derive(Clone, Debug)]
pub struct Directory(Arc<OwnedFd>);

impl Directory {
    /// The extended attributes and ACLs of an entry, as far as they can be read.
    pub fn attributes(&self, name: &[u8]) -> Attributes {
        let path = match system::path_in(self.0.as_fd(), name) {
            Ok(path) => path,
            Err(problem) => return Attributes::none(problem),
        };
        let path = path.as_slice();
        Attributes::read(|list| rustix::fs::llistxattr(path, list), |name, value| rustix::fs::lgetxattr(path, name, value))
    }
}

/// What keeps the source as it is while it is read.
#[derive(Debug)]
pub struct Still;

/// Reads a live tree. Keeps the names of owners and groups that it has looked up.
#[derive(Debug, Default)]
pub struct LiveTree {
    users: Mutex<HashMap<u32, Option<String>>>,
    groups: Mutex<HashMap<u32, Option<String>>>,
    /// File systems that keep inodes, by device.
    lasting: Mutex<HashMap<(u32, u32), bool>>,
    /// Whether what is read leaves the system's cache as it was.
    gentle: bool,
    /// The file system that could not do that last: most often all files are in one, and asking costs a call for each.
    refused: Arc<AtomicU64>,
}

impl LiveTree {
    /// A live tree. A `gentle` one does not fill the system's cache with what it reads, where the system can do that (Linux 6.14, and the
    /// file system must know how); what was cached before stays so.
    pub fn new(gentle: bool) -> Self {
        Self { gentle, ..Self::default() }
    }

    /// Nothing can be held still here; nobody expects it either.
    pub fn hold_still(&mut self, _paths: &[Vec<u8>], _is_wanted: bool) -> (Still, Option<String>) {
        (Still, None)
    }

    /// Opens the root of the file system.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn root(&self) -> Result<(Directory, Child), SourceError> {
        self.at(Path::new("/"))
    }

    /// Opens a directory by its path.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn at(&self, path: &Path) -> Result<(Directory, Child), SourceError> {
        let directory = Directory(Arc::new(open_at(CWD, path.as_os_str().as_bytes())?));
        let child = self.child(&directory, b".", None)?;
        Ok((directory, child))
    }

    /// Opens a subdirectory that was listed as `stamp`.
    ///
    /// # Errors
    /// [`SourceError`], `Replaced` if it is another one by now.
    pub fn open(&self, parent: &Directory, name: &Name, stamp: &Stamp) -> Result<Directory, SourceError> {
        let directory = Directory(Arc::new(open_at(&*parent.0, name.as_bytes())?));
        let now = rustix::fs::fstat(&*directory.0)?;
        if now.st_ino == stamp.inode { Ok(directory) } else { Err(SourceError::Replaced) }
    }

    /// Names in a directory, sorted bytewise.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn names(&self, directory: &Directory) -> Result<Vec<Name>, SourceError> {
        let mut names = Vec::new();
        for item in rustix::fs::Dir::read_from(&*directory.0)? {
            // "." and ".." are no names; neither is anything else that a file system may not return.
            names.extend(Name::new(item?.file_name().to_bytes()));
        }
        names.sort();
        // A name that is made anew while the system lists it may come twice.
        names.dedup();
        Ok(names)
    }

    /// One entry of a directory.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn entry(&self, directory: &Directory, name: &Name) -> Result<Child, SourceError> {
        self.child(directory, name.as_bytes(), Some(name.clone()))
    }

    /// Whether a directory belongs to a file system that the kernel makes up, or is one of our own mounts.
    pub fn is_pseudo(&self, directory: &Directory) -> bool {
        system::is_pseudo(directory.0.as_fd())
    }

    /// Opens a regular file that was listed as `stamp`.
    ///
    /// # Errors
    /// [`SourceError`], `Replaced` if it is another file by now.
    pub fn open_file(&self, directory: &Directory, name: &Name, stamp: &Stamp) -> Result<(SourceFile, Stamp), SourceError> {
        let file = SourceFile { cache: self.past_the_cache(stamp.device), ..open_to_read(directory, name)? };
        let now = file.stamp()?;
        if now.inode == stamp.inode && now.device == stamp.device { Ok((file, now)) } else { Err(SourceError::Replaced) }
    }

    fn past_the_cache(&self, device: (u32, u32)) -> Option<PastTheCache> {
        let device = u64::from(device.0) << 32 | u64::from(device.1);
        let can = self.gentle && self.refused.load(Ordering::Relaxed) != device;
        can.then(|| PastTheCache { device, refused: Arc::clone(&self.refused) })
    }

    /// An entry by its path, with the directory that it is in. The entry is shown under another name.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn entry_as(&self, path: &Path, shown: &Name) -> Result<(Directory, Child), SourceError> {
        let (Some(parent), Some(Ok(name))) = (path.parent(), path.file_name().map(|name| Name::new(name.as_bytes()))) else {
            return Err(SourceError::Failed(Errno::INVAL));
        };
        let directory = Directory(Arc::new(open_at(CWD, parent.as_os_str().as_bytes())?));
        let mut child = self.entry(&directory, &name)?;
        (child.entry.name, child.alias) = (Some(shown.clone()), Some(name));
        Ok((directory, child))
    }

    /// A block device that is saved as a file of its size; links that lead to it are followed, as its names most often are some.
    ///
    /// # Errors
    /// [`SourceError`], `NOTBLK` if it is neither a block device nor a regular file.
    pub fn device(&self, path: &Path, shown: Option<&Name>) -> Result<(Entry, SourceFile, u64), SourceError> {
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
        let mut file = SourceFile { file: File::from(fd), cache: None };
        let status = system::status_of(&file.file)?;
        if !matches!(kind_of(status.mode), Some(EntryKind::BlockDevice | EntryKind::File)) {
            return Err(SourceError::Failed(Errno::NOTBLK));
        }
        file.cache = self.past_the_cache(status.device);
        let size = rustix::fs::seek(&file.file, SeekFrom::End(0))?;
        if size == 0 && !system::DEVICES_END {
            return Err(SourceError::Failed(Errno::NOTSUP));
        }
        let mut entry = Entry::new(shown.cloned(), EntryKind::File);
        (entry.size, entry.mode) = (size, u32::from(status.mode) & 0o777);
        (entry.uid, entry.gid) = (Some(status.uid), Some(status.gid));
        entry.user = cached(&self.users, status.uid, user_name);
        entry.group = cached(&self.groups, status.gid, group_name);
        entry.mtime = Some(stamp_of(&status).mtime);
        Ok((entry, file, size))
    }

    /// The entry of a file that is in no file system, of this user and this time.
    pub fn made_entry(&self, name: Name, kind: EntryKind, time: Option<Timestamp>) -> Entry {
        let mut entry = Entry::new(Some(name), kind);
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        entry.mode = if kind == EntryKind::Directory { 0o700 } else { 0o600 };
        (entry.uid, entry.gid, entry.mtime) = (Some(uid), Some(gid), time);
        entry.user = cached(&self.users, uid, user_name);
        entry.group = cached(&self.groups, gid, group_name);
        entry
    }

    /// The first bytes of a small regular file: its mark, or its patterns.
    ///
    /// # Errors
    /// [`SourceError`], `Replaced` if it is no regular file.
    pub fn beginning(&self, directory: &Directory, name: &Name, length_max: usize) -> Result<Vec<u8>, SourceError> {
        let file = open_to_read(directory, name)?;
        file.stamp()?;
        let mut bytes = Vec::new();
        let length_max = u64::try_from(length_max).unwrap_or(u64::MAX);
        file.file.take(length_max).read_to_end(&mut bytes).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok(bytes)
    }

    fn child(&self, directory: &Directory, raw_name: &[u8], name: Option<Name>) -> Result<Child, SourceError> {
        let status = system::status(&*directory.0, raw_name)?;
        let facts = Facts::of(&status).ok_or(SourceError::Failed(Errno::NOTSUP))?;
        let kind = facts.kind;
        let mut entry = Entry::new(name, kind);
        let stamp = stamp_of(&status);
        entry.mode = u32::from(status.mode) & 0o7777;
        (entry.uid, entry.gid) = (Some(status.uid), Some(status.gid));
        entry.user = cached(&self.users, status.uid, user_name);
        entry.group = cached(&self.groups, status.gid, group_name);
        (entry.mtime, entry.ctime) = (Some(stamp.mtime), Some(stamp.ctime));
        entry.btime = status.born.and_then(|(seconds, nanos)| Timestamp::new(seconds, nanos));
        entry.flags = status.flags.filter(|flags| *flags != 0);
        match kind {
            EntryKind::File => entry.size = status.size,
            EntryKind::Symlink => {
                let target = rustix::fs::readlinkat(&*directory.0, raw_name, Vec::new())?.into_bytes();
                entry.size = target.len() as u64;
                entry.target = Some(target);
            }
            EntryKind::CharDevice | EntryKind::BlockDevice => entry.device = Some(status.names_device),
            EntryKind::Directory | EntryKind::Fifo | EntryKind::Socket => {}
        }
        if kind != EntryKind::Directory && status.link_count > 1 {
            entry.link_group = Some(link_group(stamp.device, stamp.inode));
            entry.link_count = Some(status.link_count.into());
        }
        let mut problem = None;
        if kind != EntryKind::File {
            problem = directory.attributes(raw_name).give(&mut entry);
        }
        let lasting_inode = self.keeps_inodes(directory, stamp.device).then_some(stamp.inode);
        Ok(Child { entry, stamp, facts, lasting_inode, alias: None, problem })
    }

    /// File systems that have no inodes make them up, anew after every mount.
    fn keeps_inodes(&self, directory: &Directory, device: (u32, u32)) -> bool {
        let mut known = self.lasting.lock().unwrap_or_else(PoisonError::into_inner);
        *known.entry(device).or_insert_with(|| system::keeps_inodes(directory.0.as_fd()))
    }
}

/// An open regular file of the source.
#[derive(Debug)]
pub struct SourceFile {
    file: File,
    /// How it is read past the system's cache, if it is.
    cache: Option<PastTheCache>,
}

/// Reading past the system's cache, until the file system says that it cannot do that.
#[derive(Debug)]
struct PastTheCache {
    device: u64,
    refused: Arc<AtomicU64>,
}

impl SourceFile {
    /// Reads into the buffer; 0 at the end.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn read(&self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        self.read_from(buffer, None)
    }

    /// Fills the buffer from this offset; less only at the end.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, SourceError> {
        let mut filled = 0;
        while let Some(space) = buffer.get_mut(filled..).filter(|space| !space.is_empty()) {
            match self.read_from(space, Some(offset + filled as u64))? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    }

    /// Reads at an offset, or where the file stands.
    fn read_from(&self, buffer: &mut [u8], offset: Option<u64>) -> Result<usize, SourceError> {
        loop {
            let past = self.cache.as_ref().filter(|cache| cache.refused.load(Ordering::Relaxed) != cache.device);
            let read = match (past.is_some(), offset) {
                (true, _) => system::read_past_cache(&self.file, buffer, offset),
                (false, Some(offset)) => rustix::io::pread(&self.file, &mut *buffer, offset),
                (false, None) => rustix::io::read(&self.file, &mut *buffer),
            };
            match read {
                Ok(count) => return Ok(count),
                Err(Errno::INTR) => {}
                Err(error) => match (past, error) {
                    (Some(cache), Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => cache.refused.store(cache.device, Ordering::Relaxed),
                    _ => return Err(error.into()),
                },
            }
        }
    }

    /// Its extended attributes and ACLs, as far as they can be read.
    pub fn attributes(&self) -> Attributes {
        Attributes::read(|list| rustix::fs::flistxattr(&self.file, list), |name, value| rustix::fs::fgetxattr(&self.file, name, value))
    }

    /// Continues reading at this offset.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn seek(&self, offset: u64) -> Result<(), SourceError> {
        rustix::fs::seek(&self.file, SeekFrom::Start(offset))?;
        Ok(())
    }

    /// What it is now.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn stamp(&self) -> Result<Stamp, SourceError> {
        let status = system::status_of(&self.file)?;
        if kind_of(status.mode) == Some(EntryKind::File) { Ok(stamp_of(&status)) } else { Err(SourceError::Replaced) }
    }

    /// The parts of a sparse file that are present; `None` if it has no holes worth keeping. Reading then begins at its beginning again.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn extents(&self, stamp: &Stamp) -> Result<Option<Vec<Extent>>, SourceError> {
        if stamp.allocated >= stamp.size || !system::TELLS_HOLES {
            return Ok(None);
        }
        let found = self.look_for_extents(stamp);
        self.seek(0)?;
        found
    }

    fn look_for_extents(&self, stamp: &Stamp) -> Result<Option<Vec<Extent>>, SourceError> {
        let (mut extents, mut at) = (Vec::new(), 0);
        while at < stamp.size {
            let offset = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                Ok(offset) => offset,
                Err(Errno::NXIO) => break,
                Err(_) => return Ok(None),
            };
            let end = rustix::fs::seek(&self.file, SeekFrom::Hole(offset))?.min(stamp.size);
            if offset >= stamp.size || end <= offset {
                break;
            }
            extents.push(Extent { offset, length: end - offset });
            at = end;
            if extents.len() > EXTENTS_MAX {
                return Ok(None);
            }
        }
        let all = [Extent { offset: 0, length: stamp.size }];
        Ok((extents != all).then_some(extents))
    }
}

fn open_to_read(directory: &Directory, name: &Name) -> Result<SourceFile, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    // Only the owner may leave the time of access alone.
    let fd = rustix::fs::openat(&*directory.0, name.as_bytes(), flags | system::UNSEEN, Mode::empty())
        .or_else(|_| rustix::fs::openat(&*directory.0, name.as_bytes(), flags, Mode::empty()))?;
    Ok(SourceFile { file: File::from(fd), cache: None })
}

fn open_at(parent: impl std::os::fd::AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&parent, name, flags | system::UNSEEN, Mode::empty())
        .or_else(|_| rustix::fs::openat(&parent, name, flags, Mode::empty()))
}

fn stamp_of(status: &Status) -> Stamp {
    let Status { device, inode, size, allocated, modified, changed, .. } = *status;
    let time = |(seconds, nanos)| Timestamp::new(seconds, nanos).unwrap_or_default();
    Stamp { device, inode, size, mtime: time(modified), ctime: time(changed), allocated }
}

fn cached(names: &Mutex<HashMap<u32, Option<String>>>, id: u32, look_up: fn(u32) -> Option<String>) -> Option<String> {
    names.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_insert_with(|| look_up(id)).clone()
}

fn user_name(id: u32) -> Option<String> {
    nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(id)).ok().flatten().map(|user| user.name)
}

fn group_name(id: u32) -> Option<String> {
    nix::unistd::Group::from_gid(nix::unistd::Gid::from_raw(id)).ok().flatten().map(|group| group.name)
}
