//! A pruner: sweeps what marks have named for long enough, copies what is worth it out of packs, marks anew. It may sleep or die between any two steps.

use super::Protocol;
use super::state::{Mark, Set, State, has, numbers, one};

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Pruner {
    /// Numbers of its copies and marks begin here.
    pub first_copy: u8,
    pub first_mark: u8,
    /// How many marks it may put.
    marks_max: u8,
    /// How many it has put, or died before.
    marked: u8,
    at: At,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum At {
    Idle,
    /// Before a sweep: half of a look.
    SweepLooking {
        first: Set,
        due: Due,
    },
    /// It has decided: snapshots go first, then packs.
    Sweeping {
        snapshots: Set,
        packs: Set,
    },
    /// Before a mark: half of a look.
    MarkLooking {
        first: Set,
    },
    Marking(Plan),
}

/// What marks have named for long enough.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Due {
    packs: Set,
    snapshots: Set,
    copied: Set,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Plan {
    mark: Mark,
    step: Step,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Step {
    Copy,
    Index,
    Mark,
}

/// What an idle pruner may begin, and what a busy one may do instead of its next step.
const SWEEP: u8 = 0;
const MARK: u8 = 1;
const GO_ON: u8 = 0;
const DIE: u8 = 1;

impl Pruner {
    pub(super) fn new(first_copy: u8, first_mark: u8, marks_max: u8) -> Self {
        Self { first_copy, first_mark, marks_max, marked: 0, at: At::Idle }
    }

    pub(super) fn age(&mut self) -> Option<&mut u8> {
        if let At::Marking(plan) = &mut self.at { Some(&mut plan.mark.age) } else { None }
    }

    pub(super) fn choices(&self, protocol: &Protocol, state: &State) -> Set {
        let may_mark = if self.marked < self.marks_max { one(MARK) } else { 0 };
        match &self.at {
            At::Idle if due(protocol, state) != Due::default() => one(SWEEP) | may_mark,
            At::Idle => may_mark,
            // Dying between a pack, its shard and the mark leaves something behind; elsewhere it is as if it slept for ever.
            At::Marking(Plan { step: Step::Index | Step::Mark, .. }) => one(GO_ON) | one(DIE),
            _ => one(GO_ON),
        }
    }
}

fn due(protocol: &Protocol, state: &State) -> Due {
    let old_enough = state.marks.iter().flatten().filter(|mark| mark.age >= protocol.grace);
    old_enough.fold(Due::default(), |due, mark| Due {
        packs: due.packs | mark.packs,
        snapshots: due.snapshots | mark.snapshots,
        copied: due.copied | mark.copied,
    })
}

/// One step of a pruner.
pub(super) fn step(protocol: &Protocol, state: &mut State, number: usize, choice: u8) {
    let mut pruner = state.pruners[number].clone();
    pruner.at = match pruner.at {
        At::Idle if choice == SWEEP => {
            let (first, due) = first_list(protocol, state);
            At::SweepLooking { first, due }
        }
        At::Idle => {
            let (first, _) = first_list(protocol, state);
            At::MarkLooking { first }
        }
        At::SweepLooking { first, due } => decide_sweep(protocol, state, first, due),
        At::Sweeping { snapshots, packs } => sweep(protocol, state, snapshots, packs),
        At::MarkLooking { first } => decide_marks(protocol, state, first, &pruner),
        At::Marking(_) if choice == DIE => {
            pruner.marked += 1;
            At::Idle
        }
        At::Marking(plan) => mark(protocol, state, plan, &mut pruner),
    };
    state.pruners[number] = pruner;
}

/// The first half of a look.
fn first_list(protocol: &Protocol, state: &State) -> (Set, Due) {
    if protocol.marks_are_listed_first { (state.condemned_packs(), due(protocol, state)) } else { (state.listed_packs(), Due::default()) }
}

/// The second half: packs that are there, and those that nobody condemned.
fn second_list(protocol: &Protocol, state: &State, first: Set) -> (Set, Set) {
    if protocol.marks_are_listed_first {
        (state.listed_packs(), state.listed_packs() & !first)
    } else {
        (first, first & !state.condemned_packs())
    }
}

/// Packs in which a reader finds what moved.
fn as_copies(protocol: &Protocol, state: &State, packs: Set) -> Set {
    if protocol.copies_count_when_indexed { packs & state.indexed_packs() } else { packs }
}

/// The second walk: what is due goes unless something lives in it that is nowhere else.
fn decide_sweep(protocol: &Protocol, state: &State, first: Set, due: Due) -> At {
    let due = if protocol.marks_are_listed_first { due } else { self::due(protocol, state) };
    let (listed, usable) = second_list(protocol, state, first);
    let snapshots = due.snapshots & state.forgotten();
    if !protocol.sweep_walks {
        return At::Sweeping { snapshots, packs: due.packs & listed };
    }
    let left_out = if protocol.forgotten_protect_packs { snapshots } else { state.forgotten() };
    let live = walk(protocol, state, left_out);
    let copies = as_copies(protocol, state, usable);
    let is_elsewhere = |record: u8| {
        if protocol.sweep_looks_for_copies { state.packs_with(record, copies) != 0 } else { has(due.copied, record) }
    };
    let goes = |pack: &u8| numbers(state.packs[usize::from(*pack)].records & live).all(is_elsewhere);
    let packs = numbers(due.packs & listed).filter(goes).fold(0, |all, pack| all | one(pack));
    At::Sweeping { snapshots, packs }
}

/// Records that snapshots hold, as a pruner sees it.
fn walk(protocol: &Protocol, state: &State, left_out: Set) -> Set {
    let siblings = if protocol.siblings_both_live { 0 } else { state.second_siblings() };
    state.live_records(left_out | siblings)
}

/// Deletes one object, or drops the marks that have done their work.
fn sweep(protocol: &Protocol, state: &mut State, snapshots: Set, packs: Set) -> At {
    let snapshot = numbers(snapshots).next().filter(|_| protocol.snapshots_go_first || packs == 0);
    if let Some(snapshot) = snapshot {
        state.snapshots[usize::from(snapshot)].is_listed = false;
        return At::Sweeping { snapshots: snapshots & !one(snapshot), packs };
    }
    if let Some(pack) = numbers(packs).next() {
        state.packs[usize::from(pack)].is_listed = false;
        return At::Sweeping { snapshots, packs: packs & !one(pack) };
    }
    let (listed, live) = (state.listed_packs(), state.live_records(state.forgotten()));
    let is_live = |pack: u8| state.packs[usize::from(pack)].records & live != 0;
    let is_named = |mark: &Mark| {
        let snapshots = numbers(mark.snapshots).filter(|number| state.snapshots[usize::from(*number)].is_listed);
        if protocol.marks_stay {
            return numbers(mark.packs & listed).count() + snapshots.count() > 0;
        }
        let is_forgotten = |number: u8| has(state.forgotten(), number);
        numbers(mark.packs & listed).any(|pack| !is_live(pack)) || snapshots.into_iter().any(is_forgotten)
    };
    let keep: Vec<_> = state.marks.iter().map(|mark| mark.is_some_and(|mark| is_named(&mark))).collect();
    for (mark, keep) in state.marks.iter_mut().zip(keep) {
        *mark = mark.filter(|_| keep);
    }
    At::Idle
}

/// The first walk: what is dead is condemned, what is stored twice too, and of the rest what holds something dead or is condemned already gives its records
/// to a new pack.
fn decide_marks(protocol: &Protocol, state: &State, first: Set, pruner: &Pruner) -> At {
    let (listed, mut usable) = second_list(protocol, state, first);
    let live = walk(protocol, state, state.forgotten());
    let records = |pack: u8| state.packs[usize::from(pack)].records;
    let is_elsewhere = |pack: u8, usable: Set| {
        let copies = as_copies(protocol, state, usable & !one(pack));
        numbers(records(pack) & live).all(|record| state.packs_with(record, copies) != 0)
    };
    let (mut condemned, mut copied) = (0, 0);
    for pack in numbers(usable) {
        if is_elsewhere(pack, usable) {
            usable &= !one(pack);
            condemned |= one(pack);
        }
    }
    for pack in numbers(listed) {
        let is_worth_it = records(pack) & !live != 0 || !has(usable, pack);
        if is_worth_it && !is_elsewhere(pack, usable) {
            copied |= records(pack) & live;
            condemned |= one(pack) & usable;
        }
    }
    let mark = Mark { age: 0, packs: condemned, snapshots: state.forgotten() & !state.condemned_snapshots(), copied };
    if mark.packs | mark.snapshots | mark.copied == 0 || pruner.marked >= pruner.marks_max {
        return At::Idle;
    }
    if !protocol.marks_before_it_deletes {
        return At::Sweeping { snapshots: mark.snapshots, packs: mark.packs };
    }
    let first_step = if copied == 0 || !protocol.copies_before_it_condemns { Step::Mark } else { Step::Copy };
    At::Marking(Plan { mark, step: first_step })
}

fn mark(protocol: &Protocol, state: &mut State, plan: Plan, pruner: &mut Pruner) -> At {
    let copy = pruner.first_copy + pruner.marked;
    let next = |step| At::Marking(Plan { step, ..plan });
    let end = |pruner: &mut Pruner| {
        pruner.marked += 1;
        At::Idle
    };
    match plan.step {
        Step::Copy => {
            state.put_pack(copy, plan.mark.copied, false);
            next(Step::Index)
        }
        Step::Index => {
            state.packs[usize::from(copy)].is_indexed = true;
            if protocol.copies_before_it_condemns { next(Step::Mark) } else { end(pruner) }
        }
        Step::Mark => {
            let age = if protocol.mark_is_as_old_as_the_store_says { 0 } else { plan.mark.age };
            state.marks[usize::from(pruner.first_mark + pruner.marked)] = Some(Mark { age, ..plan.mark });
            if protocol.copies_before_it_condemns || plan.mark.copied == 0 { end(pruner) } else { next(Step::Copy) }
        }
    }
}
