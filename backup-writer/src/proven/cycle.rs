//! Which packs are due when all are to be read within a number of days. Pure.
//!
//! Each pack has its day in the cycle, which follows from its name. It is due when that day has come since it was last in order: so a run that was missed is caught up by
//! the next one, and a machine that remembers nothing reads on the same days as before, never on later ones.

use std::collections::HashMap;

use fs_core::id::PackId;

const DAY_SECONDS: i64 = 86_400;

/// A pack that the store lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The pack.
    pub id: PackId,
    /// Bytes.
    pub size: u64,
    /// When the store received it, in seconds, if it says.
    pub modified: Option<i64>,
}

/// What is known of earlier runs, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// When each pack was last in order.
    pub read: &'a HashMap<PackId, i64>,
    /// When the first run was.
    pub began: i64,
    /// Now.
    pub now: i64,
}

/// Which of several parts a pack belongs to, counted from 0: the same for ever, and about equal parts.
pub fn part(id: &PackId, of: u64) -> u64 {
    let [a, b, c, d, ..] = *id.as_bytes();
    u64::from(u32::from_le_bytes([a, b, c, d])) % of.max(1)
}

/// The packs that are due in a cycle of so many days, those first that were in order longest ago.
pub fn due(packs: &[Listed], known: Known<'_>, days: u64) -> Vec<Listed> {
    let mut due: Vec<_> = packs.iter().filter(|pack| is_due(pack, known, days)).copied().collect();
    due.sort_by_key(|pack| (last_read(&pack.id, known), part(&pack.id, days), pack.id));
    due
}

/// When a pack was last in order; what says to have been in the future says nothing.
fn last_read(id: &PackId, known: Known<'_>) -> Option<i64> {
    known.read.get(id).copied().filter(|seconds| *seconds <= known.now)
}

fn is_due(pack: &Listed, known: Known<'_>, days: u64) -> bool {
    let days = i64::try_from(days).unwrap_or(i64::MAX).max(1);
    let own = i64::try_from(part(&pack.id, days.unsigned_abs())).unwrap_or(0);
    let today = known.now.div_euclid(DAY_SECONDS);
    // The last day of this pack that has come.
    let came = today - (today - own).rem_euclid(days);
    let since = match last_read(&pack.id, known) {
        Some(read) => read.div_euclid(DAY_SECONDS),
        None => {
            // As if it had been in order on the eve of the first run, or when the store received it: its writer had opened each record of it again.
            let eve = known.began.min(known.now).div_euclid(DAY_SECONDS) - 1;
            pack.modified.filter(|modified| *modified <= known.now).map_or(eve, |modified| eve.max(modified.div_euclid(DAY_SECONDS)))
        }
    };
    since < came
}

/// As many of the packs, in order, as do not exceed a number of bytes, and those that have to wait.
pub fn within(packs: Vec<Listed>, bytes_max: u64) -> (Vec<Listed>, Vec<Listed>) {
    let mut left = bytes_max;
    packs.into_iter().partition(|pack| match left.checked_sub(pack.size) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_core::crypto::RandomSource as _;
    use fs_core::testing::SeededRandom;

    fn packs(seed: u64, count: usize) -> Vec<Listed> {
        let random = SeededRandom::shared(seed);
        let pack = || {
            let mut id = [0; 16];
            random.fill(&mut id);
            Listed { id: PackId::from_bytes(id), size: 10, modified: Some(0) }
        };
        (0..count).map(|_| pack()).collect()
    }

    /// Days on which each pack was read, if there is a run on those days that `runs` admits and what is known is lost on those that `loses` does.
    fn simulate(
        packs: &[Listed],
        days: u64,
        until: i64,
        runs: impl Fn(i64) -> bool,
        loses: impl Fn(i64) -> bool,
    ) -> HashMap<PackId, Vec<i64>> {
        let (mut read, mut began, mut history) = (HashMap::new(), None, HashMap::<_, Vec<i64>>::new());
        for day in 1000..1000 + until {
            if loses(day) {
                (read, began) = (HashMap::new(), None);
            }
            if !runs(day) {
                continue;
            }
            // Runs are not punctual.
            let now = day * DAY_SECONDS + (day * 7919) % DAY_SECONDS;
            let began = *began.get_or_insert(now);
            for pack in due(packs, Known { read: &read, began, now }, days) {
                read.insert(pack.id, now);
                history.entry(pack.id).or_default().push(day);
            }
        }
        history
    }

    fn longest_gap(history: &HashMap<PackId, Vec<i64>>, pack: &PackId, until: i64) -> i64 {
        let days = history.get(pack).cloned().unwrap_or_default();
        let all = [&[999][..], &days, &[1000 + until]].concat();
        all.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap()
    }

    #[test]
    fn daily_runs_read_everything_within_the_cycle_and_about_as_much_each_day() {
        for (seed, days) in [(1, 30), (2, 7), (3, 1)] {
            let packs = packs(seed, 600);
            let history = simulate(&packs, days, 100, |_| true, |_| false);
            let days = i64::try_from(days).unwrap();
            assert!(packs.iter().all(|pack| longest_gap(&history, &pack.id, 100) <= days), "seed {seed}");
            let busiest = (1000..1100).map(|day| history.values().flatten().filter(|read| **read == day).count()).max().unwrap();
            assert!(i64::try_from(busiest).unwrap() <= 600 / days * 2 + 5, "seed {seed}: {busiest} in one day");
        }
    }

    #[test]
    fn what_was_missed_is_caught_up_by_the_next_run() {
        let packs = packs(4, 600);
        // Weekly, and three weeks not at all.
        let runs = |day: i64| day % 7 == 0 && !(1030..1050).contains(&day);
        let history = simulate(&packs, 30, 200, runs, |_| false);
        assert!(
            packs.iter().all(|pack| longest_gap(&history, &pack.id, 200) <= 30 + 26),
            "a gap is no longer than the cycle and the pause"
        );
        let after = |day: i64| packs.iter().filter(|pack| history[&pack.id].contains(&day)).count();
        assert!(after(1050) > 300, "{} packs were due in the pause", after(1050));
    }

    #[test]
    fn lost_knowledge_puts_nothing_off() {
        let packs = packs(5, 600);
        let kept = simulate(&packs, 30, 150, |_| true, |_| false);
        for every in [1, 5, 40] {
            let lost = simulate(&packs, 30, 150, |_| true, |day| day % every == 0);
            assert!(packs.iter().all(|pack| longest_gap(&lost, &pack.id, 150) <= 30), "lost every {every} days");
            assert_eq!(lost, kept, "the days stay the same");
        }
    }

    #[test]
    fn a_new_pack_waits_for_its_day_and_clocks_that_ran_ahead_hide_nothing() {
        let pack = packs(6, 1)[0];
        let (day, own) = (DAY_SECONDS, i64::try_from(part(&pack.id, 30)).unwrap());
        let (read, began) = (HashMap::new(), 0);
        let is_due = |modified, now, read: &HashMap<_, _>| !due(&[Listed { modified, ..pack }], Known { read, began, now }, 30).is_empty();
        let on_its_day = (3000 + own) * day + 5;
        assert!(!is_due(Some(on_its_day - 1), on_its_day, &read), "it has just come");
        assert!(is_due(Some(on_its_day - 2 * day), on_its_day, &read));
        assert!(is_due(None, on_its_day, &read));
        let ahead = HashMap::from([(pack.id, on_its_day + 400 * day)]);
        assert!(is_due(Some(0), on_its_day, &ahead));
        assert!(is_due(Some(on_its_day + 400 * day), on_its_day, &read));
    }

    #[test]
    fn what_does_not_fit_waits_and_comes_first_the_next_time() {
        let all = packs(7, 10);
        let (first, second) = within(all.clone(), 35);
        assert_eq!((first.len(), second.len()), (3, 7));
        let read = first.iter().map(|pack| (pack.id, 40 * DAY_SECONDS)).collect();
        let next = due(&all, Known { read: &read, began: 0, now: 80 * DAY_SECONDS }, 30);
        assert!(second.iter().all(|pack| next[..7].contains(pack)), "those that never were come before those that were");
    }
}
