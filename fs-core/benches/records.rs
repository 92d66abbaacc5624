//! What it costs to open, decode, cut and find: `cargo bench -p fs-core --bench records`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "a panic is how a benchmark fails")]

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use fs_core::chunker::{Chunker, Cut};
use fs_core::compress::{Codec, Compression, Compressor};
use fs_core::config::ChunkSizes;
use fs_core::crypto::{self, Key, SystemRandom};
use fs_core::id::{PackId, RecordId, RepositoryId, SessionId};
use fs_core::index::{Shard, ShardPack};
use fs_core::object::ObjectKind;
use fs_core::pack::{PackRecord, PackSession, Trailer};
use fs_core::path::Name;
use fs_core::record::{RecordFacts, RecordKey, RecordKind, Reference, SessionKeyRef, record_id};
use fs_core::time::Timestamp;
use fs_core::tree::page::{self, Wanted};
use fs_core::tree::{Content, Entry, EntryKind, Leaf, Page, TreeError};

fn main() {
    divan::main();
}

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    crypto::keyed_stream(&Key::from_bytes([1; 32]), b"noise", &mut bytes);
    bytes
}

/// Hexadecimal digits of noise: zstd halves them.
fn text(length: usize) -> Vec<u8> {
    fs_core::id::to_hex(&noise(length / 2)).into_bytes()
}

fn open(bencher: Bencher<'_, '_>, plain: &[u8], expected: Codec) {
    let id_key = Key::from_bytes([1; 32]);
    let key = RecordKey { repository: RepositoryId::from_bytes([2; 16]), epoch: 1, key: Key::from_bytes([3; 32]) };
    let mut compressor = Compressor::new(Compression::Auto);
    let (codec, body) = compressor.compress(plain);
    assert_eq!(codec, expected);
    let facts = RecordFacts { kind: RecordKind::Data, id: record_id(&id_key, plain), codec, plain_len: plain.len() as u32 };
    let sealed = key.seal(&facts, body, &SystemRandom);
    bencher.counter(BytesCount::new(plain.len())).bench(|| key.open(&facts, &id_key, &sealed[..]).unwrap());
}

#[divan::bench(args = [4 << 10, 64 << 10, 256 << 10])]
fn record_open_raw(bencher: Bencher<'_, '_>, length: usize) {
    open(bencher, &noise(length), Codec::Raw);
}

#[divan::bench(args = [4 << 10, 64 << 10, 256 << 10])]
fn record_open_zstd(bencher: Bencher<'_, '_>, length: usize) {
    open(bencher, &text(length), Codec::Zstd);
}

#[divan::bench]
fn chunker_cut(bencher: Bencher<'_, '_>) {
    let sizes = ChunkSizes { min: 64 << 10, mean: 256 << 10, max: 1 << 20, small: 64 << 10 };
    let (chunker, bytes) = (Chunker::new(&Key::from_bytes([1; 32]), sizes), noise(16 << 20));
    bencher.counter(BytesCount::new(bytes.len())).bench(|| {
        let (mut rest, mut count) = (&bytes[..], 0);
        while !rest.is_empty() {
            rest = &rest[chunker.cut(Cut::ByContent, rest)..];
            count += 1;
        }
        count
    });
}

fn reference(id: RecordId) -> Reference {
    let session = SessionKeyRef { epoch: 1, enc: [5; 32] };
    let pack = PackId::from_bytes([id.as_bytes()[0] / 16; 16]);
    Reference { id, plain_len: 9000, stored_len: 5000, offset: 48, codec: Codec::Zstd, pack, session }
}

fn id(n: u64) -> RecordId {
    RecordId::from_bytes(crypto::hash(&n.to_le_bytes()))
}

fn entries(count: u64) -> Vec<Entry> {
    let entry = |n: u64| {
        let mut entry = Entry::new(Some(Name::new(format!("a file with a name {n:07}.txt").into_bytes()).unwrap()), EntryKind::File);
        (entry.mode, entry.uid, entry.gid, entry.size) = (0o644, Some(1000), Some(1000), 9000);
        entry.mtime = Timestamp::new(1_790_000_000 + n as i64, 123_456_789);
        entry.ctime = entry.mtime;
        entry.content = Content::Inline(vec![reference(id(n))]);
        entry.file_hash = Some([9; 32]);
        entry
    };
    (0..count).map(entry).collect()
}

#[divan::bench]
fn page_decode_2000(bencher: Bencher<'_, '_>) {
    let plain = Page::Leaf(Leaf::new(entries(2000))).encode();
    bencher.counter(ItemsCount::new(2000_u32)).bench(|| Page::decode(black_box(&plain)).unwrap());
}

fn find(bencher: Bencher<'_, '_>, wanted: impl Fn(u64, &mut dyn FnMut(Wanted<'_>))) {
    const COUNT: u64 = 200_000;
    let mut pages = HashMap::new();
    let mut store = |page: Page| {
        let id = id(pages.len() as u64);
        pages.insert(id, Arc::new(page));
        Ok::<_, TreeError>(reference(id))
    };
    let splits = |name: &[u8]| crypto::hash(name)[0] < 1 && crypto::hash(name)[1] < 32;
    let top = page::build(entries(COUNT), &splits, &mut store).unwrap().unwrap();
    let n = Cell::new(0);
    bencher.bench_local(|| {
        n.set((n.get() + 7919) % COUNT);
        wanted(n.get(), &mut |wanted| {
            let load = |reference: &Reference| Ok::<_, TreeError>(Arc::clone(&pages[&reference.id]));
            black_box(page::find(&top, wanted, &load).unwrap().unwrap());
        });
    });
}

#[divan::bench]
fn find_by_name_in_200_000(bencher: Bencher<'_, '_>) {
    find(bencher, |n, find| find(Wanted::Name(format!("a file with a name {n:07}.txt").as_bytes())));
}

#[divan::bench]
fn find_by_position_in_200_000(bencher: Bencher<'_, '_>) {
    find(bencher, |n, find| find(Wanted::Position(n + 1)));
}

#[divan::bench]
fn shard_find_in_1_000_000(bencher: Bencher<'_, '_>) {
    let mut shard = Shard::default();
    for pack in 0..100 {
        let record = |n: u64| PackRecord {
            facts: RecordFacts { kind: RecordKind::Data, id: id(pack * 10_000 + n), codec: Codec::Zstd, plain_len: 9000 },
            offset: 48,
            stored_len: 5000,
            session: 0,
        };
        let sessions = vec![PackSession { id: SessionId::from_bytes([4; 16]), key: SessionKeyRef { epoch: 1, enc: [5; 32] } }];
        let pack = ShardPack { id: PackId::from_bytes([pack as u8; 16]), kind: ObjectKind::DataPack, size: 32 << 20 };
        shard.add_pack(pack, &Trailer { sessions, records: (0..10_000).map(record).collect(), fragments: Vec::new() });
    }
    shard.sort();
    let n = Cell::new(0);
    bencher.bench_local(|| {
        n.set((n.get() + 7919) % 1_000_000);
        assert_eq!(shard.find(&id(n.get())).count(), 1);
    });
}
