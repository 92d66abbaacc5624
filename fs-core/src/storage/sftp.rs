//! Objects in a folder of an SSH server, over SFTP (OpenSSH and what speaks like it).
//!
//! A new object is written under a temporary name, flushed (`fsync@openssh.com`) and renamed: the protocol's plain rename refuses a name that
//! exists. SFTP has no way to flush a directory, so a crash of the server may lose the newest names; a run that was told of success before the
//! crash finds out by its second look or by `check`. Requests of one call are sent together and answered in any order.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use russh_sftp::client::RawSftpSession;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};
use tokio::sync::Mutex;

use super::{
    Capabilities, OBJECT_SIZE_MAX, ObjectMeta, ObjectName, ReadStore, RemoteOptions, StoreError, WriteStore, check_bytes, lets_go_at_once,
};
use crate::id::ObjectHash;
use crate::time::Timestamp;

mod connection;
mod files;

use connection::Connection;
use files::{OpenFile, OpenFiles};

/// Bytes of one request: every server takes so many.
const PIECE: u64 = 32 << 10;
/// Requests of one call that wait for their answers.
const IN_FLIGHT: usize = 64;
/// Folders that are listed at a time.
const FOLDERS_IN_FLIGHT: usize = 16;
/// Servers keep offsets in signed numbers.
const MAX_OFFSET: u64 = i64::MAX as u64;
const TEMPORARY_PREFIX: &str = ".tmp-";

/// A folder of an SSH server.
#[derive(Debug)]
pub struct SftpStore {
    place: connection::Place,
    path: String,
    location: String,
    connection: Mutex<Option<Arc<Connection>>>,
    files: OpenFiles,
}

/// Why a call failed: told apart until the names of object and place are at hand.
enum Fault {
    NotFound,
    Denied(io::Error),
    /// The server says no more than "failure": also where a name exists or a disk is full.
    Refused(io::Error),
    Failed(io::Error),
}

impl From<SftpError> for Fault {
    fn from(error: SftpError) -> Self {
        match &error {
            SftpError::Status(status) => match status.status_code {
                StatusCode::NoSuchFile => Self::NotFound,
                StatusCode::PermissionDenied => Self::Denied(io::Error::other(error)),
                StatusCode::Failure => Self::Refused(io::Error::other(error)),
                _ => Self::Failed(io::Error::other(error)),
            },
            _ => Self::Failed(io::Error::other(error)),
        }
    }
}

impl Fault {
    fn at(self, name: &ObjectName) -> StoreError {
        match self {
            Self::NotFound => StoreError::NotFound { name: name.clone() },
            fault => fault.at_place(name.as_str()),
        }
    }

    fn at_place(self, place: &str) -> StoreError {
        let place = place.to_owned();
        match self {
            Self::Denied(source) => StoreError::Denied { place, source },
            Self::Refused(source) | Self::Failed(source) => StoreError::Failed { place, source },
            Self::NotFound => StoreError::Failed { place, source: io::ErrorKind::NotFound.into() },
        }
    }
}

impl SftpStore {
    /// A folder on a server. Connects when it is first used, and again after a connection was lost.
    pub fn new(user: &str, host: &str, port: u16, path: &str, options: &RemoteOptions, location: String) -> Self {
        let place = connection::Place { user: user.into(), host: host.into(), port, options: options.clone() };
        Self { place, path: path.trim_end_matches('/').to_owned(), location, connection: Mutex::new(None), files: OpenFiles::default() }
    }

    /// Makes the folder, with those above it, if it is not there.
    ///
    /// # Errors
    /// `Denied` or `Failed`.
    pub async fn create_folder(&self) -> Result<(), StoreError> {
        let connection = self.connect().await?;
        self.make_folders(&connection.sftp, &self.path).await.map_err(|fault| fault.at_place(&self.location))
    }

    async fn connect(&self) -> Result<Arc<Connection>, StoreError> {
        let mut current = self.connection.lock().await;
        if let Some(connection) = current.as_ref().filter(|connection| connection.is_alive()) {
            return Ok(Arc::clone(connection));
        }
        let connection = Arc::new(connection::open(&self.place, &self.location).await?);
        *current = Some(Arc::clone(&connection));
        Ok(connection)
    }

    fn path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    async fn make_folders(&self, sftp: &RawSftpSession, path: &str) -> Result<(), Fault> {
        let ends = path.match_indices('/').map(|(at, _)| at).filter(|&at| at > 0).chain([path.len()]);
        // The deepest that is there is found from below: nearly always the last one is.
        let ends: Vec<_> = ends.collect();
        let mut missing = ends.len();
        while let Some(&end) = missing.checked_sub(1).and_then(|at| ends.get(at)) {
            match sftp.stat(path.get(..end).unwrap_or(path)).await {
                Ok(_) => break,
                Err(error) => match Fault::from(error) {
                    Fault::NotFound => missing -= 1,
                    fault => return Err(fault),
                },
            }
        }
        for &end in ends.iter().skip(missing) {
            let folder = path.get(..end).unwrap_or(path);
            if let Err(error) = sftp.mkdir(folder, FileAttributes::empty()).await {
                // Another writer may have made it.
                if sftp.stat(folder).await.is_err() {
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// Reads a range of an open file, exactly; `None` if it ends before.
    async fn read(sftp: &RawSftpSession, handle: &str, range: Range<u64>) -> Result<Option<Bytes>, Fault> {
        let starts = (range.start..range.end).step_by(usize::try_from(PIECE).unwrap_or(1));
        let pieces = stream::iter(starts.map(|start| Self::read_piece(sftp, handle, start..range.end.min(start.saturating_add(PIECE)))));
        let mut bytes = BytesMut::with_capacity(usize::try_from(range.end - range.start).unwrap_or(0));
        let mut pieces = pieces.buffered(IN_FLIGHT);
        while let Some(piece) = pieces.next().await {
            match piece? {
                Some(piece) => bytes.extend_from_slice(&piece),
                None => return Ok(None),
            }
        }
        Ok(Some(bytes.freeze()))
    }

    /// A server may return less than was asked for; only at the end of the file it says so.
    async fn read_piece(sftp: &RawSftpSession, handle: &str, range: Range<u64>) -> Result<Option<Vec<u8>>, Fault> {
        let mut bytes = Vec::new();
        loop {
            let at = range.start + bytes.len() as u64;
            if at >= range.end {
                return Ok(Some(bytes));
            }
            match sftp.read(handle, at, u32::try_from(range.end - at).unwrap_or(u32::MAX)).await {
                Ok(data) if data.data.is_empty() => return Ok(None),
                Ok(data) => bytes.extend_from_slice(&data.data),
                Err(SftpError::Status(status)) if status.status_code == StatusCode::Eof => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Opens an object for reading.
    async fn open_file(&self, name: &ObjectName) -> Result<Arc<OpenFile>, StoreError> {
        let connection = self.connect().await?;
        if let Some(file) = self.files.get(&connection, name) {
            return Ok(file);
        }
        let opened = connection.sftp.open(self.path_of(name.as_str()), OpenFlags::READ, FileAttributes::empty()).await;
        match opened {
            Ok(opened) => Ok(Arc::new(OpenFile { connection, handle: opened.handle })),
            Err(error) => Err(self.missing(&connection.sftp, name, error.into()).await),
        }
    }

    /// "No such file" about an object is believed only where its store is there.
    async fn missing(&self, sftp: &RawSftpSession, name: &ObjectName, fault: Fault) -> StoreError {
        match fault {
            Fault::NotFound => match sftp.stat(&self.path).await {
                Ok(_) => StoreError::NotFound { name: name.clone() },
                Err(error) => Fault::from(error).at_place(&self.location),
            },
            fault => fault.at(name),
        }
    }

    async fn write(&self, sftp: &RawSftpSession, temporary: &str, bytes: &Bytes) -> Result<(), Fault> {
        let flags = OpenFlags::CREATE | OpenFlags::EXCLUDE | OpenFlags::WRITE;
        let handle = sftp.open(temporary, flags, FileAttributes::empty()).await?.handle;
        let piece = usize::try_from(PIECE).unwrap_or(1);
        let starts = (0..bytes.len()).step_by(piece);
        let write = |start: usize| {
            let part = bytes.slice(start..bytes.len().min(start + piece)).to_vec();
            let handle = handle.clone();
            async move { sftp.write(handle, start as u64, part).await }
        };
        let written = stream::iter(starts.map(write)).buffer_unordered(IN_FLIGHT).try_for_each(|_| async { Ok(()) }).await;
        let flushed = match written {
            Ok(()) => match sftp.fsync(handle.clone()).await {
                Err(SftpError::Status(status)) if status.status_code == StatusCode::OpUnsupported => Ok(()),
                flushed => flushed.map(drop),
            },
            Err(error) => Err(error),
        };
        let closed = sftp.close(handle).await;
        flushed?;
        closed?;
        Ok(())
    }

    /// Everything below a folder, `path` relative to the store and empty or ending with a slash.
    fn walk<'a>(
        &'a self,
        sftp: &'a RawSftpSession,
        path: String,
        after: Option<&'a ObjectName>,
    ) -> BoxFuture<'a, Result<Vec<ObjectMeta>, Fault>> {
        Box::pin(async move {
            let (mut objects, mut folders) = (Vec::new(), Vec::new());
            for file in Self::read_folder(sftp, &format!("{}/{path}", self.path)).await? {
                let whole = format!("{path}{}", file.0);
                let Some(name) = ObjectName::parse(&whole) else { continue };
                if file.1.is_dir() {
                    let folder = format!("{whole}/");
                    // Names greater than `after` may still be in the folder that `after` is in.
                    if after.is_none_or(|after| after.as_str().starts_with(&folder) || *folder > *after.as_str()) {
                        folders.push(folder);
                    }
                } else if after.is_none_or(|after| name > *after) {
                    objects.push(meta(name, &file.1));
                }
            }
            let below = stream::iter(folders.into_iter().map(|folder| self.walk(sftp, folder, after))).buffer_unordered(FOLDERS_IN_FLIGHT);
            objects.extend(below.try_collect::<Vec<_>>().await?.into_iter().flatten());
            Ok(objects)
        })
    }

    /// Names and attributes in a folder; a folder that vanished meanwhile is empty.
    async fn read_folder(sftp: &RawSftpSession, path: &str) -> Result<Vec<(String, FileAttributes)>, Fault> {
        let handle = match sftp.opendir(path.trim_end_matches('/')).await.map_err(Fault::from) {
            Ok(opened) => opened.handle,
            Err(Fault::NotFound) => return Ok(Vec::new()),
            Err(fault) => return Err(fault),
        };
        let mut found = Vec::new();
        let result = loop {
            match sftp.readdir(handle.clone()).await {
                Ok(names) => found.extend(names.files.into_iter().map(|file| (file.filename, file.attrs))),
                Err(SftpError::Status(status)) if status.status_code == StatusCode::Eof => break Ok(found),
                Err(error) => break Err(error.into()),
            }
        };
        let _ = sftp.close(handle).await;
        result
    }
}

fn meta(name: ObjectName, attributes: &FileAttributes) -> ObjectMeta {
    let modified = attributes.mtime.and_then(|seconds| Timestamp::new(seconds.into(), 0));
    ObjectMeta { name, size: attributes.size.unwrap_or(0), modified }
}

#[async_trait]
impl ReadStore for SftpStore {
    async fn get(&self, name: &ObjectName) -> Result<Bytes, StoreError> {
        let file = self.open_file(name).await?;
        match read_whole(&file.connection.sftp, &file.handle).await.map_err(|fault| fault.at(name))? {
            (_, Some(bytes)) => Ok(bytes),
            (size, None) => Err(StoreError::WrongSize { name: name.clone(), size }),
        }
    }

    async fn get_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, StoreError> {
        // No object is so long that more than the limit could be read of it at once.
        let bytes = if range.start >= range.end || range.end > MAX_OFFSET || range.end - range.start > OBJECT_SIZE_MAX {
            None
        } else {
            let file = self.open_file(name).await?;
            // Whoever reads a part of an object will read others.
            self.files.keep(name, &file);
            Self::read(&file.connection.sftp, &file.handle, range.clone()).await.map_err(|fault| {
                self.files.forget(name);
                fault.at(name)
            })?
        };
        match bytes {
            Some(bytes) => Ok(bytes),
            None => match self.stat(name).await?.size {
                size if range.start == range.end && range.end <= size => Ok(Bytes::new()),
                size => Err(StoreError::WrongSize { name: name.clone(), size }),
            },
        }
    }

    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        let connection = self.connect().await?;
        match connection.sftp.lstat(self.path_of(name.as_str())).await {
            Ok(found) if found.attrs.is_dir() => Err(StoreError::NotFound { name: name.clone() }),
            Ok(found) => Ok(meta(name.clone(), &found.attrs)),
            Err(error) => Err(self.missing(&connection.sftp, name, error.into()).await),
        }
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>) -> Result<Vec<ObjectMeta>, StoreError> {
        self.files.forget_all();
        let connection = self.connect().await?;
        let sftp = &connection.sftp;
        let failed = |fault: Fault| fault.at_place(if prefix.is_empty() { &self.location } else { prefix });
        sftp.stat(&self.path).await.map_err(|error| Fault::from(error).at_place(&self.location))?;
        let mut found = self.walk(sftp, prefix.to_owned(), after).await.map_err(failed)?;
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// The time of a file that is made for it; none where nothing can be written.
    async fn server_time(&self) -> Result<Option<Timestamp>, StoreError> {
        let connection = self.connect().await?;
        let temporary = self.path_of(&temporary_name());
        let attributes = match self.write(&connection.sftp, &temporary, &Bytes::from_static(b"clock")).await {
            Ok(()) => connection.sftp.stat(&temporary).await,
            Err(Fault::Denied(_)) => return Ok(None),
            Err(fault) => return Err(fault.at_place(&self.location)),
        };
        let _ = connection.sftp.remove(&temporary).await;
        let attributes = attributes.map_err(|error| Fault::from(error).at_place(&self.location))?;
        Ok(attributes.attrs.mtime.and_then(|seconds| Timestamp::new(seconds.into(), 0)))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { create_only: true, verifies_checksum: true, deletes: true, retention: None }
    }

    fn location(&self) -> String {
        self.location.clone()
    }
}

async fn read_whole(sftp: &RawSftpSession, handle: &str) -> Result<(u64, Option<Bytes>), Fault> {
    let size = sftp.fstat(handle).await?.attrs.size.unwrap_or(0);
    if size > OBJECT_SIZE_MAX {
        return Ok((size, None));
    }
    if size == 0 {
        return Ok((0, Some(Bytes::new())));
    }
    Ok((size, SftpStore::read(sftp, handle, 0..size).await?))
}

#[async_trait]
impl WriteStore for SftpStore {
    async fn put_new(&self, name: &ObjectName, bytes: Bytes, checksum: &ObjectHash) -> Result<(), StoreError> {
        check_bytes(name, &bytes, checksum)?;
        let connection = self.connect().await?;
        let (sftp, target) = (&connection.sftp, self.path_of(name.as_str()));
        let folder = target.rsplit_once('/').map_or(&*self.path, |(folder, _)| folder);
        let temporary = format!("{folder}/{}", temporary_name());
        let mut written = self.write(sftp, &temporary, &bytes).await;
        if matches!(written, Err(Fault::NotFound)) {
            // The folder of the object is missing; that of the store must be there.
            sftp.stat(&self.path).await.map_err(|error| Fault::from(error).at_place(&self.location))?;
            self.make_folders(sftp, folder).await.map_err(|fault| fault.at_place(folder))?;
            written = self.write(sftp, &temporary, &bytes).await;
        }
        let renamed = match written {
            Ok(()) => sftp.rename(&temporary, &target).await.map(drop).map_err(Fault::from),
            Err(fault) => Err(fault),
        };
        let Err(fault) = renamed else { return Ok(()) };
        let _ = sftp.remove(&temporary).await;
        match fault {
            Fault::Refused(source) if sftp.lstat(&target).await.is_ok() => {
                drop(source);
                Err(StoreError::AlreadyExists { name: name.clone() })
            }
            fault => Err(fault.at_place(name.as_str())),
        }
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.files.forget(name);
        let connection = self.connect().await?;
        match connection.sftp.remove(self.path_of(name.as_str())).await.map_err(Fault::from) {
            Ok(_) => Ok(()),
            Err(fault) => match self.missing(&connection.sftp, name, fault).await {
                StoreError::NotFound { .. } => Ok(()),
                error => Err(error),
            },
        }
    }

    async fn retain(&self, name: &ObjectName, _until: Timestamp) -> Result<(), StoreError> {
        Err(lets_go_at_once(name))
    }

    fn as_read(self: Arc<Self>) -> Arc<dyn ReadStore> {
        self
    }
}

/// The dot keeps it from being an object name.
fn temporary_name() -> String {
    format!("{TEMPORARY_PREFIX}{}", super::random_digits())
}
