//! A zip archive as a stream: sizes and checksums follow each file, so that nothing has to be written twice; large files and many entries make it zip64.

use std::io::{Error, Write};

use fs_core::path::{TreePath, display};
use fs_core::report::Severity;
use fs_core::tree::{Entry, EntryKind};
use zip::write::{FullFileOptions, StreamWriter};
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::{Archive, Refusal};

/// Header of the field with the time of modification in UTC.
const EXTENDED_TIME: u16 = 0x5455;
/// Larger files need 64 bits; a file that does not compress becomes a little longer.
const LARGE: u64 = 0xf000_0000;
/// How hard to compress: most of the gain for little time.
const LEVEL: i64 = 3;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

pub(super) struct ZipArchive<W: Write> {
    writer: ZipWriter<StreamWriter<W>>,
    /// Bytes of the current file so far, holes among them.
    at: u64,
}

impl<W: Write> ZipArchive<W> {
    pub(super) fn new(output: W) -> Self {
        Self { writer: ZipWriter::new_stream(output), at: 0 }
    }

    fn zeros(&mut self, until: u64) -> Result<(), Error> {
        while self.at < until {
            let length = usize::try_from(until - self.at).unwrap_or(usize::MAX).min(ZEROS.len());
            self.writer.write_all(ZEROS.get(..length).unwrap_or_default())?;
            self.at += length as u64;
        }
        Ok(())
    }
}

impl<W: Write> Archive for ZipArchive<W> {
    fn begin(&mut self, path: &TreePath, entry: &Entry, _link: Option<&TreePath>) -> Result<Option<Refusal>, Error> {
        if path.is_root() {
            return Ok(None);
        }
        let bytes = path.to_bytes();
        let name = String::from_utf8(bytes).unwrap_or_else(|error| display(error.as_bytes()).into_owned());
        let options = options(entry).map_err(Error::from)?;
        match entry.kind {
            EntryKind::File => self.writer.start_file(name, options)?,
            EntryKind::Directory => self.writer.add_directory(name, options)?,
            EntryKind::Symlink => {
                let Ok(target) = std::str::from_utf8(entry.target.as_deref().unwrap_or_default()) else {
                    return Ok(Some((Severity::Warning, "a link in a zip archive leads to text")));
                };
                self.writer.add_symlink(name, target, options)?;
            }
            EntryKind::Fifo | EntryKind::Socket | EntryKind::CharDevice | EntryKind::BlockDevice => {
                return Ok(Some((Severity::Note, "a zip archive has no pipes, sockets and devices")));
            }
        }
        self.at = 0;
        Ok(None)
    }

    fn data(&mut self, entry: &Entry, start: u64, bytes: &[u8]) -> Result<(), Error> {
        let whole = [fs_core::tree::Extent { offset: 0, length: entry.size }];
        let (mut begin, mut at, mut rest) = (0, start, bytes);
        for extent in entry.sparse.as_deref().unwrap_or(&whole) {
            let end = begin + extent.length;
            if at < end && !rest.is_empty() {
                let within = at - begin;
                let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(rest.len());
                let (part, after) = rest.split_at(length);
                self.zeros(extent.offset + within)?;
                self.writer.write_all(part)?;
                self.at += length as u64;
                (at, rest) = (at + length as u64, after);
            }
            begin = end;
        }
        Ok(())
    }

    fn end(&mut self, entry: &Entry) -> Result<(), Error> {
        if entry.kind == EntryKind::File { self.zeros(entry.size) } else { Ok(()) }
    }

    fn finish(self) -> Result<(), Error> {
        self.writer.finish()?.into_inner().flush()
    }
}

fn options(entry: &Entry) -> zip::result::ZipResult<FullFileOptions<'static, 'static>> {
    let mut options = FullFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .compression_level(Some(LEVEL))
        .unix_permissions(entry.mode)
        .large_file(entry.size >= LARGE)
        .last_modified_time(DateTime::default());
    if entry.kind != EntryKind::File {
        options = options.compression_method(CompressionMethod::Stored).compression_level(None);
    }
    if let Some(seconds) = entry.mtime.and_then(|mtime| i32::try_from(mtime.seconds()).ok()) {
        if let Some(time) = dos_time(seconds.into()) {
            options = options.last_modified_time(time);
        }
        let field = [&[1u8][..], &seconds.to_le_bytes()].concat();
        options.add_extra_field(EXTENDED_TIME, field, false)?;
    }
    Ok(options)
}

/// The old form of a time, in UTC; the extended one tells the same to those who know it.
fn dos_time(seconds: i64) -> Option<DateTime> {
    let moment = jiff::Timestamp::from_second(seconds).ok()?;
    DateTime::try_from(moment.to_zoned(jiff::tz::TimeZone::UTC).datetime()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_their_dates() {
        for (seconds, expected) in [(951_782_400, (2000, 2, 29)), (1_700_000_000, (2023, 11, 14)), (315_532_800, (1980, 1, 1))] {
            let time = dos_time(seconds).unwrap();
            assert_eq!((time.year(), time.month(), time.day()), expected);
        }
        assert!(dos_time(0).is_none(), "before 1980");
    }
}
