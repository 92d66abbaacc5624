//! The program's own mounts: signals, a program that dies, ordinary users.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use mount_linux::mounts;
use rustix::process::{Pid, Signal, kill_process};
use tests::program;

use super::mount::within_five_seconds;

const NOBODY: u32 = 65534;

/// A folder with a repository, one backup in it, and somebody who uses it.
struct Place {
    folder: tempfile::TempDir,
    user: Option<u32>,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap(), user: None };
        std::fs::create_dir(place.path("source")).unwrap();
        std::fs::write(place.path("source/letter"), "dear all").unwrap();
        std::fs::set_permissions(place.path("source/letter"), PermissionsExt::from_mode(0o600)).unwrap();
        place.ok(&mut place.run(&["init", "--new-key-file", "key", "--accept-loss"]));
        place.ok(&mut place.run(&["--key-file", "key", "backup", "source"]));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The source as a drive shows it.
    fn shown(&self, drive: &Path) -> PathBuf {
        let host = std::fs::read_dir(drive.join("Latest")).unwrap().next().unwrap().unwrap().path();
        host.join(self.path("source").strip_prefix("/").unwrap())
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("HOME", self.folder.path()).env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").current_dir(self.folder.path());
        command.stdin(Stdio::null());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Command {
        // An ordinary user may not reach the program where it was built.
        let program = if self.user.is_some() { self.path("yesterdrive") } else { program() };
        let mut command = self.command(program);
        command.args(["--repository", "repository"]).args(arguments);
        command
    }

    fn ok(&self, command: &mut Command) -> String {
        let Output { status, stdout, stderr } = command.output().expect("tests/run builds the program first");
        assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    /// Mounts in the foreground and waits until the drive is there.
    fn mount(&self, drive: &Path) -> Child {
        let mut command = self.run(&["--key-file", "key", "mount"]);
        let mut child = command.arg(drive).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("mounted on"), "{line}");
        child
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let folder = self.folder.path().to_owned();
        for left in mounts::list().into_iter().filter(|mount| mount.path.starts_with(&folder)) {
            let _ = mounts::unmount(&left.path, true);
        }
    }
}

fn is_mounted(drive: &Path) -> bool {
    mounts::list().iter().any(|mount| mount.path == drive)
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_hang_up_unmounts() {
    let place = Place::new();
    let drive = place.path("drive");
    for signal in [Signal::HUP, Signal::TERM, Signal::INT] {
        let mut child = place.mount(&drive);
        send(&child, signal);
        assert!(child.wait().unwrap().success());
        assert!(!is_mounted(&drive), "{signal:?}");
    }
}

#[test]
fn the_second_interrupt_waits_for_nobody() {
    let place = Place::new();
    let drive = place.path("drive");
    let mut child = place.mount(&drive);
    let open = std::fs::File::open(place.shown(&drive).join("letter")).unwrap();
    send(&child, Signal::INT);
    within_five_seconds(|| !is_mounted(&drive));
    assert!(child.try_wait().unwrap().is_none(), "somebody has a file open");
    send(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(open);
}

#[test]
fn a_drive_whose_program_died_is_cleaned() {
    let place = Place::new();
    std::fs::create_dir(place.path("real")).unwrap();
    std::os::unix::fs::symlink("real", place.path("link")).unwrap();
    let (drive, real) = (place.path("link/drive"), place.path("real/drive"));
    for _ in 0..2 {
        let mut child = place.mount(&drive);
        assert_eq!(std::fs::read_to_string(place.shown(&drive).join("letter")).unwrap(), "dear all");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(mounts::is_dead(&drive));
        assert!(place.ok(&mut place.run(&["mounts"])).contains("dead"));
        // The next round mounts over it.
    }
    place.ok(&mut place.run(&["unmount", "link/drive"]));
    assert!(!is_mounted(&real) && real.read_dir().unwrap().next().is_none());
}

#[test]
fn an_ordinary_user_mounts_what_is_then_his() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut place = Place::new();
    std::fs::copy(program(), place.path("yesterdrive")).unwrap();
    let folder = place.folder.path().to_owned();
    place.ok(Command::new("chown").args(["-R", "65534:65534"]).arg(&folder));
    // What was saved belongs to root, and nobody else may read it.
    place.user = Some(NOBODY);
    place.ok(&mut place.run(&["--key-file", "key", "mount", "--owner-me", "--background", "drive"]));
    let drive = place.path("drive");
    assert!(is_mounted(&drive));
    let host = place.ok(place.command("ls").arg(drive.join("Latest")));
    let letter = drive.join("Latest").join(host.trim()).join(place.path("source/letter").strip_prefix("/").unwrap());
    assert_eq!(place.ok(place.command("stat").args(["-c", "%u:%g %a %s"]).arg(&letter)), "65534:65534 600 8\n");
    assert_eq!(place.ok(place.command("cat").arg(&letter)), "dear all");
    assert!(place.ok(place.command("find").arg(&drive).args(["-name", "letter"])).ends_with("letter\n"));
    assert_eq!(std::fs::read_dir(&drive).unwrap_err().kind(), std::io::ErrorKind::PermissionDenied, "nobody else, not even root");
    place.ok(&mut place.run(&["unmount", "drive"]));
    assert!(!is_mounted(&drive));
    // Without --owner-me what he may not read stays closed.
    place.ok(&mut place.run(&["--key-file", "key", "mount", "--background", "drive"]));
    let refused = place.command("cat").arg(&letter).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Permission denied"));
    place.ok(&mut place.run(&["unmount", "drive"]));
}
