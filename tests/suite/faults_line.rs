//! The drive over a line that fails: the program, mounted for real, with a WebDAV server behind the fault proxy.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use fs_core::time::{Clock as _, SystemClock};
use rustix::io::Errno;
use tests::dav::DavServer;
use tests::driven::{Drive, Driven, Verdict, compare, forget, is_long};
use tests::proxy::{Proxy, Refusal};
use tests::{look, noise};

/// How soon a drive works again when its line does: a call that finds out may have begun just now.
const RECOVERS_WITHIN: Duration = Duration::from_secs(15);
/// The promise for every call, and what a busy machine may add.
const CALL_WITHIN: Duration = Duration::from_secs(30 + 10);
/// The promise for taking a drive away, and what a busy machine may add.
const UNMOUNT_WITHIN: Duration = Duration::from_secs(2 + 3);
/// Bytes in one call of a reader: no divisor of the chunks.
const PIECE: usize = 100_000;

/// A repository behind a line. The line is dropped first.
struct Remote {
    driven: Driven,
    line: Proxy,
    _server: DavServer,
    _store: tempfile::TempDir,
}

impl Remote {
    fn new() -> Self {
        let store = tempfile::tempdir().unwrap();
        let server = DavServer::start(store.path()).unwrap();
        let line = Proxy::http(server.address()).unwrap();
        let driven = Driven::new(format!("webdav+http://{}/repository", line.address())).unwrap();
        Self { driven, line, _server: server, _store: store }
    }

    /// Writes files of noise into the source: names and lengths.
    fn write(&self, files: &[(&str, usize)]) {
        for (number, (name, length)) in files.iter().enumerate() {
            let path = self.driven.source().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            // The length is in the seed, so that no file begins as another does and is saved already.
            std::fs::write(path, noise((number + length) as u64, *length)).unwrap();
        }
    }

    /// Reads all files by several threads: what they got. Wrong bytes end the test.
    fn read_all(&self, drive: &Drive) -> Verdict {
        let files: Vec<(PathBuf, Vec<u8>)> = look(&self.driven.source())
            .unwrap()
            .into_iter()
            .filter(|(_, seen)| seen.links > 0)
            .map(|(path, seen)| (path, seen.bytes))
            .collect();
        let next = std::sync::atomic::AtomicUsize::new(0);
        let read = || {
            let mut sum = Verdict::default();
            while let Some((path, bytes)) = files.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                match std::fs::metadata(drive.shown.join(path)) {
                    Ok(_) => {
                        let verdict = compare(&drive.shown.join(path), bytes, PIECE).unwrap();
                        (sum.right, sum.failed) = (sum.right + verdict.right, sum.failed + verdict.failed);
                    }
                    Err(error) => {
                        assert_ne!(error.kind(), std::io::ErrorKind::NotFound, "{}: an error is never 'not there'", path.display());
                        sum.failed += 1;
                    }
                }
            }
            sum
        };
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..4).map(|_| scope.spawn(read)).collect();
            readers
                .into_iter()
                .map(|reader| reader.join().unwrap())
                .fold(Verdict::default(), |sum, verdict| Verdict { right: sum.right + verdict.right, failed: sum.failed + verdict.failed })
        })
    }
}

/// What somebody does in a thread of its own, because it may never return.
struct Apart<T> {
    began: Duration,
    result: Receiver<T>,
}

fn apart<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> Apart<T> {
    let (done, result) = channel();
    std::thread::spawn(move || drop(done.send(what())));
    Apart { began: SystemClock.elapsed(), result }
}

impl<T> Apart<T> {
    /// The result, if it is there so long after the beginning.
    fn within(&self, limit: Duration, what: &str) -> T {
        let left = (self.began + limit).saturating_sub(SystemClock.elapsed());
        self.result.recv_timeout(left).unwrap_or_else(|_| panic!("{what} takes longer than {limit:?}"))
    }
}

fn number(error: &std::io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw_os_error)
}

fn read_to_end(path: &Path) -> std::io::Result<usize> {
    std::fs::read(path).map(|bytes| bytes.len())
}

#[test]
fn a_silent_line_ends_every_call_and_everything_reads_when_it_speaks_again() {
    let remote = Remote::new();
    remote.write(&[("known/read", 700_000), ("known/unread", 700_001), ("unlisted/file", 300_000), ("unknown/deep/file", 9)]);
    remote.driven.save().unwrap();
    let drive = remote.driven.mount("drive", &[]).unwrap();
    let other = remote.driven.mount("other", &[]).unwrap();
    let shown = |name: &str| drive.shown.join(name);
    assert_eq!(std::fs::read(shown("known/read")).unwrap(), std::fs::read(remote.driven.source().join("known/read")).unwrap());
    let open = std::fs::File::open(shown("known/unread")).unwrap();
    remote.line.freeze();

    let (unlisted, unknown, unread, top) = (shown("unlisted"), shown("unknown/deep/file"), shown("known/unread"), drive.path.clone());
    let waits: Vec<(&str, Apart<std::io::Result<usize>>)> = vec![
        ("readdir", apart(move || std::fs::read_dir(unlisted)?.try_fold(0, |count, item| item.map(|_| count + 1)))),
        ("stat", apart(move || unknown.metadata().map(|metadata| metadata.len() as usize))),
        ("open and read", apart(move || read_to_end(&unread))),
        ("read at the end", apart(move || std::os::unix::fs::FileExt::read_at(&open, &mut [0; 1000], 600_000))),
        ("statfs", apart(move || Ok(rustix::fs::statvfs(&top).map(|told| told.f_blocks as usize)?))),
    ];
    // What was read before is there, whether the kernel has it or must ask.
    let (read, expected) = (shown("known/read"), std::fs::read(remote.driven.source().join("known/read")).unwrap());
    forget(&read).unwrap();
    let before = apart(move || std::fs::read(read).map(|bytes| bytes == expected));
    assert!(before.within(CALL_WITHIN, "reading again").unwrap());

    // Another drive is taken away meanwhile, with a reader that waits.
    let waiting = other.shown.join("unlisted/file");
    let reader = apart(move || read_to_end(&waiting));
    let mut unmount = remote.driven.command(&["unmount", "--lazy", "other"]);
    let unmounted = apart(move || unmount.output().unwrap());
    let output = unmounted.within(UNMOUNT_WITHIN, "unmounting");
    assert!(output.status.success() && !other.is_mounted(), "{}", String::from_utf8_lossy(&output.stderr));

    for (call, result) in waits {
        match result.within(CALL_WITHIN, call) {
            Ok(_) if call == "statfs" => {}
            // What the drive has fetched ahead it may show.
            Ok(count) => assert!(count > 0, "{call} shows nothing"),
            Err(error) => assert!(matches!(number(&error), Some(Errno::IO | Errno::TIMEDOUT)), "{call}: {error}"),
        }
    }
    let left = reader.within(CALL_WITHIN, "reading from a drive that is gone");
    assert!(left.is_err(), "{left:?}");

    remote.line.open();
    // For a few seconds after a deadline nothing is asked of the store.
    let back = SystemClock.elapsed();
    while remote.read_all(&drive).failed > 0 {
        assert!(SystemClock.elapsed() - back < RECOVERS_WITHIN, "without a new mount");
    }
    assert_eq!(std::fs::read_dir(shown("unlisted")).unwrap().count(), 1);
}

#[test]
fn a_drive_that_nobody_uses_is_taken_away_at_once_while_the_line_is_silent() {
    let remote = Remote::new();
    remote.write(&[("file", 10_000)]);
    remote.driven.save().unwrap();
    let drive = remote.driven.mount("drive", &[]).unwrap();
    remote.line.freeze();
    let mut unmount = remote.driven.command(&["unmount", "drive"]);
    let unmounted = apart(move || unmount.output().unwrap());
    let output = unmounted.within(UNMOUNT_WITHIN, "unmounting");
    assert!(output.status.success() && !drive.is_mounted(), "{}", String::from_utf8_lossy(&output.stderr));
    let ended = apart(move || drive.ended().unwrap());
    assert!(ended.within(UNMOUNT_WITHIN, "the end of its program"), "it ended well");
}

/// Reads through so many cuts, a new mount for every round, so that nothing is remembered.
fn read_through_cuts(remote: &Remote, seed: u64, cuts: u64, every: std::ops::Range<u64>) {
    let mut sum = Verdict::default();
    let mut round = 0;
    while remote.line.counts().cuts < cuts {
        let drive = remote.driven.mount("drive", &[]).unwrap();
        let before = remote.line.counts().cuts;
        remote.line.cut_every(every.clone(), seed + round, cuts - before);
        let verdict = remote.read_all(&drive);
        remote.line.cut_every(0..1, seed, 0);
        assert!(remote.line.counts().cuts > before, "a round without a cut proves nothing: {verdict:?}");
        (sum.right, sum.failed) = (sum.right + verdict.right, sum.failed + verdict.failed);
        let after = remote.read_all(&drive);
        assert_eq!(after.failed, 0, "round {round} of seed {seed}: what failed reads when the line is whole");
        round += 1;
    }
    assert!(sum.right > 0, "{cuts} cuts of seed {seed} in {round} rounds: {sum:?}");
}

#[test]
fn cuts_never_change_a_byte() {
    let remote = Remote::new();
    let names: Vec<String> = (0..60).map(|number| format!("folder-{}/file-{number}", number % 7)).collect();
    let files: Vec<_> = names.iter().enumerate().map(|(number, name)| (&**name, 1 + number * number * 500)).collect();
    remote.write(&files);
    remote.write(&[("large", 9_000_001)]);
    remote.driven.save().unwrap();
    let cuts = if is_long() { 1000 } else { 50 };
    read_through_cuts(&remote, 11, cuts, 1_000..1_500_000);
}

#[test]
fn answers_that_get_lost_never_change_a_byte() {
    let remote = Remote::new();
    remote.write(&[("one", 3_000_000), ("two", 2_000_000), ("folder/three", 70_000), ("folder/four", 5_000)]);
    remote.driven.save().unwrap();
    let drive = remote.driven.mount("drive", &[]).unwrap();
    remote.line.lose_replies(0.4);
    let verdict = remote.read_all(&drive);
    assert!(remote.line.counts().lost > 0, "{verdict:?}");
    remote.line.lose_replies(0.0);
    assert_eq!(remote.read_all(&drive).failed, 0);
}

/// A server that has too much to do: reading takes longer and succeeds.
fn reads_through_refusals(status: u16, retry_after_s: u32, share: f64) {
    let remote = Remote::new();
    remote.write(&[("one", 2_000_000), ("two", 1_000_000), ("folder/three", 70_000), ("folder/four", 5_000)]);
    remote.driven.save().unwrap();
    let drive = remote.driven.mount("drive", &[]).unwrap();
    remote.line.refuse(Some(Refusal { status, retry_after_s, share }));
    let verdict = remote.read_all(&drive);
    assert!(remote.line.counts().refused > 0, "a storm that refused nothing proves nothing");
    assert_eq!(verdict.failed, 0, "{verdict:?}, {:?}", remote.line.counts());
}

#[test]
fn reading_succeeds_while_a_busy_server_answers_503() {
    reads_through_refusals(503, 0, 0.3);
}

#[test]
fn reading_succeeds_while_a_server_asks_for_patience_with_429() {
    reads_through_refusals(429, 1, 0.3);
}

#[test]
fn a_backup_over_a_bad_line_says_the_truth() {
    let remote = Remote::new();
    remote.write(&[("first", 400_000)]);
    remote.driven.save().unwrap();
    type Fault<'a> = (&'a str, &'a dyn Fn(&Proxy));
    let faults: [Fault<'_>; 5] = [
        ("few answers lost", &|line| line.lose_replies(0.03)),
        ("many answers lost", &|line| line.lose_replies(0.4)),
        ("refusals", &|line| line.refuse(Some(Refusal { status: 503, retry_after_s: 0, share: 0.1 }))),
        ("cuts", &|line| line.cut_every(1..4_000, 21, 10)),
        ("one cut", &|line| line.cut_every(6_000..6_001, 22, 1)),
    ];
    let check = || remote.driven.run(&["--key-file", "key", "check", "--read-data"]).unwrap();
    for (number, (fault, begin)) in faults.iter().enumerate() {
        let name = format!("new-{number}");
        remote.write(&[(&name, 300_000 + number), (&format!("folder/{name}"), 1_000)]);
        begin(&remote.line);
        let saved = remote.driven.run(&["--key-file", "key", "backup", "source"]);
        remote.line.lose_replies(0.0);
        remote.line.refuse(None);
        remote.line.cut_every(0..1, 0, 0);
        check();
        if saved.is_err() {
            // It says so, harms nothing, and the next run completes it.
            remote.driven.run(&["--key-file", "key", "backup", "source"]).unwrap();
            check();
        }
        let drive = remote.driven.mount("drive", &[]).unwrap();
        assert_eq!(remote.read_all(&drive).failed, 0, "{fault}");
        assert!(drive.shown.join(&name).exists(), "{fault}: a backup that says it succeeded has saved what was there");
    }
    let counts = remote.line.counts();
    assert!(counts.lost > 0 && counts.refused > 0 && counts.cuts > 0, "{counts:?}");
}
