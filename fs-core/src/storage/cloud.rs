//! S3, Azure Blob Storage and Google Cloud Storage, through `object_store`.
//!
//! What that library does not tell is added here: which answers mean "no such object" and not "no such bucket", the server's clock (from the
//! date of its answers), ranges that are never cut silently, and that only our own checksum decides what is sent.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::{Certificate, ClientOptions, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, RetryConfig};

use super::address::CloudService;
use super::{
    CONNECT_TIMEOUT, Capabilities, OBJECT_SIZE_MAX, ObjectMeta, ObjectName, ReadStore, RemoteOptions, SILENCE_MAX, StoreError, WriteStore,
    check_bytes, lets_go_at_once, put_deadline,
};
use crate::id::ObjectHash;
use crate::time::{Clock as _, SystemClock, Timestamp};

mod answer;
mod lock;
mod settings;

use answer::Answer;
use lock::{Keeping, Lock};
use settings::Settings;

/// A bucket, or a part of one.
#[derive(Debug)]
pub struct CloudStore {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    location: String,
    create_only: bool,
    clock: Arc<ServerClock>,
    lock: Option<Lock>,
}

impl CloudStore {
    /// Opens a bucket. Sends nothing yet.
    ///
    /// # Errors
    /// `Failed` if settings are missing, unknown or contradict each other.
    pub fn open(
        service: CloudService,
        bucket: &str,
        prefix: &str,
        settings: &BTreeMap<String, String>,
        options: &RemoteOptions,
        location: String,
    ) -> Result<Self, StoreError> {
        super::choose_ciphers();
        let clock = Arc::new(ServerClock::default());
        let connector = Connector { clock: Arc::clone(&clock) };
        let wrong = |error: object_store::Error| failed(&location, error);
        let invalid = |error: Box<dyn std::error::Error + Send + Sync>| {
            let source = io::Error::new(io::ErrorKind::InvalidInput, error);
            StoreError::Failed { place: location.clone(), source }
        };
        let chosen = Settings::of(service, settings, options).map_err(|error| invalid(error.into()))?;
        let endpoint = chosen.endpoint();
        let client = client_options(endpoint, options).map_err(|source| StoreError::Failed { place: location.clone(), source })?;
        // One request is one attempt: `RetryStore` repeats, because only it can tell a lost reply from a name that was taken.
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        // A service of its own maker refuses names that exist; what another one does is found out when a repository is made.
        let create_only = endpoint.is_none() || settings.get("create_only").is_some_and(|value| value == "true");
        let keeping = match Keeping::of(settings) {
            Ok(Some(_)) if service != CloudService::S3 => {
                Err("only S3 is told by an address how long to keep objects: set a policy on the container instead".to_owned())
            }
            keeping => keeping,
        };
        let keeping = keeping.map_err(|text| invalid(text.into()))?;
        let mut lock = None;
        let store: Arc<dyn ObjectStore> = match service {
            CloudService::S3 => {
                let builder = AmazonS3Builder::new().with_bucket_name(bucket).with_checksum_algorithm(Checksum::SHA256);
                let builder = chosen.apply(builder, |builder, key: AmazonS3ConfigKey, value| builder.with_config(key, value));
                let own = connector.connect(&client).map_err(wrong)?;
                let s3 = builder.with_client_options(client).with_retry(retry).with_http_connector(connector).build().map_err(wrong)?;
                let s3 = Arc::new(s3);
                lock = keeping.map(|keeping| Lock { s3: Arc::clone(&s3), client: own, keeping });
                s3
            }
            CloudService::Azure => {
                let builder = MicrosoftAzureBuilder::new().with_container_name(bucket);
                let builder = chosen.apply(builder, |builder, key: AzureConfigKey, value| builder.with_config(key, value));
                Arc::new(builder.with_client_options(client).with_retry(retry).with_http_connector(connector).build().map_err(wrong)?)
            }
            CloudService::Google => {
                let builder = GoogleCloudStorageBuilder::new().with_bucket_name(bucket);
                let builder = chosen.apply(builder, |builder, key: GoogleConfigKey, value| builder.with_config(key, value));
                Arc::new(builder.with_client_options(client).with_retry(retry).with_http_connector(connector).build().map_err(wrong)?)
            }
        };
        let prefix = Path::parse(prefix).map_err(|error| failed(&location, error.into()))?;
        Ok(Self { store, prefix, location, create_only, clock, lock })
    }

    fn path(&self, name: &ObjectName) -> Path {
        name.as_str().split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// The name of an object of ours; `None` for foreign ones.
    fn name(&self, path: &Path) -> Option<ObjectName> {
        let rest = path.as_ref().strip_prefix(self.prefix.as_ref())?;
        ObjectName::parse(rest.trim_start_matches('/'))
    }

    fn meta(name: ObjectName, meta: &object_store::ObjectMeta) -> ObjectMeta {
        let modified = Timestamp::new(meta.last_modified.timestamp(), meta.last_modified.timestamp_subsec_nanos().min(999_999_999));
        ObjectMeta { name, size: meta.size, modified }
    }

    fn error(&self, name: &ObjectName, error: object_store::Error) -> StoreError {
        match error {
            object_store::Error::NotFound { .. } if !is_about_the_bucket(&error) => StoreError::NotFound { name: name.clone() },
            object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
                StoreError::AlreadyExists { name: name.clone() }
            }
            error => failed(name.as_str(), error),
        }
    }
}

#[async_trait]
impl ReadStore for CloudStore {
    async fn get(&self, name: &ObjectName) -> Result<Bytes, StoreError> {
        let result = self.store.get(&self.path(name)).await.map_err(|error| self.error(name, error))?;
        let size = result.meta.size;
        if size > OBJECT_SIZE_MAX {
            return Err(StoreError::WrongSize { name: name.clone(), size });
        }
        let bytes = result.bytes().await.map_err(|error| self.error(name, error))?;
        if bytes.len() as u64 == size { Ok(bytes) } else { Err(StoreError::WrongSize { name: name.clone(), size: bytes.len() as u64 }) }
    }

    async fn get_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, StoreError> {
        let length = range.end.saturating_sub(range.start);
        if length > 0 {
            match self.store.get_range(&self.path(name), range.clone()).await {
                Ok(bytes) if bytes.len() as u64 == length => return Ok(bytes),
                Ok(_) => {}
                Err(error @ object_store::Error::Generic { .. }) => {
                    // Servers answer a range behind the end in many ways: the size tells whether this was one.
                    let size = self.stat(name).await?.size;
                    return Err(if range.end > size {
                        StoreError::WrongSize { name: name.clone(), size }
                    } else {
                        failed(name.as_str(), error)
                    });
                }
                Err(error) => return Err(self.error(name, error)),
            }
        }
        let size = self.stat(name).await?.size;
        if range.start > range.end || range.end > size || length > 0 {
            Err(StoreError::WrongSize { name: name.clone(), size })
        } else {
            Ok(Bytes::new())
        }
    }

    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        let meta = self.store.head(&self.path(name)).await.map_err(|error| self.error(name, error))?;
        Ok(Self::meta(name.clone(), &meta))
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>) -> Result<Vec<ObjectMeta>, StoreError> {
        let folder = prefix.split('/').filter(|part| !part.is_empty()).fold(self.prefix.clone(), |path, part| path.join(part));
        let folder = (!folder.as_ref().is_empty()).then_some(folder);
        // Garage lists nothing after a name that does not begin with the prefix, where others list everything that follows it.
        let listed = match after.filter(|after| after.as_str().starts_with(prefix)) {
            Some(after) => self.store.list_with_offset(folder.as_ref(), &self.path(after)),
            None => self.store.list(folder.as_ref()),
        };
        let place = if prefix.is_empty() { &self.location } else { prefix };
        let all: Vec<_> = listed.try_collect().await.map_err(|error| failed(place, error))?;
        let ours = all.iter().filter_map(|meta| Some(Self::meta(self.name(&meta.location)?, meta)));
        let mut ours: Vec<_> =
            ours.filter(|meta| meta.name.as_str().starts_with(prefix) && after.is_none_or(|after| meta.name > *after)).collect();
        ours.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(ours)
    }

    async fn server_time(&self) -> Result<Option<Timestamp>, StoreError> {
        let probe = ObjectName::new("repo/clock");
        match self.stat(&probe).await {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(self.clock.last()),
            Err(error) => Err(error),
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            create_only: self.create_only,
            verifies_checksum: true,
            deletes: true,
            retention: self.lock.as_ref().map(|lock| lock.keeping.period),
        }
    }

    fn location(&self) -> String {
        self.location.clone()
    }
}

#[async_trait]
impl WriteStore for CloudStore {
    async fn put_new(&self, name: &ObjectName, bytes: Bytes, checksum: &ObjectHash) -> Result<(), StoreError> {
        check_bytes(name, &bytes, checksum)?;
        let path = self.path(name);
        if let Some(lock) = &self.lock {
            let now = self.clock.last().unwrap_or_else(|| SystemClock.now());
            return lock.put_new((name, &path), bytes, now.saturating_add(lock.keeping.period)).await;
        }
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = match self.store.put_opts(&path, bytes.clone().into(), create).await {
            Err(object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. }) => {
                self.store.put(&path, bytes.into()).await
            }
            // A server may take a conflict of two writers for an object that exists: then nobody has written.
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. })
                if matches!(self.stat(name).await, Err(StoreError::NotFound { .. })) =>
            {
                self.store.put(&path, bytes.into()).await
            }
            put => put,
        };
        put.map(drop).map_err(|error| self.error(name, error))
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        if let Some(lock) = &self.lock {
            return lock.delete(name, &self.path(name)).await;
        }
        match self.store.delete(&self.path(name)).await {
            Ok(()) => Ok(()),
            Err(error) => match self.error(name, error) {
                StoreError::NotFound { .. } => Ok(()),
                error => Err(error),
            },
        }
    }

    async fn retain(&self, name: &ObjectName, until: Timestamp) -> Result<(), StoreError> {
        match &self.lock {
            Some(lock) => lock.retain(name, &self.path(name), until).await,
            None => Err(lets_go_at_once(name)),
        }
    }

    fn as_read(self: Arc<Self>) -> Arc<dyn ReadStore> {
        self
    }
}

/// A missing bucket is answered with the same status as a missing object, and is no reason to believe that an object does not exist.
fn is_about_the_bucket(error: &object_store::Error) -> bool {
    let text = error.to_string();
    ["NoSuchBucket", "ContainerNotFound", "specified bucket does not exist"].iter().any(|sign| text.contains(sign))
}

fn failed(place: &str, error: object_store::Error) -> StoreError {
    refused(place, Answer::of(&error))
}

fn refused(place: &str, answer: Answer) -> StoreError {
    let place = place.to_owned();
    let source = io::Error::new(answer.kind(), answer.text);
    match source.kind() {
        io::ErrorKind::PermissionDenied => StoreError::Denied { place, source },
        _ => StoreError::Failed { place, source },
    }
}

fn client_options(endpoint: Option<&str>, options: &RemoteOptions) -> io::Result<ClientOptions> {
    let mut client = ClientOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_read_timeout(SILENCE_MAX)
        .with_timeout(put_deadline(OBJECT_SIZE_MAX))
        .with_allow_http(endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")));
    if let Some(proxy) = &options.proxy {
        client = client.with_proxy_url(proxy);
    }
    if let Some(file) = &options.ca_file {
        let pem = std::fs::read(file)?;
        for certificate in Certificate::from_pem_bundle(&pem).map_err(io::Error::other)? {
            client = client.with_root_certificate(certificate);
        }
    }
    Ok(client)
}

/// The server's clock, as of its last answer.
#[derive(Default)]
pub(super) struct ServerClock(Mutex<Option<Timestamp>>);

impl ServerClock {
    pub(super) fn note(&self, date: &str) {
        if let Some(time) = Timestamp::from_http_date(date) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(time);
        }
    }

    pub(super) fn last(&self) -> Option<Timestamp> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ServerClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerClock({:?})", self.last())
    }
}

/// Connects as the library would, and notes the date of every answer.
#[derive(Debug)]
struct Connector {
    clock: Arc<ServerClock>,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        let patient = ReqwestConnector::default().connect(&options.clone().with_read_timeout(put_deadline(OBJECT_SIZE_MAX)))?;
        Ok(HttpClient::new(Dated { client, patient, clock: Arc::clone(&self.clock) }))
    }
}

#[derive(Debug)]
struct Dated {
    client: HttpClient,
    /// A server is silent while it is sent something: on a slow line for minutes.
    patient: HttpClient,
    clock: Arc<ServerClock>,
}

#[async_trait]
impl HttpService for Dated {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        // Not `is_empty`, which says the opposite about payloads in this version of the library.
        let client = if request.body().content_length() == 0 { &self.client } else { &self.patient };
        let response = client.execute(request).await?;
        if let Some(date) = response.headers().get("date").and_then(|date| date.to_str().ok()) {
            self.clock.note(date);
        }
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::retry::without_waiting;
    use crate::testing::contract::checksum;

    /// How long a call bears with a server that accepts and says nothing, on a clock that jumps to the next timer.
    fn silent_for<T>(call: impl AsyncFnOnce(CloudStore) -> T) -> std::time::Duration {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let settings = [("endpoint", format!("http://{}", server.local_addr().unwrap())), ("region", "x".to_owned())];
        let settings = settings.map(|(key, value)| (key.to_owned(), value)).into();
        let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(|key| (key.to_owned(), "test".to_owned()));
        let options = RemoteOptions { variables: keys.into(), ..RemoteOptions::default() };
        let store = CloudStore::open(CloudService::S3, "bucket", "p", &settings, &options, "s3://bucket/p".to_owned()).unwrap();
        without_waiting(async {
            let begun = tokio::time::Instant::now();
            call(store).await;
            begun.elapsed()
        })
    }

    #[test]
    fn a_silent_service_is_given_up_once_unless_it_is_being_sent_something() {
        let name = ObjectName::new("a");
        let read = silent_for(async |store| assert!(matches!(store.get(&name).await, Err(StoreError::Failed { .. }))));
        assert!((SILENCE_MAX..SILENCE_MAX * 2).contains(&read), "one attempt and no more: {read:?}");
        let bytes = Bytes::from_static(b"x");
        let hash = checksum(&bytes);
        let put = silent_for(async |store| tokio::time::timeout(SILENCE_MAX * 9, store.put_new(&name, bytes, &hash)).await.unwrap_err());
        assert!(put >= SILENCE_MAX * 9, "{put:?}");
    }
}
