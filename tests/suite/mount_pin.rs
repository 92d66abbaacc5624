//! What is pinned is read without the store: the program, mounted for real, whose store then goes away.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::dav::DavServer;
use tests::driven::{Drive, Driven};
use tests::{look, noise};

/// A source of which `kept` will be pinned: a file of several lists' worth of chunks, many small ones, a long attribute, and hard links whose first entry
/// stands outside.
fn fill(driven: &Driven) {
    let source = driven.source();
    let write = |name: &str, bytes: &[u8]| {
        let path = source.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    write("a/first", &noise(1, 700_000));
    write("kept/large", &noise(2, 14_000_000));
    write("kept/text", "much the same\n".repeat(40_000).as_bytes());
    write("kept/empty", b"");
    for number in 0..300 {
        write(&format!("kept/small/{number}/file"), &noise(100 + number, 50 + number as usize * 31));
    }
    std::fs::hard_link(source.join("a/first"), source.join("kept/linked")).unwrap();
    std::os::unix::fs::symlink("large", source.join("kept/pointer")).unwrap();
    rustix::fs::setxattr(source.join("kept/text"), "user.long", &noise(3, 2000), rustix::fs::XattrFlags::empty()).unwrap();
    write("other/file", &noise(4, 900_000));
}

fn json(driven: &Driven, arguments: &[&str]) -> Vec<Value> {
    let text = driven.run(&[&["--json", "--key-file", "key"], arguments].concat()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Why the program refuses.
fn refusal(driven: &Driven, arguments: &[&str]) -> String {
    let output = driven.command(&[&["--key-file", "key"], arguments].concat()).output().unwrap();
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn contents(folder: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    look(folder).unwrap().into_iter().map(|(path, seen)| (path, (seen.mode, seen.bytes))).collect()
}

fn all_is_read(driven: &Driven, drive: &Drive) {
    let (kept, shown) = (driven.source().join("kept"), drive.shown.join("kept"));
    let (expected, found) = (contents(&kept), contents(&shown));
    assert_eq!(found.len(), expected.len());
    for (path, seen) in expected {
        assert!(found[&path] == seen, "{} differs", path.display());
    }
    let mut value = vec![0; 3000];
    let length = rustix::fs::getxattr(shown.join("text"), "user.long", &mut value[..]).unwrap();
    assert!(value[..length] == noise(3, 2000));
}

#[test]
fn a_pinned_folder_is_read_by_a_drive_that_was_there_before_when_the_server_is_gone() {
    let store = tempfile::tempdir().unwrap();
    let server = DavServer::start(store.path()).unwrap();
    let driven = Driven::new(format!("webdav+http://{}/repository", server.address())).unwrap();
    fill(&driven);
    driven.save().unwrap();
    let drive = driven.mount("drive", &["--memory", "16M", "--cache-size", "64M"]).unwrap();
    let kept = drive.shown.join("kept");
    let pinned = json(&driven, &["--cache-size", "64M", "pin", kept.to_str().unwrap()]);
    assert_eq!((&pinned[0]["type"], &pinned[0]["files"]), (&"pinned".into(), &305.into()), "{pinned:?}");
    drop(server);
    drop(store);
    all_is_read(&driven, &drive);
}

#[test]
fn a_drive_of_a_folder_reads_what_is_pinned_without_a_cache_of_its_own() {
    let driven = Driven::new("repository").unwrap();
    fill(&driven);
    driven.save().unwrap();
    let drive = driven.mount("drive", &["--memory", "16M"]).unwrap();
    let path = format!("latest:{}", driven.source().join("kept").display());
    assert_eq!(json(&driven, &["pin", &path]).len(), 1);
    let again = json(&driven, &["pin", &path]);
    assert_eq!(again[0]["fetched_bytes"], 0, "{again:?}");
    for gone in ["pack", "meta"] {
        std::fs::rename(driven.path("repository").join(gone), driven.path(gone)).unwrap();
    }
    all_is_read(&driven, &drive);
    assert!(std::fs::read(drive.shown.join("other/file")).is_err(), "it was not pinned");
    for gone in ["pack", "meta"] {
        std::fs::rename(driven.path(gone), driven.path("repository").join(gone)).unwrap();
    }
    assert_eq!(std::fs::read(drive.shown.join("other/file")).unwrap(), noise(4, 900_000));
    // Who checks wants to know how the repository is, whatever is kept here.
    json(&driven, &["pin", "latest:/"]);
    driven.run(&["--key-file", "key", "check"]).unwrap();
    let folder = std::fs::read_dir(driven.path("repository/meta")).unwrap().next().unwrap().unwrap().path();
    let pack = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&pack).unwrap();
    let middle = bytes.len() / 4;
    bytes[middle] ^= 1;
    std::fs::remove_file(&pack).unwrap();
    std::fs::write(&pack, bytes).unwrap();
    assert!(refusal(&driven, &["check"]).contains("damaged"));
}

#[test]
fn pins_are_listed_refused_let_go_and_cleared() {
    let driven = Driven::new("repository").unwrap();
    fill(&driven);
    driven.save().unwrap();
    let drive = driven.mount("drive", &[]).unwrap();
    let kept = drive.shown.join("kept");
    let kept = kept.to_str().unwrap();
    let told = refusal(&driven, &["--cache-size", "4M", "pin", kept]);
    let enough = told.split("--cache-size ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_else(|| panic!("{told}"));
    assert_eq!(json(&driven, &["pin", "--list"]), Vec::<Value>::new());
    let pinned = json(&driven, &["--cache-size", enough, "pin", kept]);
    let stored = &pinned[0]["stored_bytes"];
    let list = json(&driven, &["pin", "--list"]);
    let path = driven.source().join("kept").to_str().unwrap()[1..].to_owned();
    assert_eq!((&list[0]["path"], &list[0]["complete"], &list[0]["stored_bytes"]), (&path.into(), &true.into(), stored));
    let status = json(&driven, &["cache", "status"]);
    assert_eq!((&status[0]["pinned"], &status[0]["pins"]), (stored, &1.into()), "{status:?}");
    assert_eq!(json(&driven, &["--repository", "/no/such/place", "cache", "status", "--all"]), status, "no store is needed");
    assert_eq!(json(&driven, &["cache", "clear"])[0]["pinned"], *stored);

    // A link to the drive, a name relative to it, one file of it.
    std::os::unix::fs::symlink(&drive.path, driven.path("link")).unwrap();
    let file = Path::new("link").join(drive.shown.strip_prefix(&drive.path).unwrap()).join("other/file");
    assert_eq!(json(&driven, &["pin", file.to_str().unwrap()])[0]["files"], 1);
    assert_eq!(json(&driven, &["unpin", kept])[0]["bytes"], *stored);
    assert!(refusal(&driven, &["unpin", kept]).contains("not pinned"));
    assert_eq!(json(&driven, &["unpin", "--all"]).len(), 1);
    assert_eq!(json(&driven, &["cache", "status"])[0]["pinned"], 0);

    assert!(refusal(&driven, &["pin", driven.source().to_str().unwrap()]).contains("lies in no drive"));
    assert!(refusal(&driven, &["pin", drive.path.join("Latest").to_str().unwrap()]).contains("is in no snapshot"));
    assert!(refusal(&driven, &["pin", "latest:/nowhere"]).contains("no /nowhere"));
    driven.run(&["--repository", "second", "init", "--new-key-file", "key2", "--accept-loss"]).unwrap();
    let other = refusal(&driven, &["--repository", "second", "--key-file", "key2", "pin", kept]);
    assert!(other.contains("another repository"), "{other}");
    json(&driven, &["pin", kept]);
    json(&driven, &["cache", "clear", "--all", "--pinned"]);
    assert_eq!((json(&driven, &["pin", "--list"]).len(), &json(&driven, &["cache", "status"])[0]["used"]), (0, &0.into()));
}
