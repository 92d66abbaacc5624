//! `backup`

use backup_writer::backup::{BackupOptions, backup};
use fs_core::compress::LEVEL_DEFAULT;
use fs_core::report::is_incomplete;
use fs_core::time::{Clock as _, SystemClock, Zone};
use serde_json::json;

use crate::args::{Backup, Global};
use crate::error::{Exit, Failure};
use crate::output::{Output, size};
use crate::progress::Watcher;
use crate::session;

pub(crate) fn run(global: &Global, options: &Backup, output: &Output) -> Result<Exit, Failure> {
    if options.paths.is_empty() {
        return Err(Failure::new(Exit::Usage, "nothing to save was named").hint("name files and folders, or give the profile 'paths'"));
    }
    let (repository, store) = session::open(global)?;
    let never = session::own_folders(global)?;
    let offset = Zone::system().local(SystemClock.now()).map_or(0, |local| local.offset_seconds / 60);
    let options = BackupOptions {
        paths: options.paths.clone(),
        host: options.host.clone().unwrap_or_else(host_name),
        set: options.set.clone(),
        tags: options.tags.clone(),
        rules: options.rules.clone(),
        never,
        state: session::state(global, &repository),
        reread: options.reread,
        level: LEVEL_DEFAULT,
        utc_offset_minutes: offset,
        tool_version: concat!("yesterdrive ", env!("CARGO_PKG_VERSION")).into(),
    };
    let watcher = Watcher::new(global);
    let report = backup(&repository, &store, &options, &watcher);
    watcher.finish();
    let report = report?;
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
    Ok(if is_incomplete(&report.findings) { Exit::Findings } else { Exit::Done })
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
