//! These run on Windows and with Wine.

use std::ffi::CStr;
use std::fs::OpenOptions;
use std::os::windows::fs::OpenOptionsExt as _;

use fs_core::tree::Value;

use super::*;

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

#[test]
fn a_folder_is_listed_and_its_files_are_read() {
    let place = tempfile::tempdir().unwrap();
    for text in ["b", "a", "ä", "B1", "日本"] {
        std::fs::write(place.path().join(text), text).unwrap();
    }
    std::fs::create_dir(place.path().join("folder")).unwrap();
    let tree = LiveTree::default();
    let (directory, child) = tree.at(place.path()).unwrap();
    assert_eq!((child.entry.kind, child.entry.mode), (EntryKind::Directory, 0o700));
    let names: Vec<_> = tree.names(&directory).unwrap().iter().map(|name| name.to_string()).collect();
    assert_eq!(names, ["B1", "a", "b", "folder", "ä", "日本"]);
    let mut listed = Names::default();
    tree.list_into(&directory, &mut listed).unwrap();
    assert_eq!(listed.iter().map(CStr::to_bytes).collect::<Vec<_>>(), names.iter().map(String::as_bytes).collect::<Vec<_>>());
    let child = tree.entry(&directory, &name("日本")).unwrap();
    assert_eq!((child.entry.kind, child.entry.size, child.entry.link_group), (EntryKind::File, 6, None));
    assert!(child.entry.mtime.is_some() && child.entry.ctime.is_some() && child.entry.windows_attributes.is_some());
    let (file, _) = tree.open_file(&directory, &name("日本"), &child.stamp).unwrap();
    let mut bytes = [0; 10];
    assert_eq!(file.read(&mut bytes).unwrap(), 6);
    assert_eq!(file.read_at(&mut bytes, 3).unwrap(), 3);
    let mut entry = child.entry.clone();
    assert_eq!(file.attributes().give(&mut entry), None);
    assert!(matches!(&entry.security_descriptor, Some(Value::Inline(bytes)) if !bytes.is_empty()) && entry.user.is_some());
}

#[test]
fn drives_stand_at_the_root_and_servers_below_unc() {
    let tree = LiveTree::default();
    let (root, top) = tree.root().unwrap();
    assert_eq!(top.entry.name, None);
    let child = tree.entry(&root, &name("C")).unwrap();
    assert_eq!((child.entry.kind, child.entry.name.clone()), (EntryKind::Directory, Some(name("C"))));
    let drive = tree.open(&root, &name("C"), &child.stamp).unwrap();
    assert!(!tree.names(&drive).unwrap().is_empty() && !tree.is_pseudo(&drive));
    let unc = tree.entry(&root, &name("UNC")).unwrap();
    let unc = tree.open(&root, &name("UNC"), &unc.stamp).unwrap();
    assert!(matches!(&*unc.0, Place::Above(names) if names.len() == 1));
    assert!(tree.entry(&unc, &name("server")).is_ok(), "a server is only a name");
    assert_eq!(volume(&[name("UNC"), name("server")], b"share").unwrap(), Path::new(r"\\?\UNC\server\share\"));
}

#[test]
fn a_file_that_somebody_has_for_himself_is_in_use() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("a"), "x").unwrap();
    let tree = LiveTree::default();
    let (directory, _) = tree.at(place.path()).unwrap();
    let child = tree.entry(&directory, &name("a")).unwrap();
    let held = OpenOptions::new().read(true).write(true).share_mode(0).open(place.path().join("a")).unwrap();
    assert!(matches!(tree.open_file(&directory, &name("a"), &child.stamp), Err(SourceError::InUse)));
    assert!(tree.entry(&directory, &name("a")).is_ok(), "it can be looked at");
    drop(held);
    assert!(tree.open_file(&directory, &name("a"), &child.stamp).is_ok());
}

#[test]
fn what_was_replaced_is_noticed() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("a"), "x").unwrap();
    std::fs::create_dir(place.path().join("f")).unwrap();
    let tree = LiveTree::default();
    let (directory, _) = tree.at(place.path()).unwrap();
    let (file, folder) = (tree.entry(&directory, &name("a")).unwrap(), tree.entry(&directory, &name("f")).unwrap());
    std::fs::write(place.path().join("new"), "y").unwrap();
    std::fs::rename(place.path().join("new"), place.path().join("a")).unwrap();
    std::fs::create_dir(place.path().join("g")).unwrap();
    std::fs::remove_dir(place.path().join("f")).unwrap();
    std::fs::rename(place.path().join("g"), place.path().join("f")).unwrap();
    assert!(matches!(tree.open_file(&directory, &name("a"), &file.stamp), Err(SourceError::Replaced)));
    assert!(matches!(tree.open(&directory, &name("f"), &folder.stamp), Err(SourceError::Replaced)));
    assert!(matches!(tree.open(&directory, &name("a"), &file.stamp), Err(SourceError::Replaced)));
    assert!(matches!(tree.entry(&directory, &name("gone")), Err(SourceError::Vanished)));
}

#[test]
fn every_fact_shows() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("file"), "x").unwrap();
    let tree = LiveTree::default();
    let (directory, _) = tree.at(place.path()).unwrap();
    let bytes = || {
        let mut bytes = Vec::new();
        tree.facts(&directory, c"file").unwrap().write(&mut bytes);
        bytes
    };
    let first = bytes();
    assert_eq!(first, bytes());
    std::fs::write(place.path().join("file"), "xy").unwrap();
    let second = bytes();
    assert_ne!(first, second);
    std::fs::hard_link(place.path().join("file"), place.path().join("link")).unwrap();
    assert_ne!(second, bytes(), "another name");
    assert_eq!(tree.facts(&directory, c"file").unwrap().inode, tree.facts(&directory, c"link").unwrap().inode);
}

#[test]
fn without_a_service_for_shadow_copies_files_are_read_where_they_are() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("file"), "x").unwrap();
    let mut tree = LiveTree::default();
    let paths = [system::shown_bytes(place.path()).into_owned()];
    assert_eq!(tree.hold_still(&paths, false).1, None, "nobody wants one");
    let (_still, told) = tree.hold_still(&paths, true);
    if tree.shadows.is_empty() {
        assert!(told.is_none_or(|told| told.contains("there is no shadow copy")));
    }
    let (directory, _) = tree.at(place.path()).unwrap();
    assert!(tree.entry(&directory, &name("file")).is_ok());
}
