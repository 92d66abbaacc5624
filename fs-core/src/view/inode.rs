//! Numbers of entries: 20 bits slot, 44 bits position. Slots are given once and never again, so that a number means one entry for ever.

use std::collections::HashMap;
use std::path::Path;

use rusqlite::Connection;

use crate::id::SnapshotId;
use crate::state::open_database;
use crate::tree::POSITION_MAX;

/// Bits of a position.
const POSITION_BITS: u32 = 44;
/// Slots are never given twice, also not after rows were deleted.
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS slots (slot INTEGER PRIMARY KEY AUTOINCREMENT, snapshot BLOB NOT NULL UNIQUE)";
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

    /// The entry of a number.
    pub fn from_number(number: u64) -> Self {
        let slot = u32::try_from(number >> POSITION_BITS).unwrap_or(SLOT_MAX);
        Self { slot, position: number & POSITION_MAX }
    }
}

/// Which snapshot has which slot. Kept in the local state folder, so that numbers are the same after a remount on this machine.
#[derive(Debug)]
pub struct SlotTable {
    known: HashMap<SnapshotId, u32>,
    database: Option<Connection>,
}

impl SlotTable {
    /// Opens the table of a state folder. One that cannot be opened or written is worth a warning: numbers then last for this mount.
    pub fn open(state: Option<&Path>) -> Self {
        let database = state.and_then(|state| match open_database(state, "mount.db", SCHEMA) {
            Ok(database) => Some(database),
            Err(error) => {
                tracing::warn!(%error, "entry numbers will not be the same after the next mount");
                None
            }
        });
        Self { known: HashMap::new(), database }
    }

    /// The slot of a snapshot, from 1; `None` if all million are taken.
    pub fn slot(&mut self, id: &SnapshotId) -> Option<u32> {
        if let Some(slot) = self.known.get(id) {
            return Some(*slot);
        }
        let next = self.known.values().max().copied().unwrap_or(0) + 1;
        let slot = match &self.database {
            None => next,
            Some(database) => persistent_slot(database, id).unwrap_or(next),
        };
        if slot > SLOT_MAX {
            return None;
        }
        self.known.insert(*id, slot);
        Some(slot)
    }
}

fn persistent_slot(database: &Connection, id: &SnapshotId) -> rusqlite::Result<u32> {
    database.execute("INSERT OR IGNORE INTO slots (snapshot) VALUES (?1)", [&id.as_bytes()[..]])?;
    database.query_row("SELECT slot FROM slots WHERE snapshot = ?1", [&id.as_bytes()[..]], |row| row.get(0))
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
        let mut memory = SlotTable::open(None);
        assert_eq!((memory.slot(&id(9)), memory.slot(&id(8))), (Some(1), Some(2)));
    }
}
