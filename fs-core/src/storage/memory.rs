//! Objects in memory: for tests and rehearsals. The strictest store there is, so that what passes here asks nothing improper of the others.

use std::collections::BTreeMap;
use std::io;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Capabilities, OBJECT_SIZE_MAX, ObjectMeta, ObjectName, ReadStore, StoreError, WriteStore, lets_go_at_once};
use crate::id::ObjectHash;
use crate::time::{SharedClock, SystemClock, Timestamp};

/// A store in memory. Create-only, verifies checksums, has a clock. Clones share their objects.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    objects: Arc<Mutex<BTreeMap<ObjectName, Object>>>,
    clock: SharedClock,
    retention: Option<Duration>,
}

#[derive(Clone, Debug)]
struct Object {
    bytes: Bytes,
    modified: Timestamp,
    /// Until then nobody deletes it.
    kept_until: Option<Timestamp>,
}

impl MemoryStore {
    /// An empty store by the system's clock.
    pub fn new() -> Self {
        Self::with_clock(SystemClock::shared())
    }

    /// An empty store whose own clock is `clock`.
    pub fn with_clock(clock: SharedClock) -> Self {
        Self { objects: Arc::default(), clock, retention: None }
    }

    /// The same objects in a store that keeps what it is given from now on for so long against anybody's wish.
    pub fn with_retention(self, retention: Duration) -> Self {
        Self { retention: Some(retention), ..self }
    }

    /// A copy with the same objects that then goes its own way. Costs no bytes.
    pub fn fork(&self) -> Self {
        let objects = self.objects().clone();
        Self { objects: Arc::new(Mutex::new(objects)), clock: Arc::clone(&self.clock), retention: self.retention }
    }

    /// The same, by another clock from now on.
    #[cfg(any(test, feature = "testing"))]
    pub fn fork_with_clock(&self, clock: SharedClock) -> Self {
        Self { clock, ..self.fork() }
    }

    /// All objects with their bytes, sorted by name. Costs no bytes.
    pub fn contents(&self) -> Vec<(ObjectName, Bytes)> {
        self.objects().iter().map(|(name, object)| (name.clone(), object.bytes.clone())).collect()
    }

    /// Puts bytes under a name whatever is there, as only damage does; `None` makes the object disappear. Returns what was there.
    pub fn overwrite(&self, name: &ObjectName, bytes: Option<Bytes>) -> Option<Bytes> {
        let modified = self.clock.now();
        let mut objects = self.objects();
        let before = match bytes {
            Some(bytes) => objects.insert(name.clone(), Object { bytes, modified, kept_until: None }),
            None => objects.remove(name),
        };
        before.map(|object| object.bytes)
    }

    /// Until when an object is kept against anybody's wish.
    pub fn kept_until(&self, name: &ObjectName) -> Option<Timestamp> {
        self.objects().get(name)?.kept_until
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<ObjectName, Object>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, name: &ObjectName) -> Result<Object, StoreError> {
        self.objects().get(name).cloned().ok_or_else(|| StoreError::NotFound { name: name.clone() })
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl ReadStore for MemoryStore {
    async fn get(&self, name: &ObjectName) -> Result<Bytes, StoreError> {
        let bytes = self.find(name)?.bytes;
        match size_of(&bytes) {
            size if size > OBJECT_SIZE_MAX => Err(StoreError::WrongSize { name: name.clone(), size }),
            _ => Ok(bytes),
        }
    }

    async fn get_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, StoreError> {
        let bytes = self.find(name)?.bytes;
        let size = size_of(&bytes);
        let wrong = || StoreError::WrongSize { name: name.clone(), size };
        if range.start > range.end || range.end > size {
            return Err(wrong());
        }
        let position = |offset| usize::try_from(offset).map_err(|_| wrong());
        Ok(bytes.slice(position(range.start)?..position(range.end)?))
    }

    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        let object = self.find(name)?;
        Ok(meta_of(name, &object))
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>) -> Result<Vec<ObjectMeta>, StoreError> {
        let objects = self.objects();
        let begin = after.map(ObjectName::as_str).filter(|after| *after >= prefix).map_or(Bound::Included(prefix), Bound::Excluded);
        let found = objects.range::<str, _>((begin, Bound::Unbounded)).take_while(|(name, _)| name.as_str().starts_with(prefix));
        Ok(found.map(|(name, object)| meta_of(name, object)).collect())
    }

    async fn server_time(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(Some(self.clock.now()))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { create_only: true, verifies_checksum: true, deletes: true, retention: self.retention }
    }

    fn location(&self) -> String {
        "memory".to_owned()
    }
}

#[async_trait]
impl WriteStore for MemoryStore {
    async fn put_new(&self, name: &ObjectName, bytes: Bytes, checksum: &ObjectHash) -> Result<(), StoreError> {
        if blake3::hash(&bytes).as_bytes() != checksum.as_bytes() {
            let source = io::Error::new(io::ErrorKind::InvalidData, "the bytes do not match their checksum");
            return Err(StoreError::Failed { place: name.to_string(), source });
        }
        let modified = self.clock.now();
        let kept_until = self.retention.map(|retention| modified.saturating_add(retention));
        let mut objects = self.objects();
        if objects.contains_key(name) {
            return Err(StoreError::AlreadyExists { name: name.clone() });
        }
        objects.insert(name.clone(), Object { bytes, modified, kept_until });
        Ok(())
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        let mut objects = self.objects();
        if objects.get(name).and_then(|object| object.kept_until).is_some_and(|until| self.clock.now() < until) {
            let source = io::Error::new(io::ErrorKind::PermissionDenied, "it is kept for a time");
            return Err(StoreError::Denied { place: name.to_string(), source });
        }
        objects.remove(name);
        Ok(())
    }

    async fn retain(&self, name: &ObjectName, until: Timestamp) -> Result<(), StoreError> {
        if self.retention.is_none() {
            return Err(lets_go_at_once(name));
        }
        let mut objects = self.objects();
        let object = objects.get_mut(name).ok_or_else(|| StoreError::NotFound { name: name.clone() })?;
        object.kept_until = object.kept_until.max(Some(until));
        Ok(())
    }

    fn as_read(self: Arc<Self>) -> Arc<dyn ReadStore> {
        self
    }
}

fn meta_of(name: &ObjectName, object: &Object) -> ObjectMeta {
    ObjectMeta { name: name.clone(), size: size_of(&object.bytes), modified: Some(object.modified) }
}

fn size_of(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ManualClock, contract};

    #[test]
    fn keeps_the_contract() {
        contract::run(|| Arc::new(MemoryStore::new()));
    }

    #[test]
    fn says_when_it_received_an_object_by_its_own_clock() {
        let clock = ManualClock::shared();
        let store = MemoryStore::with_clock(clock.clone());
        contract::put(&store, "a", b"1").unwrap();
        clock.advance(std::time::Duration::from_secs(5));
        contract::put(&store, "b", b"2").unwrap();
        let times: Vec<_> =
            crate::storage::wait("", store.list("", None)).unwrap().into_iter().map(|meta| meta.modified.unwrap()).collect();
        assert_eq!(times[1].since(times[0]).as_secs(), 5);
        assert_eq!(crate::storage::wait("", store.server_time()).unwrap(), Some(times[1]));
    }

    #[test]
    fn a_clone_shares_and_a_fork_does_not() {
        let store = MemoryStore::new();
        contract::put(&store, "a", b"1").unwrap();
        let (clone, fork) = (store.clone(), store.fork());
        contract::put(&clone, "b", b"2").unwrap();
        assert_eq!(store.contents().len(), 2);
        assert_eq!(fork.contents().len(), 1);
        assert_eq!(store.overwrite(&ObjectName::new("a"), None).as_deref(), Some(&b"1"[..]));
        assert_eq!(fork.contents()[0].1, "1");
    }
}
