//! Pinning without a drive: what it costs, how it goes on after an interruption, what damage does.

use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backup_writer::restore::{RestoreOptions, restore};
use fs_core::cache::DiskCache;
use fs_core::observer::{Cancel, Observer, Progress, Silent};
use fs_core::path::TreePath;
use fs_core::report::is_incomplete;
use fs_core::repository::{OpenOptions, PinError, Repository};
use fs_core::storage::WriteStore;
use fs_core::storage::local::LocalStore;
use fs_core::storage::memory::MemoryStore;
use fs_core::testing::{CountingStore, Fault, FaultyStore, Rule};
use fs_core::time::Zone;
use fs_core::view::layout::ROOT;
use fs_core::view::{Links, Owner, View, ViewOptions};
use tests::{Bench, noise};

const QUOTA: u64 = 256 << 20;

/// Opens the repository with a cache, over a store of its own.
fn open(bench: &Bench, store: Arc<dyn WriteStore>, state: &Path) -> Arc<Repository> {
    let options = OpenOptions { cache_size: QUOTA, state: Some(state.into()), ..OpenOptions::default() };
    Arc::new(Repository::open(store.as_read(), &bench.credential, &options).unwrap())
}

fn path_of(source: &Path, name: &str) -> TreePath {
    TreePath::parse(source.join(name).as_os_str().as_encoded_bytes()).unwrap()
}

/// Cancels when the first data has come.
#[derive(Default)]
struct Impatient(Cancel);

impl Observer for Impatient {
    fn progress(&self, progress: &Progress) {
        if progress.byte_count > 0 {
            self.0.cancel();
        }
    }

    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

#[test]
fn what_was_interrupted_goes_on_and_what_is_kept_is_not_fetched_again() {
    let (source, states) = (tempfile::tempdir().unwrap(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    std::fs::create_dir(source.path().join("folder")).unwrap();
    for number in 0..12 {
        std::fs::write(source.path().join(format!("folder/{number:02}")), noise(number, 8_000_000)).unwrap();
    }
    let counting = CountingStore::new(Arc::new(MemoryStore::new()));
    let bench = Bench::new(Arc::clone(&counting) as _).unwrap();
    bench.backup(source.path(), None).unwrap();
    let pin = |state: &Path, observer: &dyn Observer| {
        let repository = open(&bench, Arc::clone(&bench.store), state);
        let snapshot = repository.snapshots().unwrap().pop().unwrap();
        counting.reset();
        (repository.pin(&snapshot, &path_of(source.path(), "folder"), observer), counting.counts(), repository.pins())
    };
    let (whole, counts, _) = pin(states[0].path(), &Silent);
    let whole = whole.unwrap();
    assert!(whole.fetched_bytes >= 96_000_000 && whole.stored_bytes < whole.fetched_bytes / 50 * 51, "{whole:?}");
    assert!(counts.get_range < 60, "96 MB with few requests: {counts:?}");

    let (interrupted, _, pins) = pin(states[1].path(), &Impatient::default());
    assert!(matches!(interrupted, Err(PinError::Cancelled)), "{interrupted:?}");
    assert!(!pins[0].is_complete);
    let (rest, _, pins) = pin(states[1].path(), &Silent);
    let rest = rest.unwrap();
    assert!(rest.fetched_bytes < whole.fetched_bytes - 3_000_000, "what was kept is not fetched again: {rest:?}");
    assert!(pins[0].is_complete && pins.len() == 1);
    for file in objects(states[1].path()).into_iter().filter(|file| file.parent().unwrap().ends_with("pins")) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"folder"), "the name of a pin is sealed");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    let (again, counts, _) = pin(states[1].path(), &Silent);
    assert_eq!((again.unwrap().fetched_bytes, counts.get_range), (0, 0));
}

/// Files of a store's folder below a prefix, the largest last.
fn objects(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for item in std::fs::read_dir(folder).unwrap().map(|item| item.unwrap().path()) {
        if item.is_dir() { found.extend(objects(&item)) } else { found.push(item) }
    }
    found.sort_by_key(|path| path.metadata().unwrap().len());
    found
}

#[test]
fn damage_is_a_finding_and_the_rest_is_kept() {
    let (source, folder, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for number in 0..40u64 {
        std::fs::write(source.path().join(format!("{number:02}")), noise(number, 100_000)).unwrap();
    }
    let store: Arc<dyn WriteStore> = Arc::new(LocalStore::create(folder.path()).unwrap());
    let bench = Bench::new(store).unwrap();
    bench.backup(source.path(), None).unwrap();
    let pack = objects(&folder.path().join("pack")).pop().unwrap();
    let original = std::fs::read(&pack).unwrap();
    let middle = original.len() / 2;
    let flip = |byte: u8| {
        std::fs::remove_file(&pack).unwrap();
        std::fs::write(&pack, &original).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&pack).unwrap();
        file.write_all_at(&[byte], middle as u64).unwrap();
    };
    flip(original[middle] ^ 1);
    let repository = open(&bench, Arc::clone(&bench.store), state.path());
    let snapshot = repository.snapshots().unwrap().pop().unwrap();
    let report = repository.pin(&snapshot, &path_of(source.path(), ""), &Silent).unwrap();
    assert_eq!((report.findings.len(), is_incomplete(&report.findings), report.pin.is_complete), (1, true, false), "{report:?}");
    flip(original[middle]);
    drop(repository);
    // A store of its own: that one has the file open which was replaced.
    let repository = open(&bench, Arc::new(LocalStore::open(folder.path()).unwrap()), state.path());
    let report = repository.pin(&snapshot, &path_of(source.path(), ""), &Silent).unwrap();
    assert!(report.findings.is_empty() && report.pin.is_complete, "{report:?}");
    assert!(report.fetched_bytes < 200_000, "only what was missing: {report:?}");
    repository.unpin(&report.pin).unwrap();
    assert!(repository.pins().is_empty() && repository.disk().unwrap().status().pinned == 0);
}

#[test]
fn a_pinned_file_is_restored_and_shown_over_a_store_that_fails_and_others_are_not() {
    let (source, state, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (folder, seed) in [("one", 1), ("two", 2)] {
        std::fs::create_dir(source.path().join(folder)).unwrap();
        std::fs::write(source.path().join(folder).join("file"), noise(seed, 3_000_000)).unwrap();
    }
    // A member of a hard-linked file whose first entry stands elsewhere.
    std::fs::hard_link(source.path().join("one/file"), source.path().join("two/link")).unwrap();
    let memory: Arc<dyn WriteStore> = Arc::new(MemoryStore::new());
    let bench = Bench::new(Arc::clone(&memory)).unwrap();
    bench.backup(source.path(), None).unwrap();
    let faulty = FaultyStore::new(memory, []);
    let reader = open(&bench, Arc::clone(&faulty) as _, state.path());
    let snapshot = reader.snapshots().unwrap().pop().unwrap();
    let pinner = open(&bench, Arc::clone(&bench.store), state.path());
    pinner.pin(&snapshot, &path_of(source.path(), "two/link"), &Silent).unwrap();
    // Pages came with others around them, which are not pinned.
    DiskCache::clear(pinner.disk().unwrap().folder(), false).unwrap();
    let options = ViewOptions { owner: Owner::AsSaved, links: Links::Raw, mounter: (0, 0), zone: Zone::utc() };
    let view = View::new(Arc::clone(&reader), None, options).unwrap();
    faulty.add(Rule::every(Fault::KillFromHere));
    let options = RestoreOptions::default();
    let report = restore(&reader, &tests::only(&snapshot, &path_of(source.path(), "two/link")), target.path(), &options, &Silent).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let (mut inode, mut names) = (ROOT, vec![b"Ids".to_vec(), snapshot.id.short().into_bytes()]);
    let link = names.iter().fold(ROOT, |parent, name| view.wait(|view, held| view.lookup(held, parent, name)).unwrap().0.inode);
    let shown = view.wait(|view, held| view.readlink(held, link)).unwrap();
    names = shown.split(|&byte| byte == b'/').skip(1).map(<[u8]>::to_vec).collect();
    names.extend(path_of(source.path(), "two/link").names().iter().map(|name| name.as_bytes().to_vec()));
    for name in &names {
        inode = view.wait(|view, held| view.lookup(held, inode, name)).unwrap().0.inode;
    }
    let bytes = view.wait(|view, held| view.read(held, inode, 0, 4_000_000)).unwrap();
    assert!(bytes == noise(1, 3_000_000), "it has the number of the first entry of its file, and is read from there");
    assert!(std::fs::read(target.path().join("link")).unwrap() == noise(1, 3_000_000));
    let other = restore(&reader, &tests::only(&snapshot, &path_of(source.path(), "two/file")), target.path(), &options, &Silent);
    assert!(!other.is_ok_and(|report| report.findings.is_empty()), "it was not pinned");
}
