//! A further name of a file where no link can be made: on another file system, on one without links, where a file has as many names as it may have. It gets the
//! content as a file of its own, from the first name, which is complete.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use fs_core::path::{Name, TreePath};
use fs_core::report::Severity;
use fs_core::tree::{Entry, EntryKind, Extent};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::decide::{is_there, make_file, rename};
use super::file::data_length;
use super::folder::Folder;
use super::node::make_node;
use super::{Overwrite, Run};
use crate::metadata::{self, Before, Subject};

/// Bytes copied at a time.
const STEP: u64 = 1 << 20;

/// Whether the place is why there is no link.
pub(super) fn has_no_links(refused: Errno) -> bool {
    matches!(refused, Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP | Errno::NOSYS)
}

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
        let remove = || rustix::fs::unlinkat(directory, temporary.as_bytes(), AtFlags::empty());
        // What a cut has left.
        let _ = remove();
        let before = Before { owner: None, has_more: opened.hands_down_a_list };
        let made = if entry.kind == EntryKind::File {
            let from = self.open_again(folder, first_path).map_err(|error| error.to_string())?;
            self.copy(from.as_fd(), first, directory, &temporary, entry).map(Some)
        } else {
            make_node(directory, &temporary, entry).map(|()| None).map_err(|error| error.to_string())
        };
        let placed = made.and_then(|file| {
            let subject = file.as_ref().map_or(Subject::Named(directory, &temporary), |file| Subject::Open(file.as_fd()));
            for problem in metadata::apply(self.repository, subject, entry, self.owners.of(entry), before) {
                self.finding(Severity::Warning, &folder.path.join(name.clone()), problem.to_string());
            }
            rename(directory, &temporary, name).map_err(|error| error.to_string())
        });
        if placed.is_err() {
            let _ = remove();
        }
        placed.map(|()| true)
    }

    fn copy(&self, from: BorrowedFd<'_>, first: &Name, directory: BorrowedFd<'_>, temporary: &Name, entry: &Entry) -> Result<File, String> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let from = rustix::fs::openat(from, first.as_bytes(), flags, Mode::empty()).map_err(|error| error.to_string())?;
        let made = make_file(directory, temporary).map_err(|error| error.to_string())?;
        let (from, to) = (File::from(from), made.ok_or("somebody else has made it meanwhile")?);
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
            from.read_exact_at(&mut buffer, at)?;
            to.write_all_at(&buffer, at)?;
            at += buffer.len() as u64;
        }
    }
    to.set_len(entry.size)
}
