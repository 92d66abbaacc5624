//! The parts of a Windows volume that can be known on every system: how names and attributes of the view look to Windows.
//!
//! The WinFsp adapter that uses them is not written yet: Yesterdrive does not mount on Windows today.

#![forbid(unsafe_code)]

pub mod names;
pub mod status;
