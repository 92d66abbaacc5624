//! What `repair index --merge` and `prune` say of a merge of the index.

use backup_writer::merge::{MergeError, MergeReport};
use fs_core::report::{Finding, is_incomplete};
use serde_json::json;

use crate::error::{Exit, Failure};
use crate::output::Output;

fn show(report: &MergeReport, output: &Output) {
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

/// Ends a command that merged, or was not to: says what came of that, and all findings. Those of what was done before are told even if the merge failed.
pub(super) fn conclude(
    mut findings: Vec<Finding>,
    merged: Option<Result<MergeReport, MergeError>>,
    output: &Output,
) -> Result<Exit, Failure> {
    if let Some(merged) = merged {
        let merged = merged.inspect_err(|_| output.findings(&findings))?;
        show(&merged, output);
        add_findings(&mut findings, merged.findings);
    }
    output.findings(&findings);
    Ok(if is_incomplete(&findings) { Exit::Findings } else { Exit::Done })
}

/// Adds what a merge found. What was looked at before it has met the same damage.
fn add_findings(findings: &mut Vec<Finding>, merged: Vec<Finding>) {
    let is_new = |finding: &Finding| findings.iter().all(|known| known.place != finding.place);
    let new: Vec<_> = merged.into_iter().filter(is_new).collect();
    findings.extend(new);
}
