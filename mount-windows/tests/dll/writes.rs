//! Everything that would change something is refused as "write protected", and nothing else is said.

use winfsp_sys::{
    FspFsctlTransactFlushBuffersKind, FspFsctlTransactOverwriteKind, FspFsctlTransactSetInformationKind, FspFsctlTransactSetSecurityKind,
    FspFsctlTransactSetVolumeInformationKind, FspFsctlTransactWriteKind,
};

use super::client::{CREATE, How, OPEN, PATH_NOT_FOUND, READ, WRITE_PROTECTED, units};
use super::fixture;
use super::requests::Request;

const SUPERSEDE: u32 = 0;
const OPEN_IF: u32 = 3;
const OVERWRITE: u32 = 4;
const OVERWRITE_IF: u32 = 5;

#[test]
fn nothing_is_made_or_replaced() {
    let Some((client, root)) = fixture::mounted() else { return };
    for folder in ["", "\\Latest", "\\Snapshots\\fixture", &root, &format!("{root}\\small")] {
        for traverse in [true, false] {
            for (disposition, options) in [(CREATE, 0x40), (CREATE, 0x1), (OPEN_IF, 0x40), (OVERWRITE_IF, 0x40), (SUPERSEDE, 0x40)] {
                let how = How { disposition, options, traverse, ..How::default() };
                let status = client.open_with(&format!("{folder}\\new file"), how).err();
                assert_eq!(status, Some(WRITE_PROTECTED), "{folder} {disposition} {traverse}");
            }
        }
    }
    for disposition in [SUPERSEDE, CREATE, OVERWRITE, OVERWRITE_IF] {
        let how = How { disposition, options: 0x40, ..How::default() };
        assert_eq!(client.open_with(&format!("{root}\\plain.txt"), how).err(), Some(WRITE_PROTECTED), "{disposition}");
    }
    let missing = How { disposition: CREATE, options: 0x40, ..How::default() };
    assert_eq!(client.open_with(&format!("{root}\\no\\folder"), missing).err(), Some(PATH_NOT_FOUND));
}

#[test]
fn nothing_is_opened_to_be_changed() {
    let Some((client, root)) = fixture::mounted() else { return };
    for path in [format!("{root}\\plain.txt"), format!("{root}\\small"), "\\Latest".into(), "\\".into()] {
        // Data, more data, attributes of both kinds, deletion, permissions, owner, and everything.
        for access in [0x2, 0x4, 0x10, 0x100, 0x0001_0000, 0x0004_0000, 0x0008_0000, 0x001f_01ff] {
            let how = How { access: READ | access, ..How::default() };
            assert_eq!(client.open_with(&path, how).err(), Some(WRITE_PROTECTED), "{path} {access:x}");
        }
        let deleting = How { access: READ | 0x0001_0000, options: 0x1000, ..How::default() };
        assert_eq!(client.open_with(&path, deleting).err(), Some(WRITE_PROTECTED));
    }
}

#[test]
fn who_only_wants_to_read_may_say_so_in_a_writing_way() {
    let Some((client, root)) = fixture::mounted() else { return };
    // "Open it, or make it" of something that is there is an opening.
    let how = How { disposition: OPEN_IF, ..How::default() };
    assert_eq!(client.open_with(&format!("{root}\\plain.txt"), how).unwrap().info.FileSize, 22);
    let most = How { access: 0x0200_0000, disposition: OPEN, ..How::default() };
    assert!(client.open_with(&format!("{root}\\plain.txt"), most).is_ok());
}

#[test]
fn every_other_change_is_refused() {
    let Some((client, root)) = fixture::mounted() else { return };
    let handle = client.open(&format!("{root}\\plain.txt")).unwrap();
    let data = [1u8; 16];
    let write = client.with_contexts(FspFsctlTransactWriteKind, &handle, |request| {
        // SAFETY: this is the part that the kind names.
        let write = unsafe { &mut request.head().Req.Write };
        (write.Address, write.Length) = (data.as_ptr() as u64, 16);
    });
    assert_eq!(write, WRITE_PROTECTED, "write");
    // An overwriting that fails ends what it was asked of: it is the second half of an opening.
    let other = client.open(&format!("{root}\\plain.txt")).unwrap();
    assert_eq!(client.with_contexts(FspFsctlTransactOverwriteKind, &other, |_| {}), WRITE_PROTECTED, "overwrite");
    // Basic information, deletion in two ways, allocation, end of file.
    for class in [4, 13, 64, 19, 20] {
        let status = client.with_contexts(FspFsctlTransactSetInformationKind, &handle, |request| {
            // SAFETY: this is the part that the kind names.
            let set = unsafe { &mut request.head().Req.SetInformation };
            set.FileInformationClass = class;
            if class == 13 || class == 64 {
                // SAFETY: as above.
                unsafe { set.Info.Disposition.set_Delete(1) };
            }
        });
        assert_eq!(status, WRITE_PROTECTED, "information {class}");
    }
    let rename = client.with_contexts(FspFsctlTransactSetInformationKind, &handle, |request| {
        let name = request.text(&units(&format!("{root}\\other.txt")));
        // SAFETY: as above.
        let set = unsafe { &mut request.head().Req.SetInformation };
        set.FileInformationClass = 10;
        set.Info.Rename.NewFileName = name;
    });
    assert_eq!(rename, WRITE_PROTECTED, "rename");
    let descriptor = client.security(&handle);
    let security = client.with_contexts(FspFsctlTransactSetSecurityKind, &handle, |request| {
        let descriptor = request.bytes(&descriptor);
        // SAFETY: as above.
        let set = unsafe { &mut request.head().Req.SetSecurity };
        (set.SecurityInformation, set.SecurityDescriptor) = (4, descriptor);
    });
    assert_eq!(security, WRITE_PROTECTED, "permissions");
    let mut label = Request::new(FspFsctlTransactSetVolumeInformationKind, None);
    let text = label.text(&units("mine"));
    // SAFETY: as above.
    let set = unsafe { &mut label.head().Req.SetVolumeInformation };
    set.FsInformationClass = 2;
    set.Info.Label.VolumeLabel = text;
    assert_eq!(label.ask(&client.volume).status(), WRITE_PROTECTED, "label");
    assert_eq!(client.with_contexts(FspFsctlTransactFlushBuffersKind, &handle, |_| {}), 0, "flushing has nothing to do");
    assert_eq!(client.read(&handle, 0, 100).unwrap(), b"Hello from a snapshot\n", "all is as it was");
}
