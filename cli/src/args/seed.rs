//! Flags of `seed`.

use std::path::PathBuf;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Seed {
    /// Put the whole repository onto a disk, and read back what was put: to be carried to its store, or home from there
    Export(SeedDisk),
    /// Put what a disk brought into the repository's place, which may be empty
    Import(SeedDisk),
}

#[derive(Debug, clap::Args)]
pub(crate) struct SeedDisk {
    /// A folder on the disk
    #[arg(value_name = "FOLDER")]
    pub(crate) disk: PathBuf,
    /// Read and prove everything on both sides, also what was there already
    #[arg(long)]
    pub(crate) verify: bool,
}
