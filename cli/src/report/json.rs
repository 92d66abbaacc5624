//! For programs: one document, or one record for each line. Both hold the same records (docs/JSON.md).

use std::io::{Result, Write};

use fs_core::report::Finding;
use fs_core::tree::change::Change;
use serde_json::{Value, json};

use super::facts::Facts;
use super::{Form, totals};
use crate::output::{finding_record, put_bytes};

/// One document; findings and changes stand in it one a line.
#[derive(Default)]
pub(crate) struct Document {
    count: u64,
}

/// One record for each line.
#[derive(Default)]
pub(crate) struct Lines {
    row_count: u64,
    is_known: bool,
}

impl Document {
    fn item(&mut self, out: &mut dyn Write, item: &Value) -> Result<()> {
        let comma = if self.count > 0 { "," } else { "" };
        self.count += 1;
        write!(out, "{comma}\n{item}")
    }
}

impl Form for Document {
    fn head(&mut self, out: &mut dyn Write, facts: &Facts) -> Result<()> {
        let record = record(facts).to_string();
        // The record goes on with what follows.
        write!(out, "{},\n\"findings\":[", record.strip_suffix('}').unwrap_or(&record))
    }

    fn finding(&mut self, out: &mut dyn Write, finding: &Finding) -> Result<()> {
        self.item(out, &finding_record(finding))
    }

    fn list(&mut self, out: &mut dyn Write, is_known: bool) -> Result<()> {
        self.count = 0;
        write!(out, "],\n\"list_known\":{is_known},\n\"changes\":[")
    }

    fn row(&mut self, out: &mut dyn Write, row: &Change) -> Result<()> {
        self.item(out, &change(row))
    }

    fn end(&mut self, out: &mut dyn Write, lost: &[Finding]) -> Result<()> {
        self.count = 0;
        write!(out, "],\n\"list_findings\":[")?;
        lost.iter().try_for_each(|finding| self.item(out, &finding_record(finding)))?;
        writeln!(out, "]}}")
    }
}

impl Form for Lines {
    fn head(&mut self, out: &mut dyn Write, facts: &Facts) -> Result<()> {
        writeln!(out, "{}", record(facts))
    }

    fn finding(&mut self, out: &mut dyn Write, finding: &Finding) -> Result<()> {
        writeln!(out, "{}", finding_record(finding))
    }

    fn list(&mut self, _: &mut dyn Write, is_known: bool) -> Result<()> {
        self.is_known = is_known;
        Ok(())
    }

    fn row(&mut self, out: &mut dyn Write, row: &Change) -> Result<()> {
        self.row_count += 1;
        writeln!(out, "{}", change(row))
    }

    fn end(&mut self, out: &mut dyn Write, lost: &[Finding]) -> Result<()> {
        lost.iter().try_for_each(|finding| writeln!(out, "{}", finding_record(finding)))?;
        writeln!(out, "{}", json!({"type": "report_end", "list_known": self.is_known, "changes": self.row_count, "lost": lost.len()}))
    }
}

/// Facts and totals.
pub(crate) fn record(facts: &Facts) -> Value {
    let mut record = json!({"type": "report"});
    let Some(fields) = record.as_object_mut() else { return record };
    fields.extend(facts.facts.iter().map(|fact| (fact.key.to_owned(), fact.value.clone())));
    let total = |(name, count, bytes): (&str, u64, u64)| (name.to_owned(), json!({"files": count, "bytes": bytes}));
    fields.insert("totals".into(), totals(&facts.stats).into_iter().map(total).collect::<serde_json::Map<_, _>>().into());
    record
}

/// One row of the list.
fn change(row: &Change) -> Value {
    let mut record = json!({
        "type": "change", "change": row.kind.as_str(), "kind": row.entry_kind.map(fs_core::tree::EntryKind::as_str), "bytes": row.size,
        "bytes_before": row.size_before, "modified": row.mtime.map(|time| time.to_string()),
    });
    put_bytes(&mut record, "path", &row.path.to_bytes());
    record
}
