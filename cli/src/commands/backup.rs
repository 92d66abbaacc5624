//! `backup`

use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use backup_writer::backup::{BackupOptions, BackupReport, backup};
use backup_writer::source::stream::{Input, Stream};
use fs_core::observer::Observer as _;
use fs_core::report::is_incomplete;
use fs_core::time::{Clock as _, SystemClock, Zone};
use serde_json::json;

use crate::args::backup::Nice;
use crate::args::{Backup, Global};
use crate::error::{Exit, Failure};
use crate::output::{Output, size};
use crate::progress::Watcher;
use crate::session;

mod hooks;

use hooks::Hooks;

/// Behind everything that runs at the usual 0, but never without any time at all.
const NICENESS: i32 = 10;

pub(crate) fn run(global: &Global, options: &Backup, output: &Output) -> Result<Exit, Failure> {
    if options.is_empty() {
        let hint = "name files and folders, --device, --stdin or --command, or give the profile 'paths'";
        return Err(Failure::new(Exit::Usage, "nothing to save was named").hint(hint));
    }
    let of_profile = options.commands.iter().map(Stream::try_from).collect::<Result<Vec<_>, _>>()?;
    let streams = [options.other.streams(standard_input)?, of_profile].concat();
    let gentle = is_gentle(options.nice);
    if gentle {
        yield_to_others();
    }
    let hooks = Hooks::new(global, options);
    let watcher = Watcher::new(global);
    let before = hooks.before();
    watcher.finish();
    let result = match before {
        _ if watcher.is_cancelled() => Err(Failure::new(Exit::Interrupted, "the backup was interrupted before it began")),
        Ok(finding) => {
            output.findings(finding.as_slice());
            save(global, options, (streams, gentle), output).map(|(report, exit)| (report, worse(exit, finding.is_some())))
        }
        Err(failure) => Err(failure),
    };
    let finding = hooks.after(&result);
    output.findings(finding.as_slice());
    result.map(|(_, exit)| worse(exit, finding.is_some()))
}

fn save(
    global: &Global,
    options: &Backup,
    (streams, gentle): (Vec<Stream>, bool),
    output: &Output,
) -> Result<(BackupReport, Exit), Failure> {
    let (repository, store) = session::open(global)?;
    let never = session::own_folders(global)?;
    let offset = Zone::system().local(SystemClock.now()).map_or(0, |local| local.offset_seconds / 60);
    let options = BackupOptions {
        paths: options.paths.clone(),
        shown_as: options.other.shown_as.clone(),
        devices: options.other.devices.clone(),
        streams,
        host: options.host.clone().unwrap_or_else(host_name),
        set: options.set.clone(),
        tags: options.tags.clone(),
        rules: options.rules.clone(),
        never,
        state: session::state(global, &repository),
        gentle,
        reread: options.reread,
        compression: options.compression.unwrap_or_default().into(),
        utc_offset_minutes: offset,
        tool_version: concat!("yesterdrive ", env!("CARGO_PKG_VERSION")).into(),
        keep_changes: false,
    };
    let watcher = Watcher::new(global);
    let report = backup(&repository, &store, &options, &watcher);
    watcher.finish();
    let report = report?;
    show(&report, output);
    let exit = if is_incomplete(&report.findings) { Exit::Findings } else { Exit::Done };
    Ok((report, exit))
}

fn show(report: &BackupReport, output: &Output) {
    output.findings(&report.findings);
    let stats = &report.stats;
    output.show(
        || {
            format!(
                "snapshot {}: {} files, {} ({} new, {} changed, {} unchanged, {} failed); {} added, {} stored",
                report.snapshot.short(),
                stats.file_count,
                size(stats.byte_count),
                stats.new_count,
                stats.changed_count,
                stats.unchanged_count,
                stats.failed_count,
                size(stats.new_bytes),
                size(stats.stored_bytes),
            )
        },
        || {
            json!({
                "type": "backup", "snapshot": report.snapshot.to_string(), "parent": report.parent.map(|id| id.to_string()),
                "files": stats.file_count, "directories": stats.directory_count, "others": stats.other_count, "bytes": stats.byte_count,
                "new": stats.new_count, "changed": stats.changed_count, "unchanged": stats.unchanged_count, "failed": stats.failed_count,
                "new_bytes": stats.new_bytes, "stored_bytes": stats.stored_bytes,
            })
        },
    );
}

fn worse(exit: Exit, has_finding: bool) -> Exit {
    if has_finding && exit == Exit::Done { Exit::Findings } else { exit }
}

fn standard_input() -> Result<Input, Failure> {
    let input = std::io::stdin();
    if input.is_terminal() {
        let failure = Failure::new(Exit::Usage, "standard input is a terminal");
        return Err(failure.hint("pipe something into it, or let --command run what makes it"));
    }
    Ok(Input::Open(Arc::new(input.as_fd().try_clone_to_owned()?)))
}

fn is_gentle(nice: Nice) -> bool {
    match nice {
        Nice::Yes => true,
        Nice::No => false,
        Nice::Auto => !std::io::stderr().is_terminal(),
    }
}

/// Before any thread is started: a thread has the priority of the one that starts it. The system derives the priority of reading from it.
fn yield_to_others() {
    let is_lower = rustix::process::getpriority_process(None).is_ok_and(|niceness| niceness >= NICENESS);
    if !is_lower && let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "the priority stays as it is");
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
