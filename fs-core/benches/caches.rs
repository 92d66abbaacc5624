//! What a call to the caches costs: `cargo bench -p fs-core --bench caches`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "a panic is how a benchmark fails")]

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use fs_core::cache::{DiskCache, MemoryCache, Weight};
use fs_core::crypto;
use fs_core::id::{PackId, RecordId};

fn main() {
    divan::main();
}

#[derive(Clone)]
struct Value(Bytes);

impl Weight for Value {
    fn weight(&self) -> usize {
        200 << 10
    }
}

const HELD: u64 = 1000;

fn ids() -> Vec<RecordId> {
    (0..100_000_u64).map(|n| RecordId::from_bytes(crypto::hash(&n.to_le_bytes()))).collect()
}

fn memory(ids: &[RecordId]) -> MemoryCache<Value> {
    let cache = MemoryCache::new(256 << 20);
    ids.iter().take(HELD as usize).for_each(|id| cache.insert(*id, Value(Bytes::new())));
    cache
}

#[divan::bench(threads = [1, 4])]
fn memory_get(bencher: Bencher<'_, '_>) {
    let (ids, at) = (ids(), AtomicU64::new(0));
    let cache = memory(&ids);
    bencher.bench(|| cache.get(&ids[(at.fetch_add(7, Ordering::Relaxed) % HELD) as usize]).map(|value| value.0));
}

#[divan::bench(threads = [1, 4])]
fn memory_insert(bencher: Bencher<'_, '_>) {
    let (ids, at) = (ids(), AtomicU64::new(HELD));
    let cache = memory(&ids);
    bencher.bench(|| cache.insert(ids[at.fetch_add(1, Ordering::Relaxed) as usize % ids.len()], Value(Bytes::new())));
}

const PACK_LENGTH: u64 = 32 << 20;

fn place(n: u64, length: usize) -> (PackId, u64) {
    let per_pack = PACK_LENGTH / length as u64;
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(n / per_pack).to_le_bytes());
    (PackId::from_bytes(id), n % per_pack * length as u64)
}

fn noise(length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    crypto::keyed_stream(&crypto::Key::from_bytes([1; 32]), b"noise", &mut bytes);
    bytes.into()
}

#[divan::bench(args = [4 << 10, 64 << 10, 256 << 10], threads = [1, 4])]
fn disk_put(bencher: Bencher<'_, '_>, length: usize) {
    let folder = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(folder.path(), 512 << 20).unwrap();
    let (bytes, at) = (noise(length), AtomicU64::new(0));
    bencher.counter(BytesCount::new(length)).bench(|| {
        let (pack, start) = place(at.fetch_add(1, Ordering::Relaxed), length);
        cache.put(&pack, start, &bytes);
    });
}

#[divan::bench(args = [4 << 10, 64 << 10, 256 << 10], threads = [1, 4])]
fn disk_get(bencher: Bencher<'_, '_>, length: usize) {
    let folder = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(folder.path(), 1 << 30).unwrap();
    let (bytes, at) = (noise(length), AtomicU64::new(0));
    let count = (64 << 20) / length as u64;
    for n in 0..count {
        let (pack, start) = place(n, length);
        cache.put(&pack, start, &bytes);
    }
    bencher.counter(BytesCount::new(length)).bench(|| {
        let (pack, start) = place(at.fetch_add(7, Ordering::Relaxed) % count, length);
        cache.get(&pack, start..start + length as u64).unwrap()
    });
}

/// A small record out of the large range that a prefetch has put.
#[divan::bench]
fn disk_get_part_of_4_mib(bencher: Bencher<'_, '_>) {
    let folder = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(folder.path(), 1 << 30).unwrap();
    let pack = PackId::from_bytes([1; 16]);
    cache.put(&pack, 0, &noise(4 << 20));
    let at = AtomicU64::new(0);
    bencher.bench(|| {
        let start = at.fetch_add(99_991, Ordering::Relaxed) % (4_000_000);
        cache.get(&pack, start..start + 4096).unwrap()
    });
}

#[divan::bench]
fn disk_open_10_gib_of_64_kib(bencher: Bencher<'_, '_>) {
    // The files are as many and their tables as long as they would be; only the bytes between are missing.
    let folder = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(folder.path(), 1 << 30).unwrap();
    let byte = Bytes::from_static(b"x");
    (0..10 << 14).for_each(|n| cache.put(&place(n, 64 << 10).0, place(n, 64 << 10).1, &byte));
    drop(cache);
    bencher.bench(|| black_box(DiskCache::open(folder.path(), 10 << 30).unwrap().status()));
}
