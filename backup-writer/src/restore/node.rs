//! Links, pipes, sockets and devices.

use std::sync::Arc;

use fs_core::path::Name;
use fs_core::report::Severity;
use fs_core::tree::Entry;

use super::Run;
use super::decide::Decision;
use super::folder::Folder;
use crate::metadata::{Before, Subject};
use crate::system;

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
                    let _ = system::remove(directory, first_name);
                }
                system::make_node(directory, first_name, entry)?;
                let before = Before { owner: None, has_more: false };
                self.describe(Subject::Named(directory, first_name), entry, before, &path);
                if temporary.is_some() { system::rename(directory, first_name, final_name) } else { Ok(()) }
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
