//! `prune`

use std::path::Path;

use backup_writer::forget::{ForgetError, authorise};
use backup_writer::merge::{MergeOptions, MergeReport};
use backup_writer::prolong::{Kept, Prolonged, Prolonging, to_go};
use backup_writer::prune::{Counted, Plan, PruneReport};
use fs_core::repository::Repository;
use fs_core::storage::{ObjectName, WriteStore};
use serde_json::json;

use super::merge;
use crate::args::{Global, Prune};
use crate::error::{Exit, Failure};
use crate::output::{Output, size};
use crate::progress::Watcher;
use crate::session;

pub(crate) fn run(global: &Global, options: &Prune, output: &Output) -> Result<Exit, Failure> {
    let (repository, store) = session::open(global)?;
    // Known before anything is walked.
    if !options.dry_run && !repository.ring().role.may_forget() {
        return Err(ForgetError::NotAllowed.into());
    }
    let watcher = Watcher::new(global);
    let planned = Plan::make(&repository, &options.options(), &watcher);
    let state = session::state(global, &repository);
    let done = planned.map_err(Failure::from).and_then(|plan| {
        if options.dry_run {
            return Ok((plan.report().clone(), None));
        }
        let signer = authorise(&repository, &*store, state.as_deref(), &session::host_name())?;
        let pruned = plan.execute(&*store, &signer)?;
        // Whatever becomes of it, what was pruned is told.
        let gone = pruned.deleted.iter().copied().collect();
        let merge_options = MergeOptions { grace: options.options().grace, gone, ..MergeOptions::default() };
        let merged = backup_writer::merge::run(&repository, &*store, &signer, &merge_options, &watcher);
        if let Ok(MergeReport { held, .. }) = &merged {
            note_leaving(state.as_deref(), &*store, held);
        }
        Ok((pruned, Some(merged)))
    });
    // Also if nothing could be pruned: what is not prolonged can be deleted some day, by anybody.
    let is_stopped = matches!(&done, Err(failure) if failure.exit == Exit::Interrupted);
    let prolonged = (!options.dry_run && !is_stopped).then(|| keep(state.as_deref(), (&repository, &*store), &watcher));
    watcher.finish();
    let (mut report, merged) = match done {
        Ok(done) => done,
        Err(failure) => {
            if let Some(Ok(prolonged)) = &prolonged {
                show_prolonged(prolonged, output);
            }
            return Err(failure);
        }
    };
    show(&report, options.dry_run, output);
    if let Some(prolonged) = prolonged.transpose()? {
        show_prolonged(&prolonged, output);
        report.findings.extend(prolonged.findings);
    }
    merge::conclude(report.findings, merged, output)
}

/// What a store that keeps its objects for a time does not let go of is not to be kept for longer.
fn note_leaving(state: Option<&Path>, store: &dyn WriteStore, held: &[ObjectName]) {
    let Some(state) = state.filter(|_| store.capabilities().retention.is_some()) else { return };
    if let Err(error) = Kept::open(state, store).and_then(|kept| kept.leave(held)) {
        tracing::warn!(%error, "what is to go cannot be remembered");
    }
}

/// In such a store, what is needed is kept for longer.
fn keep(state: Option<&Path>, (repository, store): (&Repository, &dyn WriteStore), watcher: &Watcher) -> Result<Prolonged, Failure> {
    let Some(due) = Prolonging::look(store, state)? else { return Ok(Prolonged::default()) };
    let is_to_go = to_go(repository, due.now)?;
    Ok(due.execute(is_to_go, watcher)?)
}

fn show_prolonged(prolonged: &Prolonged, output: &Output) {
    let Some(until) = prolonged.until else { return };
    output.show(
        || format!("{} objects are kept until {until} at least, against anybody's wish", prolonged.count),
        || json!({"type": "prolonged", "objects": prolonged.count, "leaving": prolonged.leaving, "until": until.to_string()}),
    );
}

fn show(report: &PruneReport, is_dry: bool, output: &Output) {
    output.show(|| lines(report, is_dry), || record(report, is_dry));
}

fn packs(counted: Counted) -> String {
    format!("{} packs of {}", counted.count, size(counted.bytes))
}

/// What there is, what goes now, what goes later: a line each, if there is something to say.
fn lines(report: &PruneReport, is_dry: bool) -> String {
    let verb = |done: &str, would: &str| if is_dry { would.to_owned() } else { done.to_owned() };
    let mut lines =
        vec![format!("{}, of which snapshots need {} in {} records", packs(report.packs), size(report.live.bytes), report.live.count)];
    let mut line = |is_said: bool, text: String| {
        if is_said {
            lines.push(text);
        }
    };
    let swept = verb("deleted", "would delete");
    line(
        report.swept.count + report.snapshots_swept > 0,
        format!("{swept} {}, and {} forgotten snapshots: condemned long enough ago", packs(report.swept), report.snapshots_swept),
    );
    line(report.snapshots_lost > 0, format!("{} missing snapshots are given up for lost, and forgotten", report.snapshots_lost));
    line(report.left.count > 0, format!("left for the next run: {}, because one run deletes no more (--max-delete)", packs(report.left)));
    line(report.deferred > 0, format!("the store does not let go of {} objects yet: the next run tries again", report.deferred));
    let repacked = verb("packed anew", "would pack anew");
    line(
        report.repacked.count > 0,
        format!("{repacked} {}: {} of them are needed, read and sent again", packs(report.repacked), size(report.moved.bytes)),
    );
    line(report.not_repacked.count > 0, format!("not packed anew: {} (--max-repack)", packs(report.not_repacked)));
    let condemned = verb("condemned", "would condemn");
    line(
        report.condemned.count + report.snapshots_condemned > 0,
        format!("{condemned} {}, and {} forgotten snapshots: nothing is lost yet", packs(report.condemned), report.snapshots_condemned),
    );
    line(report.pending.count > 0, format!("condemned before, and not due yet: {}", packs(report.pending)));
    line(
        report.young.count > 0,
        format!(
            "needed by no snapshot, and left alone for now because a backup that runs may be about to (--min-age): {}",
            packs(report.young)
        ),
    );
    if let Some(due) = report.next_due {
        line(true, format!("the next 'yesterdrive prune' deletes what is condemned from {due} on"));
    }
    if is_dry {
        line(true, format!("dry run, nothing was changed; it would take about {} requests", report.requests));
    }
    lines.join("\n")
}

fn record(report: &PruneReport, is_dry: bool) -> serde_json::Value {
    let counted = |counted: Counted| json!({"count": counted.count, "bytes": counted.bytes});
    json!({
        "type": "prune", "dry_run": is_dry, "packs": counted(report.packs), "live": counted(report.live),
        "swept": counted(report.swept), "snapshots_swept": report.snapshots_swept, "snapshots_lost": report.snapshots_lost, "left": counted(report.left), "deferred": report.deferred,
        "condemned": counted(report.condemned), "snapshots_condemned": report.snapshots_condemned,
        "repacked": counted(report.repacked), "moved": counted(report.moved), "not_repacked": counted(report.not_repacked),
        "young": counted(report.young), "pending": counted(report.pending), "marks_removed": report.marks_removed,
        "next_due": report.next_due.map(|due| due.to_string()), "requests": if is_dry { json!(report.requests) } else { json!(null) },
        "findings": report.findings.len(),
    })
}
