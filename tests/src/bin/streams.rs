//! Adds a snapshot as Windows makes them to a repository in a folder: a file and a folder with alternate streams, which Linux cannot save.
//! Contents follow the rule of `tests/windows/fixture`.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use backup_writer::device;
use fs_core::key::slot::Credential;
use fs_core::repository::{OpenOptions, Repository};
use fs_core::storage::WriteStore;
use fs_core::storage::local::LocalStore;
use fs_core::tree::EntryKind;
use tests::other_system::{Planter, content, named, stream};

fn text(seed: usize, size: usize) -> Vec<u8> {
    (0..size.div_ceil(16)).flat_map(|n| format!("{seed:06} {n:08}\n").into_bytes()).take(size).collect()
}

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (folder, key) = arguments.next().zip(arguments.next()).context("usage: streams REPOSITORY KEY-FILE")?;
    let store: Arc<dyn WriteStore> = Arc::new(LocalStore::open(folder)?);
    let credential = Credential::from_key_file(&std::fs::read_to_string(key)?)?;
    let repository = Arc::new(Repository::open(Arc::clone(&store).as_read(), &credential, &OpenOptions::default())?);
    let signer = device::open(&repository, &*store, None, "other system")?;
    Planter { repository, store, signer }.plant((1, None), |packer| {
        let (mut file, mut folder) = (named("download.exe", EntryKind::File), named("folder", EntryKind::Directory));
        (file.size, file.content) = (11, content(packer, b"hello world")?);
        file.streams =
            vec![stream(packer, "Zone.Identifier", b"[ZoneTransfer]\r\nZoneId=3\r\n")?, stream(packer, "long", &text(3, 100_000))?];
        folder.streams = vec![stream(packer, "of a folder", b"said of a folder")?];
        let mut link = named("shortcut", EntryKind::Symlink);
        (link.size, link.target) = (12, Some(b"download.exe".to_vec()));
        Ok(vec![file, folder, link])
    })?;
    Ok(())
}
