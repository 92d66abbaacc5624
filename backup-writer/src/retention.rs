//! Retention: which snapshots rules keep, and why. Pure in snapshots, rules and the moment that counts as now.
//!
//! Every device, host and set stands by itself, so that nothing that one of them does lets go of another's. Its snapshots are taken in the order of their
//! numbers, not of their dates: a date can be wrong or invented, a number only grows. So what was the first of a month stays the first, whatever is dated
//! before it afterwards. What is dated after now or incomplete neither counts nor is let go of.
//!
//! A list that a store gives may lack what is newest or what was there before: whatever is missing in it, nothing is let go of that all of it would keep.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use fs_core::id::{DeviceId, RepositoryId, SnapshotId};
use fs_core::snapshot::{ManifestError, Snapshot};
use fs_core::time::{Timestamp, reading_at};

mod policy;

pub use policy::{PRESETS, Period, Policy, PolicyError, Rule, Which, show_duration};

/// Of the snapshots of a device and set that count, one of so many, and at least one, may go in one run that nobody has confirmed.
pub const UNCONFIRMED_SHARE: usize = 10;

/// What rules look at of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Which it is.
    pub id: SnapshotId,
    /// Where it belongs.
    pub series: SeriesKey,
    /// Its number among those of its device.
    pub sequence: u64,
    /// Whether it is complete.
    pub sealed: bool,
    /// When its run began, by the device's clock.
    pub started: Timestamp,
    /// When it was committed: by the store's clock, or if that has none by the device's. Of a copy, when its original ended: it has the date of that.
    pub committed: Timestamp,
    /// How far the device's local time was ahead of UTC, in minutes.
    pub utc_offset_minutes: i32,
    /// Its tags.
    pub tags: Vec<String>,
}

/// Whose snapshots are looked at together.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SeriesKey {
    /// Host name.
    pub host: String,
    /// Set; empty for the host's default set.
    pub set: String,
    /// Who wrote them.
    pub device: DeviceId,
    /// The repository that they were copied from. Copies stand by themselves: their numbers say when they were copied, not when they were taken.
    pub original: Option<RepositoryId>,
}

impl Candidate {
    /// What rules look at of a snapshot. Decodes its manifest.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn of(snapshot: &Snapshot) -> Result<Self, ManifestError> {
        let manifest = snapshot.manifest()?;
        let original = manifest.original.map(|original| original.repository);
        Ok(Self {
            id: snapshot.id,
            committed: if original.is_some() { manifest.ended } else { manifest.committed() },
            series: SeriesKey { host: manifest.host, set: manifest.set, device: manifest.device, original },
            sequence: manifest.sequence,
            sealed: snapshot.sealed,
            started: manifest.started,
            utc_offset_minutes: manifest.utc_offset_minutes,
            tags: manifest.tags,
        })
    }

    /// The date that makes it youngest: an old one must be true by both clocks.
    pub fn dated(&self) -> Timestamp {
        self.started.max(self.committed)
    }
}

/// Why a snapshot is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reason {
    /// One of the last so many.
    Last(u32),
    /// Younger than that.
    Within(Duration),
    /// The newest when that time began: the only one that shows what was there then.
    Before(Duration),
    /// The first or last of its period.
    Of(Which, Slot),
    /// It has this tag.
    Tagged(String),
    /// No rule keeps it, and it is the newest.
    Newest,
    /// It is dated after now.
    Future,
    /// It is incomplete: a run may be under way, or its seal was not seen. Who is sure forgets it by name.
    Incomplete,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last(count) => write!(f, "last {count}"),
            Self::Within(time) => write!(f, "within {}", show_duration(*time)),
            Self::Before(time) => write!(f, "newest {} ago", show_duration(*time)),
            Self::Of(which, slot) => write!(f, "{which} of {} {slot}", slot.period),
            Self::Tagged(tag) => write!(f, "tag {tag}"),
            Self::Newest => f.write_str("newest"),
            Self::Future => f.write_str("dated in the future"),
            Self::Incomplete => f.write_str("incomplete"),
        }
    }
}

/// One hour, day, month …, by the clock on the wall where the snapshot was taken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Slot {
    period: Period,
    year: i16,
    /// Day of the year, week, month or quarter; 0 for a year.
    number: i16,
    /// Hour of the day; 0 for longer periods.
    hour: i8,
}

impl Slot {
    /// The one that a moment is in; `None` outside of all calendars.
    fn of(period: Period, time: Timestamp, utc_offset_minutes: i32) -> Option<Self> {
        let reading = reading_at(time, utc_offset_minutes)?;
        let date = reading.date();
        let (year, number, hour) = match period {
            Period::Hour => (date.year(), date.day_of_year(), reading.hour()),
            Period::Day => (date.year(), date.day_of_year(), 0),
            Period::Week => (date.iso_week_date().year(), date.iso_week_date().week().into(), 0),
            Period::Month => (date.year(), date.month().into(), 0),
            Period::Quarter => (date.year(), i16::from((date.month() - 1) / 3 + 1), 0),
            Period::Year => (date.year(), 0, 0),
        };
        Some(Self { period, year, number, hour })
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { period, year, number, hour } = self;
        let day = || jiff::civil::Date::new(*year, 1, 1).and_then(|first| first.checked_add(jiff::Span::new().days(number - 1)));
        match (period, day()) {
            (Period::Hour, Ok(day)) => write!(f, "{day} {hour:02}:00"),
            (Period::Day, Ok(day)) => write!(f, "{day}"),
            (Period::Hour | Period::Day, Err(_)) => write!(f, "{year}, day {number}"),
            (Period::Week, _) => write!(f, "{year}-W{number:02}"),
            (Period::Month, _) => write!(f, "{year}-{number:02}"),
            (Period::Quarter, _) => write!(f, "{year}-Q{number}"),
            (Period::Year, _) => write!(f, "{year}"),
        }
    }
}

/// What becomes of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict<'a> {
    /// The snapshot.
    pub snapshot: &'a Candidate,
    /// Why it is kept; without a reason it is let go of.
    pub reasons: Vec<Reason>,
}

impl Verdict<'_> {
    /// Whether it stays.
    pub fn is_kept(&self) -> bool {
        !self.reasons.is_empty()
    }
}

/// What becomes of the snapshots of one device and set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Series<'a> {
    /// Whose they are.
    pub key: &'a SeriesKey,
    /// In the order of their numbers.
    pub verdicts: Vec<Verdict<'a>>,
}

impl Series<'_> {
    /// Those that are let go of.
    pub fn forgotten(&self) -> impl Iterator<Item = &Candidate> {
        self.verdicts.iter().filter(|verdict| !verdict.is_kept()).map(|verdict| verdict.snapshot)
    }

    /// Whether so few of those that count go that nobody need be asked.
    pub fn is_unremarkable(&self) -> bool {
        let does_not_count =
            |verdict: &Verdict<'_>| verdict.reasons.iter().any(|reason| matches!(reason, Reason::Future | Reason::Incomplete));
        let count = self.verdicts.iter().filter(|verdict| !does_not_count(verdict)).count();
        self.forgotten().count() <= count.div_ceil(UNCONFIRMED_SHARE)
    }
}

/// What becomes of each snapshot by the rules, by host, set and device.
pub fn decide<'a>(candidates: &'a [Candidate], policy: &Policy, now: Timestamp) -> Vec<Series<'a>> {
    let mut by_series: BTreeMap<&SeriesKey, Vec<&Candidate>> = BTreeMap::new();
    for candidate in candidates {
        by_series.entry(&candidate.series).or_default().push(candidate);
    }
    let series = by_series.into_iter().map(|(key, mut members)| {
        if key.original.is_some() {
            members.sort_unstable_by_key(|member| (member.started, member.sequence, member.id));
        } else {
            members.sort_unstable_by_key(|member| (member.sequence, member.started, member.id));
        }
        Series { key, verdicts: decide_series(&members, policy, now) }
    });
    series.collect()
}

fn decide_series<'a>(members: &[&'a Candidate], policy: &Policy, now: Timestamp) -> Vec<Verdict<'a>> {
    let mut verdicts: Vec<_> = members.iter().map(|snapshot| Verdict { snapshot, reasons: Vec::new() }).collect();
    let counts: Vec<_> = (0..members.len()).filter(|at| members.get(*at).is_some_and(|m| m.sealed && m.dated() <= now)).collect();
    let mut keep = |at: usize, reason: Reason| verdicts.get_mut(at).into_iter().for_each(|verdict| verdict.reasons.push(reason.clone()));
    for rule in policy.rules() {
        let counted = counts.iter().filter_map(|at| Some((*at, *members.get(*at)?)));
        for (at, reason) in kept_by(rule, &counted.collect::<Vec<_>>(), now) {
            keep(at, reason);
        }
    }
    let newest = counts.last().copied();
    for (at, verdict) in verdicts.iter_mut().enumerate() {
        let snapshot = verdict.snapshot;
        if snapshot.dated() > now {
            verdict.reasons.push(Reason::Future);
        } else if !snapshot.sealed {
            verdict.reasons.push(Reason::Incomplete);
        } else if newest == Some(at) && verdict.reasons.is_empty() {
            verdict.reasons.push(Reason::Newest);
        }
    }
    verdicts
}

/// Those of the snapshots that count, given by their places in order, that a rule keeps.
fn kept_by(rule: &Rule, counted: &[(usize, &Candidate)], now: Timestamp) -> Vec<(usize, Reason)> {
    match rule {
        Rule::Last(count) => {
            let skipped = counted.len().saturating_sub(usize::try_from(*count).unwrap_or(usize::MAX));
            counted.iter().skip(skipped).map(|(at, _)| (*at, Reason::Last(*count))).collect()
        }
        Rule::Within(time) => {
            let is_young = |snapshot: &Candidate| now.since(snapshot.dated()) <= *time;
            let mut newest_old = None;
            let mut kept = Vec::new();
            for (at, snapshot) in counted.iter().rev() {
                // What was there when that time began. A later number alone does not make an old one that: its date may have been set back.
                if is_young(snapshot) {
                    kept.push((*at, Reason::Within(*time)));
                } else if newest_old < Some(snapshot.dated()) {
                    newest_old = Some(snapshot.dated());
                    kept.push((*at, Reason::Before(*time)));
                }
            }
            kept
        }
        Rule::Of { which, period, count } => {
            let mut chosen: BTreeMap<Slot, usize> = BTreeMap::new();
            for (at, snapshot) in counted {
                let Some(slot) = Slot::of(*period, snapshot.started, snapshot.utc_offset_minutes) else { continue };
                match which {
                    Which::First => drop(chosen.entry(slot).or_insert(*at)),
                    Which::Last => drop(chosen.insert(slot, *at)),
                }
            }
            let count = count.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX));
            chosen.into_iter().rev().take(count).map(|(slot, at)| (at, Reason::Of(*which, slot))).collect()
        }
        Rule::Tagged(tag) => {
            let tagged = counted.iter().filter(|(_, snapshot)| snapshot.tags.contains(tag));
            tagged.map(|(at, _)| (*at, Reason::Tagged(tag.clone()))).collect()
        }
    }
}

/// All snapshots that are let go of.
pub fn forgotten_ids(series: &[Series<'_>]) -> BTreeSet<SnapshotId> {
    series.iter().flat_map(Series::forgotten).map(|snapshot| snapshot.id).collect()
}

#[cfg(test)]
mod tests;
