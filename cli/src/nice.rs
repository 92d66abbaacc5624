//! Letting others go first.

use std::io::IsTerminal as _;

use crate::args::Nice;
use crate::system;

/// Lowers the priority where that is wanted, and returns whether it is. Before any thread is started: a thread has the priority of the one that starts it. The system
/// derives the priority of reading from it.
pub(crate) fn yield_if(nice: Nice) -> bool {
    let gentle = match nice {
        Nice::Yes => true,
        Nice::No => false,
        Nice::Auto => !std::io::stderr().is_terminal(),
    };
    if gentle && let Err(error) = system::yield_to_others() {
        tracing::debug!(%error, "the priority stays as it is");
    }
    gentle
}
