//! Keeping part of a snapshot on this machine: all records that reading it takes are fetched, opened, and put into the disk cache where nothing evicts them.
//!
//! The caller's thread walks the tree and keeps what leads on from there (pages, lists, hard links); the data goes to a few threads that each keep what
//! stands together. What is held already is opened once more and not fetched: so a run that was interrupted goes on, and another one repairs.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::bounded;

use super::keep::Keeper;
use super::opened::Want;
use super::pins::Pinned;
use super::{ReadError, Repository, lock};
use crate::cache::disk::PIN_COUNT_MAX;
use crate::cache::{CacheError, DiskCache};
use crate::observer::{Observer, Progress};
use crate::path::TreePath;
use crate::report::Finding;
use crate::snapshot::{Manifest, Snapshot};
use crate::tree::page::{self, Wanted};
use crate::tree::{Entry, ROOT_POSITION, TreeError};

mod walk;

use walk::Walk;

/// Threads that fetch and open data.
const KEEPERS: usize = 8;

/// Why something could not be kept on this machine. What was kept so far stays, and the next attempt goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// There is no place for it.
    #[error("there is no cache on this machine in which something could be kept")]
    NoCache,
    /// The snapshot has no such entry.
    #[error("there is no {path} in the snapshot")]
    NotThere {
        /// The path.
        path: TreePath,
    },
    /// There are as many pins as there may be.
    #[error("{max} paths are pinned already, and no more can be")]
    TooMany {
        /// How many.
        max: usize,
    },
    /// It may come to more than the cache may hold.
    #[error("it has {bytes} bytes, and with {pinned} bytes that are pinned already the cache of {quota} bytes may not hold it")]
    TooLarge {
        /// Bytes of its files.
        bytes: u64,
        /// Bytes that other pins hold.
        pinned: u64,
        /// What the cache may hold.
        quota: u64,
        /// A size of the cache that would do in any case.
        enough: u64,
    },
    /// The cache took no more.
    #[error("the cache in {} has no room for it: its quota is {quota} bytes, and a twentieth of the file system stays free", .folder.display())]
    NoRoom {
        /// Where.
        folder: std::path::PathBuf,
        /// What the cache may hold.
        quota: u64,
    },
    /// The name of the pin cannot be written.
    #[error("what is pinned cannot be remembered")]
    Name(#[source] std::io::Error),
    /// The cache cannot be listed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Something could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The observer wanted it to stop.
    #[error("interrupted")]
    Cancelled,
}

impl From<TreeError> for PinError {
    fn from(error: TreeError) -> Self {
        Self::Read(error.into())
    }
}

/// What pinning did.
#[derive(Clone, Debug)]
pub struct PinReport {
    /// The pin.
    pub pin: Pinned,
    /// Files below the path, itself included.
    pub file_count: u64,
    /// Bytes that came from the store.
    pub fetched_bytes: u64,
    /// Bytes of the disk that the pin takes.
    pub stored_bytes: u64,
    /// Records that are damaged or missing: what they hold cannot be read, here or elsewhere.
    pub findings: Vec<Finding>,
}

/// What the threads of one run share.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) fetched: AtomicU64,
    pub(super) findings: Mutex<Vec<Finding>>,
    bytes: AtomicU64,
    files: AtomicU64,
    failure: Mutex<Option<PinError>>,
    is_over: AtomicBool,
}

impl Repository {
    /// Keeps a file or folder of a snapshot on this machine, with the pages that lead to it, so that it can be found and read without the store.
    ///
    /// # Errors
    /// [`PinError`]. Damaged records are findings.
    pub fn pin(&self, snapshot: &Snapshot, path: &TreePath, observer: &dyn Observer) -> Result<PinReport, PinError> {
        let disk = self.disk().filter(|disk| disk.status().quota > 0).ok_or(PinError::NoCache)?;
        let number = self.pin_number(&snapshot.id, path).ok_or(PinError::NoCache)?;
        let others = others(disk, number)?;
        let shared = Shared::default();
        let manifest = &snapshot.manifest().map_err(ReadError::from)?;
        let (entry, position) = {
            // What leads there is looked up before anything is kept: it may be refused yet.
            let find = |directory: &Entry, wanted: Wanted<'_>| match &directory.subtree {
                Some(subtree) => self.find_entry(subtree, wanted),
                None => Ok(None),
            };
            descend(manifest, path, find)?.ok_or_else(|| PinError::NotThere { path: path.clone() })?
        };
        let (file_count, byte_count) = entry.subtree.as_ref().map_or((1, entry.size), |subtree| (subtree.file_count, subtree.byte_count));
        check_room(disk, others, &entry, byte_count)?;
        let mut pin =
            Pinned { number, snapshot: snapshot.id, path: path.clone(), since: self.clock().now(), byte_count, is_complete: false };
        self.save_pin(&pin).map_err(PinError::Name)?;
        let total = Progress { entry_total: file_count, byte_total: byte_count, ..Progress::default() };
        // A cache that had no room before gets another chance.
        disk.flush();
        let run = Run { keeper: Keeper { repository: self, disk, pin: number, shared: &shared }, manifest, observer, total };
        let result = run.run(path, &entry, position);
        // Also what an interrupted run has fetched is worth keeping.
        let is_kept = disk.flush();
        result?;
        if !is_kept {
            return Err(run.keeper.no_room());
        }
        let findings = std::mem::take(&mut *lock(&shared.findings));
        pin.is_complete = findings.is_empty();
        self.save_pin(&pin).map_err(PinError::Name)?;
        let stored_bytes = DiskCache::usage(disk.folder())?.pins.get(&number).copied().unwrap_or(0);
        Ok(PinReport { pin, file_count, fetched_bytes: shared.fetched.load(Ordering::Relaxed), stored_bytes, findings })
    }
}

/// Bytes that other pins hold, if there may be one more.
fn others(disk: &DiskCache, number: u64) -> Result<u64, PinError> {
    let usage = DiskCache::usage(disk.folder())?;
    let others = usage.pins.iter().filter(|(pin, _)| **pin != number);
    if others.clone().count() >= PIN_COUNT_MAX {
        return Err(PinError::TooMany { max: PIN_COUNT_MAX });
    }
    Ok(others.map(|(_, bytes)| bytes).sum())
}

/// Refuses what may not fit, before anything is fetched. What is stored is mostly less: it is compressed, has no holes and nothing twice.
fn check_room(disk: &DiskCache, pinned: u64, entry: &Entry, bytes: u64) -> Result<(), PinError> {
    /// An entry of a tree with its name and references, about.
    const ENTRY: u64 = 512;
    /// Files of the cache that are begun or half full, with what other processes begin.
    const SLACK: u64 = 1 << 20;
    let quota = disk.status().quota;
    let most = pinned.saturating_add(bytes).saturating_add(entry.position_count().saturating_mul(ENTRY));
    // The tables of the cache and records that are slightly longer sealed; and the files that are begun are a 64th of the quota each.
    let enough = most.saturating_add(most / 12).saturating_add(SLACK);
    if enough > quota { Err(PinError::TooLarge { bytes, pinned, quota, enough }) } else { Ok(()) }
}

/// Follows a path from the root of a snapshot: the entry and its position.
fn descend<E>(
    manifest: &Manifest,
    path: &TreePath,
    mut find: impl FnMut(&Entry, Wanted<'_>) -> Result<Option<page::Found>, E>,
) -> Result<Option<(Entry, u64)>, E> {
    let (mut entry, mut position) = (manifest.root.clone(), ROOT_POSITION);
    for name in path.names() {
        let Some(found) = find(&entry, Wanted::Name(name.as_bytes()))? else { return Ok(None) };
        position += found.position_offset;
        entry = found.entry().clone();
    }
    Ok(Some((entry, position)))
}

struct Run<'a> {
    keeper: Keeper<'a>,
    manifest: &'a Manifest,
    observer: &'a dyn Observer,
    total: Progress,
}

impl Run<'_> {
    fn run(&self, path: &TreePath, entry: &Entry, position: u64) -> Result<(), PinError> {
        let shared = self.keeper.shared;
        let (shares, work) = bounded::<Vec<Want>>(KEEPERS);
        let walked = std::thread::scope(|scope| {
            for _ in 0..KEEPERS {
                let work = work.clone();
                scope.spawn(move || work.iter().for_each(|share| self.keep_data(&share)));
            }
            drop(work);
            Walk::new(self, shares).whole(path, entry, position)
        });
        match lock(&shared.failure).take() {
            Some(failure) => Err(failure),
            None => walked,
        }
    }

    fn keep_data(&self, share: &[Want]) {
        let shared = self.keeper.shared;
        // After a failure what is queued is only taken away.
        if shared.is_over.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.go_on().and_then(|()| self.keeper.keep(share, &mut |_, _| Ok(()))) {
            shared.is_over.store(true, Ordering::Relaxed);
            lock(&shared.failure).get_or_insert(error);
        }
        let bytes = share.iter().map(|want| u64::from(want.reference.plain_len)).sum();
        shared.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.tell();
    }

    fn tell(&self) {
        let (entry_count, byte_count) =
            (self.keeper.shared.files.load(Ordering::Relaxed), self.keeper.shared.bytes.load(Ordering::Relaxed));
        self.observer.progress(&Progress { entry_count, byte_count, ..self.total });
    }

    fn go_on(&self) -> Result<(), PinError> {
        if self.observer.is_cancelled() { Err(PinError::Cancelled) } else { Ok(()) }
    }
}
