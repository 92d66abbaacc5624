//! `scrub`

use backup_writer::scrub::scrub;
use fs_core::observer::Observer as _;
use fs_core::report::is_incomplete;
use fs_core::storage::address::Address;
use fs_core::storage::local::strangers::strangers;
use serde_json::json;

use crate::args::{Global, Scrub};
use crate::error::{Exit, Failure};
use crate::nice;
use crate::output::{Output, size};
use crate::progress::Watcher;
use crate::session;

pub(crate) fn run(global: &Global, options: &Scrub, output: &Output) -> Result<Exit, Failure> {
    nice::yield_if(options.nice);
    let mut global = global.clone();
    global.repository = options.place.clone().or(global.repository);
    let global = &global;
    let store = session::store(global)?;
    let beside = match session::address(global)? {
        Address::Folder(path) => strangers(&path)?,
        Address::Cloud { .. } | Address::Sftp { .. } | Address::WebDav { .. } => Vec::new(),
    };
    let watcher = Watcher::new(global);
    let report = scrub(&*store.as_read(), &beside, &watcher);
    watcher.finish();
    let report = report?;
    output.findings(&report.findings);
    if watcher.is_cancelled() {
        return Err(Failure::new(Exit::Interrupted, "the scrub was interrupted"));
    }
    if report.object_count == 0 {
        return Err(Failure::new(Exit::Failed, "there is no object of a repository").hint("name the folder that holds pack, meta and snap"));
    }
    let unsound = is_incomplete(&report.findings);
    output.show(
        || {
            let verdict = if unsound { "something is damaged or misplaced" } else { "no damage found" };
            let (objects, bytes, unproven) = (report.object_count, size(report.byte_count), report.unproven_count);
            format!("{verdict}: {objects} objects with {bytes}; of {unproven} sessions only the header can be compared without a key; what is missing 'check' tells")
        },
        || {
            json!({
                "type": "scrub", "damaged": unsound, "repository": report.repository.map(|id| id.to_string()), "objects": report.object_count,
                "bytes": report.byte_count, "damaged_objects": report.damaged_count, "unproven": report.unproven_count,
                "temporary": report.temporary_count, "foreign": report.foreign_count, "findings": report.findings.len(),
            })
        },
    );
    Ok(if unsound { Exit::Findings } else { Exit::Done })
}
