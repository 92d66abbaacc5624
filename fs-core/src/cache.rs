//! What has been read once and may be wanted again: opened records in memory ([`memory`]), sealed bytes on the disk ([`disk`]). Both are bounded by bytes.

pub mod disk;
pub mod memory;

pub use disk::{CacheError, CacheUsage, DiskCache, DiskCacheStatus};
pub use memory::{MemoryCache, Weight};
