//! The volume itself: parameters, letter, share, label, and its end.

use mount_windows::place::Spot;
use mount_windows::{list, unmount};
use winfsp_sys::FSP_FSCTL_VOLUME_PARAMS;

use super::client::Client;
use super::{driver, fixture};

fn parameters(client: &Client) -> FSP_FSCTL_VOLUME_PARAMS {
    let bytes = client.volume.parameters();
    assert_eq!(bytes.len(), size_of::<FSP_FSCTL_VOLUME_PARAMS>(), "the second version, in which each timeout counts");
    // SAFETY: as long as the structure, of which any bytes are one; need not be aligned.
    unsafe { bytes.as_ptr().cast::<FSP_FSCTL_VOLUME_PARAMS>().read_unaligned() }
}

#[test]
fn the_driver_is_told_what_the_volume_is() {
    let Some((client, _)) = fixture::mounted() else { return };
    assert_eq!(client.volume.device(), "WinFsp.Disk");
    let parameters = parameters(&client);
    assert_eq!((parameters.SectorSize, parameters.SectorsPerAllocationUnit, parameters.MaxComponentLength), (4096, 1, 255));
    assert_eq!(parameters.FileInfoTimeout, u32::MAX, "only so does the system keep what it has read");
    assert_eq!((parameters.DirInfoTimeoutValid(), parameters.DirInfoTimeout), (1, 1000));
    assert_eq!((parameters.VolumeInfoTimeoutValid(), parameters.VolumeInfoTimeout), (1, 1000));
    assert_eq!((parameters.CaseSensitiveSearch(), parameters.CasePreservedNames(), parameters.UnicodeOnDisk()), (0, 1, 1));
    assert_eq!((parameters.PersistentAcls(), parameters.ReparsePoints(), parameters.ReadOnlyVolume()), (1, 1, 1));
    assert_eq!((parameters.PassQueryDirectoryFileName(), parameters.PassQueryDirectoryPattern()), (1, 1));
    assert_eq!((parameters.NamedStreams(), parameters.ExtendedAttributes(), parameters.HardLinks()), (1, 0, 0));
    assert_ne!(parameters.VolumeSerialNumber, 0);
    assert_eq!(parameters.Prefix[0], 0);
    let name: Vec<u16> = parameters.FileSystemName.into_iter().take_while(|unit| *unit != 0).collect();
    assert_eq!(String::from_utf16(&name).unwrap(), "Yesterdrive");
}

#[test]
fn the_size_is_that_of_the_newest_snapshots_and_nothing_is_free() {
    let Some((client, _)) = fixture::mounted() else { return };
    let (total, free, label) = client.volume_info();
    assert_eq!((free, &*label), (0, "Yesterdrive"));
    assert!(total > fixture::BIG as u64 + 12_000_000, "{total}");
    assert_eq!(total, client.view.totals().0);
}

#[test]
fn a_letter_is_there_while_the_drive_is_and_another_program_can_end_it() {
    let Some(folder) = fixture::folder() else { return };
    let client = Client::at(&fixture::open(&folder, fixture::store(&folder)), Spot::Letter('B'), false);
    assert!(driver::has_letter("B:"));
    assert!(list().contains(&Spot::Letter('B')));
    let mount = client.take();
    let waiting = std::thread::spawn(move || mount.wait());
    assert!(unmount(&Spot::Letter('B')));
    waiting.join().unwrap().unwrap();
    assert!(!driver::has_letter("B:"));
    assert!(client.volume.is_stopped());
    assert!(!unmount(&Spot::Letter('B')), "nobody is there any more");
    assert!(!list().contains(&Spot::Letter('B')));
}

#[test]
fn a_share_is_a_device_of_the_network_and_takes_no_letter() {
    let Some(folder) = fixture::folder() else { return };
    let spot = Spot::parse(r"\\yesterdrive\pc").unwrap();
    let client = Client::at(&fixture::open(&folder, fixture::store(&folder)), spot, false);
    assert_eq!(client.volume.device(), "WinFsp.Net");
    let prefix: Vec<u16> = parameters(&client).Prefix.into_iter().take_while(|unit| *unit != 0).collect();
    assert_eq!(String::from_utf16(&prefix).unwrap(), r"\yesterdrive\pc");
    assert_eq!(client.content("\\.yesterdrive\\README.txt").unwrap().first(), Some(&b'T'));
}

#[test]
fn the_status_is_made_anew_for_everybody_who_opens_it_and_kept_by_nobody() {
    let Some((client, root)) = fixture::mounted() else { return };
    let status = client.open("\\.yesterdrive\\status.json").unwrap();
    assert!(!status.is_kept, "the system must not keep what changes");
    let text = client.read(&status, 0, 1 << 16).unwrap();
    assert_eq!(text.len() as u64, status.info.FileSize);
    assert!(String::from_utf8(text).unwrap().contains("\"snapshots\": 3"));
    assert!(client.open(&format!("{root}\\plain.txt")).unwrap().is_kept, "contents of snapshots never change");
}

#[test]
fn mounting_again_and_again_leaves_nothing() {
    let Some(folder) = fixture::folder() else { return };
    let opened = fixture::open(&folder, fixture::store(&folder));
    for _ in 0..20 {
        let client = Client::at(&opened, Spot::Letter('A'), false);
        assert!(client.names("\\").contains(&"Latest".to_owned()));
        drop(client.take());
        assert!(client.volume.is_stopped() && !driver::has_letter("A:"));
    }
}
