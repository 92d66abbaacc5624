#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

use super::grow::PAUSE_AFTER_FAILURE;
use super::name::Stage;
use super::room::SEGMENT_ENTRY_COUNT_MAX;
use super::*;

/// A small generator with a printed seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Whether what is removed while somebody has it open is gone at once: on Unix, and on NTFS since Windows 10. Elsewhere, as in Wine, the name stays until
/// all have closed it, and counts until then.
fn open_files_lose_their_names() -> bool {
    let place = tempfile::NamedTempFile::new().unwrap();
    fs::remove_file(place.path()).unwrap();
    let is_gone = !fs::exists(place.path()).unwrap_or(true);
    if !is_gone {
        println!("skipped: this file system keeps the names of files that are removed while they are open");
    }
    is_gone
}

fn pack(n: u8) -> PackId {
    PackId::from_bytes([n; 16])
}

/// What a pack holds: no two of its bytes nearby are alike, and no two versions.
fn content(pack: &PackId, version: u64, range: Range<u64>) -> Bytes {
    let salt = u64::from(pack.as_bytes()[0]) << 32 | version << 40;
    range.map(|at| ((at ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn put(cache: &DiskCache, id: u8, range: Range<u64>) {
    cache.put(&pack(id), range.start, &content(&pack(id), 0, range.clone()));
}

fn is_held(cache: &DiskCache, id: u8, range: Range<u64>) -> bool {
    let found = cache.get(&pack(id), range.clone());
    assert!(found.as_ref().is_none_or(|bytes| *bytes == content(&pack(id), 0, range)), "wrong bytes");
    found.is_some()
}

fn files(folder: &Path) -> Vec<(Name, Stage, u64)> {
    let items = fs::read_dir(folder).unwrap().map(Result::unwrap);
    items
        .map(|item| (Name::parse(item.file_name().to_str().unwrap()).unwrap(), item.metadata().unwrap().len()))
        .map(|((n, s), l)| (n, s, l))
        .collect()
}

fn bytes_in(folder: &Path) -> u64 {
    files(folder).iter().map(|(_, _, length)| length).sum()
}

#[test]
fn parts_of_what_was_put_are_found_and_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(place.path(), 64 << 20).unwrap();
    put(&cache, 1, 1000..61_000);
    for (range, expected) in [
        (1000..61_000, true),
        (1000..1001, true),
        (17_383..17_385, true),
        (17_384..33_768, true),
        (60_999..61_000, true),
        (999..1001, false),
        (60_999..61_001, false),
        (5..5, false),
    ] {
        assert_eq!(is_held(&cache, 1, range.clone()), expected, "{range:?}");
    }
    assert!(!is_held(&cache, 2, 1000..1001));
    put(&cache, 1, 61_000..62_000);
    assert!(!is_held(&cache, 1, 60_999..61_001), "two extents do not make one");
    put(&cache, 1, 0..100_000);
    assert!(is_held(&cache, 1, 60_999..61_001), "and one that covers both does");
    let status = cache.status();
    assert_eq!((status.hits, status.misses, status.segments), (6, 5, 1));
    let name = ObjectName::new("snap/abc");
    assert_eq!(cache.get_object(&name), None);
    cache.put_object(&name, &Bytes::from_static(b"object"));
    assert_eq!(cache.get_object(&name).as_deref(), Some(&b"object"[..]));
}

/// Random operations against a list of what was put and not forgotten.
#[test]
fn random_operations_give_what_was_put_or_nothing() {
    for seed in 0..30 {
        println!("seed {seed}");
        let (mut dice, place) = (Dice(seed), tempfile::tempdir().unwrap());
        let quota = [200 << 10, 1 << 20, 64 << 20][seed as usize % 3];
        let with_forgets = seed.is_multiple_of(2);
        let mut cache = DiskCache::open(place.path(), quota).unwrap();
        let mut live: Vec<(PackId, Range<u64>, u64)> = Vec::new();
        let (mut hits, mut expected) = (0, 0);
        for version in 0..600 {
            let (id, start) = (pack(dice.roll(4) as u8), dice.roll(300_000));
            let length = [1, 100, 5000, 40_000][dice.roll(4) as usize] + dice.roll(50);
            let range = start..start + length;
            match dice.roll(20) {
                0 => {
                    drop(cache);
                    cache = DiskCache::open(place.path(), quota).unwrap();
                }
                1 if with_forgets => {
                    cache.forget(&id, range.clone());
                    live.retain(|(pack, held, _)| *pack != id || held.end <= range.start || held.start >= range.end);
                }
                2..9 => {
                    let version = if with_forgets { version } else { 0 };
                    cache.put(&id, start, &content(&id, version, range.clone()));
                    live.push((id, range, version));
                }
                _ => {
                    // Mostly inside of something that was put.
                    let (id, around) = match live.get(dice.roll(live.len().max(1) as u64) as usize) {
                        Some((id, held, _)) if dice.roll(4) > 0 => (*id, held.clone()),
                        _ => (id, range),
                    };
                    let from = around.start + dice.roll(around.end - around.start);
                    let wanted = from..from + 1 + dice.roll(around.end - from);
                    let mut versions =
                        live.iter().filter(|(p, r, _)| *p == id && r.start <= wanted.start && r.end >= wanted.end).peekable();
                    expected += u64::from(versions.peek().is_some());
                    if let Some(found) = cache.get(&id, wanted.clone()) {
                        hits += 1;
                        assert!(versions.any(|(p, _, version)| content(p, *version, wanted.clone()) == found), "{wanted:?} is wrong");
                    }
                }
            }
            assert!(bytes_in(place.path()) <= quota, "the quota holds");
        }
        if quota == 64 << 20 && !with_forgets {
            assert_eq!(hits, expected, "nothing had to leave");
        }
        // Some four megabytes pass by.
        let share = if quota < 1 << 20 { 10 } else { 4 };
        assert!(hits * share > expected, "{hits} of {expected}");
        let status = cache.status();
        assert_eq!(status.used, bytes_in(place.path()) + table_of(&cache), "it knows what it has");
    }
}

/// What the tables of growing segments will add.
fn table_of(cache: &DiskCache) -> u64 {
    let writer = lock(&cache.writer);
    let slots = [&writer.loose, &writer.pinned].into_iter().filter_map(|slot| slot.active.as_ref());
    slots.map(|(_, active, _)| (active.rows().len() * 28 + 32) as u64).sum()
}

#[test]
fn what_is_used_outlives_its_segment() {
    let place = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(place.path(), 2 << 20).unwrap();
    put(&cache, 1, 0..10_000);
    for n in 0..400 {
        put(&cache, 2, n * 10_000..(n + 1) * 10_000);
        assert!(is_held(&cache, 1, 0..10_000), "used all the time, after {n}");
    }
    assert!(!is_held(&cache, 2, 0..10_000), "twice the quota has passed");
    assert!(is_held(&cache, 2, 3_990_000..4_000_000), "the last one");
}

/// A segment file with small entries and one of several blocks, and what it holds.
fn sample(folder: &Path) -> (Vec<u8>, [Range<u64>; 4]) {
    let ranges = [0..100, 200..20_000, 30_000..30_001, 40_000..47_000];
    let cache = DiskCache::open(folder, 1 << 20).unwrap();
    ranges.iter().for_each(|range| put(&cache, 1, range.clone()));
    drop(cache);
    let [(name, Stage::Finished, _)] = files(folder)[..] else { panic!("one finished file") };
    (fs::read(name.path(folder, Stage::Finished)).unwrap(), ranges)
}

fn with_file(bytes: &[u8], stage: Stage, check: impl FnOnce(&DiskCache)) {
    let place = tempfile::tempdir().unwrap();
    fs::write(Name { order: 3, random: 4, pin: None }.path(place.path(), stage), bytes).unwrap();
    let cache = DiskCache::open(place.path(), 1 << 20).unwrap();
    check(&cache);
    // It can be written, and what was found is still there afterwards.
    let found = cache.get(&pack(1), 0..100).is_some();
    put(&cache, 9, 0..1000);
    assert!(is_held(&cache, 9, 0..1000));
    drop(cache);
    let cache = DiskCache::open(place.path(), 1 << 20).unwrap();
    assert!(is_held(&cache, 9, 0..1000));
    assert_eq!(is_held(&cache, 1, 0..100), found);
}

#[test]
fn every_flipped_byte_is_a_miss_of_its_entry_at_most() {
    let place = tempfile::tempdir().unwrap();
    let (sound, ranges) = sample(place.path());
    // Everything but the middle of the bodies, byte by byte.
    let is_probed = |at: usize| at < 800 || at > sound.len() - 300 || at.is_multiple_of(89);
    for at in (0..sound.len()).filter(|at| is_probed(*at)) {
        for stage in [Stage::Finished, Stage::Open] {
            let mut damaged = sound.clone();
            damaged[at] ^= 0x41;
            with_file(&damaged, stage, |cache| {
                let held = ranges.iter().filter(|range| is_held(cache, 1, (*range).clone())).count();
                let in_table = at >= sound.len() - 4 * 28 - 32;
                assert!(at < 8 || held >= 3 || stage == Stage::Open || in_table, "byte {at}: only {held} entries left");
                assert!(!in_table || held == 4, "byte {at}: the table can be made anew");
            });
        }
    }
}

#[test]
fn a_torn_file_keeps_what_is_whole() {
    let place = tempfile::tempdir().unwrap();
    let (sound, ranges) = sample(place.path());
    let mut ends = Vec::new();
    let mut end = 8;
    for range in &ranges {
        let length = range.end - range.start;
        end += 48 + 16 * length.div_ceil(16 << 10) + length;
        ends.push(end);
    }
    for at in (0..sound.len()).filter(|at| at.is_multiple_of(61) || ends.iter().any(|end| end.abs_diff(*at as u64) < 70)) {
        for (stage, tail) in [(Stage::Finished, 0), (Stage::Open, 0), (Stage::Open, 5000)] {
            // A crash may leave zeros where bytes were promised.
            let torn = [&sound[..at], &vec![0; tail][..]].concat();
            with_file(&torn, stage, |cache| {
                for (range, end) in ranges.iter().zip(&ends) {
                    let held = is_held(cache, 1, range.clone());
                    assert!(held || *end > at as u64, "cut at {at}, {range:?} is whole");
                }
            });
        }
    }
}

#[test]
fn a_byte_that_flips_under_an_open_cache_is_a_miss() {
    let place = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(place.path(), 1 << 20).unwrap();
    put(&cache, 1, 0..50_000);
    put(&cache, 1, 60_000..60_100);
    let [(name, stage, length)] = files(place.path())[..] else { panic!("one file") };
    let mut bytes = fs::read(name.path(place.path(), stage)).unwrap();
    bytes[40_000] ^= 1;
    fs::write(name.path(place.path(), stage), &bytes).unwrap();
    assert!(is_held(&cache, 1, 0..100), "verified by the block");
    assert!(!is_held(&cache, 1, 30_000..50_000));
    assert!(!is_held(&cache, 1, 0..100), "the entry is forgotten");
    assert!(is_held(&cache, 1, 60_000..60_100));
    put(&cache, 1, 0..50_000);
    assert!(is_held(&cache, 1, 0..50_000));
    assert!(bytes_in(place.path()) > length);
}

#[test]
fn forgotten_bytes_stay_away_after_a_restart_and_in_other_processes() {
    let place = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(place.path(), 1 << 20).unwrap();
    put(&cache, 1, 0..1000);
    put(&cache, 1, 1000..2000);
    assert!(cache.put_pinned(5, &pack(1), 500, &content(&pack(1), 0, 500..600)));
    drop(cache);
    let (cache, other) = (DiskCache::open(place.path(), 1 << 20).unwrap(), DiskCache::open(place.path(), 1 << 20).unwrap());
    cache.forget(&pack(1), 500..501);
    for cache in [cache, other, DiskCache::open(place.path(), 1 << 20).unwrap()] {
        assert!(!is_held(&cache, 1, 0..1000));
        assert!(!is_held(&cache, 1, 500..510));
        assert!(is_held(&cache, 1, 1000..2000));
    }
}

#[test]
fn two_processes_share_a_folder() {
    if !open_files_lose_their_names() {
        return;
    }
    for seed in 0..6 {
        println!("seed {seed}");
        let place = tempfile::tempdir().unwrap();
        let quota = 1 << 20;
        let open = || DiskCache::open(place.path(), quota).unwrap();
        let (mut dice, mut caches) = (Dice(seed), [open(), open(), open()]);
        let (mut own, mut others) = (0, 0);
        for n in 0..900_u64 {
            let who = dice.roll(3) as usize;
            put(&caches[who], who as u8, n * 10_000..(n + 1) * 10_000);
            let (whose, at) = (dice.roll(3) as usize, n.saturating_sub(dice.roll(60)));
            let held = is_held(&caches[who], whose as u8, at * 10_000..at * 10_000 + 500);
            if held {
                *(if who == whose { &mut own } else { &mut others }) += 1
            }
            assert!(bytes_in(place.path()) <= quota, "they take turns here, so the quota holds exactly");
            if n % 300 == 299 {
                caches[who] = open();
            }
        }
        assert!(own > 50 && others > 20, "{own} own, {others} of others");
        drop(caches);
        assert!(files(place.path()).iter().all(|(_, stage, _)| *stage == Stage::Finished));
    }
}

#[test]
fn threads_get_right_bytes_under_pressure() {
    let place = tempfile::tempdir().unwrap();
    let quota = 1 << 20;
    let caches = [DiskCache::open(place.path(), quota).unwrap(), DiskCache::open(place.path(), quota).unwrap()];
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let caches = &caches;
            scope.spawn(move || {
                let mut dice = Dice(thread);
                for _ in 0..500 {
                    let (cache, at) = (&caches[thread as usize % 2], dice.roll(200) * 20_000);
                    put(cache, 1, at..at + 20_000);
                    is_held(cache, 1, at + 500..at + 15_000);
                    is_held(cache, 1, dice.roll(200) * 20_000..dice.roll(10) + 4_000_000);
                }
            });
        }
    });
    // What one process removes while another reads it may keep its name for a while, and counts.
    let is_bounded = bytes_in(place.path()) <= quota + 2 * (64 << 10);
    assert!(is_bounded || !open_files_lose_their_names(), "one segment for each process");
}

#[test]
fn what_a_dead_process_left_is_taken_over_and_what_a_living_one_writes_is_not() {
    let place = tempfile::tempdir().unwrap();
    let living = DiskCache::open(place.path(), 1 << 20).unwrap();
    put(&living, 1, 0..1000);
    let other = DiskCache::open(place.path(), 1 << 20).unwrap();
    assert!(!is_held(&other, 1, 0..1000), "still being written");
    // A process that dies gives up its lock and nothing more.
    let dead = std::mem::take(&mut lock(&living.writer).loose).active.unwrap().1;
    lock(&living.shelf).end(0, 0);
    drop(living);
    drop(dead);
    let heir = DiskCache::open(place.path(), 1 << 20).unwrap();
    assert!(is_held(&heir, 1, 0..1000));
    assert_eq!(files(place.path()).len(), 1);
}

#[test]
fn short_runs_go_on_with_one_file() {
    let place = tempfile::tempdir().unwrap();
    for n in 0..20 {
        let cache = DiskCache::open(place.path(), 8 << 20).unwrap();
        put(&cache, 1, n * 100..n * 100 + 100);
    }
    assert_eq!(files(place.path()).len(), 1);
    let cache = DiskCache::open(place.path(), 8 << 20).unwrap();
    assert!((0..20).all(|n| is_held(&cache, 1, n * 100..n * 100 + 100)));
}

#[test]
fn pinned_bytes_stay_until_released() {
    let place = tempfile::tempdir().unwrap();
    let quota = 2 << 20;
    let pin = |cache: &DiskCache, name: u64, range: Range<u64>| cache.put_pinned(name, &pack(1), range.start, &content(&pack(1), 0, range));
    let mut cache = DiskCache::open(place.path(), quota).unwrap();
    put(&cache, 1, 0..1000);
    assert!(pin(&cache, 7, 0..1000) && pin(&cache, 8, 500..3000) && pin(&cache, 7, 0..10));
    for round in 0..4 {
        for n in 0..300 {
            put(&cache, 2, n * 10_000 + round..(n + 1) * 10_000 + round);
            assert!(is_held(&cache, 1, 0..1000) && is_held(&cache, 1, 500..3000));
            assert!(bytes_in(place.path()) <= quota);
        }
        cache = DiskCache::open(place.path(), quota).unwrap();
    }
    let pinned = cache.status().pinned;
    assert!((3500..5000).contains(&pinned), "{pinned}");
    cache.release(7);
    assert!(!is_held(&cache, 1, 0..1000) && is_held(&cache, 1, 500..3000));
    cache = DiskCache::open(place.path(), quota).unwrap();
    assert!(!is_held(&cache, 1, 0..1000) && is_held(&cache, 1, 500..3000));
    let kept = (0..300).filter(|n| pin(&cache, 9, n * 10_000 + 1..n * 10_000 + 10_001)).count();
    assert!((150..210).contains(&kept), "{kept} times 10 kB fit into the quota");
    assert!(bytes_in(place.path()) <= quota);
    assert!((0..kept as u64).all(|n| is_held(&cache, 1, n * 10_000 + 1..n * 10_000 + 10_001)));
    cache.release(9);
    cache.release(8);
    assert_eq!(cache.status().pinned, 0);
}

#[test]
fn what_another_process_pins_is_found_by_those_that_run() {
    if !open_files_lose_their_names() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("cache");
    // One keeps nothing of its own, and there is no folder yet.
    let reader = DiskCache::open_to_read(&folder).unwrap();
    assert!(!is_held(&reader, 1, 0..1000) && !folder.exists());
    let (early, pinner) = (DiskCache::open(&folder, 8 << 20).unwrap(), DiskCache::open(&folder, 8 << 20).unwrap());
    for round in 0..3 {
        let range = round * 10_000..(round + 1) * 10_000;
        assert!(!is_held(&reader, 1, range.clone()) && !is_held(&early, 1, range.clone()));
        assert!(pinner.put_pinned(7, &pack(1), range.start, &content(&pack(1), 0, range.clone())));
        assert!(pinner.flush());
        assert!(is_held(&reader, 1, range.clone()) && is_held(&early, 1, range.clone()), "round {round}");
        assert!(reader.peek(Some(7), &pack(1), range.clone()).is_some() && reader.peek(Some(8), &pack(1), range).is_none());
    }
    put(&reader, 2, 0..1000);
    assert!(!is_held(&reader, 2, 0..1000), "who only reads keeps nothing");
    pinner.release(7);
    put(&early, 3, 0..1000);
    assert!(early.flush() && is_held(&reader, 3, 0..1000) && !is_held(&reader, 1, 0..1000), "what was released is gone for all");
}

#[test]
fn clearing_leaves_what_is_pinned_unless_told_otherwise() {
    if !open_files_lose_their_names() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(place.path(), 8 << 20).unwrap();
    put(&cache, 1, 0..50_000);
    assert!(cache.put_pinned(7, &pack(2), 0, &content(&pack(2), 0, 0..20_000)));
    assert!(cache.flush());
    let usage = DiskCache::usage(place.path()).unwrap();
    assert_eq!((usage.used, usage.files), (bytes_in(place.path()), 2));
    assert_eq!(usage.pins.into_iter().collect::<Vec<_>>(), [(7, usage.pinned)]);
    assert!((20_000..21_000).contains(&usage.pinned), "{}", usage.pinned);
    let removed = DiskCache::clear(place.path(), false).unwrap();
    assert_eq!((removed.used, removed.pinned, removed.files), (usage.used - usage.pinned, 0, 1));
    assert!(is_held(&cache, 2, 0..20_000));
    assert_eq!(DiskCache::clear(place.path(), true).unwrap().used, usage.pinned);
    assert_eq!(DiskCache::usage(place.path()).unwrap(), CacheUsage::default());
}

#[test]
fn a_folder_that_goes_away_does_no_harm_and_may_come_back() {
    if !open_files_lose_their_names() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("cache");
    let cache = DiskCache::open(&folder, 1 << 20).unwrap();
    put(&cache, 1, 0..1000);
    fs::remove_dir_all(&folder).unwrap();
    fs::write(&folder, "a file where the folder was").unwrap();
    for n in 0..100 {
        put(&cache, 2, n * 10_000..(n + 1) * 10_000);
        is_held(&cache, 2, n * 10_000..(n + 1) * 10_000);
        is_held(&cache, 1, 0..1000);
    }
    assert!(lock(&cache.writer).has_warned);
    fs::remove_file(&folder).unwrap();
    for n in 0..u64::from(PAUSE_AFTER_FAILURE) + 1 {
        put(&cache, 3, n * 10..n * 10 + 10);
    }
    let last = u64::from(PAUSE_AFTER_FAILURE) * 10;
    assert!(is_held(&cache, 3, last..last + 10), "it has recovered");
    DiskCache::clear(&folder, true).unwrap();
    assert!(files(&folder).is_empty());
    put(&cache, 4, 0..1000);
    assert!(is_held(&cache, 4, 0..1000), "written into a file without a name");
    drop(cache);
    assert!(files(&folder).is_empty());
    assert_eq!(DiskCache::clear(&folder.join("never/was"), true).unwrap(), CacheUsage::default());
    assert!(DiskCache::open(&folder, 0).unwrap().get(&pack(1), 0..1).is_none());
}

#[test]
fn a_twentieth_of_the_file_system_stays_free() {
    let place = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(place.path(), 1 << 20).unwrap();
    put(&cache, 1, 0..1000);
    drop(cache);
    let full = DiskCache::open_with(place.path(), 1 << 20, |_| Some((51 << 20, 1 << 30))).unwrap();
    assert!(!is_held(&full, 1, 0..1000), "it makes room for others");
    put(&full, 1, 0..1000);
    assert!(!is_held(&full, 1, 0..1000));
    assert!(!lock(&full.writer).has_warned && files(place.path()).is_empty());
    let enough = DiskCache::open_with(place.path(), 1 << 20, |_| Some((52 << 20, 1 << 30))).unwrap();
    put(&enough, 1, 0..1000);
    assert!(is_held(&enough, 1, 0..1000));
}

#[test]
fn many_tiny_entries_do_not_grow_without_bound() {
    let place = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(place.path(), 1 << 30).unwrap();
    let count = SEGMENT_ENTRY_COUNT_MAX as u64 + 10;
    for n in 0..count {
        put(&cache, 1, 2 * n..2 * n + 1);
    }
    assert_eq!(cache.status().segments, 2);
    assert!(is_held(&cache, 1, 0..1) && is_held(&cache, 1, 2 * count - 2..2 * count - 1));
}

#[cfg(unix)]
#[test]
fn folder_and_files_belong_to_the_user_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("a/b");
    fs::create_dir_all(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let cache = DiskCache::open(&folder, 1 << 20).unwrap();
    put(&cache, 1, 0..1000);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let [(name, stage, _)] = files(&folder)[..] else { panic!("one file") };
    assert_eq!((mode(&folder), mode(&name.path(&folder, stage))), (0o700, 0o600));
    let names: std::collections::HashSet<_> = files(&folder).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names.len(), 1);
}
