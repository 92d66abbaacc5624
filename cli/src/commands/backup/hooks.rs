//! Commands of the user before and after a backup.

use std::process::Stdio;

use backup_writer::backup::BackupReport;
use backup_writer::system::shell;
use fs_core::report::{Finding, Place, Severity};

use crate::args::{Backup, Global};
use crate::error::{Exit, Failure};
use crate::system;

/// What is run around a backup.
pub(super) struct Hooks<'a> {
    global: &'a Global,
    options: &'a Backup,
}

impl<'a> Hooks<'a> {
    pub(super) fn new(global: &'a Global, options: &'a Backup) -> Self {
        Self { global, options }
    }

    /// Runs the command before. Its failure is a finding where it may fail.
    pub(super) fn before(&self) -> Result<Option<Finding>, Failure> {
        match self.options.before.as_deref().map_or(Ok(()), |command| self.run(command, "before", Vec::new())) {
            Err(reason) if self.options.before_may_fail => Ok(Some(finding(format!("the command before the backup failed: {reason}")))),
            Err(reason) => {
                let message = format!("the command before the backup failed: {reason}; nothing was saved");
                Err(Failure::new(Exit::Failed, message).hint("--before-may-fail saves all the same"))
            }
            Ok(()) => Ok(None),
        }
    }

    /// Runs the command afterwards, told how it ended.
    pub(super) fn after(&self, result: &Result<(BackupReport, Exit), Failure>) -> Option<Finding> {
        let command = self.options.after.as_deref()?;
        let exit = result.as_ref().map_or_else(|failure| failure.exit, |(_, exit)| *exit);
        let word = match exit {
            Exit::Done => "done",
            Exit::Findings => "findings",
            Exit::Interrupted => "interrupted",
            Exit::Failed | Exit::Usage | Exit::WrongKey | Exit::Unreachable => "failed",
        };
        let mut told = vec![("RESULT", word.to_owned()), ("EXIT", exit.code().to_string())];
        match result {
            Ok((report, _)) => {
                let stats = &report.stats;
                told.push(("SNAPSHOT", report.snapshot.to_string()));
                told.push(("FINDINGS", report.findings.len().to_string()));
                let counts = [
                    ("FILES", stats.file_count),
                    ("BYTES", stats.byte_count),
                    ("NEW", stats.new_count),
                    ("CHANGED", stats.changed_count),
                    ("UNCHANGED", stats.unchanged_count),
                    ("FAILED", stats.failed_count),
                    ("NEW_BYTES", stats.new_bytes),
                    ("STORED_BYTES", stats.stored_bytes),
                    ("REMOVED", stats.removed_count),
                    ("LEFT_OUT", stats.left_out_count),
                    ("READ_BYTES", stats.read_bytes),
                    ("SENT_BYTES", stats.sent_bytes),
                ];
                told.extend(counts.map(|(name, count)| (name, count.to_string())));
            }
            Err(failure) => told.push(("ERROR", failure.message.clone())),
        }
        let reason = self.run(command, "after", told).err()?;
        Some(finding(format!("the command after the backup failed: {reason}")))
    }

    /// What a command prints goes where messages go: standard output is for results.
    fn run(&self, command: &str, when: &str, told: Vec<(&str, String)>) -> Result<(), String> {
        let output = system::standard_error().map_err(|error| error.to_string())?;
        let mut shell = shell(command);
        // The password is nobody else's business; a file or a command that gives it may be used by a hook that calls this program.
        shell.stdin(Stdio::null()).stdout(output).env_remove("YESTERDRIVE_PASSWORD");
        shell.env("YESTERDRIVE_HOOK", when);
        if let Some(repository) = &self.global.repository {
            shell.env("YESTERDRIVE_REPOSITORY", repository);
        }
        shell.envs(told.into_iter().map(|(name, value)| (format!("YESTERDRIVE_{name}"), value)));
        let status = shell.status().map_err(|error| error.to_string())?;
        if status.success() { Ok(()) } else { Err(status.to_string()) }
    }
}

fn finding(message: String) -> Finding {
    Finding { severity: Severity::Warning, place: Place::Operation, message }
}
