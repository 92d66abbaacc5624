//! Flags of `init` and `key`.

use std::path::PathBuf;

use clap::Subcommand;
use fs_core::key::Role;

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Init {
    /// Also make a key file, for services and scripts
    #[arg(long, value_name = "FILE")]
    pub(crate) new_key_file: Option<PathBuf>,
    /// Write the recovery sheet into this file: for printing if it ends in .pdf, else as text
    #[arg(long, visible_alias = "recovery-sheet", value_name = "FILE")]
    pub(crate) sheet: Option<PathBuf>,
    /// Make no recovery code: without password and key files, all is lost
    #[arg(long, visible_alias = "i-accept-loss")]
    pub(crate) accept_loss: bool,
    /// Take a password that is short or easy to guess
    #[arg(long)]
    pub(crate) weak_password: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// List the keys: name, kind, role, when they were made and when their passwords were changed
    List,
    /// Add a key: a password, or a key file
    Add {
        /// Its name, which no other key has (default: what it is)
        #[arg(long, visible_alias = "label", value_parser = name)]
        name: Option<String>,
        /// Make a key file instead of asking for a password
        #[arg(long, value_name = "FILE")]
        new_key_file: Option<PathBuf>,
        /// A file whose first line is the new password
        #[arg(long, value_name = "FILE", conflicts_with = "new_key_file")]
        new_password_file: Option<PathBuf>,
        /// Take a password that is short or easy to guess
        #[arg(long)]
        weak_password: bool,
    },
    /// Give a device a key file of its own, which can do only what its role needs
    ///
    /// A writer backs up and opens nothing, not even what it saved itself. A reader mounts and restores. A maintainer forgets, prunes and copies, and sees names
    /// and sizes and no contents. 'yesterdrive key remove NAME' revokes it.
    Enrol {
        /// Its name, which no other key has: that of the machine or of whoever uses it
        #[arg(value_parser = name)]
        name: String,
        /// What it may do
        #[arg(long, value_enum)]
        role: DeviceRole,
        /// Where its key file is written; bring it to the device on a safe way, and use it there with --key-file
        #[arg(long, value_name = "FILE")]
        new_key_file: PathBuf,
        /// Let a writer rely on what other devices have stored, so that nothing is stored twice. It cannot see whether it is there: only where all are trusted
        #[arg(long)]
        trusts_others: bool,
    },
    /// Remove a key: it opens the repository no more. A device that was enrolled is revoked with it
    ///
    /// Whoever used it may have kept the keys inside, or a copy of it, and can then read what was and what will be saved, as long as they reach the store.
    /// To lock somebody out, change the access to the store too; what is saved into a new repository is out of their reach.
    Remove {
        /// Its name, or the beginning of its id, from `key list`
        #[arg(value_name = "NAME|ID")]
        key: String,
    },
    /// Change a password: the repository is opened with the old one, and the key keeps its name
    Password {
        /// A file whose first line is the new password
        #[arg(long, value_name = "FILE")]
        new_password_file: Option<PathBuf>,
        /// Take a password that is short or easy to guess
        #[arg(long)]
        weak_password: bool,
    },
    /// Make another recovery code with its sheet. Older ones stay until they are removed
    Recovery {
        /// Its name, which no other key has (default: what it is)
        #[arg(long, value_parser = name)]
        name: Option<String>,
        /// Write the sheet into this file, for printing if it ends in .pdf, else as text, instead of standard error
        #[arg(long, value_name = "FILE")]
        sheet: Option<PathBuf>,
    },
    /// Let the system's keyring hold the password until this machine restarts; --keyring then opens the repository
    Remember {
        /// Let it forget the password
        #[arg(long)]
        remove: bool,
    },
}

/// Roles that a device can be given.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum DeviceRole {
    /// Backs up, opens nothing
    Writer,
    /// Mounts and restores
    Reader,
    /// Forgets, prunes and copies, opens no contents
    Maintainer,
}

impl From<DeviceRole> for Role {
    fn from(role: DeviceRole) -> Self {
        match role {
            DeviceRole::Writer => Self::Writer,
            DeviceRole::Reader => Self::Reader,
            DeviceRole::Maintainer => Self::Maintainer,
        }
    }
}

/// Names of keys are shown in lists, and have to fit into a slot.
fn name(text: &str) -> Result<String, String> {
    const LENGTH_MAX: usize = fs_core::key::slot::LABEL_LENGTH_MAX;
    match super::label(text) {
        Ok(name) if name.len() > LENGTH_MAX => Err(format!("it has more than {LENGTH_MAX} bytes")),
        checked => checked,
    }
}
