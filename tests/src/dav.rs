//! A WebDAV server over a folder: as much of the protocol as a store needs, done honestly. Answers to what `fs-core/src/storage/webdav.rs` sends, and to a
//! person with curl; `tests/run stores` shows that a real server behaves the same.

use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::http::Request;

/// A running server, stopped when dropped.
#[derive(Debug)]
pub struct DavServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    is_over: AtomicBool,
    /// Those that are served, to be woken at the end.
    connections: Mutex<Vec<TcpStream>>,
}

/// What is answered.
struct Answer {
    status: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl DavServer {
    /// Serves a folder at a free port of this machine.
    ///
    /// # Errors
    /// If no port is free.
    pub fn start(folder: &Path) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { folder: folder.into(), is_over: AtomicBool::new(false), connections: Mutex::default() });
        let accepting = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.accept(&listener)
        });
        Ok(Self { address, shared, accepting: Some(accepting) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for DavServer {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        // It waits for a connection, and joins those who serve the others.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let mut threads: Vec<JoinHandle<()>> = Vec::new();
        for connection in listener.incoming() {
            if self.is_over.load(Ordering::SeqCst) {
                break;
            }
            threads.retain(|thread| !thread.is_finished());
            let Ok((connection, kept)) = connection.and_then(|connection| Ok((connection.try_clone()?, connection))) else { continue };
            let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
            connections.push(kept);
            let shared = Arc::clone(self);
            threads.push(std::thread::spawn(move || {
                // A client that leaves in the middle is its own affair.
                let _ = shared.serve(&connection);
                let _ = connection.shutdown(Shutdown::Both);
                shared.forget(&connection);
            }));
        }
        for connection in self.connections.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = connection.shutdown(Shutdown::Both);
        }
        for thread in threads {
            let _ = thread.join();
        }
    }

    fn forget(&self, connection: &TcpStream) {
        let peer = connection.peer_addr().ok();
        // Those whose other side is gone have no peer any more.
        let stays = |kept: &TcpStream| kept.peer_addr().is_ok_and(|known| Some(known) != peer);
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).retain(stays);
    }

    fn serve(&self, connection: &TcpStream) -> io::Result<()> {
        let _ = connection.set_nodelay(true);
        let mut input = BufReader::new(connection);
        while let Some(request) = Request::read(&mut input)? {
            let answer = self.answer(&request).unwrap_or_else(|error| Answer::of(error_status(&error)));
            let mut head = format!("HTTP/1.1 {}\r\nDate: {}\r\n", answer.status, http_date(std::time::SystemTime::UNIX_EPOCH.elapsed()));
            let names_length = answer.headers.iter().any(|(name, _)| *name == "Content-Length");
            for (name, value) in &answer.headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            if !names_length {
                head.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
            }
            head.push_str("\r\n");
            let mut output = connection;
            output.write_all(&[head.as_bytes(), &answer.body].concat())?;
        }
        Ok(())
    }

    fn answer(&self, request: &Request) -> io::Result<Answer> {
        let Some(path) = self.path(&request.target) else { return Ok(Answer::of("400 Bad Request")) };
        Ok(match &*request.method {
            "OPTIONS" => Answer { headers: vec![("DAV", "1".into())], ..Answer::of("200 OK") },
            "GET" => get(&path, request.header("range"))?,
            "HEAD" => {
                let headers = vec![("Content-Length", path.metadata()?.len().to_string()), ("Accept-Ranges", "bytes".into())];
                Answer { headers, ..Answer::of("200 OK") }
            }
            "PUT" if !path.parent().is_some_and(Path::is_dir) => Answer::of("409 Conflict"),
            "PUT" => {
                let is_new = !path.exists();
                std::fs::write(&path, &request.body)?;
                Answer::of(if is_new { "201 Created" } else { "204 No Content" })
            }
            "DELETE" => {
                if path.is_dir() {
                    std::fs::remove_dir_all(&path)?
                } else {
                    std::fs::remove_file(&path)?
                }
                Answer::of("204 No Content")
            }
            "MKCOL" if path.exists() => Answer::of("405 Method Not Allowed"),
            "MKCOL" if !path.parent().is_some_and(Path::is_dir) => Answer::of("409 Conflict"),
            "MKCOL" => {
                std::fs::create_dir(&path)?;
                Answer::of("201 Created")
            }
            "MOVE" => self.rename(&path, request)?,
            "PROPFIND" => self.list(&path, request.header("depth"))?,
            _ => Answer::of("405 Method Not Allowed"),
        })
    }

    /// The file that a target or a whole URL names; none outside of the folder.
    fn path(&self, target: &str) -> Option<PathBuf> {
        let path = target.split_once("://").map_or(Some(target), |(_, rest)| rest.find('/').and_then(|start| rest.get(start..)))?;
        let is_plain = |part: &&str| !part.is_empty() && *part != "..";
        path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'%' && byte != b'?').then_some(())?;
        (!path.split('/').any(|part| part == "..")).then(|| self.folder.join(path.split('/').filter(is_plain).collect::<PathBuf>()))
    }

    fn rename(&self, path: &Path, request: &Request) -> io::Result<Answer> {
        let Some(target) = request.header("destination").and_then(|target| self.path(target)) else {
            return Ok(Answer::of("400 Bad Request"));
        };
        if request.header("overwrite") != Some("F") {
            std::fs::rename(path, target)?;
            return Ok(Answer::of("204 No Content"));
        }
        // A link is made or not, whoever else tries: the file has both names for a moment.
        match std::fs::hard_link(path, target) {
            Ok(()) => std::fs::remove_file(path).map(|()| Answer::of("201 Created")),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Answer::of("412 Precondition Failed")),
            Err(error) => Err(error),
        }
    }

    fn list(&self, path: &Path, depth: Option<&str>) -> io::Result<Answer> {
        let mut body = String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?><D:multistatus xmlns:D=\"DAV:\">");
        self.describe(path, &mut body)?;
        if depth == Some("1") && path.is_dir() {
            for item in std::fs::read_dir(path)? {
                match self.describe(&item?.path(), &mut body) {
                    // Moved or deleted by somebody else meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    other => other?,
                }
            }
        }
        body.push_str("</D:multistatus>");
        let headers = vec![("Content-Type", "application/xml; charset=utf-8".into())];
        Ok(Answer { headers, body: body.into_bytes(), ..Answer::of("207 Multi-Status") })
    }

    fn describe(&self, path: &Path, body: &mut String) -> io::Result<()> {
        let metadata = path.metadata()?;
        let below = path.strip_prefix(&self.folder).unwrap_or(path).display();
        let slash = if metadata.is_dir() && path != self.folder { "/" } else { "" };
        let kind = if metadata.is_dir() {
            "<D:resourcetype><D:collection/></D:resourcetype>".into()
        } else {
            format!("<D:resourcetype/><D:getcontentlength>{}</D:getcontentlength>", metadata.len())
        };
        let modified = http_date(metadata.modified()?.duration_since(std::time::SystemTime::UNIX_EPOCH));
        body.push_str(&format!(
            "<D:response><D:href>/{below}{slash}</D:href><D:propstat><D:prop>{kind}<D:getlastmodified>{modified}</D:getlastmodified></D:prop>\
             <D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
        ));
        Ok(())
    }
}

impl Answer {
    fn of(status: &'static str) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }
}

fn error_status(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => "404 Not Found",
        io::ErrorKind::PermissionDenied | io::ErrorKind::IsADirectory => "403 Forbidden",
        io::ErrorKind::StorageFull => "507 Insufficient Storage",
        _ => "500 Internal Server Error",
    }
}

fn get(path: &Path, range: Option<&str>) -> io::Result<Answer> {
    let mut file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    let mut body = Vec::new();
    let Some(asked) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) else {
        file.read_to_end(&mut body)?;
        return Ok(Answer { body, ..Answer::of("200 OK") });
    };
    let Some(Range { start, end }) = resolve(asked, size) else {
        let headers = vec![("Content-Range", format!("bytes */{size}"))];
        return Ok(Answer { headers, ..Answer::of("416 Range Not Satisfiable") });
    };
    file.seek(SeekFrom::Start(start))?;
    file.take(end - start).read_to_end(&mut body)?;
    let headers = vec![("Content-Range", format!("bytes {start}-{}/{size}", end - 1))];
    Ok(Answer { headers, body, ..Answer::of("206 Partial Content") })
}

/// The bytes that `first-last`, `first-` or `-count` means; `None` if there are none.
fn resolve((first, last): (&str, &str), size: u64) -> Option<Range<u64>> {
    let range = if first.is_empty() {
        size.saturating_sub(last.parse().ok()?)..size
    } else {
        let end = if last.is_empty() { size } else { last.parse::<u64>().ok()?.checked_add(1)?.min(size) };
        first.parse().ok()?..end
    };
    (range.start < range.end).then_some(range)
}

/// The date of a header, from the time since 1970.
fn http_date<E>(since: Result<std::time::Duration, E>) -> String {
    let seconds = since.map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"].into_iter().cycle().nth((days % 7) as usize).unwrap_or_default();
    let is_leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let (mut year, mut day) = (1970, days);
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = "";
    for (name, length) in months.into_iter().zip(lengths) {
        month = name;
        if day < length {
            break;
        }
        day -= length;
    }
    format!("{weekday}, {:02} {month} {year} {:02}:{:02}:{:02} GMT", day + 1, rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fs_core::storage::address::Address;
    use fs_core::storage::{self, RemoteOptions};
    use fs_core::testing::contract;
    use fs_core::time::Timestamp;

    use super::*;

    #[test]
    fn a_store_on_it_keeps_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        let server = DavServer::start(folder.path()).unwrap();
        let next = std::cell::Cell::new(0);
        contract::run(|| {
            next.set(next.get() + 1);
            let address = Address::parse(&format!("webdav+http://{}/store-{}", server.address(), next.get())).unwrap();
            storage::create(&address, &RemoteOptions::default()).unwrap()
        });
    }

    #[test]
    fn ranges_are_resolved() {
        assert_eq!(resolve(("2", "4"), 10), Some(2..5));
        assert_eq!(resolve(("2", ""), 10), Some(2..10));
        assert_eq!(resolve(("", "3"), 10), Some(7..10));
        assert_eq!(resolve(("8", "99"), 10), Some(8..10));
        assert_eq!(resolve(("10", "12"), 10), None);
        assert_eq!(resolve(("x", "12"), 10), None);
    }

    #[test]
    fn dates_are_those_that_the_store_reads() {
        for seconds in [0, 951_782_400, 951_868_799, 1_795_233_600, 4_102_444_799] {
            let text = http_date(Ok::<_, ()>(Duration::from_secs(seconds)));
            assert_eq!(Timestamp::from_http_date(&text).map(Timestamp::seconds), i64::try_from(seconds).ok(), "{text}");
        }
        assert_eq!(http_date(Ok::<_, ()>(Duration::from_secs(1_795_233_600))), "Sat, 21 Nov 2026 04:00:00 GMT");
    }

    #[test]
    fn nothing_outside_of_its_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let server = DavServer::start(folder.path()).unwrap();
        for target in ["/../etc/passwd", "/a/../../b", "/%2e%2e/etc", "http://host/../x"] {
            assert_eq!(server.shared.path(target), None, "{target}");
        }
        assert_eq!(server.shared.path("http://host/a//b"), Some(folder.path().join("a/b")));
    }
}
