//! What it costs to look around: the questions of a file manager, replayed over a store that counts.

use fs_core::testing::CountingStore;

use super::client::{Client, How};
use super::fixture;

/// What the shell asks for in every folder that it shows.
const PROBES: [&str; 5] = ["desktop.ini", "Thumbs.db", "folder.jpg", "autorun.inf", "AlbumArtSmall.jpg"];

/// Shows a folder as the shell does: its lines, attributes and icons of each, settings of the folder and of those in it. No contents.
fn show(client: &Client, path: &str) -> usize {
    let folder = client.folder(path);
    let lines = client.list(&folder, 65536, None);
    for probe in PROBES {
        assert!(client.by_name(&folder, probe).is_err() && client.open(&format!("{path}\\{probe}")).is_err());
    }
    let attributes_only = How { access: 0x0010_0080, ..How::default() };
    let shown = lines.iter().filter(|line| line.text() != "." && line.text() != "..");
    let count = shown.clone().count();
    for line in shown {
        let below = format!("{path}\\{}", line.text());
        let handle = client.open_with(&below, attributes_only).unwrap();
        client.info(&handle);
        client.close(&handle);
        if line.attributes & 0x10 != 0 {
            assert!(client.open(&format!("{below}\\desktop.ini")).is_err());
        }
    }
    client.close(&folder);
    count
}

#[test]
fn looking_around_downloads_no_contents() {
    let Some(folder) = fixture::folder() else { return };
    let counting = CountingStore::new(fixture::store(&folder));
    let client = Client::new(&fixture::open(&folder, counting.clone()));
    let root = fixture::root(&client);
    counting.reset();
    assert_eq!(show(&client, &format!("{root}\\pictures")), 80);
    let first = counting.reset();
    println!("a folder of 60 pictures (12 MB) and 20 albums (2 MB): {} requests, {} bytes", first.requests(), first.bytes_down);
    assert!(first.requests() <= 25 && first.bytes_down < 300_000, "{first:?}");
    show(&client, &format!("{root}\\pictures"));
    let second = counting.reset();
    println!("again: {} requests, {} bytes", second.requests(), second.bytes_down);
    assert_eq!(second.requests(), 0);
    let made_up = ["", "\\Latest", "\\Snapshots", "\\.yesterdrive"];
    made_up.iter().for_each(|path| assert!(show(&client, path) > 1));
    let first = counting.reset();
    println!("what the drive makes up: {} requests", first.requests());
    assert!(first.requests() <= 2, "whether the two other snapshots have settings is in their roots: {first:?}");
    made_up.iter().for_each(|path| assert!(show(&client, path) > 1));
    assert_eq!(counting.reset().requests(), 0);
}

#[test]
fn a_folder_that_has_settings_shows_them() {
    let Some((client, root)) = fixture::mounted() else { return };
    assert_eq!(client.content(&format!("{root}\\settings\\Desktop.ini")).unwrap(), b"[.ShellClassInfo]\n");
    assert_eq!(client.names(&format!("{root}\\settings")), ["desktop.ini"]);
}

#[test]
fn files_that_are_far_say_that_reading_them_costs_something() {
    let Some(folder) = fixture::folder() else { return };
    let opened = fixture::open(&folder, fixture::store(&folder));
    let client = Client::at(&opened, mount_windows::place::Spot::Letter('Y'), true);
    let root = fixture::root(&client);
    let file = client.open(&format!("{root}\\plain.txt")).unwrap();
    assert_eq!(file.info.FileAttributes, 0x0040_2000);
    assert_eq!(client.open(&format!("{root}\\empty")).unwrap().info.FileAttributes, 0x2000);
    assert_eq!(client.folder(&format!("{root}\\small")).info.FileAttributes, 0x2010);
    assert_eq!(client.read(&file, 0, 5).unwrap(), b"Hello");
}
