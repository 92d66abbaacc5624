//! `mount`, `unmount`, `mounts`

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fs_core::time::Zone;
use fs_core::view::{Links, Owner, View, ViewOptions};
use mount_linux::{MountError, MountOptions, mounts};
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::args::{self, Global, Mount, Unmount};
use crate::error::{Exit, Failure};
use crate::output::Output;
use crate::session;

/// New snapshots in a folder appear within twice this time.
const REFRESH_EVERY: Duration = Duration::from_secs(2);

impl From<MountError> for Failure {
    fn from(error: MountError) -> Self {
        let mut message = error.to_string();
        if let Some(source) = std::error::Error::source(&error) {
            message.push_str(&format!(": {source}"));
        }
        Self::new(Exit::Failed, message)
            .hint("the mount point must be an empty folder of yours; /dev/fuse and fusermount3 (package fuse3) must be there")
    }
}

pub(crate) fn mount(global: &Global, options: &Mount, output: &Output) -> Result<Exit, Failure> {
    if options.background {
        return in_background(output);
    }
    let (repository, _) = session::open(global)?;
    let me = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let owner = if options.owner_me { Owner::Me { uid: me.0, gid: me.1 } } else { Owner::AsSaved };
    let state = session::state(global, &repository);
    let links = match options.links {
        args::Links::Raw => Links::Raw,
        args::Links::Inside => Links::Inside,
    };
    let view = View::new(repository, state.as_deref(), ViewOptions { owner, links, mounter: me, zone: Zone::system() })?;
    let mut forbidden = vec![session::location(global)?];
    forbidden.extend(session::cache_folder(global));
    let how = MountOptions { allow_other: options.allow_other, refresh_every: REFRESH_EVERY, forbidden };
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    if options.detached {
        let _ = rustix::process::setsid();
    }
    let mounted = mount_linux::mount(Arc::new(view), &options.folder, &how)?;
    let path = mounted.path().to_path_buf();
    let shown = path.display().to_string();
    output.show(|| format!("mounted on {shown}"), || json!({"type": "mounted", "path": shown}));
    if options.detached {
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null).map_err(std::io::Error::from)?;
        rustix::stdio::dup2_stdout(&null).map_err(std::io::Error::from)?;
        rustix::stdio::dup2_stderr(&null).map_err(std::io::Error::from)?;
    } else {
        output.message("press Ctrl-C to unmount");
    }
    let handle = signals.handle();
    let watcher = std::thread::spawn(move || {
        let mut signals = signals.forever();
        if signals.next().is_some() {
            // The drive disappears at once; whoever still has a file open may read it to the end.
            let _ = mounts::unmount(&path, true);
        }
        if signals.next().is_some() {
            // Asked twice: nobody is waited for. The kernel fails what is open when this process ends.
            std::process::exit(Exit::Interrupted.code().into());
        }
    });
    let result = mounted.wait();
    handle.close();
    let _ = watcher.join();
    result?;
    Ok(Exit::Done)
}

/// Starts this program again without a terminal, and waits until its drive is there.
fn in_background(output: &Output) -> Result<Exit, Failure> {
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--background" && argument != "-b");
    let mut child = Command::new(std::env::current_exe()?).args(arguments).arg("--detached").stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    if line.is_empty() {
        // It has said why.
        let status = child.wait()?;
        return Ok(Exit::from_code(status.code()));
    }
    output.raw(line.as_bytes());
    Ok(Exit::Done)
}

pub(crate) fn unmount(options: &Unmount, output: &Output) -> Result<Exit, Failure> {
    let wanted = mounts::absolute(&options.folder)?;
    if !mounts::list().iter().any(|mount| mount.path == wanted) {
        return Err(
            Failure::new(Exit::Failed, format!("no drive is mounted on {}", wanted.display())).hint("'yesterdrive mounts' lists them")
        );
    }
    mounts::unmount(&wanted, options.lazy).map_err(|error| {
        Failure::new(Exit::Failed, format!("{} cannot be unmounted: {error}", wanted.display()))
            .hint("leave the drive in all windows and shells, or use --lazy")
    })?;
    let shown = wanted.display().to_string();
    output.show(|| format!("unmounted {shown}"), || json!({"type": "unmounted", "path": shown}));
    Ok(Exit::Done)
}

pub(crate) fn list(output: &Output) -> Exit {
    for mount in mounts::list() {
        let (path, dead) = (mount.path.display().to_string(), mounts::is_dead(&mount.path));
        let note = if dead { "  dead: its program has ended; 'yesterdrive unmount' removes it" } else { "" };
        output.show(|| format!("{path}{note}"), || json!({"type": "mount", "path": path, "dead": dead}));
    }
    Exit::Done
}
