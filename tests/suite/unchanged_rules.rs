//! What is taken over whole where rules, places and file systems change.

use std::fs;
use std::path::Path;
use std::time::Duration;

use backup_writer::backup::{BackupOptions, backup};
use backup_writer::source::rules::{Line, Marker, Patterns, Rules};

use super::unchanged::{Place, Watch, tick};

fn patterns(text: &str) -> Patterns {
    Patterns::parse(&[Line { place: "--exclude".into(), text: text.into() }]).0
}

#[test]
fn what_is_left_out_is_told_by_every_run_and_rules_may_change() {
    let place = Place::new();
    for name in ["a/keep", "a/b/x.tmp", "c/d/keep", "c/e/large", "f/CACHEDIR.TAG", "f/cached", "g/old"] {
        fs::create_dir_all(place.source().join(name).parent().unwrap()).unwrap();
        let tag = "Signature: 8a477f597d28d172789f06886806bc55";
        fs::write(place.source().join(name), if name.ends_with("large") { "x".repeat(2000) } else { tag.into() }).unwrap();
    }
    let all = Rules::default();
    let rules = [
        ("no temporary files", &["", "a", "a/b"][..], Rules { patterns: patterns("*.tmp"), ..all.clone() }),
        ("no large ones", &["", "c", "c/e"], Rules { size_max: Some(1000), ..all.clone() }),
        ("no caches", &["", "f"], Rules { markers: vec![Marker::cache_tag()], ..all.clone() }),
        ("not b", &["", "a"], Rules { patterns: patterns("b"), ..all.clone() }),
    ];
    place.save();
    for (what, entered, rules) in rules {
        let how = BackupOptions { rules, ..place.how() };
        let first = place.save_as(&how);
        assert_eq!(first.1, *entered, "{what}: elsewhere everything is as it was without the rule");
        assert_eq!(first.0.findings.len(), 1, "{what}: {:?}", first.0.findings);
        place.is_as_read_anew(&how, what);
        let second = place.save_as(&how);
        assert_eq!((second.1, second.0.findings), (first.1, first.0.findings), "{what}: it is told again");
        let (report, again) = place.save();
        assert!(report.findings.is_empty(), "{what}");
        assert!(again.iter().all(|path| entered.contains(&&**path) || path == "a/b"), "{what}: {again:?}");
        place.is_as_read_anew(&place.how(), what);
    }
    // Patterns in the tree itself.
    tick(place.folder.path());
    fs::write(place.source().join(".yesterignore"), "keep\n").unwrap();
    for _ in 0..2 {
        assert_eq!(place.save().1, ["", "a", "c", "c/d"], "there something is left out by it");
        place.is_as_read_anew(&place.how(), "patterns");
    }
    tick(place.folder.path());
    fs::write(place.source().join(".yesterignore"), "*.tmp\n").unwrap();
    assert_eq!(place.save().1, ["", "a", "a/b"], "c is what it was before there were patterns");
    place.is_as_read_anew(&place.how(), "other patterns");
    tick(place.folder.path());
    fs::write(place.source().join(".yesterignore"), "a{[\n").unwrap();
    for _ in 0..3 {
        let (report, entered) = place.save();
        assert_eq!((report.findings.len(), &entered[0][..]), (1, ""), "a bad pattern is told by every run: {:?}", report.findings);
    }
}

#[test]
fn what_is_never_saved_is_told_by_every_run() {
    let place = Place::with_every_kind();
    place.save();
    for (path, expected) in [("deep/er", &["", "deep", "deep/er"][..]), ("small", &["", "deep"])] {
        let how = BackupOptions { never: vec![place.source().join(path)], ..place.how() };
        for _ in 0..2 {
            let (report, entered) = place.save_as(&how);
            assert_eq!(entered, expected, "{path}");
            assert_eq!(report.findings.len(), usize::from(path == "deep/er"), "{path}: {:?}", report.findings);
            place.is_as_read_anew(&how, path);
        }
    }
}

#[test]
fn another_tree_shown_in_the_same_place_is_another_tree() {
    let place = Place::with_every_kind();
    let other = place.folder.path().join("other");
    fs::create_dir(&other).unwrap();
    super::fidelity::every_kind(&other);
    let shown = |from: &Path| BackupOptions { paths: vec![from.into()], shown_as: vec![place.source()], ..place.how() };
    place.save();
    for from in [&other, &place.source(), &other] {
        let (_, entered) = place.save_as(&shown(from));
        assert_eq!(entered.len(), 6, "{entered:?}");
        place.is_as_read_anew(&shown(from), "shown as");
        assert!(place.save_as(&shown(from)).1.is_empty());
    }
}

#[test]
fn other_file_systems_are_entered_or_left_out_by_every_run() {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    let place = Place::new();
    fs::create_dir_all(place.source().join("mounted/below")).unwrap();
    fs::write(place.source().join("file"), "").unwrap();
    place.save();
    let there = place.source().join("mounted");
    if mount("tmpfs", &there, "tmpfs", MountFlags::empty(), None).is_err() {
        return;
    }
    let unmounted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        fs::create_dir(there.join("elsewhere")).unwrap();
        let one = BackupOptions { rules: Rules { one_file_system: true, ..Rules::default() }, ..place.how() };
        for _ in 0..2 {
            let (report, entered) = place.save_as(&one);
            assert_eq!((entered, report.findings.len()), (vec![String::new(), "mounted".into()], 1));
            place.is_as_read_anew(&one, "one file system");
        }
        assert_eq!(place.save().1, ["", "mounted", "mounted/elsewhere"]);
        assert!(place.save().1.is_empty());
        assert_eq!(place.save_as(&one).1, ["", "mounted"]);
    }));
    unmount(&there, UnmountFlags::DETACH).unwrap();
    unmounted.unwrap();
    assert!(place.save().1.len() >= 2);
    place.is_as_read_anew(&place.how(), "unmounted");
}

#[test]
fn the_whole_file_system_may_be_the_source_of_what_is_taken_over() {
    let place = Place::new();
    fs::create_dir_all(place.source().join("a/b")).unwrap();
    fs::write(place.source().join("a/b/file"), "x").unwrap();
    let how = BackupOptions { shown_as: vec!["/".into()], ..place.how() };
    let entered = || {
        let watch = Watch::default();
        place.bench.clock.advance(Duration::from_secs(60));
        backup(&place.bench.open().unwrap(), &place.bench.store, &how, &watch).unwrap();
        watch.0.into_inner().unwrap()
    };
    assert_eq!(entered(), ["/", "/a", "/a/b"]);
    assert_eq!(entered(), ["/"]);
    place.is_as_read_anew(&how, "the root");
    tick(place.folder.path());
    fs::write(place.source().join("a/new"), "x").unwrap();
    assert_eq!(entered(), ["/", "/a"]);
    place.is_as_read_anew(&how, "the root");
}
