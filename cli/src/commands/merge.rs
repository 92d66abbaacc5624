//! What `repair index --merge` and `prune` say of a merge of the index.

use backup_writer::merge::MergeReport;
use fs_core::report::Finding;
use serde_json::json;

use crate::output::Output;

pub(super) fn show(report: &MergeReport, output: &Output) {
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

/// Adds what a merge found. What was looked at before it has met the same damage.
pub(super) fn add_findings(findings: &mut Vec<Finding>, merged: Vec<Finding>) {
    let is_new = |finding: &Finding| findings.iter().all(|known| known.place != finding.place);
    let new: Vec<_> = merged.into_iter().filter(is_new).collect();
    findings.extend(new);
}
