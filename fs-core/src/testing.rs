//! The kit for the tests of every crate: the contract that every store passes, stores that count, record, fail and wait on command,
//! a clock set by hand, and a simulator that breaks an operation at every store call it makes.
//!
//! Nothing here sleeps or asks the system for time or chance. Wrappers take any store and do one thing each, so they are combined by nesting.

mod call;
mod clock;
pub mod contract;
mod counting;
mod faulty;
mod random;
mod recording;
pub mod simulator;
mod slow;

pub use call::{Call, CallKind};
pub use clock::ManualClock;
pub use counting::{CountingStore, Counts};
pub use faulty::{Fault, FaultyStore, Rule, STORM_CALLS};
pub use random::SeededRandom;
pub use recording::RecordingStore;
pub use slow::SlowStore;
