//! `snapshots`

use fs_core::path::display;
use fs_core::report::Finding;
use fs_core::repository::{Forgotten, Snapshots as Listed};
use fs_core::snapshot::{Manifest, Snapshot};
use fs_core::time::Zone;
use serde_json::json;

use super::check::show_last_drills;
use crate::args::{Global, Snapshots};
use crate::error::{Exit, Failure};
use crate::output::{Output, size};
use crate::session;

pub(crate) fn run(global: &Global, options: &Snapshots, output: &Output) -> Result<Exit, Failure> {
    let (repository, _) = session::open(global)?;
    let Listed { live: mut snapshots, mut forgotten, findings, .. } = repository.all_snapshots()?;
    let filter = session::filter(&options.select);
    if options.forgotten {
        forgotten.retain(|forgotten| filter.matches(&forgotten.snapshot));
        return show_forgotten(&forgotten, options.last, output).map(|()| exit(&findings, output));
    }
    snapshots.retain(|snapshot| filter.matches(snapshot));
    let skipped = snapshots.len().saturating_sub(options.last.unwrap_or(usize::MAX));
    let zone = Zone::system();
    for snapshot in snapshots.iter().skip(skipped) {
        let manifest = snapshot.manifest()?;
        output.show(|| line(snapshot, &manifest, &zone), || record(snapshot, &manifest));
    }
    show_last_drills(global, &repository, output);
    Ok(exit(&findings, output))
}

fn exit(findings: &[Finding], output: &Output) -> Exit {
    output.findings(findings);
    if findings.is_empty() { Exit::Done } else { Exit::Findings }
}

/// What can be brought back, with when it was forgotten and why.
fn show_forgotten(all: &[Forgotten], last: Option<usize>, output: &Output) -> Result<(), Failure> {
    let zone = Zone::system();
    for forgotten in all.iter().skip(all.len().saturating_sub(last.unwrap_or(usize::MAX))) {
        let manifest = forgotten.snapshot.manifest()?;
        let (since, why) = (session::forgotten_on(forgotten), forgotten.newest().map_or("", |said| &said.why));
        let said = || format!("{}  forgotten on {since} ({why})", line(&forgotten.snapshot, &manifest, &zone));
        output.show(said, || {
            let mut record = record(&forgotten.snapshot, &manifest);
            let run = forgotten.newest().map(|said| said.run.to_string());
            for (field, value) in [("forgotten", json!(since)), ("why", json!(why)), ("run", json!(run))] {
                record.as_object_mut().into_iter().for_each(|record| drop(record.insert(field.to_owned(), value.clone())));
            }
            record
        });
    }
    Ok(())
}

fn line(snapshot: &Snapshot, manifest: &Manifest, zone: &Zone) -> String {
    let time = zone
        .local(manifest.started)
        .map_or_else(|| manifest.started.to_string(), |local| local.civil.strftime("%Y-%m-%d %H:%M:%S").to_string());
    let set = if manifest.set.is_empty() { String::new() } else { format!(" ({})", manifest.set) };
    let paths: Vec<_> = manifest.sources.iter().map(|source| display(&source.path)).collect();
    let incomplete = if snapshot.sealed { "" } else { "  incomplete" };
    let (id, files, bytes) = (snapshot.id.short(), manifest.stats.file_count, size(manifest.stats.byte_count));
    let copy = manifest.original.map_or_else(String::new, |original| format!("  copy of {}", original.snapshot.short()));
    format!("{id}  {time}  {}{set}  {files} files  {bytes}  {}{incomplete}{copy}", manifest.host, paths.join(" "))
}

fn record(snapshot: &Snapshot, manifest: &Manifest) -> serde_json::Value {
    json!({
        "type": "snapshot", "id": snapshot.id.to_string(), "sealed": snapshot.sealed, "host": manifest.host, "set": manifest.set,
        "started": manifest.started.to_string(), "ended": manifest.ended.to_string(), "tags": manifest.tags,
        "paths": manifest.sources.iter().map(|source| display(&source.path)).collect::<Vec<_>>(),
        "files": manifest.stats.file_count, "bytes": manifest.stats.byte_count, "failed": manifest.stats.failed_count,
        "device": manifest.device.to_string(), "sequence": manifest.sequence,
        "original": manifest.original.map(|original| json!({
            "repository": original.repository.to_string(), "snapshot": original.snapshot.to_string(), "copied": original.copied.to_string(),
        })),
    })
}
