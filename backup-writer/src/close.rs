//! The end of a repository: announced, so that everything can still be fetched for a while, taken back or not, and then destroyed with a proof.
//!
//! Closing is a new generation of the configuration. It stops backups and nothing else. Destroying deletes what can be read first and the keys and the
//! configuration last, so that one that is interrupted is still a repository that the same command goes on with.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fs_core::config::{Closing, Config, encode_config};
use fs_core::crypto;
use fs_core::id::{ObjectHash, RepositoryId};
use fs_core::object::{self, Header, ObjectError, ObjectKind};
use fs_core::observer::{Observer, Progress};
use fs_core::repository::Repository;
use fs_core::storage::{ObjectMeta, ObjectName, StoreError, WriteStore, delete_all, wait};
use fs_core::time::Timestamp;

use crate::create::put_hashed;

/// How long everything can be fetched after closing, unless somebody says otherwise.
pub const CLOSING_GRACE: Duration = Duration::from_secs(14 * 86_400);
/// Objects that are deleted together.
const TOGETHER: usize = 1024;

/// Why a repository was not closed or destroyed.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// Only owners decide that.
    #[error("only the owner's key closes and destroys a repository")]
    NotAllowed(#[source] ObjectError),
    /// It was not announced.
    #[error("this repository is not closed: it is destroyed only some time after that")]
    NotClosed,
    /// Somebody may still fetch what is theirs.
    #[error("this repository is closed, and may be destroyed from {due} on: it is {now}")]
    Early {
        /// From when on.
        due: Timestamp,
        /// The earlier one of this machine's clock and the store's.
        now: Timestamp,
    },
    /// What the store lists is not all that there is.
    #[error("the store does not list the configuration of this repository, which was read a moment ago")]
    Incomplete,
    /// The run was stopped. What is left can be destroyed by the same command.
    #[error("interrupted: {left} objects are left")]
    Cancelled {
        /// How many.
        left: u64,
    },
    /// The store failed.
    #[error("the store failed; the same command goes on")]
    Store(#[from] StoreError),
}

/// What became of a repository.
#[derive(Clone, Debug)]
pub struct DestroyReport {
    /// Which it was.
    pub repository: RepositoryId,
    /// When the first object was deleted, by the earlier one of this machine's clock and the store's.
    pub started: Timestamp,
    /// When the store listed nothing more, or what it holds on to.
    pub ended: Timestamp,
    /// Objects that were deleted and their bytes, by kind: the first part of their names.
    pub deleted: BTreeMap<String, (u64, u64)>,
    /// Hash of the list of what was deleted: name, blank, size in decimal, line feed, in the order of the names.
    pub list_hash: ObjectHash,
    /// Names of objects that the store holds on to.
    pub kept: Vec<String>,
}

impl DestroyReport {
    /// Objects that were deleted, and their bytes.
    pub fn total(&self) -> (u64, u64) {
        self.deleted.values().fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    }
}

/// Announces the end of a repository.
///
/// # Errors
/// [`CloseError`].
pub fn close(repository: &Repository, store: &dyn WriteStore, grace: Duration) -> Result<Closing, CloseError> {
    let since = now(repository, store, Timestamp::max)?;
    let closing = Closing { since, due: since.saturating_add(grace) };
    configure(repository, store, Some(closing))?;
    Ok(closing)
}

/// Takes that back.
///
/// # Errors
/// [`CloseError`].
pub fn reopen(repository: &Repository, store: &dyn WriteStore) -> Result<(), CloseError> {
    configure(repository, store, None)
}

fn configure(repository: &Repository, store: &dyn WriteStore, closing: Option<Closing>) -> Result<(), CloseError> {
    let ring = repository.ring();
    let root = ring.root_signer().ok_or(CloseError::NotAllowed(ObjectError::NotAllowed))?;
    let config = Config { generation: repository.config().generation + 1, closing, ..repository.config().clone() };
    let header = Header::new(ObjectKind::Config, ring.epoch(), ring.repository, &**repository.random());
    let object = encode_config(&config, &header, &ring.current().structure, &root);
    put_hashed(store, object, |hash| object::config_name(config.generation, hash))?;
    Ok(())
}

/// One of the two clocks, so that one that is wrong gives nobody less time than was announced.
fn now(repository: &Repository, store: &dyn WriteStore, which: fn(Timestamp, Timestamp) -> Timestamp) -> Result<Timestamp, StoreError> {
    let (here, server) = (repository.clock().now(), wait("clock", store.server_time())?);
    Ok(server.map_or(here, |server| which(here, server)))
}

/// Deletes everything that the store lists, as soon as that was announced for long enough.
///
/// # Errors
/// [`CloseError`]. What the store holds on to is no error: the report names it.
pub fn destroy(repository: &Repository, store: &dyn WriteStore, observer: &dyn Observer) -> Result<DestroyReport, CloseError> {
    repository.ring().root_signer().ok_or(CloseError::NotAllowed(ObjectError::NotAllowed))?;
    let (closing, started) = (repository.config().closing.ok_or(CloseError::NotClosed)?, now(repository, store, Timestamp::min)?);
    if started < closing.due {
        return Err(CloseError::Early { due: closing.due, now: started });
    }
    let mut objects = wait("", store.list("", None))?;
    // An empty list would prove the deletion of nothing.
    if !objects.iter().any(|object| object.name.as_str().starts_with(ObjectKind::Config.prefix())) {
        return Err(CloseError::Incomplete);
    }
    objects.sort_by(|one, other| (rank(one), &one.name).cmp(&(rank(other), &other.name)));
    let (contents, last) = objects.split_at(objects.partition_point(|object| rank(object) == 0));
    delete_contents(store, contents, observer)?;
    let mut kept: BTreeSet<ObjectName> = wait("", store.list("", None))?.into_iter().map(|object| object.name).collect();
    let are_left = |kept: &BTreeSet<ObjectName>| kept.iter().any(|name| last.iter().all(|object| object.name != *name));
    if !are_left(&kept) {
        kept = delete_last(store, last);
    }
    let deleted = objects.iter().filter(|object| !kept.contains(&object.name)).collect();
    let ended = now(repository, store, Timestamp::max).unwrap_or_else(|_| repository.clock().now());
    Ok(told(repository, started, ended, deleted, kept.iter().map(ToString::to_string).collect()))
}

/// Deletes what can be read. What the store holds on to it still lists afterwards.
fn delete_contents(store: &dyn WriteStore, contents: &[ObjectMeta], observer: &dyn Observer) -> Result<(), CloseError> {
    let mut progress = Progress { entry_total: contents.len() as u64, ..Progress::default() };
    for some in contents.chunks(TOGETHER) {
        if observer.is_cancelled() {
            return Err(CloseError::Cancelled { left: progress.entry_total - progress.entry_count });
        }
        for result in delete_all(store, some.iter().map(|object| &object.name)) {
            match result {
                Ok(()) | Err(StoreError::Denied { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        progress.entry_count += some.len() as u64;
        observer.progress(&progress);
    }
    Ok(())
}

/// Deletes keys and then the configuration, when nothing is left that they open; those that may still be there. Without them no command goes on, so nothing
/// that fails here is an error: it is named.
fn delete_last(store: &dyn WriteStore, last: &[ObjectMeta]) -> BTreeSet<ObjectName> {
    for some in last.chunk_by(|one, other| rank(one) == rank(other)) {
        delete_all(store, some.iter().map(|object| &object.name));
    }
    match wait("", store.list("", None)) {
        Ok(listed) => listed.into_iter().map(|object| object.name).collect(),
        Err(_) => last.iter().map(|object| object.name.clone()).collect(),
    }
}

/// Keys go when nothing else is left, and then the configuration.
fn rank(object: &ObjectMeta) -> usize {
    let last = [ObjectKind::Slot, ObjectKind::Config];
    last.iter().position(|kind| object.name.as_str().starts_with(kind.prefix())).map_or(0, |at| at + 1)
}

fn told(repository: &Repository, started: Timestamp, ended: Timestamp, mut deleted: Vec<&ObjectMeta>, kept: Vec<String>) -> DestroyReport {
    deleted.sort_by(|one, other| one.name.cmp(&other.name));
    let mut by_kind: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut list = String::new();
    for object in deleted {
        let kind = object.name.as_str().split('/').next().unwrap_or_default();
        let (count, bytes) = by_kind.entry(kind.to_owned()).or_default();
        *count += 1;
        *bytes += object.size;
        list.push_str(&format!("{} {}\n", object.name, object.size));
    }
    let list_hash = ObjectHash::from_bytes(crypto::hash(list.as_bytes()));
    DestroyReport { repository: repository.id(), started, ended, deleted: by_kind, list_hash, kept }
}
