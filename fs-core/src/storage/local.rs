//! Objects in a directory, on this machine or on a NAS: one file per object, its path is its name.
//!
//! A new object is written under a temporary name beside its place, made durable, and only then given its name, so a crash leaves at
//! most a temporary file, which no listing shows and [`LocalStore::sweep_temporary`] removes. The directory is opened once and held:
//! should the NAS be unmounted under us, the empty mount point left behind must not pass for an empty store.
//! Files of which parts are read are held open for a while (`opened.rs`): they may be read to the next listing though they are deleted or the NAS is gone.
//! Symbolic links below the root are never followed. Deletions are durable when they are reported, and so is what a listing shows or lacks: whoever
//! listed it may have been preceded by one who died.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Capabilities, ListedNames, OBJECT_NAME_LENGTH_MAX, OBJECT_SIZE_MAX, ObjectMeta, ObjectName, ReadStore, StoreError, WriteStore,
    lets_go_at_once,
};
use crate::id::ObjectHash;
use crate::time::Timestamp;

mod opened;
#[cfg(any(not(unix), test))]
mod portable;
pub mod strangers;
#[cfg(unix)]
mod unix;

use opened::OpenedFiles;
#[cfg(not(unix))]
use portable::PortableDisk as SystemDisk;
#[cfg(unix)]
use unix::UnixDisk as SystemDisk;

/// How a temporary name begins; the dot keeps it from being an object name.
const TEMPORARY_PREFIX: &str = ".tmp-";

/// Hexadecimal digits after [`TEMPORARY_PREFIX`].
const TEMPORARY_DIGITS: usize = 16;

/// How many temporary names are tried before giving up; they are random, so a second try is already a curiosity.
const TEMPORARY_ATTEMPTS: usize = 8;

/// What file systems and NAS boxes put into an empty directory on their own.
const HOUSEKEEPING: [&str; 8] =
    ["lost+found", "System Volume Information", "$RECYCLE.BIN", "#recycle", "@eaDir", ".snapshot", ".DS_Store", ".Trashes"];

/// A store in a directory.
#[derive(Debug)]
pub struct LocalStore {
    path: PathBuf,
    disk: Box<dyn Disk>,
    opened: OpenedFiles,
    /// Directories from which something was deleted that is not durable yet.
    deleted_from: Mutex<HashSet<String>>,
}

impl LocalStore {
    /// Opens a directory that exists. Writes nothing.
    ///
    /// # Errors
    /// `Denied` or `Failed` if it is missing, no directory, or not accessible.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let open = || {
            let path = std::path::absolute(path)?;
            let disk = SystemDisk::open(&path)?;
            Ok((path, disk))
        };
        let (path, disk) = open().map_err(|error| failure(path.display(), error))?;
        Ok(Self { path, disk: Box::new(disk), opened: OpenedFiles::new(), deleted_from: Mutex::default() })
    }

    /// Creates a directory for a new store, for its owner only and together with missing parents, or takes one that exists and is empty.
    ///
    /// # Errors
    /// `Failed` with [`io::ErrorKind::DirectoryNotEmpty`] if anything is in it, apart from what file systems put there themselves.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref();
        SystemDisk::create_root(path).and_then(|()| refuse_contents(path)).map_err(|error| failure(path.display(), error))?;
        Self::open(path)
    }

    /// Removes temporary files that crashed writers left behind and nobody has touched since `before`; returns how many.
    ///
    /// `before` must lie well before any write that may still be running, on this machine or another one.
    ///
    /// # Errors
    /// If the directory cannot be listed or a file cannot be removed.
    pub fn sweep_temporary(&self, before: Timestamp) -> Result<u64, StoreError> {
        let mut old = Vec::new();
        let mut collect = |directory: &str, file: FoundFile| {
            if is_temporary(&file.name) && file.modified.is_some_and(|modified| modified < before) {
                old.push(format!("{directory}{}", file.name));
            }
        };
        self.walk("", Detail::Full, &|_| true, &mut collect).map_err(|error| failure(self.path.display(), error))?;
        let mut count = 0;
        for file in old {
            match self.disk.remove(&file) {
                Ok(()) => count += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failure(file, error)),
            }
        }
        Ok(count)
    }

    /// Visits every file of ours below `directory` (empty or ending with `/`), entering the directories that `enter` admits.
    /// A directory that is missing is empty. The depth is bounded by the length of object names.
    fn walk(
        &self,
        directory: &str,
        detail: Detail,
        enter: &dyn Fn(&str) -> bool,
        visit: &mut dyn FnMut(&str, FoundFile),
    ) -> io::Result<()> {
        let found = match self.disk.children(directory, detail) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        for file in found.files {
            visit(directory, file);
        }
        for name in found.directories {
            let path = format!("{directory}{name}/");
            if path.len() < OBJECT_NAME_LENGTH_MAX && enter(&path) {
                self.walk(&path, detail, enter, visit)?;
            }
        }
        Ok(())
    }

    fn list_files(&self, prefix: &str, after: Option<&ObjectName>, detail: Detail) -> Result<Vec<ObjectMeta>, StoreError> {
        if !is_prefix(prefix) {
            return Err(failure(prefix, io::ErrorKind::InvalidInput.into()));
        }
        self.opened.drop_all();
        // A directory is left out if `after` is greater than every name in it.
        let enter = |directory: &str| after.is_none_or(|after| after.as_str() < directory || after.as_str().starts_with(directory));
        let mut objects = Vec::new();
        let mut collect = |directory: &str, file: FoundFile| {
            let name = ObjectName::parse(&format!("{directory}{}", file.name));
            if let Some(name) = name.filter(|name| after.is_none_or(|after| name > after)) {
                objects.push(ObjectMeta { name, size: file.size, modified: file.modified });
            }
        };
        self.walk(prefix, detail, &enter, &mut collect).map_err(|error| failure(self.place_of(prefix), error))?;
        self.disk.confirm().map_err(|error| failure(self.path.display(), error))?;
        // Not the order in which a tree is walked: "a-b/x" comes before "a/x".
        objects.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(objects)
    }

    /// Judges a failed call on one object: "not there" is believed only while the store itself is there.
    fn object_failure(&self, name: &ObjectName, error: io::Error) -> StoreError {
        if error.kind() != io::ErrorKind::NotFound {
            return failure(name, error);
        }
        match self.disk.confirm() {
            Ok(()) => StoreError::NotFound { name: name.clone() },
            Err(error) => failure(self.path.display(), error),
        }
    }

    fn open_object(&self, name: &ObjectName) -> Result<(File, u64), StoreError> {
        self.disk.open_file(name.as_str()).map_err(|error| self.object_failure(name, error))
    }

    fn read_range(&self, name: &ObjectName, file: &File, size: u64, range: &Range<u64>) -> Result<Bytes, StoreError> {
        match range.end.checked_sub(range.start) {
            Some(length) if range.end <= size && length <= OBJECT_SIZE_MAX => self.read_exactly(name, file, range.start, length),
            _ => Err(StoreError::WrongSize { name: name.clone(), size }),
        }
    }

    fn read_exactly(&self, name: &ObjectName, file: &File, offset: u64, length: u64) -> Result<Bytes, StoreError> {
        let too_long = |_| failure(name, io::ErrorKind::FileTooLarge.into());
        let length = usize::try_from(length).map_err(too_long)?;
        let bytes = self.disk.read_at(file, offset, length).map_err(|error| failure(name, error))?;
        if bytes.len() < length {
            // Somebody cut the file since we asked for its size.
            let rest = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            return Err(StoreError::WrongSize { name: name.clone(), size: offset.saturating_add(rest) });
        }
        Ok(bytes.into())
    }
}

#[async_trait]
impl ReadStore for LocalStore {
    async fn get(&self, name: &ObjectName) -> Result<Bytes, StoreError> {
        let (file, size) = self.open_object(name)?;
        if size > OBJECT_SIZE_MAX {
            return Err(StoreError::WrongSize { name: name.clone(), size });
        }
        self.read_exactly(name, &file, 0, size)
    }

    async fn get_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, StoreError> {
        if let Some((file, size)) = self.opened.get(name) {
            match self.read_range(name, &file, size, &range) {
                Ok(bytes) => return Ok(bytes),
                Err(_) => self.opened.drop_file(name),
            }
        }
        let (file, size) = self.open_object(name)?;
        let file = Arc::new(file);
        let bytes = self.read_range(name, &file, size, &range)?;
        self.opened.put(name, &file, size);
        Ok(bytes)
    }

    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        let file = self.disk.stat(name.as_str()).map_err(|error| self.object_failure(name, error))?;
        Ok(ObjectMeta { name: name.clone(), size: file.size, modified: file.modified })
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>) -> Result<Vec<ObjectMeta>, StoreError> {
        self.list_files(prefix, after, Detail::Full)
    }

    /// Spares asking for every file.
    async fn list_names(&self, prefix: &str) -> ListedNames {
        Ok(self.list_files(prefix, None, Detail::Name)?.into_iter().map(|meta| (meta.name, None)).collect())
    }

    /// The time of a file that is made for it, by the clock of the file system: on a NAS the server's. None where nothing can be written.
    async fn server_time(&self) -> Result<Option<Timestamp>, StoreError> {
        match self.disk.time() {
            Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => Ok(None),
            time => time.map_err(|error| failure(self.path.display(), error)),
        }
    }

    /// Create-only unless the file system has turned out to know neither an exclusive rename nor hard links.
    fn capabilities(&self) -> Capabilities {
        Capabilities { create_only: self.disk.is_exclusive(), verifies_checksum: false, deletes: true, retention: None }
    }

    fn location(&self) -> String {
        self.path.display().to_string()
    }
}

#[async_trait]
impl WriteStore for LocalStore {
    async fn put_new(&self, name: &ObjectName, bytes: Bytes, _checksum: &ObjectHash) -> Result<(), StoreError> {
        self.disk.put_new(name.as_str(), &bytes).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => StoreError::AlreadyExists { name: name.clone() },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { name: name.clone() },
            _ => failure(name, error),
        })
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.opened.drop_file(name);
        let deleted_from = || self.deleted_from.lock().unwrap_or_else(PoisonError::into_inner);
        let (directory, _) = split(name.as_str());
        match self.disk.remove(name.as_str()).map_err(|error| self.object_failure(name, error)) {
            Err(StoreError::NotFound { .. }) => return Ok(()),
            result => result?,
        }
        deleted_from().insert(directory.to_owned());
        // Who deletes several things at a time waits for the disk once: the others go before this one is made durable.
        tokio::task::yield_now().await;
        if !deleted_from().remove(directory) {
            return Ok(());
        }
        self.disk.sync(directory).map_err(|error| failure(name, error))
    }

    async fn retain(&self, name: &ObjectName, _until: Timestamp) -> Result<(), StoreError> {
        Err(lets_go_at_once(name))
    }

    fn as_read(self: Arc<Self>) -> Arc<dyn ReadStore> {
        self
    }
}

impl LocalStore {
    fn place_of(&self, prefix: &str) -> String {
        if prefix.is_empty() { self.location() } else { prefix.to_owned() }
    }
}

/// What the store needs of the system. Names are object names or temporary ones below the root; errors are the system's own.
trait Disk: Send + Sync + fmt::Debug {
    /// Opens a regular file for reading; its size in bytes.
    fn open_file(&self, name: &str) -> io::Result<(File, u64)>;

    /// Reads `length` bytes at `offset`; fewer only if the file ends before. Several threads may read one file.
    fn read_at(&self, file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>>;

    /// Looks at a regular file.
    fn stat(&self, name: &str) -> io::Result<FoundFile>;

    /// Writes a new file durably; `AlreadyExists` if the name is taken.
    fn put_new(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Removes a file, which is durable after `sync`.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes durable what was removed from a directory (empty or ending with `/`).
    fn sync(&self, directory: &str) -> io::Result<()>;

    /// The files and directories in a directory (empty or ending with `/`) whose names may be ours, in any order. They are durable.
    fn children(&self, directory: &str, detail: Detail) -> io::Result<Children>;

    /// The time that a new file gets.
    fn time(&self) -> io::Result<Option<Timestamp>>;

    /// Makes sure that the root is still there and still the same directory.
    fn confirm(&self) -> io::Result<()>;

    /// Whether `put_new` refuses an existing name also under a race with other machines, as far as is known.
    fn is_exclusive(&self) -> bool;
}

/// What is wanted of each file in a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Detail {
    /// Size and time too.
    Full,
    /// The name; size and time may be missing.
    Name,
}

/// What is in one directory.
#[derive(Debug, Default)]
struct Children {
    files: Vec<FoundFile>,
    directories: Vec<String>,
}

/// One regular file.
#[derive(Debug)]
struct FoundFile {
    /// Its name within its directory.
    name: String,
    size: u64,
    modified: Option<Timestamp>,
}

/// Whether a file or directory of that name can be ours.
fn is_ours(name: &str) -> bool {
    ObjectName::is_valid(name) || is_temporary(name)
}

fn is_temporary(name: &str) -> bool {
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    name.strip_prefix(TEMPORARY_PREFIX).is_some_and(|digits| digits.len() == TEMPORARY_DIGITS && digits.bytes().all(is_digit))
}

/// A temporary name that very likely nobody uses. The hash map's seed is random enough: a collision is noticed and only costs another try.
fn temporary_name() -> String {
    let number = RandomState::new().build_hasher().finish();
    format!("{TEMPORARY_PREFIX}{number:0width$x}", width = TEMPORARY_DIGITS)
}

/// Tries temporary names until `create` does not find its name taken.
fn with_temporary_name<T>(create: impl Fn(&str) -> io::Result<T>) -> io::Result<(String, T)> {
    for _ in 0..TEMPORARY_ATTEMPTS {
        let name = temporary_name();
        match create(&name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => return result.map(|made| (name, made)),
        }
    }
    Err(io::Error::other("no temporary name is free"))
}

/// Splits a name into its directory (empty or ending with `/`) and the rest.
fn split(name: &str) -> (&str, &str) {
    name.split_at(name.rfind('/').map_or(0, |slash| slash + 1))
}

fn is_prefix(prefix: &str) -> bool {
    prefix.is_empty() || prefix.strip_suffix('/').is_some_and(|directory| ObjectName::parse(directory).is_some())
}

fn refuse_contents(path: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let name = entry?.file_name();
        if !HOUSEKEEPING.iter().any(|harmless| name == *harmless) {
            let text = format!("the directory is not empty: it holds {}", name.display());
            return Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, text));
        }
    }
    Ok(())
}

fn failure(place: impl fmt::Display, source: io::Error) -> StoreError {
    let place = place.to_string();
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StoreError::Denied { place, source },
        _ => StoreError::Failed { place, source },
    }
}

#[cfg(test)]
mod tests;
