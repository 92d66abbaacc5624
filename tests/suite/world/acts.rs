//! What machines do.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use backup_writer::backup::{BackupOptions, backup};
use backup_writer::check::{CheckOptions, ReadData, check};
use backup_writer::forget::{ForgetError, authorise, forget, look, undo};
use backup_writer::merge::{self, MergeOptions};
use backup_writer::prune::{Plan, PruneOptions};
use backup_writer::repair::{RepairOptions, repair_index};
use backup_writer::retention::{Policy, Rule, decide, forgotten_ids};
use fs_core::id::SnapshotId;
use fs_core::object::{ObjectKind, Signer, parse_sequence_name};
use fs_core::observer::Silent;
use fs_core::report::{Finding, Place, Severity};
use fs_core::repository::Repository;
use fs_core::snapshot::mark::GRACE_LEAST;
use fs_core::testing::simulator::Random;
use fs_core::time::{Clock as _, Timestamp};
use tests::options;

use super::line::Notice;
use super::model::{Model, Standing};
use super::{Busy, DAY, Ended, HOUR, Risk, Run, World, manifest};

/// Undoing is refused so long before a prune may sweep.
const UNDO_MARGIN: std::time::Duration = std::time::Duration::from_secs(12 * 3600);

fn nothing() -> Notice {
    Box::new(|_| {})
}

fn signer(run: &Run<'_>, repository: &Repository) -> anyhow::Result<Signer> {
    Ok(authorise(repository, &*run.line, repository.state(), &run.machine.host)?)
}

impl World {
    /// Something happens.
    pub(super) fn step(self: &Arc<Self>, chance: &mut Random, depth: u32) {
        let risk = Risk { depth, faults: true, naps: true };
        let what = chance.below(100);
        let Some(busy) = self.somebody(chance) else { return self.read(chance, depth) };
        match what {
            0..=43 => {
                drop(busy);
                self.read(chance, depth);
            }
            44..=47 => self.open_drive(&busy, chance, depth),
            48..=51 => self.refresh(chance, depth),
            52..=73 => self.back_up(&busy, chance, risk),
            74..=77 => self.forget(&busy, chance, risk),
            78..=80 => self.undo(&busy, chance, risk),
            81..=86 => self.prune(&busy, chance, risk),
            87..=88 => self.merge(&busy, chance, risk),
            89 => self.repair(&busy, chance, risk),
            90..=91 => self.check(&busy, chance, risk, false),
            92..=94 => self.look(chance, depth, 1),
            95 => self.remove_torn(chance, depth),
            96 => {
                let lost = busy.0.forget_state(chance);
                self.tell(depth, &format!("machine {} {lost}", busy.0.number));
            }
            97 => busy.0.clock.set(chance),
            _ => {
                self.pass([DAY, 8 * DAY, 20 * DAY][chance.below(3) as usize], chance);
                self.tell(depth, "time passes");
            }
        }
    }

    /// What whoever sleeps must fear most: snapshots go, what only they held is condemned, and swept.
    pub(super) fn maintain(self: &Arc<Self>, chance: &mut Random, depth: u32) {
        let calm = Risk { depth, faults: false, naps: false };
        let Some(busy) = self.somebody(chance) else { return };
        self.forget(&busy, chance, calm);
        for _ in 0..2 {
            self.prune_wholly(&busy, chance, calm);
            self.truth.advance(8 * DAY);
        }
    }

    /// A run to which nothing happened, and that met nothing damaged, does what it should.
    fn expect_done<T>(&self, what: &str, ended: &Ended<T>) {
        let is_excused = !ended.is_calm() || !self.model().torn.is_empty();
        let error = || ended.result.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
        self.expect(is_excused || ended.result.is_ok(), || format!("{what} failed without a reason: {}", error()));
    }

    pub(super) fn back_up(self: &Arc<Self>, busy: &Busy<'_>, chance: &mut Random, risk: Risk) {
        let machine = busy.0;
        machine.work(chance);
        let files = machine.files();
        let (world, number, saved) = (Arc::clone(self), machine.number, Arc::clone(&files));
        let notice = Box::new(move |name: &_| {
            if let Some(named) = manifest(name) {
                world.model().will_be(named, number, &saved);
            } else if let Some((device, sequence, _)) = parse_sequence_name(ObjectKind::Seal, name) {
                world.model().will_be_sealed((device, sequence));
            }
        });
        let reread = chance.one_in(20);
        let ended = self.run(("backup", machine), chance, risk, notice, |run| {
            let repository = run.open()?;
            let state = repository.state().map(PathBuf::from);
            let options = BackupOptions {
                shown_as: vec!["/d".into()],
                host: machine.host.clone(),
                set: Some(String::new()),
                reread,
                state,
                ..options(machine.source(), None)
            };
            Ok(backup(&repository, &run.store(), &options, &Silent)?)
        });
        self.expect_done("a backup", &ended);
        if let Ok(report) = &ended.result {
            let mut model = self.model();
            let known = model.snapshots.get_mut(&report.snapshot).map(|known| known.is_sealed = true);
            drop(model);
            self.expect(known.is_some(), || "a snapshot that was not put".into());
        }
    }

    fn forget(self: &Arc<Self>, busy: &Busy<'_>, chance: &mut Random, risk: Risk) {
        let keep = 1 + chance.below(6) as u32;
        let mut rules = vec![Rule::Last(keep)];
        if chance.one_in(2) {
            rules.push(Rule::Within(3 * DAY));
        }
        let policy = Policy::new(rules);
        let by_name = chance.one_in(3).then(|| chance.branch());
        let mut begun = None;
        let ended = self.run(("forget", busy.0), chance, risk, nothing(), |run| {
            let before = self.model().not_forgotten();
            let repository = run.open()?;
            let looked = look(&repository)?;
            let gone = match by_name {
                Some(mut chance) => some(&mut chance, looked.snapshots.live.iter().map(|snapshot| snapshot.id)),
                // The program does not go by rules then either.
                None if !looked.is_whole() => anyhow::bail!("damaged tombstones"),
                None => {
                    let gone = forgotten_ids(&decide(&looked.candidates, &policy, looked.now));
                    self.expect_last_are_kept(&gone, &before, keep);
                    gone
                }
            };
            let signer = signer(run, &repository)?;
            begun = Some(self.model().begin(gone.iter().copied(), Some(self.truth.now())));
            self.tell(risk.depth, &format!("    forgets {}", names(&gone)));
            Ok(forget(&repository, &*run.line, &signer, &gone, "test")?)
        });
        self.model().end(&begun.unwrap_or_default(), ended.result.is_ok().then_some(Standing::Forgotten));
        self.expect_done("forgetting", &ended);
    }

    /// Whatever a list hides, rules let go of none of the last ones that there really are.
    fn expect_last_are_kept(&self, gone: &BTreeSet<SnapshotId>, before: &BTreeSet<SnapshotId>, keep: u32) {
        let model = self.model();
        let now = model.not_forgotten();
        for id in gone {
            let Some(this) = model.snapshots.get(id).filter(|known| known.is_owed()) else { continue };
            let counts = |id| before.contains(id) || now.contains(id);
            let later = model
                .snapshots
                .iter()
                .filter(|(other_id, other)| *other_id != id && other.may_be_sealed && other.is_after(this) && counts(other_id))
                .count();
            self.expect(later >= keep as usize, || format!("rules forget {}, one of the last {keep}", id.short()));
        }
    }

    fn undo(self: &Arc<Self>, busy: &Busy<'_>, chance: &mut Random, risk: Risk) {
        let risk = if chance.one_in(2) { Risk { faults: false, ..risk } } else { Risk { naps: false, ..risk } };
        let mut picking = chance.branch();
        let mut begun = None;
        let ended = self.run(("undo", busy.0), chance, risk, nothing(), |run| {
            let repository = run.open()?;
            let listed = repository.all_snapshots()?;
            let back = some(&mut picking, listed.forgotten.iter().map(|forgotten| forgotten.snapshot.id));
            let signer = signer(run, &repository)?;
            begun = Some(self.model().begin(back.iter().copied(), None));
            self.tell(risk.depth, &format!("    brings back {}", names(&back)));
            let back = listed.forgotten.iter().filter(|forgotten| back.contains(&forgotten.snapshot.id));
            let undone = undo(&repository, &*run.line, &signer, back);
            if let Err(error @ ForgetError::TooLate { .. }) = undone {
                self.tell(risk.depth, &format!("    {error}"));
                return Ok(false);
            }
            undone?;
            Ok(true)
        });
        let begun = begun.unwrap_or_default();
        if ended.is_calm() && matches!(ended.result, Ok(false)) {
            let now = self.truth.now().max(busy.0.clock.now());
            self.expect(self.model().is_any_old(&begun, now), || format!("too late to bring back {begun:?}"));
        }
        self.model().end(&begun, matches!(ended.result, Ok(true)).then_some(Standing::Live));
        self.expect_done("undoing", &ended);
    }

    fn prune(self: &Arc<Self>, busy: &Busy<'_>, chance: &mut Random, risk: Risk) {
        let grace = if chance.one_in(3) { GRACE_LEAST } else { 7 * DAY };
        let (delete_percent, repack_bytes) = ([100, 20, 5][chance.below(3) as usize], [u64::MAX, 20_000, 0][chance.below(3) as usize]);
        let options = PruneOptions { grace, age: GRACE_LEAST, delete_percent, repack_bytes, missing_is_lost: false };
        self.prune_as(busy, chance, risk, options);
    }

    pub(super) fn prune_wholly(self: &Arc<Self>, busy: &Busy<'_>, chance: &mut Random, risk: Risk) {
        self.prune_as(busy, chance, risk, PruneOptions { delete_percent: 100, ..PruneOptions::default() });
    }

    fn prune_as(self: &Arc<Self>, busy: &Busy<'_>, chance: &mut Random, risk: Risk, options: PruneOptions) {
        if !self.memory.contents().iter().any(|(name, _)| manifest(name).is_some()) {
            // A prune refuses that, and says so.
            return;
        }
        let others = self.prunes.fetch_add(1, Ordering::Relaxed);
        let ended = self.run(("prune", busy.0), chance, risk, nothing(), |run| {
            let repository = run.open()?;
            let plan = Plan::make(&repository, &options, &Silent)?;
            let signer = signer(run, &repository)?;
            let report = plan.execute(&*run.line, &signer)?;
            let merge_options = MergeOptions { grace: options.grace, ..MergeOptions::default() };
            merge::run(&repository, &*run.line, &signer, &merge_options, &Silent)?;
            Ok(report)
        });
        self.prunes.fetch_sub(1, Ordering::Relaxed);
        // Of two at once one may take what the other has swept for damage: it stops, and the next run goes on.
        if others == 0 {
            self.expect_done("a prune", &ended);
        }
        if let Ok(report) = &ended.result {
            self.tell(
                risk.depth,
                &format!(
                    "    sweeps {} packs and {} snapshots, condemns {} and {}, packs {} anew",
                    report.swept.count, report.snapshots_swept, report.condemned.count, report.snapshots_condemned, report.repacked.count
                ),
            );
        }
    }

    fn merge(self: &Arc<Self>, busy: &Busy<'_>, chance: &mut Random, risk: Risk) {
        let grace = if chance.one_in(2) { GRACE_LEAST } else { 7 * DAY };
        let ended = self.run(("merge", busy.0), chance, risk, nothing(), |run| {
            let repository = run.open()?;
            let signer = signer(run, &repository)?;
            Ok(merge::run(&repository, &*run.line, &signer, &MergeOptions { grace, ..MergeOptions::default() }, &Silent)?)
        });
        self.expect_done("a merge", &ended);
    }

    fn repair(self: &Arc<Self>, busy: &Busy<'_>, chance: &mut Random, risk: Risk) {
        let all = chance.one_in(2);
        let ended = self.run(("repair", busy.0), chance, risk, nothing(), |run| {
            let repository = run.open()?;
            let signer = signer(run, &repository)?;
            Ok(repair_index(&repository, &*run.line, &signer, &RepairOptions { all }, &Silent)?)
        });
        self.expect_done("a repair", &ended);
    }

    /// A check finds nothing, unless a store lied to it or something was cut off.
    pub(super) fn check(self: &Arc<Self>, busy: &Busy<'_>, chance: &mut Random, risk: Risk, wholly: bool) {
        let read_data = if wholly || chance.one_in(3) { ReadData::All } else { ReadData::None };
        let ended = self.run(("check", busy.0), chance, Risk { naps: false, ..risk }, nothing(), |run| {
            let repository = run.open()?;
            let state = repository.state().map(PathBuf::from);
            Ok(check(&repository, CheckOptions { read_data, state, ..CheckOptions::default() }, &Silent)?.findings)
        });
        self.expect_done("a check", &ended);
        if let Ok(findings) = &ended.result {
            let is_clean = !ended.is_calm() || self.is_clean(findings);
            self.expect(is_clean, || format!("a check finds {findings:?}"));
        }
    }

    /// Whether nothing is wrong but what is known to be cut off.
    fn is_clean(&self, findings: &[Finding]) -> bool {
        let is_known = |place: &Place| matches!(place, Place::Object(_)) && !self.model().torn.is_empty();
        findings.iter().all(|finding| finding.severity == Severity::Note || is_known(&finding.place))
    }

    /// Somebody removes what a bad store has cut off under its name, as a check names it.
    pub(super) fn remove_torn(self: &Arc<Self>, _: &mut Random, depth: u32) {
        let there: BTreeSet<_> = self.memory.contents().into_iter().map(|(name, _)| name).collect();
        let torn: Vec<_> = std::mem::take(&mut self.model().torn).into_iter().filter(|name| there.contains(name)).collect();
        if torn.is_empty() {
            return;
        }
        let repository = self.open(self.sound().as_read(), None).unwrap();
        let findings = check(&repository, ReadData::All, &Silent).unwrap().findings;
        for name in torn {
            let is_named = |finding: &Finding| matches!(&finding.place, Place::Object(object) if name.as_str().ends_with(object.as_str()));
            self.expect(findings.iter().any(is_named), || format!("{name} is cut off, and a check finds only {findings:?}"));
            self.memory.overwrite(&name, None);
            self.tell(depth, &format!("{name} is removed"));
        }
    }
}

fn names(ids: &BTreeSet<SnapshotId>) -> String {
    ids.iter().map(SnapshotId::short).collect::<Vec<_>>().join(" ")
}

/// One to three of these.
fn some(chance: &mut Random, all: impl Iterator<Item = SnapshotId>) -> BTreeSet<SnapshotId> {
    let all: Vec<_> = all.collect();
    (0..=chance.below(3)).filter_map(|_| chance.one_of(&all).copied()).collect()
}

impl Model {
    /// Whether one of these was forgotten so long ago that it need not come back.
    fn is_any_old(&self, touched: &[(SnapshotId, u64)], now: Timestamp) -> bool {
        let is_old = |since: Timestamp| now.since(since) + UNDO_MARGIN + HOUR >= GRACE_LEAST;
        touched.iter().filter_map(|(id, _)| self.snapshots.get(id)).any(|known| known.forgotten_since.is_none_or(is_old))
    }
}
