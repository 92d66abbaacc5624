//! Sealed snapshots of another system, with what none that runs these tests can make.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use backup_writer::create::put_hashed;
use backup_writer::pace::Pace;
use backup_writer::packer::{Packer, Shared};
use backup_writer::pause::Pauses;
use fs_core::id::{ObjectHash, SnapshotId};
use fs_core::object::{self, ObjectKind, Signer};
use fs_core::path::Name;
use fs_core::record::RecordKind;
use fs_core::report::Stats;
use fs_core::repository::Repository;
use fs_core::snapshot::Manifest;
use fs_core::snapshot::codec::Seal;
use fs_core::storage::WriteStore;
use fs_core::tree::{Content, Entry, EntryKind, Leaf, Page, Stream, Subtree, Value};

/// An entry without metadata. The name must be legal.
pub fn named(name: &str, kind: EntryKind) -> Entry {
    Entry::new(Name::new(name.as_bytes()).ok(), kind)
}

/// Stores bytes as one record.
///
/// # Errors
/// The packer's.
pub fn content(packer: &mut Packer, bytes: &[u8]) -> Result<Content> {
    Ok(Content::Inline(vec![packer.put(RecordKind::Data, bytes)?]))
}

/// An alternate stream.
///
/// # Errors
/// The packer's.
pub fn stream(packer: &mut Packer, name: &str, bytes: &[u8]) -> Result<Stream> {
    Ok(Stream { name: name.into(), value: Value::Stored { size: bytes.len() as u64, content: content(packer, bytes)? } })
}

/// Who plants snapshots in a repository that has one already, the model for all that is not said.
pub struct Planter {
    /// The repository.
    pub repository: Arc<Repository>,
    /// Its store.
    pub store: Arc<dyn WriteStore>,
    /// The device that signs.
    pub signer: Signer,
}

impl Planter {
    /// Plants a snapshot of the host `other system` with files, links and empty folders at its top, under a number and after another snapshot.
    ///
    /// # Errors
    /// What keeps it from being written.
    pub fn plant(
        &self,
        (sequence, previous): (u64, Option<SnapshotId>),
        entries: impl FnOnce(&mut Packer) -> Result<Vec<Entry>>,
    ) -> Result<SnapshotId> {
        let Self { repository, store, signer } = self;
        let pace = Arc::new(Pace::new(Pauses::default(), Arc::clone(repository.clock())));
        let mut packer = Packer::new(Arc::new(Shared::new(Arc::clone(repository), pace)?), Arc::clone(store), signer.clone());
        let entries = entries(&mut packer)?;
        let count = |kind| entries.iter().filter(|entry| entry.kind == kind).count() as u64;
        let (file_count, directory_count) = (count(EntryKind::File), count(EntryKind::Directory));
        let (position_count, byte_count) = (1 + entries.len() as u64, entries.iter().map(|entry| entry.size).sum());
        let page = packer.put(RecordKind::Tree, &Page::Leaf(Leaf::new(entries)).encode())?;
        let mut root = Entry::new(None, EntryKind::Directory);
        root.subtree = Some(Subtree { page: Some(page), position_count, directory_count, byte_count, file_count });
        packer.finish()?;
        let model = repository.snapshots()?.first().context("a snapshot as a model")?.manifest()?;
        let manifest = Manifest {
            device: signer.device,
            sequence,
            previous,
            parent: None,
            heads: Vec::new(),
            link_table: Vec::new(),
            findings: Vec::new(),
            changes: Vec::new(),
            host: "other system".into(),
            stats: Stats { file_count, directory_count, byte_count, ..Stats::default() },
            root,
            ..model
        };
        let random = repository.random();
        let name = |kind| move |hash: &ObjectHash| object::sequence_name(kind, &signer.device, sequence, hash);
        let object = manifest.encode_object(repository.ring(), signer, &**random)?;
        let id = SnapshotId::from(put_hashed(&**store, object, name(ObjectKind::Manifest))?);
        let seal = Seal { device: signer.device, sequence, manifest: id, time: manifest.ended };
        put_hashed(&**store, seal.encode_object(repository.ring(), signer, &**random), name(ObjectKind::Seal))?;
        Ok(id)
    }
}
