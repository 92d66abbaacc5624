//! Drives that stay open, and readers who have never been here.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use fs_core::id::SnapshotId;
use fs_core::repository::Repository;
use fs_core::storage::WriteStore as _;
use fs_core::testing::FaultyStore;
use fs_core::testing::simulator::Random;
use fs_core::time::{Clock as _, Zone};
use fs_core::tree::EntryKind;
use fs_core::view::error::ViewError;
use fs_core::view::{Links, Owner, View, ViewOptions};

use super::model::{Files, Known};
use super::{Busy, World, lock, script};
use crate::every_fault::{list, read};

/// Most drives at once.
const DRIVES_MAX: usize = 6;

/// A drive, as the adapters ask it.
pub(super) struct Drive {
    view: Arc<View>,
    faulty: Arc<FaultyStore>,
    /// Snapshots that it must show.
    shown: BTreeSet<SnapshotId>,
}

fn view_of(repository: Arc<Repository>) -> Result<Arc<View>> {
    let options = ViewOptions { owner: Owner::AsSaved, links: Links::Raw, mounter: (0, 0), zone: Zone::utc() };
    Ok(Arc::new(View::new(repository, None, options)?))
}

impl World {
    fn count(&self, what: &'static str) {
        *lock(&self.diary).counts.entry(what).or_default() += 1;
    }

    pub(super) fn open_drive(self: &Arc<Self>, busy: &Busy<'_>, chance: &mut Random, depth: u32) {
        self.count("open");
        let faulty = FaultyStore::new(self.sound(), if chance.one_in(4) { script(chance, 12) } else { Vec::new() });
        let view = self.open(Arc::clone(&faulty).as_read(), Some(busy.0)).and_then(view_of);
        let is_struck = !faulty.struck().is_empty();
        faulty.heal();
        self.tell(depth, &format!("machine {} opens a drive: {:?} {:?}", busy.0.number, view.as_ref().err(), faulty.struck()));
        let is_excused = is_struck || !self.model().torn.is_empty();
        self.expect(view.is_ok() || is_excused, || format!("a drive does not open: {:?}", view.as_ref().err()));
        let Ok(view) = view else { return };
        let mut drive = Drive { view, faulty, shown: BTreeSet::new() };
        self.note_shown(&mut drive, is_excused);
        let mut drives = lock(&self.drives);
        if drives.len() >= DRIVES_MAX {
            let at = chance.below(drives.len() as u64) as usize;
            drives.swap_remove(at);
        }
        drives.push(drive);
    }

    /// All that is owed must be shown, unless the store lied.
    fn note_shown(&self, drive: &mut Drive, is_excused: bool) {
        let owed = self.model().owed();
        for id in &owed {
            let is_shown = drive.view.root_of(id).is_some();
            self.expect(is_shown || is_excused, || format!("a drive does not show {}", id.short()));
        }
        drive.shown = owed.into_iter().filter(|id| drive.view.root_of(id).is_some()).collect();
    }

    /// One of the drives, for as long as it is used.
    fn take_drive(&self, chance: &mut Random) -> Option<Drive> {
        let mut drives = lock(&self.drives);
        let at = chance.below(drives.len() as u64) as usize;
        (at < drives.len()).then(|| drives.swap_remove(at))
    }

    pub(super) fn refresh(self: &Arc<Self>, chance: &mut Random, depth: u32) {
        let Some(mut drive) = self.take_drive(chance) else { return };
        self.count("refresh");
        if chance.one_in(4) {
            script(chance, 5).into_iter().for_each(|rule| drive.faulty.add(rule));
        }
        let before = drive.faulty.struck().len();
        let refreshed = drive.view.refresh();
        let is_struck = drive.faulty.struck().len() > before;
        drive.faulty.heal();
        self.tell(depth, &format!("a drive looks again: {:?} {:?}", refreshed.as_ref().err(), &drive.faulty.struck()[before..]));
        let is_excused = is_struck || !self.model().torn.is_empty();
        self.expect(refreshed.is_ok() || is_excused, || format!("a drive does not look again: {refreshed:?}"));
        if refreshed.is_ok() {
            self.note_shown(&mut drive, is_excused);
        }
        lock(&self.drives).push(drive);
    }

    /// Somebody reads a part of a file on a drive.
    pub(super) fn read(self: &Arc<Self>, chance: &mut Random, depth: u32) {
        let Some(drive) = self.take_drive(chance) else { return };
        self.count("read");
        let shown: Vec<_> = drive.shown.iter().copied().collect();
        let Some((id, known)) = chance.one_of(&shown).and_then(|id| Some((*id, self.model().snapshots.get(id)?.clone()))) else {
            return lock(&self.drives).push(drive);
        };
        let paths: Vec<_> = known.files.keys().cloned().collect();
        if let Some(path) = chance.one_of(&paths) {
            let bytes = &known.files[path];
            let from = chance.below(bytes.len() as u64 + 1) as usize;
            let length = if chance.one_in(2) { bytes.len() } else { chance.below(bytes.len() as u64 + 1) as usize };
            let expected = &bytes[from..bytes.len().min(from + length)];
            if chance.one_in(6) {
                script(chance, 4).into_iter().for_each(|rule| drive.faulty.add(rule));
            }
            let before = drive.faulty.struck().len();
            let answer = read_part(&drive.view, &id, path, from as u64..(from + length) as u64);
            let is_struck = drive.faulty.struck().len() > before;
            drive.faulty.heal();
            let place = || format!("{} of {} from {from}: {known:?}", path.display(), id.short());
            match answer {
                Ok(bytes) => self.expect(bytes == expected, || format!("wrong bytes: {}", place())),
                Err(error) => {
                    self.tell(depth, &format!("a drive says {error} {:?}", &drive.faulty.struck()[before..]));
                    self.expect(is_struck || !self.model().is_owed(&id), || format!("{error:?}: {}", place()));
                }
            }
        }
        lock(&self.drives).push(drive);
    }

    /// Everything that is owed, on all drives.
    pub(super) fn read_all_drives(self: &Arc<Self>, _: &mut Random) {
        let drives = std::mem::take(&mut *lock(&self.drives));
        for drive in &drives {
            for id in &drive.shown {
                let Some(known) = self.model().snapshots.get(id).filter(|known| known.is_owed()).cloned() else { continue };
                self.expect_files(&drive.view, id, &known);
            }
        }
        *lock(&self.drives) = drives;
    }

    /// Somebody opens the repository who has never been here, and reads some of the snapshots wholly.
    pub(super) fn look(self: &Arc<Self>, chance: &mut Random, depth: u32, count: usize) {
        self.count("look");
        let repository = self.open(self.sound().as_read(), None);
        let Ok(repository) = repository else {
            let is_excused = !self.model().torn.is_empty();
            return self.expect(is_excused, || format!("the repository does not open: {repository:?}"));
        };
        let listed = repository.all_snapshots().unwrap();
        let compared = self.model().compare(&listed, self.truth.now());
        let is_excused = !self.model().torn.is_empty();
        self.expect(compared.is_ok() || is_excused, || compared.unwrap_err());
        let view = view_of(repository).unwrap();
        let mut owed: Vec<_> = self.model().owed().into_iter().filter(|id| view.root_of(id).is_some()).collect();
        while owed.len() > count {
            owed.swap_remove(chance.below(owed.len() as u64) as usize);
        }
        for id in &owed {
            let known = self.model().snapshots[id].clone();
            self.expect_files(&view, id, &known);
        }
        self.tell(depth, &format!("{} snapshots are there, {} are read", listed.live.len(), owed.len()));
    }

    fn expect_files(&self, view: &View, id: &SnapshotId, known: &Known) {
        let files = files(view, id);
        self.expect(files.as_ref().is_ok_and(|files| *files == *known.files), || {
            let files = files.map(|files| files.into_keys().collect::<Vec<_>>());
            format!("snapshot {} of machine {} is not as it was saved: {files:?}, not {:?}", id.short(), known.machine, known.files.keys())
        });
    }
}

fn step(view: &View, parent: u64, name: &[u8]) -> Result<u64, ViewError> {
    Ok(view.wait(|view, held| view.lookup(held, parent, name))?.0.inode)
}

/// The folder that was saved.
fn top(view: &View, id: &SnapshotId) -> Result<u64, ViewError> {
    step(view, view.root_of(id).ok_or(ViewError::Stale)?, b"d")
}

fn read_part(view: &View, id: &SnapshotId, path: &Path, range: std::ops::Range<u64>) -> Result<Vec<u8>, ViewError> {
    let inode = path.iter().try_fold(top(view, id)?, |parent, name| step(view, parent, name.as_bytes()))?;
    Ok(view.wait(|view, held| view.read(held, inode, range.start, range.end - range.start))?.to_vec())
}

/// All files of a snapshot.
fn files(view: &View, id: &SnapshotId) -> Result<Files> {
    let (mut found, mut open) = (Files::new(), vec![(PathBuf::new(), top(view, id)?)]);
    while let Some((path, folder)) = open.pop() {
        for (name, inode, kind) in list(view, folder)? {
            let path = path.join(std::ffi::OsStr::from_bytes(&name));
            match kind {
                EntryKind::Directory => open.push((path, inode)),
                _ => drop(found.insert(path, Arc::new(read(view, inode)?))),
            }
        }
    }
    Ok(found)
}
