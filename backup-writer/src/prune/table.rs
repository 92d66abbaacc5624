//! Where every record lies, and which are needed: one sorted table, 45 bytes for each record and place.
//!
//! It stands on the index, and on the trailers of packs that no shard names. What it says decides what is looked at; nothing is deleted by it alone.

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;

use fs_core::id::{PackId, RecordId};
use fs_core::object::{self, ObjectKind};
use fs_core::record::Reference;
use fs_core::report::{Finding, Severity};
use fs_core::repository::{Repository, RepositoryError};
use fs_core::storage::wait;
use fs_core::time::Timestamp;

use super::read::trailers;

/// A snapshot needs the record that nobody forgot.
pub(super) const LIVE: u8 = 1;
/// A snapshot needs the record that is forgotten, and can still be brought back.
pub(super) const PROTECTED: u8 = 2;
/// A live reference names the record in this very place.
const HINTED: u8 = 4;
/// Any reference does, of whatever snapshot.
const NAMED: u8 = 8;

/// A pack that the store lists.
#[derive(Clone, Debug)]
pub(super) struct Pack {
    pub(super) id: PackId,
    pub(super) kind: ObjectKind,
    pub(super) size: u64,
    /// When the store received it, if it says so.
    pub(super) received: Option<Timestamp>,
    /// Whether readers find its records by the index.
    pub(super) is_indexed: bool,
    /// What it holds is not known: no shard names it, and it does not open.
    pub(super) is_unknown: bool,
    /// Bytes of all its records.
    pub(super) record_bytes: u64,
}

/// A record in one place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Row {
    id: RecordId,
    pack: u32,
    offset: u32,
    stored_len: u32,
}

/// All records in all places.
#[derive(Debug, Default)]
pub(super) struct Table {
    packs: Vec<Pack>,
    by_id: HashMap<PackId, u32>,
    /// By id.
    rows: Vec<Row>,
    flags: Vec<u8>,
}

/// One place of a record that is needed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copy {
    pub(super) pack: usize,
    pub(super) offset: u32,
    pub(super) stored_len: u32,
    pub(super) is_hinted: bool,
    /// Whether a snapshot that was put names this very place: whoever wrote it has come to an end.
    pub(super) is_named: bool,
}

impl Table {
    /// Lists the packs, then reads the index, then the trailers of packs that it does not name.
    pub(super) fn read(repository: &Repository, findings: &mut Vec<Finding>) -> Result<Self, RepositoryError> {
        let mut table = Self { packs: list(repository)?, ..Self::default() };
        let mut twins = Vec::new();
        for (at, pack) in (0u32..).zip(&table.packs) {
            twins.extend(table.by_id.insert(pack.id, at).into_iter().flat_map(|other| [other, at]));
        }
        findings.extend(twins.iter().filter_map(|at| table.packs.get(*at as usize)).map(|pack| {
            let message = "another pack has the same id, so one of the two was planted: both are left alone; 'yesterdrive scrub' tells which one is sound";
            Finding::object(Severity::Warning, object::pack_name(pack.kind, &pack.id).as_str(), message)
        }));
        let mut rows = Vec::new();
        let (by_id, packs) = (&table.by_id, &mut table.packs);
        let expected = Cell::new(0);
        let damaged = repository.visit_shards(
            |count| expected.set(count),
            |shard| {
                if rows.capacity() == 0 {
                    rows.reserve_exact(usize::try_from(expected.get()).unwrap_or(0));
                }
                for named in shard.packs() {
                    if let Some(pack) =
                        by_id.get(&named.id).and_then(|at| packs.get_mut(*at as usize)).filter(|pack| pack.size == named.size)
                    {
                        pack.is_indexed = true;
                    }
                }
                rows.extend(shard.records().filter_map(|(id, named, offset, stored_len)| {
                    let at = *by_id.get(&named.id)?;
                    let is_it = packs.get(at as usize).is_some_and(|pack| pack.size == named.size);
                    is_it.then_some(Row { id, pack: at, offset, stored_len })
                }));
            },
        )?;
        findings.extend(damaged);
        let unnamed: Vec<_> = (0u32..).zip(&*packs).filter(|(_, pack)| !pack.is_indexed).map(|(at, pack)| (at, pack.clone())).collect();
        // A mark names no kind: one that is dead would condemn the other.
        let mut unknown = twins;
        trailers(repository, unnamed.iter().map(|(_, pack)| pack), |place, trailer| {
            let Some((at, pack)) = unnamed.get(place) else { return Ok(()) };
            match trailer {
                Ok(trailer) => rows.extend(trailer.references(pack.id).map(|(_, _, reference)| Row {
                    id: reference.id,
                    pack: *at,
                    offset: reference.offset,
                    stored_len: reference.stored_len,
                })),
                Err(RepositoryError::Object { name, source }) => {
                    unknown.push(*at);
                    let message = format!("no shard of the index names it, and it does not open: it is left alone: {source}");
                    findings.push(Finding::object(Severity::Warning, name.as_str(), message));
                }
                Err(error) => return Err(error),
            }
            Ok(())
        })?;
        for at in unknown {
            if let Some(pack) = packs.get_mut(at as usize) {
                pack.is_unknown = true;
            }
        }
        table.fill(rows);
        Ok(table)
    }

    fn fill(&mut self, mut rows: Vec<Row>) {
        rows.sort_unstable();
        // One place may stand in several shards.
        rows.dedup();
        for row in &rows {
            if let Some(pack) = self.packs.get_mut(row.pack as usize) {
                pack.record_bytes += u64::from(row.stored_len);
            }
        }
        self.flags = vec![0; rows.len()];
        self.rows = rows;
    }

    /// All packs.
    pub(super) fn packs(&self) -> &[Pack] {
        &self.packs
    }

    /// The place of a pack among all.
    pub(super) fn at(&self, pack: &PackId) -> Option<usize> {
        self.by_id.get(pack).map(|at| *at as usize)
    }

    /// Notes that a record is needed. Not if it lies in no pack that is known.
    pub(super) fn reach(&mut self, reference: &Reference, need: u8) -> bool {
        let group = self.group(&reference.id);
        let hint = self.by_id.get(&reference.pack).copied();
        let (Some(flags), Some(rows)) = (self.flags.get_mut(group.clone()), self.rows.get(group)) else { return false };
        for (flag, row) in flags.iter_mut().zip(rows) {
            let is_named = Some(row.pack) == hint && row.offset == reference.offset;
            *flag |= need | if is_named { NAMED } else { 0 } | if is_named && need == LIVE { HINTED } else { 0 };
        }
        !rows.is_empty()
    }

    /// A reference to the same record in a place where it lies: where it says, if the pack is there. Another session than it names may have sealed what is in
    /// that place, if several machines saved the same: then the reader asks the index.
    pub(super) fn placed(&self, reference: &Reference) -> Reference {
        if self.by_id.contains_key(&reference.pack) {
            return *reference;
        }
        let row = self.rows.get(self.group(&reference.id)).and_then(<[Row]>::first);
        let place = row.and_then(|row| Some((self.packs.get(row.pack as usize)?.id, row.offset, row.stored_len)));
        place.map_or(*reference, |(pack, offset, stored_len)| Reference { pack, offset, stored_len, ..*reference })
    }

    /// What needs a record.
    pub(super) fn needs(&self, id: &RecordId) -> u8 {
        self.flags.get(self.group(id)).unwrap_or_default().iter().fold(0, |all, flag| all | flag) & (LIVE | PROTECTED)
    }

    /// All places of a record.
    pub(super) fn copies(&self, id: &RecordId) -> impl Iterator<Item = Copy> {
        self.copies_in(self.group(id))
    }

    /// All records that are needed, each with all its places.
    pub(super) fn needed(&self, need: u8) -> impl Iterator<Item = (RecordId, impl Iterator<Item = Copy> + Clone)> {
        let mut start = 0;
        std::iter::from_fn(move || {
            loop {
                let id = self.rows.get(start)?.id;
                let length = self.rows.get(start..)?.iter().take_while(|row| row.id == id).count();
                let group = start..start + length;
                start = group.end;
                if self.flags.get(group.clone())?.iter().any(|flag| flag & need != 0) {
                    return Some((id, self.copies_in(group)));
                }
            }
        })
    }

    /// Bytes of memory that it takes.
    pub(super) fn memory(&self) -> usize {
        self.rows.capacity() * size_of::<Row>() + self.flags.capacity()
    }

    /// Records in all places.
    pub(super) fn row_count(&self) -> usize {
        self.rows.len()
    }

    fn copies_in(&self, group: Range<usize>) -> impl Iterator<Item = Copy> + Clone {
        let rows = self.rows.get(group.clone()).unwrap_or_default().iter();
        rows.zip(self.flags.get(group).unwrap_or_default()).map(|(row, flag)| Copy {
            pack: row.pack as usize,
            offset: row.offset,
            stored_len: row.stored_len,
            is_hinted: flag & HINTED != 0,
            is_named: flag & NAMED != 0,
        })
    }

    fn group(&self, id: &RecordId) -> Range<usize> {
        let start = self.rows.partition_point(|row| row.id < *id);
        let length = self.rows.get(start..).unwrap_or_default().iter().take_while(|row| row.id == *id).count();
        start..start + length
    }
}

/// All packs that the store lists, in the order in which it received them: so what is packed anew stays together.
fn list(repository: &Repository) -> Result<Vec<Pack>, RepositoryError> {
    let mut packs = Vec::new();
    for kind in [ObjectKind::DataPack, ObjectKind::MetaPack] {
        let listed = wait(kind.prefix(), repository.store().list(kind.prefix(), None))?;
        packs.extend(listed.into_iter().filter_map(|meta| {
            let (id, size, received) = (object::parse_pack_name(kind, &meta.name)?, meta.size, meta.modified);
            Some(Pack { id, kind, size, received, is_indexed: false, is_unknown: false, record_bytes: 0 })
        }));
    }
    packs.sort_by_key(|pack| (pack.received, pack.id));
    Ok(packs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_core::compress::Codec;
    use fs_core::record::SessionKeyRef;

    fn id(n: u8) -> RecordId {
        RecordId::from_bytes([n; 32])
    }

    fn reference(n: u8, pack: u8, offset: u32) -> Reference {
        let session = SessionKeyRef { epoch: 1, enc: [0; 32] };
        Reference { id: id(n), plain_len: 1, stored_len: 10, offset, codec: Codec::Raw, pack: PackId::from_bytes([pack; 16]), session }
    }

    /// Rows as (record, pack, offset).
    fn table(packs: u8, rows: &[(u8, u32, u32)]) -> Table {
        let pack = |n| Pack {
            id: PackId::from_bytes([n; 16]),
            kind: ObjectKind::DataPack,
            size: 100,
            received: None,
            is_indexed: true,
            is_unknown: false,
            record_bytes: 0,
        };
        let mut table = Table { packs: (0..packs).map(pack).collect(), ..Table::default() };
        table.by_id = (0u32..).zip(&table.packs).map(|(at, pack)| (pack.id, at)).collect();
        table.fill(rows.iter().map(|&(n, pack, offset)| Row { id: id(n), pack, offset, stored_len: 10 }).collect());
        table
    }

    #[test]
    fn what_is_needed_is_noted_with_the_place_that_is_named() {
        let mut table = table(3, &[(5, 1, 48), (5, 0, 48), (7, 1, 58), (5, 0, 48)]);
        assert_eq!((table.row_count(), table.packs()[0].record_bytes, table.packs()[1].record_bytes), (3, 10, 20), "one place counts once");
        assert!(!table.reach(&reference(6, 0, 48), LIVE));
        assert!(table.reach(&reference(5, 1, 48), PROTECTED));
        assert_eq!(table.needs(&id(5)), PROTECTED);
        assert!(table.reach(&reference(5, 1, 48), LIVE));
        assert!(table.reach(&reference(5, 2, 48), PROTECTED));
        assert_eq!((table.needs(&id(5)), table.needs(&id(7))), (LIVE | PROTECTED, 0));
        let needed: Vec<_> =
            table.needed(LIVE).map(|(id, copies)| (id, copies.map(|copy| (copy.pack, copy.is_hinted)).collect())).collect();
        assert_eq!(needed, [(id(5), vec![(0, false), (1, true)])]);
        assert_eq!(table.placed(&reference(5, 2, 9)).pack, PackId::from_bytes([2; 16]), "the pack is listed");
        assert_eq!(table.placed(&reference(5, 9, 9)).pack, PackId::from_bytes([0; 16]));
        assert!(table.memory() <= 64 * 4);
    }
}
