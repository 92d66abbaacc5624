//! The one suite that every store passes: the contract in `storage.rs`, as far as a caller can see it.
//!
//! A store that passes may be relied on by everything above; one that needs an exception here is not finished.

use std::collections::BTreeSet;
use std::sync::{Arc, Barrier};

use bytes::Bytes;

use super::call::length;
use crate::id::ObjectHash;
use crate::storage::{OBJECT_NAME_LENGTH_MAX, ObjectMeta, ObjectName, ReadStore, StoreError, WriteStore, wait};

/// The size of a full data pack.
const SIZE_LARGE: usize = 32 << 20;

/// More objects than any store lists in one page.
const MANY: usize = 1100;

const THREADS: usize = 8;

/// Runs the whole suite. `make` returns a new, empty store each time.
///
/// # Panics
/// At the first sentence of the contract that the store does not keep.
pub fn run(make: impl Fn() -> Arc<dyn WriteStore>) {
    let cases: [fn(&Arc<dyn WriteStore>); 13] = [
        an_empty_store_is_empty,
        what_is_written_comes_back,
        names_of_every_shape,
        what_is_missing_is_not_found,
        an_existing_object_is_left_alone,
        one_of_many_racing_writers_wins,
        writers_side_by_side,
        ranges_are_exact,
        lists_are_sorted_and_complete,
        lists_begin_after_a_name,
        lists_are_longer_than_a_page,
        deleting_is_idempotent,
        a_wrong_checksum_writes_nothing,
    ];
    for case in cases {
        case(&make());
    }
}

/// The checksum that `put_new` wants.
pub fn checksum(bytes: &[u8]) -> ObjectHash {
    ObjectHash::from_bytes(*blake3::hash(bytes).as_bytes())
}

/// Writes an object with its right checksum.
///
/// # Errors
/// The store's.
///
/// # Panics
/// If `name` is no object name.
pub fn put(store: &dyn WriteStore, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let name = ObjectName::new(name);
    wait(name.as_str(), store.put_new(&name, Bytes::copy_from_slice(bytes), &checksum(bytes)))
}

/// Bytes that differ from place to place and from seed to seed.
pub fn bytes_of(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_derive_key("yesterdrive test bytes").update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn must_put(store: &dyn WriteStore, name: &str, bytes: &[u8]) {
    put(store, name, bytes).unwrap_or_else(|error| panic!("{name} should be written: {error:?}"));
}

fn get(store: &dyn ReadStore, name: &str) -> Result<Bytes, StoreError> {
    let name = ObjectName::new(name);
    wait(name.as_str(), store.get(&name))
}

fn list(store: &dyn ReadStore, prefix: &str, after: Option<&str>) -> Vec<ObjectMeta> {
    let after = after.map(ObjectName::new);
    let listed = wait(prefix, store.list(prefix, after.as_ref())).unwrap_or_else(|error| panic!("'{prefix}' should be listed: {error:?}"));
    if after.is_none() {
        let names = wait(prefix, store.list_names(prefix)).unwrap_or_else(|error| panic!("'{prefix}' should be listed by name: {error:?}"));
        assert!(names.iter().map(|(name, _)| name).eq(listed.iter().map(|meta| &meta.name)), "the names under '{prefix}' are the same");
    }
    listed
}

fn listed(store: &dyn ReadStore, prefix: &str, after: Option<&str>) -> Vec<String> {
    list(store, prefix, after).into_iter().map(|object| object.name.to_string()).collect()
}

#[track_caller]
fn assert_not_found<T: std::fmt::Debug>(name: &str, result: Result<T, StoreError>) {
    assert!(matches!(&result, Err(StoreError::NotFound { name: found }) if found.as_str() == name), "{name} is not there: {result:?}");
}

fn an_empty_store_is_empty(store: &Arc<dyn WriteStore>) {
    assert_eq!(list(&**store, "", None), []);
    assert_eq!(list(&**store, "snap/00ff/", None), []);
    assert!(!store.location().is_empty());
    wait("", store.server_time()).expect("a store that can be reached tells its time or has none");
}

fn what_is_written_comes_back(store: &Arc<dyn WriteStore>) {
    let reader = Arc::clone(store).as_read();
    for (number, size) in [0, 1, 4095, 4096, 4097, (1 << 20) + 3, SIZE_LARGE].into_iter().enumerate() {
        let (name, bytes) = (format!("pack/aa/{number}"), bytes_of(size, 1));
        must_put(&**store, &name, &bytes);
        for store in [&**store as &dyn ReadStore, &*reader] {
            assert!(get(store, &name).expect("it was written") == bytes, "{size} bytes should come back");
            let meta = wait(&name, store.stat(&ObjectName::new(name.as_str()))).expect("it was written");
            assert_eq!((meta.name.as_str(), meta.size), (name.as_str(), length(&bytes)));
            let found = list(store, "pack/aa/", None).into_iter().find(|object| object.name == meta.name);
            let found = found.expect("it is listed");
            assert_eq!((found.size, whole_seconds(&found)), (meta.size, whole_seconds(&meta)), "list and stat should agree");
        }
    }
}

/// A header of HTTP has no fractions of a second where the listing of the same service has them.
fn whole_seconds(meta: &ObjectMeta) -> Option<i64> {
    meta.modified.map(|modified| modified.seconds())
}

fn names_of_every_shape(store: &Arc<dyn WriteStore>) {
    let long = format!("{}/{}", "d".repeat(99), "f".repeat(OBJECT_NAME_LENGTH_MAX - 100));
    let deep = format!("{}x", "a/".repeat(20));
    for name in ["z", "0", "-", "--/-", long.as_str(), deep.as_str()] {
        must_put(&**store, name, name.as_bytes());
        assert_eq!(get(&**store, name).expect("it was written"), name);
    }
    assert_eq!(listed(&**store, "", None), ["-", "--/-", "0", deep.as_str(), long.as_str(), "z"]);
}

fn what_is_missing_is_not_found(store: &Arc<dyn WriteStore>) {
    must_put(&**store, "pack/aa/1234", b"here");
    for name in ["pack/aa/123", "pack/aa/12345", "pack/ab/1234", "snap/00/1", "x"] {
        let missing = ObjectName::new(name);
        assert_not_found(name, wait(name, store.get(&missing)));
        assert_not_found(name, wait(name, store.get_range(&missing, 0..1)));
        assert_not_found(name, wait(name, store.get_range(&missing, 0..0)));
        assert_not_found(name, wait(name, store.stat(&missing)));
    }
}

fn an_existing_object_is_left_alone(store: &Arc<dyn WriteStore>) {
    must_put(&**store, "idx/aa", b"first");
    if store.capabilities().create_only {
        for bytes in [&b"second"[..], b"first"] {
            let result = put(&**store, "idx/aa", bytes);
            assert!(matches!(&result, Err(StoreError::AlreadyExists { name }) if name.as_str() == "idx/aa"), "{result:?}");
        }
    } else {
        // Such a store is only ever given the same bytes again: names are random or hashes.
        let result = put(&**store, "idx/aa", b"first");
        assert!(matches!(result, Ok(()) | Err(StoreError::AlreadyExists { .. })), "{result:?}");
    }
    assert_eq!(get(&**store, "idx/aa").expect("it was written"), "first");
    assert_eq!(listed(&**store, "", None), ["idx/aa"], "a refused write should leave nothing behind");
}

fn one_of_many_racing_writers_wins(store: &Arc<dyn WriteStore>) {
    let is_exclusive = store.capabilities().create_only;
    for round in 0..10 {
        let name = format!("race/{round}");
        let contents = |thread: usize| bytes_of(70_000, if is_exclusive { u64::try_from(thread).unwrap_or(0) } else { 0 });
        let barrier = Barrier::new(THREADS);
        let results: Vec<_> = std::thread::scope(|scope| {
            let write = |thread| {
                let bytes = contents(thread);
                barrier.wait();
                put(&**store, &name, &bytes)
            };
            let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || write(thread))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a writer returns an error and does not panic")).collect()
        });
        let winners: Vec<_> = (0..THREADS).filter(|thread| results.get(*thread).is_some_and(Result::is_ok)).collect();
        let losers = results.iter().filter(|result| matches!(result, Err(StoreError::AlreadyExists { .. }))).count();
        assert_eq!(winners.len() + losers, THREADS, "writers should win or meet the winner's object: {results:?}");
        let [winner, others @ ..] = winners.as_slice() else { panic!("somebody should win: {results:?}") };
        assert!(others.is_empty() || !is_exclusive, "only one should win: {results:?}");
        assert!(get(&**store, &name).expect("it was written") == contents(*winner), "the winner's bytes should be there");
    }
}

fn writers_side_by_side(store: &Arc<dyn WriteStore>) {
    let barrier = Barrier::new(THREADS);
    let names: BTreeSet<_> = (0..THREADS).map(|thread| format!("pack/{}/{thread}", thread / 3)).collect();
    std::thread::scope(|scope| {
        for name in &names {
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                must_put(&**store, name, name.as_bytes());
            });
        }
    });
    assert!(listed(&**store, "", None).into_iter().eq(names));
}

fn ranges_are_exact(store: &Arc<dyn WriteStore>) {
    let bytes = bytes_of(1000, 2);
    let name = ObjectName::new("pack/aa/1");
    must_put(&**store, name.as_str(), &bytes);
    must_put(&**store, "pack/aa/0", b"");
    let read = |range| wait("range", store.get_range(&name, range));
    for (start, end) in [(0, 1000), (0, 1), (999, 1000), (1, 999), (500, 501), (0, 0), (500, 500), (1000, 1000)] {
        let part = read(start..end).unwrap_or_else(|error| panic!("{start}..{end} should be read: {error:?}"));
        let expected = bytes.iter().skip(usize::try_from(start).unwrap_or(0)).take(usize::try_from(end - start).unwrap_or(0));
        assert!(part.iter().eq(expected), "{start}..{end} should be those very bytes");
    }
    for (start, end) in [(0, 1001), (999, 1001), (1000, 1001), (1001, 1001), (5000, 6000), (0, u64::MAX), (u64::MAX - 1, u64::MAX), (6, 5)]
    {
        let result = read(start..end);
        assert!(matches!(result, Err(StoreError::WrongSize { size: 1000, .. })), "{start}..{end} does not fit: {result:?}");
    }
    let empty = ObjectName::new("pack/aa/0");
    assert_eq!(wait("range", store.get_range(&empty, 0..0)).expect("it fits"), "");
    assert!(matches!(wait("range", store.get_range(&empty, 0..1)), Err(StoreError::WrongSize { size: 0, .. })));
}

/// Sorted bytewise, which is not the order of a walk through directories: `-` < `/` < `0`.
const SORTED: [&str; 8] = ["a-b/x", "a/-", "a/b-c/1", "a/b/1", "a/b/2", "a/b0", "a0/x", "b"];

fn put_sorted(store: &Arc<dyn WriteStore>) {
    for (name, size) in SORTED.iter().rev().zip(0..) {
        must_put(&**store, name, &bytes_of(size, 3));
    }
}

fn lists_are_sorted_and_complete(store: &Arc<dyn WriteStore>) {
    put_sorted(store);
    assert_eq!(listed(&**store, "", None), SORTED);
    for prefix in ["a/", "a-b/", "a/b/", "a/b-c/", "a0/"] {
        let expected: Vec<_> = SORTED.into_iter().filter(|name| name.starts_with(prefix)).collect();
        assert_eq!(listed(&**store, prefix, None), expected, "{prefix}");
    }
    for prefix in ["a/c/", "c/", "c/d/e/"] {
        assert_eq!(listed(&**store, prefix, None), Vec::<String>::new(), "{prefix}");
    }
    let sizes: Vec<_> = list(&**store, "", None).into_iter().map(|object| object.size).collect();
    assert_eq!(sizes, [7, 6, 5, 4, 3, 2, 1, 0]);
}

fn lists_begin_after_a_name(store: &Arc<dyn WriteStore>) {
    put_sorted(store);
    for prefix in ["", "a/", "a/b/"] {
        for after in SORTED.into_iter().chain(["-", "a", "a/a", "a/b", "a/b/11", "a/b-d", "a/c", "a1", "zz"]) {
            let expected: Vec<_> = SORTED.into_iter().filter(|name| name.starts_with(prefix) && *name > after).collect();
            assert_eq!(listed(&**store, prefix, Some(after)), expected, "'{prefix}' after {after}");
        }
    }
}

fn lists_are_longer_than_a_page(store: &Arc<dyn WriteStore>) {
    let names: Vec<_> = (0..MANY).map(|number| format!("snap/00ff/{number:06}")).collect();
    std::thread::scope(|scope| {
        for part in names.chunks(MANY.div_ceil(THREADS)) {
            scope.spawn(move || part.iter().for_each(|name| must_put(&**store, name, name.as_bytes())));
        }
    });
    assert!(listed(&**store, "snap/", None) == names);
    assert!(listed(&**store, "snap/00ff/", Some("snap/00ff/000099")).iter().eq(names.iter().skip(100)));
}

fn deleting_is_idempotent(store: &Arc<dyn WriteStore>) {
    must_put(&**store, "pack/aa/1", b"one");
    must_put(&**store, "pack/aa/2", b"two");
    let delete = |name: &str| wait(name, store.delete(&ObjectName::new(name)));
    if !store.capabilities().deletes {
        assert!(matches!(delete("pack/aa/1"), Err(StoreError::Denied { .. })));
        assert_eq!(get(&**store, "pack/aa/1").expect("it was not deleted"), "one");
        return;
    }
    for name in ["pack/aa/1", "pack/aa/1", "pack/aa/3", "never/was/here"] {
        delete(name).unwrap_or_else(|error| panic!("{name} is gone afterwards, so deleting succeeds: {error:?}"));
    }
    assert_not_found("pack/aa/1", get(&**store, "pack/aa/1"));
    assert_eq!(listed(&**store, "", None), ["pack/aa/2"]);
    must_put(&**store, "pack/aa/1", b"again");
    assert_eq!(get(&**store, "pack/aa/1").expect("it was written"), "again");
    delete("pack/aa/1").expect("it can be deleted again");
    delete("pack/aa/2").expect("the last one can be deleted");
    assert_eq!(list(&**store, "pack/aa/", None), []);
    assert_eq!(list(&**store, "", None), []);
}

fn a_wrong_checksum_writes_nothing(store: &Arc<dyn WriteStore>) {
    if !store.capabilities().verifies_checksum {
        return;
    }
    let name = ObjectName::new("pack/aa/1");
    let result = wait("put", store.put_new(&name, Bytes::from_static(b"right"), &checksum(b"wrong")));
    assert!(matches!(result, Err(StoreError::Failed { .. })), "{result:?}");
    assert_not_found("pack/aa/1", get(&**store, "pack/aa/1"));
    assert_eq!(list(&**store, "", None), []);
    must_put(&**store, "pack/aa/1", b"right");
}
