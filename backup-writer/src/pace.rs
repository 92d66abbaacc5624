//! Whether a run may go on now: hours of pause, and the end that somebody asked for.
//!
//! All threads of a run share one. Whoever is about to read a piece of a file or to send a pack asks [`Pace::pass`] before; one thread looks after the
//! observer for all, because the others may be waiting for each other. The clock is asked again and again instead of once for the whole time: it may be set
//! meanwhile, and a machine may sleep.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use fs_core::observer::Observer;
use fs_core::time::SharedClock;

use crate::pause::Pauses;

/// How soon it is noticed that a pause is over, or that somebody wants an end.
pub const TICK: Duration = Duration::from_millis(100);

/// The pace of a run.
#[derive(Debug)]
pub struct Pace {
    pauses: Pauses,
    clock: SharedClock,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Somebody wants an end.
    is_stopped: bool,
    /// There is nothing left to look after.
    is_over: bool,
}

/// Ends the looking after, also when a run panics.
struct Over<'a>(&'a Pace);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.is_over = true);
    }
}

impl Pace {
    /// Pauses by this clock.
    pub fn new(pauses: Pauses, clock: SharedClock) -> Self {
        Self { pauses, clock, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Works while somebody looks after the observer: tells it of pauses, and stops the pace when it wants an end.
    pub fn watched<T>(&self, observer: &dyn Observer, work: impl FnOnce() -> T) -> T {
        self.change(|state| state.is_over = false);
        thread::scope(|scope| {
            scope.spawn(|| self.watch(observer));
            let _over = Over(self);
            work()
        })
    }

    /// What a clock shows when this pause ends; `None` if there is none now.
    pub fn paused_until(&self) -> Option<String> {
        if self.pauses.is_empty() { None } else { self.pauses.until(self.clock.now()) }
    }

    /// Waits while there is a pause. `false` if the run was stopped in it: then nothing may be read or sent any more.
    pub fn pass(&self) -> bool {
        while self.paused_until().is_some() {
            if self.rest(|state| state.is_stopped).is_stopped {
                return false;
            }
        }
        true
    }

    /// The run is to end.
    pub fn stop(&self) {
        self.change(|state| state.is_stopped = true);
    }

    /// Whether the run is to end.
    pub fn is_stopped(&self) -> bool {
        self.lock().is_stopped
    }

    fn watch(&self, observer: &dyn Observer) {
        let mut told = None;
        loop {
            if observer.is_cancelled() {
                self.stop();
            }
            let until = self.paused_until();
            if until != told {
                observer.waits(until.as_ref().map(|until| format!("paused until {until}")).as_deref());
                told = until;
            }
            if self.rest(|state| state.is_over).is_over {
                break;
            }
        }
        if told.is_some() {
            observer.waits(None);
        }
    }

    /// Waits for a moment, or until it is so.
    fn rest(&self, is_so: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let waited = self.changed.wait_timeout_while(self.lock(), TICK, |state| !is_so(state));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn change(&self, how: impl FnOnce(&mut State)) {
        how(&mut self.lock());
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
