//! Writes into FOLDER what fuzzing begins with: right input for the decoders, from a repository made here. One folder for each decoder, as in `tests/data/corpus`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use fs_core::compress::{Compression, Compressor};
use fs_core::crypto::Key;
use fs_core::id::{DeviceId, ObjectHash, PackId, RunId, SnapshotId};
use fs_core::object::{self, Header, ObjectKind, Signed};
use fs_core::pack;
use fs_core::path::TreePath;
use fs_core::record::Reference;
use fs_core::report::{Finding, Place, Severity};
use fs_core::repository::Repository;
use fs_core::snapshot::mark::Mark;
use fs_core::snapshot::tombstone::Tombstones;
use fs_core::storage::memory::MemoryStore;
use fs_core::storage::wait;
use fs_core::time::Timestamp;
use fs_core::tree::change::{Change, ChangeKind};
use fs_core::tree::codec::{encode_changes, encode_findings, encode_links};
use fs_core::tree::{Content, EntryKind, LinkRow, List, ListRow, Page};
use tests::{Bench, add_snapshots, noise};

fn main() -> Result<()> {
    let folder = PathBuf::from(std::env::args_os().nth(1).context("usage: seeds FOLDER")?);
    let source = tempfile::tempdir()?;
    fill(source.path())?;
    let store = Arc::new(MemoryStore::new());
    let bench = Bench::new(store)?;
    for round in 0..2 {
        std::fs::write(source.path().join("changed"), format!("round {round}"))?;
        bench.backup(source.path(), None)?;
    }
    add_snapshots(&bench, 6, 3)?;
    let repository = bench.open()?;
    let mut seeds = Seeds { folder, count: 0 };
    for snapshot in repository.snapshots()?.iter() {
        let manifest = snapshot.manifest()?;
        seeds.write("manifest", &manifest.encode())?;
        if let Some(page) = manifest.root.subtree.as_ref().and_then(|subtree| subtree.page) {
            let rows = [1000, 5_000_000_000].map(|end| ListRow { end, reference: page });
            seeds.write("list", &List { depth: 1, rows: rows.into() }.encode())?;
            seeds.pages(&repository, &page)?;
        }
    }
    for kind in [
        ObjectKind::Config,
        ObjectKind::Device,
        ObjectKind::Session,
        ObjectKind::Seal,
        ObjectKind::Catalogue,
        ObjectKind::DataPack,
        ObjectKind::Shard,
    ] {
        for listed in wait(kind.prefix(), repository.store().list(kind.prefix(), None))? {
            let bytes = wait(listed.name.as_str(), repository.store().get(&listed.name))?;
            seeds.write("names", listed.name.as_str().as_bytes())?;
            seeds.object(&repository, kind, &bytes)?;
        }
    }
    seeds.write("bundle", &repository.ring().encode())?;
    seeds.tables()?;
    seeds.write("rules", b"*.tmp\n!keep.tmp\n/build/\n[a-c]?**/x\n# no pattern\na/b/keep.tmp")?;
    for name in ["s3://bucket/prefix", "webdav+https://user@host:1/path", "28+monthly", "22:00-06:00", "/a/folder"] {
        seeds.write("names", name.as_bytes())?;
    }
    seeds.write("slot", &[&[3, 0, 0, 0][..], &[0; 12], &[1; 76]].concat())?;
    Ok(())
}

/// A tree of all kinds that one can make anywhere.
fn fill(source: &Path) -> Result<()> {
    for folder in 0..3 {
        std::fs::create_dir(source.join(format!("folder {folder}")))?;
        for file in 0..40u8 {
            std::fs::write(source.join(format!("folder {folder}/file {file}")), noise(file.into(), 50 * usize::from(file)))?;
        }
    }
    std::fs::write(source.join("large"), noise(1, 3_000_000))?;
    std::fs::hard_link(source.join("large"), source.join("the same"))?;
    Ok(std::os::unix::fs::symlink("large", source.join("link"))?)
}

struct Seeds {
    folder: PathBuf,
    count: u32,
}

impl Seeds {
    fn write(&mut self, decoder: &str, bytes: &[u8]) -> Result<()> {
        let folder = self.folder.join(decoder);
        std::fs::create_dir_all(&folder)?;
        self.count += 1;
        Ok(std::fs::write(folder.join(format!("seed-{:03}", self.count)), bytes)?)
    }

    fn pages(&mut self, repository: &Repository, reference: &Reference) -> Result<()> {
        let page = repository.page(reference)?;
        self.write("page", &page.encode())?;
        match &*page {
            Page::Index(rows) => rows.iter().try_for_each(|row| self.pages(repository, &row.reference)),
            Page::Leaf(leaf) => leaf.entries().iter().try_for_each(|entry| {
                if let Content::List { reference, .. } = &entry.content {
                    self.write("list", &repository.list(reference)?.encode())?;
                }
                entry.subtree.as_ref().and_then(|subtree| subtree.page).map_or(Ok(()), |page| self.pages(repository, &page))
            }),
        }
    }

    /// What is sealed in an object.
    fn object(&mut self, repository: &Repository, kind: ObjectKind, bytes: &[u8]) -> Result<()> {
        let ring = repository.ring();
        let structure = |epoch| ring.structure(epoch);
        let (_, head, sealed) = Header::decode(bytes)?;
        self.write("header", head)?;
        let open = |key: &Key, index, sealed: &[u8]| object::open_section(key, head, index, true, sealed);
        match kind {
            ObjectKind::DataPack => {
                let tail = bytes.last_chunk().context("a pack has a tail")?;
                let start = bytes.len() - usize::try_from(pack::trailer_span(tail, bytes.len() as u64)?)?;
                let trailer = bytes.get(start..bytes.len() - pack::TAIL_LENGTH).context("a pack has a trailer")?;
                self.write("trailer", &open(&ring.current().structure, 0, trailer)?)
            }
            ObjectKind::Shard => {
                let (sealed, tail) = sealed.split_last_chunk::<16>().context("a shard has a tail")?;
                let number = |at: usize| tail.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes));
                let (blocks, fence) = sealed.split_at(sealed.len() - number(0) as usize);
                let body = open(&ring.current().index, number(4).into(), fence)?;
                self.write("signed_body", &body)?;
                self.write("fence", &Signed::decode(&body)?.payload)?;
                let first = blocks.get(..blocks.len().min(16_384)).context("within")?;
                self.write("entries", &object::open_section(&ring.current().index, head, 0, false, first)?)
            }
            ObjectKind::Catalogue => {
                let (_, signed) = object::decode_signed(bytes, kind, ring.repository, |epoch| ring.catalogue(epoch))?;
                self.write("catalogue", &signed.payload)
            }
            _ => {
                let (_, signed) = object::decode_signed(bytes, kind, ring.repository, structure)?;
                let decoder = match kind {
                    ObjectKind::Session => "session",
                    ObjectKind::Seal => "seal",
                    _ => "root_signed",
                };
                if kind == ObjectKind::Config {
                    self.write("config", &signed.payload)?;
                }
                self.write(decoder, &signed.payload)
            }
        }
    }

    fn tables(&mut self) -> Result<()> {
        let path = TreePath::parse(b"folder/file")?;
        let link = LinkRow { position: 3, leader: 2, link_count: 2 };
        self.write("links", &encode_links(&[link, LinkRow { position: 9, ..link }]))?;
        let finding = |place| Finding { severity: Severity::Warning, place, message: "cannot be read".into() };
        let places = [Place::Operation, Place::Object("snap/1".into()), Place::Path(path.clone())];
        self.write("findings", &encode_findings(&places.map(finding)))?;
        let change = Change {
            path,
            kind: ChangeKind::New,
            entry_kind: Some(EntryKind::File),
            size: Some(7),
            size_before: None,
            mtime: Timestamp::new(1_795_000_000, 5),
        };
        self.write("changes", &encode_changes(&[change.clone(), Change { kind: ChangeKind::Removed, size_before: Some(9), ..change }]))?;
        let said = Tombstones {
            run: RunId::from_bytes([15; 16]),
            device: DeviceId::from_bytes([16; 16]),
            time: Timestamp::default(),
            server_time: Timestamp::new(1, 0),
            why: "last:28".into(),
            forgotten: vec![SnapshotId::from_bytes([17; 32])],
            undone: vec![(ObjectHash::from_bytes([18; 32]), SnapshotId::from_bytes([19; 32]))],
        };
        self.write("tombstones", &said.encode())?;
        let mark = Mark {
            run: said.run,
            device: said.device,
            time: said.time,
            server_time: said.server_time,
            grace: Duration::from_secs(7 * 86_400),
            packs: vec![PackId::from_bytes([20; 16]), PackId::from_bytes([21; 16])],
            snapshots: vec![(ObjectHash::from_bytes([18; 32]), SnapshotId::from_bytes([19; 32]))],
        };
        self.write("mark", &mark.encode())?;
        let mut compressor = Compressor::new(Compression::Auto);
        let plain = b"again and ".repeat(500);
        let (_, stored) = compressor.compress(&plain);
        let length = u32::try_from(plain.len())?.to_le_bytes();
        self.write("zstd", &[length.get(..3).unwrap_or_default(), stored].concat())
    }
}
