//! Marks: what is condemned now, written down.

use fs_core::crypto::random_array;
use fs_core::id::{ObjectHash, PackId, RunId, SnapshotId};
use fs_core::object::{self, ObjectKind, Signer};
use fs_core::snapshot::mark::{GRACE_LEAST, MARK_ROWS_MAX, Mark};
use fs_core::storage::{WriteStore, wait};

use super::{Plan, PruneError};
use crate::create::put_hashed;

impl Plan<'_> {
    /// Condemns packs, and forgotten snapshots in marks of their own: the newest of a device keeps its mark for as long as it stays.
    pub(super) fn mark(&mut self, store: &dyn WriteStore, signer: &Signer, mut packs: Vec<PackId>) -> Result<(), PruneError> {
        let mut snapshots = std::mem::take(&mut self.decision.snapshots);
        packs.sort_unstable();
        snapshots.sort_unstable();
        let run = RunId::from_bytes(random_array(&**self.repository.random()));
        for packs in packs.chunks(MARK_ROWS_MAX) {
            self.put_mark(store, signer, (run, packs, &[]))?;
        }
        for snapshots in snapshots.chunks(MARK_ROWS_MAX) {
            self.put_mark(store, signer, (run, &[], snapshots))?;
        }
        self.report.snapshots_condemned = snapshots.len() as u64;
        Ok(())
    }

    fn put_mark(
        &mut self,
        store: &dyn WriteStore,
        signer: &Signer,
        (run, packs, snapshots): (RunId, &[PackId], &[(ObjectHash, SnapshotId)]),
    ) -> Result<(), PruneError> {
        let random = &**self.repository.random();
        // A clock that is behind, and is set right later, makes nothing old: a mark is not older than what the store had.
        let newest = self.table.packs().iter().filter_map(|pack| pack.received).max();
        let time = newest.into_iter().fold(self.repository.clock().now(), |time, newest| time.max(newest));
        let server_time = wait("clock", store.server_time())?;
        let (device, grace) = (signer.device, self.options.grace.max(GRACE_LEAST));
        let mark = Mark { run, device, time, server_time, grace, packs: packs.to_vec(), snapshots: snapshots.to_vec() };
        let object = mark.encode_object(self.repository.ring(), signer, random);
        put_hashed(store, object, |hash| object::run_name(ObjectKind::Mark, &run, hash))?;
        let due = mark.due(None);
        self.report.next_due = Some(self.report.next_due.map_or(due, |next| if next > self.now { next.min(due) } else { due }));
        Ok(())
    }
}
