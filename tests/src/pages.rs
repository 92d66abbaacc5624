//! A store whose lists are no moment: as from a service that hands them out page by page, something else happens between two pages.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use fs_core::id::ObjectHash;
use fs_core::object::ObjectKind;
use fs_core::storage::{Capabilities, ObjectMeta, ObjectName, ReadStore, StoreError, WriteStore};
use fs_core::time::Timestamp;

type Hook = Box<dyn FnOnce() + Send>;

/// Lists everything kind by kind in the order of names, and does something once behind one of them.
pub struct PagedStore {
    inner: Arc<dyn WriteStore>,
    behind: &'static str,
    hook: Mutex<Option<Hook>>,
}

impl std::fmt::Debug for PagedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PagedStore({:?})", self.inner)
    }
}

impl PagedStore {
    /// Does `hook` when the page with this kind has been listed.
    pub fn new(inner: Arc<dyn WriteStore>, behind: ObjectKind, hook: impl FnOnce() + Send + 'static) -> Arc<Self> {
        Arc::new(Self { inner, behind: behind.prefix(), hook: Mutex::new(Some(Box::new(hook))) })
    }
}

#[async_trait]
impl ReadStore for PagedStore {
    async fn get(&self, name: &ObjectName) -> Result<Bytes, StoreError> {
        self.inner.get(name).await
    }

    async fn get_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.inner.get_range(name, range).await
    }

    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        self.inner.stat(name).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>) -> Result<Vec<ObjectMeta>, StoreError> {
        if !prefix.is_empty() {
            return self.inner.list(prefix, after).await;
        }
        let mut kinds = ObjectKind::ALL.map(|(_, _, prefix)| prefix);
        kinds.sort_unstable();
        let mut all = Vec::new();
        for kind in kinds {
            all.extend(self.inner.list(kind, after).await?);
            let hook = if kind == self.behind { self.hook.lock().unwrap_or_else(PoisonError::into_inner).take() } else { None };
            // On a thread of its own: this one serves the store.
            if let Some(Err(panic)) = hook.map(|hook| std::thread::spawn(hook).join()) {
                std::panic::resume_unwind(panic);
            }
        }
        Ok(all)
    }

    async fn server_time(&self) -> Result<Option<Timestamp>, StoreError> {
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
impl WriteStore for PagedStore {
    async fn put_new(&self, name: &ObjectName, bytes: Bytes, checksum: &ObjectHash) -> Result<(), StoreError> {
        self.inner.put_new(name, bytes, checksum).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.inner.delete(name).await
    }

    async fn retain(&self, name: &ObjectName, until: Timestamp) -> Result<(), StoreError> {
        self.inner.retain(name, until).await
    }

    fn as_read(self: Arc<Self>) -> Arc<dyn ReadStore> {
        self
    }
}
