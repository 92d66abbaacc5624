//! Listings: all sizes of buffers, marks to go on from, patterns, single names, and the folders that the drive makes up.

use std::collections::BTreeSet;

use super::client::{Client, Line, NAME_NOT_FOUND};
use super::fixture::{self, MANY_COUNT, SMALL_COUNT};

fn texts(lines: &[Line]) -> Vec<String> {
    lines.iter().map(Line::text).collect()
}

#[test]
fn the_drive_shows_what_it_makes_up() {
    let Some((client, _)) = fixture::mounted() else { return };
    assert_eq!(client.names("\\"), [".yesterdrive", "Ids", "Latest", "Snapshots", "Tags"]);
    let root = client.folder("\\");
    assert!(client.list(&root, 4096, None).iter().all(|line| line.name.len() > 2), "no dots in the root");
    assert_eq!(client.names("\\.yesterdrive"), ["README.txt", "status.json"]);
    assert_eq!(client.names("\\Snapshots\\fixture").len(), 1);
    assert_eq!(client.names("\\Ids").len(), 3);
    assert!(client.names("\\Tags").is_empty());
    let small = client.folder("\\Snapshots");
    assert_eq!(texts(&client.list(&small, 4096, None))[..2], [".", ".."]);
}

#[test]
fn every_size_of_buffer_gives_every_line_once() {
    let Some((client, root)) = fixture::mounted() else { return };
    let folder = client.folder(&format!("{root}\\small"));
    for size in [256, 512, 1000, 4096, 16384, 65536] {
        let lines = client.list(&folder, size / 8 * 8, None);
        assert_eq!(lines.len(), SMALL_COUNT + 2, "{size}");
        let names: BTreeSet<_> = texts(&lines).into_iter().collect();
        assert_eq!(names.len(), lines.len());
        for (n, line) in lines.iter().skip(2).enumerate() {
            assert_eq!((line.text(), line.size, line.attributes), (format!("file {n:03}.txt"), 1000 + n as u64, 0x2000));
        }
    }
}

#[test]
fn a_folder_of_a_hundred_thousand_is_listed_whole() {
    let Some((client, root)) = fixture::mounted() else { return };
    let folder = client.folder(&format!("{root}\\many"));
    for size in [4096, 65536] {
        let lines = client.list(&folder, size, None);
        assert_eq!(lines.len(), MANY_COUNT + 2, "{size}");
        assert!(lines.iter().skip(2).enumerate().all(|(n, line)| line.text() == format!("entry {n:06}.dat")));
    }
}

#[test]
fn a_listing_goes_on_from_any_line() {
    let Some((client, root)) = fixture::mounted() else { return };
    let path = format!("{root}\\many");
    let folder = client.folder(&path);
    // The system drops the rest of a buffer and goes on in its middle.
    let (first, _) = client.list_once(&folder, 65536, None, None, false).unwrap();
    for at in [0, 1, 2, 100, first.len() - 1] {
        let (next, _) = client.list_once(&folder, 4096, None, Some(&first[at].name), false).unwrap();
        let expected = if at == 0 { "..".into() } else { format!("entry {:06}.dat", at - 1) };
        assert_eq!(next[0].text(), expected);
    }
    // With a handle that has listed nothing yet.
    let fresh = client.folder(&path);
    let (next, _) = client.list_once(&fresh, 4096, None, Some(&"entry 054321.dat".encode_utf16().collect::<Vec<_>>()), false).unwrap();
    assert_eq!(next[0].text(), "entry 054322.dat");
    let last: Vec<u16> = format!("entry {:06}.dat", MANY_COUNT - 1).encode_utf16().collect();
    assert_eq!(client.list_once(&fresh, 4096, None, Some(&last), false).unwrap(), (Vec::new(), true));
    let gone: Vec<u16> = "was never there".encode_utf16().collect();
    assert_eq!(client.list_once(&fresh, 4096, None, Some(&gone), false).unwrap(), (Vec::new(), true));
    // Back to the beginning.
    assert_eq!(client.list_once(&folder, 4096, None, None, false).unwrap().0[0].text(), ".");
}

#[test]
fn patterns_bring_what_matches() {
    let Some((client, root)) = fixture::mounted() else { return };
    let folder = client.folder(&format!("{root}\\many"));
    for (pattern, count) in
        [("*", MANY_COUNT + 2), ("entry 0000*", 100), ("ENTRY ?????7.DAT", MANY_COUNT / 10), ("*99999.dat", 1), ("*.txt", 0)]
    {
        assert_eq!(client.list(&folder, 65536, Some(pattern)).len(), count, "{pattern}");
    }
    assert_eq!(client.list(&folder, 512, Some("entry 00012*")).len(), 10, "in several buffers");
}

#[test]
fn one_name_is_found_without_the_listing() {
    let Some((client, root)) = fixture::mounted() else { return };
    let folder = client.folder(&format!("{root}\\many"));
    for name in ["entry 000000.dat", "entry 099999.dat", "ENTRY 050000.DAT"] {
        let line = client.by_name(&folder, name).unwrap();
        assert_eq!(
            (line.text(), line.size),
            (name.to_lowercase(), if name.contains("050") { 5 } else { u64::from(name.contains("000000")) })
        );
    }
    assert_eq!(client.by_name(&folder, "entry 100000.dat").err(), Some(NAME_NOT_FOUND));
    assert_eq!(client.by_name(&folder, "desktop.ini").err(), Some(NAME_NOT_FOUND));
    let small = client.folder(&format!("{root}\\settings"));
    assert_eq!(client.by_name(&small, "Desktop.INI").unwrap().text(), "desktop.ini");
}

#[test]
fn new_snapshots_appear_in_folders_that_are_open() {
    let Some((client, _)) = fixture::mounted() else { return };
    let shown = |client: &Client| client.names("\\Snapshots").len();
    assert_eq!(shown(&client), 3);
    // Nothing new is there: looking again must not disturb.
    assert!(client.view.refresh().unwrap().is_empty());
    assert_eq!(shown(&client), 3);
}
