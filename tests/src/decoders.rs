//! Every decoder of what a store, a person or another device hands us, to be fed with any bytes.
//!
//! What is sealed is sealed here, as by somebody who holds the keys and means harm: else nothing but the cipher would be tried. A decoder must return, in memory
//! that is bounded by its input, and what it takes for right must come back from its encoder as it was. Fed by `tests/fuzz` and by the suite's `fuzzing`.

use std::sync::LazyLock;

use backup_writer::pause::Hours;
use backup_writer::retention::Policy;
use backup_writer::source::rules::{Patterns, lines_of};
use bytes::Bytes;
use fs_core::compress::{Codec, decompress};
use fs_core::config::{Certificate, Config, Session, decode_config};
use fs_core::crypto::{self, Key};
use fs_core::id::{DeviceId, KeyId, PackId, RepositoryId};
use fs_core::index::Shard;
use fs_core::key::KeyRing;
use fs_core::key::slot::{self, Credential};
use fs_core::object::{self, Header, ObjectKind, Signed, Signer};
use fs_core::pack;
use fs_core::path::TreePath;
use fs_core::snapshot::Manifest;
use fs_core::snapshot::codec::{Catalogue, Seal};
use fs_core::snapshot::mark::Mark;
use fs_core::snapshot::tombstone::Tombstones;
use fs_core::storage::ObjectName;
use fs_core::storage::address::Address;
use fs_core::testing::SeededRandom;
use fs_core::tree::codec::{decode_changes, decode_findings, decode_links, encode_changes, encode_findings, encode_links};
use fs_core::tree::{List, Page};
use fs_core::wire::CborWriter;

/// Most bytes of the plaintext that hostile compressed data may claim.
const PLAIN_MAX: usize = 1 << 20;
const KEY: [u8; 32] = [7; 32];
const REPOSITORY: RepositoryId = RepositoryId::from_bytes([2; 16]);
const ID: [u8; 16] = [5; 16];

/// A decoder by its name.
pub type Decoder = (&'static str, fn(&[u8]));

/// All of them. The name is that of the folder of its corpus and of its fuzz target.
pub const DECODERS: [Decoder; 23] = [
    ("page", page),
    ("list", list),
    ("links", links),
    ("findings", findings),
    ("changes", changes),
    ("manifest", manifest),
    ("tombstones", tombstones),
    ("mark", mark),
    ("config", config),
    ("bundle", bundle),
    ("signed_body", signed_body),
    ("root_signed", root_signed),
    ("session", session),
    ("seal", seal),
    ("catalogue", catalogue),
    ("header", header),
    ("slot", slot),
    ("trailer", trailer),
    ("fence", fence),
    ("entries", entries),
    ("zstd", zstd),
    ("names", names),
    ("rules", rules),
];

/// Feeds the decoder of this name.
///
/// # Panics
/// If there is none, and if the decoder has a bug.
pub fn feed(name: &str, bytes: &[u8]) {
    let (_, decoder) = DECODERS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("there is no decoder {name}"));
    decoder(bytes);
}

fn key_of(_epoch: u16) -> Option<Key> {
    Some(Key::from_bytes(KEY))
}

fn signer(device: DeviceId) -> Signer {
    Signer { device, seed: Key::from_bytes([10; 32]) }
}

fn header_of(kind: ObjectKind) -> Header {
    Header { kind, epoch: 1, repository: REPOSITORY, salt: ID }
}

/// An object whose payload is hostile, and everything around it right.
fn sealed(kind: ObjectKind, key: &Key, payload: &[u8], device: DeviceId) -> Vec<u8> {
    object::encode_signed(&header_of(kind), key, payload.to_vec(), &signer(device))
}

/// What was taken for right comes back from its encoder as the same.
fn comes_back<T: PartialEq + std::fmt::Debug, E>(bytes: &[u8], decode: impl Fn(&[u8]) -> Result<T, E>, encode: impl Fn(&T) -> Vec<u8>) {
    if let Ok(value) = decode(bytes) {
        let again = decode(&encode(&value));
        assert!(again.is_ok_and(|again| again == value), "{value:?} does not come back");
    }
}

fn page(bytes: &[u8]) {
    comes_back(bytes, Page::decode, Page::encode);
}

fn list(bytes: &[u8]) {
    comes_back(bytes, List::decode, List::encode);
}

fn links(bytes: &[u8]) {
    comes_back(bytes, decode_links, |rows| encode_links(rows));
}

fn findings(bytes: &[u8]) {
    comes_back(bytes, decode_findings, |rows| encode_findings(rows));
}

fn changes(bytes: &[u8]) {
    comes_back(bytes, decode_changes, |rows| encode_changes(rows));
}

fn manifest(bytes: &[u8]) {
    comes_back(bytes, Manifest::decode, Manifest::encode);
}

fn tombstones(bytes: &[u8]) {
    comes_back(bytes, Tombstones::decode, Tombstones::encode);
}

fn mark(bytes: &[u8]) {
    comes_back(bytes, Mark::decode, Mark::encode);
    if let Ok(mark) = Mark::decode(bytes) {
        assert!(mark.due(None) >= mark.time);
    }
}

fn config(bytes: &[u8]) {
    comes_back(bytes, Config::decode, Config::encode);
}

fn bundle(bytes: &[u8]) {
    if let Ok(ring) = KeyRing::decode(bytes) {
        assert!(KeyRing::decode(&ring.encode()).is_ok());
    }
}

fn signed_body(bytes: &[u8]) {
    comes_back(bytes, Signed::decode, Signed::encode);
}

fn root_signed(bytes: &[u8]) {
    let root = crypto::signing_public(&signer(DeviceId::ROOT).seed);
    let object = |kind| sealed(kind, &Key::from_bytes(KEY), bytes, DeviceId::ROOT);
    drop(Certificate::decode_object(&object(ObjectKind::Device), REPOSITORY, &root, key_of));
    drop(decode_config(&object(ObjectKind::Config), REPOSITORY, &root, key_of));
}

fn session(bytes: &[u8]) {
    drop(Session::decode_object(&sealed(ObjectKind::Session, &Key::from_bytes(KEY), bytes, DeviceId::from_bytes(ID)), REPOSITORY, key_of));
}

fn seal(bytes: &[u8]) {
    drop(Seal::decode_object(&sealed(ObjectKind::Seal, &Key::from_bytes(KEY), bytes, DeviceId::from_bytes(ID)), REPOSITORY, key_of));
}

fn catalogue(bytes: &[u8]) {
    static RING: LazyLock<KeyRing> = LazyLock::new(|| KeyRing::generate(REPOSITORY, &*SeededRandom::shared(1)));
    let ring = &*RING;
    let Some(key) = ring.catalogue(ring.epoch()) else { return };
    drop(Catalogue::decode_object(&sealed(ObjectKind::Catalogue, &key, bytes, DeviceId::from_bytes(ID)), ring));
}

fn header(bytes: &[u8]) {
    if let Ok((header, head, _)) = Header::decode(bytes) {
        assert_eq!(header.encode(), *head);
    }
}

/// The fields in clear; what follows is behind a commitment.
fn slot(bytes: &[u8]) {
    const SIZE: usize = 4096;
    let mut object = header_of(ObjectKind::Slot).encode().to_vec();
    object.extend_from_slice(bytes);
    object.resize(SIZE - 32, 0);
    let hash = crypto::hash(&object);
    object.extend_from_slice(&hash);
    drop(slot::repository_of(KeyId::from_bytes(ID), &object));
    drop(slot::open(KeyId::from_bytes(ID), &object, &Credential::KeyFile(Key::from_bytes([12; 32]))));
}

fn trailer(table: &[u8]) {
    let header = header_of(ObjectKind::DataPack).encode();
    let table = object::seal_section(&Key::from_bytes(KEY), &header, 0, true, table.to_vec());
    let Ok(length) = u32::try_from(table.len()) else { return };
    let mut pack = header.to_vec();
    // Some room for records, so that a table can be right.
    pack.resize(1 << 16, 0);
    pack.extend_from_slice(&table);
    pack.extend_from_slice(&length.to_le_bytes());
    pack.extend_from_slice(&[0; 4]);
    pack.extend_from_slice(&object::MAGIC_END);
    pack.extend_from_slice(&[0; 32]);
    let id = PackId::from_bytes(ID);
    let Ok(trailer) = pack::decode_whole(&pack, (ObjectKind::DataPack, id, REPOSITORY), key_of) else { return };
    for (at, (_, _, reference)) in trailer.references(id).enumerate() {
        assert!(reference.offset as usize + reference.stored_len as usize <= pack.len(), "a record reaches beyond its pack");
        let fragments = trailer.fragments_of(at);
        assert!(fragments.iter().all(|fragment| fragment.record == at), "a fragment of another record");
    }
}

/// A shard without entries whose fence is hostile.
fn fence(payload: &[u8]) {
    shard(&[], payload);
}

/// A shard of hostile entries, with a fence that fits them but for the digest.
fn entries(bytes: &[u8]) {
    const ENTRY: usize = 52;
    let (entries, _) = bytes.as_chunks::<ENTRY>();
    let Some(entries) = entries.get(..entries.len().min(300)) else { return };
    let header = header_of(ObjectKind::Shard).encode();
    let used = entries.len() * ENTRY + 16;
    let mut block = entries.concat();
    let length = fs_core::wire::padme_steps(used, 1024).min(16_384) - 16;
    block.resize(length, 0xff);
    let block = object::seal_section(&Key::from_bytes(KEY), &header, 0, false, block);
    let mut payload = CborWriter::new();
    payload.map(|map| {
        map.key(0).u64(entries.len() as u64);
        map.key(1).array(1).array(3).bytes(&ID).u64(ObjectKind::DataPack.to_byte().into()).u64(1 << 20);
        map.key(2).array(1).array(3).bytes(&ID).u64(1).bytes(&[7; 32]);
        map.key(3).bytes(entries.first().and_then(|entry| entry.get(..8)).unwrap_or_default());
        map.key(4).bytes(&[0; 32]);
        map.key(5).array(0);
        map.key(6).bytes(&crypto::hash(&block));
    });
    shard(&block, &payload.finish());
}

fn shard(blocks: &[u8], fence: &[u8]) {
    let header = header_of(ObjectKind::Shard).encode();
    let count = u32::from(!blocks.is_empty());
    let body = Signed::new(fence.to_vec(), &header, &signer(DeviceId::from_bytes(ID))).encode();
    let fence = object::seal_section(&Key::from_bytes(KEY), &header, count.into(), true, body);
    let Ok(length) = u32::try_from(fence.len()) else { return };
    let parts = [&header[..], blocks, &fence, &length.to_le_bytes(), &count.to_le_bytes(), &object::MAGIC_END];
    drop(Shard::decode_object(&parts.concat(), REPOSITORY, key_of));
}

/// The first three bytes say how long the plaintext is to be.
fn zstd(bytes: &[u8]) {
    let Some(([a, b, c], stored)) = bytes.split_first_chunk::<3>() else { return };
    let plain_len = (u32::from_le_bytes([*a, *b, *c, 0]) as usize).min(PLAIN_MAX);
    for codec in [Codec::Zstd, Codec::Raw] {
        if let Ok(plain) = decompress(codec, Bytes::copy_from_slice(stored), plain_len) {
            assert_eq!(plain.len(), plain_len);
        }
    }
}

/// Names of objects, as a store lists them, and what people type.
fn names(bytes: &[u8]) {
    let path = TreePath::parse(bytes);
    assert!(path.is_err() || !bytes.contains(&0), "a path with a NUL");
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    drop(Address::parse(text));
    drop(Policy::parse(text));
    drop(Hours::parse(text));
    drop(Credential::from_words(text));
    drop(Credential::from_key_file(text));
    let Some(name) = ObjectName::parse(text) else { return };
    assert_eq!(name.as_str(), text);
    for kind in [ObjectKind::Tombstones, ObjectKind::Mark] {
        if let Some((run, hash)) = object::parse_run_name(kind, &name) {
            assert_eq!(object::run_name(kind, &run, &hash), name);
        }
    }
    for kind in [ObjectKind::Manifest, ObjectKind::Seal] {
        if let Some((device, sequence, hash)) = object::parse_sequence_name(kind, &name) {
            assert_eq!(object::sequence_name(kind, &device, sequence, &hash), name);
        }
    }
    for kind in [ObjectKind::DataPack, ObjectKind::MetaPack] {
        if let Some(pack) = object::parse_pack_name(kind, &name) {
            assert_eq!(object::pack_name(kind, &pack), name);
        }
    }
}

/// A file of rules, and then a path after the last line.
fn rules(bytes: &[u8]) {
    let (file, path) = bytes.iter().rposition(|byte| *byte == b'\n').map_or((bytes, &b"a/b"[..]), |at| bytes.split_at(at));
    let (rules, _) = Patterns::parse(&lines_of("rules", file));
    for is_directory in [false, true] {
        rules.decide(path.trim_ascii_start(), is_directory);
    }
}
