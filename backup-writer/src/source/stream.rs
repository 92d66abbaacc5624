//! Bytes that stand in no file: standard input, or what a command prints. Their number is known only at the end, and only then whether they count.
//!
//! Nobody waits for a silent command without asking from time to time whether the run goes on. What a command says on standard error is read
//! along, so that it never waits for us, and its last lines are kept.

use std::collections::VecDeque;
use std::fs::File;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fs_core::path::{Name, display};

use crate::system::{self, Owned};

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix::{Pipe, wait};
#[cfg(windows)]
use windows::{Pipe, wait};

/// How long to wait before asking whether the run goes on.
const PATIENCE: Duration = Duration::from_millis(200);
/// A look without waiting.
const NO_PATIENCE: Duration = Duration::ZERO;
/// What is kept of the beginning, to recognise dumps.
const HEAD_LENGTH: usize = 512;
/// What is kept of the end, to look for the mark: `pg_dump` writes a few lines behind its own.
const TAIL_LENGTH: usize = 4096;
/// What is kept of standard error.
const SAID_LENGTH: usize = 2048;

/// One file of a snapshot that stands in no file system.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Its name in the folder `stdin` of the snapshot.
    pub name: Name,
    /// Where its bytes come from.
    pub input: Input,
    /// How its end is recognised.
    pub end_mark: EndMark,
    /// Whether it may be empty.
    pub allow_empty: bool,
}

/// Where bytes come from.
#[derive(Clone, Debug)]
pub enum Input {
    /// What is open here, to its end.
    Open(Arc<Owned>),
    /// What a command of the shell prints; it must succeed.
    Command(String),
}

/// What a complete stream ends with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EndMark {
    /// What the program writes that it seems to come from, if any.
    Known,
    /// This text, somewhere in the last 4 KiB.
    Text(String),
    /// Nothing in particular.
    Nothing,
}

/// Why a stream is not saved. A part of a dump is none: the run ends.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The command could not be started.
    #[error("the command for {name} could not be started")]
    Start {
        /// The stream.
        name: Name,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The bytes could not be read.
    #[error("{name} could not be read")]
    Read {
        /// The stream.
        name: Name,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The command failed.
    #[error("the command for {name} failed: {status}{}", told(.said))]
    Failed {
        /// The stream.
        name: Name,
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its standard error, made presentable.
        said: String,
    },
    /// There was nothing.
    #[error("{name} is empty{}", told(.said))]
    Empty {
        /// The stream.
        name: Name,
        /// What the command said.
        said: String,
    },
    /// The mark of its end is missing.
    #[error("{name} does not end with '{mark}': it is not complete{}", told(.said))]
    Cut {
        /// The stream.
        name: Name,
        /// What was looked for.
        mark: String,
        /// What the command said.
        said: String,
    },
    /// The run was given up.
    #[error("{name} was not read to its end")]
    Abandoned {
        /// The stream.
        name: Name,
    },
}

/// A stream that is being read. Dropped before its end, its command is killed.
#[derive(Debug)]
pub struct Running<'a> {
    stream: &'a Stream,
    input: Pipe,
    command: Option<Child>,
    /// Its standard error, until that ends.
    errors: Option<Pipe>,
    said: VecDeque<u8>,
    head: Vec<u8>,
    tail: VecDeque<u8>,
}

impl Stream {
    /// Whether it is open already: then it can be read once only.
    pub fn is_open(&self) -> bool {
        matches!(self.input, Input::Open(_))
    }

    /// Starts the command, if there is one.
    ///
    /// # Errors
    /// [`StreamError::Start`].
    pub fn open(&self) -> Result<Running<'_>, StreamError> {
        let failed = |source| StreamError::Start { name: self.name.clone(), source };
        let (input, command, errors) = match &self.input {
            Input::Open(input) => (input.try_clone().map_err(failed)?, None, None),
            Input::Command(text) => {
                let mut command = system::shell(text);
                // The password of the repository is nobody else's business.
                command.env_remove("YESTERDRIVE_PASSWORD");
                let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?;
                let (output, errors) = (child.stdout.take(), child.stderr.take());
                let output = output.ok_or_else(|| failed(std::io::Error::other("it has no output")))?;
                (Owned::from(output), Some(child), errors.map(|errors| Pipe::new(File::from(Owned::from(errors)))))
            }
        };
        let (said, head, tail) = Default::default();
        Ok(Running { stream: self, input: Pipe::new(File::from(input)), command, errors, said, head, tail })
    }
}

impl Running<'_> {
    /// Reads into the buffer; 0 at the end. `goes_on` is asked while nothing comes.
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn read(&mut self, buffer: &mut [u8], goes_on: &dyn Fn() -> bool) -> Result<usize, StreamError> {
        loop {
            let ready = self.wait(true, PATIENCE)?;
            if ready {
                match self.input.read(buffer) {
                    Ok(count) => {
                        self.note(buffer.get(..count).unwrap_or_default());
                        return Ok(count);
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(source) => return Err(StreamError::Read { name: self.stream.name.clone(), source }),
                }
            } else if !goes_on() {
                return Err(StreamError::Abandoned { name: self.stream.name.clone() });
            }
        }
    }

    /// Waits for the command and says whether all of it came: what the command said beside. To be called at the end.
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn finish(mut self, goes_on: &dyn Fn() -> bool) -> Result<String, StreamError> {
        let name = self.stream.name.clone();
        while let Some(command) = &mut self.command {
            if let Some(status) = command.try_wait().map_err(|source| StreamError::Read { name: name.clone(), source })? {
                self.command = None;
                while self.errors.is_some() && self.wait(false, NO_PATIENCE)? {}
                let said = self.said();
                if !status.success() {
                    return Err(StreamError::Failed { name, status, said });
                }
                break;
            }
            self.wait(false, Duration::from_millis(10))?;
            if !goes_on() {
                return Err(StreamError::Abandoned { name });
            }
        }
        let said = self.said();
        if self.head.is_empty() {
            return if self.stream.allow_empty { Ok(said) } else { Err(StreamError::Empty { name, said }) };
        }
        match self.expected_mark() {
            Some(mark) if !contains(self.tail.make_contiguous(), mark.as_bytes()) => Err(StreamError::Cut { name, mark, said }),
            _ => Ok(said),
        }
    }

    /// Waits until something can be read, and takes what the command says beside. With `input` says whether that is ready, else whether anything was said.
    fn wait(&mut self, input: bool, patience: Duration) -> Result<bool, StreamError> {
        let (input_ready, errors_ready) = wait(input.then_some(&self.input), self.errors.as_ref(), patience)
            .map_err(|source| StreamError::Read { name: self.stream.name.clone(), source })?;
        if errors_ready && let Some(errors) = &mut self.errors {
            let mut bytes = [0; 1024];
            match errors.read(&mut bytes) {
                Ok(0) | Err(_) => self.errors = None,
                Ok(count) => keep_last(&mut self.said, bytes.get(..count).unwrap_or_default(), SAID_LENGTH),
            }
        }
        Ok(if input { input_ready } else { errors_ready })
    }

    fn note(&mut self, bytes: &[u8]) {
        let missing = HEAD_LENGTH.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(bytes.get(..missing).unwrap_or_default());
        keep_last(&mut self.tail, bytes, TAIL_LENGTH);
    }

    fn said(&mut self) -> String {
        let lines: Vec<_> = self.said.make_contiguous().split(|&b| b == b'\n').map(display).collect();
        lines.join("\n").trim().to_owned()
    }

    fn expected_mark(&self) -> Option<String> {
        match (&self.stream.end_mark, &self.stream.input) {
            (EndMark::Nothing, _) => None,
            (EndMark::Text(mark), _) => Some(mark.clone()),
            (EndMark::Known, Input::Open(_)) => known_mark(&self.head, ""),
            (EndMark::Known, Input::Command(command)) => known_mark(&self.head, command),
        }
        .filter(|mark| !mark.is_empty())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(command) = &mut self.command {
            let _ = command.kill();
            let _ = command.wait();
        }
    }
}

fn keep_last(kept: &mut VecDeque<u8>, bytes: &[u8], length_max: usize) {
    let bytes = bytes.get(bytes.len().saturating_sub(length_max)..).unwrap_or_default();
    kept.extend(bytes);
    kept.drain(..kept.len().saturating_sub(length_max));
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len().max(1)).any(|window| window == text)
}

fn told(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!("; it said:\n{said}") }
}

/// What the dump ends with that begins like this. By the name of the program only where too little came to tell: with some options these
/// programs write neither a head nor an end mark.
fn known_mark(head: &[u8], command: &str) -> Option<String> {
    const KNOWN: [(&str, &str, &[&str]); 4] = [
        ("-- MySQL dump", "-- Dump completed", &["mysqldump"]),
        ("-- MariaDB dump", "-- Dump completed", &["mariadb-dump"]),
        ("-- PostgreSQL database dump", "-- PostgreSQL database dump complete", &["pg_dump"]),
        ("-- PostgreSQL database cluster dump", "-- PostgreSQL database cluster dump complete", &["pg_dumpall"]),
    ];
    const TOO_SHORT: usize = 32;
    let program = command.split_whitespace().next().and_then(|word| word.rsplit('/').next()).unwrap_or_default();
    let is_it = |(begins, _, programs): &&(&str, &str, &[&str])| {
        contains(head, begins.as_bytes()) || head.len() < TOO_SHORT && programs.contains(&program)
    };
    KNOWN.iter().find(is_it).map(|(_, mark, _)| (*mark).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dumps_are_known_by_their_beginning_and_short_ones_by_their_program() {
        let mark = |head: &str, command: &str| known_mark(head.as_bytes(), command);
        let mysql = Some("-- Dump completed".to_owned());
        assert_eq!(mark("-- MySQL dump 10.13  Distrib 8.0", ""), mysql);
        assert_eq!(mark("/*M!999999\\- enable the sandbox mode */ \n-- MariaDB dump 10.19", ""), mysql);
        let postgres = mark("--\n-- PostgreSQL database dump\n--\n", "");
        assert_eq!(postgres.as_deref(), Some("-- PostgreSQL database dump complete"));
        let cluster = mark("--\n-- PostgreSQL database cluster dump\n--\n", "ssh host pg_dumpall");
        assert_eq!(cluster.as_deref(), Some("-- PostgreSQL database cluster dump complete"));
        assert_eq!(mark("-- M", "/usr/bin/mysqldump --all-databases"), mysql);
        assert_eq!(mark("CREATE TABLE `a` (`b` int DEFAULT NULL);", "mysqldump --compact x"), None);
        assert_eq!(mark("PGDMP\u{1}\u{10}and much more that is no text", "pg_dump -Fc x"), None);
        assert_eq!(mark("anything", "cat file"), None);
    }

    #[test]
    fn only_the_last_bytes_are_kept() {
        let mut kept = VecDeque::new();
        for _ in 0..1000 {
            keep_last(&mut kept, b"0123456789", 25);
        }
        assert_eq!(kept.make_contiguous(), b"5678901234567890123456789");
        keep_last(&mut kept, &[7; 100], 25);
        assert_eq!(kept.make_contiguous(), [7; 25]);
    }
}
