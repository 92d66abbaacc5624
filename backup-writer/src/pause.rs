//! Hours in which a run neither reads nor sends, as people write them: `08:00-18:00`, `mon-fri 08:00-18:00`, `sat,sun 22:00-06:00`.
//!
//! Pure. What counts is the reading of a clock on the wall, so a clock that is set forwards or back needs no rule of its own.

use fs_core::time::{Timestamp, Zone};

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAY_MINUTES: u16 = 24 * 60;

/// Hours of one or more days of the week. They may reach into the next day.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hours {
    /// Days on which they begin, Monday first.
    days: [bool; 7],
    /// Minutes since midnight.
    from: u16,
    /// The first minute after them; not later than `from` if that is on the next day.
    to: u16,
}

/// Why hours cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PauseError {
    /// They are not written as hours are.
    #[error("'{text}' names no hours: {reason}")]
    Syntax {
        /// What was written.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no other time.
    #[error("all hours of the week are hours of pause")]
    NoHourLeft,
}

/// All hours of pause of a run; none by default.
#[derive(Clone, Debug)]
pub struct Pauses {
    hours: Vec<Hours>,
    zone: Zone,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { hours: Vec::new(), zone: Zone::utc() }
    }
}

impl Hours {
    /// Reads `[DAYS ]HH:MM-HH:MM`; DAYS are `mon`, `mon-fri` or several of these with commas.
    ///
    /// # Errors
    /// [`PauseError::Syntax`].
    pub fn parse(text: &str) -> Result<Self, PauseError> {
        let wrong = |reason: String| PauseError::Syntax { text: text.to_owned(), reason };
        let words: Vec<_> = text.split_whitespace().collect();
        let (days, hours) = match words[..] {
            [hours] => (None, hours),
            [days, hours] => (Some(days), hours),
            _ => return Err(wrong("write 08:00-18:00 or mon-fri 08:00-18:00".into())),
        };
        let days = days.map_or(Ok([true; 7]), parse_days).map_err(wrong)?;
        let (from, to) = hours.split_once('-').ok_or_else(|| wrong("the end is missing".into()))?;
        let (from, to) = (parse_minute(from).map_err(wrong)?, parse_minute(to).map_err(wrong)?);
        if from == to || from == DAY_MINUTES {
            return Err(wrong("they end when they begin; a whole day is 00:00-24:00".into()));
        }
        Ok(Self { days, from, to })
    }

    fn has(&self, (day, minute): (usize, u16)) -> bool {
        let begins_on = |day: usize| self.days.get(day % 7).copied().unwrap_or(false);
        if self.from < self.to {
            return begins_on(day) && (self.from..self.to).contains(&minute);
        }
        begins_on(day) && minute >= self.from || begins_on(day + 6) && minute < self.to
    }
}

impl Pauses {
    /// Hours of pause by the clocks of a zone.
    ///
    /// # Errors
    /// [`PauseError::NoHourLeft`].
    pub fn new(hours: Vec<Hours>, zone: Zone) -> Result<Self, PauseError> {
        let pauses = Self { hours, zone };
        if pauses.end((0, 0)).is_none() { Err(PauseError::NoHourLeft) } else { Ok(pauses) }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.hours.is_empty()
    }

    /// What a clock shows when the pause ends that this moment is in, with the day if that is not the same one; `None` if it is in none.
    pub fn until(&self, now: Timestamp) -> Option<String> {
        if self.is_empty() {
            return None;
        }
        let civil = self.zone.local(now)?.civil;
        let day = usize::try_from(civil.weekday().to_monday_zero_offset()).ok()?;
        let minute = u16::try_from(civil.hour()).ok()? * 60 + u16::try_from(civil.minute()).ok()?;
        let (end_day, end) = self.end((day, minute)).filter(|end| *end != (day, minute))?;
        let name = if end_day == day { String::new() } else { format!("{} ", DAYS.get(end_day)?) };
        Some(format!("{name}{:02}:{:02}", end / 60, end % 60))
    }

    /// The first minute of the week from this one on that is in no pause; `None` if there is none.
    fn end(&self, (day, minute): (usize, u16)) -> Option<(usize, u16)> {
        let week = (0..=7).flat_map(|days| (0..DAY_MINUTES).map(move |minute| ((day + days) % 7, minute)));
        let later = week.skip(usize::from(minute)).take(7 * usize::from(DAY_MINUTES));
        later.into_iter().find(|at| !self.hours.iter().any(|hours| hours.has(*at)))
    }
}

fn parse_days(text: &str) -> Result<[bool; 7], String> {
    let day = |text: &str| {
        let found = DAYS.iter().position(|day| text.eq_ignore_ascii_case(day));
        found.ok_or_else(|| format!("there is no day '{text}': write mon, tue, wed, thu, fri, sat or sun"))
    };
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        for step in 0..=(last + 7 - first) % 7 {
            if let Some(day) = days.get_mut((first + step) % 7) {
                *day = true;
            }
        }
    }
    Ok(days)
}

fn parse_minute(text: &str) -> Result<u16, String> {
    let number = |text: &str| (text.len() == 2).then(|| text.parse::<u16>().ok()).flatten();
    let read = text.split_once(':').and_then(|(hour, minute)| Some((number(hour)?, number(minute)?)));
    let minutes = read.filter(|(hour, minute)| *minute < 60 && hour * 60 + minute <= DAY_MINUTES);
    minutes.map(|(hour, minute)| hour * 60 + minute).ok_or_else(|| format!("'{text}' is no time of day: write 08:00"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(hours: &[&str], zone: Zone) -> Result<Pauses, PauseError> {
        Pauses::new(hours.iter().map(|text| Hours::parse(text).unwrap()).collect(), zone)
    }

    /// 2026-11-20 was a Friday.
    fn at(seconds_of_friday: i64) -> Timestamp {
        Timestamp::new(1_795_132_800 + seconds_of_friday, 0).unwrap()
    }

    #[test]
    fn hours_days_and_midnights() {
        let hour = 3600;
        for (hours, seconds, until) in [
            (&["08:00-18:00"][..], 8 * hour - 1, None),
            (&["08:00-18:00"], 8 * hour, Some("18:00")),
            (&["08:00-18:00"], 18 * hour - 1, Some("18:00")),
            (&["08:00-18:00"], 18 * hour, None),
            (&["mon-fri 08:00-18:00"], 12 * hour, Some("18:00")),
            (&["mon-fri 08:00-18:00"], 36 * hour, None),
            (&["sat,Sun 08:00-18:00"], 36 * hour, Some("18:00")),
            (&["fri-sun 00:00-24:00"], 5 * hour, Some("mon 00:00")),
            (&["fri 22:00-06:00"], 23 * hour, Some("sat 06:00")),
            (&["fri 22:00-06:00"], 29 * hour, Some("06:00")),
            (&["fri 22:00-06:00"], 5 * hour, None),
            (&["fri 08:00-12:00", "fri 12:00-14:30"], 9 * hour, Some("14:30")),
            (&["sat-thu 00:00-24:00"], 24 * hour, Some("fri 00:00")),
            (&[], 0, None),
        ] {
            assert_eq!(pauses(hours, Zone::utc()).unwrap().until(at(seconds)).as_deref(), until, "{hours:?} at {seconds}");
        }
    }

    #[test]
    fn the_clock_on_the_wall_counts_also_when_it_is_set() {
        let Some(zone) = Zone::named("Europe/Berlin") else { return };
        let pauses = pauses(&["01:30-02:30"], zone).unwrap();
        let paused = |seconds: i64| pauses.until(Timestamp::new(seconds, 0).unwrap()).is_some();
        // On 2026-10-25 it is 02:00 to 03:00 twice: from 00:00 UTC and again from 01:00 UTC.
        let midnight = 1_792_886_400;
        let minutes: Vec<i64> = (0..150).filter(|minute| paused(midnight + minute * 60)).collect();
        assert_eq!(minutes, (0..30).chain(60..90).collect::<Vec<_>>());
        // On 2027-03-28 there is no 02:00 to 03:00: at 01:00 UTC it is 03:00.
        let before = 1_806_192_000;
        assert!(paused(before + 59 * 60) && !paused(before + 3600));
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for text in
            ["", "8-18", "08:00", "08:00-25:00", "08:00-24:01", "24:00-08:00", "08:00-08:00", "fryday 08:00-09:00", "mon 08:00-09:00 tue"]
        {
            assert!(matches!(Hours::parse(text), Err(PauseError::Syntax { .. })), "{text}");
        }
        assert_eq!(pauses(&["00:00-12:00", "12:00-24:00"], Zone::utc()).unwrap_err(), PauseError::NoHourLeft);
        assert_eq!(pauses(&["00:00-24:00"], Zone::utc()).unwrap_err(), PauseError::NoHourLeft);
    }
}
