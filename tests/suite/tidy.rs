//! The house rules that a compiler does not check: which room may know which, in what order modules stand, how long things are, dead links.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const FUNCTION_LINES_MAX: usize = 70;
/// Soft: past 400 lines look for the noun that wants its own file. This is where looking ends.
const FILE_LINES_MAX: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// All files below a folder with this extension, `target` and data left out.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for item in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, name) = (item.path(), item.file_name());
        let is_hidden = name.to_string_lossy().starts_with('.');
        if path.is_dir() && !is_hidden && name != "target" && name != "data" {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|known| known == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<(PathBuf, String)> {
    let read = |path: PathBuf| (path.clone(), std::fs::read_to_string(path).unwrap());
    let all: Vec<_> = files(&root(), "rs").into_iter().map(read).collect();
    assert!(all.len() > 50, "the sources were found");
    all
}

/// The part of a file above its unit tests.
fn above_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or(text)
}

#[test]
fn arrows_between_crates_go_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("fs-core", &[][..]),
        ("backup-writer", &["fs-core"]),
        ("mount-linux", &["fs-core"]),
        ("mount-windows", &["fs-core"]),
        ("cli", &["fs-core", "backup-writer", "mount-linux", "mount-windows"]),
    ]);
    let ours: BTreeSet<_> = allowed.keys().copied().chain(["yesterdrive", "tests"]).collect();
    for (room, may) in allowed {
        let manifest = std::fs::read_to_string(root().join(room).join("Cargo.toml")).unwrap();
        for line in manifest.lines().filter(|line| line.contains("workspace = true") || line.contains("path =")) {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            assert!(!ours.contains(name) || may.contains(&name), "{room} depends on {name}");
        }
    }
}

#[test]
fn modules_use_only_what_stands_above_them() {
    for room in ["fs-core", "backup-writer"] {
        let folder = root().join(room).join("src");
        let list = std::fs::read_to_string(folder.join("lib.rs")).unwrap();
        let order: Vec<_> = list.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
        assert!(order.len() > 5);
        for (place, module) in order.iter().enumerate().filter(|(_, module)| **module != "testing") {
            let below = &order[place + 1..];
            let parts = [vec![folder.join(format!("{module}.rs"))], files_if_any(&folder.join(module))].concat();
            for path in parts.iter().filter(|path| !path.ends_with("tests.rs")) {
                let text = std::fs::read_to_string(path).unwrap();
                for line in above_tests(&text).lines().filter(|line| !line.trim_start().starts_with("//")) {
                    for (at, _) in line.match_indices("crate::") {
                        let used = line[at + 7..].split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
                        assert!(!below.contains(&used), "{} uses {used}, which stands below {module}", path.display());
                    }
                }
            }
        }
    }
}

fn files_if_any(folder: &Path) -> Vec<PathBuf> {
    if folder.is_dir() { files(folder, "rs") } else { Vec::new() }
}

#[test]
fn functions_and_files_are_short() {
    for (path, text) in sources() {
        let above = above_tests(&text);
        let count = above.lines().count();
        assert!(count <= FILE_LINES_MAX, "{} has {count} lines above its tests", path.display());
        let lines: Vec<_> = above.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            let is_function = ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn ", "async fn ", "pub async fn "]
                .iter()
                .any(|head| code.starts_with(head));
            let indent = line.len() - code.len();
            let ends = |line: &&str| {
                line.len() == indent + 1 && line.ends_with('}')
                    || line.trim_end().ends_with(';') && line.starts_with(&" ".repeat(indent)) && !line.starts_with(&" ".repeat(indent + 1))
            };
            if is_function && !code.ends_with(';') && !code.ends_with('}') {
                let length = lines[start..].iter().position(ends).unwrap_or(0) + 1;
                assert!(length <= FUNCTION_LINES_MAX, "{}:{} has {length} lines: {code}", path.display(), start + 1);
            }
        }
    }
}

/// Links to files in Markdown lead somewhere, and tests that documents name exist.
#[test]
fn documents_name_what_there_is() {
    let tests: String = sources().into_iter().map(|(_, text)| text).collect();
    for path in files(&root(), "md") {
        let text = std::fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") {
                assert!(path.parent().unwrap().join(target).exists(), "{} links to {target}", path.display());
            }
        }
        for part in text.split('`').skip(1).step_by(2) {
            let Some((suite, name)) = part.split_once("::") else { continue };
            let is_suite = root().join(format!("tests/suite/{suite}.rs")).exists() && !name.contains("::");
            let is_module = root().join(format!("fs-core/src/{suite}/{name}.rs")).exists();
            if is_suite && !is_module {
                assert!(tests.contains(&format!("fn {name}(")), "{} names {part}, which is no test", path.display());
            }
        }
    }
}

/// Nothing that is committed belongs to one machine only.
#[test]
fn scripts_are_executable_and_end_on_errors() {
    use std::os::unix::fs::PermissionsExt as _;
    for script in [
        "quickstart",
        "tests/run",
        ".ci/run",
        "tests/reader/run",
        "tests/stores/run",
        "tests/bench/local",
        "tests/bench/line",
        "tests/bench/pruning",
    ] {
        let path = root().join(script);
        assert!(path.metadata().unwrap().permissions().mode() & 0o111 != 0, "{script} is not executable");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("set -euo pipefail") || text.contains("set -uo pipefail"), "{script} goes on after an error");
    }
}

#[test]
fn every_module_of_the_suite_is_run() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let (modules, script) = (read("tests/suite/main.rs"), read("tests/run") + &read("tests/stores/run"));
    let modules = modules.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
    let left_out: Vec<_> = modules.filter(|module| !script.contains(&format!(" {module}::"))).collect();
    assert!(left_out.is_empty(), "tests/run does not name {left_out:?}");
}
