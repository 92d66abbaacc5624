//! From one side to the other: whole objects, several at a time, each proven before it is put.

use std::sync::{Condvar, Mutex, PoisonError};

use bytes::Bytes;
use fs_core::id::RepositoryId;
use fs_core::object::keyless::Prover;
use fs_core::object::object_hash;
use fs_core::observer::{Observer, Progress};
use fs_core::report::{Finding, Severity, chain};
use fs_core::storage::whole::read_in_parts;
use fs_core::storage::{OBJECT_SIZE_MAX, ObjectName, ReadStore, StoreError, WriteStore, wait, wait_for_put};

use super::listing::{Listed, is_needed};
use super::{CopyError, Run, Side};
use crate::side_by_side::side_by_side;

/// Objects under way: a store far away answers late.
pub(super) const WORKERS_MAX: usize = 8;
/// Bytes of objects in memory, but for one that is larger by itself.
const IN_FLIGHT_MAX: u64 = 128 << 20;
/// Objects in a row that cannot be read before the store counts as lost.
const FAILURES_MAX: u64 = 16;

/// Why an object is of no use.
#[derive(Debug)]
pub(super) enum Unsound {
    /// Somebody has deleted it.
    Gone,
    /// Its bytes are not what its name promises.
    Damaged(String),
    /// The store failed.
    Unreadable(StoreError),
    /// The run was stopped.
    Stopped,
}

/// EIO; on Windows the error of a checksum.
const ROTTEN: i32 = if cfg!(windows) { 23 } else { 5 };

impl Unsound {
    /// Whether it is the object that is damaged, and the store works: a disk says of a rotten sector that it cannot be read.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Unreadable(StoreError::Failed { source, .. }) => source.raw_os_error() == Some(ROTTEN),
            Self::Unreadable(_) | Self::Gone | Self::Stopped => false,
        }
    }

    pub(super) fn message(&self) -> String {
        match self {
            Self::Damaged(flaw) => flaw.clone(),
            Self::Unreadable(error) => format!("it cannot be read: {}", chain(error)),
            Self::Gone => "it is gone".into(),
            Self::Stopped => "it was not read to its end".into(),
        }
    }
}

/// What did not arrive of what snapshots may need.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Trouble {
    /// Deleted by others meanwhile.
    pub(super) gone: u64,
    /// Damaged, or cannot be read.
    pub(super) unsound: u64,
    /// Of all kinds, those that could not be read one after the other.
    in_a_row: u64,
}

impl Trouble {
    pub(super) fn add(&mut self, other: Self) {
        self.gone += other.gone;
        self.unsound += other.unsound;
    }

    /// Notes what became of one object; the error of a store of which nothing can be read any more.
    pub(super) fn note(&mut self, listed: &Listed, unsound: Option<Unsound>) -> Result<(), StoreError> {
        let needed = u64::from(is_needed(listed.promise.kind));
        match unsound {
            None => self.in_a_row = 0,
            Some(Unsound::Gone) => self.gone += needed,
            Some(Unsound::Unreadable(error)) => {
                self.unsound += needed;
                self.in_a_row += 1;
                if self.in_a_row >= FAILURES_MAX {
                    return Err(error);
                }
            }
            Some(_) => {
                self.in_a_row = 0;
                self.unsound += needed;
            }
        }
        Ok(())
    }
}

/// Memory that several threads share.
#[derive(Debug)]
pub(super) struct Budget {
    free: Mutex<u64>,
    freed: Condvar,
}

/// A part of it, given back when dropped.
pub(super) struct Share<'a>(&'a Budget, u64);

impl Budget {
    pub(super) fn new() -> Self {
        Self { free: Mutex::new(IN_FLIGHT_MAX), freed: Condvar::new() }
    }

    /// Waits until there is room for so many bytes, or for as many as there can be.
    pub(super) fn take(&self, bytes: u64) -> Share<'_> {
        let bytes = bytes.min(IN_FLIGHT_MAX);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free < bytes {
            free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= bytes;
        Share(self, bytes)
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += self.1;
        self.0.freed.notify_all();
    }
}

/// Reads a whole object and proves it; the repository that it belongs to, and its bytes.
pub(super) fn read(
    store: &dyn ReadStore,
    name: &ObjectName,
    listed: Listed,
    observer: &dyn Observer,
) -> Result<(RepositoryId, Bytes), Unsound> {
    if listed.size > OBJECT_SIZE_MAX {
        return Err(Unsound::Damaged("it is larger than any object".into()));
    }
    let mut prover = Prover::new(listed.promise);
    let mut bytes = Vec::with_capacity(usize::try_from(listed.size).unwrap_or(0));
    let mut add = |part: Bytes| {
        prover.update(&part);
        bytes.extend_from_slice(&part);
        !observer.is_cancelled()
    };
    match read_in_parts(store, name, listed.size, &mut add) {
        Ok(true) if bytes.len() as u64 == listed.size => {}
        Ok(true) => return Err(Unsound::Damaged("it is shorter than its list says".into())),
        Ok(false) => return Err(Unsound::Stopped),
        Err(StoreError::NotFound { .. }) => return Err(Unsound::Gone),
        Err(error @ StoreError::WrongSize { .. }) => return Err(Unsound::Damaged(format!("it is damaged: {}", chain(&error)))),
        Err(error) => return Err(Unsound::Unreadable(error)),
    }
    let repository = prover.finish().map_err(|flaw| Unsound::Damaged(chain(&flaw)))?;
    Ok((repository, bytes.into()))
}

/// Puts proven bytes. What stands there already is theirs if it is the same; what is damaged gives way if it may.
pub(super) fn place(
    store: &dyn WriteStore,
    name: &ObjectName,
    (listed, bytes): (Listed, &Bytes),
    may_replace: bool,
) -> Result<(), StoreError> {
    let put = || wait_for_put(name, bytes.len(), store.put_new(name, bytes.clone(), &object_hash(bytes)));
    match put() {
        Err(StoreError::AlreadyExists { .. }) if is_there(store, name, bytes)? => Ok(()),
        Err(StoreError::AlreadyExists { .. }) if may_replace && listed.promise.is_provable() => {
            wait(name.as_str(), store.delete(name))?;
            put()
        }
        done => done,
    }
}

/// Puts proven bytes in the place of damaged ones. An object that is gone for want of an answer is worse than a damaged one: whether it was deleted shows when
/// the other one is put, which is tried twice.
pub(super) fn replace(store: &dyn WriteStore, name: &ObjectName, sound: (Listed, &Bytes)) -> Result<(), StoreError> {
    if let Err(error @ StoreError::Denied { .. }) = wait(name.as_str(), store.delete(name)) {
        return Err(error);
    }
    place(store, name, sound, true).or_else(|_| place(store, name, sound, true))
}

/// Whether a store has exactly these bytes under a name.
pub(super) fn is_there(store: &dyn ReadStore, name: &ObjectName, bytes: &Bytes) -> Result<bool, StoreError> {
    let (size, mut at, mut is_same) = (bytes.len() as u64, 0, true);
    let mut compare = |part: Bytes| {
        is_same = bytes.get(at..).is_some_and(|rest| rest.starts_with(&part));
        at += part.len();
        is_same
    };
    match wait(name.as_str(), store.stat(name)) {
        Ok(meta) if meta.size != size => return Ok(false),
        Err(error) if error.is_of_object() => return Ok(false),
        stat => drop(stat?),
    }
    match read_in_parts(store, name, size, &mut compare) {
        Err(error) if error.is_of_object() => Ok(false),
        read => Ok(read? && is_same && at == bytes.len()),
    }
}

/// What became of an object that was to be put.
enum Carried {
    Done,
    Not(Unsound),
    /// The other side took it not.
    Refused(StoreError),
}

impl Run<'_> {
    /// Puts objects of one side into the other.
    pub(super) fn carry(&mut self, from: Side, names: &[(ObjectName, Listed)]) -> Result<Trouble, CopyError> {
        self.begin_progress(names.iter().map(|(_, listed)| listed.size));
        let (source, target, ours) = (self.store(from), self.store(from.other()), self.repository);
        let (observer, options, budget) = (self.observer, self.options, Budget::new());
        let work = |(name, listed): &(ObjectName, Listed)| {
            let _share = budget.take(listed.size);
            if observer.is_cancelled() {
                return Carried::Not(Unsound::Stopped);
            }
            let bytes = match read(source, name, *listed, observer) {
                Ok((owner, bytes)) if owner == ours => bytes,
                Ok((owner, _)) => return Carried::Not(Unsound::Damaged(format!("it is misplaced: it belongs to repository {owner}"))),
                Err(unsound) => return Carried::Not(unsound),
            };
            let placed = place(target, name, (*listed, &bytes), options.heal);
            let read_back = || if options.read_back { is_there(target, name, &bytes) } else { Ok(true) };
            match placed.and_then(|()| read_back()) {
                Ok(true) => Carried::Done,
                Ok(false) => Carried::Refused(not_as_written(name)),
                Err(error) => Carried::Refused(error),
            }
        };
        let mut trouble = Trouble::default();
        side_by_side(WORKERS_MAX, names, work, |(name, listed), carried| {
            self.step(listed.size);
            let unsound = match carried {
                Carried::Done => None,
                Carried::Refused(error) => return Err(from.other().failed(error)),
                Carried::Not(Unsound::Stopped) => return Err(CopyError::Cancelled { copied: self.report.copied }),
                Carried::Not(unsound) => Some(unsound),
            };
            match &unsound {
                None => {
                    self.report.copied.add(listed.size);
                    self.listing(from.other()).objects.insert(name.clone(), *listed);
                }
                // Told once for all of them.
                Some(Unsound::Gone) => {}
                Some(unsound) => {
                    let (here, there) = (from.place(options.purpose), from.other().name(options.purpose));
                    self.damaged(name, format!("{here}: {}; {there} lacks it", unsound.message()));
                }
            }
            trouble.note(listed, unsound).map_err(|error| from.failed(error))
        })?;
        Ok(trouble)
    }

    /// Tells of an object that is damaged and stays so; once, however often it is met.
    pub(super) fn damaged(&mut self, name: &ObjectName, message: String) {
        let finding = Finding::object(Severity::Error, name.as_str(), message);
        if self.report.findings.iter().all(|known| known.place != finding.place) {
            self.report.damaged += 1;
            self.report.findings.push(finding);
        }
    }

    pub(super) fn begin_progress(&mut self, sizes: impl Iterator<Item = u64>) {
        for size in sizes {
            self.progress.entry_total += 1;
            self.progress.byte_total += size;
        }
    }

    pub(super) fn step(&mut self, size: u64) {
        let Progress { entry_count, byte_count, .. } = self.progress;
        (self.progress.entry_count, self.progress.byte_count) = (entry_count + 1, byte_count + size);
        self.observer.progress(&self.progress);
    }
}

fn not_as_written(name: &ObjectName) -> StoreError {
    let source = std::io::Error::new(std::io::ErrorKind::InvalidData, "what was written does not read back the same");
    StoreError::Failed { place: name.to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_disk_cannot_read_is_damage_and_what_the_line_loses_is_not() {
        let failed = |source| Unsound::Unreadable(StoreError::Failed { place: "x".into(), source });
        assert!(failed(std::io::Error::from_raw_os_error(ROTTEN)).is_damage());
        assert!(!failed(std::io::Error::other("cut")).is_damage());
        assert!(!failed(std::io::Error::from_raw_os_error(104)).is_damage());
        assert!(!Unsound::Gone.is_damage() && Unsound::Damaged("x".into()).is_damage());
    }

    #[test]
    fn memory_is_shared_and_one_large_object_passes() {
        let budget = Budget::new();
        let whole = budget.take(IN_FLIGHT_MAX * 4);
        assert_eq!(*budget.free.lock().unwrap(), 0);
        drop(whole);
        let (a, b) = (budget.take(1000), budget.take(24));
        assert_eq!(*budget.free.lock().unwrap(), IN_FLIGHT_MAX - 1024);
        drop((a, b));
        assert_eq!(*budget.free.lock().unwrap(), IN_FLIGHT_MAX);
    }
}
