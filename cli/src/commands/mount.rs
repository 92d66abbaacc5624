//! `mount`, `unmount`, `mounts`

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::args::{Global, Mount, Unmount};
use crate::error::{Exit, Failure};
use crate::output::Output;
use crate::system::mounts;

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix::{mount_here, set_apart};
#[cfg(windows)]
use windows::{mount_here, set_apart};

pub(crate) fn mount(global: &Global, options: &Mount, output: &Output) -> Result<Exit, Failure> {
    if options.background { in_background(output) } else { mount_here(global, options, output) }
}

/// Starts this program again without a terminal, and waits until its drive is there.
fn in_background(output: &Output) -> Result<Exit, Failure> {
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--background" && argument != "-b");
    let mut program = Command::new(std::env::current_exe()?);
    set_apart(&mut program);
    let mut child = program.args(arguments).arg("--detached").stdout(Stdio::piped()).spawn()?;
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
    let Some(folder) = &options.folder else {
        for mount in mounts::list() {
            unmount_one(&mount.path, options.lazy, output)?;
        }
        return Ok(Exit::Done);
    };
    let wanted = mounts::absolute(folder)?;
    if !mounts::is_mounted(&wanted) {
        return Err(
            Failure::new(Exit::Failed, format!("no drive is mounted on {}", wanted.display())).hint("'yesterdrive mounts' lists them")
        );
    }
    unmount_one(&wanted, options.lazy, output)?;
    Ok(Exit::Done)
}

fn unmount_one(path: &Path, lazily: bool, output: &Output) -> Result<(), Failure> {
    mounts::unmount(path, lazily).map_err(|error| {
        Failure::new(Exit::Failed, format!("{} cannot be unmounted: {error}", path.display()))
            .hint("leave the drive in all windows and shells, or use --lazy")
    })?;
    let shown = path.display().to_string();
    output.show(|| format!("unmounted {shown}"), || json!({"type": "unmounted", "path": shown}));
    Ok(())
}

pub(crate) fn list(output: &Output) -> Exit {
    for mount in mounts::list() {
        let (path, dead) = (mount.path.display().to_string(), mounts::is_dead(&mount.path));
        let note = if dead { "  dead: its program has ended; 'yesterdrive unmount' removes it" } else { "" };
        output.show(|| format!("{path}{note}"), || json!({"type": "mount", "path": path, "dead": dead}));
    }
    Exit::Done
}
