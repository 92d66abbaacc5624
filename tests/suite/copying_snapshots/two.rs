//! Two repositories with keys of their own, and what it means that one shows what the other does.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backup_writer::check::{ReadData, check};
use backup_writer::copy::snapshots::{Copied, SnapshotCopy, SnapshotCopyError, SnapshotCopyOptions};
use backup_writer::create::{NewKey, create};
use fs_core::compress::Compression;
use fs_core::crypto::{Key, SharedRandom, hash, keyed_hash};
use fs_core::id::SnapshotId;
use fs_core::key::slot::{Credential, PasswordCost};
use fs_core::object::{ObjectKind, pack_name};
use fs_core::observer::Silent;
use fs_core::path::TreePath;
use fs_core::reader::ContentReader;
use fs_core::record::Reference;
use fs_core::report::is_incomplete;
use fs_core::repository::Repository;
use fs_core::snapshot::Snapshot;
use fs_core::storage::memory::MemoryStore;
use fs_core::storage::{ObjectName, WriteStore};
use fs_core::testing::{ManualClock, SeededRandom};
use fs_core::tree::page::Wanted;
use fs_core::tree::{Content, Entry, EntryKind, Value};
use tests::{Bench, later_than_any_file};

/// A repository with snapshots of a folder, and another one with keys of its own.
pub(super) struct Two {
    pub(super) source: Arc<tempfile::TempDir>,
    pub(super) state: tempfile::TempDir,
    pub(super) from: Bench,
    pub(super) here: MemoryStore,
    pub(super) to: Bench,
    pub(super) there: MemoryStore,
}

impl Two {
    pub(super) fn new() -> Self {
        let clock = ManualClock::at(later_than_any_file());
        let (here, there) = (MemoryStore::with_clock(clock.clone()), MemoryStore::with_clock(clock.clone()));
        let from = Bench { clock: Arc::clone(&clock), ..Bench::new(Arc::new(here.clone())).unwrap() };
        let random: SharedRandom = SeededRandom::shared(8);
        let credential = Credential::KeyFile(Key::from_bytes([43; 32]));
        let key = NewKey { credential: credential.clone(), label: "other".into(), cost: PasswordCost::LEAST };
        create(&there, &[key], &(Arc::clone(&clock) as _), &random).unwrap();
        let to = Bench { store: Arc::new(there.clone()), credential, clock, random };
        let (source, state) = (Arc::new(tempfile::tempdir().unwrap()), tempfile::tempdir().unwrap());
        Self { source, state, from, here, to, there }
    }

    /// The same with small packs and chunks on both sides.
    pub(super) fn small() -> Self {
        let two = Self::new();
        Self { from: two.from.with_small_packs().unwrap(), to: two.to.with_small_packs().unwrap(), ..two }
    }

    pub(super) fn folder(&self) -> &Path {
        self.source.path()
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.folder().join(name), bytes).unwrap();
    }

    pub(super) fn save(&self) -> SnapshotId {
        self.from.clock.advance(Duration::from_secs(3600));
        self.from.backup(self.folder(), Some(&self.state.path().join("here"))).unwrap().snapshot
    }

    pub(super) fn options(&self) -> SnapshotCopyOptions {
        SnapshotCopyOptions { machine: "copier".into(), state: Some(self.state.path().join("there")), compression: Compression::Auto }
    }

    /// A run of its own that reads through `from`.
    pub(super) fn copy_from(&self, from: Arc<dyn WriteStore>) -> Result<Vec<Copied>, SnapshotCopyError> {
        let from = Bench { store: from, ..self.from.clone() }.open().unwrap();
        let copy = SnapshotCopy::look(&from, &self.to.open().unwrap(), None)?;
        let mut copied = Vec::new();
        copy.run(&self.to.store, &self.options(), &Silent, &mut |one| copied.push(one.clone()))?;
        Ok(copied)
    }

    pub(super) fn copy(&self) -> Vec<Copied> {
        self.copy_from(Arc::clone(&self.from.store)).unwrap()
    }

    /// All complete snapshots of the copy show what their originals do, as far as those are still there. How many they are.
    pub(super) fn expect_equal(&self, when: &str) -> usize {
        expect_equal(&self.from.open().unwrap(), &self.to.open().unwrap(), when)
    }

    pub(super) fn expect_sound(&self, when: &str) {
        let findings = check(&self.to.open().unwrap(), ReadData::All, &Silent).unwrap().findings;
        assert!(!is_incomplete(&findings), "{when}: {findings:?}");
    }
}

pub(super) fn expect_equal(from: &Arc<Repository>, to: &Arc<Repository>, when: &str) -> usize {
    let originals = from.all_snapshots().unwrap();
    let copies = to.snapshots().unwrap();
    let mut count = 0;
    for copy in copies.iter().filter(|copy| copy.sealed) {
        let Some(said) = copy.manifest().unwrap().original else { continue };
        let Some(original) = originals.all().find(|original| original.id == said.snapshot) else { continue };
        assert_eq!(said.repository, from.id());
        let (was, is) = (everything(from, original), everything(to, copy));
        let differ: Vec<_> = was.iter().filter(|(path, all)| is.get(*path) != Some(all)).take(2).collect();
        assert!(was == is, "{when}: {differ:?}");
        count += 1;
    }
    count
}

/// Entries by path with all that they say and hold, but not where.
pub(super) type All = BTreeMap<Vec<u8>, (Entry, [u8; 32])>;

pub(super) fn bytes_of(repository: &Arc<Repository>, size: u64, content: &Content) -> Vec<u8> {
    let reader = ContentReader::new(Arc::clone(repository), size, content.clone(), None);
    let bytes = reader.read(0, size).unwrap().to_vec();
    assert_eq!(bytes.len() as u64, size);
    bytes
}

/// An entry that can be compared with one of another repository.
pub(super) fn plain(repository: &Arc<Repository>, entry: &Entry) -> Entry {
    let mut plain = Entry { content: Content::EMPTY, file_hash: None, block_size: None, ..entry.clone() };
    for value in plain.values_mut() {
        if let Value::Stored { size, content } = value {
            *value = Value::Inline(bytes_of(repository, *size, content));
        }
    }
    if let Some(subtree) = &mut plain.subtree {
        subtree.page = None;
    }
    plain
}

pub(super) fn everything(repository: &Arc<Repository>, snapshot: &Snapshot) -> All {
    let manifest = snapshot.manifest().unwrap();
    let (mut all, mut open) = (All::new(), vec![(TreePath::ROOT, manifest.root)]);
    while let Some((path, entry)) = open.pop() {
        let mut held = [0; 32];
        if entry.kind == EntryKind::File {
            let bytes = ContentReader::of_file(Arc::clone(repository), &entry).read(0, entry.size).unwrap();
            assert_eq!(bytes.len() as u64, entry.size);
            held = hash(&bytes);
            if let Some(proof) = entry.proof(repository.ring()).filter(|_| entry.sparse.is_none()) {
                assert_eq!(keyed_hash(&proof.key, &[&bytes]), proof.hash, "its proof holds");
            }
        }
        all.insert(path.to_bytes(), (plain(repository, &entry), held));
        let Some(subtree) = &entry.subtree else { continue };
        let mut index = 0;
        while let Some(found) = repository.find_entry(subtree, Wanted::Index(index)).unwrap() {
            index += 1;
            open.push((path.join(found.entry().name.clone().unwrap()), found.entry().clone()));
        }
    }
    // Which names are one file.
    for (at, (first, reference)) in manifest.link_table.iter().enumerate() {
        let rows = repository.link_rows(reference).unwrap();
        let text: Vec<_> = rows.iter().map(|row| (row.position, row.leader, row.link_count)).collect();
        let key = format!("links {at} {first}").into_bytes();
        all.insert(key, (Entry::new(None, EntryKind::Fifo), hash(format!("{text:?}").as_bytes())));
    }
    all
}

/// What a file of the newest snapshot is, by its name in the folder.
pub(super) fn entry_at(repository: &Repository, two: &Two, name: &str) -> Entry {
    let manifest = repository.snapshots().unwrap().last().unwrap().manifest().unwrap();
    let path = TreePath::parse(two.folder().join(name).as_os_str().as_encoded_bytes()).unwrap();
    path.names().iter().fold(manifest.root, |entry, name| {
        repository.find_entry(entry.subtree.as_ref().unwrap(), Wanted::Name(name.as_bytes())).unwrap().unwrap().entry().clone()
    })
}

/// Flips a byte of a record.
pub(super) fn flip(store: &MemoryStore, kind: ObjectKind, reference: &Reference) {
    let name = pack_name(kind, &reference.pack);
    let mut bytes = store.overwrite(&name, None).unwrap().to_vec();
    bytes[usize::try_from(reference.place().start).unwrap() + 9] ^= 4;
    store.overwrite(&name, Some(bytes.into()));
}

pub(super) fn names(store: &MemoryStore, prefix: &str) -> Vec<ObjectName> {
    store.contents().into_iter().map(|(name, _)| name).filter(|name| name.as_str().starts_with(prefix)).collect()
}
