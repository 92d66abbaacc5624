//! What reading costs in requests and bytes, and that nobody waits who must not. Without a kernel.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

use bytes::Bytes;
use fs_core::object::{ObjectKind, pack_name};
use fs_core::record::RecordKind;
use fs_core::repository::{Held, OpenOptions, Opened, PART_MAX, Repository, Urgency, Waiter, Want};
use fs_core::storage::memory::MemoryStore;
use fs_core::testing::{Call, CallKind, CountingStore, Counts, Fault, FaultyStore, RecordingStore, Rule, SlowStore};
use fs_core::view::View;
use fs_core::view::error::ViewError;
use tests::remote::RemoteStore;
use tests::{Bench, noise};

use super::mount::{view, view_of};
use super::view::find;

/// Reads as the kernel makes the adapters read.
fn read(view: &Arc<View>, inode: u64, offset: u64, length: u64) -> Bytes {
    view.read_ahead(inode, offset, length);
    view.wait(|view, held| view.read(held, inode, offset, length)).unwrap()
}

/// Waits until nothing is on its way any more.
fn settle(view: &View) {
    while view.repository().fetch_status().in_flight > 0 {
        std::thread::yield_now();
    }
}

/// A store with one backup of a folder.
fn saved(fill: impl FnOnce(&Path)) -> (tempfile::TempDir, Arc<MemoryStore>, Bench) {
    let place = tempfile::tempdir().unwrap();
    fill(place.path());
    let store = Arc::new(MemoryStore::new());
    let bench = Bench::new(Arc::clone(&store) as _).unwrap();
    bench.backup(place.path(), None).unwrap();
    (place, store, bench)
}

/// The same repository through a store that counts.
fn counted(store: &Arc<MemoryStore>, bench: &Bench) -> (Arc<CountingStore>, Bench) {
    let counting = CountingStore::new(Arc::clone(store) as _);
    (Arc::clone(&counting), Bench { store: counting, ..bench.clone() })
}

#[test]
fn a_random_read_is_one_request_for_one_record() {
    let bytes = noise(1, 24_000_000);
    let (place, store, bench) = saved(|folder| std::fs::write(folder.join("file"), &bytes).unwrap());
    let (counting, bench) = counted(&store, &bench);
    let shown = view(&bench, None);
    let inode = find(&shown, &place.path().join("file"));
    read(&shown, inode, 12_000_000, 4096);
    settle(&shown);
    for offset in [3_000_000u64, 20_000_000, 7_123_456] {
        counting.reset();
        let at = usize::try_from(offset).unwrap();
        assert_eq!(read(&shown, inode, offset, 4096), bytes[at..at + 4096]);
        settle(&shown);
        let Counts { get_range, bytes_down, .. } = counting.counts();
        assert_eq!(get_range, counting.counts().requests());
        // A range may lie across the end of a record.
        let records = shown.wait(|view, held| view.records(held, inode, offset..offset + 4096)).unwrap();
        assert_eq!(get_range as usize, records.len());
        assert_eq!(bytes_down, records.iter().map(|record| u64::from(record.stored_len)).sum::<u64>());
    }
}

#[test]
fn a_whole_file_is_fetched_once_and_little_else() {
    let bytes = noise(2, 40_000_000);
    let (place, store, bench) = saved(|folder| std::fs::write(folder.join("file"), &bytes).unwrap());
    let stored: u64 = store.contents().iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let recording = RecordingStore::new(Arc::clone(&store) as _);
    let bench = Bench { store: Arc::clone(&recording) as _, ..bench };
    let shown = view(&bench, None);
    let inode = find(&shown, &place.path().join("file"));
    let mut whole = Vec::new();
    while whole.len() < bytes.len() {
        whole.extend_from_slice(&read(&shown, inode, whole.len() as u64, 131_072));
    }
    assert!(whole == bytes);
    settle(&shown);
    let calls: Vec<Call> = recording.calls();
    let mut ranges: BTreeMap<(String, u64), u64> = BTreeMap::new();
    for call in calls.iter().filter(|call| call.kind == CallKind::GetRange) {
        let range = call.range.clone().unwrap();
        assert_eq!(ranges.insert((call.place.clone(), range.start), range.end), None, "{call:?} comes twice");
    }
    let fetched: u64 = ranges.iter().map(|((_, start), end)| end - start).sum();
    assert!(fetched * 100 <= stored * 102, "{fetched} bytes of {stored}");
    for (((name, _), end), ((next_name, next), _)) in ranges.iter().zip(ranges.iter().skip(1)) {
        assert!(name != next_name || end <= next, "ranges of {name} overlap");
    }
}

#[test]
fn a_folder_of_small_files_is_three_requests() {
    let (place, store, bench) = saved(|folder| {
        std::fs::create_dir(folder.join("small")).unwrap();
        (0..1000).for_each(|n| std::fs::write(folder.join(format!("small/{n:04}")), noise(n, 4096)).unwrap());
    });
    let (counting, bench) = counted(&store, &bench);
    let shown = view(&bench, None);
    let above = find(&shown, place.path());
    counting.reset();
    let folder = shown.wait(|view, held| view.lookup(held, above, b"small")).unwrap().0.inode;
    for n in 0..1000u64 {
        let name = format!("{n:04}");
        let inode = shown.wait(|view, held| view.lookup(held, folder, name.as_bytes())).unwrap().0.inode;
        assert!(read(&shown, inode, 0, 4096) == noise(n, 4096), "{n}");
    }
    settle(&shown);
    let counts = counting.counts();
    assert!(counts.requests() <= 3, "{counts:?}");
    assert!(counts.bytes_down < 4096 * 1000 * 11 / 10, "{counts:?}");
}

#[test]
fn small_files_of_neighbouring_folders_come_together() {
    let (place, store, bench) = saved(|folder| {
        for n in 0..1000 {
            let below = folder.join(format!("{:02}", n / 50));
            std::fs::create_dir_all(&below).unwrap();
            std::fs::write(below.join(format!("{n:04}")), noise(n, 4096)).unwrap();
        }
    });
    let (counting, bench) = counted(&store, &bench);
    let shown = view(&bench, None);
    let top = find(&shown, place.path());
    counting.reset();
    for n in 0..1000u64 {
        let folder = shown.wait(|view, held| view.lookup(held, top, format!("{:02}", n / 50).as_bytes())).unwrap().0.inode;
        let inode = shown.wait(|view, held| view.lookup(held, folder, format!("{n:04}").as_bytes())).unwrap().0.inode;
        assert!(read(&shown, inode, 0, 4096) == noise(n, 4096), "{n}");
    }
    settle(&shown);
    let counts = counting.counts();
    assert!(counts.requests() <= 6, "{counts:?}");
    assert!(counts.bytes_down < 4096 * 1000 * 11 / 10, "{counts:?}");
}

#[test]
fn one_small_file_brings_few_of_its_neighbours() {
    let (place, store, bench) = saved(|folder| {
        (0..1000).for_each(|n| std::fs::write(folder.join(format!("{n:04}")), noise(n, 4096)).unwrap());
    });
    let (counting, bench) = counted(&store, &bench);
    let shown = view(&bench, None);
    let inode = find(&shown, &place.path().join("0500"));
    counting.reset();
    assert!(read(&shown, inode, 0, 4096) == noise(500, 4096));
    settle(&shown);
    let counts = counting.counts();
    assert_eq!(counts.requests(), 1, "{counts:?}");
    assert!(counts.bytes_down <= (512 << 10) + 4096 + 100, "the record that it shares: {counts:?}");
}

#[test]
fn a_path_of_depth_eight_is_two_dependent_requests() {
    let deep = "a/b/c/d/e/f/g/h";
    let (place, store, bench) = saved(|folder| {
        std::fs::create_dir_all(folder.join(deep)).unwrap();
        std::fs::write(folder.join(deep).join("file"), "deep").unwrap();
    });
    let (counting, bench) = counted(&store, &bench);
    let shown = view(&bench, None);
    counting.reset();
    let inode = find(&shown, &place.path().join(deep).join("file"));
    assert_eq!(counting.counts().requests(), 1, "all trees come together");
    assert_eq!(read(&shown, inode, 0, 4096), "deep");
    assert_eq!(counting.counts().requests(), 2);
}

#[test]
fn a_walk_over_many_folders_is_few_requests() {
    let (place, store, bench) = saved(|folder| {
        for n in 0..1500 {
            let below = folder.join(format!("{:02}/{n:04}", n % 30));
            std::fs::create_dir_all(&below).unwrap();
            (0..3).for_each(|file| std::fs::write(below.join(format!("{file}")), "").unwrap());
        }
    });
    let (counting, bench) = counted(&store, &bench);
    let shown = view(&bench, None);
    let mut open = vec![find(&shown, place.path())];
    counting.reset();
    let mut count = 0;
    while let Some(folder) = open.pop() {
        let mut lines = Vec::new();
        shown
            .wait(|view, held| {
                view.readdir(held, folder, 2, &mut |line| {
                    lines.push(line);
                    true
                })
            })
            .unwrap();
        count += lines.len();
        open.extend(lines.into_iter().filter(|line| line.attr.kind == fs_core::tree::EntryKind::Directory).map(|line| line.attr.inode));
    }
    assert_eq!(count, 1500 * 4 + 30);
    assert!(counting.counts().requests() <= 6, "{:?}", counting.counts());
}

#[test]
fn many_who_want_one_record_send_one_request_and_nobody_waits_to_ask() {
    let bytes = noise(3, 3_000_000);
    let (place, store, bench) = saved(|folder| std::fs::write(folder.join("file"), &bytes).unwrap());
    let slow = SlowStore::new(Arc::clone(&store) as _);
    let bench = Bench { store: Arc::clone(&slow) as _, ..bench };
    let shown = view(&bench, None);
    let inode = find(&shown, &place.path().join("file"));
    slow.close(None);
    let (answers, answered) = channel();
    for _ in 0..20 {
        let answers = answers.clone();
        shown.ask(move |view, held| view.read(held, inode, 1_500_000, 4096), move |answer| answers.send(answer.unwrap()).unwrap());
    }
    slow.wait_for(1);
    assert!(answered.try_recv().is_err());
    assert!(slow.waiting().len() <= 2, "a range may lie across two records: {:?}", slow.waiting());
    slow.open();
    (0..20).for_each(|_| assert_eq!(answered.recv().unwrap(), bytes[1_500_000..1_504_096]));
}

#[test]
fn reading_works_with_hardly_any_memory() {
    let bytes = noise(4, 20_000_000);
    let (place, _, bench) = saved(|folder| {
        std::fs::write(folder.join("file"), &bytes).unwrap();
        (0..300).for_each(|n| std::fs::write(folder.join(format!("{n}")), noise(n, 3000)).unwrap());
    });
    let options = OpenOptions { memory_max: 100_000, ..OpenOptions::default() };
    let repository = Repository::open(Arc::clone(&bench.store).as_read(), &bench.credential, &options).unwrap();
    let shown = view_of(Arc::new(repository), None);
    let inode = find(&shown, &place.path().join("file"));
    assert_eq!(read(&shown, inode, 1_000_000, 9_000_000), bytes[1_000_000..10_000_000]);
    for n in 0..300u64 {
        let inode = find(&shown, &place.path().join(format!("{n}")));
        assert_eq!(read(&shown, inode, 0, 4096), noise(n, 3000));
    }
    settle(&shown);
    assert!(shown.repository().fetch_status().memory_used <= 100_000);
}

/// Records of files in one request, with what tells who wants them.
fn wants(view: &View, files: &[u64]) -> Vec<Want> {
    let references = files.iter().flat_map(|&file| view.wait(|view, held| view.records(held, file, 0..u64::MAX)).unwrap());
    references.map(|reference| Want { kind: RecordKind::Data, reference }).collect()
}

#[test]
fn a_small_record_does_not_keep_the_answer_that_it_came_with() {
    let (place, store, bench) = saved(|folder| {
        (0..10).for_each(|n| std::fs::write(folder.join(format!("{n:02}")), noise(n, 65_537)).unwrap());
    });
    // Without a cache the one who is told holds the bytes alone.
    let options = OpenOptions { memory_max: 0, ..OpenOptions::default() };
    let shown = view_of(Arc::new(Repository::open(RemoteStore::new(store, 0), &bench.credential, &options).unwrap()), None);
    let files: Vec<_> = (0..10).map(|n| find(&shown, &place.path().join(format!("{n:02}")))).collect();
    let (answers, answered) = channel();
    let waiter = |want| -> (Want, Option<Waiter>) {
        let answers = answers.clone();
        (want, Some(Box::new(move |arrived| answers.send(arrived.unwrap()).unwrap())))
    };
    let requests = wants(&shown, &files).into_iter().map(waiter).collect();
    shown.repository().request(requests, Urgency::Demand, PART_MAX);
    for _ in 0..10 {
        let Opened::Data(bytes) = answered.recv().unwrap() else { panic!("files are data") };
        let mut alone = bytes.try_into_mut().unwrap();
        alone.clear();
        assert!(!alone.try_reclaim(300_000), "one record holds the memory of all");
    }
}

/// The order of events is made by a waiter that is told at once: it asks for a record between its flight and its place in the queue.
#[test]
fn who_asks_for_what_is_about_to_be_fetched_ahead_does_not_wait_behind_it() {
    const ON_LINE: usize = 8;
    let (place, store, bench) = saved(|folder| {
        (0..12).for_each(|n| std::fs::write(folder.join(format!("{n:02}")), noise(n, 300_000)).unwrap());
    });
    let slow = SlowStore::new(store as _);
    let shown = view(&Bench { store: Arc::clone(&slow) as _, ..bench }, None);
    let files: Vec<_> = (0..12).map(|n| find(&shown, &place.path().join(format!("{n:02}")))).collect();
    let wants: Vec<_> = files.iter().map(|&file| wants(&shown, &[file])[0]).collect();
    let repository = Arc::clone(shown.repository());
    shown.wait(|view, held| view.read(held, files[0], 0, 1)).unwrap();
    slow.close(None);
    let ahead = |wants: &[Want]| wants.iter().map(|want| (*want, None)).collect();
    repository.request(ahead(&wants[1..=ON_LINE]), Urgency::Ahead, 1);
    slow.wait_for(ON_LINE);

    let (tell, told) = channel();
    let (asking, wanted) = (Arc::clone(&repository), wants[10]);
    let at_once: Waiter = Box::new(move |_| {
        asking.fetch(&[wanted], Held::default(), move |arrived| tell.send(arrived.is_ok()).unwrap());
    });
    repository.request(vec![(wants[10], None), (wants[0], Some(at_once))], Urgency::Ahead, 1);
    slow.wait_for(ON_LINE + 1);
    slow.open();
    assert!(told.recv().unwrap());
    settle(&shown);
}

#[test]
fn what_could_not_be_asked_for_is_not_missing() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("file"), noise(1, 5000)).unwrap();
    let one = MemoryStore::new();
    let bench = Bench::new(Arc::new(one.clone())).unwrap();
    // Two who save the same at the same time: each record is in two packs, and both indexes are right.
    let other = one.fork();
    bench.backup(place.path(), None).unwrap();
    Bench { store: Arc::new(other.clone()), ..bench.clone() }.backup(place.path(), None).unwrap();
    other.contents().into_iter().for_each(|(name, bytes)| drop(one.overwrite(&name, Some(bytes))));

    let faulty = FaultyStore::new(Arc::new(one.clone()), []);
    let shown = view(&Bench { store: Arc::clone(&faulty) as _, ..bench }, None);
    let file = find(&shown, &place.path().join("file"));
    let hint = pack_name(ObjectKind::DataPack, &wants(&shown, &[file])[0].reference.pack);
    let packs: Vec<_> = one.contents().into_iter().map(|(name, _)| name).filter(|name| name.as_str().starts_with("pack/")).collect();
    assert!(packs.len() == 2 && packs.contains(&hint), "{packs:?}");
    one.overwrite(&hint, None);
    let elsewhere = packs.into_iter().find(|name| *name != hint).unwrap();
    faulty.add(Rule::nth(1, Fault::Timeout).kind(CallKind::GetRange).prefix(elsewhere.as_str()));
    let read = || shown.wait(|view, held| view.read(held, file, 0, 5000));
    assert!(matches!(read(), Err(ViewError::Unreachable(_))));
    assert_eq!(read().unwrap(), noise(1, 5000));
}
