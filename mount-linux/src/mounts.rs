//! What is mounted, by the system's own account, and how to unmount it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;
#[cfg(target_os = "linux")]
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
#[cfg(target_os = "linux")]
pub fn list() -> Vec<Mounted> {
    parse(&std::fs::read("/proc/self/mountinfo").unwrap_or_default())
}

/// All mounts of Yesterdrive that this process can see.
#[cfg(not(target_os = "linux"))]
pub fn list() -> Vec<Mounted> {
    let output = Command::new("/sbin/mount").stdin(Stdio::null()).output();
    parse_told(&output.map(|output| output.stdout).unwrap_or_default())
}

/// Reads what `mount` prints on macOS: `yesterdrive on /Volumes/x (macfuse, nodev)`.
#[cfg_attr(target_os = "linux", allow(dead_code, reason = "tested on every system"))]
fn parse_told(told: &[u8]) -> Vec<Mounted> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = |line: &'_ [u8]| {
        let rest = line.strip_prefix(b"yesterdrive on ")?;
        let end = rest.windows(2).rposition(|pair| pair == b" (")?;
        Some(std::ffi::OsStr::from_bytes(rest.get(..end)?).into())
    };
    told.split(|&b| b == b'\n').filter_map(path).map(|path| Mounted { path, device: String::new() }).collect()
}

/// Whether a drive is mounted at a path, which must be absolute.
pub fn is_mounted(path: &Path) -> bool {
    list().iter().any(|mount| mount.path == path)
}

#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "tested on every system"))]
fn parse(mountinfo: &[u8]) -> Vec<Mounted> {
    let ours = |line: &[u8]| {
        // Number, parent, device, root, mount point, options, optional fields, a dash, type, source, options.
        let mut fields = line.split(|&b| b == b' ');
        let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
        let path = fields.nth(1)?;
        let mut kind = fields.skip_while(|field| *field != b"-").skip(1);
        // The helper that mounts for ordinary users keeps the subtype, a mount by root itself does not.
        let is_ours = matches!((kind.next()?, kind.next()?), (b"fuse.yesterdrive", _) | (b"fuse", b"yesterdrive"));
        is_ours.then(|| Mounted { path: unescape(path), device })
    };
    mountinfo.split(|&b| b == b'\n').filter_map(ours).collect()
}

/// The kernel writes blanks and the like as three octal digits.
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "tested on every system"))]
fn unescape(mut rest: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let mut bytes = Vec::with_capacity(rest.len());
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
    // The kernel may still remember what `stat` told; this it asks anew.
    matches!(rustix::fs::statfs(path), Err(Errno::NOTCONN))
}

/// The path of a mount point as the system lists it. Its own last part is not followed: a dead mount cannot be.
pub fn absolute(path: &Path) -> std::io::Result<PathBuf> {
    if let Ok(whole) = path.canonicalize() {
        return Ok(whole);
    }
    let path = std::path::absolute(path)?;
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => Ok(folder.canonicalize()?.join(name)),
        _ => Ok(path),
    }
}

/// Unmounts a drive; `lazily` also while somebody uses it: it then disappears at once and ends with its last user.
///
/// # Errors
/// What the system said, for instance that it is in use.
#[cfg(not(target_os = "linux"))]
pub fn unmount(path: &Path, lazily: bool) -> std::io::Result<()> {
    let mut command = Command::new("/sbin/umount");
    command.args(lazily.then_some("-f")).arg("--").arg(path).stdin(Stdio::null());
    said(command)
}

/// Unmounts a drive; `lazily` also while somebody uses it: it then disappears at once and ends with its last user.
///
/// # Errors
/// What the system said, for instance that it is in use.
#[cfg(target_os = "linux")]
pub fn unmount(path: &Path, lazily: bool) -> std::io::Result<()> {
    let flags = if lazily { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(path, flags) {
        Err(Errno::PERM | Errno::ACCESS) => {}
        result => return Ok(result?),
    }
    // Ordinary users unmount through the helper that mounted for them.
    let mut helper = Command::new("fusermount3");
    helper.arg(if lazily { "-uz" } else { "-u" }).arg("--").arg(path).stdin(Stdio::null());
    said(helper)
}

/// Runs a command whose last words are the error.
fn said(mut command: Command) -> std::io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn what_mount_tells_on_macos() {
        let told = b"/dev/disk3s1 on / (apfs, local)\nyesterdrive on /Volumes/my (old) drive (macfuse, nodev)\nother on /x (macfuse)\n";
        assert_eq!(parse_told(told), [Mounted { path: "/Volumes/my (old) drive".into(), device: String::new() }]);
    }

    #[test]
    fn only_our_mounts_with_their_real_paths() {
        let info = b"36 35 98:0 / /mnt1 rw,noatime - ext3 /dev/root rw\n\
            40 35 0:45 / /home/anna/my\\040drive ro,nosuid shared:3 - fuse.yesterdrive yesterdrive ro,user_id=0\n\
            41 35 0:46 / /x ro - fuse.other other ro\n\
            42 35 0:47 / /y ro - fuse yesterdrive ro\n\
            43 35 0:48 / /\xff ro - fuse yesterdrive ro\n";
        let mounted = |path: &[u8], device: &str| Mounted { path: std::ffi::OsStr::from_bytes(path).into(), device: device.into() };
        assert_eq!(parse(info), [mounted(b"/home/anna/my drive", "0:45"), mounted(b"/y", "0:47"), mounted(b"/\xff", "0:48")]);
    }
}
