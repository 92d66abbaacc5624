//! `try`: the whole product in one command, on a folder of one's own.

use std::path::Path;

use serde_json::json;

use super::backup;
use super::init::{self, Asked};
use crate::args::{Backup, Global, Init, Try};
use crate::error::{Exit, Failure};
use crate::output::Output;
use crate::system::mounts;

pub(crate) fn run(global: &Global, options: &Try, output: &Output) -> Result<Exit, Failure> {
    let place = match (&options.at, &global.home) {
        (Some(place), _) => std::path::absolute(place)?,
        (None, Some(home)) => home.join(".local/share/yesterdrive/try"),
        (None, None) => return Err(Failure::new(Exit::Usage, "there is no home folder").hint("use --at FOLDER")),
    };
    let (repository, key, drive) = (place.join("repository"), place.join("key"), place.join("drive"));
    fs_core::state::private_folder(&place)?;
    let here = global.for_repository(&repository, key.clone());
    if !key.exists() {
        let new = here.without_credentials();
        let sheet = place.join("recovery-sheet.txt");
        init::make(&new, &Init { new_key_file: Some(key.clone()), sheet: Some(sheet), ..Init::default() }, Asked::Nothing, output)?;
    }
    let result = backup::run(&here, &Backup { paths: vec![options.folder.clone()], ..Backup::default() }, output)?;
    if !mounts::list().iter().any(|mount| mount.path == drive) || mounts::is_dead(&drive) {
        start(&repository, &key, &drive, global)?;
    }
    let program = std::env::current_exe()?;
    next_steps(&program, (&repository, &key), &drive, &options.folder.canonicalize()?, output);
    Ok(result)
}

/// Mounts in a process of its own.
fn start(repository: &Path, key: &Path, drive: &Path, global: &Global) -> Result<(), Failure> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.arg("--repository").arg(repository).arg("--key-file").arg(key);
    if let Some(cache) = &global.cache_dir {
        command.arg("--cache-dir").arg(cache);
    }
    let output = command.args(["mount", "--background"]).arg(drive).stderr(std::process::Stdio::inherit()).output()?;
    if output.status.success() { Ok(()) } else { Err(Failure::new(Exit::Failed, "the drive could not be mounted")) }
}

fn next_steps(program: &Path, (repository, key): (&Path, &Path), drive: &Path, folder: &Path, output: &Output) {
    let (program, repository, key, drive, folder) =
        (program.display(), repository.display(), key.display(), drive.display(), folder.display());
    output.show(
        || {
            format!(
                "\nThe drive is at  {drive}\n\
                 \x20 ls {drive}/Latest/*{folder}              what was saved, as it was\n\
                 \x20 cp -a {drive}/Latest/*{folder}/… .        copy back what you need\n\n\
                 Next steps\n\
                 \x20 {program} -r {repository} --key-file {key} backup FOLDER     save again, or save more\n\
                 \x20 {program} -r {repository} --key-file {key} snapshots         list what there is\n\
                 \x20 {program} unmount {drive}                                    take the drive away\n\n\
                 The recovery sheet beside the key opens the backups on a new machine: print it and delete the file."
            )
        },
        || json!({"type": "try", "drive": drive.to_string(), "repository": repository.to_string(), "key_file": key.to_string()}),
    );
}
