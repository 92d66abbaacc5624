//! What lies in a folder of objects and is none: no listing shows it, and who looks after the disk wants to know.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::{HOUSEKEEPING, is_temporary};
use crate::storage::ObjectName;

/// Bytes at the beginning of a file that are looked at: the header of an object.
const HEAD_LENGTH: u64 = 48;

/// What a stranger is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StrangerKind {
    /// Left by a writer that was cut off, or of one that is at it.
    Temporary,
    /// A link, pipe or device, which no store follows.
    Special,
    /// Any other file, and its first bytes: as many as tell whether it is an object with another name. Fewer if it is shorter or cannot be read.
    Foreign(Vec<u8>),
}

/// A file that is no object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stranger {
    /// Where it lies in the folder.
    pub path: PathBuf,
    /// What it is.
    pub kind: StrangerKind,
}

/// All files below a folder whose names are no names of objects, sorted. What file systems and NAS boxes put there themselves is left out, links are not followed.
///
/// # Errors
/// The system's. A file that cannot be opened is foreign.
pub fn strangers(folder: &Path) -> io::Result<Vec<Stranger>> {
    let (mut found, mut open) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(directory) = open.pop() {
        for item in std::fs::read_dir(folder.join(&directory))? {
            let item = item?;
            let (name, path) = (item.file_name(), directory.join(item.file_name()));
            let kind = item.file_type()?;
            if directory.as_os_str().is_empty() && HOUSEKEEPING.iter().any(|harmless| name == *harmless) {
                continue;
            }
            if kind.is_dir() {
                open.push(path);
            } else if !kind.is_file() {
                found.push(Stranger { path, kind: StrangerKind::Special });
            } else if name.to_str().is_some_and(is_temporary) {
                found.push(Stranger { path, kind: StrangerKind::Temporary });
            } else if path.to_str().and_then(ObjectName::parse).is_none() {
                let kind = StrangerKind::Foreign(head_of(&folder.join(&path)).unwrap_or_default());
                found.push(Stranger { path, kind });
            }
        }
    }
    found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn head_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    std::fs::File::open(path)?.take(HEAD_LENGTH).read_to_end(&mut head)?;
    Ok(head)
}
