//! Buckets with Object Lock (S3): the service lets nobody delete or overwrite what is put, whoever has the credentials, until a date that can only be moved on.
//!
//! `object_store` knows nothing of it, but signs requests of our own. Such a bucket keeps versions: an object is deleted by deleting its versions, which the
//! service refuses until their date; a deletion without a version would only hide it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::{Span, SpanRelativeTo};
use object_store::aws::AmazonS3;
use object_store::client::{HttpClient, HttpRequest, HttpRequestBody, HttpResponse};
use object_store::path::Path;
use object_store::signer::{HeaderName, HeaderValue, Method, SignedUrlOptions, Signer as _};
use ring::digest;

use super::answer::Answer;
use crate::storage::{ObjectName, StoreError};
use crate::time::Timestamp;

/// How long a request that was signed may still be sent.
const SIGNED_FOR: Duration = Duration::from_secs(3600);
/// Versions of one object that a deletion takes away. We write one; others were put by somebody who overwrites.
const VERSIONS_MAX: usize = 100;
/// Longest text of an answer that is read, in bytes.
const ANSWER_MAX: usize = 64 << 10;

const MODE: HeaderName = HeaderName::from_static("x-amz-object-lock-mode");
const UNTIL: HeaderName = HeaderName::from_static("x-amz-object-lock-retain-until-date");
const VERSION: HeaderName = HeaderName::from_static("x-amz-version-id");
const CHECKSUM: HeaderName = HeaderName::from_static("x-amz-checksum-sha256");
const ALGORITHM: HeaderName = HeaderName::from_static("x-amz-sdk-checksum-algorithm");
const IF_NONE_MATCH: HeaderName = HeaderName::from_static("if-none-match");

/// Who may take an object away before its date.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// Nobody.
    Compliance,
    /// Whoever has a special right.
    Governance,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Compliance => "COMPLIANCE",
            Self::Governance => "GOVERNANCE",
        }
    }
}

/// What the address says of keeping: `retention=30d`, and `retention_mode=governance` for trials.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Keeping {
    pub(super) mode: Mode,
    pub(super) period: Duration,
}

impl Keeping {
    /// Reads the settings of an address; `None` if it says nothing of it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn of(settings: &BTreeMap<String, String>) -> Result<Option<Self>, String> {
        let mode = match settings.get("retention_mode").map(String::as_str) {
            None | Some("compliance") => Mode::Compliance,
            Some("governance") => Mode::Governance,
            Some(other) => return Err(format!("retention_mode is compliance or governance, not '{other}'")),
        };
        let Some(text) = settings.get("retention") else {
            return if settings.contains_key("retention_mode") { Err("retention_mode needs retention".into()) } else { Ok(None) };
        };
        let span = text.parse::<Span>().and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
        let period = span.ok().and_then(|span| Duration::try_from(span).ok()).filter(|period| !period.is_zero());
        let period = period.ok_or_else(|| format!("retention is a time like 30d, not '{text}'"))?;
        Ok(Some(Self { mode, period }))
    }
}

/// A bucket whose objects are kept.
#[derive(Debug)]
pub(super) struct Lock {
    pub(super) s3: Arc<AmazonS3>,
    pub(super) client: HttpClient,
    pub(super) keeping: Keeping,
}

impl Lock {
    /// Puts a new object that is kept until a date.
    pub(super) async fn put_new(&self, (name, path): (&ObjectName, &Path), bytes: Bytes, until: Timestamp) -> Result<(), StoreError> {
        let mut always = checked(&bytes);
        always.extend([(MODE, self.keeping.mode.name().to_owned()), (UNTIL, until.to_string())]);
        let create = always.iter().cloned().chain([(IF_NONE_MATCH, "*".to_owned())]).collect();
        let response = match self.send(Method::PUT, path, &[], create, bytes.clone()).await? {
            // It knows no condition: names are hashes or random, and what stood there stays as a version.
            response if response.status() == 501 => self.send(Method::PUT, path, &[], always, bytes).await?,
            response => response,
        };
        match response.status().as_u16() {
            412 => Err(StoreError::AlreadyExists { name: name.clone() }),
            _ => done(name, response).await.map(drop),
        }
    }

    /// Deletes all versions of an object.
    pub(super) async fn delete(&self, name: &ObjectName, path: &Path) -> Result<(), StoreError> {
        for _ in 0..VERSIONS_MAX {
            let newest = self.send(Method::HEAD, path, &[], Vec::new(), Bytes::new()).await?;
            if newest.status() == 404 {
                return Ok(());
            }
            let newest = done(name, newest).await?;
            let version = header(&newest, &VERSION).ok_or_else(|| {
                let text =
                    "the bucket keeps no versions, so it has no Object Lock: make one that has, or leave 'retention' out of the address";
                failed(name, io::Error::new(io::ErrorKind::InvalidData, text))
            })?;
            done(name, self.send(Method::DELETE, path, &[("versionId", &version)], Vec::new(), Bytes::new()).await?).await?;
        }
        Err(failed(name, io::Error::other("it has more versions than anybody deletes")))
    }

    /// Keeps an object until a date, or longer if it is kept longer already.
    pub(super) async fn retain(&self, name: &ObjectName, path: &Path, until: Timestamp) -> Result<(), StoreError> {
        let mode = self.keeping.mode.name();
        let body = format!(
            "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>{mode}</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>"
        );
        let headers = checked(body.as_bytes());
        let response = self.send(Method::PUT, path, &[("retention", "")], headers, body.into()).await?;
        let Err(error) = done(name, response).await else { return Ok(()) };
        // A date is moved on only: it may be a later one. And not every service says plainly that there is no such object.
        let kept = self.kept_until(name, path).await?;
        if matches!(error, StoreError::Denied { .. }) && kept.is_some_and(|kept| kept >= until) { Ok(()) } else { Err(error) }
    }

    async fn kept_until(&self, name: &ObjectName, path: &Path) -> Result<Option<Timestamp>, StoreError> {
        let response = self.send(Method::HEAD, path, &[], Vec::new(), Bytes::new()).await?;
        if response.status() == 404 {
            return Err(StoreError::NotFound { name: name.clone() });
        }
        let response = done(name, response).await?;
        let kept = header(&response, &UNTIL).and_then(|date| date.parse::<jiff::Timestamp>().ok());
        Ok(kept.and_then(|kept| Timestamp::new(kept.as_second(), 0)))
    }

    async fn send(
        &self,
        method: Method,
        path: &Path,
        query: &[(&str, &str)],
        headers: Vec<(HeaderName, String)>,
        body: Bytes,
    ) -> Result<HttpResponse, StoreError> {
        let wrong = |error: object_store::Error| super::failed(path.as_ref(), error);
        let invalid = |error: Box<dyn std::error::Error + Send + Sync>| wrong(object_store::Error::Generic { store: "S3", source: error });
        let mut options = SignedUrlOptions::new().with_query(query.iter().copied());
        let mut request = HttpRequest::new(HttpRequestBody::from(body));
        for (name, value) in headers {
            let value = HeaderValue::try_from(value).map_err(|error| invalid(error.into()))?;
            request.headers_mut().insert(name.clone(), value.clone());
            options = options.with_signed_header(name, value);
        }
        let url = self.s3.signed_url_opts(method.clone(), path, SIGNED_FOR, &options).await.map_err(wrong)?;
        *request.method_mut() = method;
        *request.uri_mut() = url.as_str().parse().map_err(|error| invalid(Box::new(error)))?;
        self.client.execute(request).await.map_err(|error| invalid(error.into()))
    }
}

/// What a service wants to know of bytes that it is to keep.
fn checked(bytes: &[u8]) -> Vec<(HeaderName, String)> {
    let checksum = STANDARD.encode(digest::digest(&digest::SHA256, bytes));
    vec![(ALGORITHM, "SHA256".to_owned()), (CHECKSUM, checksum)]
}

fn header(response: &HttpResponse, name: &HeaderName) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

/// The answer if it is one of success.
async fn done(name: &ObjectName, response: HttpResponse) -> Result<HttpResponse, StoreError> {
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status().as_u16();
    let body = response.into_body().bytes().await.unwrap_or_default();
    let text = String::from_utf8_lossy(body.get(..body.len().min(ANSWER_MAX)).unwrap_or_default()).into_owned();
    let answer = Answer::said(Some(status), &text, String::new);
    Err(super::refused(name.as_str(), answer))
}

fn failed(name: &ObjectName, source: io::Error) -> StoreError {
    StoreError::Failed { place: name.to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(settings: &[(&str, &str)]) -> Result<Option<Keeping>, String> {
        Keeping::of(&settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn an_address_says_how_long() {
        let days = |n: u64| Duration::from_secs(n * 86_400);
        assert_eq!(of(&[("region", "eu")]), Ok(None));
        assert_eq!(of(&[("retention", "30d")]), Ok(Some(Keeping { mode: Mode::Compliance, period: days(30) })));
        assert_eq!(
            of(&[("retention", "2w"), ("retention_mode", "governance")]),
            Ok(Some(Keeping { mode: Mode::Governance, period: days(14) }))
        );
        for (settings, says) in [
            (&[("retention", "soon")][..], "30d"),
            (&[("retention", "0s")], "30d"),
            (&[("retention", "-3d")], "30d"),
            (&[("retention", "3d"), ("retention_mode", "hold")], "governance"),
            (&[("retention_mode", "compliance")], "needs retention"),
        ] {
            let error = of(settings).unwrap_err();
            assert!(error.contains(says), "{settings:?}: {error}");
        }
    }
}
