//! `Snapshots/HOST/TIME`: all snapshots in the order of time. Their names are made when somebody looks: there may be many, and few are looked at.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::inode::Inode;
use super::layout::DOTS;
use super::safe_name;
use crate::id::SnapshotId;
use crate::snapshot::{Series, Snapshot};
use crate::time::{LocalTime, Zone, reading_seconds};
use crate::tree::ROOT_POSITION;

/// Clocks of the world differ from UTC by less than this, in seconds.
const OFFSET_MAX: i64 = 26 * 3600;
/// The years from 0 to 9999 wherever one is, in seconds since 1970.
const FOUR_DIGITS: Range<i64> = -62_167_219_200 + OFFSET_MAX..253_402_300_800 - OFFSET_MAX;

/// A snapshot in its place.
#[derive(Debug)]
pub struct Shown {
    /// The snapshot.
    pub snapshot: Snapshot,
    slot: u32,
    /// Its host's folder.
    host: u32,
    /// How many before it would have the same name.
    same: u32,
}

impl Shown {
    /// The number of its root directory.
    fn number(&self) -> u64 {
        Inode { slot: self.slot, position: ROOT_POSITION }.number()
    }
}

/// The folder of a host: `HOST`, or `HOST (SET)` for other sets than the default.
#[derive(Debug)]
struct Host {
    name: Vec<u8>,
    /// Its snapshots by their slots, which is mostly the order in which they came.
    members: Vec<u32>,
}

/// All snapshots.
#[derive(Debug)]
pub struct ByTime {
    zone: Zone,
    /// Oldest first.
    shown: Vec<Shown>,
    /// Which one has a slot, by slot.
    slots: Vec<(u32, u32)>,
    hosts: Vec<Host>,
}

impl Default for ByTime {
    fn default() -> Self {
        Self { zone: Zone::utc(), shown: Vec::new(), slots: Vec::new(), hosts: Vec::new() }
    }
}

impl ByTime {
    /// Puts snapshots, the oldest first, in their places. `slot` gives each its slot; one without is not shown.
    pub fn new(snapshots: Vec<Snapshot>, zone: &Zone, slot: &mut dyn FnMut(&SnapshotId) -> Option<u32>) -> Self {
        let mut all = Self { zone: zone.clone(), shown: Vec::with_capacity(snapshots.len()), ..Self::default() };
        let mut folders = Folders::default();
        // Names differ unless host, second and completeness are the same: of the second that is looked at, how many there were.
        let (mut second, mut same_second) = (i64::MIN, HashMap::new());
        for snapshot in snapshots {
            let Some(slot) = slot(&snapshot.id) else { continue };
            let host = folders.of(&snapshot.outline.series, &mut all.hosts);
            if snapshot.started().seconds() != second {
                second = snapshot.started().seconds();
                same_second.clear();
            }
            let count = same_second.entry((host, snapshot.sealed)).or_insert(0);
            all.shown.push(Shown { snapshot, slot, host, same: *count });
            *count += 1;
        }
        all.slots.reserve_exact(all.shown.len());
        all.slots.extend((0..).zip(&all.shown).map(|(at, shown)| (shown.slot, at)));
        all.slots.sort_unstable();
        for (_, at) in &all.slots {
            let host = all.shown.get(*at as usize).and_then(|shown| all.hosts.get_mut(shown.host as usize));
            host.into_iter().for_each(|host| host.members.push(*at));
        }
        all.hosts.iter_mut().for_each(|host| host.members.shrink_to_fit());
        all
    }

    /// All, oldest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Shown> {
        self.shown.iter()
    }

    /// The names of the hosts' folders, in the order of their numbers.
    pub fn hosts(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.hosts.iter().map(|host| &*host.name)
    }

    /// The snapshot in a slot and the number of its host.
    pub fn in_slot(&self, slot: u32) -> Option<(&Snapshot, usize)> {
        let at = self.slots.binary_search_by_key(&slot, |(slot, _)| *slot).ok()?;
        let shown = self.shown.get(self.slots.get(at)?.1 as usize)?;
        Some((&shown.snapshot, shown.host as usize))
    }

    /// The newest complete snapshot of each host that has one.
    pub fn newest(&self) -> Vec<&Shown> {
        let mut newest: Vec<_> = self.hosts.iter().map(|_| None).collect();
        for shown in self.shown.iter().filter(|shown| shown.snapshot.sealed) {
            newest.get_mut(shown.host as usize).into_iter().for_each(|newest| *newest = Some(shown));
        }
        newest.into_iter().flatten().collect()
    }

    /// The name of a snapshot in its host's folder: local time without colons; the offset where a clock change makes the time ambiguous, `_2` where two
    /// would collide, `_incomplete` while unsealed.
    pub fn name(&self, shown: &Shown) -> Vec<u8> {
        let time = shown.snapshot.started();
        let mut name = self.zone.local(time).map_or_else(|| time.to_string().replace(':', "-"), |local| time_name(&local));
        if !shown.snapshot.sealed {
            name.push_str("_incomplete");
        }
        if shown.same > 0 {
            name.push_str(&format!("_{}", shown.same + 1));
        }
        name.into_bytes()
    }

    /// The name of its host's folder.
    pub fn host_of(&self, shown: &Shown) -> &[u8] {
        self.hosts.get(shown.host as usize).map_or(b"", |host| &host.name)
    }

    /// Where it stands: `UP/Snapshots/HOST/TIME`.
    pub fn path(&self, up: &[u8], shown: &Shown) -> Vec<u8> {
        [up, b"Snapshots/", self.host_of(shown), b"/", &self.name(shown)].concat()
    }

    /// How many snapshots a host has.
    pub fn count(&self, host: usize) -> usize {
        self.hosts.get(host).map_or(0, |host| host.members.len())
    }

    /// Lines of a host's folder after a cookie: cookie, name and number. The cookie comes from the slot, which a snapshot never loses: a listing that goes on
    /// after the folder has changed neither skips nor repeats what was there all the time.
    pub fn lines(&self, host: usize, after: u64) -> impl Iterator<Item = (u64, Vec<u8>, u64)> {
        let cookie = |shown: &Shown| DOTS + u64::from(shown.slot);
        let members = self.members(host);
        let first = members.partition_point(|at| self.shown.get(*at as usize).is_some_and(|shown| cookie(shown) <= after));
        let shown = members.iter().skip(first).filter_map(|at| self.shown.get(*at as usize));
        shown.map(move |shown| (cookie(shown), self.name(shown), shown.number()))
    }

    /// The number behind a name in a host's folder.
    pub fn find(&self, host: usize, name: &[u8]) -> Option<u64> {
        let reading = std::str::from_utf8(name).ok().and_then(|name| read_time(name.get(..TIME_LENGTH)?));
        let is_near = |shown: &&Shown| {
            let seconds = shown.snapshot.started().seconds();
            match reading {
                Some(at) => seconds.abs_diff(at) <= OFFSET_MAX.unsigned_abs(),
                // Times of other years are written in other ways.
                None => !FOUR_DIGITS.contains(&seconds),
            }
        };
        let members = self.members(host).iter().filter_map(|at| self.shown.get(*at as usize));
        members.filter(is_near).find(|shown| self.name(shown) == name).map(Shown::number)
    }

    /// Whether a host's folder shows the same as it did before.
    pub fn is_same(&self, host: usize, before: &Self, host_before: usize) -> bool {
        let lines = |all: &Self, host| -> Vec<_> {
            let shown = all.members(host).iter().filter_map(|at| all.shown.get(*at as usize));
            shown.map(|shown| (shown.slot, shown.snapshot.sealed, shown.same)).collect()
        };
        self.members(host).len() == before.members(host_before).len() && lines(self, host) == lines(before, host_before)
    }

    fn members(&self, host: usize) -> &[u32] {
        self.hosts.get(host).map_or(&[], |host| &host.members)
    }
}

/// Which folder a series belongs to.
#[derive(Default)]
struct Folders {
    by_series: HashMap<*const Series, u32>,
    by_name: HashMap<Vec<u8>, u32>,
}

impl Folders {
    fn of(&mut self, series: &Arc<Series>, hosts: &mut Vec<Host>) -> u32 {
        *self.by_series.entry(Arc::as_ptr(series)).or_insert_with(|| {
            let Series { host, set, .. } = &**series;
            let name = if set.is_empty() { safe_name(host) } else { safe_name(&format!("{host} ({set})")) };
            *self.by_name.entry(name).or_insert_with_key(|name| {
                hosts.push(Host { name: name.clone(), members: Vec::new() });
                // There are fewer than slots.
                u32::try_from(hosts.len() - 1).unwrap_or(u32::MAX)
            })
        })
    }
}

/// Characters of a time without an offset.
const TIME_LENGTH: usize = 19;

fn time_name(local: &LocalTime) -> String {
    let (date, time) = (local.civil.date(), local.civil.time());
    let (year, month, day, hour, minute, second) = (date.year(), date.month(), date.day(), time.hour(), time.minute(), time.second());
    let name = format!("{year:04}-{month:02}-{day:02}_{hour:02}-{minute:02}-{second:02}");
    if !local.ambiguous {
        return name;
    }
    let (sign, minutes) = (if local.offset_seconds < 0 { '-' } else { '+' }, local.offset_seconds.abs() / 60);
    format!("{name}{sign}{:02}{:02}", minutes / 60, minutes % 60)
}

/// The time at the beginning of a name, as if it were UTC.
fn read_time(name: &str) -> Option<i64> {
    let (date, time) = name.split_once('_')?;
    let (mut date, mut time) = (date.split('-'), time.split('-'));
    let (year, mut next) = (date.next()?.parse().ok()?, || date.next().or_else(|| time.next())?.parse().ok());
    reading_seconds(year, [next()?, next()?, next()?, next()?, next()?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::DeviceId;
    use crate::snapshot::codec::tests::manifest;
    use crate::time::Timestamp;

    fn by_time(zone: &Zone, times: &[i64]) -> ByTime {
        let snapshot = |(n, seconds): (u8, &i64)| {
            let mut manifest = manifest(DeviceId::from_bytes([1; 16]), 1);
            manifest.started = Timestamp::new(*seconds, 0).unwrap();
            Snapshot::new(SnapshotId::from_bytes([n; 32]), &manifest, true)
        };
        let mut slot = 100;
        let mut slots = |_: &SnapshotId| {
            slot -= 1;
            Some(slot)
        };
        ByTime::new((0..).zip(times).map(snapshot).collect(), zone, &mut slots)
    }

    fn names(all: &ByTime) -> Vec<String> {
        all.iter().map(|shown| String::from_utf8(all.name(shown)).unwrap()).collect()
    }

    #[test]
    fn a_clock_set_back_gives_two_names() {
        let Some(berlin) = Zone::named("Europe/Berlin") else { return };
        assert_eq!(names(&by_time(&berlin, &[1_792_888_200, 1_792_891_800])), ["2026-10-25_02-30-00+0200", "2026-10-25_02-30-00+0100"]);
    }

    /// Also where clocks are far from UTC, at the changes of the clock, before 1970 and beyond all calendars.
    #[test]
    fn every_name_that_is_listed_is_found() {
        let times =
            [-400_000_000_000, -62_167_219_200, -86_400, -1, 0, 0, 1_792_888_200, 1_792_891_800, 1_792_891_800, 253_402_300_799, i64::MAX];
        for zone in ["UTC", "Europe/Berlin", "Pacific/Kiritimati", "Pacific/Pago_Pago", "Africa/Monrovia"] {
            let Some(zone) = Zone::named(zone) else { continue };
            let all = by_time(&zone, &times);
            let lines: Vec<_> = all.lines(0, 0).collect();
            assert_eq!(lines.len(), times.len());
            assert!(lines.is_sorted_by(|a, b| a.0 < b.0));
            for (cookie, name, number) in &lines {
                assert_eq!(all.find(0, name), Some(*number), "{}", String::from_utf8_lossy(name));
                assert!(all.lines(0, *cookie).all(|(later, _, _)| later > *cookie));
            }
            for nothing in
                [&b""[..], b"desktop.ini", b"1970-01-01_00-00-00_9", b"2026-13-41_99-99-99", b"\xff", "2026-10-25_02-30-0ü".as_bytes()]
            {
                assert_eq!(all.find(0, nothing), None);
            }
        }
    }
}
