//! Putting records under a pin: from what is held already, else from the store with few requests. Only what opens is kept.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};

use super::opened::{Opened, Want};
use super::pin::{PinError, Shared};
use super::plan::{Part, PlanLimits, plan};
use super::worker::slice;
use super::{OTHER_KIND, ReadError, Repository, lock};
use crate::cache::DiskCache;
use crate::id::PackId;
use crate::object::pack_name;
use crate::pack::pack_kind;
use crate::record::{RecordKind, Reference};
use crate::report::{Finding, Severity};
use crate::storage::wait;
use crate::tree::{Page, TreeError};

/// Largest request for several records, and largest entry of the cache that is made of them.
const PART_MAX: u64 = 4 << 20;
/// An entry of the cache is at most this part of the quota, with room to spare.
const QUOTA_SHARE: u64 = 8;
/// Findings that are told; the rest is of the same kind.
const FINDINGS_MAX: usize = 1000;

/// Keeps records under one pin. Used by several threads.
#[derive(Clone, Copy)]
pub(super) struct Keeper<'a> {
    pub(super) repository: &'a Repository,
    pub(super) disk: &'a DiskCache,
    pub(super) pin: u64,
    pub(super) shared: &'a Shared,
}

/// What is done with a record that was kept.
type Each<'a> = &'a mut dyn FnMut(&Want, Bytes) -> Result<(), TreeError>;

impl Keeper<'_> {
    /// Sees to it that all these records are kept, and gives the plaintext of each to `each`. What is damaged is a finding and is not given.
    pub(super) fn keep(&self, wants: &[Want], each: Each<'_>) -> Result<(), PinError> {
        let mut wants = wants.to_vec();
        wants.sort_by_key(place);
        wants.dedup_by_key(|want| place(want));
        let (mut stretch, mut missing) = (Stretch::new(self), Vec::new());
        for want in wants {
            let (pack, range) = (&want.reference.pack, want.reference.place());
            let pinned = self.disk.peek(Some(self.pin), pack, range.clone());
            let is_pinned = pinned.is_some();
            let Some(sealed) = pinned.or_else(|| self.disk.peek(None, pack, range.clone())) else {
                missing.push(want);
                continue;
            };
            let Some(plain) = self.open(&want, &sealed) else {
                self.disk.forget(pack, range);
                missing.push(want);
                continue;
            };
            if !is_pinned {
                stretch.add(&want, &sealed)?;
            }
            self.give(&want, plain, each);
        }
        stretch.end()?;
        let limits = PlanLimits { alone: u64::MAX, ..lock(&self.repository.fetcher.shared.line).limits(self.part_max()) };
        plan(missing, limits).into_iter().try_for_each(|part| self.fetch(&part, each))
    }

    /// A page, kept.
    pub(super) fn page(&self, reference: &Reference) -> Result<Arc<Page>, PinError> {
        let mut page = None;
        self.keep(&[Want { kind: RecordKind::Tree, reference: *reference }], &mut |want, plain| {
            page = Some(Opened::decode(want.kind, plain)?);
            Ok(())
        })?;
        match page {
            Some(Opened::Page(page)) => Ok(page),
            Some(_) => Err(OTHER_KIND.into()),
            None => Err(ReadError::Missing { id: reference.id }.into()),
        }
    }

    /// The error of a cache that took no more.
    pub(super) fn no_room(&self) -> PinError {
        PinError::NoRoom { folder: self.disk.folder().into(), quota: self.disk.status().quota }
    }

    fn part_max(&self) -> u64 {
        PART_MAX.min(self.disk.status().quota / QUOTA_SHARE)
    }

    fn fetch(&self, part: &Part, each: Each<'_>) -> Result<(), PinError> {
        let name = pack_name(part.kind, &part.pack);
        let clock = self.repository.clock();
        let begun = clock.elapsed();
        let bytes = match wait(name.as_str(), self.repository.store().get_range(&name, part.range.clone())) {
            Ok(bytes) => bytes,
            // The hint may be out of date for one of them: each is looked for by itself.
            Err(error) if error.is_of_object() => Bytes::new(),
            Err(error) => return Err(ReadError::Store(error).into()),
        };
        let length = bytes.len() as u64;
        if length > 0 {
            lock(&self.repository.fetcher.shared.line).note(length, clock.elapsed().saturating_sub(begun));
        }
        self.shared.fetched.fetch_add(length, Ordering::Relaxed);
        let mut stretch = Stretch::new(self);
        for want in &part.wants {
            let here =
                slice(&bytes, part.range.start, &want.reference.place()).and_then(|sealed| Some((self.open(want, &sealed)?, sealed)));
            let found = here.map_or_else(|| self.elsewhere(want), Ok);
            match found {
                Ok((plain, sealed)) => {
                    stretch.add(want, &sealed)?;
                    self.give(want, plain, each);
                }
                Err(error) if error.is_damage() => self.found(want, &error),
                Err(error) => return Err(error.into()),
            }
        }
        stretch.end()
    }

    fn open(&self, want: &Want, sealed: &Bytes) -> Option<Bytes> {
        self.repository.open_record(want.kind, &want.reference, sealed.clone()).ok()
    }

    /// A record that does not open where its reference says: again from there, and from wherever the index knows it. It is kept under the place that the
    /// reference names, because that is where a reader looks for it.
    fn elsewhere(&self, want: &Want) -> Result<(Bytes, Bytes), ReadError> {
        let repository = self.repository;
        let read = |from: &Reference| -> Result<(Bytes, Bytes), ReadError> {
            let sealed = repository.stored(want.kind, from)?;
            self.shared.fetched.fetch_add(sealed.len() as u64, Ordering::Relaxed);
            Ok((repository.open_record(want.kind, &want.reference, sealed.clone())?, sealed))
        };
        let first = match read(&want.reference) {
            Err(error) if error.is_damage() => error,
            result => return result,
        };
        let found = repository.locate(&want.reference.id)?.into_iter().find_map(|location| read(&location.reference).ok());
        found.ok_or(first)
    }

    fn give(&self, want: &Want, plain: Bytes, each: Each<'_>) {
        if let Err(source) = each(want, plain) {
            self.found(want, &ReadError::Malformed { id: want.reference.id, source });
        }
    }

    fn found(&self, want: &Want, error: &ReadError) {
        let name = pack_name(pack_kind(want.kind), &want.reference.pack);
        let mut findings = lock(&self.shared.findings);
        if findings.len() < FINDINGS_MAX {
            findings.push(Finding::object(Severity::Error, name.as_str(), error.to_string()));
        }
    }
}

fn place(want: &Want) -> (PackId, u32, u32) {
    (want.reference.pack, want.reference.offset, want.reference.stored_len)
}

/// Records that stand one after the other in a pack and become one entry of the cache: many small files take no more room than one large.
struct Stretch<'a> {
    keeper: &'a Keeper<'a>,
    pack: PackId,
    start: u64,
    pieces: VecDeque<Bytes>,
    length: u64,
}

impl<'a> Stretch<'a> {
    fn new(keeper: &'a Keeper<'a>) -> Self {
        Self { keeper, pack: PackId::from_bytes([0; PackId::LENGTH]), start: 0, pieces: VecDeque::new(), length: 0 }
    }

    fn add(&mut self, want: &Want, sealed: &Bytes) -> Result<(), PinError> {
        let start = u64::from(want.reference.offset);
        let continues = self.pack == want.reference.pack && self.start + self.length == start;
        if !continues || want.reference.place().end - self.start > self.keeper.part_max() {
            self.end()?;
            (self.pack, self.start) = (want.reference.pack, start);
        }
        self.length += sealed.len() as u64;
        self.pieces.push_back(sealed.clone());
        Ok(())
    }

    fn end(&mut self) -> Result<(), PinError> {
        let (pieces, length) = (std::mem::take(&mut self.pieces), std::mem::take(&mut self.length));
        if length == 0 {
            return Ok(());
        }
        let mut bytes = BytesMut::with_capacity(usize::try_from(length).unwrap_or(0));
        pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
        let is_kept = self.keeper.disk.put_pinned(self.keeper.pin, &self.pack, self.start, &bytes.freeze());
        if is_kept { Ok(()) } else { Err(self.keeper.no_room()) }
    }
}
