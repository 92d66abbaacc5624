//! `repair index`

use backup_writer::device;
use backup_writer::forget::authorise;
use backup_writer::merge::MergeOptions;
use backup_writer::repair::{RepairError, RepairOptions, RepairReport, repair_index};
use serde_json::json;

use super::merge;
use crate::args::{Global, RepairIndex};
use crate::error::{Exit, Failure};
use crate::output::Output;
use crate::progress::Watcher;
use crate::session;

pub(crate) fn index(global: &Global, options: &RepairIndex, output: &Output) -> Result<Exit, Failure> {
    let (repository, store) = session::open(global)?;
    if !repository.ring().role.may_index() {
        return Err(RepairError::NotAllowed.into());
    }
    let (state, label) = (session::state(global, &repository), session::host_name());
    let signer = if options.merge {
        authorise(&repository, &*store, state.as_deref(), &label)?
    } else {
        device::open(&repository, &*store, state.as_deref(), &label)?
    };
    let watcher = Watcher::new(global);
    let repaired = repair_index(&repository, &*store, &signer, &RepairOptions { all: options.all }, &watcher);
    let merged = match &repaired {
        Ok(_) if options.merge => Some(backup_writer::merge::run(&repository, &*store, &signer, &MergeOptions::default(), &watcher)),
        _ => None,
    };
    watcher.finish();
    let repaired = repaired.inspect_err(|_| output.findings(&watcher.findings()))?;
    show_repaired(&repaired, output);
    merge::conclude(repaired.findings, merged, output)
}

fn show_repaired(report: &RepairReport, output: &Output) {
    let RepairReport { pack_count, read_count, added_count, entry_count, written_count, findings } = report;
    output.show(
        || match added_count {
            0 => format!("the index lacks nothing: {pack_count} packs, {read_count} of them looked into"),
            added => format!("added {added} of {pack_count} packs with {entry_count} entries to the index, in {written_count} shards"),
        },
        || {
            json!({
                "type": "repair_index", "packs": pack_count, "packs_read": read_count, "packs_added": added_count, "entries_added": entry_count,
                "shards_written": written_count, "findings": findings.len(),
            })
        },
    );
}
