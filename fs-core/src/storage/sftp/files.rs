//! Files that are open for reading on the server. Opening one takes a round trip, which is as long as reading a record from it, so some stay open.
//!
//! Objects never change. One that somebody else deletes can be read until the next listing here, as from a local store.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::connection::Connection;
use crate::storage::ObjectName;

/// Files that stay open.
const KEPT: usize = 32;

/// An open file; closed when nobody reads from it any more, without waiting for the server.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) connection: Arc<Connection>,
    pub(super) handle: String,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // Outside the runtime the whole connection is going.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (connection, handle) = (Arc::clone(&self.connection), std::mem::take(&mut self.handle));
        runtime.spawn(async move { drop(connection.sftp.close(handle).await) });
    }
}

/// Those that stay open, by their objects.
#[derive(Debug)]
pub(super) struct OpenFiles(Mutex<LruCache<ObjectName, Arc<OpenFile>>>);

impl Default for OpenFiles {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(NonZeroUsize::new(KEPT).unwrap_or(NonZeroUsize::MIN))))
    }
}

impl OpenFiles {
    /// One that was opened on this connection.
    pub(super) fn get(&self, connection: &Arc<Connection>, name: &ObjectName) -> Option<Arc<OpenFile>> {
        self.files().get(name).filter(|file| Arc::ptr_eq(&file.connection, connection)).cloned()
    }

    pub(super) fn keep(&self, name: &ObjectName, file: &Arc<OpenFile>) {
        self.files().put(name.clone(), Arc::clone(file));
    }

    pub(super) fn forget(&self, name: &ObjectName) {
        self.files().pop(name);
    }

    pub(super) fn forget_all(&self) {
        self.files().clear();
    }

    fn files(&self) -> MutexGuard<'_, LruCache<ObjectName, Arc<OpenFile>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
