//! Retention against calendars that no one would think of: years of backups with changes of the clock, leap days, gaps, wrong dates and floods, forgotten bit by
//! bit, and a model that is written as the promise reads and shares nothing with the rules.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use backup_writer::retention::{Candidate, Period, Policy, Rule, SeriesKey, Which, decide, forgotten_ids};
use fs_core::id::{DeviceId, SnapshotId};
use fs_core::time::Timestamp;
use tests::driven::is_long;

const DAY: i64 = 86_400;
const HOUR: i64 = 3600;

/// Numbers that follow from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: i64) -> i64 {
        (self.roll() % bound.max(1).cast_unsigned()).cast_signed()
    }

    fn one_in(&mut self, bound: i64) -> bool {
        self.below(bound) == 0
    }

    /// A place among so many.
    fn place(&mut self, count: usize) -> usize {
        (self.roll() % count.max(1) as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.place(from.len())]
    }
}

/// Days since 1970 on which months begin, from January 1960 on: counted month by month, with the leap years of the calendar on the wall.
struct Months(Vec<i64>);

impl Months {
    fn new() -> Self {
        let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let (mut starts, mut day) = (Vec::new(), -3653);
        for year in 1960..2200 {
            for month in [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
                starts.push(day);
                day += month;
            }
        }
        assert_eq!(starts[120], 0, "January 1970");
        Self(starts)
    }

    /// Months since January 1960.
    fn of(&self, day: i64) -> i64 {
        self.0.partition_point(|start| *start <= day) as i64 - 1
    }

    fn slot(&self, period: Period, local: i64) -> i64 {
        let day = local.div_euclid(DAY);
        match period {
            Period::Hour => local.div_euclid(HOUR),
            Period::Day => day,
            // The first of January 1970 was a Thursday.
            Period::Week => (day + 3).div_euclid(7),
            Period::Month => self.of(day),
            Period::Quarter => self.of(day) / 3,
            Period::Year => self.of(day) / 12,
        }
    }
}

/// Where clocks are set forwards and back.
#[derive(Clone, Copy)]
struct Place {
    winter: i64,
    summer: i64,
    /// Days of the year.
    begins: i64,
    ends: i64,
}

impl Place {
    fn any(dice: &mut Dice) -> Self {
        let (winter, summer) =
            dice.pick(&[(0, 0), (60, 120), (-300, -240), (630, 660), (570, 630), (-210, -150), (-660, 780), (840, 840), (-720, -720)]);
        let begins = 60 + dice.below(60);
        Self { winter, summer, begins, ends: begins + 60 + dice.below(150) }
    }

    /// Minutes ahead of UTC. Changes at two in the morning, more or less.
    fn offset(&self, seconds: i64) -> i64 {
        let in_year = (seconds - 2 * HOUR).rem_euclid(365 * DAY + DAY / 4) / DAY;
        if (self.begins..self.ends).contains(&in_year) { self.summer } else { self.winter }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Taken {
    number: u64,
    started: i64,
    committed: i64,
    offset: i64,
    sealed: bool,
    /// The month that the clock on the wall showed.
    month: i64,
}

impl Taken {
    fn dated(&self) -> i64 {
        self.started.max(self.committed)
    }

    fn local(&self) -> i64 {
        self.started + 60 * self.offset
    }

    fn id(&self, series: usize) -> SnapshotId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&self.number.to_be_bytes());
        id[8] = series as u8;
        SnapshotId::from_bytes(id)
    }

    /// The number and the series that an id was made of.
    fn of_id(id: &SnapshotId) -> (u64, usize) {
        let (number, rest) = id.as_bytes().split_first_chunk().unwrap();
        (u64::from_be_bytes(*number), rest[0].into())
    }

    fn candidate(&self, series: usize) -> Candidate {
        let time = |seconds| Timestamp::new(seconds, 0).unwrap();
        Candidate {
            id: self.id(series),
            series: SeriesKey {
                host: "host".into(),
                set: ["", "etc"][series % 2].into(),
                device: DeviceId::from_bytes([(series / 2) as u8; 16]),
                original: None,
            },
            sequence: self.number,
            sealed: self.sealed,
            started: time(self.started),
            committed: time(self.committed),
            utc_offset_minutes: self.offset as i32,
            tags: Vec::new(),
        }
    }
}

/// What a device and set has ever taken, and the numbers of what is left.
#[derive(Default)]
struct History {
    taken: Vec<Taken>,
    left: BTreeSet<u64>,
    /// The first ones of their months when they were taken.
    firsts: Vec<u64>,
    /// Months of which there is one.
    months: BTreeSet<i64>,
}

impl History {
    fn take(&mut self, months: &Months, mut taken: Taken) -> Taken {
        taken.number = self.taken.len() as u64 + 1;
        taken.month = months.slot(Period::Month, taken.local());
        if taken.sealed && self.months.insert(taken.month) {
            self.firsts.push(taken.number);
        }
        self.left.insert(taken.number);
        self.taken.push(taken);
        taken
    }

    /// What the service description says must be there, of all that was ever taken: the last 28, the first of every month, what was there in the last 28
    /// days at any moment; and what does not count.
    fn promised(&self, now: i64) -> Vec<u64> {
        let (counts, others): (Vec<&Taken>, Vec<&Taken>) = self.taken.iter().partition(|taken| taken.sealed && taken.dated() <= now);
        let mut promised: Vec<u64> = others.iter().map(|taken| taken.number).collect();
        promised.extend(counts.iter().rev().take(28).map(|taken| taken.number));
        let mut months_seen = HashSet::new();
        promised.extend(counts.iter().filter(|taken| months_seen.insert(taken.month)).map(|taken| taken.number));
        // Whoever deleted a file at some moment since then finds it in what was newest at that moment.
        let began = now - 28 * DAY;
        promised.extend(counts.iter().filter(|taken| taken.dated() >= began).map(|taken| taken.number));
        let old: Vec<_> = counts.iter().filter(|taken| taken.dated() < began).collect();
        // From the end, where it is as good as always found at once.
        let is_replaced = |taken: &Taken| old.iter().rev().any(|other| other.number > taken.number && other.dated() >= taken.dated());
        promised.extend(old.iter().filter(|taken| !is_replaced(taken)).map(|taken| taken.number));
        promised.sort_unstable();
        promised.dedup();
        promised
    }
}

/// One calendar: several devices and sets over months or years.
struct Life {
    dice: Dice,
    place: Place,
    clock: i64,
    series: Vec<History>,
    /// What is left of all of them, as the rules see it.
    candidates: Vec<Candidate>,
    /// How many snapshots there may be; an hour of computing is worth many calendars, not long ones.
    room: i64,
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        // From 1997 to 2035: leap years, one of them with 29 February 2000.
        let clock = 10_000 * DAY + dice.below(14_000 * DAY);
        let series = (0..1 + dice.below(3)).map(|_| History::default()).collect();
        Self { place: Place::any(&mut dice), clock, series, candidates: Vec::new(), room: 60 + dice.below(200), dice }
    }

    /// A run of a device whose clock may be wrong.
    fn back_up(&mut self, months: &Months, which: usize) {
        let dice = &mut self.dice;
        let took = dice.below(2 * HOUR);
        let mut started = self.clock;
        if dice.one_in(40) {
            started = match dice.below(3) {
                0 => dice.below(DAY),
                1 => self.clock + dice.below(400 * DAY),
                _ => self.clock - dice.below(60 * DAY),
            };
        }
        // A store without a clock leaves the device's.
        let committed = if dice.one_in(20) { started + took } else { self.clock + took };
        let offset = if dice.one_in(50) { dice.below(1500) - 750 } else { self.place.offset(started) };
        let taken = Taken { number: 0, started, committed, offset, sealed: !dice.one_in(30), month: 0 };
        self.clock += took;
        self.take(months, which, taken);
    }

    fn take(&mut self, months: &Months, which: usize, taken: Taken) {
        let taken = self.series[which].take(months, taken);
        self.candidates.push(taken.candidate(which));
    }

    /// Somebody with a stolen key writes many snapshots and dates them as it pleases him, but not after now.
    fn flood(&mut self, months: &Months, which: usize) {
        for _ in 0..30 + self.dice.below(60) {
            let started = self.clock - self.dice.below(90 * DAY);
            let committed = if self.dice.one_in(2) { started } else { self.clock };
            let offset = self.place.offset(started);
            self.take(months, which, Taken { number: 0, started, committed, offset, sealed: true, month: 0 });
        }
    }

    /// The machine's clock may be wrong too; the earlier one counts.
    fn forget(&mut self, policy: &Policy) {
        let here = if self.dice.one_in(10) { self.clock - self.dice.below(100 * DAY) } else { self.clock + self.dice.below(1000 * DAY) };
        let now = here.min(self.clock);
        let gone = forgotten_ids(&decide(&self.candidates, policy, Timestamp::new(now, 0).unwrap()));
        self.candidates.retain(|candidate| !gone.contains(&candidate.id));
        for id in &gone {
            let (number, which) = Taken::of_id(id);
            assert!(self.series[which].left.remove(&number), "what is gone was there");
        }
        for history in &self.series {
            // By the right clock, whatever this machine's says.
            let promised = history.promised(self.clock);
            if now == self.clock {
                assert!(history.left.iter().eq(&promised), "what is promised is there, and nothing else: {promised:?}, {:?}", history.left);
            } else {
                assert!(
                    promised.iter().all(|number| history.left.contains(number)),
                    "a clock that is behind forgets nothing that is promised"
                );
            }
            let lost = history.firsts.iter().find(|number| !history.left.contains(number));
            assert_eq!(lost, None, "the first of a month, whatever came afterwards");
        }
    }

    fn live(mut self, months: &Months, policy: &Policy) -> usize {
        let every = self.dice.pick(&[HOUR, 6 * HOUR, DAY, DAY, DAY, 3 * DAY, 7 * DAY, 31 * DAY]);
        let forgets_every = 1 + self.dice.below(20);
        let (mut runs, mut taken) = (0, 0);
        while taken < self.room {
            let which = self.dice.place(self.series.len());
            if self.dice.one_in(150) {
                self.flood(months, which);
            } else {
                self.back_up(months, which);
            }
            taken += 1;
            self.clock += every + self.dice.below(every / 4);
            if self.dice.one_in(60) {
                self.clock += self.dice.below(70 * DAY);
            }
            if taken % forgets_every == 0 {
                self.forget(policy);
                runs += 1;
            }
        }
        self.forget(policy);
        runs + 1
    }
}

/// Says which calendar it was.
struct TellSeed(u64);

impl Drop for TellSeed {
    #[expect(clippy::print_stderr, reason = "how to come back to a failed run")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("calendar {}", self.0);
        }
    }
}

fn every_seed(count: u64, one: impl Fn(u64) -> usize + Sync) -> usize {
    let workers = std::thread::available_parallelism().map_or(2, |count| count.get() as u64);
    std::thread::scope(|scope| {
        let one = &one;
        let work = move |worker| {
            let seeds = (worker..count).step_by(workers as usize);
            seeds.map(|seed| {
                let _guard = TellSeed(seed);
                one(seed)
            })
        };
        let running: Vec<_> = (0..workers).map(|worker| scope.spawn(move || work(worker).sum::<usize>())).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).sum()
    })
}

/// A million calendars in a long run.
#[test]
fn twenty_eight_and_the_first_of_every_month_is_never_broken() {
    let (months, policy) = (Months::new(), Policy::parse("28+monthly").unwrap());
    let count = if is_long() { 1_000_000 } else { 4000 };
    let runs = every_seed(count, |seed| Life::new(seed).live(&months, &policy));
    println!("{count} calendars, {runs} runs of forget");
    assert!(runs as u64 > 5 * count);
}

/// Any snapshots at all, not even in an order that could be.
fn jumble(dice: &mut Dice, months: &Months) -> (Vec<History>, i64) {
    let now = 19_000 * DAY + dice.below(3000 * DAY);
    let mut series: Vec<History> = (0..1 + dice.below(3)).map(|_| History::default()).collect();
    let reach = dice.pick(&[3 * DAY, 40 * DAY, 1500 * DAY]);
    for _ in 0..dice.below(60) {
        let which = dice.place(series.len());
        let started = now - dice.below(reach) + dice.below(reach / 10 + 2);
        let taken = Taken {
            number: 0,
            started,
            committed: started + dice.below(HOUR),
            offset: dice.below(1600) - 800,
            sealed: !dice.one_in(9),
            month: 0,
        };
        series[which].take(months, taken);
    }
    (series, now)
}

fn any_rule(dice: &mut Dice) -> Rule {
    let count = 1 + dice.place(9) as u32;
    match dice.below(4) {
        0 => Rule::Last(count),
        1 => Rule::Within(Duration::from_secs(u64::from(count) * dice.pick(&[HOUR, DAY, 30 * DAY]).cast_unsigned())),
        _ => Rule::Of {
            which: dice.pick(&[Which::First, Which::Last]),
            period: dice.pick(&Period::ALL).0,
            count: dice.pick(&[None, Some(count)]),
        },
    }
}

/// Numbers that one rule keeps of those that count, said as simply as possible.
fn kept_by(rule: &Rule, counts: &[&Taken], months: &Months, now: i64) -> BTreeSet<u64> {
    let later_than = |taken: &Taken| counts.iter().filter(|other| other.number > taken.number).count();
    let keeps = |taken: &&&Taken| match rule {
        Rule::Last(count) => later_than(taken) < *count as usize,
        Rule::Within(time) => {
            let is_young = |taken: &Taken| now - taken.dated() <= time.as_secs() as i64;
            let replaces = |other: &Taken| other.number > taken.number && other.dated() >= taken.dated();
            is_young(taken) || !counts.iter().any(|other| !is_young(other) && replaces(other))
        }
        Rule::Of { which, period, count } => {
            let slot = |taken: &Taken| months.slot(*period, taken.local());
            let others = counts.iter().filter(|other| slot(other) == slot(taken));
            let is_it = match which {
                Which::First => others.map(|other| other.number).min() == Some(taken.number),
                Which::Last => others.map(|other| other.number).max() == Some(taken.number),
            };
            let newer: BTreeSet<_> = counts.iter().map(|other| slot(other)).filter(|other| *other > slot(taken)).collect();
            is_it && count.is_none_or(|count| newer.len() < count as usize)
        }
        Rule::Tagged(_) => false,
    };
    counts.iter().filter(keeps).map(|taken| taken.number).collect()
}

#[test]
fn every_rule_keeps_what_it_says() {
    let months = Months::new();
    let kept = every_seed(if is_long() { 400_000 } else { 4000 }, |seed| {
        let dice = &mut Dice(seed);
        let (series, now) = jumble(dice, &months);
        let policy = Policy::new((0..1 + dice.below(3)).map(|_| any_rule(dice)).collect());
        assert_eq!(Policy::parse(&policy.to_string()).unwrap(), policy);
        let candidates: Vec<_> =
            series.iter().enumerate().flat_map(|(at, history)| history.taken.iter().map(move |taken| taken.candidate(at))).collect();
        let gone = forgotten_ids(&decide(&candidates, &policy, Timestamp::new(now, 0).unwrap()));
        for (at, history) in series.iter().enumerate() {
            let counts: Vec<_> = history.taken.iter().filter(|taken| taken.sealed && taken.dated() <= now).collect();
            let mut expected: BTreeSet<_> = policy.rules().iter().flat_map(|rule| kept_by(rule, &counts, &months, now)).collect();
            expected.extend(counts.last().map(|taken| taken.number));
            expected.extend(history.taken.iter().filter(|taken| !taken.sealed || taken.dated() > now).map(|taken| taken.number));
            let kept: BTreeSet<_> = history.taken.iter().filter(|taken| !gone.contains(&taken.id(at))).map(|taken| taken.number).collect();
            assert_eq!(kept, expected, "{policy} at {now}: {:?}", history.taken);
        }
        candidates.len() - gone.len()
    });
    assert!(kept > 10_000);
}

/// A list that lacks snapshots or seals, as a store may give one that is behind: nothing is let go of that the whole list would keep.
#[test]
fn what_a_list_lacks_costs_no_snapshot() {
    let months = Months::new();
    every_seed(if is_long() { 400_000 } else { 4000 }, |seed| {
        let dice = &mut Dice(seed);
        let (series, now) = jumble(dice, &months);
        let policy = Policy::new((0..1 + dice.below(3)).map(|_| any_rule(dice)).collect());
        let now = Timestamp::new(now, 0).unwrap();
        let whole: Vec<_> =
            series.iter().enumerate().flat_map(|(at, history)| history.taken.iter().map(move |taken| taken.candidate(at))).collect();
        let mut behind: Vec<_> = whole.iter().filter(|_| !dice.one_in(4)).cloned().collect();
        behind.iter_mut().for_each(|candidate| candidate.sealed &= !dice.one_in(4));
        let (all, seen) = (forgotten_ids(&decide(&whole, &policy, now)), forgotten_ids(&decide(&behind, &policy, now)));
        assert!(seen.is_subset(&all), "{policy}");
        seen.len()
    });
}
