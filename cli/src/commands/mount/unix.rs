//! The drive on Unix.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use fs_core::time::Zone;
use fs_core::view::{Links, Owner, View, ViewOptions};
use mount_linux::{MountError, MountOptions};
use serde_json::json;

use crate::args::{self, Global, Mount};
use crate::error::{Exit, Failure};
use crate::output::Output;
use crate::session;
use crate::signals::{self, OnSignal};
use crate::system;

/// New snapshots in a folder appear within twice this time.
const REFRESH_LOCAL: Duration = Duration::from_secs(2);
/// The same for a store that is asked over a network.
const REFRESH_REMOTE: Duration = Duration::from_secs(30);

/// How far the kernel should read ahead where a request takes its time.
const READ_AHEAD_KIB: u32 = 1024;

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

/// Mounts a drive and waits until it is unmounted.
pub(super) fn mount_here(global: &Global, options: &Mount, output: &Output) -> Result<Exit, Failure> {
    mount_linux::spare_memory();
    let (repository, _) = session::open_cached(global)?;
    let me = system::me();
    let owner = if options.owner_me { Owner::Me { uid: me.0, gid: me.1 } } else { Owner::AsSaved };
    let state = session::state(global, &repository);
    let links = match options.links {
        args::Links::Raw => Links::Raw,
        args::Links::Inside => Links::Inside,
    };
    let view = View::new(repository, state.as_deref(), ViewOptions { owner, links, mounter: me, zone: Zone::system() })?;
    let forbidden = session::own_folders(global)?;
    let is_local = session::address(global)?.is_local();
    let (refresh_every, read_ahead_kib) = if is_local { (REFRESH_LOCAL, None) } else { (REFRESH_REMOTE, Some(READ_AHEAD_KIB)) };
    let how = MountOptions { allow_other: options.allow_other, refresh_every, read_ahead_kib, forbidden };
    if options.detached {
        let _ = rustix::process::setsid();
    }
    // From before the mount on: a program killed between the two would leave a dead drive.
    signals::set(OnSignal::Unmount(std::path::absolute(&options.folder)?))?;
    let mounted = mount_linux::mount(Arc::new(view), &options.folder, &how)?;
    let path = mounted.path().to_path_buf();
    let shown = path.display().to_string();
    signals::set(OnSignal::Unmount(path))?;
    output.show(|| format!("mounted on {shown}"), || json!({"type": "mounted", "path": shown}));
    if options.detached {
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null).map_err(std::io::Error::from)?;
        rustix::stdio::dup2_stdout(&null).map_err(std::io::Error::from)?;
        rustix::stdio::dup2_stderr(&null).map_err(std::io::Error::from)?;
    } else {
        output.message("press Ctrl-C to unmount");
    }
    mounted.wait()?;
    Ok(Exit::Done)
}

/// It sets itself apart: see `--detached`.
pub(super) fn set_apart(_command: &mut Command) {}
