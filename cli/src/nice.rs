//! Letting others go first.

use std::io::IsTerminal as _;

use crate::args::Nice;

/// Behind everything that runs at the usual 0, but never without any time at all.
const NICENESS: i32 = 10;

/// Lowers the priority where that is wanted, and returns whether it is. Before any thread is started: a thread has the priority of the one that starts it. The system
/// derives the priority of reading from it.
pub(crate) fn yield_if(nice: Nice) -> bool {
    let gentle = match nice {
        Nice::Yes => true,
        Nice::No => false,
        Nice::Auto => !std::io::stderr().is_terminal(),
    };
    let is_lower = || rustix::process::getpriority_process(None).is_ok_and(|niceness| niceness >= NICENESS);
    if gentle
        && !is_lower()
        && let Err(error) = rustix::process::setpriority_process(None, NICENESS)
    {
        tracing::debug!(%error, "the priority stays as it is");
    }
    gentle
}
