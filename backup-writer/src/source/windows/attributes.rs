//! Security descriptors and alternate streams.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::{Mutex, OnceLock, PoisonError};

use fs_core::tree::{Entry, Stream, Value};

use crate::system::security::{Descriptor, SACL};
use crate::system::{self, Borrowed, Errno, wtf8};

/// Longer streams are not saved. They are held in memory until they are stored.
const STREAM_SIZE_MAX: u64 = 32 << 20;
/// How every stream of data ends.
const OF_DATA: &str = ":$DATA";

/// The security descriptor and the streams of an entry.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    descriptor: Option<Vec<u8>>,
    streams: Vec<Stream>,
    /// What is missing here, and why.
    problem: Option<String>,
}

impl Attributes {
    /// Reads them of something open.
    pub(super) fn read(open: Borrowed<'_>) -> Self {
        let mut read = Self::default();
        let wanted = system::readable_security();
        let less = wanted & !SACL;
        match system::security_of(open, wanted).or_else(|_| system::security_of(open, less)) {
            Ok(bytes) if Descriptor::parse(&bytes).is_some() => read.descriptor = Some(bytes),
            Ok(_) => read.note("its security descriptor is none that could be restored".into()),
            // The file system has none.
            Err(Errno::NOTSUP | Errno::NOSYS | Errno::INVAL) => {}
            Err(error) => read.note(format!("who may do what with it could not be read: {error}")),
        }
        match system::streams(open) {
            Ok(streams) => streams.into_iter().for_each(|(name, size)| read.stream(open, &name, size)),
            Err(error) => read.note(format!("its alternate streams could not be listed: {error}")),
        }
        read.streams.sort_by(|a, b| a.name.cmp(&b.name));
        read
    }

    /// Nothing, for a reason.
    pub(super) fn missing(error: Errno) -> Self {
        Self { problem: Some(format!("who may do what with it, and its alternate streams, could not be read: {error}")), ..Self::default() }
    }

    fn stream(&mut self, open: Borrowed<'_>, whole: &[u16], size: u64) {
        let bytes = wtf8::encode(whole);
        let Some(name) = bytes.strip_prefix(b":").and_then(|rest| rest.strip_suffix(OF_DATA.as_bytes())) else { return };
        if name.is_empty() {
            return;
        }
        let shown = fs_core::path::display(name).into_owned();
        if size > STREAM_SIZE_MAX {
            self.note(format!(
                "its alternate stream '{shown}' is longer than {} MiB and was not saved: keep it in a file",
                STREAM_SIZE_MAX >> 20
            ));
            return;
        }
        let read = system::open_stream(open, whole).and_then(|file| {
            let mut content = Vec::new();
            file.take(STREAM_SIZE_MAX).read_to_end(&mut content)?;
            Ok(content)
        });
        match read {
            Ok(content) => self.streams.push(Stream { name: name.to_vec(), value: Value::Inline(content) }),
            // Removed since it was listed.
            Err(Errno::NOENT) => {}
            Err(error) => self.note(format!("its alternate stream '{shown}' could not be read: {error}")),
        }
    }

    fn note(&mut self, problem: String) {
        match &mut self.problem {
            Some(known) => *known = format!("{known}; {problem}"),
            none => *none = Some(problem),
        }
    }

    /// Says them of an entry. If some are missing, says why, and the entry does without the time that would let the next run take it over.
    pub fn give(self, entry: &mut Entry) -> Option<String> {
        if let Some(descriptor) = self.descriptor.as_deref().and_then(Descriptor::parse) {
            (entry.user, entry.group) = (descriptor.owner().and_then(account), descriptor.group().and_then(account));
        }
        (entry.security_descriptor, entry.streams) = (self.descriptor.map(Value::Inline), self.streams);
        if self.problem.is_some() {
            entry.ctime = None;
        }
        self.problem
    }
}

/// The name of an account by its id. Asked once: it may take a server.
fn account(id: &[u8]) -> Option<String> {
    static KNOWN: OnceLock<Mutex<HashMap<Vec<u8>, Option<String>>>> = OnceLock::new();
    let mut known = KNOWN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(name) = known.get(id) {
        return name.clone();
    }
    let name = system::account(id);
    known.insert(id.to_vec(), name.clone());
    name
}
