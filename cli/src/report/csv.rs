//! A table with one form for all lines (RFC 4180): facts, totals, findings and the list of files, told apart by the first column.
//!
//! Spreadsheets take what begins with = + - @ for a formula, and some split at semicolons what another program meant as one cell. So a ' is put before these
//! characters at the beginning of a text and after each semicolon in it; and so that it can be told from one that was there, one is put before a ' there too.

use std::io::{Result, Write};

use fs_core::path::display;
use fs_core::report::Finding;
use fs_core::tree::change::Change;
use serde_json::Value;

use super::facts::Facts;
use super::{Form, lines, place, totals};

const HEADER: &str = "record,kind,path,bytes,bytes_before,modified,count,text\r\n";

pub(crate) struct Csv;

/// The cells of a line; those that stay empty are empty.
#[derive(Default)]
struct Line<'a> {
    record: &'a str,
    kind: &'a str,
    path: &'a str,
    bytes: Option<u64>,
    bytes_before: Option<u64>,
    modified: &'a str,
    count: Option<u64>,
    text: &'a str,
}

impl Line<'_> {
    fn write(&self, out: &mut dyn Write) -> Result<()> {
        let number = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
        let (bytes, before, count) = (number(self.bytes), number(self.bytes_before), number(self.count));
        let (path, text) = (cell(self.path), cell(self.text));
        write!(out, "{},{},{path},{bytes},{before},{},{count},{text}\r\n", self.record, self.kind, self.modified)
    }
}

impl Form for Csv {
    fn head(&mut self, out: &mut dyn Write, facts: &Facts) -> Result<()> {
        write!(out, "{HEADER}")?;
        for fact in &facts.facts {
            // As programs want it; what is more than one value is told as people read it.
            let text = match &fact.value {
                Value::Null => String::new(),
                Value::String(text) => display(text.as_bytes()).into_owned(),
                Value::Array(_) | Value::Object(_) => fact.text.clone(),
                Value::Bool(_) | Value::Number(_) => fact.value.to_string(),
            };
            Line { record: "report", kind: fact.key, text: &text, ..Line::default() }.write(out)?;
        }
        totals(&facts.stats).into_iter().try_for_each(|(kind, count, bytes)| {
            Line { record: "total", kind, count: Some(count), bytes: Some(bytes), ..Line::default() }.write(out)
        })
    }

    fn finding(&mut self, out: &mut dyn Write, finding: &Finding) -> Result<()> {
        let (path, text) = (place(finding), lines(finding).join(" / "));
        Line { record: "finding", kind: finding.severity.as_str(), path: &path, text: &text, ..Line::default() }.write(out)
    }

    fn list(&mut self, out: &mut dyn Write, is_known: bool) -> Result<()> {
        if is_known {
            return Ok(());
        }
        let text = "the list of files is not known: the program that took this snapshot kept none";
        Line { record: "finding", kind: "note", text, ..Line::default() }.write(out)
    }

    fn row(&mut self, out: &mut dyn Write, row: &Change) -> Result<()> {
        let (path, modified) = (row.path.to_string(), row.mtime.map(|time| time.to_string()).unwrap_or_default());
        let kind = row.entry_kind.map_or("", fs_core::tree::EntryKind::as_str);
        let (bytes, bytes_before) = (row.size, row.size_before);
        Line { record: row.kind.as_str(), kind, path: &path, bytes, bytes_before, modified: &modified, ..Line::default() }.write(out)
    }

    fn end(&mut self, out: &mut dyn Write, lost: &[Finding]) -> Result<()> {
        lost.iter().try_for_each(|finding| self.finding(out, finding))
    }
}

/// A cell that holds text of others: always quoted, and no formula.
fn cell(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let (mut cell, mut begins) = (String::from("\""), true);
    for c in text.chars() {
        if begins && matches!(c, '=' | '+' | '-' | '@' | '\'') {
            cell.push('\'');
        }
        // Blanks at the beginning are passed over by some.
        begins = c == ';' || begins && c.is_whitespace();
        cell.push(c);
        if c == '"' {
            cell.push('"');
        }
    }
    cell.push('"');
    cell
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_and_no_formulas() {
        for (text, shown) in [
            ("", ""),
            ("/a b", "\"/a b\""),
            ("/say \"hi\", he said", "\"/say \"\"hi\"\", he said\""),
            ("=1+1", "\"'=1+1\""),
            ("  @SUM(A1)", "\"  '@SUM(A1)\""),
            ("-2", "\"'-2\""),
            ("+49", "\"'+49\""),
            ("'quoted", "\"''quoted\""),
            ("/x;=cmd|'/c calc'!A0", "\"/x;'=cmd|'/c calc'!A0\""),
            ("/x; =1;-1", "\"/x; '=1;'-1\""),
            ("a=b-c@d", "\"a=b-c@d\""),
        ] {
            assert_eq!(cell(text), shown);
        }
    }
}
