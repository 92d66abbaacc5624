//! From the walk to the workers: records are gathered for a while, sorted by where they lie, and handed over in batches.
//!
//! A worker asks for a batch and, while the answer is on its way, for the next ones; what has come it opens and writes itself. A store that answers at once is asked for
//! one batch at a time.

use std::collections::HashMap;

use crossbeam_channel::{Receiver, Sender, never, select, unbounded};
use fs_core::record::Reference;
use fs_core::report::chain;
use fs_core::repository::{Batch, Sealed};

use super::file::Piece;
use super::held::UnderWay;
use super::{RestoreError, Run};

/// Batches that wait for a worker.
pub(super) const BATCHES_AHEAD: usize = 8;
/// Stored bytes and records that are gathered before they are sorted.
const GATHERED_BYTES_MAX: u64 = 16 << 20;
const GATHERED_MAX: usize = 4096;
/// Batches that one worker has on their way.
const ON_THE_WAY_MAX: usize = 8;

/// A batch for a worker.
#[derive(Debug)]
pub(super) struct Job {
    batch: Batch<Piece>,
    _under_way: UnderWay,
}

/// The way to the workers.
pub(super) struct Feed<'r> {
    run: &'r Run<'r>,
    gathered: Vec<(Reference, Piece)>,
    bytes: u64,
    batches: Sender<Job>,
}

impl<'r> Feed<'r> {
    pub(super) fn new(run: &'r Run<'r>, batches: Sender<Job>) -> Self {
        Self { run, gathered: Vec::new(), bytes: 0, batches }
    }

    pub(super) fn push(&mut self, reference: Reference, piece: Piece) -> Result<(), RestoreError> {
        // Small files share records.
        let is_new = self.gathered.last().is_none_or(|(last, _)| last.id != reference.id);
        self.bytes += if is_new { reference.stored_len.into() } else { 0 };
        self.gathered.push((reference, piece));
        if self.bytes >= GATHERED_BYTES_MAX || self.gathered.len() >= GATHERED_MAX { self.flush() } else { Ok(()) }
    }

    /// Lets the workers catch up if too much is open.
    pub(super) fn make_room(&mut self) -> Result<(), RestoreError> {
        if self.run.held.is_full() {
            self.flush()?;
            self.run.held.wait();
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), RestoreError> {
        self.bytes = 0;
        for batch in self.run.repository.batches(std::mem::take(&mut self.gathered)) {
            if self.run.is_over() {
                return Err(RestoreError::Cancelled);
            }
            // The workers end only when the channel does.
            let _ = self.batches.send(Job { batch, _under_way: self.run.held.under_way() });
        }
        Ok(())
    }
}

/// What has come for a batch of this number.
type Arrival = (u64, Sealed);

impl Run<'_> {
    /// A worker: until there are no more batches and all that it has asked for have come.
    pub(super) fn serve(&self, batches: &Receiver<Job>) {
        let (arrive, arrived) = unbounded::<Arrival>();
        let (none, mut is_open, mut number) = (never(), true, 0);
        let mut on_the_way: HashMap<u64, Job> = HashMap::new();
        while is_open || !on_the_way.is_empty() {
            let more = if is_open && on_the_way.len() < ON_THE_WAY_MAX { batches } else { &none };
            select! {
                recv(arrived) -> arrival => {
                    let Ok((number, sealed)) = arrival else { return };
                    if let Some(job) = on_the_way.remove(&number) {
                        self.write_batch(job, sealed);
                    }
                }
                recv(more) -> job => match job {
                    Ok(job) => {
                        number += 1;
                        let arrive = arrive.clone();
                        match self.repository.ask(&job.batch, move |sealed| drop(arrive.send((number, sealed)))) {
                            Some(sealed) => self.write_batch(job, sealed),
                            None => drop(on_the_way.insert(number, job)),
                        }
                    }
                    Err(_) => is_open = false,
                },
            }
        }
    }

    fn write_batch(&self, job: Job, sealed: Sealed) {
        if !self.is_over() {
            self.repository.open_batch(job.batch, sealed, &mut |piece, plain| {
                if let Err(error) = plain {
                    self.note_failure(error);
                }
                self.write(piece, plain.map(|plain| &plain[..]).map_err(|error| chain(error)));
            });
        }
    }
}
