//! `prune` as a black box. By the system's clock nothing is old: what is deleted is tried in `prune.rs`.

use serde_json::Value;

use super::cli::Shell;

fn with(count: usize) -> Shell {
    let shell = Shell::with_backup(&[("letter.txt", b"dear all")]);
    (1..count).for_each(|n| {
        std::fs::write(shell.path("source/letter.txt"), format!("letter {n}")).unwrap();
        shell.ok(&["backup", "source"]);
    });
    shell
}

fn first_id(shell: &Shell) -> String {
    let text = shell.ok(&["snapshots", "--json"]);
    let record: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    record["id"].as_str().unwrap().to_owned()
}

#[test]
fn it_says_what_it_does_and_when_it_goes_on() {
    let shell = with(3);
    let first = first_id(&shell);
    assert!(shell.ok(&["prune"]).contains("of which snapshots need"));
    shell.ok(&["forget", &first, "--yes"]);
    let tried = shell.ok(&["prune", "--dry-run"]);
    for says in ["would condemn 0 packs of 0 B, and 1 forgotten snapshots", "left alone for now", "dry run, nothing was changed"] {
        assert!(tried.contains(says), "{says}: {tried}");
    }
    assert!(!shell.path("repository/mark").exists() || std::fs::read_dir(shell.path("repository/mark")).unwrap().count() == 0);
    let done = shell.ok(&["prune"]);
    assert!(done.contains("condemned 0 packs of 0 B, and 1 forgotten snapshots: nothing is lost yet"), "{done}");
    assert!(done.contains("the next 'yesterdrive prune' deletes what is condemned from"), "{done}");
    assert_eq!(std::fs::read_dir(shell.path("repository/mark")).unwrap().count(), 1);
    // The index is merged after it, which is a record of its own.
    let text = shell.ok(&["prune", "--json"]);
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((records.len(), &records[1]["type"]), (2, &"merge".into()), "{text}");
    let record = &records[0];
    assert_eq!((&record["type"], &record["swept"]["count"], &record["snapshots_condemned"]), (&"prune".into(), &0.into(), &0.into()));
    assert!(record["next_due"].is_string() && record["young"]["count"].as_u64().unwrap() > 0, "{record}");
    // Nothing of it is lost.
    assert!(shell.ok(&["check", "--read-data"]).contains("no damage found"));
    assert!(shell.ok(&["forget", "--undo", &first]).contains("brought back 1 of 1"));
    shell.ok(&["prune"]);
    assert_eq!(std::fs::read_dir(shell.path("repository/mark")).unwrap().count(), 0, "its mark is of no use any more");
}

#[test]
fn wrong_use_and_damage_say_what_to_do() {
    let shell = with(3);
    shell.fails(&["prune", "--grace", "1d"], 2, "at least 48h");
    shell.fails(&["prune", "--max-delete", "0"], 2, "1 to 100");
    shell.ok(&["forget", &first_id(&shell), "--yes"]);
    let tombstone = std::fs::read_dir(shell.path("repository/drop")).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&tombstone).unwrap();
    std::fs::remove_file(&tombstone).unwrap();
    std::fs::write(&tombstone, &whole[..whole.len() - 1]).unwrap();
    std::fs::remove_dir_all(shell.path(".cache")).unwrap();
    shell.fails(&["prune"], 1, "drop/");
    shell.fails(&["prune"], 1, "nothing was deleted");
}
