//! The contract that every store keeps, as one suite: `run` is handed a maker of fresh, empty stores.

use std::sync::{Arc, Barrier};

use bytes::Bytes;

use crate::object::object_hash;
use crate::storage::{ObjectName, StoreError, WriteStore, wait};

/// Runs the whole suite. `make` gives a fresh, empty store each time.
///
/// # Panics
/// Where the store breaks the contract: that is the point.
pub fn run<S: WriteStore + 'static>(make: impl Fn() -> Arc<S>) {
    let make = || -> Arc<dyn WriteStore> { make() };
    what_is_put_comes_back(&*make());
    what_is_not_there_is_not_found(&*make());
    ranges_are_exact(&*make());
    lists_are_sorted_and_complete(&*make());
    names_are_taken_once(&make());
    deleting_is_idempotent(&*make());
}

fn name(text: &str) -> ObjectName {
    ObjectName::parse(text).expect("the suite uses valid names")
}

/// Puts bytes with their right checksum.
///
/// # Errors
/// The store's.
pub fn put(store: &dyn WriteStore, at: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let hash = object_hash(bytes);
    wait(at, store.put_new(&name(at), Bytes::copy_from_slice(bytes), &hash))
}

fn get(store: &dyn WriteStore, at: &str) -> Result<Bytes, StoreError> {
    wait(at, store.get(&name(at)))
}

fn names(store: &dyn WriteStore, prefix: &str, after: Option<&str>) -> Vec<String> {
    let after = after.map(name);
    let listed = wait(prefix, store.list(prefix, after.as_ref())).expect("listing works");
    listed.into_iter().map(|meta| meta.name.to_string()).collect()
}

fn what_is_put_comes_back(store: &dyn WriteStore) {
    for length in [0, 1, 4095, 4096, 3_000_001] {
        let bytes: Vec<u8> = (0..length).map(|n: u32| n.to_le_bytes()[0]).collect();
        let at = format!("pack/aa/{length}");
        put(store, &at, &bytes).expect("putting works");
        assert_eq!(get(store, &at).expect("getting works"), bytes, "{at}");
        let meta = wait(&at, store.stat(&name(&at))).expect("stat works");
        assert_eq!((meta.size, meta.name), (u64::from(length), name(&at)));
    }
}

fn what_is_not_there_is_not_found(store: &dyn WriteStore) {
    put(store, "snap/aa/1", b"x").expect("putting works");
    for at in ["snap/aa/2", "snap/bb/1", "nothing", "snap/aa"] {
        assert!(matches!(get(store, at), Err(StoreError::NotFound { .. } | StoreError::Failed { .. })), "{at}");
        assert!(wait(at, store.get_range(&name(at), 0..1)).is_err(), "{at}");
        assert!(wait(at, store.stat(&name(at))).is_err(), "{at}");
    }
    assert!(matches!(get(store, "snap/aa/2"), Err(StoreError::NotFound { name: missing }) if missing == name("snap/aa/2")));
    assert!(matches!(get(store, "other/aa/2"), Err(StoreError::NotFound { .. })));
}

fn ranges_are_exact(store: &dyn WriteStore) {
    let at = name("meta/ab/1");
    put(store, at.as_str(), b"0123456789").expect("putting works");
    let range = |range| wait("range", store.get_range(&at, range));
    assert_eq!(range(0..10).expect("all"), &b"0123456789"[..]);
    assert_eq!(range(3..5).expect("some"), &b"34"[..]);
    assert_eq!(range(9..10).expect("the last"), &b"9"[..]);
    assert_eq!(range(4..4).expect("none"), &b""[..]);
    for beyond in [9..11, 10..11, 50..60] {
        assert!(matches!(range(beyond.clone()), Err(StoreError::WrongSize { size: 10, .. })), "{beyond:?}");
    }
}

fn lists_are_sorted_and_complete(store: &dyn WriteStore) {
    assert_eq!(names(store, "", None), [""; 0]);
    assert_eq!(names(store, "idx/", None), [""; 0]);
    let all: Vec<String> = (0..300).map(|n| format!("pack/{:02x}/{n:04}", n * 7 % 256)).collect();
    for at in &all {
        put(store, at, at.as_bytes()).expect("putting works");
    }
    put(store, "packs/aa/1", b"another prefix").expect("putting works");
    let mut sorted = all.clone();
    sorted.sort();
    assert_eq!(names(store, "pack/", None), sorted);
    assert_eq!(names(store, "", None).len(), 301);
    let (after, rest) = (&sorted[99], &sorted[100..]);
    assert_eq!(names(store, "pack/", Some(after)), rest);
    assert_eq!(names(store, "pack/", Some("pack/zz")), [""; 0]);
}

fn names_are_taken_once(store: &Arc<dyn WriteStore>) {
    if !store.capabilities().create_only {
        return;
    }
    put(&**store, "seal/a/1", b"first").expect("putting works");
    assert!(matches!(put(&**store, "seal/a/1", b"second"), Err(StoreError::AlreadyExists { .. })));
    assert_eq!(get(&**store, "seal/a/1").expect("getting works"), &b"first"[..]);
    for round in 0..20 {
        let (at, barrier) = (format!("seal/race/{round}"), Barrier::new(4));
        let winners: usize = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..4u8)
                .map(|racer| {
                    let (at, barrier) = (&at, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        usize::from(put(&**store, at, &[racer; 1000]).is_ok())
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().expect("a racer does not panic")).sum()
        });
        assert_eq!(winners, 1, "exactly one writer gets a name");
        let bytes = get(&**store, &at).expect("getting works");
        assert!(bytes.len() == 1000 && bytes.iter().all(|b| Some(b) == bytes.first()), "the object is one writer's, whole");
    }
}

fn deleting_is_idempotent(store: &dyn WriteStore) {
    if !store.capabilities().deletes {
        return;
    }
    put(store, "mark/a", b"x").expect("putting works");
    for _ in 0..2 {
        wait("mark/a", store.delete(&name("mark/a"))).expect("deleting works, also what is not there");
    }
    assert!(matches!(get(store, "mark/a"), Err(StoreError::NotFound { .. })));
    put(store, "mark/a", b"again").expect("the name is free again");
}
