//! What is read, and what is left out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backup_writer::backup::{BackupOptions, BackupReport, backup};
use backup_writer::restore::{RestoreOptions, RestoreReport, restore};
use backup_writer::source::rules::{Line, Marker, Patterns, Rules};
use fs_core::observer::Silent;
use fs_core::path::TreePath;
use fs_core::report::Severity;
use fs_core::storage::WriteStore;
use fs_core::storage::memory::MemoryStore;
use fs_core::testing::{CallKind, RecordingStore};
use fs_core::time::Timestamp;
use tests::{Bench, look, options};

pub(crate) fn bench() -> Bench {
    Bench::new(Arc::new(MemoryStore::new())).unwrap()
}

pub(crate) fn saved(bench: &Bench, how: &BackupOptions) -> BackupReport {
    bench.clock.advance(std::time::Duration::from_secs(60));
    backup(&bench.open().unwrap(), &bench.store, how, &Silent).unwrap()
}

/// Restores a path of the newest snapshot, verified.
pub(crate) fn restored(bench: &Bench, path: &Path, target: &Path) -> RestoreReport {
    let repository = bench.open().unwrap();
    let path = TreePath::parse(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())).unwrap();
    let how = RestoreOptions { verify: true, ..RestoreOptions::default() };
    let report = restore(&repository, &tests::only(repository.snapshots().unwrap().last().unwrap(), &path), target, &how, &Silent).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    report
}

/// What the newest snapshot has below a folder.
fn names(bench: &Bench, folder: &Path) -> BTreeSet<PathBuf> {
    let place = tempfile::tempdir().unwrap();
    restored(bench, folder, &place.path().join("target"));
    look(&place.path().join("target")).unwrap().into_keys().collect()
}

fn set(names: &[&str]) -> BTreeSet<PathBuf> {
    names.iter().map(PathBuf::from).collect()
}

fn patterns(lines: &[&str]) -> Patterns {
    let line = |text: &&str| Line { place: "--exclude".into(), text: text.as_bytes().into() };
    Patterns::parse(&lines.iter().map(line).collect::<Vec<_>>()).0
}

pub(crate) fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        std::fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
        std::fs::write(folder.join(name), content).unwrap();
    }
}

pub(crate) fn notes(report: &BackupReport) -> Vec<String> {
    assert!(report.findings.iter().all(|finding| finding.severity == Severity::Note), "{:?}", report.findings);
    report.findings.iter().map(ToString::to_string).collect()
}

/// Something for every rule.
fn a_tree_for_rules(source: &Path) {
    let tag = "Signature: 8a477f597d28d172789f06886806bc55\n# a cache";
    write(
        source,
        &[
            ("a.tmp", ""),
            ("deep/er/b.tmp", ""),
            ("build/x", ""),
            ("deep/build", "a file"),
            ("deep/.yesterignore", "*.log\n!important.log\n/er/only-here\n"),
            ("a.log", ""),
            ("deep/a.log", ""),
            ("deep/important.log", ""),
            ("deep/er/only-here", ""),
            ("deep/er/.yesterignore", "!b.log\n"),
            ("deep/er/b.log", ""),
            ("only-here", ""),
            ("cache/CACHEDIR.TAG", tag),
            ("cache/a/b", ""),
            ("no cache/CACHEDIR.TAG", "Signature: something else"),
            ("no cache/a", ""),
            ("marked/.nobackup", ""),
            ("marked/a", ""),
            ("git/.git/HEAD", ""),
            ("git/a", ""),
            ("large", &"x".repeat(1001)),
            ("old", ""),
        ],
    );
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000);
    std::fs::File::options().write(true).open(source.join("old")).unwrap().set_modified(old).unwrap();
}

#[test]
fn what_rules_leave_out_is_counted_for_each_rule() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    a_tree_for_rules(&source);
    let marker = |text| Marker::parse(text).unwrap();
    let rules = Rules {
        patterns: patterns(&["*.tmp", "build/"]),
        markers: vec![Marker::cache_tag(), marker(".nobackup"), marker(".git")],
        size_max: Some(1000),
        modified_min: Timestamp::new(2000, 0),
        ..Rules::default()
    };
    let bench = bench();
    let report = saved(&bench, &BackupOptions { rules: rules.clone(), ..options(&source, None) });
    let expected = [
        "deep",
        "deep/build",
        "deep/.yesterignore",
        "a.log",
        "deep/important.log",
        "deep/er",
        "deep/er/.yesterignore",
        "deep/er/b.log",
        "only-here",
        "cache",
        "cache/CACHEDIR.TAG",
        "no cache",
        "no cache/CACHEDIR.TAG",
        "no cache/a",
        "marked",
        "marked/.nobackup",
        "git",
    ];
    assert_eq!(names(&bench, &source), set(&expected));
    let deep = format!("{}: left out: 2 files", source.join("deep/.yesterignore").display());
    let told = [
        &*deep,
        "left out but for the folder itself, where there is a .git: 1 folder",
        "left out but for the folder itself, where there is a .nobackup: 1 folder",
        "left out but for the folder itself, where there is a CACHEDIR.TAG: 1 folder",
        "left out by '*.tmp' (--exclude): 2 files",
        "left out by 'build/' (--exclude): 1 folder",
        "left out too large: 1 file",
        "left out too old: 1 file",
    ];
    assert_eq!(notes(&report), told);
    let all = saved(&bench, &BackupOptions { rules: Rules { ignore_files: false, ..Rules::default() }, ..options(&source, None) });
    assert_eq!((notes(&all).len(), names(&bench, &source)), (0, look(&source).unwrap().into_keys().collect()), "everything is back");
}

#[test]
fn rules_that_do_not_change_cost_no_pack_and_hold_below_each_source_only() {
    let place = tempfile::tempdir().unwrap();
    let sources = ["one.tmp", "two"].map(|name| place.path().join(name));
    for source in &sources {
        write(source, &[("top", ""), ("sub/top", ""), ("a.tmp", ""), ("CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55")]);
    }
    let rules = Rules { patterns: patterns(&["/top", "*.tmp"]), markers: vec![Marker::cache_tag()], ..Rules::default() };
    let state = place.path().join("state");
    let how = BackupOptions { paths: sources.to_vec(), rules, ..options(&sources[0], Some(&state)) };
    let store = RecordingStore::new(Arc::new(MemoryStore::new()));
    let bench = Bench::new(Arc::clone(&store) as Arc<dyn WriteStore>).unwrap();
    saved(&bench, &how);
    for source in &sources {
        assert_eq!(names(&bench, source), set(&["sub", "sub/top", "CACHEDIR.TAG"]), "what is named is saved, whatever its name and marks");
    }
    store.take();
    let again = saved(&bench, &how);
    assert_eq!((store.places(CallKind::Put).len(), again.stats.unchanged_count), (2, 4), "{:?}", store.places(CallKind::Put));
}

#[test]
fn a_bad_file_of_patterns_is_a_finding_and_its_good_lines_count() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    write(&source, &[(".yesterignore", "*.a\n[z-a]\n"), ("x.a", ""), ("x.b", "")]);
    let bench = bench();
    let report = saved(&bench, &options(&source, None));
    let warning = report.findings.iter().find(|finding| finding.severity == Severity::Warning).unwrap().to_string();
    assert!(warning.contains("source/.yesterignore:2: '[z-a]' is no pattern"), "{warning}");
    assert_eq!(names(&bench, &source), set(&[".yesterignore", "x.b"]));
    std::fs::write(source.join(".yesterignore"), "x".repeat((1 << 20) + 1)).unwrap();
    let report = saved(&bench, &options(&source, None));
    assert!(report.findings.iter().any(|finding| finding.to_string().contains("too long")), "{:?}", report.findings);
    std::fs::remove_file(source.join(".yesterignore")).unwrap();
    std::os::unix::fs::symlink("x.a", source.join(".yesterignore")).unwrap();
    assert_eq!(notes(&saved(&bench, &options(&source, None))).len(), 0, "a link is no file of patterns");
}

#[test]
fn other_file_systems_are_left_empty_where_that_is_wanted() {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    write(&source, &[("here", ""), ("mounted/below", "")]);
    let there = source.join("mounted");
    if mount("tmpfs", &there, "tmpfs", MountFlags::empty(), None).is_err() {
        return;
    }
    let unmounted = std::panic::catch_unwind(|| {
        write(&source, &[("mounted/elsewhere", "")]);
        let bench = bench();
        let rules = Rules { one_file_system: true, ..Rules::default() };
        let report = saved(&bench, &BackupOptions { rules, ..options(&source, None) });
        assert_eq!(names(&bench, &source), set(&["here", "mounted"]));
        assert_eq!(notes(&report), ["left out on other file systems: 1 folder"]);
        saved(&bench, &options(&source, None));
        assert_eq!(names(&bench, &source), set(&["here", "mounted", "mounted/elsewhere"]));
    });
    unmount(&there, UnmountFlags::DETACH).unwrap();
    unmounted.unwrap();
}
