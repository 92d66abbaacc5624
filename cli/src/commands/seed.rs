//! `seed`: a repository that travels by disk.

use backup_writer::copy::{CopyOptions, CopyReport, Purpose, WHOLE};
use fs_core::report::is_incomplete;
use fs_core::storage::address::Address;

use super::copy::{between, lines, record, usual};
use crate::args::{Global, Seed, SeedDisk};
use crate::error::{Exit, Failure};
use crate::output::Output;
use crate::session;

pub(crate) fn run(global: &Global, command: &Seed, output: &Output) -> Result<Exit, Failure> {
    match command {
        Seed::Export(options) => export(global, options, output),
        Seed::Import(options) => import(global, options, output),
    }
}

/// What is put is read back, and what an earlier run has put too: nobody should carry a disk that holds less than it should.
fn export(global: &Global, options: &SeedDisk, output: &Output) -> Result<Exit, Failure> {
    let (store, disk) = (session::store(global)?, Address::Folder(options.disk.clone()));
    let here = if options.verify { WHOLE } else { 0 };
    let how = CopyOptions { verify: (here, WHOLE), read_back: true, ..usual(global, Purpose::Export) };
    let report = between(global, (&*store, &disk), &how, output)?;
    let path = options.disk.display();
    let next = [
        format!("take the disk out of the system in an orderly way; where it arrives, 'yesterdrive scrub {path}' proves every byte"),
        format!(
            "'yesterdrive --repository {path} mount FOLDER' shows it as a drive, 'yesterdrive --repository ADDRESS seed import {path}' loads it into a store"
        ),
    ];
    tell(("seed_export", &disk, &report), &next, output)
}

/// A store far away is not read again: what is put there has been proven on this machine, and the line and the store compare what arrives.
fn import(global: &Global, options: &SeedDisk, output: &Output) -> Result<Exit, Failure> {
    let address = session::address(global)?;
    let mut of_disk = global.clone();
    of_disk.repository = Some(options.disk.to_string_lossy().into_owned());
    let disk = session::store(&of_disk)?;
    let verify = if options.verify { (WHOLE, WHOLE) } else { (0, 0) };
    let how = CopyOptions { verify, read_back: address.is_local() || options.verify, ..usual(global, Purpose::Import) };
    let report = between(global, (&*disk, &address), &how, output)?;
    let next = [
        format!("go on with '--repository {address}': it is the same repository, so the next backup sends only what has changed"),
        "what is saved onto the disk from now on does not get there by itself: import it again, or leave it".to_owned(),
    ];
    tell(("seed_import", &address, &report), &next, output)
}

fn tell((kind, to, report): (&str, &Address, &CopyReport), next: &[String], output: &Output) -> Result<Exit, Failure> {
    output.show(|| lines(report, false, to), || record(kind, report, false, to));
    if is_incomplete(&report.findings) {
        output.message("not everything is there: look at the findings, and run it again");
        return Ok(Exit::Findings);
    }
    next.iter().for_each(|line| output.message(line));
    Ok(Exit::Done)
}
