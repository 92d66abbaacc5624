//! What Ctrl-C, SIGTERM and SIGHUP do: one thread waits for them, and whoever is at work says what should happen.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::error::Exit;
use crate::system::{self, Terminal, mounts};

/// What the next signal does.
pub(crate) enum OnSignal {
    /// The program ends.
    Exit,
    /// The terminal echoes again, then the program ends: a password was being typed.
    RestoreAndExit(Terminal),
    /// A file that is of no use yet is removed, then the program ends.
    RemoveAndExit(PathBuf),
    /// An operation is asked to stop where that is safe; the next signal ends the program.
    Cancel(Arc<AtomicBool>),
    /// A drive is unmounted, also while it is in use; whoever waits for it goes on.
    #[cfg_attr(windows, expect(dead_code, reason = "there the adapter is told by the console itself"))]
    Unmount(PathBuf),
}

static NEXT: Mutex<OnSignal> = Mutex::new(OnSignal::Exit);
static STARTED: OnceLock<()> = OnceLock::new();

/// Says what the next signal does. Until the first call signals do what they do to any program.
///
/// # Errors
/// The system's, if it refuses to hand over its signals.
pub(crate) fn set(action: OnSignal) -> std::io::Result<()> {
    *NEXT.lock().unwrap_or_else(PoisonError::into_inner) = action;
    if STARTED.set(()).is_ok() {
        system::on_interrupt(handle)?;
    }
    Ok(())
}

fn handle() {
    let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
    match std::mem::replace(&mut *next, OnSignal::Exit) {
        OnSignal::Exit => std::process::exit(Exit::Interrupted.code().into()),
        OnSignal::RestoreAndExit(terminal) => {
            terminal.restore();
            std::process::exit(Exit::Interrupted.code().into());
        }
        OnSignal::RemoveAndExit(file) => {
            let _ = std::fs::remove_file(file);
            std::process::exit(Exit::Interrupted.code().into());
        }
        OnSignal::Cancel(cancelled) => cancelled.store(true, Ordering::Relaxed),
        OnSignal::Unmount(path) => {
            // Waiting for users of the drive would make Ctrl-C useless.
            match mounts::unmount(&path, true) {
                Ok(()) => {}
                Err(error) if mounts::list().iter().any(|mount| mount.path == path) => {
                    tracing::error!(%error, "{} cannot be unmounted", path.display());
                    *next = OnSignal::Unmount(path);
                }
                // Nothing is mounted yet.
                Err(_) => std::process::exit(Exit::Interrupted.code().into()),
            }
        }
    }
}
