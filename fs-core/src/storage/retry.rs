//! Tries a failed call again, inside the time that its caller will wait. Put around every store over a network by [`super::open`].
//!
//! This is the only layer that retries: below it a call is one attempt, so that a `put_new` whose answer was lost is known to be a second one
//! here, where the object can be read and compared. When a call has found nobody until its deadline, reading calls fail at once for a while:
//! whoever lists a folder on a drive without network must not wait half a minute for each name.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};

use super::{CALL_DEADLINE, Capabilities, ListedNames, ObjectMeta, ObjectName, ReadStore, StoreError, WriteStore, put_deadline};
use crate::crypto::{self, SystemRandom};
use crate::id::ObjectHash;
use crate::time::Timestamp;

/// How much earlier than the caller we give up, so that it hears our reason and not its own.
const MARGIN: Duration = Duration::from_secs(1);
/// Longest attempt of a short call: in a call's deadline there is room for a second one, should the first fall into a black hole.
const ATTEMPT_MAX: Duration = Duration::from_secs(12);
/// An attempt with less time than this is not begun.
const ATTEMPT_MIN: Duration = Duration::from_secs(2);
/// Reads of more bytes may take as long as a whole object.
const SHORT_READ_MAX: u64 = 1 << 20;
/// Upper bounds of the first pause and of all pauses; the pause itself is drawn below the bound, so that many clients do not return together.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Retries of a call that somebody waits for.
const RETRIES_OF_READ: u32 = 6;
/// Retries of a put: a backup outlives an outage of a minute.
const RETRIES_OF_PUT: u32 = 14;
/// How long reads fail at once after a call found nobody until its deadline.
const FAIL_FAST: Duration = Duration::from_secs(5);

/// Retries what may succeed the next time.
#[derive(Debug)]
pub struct RetryStore {
    inner: Arc<dyn WriteStore>,
    reach: Mutex<Reach>,
}

/// Whether anybody is there, as far as is known.
#[derive(Debug, Default)]
struct Reach {
    /// When a call last ran into its deadline, unless somebody answered since.
    lost: Option<Instant>,
    /// One call is out to see whether the store is back.
    is_probing: bool,
    /// When the store last answered anything.
    answered: Option<Instant>,
}

/// How long a call may take in all, how long one attempt of it, and how often it is repeated.
#[derive(Clone, Copy, Debug)]
struct Patience {
    whole: Duration,
    attempt: Duration,
    retries: u32,
}

impl Patience {
    /// For calls with a short answer.
    const SHORT: Self = Self { whole: CALL_DEADLINE.saturating_sub(MARGIN), attempt: ATTEMPT_MAX, retries: RETRIES_OF_READ };

    /// For calls whose answer may be long. A transfer that stands still is noticed by the connection, not by this clock.
    const LONG: Self = Self { attempt: Self::SHORT.whole.saturating_sub(ATTEMPT_MAX), ..Self::SHORT };

    fn of_put(length: u64) -> Self {
        let whole = put_deadline(length).saturating_sub(MARGIN);
        let attempt = if length <= SHORT_READ_MAX { whole / 2 } else { whole.saturating_sub(ATTEMPT_MAX) };
        Self { whole, attempt, retries: RETRIES_OF_PUT }
    }
}

impl RetryStore {
    /// Retries the calls of `inner`, which must not retry itself.
    pub fn new(inner: Arc<dyn WriteStore>) -> Self {
        Self { inner, reach: Mutex::default() }
    }

    fn reach(&self) -> MutexGuard<'_, Reach> {
        self.reach.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call that reads: fails at once while nobody is there.
    async fn read<T, F>(&self, place: &str, patience: Patience, attempt: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let _probe = self.admit(place)?;
        self.persist(place, patience, |_| attempt()).await
    }

    /// Lets a call begin unless the store was lost a moment ago; one call after the other finds out whether it is back.
    fn admit(&self, place: &str) -> Result<Option<Probe<'_>>, StoreError> {
        let mut reach = self.reach();
        let Some(lost) = reach.lost else { return Ok(None) };
        let since = lost.elapsed();
        if since < FAIL_FAST || reach.is_probing {
            let text = format!("it is not reachable, last tried {} s ago", since.as_secs());
            return Err(StoreError::Failed { place: place.into(), source: io::Error::new(io::ErrorKind::NotConnected, text) });
        }
        reach.is_probing = true;
        Ok(Some(Probe(self)))
    }

    /// Repeats an attempt, which is told how many came before it.
    async fn persist<T, F>(&self, place: &str, patience: Patience, attempt: impl Fn(u32) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let begun = Instant::now();
        let end = begun + patience.whole;
        let mut retries = 0;
        loop {
            let limit = patience.attempt.min(end.saturating_duration_since(Instant::now()));
            let result = timeout(limit, attempt(retries)).await;
            let result = result.unwrap_or_else(|_| Err(StoreError::Timeout { place: place.into(), after: begun.elapsed() }));
            let error = match result {
                Err(error) if may_pass(&error) => error,
                answered => {
                    *self.reach() = Reach { answered: Some(Instant::now()), ..Reach::default() };
                    return answered;
                }
            };
            let pause = pause_before(retries, u64::from_le_bytes(crypto::random_array(&SystemRandom)));
            let is_late = Instant::now() + pause + ATTEMPT_MIN > end;
            if is_late {
                self.note_lost(begun);
            }
            if is_late || retries == patience.retries {
                return Err(error);
            }
            tracing::debug!(place, retries, "trying again after {} ms: {error}", pause.as_millis());
            sleep(pause).await;
            retries += 1;
        }
    }

    /// Nobody answered this call until its deadline. If others were answered meanwhile, that is its own trouble.
    fn note_lost(&self, begun: Instant) {
        let mut reach = self.reach();
        if reach.answered.is_none_or(|answered| answered < begun) {
            reach.lost = Some(Instant::now());
        }
    }

    /// A name that was free before a put whose answer was lost: it is ours if it holds our bytes.
    async fn compare(&self, name: &ObjectName, bytes: &Bytes) -> Result<(), StoreError> {
        match self.inner.get(name).await {
            Ok(found) if found == *bytes => Ok(()),
            Ok(_) | Err(StoreError::WrongSize { .. }) => Err(StoreError::AlreadyExists { name: name.clone() }),
            Err(StoreError::NotFound { .. }) => {
                let source = io::Error::other("it is said to exist, and cannot be found");
                Err(StoreError::Failed { place: name.to_string(), source })
            }
            Err(error) => Err(error),
        }
    }
}

/// The one call that tries a lost store again; however it ends, another one may try next.
struct Probe<'a>(&'a RetryStore);

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        self.0.reach().is_probing = false;
    }
}

#[async_trait]
impl ReadStore for RetryStore {
    async fn get(&self, name: &ObjectName) -> Result<Bytes, StoreError> {
        self.read(name.as_str(), Patience::LONG, || self.inner.get(name)).await
    }

    async fn get_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, StoreError> {
        let is_short = range.end.saturating_sub(range.start) <= SHORT_READ_MAX;
        let patience = if is_short { Patience::SHORT } else { Patience::LONG };
        self.read(name.as_str(), patience, || self.inner.get_range(name, range.clone())).await
    }

    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        self.read(name.as_str(), Patience::SHORT, || self.inner.stat(name)).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>) -> Result<Vec<ObjectMeta>, StoreError> {
        self.read(prefix, Patience::LONG, || self.inner.list(prefix, after)).await
    }

    async fn list_names(&self, prefix: &str) -> ListedNames {
        self.read(prefix, Patience::LONG, || self.inner.list_names(prefix)).await
    }

    async fn server_time(&self) -> Result<Option<Timestamp>, StoreError> {
        self.read("its clock", Patience::SHORT, || self.inner.server_time()).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn location(&self) -> String {
        self.inner.location()
    }
}

#[async_trait]
impl WriteStore for RetryStore {
    async fn put_new(&self, name: &ObjectName, bytes: Bytes, checksum: &ObjectHash) -> Result<(), StoreError> {
        let patience = Patience::of_put(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let bytes = &bytes;
        let attempt = |before: u32| async move {
            match self.inner.put_new(name, bytes.clone(), checksum).await {
                Err(StoreError::AlreadyExists { .. }) if before > 0 => self.compare(name, bytes).await,
                result => result,
            }
        };
        self.persist(name.as_str(), patience, attempt).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.persist(name.as_str(), Patience::SHORT, |_| self.inner.delete(name)).await
    }

    async fn retain(&self, name: &ObjectName, until: Timestamp) -> Result<(), StoreError> {
        self.persist(name.as_str(), Patience::SHORT, |_| self.inner.retain(name, until)).await
    }

    fn as_read(self: Arc<Self>) -> Arc<dyn ReadStore> {
        self
    }
}

/// Whether the same call may succeed a moment later. What was wrong with the request itself stays wrong.
fn may_pass(error: &StoreError) -> bool {
    match error {
        StoreError::Timeout { .. } => true,
        StoreError::Failed { source, .. } => {
            !matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
        }
        StoreError::NotFound { .. }
        | StoreError::AlreadyExists { .. }
        | StoreError::WrongSize { .. }
        | StoreError::Full { .. }
        | StoreError::Denied { .. } => false,
    }
}

/// The pause after an attempt that had `retries` before it: anything below a bound that doubles ("full jitter"). `random` is any number.
fn pause_before(retries: u32, random: u64) -> Duration {
    let bound = PAUSE_FIRST.saturating_mul(1 << retries.min(16)).min(PAUSE_MAX);
    let nanos = bound.as_nanos() * u128::from(random) / u128::from(u64::MAX);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Runs on a clock that jumps to the next timer whenever everybody waits.
#[cfg(test)]
pub(super) fn without_waiting<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("the system grants a runtime").block_on(work)
}

#[cfg(test)]
mod tests;
