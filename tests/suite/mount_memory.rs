//! What a mount takes of the machine's memory, by the real program and the real kernel.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use fs_core::storage::local::LocalStore;
use tests::driven::{Drive, Driven, forget, is_long};
use tests::{Bench, add_snapshots, noise};

/// What the program may take beside the memory that it was given.
const BESIDE: u64 = 64 << 20;
const MIB: usize = 1 << 20;

/// Most memory that the program of a drive has ever taken, in bytes.
fn most_memory(drive: &Drive) -> u64 {
    let told = std::fs::read_to_string(format!("/proc/{}/status", drive.process())).unwrap();
    let line = told.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// Entries below a folder, each looked at.
fn count(folder: &Path) -> usize {
    let lines = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    lines.map(|line| if line.metadata().unwrap().is_dir() { 1 + count(&line.path()) } else { 1 }).sum()
}

/// Reads a file from its beginning to its end, while the kernel keeps little of it.
fn read(path: &Path) -> usize {
    let (mut file, mut buffer, mut length) = (std::fs::File::open(path).unwrap(), vec![0; MIB], 0);
    loop {
        let got = file.read(&mut buffer).unwrap();
        if got == 0 {
            return length;
        }
        if length / (32 * MIB) < (length + got) / (32 * MIB) {
            forget(path).unwrap();
        }
        length += got;
    }
}

/// A tree of more pages, and files of more records, than fit into the memory: what is read pushes out what was.
#[test]
fn memory_of_a_mount() {
    let (given, given_bytes, folders, rounds) = if is_long() { ("64M", 64 << 20, 100, 50) } else { ("16M", 16 << 20, 20, 8) };
    let driven = Driven::new("repository").unwrap();
    for folder in 0..folders {
        let path = driven.source().join(format!("folder {folder}"));
        std::fs::create_dir(&path).unwrap();
        (0..1000).for_each(|file| drop(std::fs::File::create(path.join(format!("a file of {folder}, number {file}"))).unwrap()));
    }
    // The same records again and again, but not soon enough to be there still.
    let (large, again) = (driven.source().join("large"), noise(1, given_bytes as usize));
    let mut file = std::fs::File::create(&large).unwrap();
    (0..rounds).for_each(|_| file.write_all(&again).unwrap());
    driven.save().unwrap();

    let drive = driven.mount("drive", &["--memory", given]).unwrap();
    assert_eq!(count(&drive.shown), folders * 1001 + 1);
    let after_tree = most_memory(&drive);
    assert_eq!(read(&drive.shown.join("large")), rounds * again.len());
    let after_both = most_memory(&drive);
    assert!(after_tree <= given_bytes + BESIDE, "{after_tree} bytes for the tree");
    assert!(after_both <= given_bytes + BESIDE, "{after_both} bytes for the tree and the file");
}

/// Most memory of a drive of so many snapshots, of which this machine has seen each before. The newest one is looked at, and its host's folder is listed.
fn memory_of(count: u64) -> u64 {
    let driven = Driven::new("repository").unwrap();
    std::fs::write(driven.source().join("file"), "content").unwrap();
    let bench = Bench::new(Arc::new(LocalStore::create(driven.path("repository")).unwrap())).unwrap();
    bench.backup(&driven.source(), None).unwrap();
    add_snapshots(&bench, count - 1, 1000).unwrap();
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/data/format1.key"), driven.path("key")).unwrap();
    drop(driven.mount("first", &[]).unwrap());
    let drive = driven.mount("drive", &[]).unwrap();
    assert_eq!(std::fs::read(drive.shown.join("file")).unwrap(), b"content");
    let opened = most_memory(&drive);
    assert_eq!(std::fs::read_dir(drive.path.join("Snapshots/host")).unwrap().count() as u64, count);
    opened
}

/// Decoded, a manifest takes three times as much. While a drive opens on a busy machine it may list anew beside that, which takes as much again for a moment: so the
/// best of a few counts.
#[test]
fn memory_for_a_snapshot_that_nobody_looks_at() {
    const COUNT: u64 = 4000;
    let few = memory_of(10);
    let mut tried = (0..3).map(|_| memory_of(COUNT));
    assert!(tried.any(|many| many.saturating_sub(few) <= COUNT * 1000), "{few} bytes for ten snapshots, too many for {COUNT}");
}
