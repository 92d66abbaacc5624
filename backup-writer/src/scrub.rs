//! `scrub()`: whether objects are what their names say. Needs no key: who looks after the disk, or copies it, can do it. Changes nothing.
//!
//! It finds bytes that have changed and objects that stand under another name. What is missing only [`crate::check`] can tell, which knows what the snapshots need.

use std::collections::{HashMap, HashSet};

use fs_core::id::{ObjectHash, RepositoryId};
use fs_core::object::Header;
use fs_core::object::keyless::{Promise, Prover, describe};
use fs_core::observer::{Observer, Progress};
use fs_core::path::display;
use fs_core::report::{Finding, Severity, chain};
use fs_core::storage::local::strangers::{Stranger, StrangerKind};
use fs_core::storage::whole::read_in_parts;
use fs_core::storage::{ObjectMeta, ReadStore, StoreError, wait};

use crate::side_by_side::side_by_side;

/// Objects that are read at a time. More would make a disk seek to and fro.
const READERS_MAX: usize = 4;

/// What a scrub saw.
#[derive(Clone, Debug, Default)]
pub struct ScrubReport {
    /// Objects that were read.
    pub object_count: u64,
    /// Their bytes.
    pub byte_count: u64,
    /// Objects of the above of which only the header can be compared without a key.
    pub unproven_count: u64,
    /// Objects that are damaged, misplaced or cannot be read.
    pub damaged_count: u64,
    /// Files that cut-off writers have left.
    pub temporary_count: u64,
    /// Other files that are no objects.
    pub foreign_count: u64,
    /// The repository that most objects belong to; `None` if there are none.
    pub repository: Option<RepositoryId>,
    /// What is wrong or strange.
    pub findings: Vec<Finding>,
}

/// Reads every object of a store. `strangers` are what lies beside them, where the store is a folder.
///
/// # Errors
/// [`StoreError`] if the store cannot be listed; an object that cannot be read is a finding.
pub fn scrub(store: &dyn ReadStore, strangers: &[Stranger], observer: &dyn Observer) -> Result<ScrubReport, StoreError> {
    let mut report = ScrubReport::default();
    let (mut objects, mut findings) = (Vec::new(), Vec::new());
    for meta in wait("", store.list("", None))? {
        match Promise::of(&meta.name) {
            Some(promise) => objects.push((meta, promise)),
            None => {
                let head = wait(meta.name.as_str(), store.get_range(&meta.name, 0..meta.size.min(HEAD_LENGTH))).unwrap_or_default();
                findings.push(stranger(meta.name.as_str(), &StrangerKind::Foreign(head.to_vec()), &mut report));
            }
        }
    }
    findings.extend(strangers.iter().map(|found| stranger(&display(found.path.as_os_str().as_encoded_bytes()), &found.kind, &mut report)));
    let copies = copies(&objects);
    let mut proven = prove_all(store, &objects, observer);
    proven.sort_unstable_by_key(|(at, _)| *at);
    let mut owners = HashMap::<RepositoryId, u64>::new();
    proven.iter().filter_map(|(_, result)| result.as_ref().ok()).for_each(|owner| *owners.entry(*owner).or_default() += 1);
    report.repository = owners.into_iter().max_by_key(|(id, count)| (*count, *id)).map(|(id, _)| id);
    for (at, result) in proven {
        let Some((meta, promise)) = objects.get(at) else { continue };
        report.object_count += 1;
        report.byte_count += meta.size;
        report.unproven_count += u64::from(!promise.is_provable());
        let problem = match result {
            Ok(_) if promise.hash().is_some_and(|hash| copies.contains(&hash)) => {
                "it is misplaced, or its copy is: another name ends in the same hash".into()
            }
            Ok(owner) if Some(owner) == report.repository => continue,
            Ok(owner) => format!("it is misplaced: it belongs to repository {owner}"),
            Err(problem) => problem,
        };
        report.damaged_count += 1;
        findings.push(Finding::object(Severity::Error, meta.name.as_str(), problem));
    }
    findings.iter().for_each(|finding| observer.finding(finding));
    report.findings = findings;
    Ok(report)
}

/// Hashes in which several names end: no two objects are the same.
fn copies(objects: &[(ObjectMeta, Promise)]) -> HashSet<ObjectHash> {
    let mut seen = HashSet::new();
    objects.iter().filter_map(|(_, promise)| promise.hash()).filter(|hash| !seen.insert(*hash)).collect()
}

/// As much of a foreign file as tells what it is.
const HEAD_LENGTH: u64 = fs_core::object::HEADER_LENGTH as u64;

/// What is said of something that is no object.
fn stranger(name: &str, kind: &StrangerKind, report: &mut ScrubReport) -> Finding {
    let (severity, message) = match kind {
        StrangerKind::Temporary => {
            report.temporary_count += 1;
            (Severity::Note, "a writer that was cut off has left it, or one that is at work needs it".into())
        }
        StrangerKind::Special => {
            report.foreign_count += 1;
            (Severity::Note, "it is no file: nothing reads it".into())
        }
        StrangerKind::Foreign(head) => {
            report.foreign_count += 1;
            match Header::decode(head) {
                Ok((header, ..)) => (Severity::Warning, format!("it is misplaced: by its header it is {}", describe(&header))),
                Err(_) => (Severity::Note, "it is no object of a repository: nothing reads it".into()),
            }
        }
    };
    Finding::object(severity, name, message)
}

/// Which repository each object belongs to, or what is wrong with it, by its place in the list. Those that were not reached are not there.
fn prove_all(
    store: &dyn ReadStore,
    objects: &[(ObjectMeta, Promise)],
    observer: &dyn Observer,
) -> Vec<(usize, Result<RepositoryId, String>)> {
    let byte_total = objects.iter().map(|(meta, _)| meta.size).sum();
    let mut progress = Progress { entry_total: objects.len() as u64, byte_total, ..Progress::default() };
    let mut results = Vec::with_capacity(objects.len());
    let numbered: Vec<_> = objects.iter().enumerate().collect();
    let work = |(_, (meta, promise)): &(usize, &(ObjectMeta, Promise))| prove(store, meta, *promise, observer);
    let each = |(at, (meta, _)): &(usize, &(ObjectMeta, Promise)), result| {
        results.push((*at, Option::ok_or(result, Stopped)?));
        progress.entry_count += 1;
        progress.byte_count += meta.size;
        observer.progress(&progress);
        Ok(())
    };
    // What was proven until then is told.
    let _: Result<(), Stopped> = side_by_side(crate::worker_count().min(READERS_MAX), &numbered, work, each);
    results
}

/// Somebody wants an end.
struct Stopped;

/// `None` if it was stopped.
fn prove(store: &dyn ReadStore, meta: &ObjectMeta, promise: Promise, observer: &dyn Observer) -> Option<Result<RepositoryId, String>> {
    let mut prover = Prover::new(promise);
    let mut add = |part: bytes::Bytes| {
        prover.update(&part);
        !observer.is_cancelled()
    };
    match read_in_parts(store, &meta.name, meta.size, &mut add) {
        Ok(true) => Some(prover.finish().map_err(|flaw| chain(&flaw))),
        Ok(false) => None,
        Err(error) => Some(Err(format!("it cannot be read: {}", chain(&error)))),
    }
}
