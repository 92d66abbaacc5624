//! What is known of a source from before: the parent snapshot, read page by page as names are asked for, and what this machine saw.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;

use fs_core::id::PackId;
use fs_core::path::{Name, TreePath};
use fs_core::record::Reference;
use fs_core::report::{Finding, Severity};
use fs_core::repository::ReadError;
use fs_core::time::Timestamp;
use fs_core::tree::page::{Found, Wanted};
use fs_core::tree::{Entry, EntryKind, Page, Value, page};

use crate::packer::Shared;
use crate::parent::{FileState, is_settled, is_unchanged};
use crate::state::{self, FileStates};

/// What unchanged files are recognised by.
pub(super) struct Before<'a> {
    pub shared: &'a Arc<Shared>,
    /// The root of the parent snapshot, and when that was begun.
    pub parent: Option<(&'a Entry, Timestamp)>,
    /// Whether this device saved the parent snapshot.
    pub is_parent_ours: bool,
    /// What this machine saw.
    pub states: Option<&'a FileStates>,
    /// Whether all files are read whatever is known of them.
    pub reread: bool,
}

/// What is known of one directory.
#[derive(Default)]
pub(super) struct BeforeDirectory {
    /// The same directory in the parent snapshot; `None` also once it proved to be damaged.
    page: Option<Reference>,
    /// Packs that hold the pages met so far.
    pub packs: HashSet<PackId>,
    /// What this machine saw in it.
    pub known: Option<state::Directory>,
    /// Why the parent snapshot is not relied on here.
    pub damage: Option<Finding>,
}

/// What this machine will know of a file.
pub(super) struct Seen {
    pub state: FileState,
    /// Where it stands among what was known before, if nothing is new about it.
    pub kept_at: Option<usize>,
}

impl Before<'_> {
    /// What is known of the directory at `path`, which the parent snapshot has as `before`.
    pub(super) fn directory(&self, before: Option<&Entry>, path: &TreePath) -> BeforeDirectory {
        let known = self.states.and_then(|states| states.directory(path));
        let page = before.and_then(|before| before.subtree.as_ref()).and_then(|subtree| subtree.page);
        BeforeDirectory { page, known, ..BeforeDirectory::default() }
    }

    /// The entry that the parent snapshot has under a name.
    ///
    /// # Errors
    /// Only if the store fails. Damage is noted: a damaged parent is no help, and must not keep this snapshot from being taken.
    pub(super) fn entry(&self, directory: &mut BeforeDirectory, name: &Name, path: &TreePath) -> Result<Option<Found>, ReadError> {
        let Some(top) = directory.page else { return Ok(None) };
        let packs = RefCell::new(std::mem::take(&mut directory.packs));
        let found = page::find(&top, Wanted::Name(name.as_bytes()), &|reference| {
            packs.borrow_mut().insert(reference.pack);
            self.shared.repository().page(reference)
        });
        directory.packs = packs.into_inner();
        match found {
            Err(error) if error.is_damage() => {
                let message = match &error {
                    ReadError::Key { .. } => {
                        "this machine does not remember the previous snapshot here: what has changed cannot be told".into()
                    }
                    error => format!("the previous snapshot is damaged here, and is not relied on: {error}"),
                };
                directory.damage = Some(Finding::at(Severity::Note, path.clone(), message));
                directory.page = None;
                Ok(None)
            }
            result => result,
        }
    }

    /// What is known of a file that need not be read: it is as it was, and all its packs are there.
    pub(super) fn unchanged(
        &self,
        now: &Entry,
        inode: Option<u64>,
        before: Option<&Entry>,
        directory: &BeforeDirectory,
    ) -> Result<Option<Seen>, ReadError> {
        if self.reread || now.kind != EntryKind::File {
            return Ok(None);
        }
        let known = directory.known.as_ref().zip(now.name.as_ref()).and_then(|(known, name)| {
            let at = known.find(name)?;
            Some((at, known.at(at)?))
        });
        let unchanged = match known {
            Some((at, found)) if is_unchanged(now, inode, &found.entry, found.inode) => {
                // A number learnt later counts from then on.
                let kept_at = (found.inode.is_some() || inode.is_none()).then_some(at);
                Some(Seen { state: FileState { inode: found.inode.or(inode), ..found }, kept_at })
            }
            Some(_) => None,
            // The row may be that of a run that came to this directory and not to this file.
            None => self.as_in_parent(now, inode, before)?.map(|state| Seen { state, kept_at: None }),
        };
        Ok(unchanged.filter(|unchanged| unchanged.state.packs().all(|pack| self.shared.is_listed(&pack))))
    }

    /// Whether an unchanged file has the attributes that the parent snapshot says: setting one moves the time of change. Long values are looked at again,
    /// because their records may be gone.
    /// What another user saved may lack some, and a file system that makes up its inodes may make up its times.
    pub(super) fn has_attributes(&self, now: &Entry, inode: Option<u64>, before: &Entry) -> bool {
        let settled = self.parent.is_some_and(|(_, began)| is_settled(now, began));
        self.is_parent_ours
            && settled
            && inode.is_some()
            && now.ctime.is_some()
            && now.ctime == before.ctime
            && before.values().all(|value| matches!(value, Value::Inline(_)))
    }

    fn as_in_parent(&self, now: &Entry, inode: Option<u64>, before: Option<&Entry>) -> Result<Option<FileState>, ReadError> {
        let settled = self.parent.is_some_and(|(_, began)| is_settled(now, began));
        let Some(before) = before.filter(|before| settled && is_unchanged(now, inode, before, None)) else { return Ok(None) };
        match self.shared.list_packs_of(&before.content) {
            Ok(packs) => Ok(Some(FileState::of(before, inode, packs))),
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The top page of a directory in the parent snapshot, if it has `entry_count` entries and its pages are there: all that were met while its entries
    /// were looked for, which are all where each was found.
    pub(super) fn page(&self, directory: &BeforeDirectory, entry_count: usize) -> Result<Option<Reference>, ReadError> {
        let Some(top) = directory.page.filter(|_| entry_count > 0) else { return Ok(None) };
        if !directory.packs.iter().all(|pack| self.shared.is_listed(pack)) {
            return Ok(None);
        }
        let count = match &*self.shared.repository().page(&top)? {
            Page::Leaf(leaf) => leaf.entries().len() as u64,
            Page::Index(rows) => rows.last().map_or(0, |row| row.entry_end),
        };
        Ok((count == entry_count as u64).then_some(top))
    }
}
