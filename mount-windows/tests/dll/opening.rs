//! Finding and opening: other case, names that are not there, kinds, rights.

use super::client::{DIRECTORY_FILE, How, LIST, NAME_NOT_FOUND, NON_DIRECTORY_FILE, PATH_NOT_FOUND, READ, units};
use super::{driver, fixture};

const ACCESS_DENIED: u32 = 0xc000_0022;

#[test]
fn names_are_found_in_every_case_and_told_as_they_are() {
    let Some((client, root)) = fixture::mounted() else { return };
    for traverse in [true, false] {
        for path in ["\\plain.txt", "\\PLAIN.TXT", "\\Plain.Txt", "\\Ünï\\日本語.txt", "\\ÜNÏ\\日本語.TXT", "\\ünï\\日本語.txt"]
        {
            let how = How { traverse, options: NON_DIRECTORY_FILE, ..How::default() };
            let handle = client.open_with(&format!("{root}{path}"), how).unwrap_or_else(|status| panic!("{path}: {status:08x}"));
            let stored = if path.len() > 12 { "\\Ünï\\日本語.txt" } else { "\\plain.txt" };
            assert_eq!(String::from_utf16(&handle.path).unwrap(), format!("{root}{stored}"));
            assert_eq!(handle.granted & READ, READ);
            assert!(handle.is_kept);
            client.close(&handle);
        }
        assert_eq!(
            client.open_with(&format!("{}\\plain.txt", root.to_uppercase()), How { traverse, ..How::default() }).unwrap().info.FileSize,
            22
        );
    }
    assert_eq!(client.content(&format!("{root}\\PLAIN.TXT")).unwrap(), b"Hello from a snapshot\n");
    assert_eq!(client.content("\\latest\\Fixture\\SOURCE\\plain.txt"), client.content(&format!("{root}\\plain.txt")));
}

#[test]
fn a_missing_name_and_a_missing_folder_are_two_things() {
    let Some((client, root)) = fixture::mounted() else { return };
    for (path, status) in [
        ("\\nothing", NAME_NOT_FOUND),
        ("\\nothing\\here", PATH_NOT_FOUND),
        ("\\small\\nothing", NAME_NOT_FOUND),
        ("\\plain.txt\\below", PATH_NOT_FOUND),
        ("\\many\\entry 100000.dat", NAME_NOT_FOUND),
    ] {
        for traverse in [true, false] {
            let how = How { traverse, ..How::default() };
            assert_eq!(client.open_with(&format!("{root}{path}"), how).err(), Some(status), "{path} {traverse}");
        }
    }
    assert_eq!(client.open("\\Snapshots\\nobody").err(), Some(NAME_NOT_FOUND));
    assert_eq!(client.open("\\Snapshots\\fixture\\1999-01-01_00-00-00\\x").err(), Some(PATH_NOT_FOUND));
}

#[test]
fn files_are_no_folders() {
    let Some((client, root)) = fixture::mounted() else { return };
    let folder = How { options: DIRECTORY_FILE, access: LIST, ..How::default() };
    let file = How { options: NON_DIRECTORY_FILE, ..How::default() };
    assert_eq!(client.open_with(&format!("{root}\\plain.txt"), folder).err(), Some(0xc000_0103));
    assert_eq!(client.open_with(&format!("{root}\\small"), file).err(), Some(0xc000_00ba));
    assert_eq!(client.open_with("\\", file).err(), Some(0xc000_00ba));
    let root = client.folder("\\");
    assert_eq!(root.info.FileAttributes & 0x10, 0x10);
    client.close(&root);
}

#[test]
fn what_is_told_of_a_file_is_what_was_saved() {
    let Some((client, root)) = fixture::mounted() else { return };
    let handle = client.open(&format!("{root}\\plain.txt")).unwrap();
    let info = client.info(&handle);
    assert_eq!((info.FileSize, info.AllocationSize, info.ReparseTag, info.HardLinks, info.EaSize), (22, 4096, 0, 0, 0));
    assert_eq!(info.LastWriteTime, 116_444_736_000_000_000 + 16_000_000_001_234_567);
    assert_eq!(info.LastAccessTime, info.LastWriteTime);
    assert_eq!(info.FileAttributes, 0x2000, "not content indexed, and nothing else");
    assert_eq!(info.IndexNumber, handle.info.IndexNumber);
    let other = client.open(&format!("{root}\\empty")).unwrap();
    assert_ne!(other.info.IndexNumber, info.IndexNumber);
    assert_eq!(client.open(&format!("{root}\\.hidden")).unwrap().info.FileAttributes, 0x2002);
    let folder = client.folder(&format!("{root}\\small"));
    assert_eq!(folder.info.FileAttributes, 0x2010, "a folder that said read-only would be asked for its settings");
}

#[test]
fn the_descriptor_lets_read_and_is_small() {
    let Some((client, root)) = fixture::mounted() else { return };
    for path in ["\\", "\\Latest", &root, &format!("{root}\\plain.txt")] {
        let handle = client.open(path).unwrap();
        let descriptor = client.security(&handle);
        assert!(descriptor.len() > 60 && descriptor.len() < 1024, "{path}");
        assert_eq!(descriptor[..2], [1, 0]);
        client.close(&handle);
    }
    // The most that somebody may have who asks for all that he may have.
    let handle = client.open_with(&format!("{root}\\plain.txt"), How { access: 0x0200_0000, ..How::default() }).unwrap();
    if driver::is_wine() {
        // It gives owners more than their entry says: deletion, permissions, ownership. To read, and no right to write data or attributes.
        assert_eq!(handle.granted & 0x0010_ffff, 0x0010_00a9);
    } else {
        assert_eq!(handle.granted, 0x0012_00a9);
    }
}

#[test]
fn special_files_are_seen_and_not_read() {
    let Some((client, root)) = fixture::mounted() else { return };
    assert_eq!(client.names(&format!("{root}\\special")), ["pipe", "socket"]);
    assert_eq!(client.open(&format!("{root}\\special\\pipe")).err(), Some(ACCESS_DENIED));
    let attributes_only = How { access: 0x0010_0080, ..How::default() };
    let seen = client.open_with(&format!("{root}\\special\\pipe"), attributes_only).unwrap();
    assert_eq!(seen.info.FileSize, 0);
}

#[test]
fn a_path_may_be_long() {
    let Some((client, root)) = fixture::mounted() else { return };
    let mut path = format!("{root}\\deep");
    for n in 0..20 {
        path.push_str(&format!("\\a rather long name of a folder, no. {n:03}"));
    }
    path.push_str("\\deep.txt");
    assert!(units(&path).len() > 800);
    assert_eq!(client.content(&path).unwrap(), b"deep\n");
    assert_eq!(client.content(&path.to_uppercase().replace(&root.to_uppercase(), &root)).unwrap(), b"deep\n");
}
