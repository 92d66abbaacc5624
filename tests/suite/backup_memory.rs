//! What a backup takes of the machine's memory, by the real program.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use backup_writer::device;
use backup_writer::packer::put_shard;
use fs_core::compress::Codec;
use fs_core::crypto;
use fs_core::id::{PackId, RecordId, SessionId};
use fs_core::index::{Shard, ShardPack};
use fs_core::object::{ObjectKind, object_hash, pack_name};
use fs_core::pack::{PackRecord, PackSession, Trailer};
use fs_core::record::{RecordFacts, RecordKind, SessionKeyRef};
use fs_core::storage::local::LocalStore;
use fs_core::storage::memory::MemoryStore;
use fs_core::storage::wait;
use tests::driven::{Driven, is_long};
use tests::{Bench, program};

const MEBIBYTE: f64 = 1_048_576.0;

/// Makes small files of which no two are alike, a hundred in each folder.
fn fill(source: &Path, count: u32) {
    for folder in 0..count.div_ceil(100) {
        let path = source.join(format!("{}/{folder}", folder / 100));
        std::fs::create_dir_all(&path).unwrap();
        for file in 0..100 {
            std::fs::write(path.join(format!("a file, number {file}")), format!("the content of file {file} in folder {folder}")).unwrap();
        }
    }
}

/// A repository for the program. With small packs whatever has a bound beside the number of files reaches it with a few thousand files.
fn repository(small_packs: bool) -> Driven {
    let driven = Driven::new("repository").unwrap();
    let bench = Bench::new(Arc::new(LocalStore::create(driven.path("repository")).unwrap())).unwrap();
    if small_packs {
        bench.with_small_packs().unwrap();
    }
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/data/format1.key"), driven.path("key")).unwrap();
    driven
}

/// Most memory that a run of the program takes, in bytes: the system tells it of a child that has ended.
fn most_memory(driven: &Driven, arguments: &[&str]) -> f64 {
    let measure = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/measure.py");
    let mut command = Command::new("python3");
    command.env_clear().env("HOME", driven.path("")).current_dir(driven.path(""));
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin").args([measure, "run"]).arg(program());
    let output = command.args(["--repository", "repository", "--key-file", "key"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(output.stdout).unwrap();
    let mebibytes: f64 = told.lines().find_map(|line| line.strip_prefix("run-mib ")).unwrap().parse().unwrap();
    mebibytes * MEBIBYTE
}

/// Of a file that is saved a dozen bytes stay in memory, so that another that is the same is not saved again; the rest of the difference is what else has a bound
/// and is not there yet with the few. Where everything that was placed stays, it is 400 bytes for each.
#[test]
fn memory_of_a_first_backup_for_each_file() {
    const FEW: u32 = 25_000;
    const MANY: u32 = 4 * FEW;
    const FOR_EACH: f64 = 200.0;
    let of = |count, arguments: &[&str]| {
        let driven = repository(true);
        fill(&driven.source(), count);
        most_memory(&driven, arguments)
    };
    for arguments in [&["backup", "source"][..], &["backup", "--dry-run", "source"]] {
        let (few, many) = (of(FEW, arguments), of(MANY, arguments));
        let for_each = (many - few) / f64::from(MANY - FEW);
        assert!(for_each <= FOR_EACH, "{for_each} bytes for each file: {few} bytes for {FEW}, {many} for {MANY}; {arguments:?}");
    }
}

/// As people have it: a hundred thousand files, a million.
#[test]
fn memory_of_a_backup_of_a_million_files() {
    const MOST: f64 = 400.0 * MEBIBYTE;
    if !is_long() {
        return;
    }
    let driven = repository(false);
    let mut taken = Vec::new();
    for count in [100_000, 1_000_000] {
        fill(&driven.source(), count);
        let set = count.to_string();
        taken.push(["first", "second"].map(|_| most_memory(&driven, &["backup", "--set", &set, "source"])));
    }
    assert!(taken.iter().flatten().all(|most| *most <= MOST), "{taken:?}");
    println!("first and second backup of a hundred thousand and of a million files: {taken:?} bytes");
}

/// Puts shards of four thousand entries each into the index of the program's repository, and packs that nobody looks into.
fn fill_index(driven: &Driven, numbers: std::ops::Range<u32>) {
    let bench = Bench {
        store: Arc::new(LocalStore::open(driven.path("repository")).unwrap()),
        ..Bench::new(Arc::new(MemoryStore::new())).unwrap()
    };
    let repository = bench.open().unwrap();
    let signer = device::open(&repository, &*bench.store, None, "many").unwrap();
    for n in numbers {
        let bytes = vec![0; 100];
        let (id, hash) = (PackId::from_slice(&crypto::hash(&n.to_le_bytes())[..16]).unwrap(), object_hash(&bytes));
        wait("", bench.store.put_new(&pack_name(ObjectKind::DataPack, &id), bytes.into(), &hash)).unwrap();
        let record = |at: u32| PackRecord {
            facts: RecordFacts {
                kind: RecordKind::Data,
                id: RecordId::from_bytes(crypto::hash(&[n.to_le_bytes(), at.to_le_bytes()].concat())),
                codec: Codec::Raw,
                plain_len: 5,
            },
            offset: 48 + 45 * at,
            stored_len: 45,
            session: 0,
        };
        let session = PackSession { id: SessionId::from_bytes([1; 16]), key: SessionKeyRef { epoch: 1, enc: [2; 32] } };
        let mut shard = Shard::default();
        let trailer = Trailer { sessions: vec![session], records: (0..4000).map(record).collect(), fragments: Vec::new() };
        shard.add_pack(ShardPack { id, kind: ObjectKind::DataPack, size: 100 }, &trailer);
        shard.sort();
        put_shard(&repository, &*bench.store, &signer, &shard).unwrap();
    }
}

/// An index that is merged is never in memory whole: there it would take 52 bytes for each entry.
#[test]
fn memory_of_a_merge_for_each_entry() {
    const FEW: u32 = 60;
    const MANY: u32 = 5 * FEW;
    const FOR_EACH: f64 = 8.0;
    let of = |count| {
        let driven = repository(false);
        fill_index(&driven, 0..count);
        most_memory(&driven, &["repair", "index", "--merge"])
    };
    let (few, many) = (of(FEW), of(MANY));
    let for_each = (many - few) / (4000.0 * f64::from(MANY - FEW));
    println!("{few} bytes for {FEW} shards, {many} for {MANY}: {for_each} for each entry");
    assert!(for_each <= FOR_EACH, "{for_each} bytes for each entry: {few} bytes for {FEW} shards, {many} for {MANY}");
}
