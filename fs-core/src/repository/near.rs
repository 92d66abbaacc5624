//! Copies of the repository that are nearer than it: a stick, a NAS. What they have is read from them, all else from the repository itself.
//!
//! Only the repository says what there is: it is listed and asked for times. Objects never change, so one under the same name is the same one. A whole object is
//! proven by its name here; a part of a pack where its records are opened ([`Repository::read_record`] asks the repository itself for what did not open).

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, timeout};

use super::{Repository, RepositoryError, lock};
use crate::id::RepositoryId;
use crate::object::keyless::{Promise, Prover};
use crate::object::{Header, ObjectKind};
use crate::storage::{Capabilities, ListedNames, ObjectMeta, ObjectName, ReadStore, StoreError, wait};
use crate::time::Timestamp;

/// How long a near copy may take before the repository is asked: a stick that is asleep wakes up in that time.
const PATIENCE: Duration = Duration::from_secs(3);
/// The same for whole objects, which may be large.
const PATIENCE_WHOLE: Duration = Duration::from_secs(10);
/// How long a near copy that failed is not asked again: one that was taken away costs one error now and then, and not one for each read.
const REST: Duration = Duration::from_secs(30);

/// The repository with copies in front of it.
#[derive(Debug)]
pub(super) struct NearStore {
    near: Vec<Near>,
    far: Arc<dyn ReadStore>,
}

#[derive(Debug)]
struct Near {
    store: Arc<dyn ReadStore>,
    /// When it failed last.
    failed: Mutex<Option<Instant>>,
}

impl NearStore {
    /// Reads from the first of `near` that has what is wanted, else from `far`.
    pub(super) fn new(near: &[Arc<dyn ReadStore>], far: Arc<dyn ReadStore>) -> Self {
        let near = near.iter().map(|store| Near { store: Arc::clone(store), failed: Mutex::default() }).collect();
        Self { near, far }
    }

    /// Makes sure that no near copy is one of another repository. One that does not answer may come back.
    ///
    /// # Errors
    /// [`RepositoryError::OtherNear`].
    pub(super) fn expect(&self, repository: RepositoryId) -> Result<(), RepositoryError> {
        for near in &self.near {
            match Repository::claimed_by_any(&*near.store) {
                Ok(found) if found.iter().all(|id| *id == repository) => {}
                Ok(_) => return Err(RepositoryError::OtherNear { location: near.store.location() }),
                Err(error) => near.failed(&error),
            }
        }
        Ok(())
    }
}

impl Near {
    fn is_resting(&self) -> bool {
        lock(&self.failed).is_some_and(|failed| failed.elapsed() < REST)
    }

    fn failed(&self, error: &StoreError) {
        tracing::warn!(near = self.store.location(), %error, "a near copy is not read for a while");
        *lock(&self.failed) = Some(Instant::now());
    }

    /// What it answers in time; `None` if the repository is to be asked.
    async fn ask(&self, patience: Duration, call: impl Future<Output = Result<Bytes, StoreError>>) -> Option<Bytes> {
        let late = |_| Err(StoreError::Timeout { place: self.store.location(), after: patience });
        match timeout(patience, call).await.unwrap_or_else(late) {
            Ok(bytes) => Some(bytes),
            // It lacks this one, or has not all of it.
            Err(error) if error.is_of_object() => None,
            Err(error) => {
                self.failed(&error);
                None
            }
        }
    }
}

/// Whether an object is what its name promises. What cannot be proven is read where the repository lies.
fn is_sound(name: &ObjectName, object: &[u8]) -> bool {
    let Some(promise) = Promise::of(name).filter(Promise::is_provable) else { return false };
    let mut prover = Prover::new(promise);
    prover.update(object);
    prover.finish().is_ok()
}

#[async_trait]
impl ReadStore for NearStore {
    async fn get(&self, name: &ObjectName) -> Result<Bytes, StoreError> {
        for near in self.near.iter().filter(|near| !near.is_resting()) {
            match near.ask(PATIENCE_WHOLE, near.store.get(name)).await {
                Some(object) if is_sound(name, &object) => return Ok(object),
                Some(_) => tracing::warn!(near = near.store.location(), %name, "an object of a near copy is damaged"),
                None => {}
            }
        }
        self.far.get(name).await
    }

    async fn get_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, StoreError> {
        // Of other kinds nobody notices before it is too late that a part is damaged.
        let is_pack = [ObjectKind::DataPack, ObjectKind::MetaPack].iter().any(|kind| name.as_str().starts_with(kind.prefix()));
        for near in self.near.iter().filter(|near| is_pack && !near.is_resting()) {
            if let Some(bytes) = near.ask(PATIENCE, near.store.get_range(name, range.clone())).await {
                return Ok(bytes);
            }
        }
        self.far.get_range(name, range).await
    }

    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        self.far.stat(name).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>) -> Result<Vec<ObjectMeta>, StoreError> {
        self.far.list(prefix, after).await
    }

    async fn list_names(&self, prefix: &str) -> ListedNames {
        self.far.list_names(prefix).await
    }

    async fn server_time(&self) -> Result<Option<Timestamp>, StoreError> {
        self.far.server_time().await
    }

    fn capabilities(&self) -> Capabilities {
        self.far.capabilities()
    }

    fn location(&self) -> String {
        self.far.location()
    }
}

impl Repository {
    /// The repositories that configurations in a store say to belong to, as far as they can be read.
    fn claimed_by_any(store: &dyn ReadStore) -> Result<Vec<RepositoryId>, StoreError> {
        let prefix = ObjectKind::Config.prefix();
        let mut claimed = Vec::new();
        for meta in wait(prefix, store.list(prefix, None))? {
            let head = wait(meta.name.as_str(), store.get_range(&meta.name, 0..meta.size.min(crate::object::HEADER_LENGTH as u64)))?;
            claimed.extend(Header::decode(&head).ok().map(|(header, ..)| header.repository));
        }
        Ok(claimed)
    }
}
