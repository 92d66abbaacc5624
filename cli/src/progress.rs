//! Progress on a terminal, and the interruption by the user.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fs_core::observer::{Observer, Progress};
use fs_core::path::TreePath;
use fs_core::report::Finding;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use crate::args::Global;
use crate::signals::{self, OnSignal};

/// How often a terminal is written to.
const TICK_MS: u64 = 100;

/// Shows how far an operation is; cancelled by SIGINT, SIGTERM and SIGHUP.
#[derive(Debug)]
pub(crate) struct Watcher {
    bar: ProgressBar,
    /// Nobody looks on, but whoever reads the messages wants to know why nothing happens.
    tells: bool,
    cancelled: Arc<AtomicBool>,
    /// What was found so far, for those who want to tell it if the operation fails.
    findings: Mutex<Vec<Finding>>,
    /// When the bar was drawn last, in milliseconds since it began.
    drawn_ms: AtomicU64,
}

impl Watcher {
    /// A bar on standard error if that is a terminal and nobody objects.
    pub(crate) fn new(global: &Global) -> Self {
        let wanted = std::io::stderr().is_terminal() && !global.json && !global.quiet;
        let bar = if wanted { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
            bar.set_style(style);
        }
        let cancelled = Arc::new(AtomicBool::new(false));
        if let Err(error) = signals::set(OnSignal::Cancel(Arc::clone(&cancelled))) {
            tracing::debug!(%error, "signals end the program at once");
        }
        Self { bar, tells: !wanted && !global.quiet, cancelled, findings: Mutex::default(), drawn_ms: AtomicU64::new(0) }
    }

    /// What was found so far.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        std::mem::take(&mut *self.findings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the bar away; a signal ends the program again.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
        let _ = signals::set(OnSignal::Exit);
    }

    /// Whether it is time to draw again: operations tell of every file, and no eye sees more than a few frames in a second.
    fn is_due(&self) -> bool {
        if self.bar.is_hidden() {
            return false;
        }
        let now = u64::try_from(self.bar.elapsed().as_millis()).unwrap_or(u64::MAX);
        let last = self.drawn_ms.load(Ordering::Relaxed);
        now >= last + TICK_MS && self.drawn_ms.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Observer for Watcher {
    fn progress(&self, progress: &Progress) {
        if !self.is_due() {
            return;
        }
        let elapsed = self.bar.elapsed();
        let rate = HumanBytes(progress.byte_count / elapsed.as_secs().max(1));
        let remaining = (progress.byte_total > progress.byte_count && progress.byte_count > 0).then(|| {
            let left = u128::from(progress.byte_total - progress.byte_count) * elapsed.as_millis() / u128::from(progress.byte_count);
            format!(", {} s left", left / 1000)
        });
        let total = if progress.entry_total > 0 { format!(" of {}", progress.entry_total) } else { String::new() };
        let (count, bytes) = (progress.entry_count, HumanBytes(progress.byte_count));
        self.bar.set_message(format!("{count}{total} entries, {bytes}, {rate}/s{}", remaining.unwrap_or_default()));
        self.bar.tick();
    }

    fn at(&self, path: &TreePath) {
        let _ = path;
        if self.is_due() {
            self.bar.tick();
        }
    }

    fn waits(&self, why: Option<&str>) {
        match why {
            Some(why) if self.tells => drop(writeln!(std::io::stderr(), "{why}")),
            Some(why) => {
                self.bar.set_message(why.to_owned());
                self.bar.tick();
            }
            None => {}
        }
    }

    fn finding(&self, finding: &Finding) {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).push(finding.clone());
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}
