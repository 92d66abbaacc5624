//! A store that fails by script: at the n-th call, in a chosen way.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::call::{Call, CallKind};
use crate::id::ObjectHash;
use crate::storage::{CALL_DEADLINE, Capabilities, ObjectMeta, ObjectName, ReadStore, StoreError, WriteStore};
use crate::time::Timestamp;

/// How a call goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Nothing happens and an error comes back.
    ErrorBefore,
    /// The call takes effect and an error comes back all the same: a lost reply.
    ErrorAfter,
    /// The call takes effect and no reply comes within the deadline.
    Timeout,
    /// A put finds the store full.
    Full,
    /// A list comes back empty. Breaks the contract: what a broken gateway does.
    EmptyList,
    /// This call and every later one fail: the process was killed here, or the line is dead.
    DeadFromHere,
}

impl Fault {
    /// Every way.
    pub const ALL: [Self; 6] = [Self::ErrorBefore, Self::ErrorAfter, Self::Timeout, Self::Full, Self::EmptyList, Self::DeadFromHere];
}

#[derive(Debug, Default)]
struct Script {
    calls: u64,
    fault: Option<(u64, Fault)>,
    log: Vec<Call>,
}

/// Counts calls and breaks one of them.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn WriteStore>,
    script: Mutex<Script>,
}

impl FaultyStore {
    /// A wrapper that breaks nothing yet.
    pub fn new(inner: Arc<dyn WriteStore>) -> Arc<Self> {
        Arc::new(Self { inner, script: Mutex::default() })
    }

    /// Breaks the `at`-th call from now on, counted from 1.
    pub fn fail_at(&self, at: u64, fault: Fault) {
        *self.script() = Script { fault: Some((at, fault)), ..Script::default() };
    }

    /// Breaks nothing any more.
    pub fn heal(&self) {
        self.script().fault = None;
    }

    /// Calls since the script was set.
    pub fn call_count(&self) -> u64 {
        self.script().calls
    }

    /// The calls since the script was set, in order.
    pub fn log(&self) -> Vec<Call> {
        self.script().log.clone()
    }

    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call; the fault that strikes it.
    fn strike(&self, call: &Call) -> Option<Fault> {
        let mut script = self.script();
        script.calls += 1;
        script.log.push(call.clone());
        let (at, fault) = script.fault?;
        (script.calls == at || (fault == Fault::DeadFromHere && script.calls > at)).then_some(fault)
    }
}

/// What a struck call answers, given whether it took effect.
fn answer<T>(call: &Call, fault: Option<Fault>, effect: Result<T, StoreError>) -> Result<T, StoreError> {
    match fault {
        None => effect,
        Some(Fault::Timeout) => Err(StoreError::Timeout { place: call.place.clone(), after: CALL_DEADLINE }),
        Some(_) => Err(call.failure("broken by the script")),
    }
}

/// Whether a struck call still reaches the store.
fn takes_effect(fault: Option<Fault>) -> bool {
    matches!(fault, None | Some(Fault::ErrorAfter | Fault::Timeout))
}

#[async_trait]
impl ReadStore for FaultyStore {
    async fn get(&self, name: &ObjectName) -> Result<Bytes, StoreError> {
        let call = Call::on(CallKind::Get, name);
        match self.strike(&call) {
            None | Some(Fault::Full | Fault::EmptyList) => self.inner.get(name).await,
            fault => answer(&call, fault, Ok(Bytes::new())),
        }
    }

    async fn get_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, StoreError> {
        let call = Call::with_range(CallKind::GetRange, name, &range);
        match self.strike(&call) {
            None | Some(Fault::Full | Fault::EmptyList) => self.inner.get_range(name, range).await,
            fault => answer(&call, fault, Ok(Bytes::new())),
        }
    }

    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        let call = Call::on(CallKind::Stat, name);
        match self.strike(&call) {
            None | Some(Fault::Full | Fault::EmptyList) => self.inner.stat(name).await,
            fault => answer(&call, fault, self.inner.stat(name).await),
        }
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>) -> Result<Vec<ObjectMeta>, StoreError> {
        let call = Call::new(CallKind::List, prefix);
        match self.strike(&call) {
            None | Some(Fault::Full) => self.inner.list(prefix, after).await,
            Some(Fault::EmptyList) => Ok(Vec::new()),
            fault => answer(&call, fault, Ok(Vec::new())),
        }
    }

    async fn server_time(&self) -> Result<Option<Timestamp>, StoreError> {
        let call = Call::new(CallKind::ServerTime, "");
        match self.strike(&call) {
            None | Some(Fault::Full | Fault::EmptyList) => self.inner.server_time().await,
            fault => answer(&call, fault, Ok(None)),
        }
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn location(&self) -> String {
        self.inner.location()
    }
}

#[async_trait]
impl WriteStore for FaultyStore {
    async fn put_new(&self, name: &ObjectName, bytes: Bytes, checksum: &ObjectHash) -> Result<(), StoreError> {
        let call = Call::on(CallKind::Put, name);
        let fault = self.strike(&call).filter(|fault| *fault != Fault::EmptyList);
        if fault == Some(Fault::Full) {
            return Err(StoreError::Full { name: name.clone() });
        }
        let effect = if takes_effect(fault) { self.inner.put_new(name, bytes, checksum).await } else { Ok(()) };
        answer(&call, fault, effect)
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        let call = Call::on(CallKind::Delete, name);
        let fault = self.strike(&call).filter(|fault| !matches!(fault, Fault::EmptyList | Fault::Full));
        let effect = if takes_effect(fault) { self.inner.delete(name).await } else { Ok(()) };
        answer(&call, fault, effect)
    }

    fn as_read(self: Arc<Self>) -> Arc<dyn ReadStore> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::object_hash;
    use crate::storage::{memory::MemoryStore, wait};

    #[test]
    fn each_fault_does_what_it_says() {
        let name = ObjectName::new("snap/a");
        for (fault, visible) in [
            (Fault::ErrorBefore, false),
            (Fault::ErrorAfter, true),
            (Fault::Timeout, true),
            (Fault::Full, false),
            (Fault::DeadFromHere, false),
        ] {
            let memory = Arc::new(MemoryStore::new());
            let store = FaultyStore::new(Arc::clone(&memory) as Arc<dyn WriteStore>);
            store.fail_at(1, fault);
            let put = wait("put", store.put_new(&name, Bytes::from_static(b"x"), &object_hash(b"x")));
            assert!(put.is_err(), "{fault:?}");
            assert_eq!(memory.contents().len(), usize::from(visible), "{fault:?}");
            assert_eq!(wait("list", store.list("", None)).is_err(), fault == Fault::DeadFromHere);
            store.heal();
            assert_eq!(wait("list", store.list("", None)).unwrap().len(), usize::from(visible));
            assert_eq!(store.call_count(), 3);
        }
    }

    #[test]
    fn unscripted_it_is_the_store_itself() {
        super::super::contract::run(|| FaultyStore::new(Arc::new(MemoryStore::new())));
    }
}
