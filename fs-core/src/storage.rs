//! Where objects live: the contract that every store keeps, and the one door through which synchronous code waits for it.
//!
//! Reading and writing are separate traits: a mount is given a [`ReadStore`], which has no method that writes.
//! The contract is tested by one suite, `testing::contract`, that every store passes.
//!
//! - An object is visible under its name completely or not at all, and survives a crash once `put_new` has returned.
//! - Correctness never rests on `put_new` refusing an existing name: names are random or hashes. A store that can refuse, does.
//! - An error is never "empty": what could not be listed or read is an error, and only a store that is sure answers [`StoreError::NotFound`].

use std::borrow::Borrow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future;
use futures_util::stream::{self, StreamExt as _};
use tokio::time::{Instant, timeout_at};

use address::Address;
use aws_profile::AwsFiles;
use cloud::CloudStore;
use limit::{LimitStore, Limits};
use local::LocalStore;
use retry::RetryStore;
use sftp::SftpStore;
use webdav::WebDavStore;

use crate::crypto;
use crate::id::ObjectHash;
use crate::time::Timestamp;

pub mod address;
pub mod aws_profile;
pub mod cloud;
pub mod limit;
pub mod local;
pub mod memory;
pub mod probe;
pub mod retry;
pub mod sftp;
pub mod webdav;
pub mod whole;

/// Longest object name, in bytes.
pub const OBJECT_NAME_LENGTH_MAX: usize = 200;

/// Largest object that `get` returns whole, in bytes.
pub const OBJECT_SIZE_MAX: u64 = 512 << 20;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Calls at a time, unless somebody chose: what a service in a cloud takes without slowing down, and what a small NAS does.
const CONNECTIONS_TO_CLOUD: usize = 32;
const CONNECTIONS_TO_SERVER: usize = 16;

/// Longest silence of a server that owes an answer, or the rest of one: what moves slowly may go on, what stands still is given up.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Longest wait for one store call before it becomes [`StoreError::Timeout`].
pub const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// Calls that [`get_all`] has under way at once.
pub const CALLS_AT_ONCE: usize = 32;

/// The name of an object: lower-case letters, digits, `-` and `/`, no empty part.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(Arc<str>);

/// Names are ordered as their text is.
impl Borrow<str> for ObjectName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl ObjectName {
    /// Takes a name that this program made.
    ///
    /// # Panics
    /// If the name breaks the rule above: our own names never do.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        let name = name.into();
        assert!(Self::is_valid(&name), "object names are made by this program: {name}");
        Self(name)
    }

    /// Takes a name that a store listed; `None` for foreign objects.
    pub fn parse(name: &str) -> Option<Self> {
        Self::is_valid(name).then(|| Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is_valid(name: &str) -> bool {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'/';
        !name.is_empty()
            && name.len() <= OBJECT_NAME_LENGTH_MAX
            && name.bytes().all(allowed)
            && name.split('/').all(|part| !part.is_empty())
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One object as a store lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectMeta {
    /// Its name.
    pub name: ObjectName,
    /// Its size in bytes.
    pub size: u64,
    /// When the store received it, by the store's clock; `None` if the store does not say.
    pub modified: Option<Timestamp>,
}

/// What a store can promise. `init` shows it, maintenance adapts to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// `put_new` refuses a name that exists, also under a race.
    pub create_only: bool,
    /// The store verifies the checksum given to `put_new`.
    pub verifies_checksum: bool,
    /// `delete` can work; `false` for append-only credentials and locked stores.
    pub deletes: bool,
    /// How long the store lets nobody delete what it was given; `None` if it lets go at once. Maintenance prolongs it with `retain`.
    pub retention: Option<Duration>,
}

/// Why a store call failed, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store is sure that there is no such object.
    #[error("object {name} does not exist")]
    NotFound {
        /// The object asked for.
        name: ObjectName,
    },
    /// `put_new` met an object of that name and left it alone.
    #[error("object {name} exists already")]
    AlreadyExists {
        /// The object that was to be written.
        name: ObjectName,
    },
    /// The object is shorter than the range asked for, or larger than the limit for whole reads.
    #[error("object {name} has {size} bytes, which does not fit the request")]
    WrongSize {
        /// The object asked for.
        name: ObjectName,
        /// How long it is.
        size: u64,
    },
    /// There is no room left.
    #[error("the store is full (while writing {name})")]
    Full {
        /// The object that was to be written.
        name: ObjectName,
    },
    /// The credentials or permissions do not allow it.
    #[error("the store refuses access to {place}")]
    Denied {
        /// Object or place.
        place: String,
        /// What the store said.
        #[source]
        source: std::io::Error,
    },
    /// No answer within the deadline.
    #[error("the store did not answer within {} s (for {place})", .after.as_secs())]
    Timeout {
        /// Object or place.
        place: String,
        /// How long we waited.
        after: Duration,
    },
    /// Anything else; trying again may help.
    #[error("the store failed at {place}")]
    Failed {
        /// Object or place.
        place: String,
        /// What the store said.
        #[source]
        source: std::io::Error,
    },
}

impl StoreError {
    /// Whether it is the object that is not what it should be, and the store works: it is gone, or has a size that no such object has. Anybody who may put
    /// objects can put one like that, so it is no reason to do without all others.
    pub fn is_of_object(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::WrongSize { .. })
    }
}

/// Reads objects. Object safe, shared between threads, cheap to clone behind an [`Arc`].
#[async_trait]
pub trait ReadStore: Send + Sync + fmt::Debug {
    /// Reads a whole object of at most [`OBJECT_SIZE_MAX`] bytes.
    ///
    /// # Errors
    /// `NotFound` only if the store is sure; `WrongSize` beyond the limit.
    async fn get(&self, name: &ObjectName) -> Result<Bytes, StoreError>;

    /// Reads exactly the bytes of a half-open range.
    ///
    /// # Errors
    /// `WrongSize` if the object is shorter: a range is never cut silently.
    async fn get_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, StoreError>;

    /// Size and time of one object.
    ///
    /// # Errors
    /// `NotFound` only if the store is sure.
    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError>;

    /// All objects whose name begins with `prefix` and is greater than `after`, sorted by name. `prefix` is empty or ends with `/`. A prefix under which nothing
    /// was ever written is an empty list. Foreign files whose names are no object names are left out.
    ///
    /// # Errors
    /// Any failure, also one half-way: a partial list is never returned.
    async fn list(&self, prefix: &str, after: Option<&ObjectName>) -> Result<Vec<ObjectMeta>, StoreError>;

    /// The names that [`Self::list`] gives for a whole prefix, each with its time if that is known without asking for every object: of ten thousand
    /// snapshots nobody wants to know the size. A store for which that makes no difference leaves this as it is.
    ///
    /// # Errors
    /// As [`Self::list`].
    async fn list_names(&self, prefix: &str) -> ListedNames {
        Ok(self.list(prefix, None).await?.into_iter().map(|meta| (meta.name, meta.modified)).collect())
    }

    /// The store's clock; `None` if it has none of its own.
    ///
    /// # Errors
    /// If the store cannot be reached.
    async fn server_time(&self) -> Result<Option<Timestamp>, StoreError>;

    /// What the store can promise.
    fn capabilities(&self) -> Capabilities;

    /// The store's address for people, without secrets.
    fn location(&self) -> String;
}

/// Writes objects.
#[async_trait]
pub trait WriteStore: ReadStore {
    /// Writes a new object so that it is durable when this returns. `checksum` is the hash of all bytes, for stores that verify one.
    ///
    /// # Errors
    /// `AlreadyExists` if the name is taken and the store can tell; `Full` if there is no room. After any error the name holds either nothing or exactly these bytes.
    async fn put_new(&self, name: &ObjectName, bytes: Bytes, checksum: &ObjectHash) -> Result<(), StoreError>;

    /// Deletes an object; deleting what is not there is no error.
    ///
    /// # Errors
    /// `Denied` if the store holds on to it.
    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError>;

    /// Keeps an object from being deleted, by anybody, until a time; one that is kept for longer stays so.
    ///
    /// # Errors
    /// `NotFound` if there is no such object; `Failed` with `Unsupported` from a store without [`Capabilities::retention`].
    async fn retain(&self, name: &ObjectName, until: Timestamp) -> Result<(), StoreError>;

    /// The same store for readers.
    fn as_read(self: Arc<Self>) -> Arc<dyn ReadStore>;
}

/// How to reach a store, above all over a network. The program fills it from its flags, environment and profile; nothing here reads an environment.
#[derive(Clone, Debug, Default)]
pub struct RemoteOptions {
    /// Credentials and settings as the services name them (`AWS_…`, `AZURE_…`, `GOOGLE_…`).
    pub variables: BTreeMap<String, String>,
    /// Profiles of Amazon's own tools. Keys among the variables count more.
    pub aws: AwsFiles,
    /// Certificates to trust beside the system's, in PEM.
    pub ca_file: Option<PathBuf>,
    /// Proxy for HTTP.
    pub proxy: Option<String>,
    /// The folder of SSH with keys and `known_hosts`.
    pub ssh_folder: Option<PathBuf>,
    /// The socket of the SSH agent.
    pub ssh_agent: Option<PathBuf>,
    /// How much may be asked of it at a time; of a folder too, which may be a NAS.
    pub limits: Limits,
}

/// Opens the store at an address. Of a remote one nothing is asked yet.
///
/// # Errors
/// `Denied` or `Failed` if a folder is missing or not accessible, or if settings make no sense.
pub fn open(address: &Address, options: &RemoteOptions) -> Result<Arc<dyn WriteStore>, StoreError> {
    let (store, connections): (Arc<dyn WriteStore>, _) = match address {
        Address::Folder(path) => return Ok(limited(Arc::new(LocalStore::open(path)?), options.limits)),
        Address::Cloud { service, bucket, prefix, settings } => {
            let store = CloudStore::open(*service, bucket, prefix, settings, options, address.to_string())?;
            (Arc::new(store), CONNECTIONS_TO_CLOUD)
        }
        Address::Sftp { user, host, port, path } => {
            (Arc::new(SftpStore::new(user, host, *port, path, options, address.to_string())), CONNECTIONS_TO_SERVER)
        }
        Address::WebDav { url } => (Arc::new(WebDavStore::new(url, options, address.to_string())?), CONNECTIONS_TO_SERVER),
    };
    let limits = Limits { connections: options.limits.connections.or(Some(connections)), ..options.limits };
    Ok(limited(Arc::new(RetryStore::new(store)), limits))
}

fn limited(store: Arc<dyn WriteStore>, limits: Limits) -> Arc<dyn WriteStore> {
    if limits == Limits::default() { store } else { Arc::new(LimitStore::new(store, limits)) }
}

/// Opens the store at an address for a new repository: makes its folder where there are folders. A bucket must be there.
///
/// # Errors
/// As [`open`], and if the folder cannot be made or holds foreign things.
pub fn create(address: &Address, options: &RemoteOptions) -> Result<Arc<dyn WriteStore>, StoreError> {
    match address {
        Address::Folder(path) => return Ok(limited(Arc::new(LocalStore::create(path)?), options.limits)),
        Address::Sftp { user, host, port, path } => {
            let store = SftpStore::new(user, host, *port, path, options, address.to_string());
            wait("folder", store.create_folder())?;
        }
        Address::WebDav { url } => wait("folder", WebDavStore::new(url, options, address.to_string())?.create_collection())?,
        Address::Cloud { .. } => {}
    }
    open(address, options)
}

/// Longest wait for a call that moves so many bytes: a slow line is no silent one.
pub fn put_deadline(length: u64) -> Duration {
    /// Bytes per second below which a line counts as broken.
    const SLOWEST: u64 = 32 << 10;
    CALL_DEADLINE + Duration::from_secs(length / SLOWEST)
}

/// One provider of ciphers for all connections, the one that seals records too. Somebody else may have chosen before; then that one serves.
fn choose_ciphers() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Digits for temporary names: nobody else draws the same.
fn random_digits() -> String {
    crate::id::to_hex(&crypto::random_array::<8>(&crypto::SystemRandom))
}

/// What `retain` says of a store that keeps nothing against anybody's wish.
fn lets_go_at_once(name: &ObjectName) -> StoreError {
    let source = std::io::Error::new(std::io::ErrorKind::Unsupported, "this store keeps nothing from being deleted");
    StoreError::Failed { place: name.to_string(), source }
}

/// Compares bytes with the checksum that came with them: what a faulty memory made of them must not leave this machine.
///
/// # Errors
/// `Failed`; nothing may be written then.
fn check_bytes(name: &ObjectName, bytes: &[u8], checksum: &ObjectHash) -> Result<(), StoreError> {
    if crypto::hash(bytes) == *checksum.as_bytes() {
        return Ok(());
    }
    let source = std::io::Error::new(std::io::ErrorKind::InvalidData, "the bytes to be written do not have their checksum");
    Err(StoreError::Failed { place: name.to_string(), source })
}

/// The runtime that carries network and timers; nothing else runs on it.
static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("store")
        .enable_all()
        .build()
        .expect("the system grants two threads at the start")
});

/// Waits for a store call from a plain thread, at most [`CALL_DEADLINE`]. `place` names the object or prefix in the error.
///
/// A local store never yields, so its work runs on the calling thread without a hand-over. Must not be called on the runtime itself.
///
/// # Errors
/// The call's own error, or [`StoreError::Timeout`].
pub fn wait<T>(place: &str, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    wait_until(place, CALL_DEADLINE, call)
}

/// Waits for a put of so many bytes, as long as [`put_deadline`] allows.
///
/// # Errors
/// The call's own error, or [`StoreError::Timeout`].
pub fn wait_for_put(name: &ObjectName, length: usize, call: impl Future<Output = Result<(), StoreError>>) -> Result<(), StoreError> {
    wait_until(name.as_str(), put_deadline(length as u64), call)
}

/// The objects under a prefix.
pub type Listed = Result<Vec<ObjectMeta>, StoreError>;
/// Their names, with their times where the store gives those.
pub type ListedNames = Result<Vec<(ObjectName, Option<Timestamp>)>, StoreError>;

/// Lists prefixes, all at once: `whole` ones with sizes and times, of the others the names. Results come in the order of the prefixes.
pub fn list_all<const N: usize, const M: usize>(
    store: &dyn ReadStore,
    whole: [&str; N],
    names: [&str; M],
) -> (Vec<Listed>, Vec<ListedNames>) {
    let whole = whole.map(|prefix| within(prefix, CALL_DEADLINE, store.list(prefix, None)));
    let names = names.map(|prefix| within(prefix, CALL_DEADLINE, store.list_names(prefix)));
    RUNTIME.block_on(future::join(future::join_all(whole), future::join_all(names)))
}

/// Gets whole objects, [`CALLS_AT_ONCE`] at a time. Results come in the order of the objects, which are named with their sizes: a large one may take longer.
pub fn get_all<'a>(store: &dyn ReadStore, objects: impl IntoIterator<Item = (&'a ObjectName, u64)>) -> Vec<Result<Bytes, StoreError>> {
    let calls = objects.into_iter().map(|(name, size)| within(name.as_str(), put_deadline(size), store.get(name)));
    RUNTIME.block_on(stream::iter(calls).buffered(CALLS_AT_ONCE).collect())
}

/// Gets ranges of objects, [`CALLS_AT_ONCE`] at a time. Results come in the order of the ranges.
pub fn get_ranges(store: &dyn ReadStore, ranges: &[(ObjectName, Range<u64>)]) -> Vec<Result<Bytes, StoreError>> {
    let call = |(name, range): &(ObjectName, Range<u64>)| {
        let (name, range) = (name.clone(), range.clone());
        async move { within(name.as_str(), CALL_DEADLINE, store.get_range(&name, range)).await }
    };
    RUNTIME.block_on(stream::iter(ranges.iter().map(call)).buffered(CALLS_AT_ONCE).collect())
}

/// Deletes objects, [`CALLS_AT_ONCE`] at a time. Results come in the order of the names.
pub fn delete_all<'a>(store: &dyn WriteStore, names: impl IntoIterator<Item = &'a ObjectName>) -> Vec<Result<(), StoreError>> {
    let calls = names.into_iter().map(|name| within(name.as_str(), CALL_DEADLINE, store.delete(name)));
    RUNTIME.block_on(stream::iter(calls).buffered(CALLS_AT_ONCE).collect())
}

/// Has objects kept until a time, [`CALLS_AT_ONCE`] at a time. Results come in the order of the names.
pub fn retain_all(store: &dyn WriteStore, names: &[ObjectName], until: Timestamp) -> Vec<Result<(), StoreError>> {
    let calls = names.iter().map(|name| within(name.as_str(), CALL_DEADLINE, store.retain(name, until)));
    RUNTIME.block_on(stream::iter(calls).buffered(CALLS_AT_ONCE).collect())
}

/// What has become of a call that was begun.
pub enum Begun<T> {
    /// The store answered without waiting, as a local one does.
    Done(Result<T, StoreError>),
    /// The answer comes later.
    Pending(PendingCall<T>),
}

/// A call that is on its way.
pub struct PendingCall<T> {
    call: Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>,
    since: Instant,
}

impl<T: Send + 'static> PendingCall<T> {
    /// Hands the answer and the time it took to `done`, on a thread of the network: it must be quick.
    pub fn then(self, done: impl FnOnce(Result<T, StoreError>, Duration) + Send + 'static) {
        let Self { call, since } = self;
        RUNTIME.spawn(async move {
            let result = call.await;
            done(result, since.elapsed());
        });
    }
}

/// Begins a store call from a plain thread without waiting for a network; like [`wait`] it ends within [`CALL_DEADLINE`]. `place` names the object or
/// prefix in the error.
pub fn begin<T: Send + 'static>(place: String, call: impl Future<Output = Result<T, StoreError>> + Send + 'static) -> Begun<T> {
    let _runtime = RUNTIME.enter();
    let since = Instant::now();
    let mut call: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move { within(&place, CALL_DEADLINE, call).await });
    match (&mut call).now_or_never() {
        Some(result) => Begun::Done(result),
        None => Begun::Pending(PendingCall { call, since }),
    }
}

/// Calls `task` again and again on a thread of the network, until it says no. It must be quick.
pub fn every(period: Duration, mut task: impl FnMut() -> bool + Send + 'static) {
    RUNTIME.spawn(async move {
        loop {
            tokio::time::sleep(period).await;
            if !task() {
                return;
            }
        }
    });
}

fn wait_until<T>(place: &str, deadline: Duration, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    RUNTIME.block_on(within(place, deadline, call))
}

/// A call with a deadline from which the time that it was [`excused`] for is taken away.
async fn within<T>(place: &str, deadline: Duration, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let begun = Instant::now();
    let bounded = async {
        let mut call = pin!(call);
        loop {
            let end = begun + deadline.saturating_add(EXCUSE.with(|excuse| excuse.get().so_far()));
            if let Ok(result) = timeout_at(end, &mut call).await {
                return result;
            }
            if begun + deadline.saturating_add(EXCUSE.with(|excuse| excuse.get().so_far())) <= Instant::now() {
                return Err(StoreError::Timeout { place: place.into(), after: deadline });
            }
        }
    };
    EXCUSE.scope(Cell::default(), bounded).await
}

tokio::task_local! {
    static EXCUSE: Cell<Excuse>;
}

/// Time that a call did not spend on its store.
#[derive(Clone, Copy, Default)]
struct Excuse {
    done: Duration,
    /// Since when it is excused, and how many of its parts are.
    current: Option<(Instant, u32)>,
}

impl Excuse {
    fn so_far(self) -> Duration {
        self.done + self.current.map_or(Duration::ZERO, |(since, _)| since.elapsed())
    }
}

/// Waits for something that is no fault of the store: its time does not count against the deadline of the call that waits.
async fn excused<T>(wait: impl Future<Output = T>) -> T {
    /// Ends the excuse also where the wait is given up.
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            change(|excuse| match excuse.current {
                Some((since, count)) if count > 1 => Excuse { current: Some((since, count - 1)), ..excuse },
                _ => Excuse { done: excuse.so_far(), current: None },
            });
        }
    }
    // Outside of `within` nobody counts.
    fn change(change: impl FnOnce(Excuse) -> Excuse) {
        let _ = EXCUSE.try_with(|excuse| excuse.set(change(excuse.get())));
    }
    change(|excuse| {
        let (since, count) = excuse.current.unwrap_or_else(|| (Instant::now(), 0));
        Excuse { current: Some((since, count + 1)), ..excuse }
    });
    let _end = End;
    wait.await
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[test]
    fn names_of_ours_only() {
        assert!(ObjectName::parse("snap/00ff/0000000001-ab").is_some());
        for foreign in ["", "Pack/aa", "pack//a", "/pack", "pack/", "pack/../x", "pack/a.tmp"] {
            assert!(ObjectName::parse(foreign).is_none(), "{foreign}");
        }
    }

    #[test]
    fn the_deadline_does_not_count_what_a_call_is_excused_for() {
        let seconds = Duration::from_secs;
        let run = |pauses: u64, work: u64| {
            let call = async {
                tokio::join!(excused(sleep(seconds(pauses))), excused(sleep(seconds(pauses / 2))));
                sleep(seconds(work)).await;
                excused(sleep(seconds(pauses))).await;
                Ok(())
            };
            retry::without_waiting(async {
                let begun = Instant::now();
                (within("x", seconds(30), call).await, begun.elapsed().as_secs())
            })
        };
        assert!(matches!(run(0, 29), (Ok(()), 29)));
        assert!(matches!(run(0, 31), (Err(StoreError::Timeout { .. }), 30)));
        assert!(matches!(run(100, 29), (Ok(()), 229)));
        assert!(matches!(run(100, 31), (Err(StoreError::Timeout { .. }), 130)));
    }
}
