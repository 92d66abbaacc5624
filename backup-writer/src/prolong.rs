//! What a store keeps against anybody's wish for a time (Object Lock) is kept for longer, but for what is to go.
//!
//! Every object is kept for the whole time when it is put. A run moves the end on for all that are older than a quarter of it, and is not needed again
//! until another quarter has passed: so whoever runs it that often has never less than half of the time before an end.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_core::object::keyless::Promise;
use fs_core::object::{ObjectKind, parse_pack_name};
use fs_core::observer::{Observer, Progress};
use fs_core::report::{Finding, Place, Severity};
use fs_core::repository::{Repository, RepositoryError};
use fs_core::state::{StateError, open_database};
use fs_core::storage::{ObjectMeta, ObjectName, StoreError, WriteStore, retain_all, wait};
use fs_core::time::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

const FILE: &str = "kept.db";
const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    CREATE TABLE IF NOT EXISTS prolonged (place TEXT PRIMARY KEY, seconds INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS leaving (place TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (place, name)) WITHOUT ROWID;";

/// Into so many parts the time is divided: an end is moved on when one has passed.
const PARTS: u32 = 4;
/// Objects between two looks at whether somebody wants an end.
const AT_ONCE: usize = 256;

/// What was done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Prolonged {
    /// Objects that are kept for longer now.
    pub count: u64,
    /// Until when.
    pub until: Option<Timestamp>,
    /// Objects that were left alone because they are to go.
    pub leaving: u64,
    /// What the store refused, and what cannot be remembered.
    pub findings: Vec<Finding>,
}

/// Why nothing was prolonged, or not all. The next run does what was not done.
#[derive(Debug, thiserror::Error)]
pub enum ProlongError {
    /// It was stopped.
    #[error("the run was stopped")]
    Cancelled,
    /// The store failed.
    #[error("the store could not be told to keep its objects")]
    Store(#[from] StoreError),
}

/// What this machine remembers of a store that keeps objects: when it last prolonged all of them, and what it would have deleted (SQLite).
#[derive(Debug)]
pub struct Kept {
    database: Connection,
    file: PathBuf,
    place: String,
}

impl Kept {
    /// Opens what is remembered of a store, in the repository's local folder.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn open(state: &Path, store: &dyn WriteStore) -> Result<Self, StateError> {
        Ok(Self { database: open_database(state, FILE, SCHEMA)?, file: state.join(FILE), place: store.location() })
    }

    /// Notes objects that are to go, and that the store did not let go of: they are not kept for longer any more.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn leave<'a>(&self, names: impl IntoIterator<Item = &'a ObjectName>) -> Result<(), StateError> {
        names.into_iter().try_for_each(|name| {
            let noted = self.database.execute("INSERT OR IGNORE INTO leaving VALUES (?1, ?2)", params![self.place, name.as_str()]);
            noted.map(drop).map_err(|source| StateError::Database { path: self.file.clone(), source })
        })
    }

    fn leaving(&self) -> rusqlite::Result<HashSet<ObjectName>> {
        let mut statement = self.database.prepare("SELECT name FROM leaving WHERE place = ?1")?;
        let names = statement.query_map([&self.place], |row| row.get::<_, String>(0))?;
        names.filter_map(|name| name.map(|name| ObjectName::parse(&name)).transpose()).collect()
    }

    fn last(&self) -> rusqlite::Result<Option<Timestamp>> {
        let seconds = self.database.query_row("SELECT seconds FROM prolonged WHERE place = ?1", [&self.place], |row| row.get(0));
        Ok(seconds.optional()?.and_then(|seconds| Timestamp::new(seconds, 0)))
    }

    fn note(&self, now: Timestamp) -> rusqlite::Result<()> {
        self.database.execute("INSERT OR REPLACE INTO prolonged VALUES (?1, ?2)", params![self.place, now.seconds()]).map(drop)
    }
}

/// What of a repository is forgotten, condemned or replaced, and so is to go.
///
/// # Errors
/// If the store cannot be listed or read.
pub fn to_go(repository: &Repository, now: Timestamp) -> Result<impl Fn(&ObjectName) -> bool + use<>, RepositoryError> {
    let condemned = repository.marks()?.packs();
    let inventory = repository.inventory()?;
    let forgotten = inventory.objects.iter().filter(|(id, _)| inventory.forgotten.contains(*id)).flat_map(|(_, names)| names);
    let mut leaving: HashSet<_> = forgotten.chain(&inventory.left_seals).cloned().collect();
    leaving.extend(repository.superseded_catalogues(now)?.names);
    let is_condemned = move |name: &ObjectName| {
        let pack = [ObjectKind::DataPack, ObjectKind::MetaPack].into_iter().find_map(|kind| parse_pack_name(kind, name));
        pack.is_some_and(|pack| condemned.contains(&pack))
    };
    Ok(move |name: &ObjectName| leaving.contains(name) || is_condemned(name))
}

fn not_remembered(error: &dyn std::error::Error) -> Finding {
    let message = format!("what the store was told to keep cannot be remembered, so it is told again each time: {error}");
    Finding { severity: Severity::Note, place: Place::Operation, message }
}

/// A run that is due.
#[derive(Debug)]
pub struct Prolonging<'a> {
    store: &'a dyn WriteStore,
    kept: Result<Option<Kept>, StateError>,
    /// The store's clock.
    pub now: Timestamp,
    retention: Duration,
}

impl<'a> Prolonging<'a> {
    /// Whether it is time; `None` if a run was here a moment ago, or if the store keeps nothing: then it is asked nothing. `state` is the repository's local
    /// folder; without one everything is prolonged that may be due.
    ///
    /// # Errors
    /// If the store cannot be reached.
    pub fn look(store: &'a dyn WriteStore, state: Option<&Path>) -> Result<Option<Self>, StoreError> {
        let Some(retention) = store.capabilities().retention else { return Ok(None) };
        let Some(now) = wait("clock", store.server_time())? else { return Ok(None) };
        let kept = state.map(|state| Kept::open(state, store)).transpose();
        let last = kept.as_ref().ok().and_then(|kept| kept.as_ref()?.last().ok()?);
        // What says to have been in the future says nothing.
        let is_done = last.is_some_and(|last| last <= now && now.since(last) < retention / PARTS);
        Ok((!is_done).then_some(Self { store, kept, now, retention }))
    }

    /// Prolongs all objects but those that are to go.
    ///
    /// # Errors
    /// [`ProlongError`].
    pub fn execute(self, is_to_go: impl Fn(&ObjectName) -> bool, observer: &dyn Observer) -> Result<Prolonged, ProlongError> {
        let until = self.now.saturating_add(self.retention);
        let mut done = Prolonged { until: Some(until), ..Prolonged::default() };
        let kept = self.kept.unwrap_or_else(|error| {
            done.findings.push(not_remembered(&error));
            None
        });
        let left = kept.as_ref().and_then(|kept| kept.leaving().ok()).unwrap_or_default();
        let is_old = |meta: &ObjectMeta| meta.modified.is_none_or(|modified| self.now.since(modified) >= self.retention / PARTS);
        // A mark is of use for days, and is to go then.
        let is_ours = |meta: &ObjectMeta| Promise::of(&meta.name).is_some_and(|promise| promise.kind != ObjectKind::Mark);
        let listed = wait("", self.store.list("", None))?;
        let (leaving, names): (Vec<_>, Vec<_>) = listed
            .into_iter()
            .filter(|meta| is_ours(meta) && is_old(meta))
            .map(|meta| meta.name)
            .partition(|name| left.contains(name) || is_to_go(name));
        done.leaving = leaving.len() as u64;
        let mut refused = 0;
        let mut progress = Progress { entry_total: names.len() as u64, ..Progress::default() };
        for some in names.chunks(AT_ONCE) {
            if observer.is_cancelled() {
                return Err(ProlongError::Cancelled);
            }
            for result in retain_all(self.store, some, until) {
                match result {
                    Ok(()) => done.count += 1,
                    // Deleted by a run of somebody else meanwhile.
                    Err(StoreError::NotFound { .. }) => {}
                    Err(StoreError::Denied { .. }) => refused += 1,
                    Err(error) => return Err(error.into()),
                }
            }
            progress.entry_count += some.len() as u64;
            observer.progress(&progress);
        }
        if refused > 0 {
            let message = format!(
                "the store refuses to keep {refused} objects for longer: these credentials need the right to prolong (s3:PutObjectRetention)"
            );
            done.findings.push(Finding { severity: Severity::Warning, place: Place::Operation, message });
        } else if let Some(Err(error)) = kept.map(|kept| kept.note(self.now)) {
            done.findings.push(not_remembered(&error));
        }
        Ok(done)
    }
}
