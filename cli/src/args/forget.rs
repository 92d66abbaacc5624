//! The flags of `forget`.

use backup_writer::retention::{Period, Policy, Rule, Which};
use fs_core::id::DeviceId;

use super::label;

#[derive(Debug, clap::Args)]
pub(crate) struct Forget {
    /// Forget these snapshots, by the beginning of their ids; or bring them back, with --undo
    #[arg(value_name = "SNAPSHOT", conflicts_with_all = Keep::FLAGS)]
    pub(crate) snapshots: Vec<String>,
    #[command(flatten)]
    pub(crate) keep: Keep,
    /// Bring back what was forgotten: the snapshots that are named, or all that the last run forgot. Works until they are swept
    #[arg(long, conflicts_with_all = Keep::FLAGS)]
    pub(crate) undo: bool,
    /// Only snapshots of this host
    #[arg(long)]
    pub(crate) host: Option<String>,
    /// Only snapshots of this set
    #[arg(long)]
    pub(crate) set: Option<String>,
    /// Only snapshots of this device, by the beginning of its id
    #[arg(long, value_name = "ID")]
    pub(crate) device: Option<String>,
    /// Say what would be forgotten, and why the others are kept, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Ask nobody: forget also named snapshots, and more than a tenth of those of a device and set
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// Rules. What one of them keeps is kept.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "What is kept, for each device, host and set; what one rule keeps is kept")]
pub(crate) struct Keep {
    /// 28+monthly (the last 28, all of the last 28 days, and the first of each month for ever), 28d, 14d, or rules with commas:
    /// last:10,within:30d,first-of-month:12,last-of-week:8,tag:NAME
    #[arg(long = "keep", value_name = "RULES", value_parser = policy)]
    rules: Vec<Policy>,
    /// The last N
    #[arg(long = "keep-last", value_name = "N", value_parser = Rule::last)]
    last: Option<Rule>,
    /// What was there at any moment of the last 36h, 28d, 8w, 6mo, 1y: all younger snapshots and the newest before them
    #[arg(long = "keep-within", value_name = "TIME", value_parser = Rule::within)]
    within: Option<Rule>,
    /// The first of each hour, day, week, month, quarter or year: of the newest N that have any, or of all
    #[arg(long = "keep-first-of", value_name = "PERIOD[:N]", value_parser = first_of)]
    first_of: Vec<Rule>,
    /// The last of each, in the same way
    #[arg(long = "keep-last-of", value_name = "PERIOD[:N]", value_parser = last_of)]
    last_of: Vec<Rule>,
    /// The last of each hour, of the newest N that have any, as in restic, borg and kopia; the same with --keep-last-of hour:N
    #[arg(long = "keep-hourly", value_name = "N")]
    hourly: Option<String>,
    /// The last of each day
    #[arg(long = "keep-daily", value_name = "N")]
    daily: Option<String>,
    /// The last of each week
    #[arg(long = "keep-weekly", value_name = "N")]
    weekly: Option<String>,
    /// The last of each month
    #[arg(long = "keep-monthly", value_name = "N")]
    monthly: Option<String>,
    /// The last of each quarter
    #[arg(long = "keep-quarterly", value_name = "N")]
    quarterly: Option<String>,
    /// The last of each year
    #[arg(long = "keep-yearly", value_name = "N")]
    yearly: Option<String>,
    /// All with this tag
    #[arg(long = "keep-tag", value_name = "TAG", value_parser = label)]
    tags: Vec<String>,
}

impl Keep {
    /// All flags, by their ids.
    const FLAGS: [&'static str; 12] =
        ["rules", "last", "within", "first_of", "last_of", "hourly", "daily", "weekly", "monthly", "quarterly", "yearly", "tags"];

    /// All rules together; those of the profile if none are given here. `None` if there are none at all.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub(crate) fn policy(&self, profile: Option<&str>) -> Result<Option<Policy>, String> {
        let mut rules: Vec<Rule> = self.rules.iter().flat_map(|policy| policy.rules().to_vec()).collect();
        rules.extend(self.last.iter().chain(&self.within).chain(&self.first_of).chain(&self.last_of).cloned());
        let counts = [&self.hourly, &self.daily, &self.weekly, &self.monthly, &self.quarterly, &self.yearly];
        for ((_, period), count) in Period::ALL.into_iter().zip(counts) {
            if let Some(count) = count {
                rules.push(last_of(&format!("{period}:{count}")).map_err(|reason| format!("the count for each {period}: {reason}"))?);
            }
        }
        rules.extend(self.tags.iter().map(|tag| Rule::Tagged(tag.clone())));
        match profile {
            Some(text) if rules.is_empty() => policy(text).map(Some).map_err(|reason| format!("the profile's keep: {reason}")),
            _ => Ok((!rules.is_empty()).then(|| Policy::new(rules))),
        }
    }
}

impl Forget {
    /// Whether a snapshot is of those that are asked about.
    pub(crate) fn is_about(&self, host: &str, set: &str, device: DeviceId) -> bool {
        let fits = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        let fits_device = self.device.as_ref().is_none_or(|wanted| device.to_string().starts_with(wanted));
        fits(&self.host, host) && fits(&self.set, set) && fits_device
    }
}

fn policy(text: &str) -> Result<Policy, String> {
    Policy::parse(text).map_err(|error| error.to_string())
}

fn first_of(text: &str) -> Result<Rule, String> {
    Rule::of(Which::First, text)
}

fn last_of(text: &str) -> Result<Rule, String> {
    Rule::of(Which::Last, text)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::args::{Args, Command};

    fn parsed(line: &[&str], profile: Option<&str>) -> Result<Option<String>, String> {
        let args = Args::try_parse_from([&["yesterdrive", "forget"], line].concat()).map_err(|error| error.to_string())?;
        let Command::Forget(forget) = args.command else { panic!() };
        Ok(forget.keep.policy(profile)?.map(|policy| policy.to_string()))
    }

    #[test]
    fn flags_are_rules() {
        for (line, rules) in [
            (&["--keep", "28+monthly"][..], "last:28,within:28d,first-of-month"),
            (&["--keep-last", "3", "--keep-within", "2w"], "last:3,within:14d"),
            (&["--keep-first-of", "month", "--keep-first-of", "year:2"], "first-of-month,first-of-year:2"),
            (&["--keep-hourly", "24", "--keep-yearly", "9"], "last-of-hour:24,last-of-year:9"),
            (&["--keep-quarterly", "4", "--keep-last-of", "day:1", "--keep-tag", "x"], "last-of-day:1,last-of-quarter:4,tag:x"),
        ] {
            assert_eq!(parsed(line, Some("14d")), Ok(Some(rules.into())));
        }
        assert_eq!(parsed(&[], Some("14d,last:2")), Ok(Some("within:14d,last:2".into())));
        assert_eq!(parsed(&[], None), Ok(None));
        for (line, says) in [
            (&["--keep", "monthly"][..], "first-of-month"),
            (&["--keep-last", "0"], "from 1 on"),
            (&["--keep-daily", "many"], "from 1 on"),
            (&["--keep-first-of", "moon"], "hour, day, week"),
            (&["abcd", "--keep-last", "3"], "cannot be used with"),
            (&["--undo", "--keep", "14d"], "cannot be used with"),
        ] {
            let error = parsed(line, None).unwrap_err();
            assert!(error.contains(says), "{line:?}: {error}");
        }
        assert!(parsed(&[], Some("soon")).unwrap_err().contains("profile"));
    }
}
