//! `init`

use std::io::IsTerminal as _;
use std::path::Path;

use backup_writer::create::{CreateError, NewKey, create_with, new_ring};
use fs_core::crypto::{Key, RandomSource, SystemRandom, random_array};
use fs_core::key::slot::{Credential, PasswordCost, key_file_text};
use fs_core::key::words::recovery_words;
use fs_core::object::ObjectKind;
use fs_core::report::{Severity, is_incomplete};
use fs_core::storage::address::Address;
use fs_core::storage::probe::{ProbeReport, probe};
use fs_core::storage::{self, WriteStore};
use fs_core::time::SystemClock;
use serde_json::json;

use crate::args::{Global, Init};
use crate::error::{Exit, Failure};
use crate::output::Output;
use crate::sheet::{Sheet, write_secret};
use crate::signals::{self, OnSignal};
use crate::{secret, session};

/// What is asked of the person before the repository is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Three of the words, where there is a terminal.
    Words,
    /// Nothing: it is a trial.
    Nothing,
}

pub(crate) fn run(global: &Global, options: &Init, output: &Output) -> Result<Exit, Failure> {
    make(global, options, Asked::Words, output)
}

/// Makes the repository, last of all: before it there are its keys on this machine and, where somebody can answer, the proof that the words can be read.
pub(crate) fn make(global: &Global, options: &Init, asked: Asked, output: &Output) -> Result<Exit, Failure> {
    let address = session::address(global)?;
    let random = SystemRandom::shared();
    // What is there is never written over, and is found before anything is asked.
    for file in options.new_key_file.iter().chain(&options.sheet) {
        if file.symlink_metadata().is_ok() {
            return Err(Failure::new(Exit::Failed, format!("{} exists already", file.display())).hint("name a file that is not there yet"));
        }
    }
    let mut keys = Vec::new();
    let new = |credential, label: &str| NewKey { credential, label: label.into(), cost: PasswordCost::DEFAULT };
    let key_file = options.new_key_file.as_ref().map(|file| (file, Key::random(&*random)));
    if let Some((_, key)) = &key_file {
        keys.push(new(Credential::KeyFile(key.clone()), "key file"));
    }
    if key_file.is_none() || secret::names_password(global)? {
        keys.push(new(Credential::Password(secret::new_password(global, None, options.weak_password)?), "password"));
    }
    let can_answer = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if !options.accept_loss && options.sheet.is_none() && !can_answer {
        return Err(Failure::new(
            Exit::Usage,
            "there is no terminal to show the words of the recovery code on, and to ask for three of them",
        )
        .hint("--sheet FILE writes them into a file; --accept-loss makes none: then all is lost with the other keys"));
    }
    // A folder with something in it is opened, so that a repository in it is found and named.
    let store = match &address {
        Address::Folder(path) if path.is_dir() && std::fs::read_dir(path)?.next().is_some() => storage::open(&address, &global.remote)?,
        _ => storage::create(&address, &global.remote)?,
    };
    let probed = find_out(&*store, &*random)?;
    let ring = new_ring(&random);
    if !options.accept_loss {
        let code = Key::random(&*random);
        let sheet = Sheet::new(recovery_words(&code), &address, ring.repository, None)?;
        keys.push(new(Credential::Recovery(code), "recovery code"));
        hand_out(&sheet, options.sheet.as_deref(), can_answer && asked == Asked::Words, output)?;
    }
    // Whoever has no key afterwards has no repository: the files are written first.
    if let Some((file, key)) = &key_file {
        write_secret(file, key_file_text(key).as_bytes())?;
    }
    create_with(&*store, &ring, &keys, &SystemClock::shared(), &random)?;
    output.show(
        || format!("created repository {} in {}", ring.repository, store.location()),
        || json!({"type": "repository", "id": ring.repository.to_string(), "location": store.location()}),
    );
    show(&probed, output);
    Ok(if is_incomplete(&probed.findings) { Exit::Findings } else { Exit::Done })
}

/// Gives the sheet to the person, and makes sure that its words can be read. Whoever gives up keeps no sheet of a repository that there is not.
fn hand_out(sheet: &Sheet, file: Option<&Path>, asks: bool, output: &Output) -> Result<(), Failure> {
    match file {
        Some(file) => {
            sheet.write(file)?;
            output.message(&format!("the recovery sheet is in {}: print it, keep it apart, delete the file", file.display()));
        }
        // Standard error, so that the words never end up where records or lists are kept.
        None => output.message(&sheet.text()),
    }
    if !asks {
        return Ok(());
    }
    if let Some(file) = file {
        signals::set(OnSignal::RemoveAndExit(std::path::absolute(file)?))?;
    }
    let confirmed = confirm(&sheet.words(), output);
    signals::set(OnSignal::Exit)?;
    if let (Err(_), Some(file)) = (&confirmed, file) {
        let _ = std::fs::remove_file(file);
    }
    confirmed
}

/// What the store really does, unless there is a repository already.
fn find_out(store: &dyn WriteStore, random: &dyn RandomSource) -> Result<ProbeReport, Failure> {
    let prefix = ObjectKind::Config.prefix();
    if !storage::wait(prefix, store.list(prefix, None))?.is_empty() {
        return Err(CreateError::AlreadyThere { location: store.location() }.into());
    }
    let report = probe(store, &SystemClock, random)?;
    match report.findings.iter().find(|finding| finding.severity == Severity::Error) {
        Some(finding) => Err(Failure::new(Exit::Failed, format!("{} cannot hold a repository: {finding}", store.location()))
            .hint("use another store, or another gateway to it")),
        None => Ok(report),
    }
}

/// What it promises, and what not.
fn show(report: &ProbeReport, output: &Output) {
    let does = |what: bool| if what { "yes" } else { "no" };
    output.show(
        || {
            let clock = match report.clock_ahead_s {
                Some(seconds) => format!("{seconds} s ahead of ours"),
                None => "none".to_owned(),
            };
            let (refuses, deletes) = (does(report.create_only), does(report.deletes));
            format!("the store, tried out: refuses names that are taken: {refuses}; deletes: {deletes}; clock: {clock}")
        },
        || json!({"type": "store", "create_only": report.create_only, "deletes": report.deletes, "clock_ahead_s": report.clock_ahead_s}),
    );
    output.findings(&report.findings);
}

/// Asks for three of the words, so that nobody goes on without having written them down.
fn confirm(words: &[&str], output: &Output) -> Result<(), Failure> {
    output.message("Write the words down now, or print them. To be sure that they can be read, three of them are asked for before the repository is made.");
    let mut numbers: Vec<_> = (1..=words.len()).collect();
    for (place, random) in random_array::<3>(&SystemRandom).into_iter().enumerate() {
        let rest = numbers.len() - place;
        numbers.swap(place, place + usize::from(random) % rest);
    }
    for number in numbers.into_iter().take(3) {
        let word = words.get(number - 1).copied().unwrap_or_default();
        while !secret::ask_line(&format!("Word {number}: "))?.trim().eq_ignore_ascii_case(word) {
            output.message("That is another word. Look at the sheet; Ctrl-C gives up, and nothing is made.");
        }
    }
    Ok(())
}
