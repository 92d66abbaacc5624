//! Windows: handles, attributes, security descriptors. What is relative to an open directory goes through the calls below Win32 (`ffi.rs`), which take every name that
//! NTFS takes, of any length of path.

use std::fs::{File, OpenOptions};
use std::os::windows::fs::{FileExt as _, OpenOptionsExt as _};
use std::os::windows::io::{AsHandle, BorrowedHandle, OwnedHandle};
use std::os::windows::process::CommandExt as _;
use std::path::Path;
use std::sync::OnceLock;

use fs_core::path::Name;
use fs_core::time::Timestamp;
use fs_core::tree::{Entry, EntryKind};
use windows_sys::Win32::Storage::FileSystem as rights;
use windows_sys::Win32::System::Ioctl;

use super::{Found, reparse, wtf8};

mod errno;
mod ffi;
mod paths;
mod vss;

pub use errno::Errno;
pub(crate) use ffi::Info;
use ffi::Opening;
pub use paths::{is_path_with_drive, shown_bytes, typed_path};
pub(crate) use paths::{pattern_path, root};
pub(crate) use vss::Shadows;

/// Something open that is ours.
pub type Owned = OwnedHandle;
/// Something open that is somebody else's.
pub(crate) type Borrowed<'a> = BorrowedHandle<'a>;

/// Whether a mode can say that something is not complete.
pub(crate) const HAS_MODES: bool = false;
/// Whether two names that differ only in case are two names.
pub(crate) const HAS_CASE: bool = false;
/// Whether holes can be made in a file.
pub(crate) const MAKES_HOLES: bool = true;

pub(crate) const ATTRIBUTE_READONLY: u32 = rights::FILE_ATTRIBUTE_READONLY;
pub(crate) const ATTRIBUTE_DIRECTORY: u32 = rights::FILE_ATTRIBUTE_DIRECTORY;
pub(crate) const ATTRIBUTE_REPARSE_POINT: u32 = rights::FILE_ATTRIBUTE_REPARSE_POINT;
pub(crate) const ATTRIBUTE_SPARSE: u32 = rights::FILE_ATTRIBUTE_SPARSE_FILE;
pub(crate) const ATTRIBUTE_COMPRESSED: u32 = rights::FILE_ATTRIBUTE_COMPRESSED;
pub(crate) const ATTRIBUTE_ENCRYPTED: u32 = rights::FILE_ATTRIBUTE_ENCRYPTED;
/// To read it would bring its content from the cloud.
const ATTRIBUTES_CLOUD: u32 =
    rights::FILE_ATTRIBUTE_RECALL_ON_DATA_ACCESS | rights::FILE_ATTRIBUTE_RECALL_ON_OPEN | rights::FILE_ATTRIBUTE_OFFLINE;
/// What a restore sets: read-only, hidden, system, archive, temporary, offline to the indexer.
const ATTRIBUTES_SET: u32 = 0x27 | rights::FILE_ATTRIBUTE_TEMPORARY | rights::FILE_ATTRIBUTE_NOT_CONTENT_INDEXED;

const SYNCHRONIZE: u32 = rights::SYNCHRONIZE;
const LOOK: u32 = rights::FILE_READ_ATTRIBUTES | SYNCHRONIZE;
const OPEN: u32 = 1;
const CREATE: u32 = 2;
const OF_DIRECTORY: u32 = 0x1;
const NOT_OF_DIRECTORY: u32 = 0x40;
const WAITS: u32 = 0x20;
const AS_BACKUP: u32 = 0x4000;
const NOT_FOLLOWED: u32 = 0x0020_0000;
const LOOKING: u32 = WAITS | AS_BACKUP | NOT_FOLLOWED;

/// From the best to what is enough: not everybody may read and change access lists.
const FOLDER_RIGHTS: [u32; 4] = {
    const ENOUGH: u32 = rights::FILE_LIST_DIRECTORY | rights::FILE_TRAVERSE | LOOK;
    const WRITES: u32 =
        ENOUGH | rights::FILE_ADD_FILE | rights::FILE_ADD_SUBDIRECTORY | rights::FILE_WRITE_ATTRIBUTES | rights::READ_CONTROL;
    [WRITES | rights::WRITE_DAC | rights::WRITE_OWNER, WRITES | rights::WRITE_DAC, WRITES, ENOUGH]
};
const NEW_FILE_RIGHTS: [u32; 2] = {
    const ENOUGH: u32 = rights::FILE_GENERIC_READ | rights::FILE_GENERIC_WRITE;
    [ENOUGH | rights::DELETE | rights::WRITE_DAC | rights::WRITE_OWNER, ENOUGH]
};

/// Which of the wished privileges this program has.
#[derive(Clone, Copy, Debug)]
struct Privileges {
    backup: bool,
    security: bool,
}

fn privileges() -> Privileges {
    static OF_THIS_PROGRAM: OnceLock<Privileges> = OnceLock::new();
    *OF_THIS_PROGRAM.get_or_init(|| Privileges {
        backup: ffi::enable_privilege("SeBackupPrivilege"),
        security: ffi::enable_privilege("SeSecurityPrivilege"),
    })
}

/// Lends what is open.
pub(crate) fn lend(open: &impl AsHandle) -> Borrowed<'_> {
    open.as_handle()
}

/// Windows knows no numbers: everybody is the same one.
pub fn me() -> (u32, u32) {
    (0, 0)
}

/// The number of a user's name: there are none.
pub(crate) fn user_number(_name: &str) -> Option<u32> {
    None
}

/// The number of a group's name: there are none.
pub(crate) fn group_number(_name: &str) -> Option<u32> {
    None
}

/// Who reads, as far as it decides what can be read.
pub(crate) fn reader() -> u32 {
    let Privileges { backup, security } = privileges();
    u32::from(backup) | u32::from(security) << 1
}

/// Whether this program may read everything, as backups do.
pub(crate) fn is_backup_operator() -> bool {
    privileges().backup
}

/// Which parts of a security descriptor this program can read and write.
pub(crate) fn readable_security() -> u32 {
    use super::security::{DACL, GROUP, OWNER, SACL};
    OWNER | GROUP | DACL | if privileges().security { SACL } else { 0 }
}

/// What a restore may do that is not switched on by itself.
pub(crate) fn prepare_restore() {
    let _ = privileges();
    for name in ["SeRestorePrivilege", "SeTakeOwnershipPrivilege", "SeCreateSymbolicLinkPrivilege"] {
        ffi::enable_privilege(name);
    }
}

/// How many files this program may have open: as many as memory has room for.
pub(crate) fn open_files_max() -> Option<u64> {
    None
}

/// The name of this machine.
pub fn host_name() -> Option<String> {
    ffi::host_name()
}

/// Lets every other program go first, with the processor and with the disk.
///
/// # Errors
/// The system's.
pub fn yield_to_others() -> std::io::Result<()> {
    Ok(ffi::run_in_background()?)
}

/// Calls something at Ctrl-C and Ctrl-Break, and when the window is closed or the user leaves; what was set before counts no more.
///
/// # Errors
/// The system's.
pub fn on_interrupt(handle: fn()) -> std::io::Result<()> {
    Ok(ffi::on_interrupt(handle)?)
}

/// A time of modification as this system keeps it: in steps of 100 ns.
pub(crate) fn kept_time((seconds, nanos): (i64, i64)) -> (i64, i64) {
    (seconds, nanos / 100 * 100)
}

/// Starts what a shell understands.
pub fn shell(text: &str) -> std::process::Command {
    let mut command = std::process::Command::new("cmd");
    command.raw_arg("/D /S /C").raw_arg(format!("\"{text}\""));
    command
}

/// Reads all of it at an offset.
pub(crate) fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let count = file.seek_read(bytes, offset)?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        bytes = bytes.get_mut(count..).unwrap_or_default();
        offset += count as u64;
    }
    Ok(())
}

/// Writes all of it at an offset.
pub(crate) fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let count = file.seek_write(bytes, offset)?;
        if count == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        bytes = bytes.get(count..).unwrap_or_default();
        offset += count as u64;
    }
    Ok(())
}

/// Reads at an offset what there is.
pub(crate) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> Result<usize, Errno> {
    match file.seek_read(bytes, offset).map_err(Errno::from) {
        Err(Errno::EOF) => Ok(0),
        read => read,
    }
}

/// What stands under a name.
pub(crate) fn look(directory: Borrowed<'_>, name: &Name) -> Result<Found, Errno> {
    let open = open_as(directory, &units(name), &[LOOK], LOOKING)?;
    look_at(lend(&open))
}

/// What is open.
pub(crate) fn look_at(open: Borrowed<'_>) -> Result<Found, Errno> {
    let info = ffi::info(open)?;
    let kind = info.kind();
    let time = info.modified().unwrap_or_default();
    Ok(Found {
        kind: Some(kind),
        mode: if kind == EntryKind::Directory { 0o700 } else { 0o600 },
        owner: 0,
        group: 0,
        link_count: info.link_count.into(),
        size: info.size,
        mtime: (time.seconds(), i64::from(time.nanos())),
        identity: (info.serial.into(), info.index),
        device: 0,
    })
}

/// Opens a directory by its path; links are followed.
pub(crate) fn open_path(path: &Path) -> Result<Owned, Errno> {
    let path = std::path::absolute(path)?;
    let open = |rights: &u32| {
        let mut options = OpenOptions::new();
        options.access_mode(*rights).share_mode(7).custom_flags(rights::FILE_FLAG_BACKUP_SEMANTICS);
        options.open(&path).map_err(Errno::from)
    };
    let file = best(&FOLDER_RIGHTS, open)?;
    if file.metadata()?.is_dir() { Ok(file.into()) } else { Err(Errno::NOTDIR) }
}

/// Opens by its path something to be read, which a restore or a backup may enter by the rights of a backup.
pub(crate) fn open_volume(path: &Path) -> Result<Owned, Errno> {
    let mut options = OpenOptions::new();
    options.access_mode(rights::FILE_LIST_DIRECTORY | LOOK | rights::READ_CONTROL).share_mode(7);
    Ok(options.custom_flags(rights::FILE_FLAG_BACKUP_SEMANTICS).open(path)?.into())
}

/// Opens a directory that is no link.
pub(crate) fn open_directory(parent: Borrowed<'_>, name: &Name) -> Result<Owned, Errno> {
    let open = open_as(parent, &units(name), &FOLDER_RIGHTS, LOOKING | OF_DIRECTORY)?;
    if ffi::info(lend(&open))?.kind() == EntryKind::Directory { Ok(open) } else { Err(Errno::LOOP) }
}

/// Opens an open directory once more.
pub(crate) fn open_again(directory: Borrowed<'_>) -> Result<Owned, Errno> {
    open_as(directory, &[], &FOLDER_RIGHTS, LOOKING | OF_DIRECTORY)
}

/// Makes a directory by its path.
pub(crate) fn make_path(path: &Path, _mode: u32) -> std::io::Result<()> {
    std::fs::create_dir(path)
}

/// Makes a directory.
pub(crate) fn make_directory(parent: Borrowed<'_>, name: &Name, _mode: u32) -> Result<(), Errno> {
    let how = Opening { access: LOOK, disposition: CREATE, options: LOOKING | OF_DIRECTORY, attributes: 0 };
    ffi::open(parent, &units(name), how).map(drop)
}

/// Makes a file that is to be written. `None` if something has that name.
pub(crate) fn make_file(directory: Borrowed<'_>, name: &Name, _mode: u32) -> Result<Option<File>, Errno> {
    let how = |access: &u32| Opening { access: *access, disposition: CREATE, options: WAITS | AS_BACKUP | NOT_OF_DIRECTORY, attributes: 0 };
    match best(&NEW_FILE_RIGHTS, |access| ffi::open(directory, &units(name), how(access))) {
        Ok(file) => Ok(Some(ffi::file(file))),
        Err(Errno::EXIST) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a file to write into it.
pub(crate) fn open_to_write(directory: Borrowed<'_>, name: &Name) -> Result<File, Errno> {
    open_as(directory, &units(name), &NEW_FILE_RIGHTS, LOOKING | NOT_OF_DIRECTORY).map(ffi::file)
}

/// Opens a file to read it.
pub(crate) fn open_to_read(directory: Borrowed<'_>, name: &Name) -> Result<File, Errno> {
    open_as(directory, &units(name), &[rights::FILE_GENERIC_READ], LOOKING | NOT_OF_DIRECTORY).map(ffi::file)
}

/// Removes a name of what is no directory.
pub(crate) fn remove(directory: Borrowed<'_>, name: &Name) -> Result<(), Errno> {
    /// Class and flags: it is gone at once for everybody, also if it is read-only.
    const AT_ONCE: (i32, u32) = (64, 0x1 | 0x2 | 0x10);
    const AT_CLOSE: i32 = 13;
    let open = open_as(directory, &units(name), &[rights::DELETE | LOOK], LOOKING | NOT_OF_DIRECTORY)?;
    ffi::set(lend(&open), AT_ONCE.0, &AT_ONCE.1.to_le_bytes()).or_else(|refused| {
        if matches!(refused, Errno::NOENT | Errno::BUSY) {
            return Err(refused);
        }
        make_writable(directory, name)?;
        ffi::set(lend(&open), AT_CLOSE, &[1])
    })
}

/// Renames within a directory; what had the name before is replaced.
pub(crate) fn rename(directory: Borrowed<'_>, from: &Name, to: &Name) -> Result<(), Errno> {
    /// Class and flags: it replaces also what is open or read-only.
    const BEST: (i32, u32) = (65, 0x1 | 0x2 | 0x40);
    const PLAIN: i32 = 10;
    let open = open_as(directory, &units(from), &[rights::DELETE | LOOK], LOOKING)?;
    let to_units = units(to);
    ffi::set(lend(&open), BEST.0, &ffi::name_value(directory, BEST.1, &to_units)).or_else(|refused| {
        if matches!(refused, Errno::NOENT | Errno::BUSY) {
            return Err(refused);
        }
        match make_writable(directory, to) {
            Ok(()) | Err(Errno::NOENT) => ffi::set(lend(&open), PLAIN, &ffi::name_value(directory, 1, &to_units)),
            Err(_) => Err(refused),
        }
    })
}

/// What is read-only can neither be replaced nor removed.
fn make_writable(directory: Borrowed<'_>, name: &Name) -> Result<(), Errno> {
    let open = open_as(directory, &units(name), &[rights::FILE_WRITE_ATTRIBUTES | LOOK], LOOKING)?;
    let attributes = ffi::info(lend(&open))?.attributes;
    if attributes & ATTRIBUTE_READONLY == 0 {
        return Ok(());
    }
    ffi::set_basic(lend(&open), [0, 0], settable(attributes & !ATTRIBUTE_READONLY))
}

/// Gives a file a further name.
pub(crate) fn link(from: Borrowed<'_>, first: &Name, directory: Borrowed<'_>, name: &Name) -> Result<(), Errno> {
    const LINK: i32 = 11;
    let open = open_as(from, &units(first), &[rights::FILE_WRITE_ATTRIBUTES | LOOK], LOOKING)?;
    ffi::set(lend(&open), LINK, &ffi::name_value(directory, 0, &units(name)))
}

/// Makes a link. Windows has no pipes, sockets and devices in folders.
pub(crate) fn make_node(directory: Borrowed<'_>, name: &Name, entry: &Entry) -> Result<(), Errno> {
    if entry.kind != EntryKind::Symlink {
        return Err(Errno::NOTSUP);
    }
    let target = entry.target.as_deref().unwrap_or_default();
    let data = entry.reparse.clone().unwrap_or_else(|| reparse::symlink_data(target));
    // A junction is always a directory; of links from elsewhere nobody can tell before their target is there.
    let is_directory = entry.windows_attributes.is_some_and(|attributes| attributes & ATTRIBUTE_DIRECTORY != 0)
        || reparse::tag(&data) == Some(reparse::MOUNT_POINT)
        || target.ends_with(b"/");
    let options = LOOKING | if is_directory { OF_DIRECTORY } else { NOT_OF_DIRECTORY };
    let access = rights::FILE_WRITE_ATTRIBUTES | rights::FILE_WRITE_DATA | rights::DELETE | LOOK;
    let open = ffi::open(directory, &units(name), Opening { access, disposition: CREATE, options, attributes: 0 })?;
    set_reparse(lend(&open), &data).inspect_err(|_| {
        // Not to be taken for an empty file.
        let _ = ffi::set(lend(&open), 13, &[1]);
    })
}

/// Makes a reparse point of what is open.
pub(crate) fn set_reparse(open: Borrowed<'_>, data: &[u8]) -> Result<(), Errno> {
    ffi::control(open, Ioctl::FSCTL_SET_REPARSE_POINT, data, &mut []).map(drop)
}

/// The data of a reparse point.
pub(crate) fn reparse_data(open: Borrowed<'_>) -> Result<Vec<u8>, Errno> {
    let mut data = vec![0; ffi::REPARSE_SIZE_MAX];
    let (length, _) = ffi::control(open, Ioctl::FSCTL_GET_REPARSE_POINT, &[], &mut data)?;
    data.truncate(length);
    Ok(data)
}

/// Opens what stands under a name to give it its metadata.
pub(crate) fn open_to_describe(directory: Borrowed<'_>, name: &Name) -> Result<Owned, Errno> {
    const ENOUGH: u32 = LOOK | rights::FILE_WRITE_ATTRIBUTES;
    let all = [ENOUGH | rights::WRITE_DAC | rights::WRITE_OWNER | rights::READ_CONTROL, ENOUGH | rights::WRITE_DAC, ENOUGH];
    open_as(directory, &units(name), &all, LOOKING)
}

/// Whether what stands under a name is the link that was saved.
pub(crate) fn is_same_node(directory: Borrowed<'_>, name: &Name, _there: &Found, entry: &Entry) -> bool {
    let open = || open_as(directory, &units(name), &[LOOK], LOOKING);
    let Ok(data) = open().and_then(|open| reparse_data(lend(&open))) else { return false };
    match &entry.reparse {
        Some(saved) => *saved == data,
        None => reparse::target(&data) == entry.target,
    }
}

/// Windows has no modes.
pub(crate) fn set_mode(_open: Borrowed<'_>, _mode: u32) -> Result<(), Errno> {
    Ok(())
}

/// Windows has no modes: who may not enter a directory cannot give himself the right in this way.
pub(crate) fn set_mode_of(_directory: Borrowed<'_>, _name: &Name, _mode: u32) -> Result<(), Errno> {
    Err(Errno::ACCESS)
}

/// Windows has no numbers of owners.
pub(crate) fn set_owner(_open: Borrowed<'_>, _owner: u32) -> Result<(), Errno> {
    Err(Errno::NOTSUP)
}

/// Prepares a new file for holes. Where there are none it is written in full.
pub(crate) fn make_sparse(file: &File) -> Result<(), Errno> {
    let _ = ffi::control(lend(file), Ioctl::FSCTL_SET_SPARSE, &[], &mut []);
    Ok(())
}

/// Has the file system compress a file or what comes into a directory.
pub(crate) fn set_compressed(open: Borrowed<'_>) -> Result<(), Errno> {
    /// The way of compression that the file system prefers.
    const BY_DEFAULT: u16 = 1;
    ffi::control(open, Ioctl::FSCTL_SET_COMPRESSION, &BY_DEFAULT.to_le_bytes(), &mut []).map(drop)
}

/// Makes a hole in a file.
pub(crate) fn punch_hole(file: &File, offset: u64, length: u64) -> Result<(), Errno> {
    make_sparse(file)?;
    let range = [offset.to_le_bytes(), (offset + length).to_le_bytes()].concat();
    ffi::control(lend(file), Ioctl::FSCTL_SET_ZERO_DATA, &range, &mut []).map(drop)
}

/// The parts of a sparse file that are there, from an offset on: some of them, and whether there are more.
pub(crate) fn allocated_ranges(file: &File, from: u64, size: u64) -> Result<(Vec<(u64, u64)>, bool), Errno> {
    const ROWS: usize = 256;
    let (wanted, mut rows) = ([from.to_le_bytes(), (size - from).to_le_bytes()].concat(), vec![0; ROWS * 16]);
    let (length, is_more) = ffi::control(lend(file), Ioctl::FSCTL_QUERY_ALLOCATED_RANGES, &wanted, &mut rows)?;
    let numbers: Vec<u64> =
        rows.get(..length).unwrap_or_default().as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    Ok((numbers.as_chunks::<2>().0.iter().map(|[offset, length]| (*offset, *length)).collect(), is_more))
}

/// Makes the bytes of a file durable.
pub(crate) fn sync_data(file: &File) -> Result<(), Errno> {
    Ok(file.sync_data()?)
}

/// Windows cannot be told to forget what it has of a file.
pub(crate) fn forget(_file: &File) {}

/// Whether the place is why there is no link.
pub(crate) fn has_no_links(refused: Errno) -> bool {
    matches!(refused, Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::NOTSUP | Errno::NOSYS | Errno::INVAL)
}

/// File system and number of a path, to recognise it wherever it is met; `None` if there is nothing.
pub fn identity(path: &Path) -> Option<((u32, u32), u64)> {
    let mut options = OpenOptions::new();
    let file = options.access_mode(LOOK).share_mode(7).custom_flags(rights::FILE_FLAG_BACKUP_SEMANTICS).open(path).ok()?;
    let info = ffi::info(lend(&file)).ok()?;
    Some(((0, info.serial), info.index))
}

/// What a source opens: a name of a directory with some rights, the best first, never followed.
pub(crate) fn open_in(directory: Borrowed<'_>, name: &[u8], rights: &[u32], is_followed: bool) -> Result<Owned, Errno> {
    let options = if is_followed { LOOKING & !NOT_FOLLOWED } else { LOOKING };
    open_as(directory, &wtf8::to_units(name), rights, options)
}

/// To look at an entry with its security descriptor, or without; with and without what is logged.
pub(crate) fn looking_rights() -> &'static [u32] {
    const WITH_SACL: u32 = 0x0100_0000;
    const ALL: [u32; 3] = [LOOK | rights::READ_CONTROL | WITH_SACL, LOOK | rights::READ_CONTROL, LOOK];
    if privileges().security { &ALL } else { &ALL[1..] }
}

/// To list a directory.
pub(crate) const LISTING_RIGHTS: [u32; 2] = {
    const ENOUGH: u32 = rights::FILE_LIST_DIRECTORY | rights::FILE_TRAVERSE | LOOK;
    [ENOUGH | rights::READ_CONTROL, ENOUGH]
};
/// To read a file.
pub(crate) const READING_RIGHTS: [u32; 2] = {
    const ENOUGH: u32 = rights::FILE_READ_DATA | LOOK;
    [ENOUGH | rights::READ_CONTROL, ENOUGH]
};
/// To write a stream.
const STREAM_RIGHTS: [u32; 1] = [rights::FILE_GENERIC_WRITE];

/// Names in a directory.
pub(crate) fn names(directory: Borrowed<'_>, each: &mut dyn FnMut(&[u16])) -> Result<(), Errno> {
    ffi::list(directory, each)
}

pub(crate) use ffi::{account, file, file_system, info, security as security_of, set_basic, set_security, streams};

/// Makes a stream of an open file, or empties it.
pub(crate) fn make_stream(of: Borrowed<'_>, name: &[u8]) -> Result<File, Errno> {
    const OVERWRITE_IF: u32 = 5;
    let colon = [u16::from(b':')];
    let name: Vec<u16> = colon.into_iter().chain(wtf8::to_units(name)).collect();
    let how =
        |access: &u32| Opening { access: *access, disposition: OVERWRITE_IF, options: WAITS | AS_BACKUP | NOT_OF_DIRECTORY, attributes: 0 };
    best(&STREAM_RIGHTS, |access| ffi::open(of, &name, how(access))).map(ffi::file)
}

/// Opens a stream of an open file by its whole name.
pub(crate) fn open_stream(of: Borrowed<'_>, name: &[u16]) -> Result<File, Errno> {
    open_as(of, name, &READING_RIGHTS, WAITS | AS_BACKUP | NOT_OF_DIRECTORY).map(ffi::file)
}

/// The attributes that a restore sets of those that were saved. None at all has a bit of its own.
pub(crate) fn settable(attributes: u32) -> u32 {
    match attributes & ATTRIBUTES_SET {
        0 => rights::FILE_ATTRIBUTE_NORMAL,
        some => some,
    }
}

/// Units of 100 ns since 1601, of a time that Windows can have.
pub(crate) fn ticks(time: Timestamp) -> Option<i64> {
    let ticks = time.seconds().checked_add(EPOCH_SECONDS)?.checked_mul(10_000_000)?.checked_add(i64::from(time.nanos() / 100))?;
    (ticks > 0).then_some(ticks)
}

/// Seconds from the beginning of 1601 to that of 1970.
const EPOCH_SECONDS: i64 = 11_644_473_600;

fn time(ticks: i64) -> Option<Timestamp> {
    let nanos = u32::try_from(ticks.rem_euclid(10_000_000) * 100).ok()?;
    (ticks > 0).then(|| Timestamp::new(ticks.div_euclid(10_000_000) - EPOCH_SECONDS, nanos))?
}

impl Info {
    /// What it is to a snapshot.
    pub(crate) fn kind(&self) -> EntryKind {
        let is_directory = self.attributes & ATTRIBUTE_DIRECTORY != 0;
        match self.reparse_kind() {
            reparse::Kind::Link => EntryKind::Symlink,
            reparse::Kind::Content if is_directory => EntryKind::Directory,
            _ => EntryKind::File,
        }
    }

    /// What becomes of it as a reparse point.
    pub(crate) fn reparse_kind(&self) -> reparse::Kind {
        if self.attributes & ATTRIBUTE_REPARSE_POINT == 0 { reparse::Kind::Content } else { reparse::kind(self.tag) }
    }

    /// Whether its content is only in the cloud.
    pub(crate) fn is_in_cloud(&self) -> bool {
        self.attributes & ATTRIBUTES_CLOUD != 0 && self.attributes & ATTRIBUTE_DIRECTORY == 0
    }

    /// Time of birth.
    pub(crate) fn born(&self) -> Option<Timestamp> {
        time(self.times[0])
    }

    /// Time of modification.
    pub(crate) fn modified(&self) -> Option<Timestamp> {
        time(self.times[1])
    }

    /// Time of change; `None` on file systems that do not keep it.
    pub(crate) fn changed(&self) -> Option<Timestamp> {
        time(self.times[2])
    }
}

fn units(name: &Name) -> Vec<u16> {
    wtf8::to_name(name.as_bytes())
}

fn open_as(directory: Borrowed<'_>, name: &[u16], all_rights: &[u32], options: u32) -> Result<Owned, Errno> {
    best(all_rights, |access| ffi::open(directory, name, Opening { access: *access, disposition: OPEN, options, attributes: 0 }))
}

/// Opens with the first rights that are given.
fn best<T>(all: &[u32], open: impl Fn(&u32) -> Result<T, Errno>) -> Result<T, Errno> {
    let mut refused = Errno::ACCESS;
    for rights in all {
        match open(rights) {
            Err(error @ (Errno::ACCESS | Errno::PERM)) => refused = error,
            opened => return opened,
        }
    }
    Err(refused)
}

#[cfg(test)]
mod tests;
