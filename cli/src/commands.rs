//! One file per verb: gather options, call, print.

mod backup;
mod cache;
mod cat;
mod check;
mod copy;
mod demonstration;
mod export;
mod forget;
mod init;
mod key;
mod ls;
mod merge;
mod mount;
mod pin;
mod prune;
mod repair;
mod repo;
mod report;
mod restore;
mod scrub;
mod seed;
mod shell;
mod snapshots;
mod within;

use crate::args::{Args, Command, Repair};
use crate::error::{Exit, Failure};
use crate::output::Output;

/// Runs the command.
pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Failure> {
    let global = &args.global;
    match &args.command {
        Command::Init(options) => init::run(global, options, output),
        Command::Backup(options) => backup::run(global, options, output),
        Command::Snapshots(options) => snapshots::run(global, options, output),
        Command::Report(options) => report::run(global, options, output),
        Command::Ls(options) => ls::run(global, options, output),
        Command::Cat(options) => cat::run(global, options, output),
        Command::Restore(options) => restore::run(global, options, output),
        Command::Export(options) => export::run(global, options, output),
        Command::Forget(options) => forget::run(global, options, output),
        Command::Prune(options) => prune::run(global, options, output),
        Command::Check(options) => check::run(global, options, output),
        Command::Repair(Repair::Index(options)) => repair::index(global, options, output),
        Command::Scrub(options) => scrub::run(global, options, output),
        Command::Copy(options) => copy::run(global, options, output),
        Command::Seed(command) => seed::run(global, command, output),
        Command::Mount(options) => mount::mount(global, options, output),
        Command::Unmount(options) => mount::unmount(options, output),
        Command::Mounts => Ok(mount::list(output)),
        Command::Pin(options) => pin::pin(global, options, output),
        Command::Unpin(options) => pin::unpin(global, options, output),
        Command::Cache(command) => cache::run(global, command, output),
        Command::Try(options) => demonstration::run(global, options, output),
        Command::Key(command) => key::run(global, command, output),
        Command::Repo(command) => repo::run(global, command, output),
        Command::Completions { shell } => shell::completions(*shell, output),
        Command::Man { all } => shell::man(all.as_deref(), output),
    }
}
