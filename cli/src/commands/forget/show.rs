//! What `forget` says: a table and a calendar for each host, set and device, and the sum.

use std::collections::BTreeSet;

use backup_writer::retention::{Candidate, Series, SeriesKey, Verdict};
use fs_core::id::{RunId, SnapshotId};
use fs_core::snapshot::Snapshot;
use fs_core::time::{Timestamp, reading_at};
use serde_json::{Value, json};

use super::calendar;
use crate::output::Output;

/// Whose snapshots they are, for people.
pub(super) fn name(key: &SeriesKey) -> String {
    let device: String = key.device.to_string().chars().take(8).collect();
    let set = if key.set.is_empty() { String::new() } else { format!(" ({})", key.set) };
    let copies = key.original.map_or_else(String::new, |original| format!(", copies from repository {original}"));
    format!("{}{set}, device {device}{copies}", key.host)
}

/// Every snapshot with what becomes of it and why, and the calendars.
pub(super) fn series(all: &[Series<'_>], now: Timestamp, output: &Output) {
    for series in all {
        let gone = series.forgotten().count();
        let heading = format!("{}: {} snapshots, {gone} to forget", name(series.key), series.verdicts.len());
        for (at, verdict) in series.verdicts.iter().enumerate() {
            let line = || if at == 0 { format!("{heading}\n{}", line(verdict)) } else { line(verdict) };
            output.show(line, || record(verdict));
        }
        if !output.is_json() {
            calendar::lines(series, now).iter().for_each(|line| output.raw(format!("{line}\n").as_bytes()));
        }
    }
}

/// The time by the clock on the wall where the snapshot was taken: that is what rules look at.
fn taken_at(candidate: &Candidate) -> String {
    let reading = reading_at(candidate.started, candidate.utc_offset_minutes);
    reading.map_or_else(|| candidate.started.to_string(), |reading| reading.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

fn line(verdict: &Verdict<'_>) -> String {
    let (time, id) = (taken_at(verdict.snapshot), verdict.snapshot.id.short());
    if verdict.is_kept() { format!("  {time}  {id}  keep    {}", reasons(verdict).join(", ")) } else { format!("  {time}  {id}  forget") }
}

fn reasons(verdict: &Verdict<'_>) -> Vec<String> {
    verdict.reasons.iter().map(ToString::to_string).collect()
}

fn record(verdict: &Verdict<'_>) -> Value {
    let Candidate { id, series, sequence, sealed, started, .. } = verdict.snapshot;
    json!({
        "type": "retention", "snapshot": id.to_string(), "host": series.host, "set": series.set, "device": series.device.to_string(), "sequence": sequence,
        "sealed": sealed, "started": started.to_string(), "keep": verdict.is_kept(), "reasons": reasons(verdict),
    })
}

/// A snapshot that somebody has named.
pub(super) fn named(snapshot: &Snapshot, output: &Output) {
    if !output.is_json() {
        output.raw(format!("  {}  {}  {}\n", snapshot.started(), snapshot.id.short(), snapshot.host()).as_bytes());
    }
}

/// The sum.
pub(super) fn total(count: usize, gone: &BTreeSet<SnapshotId>, (run, why, dry_run): (Option<RunId>, &str, bool), output: &Output) {
    let line = || match (gone.len(), dry_run) {
        (0, _) => format!("nothing to forget: all {count} snapshots are kept"),
        (gone, true) => format!("dry run, nothing was forgotten: {gone} of {count} snapshots would be"),
        (gone, false) => format!(
            "forgot {gone} of {count} snapshots; 'yesterdrive forget --undo' brings them back until they are swept. 'yesterdrive prune' frees the room that they take, a week later"
        ),
    };
    let record = || {
        let ids: Vec<_> = gone.iter().map(ToString::to_string).collect();
        json!({
            "type": "forget", "dry_run": dry_run, "run": run.map(|run| run.to_string()), "why": why, "kept": count - gone.len(), "forgotten": gone.len(), "snapshots": ids,
        })
    };
    output.show(line, record);
}
