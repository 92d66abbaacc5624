//! What is missing from the repository goes from the copy too, if somebody wants that: late, little at a time, and never what opens it.
//!
//! Without a key nobody can tell what a prune deleted from what a store has lost. So the time between is for people: they are told of what is missing, and
//! bring it back, or look for the damage.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_core::crypto;
use fs_core::id::to_hex;
use fs_core::object::ObjectKind;
use fs_core::report::{Severity, chain};
use fs_core::state::private_folder;
use fs_core::storage::{ObjectName, StoreError, delete_all, wait};
use fs_core::time::Timestamp;

use super::listing::Listed;
use super::{CopyError, Run};

/// How much of the copy one run deletes at most, in per cent.
const DELETE_PERCENT: usize = 20;
/// Objects that are deleted side by side.
const AT_ONCE: usize = 64;

/// What may go, in this order: what comes first needs what comes after. Keys, configurations, certificates and tombstones are deleted by nobody.
const ORDER: [&[ObjectKind]; 3] = [
    &[ObjectKind::Seal],
    &[ObjectKind::Manifest],
    &[ObjectKind::Catalogue, ObjectKind::Mark, ObjectKind::Shard, ObjectKind::MetaPack, ObjectKind::DataPack],
];

/// Since when this machine has seen objects missing, in a file for each place of a copy. Who loses it waits anew.
struct Memory {
    file: PathBuf,
    since: BTreeMap<ObjectName, i64>,
}

const FIRST_LINE: &str = "yesterdrive copy 1";

impl Memory {
    fn open(folder: &Path, location: &str) -> Self {
        let digits: String = to_hex(&crypto::hash(location.as_bytes())).chars().take(32).collect();
        let file = folder.join(format!("copy-{digits}"));
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let row = |line: &str| {
            let (seconds, name) = line.split_once(' ')?;
            Some((ObjectName::parse(name)?, seconds.parse().ok()?))
        };
        let mut lines = text.lines();
        let is_ours = lines.next() == Some(FIRST_LINE);
        Self { file, since: if is_ours { lines.filter_map(row).collect() } else { BTreeMap::new() } }
    }

    /// What is missing now, and since when.
    fn note(&mut self, missing: &[(ObjectName, Listed)], now: Timestamp) {
        let before = std::mem::take(&mut self.since);
        let since = |name: &ObjectName| before.get(name).copied().unwrap_or(now.seconds().saturating_add(1));
        self.since = missing.iter().map(|(name, _)| (name.clone(), since(name))).collect();
    }

    fn is_due(&self, name: &ObjectName, now: Timestamp, after: Duration) -> bool {
        let since = self.since.get(name).and_then(|seconds| Timestamp::new(*seconds, 0));
        since.is_some_and(|since| since.saturating_add(after) <= now)
    }

    fn save(&self) -> io::Result<()> {
        let folder = self.file.parent().ok_or(io::ErrorKind::NotFound)?;
        private_folder(folder)?;
        let rows = self.since.iter().map(|(name, seconds)| format!("{seconds} {name}\n"));
        let text: String = std::iter::once(format!("{FIRST_LINE}\n")).chain(rows).collect();
        let mut new = tempfile::NamedTempFile::new_in(folder)?;
        io::Write::write_all(&mut new, text.as_bytes())?;
        new.as_file().sync_all()?;
        new.persist(&self.file)?;
        Ok(())
    }
}

impl Run<'_> {
    /// Notes what is missing, and deletes what has been missing for long enough.
    pub(super) fn delete(&mut self, missing: &[(ObjectName, Listed)]) -> Result<(), CopyError> {
        let Some(after) = self.options.delete_after else { return Ok(()) };
        let Some(state) = &self.options.state else {
            self.finding(Severity::Warning, "nothing is deleted in the copy: there is no folder to remember what is missing (--cache-dir)");
            return Ok(());
        };
        let mut memory = Memory::open(&state.join(self.repository.to_string()), &self.to.location());
        // The latest clock says since when, the earliest one what time it is: a wrong one makes nothing old.
        let clocks = self.clocks()?;
        memory.note(missing, clocks.into_iter().fold(self.options.clock.now(), Timestamp::max));
        if let Err(error) = memory.save() {
            self.finding(Severity::Warning, format!("nothing is deleted in the copy: what is missing cannot be remembered: {error}"));
            return Ok(());
        }
        let now = clocks.into_iter().fold(self.options.clock.now(), Timestamp::min);
        let is_of_use = |(_, listed): &&(ObjectName, Listed)| ORDER.iter().any(|kinds| kinds.contains(&listed.promise.kind));
        let may_go = missing.iter().filter(is_of_use).count() as u64;
        if let Some(why) = self.why_not() {
            self.report.deletions_waiting = may_go;
            if may_go > 0 {
                self.finding(Severity::Note, format!("nothing is deleted in the copy: {why}"));
            }
            return Ok(());
        }
        let mut room = self.copy.objects.len() * DELETE_PERCENT / 100;
        for kinds in ORDER {
            let is_due = |(name, listed): &&(ObjectName, Listed)| kinds.contains(&listed.promise.kind) && memory.is_due(name, now, after);
            let due: Vec<_> = missing.iter().filter(is_due).collect();
            let gone = self.delete_some(due.get(..room.min(due.len())).unwrap_or_default())?;
            room -= gone;
            // What is due and stays may need what comes after it. What is not due was there when that was missing already, and does without it.
            if gone < due.len() {
                break;
            }
        }
        self.report.deletions_waiting = may_go - self.report.deleted.count;
        Ok(())
    }

    /// The clocks of both stores, this machine's for one that has none.
    fn clocks(&self) -> Result<[Timestamp; 2], CopyError> {
        let here = wait("clock", self.from.server_time()).map_err(CopyError::Read)?;
        let there = wait("clock", self.to.server_time()).map_err(CopyError::Copy)?;
        Ok([here, there].map(|time| time.unwrap_or_else(|| self.options.clock.now())))
    }

    /// A reason to delete nothing.
    fn why_not(&self) -> Option<&'static str> {
        let has_snapshots = self.original.snapshots().next().is_some();
        if !has_snapshots {
            return Some("the repository shows no snapshot at all");
        }
        if !self.newer_heads().is_empty() {
            return Some("it knows snapshots that the repository has lost");
        }
        let is_behind = self.report.held_back.count + self.report.damaged > 0;
        is_behind.then_some("something of the repository is not in it yet, or damaged")
    }

    /// Deletes objects; how many are gone. A store that refuses is asked no more.
    fn delete_some(&mut self, due: &[&(ObjectName, Listed)]) -> Result<usize, CopyError> {
        let mut count = 0;
        for some in due.chunks(AT_ONCE) {
            if self.observer.is_cancelled() {
                return Err(CopyError::Cancelled { copied: self.report.copied });
            }
            let (results, mut refused) = (delete_all(self.to, some.iter().map(|(name, _)| name)), None);
            for ((name, listed), result) in some.iter().zip(results) {
                match result {
                    Ok(()) => {
                        count += 1;
                        self.report.deleted.add(listed.size);
                        self.copy.objects.remove(name);
                    }
                    Err(error @ StoreError::Denied { .. }) => refused = Some(error),
                    Err(error) => return Err(CopyError::Copy(error)),
                }
            }
            if let Some(error) = refused {
                let reason = "the copy does not let go of what is to be deleted: it keeps objects for a time, or may not delete";
                self.finding(Severity::Note, format!("{reason}: {}", chain(&error)));
                break;
            }
        }
        Ok(count)
    }
}
