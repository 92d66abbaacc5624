//! The protocol of backup, forget and prune as a model: every order of every step of several machines, any of which may sleep or die at any point.
//!
//! It says what must hold, that it holds, and that it does not hold as soon as one rule of the protocol is left out. What the words mean: docs/FORMAT.md.

mod pruner;
mod state;
mod undo;
mod writer;

use std::collections::BTreeMap;

use stateright::{Checker as _, HasDiscoveries, Model, Property};
use tests::driven::is_long;

use pruner::Pruner;
use state::{DEAD, KEPT, OLD_PACK, OLD_SNAPSHOT, Pack, STARTS_MAX, Snapshot, Standing, State, numbers};
use undo::Undo;
use writer::Writer;

/// The rules. Each can be left out.
#[derive(Clone, Debug)]
struct Protocol {
    /// Longest time from a look to the manifest that relies on it.
    window: u8,
    /// Shortest time from a mark to the sweep that it allows.
    grace: u8,
    /// So long before the grace has passed nothing is undone any more.
    undo_margin: u8,
    writers_avoid_marks: bool,
    looks_before_manifest: bool,
    looks_before_seal: bool,
    undo_looks_again: bool,
    /// Who looks lists marks before packs and manifests.
    marks_are_listed_first: bool,
    marks_before_it_deletes: bool,
    copies_before_it_condemns: bool,
    sweep_walks: bool,
    /// Otherwise it believes the mark.
    sweep_looks_for_copies: bool,
    copies_count_when_indexed: bool,
    snapshots_go_first: bool,
    /// A forgotten snapshot protects its packs until it is itself swept.
    forgotten_protect_packs: bool,
    /// Marks are there as long as something that they name is.
    marks_stay: bool,
    /// Otherwise as old as the pruner says, which may have slept since.
    mark_is_as_old_as_the_store_says: bool,
    siblings_both_live: bool,
}

const WHOLE: Protocol = Protocol {
    window: 1,
    grace: 3,
    undo_margin: 1,
    writers_avoid_marks: true,
    looks_before_manifest: true,
    looks_before_seal: true,
    undo_looks_again: true,
    marks_are_listed_first: true,
    marks_before_it_deletes: true,
    copies_before_it_condemns: true,
    sweep_walks: true,
    sweep_looks_for_copies: true,
    copies_count_when_indexed: true,
    snapshots_go_first: true,
    forgotten_protect_packs: true,
    marks_stay: true,
    mark_is_as_old_as_the_store_says: true,
    siblings_both_live: true,
};

/// Who takes part.
#[derive(Clone, Copy, Debug)]
struct Cast {
    /// What each writer saves.
    writers: &'static [u8],
    pruners: u8,
    /// How many marks each pruner puts.
    marks: u8,
    forgets: u8,
    undoes: u8,
}

#[derive(Clone, Debug)]
struct World {
    protocol: Protocol,
    cast: Cast,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Action {
    Tick,
    Forget { snapshot: u8 },
    Undo { choice: u8 },
    Writer { number: u8, choice: u8 },
    Pruner { number: u8, choice: u8 },
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let Cast { writers, pruners, marks, forgets, undoes } = self.cast;
        let (writer_count, own) = (writers.len() as u8, |number: u8| 1 + number * STARTS_MAX);
        let first_copy = own(writer_count);
        let mut packs = vec![Pack::default(); usize::from(first_copy + pruners * marks)];
        packs[usize::from(OLD_PACK)] = Pack { records: state::one(KEPT) | state::one(DEAD), is_listed: true, is_indexed: true };
        let mut snapshots = vec![Snapshot::default(); usize::from(own(writer_count))];
        let old = Snapshot {
            was_put: true,
            is_listed: true,
            is_sealed: true,
            was_awake: true,
            record: KEPT,
            pack: OLD_PACK,
            standing: Standing::Counts,
        };
        snapshots[usize::from(OLD_SNAPSHOT)] = old;
        let writer = |(number, record): (u8, &u8)| Writer::new(*record, own(number), own(number));
        vec![State {
            packs,
            snapshots,
            marks: vec![None; usize::from(pruners * marks)],
            writers: (0..).zip(writers).map(writer).collect(),
            pruners: (0..pruners).map(|number| Pruner::new(first_copy + number * marks, number * marks, marks)).collect(),
            undo: Undo::new(undoes),
            forgets_left: forgets,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.push(Action::Tick);
        let can_be_forgotten = |snapshot: &Snapshot| snapshot.is_listed && snapshot.standing != Standing::Forgotten;
        let forgettable = (0..).zip(&state.snapshots).filter(|(_, snapshot)| state.forgets_left > 0 && can_be_forgotten(snapshot));
        actions.extend(forgettable.map(|(snapshot, _)| Action::Forget { snapshot }));
        actions.extend(numbers(state.undo.choices(&self.protocol, state)).map(|choice| Action::Undo { choice }));
        for (number, writer) in (0..).zip(&state.writers) {
            actions.extend(numbers(writer.choices(&self.protocol, state)).map(|choice| Action::Writer { number, choice }));
        }
        for (number, pruner) in (0..).zip(&state.pruners) {
            actions.extend(numbers(pruner.choices(&self.protocol, state)).map(|choice| Action::Pruner { number, choice }));
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Tick => state.tick(self.protocol.grace.max(self.protocol.window + 1)),
            Action::Forget { snapshot } => {
                state.forgets_left -= 1;
                state.snapshots[usize::from(snapshot)].standing = Standing::Forgotten;
            }
            Action::Undo { choice } => undo::step(&self.protocol, &mut state, choice),
            Action::Writer { number, choice } => writer::step(&self.protocol, &mut state, usize::from(number), choice),
            Action::Pruner { number, choice } => pruner::step(&self.protocol, &mut state, usize::from(number), choice),
        }
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(SEALED, |_, state: &State| {
                let is_sound = |snapshot: &Snapshot| match snapshot.standing {
                    Standing::Forgotten => true,
                    Standing::Undone { .. } => !snapshot.is_listed || state.is_readable(snapshot),
                    Standing::Counts | Standing::UndoneForSure => snapshot.is_listed && state.is_readable(snapshot),
                };
                state.snapshots.iter().filter(|snapshot| snapshot.is_sealed).all(is_sound)
            }),
            Property::always(AWAKE, |_, state: &State| {
                let is_sound = |snapshot: &Snapshot| match snapshot.standing {
                    Standing::Forgotten | Standing::Undone { was_awake: false } | Standing::UndoneForSure => true,
                    Standing::Counts | Standing::Undone { was_awake: true } => snapshot.is_listed && state.is_readable(snapshot),
                };
                state.snapshots.iter().filter(|snapshot| snapshot.was_put && snapshot.was_awake).all(is_sound)
            }),
        ]
    }
}

const SEALED: &str = "what is sealed and not forgotten, or told to be back, is there and can be read";
const AWAKE: &str = "what a machine put that did not sleep is there and can be read, also if it died before the seal or the second look";

/// Looks at all states, or at the nearest so many. The number of them, and the steps to the first ones that should not be.
fn explore(protocol: &Protocol, cast: Cast, states_max: Option<usize>) -> (usize, BTreeMap<&'static str, Vec<Action>>) {
    let world = World { protocol: protocol.clone(), cast };
    // Zero is no limit.
    let checker = world.checker().finish_when(HasDiscoveries::Any).target_state_count(states_max.unwrap_or(0)).spawn_bfs().join();
    let found = checker.discoveries().into_iter().map(|(name, path)| (name, path.into_actions())).collect();
    (checker.unique_state_count(), found)
}

const FEW: Cast = Cast { writers: &[DEAD], pruners: 1, marks: 1, forgets: 0, undoes: 0 };
const FEW_WITH_UNDO: Cast = Cast { forgets: 1, undoes: 1, ..FEW };
const TWO_MARKS: Cast = Cast { marks: 2, ..FEW };
const TWO_PRUNERS: Cast = Cast { pruners: 2, ..FEW };
const TWO_WRITERS: Cast = Cast { writers: &[KEPT, DEAD], ..FEW };
const TWO_PRUNERS_WITH_UNDO: Cast = Cast { writers: &[], pruners: 2, ..FEW_WITH_UNDO };

/// Casts that are small enough to see every state.
const ALL_STATES: [Cast; 6] = [FEW, FEW_WITH_UNDO, TWO_MARKS, TWO_PRUNERS, TWO_WRITERS, TWO_PRUNERS_WITH_UNDO];
/// Those of which the nearest states are seen, unless there is time.
const MANY_STATES: [Cast; 5] = [
    Cast { marks: 2, ..FEW_WITH_UNDO },
    Cast { pruners: 2, ..FEW_WITH_UNDO },
    Cast { writers: &[DEAD, DEAD], pruners: 2, ..FEW },
    Cast { writers: &[KEPT, DEAD], ..FEW_WITH_UNDO },
    Cast { writers: &[], pruners: 2, marks: 2, ..FEW_WITH_UNDO },
];

#[test]
fn no_order_of_steps_loses_a_snapshot() {
    let nearest = Some(if is_long() { 10_000_000 } else { 300_000 });
    let casts = ALL_STATES.map(|cast| (cast, None)).into_iter().chain(MANY_STATES.map(|cast| (cast, nearest)));
    let mut states_in_all = 0;
    for (cast, states_max) in casts {
        let (states, found) = explore(&WHOLE, cast, states_max);
        println!("{cast:?}: {states} states");
        assert!(found.is_empty(), "{cast:?}: {found:#?}");
        states_in_all += states;
    }
    assert!(states_in_all > 500_000, "{states_in_all} states were seen");
}

/// A rule that is left out, who it takes to see that, and what fails then.
type Weakened = (&'static str, fn(&mut Protocol), Cast, &'static str);

const WEAKENED: [Weakened; 18] = [
    ("the sweep does not walk again", |rules| rules.sweep_walks = false, FEW, AWAKE),
    ("no look before the manifest", |rules| rules.looks_before_manifest = false, FEW, AWAKE),
    ("no look before the seal, and the machine sleeps", |rules| rules.looks_before_seal = false, FEW, SEALED),
    ("grace as short as the window", |rules| rules.grace = rules.window, FEW, AWAKE),
    ("undo up to the end of the grace", |rules| rules.undo_margin = 0, FEW_WITH_UNDO, AWAKE),
    ("undo without a second look", |rules| rules.undo_looks_again = false, FEW_WITH_UNDO, SEALED),
    ("delete at once", |rules| rules.marks_before_it_deletes = false, FEW, SEALED),
    ("believe the mark that all was copied", |rules| rules.sweep_looks_for_copies = false, TWO_PRUNERS, SEALED),
    ("condemn before the copy is put, and believe the mark", condemn_first_and_believe, FEW, SEALED),
    ("a backup that uses condemned packs", |rules| rules.writers_avoid_marks = false, FEW, SEALED),
    ("list packs before marks", |rules| rules.marks_are_listed_first = false, FEW, SEALED),
    ("a copy that no shard names counts", |rules| rules.copies_count_when_indexed = false, TWO_MARKS, SEALED),
    ("packs go before snapshots", |rules| rules.snapshots_go_first = false, FEW_WITH_UNDO, SEALED),
    ("what is forgotten protects nothing", |rules| rules.forgotten_protect_packs = false, FEW_WITH_UNDO, AWAKE),
    ("what lives again is condemned no more", |rules| rules.marks_stay = false, TWO_PRUNERS, SEALED),
    ("a mark is as old as its pruner says", |rules| rules.mark_is_as_old_as_the_store_says = false, FEW, AWAKE),
    ("of two siblings one lives", |rules| rules.siblings_both_live = false, TWO_WRITERS, AWAKE),
    ("no grace at all", |rules| rules.grace = 0, FEW, AWAKE),
];

fn condemn_first_and_believe(rules: &mut Protocol) {
    rules.copies_before_it_condemns = false;
    rules.sweep_looks_for_copies = false;
}

#[test]
fn without_any_one_rule_something_is_lost() {
    for (name, weaken, cast, property) in WEAKENED {
        let mut protocol = WHOLE;
        weaken(&mut protocol);
        let (states, found) = explore(&protocol, cast, None);
        let steps =
            found.get(property).unwrap_or_else(|| panic!("{name}: of {states} states none is the one that is expected, but {found:?}"));
        println!("{name}: after {} steps, {states} states: {steps:?}", steps.len());
    }
}

/// Two rules watch over copies. To break the first alone costs nothing while the second holds.
#[test]
fn a_sweep_that_looks_for_copies_forgives_who_condemns_before_they_are_put() {
    let protocol = Protocol { copies_before_it_condemns: false, ..WHOLE };
    for cast in [FEW, FEW_WITH_UNDO, TWO_MARKS, TWO_WRITERS] {
        let (states, found) = explore(&protocol, cast, None);
        assert!(found.is_empty(), "{states} states: {found:#?}");
    }
}
