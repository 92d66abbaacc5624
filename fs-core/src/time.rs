//! Moments in time, and the only place that asks the system for them.
//!
//! Everything that needs "now" is handed a [`Clock`], so a test can set it, stop it and let years pass.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;

/// Nanoseconds in a second.
const NANOS: i128 = 1_000_000_000;

/// A moment: nanoseconds since 1970-01-01 UTC, far beyond 1970 and 2038 in both directions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp {
    seconds: i64,
    nanos: u32,
}

impl Timestamp {
    /// A moment from whole seconds and the nanoseconds after them; `None` if there are 10⁹ nanoseconds or more.
    pub fn new(seconds: i64, nanos: u32) -> Option<Self> {
        (i128::from(nanos) < NANOS).then_some(Self { seconds, nanos })
    }

    /// Whole seconds since 1970, rounded down; negative before.
    pub fn seconds(self) -> i64 {
        self.seconds
    }

    /// Nanoseconds after [`Self::seconds`], 0 to 999 999 999.
    pub fn nanos(self) -> u32 {
        self.nanos
    }

    /// Nanoseconds since 1970.
    pub fn as_nanos(self) -> i128 {
        i128::from(self.seconds) * NANOS + i128::from(self.nanos)
    }

    /// The moment `duration` earlier; saturates at the beginning of time.
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Self::from_nanos(self.as_nanos() - nanos_of(duration))
    }

    /// The moment `duration` later; saturates at the end of time.
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self::from_nanos(self.as_nanos() + nanos_of(duration))
    }

    /// The moment of an HTTP date header; `None` if it is none.
    pub fn from_http_date(text: &str) -> Option<Self> {
        let zoned = jiff::fmt::rfc2822::parse(text).ok()?;
        Self::new(zoned.timestamp().as_second(), 0)
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        let nanos = u64::try_from(self.as_nanos() - earlier.as_nanos()).unwrap_or(0);
        Duration::from_nanos(nanos)
    }

    /// The moment so many nanoseconds later, or earlier; `None` beyond the ends of time.
    pub fn checked_add_nanos(self, nanos: i64) -> Option<Self> {
        let total = self.as_nanos() + i128::from(nanos);
        let seconds = i64::try_from(total.div_euclid(NANOS)).ok()?;
        Self::new(seconds, u32::try_from(total.rem_euclid(NANOS)).ok()?)
    }

    fn from_nanos(nanos: i128) -> Self {
        let seconds = nanos.div_euclid(NANOS).clamp(i64::MIN.into(), i64::MAX.into());
        let rest = nanos.rem_euclid(NANOS);
        Self { seconds: i64::try_from(seconds).unwrap_or(i64::MAX), nanos: u32::try_from(rest).unwrap_or(0) }
    }
}

impl From<std::time::SystemTime> for Timestamp {
    fn from(time: std::time::SystemTime) -> Self {
        match time.duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => Self::from_nanos(nanos_of(after)),
            Err(before) => Self::from_nanos(-nanos_of(before.duration())),
        }
    }
}

/// UTC in RFC 3339 with whole seconds: `2026-11-20T14:30:05Z`; a bare count of seconds outside the years ±9999.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_second(self.seconds) {
            Ok(time) => time.fmt(f),
            Err(_) => write!(f, "@{}", self.seconds),
        }
    }
}

fn nanos_of(duration: Duration) -> i128 {
    i128::from(duration.as_secs()) * NANOS + i128::from(duration.subsec_nanos())
}

/// A clock reading in some time zone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalTime {
    /// The clock reading.
    pub civil: jiff::civil::DateTime,
    /// Offset from UTC in seconds at that moment.
    pub offset_seconds: i32,
    /// Whether that reading occurs twice (a clock set back).
    pub ambiguous: bool,
}

/// Where times come from: the system in the product, a test's hand in tests.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The moment by the wall clock.
    fn now(&self) -> Timestamp;

    /// Time since some fixed point, never running backwards and counting suspended time where the system can tell.
    fn elapsed(&self) -> Duration;
}

/// A shared clock.
pub type SharedClock = Arc<dyn Clock>;

/// The system's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl SystemClock {
    /// A shared system clock.
    pub fn shared() -> SharedClock {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    fn now(&self) -> Timestamp {
        std::time::SystemTime::now().into()
    }

    #[cfg(target_os = "linux")]
    fn elapsed(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
    }

    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    fn elapsed(&self) -> Duration {
        static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
        START.elapsed()
    }
}

/// The time zone in which people read times.
#[derive(Clone, Debug)]
pub struct Zone(TimeZone);

impl Zone {
    /// The zone of this machine; UTC if it has none.
    pub fn system() -> Self {
        Self(TimeZone::system())
    }

    /// UTC.
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// A zone by its IANA name, or `None`.
    pub fn named(name: &str) -> Option<Self> {
        TimeZone::get(name).ok().map(Self)
    }

    /// The clock reading in this zone; `None` outside the years ±9999.
    pub fn local(&self, time: Timestamp) -> Option<LocalTime> {
        let moment = jiff::Timestamp::from_second(time.seconds).ok()?;
        let offset_seconds = self.0.to_offset(moment).seconds();
        let civil = moment.to_zoned(self.0.clone()).datetime();
        let ambiguous = self.0.to_ambiguous_zoned(civil).is_ambiguous();
        Some(LocalTime { civil, offset_seconds, ambiguous })
    }

    /// A moment as people name it: a day or a clock reading in this zone (`2026-01-31`, `2026-01-31 14:30`), or how long before `now`
    /// (`30d`, `2 weeks`, `1y 6mo`). `None` if it is neither, or not past.
    pub fn past(&self, text: &str, now: Timestamp) -> Option<Timestamp> {
        let text = text.trim();
        let now = jiff::Timestamp::from_second(now.seconds).ok()?.to_zoned(self.0.clone());
        let moment = match text.parse::<jiff::civil::DateTime>() {
            Ok(civil) => civil.to_zoned(self.0.clone()).ok()?,
            Err(_) => now.checked_sub(text.parse::<jiff::Span>().ok()?).ok()?,
        };
        if moment > now { None } else { Timestamp::new(moment.timestamp().as_second(), 0) }
    }
}

/// What a clock shows that is so many minutes ahead of UTC, which is UTC itself where no clock is so far ahead; `None` outside the years ±9999.
pub fn reading_at(time: Timestamp, offset_minutes: i32) -> Option<jiff::civil::DateTime> {
    let offset = offset_minutes.checked_mul(60).and_then(|seconds| jiff::tz::Offset::from_seconds(seconds).ok());
    Some(offset.unwrap_or(jiff::tz::Offset::UTC).to_datetime(jiff::Timestamp::from_second(time.seconds).ok()?))
}

/// Seconds since 1970 of a clock reading in UTC: year, then month, day, hour, minute and second; `None` if there is no such reading.
pub fn reading_seconds(year: i16, [month, day, hour, minute, second]: [i8; 5]) -> Option<i64> {
    let civil = jiff::civil::DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
    Some(TimeZone::UTC.to_timestamp(civil).ok()?.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_times_keep_their_nanoseconds() {
        for (seconds, nanos) in [(-62_135_596_800, 1), (-1, 999_999_999), (0, 0), (4_102_444_800, 5), (16_000_000_000, 7)] {
            let time = Timestamp::new(seconds, nanos).unwrap();
            let moved = time.saturating_add(Duration::from_millis(1500)).saturating_sub(Duration::from_millis(1500));
            assert_eq!(moved, time);
        }
        assert_eq!(Timestamp::new(0, 1_000_000_000), None);
    }

    #[test]
    fn shown_in_utc() {
        assert_eq!(Timestamp::new(1_795_271_405, 9).unwrap().to_string(), "2026-11-21T14:30:05Z");
        assert_eq!(Timestamp::new(i64::MAX, 0).unwrap().to_string(), format!("@{}", i64::MAX));
    }

    #[test]
    fn times_before_now_and_days() {
        let now = Timestamp::new(1_795_271_405, 9).unwrap(); // 2026-11-21T14:30:05Z
        let past = |text: &str| Zone::utc().past(text, now).map(|time| time.to_string());
        for (text, time) in [
            ("30d", "2026-10-22T14:30:05Z"),
            ("2 weeks", "2026-11-07T14:30:05Z"),
            ("1y 6mo", "2025-05-21T14:30:05Z"),
            ("10min", "2026-11-21T14:20:05Z"),
            ("2026-01-31", "2026-01-31T00:00:00Z"),
            (" 2026-01-31 14:30 ", "2026-01-31T14:30:00Z"),
        ] {
            assert_eq!(past(text).as_deref(), Some(time), "{text}");
        }
        for bad in ["", "30", "soon", "2027-01-01", "-3d", "30 parsecs"] {
            assert_eq!(past(bad), None, "{bad}");
        }
    }

    #[test]
    fn readings_at_an_offset() {
        let time = Timestamp::new(1_795_271_405, 9).unwrap(); // 2026-11-21T14:30:05Z
        let shown = |time, offset| reading_at(time, offset).map(|reading| reading.to_string());
        assert_eq!(shown(time, 0).as_deref(), Some("2026-11-21T14:30:05"));
        assert_eq!(shown(time, 13 * 60).as_deref(), Some("2026-11-22T03:30:05"));
        assert_eq!(shown(time, -210).as_deref(), Some("2026-11-21T11:00:05"));
        assert_eq!(shown(time, i32::MAX), shown(time, 0), "no clock is so far ahead");
        assert_eq!(shown(Timestamp::new(i64::MAX, 0).unwrap(), 0), None);
    }

    #[test]
    fn a_reading_that_occurs_twice_is_ambiguous() {
        let Some(zone) = Zone::named("Europe/Berlin") else { return };
        let at = |seconds| zone.local(Timestamp::new(seconds, 0).unwrap()).unwrap();
        assert!(at(1_792_888_200).ambiguous, "02:30 on 2026-10-25, before the clock goes back");
        assert!(!at(1_792_800_000).ambiguous);
    }
}
