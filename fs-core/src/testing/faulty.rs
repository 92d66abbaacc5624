//! A store that fails by script.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::call::length;
use super::{Call, CallKind, contract};
use crate::id::ObjectHash;
use crate::storage::{CALL_DEADLINE, Capabilities, ObjectMeta, ObjectName, ReadStore, StoreError, WriteStore};
use crate::time::Timestamp;

const OVERLOADED: &str = "503 Service Unavailable";
/// Calls that fail in a storm.
pub const STORM_CALLS: u64 = 5;

/// What goes wrong with a call. A fault that has no meaning for the kind of call acts as [`Fault::ErrorBefore`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fault {
    /// The request is lost: an error, and nothing has happened.
    ErrorBefore,
    /// The answer is lost: an error, but it has happened.
    ErrorAfterEffect,
    /// `put_new`: half the bytes are under the name, and an error. No store may do this; bad ones do.
    TornWrite,
    /// The request arrives twice; the second answer is returned.
    Duplicate,
    /// `list`: as if nothing had been written or deleted through this wrapper.
    StaleList,
    /// `list`: a lie, nothing is there.
    EmptyList,
    /// `get`, `get_range`: half the bytes, as if they were all.
    ShortRead,
    /// `get`, `get_range`: as many bytes as asked for, but the wrong ones.
    WrongRange,
    /// `put_new`: no room.
    Full,
    /// No answer within the deadline, and nothing has happened. Returns at once.
    Timeout,
    /// No answer within the deadline, but it has happened. Returns at once.
    TimeoutAfterEffect,
    /// The server is overloaded: this call and the next ones fail without effect, [`STORM_CALLS`] in all.
    Storm,
    /// This call and every later one fail without effect: the process died or the cable is cut.
    KillFromHere,
    /// The store refuses: a right is missing.
    Denied,
}

impl Fault {
    /// Every fault that is an accident.
    pub const ALL: [Self; 13] = [
        Self::ErrorBefore,
        Self::ErrorAfterEffect,
        Self::TornWrite,
        Self::Duplicate,
        Self::StaleList,
        Self::EmptyList,
        Self::ShortRead,
        Self::WrongRange,
        Self::Full,
        Self::Timeout,
        Self::TimeoutAfterEffect,
        Self::Storm,
        Self::KillFromHere,
    ];

    /// Whether a store that keeps its contract can show this: an operation must then neither fail wrongly nor lose anything.
    pub fn keeps_contract(self) -> bool {
        !matches!(self, Self::TornWrite | Self::StaleList | Self::EmptyList | Self::ShortRead | Self::WrongRange)
    }
}

/// When a fault strikes.
#[derive(Clone, Debug)]
pub struct Rule {
    fault: Fault,
    kind: Option<CallKind>,
    prefix: String,
    /// Matching calls that still pass before the fault strikes.
    passes: u64,
    /// How many matching calls the fault then strikes.
    strikes: u64,
}

impl Rule {
    /// Strikes the `n`-th matching call, counted from 1 since the rule was added.
    pub fn nth(n: u64, fault: Fault) -> Self {
        Self { fault, kind: None, prefix: String::new(), passes: n.saturating_sub(1), strikes: 1 }
    }

    /// Strikes every matching call.
    pub fn every(fault: Fault) -> Self {
        Self { strikes: u64::MAX, ..Self::nth(1, fault) }
    }

    /// Matches calls of this kind only.
    pub fn kind(self, kind: CallKind) -> Self {
        Self { kind: Some(kind), ..self }
    }

    /// Matches calls only whose object or list prefix begins so.
    pub fn prefix(self, prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), ..self }
    }

    fn strikes(&mut self, call: &Call) -> bool {
        if self.kind.is_some_and(|kind| kind != call.kind) || !call.place.starts_with(&self.prefix) || self.strikes == 0 {
            return false;
        }
        if self.passes > 0 {
            self.passes -= 1;
            return false;
        }
        self.strikes -= 1;
        true
    }
}

/// Fails by script. Where several rules strike one call, the first in the script wins; all count it.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn WriteStore>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    is_killed: bool,
    /// Calls that still fail in a storm.
    storm_left: u64,
    calls: u64,
    struck: Vec<(Call, Fault)>,
    /// What a stale list leaves out.
    written: BTreeSet<ObjectName>,
    /// What a stale list still shows.
    deleted: BTreeMap<ObjectName, ObjectMeta>,
}

impl FaultyStore {
    /// Follows `rules`.
    pub fn new(inner: Arc<dyn WriteStore>, rules: impl IntoIterator<Item = Rule>) -> Arc<Self> {
        let state = State { rules: rules.into_iter().collect(), ..State::default() };
        Arc::new(Self { inner, state: Mutex::new(state) })
    }

    /// Adds a rule; it counts calls from now on.
    pub fn add(&self, rule: Rule) {
        self.state().rules.push(rule);
    }

    /// Drops all rules and comes back to life. What happened stays.
    pub fn heal(&self) {
        let mut state = self.state();
        state.rules.clear();
        state.is_killed = false;
        state.storm_left = 0;
    }

    /// How many calls have come, failed ones included.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// The calls that a rule struck, in order. Calls after `KillFromHere` are not repeated.
    pub fn struck(&self) -> Vec<(Call, Fault)> {
        self.state().struck.clone()
    }

    /// Whether `KillFromHere` has struck.
    pub fn is_killed(&self) -> bool {
        self.state().is_killed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call and says what happens to it.
    fn judge(&self, call: &Call) -> Result<Option<Fault>, StoreError> {
        let mut state = self.state();
        state.calls += 1;
        if state.is_killed {
            return Err(call.failure("the store is out of reach"));
        }
        if state.storm_left > 0 {
            state.storm_left -= 1;
            return Err(call.failure(OVERLOADED));
        }
        let mut fault = None;
        for rule in &mut state.rules {
            if rule.strikes(call) {
                fault = fault.or(Some(rule.fault));
            }
        }
        if let Some(fault) = fault {
            state.struck.push((call.clone(), fault));
            state.is_killed = fault == Fault::KillFromHere;
            state.storm_left = if fault == Fault::Storm { STORM_CALLS - 1 } else { 0 };
        }
        Ok(fault)
    }

    /// Applies the faults that mean the same for every kind of call.
    async fn answer<T, F>(&self, call: &Call, fault: Option<Fault>, perform: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        match fault {
            None => perform().await,
            Some(Fault::Duplicate) => {
                // The first answer is the one that gets lost, whatever it is.
                let _ = perform().await;
                perform().await
            }
            Some(Fault::ErrorAfterEffect) => {
                perform().await?;
                Err(call.failure("the answer is lost"))
            }
            Some(Fault::Timeout) => Err(timeout(call)),
            Some(Fault::TimeoutAfterEffect) => {
                perform().await?;
                Err(timeout(call))
            }
            Some(Fault::Denied) => {
                let source = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
                Err(StoreError::Denied { place: call.place.clone(), source })
            }
            Some(Fault::Storm) => Err(call.failure(OVERLOADED)),
            Some(_) => Err(call.failure("the request is lost")),
        }
    }

    /// The right number of bytes from the wrong place.
    async fn misread(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, StoreError> {
        let right = self.inner.get_range(name, range.clone()).await?;
        let shifted = self.inner.get_range(name, range.start.saturating_add(1)..range.end.saturating_add(1)).await;
        // At the end of the object, or where the neighbours are alike: anything that differs.
        Ok(shifted.ok().filter(|bytes| *bytes != right).unwrap_or_else(|| right.iter().map(|byte| !byte).collect()))
    }
}

fn timeout(call: &Call) -> StoreError {
    StoreError::Timeout { place: call.place.clone(), after: CALL_DEADLINE }
}

fn first_half(bytes: Bytes) -> Bytes {
    bytes.slice(..bytes.len() / 2)
}

#[async_trait]
impl ReadStore for FaultyStore {
    async fn get(&self, name: &ObjectName) -> Result<Bytes, StoreError> {
        let call = Call::on(CallKind::Get, name);
        match self.judge(&call)? {
            Some(Fault::ShortRead) => self.inner.get(name).await.map(first_half),
            Some(Fault::WrongRange) => {
                let size = length(&self.inner.get(name).await?);
                self.misread(name, 0..size).await
            }
            fault => self.answer(&call, fault, || self.inner.get(name)).await,
        }
    }

    async fn get_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, StoreError> {
        let call = Call::with_range(CallKind::GetRange, name, &range);
        match self.judge(&call)? {
            Some(Fault::ShortRead) => self.inner.get_range(name, range).await.map(first_half),
            Some(Fault::WrongRange) => self.misread(name, range).await,
            fault => self.answer(&call, fault, || self.inner.get_range(name, range.clone())).await,
        }
    }

    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        let call = Call::on(CallKind::Stat, name);
        let fault = self.judge(&call)?;
        self.answer(&call, fault, || self.inner.stat(name)).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>) -> Result<Vec<ObjectMeta>, StoreError> {
        let call = Call::new(CallKind::List, prefix);
        match self.judge(&call)? {
            Some(Fault::EmptyList) => Ok(Vec::new()),
            Some(Fault::StaleList) => {
                let mut objects = self.inner.list(prefix, after).await?;
                let state = self.state();
                objects.retain(|object| !state.written.contains(&object.name) && !state.deleted.contains_key(&object.name));
                let is_asked_for = |name: &ObjectName| name.as_str().starts_with(prefix) && after.is_none_or(|after| name > after);
                objects.extend(state.deleted.values().filter(|object| is_asked_for(&object.name)).cloned());
                objects.sort_by(|a, b| a.name.cmp(&b.name));
                Ok(objects)
            }
            fault => self.answer(&call, fault, || self.inner.list(prefix, after)).await,
        }
    }

    async fn server_time(&self) -> Result<Option<Timestamp>, StoreError> {
        let call = Call::new(CallKind::ServerTime, "");
        let fault = self.judge(&call)?;
        self.answer(&call, fault, || self.inner.server_time()).await
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
        let call = Call::with_range(CallKind::Put, name, &(0..length(&bytes)));
        let perform = || async {
            self.inner.put_new(name, bytes.clone(), checksum).await?;
            self.state().written.insert(name.clone());
            Ok(())
        };
        match self.judge(&call)? {
            Some(Fault::Full) => Err(StoreError::Full { name: name.clone() }),
            Some(Fault::TornWrite) => {
                let half = first_half(bytes.clone());
                let checksum = contract::checksum(&half);
                self.inner.put_new(name, half, &checksum).await?;
                self.state().written.insert(name.clone());
                Err(call.failure("the connection broke half-way"))
            }
            fault => self.answer(&call, fault, perform).await,
        }
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        let call = Call::on(CallKind::Delete, name);
        let perform = || async {
            let before = self.inner.stat(name).await.ok();
            self.inner.delete(name).await?;
            let mut state = self.state();
            // What this wrapper wrote itself is in no stale list anyway.
            if let Some(before) = before.filter(|_| !state.written.contains(name)) {
                state.deleted.entry(name.clone()).or_insert(before);
            }
            Ok(())
        };
        let fault = self.judge(&call)?;
        self.answer(&call, fault, perform).await
    }

    async fn retain(&self, name: &ObjectName, until: Timestamp) -> Result<(), StoreError> {
        let call = Call::on(CallKind::Retain, name);
        let fault = self.judge(&call)?;
        self.answer(&call, fault, || self.inner.retain(name, until)).await
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

    fn faulty(rules: impl IntoIterator<Item = Rule>) -> (MemoryStore, Arc<FaultyStore>) {
        let memory = MemoryStore::new();
        contract::put(&memory, "old/a", b"0123456789").unwrap();
        (memory.clone(), FaultyStore::new(Arc::new(memory), rules))
    }

    fn bytes_at(memory: &MemoryStore, name: &str) -> Option<Bytes> {
        memory.contents().into_iter().find(|(found, _)| found.as_str() == name).map(|(_, bytes)| bytes)
    }

    fn names(store: &FaultyStore) -> Vec<String> {
        wait("", store.list("", None)).unwrap().into_iter().map(|object| object.name.to_string()).collect()
    }

    #[test]
    fn keeps_the_contract_without_rules() {
        contract::run(|| FaultyStore::new(Arc::new(MemoryStore::new()), []));
    }

    #[test]
    fn what_a_failed_put_leaves_behind() {
        let cases: [(Fault, Option<&[u8]>); 8] = [
            (Fault::ErrorBefore, None),
            (Fault::ErrorAfterEffect, Some(b"abcd")),
            (Fault::TornWrite, Some(b"ab")),
            (Fault::Full, None),
            (Fault::Timeout, None),
            (Fault::TimeoutAfterEffect, Some(b"abcd")),
            (Fault::Storm, None),
            (Fault::KillFromHere, None),
        ];
        for (fault, left) in cases {
            let (memory, store) = faulty([Rule::nth(1, fault)]);
            let error = contract::put(&*store, "new/a", b"abcd").unwrap_err();
            assert_eq!(matches!(error, StoreError::Full { .. }), fault == Fault::Full, "{fault:?}");
            let is_late = matches!(fault, Fault::Timeout | Fault::TimeoutAfterEffect);
            assert_eq!(matches!(error, StoreError::Timeout { .. }), is_late, "{fault:?}");
            assert_eq!(bytes_at(&memory, "new/a").as_deref(), left, "{fault:?}");
            let goes_on = matches!(fault, Fault::KillFromHere | Fault::Storm);
            assert_eq!(contract::put(&*store, "new/b", b"").is_err(), goes_on, "{fault:?}");
            assert_eq!(store.struck().len(), 1, "{fault:?}");
        }
    }

    #[test]
    fn a_put_that_arrives_twice_meets_itself() {
        let (memory, store) = faulty([Rule::nth(1, Fault::Duplicate)]);
        assert!(matches!(contract::put(&*store, "new/a", b"x"), Err(StoreError::AlreadyExists { .. })));
        assert_eq!(bytes_at(&memory, "new/a").unwrap(), "x");
    }

    #[test]
    fn a_storm_passes() {
        let (_, store) = faulty([Rule::nth(2, Fault::Storm)]);
        let answers: Vec<_> = (0..STORM_CALLS + 3).map(|_| wait("", store.get(&ObjectName::new("old/a"))).is_ok()).collect();
        assert_eq!(answers, [true, false, false, false, false, false, true, true]);
        assert_eq!(store.struck().len(), 1);
    }

    #[test]
    fn reads_that_lie() {
        let name = ObjectName::new("old/a");
        let (_, store) = faulty([Rule::every(Fault::ShortRead)]);
        assert_eq!(wait("", store.get(&name)).unwrap(), "01234");
        assert_eq!(wait("", store.get_range(&name, 2..6)).unwrap(), "23");
        let (_, store) = faulty([Rule::every(Fault::WrongRange)]);
        assert_eq!(wait("", store.get_range(&name, 2..6)).unwrap(), "3456");
        let at_the_end = wait("", store.get_range(&name, 8..10)).unwrap();
        assert_eq!((at_the_end.len(), &at_the_end == "89"), (2, false));
        let whole = wait("", store.get(&name)).unwrap();
        assert_eq!((whole.len(), &whole == "0123456789"), (10, false));
    }

    #[test]
    fn lists_that_lie() {
        let (_, store) = faulty([Rule::nth(1, Fault::StaleList).kind(CallKind::List), Rule::nth(2, Fault::EmptyList).kind(CallKind::List)]);
        contract::put(&*store, "new/a", b"").unwrap();
        contract::put(&*store, "new/b", b"").unwrap();
        wait("", store.delete(&ObjectName::new("old/a"))).unwrap();
        wait("", store.delete(&ObjectName::new("new/b"))).unwrap();
        assert_eq!(names(&store), ["old/a"]);
        assert_eq!(names(&store), Vec::<String>::new());
        assert_eq!(names(&store), ["new/a"]);
    }

    #[test]
    fn rules_count_what_they_match() {
        let (_, store) = faulty([Rule::nth(2, Fault::Timeout).kind(CallKind::Put).prefix("idx/")]);
        for (name, passes) in [("pack/a", true), ("idx/a", true), ("pack/b", true), ("idx/b", false), ("idx/c", true)] {
            assert!(wait("", store.server_time()).is_ok());
            assert_eq!(contract::put(&*store, name, b"").is_ok(), passes, "{name}");
        }
        assert_eq!(store.calls(), 10);
        assert_eq!(store.struck(), [(Call { range: Some(0..0), ..Call::new(CallKind::Put, "idx/b") }, Fault::Timeout)]);
    }

    #[test]
    fn the_dead_stay_dead_until_healed() {
        let (memory, store) = faulty([Rule::nth(2, Fault::KillFromHere)]);
        let name = ObjectName::new("old/a");
        assert!(wait("", store.stat(&name)).is_ok());
        assert!(wait("", store.delete(&name)).is_err());
        assert!(wait("", store.get(&name)).is_err());
        assert!(store.is_killed());
        store.heal();
        assert!(wait("", store.get(&name)).is_ok());
        assert_eq!(memory.contents().len(), 1);
    }
}
