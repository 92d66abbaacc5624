//! One file, read as the kernel's adapter reads it: found by its names, its attributes asked for, read here and there and then from its beginning to its end at odd places.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel as channel;
use fs_core::crypto::{Key, StreamHash};
use fs_core::id::SnapshotId;
use fs_core::path::TreePath;
use fs_core::report::chain;
use fs_core::repository::{Held, ReadError};
use fs_core::storage::{CALL_DEADLINE, StoreError};
use fs_core::tree::proof::hash_map;
use fs_core::tree::{Entry, EntryKind, Extent};
use fs_core::view::error::ViewError;
use fs_core::view::{Answer, View};

use super::Draw;

/// Lengths of reads, by turns: what the kernel asks for, and what programs do that know nothing of pages. Odd ones make all later offsets odd.
const STEPS: [u64; 6] = [131_072, 4097, 262_143, 65_536, 1, 99_991];
/// Reads in the middle of a file, before it is read in order.
const SCATTERED: u64 = 4;
/// Longest of them.
const SCATTERED_LENGTH_MAX: u64 = 70_001;
/// Bytes at both ends of a hole that are read: a hole may be longer than any store.
const HOLE_ENDS: u64 = 64 << 10;
/// Longest wait for an answer: the drive gives up before.
const PATIENCE: Duration = CALL_DEADLINE.saturating_mul(4);

/// What reading a file has shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// Its bytes have the hash that was recorded.
    Proven,
    /// It has no bytes.
    Empty,
    /// All of it opens, and there is no hash to compare with.
    Unproven,
}

/// Why a file is not proven.
#[derive(Debug)]
pub(super) enum Failure {
    /// It cannot be read, or is not what was saved.
    Differs(String),
    /// The store does not answer.
    Unreachable(ReadError),
}

impl From<ViewError> for Failure {
    fn from(error: ViewError) -> Self {
        match error {
            ViewError::Unreachable(error) => Self::Unreachable(error),
            error => Self::Differs(chain(&error)),
        }
    }
}

/// Proves one file.
pub(super) fn prove(view: &Arc<View>, snapshot: &SnapshotId, path: &TreePath, entry: &Entry, draw: &mut Draw) -> Result<Outcome, Failure> {
    let inode = find(view, snapshot, path, entry)?;
    let mut scattered = Vec::new();
    for _ in 0..SCATTERED.min(entry.size) {
        let offset = draw.below(entry.size);
        let length = 1 + draw.below(SCATTERED_LENGTH_MAX.min(entry.size - offset));
        scattered.push((offset, read(view, inode, offset, length)?));
    }
    scattered.sort_unstable_by_key(|(offset, _)| *offset);
    let proof = entry.proof(view.repository().ring());
    let key = proof.as_ref().map_or_else(|| Key::from_bytes([0; 32]), |proof| proof.key.clone());
    let mut reading = Reading { view, inode, hash: StreamHash::keyed(&key), scattered: scattered.into(), open: VecDeque::new(), step: 0 };
    reading.whole(entry)?;
    if !read(view, inode, entry.size, 1)?.is_empty() {
        return Err(Failure::Differs("it has more bytes than its size says".into()));
    }
    match proof {
        Some(proof) if reading.hash.finish() == proof.hash => Ok(Outcome::Proven),
        Some(_) => Err(Failure::Differs("its bytes do not have the hash that was recorded when it was saved".into())),
        None if entry.size == 0 => Ok(Outcome::Empty),
        None => Ok(Outcome::Unproven),
    }
}

/// Finds the file by its names and compares what the drive tells of it with its entry.
fn find(view: &Arc<View>, snapshot: &SnapshotId, path: &TreePath, entry: &Entry) -> Result<u64, Failure> {
    let gone = || Failure::Differs("the drive does not show its snapshot".into());
    let mut inode = view.root_of(snapshot).ok_or_else(gone)?;
    let mut attr = None;
    for name in path.names() {
        let (parent, name) = (inode, name.as_bytes().to_vec());
        let found = ask(view, move |view, held| view.lookup(held, parent, &name))?.0;
        inode = found.inode;
        attr = Some(found);
    }
    let attr = attr.filter(|attr| attr.kind == EntryKind::File && attr.size == entry.size && attr.mode == entry.mode);
    let attr = attr.ok_or_else(|| Failure::Differs("the drive shows another size, kind or mode than was saved".into()))?;
    let names = ask(view, move |view, held| view.xattr_names(held, inode))?;
    for name in names {
        ask(view, move |view, held| view.xattr(held, inode, &name))?;
    }
    Ok(attr.inode)
}

/// A file that is read from its beginning to its end.
struct Reading<'a> {
    view: &'a Arc<View>,
    inode: u64,
    hash: StreamHash,
    /// What was read before, by offset; those that come next.
    scattered: VecDeque<(u64, Bytes)>,
    /// Those that have begun.
    open: VecDeque<(u64, Bytes)>,
    step: usize,
}

impl Reading<'_> {
    fn whole(&mut self, entry: &Entry) -> Result<(), Failure> {
        let Some(extents) = &entry.sparse else { return self.data(0..entry.size) };
        let mut at = 0;
        for extent in extents.iter().copied().chain([Extent { offset: entry.size, length: 0 }]) {
            self.hole(at..extent.offset)?;
            at = extent.offset.saturating_add(extent.length);
            self.data(extent.offset..at)?;
        }
        hash_map(&mut self.hash, extents, entry.size);
        Ok(())
    }

    fn data(&mut self, range: Range<u64>) -> Result<(), Failure> {
        let mut at = range.start;
        while at < range.end {
            let step = STEPS.get(self.step % STEPS.len()).copied().unwrap_or(1).min(range.end - at);
            self.step += 1;
            let bytes = read(self.view, self.inode, at, step)?;
            self.compare(at, &bytes)?;
            self.hash.update(&bytes);
            at += step;
        }
        Ok(())
    }

    /// What is no data reads as zeros.
    fn hole(&mut self, range: Range<u64>) -> Result<(), Failure> {
        let first = range.start..range.end.min(range.start + HOLE_ENDS);
        let last = range.end.saturating_sub(HOLE_ENDS).max(first.end)..range.end;
        for part in [first, last] {
            if part.start < part.end {
                let bytes = read(self.view, self.inode, part.start, part.end - part.start)?;
                if let Some(at) = bytes.iter().position(|byte| *byte != 0) {
                    return Err(differs_at(part.start + at as u64));
                }
            }
        }
        Ok(())
    }

    /// What was read here before must have been the same.
    fn compare(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        let end = offset + bytes.len() as u64;
        while self.scattered.front().is_some_and(|(start, _)| *start < end) {
            self.open.extend(self.scattered.pop_front());
        }
        for (start, before) in &self.open {
            let (from, to) = (offset.max(*start), end.min(start + before.len() as u64));
            let part = |bytes: &[u8], start: u64| {
                let at = |n: u64| usize::try_from(n.saturating_sub(start)).unwrap_or(usize::MAX);
                bytes.get(at(from)..at(to)).map(<[u8]>::to_vec)
            };
            if from < to && part(bytes, offset) != part(before, *start) {
                return Err(differs_at(from));
            }
        }
        self.open.retain(|(start, before)| start + before.len() as u64 > end);
        Ok(())
    }
}

fn differs_at(offset: u64) -> Failure {
    Failure::Differs(format!("at byte {offset} the drive gives other bytes than were saved"))
}

/// Reads exactly so many bytes, fewer only at the end, as the kernel's adapter does: what is read ahead is told before.
fn read(view: &Arc<View>, inode: u64, offset: u64, length: u64) -> Result<Bytes, Failure> {
    view.read_ahead(inode, offset, length);
    ask(view, move |view, held| view.read(held, inode, offset, length)).map_err(|failure| match failure {
        Failure::Differs(message) => Failure::Differs(format!("at byte {offset}: {message}")),
        failure @ Failure::Unreachable(_) => failure,
    })
}

fn ask<T: Send + 'static>(view: &Arc<View>, question: impl Fn(&View, &Held) -> Answer<T> + Send + 'static) -> Result<T, Failure> {
    let (sender, receiver) = channel::bounded(1);
    view.ask(question, move |answer| drop(sender.send(answer)));
    match receiver.recv_timeout(PATIENCE) {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Failure::Unreachable(StoreError::Timeout { place: "the drive".into(), after: PATIENCE }.into())),
    }
}

#[cfg(test)]
mod tests;
