//! What both sides have: sizes are compared always, bytes where they are read. Each side heals the other.

use bytes::Bytes;
use fs_core::crypto;
use fs_core::id::RepositoryId;
use fs_core::observer::Observer;
use fs_core::report::{Finding, Severity, chain};
use fs_core::storage::{ObjectName, StoreError, WriteStore};

use super::listing::Listed;
use super::transfer::{Budget, Trouble, Unsound, WORKERS_MAX, read, replace};
use super::{CopyError, Purpose, Run, Side, WHOLE};
use crate::side_by_side::side_by_side;

/// An object to be proven: how each side lists it, where it is to be read.
pub(super) struct Chosen {
    name: ObjectName,
    /// Of the repository and of the copy; `None` if it is not there.
    listed: (Option<Listed>, Option<Listed>),
    /// Whether each side is read also if nothing is wrong with the other.
    is_read: (bool, bool),
}

/// What became of it.
enum Compared {
    Fine,
    /// Deleted by somebody since it was listed.
    Gone,
    /// Damaged on this side, and replaced.
    Healed(Side, String),
    /// Damaged on this side: why, and why it stays so.
    Damaged(Side, Unsound, String),
    /// Each is in order by itself as far as anybody can tell without a key, and they are not the same.
    Different,
    Stopped,
}

impl Run<'_> {
    /// What is read of what is there.
    pub(super) fn chosen(&self) -> Vec<Chosen> {
        let (here, there) = self.options.verify;
        let mut chosen = Vec::new();
        for (name, listed) in &self.original.objects {
            let other = self.copy.objects.get(name).copied();
            // What is to be copied is proven then.
            let Some(other) = other.filter(|other| other.size == listed.size) else { continue };
            let is_read = (self.is_drawn(name, here, 0), self.is_drawn(name, there, 1));
            if is_read.0 || is_read.1 {
                chosen.push(Chosen { name: name.clone(), listed: (Some(*listed), Some(other)), is_read });
            }
        }
        for (name, listed) in self.copy.only_here(&self.original).filter(|(name, _)| self.is_drawn(name, there, 1)) {
            chosen.push(Chosen { name: name.clone(), listed: (None, Some(*listed)), is_read: (false, true) });
        }
        chosen
    }

    fn is_drawn(&self, name: &ObjectName, percent: u8, side: u8) -> bool {
        let drawn = || {
            let seed = self.options.seed.to_le_bytes();
            let [a, b, ..] = crypto::hash(&[&seed[..], &[side], name.as_str().as_bytes()].concat());
            u16::from_le_bytes([a, b]) % u16::from(WHOLE) < u16::from(percent)
        };
        percent >= WHOLE || percent > 0 && drawn()
    }

    /// Objects of two sizes: one of them is damaged, and nothing new may rest on it.
    pub(super) fn resolve(&mut self) -> Result<Trouble, CopyError> {
        let mut unequal = Vec::new();
        for (name, listed) in &self.original.objects {
            if let Some(other) = self.copy.objects.get(name).filter(|other| other.size != listed.size) {
                unequal.push(Chosen { name: name.clone(), listed: (Some(*listed), Some(*other)), is_read: (true, true) });
            }
        }
        let mut trouble = Trouble::default();
        self.verify(&unequal, &mut trouble)?;
        Ok(trouble)
    }

    /// Reads and proves what was chosen, and heals what can be.
    pub(super) fn verify(&mut self, chosen: &[Chosen], trouble: &mut Trouble) -> Result<(), CopyError> {
        let sizes = |chosen: &Chosen| chosen.listed.0.or(chosen.listed.1).map_or(0, |listed| listed.size);
        self.begin_progress(chosen.iter().map(sizes));
        let pair = Pair {
            stores: (self.from, self.to),
            run: (self.repository, self.options.heal),
            observer: self.observer,
            purpose: self.options.purpose,
        };
        let budget = Budget::new();
        side_by_side(
            WORKERS_MAX,
            chosen,
            |chosen| {
                // Both sides may be in memory.
                let _share = budget.take(sizes(chosen) * 2);
                pair.compare(chosen)
            },
            |chosen, compared| {
                self.step(sizes(chosen));
                self.tell(chosen, compared, trouble)
            },
        )
    }

    fn name(&self, side: Side) -> &'static str {
        side.name(self.options.purpose)
    }

    fn place(&self, side: Side) -> String {
        side.place(self.options.purpose)
    }

    fn tell(&mut self, chosen: &Chosen, compared: Compared, trouble: &mut Trouble) -> Result<(), CopyError> {
        let Some(listed) = chosen.listed.0.or(chosen.listed.1) else { return Ok(()) };
        let name = &chosen.name;
        match compared {
            Compared::Gone => {}
            Compared::Stopped => return Err(CopyError::Cancelled { copied: self.report.copied }),
            Compared::Fine => {
                self.report.verified.add(listed.size);
                return trouble.note(&listed, None).map_err(CopyError::Read);
            }
            Compared::Healed(side, why) => {
                let (healed, sound) = match side {
                    Side::Repository => (&mut self.report.healed, chosen.listed.1),
                    Side::Copy => (&mut self.report.healed_in_copy, chosen.listed.0),
                };
                healed.add(sound.map_or(0, |sound| sound.size));
                if let Some(sound) = sound {
                    self.listing(side).objects.insert(name.clone(), sound);
                }
                let message = format!("{}: {why}; it was put anew from {}", self.place(side), self.name(side.other()));
                self.report.findings.push(Finding::object(Severity::Warning, name.as_str(), message));
            }
            Compared::Different => {
                self.damaged(name, "both sides have different bytes: 'check --read-data' of each tells which is damaged".into())
            }
            Compared::Damaged(side, unsound, stays) => {
                self.damaged(name, format!("{}: {}; {stays}", self.place(side), unsound.message()));
                return trouble.note(&listed, Some(unsound)).map_err(|error| side.failed(error));
            }
        }
        Ok(())
    }
}

/// Both sides, for one who compares.
struct Pair<'a> {
    stores: (&'a dyn WriteStore, &'a dyn WriteStore),
    /// Which repository, and whether damage is healed.
    run: (RepositoryId, bool),
    observer: &'a dyn Observer,
    purpose: Purpose,
}

impl Pair<'_> {
    fn compare(&self, chosen: &Chosen) -> Compared {
        if self.observer.is_cancelled() {
            return Compared::Stopped;
        }
        let here = chosen.is_read.0.then(|| self.read(Side::Repository, chosen));
        let there = chosen.is_read.1.then(|| self.read(Side::Copy, chosen));
        match (here, there) {
            (Some(Err(Unsound::Stopped)), _) | (_, Some(Err(Unsound::Stopped))) => Compared::Stopped,
            (Some(Err(Unsound::Gone)), _) | (_, Some(Err(Unsound::Gone))) => Compared::Gone,
            (Some(Err(unsound)), other) => self.heal(Side::Repository, chosen, unsound, other),
            (other, Some(Err(unsound))) => self.heal(Side::Copy, chosen, unsound, other),
            (Some(Ok(here)), Some(Ok(there))) if here != there => Compared::Different,
            _ => Compared::Fine,
        }
    }

    fn read(&self, side: Side, chosen: &Chosen) -> Result<Bytes, Unsound> {
        let (store, listed) = match side {
            Side::Repository => (self.stores.0, chosen.listed.0),
            Side::Copy => (self.stores.1, chosen.listed.1),
        };
        let Some(listed) = listed else { return Err(Unsound::Gone) };
        match read(store, &chosen.name, listed, self.observer) {
            Ok((owner, bytes)) if owner == self.run.0 => Ok(bytes),
            Ok((owner, _)) => Err(Unsound::Damaged(format!("it is misplaced: it belongs to repository {owner}"))),
            Err(unsound) => Err(unsound),
        }
    }

    /// Replaces what is damaged on one side by what is proven on the other: first in hand, then deleted, then put.
    fn heal(&self, side: Side, chosen: &Chosen, unsound: Unsound, other: Option<Result<Bytes, Unsound>>) -> Compared {
        let sound = match other.unwrap_or_else(|| self.read(side.other(), chosen)) {
            Ok(bytes) => bytes,
            Err(Unsound::Stopped) => return Compared::Stopped,
            Err(Unsound::Gone) => return Compared::Damaged(side, unsound, format!("{} does not have it", self.name(side.other()))),
            Err(error) => {
                let stays = format!("nor is it of use {}: {}", self.place(side.other()), error.message());
                return Compared::Damaged(side, unsound, stays);
            }
        };
        let (store, listed) = match side {
            Side::Repository => (self.stores.0, chosen.listed.1),
            Side::Copy => (self.stores.1, chosen.listed.0),
        };
        let Some(listed) = listed else { return Compared::Damaged(side, unsound, "it is not listed".into()) };
        if !self.run.1 || !unsound.is_damage() {
            return Compared::Damaged(side, unsound, format!("it is in order {}", self.place(side.other())));
        }
        match replace(store, &chosen.name, (listed, &sound)) {
            Ok(()) => Compared::Healed(side, unsound.message()),
            Err(error) => Compared::Damaged(side, unsound, self.not_healed(side, &error)),
        }
    }

    fn not_healed(&self, side: Side, error: &StoreError) -> String {
        let sound = self.place(side.other());
        let what = match (error, side) {
            (StoreError::Denied { .. }, _) => "its store lets go of nothing, so it stays",
            (_, Side::Copy) => "the next run puts it anew",
            (_, Side::Repository) => "should it be missing now, 'copy --bring-back' puts it back",
        };
        format!("it could not be put anew ({}), and is in order {sound}: {what}", chain(error))
    }

    fn name(&self, side: Side) -> &'static str {
        side.name(self.purpose)
    }

    fn place(&self, side: Side) -> String {
        side.place(self.purpose)
    }
}
