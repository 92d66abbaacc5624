//! Lines for people. What names hold of control characters is escaped: a report is looked at on terminals too.

use std::io::{Result, Write};

use fs_core::report::Finding;
use fs_core::tree::change::Change;

use super::facts::Facts;
use super::{Form, lines, local, place, totals, words};
use crate::output::size;

#[derive(Default)]
pub(crate) struct Text {
    finding_count: u64,
    row_count: u64,
}

impl Form for Text {
    fn head(&mut self, out: &mut dyn Write, facts: &Facts) -> Result<()> {
        writeln!(out, "{}\n", facts.title)?;
        for fact in facts.facts.iter().filter(|fact| !fact.label.is_empty()) {
            writeln!(out, "{:<33}{}", fact.label, fact.text)?;
        }
        writeln!(out, "\n{:<12}{:>12}{:>14}", "", "files", "size")?;
        for (name, count, bytes) in totals(&facts.stats) {
            writeln!(out, "{:<12}{count:>12}{:>14}", words(name), size(bytes))?;
        }
        Ok(())
    }

    fn finding(&mut self, out: &mut dyn Write, finding: &Finding) -> Result<()> {
        if self.finding_count == 0 {
            writeln!(out, "\nFindings\n")?;
        }
        self.finding_count += 1;
        let place = place(finding);
        let colon = if place.is_empty() { "" } else { ": " };
        writeln!(out, "{}: {place}{colon}{}", finding.severity.as_str(), lines(finding).join("\n    "))
    }

    fn list(&mut self, out: &mut dyn Write, is_known: bool) -> Result<()> {
        if is_known {
            writeln!(out, "\n{:<10}{:>16}{:>16}  {:<26}  path\n", "", "bytes", "bytes before", "modified")
        } else {
            writeln!(out, "\nThe list of files is not known: the program that took this snapshot kept none.")
        }
    }

    fn row(&mut self, out: &mut dyn Write, row: &Change) -> Result<()> {
        self.row_count += 1;
        let number = |bytes: Option<u64>| bytes.map(|bytes| bytes.to_string()).unwrap_or_default();
        let time = row.mtime.map(local).unwrap_or_default();
        writeln!(out, "{:<10}{:>16}{:>16}  {time:<26}  {}", words(row.kind.as_str()), number(row.size), number(row.size_before), row.path)
    }

    fn end(&mut self, out: &mut dyn Write, lost: &[Finding]) -> Result<()> {
        lost.iter().try_for_each(|finding| writeln!(out, "\n{}: {}", finding.severity.as_str(), lines(finding).join("\n    ")))?;
        writeln!(out, "\n{} entries in the list; links and special files are listed and not counted above.", self.row_count)
    }
}
