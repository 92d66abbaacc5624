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

use std::process::ExitCode;

use crate::args::Args;
use crate::output::Output;

fn main() -> ExitCode {
    keep_secrets_in_memory();
    allow_many_files();
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

/// No core dump and no other program of this user may take keys out of our memory. Best effort: what the system refuses is no reason not to run.
fn keep_secrets_in_memory() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    #[cfg(target_os = "linux")]
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// A restore holds many files open; the usual limit of a shell is meant for programs that cannot count so far.
fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const ENOUGH: u64 = 65_536;
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum.map_or(ENOUGH, |maximum| maximum.min(ENOUGH));
    if limit.current.is_some_and(|now| now < current) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: limit.maximum });
    }
}
