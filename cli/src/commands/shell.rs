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

pub(crate) fn man(folder: Option<&Path>, output: &Output) -> Result<Exit, Failure> {
    match folder {
        Some(folder) => {
            std::fs::create_dir_all(folder)?;
            clap_mangen::generate_to(Args::command(), folder)?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Args::command()).render(&mut page)?;
            output.raw(&page);
        }
    }
    Ok(Exit::Done)
}
