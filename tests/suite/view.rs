//! The view over real snapshots, without a kernel.

use std::path::Path;
use std::sync::Arc;

use fs_core::repository::Held;
use fs_core::storage::ObjectName;
use fs_core::storage::memory::MemoryStore;
use fs_core::view::error::ViewError;
use fs_core::view::layout::ROOT;
use fs_core::view::{Answer, Listed, Stop, View};
use rustix::fs::XattrFlags;
use tests::{Bench, acl, noise};

use super::mount::view;

/// The number of an entry of the newest snapshot.
pub(crate) fn find(view: &View, path: &Path) -> u64 {
    let snapshots = step(view, step(view, ROOT, b"Snapshots"), b"host");
    let newest = list(view, snapshots, 0, usize::MAX).0.into_iter().max().unwrap();
    let names = path.strip_prefix("/").unwrap().iter().map(std::os::unix::ffi::OsStrExt::as_bytes);
    names.fold(step(view, snapshots, &newest), |parent, name| step(view, parent, name))
}

pub(crate) fn step(view: &View, parent: u64, name: &[u8]) -> u64 {
    view.wait(|view, held| view.lookup(held, parent, name)).unwrap().0.inode
}

/// Names of a directory from an offset on, at most so many, and where to go on.
pub(crate) fn list(view: &View, directory: u64, offset: u64, count_max: usize) -> (Vec<Vec<u8>>, u64) {
    let (mut names, mut next) = (Vec::new(), offset);
    let more = &mut |line: Listed| {
        next = line.next;
        names.push(line.name);
        names.len() < count_max
    };
    view.wait(|view, held| view.readdir(held, directory, offset, more)).unwrap();
    (names, next)
}

/// Takes the oldest snapshot away, as `forget` does.
fn forget_oldest(memory: &MemoryStore, bench: &Bench) {
    let oldest = bench.open().unwrap().snapshots().unwrap().remove(0);
    let folders = ["snap", "seal"].map(|kind| format!("{kind}/{}/", oldest.device()));
    let is_its = |name: &ObjectName| folders.iter().any(|folder| name.as_str().starts_with(folder));
    let names: Vec<_> = memory.contents().into_iter().map(|(name, _)| name).filter(is_its).collect();
    assert_eq!(names.len(), 2, "a manifest and a seal");
    names.iter().for_each(|name| drop(memory.overwrite(name, None)));
}

fn error<T: std::fmt::Debug>(answer: Result<T, ViewError>) -> ViewError {
    answer.unwrap_err()
}

/// What is answered without looking anything up.
fn at_once<T: std::fmt::Debug>(answer: Answer<T>) -> Result<T, ViewError> {
    match answer {
        Ok(answer) => Ok(answer),
        Err(Stop::Failed(error)) => Err(error),
        Err(Stop::Missing(wants)) => panic!("{wants:?}"),
    }
}

#[test]
fn attributes_that_nobody_has_are_answered_without_looking() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    bench.backup(place.path(), None).unwrap();
    let plain = find(&view(&bench, None), &file);

    // A new view has opened nothing: whatever it answers it answers now it answers without looking.
    let shown = view(&bench, None);
    let ask = |inode, name: &str| at_once(shown.xattr(&Held::default(), inode, name.as_bytes()));
    assert!(matches!(error(ask(plain, "system.posix_acl_access")), ViewError::Unsupported));
    assert!(matches!(error(ask(ROOT, "security.selinux")), ViewError::Unsupported));
    assert!(matches!(error(ask(plain, "user.comment")), ViewError::NoAttribute));
    assert!(at_once(shown.xattr_names(&Held::default(), plain)).unwrap().is_empty());

    rustix::fs::lsetxattr(&file, "system.posix_acl_access", &acl(1000), XattrFlags::empty()).unwrap();
    rustix::fs::lsetxattr(&file, "user.comment", b"yes", XattrFlags::empty()).unwrap();
    bench.backup(place.path(), None).unwrap();
    shown.refresh().unwrap();
    assert!(matches!(error(ask(plain, "system.posix_acl_access")), ViewError::NoAttribute), "another snapshot has it");
    assert!(matches!(error(ask(ROOT, "system.posix_acl_access")), ViewError::NoAttribute));
    assert!(matches!(error(ask(ROOT, "security.selinux")), ViewError::Unsupported), "still nobody has this one");
    let newer = find(&shown, &file);
    let names = shown.wait(|view, held| view.xattr_names(held, newer)).unwrap();
    assert_eq!(names, [&b"user.comment"[..], b"system.posix_acl_access"]);
    assert_eq!(shown.wait(|view, held| view.xattr(held, newer, b"system.posix_acl_access")).unwrap(), acl(1000));
    assert!(matches!(error(ask(newer, "user.other")), ViewError::NoAttribute));
}

#[test]
fn a_listing_goes_on_while_snapshots_come_and_go() {
    let (place, memory) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let bench = Bench::new(Arc::new(memory.clone())).unwrap();
    (0..6).for_each(|_| drop(bench.backup(place.path(), None).unwrap()));
    let shown = view(&bench, None);
    let folder = step(&shown, step(&shown, ROOT, b"Snapshots"), b"host");
    for pause in 1..8 {
        let mut stay = list(&shown, folder, 0, usize::MAX).0;
        stay.sort();
        // `.`, `..` and the oldest come first.
        stay.drain(..3);
        let (first, next) = list(&shown, folder, 0, pause);
        forget_oldest(&memory, &bench);
        bench.backup(place.path(), None).unwrap();
        shown.refresh().unwrap();
        let (rest, _) = list(&shown, folder, next, usize::MAX);
        let all: Vec<_> = first.iter().chain(&rest).collect();
        let distinct: std::collections::BTreeSet<_> = all.iter().copied().collect();
        assert_eq!(all.len(), distinct.len(), "no name twice");
        assert!(stay.iter().all(|name| distinct.contains(name)), "no name left out");
    }
    // One call sees one state, also when a snapshot vanishes meanwhile.
    let mut count = 0;
    let more = &mut |_: Listed| {
        if count == 0 {
            forget_oldest(&memory, &bench);
            shown.refresh().unwrap();
        }
        count += 1;
        true
    };
    shown.wait(|view, held| view.readdir(held, folder, 0, more)).unwrap();
    assert_eq!(count, list(&shown, folder, 0, usize::MAX).0.len() + 1);
}

#[test]
fn dots_lead_to_the_entry_itself_and_to_its_directory() {
    let place = tempfile::tempdir().unwrap();
    std::fs::create_dir(place.path().join("folder")).unwrap();
    std::fs::write(place.path().join("folder/file"), "x").unwrap();
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    bench.backup(place.path(), None).unwrap();
    let shown = view(&bench, None);
    let host = step(&shown, step(&shown, ROOT, b"Snapshots"), b"host");
    let mut inode = find(&shown, &place.path().join("folder/file"));
    assert_eq!(step(&shown, inode, b"."), inode, "also of a file");
    assert!(matches!(error(shown.wait(|view, held| view.lookup(held, inode, b".."))), ViewError::NotDirectory));
    inode = find(&shown, &place.path().join("folder"));
    assert_eq!(step(&shown, inode, b".."), find(&shown, place.path()));
    let mut above = Vec::new();
    while inode != ROOT {
        inode = step(&shown, inode, b"..");
        above.push(inode);
    }
    assert_eq!(above[above.len() - 3], host);
    assert_eq!(step(&shown, ROOT, b".."), ROOT);
}

#[test]
fn what_is_open_stays_readable_when_its_snapshot_is_forgotten_and_the_rest_is_stale() {
    let (place, memory) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    std::fs::write(place.path().join("open"), noise(1, 500_000)).unwrap();
    std::fs::write(place.path().join("other"), noise(2, 500_000)).unwrap();
    let bench = Bench::new(Arc::new(memory.clone())).unwrap();
    bench.backup(place.path(), None).unwrap();
    let shown = view(&bench, None);
    let (folder, open, other) =
        (find(&shown, place.path()), find(&shown, &place.path().join("open")), find(&shown, &place.path().join("other")));
    shown.wait(|view, held| view.read(held, open, 0, 4096)).unwrap();
    bench.backup(place.path(), None).unwrap();
    forget_oldest(&memory, &bench);
    shown.refresh().unwrap();
    assert_eq!(shown.wait(|view, held| view.read(held, open, 400_000, 4096)).unwrap(), noise(1, 500_000)[400_000..404_096]);
    assert!(matches!(error(shown.wait(|view, held| view.read(held, other, 0, 4096))), ViewError::Stale));
    assert!(matches!(error(shown.wait(|view, held| view.lookup(held, folder, b"other"))), ViewError::Stale));
    assert!(matches!(error(shown.wait(|view, held| view.getattr(held, folder))), ViewError::Stale));
}

#[test]
fn nobody_remembers_the_name_of_a_snapshot_for_long() {
    let place = tempfile::tempdir().unwrap();
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    bench.backup(place.path(), None).unwrap();
    let shown = view(&bench, None);
    let folder = step(&shown, step(&shown, ROOT, b"Snapshots"), b"host");
    let name = list(&shown, folder, 2, 1).0.remove(0);
    let (attr, moves) = shown.wait(|view, held| view.lookup(held, folder, &name)).unwrap();
    assert!(moves, "an incomplete snapshot gets another name when it is sealed");
    let top = list(&shown, attr.inode, 2, 1).0.remove(0);
    assert!(!shown.wait(|view, held| view.lookup(held, attr.inode, &top)).unwrap().1, "what is in it never changes");
}

#[test]
fn what_was_found_before_a_refresh_is_read_after_it() {
    let place = tempfile::tempdir().unwrap();
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    let shown = view(&bench, None);
    let renew = || {
        bench.backup(place.path(), None).unwrap();
        shown.refresh().unwrap();
    };
    renew();
    let newest = || step(&shown, step(&shown, ROOT, b"Latest"), b"host");
    let read = |inode| shown.wait(|view, held| view.readlink(held, inode));
    let first = newest();
    let target = read(first).unwrap();
    renew();
    assert_ne!(newest(), first, "what changes is another link");
    assert_eq!(read(first).unwrap(), target);
    assert_eq!(at_once(shown.getattr(&Held::default(), first)).unwrap().size, target.len() as u64);
    renew();
    assert!(matches!(error(read(first)), ViewError::Stale), "one tree before, not all");
    assert!(matches!(shown.check(first), Err(ViewError::Stale)));
}

#[test]
fn the_status_is_made_when_somebody_looks() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    std::fs::write(&file, noise(1, 500_000)).unwrap();
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    bench.backup(place.path(), None).unwrap();
    let shown = view(&bench, None);
    let look = || {
        let inode = step(&shown, step(&shown, ROOT, b".yesterdrive"), b"status.json");
        let size = at_once(shown.getattr(&Held::default(), inode)).unwrap().size;
        let text = at_once(shown.read(&Held::default(), inode, 0, 1 << 20)).unwrap();
        assert_eq!(text.len() as u64, size);
        (inode, serde_json::from_slice::<serde_json::Value>(&text).unwrap())
    };
    let (before, status) = look();
    assert_eq!((&status["snapshots"], &status["bytes_fetched"], &status["last_error"]), (&1.into(), &0.into(), &serde_json::Value::Null));
    let inode = find(&shown, &file);
    shown.wait(|view, held| view.read(held, inode, 0, 500_000)).unwrap();
    let (after, status) = look();
    assert!(status["bytes_fetched"].as_u64() > Some(500_000) && status["memory_used"].as_u64() > Some(500_000), "{status}");
    assert_ne!(before, after, "another text is another file");
    assert!(shown.check(before).is_ok(), "who has it open reads on");
}
