use std::collections::VecDeque;
use std::fs;
use std::sync::Mutex;
use std::time::Duration;

use super::portable::PortableDisk;
use super::*;
use crate::storage::wait;
use crate::testing::contract::{self, put};

/// Runs the contract over stores of one kind, each in a directory of its own.
fn run_contract(open: impl Fn(&Path) -> LocalStore) {
    let directories = Mutex::new(VecDeque::new());
    contract::run(|| {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        directories.lock().unwrap().push_back(directory);
        Arc::new(store)
    });
    for directory in directories.into_inner().unwrap() {
        assert_eq!(temporary_files(directory.path()), Vec::<PathBuf>::new());
    }
}

fn with_disk(path: &Path, disk: impl Disk + 'static) -> LocalStore {
    LocalStore { path: path.into(), disk: Box::new(disk), opened: OpenedFiles::new(), deleted_from: Mutex::default() }
}

/// Everything below a directory, directories too.
fn everything(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(everything(&path));
        }
        found.push(path);
    }
    found
}

fn temporary_files(directory: &Path) -> Vec<PathBuf> {
    let is_temporary = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with('.');
    everything(directory).into_iter().filter(is_temporary).collect()
}

fn new_store() -> (tempfile::TempDir, LocalStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::open(directory.path()).unwrap();
    (directory, store)
}

fn listed(store: &LocalStore, prefix: &str) -> Vec<String> {
    wait("", store.list(prefix, None)).unwrap().into_iter().map(|object| object.name.to_string()).collect()
}

fn stat(store: &LocalStore, name: &str) -> Result<ObjectMeta, StoreError> {
    wait("", store.stat(&ObjectName::new(name)))
}

fn get(store: &LocalStore, name: &str) -> Result<Bytes, StoreError> {
    wait("", store.get(&ObjectName::new(name)))
}

#[test]
fn keeps_the_contract() {
    run_contract(|path| LocalStore::open(path).unwrap());
}

#[test]
fn keeps_the_contract_with_the_standard_library_alone() {
    run_contract(|path| with_disk(path, PortableDisk::open(path).unwrap()));
}

// Windows makes do without them.
#[cfg(not(windows))]
#[test]
fn keeps_the_contract_without_links() {
    run_contract(|path| {
        let store = with_disk(path, PortableDisk::open_limited(path).unwrap());
        assert!(!store.capabilities().create_only);
        store
    });
}

#[test]
fn a_store_is_created_in_an_empty_place_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/store");
    assert!(LocalStore::open(&path).is_err());
    put(&LocalStore::create(&path).unwrap(), "repo/1", b"x").unwrap();
    let Err(StoreError::Failed { place, source }) = LocalStore::create(&path) else { panic!("it is not empty") };
    assert_eq!((place, source.kind()), (path.display().to_string(), io::ErrorKind::DirectoryNotEmpty));
    assert_eq!(source.to_string(), "the directory is not empty: it holds repo");
    assert_eq!(listed(&LocalStore::open(&path).unwrap(), ""), ["repo/1"]);

    let disk = directory.path().join("disk");
    fs::create_dir_all(disk.join("lost+found")).unwrap();
    assert_eq!(listed(&LocalStore::create(&disk).unwrap(), ""), Vec::<String>::new());
    let file = directory.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(LocalStore::create(&file).is_err() && LocalStore::open(&file).is_err());
}

#[test]
fn foreign_files_are_left_out_and_left_alone() {
    let (directory, store) = new_store();
    put(&store, "pack/aa/1", b"x").unwrap();
    for foreign in ["README.txt", "pack/Thumbs.db", "pack/aa/.tmp-0123456789abcdef", "@eaDir/x", ".snapshot/pack/aa/2", "pack/aa/ä"] {
        let path = directory.path().join(foreign);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "foreign").unwrap();
    }
    assert_eq!(listed(&store, ""), ["pack/aa/1"]);
    assert_eq!(listed(&store, "pack/"), ["pack/aa/1"]);
}

#[test]
fn a_store_that_is_gone_is_not_empty() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let disks = [LocalStore::create(&path).unwrap(), with_disk(&path, PortableDisk::open(&path).unwrap())];
    fs::remove_dir(&path).unwrap();
    for store in &disks {
        let results = [
            wait("", store.list("", None)).map(drop),
            wait("", store.list("snap/", None)).map(drop),
            get(store, "snap/1").map(drop),
            stat(store, "snap/1").map(drop),
            wait("", store.delete(&ObjectName::new("snap/1"))),
            put(store, "snap/1", b"x"),
        ];
        for result in results {
            assert!(matches!(result, Err(StoreError::Failed { .. })), "{result:?}");
        }
    }
    assert!(!path.exists(), "no write may bring it back");
}

#[test]
fn what_stands_in_the_way_is_an_error_and_no_absence() {
    for portable in [false, true] {
        let (directory, mut store) = new_store();
        if portable {
            store = with_disk(directory.path(), PortableDisk::open(directory.path()).unwrap());
        }
        fs::write(directory.path().join("pack"), "a file where a directory must be").unwrap();
        fs::create_dir_all(directory.path().join("idx/aa")).unwrap();
        let failed = |result: Result<(), StoreError>| assert!(matches!(result, Err(StoreError::Failed { .. })), "{result:?}");
        failed(put(&store, "pack/aa/1", b"x"));
        failed(wait("", store.list("pack/", None)).map(drop));
        failed(wait("", store.list("pack/aa/", None)).map(drop));
        failed(get(&store, "pack/aa/1").map(drop));
        failed(get(&store, "idx/aa").map(drop));
        failed(stat(&store, "idx/aa").map(drop));
        failed(wait("", store.delete(&ObjectName::new("idx/aa"))));
        failed(wait("", store.list("../", None)).map(drop));
        failed(wait("", store.list("pack", None)).map(drop));
        assert!(matches!(put(&store, "idx/aa", b"x"), Err(StoreError::AlreadyExists { .. })));
        assert_eq!(everything(directory.path()).len(), 3, "nothing may be left behind");
    }
}

#[test]
fn an_object_beyond_the_limit_is_not_read_whole() {
    let (directory, store) = new_store();
    fs::File::create(directory.path().join("big")).unwrap().set_len(OBJECT_SIZE_MAX + 1).unwrap();
    assert!(matches!(get(&store, "big"), Err(StoreError::WrongSize { size, .. }) if size == OBJECT_SIZE_MAX + 1));
    let name = ObjectName::new("big");
    assert!(matches!(wait("", store.get_range(&name, 0..OBJECT_SIZE_MAX + 1)), Err(StoreError::WrongSize { .. })));
    assert_eq!(wait("", store.get_range(&name, OBJECT_SIZE_MAX - 1..OBJECT_SIZE_MAX + 1)).unwrap(), &[0, 0][..]);
}

#[test]
fn old_temporary_files_are_swept_and_nothing_else() {
    let (directory, store) = new_store();
    put(&store, "pack/aa/1", b"x").unwrap();
    let place = directory.path().join("pack/aa");
    let (old, foreign) = (place.join(temporary_name()), place.join(".tmp-notes"));
    let new = place.join(temporary_name());
    let moment = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000);
    for path in [&old, &new, &foreign, &place.join("1")] {
        fs::OpenOptions::new().create(true).append(true).open(path).unwrap().set_modified(moment).unwrap();
    }
    let before = Timestamp::from(moment).saturating_add(Duration::from_secs(1));
    fs::File::options().append(true).open(&new).unwrap().set_modified(moment + Duration::from_secs(1)).unwrap();
    assert_eq!(store.sweep_temporary(before).unwrap(), 1);
    assert_eq!((old.exists(), new.exists(), foreign.exists()), (false, true, true));
    assert_eq!(listed(&store, ""), ["pack/aa/1"]);
}

#[test]
fn temporary_names_are_no_object_names() {
    let (name, ()) = with_temporary_name(|_| Ok(())).unwrap();
    assert!(is_temporary(&name) && ObjectName::parse(&name).is_none());
    assert_ne!(name, temporary_name());
    for foreign in [".tmp-", ".tmp-0123", ".tmp-0123456789abcdeF", "tmp-0123456789abcdef", ".tmp-0123456789abcdef0"] {
        assert!(!is_temporary(foreign), "{foreign}");
    }
    let error = with_temporary_name(|_| Err::<(), _>(io::ErrorKind::AlreadyExists.into())).unwrap_err();
    assert_ne!(error.kind(), io::ErrorKind::AlreadyExists, "it is not the object that exists");
}

#[test]
fn errors_are_told_apart() {
    /// A disk on which every call fails in one way.
    #[derive(Debug)]
    struct Broken(io::ErrorKind);
    impl Disk for Broken {
        fn open_file(&self, _: &str) -> io::Result<(File, u64)> {
            Err(self.0.into())
        }
        fn read_at(&self, _: &File, _: u64, _: usize) -> io::Result<Vec<u8>> {
            Err(self.0.into())
        }
        fn stat(&self, _: &str) -> io::Result<FoundFile> {
            Err(self.0.into())
        }
        fn put_new(&self, _: &str, _: &[u8]) -> io::Result<()> {
            Err(self.0.into())
        }
        fn remove(&self, _: &str) -> io::Result<()> {
            Err(self.0.into())
        }
        fn sync(&self, _: &str) -> io::Result<()> {
            Ok(())
        }
        fn children(&self, _: &str, _: Detail) -> io::Result<Children> {
            Err(self.0.into())
        }
        fn time(&self) -> io::Result<Option<Timestamp>> {
            Err(self.0.into())
        }
        fn confirm(&self) -> io::Result<()> {
            Ok(())
        }
        fn is_exclusive(&self) -> bool {
            true
        }
    }
    let failing = |kind| with_disk(Path::new("/nowhere"), Broken(kind));
    for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem] {
        assert_eq!(wait("", failing(kind).server_time()).unwrap(), None, "who may not write has no clock");
    }
    assert!(wait("", failing(io::ErrorKind::TimedOut).server_time()).is_err());
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
        assert!(matches!(put(&failing(kind), "a", b""), Err(StoreError::Full { .. })));
    }
    for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem] {
        let store = failing(kind);
        assert!(matches!(put(&store, "a", b""), Err(StoreError::Denied { .. })));
        assert!(matches!(wait("", store.list("", None)), Err(StoreError::Denied { place, .. }) if place == "/nowhere"));
        assert!(matches!(wait("", store.delete(&ObjectName::new("a"))), Err(StoreError::Denied { place, .. }) if place == "a"));
    }
    assert!(matches!(get(&failing(io::ErrorKind::TimedOut), "a"), Err(StoreError::Failed { .. })));
    assert!(matches!(stat(&failing(io::ErrorKind::NotFound), "a"), Err(StoreError::NotFound { .. })));
    assert!(matches!(put(&failing(io::ErrorKind::NotFound), "a", b""), Err(StoreError::Failed { .. })));
}

#[cfg(unix)]
mod on_unix {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::super::unix::UnixDisk;
    use super::*;

    const LINK: u8 = 1;
    const RENAME: u8 = 2;

    #[test]
    fn keeps_the_contract_with_links() {
        run_contract(|path| with_disk(path, UnixDisk::open_limited(path, LINK).unwrap()));
    }

    #[test]
    fn keeps_the_contract_with_plain_renames() {
        run_contract(|path| {
            let store = with_disk(path, UnixDisk::open_limited(path, RENAME).unwrap());
            assert!(!store.capabilities().create_only);
            store
        });
    }

    #[test]
    fn a_file_system_with_everything_is_used_in_the_best_way() {
        let (_directory, store) = new_store();
        put(&store, "a", b"x").unwrap();
        assert!(store.capabilities().create_only);
    }

    #[test]
    fn everything_belongs_to_the_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/store");
        put(&LocalStore::create(&path).unwrap(), "pack/aa/1", b"x").unwrap();
        let mode = |name: &str| fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!([mode(".."), mode("."), mode("pack"), mode("pack/aa"), mode("pack/aa/1")], [0o700, 0o700, 0o700, 0o700, 0o600]);
    }

    #[test]
    fn symbolic_links_are_not_followed() {
        let (directory, store) = new_store();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("1"), "secret").unwrap();
        put(&store, "idx/2", b"x").unwrap();
        let at = |name| directory.path().join(name);
        symlink(elsewhere.path(), at("pack")).unwrap();
        symlink(elsewhere.path().join("1"), at("idx/1")).unwrap();
        symlink("nowhere", at("idx/3")).unwrap();
        assert_eq!(listed(&store, ""), ["idx/2"]);
        assert!(matches!(wait("", store.list("pack/", None)), Err(StoreError::Failed { .. })), "a link to a directory may hide objects");
        for name in ["pack/1", "idx/1", "idx/3"] {
            assert!(matches!(get(&store, name), Err(StoreError::Failed { .. })), "{name}");
            assert!(matches!(stat(&store, name), Err(StoreError::Failed { .. })), "{name}");
        }
        assert!(matches!(put(&store, "pack/2", b"x"), Err(StoreError::Failed { .. })));
        for way in [0, LINK, RENAME] {
            let store = with_disk(directory.path(), UnixDisk::open_limited(directory.path(), way).unwrap());
            assert!(matches!(put(&store, "idx/3", b"x"), Err(StoreError::AlreadyExists { .. })), "{way}");
        }
        assert_eq!(everything(elsewhere.path()).len(), 1);
        assert_eq!(temporary_files(directory.path()), Vec::<PathBuf>::new());
    }

    // macOS makes pipes in another way.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_pipe_does_not_hold_up_the_reader() {
        let (directory, store) = new_store();
        let pipe = directory.path().join("a");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert!(matches!(get(&store, "a"), Err(StoreError::Failed { .. })));
        assert_eq!(listed(&store, ""), Vec::<String>::new());
    }

    #[test]
    fn another_directory_in_its_place_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let store = LocalStore::create(&path).unwrap();
        put(&store, "a", b"x").unwrap();
        fs::rename(&path, directory.path().join("away")).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(get(&store, "a").unwrap(), "x", "what is there is still read");
        assert!(matches!(get(&store, "b"), Err(StoreError::Failed { .. })));
        assert!(matches!(wait("", store.list("", None)), Err(StoreError::Failed { .. })));
    }

    #[test]
    fn a_failed_write_leaves_no_temporary_file() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("taken")).unwrap();
        for way in [0, LINK, RENAME] {
            let store = with_disk(directory.path(), UnixDisk::open_limited(directory.path(), way).unwrap());
            assert!(put(&store, "taken", b"x").is_err());
            assert_eq!(everything(directory.path()).len(), 1, "{way}");
        }
    }
}

#[test]
fn a_held_file_never_outlives_a_listing_or_our_own_deletion() {
    let (directory, store) = new_store();
    let read = |name: &str| wait("", store.get_range(&ObjectName::new(name), 1..3));
    for name in ["pack/a", "pack/b"] {
        put(&store, name, b"content").unwrap();
        assert_eq!(read(name).unwrap(), "on");
    }
    fs::remove_file(directory.path().join("pack/a")).unwrap();
    assert_eq!(read("pack/a").unwrap(), "on", "held: true bytes of an object that never changes");
    assert_eq!(listed(&store, "pack/"), ["pack/b"]);
    assert!(matches!(read("pack/a"), Err(StoreError::NotFound { .. })));
    assert_eq!(read("pack/b").unwrap(), "on");
    wait("", store.delete(&ObjectName::new("pack/b"))).unwrap();
    assert!(matches!(read("pack/b"), Err(StoreError::NotFound { .. })));
}

#[test]
fn a_held_file_is_opened_anew_after_a_time_and_when_it_was_cut() {
    let (directory, store) = new_store();
    let name = ObjectName::new("a");
    let read = |range| wait("", store.get_range(&name, range));
    put(&store, "a", b"content").unwrap();
    read(0..7).unwrap();
    fs::remove_file(directory.path().join("a")).unwrap();
    let reads = (0..5000).take_while(|_| read(0..7).is_ok()).count();
    assert!(reads > 100 && reads < 5000, "{reads} reads of what is gone");
    put(&store, "a", b"content").unwrap();
    read(0..7).unwrap();
    fs::OpenOptions::new().write(true).open(directory.path().join("a")).unwrap().set_len(3).unwrap();
    assert!(matches!(read(0..7), Err(StoreError::WrongSize { size: 3, .. })));
    assert_eq!(read(0..3).unwrap(), "con");
}

#[test]
fn many_files_are_read_by_many_threads_with_few_of_them_open() {
    for portable in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let store = if portable {
            with_disk(directory.path(), PortableDisk::open(directory.path()).unwrap())
        } else {
            LocalStore::open(directory.path()).unwrap()
        };
        let names: Vec<_> = (0..200).map(|n| format!("pack/{n:03}")).collect();
        names.iter().for_each(|name| put(&store, name, format!("{name}{name}").as_bytes()).unwrap());
        std::thread::scope(|scope| {
            for start in 0..4 {
                let (store, names) = (&store, &names);
                scope.spawn(move || {
                    for name in names.iter().cycle().skip(start * 50).take(600) {
                        assert_eq!(wait("", store.get_range(&ObjectName::new(&**name), 8..16)).unwrap(), name);
                    }
                });
            }
        });
        assert_eq!(format!("{:?}", store.opened), "64 opened files");
    }
}
