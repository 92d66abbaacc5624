//! `init`

use std::io::IsTerminal as _;
use std::path::Path;

use backup_writer::create::{NewKey, create};
use fs_core::crypto::{Key, RandomSource, SystemRandom, random_array};
use fs_core::key::slot::{Credential, PasswordCost, key_file_text, recovery_words};
use fs_core::object::ObjectKind;
use fs_core::report::{Severity, is_incomplete};
use fs_core::storage::address::Address;
use fs_core::storage::probe::{ProbeReport, probe};
use fs_core::storage::{self, WriteStore};
use fs_core::time::{Clock as _, SystemClock};
use serde_json::json;
use zeroize::Zeroizing;

use crate::args::{Global, Init};
use crate::error::{Exit, Failure};
use crate::output::Output;
use crate::{secret, session};

pub(crate) fn run(global: &Global, options: &Init, output: &Output) -> Result<Exit, Failure> {
    let address = session::address(global)?;
    let random = SystemRandom::shared();
    let mut keys = Vec::new();
    let new = |credential, label: &str| NewKey { credential, label: label.into(), cost: PasswordCost::DEFAULT };
    let key_file = options.new_key_file.as_ref().map(|file| (file, Key::random(&*random)));
    if let Some((_, key)) = &key_file {
        keys.push(new(Credential::KeyFile(key.clone()), "key file"));
    }
    if key_file.is_none() || secret::names_password(global)? {
        keys.push(new(Credential::Password(secret::new_password(global, None)?), "password"));
    }
    let recovery = (!options.i_accept_loss).then(|| Key::random(&*random));
    if let Some(code) = &recovery {
        keys.push(new(Credential::Recovery(code.clone()), "recovery code"));
    }
    // Whoever has no key afterwards has no repository: the files are written first, and never over another.
    if let Some((file, key)) = &key_file {
        write_secret(file, &key_file_text(key))?;
    }
    // A folder with something in it is opened, so that a repository in it is found and named.
    let store = match &address {
        Address::Folder(path) if path.is_dir() && std::fs::read_dir(path)?.next().is_some() => storage::open(&address, &global.remote)?,
        _ => storage::create(&address, &global.remote)?,
    };
    let probed = find_out(&*store, &*random)?;
    let ring = create(&*store, &keys, &SystemClock::shared(), &random)?;
    output.show(
        || format!("created repository {} in {}", ring.repository, store.location()),
        || json!({"type": "repository", "id": ring.repository.to_string(), "location": store.location()}),
    );
    if let Some(report) = &probed {
        show(report, output);
    }
    if let Some(code) = &recovery {
        let sheet = sheet(&recovery_words(code), &store.location(), &ring.repository.to_string());
        match &options.recovery_sheet {
            Some(file) => {
                write_secret(file, &sheet)?;
                output.message(&format!("the recovery sheet is in {}: print it, keep it apart, delete the file", file.display()));
            }
            // Standard error, so that the words never end up where records or lists are kept.
            None => {
                output.message(&sheet);
                confirm(&recovery_words(code), output)?;
            }
        }
    }
    let is_incomplete = probed.is_some_and(|report| is_incomplete(&report.findings));
    Ok(if is_incomplete { Exit::Findings } else { Exit::Done })
}

/// What the store really does; nothing is asked where there is a repository already, which `create` will name.
fn find_out(store: &dyn WriteStore, random: &dyn RandomSource) -> Result<Option<ProbeReport>, Failure> {
    let prefix = ObjectKind::Config.prefix();
    if !storage::wait(prefix, store.list(prefix, None))?.is_empty() {
        return Ok(None);
    }
    let report = probe(store, &SystemClock, random)?;
    match report.findings.iter().find(|finding| finding.severity == Severity::Error) {
        Some(finding) => Err(Failure::new(Exit::Failed, format!("{} cannot hold a repository: {finding}", store.location()))
            .hint("use another store, or another gateway to it")),
        None => Ok(Some(report)),
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

/// Asks for three of the words, so that nobody goes on without having written them down. Only where somebody can answer.
fn confirm(words: &str, output: &Output) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(());
    }
    output.message("Write the words down now. To be sure that they are right, three of them are asked for.");
    let words: Vec<_> = words.split(' ').collect();
    let mut numbers: Vec<_> = (1..=words.len()).collect();
    for (place, random) in random_array::<3>(&SystemRandom).into_iter().enumerate() {
        let rest = numbers.len() - place;
        numbers.swap(place, place + usize::from(random) % rest);
    }
    for number in numbers.into_iter().take(3) {
        while secret::ask_line(&format!("Word {number}: "))?.trim().to_lowercase() != *words.get(number - 1).copied().unwrap_or_default() {
            output.message("That is another word. Look at the sheet above; Ctrl-C gives up, and 'key recovery' makes new words later.");
        }
    }
    Ok(())
}

/// What a person needs to restore on a new machine with nothing but this sheet.
pub(crate) fn sheet(words: &str, location: &str, repository: &str) -> Zeroizing<String> {
    let mut text = Zeroizing::new(format!(
        "RECOVERY SHEET  -  keep it on paper, apart from this machine\n\n\
         repository  {location}\nid          {repository}\nmade        {} with yesterdrive {}\n\n",
        SystemClock.now(),
        env!("CARGO_PKG_VERSION"),
    ));
    for (number, word) in (1..).zip(words.split(' ')) {
        text.push_str(&format!("{number:>4}. {word:<10}"));
        if number % 6 == 0 {
            text.push('\n');
        }
    }
    text.push_str(
        "\nThese words open the repository without a password. Nobody can reset them.\n\
         To restore: write them into a file, then\n  yesterdrive --repository PATH --recovery-file FILE restore latest:/ --to FOLDER\n",
    );
    text
}

/// Writes a file that only its owner can read and that must not exist yet.
pub(crate) fn write_secret(path: &Path, text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let fail = |error: std::io::Error| Failure::new(Exit::Failed, format!("{}: {error}", path.display()));
    let mut file = options.open(path).map_err(fail)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(fail)?;
    // Its name has to outlive a power loss too: what it opens does.
    #[cfg(unix)]
    if let Some(folder) = std::path::absolute(path).map_err(fail)?.parent() {
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail)?;
    }
    Ok(())
}
