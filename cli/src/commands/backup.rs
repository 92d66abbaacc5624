//! `backup`

use std::sync::Arc;

use backup_writer::backup::{BackupOptions, BackupReport, backup, dry_run};
use backup_writer::changes::ChangeList;
use backup_writer::pace::Pace;
use backup_writer::pause::Pauses;
use backup_writer::source::stream::{Input, Stream};
use fs_core::observer::Observer as _;
use fs_core::report::{Finding, Place, Severity, is_incomplete};
use fs_core::repository::Repository;
use fs_core::time::{Clock as _, SystemClock, Zone};

use crate::args::{Backup, Global};
use crate::error::{Exit, Failure};
use crate::nice;
use crate::output::Output;
use crate::progress::Watcher;
use crate::report::Report;
use crate::report::facts::Facts;
use crate::session;
use crate::system;

mod hooks;
mod show;

use hooks::Hooks;

pub(crate) fn run(global: &Global, options: &Backup, output: &Output) -> Result<Exit, Failure> {
    if options.is_empty() {
        let hint = "name files and folders, --device, --stdin or --command, or give the profile 'paths'";
        return Err(Failure::new(Exit::Usage, "nothing to save was named").hint(hint));
    }
    let of_profile = options.commands.iter().map(Stream::try_from).collect::<Result<Vec<_>, _>>()?;
    let streams = [options.other.streams(standard_input)?, of_profile].concat();
    let gentle = nice::yield_if(options.nice);
    if options.dry_run {
        return try_out(global, options, (streams, gentle, Pauses::default()), output);
    }
    let pauses = Pauses::new(options.pauses.clone(), Zone::system())
        .map_err(|error| Failure::new(Exit::Usage, error.to_string()).hint("leave an hour in which something can be saved"))?;
    let hooks = Hooks::new(global, options);
    let watcher = Watcher::new(global);
    // What is done before the backup may stop a service: the pause comes first.
    let pace = Pace::new(pauses.clone(), SystemClock::shared());
    let before = if pace.watched(&watcher, || pace.pass()) { hooks.before() } else { Ok(None) };
    watcher.finish();
    let result = match before {
        _ if watcher.is_cancelled() => Err(Failure::new(Exit::Interrupted, "the backup was interrupted before it began")),
        Ok(finding) => {
            output.findings(finding.as_slice());
            save(global, options, (streams, gentle, pauses), output).map(|(report, exit)| (report, worse(exit, finding.is_some())))
        }
        Err(failure) => Err(failure),
    };
    let finding = hooks.after(&result);
    output.findings(finding.as_slice());
    result.map(|(_, exit)| worse(exit, finding.is_some()))
}

/// What is saved, and how.
fn how(
    global: &Global,
    options: &Backup,
    repository: &Repository,
    (streams, gentle, pauses): (Vec<Stream>, bool, Pauses),
) -> Result<BackupOptions, Failure> {
    let offset = Zone::system().local(SystemClock.now()).map_or(0, |local| local.offset_seconds / 60);
    Ok(BackupOptions {
        paths: options.paths.clone(),
        shown_as: options.other.shown_as.clone(),
        devices: options.other.devices.clone(),
        streams,
        host: options.host.clone().unwrap_or_else(session::host_name),
        set: options.set.clone(),
        tags: options.tags.clone(),
        rules: options.rules.clone(),
        never: session::own_folders(global)?,
        state: session::state(global, repository),
        gentle,
        shadow_copies: !options.no_shadow_copies,
        reread: options.reread,
        compression: options.compression.unwrap_or_default().into(),
        pauses,
        utc_offset_minutes: offset,
        tool_version: concat!("yesterdrive ", env!("CARGO_PKG_VERSION")).into(),
        keep_changes: !options.reports.is_empty(),
    })
}

fn save(global: &Global, options: &Backup, streams: (Vec<Stream>, bool, Pauses), output: &Output) -> Result<(BackupReport, Exit), Failure> {
    let (repository, store) = session::open(global)?;
    let how = how(global, options, &repository, streams)?;
    let watcher = Watcher::new(global);
    let report = backup(&repository, &store, &how, &watcher);
    watcher.finish();
    let report = report?;
    show::saved(&report, output);
    let exit = if is_incomplete(&report.findings) { Exit::Findings } else { Exit::Done };
    let facts = || Ok(Facts::of_backup(&session::place(global, &repository)?, &report));
    let written = write_reports(options, facts, &report.findings, report.changes.as_deref(), &repository);
    output.findings(&written);
    Ok((report, worse(exit, !written.is_empty())))
}

/// Says what a backup would do. Hooks are not run: what they change is no dry run.
fn try_out(global: &Global, options: &Backup, streams: (Vec<Stream>, bool, Pauses), output: &Output) -> Result<Exit, Failure> {
    let (repository, _) = session::open(global)?;
    let how = how(global, options, &repository, streams)?;
    let watcher = Watcher::new(global);
    let dry = dry_run(&repository, &how, &watcher);
    watcher.finish();
    let dry = dry?;
    show::tried(&dry, output);
    let facts = || Ok(Facts::of_dry_run(&session::place(global, &repository)?, (&how.host, &how.tags, &how.tool_version), &dry));
    let written = write_reports(options, facts, &dry.findings, dry.changes.as_deref(), &repository);
    output.findings(&written);
    Ok(worse(if is_incomplete(&dry.findings) { Exit::Findings } else { Exit::Done }, !written.is_empty()))
}

/// Writes the reports that were asked for. What was saved is saved: a report that cannot be written is a finding.
fn write_reports(
    options: &Backup,
    facts: impl Fn() -> Result<Facts, Failure>,
    findings: &[Finding],
    changes: Option<&ChangeList>,
    repository: &Repository,
) -> Vec<Finding> {
    let mut met = Vec::new();
    for file in &options.reports {
        let report = |facts| Report { facts, findings, changes, repository };
        match facts().and_then(|facts| report(facts).write_file(&file.path, file.format)) {
            Ok(lost) => met.extend(lost),
            Err(failure) => {
                let message = format!("the report could not be written: {}", failure.message);
                met.push(Finding { severity: Severity::Warning, place: Place::Operation, message });
            }
        }
    }
    met
}

fn worse(exit: Exit, has_finding: bool) -> Exit {
    if has_finding && exit == Exit::Done { Exit::Findings } else { exit }
}

fn standard_input() -> Result<Input, Failure> {
    let Some(input) = system::standard_input()? else {
        let failure = Failure::new(Exit::Usage, "standard input is a terminal");
        return Err(failure.hint("pipe something into it, or let --command run what makes it"));
    };
    Ok(Input::Open(Arc::new(input)))
}
