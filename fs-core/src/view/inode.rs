//! Numbers of entries: 20 bits slot, 44 bits position. Slots are given once and never again, so that a number means one entry for ever.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};

use crate::id::SnapshotId;
use crate::state::open_database;
use crate::tree::POSITION_MAX;

/// Bits of a position.
const POSITION_BITS: u32 = 44;
/// Slots are never given twice, also not after rows were deleted. A power failure may cost the last numbers given, and the first mount of ten thousand
/// snapshots does not wait for the disk ten thousand times. The table is read once, from its beginning to its end: pages of it need not be kept.
const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    PRAGMA cache_size = -64;
    CREATE TABLE IF NOT EXISTS slots (slot INTEGER PRIMARY KEY AUTOINCREMENT, snapshot BLOB NOT NULL UNIQUE)";
/// Largest slot.
const SLOT_MAX: u32 = (1 << 20) - 1;

/// Which entry of which snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Inode {
    /// The snapshot's slot; 0 is the view's own.
    pub slot: u32,
    /// Position in the snapshot.
    pub position: u64,
}

impl Inode {
    /// The number.
    pub fn number(self) -> u64 {
        u64::from(self.slot) << POSITION_BITS | self.position
    }

    /// Whether the view makes it up; slot 0 is its own.
    pub fn is_made_up(self) -> bool {
        self.slot == 0
    }

    /// The entry of a number.
    pub fn from_number(number: u64) -> Self {
        let slot = u32::try_from(number >> POSITION_BITS).unwrap_or(SLOT_MAX);
        Self { slot, position: number & POSITION_MAX }
    }
}

/// Which snapshot has which slot. Kept in the local state folder, so that numbers are the same after a remount on this machine.
#[derive(Debug)]
pub struct SlotTable {
    known: BTreeMap<SnapshotId, u32>,
    /// The largest slot that is known to be given.
    largest: u32,
    database: Option<Connection>,
}

impl SlotTable {
    /// Opens the table of a state folder. One that cannot be opened or written is worth a warning: numbers then last for this mount.
    pub fn open(state: Option<&Path>) -> Self {
        let (database, known) = match state.map(open_table) {
            Some(Ok((database, known))) => (Some(database), known),
            Some(Err(error)) => {
                warn(&*error);
                (None, BTreeMap::new())
            }
            None => (None, BTreeMap::new()),
        };
        Self { largest: known.values().max().copied().unwrap_or(0), known, database }
    }

    /// Gives slots to all snapshots that have none, in their order and in one step: the first mount of ten thousand does not ask the table ten thousand times.
    pub fn give<'a>(&mut self, ids: impl IntoIterator<Item = &'a SnapshotId>) {
        let new: Vec<_> = ids.into_iter().filter(|id| !self.known.contains_key(id)).copied().collect();
        if new.is_empty() {
            return;
        }
        let kept = self.database.as_mut().map(|database| persistent_slots_for(database, &new));
        match kept {
            Some(Ok(slots)) => new.into_iter().zip(slots).for_each(|(id, slot)| self.note(id, slot)),
            Some(Err(error)) => {
                // From now on it is not asked: it would give the numbers that are given here to other snapshots.
                warn(&error);
                self.database = None;
                self.count_up(new);
            }
            None => self.count_up(new),
        }
    }

    /// The slot of a snapshot, from 1; `None` if all million are taken.
    pub fn slot(&mut self, id: &SnapshotId) -> Option<u32> {
        self.give([id]);
        self.known.get(id).copied()
    }

    fn count_up(&mut self, ids: Vec<SnapshotId>) {
        for id in ids {
            self.note(id, self.largest + 1);
        }
    }

    fn note(&mut self, id: SnapshotId, slot: u32) {
        if slot <= SLOT_MAX {
            self.largest = self.largest.max(slot);
            self.known.insert(id, slot);
        }
    }
}

fn warn(error: &(dyn std::error::Error + 'static)) {
    tracing::warn!(error, "entry numbers will not be the same after the next mount");
}

fn open_table(state: &Path) -> Result<(Connection, BTreeMap<SnapshotId, u32>), Box<dyn std::error::Error>> {
    let database = open_database(state, "mount.db", SCHEMA)?;
    let known = persistent_slots(&database)?;
    Ok((database, known))
}

fn persistent_slots(database: &Connection) -> rusqlite::Result<BTreeMap<SnapshotId, u32>> {
    let mut rows = database.prepare("SELECT snapshot, slot FROM slots")?;
    let rows = rows.query_map([], |row| Ok((SnapshotId::from_bytes(row.get(0)?), row.get(1)?)))?;
    rows.collect()
}

fn persistent_slots_for(database: &mut Connection, ids: &[SnapshotId]) -> rusqlite::Result<Vec<u32>> {
    let all = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let slots = {
        let mut select = all.prepare("SELECT slot FROM slots WHERE snapshot = ?1")?;
        let mut insert = all.prepare("INSERT INTO slots (snapshot) VALUES (?1) RETURNING slot")?;
        // Asked first: an insertion that is refused takes a number away all the same.
        let mut slot = |id: &SnapshotId| match select.query_row([&id.as_bytes()[..]], |row| row.get(0)).optional()? {
            Some(slot) => Ok(slot),
            None => insert.query_row([&id.as_bytes()[..]], |row| row.get(0)),
        };
        ids.iter().map(&mut slot).collect::<rusqlite::Result<Vec<_>>>()?
    };
    all.commit()?;
    Ok(slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> SnapshotId {
        SnapshotId::from_bytes([n; 32])
    }

    #[test]
    fn numbers_and_back() {
        for inode in
            [Inode { slot: 0, position: 1 }, Inode { slot: SLOT_MAX, position: POSITION_MAX }, Inode { slot: 7, position: 1 << 40 }]
        {
            assert_eq!(Inode::from_number(inode.number()), inode);
        }
    }

    #[test]
    fn slots_are_the_same_after_reopening_and_never_reused() {
        let state = tempfile::tempdir().unwrap();
        let mut first = SlotTable::open(Some(state.path()));
        assert_eq!((first.slot(&id(1)), first.slot(&id(2)), first.slot(&id(1))), (Some(1), Some(2), Some(1)));
        drop(first);
        let mut second = SlotTable::open(Some(state.path()));
        assert_eq!((second.slot(&id(3)), second.slot(&id(2))), (Some(3), Some(2)));
        assert_eq!(second.slot(&id(4)), Some(4));
        let mut memory = SlotTable::open(None);
        assert_eq!((memory.slot(&id(9)), memory.slot(&id(8))), (Some(1), Some(2)));
    }

    #[test]
    fn many_slots_are_given_in_their_order_by_several_tables() {
        let state = tempfile::tempdir().unwrap();
        let ids: Vec<_> = (1..=200).map(id).collect();
        let (mut one, mut other) = (SlotTable::open(Some(state.path())), SlotTable::open(Some(state.path())));
        one.give(&ids[..100]);
        other.give(&ids[50..]);
        one.give(&ids);
        for (n, id) in (1..).zip(&ids) {
            assert_eq!((one.slot(id), other.slot(id)), (Some(n), Some(n)));
        }
    }

    #[test]
    fn two_snapshots_never_share_a_slot_though_the_table_fails_for_a_while() {
        let state = tempfile::tempdir().unwrap();
        let mut table = SlotTable::open(Some(state.path()));
        assert_eq!(table.slot(&id(1)), Some(1));
        let other = Connection::open(state.path().join("mount.db")).unwrap();
        other.execute_batch("ALTER TABLE slots RENAME TO away").unwrap();
        assert_eq!(table.slot(&id(2)), Some(2));
        other.execute_batch("ALTER TABLE away RENAME TO slots").unwrap();
        assert_eq!((table.slot(&id(3)), table.slot(&id(2))), (Some(3), Some(2)));
    }
}
