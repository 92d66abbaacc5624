//! The calls of Windows themselves: the only file of this crate with unsafe code. Each function checks what goes in and hands out owned values.

#![expect(
    unsafe_code,
    reason = "Windows has no safe calls for what is relative to an open directory, for security descriptors and for reparse points"
)]

use std::fs::File;
use std::mem::size_of;
use std::os::windows::io::{AsRawHandle as _, BorrowedHandle, FromRawHandle as _, OwnedHandle};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;
use std::time::Duration;

use windows_sys::Wdk::Foundation::OBJECT_ATTRIBUTES;
use windows_sys::Wdk::Storage::FileSystem::{NtCreateFile, NtSetInformationFile};
use windows_sys::Win32::Foundation::{
    ERROR_INSUFFICIENT_BUFFER, ERROR_MORE_DATA, ERROR_NO_MORE_FILES, ERROR_NOT_ALL_ASSIGNED, GetLastError, HANDLE, LUID, NTSTATUS,
    OBJ_CASE_INSENSITIVE, RtlNtStatusToDosError, UNICODE_STRING,
};
use windows_sys::Win32::Security::{
    AdjustTokenPrivileges, GetKernelObjectSecurity, IsValidSecurityDescriptor, IsValidSid, LUID_AND_ATTRIBUTES, LookupAccountSidW,
    LookupPrivilegeValueW, SE_PRIVILEGE_ENABLED, SetKernelObjectSecurity, TOKEN_ADJUST_PRIVILEGES, TOKEN_PRIVILEGES, TOKEN_QUERY,
};
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, FILE_ATTRIBUTE_NORMAL, FILE_ATTRIBUTE_TAG_INFO, FILE_BASIC_INFO, FILE_SHARE_DELETE, FILE_SHARE_READ,
    FILE_SHARE_WRITE, FILE_STANDARD_INFO, FileAttributeTagInfo, FileBasicInfo, FileIdBothDirectoryInfo, FileIdBothDirectoryRestartInfo,
    FileStandardInfo, FileStreamInfo, GetFileInformationByHandle, GetFileInformationByHandleEx, GetVolumeInformationByHandleW,
    SetFileInformationByHandle,
};
use windows_sys::Win32::System::Console::{CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT, SetConsoleCtrlHandler};
use windows_sys::Win32::System::IO::{DeviceIoControl, IO_STATUS_BLOCK};
use windows_sys::Win32::System::SystemInformation::{ComputerNamePhysicalDnsHostname, GetComputerNameExW};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken, PROCESS_MODE_BACKGROUND_BEGIN, SetPriorityClass};

use super::Errno;

/// Room for what is listed at once.
const LISTING_SIZE: usize = 64 << 10;
/// The longest reparse data.
pub(super) const REPARSE_SIZE_MAX: usize = 16 << 10;

/// What the system tells of something open.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Info {
    pub attributes: u32,
    /// What kind of reparse point it is; 0 if it is none.
    pub tag: u32,
    /// Birth, modification and change in units of 100 ns since 1601; 0 where the file system does not keep it.
    pub times: [i64; 3],
    pub size: u64,
    pub allocated: u64,
    pub link_count: u32,
    /// Serial number of the file system.
    pub serial: u32,
    /// Number of the file in it.
    pub index: u64,
}

/// How something is opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening {
    pub access: u32,
    pub disposition: u32,
    pub options: u32,
    pub attributes: u32,
}

fn checked(status: NTSTATUS) -> Result<(), Errno> {
    // SAFETY: a pure function of its argument.
    if status >= 0 { Ok(()) } else { Err(Errno::from_code(unsafe { RtlNtStatusToDosError(status) })) }
}

fn succeeded(result: i32) -> Result<(), Errno> {
    if result == 0 { Err(last_error()) } else { Ok(()) }
}

fn last_error() -> Errno {
    // SAFETY: reads a number of this thread.
    Errno::from_code(unsafe { GetLastError() })
}

fn raw(handle: BorrowedHandle<'_>) -> HANDLE {
    handle.as_raw_handle()
}

fn length_of<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(0)
}

/// Opens or makes what has a name in an open directory; an empty name means the directory itself.
pub(super) fn open(directory: BorrowedHandle<'_>, name: &[u16], how: Opening) -> Result<OwnedHandle, Errno> {
    let bytes = u16::try_from(name.len() * 2).map_err(|_| Errno::NAMETOOLONG)?;
    let text = UNICODE_STRING { Length: bytes, MaximumLength: bytes, Buffer: name.as_ptr().cast_mut() };
    let object = OBJECT_ATTRIBUTES {
        Length: length_of::<OBJECT_ATTRIBUTES>(),
        RootDirectory: raw(directory),
        ObjectName: &raw const text,
        Attributes: OBJ_CASE_INSENSITIVE,
        SecurityDescriptor: null(),
        SecurityQualityOfService: null(),
    };
    let (mut handle, mut status) = (null_mut(), IO_STATUS_BLOCK::default());
    let share = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;
    // SAFETY: all pointers are to values of this frame; the name has the length that `text` says and is only read.
    let result = unsafe {
        NtCreateFile(
            &raw mut handle,
            how.access,
            &raw const object,
            &raw mut status,
            null(),
            if how.attributes == 0 { FILE_ATTRIBUTE_NORMAL } else { how.attributes },
            share,
            how.disposition,
            how.options,
            null(),
            0,
        )
    };
    checked(result)?;
    // SAFETY: the call succeeded, so the handle is open, and nobody else has it.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

/// What the system tells of something open.
pub(crate) fn info(open: BorrowedHandle<'_>) -> Result<Info, Errno> {
    let mut all = BY_HANDLE_FILE_INFORMATION::default();
    // SAFETY: the handle is open, and the value has the type that the call fills.
    succeeded(unsafe { GetFileInformationByHandle(raw(open), &raw mut all) })?;
    let (mut basic, mut standard) = (FILE_BASIC_INFO::default(), FILE_STANDARD_INFO::default());
    // SAFETY: as above; the length is that of the value.
    succeeded(unsafe { GetFileInformationByHandleEx(raw(open), FileBasicInfo, (&raw mut basic).cast(), length_of::<FILE_BASIC_INFO>()) })?;
    // SAFETY: as above.
    succeeded(unsafe {
        GetFileInformationByHandleEx(raw(open), FileStandardInfo, (&raw mut standard).cast(), length_of::<FILE_STANDARD_INFO>())
    })?;
    let mut tag = FILE_ATTRIBUTE_TAG_INFO::default();
    if all.dwFileAttributes & super::ATTRIBUTE_REPARSE_POINT != 0 {
        // SAFETY: as above.
        succeeded(unsafe {
            GetFileInformationByHandleEx(raw(open), FileAttributeTagInfo, (&raw mut tag).cast(), length_of::<FILE_ATTRIBUTE_TAG_INFO>())
        })?;
    }
    let wide = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
    Ok(Info {
        attributes: all.dwFileAttributes,
        tag: tag.ReparseTag,
        times: [basic.CreationTime, basic.LastWriteTime, basic.ChangeTime],
        size: wide(all.nFileSizeHigh, all.nFileSizeLow),
        allocated: u64::try_from(standard.AllocationSize).unwrap_or(0),
        link_count: all.nNumberOfLinks,
        serial: all.dwVolumeSerialNumber,
        index: wide(all.nFileIndexHigh, all.nFileIndexLow),
    })
}

/// Hands out the names in a directory.
pub(super) fn list(directory: BorrowedHandle<'_>, each: &mut dyn FnMut(&[u16])) -> Result<(), Errno> {
    // Aligned as the rows are.
    let mut buffer = vec![0u64; LISTING_SIZE / 8];
    let mut class = FileIdBothDirectoryRestartInfo;
    loop {
        let size = u32::try_from(buffer.len() * 8).unwrap_or(0);
        // SAFETY: the buffer is as long as the call is told, and aligned for what it writes.
        let result = unsafe { GetFileInformationByHandleEx(raw(directory), class, buffer.as_mut_ptr().cast(), size) };
        if result == 0 {
            return match last_error() {
                error if error.code() == ERROR_NO_MORE_FILES => Ok(()),
                error => Err(error),
            };
        }
        class = FileIdBothDirectoryInfo;
        // Where FILE_ID_BOTH_DIR_INFO has the length of the name and the name.
        rows(&buffer, (60, 104), &mut |_, name| each(name));
    }
}

/// Walks rows that begin with the offset of the next one; `at` says where in a row the length in bytes of a name stands, and the name.
fn rows(buffer: &[u64], at: (usize, usize), each: &mut dyn FnMut(&[u8], &[u16])) {
    let bytes: Vec<u8> = buffer.iter().flat_map(|word| word.to_le_bytes()).collect();
    let number = |row: &[u8], at: usize| row.get(at..).and_then(|rest| rest.first_chunk()).map(|bytes| u32::from_le_bytes(*bytes) as usize);
    let mut rest = &bytes[..];
    loop {
        let (Some(next), Some(length)) = (number(rest, 0), number(rest, at.0)) else { return };
        let name = rest.get(at.1..).and_then(|rest| rest.get(..length)).unwrap_or_default();
        let units: Vec<u16> = name.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
        each(rest, &units);
        match rest.get(next..) {
            Some(after) if next > 0 => rest = after,
            _ => return,
        }
    }
}

/// Names (`:name:$DATA`) and sizes of the streams of a file or directory. Where the file system has none, nothing.
pub(crate) fn streams(open: BorrowedHandle<'_>) -> Result<Vec<(Vec<u16>, u64)>, Errno> {
    let mut buffer = vec![0u64; 512];
    loop {
        let size = u32::try_from(buffer.len() * 8).unwrap_or(u32::MAX);
        // SAFETY: the buffer is as long as the call is told, and aligned for what it writes.
        let result = unsafe { GetFileInformationByHandleEx(raw(open), FileStreamInfo, buffer.as_mut_ptr().cast(), size) };
        if result != 0 {
            break;
        }
        match last_error() {
            error if error.code() == ERROR_MORE_DATA && buffer.len() < 1 << 17 => buffer = vec![0; buffer.len() * 4],
            // A directory has no stream at all, and some file systems no streams.
            Errno::EOF | Errno::NOTSUP | Errno::INVAL | Errno::NOSYS => return Ok(Vec::new()),
            error => return Err(error),
        }
    }
    let mut found = Vec::new();
    // FILE_STREAM_INFO: next row, length of the name, size, allocated, name.
    rows(&buffer, (4, 24), &mut |row, name| {
        let size = row.get(8..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes));
        if !name.is_empty() {
            found.push((name.to_vec(), size));
        }
    });
    Ok(found)
}

/// Hands a code with bytes to the file system. How many bytes came back, and whether there are more.
pub(super) fn control(open: BorrowedHandle<'_>, code: u32, input: &[u8], output: &mut [u8]) -> Result<(usize, bool), Errno> {
    let (input_size, output_size) = (u32::try_from(input.len()).unwrap_or(0), u32::try_from(output.len()).unwrap_or(0));
    let mut count = 0;
    // SAFETY: both buffers are as long as the call is told; the handle is one for calls that wait.
    let result = unsafe {
        DeviceIoControl(
            raw(open),
            code,
            if input.is_empty() { null() } else { input.as_ptr().cast() },
            input_size,
            if output.is_empty() { null_mut() } else { output.as_mut_ptr().cast() },
            output_size,
            &raw mut count,
            null_mut(),
        )
    };
    match succeeded(result) {
        Ok(()) => Ok((count as usize, false)),
        Err(error) if error.code() == ERROR_MORE_DATA => Ok((count as usize, true)),
        Err(error) => Err(error),
    }
}

/// The security descriptor in its self-relative form: the parts that `wanted` names.
pub(crate) fn security(open: BorrowedHandle<'_>, wanted: u32) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0u8; 1024];
    loop {
        let (size, mut needed) = (u32::try_from(bytes.len()).unwrap_or(0), 0);
        // SAFETY: the buffer is as long as the call is told.
        let result = unsafe { GetKernelObjectSecurity(raw(open), wanted, bytes.as_mut_ptr().cast(), size, &raw mut needed) };
        match succeeded(result) {
            Ok(()) => {
                // A descriptor says itself how long it is, never longer than what was written.
                bytes.truncate(if needed == 0 { bytes.len() } else { needed as usize });
                return Ok(bytes);
            }
            Err(error) if error.code() == ERROR_INSUFFICIENT_BUFFER && needed > size => bytes = vec![0; needed as usize],
            Err(error) => return Err(error),
        }
    }
}

/// Gives something open a security descriptor: the parts that `wanted` names. It must have been found valid by [`super::security::Descriptor`].
pub(crate) fn set_security(open: BorrowedHandle<'_>, wanted: u32, descriptor: &[u8]) -> Result<(), Errno> {
    // Aligned as its parts are.
    let mut words = vec![0u64; descriptor.len().div_ceil(8)];
    for (word, bytes) in words.iter_mut().zip(descriptor.chunks(8)) {
        let mut whole = [0; 8];
        whole.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        *word = u64::from_le_bytes(whole);
    }
    // SAFETY: the caller has checked that all offsets lie within, so that this call and the next read nothing beyond it.
    if unsafe { IsValidSecurityDescriptor(words.as_mut_ptr().cast()) } == 0 {
        return Err(Errno::INVAL);
    }
    // SAFETY: as above.
    succeeded(unsafe { SetKernelObjectSecurity(raw(open), wanted, words.as_mut_ptr().cast()) })
}

/// The name of an account, with its domain.
pub(crate) fn account(sid: &[u8]) -> Option<String> {
    const ROOM: usize = 512;
    let is_whole = sid.get(1).is_some_and(|count| sid.len() == 8 + 4 * usize::from(*count));
    let mut words: Vec<u32> = sid.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let (mut name, mut domain) = ([0u16; ROOM], [0u16; ROOM]);
    let (mut name_length, mut domain_length, mut kind) = (512, 512, 0);
    let sid = words.as_mut_ptr().cast();
    // SAFETY: it has the length that its own count of parts says.
    if !is_whole || unsafe { IsValidSid(sid) } == 0 {
        return None;
    }
    // SAFETY: the id is valid, and both buffers are as long as the call is told.
    let result = unsafe {
        LookupAccountSidW(null(), sid, name.as_mut_ptr(), &raw mut name_length, domain.as_mut_ptr(), &raw mut domain_length, &raw mut kind)
    };
    succeeded(result).ok()?;
    let text = |units: &[u16], length: u32| String::from_utf16_lossy(units.get(..length as usize).unwrap_or_default());
    let (name, domain) = (text(&name, name_length), text(&domain, domain_length));
    Some(if domain.is_empty() { name } else { format!("{domain}\\{name}") })
}

/// Switches a privilege of this program on. Whether it has it.
pub(crate) fn enable_privilege(name: &str) -> bool {
    let name: Vec<u16> = name.encode_utf16().chain([0]).collect();
    let mut token = null_mut();
    // SAFETY: the pseudo handle of this process needs no closing; the result goes into a value of this frame.
    if unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_ADJUST_PRIVILEGES | TOKEN_QUERY, &raw mut token) } == 0 {
        return false;
    }
    // SAFETY: the call succeeded, so the handle is open, and nobody else has it.
    let token = unsafe { OwnedHandle::from_raw_handle(token) };
    let mut id = LUID::default();
    // SAFETY: the name ends with a zero.
    if unsafe { LookupPrivilegeValueW(null(), name.as_ptr(), &raw mut id) } == 0 {
        return false;
    }
    let row = LUID_AND_ATTRIBUTES { Luid: id, Attributes: SE_PRIVILEGE_ENABLED };
    let wanted = TOKEN_PRIVILEGES { PrivilegeCount: 1, Privileges: [row] };
    // SAFETY: one row, as the count says; nothing is wanted back.
    let result = unsafe { AdjustTokenPrivileges(token.as_raw_handle(), 0, &raw const wanted, 0, null_mut(), null_mut()) };
    // It succeeds also where nothing was switched on.
    result != 0 && last_error().code() != ERROR_NOT_ALL_ASSIGNED
}

/// Sets times (birth, modification; 0 leaves one as it is) and attributes (0 leaves them).
pub(crate) fn set_basic(open: BorrowedHandle<'_>, [born, modified]: [i64; 2], attributes: u32) -> Result<(), Errno> {
    let basic =
        FILE_BASIC_INFO { CreationTime: born, LastAccessTime: 0, LastWriteTime: modified, ChangeTime: 0, FileAttributes: attributes };
    // SAFETY: the value has the type and length that the call is told.
    succeeded(unsafe { SetFileInformationByHandle(raw(open), FileBasicInfo, (&raw const basic).cast(), length_of::<FILE_BASIC_INFO>()) })
}

/// Hands the system a value by which a file changes: a new name, a further name, its end.
pub(super) fn set(open: BorrowedHandle<'_>, class: i32, value: &[u8]) -> Result<(), Errno> {
    // Aligned as the values are.
    let mut words = vec![0u64; value.len().div_ceil(8)];
    for (word, bytes) in words.iter_mut().zip(value.chunks(8)) {
        let mut whole = [0; 8];
        whole.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        *word = u64::from_le_bytes(whole);
    }
    let (mut status, length) = (IO_STATUS_BLOCK::default(), u32::try_from(value.len()).unwrap_or(0));
    // SAFETY: the value is at least as long as the call is told.
    checked(unsafe { NtSetInformationFile(raw(open), &raw mut status, words.as_ptr().cast(), length, class) })
}

/// A value that names something in a directory, as `FILE_RENAME_INFORMATION` and `FILE_LINK_INFORMATION` have it.
pub(super) fn name_value(directory: BorrowedHandle<'_>, flags: u32, name: &[u16]) -> Vec<u8> {
    let mut value = Vec::with_capacity(24 + 2 * name.len());
    value.extend_from_slice(&u64::from(flags).to_le_bytes());
    value.extend_from_slice(&(raw(directory) as usize as u64).to_le_bytes());
    value.extend_from_slice(&u32::try_from(name.len() * 2).unwrap_or(0).to_le_bytes());
    value.extend(name.iter().flat_map(|unit| unit.to_le_bytes()));
    // As long as the structure with its padding.
    value.resize(value.len().max(24), 0);
    value
}

/// The name of the kind of file system that something is on.
pub(crate) fn file_system(open: BorrowedHandle<'_>) -> Option<String> {
    let mut name = [0u16; 64];
    // SAFETY: the buffer is as long as the call is told; the other results are not wanted.
    let result =
        unsafe { GetVolumeInformationByHandleW(raw(open), null_mut(), 0, null_mut(), null_mut(), null_mut(), name.as_mut_ptr(), 64) };
    succeeded(result).ok()?;
    let length = name.iter().position(|unit| *unit == 0)?;
    Some(String::from_utf16_lossy(name.get(..length)?))
}

/// An open file as the standard library has it.
pub(crate) fn file(handle: OwnedHandle) -> File {
    File::from(handle)
}

/// The name of this machine in its network.
pub(super) fn host_name() -> Option<String> {
    let (mut name, mut length) = ([0u16; 256], 256);
    // SAFETY: the buffer is as long as the call is told.
    succeeded(unsafe { GetComputerNameExW(ComputerNamePhysicalDnsHostname, name.as_mut_ptr(), &raw mut length) }).ok()?;
    Some(String::from_utf16_lossy(name.get(..length as usize)?)).filter(|name| !name.is_empty())
}

/// Gives this program the lowest priority for the processor, memory and disks.
pub(super) fn run_in_background() -> Result<(), Errno> {
    // SAFETY: the pseudo handle of this process is always open.
    succeeded(unsafe { SetPriorityClass(GetCurrentProcess(), PROCESS_MODE_BACKGROUND_BEGIN) })
}

static ON_INTERRUPT: OnceLock<fn()> = OnceLock::new();

/// Has a function called, in a thread of its own, when somebody wants this program to end.
pub(super) fn on_interrupt(handle: fn()) -> Result<(), Errno> {
    if ON_INTERRUPT.set(handle).is_err() {
        return Ok(());
    }
    // SAFETY: the function lives as long as the program.
    succeeded(unsafe { SetConsoleCtrlHandler(Some(interrupted), 1) })
}

/// The system ends the program when this returns after a window was closed, but not at once while it does not.
unsafe extern "system" fn interrupted(kind: u32) -> i32 {
    const GRACE: Duration = Duration::from_secs(4);
    if let Some(handle) = ON_INTERRUPT.get() {
        handle();
    }
    if matches!(kind, CTRL_CLOSE_EVENT | CTRL_LOGOFF_EVENT | CTRL_SHUTDOWN_EVENT) {
        std::thread::park_timeout(GRACE);
    }
    1
}
