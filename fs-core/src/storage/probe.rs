//! What a store really does, found out by doing it. `init` asks before a repository is made: a server's documentation and its answers promise
//! more than many keep.
//!
//! Nothing in the format depends on create-only puts, so a store without them is only named. A store that returns other bytes than it was
//! given is an [`Severity::Error`]: no repository belongs there. The objects are called `probe/…` and are no part of any repository.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use super::{ObjectName, StoreError, WriteStore, wait};
use crate::crypto::{self, RandomSource, random_array};
use crate::id::{ObjectHash, to_hex};
use crate::report::{Finding, Place, Severity};
use crate::time::Clock;

/// Writers that race for one name, and how often they do.
const RACERS: usize = 4;
const ROUNDS: usize = 5;
/// Bytes of a probe: enough that writes overlap.
const LENGTH: usize = 64 << 10;
/// What a clock may be off: some file systems count in steps of two seconds.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(30);

const PREFIX: &str = "probe/";

/// What was found out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbeReport {
    /// Of writers that raced for a name exactly one won, every time.
    pub create_only: bool,
    /// What is deleted is gone.
    pub deletes: bool,
    /// Seconds that the store's clock is ahead of ours; negative if it is behind, `None` if it has none.
    pub clock_ahead_s: Option<i64>,
    /// What the store cannot promise.
    pub findings: Vec<Finding>,
}

impl ProbeReport {
    fn find(&mut self, severity: Severity, message: impl Into<String>) {
        let finding = Finding { severity, place: Place::Operation, message: message.into() };
        // Every round finds the same.
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// Whether a repository may be made there.
    pub fn is_usable(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity < Severity::Error)
    }
}

/// Finds out what a store really does. Writes and deletes some objects; what cannot be deleted stays and harms nobody.
///
/// # Errors
/// If the store cannot be reached, read or written at all.
pub fn probe(store: &dyn WriteStore, clock: &dyn Clock, random: &dyn RandomSource) -> Result<ProbeReport, StoreError> {
    let mut report = ProbeReport { create_only: true, deletes: true, clock_ahead_s: None, findings: Vec::new() };
    let names: Vec<_> = (0..ROUNDS).map(|_| ObjectName::new(format!("{PREFIX}{}", to_hex(&random_array::<16>(random))))).collect();
    let result = race_and_read(store, &names, random, &mut report);
    // Also after a failure: nothing is left that can be taken away.
    let deleted = delete(store, &names, &mut report);
    result?;
    deleted?;
    compare_clocks(store, clock, &mut report)?;
    Ok(report)
}

fn race_and_read(
    store: &dyn WriteStore,
    names: &[ObjectName],
    random: &dyn RandomSource,
    report: &mut ProbeReport,
) -> Result<(), StoreError> {
    let mut losses = 0;
    for name in names {
        let race = race(store, name, random)?;
        let found = wait(name.as_str(), store.get(name))?;
        if !race.iter().any(|(bytes, _)| *bytes == found) {
            report.find(Severity::Error, "an object that was just written comes back with other bytes");
            continue;
        }
        let winners: Vec<_> = race.iter().filter(|(_, has_won)| *has_won).collect();
        if !matches!(winners.as_slice(), [(bytes, _)] if *bytes == found) {
            losses += 1;
        }
        read_back(store, name, &found, report)?;
    }
    if losses > 0 {
        report.create_only = false;
        let text = format!("of writers who race for one name more than one may hear that it won ({losses} of {ROUNDS} times)");
        report.find(Severity::Note, format!("{text}; nothing depends on it, because no two objects have the same name"));
    }
    list(store, names, report)
}

/// Everybody's bytes, and whether he was told that he had written them.
fn race(store: &dyn WriteStore, name: &ObjectName, random: &dyn RandomSource) -> Result<Vec<(Bytes, bool)>, StoreError> {
    let contents = (0..RACERS).map(|_| {
        let mut bytes = vec![0; LENGTH];
        random.fill(&mut bytes);
        Bytes::from(bytes)
    });
    let barrier = &Barrier::new(RACERS);
    let results: Vec<_> = thread::scope(|scope| {
        let write = |bytes: Bytes| {
            let hash = ObjectHash::from_bytes(crypto::hash(&bytes));
            barrier.wait();
            (wait(name.as_str(), store.put_new(name, bytes.clone(), &hash)), bytes)
        };
        let threads: Vec<_> = contents.map(|bytes| scope.spawn(move || write(bytes))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a store returns errors and does not panic")).collect()
    });
    let told = |(result, bytes)| match result {
        Ok(()) => Ok((bytes, true)),
        Err(StoreError::AlreadyExists { .. }) => Ok((bytes, false)),
        Err(error) => Err(error),
    };
    results.into_iter().map(told).collect()
}

/// Ranges at the beginning, in the middle and at the end; the size; a range that does not fit.
fn read_back(store: &dyn WriteStore, name: &ObjectName, bytes: &Bytes, report: &mut ProbeReport) -> Result<(), StoreError> {
    let length = bytes.len();
    let mut is_exact = wait(name.as_str(), store.stat(name))?.size == length as u64;
    for range in [0..1, length / 3..length / 2, length - 1..length] {
        let part = wait(name.as_str(), store.get_range(name, range.start as u64..range.end as u64));
        is_exact &= match part {
            Ok(part) => part == bytes.slice(range),
            Err(StoreError::WrongSize { .. }) => false,
            Err(error) => return Err(error),
        };
    }
    let beyond = wait(name.as_str(), store.get_range(name, 1..length as u64 + 1));
    is_exact &= matches!(beyond, Err(StoreError::WrongSize { .. }));
    if !is_exact {
        let text = "a part of an object that was asked for does not come back as it was written, or its size is wrong";
        report.find(Severity::Error, text);
    }
    Ok(())
}

fn list(store: &dyn WriteStore, names: &[ObjectName], report: &mut ProbeReport) -> Result<(), StoreError> {
    let listed: BTreeSet<_> = wait(PREFIX, store.list(PREFIX, None))?.into_iter().map(|meta| meta.name).collect();
    let missing = names.iter().filter(|name| !listed.contains(*name)).count();
    if missing > 0 {
        let text = format!("a listing does not show {missing} of {} objects that were just written", names.len());
        report.find(Severity::Warning, format!("{text}: what another machine has saved may be seen later"));
    }
    Ok(())
}

fn delete(store: &dyn WriteStore, names: &[ObjectName], report: &mut ProbeReport) -> Result<(), StoreError> {
    for name in names {
        match wait(name.as_str(), store.delete(name)) {
            Ok(()) if store.capabilities().retention.is_some() => {
                let text = "the store deletes what it was told to keep: it has no Object Lock, or pays no heed to it";
                report.find(Severity::Error, format!("{text}; leave 'retention' out of the address, or use another store"));
            }
            Ok(()) => {}
            Err(StoreError::Denied { .. }) if store.capabilities().retention.is_some() => {
                report.find(
                    Severity::Note,
                    "nobody can delete there before its time what is put from now on, the traces of this trial neither",
                );
                return Ok(());
            }
            Err(StoreError::Denied { .. }) => {
                report.deletes = false;
                report.find(Severity::Note, "nothing can be deleted there with these credentials: space will never be freed");
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    let listed = wait(PREFIX, store.list(PREFIX, None))?;
    for name in names {
        let is_listed = listed.iter().any(|meta| meta.name == *name);
        let is_there = match wait(name.as_str(), store.stat(name)) {
            Ok(_) => true,
            Err(StoreError::NotFound { .. }) => false,
            Err(error) => return Err(error),
        };
        if is_there || is_listed {
            report.deletes = false;
            report.find(Severity::Warning, "an object that was deleted is still there: space may never be freed");
            return Ok(());
        }
    }
    Ok(())
}

fn compare_clocks(store: &dyn WriteStore, clock: &dyn Clock, report: &mut ProbeReport) -> Result<(), StoreError> {
    let ours = clock.now();
    let Some(theirs) = wait("clock", store.server_time())? else { return Ok(()) };
    let (ahead, behind) = (theirs.since(ours), ours.since(theirs));
    report.clock_ahead_s = Some(theirs.seconds().saturating_sub(ours.seconds()));
    for (difference, word) in [(ahead, "ahead of"), (behind, "behind")] {
        if difference > CLOCK_TOLERANCE {
            let text = format!("the store's clock is {} s {word} this machine's", difference.as_secs());
            report.find(Severity::Warning, format!("{text}: set them right, or snapshots bear wrong times"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
