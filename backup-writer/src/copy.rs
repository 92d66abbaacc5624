//! `copy()`: the objects of a repository at a second place, as they are. Needs no key: who looks after the disks can do it.
//!
//! Every object is proven by its name before it is put. What is in the copy is a sound repository at any moment: snapshots come last, and only when everything
//! that was listed after them is there. So a copy may run beside backups, forgetting and prunes, and be interrupted anywhere: the next one copies what is
//! missing. Each side heals the other. Reasons: docs/FORMAT.md, section 15.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use fs_core::id::{DeviceId, RepositoryId};
use fs_core::object::ObjectKind;
use fs_core::observer::{Observer, Progress};
use fs_core::report::{Finding, Place, Severity};
use fs_core::storage::{ObjectName, StoreError, WriteStore};
use fs_core::time::SharedClock;

use crate::prolong::{ProlongError, Prolonging};
use crate::prune::Counted;

mod compare;
mod deletions;
mod listing;
pub mod snapshots;
mod transfer;

use listing::{Listed, Listing};
use transfer::Trouble;

/// How often it is listed again what others have deleted meanwhile.
const ROUNDS: usize = 3;
/// Names that are shown of those that are too many to be told.
const EXAMPLES: usize = 3;
/// Everything.
pub const WHOLE: u8 = 100;

/// What a copy is made for: how the two places are called, and what is worth telling.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// A second copy, which is kept up.
    Copy,
    /// A disk that is carried away.
    Export,
    /// A disk that has arrived; the repository may have gone on meanwhile.
    Import,
}

/// What may be done.
#[derive(Clone, Debug)]
pub struct CopyOptions {
    /// What it is for.
    pub purpose: Purpose,
    /// Only say what would be copied.
    pub dry_run: bool,
    /// How much is read and proven of what both sides have, of the repository and of the copy, in per cent. What is copied is always proven.
    pub verify: (u8, u8),
    /// Whether what was put is read back.
    pub read_back: bool,
    /// Whether damaged objects are replaced by sound ones from the other side.
    pub heal: bool,
    /// Whether what only the copy has is put back into the repository.
    pub bring_back: bool,
    /// Whether snapshots are copied though something of the repository is damaged: the copy is then no better.
    pub despite_damage: bool,
    /// How long something must have been missing from the repository before it is deleted in the copy; `None` to delete nothing.
    pub delete_after: Option<Duration>,
    /// The folder of this machine for all repositories, in which it is remembered what was missing when.
    pub state: Option<PathBuf>,
    /// Draws what is read of what is there.
    pub seed: u64,
    /// Clock.
    pub clock: SharedClock,
}

impl CopyOptions {
    /// How it is done unless somebody says otherwise: what is copied is proven, what is met damaged is healed, nothing is deleted.
    pub fn new(purpose: Purpose, seed: u64, clock: SharedClock) -> Self {
        Self {
            purpose,
            dry_run: false,
            verify: (0, 0),
            read_back: false,
            heal: true,
            bring_back: false,
            despite_damage: false,
            delete_after: None,
            state: None,
            seed,
            clock,
        }
    }
}

/// What a run did; of a dry run, what it would do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CopyReport {
    /// The repository.
    pub repository: Option<RepositoryId>,
    /// Objects that the repository has.
    pub objects: Counted,
    /// Objects of those that were put into the copy.
    pub copied: Counted,
    /// Manifests and seals that wait for the next run.
    pub held_back: Counted,
    /// Objects of both sides that were read beside those, and found in order.
    pub verified: Counted,
    /// Objects that were replaced in the repository.
    pub healed: Counted,
    /// Objects that were replaced in the copy.
    pub healed_in_copy: Counted,
    /// Objects that are damaged or cannot be read, on either side, and that were not healed.
    pub damaged: u64,
    /// Objects that only the copy has.
    pub missing: Counted,
    /// Objects of those that were put back into the repository.
    pub brought_back: Counted,
    /// Objects of those that were deleted in the copy.
    pub deleted: Counted,
    /// Objects of those that wait until they have been missing for long enough, or for the next run.
    pub deletions_waiting: u64,
    /// Objects of the copy that its store keeps for longer now.
    pub prolonged: u64,
    /// What is wrong or strange.
    pub findings: Vec<Finding>,
}

/// Why nothing was copied, or not all of it. Whatever was put is sound, and the next run goes on.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// There is no repository to copy.
    #[error("there is no Yesterdrive repository in {location}")]
    NotThere {
        /// Where.
        location: String,
    },
    /// Nothing there says which repository it is.
    #[error("nothing in {location} says which repository it belongs to: all of it is damaged, or of a later version")]
    Unknown {
        /// Where.
        location: String,
    },
    /// The place holds something else.
    #[error("{location} holds repository {found}, and {wanted} was to be copied there")]
    Foreign {
        /// Where.
        location: String,
        /// What is there.
        found: RepositoryId,
        /// What was to be copied.
        wanted: RepositoryId,
    },
    /// It was stopped.
    #[error("the copy was interrupted; {} objects were copied", .copied.count)]
    Cancelled {
        /// What was copied until then.
        copied: Counted,
    },
    /// The repository failed.
    #[error("what is to be copied could not be read")]
    Read(#[source] StoreError),
    /// The copy failed.
    #[error("the copy could not be reached")]
    Copy(#[source] StoreError),
}

/// One of the two places.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Repository,
    Copy,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Repository => Self::Copy,
            Self::Copy => Self::Repository,
        }
    }

    fn failed(self, error: StoreError) -> CopyError {
        match self {
            Self::Repository => CopyError::Read(error),
            Self::Copy => CopyError::Copy(error),
        }
    }

    /// For sentences.
    fn name(self, purpose: Purpose) -> &'static str {
        match (self, purpose) {
            (Self::Repository, Purpose::Copy | Purpose::Export) | (Self::Copy, Purpose::Import) => "the repository",
            (Self::Copy, Purpose::Copy) => "the copy",
            (Self::Copy, Purpose::Export) | (Self::Repository, Purpose::Import) => "the disk",
        }
    }

    /// Likewise, where something is.
    fn place(self, purpose: Purpose) -> String {
        let name = self.name(purpose);
        let within = if name == "the disk" { "on" } else { "in" };
        format!("{within} {name}")
    }
}

/// A run under way.
struct Run<'a> {
    from: &'a dyn WriteStore,
    to: &'a dyn WriteStore,
    repository: RepositoryId,
    /// What the repository has.
    original: Listing,
    /// What the copy has; what is put is added.
    copy: Listing,
    options: &'a CopyOptions,
    observer: &'a dyn Observer,
    progress: Progress,
    report: CopyReport,
}

/// Copies what the repository in `from` has and `to` lacks, and compares the two.
///
/// # Errors
/// [`CopyError`]. What is wrong with single objects is a finding.
pub fn copy(from: &dyn WriteStore, to: &dyn WriteStore, options: &CopyOptions, observer: &dyn Observer) -> Result<CopyReport, CopyError> {
    let mut run = Run::begin(from, to, options, observer)?;
    run.compare_heads();
    let chosen = run.chosen();
    if options.dry_run {
        return Ok(run.plan());
    }
    let mut trouble = run.resolve()?;
    trouble.add(run.carry_all()?);
    run.carry_snapshots(&trouble)?;
    run.verify(&chosen, &mut Trouble::default())?;
    run.missing_ones()?;
    run.prolong()?;
    run.report.findings.iter().for_each(|finding| observer.finding(finding));
    Ok(run.report)
}

impl<'a> Run<'a> {
    /// Lists both sides and makes sure that they belong together.
    fn begin(
        from: &'a dyn WriteStore,
        to: &'a dyn WriteStore,
        options: &'a CopyOptions,
        observer: &'a dyn Observer,
    ) -> Result<Self, CopyError> {
        let copy = Listing::read(to).map_err(CopyError::Copy)?;
        let original = Listing::read_snapshots_first(from).map_err(CopyError::Read)?;
        let repository = original.identify(from)?;
        copy.expect(to, &original, repository)?;
        let objects = original.counted();
        let report = CopyReport { repository: Some(repository), objects, ..CopyReport::default() };
        Ok(Self { from, to, repository, original, copy, options, observer, progress: Progress::default(), report })
    }

    fn store(&self, side: Side) -> &'a dyn WriteStore {
        match side {
            Side::Repository => self.from,
            Side::Copy => self.to,
        }
    }

    fn listing(&mut self, side: Side) -> &mut Listing {
        match side {
            Side::Repository => &mut self.original,
            Side::Copy => &mut self.copy,
        }
    }

    fn finding(&mut self, severity: Severity, message: impl Into<String>) {
        self.report.findings.push(Finding { severity, place: Place::Operation, message: message.into() });
    }

    /// A copy that knows more than its repository: the repository was put back to an earlier state, or has lost snapshots.
    fn compare_heads(&mut self) {
        // A repository goes on while its disk is carried.
        let newer = if self.options.purpose == Purpose::Import { Vec::new() } else { self.newer_heads() };
        for (device, copied) in newer {
            let there = self.original.heads().get(&device).copied().unwrap_or(0);
            let name = Side::Copy.name(self.options.purpose);
            let message = format!(
                "{name} knows snapshot {copied} of device {device}, and the repository only {there}: it was put back to an earlier state, \
                 or has lost snapshots; 'copy --bring-back' puts into it what only {name} has"
            );
            self.finding(Severity::Warning, message);
        }
    }

    fn newer_heads(&self) -> Vec<(DeviceId, u64)> {
        let heads = self.original.heads();
        let is_newer = |(device, sequence): &(DeviceId, u64)| heads.get(device).is_none_or(|head| head < sequence);
        self.copy.heads().into_iter().filter(is_newer).collect()
    }

    /// What a dry run says.
    fn plan(mut self) -> CopyReport {
        for (name, listed) in &self.original.objects {
            if !self.copy.has(name, listed.size) && !self.original.late.contains(name) {
                self.report.copied.add(listed.size);
            }
        }
        self.copy.only_here(&self.original).for_each(|(_, listed)| self.report.missing.add(listed.size));
        self.report
    }

    /// Everything but snapshots, each group when the one before is there.
    fn carry_all(&mut self) -> Result<Trouble, CopyError> {
        for round in 1.. {
            let mut trouble = Trouble::default();
            for group in listing::GROUPS {
                let names = self.lacking(Side::Copy, group);
                trouble.add(self.carry(Side::Repository, &names)?);
            }
            if trouble.gone == 0 || round >= ROUNDS {
                return Ok(trouble);
            }
            // What came in its place was there before it went: in a new list.
            let gone = trouble.gone;
            self.finding(Severity::Note, format!("{gone} objects were deleted by others meanwhile, as prunes and merges do: listed again"));
            let late = std::mem::take(&mut self.original.late);
            let before: BTreeSet<ObjectName> = self.original.snapshots().cloned().collect();
            let mut listing = Listing::read(self.from).map_err(CopyError::Read)?;
            listing.late = listing.snapshots().filter(|name| late.contains(*name) || !before.contains(*name)).cloned().collect();
            self.original = listing;
        }
        Ok(Trouble::default())
    }

    /// Objects of these kinds that a side lacks and the other one has; snapshots that came late wait.
    fn lacking(&self, side: Side, kinds: &[ObjectKind]) -> Vec<(ObjectName, Listed)> {
        let (has, lacks) = match side {
            Side::Copy => (&self.original, &self.copy),
            Side::Repository => (&self.copy, &self.original),
        };
        let is_wanted = |name: &ObjectName, listed: &Listed| {
            kinds.contains(&listed.promise.kind) && !lacks.objects.contains_key(name) && !has.late.contains(name)
        };
        has.objects.iter().filter(|(name, listed)| is_wanted(name, listed)).map(|(name, listed)| (name.clone(), *listed)).collect()
    }

    /// Manifests, and then the seals of those that are there: unless something is missing that they may need. Without a key nobody knows what they need.
    fn carry_snapshots(&mut self, trouble: &Trouble) -> Result<(), CopyError> {
        let manifests = self.lacking(Side::Copy, &[ObjectKind::Manifest]);
        let seals = self.lacking(Side::Copy, &[ObjectKind::Seal]);
        let is_unsafe = trouble.gone > 0 || trouble.unsound > 0 && !self.options.despite_damage;
        if is_unsafe && manifests.len() + seals.len() > 0 {
            manifests.iter().chain(&seals).for_each(|(_, listed)| self.report.held_back.add(listed.size));
            let why = if trouble.gone > 0 {
                "others delete faster than this run copies: run it again".to_owned()
            } else {
                let count = trouble.unsound;
                format!("{count} objects that they may need could not be copied; --despite-damage copies them all the same")
            };
            let place = Side::Copy.place(self.options.purpose);
            self.finding(Severity::Warning, format!("{} new snapshots are not {place} yet: {why}", manifests.len()));
            return Ok(());
        }
        self.carry(Side::Repository, &manifests)?;
        // A seal without its manifest is what a lost snapshot looks like.
        let (whole, alone): (Vec<_>, Vec<_>) = seals.into_iter().partition(|(name, _)| self.original.is_whole_in(&self.copy, name));
        alone.iter().for_each(|(_, listed)| self.report.held_back.add(listed.size));
        self.carry(Side::Repository, &whole)?;
        Ok(())
    }

    /// What only the copy has: told, brought back, or deleted when its time has come.
    fn missing_ones(&mut self) -> Result<(), CopyError> {
        let missing: Vec<(ObjectName, Listed)> =
            self.copy.only_here(&self.original).map(|(name, listed)| (name.clone(), *listed)).collect();
        missing.iter().for_each(|(_, listed)| self.report.missing.add(listed.size));
        if missing.is_empty() || self.options.purpose != Purpose::Copy {
            return self.delete(&missing);
        }
        if self.options.bring_back {
            return self.bring_back();
        }
        let names = missing.iter().take(EXAMPLES).map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        let rest = if missing.len() > EXAMPLES { ", …" } else { "" };
        let count = missing.len();
        self.finding(
            Severity::Note,
            format!(
                "{count} objects are in the copy only ({names}{rest}): prunes and merges deleted them here, or the store has lost them, \
                 which 'check' finds; --bring-back puts them back"
            ),
        );
        if missing.iter().any(|(_, listed)| listed.promise.kind == ObjectKind::Slot) {
            self.finding(Severity::Note, "keys that were removed from the repository still open the copy: remove them there too");
        }
        self.delete(&missing)
    }

    /// In a copy that keeps its objects for a time, those that the repository still has are kept for longer.
    fn prolong(&mut self) -> Result<(), CopyError> {
        let state = self.options.state.as_ref().map(|state| state.join(self.repository.to_string()));
        let is_wanted = |name: &ObjectName| self.original.objects.contains_key(name);
        let Some(due) = Prolonging::look(self.to, state.as_deref()).map_err(CopyError::Copy)? else { return Ok(()) };
        let prolonged = due.execute(|name| !is_wanted(name), self.observer).map_err(|error| match error {
            ProlongError::Cancelled => CopyError::Cancelled { copied: self.report.copied },
            ProlongError::Store(error) => CopyError::Copy(error),
        })?;
        self.report.prolonged = prolonged.count;
        self.report.findings.extend(prolonged.findings);
        Ok(())
    }

    /// Puts into the repository what only the copy has, in the same order. Keys that were removed stay removed.
    fn bring_back(&mut self) -> Result<(), CopyError> {
        let has_keys = self.original.objects.values().any(|listed| listed.promise.kind == ObjectKind::Slot);
        let (copied, mut trouble) = (self.report.copied, Trouble::default());
        for group in listing::GROUPS {
            let mut names = self.lacking(Side::Repository, group);
            names.retain(|(_, listed)| listed.promise.kind != ObjectKind::Slot || !has_keys);
            trouble.add(self.carry(Side::Copy, &names)?);
        }
        if trouble.gone + trouble.unsound == 0 {
            let manifests = self.lacking(Side::Repository, &[ObjectKind::Manifest]);
            self.carry(Side::Copy, &manifests)?;
            let mut seals = self.lacking(Side::Repository, &[ObjectKind::Seal]);
            seals.retain(|(name, _)| self.copy.is_whole_in(&self.original, name));
            self.carry(Side::Copy, &seals)?;
        } else {
            self.finding(
                Severity::Warning,
                "the snapshots that only the copy has are not brought back: something that they may need cannot be",
            );
        }
        let all = std::mem::replace(&mut self.report.copied, copied);
        self.report.brought_back = Counted { count: all.count - copied.count, bytes: all.bytes - copied.bytes };
        Ok(())
    }
}
