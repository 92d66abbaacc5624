//! In which order an operation calls its store, and what a test does between two of its calls.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::call::length;
use super::{Call, CallKind};
use crate::id::ObjectHash;
use crate::storage::{Capabilities, ObjectMeta, ObjectName, ReadStore, StoreError, WriteStore};
use crate::time::Timestamp;

/// Is told the kind of a call and the name or prefix that it is about, before it happens.
type Hook = dyn Fn(CallKind, &str) + Send + Sync;

/// Writes down every call in the order in which they begin.
pub struct RecordingStore {
    inner: Arc<dyn WriteStore>,
    calls: Mutex<Vec<Call>>,
    hook: Box<Hook>,
}

impl fmt::Debug for RecordingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordingStore({:?})", self.inner)
    }
}

impl RecordingStore {
    /// Begins with an empty log.
    pub fn new(inner: Arc<dyn WriteStore>) -> Arc<Self> {
        Self::telling(inner, |_, _| ())
    }

    /// Tells a hook of each call too: a test moves a clock or takes something away between two steps of an operation.
    pub fn telling(inner: Arc<dyn WriteStore>, hook: impl Fn(CallKind, &str) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { inner, calls: Mutex::default(), hook: Box::new(hook) })
    }

    /// The log so far.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The log so far; a new one begins.
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut *self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where calls of one kind went so far, in order.
    pub fn places(&self, kind: CallKind) -> Vec<String> {
        self.calls().into_iter().filter(|call| call.kind == kind).map(|call| call.place).collect()
    }

    fn record(&self, call: Call) {
        (self.hook)(call.kind, &call.place);
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }
}

#[async_trait]
impl ReadStore for RecordingStore {
    async fn get(&self, name: &ObjectName) -> Result<Bytes, StoreError> {
        self.record(Call::on(CallKind::Get, name));
        self.inner.get(name).await
    }

    async fn get_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.record(Call::with_range(CallKind::GetRange, name, &range));
        self.inner.get_range(name, range).await
    }

    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        self.record(Call::on(CallKind::Stat, name));
        self.inner.stat(name).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>) -> Result<Vec<ObjectMeta>, StoreError> {
        self.record(Call::new(CallKind::List, prefix));
        self.inner.list(prefix, after).await
    }

    async fn server_time(&self) -> Result<Option<Timestamp>, StoreError> {
        self.record(Call::new(CallKind::ServerTime, ""));
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
impl WriteStore for RecordingStore {
    async fn put_new(&self, name: &ObjectName, bytes: Bytes, checksum: &ObjectHash) -> Result<(), StoreError> {
        self.record(Call::with_range(CallKind::Put, name, &(0..length(&bytes))));
        self.inner.put_new(name, bytes, checksum).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.record(Call::on(CallKind::Delete, name));
        self.inner.delete(name).await
    }

    async fn retain(&self, name: &ObjectName, until: Timestamp) -> Result<(), StoreError> {
        self.record(Call::on(CallKind::Retain, name));
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
        contract::run(|| RecordingStore::new(Arc::new(MemoryStore::new())));
    }

    #[test]
    fn calls_are_logged_in_order() {
        let store = RecordingStore::new(Arc::new(MemoryStore::new()));
        contract::put(&*store, "pack/a", b"123").unwrap();
        contract::put(&*store, "snap/b", b"").unwrap();
        wait("", store.list("snap/", None)).unwrap();
        wait("", store.get_range(&ObjectName::new("pack/a"), 1..2)).unwrap();
        assert!(wait("", store.get_range(&ObjectName::new("pack/a"), 1..9)).is_err());
        assert_eq!(store.places(CallKind::Put), ["pack/a", "snap/b"]);
        let expected = [
            Call { range: Some(0..3), ..Call::new(CallKind::Put, "pack/a") },
            Call { range: Some(0..0), ..Call::new(CallKind::Put, "snap/b") },
            Call::new(CallKind::List, "snap/"),
            Call { range: Some(1..2), ..Call::new(CallKind::GetRange, "pack/a") },
            Call { range: Some(1..9), ..Call::new(CallKind::GetRange, "pack/a") },
        ];
        assert_eq!(store.take(), expected);
        assert_eq!(store.calls(), []);
    }
}
