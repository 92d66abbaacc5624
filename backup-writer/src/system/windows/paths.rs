//! Paths of Windows and paths of snapshots.

use std::borrow::Cow;
use std::ffi::OsString;
use std::os::windows::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf, Prefix};

use crate::system::{reparse, wtf8};

/// How a snapshot shows a path of this machine: `C:\Users` as `/C/Users`, `\\server\share` as `/UNC/server/share`.
pub fn shown_bytes(path: &Path) -> Cow<'_, [u8]> {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    let bytes = |text: &std::ffi::OsStr| wtf8::encode(&text.encode_wide().collect::<Vec<_>>());
    for component in path.components() {
        match component {
            Component::Prefix(prefix) => match prefix.kind() {
                Prefix::Disk(drive) | Prefix::VerbatimDisk(drive) => parts.push(vec![drive.to_ascii_uppercase()]),
                Prefix::UNC(server, share) | Prefix::VerbatimUNC(server, share) => {
                    parts.extend([b"UNC".to_vec(), bytes(server), bytes(share)])
                }
                Prefix::Verbatim(text) | Prefix::DeviceNS(text) => parts.push(bytes(text)),
            },
            Component::Normal(name) => parts.push(bytes(name)),
            Component::RootDir | Component::CurDir | Component::ParentDir => {}
        }
    }
    Cow::Owned(parts.into_iter().fold(Vec::new(), |path, part| [&path[..], b"/", &part].concat()))
}

/// A path of a snapshot as somebody typed it: `C:\\Users`, `\\Users` and `/C/Users` are known.
pub fn typed_path(bytes: &[u8]) -> Cow<'_, [u8]> {
    let path: Vec<u8> = bytes.iter().map(|&byte| if byte == b'\\' { b'/' } else { byte }).collect();
    Cow::Owned(if is_path_with_drive(&path) || path.starts_with(b"//") { reparse::shown(&path) } else { path })
}

/// Whether what somebody typed is a path of this machine, though it has a colon.
pub fn is_path_with_drive(bytes: &[u8]) -> bool {
    matches!(bytes, [drive, b':'] | [drive, b':', b'/' | b'\\', ..] if drive.is_ascii_alphabetic())
}

/// A path of a snapshot as patterns look at it.
pub(crate) fn pattern_path(bytes: &[u8]) -> Cow<'_, Path> {
    Cow::Owned(PathBuf::from(OsString::from_wide(&wtf8::to_units(bytes))))
}

/// The path under which all others are shown.
pub(crate) fn root() -> PathBuf {
    "\\".into()
}
