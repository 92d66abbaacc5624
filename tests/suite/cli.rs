//! The program as a black box.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tests::{look, noise};

/// The program, built beside the tests by `tests/run`.
pub(crate) fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    tests.parent().unwrap().parent().unwrap().join("yesterdrive")
}

pub(crate) struct Shell {
    place: tempfile::TempDir,
}

impl Shell {
    pub(crate) fn new() -> Self {
        Self { place: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program());
        command.env_clear().env("HOME", self.place.path()).env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").current_dir(self.place.path());
        command.args(["--repository", "repository", "--key-file", "key"]).args(arguments);
        command.stdin(std::process::Stdio::null()).output().expect("tests/run builds the program first")
    }

    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs the program with so many open files at the most. It must succeed.
    pub(crate) fn with_open_files(&self, count: u32, arguments: &str) {
        let script = format!("ulimit -n {count}; exec {} -r repository --key-file key {arguments}", program().display());
        let mut command = Command::new("bash");
        let output = command.env_clear().env("HOME", self.path(".")).current_dir(self.path(".")).args(["-c", &script]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub(crate) fn fails(&self, arguments: &[&str], code: i32, says: &str) {
        let output = self.run(arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        assert!(message.contains(says), "{arguments:?}: {message}");
        assert!(!message.contains("panicked"), "{message}");
    }

    pub(crate) fn with_backup(source: &[(&str, &[u8])]) -> Self {
        let shell = Self::new();
        std::fs::create_dir(shell.path("source")).unwrap();
        for (name, bytes) in source {
            std::fs::write(shell.path("source").join(name), bytes).unwrap();
        }
        std::fs::remove_file(shell.path("key")).unwrap_or(());
        shell.init();
        shell.ok(&["backup", "source", "--tag", "first"]);
        shell
    }

    fn init(&self) {
        let mut command = Command::new(program());
        command.env_clear().env("HOME", self.place.path()).current_dir(self.place.path());
        let output = command.args(["-r", "repository", "init", "--new-key-file", "key", "--recovery-sheet", "sheet"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

pub(crate) fn source_in(shell: &Shell, folder: &Path) -> PathBuf {
    folder.join(shell.path("source").strip_prefix("/").unwrap())
}

#[test]
fn from_init_to_restore() {
    let shell = Shell::with_backup(&[("letter.txt", b"dear all"), ("large", &noise(1, 500_000))]);
    let listed = shell.ok(&["snapshots", "--json"]);
    let snapshot: serde_json::Value = serde_json::from_str(listed.trim()).unwrap();
    assert_eq!((&snapshot["sealed"], &snapshot["files"], &snapshot["tags"][0]), (&true.into(), &2.into(), &"first".into()));
    let path = shell.path("source/letter.txt");
    let what = format!("latest:{}", path.display());
    assert_eq!(shell.ok(&["cat", &what]), "dear all");
    assert!(shell.ok(&["ls", &what, "--json"]).contains("\"path\":"));
    assert!(shell.ok(&["ls", "-R", "-l"]).contains("letter.txt"));
    shell.ok(&["restore", "latest:/", "--to", "restored", "--verify"]);
    assert_eq!(look(&shell.path("source")).unwrap(), look(&source_in(&shell, &shell.path("restored"))).unwrap());
    assert!(shell.ok(&["check", "--read-data"]).contains("no damage found"));
    assert!(shell.ok(&["restore", "latest:/", "--to", "elsewhere", "--dry-run"]).starts_with("would restore 2 files"));
    assert!(!shell.path("elsewhere").exists());
}

#[test]
fn the_recovery_sheet_alone_opens_the_repository() {
    let shell = Shell::with_backup(&[("a", b"a")]);
    let sheet = std::fs::read_to_string(shell.path("sheet")).unwrap();
    let numbered = |word: &&str| word.len() > 1 && word.ends_with('.') && word.trim_end_matches('.').parse::<u8>().is_ok();
    let words: Vec<_> = sheet.split_whitespace().collect();
    // What to do is numbered too, after them.
    let code: Vec<_> = words.windows(2).filter(|pair| numbered(&pair[0])).map(|pair| pair[1]).take(24).collect();
    assert_eq!(code.len(), 24, "{sheet}");
    std::fs::write(shell.path("words"), code.join(" ")).unwrap();
    let mut command = Command::new(program());
    command.env_clear().current_dir(shell.place.path()).args([
        "-r",
        "repository",
        "--recovery-file",
        "words",
        "restore",
        "latest:/",
        "--to",
        "r",
    ]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read(source_in(&shell, &shell.path("r")).join("a")).unwrap(), b"a");
}

#[test]
fn what_goes_wrong_is_said_with_the_right_exit_code() {
    let shell = Shell::with_backup(&[("a", b"a")]);
    shell.fails(&["backup", "nowhere"], 1, "nowhere");
    shell.fails(&["restore", "latest:/no/such/path", "--to", "r"], 1, "has no /no/such/path");
    shell.fails(&["restore", "ffff:/", "--to", "r"], 1, "no snapshot fits");
    shell.fails(&["check", "--read-data-subset", "5/3"], 2, "1/30");
    shell.fails(&["--repository", "nowhere", "snapshots"], 5, "no folder");
    std::fs::create_dir(shell.path("empty")).unwrap();
    shell.fails(&["--repository", "empty", "snapshots"], 5, "no Yesterdrive repository");
    shell.fails(&["--repository", "ftp://host/x", "snapshots"], 2, "no kind of store");
    std::fs::write(shell.path("wrong"), format!("yesterdrive-key-1:{}\n", "ab".repeat(32))).unwrap();
    shell.fails(&["--key-file", "wrong", "snapshots"], 4, "opens none");
    shell.fails(&["--repository", "repository", "init"], 2, "no password");
    let config = std::fs::read_dir(shell.path("repository/repo")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&config).unwrap();
    bytes[10] = 9;
    std::fs::write(&config, bytes).unwrap();
    shell.fails(&["snapshots"], 1, "newer program");
}

#[test]
fn unreadable_places_are_findings_and_pseudo_file_systems_are_left_out() {
    let shell = Shell::with_backup(&[("a", b"a")]);
    let output = shell.run(&["backup", "/proc/self/attr", "source", "--set", "odd", "--json"]);
    assert!(matches!(output.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&output.stderr));
    let listed = shell.ok(&["ls", "latest:/proc", "--set", "odd", "-R", "--json"]);
    assert!(listed.lines().all(|line| line.contains("\"kind\":\"directory\"")), "nothing of /proc is saved: {listed}");
}

#[test]
fn a_killed_backup_leaves_a_clean_repository_and_its_packs_are_used() {
    let shell = Shell::with_backup(&[("a", b"a")]);
    std::fs::write(shell.path("source/large"), noise(8, 150_000_000)).unwrap();
    let mut command = Command::new(program());
    command.env_clear().env("HOME", shell.place.path()).current_dir(shell.place.path());
    let mut child = command.args(["-r", "repository", "--key-file", "key", "backup", "source"]).spawn().unwrap();
    let packs = || walk(&shell.path("repository/pack"));
    while packs() < 3 && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(shell.ok(&["check"]).contains("no damage found"));
    let listed = shell.ok(&["backup", "source", "--json"]);
    let report: serde_json::Value = serde_json::from_str(listed.lines().last().unwrap()).unwrap();
    let new = report["new_bytes"].as_u64().unwrap();
    assert!(new < 120_000_000, "what was uploaded before the kill is found again: {new}");
    assert!(shell.ok(&["check", "--read-data"]).contains("no damage found"));
}

fn walk(folder: &Path) -> usize {
    let Ok(items) = std::fs::read_dir(folder) else { return 0 };
    items
        .flatten()
        .map(
            |item| {
                if item.path().is_dir() { walk(&item.path()) } else { usize::from(!item.file_name().to_string_lossy().starts_with('.')) }
            },
        )
        .sum()
}

#[test]
fn the_drive_in_the_background() {
    let shell = Shell::with_backup(&[("letter.txt", b"dear all")]);
    let drive = shell.path("drive");
    let output = shell.run(&["mount", "--background", "drive"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let host = std::fs::read_dir(drive.join("Latest")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(std::fs::read(source_in(&shell, &host).join("letter.txt")).unwrap(), b"dear all");
    assert!(shell.ok(&["mounts"]).contains(drive.to_str().unwrap()));
    shell.fails(&["mount", "repository/inside"], 1, "inside one another");
    shell.ok(&["unmount", "drive"]);
    assert!(!drive.join("Latest").exists());
    shell.fails(&["unmount", "drive"], 1, "no drive is mounted");
}

#[test]
fn output_that_is_lost_is_a_failure_and_a_password_is_no_flag() {
    let shell = Shell::with_backup(&[("letter.txt", b"dear all")]);
    let letter = shell.path("source/letter.txt");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(program());
    let what = format!("latest:{}", letter.display());
    command.env_clear().current_dir(shell.place.path()).args(["-r", "repository", "--key-file", "key", "cat", &what]);
    let output = command.stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    shell.fails(&["--password-from-environment", "x", "snapshots"], 2, "unexpected argument");
}

#[test]
fn a_profile_needs_no_other_flag() {
    let shell = Shell::with_backup(&[("letter.txt", b"dear all")]);
    let text = format!(
        "[default]\nrepository = '{0}/repository'\nkey-file = '{0}/key'\n[night]\nrepository = '{0}/repository'\nkey-file = '{0}/key'\npaths = ['{0}/source']\n",
        shell.place.path().display()
    );
    std::fs::create_dir_all(shell.path(".config/yesterdrive")).unwrap();
    std::fs::write(shell.path(".config/yesterdrive/config.toml"), text).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(program());
        command.env_clear().env("HOME", shell.place.path()).current_dir(shell.place.path()).args(arguments);
        let output = command.stdin(std::process::Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, listed, message) = run(&["snapshots"]);
    assert_eq!((code, listed.lines().count()), (Some(0), 1), "{message}");
    let (code, _, message) = run(&["--profile", "night", "backup"]);
    assert_eq!(code, Some(0), "{message}");
    assert!(run(&["snapshots", "--set", "night"]).1.contains("(night)"));
    let (code, _, message) = run(&["--profile", "weekly", "snapshots"]);
    assert_eq!((code, message.contains("there are: default, night")), (Some(2), true), "{message}");
    let (code, _, message) = run(&["backup"]);
    assert_eq!((code, message.contains("nothing to save")), (Some(2), true), "{message}");
}

#[test]
fn secrets_come_through_pipes_and_are_bounded() {
    let shell = Shell::with_backup(&[("letter.txt", b"dear all")]);
    let sh = |script: &str| {
        let mut command = Command::new("bash");
        command.env_clear().env("HOME", shell.place.path()).env("PATH", "/usr/bin:/bin").current_dir(shell.place.path());
        let output = command.arg("-c").arg(script.replace("PROGRAM", program().to_str().unwrap())).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(sh("PROGRAM -r repository --key-file <(cat key) snapshots").0, Some(0));
    let (code, message) = sh("PROGRAM -r repository --key-file /dev/zero snapshots");
    assert_eq!((code, message.contains("too large")), (Some(2), true), "{message}");
    let (code, message) = sh("PROGRAM -r repository --key-file key --password-file key snapshots");
    assert_eq!((code, message.contains("one way")), (Some(2), true), "{message}");
}

#[test]
fn shells_and_packages_get_what_they_need() {
    let shell = Shell::new();
    for (name, telling) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef yesterdrive"),
        ("fish", "complete -c yesterdrive"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        assert!(shell.ok(&["completions", name]).contains(telling), "{name}");
    }
    assert!(shell.ok(&["man"]).contains(".TH yesterdrive 1"));
    shell.ok(&["man", "--all", "pages"]);
    assert!(shell.path("pages/yesterdrive-backup.1").exists());
}

/// Runs a script as root in a mount namespace of its own; `None` where that is not allowed.
pub(crate) fn in_namespace(shell: &Shell, script: &str) -> Option<(Option<i32>, String)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let script = script.replace("PROGRAM", &format!("{} -r store/repository --key-file key", program().display()));
    let mut command = Command::new("unshare");
    command.env_clear().env("HOME", shell.place.path()).env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").current_dir(shell.place.path());
    let output = command.args(["-m", "sh", "-c", &script]).output().unwrap();
    Some((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[test]
fn a_full_disk_and_a_read_only_one_are_said_and_leave_everything_whole() {
    let shell = Shell::new();
    std::fs::create_dir_all(shell.path("source")).unwrap();
    std::fs::create_dir_all(shell.path("store")).unwrap();
    std::fs::write(shell.path("source/first"), noise(1, 1_000_000)).unwrap();
    std::fs::write(shell.path("more"), noise(2, 30_000_000)).unwrap();
    let mounted =
        "mount -t tmpfs -o size=20m none store || exit 99; PROGRAM init --i-accept-loss --new-key-file key >/dev/null || exit 98; ";
    let make = mounted.replace("PROGRAM init", &format!("{} -r store/repository init", program().display()))
        + "PROGRAM backup source >/dev/null || exit 97; ";
    let full = format!(
        "{make} cp more source/more; PROGRAM backup source; code=$?; rm source/more; PROGRAM check --read-data >/dev/null || exit 96; exit $code"
    );
    let Some((code, message)) = in_namespace(&shell, &full) else { return };
    assert_eq!((code, message.contains("full") && message.contains("hint: free some space")), (Some(1), true), "{message}");
    std::fs::remove_file(shell.path("key")).unwrap();
    let read_only = format!(
        "{make} mount -o remount,ro store; echo x > source/new; PROGRAM snapshots >/dev/null || exit 95; PROGRAM backup source; exit $?"
    );
    let (code, message) = in_namespace(&shell, &read_only).unwrap();
    assert_eq!((code, message.contains("write-protected")), (Some(5), true), "{message}");
}

#[test]
fn every_way_of_ending_a_foreground_mount_takes_the_drive_away() {
    let shell = Shell::with_backup(&[("letter.txt", b"dear all")]);
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM, rustix::process::Signal::HUP] {
        let mut command = Command::new(program());
        command.env_clear().env("HOME", shell.place.path()).env("PATH", "/usr/bin:/bin").current_dir(shell.place.path());
        command.args(["-r", "repository", "--key-file", "key", "mount", "drive"]).stdout(std::process::Stdio::piped());
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
        assert!(line.starts_with("mounted on"), "{line}");
        let open = std::fs::File::open(shell.path("drive/.yesterdrive/README.txt")).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        // In use or not: the drive goes at once.
        let gone = || std::fs::read_dir(shell.path("drive")).is_ok_and(|mut items| items.next().is_none());
        let deadline = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec + 20;
        while !gone() {
            assert!(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec < deadline, "{signal:?} leaves the drive");
            std::thread::yield_now();
        }
        drop(open);
        assert_eq!(child.wait().unwrap().code(), Some(0), "{signal:?}");
    }
}

#[test]
fn init_tries_the_store_out_once_and_leaves_nothing_behind() {
    let shell = Shell::new();
    let init = ["init", "--i-accept-loss", "--json", "--new-key-file"];
    let output = shell.run(&[&["--repository", "repository"], &init[..], &["first"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let records: Vec<serde_json::Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 2, "{records:?}");
    assert_eq!((&records[0]["type"], &records[1]["type"]), (&"repository".into(), &"store".into()));
    assert_eq!((&records[1]["create_only"], &records[1]["deletes"]), (&true.into(), &true.into()));
    assert!(records[1]["clock_ahead_s"].as_i64().unwrap().abs() < 30);
    assert_eq!(std::fs::read_dir(shell.path("repository/probe")).unwrap().count(), 0);
    shell.fails(&[&init[..], &["second"]].concat(), 1, "already");
}

#[test]
fn what_is_left_out_is_said_by_flags_files_and_profile() {
    let shell = Shell::with_backup(&[("a.tmp", b""), ("b.bak", b""), ("c", &noise(1, 5000)), ("d", b"d"), ("e.log", b"")]);
    std::fs::write(shell.path("rules"), "# of files\n*.bak\n").unwrap();
    let profile = "[default]\nexclude = ['*.log']\nexclude-larger-than = '4k'\n[bad]\nexclude-older-than = 'soon'\n";
    std::fs::create_dir_all(shell.path(".config/yesterdrive")).unwrap();
    std::fs::write(shell.path(".config/yesterdrive/config.toml"), profile).unwrap();
    let output = shell.run(&["backup", "source", "--exclude", "*.tmp", "--exclude-file", "rules"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    for note in ["'*.bak' (rules:2): 1 file", "'*.tmp' (--exclude): 1 file", "'*.log' (the profile's exclude): 1 file", "too large: 1 file"]
    {
        assert!(said.contains(&format!("note: left out {}{note}", if note.starts_with('t') { "" } else { "by " })), "{said}");
    }
    let listed = shell.ok(&["ls", &format!("latest:{}", shell.path("source").display())]);
    let names = |listed: &str| listed.lines().filter_map(|line| Some(line.rsplit_once('/')?.1.to_owned())).collect::<Vec<_>>();
    assert_eq!(names(&listed), ["d"]);
    shell.ok(&["backup", "source", "--exclude", "*.tmp", "--exclude-larger-than", "1M"]);
    let listed = shell.ok(&["ls", &format!("latest:{}", shell.path("source").display())]);
    assert_eq!(names(&listed), ["b.bak", "c", "d"]);

    std::fs::write(shell.path("rules"), "fine\n[z-a]\n").unwrap();
    shell.fails(&["backup", "source", "--exclude-file", "rules"], 2, "rules:2: '[z-a]' is no pattern");
    shell.fails(&["backup", "source", "--exclude", "[x"], 2, "--exclude: '[x' is no pattern");
    shell.fails(&["backup", "source", "--exclude", "#x"], 2, "fits nothing");
    shell.fails(&["backup", "source", "--exclude-file", "nowhere"], 2, "nowhere");
    shell.fails(&["backup", "source", "--exclude-if-present", "a/b"], 2, "a/b");
    shell.fails(&["backup", "source", "--exclude-larger-than", "big"], 2, "exclude-larger-than big");
    shell.fails(&["--profile", "bad", "backup", "source"], 2, "exclude-older-than soon");
}

#[test]
fn streams_are_named_by_flags_and_profile() {
    let shell = Shell::with_backup(&[("a", b"a")]);
    shell.ok(&["backup", "source", "--command", "echo one", "--name", "one", "--command", "echo two", "--name", "two"]);
    assert_eq!(shell.ok(&["cat", "latest:/stdin/two"]), "two\n");
    shell.fails(&["backup", "--command", "echo"], 2, "1 commands and 0 names");
    shell.fails(&["backup", "--command", "echo", "--name", "a/b"], 2, "without a slash");
    shell.fails(&["backup", "--stdin", "x"], 1, "x is empty");
    shell.fails(&["backup", "--command", "echo why >&2; exit 7", "--name", "x"], 1, "exit status: 7; it said:\nwhy");
    shell.fails(&["backup", "source", "--as", "a", "--as", "b"], 2, "name one for each");
    shell.fails(&["backup", "--device", "source"], 1, "cannot be backed up as a device");
    let profile = "[dump]\ncommands = [{ command = 'echo halfway; echo done', name = 'db', end-mark = 'done' }]\n\
                   [half]\ncommands = [{ command = 'echo halfway', name = 'db', end-mark = 'done' }]\n\
                   [wrong]\ncommands = [{ command = 'echo', name = 'a/b' }]\n";
    std::fs::create_dir_all(shell.path(".config/yesterdrive")).unwrap();
    std::fs::write(shell.path(".config/yesterdrive/config.toml"), profile).unwrap();
    shell.ok(&["--profile", "dump", "backup"]);
    assert_eq!(shell.ok(&["cat", "latest:/stdin/db", "--set", "dump"]), "halfway\ndone\n");
    shell.fails(&["--profile", "half", "backup"], 1, "db does not end with 'done'");
    shell.fails(&["--profile", "wrong", "backup"], 2, "the profile's command 'a/b'");
    assert_eq!(shell.ok(&["snapshots", "--json"]).lines().count(), 3);
}

#[test]
fn hooks_run_around_a_backup_and_know_how_it_ended() {
    let shell = Shell::with_backup(&[("a", b"a")]);
    let after = "echo \"$YESTERDRIVE_HOOK $YESTERDRIVE_RESULT $YESTERDRIVE_EXIT ${YESTERDRIVE_SNAPSHOT:+snapshot} $YESTERDRIVE_FILES $YESTERDRIVE_REPOSITORY\" >> log; echo said";
    let log = || std::fs::read_to_string(shell.path("log")).unwrap_or_default();
    let said = shell.ok(&["backup", "source", "--before", "echo made > source/by-hook", "--after", after, "--json"]);
    assert_eq!((said.lines().count(), log().as_str()), (1, "after done 0 snapshot 2 repository\n"), "{said}");
    shell.fails(
        &["backup", "source", "--before", "exit 4", "--after", after],
        1,
        "before the backup failed: exit status: 4; nothing was saved",
    );
    assert!(log().ends_with("after failed 1   repository\n"), "{}", log());
    shell.fails(&["backup", "nowhere", "--after", after], 1, "nowhere");
    assert!(log().ends_with("after failed 1   repository\n") && log().lines().count() == 3, "{}", log());
    shell.fails(&["backup", "source", "--before", "exit 4", "--before-may-fail", "--after", after], 3, "warning: the command before");
    assert!(log().ends_with("after findings 3 snapshot 2 repository\n"), "{}", log());
    shell.fails(&["backup", "source", "--after", "false"], 3, "warning: the command after the backup failed: exit status: 1");
    assert_eq!(shell.ok(&["snapshots", "--json"]).lines().count(), 4);
}
