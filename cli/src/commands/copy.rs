//! `copy`

use std::sync::Arc;

use backup_writer::copy::{CopyOptions, CopyReport, Purpose, WHOLE, copy};
use backup_writer::prune::Counted;
use fs_core::crypto::{SystemRandom, random_array};
use fs_core::report::is_incomplete;
use fs_core::storage::address::Address;
use fs_core::storage::local::strangers::{StrangerKind, strangers};
use fs_core::storage::{self, WriteStore, wait};
use fs_core::time::SystemClock;
use serde_json::{Value, json};

use crate::args::{Copy, Global};
use crate::error::{Exit, Failure};
use crate::nice;
use crate::output::{Output, size};
use crate::progress::Watcher;
use crate::session;

mod snapshots;

/// How much of what both sides have is read where that costs no line: of folders, in per cent.
const SAMPLE: u8 = 2;

pub(crate) fn run(global: &Global, options: &Copy, output: &Output) -> Result<Exit, Failure> {
    nice::yield_if(options.nice);
    if let Some(wanted) = &options.snapshots.wanted {
        return snapshots::run(global, (options, wanted), output);
    }
    let from = (session::address(global)?, session::store(global)?);
    let parse = |text: &String| Address::parse(text).map_err(|error| Failure::new(Exit::Usage, error.to_string()));
    let places = options.to.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    if places.iter().any(|to| is_same(to, &from.0)) {
        return Err(Failure::new(Exit::Usage, "the repository and its copy are in one place").hint("name another place after --to"));
    }
    let mut worst = Exit::Done;
    for (at, to) in places.iter().enumerate() {
        match one(global, options, &from, to, output) {
            Ok(exit) if worst == Exit::Done => worst = exit,
            Ok(_) => {}
            // The others are copied all the same.
            Err(failure) if at + 1 < places.len() && failure.exit != Exit::Interrupted => {
                let message = format!("{to}: {}", failure.message);
                worst = failure.exit;
                output.failure(&Failure { message, ..failure });
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(worst)
}

fn one(global: &Global, options: &Copy, from: &(Address, Arc<dyn WriteStore>), to: &Address, output: &Output) -> Result<Exit, Failure> {
    let sample = |address: &Address| match address {
        _ if options.verify => WHOLE,
        Address::Folder(_) => SAMPLE,
        Address::Cloud { .. } | Address::Sftp { .. } | Address::WebDav { .. } => 0,
    };
    let how = CopyOptions {
        dry_run: options.dry_run,
        verify: (sample(&from.0), sample(to)),
        heal: !options.no_heal,
        bring_back: options.bring_back,
        despite_damage: options.despite_damage,
        delete_after: options.delete_after,
        ..usual(global, Purpose::Copy)
    };
    let report = between(global, (&*from.1, to), &how, output)?;
    output.show(|| lines(&report, options.dry_run, to), || record("copy", &report, options.dry_run, to));
    Ok(if is_incomplete(&report.findings) { Exit::Findings } else { Exit::Done })
}

/// How it is done unless somebody says otherwise, on this machine.
pub(crate) fn usual(global: &Global, purpose: Purpose) -> CopyOptions {
    let seed = u64::from_le_bytes(random_array(&SystemRandom));
    CopyOptions { state: global.cache_dir.clone(), ..CopyOptions::new(purpose, seed, SystemClock::shared()) }
}

/// Copies, and tells what was found. Of a dry run a place that is not there yet stays so.
pub(crate) fn between(
    global: &Global,
    (from, to): (&dyn WriteStore, &Address),
    how: &CopyOptions,
    output: &Output,
) -> Result<CopyReport, Failure> {
    let to = if how.dry_run && is_new(to) { Arc::new(storage::memory::MemoryStore::new()) as _ } else { place_for(global, to)? };
    let watcher = Watcher::new(global);
    let done = copy(from, &*to, how, &watcher);
    watcher.finish();
    let report = done?;
    output.first_findings(&report.findings, "--json shows all of them");
    Ok(report)
}

fn is_same(one: &Address, other: &Address) -> bool {
    match (one, other) {
        (Address::Folder(one), Address::Folder(other)) => {
            one == other || one.canonicalize().ok().is_some_and(|one| other.canonicalize().is_ok_and(|other| one == other))
        }
        _ => one == other,
    }
}

fn is_new(address: &Address) -> bool {
    matches!(address, Address::Folder(path) if !path.exists())
}

/// The store for a copy: made if it is not there. A folder that holds something else is refused.
fn place_for(global: &Global, address: &Address) -> Result<Arc<dyn WriteStore>, Failure> {
    let Address::Folder(path) = address else { return Ok(storage::create(address, &global.remote)?) };
    if is_new(address) {
        return Ok(storage::create(address, &global.remote)?);
    }
    let store = storage::open(address, &global.remote)?;
    let is_foreign = |kind: &StrangerKind| matches!(kind, StrangerKind::Foreign(_) | StrangerKind::Special);
    if wait("", store.list("", None))?.is_empty() && strangers(path)?.iter().any(|stranger| is_foreign(&stranger.kind)) {
        return Err(Failure::new(Exit::Failed, format!("{} holds other things, and no copy of a repository", path.display()))
            .hint("name a folder of its own, which is made"));
    }
    Ok(store)
}

fn objects(counted: Counted) -> String {
    format!("{} objects of {}", counted.count, size(counted.bytes))
}

/// What was copied, then a line for each thing that is not as usual.
pub(crate) fn lines(report: &CopyReport, is_dry: bool, to: &Address) -> String {
    let verb = if is_dry { "would copy" } else { "copied" };
    let mut lines = vec![format!("{verb} {} to {to}, of {}", objects(report.copied), objects(report.objects))];
    let mut line = |counted: Counted, text: &str| {
        if counted.count > 0 {
            lines.push(format!("{text}: {}", objects(counted)));
        }
    };
    line(report.held_back, "left for the next run");
    line(report.verified, "read and found in order beside them");
    line(report.healed, "damaged in the repository, put anew from the copy");
    line(report.healed_in_copy, "damaged in the copy, put anew from the repository");
    line(report.missing, "in the copy only");
    line(report.brought_back, "put back into the repository");
    line(report.deleted, "deleted in the copy");
    if report.damaged > 0 {
        lines.push(format!("damaged or not to be read, and not healed: {} objects", report.damaged));
    }
    if report.prolonged > 0 {
        lines.push(format!("kept in the copy for longer, against anybody's wish: {} objects", report.prolonged));
    }
    if report.deletions_waiting > 0 {
        lines.push(format!("to be deleted in the copy later: {} objects", report.deletions_waiting));
    }
    lines.join("\n")
}

pub(crate) fn record(kind: &str, report: &CopyReport, is_dry: bool, to: &Address) -> Value {
    json!({
        "type": kind, "dry_run": is_dry, "repository": report.repository.map(|id| id.to_string()), "to": to.to_string(),
        "objects": counted(report.objects), "copied": counted(report.copied), "held_back": counted(report.held_back),
        "verified": counted(report.verified), "healed": counted(report.healed), "healed_in_copy": counted(report.healed_in_copy),
        "damaged": report.damaged, "missing": counted(report.missing), "brought_back": counted(report.brought_back),
        "deleted": counted(report.deleted), "deletions_waiting": report.deletions_waiting, "prolonged": report.prolonged, "findings": report.findings.len(),
    })
}

fn counted(counted: Counted) -> Value {
    json!({"count": counted.count, "bytes": counted.bytes})
}
