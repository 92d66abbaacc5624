//! Directories of the target: made when something is to be in them, given their metadata when everything in them is done.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use fs_core::path::{Name, TreePath};
use fs_core::tree::{Entry, EntryKind};

use super::held::Counted;
use super::{Overwrite, Run};
use crate::metadata::{self, Before, Owner, Subject};
use crate::system::{self, Borrowed, Errno, Owned, wtf8};

/// The mode of a directory that we have made and that is not done.
pub(super) const UNFINISHED: u32 = 0o1700;

/// A directory of the target. Whoever has something to do in it holds it; the last one gives it its metadata ([`Run::release`]).
#[derive(Debug)]
pub(super) struct Folder {
    /// `None` for the target itself.
    parent: Option<Arc<Folder>>,
    name: Option<Name>,
    pub(super) path: TreePath,
    entry: Entry,
    /// Whether all of it is selected, or only some of what is in it.
    pub(super) is_selected: bool,
    opened: OnceLock<Result<OpenFolder, Errno>>,
    /// Names of what was placed in it, where names that differ only in case are one.
    taken: Mutex<HashSet<Vec<u16>>>,
}

/// An open directory.
#[derive(Debug)]
pub(super) struct OpenFolder {
    /// `None` only in a dry run where it does not exist.
    fd: Option<Owned>,
    /// It was made by this run, so nothing stands in it that we did not write.
    pub(super) is_new: bool,
    /// It was made by an earlier run that did not come to its end.
    is_unfinished: bool,
    /// Owner and group that a file made in it gets, where that is certain.
    pub(super) owner: Option<Owner>,
    /// Whether what is made in it gets an access control list from it.
    pub(super) hands_down_a_list: bool,
    /// Its mode, where its owner may not write into it and it was opened for the time being.
    lent: Option<u32>,
    _counted: Counted,
}

impl OpenFolder {
    /// The directory; `None` if this is a dry run and it does not exist.
    pub(super) fn fd(&self) -> Option<Borrowed<'_>> {
        self.fd.as_ref().map(system::lend)
    }
}

impl Drop for OpenFolder {
    /// However the run ends.
    fn drop(&mut self) {
        if let (Some(fd), Some(mode)) = (&self.fd, self.lent) {
            let _ = system::set_mode(system::lend(fd), mode);
        }
    }
}

impl Folder {
    /// The target.
    pub(super) fn top(opened: OpenFolder, entry: &Entry) -> Arc<Self> {
        let opened = OnceLock::from(Ok(opened));
        Arc::new(Self {
            parent: None,
            name: None,
            path: TreePath::ROOT,
            entry: entry.clone(),
            is_selected: false,
            opened,
            taken: Mutex::default(),
        })
    }

    /// Whether it is the target itself.
    pub(super) fn is_top(&self) -> bool {
        self.parent.is_none()
    }

    /// The target that this directory is in.
    pub(super) fn top_fd(&self) -> Option<Borrowed<'_>> {
        let mut folder = self;
        while let Some(parent) = &folder.parent {
            folder = parent;
        }
        folder.opened.get()?.as_ref().ok()?.fd()
    }

    /// Takes a name for an entry. Whether it is free: where case does not count, a snapshot of another system may have it twice.
    pub(super) fn takes(&self, name: &Name) -> bool {
        let key = || wtf8::case_key(&wtf8::to_name(name.as_bytes()));
        system::HAS_CASE || self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(key())
    }

    /// A directory in this one.
    pub(super) fn below(self: &Arc<Self>, name: Name, entry: Entry, is_selected: bool) -> Arc<Self> {
        let path = self.path.join(name.clone());
        Arc::new(Self {
            parent: Some(Arc::clone(self)),
            name: Some(name),
            path,
            entry,
            is_selected,
            opened: OnceLock::new(),
            taken: Mutex::default(),
        })
    }
}

impl Run<'_> {
    /// Makes or enters a directory, never through a link.
    pub(super) fn open<'f>(&self, folder: &'f Folder) -> Result<&'f OpenFolder, Errno> {
        folder.opened.get_or_init(|| self.enter(folder)).as_ref().map_err(|error| *error)
    }

    fn enter(&self, folder: &Folder) -> Result<OpenFolder, Errno> {
        let (Some(parent), Some(name)) = (&folder.parent, &folder.name) else { return Err(Errno::NOENT) };
        self.count(|report| report.directory_count += 1);
        let above = self.open(parent)?;
        let Some(parent) = above.fd() else { return self.opened(None, false) };
        let is_new = !self.options.dry_run
            && match system::make_directory(parent, name, UNFINISHED) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(error),
            };
        match system::open_directory(parent, name) {
            Ok(fd) => self.opened(Some(fd), is_new),
            Err(Errno::ACCESS) if !self.options.dry_run => self.unlock(parent, name),
            Err(Errno::NOENT) if self.options.dry_run => self.opened(None, false),
            Err(error) => Err(error),
        }
    }

    /// Opens a directory that its owner, who restores, may not even list.
    fn unlock(&self, parent: Borrowed<'_>, name: &Name) -> Result<OpenFolder, Errno> {
        let there = system::look(parent, name)?;
        if there.kind != Some(EntryKind::Directory) || there.owner != self.me.0 {
            return Err(Errno::ACCESS);
        }
        let mode = there.mode;
        system::set_mode_of(parent, name, mode | 0o700)?;
        match system::open_directory(parent, name).and_then(|fd| self.opened(Some(fd), false)) {
            // As it was before: it is none that an earlier run has left unfinished.
            Ok(mut opened) => {
                (opened.lent, opened.is_unfinished) = (Some(mode), false);
                Ok(opened)
            }
            Err(error) => {
                let _ = system::set_mode_of(parent, name, mode);
                Err(error)
            }
        }
    }

    /// What is to be known of a directory before something is made in it.
    pub(super) fn opened(&self, fd: Option<Owned>, is_new: bool) -> Result<OpenFolder, Errno> {
        let (mut owner, mut hands_down_a_list, mut is_unfinished, mut lent) = (None, false, false, None);
        if let Some(fd) = &fd {
            let found = system::look_at(system::lend(fd))?;
            is_unfinished = !is_new && found.owner == self.me.0 && found.mode == UNFINISHED;
            // A directory may hand down its group; if that is ours there is no doubt.
            owner = (found.group == self.me.1).then_some(Owner { uid: Some(self.me.0), gid: Some(self.me.1) });
            hands_down_a_list = metadata::hands_down_a_list(system::lend(fd));
            if !self.options.dry_run && found.owner == self.me.0 && found.mode & 0o300 != 0o300 {
                // It gets its mode again, or the saved one, when it is done.
                let mode = found.mode;
                lent = system::set_mode(system::lend(fd), mode | 0o700).is_ok().then_some(mode);
            }
        }
        Ok(OpenFolder { fd, is_new, is_unfinished, owner, hands_down_a_list, lent, _counted: self.held.count() })
    }

    /// Lets go of a directory. The last one to do so gives it its metadata: writing into it has changed its times.
    pub(super) fn release(&self, folder: Arc<Folder>) {
        let mut next = Some(folder);
        while let Some(mut last) = next.and_then(Arc::into_inner) {
            next = last.parent.take();
            if !self.is_over() {
                self.finish_folder(&mut last);
            }
        }
    }

    fn finish_folder(&self, folder: &mut Folder) {
        let Some(Ok(opened)) = folder.opened.get_mut() else { return };
        let Some(fd) = opened.fd().filter(|_| !self.options.dry_run) else { return };
        let is_ours = opened.is_new || opened.is_unfinished;
        let is_target = folder.name.is_none();
        let is_kept = match self.options.overwrite {
            Overwrite::Never | Overwrite::KeepBoth => true,
            Overwrite::Changed | Overwrite::Newer | Overwrite::Always => is_target,
        };
        if is_target && !has_metadata(&folder.entry) || is_kept && !is_ours {
            return;
        }
        let before = Before { owner: None, has_more: is_ours && opened.hands_down_a_list };
        self.describe(Subject::Open(fd), &folder.entry, before, &folder.path);
        opened.lent = None;
    }
}

/// Whether a directory was saved with what it is. One above the saved paths is only the way to them, and a target for several things is none that was saved.
pub(super) fn has_metadata(entry: &Entry) -> bool {
    entry.subtree.is_some() && entry.mtime.is_some()
}
