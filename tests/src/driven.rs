//! The program at work: a folder with a source, a repository somewhere, drives mounted by the program that people run.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use mount_linux::mounts;

/// A folder for one test. Nothing stays mounted under it.
#[derive(Debug)]
pub struct Driven {
    folder: tempfile::TempDir,
    /// The address that the program is given.
    repository: String,
}

/// A drive that the program has mounted, taken away and its program ended when dropped.
#[derive(Debug)]
pub struct Drive {
    /// The mount point.
    pub path: PathBuf,
    /// The newest snapshot of the source, as the drive shows it.
    pub shown: PathBuf,
    child: Child,
}

impl Driven {
    /// A folder with an empty source and no repository yet.
    ///
    /// # Errors
    /// If there is no place for it.
    pub fn new(repository: impl Into<String>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join("source"))?;
        Ok(Self { folder, repository: repository.into() })
    }

    /// Something in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What is saved.
    pub fn source(&self) -> PathBuf {
        self.path("source")
    }

    /// The program with its repository and key, and nothing of the tester's environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(crate::program());
        command.env_clear().env("HOME", self.folder.path()).env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").current_dir(self.folder.path());
        command.stdin(Stdio::null()).args(["--repository", &self.repository]).args(arguments);
        command
    }

    /// Runs the program; what it prints.
    ///
    /// # Errors
    /// If it fails, with what it says.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).output().context("tests/run builds the program first")?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Makes the repository and saves the source.
    ///
    /// # Errors
    /// If the program fails.
    pub fn save(&self) -> Result<()> {
        self.run(&["init", "--new-key-file", "key", "--accept-loss"])?;
        self.run(&["--key-file", "key", "backup", "source"])?;
        Ok(())
    }

    /// Mounts under this name, and waits until the drive is there.
    ///
    /// # Errors
    /// If the program fails.
    pub fn mount(&self, name: &str, options: &[&str]) -> Result<Drive> {
        let path = self.path(name);
        let mut command = self.command(&["--key-file", "key", "mount"]);
        let mut child = command.args(options).arg(&path).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let mut drive = Drive { path, shown: PathBuf::new(), child };
        ensure!(line.starts_with("mounted on"), "nothing is mounted: {line}");
        let host = std::fs::read_dir(drive.path.join("Latest"))?.next().context("the drive shows no host")??.path();
        drive.shown = host.join(self.source().strip_prefix("/")?);
        Ok(drive)
    }
}

impl Drive {
    /// Waits until the program has ended; whether it did well.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn ended(mut self) -> Result<bool> {
        Ok(self.child.wait()?.success())
    }

    /// Whether somebody has taken the drive away.
    pub fn is_mounted(&self) -> bool {
        mounts::list().iter().any(|mount| mount.path == self.path)
    }

    /// The number of its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        if self.is_mounted() {
            let _ = mounts::unmount(&self.path, true);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a reader got for a whole file, read in pieces of this length.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Pieces that were as they should be.
    pub right: u64,
    /// Pieces for which there was an error.
    pub failed: u64,
}

/// Reads a file of the drive in pieces and compares it with the bytes that were saved. An error is no difference.
///
/// # Errors
/// If what is read differs, if there is less of it, or if the file cannot be opened.
pub fn compare(saved: &Path, original: &[u8], piece: usize) -> Result<Verdict> {
    let file = std::fs::File::open(saved).with_context(|| saved.display().to_string())?;
    let (mut verdict, mut buffer) = (Verdict::default(), vec![0; piece]);
    for (number, expected) in original.chunks(piece).enumerate() {
        let offset = number as u64 * piece as u64;
        let part = buffer.get_mut(..expected.len()).unwrap_or_default();
        match std::os::unix::fs::FileExt::read_exact_at(&file, part, offset) {
            Ok(()) => {
                ensure!(part == expected, "{} differs within {piece} bytes at {offset}", saved.display());
                verdict.right += 1;
            }
            Err(error) => {
                // An end before the end is no error of the line.
                ensure!(error.kind() != std::io::ErrorKind::UnexpectedEof, "{} ends at {offset}", saved.display());
                verdict.failed += 1;
            }
        }
    }
    Ok(verdict)
}

/// Lets the kernel forget a file that nobody maps, so that whoever serves it is asked again.
///
/// # Errors
/// If it cannot be opened.
pub fn forget(path: &Path) -> Result<()> {
    let file = std::fs::File::open(path)?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(())
}

/// Whether the tests may take their time: `tests/run --long` says so.
#[expect(clippy::disallowed_methods, reason = "tests/run hands over how long the tests may take")]
pub fn is_long() -> bool {
    std::env::var_os("YESTERDRIVE_TEST_LONG").is_some()
}

/// How long a test goes on that could go on for ever: `tests/run --long MINUTES` says so.
#[expect(clippy::disallowed_methods, reason = "tests/run hands over how long the tests may take")]
pub fn minutes() -> Option<std::time::Duration> {
    let minutes: u64 = std::env::var("YESTERDRIVE_TEST_MINUTES").ok()?.parse().ok()?;
    Some(std::time::Duration::from_secs(60 * minutes))
}

/// Where chance begins in a test: another place in every run, or what `YESTERDRIVE_TEST_SEED` says. It is printed, so that a test that fails can be run
/// again as it was.
#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "whoever runs the tests may say it, and has to know it")]
pub fn seed() -> u64 {
    let given = std::env::var("YESTERDRIVE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0) % 1_000_000);
    println!("seed {seed}; again with YESTERDRIVE_TEST_SEED={seed}");
    seed
}

/// A tenth of all places for a fault, which ones the seed says, or all if there is time.
pub fn places() -> fs_core::testing::simulator::Places {
    use fs_core::testing::simulator::Places;
    if is_long() { Places::All } else { Places::Tenth }
}
