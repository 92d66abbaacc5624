//! Pipes on Unix: the system says which of them has something.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// One end of a pipe, or whatever else bytes come from.
#[derive(Debug)]
pub(super) struct Pipe(File);

impl Pipe {
    pub(super) fn new(file: File) -> Self {
        Self(file)
    }

    /// Reads what there is; waits if there is nothing. 0 at the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

/// Waits until one of them has something or is at its end, and says which.
pub(super) fn wait(input: Option<&Pipe>, errors: Option<&Pipe>, patience: Duration) -> std::io::Result<(bool, bool)> {
    let patience = Timespec { tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX), tv_nsec: patience.subsec_nanos().into() };
    let mut fds: Vec<_> =
        [input, errors].into_iter().flatten().map(|pipe| PollFd::from_borrowed_fd(pipe.0.as_fd(), PollFlags::IN)).collect();
    match poll(&mut fds, Some(&patience)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let is_ready = |fd: Option<&PollFd<'_>>| fd.is_some_and(|fd| !fd.revents().is_empty());
    Ok((input.is_some() && is_ready(fds.first()), errors.is_some() && is_ready(fds.last())))
}
