//! The Yesterdrive view as a FUSE file system on Linux and macOS.
//!
//! `fuse.rs` translates callbacks, `errno.rs` errors and attributes, `push.rs` gives the kernel what it has not asked for yet, `mounts.rs` knows what is
//! mounted, `ffi.rs` tells the C library what to do with free memory. No policy lives here.

#![deny(unsafe_code)]
#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use fs_core::view::View;
use fuser::{BackgroundSession, Config, INodeNo, MountOption, Notifier, SessionACL};

mod errno;
#[allow(unsafe_code, reason = "the one file that calls the C library")]
mod ffi;
mod fuse;
pub mod mounts;
mod push;

pub use ffi::spare_memory;
use mounts::Mounted;
use push::Pusher;

/// How long unmounting waits for a thread of ours that waits for the store.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// How to mount.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Let other users in, by the permissions and ACLs of the entries. Only root may, unless the system's configuration says otherwise.
    pub allow_other: bool,
    /// How often to look for new snapshots.
    pub refresh_every: Duration,
    /// How far the kernel reads ahead, in KiB, where that may be raised; `None` for its own 128, which is best where the store answers at once.
    pub read_ahead_kib: Option<u32>,
    /// Folders that the mount point must not be in, and that must not be in it: repository, cache.
    pub forbidden: Vec<PathBuf>,
}

/// Why nothing was mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mount point cannot be used.
    #[error("{} cannot be a mount point: {reason}", .path.display())]
    Place {
        /// The mount point.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The system refused.
    #[error("the drive cannot be mounted on {}", .path.display())]
    Refused {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// A mounted drive. Unmounts when dropped.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
    session: Option<BackgroundSession>,
    /// Disconnected when the session has let go of the file system.
    over: Receiver<()>,
    refresher: Option<Refresher>,
    pusher: Arc<Pusher>,
}

/// The thread that looks for new snapshots: told to stop by one channel, it says by the other that it has.
#[derive(Debug)]
struct Refresher {
    stop: Sender<()>,
    stopped: Receiver<()>,
    thread: JoinHandle<()>,
}

/// Mounts a view on an empty folder.
///
/// # Errors
/// [`MountError`].
pub fn mount(view: Arc<View>, path: &Path, options: &MountOptions) -> Result<Mount, MountError> {
    let path = check_place(path, &options.forbidden)?;
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("yesterdrive".into()),
        MountOption::Subtype("yesterdrive".into()),
        MountOption::RO,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
    ];
    if cfg!(target_os = "macos") {
        // The name that Finder shows, and requests as large as ours. Not "noappledouble": it would hide files that were saved.
        config.mount_options.extend(["volname=Yesterdrive", "iosize=1048576"].map(|option| MountOption::CUSTOM(option.into())));
    }
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    // Several threads of one session are reported not to work with macFUSE.
    config.n_threads = Some(if cfg!(target_os = "linux") { 4 } else { 1 });
    config.clone_fd = cfg!(target_os = "linux");
    let (until_over, over) = bounded(0);
    let filesystem = fuse::Drive::new(Arc::clone(&view), options.allow_other, until_over);
    let session = fuser::spawn_mount(filesystem, &path, &config).map_err(|source| MountError::Refused { path: path.clone(), source })?;
    if let Some(read_ahead_kib) = options.read_ahead_kib {
        raise_read_ahead(&path, read_ahead_kib);
    }
    let pusher = Pusher::start(session.notifier());
    view.set_page_cache(Arc::clone(&pusher) as _);
    let refresher = start_refresher(view, session.notifier(), options.refresh_every);
    Ok(Mount { path, over, session: Some(session), refresher: Some(refresher), pusher })
}

fn start_refresher(view: Arc<View>, notifier: Notifier, every: Duration) -> Refresher {
    let (stop, told) = bounded::<()>(0);
    let (stopping, stopped) = bounded::<()>(0);
    let thread = std::thread::spawn(move || {
        let _stopping = stopping;
        while told.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
            match view.refresh() {
                Ok(changed) => changed.into_iter().for_each(|inode| drop(notifier.inval_inode(INodeNo(inode), 0, 0))),
                Err(error) => tracing::warn!(%error, "new snapshots cannot be looked for"),
            }
        }
    });
    Refresher { stop, stopped, thread }
}

impl Mount {
    /// The mount point, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether somebody has unmounted it and nobody uses it any more.
    pub fn is_over(&self) -> bool {
        self.over.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Waits until somebody unmounts it and nobody uses it any more.
    ///
    /// # Errors
    /// The session's.
    pub fn wait(mut self) -> std::io::Result<()> {
        let _ = self.over.recv();
        self.pusher.stop();
        let result = self.end_session();
        self.stop_refresher();
        result
    }

    /// Ends a session that is over or will be. Its own end unmounts what is at the path, whatever that is by then (in 0.18 its check for that says the
    /// opposite): so it is forgotten where another drive has taken the place.
    fn end_session(&mut self) -> std::io::Result<()> {
        let Some(session) = self.session.take() else { return Ok(()) };
        if mounts::list().iter().any(|mount| mount.path == self.path) {
            std::mem::forget(session);
            return Ok(());
        }
        if self.is_over() { session.join() } else { Ok(()) }
    }

    fn stop_refresher(&mut self) {
        let Some(Refresher { stop, stopped, thread }) = self.refresher.take() else { return };
        drop(stop);
        // It may be waiting for a store that does not answer: then it ends by itself when the call does.
        if stopped.recv_timeout(STOP_WITHIN) == Err(RecvTimeoutError::Disconnected) {
            let _ = thread.join();
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.session.is_some()
            && !self.is_over()
            && let Err(error) = mounts::unmount(&self.path, true)
        {
            tracing::warn!(%error, "the drive stays mounted");
        }
        self.pusher.stop();
        if let Err(error) = self.end_session() {
            tracing::debug!(%error, "the session ended badly");
        }
        self.stop_refresher();
    }
}

fn check_place(path: &Path, forbidden: &[PathBuf]) -> Result<PathBuf, MountError> {
    let refuse = |reason: String| MountError::Place { path: path.into(), reason };
    if mounts::is_dead(path) {
        mounts::unmount(path, true).map_err(|error| refuse(format!("a dead mount is there and cannot be removed: {error}")))?;
    }
    if !path.exists() {
        std::fs::create_dir_all(path).map_err(|error| refuse(error.to_string()))?;
    }
    let absolute = path.canonicalize().map_err(|error| refuse(error.to_string()))?;
    for folder in forbidden.iter().filter_map(|folder| folder.canonicalize().ok()) {
        if absolute.starts_with(&folder) || folder.starts_with(&absolute) {
            return Err(refuse(format!("it and {} lie inside one another", folder.display())));
        }
    }
    let mut items = std::fs::read_dir(&absolute).map_err(|error| refuse(error.to_string()))?;
    if items.next().is_some() {
        return Err(refuse("it is not an empty folder".into()));
    }
    Ok(absolute)
}

/// The kernel reads 128 KiB ahead on FUSE; a privileged mounter may raise that. Best effort: our own fetching ahead works without it.
fn raise_read_ahead(path: &Path, kib: u32) {
    if let Some(Mounted { device, .. }) = mounts::list().into_iter().rfind(|mount| mount.path == path) {
        let _ = std::fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), kib.to_string());
    }
}
