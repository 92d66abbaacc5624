//! `report`

use std::io::{BufWriter, Write as _};

use backup_writer::changes::ChangeList;
use fs_core::report::{Finding, Place, Severity, chain};
use fs_core::repository::Repository;
use fs_core::snapshot::Manifest;
use serde_json::json;

use crate::args::{Global, Report as Options};
use crate::error::{Exit, Failure};
use crate::output::Output;
use crate::report::facts::Facts;
use crate::report::json::Lines;
use crate::report::{Format, Report};
use crate::session;

/// Bytes that are written at a time.
const BUFFER: usize = 64 << 10;

pub(crate) fn run(global: &Global, options: &Options, output: &Output) -> Result<Exit, Failure> {
    if global.json && options.output.is_none() && options.format.is_some_and(|format| format != Format::Json) {
        let failure = Failure::new(Exit::Usage, "a report in another format and JSON records cannot both go to standard output");
        return Err(failure.hint("name a file: -o FILE"));
    }
    let of_file = options.output.as_ref().map(|file| Format::of_file(file));
    let format = match (options.format, of_file) {
        (Some(format), _) | (None, Some(Some(format))) => format,
        (None, None) => Format::Text,
        (None, Some(None)) => {
            let failure = Failure::new(Exit::Usage, "the name of the file does not say the format");
            return Err(failure.hint("let it end in .txt, .csv, .html or .json, or give --format"));
        }
    };
    let (repository, _) = session::open_cached(global)?;
    let snapshot = session::snapshot(&repository, &options.snapshot, &options.select)?;
    let manifest = snapshot.manifest()?;
    let (findings, damage) = stored_findings(&repository, &manifest)?;
    let facts = Facts::of_snapshot(&session::place(global, &repository)?, snapshot.id, &manifest, (snapshot.sealed, &findings));
    let changes = ChangeList::of(&manifest);
    let report = Report { facts, findings: &findings, changes: changes.as_ref(), repository: &repository };
    let lost = match &options.output {
        Some(file) => {
            let lost = report.write_file(file, format)?;
            let path = file.display().to_string();
            output.show(
                || format!("wrote the report of snapshot {} to {path}", snapshot.id.short()),
                || json!({"type": "report_file", "snapshot": snapshot.id.to_string(), "path": path}),
            );
            lost
        }
        None => {
            let mut out = BufWriter::with_capacity(BUFFER, output.writer());
            let lines = global.json && options.format.is_none();
            let lost = if lines { report.write_as(&mut Lines::default(), &mut out)? } else { report.write(format, &mut out)? };
            out.flush()?;
            lost
        }
    };
    // A report on standard output holds what it could not read of the list.
    let told: Vec<_> = damage.iter().chain(lost.iter().filter(|_| options.output.is_some())).cloned().collect();
    if options.output.is_some() || !global.json {
        output.findings(&told);
    }
    Ok(if damage.is_empty() && lost.is_empty() { Exit::Done } else { Exit::Findings })
}

/// What belongs to no path was stored without one.
fn of_the_run(finding: Finding) -> Finding {
    let has_place = !matches!(&finding.place, Place::Path(path) if path.is_root());
    if has_place { finding } else { Finding { place: Place::Operation, ..finding } }
}

/// What the run met, and what cannot be read of that.
fn stored_findings(repository: &Repository, manifest: &Manifest) -> Result<(Vec<Finding>, Vec<Finding>), Failure> {
    let (mut findings, mut damage) = (Vec::new(), Vec::new());
    for record in &manifest.findings {
        match repository.stored_findings(record) {
            Ok(stored) => findings.extend(stored.into_iter().map(of_the_run)),
            Err(error) if error.is_damage() => {
                let message = format!("a part of the findings cannot be read: {}", chain(&error));
                damage.push(Finding { severity: Severity::Error, place: Place::Operation, message });
            }
            Err(error) => return Err(error.into()),
        }
    }
    findings.extend(damage.iter().cloned());
    Ok((findings, damage))
}
