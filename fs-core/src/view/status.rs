//! `.yesterdrive/status.json`: what the drive is doing, made anew whenever somebody looks. Every text is a file with a number of its own, so that one who
//! reads it reads one text.

use std::fmt::Write as _;

use bytes::Bytes;

use super::layout::{STATUS_NAME, Virtual, made_up_number};
use super::{View, lock};
use crate::repository::Repository;

/// Texts that are kept for those who read them just now.
pub(super) const KEPT: usize = 16;

impl View {
    /// The status as it is now, as a new file; its number.
    pub(super) fn new_status(&self, tree: &Virtual) -> u64 {
        let text = Bytes::from(text(tree, &self.repository));
        let number = made_up_number(".yesterdrive", STATUS_NAME, &text);
        lock(&self.statuses).put(number, text);
        number
    }

    /// A text that was given a number lately.
    pub(super) fn status_text(&self, number: u64) -> Option<Bytes> {
        lock(&self.statuses).get(&number).cloned()
    }
}

fn text(tree: &Virtual, repository: &Repository) -> String {
    let (about, fetch) = (&tree.about, repository.fetch_status());
    let mut json = String::from("{\n");
    let mut line = |key: &str, value: String| {
        let _ = writeln!(json, "  \"{key}\": {value},");
    };
    line("repository", quoted(&about.location));
    line("repository_id", quoted(&repository.id().to_string()));
    line("snapshots", about.sealed.to_string());
    line("incomplete", about.incomplete.to_string());
    line("changed", quoted(&about.changed.to_string()));
    line("memory_used", fetch.memory_used.to_string());
    line("memory_max", fetch.memory_max.to_string());
    let disk = repository.disk().map(|disk| disk.status()).filter(|disk| disk.quota > 0 || disk.used > 0);
    let of_disk = disk.map(|disk| {
        format!(
            "{{\"used\": {}, \"max\": {}, \"pinned\": {}, \"hits\": {}, \"misses\": {}}}",
            disk.used, disk.quota, disk.pinned, disk.hits, disk.misses
        )
    });
    line("disk_cache", of_disk.unwrap_or_else(null));
    line("records_on_their_way", fetch.in_flight.to_string());
    line("requests_waiting", fetch.queued.to_string());
    line("requests", fetch.requests.to_string());
    line("bytes_fetched", fetch.bytes.to_string());
    line("bytes_per_second", fetch.bytes_per_second.map_or_else(null, |rate| rate.to_string()));
    line("latency_ms", fetch.latency_ms.map_or_else(null, |latency| latency.to_string()));
    let error = fetch.last_error.map(|(time, text)| format!("{{\"time\": {}, \"message\": {}}}", quoted(&time.to_string()), quoted(&text)));
    let _ = writeln!(json, "  \"last_error\": {}\n}}", error.unwrap_or_else(null));
    json
}

fn null() -> String {
    "null".into()
}

/// Text as JSON has it.
fn quoted(text: &str) -> String {
    let mut json = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(json, "\\u{:04x}", u32::from(c));
            }
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_json() {
        for text in ["", "plain", "quo\"ted\\", "line\nbreak\u{7f}\u{85}", "ä€😀"] {
            assert_eq!(serde_json::from_str::<String>(&quoted(text)).unwrap(), text);
        }
    }
}
