//! Bytes: inside, at and after the end, in pieces of every size, by many at once.

use super::client::END_OF_FILE;
use super::fixture::{self, BIG, SMALL_COUNT, text};

#[test]
fn reads_at_every_place() {
    let Some((client, root)) = fixture::mounted() else { return };
    let handle = client.open(&format!("{root}\\big.txt")).unwrap();
    assert_eq!(handle.info.FileSize, BIG as u64);
    for (offset, length) in
        [(0, 1), (0, 4096), (1, 4095), (65_535, 3), (262_143, 300_000), (BIG - 1, 1), (1_000_000, 1 << 20), (4_194_304, 512)]
    {
        assert_eq!(client.read(&handle, offset as u64, length).unwrap(), text(1, offset, length), "{length} at {offset}");
    }
    assert_eq!(client.read(&handle, BIG as u64 - 10, 4096).unwrap(), text(1, BIG - 10, 10), "a short answer at the end only");
    for offset in [BIG as u64, BIG as u64 + 1, u64::MAX / 2] {
        assert_eq!(client.read(&handle, offset, 4096).err(), Some(END_OF_FILE));
    }
    let empty = client.open(&format!("{root}\\empty")).unwrap();
    assert_eq!(client.read(&empty, 0, 4096).err(), Some(END_OF_FILE));
    assert_eq!(client.content(&format!("{root}\\empty")).unwrap(), b"");
}

#[test]
fn a_whole_file_is_what_was_saved() {
    let Some((client, root)) = fixture::mounted() else { return };
    assert!(client.content(&format!("{root}\\big.txt")).unwrap() == text(1, 0, BIG));
    assert_eq!(client.content(&format!("{root}\\Ünï\\日本語.txt")).unwrap(), text(2, 0, 1000));
    for n in (0..fixture::MANY_COUNT).step_by(10_000) {
        assert_eq!(client.content(&format!("{root}\\many\\entry {n:06}.dat")).unwrap(), n.to_string().into_bytes());
    }
}

#[test]
fn many_read_at_once() {
    let Some((client, root)) = fixture::mounted() else { return };
    let readers = 16;
    std::thread::scope(|scope| {
        for reader in 0..readers {
            let (client, root) = (&client, &root);
            scope.spawn(move || {
                for step in 0..60 {
                    let n = (reader * 61 + step * 7) % SMALL_COUNT;
                    let path = format!("{root}\\SMALL\\FILE {n:03}.TXT");
                    assert_eq!(client.content(&path).unwrap(), text(1000 + n, 0, 1000 + n));
                    let big = client.open(&format!("{root}\\big.txt")).unwrap();
                    let offset = (reader * 300_007 + step * 80_021) % (BIG - 70_000);
                    assert_eq!(client.read(&big, offset as u64, 65_536).unwrap(), text(1, offset, 65_536));
                    client.close(&big);
                }
            });
        }
    });
}
