//! As much of HTTP/1.1 as the proxy and the WebDAV server of the kit need: requests with a length, one after another on a connection.

use std::io::{self, BufRead, Read as _};

/// Longest head of a request.
const HEAD_MAX: u64 = 64 << 10;
/// Longest body: a pack and more.
const BODY_MAX: u64 = 1 << 30;

/// A request as it came.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Its first line and headers, with the empty line.
    pub head: Vec<u8>,
    /// What to do.
    pub method: String,
    /// With what: path and query.
    pub target: String,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// As long as the headers say.
    pub body: Vec<u8>,
}

impl Request {
    /// The next request; `None` where the connection ends between two.
    ///
    /// # Errors
    /// If the connection ends within a request, or sends something else.
    pub fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut request = Self::default();
        loop {
            let start = request.head.len();
            let room = HEAD_MAX.saturating_sub(start as u64);
            if from.by_ref().take(room).read_until(b'\n', &mut request.head)? == 0 {
                return if start == 0 { Ok(None) } else { Err(wrong("a head without an end")) };
            }
            let line =
                request.head.get(start..).and_then(|line| std::str::from_utf8(line).ok()).ok_or_else(|| wrong("a head that is no text"))?;
            let line = line.trim_end();
            if start == 0 {
                let mut words = line.split(' ').map(str::to_owned);
                (request.method, request.target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            } else if let Some((name, value)) = line.split_once(':') {
                request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            } else if line.is_empty() {
                break;
            }
        }
        if request.header("transfer-encoding").is_some() {
            return Err(wrong("a body in pieces"));
        }
        let length = request.header("content-length").map_or(Ok(0), str::parse).map_err(|_| wrong("a length that is no number"))?;
        if length > BODY_MAX || from.take(length).read_to_end(&mut request.body)? as u64 != length {
            return Err(wrong("a body that is too long or too short"));
        }
        Ok(Some(request))
    }

    /// The value of a header; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_follow_one_another() {
        let mut from = &b"PUT /a HTTP/1.1\r\nContent-Length: 3\r\nX: y\r\n\r\nabcGET /b?c HTTP/1.1\r\n\r\n"[..];
        let first = Request::read(&mut from).unwrap().unwrap();
        assert_eq!((&*first.method, &*first.target, &*first.body, first.header("x")), ("PUT", "/a", &b"abc"[..], Some("y")));
        assert!(first.head.ends_with(b"X: y\r\n\r\n"));
        let second = Request::read(&mut from).unwrap().unwrap();
        assert_eq!((&*second.method, &*second.target, second.body.len()), ("GET", "/b?c", 0));
        assert_eq!(Request::read(&mut from).unwrap(), None);
    }

    #[test]
    fn a_request_that_was_cut_is_none() {
        let whole = b"PUT /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
        for length in 1..whole.len() {
            assert!(Request::read(&mut &whole[..length]).is_err(), "{length}");
        }
        assert!(Request::read(&mut &b"PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"[..]).is_err());
    }
}
