//! `repair index`

use backup_writer::device;
use backup_writer::forget::authorise;
use backup_writer::merge::{self, MergeOptions, MergeReport};
use backup_writer::repair::{RepairError, RepairOptions, RepairReport, repair_index};
use fs_core::report::{Finding, is_incomplete};
use serde_json::json;

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
        Ok(_) if options.merge => Some(merge::run(&repository, &*store, &signer, &MergeOptions::default(), &watcher)),
        _ => None,
    };
    watcher.finish();
    let repaired = repaired?;
    show_repaired(&repaired, output);
    let mut findings = repaired.findings;
    if let Some(merged) = merged {
        let merged = merged.inspect_err(|_| output.findings(&findings))?;
        show_merged(&merged, output);
        // Both have met what is damaged.
        let is_new = |finding: &Finding| findings.iter().all(|known| known.place != finding.place);
        let new: Vec<_> = merged.findings.into_iter().filter(is_new).collect();
        findings.extend(new);
    }
    output.findings(&findings);
    Ok(if is_incomplete(&findings) { Exit::Findings } else { Exit::Done })
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

fn show_merged(report: &MergeReport, output: &Output) {
    let MergeReport { shard_count, merged_count, written_count, deleted_count, waiting_count, left_out_count, .. } = report;
    let (catalogues, catalogues_deleted) = (report.catalogue_count, report.catalogues_deleted_count);
    output.show(
        || {
            let merged = match merged_count {
                0 => format!("nothing to put together in {shard_count} shards"),
                merged => format!("put {merged} of {shard_count} shards together, which made {written_count}"),
            };
            let left_out = if *left_out_count > 0 { format!("; left out {left_out_count} entries of packs that are gone") } else { String::new() };
            let waiting = if *waiting_count > 0 { format!(", {waiting_count} wait for their time") } else { String::new() };
            format!("{merged}{left_out}; deleted {deleted_count} that were replaced long enough ago{waiting}, and {catalogues_deleted} of {catalogues} catalogues")
        },
        || {
            json!({
                "type": "merge", "shards": shard_count, "merged": merged_count, "written": written_count, "deleted": deleted_count, "waiting": waiting_count,
                "entries_left_out": left_out_count, "catalogues": catalogues, "catalogues_deleted": catalogues_deleted, "findings": report.findings.len(),
            })
        },
    );
}
