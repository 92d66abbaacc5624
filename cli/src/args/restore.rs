//! The flags of `restore` and `export`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::ValueEnum;

use super::Select;

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
    /// `latest` or the beginning of a snapshot's id, and after a `:` a path in it, for instance `latest:/home/anna/letter.odt`; or a path inside of a drive; or a path
    /// of this machine, as it was saved last. Of one folder the contents are restored, of several things each under its name
    #[arg(required = true, value_name = "SNAPSHOT[:PATH]|PATH")]
    pub(crate) whats: Vec<OsString>,
    /// The folder to restore into
    #[arg(long, value_name = "FOLDER")]
    pub(crate) to: PathBuf,
    /// What to do with what is there already
    #[arg(long, value_enum, default_value = "changed")]
    pub(crate) overwrite: OverwriteChoice,
    /// Of large files that are to be replaced write only the parts that differ, where they stand. Without it a file is replaced at once when its new content is
    /// complete; with it a file is old in part and new in part meanwhile, and after an interruption until the restore is run again
    #[arg(long)]
    pub(crate) in_place: bool,
    /// Restore only what fits this pattern, written as in .gitignore and counted from what is restored: '*.odt', '/home/anna'
    #[arg(short, long, value_name = "PATTERN")]
    pub(crate) include: Vec<String>,
    /// Leave out what fits this pattern
    #[arg(short, long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
    /// Read every restored file again from the disk and compare its hash
    #[arg(long)]
    pub(crate) verify: bool,
    /// Everything belongs to me
    #[arg(long)]
    pub(crate) as_me: bool,
    /// Give files to the saved user and group numbers, also where somebody else has their names
    #[arg(long)]
    pub(crate) numeric_ids: bool,
    /// Say what would be done and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) select: Select,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ArchiveFormat {
    /// With everything that Linux knows of a file (POSIX.1-2001)
    Tar,
    /// For everybody: contents, modes, times of modification and links
    Zip,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// `latest` or the beginning of a snapshot's id, and after a `:` a path in it; or a path inside of a drive; or a path of this machine, as it was saved last.
    /// Of one folder the contents are exported, of several things each under its name
    #[arg(required = true, value_name = "SNAPSHOT[:PATH]|PATH")]
    pub(crate) whats: Vec<OsString>,
    /// The form of the archive
    #[arg(long, value_enum, default_value = "tar")]
    pub(crate) format: ArchiveFormat,
    /// Write to this file (default: standard output)
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Only what fits this pattern, written as in .gitignore and counted from what is exported: '*.odt', '/home/anna'
    #[arg(short, long, value_name = "PATTERN")]
    pub(crate) include: Vec<String>,
    /// Leave out what fits this pattern
    #[arg(short, long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
    #[command(flatten)]
    pub(crate) select: Select,
}
