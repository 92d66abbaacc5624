//! `pin` and `unpin`: keep a part of a snapshot on this machine, and let go of it.

use backup_writer::what::What;
use fs_core::cache::{CacheUsage, DiskCache};
use fs_core::id::SnapshotId;
use fs_core::path::TreePath;
use fs_core::report::is_incomplete;
use fs_core::repository::{Pinned, Repository};
use serde_json::{Value, json};

use super::within;
use crate::args::{Global, Pin, Unpin};
use crate::error::{Exit, Failure};
use crate::output::{Output, put_bytes, size};
use crate::progress::Watcher;
use crate::session;

pub(crate) fn pin(global: &Global, options: &Pin, output: &Output) -> Result<Exit, Failure> {
    let Some(what) = options.what.as_ref().filter(|_| !options.list) else { return list(global, output) };
    // What is wrong with the path is told before a password is asked for.
    let place = within::Place::of(what)?;
    let repository = session::open_to_keep(global)?;
    repository.expect_contents()?;
    let What { snapshot, path } = place.find(&repository, &options.select)?;
    let watcher = Watcher::new(global);
    let report = repository.pin(&snapshot, &path, &watcher);
    watcher.finish();
    let report = report?;
    output.findings(&report.findings);
    let fetched = report.fetched_bytes;
    output.show(
        || {
            let (id, files, bytes, stored) =
                (snapshot.id.short(), report.file_count, size(report.pin.byte_count), size(report.stored_bytes));
            format!("pinned {id}:{path}: {files} files ({bytes}), {stored} on this machine, {} of it fetched now", size(fetched))
        },
        || {
            let mut record = json!({
                "type": "pinned", "snapshot": snapshot.id.to_string(), "files": report.file_count, "bytes": report.pin.byte_count,
                "stored_bytes": report.stored_bytes, "fetched_bytes": fetched, "findings": report.findings.len(),
            });
            put_bytes(&mut record, "path", &path.to_bytes());
            record
        },
    );
    Ok(if is_incomplete(&report.findings) { Exit::Findings } else { Exit::Done })
}

pub(crate) fn unpin(global: &Global, options: &Unpin, output: &Output) -> Result<Exit, Failure> {
    let place = options.what.as_deref().map(within::Place::of).transpose()?;
    let repository = session::open_to_keep(global)?;
    let usage = usage(&repository)?;
    let pins = repository.pins();
    let Some(place) = place else {
        for pin in &pins {
            let_go(&repository, pin, &usage, output)?;
        }
        // Those whose names were lost.
        if let Some(disk) = repository.disk() {
            usage.pins.keys().filter(|number| pins.iter().all(|pin| pin.number != **number)).for_each(|number| disk.release(*number));
        }
        return Ok(Exit::Done);
    };
    let (snapshot, path) = match &place {
        // A snapshot may have been forgotten meanwhile: then its pin is found by its own words.
        within::Place::Snapshot(wanted, path) => match pins.iter().find(|pin| is_named(&pin.snapshot, wanted) && pin.path == *path) {
            Some(pin) => (pin.snapshot, pin.path.clone()),
            None => {
                let What { snapshot, path } = place.find(&repository, &options.select)?;
                (snapshot.id, path)
            }
        },
        within::Place::Drive { .. } | within::Place::Here(_) => {
            let What { snapshot, path } = place.find(&repository, &options.select)?;
            (snapshot.id, path)
        }
    };
    let Some(pin) = pins.iter().find(|pin| (pin.snapshot, &pin.path) == (snapshot, &path)) else {
        let message = format!("{}:{path} is not pinned", snapshot.short());
        return Err(Failure::new(Exit::Failed, message).hint("'yesterdrive pin --list' lists what is"));
    };
    let_go(&repository, pin, &usage, output)?;
    Ok(Exit::Done)
}

fn is_named(snapshot: &SnapshotId, wanted: &str) -> bool {
    /// Fewer digits may mean several.
    const DIGITS_MIN: usize = 8;
    wanted.len() >= DIGITS_MIN && snapshot.to_string().starts_with(wanted)
}

fn let_go(repository: &Repository, pin: &Pinned, usage: &CacheUsage, output: &Output) -> Result<(), Failure> {
    repository.unpin(pin)?;
    let bytes = usage.pins.get(&pin.number).copied().unwrap_or(0);
    output.show(
        || format!("let go of {}:{}, {}", pin.snapshot.short(), pin.path, size(bytes)),
        || with_path(json!({"type": "unpinned", "snapshot": pin.snapshot.to_string(), "bytes": bytes}), &pin.path),
    );
    Ok(())
}

fn list(global: &Global, output: &Output) -> Result<Exit, Failure> {
    let repository = session::open_to_keep(global)?;
    let usage = usage(&repository)?;
    for pin in repository.pins() {
        let stored = usage.pins.get(&pin.number).copied().unwrap_or(0);
        output.show(
            || {
                let note = if pin.is_complete && stored > 0 { "" } else { "  incomplete: pin it again" };
                format!("{}:{}  {}, {} on this machine{note}", pin.snapshot.short(), pin.path, size(pin.byte_count), size(stored))
            },
            || {
                let record = json!({
                    "type": "pin", "snapshot": pin.snapshot.to_string(), "since": pin.since.to_string(), "bytes": pin.byte_count,
                    "stored_bytes": stored, "complete": pin.is_complete && stored > 0,
                });
                with_path(record, &pin.path)
            },
        );
    }
    Ok(Exit::Done)
}

fn with_path(mut record: Value, path: &TreePath) -> Value {
    put_bytes(&mut record, "path", &path.to_bytes());
    record
}

fn usage(repository: &Repository) -> Result<CacheUsage, Failure> {
    Ok(repository.disk().map(|disk| DiskCache::usage(disk.folder())).transpose()?.unwrap_or_default())
}
