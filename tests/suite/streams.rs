//! What is read from elsewhere than files: commands, standard input, devices; images of them, and paths that are shown elsewhere.

use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use backup_writer::backup::{BackupError, BackupOptions, backup};
use backup_writer::source::stream::{EndMark, Input, Stream, StreamError};
use fs_core::observer::{Cancel, Silent};
use fs_core::path::Name;
use fs_core::storage::WriteStore;
use fs_core::storage::memory::MemoryStore;
use fs_core::testing::{CallKind, RecordingStore};
use tests::{Bench, look, noise, options};

use super::sources::{bench, notes, restored, saved, write};

fn command(name: &str, text: &str) -> Stream {
    let name = Name::new(name.as_bytes()).unwrap();
    Stream { name, input: Input::Command(text.into()), end_mark: EndMark::Known, allow_empty: false }
}

fn of_streams(streams: Vec<Stream>) -> BackupOptions {
    BackupOptions { paths: Vec::new(), streams, ..options(Path::new("/"), None) }
}

/// The same image, restored.
fn image(bench: &Bench, path: &Path) -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let parent = place.path().join("target");
    restored(bench, path.parent().unwrap(), &parent);
    (place, parent.join(path.file_name().unwrap()))
}

#[test]
fn what_commands_print_stands_beside_paths_in_one_snapshot() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    write(&source, &[("a", "a file")]);
    let (reader, mut writer) = std::io::pipe().unwrap();
    std::io::Write::write_all(&mut writer, b"from a pipe").unwrap();
    drop(writer);
    let from_pipe = Stream { input: Input::Open(Arc::new(reader.into())), ..command("piped", "") };
    let long = command("long", "echo beside >&2; head -c 5000000 /dev/zero | tr '\\0' x; echo end");
    let bench = bench();
    let report = saved(&bench, &BackupOptions { streams: vec![long, from_pipe], ..options(&source, None) });
    assert_eq!(notes(&report), ["/stdin/long: its command said:\nbeside"]);
    assert_eq!((report.stats.file_count, report.stats.new_count, report.stats.byte_count), (3, 3, 5_000_004 + 11 + 6));
    let target = place.path().join("target");
    restored(&bench, Path::new("/"), &target);
    assert_eq!(std::fs::read(target.join("stdin/piped")).unwrap(), b"from a pipe");
    assert_eq!(std::fs::read(target.join("stdin/long")).unwrap(), [&[b'x'; 5_000_000][..], b"end\n"].concat());
    assert_eq!(std::fs::read(target.join(source.strip_prefix("/").unwrap()).join("a")).unwrap(), b"a file");
    let snapshots = bench.open().unwrap().snapshots().unwrap();
    let sources: Vec<_> = snapshots[0].manifest().unwrap().sources.iter().map(|source| source.path.clone()).collect();
    assert_eq!(sources[1..], [b"stdin/long".to_vec(), b"stdin/piped".to_vec()]);
}

#[test]
fn the_same_output_costs_nothing_and_is_never_taken_for_unchanged() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("dump"), noise(5, 3_000_000)).unwrap();
    let how = of_streams(vec![command("db.sql", &format!("cat {}", place.path().join("dump").display()))]);
    let how = BackupOptions { state: Some(place.path().join("state")), ..how };
    let bench = bench();
    saved(&bench, &how);
    let again = saved(&bench, &how);
    assert_eq!((again.stats.unchanged_count, again.stats.changed_count, again.stats.new_bytes / 10_000), (0, 1, 0));
    std::fs::write(place.path().join("dump"), "now something else").unwrap();
    saved(&bench, &how);
    restored(&bench, Path::new("/stdin"), &place.path().join("target"));
    assert_eq!(std::fs::read(place.path().join("target/db.sql")).unwrap(), b"now something else");
}

#[test]
fn a_stream_that_is_not_complete_is_no_snapshot() {
    let dump = "printf '%s\\n' '-- MySQL dump 10.13  Distrib 8.0.36, for Linux (x86_64)' 'INSERT INTO t VALUES (1);'";
    let marked = |end_mark| Stream { end_mark, ..command("a", dump) };
    let cases = [
        (
            command("a", "echo half; echo one >&2; echo the reason >&2; exit 3"),
            "the command for a failed: exit status: 3; it said:\none\nthe reason",
        ),
        (command("a", "echo half; kill -9 $$"), "the command for a failed: signal: 9 (SIGKILL)"),
        (command("a", "no-such-program"), "not found"),
        (command("a", "true"), "a is empty"),
        (command("a", dump), "a does not end with '-- Dump completed': it is not complete"),
        (marked(EndMark::Text("the end".into())), "a does not end with 'the end'"),
        (command("a", "printf '%s\\n' -- '-- PostgreSQL database dump' --; head -c 100000 /dev/zero"), "database dump complete'"),
    ];
    let bench = bench();
    for (stream, says) in cases {
        let error = backup(&bench.open().unwrap(), &bench.store, &of_streams(vec![stream]), &Silent).unwrap_err();
        assert!(matches!(error, BackupError::Stream(_)) && error.to_string().contains(says), "{says}: {error}");
    }
    assert_eq!(bench.open().unwrap().snapshots().unwrap().len(), 0);
    let complete = format!("{dump}; head -c 3000000 /dev/zero; echo '-- Dump completed on 2026-11-21 10:00:00'");
    let good = [
        command("a", &complete),
        marked(EndMark::Nothing),
        marked(EndMark::Text("VALUES (1)".into())),
        Stream { allow_empty: true, ..command("a", "true") },
    ];
    for stream in good {
        saved(&bench, &of_streams(vec![stream]));
    }
    let twice = of_streams(vec![command("a", "echo"), command("a", "echo")]);
    let error = backup(&bench.open().unwrap(), &bench.store, &twice, &Silent).unwrap_err();
    assert!(matches!(error, BackupError::Twice { .. }), "{error}");
}

#[test]
fn a_silent_command_is_given_up_with_the_run_and_killed() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("pid");
    let how = of_streams(vec![command("a", &format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000", file.display()))]);
    let (bench, cancel) = (bench(), Cancel::default());
    std::thread::scope(|scope| {
        let run = scope.spawn(|| backup(&bench.open().unwrap(), &bench.store, &how, &cancel));
        while !file.exists() && !run.is_finished() {
            std::thread::yield_now();
        }
        cancel.cancel();
        assert!(matches!(run.join().unwrap(), Err(BackupError::Cancelled { .. })));
    });
    let pid = std::fs::read_to_string(&file).unwrap();
    assert!(!Path::new("/proc").join(pid.trim()).exists(), "nobody is left behind");
}

#[test]
fn a_command_that_cannot_start_or_is_abandoned_says_so() {
    let stream = command("a", "sleep 1000");
    let mut running = stream.open().unwrap();
    let error = running.read(&mut [0; 10], &|| false).unwrap_err();
    assert!(matches!(error, StreamError::Abandoned { .. }), "{error}");
}

/// A loop device over a file; `None` where this machine has none to give.
struct Loop(PathBuf);

impl Loop {
    fn over(file: &Path) -> Option<Self> {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output().ok()?;
        let device = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| Self(PathBuf::from(device.trim())))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn a_device_is_saved_as_a_file_of_its_size_with_zeros_as_holes() {
    let place = tempfile::tempdir().unwrap();
    let disk = place.path().join("disk");
    let file = std::fs::File::create(&disk).unwrap();
    file.set_len(40 << 20).unwrap();
    file.write_all_at(&noise(1, 3_000_000), 5 << 20).unwrap();
    file.write_all_at(b"the last sector", (40 << 20) - 512).unwrap();
    let device = Loop::over(&disk);
    // A link leads to it, as with logical volumes; without loop devices the file stands for one.
    let link = place.path().join("volume");
    std::os::unix::fs::symlink(device.as_ref().map_or(&disk, |device| &device.0), &link).unwrap();
    let bench = bench();
    let how = BackupOptions { paths: Vec::new(), devices: vec![link.clone()], ..options(&link, None) };
    let report = saved(&bench, &how);
    assert_eq!((report.stats.file_count, report.stats.byte_count), (1, 40 << 20), "{:?}", report.findings);
    assert!(report.stats.new_bytes < 4 << 20, "{:?}", report.stats);
    let (_place, target) = image(&bench, &link);
    assert!(std::fs::read(&target).unwrap() == std::fs::read(&disk).unwrap());
    assert!(target.metadata().unwrap().blocks() * 512 < 6 << 20, "zeros are holes");
    // Its times say nothing: it is read again, and one sector costs one block.
    match &device {
        Some(device) => std::fs::File::options().write(true).open(&device.0).unwrap().write_all_at(&noise(2, 512), 6 << 20).unwrap(),
        None => file.write_all_at(&noise(2, 512), 6 << 20).unwrap(),
    }
    let again = saved(&bench, &how);
    assert_eq!((again.stats.changed_count, again.stats.unchanged_count), (1, 0));
    assert!(again.stats.new_bytes < 100_000, "{:?}", again.stats);
    if let Some(device) = &device {
        let plain = saved(&bench, &options(&device.0, None));
        assert_eq!((plain.stats.file_count, plain.stats.other_count), (0, 1), "a device that is named as a path is an entry");
    }
    let nowhere = BackupOptions { devices: vec!["/dev/null".into()], ..how };
    let error = backup(&bench.open().unwrap(), &bench.store, &nowhere, &Silent).unwrap_err();
    assert!(matches!(error, BackupError::BlockDevice { .. }), "{error}");
}

#[test]
fn what_changes_in_an_image_costs_the_blocks_it_touches() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let disk = source.join("disk.img");
    let file = std::fs::File::create(&disk).unwrap();
    file.set_len(64 << 20).unwrap();
    file.write_all_at(&noise(1, 16 << 20), 32 << 20).unwrap();
    let bench = bench();
    let new_bytes = || saved(&bench, &options(&source, None)).stats.new_bytes;
    new_bytes();
    // What is data begins earlier now: blocks lie at multiples of their size all the same.
    file.write_all_at(&noise(2, 4096), (32 << 20) - 4096).unwrap();
    assert!(new_bytes() < 3 * (64 << 10), "one block before the data");
    for n in 0..40u64 {
        file.write_all_at(&noise(100 + n, 4096), (32 << 20) + n * 100 * 4096).unwrap();
    }
    let grown = new_bytes();
    assert!((40 * 4096..41 * (64 << 10) + 20_000).contains(&grown), "{grown}");
    // Written zeros, short runs and long ones.
    file.write_all_at(&vec![0; 200_000], 33 << 20).unwrap();
    file.write_all_at(&vec![0; 5 << 20], 40 << 20).unwrap();
    file.write_all_at(&vec![0; 3 << 20], 61 << 20).unwrap();
    assert!(new_bytes() < 6 * (64 << 10));
    let (_place, target) = image(&bench, &disk);
    assert!(std::fs::read(&target).unwrap() == std::fs::read(&disk).unwrap());
    assert!(target.metadata().unwrap().blocks() * 512 < 12 << 20, "long zeros are holes");
}

#[test]
fn a_path_is_shown_elsewhere_and_compared_with_what_was_shown_there() {
    let place = tempfile::tempdir().unwrap();
    let [first, second, shown] = ["snapshot-1", "snapshot-2", "home"].map(|name| place.path().join(name));
    write(&first, &[("a", "a"), ("deep/er/b", "b"), (".yesterignore", "*.tmp"), ("deep/c.tmp", "")]);
    write(&shown, &[("live", "this is not what is saved")]);
    let store = RecordingStore::new(Arc::new(MemoryStore::new()));
    let bench = Bench::new(Arc::clone(&store) as Arc<dyn WriteStore>).unwrap();
    let state = place.path().join("state");
    let how = |real: &Path| BackupOptions { shown_as: vec![shown.clone()], ..options(real, Some(&state)) };
    saved(&bench, &how(&first));
    std::fs::rename(&first, &second).unwrap();
    store.take();
    let again = saved(&bench, &how(&second));
    assert_eq!((again.stats.unchanged_count, again.stats.new_count, again.stats.changed_count), (3, 0, 0));
    let puts = store.places(CallKind::Put);
    assert!(!puts.iter().any(|name| name.starts_with("pack/")), "{puts:?}");
    let target = place.path().join("target");
    restored(&bench, &shown, &target);
    std::fs::remove_file(second.join("deep/c.tmp")).unwrap();
    let (before, mut after) = (look(&second).unwrap(), look(&target).unwrap());
    // Removing the file has moved the time of its folder.
    after.get_mut(Path::new("deep")).unwrap().mtime = before[Path::new("deep")].mtime;
    assert_eq!(before, after);
    let file = BackupOptions { shown_as: vec![place.path().join("letter")], ..options(&second.join("a"), None) };
    saved(&bench, &file);
    let (_place, letter) = image(&bench, &place.path().join("letter"));
    assert_eq!(std::fs::read(letter).unwrap(), b"a");
    let inside =
        BackupOptions { paths: vec![second.clone(), shown.clone()], shown_as: vec![shown.join("x"), shown.clone()], ..how(&second) };
    let error = backup(&bench.open().unwrap(), &bench.store, &inside, &Silent).unwrap_err();
    assert!(matches!(error, BackupError::Inside { .. }), "{error}");
}

#[test]
fn a_folder_is_shown_as_the_root() {
    let place = tempfile::tempdir().unwrap();
    let (source, target) = (place.path().join("root"), place.path().join("target"));
    write(&source, &[("etc/hostname", "other"), ("top", "")]);
    let bench = bench();
    saved(&bench, &BackupOptions { shown_as: vec!["/".into()], ..options(&source, None) });
    restored(&bench, Path::new("/"), &target);
    assert_eq!(look(&source).unwrap(), look(&target).unwrap());
}
