//! Rules of retention, as people write them: `28+monthly`, `last:10`, `within:14d`, `first-of-month`, `last-of-week:8`, `tag:keep`. Pure.

use std::fmt;
use std::time::Duration;

const DAY: u64 = 24 * 3600;
/// Units of durations in seconds, the longest first. Months and years are the longest that there are: a rule keeps rather more than less.
const UNITS: [(&str, u64); 5] = [("y", 366 * DAY), ("mo", 31 * DAY), ("w", 7 * DAY), ("d", DAY), ("h", 3600)];

/// What service descriptions promise, by name: what it is short for.
pub const PRESETS: [(&str, &str); 3] = [("28+monthly", "last:28,within:28d,first-of-month"), ("28d", "within:28d"), ("14d", "within:14d")];

/// What a rule looks like.
const ALLOWED: &str = "write 28+monthly, 28d or 14d, or rules with commas: last:10, within:30d, first-of-month or first-of-month:12, last-of-week:8, tag:NAME; \
                       periods are hour, day, week, month, quarter and year";

/// A period of the calendar.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Period {
    /// From full hour to full hour.
    Hour,
    /// From midnight.
    Day,
    /// From Monday.
    Week,
    /// From the first.
    Month,
    /// From the first of January, April, July or October.
    Quarter,
    /// From the first of January.
    Year,
}

impl Period {
    /// All, the shortest first, with their names.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Hour, "hour"),
        (Self::Day, "day"),
        (Self::Week, "week"),
        (Self::Month, "month"),
        (Self::Quarter, "quarter"),
        (Self::Year, "year"),
    ];

    /// The period of a name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, name)| *name == text).map(|(period, _)| period)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.into_iter().find(|(period, _)| period == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

/// Which snapshot of a period.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// The first one that was taken in it. It stays the first.
    First,
    /// The last one so far.
    Last,
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::First { "first" } else { "last" })
    }
}

/// One rule: what it keeps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rule {
    /// The last so many.
    Last(u32),
    /// What was there at any moment of so long until now: all younger ones, and the newest before them.
    Within(Duration),
    /// One of each period that has any: of so many newest ones, or of all.
    Of {
        /// Which one.
        which: Which,
        /// Of what.
        period: Period,
        /// Of how many; `None` for ever.
        count: Option<u32>,
    },
    /// All with a tag.
    Tagged(String),
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last(count) => write!(f, "last:{count}"),
            Self::Within(time) => write!(f, "within:{}", show_duration(*time)),
            Self::Of { which, period, count: None } => write!(f, "{which}-of-{period}"),
            Self::Of { which, period, count: Some(count) } => write!(f, "{which}-of-{period}:{count}"),
            Self::Tagged(tag) => write!(f, "tag:{tag}"),
        }
    }
}

/// Why text is no rule.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{text}' is no rule: {reason}")]
pub struct PolicyError {
    /// What was written.
    pub text: String,
    /// What is wrong, and what is allowed.
    pub reason: String,
}

/// Rules that are all asked: what one of them keeps is kept.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Policy(Vec<Rule>);

impl Policy {
    /// These rules. Without any the newest snapshot alone is kept: callers see to it that there is one.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self(rules)
    }

    /// Reads a preset, or rules with commas between them.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let mut rules = Vec::new();
        for part in text.split(',').map(str::trim) {
            match PRESETS.into_iter().find(|(name, _)| *name == part) {
                Some((_, meant)) => rules.extend(Self::parse(meant)?.0),
                None => rules.push(parse_rule(part).map_err(|reason| PolicyError { text: part.to_owned(), reason })?),
            }
        }
        Ok(Self(rules))
    }

    /// The rules.
    pub fn rules(&self) -> &[Rule] {
        &self.0
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules: Vec<_> = self.0.iter().map(Rule::to_string).collect();
        f.write_str(&rules.join(","))
    }
}

impl Rule {
    /// Reads a time for [`Rule::Within`].
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn within(text: &str) -> Result<Self, String> {
        parse_duration(text).map(Self::Within)
    }

    /// Reads `PERIOD` or `PERIOD:COUNT`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of(which: Which, text: &str) -> Result<Self, String> {
        let (period, count) = text.split_once(':').map_or((text, None), |(period, count)| (period, Some(count)));
        let period =
            Period::parse(period).ok_or_else(|| format!("there is no period '{period}': write hour, day, week, month, quarter or year"))?;
        Ok(Self::Of { which, period, count: count.map(parse_count).transpose()? })
    }

    /// Reads a number for [`Rule::Last`].
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn last(text: &str) -> Result<Self, String> {
        parse_count(text).map(Self::Last)
    }
}

fn parse_rule(text: &str) -> Result<Rule, String> {
    if let Some(rest) = text.strip_prefix("first-of-") {
        return Rule::of(Which::First, rest);
    }
    if let Some(rest) = text.strip_prefix("last-of-") {
        return Rule::of(Which::Last, rest);
    }
    match text.split_once(':') {
        Some(("last", count)) => Rule::last(count),
        Some(("within", time)) => Rule::within(time),
        Some(("tag", tag)) if !tag.is_empty() => Ok(Rule::Tagged(tag.to_owned())),
        _ => Err(ALLOWED.to_owned()),
    }
}

fn parse_count(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(format!("'{text}' is no number from 1 on")),
    }
}

/// Hours, days, weeks, months of 31 days and years of 366, one after the other: `36h`, `28d`, `1y6mo`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no time: write 36h, 28d, 8w, 6mo, 1y or several of them as in 1y6mo");
    let (mut rest, mut seconds) = (text, 0u64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let (unit, length) = UNITS.into_iter().find(|(unit, _)| after.starts_with(unit)).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        seconds = number.checked_mul(length).and_then(|more| seconds.checked_add(more)).ok_or_else(wrong)?;
        rest = after.strip_prefix(unit).unwrap_or_default();
    }
    if seconds == 0 || seconds > 1000 * 366 * DAY { Err(wrong()) } else { Ok(Duration::from_secs(seconds)) }
}

/// A time as [`Policy::parse`] reads it: in hours and days, whatever it was written in.
pub fn show_duration(time: Duration) -> String {
    let (days, hours) = (time.as_secs() / DAY, time.as_secs() % DAY / 3600);
    match (days, hours) {
        (0, hours) => format!("{hours}h"),
        (days, 0) => format!("{days}d"),
        (days, hours) => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_and_shown() {
        for (text, shown) in [
            ("28+monthly", "last:28,within:28d,first-of-month"),
            ("28d", "within:28d"),
            ("14d", "within:14d"),
            ("last:3", "last:3"),
            ("within:36h, first-of-quarter:4", "within:1d12h,first-of-quarter:4"),
            ("within:1y6mo", "within:552d"),
            ("last-of-hour:24,last-of-day:7,tag:a:b", "last-of-hour:24,last-of-day:7,tag:a:b"),
            ("14d,tag:keep", "within:14d,tag:keep"),
        ] {
            let policy = Policy::parse(text).unwrap();
            assert_eq!(policy.to_string(), shown, "{text}");
            assert_eq!(Policy::parse(shown).unwrap(), policy);
        }
    }

    #[test]
    fn what_is_no_rule_is_said_with_what_is_one() {
        for (text, says) in [
            ("", "28+monthly"),
            ("monthly", "first-of-month"),
            ("29", "last:10"),
            ("last:0", "from 1 on"),
            ("last:-1", "from 1 on"),
            ("last:99999999999", "from 1 on"),
            ("within:0d", "28d"),
            ("within:28", "28d"),
            ("within:d", "28d"),
            ("within:5000y", "28d"),
            ("within:99999999999999999999d", "28d"),
            ("within:1m", "6mo"),
            ("first-of-moon", "month, quarter or year"),
            ("first-of-month:0", "from 1 on"),
            ("last:3,,last:4", "28+monthly"),
            ("tag:", "tag:NAME"),
        ] {
            let error = Policy::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
