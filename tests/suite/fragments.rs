//! Small files share records: stored once, small together, each proven by itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use backup_writer::backup::{BackupReport, backup};
use backup_writer::check::{ReadData, check};
use fs_core::observer::Silent;
use fs_core::record::Reference;
use fs_core::storage::memory::MemoryStore;
use fs_core::tree::Content;
use tests::{Bench, look, noise, options};

use super::fidelity::files;

/// A source and a repository in memory.
struct Saved {
    place: tempfile::TempDir,
    memory: MemoryStore,
    bench: Bench,
}

impl Saved {
    fn new() -> Self {
        let memory = MemoryStore::new();
        Self { place: tempfile::tempdir().unwrap(), bench: Bench::new(Arc::new(memory.clone())).unwrap(), memory }
    }

    fn write(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
        let path = self.place.path().join("source").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn backup(&self) -> BackupReport {
        self.bench.clock.advance(std::time::Duration::from_secs(1));
        self.bench.backup(&self.place.path().join("source"), None).unwrap()
    }

    /// Bytes of all data packs, which are padded.
    fn data_bytes(&self) -> usize {
        self.memory.contents().iter().filter(|(name, _)| name.as_str().starts_with("pack/")).map(|(_, bytes)| bytes.len()).sum()
    }

    /// Where each file of the newest snapshot lies: record and start.
    fn places(&self) -> BTreeMap<String, (Reference, u32)> {
        let repository = self.bench.open().unwrap();
        let root = repository.snapshots().unwrap().pop().unwrap().manifest().unwrap().root;
        let found = files(&repository, &root, Path::new("/")).into_iter().filter_map(|(path, entry)| {
            let name = path.strip_prefix(self.place.path().join("source")).unwrap().to_str().unwrap().to_owned();
            let Content::Fragment { start, reference } = entry.content else { return None };
            Some((name, (reference, start)))
        });
        found.collect()
    }

    fn restored_is_source(&self) {
        let target = self.place.path().join("target");
        let _ = std::fs::remove_dir_all(&target);
        let source = self.place.path().join("source");
        super::fidelity::restored(&self.bench, &source, &target, &Default::default());
        assert_eq!(look(&source).unwrap(), look(&target).unwrap());
        let report = check(&self.bench.open().unwrap(), ReadData::All, &Silent).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
    }
}

#[test]
fn files_of_one_content_are_stored_once_wherever_they_stand() {
    let saved = Saved::new();
    // Within a group, in groups that are read at a time, which may store them twice, and in folders of their own.
    for n in 0..1500u64 {
        saved.write(format!("{:02}/{n:04}", n / 40), noise(n % 150, 8000));
    }
    let first = saved.backup();
    assert!(saved.data_bytes() < 2 * 150 * 8000 * 11 / 10, "{}", saved.data_bytes());
    assert_eq!((first.stats.new_count, first.stats.byte_count), (1500, 1500 * 8000));
    assert_eq!(saved.places().len(), 1500);
    let before = saved.data_bytes();
    (0..150).for_each(|n| saved.write(format!("again/{n}"), noise(n, 8000)));
    saved.backup();
    assert_eq!(saved.data_bytes(), before, "the index knows them");
    saved.restored_is_source();
}

#[test]
fn files_that_resemble_one_another_are_small_together() {
    let saved = Saved::new();
    let common = noise(1, 3000);
    (0..100u64).for_each(|n| saved.write(format!("{n:02}"), [&common[..], &noise(n, 100)].concat()));
    saved.backup();
    assert!(saved.data_bytes() < 30_000, "310000 bytes, 13000 of them different: {}", saved.data_bytes());
    let records: std::collections::BTreeSet<_> = saved.places().values().map(|(record, _)| record.id).collect();
    assert_eq!(records.len(), 1);
    saved.restored_is_source();
}

#[test]
fn what_did_not_change_stays_where_it_was() {
    let saved = Saved::new();
    (0..100u64).for_each(|n| saved.write(format!("{n:02}"), noise(n, 5000)));
    saved.backup();
    let before = saved.places();
    saved.write("50", noise(1000, 5000));
    saved.write("51", "");
    saved.bench.clock.advance(std::time::Duration::from_secs(1));
    let mut reread = options(&saved.place.path().join("source"), None);
    reread.reread = true;
    let (repository, store) = (saved.bench.open().unwrap(), Arc::clone(&saved.bench.store));
    let report = backup(&repository, &store, &reread, &Silent).unwrap();
    let after = saved.places();
    let changed: Vec<_> = before.iter().filter(|(name, place)| after.get(*name) != Some(place)).map(|(name, _)| name.as_str()).collect();
    assert_eq!(changed, ["50", "51"]);
    assert_eq!((report.stats.changed_count, report.stats.unchanged_count), (2, 98));
    saved.restored_is_source();
}

#[test]
fn holes_of_small_files_and_files_at_the_limit_come_back() {
    let saved = Saved::new();
    for size in [0, 1, 65_535, 65_536, 65_537] {
        saved.write(format!("of {size}"), noise(size as u64, size));
    }
    let holes = std::fs::File::create(saved.place.path().join("source/holes")).unwrap();
    holes.set_len(60_000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&holes, &noise(9, 4096), 32_768).unwrap();
    drop(holes);
    saved.backup();
    let fragments: Vec<_> = saved.places().into_keys().collect();
    assert_eq!(fragments, ["of 1", "of 65535", "of 65536"]);
    saved.restored_is_source();
}

#[test]
fn every_fragment_is_proven_by_a_hash_of_its_own() {
    let saved = Saved::new();
    saved.write("a", noise(1, 100));
    saved.write("b", noise(2, 100));
    saved.backup();
    let repository = saved.bench.open().unwrap();
    let root = repository.snapshots().unwrap().pop().unwrap().manifest().unwrap().root;
    for (path, entry) in files(&repository, &root, Path::new("/")) {
        let proof = entry.proof(repository.ring()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(fs_core::crypto::keyed_hash(&proof.key, &[&bytes]), proof.hash);
    }
}

#[test]
fn what_tiny_files_take_in_the_trailer_counts_for_the_size_of_a_pack() {
    let mut saved = Saved::new();
    saved.bench = saved.bench.with_small_packs().unwrap();
    let full = saved.bench.open().unwrap().config().data_pack_size as usize;
    (0..30_000u64).for_each(|n| saved.write(format!("{:03}/{n}", n / 200), n.to_string()));
    saved.backup();
    let packs = saved.memory.contents().into_iter().filter(|(name, _)| name.as_str().starts_with("pack/"));
    let lengths: Vec<_> = packs.map(|(_, bytes)| bytes.len()).collect();
    assert!(lengths.len() > 1 && lengths.iter().all(|length| *length < full * 5 / 4), "{lengths:?} of {full}");
    assert_eq!(saved.places().len(), 30_000);
}
