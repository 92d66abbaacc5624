//! `yesterdrive`: parse, run, exit code.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod error;
mod output;
mod progress;
mod secret;
mod session;

use std::process::ExitCode;

use crate::args::Args;
use crate::output::Output;

fn main() -> ExitCode {
    let args = Args::read();
    let level = if args.global.verbose { tracing::Level::DEBUG } else { tracing::Level::WARN };
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).without_time().with_target(false).init();
    let output = Output::new(args.global.json);
    match commands::run(&args, &output).and_then(|exit| output.finish().map(|()| exit)) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.exit.into()
        }
    }
}
