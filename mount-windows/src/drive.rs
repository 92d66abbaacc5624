//! Mounts a view, and takes it away again.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use fs_core::view::View;
use winfsp::FspError;
use winfsp::host::{FileSystemHost, FileSystemParams, VolumeParams};

use crate::ffi::{self, Event, Timeouts};
use crate::place::Spot;
use crate::security;
use crate::status::file_time;
use crate::tasks::Tasks;
use crate::tree::Tree;
use crate::winfsp::Drive;

/// Threads that answer what has to be answered at once. One that waits for the store costs a stack and nothing else, and the number of programs that look
/// for a name at the same time on one machine is smaller.
const THREADS: u32 = 32;
/// How long unmounting waits for a thread of ours that waits for the store.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// How long the system may show a listing and the size of the volume without asking again: new snapshots appear.
const SHORTLY_MS: u32 = 1000;
/// The name of the library.
const LIBRARY: &str = if cfg!(target_arch = "aarch64") { "winfsp-a64.dll" } else { "winfsp-x64.dll" };
/// Where the installer of WinFsp says where it is.
const REGISTERED: [&str; 2] = [r"SOFTWARE\WOW6432Node\WinFsp", r"SOFTWARE\WinFsp"];
/// NTSTATUS of a driver that is not there.
const NO_SUCH_DEVICE: u32 = 0xc000_000e;

/// How to mount.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Where.
    pub spot: Spot,
    /// Let every user of the machine read, not only the one who mounts.
    pub allow_other: bool,
    /// How often to look for new snapshots.
    pub refresh_every: Duration,
    /// Whether contents come over a network: files then say that reading them costs something.
    pub is_far: bool,
}

/// Why nothing was mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no WinFsp.
    #[error("WinFsp is not installed: install it from https://winfsp.dev/rel/ (or 'winget install WinFsp.WinFsp') and try again")]
    NotInstalled,
    /// WinFsp is there and cannot be used.
    #[error("{path} cannot be loaded: install WinFsp again")]
    Broken {
        /// Its library.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The driver of WinFsp does not run.
    #[error("the driver of WinFsp does not run: install WinFsp again, or restart Windows if it was installed just now")]
    NoDriver,
    /// The system refused.
    #[error("the drive cannot be mounted on {spot}: {reason} (0x{status:08X})")]
    Refused {
        /// Where.
        spot: Spot,
        /// What may be wrong.
        reason: &'static str,
        /// NTSTATUS.
        status: u32,
    },
    /// Something else that the system refused.
    #[error("{what}")]
    System {
        /// What was wanted.
        what: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// A mounted drive. Unmounts when dropped, without waiting for the store.
pub struct Mount {
    spot: Spot,
    host: Option<FileSystemHost<Drive>>,
    /// Dropped to wake everybody who waits.
    until_end: Option<Sender<()>>,
    tasks: Tasks,
    refresher: Option<Refresher>,
    /// Set by `unmount` in another program.
    asked: Event,
}

impl std::fmt::Debug for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mount").field("spot", &self.spot).field("tasks", &self.tasks).finish_non_exhaustive()
    }
}

struct Refresher {
    stop: Sender<()>,
    stopped: Receiver<()>,
    thread: JoinHandle<()>,
}

/// Finds the library of WinFsp where its installer put it, and nowhere else: one that lies in the current folder is somebody else's.
///
/// # Errors
/// [`MountError::NotInstalled`], [`MountError::Broken`].
pub fn load_library() -> Result<(), MountError> {
    if !ffi::is_loaded(LIBRARY) {
        let folder = |key: &str| windows_registry::LOCAL_MACHINE.open(key).and_then(|key| key.get_string("InstallDir")).ok();
        let folder = REGISTERED.into_iter().find_map(folder).ok_or(MountError::NotInstalled)?;
        let path = format!("{}\\bin\\{LIBRARY}", folder.trim_end_matches('\\'));
        ffi::load(&path).map_err(|source| MountError::Broken { path, source })?;
    }
    winfsp::winfsp_init().map(drop).map_err(|_| MountError::NotInstalled)
}

/// Mounts a view.
///
/// # Errors
/// [`MountError`].
pub fn mount(view: Arc<View>, options: &MountOptions) -> Result<Mount, MountError> {
    load_library()?;
    let user = ffi::user().map_err(|source| MountError::System { what: "the system does not say who you are", source })?;
    let reader = if options.allow_other { &security::WORLD[..] } else { &user };
    let descriptor = security::descriptor(&user, reader);
    let (until_end, ending) = bounded(0);
    let drive = Drive::new(Arc::clone(&view), ending, descriptor, options.is_far);
    let (tree, tasks) = (drive.tree.clone(), drive.tasks.clone());
    let params = FileSystemParams { use_dir_info_by_name: true, ..FileSystemParams::default_params(volume(&view, &options.spot)) };
    let mut host = FileSystemHost::new_with_options_async(params, drive).map_err(|error| refused(&options.spot, &error.into()))?;
    let spot = show(&mut host, &options.spot)?;
    host.start_with_threads(THREADS).map_err(|error| refused(&spot, &error.into()))?;
    let asked = Event::new(Some(&event_name(&spot)))
        .map_err(|source| MountError::System { what: "the drive could not be unmounted again: no event can be made", source })?;
    let refresher = start_refresher(view, tree, options.refresh_every);
    Ok(Mount { spot, host: Some(host), until_end: Some(until_end), tasks, refresher: Some(refresher), asked })
}

/// Puts a volume where it is wanted; where that is.
fn show(host: &mut FileSystemHost<Drive>, spot: &Spot) -> Result<Spot, MountError> {
    let mut at = |spot: &Spot| host.mount(&*spot.to_string()).map_err(|error| refused(spot, &error.into()));
    match spot {
        Spot::Letter(_) | Spot::Folder(_) => at(spot).map(|()| spot.clone()),
        // Reached by its name alone.
        Spot::Share { .. } => Ok(spot.clone()),
        // One by one, because the library does not say which one it has taken.
        Spot::FreeLetter => {
            let mut taken = None;
            for letter in ('D'..='Z').rev().map(Spot::Letter) {
                match at(&letter) {
                    Ok(()) => return Ok(letter),
                    Err(error @ MountError::Refused { .. }) => taken = Some(error),
                    Err(error) => return Err(error),
                }
            }
            Err(taken.unwrap_or(MountError::NoDriver))
        }
    }
}

fn volume(view: &View, spot: &Spot) -> VolumeParams {
    let mut params = VolumeParams::new();
    let id = view.repository().id();
    let serial = id.as_bytes().first_chunk::<4>().copied().unwrap_or_default();
    params
        .sector_size(4096)
        .sectors_per_allocation_unit(1)
        .max_component_length(255)
        .volume_creation_time(file_time(view.repository().clock().now()))
        .volume_serial_number(u32::from_le_bytes(serial))
        // For ever: contents of snapshots never change, and only so does the system keep what it has read. What moves is opened with `keep_nothing`.
        .file_info_timeout(u32::MAX)
        .case_sensitive_search(false)
        .case_preserved_names(true)
        .unicode_on_disk(true)
        .persistent_acls(true)
        .reparse_points(true)
        .named_streams(true)
        .read_only_volume(true)
        .post_cleanup_when_modified_only(true)
        .pass_query_directory_pattern(true)
        .pass_query_directory_filename(true)
        .filesystem_name("Yesterdrive");
    if let Some(prefix) = spot.prefix() {
        params.prefix(prefix);
    }
    ffi::set_timeouts(&mut params, &Timeouts { listings: SHORTLY_MS, volume: SHORTLY_MS });
    params
}

/// The event that asks a drive to end, of this user's session.
fn event_name(spot: &Spot) -> String {
    let place: String = spot.to_string().to_lowercase().chars().map(|c| if c == '\\' { '/' } else { c }).collect();
    format!("Local\\Yesterdrive unmount {place}")
}

fn refused(spot: &Spot, error: &FspError) -> MountError {
    let status = u32::from_ne_bytes(error.to_ntstatus().to_ne_bytes());
    let reason = match status {
        NO_SUCH_DEVICE => return MountError::NoDriver,
        0xc000_0035 => "something is there already; choose another letter or a folder that does not exist",
        0xc000_00ca => "a share cannot be mounted on a folder; choose a letter or the share alone",
        0xc000_0022 => "access is denied; choose another place",
        _ => "Windows refused; choose another letter, or a folder that does not exist in one that does",
    };
    MountError::Refused { spot: spot.clone(), reason, status }
}

fn start_refresher(view: Arc<View>, tree: Tree, every: Duration) -> Refresher {
    let (stop, told) = bounded::<()>(0);
    let (stopping, stopped) = bounded::<()>(0);
    let thread = std::thread::spawn(move || {
        let _stopping = stopping;
        while told.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
            match view.refresh() {
                Ok(changed) if !changed.is_empty() => tree.changed(),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "new snapshots cannot be looked for"),
            }
        }
    });
    Refresher { stop, stopped, thread }
}

impl Mount {
    /// Where it is.
    pub fn spot(&self) -> &Spot {
        &self.spot
    }

    /// Waits until Ctrl-C, a closed window, a sign-out or `unmount` in another program asks for the end, and unmounts.
    ///
    /// # Errors
    /// The system's, if it does not say when the window is closed.
    pub fn wait(self) -> std::io::Result<()> {
        let (console, until_done) = ffi::watch_console()?;
        let over = Arc::new(Event::new(None)?);
        let told = Arc::clone(&over);
        let listener = std::thread::spawn(move || {
            let _ = console.recv();
            told.set();
        });
        self.asked.wait_or(&over);
        drop(self);
        drop(until_done);
        // It ends with the program, unless the console has told it.
        drop(listener);
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // First those who wait in threads of WinFsp, then those who wait elsewhere: the library waits for all of them.
        drop(self.until_end.take());
        self.tasks.end();
        if let Some(mut host) = self.host.take() {
            host.unmount();
            host.stop();
        }
        let Some(Refresher { stop, stopped, thread }) = self.refresher.take() else { return };
        drop(stop);
        if stopped.recv_timeout(STOP_WITHIN) == Err(RecvTimeoutError::Disconnected) {
            let _ = thread.join();
        }
    }
}

/// Asks the program of a drive to unmount it. Whether there was one.
pub fn unmount(spot: &Spot) -> bool {
    let other = Event::of_other(&event_name(spot));
    if let Some(other) = &other {
        other.set();
    }
    other.is_some()
}

/// Whether one of this user's drives is there.
pub fn is_mounted(spot: &Spot) -> bool {
    Event::of_other(&event_name(spot)).is_some()
}

/// Drive letters on which this user's drives are.
pub fn list() -> Vec<Spot> {
    ('A'..='Z').map(Spot::Letter).filter(is_mounted).collect()
}
