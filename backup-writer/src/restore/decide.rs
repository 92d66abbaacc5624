//! What happens to an entry where something may stand already.
//!
//! A file that is being written has the mode [`WRITING`] until it is complete, and so has what a cut left behind: who finds such a file of his own knows that it is to be
//! continued, whatever the policy says.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};

use fs_core::crypto;
use fs_core::path::Name;
use fs_core::tree::{Entry, EntryKind};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use super::folder::{OpenFolder, is_directory};
use super::{Overwrite, Run};

/// The mode of a file that is being written: no saved file has the sticky bit and is its owner's alone.
pub(super) const WRITING: u32 = 0o1600;
/// Smaller files are written whole.
const PATCHED_MIN: u64 = 64 << 10;

/// What to do with an entry.
#[derive(Debug)]
pub(super) enum Decision {
    /// Nothing is there: make it under this name.
    Make(Name),
    /// Make it beside and rename it to this name.
    Replace(Name),
    /// Write what differs into the file that has this name.
    Patch(Name, File),
}

impl Run<'_> {
    /// Decides by what stands under a name of a directory; `None` to leave it.
    pub(super) fn decide(&self, folder: &OpenFolder, name: &Name, entry: &Entry) -> Result<Option<Decision>, String> {
        let Some(directory) = folder.fd().filter(|_| !folder.is_new) else { return Ok(Some(Decision::Make(name.clone()))) };
        let Some(there) = stat(directory, name)? else { return Ok(Some(Decision::Make(name.clone()))) };
        let has_data = entry.kind == EntryKind::File && entry.size > PATCHED_MIN;
        if self.is_unfinished(&there) {
            let file = if has_data { self.open_to_patch(directory, name, entry) } else { None };
            return Ok(Some(patch_or_replace(name, file)));
        }
        let replace = match self.options.overwrite {
            Overwrite::Never => false,
            Overwrite::Always => true,
            Overwrite::Changed => !is_same(directory, name, &there, entry),
            Overwrite::Newer => entry.mtime.is_some_and(|mtime| (mtime.seconds(), i64::from(mtime.nanos())) > mtime_of(&there)),
            Overwrite::KeepBoth if is_same(directory, name, &there, entry) => false,
            Overwrite::KeepBoth => return self.decide_beside(directory, name, entry),
        };
        if !replace {
            return Ok(None);
        }
        if is_directory(there.st_mode) {
            return Err("a directory stands in its place and is left alone: move it away, or restore elsewhere".into());
        }
        // Who may write to one of several names of a file may not have meant the others.
        let is_patched = self.options.in_place && has_data && is_file(&there) && there.st_nlink == 1;
        let file = if is_patched { self.open_to_patch(directory, name, entry) } else { None };
        Ok(Some(patch_or_replace(name, file)))
    }

    /// The name beside one that is kept. What stands under it is an earlier restore of the same snapshot.
    fn decide_beside(&self, directory: BorrowedFd<'_>, name: &Name, entry: &Entry) -> Result<Option<Decision>, String> {
        let name = self.name_beside(name).ok_or("the name beside it would be too long")?;
        Ok(match stat(directory, &name)? {
            None => Some(Decision::Make(name)),
            Some(there) if is_same(directory, &name, &there, entry) => None,
            Some(_) => Some(Decision::Replace(name)),
        })
    }

    pub(super) fn name_beside(&self, name: &Name) -> Option<Name> {
        Name::new([name.as_bytes(), self.suffix.as_bytes()].concat()).ok()
    }

    /// Whether a file was being written when an earlier run was cut. Nobody else can make one that looks like it.
    pub(super) fn is_unfinished(&self, there: &Stat) -> bool {
        is_file(there) && there.st_uid == self.me.0 && there.st_nlink == 1 && there.st_mode & 0o7777 == WRITING
    }

    /// Opens a file to write the parts that differ, if it can be opened and is of nobody else than who restores or who is to have it. From here on it is marked, which
    /// it is only as one's own: where modes or owners are not kept it is not opened.
    pub(super) fn open_to_patch(&self, directory: BorrowedFd<'_>, name: &Name, entry: &Entry) -> Option<File> {
        if self.options.dry_run {
            return None;
        }
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(directory, name.as_bytes(), flags, Mode::empty()).ok()?;
        let there = rustix::fs::fstat(&fd).ok()?;
        if !is_file(&there) || there.st_nlink != 1 {
            return None;
        }
        if there.st_uid != self.me.0 {
            self.owners.of(entry).filter(|owner| owner.uid == Some(there.st_uid))?;
            rustix::fs::fchown(&fd, Some(Uid::from_raw(self.me.0)), None).ok()?;
        }
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(WRITING)).ok()?;
        if !self.is_unfinished(&rustix::fs::fstat(&fd).ok()?) {
            return None;
        }
        let file = File::from(fd);
        super::file::punch_holes(&file, entry).ok()?;
        Some(file)
    }

    /// A name beside the final one. It is the same in every run, so that what a cut left behind is found again.
    pub(super) fn temporary_name(&self, name: &Name) -> Name {
        let hash = crypto::hash(&[self.suffix.as_bytes(), name.as_bytes()].concat());
        let digits = fs_core::id::to_hex(hash.first_chunk::<8>().unwrap_or(&[0; 8]));
        Name::new(format!(".yesterdrive-{digits}").into_bytes()).expect("hexadecimal digits are a name")
    }
}

fn patch_or_replace(name: &Name, file: Option<File>) -> Decision {
    match file {
        Some(file) => Decision::Patch(name.clone(), file),
        None => Decision::Replace(name.clone()),
    }
}

/// What stands under a name, if anything.
fn stat(directory: BorrowedFd<'_>, name: &Name) -> Result<Option<Stat>, String> {
    match rustix::fs::statat(directory, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) => Ok(Some(there)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether an entry stands under a name, as far as one can see without reading it.
pub(super) fn is_there(folder: &OpenFolder, name: &Name, entry: &Entry) -> bool {
    let Some(directory) = folder.fd() else { return false };
    stat(directory, name).ok().flatten().is_some_and(|there| is_same(directory, name, &there, entry))
}

/// Whether what is there looks like what was saved: by size and time, of links also by where they lead.
fn is_same(directory: BorrowedFd<'_>, name: &Name, there: &Stat, entry: &Entry) -> bool {
    if entry.mtime.is_some_and(|mtime| (mtime.seconds(), i64::from(mtime.nanos())) != mtime_of(there)) {
        return false;
    }
    let device = || entry.device.map_or(0, |(major, minor)| rustix::fs::makedev(major, minor));
    match (entry.kind, FileType::from_raw_mode(there.st_mode)) {
        (EntryKind::File, FileType::RegularFile) => u64::try_from(there.st_size) == Ok(entry.size),
        (EntryKind::Symlink, FileType::Symlink) => {
            let target = rustix::fs::readlinkat(directory, name.as_bytes(), Vec::new());
            target.is_ok_and(|target| Some(target.as_bytes()) == entry.target.as_deref())
        }
        (EntryKind::Fifo, FileType::Fifo) | (EntryKind::Socket, FileType::Socket) => true,
        (EntryKind::CharDevice, FileType::CharacterDevice) | (EntryKind::BlockDevice, FileType::BlockDevice) => there.st_rdev == device(),
        _ => false,
    }
}

fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

fn mtime_of(stat: &Stat) -> (i64, i64) {
    (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0))
}

/// Makes a file that is to be written. `None` if something has that name.
pub(super) fn make_file(directory: BorrowedFd<'_>, name: &Name) -> Result<Option<File>, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, name.as_bytes(), flags, Mode::from_raw_mode(WRITING)) {
        Ok(fd) => Ok(Some(File::from(fd))),
        Err(Errno::EXIST) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Renames within a directory.
pub(super) fn rename(directory: BorrowedFd<'_>, from: &Name, to: &Name) -> Result<(), Errno> {
    rustix::fs::renameat(directory.as_fd(), from.as_bytes(), directory, to.as_bytes())
}
