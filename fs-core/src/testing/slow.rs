//! Calls that wait until a test lets them go on: orders of events that otherwise need luck.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Call, CallKind};
use crate::id::ObjectHash;
use crate::storage::{Capabilities, ObjectMeta, ObjectName, ReadStore, StoreError, WriteStore};
use crate::time::Timestamp;

/// How long a test waits for calls to arrive before it is judged to be stuck.
const ARRIVAL_DEADLINE: Duration = Duration::from_secs(60);

/// Holds calls at a gate, before they reach the store. The gate is open at first.
#[derive(Debug)]
pub struct SlowStore {
    inner: Arc<dyn WriteStore>,
    gate: Mutex<Gate>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Gate {
    is_closed: bool,
    /// Only calls of this kind are held; `None` for all.
    kind: Option<CallKind>,
    waiting: VecDeque<(Call, oneshot::Sender<()>)>,
}

impl Gate {
    /// Calls whose caller has given up are not waiting any more.
    fn forget_abandoned(&mut self) {
        self.waiting.retain(|(_, pass)| !pass.is_closed());
    }
}

impl SlowStore {
    /// Everything passes until the gate is closed.
    pub fn new(inner: Arc<dyn WriteStore>) -> Arc<Self> {
        Arc::new(Self { inner, gate: Mutex::default(), arrived: Condvar::new() })
    }

    /// From now on calls wait: those of one kind, or all.
    pub fn close(&self, kind: Option<CallKind>) {
        let mut gate = self.gate();
        gate.is_closed = true;
        gate.kind = kind;
    }

    /// Lets everybody go on, in the order of arrival, and leaves the gate open.
    pub fn open(&self) {
        let mut gate = self.gate();
        gate.is_closed = false;
        for (_, pass) in gate.waiting.drain(..) {
            // A caller that has given up does not mind.
            let _ = pass.send(());
        }
    }

    /// Lets the call that has waited longest go on; says which, or `None` if nobody waits.
    pub fn let_one_pass(&self) -> Option<Call> {
        let mut gate = self.gate();
        gate.forget_abandoned();
        while let Some((call, pass)) = gate.waiting.pop_front() {
            if pass.send(()).is_ok() {
                return Some(call);
            }
        }
        None
    }

    /// The calls at the gate, in the order of arrival.
    pub fn waiting(&self) -> Vec<Call> {
        let mut gate = self.gate();
        gate.forget_abandoned();
        gate.waiting.iter().map(|(call, _)| call.clone()).collect()
    }

    /// Blocks the test until at least `count` calls are at the gate.
    ///
    /// # Panics
    /// If they do not come within a minute.
    pub fn wait_for(&self, count: usize) {
        let too_few = |gate: &mut Gate| {
            gate.forget_abandoned();
            gate.waiting.len() < count
        };
        let (gate, timeout) =
            self.arrived.wait_timeout_while(self.gate(), ARRIVAL_DEADLINE, too_few).unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "{count} calls should be at the gate: {:?}", gate.waiting);
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pass(&self, call: Call) {
        let passed = {
            let mut gate = self.gate();
            if !gate.is_closed || gate.kind.is_some_and(|kind| kind != call.kind) {
                return;
            }
            let (pass, passed) = oneshot::channel();
            gate.waiting.push_back((call, pass));
            self.arrived.notify_all();
            passed
        };
        // The gate drops nobody without a pass.
        let _ = passed.await;
    }
}

#[async_trait]
impl ReadStore for SlowStore {
    async fn get(&self, name: &ObjectName) -> Result<Bytes, StoreError> {
        self.pass(Call::on(CallKind::Get, name)).await;
        self.inner.get(name).await
    }

    async fn get_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.pass(Call::with_range(CallKind::GetRange, name, &range)).await;
        self.inner.get_range(name, range).await
    }

    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        self.pass(Call::on(CallKind::Stat, name)).await;
        self.inner.stat(name).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>) -> Result<Vec<ObjectMeta>, StoreError> {
        self.pass(Call::new(CallKind::List, prefix)).await;
        self.inner.list(prefix, after).await
    }

    async fn server_time(&self) -> Result<Option<Timestamp>, StoreError> {
        self.pass(Call::new(CallKind::ServerTime, "")).await;
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
impl WriteStore for SlowStore {
    async fn put_new(&self, name: &ObjectName, bytes: Bytes, checksum: &ObjectHash) -> Result<(), StoreError> {
        self.pass(Call::on(CallKind::Put, name)).await;
        self.inner.put_new(name, bytes, checksum).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.pass(Call::on(CallKind::Delete, name)).await;
        self.inner.delete(name).await
    }

    async fn retain(&self, name: &ObjectName, until: Timestamp) -> Result<(), StoreError> {
        self.pass(Call::on(CallKind::Retain, name)).await;
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
    fn keeps_the_contract_while_open() {
        contract::run(|| SlowStore::new(Arc::new(MemoryStore::new())));
    }

    #[test]
    fn held_calls_have_no_effect_until_they_pass() {
        let memory = MemoryStore::new();
        let store = SlowStore::new(Arc::new(memory.clone()));
        store.close(Some(CallKind::Put));
        std::thread::scope(|scope| {
            scope.spawn(|| contract::put(&*store, "a", b"1").unwrap());
            store.wait_for(1);
            scope.spawn(|| contract::put(&*store, "b", b"2").unwrap());
            store.wait_for(2);
            assert_eq!(wait("", store.list("", None)).unwrap(), [], "other kinds pass");
            assert_eq!(store.let_one_pass(), Some(Call::new(CallKind::Put, "a")));
            assert_eq!(store.waiting(), [Call::new(CallKind::Put, "b")]);
            store.open();
        });
        assert_eq!(memory.contents().len(), 2);
        assert_eq!(store.let_one_pass(), None);
    }

    #[test]
    fn a_caller_that_gives_up_leaves_the_gate() {
        let store = SlowStore::new(Arc::new(MemoryStore::new()));
        store.close(None);
        let name = ObjectName::new("a");
        let polled_once = wait("", async { Ok(tokio::time::timeout(Duration::ZERO, store.stat(&name)).await) }).unwrap();
        assert!(polled_once.is_err());
        assert_eq!(store.waiting(), []);
    }
}
