//! Reparse points: what stands in their data, and which of them lead elsewhere. Pure.
//!
//! The data is kept whole, so that it comes back as it was; the target is for everybody who cannot do anything with it.

use super::wtf8;

/// A symbolic link.
pub(crate) const SYMLINK: u32 = 0xa000_000c;
/// A junction, or a place where a volume is mounted.
pub(crate) const MOUNT_POINT: u32 = 0xa000_0003;
/// A symbolic link of WSL.
const LX_SYMLINK: u32 = 0xa000_001d;
/// An alias of a packaged program.
const APP_EXEC_LINK: u32 = 0x8000_001b;
/// A socket.
const UNIX_SOCKET: u32 = 0x8000_0023;
/// Bit of tags that stand for another place.
const IS_SURROGATE: u32 = 0x2000_0000;
/// Flag of a symbolic link that is relative to where it stands.
const IS_RELATIVE: u32 = 1;

/// What becomes of a reparse point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// It leads elsewhere: saved with its data, never followed.
    Link,
    /// It has no content that could be read: saved with its data.
    Bare,
    /// A file or directory like any other; how it is stored is the file system's business.
    Content,
}

/// What becomes of a reparse point by its tag.
pub(crate) fn kind(tag: u32) -> Kind {
    match tag {
        SYMLINK | MOUNT_POINT | LX_SYMLINK => Kind::Link,
        APP_EXEC_LINK | UNIX_SOCKET => Kind::Bare,
        tag if tag & IS_SURROGATE != 0 => Kind::Bare,
        _ => Kind::Content,
    }
}

/// Where a link leads, as a path of the snapshot: `/C/Users/…`, `/UNC/server/share/…`, `..\x` as `../x`; `None` if the data says nothing of it.
pub(crate) fn target(data: &[u8]) -> Option<Vec<u8>> {
    let (tag, body) = (number(data, 0)?, data.get(8..)?);
    if tag == LX_SYMLINK {
        return body.get(4..).map(<[u8]>::to_vec);
    }
    let half = |at: usize| body.get(at..)?.first_chunk().map(|bytes| usize::from(u16::from_le_bytes(*bytes)));
    let (names_at, is_relative) = match tag {
        SYMLINK => (12, number(body, 8)? & IS_RELATIVE != 0),
        MOUNT_POINT => (8, false),
        _ => return None,
    };
    let (start, length) = (half(0)?, half(2)?);
    let bytes = body.get(names_at + start..)?.get(..length)?;
    let units: Vec<u16> = bytes.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
    let path = wtf8::encode(&units).into_iter().map(|b| if b == b'\\' { b'/' } else { b }).collect::<Vec<_>>();
    if is_relative { Some(path) } else { Some(shown(&path)) }
}

/// An absolute path, slashes already turned, as snapshots show it.
pub(crate) fn shown(path: &[u8]) -> Vec<u8> {
    let rest = [&b"/??/"[..], b"//?/", b"//./"].iter().find_map(|prefix| path.strip_prefix(*prefix)).unwrap_or(path);
    match rest {
        [drive, b':', after @ ..] if drive.is_ascii_alphabetic() => [b"/", &[drive.to_ascii_uppercase()][..], after].concat(),
        [b'/', b'/', after @ ..] => [b"/UNC/", after].concat(),
        [b'U' | b'u', b'N' | b'n', b'C' | b'c', b'/', ..] => [b"/UNC/", rest.get(4..).unwrap_or_default()].concat(),
        [b'/', ..] => rest.to_vec(),
        _ => [b"/", rest].concat(),
    }
}

/// The data of a symbolic link to a target that a snapshot of another system has.
pub(crate) fn symlink_data(target: &[u8]) -> Vec<u8> {
    let is_absolute = target.starts_with(b"/");
    let units: Vec<u16> =
        wtf8::to_units(target).into_iter().map(|unit| if unit == u16::from(b'/') { u16::from(b'\\') } else { unit }).collect();
    let drive = match target {
        [b'/', drive, rest @ ..] if drive.is_ascii_alphabetic() && matches!(rest, [] | [b'/', ..]) => Some(*drive),
        _ => None,
    };
    let (print, substitute, flags): (Vec<u16>, Vec<u16>, u32) = match drive {
        Some(drive) => {
            let path: Vec<u16> =
                [u16::from(drive), u16::from(b':')].into_iter().chain(units.get(2..).unwrap_or_default().iter().copied()).collect();
            (path.clone(), "\\??\\".encode_utf16().chain(path).collect(), 0)
        }
        // Without a drive it is meant from the root of the drive that it stands on.
        None => (units.clone(), units, IS_RELATIVE),
    };
    debug_assert!(drive.is_none() || is_absolute);
    let bytes = |units: &[u16]| units.iter().flat_map(|unit| unit.to_le_bytes()).collect::<Vec<u8>>();
    let (substitute, print) = (bytes(&substitute), bytes(&print));
    let half = |value: usize| u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes();
    let body =
        [&half(0)[..], &half(substitute.len()), &half(substitute.len()), &half(print.len()), &flags.to_le_bytes(), &substitute, &print]
            .concat();
    [&SYMLINK.to_le_bytes()[..], &half(body.len()), &[0, 0], &body].concat()
}

/// The tag of reparse data.
pub(crate) fn tag(data: &[u8]) -> Option<u32> {
    number(data, 0)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Data as Windows writes it, the printed name first.
    fn data(tag: u32, substitute: &str, print: &str, flags: Option<u32>) -> Vec<u8> {
        let bytes = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        let (print, substitute) = (bytes(print), bytes(substitute));
        let half = |value: usize| u16::try_from(value).unwrap().to_le_bytes();
        let flags = flags.map(|flags| flags.to_le_bytes().to_vec()).unwrap_or_default();
        let lengths = [half(print.len()), half(substitute.len()), half(0), half(print.len())].concat();
        let body = [lengths, flags, print, substitute].concat();
        [&tag.to_le_bytes()[..], &half(body.len()), &[0, 0], &body].concat()
    }

    #[test]
    fn targets_become_paths_of_the_snapshot() {
        let of = |data: &[u8]| target(data).map(|target| String::from_utf8(target).unwrap());
        assert_eq!(of(&data(SYMLINK, r"..\other\file", r"..\other\file", Some(1))).as_deref(), Some("../other/file"));
        assert_eq!(of(&data(SYMLINK, r"\??\c:\Users\Anna", r"c:\Users\Anna", Some(0))).as_deref(), Some("/C/Users/Anna"));
        assert_eq!(of(&data(SYMLINK, r"\??\UNC\nas\share\x", r"\\nas\share\x", Some(0))).as_deref(), Some("/UNC/nas/share/x"));
        assert_eq!(of(&data(MOUNT_POINT, r"\??\D:\Data\", r"D:\Data", None)).as_deref(), Some("/D/Data/"));
        let volume = r"\??\Volume{0e4b8f4c-0000-0000-0000-100000000000}\";
        assert_eq!(of(&data(MOUNT_POINT, volume, "", None)).as_deref(), Some("/Volume{0e4b8f4c-0000-0000-0000-100000000000}/"));
        let of_wsl = [&LX_SYMLINK.to_le_bytes()[..], &[9, 0, 0, 0], &[2, 0, 0, 0], b"/home/a"].concat();
        assert_eq!(of(&of_wsl).as_deref(), Some("/home/a"));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&data(APP_EXEC_LINK, "a", "b", None)), None);
    }

    #[test]
    fn any_bytes_are_read_without_panic() {
        let whole = data(SYMLINK, r"\??\c:\Users\Anna", r"c:\Users\Anna", Some(0));
        for length in 0..whole.len() {
            let _ = target(&whole[..length]);
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[length] = value;
                let _ = target(&changed);
            }
        }
    }

    #[test]
    fn targets_of_other_systems_become_links_and_come_back() {
        for path in ["../other/file", "file", "/C/Users/Anna", "/home/anna", "/D", "ä/ö"] {
            let data = symlink_data(path.as_bytes());
            assert_eq!((tag(&data), usize::from(u16::from_le_bytes([data[4], data[5]]))), (Some(SYMLINK), data.len() - 8));
            assert_eq!(String::from_utf8(target(&data).unwrap()).unwrap(), path);
        }
    }

    #[test]
    fn what_has_content_is_no_link() {
        assert_eq!((kind(SYMLINK), kind(MOUNT_POINT), kind(LX_SYMLINK)), (Kind::Link, Kind::Link, Kind::Link));
        assert_eq!((kind(APP_EXEC_LINK), kind(UNIX_SOCKET), kind(0xa000_0027)), (Kind::Bare, Kind::Bare, Kind::Bare));
        // Deduplicated, compressed by the system, of OneDrive, of hierarchical storage.
        for tag in [0x8000_0013, 0x8000_0017, 0x9000_001a, 0x9000_601a, 0xc000_0004] {
            assert_eq!(kind(tag), Kind::Content, "{tag:x}");
        }
    }
}
