//! What happens to an entry where something may stand already.
//!
//! A file that is being written has the mode [`WRITING`] until it is complete, and so has what a cut left behind: who finds such a file of his own knows that it is to be
//! continued, whatever the policy says.

use std::fs::File;

use fs_core::crypto;
use fs_core::path::Name;
use fs_core::time::Timestamp;
use fs_core::tree::{Entry, EntryKind};

use super::folder::OpenFolder;
use super::{Overwrite, Run};
use crate::system::{self, Borrowed, Errno, Found};

/// The mode of a file that is being written: no saved file has the sticky bit and is its owner's alone.
pub(super) const WRITING: u32 = 0o1600;
/// Smaller files are written whole.
const PATCHED_MIN: u64 = 64 << 10;

/// What to do with an entry.
#[derive(Debug)]
pub(super) enum Decision {
    /// Nothing is there: make it under this name.
    Make(Name),
    /// Make it beside and rename it to this name.
    Replace(Name),
    /// Write what differs into the file that has this name.
    Patch(Name, File),
}

impl Run<'_> {
    /// Decides by what stands under a name of a directory; `None` to leave it.
    pub(super) fn decide(&self, folder: &OpenFolder, name: &Name, entry: &Entry) -> Result<Option<Decision>, String> {
        let Some(directory) = folder.fd().filter(|_| !folder.is_new) else { return Ok(Some(Decision::Make(name.clone()))) };
        let Some(there) = stat(directory, name)? else { return Ok(Some(Decision::Make(name.clone()))) };
        let has_data = entry.kind == EntryKind::File && entry.size > PATCHED_MIN;
        if self.is_unfinished(&there) {
            let file = if has_data { self.open_to_patch(directory, name, entry) } else { None };
            return Ok(Some(patch_or_replace(name, file)));
        }
        let replace = match self.options.overwrite {
            Overwrite::Never => false,
            Overwrite::Always => true,
            Overwrite::Changed => !is_same(directory, name, &there, entry),
            Overwrite::Newer => {
                entry.mtime.is_some_and(|mtime| system::kept_time((mtime.seconds(), i64::from(mtime.nanos()))) > there.mtime)
            }
            Overwrite::KeepBoth if is_same(directory, name, &there, entry) => false,
            Overwrite::KeepBoth => return self.decide_beside(directory, name, entry),
        };
        if !replace {
            return Ok(None);
        }
        if there.kind == Some(EntryKind::Directory) {
            return Err("a directory stands in its place and is left alone: move it away, or restore elsewhere".into());
        }
        // Who may write to one of several names of a file may not have meant the others.
        let is_patched = self.options.in_place && has_data && is_file(&there) && there.link_count == 1;
        let file = if is_patched { self.open_to_patch(directory, name, entry) } else { None };
        Ok(Some(patch_or_replace(name, file)))
    }

    /// The name beside one that is kept. What stands under it is an earlier restore of the same snapshot.
    fn decide_beside(&self, directory: Borrowed<'_>, name: &Name, entry: &Entry) -> Result<Option<Decision>, String> {
        let name = self.name_beside(name).ok_or("the name beside it would be too long")?;
        Ok(match stat(directory, &name)? {
            None => Some(Decision::Make(name)),
            Some(there) if is_same(directory, &name, &there, entry) => None,
            Some(_) => Some(Decision::Replace(name)),
        })
    }

    pub(super) fn name_beside(&self, name: &Name) -> Option<Name> {
        Name::new([name.as_bytes(), self.suffix.as_bytes()].concat()).ok()
    }

    /// Whether a file was being written when an earlier run was cut. Nobody else can make one that looks like it.
    pub(super) fn is_unfinished(&self, there: &Found) -> bool {
        is_file(there) && there.owner == self.me.0 && there.link_count == 1 && there.mode == WRITING
    }

    /// Opens a file to write the parts that differ, if it can be opened and is of nobody else than who restores or who is to have it. From here on it is marked, which
    /// it is only as one's own: where modes or owners are not kept it is not opened.
    pub(super) fn open_to_patch(&self, directory: Borrowed<'_>, name: &Name, entry: &Entry) -> Option<File> {
        if self.options.dry_run || entry.sparse.is_some() && !system::MAKES_HOLES {
            return None;
        }
        let file = system::open_to_write(directory, name).ok()?;
        let there = system::look_at(system::lend(&file)).ok()?;
        if !is_file(&there) || there.link_count != 1 {
            return None;
        }
        if there.owner != self.me.0 {
            self.owners.of(entry).filter(|owner| owner.uid == Some(there.owner))?;
            system::set_owner(system::lend(&file), self.me.0).ok()?;
        }
        system::set_mode(system::lend(&file), WRITING).ok()?;
        if !self.is_unfinished(&system::look_at(system::lend(&file)).ok()?) {
            return None;
        }
        super::file::punch_holes(&file, entry).ok()?;
        Some(file)
    }

    /// A name beside the final one. It is the same in every run, so that what a cut left behind is found again.
    pub(super) fn temporary_name(&self, name: &Name) -> Name {
        let hash = crypto::hash(&[self.suffix.as_bytes(), name.as_bytes()].concat());
        let digits = fs_core::id::to_hex(hash.first_chunk::<8>().unwrap_or(&[0; 8]));
        Name::new(format!(".yesterdrive-{digits}").into_bytes()).expect("hexadecimal digits are a name")
    }
}

fn patch_or_replace(name: &Name, file: Option<File>) -> Decision {
    match file {
        Some(file) => Decision::Patch(name.clone(), file),
        None => Decision::Replace(name.clone()),
    }
}

/// What stands under a name, if anything.
fn stat(directory: Borrowed<'_>, name: &Name) -> Result<Option<Found>, String> {
    match system::look(directory, name) {
        Ok(there) => Ok(Some(there)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether an entry stands under a name, as far as one can see without reading it.
pub(super) fn is_there(folder: &OpenFolder, name: &Name, entry: &Entry) -> bool {
    let Some(directory) = folder.fd() else { return false };
    stat(directory, name).ok().flatten().is_some_and(|there| is_same(directory, name, &there, entry))
}

/// Whether what is there looks like what was saved: by size and time, of links also by where they lead.
fn is_same(directory: Borrowed<'_>, name: &Name, there: &Found, entry: &Entry) -> bool {
    if entry.mtime.is_some_and(|mtime| !is_time(mtime, there)) || there.kind != Some(entry.kind) {
        return false;
    }
    match entry.kind {
        EntryKind::File => there.size == entry.size,
        EntryKind::Directory => false,
        _ => system::is_same_node(directory, name, there, entry),
    }
}

/// Whether something was modified at that time, as exactly as the system keeps it.
fn is_time(mtime: Timestamp, there: &Found) -> bool {
    system::kept_time((mtime.seconds(), i64::from(mtime.nanos()))) == there.mtime
}

fn is_file(there: &Found) -> bool {
    there.kind == Some(EntryKind::File)
}
