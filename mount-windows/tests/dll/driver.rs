//! Plays the driver of WinFsp for its library: five functions that the library imports are replaced.
//!
//! The library opens a device whose name carries the parameters of the volume, and then asks it for requests and hands it answers (`DeviceIoControl`). A
//! value in the registry makes it believe that it runs in a container, where it starts no service. Several volumes may be there at once.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once};
use std::time::{Duration, Instant};

type Handle = *mut c_void;

#[link(name = "kernel32")]
unsafe extern "system" {
    fn GetModuleHandleW(name: *const u16) -> Handle;
    fn GetProcAddress(module: Handle, name: *const c_char) -> *const c_void;
    fn VirtualProtect(address: *mut c_void, size: usize, protection: u32, old: *mut u32) -> i32;
    fn SetLastError(error: u32);
}

/// Handles of the volumes here; the system's are smaller.
const FIRST_HANDLE: usize = 0x7f5d_0004;
/// How long the library waits for a request before it looks up.
const LOOK_UP: Duration = Duration::from_millis(200);
/// A request that nobody answers for so long has been lost.
const LOST_AFTER: Duration = Duration::from_secs(60);
const CANCELLED: u32 = 0xc000_0120;
const OPERATION_ABORTED: u32 = 995;

pub fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}

/// Whether this is Wine, which says so itself.
pub fn is_wine() -> bool {
    let name = wide("ntdll.dll");
    // SAFETY: both names end with zero, and this library is always loaded.
    unsafe { !GetProcAddress(GetModuleHandleW(name.as_ptr()), c"wine_get_version".as_ptr()).is_null() }
}

/// A volume as its driver sees it.
#[derive(Default)]
pub struct Volume {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    requests: VecDeque<Vec<u64>>,
    answers: HashMap<u64, Vec<u8>>,
    is_stopped: bool,
    served: u64,
    parameters: Vec<u8>,
    device: String,
}

static VOLUMES: Mutex<Vec<Arc<Volume>>> = Mutex::new(Vec::new());
/// Drive letters that were defined and not taken away.
static LETTERS: Mutex<Vec<String>> = Mutex::new(Vec::new());
static ORIGINALS: [AtomicUsize; 5] = [const { AtomicUsize::new(0) }; 5];
static NEXT_HINT: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// The volume that this thread has made last.
    #[cfg_attr(target_env = "gnu", expect(clippy::missing_const_for_thread_local, reason = "it is const; what this target makes of the macro misleads the lint"))]
    static MADE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// A number for a new request.
pub fn hint() -> u64 {
    NEXT_HINT.fetch_add(1, Ordering::SeqCst)
}

/// The volume that this thread has made last.
pub fn made() -> Arc<Volume> {
    let number = MADE.take().expect("this thread has made a volume");
    Arc::clone(&VOLUMES.lock().unwrap()[number])
}

/// Whether a drive letter is defined.
pub fn has_letter(letter: &str) -> bool {
    LETTERS.lock().unwrap().iter().any(|known| known == letter)
}

impl Volume {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Hands a request to the library.
    pub fn send(&self, request: Vec<u64>) {
        self.state().requests.push_back(request);
        self.changed.notify_all();
    }

    /// Waits for the answer to a request.
    pub fn answer(&self, hint: u64) -> Vec<u8> {
        let until = Instant::now() + LOST_AFTER;
        let mut state = self.state();
        loop {
            if let Some(answer) = state.answers.remove(&hint) {
                return answer;
            }
            // The driver answers for a library that has stopped.
            if state.is_stopped {
                let mut cancelled = vec![0u8; 512];
                cancelled[8..16].copy_from_slice(&hint.to_le_bytes());
                cancelled[20..24].copy_from_slice(&CANCELLED.to_le_bytes());
                return cancelled;
            }
            assert!(Instant::now() < until, "nobody answers request {hint}");
            state = self.changed.wait_timeout(state, LOOK_UP).unwrap().0;
        }
    }

    /// Whether a request has been answered.
    pub fn has_answer(&self, hint: u64) -> bool {
        self.state().answers.contains_key(&hint)
    }

    /// Whether the library has let go of it.
    pub fn is_stopped(&self) -> bool {
        self.state().is_stopped
    }

    /// How many requests have been answered.
    pub fn served(&self) -> u64 {
        self.state().served
    }

    /// The parameters that came with the name of the device.
    pub fn parameters(&self) -> Vec<u8> {
        self.state().parameters.clone()
    }

    /// `WinFsp.Disk` or `WinFsp.Net`.
    pub fn device(&self) -> String {
        self.state().device.clone()
    }

    /// What the library asks the driver for: a request, after it has handed over an answer.
    fn transact(&self, answer: &[u8], room: &mut [u8]) -> Result<usize, u32> {
        let mut state = self.state();
        if answer.len() >= 24 {
            let hint = u64::from_le_bytes(answer[8..16].try_into().unwrap());
            state.answers.insert(hint, answer.to_vec());
            state.served += 1;
            self.changed.notify_all();
        }
        if room.is_empty() {
            return Ok(0);
        }
        let until = Instant::now() + LOOK_UP;
        loop {
            if state.is_stopped {
                return Err(OPERATION_ABORTED);
            }
            if let Some(request) = state.requests.pop_front() {
                let bytes: Vec<u8> = request.iter().flat_map(|word| word.to_le_bytes()).collect();
                let size = usize::from(u16::from_le_bytes([bytes[2], bytes[3]]));
                room[..size].copy_from_slice(&bytes[..size]);
                return Ok(size);
            }
            let now = Instant::now();
            if now >= until {
                return Ok(0);
            }
            state = self.changed.wait_timeout(state, until - now).unwrap().0;
        }
    }

    fn stop(&self) {
        self.state().is_stopped = true;
        self.changed.notify_all();
    }
}

fn volume_of(handle: Handle) -> Option<Arc<Volume>> {
    let number = (handle as usize).checked_sub(FIRST_HANDLE)? / 4;
    VOLUMES.lock().unwrap().get(number).map(Arc::clone)
}

/// Replaces what the library imports, once.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        mount_windows::load_library().expect("the library of WinFsp is beside the test");
        let name = wide("winfsp-x64.dll");
        // SAFETY: the name ends with zero; the library was loaded above and stays.
        let library = unsafe { GetModuleHandleW(name.as_ptr()) };
        assert!(!library.is_null());
        let replacements = [
            (c"CreateFileW", create_file as *const c_void),
            (c"DeviceIoControl", device_io_control as *const c_void),
            (c"CloseHandle", close_handle as *const c_void),
            (c"RegGetValueW", reg_get_value as *const c_void),
            (c"DefineDosDeviceW", define_dos_device as *const c_void),
        ];
        for (slot, (name, replacement)) in ORIGINALS.iter().zip(replacements) {
            // SAFETY: `library` is a loaded module, and each replacement has the signature of what it replaces.
            slot.store(unsafe { replace(library, name, replacement) } as usize, Ordering::SeqCst);
        }
    });
}

/// Puts a function of ours into the table of what a module imports; what was there.
///
/// # Safety
/// `module` must be loaded, and `replacement` must have the signature of the function of that name.
unsafe fn replace(module: Handle, name: &CStr, replacement: *const c_void) -> *const c_void {
    let base = module.cast::<u8>();
    // SAFETY: offsets come from the headers of a module that the system has loaded and checked.
    let word = |offset: usize| unsafe { base.add(offset).cast::<u32>().read_unaligned() } as usize;
    let mut descriptor = word(word(0x3c) + 24 + 112 + 8);
    while word(descriptor + 12) != 0 {
        let (names, addresses) = (word(descriptor), word(descriptor + 16));
        for at in (0..).step_by(8) {
            // SAFETY: as above; the table ends with zero.
            let entry = unsafe { base.add(names + at).cast::<u64>().read_unaligned() };
            if entry == 0 {
                break;
            }
            // SAFETY: as above; entries without the highest bit lead to a name.
            if entry >> 63 == 0 && unsafe { CStr::from_ptr(base.add(entry as usize + 2).cast()) } == name {
                let mut old = 0;
                // SAFETY: the slot is made writable for the moment in which it is written.
                unsafe {
                    let slot = base.add(addresses + at).cast::<*const c_void>();
                    VirtualProtect(slot.cast(), 8, 4, &raw mut old);
                    let before = slot.read();
                    slot.write(replacement);
                    VirtualProtect(slot.cast(), 8, old, &raw mut old);
                    return before;
                }
            }
        }
        descriptor += 20;
    }
    panic!("the library imports no {name:?}");
}

/// What a replacement replaces. Unsafe: the table of the library must have held a function of this signature.
macro_rules! original {
    ($number:expr, $signature:ty) => {
        std::mem::transmute::<usize, $signature>(ORIGINALS[$number].load(Ordering::SeqCst))
    };
}

/// # Safety
/// `text` must be null or end with zero.
unsafe fn units<'a>(text: *const u16) -> &'a [u16] {
    if text.is_null() {
        return &[];
    }
    // SAFETY: said by the caller.
    unsafe {
        let length = (0..).take_while(|at| *text.add(*at) != 0).count();
        std::slice::from_raw_parts(text, length)
    }
}

type CreateFile = unsafe extern "system" fn(*const u16, u32, u32, *const c_void, u32, u32, Handle) -> Handle;

unsafe extern "system" fn create_file(
    name: *const u16,
    access: u32,
    share: u32,
    security: *const c_void,
    disposition: u32,
    flags: u32,
    template: Handle,
) -> Handle {
    // SAFETY: the system's function asks for the same.
    let path = unsafe { units(name) };
    let text = String::from_utf16_lossy(path);
    let Some(rest) = text.strip_prefix("\\\\?\\GLOBALROOT\\Device\\") else {
        // SAFETY: everything is handed on.
        return unsafe { original!(0, CreateFile)(name, access, share, security, disposition, flags, template) };
    };
    let key: Vec<u16> = "\\VolumeParams=".encode_utf16().collect();
    let at = path.windows(key.len()).position(|window| window == key).unwrap() + key.len();
    let device = rest.split('\\').next().unwrap_or_default().to_owned();
    // Each byte is a unit of the private use area.
    let parameters = path[at..].iter().map(|unit| *unit as u8).collect();
    let volume = Arc::new(Volume { state: Mutex::new(State { parameters, device, ..State::default() }), ..Volume::default() });
    let mut volumes = VOLUMES.lock().unwrap();
    volumes.push(volume);
    MADE.set(Some(volumes.len() - 1));
    (FIRST_HANDLE + 4 * (volumes.len() - 1)) as Handle
}

const fn control(device: u32, letter: u8) -> u32 {
    device << 16 | (0x800 + letter as u32) << 2
}

type Control = unsafe extern "system" fn(Handle, u32, *const c_void, u32, *mut c_void, u32, *mut u32, *mut c_void) -> i32;

unsafe extern "system" fn device_io_control(
    handle: Handle,
    code: u32,
    input: *const c_void,
    input_size: u32,
    output: *mut c_void,
    output_size: u32,
    returned: *mut u32,
    overlapped: *mut c_void,
) -> i32 {
    const NAME: u32 = control(9, b'N');
    const TRANSACT: u32 = control(9, b'T');
    const TRANSACT_INTERNAL: u32 = control(0x8000 | (b'F' as u32) << 8 | b'W' as u32, b'T');
    const STOP: u32 = control(9, b'S');
    const STOP_FIRST: u32 = control(9, b's');
    let Some(volume) = volume_of(handle) else {
        // SAFETY: everything is handed on.
        return unsafe { original!(1, Control)(handle, code, input, input_size, output, output_size, returned, overlapped) };
    };
    // SAFETY: the library hands buffers of these sizes, or none; `returned` is always there.
    let (input, room) = unsafe {
        returned.write(0);
        let input: &[u8] = if input.is_null() { &[] } else { std::slice::from_raw_parts(input.cast::<u8>(), input_size as usize) };
        let room: &mut [u8] =
            if output.is_null() { &mut [] } else { std::slice::from_raw_parts_mut(output.cast::<u8>(), output_size as usize) };
        (input, room)
    };
    let answered = match code {
        NAME => {
            let name: Vec<u8> =
                wide("\\Device\\Volume{00000000-0000-0000-0000-00000000feed}").into_iter().flat_map(u16::to_le_bytes).collect();
            room[..name.len()].copy_from_slice(&name);
            Ok(name.len())
        }
        STOP | STOP_FIRST => {
            volume.stop();
            Ok(0)
        }
        TRANSACT | TRANSACT_INTERNAL => volume.transact(input, room),
        _ => Err(1),
    };
    match answered {
        Ok(size) => {
            // SAFETY: as above.
            unsafe { returned.write(size as u32) };
            1
        }
        Err(error) => {
            // SAFETY: takes a number.
            unsafe { SetLastError(error) };
            0
        }
    }
}

unsafe extern "system" fn close_handle(handle: Handle) -> i32 {
    if volume_of(handle).is_some() {
        return 1;
    }
    // SAFETY: everything is handed on.
    unsafe { original!(2, unsafe extern "system" fn(Handle) -> i32)(handle) }
}

type GetValue = unsafe extern "system" fn(Handle, *const u16, *const u16, u32, *mut u32, *mut c_void, *mut u32) -> i32;

unsafe extern "system" fn reg_get_value(
    key: Handle,
    subkey: *const u16,
    name: *const u16,
    flags: u32,
    kind: *mut u32,
    data: *mut c_void,
    size: *mut u32,
) -> i32 {
    // SAFETY: the system's function asks for the same.
    if String::from_utf16_lossy(unsafe { units(name) }) == "ContainerType" {
        return 0;
    }
    // SAFETY: everything is handed on.
    unsafe { original!(3, GetValue)(key, subkey, name, flags, kind, data, size) }
}

unsafe extern "system" fn define_dos_device(flags: u32, name: *const u16, _target: *const u16) -> i32 {
    // SAFETY: the system's function asks for the same.
    let letter = String::from_utf16_lossy(unsafe { units(name) });
    let mut letters = LETTERS.lock().unwrap();
    if flags & 2 != 0 {
        letters.retain(|known| *known != letter);
    } else {
        letters.push(letter);
    }
    1
}
