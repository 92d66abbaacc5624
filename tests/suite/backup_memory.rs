//! What a backup takes of the machine's memory, by the real program.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use backup_writer::device;
use backup_writer::packer::put_shard;
use fs_core::compress::Codec;
use fs_core::crypto;
use fs_core::id::{PackId, RecordId, SessionId};
use fs_core::index::{Shard, ShardPack};
use fs_core::object::{ObjectKind, pack_name};
use fs_core::pack::{PackRecord, PackSession, Trailer};
use fs_core::record::{RecordFacts, RecordKind, SessionKeyRef};
use fs_core::snapshot::mark::MARK_ROWS_MAX;
use fs_core::storage::local::LocalStore;
use fs_core::storage::memory::MemoryStore;
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

/// How the index of a repository is filled.
struct Filling {
    records_of_pack: u32,
    packs_of_shard: u32,
}

/// Puts packs that nobody looks into, ten days old, and the shards that name their records into the program's repository.
fn fill_index(driven: &Driven, packs: u32, filling: &Filling) {
    let bench = Bench {
        store: Arc::new(LocalStore::open(driven.path("repository")).unwrap()),
        ..Bench::new(Arc::new(MemoryStore::new())).unwrap()
    };
    let repository = bench.open().unwrap();
    let signer = device::open(&repository, &*bench.store, None, "many").unwrap();
    let session = PackSession { id: SessionId::from_bytes([1; 16]), key: SessionKeyRef { epoch: 1, enc: [2; 32] } };
    let put = |shard: &mut Shard| {
        shard.sort();
        put_shard(&repository, &*bench.store, &signer, shard).unwrap();
        *shard = Shard::default();
    };
    let mut shard = Shard::default();
    for n in 0..packs {
        let id = PackId::from_slice(&crypto::hash(&n.to_le_bytes())[..16]).unwrap();
        let path = driven.path("repository").join(pack_name(ObjectKind::DataPack, &id).as_str());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, [0; 100]).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(file.metadata().unwrap().modified().unwrap() - Duration::from_secs(10 * 86_400)).unwrap();
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
        let trailer =
            Trailer { sessions: vec![session], records: (0..filling.records_of_pack).map(record).collect(), fragments: Vec::new() };
        shard.add_pack(ShardPack { id, kind: ObjectKind::DataPack, size: 100 }, &trailer);
        if (n + 1) % filling.packs_of_shard == 0 {
            put(&mut shard);
        }
    }
    if !shard.is_empty() {
        put(&mut shard);
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
        fill_index(&driven, count, &Filling { records_of_pack: 4000, packs_of_shard: 1 });
        most_memory(&driven, &["repair", "index", "--merge"])
    };
    let (few, many) = (of(FEW), of(MANY));
    let for_each = (many - few) / (4000.0 * f64::from(MANY - FEW));
    println!("{few} bytes for {FEW} shards, {many} for {MANY}: {for_each} for each entry");
    assert!(for_each <= FOR_EACH, "{for_each} bytes for each entry: {few} bytes for {FEW} shards, {many} for {MANY}");
}

/// What is in all packs is in memory while a prune decides, and that is all. In long runs a hundred thousand packs.
#[test]
fn memory_of_a_prune_for_each_record() {
    const RECORDS: u32 = 100;
    const FOR_EACH: f64 = 64.0;
    let (few, many) = if is_long() { (1000, 100_000) } else { (1000, 11_000) };
    let of = |packs: u32| {
        let driven = repository(false);
        fill(&driven.source(), 100);
        most_memory(&driven, &["backup", "source"]);
        fill_index(&driven, packs, &Filling { records_of_pack: RECORDS, packs_of_shard: 1000 });
        let most = most_memory(&driven, &["prune", "--min-age", "48h"]);
        assert_eq!(std::fs::read_dir(driven.path("repository/mark")).unwrap().count(), packs.div_ceil(MARK_ROWS_MAX as u32) as usize);
        most
    };
    let (least, most) = (of(few), of(many));
    let for_each = (most - least) / f64::from(RECORDS * (many - few));
    println!("{least} bytes for {few} packs of {RECORDS} records, {most} for {many}: {for_each} for each record");
    assert!(for_each <= FOR_EACH, "{for_each} bytes for each record: {least} bytes for {few} packs, {most} for {many}");
}
