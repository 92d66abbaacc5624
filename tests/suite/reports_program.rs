//! Reports as the program writes them, read by other programs.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;

use fs_core::tree::change::ChangeKind;
use tests::look;

use super::cli::{Shell, in_namespace};
use super::reports::set_mode;

/// Reads a page and a table as others do, and prints what stands in them.
const READ: &str = r#"
import csv, html.parser, json, sys
class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.rows, self.row, self.open = [], [], None, []
    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("meta", "br"): self.open.append(tag)
        if tag == "tr": self.row = [dict(attributes).get("class")]
        if tag in ("td", "th"): self.row.append("")
    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag
        if tag == "tr": self.rows.append(self.row)
    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"): self.row[-1] += data
page = Page()
page.feed(open(sys.argv[1], encoding="utf-8").read())
page.close()
assert not page.open, page.open
with open(sys.argv[2], encoding="utf-8", newline="") as file:
    raw = file.read()
assert raw.count("\n") == raw.count("\r\n")
table = list(csv.reader(raw.splitlines(keepends=True), strict=True))
assert {len(line) for line in table} == {8}, "all lines have one form"
json.dump({"tags": sorted(set(page.tags)), "rows": page.rows, "table": table}, sys.stdout)
"#;

fn parsed(shell: &Shell, page: &str, table: &str) -> serde_json::Value {
    let mut command = std::process::Command::new("python3");
    let output = command.args(["-c", READ]).args([shell.path(page), shell.path(table)]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn texts(value: &serde_json::Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|cell| cell.as_str().unwrap_or_default().to_owned()).collect()
}

/// Lines of a table that tell of files: what, path, bytes.
fn table_rows(parsed: &serde_json::Value) -> Vec<[String; 3]> {
    let lines = parsed["table"].as_array().unwrap().iter().map(texts);
    let mut rows: Vec<_> = lines
        .filter(|line| ChangeKind::ALL.iter().any(|(_, kind)| kind.as_str() == line[0]))
        .map(|line| [line[0].clone(), line[2].clone(), line[3].clone()])
        .collect();
    rows.sort();
    rows
}

/// The same of a page.
fn page_rows(parsed: &serde_json::Value) -> Vec<[String; 3]> {
    let rows = parsed["rows"].as_array().unwrap().iter().map(texts);
    let mut rows: Vec<_> =
        rows.filter(|row| !row[0].is_empty() && row.len() == 6).map(|row| [row[0].clone(), row[5].clone(), row[2].clone()]).collect();
    rows.sort();
    rows
}

const HOSTILE: [&[u8]; 13] = [
    b"<img src=x onerror=alert(1)>",
    b"<script>",
    b"a&amp;b",
    b"\"quoted\", and more",
    b"=1+1",
    b"x;=cmd|' C'!A0",
    b"line\nbreak\r\n",
    b"\x1b[31m red",
    b"\xff\xfe no text",
    b"back\\slash",
    "\u{fc}mlaut \u{202e}".as_bytes(),
    b"'apostrophe'",
    b"<td><table>",
];

#[test]
fn reports_hold_hostile_names_as_text_and_are_the_same_later() {
    let shell = Shell::with_backup(&[("goes", b"123"), ("stays", b"12")]);
    for name in HOSTILE {
        std::fs::write(shell.path("source").join(std::ffi::OsStr::from_bytes(name)), b"1234567").unwrap();
    }
    std::fs::remove_file(shell.path("source/goes")).unwrap();
    let flags = ["r.html", "r.csv", "r.json", "r.txt"].map(|name| ["--report", name]).concat();
    let said = shell.ok(&[&["backup", "source"], &flags[..]].concat());
    assert!(said.contains("new") && said.contains("removed") && said.contains("chain of device") && said.contains("number 2"), "{said}");

    let live = parsed(&shell, "r.html", "r.csv");
    let place =
        |name: &[u8]| format!("{}/source/{}", shell.path("").display().to_string().trim_end_matches('/'), fs_core::path::display(name));
    let mut expected: Vec<_> = HOSTILE.iter().map(|name| ["new".to_owned(), place(name), "7".to_owned()]).collect();
    expected.push(["removed".into(), place(b"goes"), String::new()]);
    expected.sort();
    assert_eq!(page_rows(&live), expected);
    // A formula behind a semicolon is the only one here that a program could take for one.
    let harmless = |[what, path, bytes]: [String; 3]| [what, path.replace(";=", ";'="), bytes];
    let mut in_table: Vec<_> = expected.iter().cloned().map(harmless).collect();
    in_table.sort();
    assert_eq!(table_rows(&live), in_table);
    assert!(!texts(&live["tags"]).iter().any(|tag| tag == "script" || tag == "img"), "{:?}", live["tags"]);
    let text = std::fs::read_to_string(shell.path("r.txt")).unwrap();
    assert!(expected.iter().all(|[_, path, _]| text.contains(path.as_str())) && !text.contains('\u{1b}'), "{text}");
    let document: serde_json::Value = serde_json::from_slice(&std::fs::read(shell.path("r.json")).unwrap()).unwrap();
    let changes = document["changes"].as_array().unwrap().clone();
    assert_eq!((changes.len(), &document["totals"]["new"]["files"], &document["sequence"]), (14, &13.into(), &2.into()));
    let odd = changes.iter().find(|change| change["path_hex"].is_string()).unwrap();
    assert!(odd["path_hex"].as_str().unwrap().ends_with("fffe206e6f2074657874"), "{odd}");

    // Later, when there are more snapshots, the repository says the same.
    std::fs::write(shell.path("source/stays"), "more").unwrap();
    shell.ok(&["backup", "source"]);
    let id = document["snapshot"].as_str().unwrap();
    for name in ["later.html", "later.csv", "later.json"] {
        assert!(shell.ok(&["report", &id[..12], "-o", name]).contains("wrote the report"));
    }
    let later = parsed(&shell, "later.html", "later.csv");
    assert_eq!((page_rows(&later), table_rows(&later)), (page_rows(&live), table_rows(&live)));
    let later: serde_json::Value = serde_json::from_slice(&std::fs::read(shell.path("later.json")).unwrap()).unwrap();
    assert_eq!(
        (&later["changes"], &later["totals"], &later["previous"]),
        (&document["changes"], &document["totals"], &document["previous"])
    );
    // The first snapshot has no parent: its list is its tree. The newest one has one change.
    let lines = |arguments: &[&str]| -> Vec<serde_json::Value> {
        shell.ok(&[&["--json"], arguments].concat()).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let newest = lines(&["report"]);
    let told: Vec<_> = newest.iter().filter(|record| record["type"] == "change").map(|record| &record["change"]).collect();
    assert_eq!((told, &newest.last().unwrap()["changes"]), (vec![&serde_json::json!("changed")], &1.into()));
    let first = lines(&["snapshots"])[0]["id"].as_str().unwrap().to_owned();
    let names = lines(&["report", &first]);
    assert_eq!(names.iter().filter(|record| record["change"] == "new").count(), 2, "{names:?}");
    shell.fails(&["report", "--json", "--format", "csv"], 2, "-o FILE");
    shell.fails(&["report", "-o", "x.pdf"], 2, "format");
    shell.fails(&["report", "feedfeedfeed"], 1, "");
}

#[test]
fn a_report_that_cannot_be_written_is_said_and_the_snapshot_stays() {
    let shell = Shell::with_backup(&[("a", b"a")]);
    let count = || shell.ok(&["snapshots"]).lines().count();
    shell.fails(&["backup", "source", "--report", "nowhere/r.html"], 3, "warning: the report could not be written: nowhere/r.html");
    assert_eq!(count(), 2, "the backup itself is a success");
    std::fs::create_dir(shell.path("folder.csv")).unwrap();
    shell.fails(&["backup", "source", "--report", "folder.csv"], 3, "no regular file");
    shell.fails(&["report", "-o", "folder.csv"], 1, "no regular file");
    shell.fails(&["backup", "source", "--report", "r.pdf"], 2, ".html");
    assert_eq!(count(), 3, "what is wrong with a flag is told before anything is saved");
    // What stands there is replaced, also behind a link, and keeps its mode.
    std::fs::write(shell.path("real.txt"), "old").unwrap();
    set_mode(&shell.path("real.txt"), 0o640);
    std::os::unix::fs::symlink("real.txt", shell.path("link.txt")).unwrap();
    shell.ok(&["backup", "source", "--report", "link.txt", "--report", "new.json"]);
    assert!(shell.path("link.txt").is_symlink() && std::fs::read_to_string(shell.path("real.txt")).unwrap().starts_with("Backup of"));
    let mode = |name: &str| shell.path(name).metadata().unwrap().mode() & 0o777;
    assert_eq!((mode("real.txt"), mode("new.json")), (0o640, 0o600));
    let left: Vec<_> = std::fs::read_dir(shell.path("")).unwrap().map(|item| item.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".tmp")), "{left:?}");
}

#[test]
fn a_dry_run_of_the_program_writes_nothing_and_needs_no_writable_store() {
    let shell = Shell::with_backup(&[("a", b"a"), ("b", b"bb")]);
    std::fs::write(shell.path("source/c"), tests::noise(1, 300_000)).unwrap();
    std::fs::remove_file(shell.path("source/a")).unwrap();
    let before = look(&shell.path("repository")).unwrap();
    let hook = ["--before", "touch hooked", "--after", "touch hooked"];
    let said = shell.ok(&[&["backup", "source", "--dry-run", "--report", "dry.json", "--json"], &hook[..]].concat());
    assert!(before == look(&shell.path("repository")).unwrap() && !shell.path("hooked").exists(), "nothing is written");
    let dry: serde_json::Value = serde_json::from_str(said.trim()).unwrap();
    assert_eq!((&dry["type"], &dry["new"], &dry["removed"]), (&"dry_run".into(), &1.into(), &1.into()));
    assert!(dry["read_bytes"].as_u64().unwrap() >= 300_000 && dry["stored_bytes"].as_u64().unwrap() >= 300_000, "{dry}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(shell.path("dry.json")).unwrap()).unwrap();
    assert_eq!((&report["result"], report["changes"].as_array().unwrap().len()), (&"dry_run".into(), 2));
    assert!(shell.ok(&["backup", "source", "--dry-run"]).starts_with("dry run, nothing was written: 2 files"));
    let real: serde_json::Value = serde_json::from_str(shell.ok(&["backup", "source", "--json"]).trim()).unwrap();
    for key in ["files", "bytes", "new", "new_size", "changed", "unchanged", "removed", "new_bytes"] {
        assert_eq!(dry[key], real[key], "{key}");
    }
    // On a store that cannot be written, as a machine that the repository has never seen.
    std::fs::create_dir(shell.path("store")).unwrap();
    std::fs::rename(shell.path("repository"), shell.path("store/repository")).unwrap();
    let script = "mount --bind store store && mount -o remount,ro,bind store || exit 99; PROGRAM --cache-dir fresh backup source --dry-run || exit 98; PROGRAM backup source";
    let Some((code, message)) = in_namespace(&shell, script) else { return };
    assert_eq!(code, Some(5), "the backup itself is refused: {message}");
}
