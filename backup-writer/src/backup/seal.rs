//! Sealing beside the reading: a file is read and cut by one thread, and whoever has nothing to do compresses and seals its chunks, so that one large file keeps
//! all cores busy.

use crossbeam_channel::{Receiver, Sender, bounded};
use fs_core::compress::{Compression, Compressor};
use fs_core::record::RecordKind;

use super::BackupError;
use super::pulse::Pulse;
use crate::packer::{PackError, Sealed, Shared, Stage};

/// Handing over a smaller chunk is hardly worth copying it.
const LEAST: usize = 32 << 10;

/// A chunk for somebody else to seal.
struct SealJob {
    plain: Vec<u8>,
    result: Sender<Result<Sealed, PackError>>,
}

/// Those who wait for something to seal, as the readers see them.
#[derive(Clone)]
pub(super) struct Idle {
    /// One for each that waits.
    waiting: Receiver<()>,
    jobs: Sender<SealJob>,
}

/// The place of those who seal what others have read.
#[derive(Clone)]
pub(super) struct Bench {
    waiting: Sender<()>,
    jobs: Receiver<SealJob>,
}

impl Idle {
    /// Whether one of those who wait takes a chunk of this length: it must then be sent.
    fn has_taken(&self, length: usize) -> bool {
        length >= LEAST && self.waiting.try_recv().is_ok()
    }
}

/// A place for so many.
pub(super) fn bench(count: usize) -> (Bench, Idle) {
    let ((now_waiting, waiting), (send, jobs)) = (bounded(count), bounded(count));
    (Bench { waiting: now_waiting, jobs }, Idle { waiting, jobs: send })
}

/// A chunk of a file.
pub(super) enum Chunk {
    Sealed(Sealed),
    /// Somebody else is at it.
    UnderWay(Receiver<Result<Sealed, PackError>>),
}

impl Chunk {
    /// Waits until it is sealed.
    ///
    /// # Errors
    /// Of the repository, or if somebody wants an end.
    pub(super) fn sealed(self, pulse: Pulse<'_>) -> Result<Sealed, BackupError> {
        match self {
            Self::Sealed(sealed) => Ok(sealed),
            Self::UnderWay(result) => Ok(pulse.next(&result)?.ok_or(BackupError::Cancelled { kept_bytes: 0 })??),
        }
    }
}

/// Seals what a reader has read.
pub(super) struct Sealer<'a> {
    shared: &'a Shared,
    compressor: Compressor,
}

impl<'a> Sealer<'a> {
    pub(super) fn new(shared: &'a Shared, compression: Compression) -> Self {
        Self { shared, compressor: Compressor::new(compression) }
    }

    pub(super) fn shared(&self) -> &'a Shared {
        self.shared
    }

    /// Seals contents unless the repository has them.
    pub(super) fn seal(&mut self, plain: &[u8]) -> Result<Sealed, PackError> {
        self.shared.seal(RecordKind::Data, plain, &mut self.compressor)
    }

    /// The same, by somebody else if somebody waits for work.
    pub(super) fn seal_or_hand_over(&mut self, plain: &[u8], idle: &Idle) -> Result<Chunk, PackError> {
        if idle.has_taken(plain.len()) {
            let (result, sealed) = bounded(1);
            // Whoever waits is there until the run ends.
            let _ = idle.jobs.send(SealJob { plain: plain.to_vec(), result });
            return Ok(Chunk::UnderWay(sealed));
        }
        self.seal(plain).map(Chunk::Sealed)
    }

    /// Seals what readers hand over until there are no more of them.
    pub(super) fn serve(&mut self, bench: &Bench) {
        while bench.waiting.send(()).is_ok() {
            let Ok(SealJob { plain, result }) = bench.jobs.recv() else { break };
            // If nobody takes it, the run was given up.
            let _ = result.send(self.shared.busy(Stage::Read, || self.seal(&plain)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn only_whoever_waits_gets_a_chunk_and_small_ones_stay() {
        let (bench, idle) = bench(1);
        assert!(!idle.has_taken(LEAST), "nobody is there yet");
        thread::scope(|scope| {
            let place = bench.clone();
            let worker = scope.spawn(move || {
                place.waiting.send(()).unwrap();
                place.jobs.recv().map(|job| job.plain.len())
            });
            while idle.waiting.is_empty() {
                thread::yield_now();
            }
            assert!(!idle.has_taken(LEAST - 1), "too small");
            assert!(idle.has_taken(LEAST) && !idle.has_taken(LEAST), "one waits, for one chunk");
            let (result, _sealed) = bounded(1);
            idle.jobs.send(SealJob { plain: vec![7; 5], result }).unwrap();
            assert_eq!(worker.join().unwrap(), Ok(5));
        });
        drop(idle);
        assert!(bench.jobs.recv().is_err() && bench.waiting.send(()).is_err(), "without readers the work ends");
    }
}
