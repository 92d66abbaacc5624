//! Stores that hang and stores that fail: right bytes or an error, no thread lost, and an end that waits for nobody.

use std::time::{Duration, Instant};

use fs_core::testing::{CallKind, Fault, FaultyStore, Rule, SlowStore};

use super::client::{Client, Line};
use super::fixture::{self, BIG, SMALL_COUNT, text};

/// Reads that hang, more than the drive has threads.
const HANGING: usize = 100;

#[test]
fn reads_that_hang_hold_no_thread() {
    let Some(folder) = fixture::folder() else { return };
    let slow = SlowStore::new(fixture::store(&folder));
    let client = Client::new(&fixture::open(&folder, slow.clone()));
    let root = fixture::root(&client);
    let big = client.open(&format!("{root}\\big.txt")).unwrap();
    let known = client.open(&format!("{root}\\plain.txt")).unwrap();
    client.read(&known, 0, 100).unwrap();
    slow.close(Some(CallKind::GetRange));
    let reads: Vec<_> = (0..HANGING).map(|n| (n, client.begin_read(&big, (n * 50_000) as u64, 10_000))).collect();
    slow.wait_for(1);
    // Everything that is known is answered while they hang.
    let started = Instant::now();
    for _ in 0..100 {
        assert_eq!(client.read(&known, 0, 100).unwrap(), b"Hello from a snapshot\n");
        client.close(&client.open(&format!("{root}\\PLAIN.txt")).unwrap());
        client.volume_info();
    }
    assert!(reads.iter().all(|(_, read)| !client.is_answered(read)));
    assert!(started.elapsed() < Duration::from_secs(15));
    slow.open();
    for (n, read) in reads {
        assert_eq!(client.end_read(read).unwrap(), text(1, n * 50_000, 10_000));
    }
}

#[test]
fn listings_that_hang_hold_no_thread_either() {
    let Some(folder) = fixture::folder() else { return };
    let slow = SlowStore::new(fixture::store(&folder));
    let client = Client::new(&fixture::open(&folder, slow.clone()));
    // Its entries are in a record of their own, which nobody has asked for yet.
    let other = client.folder("\\Latest\\fixture");
    slow.close(Some(CallKind::GetRange));
    std::thread::scope(|scope| {
        let listing = scope.spawn(|| client.list(&other, 4096, None).iter().map(Line::text).collect::<Vec<_>>());
        slow.wait_for(1);
        for _ in 0..20 {
            assert_eq!(client.names("\\").len(), 5);
        }
        slow.open();
        assert_eq!(listing.join().unwrap(), [".", "..", "source"]);
    });
}

#[test]
fn a_drive_is_unmounted_while_its_store_hangs() {
    let Some(folder) = fixture::folder() else { return };
    let slow = SlowStore::new(fixture::store(&folder));
    let client = Client::new(&fixture::open(&folder, slow.clone()));
    let root = fixture::root(&client);
    let big = client.open(&format!("{root}\\big.txt")).unwrap();
    slow.close(None);
    let reads: Vec<_> = (0..50).map(|n| client.begin_read(&big, n * 90_000, 4096)).collect();
    // Some wait in threads of the library too.
    let volume = std::sync::Arc::clone(&client.volume);
    slow.wait_for(1);
    let mount = client.take();
    let (client, root) = (&client, &root);
    std::thread::scope(|scope| {
        let opens: Vec<_> = (0..8).map(|n| scope.spawn(move || client.open(&format!("{root}\\small\\file {n:03}.txt")).err())).collect();
        slow.wait_for(2);
        let started = Instant::now();
        drop(mount);
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        for open in opens {
            assert!(open.join().unwrap().is_some_and(|status| status >= 0x8000_0000));
        }
    });
    assert!(volume.is_stopped());
    for read in reads {
        assert!(client.end_read(read).is_err(), "cancelled, and told so");
    }
    slow.open();
}

#[test]
fn a_store_that_fails_gives_errors_and_never_wrong_bytes() {
    let Some(folder) = fixture::folder() else { return };
    for fault in [Fault::ErrorBefore, Fault::ShortRead, Fault::WrongRange, Fault::Timeout, Fault::Storm] {
        let faulty = FaultyStore::new(fixture::store(&folder), []);
        let client = Client::new(&fixture::open(&folder, faulty.clone()));
        let root = fixture::root(&client);
        // Every third request from here on.
        (0..400).for_each(|n| faulty.add(Rule::nth(1 + 3 * n, fault).kind(CallKind::GetRange)));
        let (mut right, mut errors) = (0, 0);
        for n in 0..60 {
            let offset = (n * 83_003) % (BIG - 20_000);
            let read = client.open(&format!("{root}\\big.txt")).and_then(|big| {
                let read = client.read(&big, offset as u64, 16_000);
                client.close(&big);
                read
            });
            match read {
                Ok(bytes) => {
                    assert_eq!(bytes, text(1, offset, 16_000), "{fault:?}");
                    right += 1;
                }
                Err(status) => {
                    assert!(matches!(status, 0xc000_00b5 | 0xc000_0102), "{fault:?} {status:08x}");
                    errors += 1;
                }
            }
        }
        assert_eq!(right + errors, 60);
        faulty.heal();
        // What failed is asked for again; after a loss of the line at most for some seconds not.
        let until = Instant::now() + Duration::from_secs(20);
        while client.content(&format!("{root}\\small\\file 011.txt")).ok() != Some(text(1011, 0, 1011)) {
            assert!(Instant::now() < until, "{fault:?}: the drive does not recover");
        }
        assert_eq!(client.content(&format!("{root}\\plain.txt")).unwrap(), b"Hello from a snapshot\n");
    }
}

#[test]
fn a_drive_is_unmounted_under_load() {
    let Some(folder) = fixture::folder() else { return };
    let client = Client::new(&fixture::open(&folder, fixture::store(&folder)));
    let root = fixture::root(&client);
    let mount = client.take();
    let (client, root) = (&client, &root);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..8)
            .map(|reader| {
                scope.spawn(move || {
                    let mut right = 0;
                    for step in 0.. {
                        let n = (reader * 61 + step) % SMALL_COUNT;
                        match client.content(&format!("{root}\\small\\file {n:03}.txt")) {
                            Ok(bytes) => assert_eq!(bytes, text(1000 + n, 0, 1000 + n)),
                            Err(_) => break,
                        }
                        right += 1;
                    }
                    right
                })
            })
            .collect();
        // In the middle of it.
        while client.volume.served() < 500 {
            std::thread::yield_now();
        }
        drop(mount);
        let right: usize = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
        assert!(right > 20, "{right}");
    });
}
