//! Bringing back what is forgotten: look at the marks, put what undoes it, look again. The machine may sleep between any two steps.

use super::Protocol;
use super::state::{Set, Standing, State, has, numbers, one};

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Undo {
    /// How often somebody still tries.
    pub left: u8,
    at: At,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum At {
    Idle,
    Looked {
        snapshot: u8,
        ago: u8,
    },
    Put {
        snapshot: u8,
    },
    /// Half of the second look: whether nothing that it saw forbids it.
    LookingAgain {
        snapshot: u8,
        is_fine: bool,
    },
}

impl Undo {
    pub(super) fn new(left: u8) -> Self {
        Self { left, at: At::Idle }
    }

    pub(super) fn age(&mut self) -> Option<&mut u8> {
        if let At::Looked { ago, .. } = &mut self.at { Some(ago) } else { None }
    }

    /// Which snapshot to bring back, or the one way on.
    pub(super) fn choices(&self, protocol: &Protocol, state: &State) -> Set {
        if self.at != At::Idle {
            return 1;
        }
        let least = protocol.grace.saturating_sub(protocol.undo_margin);
        let allowed = |snapshot: &u8| is_younger(state, *snapshot, least);
        if self.left == 0 { 0 } else { numbers(state.forgotten()).filter(allowed).fold(0, |all, number| all | one(number)) }
    }
}

/// Whether all marks that name a snapshot are.
fn is_younger(state: &State, snapshot: u8, limit: u8) -> bool {
    state.marks.iter().flatten().all(|mark| !has(mark.snapshots, snapshot) || mark.age < limit)
}

/// One step of whoever undoes.
pub(super) fn step(protocol: &Protocol, state: &mut State, choice: u8) {
    let mut undo = state.undo.clone();
    undo.at = match undo.at {
        At::Idle => {
            undo.left -= 1;
            At::Looked { snapshot: choice, ago: 0 }
        }
        At::Looked { snapshot, ago } => {
            let sure = !protocol.undo_looks_again;
            let standing = if sure { Standing::UndoneForSure } else { Standing::Undone { was_awake: ago <= protocol.window } };
            let found = &mut state.snapshots[usize::from(snapshot)];
            if found.standing == Standing::Forgotten {
                found.standing = standing;
            }
            if sure { At::Idle } else { At::Put { snapshot } }
        }
        At::Put { snapshot } => {
            let is_fine = if protocol.marks_are_listed_first {
                is_younger(state, snapshot, protocol.grace)
            } else {
                state.snapshots[usize::from(snapshot)].is_listed
            };
            At::LookingAgain { snapshot, is_fine }
        }
        At::LookingAgain { snapshot, is_fine } => {
            let is_listed = state.snapshots[usize::from(snapshot)].is_listed;
            let is_fine = is_fine && if protocol.marks_are_listed_first { is_listed } else { is_younger(state, snapshot, protocol.grace) };
            let found = &mut state.snapshots[usize::from(snapshot)];
            if is_fine && matches!(found.standing, Standing::Undone { .. }) {
                found.standing = Standing::UndoneForSure;
            }
            At::Idle
        }
    };
    state.undo = undo;
}
