//! The one file that calls Windows and the library of WinFsp itself: what the `winfsp` crate does not offer.

use std::ffi::c_void;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use windows_sys::Win32::Foundation::{CloseHandle, HANDLE, WAIT_OBJECT_0};
use windows_sys::Win32::Security::{GetLengthSid, GetTokenInformation, TOKEN_QUERY, TOKEN_USER, TokenUser};
use windows_sys::Win32::System::Console::{
    CTRL_BREAK_EVENT, CTRL_C_EVENT, CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT, SetConsoleCtrlHandler,
};
use windows_sys::Win32::System::LibraryLoader::{
    GetModuleHandleW, LOAD_LIBRARY_SEARCH_DLL_LOAD_DIR, LOAD_LIBRARY_SEARCH_SYSTEM32, LoadLibraryExW,
};
use windows_sys::Win32::System::Threading::{
    CreateEventW, EVENT_MODIFY_STATE, GetCurrentProcess, INFINITE, OpenEventW, OpenProcessToken, SetEvent, WaitForMultipleObjects,
};
use winfsp::host::VolumeParams;
use winfsp_sys::{FSP_FSCTL_VOLUME_PARAMS, FspFileSystemGetOperationContext, FspFsctlTransactCreateKind};

/// How long the system waits for programs at a sign-out before it ends them; a little less.
const END_WITHIN: Duration = Duration::from_secs(4);

fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}

/// Whether a library of this name is loaded.
pub(crate) fn is_loaded(name: &str) -> bool {
    let name = wide(name);
    // SAFETY: the name ends with zero and lives until the call returns.
    !unsafe { GetModuleHandleW(name.as_ptr()) }.is_null()
}

/// Loads a library from exactly this path; what it needs comes from its own folder and the system's.
pub(crate) fn load(path: &str) -> std::io::Result<()> {
    let path = wide(path);
    let flags = LOAD_LIBRARY_SEARCH_DLL_LOAD_DIR | LOAD_LIBRARY_SEARCH_SYSTEM32;
    // SAFETY: the path ends with zero and lives until the call returns. The library is never unloaded.
    let module = unsafe { LoadLibraryExW(path.as_ptr(), std::ptr::null_mut(), flags) };
    if module.is_null() { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// Copies bytes to the beginning of a buffer, if it has the room.
pub(crate) fn copy_to(buffer: &mut [c_void], bytes: &[u8]) {
    if bytes.len() <= buffer.len() {
        // SAFETY: `c_void` has the size of a byte, so the buffer has room for all of them; it is borrowed and cannot overlap.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.as_mut_ptr().cast::<u8>(), bytes.len()) };
    }
}

/// What a program wants that opens something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// `FILE_…` rights.
    pub(crate) access: u32,
    /// What to do if there is such a file, and if there is none.
    pub(crate) disposition: u32,
    /// `FILE_…` options.
    pub(crate) options: u32,
}

/// The request that this thread of WinFsp works on, if it opens something.
pub(crate) fn wanted() -> Option<Wanted> {
    // SAFETY: the library answers with a pointer that is null, or good until the callback returns, in which we are.
    let request = unsafe { FspFileSystemGetOperationContext().as_ref()?.Request.as_ref()? };
    if u32::try_from(FspFsctlTransactCreateKind) != Ok(request.Kind) {
        return None;
    }
    // SAFETY: the kind says which of the parts is set.
    let create = unsafe { request.Req.Create };
    Some(Wanted { access: create.DesiredAccess, disposition: create.CreateOptions >> 24, options: create.CreateOptions & 0x00ff_ffff })
}

/// Tells the system to keep nothing of the file that this thread of WinFsp is opening.
pub(crate) fn keep_nothing() {
    // SAFETY: as in `wanted`; the answer belongs to the request until the callback returns, and nobody else writes to it meanwhile.
    let response = unsafe { FspFileSystemGetOperationContext().as_ref().and_then(|context| context.Response.as_mut()) };
    if let Some(response) = response {
        // SAFETY: this is the answer to an opening, so this is the part that is read.
        unsafe { response.Rsp.Create.Opened.set_DisableCache(1) };
    }
}

/// Milliseconds after which the system asks again, for each of these.
pub(crate) struct Timeouts {
    pub(crate) listings: u32,
    pub(crate) volume: u32,
}

/// Says that the parameters are those of the second version, in which each kind of question has a time of its own. The crate has no setter for that, without
/// which what it has setters for does not count.
pub(crate) fn set_timeouts(params: &mut VolumeParams, timeouts: &Timeouts) {
    let raw = std::ptr::from_mut(params).cast::<FSP_FSCTL_VOLUME_PARAMS>();
    // SAFETY: `VolumeParams` is a transparent wrapper of this structure, borrowed for as long as this function runs.
    let raw = unsafe { &mut *raw };
    raw.Version = u16::try_from(size_of::<FSP_FSCTL_VOLUME_PARAMS>()).unwrap_or(0);
    raw.set_DirInfoTimeoutValid(1);
    raw.DirInfoTimeout = timeouts.listings;
    raw.set_VolumeInfoTimeoutValid(1);
    raw.VolumeInfoTimeout = timeouts.volume;
}

/// The security identifier of the user that this program runs as.
pub(crate) fn user() -> std::io::Result<Vec<u8>> {
    let mut token: HANDLE = std::ptr::null_mut();
    // SAFETY: the handle of the own process needs no closing; the pointer leads to a handle of ours.
    if unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &raw mut token) } == 0 {
        return Err(std::io::Error::last_os_error());
    }
    let token = Handle(token);
    // Words, because the structure at the beginning wants to be aligned.
    let mut buffer = [0u64; 32];
    let mut length = 0;
    let size = u32::try_from(size_of_val(&buffer)).unwrap_or(0);
    // SAFETY: the buffer has that size and lives until the end of this function.
    if unsafe { GetTokenInformation(token.0, TokenUser, buffer.as_mut_ptr().cast::<c_void>(), size, &raw mut length) } == 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the call has put this structure there; what it points to lies in the same buffer, and its own length says how far it goes.
    let sid = unsafe {
        let sid = (*buffer.as_ptr().cast::<TOKEN_USER>()).User.Sid;
        std::slice::from_raw_parts(sid.cast::<u8>(), GetLengthSid(sid) as usize)
    };
    Ok(sid.to_vec())
}

struct Handle(HANDLE);

// SAFETY: handles belong to the process; the system lets all threads use them.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and is closed here only.
        unsafe { CloseHandle(self.0) };
    }
}

/// An event by which another program of this user's session asks a drive to end.
pub(crate) struct Event(Handle);

impl Event {
    /// Makes it; without a name it is for this program alone.
    pub(crate) fn new(name: Option<&str>) -> std::io::Result<Self> {
        let name = name.map(wide);
        let name = name.as_ref().map_or(std::ptr::null(), |name| name.as_ptr());
        // SAFETY: the name is null, or ends with zero and lives until the call returns.
        let handle = unsafe { CreateEventW(std::ptr::null(), 1, 0, name) };
        if handle.is_null() { Err(std::io::Error::last_os_error()) } else { Ok(Self(Handle(handle))) }
    }

    /// That of another program, if there is one.
    pub(crate) fn of_other(name: &str) -> Option<Self> {
        let name = wide(name);
        // SAFETY: the name ends with zero and lives until the call returns.
        let handle = unsafe { OpenEventW(EVENT_MODIFY_STATE, 0, name.as_ptr()) };
        (!handle.is_null()).then_some(Self(Handle(handle)))
    }

    /// Sets it.
    pub(crate) fn set(&self) {
        // SAFETY: the handle is open for as long as `self` lives.
        unsafe { SetEvent(self.0.0) };
    }

    /// Waits until one of the two is set; whether it was this one.
    pub(crate) fn wait_or(&self, other: &Self) -> bool {
        let handles = [self.0.0, other.0.0];
        // SAFETY: both handles are open for as long as they are borrowed here.
        unsafe { WaitForMultipleObjects(2, handles.as_ptr(), 0, INFINITE) == WAIT_OBJECT_0 }
    }
}

/// Who is told of Ctrl-C, of a closed window, a sign-out and a shutdown, and who says that everything is put away.
struct Console {
    tell: Sender<()>,
    done: Receiver<()>,
}

static CONSOLE: OnceLock<Mutex<Option<Console>>> = OnceLock::new();

unsafe extern "system" fn told(kind: u32) -> i32 {
    let is_end = matches!(kind, CTRL_CLOSE_EVENT | CTRL_LOGOFF_EVENT | CTRL_SHUTDOWN_EVENT);
    if !is_end && !matches!(kind, CTRL_C_EVENT | CTRL_BREAK_EVENT) {
        return 0;
    }
    let console = CONSOLE.get().and_then(|console| console.lock().unwrap_or_else(PoisonError::into_inner).take());
    // A second Ctrl-C is for nobody: the system then ends the program, and the driver removes the drive.
    let Some(Console { tell, done }) = console else { return 0 };
    let _ = tell.try_send(());
    if is_end {
        // The system ends the program when this returns.
        let _ = done.recv_timeout(END_WITHIN);
    }
    1
}

/// The first says when the drive is to end; the second is to be dropped when it has.
pub(crate) fn watch_console() -> std::io::Result<(Receiver<()>, Sender<()>)> {
    let ((tell, is_told), (until_done, done)) = (bounded(1), bounded(0));
    *CONSOLE.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner) = Some(Console { tell, done });
    // SAFETY: the function lives as long as the program and may be called from any thread.
    if unsafe { SetConsoleCtrlHandler(Some(told), 1) } == 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok((is_told, until_done))
}
