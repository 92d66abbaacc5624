//! Which bytes of which pack are held, and where. No extent lies inside another one of the same pack, so one search finds the one that covers a range.

use std::collections::{HashMap, HashSet};

use crate::id::PackId;

/// Bytes of a pack that are held: `length` of them from `start`, as the entry at `offset` of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Held {
    pub(super) start: u32,
    pub(super) length: u32,
    pub(super) segment: u32,
    pub(super) offset: u32,
    /// Whether it was wanted since it was written: then it outlives its segment.
    pub(super) is_used: bool,
}

impl Held {
    pub(super) fn end(&self) -> u64 {
        u64::from(self.start) + u64::from(self.length)
    }
}

/// Extents by pack. Each costs about 40 bytes, each pack about 100.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Sorted by start; as none lies inside another, sorted by end as well.
    packs: HashMap<PackId, Vec<Held>>,
    count: usize,
}

impl Index {
    /// How many extents there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The extent that covers a whole range.
    pub(super) fn find(&mut self, pack: &PackId, start: u32, end: u64) -> Option<&mut Held> {
        let extents = self.packs.get_mut(pack)?;
        let after = extents.partition_point(|held| held.start <= start);
        extents.get_mut(after.checked_sub(1)?).filter(|held| held.end() >= end)
    }

    /// The extent at the very beginning of a pack.
    pub(super) fn first(&self, pack: &PackId) -> Option<Held> {
        self.packs.get(pack)?.first().copied().filter(|held| held.start == 0)
    }

    /// Adds an extent, unless another one covers it, and drops those that it covers.
    pub(super) fn insert(&mut self, pack: PackId, new: Held) {
        if self.find(&pack, new.start, new.end()).is_some() {
            return;
        }
        let extents = self.packs.entry(pack).or_default();
        let from = extents.partition_point(|held| held.start < new.start);
        let to = extents.partition_point(|held| held.end() <= new.end()).max(from);
        self.count -= to - from;
        self.count += 1;
        extents.splice(from..to, [new]);
    }

    /// Drops the extents for which `is_gone`, and says which they were.
    pub(super) fn remove(&mut self, pack: &PackId, is_gone: impl Fn(&Held) -> bool) -> Vec<Held> {
        let Some(extents) = self.packs.get_mut(pack) else { return Vec::new() };
        let gone: Vec<_> = extents.extract_if(.., |held| is_gone(held)).collect();
        if extents.is_empty() {
            self.packs.remove(pack);
        }
        self.count -= gone.len();
        gone
    }

    /// Drops all extents of a segment, which holds bytes of these packs.
    pub(super) fn remove_segment(&mut self, segment: u32, packs: &HashSet<PackId>) -> Vec<(PackId, Held)> {
        let mut gone = Vec::new();
        for pack in packs {
            gone.extend(self.remove(pack, |held| held.segment == segment).into_iter().map(|held| (*pack, held)));
        }
        gone.sort_by_key(|(_, held)| held.offset);
        gone
    }
}
