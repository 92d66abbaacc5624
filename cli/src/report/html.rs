//! One page that holds all it needs: no script, nothing fetched from anywhere, readable on a screen, on paper and in a mail.

use std::io::{Result, Write};

use fs_core::report::Finding;
use fs_core::tree::change::Change;

use super::facts::Facts;
use super::{Form, lines, local, place, totals, words};
use crate::output::size;

const STYLE: &str = "\
body{font:15px/1.45 system-ui,sans-serif;color:#1b1f24;background:#fff;margin:2rem auto;max-width:75rem;padding:0 1rem}\
h1{font-size:1.5rem;margin:0 0 1rem}h2{font-size:1.15rem;margin:2rem 0 .5rem}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.2rem .9rem .2rem 0;border-bottom:1px solid #e3e6ea}\
th{font-weight:600}thead th{border-bottom:2px solid #b6bdc6}.facts th{width:17rem}.totals{width:auto}.n{text-align:right;white-space:nowrap}.t{white-space:nowrap}\
.p{overflow-wrap:anywhere}.failed td:first-child,.warning,.error{color:#a40e26;font-weight:600}.removed td:first-child,.left_out td:first-child{color:#7a4b00}\
@media print{body{font-size:10px;margin:0;max-width:none;padding:0}thead{display:table-header-group}tr{break-inside:avoid}a{color:inherit}}";

#[derive(Default)]
pub(crate) struct Html {
    finding_count: u64,
    is_known: bool,
    row_count: u64,
}

impl Form for Html {
    fn head(&mut self, out: &mut dyn Write, facts: &Facts) -> Result<()> {
        let title = escaped(&facts.title);
        writeln!(out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">")?;
        // Whatever a name may smuggle in, a browser runs and fetches nothing.
        writeln!(out, "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">")?;
        writeln!(
            out,
            "<meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>"
        )?;
        writeln!(out, "<h1>{title}</h1>\n<table class=\"facts\">")?;
        for fact in facts.facts.iter().filter(|fact| !fact.label.is_empty()) {
            writeln!(out, "<tr><th>{}</th><td class=\"p\">{}</td></tr>", escaped(fact.label), escaped(&fact.text))?;
        }
        writeln!(out, "</table>\n<h2>Totals</h2>\n<table class=\"totals\">")?;
        writeln!(out, "<thead><tr><th></th><th class=\"n\">files</th><th class=\"n\">size</th></tr></thead>")?;
        for (name, count, bytes) in totals(&facts.stats) {
            writeln!(out, "<tr><th>{}</th><td class=\"n\">{count}</td><td class=\"n\">{}</td></tr>", words(name), size(bytes))?;
        }
        writeln!(out, "</table>")
    }

    fn finding(&mut self, out: &mut dyn Write, finding: &Finding) -> Result<()> {
        if self.finding_count == 0 {
            writeln!(out, "<h2>Findings</h2>\n<table>")?;
        }
        self.finding_count += 1;
        let (severity, message) =
            (finding.severity.as_str(), lines(finding).iter().map(|line| escaped(line)).collect::<Vec<_>>().join("<br>"));
        let place = escaped(&place(finding));
        writeln!(out, "<tr><td class=\"{severity}\">{severity}</td><td class=\"p\">{place}</td><td class=\"p\">{message}</td></tr>")
    }

    fn list(&mut self, out: &mut dyn Write, is_known: bool) -> Result<()> {
        if self.finding_count > 0 {
            writeln!(out, "</table>")?;
        }
        self.is_known = is_known;
        writeln!(out, "<h2>Files</h2>")?;
        if !is_known {
            return writeln!(out, "<p>The list of files is not known: the program that took this snapshot kept none.</p>");
        }
        writeln!(
            out,
            "<table>\n<thead><tr><th></th><th class=\"n\">bytes</th><th class=\"n\">bytes before</th><th>modified</th><th>path</th></tr></thead>\n<tbody>"
        )
    }

    fn row(&mut self, out: &mut dyn Write, row: &Change) -> Result<()> {
        self.row_count += 1;
        let number = |bytes: Option<u64>| bytes.map(|bytes| bytes.to_string()).unwrap_or_default();
        let (bytes, before, time) = (number(row.size), number(row.size_before), row.mtime.map(local).unwrap_or_default());
        let (class, word, path) = (row.kind.as_str(), words(row.kind.as_str()), escaped(&row.path.to_string()));
        let cells =
            format!("<td class=\"n\">{bytes}</td><td class=\"n\">{before}</td><td class=\"t\">{time}</td><td class=\"p\">{path}</td>");
        writeln!(out, "<tr class=\"{class}\"><td>{word}</td>{cells}</tr>")
    }

    fn end(&mut self, out: &mut dyn Write, lost: &[Finding]) -> Result<()> {
        if self.is_known {
            writeln!(out, "</tbody>\n</table>")?;
        }
        for finding in lost {
            writeln!(out, "<p class=\"error\">{}</p>", escaped(&lines(finding).join(" ")))?;
        }
        let count = self.row_count;
        writeln!(out, "<p>{count} entries in the list; links and special files are listed and not counted above.</p>\n</body>\n</html>")
    }
}

/// Text between tags and in quoted attributes. Control characters are escaped by those who make text of names.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_no_markup() {
        assert_eq!(escaped("<script>\"a\" & 'b'</script>"), "&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39;&lt;/script&gt;");
    }
}
