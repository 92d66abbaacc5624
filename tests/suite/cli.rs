//! The program as a black box.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tests::{look, noise};

/// The program, built beside the tests by `tests/run`.
fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    tests.parent().unwrap().parent().unwrap().join("yesterdrive")
}

struct Shell {
    place: tempfile::TempDir,
}

impl Shell {
    fn new() -> Self {
        Self { place: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program());
        command.env_clear().env("HOME", self.place.path()).env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").current_dir(self.place.path());
        command.args(["--repository", "repository", "--key-file", "key"]).args(arguments);
        command.stdin(std::process::Stdio::null()).output().expect("tests/run builds the program first")
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn fails(&self, arguments: &[&str], code: i32, says: &str) {
        let output = self.run(arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        assert!(message.contains(says), "{arguments:?}: {message}");
        assert!(!message.contains("panicked"), "{message}");
    }

    fn with_backup(source: &[(&str, &[u8])]) -> Self {
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

fn source_in(shell: &Shell, folder: &Path) -> PathBuf {
    folder.join(shell.path("source").strip_prefix("/").unwrap())
}

#[test]
fn from_init_to_restore() {
    let shell = Shell::with_backup(&[("letter.txt", b"dear all"), ("large", &noise(1, 500_000))]);
    let listed = shell.ok(&["snapshots", "--json"]);
    let snapshot: serde_json::Value = serde_json::from_str(listed.trim()).unwrap();
    assert_eq!((&snapshot["sealed"], &snapshot["files"], &snapshot["tags"][0]), (&true.into(), &2.into(), &"first".into()));
    let path = shell.path("source/letter.txt");
    assert_eq!(shell.ok(&["cat", "latest", path.to_str().unwrap()]), "dear all");
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
    let code: Vec<_> = words.windows(2).filter(|pair| numbered(&pair[0])).map(|pair| pair[1]).collect();
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
    shell.fails(&["--repository", "s3://bucket/x", "snapshots"], 2, "folders only");
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
    let listed = shell.ok(&["ls", "latest", "/proc", "--set", "odd", "-R", "--json"]);
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
    command.env_clear().current_dir(shell.place.path()).args(["-r", "repository", "--key-file", "key", "cat", "latest"]).arg(&letter);
    let output = command.stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    shell.fails(&["--password-from-environment", "x", "snapshots"], 2, "unexpected argument");
}
