//! Standard output: lines for people, or one JSON record per line. Messages go to standard error.

use std::io::{IsTerminal as _, Write};
use std::sync::OnceLock;

use fs_core::path::display;
use fs_core::report::{Finding, Place};
use serde_json::{Value, json};

use crate::error::{Exit, Failure};

/// Where results go.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    /// Why standard output took no more.
    broken: OnceLock<String>,
}

impl Output {
    /// For people, or as JSON.
    pub(crate) fn new(json: bool) -> Self {
        Self { json, broken: OnceLock::new() }
    }

    /// Whether results are for programs.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// A result in both forms; only the wanted one is made.
    pub(crate) fn show(&self, line: impl FnOnce() -> String, record: impl FnOnce() -> Value) {
        let text = if self.json { record().to_string() } else { line() };
        self.raw(format!("{text}\n").as_bytes());
    }

    /// Bytes as they are. A reader that has gone away (`| head`) is no failure.
    pub(crate) fn raw(&self, bytes: &[u8]) {
        let mut out = std::io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
            Err(error) => drop(self.broken.set(error.to_string())),
            Ok(()) => {}
        }
    }

    /// Whether everything arrived: a file cut short by a full disk is no success.
    pub(crate) fn finish(&self) -> Result<(), Failure> {
        let lost = |reason: &String| Failure::new(Exit::Failed, format!("the output could not be written: {reason}"));
        self.broken.get().map_or(Ok(()), |reason| Err(lost(reason)))
    }

    /// Standard output for what writes itself.
    pub(crate) fn writer(&self) -> impl Write + '_ {
        ToOutput(self)
    }

    /// A message for people, on standard error.
    #[expect(clippy::unused_self, reason = "all output goes through here")]
    pub(crate) fn message(&self, text: &str) {
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    /// What an operation met.
    pub(crate) fn findings(&self, findings: &[Finding]) {
        for finding in findings {
            let severity = finding.severity.as_str();
            if !self.json {
                self.message(&format!("{severity}: {finding}"));
                continue;
            }
            self.raw(format!("{}\n", finding_record(finding)).as_bytes());
        }
    }

    /// What an operation met, in short on a terminal: what is worst comes first, and `rest` says where all of it can be read.
    pub(crate) fn first_findings(&self, findings: &[Finding], rest: &str) {
        const SHOWN: usize = 20;
        if self.json || findings.len() <= SHOWN || !std::io::stderr().is_terminal() {
            return self.findings(findings);
        }
        let mut worst: Vec<_> = findings.iter().collect();
        worst.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        worst.iter().take(SHOWN).for_each(|finding| self.findings(std::slice::from_ref(finding)));
        self.message(&format!("… and {} more: {rest}", findings.len() - SHOWN));
    }

    /// Why a command failed.
    pub(crate) fn failure(&self, failure: &Failure) {
        self.message(&format!("yesterdrive: {}", failure.message));
        if let Some(hint) = &failure.hint {
            self.message(&format!("hint: {hint}"));
        }
        if self.json {
            let record = json!({"type": "error", "exit": failure.exit.code(), "message": failure.message, "hint": failure.hint});
            self.raw(format!("{record}\n").as_bytes());
        }
    }
}

/// What an operation met, as a record.
pub(crate) fn finding_record(finding: &Finding) -> Value {
    let mut record = json!({"type": "finding", "severity": finding.severity.as_str(), "message": finding.message});
    match &finding.place {
        Place::Path(path) => put_bytes(&mut record, "path", &path.to_bytes()),
        Place::Object(name) => put_bytes(&mut record, "object", name.as_bytes()),
        Place::Operation => {}
    }
    record
}

/// Standard output, in pieces.
struct ToOutput<'a>(&'a Output);

impl Write for ToOutput<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.raw(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A count of bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = "KiB";
    for next in UNITS.into_iter().skip(1) {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1024;
        unit = next;
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// Puts a name, path or target into a record: as text under `key`, and under `key_hex` the bytes themselves where they are no text.
pub(crate) fn put_bytes(record: &mut Value, key: &str, bytes: &[u8]) {
    let Some(fields) = record.as_object_mut() else { return };
    match std::str::from_utf8(bytes) {
        Ok(text) => drop(fields.insert(key.into(), json!(text))),
        Err(_) => {
            fields.insert(key.into(), json!(display(bytes)));
            fields.insert(format!("{key}_hex"), json!(fs_core::id::to_hex(bytes)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        for (bytes, shown) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_572_864, "1.5 MiB"), (u64::MAX, "15.9 EiB")] {
            assert_eq!(size(bytes), shown);
        }
    }

    #[test]
    fn names_that_are_no_text_keep_their_bytes() {
        let mut record = json!({});
        put_bytes(&mut record, "path", b"a");
        put_bytes(&mut record, "target", b"\xff");
        assert_eq!(record, json!({"path": "a", "target": "\\xff", "target_hex": "ff"}));
    }
}
