//! What a run was told to save, put in order: paths and devices by where the snapshot shows them, streams by name.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_core::path::Name;

use super::{BackupError, BackupOptions};
use crate::source::stream::Stream;
use crate::source::{self, LiveTree};
use crate::system;

/// The folder of a snapshot that holds streams.
pub(super) const STREAM_FOLDER: &str = "stdin";

/// A path to save.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NamedPath {
    /// Where the snapshot shows it: absolute.
    pub shown: PathBuf,
    /// Where it is read.
    pub path: PathBuf,
    /// Whether it is read as a block device.
    pub is_device: bool,
}

/// All that is saved.
#[derive(Default)]
pub(super) struct Named {
    /// Sorted, none shown inside another.
    pub paths: Vec<NamedPath>,
    pub streams: Vec<Arc<Stream>>,
}

impl Named {
    pub(super) fn of(options: &BackupOptions) -> Result<Self, BackupError> {
        if !options.shown_as.is_empty() && options.shown_as.len() != options.paths.len() {
            return Err(BackupError::ShownAs { paths: options.paths.len(), places: options.shown_as.len() });
        }
        let mut paths = Vec::new();
        for (at, path) in options.paths.iter().enumerate() {
            let path = absolute(path)?;
            let shown = options.shown_as.get(at).map_or_else(|| Ok(path.clone()), |shown| place(shown))?;
            let root = system::root();
            if (path == root) != (shown == root) && !(shown == root && path.is_dir()) {
                let source = std::io::Error::other("only a folder can be shown as the root, and the root nowhere else");
                return Err(BackupError::Path { path, source });
            }
            paths.push(NamedPath { shown, path, is_device: false });
        }
        for path in &options.devices {
            let path = absolute(path)?;
            LiveTree::default().device(&path, None).map_err(|source| BackupError::BlockDevice { path: path.clone(), source })?;
            paths.push(NamedPath { shown: path.clone(), path, is_device: true });
        }
        let paths = apart(paths)?;
        let streams: Vec<_> = options.streams.iter().cloned().map(Arc::new).collect();
        let mut names: HashSet<&Name> = HashSet::new();
        if let Some(twice) = streams.iter().find(|stream| !names.insert(&stream.name)) {
            return Err(BackupError::Twice { name: twice.name.clone() });
        }
        let folder = system::root().join(STREAM_FOLDER);
        let holds_folder = |named: &NamedPath| {
            named.shown.starts_with(&folder) || named.shown == system::root() && named.path.join(STREAM_FOLDER).symlink_metadata().is_ok()
        };
        if !streams.is_empty() && paths.iter().any(holds_folder) {
            return Err(BackupError::Inside { inner: "what is read from commands".into(), outer: folder });
        }
        if paths.is_empty() && streams.is_empty() { Err(BackupError::Nothing) } else { Ok(Self { paths, streams }) }
    }

    /// Where the paths are read, in the form in which a snapshot would show that.
    pub(super) fn read_paths(&self) -> Vec<Vec<u8>> {
        self.paths.iter().map(|named| system::shown_bytes(&named.path).into_owned()).collect()
    }

    /// How the manifest names them.
    pub(super) fn sources(&self) -> Vec<Vec<u8>> {
        let paths = self.paths.iter().map(|named| system::shown_bytes(&named.shown).into_owned());
        let streams = self.streams.iter().map(|stream| [STREAM_FOLDER.as_bytes(), b"/", stream.name.as_bytes()].concat());
        paths.chain(streams).collect()
    }
}

/// Sorted, and none inside another: a folder brings along what is in it, unless that is shown in another way.
fn apart(mut all: Vec<NamedPath>) -> Result<Vec<NamedPath>, BackupError> {
    all.sort();
    let mut apart: Vec<NamedPath> = Vec::new();
    for named in all {
        match apart.last() {
            Some(outer) if named.shown.starts_with(&outer.shown) => {
                let is_plain = |named: &NamedPath| !named.is_device && named.path == named.shown;
                if named != *outer && !(is_plain(&named) && is_plain(outer)) {
                    return Err(BackupError::Inside { inner: named.shown, outer: outer.shown.clone() });
                }
            }
            _ => apart.push(named),
        }
    }
    Ok(apart)
}

fn absolute(path: &Path) -> Result<PathBuf, BackupError> {
    source::absolute(path).map_err(|source| BackupError::Path { path: path.into(), source })
}

/// Where something is shown that need not be there itself, only the folder that it is in.
fn place(shown: &Path) -> Result<PathBuf, BackupError> {
    let failed = |source| BackupError::Path { path: shown.into(), source };
    match (shown.parent(), shown.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(parent.canonicalize().map_err(failed)?.join(name))
        }
        _ => shown.canonicalize().map_err(failed),
    }
}
