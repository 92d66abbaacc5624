//! The directory on Unix, always relative to the open root and never through a symbolic link.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Children, Detail, Disk, FoundFile, is_ours, split, with_temporary_name};
use crate::time::{Clock as _, SystemClock, Timestamp};

/// For every directory on the way: opened for `fsync` and listing, and an error if it is a symbolic link.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// For objects. Not blocking, because a foreign pipe under an object's name would let `open` wait for ever.
const OBJECT: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// What was changed in a directory longer ago has long become durable by itself: systems write within a minute. The rest is for clocks that differ.
const UNWRITTEN_MAX: Duration = Duration::from_secs(3600);

/// The ways to give a file its name, best first. A file system that lacks one lacks it for good, so it is not asked again.
const RENAME_EXCLUSIVE: u8 = 0;
const LINK: u8 = 1;
const RENAME: u8 = 2;

/// The root of a store.
#[derive(Debug)]
pub(super) struct UnixDisk {
    path: PathBuf,
    root: OwnedFd,
    /// The first way that may work here.
    way: AtomicU8,
    /// Makes looking and renaming one step among our own threads where the file system offers no such step.
    rename: Mutex<()>,
    /// Directories whose own entries this process has made durable. Another thread or process may have made a directory and died, or not have
    /// come to its `fsync` yet, so whoever writes into a directory first makes sure. As many entries as the store has directories.
    durable: Mutex<HashSet<String>>,
    /// Whether something was listed that could not be made durable. Nothing may be written that could rely on it: a later `fsync` would say that all is well.
    is_failing: AtomicBool,
}

impl UnixDisk {
    /// Opens the root.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        let (way, rename, durable) = (AtomicU8::new(RENAME_EXCLUSIVE), Mutex::default(), Mutex::default());
        Ok(Self { path: path.into(), root, way, rename, durable, is_failing: AtomicBool::new(false) })
    }

    /// Makes the root and its missing parents, durably.
    pub(super) fn create_root(path: &Path) -> io::Result<()> {
        let path = std::path::absolute(path)?;
        let missing: Vec<_> = path.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
        for directory in missing.into_iter().rev() {
            make_directory(CWD, directory)?;
            if let Some(parent) = directory.parent() {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                sync_directory(rustix::fs::openat(CWD, parent, flags, Mode::empty())?.as_fd())?;
            }
        }
        Ok(())
    }

    /// A disk that believes its file system to lack the better ways of publishing.
    #[cfg(test)]
    pub(super) fn open_limited(path: &Path, way: u8) -> io::Result<Self> {
        let disk = Self::open(path)?;
        disk.way.store(way, Ordering::Relaxed);
        Ok(disk)
    }

    fn directory(&self, path: &str) -> io::Result<OwnedFd> {
        let mut directory = self.root.try_clone()?;
        for part in path.split_terminator('/') {
            directory = rustix::fs::openat(&directory, part, DIRECTORY, Mode::empty())?;
        }
        Ok(directory)
    }

    /// Like [`Self::directory`], but makes what is missing, and returns only when everything on the way is durable.
    fn directory_for_writing(&self, path: &str) -> io::Result<OwnedFd> {
        let is_durable = |path: &str| self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(path);
        let mut directory = self.root.try_clone()?;
        let mut done = String::new();
        for part in path.split_terminator('/') {
            let (next, is_new) = match rustix::fs::openat(&directory, part, DIRECTORY, Mode::empty()) {
                Err(Errno::NOENT) => {
                    make_directory(directory.as_fd(), Path::new(part))?;
                    (rustix::fs::openat(&directory, part, DIRECTORY, Mode::empty())?, true)
                }
                found => (found?, false),
            };
            done.push_str(part);
            done.push('/');
            if is_new || !is_durable(&done) {
                if let Err(error) = sync_directory(directory.as_fd()) {
                    if is_new {
                        // It would be taken for durable the next time: after an error `fsync` does not try again.
                        let _ = rustix::fs::unlinkat(&directory, part, AtFlags::REMOVEDIR);
                    }
                    return Err(error);
                }
                self.durable.lock().unwrap_or_else(PoisonError::into_inner).insert(done.clone());
            }
            directory = next;
        }
        Ok(directory)
    }

    /// What a listing shows is relied on. Its writer may have died before it became durable: then this makes up for it, and likewise for what is gone.
    fn settle(&self, directory: BorrowedFd<'_>) -> io::Result<()> {
        let changed = number(rustix::fs::fstat(directory)?.st_mtime).and_then(|seconds| Timestamp::new(seconds, 0));
        let oldest = SystemClock.now().saturating_sub(UNWRITTEN_MAX);
        if changed.is_none_or(|changed| changed >= oldest) && sync_directory(directory).is_err() {
            // Readers may go on.
            self.is_failing.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn refuse_if_failing(&self) -> io::Result<()> {
        if self.is_failing.load(Ordering::Relaxed) {
            return Err(io::Error::other("the file system could not make durable what it shows"));
        }
        Ok(())
    }

    /// Gives a finished temporary file its name, unless that is taken.
    fn publish(&self, temporary: &mut Temporary<'_>, name: &str) -> io::Result<()> {
        let way = self.way.load(Ordering::Relaxed);
        if way == RENAME_EXCLUSIVE {
            match rename_exclusive(temporary.directory, &temporary.name, name) {
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    self.way.fetch_max(LINK, Ordering::Relaxed);
                }
                result => return Ok(result.map(|()| temporary.keep())?),
            }
        }
        if way <= LINK {
            match rustix::fs::linkat(temporary.directory, &temporary.name, temporary.directory, name, AtFlags::empty()) {
                // The file keeps two names until the temporary one is dropped.
                Ok(()) => return Ok(()),
                // Over NFS an answer may be lost and the request sent again, which then meets our own link.
                Err(Errno::EXIST) if temporary.file.metadata().is_ok_and(|file| std::os::unix::fs::MetadataExt::nlink(&file) > 1) => {
                    return Ok(());
                }
                Err(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL | Errno::MLINK) => {
                    self.way.fetch_max(RENAME, Ordering::Relaxed);
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.publish_by_rename(temporary, name)
    }

    /// The last resort keeps the promise that matters, all or nothing under the name, and gives up the exclusion of other machines: names are
    /// random or hashes. Writing under the final name would be exclusive, but a crash would leave a torn object.
    fn publish_by_rename(&self, temporary: &mut Temporary<'_>, name: &str) -> io::Result<()> {
        let _one_at_a_time = self.rename.lock().unwrap_or_else(PoisonError::into_inner);
        match rustix::fs::statat(temporary.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(Errno::NOENT) => {
                rustix::fs::renameat(temporary.directory, &temporary.name, temporary.directory, name)?;
                temporary.keep();
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Disk for UnixDisk {
    fn open_file(&self, name: &str) -> io::Result<(File, u64)> {
        let (parent, name) = split(name);
        let directory = self.directory(parent)?;
        let file = File::from(rustix::fs::openat(&directory, name, OBJECT, Mode::empty())?);
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(not_a_file());
        }
        Ok((file, meta.len()))
    }

    fn read_at(&self, file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length)?;
        while bytes.len() < length {
            let position = offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            // The allocator may have reserved more than was asked for; what is read beyond is cut off below.
            match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), position) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bytes.truncate(length);
        Ok(bytes)
    }

    fn stat(&self, name: &str) -> io::Result<FoundFile> {
        let (parent, name) = split(name);
        let directory = self.directory(parent)?;
        let stat = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        found_file(name, &stat).ok_or_else(not_a_file)
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.refuse_if_failing()?;
        let (parent, name) = split(name);
        let directory = self.directory_for_writing(parent)?;
        let mut temporary = Temporary::create(directory.as_fd())?;
        temporary.file.write_all(bytes)?;
        temporary.file.sync_all()?;
        match self.publish(&mut temporary, name) {
            // For who knows what is in it that is as good as having written it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => sync_directory(directory.as_fd()).and(Err(error)),
            Err(error) => Err(error),
            Ok(()) => sync_directory(directory.as_fd()).inspect_err(|_| {
                // Nobody may rely on it: it is seen, and gone when the power goes, whatever a second `fsync` says.
                let _ = rustix::fs::unlinkat(&directory, name, AtFlags::empty());
            }),
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.refuse_if_failing()?;
        let (parent, name) = split(name);
        let directory = self.directory(parent)?;
        Ok(rustix::fs::unlinkat(&directory, name, AtFlags::empty())?)
    }

    fn sync(&self, directory: &str) -> io::Result<()> {
        sync_directory(self.directory(directory)?.as_fd())
    }

    fn children(&self, directory: &str, detail: Detail) -> io::Result<Children> {
        let mut children = Children::default();
        // Opened anew even for the root: a copied descriptor would share its position with other listings.
        let directory = rustix::fs::openat(self.directory(directory)?, c".", DIRECTORY, Mode::empty())?;
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().ok().filter(|name| is_ours(name)) else { continue };
            if entry.file_type() == FileType::Directory {
                children.directories.push(name.to_owned());
            } else if entry.file_type() == FileType::RegularFile && detail == Detail::Name {
                children.files.push(FoundFile { name: name.to_owned(), size: 0, modified: None });
            } else if matches!(entry.file_type(), FileType::RegularFile | FileType::Unknown) {
                match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                    // Deleted since.
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(error.into()),
                    Ok(stat) if is_type(&stat, FileType::Directory) => children.directories.push(name.to_owned()),
                    Ok(stat) => children.files.extend(found_file(name, &stat)),
                }
            }
        }
        // Afterwards, so that it holds for everything that was seen.
        self.settle(directory.as_fd())?;
        Ok(children)
    }

    fn time(&self) -> io::Result<Option<Timestamp>> {
        let mut temporary = Temporary::create(self.root.as_fd())?;
        // Some file systems give a file the client's time when it is made, and the server's when it is written.
        temporary.file.write_all(b"clock")?;
        temporary.file.sync_all()?;
        Ok(found_file(&temporary.name, &rustix::fs::fstat(&temporary.file)?).and_then(|file| file.modified))
    }

    fn confirm(&self) -> io::Result<()> {
        let (held, found) = (rustix::fs::fstat(&self.root)?, rustix::fs::stat(&self.path)?);
        if (held.st_dev, held.st_ino) == (found.st_dev, found.st_ino) {
            return Ok(());
        }
        Err(io::Error::other("another directory has taken the place of the one that was opened"))
    }

    fn is_exclusive(&self) -> bool {
        self.way.load(Ordering::Relaxed) < RENAME
    }
}

/// A temporary file; its temporary name goes when it is dropped, however that comes about.
struct Temporary<'a> {
    directory: BorrowedFd<'a>,
    name: String,
    file: File,
    is_renamed: bool,
}

impl<'a> Temporary<'a> {
    fn create(directory: BorrowedFd<'a>) -> io::Result<Self> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = |name: &str| Ok(rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?);
        let (name, file) = with_temporary_name(create)?;
        Ok(Self { directory, name, file: file.into(), is_renamed: false })
    }

    fn keep(&mut self) {
        self.is_renamed = true;
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.is_renamed {
            // What stays behind after a second error is invisible and for `sweep_temporary`.
            let _ = rustix::fs::unlinkat(self.directory, &self.name, AtFlags::empty());
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn rename_exclusive(directory: BorrowedFd<'_>, from: &str, to: &str) -> Result<(), Errno> {
    rustix::fs::renameat_with(directory, from, directory, to, rustix::fs::RenameFlags::NOREPLACE)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn rename_exclusive(_directory: BorrowedFd<'_>, _from: &str, _to: &str) -> Result<(), Errno> {
    Err(Errno::NOSYS)
}

/// Makes one directory for its owner only; one that exists is fine.
fn make_directory(parent: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    match rustix::fs::mkdirat(parent, path, Mode::RWXU) {
        Err(Errno::EXIST) => Ok(()),
        result => Ok(result?),
    }
}

/// Makes a directory's entries durable. File systems that cannot do this for a directory say so, and have then nothing to wait for.
fn sync_directory(directory: BorrowedFd<'_>) -> io::Result<()> {
    match rustix::fs::fsync(directory) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(()),
        result => Ok(result?),
    }
}

fn is_type(stat: &Stat, file_type: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == file_type
}

/// `None` for anything but a regular file.
fn found_file(name: &str, stat: &Stat) -> Option<FoundFile> {
    if !is_type(stat, FileType::RegularFile) {
        return None;
    }
    let modified = number(stat.st_mtime).zip(number(stat.st_mtime_nsec)).and_then(|(seconds, nanos)| Timestamp::new(seconds, nanos));
    Some(FoundFile { name: name.to_owned(), size: number(stat.st_size)?, modified })
}

/// The widths of the fields of `stat` differ between systems.
fn number<T>(value: impl TryInto<T>) -> Option<T> {
    value.try_into().ok()
}

fn not_a_file() -> io::Error {
    io::Error::other("not a regular file")
}
