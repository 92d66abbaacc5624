//! Roles in use: a writer that saves and opens nothing, a maintainer that prunes and reads no content, devices that are stolen and revoked.

use std::sync::Arc;
use std::time::Duration;

use backup_writer::backup::{BackupError, BackupReport, backup};
use backup_writer::create::put_hashed;
use backup_writer::device::DeviceError;
use backup_writer::forget::{ForgetError, authorise, forget, look};
use backup_writer::keys::{Enrolment, KeysError, enrol, enrolled, revoke};
use backup_writer::prune::{Plan, PruneOptions};
use backup_writer::retention::{Policy, decide, forgotten_ids};
use fs_core::crypto::Key;
use fs_core::id::{ObjectHash, PackId, RunId, SnapshotId};
use fs_core::index::{Shard, ShardPack};
use fs_core::key::Role;
use fs_core::key::slot::Credential;
use fs_core::object::{self, ObjectKind, Signer};
use fs_core::observer::Silent;
use fs_core::pack::{decode_whole, pack_kind};
use fs_core::record::RecordKind;
use fs_core::report::Place as FindingPlace;
use fs_core::repository::{ReadError, Repository, RepositoryError};
use fs_core::snapshot::Manifest;
use fs_core::snapshot::codec::{Catalogue, Seal};
use fs_core::snapshot::mark::{GRACE_LEAST, Mark};
use fs_core::snapshot::tombstone::Tombstones;
use fs_core::time::{Clock as _, Zone};
use fs_core::view::{Links, Owner, View, ViewOptions};
use tests::{noise, options};

use super::prune::{DAY, HOUR, Place};

/// The same repository as a device sees it that has a key file of its own.
fn as_device(place: &Place, n: u8) -> Place {
    let mut other = place.clone();
    other.bench.credential = Credential::KeyFile(Key::from_bytes([n; 32]));
    other.state = Arc::new(tempfile::tempdir().unwrap());
    other
}

pub(crate) fn give(place: &Place, n: u8, role: Role, trusts_others: bool) -> Place {
    let enrolment = Enrolment { name: format!("device {n}"), role, trusts_others };
    enrol(&place.bench.open().unwrap(), &*place.bench.store, Key::from_bytes([n; 32]), &enrolment).unwrap();
    as_device(place, n)
}

/// Opened as the program does: with what this machine remembers.
fn open(place: &Place) -> Arc<Repository> {
    place.bench.open_like_the_program(Some(place.state.path())).unwrap()
}

fn save_as(place: &Place) -> Result<BackupReport, BackupError> {
    place.bench.clock.advance(HOUR);
    let folder = place.state.path().join("files");
    backup(&open(place), &place.bench.store, &options(place.source.path(), Some(&folder)), &Silent)
}

fn save(owner: &mut Place, device: &Place) -> BackupReport {
    let report = save_as(device).unwrap();
    owner.saved.insert(report.snapshot, owner.shown());
    report
}

/// Folders with small files, one file with lists, and names that come and go.
fn fill(place: &Place) {
    for folder in ["a", "a/b", "c"] {
        std::fs::create_dir_all(place.source.path().join(folder)).unwrap();
        for n in 0..20 {
            place.write(&format!("{folder}/file {n}"), &noise(n * 7 + folder.len() as u64, 700));
        }
    }
    place.write("large", &noise(99, 900_000));
}

fn put_named(place: &Place, object: Vec<u8>, name: impl FnOnce(&ObjectHash) -> fs_core::storage::ObjectName) -> ObjectHash {
    put_hashed(&*place.bench.store, object, name).unwrap()
}

#[test]
fn a_writer_saves_what_has_changed_and_says_so() {
    let mut owner = Place::new();
    let writer = give(&owner, 9, Role::Writer, false);
    fill(&owner);
    let first = save(&mut owner, &writer);
    assert_eq!((first.parent, first.stats.new_count, first.manifest.sequence), (None, 61, 1));
    owner.write("a/file 3", b"changed");
    owner.write("new", b"new");
    std::fs::remove_file(owner.source.path().join("c/file 5")).unwrap();
    owner.write("large", &[&noise(99, 900_000)[..], b"and more"].concat());
    let second = save(&mut owner, &writer);
    let counted = |report: &BackupReport| {
        let stats = &report.stats;
        (stats.new_count, stats.changed_count, stats.removed_count, stats.unchanged_count)
    };
    assert_eq!((second.parent, counted(&second)), (Some(first.snapshot), (1, 2, 1, 58)), "{:?}", second.findings);
    assert!(second.stats.new_bytes < 60_000 && second.stats.read_bytes < 1_000_000, "{:?}", second.stats);
    assert_eq!((second.manifest.sequence, second.manifest.previous), (2, Some(first.snapshot)));
    let third = save(&mut owner, &writer);
    assert_eq!((third.stats.new_bytes, third.stats.read_bytes, counted(&third)), (0, 0, (0, 0, 0, 61)));
    owner.expect_whole("saved by a writer");

    // What it would tell of a dry run is the same.
    std::fs::remove_file(owner.source.path().join("new")).unwrap();
    let how = options(owner.source.path(), Some(&writer.state.path().join("files")));
    let dry = backup_writer::backup::dry_run(&open(&writer), &how, &Silent).unwrap();
    assert_eq!((dry.stats.removed_count, dry.stats.unchanged_count), (1, 60));
}

/// Everything is read and compared, nothing is stored twice, and the numbers go on.
#[test]
fn a_writer_that_has_lost_its_memory_goes_on() {
    let mut owner = Place::new();
    let writer = give(&owner, 9, Role::Writer, false);
    fill(&owner);
    let first = save(&mut owner, &writer);
    let anew = as_device(&owner, 9);
    let second = save(&mut owner, &anew);
    assert_eq!((second.parent, second.manifest.sequence, second.manifest.previous), (None, 2, Some(first.snapshot)));
    assert!(second.stats.new_bytes < 10_000, "{:?}", second.stats);
    let third = save(&mut owner, &anew);
    assert_eq!((third.parent, third.stats.new_bytes, third.stats.unchanged_count), (Some(second.snapshot), 0, 61));
    // A damaged memory is as good as none.
    for file in std::fs::read_dir(anew.state.path().join(owner.bench.open().unwrap().id().to_string())).unwrap() {
        let path = file.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("past") {
            std::fs::write(path, noise(1, 5000)).unwrap();
        }
    }
    let fourth = save(&mut owner, &anew);
    assert_eq!((fourth.parent, fourth.manifest.sequence), (None, 4));
    owner.expect_whole("with and without memory");
}

/// After very many runs the memory is not larger than what the newest snapshot needs, twice.
#[test]
fn what_a_writer_remembers_does_not_grow_with_its_runs() {
    let mut owner = Place::new();
    let writer = give(&owner, 9, Role::Writer, false);
    for n in 0..400 {
        std::fs::create_dir(owner.source.path().join(format!("folder {n}"))).unwrap();
        owner.write(&format!("folder {n}/file"), &noise(n, 50));
    }
    let size = || {
        let folder = writer.state.path().join(owner.bench.open().unwrap().id().to_string());
        let connection = rusqlite::Connection::open(folder.join("past.db")).unwrap();
        let count = |table| connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0)).unwrap();
        (count("records"), count("manifests"), count("shards"))
    };
    save_as(&writer).unwrap();
    let (records, manifests, shards) = size();
    assert!(records > 400 && (manifests, shards) == (1, 1), "{records}");
    for round in 0..30 {
        for n in 0..100 {
            owner.write(&format!("folder {n}/file"), &noise(n + 1000 * round, 51));
        }
        save_as(&writer).unwrap();
    }
    let (after, manifests, shards) = size();
    assert!(after < records + 1200 && manifests == 1 && shards < 20, "{records} became {after}, {shards} shards");
    let last = save(&mut owner, &writer);
    assert_eq!((last.stats.unchanged_count, last.stats.new_bytes), (400, 0));
    owner.expect_whole("after many runs");
}

/// Every reading call and every raw object: what is in files and what they are called stays closed.
#[test]
fn nothing_opens_to_a_writer() {
    let mut owner = Place::new();
    let writer = give(&owner, 9, Role::Writer, false);
    fill(&owner);
    save(&mut owner, &writer);
    owner.backup();
    for n in 0..9 {
        owner.write("one more", &noise(n, 10));
        owner.backup();
    }
    assert!(owner.count("cat/") > 0, "there is a catalogue to try");
    // Also on its own machine, with what that remembers.
    for repository in [open(&writer), open(&as_device(&owner, 9)), writer.bench.open().unwrap()] {
        assert_eq!(repository.ring().role, Role::Writer);
        assert!(matches!(repository.all_snapshots(), Err(RepositoryError::NotAllowed { role: Role::Writer })));
        assert!(matches!(repository.snapshots(), Err(RepositoryError::NotAllowed { .. })));
        let options = ViewOptions { owner: Owner::AsSaved, links: Links::Raw, mounter: (0, 0), zone: Zone::utc() };
        assert!(View::new(Arc::clone(&repository), None, options).is_err());
        assert!(matches!(authorise(&repository, &*owner.bench.store, None, "x"), Err(ForgetError::NotAllowed)));
        let mut tried = 0;
        for (name, bytes) in owner.memory.contents() {
            let ring = repository.ring();
            let refused = match name.as_str().split('/').next().unwrap() {
                "snap" => Manifest::decode_object(&bytes, ring).is_err(),
                "cat" => Catalogue::decode_object(&bytes, ring).is_err(),
                "keys" => fs_core::key::slot::open(name.as_str()[5..].parse().unwrap(), &bytes, &writer.bench.credential)
                    .ok()
                    .flatten()
                    .is_none_or(|ring| ring.role == Role::Writer),
                "pack" | "meta" => closed_records(&repository, &name, &bytes),
                _ => continue,
            };
            assert!(refused, "{name}");
            tried += 1;
        }
        assert!(tried > 20, "{tried} objects");
    }
    // Nor does the past itself show to somebody who has the state folder without the key.
    let folder = writer.state.path().join(owner.bench.open().unwrap().id().to_string());
    for file in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(6).any(|part| part == b"file 3"), "a name in clear");
    }
}

/// Whether no record of a pack opens; there is at least one.
fn closed_records(repository: &Repository, name: &fs_core::storage::ObjectName, bytes: &[u8]) -> bool {
    let kind = if name.as_str().starts_with("pack") { ObjectKind::DataPack } else { ObjectKind::MetaPack };
    let id = object::parse_pack_name(kind, name).unwrap();
    let trailer = decode_whole(bytes, (kind, id, repository.id()), |epoch| repository.ring().structure(epoch)).unwrap();
    let references: Vec<_> = trailer.references(id).collect();
    assert!(!references.is_empty());
    references.iter().all(|(kind, _, reference)| {
        let read = repository.read_record(*kind, reference);
        assert_eq!(pack_kind(*kind) == ObjectKind::DataPack, *kind == RecordKind::Data);
        matches!(read, Err(ReadError::Key { .. }))
    })
}

/// What a writer stores it stores itself, unless it was enrolled to trust the others.
#[test]
fn a_writer_relies_on_its_own_only() {
    for trusts_others in [false, true] {
        let mut owner = Place::new();
        fill(&owner);
        owner.backup();
        let writer = give(&owner, 9, Role::Writer, trusts_others);
        let report = save(&mut owner, &writer);
        assert_eq!(report.stats.new_bytes < 10_000, trusts_others, "{:?}", report.stats);
        owner.expect_whole("saved beside others");
    }
}

/// A thief says in the index that a pack of his holds what the victim is about to save.
#[test]
fn who_claims_to_have_stored_something_keeps_no_writer_from_storing_it() {
    let mut owner = Place::new();
    fill(&owner);
    let (thief, victim) = (give(&owner, 8, Role::Writer, false), give(&owner, 9, Role::Writer, false));
    save_as(&thief).unwrap();
    // The thief saves garbage, and then tells lies of where it is.
    let repository = open(&thief);
    let (pack, mut bytes) = owner.named("pack/").pop().unwrap();
    let id = object::parse_pack_name(ObjectKind::DataPack, &pack).unwrap();
    let trailer = decode_whole(&bytes, (ObjectKind::DataPack, id, repository.id()), |epoch| repository.ring().structure(epoch)).unwrap();
    let size = bytes.len() as u64;
    let lies = PackId::from_bytes([0xab; 16]);
    let mut shard = Shard::default();
    shard.add_pack(ShardPack { id: lies, kind: ObjectKind::DataPack, size }, &trailer);
    shard.sort();
    bytes = noise(3, bytes.len()).into();
    owner.memory.overwrite(&object::pack_name(ObjectKind::DataPack, &lies), Some(bytes));
    backup_writer::packer::put_shard(&repository, &*owner.bench.store, &repository.ring().device_signer().unwrap(), &shard).unwrap();
    for (name, _) in owner.named("pack/").into_iter().filter(|(name, _)| *name == pack) {
        owner.memory.overwrite(&name, None);
    }
    save(&mut owner, &victim);
    owner.expect_readable(&owner.bench.open().unwrap(), "with lies in the index");
}

#[test]
fn a_maintainer_prunes_and_opens_no_content() {
    let mut owner = Place::with_days(6);
    let (maintainer, ids) = (give(&owner, 7, Role::Maintainer, false), owner.ids());
    let repository = open(&maintainer);
    assert_eq!((repository.ring().role, repository.snapshots().unwrap().len()), (Role::Maintainer, 6));
    let signer = authorise(&repository, &*owner.bench.store, None, "x").unwrap();
    forget(&repository, &*owner.bench.store, &signer, &ids[..4].iter().copied().collect(), "test").unwrap();
    let options = PruneOptions { delete_percent: 100, ..PruneOptions::default() };
    let prune = |owner: &Place| {
        let repository = open(&maintainer);
        let signer = authorise(&repository, &*owner.bench.store, None, "x").unwrap();
        Plan::make(&repository, &options, &Silent).unwrap().execute(&*owner.bench.store, &signer).unwrap()
    };
    let condemned = prune(&owner).condemned.count;
    owner.bench.clock.advance(8 * DAY);
    let swept = prune(&owner).swept.count;
    assert!(condemned > 0 && swept > 0, "{condemned} condemned, {swept} swept");
    owner.saved.retain(|id, _| ids[4..].contains(id));
    owner.expect_whole("pruned by a maintainer");
    let mut tried = 0;
    for (name, bytes) in owner.named("pack/") {
        assert!(closed_records(&repository, &name, &bytes), "{name}");
        tried += 1;
    }
    assert!(tried > 1);
    // Nor does it save anything.
    let refused = save_as(&maintainer).unwrap_err();
    assert!(matches!(refused, BackupError::Pack(_) | BackupError::Key(_) | BackupError::Device(_)), "{refused:?}");
}

/// Snapshots of a thief who has the key of a device, as many as he likes, dated as he likes, under the victim's names.
fn flood(place: &Place, thief: &Place, model: &SnapshotId, count: u64) {
    let model = place.bench.open().unwrap().snapshots().unwrap().into_iter().find(|s| s.id == *model).unwrap().manifest().unwrap();
    let repository = open(thief);
    let signer = repository.ring().device_signer().unwrap();
    for n in 0..count {
        let mut manifest = Manifest { device: signer.device, sequence: 1000 + n, ..model.clone() };
        (manifest.started, manifest.ended) = match n % 3 {
            0 => (place.bench.clock.now(), place.bench.clock.now()),
            1 => (model.started.saturating_add(DAY * 4000), model.ended.saturating_add(DAY * 4000)),
            _ => (model.started.saturating_add(Duration::from_secs(n)), model.ended.saturating_add(Duration::from_secs(n))),
        };
        let name = |kind| move |hash: &ObjectHash| object::sequence_name(kind, &signer.device, 1000 + n, hash);
        let object = manifest.encode_object(repository.ring(), &signer, &*place.bench.random).unwrap();
        let manifest = put_named(place, object, name(ObjectKind::Manifest)).into();
        let seal = Seal { device: signer.device, sequence: 1000 + n, manifest, time: place.bench.clock.now() };
        put_named(place, seal.encode_object(repository.ring(), &signer, &*place.bench.random), name(ObjectKind::Seal));
    }
}

/// All that a thief can sign: tombstones and marks for everything, and a flood.
fn rob(place: &Place, thief: &Place, snapshots: &[SnapshotId]) {
    let repository = open(thief);
    let (signer, now) = (repository.ring().device_signer().unwrap(), place.bench.clock.now());
    let run = RunId::from_bytes([0xcc; 16]);
    let mut forgotten = snapshots.to_vec();
    forgotten.sort_unstable();
    let said =
        Tombstones { run, device: signer.device, time: now, server_time: Some(now), why: "mine".into(), forgotten, undone: Vec::new() };
    let object = said.encode_object(repository.ring(), &signer, &*place.bench.random);
    put_named(place, object, |hash| object::run_name(ObjectKind::Tombstones, &run, hash));
    let packs = |prefix, kind| place.named(prefix).into_iter().filter_map(move |(name, _)| object::parse_pack_name(kind, &name));
    let mut packs: Vec<_> = packs("pack/", ObjectKind::DataPack).chain(packs("meta/", ObjectKind::MetaPack)).collect();
    packs.sort_unstable();
    let mark = Mark { run, device: signer.device, time: now, server_time: Some(now), grace: GRACE_LEAST, packs, snapshots: Vec::new() };
    let object = mark.encode_object(repository.ring(), &signer, &*place.bench.random);
    put_named(place, object, |hash| object::run_name(ObjectKind::Mark, &run, hash));
    flood(place, thief, &snapshots[0], 120);
}

#[test]
fn a_stolen_writer_takes_nothing_from_anybody() {
    let mut owner = Place::with_days(3);
    let (thief, victim) = (give(&owner, 8, Role::Writer, false), give(&owner, 9, Role::Writer, false));
    let maintainer = give(&owner, 7, Role::Maintainer, false);
    for n in 0..3 {
        owner.write("changes", &noise(700 + n, 200_000));
        for device in [&thief, &victim] {
            save(&mut owner, device);
        }
    }
    let before = owner.ids();
    assert_eq!(before.len(), 9);
    rob(&owner, &thief, &before);
    for round in 0..4 {
        let repository = open(&maintainer);
        let listed = repository.all_snapshots().unwrap();
        assert!(before.iter().all(|id| listed.live.iter().any(|snapshot| snapshot.id == *id)), "round {round}");
        let signer = authorise(&repository, &*owner.bench.store, None, "x").unwrap();
        let looked = look(&repository).unwrap();
        let gone = forgotten_ids(&decide(&looked.candidates, &Policy::parse("28+monthly").unwrap(), looked.now));
        assert!(before.iter().all(|id| !gone.contains(id)), "round {round}: the rules let nothing of it go");
        if !gone.is_empty() {
            forget(&repository, &*owner.bench.store, &signer, &gone, "rules").unwrap();
        }
        let options = PruneOptions { delete_percent: 100, ..PruneOptions::default() };
        Plan::make(&open(&maintainer), &options, &Silent).unwrap().execute(&*owner.bench.store, &signer).unwrap();
        owner.expect_readable(&owner.bench.open().unwrap(), "robbed");
        owner.bench.clock.advance(5 * DAY);
    }
}

#[test]
fn what_a_revoked_device_signs_counts_no_more_and_what_it_saved_stays() {
    let mut owner = Place::new();
    fill(&owner);
    let (stolen, other) = (give(&owner, 8, Role::Writer, false), give(&owner, 9, Role::Writer, false));
    for device in [&stolen, &other, &stolen] {
        owner.write("changes", &noise(owner.count("snap/") as u64, 100_000));
        save(&mut owner, device);
    }
    let before = owner.ids();
    let of_owner = |owner: &Place| enrolled(&owner.bench.open().unwrap(), "device 8").unwrap();
    let certificate = of_owner(&owner).pop().unwrap();
    let refused = revoke(&open(&other), &*owner.bench.store, &certificate);
    assert!(matches!(refused, Err(KeysError::NotAllowed(_))));
    // A machine that remembers, and the drive of one that does not.
    let remembers = tempfile::tempdir().unwrap();
    owner.bench.open_like_the_program(Some(remembers.path())).unwrap().all_snapshots().unwrap();
    revoke(&owner.bench.open().unwrap(), &*owner.bench.store, &certificate).unwrap();
    assert_eq!(of_owner(&owner), []);

    let refused = save_as(&stolen).unwrap_err();
    assert!(matches!(refused, BackupError::Device(DeviceError::Revoked { .. })), "{refused}");
    flood(&owner, &stolen, &before[0], 3);
    for state in [None, Some(remembers.path())] {
        let listed = owner.bench.open_like_the_program(state).unwrap().all_snapshots().unwrap();
        let live: Vec<_> = listed.live.iter().map(|snapshot| (snapshot.id, snapshot.sealed)).collect();
        assert_eq!(live, before.iter().map(|id| (*id, true)).collect::<Vec<_>>());
        let is_told = |finding: &&fs_core::report::Finding| {
            matches!(&finding.place, FindingPlace::Object(name) if name.starts_with("snap/")) && finding.message.contains("revoked")
        };
        assert_eq!(listed.findings.iter().filter(is_told).count(), 3, "{:?}", listed.findings);
    }
    // Everybody else goes on, and nothing that the device saved is lost.
    owner.write("changes", &noise(50, 100_000));
    save(&mut owner, &other);
    owner.backup();
    owner.expect_readable(&owner.bench.open().unwrap(), "revoked");
    owner.bench.clock.advance(40 * DAY);
    owner.prune();
    owner.bench.clock.advance(8 * DAY);
    owner.prune();
    owner.expect_readable(&owner.bench.open().unwrap(), "revoked, and pruned twice");
}

/// A maintainer's tombstones from before count, later ones do not.
#[test]
fn a_revoked_maintainer_forgets_nothing_more() {
    let owner = Place::with_days(4);
    let (maintainer, ids) = (give(&owner, 7, Role::Maintainer, false), owner.ids());
    let repository = open(&maintainer);
    let signer: Signer = authorise(&repository, &*owner.bench.store, None, "x").unwrap();
    let forget_one = |n: usize| forget(&repository, &*owner.bench.store, &signer, &[ids[n]].into(), "test").unwrap();
    forget_one(0);
    let certificate = enrolled(&owner.bench.open().unwrap(), "device 7").unwrap().pop().unwrap();
    revoke(&owner.bench.open().unwrap(), &*owner.bench.store, &certificate).unwrap();
    forget_one(1);
    let listed = owner.bench.open().unwrap().all_snapshots().unwrap();
    let forgotten: Vec<_> = listed.forgotten.iter().map(|forgotten| forgotten.snapshot.id).collect();
    assert_eq!((forgotten, listed.live.len()), (vec![ids[0]], 3));
    let refused = authorise(&open(&maintainer), &*owner.bench.store, None, "x");
    assert!(matches!(refused, Err(ForgetError::Device(DeviceError::Revoked { .. }))));
}

#[test]
fn only_an_owner_enrols() {
    let owner = Place::new();
    for (n, role) in [(7, Role::Maintainer), (8, Role::Reader), (9, Role::Writer)] {
        let device = give(&owner, n, role, false);
        let enrolment = Enrolment { name: "x".into(), role: Role::Writer, trusts_others: true };
        let before = owner.memory.contents().len();
        let refused = enrol(&open(&device), &*owner.bench.store, Key::from_bytes([5; 32]), &enrolment);
        assert!(matches!(refused, Err(KeysError::NotAllowed(_))), "{role:?}");
        assert_eq!(owner.memory.contents().len(), before, "nothing was put");
    }
}

/// A reader opens everything, and puts nothing.
#[test]
fn a_reader_reads() {
    let mut owner = Place::with_days(2);
    let reader = give(&owner, 8, Role::Reader, false);
    owner.backup();
    owner.expect_readable(&open(&reader), "with a reader's key");
    let refused = save_as(&reader).unwrap_err();
    assert!(matches!(refused, BackupError::Device(_)), "{refused:?}");
    assert!(matches!(authorise(&open(&reader), &*owner.bench.store, None, "x"), Err(ForgetError::NotAllowed)));
}
