//! Flags of `repair`.

/// What is repaired.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Repair {
    /// The index: records of packs that it does not know are entered, by what the packs themselves say
    Index(RepairIndex),
}

/// How.
#[derive(Debug, clap::Args)]
pub(crate) struct RepairIndex {
    /// Look into every pack, also those that the index names: one request for each
    #[arg(long)]
    pub(crate) all: bool,
    /// Then put small parts of the index together, and delete those that were replaced seven days ago or more. Takes the owner's or a maintainer's key
    #[arg(long)]
    pub(crate) merge: bool,
}
