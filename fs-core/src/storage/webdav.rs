//! Objects in a collection of a WebDAV server.
//!
//! A new object is put under a temporary name and moved with `Overwrite: F`: servers disagree about conditional puts, and several let racing
//! writers win. The protocol has no way to flush; a server that answers is taken at its word, and `check` finds what it lost.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use quick_xml::events::Event;
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;
use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use url::Url;

use super::cloud::ServerClock;
use super::{
    Capabilities, OBJECT_SIZE_MAX, ObjectMeta, ObjectName, ReadStore, RemoteOptions, SILENCE_MAX, StoreError, WriteStore, check_bytes,
    lets_go_at_once, put_deadline,
};
use crate::id::ObjectHash;
use crate::report::chain;
use crate::time::Timestamp;

/// Collections that are listed at a time.
const COLLECTIONS_IN_FLIGHT: usize = 16;
/// Largest listing of one collection, in bytes.
const LISTING_MAX: u64 = 256 << 20;
/// Larger objects are not sent to where a collection may be missing: the answer would come when all of it was sent in vain.
const SMALL: usize = 64 << 10;
const TEMPORARY_PREFIX: &str = ".tmp-";
const PROPERTIES: &str = r#"<?xml version="1.0" encoding="utf-8"?><propfind xmlns="DAV:"><prop><resourcetype/><getcontentlength/><getlastmodified/></prop></propfind>"#;

/// A collection on a server.
#[derive(Debug)]
pub struct WebDavStore {
    client: reqwest::Client,
    /// For puts and moves: a server is silent while it is sent something, on a slow line for minutes.
    patient: reqwest::Client,
    /// Ends with a slash.
    root: Url,
    user: Option<(String, Option<String>)>,
    location: String,
    clock: ServerClock,
    /// Collections that are known to be there.
    made: Mutex<HashSet<String>>,
}

/// A line of a listing.
#[derive(Debug, Default, PartialEq, Eq)]
struct Line {
    path: String,
    is_collection: bool,
    size: Option<u64>,
    modified: Option<Timestamp>,
}

impl WebDavStore {
    /// A collection. Sends nothing yet.
    ///
    /// # Errors
    /// `Failed` if the certificates or the proxy make no sense.
    pub fn new(url: &Url, options: &RemoteOptions, location: String) -> Result<Self, StoreError> {
        super::choose_ciphers();
        let failed = |source| StoreError::Failed { place: location.clone(), source };
        let client = |silence| {
            let mut client = reqwest::Client::builder().connect_timeout(super::CONNECT_TIMEOUT).read_timeout(silence);
            if let Some(proxy) = &options.proxy {
                client = client.proxy(reqwest::Proxy::all(proxy).map_err(io::Error::other)?);
            }
            if let Some(file) = &options.ca_file {
                for certificate in reqwest::Certificate::from_pem_bundle(&std::fs::read(file)?).map_err(io::Error::other)? {
                    client = client.add_root_certificate(certificate);
                }
            }
            client.build().map_err(io::Error::other)
        };
        let (quick, patient) = (client(SILENCE_MAX).map_err(failed)?, client(put_deadline(OBJECT_SIZE_MAX)).map_err(failed)?);
        let user = user_of(url, &options.variables);
        let mut root = url.clone();
        // They travel in a header.
        let _ = root.set_username("");
        Ok(Self { client: quick, patient, root, user, location, clock: ServerClock::default(), made: Mutex::default() })
    }

    /// Makes the collection if it is not there; those above it must be.
    ///
    /// # Errors
    /// `Denied` or `Failed`.
    pub async fn create_collection(&self) -> Result<(), StoreError> {
        self.make_collection("").await
    }

    fn url(&self, path: &str) -> Url {
        // Names are letters, digits, `-`, `/` and the dot of temporary ones: nothing to escape, no way up.
        self.root.join(path).unwrap_or_else(|_| self.root.clone())
    }

    fn request(&self, method: &str, url: Url) -> RequestBuilder {
        let client = if matches!(method, "PUT" | "MOVE") { &self.patient } else { &self.client };
        let request = client.request(Method::from_bytes(method.as_bytes()).unwrap_or(Method::GET), url);
        match &self.user {
            Some((user, password)) => request.basic_auth(user, password.as_ref()),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder, place: &str) -> Result<Response, StoreError> {
        let response = request.send().await.map_err(|error| failed(place, &error.without_url()))?;
        if let Some(date) = response.headers().get(header::DATE).and_then(|date| date.to_str().ok()) {
            self.clock.note(date);
        }
        Ok(response)
    }

    async fn make_collection(&self, path: &str) -> Result<(), StoreError> {
        let place = if path.is_empty() { &self.location } else { path };
        let status = self.send(self.request("MKCOL", self.url(path)), place).await?.status();
        // "Not allowed" where it is there already; where two writers make it at once, one may hear anything.
        if status.is_success() || status == StatusCode::METHOD_NOT_ALLOWED || self.lines(path, "0").await?.is_some() {
            return Ok(());
        }
        Err(refused(place, status))
    }

    /// Makes the collections above an object, from the top: all, or those that are not known to be there.
    async fn make_collections(&self, name: &ObjectName, all: bool) -> Result<(), StoreError> {
        for (end, _) in name.as_str().match_indices('/') {
            let path = name.as_str().get(..=end).unwrap_or_default();
            if all || !self.made().contains(path) {
                self.make_collection(path).await?;
                self.made().insert(path.to_owned());
            }
        }
        Ok(())
    }

    fn made(&self) -> MutexGuard<'_, HashSet<String>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether "not found" about an object can be believed: only where the store is there.
    async fn missing(&self, name: &ObjectName) -> StoreError {
        match self.lines("", "0").await {
            Ok(Some(_)) => StoreError::NotFound { name: name.clone() },
            Ok(None) => refused(&self.location, StatusCode::NOT_FOUND),
            Err(error) => error,
        }
    }

    /// What a collection holds, itself among it; `None` if it is not there.
    async fn lines(&self, path: &str, depth: &str) -> Result<Option<Vec<Line>>, StoreError> {
        let place = if path.is_empty() { &self.location } else { path };
        let request = self.request("PROPFIND", self.url(path)).header("Depth", depth).header(header::CONTENT_TYPE, "application/xml");
        let response = self.send(request.body(PROPERTIES), place).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::MULTI_STATUS => {
                let text = body(response, LISTING_MAX, place).await?;
                let lines = parse_listing(&text);
                lines
                    .map(Some)
                    .ok_or_else(|| StoreError::Failed { place: place.into(), source: io::Error::other("its answer is no listing") })
            }
            status => Err(refused(place, status)),
        }
    }

    fn walk<'a>(&'a self, path: String, after: Option<&'a ObjectName>) -> BoxFuture<'a, Result<Vec<ObjectMeta>, StoreError>> {
        Box::pin(async move {
            let (mut objects, mut collections) = (Vec::new(), Vec::new());
            for line in self.lines(&path, "1").await?.unwrap_or_default() {
                let Some(below) = line.path.strip_prefix(self.root.path()).map(|path| path.trim_end_matches('/')) else { continue };
                let Some(name) = ObjectName::parse(below).filter(|name| name.as_str().len() > path.len()) else { continue };
                if line.is_collection {
                    let folder = format!("{name}/");
                    // Names greater than `after` may still be in the collection that `after` is in.
                    if after.is_none_or(|after| after.as_str().starts_with(&folder) || *folder > *after.as_str()) {
                        collections.push(folder);
                    }
                } else if after.is_none_or(|after| name > *after) {
                    objects.push(ObjectMeta { name, size: line.size.unwrap_or(0), modified: line.modified });
                }
            }
            let below = stream::iter(collections.into_iter().map(|path| self.walk(path, after))).buffer_unordered(COLLECTIONS_IN_FLIGHT);
            objects.extend(below.try_collect::<Vec<_>>().await?.into_iter().flatten());
            Ok(objects)
        })
    }
}

#[async_trait]
impl ReadStore for WebDavStore {
    async fn get(&self, name: &ObjectName) -> Result<Bytes, StoreError> {
        let response = self.send(self.request("GET", self.url(name.as_str())), name.as_str()).await?;
        match response.status() {
            StatusCode::OK => {
                let size = response.content_length();
                if let Some(size) = size.filter(|&size| size > OBJECT_SIZE_MAX) {
                    return Err(StoreError::WrongSize { name: name.clone(), size });
                }
                body(response, OBJECT_SIZE_MAX, name.as_str()).await
            }
            StatusCode::NOT_FOUND => Err(self.missing(name).await),
            status => Err(refused(name.as_str(), status)),
        }
    }

    async fn get_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, StoreError> {
        let length = range.end.saturating_sub(range.start);
        if length > 0 && length <= OBJECT_SIZE_MAX {
            let wanted = format!("bytes={}-{}", range.start, range.end - 1);
            let request = self.request("GET", self.url(name.as_str())).header(header::RANGE, wanted);
            let response = self.send(request, name.as_str()).await?;
            match response.status() {
                StatusCode::PARTIAL_CONTENT => {
                    let bytes = body(response, length, name.as_str()).await?;
                    if bytes.len() as u64 == length {
                        return Ok(bytes);
                    }
                }
                // The whole object: a server without ranges, or a range that it finds senseless.
                StatusCode::OK | StatusCode::RANGE_NOT_SATISFIABLE => {}
                StatusCode::NOT_FOUND => return Err(self.missing(name).await),
                status => return Err(refused(name.as_str(), status)),
            }
        }
        let size = self.stat(name).await?.size;
        if range.start > range.end || range.end > size {
            return Err(StoreError::WrongSize { name: name.clone(), size });
        }
        let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
        if length == 0 { Ok(Bytes::new()) } else { Ok(self.get(name).await?.slice(at(range.start)..at(range.end))) }
    }

    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        match self.lines(name.as_str(), "0").await? {
            Some(lines) => match lines.into_iter().find(|line| !line.is_collection) {
                Some(line) => Ok(ObjectMeta { name: name.clone(), size: line.size.unwrap_or(0), modified: line.modified }),
                None => Err(StoreError::NotFound { name: name.clone() }),
            },
            None => Err(self.missing(name).await),
        }
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>) -> Result<Vec<ObjectMeta>, StoreError> {
        if self.lines("", "0").await?.is_none() {
            return Err(refused(&self.location, StatusCode::NOT_FOUND));
        }
        let mut found = self.walk(prefix.to_owned(), after).await?;
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    async fn server_time(&self) -> Result<Option<Timestamp>, StoreError> {
        self.lines("", "0").await?;
        Ok(self.clock.last())
    }

    fn capabilities(&self) -> Capabilities {
        // Apache lets several racing moves win.
        Capabilities { create_only: false, verifies_checksum: true, deletes: true, retention: None }
    }

    fn location(&self) -> String {
        self.location.clone()
    }
}

#[async_trait]
impl WriteStore for WebDavStore {
    async fn put_new(&self, name: &ObjectName, bytes: Bytes, checksum: &ObjectHash) -> Result<(), StoreError> {
        check_bytes(name, &bytes, checksum)?;
        let folder = name.as_str().rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        let temporary = self.url(&format!("{folder}{TEMPORARY_PREFIX}{}", super::random_digits()));
        let put = || self.request("PUT", temporary.clone()).body(bytes.clone());
        if bytes.len() > SMALL {
            // Who may not make collections may put all the same: the put says what is wrong.
            let _ = self.make_collections(name, false).await;
        }
        let mut status = self.send(put(), name.as_str()).await?.status();
        if matches!(status, StatusCode::CONFLICT | StatusCode::NOT_FOUND | StatusCode::FORBIDDEN) {
            // The collection is missing; servers say so in different ways.
            self.make_collections(name, true).await?;
            status = self.send(put(), name.as_str()).await?.status();
        }
        if !status.is_success() {
            return Err(match status {
                StatusCode::INSUFFICIENT_STORAGE => StoreError::Full { name: name.clone() },
                status => refused(name.as_str(), status),
            });
        }
        let target = self.url(name.as_str());
        let moved = self.request("MOVE", temporary.clone()).header("Destination", target.as_str()).header("Overwrite", "F");
        let result = match self.send(moved, name.as_str()).await {
            Ok(response) if response.status().is_success() => return Ok(()),
            Ok(response) if response.status() == StatusCode::PRECONDITION_FAILED => Err(StoreError::AlreadyExists { name: name.clone() }),
            Ok(response) => Err(refused(name.as_str(), response.status())),
            Err(error) => Err(error),
        };
        let _ = self.send(self.request("DELETE", temporary), name.as_str()).await;
        result
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        let response = self.send(self.request("DELETE", self.url(name.as_str())), name.as_str()).await?;
        match response.status() {
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND => match self.missing(name).await {
                StoreError::NotFound { .. } => Ok(()),
                error => Err(error),
            },
            status => Err(refused(name.as_str(), status)),
        }
    }

    async fn retain(&self, name: &ObjectName, _until: Timestamp) -> Result<(), StoreError> {
        Err(lets_go_at_once(name))
    }

    fn as_read(self: Arc<Self>) -> Arc<dyn ReadStore> {
        self
    }
}

fn user_of(url: &Url, variables: &BTreeMap<String, String>) -> Option<(String, Option<String>)> {
    let named = Some(url.username()).filter(|user| !user.is_empty()).map(str::to_owned);
    let user = named.or_else(|| variables.get("YESTERDRIVE_WEBDAV_USER").cloned())?;
    Some((user, variables.get("YESTERDRIVE_WEBDAV_PASSWORD").cloned()))
}

/// A body of at most `limit` bytes.
async fn body(response: Response, limit: u64, place: &str) -> Result<Bytes, StoreError> {
    let mut bytes = BytesMut::new();
    let mut stream = response.bytes_stream();
    while let Some(part) = stream.next().await {
        bytes.extend_from_slice(&part.map_err(|error| failed(place, &error))?);
        if bytes.len() as u64 > limit {
            return Err(StoreError::Failed { place: place.into(), source: io::Error::other("the answer is longer than it may be") });
        }
    }
    Ok(bytes.freeze())
}

fn failed(place: &str, error: &reqwest::Error) -> StoreError {
    StoreError::Failed { place: place.into(), source: io::Error::other(chain(error)) }
}

fn refused(place: &str, status: StatusCode) -> StoreError {
    let is_final = status.is_client_error() && !matches!(status.as_u16(), 408 | 409 | 425 | 429);
    // What is wrong with a request is not tried again.
    let kind = if is_final { io::ErrorKind::InvalidInput } else { io::ErrorKind::Other };
    let (place, source) = (place.to_owned(), io::Error::new(kind, format!("the server answered {status}")));
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::LOCKED => StoreError::Denied { place, source },
        _ => StoreError::Failed { place, source },
    }
}

/// The lines of a multi-status answer; `None` if it is no XML or has no end.
fn parse_listing(xml: &[u8]) -> Option<Vec<Line>> {
    let mut reader = NsReader::from_reader(xml);
    let (mut lines, mut line, mut text, mut depth) = (Vec::new(), None::<Line>, String::new(), 0usize);
    loop {
        let (namespace, event) = reader.read_resolved_event().ok()?;
        let is_dav = matches!(namespace, ResolveResult::Bound(namespace) if namespace.as_ref() == b"DAV:");
        match event {
            Event::Start(tag) => {
                depth += 1;
                text.clear();
                match tag.local_name().as_ref() {
                    b"response" if is_dav => line = Some(Line::default()),
                    b"collection" if is_dav => set(&mut line, |line| line.is_collection = true),
                    _ => {}
                }
            }
            Event::Empty(tag) if is_dav && tag.local_name().as_ref() == b"collection" => set(&mut line, |line| line.is_collection = true),
            Event::Text(part) => text.push_str(&part.decode().ok()?),
            Event::GeneralRef(entity) => text.push(resolve(&entity)?),
            Event::End(tag) => {
                depth = depth.checked_sub(1)?;
                let value = text.trim();
                match tag.local_name().as_ref() {
                    b"href" if is_dav => {
                        let path = path_of(value)?;
                        set(&mut line, |line| line.path = path);
                    }
                    b"getcontentlength" if is_dav => set(&mut line, |line| line.size = value.parse().ok()),
                    b"getlastmodified" if is_dav => set(&mut line, |line| line.modified = Timestamp::from_http_date(value)),
                    b"response" if is_dav => lines.extend(line.take()),
                    _ => {}
                }
                text.clear();
            }
            Event::Eof => return (depth == 0).then_some(lines),
            _ => {}
        }
    }
}

fn set(line: &mut Option<Line>, change: impl FnOnce(&mut Line)) {
    if let Some(line) = line {
        change(line);
    }
}

fn resolve(entity: &quick_xml::events::BytesRef<'_>) -> Option<char> {
    if let Ok(Some(character)) = entity.resolve_char_ref() {
        return Some(character);
    }
    match &**entity {
        b"amp" => Some('&'),
        b"lt" => Some('<'),
        b"gt" => Some('>'),
        b"quot" => Some('"'),
        b"apos" => Some('\''),
        _ => None,
    }
}

/// The path of a reference, which is a whole URL with some servers.
fn path_of(href: &str) -> Option<String> {
    if href.starts_with('/') {
        return Some(href.to_owned());
    }
    Some(Url::parse(href).ok()?.path().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_of_different_servers() {
        let xml = br#"<?xml version="1.0"?>
            <D:multistatus xmlns:D="DAV:" xmlns:x="other"><D:response xmlns:lp1="DAV:"><D:href>/dav/pack/</D:href><D:propstat><D:prop>
            <lp1:resourcetype><D:collection/></lp1:resourcetype><x:getcontentlength>9</x:getcontentlength></D:prop></D:propstat></D:response>
            <D:response><D:href>http://host/dav/a&amp;b</D:href><D:propstat><D:prop><D:resourcetype/>
            <D:getcontentlength>42</D:getcontentlength><D:getlastmodified>Sat, 21 Nov 2026 04:00:00 GMT</D:getlastmodified></D:prop></D:propstat></D:response>
            </D:multistatus>"#;
        let lines = parse_listing(xml).unwrap();
        let time = Timestamp::new(1_795_233_600, 0);
        assert_eq!(lines[0], Line { path: "/dav/pack/".into(), is_collection: true, size: None, modified: None });
        assert_eq!(lines[1], Line { path: "/dav/a&b".into(), is_collection: false, size: Some(42), modified: time });
    }

    /// What a call does with a server that accepts and says nothing, on a clock that jumps to the next timer.
    fn silent_for<T>(call: impl AsyncFnOnce(WebDavStore) -> T) -> std::time::Duration {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Url::parse(&format!("http://{}/", server.local_addr().unwrap())).unwrap();
        let store = WebDavStore::new(&url, &RemoteOptions::default(), url.to_string()).unwrap();
        crate::storage::retry::without_waiting(async {
            let begun = tokio::time::Instant::now();
            call(store).await;
            begun.elapsed()
        })
    }

    #[test]
    fn a_server_that_is_silent_is_given_up_unless_it_is_being_sent_something() {
        let name = ObjectName::new("a");
        let read = silent_for(async |store| store.get(&name).await.unwrap_err());
        assert!((SILENCE_MAX..SILENCE_MAX * 2).contains(&read), "{read:?}");
        let bytes = Bytes::from_static(b"x");
        let hash = crate::testing::contract::checksum(&bytes);
        let put = silent_for(async |store| tokio::time::timeout(SILENCE_MAX * 9, store.put_new(&name, bytes, &hash)).await.unwrap_err());
        assert!(put >= SILENCE_MAX * 9, "{put:?}");
    }

    #[test]
    fn a_listing_that_was_cut_is_none() {
        let whole = br#"<multistatus xmlns="DAV:"><response><href>/x</href></response></multistatus>"#;
        assert_eq!(parse_listing(whole).unwrap().len(), 1);
        for length in 1..whole.len() {
            assert_eq!(parse_listing(&whole[..length]), None, "{length}");
        }
        assert_eq!(parse_listing(b"<multistatus xmlns=\"DAV:\"><a></b></multistatus>"), None);
    }
}
