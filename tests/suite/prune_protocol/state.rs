//! What the store holds, as small as it can be and still show every way to lose a record: packs of two records, a few snapshots, marks. Times are ages that end
//! at the grace, so that the model covers any length of time.

use super::pruner::Pruner;
use super::undo::Undo;
use super::writer::Writer;

/// A set of packs, snapshots or records, by number.
pub(super) type Set = u16;

/// The record that the first snapshot holds.
pub(super) const KEPT: u8 = 0;
/// A record that nothing holds at first.
pub(super) const DEAD: u8 = 1;
/// The pack that holds both at first.
pub(super) const OLD_PACK: u8 = 0;
/// The snapshot that is there at first.
pub(super) const OLD_SNAPSHOT: u8 = 0;
/// So often a run of each writer begins.
pub(super) const STARTS_MAX: u8 = 2;

pub(super) fn one(number: u8) -> Set {
    1 << number
}

pub(super) fn has(set: Set, number: u8) -> bool {
    set & one(number) != 0
}

pub(super) fn numbers(set: Set) -> impl Iterator<Item = u8> {
    (0..16).filter(move |number| has(set, *number))
}

/// Packs are never put twice: what is deleted stays so.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Pack {
    pub records: Set,
    pub is_listed: bool,
    /// Whether a shard says what it holds.
    pub is_indexed: bool,
}

/// What tombstones say of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) enum Standing {
    #[default]
    Counts,
    Forgotten,
    /// Brought back, and whoever did it has not been told yet that it is so. `was_awake`: the put came within the window of the look.
    Undone {
        was_awake: bool,
    },
    /// Brought back, and told so.
    UndoneForSure,
}

/// A snapshot that holds one record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Snapshot {
    pub was_put: bool,
    pub is_listed: bool,
    pub is_sealed: bool,
    /// Whether the manifest came within the window of the look that it relies on.
    pub was_awake: bool,
    pub record: u8,
    /// Where its tree says the record lies.
    pub pack: u8,
    pub standing: Standing,
}

/// What a pruner wants to delete.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Mark {
    pub age: u8,
    pub packs: Set,
    pub snapshots: Set,
    /// Records that the pruner has copied out of those packs.
    pub copied: Set,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct State {
    pub packs: Vec<Pack>,
    pub snapshots: Vec<Snapshot>,
    /// A place for each mark of each pruner.
    pub marks: Vec<Option<Mark>>,
    pub writers: Vec<Writer>,
    pub pruners: Vec<Pruner>,
    pub undo: Undo,
    /// How often something will still be forgotten.
    pub forgets_left: u8,
}

impl State {
    pub(super) fn listed_packs(&self) -> Set {
        set(self.packs.iter().map(|pack| pack.is_listed))
    }

    /// Those that the index knows and that are there.
    pub(super) fn indexed_packs(&self) -> Set {
        set(self.packs.iter().map(|pack| pack.is_listed && pack.is_indexed))
    }

    pub(super) fn condemned_packs(&self) -> Set {
        self.marks.iter().flatten().fold(0, |all, mark| all | mark.packs)
    }

    pub(super) fn condemned_snapshots(&self) -> Set {
        self.marks.iter().flatten().fold(0, |all, mark| all | mark.snapshots)
    }

    pub(super) fn forgotten(&self) -> Set {
        set(self.snapshots.iter().map(|snapshot| snapshot.is_listed && snapshot.standing == Standing::Forgotten))
    }

    /// The records that listed snapshots hold, some left out.
    pub(super) fn live_records(&self, left_out: Set) -> Set {
        let held = |(number, snapshot): (u8, &Snapshot)| {
            if snapshot.is_listed && !has(left_out, number) { one(snapshot.record) } else { 0 }
        };
        (0..).zip(&self.snapshots).map(held).fold(0, |all, held| all | held)
    }

    /// The first snapshots of two writers have one number, as those of a machine and its clone. The second of them if both are listed.
    pub(super) fn second_siblings(&self) -> Set {
        let first = |writer: &Writer| (writer.first_snapshot, self.snapshots[usize::from(writer.first_snapshot)].is_listed);
        let mut listed = self.writers.iter().map(first).filter(|(_, is_listed)| *is_listed);
        listed.nth(1).map_or(0, |(number, _)| one(number))
    }

    /// Those of some packs that hold a record.
    pub(super) fn packs_with(&self, record: u8, among: Set) -> Set {
        numbers(among).filter(|pack| has(self.packs[usize::from(*pack)].records, record)).fold(0, |all, pack| all | one(pack))
    }

    /// Whether a reader finds the record of a snapshot: where the tree says, or where the index does.
    pub(super) fn is_readable(&self, snapshot: &Snapshot) -> bool {
        self.packs[usize::from(snapshot.pack)].is_listed || self.packs_with(snapshot.record, self.indexed_packs()) != 0
    }

    pub(super) fn put_pack(&mut self, number: u8, records: Set, is_indexed: bool) {
        self.packs[usize::from(number)] = Pack { records, is_listed: true, is_indexed };
    }

    /// A tick of the clock that counts for everything.
    pub(super) fn tick(&mut self, oldest: u8) {
        let older = |age: &mut u8| *age = (*age + 1).min(oldest);
        self.marks.iter_mut().flatten().for_each(|mark| older(&mut mark.age));
        self.writers.iter_mut().filter_map(Writer::age).for_each(older);
        self.pruners.iter_mut().filter_map(Pruner::age).for_each(older);
        self.undo.age().into_iter().for_each(older);
    }
}

fn set(of: impl Iterator<Item = bool>) -> Set {
    (0..).zip(of).fold(0, |all, (number, is_in)| if is_in { all | one(number) } else { all })
}
