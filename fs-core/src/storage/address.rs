//! Where a repository lies, as a person writes it: a path or a URL. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use url::Url;

/// A place for objects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// A folder of this machine or a NAS.
    Folder(PathBuf),
    /// `s3://bucket/prefix?endpoint=…&region=…`, `azblob://container/prefix?account=…`, `gs://bucket/prefix`.
    Cloud {
        /// Which service.
        service: CloudService,
        /// Bucket or container.
        bucket: String,
        /// Where in it; empty for all of it, without slashes at its ends.
        prefix: String,
        /// What stands behind the question mark.
        settings: BTreeMap<String, String>,
    },
    /// `sftp://user@host:port/path`; a path that begins with `/~/` is relative to the user's home.
    Sftp {
        /// User; empty for the one who runs the program.
        user: String,
        /// Host.
        host: String,
        /// Port.
        port: u16,
        /// Path.
        path: String,
    },
    /// `webdav+https://host/path`, `webdav+http://host/path`.
    WebDav {
        /// The URL of the collection, ending with a slash.
        url: Url,
    },
}

/// Services that `object_store` speaks to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloudService {
    /// Amazon S3 and everything that is compatible with it.
    S3,
    /// Azure Blob Storage.
    Azure,
    /// Google Cloud Storage.
    Google,
}

/// Why text is no address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AddressError {
    /// No such scheme.
    #[error("'{scheme}://' is no kind of store: there are s3, azblob, gs, sftp, webdav+https, webdav+http, and paths of folders")]
    Scheme {
        /// What stands there.
        scheme: String,
    },
    /// Something is missing or wrong.
    #[error("'{text}' is no address of a store: {reason}")]
    Malformed {
        /// The text, without a password that it may hold.
        text: String,
        /// What is wrong.
        reason: &'static str,
    },
}

impl Address {
    /// Reads an address.
    ///
    /// # Errors
    /// [`AddressError`]; a password in a URL is one: command lines can be read by others.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let Some((scheme, _)) = text.split_once("://") else { return Ok(Self::Folder(text.into())) };
        let scheme = scheme.to_ascii_lowercase();
        let is_known = ["s3", "azblob", "gs", "sftp", "webdav+https", "webdav+http"].contains(&&*scheme);
        if !is_known {
            return Err(AddressError::Scheme { scheme });
        }
        let wrong = |reason| AddressError::Malformed { text: without_password(text), reason };
        let url = Url::parse(text.strip_prefix("webdav+").unwrap_or(text)).map_err(|_| wrong("it does not parse as a URL"))?;
        if url.password().is_some() {
            return Err(wrong("a password does not belong into it; use the environment or a profile"));
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| wrong("a host or bucket is missing"))?.to_owned();
        let cloud = |service| {
            let settings = url.query_pairs().map(|(key, value)| (key.into_owned(), value.into_owned())).collect();
            let prefix = decoded(url.path().trim_matches('/')).ok_or_else(|| wrong("its path is no UTF-8 text"))?;
            Ok(Self::Cloud { service, bucket: host.clone(), prefix, settings })
        };
        match &*scheme {
            "s3" => cloud(CloudService::S3),
            "azblob" => cloud(CloudService::Azure),
            "gs" => cloud(CloudService::Google),
            "sftp" => {
                let path = decoded(url.path()).ok_or_else(|| wrong("its path is no UTF-8 text"))?;
                let path = path.strip_prefix("/~/").map_or(path.clone(), str::to_owned);
                if path.trim_matches('/').is_empty() {
                    return Err(wrong("a path is missing"));
                }
                let user = decoded(url.username()).ok_or_else(|| wrong("its user is no UTF-8 text"))?;
                Ok(Self::Sftp { user, host, port: url.port().unwrap_or(22), path })
            }
            _ => {
                let mut url = url.clone();
                url.set_path(&format!("{}/", url.path().trim_end_matches('/')));
                Ok(Self::WebDav { url })
            }
        }
    }

    /// Whether it is on this machine's own file systems.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Folder(_))
    }
}

/// For people; holds no secret.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", path.display()),
            Self::Cloud { service, bucket, prefix, .. } => {
                let scheme = match service {
                    CloudService::S3 => "s3",
                    CloudService::Azure => "azblob",
                    CloudService::Google => "gs",
                };
                write!(f, "{scheme}://{bucket}{}{prefix}", if prefix.is_empty() { "" } else { "/" })
            }
            Self::Sftp { user, host, port, path } => {
                let at = if user.is_empty() { "" } else { "@" };
                let slash = if path.starts_with('/') { "" } else { "/~/" };
                write!(f, "sftp://{user}{at}{host}:{port}{slash}{path}")
            }
            Self::WebDav { url } => write!(f, "webdav+{url}"),
        }
    }
}

fn decoded(text: &str) -> Option<String> {
    percent_encoding::percent_decode_str(text).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

fn without_password(text: &str) -> String {
    match text.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.split_once('@')?.1))) {
        Some((scheme, rest)) => format!("{scheme}://…@{rest}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_shown() {
        for (text, shown) in [
            ("/srv/backup", "/srv/backup"),
            ("relative/folder", "relative/folder"),
            ("C:\\backup", "C:\\backup"),
            ("s3://bucket/a/b/?endpoint=http://127.0.0.1:9000&region=eu", "s3://bucket/a/b"),
            ("S3://bucket", "s3://bucket"),
            ("azblob://container/x", "azblob://container/x"),
            ("gs://bucket/x%20y", "gs://bucket/x y"),
            ("sftp://anna@nas/srv/backup", "sftp://anna@nas:22/srv/backup"),
            ("sftp://nas:2222/~/backup", "sftp://nas:2222/~/backup"),
            ("webdav+https://cloud/dav/backup", "webdav+https://cloud/dav/backup/"),
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), shown);
        }
        let Address::Cloud { settings, prefix, .. } = Address::parse("s3://b/p?endpoint=http://h:1&region=eu").unwrap() else { panic!() };
        assert_eq!((&*settings["endpoint"], &*settings["region"], &*prefix), ("http://h:1", "eu", "p"));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        for (text, says) in [
            ("ftp://host/x", "no kind of store"),
            ("s3:///prefix", "missing"),
            ("sftp://host/", "a path is missing"),
            ("sftp://anna:secret@host/x", "password"),
            ("webdav+https://anna:secret@host/x", "password"),
        ] {
            let error = Address::parse(text).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("secret"), "{text}: {error}");
        }
    }
}
