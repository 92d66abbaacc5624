//! The flags of `prune`.

use std::time::Duration;

use backup_writer::merge::GRACE;
use backup_writer::prune::{AGE, DELETE_PERCENT, PruneOptions};
use backup_writer::retention::Rule;
use fs_core::snapshot::mark::GRACE_LEAST;

use super::size;

#[derive(Debug, clap::Args)]
pub(crate) struct Prune {
    /// Say what would be deleted, condemned and packed anew, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How long what is condemned now stays before a later run deletes it: at least 48h (default: 7d)
    #[arg(long, value_name = "TIME", value_parser = at_least_48h)]
    grace: Option<Duration>,
    /// How long packs stay that no snapshot has named yet: as long as your longest first backup may take, at least 48h (default: 30d)
    #[arg(long, value_name = "TIME", value_parser = at_least_48h)]
    min_age: Option<Duration>,
    /// How many of all packs one run deletes at most (default: 20%)
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    max_delete: Option<u8>,
    /// How much is packed anew at most, in bytes: 0, 500M, 10G (default: all packs of which less than half is needed)
    #[arg(long, value_name = "BYTES", value_parser = size)]
    max_repack: Option<u64>,
    /// Give up for lost, and forget, the snapshots that the store does not list any more though nobody forgot them: without this nothing is pruned then
    #[arg(long)]
    missing_is_lost: bool,
}

impl Prune {
    pub(crate) fn options(&self) -> PruneOptions {
        PruneOptions {
            grace: self.grace.unwrap_or(GRACE),
            age: self.min_age.unwrap_or(AGE),
            delete_percent: self.max_delete.unwrap_or(DELETE_PERCENT),
            repack_bytes: self.max_repack.unwrap_or(u64::MAX),
            missing_is_lost: self.missing_is_lost,
        }
    }
}

pub(super) fn at_least_48h(text: &str) -> Result<Duration, String> {
    match Rule::within(text)? {
        Rule::Within(time) if time >= GRACE_LEAST => Ok(time),
        _ => Err("give at least 48h: a backup may be running meanwhile".into()),
    }
}

fn percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number.filter(|number| (1..=100).contains(number)).ok_or_else(|| "give a number from 1 to 100: 20%".into())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Command};

    fn parsed(line: &[&str]) -> Result<PruneOptions, String> {
        let args = Args::try_parse_from([&["yesterdrive", "prune"], line].concat()).map_err(|error| error.to_string())?;
        let Command::Prune(prune) = args.command else { panic!() };
        Ok(prune.options())
    }

    #[test]
    fn flags_have_bounds() {
        let usual = parsed(&[]).unwrap();
        assert_eq!((usual.grace.as_secs(), usual.age.as_secs(), usual.delete_percent), (7 * 86_400, 30 * 86_400, 20));
        assert_eq!(usual.repack_bytes, u64::MAX);
        let other = parsed(&["--grace", "2d", "--min-age", "48h", "--max-delete", "50%", "--max-repack", "10M"]).unwrap();
        assert_eq!((other.grace, other.age, other.delete_percent, other.repack_bytes), (GRACE_LEAST, GRACE_LEAST, 50, 10 << 20));
        assert_eq!(parsed(&["--max-delete", "7", "--max-repack", "0"]).unwrap().delete_percent, 7);
        for (line, says) in [
            (["--grace", "47h"], "at least 48h"),
            (["--min-age", "47h"], "at least 48h"),
            (["--grace", "soon"], "28d"),
            (["--max-delete", "0"], "1 to 100"),
            (["--max-delete", "101%"], "1 to 100"),
            (["--max-repack", "much"], "500M"),
        ] {
            let error = parsed(&line).unwrap_err();
            assert!(error.contains(says), "{line:?}: {error}");
        }
    }
}
