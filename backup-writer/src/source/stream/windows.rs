//! Pipes on Windows: nobody can wait for several, so each has a thread that reads it ahead. It ends with the pipe: when the command does, or this program.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read as _;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Select, bounded};

/// Bytes read at a time.
const STEP: usize = 64 << 10;
/// Pieces read ahead.
const AHEAD: usize = 4;

/// One end of a pipe, or whatever else bytes come from.
#[derive(Debug)]
pub(super) struct Pipe {
    pieces: Receiver<std::io::Result<Vec<u8>>>,
    begun: VecDeque<u8>,
}

impl Pipe {
    pub(super) fn new(mut file: File) -> Self {
        let (send, pieces) = bounded(AHEAD);
        thread::spawn(move || {
            loop {
                let mut bytes = vec![0; STEP];
                let read = match file.read(&mut bytes) {
                    // The other side has closed it.
                    Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(0),
                    read => read,
                };
                let is_end = !matches!(read, Ok(1..));
                let piece = read.map(|count| {
                    bytes.truncate(count);
                    bytes
                });
                if send.send(piece).is_err() || is_end {
                    return;
                }
            }
        });
        Self { pieces, begun: VecDeque::new() }
    }

    /// Reads what there is; waits if there is nothing. 0 at the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.begun.is_empty() {
            // Without a thread this is after the end.
            self.begun = self.pieces.recv().unwrap_or_else(|_| Ok(Vec::new()))?.into();
        }
        self.begun.read(buffer)
    }

    fn is_ready(&self) -> bool {
        !self.begun.is_empty() || !self.pieces.is_empty()
    }
}

/// Waits until one of them has something or is at its end, and says which.
pub(super) fn wait(input: Option<&Pipe>, errors: Option<&Pipe>, patience: Duration) -> std::io::Result<(bool, bool)> {
    let both = [input, errors];
    let ready = || both.map(|pipe| pipe.is_some_and(Pipe::is_ready));
    if ready() == [false; 2] {
        let mut select = Select::new();
        for pipe in both.into_iter().flatten() {
            select.recv(&pipe.pieces);
        }
        let _ = select.ready_timeout(patience);
    }
    let [input, errors] = ready();
    Ok((input, errors))
}
