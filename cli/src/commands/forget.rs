//! `forget`

use std::collections::BTreeSet;
use std::io::{BufRead as _, IsTerminal as _};

use backup_writer::forget::{Looked, authorise, forget, look, too_late, undo};
use backup_writer::retention::{Candidate, Policy, Series, decide, forgotten_ids};
use fs_core::id::{RunId, SnapshotId};
use fs_core::object::Signer;
use fs_core::report::{Finding, is_incomplete};
use fs_core::repository::{Forgotten, Repository};
use fs_core::snapshot::Snapshot;
use fs_core::snapshot::select::Filter;
use fs_core::storage::WriteStore;
use serde_json::json;

use crate::args::{Forget, Global};
use crate::error::{Exit, Failure};
use crate::output::Output;
use crate::session;

mod calendar;
mod show;

/// What stands in a tombstone if somebody named the snapshots.
const BY_NAME: &str = "by name";

pub(crate) fn run(global: &Global, options: &Forget, output: &Output) -> Result<Exit, Failure> {
    let wrong = |message: String| Failure::new(Exit::Usage, message);
    let policy = options.keep.policy(global.keep.as_deref()).map_err(wrong)?;
    let is_by_rules = options.snapshots.is_empty() && !options.undo;
    if is_by_rules && policy.is_none() {
        return Err(Failure::new(Exit::Usage, "nothing says what to keep or what to forget")
            .hint("--keep 28+monthly keeps the last 28, all of the last 28 days and the first of each month; --dry-run only shows it"));
    }
    let (repository, store) = session::open(global)?;
    let looked = look(&repository)?;
    let run = Run { global, options, output, repository: &repository, store: &*store };
    match policy {
        _ if options.undo => run.undo(&looked)?,
        Some(policy) if is_by_rules => run.by_rules(&looked, &policy)?,
        _ => run.by_name(&looked)?,
    }
    output.findings(&looked.findings);
    Ok(if is_incomplete(&looked.findings) { Exit::Findings } else { Exit::Done })
}

struct Run<'a> {
    global: &'a Global,
    options: &'a Forget,
    output: &'a Output,
    repository: &'a Repository,
    store: &'a dyn WriteStore,
}

impl Run<'_> {
    fn by_rules(&self, looked: &Looked, policy: &Policy) -> Result<(), Failure> {
        let is_about =
            |candidate: &&Candidate| self.options.is_about(&candidate.series.host, &candidate.series.set, candidate.series.device);
        let candidates: Vec<_> = looked.candidates.iter().filter(is_about).cloned().collect();
        let series = decide(&candidates, policy, looked.now);
        show::series(&series, looked.now, self.output);
        let gone = forgotten_ids(&series);
        let signer = self.authorised(&gone)?;
        if signer.is_some() {
            self.expect_whole(looked)?;
            let many: Vec<_> = series.iter().filter(|series| !series.is_unremarkable()).collect();
            self.confirm_many(&many, &looked.findings)?;
        }
        let run = self.forget(signer, &gone, &policy.to_string())?;
        show::total(candidates.len(), &gone, (run, &policy.to_string(), self.options.dry_run), self.output);
        Ok(())
    }

    fn expect_whole(&self, looked: &Looked) -> Result<(), Failure> {
        if looked.is_whole() {
            return Ok(());
        }
        self.output.findings(&looked.findings);
        Err(Failure::new(
            Exit::Failed,
            "some of what was forgotten before cannot be read, and rules would count that again: nothing was forgotten",
        )
        .hint("'yesterdrive check' names the damage; snapshots can still be forgotten by name"))
    }

    /// More than a tenth at once is what a mistake or an attack looks like.
    fn confirm_many(&self, many: &[&Series<'_>], findings: &[Finding]) -> Result<(), Failure> {
        let Some(first) = many.first() else { return Ok(()) };
        let (count, all) = (first.forgotten().count(), first.verdicts.len());
        let others = if many.len() > 1 { format!(", and of {} more", many.len() - 1) } else { String::new() };
        let what =
            format!("{count} of {all} snapshots of {}{others} would be forgotten, which is more than a tenth", show::name(first.key));
        self.confirm(&what).inspect_err(|_| self.output.findings(findings))
    }

    fn by_name(&self, looked: &Looked) -> Result<(), Failure> {
        let named = self.named(&looked.snapshots.live, |wanted| session::not_there(wanted, &looked.snapshots))?;
        let ids: BTreeSet<_> = named.iter().map(|snapshot| snapshot.id).collect();
        let signer = self.authorised(&ids)?;
        if signer.is_some() {
            self.confirm(&format!("{} snapshots are to be forgotten", ids.len()))?;
        }
        let run = self.forget(signer, &ids, BY_NAME)?;
        named.iter().for_each(|snapshot| show::named(snapshot, self.output));
        show::total(looked.candidates.len(), &ids, (run, BY_NAME, self.options.dry_run), self.output);
        Ok(())
    }

    fn undo(&self, looked: &Looked) -> Result<(), Failure> {
        let is_about = |snapshot: &Snapshot| self.options.is_about(snapshot.host(), snapshot.set(), snapshot.device());
        let all_count = looked.snapshots.forgotten.len();
        let mut back: Vec<_> = looked.snapshots.forgotten.iter().filter(|forgotten| is_about(&forgotten.snapshot)).collect();
        if self.options.snapshots.is_empty() {
            let last =
                back.iter().filter_map(|forgotten| forgotten.newest()).max_by_key(|said| (said.moment(), said.run)).map(|said| said.run);
            back.retain(|forgotten| forgotten.newest().map(|said| said.run) == last);
            self.leave_out_what_is_too_late(&mut back)?;
        } else {
            let all: Vec<_> = back.iter().map(|forgotten| forgotten.snapshot.clone()).collect();
            let none = |wanted: &str| {
                Failure::new(Exit::Failed, format!("no forgotten snapshot fits '{wanted}'"))
                    .hint("'yesterdrive snapshots --forgotten' lists those that can be brought back")
            };
            let named: BTreeSet<_> = self.named(&all, none)?.iter().map(|snapshot| snapshot.id).collect();
            back.retain(|forgotten| named.contains(&forgotten.snapshot.id));
        }
        let run = if self.options.dry_run || back.is_empty() { None } else { Some(self.bring_back(&back)?) };
        back.iter().for_each(|forgotten| show::named(&forgotten.snapshot, self.output));
        let (count, verb) = (back.len(), if self.options.dry_run { "would bring" } else { "brought" });
        self.output.show(
            || format!("{verb} back {count} of {all_count} forgotten snapshots"),
            || json!({"type": "forget_undone", "snapshots": count, "dry_run": self.options.dry_run, "run": run.map(|run| run.to_string())}),
        );
        Ok(())
    }

    /// Of a whole run what can be brought back is; of what is named nothing is left out.
    fn leave_out_what_is_too_late(&self, back: &mut Vec<&Forgotten>) -> Result<(), Failure> {
        let late: BTreeSet<_> = too_late(self.repository, back)?.into_iter().map(|(id, _)| id).collect();
        if !back.is_empty() && back.iter().all(|forgotten| late.contains(&forgotten.snapshot.id)) {
            return Err(Failure::new(
                Exit::Failed,
                "what the last run forgot cannot be brought back any more: a prune has condemned it, and deletes it about now",
            )
            .hint("'yesterdrive snapshots --forgotten' lists all that are forgotten"));
        }
        for forgotten in back.iter().filter(|forgotten| late.contains(&forgotten.snapshot.id)) {
            self.output
                .message(&format!("snapshot {} cannot be brought back any more: a prune has condemned it", forgotten.snapshot.id.short()));
        }
        back.retain(|forgotten| !late.contains(&forgotten.snapshot.id));
        Ok(())
    }

    fn bring_back(&self, back: &[&Forgotten]) -> Result<RunId, Failure> {
        Ok(undo(self.repository, self.store, &self.signer()?, back.iter().copied())?)
    }

    /// Who signs, before anybody is asked; `None` if there is nothing to forget, or if it is only tried.
    fn authorised(&self, ids: &BTreeSet<SnapshotId>) -> Result<Option<Signer>, Failure> {
        if ids.is_empty() || self.options.dry_run {
            return Ok(None);
        }
        self.signer().map(Some)
    }

    fn signer(&self) -> Result<Signer, Failure> {
        let state = session::state(self.global, self.repository);
        Ok(authorise(self.repository, self.store, state.as_deref(), &session::host_name())?)
    }

    /// Without a signer nothing is written.
    fn forget(&self, signer: Option<Signer>, ids: &BTreeSet<SnapshotId>, why: &str) -> Result<Option<RunId>, Failure> {
        Ok(signer.map(|signer| forget(self.repository, self.store, &signer, ids, why)).transpose()?)
    }

    /// The snapshots that the arguments name. All are found before anything is done.
    fn named(&self, among: &[Snapshot], none: impl Fn(&str) -> Failure) -> Result<Vec<Snapshot>, Failure> {
        let among: Vec<_> =
            among.iter().filter(|snapshot| self.options.is_about(snapshot.host(), snapshot.set(), snapshot.device())).cloned().collect();
        let mut named: Vec<Snapshot> = Vec::new();
        for wanted in &self.options.snapshots {
            // Said twice it would mean another one.
            if wanted == "latest" {
                return Err(Failure::new(Exit::Usage, "'latest' is another snapshot as soon as this one is forgotten")
                    .hint("name it by its id: 'yesterdrive snapshots' lists them"));
            }
            let found = session::select_or(&among, wanted, &Filter::default(), || none(wanted))?;
            if !named.iter().any(|snapshot| snapshot.id == found.id) {
                named.push(found.clone());
            }
        }
        Ok(named)
    }

    fn confirm(&self, what: &str) -> Result<(), Failure> {
        if self.options.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            return Err(
                Failure::new(Exit::Failed, format!("{what}: nothing was forgotten")).hint("--dry-run shows them; --yes forgets them")
            );
        }
        self.output.message(&format!("{what}. Forget them? They come back with 'yesterdrive forget --undo' until they are swept. [y/N]"));
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        let is_yes = ["y", "yes"].iter().any(|yes| answer.trim().eq_ignore_ascii_case(yes));
        if is_yes { Ok(()) } else { Err(Failure::new(Exit::Failed, "nothing was forgotten")) }
    }
}
