//! Many data records for one who wants each of them once: in pack order, with few requests, opened where they lie.
//!
//! Restoring and exporting read this way. It goes past the queues and, for stores that answer at once, past the caches: a thread asks, opens and uses the
//! bytes without handing them to another. What lies on this machine already is not asked for.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};

use super::{Opened, ReadError, Repository, lock};
use crate::id::PackId;
use crate::object::{ObjectKind, pack_name};
use crate::record::{RecordKind, Reference};
use crate::storage::{self, Begun, StoreError};

/// Largest batch, in stored bytes.
pub const BATCH_MAX: u64 = 2 << 20;

/// Data records that lie near one another in a pack and come with one request. `T` says what each of them is for.
#[derive(Debug)]
pub struct Batch<T> {
    pack: PackId,
    rows: Vec<(Reference, T)>,
}

impl<T> Batch<T> {
    /// The records, as they lie in the pack.
    pub fn rows(&self) -> &[(Reference, T)] {
        &self.rows
    }

    /// What the records were for.
    pub fn into_rows(self) -> impl Iterator<Item = (Reference, T)> {
        self.rows.into_iter()
    }
}

/// What has come for a batch, sealed.
#[derive(Debug)]
pub struct Sealed {
    start: u64,
    bytes: Result<Bytes, StoreError>,
    /// By row, what was on this machine already.
    at_hand: Vec<Option<AtHand>>,
}

#[derive(Debug)]
enum AtHand {
    Plain(Bytes),
    Sealed(Bytes),
}

impl Repository {
    /// Sorts records by where they lie and puts neighbours together. Rows of one record stand side by side: it is read once for all of them.
    pub fn batches<T>(&self, mut rows: Vec<(Reference, T)>) -> Vec<Batch<T>> {
        let gap = lock(&self.fetcher.shared.line).limits(BATCH_MAX).gap;
        rows.sort_by_key(|(reference, _)| (reference.pack, reference.offset));
        let mut batches: Vec<Batch<T>> = Vec::new();
        let mut open = 0..0;
        for (reference, what) in rows {
            let Range { start, end } = reference.place();
            match batches.last_mut() {
                Some(batch) if batch.pack == reference.pack && start <= open.end + gap && end.max(open.end) - open.start <= BATCH_MAX => {
                    open.end = open.end.max(end);
                    batch.rows.push((reference, what));
                }
                _ => {
                    open = start..end;
                    batches.push(Batch { pack: reference.pack, rows: vec![(reference, what)] });
                }
            }
        }
        batches
    }

    /// Asks for a batch. A store that answers at once gives the answer here; from any other one `later` gets it on a thread of the network, and must be quick.
    pub fn ask<T>(&self, batch: &Batch<T>, later: impl FnOnce(Sealed) + Send + 'static) -> Option<Sealed> {
        let at_hand: Vec<_> = batch.rows.iter().enumerate().map(|(at, (reference, _))| self.data_at_hand(reference, at == 0)).collect();
        let missing =
            || batch.rows.iter().zip(&at_hand).filter(|(_, at_hand)| at_hand.is_none()).map(|((reference, _), _)| reference.place());
        let (Some(start), Some(end)) = (missing().map(|place| place.start).min(), missing().map(|place| place.end).max()) else {
            return Some(Sealed { start: 0, bytes: Ok(Bytes::new()), at_hand });
        };
        let (store, name) = (Arc::clone(&self.store), pack_name(ObjectKind::DataPack, &batch.pack));
        let shared = &self.fetcher.shared;
        shared.requests.fetch_add(1, Ordering::Relaxed);
        match storage::begin(name.as_str().to_owned(), async move { store.get_range(&name, start..end).await }) {
            Begun::Done(bytes) => Some(Sealed { start, bytes, at_hand }),
            Begun::Pending(call) => {
                let shared = Arc::clone(shared);
                shared.is_far.store(true, Ordering::Relaxed);
                call.then(move |bytes, took| {
                    if let Ok(bytes) = &bytes {
                        lock(&shared.line).note(bytes.len() as u64, took);
                    }
                    later(Sealed { start, bytes, at_hand });
                });
                None
            }
        }
    }

    /// Opens what came for a batch and gives each row its plaintext, or what is wrong with it. A record that does not open where its reference says is looked for
    /// elsewhere.
    pub fn open_batch<T>(&self, batch: Batch<T>, sealed: Sealed, each: &mut dyn FnMut(T, Result<&Bytes, &ReadError>)) {
        let is_far = self.fetcher.shared.is_far.load(Ordering::Relaxed);
        let (mut rest, failed) = match sealed.bytes {
            Ok(bytes) => {
                self.fetcher.shared.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                (BytesMut::from(bytes), None)
            }
            // The hint may be out of date for one of them: each is looked for by itself.
            Err(error) if error.is_of_object() => (BytesMut::new(), None),
            Err(error) => (BytesMut::new(), Some(Arc::new(self.noted(error.into())))),
        };
        let mut at = sealed.start;
        let mut last: Option<(Reference, Result<Bytes, ReadError>)> = None;
        for ((reference, what), at_hand) in batch.rows.into_iter().zip(sealed.at_hand) {
            if last.as_ref().is_none_or(|(known, _)| known.id != reference.id) {
                let opened = match (at_hand, &failed) {
                    (Some(AtHand::Plain(plain)), _) => Ok(plain),
                    (Some(AtHand::Sealed(sealed)), _) => self.open_or_find(&reference, sealed.into(), is_far),
                    (None, Some(error)) => Err(ReadError::Shared(Arc::clone(error))),
                    (None, None) => self.open_or_find(&reference, take(&mut rest, &mut at, &reference.place()), is_far),
                };
                last = Some((reference, opened));
            }
            if let Some((_, opened)) = &last {
                each(what, opened.as_ref());
            }
        }
    }

    /// What need not be asked for. Of a store that answers at once nothing is kept. Whether another process has put something on the disk meanwhile is looked up
    /// once for a batch: that costs a system call.
    fn data_at_hand(&self, reference: &Reference, looks_again: bool) -> Option<AtHand> {
        if let Some(disk) = &self.disk {
            let place = reference.place();
            let sealed = if looks_again { disk.get(&reference.pack, place) } else { disk.peek(None, &reference.pack, place) };
            if let Some(sealed) = sealed {
                return Some(AtHand::Sealed(sealed));
            }
        }
        if !self.fetcher.shared.is_far.load(Ordering::Relaxed) {
            return None;
        }
        match self.memory.get(&reference.id) {
            Some(Opened::Data(plain)) => Some(AtHand::Plain(plain)),
            _ => None,
        }
    }

    fn open_or_find(&self, reference: &Reference, sealed: BytesMut, is_far: bool) -> Result<Bytes, ReadError> {
        let plain = match self.open_record(RecordKind::Data, reference, sealed) {
            Err(error @ ReadError::Key { .. }) => return Err(error),
            Err(_) => self.read_record(RecordKind::Data, reference).map_err(|error| self.noted(error))?,
            Ok(plain) => plain,
        };
        if is_far {
            // The same content may stand somewhere else in the tree.
            self.memory.insert(reference.id, Opened::Data(plain.clone()));
        }
        Ok(plain)
    }
}

/// Takes a record out of bytes that begin at `at` of their pack, so that it can be opened in place; nothing if it is not among them.
fn take(rest: &mut BytesMut, at: &mut u64, place: &Range<u64>) -> BytesMut {
    let skip = place.start.checked_sub(*at).and_then(|skip| usize::try_from(skip).ok());
    let length = usize::try_from(place.end.saturating_sub(place.start)).ok();
    let (Some(skip), Some(length)) = (skip, length) else { return BytesMut::new() };
    if skip.checked_add(length).is_none_or(|end| end > rest.len()) {
        return BytesMut::new();
    }
    drop(rest.split_to(skip));
    *at = place.end;
    rest.split_to(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_taken_in_order_and_never_from_beyond_the_end() {
        let (mut rest, mut at) = (BytesMut::from(&b"0123456789"[..]), 100);
        assert_eq!(take(&mut rest, &mut at, &(102..104)), &b"23"[..]);
        assert_eq!(take(&mut rest, &mut at, &(104..105)), &b"4"[..]);
        for beyond in [90..95, 103..106, 108..111, 200..201] {
            assert!(take(&mut rest, &mut at, &beyond).is_empty(), "{beyond:?}");
        }
        assert_eq!(take(&mut rest, &mut at, &(109..110)), &b"9"[..]);
    }
}
