//! Hard links: the first name of a file is restored as a file, the others are linked to it when it is done.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use fs_core::path::{Name, TreePath};
use fs_core::report::Severity;
use fs_core::tree::{Entry, EntryKind};

use super::file::Line;
use super::folder::Folder;
use super::{Overwrite, Run};
use crate::system::{self, Borrowed, Errno, Found, Owned};

/// What has become of the first name of each file that has several.
#[derive(Debug, Default)]
pub(super) struct Groups(Mutex<HashMap<u64, Group>>);

#[derive(Debug)]
enum Group {
    /// It is on its way; these wait for it.
    Begun(Vec<(Arc<Folder>, Line)>),
    /// It stands there.
    Done(TreePath, Name),
    /// It could not be restored.
    Failed,
}

/// What is done about a further name.
enum Join {
    First,
    Waits,
    Link(TreePath, Name),
    Failed,
}

impl Run<'_> {
    /// Whether an entry is a further name of a file that was met before. Then it is seen to.
    pub(super) fn is_link(&self, folder: &Arc<Folder>, line: &Line) -> bool {
        let Some(group) = line.link_group else { return false };
        let join = {
            let mut groups = self.groups.0.lock().unwrap_or_else(PoisonError::into_inner);
            match groups.get_mut(&group) {
                None => {
                    groups.insert(group, Group::Begun(Vec::new()));
                    Join::First
                }
                Some(Group::Begun(waiting)) => {
                    waiting.push((Arc::clone(folder), line.clone()));
                    Join::Waits
                }
                Some(Group::Done(path, name)) => Join::Link(path.clone(), name.clone()),
                Some(Group::Failed) => Join::Failed,
            }
        };
        match join {
            Join::First => return false,
            Join::Waits => {}
            Join::Link(path, name) => self.link(folder, line, Some((&path, &name))),
            Join::Failed => self.link(folder, line, None),
        }
        true
    }

    /// The first name of a file is done; `None` if it failed. Those that wait for it are linked.
    pub(super) fn group_done(&self, group: u64, first: Option<(TreePath, Name)>) {
        let state = first.clone().map_or(Group::Failed, |(path, name)| Group::Done(path, name));
        let waiting = self.groups.0.lock().unwrap_or_else(PoisonError::into_inner).insert(group, state);
        let Some(Group::Begun(waiting)) = waiting else { return };
        for (folder, line) in waiting {
            self.link(&folder, &line, first.as_ref().map(|(path, name)| (path, name)));
            self.release(folder);
        }
    }

    /// The first name of a file came to nothing that the others could be linked to: the next one is the first. None waits, because it was decided at once.
    pub(super) fn group_forgotten(&self, group: u64) {
        self.groups.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&group);
    }

    fn link(&self, folder: &Arc<Folder>, entry: &Entry, first: Option<(&TreePath, &Name)>) {
        let Some(name) = &entry.name else { return };
        let path = folder.path.join(name.clone());
        self.passed(1, entry.size);
        let Some(first) = first else {
            return self.finding(Severity::Error, &path, "it is a link to a file that could not be restored");
        };
        match self.make_link(folder, name, entry, first) {
            Ok(true) => self.count(|report| report.file_count += 1),
            Ok(false) => self.count(|report| report.kept_count += 1),
            Err(refused) if system::has_no_links(refused) => self.copy_instead(folder, name, entry, first, refused),
            Err(error) => {
                let first = first.0.join(first.1.clone());
                self.finding(Severity::Error, &path, format!("it cannot be linked to {first}: {error}"));
            }
        }
    }

    /// Whether a link was made, or would be.
    fn make_link(&self, folder: &Folder, name: &Name, entry: &Entry, (first_path, first): (&TreePath, &Name)) -> Result<bool, Errno> {
        let opened = self.open(folder)?;
        let Some(directory) = opened.fd() else { return Ok(true) };
        let from = if *first_path == folder.path { None } else { Some(self.open_again(folder, first_path)?) };
        let from = from.as_ref().map_or(directory, system::lend);
        let is_there = !opened.is_new && self.options.dry_run || !self.try_link(from, first, directory, name)?;
        if !is_there {
            return Ok(true);
        }
        let there = match system::look(directory, name) {
            Err(Errno::NOENT) => return Ok(true),
            there => there?,
        };
        if system::look(from, first).is_ok_and(|of_first| of_first.identity == there.identity) {
            return Ok(false);
        }
        if !self.is_replaced(&there, entry) {
            return Ok(false);
        }
        if there.kind == Some(EntryKind::Directory) {
            return Err(Errno::ISDIR);
        }
        if self.options.dry_run {
            return Ok(true);
        }
        let temporary = self.temporary_name(name);
        if !self.try_link(from, first, directory, &temporary)? {
            system::remove(directory, &temporary)?;
            self.try_link(from, first, directory, &temporary)?;
        }
        system::rename(directory, &temporary, name)?;
        Ok(true)
    }

    /// Makes a link unless something stands there.
    fn try_link(&self, from: Borrowed<'_>, first: &Name, directory: Borrowed<'_>, name: &Name) -> Result<bool, Errno> {
        if self.options.dry_run {
            return Ok(true);
        }
        match system::link(from, first, directory, name) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What stands there is another file: even one of the same size and time would not be a name of this one.
    fn is_replaced(&self, there: &Found, entry: &Entry) -> bool {
        let saved = entry.mtime.map(|mtime| system::kept_time((mtime.seconds(), i64::from(mtime.nanos()))));
        match self.options.overwrite {
            Overwrite::Never | Overwrite::KeepBoth => false,
            Overwrite::Newer => saved > Some(there.mtime),
            Overwrite::Changed | Overwrite::Always => true,
        }
    }

    /// A directory of the target that was let go of.
    pub(super) fn open_again(&self, folder: &Folder, path: &TreePath) -> Result<Owned, Errno> {
        let top = folder.top_fd().ok_or(Errno::NOENT)?;
        let mut directory = system::open_again(top)?;
        for name in path.names() {
            directory = system::open_directory(system::lend(&directory), name)?;
        }
        Ok(directory)
    }
}
