<<<<<<< HEAD
//! What has been read once and may be wanted again: opened records in memory ([`memory`]), bounded by bytes, and sealed bytes on disk ([`disk`]).
=======
//! What has been read once and may be wanted again: opened records in memory ([`memory`]), sealed bytes on the disk
//! ([`disk`]). Both are bounded by bytes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::id::RecordId;
>>>>>>> h/disk

pub mod disk;
pub mod memory;

<<<<<<< HEAD
pub use disk::DiskCache;
=======
pub use disk::{CacheError, DiskCache, DiskCacheStatus};
>>>>>>> h/disk
pub use memory::{MemoryCache, Weight};
