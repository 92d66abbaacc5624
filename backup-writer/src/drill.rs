//! `drill()`: whether files come back. Random files of all snapshots are read as a drive reads them, and compared with what was recorded when they were saved.
//!
//! What to read is drawn by a seed, so that a drill can be repeated; files that were never drilled come first. Nothing is read from a cache on the disk if the
//! repository of the view was opened without one: that is up to the caller.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use fs_core::observer::{Observer, Progress};
use fs_core::path::TreePath;
use fs_core::report::{Finding, Severity};
use fs_core::repository::{ReadError, Repository};
use fs_core::snapshot::Snapshot;
use fs_core::time::Timestamp;
use fs_core::tree::page::Wanted;
use fs_core::tree::{Entry, EntryKind, ROOT_POSITION};
use fs_core::view::View;

use crate::proven::{LastDrill, Proven};
pub use draw::Draw;
use prove::{Failure, Outcome, prove};

mod draw;
mod prove;

/// Files among which the one is taken that was never drilled, or longest ago.
const CANDIDATES: usize = 4;
/// Entries that are drawn until one of them is a file.
const ENTRIES_MAX: usize = 256;
/// Files drawn in vain until nothing more is expected.
const VAIN_MAX: usize = 24;

/// What to drill.
#[derive(Clone, Copy, Debug)]
pub struct DrillOptions<'a> {
    /// How many files.
    pub file_max: u64,
    /// How many bytes of files at the most. A file that does not fit any more is passed over.
    pub byte_max: u64,
    /// Decides which.
    pub seed: u64,
    /// Whether files that were drilled before count less. Without it the seed alone decides.
    pub prefers_new: bool,
    /// The repository's local folder, where it is noted what was proven; `None` to note nothing.
    pub state: Option<&'a Path>,
}

/// What a drill has shown.
#[derive(Clone, Debug, Default)]
pub struct DrillReport {
    /// Files that were read whole and are what was saved.
    pub file_count: u64,
    /// Their bytes.
    pub byte_count: u64,
    /// Files of the above that have no bytes, and so no hash.
    pub empty_count: u64,
    /// Files that were read whole and have no hash that this key could compare: each of their records is what it says to be.
    pub unproven_count: u64,
    /// Files that were drawn and did not fit into the bytes any more.
    pub passed_over_count: u64,
    /// Files that cannot be read or are not what was saved.
    pub failed_count: u64,
    /// What was proven, by host and set.
    pub drills: Vec<LastDrill>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Drills the snapshots that a view shows.
///
/// # Errors
/// [`ReadError`] if the store does not answer; damage is a finding.
pub fn drill(view: &Arc<View>, how: &DrillOptions<'_>, observer: &dyn Observer) -> Result<DrillReport, ReadError> {
    let repository = Arc::clone(view.repository());
    let listed = repository.all_snapshots().map_err(|error| ReadError::Index(Box::new(error)))?;
    let proven = how.state.and_then(|state| {
        let opened = Proven::open(state, &repository);
        opened.inspect_err(|error| tracing::warn!(%error, "it is not remembered what was drilled")).ok()
    });
    let now = repository.clock().now();
    let mut run = Run {
        view,
        repository: &repository,
        how,
        observer,
        proven: proven.as_ref(),
        draw: Draw::new(how.seed),
        report: DrillReport { findings: listed.findings, ..DrillReport::default() },
        chosen: HashSet::new(),
        done: Vec::new(),
        series: series_of(listed.live),
    };
    let result = run.all(now);
    // What was proven before the line was lost stays proven.
    run.keep(now);
    result.map(|()| run.report)
}

/// The snapshots of a host and set, oldest first, and what the drill has shown of them.
struct Series {
    snapshots: Vec<Snapshot>,
    drill: Option<LastDrill>,
    has_failed: bool,
}

fn series_of(snapshots: Vec<Snapshot>) -> Vec<Series> {
    let mut all = BTreeMap::<_, Vec<_>>::new();
    for snapshot in snapshots.into_iter().filter(|snapshot| snapshot.sealed) {
        all.entry((snapshot.host().to_owned(), snapshot.set().to_owned())).or_default().push(snapshot);
    }
    all.into_values().map(|snapshots| Series { snapshots, drill: None, has_failed: false }).collect()
}

/// A file that was drawn.
struct Drawn {
    series: usize,
    snapshot: Snapshot,
    path: TreePath,
    entry: Entry,
    /// What it goes by in the list of what was drilled.
    key: [u8; 32],
}

struct Run<'a> {
    view: &'a Arc<View>,
    repository: &'a Repository,
    how: &'a DrillOptions<'a>,
    observer: &'a dyn Observer,
    proven: Option<&'a Proven>,
    draw: Draw,
    report: DrillReport,
    series: Vec<Series>,
    /// Files of this drill.
    chosen: HashSet<[u8; 32]>,
    /// Those of them that came back.
    done: Vec<[u8; 32]>,
}

impl Run<'_> {
    fn all(&mut self, now: Timestamp) -> Result<(), ReadError> {
        let byte_total = if self.how.byte_max == u64::MAX { 0 } else { self.how.byte_max };
        let mut progress = Progress { entry_total: self.how.file_max, byte_total, ..Progress::default() };
        let mut vain = 0;
        while progress.entry_count < self.how.file_max && vain < VAIN_MAX && !self.series.is_empty() && !self.observer.is_cancelled() {
            let at = usize::try_from(progress.entry_count).unwrap_or(0) % self.series.len();
            let Some(drawn) = self.choose(at)? else {
                vain += 1;
                continue;
            };
            if drawn.entry.size > self.how.byte_max - progress.byte_count {
                self.report.passed_over_count += 1;
                vain += 1;
                continue;
            }
            (vain, progress.entry_count) = (0, progress.entry_count + 1);
            progress.byte_count += drawn.entry.size;
            self.observer.at(&drawn.path);
            self.take(&drawn, now)?;
            self.observer.progress(&progress);
        }
        Ok(())
    }

    /// The next file; `None` if all that were drawn are drilled already, or none was a file.
    fn choose(&mut self, series: usize) -> Result<Option<Drawn>, ReadError> {
        let mut best: Option<(Option<i64>, Drawn)> = None;
        for _ in 0..CANDIDATES {
            let Some(drawn) = self.draw_file(series)? else { continue };
            if self.chosen.contains(&drawn.key) {
                continue;
            }
            let before = self.proven.filter(|_| self.how.prefers_new).and_then(|proven| proven.drilled(&drawn.key));
            // Never comes before every moment.
            if best.as_ref().is_none_or(|(other, _)| before < *other) {
                best = Some((before, drawn));
            }
            if !self.how.prefers_new || before.is_none() {
                break;
            }
        }
        let Some((_, drawn)) = best else { return Ok(None) };
        self.chosen.insert(drawn.key);
        Ok(Some(drawn))
    }

    /// A file of the host and set: every other one of its newest snapshot, the others of any.
    fn draw_file(&mut self, series: usize) -> Result<Option<Drawn>, ReadError> {
        let Some(snapshots) = self.series.get(series).map(|series| &series.snapshots) else { return Ok(None) };
        let count = snapshots.len() as u64;
        let at = if self.draw.below(2) == 0 { count - 1 } else { self.draw.below(count) };
        let Some(snapshot) = snapshots.get(usize::try_from(at).unwrap_or(0)).cloned() else { return Ok(None) };
        let root = match snapshot.manifest() {
            Ok(manifest) => manifest.root,
            Err(error) => return self.failed(series, &snapshot, &TreePath::ROOT, error.into()).map(|()| None),
        };
        for _ in 0..ENTRIES_MAX {
            let below = root.position_count().saturating_sub(ROOT_POSITION);
            if below == 0 {
                return Ok(None);
            }
            let position = 1 + self.draw.below(below);
            let (path, entry) = match self.entry_at(&root, position) {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err((path, error)) => return self.failed(series, &snapshot, &path, error).map(|()| None),
            };
            if entry.kind == EntryKind::File {
                let proof = entry.proof(self.repository.ring()).map_or([0; 32], |proof| proof.hash);
                let key = self.proven.map_or_else(
                    || fs_core::crypto::hash(&[&proof[..], &path.to_bytes()].concat()),
                    |proven| proven.file_key(&path.to_bytes(), &proof),
                );
                return Ok(Some(Drawn { series, snapshot, path, entry, key }));
            }
        }
        Ok(None)
    }

    /// The entry at a position, counted from that of the root, and its path.
    fn entry_at(&self, root: &Entry, mut position: u64) -> Result<Option<(TreePath, Entry)>, (TreePath, ReadError)> {
        let (mut path, mut entry) = (TreePath::ROOT, root.clone());
        while position > 0 {
            let Some(subtree) = &entry.subtree else { return Ok(None) };
            let found = self.repository.find_entry(subtree, Wanted::Position(position)).map_err(|error| (path.clone(), error))?;
            let Some(found) = found else { return Ok(None) };
            let Some(name) = found.entry().name.clone() else { return Ok(None) };
            (path, position) = (path.join(name), position - found.position_offset);
            entry = found.entry().clone();
        }
        Ok(Some((path, entry)))
    }

    fn take(&mut self, drawn: &Drawn, now: Timestamp) -> Result<(), ReadError> {
        let outcome = match prove(self.view, &drawn.snapshot.id, &drawn.path, &drawn.entry, &mut self.draw) {
            Ok(outcome) => outcome,
            Err(Failure::Unreachable(error)) => return Err(error),
            Err(Failure::Differs(message)) => {
                self.differs(drawn.series, &drawn.snapshot, &drawn.path, &message);
                return Ok(());
            }
        };
        if outcome == Outcome::Unproven {
            self.report.unproven_count += 1;
            return Ok(());
        }
        self.report.empty_count += u64::from(outcome == Outcome::Empty);
        self.report.file_count += 1;
        self.report.byte_count += drawn.entry.size;
        self.done.push(drawn.key);
        let Some(series) = self.series.get_mut(drawn.series) else { return Ok(()) };
        let drill = series.drill.get_or_insert_with(|| LastDrill {
            host: drawn.snapshot.host().to_owned(),
            set: drawn.snapshot.set().to_owned(),
            snapshot: drawn.snapshot.id,
            time: now,
            file_count: 0,
            byte_count: 0,
        });
        drill.file_count += 1;
        drill.byte_count += drawn.entry.size;
        let started = |id| series.snapshots.iter().position(|snapshot| snapshot.id == id);
        if started(drawn.snapshot.id) > started(drill.snapshot) {
            drill.snapshot = drawn.snapshot.id;
        }
        Ok(())
    }

    /// Something above a file cannot be read.
    fn failed(&mut self, series: usize, snapshot: &Snapshot, path: &TreePath, error: ReadError) -> Result<(), ReadError> {
        if !error.is_damage() {
            return Err(error);
        }
        self.differs(series, snapshot, path, &format!("what is in it cannot be read: {}", fs_core::report::chain(&error)));
        Ok(())
    }

    fn differs(&mut self, series: usize, snapshot: &Snapshot, path: &TreePath, message: &str) {
        self.series.get_mut(series).into_iter().for_each(|series| series.has_failed = true);
        let finding = Finding::at(Severity::Error, path.clone(), format!("in snapshot {}: {message}", snapshot.id.short()));
        if !self.report.findings.contains(&finding) {
            self.report.failed_count += 1;
            self.observer.finding(&finding);
            self.report.findings.push(finding);
        }
    }

    /// Where something did not come back, nothing is proven of its host and set.
    fn keep(&mut self, now: Timestamp) {
        self.report.drills = self.series.iter().filter(|series| !series.has_failed).filter_map(|series| series.drill.clone()).collect();
        if let Some(proven) = self.proven
            && let Err(error) = proven.note_drill(&self.done, &self.report.drills, now)
        {
            tracing::warn!(%error, "it is not remembered what was drilled");
        }
    }
}
