//! A disk of our own under the real program: a small file system in memory that knows what would be left if the power went now (`contents.rs`),
//! numbers everything that changes it, and fails at whichever step a test wants (`serve.rs` is the kernel's side).
//!
//! ```text
//! let disk = Disk::mount(path, Contents::new())?;      // run the program on it
//! disk.set(Trouble::PowerCut { at: 7 });               // from the seventh step on nothing works any more
//! let left = disk.power_loss(Survivors::Nothing)?;     // unmounts; mount what is left again
//! ```
//! The kernel remembers neither names nor attributes of it, and writes through: what a program does is what the disk sees, in that order.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use fuser::{BackgroundSession, Config, Errno, INodeNo, MountOption};
use mount_linux::mounts;

mod contents;
mod serve;

pub use contents::{Contents, Survivors};

/// What goes wrong. Steps are counted from 1, from when it was set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Trouble {
    /// Nothing.
    #[default]
    None,
    /// The power goes at this step, which is not done any more: every call fails from then on.
    PowerCut {
        /// The step.
        at: usize,
    },
    /// This step fails with an input/output error, and only this one. If it is a sync, what it should have written is lost silently.
    Failing {
        /// The step.
        at: usize,
    },
    /// There is no room from this step on: what needs some fails.
    Full {
        /// The first such step.
        from: usize,
        /// The first step after somebody has made room.
        to: usize,
    },
}

/// Something that changes a disk, or makes a change durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A new file, directory or symbolic link.
    Create,
    /// Bytes of a file.
    Write,
    /// Length, mode, owner or times.
    Change,
    /// A second name.
    Link,
    /// Another name.
    Rename,
    /// A name goes.
    Remove,
    /// The bytes of a file become durable.
    SyncFile,
    /// The names in a directory become durable.
    SyncFolder,
}

/// Which ways to give a file its final name the file system knows beside the plain rename.
#[derive(Clone, Copy, Debug)]
pub struct Ways {
    /// A rename that replaces nothing.
    pub rename_exclusively: bool,
    /// Hard links.
    pub link: bool,
}

impl Default for Ways {
    fn default() -> Self {
        Self { rename_exclusively: true, link: true }
    }
}

/// A mounted disk, unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    state: Arc<Mutex<State>>,
    session: Option<BackgroundSession>,
}

#[derive(Debug, Default)]
struct State {
    contents: Contents,
    trouble: Trouble,
    steps: Vec<Step>,
    is_cut: bool,
    ways: Ways,
    behind: Duration,
}

impl Disk {
    /// Mounts a disk on a directory, which is made if it is missing.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn mount(path: &Path, contents: Contents) -> Result<Self> {
        std::fs::create_dir_all(path)?;
        let state = Arc::new(Mutex::new(State { contents, ..State::default() }));
        let mut config = Config::default();
        config.mount_options =
            vec![MountOption::FSName("disk".into()), MountOption::NoDev, MountOption::NoSuid, MountOption::DefaultPermissions];
        let session = fuser::spawn_mount(serve::Server::new(Arc::clone(&state)), path, &config)?;
        Ok(Self { path: path.canonicalize()?, state, session: Some(session) })
    }

    /// Something on it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What goes wrong from now on. Counting begins anew.
    pub fn set(&self, trouble: Trouble) {
        let mut state = lock(&self.state);
        (state.trouble, state.is_cut) = (trouble, false);
        state.steps.clear();
    }

    /// The steps since, also those that failed. Without power there are none.
    pub fn steps(&self) -> Vec<Step> {
        lock(&self.state).steps.clone()
    }

    /// What this file system knows.
    pub fn set_ways(&self, ways: Ways) {
        lock(&self.state).ways = ways;
    }

    /// Sets the clock that gives files their times so far behind.
    pub fn set_clock_behind(&self, by: Duration) {
        lock(&self.state).behind = by;
    }

    /// What is on it now, as programs see it.
    pub fn contents(&self) -> Contents {
        lock(&self.state).contents.clone()
    }

    /// What is found after the power went now. The disk is unmounted.
    pub fn power_loss(self, survivors: Survivors) -> Contents {
        self.contents().after_power_loss(survivors)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let is_unmounted = mounts::unmount(&self.path, false).is_ok();
        if let Some(session) = self.session.take().filter(|_| is_unmounted) {
            let _ = session.join();
        }
        if !is_unmounted {
            // A test that failed may have something open: nobody waits for that.
            let _ = mounts::unmount(&self.path, true);
        }
    }
}

impl State {
    /// Counts a step and says whether it is done, which is decided before anything else is looked at.
    fn begin(&mut self, step: Step) -> Result<(), Errno> {
        self.look()?;
        self.steps.push(step);
        let (number, needs_room) = (self.steps.len(), matches!(step, Step::Create | Step::Write | Step::Link | Step::Rename));
        match self.trouble {
            Trouble::PowerCut { at } if number >= at => {
                self.is_cut = true;
                Err(Errno::EIO)
            }
            Trouble::Failing { at } if number == at => Err(Errno::EIO),
            Trouble::Full { from, to } if needs_room && (from..to).contains(&number) => Err(Errno::ENOSPC),
            _ => Ok(()),
        }
    }

    /// Without power nothing can be seen either.
    fn look(&self) -> Result<(), Errno> {
        if self.is_cut { Err(Errno::EIO) } else { Ok(()) }
    }

    fn touch(&mut self, number: INodeNo) {
        let now = self.now();
        if let Some(node) = self.contents.node_mut(number.0) {
            node.modified = now;
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a file system gives files the system's time")]
    fn now(&self) -> SystemTime {
        SystemTime::now() - self.behind
    }
}

/// A test that panicked with the lock in its hand has failed anyway.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
