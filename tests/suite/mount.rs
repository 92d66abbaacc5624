//! The drive, mounted for real.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fs_core::repository::Repository;
use fs_core::storage::WriteStore;
use fs_core::storage::memory::MemoryStore;
use fs_core::testing::SlowStore;
use fs_core::time::Zone;
use fs_core::view::{Links, Owner, View, ViewOptions};
use mount_linux::{Mount, MountOptions, mounts};
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use tests::{Bench, access_list, acl, look, noise};

pub(crate) fn view(bench: &Bench, state: Option<&Path>) -> Arc<View> {
    view_with(bench, state, Links::Raw)
}

pub(crate) fn view_with(bench: &Bench, state: Option<&Path>, links: Links) -> Arc<View> {
    show(bench.open().unwrap(), state, links)
}

pub(crate) fn view_of(repository: Arc<Repository>, state: Option<&Path>) -> Arc<View> {
    show(repository, state, Links::Raw)
}

fn show(repository: Arc<Repository>, state: Option<&Path>, links: Links) -> Arc<View> {
    let mounter = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let options = ViewOptions { owner: Owner::AsSaved, links, mounter, zone: Zone::utc() };
    Arc::new(View::new(repository, state, options).unwrap())
}

pub(crate) fn mount(view: Arc<View>, at: &Path) -> Mount {
    let options =
        MountOptions { allow_other: false, refresh_every: Duration::from_millis(50), read_ahead_kib: None, forbidden: Vec::new() };
    mount_linux::mount(view, at, &options).expect("a mount needs /dev/fuse: tests/run sets that up")
}

pub(crate) fn latest(drive: &Path, source: &Path) -> std::path::PathBuf {
    drive.join("Latest/host").join(source.strip_prefix("/").unwrap())
}

/// The kernel remembers made-up names for a second: asks until it asks again, at most as long as the promise allows.
pub(crate) fn within_five_seconds(is_so: impl Fn() -> bool) {
    let now = || rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec;
    let deadline = now() + 5;
    while !is_so() {
        assert!(now() <= deadline, "within five seconds");
        std::thread::yield_now();
    }
}

#[test]
fn the_drive_shows_every_kind_of_entry_as_it_was() {
    let place = tempfile::tempdir().unwrap();
    let (source, drive, state) = (place.path().join("source"), place.path().join("drive"), place.path().join("state"));
    std::fs::create_dir(&source).unwrap();
    super::fidelity::every_kind(&source);
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    bench.backup(&source, None).unwrap();
    let mounted = mount(view(&bench, Some(&state)), &drive);
    let (before, after) = (look(&source).unwrap(), look(&latest(&drive, &source)).unwrap());
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (path, seen) in &before {
        assert!(after[path] == *seen, "{}: {:?} {:?}", path.display(), (after[path].mode, after[path].links), (seen.mode, seen.links));
    }
    let stat = |path: &str| latest(&drive, &source).join(path).symlink_metadata().unwrap();
    assert_eq!(stat("small").ino(), stat("deep/hard link").ino());
    assert_ne!(stat("large").ino(), stat("deep/er/and/deeper/twin").ino());
    assert!(stat("sparse").blocks() * 512 < 1_000_000);
    let numbers: Vec<_> = ["small", "large", "deep/er", "list of lists"].iter().map(|path| stat(path).ino()).collect();
    let mut value = vec![0; 4000];
    let length = rustix::fs::lgetxattr(latest(&drive, &source).join("large"), "user.long", &mut value[..]).unwrap();
    assert_eq!(value[..length], noise(5, 2000));
    drop(mounted);
    assert!(!mounts::list().iter().any(|mount| mount.path == drive), "nothing stays mounted");
    let again = mount(view(&bench, Some(&state)), &drive);
    let after: Vec<_> = ["small", "large", "deep/er", "list of lists"].iter().map(|path| stat(path).ino()).collect();
    assert_eq!(numbers, after, "numbers are the same after a remount");
    drop(again);
}

#[test]
fn writes_are_refused_and_random_reads_are_right() {
    let place = tempfile::tempdir().unwrap();
    let (source, drive) = (place.path().join("source"), place.path().join("drive"));
    std::fs::create_dir(&source).unwrap();
    let bytes = noise(4, 9_000_000);
    std::fs::write(source.join("file"), &bytes).unwrap();
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    bench.backup(&source, None).unwrap();
    let _mounted = mount(view(&bench, None), &drive);
    let folder = latest(&drive, &source);
    for refused in
        [std::fs::write(folder.join("new"), "x"), std::fs::remove_file(folder.join("file")), std::fs::create_dir(folder.join("d"))]
    {
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(rustix::io::Errno::ROFS.raw_os_error()));
    }
    let file = std::fs::File::open(folder.join("file")).unwrap();
    for step in 0..300u64 {
        let (offset, length) = (step * 7_919_777 % 9_000_000, 1 + step as usize * 991 % 300_000);
        let mut part = vec![0; length];
        let count = std::os::unix::fs::FileExt::read_at(&file, &mut part, offset).unwrap();
        let from = offset as usize;
        assert_eq!(part[..count], bytes[from..from + count], "at {offset}");
        assert!(count == length || from + count == bytes.len());
    }
}

#[test]
fn new_snapshots_appear_without_a_remount() {
    let place = tempfile::tempdir().unwrap();
    let (source, drive) = (place.path().join("source"), place.path().join("drive"));
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "first").unwrap();
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    bench.backup(&source, None).unwrap();
    let shown = view(&bench, None);
    let _mounted = mount(Arc::clone(&shown), &drive);
    assert_eq!(std::fs::read_to_string(latest(&drive, &source).join("file")).unwrap(), "first");
    std::fs::write(source.join("file"), "second").unwrap();
    bench.backup(&source, None).unwrap();
    shown.refresh().unwrap();
    within_five_seconds(|| std::fs::read_dir(drive.join("Snapshots/host")).unwrap().count() == 2);
    within_five_seconds(|| std::fs::read_to_string(latest(&drive, &source).join("file")).unwrap() == "second");
}

#[test]
fn attributes_of_a_later_snapshot_are_seen() {
    let place = tempfile::tempdir().unwrap();
    let (source, drive) = (place.path().join("source"), place.path().join("drive"));
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "x").unwrap();
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    bench.backup(&source, None).unwrap();
    let shown = view(&bench, None);
    let _mounted = mount(Arc::clone(&shown), &drive);
    let ask = |path: &Path, name: &str| {
        let mut value = vec![0; 1000];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        value.truncate(length);
        Ok(value)
    };
    let (first, file) = (latest(&drive, &source).canonicalize().unwrap().join("file"), latest(&drive, &source).join("file"));
    for name in ["system.posix_acl_access", "security.selinux"] {
        assert_eq!(ask(&first, name), Err(Errno::OPNOTSUPP));
        assert_eq!(ask(&drive, name), Err(Errno::OPNOTSUPP));
    }
    assert_eq!(ask(&first, "user.comment"), Err(Errno::NODATA));
    assert_eq!(rustix::fs::llistxattr(&first, &mut [0u8; 100][..]), Ok(0));

    rustix::fs::lsetxattr(source.join("file"), "system.posix_acl_access", &acl(1000), XattrFlags::empty()).unwrap();
    rustix::fs::lsetxattr(source.join("file"), "user.comment", b"yes", XattrFlags::empty()).unwrap();
    bench.backup(&source, None).unwrap();
    shown.refresh().unwrap();
    within_five_seconds(|| ask(&file, "user.comment") == Ok(b"yes".to_vec()));
    assert_eq!(ask(&file, "system.posix_acl_access"), Ok(acl(1000)));
    assert_eq!(ask(&first, "system.posix_acl_access"), Err(Errno::NODATA));
    let mut names = [0u8; 100];
    let length = rustix::fs::llistxattr(&file, &mut names[..]).unwrap();
    assert_eq!(&names[..length], b"user.comment\0system.posix_acl_access\0");
}

#[test]
fn links_lead_into_their_snapshot_if_wished() {
    let place = tempfile::tempdir().unwrap();
    let (source, drive) = (place.path().join("source"), place.path().join("drive"));
    std::fs::create_dir_all(source.join("deep/er")).unwrap();
    std::fs::write(source.join("file"), "as it was").unwrap();
    let up = "../".repeat(30);
    let absolute = source.join("file");
    std::os::unix::fs::symlink(&absolute, source.join("deep/er/absolute")).unwrap();
    std::os::unix::fs::symlink(format!("{up}{}", absolute.strip_prefix("/").unwrap().display()), source.join("deep/escaping")).unwrap();
    std::os::unix::fs::symlink("../../file", source.join("deep/er/relative")).unwrap();
    std::fs::hard_link(source.join("deep/er/absolute"), source.join("twin")).unwrap();
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    bench.backup(&source, None).unwrap();
    std::fs::write(source.join("file"), "as it is").unwrap();
    let mounted = mount(view_with(&bench, None, Links::Inside), &drive);
    let saved = latest(&drive, &source).canonicalize().unwrap();
    for link in ["deep/er/absolute", "deep/escaping", "deep/er/relative", "twin"] {
        assert_eq!(std::fs::read_to_string(saved.join(link)).unwrap(), "as it was", "{link}");
        let target = std::fs::read_link(saved.join(link)).unwrap();
        assert_eq!(saved.join(link).symlink_metadata().unwrap().size(), target.as_os_str().len() as u64, "{link}");
    }
    assert_eq!(std::fs::read_link(saved.join("deep/er/relative")).unwrap(), Path::new("../../file"));
    drop(mounted);
    let _mounted = mount(view(&bench, None), &drive);
    let saved = latest(&drive, &source).canonicalize().unwrap();
    assert_eq!(std::fs::read_link(saved.join("deep/er/absolute")).unwrap(), absolute);
    assert_eq!(std::fs::read_to_string(saved.join("deep/er/absolute")).unwrap(), "as it is");
    assert_eq!(saved.join("twin").symlink_metadata().unwrap().ino(), saved.join("deep/er/absolute").symlink_metadata().unwrap().ino());
}

#[test]
fn damage_is_an_error_for_its_bytes_only() {
    let place = tempfile::tempdir().unwrap();
    let (source, drive) = (place.path().join("source"), place.path().join("drive"));
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), noise(1, 5_000_000)).unwrap();
    let memory = MemoryStore::new();
    let bench = Bench::new(Arc::new(memory.clone()) as Arc<dyn WriteStore>).unwrap();
    bench.backup(&source, None).unwrap();
    let (name, bytes) = memory.contents().into_iter().find(|(name, _)| name.as_str().starts_with("pack/")).unwrap();
    let mut damaged = bytes.to_vec();
    damaged[2_000_000] ^= 1;
    memory.overwrite(&name, Some(damaged.into()));
    let _mounted = mount(view(&bench, None), &drive);
    let file = std::fs::File::open(latest(&drive, &source).join("file")).unwrap();
    let mut part = vec![0; 4096];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut part, 4_500_000).unwrap();
    assert_eq!(part, noise(1, 5_000_000)[4_500_000..4_504_096]);
    let error = std::fs::read(latest(&drive, &source).join("file")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
}

#[test]
fn damage_costs_the_pages_that_it_touches() {
    let place = tempfile::tempdir().unwrap();
    let (source, drive) = (place.path().join("source"), place.path().join("drive"));
    std::fs::create_dir(&source).unwrap();
    let bytes = noise(1, 5_000_000);
    std::fs::write(source.join("file"), &bytes).unwrap();
    let memory = MemoryStore::new();
    let bench = Bench::new(Arc::new(memory.clone()) as Arc<dyn WriteStore>).unwrap();
    bench.backup(&source, None).unwrap();
    let (name, whole) = memory.contents().into_iter().find(|(name, _)| name.as_str().starts_with("pack/")).unwrap();
    let mut damaged = whole.to_vec();
    damaged[2_000_000] ^= 1;
    memory.overwrite(&name, Some(damaged.into()));
    let _mounted = mount(view(&bench, None), &drive);
    let file = std::fs::File::open(latest(&drive, &source).join("file")).unwrap();
    let mut unreadable = 0;
    for (page, expected) in bytes.chunks(4096).enumerate() {
        let mut part = vec![0; expected.len()];
        match std::os::unix::fs::FileExt::read_exact_at(&file, &mut part, page as u64 * 4096) {
            Ok(()) => assert_eq!(part, expected, "page {page}"),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
                unreadable += 1;
            }
        }
    }
    assert!((16..=258).contains(&unreadable), "the pages of one chunk: {unreadable}");
    memory.overwrite(&name, Some(whole));
    assert_eq!(std::fs::read(latest(&drive, &source).join("file")).unwrap(), bytes, "an error is not remembered");
}

#[test]
fn the_status_is_read_anew_when_it_changed() {
    let place = tempfile::tempdir().unwrap();
    let (source, drive) = (place.path().join("source"), place.path().join("drive"));
    std::fs::create_dir(&source).unwrap();
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    bench.backup(&source, None).unwrap();
    let shown = view(&bench, None);
    let _mounted = mount(Arc::clone(&shown), &drive);
    let says = |count: &str| std::fs::read_to_string(drive.join(".yesterdrive/status.json")).unwrap().contains(count);
    assert!(says("\"snapshots\": 1"));
    bench.backup(&source, None).unwrap();
    within_five_seconds(|| says("\"snapshots\": 2"));
}

#[test]
fn an_open_file_survives_its_snapshot() {
    let place = tempfile::tempdir().unwrap();
    let (source, drive) = (place.path().join("source"), place.path().join("drive"));
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), noise(1, 2_000_000)).unwrap();
    let memory = MemoryStore::new();
    let bench = Bench::new(Arc::new(memory.clone()) as Arc<dyn WriteStore>).unwrap();
    bench.backup(&source, None).unwrap();
    let shown = view(&bench, None);
    let _mounted = mount(Arc::clone(&shown), &drive);
    let folder = latest(&drive, &source).canonicalize().unwrap();
    let file = std::fs::File::open(folder.join("file")).unwrap();
    let mut part = [0; 100];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut part, 0).unwrap();
    for name in memory
        .contents()
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| name.as_str().starts_with("snap/") || name.as_str().starts_with("seal/"))
    {
        memory.overwrite(&name, None);
    }
    shown.refresh().unwrap();
    within_five_seconds(|| std::fs::read_dir(&folder).is_err());
    assert!(!drive.join("Snapshots/host").exists());
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut part, 1_900_000).unwrap();
    assert_eq!(part, noise(1, 2_000_000)[1_900_000..1_900_100]);
}

#[test]
fn unmounting_does_not_wait_for_a_store_that_hangs() {
    let place = tempfile::tempdir().unwrap();
    let (source, drive) = (place.path().join("source"), place.path().join("drive"));
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), noise(1, 100_000)).unwrap();
    let slow = SlowStore::new(Arc::new(MemoryStore::new()));
    let bench = Bench::new(Arc::clone(&slow) as Arc<dyn WriteStore>).unwrap();
    bench.backup(&source, None).unwrap();
    let mounted = mount(view(&bench, None), &drive);
    let file = latest(&drive, &source).join("file").canonicalize().unwrap();
    // Both the thread that looks for snapshots and a reader hang.
    slow.close(None);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| std::fs::read(&file));
        slow.wait_for(2);
        let before = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec;
        drop(mounted);
        assert!(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec - before < 15, "half the deadline of a call");
        assert!(!mounts::list().iter().any(|mount| mount.path == drive), "the drive is gone");
        slow.open();
        assert_eq!(reader.join().unwrap().unwrap(), noise(1, 100_000), "who was reading gets an answer");
    });
}

#[test]
fn the_end_of_a_drive_leaves_another_in_its_place_alone() {
    let place = tempfile::tempdir().unwrap();
    let drive = place.path().join("drive");
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    bench.backup(place.path(), None).unwrap();
    for waits in [false, true] {
        let first = mount(view(&bench, None), &drive);
        let open = std::fs::File::open(drive.join(".yesterdrive/README.txt")).unwrap();
        mounts::unmount(&drive, true).unwrap();
        let second = mount(view(&bench, None), &drive);
        assert!(!first.is_over(), "somebody uses it");
        drop(open);
        within_five_seconds(|| first.is_over());
        if waits {
            first.wait().unwrap()
        } else {
            drop(first)
        }
        assert!(drive.join("Latest/host").exists());
        drop(second);
        assert!(!mounts::list().iter().any(|mount| mount.path == drive));
    }
}

#[test]
fn a_mount_point_inside_the_repository_or_with_files_in_it_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    std::fs::create_dir(place.path().join("repository")).unwrap();
    std::fs::write(place.path().join("file"), "x").unwrap();
    let options = MountOptions {
        allow_other: false,
        refresh_every: Duration::from_secs(9),
        read_ahead_kib: None,
        forbidden: vec![place.path().join("repository")],
    };
    for bad in ["repository/drive", "."] {
        let refused = mount_linux::mount(view(&bench, None), &place.path().join(bad), &options);
        assert!(refused.is_err(), "{bad}");
    }
}

#[test]
fn attributes_that_nobody_has_are_unsupported_until_a_snapshot_has_them() {
    let place = tempfile::tempdir().unwrap();
    let (source, drive) = (place.path().join("source"), place.path().join("drive"));
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "first").unwrap();
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    bench.backup(&source, None).unwrap();
    let shown = view(&bench, None);
    let _mounted = mount(Arc::clone(&shown), &drive);
    let ask = |name: &str| {
        let mut value = [0; 100];
        let path = latest(&drive, &source).canonicalize().unwrap().join("file");
        rustix::fs::lgetxattr(path, name, &mut value[..]).map(|length| value[..length].to_vec())
    };
    for (name, expected) in [
        ("system.posix_acl_access", rustix::io::Errno::OPNOTSUPP),
        ("security.selinux", rustix::io::Errno::OPNOTSUPP),
        ("user.comment", rustix::io::Errno::NODATA),
    ] {
        assert_eq!(ask(name), Err(expected), "{name}");
    }
    // A list of access appears under the live mount: from then on it is told, and asked for again.
    let list = access_list(&[(1, 6, u32::MAX), (2, 4, 1234), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]);
    rustix::fs::lsetxattr(source.join("file"), "system.posix_acl_access", &list, XattrFlags::empty()).unwrap();
    bench.backup(&source, None).unwrap();
    shown.refresh().unwrap();
    let snapshots: Vec<_> = std::fs::read_dir(drive.join("Snapshots/host")).unwrap().map(|item| item.unwrap().path()).collect();
    assert_eq!(snapshots.len(), 2, "the folder was told to the kernel anew");
    let newest = snapshots.iter().max().unwrap().join(source.strip_prefix("/").unwrap()).join("file");
    assert_eq!(tests::attributes(&newest).unwrap(), tests::attributes(&source.join("file")).unwrap());
    assert_eq!(ask("security.selinux"), Err(rustix::io::Errno::OPNOTSUPP));
    assert!(matches!(ask("system.posix_acl_access"), Ok(_) | Err(rustix::io::Errno::NODATA)));
}
