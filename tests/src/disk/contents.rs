//! What a disk holds twice: as programs see it now, and as it would be found again after a power loss.
//!
//! The rules are the weakest that POSIX allows. Bytes of a file are durable when the file was synced; a name, its removal and its change when the
//! directory was. Nothing that was not synced is ordered against anything else, also within one directory; a rename happens whole or not at all.
//! A sync that failed leaves what it should have written looking written, and no later sync writes it: so do Linux file systems.
//! Modes, owners and times are not lost: nothing relies on them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use fs_core::crypto::RandomSource as _;
use fs_core::testing::SeededRandom;
use fuser::FileType;

/// The number of the uppermost directory.
pub(super) const ROOT: u64 = 1;
/// What a power loss takes or leaves of a file.
const BLOCK: usize = 4096;

/// Everything on a disk.
#[derive(Clone, Debug)]
pub struct Contents {
    nodes: BTreeMap<u64, Node>,
    /// What became of names and is not durable yet, oldest first.
    pending: Vec<Change>,
}

/// What a power loss leaves of that which was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Survivors {
    /// Nothing.
    Nothing,
    /// All of it: the disk was quicker than anybody asked for.
    Everything,
    /// Some of it, this seed says what: names by themselves, of files the length, part of it or none, with or without the bytes.
    Some(u64),
}

/// A file, directory or link.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) mode: u16,
    pub(super) owner: (u32, u32),
    pub(super) modified: SystemTime,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    File(Data),
    Folder(Folder),
    Link(OsString),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Folder {
    pub(super) names: BTreeMap<OsString, u64>,
    durable: BTreeMap<OsString, u64>,
}

/// The bytes of a file.
#[derive(Clone, Debug, Default)]
pub(super) struct Data {
    pub(super) bytes: Arc<Vec<u8>>,
    durable: Arc<Vec<u8>>,
    /// Blocks that the next sync writes.
    dirty: BTreeSet<usize>,
}

/// One step in the life of names, which happens whole or not at all.
#[derive(Clone, Debug)]
enum Change {
    Add { folder: u64, name: OsString, node: u64 },
    Remove { folder: u64, name: OsString },
    Move { from: (u64, OsString), to: (u64, OsString), node: u64 },
}

impl Change {
    fn concerns(&self, number: u64) -> bool {
        match self {
            Self::Add { folder, .. } | Self::Remove { folder, .. } => *folder == number,
            Self::Move { from, to, .. } => from.0 == number || to.0 == number,
        }
    }
}

impl Contents {
    /// An empty disk.
    pub fn new() -> Self {
        let root = Node { mode: 0o755, owner: (0, 0), modified: SystemTime::UNIX_EPOCH, kind: Kind::Folder(Folder::default()) };
        Self { nodes: BTreeMap::from([(ROOT, root)]), pending: Vec::new() }
    }

    /// What is found when the power comes back. All of it is durable.
    pub fn after_power_loss(&self, survivors: Survivors) -> Self {
        let mut left = self.clone();
        let mut chance = Chance { survivors, random: SeededRandom::shared(if let Survivors::Some(seed) = survivors { seed } else { 0 }) };
        for change in std::mem::take(&mut left.pending) {
            if chance.survives() {
                left.settle(&change);
            }
        }
        for node in left.nodes.values_mut() {
            match &mut node.kind {
                Kind::File(data) => data.lose(&mut chance),
                Kind::Folder(folder) => folder.names = folder.durable.clone(),
                Kind::Link(_) => {}
            }
        }
        let (mut reached, mut open) = (BTreeSet::from([ROOT]), vec![ROOT]);
        while let Some(folder) = open.pop().and_then(|number| left.folder(number)) {
            open.extend(folder.names.values().filter(|number| reached.insert(**number)));
        }
        left.nodes.retain(|number, _| reached.contains(number));
        left
    }

    /// All files below a directory by their path there: bytes, and when they were written.
    pub fn files(&self, folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
        let top = folder.iter().try_fold(ROOT, |number, name| self.find(number, name));
        let (mut files, mut open) = (BTreeMap::new(), Vec::from_iter(top.map(|number| (number, PathBuf::new()))));
        while let Some((number, path)) = open.pop() {
            for (name, number) in self.folder(number).into_iter().flat_map(|folder| &folder.names) {
                match self.node(*number).map(|node| (&node.kind, node.modified)) {
                    Some((Kind::Folder(_), _)) => open.push((*number, path.join(name))),
                    Some((Kind::File(data), modified)) => drop(files.insert(path.join(name), (data.bytes.to_vec(), modified))),
                    _ => {}
                }
            }
        }
        files
    }

    pub(super) fn node(&self, number: u64) -> Option<&Node> {
        self.nodes.get(&number)
    }

    pub(super) fn node_mut(&mut self, number: u64) -> Option<&mut Node> {
        self.nodes.get_mut(&number)
    }

    pub(super) fn folder(&self, number: u64) -> Option<&Folder> {
        // A file in the way is walked over as an empty directory would be.
        static NONE: Folder = Folder { names: BTreeMap::new(), durable: BTreeMap::new() };
        Some(if let Kind::Folder(folder) = &self.nodes.get(&number)?.kind { folder } else { &NONE })
    }

    pub(super) fn data_mut(&mut self, number: u64) -> Option<&mut Data> {
        if let Kind::File(data) = &mut self.nodes.get_mut(&number)?.kind { Some(data) } else { None }
    }

    pub(super) fn find(&self, folder: u64, name: &OsStr) -> Option<u64> {
        self.folder(folder)?.names.get(name).copied()
    }

    /// How many names a node has now.
    pub(super) fn name_count(&self, number: u64) -> usize {
        let folders = self.nodes.values().filter_map(|node| if let Kind::Folder(folder) = &node.kind { Some(folder) } else { None });
        folders.map(|folder| folder.names.values().filter(|named| **named == number).count()).sum()
    }

    /// Adds a node without a name.
    pub(super) fn add(&mut self, node: Node) -> u64 {
        let number = self.nodes.keys().next_back().copied().unwrap_or(ROOT) + 1;
        self.nodes.insert(number, node);
        number
    }

    pub(super) fn name(&mut self, folder: u64, name: &OsStr, node: u64) {
        self.change(Change::Add { folder, name: name.into(), node });
    }

    /// Takes a name away. The node stays for those who have it open, and because its name may come back.
    pub(super) fn remove(&mut self, folder: u64, name: &OsStr) {
        self.change(Change::Remove { folder, name: name.into() });
    }

    pub(super) fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr), node: u64) {
        self.change(Change::Move { from: (from.0, from.1.into()), to: (to.0, to.1.into()), node });
    }

    fn change(&mut self, change: Change) {
        self.apply(&change, |folder| &mut folder.names);
        self.pending.push(change);
    }

    fn settle(&mut self, change: &Change) {
        self.apply(change, |folder| &mut folder.durable);
    }

    fn apply(&mut self, change: &Change, names: fn(&mut Folder) -> &mut BTreeMap<OsString, u64>) {
        let mut within = |number: u64, edit: &dyn Fn(&mut BTreeMap<OsString, u64>)| {
            if let Some(Kind::Folder(folder)) = self.nodes.get_mut(&number).map(|node| &mut node.kind) {
                edit(names(folder));
            }
        };
        match change {
            Change::Add { folder, name, node } => within(*folder, &|names| _ = names.insert(name.clone(), *node)),
            Change::Remove { folder, name } => within(*folder, &|names| _ = names.remove(name)),
            Change::Move { from, to, node } => {
                // Its old name may never have become durable, or may be another file's by now.
                within(from.0, &|names| names.retain(|name, named| *name != from.1 || named != node));
                within(to.0, &|names| _ = names.insert(to.1.clone(), *node));
            }
        }
    }

    /// Makes the names in a directory, or the bytes of a file, durable.
    pub(super) fn sync(&mut self, number: u64) {
        let (settled, rest): (Vec<_>, _) = std::mem::take(&mut self.pending).into_iter().partition(|change| change.concerns(number));
        self.pending = rest;
        settled.iter().for_each(|change| self.settle(change));
        if let Some(data) = self.data_mut(number) {
            data.sync();
        }
    }

    /// A sync that fails: what it should have written is not durable, and no later one tries again.
    pub(super) fn fail_to_sync(&mut self, number: u64) {
        self.pending.retain(|change| !change.concerns(number));
        if let Some(data) = self.data_mut(number) {
            data.dirty.clear();
        }
    }
}

impl Default for Contents {
    fn default() -> Self {
        Self::new()
    }
}

impl Data {
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset.saturating_add(bytes.len());
        if end > self.bytes.len() {
            self.resize(end);
        }
        if let Some(part) = Arc::make_mut(&mut self.bytes).get_mut(offset..end) {
            part.copy_from_slice(bytes);
        }
        self.dirty.extend(offset / BLOCK..end.div_ceil(BLOCK));
    }

    pub(super) fn resize(&mut self, length: usize) {
        self.dirty.extend(self.bytes.len().min(length) / BLOCK..self.bytes.len().max(length).div_ceil(BLOCK));
        Arc::make_mut(&mut self.bytes).resize(length, 0);
    }

    fn sync(&mut self) {
        let durable = Arc::make_mut(&mut self.durable);
        durable.resize(self.bytes.len(), 0);
        for block in std::mem::take(&mut self.dirty) {
            copy_block(&self.bytes, durable, block);
        }
    }

    fn lose(&mut self, chance: &mut Chance) {
        // Of what is longer than it was when last synced the new length may be there, the old one, or one between.
        let (old, new) = (self.durable.len(), self.bytes.len());
        let length = if chance.survives() {
            new
        } else if chance.survives() {
            old.midpoint(new) / BLOCK * BLOCK
        } else {
            old
        };
        if !self.dirty.is_empty() {
            let all = std::mem::take(&mut self.dirty);
            let durable = Arc::make_mut(&mut self.durable);
            durable.resize(length, 0);
            // Most often all or nothing: single blocks are what few tests are made for.
            let is_even = chance.survives().then(|| chance.survives());
            for block in all.into_iter().filter(|_| is_even.unwrap_or_else(|| chance.survives())) {
                copy_block(&self.bytes, durable, block);
            }
        }
        self.bytes = Arc::clone(&self.durable);
    }
}

/// Copies as much of a block as both have.
fn copy_block(from: &[u8], to: &mut [u8], block: usize) {
    let start = block * BLOCK;
    let end = (start + BLOCK).min(from.len()).min(to.len());
    if let (Some(from), Some(to)) = (from.get(start..end), to.get_mut(start..end)) {
        to.copy_from_slice(from);
    }
}

struct Chance {
    survivors: Survivors,
    random: Arc<SeededRandom>,
}

impl Chance {
    fn survives(&mut self) -> bool {
        let mut byte = [0];
        self.random.fill(&mut byte);
        match self.survivors {
            Survivors::Nothing => false,
            Survivors::Everything => true,
            Survivors::Some(_) => byte[0] & 1 == 1,
        }
    }
}

impl Node {
    pub(super) fn file_type(&self) -> FileType {
        match self.kind {
            Kind::File(_) => FileType::RegularFile,
            Kind::Folder(_) => FileType::Directory,
            Kind::Link(_) => FileType::Symlink,
        }
    }

    pub(super) fn size(&self) -> usize {
        match &self.kind {
            Kind::File(data) => data.bytes.len(),
            Kind::Folder(_) => 0,
            Kind::Link(target) => target.len(),
        }
    }
}
