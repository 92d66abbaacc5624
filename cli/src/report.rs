//! The report of a run, for people and programs: what was saved, from where to where, what became of each file. Text, CSV, HTML and JSON say the same.
//!
//! The list of files is written as it is read, row by row. Called by `backup` and `report`.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use backup_writer::changes::ChangeList;
use fs_core::path::display;
use fs_core::report::{Finding, Place, Severity, Stats};
use fs_core::repository::Repository;
use fs_core::time::{Timestamp, Zone};
use fs_core::tree::change::Change;
use serde_json::{Value, json};

use crate::error::{Exit, Failure};

pub(crate) mod csv;
pub(crate) mod facts;
pub(crate) mod html;
pub(crate) mod json;
pub(crate) mod text;

use facts::Facts;

/// Bytes that are written at a time.
const BUFFER: usize = 256 << 10;

/// How a report is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Format {
    /// Lines for people
    Text,
    /// A table for spreadsheets and scripts
    Csv,
    /// A page that can be mailed, read and printed
    Html,
    /// One JSON document
    Json,
}

impl Format {
    /// The one that a file's extension names.
    pub(crate) fn of_file(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        let all = [("txt", Self::Text), ("csv", Self::Csv), ("html", Self::Html), ("htm", Self::Html), ("json", Self::Json)];
        all.into_iter().find(|(known, _)| *known == extension).map(|(_, format)| format)
    }
}

/// A file that a report goes to.
#[derive(Clone, Debug)]
pub(crate) struct ReportFile {
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
}

impl ReportFile {
    /// The flag's value: the extension says the format.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let path = PathBuf::from(text);
        let format = Format::of_file(&path).ok_or("its name must end in .txt, .csv, .html or .json, which says the format")?;
        Ok(Self { path, format })
    }
}

/// Everything that a report is made of.
pub(crate) struct Report<'a> {
    /// What stands above the list.
    pub(crate) facts: Facts,
    /// What the run met.
    pub(crate) findings: &'a [Finding],
    /// What became of each file; `None` if nobody knows any more.
    pub(crate) changes: Option<&'a ChangeList>,
    /// Where the list may lie.
    pub(crate) repository: &'a Repository,
}

/// One of the forms, written from top to bottom.
pub(crate) trait Form {
    /// What stands above the findings.
    fn head(&mut self, out: &mut dyn Write, facts: &Facts) -> std::io::Result<()>;
    /// One finding.
    fn finding(&mut self, out: &mut dyn Write, finding: &Finding) -> std::io::Result<()>;
    /// What stands between findings and list; `is_known` says whether there is a list.
    fn list(&mut self, out: &mut dyn Write, is_known: bool) -> std::io::Result<()>;
    /// One row of the list.
    fn row(&mut self, out: &mut dyn Write, row: &Change) -> std::io::Result<()>;
    /// The end, with what could not be read of the list.
    fn end(&mut self, out: &mut dyn Write, lost: &[Finding]) -> std::io::Result<()>;
}

impl Report<'_> {
    /// Writes it in one of the four formats.
    pub(crate) fn write(&self, format: Format, out: &mut dyn Write) -> Result<Vec<Finding>, Failure> {
        let mut form: Box<dyn Form> = match format {
            Format::Text => Box::new(text::Text::default()),
            Format::Csv => Box::new(csv::Csv),
            Format::Html => Box::new(html::Html::default()),
            Format::Json => Box::new(json::Document::default()),
        };
        self.write_as(&mut *form, out)
    }

    /// Writes it; says what could not be read of the list.
    pub(crate) fn write_as(&self, form: &mut dyn Form, out: &mut dyn Write) -> Result<Vec<Finding>, Failure> {
        form.head(out, &self.facts)?;
        self.findings.iter().try_for_each(|finding| form.finding(out, finding))?;
        form.list(out, self.changes.is_some())?;
        let lost = match self.changes {
            Some(changes) => changes.for_each::<Failure>(self.repository, &mut |row| Ok(form.row(out, row)?))?,
            None => Vec::new(),
        };
        form.end(out, &lost)?;
        Ok(lost)
    }

    /// Writes it into a file, whole or not at all: whatever stood there stays until the new one is complete.
    pub(crate) fn write_file(&self, file: &Path, format: Format) -> Result<Vec<Finding>, Failure> {
        let refused = |error: &dyn std::fmt::Display| Failure::new(Exit::Failed, format!("{} cannot be written: {error}", file.display()));
        // A link stays, and what it leads to is replaced.
        let target = file.canonicalize().unwrap_or_else(|_| file.to_path_buf());
        let there = target.metadata().ok();
        if there.as_ref().is_some_and(|there| !there.is_file()) {
            return Err(refused(&"it is no regular file"));
        }
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let temporary = tempfile::NamedTempFile::new_in(folder).map_err(|error| refused(&error))?;
        // Names of files are nobody else's business, unless somebody has decided otherwise for this file.
        if let Some(there) = there {
            temporary.as_file().set_permissions(there.permissions()).map_err(|error| refused(&error))?;
        }
        let mut out = BufWriter::with_capacity(BUFFER, temporary.as_file());
        let written = self.write(format, &mut out).and_then(|lost| Ok(out.flush().map(|()| lost)?));
        drop(out);
        let lost = written.map_err(|failure| refused(&failure.message))?;
        temporary.as_file().sync_all().map_err(|error| refused(&error))?;
        temporary.persist(&target).map_err(|error| refused(&error.error))?;
        Ok(lost)
    }
}

/// What became of a file, for people.
pub(crate) fn words(key: &str) -> String {
    key.replace('_', " ")
}

/// Files and their bytes, by what became of them, as programs name it.
pub(crate) fn totals(stats: &Stats) -> [(&'static str, u64, u64); 6] {
    [
        ("new", stats.new_count, stats.new_size),
        ("changed", stats.changed_count, stats.changed_size),
        ("unchanged", stats.unchanged_count, stats.unchanged_size),
        ("removed", stats.removed_count, stats.removed_size),
        ("left_out", stats.left_out_count, stats.left_out_size),
        ("failed", stats.failed_count, stats.failed_size),
    ]
}

/// How many findings mean that something is missing.
pub(crate) fn warning_count(findings: &[Finding]) -> usize {
    findings.iter().filter(|finding| finding.severity >= Severity::Warning).count()
}

/// A message, one line for each of its own, without what commands a terminal.
pub(crate) fn lines(finding: &Finding) -> Vec<String> {
    finding.message.lines().map(|line| display(line.as_bytes()).into_owned()).collect()
}

/// Where a finding belongs; empty for the run as a whole.
pub(crate) fn place(finding: &Finding) -> String {
    match &finding.place {
        Place::Path(path) if !path.is_root() => path.to_string(),
        Place::Object(name) => display(name.as_bytes()).into_owned(),
        Place::Path(_) | Place::Operation => String::new(),
    }
}

/// A moment as the clock on the wall showed it here, with the offset from UTC.
pub(crate) fn local(time: Timestamp) -> String {
    let Some(local) = Zone::system().local(time) else { return time.to_string() };
    let (minutes, sign) = (local.offset_seconds.abs() / 60, if local.offset_seconds < 0 { '-' } else { '+' });
    format!("{} {sign}{:02}:{:02}", local.civil.strftime("%Y-%m-%d %H:%M:%S"), minutes / 60, minutes % 60)
}

/// A value that may be absent.
fn optional<T: ToString>(value: Option<T>) -> Value {
    value.map_or(Value::Null, |value| json!(value.to_string()))
}
