//! A store in which something else happens at one call: what others do meanwhile, at a place that the test chooses.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use fs_core::id::ObjectHash;
use fs_core::storage::{Capabilities, ObjectMeta, ObjectName, ReadStore, StoreError, WriteStore};
use fs_core::time::Timestamp;

type Hook = Box<dyn FnOnce() + Send>;

/// Before its call of a number something is done; otherwise it is the store that it stands for.
pub struct HookedStore {
    inner: Arc<dyn WriteStore>,
    calls: AtomicU64,
    hook: Mutex<Option<(When, Hook)>>,
    /// Nothing can be deleted, as under an object lock.
    is_locked: bool,
}

/// Before which call.
#[derive(Clone, Debug)]
pub enum When {
    /// The one of this number, counted from 1.
    Call(u64),
    /// The first that puts an object whose name begins so.
    Put(&'static str),
    /// The first that deletes one.
    Delete(&'static str),
}

impl std::fmt::Debug for HookedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HookedStore({:?})", self.inner)
    }
}

impl HookedStore {
    /// Does `hook` once, before that call.
    pub fn new(inner: Arc<dyn WriteStore>, when: When, hook: impl FnOnce() + Send + 'static) -> Arc<Self> {
        Arc::new(Self { inner, calls: AtomicU64::new(0), hook: Mutex::new(Some((when, Box::new(hook)))), is_locked: false })
    }

    /// A store that lets go of nothing.
    pub fn locked(inner: Arc<dyn WriteStore>) -> Arc<Self> {
        Arc::new(Self { inner, calls: AtomicU64::new(0), hook: Mutex::default(), is_locked: true })
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Whether it has been done.
    pub fn is_done(&self) -> bool {
        self.hook.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    fn before(&self, is_it: impl Fn(&When) -> bool) {
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let hook = {
            let mut hook = self.hook.lock().unwrap_or_else(PoisonError::into_inner);
            let is_due = hook.as_ref().is_some_and(|(when, _)| matches!(when, When::Call(at) if *at == number) || is_it(when));
            if is_due { hook.take() } else { None }
        };
        if let Some((_, hook)) = hook {
            // On a thread of its own: this one serves the store.
            if let Err(panic) = std::thread::spawn(hook).join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

#[async_trait]
impl ReadStore for HookedStore {
    async fn get(&self, name: &ObjectName) -> Result<Bytes, StoreError> {
        self.before(|_| false);
        self.inner.get(name).await
    }

    async fn get_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.before(|_| false);
        self.inner.get_range(name, range).await
    }

    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        self.before(|_| false);
        self.inner.stat(name).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>) -> Result<Vec<ObjectMeta>, StoreError> {
        self.before(|_| false);
        self.inner.list(prefix, after).await
    }

    async fn server_time(&self) -> Result<Option<Timestamp>, StoreError> {
        self.before(|_| false);
        self.inner.server_time().await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn location(&self) -> String {
        self.inner.location()
    }
}

#[async_trait]
impl WriteStore for HookedStore {
    async fn put_new(&self, name: &ObjectName, bytes: Bytes, checksum: &ObjectHash) -> Result<(), StoreError> {
        self.before(|when| matches!(when, When::Put(prefix) if name.as_str().starts_with(prefix)));
        self.inner.put_new(name, bytes, checksum).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.before(|when| matches!(when, When::Delete(prefix) if name.as_str().starts_with(prefix)));
        if self.is_locked {
            let source = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
            return Err(StoreError::Denied { place: name.to_string(), source });
        }
        self.inner.delete(name).await
    }

    async fn retain(&self, name: &ObjectName, until: Timestamp) -> Result<(), StoreError> {
        self.inner.retain(name, until).await
    }

    fn as_read(self: Arc<Self>) -> Arc<dyn ReadStore> {
        self
    }
}
