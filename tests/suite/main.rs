//! The tests that see the whole.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "a panic is how a test fails")]

mod backup_memory;
mod catalogue;
mod cli;
mod export;
mod fidelity;
mod format;
mod fragments;
mod interruptions;
mod interruptions_program;
mod checking;
mod damage;
mod drill;
mod faults;
mod faults_line;
mod model;
mod mount;
mod mount_load;
mod mount_memory;
mod tidy;
mod hard_cases;
mod sources;
mod streams;
mod unchanged;
mod unchanged_rules;
mod stores;
mod mount_pin;
mod mount_program;
mod mount_round_trip;
mod mount_tools;
mod pin;
mod reading;
mod reports;
mod reports_program;
mod restore;
mod restore_places;
mod restore_several;
mod view;
mod writer;
mod retention;
mod forget;
mod forget_program;
mod scrub;
