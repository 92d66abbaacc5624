//! Opening what a command works on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    Some(cache_folder(global)?.join(repository.id().to_string()))
}

/// Where this machine keeps what it remembers of all repositories.
pub(crate) fn cache_folder(global: &Global) -> Option<PathBuf> {
    let absolute = |path: &PathBuf| path.is_absolute().then(|| path.join("yesterdrive"));
    let system = || global.system_cache_dir.as_ref().and_then(absolute);
    let home = || global.home.as_ref().map(|home| home.join(".cache/yesterdrive"));
    global.cache_dir.clone().or_else(system).or_else(home)
}

/// The snapshot that `wanted` names.
pub(crate) fn snapshot(repository: &Repository, wanted: &str, narrow: &Select) -> Result<Snapshot, Failure> {
    Ok(select(&repository.snapshots()?, wanted, &filter(narrow))?.clone())
}

/// The flags as a filter.
pub(crate) fn filter(narrow: &Select) -> Filter {
    Filter { host: narrow.host.clone(), set: narrow.set.clone(), tag: narrow.tag.clone() }
}

/// The bytes of a path.
pub(crate) fn bytes_of(path: &Path) -> &[u8] {
    path.as_os_str().as_encoded_bytes()
}
