//! `check`

use backup_writer::check::{ReadData, check};
use fs_core::observer::Observer as _;
use fs_core::report::is_incomplete;
use serde_json::json;

use crate::args::{Check, Global};
use crate::error::{Exit, Failure};
use crate::output::Output;
use crate::progress::Watcher;
use crate::session;

pub(crate) fn run(global: &Global, options: &Check, output: &Output) -> Result<Exit, Failure> {
    let (repository, _) = session::open(global)?;
    let read_data = options.read_data_subset.unwrap_or(if options.read_data { ReadData::All } else { ReadData::None });
    let watcher = Watcher::new(global);
    let report = check(&repository, read_data, &watcher);
    watcher.finish();
    let report = report?;
    output.findings(&report.findings);
    if watcher.is_cancelled() {
        return Err(Failure::new(Exit::Interrupted, "the check was interrupted"));
    }
    let damaged = is_incomplete(&report.findings);
    output.show(
        || {
            let verdict = if damaged { "something is damaged" } else { "no damage found" };
            let (snapshots, packs, records, read) = (report.snapshot_count, report.pack_count, report.record_count, report.packs_read);
            format!("{verdict}: {snapshots} snapshots, {packs} packs with {records} records, {read} packs read in full")
        },
        || {
            json!({
                "type": "check", "damaged": damaged, "snapshots": report.snapshot_count, "packs": report.pack_count, "records": report.record_count,
                "packs_read": report.packs_read, "findings": report.findings.len(),
            })
        },
    );
    Ok(if damaged { Exit::Findings } else { Exit::Done })
}
