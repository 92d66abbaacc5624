//! All flags. The only file that reads the environment, through `clap`.

use std::path::PathBuf;

use backup_writer::check::ReadData;
use clap::{Parser, Subcommand, ValueEnum};

/// Encrypted, deduplicated backups shown as a drive.
#[derive(Debug, Parser)]
#[command(name = "yesterdrive", version, about, max_term_width = 100, args_override_self = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Global {
    /// The repository: a folder
    #[arg(short, long, global = true, env = "YESTERDRIVE_REPOSITORY", hide_env_values = true, value_name = "PATH")]
    pub(crate) repository: Option<String>,
    /// A file whose first line is the password
    #[arg(long, global = true, env = "YESTERDRIVE_PASSWORD_FILE", value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// A command whose first line of output is the password
    #[arg(long, global = true, env = "YESTERDRIVE_PASSWORD_COMMAND", hide_env_values = true, value_name = "COMMAND")]
    pub(crate) password_command: Option<String>,
    /// A key file
    #[arg(long, global = true, env = "YESTERDRIVE_KEY_FILE", value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// A file with the 24 words of the recovery code
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) recovery_file: Option<PathBuf>,
    /// The password itself comes from the environment only: a command line can be read by others
    #[arg(skip)]
    pub(crate) password: Option<String>,
    /// Where this machine keeps what it remembers of repositories
    #[arg(long, global = true, env = "YESTERDRIVE_CACHE_DIR", value_name = "FOLDER")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// The user's folder for caches, by the rules of the system
    #[arg(long, hide = true, env = "XDG_CACHE_HOME")]
    pub(crate) system_cache_dir: Option<PathBuf>,
    /// The user's home folder
    #[arg(long, hide = true, env = "HOME")]
    pub(crate) home: Option<PathBuf>,
    /// One JSON record per line on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No progress
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// More messages
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a repository and print its recovery sheet
    Init(Init),
    /// Take a snapshot
    Backup(Backup),
    /// List snapshots
    Snapshots(Snapshots),
    /// List a folder of a snapshot
    Ls(Ls),
    /// Write a file of a snapshot to standard output
    Cat(Cat),
    /// Copy a snapshot, or a part of one, back to a folder
    Restore(Restore),
    /// Check that everything the snapshots need is there and opens
    Check(Check),
    /// Show all snapshots as a drive
    Mount(Mount),
    /// Take a drive away
    Unmount(Unmount),
    /// List the drives
    Mounts,
    /// Try it: save a folder into a new repository and show it as a drive
    Try(Try),
    /// Who may open the repository
    #[command(subcommand)]
    Key(Key),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder
    Man {
        /// The folder
        folder: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Init {
    /// Also make a key file, for services and scripts
    #[arg(long, value_name = "FILE")]
    pub(crate) new_key_file: Option<PathBuf>,
    /// Write the recovery sheet into a file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) recovery_sheet: Option<PathBuf>,
    /// Make no recovery code: without password and key files, all is lost
    #[arg(long)]
    pub(crate) accept_loss: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Backup {
    /// What to save
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// File the snapshot under this set
    #[arg(long, default_value = "")]
    pub(crate) set: String,
    /// Add a tag
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// File the snapshot under this host name
    #[arg(long)]
    pub(crate) host: Option<String>,
    /// Read all files, also those that look unchanged
    #[arg(long)]
    pub(crate) reread: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Select {
    /// Only snapshots of this host
    #[arg(long)]
    pub(crate) host: Option<String>,
    /// Only snapshots of this set
    #[arg(long)]
    pub(crate) set: Option<String>,
    /// Only snapshots with this tag
    #[arg(long)]
    pub(crate) tag: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Snapshots {
    #[command(flatten)]
    pub(crate) select: Select,
    /// Only the newest so many
    #[arg(long, value_name = "COUNT")]
    pub(crate) last: Option<usize>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// `latest`, or the beginning of a snapshot's id
    #[arg(default_value = "latest")]
    pub(crate) snapshot: String,
    /// A folder in it
    #[arg(default_value = "/")]
    pub(crate) path: PathBuf,
    /// Everything below too
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// With modes, owners, sizes and times
    #[arg(short, long)]
    pub(crate) long: bool,
    #[command(flatten)]
    pub(crate) select: Select,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Cat {
    /// `latest`, or the beginning of a snapshot's id
    pub(crate) snapshot: String,
    /// The file
    pub(crate) path: PathBuf,
    #[command(flatten)]
    pub(crate) select: Select,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum OverwriteChoice {
    /// Leave what is there
    Never,
    /// Replace what differs in size or time
    Changed,
    /// Replace what is older
    Newer,
    /// Replace everything
    Always,
    /// Write beside what is there
    KeepBoth,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    /// `latest` or the beginning of a snapshot's id, then `:` and a path, for instance `latest:/home/anna/letter.odt`
    pub(crate) what: String,
    /// The folder to restore into
    #[arg(long, value_name = "FOLDER")]
    pub(crate) to: PathBuf,
    /// What to do with what is there already
    #[arg(long, value_enum, default_value = "changed")]
    pub(crate) overwrite: OverwriteChoice,
    /// Read every restored file again and compare its hash
    #[arg(long)]
    pub(crate) verify: bool,
    /// Everything belongs to me
    #[arg(long)]
    pub(crate) as_me: bool,
    /// Say what would be done and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) select: Select,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// Read all data
    #[arg(long, conflicts_with = "read_data_subset")]
    pub(crate) read_data: bool,
    /// Read the n-th of m parts of the data: `1/30` today, `2/30` tomorrow
    #[arg(long, value_name = "N/M", value_parser = subset)]
    pub(crate) read_data_subset: Option<ReadData>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Links {
    /// As saved: absolute ones lead to the live system
    Raw,
    /// Rewritten so that following one stays in the snapshot
    Inside,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Mount {
    /// An empty folder; made if it is not there
    pub(crate) folder: PathBuf,
    /// Return when the drive is there
    #[arg(short, long)]
    pub(crate) background: bool,
    /// Show everything as mine and readable
    #[arg(long)]
    pub(crate) owner_me: bool,
    /// Let other users in, by the saved permissions
    #[arg(long)]
    pub(crate) allow_other: bool,
    /// Where symbolic links lead: where they say, or into their snapshot
    #[arg(long, value_enum, default_value_t = Links::Raw, value_name = "raw|inside")]
    pub(crate) links: Links,
    /// What `--background` starts
    #[arg(long, hide = true)]
    pub(crate) detached: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Unmount {
    /// The drive
    pub(crate) folder: PathBuf,
    /// Also while somebody uses it
    #[arg(long)]
    pub(crate) lazy: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Try {
    /// What to save
    pub(crate) folder: PathBuf,
    /// Where to keep repository, key and drive
    #[arg(long, value_name = "FOLDER")]
    pub(crate) at: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// List the keys
    List,
    /// Add a key: a password, or a key file
    Add {
        /// Its name
        #[arg(long, default_value = "")]
        label: String,
        /// Make a key file instead of asking for a password
        #[arg(long, value_name = "FILE")]
        new_key_file: Option<PathBuf>,
        /// A file whose first line is the new password
        #[arg(long, value_name = "FILE")]
        new_password_file: Option<PathBuf>,
    },
    /// Remove a key. Who kept a copy of it and knows its password can still read what was saved
    Remove {
        /// Its id, from `key list`
        id: String,
    },
    /// Change a password: adds the new one and removes the one that was used
    Password {
        /// A file whose first line is the new password
        #[arg(long, value_name = "FILE")]
        new_password_file: Option<PathBuf>,
    },
    /// Make another recovery code
    Recovery,
}

impl Args {
    /// The command line, and from the environment what must never stand on one.
    pub(crate) fn read() -> Self {
        let mut args = Self::parse();
        #[expect(clippy::disallowed_methods, reason = "this is the file that reads the environment")]
        let password = std::env::var("YESTERDRIVE_PASSWORD");
        args.global.password = password.ok().filter(|password| !password.is_empty());
        args
    }
}

impl Global {
    /// The same with no way to open a repository: what is asked for next is a new secret.
    pub(crate) fn without_credentials(&self) -> Self {
        Self { password_file: None, password_command: None, key_file: None, recovery_file: None, password: None, ..self.clone() }
    }

    /// The same for another repository that a key file opens.
    pub(crate) fn for_repository(&self, repository: PathBuf, key_file: PathBuf) -> Self {
        let repository = Some(repository.to_string_lossy().into_owned());
        Self { repository, key_file: Some(key_file), ..self.without_credentials() }
    }
}

fn subset(text: &str) -> Result<ReadData, String> {
    let parts = text.split_once('/').map(|(n, m)| (n.parse::<u64>(), m.parse::<u64>()));
    match parts {
        Some((Ok(n), Ok(m))) if 1 <= n && n <= m => Ok(ReadData::Part { n, m }),
        _ => Err("give two numbers, the first not larger than the second: 1/30".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn subsets() {
        assert_eq!(subset("3/30"), Ok(ReadData::Part { n: 3, m: 30 }));
        for bad in ["0/3", "4/3", "x/3", "3", "1/2/3", "-1/3"] {
            assert!(subset(bad).is_err(), "{bad}");
        }
    }
}
