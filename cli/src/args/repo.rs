//! Flags of `repo`.

use std::path::PathBuf;
use std::time::Duration;

use backup_writer::retention::Rule;

/// What becomes of it.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Repo {
    /// Announce its end: nothing is saved any more, and everything can still be fetched for a while
    Close {
        /// How long
        #[arg(long, value_name = "TIME", default_value = "14d", value_parser = time)]
        grace: Duration,
        /// Take it back: it goes on as before
        #[arg(long, conflicts_with = "grace")]
        undo: bool,
    },
    /// Delete everything in a repository that was closed for long enough, and prove it
    Destroy {
        /// The id of the repository, so that it is no other; asked for in a terminal
        #[arg(long, value_name = "ID")]
        confirm: Option<String>,
        /// Write what was deleted into this file too
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
    },
}

fn time(text: &str) -> Result<Duration, String> {
    match Rule::within(text)? {
        Rule::Within(time) => Ok(time),
        _ => Err("give a time: 14d".into()),
    }
}
