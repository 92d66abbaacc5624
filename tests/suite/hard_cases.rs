//! Sources that are hard: huge holes, huge folders, deep paths, odd names, files that change while they are read.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;

use backup_writer::backup::backup;
use fs_core::observer::Silent;
use fs_core::report::Severity;
use fs_core::storage::memory::MemoryStore;
use fs_core::testing::{CallKind, SlowStore};
use rustix::fs::{CWD, Mode, OFlags};
use tests::{Bench, look, noise, options};

use super::cli::{Shell, source_in};
use super::sources::{bench, restored, saved};

#[test]
fn a_tebibyte_of_holes_is_saved_and_restored_by_what_is_in_it() {
    const SIZE: u64 = 1 << 40;
    let place = tempfile::tempdir().unwrap();
    let (source, target) = (place.path().join("source"), place.path().join("target"));
    std::fs::create_dir(&source).unwrap();
    let pieces = [(0, 5000), (SIZE / 3, 100_000), (SIZE - 7, 7)];
    for name in ["by content", "disk.img"] {
        let file = std::fs::File::create(source.join(name)).unwrap();
        file.set_len(SIZE).unwrap();
        for (at, length) in pieces {
            file.write_all_at(&noise(at, length), at).unwrap();
        }
    }
    let bench = bench();
    let report = saved(&bench, &options(&source, None));
    assert_eq!((report.findings.len(), report.stats.byte_count), (0, 2 * SIZE), "{:?}", report.findings);
    restored(&bench, &source, &target);
    for name in ["by content", "disk.img"] {
        let file = std::fs::File::open(target.join(name)).unwrap();
        let metadata = file.metadata().unwrap();
        assert!(metadata.len() == SIZE && metadata.blocks() * 512 < 4 << 20, "{name}: {}", metadata.blocks());
        for (at, length) in pieces {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, at).unwrap();
            assert!(bytes == noise(at, length), "{name} at {at}");
        }
    }
}

#[test]
fn a_file_with_more_holes_than_are_kept_is_saved_whole() {
    let place = tempfile::tempdir().unwrap();
    let (source, target) = (place.path().join("source"), place.path().join("target"));
    std::fs::create_dir(&source).unwrap();
    let file = std::fs::File::create(source.join("comb")).unwrap();
    for n in 0..10_010 {
        file.write_all_at(&noise(n, 100), n * 8192).unwrap();
    }
    let bench = bench();
    let report = saved(&bench, &options(&source, None));
    assert_eq!((report.findings.len(), report.stats.byte_count), (0, 10_009 * 8192 + 100), "{:?}", report.findings);
    restored(&bench, &source, &target);
    assert!(std::fs::read(source.join("comb")).unwrap() == std::fs::read(target.join("comb")).unwrap());
}

/// A million in the long run: minutes go by until they are made.
#[test]
fn a_huge_directory_comes_back() {
    let count = if tests::driven::is_long() { 1_000_000 } else { 100_000 };
    let place = tempfile::tempdir().unwrap();
    let (source, target) = (place.path().join("source"), place.path().join("target"));
    std::fs::create_dir(&source).unwrap();
    for n in 0..count {
        std::fs::write(source.join(format!("entry {n}")), if n % 1000 == 0 { "not empty" } else { "" }).unwrap();
    }
    let bench = bench();
    let first = saved(&bench, &options(&source, None));
    assert_eq!((first.findings.len(), first.stats.new_count), (0, count));
    std::fs::write(source.join("one more"), "").unwrap();
    let second = saved(&bench, &options(&source, None));
    assert_eq!((second.stats.unchanged_count, second.stats.new_count), (count, 1));
    assert!(second.stats.new_bytes < 2 << 20, "{:?}", second.stats);
    restored(&bench, &source, &target);
    assert!(look(&source).unwrap() == look(&target).unwrap());
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Goes down through folders of one name, made on the way if need be.
fn descend(top: &Path, name: &str, depth: usize, makes: bool) -> OwnedFd {
    let mut folder = rustix::fs::openat(CWD, top, FOLDER, Mode::empty()).unwrap();
    for _ in 0..depth {
        if makes {
            rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)).unwrap();
        }
        folder = rustix::fs::openat(&folder, name, FOLDER, Mode::empty()).unwrap();
    }
    folder
}

#[test]
fn paths_deeper_than_the_kernel_takes_come_back() {
    const DEPTH: usize = 60;
    let name = "d".repeat(255);
    let place = tempfile::tempdir().unwrap();
    let (source, target) = (place.path().join("source"), place.path().join("target"));
    std::fs::create_dir(&source).unwrap();
    let deepest = descend(&source, &name, DEPTH, true);
    let write = OFlags::WRONLY | OFlags::CREATE;
    let file = rustix::fs::openat(&deepest, "file", write, Mode::from_raw_mode(0o640)).unwrap();
    rustix::io::write(&file, b"15 KiB down").unwrap();
    let longest = "../".repeat(1364) + "end";
    rustix::fs::symlinkat(longest.as_str(), &deepest, "link").unwrap();
    let bench = bench();
    let report = saved(&bench, &options(&source, None));
    assert_eq!((report.findings.len(), report.stats.directory_count >= DEPTH as u64), (0, true), "{:?}", report.findings);
    restored(&bench, &source, &target);
    let deepest = descend(&target, &name, DEPTH, false);
    let file = std::fs::File::from(rustix::fs::openat(&deepest, "file", OFlags::RDONLY, Mode::empty()).unwrap());
    assert_eq!((std::io::read_to_string(&file).unwrap().as_str(), file.metadata().unwrap().mode() & 0o777), ("15 KiB down", 0o640));
    assert_eq!(rustix::fs::readlinkat(&deepest, "link", Vec::new()).unwrap().to_bytes(), longest.as_bytes());
}

#[test]
fn names_of_every_byte_and_of_every_length_come_back() {
    let place = tempfile::tempdir().unwrap();
    let (source, target) = (place.path().join("source"), place.path().join("target"));
    std::fs::create_dir(&source).unwrap();
    let values: Vec<u8> = (1..=255).filter(|&byte| byte != b'/').collect();
    let mut names: Vec<Vec<u8>> = values.iter().map(|&byte| vec![byte; 255]).collect();
    names.extend(values.iter().filter(|&&byte| byte != b'.').map(|&byte| vec![byte]));
    names.extend((3..255).map(|length| vec![b'.'; length]));
    names.push(values);
    for name in &names {
        std::fs::write(source.join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    let bench = bench();
    let report = saved(&bench, &options(&source, None));
    assert_eq!((report.findings.len(), report.stats.file_count), (0, names.len() as u64), "{:?}", report.findings);
    restored(&bench, &source, &target);
    assert!(look(&source).unwrap() == look(&target).unwrap());
}

#[test]
fn a_file_that_grows_or_shrinks_while_it_is_read_is_saved_and_said() {
    for (name, length) in [("grows", 200_000_000), ("shrinks", 5000), ("grows.img", 200_000_000), ("shrinks.img", 5000)] {
        let place = tempfile::tempdir().unwrap();
        let (source, target, state) = (place.path().join("source"), place.path().join("target"), place.path().join("state"));
        std::fs::create_dir(&source).unwrap();
        std::fs::write(source.join("before"), "so that the device is known").unwrap();
        let store = SlowStore::new(Arc::new(MemoryStore::new()));
        let bench = Bench::new(Arc::clone(&store) as _).unwrap();
        saved(&bench, &options(&source, Some(&state)));
        let file = std::fs::File::create(source.join(name)).unwrap();
        file.write_all_at(&noise(1, 120_000_000), 0).unwrap();
        // Nothing goes out: reading stops after two packs, and the rest of the file is another one.
        store.close(Some(CallKind::Put));
        bench.clock.advance(std::time::Duration::from_secs(60));
        let report = std::thread::scope(|scope| {
            let run = scope.spawn(|| backup(&bench.open().unwrap(), &bench.store, &options(&source, Some(&state)), &Silent).unwrap());
            store.wait_for(1);
            file.set_len(length).unwrap();
            store.open();
            run.join().unwrap()
        });
        let told: Vec<_> =
            report.findings.iter().filter(|finding| finding.severity == Severity::Warning).map(ToString::to_string).collect();
        assert!(told.len() == 1 && told[0].contains("it changed while it was read"), "{name}: {told:?}");
        restored(&bench, &source, &target);
        let saved_file = std::fs::read(target.join(name)).unwrap();
        let same = saved_file.iter().zip(&noise(1, 120_000_000)).take_while(|(a, b)| a == b).count();
        assert!(same >= 5000.min(saved_file.len()) && same > 0, "{name}: {same} of {}", saved_file.len());
        let again = saved(&bench, &options(&source, Some(&state)));
        assert_eq!((again.findings.len(), again.stats.changed_count), (0, 1), "{name}: read again by the next run");
    }
}

#[test]
fn few_open_files_are_enough_to_save_many_folders() {
    let shell = Shell::with_backup(&[]);
    for n in 0..1000 {
        std::fs::create_dir(shell.path(&format!("source/{n}"))).unwrap();
        std::fs::write(shell.path(&format!("source/{n}/file")), n.to_string()).unwrap();
    }
    shell.with_open_files(100, "backup source");
    shell.ok(&["restore", "latest", "--to", "r"]);
    assert_eq!(look(&shell.path("source")).unwrap(), look(&source_in(&shell, &shell.path("r"))).unwrap());
}
