//! Opening what a command works on.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

use backup_writer::system::typed_path;
use fs_core::id::RepositoryId;
use fs_core::key::slot::Credential;
use fs_core::path::TreePath;
use fs_core::repository::{Forgotten, MEMORY_DEFAULT, OpenOptions, Repository, Snapshots};
use fs_core::snapshot::Snapshot;
use fs_core::snapshot::select::{Filter, SelectError, select};
use fs_core::storage::address::Address;
use fs_core::storage::{self, ReadStore, StoreError, WriteStore};

use crate::args::{Global, Select};
use crate::error::{Exit, Failure};
use crate::secret;
use crate::system;

/// Where the repository lies.
pub(crate) fn address(global: &Global) -> Result<Address, Failure> {
    let text = global.repository.as_deref();
    let text = text.ok_or_else(|| {
        Failure::new(Exit::Usage, "no repository was named").hint("use --repository ADDRESS or set YESTERDRIVE_REPOSITORY")
    })?;
    Address::parse(text).map_err(|error| Failure::new(Exit::Usage, error.to_string()))
}

/// Which repository it is and where it lies, for reports: without any secret.
pub(crate) fn place(global: &Global, repository: &Repository) -> Result<(RepositoryId, String), Failure> {
    Ok((repository.id(), address(global)?.to_string()))
}

/// Folders of this machine that belong to the repository and to what is remembered of it: never saved, never mounted on.
pub(crate) fn own_folders(global: &Global) -> Result<Vec<PathBuf>, Failure> {
    let repository = match address(global)? {
        Address::Folder(path) => Some(path),
        Address::Cloud { .. } | Address::Sftp { .. } | Address::WebDav { .. } => None,
    };
    Ok(repository.into_iter().chain(global.cache_dir.clone()).collect())
}

/// The store, for reading and writing.
pub(crate) fn store(global: &Global) -> Result<Arc<dyn WriteStore>, Failure> {
    let address = address(global)?;
    match storage::open(&address, &global.remote) {
        Ok(store) => Ok(store),
        Err(error @ StoreError::Denied { .. }) => Err(error.into()),
        Err(error) => match address {
            Address::Folder(path) if !path.is_dir() => {
                Err(Failure::new(Exit::Unreachable, format!("there is no folder {}", path.display()))
                    .hint("check the path, attach the disk, or create a repository with 'yesterdrive init'"))
            }
            _ => Err(error.into()),
        },
    }
}

/// Disk space for what was fetched over a network, unless somebody says otherwise.
pub(crate) const CACHE_DEFAULT: u64 = 10 << 30;

/// Memory for reading beside writing: the trees of the snapshot before.
const MEMORY_FOR_WRITING: usize = 64 << 20;

/// The open repository with its store, for those who want to know what the store holds.
pub(crate) fn open(global: &Global) -> Result<(Arc<Repository>, Arc<dyn WriteStore>), Failure> {
    open_with(global, Cached::Nothing, MEMORY_FOR_WRITING)
}

/// The same for those who want to read what is saved, with the cache on the local disk.
pub(crate) fn open_cached(global: &Global) -> Result<(Arc<Repository>, Arc<dyn WriteStore>), Failure> {
    let default = if address(global)?.is_local() { 0 } else { CACHE_DEFAULT };
    open_with(global, Cached::UpTo(global.cache_size.unwrap_or(default)), MEMORY_DEFAULT)
}

/// The same for those who want contents, not only names.
pub(crate) fn open_contents(global: &Global) -> Result<(Arc<Repository>, Arc<dyn WriteStore>), Failure> {
    let opened = open_cached(global)?;
    opened.0.expect_contents()?;
    Ok(opened)
}

/// The same for those who keep something on this machine, wherever the repository lies.
pub(crate) fn open_to_keep(global: &Global) -> Result<Arc<Repository>, Failure> {
    let size = global.cache_size.unwrap_or(CACHE_DEFAULT);
    if size == 0 {
        return Err(Failure::new(Exit::Usage, "nothing can be kept on this machine with --cache-size 0"));
    }
    Ok(open_with(global, Cached::UpTo(size), MEMORY_DEFAULT)?.0)
}

/// What may be read from this machine instead of the store.
enum Cached {
    /// Who checks or writes wants to know what the store says.
    Nothing,
    /// What was fetched before, so many bytes of it, and what is pinned.
    UpTo(u64),
}

/// The same for those who want contents and everything to come from the store, also what this machine has checked before.
pub(crate) fn open_from_store(global: &Global) -> Result<(Arc<Repository>, Arc<dyn WriteStore>), Failure> {
    let mut global = global.clone();
    global.cache_dir = None;
    let opened = open_with(&global, Cached::Nothing, MEMORY_DEFAULT)?;
    opened.0.expect_contents()?;
    Ok(opened)
}

/// An open repository, and what opened it.
pub(crate) struct Opened {
    pub(crate) repository: Arc<Repository>,
    pub(crate) store: Arc<dyn WriteStore>,
    pub(crate) credential: Credential,
}

/// The same for those who want to know what opened it, without asking for it again.
pub(crate) fn open_knowing(global: &Global) -> Result<Opened, Failure> {
    let store = store(global)?;
    let credential = secret::credential(global)?;
    let (repository, store) = open_by(global, store, &credential, Cached::Nothing, MEMORY_FOR_WRITING)?;
    Ok(Opened { repository, store, credential })
}

fn open_with(global: &Global, cached: Cached, memory: usize) -> Result<(Arc<Repository>, Arc<dyn WriteStore>), Failure> {
    let store = store(global)?;
    let credential = secret::credential(global)?;
    open_by(global, store, &credential, cached, memory)
}

fn open_by(
    global: &Global,
    store: Arc<dyn WriteStore>,
    credential: &Credential,
    cached: Cached,
    memory: usize,
) -> Result<(Arc<Repository>, Arc<dyn WriteStore>), Failure> {
    let memory_max = global.memory.map_or(memory, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let (cache_size, reads_pinned) = match cached {
        Cached::Nothing => (0, false),
        Cached::UpTo(size) => (size, true),
    };
    let state = global.cache_dir.clone();
    let near = if reads_pinned { near(global)? } else { Vec::new() };
    let options = OpenOptions { memory_max, cache_size, reads_pinned, state, list_ahead: true, near, ..OpenOptions::default() };
    let repository = Repository::open(Arc::clone(&store).as_read(), credential, &options)?;
    Ok((Arc::new(repository), store))
}

/// The near copies. One that is not there is done without: what it has comes from the repository.
fn near(global: &Global) -> Result<Vec<Arc<dyn ReadStore>>, Failure> {
    let mut near = Vec::new();
    for text in &global.near {
        let address = Address::parse(text).map_err(|error| Failure::new(Exit::Usage, format!("--near: {error}")))?;
        match storage::open(&address, &global.remote) {
            Ok(store) => near.push(store.as_read()),
            Err(error) => tracing::warn!(%error, "the near copy {address} is not there: everything is read from the repository"),
        }
    }
    Ok(near)
}

/// Where this machine keeps what it remembers of a repository; `None` without a home.
pub(crate) fn state(global: &Global, repository: &Repository) -> Option<PathBuf> {
    Some(global.cache_dir.as_ref()?.join(repository.id().to_string()))
}

/// The name of this machine.
pub(crate) fn host_name() -> String {
    system::host_name()
}

/// The snapshot that `wanted` names.
pub(crate) fn snapshot(repository: &Repository, wanted: &str, narrow: &Select) -> Result<Snapshot, Failure> {
    select_of(&repository.all_snapshots()?, wanted, narrow).cloned()
}

/// The same among those that were listed.
pub(crate) fn select_of<'a>(snapshots: &'a Snapshots, wanted: &str, narrow: &Select) -> Result<&'a Snapshot, Failure> {
    select_or(&snapshots.live, wanted, &filter(narrow), || not_there(wanted, snapshots))
}

/// The snapshot that `wanted` names; `none` says what is wrong if there is none.
pub(crate) fn select_or<'a>(
    among: &'a [Snapshot],
    wanted: &str,
    filter: &Filter,
    none: impl FnOnce() -> Failure,
) -> Result<&'a Snapshot, Failure> {
    select(among, wanted, filter).map_err(|error| match error {
        SelectError::None { .. } => none(),
        error @ SelectError::Several { .. } => error.into(),
    })
}

/// Why there is no snapshot that `wanted` names: perhaps it is forgotten.
pub(crate) fn not_there(wanted: &str, snapshots: &Snapshots) -> Failure {
    let is_it = |forgotten: &&Forgotten| !wanted.is_empty() && forgotten.snapshot.id.to_string().starts_with(wanted);
    match snapshots.forgotten.iter().find(is_it) {
        Some(forgotten) => {
            let id = forgotten.snapshot.id.short();
            Failure::new(Exit::Failed, format!("snapshot {id} was forgotten on {}", forgotten_on(forgotten)))
                .hint(format!("'yesterdrive forget --undo {id}' brings it back until it is swept"))
        }
        None => SelectError::None { wanted: wanted.to_owned() }.into(),
    }
}

/// Since when a snapshot is forgotten.
pub(crate) fn forgotten_on(forgotten: &Forgotten) -> String {
    forgotten.since().map(|since| since.to_string()).unwrap_or_default()
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
    let path = TreePath::parse(&typed_path(path.strip_prefix(b":").unwrap_or_default())).map_err(|error| wrong(error.to_string()))?;
    Ok((snapshot.to_owned(), path))
}
