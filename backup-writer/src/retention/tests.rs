use super::*;

/// Seconds since 1970 at which 2026 begins.
const YEAR_2026: i64 = 1_767_225_600;
const DAY: i64 = 86_400;

fn candidate(sequence: u64, started: i64) -> Candidate {
    let time = Timestamp::new(started, 0).unwrap();
    let mut id = [0; 32];
    id[..8].copy_from_slice(&sequence.to_be_bytes());
    Candidate {
        id: SnapshotId::from_bytes(id),
        series: SeriesKey { host: "pc".into(), set: String::new(), device: DeviceId::from_bytes([1; 16]), original: None },
        sequence,
        sealed: true,
        started: time,
        committed: time,
        utc_offset_minutes: 0,
        tags: Vec::new(),
    }
}

/// One a day from the first of January 2026 on, at two in the morning.
fn daily(days: u64) -> Vec<Candidate> {
    (1..=days).map(|day| candidate(day, YEAR_2026 + (day as i64 - 1) * DAY + 7200)).collect()
}

fn at(day: i64) -> Timestamp {
    Timestamp::new(YEAR_2026 + day * DAY, 0).unwrap()
}

fn decided(candidates: &[Candidate], policy: &str, now: Timestamp) -> Vec<(u64, String)> {
    let series = decide(candidates, &Policy::parse(policy).unwrap(), now);
    let told = |verdict: &Verdict<'_>| {
        let reasons: Vec<_> = verdict.reasons.iter().map(Reason::to_string).collect();
        (verdict.snapshot.sequence, reasons.join(", "))
    };
    series.iter().flat_map(|series| series.verdicts.iter().map(told)).collect()
}

fn kept(candidates: &[Candidate], policy: &str, now: Timestamp) -> Vec<u64> {
    decided(candidates, policy, now).into_iter().filter(|(_, reasons)| !reasons.is_empty()).map(|(number, _)| number).collect()
}

#[test]
fn reasons_are_told() {
    let all = daily(100);
    let told = decided(&all, "28+monthly", at(100));
    assert_eq!(told[0], (1, "first of month 2026-01".into()));
    assert_eq!(told[1], (2, String::new()));
    assert_eq!(told[31], (32, "first of month 2026-02".into()));
    assert_eq!(told[71], (72, "newest 28d ago".into()), "who deleted a file on the 73rd day finds it here");
    assert_eq!(told[99], (100, "last 28, within 28d".into()));
    let kept: Vec<_> = told.iter().filter(|(_, reasons)| !reasons.is_empty()).map(|(number, _)| *number).collect();
    assert_eq!(kept[..4], [1, 32, 60, 72]);
    assert_eq!(kept.len(), 4 + 28 + 1 - 1, "{kept:?}");
    for (policy, says) in [
        ("last-of-hour:1", "last of hour 2026-04-10 02:00"),
        ("last-of-day:1", "last of day 2026-04-10"),
        ("last-of-week:1", "last of week 2026-W15"),
        ("last-of-quarter:1", "last of quarter 2026-Q2"),
        ("last-of-year:1", "last of year 2026"),
    ] {
        assert_eq!(decided(&all, policy, at(100)).pop(), Some((100, says.into())));
    }
}

#[test]
fn the_newest_stays_whatever_the_rules_say() {
    let told = decided(&daily(3), "tag:none", at(500));
    assert_eq!(told, [(1, String::new()), (2, String::new()), (3, "newest".into())]);
    assert_eq!(kept(&daily(3), "14d", at(500)), [3]);
}

#[test]
fn what_is_dated_after_now_neither_counts_nor_goes() {
    let mut all = daily(10);
    all.push(candidate(11, YEAR_2026 + 400 * DAY));
    assert_eq!(kept(&all, "last:2", at(10)), [9, 10, 11]);
    // By the store's clock it is from the future, by its own from the past.
    all[2].committed = at(300);
    assert_eq!(kept(&all, "last:2", at(10)), [3, 9, 10, 11]);
    assert_eq!(decided(&all, "last:2", at(10))[2].1, "dated in the future");
}

#[test]
fn a_clock_that_was_set_back_makes_nothing_old() {
    let mut all = daily(10);
    all[9].started = Timestamp::new(100 * DAY, 0).unwrap();
    assert_eq!(kept(&all, "14d", at(20)), [6, 7, 8, 9, 10]);
    assert!(kept(&all, "last:1", at(20)).contains(&10), "the last one by its number");
}

#[test]
fn the_first_of_a_month_is_that_of_the_clock_on_the_wall() {
    // Half past ten in the evening of 31 January in UTC is February in Berlin already.
    let mut all = vec![
        candidate(1, YEAR_2026),
        candidate(2, YEAR_2026 + 31 * DAY - 5400),
        candidate(3, YEAR_2026 + 31 * DAY + 5400),
        candidate(4, YEAR_2026 + 50 * DAY),
    ];
    assert_eq!(kept(&all, "first-of-month", at(60)), [1, 3, 4]);
    all[1].utc_offset_minutes = 120;
    assert_eq!(kept(&all, "first-of-month", at(60)), [1, 2, 4]);
    // No clock is so far ahead: that is UTC.
    all[1].utc_offset_minutes = i32::MIN;
    assert_eq!(kept(&all, "first-of-month", at(60)), [1, 3, 4]);
}

#[test]
fn devices_hosts_and_sets_stand_by_themselves_and_a_flood_drowns_only_its_own() {
    let mut all = daily(3);
    let flood = |change: &dyn Fn(&mut SeriesKey)| {
        (1..500)
            .map(|n| {
                let mut fake = candidate(n, YEAR_2026 + 4 * DAY + n as i64);
                change(&mut fake.series);
                fake.id = SnapshotId::from_bytes(fs_core::crypto::hash(format!("{fake:?}").as_bytes()));
                fake
            })
            .collect::<Vec<_>>()
    };
    all.extend(flood(&|key| key.device = DeviceId::from_bytes([2; 16])));
    all.extend(flood(&|key| key.set = "etc".into()));
    all.extend(flood(&|key| key.host = "other".into()));
    let policy = Policy::parse("last:3").unwrap();
    let series = decide(&all, &policy, at(400));
    assert_eq!(series.len(), 4);
    assert!(series.iter().all(|series| series.verdicts.iter().filter(|verdict| verdict.is_kept()).count() == 3));
    let ours = series.iter().find(|series| series.verdicts.len() == 3).unwrap();
    assert!(ours.verdicts.iter().all(Verdict::is_kept) && ours.is_unremarkable());
    assert!(series.iter().filter(|series| series.verdicts.len() > 3).all(|series| !series.is_unremarkable()));
}

#[test]
fn a_tenth_rounded_up_is_unremarkable() {
    for (count, last, is_unremarkable) in [(29, 28, true), (8, 7, true), (8, 6, false), (20, 18, true), (21, 18, true), (20, 17, false)] {
        let all = daily(count);
        let policy = Policy::new(vec![Rule::Last(last)]);
        assert_eq!(decide(&all, &policy, at(1000))[0].is_unremarkable(), is_unremarkable, "{last} of {count}");
    }
}

#[test]
fn incomplete_ones_neither_count_nor_go() {
    let mut all = daily(5);
    all[3].sealed = false;
    assert_eq!(kept(&all, "last:2", at(100)), [3, 4, 5]);
    assert_eq!(decided(&all, "last:2", at(100))[3].1, "incomplete");
}

#[test]
fn tags_keep() {
    let mut all = daily(5);
    all[1].tags = vec!["before update".into()];
    assert_eq!(decided(&all, "last:1,tag:before update", at(100))[1].1, "tag before update");
    assert_eq!(kept(&all, "last:1,tag:before update", at(100)), [2, 5]);
}

#[test]
fn a_date_that_was_set_back_does_not_take_the_place_of_what_was_there() {
    let mut all = daily(3);
    // Days 10, 40 and 1: the last one was taken on day 50 by a clock that had lost its battery.
    for (candidate, day) in all.iter_mut().zip([10, 40, 1]) {
        (candidate.started, candidate.committed) = (at(day), at(day));
    }
    assert_eq!(kept(&all, "28d", at(50)), [1, 2, 3]);
    assert_eq!(kept(&all, "28d", at(69)), [2, 3], "later in number and in date");
}

#[test]
fn what_does_not_count_makes_no_room_for_forgetting() {
    let mut all = daily(100);
    let unremarkable =
        |all: &[Candidate], keep: &str| decide(all, &Policy::parse(keep).unwrap(), at(100)).iter().all(Series::is_unremarkable);
    assert!(unremarkable(&all[..20], "last:18") && !unremarkable(&all[..20], "last:17"));
    for candidate in &mut all[20..] {
        candidate.sealed = false;
    }
    assert!(!unremarkable(&all, "last:15"), "5 of 20 that count, not of 100");
}
