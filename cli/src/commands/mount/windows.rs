//! The drive on Windows.

use std::os::windows::process::CommandExt as _;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use fs_core::time::Zone;
use fs_core::view::{Links, Owner, View, ViewOptions};
use mount_windows::place::{Spot, SpotError};
use mount_windows::{ATTRIBUTION, MountError, MountOptions};
use serde_json::json;

use crate::args::{Global, Mount};
use crate::error::{Exit, Failure};
use crate::output::Output;
use crate::session;

/// New snapshots in a folder appear within twice this time.
const REFRESH_LOCAL: Duration = Duration::from_secs(2);
/// The same for a store that is asked over a network.
const REFRESH_REMOTE: Duration = Duration::from_secs(30);
/// `DETACHED_PROCESS`
const WITHOUT_CONSOLE: u32 = 0x8;

impl From<MountError> for Failure {
    fn from(error: MountError) -> Self {
        let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        Self::new(Exit::Failed, format!("{error}{source}"))
    }
}

impl From<SpotError> for Failure {
    fn from(error: SpotError) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

/// Mounts a drive and waits until it is unmounted.
pub(super) fn mount_here(global: &Global, options: &Mount, output: &Output) -> Result<Exit, Failure> {
    let spot = Spot::parse(&options.folder.to_string_lossy())?;
    // Before a password is asked for.
    mount_windows::load_library()?;
    let (repository, _) = session::open_cached(global)?;
    let state = session::state(global, &repository);
    // Absolute targets of another machine mean nothing here: links always stay in their snapshot.
    let how = ViewOptions { owner: Owner::AsSaved, links: Links::Inside, mounter: (0, 0), zone: Zone::system() };
    let view = View::new(repository, state.as_deref(), how)?;
    let is_far = !session::address(global)?.is_local();
    let refresh_every = if is_far { REFRESH_REMOTE } else { REFRESH_LOCAL };
    let how = MountOptions { spot, allow_other: options.allow_other, refresh_every, is_far };
    let mounted = mount_windows::mount(Arc::new(view), &how)?;
    let shown = mounted.spot().to_string();
    output.show(|| format!("mounted on {shown}"), || json!({"type": "mounted", "path": shown}));
    if !options.detached {
        output.message(&format!("press Ctrl-C to unmount\n{ATTRIBUTION}"));
    }
    mounted.wait()?;
    Ok(Exit::Done)
}

/// A program that stays when the window is closed in which it was started.
pub(super) fn set_apart(command: &mut Command) {
    command.creation_flags(WITHOUT_CONSOLE);
}
