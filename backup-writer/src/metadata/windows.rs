//! The metadata on Windows: streams, how a file is stored, who may do what with it; attributes and times last, because all else changes them.

use std::io::Write as _;
use std::os::windows::io::AsHandle as _;
use std::sync::Arc;

use fs_core::repository::Repository;
use fs_core::tree::{Entry, EntryKind};

use super::{Before, MetadataProblem, Owner, Subject, bytes_of};
use crate::system::security::{DACL, Descriptor, GROUP, OWNER, SACL};
use crate::system::{self, Borrowed, Errno};

/// Applies the metadata of `entry`; without an owner it belongs to who restores, and who may do what with it follows from the folder above.
pub fn apply(
    repository: &Arc<Repository>,
    subject: Subject<'_>,
    entry: &Entry,
    owner: Option<Owner>,
    _before: Before,
) -> Vec<MetadataProblem> {
    let opened;
    let open = match subject {
        Subject::Open(open) => open,
        Subject::Named(directory, name) => match system::open_to_describe(directory, name) {
            Ok(open) => {
                opened = open;
                opened.as_handle()
            }
            Err(error) => return vec![MetadataProblem::Refused { what: "metadata".into(), error }],
        },
    };
    let mut problems = Vec::new();
    set_streams(repository, open, entry, &mut problems);
    let mut note = |what: &str, result: Result<(), Errno>| {
        if let Err(error) = result {
            problems.push(MetadataProblem::Refused { what: what.into(), error });
        }
    };
    let attributes = entry.windows_attributes.unwrap_or_default();
    let is_link = entry.kind == EntryKind::Symlink;
    if let Some(data) = entry.reparse.as_ref().filter(|_| !is_link) {
        note("reparse data", system::set_reparse(open, data));
    }
    if attributes & system::ATTRIBUTE_COMPRESSED != 0 && !is_link {
        note("compression", system::set_compressed(open));
    }
    if attributes & system::ATTRIBUTE_ENCRYPTED != 0 {
        note("encryption by the file system", Err(Errno::NOTSUP));
    }
    if let Some(value) = entry.security_descriptor.as_ref().filter(|_| owner.is_some()) {
        match bytes_of(repository, value) {
            Ok(bytes) => set_security(open, &bytes, &mut note),
            Err(error) => problems.push(error.into()),
        }
    }
    let (born, modified) = (entry.btime.and_then(system::ticks).unwrap_or(0), entry.mtime.and_then(system::ticks).unwrap_or(0));
    let attributes = entry.windows_attributes.map_or(0, system::settable);
    if let Err(error) = system::set_basic(open, [born, modified], attributes) {
        problems.push(MetadataProblem::Refused { what: "times and attributes".into(), error });
    }
    problems
}

/// Writes the alternate streams.
fn set_streams(repository: &Arc<Repository>, open: Borrowed<'_>, entry: &Entry, problems: &mut Vec<MetadataProblem>) {
    for stream in &entry.streams {
        let what = || format!("alternate stream '{}'", fs_core::path::display(&stream.name));
        match bytes_of(repository, &stream.value) {
            Ok(bytes) => {
                let written = system::make_stream(open, &stream.name).and_then(|mut file| Ok(file.write_all(&bytes)?));
                problems.extend(written.err().map(|error| MetadataProblem::Refused { what: what(), error }));
            }
            Err(error) => problems.push(error.into()),
        }
    }
}

/// Sets as much of a security descriptor as this user may: the owner takes a privilege, the list only its right.
fn set_security(open: Borrowed<'_>, bytes: &[u8], note: &mut dyn FnMut(&str, Result<(), Errno>)) {
    let Some(descriptor) = Descriptor::parse(bytes) else { return note("security descriptor", Err(Errno::INVAL)) };
    let who = descriptor.owner().map_or(0, |_| OWNER) | descriptor.group().map_or(0, |_| GROUP);
    let lists = descriptor.lists();
    let logged = if descriptor.has_sacl() { SACL & system::readable_security() } else { 0 };
    if system::set_security(open, who | lists | logged, bytes).is_ok() {
        return;
    }
    if lists & DACL != 0 {
        note("access list", system::set_security(open, lists, bytes));
    }
    // The group alone says nothing on Windows.
    note("owner", system::set_security(open, who, bytes));
}

/// Whether an entry has something that this system has no place for: it was saved elsewhere. What it is, in words.
pub fn leaves_out(entry: &Entry) -> Option<&'static str> {
    let has_list = entry.acl.access.is_some() || entry.acl.default.is_some();
    (has_list || !entry.xattrs.is_empty()).then_some("extended attributes or access control lists of Unix")
}

/// Windows hands lists down to what gets none of its own, and takes them back when it gets one.
pub fn hands_down_a_list(_directory: Borrowed<'_>) -> bool {
    false
}
