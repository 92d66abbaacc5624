//! The flags of `backup`, completed by the profile.

use std::path::PathBuf;

use backup_writer::pause::Hours;
use backup_writer::source::rules::{Line, Marker, PatternError, Patterns, Rules, lines_of};
use backup_writer::source::stream::{EndMark, Input, Stream};
use fs_core::compress::Compression;
use fs_core::path::Name;
use fs_core::time::{Clock as _, SystemClock, Timestamp, Zone};

use super::{label, size};
use crate::config::{self, Profile};
use crate::error::{Exit, Failure};
use crate::report::ReportFile;

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Backup {
    /// What to save (default: what the profile names)
    #[arg(value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// File the snapshot under this set (default: one for each profile or list of paths)
    #[arg(long, value_parser = label)]
    pub(crate) set: Option<String>,
    /// Add a tag
    #[arg(long = "tag", value_name = "TAG", value_parser = label)]
    pub(crate) tags: Vec<String>,
    /// File the snapshot under this host name
    #[arg(long, value_parser = label)]
    pub(crate) host: Option<String>,
    /// Read all files, also those that look unchanged
    #[arg(long)]
    pub(crate) reread: bool,
    /// On Windows: read files where they are. Otherwise an administrator's backup makes shadow copies, which hold also what other programs have open
    #[arg(long)]
    pub(crate) no_shadow_copies: bool,
    /// Say what a backup would do and write nothing, neither to the repository nor on this machine. Files that look new or changed are read, so what would be
    /// new is counted exactly and takes the time of a backup without its upload; hooks are not run, commands that print what is to be saved are
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Write the report of the run with the list of files: a name in .txt, .csv, .html or .json. What stands there is replaced
    #[arg(long = "report", value_name = "FILE", value_parser = ReportFile::parse)]
    pub(crate) reports: Vec<ReportFile>,
    #[command(flatten)]
    pub(crate) other: SourceFlags,
    /// Run this before: a snapshot of the file system, a pause of a service. If it fails, nothing is saved
    #[arg(long, value_name = "COMMAND")]
    pub(crate) before: Option<String>,
    /// Save also if the command before fails
    #[arg(long)]
    pub(crate) before_may_fail: bool,
    /// Run this afterwards, whatever happened
    #[arg(long, value_name = "COMMAND")]
    pub(crate) after: Option<String>,
    /// How hard to compress contents; max takes ten times as long as auto (default: auto)
    #[arg(long, value_enum, value_name = "auto|fast|max|none")]
    pub(crate) compression: Option<CompressionChoice>,
    /// Read and send nothing at these hours: 08:00-18:00, 'mon-fri 08:00-18:00'; may be given several times
    #[arg(long = "pause", value_name = "HOURS", value_parser = Hours::parse)]
    pub(crate) pauses: Vec<Hours>,
    /// Let others go first: lower priority, and what is read does not push theirs out of the system's cache (auto: without a terminal)
    #[arg(long, value_enum, default_value_t, value_name = "auto|yes|no")]
    pub(crate) nice: Nice,
    #[command(flatten)]
    pub(crate) rule_flags: RuleFlags,
    /// What the profile's commands print.
    #[arg(skip)]
    pub(crate) commands: Vec<config::Dump>,
    /// What is left out.
    #[arg(skip)]
    pub(crate) rules: Rules,
}

/// How hard to compress.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CompressionChoice {
    /// As a rule.
    #[default]
    Auto,
    /// For fast disks and lines.
    Fast,
    /// For slow lines and dear space: several times the processor time.
    Max,
    /// For what is compressed already.
    None,
}

impl From<CompressionChoice> for Compression {
    fn from(choice: CompressionChoice) -> Self {
        match choice {
            CompressionChoice::Auto => Self::Auto,
            CompressionChoice::Fast => Self::Fast,
            CompressionChoice::Max => Self::Max,
            CompressionChoice::None => Self::None,
        }
    }
}

/// When to let others go first.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Nice {
    /// Where nobody looks on.
    #[default]
    Auto,
    /// Always.
    Yes,
    /// Never.
    No,
}

/// Sources that are no plain paths.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Other sources")]
pub(crate) struct SourceFlags {
    /// Show a PATH at this place of the snapshot, for snapshots of a file system: one for each PATH, in order
    #[arg(long = "as", value_name = "PLACE")]
    pub(crate) shown_as: Vec<PathBuf>,
    /// Save a block device as a file of its size
    #[arg(long = "device", value_name = "DEVICE")]
    pub(crate) devices: Vec<PathBuf>,
    /// Save standard input as stdin/NAME
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub(crate) stdin: Option<Name>,
    /// Save what this command prints as stdin/NAME; if it fails, there is no snapshot
    #[arg(long = "command", value_name = "COMMAND")]
    pub(crate) commands: Vec<String>,
    /// The NAME for each --command, in order
    #[arg(long = "name", value_name = "NAME", value_parser = name)]
    pub(crate) names: Vec<Name>,
    /// What is read must end with this (known for mysqldump, mariadb-dump, pg_dump, pg_dumpall)
    #[arg(long, value_name = "TEXT", conflicts_with = "no_end_mark")]
    pub(crate) end_mark: Option<String>,
    /// Expect no mark at the end of a dump
    #[arg(long)]
    pub(crate) no_end_mark: bool,
    /// What is read may be empty
    #[arg(long)]
    pub(crate) allow_empty: bool,
}

impl SourceFlags {
    fn is_empty(&self) -> bool {
        self.devices.is_empty() && self.stdin.is_none() && self.commands.is_empty()
    }

    /// All that is read from elsewhere than the file system. `input` is standard input.
    pub(crate) fn streams(&self, input: impl FnOnce() -> Result<Input, Failure>) -> Result<Vec<Stream>, Failure> {
        if self.commands.len() != self.names.len() {
            let message = format!("{} commands and {} names were given", self.commands.len(), self.names.len());
            return Err(Failure::new(Exit::Usage, message).hint("give each --command its --name"));
        }
        let end_mark = match (&self.end_mark, self.no_end_mark) {
            (Some(text), _) => EndMark::Text(text.clone()),
            (None, true) => EndMark::Nothing,
            (None, false) => EndMark::Known,
        };
        let stream = |name: &Name, input| Stream { name: name.clone(), input, end_mark: end_mark.clone(), allow_empty: self.allow_empty };
        let stdin = self.stdin.as_ref().map(|name| Ok::<_, Failure>(stream(name, input()?))).transpose()?;
        let commands = self.commands.iter().zip(&self.names).map(|(command, name)| stream(name, Input::Command(command.clone())));
        Ok(stdin.into_iter().chain(commands).collect())
    }
}

fn name(text: &str) -> Result<Name, String> {
    Name::new(text.as_bytes()).map_err(|_| "give a name without a slash".into())
}

/// What is left out, as flags and as keys of a profile. Both count: a flag adds to a list of the profile and stands in for a single value.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "What is left out")]
pub(crate) struct RuleFlags {
    /// Leave out what fits, as in .gitignore and relative to each PATH: '*.tmp', '/build/', '!keep.tmp'
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
    /// Leave out what fits a line of this file
    #[arg(long, value_name = "FILE")]
    pub(crate) exclude_file: Vec<PathBuf>,
    /// Files named .yesterignore leave nothing out
    #[arg(long)]
    pub(crate) no_ignore_files: bool,
    /// Leave out the contents of folders with a valid CACHEDIR.TAG
    #[arg(long)]
    pub(crate) exclude_caches: bool,
    /// Leave out the contents of folders that hold this, or a file of this name that begins with HEADER
    #[arg(long, value_name = "NAME[:HEADER]")]
    pub(crate) exclude_if_present: Vec<String>,
    /// Leave out larger files: 500M, 4G
    #[arg(long, value_name = "SIZE")]
    pub(crate) exclude_larger_than: Option<String>,
    /// Leave out files that were not modified for so long, or since a day: 30d, '1y 6mo', 2026-01-31
    #[arg(long, value_name = "TIME")]
    pub(crate) exclude_older_than: Option<String>,
    /// Leave out files that were modified within this time, or since a day: 10min, 2026-01-31
    #[arg(long, value_name = "TIME")]
    pub(crate) exclude_newer_than: Option<String>,
    /// Stay on the file system of each PATH: folders where others are mounted are saved empty
    #[arg(short = 'x', long)]
    pub(crate) one_file_system: bool,
}

impl TryFrom<&config::Dump> for Stream {
    type Error = Failure;

    fn try_from(dump: &config::Dump) -> Result<Self, Failure> {
        let wrong = |reason| Failure::new(Exit::Usage, format!("the profile's command '{}': {reason}", dump.name));
        let name = name(&dump.name).map_err(wrong)?;
        let end_mark = match (&dump.end_mark, dump.no_end_mark) {
            (Some(_), true) => return Err(wrong("it has an end-mark and no-end-mark".into())),
            (Some(text), false) => EndMark::Text(text.clone()),
            (None, true) => EndMark::Nothing,
            (None, false) => EndMark::Known,
        };
        Ok(Self { name, input: Input::Command(dump.command.clone()), end_mark, allow_empty: dump.allow_empty })
    }
}

impl Backup {
    /// Whether anything was named.
    pub(crate) fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.other.is_empty() && self.commands.is_empty()
    }

    /// Adds what the profile says.
    pub(super) fn complete(&mut self, profile: Profile, profile_name: Option<&str>) -> Result<(), Failure> {
        self.rules = rules(&profile.rules(), &self.rule_flags)?;
        // What is named on the command line stands in for all that the profile names.
        if self.paths.is_empty() && self.other.is_empty() {
            self.paths = profile.paths;
            self.other.devices = profile.devices;
            self.commands = profile.commands;
            if self.other.shown_as.is_empty() {
                self.other.shown_as = profile.shown_as;
            }
        }
        self.before = self.before.take().or(profile.before);
        self.before_may_fail |= profile.before_may_fail;
        self.after = self.after.take().or(profile.after);
        self.compression = self.compression.or(profile.compression);
        if self.pauses.is_empty() {
            let wrong = |error| Failure::new(Exit::Usage, format!("the profile's pause: {error}"));
            self.pauses = profile.pause.iter().map(|text| Hours::parse(text).map_err(wrong)).collect::<Result<_, _>>()?;
        }
        if self.tags.is_empty() {
            self.tags = profile.tags;
        }
        self.host = self.host.take().or(profile.host);
        let of_profile = || profile_name.filter(|name| *name != config::DEFAULT).map(str::to_owned);
        self.set = self.set.take().or(profile.set).or_else(of_profile);
        Ok(())
    }
}

impl RuleFlags {
    /// Its patterns: files first, so that what is given one by one counts more.
    fn lines(&self, place: &str) -> Result<Vec<Line>, Failure> {
        let mut lines = Vec::new();
        for file in &self.exclude_file {
            let bytes = std::fs::read(file).map_err(|error| Failure::new(Exit::Usage, format!("{}: {error}", file.display())))?;
            lines.extend(lines_of(&file.display().to_string(), &bytes));
        }
        for pattern in &self.exclude {
            if pattern.trim().is_empty() || pattern.starts_with('#') {
                let message = format!("{place}: '{pattern}' fits nothing");
                return Err(Failure::new(Exit::Usage, message).hint("a name that begins with # is written \\#name"));
            }
            lines.push(Line { place: place.into(), text: pattern.clone().into_bytes() });
        }
        Ok(lines)
    }
}

fn rules(profile: &RuleFlags, flags: &RuleFlags) -> Result<Rules, Failure> {
    let wrong = |error: PatternError| Failure::new(Exit::Usage, error.to_string()).hint("patterns are written as in .gitignore files");
    let lines = [profile.lines("the profile's exclude")?, flags.lines("--exclude")?].concat();
    let (patterns, errors) = Patterns::parse(&lines);
    errors.into_iter().next().map_or(Ok(()), |error| Err(wrong(error)))?;
    let marker = |text: &String| Marker::parse(text).map_err(|e| Failure::new(Exit::Usage, format!("exclude-if-present {text}: {e}")));
    let markers = profile.exclude_if_present.iter().chain(&flags.exclude_if_present).map(marker).collect::<Result<Vec<_>, _>>()?;
    let caches = (profile.exclude_caches || flags.exclude_caches).then(Marker::cache_tag);
    let one = |name: &str, flag: &Option<String>, profile: &Option<String>| {
        let text = flag.as_ref().or(profile.as_ref());
        text.map(|text| (name.to_owned(), text.clone()))
    };
    let moment = |(name, text): (String, String)| {
        let time: Option<Timestamp> = Zone::system().past(&text, SystemClock.now());
        let hint = "give a time before now or a day: 30d, '2 weeks', '1y 6mo', 2026-01-31";
        time.ok_or_else(|| Failure::new(Exit::Usage, format!("{name} {text}: it is no time")).hint(hint))
    };
    let size = |(name, text): (String, String)| size(&text).map_err(|error| Failure::new(Exit::Usage, format!("{name} {text}: {error}")));
    Ok(Rules {
        patterns,
        ignore_files: !(profile.no_ignore_files || flags.no_ignore_files),
        markers: caches.into_iter().chain(markers).collect(),
        size_max: one("exclude-larger-than", &flags.exclude_larger_than, &profile.exclude_larger_than).map(size).transpose()?,
        modified_min: one("exclude-older-than", &flags.exclude_older_than, &profile.exclude_older_than).map(moment).transpose()?,
        modified_max: one("exclude-newer-than", &flags.exclude_newer_than, &profile.exclude_newer_than).map(moment).transpose()?,
        one_file_system: profile.one_file_system || flags.one_file_system,
    })
}
