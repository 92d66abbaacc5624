//! `copy --snapshots`

use std::collections::HashSet;
use std::io::IsTerminal as _;

use backup_writer::copy::snapshots::{Copied, SnapshotCopy, SnapshotCopyError, SnapshotCopyOptions};
use fs_core::report::is_incomplete;
use fs_core::repository::{Repository, RepositoryError};
use fs_core::snapshot::Snapshot;
use fs_core::storage::address::Address;
use serde_json::json;

use super::is_same;
use crate::args::{Copy, Global, Select};
use crate::error::{Exit, Failure};
use crate::output::{Output, size};
use crate::progress::Watcher;
use crate::session;

pub(super) fn run(global: &Global, (options, wanted): (&Copy, &[String]), output: &Output) -> Result<Exit, Failure> {
    let [to] = &options.to[..] else {
        let hint = "each repository has keys of its own: run it once for each";
        return Err(Failure::new(Exit::Usage, "--snapshots copies into one repository").hint(hint));
    };
    let address = Address::parse(to).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    if is_same(&address, &session::address(global)?) {
        let hint = "name another repository after --to";
        return Err(Failure::new(Exit::Usage, "a repository cannot be copied into itself").hint(hint));
    }
    let flags = &options.snapshots;
    if flags.to_password_file.is_none() && flags.to_key_file.is_none() && !std::io::stdin().is_terminal() {
        let hint = "use --to-password-file or --to-key-file";
        return Err(
            Failure::new(Exit::Usage, format!("nothing opens {address}, and there is no terminal to ask for a password")).hint(hint)
        );
    }
    let (from, _) = session::open_contents(global)?;
    let there = global.for_other(to, flags.to_password_file.clone(), flags.to_key_file.clone());
    let (repository, store) = session::open(&there).map_err(|failure| of_other(&address, failure))?;
    let named = named(&from, wanted)?;
    let copy = SnapshotCopy::look(&from, &repository, named.as_ref()).map_err(|error| of(&address, error))?;
    output.findings(&copy.findings);
    let found = if copy.findings.is_empty() { Exit::Done } else { Exit::Findings };
    let counts = (copy.missing.len(), copy.copied_before, copy.at_home);
    if options.dry_run {
        for snapshot in &copy.missing {
            output.show(|| would(snapshot), || record(snapshot));
        }
        finish(&repository, &address, (0, counts), output);
        return Ok(found);
    }
    let how = SnapshotCopyOptions {
        machine: session::host_name(),
        state: session::state(&there, &repository),
        compression: flags.compression.unwrap_or_default().into(),
    };
    let watcher = Watcher::new(global);
    let (mut copied, mut worst) = (0, found);
    let done = copy.run(&store, &how, &watcher, &mut |one| {
        copied += 1;
        if is_incomplete(&one.report.findings) {
            worst = Exit::Findings;
        }
        tell(one, output);
    });
    watcher.finish();
    done.map_err(|error| of(&address, error))?;
    finish(&repository, &address, (copied, counts), output);
    Ok(worst)
}

/// Those that are named; `None` for all.
fn named(from: &Repository, wanted: &[String]) -> Result<Option<HashSet<fs_core::id::SnapshotId>>, Failure> {
    if wanted.is_empty() {
        return Ok(None);
    }
    let snapshots = from.all_snapshots()?;
    let one = |wanted: &String| {
        let snapshot = session::select_of(&snapshots, wanted, &Select::default())?;
        if snapshot.sealed {
            return Ok(snapshot.id);
        }
        let failure = Failure::new(Exit::Failed, format!("snapshot {} is incomplete", snapshot.id.short()));
        Err(failure.hint("its run was interrupted, or is under way: only complete ones are copied"))
    };
    wanted.iter().map(one).collect::<Result<_, _>>().map(Some)
}

/// What is wrong with the other repository is said of that.
fn of_other(address: &Address, failure: Failure) -> Failure {
    let hint = match failure.exit {
        Exit::Unreachable => Some(format!("check the address, or create that repository first: 'yesterdrive --repository {address} init'")),
        Exit::WrongKey => Some("check --to-password-file or --to-key-file".to_owned()),
        _ => None,
    };
    let hint = hint.or(failure.hint);
    Failure { message: format!("{address}: {}", failure.message), hint, exit: failure.exit }
}

fn of(address: &Address, error: SnapshotCopyError) -> Failure {
    match error {
        SnapshotCopyError::To(error @ RepositoryError::Store(_)) => of_other(address, error.into()),
        error => error.into(),
    }
}

fn tell(Copied { original, report }: &Copied, output: &Output) {
    let (stats, id) = (&report.stats, report.snapshot.short());
    output.first_findings(&report.findings, &format!("report {id} of the other repository"));
    output.show(
        || {
            let bytes = [("read", stats.read_bytes), ("new", stats.new_bytes), ("sent", stats.sent_bytes)];
            let bytes = bytes.map(|(name, bytes)| format!("{name} {}", size(bytes))).join(", ");
            format!("copied {} as {id}: {} files, {}; {bytes}", original.short(), stats.file_count, size(stats.byte_count))
        },
        || {
            json!({
                "type": "snapshot_copied", "original": original.to_string(), "snapshot": report.snapshot.to_string(),
                "started": report.manifest.started.to_string(), "host": report.manifest.host, "set": report.manifest.set,
                "parent": report.parent.map(|id| id.to_string()), "files": stats.file_count, "bytes": stats.byte_count, "failed": stats.failed_count,
                "read_bytes": stats.read_bytes, "new_bytes": stats.new_bytes, "stored_bytes": stats.stored_bytes, "sent_bytes": stats.sent_bytes,
                "findings": report.findings.len(),
            })
        },
    );
}

fn would(snapshot: &Snapshot) -> String {
    let set = if snapshot.set().is_empty() { String::new() } else { format!(" ({})", snapshot.set()) };
    format!("would copy {}  {}  {}{set}", snapshot.id.short(), snapshot.started(), snapshot.host())
}

fn record(snapshot: &Snapshot) -> serde_json::Value {
    let (id, started) = (snapshot.id.to_string(), snapshot.started().to_string());
    json!({"type": "snapshot_to_copy", "original": id, "started": started, "host": snapshot.host(), "set": snapshot.set()})
}

/// How many there were of each kind.
fn finish(to: &Repository, address: &Address, (copied, (missing, before, at_home)): (usize, (usize, u64, u64)), output: &Output) {
    output.show(
        || {
            let waiting = if copied < missing { format!("{missing} snapshots to copy") } else { format!("copied {copied} snapshots") };
            let back = if at_home > 0 { format!(", {at_home} came from there") } else { String::new() };
            format!("{waiting} to {address}; {before} were copied before{back}")
        },
        || {
            json!({
                "type": "copy_snapshots", "repository": to.id().to_string(), "to": address.to_string(), "missing": missing, "copied": copied,
                "copied_before": before, "came_from_there": at_home,
            })
        },
    );
}
