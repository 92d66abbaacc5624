//! The Yesterdrive view as a WinFsp volume on Windows.
//!
//! `tree.rs` finds paths in the view as Windows writes them, with `names.rs`, `pattern.rs`, `probes.rs`, `folded.rs` and `links.rs`; `status.rs` translates
//! errors and attributes, `security.rs` says who may read, `tasks.rs` keeps what waits for the store. All of that builds and is tested on every system.
//! `winfsp.rs` translates the callbacks of WinFsp, `drive.rs` mounts, `ffi.rs` is the one file with unsafe code. No policy lives here.

#![deny(unsafe_code)]

pub mod folded;
pub mod links;
pub mod names;
pub mod pattern;
pub mod probes;
pub mod security;
pub mod status;
pub mod tasks;
pub mod tree;
pub mod place;

#[cfg(windows)]
mod drive;
#[cfg(windows)]
#[allow(unsafe_code, reason = "the one file that calls Windows and WinFsp itself")]
mod ffi;
#[cfg(windows)]
mod winfsp;

#[cfg(windows)]
pub use drive::{Mount, MountError, MountOptions, is_mounted, list, load_library, mount, unmount};

/// What the licence of WinFsp wants every user to be told, as a literal.
#[macro_export]
macro_rules! attribution {
    () => {
        "WinFsp - Windows File System Proxy, Copyright (C) Bill Zissimopoulos, https://github.com/winfsp/winfsp"
    };
}

/// What the licence of WinFsp wants every user to be told.
pub const ATTRIBUTION: &str = attribution!();
