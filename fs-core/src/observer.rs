//! How an operation talks while it runs: progress and findings out, cancellation in.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::path::TreePath;
use crate::report::Finding;

/// How far an operation is. Totals are zero while they are not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Entries done.
    pub entry_count: u64,
    /// Entries in all.
    pub entry_total: u64,
    /// Bytes done.
    pub byte_count: u64,
    /// Bytes in all.
    pub byte_total: u64,
}

/// Watches an operation. All methods are called often and from several threads: they must be quick.
pub trait Observer: Send + Sync {
    /// The operation got this far.
    fn progress(&self, progress: &Progress) {
        let _ = progress;
    }

    /// The operation now works on this path.
    fn at(&self, path: &TreePath) {
        let _ = path;
    }

    /// The operation met something and went on. It stands in the report too.
    fn finding(&self, finding: &Finding) {
        let _ = finding;
    }

    /// The operation waits, and says for what; `None` when it goes on.
    fn waits(&self, why: Option<&str>) {
        let _ = why;
    }

    /// Whether to stop as soon as the state is sound.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Watches nothing and never cancels.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {}

/// An observer that can be cancelled from elsewhere, for signal handlers and tests.
#[derive(Debug, Default)]
pub struct Cancel(AtomicBool);

impl Cancel {
    /// Asks the operation to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Observer for Cancel {
    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
