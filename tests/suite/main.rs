//! The tests that see the whole.

mod fidelity;
mod faults;
mod writer;
