//! What an operation costs in requests and bytes.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::call::length;
use crate::id::ObjectHash;
use crate::storage::{Capabilities, ObjectMeta, ObjectName, ReadStore, StoreError, WriteStore};
use crate::time::Timestamp;

/// Requests by kind, failed ones included, and the bytes that they moved.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// `get`
    pub get: u64,
    /// `get_range`
    pub get_range: u64,
    /// `stat`
    pub stat: u64,
    /// `list`
    pub list: u64,
    /// `server_time`
    pub server_time: u64,
    /// `put_new`
    pub put: u64,
    /// `delete`
    pub delete: u64,
    /// `retain`
    pub retain: u64,
    /// Bytes sent, also in vain.
    pub bytes_up: u64,
    /// Bytes received.
    pub bytes_down: u64,
}

impl Counts {
    /// All requests.
    pub fn requests(&self) -> u64 {
        self.get + self.get_range + self.stat + self.list + self.server_time + self.put + self.delete + self.retain
    }
}

/// Counts the calls to a store.
#[derive(Debug)]
pub struct CountingStore {
    inner: Arc<dyn WriteStore>,
    counts: Mutex<Counts>,
    trips: Mutex<Trips>,
}

#[derive(Default, Debug)]
struct Trips {
    under_way: u64,
    count: u64,
}

/// A call under way; it has ended when this is dropped.
struct UnderWay<'a>(&'a CountingStore);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.trips().under_way -= 1;
    }
}

impl CountingStore {
    /// Counts from zero.
    pub fn new(inner: Arc<dyn WriteStore>) -> Arc<Self> {
        Arc::new(Self { inner, counts: Mutex::default(), trips: Mutex::default() })
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counts so far; counting begins anew.
    pub fn reset(&self) -> Counts {
        std::mem::take(&mut *self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How often a reading call began while none was under way, since this was asked last: the round trips that somebody far away has to wait for.
    pub fn round_trips(&self) -> u64 {
        std::mem::take(&mut self.trips().count)
    }

    fn trips(&self) -> MutexGuard<'_, Trips> {
        self.trips.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those who are waited for together all begin before the first of them goes on.
    async fn travel(&self) -> UnderWay<'_> {
        {
            let mut trips = self.trips();
            trips.count += u64::from(trips.under_way == 0);
            trips.under_way += 1;
        }
        let under_way = UnderWay(self);
        tokio::task::yield_now().await;
        under_way
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[async_trait]
impl ReadStore for CountingStore {
    async fn get(&self, name: &ObjectName) -> Result<Bytes, StoreError> {
        self.count(|counts| counts.get += 1);
        let _under_way = self.travel().await;
        let bytes = self.inner.get(name).await?;
        self.count(|counts| counts.bytes_down += length(&bytes));
        Ok(bytes)
    }

    async fn get_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.count(|counts| counts.get_range += 1);
        let _under_way = self.travel().await;
        let bytes = self.inner.get_range(name, range).await?;
        self.count(|counts| counts.bytes_down += length(&bytes));
        Ok(bytes)
    }

    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        self.count(|counts| counts.stat += 1);
        let _under_way = self.travel().await;
        self.inner.stat(name).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>) -> Result<Vec<ObjectMeta>, StoreError> {
        self.count(|counts| counts.list += 1);
        let _under_way = self.travel().await;
        self.inner.list(prefix, after).await
    }

    async fn server_time(&self) -> Result<Option<Timestamp>, StoreError> {
        self.count(|counts| counts.server_time += 1);
        let _under_way = self.travel().await;
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
impl WriteStore for CountingStore {
    async fn put_new(&self, name: &ObjectName, bytes: Bytes, checksum: &ObjectHash) -> Result<(), StoreError> {
        self.count(|counts| {
            counts.put += 1;
            counts.bytes_up += length(&bytes);
        });
        self.inner.put_new(name, bytes, checksum).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.count(|counts| counts.delete += 1);
        self.inner.delete(name).await
    }

    async fn retain(&self, name: &ObjectName, until: Timestamp) -> Result<(), StoreError> {
        self.count(|counts| counts.retain += 1);
        self.inner.retain(name, until).await
    }

    fn as_read(self: Arc<Self>) -> Arc<dyn ReadStore> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::MemoryStore;
    use crate::storage::wait;
    use crate::testing::contract;

    #[test]
    fn keeps_the_contract() {
        contract::run(|| CountingStore::new(Arc::new(MemoryStore::new())));
    }

    #[test]
    fn counts_failures_too_and_begins_anew() {
        let store = CountingStore::new(Arc::new(MemoryStore::new()));
        let name = ObjectName::new("a");
        assert!(wait("", store.get(&name)).is_err());
        contract::put(&*store, "a", b"12345").unwrap();
        assert!(contract::put(&*store, "a", b"123").is_err());
        wait("", store.get_range(&name, 1..3)).unwrap();
        wait("", store.get(&name)).unwrap();
        wait("", store.stat(&name)).unwrap();
        wait("", store.list("", None)).unwrap();
        wait("", store.server_time()).unwrap();
        wait("", store.delete(&name)).unwrap();
        let expected =
            Counts { get: 2, get_range: 1, stat: 1, list: 1, server_time: 1, put: 2, delete: 1, retain: 0, bytes_up: 8, bytes_down: 7 };
        assert_eq!(store.reset(), expected);
        assert_eq!((store.counts(), expected.requests()), (Counts::default(), 9));
    }

    #[test]
    fn what_is_asked_together_is_one_round_trip() {
        let store = CountingStore::new(Arc::new(MemoryStore::new()));
        let names: Vec<_> = (0..20).map(|n| ObjectName::new(format!("a/{n}"))).collect();
        let _ = crate::storage::get_all(&*store, names.iter().map(|name| (name, 0)));
        assert_eq!((store.round_trips(), store.counts().get), (1, 20));
        for name in &names {
            assert!(wait("", store.get(name)).is_err());
        }
        assert_eq!(store.round_trips(), 20);
    }
}
