//! `forget` as a black box.

use std::collections::BTreeSet;

use serde_json::Value;

use super::cli::Shell;

fn records(text: &str, kind: &str) -> Vec<Value> {
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|record| record["type"] == kind).collect()
}

fn ids(shell: &Shell, flags: &[&str]) -> Vec<String> {
    let text = shell.ok(&[&["snapshots", "--json"], flags].concat());
    records(&text, "snapshot").iter().map(|record| record["id"].as_str().unwrap().to_owned()).collect()
}

/// So many snapshots of one folder.
fn with(count: usize) -> Shell {
    let shell = Shell::with_backup(&[("letter.txt", b"dear all")]);
    (1..count).for_each(|n| {
        std::fs::write(shell.path("source/letter.txt"), format!("letter {n}")).unwrap();
        shell.ok(&["backup", "source"]);
    });
    shell
}

#[test]
fn rules_forget_and_undo_brings_back() {
    let shell = with(4);
    let all = ids(&shell, &[]);
    let tried = shell.ok(&["forget", "--keep-last", "3", "--dry-run"]);
    for says in
        ["4 snapshots, 1 to forget", "forget\n", "keep    last 3", "# kept", "dry run, nothing was forgotten: 1 of 4 snapshots would be"]
    {
        assert!(tried.contains(says), "{says}: {tried}");
    }
    assert_eq!(ids(&shell, &[]), all);
    let done = shell.ok(&["forget", "--keep-last", "3"]);
    assert!(
        done.contains("forgot 1 of 4 snapshots") && done.contains("'yesterdrive prune' frees the room that they take, a week later"),
        "{done}"
    );
    assert_eq!((ids(&shell, &[]), ids(&shell, &["--forgotten"])), (all[1..].to_vec(), all[..1].to_vec()));
    assert!(shell.ok(&["snapshots", "--forgotten"]).contains("(last:3)"));
    assert!(shell.ok(&["forget", "--keep-last", "3"]).contains("nothing to forget: all 3 snapshots are kept"));

    let hint = format!("yesterdrive forget --undo {}", &all[0][..16]);
    for command in [&["restore", &all[0], "--to", "r"][..], &["ls", &all[0]], &["report", &all[0]]] {
        shell.fails(command, 1, "was forgotten on");
        shell.fails(command, 1, &hint);
    }
    shell.fails(&["forget", &all[0], "--yes"], 1, "was forgotten on");
    shell.fails(&["forget", "--undo", &all[1]], 1, "no forgotten snapshot fits");
    assert!(shell.ok(&["forget", "--undo", &all[0][..12], "--dry-run"]).contains("would bring back 1 of 1 forgotten snapshots"));
    assert!(shell.ok(&["forget", "--undo", &all[0][..12]]).contains("brought back 1 of 1 forgotten snapshots"));
    assert_eq!((ids(&shell, &[]), ids(&shell, &["--forgotten"])), (all.clone(), vec![]));
    shell.ok(&["restore", &all[0], "--to", "r"]);
    assert!(shell.ok(&["check", "--read-data"]).contains("no damage found"));
}

#[test]
fn much_at_once_and_what_is_named_wants_a_word() {
    let shell = with(5);
    let all = ids(&shell, &[]);
    shell.fails(&["forget", "--keep-last", "1"], 1, "4 of 5 snapshots of");
    shell.fails(&["forget", "--keep-last", "1"], 1, "--yes");
    shell.fails(&["forget", &all[0]], 1, "nothing was forgotten");
    assert_eq!(ids(&shell, &[]), all);
    shell.ok(&["forget", &all[0], &all[1][..10], &all[0], "--yes"]);
    assert_eq!(ids(&shell, &[]), all[2..]);
    shell.ok(&["forget", "--keep-last", "1", "--yes"]);
    assert_eq!(ids(&shell, &[]), all[4..]);
    // Without names the last run is undone, then the one before.
    shell.ok(&["forget", "--undo"]);
    assert_eq!(ids(&shell, &[]), all[2..]);
    shell.ok(&["forget", "--undo"]);
    assert_eq!(ids(&shell, &[]), all);
    assert!(shell.ok(&["forget", "--undo"]).contains("brought back 0 of 0 forgotten snapshots"));
    // Everything may go by name, and the next backup goes on.
    shell.ok(&[&["forget", "--yes"], &all.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
    assert!(ids(&shell, &[]).is_empty());
    shell.fails(&["restore", "latest:/", "--to", "r"], 1, "no snapshot fits 'latest'");
    let saved = shell.ok(&["backup", "source", "--json"]);
    assert_eq!(records(&saved, "backup")[0]["sequence"], 6);
}

#[test]
fn wrong_use_says_what_is_right() {
    let shell = with(1);
    shell.fails(&["forget"], 2, "--keep 28+monthly");
    shell.fails(&["forget", "--keep", "monthly"], 2, "first-of-month");
    shell.fails(&["forget", "--keep-within", "28"], 2, "28d");
    shell.fails(&["forget", "--keep-last", "0"], 2, "from 1 on");
    shell.fails(&["forget", "--keep-weekly", "x"], 2, "from 1 on");
    shell.fails(&["forget", "abcd", "--keep-last", "1"], 2, "cannot be used with");
    shell.fails(&["forget", "abcd", "--yes"], 1, "no snapshot fits");
    std::fs::write(shell.path("config.toml"), "[default]\nkeep = 'soon'\n[good]\nkeep = '28+monthly'\n").unwrap();
    shell.fails(&["--config", "config.toml", "forget"], 2, "the profile's keep");
    assert!(shell.ok(&["--config", "config.toml", "--profile", "good", "forget"]).contains("last 28, within 28d, first of month"));
}

#[test]
fn records_say_what_becomes_of_each_snapshot() {
    let shell = with(3);
    shell.ok(&["backup", "source", "--set", "other"]);
    let all = ids(&shell, &[]);
    let tried = shell.ok(&["forget", "--keep-last", "2", "--dry-run", "--json"]);
    let told = records(&tried, "retention");
    let kept: BTreeSet<_> =
        told.iter().filter(|record| record["keep"] == true).map(|record| record["snapshot"].as_str().unwrap()).collect();
    assert_eq!((told.len(), kept), (4, all[1..].iter().map(String::as_str).collect()));
    assert!(told.iter().all(|record| (record["reasons"][0] == "last 2") == (record["keep"] == true)), "{told:?}");
    let sum = &records(&tried, "forget")[0];
    assert_eq!((&sum["dry_run"], &sum["run"], &sum["kept"], &sum["forgotten"]), (&true.into(), &Value::Null, &3.into(), &1.into()));
    assert_eq!(tried.lines().count(), 5, "nothing but records");

    // Only the set that is named is looked at.
    let done = shell.ok(&["forget", "--set", "other", "--keep-last", "1", "--json"]);
    assert_eq!((records(&done, "retention").len(), &records(&done, "forget")[0]["forgotten"]), (1, &0.into()));
    let device = told[0]["device"].as_str().unwrap();
    let done = shell.ok(&["forget", "--device", &device[..8], "--keep-last", "2", "--json"]);
    let sum = &records(&done, "forget")[0];
    assert_eq!((&sum["forgotten"], &sum["snapshots"][0], sum["run"].as_str().unwrap().len()), (&1.into(), &all[0].clone().into(), 32));
    let forgotten = shell.ok(&["snapshots", "--forgotten", "--json"]);
    assert_eq!(records(&forgotten, "snapshot")[0]["run"], sum["run"]);
    assert_eq!(records(&forgotten, "snapshot")[0]["why"], "last:2");
    let undone = shell.ok(&["forget", "--undo", "--json"]);
    assert_eq!(records(&undone, "forget_undone")[0]["snapshots"], 1);
    assert_eq!(ids(&shell, &[]).len(), 4);
}

#[test]
fn rules_forget_nothing_while_something_forgotten_cannot_be_read() {
    let shell = with(4);
    let all = ids(&shell, &[]);
    shell.ok(&["forget", &all[3], "--yes"]);
    let tombstone = std::fs::read_dir(shell.path("repository/drop")).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&tombstone).unwrap();
    std::fs::remove_file(&tombstone).unwrap();
    std::fs::write(&tombstone, &whole[..whole.len() - 1]).unwrap();
    // What is remembered here still counts; a machine that is new does not know what was forgotten.
    std::fs::remove_dir_all(shell.path(".cache")).unwrap();
    shell.fails(&["forget", "--keep-last", "3"], 1, "rules would count that again: nothing was forgotten");
    shell.fails(&["forget", "--keep-last", "3", "--dry-run"], 3, "drop/");
    assert_eq!(std::fs::read_dir(shell.path("repository/drop")).unwrap().count(), 1);
}

#[test]
fn latest_is_no_name_for_what_is_forgotten() {
    let shell = with(2);
    shell.fails(&["forget", "latest", "--yes"], 2, "name it by its id");
    assert_eq!(ids(&shell, &[]).len(), 2);
}
