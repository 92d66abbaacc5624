//! `repo`

use std::io::IsTerminal as _;
use std::path::Path;

use backup_writer::close::{DestroyReport, close, destroy, reopen};
use fs_core::repository::Repository;
use serde_json::json;

use crate::args::{Global, Repo};
use crate::error::{Exit, Failure};
use crate::output::{Output, size};
use crate::progress::Watcher;
use crate::{secret, session};

pub(crate) fn run(global: &Global, command: &Repo, output: &Output) -> Result<Exit, Failure> {
    let (repository, store) = session::open(global)?;
    match command {
        Repo::Close { undo: true, .. } => {
            reopen(&repository, &*store)?;
            output.show(
                || "the repository goes on".into(),
                || json!({"type": "repository_reopened", "repository": repository.id().to_string()}),
            );
            Ok(Exit::Done)
        }
        Repo::Close { grace, .. } => {
            let closing = close(&repository, &*store, *grace)?;
            output.show(
                || {
                    format!(
                        "closed: nothing is saved any more; everything can be fetched until {}, and be destroyed from then on",
                        closing.due
                    )
                },
                || json!({"type": "repository_closed", "repository": repository.id().to_string(), "due": closing.due.to_string()}),
            );
            Ok(Exit::Done)
        }
        Repo::Destroy { confirm, report } => {
            expect(&repository, confirm.as_deref())?;
            let watcher = Watcher::new(global);
            let destroyed = destroy(&repository, &*store, &watcher);
            watcher.finish();
            tell(global, &destroyed?, report.as_deref(), output)
        }
    }
}

/// Makes sure that it is the repository that somebody means.
fn expect(repository: &Repository, confirm: Option<&str>) -> Result<(), Failure> {
    let id = repository.id().to_string();
    let said = match confirm {
        Some(said) => said.to_owned(),
        None if std::io::stdin().is_terminal() => {
            secret::ask_line(&format!("This deletes everything in repository {id}. Type its id: "))?.trim().to_owned()
        }
        None => return Err(Failure::new(Exit::Usage, "without a terminal, say which repository is meant").hint("--confirm ID")),
    };
    if said == id { Ok(()) } else { Err(Failure::new(Exit::Usage, format!("'{said}' is not the id of this repository, which is {id}"))) }
}

fn tell(global: &Global, report: &DestroyReport, file: Option<&Path>, output: &Output) -> Result<Exit, Failure> {
    let (text, record) = (text(global, report)?, record(global, report)?);
    if let Some(file) = file {
        let is_json = file.extension().is_some_and(|extension| extension == "json");
        std::fs::write(file, if is_json { format!("{record}\n") } else { text.clone() })?;
    }
    output.show(|| text.trim_end().into(), || record);
    Ok(if report.kept.is_empty() { Exit::Done } else { Exit::Findings })
}

fn text(global: &Global, report: &DestroyReport) -> Result<String, Failure> {
    let (count, bytes) = report.total();
    let mut text = format!(
        "Proof of deletion\nrepository {}\nin {}\nfrom {} to {}\ndeleted {count} objects with {}\n",
        report.repository,
        session::address(global)?,
        report.started,
        report.ended,
        size(bytes)
    );
    for (kind, (count, bytes)) in &report.deleted {
        text.push_str(&format!("  {kind:<5} {count:>9}  {}\n", size(*bytes)));
    }
    text.push_str(&format!("hash of the list of their names and sizes (BLAKE3) {}\n", report.list_hash));
    if report.kept.is_empty() {
        text.push_str(
            "afterwards the store listed nothing that belongs to it. What a store keeps of older versions, only the store can delete.\n",
        );
    } else {
        text.push_str(&format!(
            "the store holds on to {} objects, among them {}: run it again when it lets them go\n",
            report.kept.len(),
            report.kept.first().map_or("", |name| name)
        ));
    }
    Ok(text)
}

fn record(global: &Global, report: &DestroyReport) -> Result<serde_json::Value, Failure> {
    let (count, bytes) = report.total();
    let kinds: serde_json::Map<_, _> =
        report.deleted.iter().map(|(kind, (count, bytes))| (kind.clone(), json!({"objects": count, "bytes": bytes}))).collect();
    Ok(json!({
        "type": "destroyed", "repository": report.repository.to_string(), "address": session::address(global)?.to_string(),
        "started": report.started.to_string(), "ended": report.ended.to_string(), "objects": count, "bytes": bytes, "kinds": kinds,
        "list_hash": report.list_hash.to_string(), "kept": report.kept,
    }))
}
