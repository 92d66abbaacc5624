//! The directory through the standard library alone: for Windows, and tested on every system.
//!
//! Files inherit the permissions of their directory. How a new file gets a name that nothing else has, and how that becomes durable, stands in `portable/`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{Children, Detail, Disk, FoundFile, is_ours, split, with_temporary_name};
use crate::time::Timestamp;

#[cfg(not(windows))]
mod linked;
#[cfg(windows)]
mod moved;

#[cfg(not(windows))]
use linked::{Publisher, sync_directory, system_path};
#[cfg(windows)]
use moved::{Publisher, sync_directory, system_path};

/// The root of a store.
#[derive(Debug)]
pub(super) struct PortableDisk {
    root: PathBuf,
    publisher: Publisher,
}

impl PortableDisk {
    /// Opens the root.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let disk = Self { root: system_path(path), publisher: Publisher::new() };
        disk.confirm()?;
        Ok(disk)
    }

    /// Makes the root and its missing parents.
    #[cfg_attr(unix, expect(dead_code, reason = "compiled on Unix for its tests only"))]
    pub(super) fn create_root(path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    /// A disk that believes its file system to lack hard links.
    #[cfg(all(test, not(windows)))]
    pub(super) fn open_limited(path: &Path) -> io::Result<Self> {
        Ok(Self { publisher: Publisher::limited(), ..Self::open(path)? })
    }

    /// What stands in the way of a name is no absence, though Windows says so of a path that leads through a file.
    fn told(&self, name: &str, error: io::Error) -> io::Error {
        let leads_through_file = || {
            let mut folders = name.match_indices('/').map(|(at, _)| self.resolve(name.get(..at).unwrap_or_default()));
            folders.any(|folder| fs::symlink_metadata(folder).is_ok_and(|meta| !meta.is_dir()))
        };
        if error.kind() == io::ErrorKind::NotFound && leads_through_file() { io::ErrorKind::NotADirectory.into() } else { error }
    }

    fn resolve(&self, name: &str) -> PathBuf {
        let mut path = self.root.clone();
        path.extend(name.split_terminator('/'));
        path
    }
}

impl Disk for PortableDisk {
    fn open_file(&self, name: &str) -> io::Result<(File, u64)> {
        let path = self.resolve(name);
        // Looked at before opening: a device or pipe must not be opened at all.
        if !fs::symlink_metadata(&path).map_err(|error| self.told(name, error))?.is_file() {
            return Err(not_a_file());
        }
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        Ok((file, size))
    }

    fn read_at(&self, file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length)?;
        bytes.resize(length, 0);
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let position = offset.saturating_add(u64::try_from(filled).unwrap_or(u64::MAX));
            match read_some(file, rest, position) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    fn stat(&self, name: &str) -> io::Result<FoundFile> {
        let meta = fs::symlink_metadata(self.resolve(name)).map_err(|error| self.told(name, error))?;
        if !meta.is_file() {
            return Err(not_a_file());
        }
        Ok(found_file(split(name).1.to_owned(), &meta))
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (parent, name) = split(name);
        let directory = self.resolve(parent);
        // Not `create_dir_all` from the top: a root that is gone must not be made anew.
        self.confirm()?;
        fs::create_dir_all(&directory).map_err(|error| match error.kind() {
            // A file where a directory must be is not the object that exists already.
            io::ErrorKind::AlreadyExists => io::ErrorKind::NotADirectory.into(),
            _ => error,
        })?;
        let create = |name: &str| OpenOptions::new().write(true).create_new(true).open(directory.join(name));
        let (temporary, mut file) = with_temporary_name(create)?;
        let temporary = directory.join(temporary);
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        let result = written.and_then(|()| self.publisher.publish(file, &temporary, &directory.join(name)));
        if result.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        result
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.resolve(name)).map_err(|error| match error.kind() {
            // So says Windows of a directory.
            io::ErrorKind::PermissionDenied if self.stat(name).is_err_and(|why| why.kind() == io::ErrorKind::Other) => not_a_file(),
            _ => self.told(name, error),
        })
    }

    fn sync(&self, directory: &str) -> io::Result<()> {
        sync_directory(&self.resolve(directory))
    }

    fn children(&self, directory: &str, _detail: Detail) -> io::Result<Children> {
        let mut children = Children::default();
        let name = directory;
        let directory = self.resolve(name);
        if !fs::symlink_metadata(&directory).map_err(|error| self.told(name, error))?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !is_ours(&name) {
                continue;
            }
            match entry.metadata() {
                // Deleted since.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
                Ok(meta) if meta.is_dir() => children.directories.push(name),
                Ok(meta) if meta.is_file() => children.files.push(found_file(name, &meta)),
                Ok(_) => {}
            }
        }
        Ok(children)
    }

    fn time(&self) -> io::Result<Option<Timestamp>> {
        let create = |name: &str| OpenOptions::new().write(true).create_new(true).open(self.root.join(name));
        let (name, mut file) = with_temporary_name(create)?;
        let time = file.write_all(b"clock").and_then(|()| file.sync_all()).and_then(|()| file.metadata()?.modified());
        drop(file);
        let _ = fs::remove_file(self.root.join(name));
        Ok(Some(time?.into()))
    }

    fn confirm(&self) -> io::Result<()> {
        if fs::metadata(&self.root)?.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) }
    }

    fn is_exclusive(&self) -> bool {
        self.publisher.is_exclusive()
    }
}

/// At a position of its own, whatever other threads do with the file.
#[cfg(windows)]
fn read_some(file: &File, bytes: &mut [u8], position: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, bytes, position)
}

#[cfg(unix)]
fn read_some(file: &File, bytes: &mut [u8], position: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, bytes, position)
}

fn found_file(name: String, meta: &fs::Metadata) -> FoundFile {
    FoundFile { name, size: meta.len(), modified: meta.modified().ok().map(Into::into) }
}

fn not_a_file() -> io::Error {
    io::Error::other("not a regular file")
}
