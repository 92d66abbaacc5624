//! Random trees, saved: what is restored and what the drive shows equal the source, for `rsync` with all that it knows and for ourselves.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use backup_writer::backup::{BackupOptions, backup};
use backup_writer::restore::{RestoreOptions, restore};
use fs_core::observer::Silent;
use fs_core::path::TreePath;
use fs_core::storage::memory::MemoryStore;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use tests::trees::{data_of, grow};
use tests::{Bench, Seen, access_list, look, only, options};

use super::mount::{mount, view};

/// How many trees.
const CASES: u64 = 200;

/// What `rsync` would do to make `to` what `from` is: one line for each difference. Beside owners, groups, modes, targets, devices, hard links (`-H`), lists of access
/// (`-A`) and attributes (`-X`; all but those of `system` for root, those of `user` for others) it compares contents, and times to the nanosecond.
fn rsync(from: &Path, to: &Path) -> String {
    let mut command = Command::new("rsync");
    command.args(["-aHAXni", "--delete", "--checksum", "--modify-window=-1"]).args([from.join(""), to.join("")]);
    let output = command.output().expect("tests/run installs it");
    assert!(output.status.success() && output.stderr.is_empty(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Where the data of each file lie.
fn holes(folder: &Path, seen: &BTreeMap<PathBuf, Seen>) -> BTreeMap<PathBuf, Vec<(u64, u64)>> {
    let files = seen.iter().filter(|(_, seen)| FileType::from_raw_mode(seen.mode) == FileType::RegularFile && seen.size > 0);
    files.map(|(path, _)| (path.clone(), data_of(&folder.join(path)).unwrap())).collect()
}

fn assert_equal(case: &str, source: &Path, other: &Path) {
    let (before, after) = (look(source).unwrap(), look(other).unwrap());
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>(), "{case}");
    for (path, seen) in &before {
        let there = &after[path];
        let brief = |seen: &Seen| (seen.mode, seen.owner, seen.size, seen.mtime, seen.links, seen.attributes.clone());
        assert!(there == seen, "{case}: {}: {:?} is {:?}", path.display(), brief(seen), brief(there));
    }
    assert_eq!(holes(source, &before), holes(other, &after), "{case}");
    assert_eq!(rsync(source, other), "", "{case}");
}

#[test]
fn random_trees_come_back_and_are_shown_as_they_were() {
    let place = tempfile::tempdir().unwrap();
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap().with_small_packs().unwrap();
    let source = |case: u64| place.path().join(format!("source/{case:03}"));
    for case in 0..CASES {
        std::fs::create_dir_all(source(case)).unwrap();
        grow(&source(case), case).unwrap();
        let how = BackupOptions { set: Some(format!("{case:03}")), ..options(&source(case), None) };
        bench.clock.advance(std::time::Duration::from_secs(60));
        let report = backup(&bench.open().unwrap(), &bench.store, &how, &Silent).unwrap();
        assert!(report.findings.is_empty(), "{case}: {:?}", report.findings);
    }
    let repository = bench.open().unwrap();
    let snapshots = repository.snapshots().unwrap();
    let drive = place.path().join("drive");
    let _mounted = mount(view(&bench, None), &drive);
    for case in 0..CASES {
        let snapshot = snapshots.iter().find(|snapshot| snapshot.set() == format!("{case:03}")).unwrap();
        let (path, target) = (TreePath::parse(source(case).as_os_str().as_bytes()).unwrap(), place.path().join("target"));
        let report = restore(&repository, &only(snapshot, &path), &target, &RestoreOptions::default(), &Silent).unwrap();
        assert!(report.findings.is_empty(), "{case}: {:?}", report.findings);
        assert_equal(&format!("{case} restored"), &source(case), &target);
        std::fs::remove_dir_all(&target).unwrap();
        let shown = drive.join(format!("Latest/host ({case:03})")).join(source(case).strip_prefix("/").unwrap());
        assert_equal(&format!("{case} on the drive"), &source(case), &shown);
    }
}

/// Over all trees there is everything that this test is about.
#[test]
fn random_trees_have_every_kind() {
    let place = tempfile::tempdir().unwrap();
    let mut found = BTreeMap::<String, u64>::new();
    for case in 0..CASES {
        let source = place.path().join(case.to_string());
        std::fs::create_dir(&source).unwrap();
        grow(&source, case).unwrap();
        let seen = look(&source).unwrap();
        for (path, seen) in &seen {
            let mut add = |what: &str| *found.entry(what.into()).or_default() += 1;
            add(&format!("{:?}", FileType::from_raw_mode(seen.mode)));
            seen.attributes.keys().for_each(|name| add(&String::from_utf8_lossy(name)));
            for (what, is_so) in [
                ("set id", seen.mode & 0o6000 != 0),
                ("sticky", seen.mode & 0o1000 != 0),
                ("of somebody else", seen.owner.0 == 1234 || seen.owner.1 == 1234),
                ("before 1970", seen.mtime.0 < 0),
                ("after 2038", seen.mtime.0 > 1 << 31),
                ("several names", seen.links > 1 && !path.is_dir()),
                ("no text", path.to_str().is_none()),
                ("deep", path.components().count() > 20),
                ("long value", seen.attributes.values().any(|value| value.len() > 256)),
            ] {
                if is_so {
                    add(what);
                }
            }
        }
        let sparse =
            holes(&source, &seen).into_iter().filter(|(path, data)| data.iter().map(|(from, to)| to - from).sum::<u64>() < seen[path].size);
        *found.entry("sparse".into()).or_default() += sparse.count() as u64;
        std::fs::remove_dir_all(&source).unwrap();
    }
    let everybody =
        "RegularFile Directory Symlink Fifo Socket sticky deep sparse user.note system.posix_acl_access system.posix_acl_default";
    let in_words = ["set id", "before 1970", "after 2038", "several names", "no text", "long value"];
    let of_root = ["of somebody else", "trusted.note", "security.note", "security.capability", "CharacterDevice", "BlockDevice"];
    let is_root = rustix::process::geteuid().is_root();
    for kind in everybody.split(' ').chain(in_words).chain(of_root.into_iter().filter(|_| is_root)) {
        assert!(found.get(kind).is_some_and(|count| *count >= 10), "there are too few of {kind}: {found:?}");
    }
}

/// One entry for each thing that can differ, named after it. What only root can change has a `#` at its end.
fn one_of_each(folder: &Path, is_root: bool) {
    for name in [
        "content",
        "length",
        "mode",
        "set id",
        "seconds",
        "nanoseconds",
        "before 1970",
        "value",
        "attribute gone",
        "attribute more",
        "list",
        "linked",
        "hole",
        "missing",
        "a folder",
        "owner#",
        "group#",
        "trusted#",
        "security#",
        "capability#",
    ] {
        std::fs::write(folder.join(name), [b'x'; 100]).unwrap();
    }
    for name in ["folder mode", "folder time", "folder list", "folder attribute", "empty folder", "inner"] {
        std::fs::create_dir(folder.join(name)).unwrap();
    }
    std::fs::write(folder.join("inner/\u{fc}"), "x").unwrap();
    std::fs::hard_link(folder.join("linked"), folder.join("linked too")).unwrap();
    std::os::unix::fs::symlink("target", folder.join("link")).unwrap();
    std::os::unix::fs::symlink("target", folder.join("link time")).unwrap();
    rustix::fs::mknodat(CWD, folder.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    rustix::fs::mknodat(CWD, folder.join("socket"), FileType::Socket, Mode::from_raw_mode(0o600), 0).unwrap();
    let hole = std::fs::File::create(folder.join("hole")).unwrap();
    hole.set_len(100_000).unwrap();
    for (name, attribute) in [("value", "user.note"), ("attribute gone", "user.note"), ("folder attribute", "user.note")] {
        rustix::fs::lsetxattr(folder.join(name), attribute, b"as it was", XattrFlags::empty()).unwrap();
    }
    if is_root {
        rustix::fs::lsetxattr(folder.join("trusted#"), "trusted.note", b"as it was", XattrFlags::empty()).unwrap();
        rustix::fs::lsetxattr(folder.join("security#"), "security.note", b"as it was", XattrFlags::empty()).unwrap();
        let _ = rustix::fs::mknodat(
            CWD,
            folder.join("device#"),
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o600),
            rustix::fs::makedev(1, 3),
        );
    }
}

fn set_time(path: &Path, (seconds, nanos): (i64, i64)) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Changes one thing of each entry, and nothing else.
fn change_one_of_each(folder: &Path, is_root: bool) {
    let before = look(folder).unwrap();
    let at = |name: &str| folder.join(name);
    let attribute =
        |name: &str, attribute: &str, value: &[u8]| rustix::fs::lsetxattr(at(name), attribute, value, XattrFlags::empty()).unwrap();
    let mode = |name: &str, mode: u32| rustix::fs::chmod(at(name), Mode::from_raw_mode(mode)).unwrap();
    let writer = |name: &str| std::fs::File::options().write(true).open(at(name)).unwrap();
    let again = |name: &str, make: &dyn Fn(&Path)| {
        std::fs::remove_file(at(name)).unwrap();
        make(&at(name));
    };
    writer("content").write_all_at(b"y", 50).unwrap();
    writer("length").set_len(99).unwrap();
    writer("hole").write_all_at(&[0; 4096], 8192).unwrap();
    for (name, bits) in [("mode", 0o604), ("set id", 0o4644), ("folder mode", 0o1755)] {
        mode(name, bits);
    }
    attribute("value", "user.note", b"as it is.");
    attribute("attribute more", "user.note", b"");
    attribute("folder attribute", "user.note", b"as it is.");
    rustix::fs::removexattr(at("attribute gone"), "user.note").unwrap();
    let list = access_list(&[(1, 6, u32::MAX), (2, 4, 1234), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 4, u32::MAX)]);
    attribute("list", "system.posix_acl_access", &list);
    attribute("folder list", "system.posix_acl_default", &list);
    again("linked", &|path| std::fs::write(path, [b'x'; 100]).unwrap());
    again("link", &|path| std::os::unix::fs::symlink("tarret", path).unwrap());
    again("pipe", &|path| rustix::fs::mknodat(CWD, path, FileType::Socket, Mode::from_raw_mode(0o600), 0).unwrap());
    again("socket", &|path| rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap());
    again("a folder", &|path| std::fs::create_dir(path).unwrap());
    if is_root {
        lchown(at("owner#"), Some(1234), None).unwrap();
        lchown(at("group#"), None, Some(1234)).unwrap();
        attribute("trusted#", "trusted.note", b"as it is.");
        attribute("security#", "security.note", b"as it is.");
        attribute("capability#", "security.capability", &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        if before.contains_key(Path::new("device#")) {
            let device = |path: &Path| {
                rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::from_raw_mode(0o600), rustix::fs::makedev(1, 5))
            };
            again("device#", &|path| device(path).unwrap());
        }
    }
    for (path, seen) in &before {
        let (seconds, nanos) = seen.mtime;
        let time = match path.to_str() {
            Some("seconds" | "folder time" | "link time") => (seconds + 1, nanos),
            Some("nanoseconds") => (seconds, (nanos + 1) % 1_000_000_000),
            Some("before 1970") => (-1, nanos),
            _ => (seconds, nanos),
        };
        set_time(&folder.join(path), time);
    }
    std::fs::remove_file(at("missing")).unwrap();
    std::fs::remove_dir(at("empty folder")).unwrap();
    let inner = at("inner").metadata().unwrap().modified().unwrap();
    std::fs::rename(at("inner/\u{fc}"), at("inner/u\u{308}")).unwrap();
    std::fs::File::open(at("inner")).unwrap().set_modified(inner).unwrap();
}

#[test]
fn whatever_differs_is_told() {
    let place = tempfile::tempdir().unwrap();
    let is_root = rustix::process::geteuid().is_root();
    let [source, other] = ["source", "other"].map(|name| place.path().join(name));
    std::fs::create_dir(&source).unwrap();
    one_of_each(&source, is_root);
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    bench.backup(&source, None).unwrap();
    super::fidelity::restored(&bench, &source, &other, &RestoreOptions::default());
    assert_equal("before", &source, &other);
    change_one_of_each(&other, is_root);
    let (before, after) = (look(&source).unwrap(), look(&other).unwrap());
    let told = rsync(&source, &other);
    let (data_before, data_after) = (holes(&source, &before), holes(&other, &after));
    for (path, seen) in &before {
        let name = path.to_str().unwrap();
        if !is_root && name.ends_with('#') || matches!(name, "inner" | "linked too") {
            continue;
        }
        // A line is eleven letters, a blank, the name, and where a link leads.
        let of_line =
            |line: &str| line.get(12..).and_then(|told| told.split(" -> ").next()).map(|name| name.trim_end_matches('/').to_owned());
        // Of two names that are no longer one file it tells one; it does not write letters as they are.
        let is_told = told.lines().any(|line| of_line(line).as_deref() == Some(name))
            || name == "linked" && told.contains("linked too => linked")
            || name.starts_with("inner/") && told.contains(" inner/");
        // A hole is no difference for those who read.
        let is_seen = after.get(path) != Some(seen);
        assert_eq!((name, is_told, is_seen), (name, name != "hole", name != "hole"), "{told}");
    }
    assert_ne!(data_before[Path::new("hole")], data_after[Path::new("hole")]);
    assert!(told.contains("*deleting"), "{told}");
}
