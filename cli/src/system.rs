//! What differs between systems for a program: who runs it, signals, the terminal, shells, drives.
//!
//! Each system has the same face, so nothing else asks which one it is.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::*;
#[cfg(windows)]
pub(crate) use windows::*;
