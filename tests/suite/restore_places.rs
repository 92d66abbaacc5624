//! Restoring into places that are not as one would wish: closed, of somebody else, without modes, on several file systems, with few open files.

use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use backup_writer::restore::{Overwrite, RestoreError, RestoreOptions};
use fs_core::observer::Observer;
use rustix::fs::{CWD, FileType, Mode};
use tests::driven::Driven;
use tests::{look, noise, program};

use super::cli::{Shell, in_namespace, source_in};
use super::restore::{Saved, with};

const NOBODY: u32 = 65_534;

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o7777
}

#[test]
fn closed_folders_are_opened_for_the_time_being() {
    let driven = Driven::new("repository").unwrap();
    for name in ["top", "sub/new", "shut/new"] {
        std::fs::create_dir_all(driven.source().join(name).parent().unwrap()).unwrap();
        std::fs::write(driven.source().join(name), name).unwrap();
    }
    set_mode(&driven.source().join("sub"), 0o750);
    driven.save().unwrap();
    std::fs::copy(program(), driven.path("yesterdrive")).unwrap();
    let what = format!("latest:{}", driven.source().display());
    for (overwrite, of_sub, of_shut) in [("changed", 0o750, 0o755), ("never", 0o555, 0), ("keep-both", 0o555, 0)] {
        let target = driven.path(overwrite);
        for (name, mode) in [("sub", 0o555), ("shut", 0), ("", 0o555)] {
            std::fs::create_dir_all(target.join(name)).unwrap();
            set_mode(&target.join(name), mode);
        }
        let mut command = driven.command(&["--key-file", "key", "restore", &what, "--as-me", "--overwrite", overwrite, "--to", overwrite]);
        if rustix::process::geteuid().is_root() {
            // Somebody to whom modes matter, and who may not reach the program where it was built.
            let all = Command::new("chown").args(["-R", "65534:65534"]).arg(driven.path(".")).status().unwrap();
            assert!(all.success());
            let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
            command = Command::new(driven.path("yesterdrive"));
            command.env_clear().env("HOME", driven.path(".")).current_dir(driven.path(".")).args(arguments).uid(NOBODY).gid(NOBODY);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{overwrite}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!((mode(&target), mode(&target.join("sub")), mode(&target.join("shut"))), (0o555, of_sub, of_shut), "{overwrite}");
        set_mode(&target.join("shut"), 0o700);
        for name in ["top", "sub/new", "shut/new"] {
            assert_eq!(std::fs::read_to_string(target.join(name)).unwrap(), name, "{overwrite}");
        }
    }
}

/// Cancels as soon as something is so.
struct CancelWhen<F: Fn() -> bool + Send + Sync>(F);

impl<F: Fn() -> bool + Send + Sync> Observer for CancelWhen<F> {
    fn is_cancelled(&self) -> bool {
        (self.0)()
    }
}

#[test]
fn a_file_of_somebody_else_is_not_written_to_while_it_is_his() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let saved = Saved::new(|source| {
        std::fs::write(source.join("image"), noise(1, 6_000_000)).unwrap();
        chown(source.join("image"), Some(1234), Some(1234)).unwrap();
    });
    let image = saved.target().join("image");
    let differ = || std::fs::File::options().write(true).open(&image).unwrap().write_all_at(b"changed since", 3_000_000).unwrap();
    let in_place = |overwrite| RestoreOptions { in_place: true, ..with(overwrite) };
    saved.restore(&RestoreOptions::default());
    let inode = || image.metadata().unwrap().ino();
    // Of a third one: he may have it open, and what was saved was never his.
    let before = inode();
    differ();
    chown(&image, Some(4321), None).unwrap();
    saved.restore(&in_place(Overwrite::Changed));
    assert_ne!(inode(), before, "it is replaced");
    saved.assert_equal();
    // Of whom it was saved: it stays, and a cut leaves a file that the next run knows.
    let before = inode();
    differ();
    let cut = saved.watched(&in_place(Overwrite::Changed), &CancelWhen(|| mode(&image) == 0o1600));
    assert!(matches!(cut, Err(RestoreError::Cancelled)), "{cut:?}");
    assert_eq!((image.metadata().unwrap().uid(), mode(&image), inode()), (0, 0o1600, before));
    saved.restore(&with(Overwrite::Never));
    assert_eq!(inode(), before);
    saved.assert_equal();
}

#[test]
fn where_no_link_can_be_made_there_is_a_copy_and_a_finding() {
    let shell = Shell::new();
    for folder in ["source/sub", "store", "target"] {
        std::fs::create_dir_all(shell.path(folder)).unwrap();
    }
    std::fs::write(shell.path("source/first"), noise(1, 200_000)).unwrap();
    let sparse = std::fs::File::create(shell.path("source/sparse")).unwrap();
    sparse.set_len(10_000_000).unwrap();
    sparse.write_all_at(b"in the middle", 5_000_000).unwrap();
    rustix::fs::mknodat(CWD, shell.path("source/pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    for name in ["first", "sparse", "pipe"] {
        std::fs::hard_link(shell.path("source").join(name), shell.path("source/sub").join(name)).unwrap();
    }
    let restore = format!("PROGRAM restore latest:{} --to target --verify", shell.path("source").display());
    let script = format!(
        "{} -r store/repository init --i-accept-loss --new-key-file key >/dev/null || exit 98; PROGRAM backup source >/dev/null || exit 97; \
         mkdir target/sub && mount -t tmpfs none target/sub || exit 99; {restore}; code=$?; \
         for name in first sparse; do cmp source/$name target/sub/$name || exit 96; done; \
         for name in first sparse pipe; do \
           [ \"$(stat -c '%a %u %s %Y %F' target/sub/$name)\" = \"$(stat -c '%a %u %s %Y %F' source/$name)\" ] || exit 95; done; \
         [ $(stat -c %b target/sub/sparse) -lt 1000 ] || exit 94; \
         inode=$(stat -c %i target/sub/first); echo then >&2; {restore} || exit 93; [ $inode = $(stat -c %i target/sub/first) ] || exit 92; \
         echo x > target/sub/first; {restore} 2>/dev/null; cmp source/first target/sub/first || exit 91; \
         [ -z \"$(find target -name '*.yesterdrive*' -o -name '.*' -type f)\" ] || exit 90; exit $code",
        program().display()
    );
    let Some((code, message)) = in_namespace(&shell, &script) else { return };
    let (first, then) = message.split_once("then\n").unwrap_or((&message, ""));
    assert_eq!((code, first.matches("is a copy of").count(), then), (Some(3), 3, ""), "{message}");
}

/// A folder in which modes and owners are not kept, as on a memory stick.
struct WithoutModes(PathBuf);

impl WithoutModes {
    fn mount(below: &Path, at: &Path) -> Self {
        for folder in [below, at] {
            std::fs::create_dir(folder).unwrap();
        }
        let mounted = Command::new("bindfs")
            .args(["--perms=0755", "--chmod-ignore", "--chown-ignore", "--no-allow-other"])
            .args([below, at])
            .status();
        assert!(mounted.expect("tests/run installs it").success());
        Self(at.to_owned())
    }
}

impl Drop for WithoutModes {
    fn drop(&mut self) {
        let _ = Command::new("fusermount3").args(["-u", "-z"]).arg(&self.0).status();
    }
}

#[test]
fn where_modes_are_not_kept_half_a_file_never_has_its_name() {
    for overwrite in [Overwrite::Never, Overwrite::Newer, Overwrite::KeepBoth, Overwrite::Changed] {
        let saved = Saved::new(|source| {
            std::fs::write(source.join("large"), noise(1, 40_000_000)).unwrap();
            std::fs::write(source.join("small"), "a few bytes").unwrap();
        });
        let below = saved.source().with_file_name("below");
        let _mounted = WithoutModes::mount(&below, &saved.target());
        let is_begun = || std::fs::read_dir(&below).unwrap().flatten().any(|item| item.metadata().is_ok_and(|of| of.len() > 1_000_000));
        let cut = saved.watched(&with(overwrite), &CancelWhen(is_begun));
        assert!(matches!(cut, Err(RestoreError::Cancelled)), "{cut:?}");
        assert!(!saved.target().join("large").exists(), "{overwrite:?}");
        let report = saved.restore(&with(overwrite));
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        let [before, after] = [saved.source(), saved.target()].map(|folder| look(&folder).unwrap());
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>(), "{overwrite:?}: nothing is left beside them");
        assert!(before.iter().all(|(path, seen)| (&after[path].bytes, after[path].mtime) == (&seen.bytes, seen.mtime)), "{overwrite:?}");
        // Nor is it written to where it stands: who finds it half new could not know.
        let file = std::fs::File::options().write(true).open(saved.target().join("large")).unwrap();
        file.write_all_at(b"changed since", 3_000_000).unwrap();
        let report = saved.restore(&RestoreOptions { in_place: true, ..with(Overwrite::Changed) });
        assert_eq!((report.file_count, report.written_bytes), (1, report.byte_count), "all of it is written anew");
    }
}

#[test]
fn few_open_files_are_enough_for_many_files_in_parts() {
    let shell = Shell::with_backup(&[]);
    let source = shell.path("source");
    let file = |n: u64| source.join(format!("{n:03}.img"));
    // Images are cut at fixed places: the beginning of each comes to lie in one pack, the end in another.
    for n in 0..120 {
        let [begin, end] = [n, 500 + n].map(|seed| noise(seed, 64 << 10));
        std::fs::write(file(n), [begin, vec![b'x'; 14 << 16], end].concat()).unwrap();
    }
    shell.ok(&["backup", "source"]);
    for n in 0..120 {
        std::fs::File::options().write(true).open(file(n)).unwrap().write_all_at(&noise(1000 + n, 64 << 10), 15 << 16).unwrap();
    }
    shell.ok(&["backup", "source"]);
    shell.with_open_files(80, "restore latest --as-me --to r");
    assert_eq!(look(&source).unwrap(), look(&source_in(&shell, &shell.path("r"))).unwrap());
}
