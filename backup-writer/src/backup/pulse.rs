//! Every wait of the collector looks up now and then: whether somebody wants an end, and whether it is an hour of pause.

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use fs_core::observer::Observer;

use super::BackupError;
use crate::pace::{Pace, TICK};

/// Who is asked.
#[derive(Clone, Copy)]
pub(super) struct Pulse<'a> {
    pub observer: &'a dyn Observer,
    pub pace: &'a Pace,
}

impl Pulse<'_> {
    /// Waits while there is a pause.
    ///
    /// # Errors
    /// [`BackupError::Cancelled`], which all other threads learn of too.
    pub(super) fn check(&self) -> Result<(), BackupError> {
        if self.observer.is_cancelled() {
            self.pace.stop();
        } else if self.pace.pass() {
            return Ok(());
        }
        Err(BackupError::Cancelled { kept_bytes: 0 })
    }

    /// What comes next; `None` if nothing will.
    ///
    /// # Errors
    /// [`BackupError::Cancelled`].
    pub(super) fn next<T>(&self, from: &Receiver<T>) -> Result<Option<T>, BackupError> {
        self.check()?;
        match from.try_recv() {
            Ok(item) => return Ok(Some(item)),
            Err(TryRecvError::Disconnected) => return Ok(None),
            Err(TryRecvError::Empty) => {}
        }
        loop {
            match from.recv_timeout(TICK) {
                Ok(item) => return Ok(Some(item)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => self.check()?,
            }
        }
    }
}
