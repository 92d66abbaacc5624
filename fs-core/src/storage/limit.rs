//! Bounds what a store is asked at a time: calls side by side, and bytes per second in each direction. Put around the other wrappers by [`super::open`].
//!
//! The rates are kept object by object and range by range: each goes at the speed of the line, and the next one waits until the mean is right.
//! Waiting for one's own limits does not count against the deadline of a call, see `excused` in the module above.

use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep};

use super::{Capabilities, ListedNames, OBJECT_SIZE_MAX, ObjectMeta, ObjectName, ReadStore, StoreError, WriteStore, excused};
use crate::id::ObjectHash;
use crate::time::Timestamp;

/// Bounds on the use of a store; the default has none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Bytes per second that are read.
    pub download: Option<Rate>,
    /// Bytes per second that are written.
    pub upload: Option<Rate>,
    /// Calls at a time; `None` for what suits the kind of store.
    pub connections: Option<usize>,
}

/// Bytes per second, at least one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate(u64);

impl Rate {
    /// A rate; `None` for zero, which would wait for ever.
    pub fn new(bytes_per_second: u64) -> Option<Self> {
        (bytes_per_second > 0).then_some(Self(bytes_per_second))
    }

    /// Reads `800k`, `2M`, `1.5G` or a number of bytes per second; k, M and G are powers of 1024, as everywhere in this program.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let digits = text.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G']);
        let scale: u64 = match text.get(digits.len()..)? {
            "" => 1,
            "k" | "K" => 1 << 10,
            "m" | "M" => 1 << 20,
            "g" | "G" => 1 << 30,
            _ => return None,
        };
        let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
        let is_number = |text: &str| !text.is_empty() && text.len() <= 9 && text.bytes().all(|b| b.is_ascii_digit());
        if !is_number(whole) || !is_number(part) {
            return None;
        }
        let fraction = part.parse::<u64>().ok()?.checked_mul(scale)? / 10u64.checked_pow(u32::try_from(part.len()).ok()?)?;
        Self::new(whole.parse::<u64>().ok()?.checked_mul(scale)?.checked_add(fraction)?)
    }

    /// The number.
    pub fn bytes_per_second(self) -> u64 {
        self.0
    }

    fn time_for(self, bytes: u64) -> Duration {
        Duration::from_nanos(u64::try_from(u128::from(bytes) * 1_000_000_000 / u128::from(self.0)).unwrap_or(u64::MAX))
    }
}

/// Tokens for bytes: filled at a rate up to one second's worth, and allowed into debt by one transfer, since no object is cut in two. Pure.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    /// When everything taken so far is paid; before `now` by what has been saved up.
    paid: Duration,
}

impl Bucket {
    /// What may be saved up while nothing moves.
    const SAVED_MAX: Duration = Duration::from_secs(1);

    fn new(rate: Rate) -> Self {
        Self { rate, paid: Duration::ZERO }
    }

    /// How long to wait at `now` until earlier transfers are paid.
    fn debt(&self, now: Duration) -> Duration {
        self.paid.saturating_sub(now)
    }

    /// Takes bytes for a transfer that began at `at`.
    fn take(&mut self, bytes: u64, at: Duration) {
        self.paid = self.paid.max(at.saturating_sub(Self::SAVED_MAX)).saturating_add(self.rate.time_for(bytes));
    }

    /// Takes back what did not move.
    fn give_back(&mut self, bytes: u64) {
        self.paid = self.paid.saturating_sub(self.rate.time_for(bytes));
    }
}

/// A bucket that is shared by calls.
#[derive(Debug)]
struct Meter {
    /// Times are counted from here.
    begun: Instant,
    bucket: Mutex<Bucket>,
}

impl Meter {
    fn new(rate: Rate) -> Self {
        Self { begun: Instant::now(), bucket: Mutex::new(Bucket::new(rate)) }
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until earlier transfers are paid and takes the bytes of this one; returns when it begins.
    async fn begin(&self, bytes: u64) -> Duration {
        let now = self.begun.elapsed();
        let wait = {
            let mut bucket = self.bucket();
            let wait = bucket.debt(now);
            bucket.take(bytes, now);
            wait
        };
        if !wait.is_zero() {
            excused(sleep(wait)).await;
        }
        now + wait
    }
}

/// Bounds the use of a store.
#[derive(Debug)]
pub struct LimitStore {
    inner: Arc<dyn WriteStore>,
    calls: Option<Semaphore>,
    download: Option<Meter>,
    upload: Option<Meter>,
}

impl LimitStore {
    /// Keeps `limits` around `inner`.
    pub fn new(inner: Arc<dyn WriteStore>, limits: Limits) -> Self {
        let calls = limits.connections.map(|count| Semaphore::new(count.clamp(1, Semaphore::MAX_PERMITS)));
        Self { inner, calls, download: limits.download.map(Meter::new), upload: limits.upload.map(Meter::new) }
    }

    async fn enter(&self) -> Option<SemaphorePermit<'_>> {
        // Nobody closes the semaphore.
        excused(self.calls.as_ref()?.acquire()).await.ok()
    }
}

/// A transfer of so many bytes, which are taken back if it fails.
async fn metered<T>(meter: Option<&Meter>, bytes: u64, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let Some(meter) = meter else { return call.await };
    meter.begin(bytes).await;
    let result = call.await;
    if result.is_err() {
        meter.bucket().give_back(bytes);
    }
    result
}

fn length(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[async_trait]
impl ReadStore for LimitStore {
    async fn get(&self, name: &ObjectName) -> Result<Bytes, StoreError> {
        let call = async {
            let _permit = self.enter().await;
            self.inner.get(name).await
        };
        let Some(meter) = &self.download else { return call.await };
        // How much it is will be known afterwards: the next one waits for it.
        let begun = meter.begin(0).await;
        let bytes = call.await?;
        meter.bucket().take(length(&bytes), begun);
        Ok(bytes)
    }

    async fn get_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, StoreError> {
        let length = range.end.saturating_sub(range.start).min(OBJECT_SIZE_MAX);
        let call = async {
            let _permit = self.enter().await;
            self.inner.get_range(name, range).await
        };
        metered(self.download.as_ref(), length, call).await
    }

    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        let _permit = self.enter().await;
        self.inner.stat(name).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>) -> Result<Vec<ObjectMeta>, StoreError> {
        let _permit = self.enter().await;
        self.inner.list(prefix, after).await
    }

    async fn list_names(&self, prefix: &str) -> ListedNames {
        let _permit = self.enter().await;
        self.inner.list_names(prefix).await
    }

    async fn server_time(&self) -> Result<Option<Timestamp>, StoreError> {
        let _permit = self.enter().await;
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
impl WriteStore for LimitStore {
    async fn put_new(&self, name: &ObjectName, bytes: Bytes, checksum: &ObjectHash) -> Result<(), StoreError> {
        let length = length(&bytes);
        let call = async {
            let _permit = self.enter().await;
            self.inner.put_new(name, bytes, checksum).await
        };
        metered(self.upload.as_ref(), length, call).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        let _permit = self.enter().await;
        self.inner.delete(name).await
    }

    async fn retain(&self, name: &ObjectName, until: Timestamp) -> Result<(), StoreError> {
        let _permit = self.enter().await;
        self.inner.retain(name, until).await
    }

    fn as_read(self: Arc<Self>) -> Arc<dyn ReadStore> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::local::LocalStore;
    use crate::storage::memory::MemoryStore;
    use crate::storage::retry::without_waiting;
    use crate::storage::wait;
    use crate::testing::{CallKind, SlowStore, contract};

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn rates_as_people_write_them() {
        for (text, rate) in [("800k", 800 << 10), ("2M", 2 << 20), ("1.5M", 3 << 19), ("1G", 1 << 30), ("12345", 12345), ("0.5k", 512)] {
            assert_eq!(Rate::parse(text), Some(Rate(rate)), "{text}");
        }
        for text in ["", "0", "0k", "k", "-1M", "2MB", "1.M", ".5M", "1e3", "9999999999", "2 M x", "1.5.5"] {
            assert_eq!(Rate::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_bucket_keeps_the_mean() {
        let mut bucket = Bucket::new(Rate(100));
        // The first goes at once, the next one waits until it is paid.
        assert_eq!(bucket.debt(seconds(10)), Duration::ZERO);
        bucket.take(500, seconds(10));
        assert_eq!(bucket.debt(seconds(10)), seconds(4), "a second was saved up");
        assert_eq!(bucket.debt(seconds(13)), seconds(1));
        bucket.take(100, seconds(13));
        assert_eq!(bucket.debt(seconds(14)), seconds(1));
        bucket.give_back(100);
        assert_eq!(bucket.debt(seconds(14)), Duration::ZERO);
        // No more than a second is saved up, however long nothing moved.
        bucket.take(300, seconds(1000));
        assert_eq!(bucket.debt(seconds(1000)), seconds(2));
        assert_eq!(Bucket::new(Rate(1)).rate.time_for(u64::MAX), Duration::from_nanos(u64::MAX), "no overflow");
    }

    #[test]
    fn keeps_the_contract_with_and_without_limits() {
        let wide = Rate::new(1 << 50);
        for limits in [Limits::default(), Limits { download: wide, upload: wide, connections: Some(2) }] {
            contract::run(|| Arc::new(LimitStore::new(Arc::new(MemoryStore::new()), limits)));
        }
    }

    #[test]
    fn a_listing_of_names_asks_no_file_for_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let store = LimitStore::new(Arc::new(LocalStore::create(folder.path()).unwrap()), Limits::default());
        wait("", store.put_new(&ObjectName::new("snap/a"), Bytes::new(), &contract::checksum(b""))).unwrap();
        assert_eq!(wait("", store.list_names("snap/")).unwrap(), [(ObjectName::new("snap/a"), None)]);
    }

    #[test]
    fn transfers_take_the_time_that_the_rate_asks_for() {
        let limits = Limits { download: Rate::new(1000), upload: Rate::new(100), connections: None };
        let store = LimitStore::new(Arc::new(MemoryStore::new()), limits);
        let bytes = Bytes::from(vec![7; 1000]);
        let (hash, name) = (contract::checksum(&bytes), ObjectName::new("b"));
        without_waiting(async {
            sleep(seconds(5)).await;
            let begun = Instant::now();
            store.put_new(&name, bytes.clone(), &hash).await.unwrap();
            assert_eq!(begun.elapsed(), Duration::ZERO);
            // What fails moves nothing, however long it waited.
            assert!(store.put_new(&name, bytes.clone(), &hash).await.is_err());
            assert_eq!(begun.elapsed().as_secs(), 9);
            store.put_new(&ObjectName::new("c"), bytes.clone(), &hash).await.unwrap();
            assert_eq!(begun.elapsed().as_secs(), 9);
            for _ in 0..4 {
                store.get(&name).await.unwrap();
                store.get_range(&name, 0..1000).await.unwrap();
            }
            assert_eq!(begun.elapsed().as_secs(), 9 + 6, "eight seconds' worth, one of them saved up, the last not waited for");
        });
    }

    #[test]
    fn no_more_calls_than_allowed_are_out() {
        let slow = SlowStore::new(Arc::new(MemoryStore::new()));
        let limits = Limits { connections: Some(2), ..Limits::default() };
        let store = LimitStore::new(Arc::clone(&slow) as Arc<dyn WriteStore>, limits);
        slow.close(Some(CallKind::List));
        without_waiting(async {
            let calls = futures_util::future::join_all((0..5).map(|_| store.list("", None)));
            let look = async {
                for left in [5, 4, 3, 2, 1] {
                    sleep(seconds(1)).await;
                    assert_eq!(slow.waiting().len(), left.min(2));
                    slow.let_one_pass();
                }
            };
            let (results, ()) = tokio::join!(calls, look);
            assert!(results.iter().all(Result::is_ok));
        });
    }
}
