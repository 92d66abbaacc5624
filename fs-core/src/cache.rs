//! What has been read once and may be wanted again: opened records in memory ([`memory`]), bounded by bytes, and sealed bytes on disk ([`disk`]).

pub mod disk;
pub mod memory;

pub use disk::DiskCache;
pub use memory::{MemoryCache, Weight};
