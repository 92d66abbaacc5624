//! Unix.

use std::fs::{Metadata, OpenOptions};
use std::io::IsTerminal as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::Stdio;

pub(crate) use mount_linux::mounts;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Behind everything that runs at the usual 0, but never without any time at all.
const NICENESS: i32 = 10;

/// No core dump and no other program of this user may take keys out of our memory. Best effort: what the system refuses is no reason not to run.
pub(crate) fn keep_secrets_in_memory() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

/// A restore holds many files open; the usual limit of a shell is meant for programs that cannot count so far.
pub(crate) fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const ENOUGH: u64 = 65_536;
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum.map_or(ENOUGH, |maximum| maximum.min(ENOUGH));
    if limit.current.is_some_and(|now| now < current) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: limit.maximum });
    }
}

/// Lowers the priority, unless it is lower already. The system derives the priority of reading from it.
pub(crate) fn yield_to_others() -> std::io::Result<()> {
    let is_lower = rustix::process::getpriority_process(None).is_ok_and(|niceness| niceness >= NICENESS);
    if is_lower { Ok(()) } else { Ok(rustix::process::setpriority_process(None, NICENESS)?) }
}

/// The name of this machine.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Owner and group of who runs this.
pub(crate) fn me() -> (u32, u32) {
    (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw())
}

/// How the terminal is set.
pub(crate) struct Terminal(Termios);

impl Terminal {
    /// How it is set now.
    pub(crate) fn now() -> std::io::Result<Self> {
        Ok(Self(tcgetattr(std::io::stdin())?))
    }

    /// Sets it so again.
    pub(crate) fn restore(&self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Calls something at Ctrl-C, SIGTERM and SIGHUP.
pub(crate) fn on_interrupt(handle: fn()) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    // It waits for as long as the program runs and holds nothing.
    std::thread::spawn(move || signals.forever().for_each(|_| handle()));
    Ok(())
}

/// Standard input once more; `None` if it is a terminal.
pub(crate) fn standard_input() -> std::io::Result<Option<OwnedFd>> {
    let input = std::io::stdin();
    if input.is_terminal() { Ok(None) } else { Ok(Some(input.as_fd().try_clone_to_owned()?)) }
}

/// Standard error for a command to write to.
pub(crate) fn standard_error() -> std::io::Result<Stdio> {
    Ok(std::io::stderr().as_fd().try_clone_to_owned()?.into())
}

/// Makes what is created for its owner only.
pub(crate) fn for_owner_only(options: &mut OpenOptions) {
    options.mode(0o600);
}

/// What makes a file with a secret safe that others can read or change, if they can.
pub(crate) fn is_open_to_others(metadata: &Metadata) -> Option<&'static str> {
    (metadata.is_file() && metadata.mode() & 0o077 != 0).then_some("chmod 600 it")
}

/// The name of a new file has to outlive a power loss too.
pub(crate) fn sync_folder(folder: &Path) -> std::io::Result<()> {
    std::fs::File::open(folder).and_then(|folder| folder.sync_all())
}
