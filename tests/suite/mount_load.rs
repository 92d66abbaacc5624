//! Many readers at once on a drive that the program has mounted, with little memory where it takes an order for that: every byte is compared, while
//! somebody lets the kernel forget the files again and again so that the program is asked again.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use fs_core::crypto::RandomSource as _;
use fs_core::testing::SeededRandom;
use tests::driven::{Drive, Driven, forget, is_long};
use tests::{look, noise};

/// Readers in the program's own kind of thread, and as many processes that map files.
const READERS: u64 = 4;
/// Longest single read: more than a chunk and more than one request of the kernel.
const READ_MAX: u64 = 1_500_000;
/// Between two times that everything is forgotten.
const FORGET_EVERY: Duration = Duration::from_millis(5);
/// Cut points lie at 64 KiB at least and 1 MiB at most, 256 KiB in the mean; pages are 4 KiB.
const EDGES: [usize; 5] = [4096, 64 << 10, 256 << 10, 1 << 20, 3 << 20];

/// Maps files of the drive and of the source and compares random slices: DRIVE SOURCE SEED COUNT, names on standard input.
const MAPPED: &str = r#"
import mmap, random, sys
drive, source, seed, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
random.seed(seed)
names = [name for name in sys.stdin.read().split("\n") if name]
for _ in range(count):
    name = random.choice(names)
    with open(f"{drive}/{name}", "rb") as a, open(f"{source}/{name}", "rb") as b:
        with mmap.mmap(a.fileno(), 0, access=mmap.ACCESS_READ) as x, mmap.mmap(b.fileno(), 0, access=mmap.ACCESS_READ) as y:
            if len(x) != len(y):
                sys.exit(f"{name} has {len(x)} bytes")
            for _ in range(5):
                start = random.randrange(len(y))
                end = min(len(y), start + random.choice([1, 4095, 5000, 70000, 600000]))
                if x[start:end] != y[start:end]:
                    sys.exit(f"{name} differs between {start} and {end}")
"#;

/// A source whose files are hard to get right, and a drive that shows it.
struct Loaded {
    /// Dropped before the folder that it is mounted in.
    drive: Drive,
    driven: Driven,
}

impl Loaded {
    fn new() -> Self {
        let driven = Driven::new("repository").unwrap();
        let source = driven.source();
        let write = |name: &str, bytes: &[u8]| std::fs::write(source.join(name), bytes).unwrap();
        write("empty", b"");
        for size in EDGES.iter().flat_map(|edge| [edge - 1, *edge, edge + 1]) {
            write(&format!("edge-{size}"), &noise(size as u64, size));
        }
        write("noise", &noise(1, 12_000_011));
        let text: Vec<u8> = (0..600_000u32).flat_map(|line| format!("{line} bottles\n").into_bytes()).collect();
        write("text", &text);
        write("zeros", &vec![0; 5_000_000]);
        let sparse = std::fs::File::create(source.join("sparse")).unwrap();
        for (number, offset) in [0u64, 65_530, 1_048_576, 9_999_999, 30_000_000].into_iter().enumerate() {
            sparse.write_all_at(&noise(number as u64, 70_001), offset).unwrap();
        }
        sparse.set_len(40_000_003).unwrap();
        std::fs::create_dir(source.join("small")).unwrap();
        for number in 0..200 {
            write(&format!("small/file-{number}"), &noise(number, 1 + number as usize * 97));
        }
        std::os::unix::fs::symlink("noise", source.join("link")).unwrap();
        // rsync sets no time of a link that was made in the same second.
        let old = rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 5 };
        let times = rustix::fs::Timestamps { last_access: old, last_modification: old };
        rustix::fs::utimensat(rustix::fs::CWD, source.join("link"), &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
        std::fs::hard_link(source.join("text"), source.join("small/hard link")).unwrap();
        driven.save().unwrap();
        let drive = driven.mount("drive", &little_memory(&driven)).unwrap();
        Self { drive, driven }
    }

    /// Regular files that are not empty, by relative path.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let all = look(&self.driven.source()).unwrap().into_iter();
        all.filter(|(_, seen)| seen.mode & 0o170_000 == 0o100_000 && seen.size > 0).map(|(path, seen)| (path, seen.bytes)).collect()
    }

    /// How often the program has read something: the kernel's questions, mostly.
    fn calls(&self) -> u64 {
        let told = std::fs::read_to_string(format!("/proc/{}/io", self.drive.process())).unwrap();
        told.lines().find_map(|line| line.strip_prefix("syscr: ")?.parse().ok()).unwrap()
    }

    /// Does the work while the kernel is made to forget.
    fn forgetting<T>(&self, work: impl FnOnce() -> T) -> T {
        let files: Vec<_> = self.files().into_keys().map(|path| self.drive.shown.join(path)).collect();
        let large = self.drive.shown.join("noise");
        std::fs::read(&large).unwrap();
        let before = self.calls();
        forget(&large).unwrap();
        std::fs::read(&large).unwrap();
        assert!(self.calls() >= before + 5, "12 MB take a few questions, unless the kernel has forgotten nothing");
        let (stop, stopped) = channel::<()>();
        std::thread::scope(|scope| {
            let forgetting = scope.spawn(move || {
                while stopped.recv_timeout(FORGET_EVERY) == Err(RecvTimeoutError::Timeout) {
                    files.iter().for_each(|file| forget(file).unwrap());
                }
            });
            let result = work();
            drop(stop);
            forgetting.join().unwrap();
            result
        })
    }
}

/// The order for a small memory, where the program takes it.
fn little_memory(driven: &Driven) -> Vec<&'static str> {
    let help = driven.run(&["mount", "--help"]).unwrap();
    if help.contains("--memory") { vec!["--memory", "32M"] } else { Vec::new() }
}

/// Reads at random places of random files and compares.
fn read_at_random(shown: &Path, files: &BTreeMap<PathBuf, Vec<u8>>, seed: u64, count: usize) {
    let random = SeededRandom::shared(seed);
    let below = |limit: u64| {
        let mut bytes = [0; 8];
        random.fill(&mut bytes);
        u64::from_le_bytes(bytes) % limit.max(1)
    };
    let open: Vec<_> = files.iter().map(|(path, bytes)| (path, bytes, std::fs::File::open(shown.join(path)).unwrap())).collect();
    let mut buffer = vec![0; READ_MAX as usize];
    for step in 0..count {
        let (path, bytes, file) = &open[below(open.len() as u64) as usize];
        let offset = below(bytes.len() as u64 + 10) as usize;
        // Short ones mostly: a long one among them.
        let length = (if step % 16 == 0 { below(READ_MAX) } else { below(20_000) }) as usize;
        let got =
            file.read_at(&mut buffer[..length], offset as u64).unwrap_or_else(|error| panic!("{} at {offset}: {error}", path.display()));
        let expected = &bytes[offset.min(bytes.len())..(offset + length).min(bytes.len())];
        assert!(buffer[..got] == *expected, "seed {seed}, step {step}: {} differs in {length} bytes at {offset}", path.display());
    }
}

#[test]
fn random_and_mapped_reads_by_many_are_right() {
    let loaded = Loaded::new();
    let files = loaded.files();
    let names: Vec<_> = files.keys().map(|path| path.to_str().unwrap()).collect();
    let (reads, maps) = if is_long() { (200_000, 5_000) } else { (1_500, 40) };
    let (shown, source) = (&loaded.drive.shown, loaded.driven.source());
    loaded.forgetting(|| {
        std::thread::scope(|scope| {
            for seed in 0..READERS {
                let files = &files;
                scope.spawn(move || read_at_random(shown, files, 100 + seed, reads));
            }
            for seed in 0..READERS {
                let (source, names) = (&source, &names);
                scope.spawn(move || {
                    let mut command = Command::new("python3");
                    command.arg("-c").arg(MAPPED).arg(shown).arg(source).args([(200 + seed).to_string(), maps.to_string()]);
                    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
                    std::io::Write::write_all(&mut child.stdin.take().unwrap(), names.join("\n").as_bytes()).unwrap();
                    let output = child.wait_with_output().unwrap();
                    assert!(output.status.success(), "seed {}: {}", 200 + seed, String::from_utf8_lossy(&output.stderr));
                });
            }
        });
    });
}

/// What a shell makes of a line in the saved folder; `$to` is a new folder and `$source` the original.
fn shell(loaded: &Loaded, name: &str, line: &str) -> (String, PathBuf) {
    let to = loaded.driven.path(name);
    std::fs::create_dir(&to).unwrap();
    let mut command = Command::new("bash");
    command.args(["-c", &format!("set -euo pipefail; {line}")]).current_dir(&loaded.drive.shown);
    command.env("to", &to).env("source", loaded.driven.source()).env("LC_ALL", "C").stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    (String::from_utf8(output.stdout).unwrap(), to)
}

#[test]
fn tools_that_read_at_the_same_time_copy_what_was_saved() {
    let loaded = Loaded::new();
    let before = look(&loaded.driven.source()).unwrap();
    let copies = [
        ("cp", "cp -a . $to"),
        ("cp-sparse", "cp -a --sparse=always . $to"),
        ("rsync", "rsync -aH --checksum ./ $to"),
        ("tar", "tar --format=posix -cf - . | tar -C $to -xpf -"),
        ("tar-sparse", "tar --format=posix -cSf - . | tar -C $to -xpf -"),
    ];
    let silent = [
        ("rsync-compare", "rsync -aHn --checksum --itemize-changes ./ $source/"),
        ("diff", "diff -r . $source"),
        ("cat", "for f in edge-* noise text sparse; do cat $f | cmp - $source/$f; done"),
        ("dd-odd", "for bs in 511 4097 65537 1000003; do dd if=noise bs=$bs status=none | cmp - $source/noise; done"),
        (
            "dd-skip",
            "for n in 1 7 100; do cmp <(dd if=text bs=7777 skip=$n count=31 status=none) <(dd if=$source/text bs=7777 skip=$n count=31 status=none); done",
        ),
        ("sums", "diff <(find . -type f -exec sha256sum {} + | sort) <(cd $source && find . -type f -exec sha256sum {} + | sort)"),
    ];
    loaded.forgetting(|| {
        std::thread::scope(|scope| {
            let (loaded, before) = (&loaded, &before);
            for (name, line) in copies {
                scope.spawn(move || {
                    let (_, copy) = shell(loaded, name, line);
                    let after = look(&copy).unwrap();
                    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>(), "{line}");
                    for (path, seen) in before {
                        assert!(after[path] == *seen, "{line}: {}: {:?} for {seen:?}", path.display(), after[path]);
                    }
                });
            }
            for (name, line) in silent {
                scope.spawn(move || assert_eq!(shell(loaded, name, line).0, "", "{line}"));
            }
        });
    });
    use std::os::unix::fs::MetadataExt as _;
    let sparse = loaded.driven.path("cp-sparse/sparse").metadata().unwrap();
    assert!(sparse.blocks() * 512 < 2_000_000, "holes are copied as holes");
}
