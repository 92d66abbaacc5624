//! The virtual file system over all snapshots: what a mount shows, in our own types. The adapters only translate.

pub mod attr;
pub mod error;
