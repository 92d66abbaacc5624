//! `restore`

use backup_writer::restore::{Overwrite, RestoreOptions, restore};
use fs_core::report::is_incomplete;
use serde_json::json;

use super::within::{self, Place};
use crate::args::{Global, OverwriteChoice, Restore};
use crate::error::{Exit, Failure};
use crate::output::{Output, size};
use crate::progress::Watcher;
use crate::session;

pub(crate) fn run(global: &Global, options: &Restore, output: &Output) -> Result<Exit, Failure> {
    // What is wrong with the path is told before a password is asked for.
    let places = Place::of_each(&options.whats)?;
    let global = &Place::complete(&places, global);
    let (repository, _) = session::open_contents(global)?;
    let whats = Place::find_each(&places, &repository, &options.select)?;
    let overwrite = match options.overwrite {
        OverwriteChoice::Never => Overwrite::Never,
        OverwriteChoice::Changed => Overwrite::Changed,
        OverwriteChoice::Newer => Overwrite::Newer,
        OverwriteChoice::Always => Overwrite::Always,
        OverwriteChoice::KeepBoth => Overwrite::KeepBoth,
    };
    let how = RestoreOptions {
        overwrite,
        in_place: options.in_place,
        as_me: options.as_me,
        numeric_ids: options.numeric_ids,
        include: options.include.clone(),
        exclude: options.exclude.clone(),
        verify: options.verify,
        dry_run: options.dry_run,
    };
    let watcher = Watcher::new(global);
    let report = restore(&repository, &whats, &options.to, &how, &watcher);
    watcher.finish();
    let report = report?;
    output.findings(&report.findings);
    let verb = if options.dry_run { "would restore" } else { "restored" };
    output.show(
        || {
            let (files, folders, others, kept) = (report.file_count, report.directory_count, report.other_count, report.kept_count);
            format!("{verb} {files} files ({}), {folders} folders, {others} others; {kept} were there already", size(report.byte_count))
        },
        || {
            let (snapshot, snapshots) = within::snapshots_of(&whats);
            json!({
                "type": "restore", "snapshot": snapshot, "snapshots": snapshots, "dry_run": options.dry_run, "files": report.file_count, "bytes": report.byte_count,
                "directories": report.directory_count, "others": report.other_count, "kept": report.kept_count, "written_bytes": report.written_bytes, "findings": report.findings.len(),
            })
        },
    );
    Ok(if is_incomplete(&report.findings) { Exit::Findings } else { Exit::Done })
}
