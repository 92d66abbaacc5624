//! A machine's way to the store: it may fall asleep at one of its calls, and what it is about to put is noted before anybody can see it.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use fs_core::id::ObjectHash;
use fs_core::storage::{Capabilities, ObjectMeta, ObjectName, ReadStore, StoreError, WriteStore};
use fs_core::time::Timestamp;

use super::lock;

/// What is done with the name of each object before it is put.
pub(super) type Notice = Box<dyn Fn(&ObjectName) + Send + Sync>;

/// When a machine falls asleep, and what happens until it wakes.
pub(super) struct Nap {
    /// Before the call of this number, counted from 1.
    pub(super) at: u64,
    pub(super) meanwhile: Box<dyn FnOnce() + Send>,
}

pub(super) struct Line {
    store: Arc<dyn WriteStore>,
    calls: AtomicU64,
    nap: Mutex<Option<Nap>>,
    notice: Notice,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Line({:?})", self.store)
    }
}

impl Line {
    pub(super) fn new(store: Arc<dyn WriteStore>, nap: Option<Nap>, notice: Notice) -> Arc<Self> {
        Arc::new(Self { store, calls: AtomicU64::new(0), nap: Mutex::new(nap), notice })
    }

    /// Whether there is no nap to come any more.
    pub(super) fn is_awake(&self) -> bool {
        lock(&self.nap).is_none()
    }

    fn before(&self) {
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        // Held while the machine sleeps: what its other threads ask for waits too.
        let mut nap = lock(&self.nap);
        if nap.as_ref().is_some_and(|nap| nap.at <= number)
            && let Some(nap) = nap.take()
            // On a thread of its own: this one serves the store.
            && let Err(panic) = std::thread::spawn(nap.meanwhile).join()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

#[async_trait]
impl ReadStore for Line {
    async fn get(&self, name: &ObjectName) -> Result<Bytes, StoreError> {
        self.before();
        self.store.get(name).await
    }

    async fn get_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.before();
        self.store.get_range(name, range).await
    }

    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        self.before();
        self.store.stat(name).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>) -> Result<Vec<ObjectMeta>, StoreError> {
        self.before();
        self.store.list(prefix, after).await
    }

    async fn server_time(&self) -> Result<Option<Timestamp>, StoreError> {
        self.before();
        self.store.server_time().await
    }

    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    fn location(&self) -> String {
        self.store.location()
    }
}

#[async_trait]
impl WriteStore for Line {
    async fn put_new(&self, name: &ObjectName, bytes: Bytes, checksum: &ObjectHash) -> Result<(), StoreError> {
        self.before();
        (self.notice)(name);
        self.store.put_new(name, bytes, checksum).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.before();
        self.store.delete(name).await
    }

    async fn retain(&self, name: &ObjectName, until: Timestamp) -> Result<(), StoreError> {
        self.before();
        self.store.retain(name, until).await
    }

    fn as_read(self: Arc<Self>) -> Arc<dyn ReadStore> {
        self
    }
}
