//! The view over real snapshots, without a kernel.

use std::path::Path;
use std::sync::Arc;

use fs_core::storage::memory::MemoryStore;
use fs_core::view::error::ViewError;
use fs_core::view::layout::ROOT;
use fs_core::view::{Answer, Patience, Stop, View};
use rustix::fs::XattrFlags;
use tests::{Bench, acl};

use super::mount::view;

/// The number of an entry of the newest snapshot.
fn find(view: &View, path: &Path) -> u64 {
    let step = |parent: u64, name: &[u8]| view.lookup(Patience::Wait, parent, name).unwrap().0.inode;
    let snapshots = step(step(ROOT, b"Snapshots"), b"host");
    let mut newest = Vec::new();
    view.readdir(Patience::Wait, snapshots, 2, &mut |line| {
        newest = line.name;
        true
    })
    .unwrap();
    let names = path.strip_prefix("/").unwrap().iter().map(std::os::unix::ffi::OsStrExt::as_bytes);
    names.fold(step(snapshots, &newest), step)
}

fn error<T: std::fmt::Debug>(answer: Answer<T>) -> ViewError {
    match answer {
        Err(Stop::Failed(error)) => error,
        other => panic!("{other:?}"),
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

    // A new view has opened nothing: whatever it answers without patience it answers without looking.
    let shown = view(&bench, None);
    let ask = |inode, name: &str| shown.xattr(Patience::None, inode, name.as_bytes());
    assert!(matches!(error(ask(plain, "system.posix_acl_access")), ViewError::Unsupported));
    assert!(matches!(error(ask(ROOT, "security.selinux")), ViewError::Unsupported));
    assert!(matches!(error(ask(plain, "user.comment")), ViewError::NoAttribute));
    assert!(shown.xattr_names(Patience::None, plain).unwrap().is_empty());

    rustix::fs::lsetxattr(&file, "system.posix_acl_access", &acl(1000), XattrFlags::empty()).unwrap();
    rustix::fs::lsetxattr(&file, "user.comment", b"yes", XattrFlags::empty()).unwrap();
    bench.backup(place.path(), None).unwrap();
    shown.refresh().unwrap();
    assert!(matches!(error(ask(plain, "system.posix_acl_access")), ViewError::NoAttribute), "another snapshot has it");
    assert!(matches!(error(ask(ROOT, "system.posix_acl_access")), ViewError::NoAttribute));
    assert!(matches!(error(ask(ROOT, "security.selinux")), ViewError::Unsupported), "still nobody has this one");
    let newer = find(&shown, &file);
    let names = shown.xattr_names(Patience::Wait, newer).unwrap();
    assert_eq!(names, [&b"user.comment"[..], b"system.posix_acl_access"]);
    assert_eq!(shown.xattr(Patience::Wait, newer, b"system.posix_acl_access").unwrap(), acl(1000));
    assert!(matches!(error(ask(newer, "user.other")), ViewError::NoAttribute));
}
