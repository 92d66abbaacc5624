//! Everything that can be known from a Yesterdrive repository: the format, the stores, reading, and the view that a mount shows.
//!
//! The crate knows no kernel, no terminal and no environment. Modules stand in reading order, which is the order of dependency:
//! each uses only what stands above it.

#![forbid(unsafe_code)]

pub mod id;
pub mod path;
pub mod time;
pub mod state;
pub mod report;
pub mod observer;
pub mod wire;
pub mod crypto;
pub mod compress;
pub mod record;
pub mod storage;
pub mod object;
pub mod key;
pub mod config;
pub mod pack;
pub mod index;
pub mod chunker;
pub mod tree;
pub mod snapshot;
pub mod cache;
pub mod repository;
pub mod prefetch;
pub mod reader;
pub mod view;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
