//! What a run begins with, whether it saves or only says what it would: its parent, what is known from before, and the packs that are there.

use std::path::Path;
use std::sync::Arc;

use fs_core::id::{DeviceId, SnapshotId};
use fs_core::object::SEQUENCE_MAX;
use fs_core::observer::Observer;
use fs_core::repository::{ReadError, Repository, Snapshots};
use fs_core::snapshot::{Manifest, Snapshot};
use fs_core::time::Timestamp;

use super::again::Again;
use super::before::Before;
use super::changes::Changes;
use super::collect::Collector;
use super::named::Named;
use super::walk::{Ground, Never, Walk};
use super::{BackupError, BackupOptions, find_parent, set_of_paths};
use crate::pace::Pace;
use crate::packer::{Packer, Shared};
use crate::source;
use crate::state::FileStates;

/// Opens what this machine knows of its files, if it can be opened.
pub(super) type OpenStates = fn(&Path, &Repository) -> Option<FileStates>;

pub(super) struct Start<'a> {
    options: &'a BackupOptions,
    again: Option<&'a Again<'a>>,
    pub started: Timestamp,
    pub named: Named,
    pub snapshots: Snapshots,
    pub set: String,
    pub parent: Option<(SnapshotId, Manifest)>,
    device: Option<DeviceId>,
    pub shared: Arc<Shared>,
    never: Never,
    pub states: Option<FileStates>,
}

impl<'a> Start<'a> {
    /// Looks at the repository. Nothing is written to it; `device` is the one that saves, if there is one already.
    pub(super) fn look(
        repository: &Arc<Repository>,
        (options, again): (&'a BackupOptions, Option<&'a Again<'a>>),
        (started, named): (Timestamp, Named),
        (device, pace, open_states): (Option<DeviceId>, Arc<Pace>, OpenStates),
    ) -> Result<Self, BackupError> {
        let snapshots = repository.snapshots_before()?;
        let set = options.set.clone().map_or_else(|| set_of_paths(&snapshots, &options.host, &named.sources()), Ok)?;
        let copy = again.and_then(|again| again.parent(&snapshots.live));
        let parent = copy.or_else(|| find_parent(&snapshots.live, (&options.host, &set), device));
        let with_manifest = |parent: &Snapshot| Ok::<_, ReadError>((parent.id, parent.manifest()?));
        let parent = parent.map(with_manifest).transpose()?;
        let shared = Arc::new(Shared::new(Arc::clone(repository), pace)?);
        let never = options.never.iter().filter_map(|path| source::identity(path)).collect();
        // What this machine saw of its own files says nothing of another repository's.
        let states = options.state.as_deref().filter(|_| again.is_none()).and_then(|folder| open_states(folder, repository));
        Ok(Self { options, again, started, named, snapshots, set, parent, device, shared, never, states })
    }

    /// The number of the device's next snapshot and the one before. Numbers go on where they were, also if the newest snapshot is forgotten.
    pub(super) fn number(&self, device: DeviceId) -> Result<(u64, Option<SnapshotId>), BackupError> {
        let Some(previous) = self.snapshots.heads.get(&device) else { return Ok((1, None)) };
        let number = previous.sequence.checked_add(1).filter(|number| *number <= SEQUENCE_MAX);
        Ok((number.ok_or(BackupError::NoNumberLeft { snapshot: previous.manifest.short() })?, Some(previous.manifest)))
    }

    pub(super) fn walk(&self) -> Walk<'_> {
        let key = self.states.as_ref().map(FileStates::fingerprint_key);
        let repository = self.shared.repository();
        Walk::new(&self.named, (self.started, &self.never), self.options, (repository, self.parent.is_some()), key)
    }

    /// What is walked: the live tree, or a snapshot of another repository.
    pub(super) fn ground(&self) -> Ground<'_> {
        let parent = self.parent.as_ref().map(|(id, _)| *id);
        self.again.map_or_else(|| Ground::Live(self.walk()), |again| Ground::Saved(again.walk(&self.shared, parent)))
    }

    pub(super) fn collector<'s>(&'s self, packer: Packer, observer: &'s dyn Observer) -> Collector<'s> {
        let parent = self.parent.as_ref().map(|(_, manifest)| manifest);
        let before = Before {
            shared: &self.shared,
            parent: parent.map(|parent| (&parent.root, parent.started)),
            is_parent_ours: parent.is_some_and(|parent| Some(parent.device) == self.device && parent.original.is_none()),
            states: self.states.as_ref(),
            reread: self.options.reread,
        };
        let changes = Changes::new(self.shared.repository(), parent.is_some(), self.options.spool());
        // In a repository nothing changes unseen.
        let mut collector = Collector::new(&self.shared, (packer, changes), before, self.started, observer);
        if let Some(again) = self.again {
            collector.known = Some(again.known);
            collector.began = Timestamp::new(i64::MAX, 0).unwrap_or(self.started);
        }
        collector
    }
}
