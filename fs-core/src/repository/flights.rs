//! Single flight: of all who want a record, one brings it and the others are told. Nobody is told nothing: a flight that takes too long fails.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ReadError;
use super::opened::Opened;
use crate::id::RecordId;

/// Told when a record has arrived or never will. Must be quick or hand the work on.
pub type Waiter = Box<dyn FnOnce(Result<Opened, ReadError>) + Send>;

/// How urgently a record is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Urgency {
    /// Somebody waits for it.
    Demand,
    /// Somebody may want it soon.
    Ahead,
}

/// What has become of a wish.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Joined {
    /// Nobody was bringing the record: now the caller is, and must [`Flights::land`] it.
    Begun,
    /// Somebody brings it already.
    Waiting,
    /// Somebody brings it who was in no hurry until now.
    Raised,
}

#[derive(Default)]
struct Flight {
    waiters: Vec<Waiter>,
    is_demanded: bool,
    /// Ticks since somebody began to wait for it.
    age: u32,
}

/// Records on their way.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<RecordId, Flight>>);

impl std::fmt::Debug for Flights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} flights", self.table().len())
    }
}

impl Flights {
    /// Joins the flight of a record or begins one.
    pub(super) fn join(&self, id: RecordId, urgency: Urgency, waiter: Option<Waiter>) -> Joined {
        let mut table = self.table();
        let is_new = !table.contains_key(&id);
        let flight = table.entry(id).or_default();
        flight.waiters.extend(waiter);
        let is_raised = urgency == Urgency::Demand && !flight.is_demanded;
        flight.is_demanded |= is_raised;
        match (is_new, is_raised) {
            (true, _) => Joined::Begun,
            (false, true) => Joined::Raised,
            (false, false) => Joined::Waiting,
        }
    }

    /// Ends a flight and tells everybody. One that was given up before has nobody left to tell.
    pub(super) fn land(&self, id: &RecordId, result: Result<Opened, ReadError>) {
        let flight = self.table().remove(id);
        if let Some(flight) = flight {
            tell(flight.waiters, result);
        }
    }

    /// Counts a tick for every flight that somebody waits for, and gives up those older than `age_max`.
    pub(super) fn tick(&self, age_max: u32, error: impl Fn() -> ReadError) {
        let mut late = Vec::new();
        self.table().retain(|_, flight| {
            flight.age += u32::from(flight.is_demanded);
            let is_late = flight.age > age_max;
            if is_late {
                late.push(std::mem::take(&mut flight.waiters));
            }
            !is_late
        });
        late.into_iter().for_each(|waiters| tell(waiters, Err(error())));
    }

    /// Whether a record is on its way.
    pub(super) fn has(&self, id: &RecordId) -> bool {
        self.table().contains_key(id)
    }

    /// Whether somebody waits for a record that is on its way.
    pub(super) fn is_demanded(&self, id: &RecordId) -> bool {
        self.table().get(id).is_some_and(|flight| flight.is_demanded)
    }

    /// Records on their way.
    pub(super) fn count(&self) -> usize {
        self.table().len()
    }

    fn table(&self) -> MutexGuard<'_, HashMap<RecordId, Flight>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(mut waiters: Vec<Waiter>, result: Result<Opened, ReadError>) {
    let Some(last) = waiters.pop() else { return };
    match result {
        Ok(opened) => {
            waiters.into_iter().for_each(|waiter| waiter(Ok(opened.clone())));
            last(Ok(opened));
        }
        Err(error) if waiters.is_empty() => last(Err(error)),
        Err(error) => {
            let error = std::sync::Arc::new(error);
            waiters.into_iter().chain([last]).for_each(|waiter| waiter(Err(ReadError::Shared(std::sync::Arc::clone(&error)))));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use bytes::Bytes;

    use super::*;
    use crate::tree::TreeError;

    fn id(n: u8) -> RecordId {
        RecordId::from_bytes([n; 32])
    }

    fn counting(good: &Arc<AtomicU32>, bad: &Arc<AtomicU32>) -> Option<Waiter> {
        let (good, bad) = (Arc::clone(good), Arc::clone(bad));
        Some(Box::new(move |result| _ = if result.is_ok() { &good } else { &bad }.fetch_add(1, Ordering::Relaxed)))
    }

    #[test]
    fn one_brings_it_and_all_are_told() {
        let (flights, good, bad) = (Flights::default(), Arc::default(), Arc::default());
        assert_eq!(flights.join(id(1), Urgency::Ahead, None), Joined::Begun);
        assert_eq!(flights.join(id(1), Urgency::Ahead, counting(&good, &bad)), Joined::Waiting);
        assert_eq!(flights.join(id(1), Urgency::Demand, counting(&good, &bad)), Joined::Raised);
        assert_eq!(flights.join(id(1), Urgency::Demand, counting(&good, &bad)), Joined::Waiting);
        flights.land(&id(1), Ok(Opened::Data(Bytes::new())));
        flights.land(&id(1), Ok(Opened::Data(Bytes::new())));
        assert_eq!((good.load(Ordering::Relaxed), bad.load(Ordering::Relaxed), flights.count()), (3, 0, 0));
        assert_eq!(flights.join(id(1), Urgency::Demand, counting(&good, &bad)), Joined::Begun);
        flights.join(id(1), Urgency::Demand, counting(&good, &bad));
        flights.land(&id(1), Err(TreeError::Broken("test").into()));
        assert_eq!(bad.load(Ordering::Relaxed), 2, "an error is everybody's");
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (flights, good, bad) = (Flights::default(), Arc::default(), Arc::default());
        flights.join(id(1), Urgency::Demand, counting(&good, &bad));
        flights.join(id(2), Urgency::Ahead, None);
        (0..3).for_each(|_| flights.tick(3, || TreeError::Broken("late").into()));
        assert_eq!((bad.load(Ordering::Relaxed), flights.count()), (0, 2));
        flights.tick(3, || TreeError::Broken("late").into());
        assert_eq!((bad.load(Ordering::Relaxed), flights.count()), (1, 1), "what nobody waits for is left alone");
    }
}
