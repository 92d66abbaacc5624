//! One file of the disk cache: entries one after the other, and a table of them at the end once nothing is added any more.
//!
//! ```text
//! file   magic 8 · entries · table
//! entry  magic 4 · state 1 · zero 3 · pack 16 · start 4 · length 4 · sum 16 · one sum of 16 for each block · the bytes
//! table  rows (pack 16 · start 4 · length 4 · offset 4) · magic 8 · row count 4 · zero 4 · sum 16
//! ```
//! A sum is the first half of a BLAKE3. That of an entry covers pack, start, length and the sums of its blocks, so a part of a large entry is
//! verified without reading the rest. The state is the one byte outside: setting it ends an entry without touching its neighbours.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::name::{Name, Stage};
use crate::crypto::{self, StreamHash};
use crate::id::PackId;
use crate::wire::Reader;

const MAGIC_FILE: [u8; 8] = *b"YDcache\x01";
const MAGIC_ENTRY: [u8; 4] = *b"YDen";
const MAGIC_TABLE: [u8; 8] = *b"YDtable\x01";
const SUM_LENGTH: usize = 16;
/// Where the state stands in an entry.
const STATE_AT: u64 = 4;
const HEADER_LENGTH: usize = 48;
/// Bytes that are verified together: what BLAKE3 hashes at once on the widest processors.
const BLOCK_LENGTH: usize = 16 << 10;
/// Entries up to this size are read in one go.
const WHOLE_LENGTH_MAX: usize = 64 << 10;
const ROW_LENGTH: usize = 28;
const TAIL_LENGTH: usize = 32;
/// Bytes of a file without entries.
pub(super) const EMPTY_LENGTH: u64 = (MAGIC_FILE.len() + TAIL_LENGTH) as u64;

/// Which bytes an entry holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Extent {
    pub(super) pack: PackId,
    pub(super) start: u32,
    pub(super) length: u32,
}

impl Extent {
    fn head_length(&self) -> usize {
        HEADER_LENGTH + (self.length as usize).div_ceil(BLOCK_LENGTH) * SUM_LENGTH
    }

    /// Bytes of the file that the entry takes, without its row in the table.
    fn entry_length(&self) -> u64 {
        self.head_length() as u64 + u64::from(self.length)
    }

    /// Bytes of the file that the entry takes.
    pub(super) fn cost(&self) -> u64 {
        self.entry_length() + ROW_LENGTH as u64
    }

    fn encode(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        let (pack, rest) = bytes.split_at_mut(PackId::LENGTH);
        let (start, length) = rest.split_at_mut(4);
        pack.copy_from_slice(self.pack.as_bytes());
        start.copy_from_slice(&self.start.to_le_bytes());
        length.copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self { pack: PackId::from_bytes(reader.array().ok()?), start: reader.u32().ok()?, length: reader.u32().ok()? })
    }
}

/// An extent and where its entry begins in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Row {
    pub(super) extent: Extent,
    pub(super) offset: u32,
}

/// Bytes ready to be written.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) extent: Extent,
    head: Vec<u8>,
    bytes: Bytes,
}

impl Entry {
    /// Computes the sums; the expensive part, so do it outside of locks. The length of `bytes` must be that of the extent.
    pub(super) fn new(extent: Extent, bytes: Bytes) -> Self {
        debug_assert_eq!(bytes.len(), extent.length as usize);
        let sums: Vec<u8> = bytes.chunks(BLOCK_LENGTH).flat_map(|block| sum(&[block])).collect();
        let mut head = Vec::with_capacity(HEADER_LENGTH + sums.len());
        head.extend_from_slice(&MAGIC_ENTRY);
        head.extend_from_slice(&[0; 4]);
        head.extend_from_slice(&extent.encode());
        head.extend_from_slice(&sum(&[&extent.encode(), &sums]));
        head.extend_from_slice(&sums);
        Self { extent, head, bytes }
    }
}

/// Reads part of an entry, verified; `from..to` counts from the beginning of the extent. `None` if anything is not as it was written.
pub(super) fn read(file: &File, row: &Row, from: usize, to: usize) -> Option<Bytes> {
    let (head_length, length) = (row.extent.head_length(), row.extent.length as usize);
    let begin = u64::from(row.offset);
    let block = from / BLOCK_LENGTH * BLOCK_LENGTH;
    let block_end = to.next_multiple_of(BLOCK_LENGTH).min(length);
    let (head, blocks) = if head_length + length <= WHOLE_LENGTH_MAX {
        let whole = Bytes::from(read_at(file, begin, head_length + block_end).ok()?);
        (whole.slice(..head_length), whole.slice(head_length + block..))
    } else {
        let head = read_at(file, begin, head_length).ok()?;
        let blocks = read_at(file, begin + (head_length + block) as u64, block_end - block).ok()?;
        (Bytes::from(head), Bytes::from(blocks))
    };
    let sums = verify_head(&head, &row.extent)?.get(block / BLOCK_LENGTH * SUM_LENGTH..)?;
    let mut pairs = blocks.chunks(BLOCK_LENGTH).zip(sums.chunks(SUM_LENGTH));
    pairs.all(|(bytes, expected)| sum(&[bytes]) == expected).then(|| blocks.slice(from - block..to - block))
}

/// The sums of the blocks, if this is the head of a live entry of this extent.
fn verify_head<'a>(head: &'a [u8], extent: &Extent) -> Option<&'a [u8]> {
    let mut reader = Reader::new(head);
    let (magic, state) = (reader.array::<4>().ok()?, reader.u8().ok()?);
    reader.bytes(3).ok()?;
    let found = Extent::decode(&mut reader)?;
    let (expected, sums) = (reader.array::<SUM_LENGTH>().ok()?, head.get(HEADER_LENGTH..)?);
    let is_sound = magic == MAGIC_ENTRY && state == 0 && found == *extent && sum(&[&extent.encode(), sums]) == expected;
    is_sound.then_some(sums)
}

/// Marks an entry as ended, for every process and for ever. That it may fail does no harm: it will be found damaged again.
pub(super) fn end_entry(file: &File, offset: u32) {
    let _ = write_at(file, u64::from(offset) + STATE_AT, &[0xff]);
}

/// What a file holds, and where its entries end: from its table, or entry by entry up to the first that is not whole.
pub(super) fn rows(file: &File) -> io::Result<(Vec<Row>, u64)> {
    let length = file.metadata()?.len();
    if read_at(file, 0, MAGIC_FILE.len()).is_ok_and(|magic| magic != MAGIC_FILE) {
        // Of another version, or nothing of ours: holds nothing, counts against the quota and leaves in its turn.
        return Ok((Vec::new(), length));
    }
    Ok(read_table(file, length).unwrap_or_else(|| scan(file, length)))
}

fn read_table(file: &File, length: u64) -> Option<(Vec<Row>, u64)> {
    let tail = read_at(file, length.checked_sub(TAIL_LENGTH as u64)?, TAIL_LENGTH).ok()?;
    let mut reader = Reader::new(&tail);
    let (magic, count) = (reader.array::<8>().ok()?, reader.u32().ok()?);
    reader.u32().ok()?;
    let expected = reader.array::<SUM_LENGTH>().ok()?;
    let table_length = u64::from(count) * ROW_LENGTH as u64;
    let end = (length - TAIL_LENGTH as u64).checked_sub(table_length)?;
    if magic != MAGIC_TABLE {
        return None;
    }
    let table = read_at(file, end, usize::try_from(table_length).ok()?).ok()?;
    if sum(&[&table, &count.to_le_bytes()]) != expected {
        return None;
    }
    let mut reader = Reader::new(&table);
    let mut rows = Vec::with_capacity(count as usize);
    for _ in 0..count {
        rows.push(Row { extent: Extent::decode(&mut reader)?, offset: reader.u32().ok()? });
    }
    Some((rows, end))
}

fn scan(file: &File, length: u64) -> (Vec<Row>, u64) {
    let (mut rows, mut end) = (Vec::new(), MAGIC_FILE.len() as u64);
    while let Some(row) = scan_entry(file, end, length) {
        end += row.extent.entry_length();
        rows.push(row);
    }
    (rows, end)
}

fn scan_entry(file: &File, offset: u64, length: u64) -> Option<Row> {
    let header = read_at(file, offset, HEADER_LENGTH).ok()?;
    let mut reader = Reader::new(&header);
    reader.bytes(8).ok()?;
    let extent = Extent::decode(&mut reader)?;
    if extent.length == 0 || offset.checked_add(extent.entry_length())? > length {
        return None;
    }
    let mut head = read_at(file, offset, extent.head_length()).ok()?;
    // One that has ended is stepped over like any other and found out when it is read.
    *head.get_mut(usize::try_from(STATE_AT).ok()?)? = 0;
    verify_head(&head, &extent)?;
    Some(Row { extent, offset: u32::try_from(offset).ok()? })
}

/// A file that is being written by this process alone, under an exclusive lock.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) name: Name,
    pub(super) file: Arc<File>,
    rows: Vec<Row>,
    end: u64,
}

impl Active {
    /// Makes a new file.
    pub(super) fn create(folder: &Path, name: Name) -> io::Result<Self> {
        let path = name.path(folder, Stage::Open);
        let file = options().create_new(true).open(&path)?;
        if let Err(error) = file.try_lock().map_err(io::Error::from).and_then(|()| write_at(&file, 0, &MAGIC_FILE)) {
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        Ok(Self { name, file: Arc::new(file), rows: Vec::new(), end: MAGIC_FILE.len() as u64 })
    }

    /// Goes on with a finished file. An error if another process has it, if it is gone or holds nothing.
    pub(super) fn resume(folder: &Path, name: Name) -> io::Result<Self> {
        let path = name.path(folder, Stage::Finished);
        let file = options().open(&path)?;
        file.try_lock().map_err(io::Error::from)?;
        std::fs::rename(path, name.path(folder, Stage::Open))?;
        Self::take_over(file, name)
    }

    /// Takes over a file that its writer has left unfinished. An error if the writer lives; `InvalidData` if there is nothing in it.
    pub(super) fn salvage(folder: &Path, name: Name) -> io::Result<Self> {
        let file = options().open(name.path(folder, Stage::Open))?;
        file.try_lock().map_err(io::Error::from)?;
        Self::take_over(file, name)
    }

    fn take_over(file: File, name: Name) -> io::Result<Self> {
        let (rows, end) = rows(&file)?;
        if rows.is_empty() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        file.set_len(end)?;
        Ok(Self { name, file: Arc::new(file), rows, end })
    }

    /// Entries so far.
    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Length that the file will have when it is finished.
    pub(super) fn length(&self) -> u64 {
        self.end + (self.rows.len() * ROW_LENGTH + TAIL_LENGTH) as u64
    }

    /// Writes an entry at the end. After an error the file holds what it held before.
    pub(super) fn append(&mut self, entry: &Entry) -> io::Result<Row> {
        let offset = u32::try_from(self.end).map_err(|_| io::ErrorKind::FileTooLarge)?;
        write_at(&self.file, self.end, &entry.head)?;
        write_at(&self.file, self.end + entry.head.len() as u64, &entry.bytes)?;
        let row = Row { extent: entry.extent, offset };
        self.end += entry.extent.entry_length();
        self.rows.push(row);
        Ok(row)
    }

    /// Writes the table and gives the file its lasting name; other processes may read it from now on.
    pub(super) fn finish(self, folder: &Path) -> io::Result<()> {
        let mut table = Vec::with_capacity(self.rows.len() * ROW_LENGTH + TAIL_LENGTH);
        for row in &self.rows {
            table.extend_from_slice(&row.extent.encode());
            table.extend_from_slice(&row.offset.to_le_bytes());
        }
        let count = u32::try_from(self.rows.len()).map_err(|_| io::ErrorKind::FileTooLarge)?.to_le_bytes();
        let sum = sum(&[&table, &count]);
        table.extend_from_slice(&MAGIC_TABLE);
        table.extend_from_slice(&count);
        table.extend_from_slice(&[0; 4]);
        table.extend_from_slice(&sum);
        // What an append that failed has left behind.
        self.file.set_len(self.end)?;
        write_at(&self.file, self.end, &table)?;
        std::fs::rename(self.name.path(folder, Stage::Open), self.name.path(folder, Stage::Finished))?;
        // If it stays locked nobody goes on with it before it is closed, and nothing else. (Wine says so of locks that are gone.)
        let _ = self.file.unlock();
        Ok(())
    }
}

/// Opens a finished file for reading, and for ending entries.
pub(super) fn open(folder: &Path, name: Name) -> io::Result<File> {
    options().open(name.path(folder, Stage::Finished))
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn sum(parts: &[&[u8]]) -> [u8; SUM_LENGTH] {
    let hash = match parts {
        [only] => crypto::hash(only),
        parts => {
            let mut hash = StreamHash::plain();
            parts.iter().for_each(|part| hash.update(part));
            hash.finish()
        }
    };
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = hash;
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

fn read_at(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    #[cfg(unix)]
    std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, offset)?;
    #[cfg(windows)]
    {
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match std::os::windows::fs::FileExt::seek_read(file, rest, offset + done as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => done += count,
            }
        }
    }
    Ok(bytes)
}

fn write_at(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    #[cfg(unix)]
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)?;
    #[cfg(windows)]
    {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            match std::os::windows::fs::FileExt::seek_write(file, rest, offset + done as u64)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => done += count,
            }
        }
    }
    Ok(())
}
