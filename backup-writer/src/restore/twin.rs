//! A further name of a file where no link can be made: on another file system, on one without links, where a file has as many names as it may have. It gets the
//! content as a file of its own, from the first name, which is complete.

use std::fs::File;
use std::sync::Arc;

use fs_core::path::{Name, TreePath};
use fs_core::report::Severity;
use fs_core::tree::{Entry, EntryKind, Extent};

use super::decide::{WRITING, is_there};
use super::file::data_length;
use super::folder::Folder;
use super::{Overwrite, Run};
use crate::metadata::{Before, Subject};
use crate::system::{self, Borrowed, Errno};

/// Bytes copied at a time.
const STEP: u64 = 1 << 20;

impl Run<'_> {
    pub(super) fn copy_instead(&self, folder: &Arc<Folder>, name: &Name, entry: &Entry, first: (&TreePath, &Name), refused: Errno) {
        let (path, of) = (folder.path.join(name.clone()), first.0.join(first.1.clone()));
        match self.twin(folder, name, entry, first) {
            Ok(true) => {
                self.count(|report| match entry.kind {
                    EntryKind::File => {
                        report.file_count += 1;
                        report.byte_count += entry.size;
                        report.written_bytes += data_length(entry);
                    }
                    _ => report.other_count += 1,
                });
                self.finding(Severity::Warning, &path, format!("it is a copy of {of} and no further name of it: {refused}"));
            }
            Ok(false) => self.count(|report| report.kept_count += 1),
            Err(reason) => {
                self.finding(Severity::Error, &path, format!("it cannot be linked to {of}: {refused}; nor copied from it: {reason}"));
            }
        }
    }

    /// Whether it was made. Policies have let it pass already.
    fn twin(&self, folder: &Arc<Folder>, name: &Name, entry: &Entry, (first_path, first): (&TreePath, &Name)) -> Result<bool, String> {
        let opened = self.open(folder).map_err(|error| error.to_string())?;
        let directory = opened.fd().ok_or("its folder is not there")?;
        if self.options.overwrite != Overwrite::Always && is_there(opened, name, entry) {
            // An earlier run has made it.
            return Ok(false);
        }
        let temporary = self.temporary_name(name);
        let remove = || system::remove(directory, &temporary);
        // What a cut has left.
        let _ = remove();
        let before = Before { owner: None, has_more: opened.hands_down_a_list };
        let made = if entry.kind == EntryKind::File {
            let from = self.open_again(folder, first_path).map_err(|error| error.to_string())?;
            self.copy(system::lend(&from), first, directory, &temporary, entry).map(Some)
        } else {
            system::make_node(directory, &temporary, entry).map(|()| None).map_err(|error| error.to_string())
        };
        let placed = made.and_then(|file| {
            let subject = file.as_ref().map_or(Subject::Named(directory, &temporary), |file| Subject::Open(system::lend(file)));
            self.describe(subject, entry, before, &folder.path.join(name.clone()));
            system::rename(directory, &temporary, name).map_err(|error| error.to_string())
        });
        if placed.is_err() {
            let _ = remove();
        }
        placed.map(|()| true)
    }

    fn copy(&self, from: Borrowed<'_>, first: &Name, directory: Borrowed<'_>, temporary: &Name, entry: &Entry) -> Result<File, String> {
        let from = system::open_to_read(from, first).map_err(|error| error.to_string())?;
        let made = system::make_file(directory, temporary, WRITING).map_err(|error| error.to_string())?;
        let to = made.ok_or("somebody else has made it meanwhile")?;
        if entry.sparse.is_some() {
            system::make_sparse(&to).map_err(|error| error.to_string())?;
        }
        let there = from.metadata().map_err(|error| error.to_string())?;
        if !there.is_file() || there.len() != entry.size {
            return Err("that is another file now".into());
        }
        copy_data(&from, &to, entry).map_err(|error| error.to_string())?;
        // The first name may have been kept because it looked the same, or somebody has put another file in its place.
        if self.options.verify || entry.proof(self.repository.ring()).is_some() {
            self.verify(&to, entry)?
        }
        Ok(to)
    }
}

/// Copies what is no hole.
fn copy_data(from: &File, to: &File, entry: &Entry) -> std::io::Result<()> {
    let whole = [Extent { offset: 0, length: entry.size }];
    let mut buffer = Vec::new();
    for extent in entry.sparse.as_deref().unwrap_or(&whole) {
        let (mut at, end) = (extent.offset, extent.offset + extent.length);
        while at < end {
            buffer.resize(usize::try_from(STEP.min(end - at)).unwrap_or(0), 0);
            system::read_exact_at(from, &mut buffer, at)?;
            system::write_all_at(to, &buffer, at)?;
            at += buffer.len() as u64;
        }
    }
    to.set_len(entry.size)
}
