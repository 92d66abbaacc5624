//! `copy --snapshots`: snapshots of one repository in another one with keys of its own.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backup_writer::backup::{BackupOptions, BackupReport, backup};
use backup_writer::check::{ReadData, check};
use backup_writer::copy::snapshots::{SnapshotCopy, SnapshotCopyError, SnapshotCopyOptions};
use backup_writer::device;
use backup_writer::packer::Packer;
use backup_writer::restore::{RestoreOptions, restore};
use backup_writer::retention::{Candidate, Policy, decide, forgotten_ids};
use backup_writer::source::stream::{EndMark, Input, Stream};
use fs_core::id::SnapshotId;
use fs_core::object::{ObjectKind, Signer};
use fs_core::observer::Silent;
use fs_core::path::{Name, TreePath};
use fs_core::record::Reference;
use fs_core::report::{Finding, Place, Severity, is_incomplete};
use fs_core::repository::Repository;
use fs_core::snapshot::{Manifest, Snapshot};
use fs_core::storage::WriteStore;
use fs_core::testing::simulator::{Outcome, Simulator, run_at_every_call};
use fs_core::testing::{CallKind, CountingStore, Fault, FaultyStore, RecordingStore, Rule};
use fs_core::time::Clock as _;
use fs_core::tree::{self, Content, Entry, EntryKind, Value};
use tests::driven::is_long;
use tests::other_system::{Planter, content, named, stream};
use tests::{Bench, look, noise, only, options};

use super::cli::Shell;
use super::fidelity::every_kind;

mod two;

use two::{All, Two, entry_at, everything, expect_equal, flip, names};

fn with_everything(two: &Two, tags: &[&str]) -> BackupReport {
    let said = "echo a dump; echo with a warning >&2";
    let stream = Stream {
        name: Name::new(&b"dump.sql"[..]).unwrap(),
        input: Input::Command(said.into()),
        end_mark: EndMark::Nothing,
        allow_empty: false,
    };
    let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
    let how = BackupOptions { streams: vec![stream], tags, utc_offset_minutes: 90, set: Some("all".into()), ..options(two.folder(), None) };
    two.from.clock.advance(Duration::from_secs(3600));
    backup(&two.from.open().unwrap(), &two.from.store, &how, &Silent).unwrap()
}

#[test]
fn every_snapshot_comes_back_as_it_was_saved_the_first_time() {
    let two = Two::new();
    every_kind(two.folder());
    std::fs::create_dir(two.folder().join("many")).unwrap();
    (0..300).for_each(|n| two.write(&format!("many/{n}"), &noise(n, 10 + 31 * n as usize)));
    two.write("disk.img", &[noise(9, 1 << 20), vec![0; 4 << 20], noise(10, 70_000)].concat());
    let _ = rustix::fs::lsetxattr(two.folder().join("many"), "user.long", &noise(6, 3000), rustix::fs::XattrFlags::empty());
    with_everything(&two, &["first"]);
    two.write("many/7", b"changed");
    std::fs::remove_file(two.folder().join("many/8")).unwrap();
    std::fs::rename(two.folder().join("deep/er"), two.folder().join("deep/moved")).unwrap();
    std::fs::set_permissions(two.folder().join("list of lists"), std::os::unix::fs::PermissionsExt::from_mode(0o604)).unwrap();
    with_everything(&two, &[]);
    two.write("list of lists", &[noise(2, 10_000_000), noise(3, 100)].concat());
    let last = with_everything(&two, &["last"]);
    let copied = two.copy();
    assert_eq!(copied.len(), 3);
    assert!(copied.iter().all(|one| one.report.findings.is_empty()), "{copied:?}");
    assert_eq!(two.expect_equal("all"), 3);
    two.expect_sound("all");
    let (from, to) = (two.from.open().unwrap(), two.to.open().unwrap());
    for (original, copy) in from.snapshots().unwrap().iter().zip(to.snapshots().unwrap()) {
        let (was, is) = (original.manifest().unwrap(), copy.manifest().unwrap());
        let facts = |m: &Manifest| (m.host.clone(), m.set.clone(), m.tags.clone(), m.sources.clone(), m.tool_version.clone());
        assert_eq!(facts(&was), facts(&is));
        assert_eq!((was.started, was.ended, was.utc_offset_minutes), (is.started, is.ended, is.utc_offset_minutes));
        assert_eq!(is.original.unwrap().snapshot, original.id);
        assert_eq!(was.attribute_names, is.attribute_names);
        let count = |stats: &fs_core::report::Stats| (stats.file_count, stats.directory_count, stats.other_count, stats.byte_count);
        assert_eq!(count(&was.stats), count(&is.stats));
        let findings = |repository: &Repository, all: &[Reference]| -> Vec<Finding> {
            all.iter().flat_map(|one| repository.stored_findings(one).unwrap()).collect()
        };
        assert_eq!(findings(&from, &was.findings), findings(&to, &is.findings));
        assert_eq!(findings(&to, &is.findings).len(), 1, "what its command said");
    }
    let sequences: Vec<_> = copied.iter().map(|one| (one.report.manifest.sequence, one.report.manifest.previous)).collect();
    let ids: Vec<_> = copied.iter().map(|one| Some(one.report.snapshot)).collect();
    assert_eq!(sequences, [(1, None), (2, ids[0]), (3, ids[1])], "the chain is this device's");
    let target = tempfile::tempdir().unwrap();
    let path = TreePath::parse(two.folder().as_os_str().as_encoded_bytes()).unwrap();
    let newest = to.snapshots().unwrap().pop().unwrap();
    assert_eq!(newest.manifest().unwrap().original.unwrap().snapshot, last.snapshot);
    restore(&to, &only(&newest, &path), target.path(), &RestoreOptions::default(), &Silent).unwrap();
    assert!(look(two.folder()).unwrap() == look(target.path()).unwrap(), "the folder itself");
}

/// A sealed snapshot of another system, with what none that runs this test can make. Each has the same root.
fn plant(two: &Two, sequence: u64, previous: Option<SnapshotId>, signer: &Signer) -> SnapshotId {
    let planter = Planter { repository: two.from.open().unwrap(), store: Arc::clone(&two.from.store), signer: signer.clone() };
    let entries = |packer: &mut Packer| -> anyhow::Result<Vec<Entry>> {
        let (mut file, mut folder) = (named("a file", EntryKind::File), named("a folder", EntryKind::Directory));
        (file.size, file.content) = (11, content(packer, b"hello world")?);
        (file.windows_attributes, file.placeholder, file.reparse) = (Some(0x20), Some(7), Some(vec![1, 2, 3]));
        file.security_descriptor = Some(Value::Stored { size: 5000, content: content(packer, &noise(1, 5000))? });
        file.unknown = vec![(200, vec![0x18, 0x2a])];
        file.streams = vec![
            tree::Stream { name: b"empty".to_vec(), value: Value::Stored { size: 0, content: Content::EMPTY } },
            stream(packer, "long", &noise(2, 100_000))?,
        ];
        folder.security_descriptor = Some(Value::Inline(noise(3, 100)));
        folder.streams = vec![stream(packer, "of a folder", &noise(4, 300))?];
        Ok(vec![file, folder])
    };
    planter.plant((sequence, previous), entries).unwrap()
}

#[test]
fn what_other_systems_keep_of_a_file_comes_along() {
    let two = Two::new();
    two.write("model", b"of a manifest");
    two.save();
    let signer = device::open(&two.from.open().unwrap(), &*two.from.store, None, "other system").unwrap();
    let first = plant(&two, 1, None, &signer);
    let copied = two.copy();
    assert!(copied.len() == 2 && copied.iter().all(|one| one.report.findings.is_empty()), "{copied:?}");
    plant(&two, 2, Some(first), &signer);
    let copied = two.copy();
    assert_eq!((copied.len(), copied[0].report.stats.read_bytes, copied[0].report.stats.unchanged_count), (1, 0, 1));
    assert_eq!(two.expect_equal("planted"), 3);
    two.expect_sound("planted");
}

#[test]
fn what_was_copied_is_not_copied_again_and_no_data_is_read() {
    let two = Two::small();
    for day in 0..3 {
        two.write("changes", &noise(day, 200_000));
        two.save();
    }
    assert_eq!(two.copy().len(), 3);
    let before = two.there.contents();
    let recording = RecordingStore::new(Arc::clone(&two.from.store));
    assert!(two.copy_from(recording.clone()).unwrap().is_empty());
    let reads = recording.calls().into_iter().filter(|call| matches!(call.kind, CallKind::Get | CallKind::GetRange));
    let of_packs: Vec<_> = reads.filter(|call| call.place.starts_with("pack/") || call.place.starts_with("meta/")).collect();
    assert!(of_packs.is_empty(), "{of_packs:?}");
    assert!(two.there.contents() == before, "and nothing is written");
    // What was copied and let go of there does not come back by itself, and what came from there does not go home.
    let look = SnapshotCopy::look(&two.to.open().unwrap(), &two.from.open().unwrap(), None).unwrap();
    assert_eq!((look.missing.len(), look.at_home), (0, 3));
    let named = [two.from.open().unwrap().snapshots().unwrap()[1].id].into_iter().collect::<HashSet<_>>();
    let look = SnapshotCopy::look(&two.from.open().unwrap(), &two.to.open().unwrap(), Some(&named)).unwrap();
    assert_eq!((look.missing.len(), look.copied_before), (0, 1));
    let same = SnapshotCopy::look(&two.from.open().unwrap(), &two.from.open().unwrap(), None).unwrap_err();
    assert!(matches!(same, SnapshotCopyError::Same { .. }));
}

#[test]
fn a_further_snapshot_reads_what_has_changed() {
    let two = Two::new();
    std::fs::create_dir_all(two.folder().join("still/deep")).unwrap();
    two.write("still/large", &noise(1, 9_000_000));
    (0..200).for_each(|n| two.write(&format!("still/deep/{n}"), &noise(n, 900)));
    two.write("moves", &noise(2, 3_000_000));
    two.write("grows", b"short");
    let first = two.save();
    let first_run = CountingStore::new(Arc::clone(&two.from.store));
    two.copy_from(first_run.clone()).unwrap();
    assert!(first_run.counts().bytes_down > 12_000_000);
    two.write("grows", &noise(3, 300_000));
    std::fs::set_permissions(two.folder().join("moves"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    two.save();
    let counting = CountingStore::new(Arc::clone(&two.from.store));
    let copied = two.copy_from(counting.clone()).unwrap();
    let (stats, down) = (copied[0].report.stats, counting.counts().bytes_down);
    assert_eq!((stats.read_bytes, stats.changed_count, stats.unchanged_count), (300_000, 2, 201), "{stats:?}");
    assert!((300_000..450_000).contains(&down), "{down} bytes");
    // Its original is gone: sizes and times tell.
    let repository = two.from.open().unwrap();
    let signer = backup_writer::forget::authorise(&repository, &*two.from.store, None, "host").unwrap();
    backup_writer::forget::forget(&repository, &*two.from.store, &signer, &[first].into_iter().collect(), "test").unwrap();
    two.write("grows", &noise(4, 200_000));
    let second = two.from.open().unwrap().snapshots().unwrap()[0].id;
    two.save();
    for name in
        names(&two.here, "snap/").into_iter().chain(names(&two.here, "seal/")).filter(|name| name.as_str().contains(&second.to_string()))
    {
        two.here.overwrite(&name, None);
    }
    let copied = two.copy();
    assert_eq!(copied[0].report.stats.read_bytes, 200_000);
    assert_eq!(two.expect_equal("after all"), 2, "all but the one that is gone");
    two.expect_sound("after all");
}

/// In one run directories that were copied before are known by their pages; nothing below them is looked at.
#[test]
fn what_many_snapshots_share_is_copied_once() {
    let two = Two::small();
    std::fs::create_dir_all(two.folder().join("still/a/b")).unwrap();
    (0..50).for_each(|n| two.write(&format!("still/a/b/{n}"), &noise(n, 3000)));
    std::fs::hard_link(two.folder().join("still/a/b/7"), two.folder().join("still/a/link")).unwrap();
    for day in 0..6 {
        two.write("changes", &noise(day + 100, 5000));
        two.save();
    }
    let copied = two.copy();
    let read: Vec<_> = copied.iter().map(|one| one.report.stats.read_bytes).collect();
    assert_eq!(read[1..], [5000; 5]);
    assert!(copied.iter().all(|one| one.report.stats.file_count == 52), "{copied:?}");
    assert_eq!(two.expect_equal("six"), 6);
    two.expect_sound("six");
    let pages: HashSet<_> = copied.iter().map(|one| one.report.manifest.root.subtree.clone().unwrap().page.unwrap().id).collect();
    assert_eq!(pages.len(), 6);
}

#[test]
fn what_is_saved_there_already_is_not_sent_again() {
    let two = Two::new();
    every_kind(two.folder());
    (0..100).for_each(|n| two.write(&format!("small {n}"), &noise(n, 900)));
    two.save();
    // As another host: nothing says that it is the same.
    let how = BackupOptions { host: "elsewhere".into(), ..options(two.folder(), None) };
    backup(&two.to.open().unwrap(), &two.to.store, &how, &Silent).unwrap();
    let data = names(&two.there, "pack/");
    let copied = two.copy();
    assert_eq!(names(&two.there, "pack/"), data, "no pack of contents is new");
    let stats = copied[0].report.stats;
    assert!(stats.read_bytes > 20_000_000 && stats.sent_bytes < 100_000, "{stats:?}");
    two.expect_equal("beside");
}

/// Who moves to another repository takes the past along and goes on from there.
#[test]
fn a_machine_that_moves_goes_on_from_the_copies() {
    let two = Two::new();
    two.write("large", &noise(1, 3_000_000));
    two.write("small", b"small");
    two.save();
    two.copy();
    let report = two.to.backup(two.folder(), None).unwrap();
    assert_eq!((report.stats.read_bytes, report.stats.unchanged_count), (0, 2));
    assert!(report.manifest.original.is_none() && report.parent.is_some());
    two.expect_sound("moved");
}

#[test]
fn a_damaged_file_is_left_out_and_told_and_comes_when_it_is_whole() {
    let two = Two::new();
    std::fs::create_dir(two.folder().join("folder")).unwrap();
    two.write("folder/large", &noise(1, 3_000_000));
    two.write("folder/other", &noise(2, 2_000_000));
    two.write("small", b"small");
    let first = two.save();
    let entry = entry_at(&two.from.open().unwrap(), &two, "folder/large");
    let reference = entry.content.references()[1];
    flip(&two.here, ObjectKind::DataPack, &reference);
    two.save();
    let copied = two.copy();
    let path = TreePath::parse(two.folder().join("folder/large").as_os_str().as_encoded_bytes()).unwrap();
    for one in &copied {
        let (findings, stats) = (&one.report.findings, one.report.stats);
        assert!(
            matches!(&findings[..], [finding] if finding.place == Place::Path(path.clone()) && finding.severity == Severity::Warning),
            "{findings:?}"
        );
        assert_eq!((stats.failed_count, stats.file_count), (1, 2), "{stats:?}");
    }
    assert_eq!((copied.len(), copied[0].original), (2, first));
    let to = two.to.open().unwrap();
    let (mut was, is) = (everything_but(&two, "folder/large"), everything(&to, &to.snapshots().unwrap()[1]));
    was.retain(|path, _| is.contains_key(path));
    let counts = |all: &All| {
        all.iter().map(|(path, (entry, held))| (path.clone(), entry.subtree.is_none().then(|| entry.clone()), *held)).collect::<Vec<_>>()
    };
    assert!(counts(&was) == counts(&is), "all else is there");
    two.expect_sound("without it");
    flip(&two.here, ObjectKind::DataPack, &reference);
    two.save();
    let copied = two.copy();
    assert_eq!((copied.len(), copied[0].report.stats.read_bytes), (1, 3_000_000));
    let (from, to) = (two.from.open().unwrap(), two.to.open().unwrap());
    let last = |repository: &Arc<Repository>| everything(repository, repository.snapshots().unwrap().last().unwrap());
    assert!(last(&from) == last(&to), "whole again");
}

/// The newest snapshot of the repository that is copied, read before a file of it was damaged.
fn everything_but(two: &Two, name: &str) -> All {
    let reference = entry_at(&two.from.open().unwrap(), two, name).content.references()[1];
    flip(&two.here, ObjectKind::DataPack, &reference);
    let from = two.from.open().unwrap();
    let mut all = everything(&from, from.snapshots().unwrap().last().unwrap());
    flip(&two.here, ObjectKind::DataPack, &reference);
    all.remove(&TreePath::parse(two.folder().join(name).as_os_str().as_encoded_bytes()).unwrap().to_bytes());
    all
}

#[test]
fn small_files_suffer_alone_from_a_damaged_record() {
    let two = Two::new();
    (0..5).for_each(|n| two.write(&format!("a{n}"), &noise(n, 900)));
    two.save();
    (0..5).for_each(|n| two.write(&format!("b{n}"), &noise(n + 50, 900)));
    two.save();
    let (reference, _) = entry_at(&two.from.open().unwrap(), &two, "b2").fragment().unwrap();
    flip(&two.here, ObjectKind::DataPack, &reference);
    let copied = two.copy();
    let counts: Vec<_> = copied.iter().map(|one| (one.report.stats.file_count, one.report.stats.failed_count)).collect();
    assert_eq!(counts, [(5, 0), (5, 5)]);
    two.expect_sound("five of ten");
}

#[test]
fn a_damaged_folder_is_told_in_every_snapshot_that_has_it() {
    let two = Two::new();
    std::fs::create_dir_all(two.folder().join("above/broken")).unwrap();
    two.write("above/broken/file", b"lost");
    two.write("above/beside", b"kept");
    two.save();
    two.write("new", b"new");
    two.save();
    let page = entry_at(&two.from.open().unwrap(), &two, "above/broken").subtree.unwrap().page.unwrap();
    flip(&two.here, ObjectKind::MetaPack, &page);
    let copied = two.copy();
    for one in &copied {
        assert!(is_incomplete(&one.report.findings) && one.report.stats.failed_count == 1, "{:?}", one.report);
    }
    assert_eq!(copied.iter().map(|one| one.report.stats.file_count).collect::<Vec<_>>(), [1, 2]);
    two.expect_sound("without it");
}

/// A store that does not answer is no damage: there is no snapshot that lacks what could not be fetched.
#[test]
fn a_repository_that_does_not_answer_ends_the_run() {
    let two = Two::small();
    (0..5).for_each(|n| two.write(&format!("small {n}"), &noise(n, 200)));
    two.write("large", &noise(7, 400_000));
    two.save();
    let calls = {
        let faulty = FaultyStore::new(Arc::clone(&two.from.store), []);
        let from = Bench { store: faulty.clone(), ..two.from.clone() }.open().unwrap();
        SnapshotCopy::look(&from, &two.to.open().unwrap(), None).unwrap();
        faulty.calls()
    };
    for n in 1..8 {
        for prefix in ["pack/", "meta/"] {
            let faulty =
                FaultyStore::new(Arc::clone(&two.from.store), [Rule::nth(n, Fault::ErrorBefore).prefix(prefix).kind(CallKind::GetRange)]);
            let copied = two.copy_from(faulty.clone());
            if faulty.struck().is_empty() {
                continue;
            }
            if copied.is_ok() {
                assert_eq!(two.expect_equal("read elsewhere"), 1);
                return;
            }
            assert!(two.to.open().unwrap().snapshots().unwrap().is_empty(), "call {n} of {prefix} after {calls}");
        }
    }
    two.copy();
    assert_eq!(two.expect_equal("afterwards"), 1);
}

#[test]
fn every_store_call_there_may_fail_in_every_way() {
    let all = Two::small();
    for day in 0..2 {
        all.write("changes", &noise(day, 60_000));
        all.write(&format!("small {day}"), &noise(day + 9, 200));
        all.save();
    }
    let (from, start) = (all.from.open().unwrap(), all.there.contents());
    let run = |fault: Fault| {
        let prepare = |simulator: &Simulator| {
            simulator.clock().set(all.to.clock.now());
            start.iter().for_each(|(name, bytes)| _ = simulator.memory().overwrite(name, Some(bytes.clone())));
        };
        let bench = |simulator: &Simulator, store: Arc<dyn WriteStore>| Bench { store, clock: simulator.clock(), ..all.to.clone() };
        let copy = |to: &Bench, state: &Path| -> anyhow::Result<bool> {
            let options = SnapshotCopyOptions { state: Some(state.into()), ..all.options() };
            let mut is_whole = true;
            let copy = SnapshotCopy::look(&from, &to.open()?, None)?;
            copy.run(&to.store, &options, &Silent, &mut |one| is_whole &= !is_incomplete(&one.report.findings))?;
            Ok(is_whole)
        };
        let operation = |simulator: &Simulator| {
            let state = tempfile::tempdir().unwrap();
            (copy(&bench(simulator, simulator.store()), state.path()), state)
        };
        let calls = run_at_every_call(5, fault, prepare, operation, |simulator, outcome: Outcome<_>| {
            // In short runs some of the calls, others for each fault.
            if !is_long() && outcome.call > 0 && !(outcome.call + fault as u64).is_multiple_of(5) {
                return;
            }
            let was_struck = outcome.was_struck();
            let (result, state) = outcome.result;
            assert!(was_struck || result.is_ok_and(|is_whole| is_whole), "nothing was wrong");
            let to = bench(simulator, Arc::new(simulator.memory().clone()));
            let shown = expect_equal(&from, &to.open().unwrap(), "struck");
            assert!(shown <= 2 || !fault.keeps_contract(), "{shown} snapshots");
            assert!(copy(&to, state.path()).unwrap(), "the next run has nothing to tell");
            assert!(expect_equal(&from, &to.open().unwrap(), "run again") >= 2);
            let findings = check(&to.open().unwrap(), ReadData::All, &Silent).unwrap().findings;
            let harmful: Vec<_> = findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
            assert!(harmful.is_empty() || !fault.keeps_contract() || fault == Fault::TornWrite, "{harmful:?}");
        });
        assert!(calls > 20, "{calls} calls");
    };
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let run = &run;
            scope.spawn(move || Fault::ALL.into_iter().skip(worker).step_by(workers).for_each(run));
        }
    });
}

/// Rules see the dates of the originals, in whatever order they were copied.
#[test]
fn retention_sees_when_the_originals_were_taken() {
    let two = Two::small();
    let mut ids = Vec::new();
    for day in 0..5 {
        two.write("changes", &noise(day, 2000));
        two.from.clock.advance(Duration::from_secs(86_400));
        ids.push(two.save());
    }
    let (from, to) = (two.from.open().unwrap(), two.to.open().unwrap());
    for wanted in [&ids[3..], &ids[..]] {
        let wanted = wanted.iter().copied().collect();
        let copy = SnapshotCopy::look(&from, &to, Some(&wanted)).unwrap();
        copy.run(&two.to.store, &two.options(), &Silent, &mut |_| {}).unwrap();
    }
    two.expect_equal("out of order");
    let policy = Policy::parse("within:2d").unwrap();
    let kept = |repository: &Repository| -> Vec<_> {
        let candidates: Vec<_> = repository.snapshots().unwrap().iter().map(|snapshot| Candidate::of(snapshot).unwrap()).collect();
        let forgotten = forgotten_ids(&decide(&candidates, &policy, two.to.clock.now()));
        repository.snapshots().unwrap().iter().filter(|snapshot| !forgotten.contains(&snapshot.id)).map(Snapshot::started).collect()
    };
    let (here, there) = (kept(&two.from.open().unwrap()), kept(&two.to.open().unwrap()));
    assert!(here == there && here.len() < 5, "{here:?} {there:?}");
}

#[test]
fn the_program_copies_snapshots_into_a_repository_with_other_keys() {
    let shell = Shell::with_backup(&[("letter.txt", b"dear all"), ("large", &noise(1, 3_000_000))]);
    shell.ok(&["-r", "other", "init", "--new-key-file", "other-key", "--recovery-sheet", "other-sheet"]);
    fn copy<'a>(more: &[&'a str]) -> Vec<&'a str> {
        [&["copy"], more, &["--to", "other", "--to-key-file", "other-key"]].concat()
    }
    assert!(shell.ok(&copy(&["--snapshots", "--dry-run"])).starts_with("would copy"));
    let said = shell.ok(&copy(&["--snapshots", "--json"]));
    let records: Vec<serde_json::Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&records[0]["type"], &records[0]["files"]), (&"snapshot_copied".into(), &2.into()));
    assert_eq!((&records[1]["type"], &records[1]["copied"]), (&"copy_snapshots".into(), &1.into()));
    let other = |arguments: &[&str]| {
        let output = shell.run(&[&["-r", "other", "--key-file", "other-key"], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let listed: serde_json::Value = serde_json::from_str(other(&["snapshots", "--json"]).trim()).unwrap();
    assert_eq!((&listed["original"]["snapshot"], &listed["tags"][0]), (&records[0]["original"], &"first".into()));
    assert!(other(&["snapshots"]).contains("copy of"));
    assert!(other(&["report"]).contains("Copy of snapshot"));
    other(&["restore", "latest:/", "--to", "restored", "--verify"]);
    assert_eq!(look(&shell.path("source")).unwrap(), look(&super::cli::source_in(&shell, &shell.path("restored"))).unwrap());
    shell.ok(&["backup", "source", "--set", "more"]);
    assert!(shell.ok(&copy(&["--snapshots=latest"])).contains("copied 1 snapshots"));
    assert!(shell.ok(&copy(&["--snapshots"])).contains("2 were copied before"));
    shell.fails(&copy(&["--snapshots=ffffffffffff"]), 1, "no snapshot");
    shell.fails(&["copy", "--snapshots", "--to", "other", "--to-key-file", "key"], 4, "other");
    shell.fails(&["copy", "--snapshots", "--to", "other"], 2, "--to-key-file");
    shell.fails(&["copy", "--snapshots", "--to", "nowhere", "--to-key-file", "other-key"], 5, "init");
    shell.fails(&["copy", "--snapshots", "--to", "repository", "--to-key-file", "key"], 2, "into itself");
    shell.fails(&["copy", "--snapshots", "--to", "other", "--to", "third", "--to-key-file", "key"], 2, "one repository");
    shell.fails(&copy(&["--snapshots", "--verify"]), 2, "--verify");
    shell.fails(&["copy", "--to", "other", "--to-key-file", "other-key"], 2, "--snapshots");
    // Of a copy in another place it is known that it is the same.
    shell.ok(&["copy", "--to", "same"]);
    shell.fails(&["copy", "--snapshots", "--to", "same", "--to-key-file", "key"], 2, "both are repository");
}
