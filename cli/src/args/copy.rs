//! Flags of `copy`.

use std::path::PathBuf;
use std::time::Duration;

use super::backup::CompressionChoice;
use super::{Nice, prune};

#[derive(Debug, clap::Args)]
pub(crate) struct Copy {
    /// Where the copy is, or is to be: a folder or the address of a store. Several may be named
    #[arg(long, value_name = "ADDRESS", required = true)]
    pub(crate) to: Vec<String>,
    /// Say what would be copied, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Read and prove everything on both sides, not only what is copied and, of folders, one object in fifty
    #[arg(long)]
    pub(crate) verify: bool,
    /// Only report what is damaged on one side; without this it is replaced by what is sound on the other
    #[arg(long)]
    pub(crate) no_heal: bool,
    /// Put back into the repository what only the copy has. What a prune deleted comes back too, and goes with the next one
    #[arg(long)]
    pub(crate) bring_back: bool,
    /// Copy new snapshots also while something of the repository is damaged that they may need: the copy is then no better
    #[arg(long)]
    pub(crate) despite_damage: bool,
    /// Delete in the copy what has been missing from the repository for so long, as seen by runs of this machine: 30d, at least 48h (default: nothing is deleted)
    #[arg(long, value_name = "TIME", value_parser = prune::at_least_48h, conflicts_with = "bring_back")]
    pub(crate) delete_after: Option<Duration>,
    /// Let others go first (auto: without a terminal)
    #[arg(long, value_enum, default_value_t, value_name = "auto|yes|no")]
    pub(crate) nice: Nice,
    #[command(flatten)]
    pub(crate) snapshots: SnapshotFlags,
}

/// Copying what snapshots hold, and not the objects that hold it.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Snapshots into a repository with other keys")]
pub(crate) struct SnapshotFlags {
    /// Copy these snapshots, or all, into another repository that is there already and has keys of its own: opened here, sealed anew there
    #[arg(
        long = "snapshots",
        value_name = "SNAPSHOT,…",
        num_args = 0..,
        require_equals = true,
        value_delimiter = ',',
        conflicts_with_all = ["verify", "no_heal", "bring_back", "despite_damage", "delete_after"]
    )]
    pub(crate) wanted: Option<Vec<String>>,
    /// A file whose first line is the password of the other repository
    #[arg(long, requires = "wanted", value_name = "FILE")]
    pub(crate) to_password_file: Option<PathBuf>,
    /// A key file of the other repository
    #[arg(long, requires = "wanted", conflicts_with = "to_password_file", value_name = "FILE")]
    pub(crate) to_key_file: Option<PathBuf>,
    /// How hard to compress contents there (default: auto)
    #[arg(long, requires = "wanted", value_enum, value_name = "auto|fast|max|none")]
    pub(crate) compression: Option<CompressionChoice>,
}
