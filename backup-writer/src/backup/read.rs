//! The readers: a file becomes sealed chunks. Several run at once, each with one file.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use fs_core::chunker::{Chunker, Cut};
use fs_core::crypto::StreamHash;
use fs_core::object::ObjectError;
use fs_core::path::Name;
use fs_core::tree::Extent;
use fs_core::tree::proof::hash_map;

use super::again::SavedFile;
use super::seal::{Chunk, Idle, Sealer};
use crate::packer::{PackError, Sealed, Shared, Stage};
use crate::source::stream::{Stream, StreamError};
use crate::source::{Attributes, Directory, LiveTree, SourceError, SourceFile, Stamp};

/// Chunks that a reader may be ahead of the packer.
pub(super) const PIECES_AHEAD: usize = 8;
/// Block size of devices where nothing says otherwise.
const DEVICE_BLOCK: u32 = 64 << 10;
/// Largest chunk or block.
const WINDOW_MAX: usize = 16 << 20;

/// Where the bytes of a file come from.
pub(super) enum Origin {
    /// A file, as it was listed.
    Listed { directory: Directory, name: Name, stamp: Stamp },
    /// A block device, or what stands for one, with its size.
    Device(SourceFile, u64),
    /// What is known only when it is read.
    Stream(Arc<Stream>),
    /// A file of another repository.
    Saved(SavedFile),
}

/// A file to read.
pub(super) struct FileJob {
    origin: Origin,
    pub(super) block_size: Option<u32>,
    results: Sender<Piece>,
}

impl FileJob {
    /// A file, and where its pieces come.
    pub(super) fn new(origin: Origin, block_size: Option<u32>) -> (Self, Receiver<Piece>) {
        let (results, pieces) = bounded(PIECES_AHEAD);
        (Self { origin, block_size, results }, pieces)
    }

    /// What comes of a file that cannot be read.
    pub(super) fn failed(error: SourceError) -> Receiver<Piece> {
        let (results, pieces) = bounded(1);
        let _ = results.send(Piece::End(Ok(FileResult::Failed(error))));
        pieces
    }

    fn cut(&self) -> Cut {
        self.block_size.map_or(Cut::ByContent, Cut::Every)
    }
}

/// What a reader sends: chunks in order, then one end.
pub(super) enum Piece {
    Chunk(Chunk),
    /// Nothing yet: is this still wanted?
    Waiting,
    /// `Err` only if the repository failed: that ends the run.
    End(Result<FileResult, PackError>),
}

/// A file that was read to its end.
pub(super) struct Read {
    pub size: u64,
    pub sparse: Option<Vec<Extent>>,
    /// `None` if the file is at most one chunk and no fragment: then the chunk's id says as much.
    pub file_hash: Option<[u8; 32]>,
    pub block_size: Option<u32>,
    /// It was written to while it was read.
    pub changed: bool,
    /// What the command said that it comes from.
    pub said: String,
    /// `None` if it stands in no file system as a file.
    pub attributes: Option<Attributes>,
}

/// How reading a file ended.
pub(super) enum FileResult {
    Read(Read),
    Failed(SourceError),
    /// The run ends: a part of a stream is none.
    Cut(StreamError),
}

/// Why a file was not read to its end.
pub(super) enum ReadStop {
    Source(SourceError),
    Stream(StreamError),
    Repository(PackError),
    /// Nobody takes the chunks: the run was given up.
    Abandoned,
}

impl From<SourceError> for ReadStop {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

impl From<StreamError> for ReadStop {
    fn from(error: StreamError) -> Self {
        if matches!(error, StreamError::Abandoned { .. }) { Self::Abandoned } else { Self::Stream(error) }
    }
}

impl From<PackError> for ReadStop {
    fn from(error: PackError) -> Self {
        Self::Repository(error)
    }
}

/// Hands out the next bytes; none at the end.
type Input<'a> = dyn FnMut(&mut [u8]) -> Result<usize, ReadStop> + 'a;

/// Reads files until there are no more jobs.
pub(super) fn serve(jobs: &Receiver<FileJob>, source: &LiveTree, mut reader: FileReader<'_>) {
    for job in jobs {
        if reader.shared().pace().pass() {
            reader.serve(source, &job);
        }
    }
}

/// The hash of a whole file. A file of one chunk needs none, because the chunk's id is a keyed hash of the same bytes.
pub(super) struct WholeHash {
    hash: StreamHash,
    chunk_count: u64,
    is_sparse: bool,
}

impl WholeHash {
    fn add(&mut self, chunk: &[u8], is_last: bool) {
        let is_only = is_last && self.chunk_count == 0 && !self.is_sparse;
        if !is_only {
            self.hash.update(chunk);
        }
        self.chunk_count += 1;
    }

    pub(super) fn add_map(&mut self, extents: &[Extent], size: u64) {
        self.is_sparse = true;
        hash_map(&mut self.hash, extents, size);
    }

    fn finish(self) -> Option<[u8; 32]> {
        (self.is_sparse || self.chunk_count > 1).then(|| self.hash.finish())
    }
}

pub(super) struct FileReader<'a> {
    chunker: &'a Chunker,
    sealer: Sealer<'a>,
    idle: Idle,
    buffer: Vec<u8>,
}

impl<'a> FileReader<'a> {
    pub(super) fn new(chunker: &'a Chunker, sealer: Sealer<'a>, idle: Idle) -> Self {
        Self { chunker, sealer, idle, buffer: Vec::new() }
    }

    pub(super) fn shared(&self) -> &'a Shared {
        self.sealer.shared()
    }

    /// Seals a record unless the repository has it.
    pub(super) fn seal(&mut self, plain: &[u8]) -> Result<Sealed, PackError> {
        self.sealer.seal(plain)
    }

    /// Reads a file and sends how it ended.
    pub(super) fn serve(&mut self, source: &LiveTree, job: &FileJob) {
        let shared = self.shared();
        let end = match shared.busy(Stage::Read, || self.read(source, job)) {
            Ok(result) => Ok(result),
            Err(ReadStop::Source(error)) => Ok(FileResult::Failed(error)),
            Err(ReadStop::Stream(error)) => Ok(FileResult::Cut(error)),
            Err(ReadStop::Repository(error)) => Err(error),
            Err(ReadStop::Abandoned) => return,
        };
        // If nobody takes it, the run was given up and the next job will not come.
        let _ = job.results.send(Piece::End(end));
    }

    /// Reads a file, sends its chunks, and says how it ended.
    fn read(&mut self, source: &LiveTree, job: &FileJob) -> Result<FileResult, ReadStop> {
        let key = self.shared().repository().ring().current().file.clone();
        let key = key.ok_or(PackError::Key(ObjectError::NotAllowed))?;
        let mut hash = WholeHash { hash: StreamHash::keyed(&key), chunk_count: 0, is_sparse: false };
        let (size, sparse, changed, said, attributes) = match &job.origin {
            Origin::Listed { directory, name, stamp } => {
                let (file, before) = source.open_file(directory, name, stamp)?;
                let (size, sparse) = self.read_file((&file, &before), job, &mut hash)?;
                let after = file.stamp()?;
                (size, sparse, stamp.has_changed(&after) || size != after.size, String::new(), Some(file.attributes()))
            }
            Origin::Device(file, size) => {
                let blocks = self.read_blocks(file, (job.block_size.unwrap_or(DEVICE_BLOCK), *size), None, job, &mut hash)?;
                (blocks.size, blocks.sparse, blocks.size != *size, String::new(), None)
            }
            Origin::Stream(stream) => {
                let goes_on = || !matches!(job.results.try_send(Piece::Waiting), Err(TrySendError::Disconnected(_)));
                let mut running = stream.open()?;
                let mut input = |buffer: &mut [u8]| Ok(running.read(buffer, &goes_on)?);
                let size = self.read_range(&mut input, job.cut(), u64::MAX, job, &mut hash)?;
                (size, None, false, running.finish(&goes_on)?, None)
            }
            Origin::Saved(file) => {
                self.read_saved(file, job, &mut hash)?;
                (file.entry.size, file.entry.sparse.clone(), false, String::new(), None)
            }
        };
        Ok(FileResult::Read(Read { size, sparse, file_hash: hash.finish(), block_size: job.block_size, changed, said, attributes }))
    }

    fn read_file(
        &mut self,
        (file, before): (&SourceFile, &Stamp),
        job: &FileJob,
        hash: &mut WholeHash,
    ) -> Result<(u64, Option<Vec<Extent>>), ReadStop> {
        let sparse = file.extents(before)?;
        if let Some(block) = job.block_size {
            let blocks = self.read_blocks(file, (block, before.size), sparse.as_deref(), job, hash)?;
            return Ok((blocks.size, blocks.sparse));
        }
        let mut input = |buffer: &mut [u8]| Ok(file.read(buffer)?);
        let Some(extents) = sparse else {
            return Ok((self.read_range(&mut input, job.cut(), u64::MAX, job, hash)?, None));
        };
        hash.is_sparse = true;
        for extent in &extents {
            file.seek(extent.offset)?;
            if self.read_range(&mut input, job.cut(), extent.length, job, hash)? != extent.length {
                return Err(SourceError::Replaced.into());
            }
        }
        hash.add_map(&extents, before.size);
        Ok((before.size, Some(extents)))
    }

    /// Reads a file of another repository, with the holes that it has there.
    fn read_saved(&mut self, saved: &SavedFile, job: &FileJob, hash: &mut WholeHash) -> Result<(), ReadStop> {
        let (mut bytes, entry) = (saved.open(), &saved.entry);
        let mut input = |buffer: &mut [u8]| Ok(bytes.read(buffer)?);
        match &entry.sparse {
            None => drop(self.read_range(&mut input, job.cut(), u64::MAX, job, hash)?),
            Some(extents) => {
                hash.is_sparse = true;
                for extent in extents {
                    self.read_range(&mut input, job.cut(), extent.length, job, hash)?;
                }
                hash.add_map(extents, entry.size);
            }
        }
        Ok(bytes.finish(entry.sparse.as_deref(), entry.size)?)
    }

    /// Reads at most `limit` bytes from where the input stands, cuts and seals them. Says how many there were.
    fn read_range(&mut self, input: &mut Input<'_>, cut: Cut, limit: u64, job: &FileJob, hash: &mut WholeHash) -> Result<u64, ReadStop> {
        let window = self.chunker.window(cut).min(WINDOW_MAX);
        let (mut filled, mut start, mut total, mut at_end) = (0, 0, 0u64, false);
        loop {
            // Refill when less than a window is left, so that a cut never depends on how the system hands out the bytes.
            if !at_end && filled - start < window {
                self.buffer.copy_within(start..filled, 0);
                (filled, start) = (filled - start, 0);
                let room = (4 * window).max(1 << 16);
                if self.buffer.len() < room && filled > 0 || self.buffer.is_empty() {
                    self.buffer.resize(if filled == 0 && self.buffer.is_empty() { 1 << 17 } else { room }, 0);
                }
                while !at_end && filled < self.buffer.len() {
                    let wanted = usize::try_from(limit - total).unwrap_or(usize::MAX).min(self.buffer.len() - filled);
                    let space = self.buffer.get_mut(filled..filled + wanted).unwrap_or_default();
                    let count = if space.is_empty() { 0 } else { input(space)? };
                    at_end = count == 0;
                    (filled, total) = (filled + count, total + count as u64);
                }
                if !at_end && filled < window {
                    continue;
                }
            }
            let rest = self.buffer.get(start..filled).unwrap_or_default();
            if rest.is_empty() {
                return Ok(total);
            }
            let length = self.chunker.cut(cut, rest);
            let end = start + length.clamp(1, rest.len());
            let buffer = std::mem::take(&mut self.buffer);
            let put = self.put(buffer.get(start..end).unwrap_or_default(), at_end && end == filled, job, hash);
            self.buffer = buffer;
            put?;
            start = end;
        }
    }

    /// Hashes, seals (or has somebody seal) and sends a chunk; `is_last` if it is known that none follows.
    pub(super) fn put(&mut self, chunk: &[u8], is_last: bool, job: &FileJob, hash: &mut WholeHash) -> Result<(), ReadStop> {
        hash.add(chunk, is_last);
        if !self.shared().pace().pass() {
            return Err(ReadStop::Abandoned);
        }
        let sealed = self.sealer.seal_or_hand_over(chunk, &self.idle)?;
        self.shared().waiting(Stage::Read, || job.results.send(Piece::Chunk(sealed))).map_err(|_| ReadStop::Abandoned)
    }
}
