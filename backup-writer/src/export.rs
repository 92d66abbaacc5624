//! `export()`: a snapshot, or a part of one, as one stream: a tar or zip archive, written as it is read.
//!
//! One thread walks the tree and fetches records ahead (`export/ahead.rs`); the caller's writes the archive (`export/tar.rs`, `export/zip.rs`). A stream cannot take back what it
//! has said: a file whose content fails before anything of it was written is a finding; one that fails half-way ends the export, because an archive with zeros in place of
//! data would be a lie.

use std::io::Write;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use crossbeam_channel::{Receiver, bounded};
use fs_core::observer::{Observer, Progress};
use fs_core::path::TreePath;
use fs_core::report::{Finding, Severity};
use fs_core::repository::{ReadError, Repository};
use fs_core::tree::Entry;

use crate::selection::{PatternError, Selection};
use crate::what::{self, What, WhatError};

mod acl;
mod ahead;
mod tar;
mod zip;

use ahead::{Event, Reading};

/// Groups of records that are read and wait to be written.
const GROUPS_AHEAD: usize = 2;

/// The form of an archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// POSIX.1-2001 with extended headers: everything that Linux knows of a file.
    #[default]
    Tar,
    /// Contents, permission bits, times of modification and symbolic links.
    Zip,
}

/// What to export.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// The form of the archive.
    pub format: Format,
    /// Only what fits one of these patterns, as in `.gitignore` and counted from what is exported; empty for everything.
    pub include: Vec<String>,
    /// Leave out what fits one of these patterns.
    pub exclude: Vec<String>,
}

/// What an export did.
#[derive(Clone, Debug, Default)]
pub struct ExportReport {
    /// Entries in the archive.
    pub entry_count: u64,
    /// Bytes of the files in it.
    pub byte_count: u64,
    /// What is not in it, or only in part.
    pub findings: Vec<Finding>,
}

/// Why there is no whole archive.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// What is wanted cannot be had.
    #[error(transparent)]
    What(#[from] WhatError),
    /// The tree cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file failed when a part of it was in the archive already.
    #[error("the archive ends in the middle of {path}: {reason}")]
    Content {
        /// The file.
        path: TreePath,
        /// Why.
        reason: String,
    },
    /// The archive cannot be written.
    #[error("the archive cannot be written")]
    Write(#[from] std::io::Error),
    /// Nothing can be selected by a pattern.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// The observer cancelled.
    #[error("the export was interrupted")]
    Cancelled,
}

/// Writes what is wanted to `output`: of a directory its contents, of several things each under its name, anything else under its name.
///
/// # Errors
/// [`ExportError`]; then the archive is not whole.
pub fn export(
    repository: &Arc<Repository>,
    whats: &[What],
    options: &ExportOptions,
    output: &mut dyn Write,
    observer: &dyn Observer,
) -> Result<ExportReport, ExportError> {
    let mut tops = what::find(repository, whats)?;
    let selection = Selection::new(&options.include, &options.exclude)?;
    let totals = tops.totals();
    let report = ExportReport { findings: std::mem::take(&mut tops.missing), ..ExportReport::default() };
    report.findings.iter().for_each(|finding| observer.finding(finding));
    let has_links = options.format == Format::Tar;
    let (send, groups) = bounded::<Vec<Event>>(GROUPS_AHEAD);
    thread::scope(|scope| {
        let reading = scope.spawn(move || Reading::new(repository, selection, has_links, send).all(tops));
        let run = Run { groups, observer, totals, report };
        let written = match options.format {
            Format::Tar => run.all(tar::TarArchive::new(output, repository)),
            Format::Zip => run.all(zip::ZipArchive::new(output)),
        };
        match (written, reading.join()) {
            (Err(error), _) | (Ok(_), Ok(Err(error))) => Err(error),
            (Ok(report), Ok(Ok(findings))) => Ok(ExportReport { findings: [findings, report.findings].concat(), ..report }),
            (Ok(_), Err(panic)) => std::panic::resume_unwind(panic),
        }
    })
}

/// Why an archive does not take an entry, and how bad that is.
type Refusal = (Severity, &'static str);

/// What an archive takes.
trait Archive {
    /// Begins an entry. `None`: it is in the archive and its content follows, if it has any; otherwise why it cannot be.
    fn begin(&mut self, path: &TreePath, entry: &Entry, link: Option<&TreePath>) -> Result<Option<Refusal>, std::io::Error>;

    /// More of the content of the entry, its holes left out.
    fn data(&mut self, entry: &Entry, start: u64, bytes: &[u8]) -> Result<(), std::io::Error>;

    /// The entry is complete.
    fn end(&mut self, entry: &Entry) -> Result<(), std::io::Error>;

    /// The archive is complete.
    fn finish(self) -> Result<(), std::io::Error>;
}

struct Run<'a> {
    groups: Receiver<Vec<Event>>,
    observer: &'a dyn Observer,
    totals: (u64, u64),
    report: ExportReport,
}

/// An entry that is being written.
struct Current {
    path: TreePath,
    entry: Arc<Entry>,
    /// Bytes of its content so far; `None` if it was left out.
    written: Option<u64>,
}

impl Run<'_> {
    fn all(mut self, mut archive: impl Archive) -> Result<ExportReport, ExportError> {
        let mut current: Option<Current> = None;
        while let Ok(group) = self.groups.recv() {
            if self.observer.is_cancelled() {
                return Err(ExportError::Cancelled);
            }
            let mut events = group.into_iter();
            while let Some(event) = events.next() {
                match event {
                    Event::Entry { path, entry, link } => {
                        // Its first bytes come with it: of a small file all of them.
                        let failed = events.as_slice().iter().map_while(Event::data).find_map(|data| data.as_ref().err().cloned());
                        current = Some(self.begin(&mut archive, path, entry, link, failed)?);
                    }
                    Event::Data(data) => self.data(&mut archive, current.as_mut(), data)?,
                    Event::End => self.end(&mut archive, current.take())?,
                    // The walk ends early; its own error says why.
                    Event::Damaged => return Ok(self.report),
                }
            }
        }
        archive.finish()?;
        Ok(self.report)
    }

    fn begin(
        &mut self,
        archive: &mut impl Archive,
        path: TreePath,
        entry: Arc<Entry>,
        link: Option<TreePath>,
        failed: Option<String>,
    ) -> Result<Current, ExportError> {
        self.observer.at(&path);
        let refused = match failed {
            Some(reason) => Some((Severity::Error, reason)),
            None => archive.begin(&path, &entry, link.as_ref())?.map(|(severity, reason)| (severity, reason.to_owned())),
        };
        let written = match refused {
            Some((severity, reason)) => {
                let finding = Finding::at(severity, path.clone(), format!("it is not in the archive: {reason}"));
                self.observer.finding(&finding);
                self.report.findings.push(finding);
                None
            }
            None => Some(0),
        };
        Ok(Current { path, entry, written })
    }

    fn data(&mut self, archive: &mut impl Archive, current: Option<&mut Current>, data: Result<Bytes, String>) -> Result<(), ExportError> {
        let Some(Current { path, entry, written: Some(written) }) = current else { return Ok(()) };
        let bytes = data.map_err(|reason| ExportError::Content { path: path.clone(), reason })?;
        archive.data(entry, *written, &bytes)?;
        *written += bytes.len() as u64;
        Ok(())
    }

    fn end(&mut self, archive: &mut impl Archive, current: Option<Current>) -> Result<(), ExportError> {
        let Some(Current { path, entry, written: Some(written) }) = current else { return Ok(()) };
        if written != 0 && written != ahead::data_length(&entry) {
            return Err(ExportError::Content { path, reason: "its records do not have the length of the file".into() });
        }
        archive.end(&entry)?;
        self.report.entry_count += 1;
        self.report.byte_count += entry.size;
        let (entry_count, byte_count) = (self.report.entry_count, self.report.byte_count);
        self.observer.progress(&Progress { entry_count, entry_total: self.totals.0, byte_count, byte_total: self.totals.1 });
        Ok(())
    }
}
