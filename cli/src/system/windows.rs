//! Windows.

use std::fs::{Metadata, OpenOptions};
use std::io::IsTerminal as _;
use std::os::windows::io::{AsHandle as _, OwnedHandle};
use std::path::Path;
use std::process::Stdio;

pub(crate) use backup_writer::system::{on_interrupt, yield_to_others};

pub(crate) mod mounts;

/// Windows writes no dumps of programs unless an administrator wants them.
pub(crate) fn keep_secrets_in_memory() {}

/// Windows has no limit that matters.
pub(crate) fn allow_many_files() {}

/// The name of this machine.
pub(crate) fn host_name() -> String {
    backup_writer::system::host_name().unwrap_or_else(|| "windows".into())
}

/// Nobody has a number.
pub(crate) fn me() -> (u32, u32) {
    (0, 0)
}

/// The console sets itself again when a program ends.
pub(crate) struct Terminal;

impl Terminal {
    /// How it is set now.
    pub(crate) fn now() -> std::io::Result<Self> {
        Ok(Self)
    }

    /// Sets it so again.
    pub(crate) fn restore(&self) {}
}

/// Standard input once more; `None` if it is a terminal.
pub(crate) fn standard_input() -> std::io::Result<Option<OwnedHandle>> {
    let input = std::io::stdin();
    if input.is_terminal() { Ok(None) } else { Ok(Some(input.as_handle().try_clone_to_owned()?)) }
}

/// Standard error for a command to write to.
pub(crate) fn standard_error() -> std::io::Result<Stdio> {
    Ok(std::io::stderr().as_handle().try_clone_to_owned()?.into())
}

/// Files have the access list that their folder hands down: in the folders of a user that is the user's own.
pub(crate) fn for_owner_only(_options: &mut OpenOptions) {}

/// Access lists are not looked into.
pub(crate) fn is_open_to_others(_metadata: &Metadata) -> Option<&'static str> {
    None
}

/// Windows makes names durable on its own.
pub(crate) fn sync_folder(_folder: &Path) -> std::io::Result<()> {
    Ok(())
}
