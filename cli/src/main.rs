//! `yesterdrive`: parse, run, exit code.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod config;
mod error;
mod nice;
mod output;
mod progress;
mod report;
mod secret;
mod session;
mod sheet;
mod signals;
mod system;

use std::process::ExitCode;

use crate::args::Args;
use crate::output::Output;

fn main() -> ExitCode {
    system::keep_secrets_in_memory();
    system::allow_many_files();
    let args = match Args::read() {
        Ok(args) => args,
        Err(failure) => {
            Output::new(false).failure(&failure);
            return failure.exit.into();
        }
    };
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
