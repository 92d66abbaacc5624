//! What is mounted, by the system's own account, and how to unmount it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

/// One of our mounts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mounted {
    /// Where.
    pub path: PathBuf,
    /// Device number, `major:minor`.
    pub device: String,
}

/// All mounts of Yesterdrive that this process can see.
pub fn list() -> Vec<Mounted> {
    parse(&std::fs::read("/proc/self/mountinfo").unwrap_or_default())
}

fn parse(mountinfo: &[u8]) -> Vec<Mounted> {
    let ours = |line: &[u8]| {
        let text = String::from_utf8_lossy(line);
        let (fields, kind) = text.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(2);
        let (device, path) = (fields.next()?.to_owned(), fields.nth(1)?.to_owned());
        // The helper that mounts for ordinary users keeps the subtype, a mount by root itself does not.
        let is_ours = ["fuse.yesterdrive ", "fuse yesterdrive "].iter().any(|ours| kind.starts_with(ours));
        is_ours.then(|| Mounted { path: unescape(&path), device })
    };
    mountinfo.split(|&b| b == b'\n').filter_map(ours).collect()
}

/// The kernel writes blanks and the like as three octal digits.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let octal =
            after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

/// Whether a mount is there whose program has died.
pub fn is_dead(path: &Path) -> bool {
    matches!(rustix::fs::stat(path), Err(Errno::NOTCONN))
}

/// Unmounts a drive; `lazily` also while somebody uses it: it then disappears at once and ends with its last user.
///
/// # Errors
/// What the system said, for instance that it is in use.
pub fn unmount(path: &Path, lazily: bool) -> std::io::Result<()> {
    let flags = if lazily { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(path, flags) {
        Err(Errno::PERM | Errno::ACCESS) => {}
        result => return Ok(result?),
    }
    // Ordinary users unmount through the helper that mounted for them.
    let mut helper = Command::new("fusermount3");
    helper.arg(if lazily { "-uz" } else { "-u" }).arg("--").arg(path).stdin(Stdio::null());
    let output = helper.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_mounts_with_their_real_paths() {
        let info = b"36 35 98:0 / /mnt1 rw,noatime - ext3 /dev/root rw\n\
            40 35 0:45 / /home/anna/my\\040drive ro,nosuid shared:3 - fuse.yesterdrive yesterdrive ro,user_id=0\n\
            41 35 0:46 / /x ro - fuse.other other ro\n\
            42 35 0:47 / /y ro - fuse yesterdrive ro\n";
        let mounted = |path: &str, device: &str| Mounted { path: path.into(), device: device.into() };
        assert_eq!(parse(info), [mounted("/home/anna/my drive", "0:45"), mounted("/y", "0:47")]);
    }
}
