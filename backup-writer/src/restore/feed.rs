//! From the walk to the workers: records are gathered for a while, sorted by where they lie, and handed over in batches.
//!
//! A worker asks for a batch and, while the answer is on its way, for the next ones; what has come it opens and writes itself. A store that answers at once is asked for
//! one batch at a time.

use std::collections::HashMap;

use crossbeam_channel::{Receiver, Sender, never, select, unbounded};
use fs_core::record::Reference;
use fs_core::repository::{Batch, Sealed};

use super::file::Piece;
use super::{RestoreError, Run, chain};

/// Batches that wait for a worker.
pub(super) const BATCHES_AHEAD: usize = 8;
/// Stored bytes and records that are gathered before they are sorted.
const GATHERED_BYTES_MAX: u64 = 16 << 20;
const GATHERED_MAX: usize = 4096;
/// Batches that one worker has on their way.
const ON_THE_WAY_MAX: usize = 8;

/// The way to the workers.
pub(super) struct Feed<'r> {
    run: &'r Run<'r>,
    gathered: Vec<(Reference, Piece)>,
    bytes: u64,
    batches: Sender<Batch<Piece>>,
}

impl<'r> Feed<'r> {
    pub(super) fn new(run: &'r Run<'r>, batches: Sender<Batch<Piece>>) -> Self {
        Self { run, gathered: Vec::new(), bytes: 0, batches }
    }

    pub(super) fn push(&mut self, reference: Reference, piece: Piece) -> Result<(), RestoreError> {
        self.bytes += u64::from(reference.stored_len);
        self.gathered.push((reference, piece));
        if self.bytes >= GATHERED_BYTES_MAX || self.gathered.len() >= GATHERED_MAX { self.flush() } else { Ok(()) }
    }

    pub(super) fn flush(&mut self) -> Result<(), RestoreError> {
        self.bytes = 0;
        for batch in self.run.repository.batches(std::mem::take(&mut self.gathered)) {
            if self.run.observer.is_cancelled() {
                return Err(RestoreError::Cancelled);
            }
            // The workers end only when the channel does.
            let _ = self.batches.send(batch);
        }
        Ok(())
    }
}

/// What has come for a batch of this number.
type Arrival = (u64, Sealed);

impl Run<'_> {
    /// A worker: until there are no more batches and all that it has asked for have come.
    pub(super) fn serve(&self, batches: &Receiver<Batch<Piece>>) {
        let (arrive, arrived) = unbounded::<Arrival>();
        let (none, mut is_open, mut number) = (never(), true, 0);
        let mut on_the_way: HashMap<u64, Batch<Piece>> = HashMap::new();
        while is_open || !on_the_way.is_empty() {
            let more = if is_open && on_the_way.len() < ON_THE_WAY_MAX { batches } else { &none };
            select! {
                recv(arrived) -> arrival => {
                    let Ok((number, sealed)) = arrival else { return };
                    if let Some(batch) = on_the_way.remove(&number) {
                        self.write_batch(batch, sealed);
                    }
                }
                recv(more) -> batch => match batch {
                    Ok(batch) => {
                        number += 1;
                        let arrive = arrive.clone();
                        match self.repository.ask(&batch, move |sealed| drop(arrive.send((number, sealed)))) {
                            Some(sealed) => self.write_batch(batch, sealed),
                            None => drop(on_the_way.insert(number, batch)),
                        }
                    }
                    Err(_) => is_open = false,
                },
            }
        }
    }

    fn write_batch(&self, batch: Batch<Piece>, sealed: Sealed) {
        if self.observer.is_cancelled() {
            return;
        }
        self.repository.open_batch(batch, sealed, &mut |piece, plain| {
            self.write(piece, plain.map(|plain| &plain[..]).map_err(|error| chain(error)));
        });
    }
}
