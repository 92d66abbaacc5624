//! `completions` and `man`

use std::path::Path;

use clap::CommandFactory as _;

use crate::args::Args;
use crate::error::{Exit, Failure};
use crate::output::Output;

pub(crate) fn completions(shell: clap_complete::Shell, output: &Output) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "yesterdrive", &mut script);
    output.raw(&script);
    Ok(Exit::Done)
}

pub(crate) fn man(folder: &Path) -> Result<Exit, Failure> {
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Args::command(), folder)?;
    Ok(Exit::Done)
}
