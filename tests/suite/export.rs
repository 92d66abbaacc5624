//! Archives, read by the programs that people have.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use backup_writer::export::{ExportError, ExportOptions, Format, export};
use fs_core::observer::Silent;
use fs_core::path::TreePath;
use fs_core::storage::memory::MemoryStore;
use tests::{Bench, Seen, look, noise, only, program};

use super::cli::{Shell, source_in};
use super::fidelity::every_kind;

fn exported(bench: &Bench, source: &Path, options: &ExportOptions) -> (Vec<u8>, Result<backup_writer::export::ExportReport, ExportError>) {
    let repository = bench.open().unwrap();
    let snapshots = repository.snapshots().unwrap();
    let path = TreePath::parse(std::os::unix::ffi::OsStrExt::as_bytes(source.as_os_str())).unwrap();
    let mut archive = Vec::new();
    let report = export(&repository, &only(snapshots.last().unwrap(), &path), options, &mut archive, &Silent);
    (archive, report)
}

fn run(command: &str, arguments: &[&str], folder: &Path) -> String {
    let output = Command::new(command).args(arguments).current_dir(folder).output().expect("tests/run installs it");
    assert!(output.status.success(), "{command} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn gnu_tar_unpacks_what_was_saved() {
    let place = tempfile::tempdir().unwrap();
    let (source, target) = (place.path().join("source"), place.path().join("target"));
    std::fs::create_dir(&source).unwrap();
    std::fs::create_dir(&target).unwrap();
    every_kind(&source);
    let long = source.join("n".repeat(200)).join("m".repeat(200));
    std::fs::create_dir_all(long.parent().unwrap()).unwrap();
    std::fs::write(&long, "a long path").unwrap();
    std::os::unix::fs::symlink("t".repeat(300), source.join("long link")).unwrap();
    std::fs::remove_file(source.join("socket")).unwrap();
    // Values above 256 bytes are stored apart.
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    bench.backup(&source, None).unwrap();
    let (archive, report) = exported(&bench, &source, &ExportOptions::default());
    assert!(report.as_ref().unwrap().findings.is_empty(), "{report:?}");
    assert!(archive.len() < 40_000_000, "holes are not in it: {}", archive.len());
    std::fs::write(place.path().join("a.tar"), archive).unwrap();
    run("tar", &["-x", "-p", "--acls", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-f", "../a.tar"], &target);
    let (before, after) = (look(&source).unwrap(), look(&target).unwrap());
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (path, seen) in &before {
        // A pipe or device gets no attributes from tar; everything else is compared.
        assert!(after[path] == *seen, "{}: {:?}", path.display(), (brief(seen), brief(&after[path])));
    }
    let allocated = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(target.join("sparse")).unwrap()) * 512;
    assert!(allocated < 1_000_000, "holes stay holes: {allocated}");
}

fn brief(seen: &Seen) -> (u32, (u32, u32), u64, (i64, i64), usize) {
    (seen.mode, seen.owner, seen.size, seen.mtime, seen.attributes.len())
}

#[test]
fn a_zip_archive_is_sound_and_complete() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    std::fs::create_dir_all(source.join("folder")).unwrap();
    std::fs::write(source.join("folder/text"), "the same line\n".repeat(50_000)).unwrap();
    std::fs::write(source.join("noise"), noise(1, 3_000_000)).unwrap();
    std::fs::write(source.join("empty"), "").unwrap();
    std::fs::write(source.join("\u{e4}\u{20ac}"), "name").unwrap();
    std::fs::hard_link(source.join("noise"), source.join("twin")).unwrap();
    std::os::unix::fs::symlink("noise", source.join("link")).unwrap();
    let sparse = std::fs::File::create(source.join("sparse")).unwrap();
    sparse.set_len(2_000_000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 1_000_000).unwrap();
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    bench.backup(&source, None).unwrap();
    let (archive, report) = exported(&bench, &source, &ExportOptions { format: Format::Zip, ..ExportOptions::default() });
    assert!(report.as_ref().unwrap().findings.is_empty(), "{report:?}");
    std::fs::write(place.path().join("a.zip"), archive).unwrap();
    run("unzip", &["-tq", "a.zip"], place.path());
    let python = "import zipfile,sys; z=zipfile.ZipFile('a.zip'); assert z.testzip() is None; print(len(z.namelist()))";
    assert_eq!(run("python3", &["-c", python], place.path()).trim(), "8");
    std::fs::create_dir(place.path().join("target")).unwrap();
    run("unzip", &["-q", "../a.zip"], &place.path().join("target"));
    let (before, after) = (look(&source).unwrap(), look(&place.path().join("target")).unwrap());
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (path, seen) in before {
        let there = &after[&path];
        assert_eq!((there.mode, &there.bytes), (seen.mode, &seen.bytes), "{}", path.display());
        assert!(seen.mode & 0o170_000 != 0o100_000 || there.mtime.0 == seen.mtime.0, "{}", path.display());
    }
}

#[test]
fn damage_is_a_finding_or_ends_the_archive_and_never_zeros() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    std::fs::create_dir(&source).unwrap();
    for n in 0..100 {
        std::fs::write(source.join(format!("{n:03}")), noise(n, 20_000)).unwrap();
    }
    let damaged = |at: usize| {
        let memory = MemoryStore::new();
        let bench = Bench::new(Arc::new(memory.clone())).unwrap();
        bench.backup(&source, None).unwrap();
        let (name, bytes) = memory.contents().into_iter().find(|(name, _)| name.as_str().starts_with("pack/")).unwrap();
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        memory.overwrite(&name, Some(bytes.into()));
        exported(&bench, &source, &ExportOptions::default()).1
    };
    let report = damaged(1_000_000).unwrap();
    let lost = report.findings.len() as u64;
    assert!(
        (1..=27).contains(&lost) && lost + report.entry_count == 101,
        "what shares half a megabyte, of 100 files and a folder: {:?}",
        report.findings
    );
    std::fs::write(source.join("large"), noise(1000, 25_000_000)).unwrap();
    let ended = damaged(22_000_000);
    assert!(matches!(&ended, Err(ExportError::Content { path, .. }) if path.to_string() == "/large"), "{ended:?}");
}

#[test]
fn the_program_writes_to_files_and_pipes_and_not_to_terminals() {
    let shell = Shell::with_backup(&[("letter.txt", b"dear all"), ("film.iso", b"long")]);
    shell.ok(&["export", "latest:/", "-o", "a.tar", "--exclude", "*.iso"]);
    std::fs::create_dir(shell.path("x")).unwrap();
    run("tar", &["-xf", "../a.tar"], &shell.path("x"));
    assert_eq!(std::fs::read(source_in(&shell, &shell.path("x")).join("letter.txt")).unwrap(), b"dear all");
    assert!(!source_in(&shell, &shell.path("x")).join("film.iso").exists());
    shell.fails(&["export", "latest:/", "-o", "a.tar"], 1, "cannot be made");
    let piped = shell.run(&["export", "latest:/", "--format", "zip"]);
    assert!(piped.status.success() && piped.stdout.starts_with(b"PK"));
    let pty = format!(
        "import pty,sys; sys.exit(pty.spawn(['{}','-r','repository','--key-file','key','export','latest:/']) >> 8)",
        program().display()
    );
    let mut command = Command::new("python3");
    let output = command.env_clear().env("HOME", shell.path(".")).env("PATH", "/usr/bin:/bin").current_dir(shell.path("."));
    let output = output.args(["-c", &pty]).stdin(Stdio::null()).output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).contains("terminal")), (Some(2), true), "{output:?}");
}
