//! What is on one side, by name: nothing is read but what says which repository it is.

use std::collections::{BTreeMap, HashSet};

use fs_core::id::{DeviceId, RepositoryId};
use fs_core::object::keyless::Promise;
use fs_core::object::{HEADER_LENGTH, Header, ObjectKind, SMALL_OBJECT_SIZE_MAX, parse_numbered, parse_sequence_name};
use fs_core::observer::Silent;
use fs_core::storage::{ObjectMeta, ObjectName, ReadStore, StoreError, wait};

use super::CopyError;
use super::transfer::{Unsound, read};
use crate::prune::Counted;

/// Everything but snapshots, in the order in which it is put: each group when the one before is there. What opens a repository, what is in it, where it is; and
/// who is forgotten before anybody can see him. A mark may come at any time: it condemns nothing before it has been there for its grace.
pub(super) const GROUPS: [&[ObjectKind]; 5] = [
    &[ObjectKind::Slot, ObjectKind::Device, ObjectKind::Session],
    &[ObjectKind::Config],
    &[ObjectKind::DataPack, ObjectKind::MetaPack],
    &[ObjectKind::Shard],
    &[ObjectKind::Catalogue, ObjectKind::Tombstones, ObjectKind::Mark],
];

/// Whether a snapshot may be worth nothing, or show what it must not, without objects of this kind. Nothing rests on the others.
pub(super) fn is_needed(kind: ObjectKind) -> bool {
    match kind {
        ObjectKind::Slot | ObjectKind::Session | ObjectKind::Catalogue | ObjectKind::Seal => false,
        ObjectKind::Config
        | ObjectKind::Device
        | ObjectKind::DataPack
        | ObjectKind::MetaPack
        | ObjectKind::Shard
        | ObjectKind::Manifest
        | ObjectKind::Tombstones
        | ObjectKind::Mark => true,
    }
}

/// An object that is listed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listed {
    /// Its size in bytes.
    pub(super) size: u64,
    /// What its name promises.
    pub(super) promise: Promise,
}

/// All objects of one side. Names that promise nothing are left alone.
#[derive(Clone, Debug, Default)]
pub(super) struct Listing {
    pub(super) objects: BTreeMap<ObjectName, Listed>,
    /// Manifests and seals that may have come after the rest was listed: they wait for the next run.
    pub(super) late: HashSet<ObjectName>,
}

impl Listing {
    pub(super) fn read(store: &dyn ReadStore) -> Result<Self, StoreError> {
        Ok(Self { objects: promised(wait("", store.list("", None))?).collect(), late: HashSet::new() })
    }

    /// The same of a repository that others may be changing: everything that a snapshot of this list needs is in it, because snapshots are listed before. Seals
    /// first of all: who sweeps deletes them before their manifests.
    pub(super) fn read_snapshots_first(store: &dyn ReadStore) -> Result<Self, StoreError> {
        let mut early = HashSet::new();
        for kind in [ObjectKind::Seal, ObjectKind::Manifest] {
            early.extend(wait(kind.prefix(), store.list(kind.prefix(), None))?.into_iter().map(|meta| meta.name));
        }
        let mut listing = Self::read(store)?;
        listing.late = listing.snapshots().filter(|name| !early.contains(*name)).cloned().collect();
        Ok(listing)
    }

    /// Manifests and seals.
    pub(super) fn snapshots(&self) -> impl Iterator<Item = &ObjectName> {
        let is_of_snapshot = |listed: &Listed| matches!(listed.promise.kind, ObjectKind::Manifest | ObjectKind::Seal);
        self.objects.iter().filter(move |(_, listed)| is_of_snapshot(listed)).map(|(name, _)| name)
    }

    pub(super) fn counted(&self) -> Counted {
        let mut all = Counted::default();
        self.objects.values().for_each(|listed| all.add(listed.size));
        all
    }

    /// Whether it is there with this size.
    pub(super) fn has(&self, name: &ObjectName, size: u64) -> bool {
        self.objects.get(name).is_some_and(|listed| listed.size == size)
    }

    /// What the other side lacks.
    pub(super) fn only_here<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (&'a ObjectName, &'a Listed)> {
        self.objects.iter().filter(|(name, _)| !other.objects.contains_key(*name))
    }

    /// The greatest sequence of each device.
    pub(super) fn heads(&self) -> BTreeMap<DeviceId, u64> {
        let mut heads = BTreeMap::new();
        for (device, sequence, _) in self.objects.keys().filter_map(|name| parse_sequence_name(ObjectKind::Manifest, name)) {
            let head: &mut u64 = heads.entry(device).or_default();
            *head = (*head).max(sequence);
        }
        heads
    }

    /// Whether `copy` has all manifests that a seal may belong to, and there are any.
    pub(super) fn is_whole_in(&self, copy: &Self, seal: &ObjectName) -> bool {
        let Some((device, sequence, _)) = parse_sequence_name(ObjectKind::Seal, seal) else { return false };
        let is_its = |name: &&ObjectName| {
            parse_sequence_name(ObjectKind::Manifest, name).is_some_and(|(of, number, _)| (of, number) == (device, sequence))
        };
        let begin = ObjectName::new(format!("{}{device}/{sequence:010}", ObjectKind::Manifest.prefix()));
        let mut manifests = self.objects.range(begin..).map(|(name, _)| name).take_while(is_its).peekable();
        manifests.peek().is_some() && manifests.all(|name| copy.objects.contains_key(name) && !self.late.contains(name))
    }

    /// Which repository it is, by the newest configuration that is in order.
    pub(super) fn identify(&self, store: &dyn ReadStore) -> Result<RepositoryId, CopyError> {
        let mut configs: Vec<_> = self.objects.iter().filter(|(_, listed)| listed.promise.kind == ObjectKind::Config).collect();
        if configs.is_empty() {
            return Err(CopyError::NotThere { location: store.location() });
        }
        configs.sort_by_key(|(name, _)| std::cmp::Reverse(name.as_str().split_once('/').and_then(|(_, rest)| parse_numbered(rest))));
        for (name, listed) in configs.into_iter().filter(|(_, listed)| listed.size <= SMALL_OBJECT_SIZE_MAX) {
            match read(store, name, *listed, &Silent) {
                Ok((repository, _)) => return Ok(repository),
                Err(Unsound::Unreadable(error)) => return Err(CopyError::Read(error)),
                Err(_) => {}
            }
        }
        Err(CopyError::Unknown { location: store.location() })
    }

    /// Makes sure that no other repository than `ours` has anything here, as far as configurations or, where the sides have nothing in common, other objects
    /// say. No two objects have one name, so whatever both sides have is ours.
    pub(super) fn expect(&self, store: &dyn ReadStore, original: &Self, ours: RepositoryId) -> Result<(), CopyError> {
        let is_related = self.objects.keys().any(|name| original.objects.contains_key(name));
        let (mut asked, mut is_known) = (HashSet::new(), is_related || self.objects.is_empty());
        for (name, listed) in self.only_here(original) {
            let kind = listed.promise.kind;
            if kind != ObjectKind::Config && (is_related || !asked.insert(kind)) {
                continue;
            }
            let head = match wait(name.as_str(), store.get_range(name, 0..listed.size.min(HEADER_LENGTH as u64))) {
                Err(error) if error.is_of_object() => continue,
                head => head.map_err(CopyError::Copy)?,
            };
            match Header::decode(&head) {
                Ok((Header { repository: found, .. }, ..)) if found != ours => {
                    return Err(CopyError::Foreign { location: store.location(), found, wanted: ours });
                }
                decoded => is_known |= decoded.is_ok(),
            }
        }
        // Damaged throughout, or of a later version of the format.
        if is_known { Ok(()) } else { Err(CopyError::Unknown { location: store.location() }) }
    }
}

fn promised(listed: Vec<ObjectMeta>) -> impl Iterator<Item = (ObjectName, Listed)> {
    listed.into_iter().filter_map(|meta| {
        let promise = Promise::of(&meta.name)?;
        Some((meta.name, Listed { size: meta.size, promise }))
    })
}
