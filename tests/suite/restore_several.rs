//! Several things restored or exported at once: by their paths here, in snapshots, in a mounted drive.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tests::driven::Driven;
use tests::{look, program};

/// Two folders and files beside them, saved once; some of them are one file.
fn saved() -> Driven {
    let driven = Driven::new("repository").unwrap();
    let source = driven.source();
    for name in ["letters/deep/a.docx", "letters/b.docx", "pictures/sea.jpg", "c.docx", "d.docx", "note.txt"] {
        std::fs::create_dir_all(source.join(name).parent().unwrap()).unwrap();
        std::fs::write(source.join(name), name).unwrap();
    }
    std::fs::hard_link(source.join("letters/b.docx"), source.join("linked.docx")).unwrap();
    std::fs::set_permissions(source.join("letters"), std::fs::Permissions::from_mode(0o750)).unwrap();
    driven.save().unwrap();
    driven
}

/// The exit code and what was printed on both outputs.
fn run(driven: &Driven, arguments: &[&str]) -> (i32, String, String) {
    told(driven.command(&["--key-file", "key"]).args(arguments))
}

fn told(command: &mut Command) -> (i32, String, String) {
    let output = command.output().expect("tests/run builds the program first");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn in_latest(driven: &Driven, name: &str) -> String {
    format!("latest:{}", driven.source().join(name).display())
}

fn names(folder: &Path) -> String {
    let paths: Vec<_> = look(folder).unwrap().into_keys().map(|path| path.to_str().unwrap().to_owned()).collect();
    paths.join(" ")
}

fn inode(path: &Path) -> u64 {
    path.metadata().unwrap().ino()
}

#[test]
fn several_paths_stand_side_by_side_as_they_were() {
    let driven = saved();
    let whats = ["letters", "c.docx", "linked.docx"].map(|name| in_latest(&driven, name));
    let whats: Vec<_> = whats.iter().map(String::as_str).collect();
    let (out, source) = (driven.path("out"), driven.source());
    let (code, said, _) = run(&driven, &[&["restore"], &whats[..], &["--to", "out", "--dry-run"]].concat());
    assert!(code == 0 && said.starts_with("would restore 4 files") && !out.exists(), "{said}");
    let (code, said, _) = run(&driven, &[&["--json", "restore"], &whats[..], &["--to", "out", "--verify"]].concat());
    let record: Value = serde_json::from_str(said.trim()).expect("one record for all");
    assert_eq!((code, &record["files"], &record["findings"]), (0, &4.into(), &0.into()), "{said}");
    assert_eq!(record["snapshots"], Value::Array(vec![record["snapshot"].clone()]));
    assert_eq!(names(&out), "c.docx letters letters/b.docx letters/deep letters/deep/a.docx linked.docx");
    for (path, seen) in look(&out).unwrap() {
        assert!(look(&source).unwrap()[&path] == seen, "{}", path.display());
    }
    assert_eq!(inode(&out.join("letters/b.docx")), inode(&out.join("linked.docx")), "one file under two of the names");
    let (code, said, _) = run(&driven, &[&["restore"], &whats[..], &["--to", "out"]].concat());
    assert!(code == 0 && said.ends_with("4 were there already\n"), "{said}");
    // Patterns count from the folder in which all of them stand.
    run(&driven, &[&["restore"], &whats[..], &["--to", "some", "--exclude", "/letters/deep", "--exclude", "c.*"]].concat());
    assert_eq!(names(&driven.path("some")), "letters letters/b.docx linked.docx");
    // Something and a part of it.
    let (code, ..) = run(&driven, &["restore", &in_latest(&driven, "letters"), &in_latest(&driven, "letters/deep"), "--to", "both"]);
    assert_eq!(
        (code, names(&driven.path("both")).as_str()),
        (0, "deep deep/a.docx letters letters/b.docx letters/deep letters/deep/a.docx")
    );
}

#[test]
fn what_is_missing_is_said_and_costs_nothing_else() {
    let driven = saved();
    let [there, gone, also_gone] = ["c.docx", "gone.docx", "letters/gone"].map(|name| in_latest(&driven, name));
    let (code, said, warned) = run(&driven, &["restore", &there, &gone, "--to", "out"]);
    assert_eq!((code, names(&driven.path("out")).as_str()), (3, "c.docx"), "{warned}");
    assert!(said.starts_with("restored 1 files") && warned.contains("gone.docx") && warned.contains("no such path"), "{said} {warned}");
    let (code, said, _) = run(&driven, &["--json", "restore", &there, &gone, "--to", "out"]);
    let records: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((code, &records[0]["type"], &records[0]["severity"]), (3, &"finding".into(), &"error".into()), "{said}");
    assert_eq!((records.len(), &records[1]["type"], &records[1]["findings"]), (2, &"restore".into(), &1.into()), "{said}");
    let (code, _, warned) = run(&driven, &["restore", &gone, &also_gone, "--to", "nothing"]);
    assert!(code == 1 && warned.contains("none of the 2 paths") && !driven.path("nothing").exists(), "{code} {warned}");
    let (code, _, warned) = run(&driven, &["restore", &there, "ffff:/x", "--to", "nothing"]);
    assert!(code == 1 && warned.contains("no snapshot fits") && !driven.path("nothing").exists(), "{code} {warned}");
    assert_eq!(run(&driven, &["restore", "--to", "nothing"]).0, 2);
}

#[test]
fn two_of_one_name_are_refused_before_anything_is_written() {
    let driven = saved();
    let text = driven.source().join("letters/note.txt");
    std::fs::write(&text, "another").unwrap();
    driven.run(&["--key-file", "key", "backup", "source"]).unwrap();
    let [one, other] = ["note.txt", "letters/note.txt"].map(|name| in_latest(&driven, name));
    for command in [&["restore", "--to", "out"][..], &["export", "-o", "out"]] {
        let (code, _, warned) = run(&driven, &[command, &[&one, &other]].concat());
        assert!(code == 2 && warned.contains("would both be named note.txt") && warned.contains("hint: "), "{code} {warned}");
        let (code, _, warned) = run(&driven, &[command, &[&one, "latest:/"]].concat());
        assert!(code == 2 && warned.contains("as a whole") && warned.contains("hint: "), "{code} {warned}");
        assert!(!driven.path("out").exists());
    }
    let (code, said, _) = run(&driven, &["restore", &one, &one, "--to", "out"]);
    assert!(code == 0 && said.starts_with("restored 1 files"), "what is named twice is one thing: {said}");
}

#[test]
fn snapshots_do_not_mix() {
    let driven = saved();
    let source = driven.source();
    let first = driven.run(&["--key-file", "key", "--json", "snapshots"]).unwrap();
    let first: Value = serde_json::from_str(first.trim()).unwrap();
    // Groups of links are numbered in each snapshot: here two that are not the same file.
    std::fs::remove_file(source.join("linked.docx")).unwrap();
    std::fs::remove_file(source.join("letters/b.docx")).unwrap();
    std::fs::create_dir(source.join("new")).unwrap();
    std::fs::write(source.join("new/one"), "another file").unwrap();
    std::fs::hard_link(source.join("new/one"), source.join("new/two")).unwrap();
    driven.run(&["--key-file", "key", "backup", "source"]).unwrap();
    let id = first["id"].as_str().unwrap();
    let old = |name: &str| format!("{id}:{}", source.join(name).display());
    let whats = [old("letters"), in_latest(&driven, "new"), old("linked.docx")];
    let whats: Vec<_> = whats.iter().map(String::as_str).collect();
    let (code, said, warned) = run(&driven, &[&["--json", "restore"], &whats[..], &["--to", "out"]].concat());
    let record: Value = serde_json::from_str(said.trim()).unwrap();
    assert_eq!((code, &record["snapshot"], record["snapshots"].as_array().map(Vec::len)), (0, &Value::Null, Some(2)), "{warned}");
    run(&driven, &[&["export"], &whats[..], &["-o", "out.tar"]].concat());
    std::fs::create_dir(driven.path("unpacked")).unwrap();
    let unpack = Command::new("tar").args(["-xpf", "../out.tar"]).current_dir(driven.path("unpacked")).status().unwrap();
    assert!(unpack.success());
    let [out, unpacked] = ["out", "unpacked"].map(|name| driven.path(name));
    assert!(look(&out).unwrap() == look(&unpacked).unwrap());
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    assert_eq!(
        (read("letters/b.docx"), read("new/one"), read("new/two")),
        ("letters/b.docx".into(), "another file".into(), "another file".into())
    );
    assert!(
        inode(&out.join("letters/b.docx")) == inode(&out.join("linked.docx")) && inode(&out.join("new/one")) == inode(&out.join("new/two"))
    );
    assert_ne!(inode(&out.join("letters/b.docx")), inode(&out.join("new/one")));
}

#[test]
fn paths_of_this_machine_are_taken_from_its_newest_snapshot_of_them() {
    let driven = saved();
    std::fs::write(driven.path("elsewhere"), "x").unwrap();
    // Newer ones of another set and of another machine.
    driven.run(&["--key-file", "key", "backup", "elsewhere"]).unwrap();
    std::fs::write(driven.source().join("c.docx"), "of another machine").unwrap();
    driven.run(&["--key-file", "key", "backup", "source", "--host", "other"]).unwrap();
    std::fs::remove_file(driven.source().join("c.docx")).unwrap();
    let letters = driven.source().join("letters");
    let (code, _, warned) = run(&driven, &["restore", "source/c.docx", letters.to_str().unwrap(), "--to", "out"]);
    assert_eq!(
        (code, names(&driven.path("out")).as_str()),
        (0, "c.docx letters letters/b.docx letters/deep letters/deep/a.docx"),
        "{warned}"
    );
    assert_eq!(std::fs::read_to_string(driven.path("out/c.docx")).unwrap(), "c.docx");
    run(&driven, &["restore", "./source/c.docx", "--to", "out", "--host", "other"]);
    assert_eq!(std::fs::read_to_string(driven.path("out/c.docx")).unwrap(), "of another machine");
    let (code, _, warned) = run(&driven, &["restore", "/never/saved", "--to", "nothing"]);
    assert!(code == 1 && warned.contains("lies in no drive") && warned.contains("--host"), "{code} {warned}");
    let (code, _, warned) = run(&driven, &["restore", "../up", "--to", "nothing"]);
    assert!(code == 2 && warned.contains("'..'"), "{code} {warned}");
    assert!(!driven.path("nothing").exists());
}

#[test]
fn of_a_path_here_the_snapshot_is_taken_that_has_all_of_it() {
    let driven = saved();
    // Newer, and of a part of it only.
    driven.run(&["--key-file", "key", "backup", "source/letters"]).unwrap();
    let (code, said, warned) = run(&driven, &["restore", "./source", "--to", "out"]);
    assert!(code == 0 && said.starts_with("restored 7 files"), "{said} {warned}");
    std::fs::remove_file(driven.source().join("c.docx")).unwrap();
    driven.run(&["--key-file", "key", "backup", "source"]).unwrap();
    let (code, said, warned) = run(&driven, &["restore", "./source/c.docx", "--to", "gone"]);
    assert!(code == 0 && said.starts_with("restored 1 file"), "as it was before it was deleted: {said} {warned}");
    let above = driven.source().parent().unwrap().to_str().unwrap().to_owned();
    let (code, _, warned) = run(&driven, &["restore", &above, "--to", "nothing"]);
    assert!(code == 1 && warned.contains("has all of it"), "{code} {warned}");
}

#[test]
fn a_folder_named_twice_is_one() {
    let driven = saved();
    let letters = in_latest(&driven, "letters");
    let (code, _, warned) = run(&driven, &["restore", &letters, &letters, "--to", "out"]);
    assert_eq!((code, names(&driven.path("out")).as_str()), (0, "b.docx deep deep/a.docx"), "{warned}");
    assert_eq!(run(&driven, &["restore", "latest", "latest", "--to", "all"]).0, 0);
}

#[test]
fn a_shell_names_them_in_a_drive() {
    let driven = saved();
    let drive = driven.mount("drive", &[]).unwrap();
    // Nothing but the drive says which repository it is.
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.env_clear().env("HOME", driven.path(".")).env("PATH", "/usr/bin:/bin").env("P", program()).env("D", &drive.shown);
        told(command.current_dir(driven.path(".")).args(["-c", script]))
    };
    let (code, said, warned) = shell("$P --key-file key restore $D/*.docx $D/letters/*.docx $D/pict* --to out");
    assert_eq!((code, names(&driven.path("out")).as_str()), (0, "b.docx c.docx d.docx linked.docx pictures pictures/sea.jpg"), "{warned}");
    assert!(said.starts_with("restored 5 files"), "{said}");
    let (code, said, warned) = shell("$P --key-file key export $D/*.docx latest:$D/../none source/note.txt | tar -t");
    assert!(warned.contains("'..'") && said.is_empty(), "{code} {said} {warned}");
    let (_, said, warned) = shell("$P --key-file key export $D/*.docx source/note.txt $D/letters | tar -t");
    let mut listed: Vec<_> = said.lines().collect();
    listed.sort_unstable();
    let expected = [
        "./c.docx",
        "./d.docx",
        "./letters/",
        "./letters/b.docx",
        "./letters/deep/",
        "./letters/deep/a.docx",
        "./linked.docx",
        "./note.txt",
    ];
    assert_eq!(listed, expected, "{warned}");
    // Every snapshot has one of that name.
    driven.run(&["--key-file", "key", "backup", "source"]).unwrap();
    let all = "$P --key-file key restore drive/Snapshots/*/*/${D#*/*/Latest/*/}/c.docx --to twice";
    let all = all.replace("${D#*/*/Latest/*/}", driven.source().strip_prefix("/").unwrap().to_str().unwrap());
    super::mount::within_five_seconds(|| std::fs::read_dir(drive.path.join("Ids")).unwrap().count() == 2);
    let (code, _, warned) = shell(&all);
    assert!(code == 2 && warned.contains("would both be named c.docx") && !driven.path("twice").exists(), "{code} {warned}");
    // A pattern that fits nothing comes as it is.
    let (code, _, warned) = shell("$P --key-file key restore $D/*.odt --to nothing");
    assert!(code == 1 && warned.contains("*.odt") && !driven.path("nothing").exists(), "{code} {warned}");
}
