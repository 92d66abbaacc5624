//! The repository that `tests/windows/fixture` has made on Linux, behind stores that count, wait or fail.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_core::key::slot::Credential;
use fs_core::repository::{OpenOptions, Repository};
use fs_core::storage::WriteStore;
use fs_core::storage::local::LocalStore;

use super::client::Client;

/// A repository that is open.
pub struct Opened {
    pub repository: Arc<Repository>,
}

/// Where the fixture is; `None` if nobody has made one.
pub fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("YESTERDRIVE_TEST_FIXTURE").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: tests/windows/run makes a repository and names it in YESTERDRIVE_TEST_FIXTURE");
    }
    folder
}

/// Its store.
pub fn store(folder: &Path) -> Arc<dyn WriteStore> {
    Arc::new(LocalStore::open(folder.join("repository")).unwrap())
}

/// Opens it through a store, with empty caches.
pub fn open(folder: &Path, store: Arc<dyn WriteStore>) -> Opened {
    let key = std::fs::read_to_string(folder.join("key")).unwrap();
    let credential = Credential::from_key_file(&key).unwrap();
    let options = OpenOptions::default();
    Opened { repository: Arc::new(Repository::open(store.as_read(), &credential, &options).unwrap()) }
}

/// A drive over it, and the path of what was saved.
pub fn mounted() -> Option<(Client, String)> {
    let folder = folder()?;
    let client = Client::new(&open(&folder, store(&folder)));
    let root = root(&client);
    Some((client, root))
}

/// The path of what was saved, links followed.
pub fn root(client: &Client) -> String {
    let handle = client.folder("\\Latest\\FIXTURE\\source");
    client.close(&handle);
    String::from_utf16(&handle.path).unwrap()
}

/// What the fixture writes as text.
pub fn text(seed: usize, offset: usize, length: usize) -> Vec<u8> {
    let lines = (offset / 16)..(offset + length).div_ceil(16);
    let text: Vec<u8> = lines.flat_map(|n| format!("{seed:06} {n:08}\n").into_bytes()).collect();
    text[offset % 16..offset % 16 + length].to_vec()
}

/// Lengths of the texts.
pub const BIG: usize = 5_000_003;
pub const SMALL_COUNT: usize = 500;
pub const MANY_COUNT: usize = 100_000;
