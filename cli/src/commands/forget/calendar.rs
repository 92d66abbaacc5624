//! The days on which there are snapshots, a line for each month: what stays of them and what goes. Pure.

use std::collections::BTreeMap;

use backup_writer::retention::Series;
use fs_core::time::{Timestamp, reading_at};

/// Years that have a snapshot for whatever a wrong clock said are not drawn one by one: lines without any are left out.
const DAYS: usize = 31;

/// The calendar of a series; none without snapshots.
pub(super) fn lines(series: &Series<'_>, now: Timestamp) -> Vec<String> {
    let mut months: BTreeMap<(i16, i8), [Day; DAYS]> = BTreeMap::new();
    for verdict in &series.verdicts {
        let snapshot = verdict.snapshot;
        let Some(reading) = reading_at(snapshot.started, snapshot.utc_offset_minutes) else { continue };
        let month = months.entry((reading.year(), reading.month())).or_insert([Day::default(); DAYS]);
        let day = usize::try_from(reading.day() - 1).ok().and_then(|day| month.get_mut(day));
        let Some(day) = day else { continue };
        if !verdict.is_kept() {
            day.gone = true;
        } else if !snapshot.sealed || snapshot.dated() > now {
            day.uncounted = true;
        } else {
            day.kept = true;
        }
    }
    if months.is_empty() {
        return Vec::new();
    }
    let mut lines = vec!["           1        10        20        30   # kept  - forgotten  + both  ? does not count".to_owned()];
    lines.extend(months.into_iter().map(|((year, month), days)| {
        let days: String = days.iter().map(Day::sign).collect();
        format!("  {year}-{month:02}  {}", days.trim_end())
    }));
    lines
}

#[derive(Clone, Copy, Default)]
struct Day {
    kept: bool,
    gone: bool,
    uncounted: bool,
}

impl Day {
    fn sign(&self) -> char {
        match (self.kept, self.gone, self.uncounted) {
            (true, true, _) => '+',
            (true, false, _) => '#',
            (false, true, _) => '-',
            (false, false, true) => '?',
            (false, false, false) => '.',
        }
    }
}

#[cfg(test)]
mod tests {
    use backup_writer::retention::{Candidate, Policy, SeriesKey, decide};
    use fs_core::id::{DeviceId, SnapshotId};

    use super::*;

    #[test]
    fn days_are_drawn_by_month() {
        let key = SeriesKey { host: "pc".into(), set: String::new(), device: DeviceId::from_bytes([1; 16]), original: None };
        let taken = |sequence: u64, seconds: i64| {
            let started = Timestamp::new(seconds, 0).unwrap();
            let id = SnapshotId::from_bytes([u8::try_from(sequence).unwrap(); 32]);
            let (series, tags) = (key.clone(), Vec::new());
            Candidate { id, series, sequence, sealed: true, started, committed: started, utc_offset_minutes: 60, tags }
        };
        let year = 1_767_225_600; // 2026
        let day = 86_400;
        let all = [
            taken(1, year),
            taken(2, year + day),
            taken(3, year + 30 * day + 3600),
            taken(4, year + 30 * day + 7200),
            taken(5, year + 400 * day),
        ];
        let policy = Policy::parse("last:1,first-of-month").unwrap();
        let now = Timestamp::new(year + 60 * day, 0).unwrap();
        let drawn = lines(&decide(&all, &policy, now)[0], now);
        assert_eq!(drawn[1], "  2026-01  #-............................+");
        assert_eq!(drawn[2], "  2027-02  ....?..........................");
        assert_eq!((drawn.len(), drawn[0].find("10"), drawn[0].find("30")), (3, Some(20), Some(40)));
        assert_eq!(drawn[1].len(), 11 + 31);
    }
}
