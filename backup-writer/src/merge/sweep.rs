//! The part of a merge that deletes: what was superseded long enough ago, and is wholly in what superseded it.

use std::collections::{HashMap, HashSet};

use fs_core::id::ObjectHash;
use fs_core::index::Shard;
use fs_core::report::{Finding, Place, Severity};
use fs_core::repository::{ListedShard, RepositoryError};
use fs_core::storage::{ObjectName, StoreError, delete_all};
use fs_core::time::Timestamp;

use super::{MergeError, Run, Seen, Sound};

/// Shards that are compared before those of them that may go are deleted.
const TOGETHER: usize = 256;

impl Run<'_> {
    /// Deletes superseded shards. One that is not wholly where it should be is in use again.
    pub(super) fn sweep(&mut self, seen: &mut Seen, before: Timestamp) -> Result<(), MergeError> {
        let mut by: Vec<_> = seen.sound.iter().filter(|sound| !sound.superseded.is_empty()).collect();
        by.sort_by_key(|sound| (sound.listed.modified, sound.listed.hash));
        let (mut deleted, mut lacking) = (HashSet::new(), HashMap::new());
        'all: for sound in by {
            let is_due = sound.listed.modified.is_some_and(|modified| modified <= before);
            let there = |hash| seen.listed.get(hash).filter(|listed| !deleted.contains(&listed.hash));
            let targets: Vec<_> = sound.superseded.iter().filter_map(there).copied().collect();
            if !is_due || targets.is_empty() || deleted.contains(&sound.listed.hash) {
                continue;
            }
            // It was seen a moment ago; what counts is what it holds now.
            let Some(whole) = self.read_again(&sound.listed)? else { continue };
            for some in targets.chunks(TOGETHER) {
                self.progress(seen)?;
                let held = self.held(&whole, some, &mut lacking)?;
                let names: Vec<_> = held.iter().map(ListedShard::name).collect();
                let count = self.delete(&names)?;
                self.report.deleted_count += count;
                deleted.extend(held.iter().map(|listed| listed.hash));
                // A store that holds on to one holds on to all: but what is lacking somewhere is to be taken in all the same.
                if count < names.len() as u64 {
                    break 'all;
                }
            }
        }
        // They are in use again, and are put into a shard that has all of them.
        seen.superseded.retain(|hash| !lacking.contains_key(hash));
        seen.sound.retain(|sound| !lacking.contains_key(&sound.listed.hash));
        seen.sound.extend(lacking.into_values().map(|listed| Sound { listed, superseded: Vec::new(), is_urgent: true }));
        let is_waiting = |hash: &&_| seen.listed.contains_key(*hash) && !deleted.contains(*hash);
        self.report.waiting_count = seen.superseded.iter().filter(is_waiting).count() as u64;
        seen.listed.retain(|hash, _| !deleted.contains(hash));
        Ok(())
    }

    fn read_again(&mut self, listed: &ListedShard) -> Result<Option<Shard>, MergeError> {
        let mut found = None;
        let repository = self.repository;
        repository.read_shards(&[*listed], |_, shard| match shard {
            Ok(shard) => {
                found = Some(shard);
                Ok(())
            }
            // What it replaces stays then.
            Err(RepositoryError::Object { name, source }) => {
                let message = format!("{source}; it is left alone, and so is what it was to replace");
                self.report.findings.push(Finding::object(Severity::Error, name.as_str(), message));
                Ok(())
            }
            Err(RepositoryError::Store(error)) if error.is_of_object() => Ok(()),
            Err(error) => Err(MergeError::from(error)),
        })?;
        Ok(found)
    }

    /// Those of some shards of which everything is in `whole` that the store still has a pack for. The others are `lacking` there.
    fn held(
        &mut self,
        whole: &Shard,
        some: &[ListedShard],
        lacking: &mut HashMap<ObjectHash, ListedShard>,
    ) -> Result<Vec<ListedShard>, MergeError> {
        let mut held = Vec::new();
        let repository = self.repository;
        repository.read_shards(some, |listed, shard| {
            match shard {
                Ok(shard) => {
                    let missing = shard.packs_missing_in(&[whole]);
                    self.packs.ask(repository, &missing)?;
                    if missing.iter().all(|pack| self.packs.gone.contains(&pack.id)) {
                        held.push(*listed);
                    } else {
                        lacking.insert(listed.hash, *listed);
                    }
                }
                // What cannot be compared is left alone; what is gone is gone.
                Err(RepositoryError::Object { name, source }) => {
                    let message = format!("{source}; it is left alone");
                    self.report.findings.push(Finding::object(Severity::Error, name.as_str(), message));
                }
                Err(RepositoryError::Store(error)) if error.is_of_object() => {}
                Err(error) => return Err(MergeError::from(error)),
            }
            Ok(())
        })?;
        Ok(held)
    }

    /// Deletes superseded catalogues.
    pub(super) fn sweep_catalogues(&mut self, before: Timestamp) -> Result<(), MergeError> {
        let found = self.repository.superseded_catalogues(before)?;
        self.report.findings.extend(found.findings);
        self.report.catalogue_count = found.listed_count;
        self.report.catalogues_deleted_count = self.delete(&found.names)?;
        Ok(())
    }

    /// How many of them were deleted. A store that holds on to its objects is no error.
    fn delete(&mut self, names: &[ObjectName]) -> Result<u64, MergeError> {
        let mut count = 0;
        for (name, result) in names.iter().zip(delete_all(self.store, names)) {
            match result {
                Ok(()) => count += 1,
                Err(StoreError::Denied { .. }) => self.report.held.push(name.clone()),
                Err(error) => return Err(error.into()),
            }
        }
        if count < names.len() as u64 {
            let message = "the store does not let go of what is superseded: it stays, and takes room".into();
            self.report.findings.push(Finding { severity: Severity::Note, place: Place::Operation, message });
        }
        Ok(count)
    }
}
