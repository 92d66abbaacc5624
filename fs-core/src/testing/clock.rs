//! A clock that stands still until a test moves it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::time::{Clock, Timestamp};

/// A clock that a test sets and moves. Begins on 2026-11-20 at 14:30:05 UTC.
#[derive(Debug)]
pub struct ManualClock {
    /// Wall clock and running time; together, so that nobody sees one moved and the other not.
    time: Mutex<(Timestamp, Duration)>,
}

impl ManualClock {
    /// A shared clock at the usual moment.
    pub fn shared() -> Arc<Self> {
        Self::at(Timestamp::new(1_795_185_005, 0).unwrap_or_default())
    }

    /// A shared clock at some moment.
    pub fn at(now: Timestamp) -> Arc<Self> {
        Arc::new(Self { time: Mutex::new((now, Duration::ZERO)) })
    }

    /// Lets time pass: moves the wall clock and the running time.
    pub fn advance(&self, by: Duration) {
        let mut time = self.time.lock().unwrap_or_else(PoisonError::into_inner);
        *time = (time.0.saturating_add(by), time.1.saturating_add(by));
    }

    /// Somebody sets the wall clock, forwards or back; the running time knows nothing of it.
    pub fn set(&self, now: Timestamp) {
        self.time.lock().unwrap_or_else(PoisonError::into_inner).0 = now;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.time.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn elapsed(&self) -> Duration {
        self.time.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_only_when_told() {
        let clock = ManualClock::shared();
        assert_eq!(clock.now().to_string(), "2026-11-20T14:30:05Z");
        clock.advance(Duration::from_secs(3600));
        assert_eq!(clock.now().to_string(), "2026-11-20T15:30:05Z");
        clock.set(Timestamp::default());
        assert_eq!((clock.now(), clock.elapsed()), (Timestamp::default(), Duration::from_secs(3600)));
    }
}
