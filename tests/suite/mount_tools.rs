//! What the tools that people use make of the drive.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use fs_core::storage::memory::MemoryStore;
use mount_linux::{Mount, MountOptions};
use rustix::fs::{SeekFrom, XattrFlags};
use rustix::io::Errno;
use tests::{Bench, acl, look};

use super::mount::{latest, mount, view, within_five_seconds};

/// A source with every kind of entry and ACLs, and a drive that shows it.
struct Shown {
    _place: tempfile::TempDir,
    _mounted: Mount,
    source: PathBuf,
    drive: PathBuf,
    /// The source as the drive shows it.
    saved: PathBuf,
}

fn shown() -> Shown {
    let place = tempfile::tempdir().unwrap();
    let (source, drive) = (place.path().join("source"), place.path().join("drive"));
    std::fs::create_dir(&source).unwrap();
    super::fidelity::every_kind(&source);
    for (path, name) in [("small", "system.posix_acl_access"), ("deep", "system.posix_acl_access"), ("deep/er", "system.posix_acl_default")]
    {
        rustix::fs::lsetxattr(source.join(path), name, &acl(1000), XattrFlags::empty()).unwrap();
    }
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    let report = bench.backup(&source, None).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let mounted = mount(view(&bench, None), &drive);
    let saved = latest(&drive, &source).canonicalize().unwrap();
    Shown { _place: place, _mounted: mounted, source, drive, saved }
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().expect("tests/run installs it");
    assert!(output.status.success() && output.stderr.is_empty(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn with_slash(path: &Path) -> PathBuf {
    path.join("")
}

fn rsync(arguments: &str, from: &Path, to: &Path) -> String {
    let mut command = Command::new("rsync");
    let output = run(command.args([arguments, "--delete", "--itemize-changes"]).args([with_slash(from), with_slash(to)]));
    String::from_utf8_lossy(&output).into_owned()
}

#[test]
fn rsync_finds_no_difference() {
    let shown = shown();
    // With contents, times, hard links, ACLs, attributes and devices, both ways.
    assert_eq!(rsync("-aHAXnc", &shown.saved, &shown.source), "");
    assert_eq!(rsync("-aHAXnc", &shown.source, &shown.saved), "");
    std::fs::remove_file(shown.source.join("small")).unwrap();
    assert!(rsync("-aHAXn", &shown.saved, &shown.source).contains("small"), "it would tell");
}

#[test]
fn a_copy_is_the_source() {
    let shown = shown();
    let copy = shown.source.with_file_name("copy");
    run(Command::new("cp").arg("-a").args([&shown.saved, &copy]));
    assert!(look(&shown.source).unwrap() == look(&copy).unwrap());
    assert_eq!(rsync("-aHAXn", &shown.source, &copy), "");
    assert!(copy.join("sparse").metadata().unwrap().blocks() * 512 < 1_000_000, "holes are copied as holes");
}

#[test]
fn find_and_ls_tell_the_same_of_source_and_drive() {
    let shown = shown();
    let told = |command: &[&str]| {
        [&shown.source, &shown.saved].map(|folder| {
            let output = run(Command::new(command[0]).args(&command[1..]).current_dir(folder));
            let mut lines: Vec<_> = output.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
            lines.sort();
            lines
        })
    };
    // Directories have no size of their own on the drive.
    for command in [
        &["find", ".", "-not", "-type", "d", "-printf", "%P %y %m %U %G %s %n %T@ %l\\n"][..],
        &["find", ".", "-type", "d", "-printf", "%P %m %U %G %n %T@\\n"],
        &["find", ".", "-samefile", "small"],
        &["ls", "-lnRA", "--time-style=full-iso", "-I", "deep", "-I", "empty"],
    ] {
        let [source, drive] = told(command);
        let without_totals = |lines: Vec<Vec<u8>>| lines.into_iter().filter(|line| !line.starts_with(b"total ")).collect::<Vec<_>>();
        assert_eq!(without_totals(source), without_totals(drive), "{command:?}");
    }
}

#[test]
fn attributes_are_listed_and_read_whatever_room_the_caller_has() {
    let shown = shown();
    let list = |path: &str| {
        let mut names = vec![0; 1000];
        let length = rustix::fs::llistxattr(shown.saved.join(path), &mut names[..]).unwrap();
        names.truncate(length);
        names
    };
    assert_eq!(list("large"), b"user.comment\0user.long\0");
    assert_eq!(list("small"), b"system.posix_acl_access\0");
    assert_eq!(list("dangling"), b"");
    let large = shown.saved.join("large");
    let ask = |name: &str, room: usize| rustix::fs::lgetxattr(&large, name, &mut vec![0; room][..]);
    assert_eq!((ask("user.comment", 4), ask("user.comment", 5)), (Err(Errno::RANGE), Ok(5)));
    assert_eq!((ask("user.long", 1999), ask("user.long", 2000)), (Err(Errno::RANGE), Ok(2000)));
    assert_eq!(ask("user.none", 100), Err(Errno::NODATA));
    assert_eq!(rustix::fs::llistxattr(&large, &mut [0; 5][..]), Err(Errno::RANGE));
    let refused = rustix::fs::lsetxattr(&large, "user.comment", b"other", XattrFlags::empty());
    assert_eq!(refused, Err(Errno::ROFS));
}

#[test]
fn other_users_are_let_in_by_the_access_lists() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (source, drive) = (place.path().join("source"), place.path().join("drive"));
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("plain"), "x").unwrap();
    std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    // Before and after there are lists anywhere.
    bench.backup(&source, None).unwrap();
    let shown = view(&bench, None);
    let options = MountOptions { allow_other: true, refresh_every: Duration::from_millis(50), read_ahead_kib: None, forbidden: Vec::new() };
    let _mounted = mount_linux::mount(Arc::clone(&shown), &drive, &options).unwrap();
    let may = |path: &Path, user: u32, group: u32| Command::new("cat").arg(path).uid(user).gid(group).output().unwrap().status.success();
    assert!(may(&latest(&drive, &source).join("plain"), 1000, 1000));
    std::fs::write(source.join("file"), "x").unwrap();
    std::os::unix::fs::chown(source.join("file"), None, Some(2000)).unwrap();
    // User 1000 may read it, group and others may not; the mode has only the mask to show for both of the former: 0640.
    let mut list = acl(1000);
    (list[22], list[38]) = (0, 0);
    rustix::fs::lsetxattr(source.join("file"), "system.posix_acl_access", &list, XattrFlags::empty()).unwrap();
    bench.backup(&source, None).unwrap();
    let saved = || latest(&drive, &source).join("file");
    within_five_seconds(|| saved().exists());
    for file in [source.join("file"), saved()] {
        assert!(may(&file, 1000, 1000) && !may(&file, 3000, 2000) && !may(&file, 3000, 3000), "{}", file.display());
    }
    assert!(may(&latest(&drive, &source).join("plain"), 3000, 3000));
}

#[test]
fn holes_are_found() {
    let shown = shown();
    let open = |name: &str| std::fs::File::open(shown.saved.join(name)).unwrap();
    let sparse = open("sparse");
    let seek = |file: &std::fs::File, to| rustix::fs::seek(file, to);
    let data = seek(&sparse, SeekFrom::Data(0)).unwrap();
    let hole = seek(&sparse, SeekFrom::Hole(data)).unwrap();
    assert!(data <= 20_000_000 && hole >= 20_000_013 && hole - data < 1_000_000, "{data} {hole}");
    assert_eq!(seek(&sparse, SeekFrom::Hole(0)), Ok(0));
    assert_eq!(seek(&sparse, SeekFrom::Data(hole)), Err(Errno::NXIO));
    assert_eq!(seek(&sparse, SeekFrom::Hole(50_000_000)), Err(Errno::NXIO));
    let hollow = open("only a hole");
    assert_eq!((seek(&hollow, SeekFrom::Data(0)), seek(&hollow, SeekFrom::Hole(7))), (Err(Errno::NXIO), Ok(7)));
    let full = open("large");
    assert_eq!((seek(&full, SeekFrom::Data(9)), seek(&full, SeekFrom::Hole(9))), (Ok(9), Ok(3_000_001)));
}

#[test]
fn the_size_of_the_drive_is_that_of_what_it_shows() {
    let shown = shown();
    let told = rustix::fs::statvfs(&shown.drive).unwrap();
    let bytes: u64 = look(&shown.source).unwrap().values().filter(|seen| seen.mode & 0o170_000 == 0o100_000).map(|seen| seen.size).sum();
    assert_eq!(told.f_blocks * told.f_frsize, bytes.next_multiple_of(4096));
    assert_eq!((told.f_bfree, told.f_bavail, told.f_ffree), (0, 0, 0));
    assert!(told.f_files > look(&shown.source).unwrap().len() as u64);
    assert!(told.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY | rustix::fs::StatVfsMountFlags::NOSUID));
}
