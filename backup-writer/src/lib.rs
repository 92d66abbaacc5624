//! Everything that changes a Yesterdrive repository or a local tree.
//!
//! The crate knows no terminal and no environment. Modules stand in reading order, which is the order of dependency.

#![forbid(unsafe_code)]

pub mod create;
pub mod device;
pub mod source;
pub mod packer;
pub mod changes;
pub mod parent;
pub mod state;
pub mod backup;
pub mod metadata;
pub mod selection;
pub mod restore;
pub mod export;
pub mod check;
