//! Verifies finished packs and puts them, beside the packing.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use bytes::{Bytes, BytesMut};
use crossbeam_channel::{Receiver, Sender, bounded};
use fs_core::index::{Shard, ShardPack};
use fs_core::object::{self, ObjectError};
use fs_core::pack::{self, Pack, PackFragment, PackRecord, PackSession, Trailer};
use fs_core::storage::wait_for_put;

use super::{PackError, Shared, Stage, Target};

/// Packs verified and uploaded at a time. None waits beside them: while they are under way one more is being filled.
const UPLOAD_THREADS: usize = 2;

/// Threads that verify and put packs.
#[derive(Debug)]
pub(super) struct Upload {
    queue: Sender<Pack>,
    threads: Vec<JoinHandle<()>>,
    outcome: Arc<Mutex<Outcome>>,
}

/// What the store has taken.
#[derive(Debug, Default)]
pub(super) struct Put {
    /// All packs.
    pub(super) packs: Vec<ShardPack>,
    /// What those hold that no shard speaks of yet.
    pub(super) index: Shard,
}

#[derive(Debug, Default)]
struct Outcome {
    put: Put,
    failure: Option<PackError>,
}

impl Upload {
    pub(super) fn start(shared: &Arc<Shared>, target: &Arc<Target>) -> Self {
        let (queue, packs) = bounded(0);
        let outcome = Arc::new(Mutex::new(Outcome::default()));
        let threads = (0..UPLOAD_THREADS)
            .map(|_| {
                let (shared, target, packs, outcome) = (Arc::clone(shared), Arc::clone(target), packs.clone(), Arc::clone(&outcome));
                thread::spawn(move || upload_all(&shared, &target, &packs, &outcome))
            })
            .collect();
        Self { queue, threads, outcome }
    }

    pub(super) fn send(&self, pack: Pack) -> Result<(), PackError> {
        // The threads end only when one of them failed; the failure says why.
        let sent = self.queue.send(pack).is_ok();
        match self.outcome.lock().unwrap_or_else(PoisonError::into_inner).failure.take() {
            Some(failure) => Err(failure),
            None if sent => Ok(()),
            None => Err(ObjectError::Broken("the upload ended early").into()),
        }
    }

    /// Packs that the store has taken, beginning with the one of this number.
    pub(super) fn done_since(&self, number: usize) -> Vec<ShardPack> {
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.put.packs.iter().skip(number).copied().collect()
    }

    pub(super) fn finish(self) -> Result<Put, PackError> {
        drop(self.queue);
        for thread in self.threads {
            thread.join().map_err(|_| ObjectError::Broken("the upload ended early"))?;
        }
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(std::mem::take(&mut outcome.put)),
        }
    }
}

fn upload_all(shared: &Shared, target: &Target, packs: &Receiver<Pack>, outcome: &Mutex<Outcome>) {
    let lock = || outcome.lock().unwrap_or_else(PoisonError::into_inner);
    for pack in packs {
        let result = upload(shared, target, pack).and_then(|(pack, trailer)| {
            let full = lock().put.note(shared, pack, &trailer);
            // Trailers of small files are long: what is in a shard takes no memory any more, and is found if the run ends early.
            full.map_or(Ok(()), |shard| target.write_shard(shared, shard))
        });
        if let Err(error) = result {
            lock().failure.get_or_insert(error);
            return;
        }
    }
}

impl Put {
    /// Adds a pack. A shard that is full by now is to be written.
    fn note(&mut self, shared: &Shared, pack: ShardPack, trailer: &Trailer) -> Option<Shard> {
        self.packs.push(pack);
        self.index.add_pack(pack, trailer);
        shared.is_full(&self.index).then(|| std::mem::take(&mut self.index))
    }
}

fn upload(shared: &Shared, target: &Target, pack: Pack) -> Result<(ShardPack, Trailer), PackError> {
    shared.busy(Stage::Verify, || verify(shared, &pack))?;
    let size = pack.bytes.len() as u64;
    let name = object::pack_name(pack.kind, &pack.id);
    let bytes = Bytes::from(pack.bytes);
    if !shared.pace.pass() {
        return Err(PackError::Stopped);
    }
    let put = || wait_for_put(&name, bytes.len(), target.store.put_new(&name, bytes.clone(), &pack.hash));
    shared.busy(Stage::Upload, put)?;
    if let Ok(buffer) = bytes.try_into_mut() {
        shared.packs(pack.kind).give(buffer.into());
    }
    Ok((ShardPack { id: pack.id, kind: pack.kind, size }, pack.trailer))
}

/// Opens every record of a pack that is about to leave, from the very bytes that leave.
fn verify(shared: &Shared, pack: &Pack) -> Result<(), PackError> {
    let repository = &shared.repository;
    let failed = || PackError::NotVerified { pack: pack.id };
    let place = (pack.kind, pack.id, repository.id());
    let trailer = pack::decode_whole(&pack.bytes, place, |epoch| repository.ring().structure(epoch)).map_err(|_| failed())?;
    // The hash covers what has no reader of its own, as the padding. Records are opened with the keys of this run below, but by whom they were sealed stands here.
    let is_ours = |record: &PackRecord| {
        let session = PackSession { id: shared.session, key: shared.keys(record.facts.kind).0 };
        trailer.sessions.get(usize::from(record.session)) == Some(&session)
    };
    if trailer != pack.trailer || object::object_hash(&pack.bytes) != pack.hash || !trailer.records.iter().all(is_ours) {
        return Err(failed());
    }
    let file_key = repository.ring().current().file.as_ref();
    let open = |first: usize, records: &[PackRecord]| {
        let mut buffer = BytesMut::new();
        records.iter().enumerate().try_for_each(|(at, record)| {
            let start = record.offset as usize;
            let stored = pack.bytes.get(start..start + record.stored_len as usize).ok_or_else(failed)?;
            let id_key = repository.ring().current().id_key(record.facts.kind).ok_or(ObjectError::NotAllowed)?;
            buffer.extend_from_slice(stored);
            let plain = shared.keys(record.facts.kind).1.open(&record.facts, id_key, std::mem::take(&mut buffer)).map_err(|_| failed())?;
            // The id says what was sealed, the hash what was read from the file.
            let is_right = |part: &PackFragment| file_key.is_some_and(|key| part.is_in(&plain, key));
            let is_right = trailer.fragments_of(first + at).iter().all(is_right);
            // What it was opened in is used again.
            buffer = plain.try_into_mut().unwrap_or_default();
            buffer.clear();
            if is_right { Ok(()) } else { Err(failed()) }
        })
    };
    // In two halves: at the end of a run nobody else has anything to do.
    let half = trailer.records.len() / 2;
    let (first, second) = trailer.records.split_at(half);
    thread::scope(|scope| {
        let second = scope.spawn(|| open(half, second));
        open(0, first).and(second.join().unwrap_or_else(|_| Err(failed())))
    })
}
