//! Copies that are nearer than the repository.

use std::sync::Arc;

use backup_writer::copy::copy;
use backup_writer::restore::{RestoreOptions, restore};
use bytes::Bytes;
use fs_core::observer::Silent;
use fs_core::path::TreePath;
use fs_core::report::Finding;
use fs_core::repository::{OpenOptions, Repository, RepositoryError};
use fs_core::storage::memory::MemoryStore;
use fs_core::storage::{ReadStore, WriteStore};
use fs_core::testing::{CallKind, CountingStore, Counts, Fault, FaultyStore, Rule};
use fs_core::view::layout::ROOT;
use fs_core::view::{Links, Owner, View, ViewOptions};
use tests::driven::Driven;
use tests::remote::RemoteStore;
use tests::{Bench, look, noise, only};

use super::copying::usual;
use super::every_fault::{list, read};

/// A repository far away, and a copy of it.
struct Place {
    source: tempfile::TempDir,
    bench: Bench,
    far: MemoryStore,
    near: MemoryStore,
}

impl Place {
    fn new() -> Self {
        let source = tempfile::tempdir().unwrap();
        for n in 0..4 {
            std::fs::write(source.path().join(format!("large {n}")), noise(n, 300_000)).unwrap();
            std::fs::write(source.path().join(format!("small {n}")), noise(n + 10, 3000)).unwrap();
        }
        let (far, near) = (MemoryStore::new(), MemoryStore::new());
        let bench = Bench::new(Arc::new(far.clone())).unwrap().with_small_packs().unwrap();
        bench.backup(source.path(), None).unwrap();
        copy(&far, &near, &usual(&bench.clock), &Silent).unwrap();
        Self { source, bench, far, near }
    }

    fn open(&self, far: Arc<dyn ReadStore>, near: Vec<Arc<dyn ReadStore>>) -> Result<Arc<Repository>, RepositoryError> {
        let options = OpenOptions { list_ahead: true, near, ..OpenOptions::default() };
        Repository::open(far, &self.bench.credential, &options).map(Arc::new)
    }

    /// Restores the newest snapshot and compares it with the source; what was found.
    fn restored(&self, repository: &Arc<Repository>) -> Vec<Finding> {
        let snapshot = repository.snapshots().unwrap().pop().unwrap();
        let target = tempfile::tempdir().unwrap();
        let what = only(&snapshot, &TreePath::parse(self.source.path().as_os_str().as_encoded_bytes()).unwrap());
        let report = restore(repository, &what, &target.path().join("r"), &RestoreOptions::default(), &Silent).unwrap();
        assert_eq!(look(&target.path().join("r")).unwrap(), look(self.source.path()).unwrap());
        report.findings
    }

    /// Reads all files as a drive does; those that came as they should.
    fn shown(&self, repository: &Arc<Repository>, between: impl Fn()) -> usize {
        let options = ViewOptions { owner: Owner::AsSaved, links: Links::Raw, mounter: (0, 0), zone: fs_core::time::Zone::utc() };
        let view = View::new(Arc::clone(repository), None, options).unwrap();
        let mut folder = ROOT;
        let path = self.source.path().as_os_str().as_encoded_bytes().split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let snapshot = {
            let host = [&b"Snapshots"[..], b"host"].into_iter().fold(ROOT, |folder, name| step(&view, folder, name));
            list(&view, host).unwrap().pop().unwrap().0
        };
        for name in [&b"Snapshots"[..], b"host", &snapshot].into_iter().chain(path) {
            folder = step(&view, folder, name);
        }
        let mut right = 0;
        for (name, inode, _) in list(&view, folder).unwrap() {
            let saved = std::fs::read(self.source.path().join(std::str::from_utf8(&name).unwrap())).unwrap();
            right += usize::from(read(&view, inode).unwrap() == saved);
            between();
        }
        right
    }
}

fn step(view: &View, folder: u64, name: &[u8]) -> u64 {
    view.wait(|view, held| view.lookup(held, folder, name)).unwrap().0.inode
}

fn counting(store: &MemoryStore) -> Arc<CountingStore> {
    CountingStore::new(Arc::new(store.clone()))
}

fn as_read(store: &Arc<impl WriteStore + 'static>) -> Arc<dyn ReadStore> {
    Arc::clone(store).as_read()
}

/// What was asked but for sessions, lists and times.
fn reads(counts: Counts) -> u64 {
    counts.get + counts.get_range + counts.stat
}

#[test]
fn with_a_near_copy_the_repository_is_only_listed() {
    let place = Place::new();
    let (far, near) = (counting(&place.far), counting(&place.near));
    let repository = place.open(as_read(&far), vec![as_read(&near)]).unwrap();
    assert!(place.restored(&repository).is_empty());
    assert_eq!(place.shown(&repository, || {}), 8);
    let (far, near) = (far.counts(), near.counts());
    assert!(reads(far) == 0 && far.list > 0, "{far:?}");
    assert!(near.get_range > 3 && near.list == 1, "{near:?}");
}

#[test]
fn reading_goes_on_when_the_near_copy_is_taken_away() {
    let place = Place::new();
    for calls in [0, 1, 3, 5, 7, 9] {
        let near = FaultyStore::new(Arc::new(place.near.clone()), [Rule::nth(calls + 1, Fault::KillFromHere)]);
        let far = counting(&place.far);
        // Both answer later, as over a network, and at once, as a stick does.
        for later in [false, true] {
            let wrap = |store: Arc<dyn ReadStore>| -> Arc<dyn ReadStore> { if later { RemoteStore::new(store, 0) } else { store } };
            let repository = place.open(wrap(as_read(&far)), vec![wrap(as_read(&near))]).unwrap();
            assert!(place.restored(&repository).is_empty());
            assert_eq!(place.shown(&repository, || {}), 8, "taken away after {calls} calls");
        }
        assert!(near.is_killed() && reads(far.counts()) > 0);
    }
    // Between two reads.
    let near = FaultyStore::new(Arc::new(place.near.clone()), []);
    let repository = place.open(Arc::new(place.far.clone()), vec![as_read(&near)]).unwrap();
    let asked = || near.calls();
    assert_eq!(place.shown(&repository, || near.add(Rule::every(Fault::Timeout))), 8);
    // It is not asked for each read what it cannot answer.
    let before = asked();
    assert!(place.restored(&repository).is_empty());
    assert!(asked() <= before + 1, "{} calls", asked() - before);
}

#[test]
fn what_is_damaged_or_missing_near_comes_from_afar_by_record() {
    let place = Place::new();
    let all: Vec<_> = place.near.contents();
    for (name, bytes) in &all {
        for is_lost in [false, true] {
            let near = place.near.fork();
            let mut damaged = bytes.to_vec();
            let at = damaged.len() / 3;
            damaged[at] ^= 1;
            near.overwrite(name, (!is_lost).then(|| Bytes::from(damaged)));
            let far = counting(&place.far);
            let repository = place.open(as_read(&far), vec![Arc::new(near)]).unwrap();
            assert!(place.restored(&repository).is_empty(), "{name}");
            assert_eq!(place.shown(&repository, || {}), 8, "{name}");
            let far = far.counts();
            let is_one_record = name.as_str().starts_with("pack/") && !is_lost;
            let is_little = far.get_range <= 2 && far.bytes_down < 100_000;
            assert!(!is_one_record || is_little, "one record, once for each reader: {name}, {far:?}");
        }
    }
}

#[test]
fn several_near_copies_complete_each_other() {
    let place = Place::new();
    let halves = [place.near.fork(), place.near.fork()];
    for (at, (name, _)) in place.near.contents().iter().enumerate().filter(|(_, (name, _))| !name.as_str().starts_with("repo/")) {
        halves[at % 2].overwrite(name, None);
    }
    let far = counting(&place.far);
    let near = halves.iter().map(|half| Arc::new(half.clone()) as Arc<dyn ReadStore>).collect();
    let repository = place.open(as_read(&far), near).unwrap();
    assert!(place.restored(&repository).is_empty());
    assert_eq!(reads(far.counts()), 0);
}

#[test]
fn a_near_copy_of_another_repository_is_refused_and_one_that_is_not_there_done_without() {
    let place = Place::new();
    let other = super::copying::of_another_repository();
    let refused = place.open(Arc::new(place.far.clone()), vec![Arc::new(other)]);
    assert!(matches!(refused, Err(RepositoryError::OtherNear { .. })), "{refused:?}");
    let dead = FaultyStore::new(Arc::new(place.near.clone()), [Rule::every(Fault::ErrorBefore)]);
    let repository = place.open(Arc::new(place.far.clone()), vec![as_read(&dead)]).unwrap();
    assert!(place.restored(&repository).is_empty());
    assert!(dead.struck().iter().all(|(call, _)| call.kind != CallKind::Put));
}

/// The program: a drive goes on when the folder of its near copy is renamed.
#[test]
fn a_drive_reads_from_a_stick_until_it_is_pulled() {
    let driven = Driven::new("repository").unwrap();
    let contents = noise(3, 5_000_000);
    std::fs::write(driven.source().join("large"), &contents).unwrap();
    std::fs::write(driven.source().join("other"), noise(4, 2_000_000)).unwrap();
    driven.save().unwrap();
    driven.run(&["copy", "--to", "stick"]).unwrap();
    // What is not in the repository itself any more shows where the drive reads.
    std::fs::rename(driven.path("repository/pack"), driven.path("packs")).unwrap();
    let drive = driven.mount("drive", &["--near", "stick"]).unwrap();
    assert!(std::fs::read(drive.shown.join("large")).unwrap() == contents);
    std::fs::rename(driven.path("packs"), driven.path("repository/pack")).unwrap();
    std::fs::remove_dir_all(driven.path("stick")).unwrap();
    assert!(std::fs::read(drive.shown.join("other")).unwrap() == noise(4, 2_000_000));
    drop(drive);
    // One that is not there costs a message.
    let output = driven.command(&["--key-file", "key", "--near", "stick", "ls"]).output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("is not there"), "{output:?}");
}
