//! What the system does on behalf of a program: opens, reads, lists. One client is one mounted drive.

use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fs_core::time::Zone;
use fs_core::view::{Links, Owner, View, ViewOptions};
use mount_windows::place::Spot;
use mount_windows::{Mount, MountOptions, mount};
use winfsp_sys::{
    FSP_FSCTL_FILE_INFO, FspFsctlTransactCleanupKind, FspFsctlTransactCloseKind, FspFsctlTransactCreateKind,
    FspFsctlTransactFileSystemControlKind, FspFsctlTransactQueryDirectoryKind, FspFsctlTransactQueryInformationKind,
    FspFsctlTransactQuerySecurityKind, FspFsctlTransactQueryStreamInformationKind, FspFsctlTransactQueryVolumeInformationKind,
    FspFsctlTransactReadKind,
};

use super::driver::{self, Volume, wide};
use super::fixture::Opened;
use super::requests::{Request, Response};

#[link(name = "kernel32")]
unsafe extern "system" {
    fn GetCurrentThread() -> *mut c_void;
}
#[link(name = "advapi32")]
unsafe extern "system" {
    fn ImpersonateSelf(level: u32) -> i32;
    fn OpenThreadToken(thread: *mut c_void, access: u32, as_self: i32, token: *mut *mut c_void) -> i32;
    fn RevertToSelf() -> i32;
}

pub const READ: u32 = 0x0012_0089;
pub const LIST: u32 = 0x0010_0081;
pub const OPEN: u32 = 1;
pub const CREATE: u32 = 2;
pub const DIRECTORY_FILE: u32 = 0x1;
pub const NON_DIRECTORY_FILE: u32 = 0x40;
pub const OPEN_REPARSE_POINT: u32 = 0x0020_0000;
pub const REPARSE: u32 = 0x104;
pub const SYMLINK_TAG: u32 = 0xa000_000c;
pub const NAME_NOT_FOUND: u32 = 0xc000_0034;
pub const PATH_NOT_FOUND: u32 = 0xc000_003a;
pub const WRITE_PROTECTED: u32 = 0xc000_00a2;
pub const END_OF_FILE: u32 = 0xc000_0011;

/// The letters for drives of tests that run side by side.
static NEXT_LETTER: AtomicUsize = AtomicUsize::new(0);

/// A mounted drive, and who uses it.
pub struct Client {
    pub volume: Arc<Volume>,
    pub mount: Mutex<Option<Mount>>,
    pub view: Arc<View>,
    token: u64,
}

/// How something is opened.
#[derive(Clone, Copy)]
pub struct How {
    pub disposition: u32,
    pub options: u32,
    pub access: u32,
    /// Whether the caller may walk through folders that it may not open: nearly everybody may.
    pub traverse: bool,
}

impl Default for How {
    fn default() -> Self {
        Self { disposition: OPEN, options: 0, access: READ, traverse: true }
    }
}

/// Something open.
#[derive(Clone)]
pub struct Handle {
    contexts: (u64, u64),
    pub path: Vec<u16>,
    pub info: FSP_FSCTL_FILE_INFO,
    pub granted: u32,
    /// Whether the system may keep what is read.
    pub is_kept: bool,
}

/// A line of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    pub name: Vec<u16>,
    pub attributes: u32,
    pub size: u64,
}

impl Line {
    pub fn text(&self) -> String {
        String::from_utf16_lossy(&self.name)
    }
}

/// A read that was asked for.
pub struct Reading {
    hint: u64,
    buffer: Vec<u8>,
}

impl Client {
    /// Mounts on a letter of its own.
    pub fn new(repository: &Opened) -> Self {
        let letter = char::from(b'D' + (NEXT_LETTER.fetch_add(1, Ordering::SeqCst) % 22) as u8);
        Self::at(repository, Spot::Letter(letter), false)
    }

    pub fn at(repository: &Opened, spot: Spot, is_far: bool) -> Self {
        driver::install();
        let options = ViewOptions { owner: Owner::AsSaved, links: Links::Inside, mounter: (0, 0), zone: Zone::utc() };
        let view = Arc::new(View::new(Arc::clone(&repository.repository), None, options).unwrap());
        // Looked for by hand.
        let options = MountOptions { spot, allow_other: false, refresh_every: Duration::from_secs(3600), is_far };
        let mount = mount(Arc::clone(&view), &options).unwrap();
        Self { volume: driver::made(), mount: Mutex::new(Some(mount)), view, token: token() }
    }

    /// The drive, to be dropped or waited for.
    pub fn take(&self) -> Mount {
        self.mount.lock().unwrap().take().unwrap()
    }

    /// As the driver asks, once: links are not followed.
    pub fn create(&self, path: &[u16], how: How) -> Response {
        let mut request = Request::new(FspFsctlTransactCreateKind, Some(path));
        // SAFETY: this is the part that the kind names.
        let create = unsafe { &mut request.head().Req.Create };
        (create.CreateOptions, create.DesiredAccess, create.ShareAccess) = (how.disposition << 24 | how.options, how.access, 7);
        create.AccessToken = self.token;
        // Where the name of a stream begins, in bytes.
        create.NamedStream = path.iter().position(|unit| *unit == u16::from(b':')).map_or(0, |at| 2 * at as u16);
        create.set_UserMode(1);
        create.set_HasTraversePrivilege(how.traverse.into());
        request.ask(&self.volume)
    }

    /// As the system opens: links lead on. The name of the file that was opened in the end is that of the handle.
    pub fn open_units(&self, path: &[u16], how: How) -> Result<Handle, u32> {
        let mut path = path.to_vec();
        for _ in 0..32 {
            let response = self.create(&path, how);
            let opened = match response.status() {
                // SAFETY: the status says which part is set.
                0 => unsafe { &response.body().Rsp.Create.Opened },
                REPARSE => {
                    // SAFETY: as above.
                    let data = response.buffer(unsafe { response.body().Rsp.Create.Reparse }.Buffer);
                    if response.information() == 0 {
                        path = data.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit)).take_while(|unit| *unit != 0).collect();
                    } else {
                        assert_eq!(response.information(), SYMLINK_TAG);
                        path = followed(&path, data);
                    }
                    continue;
                }
                status => return Err(status),
            };
            let name = response.text(opened.FileName);
            return Ok(Handle {
                contexts: (opened.UserContext, opened.UserContext2),
                path: name,
                info: opened.FileInfo,
                granted: opened.GrantedAccess,
                is_kept: opened.DisableCache() == 0,
            });
        }
        Err(0xc000_0280)
    }

    pub fn open(&self, path: &str) -> Result<Handle, u32> {
        self.open_units(&path.encode_utf16().collect::<Vec<_>>(), How::default())
    }

    pub fn open_with(&self, path: &str, how: How) -> Result<Handle, u32> {
        self.open_units(&path.encode_utf16().collect::<Vec<_>>(), how)
    }

    /// A folder to be listed.
    pub fn folder(&self, path: &str) -> Handle {
        let how = How { options: DIRECTORY_FILE, access: LIST, ..How::default() };
        self.open_with(path, how).unwrap_or_else(|status| panic!("{path}: {status:08x}"))
    }

    pub fn close(&self, handle: &Handle) {
        let mut request = Request::new(FspFsctlTransactCleanupKind, Some(&handle.path));
        // SAFETY: this is the part that the kind names.
        let cleanup = unsafe { &mut request.head().Req.Cleanup };
        (cleanup.UserContext, cleanup.UserContext2) = handle.contexts;
        let status = request.ask(&self.volume).status();
        assert!(status == 0 || self.volume.is_stopped(), "{status:08x}");
        let mut request = Request::new(FspFsctlTransactCloseKind, None);
        // SAFETY: as above.
        let close = unsafe { &mut request.head().Req.Close };
        (close.UserContext, close.UserContext2) = handle.contexts;
        request.ask(&self.volume);
    }

    pub fn begin_read(&self, handle: &Handle, offset: u64, length: usize) -> Reading {
        let mut buffer = vec![0xee; length];
        let mut request = Request::new(FspFsctlTransactReadKind, None);
        // SAFETY: this is the part that the kind names.
        let read = unsafe { &mut request.head().Req.Read };
        (read.UserContext, read.UserContext2) = handle.contexts;
        (read.Address, read.Offset, read.Length) = (buffer.as_mut_ptr() as u64, offset, length as u32);
        Reading { hint: request.send(&self.volume), buffer }
    }

    pub fn end_read(&self, mut reading: Reading) -> Result<Vec<u8>, u32> {
        let response = Response(self.volume.answer(reading.hint));
        if response.status() != 0 {
            return Err(response.status());
        }
        reading.buffer.truncate(response.information() as usize);
        Ok(reading.buffer)
    }

    pub fn is_answered(&self, reading: &Reading) -> bool {
        self.volume.has_answer(reading.hint)
    }

    pub fn read(&self, handle: &Handle, offset: u64, length: usize) -> Result<Vec<u8>, u32> {
        let reading = self.begin_read(handle, offset, length);
        self.end_read(reading)
    }

    /// A whole file, by its path.
    pub fn content(&self, path: &str) -> Result<Vec<u8>, u32> {
        let handle = self.open(path)?;
        let mut content = Vec::new();
        while (content.len() as u64) < handle.info.FileSize {
            content.extend(self.read(&handle, content.len() as u64, 1 << 20)?);
        }
        self.close(&handle);
        Ok(content)
    }

    /// One buffer of a listing; whether it was the last.
    pub fn list_once(
        &self,
        handle: &Handle,
        size: usize,
        pattern: Option<&str>,
        marker: Option<&[u16]>,
        is_name: bool,
    ) -> Result<(Vec<Line>, bool), u32> {
        let mut buffer = vec![0u64; size / 8];
        let mut request = Request::new(FspFsctlTransactQueryDirectoryKind, None);
        let pattern = pattern.map(|pattern| request.text(&pattern.encode_utf16().collect::<Vec<_>>())).unwrap_or_default();
        let marker = marker.map(|marker| request.text(marker)).unwrap_or_default();
        // SAFETY: this is the part that the kind names.
        let query = unsafe { &mut request.head().Req.QueryDirectory };
        (query.UserContext, query.UserContext2) = handle.contexts;
        (query.Address, query.Length) = (buffer.as_mut_ptr() as u64, size as u32);
        (query.Pattern, query.Marker) = (pattern, marker);
        query.set_PatternIsFileName(is_name.into());
        let response = request.ask(&self.volume);
        if response.status() != 0 {
            return Err(response.status());
        }
        let bytes: Vec<u8> = buffer.iter().flat_map(|word| word.to_le_bytes()).take(response.information() as usize).collect();
        Ok(lines(&bytes))
    }

    /// All lines, in buffers of a size.
    pub fn list(&self, handle: &Handle, size: usize, pattern: Option<&str>) -> Vec<Line> {
        let (mut all, mut is_over) = (Vec::<Line>::new(), false);
        while !is_over {
            let marker = all.last().map(|line| line.name.clone());
            let (lines, over) = self.list_once(handle, size, pattern, marker.as_deref(), false).unwrap();
            is_over = over || lines.is_empty();
            all.extend(lines);
        }
        all
    }

    /// The names of a folder without dots, sorted.
    pub fn names(&self, path: &str) -> Vec<String> {
        let folder = self.folder(path);
        let mut names: Vec<_> = self.list(&folder, 65536, None).iter().map(Line::text).filter(|name| name != "." && name != "..").collect();
        self.close(&folder);
        names.sort();
        names
    }

    /// One name of a folder, as programs ask that look for a file.
    pub fn by_name(&self, folder: &Handle, name: &str) -> Result<Line, u32> {
        let (mut lines, _) = self.list_once(folder, 4096, Some(name), None, true)?;
        lines.pop().ok_or(NAME_NOT_FOUND)
    }

    pub fn info(&self, handle: &Handle) -> FSP_FSCTL_FILE_INFO {
        let mut request = Request::new(FspFsctlTransactQueryInformationKind, None);
        // SAFETY: this is the part that the kind names.
        let query = unsafe { &mut request.head().Req.QueryInformation };
        (query.UserContext, query.UserContext2) = handle.contexts;
        let response = request.ask(&self.volume);
        assert_eq!(response.status(), 0);
        // SAFETY: as above.
        unsafe { response.body().Rsp.QueryInformation.FileInfo }
    }

    /// The streams of an entry: names, and sizes in bytes. That of the content has no name.
    pub fn streams(&self, handle: &Handle) -> Vec<(String, u64)> {
        let mut request = Request::new(FspFsctlTransactQueryStreamInformationKind, None);
        // SAFETY: this is the part that the kind names.
        let query = unsafe { &mut request.head().Req.QueryStreamInformation };
        (query.UserContext, query.UserContext2) = handle.contexts;
        let response = request.ask(&self.volume);
        assert_eq!(response.status(), 0);
        // SAFETY: as above.
        let bytes = response.buffer(unsafe { response.body().Rsp.QueryStreamInformation }.Buffer);
        let (mut streams, mut at) = (Vec::new(), 0);
        loop {
            let size = usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
            if size == 0 {
                return streams;
            }
            let name: Vec<u16> = bytes[at + 24..at + size].as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
            streams.push((String::from_utf16(&name).unwrap(), u64::from_le_bytes(bytes[at + 8..at + 16].try_into().unwrap())));
            at += size.next_multiple_of(8);
        }
    }

    pub fn security(&self, handle: &Handle) -> Vec<u8> {
        let mut request = Request::new(FspFsctlTransactQuerySecurityKind, None);
        // SAFETY: this is the part that the kind names.
        let query = unsafe { &mut request.head().Req.QuerySecurity };
        (query.UserContext, query.UserContext2) = handle.contexts;
        let response = request.ask(&self.volume);
        assert_eq!(response.status(), 0);
        // SAFETY: as above.
        response.buffer(unsafe { response.body().Rsp.QuerySecurity }.SecurityDescriptor).to_vec()
    }

    /// Total size, free size and label.
    pub fn volume_info(&self) -> (u64, u64, String) {
        let response = Request::new(FspFsctlTransactQueryVolumeInformationKind, None).ask(&self.volume);
        assert_eq!(response.status(), 0);
        // SAFETY: this is the part that the kind names.
        let info = unsafe { response.body().Rsp.QueryVolumeInformation.VolumeInfo };
        let label = String::from_utf16_lossy(&info.VolumeLabel[..usize::from(info.VolumeLabelLength) / 2]);
        (info.TotalSize, info.FreeSize, label)
    }

    /// `FSCTL_GET_REPARSE_POINT`
    pub fn reparse(&self, handle: &Handle) -> Result<Vec<u8>, u32> {
        let mut request = Request::new(FspFsctlTransactFileSystemControlKind, Some(&handle.path));
        // SAFETY: this is the part that the kind names.
        let control = unsafe { &mut request.head().Req.FileSystemControl };
        (control.UserContext, control.UserContext2) = handle.contexts;
        control.FsControlCode = 0x0009_00a8;
        let response = request.ask(&self.volume);
        if response.status() != 0 {
            return Err(response.status());
        }
        // SAFETY: as above.
        Ok(response.buffer(unsafe { response.body().Rsp.FileSystemControl }.Buffer).to_vec())
    }

    /// Any request of a kind with the contexts of a handle at their usual place.
    pub fn with_contexts(&self, kind: i32, handle: &Handle, fill: impl FnOnce(&mut Request)) -> u32 {
        let mut request = Request::new(kind, Some(&handle.path));
        // SAFETY: all kinds that have contexts have them here.
        let query = unsafe { &mut request.head().Req.QueryInformation };
        (query.UserContext, query.UserContext2) = handle.contexts;
        fill(&mut request);
        request.ask(&self.volume).status()
    }
}

fn lines(bytes: &[u8]) -> (Vec<Line>, bool) {
    let (mut lines, mut at) = (Vec::new(), 0);
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    while at + 2 <= bytes.len() {
        let size = usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        if size == 0 {
            return (lines, true);
        }
        let name = bytes[at + 104..at + size].as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
        lines.push(Line { name, attributes: number(at + 8) as u32, size: number(at + 24) });
        at += size.next_multiple_of(8);
    }
    (lines, false)
}

/// The path that the system's manager of links makes: what is left of the path behind the target of a link.
fn followed(path: &[u16], data: &[u8]) -> Vec<u16> {
    let half = |at: usize| usize::from(u16::from_le_bytes([data[at], data[at + 1]]));
    let (left, start, length) = (half(6) / 2, half(8), half(10));
    let target: Vec<u16> = data[20 + start..20 + start + length].as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
    let rest = &path[path.len() - left..];
    let separator = u16::from(b'\\');
    // From the root of the volume: so the library says it, with everything on the way resolved.
    if data[16] & 1 == 0 || target.first() == Some(&separator) {
        return [&target[..], rest].concat();
    }
    let link = &path[..path.len() - left];
    let folder = &link[..link.iter().rposition(|unit| *unit == separator).unwrap()];
    let mut parts: Vec<&[u16]> = folder.split(|unit| *unit == separator).filter(|part| !part.is_empty()).collect();
    for part in target.split(|unit| *unit == separator) {
        match part {
            [0x2e] => {}
            [0x2e, 0x2e] => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let folded: Vec<u16> = parts.into_iter().flat_map(|part| [&[separator], part].concat()).collect();
    [&folded[..], rest].concat()
}

/// A token of the user who runs the tests, as the driver hands one to the library.
fn token() -> u64 {
    let mut token = std::ptr::null_mut();
    // SAFETY: the pointer leads to a handle of ours.
    unsafe {
        assert!(ImpersonateSelf(2) != 0);
        assert!(OpenThreadToken(GetCurrentThread(), 8, 1, &raw mut token) != 0);
        RevertToSelf();
    }
    token as u64
}

/// Units of a text.
pub fn units(text: &str) -> Vec<u16> {
    let mut units = wide(text);
    units.pop();
    units
}
