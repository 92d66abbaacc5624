//! Everything that changes a Yesterdrive repository or a local tree.
//!
//! The crate knows no terminal and no environment. Modules stand in reading order, which is the order of dependency.

#![cfg_attr(not(windows), forbid(unsafe_code))]
#![deny(unsafe_code)]

mod side_by_side;
pub mod system;
pub mod create;
pub mod device;
pub mod keys;
pub mod close;
pub mod source;
pub mod pause;
pub mod pace;
pub mod packer;
pub mod changes;
pub mod parent;
pub mod state;
pub mod backup;
pub mod metadata;
pub mod selection;
pub mod what;
pub mod restore;
pub mod export;
pub mod proven;
pub mod check;
pub mod merge;
pub mod repair;
pub mod drill;
pub mod scrub;
pub mod retention;
pub mod forget;
pub mod prune;
pub mod prolong;
pub mod copy;

/// Threads that work side by side on one run.
fn worker_count() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8)
}
