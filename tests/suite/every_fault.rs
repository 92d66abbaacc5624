//! Every fault of a store at every call of an operation that there is. What a store does that keeps its contract costs nothing but the run; what one does that lies
//! may cost more, but no byte that is returned is ever wrong, and no snapshot that was there is lost.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use backup_writer::backup::{BackupError, backup};
use backup_writer::check::{ReadData, check};
use backup_writer::forget::{authorise, forget, undo};
use backup_writer::restore::{RestoreOptions, restore};
use bytes::Bytes;
use fs_core::id::SnapshotId;
use fs_core::observer::Silent;
use fs_core::path::TreePath;
use fs_core::report::{Finding, Place, Severity};
use fs_core::repository::Repository;
use fs_core::storage::memory::MemoryStore;
use fs_core::storage::{StoreError, WriteStore};
use fs_core::testing::simulator::{Outcome, Simulator, run_with_every_fault, run_with_pairs_of_faults};
use fs_core::testing::{CallKind, CountingStore, Fault, FaultyStore, Rule};
use fs_core::time::{Clock as _, Timestamp, Zone};
use fs_core::tree::EntryKind;
use fs_core::view::layout::ROOT;
use fs_core::view::{Links, Listed, Owner, View, ViewOptions};
use tests::driven::{is_long, places, seed};
use tests::{Bench, look, noise, options};

/// Pairs of faults for each operation in long runs.
const PAIRS: u64 = 2000;

/// Files by path.
type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A repository with one snapshot, and a source that has changed since.
struct Begin {
    source: tempfile::TempDir,
    memory: MemoryStore,
    bench: Bench,
    snapshot: SnapshotId,
    before: Files,
    after: Files,
}

impl Begin {
    fn new() -> Self {
        let source = tempfile::tempdir().unwrap();
        std::fs::create_dir(source.path().join("sub")).unwrap();
        std::fs::write(source.path().join("sub/one"), noise(1, 200_000)).unwrap();
        std::fs::write(source.path().join("two"), "text ".repeat(1000)).unwrap();
        std::fs::write(source.path().join("empty"), "").unwrap();
        let memory = MemoryStore::new();
        let bench = Bench::new(Arc::new(memory.clone())).unwrap();
        let before = files(source.path());
        let snapshot = bench.backup(source.path(), None).unwrap().snapshot;
        std::fs::write(source.path().join("sub/new"), noise(9, 100_000)).unwrap();
        std::fs::write(source.path().join("two"), "other ".repeat(1000)).unwrap();
        let after = files(source.path());
        Self { source, memory, bench, snapshot, before, after }
    }

    fn now(&self) -> Timestamp {
        self.bench.clock.now()
    }

    /// Runs an operation with every fault, or a tenth of them; if there is time, with pairs too. Who judges is told what struck.
    fn with_every_fault<T>(&self, operation: impl Fn(&Bench) -> T, judge: impl Fn(&Bench, &[Fault], T)) {
        let bench = |simulator: &Simulator, store| Bench { store, clock: simulator.clock(), ..self.bench.clone() };
        let operation = |simulator: &Simulator| operation(&bench(simulator, simulator.store()));
        let check = |simulator: &Simulator, outcome: Outcome<T>| {
            let store: Arc<dyn WriteStore> = Arc::new(simulator.memory().clone());
            judge(&bench(simulator, store), &outcome.struck, outcome.result);
        };
        let (seed, start) = (seed(), (&self.memory, self.now()));
        let runs = run_with_every_fault((seed, places()), start, operation, check);
        if is_long() {
            run_with_pairs_of_faults((seed, PAIRS), start, operation, check);
        }
        assert!(runs > 5, "{runs} faults");
    }

    /// What was there is there, and what is sealed is whole. The number of sealed snapshots.
    fn is_sound(&self, bench: &Bench) -> usize {
        let repository = bench.open().unwrap();
        let all = repository.all_snapshots().unwrap();
        assert!(all.all().any(|snapshot| snapshot.id == self.snapshot && snapshot.sealed));
        let shown = everything(&repository).unwrap();
        for snapshot in all.live.iter().filter(|snapshot| snapshot.sealed) {
            let files = if snapshot.id == self.snapshot { &self.before } else { &self.after };
            assert!(shown.values().any(|shown| shown == files), "{} is whole", snapshot.id.short());
        }
        all.live.iter().filter(|snapshot| snapshot.sealed).count()
    }
}

/// The files below a folder.
fn files(folder: &Path) -> Files {
    let is_file = |mode: u32| mode & 0o170_000 == 0o100_000;
    look(folder).unwrap().into_iter().filter(|(_, seen)| is_file(seen.mode)).map(|(path, seen)| (path, seen.bytes)).collect()
}

/// All files of all snapshots of a drive, by the name of the snapshot and the path below the source. The first error ends it.
fn everything(repository: &Arc<Repository>) -> Result<BTreeMap<Vec<u8>, Files>> {
    let options = ViewOptions { owner: Owner::AsSaved, links: Links::Raw, mounter: (0, 0), zone: Zone::utc() };
    let view = &View::new(Arc::clone(repository), None, options)?;
    let mut all = BTreeMap::new();
    let step = |parent, name: &'static [u8]| view.wait(|view, held| view.lookup(held, parent, name)).map(|found| found.0.inode);
    let snapshots = step(step(ROOT, b"Snapshots")?, b"host")?;
    for (name, inode, _) in list(view, snapshots)?.into_iter().filter(|(_, _, kind)| *kind == EntryKind::Directory) {
        let (mut found, mut open) = (Files::new(), vec![(PathBuf::new(), inode)]);
        while let Some((path, folder)) = open.pop() {
            for (name, inode, kind) in list(view, folder)? {
                let path = path.join(std::ffi::OsStr::from_bytes(&name));
                match kind {
                    EntryKind::Directory => open.push((path, inode)),
                    _ => drop(found.insert(path, read(view, inode)?)),
                }
            }
        }
        // The source is what stands below folders that hold nothing else.
        let common = found.keys().next().context("there are files")?.ancestors().nth(1).map(Path::to_path_buf);
        let top = found.keys().fold(common.unwrap_or_default(), |top, path| {
            top.ancestors().find(|above| path.starts_with(above)).map(Path::to_path_buf).unwrap_or_default()
        });
        let below = |(path, bytes): (PathBuf, Vec<u8>)| (path.strip_prefix(&top).unwrap().to_path_buf(), bytes);
        all.insert(name, found.into_iter().map(below).collect());
    }
    Ok(all)
}

pub(crate) fn list(view: &View, folder: u64) -> Result<Vec<(Vec<u8>, u64, EntryKind)>> {
    let mut lines = Vec::new();
    let more = &mut |line: Listed| {
        lines.push((line.name, line.attr.inode, line.attr.kind));
        true
    };
    view.wait(|view, held| view.readdir(held, folder, 0, more))?;
    lines.retain(|(name, ..)| name != b"." && name != b"..");
    Ok(lines)
}

pub(crate) fn read(view: &View, inode: u64) -> Result<Vec<u8>> {
    let size = view.wait(|view, held| view.getattr(held, inode))?.size;
    Ok(view.wait(|view, held| view.read(held, inode, 0, u32::try_from(size).unwrap_or(u32::MAX) as _))?.to_vec())
}

/// Nothing is wrong, except that what was cut off under its name is named.
fn is_clean(bench: &Bench, faults: &[Fault]) {
    let findings = check(&bench.open().unwrap(), ReadData::All, &Silent).unwrap().findings;
    let is_cut = |finding: &Finding| faults.contains(&Fault::TornWrite) && matches!(finding.place, Place::Object(_));
    assert!(findings.iter().all(|finding| finding.severity == Severity::Note || is_cut(finding)), "{findings:?}");
}

#[test]
fn a_backup() {
    let begin = Begin::new();
    let take = |bench: &Bench| -> Result<SnapshotId> {
        Ok(backup(&bench.open()?, &bench.store, &options(begin.source.path(), None), &Silent)?.snapshot)
    };
    begin.with_every_fault(take, |bench, faults, result| {
        let sealed = begin.is_sound(bench);
        assert!(sealed == 2 || result.is_err() && sealed == 1, "success means sealed: {result:?}");
        assert!(!faults.is_empty() || result.is_ok(), "{result:?}");
        bench.backup(begin.source.path(), None).unwrap();
        assert_eq!(begin.is_sound(bench), sealed + 1);
        is_clean(bench, faults);
    });
}

/// At whichever object the disk is full: the run says so, and the next one goes on.
#[test]
fn a_full_disk_is_said() {
    let begin = Begin::new();
    let take = |store: &Arc<dyn WriteStore>| -> Result<(), BackupError> {
        let bench = Bench { store: Arc::clone(store), ..begin.bench.clone() };
        backup(&bench.open().unwrap(), store, &options(begin.source.path(), None), &Silent).map(drop)
    };
    let counting = CountingStore::new(Arc::new(begin.memory.fork()));
    take(&(Arc::clone(&counting) as _)).unwrap();
    let puts = counting.counts().put;
    assert!(puts >= 5, "{puts} objects");
    for n in 1..=puts {
        let store: Arc<dyn WriteStore> = Arc::new(begin.memory.fork());
        let full = FaultyStore::new(Arc::clone(&store), [Rule::nth(n, Fault::Full).kind(CallKind::Put)]);
        let error = anyhow::Error::from(take(&(full as _)).unwrap_err());
        let is_full = |cause: &(dyn std::error::Error + 'static)| matches!(cause.downcast_ref(), Some(StoreError::Full { .. }));
        assert!(error.chain().any(is_full), "object {n}: {error:#}");
        take(&store).unwrap();
        let bench = Bench { store, ..begin.bench.clone() };
        assert!(begin.is_sound(&bench) >= 2);
        is_clean(&bench, &[]);
    }
}

#[test]
fn forgetting_and_bringing_back() {
    let mut begin = Begin::new();
    begin.bench.backup(begin.source.path(), None).unwrap();
    begin.memory = begin.memory.fork();
    let gone = |bench: &Bench| -> Result<()> {
        let repository = bench.open()?;
        let signer = authorise(&repository, &*bench.store, None, "host")?;
        forget(&repository, &*bench.store, &signer, &[begin.snapshot].into(), "test")?;
        Ok(())
    };
    let back = |bench: &Bench| -> Result<()> {
        let repository = bench.open()?;
        let signer = authorise(&repository, &*bench.store, None, "host")?;
        undo(&repository, &*bench.store, &signer, &repository.all_snapshots()?.forgotten)?;
        Ok(())
    };
    begin.with_every_fault(
        |bench| gone(bench).and_then(|()| back(bench)),
        |bench, faults, result| {
            let sealed = begin.is_sound(bench);
            let lies = faults.iter().any(|fault| !fault.keeps_contract());
            assert!(sealed == 2 || sealed == 1 && (result.is_err() || lies), "{sealed} are left: {result:?}");
            back(bench).unwrap();
            assert_eq!(begin.is_sound(bench), 2, "it comes back");
            is_clean(bench, faults);
        },
    );
}

#[test]
fn a_restore() {
    let begin = Begin::new();
    let run = |bench: &Bench| -> (tempfile::TempDir, Result<Vec<Finding>>) {
        let target = tempfile::tempdir().unwrap();
        let restored = || -> Result<Vec<Finding>> {
            let repository = bench.open()?;
            let snapshot = repository.snapshots()?.pop().context("no snapshot")?;
            let what = tests::only(&snapshot, &TreePath::parse(begin.source.path().as_os_str().as_bytes())?);
            Ok(restore(&repository, &what, &target.path().join("restored"), &RestoreOptions::default(), &Silent)?.findings)
        };
        let result = restored();
        (target, result)
    };
    let source = look(begin.source.path()).unwrap();
    begin.with_every_fault(run, |_, faults, (target, result)| {
        let place = target.path().join("restored");
        let there = if place.exists() { look(&place).unwrap() } else { BTreeMap::new() };
        let is_file = |mode: u32| mode & 0o170_000 == 0o100_000;
        for (path, seen) in there.iter().filter(|(_, seen)| is_file(seen.mode)) {
            // What is not complete has a mode that no saved file has.
            let is_complete = source.get(path).is_some_and(|saved| saved.mode == seen.mode);
            assert!(!is_complete || begin.before.get(path) == Some(&seen.bytes), "{} has wrong bytes", path.display());
        }
        let is_told = result.as_ref().map_or(true, |findings| !findings.is_empty());
        let files: Vec<_> = there.iter().filter(|(_, seen)| is_file(seen.mode)).map(|(path, _)| path).collect();
        assert!(is_told || files == begin.before.keys().collect::<Vec<_>>(), "something is missing and nobody said so: {files:?}");
        assert!(!faults.is_empty() || !is_told, "{result:?}");
    });
}

#[test]
fn a_drive() {
    let begin = Begin::new();
    let run = |bench: &Bench| -> Result<BTreeMap<Vec<u8>, Files>> { everything(&bench.open()?) };
    begin.with_every_fault(run, |_, faults, result| match result {
        Ok(shown) => {
            assert!(shown.values().all(|files| *files == begin.before), "what is shown is right");
            // A list that lies hides snapshots; nobody who has never been here can know.
            assert!(shown.len() == 1 || faults.iter().any(|fault| !fault.keeps_contract()), "{faults:?}");
        }
        Err(error) => assert!(!faults.is_empty(), "{error:#}"),
    });
}

/// Whatever happens to the calls of a check, it does not say that a damaged repository is whole.
#[test]
fn a_check() {
    let begin = Begin::new();
    let run = |bench: &Bench| -> Result<Vec<Finding>> { Ok(check(&*bench.open()?, ReadData::All, &Silent)?.findings) };
    begin.with_every_fault(run, |_, faults, result| {
        assert!(!faults.is_empty() || result.as_ref().is_ok_and(Vec::is_empty), "{result:?}");
    });
    let pack = begin.memory.contents().into_iter().find(|(name, _)| name.as_str().starts_with("pack/")).unwrap();
    let mut bytes = pack.1.to_vec();
    bytes[1000] ^= 1;
    begin.memory.overwrite(&pack.0, Some(Bytes::from(bytes)));
    begin.with_every_fault(run, |_, faults, result| {
        let is_told = result.as_ref().map_or(true, |findings| !findings.is_empty());
        assert!(
            is_told || faults.contains(&Fault::EmptyList) || faults.contains(&Fault::StaleList),
            "{faults:?}: damage, and nothing was said"
        );
    });
}
