//! The recovery sheet: what a person needs who has lost everything else, as text or as a page to print.

use std::path::Path;

use fs_core::id::{RepositoryId, SnapshotId};
use fs_core::key::words::{CHECK_MARK, LINE_WORDS, check_word};
use fs_core::storage::address::Address;
use fs_core::time::{Clock as _, SystemClock, Timestamp};
use zeroize::Zeroizing;

use crate::error::{Exit, Failure};
use crate::system;

mod pdf;

/// What stands on a sheet.
pub(crate) struct Sheet {
    words: Zeroizing<String>,
    /// Without any secret: addresses hold none.
    location: String,
    repository: RepositoryId,
    made: Timestamp,
    /// The newest snapshot of that moment: who is shown less is shown an older state.
    newest: Option<SnapshotId>,
}

impl Sheet {
    /// The sheet of a recovery code that is being made.
    pub(crate) fn new(
        words: Zeroizing<String>,
        address: &Address,
        repository: RepositoryId,
        newest: Option<SnapshotId>,
    ) -> Result<Self, Failure> {
        let location = match address {
            Address::Folder(path) => std::path::absolute(path)?.display().to_string(),
            other => other.to_string(),
        };
        Ok(Self { words, location, repository, made: SystemClock.now(), newest })
    }

    /// The 24 words.
    pub(crate) fn words(&self) -> Vec<&str> {
        self.words.split(' ').collect()
    }

    /// As text.
    pub(crate) fn text(&self) -> Zeroizing<String> {
        let facts = self.facts().into_iter().map(|(name, value)| format!("{name:<12}{value}\n"));
        // Long enough that it never grows: what it would leave behind when it moves is not wiped.
        let mut text = Zeroizing::new(String::with_capacity(4096 + 3 * self.location.len()));
        text.push_str(Self::TITLE);
        text.push_str("\n\n");
        text.extend(facts);
        text.push('\n');
        for line in self.lines() {
            text.push_str(&line);
            text.push('\n');
        }
        text.push('\n');
        for line in Self::ABOUT.iter().map(|line| (*line).to_owned()).chain(self.steps()) {
            text.push_str(&line);
            text.push('\n');
        }
        text
    }

    /// Writes it into a file that only its owner can read and that must not exist yet; its extension says how.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("pdf")) {
            write_secret(path, &pdf::page(self)?)
        } else {
            write_secret(path, self.text().as_bytes())
        }
    }

    const TITLE: &str = "RECOVERY SHEET - keep it on paper, apart from this machine";
    const ABOUT: [&str; 3] = [
        "These 24 words open the repository without any password. Nobody can replace or reset them, and whoever has them reads everything.",
        "The last word of each line checks the six before it: typed along, it says in which line a copy went wrong.",
        "",
    ];

    fn facts(&self) -> Vec<(&'static str, String)> {
        let made = format!("{} with yesterdrive {}", self.made, env!("CARGO_PKG_VERSION"));
        let newest = self.newest.map(|newest| ("snapshot", newest.to_string()));
        [("repository", self.location.clone()), ("id", self.repository.to_string()), ("made", made)].into_iter().chain(newest).collect()
    }

    /// The words, numbered, in lines with their check words.
    fn lines(&self) -> Vec<Zeroizing<String>> {
        let words = self.words();
        let line = |(line, words): (usize, &[&str])| {
            let mut text = Zeroizing::new(String::with_capacity(128));
            for (place, word) in (1..).zip(words) {
                text.push_str(&Zeroizing::new(format!("{:>2}. {word:<9}", (line - 1) * LINE_WORDS + place)));
            }
            text.push_str(&format!("{CHECK_MARK} {}", check_word(line, words)));
            text
        };
        (1..).zip(words.chunks(LINE_WORDS)).map(line).collect()
    }

    /// How to restore with nothing but this.
    fn steps(&self) -> Vec<String> {
        let quoted = quoted(&self.location);
        let steps = [
            "To restore on any machine, with nothing but this sheet:".to_owned(),
            "1. Install yesterdrive, and make sure that the place above can be reached: its disk, or the account at its provider."
                .to_owned(),
            "2. Type the lines with the words into a file, say words.txt (numbers may be left out).".to_owned(),
            format!("3. export YESTERDRIVE_REPOSITORY={quoted}"),
            "4. yesterdrive --recovery-file words.txt restore latest:/ --to FOLDER     ('snapshots' lists what else there is)".to_owned(),
            "5. Delete words.txt. If the old keys are lost, 'key add' makes a new one in the same way.".to_owned(),
        ];
        // A provider that shows an old copy of everything is in order by itself: only somebody who has seen more can tell.
        let newest = self.newest.map(|newest| {
            format!(
                "6. To be sure that the provider shows no older state: yesterdrive --recovery-file words.txt check --expect {}",
                newest.short()
            )
        });
        steps.into_iter().chain(newest).collect()
    }
}

/// For a shell.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/:@._-+~%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// Writes a file that only its owner can read and that must not exist yet.
pub(crate) fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    system::for_owner_only(&mut options);
    let fail = |error: std::io::Error| Failure::new(Exit::Failed, format!("{}: {error}", path.display()));
    let mut file = options.open(path).map_err(fail)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fail)?;
    // Its name has to outlive a power loss too: what it opens does.
    if let Some(folder) = std::path::absolute(path).map_err(fail)?.parent() {
        system::sync_folder(folder).map_err(fail)?;
    }
    Ok(())
}
