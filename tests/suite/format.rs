//! The format as written down: vectors of every construction, and a repository that every later version must open.
//!
//! `tests/data/vectors.json` is compared with what this version computes; a difference is a change of the format and begins in docs/FORMAT.md.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backup_writer::check::{ReadData, check};
use backup_writer::forget::{authorise, forget, undo};
use backup_writer::restore::{RestoreOptions, restore};
use fs_core::chunker::{Chunker, Cut};
use fs_core::compress::Codec;
use fs_core::config::Config;
use fs_core::crypto::{self, HpkeContext, Key, Pair, RandomSource};
use fs_core::id::{DeviceId, KeyId, ObjectHash, PackId, RecordId, RepositoryId, RunId, SessionId, SnapshotId, to_hex};
use fs_core::key::slot::{Credential, PasswordCost, SlotLabel, encode};
use fs_core::key::words::recovery_words;
use fs_core::key::{EpochKeys, KeyRing, Role};
use fs_core::object::{Header, ObjectKind, Signer, seal_section};
use fs_core::observer::Silent;
use fs_core::pack::{PackBuilder, PackSession};
use fs_core::path::TreePath;
use fs_core::record::{RecordFacts, RecordKey, RecordKind, SessionKeyRef, record_id};
use fs_core::repository::{OpenOptions, Repository};
use fs_core::snapshot::mark::Mark;
use fs_core::snapshot::tombstone::Tombstones;
use fs_core::storage::WriteStore;
use fs_core::storage::local::LocalStore;
use fs_core::testing::SeededRandom;
use fs_core::time::Timestamp;
use fs_core::tree::codec::{decode_links, encode_links};
use fs_core::tree::{LinkRow, List, ListRow, Page};
use fs_core::wire::{BODY_STEP, padded_body, padme};
use serde_json::{Value, json};
use tests::{Bench, look, noise};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data")
}

fn key(byte: u8) -> Key {
    Key::from_bytes([byte; 32])
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    to_hex(bytes.as_ref())
}

fn keys() -> Value {
    let epoch = EpochKeys::from_master(&key(1));
    let shown = |key: &Key| hex(key.expose());
    let (data, tree) = (epoch.data.as_ref().unwrap(), &epoch.tree);
    json!({
        "master": shown(&key(1)),
        "id_data": shown(epoch.id_data.as_ref().unwrap()), "id_tree": shown(&epoch.id_tree), "file": shown(epoch.file.as_ref().unwrap()),
        "chunker": shown(epoch.chunker.as_ref().unwrap()), "structure": shown(&epoch.structure), "index": shown(&epoch.index),
        "catalogue": shown(epoch.catalogue.as_ref().unwrap()),
        "data_secret": shown(data.secret.as_ref().unwrap()), "data_public": hex(data.public.unwrap()), "data_psk": shown(&data.psk),
        "tree_secret": shown(tree.secret.as_ref().unwrap()), "tree_public": hex(tree.public.unwrap()), "tree_psk": shown(&tree.psk),
    })
}

fn agreement(random: &dyn RandomSource) -> Value {
    let epoch = EpochKeys::from_master(&key(1));
    let context = HpkeContext { repository: &[2; 16], epoch: 1, pair: Pair::Tree, psk: &epoch.tree.psk };
    let (enc, exported) = crypto::hpke_send(&context, &epoch.tree.public.unwrap(), "record", random).unwrap();
    json!({"repository": hex([2; 16]), "epoch": 1, "pair": 2, "enc": hex(enc), "label": "record", "export": hex(exported.expose())})
}

fn records(random: &dyn RandomSource) -> Value {
    let plain = b"the same words, the same words, the same words again";
    let id = record_id(&key(3), plain);
    let seal = RecordKey { repository: RepositoryId::from_bytes([2; 16]), epoch: 1, key: key(4) };
    let facts = RecordFacts { kind: RecordKind::Data, id, codec: Codec::Raw, plain_len: plain.len() as u32 };
    json!({"plain": hex(plain), "id_key": hex(key(3).expose()), "id": hex(id.as_bytes()), "session_key": hex(key(4).expose()), "stored": hex(seal.seal(&facts, plain, random))})
}

fn objects(random: &dyn RandomSource) -> Value {
    let repository = RepositoryId::from_bytes([2; 16]);
    let head = Header { kind: ObjectKind::Seal, epoch: 1, repository, salt: [5; 16] }.encode();
    let mut pack = PackBuilder::new(ObjectKind::MetaPack, 1, repository, (1000, Vec::new()), random);
    let session = PackSession { id: SessionId::from_bytes([6; 16]), key: SessionKeyRef { epoch: 1, enc: [7; 32] } };
    let facts = RecordFacts { kind: RecordKind::Tree, id: RecordId::from_bytes([8; 32]), codec: Codec::Zstd, plain_len: 99 };
    let reference = pack.push(&facts, &session, &[9; 60]);
    let pack = pack.finish(&key(1), random);
    let links = encode_links(&[LinkRow { position: 3, leader: 2, link_count: 2 }]);
    assert_eq!(decode_links(&links).unwrap().len(), 1);
    json!({
        "header": hex(head), "section": hex(seal_section(&key(1), &head, 3, true, b"section".to_vec())),
        "padded_body_hash": hex(crypto::hash(&padded_body(b"body", BODY_STEP))),
        "pack_id": pack.id.to_string(), "pack_length": pack.bytes.len(), "pack_hash": hex(crypto::hash(&pack.bytes)), "record_offset": reference.offset,
        "signature": hex(crypto::sign(&key(10), &head, b"payload")), "signing_public": hex(crypto::signing_public(&key(10))),
        "empty_page": hex(Page::Leaf(fs_core::tree::Leaf::new(Vec::new())).encode()),
        "list": hex(List { depth: 1, rows: vec![ListRow { end: 99, reference }] }.encode()), "links": hex(links),
        "config": hex(Config::new(Timestamp::new(1_795_000_000, 5).unwrap()).encode()),
    })
}

fn slots(random: &dyn RandomSource) -> Value {
    let ring = KeyRing::generate(RepositoryId::from_bytes([2; 16]), random);
    let label = |credential: &Credential| SlotLabel {
        label: "vector".into(),
        role: Role::Owner,
        kind: credential.kind(),
        created: Timestamp::new(1_795_000_000, 0).unwrap(),
        changed: None,
    };
    let slot = |credential: &Credential| {
        hex(encode(KeyId::from_bytes([11; 16]), &ring, credential, &PasswordCost::LEAST, &label(credential), random).unwrap())
    };
    json!({
        "owner_bundle": hex(ring.encode()),
        "slot": hex([11; 16]),
        "key_file": hex(key(12).expose()), "key_file_slot": slot(&Credential::KeyFile(key(12))), "recovery_slot": slot(&Credential::Recovery(key(13))),
        "recovery_words": &*recovery_words(&key(13)),
        "argon2id": hex(crypto::password_hash(b"correct horse battery", &[14; 32], 65_536, 3, 1).unwrap().expose()),
    })
}

fn chunks() -> Value {
    let chunker = Chunker::new(&key(1), Config::new(Timestamp::default()).chunks);
    let bytes = noise(1, 3_000_000);
    let (mut rest, mut lengths) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        let length = chunker.cut(Cut::ByContent, rest);
        lengths.push(length);
        rest = &rest[length..];
    }
    json!({"key": hex(key(1).expose()), "input_hash": hex(crypto::hash(&bytes)), "lengths": lengths})
}

/// One list that forgets and undoes; its object with a salt of its own.
fn tombstones(random: &dyn RandomSource) -> Value {
    let ring = KeyRing::generate(RepositoryId::from_bytes([2; 16]), random);
    let signer = Signer { device: DeviceId::from_bytes([16; 16]), seed: key(10) };
    let said = Tombstones {
        run: RunId::from_bytes([15; 16]),
        device: signer.device,
        time: Timestamp::new(1_795_000_000, 5).unwrap(),
        server_time: Timestamp::new(1_795_000_001, 0),
        why: "last:28".into(),
        forgotten: vec![SnapshotId::from_bytes([17; 32])],
        undone: vec![(ObjectHash::from_bytes([18; 32]), SnapshotId::from_bytes([19; 32]))],
    };
    json!({
        "owner_bundle": hex(ring.encode()), "payload": hex(said.encode()), "signing_public": hex(crypto::signing_public(&signer.seed)),
        "object": hex(said.encode_object(&ring, &signer, random)),
    })
}

/// One mark of a pack and a forgotten snapshot; its object with a salt of its own.
fn mark(random: &dyn RandomSource) -> Value {
    let ring = KeyRing::generate(RepositoryId::from_bytes([2; 16]), random);
    let signer = Signer { device: DeviceId::from_bytes([16; 16]), seed: key(10) };
    let said = Mark {
        run: RunId::from_bytes([15; 16]),
        device: signer.device,
        time: Timestamp::new(1_795_000_000, 5).unwrap(),
        server_time: Timestamp::new(1_795_000_001, 0),
        grace: Duration::from_secs(604_800),
        packs: vec![PackId::from_bytes([20; 16])],
        snapshots: vec![(ObjectHash::from_bytes([18; 32]), SnapshotId::from_bytes([19; 32]))],
    };
    json!({
        "owner_bundle": hex(ring.encode()), "payload": hex(said.encode()), "signing_public": hex(crypto::signing_public(&signer.seed)),
        "object": hex(said.encode_object(&ring, &signer, random)),
    })
}

#[test]
fn every_construction_gives_its_vector() {
    let random = SeededRandom::shared(1);
    let padme_steps: Vec<_> = [0, 1, 9, 1000, 33_000_000, 33_554_433].map(|length: u64| [length, padme(length)]).to_vec();
    let computed = json!({
        "keys": keys(), "hpke": agreement(&*random), "record": records(&*random), "objects": objects(&*random), "slots": slots(&*random), "chunks": chunks(), "padme": padme_steps, "tombstones": tombstones(&*SeededRandom::shared(2)), "mark": mark(&*SeededRandom::shared(3)),
    });
    let path = data().join("vectors.json");
    let Ok(stored) = std::fs::read_to_string(&path) else {
        panic!("{} is missing; it should hold:\n{computed:#}", path.display());
    };
    let stored: Value = serde_json::from_str(&stored).unwrap();
    for (name, value) in computed.as_object().unwrap() {
        assert_eq!(&stored[name], value, "the format of '{name}' changed");
    }
}

/// What the golden repository was made of.
fn golden_source(folder: &Path) {
    std::fs::create_dir_all(folder.join("folder")).unwrap();
    std::fs::write(folder.join("folder/letter.txt"), "dear all ".repeat(100)).unwrap();
    std::fs::write(folder.join("folder/note.txt"), "dear all, once more").unwrap();
    std::fs::write(folder.join("noise"), noise(3, 70_000)).unwrap();
    std::fs::hard_link(folder.join("noise"), folder.join("folder/link")).unwrap();
    std::os::unix::fs::symlink("folder/letter.txt", folder.join("pointer")).unwrap();
}

/// Makes `tests/data/format1`, once for each format: `cargo test -p tests -- --ignored make_the_golden_repository`.
#[test]
#[ignore = "writes tests/data; golden repositories are added and never edited"]
fn make_the_golden_repository() {
    let source = Path::new("/tmp/yesterdrive-golden");
    golden_source(source);
    let store: Arc<dyn WriteStore> = Arc::new(LocalStore::create(data().join("format1")).unwrap());
    Bench::new(store).unwrap().backup(source, None).unwrap();
    std::fs::remove_dir_all(source).unwrap();
}

/// Makes `tests/data/format1-forgotten`: three snapshots, of which one is forgotten and one was: `cargo test -p tests -- --ignored make_the_forgotten`.
#[test]
#[ignore = "writes tests/data; golden repositories are added and never edited"]
fn make_the_forgotten_golden_repository() {
    let source = tempfile::tempdir().unwrap();
    let store: Arc<dyn WriteStore> = Arc::new(LocalStore::create(data().join("format1-forgotten")).unwrap());
    let bench = Bench::new(store).unwrap();
    let state = tempfile::tempdir().unwrap();
    for n in 0..3 {
        std::fs::write(source.path().join("number"), n.to_string()).unwrap();
        bench.backup(source.path(), Some(state.path())).unwrap();
    }
    let repository = bench.open().unwrap();
    let ids: Vec<_> = repository.snapshots().unwrap().iter().map(|snapshot| snapshot.id).collect();
    let signer = authorise(&repository, &*bench.store, Some(state.path()), "host").unwrap();
    forget(&repository, &*bench.store, &signer, &ids[..2].iter().copied().collect(), "by name").unwrap();
    let listed = repository.all_snapshots().unwrap();
    undo(&repository, &*bench.store, &signer, &listed.forgotten[1..]).unwrap();
}

#[test]
fn golden_repositories_say_what_is_forgotten() {
    let store = LocalStore::open(data().join("format1-forgotten")).unwrap();
    let repository = Repository::open(Arc::new(store), &Credential::KeyFile(key(42)), &OpenOptions::default()).unwrap();
    let listed = repository.all_snapshots().unwrap();
    let numbers: Vec<_> = listed.live.iter().map(|snapshot| snapshot.sequence()).collect();
    assert_eq!((numbers, listed.forgotten.len(), listed.findings), (vec![2, 3], 1, vec![]));
    let forgotten = &listed.forgotten[0];
    assert_eq!((forgotten.snapshot.sequence(), forgotten.newest().unwrap().why.as_str()), (1, "by name"));
    assert!(check(&repository, ReadData::All, &Silent).unwrap().findings.is_empty());
}

#[test]
fn golden_repositories_open_and_restore() {
    let place = tempfile::tempdir().unwrap();
    let (source, target) = (place.path().join("source"), place.path().join("target"));
    golden_source(&source);
    let store = LocalStore::open(data().join("format1")).unwrap();
    let repository = Repository::open(Arc::new(store), &Credential::KeyFile(key(42)), &OpenOptions::default()).unwrap();
    let repository = Arc::new(repository);
    assert!(check(&repository, ReadData::All, &Silent).unwrap().findings.is_empty());
    let snapshots = repository.snapshots().unwrap();
    let path = TreePath::parse(b"tmp/yesterdrive-golden").unwrap();
    let options = RestoreOptions { as_me: true, ..RestoreOptions::default() };
    let report = restore(&repository, &tests::only(&snapshots[0], &path), &target, &options, &Silent).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let bytes = |folder: &Path| look(folder).unwrap().into_iter().map(|(path, seen)| (path, seen.bytes, seen.links)).collect::<Vec<_>>();
    assert_eq!(bytes(&source), bytes(&target));
}
