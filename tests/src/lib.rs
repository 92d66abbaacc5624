//! The kit that the suite shares: repositories in memory or in a folder, source trees, comparison of trees.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use backup_writer::backup::{BackupOptions, BackupReport, backup};
use backup_writer::create::{NewKey, create, put_hashed};
use backup_writer::device;
use backup_writer::pause::Pauses;
use backup_writer::source::rules::Rules;
use backup_writer::what::What;
use fs_core::compress::Compression;
use fs_core::config::{ChunkSizes, encode_config};
use fs_core::crypto::{Key, SharedRandom};
use fs_core::id::{ObjectHash, SnapshotId};
use fs_core::key::slot::{Credential, PasswordCost};
use fs_core::object::{self, Header, ObjectKind};
use fs_core::observer::Silent;
use fs_core::path::TreePath;
use fs_core::repository::{OpenOptions, Repository};

use fs_core::snapshot::codec::Seal;
use fs_core::snapshot::{Manifest, Snapshot};
use fs_core::storage::WriteStore;
use fs_core::testing::{ManualClock, SeededRandom};

pub mod dav;
pub mod decoders;
pub mod disk;
pub mod driven;
pub mod hooked;
pub mod http;
pub mod line;
pub mod other_system;
pub mod pages;
pub mod picture;
pub mod proxy;
pub mod remote;
pub mod trees;

/// A repository with the key file that opens it.
#[derive(Debug, Clone)]
pub struct Bench {
    /// Its store.
    pub store: Arc<dyn WriteStore>,
    /// Opens it.
    pub credential: Credential,
    /// Its clock, set by hand.
    pub clock: Arc<ManualClock>,
    /// Its randomness.
    pub random: SharedRandom,
}

impl Bench {
    /// A new repository in a store.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn new(store: Arc<dyn WriteStore>) -> Result<Self> {
        let (clock, random): (_, SharedRandom) = (ManualClock::at(later_than_any_file()), SeededRandom::shared(7));
        let credential = Credential::KeyFile(Key::from_bytes([42; 32]));
        let key = NewKey { credential: credential.clone(), label: "test".into(), cost: PasswordCost::LEAST };
        create(&*store, &[key], &(Arc::clone(&clock) as _), &random)?;
        Ok(Self { store, credential, clock, random })
    }

    /// Gives the repository packs and chunks of a 32nd of the usual size, so that a small source fills many.
    ///
    /// # Errors
    /// If it does not open or cannot be written.
    pub fn with_small_packs(self) -> Result<Self> {
        let repository = self.open()?;
        let mut config = repository.config().clone();
        config.generation += 1;
        (config.data_pack_size, config.meta_pack_size) = (config.data_pack_size / 32, config.meta_pack_size / 32);
        let ChunkSizes { min, mean, max, small } = config.chunks;
        config.chunks = ChunkSizes { min: min / 32, mean: mean / 32, max: max / 32, small: small / 32 };
        let ring = repository.ring();
        let header = Header::new(ObjectKind::Config, ring.epoch(), ring.repository, &*self.random);
        let root = ring.root_signer().context("an owner has it")?;
        let object = encode_config(&config, &header, &ring.current().structure, &root);
        put_hashed(&*self.store, object, |hash| object::config_name(config.generation, hash))?;
        Ok(self)
    }

    /// Opens it anew, with empty caches.
    ///
    /// # Errors
    /// If it does not open.
    pub fn open(&self) -> Result<Arc<Repository>> {
        let options = OpenOptions { clock: Arc::clone(&self.clock) as _, random: Arc::clone(&self.random), ..OpenOptions::default() };
        Ok(Arc::new(Repository::open(Arc::clone(&self.store).as_read(), &self.credential, &options)?))
    }

    /// Opens it anew as the program does: with what this machine remembers in `state`, and with the snapshots listed on the way.
    ///
    /// # Errors
    /// If it does not open.
    pub fn open_like_the_program(&self, state: Option<&Path>) -> Result<Arc<Repository>> {
        let (clock, random, state) = (Arc::clone(&self.clock) as _, Arc::clone(&self.random), state.map(Into::into));
        let options = OpenOptions { clock, random, state, list_ahead: true, ..OpenOptions::default() };
        Ok(Arc::new(Repository::open(Arc::clone(&self.store).as_read(), &self.credential, &options)?))
    }

    /// Backs up one folder as host `host`.
    ///
    /// # Errors
    /// If the backup fails.
    pub fn backup(&self, folder: &Path, state: Option<&Path>) -> Result<BackupReport> {
        self.clock.advance(Duration::from_secs(60));
        Ok(backup(&self.open()?, &self.store, &options(folder, state), &Silent)?)
    }
}

/// Adds `count` snapshots that show what the newest one shows, one a minute, as a device of its own, and rolls them up `roll_up_every` so many.
///
/// # Errors
/// If the store cannot be read or written.
pub fn add_snapshots(bench: &Bench, count: u64, roll_up_every: u64) -> Result<()> {
    let repository = bench.open()?;
    let snapshots = repository.snapshots()?;
    let model = snapshots.last().context("there is no snapshot yet")?;
    let (signer, random) = (device::open(&repository, &*bench.store, None, "many")?, &*bench.random);
    let mut manifest = Manifest { device: signer.device, sequence: 0, previous: None, ..model.manifest()? };
    for n in 1..=count {
        manifest.sequence = n;
        manifest.started = manifest.started.saturating_add(Duration::from_secs(60));
        manifest.ended = manifest.started;
        let name = |kind| move |hash: &ObjectHash| object::sequence_name(kind, &signer.device, n, hash);
        let manifest_object = manifest.encode_object(repository.ring(), &signer, random)?;
        let id = SnapshotId::from(put_hashed(&*bench.store, manifest_object, name(ObjectKind::Manifest))?);
        let seal = Seal { device: signer.device, sequence: n, manifest: id, time: manifest.ended };
        put_hashed(&*bench.store, seal.encode_object(repository.ring(), &signer, random), name(ObjectKind::Seal))?;
        manifest.previous = Some(id);
        if n % roll_up_every == 0
            && let Some(catalogue) = repository.roll_up()?
        {
            let object = catalogue.encode_object(repository.ring(), &signer, random)?;
            let hash = put_hashed(&*bench.store, object, |hash| object::hashed_name(ObjectKind::Catalogue, hash))?;
            repository.rolled_up(hash, &catalogue);
        }
    }
    Ok(())
}

/// Options for a backup of one folder.
pub fn options(folder: &Path, state: Option<&Path>) -> BackupOptions {
    BackupOptions {
        paths: vec![folder.into()],
        shown_as: Vec::new(),
        devices: Vec::new(),
        streams: Vec::new(),
        host: "host".into(),
        set: None,
        tags: Vec::new(),
        rules: Rules::default(),
        never: Vec::new(),
        state: state.map(Into::into),
        gentle: false,
        shadow_copies: false,
        reread: false,
        compression: Compression::Auto,
        pauses: Pauses::default(),
        utc_offset_minutes: 0,
        tool_version: "test".into(),
        keep_changes: false,
    }
}

/// Tomorrow by the system's clock: files that a test has just made are old enough to be trusted.
#[expect(clippy::disallowed_methods, reason = "compared with times that the file system gives")]
pub fn later_than_any_file() -> fs_core::time::Timestamp {
    fs_core::time::Timestamp::from(std::time::SystemTime::now()).saturating_add(Duration::from_secs(86_400))
}

/// A file or directory, as `stat` and reading tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Kind and permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Length; 0 for directories.
    pub size: u64,
    /// Time of modification; `None` where it is not compared.
    pub mtime: (i64, i64),
    /// Device number.
    pub device: u64,
    /// Links to it; 0 for directories.
    pub links: u64,
    /// Content of a file, target of a link.
    pub bytes: Vec<u8>,
    /// Extended attributes, ACLs among them.
    pub attributes: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Everything below a folder by relative path.
///
/// # Errors
/// If something cannot be read.
pub fn look(folder: &Path) -> Result<BTreeMap<PathBuf, Seen>> {
    let (mut seen, mut open) = (BTreeMap::new(), vec![PathBuf::new()]);
    while let Some(path) = open.pop() {
        for item in std::fs::read_dir(folder.join(&path)).with_context(|| path.display().to_string())? {
            let place = path.join(item?.file_name());
            let whole = folder.join(&place);
            let metadata = whole.symlink_metadata()?;
            let bytes = if metadata.is_file() {
                std::fs::read(&whole)?
            } else if metadata.is_symlink() {
                std::fs::read_link(&whole)?.as_os_str().as_bytes().to_vec()
            } else {
                Vec::new()
            };
            let is_directory = metadata.is_dir();
            seen.insert(
                place.clone(),
                Seen {
                    mode: metadata.permissions().mode(),
                    owner: (metadata.uid(), metadata.gid()),
                    size: if is_directory { 0 } else { metadata.size() },
                    mtime: (metadata.mtime(), metadata.mtime_nsec()),
                    device: metadata.rdev(),
                    links: if is_directory { 0 } else { metadata.nlink() },
                    bytes,
                    attributes: attributes(&whole)?,
                },
            );
            if is_directory {
                open.push(place);
            }
        }
    }
    Ok(seen)
}

/// Extended attributes of an entry, of a link itself.
///
/// # Errors
/// If they cannot be read.
pub fn attributes(path: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut buffer = vec![0; 1 << 16];
    let length = match rustix::fs::llistxattr(path, &mut buffer[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(error) => return Err(error.into()),
    };
    let names: Vec<_> =
        buffer.get(..length).unwrap_or_default().split(|&b| b == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect();
    let mut found = BTreeMap::new();
    for name in names {
        let length = rustix::fs::lgetxattr(path, &name[..], &mut buffer[..])?;
        found.insert(name, buffer.get(..length).unwrap_or_default().to_vec());
    }
    Ok(found)
}

/// An access control list in the kernel's form: entries of tag, permission bits and id.
pub fn access_list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let entry = |(tag, bits, id): &(u16, u16, u32)| [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat();
    [2u32.to_le_bytes().to_vec()].into_iter().chain(entries.iter().map(entry)).flatten().collect()
}

/// One path of a snapshot, to be restored or exported.
pub fn only(snapshot: &Snapshot, path: &TreePath) -> [What; 1] {
    [What { snapshot: snapshot.clone(), path: path.clone() }]
}

/// The program, built beside the tests by `tests/run`.
///
/// # Panics
/// If the system does not say where the tests run.
pub fn program() -> PathBuf {
    let tests = std::env::current_exe().expect("the system knows what runs");
    tests.ancestors().nth(2).map(|folder| folder.join("yesterdrive")).expect("tests lie two folders below")
}

/// A list of access that says what the mode says, and that `user` may read.
pub fn acl(user: u32) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    access_list(&[(1, 6, NOBODY), (2, 4, user), (4, 4, NOBODY), (16, 4, NOBODY), (32, 4, NOBODY)])
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fs_core::crypto::RandomSource::fill(&*SeededRandom::shared(seed), &mut bytes);
    bytes
}
