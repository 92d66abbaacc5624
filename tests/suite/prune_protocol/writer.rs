//! A backup: look, upload what is missing, look again if that was long ago, manifest, second look, seal. It may sleep between any two steps.

use super::Protocol;
use super::state::{STARTS_MAX, Set, Snapshot, State, has, one};

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Writer {
    /// What it saves.
    pub record: u8,
    /// Numbers of its own packs and snapshots begin here.
    pub first_pack: u8,
    pub first_snapshot: u8,
    /// How often its run has begun anew.
    pub starts: u8,
    /// Since the look that it relies on.
    looked_ago: u8,
    at: At,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum At {
    Start,
    /// Half of a look: what was listed first.
    Looking {
        first: Set,
        why: Why,
    },
    /// It has a pack that it relies on.
    Relying {
        pack: u8,
    },
    /// The window was checked.
    Committing {
        pack: u8,
    },
    Committed {
        pack: u8,
    },
    Sealing,
    Ended,
}

/// What a look is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Why {
    Dedup,
    Window { pack: u8 },
    Seal { pack: u8 },
}

impl Writer {
    pub(super) fn new(record: u8, first_pack: u8, first_snapshot: u8) -> Self {
        Self { record, first_pack, first_snapshot, starts: 0, looked_ago: 0, at: At::Start }
    }

    pub(super) fn age(&mut self) -> Option<&mut u8> {
        let is_relied_on = match self.at {
            At::Looking { why, .. } => !matches!(why, Why::Seal { .. }),
            At::Relying { .. } | At::Committing { .. } => true,
            At::Start | At::Committed { .. } | At::Sealing | At::Ended => false,
        };
        is_relied_on.then_some(&mut self.looked_ago)
    }

    /// The choices there are: most steps have one.
    pub(super) fn choices(&self, protocol: &Protocol, state: &State) -> Set {
        match self.at {
            At::Ended => 0,
            At::Looking { first, why: Why::Dedup } => {
                match state.packs_with(self.record, usable(protocol, state, first) & state.indexed_packs()) {
                    0 => one(self.own_pack()),
                    there => there,
                }
            }
            _ => 1,
        }
    }

    fn own_pack(&self) -> u8 {
        self.first_pack + self.starts
    }

    /// Something that it relied on is gone: the run begins anew.
    fn begin_anew(&mut self) {
        self.starts += 1;
        (self.looked_ago, self.at) = (0, if self.starts < STARTS_MAX { At::Start } else { At::Ended });
    }

    fn look(&mut self, protocol: &Protocol, state: &State, why: Why) {
        // The moment before a look counts.
        self.looked_ago = 0;
        let first = if protocol.marks_are_listed_first { condemned(protocol, state) } else { state.listed_packs() };
        self.at = At::Looking { first, why };
    }

    fn looked(&mut self, protocol: &Protocol, state: &State, first: Set, why: Why) {
        let (pack, next) = match why {
            Why::Dedup => return,
            Why::Window { pack } => (pack, At::Relying { pack }),
            Why::Seal { pack } => (pack, At::Sealing),
        };
        if has(usable(protocol, state, first), pack) {
            self.at = next;
        } else {
            self.begin_anew();
        }
    }
}

/// What may be relied on, when the second half of a look is listed.
fn usable(protocol: &Protocol, state: &State, first: Set) -> Set {
    if protocol.marks_are_listed_first { state.listed_packs() & !first } else { first & !condemned(protocol, state) }
}

fn condemned(protocol: &Protocol, state: &State) -> Set {
    if protocol.writers_avoid_marks { state.condemned_packs() } else { 0 }
}

/// One step of a writer.
pub(super) fn step(protocol: &Protocol, state: &mut State, number: usize, choice: u8) {
    let mut writer = state.writers[number].clone();
    match writer.at {
        At::Start => writer.look(protocol, state, Why::Dedup),
        At::Looking { why: Why::Dedup, .. } => {
            if choice == writer.own_pack() {
                state.put_pack(choice, one(writer.record), true);
            }
            writer.at = At::Relying { pack: choice };
        }
        At::Looking { first, why } => writer.looked(protocol, state, first, why),
        At::Relying { pack } if protocol.looks_before_manifest && writer.looked_ago > protocol.window => {
            writer.look(protocol, state, Why::Window { pack });
        }
        At::Relying { pack } => writer.at = At::Committing { pack },
        At::Committing { pack } => {
            let was_awake = writer.slept(protocol) == 0;
            let place = usize::from(writer.first_snapshot + writer.starts);
            let record = writer.record;
            let manifest = Snapshot { was_put: true, is_listed: true, was_awake, record, pack, ..Snapshot::default() };
            state.snapshots[place] = manifest;
            (writer.looked_ago, writer.at) = (0, At::Committed { pack });
        }
        At::Committed { pack } if protocol.looks_before_seal => {
            writer.look(protocol, state, Why::Seal { pack });
        }
        At::Committed { .. } | At::Sealing => {
            // A manifest that is gone was forgotten and swept: its seal says nothing.
            state.snapshots[usize::from(writer.first_snapshot + writer.starts)].is_sealed = true;
            writer.at = At::Ended;
        }
        At::Ended => {}
    }
    state.writers[number] = writer;
}

impl Writer {
    /// How much longer ago it looked than the window allows. Without a check of the window nobody knows, and the device was awake.
    fn slept(&self, protocol: &Protocol) -> u8 {
        if protocol.looks_before_manifest { self.looked_ago.saturating_sub(protocol.window) } else { 0 }
    }
}
