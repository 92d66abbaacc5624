//! When bytes arrive that were sent over a line: pure arithmetic, so that it can be tested without waiting.

use std::time::Duration;

/// One direction of a line that all connections share.
#[derive(Debug, Clone, Copy, Default)]
pub struct Line {
    /// From one end to the other.
    pub delay: Duration,
    /// Bytes per second; without, as fast as the machine is.
    pub rate: Option<u64>,
    /// Until when what was sent before keeps the sender busy.
    busy_until: Duration,
}

impl Line {
    /// Sends so many bytes at `now`: when the last of them has left, and when it arrives. Later calls never arrive earlier as long as nobody changes the
    /// delay.
    pub fn send(&mut self, now: Duration, length: usize) -> (Duration, Duration) {
        let takes = self.rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(length as f64 / rate.max(1) as f64));
        self.busy_until = self.busy_until.max(now) + takes;
        (self.busy_until, self.busy_until + self.delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_delay_moves_everything_alike() {
        let mut line = Line { delay: MS(10), ..Line::default() };
        assert_eq!(line.send(MS(5), 1_000_000), (MS(5), MS(15)));
        assert_eq!(line.send(MS(6), 1), (MS(6), MS(16)));
    }

    #[test]
    fn a_rate_is_shared_by_all_that_send() {
        let mut line = Line { delay: MS(10), rate: Some(1_000_000), ..Line::default() };
        assert_eq!(line.send(MS(0), 20_000), (MS(20), MS(30)));
        // Waits for the former, then takes its own time.
        assert_eq!(line.send(MS(1), 5_000), (MS(25), MS(35)));
        // A line that was idle has saved nothing up.
        assert_eq!(line.send(MS(100), 1_000), (MS(101), MS(111)));
    }
}
