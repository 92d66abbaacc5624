//! Sealed bytes at hand: what came with what was asked for, in memory, and what was fetched before, on disk. And how much more to ask for when a tree is
//! read: its neighbours in the pack are what will be read next.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;

use bytes::Bytes;

use super::worker::slice;
use crate::id::PackId;

/// First and largest number of bytes on either side of a tree record that are fetched with it.
const AROUND: Range<u64> = 128 << 10..1 << 20;
/// Packs whose neighbourhoods are known.
const PACKS_KEPT: usize = 1 << 10;

/// Sealed ranges of packs in memory, bounded by bytes; the oldest go first.
#[derive(Debug)]
pub(super) struct Extents {
    by_place: BTreeMap<(PackId, u64), Bytes>,
    order: VecDeque<(PackId, u64)>,
    used: usize,
    budget: usize,
}

impl Extents {
    pub(super) fn new(budget: usize) -> Self {
        Self { by_place: BTreeMap::new(), order: VecDeque::new(), used: 0, budget }
    }

    /// The bytes of a range, if one extent holds all of it.
    pub(super) fn get(&self, pack: &PackId, range: &Range<u64>) -> Option<Bytes> {
        let ((_, start), bytes) = self.by_place.range((*pack, 0)..=(*pack, range.start)).next_back()?;
        slice(bytes, *start, range)
    }

    /// The part of a range around `core` that is not here yet: what is here already is cut from both ends.
    fn missing_around(&self, pack: &PackId, wide: Range<u64>, core: &Range<u64>) -> Range<u64> {
        let before = self.by_place.range((*pack, 0)..(*pack, core.start)).next_back();
        let after = self.by_place.range((*pack, core.start)..(*pack, wide.end)).next();
        let start = before.map_or(0, |((_, start), bytes)| start + bytes.len() as u64).clamp(wide.start, core.start);
        let end = after.map_or(wide.end, |((_, start), _)| *start).clamp(core.end, wide.end);
        start..end
    }

    pub(super) fn insert(&mut self, pack: PackId, start: u64, bytes: Bytes) {
        self.used += bytes.len();
        if let Some(old) = self.by_place.insert((pack, start), bytes) {
            self.used -= old.len();
        } else {
            self.order.push_back((pack, start));
        }
        while self.used > self.budget {
            let Some(oldest) = self.order.pop_front() else { break };
            self.used -= self.by_place.remove(&oldest).map_or(0, |bytes| bytes.len());
        }
    }

    /// Lets go of what overlaps a range: it did not open.
    pub(super) fn forget(&mut self, pack: &PackId, range: &Range<u64>) {
        let overlap = |((_, start), bytes): &(&(PackId, u64), &Bytes)| start + bytes.len() as u64 > range.start;
        let damaged: Vec<_> = self.by_place.range((*pack, 0)..(*pack, range.end)).filter(overlap).map(|(place, _)| *place).collect();
        for place in damaged {
            self.used -= self.by_place.remove(&place).map_or(0, |bytes| bytes.len());
            self.order.retain(|known| *known != place);
        }
    }

    /// Bytes held.
    pub(super) fn used(&self) -> usize {
        self.used
    }
}

/// How far packs are known to reach, and how they are being read.
#[derive(Debug, Default)]
pub(super) struct Neighbourhoods {
    packs: HashMap<PackId, Neighbourhood>,
}

#[derive(Debug, Default, Clone)]
struct Neighbourhood {
    /// A record is known to end here, so bytes before it exist.
    end: u64,
    /// What was fetched last.
    last: Range<u64>,
    /// How much to fetch on either side.
    around: u64,
}

impl Neighbourhoods {
    /// Notes that a record ends at a place of a pack.
    pub(super) fn note(&mut self, pack: &PackId, end: u64) {
        if self.packs.len() >= PACKS_KEPT && !self.packs.contains_key(pack) {
            self.packs.clear();
        }
        let known = self.packs.entry(*pack).or_default();
        known.end = known.end.max(end);
    }

    /// The range to fetch for a range of tree records. Windows double while a pack is read on where it was read before.
    pub(super) fn widen(&mut self, pack: &PackId, core: &Range<u64>, extents: &Extents) -> Range<u64> {
        self.note(pack, core.end);
        let Some(known) = self.packs.get_mut(pack) else { return core.clone() };
        let near = known.around.max(AROUND.start);
        let continues = core.start < known.last.end.saturating_add(near) && known.last.start < core.end.saturating_add(near);
        known.around = if continues && known.around > 0 { (known.around * 2).min(AROUND.end) } else { AROUND.start };
        let wide = core.start.saturating_sub(known.around)..core.end.saturating_add(known.around).min(known.end);
        let range = extents.missing_around(pack, wide, core);
        known.last = range.clone();
        range
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACK: PackId = PackId::from_bytes([1; 16]);

    #[test]
    fn extents_answer_what_they_hold_and_no_more() {
        let mut extents = Extents::new(100);
        extents.insert(PACK, 10, Bytes::from_static(b"0123456789"));
        assert_eq!(extents.get(&PACK, &(12..15)).as_deref(), Some(&b"234"[..]));
        assert_eq!(extents.get(&PACK, &(10..20)).as_deref(), Some(&b"0123456789"[..]));
        for beyond in [9..12, 15..21, 30..31] {
            assert_eq!(extents.get(&PACK, &beyond), None, "{beyond:?}");
        }
        for other in [PackId::from_bytes([0; 16]), PackId::from_bytes([2; 16])] {
            for elsewhere in [0..5, 12..15, 30..31] {
                assert_eq!(extents.get(&other, &elsewhere), None, "{other}: {elsewhere:?}");
            }
        }
        extents.forget(&PACK, &(19..40));
        assert_eq!((extents.get(&PACK, &(12..15)), extents.used()), (None, 0));
    }

    #[test]
    fn extents_keep_their_budget() {
        let mut extents = Extents::new(100);
        for n in 0..50 {
            extents.insert(PACK, n * 30, Bytes::from(vec![0; 30]));
            assert!(extents.used() <= 100);
        }
        assert!(extents.get(&PACK, &(49 * 30..50 * 30)).is_some());
        assert!(extents.get(&PACK, &(0..30)).is_none());
        assert_eq!(extents.order.len(), extents.by_place.len());
    }

    #[test]
    fn what_is_asked_for_grows_and_overlaps_nothing_that_is_here() {
        let (mut extents, mut packs) = (Extents::new(1 << 30), Neighbourhoods::default());
        let end = 8 << 20;
        packs.note(&PACK, end);
        let (mut at, mut requests, mut fetched) = (1000, 0, 0);
        while at < end - 2000 {
            let core = at..at + 1500;
            if extents.get(&PACK, &core).is_none() {
                let range = packs.widen(&PACK, &core, &extents);
                assert!(range.start <= core.start && range.end >= core.end && range.end <= end);
                extents.insert(PACK, range.start, Bytes::from(vec![0; usize::try_from(range.end - range.start).unwrap()]));
                requests += 1;
                fetched += range.end - range.start;
            }
            at += 1500;
        }
        assert!(requests < 20, "{requests} requests for 8 MiB of trees");
        assert!(fetched < end + end / 50, "{fetched} bytes");
    }

    #[test]
    fn nothing_is_asked_for_beyond_what_is_known_to_exist() {
        let (extents, mut packs) = (Extents::new(1 << 20), Neighbourhoods::default());
        assert_eq!(packs.widen(&PACK, &(500..700), &extents), 0..700);
    }
}
