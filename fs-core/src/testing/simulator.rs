//! Breaks an operation at every store call it makes, one after the other.

use std::sync::Arc;

use super::faulty::{Fault, FaultyStore};
use super::random::SeededRandom;
use super::{Call, ManualClock};
use crate::storage::{WriteStore, memory::MemoryStore};

/// Everything that an operation under test may see of the world, made from one seed.
#[derive(Debug)]
pub struct World {
    /// The store that the operation is given.
    pub store: Arc<FaultyStore>,
    /// The same objects without faults.
    pub memory: Arc<MemoryStore>,
    /// The clock.
    pub clock: Arc<ManualClock>,
    /// The source of randomness.
    pub random: Arc<SeededRandom>,
}

impl World {
    /// A world whose store begins with the objects of `memory`.
    pub fn new(seed: u64, memory: &MemoryStore) -> Self {
        let memory = Arc::new(memory.fork());
        let store = FaultyStore::new(Arc::clone(&memory) as Arc<dyn WriteStore>);
        Self { store, memory, clock: ManualClock::shared(), random: SeededRandom::shared(seed) }
    }
}

/// Runs `operation` once undisturbed and counts its store calls, then once for each call and fault with that call broken; after each run the
/// store is healed and `check` sees the world and what the operation returned.
///
/// Returns the calls of the undisturbed run.
pub fn at_every_call<T>(
    seed: u64,
    start: &MemoryStore,
    faults: &[Fault],
    operation: impl Fn(&World) -> T,
    check: impl Fn(&World, T, Option<(&Call, Fault)>),
) -> Vec<Call> {
    let quiet = World::new(seed, start);
    let result = operation(&quiet);
    let calls = quiet.store.log();
    check(&quiet, result, None);
    for &fault in faults {
        for (at, call) in (1..).zip(&calls) {
            let world = World::new(seed, start);
            world.store.fail_at(at, fault);
            let result = operation(&world);
            world.store.heal();
            check(&world, result, Some((call, fault)));
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::object_hash;
    use crate::storage::{ObjectName, StoreError, wait};

    #[test]
    fn every_call_is_broken_once_in_every_way() {
        let put_two = |world: &World| -> Result<(), StoreError> {
            for name in ["pack/a", "snap/a"] {
                wait(name, world.store.put_new(&ObjectName::new(name), bytes::Bytes::from_static(b"x"), &object_hash(b"x")))?;
            }
            Ok(())
        };
        let broken = std::cell::Cell::new(0);
        let calls = at_every_call(1, &MemoryStore::new(), &[Fault::ErrorBefore, Fault::ErrorAfter], put_two, |world, result, fault| {
            let names: Vec<_> = world.memory.contents().into_iter().map(|(name, _)| name.to_string()).collect();
            assert_eq!(result.is_ok(), fault.is_none());
            assert!(!names.contains(&"snap/a".to_owned()) || names.contains(&"pack/a".to_owned()), "order holds at every cut");
            broken.set(broken.get() + usize::from(fault.is_some()));
        });
        assert_eq!((calls.len(), broken.get()), (2, 4));
    }
}
