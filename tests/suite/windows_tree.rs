//! How Windows walks through a view, without Windows: paths in any case, names that it takes for the same, links, and what looking costs.

use std::path::Path;
use std::sync::Arc;

use backup_writer::device;
use crossbeam_channel::never;
use fs_core::storage::memory::MemoryStore;
use fs_core::testing::CountingStore;
use fs_core::tree::{Content, EntryKind, Stream, Value};
use fs_core::view::error::ViewError;
use fs_core::view::{Links, View};
use mount_windows::tasks::{ask, wait};
use mount_windows::tree::{AlternateStream, Found, Line, Tree};
use tests::other_system::{Planter, content, named, stream};
use tests::{Bench, noise};

use super::mount::view_with;

fn units(text: &str) -> Vec<u16> {
    text.encode_utf16().collect()
}

fn find(tree: &Tree, path: &str) -> Result<Found, ViewError> {
    wait(tree.find(&units(path)), &never()).unwrap()
}

/// The number and the path of an entry that is there.
fn entry(tree: &Tree, path: &str) -> (u64, String) {
    match find(tree, path).unwrap() {
        Found::Entry(place) => (place.attr.inode, String::from_utf16(&place.path).unwrap()),
        other => panic!("{path}: {other:?}"),
    }
}

fn step(tree: &Tree, folder: u64, name: &str) -> Option<Line> {
    wait(tree.step(folder, &units(name)), &never()).unwrap().unwrap()
}

fn list(tree: &Tree, path: &str) -> Vec<Line> {
    let (folder, path) = entry(tree, path);
    let (mut all, mut at) = (Vec::new(), 0);
    loop {
        let lines = wait(tree.lines(folder, &units(&path), at, usize::MAX), &never()).unwrap().unwrap();
        let Some(last) = lines.last() else { return all };
        at = last.next;
        all.extend(lines.into_iter().filter(|line| line.shown.iter().any(|unit| *unit != u16::from(b'.'))));
    }
}

/// A backup of a folder, shown; and the path at which the folder is.
fn shown(fill: impl FnOnce(&Path)) -> (tempfile::TempDir, Bench, Arc<CountingStore>, Arc<View>, String) {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    std::fs::create_dir(&source).unwrap();
    fill(&source);
    let counting = CountingStore::new(Arc::new(MemoryStore::new()));
    let bench = Bench::new(counting.clone()).unwrap();
    bench.backup(&source, None).unwrap();
    let view = view_with(&bench, None, Links::Inside);
    let tree = Tree::new(Arc::clone(&view));
    let snapshot = list(&tree, "\\Snapshots\\host").pop().unwrap();
    let inside = source.to_str().unwrap().replace('/', "\\");
    let path = format!("\\Snapshots\\host\\{}{inside}", String::from_utf16(&snapshot.shown).unwrap());
    (place, bench, counting, view, path)
}

#[test]
fn alternate_streams_stand_behind_a_colon_and_beside_what_has_them() {
    let (_place, bench, _, view, _) = shown(|source| std::fs::write(source.join("model"), "of a manifest").unwrap());
    let repository = bench.open().unwrap();
    let signer = device::open(&repository, &*bench.store, None, "other system").unwrap();
    let planter = Planter { repository, store: Arc::clone(&bench.store), signer };
    let planted = planter.plant((1, None), |packer| {
        let (mut file, mut folder) = (named("file", EntryKind::File), named("folder", EntryKind::Directory));
        (file.size, file.content) = (7, content(packer, b"content")?);
        file.streams = vec![
            Stream { name: b"Empty".to_vec(), value: Value::Stored { size: 0, content: Content::EMPTY } },
            stream(packer, "short", b"said of a file")?,
            stream(packer, "long", &noise(1, 70_000))?,
        ];
        folder.streams = vec![stream(packer, "of a folder", b"said of a folder")?];
        let mut link = named("link", EntryKind::Symlink);
        (link.size, link.target) = (4, Some(b"file".to_vec()));
        Ok(vec![file, folder, link])
    });
    planted.unwrap();
    view.refresh().unwrap();
    let tree = Tree::new(Arc::clone(&view));
    let Found::Entry(link) = find(&tree, "\\Latest\\other system").unwrap() else { panic!("a link") };
    let target = wait(tree.target(&link.path, link.attr.inode), &never()).unwrap().unwrap();
    let root = String::from_utf16(&target).unwrap().replace("..\\", "\\");
    let read = |path: &str, offset, length| {
        let Found::Entry(place) = find(&tree, path).unwrap() else { panic!("{path}") };
        let AlternateStream { name, size, .. } = *place.stream.unwrap();
        let asked = ask(&view, move |view, held| view.read_stream(held, place.attr.inode, &name, offset, length));
        (size, wait(asked, &never()).unwrap().unwrap().to_vec())
    };
    assert_eq!(read(&format!("{root}\\file:EMPTY"), 0, 10), (0, Vec::new()));
    assert_eq!(read(&format!("{root}\\File:SHORT"), 5, 2), (14, b"of".to_vec()));
    assert_eq!(read(&format!("{root}\\file:long"), 69_000, 5000), (70_000, noise(1, 70_000)[69_000..].to_vec()));
    assert_eq!(read(&format!("{root}\\folder:of a folder"), 0, 100), (16, b"said of a folder".to_vec()));
    assert_eq!(read(&format!("{root}\\LINK:short"), 0, 4), (14, b"said".to_vec()), "a link has those of what it leads to");
    assert!(matches!(find(&tree, &format!("{root}\\file:nothing")).unwrap(), Found::NoName));
    assert!(matches!(find(&tree, &format!("{root}\\link:nothing")).unwrap(), Found::NoName));
    assert!(matches!(find(&tree, &format!("{root}\\nothing:long")).unwrap(), Found::NoName));
    assert!(matches!(find(&tree, &format!("{root}\\nothing\\file:long")).unwrap(), Found::NoPath));
    assert!(matches!(find(&tree, "\\Snapshots:long").unwrap(), Found::NoName));
    // A colon in a name is shown as another character, so it separates nothing else.
    assert_eq!(entry(&tree, &format!("{root}\\file")).1, format!("{root}\\file"));
}

#[test]
fn paths_are_found_in_any_case_and_told_as_they_are() {
    let (_place, _bench, _, view, path) = shown(|source| {
        std::fs::create_dir(source.join("Grüße")).unwrap();
        std::fs::write(source.join("Grüße/Brief.txt"), "x").unwrap();
    });
    let tree = Tree::new(view);
    let stored = format!("{path}\\Grüße\\Brief.txt");
    for asked in [stored.clone(), stored.to_uppercase().replace("SS", "ß"), stored.to_lowercase(), stored.replace('\\', "\\\\")] {
        assert_eq!(entry(&tree, &asked).1, stored, "{asked}");
    }
    assert!(matches!(find(&tree, &format!("{path}\\Grüße\\nothing")).unwrap(), Found::NoName));
    assert!(matches!(find(&tree, &format!("{path}\\nothing\\Brief.txt")).unwrap(), Found::NoPath));
    assert!(matches!(find(&tree, &format!("{stored}\\x")).unwrap(), Found::NoPath));
    assert!(matches!(find(&tree, "\\Latest\\host\\x").unwrap(), Found::LinkOnTheWay));
    assert_eq!(entry(&tree, "").1, "\\");
}

#[test]
fn names_that_windows_takes_for_the_same_are_shown_apart() {
    let names = ["Makefile", "MAKEFILE", "makefile", "makeFile", "other"];
    let (_place, _bench, _, view, path) = shown(|source| names.iter().for_each(|name| std::fs::write(source.join(name), name).unwrap()));
    let tree = Tree::new(view);
    let lines = list(&tree, &path);
    assert_eq!(lines.len(), names.len());
    for line in &lines {
        let asked = format!("{path}\\{}", String::from_utf16(&line.shown).unwrap());
        assert_eq!(entry(&tree, &asked), (line.attr.inode, asked.clone()));
        assert_eq!(entry(&tree, &asked.to_uppercase().replace("SOURCE", "source")).0, line.attr.inode);
    }
    let leader = entry(&tree, &format!("{path}\\mAKEFILE"));
    assert_eq!(leader.1, format!("{path}\\MAKEFILE"), "the first by its bytes stands for all");
}

#[test]
fn links_to_folders_are_folders_to_windows() {
    let (_place, _bench, _, view, path) = shown(|source| {
        std::fs::create_dir_all(source.join("a/b")).unwrap();
        for (name, target) in [("up", "../source/a"), ("chain", "up/b"), ("file", "nowhere"), ("loop", "loop")] {
            std::os::unix::fs::symlink(target, source.join(name)).unwrap();
        }
    });
    let tree = Tree::new(view);
    let is_folder = |line: &Line| (String::from_utf16(&line.shown).unwrap(), line.is_folder);
    let lines: Vec<_> = list(&tree, &path).iter().map(is_folder).collect();
    assert_eq!(
        lines,
        [("a", true), ("chain", true), ("file", false), ("loop", false), ("up", true)].map(|(name, is)| (name.to_owned(), is))
    );
    assert!(list(&tree, "\\Latest").iter().all(|line| line.is_folder));
}

#[test]
fn what_is_new_is_found_once_the_tree_is_told() {
    let (place, bench, _, view, _) = shown(|source| std::fs::write(source.join("x"), "x").unwrap());
    let tree = Tree::new(Arc::clone(&view));
    assert_eq!(list(&tree, "\\SNAPSHOTS\\HOST").len(), 1);
    bench.backup(&place.path().join("source"), None).unwrap();
    assert!(!view.refresh().unwrap().is_empty());
    tree.changed();
    let snapshots = list(&tree, "\\SNAPSHOTS\\HOST");
    assert_eq!(snapshots.len(), 2);
    for snapshot in snapshots {
        entry(&tree, &format!("\\snapshots\\host\\{}", String::from_utf16(&snapshot.shown).unwrap()));
    }
}

#[test]
fn a_look_for_settings_costs_a_page_and_a_look_for_another_name_all_of_them_once() {
    let (_place, bench, counting, _, path) = shown(|source| {
        let folder = source.join("many");
        std::fs::create_dir(&folder).unwrap();
        // Names that compress badly, so that there are many pages.
        (0..40_000u64).for_each(|n| std::fs::write(folder.join(format!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))), "").unwrap());
    });
    let cost = |name: &str| {
        let tree = Tree::new(view_with(&bench, None, Links::Inside));
        let (folder, _) = entry(&tree, &format!("{path}\\many"));
        counting.reset();
        assert!(step(&tree, folder, name).is_none());
        let first = counting.reset();
        assert!(step(&tree, folder, "ANOTHER NAME THAT IS NOT THERE").is_none());
        counting.reset();
        assert!(step(&tree, folder, "desktop.ini").is_none() && step(&tree, folder, "and one more").is_none());
        assert_eq!(counting.reset().requests(), 0, "the folder is known");
        first
    };
    let (probe, other) = (cost("Desktop.ini"), cost("no such name"));
    assert!(probe.requests() <= 6, "{probe:?}");
    assert!(probe.bytes_down < other.bytes_down, "{probe:?} {other:?}");
}
