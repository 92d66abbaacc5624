//! Files that are held open, so that a ranged read is one call to the system instead of nine.
//!
//! Objects never change, so a held file says nothing wrong; but it can outlive its object, whose room on the disk it then holds, and hide that the store is
//! gone. So every listing lets go of all files, which is how a mount looks for new snapshots every few seconds, and a file is opened anew after
//! [`USES_MAX`] reads. A read that fails lets go too, and is tried once more from the name.

use std::fmt;
use std::fs::File;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::storage::ObjectName;

/// Files that are held open. A process may have a thousand by default.
const FILES_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not zero");
/// Reads of a file before it is opened anew.
const USES_MAX: u32 = 1 << 10;

/// The files used last.
pub(super) struct OpenedFiles(Mutex<LruCache<ObjectName, Opened>>);

struct Opened {
    file: Arc<File>,
    size: u64,
    uses_left: u32,
}

impl OpenedFiles {
    pub(super) fn new() -> Self {
        Self(Mutex::new(LruCache::new(FILES_MAX)))
    }

    /// A held file and its size when it was opened.
    pub(super) fn get(&self, name: &ObjectName) -> Option<(Arc<File>, u64)> {
        let mut files = self.files();
        let opened = files.get_mut(name)?;
        opened.uses_left = opened.uses_left.saturating_sub(1);
        let found = (Arc::clone(&opened.file), opened.size);
        if opened.uses_left == 0 {
            files.pop(name);
        }
        Some(found)
    }

    /// Holds a file.
    pub(super) fn put(&self, name: &ObjectName, file: &Arc<File>, size: u64) {
        self.files().put(name.clone(), Opened { file: Arc::clone(file), size, uses_left: USES_MAX });
    }

    /// Lets go of a file.
    pub(super) fn drop_file(&self, name: &ObjectName) {
        self.files().pop(name);
    }

    /// Lets go of all files.
    pub(super) fn drop_all(&self) {
        self.files().clear();
    }

    fn files(&self) -> MutexGuard<'_, LruCache<ObjectName, Opened>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for OpenedFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} opened files", self.files().len())
    }
}
