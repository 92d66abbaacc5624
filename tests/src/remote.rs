//! Stores that behave as those behind a network do: the answer comes later, or now and then none.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use fs_core::storage::{Capabilities, ObjectMeta, ObjectName, ReadStore, StoreError};
use fs_core::time::Timestamp;

/// Answers everything later, on a thread of the network, and of ranges fails some.
#[derive(Debug)]
pub struct RemoteStore {
    inner: Arc<dyn ReadStore>,
    /// One range in so many fails; 0 for none.
    fails_every: u64,
    ranges: AtomicU64,
}

impl RemoteStore {
    /// A store behind a network of which one range in `fails_every` does not come through; 0 for a good network.
    pub fn new(inner: Arc<dyn ReadStore>, fails_every: u64) -> Arc<Self> {
        Arc::new(Self { inner, fails_every, ranges: AtomicU64::new(0) })
    }

    async fn later(&self) {
        tokio::task::yield_now().await;
    }
}

#[async_trait]
impl ReadStore for RemoteStore {
    async fn get(&self, name: &ObjectName) -> Result<Bytes, StoreError> {
        self.later().await;
        self.inner.get(name).await
    }

    async fn get_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.later().await;
        let number = self.ranges.fetch_add(1, Ordering::Relaxed) + 1;
        if self.fails_every > 0 && number.is_multiple_of(self.fails_every) {
            return Err(StoreError::Failed { place: name.to_string(), source: std::io::Error::other("the line was cut") });
        }
        // A network gives every answer memory of its own.
        Ok(Bytes::from(self.inner.get_range(name, range).await?.to_vec()))
    }

    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        self.later().await;
        self.inner.stat(name).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>) -> Result<Vec<ObjectMeta>, StoreError> {
        self.later().await;
        self.inner.list(prefix, after).await
    }

    async fn server_time(&self) -> Result<Option<Timestamp>, StoreError> {
        self.later().await;
        self.inner.server_time().await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn location(&self) -> String {
        self.inner.location()
    }
}
