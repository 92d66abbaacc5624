//! What comes back is what was saved.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backup_writer::restore::{RestoreOptions, restore};
use fs_core::crypto::keyed_hash;
use fs_core::observer::Silent;
use fs_core::path::TreePath;
use fs_core::report::Severity;
use fs_core::repository::Repository;
use fs_core::storage::memory::MemoryStore;
use fs_core::tree::{Content, Entry, EntryKind};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use tests::{Bench, access_list, look, noise, only};

/// Every kind of entry that Linux has, with awkward names, times and sizes.
pub(crate) fn every_kind(folder: &Path) {
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
    std::fs::create_dir_all(folder.join("deep/er/and/deeper")).unwrap();
    std::fs::create_dir(folder.join("empty")).unwrap();
    write("empty file", b"");
    write("small", b"a few bytes");
    write("deep/er/text", &b"the same line again\n".repeat(20_000));
    write("large", &noise(1, 3_000_001));
    write("list of lists", &noise(2, 20_000_000));
    write("deep/er/and/deeper/twin", &noise(1, 3_000_001));
    std::fs::hard_link(folder.join("small"), folder.join("deep/hard link")).unwrap();
    std::fs::hard_link(folder.join("small"), folder.join("a hard link")).unwrap();
    std::os::unix::fs::symlink("../nowhere/\u{e4}", folder.join("dangling")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", folder.join("absolute")).unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"not \xff utf-8 \n newline");
    std::fs::write(folder.join(odd), b"odd").unwrap();
    rustix::fs::mknodat(CWD, folder.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    rustix::fs::mknodat(CWD, folder.join("socket"), FileType::Socket, Mode::from_raw_mode(0o600), 0).unwrap();
    if rustix::process::geteuid().is_root() {
        let device = rustix::fs::makedev(1, 3);
        // Some containers do not allow it; then there is one kind less.
        let _ = rustix::fs::mknodat(CWD, folder.join("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), device);
        rustix::fs::chown(folder.join("small"), Some(rustix::fs::Uid::from_raw(1234)), Some(rustix::fs::Gid::from_raw(4321))).unwrap();
        let _ = rustix::fs::lsetxattr(folder.join("deep"), "trusted.note", b"for root", XattrFlags::empty());
    }
    let sparse = std::fs::File::create(folder.join("sparse")).unwrap();
    sparse.set_len(50_000_000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 20_000_000).unwrap();
    std::fs::File::create(folder.join("only a hole")).unwrap().set_len(1_000_000).unwrap();
    let _ = rustix::fs::lsetxattr(folder.join("large"), "user.comment", b"short", XattrFlags::empty());
    let _ = rustix::fs::lsetxattr(folder.join("large"), "user.long", &noise(5, 2000), XattrFlags::empty());
    // Owner, user 1234, group, mask, others: a file that one more user may read, a folder that passes such a list on.
    let list = access_list(&[(1, 6, u32::MAX), (2, 4, 1234), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]);
    rustix::fs::lsetxattr(folder.join("deep/er/text"), "system.posix_acl_access", &list, XattrFlags::empty()).unwrap();
    rustix::fs::lsetxattr(folder.join("empty"), "system.posix_acl_default", &list, XattrFlags::empty()).unwrap();
    std::fs::set_permissions(folder.join("large"), std::os::unix::fs::PermissionsExt::from_mode(0o4751)).unwrap();
    for (name, seconds, nanos) in
        [("small", -1_000_000_000, 999_999_999), ("large", 5_000_000_000, 1), ("dangling", 86_400, 5), ("empty", 1, 2)]
    {
        let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, folder.join(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

pub(crate) fn restored(bench: &Bench, source: &Path, target: &Path, options: &RestoreOptions) -> backup_writer::restore::RestoreReport {
    let repository = bench.open().unwrap();
    let snapshots = repository.snapshots().unwrap();
    let path = TreePath::parse(source.as_os_str().as_bytes()).unwrap();
    restore(&repository, &only(snapshots.last().unwrap(), &path), target, options, &Silent).unwrap()
}

#[test]
fn every_kind_of_entry_comes_back_as_it_was() {
    let place = tempfile::tempdir().unwrap();
    let (source, target) = (place.path().join("source"), place.path().join("target"));
    std::fs::create_dir(&source).unwrap();
    every_kind(&source);
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    let report = bench.backup(&source, None).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let restored = restored(&bench, &source, &target, &RestoreOptions { verify: true, ..RestoreOptions::default() });
    assert!(restored.findings.is_empty(), "{:?}", restored.findings);
    let top = |folder: &Path| folder.metadata().map(|of| (of.mode(), of.mtime(), of.mtime_nsec())).unwrap();
    assert_eq!(top(&source), top(&target), "a target that was made for it is the saved folder");
    let (before, after) = (look(&source).unwrap(), look(&target).unwrap());
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (path, seen) in &before {
        assert!(after[path] == *seen, "{}: {:?}", path.display(), (after[path].mode, after[path].mtime, seen.mode, seen.mtime));
    }
    let mut value = vec![0; 4000];
    let length = rustix::fs::lgetxattr(target.join("large"), "user.long", &mut value[..]).unwrap();
    assert_eq!(value[..length], noise(5, 2000));
    let allocated = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(target.join("sparse")).unwrap()) * 512;
    assert!(allocated < 1_000_000, "holes stay holes: {allocated}");
}

/// All files below a directory of few entries, with their paths.
pub(crate) fn files(repository: &Repository, directory: &Entry, path: &Path) -> Vec<(PathBuf, Entry)> {
    let Some(reference) = directory.subtree.as_ref().and_then(|subtree| subtree.page) else { return Vec::new() };
    let page = repository.page(&reference).unwrap();
    let below = page.entries().iter().flat_map(|entry| {
        let path = path.join(std::ffi::OsStr::from_bytes(entry.name_bytes()));
        match entry.kind {
            EntryKind::Directory => files(repository, entry, &path),
            EntryKind::File => vec![(path, entry.clone())],
            _ => Vec::new(),
        }
    });
    below.collect()
}

#[test]
fn every_file_is_proven_by_its_only_record_or_by_a_hash_of_its_own() {
    let source = tempfile::tempdir().unwrap();
    every_kind(source.path());
    for (name, size) in
        [("one byte", 1), ("small", 65_536), ("one byte more", 65_537), ("window", 131_072), ("tiny.img", 5), ("disk.img", 9 << 20)]
    {
        std::fs::write(source.path().join(name), noise(7, size)).unwrap();
    }
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    bench.backup(source.path(), None).unwrap();
    let repository = bench.open().unwrap();
    let root = repository.snapshots().unwrap().pop().unwrap().manifest().unwrap().root.clone();
    let files = files(&repository, &root, Path::new("/"));
    assert!(files.iter().any(|(path, entry)| path.ends_with("disk.img") && entry.block_size.is_some()));
    for (path, entry) in &files {
        let is_one_record = entry.sparse.is_none() && matches!(&entry.content, Content::Inline(references) if references.len() <= 1);
        assert_eq!(entry.file_hash.is_none(), is_one_record, "{}", path.display());
        let Some(proof) = entry.proof(repository.ring()) else {
            assert_eq!(entry.size, 0, "{}", path.display());
            continue;
        };
        if entry.sparse.is_none() {
            let bytes = std::fs::read(path).unwrap();
            assert_eq!((bytes.len() as u64, keyed_hash(&proof.key, &[&bytes])), (entry.size, proof.hash), "{}", path.display());
        }
    }
    let proven = files.iter().filter(|(_, entry)| entry.file_hash.is_none() && entry.proof(repository.ring()).is_some()).count();
    assert!(proven >= 2 && files.iter().filter(|(_, entry)| entry.file_hash.is_some()).count() >= 5, "{proven} of {}", files.len());
}

#[test]
fn restoring_again_changes_nothing_and_repairs_what_changed() {
    let place = tempfile::tempdir().unwrap();
    let (source, target) = (place.path().join("source"), place.path().join("target"));
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("a"), "first").unwrap();
    std::fs::write(source.join("b"), "second").unwrap();
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    bench.backup(&source, None).unwrap();
    let first = restored(&bench, &source, &target, &RestoreOptions::default());
    let again = restored(&bench, &source, &target, &RestoreOptions::default());
    assert_eq!((first.file_count, again.file_count, again.kept_count), (2, 0, 2));
    std::fs::write(target.join("a"), "damaged since").unwrap();
    assert_eq!(restored(&bench, &source, &target, &RestoreOptions::default()).file_count, 1);
    assert_eq!(look(&source).unwrap(), look(&target).unwrap());
}

#[test]
fn nothing_is_written_through_a_link_out_of_the_target() {
    let place = tempfile::tempdir().unwrap();
    let (source, target, outside) = (place.path().join("source"), place.path().join("target"), place.path().join("outside"));
    std::fs::create_dir_all(source.join("sub")).unwrap();
    std::fs::write(source.join("sub/file"), "saved").unwrap();
    std::fs::write(source.join("plain"), "saved").unwrap();
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    bench.backup(&source, None).unwrap();
    std::fs::create_dir_all(&target).unwrap();
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::write(outside.join("victim"), "untouched").unwrap();
    std::os::unix::fs::symlink(&outside, target.join("sub")).unwrap();
    std::os::unix::fs::symlink(outside.join("victim"), target.join("plain")).unwrap();
    let report = restored(&bench, &source, &target, &RestoreOptions::default());
    assert!(report.findings.iter().any(|finding| finding.severity == Severity::Error));
    assert!(!outside.join("file").exists());
    assert_eq!(std::fs::read_to_string(outside.join("victim")).unwrap(), "untouched");
    assert_eq!(std::fs::read_to_string(target.join("plain")).unwrap(), "saved");
}
