use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;

use super::*;
use crate::storage::local::LocalStore;
use crate::storage::memory::MemoryStore;
use crate::storage::{Capabilities, ObjectMeta, ReadStore};
use crate::testing::{CallKind, Fault, FaultyStore, ManualClock, Rule, SeededRandom};
use crate::time::{SystemClock, Timestamp};

/// What a store may get wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fails {
    Nothing,
    /// Every writer is told that he won, and overwrites.
    Overwrites,
    /// Writers are refused, and have written.
    RefusesAndWrites,
    /// Other bytes are kept than were sent.
    Garbles,
    /// The last byte of a part is missing.
    CutsRanges,
    /// A range beyond the end is answered with what there is.
    AnswersBeyondTheEnd,
    /// A listing shows nothing.
    ListsNothing,
    /// Says that it deleted, and did not.
    KeepsDeleted,
    /// Does not let anybody delete.
    RefusesDelete,
    /// Has no clock.
    HasNoClock,
}

/// A store in memory with one fault.
#[derive(Debug)]
struct Bad {
    memory: MemoryStore,
    fails: Fails,
    puts: AtomicUsize,
}

impl Bad {
    fn new(fails: Fails) -> Self {
        Self { memory: MemoryStore::with_clock(ManualClock::shared()), fails, puts: AtomicUsize::new(0) }
    }
}

#[async_trait]
impl ReadStore for Bad {
    async fn get(&self, name: &ObjectName) -> Result<Bytes, StoreError> {
        self.memory.get(name).await
    }

    async fn get_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, StoreError> {
        let size = self.memory.stat(name).await?.size;
        match self.fails {
            Fails::CutsRanges => Ok(self.memory.get_range(name, range).await?.split_off(1)),
            Fails::AnswersBeyondTheEnd => self.memory.get_range(name, range.start..range.end.min(size)).await,
            _ => self.memory.get_range(name, range).await,
        }
    }

    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        self.memory.stat(name).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>) -> Result<Vec<ObjectMeta>, StoreError> {
        if self.fails == Fails::ListsNothing { Ok(Vec::new()) } else { self.memory.list(prefix, after).await }
    }

    async fn server_time(&self) -> Result<Option<Timestamp>, StoreError> {
        if self.fails == Fails::HasNoClock { Ok(None) } else { self.memory.server_time().await }
    }

    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }

    fn location(&self) -> String {
        self.memory.location()
    }
}

#[async_trait]
impl WriteStore for Bad {
    async fn put_new(&self, name: &ObjectName, bytes: Bytes, checksum: &ObjectHash) -> Result<(), StoreError> {
        let is_first = self.puts.fetch_add(1, Ordering::SeqCst).is_multiple_of(RACERS);
        match self.fails {
            Fails::Overwrites => drop(self.memory.overwrite(name, Some(bytes))),
            Fails::RefusesAndWrites => {
                self.memory.overwrite(name, Some(bytes));
                return if is_first { Ok(()) } else { Err(StoreError::AlreadyExists { name: name.clone() }) };
            }
            Fails::Garbles => drop(self.memory.overwrite(name, Some(bytes.slice(1..)))),
            _ => return self.memory.put_new(name, bytes, checksum).await,
        }
        Ok(())
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        match self.fails {
            Fails::KeepsDeleted => Ok(()),
            Fails::RefusesDelete => {
                Err(StoreError::Denied { place: name.to_string(), source: std::io::ErrorKind::PermissionDenied.into() })
            }
            _ => self.memory.delete(name).await,
        }
    }

    async fn retain(&self, name: &ObjectName, until: Timestamp) -> Result<(), StoreError> {
        self.memory.retain(name, until).await
    }

    fn as_read(self: Arc<Self>) -> Arc<dyn ReadStore> {
        self
    }
}

fn probed(store: &dyn WriteStore) -> Result<ProbeReport, StoreError> {
    probe(store, &*ManualClock::shared(), &*SeededRandom::shared(1))
}

fn severities(report: &ProbeReport) -> Vec<Severity> {
    report.findings.iter().map(|finding| finding.severity).collect()
}

#[test]
fn a_store_that_keeps_its_word_has_no_findings_and_nothing_is_left() {
    let store = Bad::new(Fails::Nothing);
    let report = probed(&store).unwrap();
    assert_eq!(report, ProbeReport { create_only: true, deletes: true, clock_ahead_s: Some(0), findings: Vec::new() });
    assert_eq!(store.memory.contents(), []);
}

#[test]
fn every_broken_promise_is_found() {
    let clean = ProbeReport { create_only: true, deletes: true, clock_ahead_s: Some(0), findings: Vec::new() };
    for (fails, severity, expected, says) in [
        (Fails::Overwrites, Severity::Note, ProbeReport { create_only: false, ..clean.clone() }, "race"),
        (Fails::RefusesAndWrites, Severity::Note, ProbeReport { create_only: false, ..clean.clone() }, "race"),
        (Fails::Garbles, Severity::Error, clean.clone(), "other bytes"),
        (Fails::CutsRanges, Severity::Error, clean.clone(), "part"),
        (Fails::AnswersBeyondTheEnd, Severity::Error, clean.clone(), "part"),
        (Fails::ListsNothing, Severity::Warning, clean.clone(), "listing"),
        (Fails::KeepsDeleted, Severity::Warning, ProbeReport { deletes: false, ..clean.clone() }, "still there"),
        (Fails::RefusesDelete, Severity::Note, ProbeReport { deletes: false, ..clean.clone() }, "deleted"),
    ] {
        let report = probed(&Bad::new(fails)).unwrap();
        assert!(severities(&report).iter().all(|found| *found == severity) && !report.findings.is_empty(), "{fails:?}: {report:?}");
        assert!(report.findings[0].message.contains(says), "{fails:?}: {report:?}");
        assert_eq!(report.is_usable(), severity < Severity::Error, "{fails:?}");
        assert_eq!(ProbeReport { findings: Vec::new(), ..report }, expected, "{fails:?}");
    }
}

#[test]
fn clocks_are_compared() {
    for (ahead, found) in [(0, false), (20, false), (-20, false), (3600, true), (-3600, true)] {
        let (ours, theirs) = (ManualClock::shared(), ManualClock::shared());
        theirs.set(Timestamp::new(ours.now().seconds() + ahead, 0).unwrap());
        let report = probe(&MemoryStore::with_clock(theirs), &*ours, &*SeededRandom::shared(1)).unwrap();
        assert_eq!((report.clock_ahead_s, report.findings.len()), (Some(ahead), usize::from(found)), "{report:?}");
    }
    assert_eq!(probed(&Bad::new(Fails::HasNoClock)).unwrap().clock_ahead_s, None);
}

#[test]
fn a_store_that_cannot_be_used_is_an_error_and_is_cleaned_up() {
    for kind in [CallKind::Put, CallKind::Get, CallKind::List] {
        let memory = MemoryStore::with_clock(ManualClock::shared());
        let faulty = FaultyStore::new(Arc::new(memory.clone()), [Rule::nth(1, Fault::ErrorBefore).kind(kind)]);
        assert!(probed(&*faulty).is_err(), "{kind:?}");
        assert_eq!(memory.contents(), [], "{kind:?}");
    }
}

#[test]
fn a_folder_keeps_its_word_and_has_the_clock_of_its_file_system() {
    let place = tempfile::tempdir().unwrap();
    let store = LocalStore::open(place.path()).unwrap();
    let report = probe(&store, &SystemClock, &*SeededRandom::shared(1)).unwrap();
    assert_eq!((report.create_only, report.deletes, report.findings), (true, true, Vec::new()));
    assert!(report.clock_ahead_s.is_some());
}
