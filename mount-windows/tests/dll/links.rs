//! Symbolic links: followed by the library, read as Windows reads them, and never out of the snapshot.

use super::client::{Handle, How, NAME_NOT_FOUND, OPEN_REPARSE_POINT, REPARSE, units};
use super::fixture;

fn itself() -> How {
    How { options: OPEN_REPARSE_POINT, access: 0x0010_0080, ..How::default() }
}

fn path(handle: &Handle) -> String {
    String::from_utf16(&handle.path).unwrap()
}

#[test]
fn links_lead_to_what_they_led_to() {
    let Some((client, root)) = fixture::mounted() else { return };
    let hello = b"Hello from a snapshot\n".to_vec();
    assert_eq!(client.content(&format!("{root}\\links\\to file")).unwrap(), hello);
    assert_eq!(client.content(&format!("{root}\\links\\TO FOLDER\\file 007.txt")).unwrap(), fixture::text(1007, 0, 1007));
    assert_eq!(client.content(&format!("{root}\\links\\through")).unwrap(), fixture::text(1007, 0, 1007));
    assert_eq!(client.content(&format!("{root}\\links\\chain\\file 001.txt")).unwrap(), fixture::text(1001, 0, 1001));
    let folder = client.folder(&format!("{root}\\links\\chain"));
    assert_eq!(path(&folder), format!("{root}\\small"));
    assert_eq!(client.list(&folder, 65536, None).len(), 502);
}

#[test]
fn latest_leads_to_the_one_place_of_a_snapshot() {
    let Some((client, root)) = fixture::mounted() else { return };
    let handle = client.open("\\Latest\\fixture\\source\\plain.txt").unwrap();
    assert_eq!(path(&handle), format!("{root}\\plain.txt"), "what the system keeps belongs to the snapshot and not to the link");
    assert!(handle.is_kept);
    for id in client.names("\\Ids") {
        let snapshot = client.folder(&format!("\\Ids\\{id}"));
        assert!(path(&snapshot).starts_with("\\Snapshots\\"));
    }
}

#[test]
fn a_link_says_where_it_leads_and_whether_to_a_folder() {
    let Some((client, root)) = fixture::mounted() else { return };
    for (name, target, is_folder) in [
        ("to file", "..\\plain.txt", false),
        ("to folder", "..\\small", true),
        ("dangling", "nowhere", false),
        ("loop", "loop", false),
        ("through", "to folder\\file 007.txt", false),
        ("chain", "to folder", true),
    ] {
        let link = client.open_with(&format!("{root}\\links\\{name}"), itself()).unwrap();
        assert_eq!(link.info.FileAttributes & 0x410, if is_folder { 0x410 } else { 0x400 }, "{name}");
        assert_eq!((link.info.ReparseTag, link.info.FileSize), (0xa000_000c, 0));
        let data = client.reparse(&link).unwrap();
        let target: Vec<u8> = units(target).into_iter().flat_map(u16::to_le_bytes).collect();
        assert!(data.len() == 20 + 2 * target.len() && data.ends_with(&target), "{name}");
        assert_eq!(data[16], 1, "relative");
    }
    let folder = client.folder(&format!("{root}\\links"));
    let lines = client.list(&folder, 65536, None);
    let folders: Vec<_> = lines.iter().filter(|line| line.attributes & 0x410 == 0x410).map(|line| line.text()).collect();
    assert_eq!(folders, ["absolute", "chain", "to folder"]);
    assert_eq!(client.by_name(&folder, "to folder").unwrap().attributes & 0x410, 0x410);
    let file = client.open(&format!("{root}\\plain.txt")).unwrap();
    assert_eq!(client.reparse(&file).err(), Some(0xc000_0275));
}

#[test]
fn no_link_leaves_its_snapshot() {
    let Some((client, root)) = fixture::mounted() else { return };
    let up = client.open_with(&format!("{root}\\links\\up"), itself()).unwrap();
    let data = client.reparse(&up).unwrap();
    let text = String::from_utf16(&data[20..].as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect::<Vec<_>>()).unwrap();
    assert!(text.matches("..").count() <= 4, "{text}");
    let absolute = client.open_with(&format!("{root}\\links\\absolute"), itself()).unwrap();
    assert!(client.reparse(&absolute).unwrap().starts_with(&[0x0c, 0, 0, 0xa0]));
}

#[test]
fn links_to_nowhere_end() {
    let Some((client, root)) = fixture::mounted() else { return };
    assert_eq!(client.open(&format!("{root}\\links\\dangling")).err(), Some(NAME_NOT_FOUND));
    assert_eq!(client.open(&format!("{root}\\links\\dangling\\x")).err(), Some(NAME_NOT_FOUND));
    assert!(client.open(&format!("{root}\\links\\loop")).is_err());
    let first = client.create(&units(&format!("{root}\\links\\to file")), How::default());
    assert_eq!(first.status(), REPARSE);
}
