//! `check`

use std::sync::Arc;

use backup_writer::check::{CheckOptions, CheckReport, check};
use backup_writer::drill::{DrillOptions, DrillReport, drill};
use backup_writer::proven::{LastDrill, Proven};
use fs_core::crypto::{SystemRandom, random_array};
use fs_core::observer::Observer as _;
use fs_core::report::is_incomplete;
use fs_core::repository::Repository;
use fs_core::time::Zone;
use fs_core::view::{Links, Owner, View, ViewOptions};
use serde_json::{Value, json};

use crate::args::{Check, Drill, Global};
use crate::error::{Exit, Failure};
use crate::output::{Output, size};
use crate::progress::Watcher;
use crate::session;

pub(crate) fn run(global: &Global, options: &Check, output: &Output) -> Result<Exit, Failure> {
    // A drill that reads what this machine keeps would prove this machine.
    let (repository, _) = if options.restore_drill.is_some() { session::open_from_store(global)? } else { session::open(global)? };
    let state = session::state(global, &repository);
    let read_data = options.read_data.or(options.read_data_subset).unwrap_or_default();
    let how = CheckOptions { read_data, download_max: options.max_download, expected: options.expect.clone(), state };
    let watcher = Watcher::new(global);
    let report = check(&repository, how, &watcher);
    watcher.finish();
    let report = report.inspect_err(|_| output.findings(&watcher.findings()))?;
    output.findings(&report.findings);
    if watcher.is_cancelled() {
        let message = format!("the check was interrupted; {} packs that were read are remembered", report.packs_read);
        return Err(Failure::new(Exit::Interrupted, message));
    }
    let damaged = is_incomplete(&report.findings);
    output.show(|| line(&report, damaged), || record(&report, damaged));
    let failed = match &options.restore_drill {
        Some(amount) => run_drill(global, options, *amount, repository, output)?,
        None => {
            show_last_drills(global, &repository, output);
            false
        }
    };
    Ok(if damaged || failed { Exit::Findings } else { Exit::Done })
}

fn line(report: &CheckReport, damaged: bool) -> String {
    let verdict = if damaged { "something is damaged or cannot be read" } else { "no damage found" };
    let (snapshots, packs, records, read) = (report.snapshot_count, report.pack_count, report.record_count, report.packs_read);
    let mut line = format!("{verdict}: {snapshots} snapshots, {packs} packs with {records} records, {read} packs read in full");
    if report.unindexed_count > 0 {
        line.push_str(&format!("; {} packs stand in no index", report.unindexed_count));
    }
    if report.waiting_count > 0 {
        line.push_str(&format!("; {} packs ({}) wait for the next run", report.waiting_count, size(report.waiting_bytes)));
    }
    match (report.never_read, report.oldest_read) {
        (Some(0), Some(oldest)) if report.pack_count > 0 => line.push_str(&format!("\nall packs were read since {}", day(oldest))),
        (Some(never), Some(_)) if never > 0 => line.push_str(&format!("\n{never} packs were never read by this machine")),
        _ => {}
    }
    line
}

fn record(report: &CheckReport, damaged: bool) -> Value {
    json!({
        "type": "check", "damaged": damaged, "snapshots": report.snapshot_count, "packs": report.pack_count, "records": report.record_count,
        "packs_unindexed": report.unindexed_count, "packs_read": report.packs_read, "bytes_read": report.bytes_read, "packs_waiting": report.waiting_count,
        "bytes_waiting": report.waiting_bytes, "packs_never_read": report.never_read,
        "oldest_read": report.oldest_read.map(|time| time.to_string()), "findings": report.findings.len(),
    })
}

/// Whether something did not come back.
fn run_drill(global: &Global, options: &Check, amount: Drill, repository: Arc<Repository>, output: &Output) -> Result<bool, Failure> {
    let state = session::state(global, &repository);
    let me = crate::system::me();
    let shown = ViewOptions { owner: Owner::AsSaved, links: Links::Raw, mounter: me, zone: Zone::system() };
    let view = Arc::new(View::new(repository, None, shown)?);
    let seed = options.seed.unwrap_or_else(|| u64::from(u32::from_le_bytes(random_array(&SystemRandom))));
    let how = DrillOptions {
        file_max: amount.file_max,
        byte_max: amount.byte_max.min(options.max_download.unwrap_or(u64::MAX)),
        seed,
        prefers_new: options.seed.is_none(),
        state: state.as_deref(),
    };
    let watcher = Watcher::new(global);
    let report = drill(&view, &how, &watcher);
    watcher.finish();
    let report = report?;
    output.findings(&report.findings);
    let failed = is_incomplete(&report.findings);
    if watcher.is_cancelled() {
        return Err(Failure::new(Exit::Interrupted, format!("the drill was interrupted after {} files that came back", report.file_count)));
    }
    output.show(|| drill_line(&report, seed), || drill_record(&report, seed));
    report.drills.iter().for_each(|drill| show_drill(drill, output));
    Ok(failed)
}

fn drill_line(report: &DrillReport, seed: u64) -> String {
    let verdict = if report.failed_count > 0 { "not everything comes back" } else { "everything that was read came back" };
    let (files, bytes) = (report.file_count, size(report.byte_count));
    let mut line = format!("{verdict}: {files} files with {bytes} are what was saved (--seed {seed})");
    for (count, what) in [
        (report.failed_count, "did not come back"),
        (report.empty_count, "of them are empty"),
        (report.unproven_count, "more open and have no hash that this key can compare"),
        (report.passed_over_count, "were too large for this drill"),
    ] {
        if count > 0 {
            line.push_str(&format!("; {count} {what}"));
        }
    }
    line
}

fn drill_record(report: &DrillReport, seed: u64) -> Value {
    json!({
        "type": "drill", "seed": seed, "files": report.file_count, "bytes": report.byte_count, "empty": report.empty_count,
        "unproven": report.unproven_count, "passed_over": report.passed_over_count, "failed": report.failed_count,
        "findings": report.findings.len(),
    })
}

/// What was last proven of each host and set, if anything ever was on this machine.
pub(super) fn show_last_drills(global: &Global, repository: &Repository, output: &Output) {
    let proven = session::state(global, repository).and_then(|state| Proven::open_to_read(&state, repository));
    proven.iter().flat_map(Proven::last_drills).for_each(|drill| show_drill(&drill, output));
}

fn show_drill(drill: &LastDrill, output: &Output) {
    let record = || {
        json!({
            "type": "proven", "host": drill.host, "set": drill.set, "snapshot": drill.snapshot.to_string(), "time": drill.time.to_string(),
            "files": drill.file_count, "bytes": drill.byte_count,
        })
    };
    let set = if drill.set.is_empty() { String::new() } else { format!(" ({})", drill.set) };
    let (host, files, bytes) = (&drill.host, drill.file_count, size(drill.byte_count));
    output.show(
        || format!("last proven restorable: {}  {host}{set}  {files} files  {bytes}  up to {}", day(drill.time), drill.snapshot.short()),
        record,
    );
}

fn day(time: fs_core::time::Timestamp) -> String {
    Zone::system().local(time).map_or_else(|| time.to_string(), |local| local.civil.strftime("%Y-%m-%d %H:%M").to_string())
}
