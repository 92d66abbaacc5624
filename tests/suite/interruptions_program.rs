//! The program, killed, interrupted, on a line that is cut: what it leaves, and what its next run sends.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fs_core::crypto::RandomSource as _;
use fs_core::key::slot::{Credential, key_file_text};
use fs_core::storage::local::LocalStore;
use fs_core::testing::SeededRandom;
use fs_core::time::{Clock as _, SystemClock, Zone};
use rustix::process::{Pid, Signal, kill_process};
use tests::dav::DavServer;
use tests::driven::{is_long, seed};
use tests::proxy::Proxy;
use tests::{Bench, look, noise};

use super::interruptions::{FILE_LENGTH, OVERHEAD, PACK, fill, packs, stored, unindexed};

/// The program with a repository of small packs that it shares with a bench.
struct Machine {
    folder: tempfile::TempDir,
    bench: Bench,
    address: String,
}

impl Machine {
    /// The repository lies in a folder; the program finds it there, or at another address.
    fn new(files: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fill(&folder.path().join("source"), files);
        let repository = folder.path().join("served/repository");
        std::fs::create_dir_all(&repository).unwrap();
        let store = LocalStore::create(&repository).unwrap();
        let bench = Bench::new(Arc::new(store)).unwrap().with_small_packs().unwrap();
        let Credential::KeyFile(key) = &bench.credential else { panic!("a bench has a key file") };
        std::fs::write(folder.path().join("key"), &*key_file_text(key)).unwrap();
        Self { address: repository.to_str().unwrap().into(), folder, bench }
    }

    /// Its files are old enough to be taken for unchanged later on: that takes more than two seconds.
    fn settled(files: usize) -> Self {
        let machine = Self::new(files);
        let (_never, said) = std::sync::mpsc::channel::<()>();
        let _ = said.recv_timeout(Duration::from_millis(2100));
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(tests::program());
        command.env_clear().env("HOME", self.folder.path()).env("PATH", "/usr/bin:/bin").current_dir(self.folder.path());
        command.args(["--repository", &self.address, "--key-file", "key"]).args(arguments).stdin(Stdio::null());
        command
    }

    fn begin(&self, arguments: &[&str]) -> Running {
        Running(Some(
            self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("tests/run builds the program first"),
        ))
    }

    /// Data packs in the repository.
    fn pack_count(&self) -> usize {
        let folders = std::fs::read_dir(self.path("served/repository/pack")).into_iter().flatten().flatten();
        let files = folders.flat_map(|folder| std::fs::read_dir(folder.path()).into_iter().flatten().flatten());
        files.filter(|file| !file.file_name().to_string_lossy().starts_with(".tmp")).count()
    }

    /// Bytes of what was being put when somebody died.
    fn torn_bytes(&self) -> u64 {
        let seen = look(&self.path("served/repository")).unwrap();
        let is_torn = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".tmp"));
        seen.into_iter().filter(|(path, _)| is_torn(path)).map(|(_, seen)| seen.bytes.len() as u64).sum()
    }

    /// Runs on until so many packs are there, or it is over.
    fn until(&self, running: &mut Running, packs: usize) {
        while self.pack_count() < packs && running.child().try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
    }

    /// The next run ends well: its report. Everything comes back.
    fn completes(&self) -> serde_json::Value {
        let output = self.command(&["backup", "source", "--json"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(output.stdout.split(|byte| *byte == b'\n').next().unwrap()).unwrap();
        let checked = self.command(&["check", "--read-data"]).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        let restored =
            self.command(&["restore", &format!("latest:{}", self.path("source").display()), "--to", "restored"]).output().unwrap();
        assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
        assert_eq!(look(&self.path("source")).unwrap(), look(&self.path("restored")).unwrap());
        report
    }
}

/// The program at work, killed when dropped.
struct Running(Option<Child>);

impl Running {
    fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    fn signal(&mut self, signal: Signal) {
        let id = i32::try_from(self.child().id()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    /// The same for one that may have ended.
    fn signal_if_there(&mut self, signal: Signal) {
        if self.child().try_wait().unwrap().is_none() {
            self.signal(signal);
        }
    }

    fn output(mut self) -> (Option<i32>, String) {
        let Output { status, stderr, .. } = self.0.take().unwrap().wait_with_output().unwrap();
        (status.code(), String::from_utf8(stderr).unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// How many files a run took over from what an earlier one had put.
fn files_not_read(report: &serde_json::Value) -> u64 {
    let number = |name: &str| report[name].as_u64().unwrap();
    (number("bytes") - number("read_bytes")) / FILE_LENGTH as u64
}

#[test]
fn a_killed_program_has_sent_at_most_two_packs_in_vain() {
    for packs_before in [1, 9, 20] {
        let machine = Machine::settled(300);
        let mut running = machine.begin(&["backup", "source"]);
        machine.until(&mut running, packs_before);
        running.signal(Signal::KILL);
        assert_eq!(running.output().0, None, "it was at work");
        let torn = machine.torn_bytes();
        assert!(torn <= 2 * (PACK + PACK / 16), "{torn}");
        let report = machine.completes();
        let (all, twice) = packs(&machine.bench);
        assert_eq!(twice, 0, "{report}");
        assert!(all < stored(300), "{all}");
        if packs_before == 20 {
            assert!(files_not_read(&report) >= 80, "most files that were saved are not read again: {report}");
        }
    }
}

/// What is killed, in any order. Whatever changes a repository belongs here.
const KILLED: [&[&str]; 3] = [&["backup", "source"], &["forget", "--keep-last", "2", "--yes"], &["forget", "--undo"]];
/// So often the program is killed before somebody looks at everything.
const KILLS_IN_A_ROW: u64 = 5;

/// Whenever it dies, whatever it was doing: nothing is damaged, and the next backup ends well and comes back.
#[test]
fn a_program_that_is_killed_again_and_again_loses_nothing() {
    let machine = Machine::settled(20);
    machine.completes();
    let chance = SeededRandom::shared(seed());
    let below = |limit: u64| {
        let mut bytes = [0; 8];
        chance.fill(&mut bytes);
        u64::from_le_bytes(bytes) % limit
    };
    let (_never, said) = std::sync::mpsc::channel::<()>();
    let mut longest = Duration::from_millis(50);
    let mut killed = 0;
    for n in 1..=if is_long() { 1000 } else { 50 } {
        std::fs::write(machine.path("source/folder-0/changed"), noise(n, FILE_LENGTH * 5)).unwrap();
        let command = KILLED[below(KILLED.len() as u64) as usize];
        let begun = SystemClock.elapsed();
        let mut running = machine.begin(command);
        let moment = Duration::from_micros(below(longest.as_micros() as u64));
        let _ = said.recv_timeout(moment);
        let had_ended = running.child().try_wait().unwrap().is_some();
        running.signal_if_there(Signal::KILL);
        let (code, said) = running.output();
        if had_ended {
            assert_eq!(code, Some(0), "{command:?}: {said}");
            longest = longest.max(SystemClock.elapsed() - begun);
        } else {
            // As long as it always dies, it may be given more time.
            longest += longest / 20;
            killed += 1;
        }
        let checked = machine.command(&["check"]).output().unwrap();
        assert!(checked.status.success(), "kill {n}, {command:?} after {moment:?}: {}", String::from_utf8_lossy(&checked.stderr));
        if n % KILLS_IN_A_ROW == 0 {
            machine.completes();
        }
    }
    println!("{killed} died");
    assert!(killed > 10, "{killed} died");
}

#[test]
fn a_signal_ends_the_program_with_what_was_begun_and_says_so() {
    for signal in [Signal::INT, Signal::TERM] {
        let machine = Machine::settled(300);
        let mut running = machine.begin(&["backup", "source"]);
        machine.until(&mut running, 5);
        running.signal(signal);
        let (code, said) = running.output();
        assert_eq!(code, Some(130), "{said}");
        assert!(said.contains("are kept, the next run goes on from there"), "{said}");
        assert_eq!((unindexed(&machine.bench), machine.torn_bytes()), (0, 0));
        let (kept, _) = packs(&machine.bench);
        let report = machine.completes();
        let (all, twice) = packs(&machine.bench);
        assert_eq!(twice, 0);
        assert!(all < stored(300), "{kept} and then {all}");
        let not_read = files_not_read(&report);
        assert!((not_read + 2) * FILE_LENGTH as u64 + OVERHEAD > kept, "{not_read} files of {kept} bytes are not read again");
    }
}

/// The program with its repository behind a line. The line is dropped first.
struct Remote {
    line: Proxy,
    machine: Machine,
    _server: DavServer,
}

impl Remote {
    fn new(files: usize) -> Self {
        let machine = Machine::new(files);
        let server = DavServer::start(&machine.path("served")).unwrap();
        let line = Proxy::http(server.address()).unwrap();
        let address = format!("webdav+http://{}/repository", line.address());
        Self { machine: Machine { address, ..machine }, line, _server: server }
    }

    fn sent(&self) -> u64 {
        self.line.counts().bytes_up
    }
}

#[test]
fn over_a_line_that_is_cut_at_most_two_packs_are_sent_twice() {
    let files = 200;
    let whole = {
        let remote = Remote::new(files);
        assert!(remote.machine.command(&["backup", "source"]).output().unwrap().status.success());
        remote.sent()
    };
    assert!(whole < stored(files), "{whole}: a run that nobody disturbs sends everything once");
    // The program dies, or the line does and the program says so.
    for (packs_before, is_killed) in [(2, true), (11, true), (7, false)] {
        let remote = Remote::new(files);
        // Slow enough that something is always on its way.
        remote.line.shape(Duration::ZERO, Some(8 << 20));
        let mut running = remote.machine.begin(&["backup", "source"]);
        remote.machine.until(&mut running, packs_before);
        if is_killed {
            running.signal(Signal::KILL);
            assert_eq!(running.output().0, None, "it was at work");
        } else {
            remote.line.cut();
            let (code, said) = running.output();
            assert_eq!(code, Some(5), "{said}");
            remote.line.open();
        }
        remote.line.shape(Duration::ZERO, None);
        assert!(remote.machine.command(&["backup", "source"]).output().unwrap().status.success());
        let sent = remote.sent();
        assert!(sent <= whole + 2 * PACK + OVERHEAD, "{packs_before} packs: {sent} bytes were sent instead of {whole}");
        let (_, twice) = packs(&remote.machine.bench);
        assert_eq!(twice, 0);
        remote.machine.completes();
    }
}

#[test]
fn a_restore_whose_line_is_lost_says_so_and_goes_on_when_it_is_back() {
    let remote = Remote::new(60);
    let machine = &remote.machine;
    assert!(machine.command(&["backup", "source"]).output().unwrap().status.success());
    let arguments = ["restore", &format!("latest:{}", machine.path("source").display()), "--to", "restored", "--cache-size", "0"];
    remote.line.shape(Duration::ZERO, Some(2 << 20));
    let mut running = machine.begin(&arguments);
    while std::fs::read_dir(machine.path("restored")).map_or(0, Iterator::count) < 1 && running.child().try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    remote.line.cut();
    let (code, said) = running.output();
    assert_eq!(code, Some(5), "{said}");
    remote.line.shape(Duration::ZERO, None);
    remote.line.open();
    let output = machine.command(&arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(look(&machine.path("source")).unwrap(), look(&machine.path("restored")).unwrap());
}

#[test]
fn a_second_signal_waits_for_nothing() {
    let remote = Remote::new(60);
    let mut running = remote.machine.begin(&["backup", "source"]);
    remote.machine.until(&mut running, 1);
    remote.line.freeze();
    running.signal(Signal::INT);
    // It says that it has seen the first one.
    let mut errors = running.child().stderr.take().unwrap();
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("once more") {
        let mut byte = [0];
        assert_eq!(std::io::Read::read(&mut errors, &mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&said));
        said.extend(byte);
    }
    let begun = SystemClock.elapsed();
    running.signal(Signal::INT);
    assert_eq!(running.child().wait().unwrap().code(), Some(130));
    assert!(SystemClock.elapsed() - begun < Duration::from_secs(20), "it did not wait for the deadline of the line");
}

#[test]
fn hours_of_pause_are_named_by_flag_and_profile() {
    let machine = Machine::new(1);
    let local = Zone::system().local(SystemClock.now()).unwrap().civil;
    let hour = |ahead: i8| format!("{:02}:00", (local.hour() + ahead) % 24);
    let pause = format!("{}-{}", hour(23), hour(2));
    std::fs::write(machine.path("config.toml"), format!("[default]\npause = [\"{pause}\"]\n")).unwrap();
    for arguments in [&["backup", "source", "--pause", &pause][..], &["--config", "config.toml", "backup", "source"]] {
        let mut running = machine.begin(arguments);
        let mut errors = std::io::BufReader::new(running.child().stderr.take().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut errors, &mut line).unwrap();
        assert!(line.starts_with("paused until ") && line.trim_end().ends_with(&hour(2)), "{line}");
        running.signal(Signal::TERM);
        assert_eq!(running.child().wait().unwrap().code(), Some(130));
    }
    for (hours, says) in [("8-18", "names no hours"), ("00:00-24:00", "all hours of the week")] {
        let output = machine.command(&["backup", "source", "--pause", hours]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains(says), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let elsewhere = format!("{}-{}", hour(6), hour(9));
    assert!(machine.command(&["--config", "config.toml", "backup", "source", "--pause", &elsewhere]).output().unwrap().status.success());
}
