//! Shadow copies: the calls of the Volume Shadow Copy Service. A copy lives as long as the value that made it, and goes with the program however that ends.
//!
//! The service hands out an object with a table of functions and no other way in, so the places in that table stand here, as Microsoft's `vsbackup.h` has them.

#![expect(unsafe_code, reason = "objects of the service are tables of functions")]

use std::ffi::c_void;
use std::path::PathBuf;
use std::ptr::{null, null_mut};

use windows_sys::Win32::System::Com::{
    COINIT_MULTITHREADED, CoInitializeEx, CoInitializeSecurity, CoUninitialize, EOAC_DYNAMIC_CLOAKING, RPC_C_AUTHN_LEVEL_PKT_PRIVACY,
    RPC_C_IMP_LEVEL_IMPERSONATE,
};
use windows_sys::Win32::System::LibraryLoader::{GetProcAddress, LOAD_LIBRARY_SEARCH_SYSTEM32, LoadLibraryExW};
use windows_sys::core::{GUID, HRESULT};

/// Places in the table of `IVssBackupComponents`.
mod place {
    pub(super) const INITIALIZE_FOR_BACKUP: usize = 5;
    pub(super) const SET_BACKUP_STATE: usize = 6;
    pub(super) const GATHER_WRITER_METADATA: usize = 9;
    pub(super) const PREPARE_FOR_BACKUP: usize = 14;
    pub(super) const BACKUP_COMPLETE: usize = 27;
    pub(super) const SET_CONTEXT: usize = 35;
    pub(super) const START_SNAPSHOT_SET: usize = 36;
    pub(super) const ADD_TO_SNAPSHOT_SET: usize = 37;
    pub(super) const DO_SNAPSHOT_SET: usize = 38;
    pub(super) const GET_SNAPSHOT_PROPERTIES: usize = 42;
    pub(super) const IS_VOLUME_SUPPORTED: usize = 44;
    /// In that of `IVssAsync`.
    pub(super) const WAIT: usize = 4;
    pub(super) const QUERY_STATUS: usize = 5;
    /// In every table.
    pub(super) const RELEASE: usize = 2;
}

/// The copy goes with who made it, and programs that know the service make themselves ready.
const CONTEXT_BACKUP: i32 = 0;
/// It changes nothing about logs of databases.
const KIND_COPY: i32 = 5;
/// How long one step may take. The service itself gives up after a minute or ten.
const STEP_MS: u32 = 15 * 60 * 1000;
const FINISHED: HRESULT = 0x0004_230a;
const NONE: GUID = GUID::from_u128(0);

/// Why there is no copy.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{}", words(*.0))]
pub(crate) struct ShadowError(HRESULT);

fn words(code: HRESULT) -> String {
    match code.cast_unsigned() {
        0x8007_0005 => "only an administrator may make one".into(),
        0x8004_230c => "its file system knows none".into(),
        0x8004_2316 => "another program is making one just now".into(),
        0x8004_231f => "there is no room for one: 'vssadmin resize shadowstorage' makes some".into(),
        0x8000_4001 | 0x8007_007e | 0x8007_007f => "this system has no service for it".into(),
        code => format!("the service refuses with {code:#010x}"),
    }
}

/// Copies of drives, until this is dropped. Not to be handed to another thread.
#[derive(Debug)]
pub(crate) struct Shadows {
    object: *mut c_void,
    /// Each drive with the folder that holds its copy.
    pub copies: Vec<(char, PathBuf)>,
}

type Object = *mut c_void;

/// What the service tells of a copy, up to what is wanted of it.
#[repr(C)]
struct Properties {
    id: GUID,
    set: GUID,
    count: i32,
    device: *mut u16,
    rest: [usize; 16],
}

fn ok(result: HRESULT) -> Result<(), ShadowError> {
    if result < 0 { Err(ShadowError(result)) } else { Ok(()) }
}

/// A function of an object's table.
///
/// # Safety
/// `object` is alive, and `F` is the type of the function at this place.
unsafe fn function<F: Copy>(object: Object, place: usize) -> F {
    // SAFETY: an object begins with the address of its table, whose entries are functions; the caller answers for the type.
    unsafe {
        let table = *object.cast::<*const *const c_void>();
        std::mem::transmute_copy(&*table.add(place))
    }
}

/// Begins a step and waits until it is done.
fn step(object: Object, place: usize) -> Result<(), ShadowError> {
    let mut job: Object = null_mut();
    // SAFETY: the object is alive; all steps have this type, and hand out an `IVssAsync`, which is released below.
    unsafe {
        ok(function::<unsafe extern "system" fn(Object, *mut Object) -> HRESULT>(object, place)(object, &raw mut job))?;
        if job.is_null() {
            return Ok(());
        }
        let waited = function::<unsafe extern "system" fn(Object, u32) -> HRESULT>(job, place::WAIT)(job, STEP_MS);
        let mut status = 0;
        let asked = function::<unsafe extern "system" fn(Object, *mut HRESULT, *mut i32) -> HRESULT>(job, place::QUERY_STATUS)(
            job,
            &raw mut status,
            null_mut(),
        );
        release(job);
        ok(waited)?;
        ok(asked)?;
        if status == FINISHED { Ok(()) } else { Err(ShadowError(status)) }
    }
}

fn release(object: Object) {
    // SAFETY: the object is alive, and nobody uses it after this.
    unsafe { function::<unsafe extern "system" fn(Object) -> u32>(object, place::RELEASE)(object) };
}

/// A function of the service's library.
fn exported(name: &core::ffi::CStr) -> Result<unsafe extern "system" fn() -> isize, ShadowError> {
    let library: Vec<u16> = "vssapi.dll".encode_utf16().chain([0]).collect();
    // SAFETY: both names end with a zero; only the system's own folder is looked into.
    let found = unsafe {
        let library = LoadLibraryExW(library.as_ptr(), null_mut(), LOAD_LIBRARY_SEARCH_SYSTEM32);
        if library.is_null() { None } else { GetProcAddress(library, name.as_ptr().cast()) }
    };
    found.ok_or(ShadowError(0x8007_007f_u32.cast_signed()))
}

impl Shadows {
    /// Makes copies of drives, all at the same moment.
    pub(crate) fn of(drives: &[char]) -> Result<Self, ShadowError> {
        // SAFETY: each successful call is undone when the value is dropped; that programs may have set security before does no harm.
        unsafe {
            ok(CoInitializeEx(null(), COINIT_MULTITHREADED.cast_unsigned()))?;
            CoInitializeSecurity(
                null_mut(),
                -1,
                null(),
                null(),
                RPC_C_AUTHN_LEVEL_PKT_PRIVACY,
                RPC_C_IMP_LEVEL_IMPERSONATE,
                null(),
                EOAC_DYNAMIC_CLOAKING.cast_unsigned(),
                null(),
            );
        }
        let mut shadows = Self { object: null_mut(), copies: Vec::new() };
        let create = exported(c"CreateVssBackupComponentsInternal")?;
        // SAFETY: this is the type of that function.
        let create: unsafe extern "system" fn(*mut Object) -> HRESULT = unsafe { std::mem::transmute(create) };
        // SAFETY: the object goes into a value that releases it.
        ok(unsafe { create(&raw mut shadows.object) })?;
        shadows.make(drives)?;
        Ok(shadows)
    }

    fn make(&mut self, drives: &[char]) -> Result<(), ShadowError> {
        type Begin = unsafe extern "system" fn(Object, *const u16) -> HRESULT;
        type SetContext = unsafe extern "system" fn(Object, i32) -> HRESULT;
        type SetState = unsafe extern "system" fn(Object, u8, u8, i32, u8) -> HRESULT;
        type Start = unsafe extern "system" fn(Object, *mut GUID) -> HRESULT;
        type Supports = unsafe extern "system" fn(Object, GUID, *const u16, *mut i32) -> HRESULT;
        type Add = unsafe extern "system" fn(Object, *const u16, GUID, *mut GUID) -> HRESULT;
        let object = self.object;
        // SAFETY: the object is alive, and the types are those of `vsbackup.h`.
        unsafe {
            ok(function::<Begin>(object, place::INITIALIZE_FOR_BACKUP)(object, null()))?;
            ok(function::<SetContext>(object, place::SET_CONTEXT)(object, CONTEXT_BACKUP))?;
            ok(function::<SetState>(object, place::SET_BACKUP_STATE)(object, 0, 0, KIND_COPY, 0))?;
        }
        step(object, place::GATHER_WRITER_METADATA)?;
        let mut set = NONE;
        // SAFETY: as above.
        ok(unsafe { function::<Start>(object, place::START_SNAPSHOT_SET)(object, &raw mut set) })?;
        let mut ids = Vec::new();
        for drive in drives {
            let name: Vec<u16> = format!("{drive}:\\").encode_utf16().chain([0]).collect();
            let (mut id, mut is_supported) = (NONE, 0);
            // SAFETY: as above; the name ends with a zero.
            unsafe {
                ok(function::<Supports>(object, place::IS_VOLUME_SUPPORTED)(object, NONE, name.as_ptr(), &raw mut is_supported))?;
                if is_supported == 0 {
                    continue;
                }
                ok(function::<Add>(object, place::ADD_TO_SNAPSHOT_SET)(object, name.as_ptr(), NONE, &raw mut id))?;
            }
            ids.push((*drive, id));
        }
        if ids.is_empty() {
            return Err(ShadowError(0x8004_230c_u32.cast_signed()));
        }
        step(object, place::PREPARE_FOR_BACKUP)?;
        step(object, place::DO_SNAPSHOT_SET)?;
        for (drive, id) in ids {
            self.copies.push((drive, self.device(id)?));
        }
        Ok(())
    }

    /// Where a copy is to be read.
    fn device(&self, id: GUID) -> Result<PathBuf, ShadowError> {
        type Ask = unsafe extern "system" fn(Object, GUID, *mut Properties) -> HRESULT;
        let mut found = Properties { id: NONE, set: NONE, count: 0, device: null_mut(), rest: [0; 16] };
        // SAFETY: the object is alive, the value is longer than what the call fills, and what is handed out is freed by the service's own function.
        unsafe {
            ok(function::<Ask>(self.object, place::GET_SNAPSHOT_PROPERTIES)(self.object, id, &raw mut found))?;
            let length = (0..512).take_while(|at| !found.device.is_null() && *found.device.add(*at) != 0).count();
            let device = String::from_utf16_lossy(if length == 0 { &[] } else { std::slice::from_raw_parts(found.device, length) });
            if let Ok(free) = exported(c"VssFreeSnapshotPropertiesInternal") {
                let free: unsafe extern "system" fn(*mut Properties) = std::mem::transmute(free);
                free(&raw mut found);
            }
            Ok(format!("{device}\\").into())
        }
    }
}

impl Drop for Shadows {
    fn drop(&mut self) {
        if !self.object.is_null() {
            let _ = step(self.object, place::BACKUP_COMPLETE);
            release(self.object);
        }
        // SAFETY: it was initialised in this thread when the value was made.
        unsafe { CoUninitialize() };
    }
}
