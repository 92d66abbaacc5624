//! Names that Windows does not allow, and names that differ in case only: shown, opened, and always the right content.

use std::collections::BTreeSet;

use mount_windows::names::{case_key, unescaped};

use super::client::{Client, How, NAME_NOT_FOUND, NON_DIRECTORY_FILE, units};
use super::fixture;

/// Names of a folder with their contents, opened by the names that are shown.
fn contents(client: &Client, path: &str) -> Vec<(Vec<u16>, Vec<u8>)> {
    let folder = client.folder(path);
    let lines = client.list(&folder, 4096, None);
    let files = lines.into_iter().filter(|line| line.attributes & 0x10 == 0);
    files
        .map(|line| {
            let path = [units(path), units("\\"), line.name.clone()].concat();
            let handle = client.open_units(&path, How { options: NON_DIRECTORY_FILE, ..How::default() }).unwrap();
            assert_eq!(handle.path, path);
            let content = client.read(&handle, 0, 4096).unwrap();
            client.close(&handle);
            (line.name, content)
        })
        .collect()
}

#[test]
fn awkward_names_are_legal_and_lead_to_their_files() {
    let Some((client, root)) = fixture::mounted() else { return };
    let files = contents(&client, &format!("{root}\\awkward"));
    assert_eq!(files.len(), 20);
    for (shown, content) in &files {
        // Each file holds its own name.
        assert_eq!(unescaped(shown).as_deref(), Some(&content[..]));
        let text = String::from_utf16(shown).unwrap();
        assert!(!text.contains(['\\', '/', ':', '*', '?', '"', '<', '>', '|']) && !text.contains(char::is_control), "{text}");
        assert!(!text.ends_with(['.', ' ']), "{text}");
    }
    let folded: BTreeSet<_> = files.iter().map(|(shown, _)| case_key(shown)).collect();
    assert_eq!(folded.len(), files.len());
    let folder = client.folder(&format!("{root}\\awkward"));
    assert_eq!(client.by_name(&folder, "a\u{f03a}b").unwrap().size, 3);
    assert_eq!(client.by_name(&folder, "A\u{f03a}B").unwrap().text(), "a\u{f03a}b");
    assert_eq!(client.by_name(&folder, "c\u{f06f}n").err(), Some(NAME_NOT_FOUND), "another name than CON");
}

#[test]
fn names_that_differ_in_case_only_never_lead_to_each_other() {
    let Some((client, root)) = fixture::mounted() else { return };
    let path = format!("{root}\\twins");
    let files = contents(&client, &path);
    assert_eq!(files.len(), 6);
    for (shown, content) in &files {
        assert_eq!(unescaped(shown).as_deref(), Some(&content[..]));
    }
    let folded: BTreeSet<_> = files.iter().map(|(shown, _)| case_key(shown)).collect();
    assert_eq!(folded.len(), files.len(), "the driver takes all of them for different");
    // Without the mark everybody means the first, in whatever case.
    for name in ["README", "readme", "ReadMe"] {
        assert_eq!(client.content(&format!("{path}\\{name}")).unwrap(), b"README");
    }
    assert_eq!(client.content(&format!("{path}\\äb")).unwrap(), "ÄB".as_bytes());
    assert_eq!(client.open(&format!("{path}\\STRASSE")).err(), Some(NAME_NOT_FOUND));
    assert_eq!(client.content(&format!("{path}\\strAßE")).unwrap(), "Straße".as_bytes());
}

#[test]
fn folders_and_hosts_may_be_twins_too() {
    let Some((client, root)) = fixture::mounted() else { return };
    assert_eq!(client.content(&format!("{root}\\twins\\folder\\which")).unwrap(), b"Folder");
    let twin = "\u{f066}older";
    assert_eq!(client.content(&format!("{root}\\twins\\{twin}\\WHICH")).unwrap(), b"folder");
    let mut hosts = client.names("\\Snapshots");
    hosts.retain(|host| host != "other system");
    assert_eq!(hosts.len(), 2);
    let folded: BTreeSet<_> = hosts.iter().map(|host| case_key(&units(host))).collect();
    assert_eq!(folded.len(), 2);
    let found = hosts.iter().map(|host| {
        let snapshots = client.names(&format!("\\Snapshots\\{host}"));
        client.names(&format!("\\Snapshots\\{host}\\{}\\source", snapshots[0])).len()
    });
    let mut found: Vec<_> = found.collect();
    found.sort_unstable();
    assert_eq!(found, [14, 500]);
}
