//! `export`

use std::fs::File;
use std::io::{BufWriter, IsTerminal as _, Write};

use backup_writer::export::{ExportOptions, ExportReport, Format, export};
use fs_core::report::is_incomplete;
use serde_json::json;

use super::within::{self, Place};
use crate::args::{ArchiveFormat, Export, Global};
use crate::error::{Exit, Failure};
use crate::output::{Output, size};
use crate::progress::Watcher;
use crate::session;

/// Bytes that are written at a time.
const BUFFER: usize = 256 << 10;

pub(crate) fn run(global: &Global, options: &Export, output: &Output) -> Result<Exit, Failure> {
    let places = Place::of_each(&options.whats)?;
    if options.output.is_none() && std::io::stdout().is_terminal() {
        return Err(
            Failure::new(Exit::Usage, "an archive is nothing for a terminal").hint("name a file, -o FILE, or write to a pipe: | tar -t")
        );
    }
    if options.output.is_none() && global.json {
        return Err(
            Failure::new(Exit::Usage, "the archive and its JSON records cannot both go to standard output").hint("name a file: -o FILE")
        );
    }
    let global = &Place::complete(&places, global);
    let (repository, _) = session::open_contents(global)?;
    let whats = Place::find_each(&places, &repository, &options.select)?;
    let format = match options.format {
        ArchiveFormat::Tar => Format::Tar,
        ArchiveFormat::Zip => Format::Zip,
    };
    let how = ExportOptions { format, include: options.include.clone(), exclude: options.exclude.clone() };
    let watcher = Watcher::new(global);
    let exported = |to: &mut dyn Write| -> Result<ExportReport, Failure> { Ok(export(&repository, &whats, &how, to, &watcher)?) };
    let report = match &options.output {
        Some(file) => {
            let made = File::options().write(true).create_new(true).open(file);
            let made = made.map_err(|error| Failure::new(Exit::Failed, format!("{} cannot be made: {error}", file.display())))?;
            let report = exported(&mut BufWriter::with_capacity(BUFFER, &made)).and_then(|report| Ok(made.sync_all().map(|()| report)?));
            if report.is_err() {
                // Half an archive is none.
                let _ = std::fs::remove_file(file);
            }
            report
        }
        None => exported(&mut BufWriter::with_capacity(BUFFER, std::io::stdout().lock())),
    };
    watcher.finish();
    let report = report?;
    output.findings(&report.findings);
    if let Some(file) = &options.output {
        output.show(
            || format!("wrote {} entries ({}) to {}", report.entry_count, size(report.byte_count), file.display()),
            || {
                let (snapshot, snapshots) = within::snapshots_of(&whats);
                json!({
                    "type": "export", "snapshot": snapshot, "snapshots": snapshots, "entries": report.entry_count, "bytes": report.byte_count,
                    "findings": report.findings.len(),
                })
            },
        );
    }
    Ok(if is_incomplete(&report.findings) { Exit::Findings } else { Exit::Done })
}
