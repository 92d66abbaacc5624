//! What stands above the list: each fact once, with its name for programs and its words for people.

use std::time::Duration;

use backup_writer::backup::{BackupReport, DryRun};
use backup_writer::packer::StageTimes;
use fs_core::id::{RepositoryId, SnapshotId};
use fs_core::path::display;
use fs_core::report::{Finding, Stats};
use fs_core::snapshot::{Manifest, Original};
use fs_core::time::Timestamp;
use serde_json::{Value, json};

use super::{local, optional, warning_count};
use crate::output::size;

/// One fact.
pub(crate) struct Fact {
    /// Its name in JSON and CSV.
    pub(crate) key: &'static str,
    /// For people; empty where they need not see it.
    pub(crate) label: &'static str,
    /// For programs.
    pub(crate) value: Value,
    /// For people.
    pub(crate) text: String,
}

/// All facts of a run.
pub(crate) struct Facts {
    /// What the report is of, in a few words.
    pub(crate) title: String,
    /// In the order in which they are shown.
    pub(crate) facts: Vec<Fact>,
    /// Numbers.
    pub(crate) stats: Stats,
}

/// Which repository: its id, and where it lies, without any secret.
pub(crate) type Where = (RepositoryId, String);

/// What a manifest and a dry run have in common.
struct Run<'a> {
    host: &'a str,
    set: &'a str,
    sources: Vec<&'a [u8]>,
    tags: &'a [String],
    times: (Timestamp, Timestamp),
    parent: Option<SnapshotId>,
    tool: &'a str,
}

impl Facts {
    /// Of a run that has just ended.
    pub(crate) fn of_backup(at: &Where, report: &BackupReport) -> Self {
        let mut facts = Self::of_snapshot(at, report.snapshot, &report.manifest, (true, &report.findings));
        facts.busy(&report.times);
        facts
    }

    /// Of a snapshot, from what stands in the repository.
    pub(crate) fn of_snapshot(at: &Where, id: SnapshotId, manifest: &Manifest, (sealed, findings): (bool, &[Finding])) -> Self {
        let run = Run {
            host: &manifest.host,
            set: &manifest.set,
            sources: manifest.sources.iter().map(|source| &*source.path).collect(),
            tags: &manifest.tags,
            times: (manifest.started, manifest.ended),
            parent: manifest.parent,
            tool: &manifest.tool_version,
        };
        let mut facts =
            Self { title: format!("Backup of {}", display(manifest.host.as_bytes())), facts: Vec::new(), stats: manifest.stats };
        facts.result(if sealed { "done" } else { "incomplete" }, findings);
        facts.say("snapshot", "Snapshot", json!(id.to_string()), id);
        facts.run(at, &run);
        facts.bytes(false);
        let previous = manifest.previous;
        facts.say("device", "Device", json!(manifest.device.to_string()), manifest.device);
        facts.say("sequence", "Number in its chain", json!(manifest.sequence), manifest.sequence);
        let text = previous.map_or("none: it is the first of this device".to_owned(), |previous| previous.to_string());
        facts.say("previous", "Snapshot before it in the chain", optional(previous), text);
        if let Some(Original { repository, snapshot, copied }) = &manifest.original {
            let value = json!({"repository": repository.to_string(), "snapshot": snapshot.to_string(), "copied": copied.to_string()});
            facts.say("original", "Copy of snapshot", value, format!("{snapshot} of repository {repository}, on {copied}"));
        }
        facts
    }

    /// Of a dry run.
    pub(crate) fn of_dry_run(at: &Where, (host, tags, tool): (&str, &[String], &str), dry: &DryRun) -> Self {
        let sources = dry.sources.iter().map(|path| &**path).collect();
        let run = Run { host, set: &dry.set, sources, tags, times: (dry.started, dry.ended), parent: dry.parent, tool };
        let mut facts = Self { title: format!("Dry run of a backup of {}", display(host.as_bytes())), facts: Vec::new(), stats: dry.stats };
        facts.result("dry_run", &dry.findings);
        facts.run(at, &run);
        facts.bytes(true);
        facts.busy(&dry.times);
        facts
    }

    fn say(&mut self, key: &'static str, label: &'static str, value: Value, text: impl ToString) {
        let text = text.to_string();
        self.facts.push(Fact { key, label, value, text: display(text.as_bytes()).into_owned() });
    }

    fn result(&mut self, word: &str, findings: &[Finding]) {
        let warnings = warning_count(findings);
        let told = match word {
            "dry_run" => "dry run: nothing was written",
            "incomplete" => "incomplete: the run was interrupted before its last check",
            word => word,
        };
        let text = match warnings {
            0 => told.to_owned(),
            1 => format!("{told}, with 1 warning"),
            more => format!("{told}, with {more} warnings"),
        };
        self.say("result", "Result", json!(word), text);
        self.say("warnings", "", json!(warnings), warnings);
    }

    fn run(&mut self, (id, location): &Where, run: &Run<'_>) {
        self.say("repository", "Repository", json!(id.to_string()), id);
        self.say("location", "It lies at", json!(location), location);
        self.say("host", "Host", json!(run.host), run.host);
        self.say("set", "Set", json!(run.set), if run.set.is_empty() { "the host's default set" } else { run.set });
        let paths: Vec<_> = run.sources.iter().map(|path| display(path)).collect();
        // Made presentable already.
        let text = paths.join("  ");
        self.facts.push(Fact { key: "paths", label: "Paths", value: json!(paths), text });
        if !run.tags.is_empty() {
            self.say("tags", "Tags", json!(run.tags), run.tags.join(", "));
        }
        let (started, ended) = run.times;
        let took = ended.since(started);
        self.say("started", "Began", json!(started.to_string()), local(started));
        self.say("ended", "Ended", json!(ended.to_string()), local(ended));
        self.say("seconds", "Took", json!(took.as_secs_f64()), seconds(took));
        let text = run.parent.map_or("none: everything is new".to_owned(), |parent| parent.to_string());
        self.say("parent", "Compared with snapshot", optional(run.parent), text);
        self.say("tool", "Program", json!(run.tool), run.tool);
    }

    fn bytes(&mut self, is_dry: bool) {
        let stats = self.stats;
        self.say("files", "Files", json!(stats.file_count), format!("{} files, {}", stats.file_count, exact(stats.byte_count)));
        self.say("bytes", "", json!(stats.byte_count), stats.byte_count);
        self.say("directories", "", json!(stats.directory_count), stats.directory_count);
        self.say("others", "", json!(stats.other_count), stats.other_count);
        self.say("read_bytes", "Read from the source", json!(stats.read_bytes), exact(stats.read_bytes));
        let [new, stored] =
            if is_dry { ["Would be new", "Would be stored"] } else { ["New to the repository", "Stored, compressed and sealed"] };
        self.say("new_bytes", new, json!(stats.new_bytes), exact(stats.new_bytes));
        self.say("stored_bytes", stored, json!(stats.stored_bytes), exact(stats.stored_bytes));
        if !is_dry {
            self.say("sent_bytes", "Sent, in packs", json!(stats.sent_bytes), exact(stats.sent_bytes));
        }
    }

    fn busy(&mut self, times: &StageTimes) {
        self.say("busy_seconds", "Busy, all threads together", busy_record(times), busy_line(times));
    }
}

/// Busy times for people.
pub(crate) fn busy_line(times: &StageTimes) -> String {
    let StageTimes { walk, read, verify, upload, commit } = *times;
    let part = |(name, time)| format!("{name} {}", seconds(time));
    [("walk", walk), ("read and seal", read), ("verify", verify), ("upload", upload), ("commit", commit)].map(part).join(", ")
}

/// Busy times for programs.
pub(crate) fn busy_record(times: &StageTimes) -> Value {
    let StageTimes { walk, read, verify, upload, commit } = times.to_owned();
    let [walk, read, verify, upload, commit] = [walk, read, verify, upload, commit].map(|time| time.as_secs_f64());
    json!({"walk": walk, "read": read, "verify": verify, "upload": upload, "commit": commit})
}

/// A duration for people.
pub(crate) fn seconds(time: Duration) -> String {
    let (seconds, tenths) = (time.as_secs(), time.subsec_millis() / 100);
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{seconds}.{tenths} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

fn exact(bytes: u64) -> String {
    if bytes < 1024 { size(bytes) } else { format!("{} ({bytes} bytes)", size(bytes)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_for_people() {
        for (millis, shown) in
            [(0, "0 ms"), (999, "999 ms"), (1000, "1.0 s"), (59_990, "59.9 s"), (60_000, "1 min 0 s"), (3_725_000, "1 h 2 min")]
        {
            assert_eq!(seconds(Duration::from_millis(millis)), shown);
        }
    }
}
