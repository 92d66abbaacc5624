//! Links, pipes, sockets and devices.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use fs_core::path::Name;
use fs_core::report::Severity;
use fs_core::tree::{Entry, EntryKind};
use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::Run;
use super::decide::{Decision, rename};
use super::folder::Folder;
use crate::metadata::{self, Before, Subject};

impl Run<'_> {
    pub(super) fn node(&self, folder: &Arc<Folder>, entry: &Entry, name: &Name, decision: Decision) {
        let (Decision::Make(final_name) | Decision::Replace(final_name) | Decision::Patch(final_name, _)) = &decision;
        let path = folder.path.join(name.clone());
        let made = self.open(folder).and_then(|opened| match opened.fd().filter(|_| !self.options.dry_run) {
            None => Ok(()),
            Some(directory) => {
                let temporary = matches!(decision, Decision::Replace(_)).then(|| self.temporary_name(final_name));
                let first_name = temporary.as_ref().unwrap_or(final_name);
                if temporary.is_some() {
                    // What a cut has left.
                    let _ = rustix::fs::unlinkat(directory, first_name.as_bytes(), AtFlags::empty());
                }
                make_node(directory, first_name, entry)?;
                let before = Before { owner: None, has_more: false };
                for problem in metadata::apply(self.repository, Subject::Named(directory, first_name), entry, self.owners.of(entry), before)
                {
                    self.finding(Severity::Warning, &path, problem.to_string());
                }
                if temporary.is_some() { rename(directory, first_name, final_name) } else { Ok(()) }
            }
        });
        match made {
            Ok(()) => self.count(|report| report.other_count += 1),
            Err(error) => self.finding(Severity::Warning, &path, format!("it cannot be made: {error}")),
        }
        if let Some(group) = entry.link_group {
            self.group_done(group, made.is_ok().then(|| (folder.path.clone(), final_name.clone())));
        }
        self.passed(1, 0);
    }
}

pub(super) fn make_node(directory: BorrowedFd<'_>, name: &Name, entry: &Entry) -> Result<(), Errno> {
    let (raw, mode) = (name.as_bytes(), Mode::from_raw_mode(0o600));
    let device = entry.device.map_or(0, |(major, minor)| rustix::fs::makedev(major, minor));
    match entry.kind {
        EntryKind::Symlink => rustix::fs::symlinkat(entry.target.as_deref().unwrap_or_default(), directory, raw),
        EntryKind::Fifo => rustix::fs::mknodat(directory, raw, FileType::Fifo, mode, 0),
        EntryKind::Socket => rustix::fs::mknodat(directory, raw, FileType::Socket, mode, 0),
        EntryKind::CharDevice => rustix::fs::mknodat(directory, raw, FileType::CharacterDevice, mode, device),
        EntryKind::BlockDevice => rustix::fs::mknodat(directory, raw, FileType::BlockDevice, mode, device),
        EntryKind::File | EntryKind::Directory => Err(Errno::INVAL),
    }
}
