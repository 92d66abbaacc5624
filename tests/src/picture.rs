//! A folder as it was: the naive model that a drive is compared with. Everything is in memory and found by looking through it.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::{Seen, look};

/// Everything below a folder at one moment.
#[derive(Debug)]
pub struct Picture {
    /// By relative path.
    pub things: BTreeMap<PathBuf, Thing>,
    /// Names in the folder itself, sorted.
    pub names: Vec<Vec<u8>>,
}

/// One entry.
#[derive(Debug)]
pub struct Thing {
    /// What `stat` and reading tell.
    pub seen: Seen,
    /// The parts of a file that are no holes.
    pub extents: Vec<(u64, u64)>,
    /// The first of the paths that lead to it: its own, unless it has several.
    pub first_path: PathBuf,
    /// Names in it, sorted, if it is a directory.
    pub names: Vec<Vec<u8>>,
}

impl Picture {
    /// Looks at a folder.
    ///
    /// # Errors
    /// If something cannot be read.
    pub fn take(folder: &Path) -> Result<Self> {
        let (mut things, mut all, mut firsts) = (BTreeMap::new(), BTreeMap::<PathBuf, Vec<Vec<u8>>>::new(), BTreeMap::new());
        for (path, seen) in look(folder)? {
            let whole = folder.join(&path);
            let metadata = whole.symlink_metadata()?;
            let extents = if metadata.is_file() { extents(&whole)? } else { Vec::new() };
            let is_shared = !metadata.is_dir() && metadata.nlink() > 1;
            let first_path = if is_shared { firsts.entry(metadata.ino()).or_insert_with(|| path.clone()).clone() } else { path.clone() };
            let name = path.file_name().context("a path ends with a name")?.as_bytes().to_vec();
            all.entry(path.parent().unwrap_or(Path::new("")).into()).or_default().push(name);
            things.insert(path, Thing { seen, extents, first_path, names: Vec::new() });
        }
        all.values_mut().for_each(|names| names.sort());
        let names = all.remove(Path::new("")).unwrap_or_default();
        for (path, names) in all {
            things.get_mut(&path).context("a folder was seen")?.names = names;
        }
        Ok(Self { things, names })
    }
}

impl Thing {
    /// Whether it is of this kind: the upper bits of `st_mode`.
    pub fn is(&self, kind: u32) -> bool {
        self.seen.mode & 0o170_000 == kind
    }

    /// Bytes from an offset on, as `pread` gives them.
    pub fn bytes(&self, offset: u64, length: u64) -> &[u8] {
        let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(self.seen.bytes.len());
        self.seen.bytes.get(at(offset)..at(offset.saturating_add(length))).unwrap_or_default()
    }

    /// Where data or a hole begins, as `lseek` tells it; `None` if there is none.
    pub fn seek(&self, offset: u64, to_data: bool) -> Option<u64> {
        let (start, length) = *self.extents.iter().find(|(start, length)| start + length > offset).unwrap_or(&(self.seen.size, 0));
        let is_beyond = offset >= self.seen.size || to_data && start >= self.seen.size;
        let found = match to_data {
            true => start.max(offset),
            false if start <= offset => start + length,
            false => offset,
        };
        (!is_beyond).then_some(found)
    }
}

/// The parts of a file that the system says are there. One that takes as much room as it is long has no holes worth keeping.
fn extents(path: &Path) -> Result<Vec<(u64, u64)>> {
    let file = std::fs::File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.blocks() * 512 >= metadata.size() {
        return Ok(vec![(0, metadata.size())]);
    }
    let (mut extents, mut at) = (Vec::new(), 0);
    loop {
        let start = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => return Ok(extents),
            start => start?,
        };
        at = rustix::fs::seek(&file, SeekFrom::Hole(start))?;
        extents.push((start, at - start));
    }
}
