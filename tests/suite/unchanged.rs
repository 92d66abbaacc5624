//! Directories in which nothing has changed are taken over whole, and nothing else is.
//!
//! What is taken over without a look must be what a run that reads everything and knows nothing would save: that is compared, down to the id of the root.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backup_writer::backup::{BackupOptions, BackupReport, backup};
use fs_core::crypto::SharedRandom;
use fs_core::observer::{Observer, Silent};
use fs_core::path::TreePath;
use fs_core::report::Stats;
use fs_core::snapshot::Manifest;
use fs_core::storage::WriteStore;
use fs_core::storage::memory::MemoryStore;
use fs_core::testing::{CallKind, CountingStore, Fault, FaultyStore, RecordingStore, Rule, SeededRandom};
use fs_core::tree::Subtree;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use tests::{Bench, noise, options};

/// Notes which directories a run enters.
#[derive(Default)]
pub(crate) struct Watch(pub(crate) Mutex<Vec<String>>);

impl Observer for Watch {
    fn at(&self, path: &TreePath) {
        self.0.lock().unwrap().push(path.to_string());
    }
}

/// A source that is saved again and again by one machine.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) store: MemoryStore,
    pub(crate) bench: Bench,
}

impl Place {
    pub(crate) fn new() -> Self {
        let (folder, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
        fs::create_dir(folder.path().join("source")).unwrap();
        let bench = Bench::new(Arc::new(store.clone()) as Arc<dyn WriteStore>).unwrap();
        Self { folder, store, bench }
    }

    /// One with entries of all kinds.
    pub(crate) fn with_every_kind() -> Self {
        let place = Self::new();
        super::fidelity::every_kind(&place.source());
        place
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.folder.path().join("source")
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn how(&self) -> BackupOptions {
        options(&self.source(), Some(&self.state()))
    }

    /// Saves, and says which directories at or below the source were entered, relative to it.
    pub(crate) fn save_as(&self, how: &BackupOptions) -> (BackupReport, Vec<String>) {
        let watch = Watch::default();
        self.bench.clock.advance(Duration::from_secs(60));
        let report = backup(&self.bench.open().unwrap(), &self.bench.store, how, &watch).unwrap();
        let source = self.source().display().to_string();
        let below = |path: String| path.strip_prefix(&source).map(|rest| rest.trim_start_matches('/').to_owned());
        let mut entered: Vec<_> = watch.0.into_inner().unwrap().into_iter().filter_map(below).collect();
        entered.sort();
        (report, entered)
    }

    pub(crate) fn save(&self) -> (BackupReport, Vec<String>) {
        self.save_as(&self.how())
    }

    fn newest(&self) -> Manifest {
        self.bench.open().unwrap().snapshots().unwrap().last().unwrap().manifest().unwrap()
    }

    /// Whether the newest snapshot is the one that a run makes that reads everything and knows nothing of before.
    pub(crate) fn is_as_read_anew(&self, how: &BackupOptions, what: &str) {
        let saved = self.newest();
        let anew = BackupOptions { host: "control".into(), reread: true, state: None, ..how.clone() };
        self.bench.clock.advance(Duration::from_secs(1));
        backup(&self.bench.open().unwrap(), &self.bench.store, &anew, &Silent).unwrap();
        let anew = self.newest();
        assert_eq!(anew.host, "control");
        assert_eq!(pages(&saved), pages(&anew), "{what}: the trees differ");
        assert_eq!(
            saved.link_table.iter().map(|(at, table)| (at, table.id)).collect::<Vec<_>>(),
            anew.link_table.iter().map(|(at, table)| (at, table.id)).collect::<Vec<_>>(),
            "{what}: the links differ"
        );
        assert_eq!(counts(&saved.stats), counts(&anew.stats), "{what}");
        assert_eq!(saved.attribute_names, anew.attribute_names, "{what}");
    }
}

fn pages(manifest: &Manifest) -> (fs_core::id::RecordId, Subtree) {
    let subtree = manifest.root.subtree.clone().unwrap();
    (subtree.page.unwrap().id, Subtree { page: None, ..subtree })
}

/// What a snapshot has, however it was made.
fn counts(stats: &Stats) -> [u64; 5] {
    [stats.file_count, stats.directory_count, stats.other_count, stats.byte_count, stats.failed_count]
}

/// Waits until the clock of the file system has moved on, so that a change is no part of what was just saved.
pub(crate) fn tick(folder: &Path) {
    let probe = folder.join("probe");
    let now = || {
        fs::write(&probe, "").unwrap();
        probe.metadata().unwrap().modified().unwrap()
    };
    let before = now();
    while now() == before {}
    fs::remove_file(&probe).unwrap();
}

fn set_time(path: &Path, seconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: 5 };
    rustix::fs::utimensat(CWD, path, &Timestamps { last_access: time, last_modification: time }, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

#[test]
fn an_unchanged_tree_is_entered_nowhere_and_nothing_is_read() {
    let place = Place::with_every_kind();
    let (first, entered) = place.save();
    assert_eq!(entered, ["", "deep", "deep/er", "deep/er/and", "deep/er/and/deeper", "empty"]);
    let (second, entered) = place.save();
    assert!(entered.is_empty(), "{entered:?}");
    let Stats { file_count, directory_count, other_count, byte_count, .. } = first.stats;
    let (unchanged_count, unchanged_size) = (file_count, byte_count);
    let expected = Stats { file_count, directory_count, other_count, byte_count, unchanged_count, unchanged_size, ..Stats::default() };
    assert_eq!(second.stats, expected);
    assert!(second.findings.is_empty(), "{:?}", second.findings);
    place.is_as_read_anew(&place.how(), "nothing has changed");
    // And it stays so: what was taken over is taken over again.
    assert!(place.save().1.is_empty());
}

#[test]
fn an_unchanged_tree_costs_a_few_reads_and_a_manifest_and_a_seal() {
    let place = Place::new();
    for n in 0..300 {
        fs::create_dir_all(place.source().join(format!("{n}/a/b"))).unwrap();
        fs::write(place.source().join(format!("{n}/a/b/file")), n.to_string()).unwrap();
    }
    place.save();
    let store = RecordingStore::new(Arc::new(place.store.clone()));
    let counted = CountingStore::new(Arc::clone(&store) as Arc<dyn WriteStore>);
    let bench = Bench { store: Arc::clone(&counted) as Arc<dyn WriteStore>, ..place.bench.clone() };
    backup(&bench.open().unwrap(), &bench.store, &place.how(), &Silent).unwrap();
    assert_eq!(store.places(CallKind::Put).len(), 2, "{:?}", store.places(CallKind::Put));
    // What opens the repository, and the pages of the folders above the source in one piece.
    assert!(counted.counts().get + counted.counts().get_range <= 8, "{:?}", counted.counts());
}

/// Something that changes, and which directories have to be entered for it.
type Change = (&'static str, &'static [&'static str], fn(&Path));

const CHANGES: &[Change] = &[
    ("content", &["", "deep", "deep/er"], |at| fs::write(at.join("deep/er/text"), "other").unwrap()),
    ("content of the same size, with its old time", &["", "deep", "deep/er"], |at| {
        set_time(&at.join("deep/er/text"), 77);
        fs::write(at.join("deep/er/text"), "OTHER").unwrap();
        set_time(&at.join("deep/er/text"), 77);
    }),
    ("a file in the place of another, of its size and time", &["", "deep", "deep/er"], |at| {
        fs::write(at.join("deep/er/new"), "OtHeR").unwrap();
        set_time(&at.join("deep/er/new"), 77);
        fs::rename(at.join("deep/er/new"), at.join("deep/er/text")).unwrap();
    }),
    ("mode of a file", &["", "deep", "deep/er"], |at| {
        fs::set_permissions(at.join("deep/er/text"), fs::Permissions::from_mode(0o611)).unwrap()
    }),
    ("mode of a directory", &["", "deep", "deep/er", "deep/er/and"], |at| {
        fs::set_permissions(at.join("deep/er/and"), fs::Permissions::from_mode(0o711)).unwrap();
    }),
    ("time of a directory", &["", "deep", "deep/er", "deep/er/and"], |at| set_time(&at.join("deep/er/and"), 99)),
    ("time of a file", &["", "deep", "deep/er"], |at| set_time(&at.join("deep/er/text"), 101)),
    ("target of a link", &[""], |at| {
        fs::remove_file(at.join("dangling")).unwrap();
        symlink("../nowhere/\u{e5}", at.join("dangling")).unwrap();
        set_time(&at.join("dangling"), 86_400);
    }),
    ("a hard link of a file elsewhere", &["", "deep", "deep/er", "deep/er/and", "deep/er/and/deeper"], |at| {
        fs::hard_link(at.join("deep/er/and/deeper/twin"), at.join("another")).unwrap();
    }),
    ("that link is gone", &["", "deep", "deep/er", "deep/er/and", "deep/er/and/deeper"], |at| fs::remove_file(at.join("another")).unwrap()),
    ("an attribute of a file", &["", "deep", "deep/er"], |at| {
        rustix::fs::lsetxattr(at.join("deep/er/text"), "user.new", b"value", XattrFlags::empty()).unwrap();
    }),
    ("a long attribute of a directory", &["", "empty"], |at| {
        rustix::fs::lsetxattr(at.join("empty"), "user.long", &noise(8, 900), XattrFlags::empty()).unwrap();
    }),
    ("an access control list", &["", "deep", "deep/er"], |at| {
        rustix::fs::lsetxattr(at.join("deep/er/text"), "system.posix_acl_access", &tests::acl(77), XattrFlags::empty()).unwrap();
    }),
    ("a new file", &["", "empty"], |at| fs::write(at.join("empty/new"), "new").unwrap()),
    ("another name", &["", "empty"], |at| fs::rename(at.join("empty/new"), at.join("empty/newer")).unwrap()),
    ("a file is gone", &["", "empty"], |at| fs::remove_file(at.join("empty/newer")).unwrap()),
    ("a directory in the place of a file", &["", "deep", "deep/er", "deep/er/text"], |at| {
        fs::remove_file(at.join("deep/er/text")).unwrap();
        fs::create_dir(at.join("deep/er/text")).unwrap();
    }),
    ("a pipe in its place", &["", "deep", "deep/er"], |at| {
        fs::remove_dir(at.join("deep/er/text")).unwrap();
        rustix::fs::mknodat(CWD, at.join("deep/er/text"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    }),
    ("a directory moved elsewhere, with all below as it was", &["", "deep", "deep/er", "empty", "empty/and", "empty/and/deeper"], |at| {
        fs::rename(at.join("deep/er/and"), at.join("empty/and")).unwrap();
    }),
];

#[test]
fn every_change_is_seen_and_costs_a_look_at_what_is_above_it_only() {
    let place = Place::with_every_kind();
    place.save();
    for (what, expected, change) in CHANGES {
        tick(place.folder.path());
        change(&place.source());
        let (report, entered) = place.save();
        assert_eq!(entered, *expected, "{what}");
        assert!(report.findings.is_empty(), "{what}: {:?}", report.findings);
        place.is_as_read_anew(&place.how(), what);
        assert!(place.save().1.is_empty(), "{what}: by now it is known");
    }
}

/// Chance with a seed.
struct Chance(SharedRandom);

impl Chance {
    fn below(&self, limit: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        usize::try_from(u64::from_le_bytes(bytes) % limit as u64).unwrap()
    }

    fn of<'a>(&self, all: &'a [PathBuf]) -> &'a Path {
        &all[self.below(all.len())]
    }
}

/// All directories at and below a folder, and all else.
fn everything(folder: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut directories, mut others) = (vec![folder.to_path_buf()], Vec::new());
    let mut at = 0;
    while at < directories.len() {
        let mut names: Vec<_> = fs::read_dir(&directories[at]).unwrap().map(|item| item.unwrap().path()).collect();
        names.sort();
        for path in names {
            (if path.symlink_metadata().unwrap().is_dir() { &mut directories } else { &mut others }).push(path);
        }
        at += 1;
    }
    (directories, others)
}

fn change_something(chance: &Chance, source: &Path) -> String {
    let (directories, others) = everything(source);
    let new = chance.of(&directories).join(format!("n{}", chance.below(40)));
    let (directory, other) = (chance.of(&directories).to_path_buf(), chance.of(&others).to_path_buf());
    let is_file = other.symlink_metadata().unwrap().is_file();
    let kind = chance.below(12);
    match kind {
        0..=2 if !new.exists() => fs::write(&new, noise(kind as u64, chance.below(200))).unwrap(),
        3 if is_file => fs::write(&other, noise(chance.below(99) as u64, other.metadata().unwrap().len() as usize)).unwrap(),
        4 if is_file => fs::write(&other, noise(9, 70_000)).unwrap(),
        5 if others.len() > 5 => fs::remove_file(&other).unwrap(),
        6 => fs::set_permissions(&directory, fs::Permissions::from_mode(0o700 + chance.below(64) as u32)).unwrap(),
        7 if !new.exists() && is_file => fs::hard_link(&other, &new).unwrap(),
        8 if new.symlink_metadata().is_err() => symlink(other.file_name().unwrap(), &new).unwrap(),
        9 => set_time(&other, chance.below(1000) as i64),
        10 if new.symlink_metadata().is_err() => fs::create_dir_all(new.join("a/b")).unwrap(),
        11 if directory != source && new.symlink_metadata().is_err() && !new.starts_with(&directory) => {
            fs::rename(&directory, &new).unwrap()
        }
        _ => {}
    }
    format!("{kind} {} {} {}", new.display(), directory.display(), other.display())
}

#[test]
fn random_trees_after_random_changes_are_saved_as_if_all_were_read() {
    for seed in 1..=3 {
        let (place, chance) = (Place::new(), Chance(SeededRandom::shared(seed)));
        for n in 0..60 {
            let (directories, _) = everything(&place.source());
            let at = chance.of(&directories).join(format!("{n}"));
            if n % 3 == 0 { fs::create_dir(&at).unwrap() } else { fs::write(&at, noise(n, chance.below(3000))).unwrap() }
        }
        place.save();
        for round in 0..25 {
            tick(place.folder.path());
            let changes: Vec<_> = (0..chance.below(4)).map(|_| change_something(&chance, &place.source())).collect();
            let (report, _) = place.save();
            let stats = report.stats;
            assert_eq!(stats.new_count + stats.changed_count + stats.unchanged_count, stats.file_count, "{stats:?}");
            place.is_as_read_anew(&place.how(), &format!("seed {seed}, round {round}: {changes:?}"));
        }
    }
}

#[test]
fn a_lost_pack_of_an_unchanged_directory_is_written_again() {
    for (what, lost, after) in [("contents", "pack/", false), ("trees", "meta/", false), ("contents of one of two packs", "pack/", true)] {
        let place = Place::with_every_kind();
        place.save();
        let gone: Vec<_> =
            place.store.contents().into_iter().map(|(name, _)| name).filter(|name| name.as_str().starts_with(lost)).collect();
        if after {
            fs::write(place.source().join("deep/new"), noise(44, 10_000)).unwrap();
            place.save();
            assert!(place.save().1.is_empty());
        }
        for name in &gone {
            place.store.overwrite(name, None);
        }
        let (_, entered) = place.save();
        assert!(entered.contains(&String::new()), "{what}: {entered:?}");
        place.is_as_read_anew(&place.how(), what);
        let target = place.folder.path().join("target");
        super::sources::restored(&place.bench, &place.source(), &target);
        assert_eq!(tests::look(&place.source()).unwrap(), tests::look(&target).unwrap(), "{what}");
    }
}

#[test]
fn a_lost_long_attribute_of_an_unchanged_directory_is_written_again() {
    let place = Place::new();
    fs::create_dir(place.source().join("folder")).unwrap();
    rustix::fs::lsetxattr(place.source().join("folder"), "user.long", &noise(8, 900), XattrFlags::empty()).unwrap();
    place.save();
    assert!(place.save().1.is_empty());
    let contents = place.store.contents();
    let packs: Vec<_> = contents.iter().map(|(name, _)| name).filter(|name| name.as_str().starts_with("pack/")).collect();
    assert_eq!(packs.len(), 1, "nothing but the value");
    place.store.overwrite(packs[0], None);
    assert_eq!(place.save().1, ["", "folder"]);
    place.is_as_read_anew(&place.how(), "the value");
}

#[test]
fn an_unchanged_run_writes_nothing_to_the_state() {
    let place = Place::with_every_kind();
    place.save();
    let state = || {
        let path = place.state().join("files.db");
        (fs::read(&path).unwrap(), path.metadata().unwrap().modified().unwrap())
    };
    let before = state();
    tick(place.folder.path());
    place.save();
    assert!(state() == before);
}

#[test]
fn what_is_taken_over_needs_no_earlier_snapshot() {
    let place = Place::with_every_kind();
    let (first, _) = place.save();
    for (name, _) in place.store.contents() {
        if name.as_str().starts_with("snap/") || name.as_str().starts_with("seal/") {
            place.store.overwrite(&name, None);
        }
    }
    let (second, entered) = place.save();
    assert_eq!((second.parent, entered.len(), second.stats.read_bytes), (None, 0, 0));
    let of = |stats: &Stats| (stats.new_count, stats.new_size, stats.unchanged_count);
    assert_eq!(of(&second.stats), of(&first.stats), "without a parent everything is new");
    place.is_as_read_anew(&place.how(), "the parent was forgotten");
}

#[test]
fn who_reads_anew_enters_everything_and_later_runs_need_not() {
    let place = Place::with_every_kind();
    place.save();
    let (_, entered) = place.save_as(&BackupOptions { reread: true, ..place.how() });
    assert_eq!(entered.len(), 6, "{entered:?}");
    assert!(place.save().1.is_empty());
}

#[test]
fn what_changed_just_before_a_run_is_looked_at_by_the_next() {
    let place = Place::new();
    fs::create_dir_all(place.source().join("quiet/er")).unwrap();
    fs::create_dir(place.source().join("fresh")).unwrap();
    fs::write(place.source().join("quiet/er/file"), "quiet").unwrap();
    let later = |seconds| {
        // By the clock of this machine everything was made so long ago.
        let made = fs_core::time::Timestamp::from(place.source().join("fresh").metadata().unwrap().modified().unwrap());
        place.bench.clock.set(made.saturating_add(Duration::from_secs(seconds)).saturating_sub(Duration::from_secs(60)));
    };
    for seconds in [0, 1, 2] {
        later(seconds);
        place.save();
        assert_eq!(place.save_as(&place.how()).1.len(), 4, "{seconds}: nothing was quiet when it was first saved");
        fs::remove_dir_all(place.state()).unwrap();
    }
    later(3);
    place.save();
    assert!(place.save().1.is_empty());
    // A clock that was set back: what seems to come from the future is never quiet.
    fs::remove_dir_all(place.state()).unwrap();
    place.bench.clock.set(fs_core::time::Timestamp::new(1_000_000, 0).unwrap());
    for _ in 0..2 {
        assert_eq!(place.save().1.len(), 4);
    }
}

#[test]
fn one_restless_file_keeps_only_what_is_above_it_from_being_taken_over() {
    let place = Place::new();
    for name in ["a/b/file", "a/c/file", "d/file"] {
        fs::create_dir_all(place.source().join(name).parent().unwrap()).unwrap();
        fs::write(place.source().join(name), name).unwrap();
    }
    tick(place.folder.path());
    let wanted = fs::File::open(place.source().join("a/c/file")).unwrap().metadata().unwrap();
    // Just late enough to be quiet: what was noted on a later day than today is not believed, and an hour would be that before midnight.
    place.bench.clock.set(fs_core::time::Timestamp::from(wanted.modified().unwrap()).saturating_add(Duration::from_secs(3)));
    place.save();
    fs::write(place.source().join("a/c/file"), "again").unwrap();
    let written = place.source().join("a/c/file").metadata().unwrap().modified().unwrap();
    place.bench.clock.set(fs_core::time::Timestamp::from(written).saturating_sub(Duration::from_secs(59)));
    assert_eq!(place.save().1, ["", "a", "a/c"]);
    place.bench.clock.set(tests::later_than_any_file());
    assert_eq!(place.save().1, ["", "a", "a/c"], "it was written to one second before");
    assert!(place.save().1.is_empty());
}

#[test]
fn what_a_run_has_put_is_taken_over_though_it_was_not_sealed() {
    let place = Place::with_every_kind();
    let rules = [Rule::every(Fault::ErrorBefore).kind(CallKind::Put).prefix("seal/")];
    let faulty = FaultyStore::new(Arc::new(place.store.clone()) as Arc<dyn WriteStore>, rules);
    let broken = Bench { store: Arc::clone(&faulty) as Arc<dyn WriteStore>, ..place.bench.clone() };
    backup(&broken.open().unwrap(), &broken.store, &place.how(), &Silent).unwrap_err();
    assert!(!faulty.struck().is_empty());
    let (report, entered) = place.save();
    assert_eq!((entered.len(), report.stats.read_bytes, report.stats.new_count), (0, 0, report.stats.file_count));
    place.is_as_read_anew(&place.how(), "no snapshot stood behind it");
}

#[test]
fn sets_hosts_and_copies_of_the_state_take_over_what_is_a_fact() {
    let place = Place::with_every_kind();
    place.save();
    for how in [BackupOptions { set: Some("other".into()), ..place.how() }, BackupOptions { host: "other".into(), ..place.how() }] {
        let (report, entered) = place.save_as(&how);
        assert_eq!((report.parent, entered.len()), (None, 0));
        place.is_as_read_anew(&how, "another set or host");
    }
    // A cloned machine goes its own way.
    let copy = place.folder.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for item in fs::read_dir(place.state()).unwrap().map(Result::unwrap).filter(|item| item.path().is_file()) {
        fs::copy(item.path(), copy.join(item.file_name())).unwrap();
    }
    tick(place.folder.path());
    fs::write(place.source().join("deep/er/text"), "since then").unwrap();
    place.save();
    let clone = BackupOptions { state: Some(copy), ..place.how() };
    assert_eq!(place.save_as(&clone).1, ["", "deep", "deep/er"], "the clone has not seen this");
    place.is_as_read_anew(&clone, "a clone");
}

#[test]
fn nothing_is_believed_for_ever() {
    let place = Place::with_every_kind();
    place.save();
    let days = |days: u64| place.bench.clock.advance(Duration::from_secs(86_400 * days));
    days(28);
    assert!(place.save().1.is_empty());
    days(2);
    assert_eq!(place.save().1.len(), 6, "after a month everything is looked at");
    assert!(place.save().1.is_empty(), "and then known again");
    // What is above does not make what is below younger: one folder is looked at after twenty days, the others after thirty whatever was written since.
    days(20);
    fs::write(place.source().join("empty/new"), "").unwrap();
    assert_eq!(place.save().1, ["", "empty"]);
    days(8);
    assert!(place.save().1.is_empty());
    days(2);
    assert_eq!(place.save().1, ["", "deep", "deep/er", "deep/er/and", "deep/er/and/deeper"]);
    // A row from a future day is no row.
    place.bench.clock.set(place.newest().started.saturating_sub(Duration::from_secs(86_400 * 15)));
    assert_eq!(place.save().1.len(), 6);
}

#[test]
fn a_name_that_is_no_text_is_known_again() {
    let place = Place::new();
    let odd = place.source().join(std::ffi::OsStr::from_bytes(b"not \xff utf-8\n"));
    fs::create_dir(&odd).unwrap();
    fs::write(odd.join("file"), "x").unwrap();
    place.save();
    assert!(place.save().1.is_empty());
}

#[test]
fn what_cannot_be_read_is_tried_by_every_run() {
    let place = Place::new();
    fs::create_dir_all(place.source().join("a/b")).unwrap();
    fs::create_dir(place.source().join("c")).unwrap();
    for name in ["a/b/closed", "a/b/open", "c/open"] {
        fs::write(place.source().join(name), name).unwrap();
    }
    let closed = place.source().join("a/b/closed");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let everything = || everything(place.folder.path());
    let user = rustix::fs::Uid::from_raw(65_534);
    if rustix::process::geteuid().is_root() {
        let (directories, others) = everything();
        directories.iter().chain(&others).for_each(|path| rustix::fs::chown(path, Some(user), None).unwrap());
    }
    let run = || {
        for _ in 0..3 {
            let (report, entered) = place.save();
            assert_eq!(report.stats.failed_count, 1, "{:?}", report.findings);
            assert!(entered.contains(&"a/b".to_owned()), "{entered:?}");
        }
        assert_eq!(place.save().1, ["", "a", "a/b"], "the rest is known");
    };
    std::thread::scope(|scope| {
        // Nothing is closed to an administrator; a thread may be somebody else, and so are those that it starts.
        let as_somebody = scope.spawn(|| {
            if rustix::process::geteuid().is_root() {
                rustix::thread::set_thread_res_uid(user, user, user).unwrap();
            }
            run();
        });
        as_somebody.join().unwrap();
    });
}
