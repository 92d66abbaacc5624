//! Restoring: what it costs, what it leaves alone, and what becomes of it when something fails half-way.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backup_writer::restore::{Overwrite, RestoreError, RestoreOptions, RestoreReport, restore};
use fs_core::observer::{Observer, Progress, Silent};
use fs_core::path::TreePath;
use fs_core::report::{Place, Severity};
use fs_core::storage::memory::MemoryStore;
use fs_core::testing::CountingStore;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};
use tests::{Bench, access_list, look, noise, only, program};

use super::cli::{Shell, in_namespace, source_in};
use super::fidelity::every_kind;

/// A folder that was saved into a repository in memory.
pub(crate) struct Saved {
    place: tempfile::TempDir,
    memory: MemoryStore,
    counting: Arc<CountingStore>,
    pub(crate) bench: Bench,
}

impl Saved {
    pub(crate) fn new(make: impl FnOnce(&Path)) -> Self {
        let place = tempfile::tempdir().unwrap();
        let source = place.path().join("source");
        std::fs::create_dir(&source).unwrap();
        make(&source);
        let memory = MemoryStore::new();
        let counting = CountingStore::new(Arc::new(memory.clone()));
        let bench = Bench::new(Arc::clone(&counting) as _).unwrap();
        let report = bench.backup(&source, None).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        Self { place, memory, counting, bench }
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.place.path().join("source")
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.place.path().join("target")
    }

    pub(crate) fn restore(&self, options: &RestoreOptions) -> RestoreReport {
        self.watched(options, &Silent).unwrap()
    }

    pub(crate) fn watched(&self, options: &RestoreOptions, observer: &dyn Observer) -> Result<RestoreReport, RestoreError> {
        let repository = self.bench.open().unwrap();
        let snapshots = repository.snapshots().unwrap();
        let path = TreePath::parse(self.source().as_os_str().as_bytes()).unwrap();
        self.counting.reset();
        restore(&repository, &only(snapshots.last().unwrap(), &path), &self.target(), options, observer)
    }

    /// Bytes of all packs.
    pub(crate) fn stored(&self) -> u64 {
        let is_pack = |name: &str| name.starts_with("pack/") || name.starts_with("meta/");
        self.memory.contents().iter().filter(|(name, _)| is_pack(name.as_str())).map(|(_, bytes)| bytes.len() as u64).sum()
    }

    pub(crate) fn assert_equal(&self) {
        let (before, after) = (look(&self.source()).unwrap(), look(&self.target()).unwrap());
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        for (path, seen) in &before {
            assert!(after[path] == *seen, "{}: {:?}", path.display(), (after[path].mode, after[path].mtime, seen.mode, seen.mtime));
        }
    }
}

pub(crate) fn with(overwrite: Overwrite) -> RestoreOptions {
    RestoreOptions { overwrite, ..RestoreOptions::default() }
}

#[test]
fn a_thousand_small_files_come_with_few_requests_and_every_byte_once() {
    let saved = Saved::new(|source| {
        for n in 0..1000 {
            std::fs::write(source.join(format!("{n:04}")), noise(n, 4096)).unwrap();
        }
    });
    let report = saved.restore(&RestoreOptions::default());
    let counts = saved.counting.counts();
    assert_eq!((report.file_count, report.written_bytes), (1000, 4_096_000));
    // Trees among them.
    assert!(counts.get_range <= 6, "{counts:?}");
    assert!(counts.bytes_down <= saved.stored() * 102 / 100, "{counts:?} of {}", saved.stored());
    saved.assert_equal();
}

#[test]
fn a_large_tree_with_twins_is_fetched_once() {
    let saved = Saved::new(|source| {
        every_kind(source);
        std::fs::write(source.join("larger"), noise(9, 40_000_000)).unwrap();
    });
    let report = saved.restore(&RestoreOptions::default());
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let counts = saved.counting.counts();
    assert!(counts.bytes_down <= saved.stored() * 102 / 100, "{counts:?} of {}", saved.stored());
    saved.assert_equal();
    let again = saved.restore(&RestoreOptions::default());
    assert_eq!((again.file_count, again.other_count, again.findings.len()), (0, 0, 0), "what is there is kept");
    assert!(saved.counting.counts().bytes_down < 1 << 20, "and not fetched");
    saved.assert_equal();
}

#[test]
fn every_policy_does_what_it_says() {
    let old = |path: &Path| {
        let time = Timespec { tv_sec: 1_000_000, tv_nsec: 0 };
        rustix::fs::utimensat(CWD, path, &Timestamps { last_access: time, last_modification: time }, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    };
    for (overwrite, replaced) in [
        (Overwrite::Never, &[][..]),
        (Overwrite::Changed, &["newer", "older", "other size"]),
        (Overwrite::Newer, &["older"]),
        (Overwrite::Always, &["newer", "older", "other size", "same"]),
        (Overwrite::KeepBoth, &[]),
    ] {
        let saved = Saved::new(|source| {
            for name in ["missing", "newer", "older", "other size", "same"] {
                std::fs::write(source.join(name), "saved").unwrap();
            }
            std::os::unix::fs::symlink("saved", source.join("link")).unwrap();
        });
        let target = saved.target();
        std::fs::create_dir(&target).unwrap();
        let copy_time = |name: &str| {
            let time = std::fs::metadata(saved.source().join(name)).unwrap().modified().unwrap();
            std::fs::File::options().write(true).open(target.join(name)).unwrap().set_modified(time).unwrap();
        };
        for (name, text) in [("newer", "there"), ("older", "there"), ("other size", "is there"), ("same", "there")] {
            std::fs::write(target.join(name), text).unwrap();
        }
        old(&target.join("older"));
        copy_time("other size");
        copy_time("same");
        let report = saved.restore(&with(overwrite));
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        for name in ["newer", "older", "other size", "same"] {
            let is_saved = std::fs::read_to_string(target.join(name)).unwrap() == "saved";
            assert_eq!(is_saved, replaced.contains(&name), "{overwrite:?} {name}");
        }
        assert_eq!(std::fs::read_to_string(target.join("missing")).unwrap(), "saved");
        assert_eq!(std::fs::read_link(target.join("link")).unwrap(), Path::new("saved"));
        let beside = std::fs::read_dir(&target).unwrap().flatten().filter(|item| item.file_name().to_string_lossy().contains(".restored-"));
        assert_eq!(beside.count(), if overwrite == Overwrite::KeepBoth { 3 } else { 0 }, "{overwrite:?}");
        let again = saved.restore(&with(overwrite));
        assert_eq!(again.file_count, if overwrite == Overwrite::Always { 5 } else { 0 }, "{overwrite:?} again");
    }
}

#[test]
fn in_place_only_what_differs_is_fetched_and_written() {
    let make = |source: &Path| {
        std::fs::write(source.join("image"), noise(1, 12_000_000)).unwrap();
        let sparse = std::fs::File::create(source.join("sparse")).unwrap();
        sparse.set_len(20_000_000).unwrap();
        sparse.write_all_at(&noise(2, 3_000_000), 10_000_000).unwrap();
    };
    let saved = Saved::new(make);
    saved.restore(&RestoreOptions::default());
    let image = std::fs::File::options().write(true).open(saved.target().join("image")).unwrap();
    image.write_all_at(b"changed since", 5_000_000).unwrap();
    image.set_len(13_000_000).unwrap();
    let sparse = std::fs::File::options().write(true).open(saved.target().join("sparse")).unwrap();
    sparse.write_all_at(b"in a hole", 1_000_000).unwrap();
    rustix::fs::fsetxattr(&image, "user.new", b"not saved", XattrFlags::empty()).unwrap();
    let inode = || std::fs::metadata(saved.target().join("image")).unwrap().ino();
    let before = inode();
    let report = saved.restore(&RestoreOptions { in_place: true, verify: true, ..RestoreOptions::default() });
    assert_eq!((report.file_count, report.findings.len(), inode()), (2, 0, before), "{:?}", report.findings);
    assert!((1..=2 << 20).contains(&report.written_bytes), "{}", report.written_bytes);
    assert!(saved.counting.counts().bytes_down < 4 << 20, "{:?}", saved.counting.counts());
    saved.assert_equal();
    image.write_all_at(b"again", 5_000_000).unwrap();
    saved.restore(&RestoreOptions::default());
    assert_ne!(inode(), before, "by default a file is replaced as a whole");
    saved.assert_equal();
}

#[test]
fn hard_links_join_files_that_were_kept_and_replace_others() {
    let saved = Saved::new(|source| {
        std::fs::write(source.join("first"), "content").unwrap();
        for name in ["second", "third", "fourth"] {
            std::fs::hard_link(source.join("first"), source.join(name)).unwrap();
        }
    });
    saved.restore(&RestoreOptions::default());
    std::fs::remove_file(saved.target().join("second")).unwrap();
    std::fs::remove_file(saved.target().join("third")).unwrap();
    std::fs::write(saved.target().join("third"), "another file").unwrap();
    let report = saved.restore(&RestoreOptions::default());
    assert_eq!((report.file_count, report.kept_count), (2, 2), "{report:?}");
    saved.assert_equal();
}

#[test]
fn further_names_are_not_linked_to_a_file_of_somebody_else_that_was_kept() {
    for overwrite in [Overwrite::Never, Overwrite::KeepBoth] {
        let saved = Saved::new(|source| {
            std::fs::write(source.join("first"), "content").unwrap();
            std::fs::hard_link(source.join("first"), source.join("second")).unwrap();
            std::fs::hard_link(source.join("first"), source.join("third")).unwrap();
        });
        std::fs::create_dir(saved.target()).unwrap();
        std::fs::write(saved.target().join("first"), "of somebody else").unwrap();
        for _ in 0..2 {
            saved.restore(&RestoreOptions { overwrite, ..RestoreOptions::default() });
            let read = |name: &str| std::fs::read_to_string(saved.target().join(name)).unwrap();
            assert_eq!((read("first"), read("second"), read("third")), ("of somebody else".into(), "content".into(), "content".into()));
            let inode = |name: &str| std::os::unix::fs::MetadataExt::ino(&saved.target().join(name).metadata().unwrap());
            assert!(inode("second") == inode("third") && inode("first") != inode("second"), "{overwrite:?}");
        }
    }
}

#[test]
fn a_program_that_ran_as_its_owner_does_not_run_as_who_restores() {
    let saved = Saved::new(|source| {
        std::fs::write(source.join("program"), "").unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(source.join("program"), Some(4321), Some(4321)).unwrap();
        }
        std::fs::set_permissions(source.join("program"), std::os::unix::fs::PermissionsExt::from_mode(0o4755)).unwrap();
    });
    let mode = |as_me| {
        let target = saved.target();
        let _ = std::fs::remove_dir_all(&target);
        saved.restore(&RestoreOptions { as_me, ..RestoreOptions::default() });
        std::os::unix::fs::PermissionsExt::mode(&target.join("program").metadata().unwrap().permissions()) & 0o7777
    };
    let is_of_another = rustix::process::geteuid().is_root();
    assert_eq!((mode(false), mode(true)), (0o4755, if is_of_another { 0o755 } else { 0o4755 }));
}

#[test]
fn damage_costs_the_files_that_it_hits() {
    let saved = Saved::new(|source| {
        for n in 0..200 {
            std::fs::write(source.join(format!("{n:03}")), noise(n, 20_000)).unwrap();
        }
    });
    let pack = saved.memory.contents().into_iter().find(|(name, _)| name.as_str().starts_with("pack/")).unwrap();
    let mut bytes = pack.1.to_vec();
    bytes[2_000_000] ^= 1;
    saved.memory.overwrite(&pack.0, Some(bytes.into()));
    let report = saved.restore(&RestoreOptions::default());
    let hit: BTreeSet<_> = report.findings.iter().map(|finding| format!("{:?}", finding.place)).collect();
    assert!((1..=27).contains(&hit.len()), "what shares half a megabyte: {hit:?}");
    assert_eq!(hit.len() as u64 + report.file_count, 200, "{:?}", report.findings);
    let (mut before, after) = (look(&saved.source()).unwrap(), look(&saved.target()).unwrap());
    for finding in &report.findings {
        let Place::Path(path) = &finding.place else { panic!() };
        assert_eq!(finding.severity, Severity::Error);
        let name = String::from_utf8(path.last().unwrap().as_bytes().to_vec()).unwrap();
        assert!(!saved.target().join(&name).exists(), "half a file is none");
        before.remove(Path::new(&name));
    }
    assert_eq!(before, after);
}

/// Cancels after so many files.
struct CancelAfter(u64, AtomicU64);

impl Observer for CancelAfter {
    fn progress(&self, progress: &Progress) {
        self.1.fetch_max(progress.entry_count, Ordering::Relaxed);
    }

    fn is_cancelled(&self) -> bool {
        self.1.load(Ordering::Relaxed) >= self.0
    }
}

#[test]
fn what_was_interrupted_is_continued_under_every_policy() {
    for overwrite in [Overwrite::Never, Overwrite::Changed, Overwrite::Newer, Overwrite::KeepBoth] {
        let saved = Saved::new(|source| {
            for n in 0..40 {
                std::fs::create_dir(source.join(format!("{n:02}"))).unwrap();
                std::fs::write(source.join(format!("{n:02}/file")), noise(n, 100_000)).unwrap();
            }
            std::fs::write(source.join("large"), noise(99, 5_000_000)).unwrap();
        });
        let cut = saved.watched(&with(overwrite), &CancelAfter(15, AtomicU64::new(0)));
        assert!(matches!(cut, Err(RestoreError::Cancelled)), "{cut:?}");
        let complete = |path: &Path| path.metadata().is_ok_and(|of| of.mode() & 0o1000 == 0);
        let done = (0..40).filter(|n| complete(&saved.target().join(format!("{n:02}/file")))).count();
        let report = saved.restore(&with(overwrite));
        assert!(report.findings.is_empty() && report.kept_count >= done as u64, "{overwrite:?}: {done} were done: {report:?}");
        saved.assert_equal();
    }
}

#[test]
fn what_a_cut_has_left_of_a_large_file_is_used() {
    let saved = Saved::new(|source| std::fs::write(source.join("large"), noise(3, 10_000_000)).unwrap());
    std::fs::create_dir(saved.target()).unwrap();
    let place = saved.target().join("large");
    let whole = std::fs::read(saved.source().join("large")).unwrap();
    std::fs::write(&place, &whole[..6_000_000]).unwrap();
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o1600)).unwrap();
    let report = saved.restore(&with(Overwrite::Never));
    assert_eq!((report.file_count, report.findings.len()), (1, 0));
    assert!(report.written_bytes < 6_000_000, "{}", report.written_bytes);
    assert!(saved.counting.counts().bytes_down < 7_000_000, "{:?}", saved.counting.counts());
    saved.assert_equal();
}

#[test]
fn patterns_say_what_is_restored() {
    let saved = Saved::new(|source| {
        for name in ["a/letter.odt", "a/film.iso", "b/deep/letter.odt", "b/deep/note.txt", "c/note.txt"] {
            std::fs::create_dir_all(source.join(name).parent().unwrap()).unwrap();
            std::fs::write(source.join(name), name).unwrap();
        }
    });
    let run = |include: &[&str], exclude: &[&str]| {
        let all = |patterns: &[&str]| patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        let report = saved.restore(&RestoreOptions { include: all(include), exclude: all(exclude), ..RestoreOptions::default() });
        assert!(report.findings.is_empty());
        let names = look(&saved.target()).unwrap().into_keys().map(|path| path.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ");
        std::fs::remove_dir_all(saved.target()).unwrap();
        names
    };
    assert_eq!(run(&["*.odt"], &[]), "a a/letter.odt b b/deep b/deep/letter.odt");
    assert_eq!(run(&[], &["*.odt", "/c"]), "a a/film.iso b b/deep b/deep/note.txt");
    assert_eq!(run(&["/b"], &["*.txt"]), "b b/deep b/deep/letter.odt");
    let wrong = saved.watched(&RestoreOptions { include: vec!["[z-a]".into()], ..RestoreOptions::default() }, &Silent);
    assert!(matches!(wrong, Err(RestoreError::Pattern(_))), "{wrong:?}");
}

#[test]
fn lists_that_folders_hand_down_are_not_in_what_is_restored() {
    let saved = Saved::new(|source| {
        std::fs::create_dir(source.join("sub")).unwrap();
        std::fs::write(source.join("sub/file"), "x").unwrap();
        std::fs::write(source.join("file"), "x").unwrap();
    });
    std::fs::create_dir(saved.target()).unwrap();
    let list = access_list(&[(1, 6, u32::MAX), (2, 4, 1234), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]);
    rustix::fs::lsetxattr(saved.target(), "system.posix_acl_default", &list, XattrFlags::empty()).unwrap();
    assert!(saved.restore(&RestoreOptions::default()).findings.is_empty());
    saved.assert_equal();
}

#[test]
fn a_killed_restore_is_run_again() {
    let files: Vec<_> = (0..60).map(|n| (format!("{n}"), noise(n, 2_000_000))).collect();
    let shell = Shell::with_backup(&files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect::<Vec<_>>());
    let mut command = std::process::Command::new(program());
    command.env_clear().env("HOME", shell.path(".")).current_dir(shell.path("."));
    let mut child = command.args(["-r", "repository", "--key-file", "key", "restore", "latest", "--to", "r"]).spawn().unwrap();
    let restored = source_in(&shell, &shell.path("r"));
    while std::fs::read_dir(&restored).map_or(0, Iterator::count) < 10 && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    shell.ok(&["restore", "latest", "--to", "r", "--overwrite", "never"]);
    assert_eq!(look(&shell.path("source")).unwrap(), look(&restored).unwrap());
}

#[test]
fn a_full_target_is_findings_and_leaves_no_half_files() {
    let shell = Shell::new();
    std::fs::create_dir_all(shell.path("source")).unwrap();
    std::fs::create_dir_all(shell.path("target")).unwrap();
    for n in 0..20 {
        std::fs::write(shell.path(&format!("source/{n:02}")), noise(n, 500_000)).unwrap();
    }
    let init = format!(
        "{} -r store/repository init --i-accept-loss --new-key-file key >/dev/null || exit 98; mkdir -p store; ",
        program().display()
    );
    let script = init
        + "PROGRAM backup source >/dev/null || exit 97; mount -t tmpfs -o size=4m none target || exit 99; \
           PROGRAM restore latest --to target/r; code=$?; \
           for file in $(find target -type f); do cmp -s $file source/$(basename $file) || exit 95; done; \
           [ $(find target -type f | wc -l) -ge 3 ] || exit 94; exit $code";
    std::fs::create_dir_all(shell.path("store")).unwrap();
    let Some((code, message)) = in_namespace(&shell, &script) else { return };
    assert_eq!((code, message.contains("No space left")), (Some(3), true), "{message}");
}

#[test]
fn few_open_files_are_enough_for_many_folders() {
    let shell = Shell::with_backup(&[]);
    for n in 0..400 {
        std::fs::create_dir(shell.path(&format!("source/{n}"))).unwrap();
        std::fs::write(shell.path(&format!("source/{n}/file")), "x").unwrap();
    }
    shell.ok(&["backup", "source"]);
    shell.with_open_files(80, "restore latest --as-me --to r");
    assert_eq!(look(&shell.path("source")).unwrap(), look(&source_in(&shell, &shell.path("r"))).unwrap());
}
