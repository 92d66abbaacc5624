//! Damage at rest, swept over every object of a small repository that has all kinds of them: each is noticed and named, with and without a key, costs only what refers to it,
//! and nothing wrong is ever read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use backup_writer::backup::{BackupOptions, backup};
use backup_writer::check::{CheckReport, ReadData, check};
use backup_writer::create::{NewKey, add_key, put_hashed};
use backup_writer::device;
use backup_writer::forget::{forget, undo};
use backup_writer::packer::read_trailer;
use backup_writer::scrub::scrub;
use backup_writer::what::for_each_entry;
use bytes::Bytes;
use fs_core::config::{ChunkSizes, encode_config};
use fs_core::crypto::Key;
use fs_core::id::{PackId, RunId, SnapshotId};
use fs_core::key::slot::{Credential, PasswordCost};
use fs_core::object::{self, Header, ObjectKind};
use fs_core::observer::Silent;
use fs_core::report::{Finding, Place};
use fs_core::repository::{ReadError, Repository};
use fs_core::snapshot::Manifest;
use fs_core::snapshot::codec::{Catalogue, CatalogueRow, Seal};
use fs_core::snapshot::mark::{GRACE_LEAST, Mark};
use fs_core::snapshot::tombstone::Tombstones;
use fs_core::storage::memory::MemoryStore;
use fs_core::storage::{ObjectName, ReadStore as _};
use fs_core::tree::{Content, Entry, EntryKind};
use fs_core::view::View;
use fs_core::view::attr::Attr;
use rustix::fs::XattrFlags;
use tests::{Bench, noise, options};
use zeroize::Zeroizing;

use super::mount::view_of;

static RECOVERY: LazyLock<Key> = LazyLock::new(|| Key::from_bytes([1; 32]));

/// Contents by snapshot and path in it.
type Contents = BTreeMap<SnapshotId, BTreeMap<Vec<Vec<u8>>, Vec<u8>>>;

/// A small repository with every kind of object and record, at least two of each kind of object; two snapshots that share nothing.
struct Sample {
    memory: MemoryStore,
    bench: Bench,
    expected: Contents,
    /// Objects without which a snapshot cannot be read in full.
    needs: BTreeMap<SnapshotId, BTreeSet<ObjectName>>,
    /// Where in which object something begins or ends.
    borders: BTreeMap<ObjectName, Vec<usize>>,
}

fn sample() -> Sample {
    let memory = MemoryStore::new();
    let bench = Bench::new(Arc::new(memory.clone())).unwrap();
    add_keys_and_configuration(&bench);
    let place = tempfile::tempdir().unwrap();
    for (n, name) in [(1, "one"), (2, "two")] {
        let source = place.path().join(name);
        write_source(&source, n);
        let state = place.path().join(format!("state of {name}"));
        let how = BackupOptions { never: vec![source.join("never")], ..options(&source, Some(&state)) };
        let how = BackupOptions { set: Some(name.into()), ..how };
        bench.clock.advance(std::time::Duration::from_secs(60));
        let report = backup(&bench.open().unwrap(), &bench.store, &how, &Silent).unwrap();
        assert_eq!(report.findings.len(), 1, "something was left out, and the list of findings says so");
        roll_up_and_forget(&bench, &memory, &state, report.snapshot);
    }
    let repository = bench.open().unwrap();
    let (expected, needs, borders) =
        (read_all(&view_of(Arc::clone(&repository), None)), needs(&repository, &memory), borders(&repository, &memory));
    assert!(
        expected.len() == 2 && expected.values().all(|files| files.len() == 6),
        "{:?}",
        expected.values().map(BTreeMap::len).collect::<Vec<_>>()
    );
    for (snapshot, files) in &expected {
        for (path, bytes) in files {
            let source =
                Path::new("/").join(path.iter().map(|name| String::from_utf8(name.clone()).unwrap()).collect::<Vec<_>>().join("/"));
            assert_eq!(&std::fs::read(&source).unwrap(), bytes, "{snapshot} {}", source.display());
        }
    }
    Sample { memory, bench, expected, needs, borders }
}

/// Several slots, and a second configuration with tiny chunks, so that a small file needs a list.
fn add_keys_and_configuration(bench: &Bench) {
    let repository = bench.open().unwrap();
    let (ring, random) = (repository.ring(), &*bench.random);
    for credential in [Credential::Recovery(RECOVERY.clone()), Credential::Password(Zeroizing::new("a long password".into()))] {
        let key = NewKey { credential, label: "another".into(), cost: PasswordCost::LEAST };
        add_key(&*bench.store, ring, &key, &(Arc::clone(&bench.clock) as _), &bench.random).unwrap();
    }
    let mut config = repository.config().clone();
    (config.generation, config.chunks) = (2, ChunkSizes { min: 1024, mean: 1026, max: 2048, small: 1024 });
    let header = Header::new(ObjectKind::Config, ring.epoch(), ring.repository, random);
    let object = encode_config(&config, &header, &ring.current().structure, &ring.root_signer().unwrap());
    put_hashed(&*bench.store, object, |hash| object::config_name(2, hash)).unwrap();
}

fn write_source(source: &Path, n: u64) {
    std::fs::create_dir_all(source.join("never")).unwrap();
    std::fs::create_dir(source.join("sub")).unwrap();
    std::fs::write(source.join("file"), format!("content {n} ").repeat(40)).unwrap();
    std::fs::write(source.join("other"), format!("other content {n} ").repeat(9)).unwrap();
    std::fs::write(source.join("sub/list"), [u8::try_from(n).unwrap(); 80_000]).unwrap();
    std::fs::write(source.join("sub/some"), noise(n, 3000)).unwrap();
    std::fs::write(source.join("empty"), "").unwrap();
    std::fs::hard_link(source.join("file"), source.join("link")).unwrap();
    rustix::fs::lsetxattr(source.join("file"), "user.long", &noise(5 + n, 300), XattrFlags::empty()).unwrap();
}

/// A catalogue, tombstones and a mark: the snapshot is forgotten and brought back.
fn roll_up_and_forget(bench: &Bench, memory: &MemoryStore, state: &Path, snapshot: SnapshotId) {
    let repository = bench.open().unwrap();
    let of = |prefix: &str| {
        memory.contents().into_iter().filter(move |(name, _)| name.as_str().starts_with(prefix)).map(|(_, bytes)| bytes).collect::<Vec<_>>()
    };
    let manifest = of("snap/").into_iter().find(|bytes| SnapshotId::from(object::object_hash(bytes)) == snapshot).unwrap();
    let (_, header, signed) = Manifest::decode_object(&manifest, repository.ring()).unwrap();
    let is_its = |bytes: &Bytes| {
        let (seal, ..) = Seal::decode_object(bytes, repository.id(), |epoch| repository.ring().structure(epoch)).unwrap();
        seal.manifest == snapshot
    };
    let seal = of("seal/").into_iter().find(is_its).map(|seal| object::object_hash(&seal));
    let row = CatalogueRow { manifest: snapshot, header: header.encode(), signed, seal };
    let catalogue = Catalogue { rows: vec![row], superseded: Vec::new() };
    let signer = device::open(&repository, &*bench.store, Some(state), "host").unwrap();
    let object = catalogue.encode_object(repository.ring(), &signer, &*bench.random).unwrap();
    put_hashed(&*bench.store, object, |hash| object::hashed_name(ObjectKind::Catalogue, hash)).unwrap();
    forget(&repository, &*bench.store, &signer, &[snapshot].into(), "test").unwrap();
    undo(&repository, &*bench.store, &signer, &repository.all_snapshots().unwrap().forgotten).unwrap();
    // A mark of a pack that is gone.
    let (run, time) = (RunId::from_bytes(*snapshot.as_bytes().first_chunk().unwrap()), repository.clock().now());
    let packs = vec![PackId::from_bytes([1; 16])];
    let mark = Mark { run, device: signer.device, time, server_time: None, grace: GRACE_LEAST, packs, snapshots: Vec::new() };
    let object = mark.encode_object(repository.ring(), &signer, &*bench.random);
    put_hashed(&*bench.store, object, |hash| object::run_name(ObjectKind::Mark, &run, hash)).unwrap();
}

/// Every file of every snapshot that reads without an error, through the view.
fn read_all(view: &Arc<View>) -> Contents {
    let mut all = Contents::new();
    let Ok(snapshots) = view.repository().snapshots() else { return all };
    for snapshot in snapshots {
        let Some(root) = view.root_of(&snapshot.id) else { continue };
        let (files, mut open) = (all.entry(snapshot.id).or_default(), vec![(Vec::new(), root)]);
        while let Some((path, directory)) = open.pop() {
            let lines = list(view, directory);
            for (name, attr) in lines.into_iter().filter(|(name, _)| name != b"." && name != b"..") {
                let below = [&path[..], &[name]].concat();
                match attr.kind {
                    EntryKind::Directory => open.push((below, attr.inode)),
                    EntryKind::File => {
                        let bytes = view.wait(|view, held| view.read(held, attr.inode, 0, attr.size));
                        bytes.into_iter().for_each(|bytes| drop(files.insert(below.clone(), bytes.to_vec())));
                    }
                    _ => {}
                }
            }
        }
    }
    all
}

/// The lines of a directory, as far as they can be read.
fn list(view: &View, directory: u64) -> Vec<(Vec<u8>, Attr)> {
    let (mut lines, mut next) = (Vec::new(), 0);
    loop {
        let before = next;
        let listed = view.wait(|view, held| {
            view.readdir(held, directory, before, &mut |line| {
                next = line.next;
                lines.push((line.name, line.attr));
                true
            })
        });
        if listed.is_err() || next == before {
            return lines;
        }
    }
}

/// Packs, manifest, seal and certificate of each snapshot, and what brought it back after it was forgotten.
fn needs(repository: &Arc<Repository>, memory: &MemoryStore) -> BTreeMap<SnapshotId, BTreeSet<ObjectName>> {
    let mut all = BTreeMap::new();
    for snapshot in repository.snapshots().unwrap() {
        let manifest = snapshot.manifest().unwrap();
        let mut packs = BTreeSet::new();
        manifest.link_table.iter().for_each(|(_, reference)| packs.extend([reference.pack]));
        let mut open: Vec<Entry> = vec![manifest.root];
        while let Some(entry) = open.pop() {
            packs.extend(entry.content.references().iter().map(|reference| reference.pack));
            if let Content::List { reference, .. } = &entry.content {
                packs.extend(repository.list(reference).unwrap().rows.iter().map(|row| row.reference.pack));
            }
            packs.extend(entry.subtree.iter().filter_map(|subtree| Some(subtree.page?.pack)));
            for_each_entry::<ReadError>(repository, &entry, |below| {
                open.push(below.clone());
                Ok(())
            })
            .unwrap();
        }
        let (device, ids) = (snapshot.device().to_string(), packs.iter().map(ToString::to_string).collect::<Vec<_>>());
        let is_needed = |name: &ObjectName| {
            let own = ["snap/", "seal/", "dev/"].iter().any(|prefix| name.as_str().starts_with(&format!("{prefix}{device}")));
            own || brings_back(repository, memory, name, &snapshot.id) || ids.iter().any(|id| name.as_str().ends_with(id))
        };
        all.insert(snapshot.id, memory.contents().into_iter().map(|(name, _)| name).filter(is_needed).collect());
    }
    all
}

fn brings_back(repository: &Repository, memory: &MemoryStore, name: &ObjectName, snapshot: &SnapshotId) -> bool {
    if object_kind(name) != ObjectKind::Tombstones {
        return false;
    }
    let bytes = memory.contents().into_iter().find(|(known, _)| known == name).unwrap().1;
    let (tombstones, ..) = Tombstones::decode_object(&bytes, repository.id(), |epoch| repository.ring().structure(epoch)).unwrap();
    tombstones.undone.iter().any(|(_, undone)| undone == snapshot)
}

/// Ends of headers, records, padding, trailers, tails and hashes, with the bytes before them.
fn borders(repository: &Repository, memory: &MemoryStore) -> BTreeMap<ObjectName, Vec<usize>> {
    let mut all = BTreeMap::new();
    for (name, bytes) in memory.contents() {
        let mut at: Vec<usize> = vec![0, 8, 9, 10, 12, 14, 16, 32, 48, 80];
        let tails = [0, 16, 32, 48, 64, 1024, 1088];
        at.extend(tails.iter().filter_map(|tail| bytes.len().checked_sub(*tail)));
        match object_kind(&name) {
            ObjectKind::Slot => at.extend([50, 52, 64, 96, 128, 140, 396, 4064]),
            kind @ (ObjectKind::DataPack | ObjectKind::MetaPack) => {
                let id = object::parse_pack_name(kind, &name).unwrap();
                let trailer = read_trailer(repository, id, kind, bytes.len() as u64).unwrap();
                at.extend(trailer.records.iter().flat_map(|record| {
                    let start = record.offset as usize;
                    [start, start + 24, start + record.stored_len as usize]
                }));
            }
            _ => {}
        }
        let around: BTreeSet<_> = at.iter().flat_map(|at| [at.saturating_sub(1), *at]).filter(|at| *at < bytes.len()).collect();
        all.insert(name, around.into_iter().collect());
    }
    all
}

fn object_kind(name: &ObjectName) -> ObjectKind {
    ObjectKind::ALL.into_iter().find(|(_, _, prefix)| name.as_str().starts_with(prefix)).unwrap().1
}

/// What is done to a store.
#[derive(Clone, Debug)]
enum Damage {
    Flip { name: ObjectName, at: usize, mask: u8 },
    Cut { name: ObjectName, length: usize },
    Gone { name: ObjectName },
    Swap { name: ObjectName, other: ObjectName },
    Replay { name: ObjectName, under: ObjectName },
}

impl Damage {
    fn apply(&self, store: &MemoryStore) {
        let read = |name: &ObjectName| store.contents().into_iter().find(|(known, _)| known == name).unwrap().1;
        match self {
            Self::Flip { name, at, mask } => {
                let mut bytes = read(name).to_vec();
                bytes[*at] ^= mask;
                store.overwrite(name, Some(bytes.into()));
            }
            Self::Cut { name, length } => drop(store.overwrite(name, Some(read(name).slice(..*length)))),
            Self::Gone { name } => drop(store.overwrite(name, None)),
            Self::Swap { name, other } => {
                let (one, two) = (read(name), read(other));
                store.overwrite(name, Some(two));
                store.overwrite(other, Some(one));
            }
            Self::Replay { name, under } => drop(store.overwrite(under, Some(read(name)))),
        }
    }

    /// Objects that are not what they were.
    fn hit(&self) -> Vec<&ObjectName> {
        match self {
            Self::Flip { name, .. } | Self::Cut { name, .. } | Self::Gone { name } => vec![name],
            Self::Swap { name, other } => vec![name, other],
            // Beside those that were there.
            Self::Replay { under, .. } => vec![under],
        }
    }
}

fn is_named(name: &ObjectName, findings: &[Finding]) -> bool {
    findings.iter().any(|finding| {
        matches!(&finding.place, Place::Object(object) if object == name.as_str()) || finding.message.contains(name.as_str())
    })
}

/// One damage: noticed and named by `check` and, where that is possible without a key, by `scrub`; snapshots that do not need the object are whole; nothing wrong is read.
fn suffer(sample: &Sample, damage: &Damage) {
    let store = sample.memory.fork();
    damage.apply(&store);
    let scrubbed = scrub(&store, &[], &Silent).unwrap();
    let bench = Bench { store: Arc::new(store), ..sample.bench.clone() };
    let repository = bench.open().or_else(|_| {
        // The slot of this key is hit: another key opens it, and sees.
        let other = Bench { credential: Credential::Recovery(RECOVERY.clone()), ..bench.clone() };
        other.open()
    });
    let repository = match repository {
        Ok(repository) => repository,
        // Both keys are hit, or both configurations: that is said.
        Err(error) => {
            let is_both = matches!(damage, Damage::Swap { name, .. } if matches!(object_kind(name), ObjectKind::Config | ObjectKind::Slot));
            let text = format!("{error:#}");
            assert!(is_both && damage.hit().iter().any(|name| text.contains(name.as_str())), "{damage:?}: neither key opens it: {text}");
            return;
        }
    };
    let report = check(&repository, ReadData::All, &Silent).unwrap_or_else(|error| panic!("{damage:?}: {error}"));
    match damage {
        Damage::Gone { name } => assert!(is_missed(name, &report), "{damage:?}: {:?}", report.findings),
        _ => {
            for name in damage.hit() {
                assert!(is_named(name, &report.findings), "check does not name {name} for {damage:?}: {:?}", report.findings);
                let provable = object_kind(name) != ObjectKind::Session || matches!(damage, Damage::Swap { .. } | Damage::Replay { .. });
                let in_header =
                    matches!(damage, Damage::Flip { at, .. } if *at < 8) || matches!(damage, Damage::Cut { length, .. } if *length < 48);
                assert!(!(provable || in_header) || is_named(name, &scrubbed.findings), "scrub does not name {name} for {damage:?}");
            }
        }
    }
    let hit: BTreeSet<_> = damage.hit().into_iter().cloned().collect();
    let read = read_all(&view_of(repository, None));
    for (snapshot, files) in &read {
        let expected = sample.expected.get(snapshot).unwrap_or_else(|| panic!("{damage:?}: there is no snapshot {snapshot}"));
        for (path, bytes) in files {
            assert!(expected.get(path) == Some(bytes), "{damage:?}: wrong bytes were read");
        }
    }
    for (snapshot, needed) in &sample.needs {
        if needed.is_disjoint(&hit) {
            assert!(
                read.get(snapshot) == sample.expected.get(snapshot),
                "{damage:?}: snapshot {snapshot}, which does not need it, suffers"
            );
        }
    }
}

/// Whether a lost object is missed. Some are not, because nothing needs them: what they say stands elsewhere too.
fn is_missed(name: &ObjectName, report: &CheckReport) -> bool {
    match object_kind(name) {
        ObjectKind::DataPack | ObjectKind::MetaPack => is_named(name, &report.findings),
        // Its devices' manifests are nobody's; a seal lacks its manifest; a snapshot lacks its seal.
        ObjectKind::Device | ObjectKind::Manifest | ObjectKind::Seal => !report.findings.is_empty(),
        ObjectKind::Shard => report.unindexed_count > 0,
        ObjectKind::Config | ObjectKind::Slot | ObjectKind::Session | ObjectKind::Catalogue | ObjectKind::Tombstones | ObjectKind::Mark => {
            true
        }
    }
}

/// Another name that an object of the kind could have.
fn another_name(name: &ObjectName) -> ObjectName {
    let text = name.as_str();
    // The first digit of the id or number before the hash; where there is only one part, of that.
    let start = text.find('/').unwrap() + 1;
    let start = if text[start..].contains('/') { start + text[start..].find('/').unwrap() + 1 } else { start };
    let is_pack = text.starts_with("pack/") || text.starts_with("meta/");
    let at = if is_pack { text.len() - 1 } else { start };
    let digit = if &text[at..=at] == "7" { "8" } else { "7" };
    ObjectName::new(format!("{}{digit}{}", &text[..at], &text[at + 1..]))
}

fn suffer_all(sample: &Sample, damages: &[Damage]) {
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for worker in 0..workers {
            scope.spawn(move || damages.iter().skip(worker).step_by(workers).for_each(|damage| suffer(sample, damage)));
        }
    });
}

/// Which tenth of the bytes: another one each time, or the one that is asked for.
fn rotation() -> usize {
    #[expect(clippy::disallowed_methods, reason = "the seed is printed, so that a failure can be repeated")]
    let seed = std::env::var("YESTERDRIVE_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as usize);
    seed % 10
}

/// Flips bytes of every object in turn, all of them in the long form, else a tenth and those at all borders.
#[test]
fn every_flipped_byte_is_detected() {
    let sample = sample();
    for (_, kind, prefix) in ObjectKind::ALL {
        assert!(sample.memory.contents().iter().filter(|(name, _)| name.as_str().starts_with(prefix)).count() >= 2, "{kind:?}");
    }
    let clean = check(&sample.bench.open().unwrap(), ReadData::All, &Silent).unwrap();
    assert!(clean.findings.is_empty() && clean.unindexed_count == 0, "{clean:?}");
    let scrubbed = scrub(&sample.memory, &[], &Silent).unwrap();
    assert!(scrubbed.findings.is_empty() && scrubbed.unproven_count == 2, "{scrubbed:?}");
    #[expect(clippy::disallowed_methods, reason = "tests/run says so")]
    let is_long = std::env::var_os("YESTERDRIVE_TEST_LONG").is_some();
    let tenth = rotation();
    let mut damages = Vec::new();
    for (name, bytes) in sample.memory.contents() {
        for at in (0..bytes.len()).filter(|at| is_long || at % 10 == tenth) {
            damages.push(Damage::Flip { name: name.clone(), at, mask: 1 << (at % 8) });
        }
        for at in &sample.borders[&name] {
            damages.extend([1, 0x80, 0xff].map(|mask| Damage::Flip { name: name.clone(), at: *at, mask }));
        }
    }
    println!("YESTERDRIVE_TEST_SEED={tenth}: {} flips", damages.len());
    suffer_all(&sample, &damages);
}

#[test]
fn what_is_cut_lost_swapped_or_replayed_is_detected() {
    let sample = sample();
    let objects = sample.memory.contents();
    let mut damages = Vec::new();
    for (name, bytes) in &objects {
        let some = [0, 1, 47, 48, 49, bytes.len() / 2, bytes.len() - 33, bytes.len() - 1];
        let lengths: BTreeSet<_> = sample.borders[name].iter().copied().chain(some).filter(|length| *length < bytes.len()).collect();
        damages.extend(lengths.into_iter().map(|length| Damage::Cut { name: name.clone(), length }));
        damages.push(Damage::Gone { name: name.clone() });
        damages.push(Damage::Replay { name: name.clone(), under: another_name(name) });
        let others = objects.iter().map(|(other, _)| other).filter(|other| *other > name && object_kind(other) == object_kind(name));
        damages.extend(others.map(|other| Damage::Swap { name: name.clone(), other: other.clone() }));
    }
    println!("{} damages", damages.len());
    suffer_all(&sample, &damages);
}

/// A scrub tells which repository most objects belong to, and which do not.
#[test]
fn objects_of_another_repository_are_misplaced() {
    let sample = sample();
    let other = MemoryStore::new();
    let random = fs_core::testing::SeededRandom::shared(99);
    let bench = Bench { random, ..sample.bench.clone() };
    let key = NewKey { credential: bench.credential.clone(), label: "test".into(), cost: PasswordCost::LEAST };
    backup_writer::create::create(&other, &[key], &(Arc::clone(&bench.clock) as _), &bench.random).unwrap();
    let store = sample.memory.fork();
    let foreign: Vec<_> = other.contents().into_iter().collect();
    foreign.iter().for_each(|(name, bytes)| drop(store.overwrite(name, Some(bytes.clone()))));
    let report = scrub(&store, &[], &Silent).unwrap();
    assert_eq!(report.repository, Some(sample.bench.open().unwrap().id()));
    assert_eq!(report.damaged_count as usize, foreign.len());
    assert!(foreign.iter().all(|(name, _)| is_named(name, &report.findings)));
    assert!(report.findings.iter().all(|finding| finding.message.contains("belongs to repository")), "{:?}", report.findings);
    assert_eq!(store.location(), sample.memory.location());
}
