//! `scrub` as a black box: no key, a folder of objects.

use std::path::PathBuf;

use serde_json::Value;
use tests::noise;

use super::cli::Shell;

/// All files of the repository.
fn objects(shell: &Shell) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![shell.path("repository")]);
    while let Some(folder) = open.pop() {
        for item in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if item.file_type().unwrap().is_dir() { open.push(item.path()) } else { found.push(item.path()) }
        }
    }
    found.sort();
    found
}

fn name(shell: &Shell, path: &std::path::Path) -> String {
    path.strip_prefix(shell.path("repository")).unwrap().to_str().unwrap().to_owned()
}

fn record(shell: &Shell, arguments: &[&str], exit: i32) -> (Value, Vec<Value>) {
    let output = shell.run(&[&["scrub", "--json"], arguments].concat());
    assert_eq!(output.status.code(), Some(exit), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (records.pop().unwrap(), records)
}

fn overwrite(path: &std::path::Path, bytes: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_folder_is_scrubbed_without_any_key() {
    let shell = Shell::with_backup(&[("letter.txt", b"dear all"), ("large", &noise(1, 3_000_000))]);
    std::fs::remove_file(shell.path("key")).unwrap();
    let said = shell.ok(&["scrub"]);
    assert!(said.contains("no damage found") && said.contains("of 1 sessions only the header"), "{said}");
    assert_eq!(shell.ok(&["scrub", "repository", "--nice", "yes"]), said);
    let all = objects(&shell);
    let (clean, _) = record(&shell, &[], 0);
    assert_eq!(
        (&clean["damaged"], clean["objects"].as_u64(), clean["unproven"].as_u64()),
        (&false.into(), Some(all.len() as u64), Some(1))
    );
    for path in &all {
        let bytes = std::fs::read(path).unwrap();
        let at = if name(&shell, path).starts_with("sess/") { 3 } else { bytes.len() / 2 };
        let mut damaged = bytes.clone();
        damaged[at] ^= 4;
        overwrite(path, &damaged);
        let (verdict, findings) = record(&shell, &[], 3);
        assert_eq!((findings.len(), &findings[0]["object"], verdict["damaged_objects"].as_u64()), (1, &name(&shell, path).into(), Some(1)));
        overwrite(path, &bytes);
    }
    assert_eq!(record(&shell, &[], 0).0, clean);
}

#[test]
fn what_lies_beside_the_objects_is_told_apart() {
    let shell = Shell::with_backup(&[("letter.txt", b"dear all")]);
    let pack = objects(&shell).into_iter().find(|path| name(&shell, path).starts_with("pack/")).unwrap();
    std::fs::create_dir_all(shell.path("repository/lost+found")).unwrap();
    std::fs::write(shell.path("repository/lost+found/x"), "the system's own").unwrap();
    std::fs::write(pack.with_file_name(".tmp-0123456789abcdef"), "half").unwrap();
    std::fs::write(shell.path("repository/Notes.txt"), "mine").unwrap();
    std::os::unix::fs::symlink("/nowhere", shell.path("repository/link")).unwrap();
    let (quiet, findings) = record(&shell, &[], 0);
    assert_eq!((quiet["temporary"].as_u64(), quiet["foreign"].as_u64(), findings.len()), (Some(1), Some(2), 3), "{findings:?}");
    assert!(findings.iter().all(|finding| finding["severity"] == "note"));
    // A copy that a program for synchronising made, and a pack that somebody has renamed.
    std::fs::copy(&pack, pack.with_file_name("A copy (1)")).unwrap();
    let renamed = pack.with_file_name("00112233445566778899aabbccddeeff");
    std::fs::create_dir_all(shell.path("repository/pack/00")).unwrap();
    std::fs::rename(&pack, shell.path("repository/pack/00").join(renamed.file_name().unwrap())).unwrap();
    let (verdict, findings) = record(&shell, &[], 3);
    let misplaced: Vec<_> = findings.iter().filter(|finding| finding["message"].as_str().unwrap().contains(&name(&shell, &pack))).collect();
    assert_eq!((misplaced.len(), verdict["damaged_objects"].as_u64()), (2, Some(1)), "both say where they belong: {findings:?}");
}

#[test]
fn what_is_no_repository_is_said() {
    let shell = Shell::with_backup(&[("letter.txt", b"dear all")]);
    std::fs::create_dir(shell.path("empty")).unwrap();
    shell.fails(&["scrub", "empty"], 1, "there is no object of a repository");
    shell.fails(&["scrub", "nowhere"], 5, "there is no folder");
}
