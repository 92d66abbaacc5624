//! Bytes of another repository: what a file holds, in order and asked for ahead, and what small files hold, many at once. Each file is proven by the hash that was
//! recorded when it was saved: a list that names the wrong records makes a finding and no wrong bytes.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::{Receiver, unbounded};
use fs_core::crypto::{StreamHash, keyed_hash};
use fs_core::reader::ContentReader;
use fs_core::record::{PLAIN_LENGTH_MAX, Reference};
use fs_core::report::chain;
use fs_core::repository::{Batch, ReadError, Repository, Sealed};
use fs_core::tree::proof::{Proof, hash_map};
use fs_core::tree::{Content, Entry, Extent, Value};

use super::super::read::ReadStop;
use crate::packer::PackError;
use crate::source::SourceError;

/// Plain bytes that are asked for together.
const FLIGHT_BYTES: u64 = 4 << 20;
/// How many such lots of one file are on their way.
const FLIGHTS_AHEAD: usize = 3;
/// Of a large file the references to so many bytes are looked up at a time.
const LOOKED_UP: u64 = 256 << 20;

/// Why something of another repository cannot be had.
#[derive(Clone, Debug)]
pub(in crate::backup) enum Trouble {
    /// It is damaged or missing for good.
    Damaged(String),
    /// That repository does not answer.
    Unreachable(String),
}

impl From<&ReadError> for Trouble {
    fn from(error: &ReadError) -> Self {
        if error.is_damage() { Self::Damaged(chain(error)) } else { Self::Unreachable(chain(error)) }
    }
}

impl From<Trouble> for ReadStop {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Damaged(reason) => SourceError::Damaged { reason }.into(),
            Trouble::Unreachable(reason) => PackError::Original { reason }.into(),
        }
    }
}

fn damaged(reason: &str) -> Trouble {
    Trouble::Damaged(reason.to_owned())
}

/// An entry without anything that only its own repository can read; what is short stays.
pub(in crate::backup) fn bare(entry: &Entry) -> Entry {
    let mut bare = Entry { content: Content::EMPTY, file_hash: None, block_size: None, ..entry.clone() };
    if let Some(subtree) = &mut bare.subtree {
        subtree.page = None;
    }
    for value in bare.values_mut() {
        if let Value::Stored { content, .. } = value {
            *content = Content::EMPTY;
        }
    }
    bare
}

/// An entry of another repository, which holds its bytes.
#[derive(Clone, Debug)]
pub(in crate::backup) struct SavedFile {
    repository: Arc<Repository>,
    pub entry: Arc<Entry>,
}

impl SavedFile {
    pub(super) fn new(repository: &Arc<Repository>, entry: &Entry) -> Self {
        Self { repository: Arc::clone(repository), entry: Arc::new(entry.clone()) }
    }

    /// The entry with its long values, and without content and streams.
    pub(super) fn carry(&self) -> Result<Entry, Trouble> {
        let mut carried = bare(&self.entry);
        let values = |entry: &mut Entry, from: &Entry| -> Result<(), Trouble> {
            for ((_, value), (_, from)) in entry.xattrs.iter_mut().zip(&from.xattrs) {
                self.bring_value(value, from)?;
            }
            entry
                .security_descriptor
                .as_mut()
                .zip(from.security_descriptor.as_ref())
                .map_or(Ok(()), |(value, from)| self.bring_value(value, from))
        };
        values(&mut carried, &self.entry)?;
        Ok(carried)
    }

    /// The same without the long values.
    pub(super) fn without_values(&self) -> Entry {
        let mut entry = bare(&self.entry);
        entry.xattrs.retain(|(_, value)| matches!(value, Value::Inline(_)));
        entry.security_descriptor = entry.security_descriptor.filter(|value| matches!(value, Value::Inline(_)));
        entry
    }

    fn bring_value(&self, value: &mut Value, from: &Value) -> Result<(), Trouble> {
        let Value::Stored { size, content } = from else { return Ok(()) };
        if *size > PLAIN_LENGTH_MAX as u64 {
            return Err(damaged("a value of it is longer than any value can be"));
        }
        let reader = ContentReader::new(Arc::clone(&self.repository), *size, content.clone(), None);
        let bytes = reader.read(0, *size).map_err(|error| Trouble::from(&error))?;
        if bytes.len() as u64 != *size {
            return Err(damaged("a value of it is shorter than it was"));
        }
        *value = Value::Inline(bytes.to_vec());
        Ok(())
    }

    /// The records of an alternate stream, one after the other.
    pub(in crate::backup) fn stream(&self, content: &Content, size: u64) -> Records<'_> {
        Records::new(&self.repository, content, size)
    }

    /// What its data must hash to, and how that is found out.
    fn proving(&self) -> Proving {
        let proof = self.entry.proof(self.repository.ring());
        Proving { hash: proof.as_ref().map(|proof| StreamHash::keyed(&proof.key)), proof }
    }

    /// Its bytes in order, holes left out.
    pub(in crate::backup) fn open(&self) -> SavedBytes<'_> {
        let length = self.entry.sparse.as_ref().map_or(self.entry.size, |extents| extents.iter().map(|extent| extent.length).sum());
        SavedBytes {
            records: Records::new(&self.repository, &self.entry.content, length),
            current: Bytes::new(),
            left: length,
            proving: self.proving(),
        }
    }

    /// The records that hold a small file, and which bytes of them; `None` if a list says that.
    fn parts(&self) -> Option<Vec<(Reference, Range<usize>)>> {
        match &self.entry.content {
            Content::Inline(references) => Some(references.iter().map(|record| (*record, 0..record.plain_len as usize)).collect()),
            Content::Fragment { .. } => self.entry.fragment().map(|part| vec![part]),
            Content::List { .. } => None,
        }
    }

    fn whole(&self) -> Result<Vec<u8>, Trouble> {
        let (mut bytes, mut plain) = (self.open(), Vec::new());
        let mut buffer = vec![0; 64 << 10];
        loop {
            match bytes.read(&mut buffer)? {
                0 => break,
                count => plain.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            }
        }
        bytes.finish(None, self.entry.size).map(|()| plain)
    }
}

/// The hash of a file that is being read.
struct Proving {
    hash: Option<StreamHash>,
    proof: Option<Proof>,
}

/// The bytes of a file, as they come.
pub(in crate::backup) struct SavedBytes<'a> {
    records: Records<'a>,
    current: Bytes,
    /// Bytes that are still to come.
    left: u64,
    proving: Proving,
}

impl SavedBytes<'_> {
    /// Reads into the buffer; 0 at the end.
    pub(in crate::backup) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Trouble> {
        while self.current.is_empty() {
            match self.records.next() {
                None => return Ok(0),
                Some(bytes) => self.current = bytes?,
            }
        }
        let count = buffer.len().min(self.current.len());
        let bytes = self.current.split_to(count);
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| damaged("its records are longer than the file"))?;
        buffer.get_mut(..count).unwrap_or_default().copy_from_slice(&bytes);
        self.proving.hash.iter_mut().for_each(|hash| hash.update(&bytes));
        Ok(count)
    }

    /// Whether all of it came, and is what was saved.
    pub(in crate::backup) fn finish(self, sparse: Option<&[Extent]>, size: u64) -> Result<(), Trouble> {
        if self.left > 0 {
            return Err(damaged("its records are shorter than the file"));
        }
        let Proving { hash: Some(mut hash), proof: Some(proof) } = self.proving else { return Ok(()) };
        sparse.into_iter().for_each(|extents| hash_map(&mut hash, extents, size));
        if hash.finish() == proof.hash {
            Ok(())
        } else {
            Err(damaged("its bytes do not have the hash that was recorded when it was saved"))
        }
    }
}

/// Small files, all asked for together: each as it was saved, or why not.
pub(in crate::backup) fn land(files: &[&SavedFile]) -> VecDeque<Result<Vec<u8>, Trouble>> {
    let Some(SavedFile { repository, .. }) = files.first() else { return VecDeque::new() };
    let parts: Vec<_> = files.iter().map(|file| file.parts()).collect();
    let mut landed = Flight::start(repository, parts.iter().flatten().flatten().cloned().collect()).land().into_iter();
    let of_file = |(file, parts): (&&SavedFile, Option<Vec<_>>)| {
        let Some(parts) = parts else { return file.whole() };
        // Taken whatever they are: the next file's follow.
        let came: Vec<_> = landed.by_ref().take(parts.len()).collect();
        let plain = came.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
        let is_right = |proof: Proof| keyed_hash(&proof.key, &[&plain]) == proof.hash;
        if plain.len() as u64 != file.entry.size {
            Err(damaged("its records are not as long as the file"))
        } else if file.entry.proof(repository.ring()).is_none_or(is_right) {
            Ok(plain)
        } else {
            Err(damaged("its record holds something else in its place"))
        }
    };
    files.iter().zip(parts).map(of_file).collect()
}

/// The data records of a content, in order.
pub(in crate::backup) struct Records<'a> {
    repository: &'a Arc<Repository>,
    /// Those that are looked up and not asked for.
    wanted: VecDeque<(Reference, Range<usize>)>,
    /// Where the others are looked up, and up to where that is done.
    lists: Option<(ContentReader, u64)>,
    on_the_way: VecDeque<Flight<'a>>,
    landed: VecDeque<Result<Bytes, Trouble>>,
}

impl<'a> Records<'a> {
    fn new(repository: &'a Arc<Repository>, content: &Content, length: u64) -> Self {
        let (mut wanted, mut lists) = (VecDeque::new(), None);
        match content {
            Content::Inline(references) => wanted.extend(references.iter().map(|record| (*record, 0..record.plain_len as usize))),
            Content::Fragment { start, reference } => {
                let start = *start as usize;
                wanted.push_back((*reference, start..start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX))));
            }
            Content::List { .. } => lists = Some((ContentReader::new(Arc::clone(repository), length, content.clone(), None), 0)),
        }
        Self { repository, wanted, lists, on_the_way: VecDeque::new(), landed: VecDeque::new() }
    }

    /// Asks for what comes next, some lots ahead.
    fn ask(&mut self) -> Result<(), Trouble> {
        while self.on_the_way.len() < FLIGHTS_AHEAD {
            if self.wanted.is_empty() {
                self.look_up()?;
            }
            let (mut parts, mut bytes) = (Vec::new(), 0);
            while let Some((record, part)) = self.wanted.front().filter(|_| bytes < FLIGHT_BYTES).cloned() {
                bytes += u64::from(record.plain_len);
                parts.push((record, part));
                self.wanted.pop_front();
            }
            if parts.is_empty() {
                break;
            }
            self.on_the_way.push_back(Flight::start(self.repository, parts));
        }
        Ok(())
    }

    fn look_up(&mut self) -> Result<(), Trouble> {
        let Some((reader, at)) = &mut self.lists else { return Ok(()) };
        let end = at.saturating_add(LOOKED_UP).min(reader.size());
        if *at >= end {
            return Ok(());
        }
        let range = *at..end;
        let records = self.repository.answer(|held| reader.records(held, range.clone())).map_err(|error| Trouble::from(&error))?;
        for record in records {
            *at += u64::from(record.plain_len);
            self.wanted.push_back((record, 0..record.plain_len as usize));
        }
        Ok(())
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Bytes, Trouble>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.landed.is_empty() {
            if let Err(trouble) = self.ask() {
                return Some(Err(trouble));
            }
            self.landed.extend(self.on_the_way.pop_front()?.land());
        }
        self.landed.pop_front()
    }
}

/// What has come for a batch of this number.
type Arrival = (u64, Sealed);
/// Which of the parts it is, and which bytes of the record.
type Part = (usize, Range<usize>);

/// Parts of records that were asked for together.
struct Flight<'a> {
    repository: &'a Arc<Repository>,
    count: usize,
    batches: Vec<(u64, Batch<Part>)>,
    arrived: HashMap<u64, Sealed>,
    arrivals: Receiver<Arrival>,
}

impl<'a> Flight<'a> {
    fn start(repository: &'a Arc<Repository>, parts: Vec<(Reference, Range<usize>)>) -> Self {
        let (arrive, arrivals) = unbounded::<Arrival>();
        let count = parts.len();
        let numbered = parts.into_iter().enumerate().map(|(at, (record, part))| (record, (at, part))).collect();
        let (mut batches, mut arrived) = (Vec::new(), HashMap::new());
        for (number, batch) in (0..).zip(repository.batches(numbered)) {
            let arrive = arrive.clone();
            if let Some(sealed) = repository.ask(&batch, move |sealed| drop(arrive.send((number, sealed)))) {
                arrived.insert(number, sealed);
            }
            batches.push((number, batch));
        }
        Self { repository, count, batches, arrived, arrivals }
    }

    /// Waits for all of them: each call has its deadline.
    fn land(mut self) -> Vec<Result<Bytes, Trouble>> {
        let mut landed = vec![Err(Trouble::Unreachable("it was not answered".into())); self.count];
        for (number, batch) in std::mem::take(&mut self.batches) {
            let Some(sealed) = self.arrival(number) else { break };
            self.repository.open_batch(batch, sealed, &mut |(at, part): Part, opened: Result<&Bytes, &ReadError>| {
                let Some(place) = landed.get_mut(at) else { return };
                *place = opened.map_err(Trouble::from).and_then(|plain| {
                    let is_all = part == (0..plain.len());
                    let bytes = plain.get(part).ok_or_else(|| damaged("its record is shorter than the file"))?;
                    // A part would hold on to all of its record.
                    Ok(if is_all { plain.clone() } else { Bytes::copy_from_slice(bytes) })
                });
            });
        }
        landed
    }

    fn arrival(&mut self, number: u64) -> Option<Sealed> {
        loop {
            if let Some(sealed) = self.arrived.remove(&number) {
                return Some(sealed);
            }
            let (other, sealed) = self.arrivals.recv().ok()?;
            self.arrived.insert(other, sealed);
        }
    }
}
