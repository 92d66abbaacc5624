//! These run on Windows and with Wine. What Wine lacks is tried, and the test says so where it is missing.

use fs_core::tree::{Entry, EntryKind};

use super::*;
use crate::system::security::{DACL, Descriptor, GROUP, OWNER};

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn place() -> (tempfile::TempDir, Owned) {
    let place = tempfile::tempdir().unwrap();
    let directory = open_path(place.path()).unwrap();
    (place, directory)
}

fn write(directory: &Owned, text: &str, bytes: &[u8]) -> File {
    let file = make_file(lend(directory), &name(text), 0).unwrap().unwrap();
    write_all_at(&file, bytes, 0).unwrap();
    file
}

#[test]
fn a_name_is_given_once_and_what_has_it_is_replaced_only_by_a_rename() {
    let (place, directory) = place();
    drop(write(&directory, "a", b"first"));
    assert!(make_file(lend(&directory), &name("a"), 0).unwrap().is_none());
    assert!(make_file(lend(&directory), &name("A"), 0).unwrap().is_none(), "case does not count");
    drop(write(&directory, "b", b"second"));
    rename(lend(&directory), &name("b"), &name("a")).unwrap();
    assert_eq!(std::fs::read(place.path().join("a")).unwrap(), b"second");
    assert_eq!(look(lend(&directory), &name("b")).unwrap_err(), Errno::NOENT);
}

#[test]
fn what_is_read_only_or_open_is_replaced_and_removed() {
    let (place, directory) = place();
    let old = write(&directory, "old", b"old");
    set_basic(lend(&old), [0, 0], ATTRIBUTE_READONLY).unwrap();
    drop(write(&directory, "new", b"new"));
    // Whoever has the old one open goes on with it, where the system can do that.
    if rename(lend(&directory), &name("new"), &name("old")).is_err() {
        drop(old);
        rename(lend(&directory), &name("new"), &name("old")).unwrap();
    }
    assert_eq!(std::fs::read(place.path().join("old")).unwrap(), b"new");
    let file = open_to_write(lend(&directory), &name("old")).unwrap();
    set_basic(lend(&file), [0, 0], ATTRIBUTE_READONLY).unwrap();
    drop(file);
    remove(lend(&directory), &name("old")).unwrap();
    assert_eq!(look(lend(&directory), &name("old")).unwrap_err(), Errno::NOENT);
}

#[test]
fn a_further_name_is_the_same_file() {
    let (_place, directory) = place();
    drop(write(&directory, "a", b"x"));
    make_directory(lend(&directory), &name("deep"), 0).unwrap();
    let deep = open_directory(lend(&directory), &name("deep")).unwrap();
    link(lend(&directory), &name("a"), lend(&deep), &name("b")).unwrap();
    let (a, b) = (look(lend(&directory), &name("a")).unwrap(), look(lend(&deep), &name("b")).unwrap());
    assert_eq!((a.identity, a.link_count, b.link_count), (b.identity, 2, 2));
    assert_eq!(link(lend(&directory), &name("a"), lend(&deep), &name("b")).unwrap_err(), Errno::EXIST);
}

#[test]
fn every_name_that_the_system_takes_is_made_found_and_listed() {
    let (_place, directory) = place();
    let names = ["plain", "Bücher 日本 😀", "con", "aux.txt", "ends with dot.", "ends with blank ", ".hidden", "a:b", "q?*", "-"];
    for text in names {
        write(&directory, text, text.as_bytes()).sync_all().unwrap();
        assert_eq!(look(lend(&directory), &name(text)).unwrap().size, text.len() as u64, "{text}");
    }
    let mut listed = Vec::new();
    super::names(lend(&directory), &mut |units| listed.push(units.to_vec())).unwrap();
    listed.retain(|units| !matches!(units[..], [46] | [46, 46]));
    let mut expected: Vec<_> = names.iter().map(|text| wtf8::to_name(text.as_bytes())).collect();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
}

#[test]
fn paths_may_be_longer_than_any_program_of_old_could_name() {
    let (_place, mut directory) = place();
    for _ in 0..12 {
        let folder = name(&"f".repeat(60));
        make_directory(lend(&directory), &folder, 0).unwrap();
        directory = open_directory(lend(&directory), &folder).unwrap();
    }
    let file = write(&directory, "file", b"deep");
    let mut bytes = [0; 4];
    read_exact_at(&file, &mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"deep");
    let again = open_again(lend(&directory)).unwrap();
    assert_eq!(look(lend(&again), &name("file")).unwrap().size, 4);
}

#[test]
fn times_and_attributes_are_kept() {
    let (_place, directory) = place();
    let file = write(&directory, "a", b"x");
    let (born, modified) = (Timestamp::new(315_532_800, 100).unwrap(), Timestamp::new(4_102_444_800, 987_654_300).unwrap());
    set_basic(lend(&file), [ticks(born).unwrap(), ticks(modified).unwrap()], 0x2).unwrap();
    let info = info(lend(&file)).unwrap();
    assert_eq!((info.modified(), info.attributes & 0x7), (Some(modified), 0x2));
    assert!(info.changed().is_some() && info.link_count == 1 && info.kind() == EntryKind::File);
    assert_eq!(kept_time((5, 123_456_789)), (5, 123_456_700));
    assert_eq!(ticks(Timestamp::new(-12_000_000_000, 0).unwrap()), None, "before 1601");
}

#[test]
fn who_may_do_what_is_read_and_set() {
    let (_place, directory) = place();
    let file = write(&directory, "a", b"x");
    let bytes = security_of(lend(&file), OWNER | GROUP | DACL).unwrap();
    let descriptor = Descriptor::parse(&bytes).unwrap();
    assert!(descriptor.owner().is_some() && descriptor.lists() & DACL != 0);
    assert!(descriptor.owner().and_then(account).is_some_and(|name| !name.is_empty()));
    set_security(lend(&file), descriptor.lists(), &bytes).unwrap();
}

#[test]
fn streams_come_back_where_the_file_system_has_some() {
    let (_place, directory) = place();
    let file = write(&directory, "a", b"content");
    match make_stream(lend(&file), b"Zone.Identifier") {
        Ok(stream) => write_all_at(&stream, b"[ZoneTransfer]", 0).unwrap(),
        Err(error) => return println!("this system has no streams: {error}"),
    }
    let all = streams(lend(&file)).unwrap();
    let (whole, size) = all.iter().find(|(name, _)| wtf8::encode(name) == b":Zone.Identifier:$DATA").unwrap();
    assert_eq!(*size, 14);
    let mut bytes = [0; 14];
    read_exact_at(&open_stream(lend(&file), whole).unwrap(), &mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"[ZoneTransfer]");
}

#[test]
fn links_come_back_where_this_user_may_make_some() {
    let (_place, directory) = place();
    let mut entry = Entry::new(Some(name("link")), EntryKind::Symlink);
    entry.target = Some(b"../other/file".to_vec());
    if let Err(error) = make_node(lend(&directory), &name("link"), &entry) {
        assert_eq!(look(lend(&directory), &name("link")).unwrap_err(), Errno::NOENT, "nothing is left of it");
        return println!("this user may make no links, or this system knows none: {error}");
    }
    let found = look(lend(&directory), &name("link")).unwrap();
    assert_eq!(found.kind, Some(EntryKind::Symlink));
    assert!(is_same_node(lend(&directory), &name("link"), &found, &entry));
    assert_eq!(open_directory(lend(&directory), &name("link")).unwrap_err(), Errno::NOTDIR);
}

#[test]
fn paths_of_this_machine_are_paths_of_snapshots() {
    for (path, shown) in [
        (r"C:\Users\Anna", "/C/Users/Anna"),
        (r"c:\", "/C"),
        (r"\\?\C:\Users", "/C/Users"),
        (r"\\nas\share\x", "/UNC/nas/share/x"),
        (r"\\?\UNC\nas\share\x", "/UNC/nas/share/x"),
    ] {
        assert_eq!(shown_bytes(Path::new(path)), shown.as_bytes(), "{path}");
        assert_eq!(
            typed_path(path.as_bytes()).trim_ascii_end().strip_suffix(b"/").unwrap_or(&typed_path(path.as_bytes())),
            shown.as_bytes()
        );
    }
    assert_eq!(&*typed_path(b"/C/Users"), b"/C/Users");
    assert_eq!(&*typed_path(br"Users\x"), b"Users/x");
    assert!(
        is_path_with_drive(br"C:\x") && is_path_with_drive(b"C:/x") && !is_path_with_drive(b"latest:/x") && !is_path_with_drive(b"c:x")
    );
}

#[test]
fn holes_are_made_where_the_file_system_has_some() {
    let (_place, directory) = place();
    let file = write(&directory, "a", &[7; 1 << 20]);
    make_sparse(&file).unwrap();
    if let Err(error) = punch_hole(&file, 1 << 16, 1 << 18) {
        return println!("this system makes no holes: {error}");
    }
    let mut bytes = vec![1; 1 << 18];
    read_exact_at(&file, &mut bytes, 1 << 16).unwrap();
    assert!(bytes.iter().all(|&byte| byte == 0));
}
