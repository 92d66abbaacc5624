//! Alternate streams: listed, opened behind a colon, read, and not changed.

use super::client::{CREATE, Client, DIRECTORY_FILE, How, NAME_NOT_FOUND, NON_DIRECTORY_FILE, WRITE_PROTECTED};
use super::fixture::{self, text};

const LONG: usize = 100_000;

/// What `tests/windows/fixture` has planted, as a snapshot of Windows.
fn planted() -> Option<(Client, String)> {
    let (client, _) = fixture::mounted()?;
    let handle = client.folder("\\Latest\\other system");
    let root = String::from_utf16(&handle.path).unwrap();
    client.close(&handle);
    Some((client, root))
}

#[test]
fn streams_are_listed_with_their_sizes() {
    let Some((client, root)) = planted() else { return };
    let file = client.open(&format!("{root}\\download.exe")).unwrap();
    let expected = [("", 11), ("Zone.Identifier", 26), ("long", LONG as u64)].map(|(name, size)| (name.to_owned(), size));
    assert_eq!(client.streams(&file), expected);
    let folder = client.folder(&format!("{root}\\folder"));
    assert_eq!(client.streams(&folder), [("of a folder".to_owned(), 16)], "a folder has no content");
    let (client, root) = fixture::mounted().unwrap();
    let plain = client.open(&format!("{root}\\plain.txt")).unwrap();
    assert_eq!(client.streams(&plain), [(String::new(), 22)]);
    assert!(client.streams(&client.folder("\\Snapshots")).is_empty());
}

#[test]
fn streams_are_read_like_files_in_any_case() {
    let Some((client, root)) = planted() else { return };
    for name in ["download.exe:Zone.Identifier", "DOWNLOAD.EXE:zone.identifier", "shortcut:Zone.Identifier"] {
        assert_eq!(client.content(&format!("{root}\\{name}")).unwrap(), b"[ZoneTransfer]\r\nZoneId=3\r\n", "{name}");
    }
    let long = client.open(&format!("{root}\\download.exe:LONG")).unwrap();
    assert_eq!(String::from_utf16(&long.path).unwrap(), format!("{root}\\download.exe:long"));
    assert_eq!((long.info.FileSize, long.info.AllocationSize), (LONG as u64, 102_400));
    assert_eq!(client.read(&long, 70_001, 5000).unwrap(), text(3, 70_001, 5000));
    assert_eq!(client.read(&long, 99_990, 5000).unwrap(), text(3, 99_990, 10));
    assert!(client.read(&long, LONG as u64, 1).is_err());
    assert_eq!(client.content(&format!("{root}\\download.exe")).unwrap(), b"hello world", "the content is what it was");
}

#[test]
fn a_stream_of_a_folder_is_no_folder() {
    let Some((client, root)) = planted() else { return };
    let path = format!("{root}\\folder:of a folder");
    let stream = client.open_with(&path, How { options: NON_DIRECTORY_FILE, ..How::default() }).unwrap();
    assert_eq!(stream.info.FileAttributes & 0x10, 0);
    assert_eq!(client.read(&stream, 0, 100).unwrap(), b"said of a folder");
    assert!(client.open_with(&path, How { options: DIRECTORY_FILE, ..How::default() }).is_err());
}

#[test]
fn streams_that_are_not_there_are_missing_and_none_is_made() {
    let Some((client, root)) = planted() else { return };
    assert_eq!(client.open(&format!("{root}\\download.exe:nothing")).err(), Some(NAME_NOT_FOUND));
    assert_eq!(client.open(&format!("{root}\\nothing:Zone.Identifier")).err(), Some(NAME_NOT_FOUND));
    assert_eq!(client.open("\\Snapshots:Zone.Identifier").err(), Some(NAME_NOT_FOUND));
    let making = How { disposition: CREATE, options: NON_DIRECTORY_FILE, ..How::default() };
    assert_eq!(client.open_with(&format!("{root}\\download.exe:new"), making).err(), Some(WRITE_PROTECTED));
    let writing = How { access: 0x0012_0116, ..How::default() };
    assert_eq!(client.open_with(&format!("{root}\\download.exe:long"), writing).err(), Some(WRITE_PROTECTED));
}
