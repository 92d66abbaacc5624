//! Opening what a command works on.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

use fs_core::path::TreePath;
use fs_core::repository::{OpenOptions, Repository};
use fs_core::snapshot::Snapshot;
use fs_core::snapshot::select::{Filter, select};
use fs_core::storage::local::LocalStore;
use fs_core::storage::{StoreError, WriteStore};

use crate::args::{Global, Select};
use crate::error::{Exit, Failure};
use crate::secret;

/// The path of the repository.
pub(crate) fn location(global: &Global) -> Result<PathBuf, Failure> {
    let text = global
        .repository
        .as_deref()
        .ok_or_else(|| Failure::new(Exit::Usage, "no repository was named").hint("use --repository PATH or set YESTERDRIVE_REPOSITORY"))?;
    if text.contains("://") {
        let message = format!("{text}: this version stores in folders only; S3, Azure, SFTP and WebDAV follow");
        return Err(Failure::new(Exit::Usage, message));
    }
    Ok(PathBuf::from(text))
}

/// The store, for reading and writing.
pub(crate) fn store(global: &Global) -> Result<Arc<dyn WriteStore>, Failure> {
    let path = location(global)?;
    match LocalStore::open(&path) {
        Ok(store) => Ok(Arc::new(store)),
        Err(error @ StoreError::Denied { .. }) => Err(error.into()),
        Err(_) if !path.is_dir() => Err(Failure::new(Exit::Unreachable, format!("there is no folder {}", path.display()))
            .hint("check the path, attach the disk, or create a repository with 'yesterdrive init'")),
        Err(error) => Err(error.into()),
    }
}

/// The open repository with its store.
pub(crate) fn open(global: &Global) -> Result<(Arc<Repository>, Arc<dyn WriteStore>), Failure> {
    let store = store(global)?;
    let credential = secret::credential(global)?;
    let repository = Repository::open(Arc::clone(&store).as_read(), &credential, &OpenOptions::default())?;
    Ok((Arc::new(repository), store))
}

/// Where this machine keeps what it remembers of a repository; `None` without a home.
pub(crate) fn state(global: &Global, repository: &Repository) -> Option<PathBuf> {
    Some(global.cache_dir.as_ref()?.join(repository.id().to_string()))
}

/// The snapshot that `wanted` names.
pub(crate) fn snapshot(repository: &Repository, wanted: &str, narrow: &Select) -> Result<Snapshot, Failure> {
    Ok(select(&repository.snapshots()?, wanted, &filter(narrow))?.clone())
}

/// The flags as a filter.
pub(crate) fn filter(narrow: &Select) -> Filter {
    Filter { host: narrow.host.clone(), set: narrow.set.clone(), tag: narrow.tag.clone() }
}

/// `SNAPSHOT[:PATH]`: which snapshot, and what of it.
pub(crate) fn parse_what(what: &OsStr) -> Result<(String, TreePath), Failure> {
    let wrong = |reason: String| Failure::new(Exit::Usage, format!("{}: {reason}", what.to_string_lossy()));
    let bytes = what.as_encoded_bytes();
    let colon = bytes.iter().position(|&byte| byte == b':').unwrap_or(bytes.len());
    let (snapshot, path) = bytes.split_at(colon);
    let snapshot = std::str::from_utf8(snapshot).map_err(|_| wrong("a snapshot's id is hexadecimal".into()))?;
    let path = TreePath::parse(path.strip_prefix(b":").unwrap_or_default()).map_err(|error| wrong(error.to_string()))?;
    Ok((snapshot.to_owned(), path))
}
