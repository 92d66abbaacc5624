//! A store that tells of every call before it happens: a test moves a clock or takes something away between two steps of an operation.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use fs_core::id::ObjectHash;
use fs_core::storage::{Capabilities, ObjectMeta, ObjectName, ReadStore, StoreError, WriteStore};
use fs_core::testing::CallKind;
use fs_core::time::Timestamp;

/// Is told the kind of a call and the name or prefix that it is about.
pub type Hook = dyn Fn(CallKind, &str) + Send + Sync;

/// Tells before it calls.
pub struct HookedStore {
    inner: Arc<dyn WriteStore>,
    hook: Box<Hook>,
}

impl HookedStore {
    /// Tells `hook`.
    pub fn new(inner: Arc<dyn WriteStore>, hook: impl Fn(CallKind, &str) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { inner, hook: Box::new(hook) })
    }
}

impl fmt::Debug for HookedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HookedStore({:?})", self.inner)
    }
}

#[async_trait]
impl ReadStore for HookedStore {
    async fn get(&self, name: &ObjectName) -> Result<Bytes, StoreError> {
        (self.hook)(CallKind::Get, name.as_str());
        self.inner.get(name).await
    }

    async fn get_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, StoreError> {
        (self.hook)(CallKind::GetRange, name.as_str());
        self.inner.get_range(name, range).await
    }

    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        (self.hook)(CallKind::Stat, name.as_str());
        self.inner.stat(name).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>) -> Result<Vec<ObjectMeta>, StoreError> {
        (self.hook)(CallKind::List, prefix);
        self.inner.list(prefix, after).await
    }

    async fn server_time(&self) -> Result<Option<Timestamp>, StoreError> {
        (self.hook)(CallKind::ServerTime, "");
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
        (self.hook)(CallKind::Put, name.as_str());
        self.inner.put_new(name, bytes, checksum).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        (self.hook)(CallKind::Delete, name.as_str());
        self.inner.delete(name).await
    }

    fn as_read(self: Arc<Self>) -> Arc<dyn ReadStore> {
        self
    }
}
