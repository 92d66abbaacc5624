//! What runs say that they did: the list of changes against a naive model, and dry runs. The reports that people get are in `reports_program.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backup_writer::backup::{BackupOptions, BackupReport, DryRun, backup, dry_run};
use backup_writer::changes::ChangeList;
use backup_writer::check::{ReadData, check};
use fs_core::crypto::RandomSource as _;
use fs_core::observer::Silent;
use fs_core::path::{Name, TreePath};
use fs_core::report::{Severity, Stats};
use fs_core::storage::memory::MemoryStore;
use fs_core::testing::SeededRandom;
use fs_core::time::Timestamp;
use fs_core::tree::EntryKind;
use fs_core::tree::change::{Change, ChangeKind};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use tests::{Bench, look, options};

use super::sources::write;

/// Chance with a seed.
struct Dice(Arc<SeededRandom>);

impl Dice {
    fn below(&self, limit: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        (u64::from_le_bytes(bytes) % limit.max(1) as u64) as usize
    }

    fn one_of<'a>(&self, all: &'a [PathBuf]) -> Option<&'a PathBuf> {
        all.get(self.below(all.len()))
    }
}

/// Runs without the power to read what modes forbid, also as root.
fn as_a_user<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let run = || {
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
        set_capabilities(None, sets).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap())
}

fn tree_path(path: &Path) -> TreePath {
    TreePath::parse(path.as_os_str().as_bytes()).unwrap()
}

/// All that counts of an entry that is no directory.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Facts {
    kind: EntryKind,
    size: u64,
    times: [i64; 4],
    mode: u32,
}

impl Facts {
    fn of(path: &Path) -> Self {
        let metadata = path.symlink_metadata().unwrap();
        let kind = match metadata.mode() & 0o170_000 {
            0o100_000 => EntryKind::File,
            0o120_000 => EntryKind::Symlink,
            0o010_000 => EntryKind::Fifo,
            0o040_000 => EntryKind::Directory,
            _ => panic!("{path:?}"),
        };
        let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
        let size = if matches!(kind, EntryKind::File | EntryKind::Symlink) { metadata.size() } else { 0 };
        Self { kind, size, times, mode: metadata.mode() }
    }

    fn mtime(&self) -> Option<Timestamp> {
        Timestamp::new(self.times[0], u32::try_from(self.times[1]).unwrap())
    }
}

/// What the newest snapshot holds, as far as changes are concerned.
#[derive(Default, Clone)]
struct Model {
    has_parent: bool,
    files: BTreeMap<PathBuf, Facts>,
}

impl Model {
    /// What a run would tell of a folder, and the model afterwards.
    fn run(&self, folder: &Path) -> (Vec<Change>, Stats, Self) {
        let (mut now, mut rows, mut unchanged) = (Self { has_parent: true, ..Self::default() }, Vec::new(), Vec::new());
        let (mut failed, mut closed) = (BTreeSet::new(), Vec::new());
        let mut open = vec![folder.to_path_buf()];
        while let Some(place) = open.pop() {
            // Who may list names but not look at them sees nothing either.
            if Facts::of(&place).mode & 0o500 != 0o500 {
                rows.push(row(ChangeKind::Failed, &place, Some(EntryKind::Directory), None, None));
                closed.push(place);
                continue;
            }
            for item in std::fs::read_dir(&place).unwrap() {
                let path = item.unwrap().path();
                let (facts, was) = (Facts::of(&path), self.files.get(&path));
                if facts.kind == EntryKind::Directory {
                    open.push(path);
                } else if was == Some(&facts) {
                    unchanged.extend((facts.kind == EntryKind::File).then_some(facts.size));
                    now.files.insert(path, facts);
                } else if facts.kind == EntryKind::File && facts.mode & 0o400 == 0 {
                    rows.push(row(ChangeKind::Failed, &path, Some(facts.kind), Some(&facts), was));
                    failed.insert(path);
                } else {
                    let kind = if was.is_some() { ChangeKind::Changed } else { ChangeKind::New };
                    rows.push(row(kind, &path, Some(facts.kind), Some(&facts), was));
                    now.files.insert(path, facts);
                }
            }
        }
        for (path, was) in self.files.iter().filter(|(path, _)| !now.files.contains_key(*path) && !failed.contains(*path)) {
            let is_closed = closed.iter().any(|closed| path != closed && path.starts_with(closed));
            let kind = if is_closed { ChangeKind::Failed } else { ChangeKind::Removed };
            rows.push(row(kind, path, Some(was.kind), None, Some(was)));
        }
        rows.sort();
        let stats = counted(&rows, &unchanged);
        (rows, stats, now)
    }
}

fn row(kind: ChangeKind, path: &Path, entry_kind: Option<EntryKind>, now: Option<&Facts>, was: Option<&Facts>) -> Change {
    let mtime = now.or(was).and_then(Facts::mtime);
    Change { path: tree_path(path), kind, entry_kind, size: now.map(|now| now.size), size_before: was.map(|was| was.size), mtime }
}

/// The numbers that rows and unchanged files give.
fn counted(rows: &[Change], unchanged: &[u64]) -> Stats {
    let of = |kind: ChangeKind| {
        let is_file = |row: &&Change| row.entry_kind == Some(EntryKind::File);
        let rows = || rows.iter().filter(move |row| row.kind == kind);
        let count = rows().filter(|row| kind == ChangeKind::Failed || is_file(row)).count();
        (count as u64, rows().filter(is_file).filter_map(|row| row.size.or(row.size_before)).sum())
    };
    let ((new_count, new_size), (changed_count, changed_size)) = (of(ChangeKind::New), of(ChangeKind::Changed));
    let ((removed_count, removed_size), (failed_count, failed_size)) = (of(ChangeKind::Removed), of(ChangeKind::Failed));
    let (left_out_count, left_out_size) = of(ChangeKind::LeftOut);
    let (unchanged_count, unchanged_size) = (unchanged.len() as u64, unchanged.iter().sum());
    Stats {
        new_count,
        new_size,
        changed_count,
        changed_size,
        unchanged_count,
        unchanged_size,
        removed_count,
        removed_size,
        failed_count,
        failed_size,
        left_out_count,
        left_out_size,
        ..Stats::default()
    }
}

/// The part of the numbers that tells of changes.
fn of_changes(stats: &Stats) -> Stats {
    let (file_count, directory_count, other_count, byte_count) = (0, 0, 0, 0);
    let (new_bytes, stored_bytes, read_bytes, sent_bytes) = (0, 0, 0, 0);
    Stats { file_count, directory_count, other_count, byte_count, new_bytes, stored_bytes, read_bytes, sent_bytes, ..*stats }
}

fn listed(bench: &Bench, list: &ChangeList) -> Vec<Change> {
    let mut rows = Vec::new();
    let lost = list.for_each::<anyhow::Error>(&bench.open().unwrap(), &mut |row| {
        rows.push(row.clone());
        Ok(())
    });
    assert!(lost.unwrap().is_empty());
    rows.sort();
    rows
}

/// The list of the n-th snapshot.
fn stored(bench: &Bench, n: usize) -> Vec<Change> {
    let manifest = bench.open().unwrap().snapshots().unwrap()[n].manifest().unwrap();
    listed(bench, &ChangeList::of(&manifest).unwrap())
}

fn saved(bench: &Bench, how: &BackupOptions) -> BackupReport {
    bench.clock.advance(std::time::Duration::from_secs(60));
    as_a_user(|| backup(&bench.open().unwrap(), &bench.store, how, &Silent).unwrap())
}

fn tried(bench: &Bench, how: &BackupOptions) -> DryRun {
    as_a_user(|| dry_run(&bench.open().unwrap(), how, &Silent).unwrap())
}

/// One random change below a folder. Everything in it can be read and written meanwhile.
fn change_something(dice: &Dice, folder: &Path, n: usize) {
    let mut all: Vec<PathBuf> = look(folder).unwrap().into_keys().map(|path| folder.join(path)).collect();
    all.sort();
    let is_folder = |path: &PathBuf| path.symlink_metadata().unwrap().is_dir();
    let (mut folders, files): (Vec<_>, Vec<_>) = all.into_iter().partition(is_folder);
    let inner = folders.clone();
    folders.push(folder.to_path_buf());
    let place = dice.one_of(&folders).unwrap().join(format!("{} {n}", ["a", "m", "z"][dice.below(3)]));
    match dice.below(13) {
        0..=2 => std::fs::write(place, tests::noise(n as u64, dice.below(3000))).unwrap(),
        3 => std::fs::write(place, tests::noise(n as u64, 70_000 + dice.below(100_000))).unwrap(),
        4 => write(&place, &[("in", "one"), ("further/in", "two")]),
        5 => std::os::unix::fs::symlink(format!("to {n}"), place).unwrap(),
        6 => rustix::fs::mkfifoat(rustix::fs::CWD, &place, rustix::fs::Mode::from_raw_mode(0o644)).unwrap(),
        _ if files.is_empty() || inner.is_empty() => {}
        7 => {
            let file = dice.one_of(&files).unwrap();
            if file.symlink_metadata().unwrap().is_file() {
                std::fs::write(file, tests::noise(n as u64, dice.below(5000))).unwrap();
            }
        }
        8 => std::fs::remove_file(dice.one_of(&files).unwrap()).unwrap(),
        9 => std::fs::rename(dice.one_of(&files).unwrap(), place).unwrap(),
        10 => {
            let from = dice.one_of(&inner).unwrap();
            if !place.starts_with(from) {
                std::fs::rename(from, place).unwrap();
            }
        }
        11 => {
            // A file becomes a folder, or a folder a file.
            let file = dice.one_of(&files).unwrap();
            std::fs::remove_file(file).unwrap();
            write(file, &[("was a file", "x")]);
        }
        _ => {
            let from = dice.one_of(&inner).unwrap();
            std::fs::remove_dir_all(from).unwrap();
            if dice.below(2) == 0 {
                std::fs::write(from, "was a folder").unwrap();
            }
        }
    }
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// What is in a state folder.
fn bytes_of(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    if folder.is_dir() { look(folder).unwrap().into_iter().map(|(path, seen)| (path, seen.bytes)).collect() } else { BTreeMap::new() }
}

/// A repository of a folder that changes by chance, and what its runs told.
struct World {
    dice: Dice,
    memory: MemoryStore,
    bench: Bench,
    source: PathBuf,
    how: BackupOptions,
    model: Model,
    told: Vec<Vec<Change>>,
    /// What cannot be read, with the mode that it had.
    closed: Vec<(PathBuf, u32)>,
}

impl World {
    fn new(seed: u64, place: &Path) -> Self {
        let memory = MemoryStore::new();
        let (source, state) = (place.join("source"), place.join("state"));
        std::fs::create_dir(&source).unwrap();
        let how = BackupOptions { keep_changes: true, ..options(&source, seed.is_multiple_of(2).then_some(&*state)) };
        let bench = Bench::new(Arc::new(memory.clone())).unwrap();
        let (model, told, closed) = (Model::default(), Vec::new(), Vec::new());
        Self { dice: Dice(SeededRandom::shared(seed)), memory, bench, source, how, model, told, closed }
    }

    fn change(&mut self, round: usize) {
        // What was closed is opened again, sometimes.
        let keeps_closed = self.dice.below(2) == 0;
        if !keeps_closed {
            self.closed.drain(..).rev().for_each(|(path, mode)| set_mode(&path, mode));
            for n in 0..self.dice.below(12) {
                change_something(&self.dice, &self.source, round * 100 + n);
            }
            let all: Vec<PathBuf> = look(&self.source).unwrap().into_keys().map(|path| self.source.join(path)).collect();
            for path in (0..self.dice.below(3)).filter_map(|_| self.dice.one_of(&all)) {
                let metadata = path.symlink_metadata().unwrap();
                if !metadata.is_symlink() {
                    self.closed.push((path.clone(), metadata.mode()));
                    set_mode(path, if metadata.is_dir() { [0, 0o444, 0o111][self.dice.below(3)] } else { 0 });
                }
            }
        }
    }

    /// A dry run says what the run then does, and writes nothing; both say what the model says.
    fn run(&mut self) {
        let (rows, stats, model) = self.model.run(&self.source);
        let state = self.how.state.clone().unwrap_or_default();
        let before = (self.memory.contents(), bytes_of(&state));
        let dry = tried(&self.bench, &self.how);
        assert!(before == (self.memory.contents(), bytes_of(&state)), "a dry run writes nothing");
        assert_eq!(listed(&self.bench, dry.changes.as_ref().unwrap()), rows);
        let report = saved(&self.bench, &self.how);
        assert_eq!(listed(&self.bench, report.changes.as_ref().unwrap()), rows);
        assert_eq!(of_changes(&report.stats), stats);
        // References to other packs compress a little better or worse, and the numbers in those to what lies behind are a little longer or shorter then.
        let Stats { stored_bytes, new_bytes, .. } = dry.stats;
        assert!(stored_bytes.abs_diff(report.stats.stored_bytes) <= 64 + stored_bytes / 100, "{:?} {:?}", dry.stats, report.stats);
        assert!(new_bytes.abs_diff(report.stats.new_bytes) <= 64, "{:?} {:?}", dry.stats, report.stats);
        assert_eq!(dry.stats, Stats { sent_bytes: 0, stored_bytes, new_bytes, ..report.stats });
        assert_eq!((&dry.findings, dry.parent), (&report.findings, report.parent));
        assert_eq!(report.findings.iter().any(|finding| finding.severity == Severity::Warning), stats.failed_count > 0);
        assert_eq!(stored(&self.bench, self.told.len()), rows, "what is stored is what was told");
        if self.model.has_parent {
            assert_eq!(report.manifest.changes.is_empty(), rows.is_empty(), "without rows there is no record");
        }
        self.told.push(rows);
        self.model = model;
    }
}

#[test]
fn the_list_of_changes_is_what_a_naive_model_says() {
    let (seeds, rounds) = if tests::driven::is_long() { (40, 12) } else { (6, 8) };
    let mut kinds = BTreeSet::new();
    for seed in 0..seeds {
        println!("seed {seed}");
        let place = tempfile::tempdir().unwrap();
        let mut world = World::new(seed, place.path());
        for round in 0..rounds {
            world.change(round);
            world.run();
        }
        world.closed.drain(..).rev().for_each(|(path, mode)| set_mode(&path, mode));
        for (n, rows) in world.told.iter().enumerate() {
            assert_eq!(stored(&world.bench, n), *rows, "what is stored stays, whatever follows");
        }
        kinds.extend(world.told.iter().flatten().map(|row| row.kind));
        assert!(check(&world.bench.open().unwrap(), ReadData::All, &Silent).unwrap().findings.is_empty());
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), [ChangeKind::New, ChangeKind::Changed, ChangeKind::Removed, ChangeKind::Failed]);
}

fn named(rows: &[Change], source: &Path) -> Vec<(String, ChangeKind)> {
    let from = tree_path(source).names().len();
    let name = |row: &Change| row.path.names()[from..].iter().map(Name::to_string).collect::<Vec<_>>().join("/");
    rows.iter().map(|row| (name(row), row.kind)).collect()
}

#[test]
fn what_rules_leave_out_is_told_apart_from_what_was_removed() {
    use backup_writer::source::rules::{Line, Marker, Patterns};
    let place = tempfile::tempdir().unwrap();
    let (source, other) = (place.path().join("source"), place.path().join("other"));
    write(
        &source,
        &[("a.tmp", "1"), ("b", "22"), ("deep/c.tmp", "333"), ("deep/d", "4444"), ("cache/x", "5"), ("cache/y/z", "6"), ("gone/e", "7")],
    );
    write(&other, &[("f", "8")]);
    let bench = super::sources::bench();
    let mut how = BackupOptions { set: Some("both".into()), paths: vec![source.clone(), other.clone()], ..options(&source, None) };
    let first = saved(&bench, &how);
    assert_eq!((first.stats.new_count, first.stats.new_size), (8, 1 + 2 + 3 + 4 + 1 + 1 + 1 + 1));
    let line = |text: &str| Line { place: "--exclude".into(), text: text.as_bytes().into() };
    how.rules.patterns = Patterns::parse(&[line("*.tmp")]).0;
    how.rules.markers = vec![Marker::parse("NOBACKUP").unwrap()];
    // One of the two is not named any more.
    how.paths.pop();
    std::fs::remove_dir_all(source.join("gone")).unwrap();
    write(&source, &[("cache/NOBACKUP", "")]);
    let report = saved(&bench, &how);
    let rows = stored(&bench, 1);
    let (of_other, of_source): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.path.starts_with(&tree_path(&other)));
    assert_eq!(named(&of_other, &other), [("f".into(), ChangeKind::LeftOut)]);
    let expected = [
        ("a.tmp", ChangeKind::LeftOut),
        ("cache/NOBACKUP", ChangeKind::New),
        ("cache/x", ChangeKind::LeftOut),
        ("cache/y/z", ChangeKind::LeftOut),
        ("deep/c.tmp", ChangeKind::LeftOut),
        ("gone/e", ChangeKind::Removed),
    ];
    assert_eq!(named(&of_source, &source), expected.map(|(name, kind)| (name.to_owned(), kind)));
    let stats = &report.stats;
    assert_eq!((stats.left_out_count, stats.left_out_size, stats.removed_count, stats.removed_size), (5, 7, 1, 1));
    // What is left out is told once: the snapshot before has it no more.
    let again = saved(&bench, &how);
    assert_eq!((again.stats.left_out_count, again.stats.removed_count, again.manifest.changes.len()), (0, 0, 0));
}

#[test]
fn many_rows_become_many_records() {
    const COUNT: usize = 10_000;
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    write(&source, &[("stays", "")]);
    let bench = super::sources::bench();
    let how = options(&source, None);
    saved(&bench, &how);
    for n in 0..COUNT {
        std::fs::write(source.join(format!("{n}")), "").unwrap();
    }
    let long = "x".repeat(250);
    let deep = (0..12).fold(source.join("deep"), |path, _| path.join(&long));
    std::fs::create_dir_all(&deep).unwrap();
    for n in 0..1000 {
        std::fs::write(deep.join(format!("{n}")), "").unwrap();
    }
    let report = saved(&bench, &how);
    // 4096 rows are one record, and a MiB of paths.
    assert_eq!((report.stats.new_count, report.manifest.changes.len()), (COUNT as u64 + 1000, 3 + 2));
    assert_eq!(stored(&bench, 1).len(), COUNT + 1000);
    std::fs::remove_dir_all(source.join("deep")).unwrap();
    let report = saved(&bench, &how);
    assert_eq!((report.stats.removed_count, report.stats.unchanged_count), (1000, COUNT as u64 + 1));
    assert_eq!(stored(&bench, 2).len(), 1000);
}

#[test]
fn numbers_say_what_was_read_and_sent_and_the_chain_goes_on() {
    let place = tempfile::tempdir().unwrap();
    let (source, state) = (place.path().join("source"), place.path().join("state"));
    write(&source, &[("text", &"the same line again\n".repeat(10_000)), ("again", &"the same line again\n".repeat(10_000))]);
    let store = fs_core::testing::CountingStore::new(Arc::new(MemoryStore::new()));
    let bench = Bench::new(Arc::clone(&store) as _).unwrap();
    let how = options(&source, Some(&state));
    let first = saved(&bench, &how);
    assert_eq!(first.stats.read_bytes, 400_000);
    assert!(first.stats.new_bytes < 220_000 && first.stats.stored_bytes < first.stats.new_bytes / 4, "{:?}", first.stats);
    assert!(first.stats.sent_bytes >= first.stats.stored_bytes && first.stats.sent_bytes <= store.counts().bytes_up);
    let second = saved(&bench, &how);
    assert_eq!((second.stats.read_bytes, second.stats.sent_bytes), (0, 0));
    assert_eq!((first.manifest.sequence, first.manifest.previous), (1, None));
    assert_eq!(
        (second.manifest.sequence, second.manifest.previous, second.manifest.device),
        (2, Some(first.snapshot), first.manifest.device)
    );
    let read = bench.open().unwrap().snapshots().unwrap()[1].manifest().unwrap();
    assert_eq!(read, second.manifest, "what is reported is what was committed");
}

#[test]
fn damage_in_the_list_or_in_the_parent_costs_its_rows_and_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    write(&source, &[("a", "a"), ("gone/b", "b")]);
    let memory = MemoryStore::new();
    let bench = Bench::new(Arc::new(memory.clone())).unwrap();
    let how = options(&source, None);
    saved(&bench, &how);
    let first: Vec<_> = memory.contents().into_iter().map(|(name, _)| name).filter(|name| name.as_str().starts_with("meta/")).collect();
    // The tree of the first snapshot is lost: what was removed cannot be told, but that it cannot.
    std::fs::remove_dir_all(source.join("gone")).unwrap();
    for name in &first {
        memory.overwrite(name, None);
    }
    let report = saved(&bench, &how);
    assert!(report.findings.iter().any(|finding| finding.to_string().contains("previous snapshot is damaged")), "{:?}", report.findings);
    assert_eq!((report.stats.removed_count, report.stats.new_count), (0, 1), "nothing is known of what was");
    for (name, _) in memory.contents().into_iter().filter(|(name, _)| name.as_str().starts_with("meta/")) {
        memory.overwrite(&name, None);
    }
    let list = ChangeList::of(&report.manifest).unwrap();
    let lost = list.for_each::<anyhow::Error>(&bench.open().unwrap(), &mut |_| Ok(())).unwrap();
    assert!(lost.len() == 1 && lost[0].to_string().contains("a part of the list"), "{lost:?}");
}

#[test]
fn what_another_set_knows_of_a_directory_is_told_of_this_ones_parent() {
    let place = tempfile::tempdir().unwrap();
    let (source, state) = (place.path().join("source"), place.path().join("state"));
    for n in 0..30 {
        write(&source, &[(&format!("{}/{}/{n}", n % 2, n % 3), "as it was")]);
    }
    let bench = Bench::new(Arc::new(MemoryStore::new())).unwrap();
    let run = |set: &str| {
        bench.clock.advance(std::time::Duration::from_secs(3600));
        let repository = bench.open().unwrap();
        let mut options = options(&source, Some(&state));
        (options.set, options.keep_changes) = (Some(set.into()), true);
        let report = backup(&repository, &bench.store, &options, &Silent).unwrap();
        let list = listed(&bench, &report.changes.clone().unwrap());
        let rows: BTreeMap<_, _> = list.into_iter().map(|row| (row.path.to_string(), row.kind)).collect();
        (report.stats, rows)
    };
    let counts = |stats: &Stats| (stats.new_count, stats.changed_count, stats.unchanged_count, stats.removed_count);
    assert_eq!(counts(&run("one").0), (30, 0, 0, 0));
    let (stats, rows) = run("other");
    assert_eq!((counts(&stats), stats.read_bytes, rows.len()), ((30, 0, 0, 0), 0, 30), "nothing is read, everything is new to this set");
    std::fs::remove_file(source.join("0/0/0")).unwrap();
    std::fs::remove_dir_all(source.join("1/1")).unwrap();
    write(&source, &[("0/2/2", "changed"), ("0/3/new", "new")]);
    let (stats, rows) = run("one");
    assert_eq!(counts(&stats), (1, 1, 23, 6));
    assert_eq!(counts(&run("one").0), (0, 0, 25, 0), "it is known as a whole now");
    let (of_other, rows_of_other) = run("other");
    assert_eq!((counts(&of_other), of_other.read_bytes), (counts(&stats), 0));
    assert_eq!(rows_of_other, rows);
    assert_eq!(counts(&run("other").0), (0, 0, 25, 0));
}

#[test]
fn damage_in_what_is_taken_over_is_told_and_keeps_nobody_from_saving() {
    let place = tempfile::tempdir().unwrap();
    let (source, state) = (place.path().join("source"), place.path().join("state"));
    write(&source, &[("a/1", "one"), ("b/2", "two")]);
    let memory = MemoryStore::new();
    let bench = Bench::new(Arc::new(memory.clone())).unwrap();
    let run = |set: &str, reread| {
        bench.clock.advance(std::time::Duration::from_secs(3600));
        let mut options = options(&source, Some(&state));
        (options.set, options.keep_changes, options.reread) = (Some(set.into()), true, reread);
        backup(&bench.open().unwrap(), &bench.store, &options, &Silent).unwrap()
    };
    run("one", false);
    for (name, bytes) in memory.contents() {
        if name.as_str().starts_with("meta/") {
            memory.overwrite(&name, Some(vec![0; bytes.len()].into()));
        }
    }
    let report = run("other", false);
    assert!(report.findings.iter().any(|finding| finding.to_string().contains("--reread")), "{:?}", report.findings);
    let report = run("other", true);
    assert_eq!((report.stats.file_count, report.stats.read_bytes), (2, 6));
}
