//! The drive through the real library of WinFsp, whose driver is played by `driver.rs`: what the system would ask, asked without a system.
//!
//! Everything of the library runs as it is: its threads, its checks of rights and paths, its resolving of links, its answers. Runs on Windows and under Wine.
//! `tests/windows/run` makes the repository and says where it is; without one these tests say so and pass.

#![cfg(windows)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "numbers of a test are small")]
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods, reason = "tests")]
#![allow(missing_docs, unreachable_pub, reason = "nobody uses a test")]
#![allow(clippy::too_many_arguments, reason = "the system's functions have as many")]

mod client;
mod driver;
mod explorer;
mod faults;
mod fixture;
mod links;
mod listing;
mod names;
mod opening;
mod reading;
mod requests;
mod streams;
mod volume;
mod writes;
