//! The readers: a file becomes sealed chunks. Several run at once, each with one file.

use crossbeam_channel::{Receiver, Sender};
use fs_core::chunker::{Chunker, Cut};
use fs_core::compress::Compressor;
use fs_core::crypto::StreamHash;
use fs_core::object::ObjectError;
use fs_core::path::Name;
use fs_core::record::RecordKind;
use fs_core::tree::Extent;

use crate::packer::{PackError, Sealed, Shared};
use crate::source::{Directory, LiveTree, SourceError, SourceFile, Stamp};

/// Chunks that a reader may be ahead of the packer.
pub(super) const PIECES_AHEAD: usize = 8;
/// Largest chunk or block.
const WINDOW_MAX: usize = 16 << 20;

/// A file to read.
pub(super) struct FileJob {
    pub directory: Directory,
    pub name: Name,
    pub stamp: Stamp,
    pub block_size: Option<u32>,
    pub results: Sender<Piece>,
}

/// What a reader sends: chunks in order, then one end.
pub(super) enum Piece {
    Chunk(Sealed),
    /// `Err` only if the repository failed: that ends the run.
    End(Result<FileResult, PackError>),
}

/// How reading a file ended.
pub(super) enum FileResult {
    Read {
        size: u64,
        sparse: Option<Vec<Extent>>,
        /// `None` if the file is at most one chunk: then the chunk's id says as much.
        file_hash: Option<[u8; 32]>,
        block_size: Option<u32>,
        /// It was written to while it was read.
        changed: bool,
    },
    Failed(SourceError),
}

/// Why a file was not read to its end.
enum ReadStop {
    Source(SourceError),
    Repository(PackError),
    /// Nobody takes the chunks: the run was given up.
    Abandoned,
}

impl From<SourceError> for ReadStop {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

impl From<PackError> for ReadStop {
    fn from(error: PackError) -> Self {
        Self::Repository(error)
    }
}

/// Reads files until there are no more jobs.
pub(super) fn serve(jobs: &Receiver<FileJob>, shared: &Shared, source: &LiveTree, chunker: &Chunker, level: i32) {
    let mut reader = FileReader { shared, chunker, compressor: Compressor::new(level), buffer: Vec::new() };
    for job in jobs {
        let end = match reader.read(source, &job) {
            Ok(result) => Ok(result),
            Err(ReadStop::Source(error)) => Ok(FileResult::Failed(error)),
            Err(ReadStop::Repository(error)) => Err(error),
            Err(ReadStop::Abandoned) => continue,
        };
        // If nobody takes it, the run was given up and the next job will not come.
        let _ = job.results.send(Piece::End(end));
    }
}

/// The hash of a whole file. A file of one chunk needs none, because the chunk's id is a keyed hash of the same bytes.
struct WholeHash {
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

    fn add_map(&mut self, extents: &[Extent], size: u64) {
        for extent in extents {
            self.hash.update(&extent.offset.to_le_bytes());
            self.hash.update(&extent.length.to_le_bytes());
        }
        self.hash.update(&size.to_le_bytes());
    }

    fn finish(self) -> Option<[u8; 32]> {
        (self.is_sparse || self.chunk_count > 1).then(|| self.hash.finish())
    }
}

struct FileReader<'a> {
    shared: &'a Shared,
    chunker: &'a Chunker,
    compressor: Compressor,
    buffer: Vec<u8>,
}

impl FileReader<'_> {
    fn read(&mut self, source: &LiveTree, job: &FileJob) -> Result<FileResult, ReadStop> {
        let mut file = source.open_file(&job.directory, &job.name, &job.stamp)?;
        let before = file.stamp()?;
        let sparse = file.extents(&before)?;
        let key = self.shared.repository().ring().current().file.clone();
        let key = key.ok_or(PackError::Key(ObjectError::NotAllowed))?;
        let mut hash = WholeHash { hash: StreamHash::keyed(&key), chunk_count: 0, is_sparse: sparse.is_some() };
        let cut = job.block_size.map_or(Cut::ByContent, Cut::Every);
        let size = match &sparse {
            None => self.read_range(&mut file, cut, u64::MAX, job, &mut hash)?,
            Some(extents) => {
                for extent in extents {
                    file.seek(extent.offset)?;
                    if self.read_range(&mut file, cut, extent.length, job, &mut hash)? != extent.length {
                        return Err(SourceError::Replaced.into());
                    }
                }
                hash.add_map(extents, before.size);
                before.size
            }
        };
        let after = file.stamp()?;
        let changed = (after.size, after.mtime, after.ctime) != (job.stamp.size, job.stamp.mtime, job.stamp.ctime) || size != after.size;
        Ok(FileResult::Read { size, sparse, file_hash: hash.finish(), block_size: job.block_size, changed })
    }

    /// Reads at most `limit` bytes from where the file stands, cuts and seals them. Says how many there were.
    fn read_range(&mut self, file: &mut SourceFile, cut: Cut, limit: u64, job: &FileJob, hash: &mut WholeHash) -> Result<u64, ReadStop> {
        let window = self.chunker.window(cut).min(WINDOW_MAX);
        let (mut filled, mut start, mut total, mut at_end) = (0, 0, 0u64, false);
        loop {
            // Refill when less than a window is left, so that a cut never depends on how the system hands out the bytes.
            if !at_end && filled - start < window {
                self.buffer.copy_within(start..filled, 0);
                (filled, start) = (filled - start, 0);
                let room = (2 * window).max(1 << 16);
                if self.buffer.len() < room && filled > 0 || self.buffer.is_empty() {
                    self.buffer.resize(if filled == 0 && self.buffer.is_empty() { 1 << 17 } else { room }, 0);
                }
                while !at_end && filled < self.buffer.len() {
                    let wanted = usize::try_from(limit - total).unwrap_or(usize::MAX).min(self.buffer.len() - filled);
                    let space = self.buffer.get_mut(filled..filled + wanted).unwrap_or_default();
                    let count = if space.is_empty() { 0 } else { file.read(space)? };
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
            let Some(chunk) = rest.get(..length.max(1)) else { return Ok(total) };
            hash.add(chunk, at_end && chunk.len() == rest.len());
            let sealed = self.shared.seal(RecordKind::Data, chunk, &mut self.compressor)?;
            start += chunk.len();
            job.results.send(Piece::Chunk(sealed)).map_err(|_| ReadStop::Abandoned)?;
        }
    }
}
