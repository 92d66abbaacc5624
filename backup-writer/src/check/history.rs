//! Whether the store shows everything that was ever there: what manifests name of one another, and what somebody knows from a report.
//!
//! A store that shows an older state of the whole repository has nothing damaged. It is found out by who has seen more: this machine, which remembers what it
//! has read; other machines, whose manifests name the newest of each device; people who have a report. Who forgets leaves a tombstone that nobody deletes.

use std::collections::BTreeMap;

use fs_core::id::SnapshotId;
use fs_core::report::{Finding, Place, Severity};
use fs_core::repository::Inventory;

/// What is missing though nobody forgot it.
pub(super) fn look(inventory: &Inventory, expected: &[String]) -> Vec<Finding> {
    // Also those that do not open: that is told of each by itself.
    let is_known = |id: &SnapshotId| inventory.objects.contains_key(id) || inventory.forgotten.contains(id);
    let mut findings = Vec::new();
    for wanted in expected {
        let is_it = |id: &&SnapshotId| id.to_string().starts_with(wanted);
        if !inventory.objects.keys().chain(&inventory.forgotten).any(|id| is_it(&id)) {
            let message = format!(
                "snapshot {wanted} is not in the store, and nobody forgot it: the store has lost it, or shows an older state of the repository"
            );
            findings.push(error(message));
        }
    }
    // Of very many that are missing, each is named once, by one that names it.
    let mut named: BTreeMap<SnapshotId, SnapshotId> = BTreeMap::new();
    for snapshot in inventory.snapshots.all() {
        // One that cannot be decoded is a finding of its own.
        let Ok(manifest) = snapshot.manifest() else { continue };
        let others = manifest.heads.iter().map(|head| head.manifest).chain(manifest.previous).chain(manifest.parent);
        for id in others.filter(|id| !is_known(id)) {
            named.insert(id, snapshot.id);
        }
    }
    let by = |(id, by): (SnapshotId, SnapshotId)| {
        let (id, by) = (id.short(), by.short());
        error(format!("snapshot {id} is not in the store, though snapshot {by} names it and nobody forgot it: the store has lost it"))
    };
    findings.extend(named.into_iter().map(by));
    findings
}

fn error(message: String) -> Finding {
    Finding { severity: Severity::Error, place: Place::Operation, message }
}
