//! What a backup or a dry run says on standard output: short for people, a record for programs.

use std::time::Duration;

use backup_writer::backup::{BackupReport, DryRun};
use backup_writer::packer::StageTimes;
use fs_core::report::Stats;
use serde_json::{Value, json};

use crate::output::{Output, size};
use crate::report::facts::{busy_line, busy_record, seconds};
use crate::report::{totals, words};

/// A snapshot was taken.
pub(super) fn saved(report: &BackupReport, output: &Output) {
    let (stats, manifest, id) = (&report.stats, &report.manifest, report.snapshot.short());
    output.first_findings(&report.findings, &format!("yesterdrive report {id}"));
    let took = manifest.ended.since(manifest.started);
    output.show(
        || {
            let previous =
                manifest.previous.map_or_else(|| "the first of this device".to_owned(), |previous| format!("after {}", previous.short()));
            let bytes = [("read", stats.read_bytes), ("new", stats.new_bytes), ("stored", stats.stored_bytes), ("sent", stats.sent_bytes)];
            let mut lines = vec![format!("snapshot {id}: {} files, {}", stats.file_count, size(stats.byte_count))];
            lines.extend(counts(stats));
            lines.push(bytes.map(|(name, bytes)| format!("{name} {}", size(bytes))).join(", "));
            lines.push(took_line(took, stats, &report.times));
            lines.push(format!("chain of device {}: number {}, {previous}", manifest.device, manifest.sequence));
            lines.join("\n  ")
        },
        || {
            let more = json!({
                "snapshot": report.snapshot.to_string(), "parent": report.parent.map(|id| id.to_string()), "device": manifest.device.to_string(),
                "sequence": manifest.sequence, "previous": manifest.previous.map(|id| id.to_string()), "sent_bytes": stats.sent_bytes,
            });
            record("backup", stats, (took, &report.times), more)
        },
    );
}

/// Nothing was written.
pub(super) fn tried(dry: &DryRun, output: &Output) {
    output.first_findings(&dry.findings, "--report FILE takes all of them");
    let (stats, took) = (&dry.stats, dry.ended.since(dry.started));
    output.show(
        || {
            let mut lines = vec![format!("dry run, nothing was written: {} files, {}", stats.file_count, size(stats.byte_count))];
            lines.extend(counts(stats));
            let (new, stored) = (size(stats.new_bytes), size(stats.stored_bytes));
            lines.push(format!("read {}; {new} would be new, {stored} as stored", size(stats.read_bytes)));
            lines.push(took_line(took, stats, &dry.times));
            lines.join("\n  ")
        },
        || record("dry_run", stats, (took, &dry.times), json!({"parent": dry.parent.map(|id| id.to_string())})),
    );
}

/// One line for each kind of change; what did not occur is said only where one asks for it in any case.
fn counts(stats: &Stats) -> Vec<String> {
    let always = ["new", "changed", "unchanged"];
    let met = totals(stats).into_iter().filter(|(name, count, _)| *count > 0 || always.contains(name));
    met.map(|(name, count, bytes)| format!("{:<10}{count:>9}{:>13}", words(name), size(bytes))).collect()
}

fn took_line(took: Duration, stats: &Stats, times: &StageTimes) -> String {
    let rate = u128::from(stats.read_bytes) * 1000 / took.as_millis().max(1);
    let rate = size(u64::try_from(rate).unwrap_or(u64::MAX));
    format!("{}, {rate}/s read; busy: {}", seconds(took), busy_line(times))
}

/// What both have in common, and what `more` has beside it.
fn record(kind: &str, stats: &Stats, (took, times): (Duration, &StageTimes), more: Value) -> Value {
    let mut record = json!({
        "type": kind, "files": stats.file_count, "directories": stats.directory_count, "others": stats.other_count, "bytes": stats.byte_count,
        "read_bytes": stats.read_bytes, "new_bytes": stats.new_bytes, "stored_bytes": stats.stored_bytes,
        "seconds": took.as_secs_f64(), "busy_seconds": busy_record(times),
    });
    if let (Some(fields), Value::Object(more)) = (record.as_object_mut(), more) {
        for (name, count, bytes) in totals(stats) {
            fields.insert(format!("{name}_size"), json!(bytes));
            fields.insert(name.to_owned(), json!(count));
        }
        fields.extend(more);
    }
    record
}
