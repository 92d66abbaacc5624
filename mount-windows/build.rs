//! How the library of WinFsp is linked: with MSVC when it is first called, so that the program starts without WinFsp and can say what is missing.

#![expect(clippy::disallowed_methods, reason = "cargo tells build scripts everything by the environment")]

use std::env::var;

fn main() {
    println!("cargo:rerun-if-env-changed=WINFSP_IMPLIB_DIR");
    if var("CARGO_CFG_TARGET_OS").as_deref() != Ok("windows") {
        return;
    }
    if var("CARGO_CFG_TARGET_ENV").as_deref() == Ok("msvc") {
        winfsp::build::winfsp_link_delayload();
    } else if let Ok(folder) = var("WINFSP_IMPLIB_DIR") {
        // GNU's linker knows no loading on demand: such programs are for tests. It reads the import library that winfsp-sys brings.
        println!("cargo:rustc-link-arg=-L{folder}");
        println!("cargo:rustc-link-arg=-lwinfsp-x64");
    }
}
