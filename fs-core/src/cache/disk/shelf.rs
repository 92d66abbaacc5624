//! What one process knows of the folder: its segments, and which bytes lie where in them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use lru::LruCache;

use super::index::{Held, Index};
use super::name::Name;
use super::segment::{self, Extent, Row};
use crate::id::PackId;

/// Files of segments that are kept open; far below what a process may have.
const HANDLE_COUNT_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");
/// Pins at one time: each is asked in turn.
pub const PIN_COUNT_MAX: usize = 64;

/// A segment as this process knows it.
#[derive(Debug)]
struct Segment {
    name: Name,
    /// Bytes of the file now.
    length: u64,
    /// Bytes that it may grow to.
    claim: u64,
    /// While this process writes it. Other handles could not read it on Windows, where a lock binds all handles but its own.
    file: Option<Arc<File>>,
    /// Whose bytes it holds, so that it can leave without a look at the whole index.
    packs: HashSet<PackId>,
}

/// Where a wanted range is.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) pin: Option<u64>,
    pub(super) held: Held,
    pub(super) row: Row,
    /// `None` if the file cannot be opened any more.
    pub(super) file: Option<Arc<File>>,
}

/// The segments and the index over them.
#[derive(Debug)]
pub(super) struct Shelf {
    folder: PathBuf,
    loose: Index,
    pins: BTreeMap<u64, Index>,
    segments: HashMap<u32, Segment>,
    handles: LruCache<u32, Arc<File>>,
    next: u32,
    /// What other processes are writing may grow to so many bytes.
    pub(super) foreign_claim: u64,
}

impl Shelf {
    pub(super) fn new(folder: PathBuf) -> Self {
        let (loose, pins, segments) = (Index::default(), BTreeMap::new(), HashMap::new());
        Self { folder, loose, pins, segments, handles: LruCache::new(HANDLE_COUNT_MAX), next: 0, foreign_claim: 0 }
    }

    /// Whether bytes need not be written again. Loose bytes need not if they are pinned.
    pub(super) fn covers(&mut self, pin: Option<u64>, extent: &Extent) -> bool {
        let end = u64::from(extent.start) + u64::from(extent.length);
        let has = |index: &mut Index| index.find(&extent.pack, extent.start, end).is_some();
        match pin {
            Some(pin) => self.pins.get_mut(&pin).is_some_and(has),
            None => has(&mut self.loose) || self.pins.values_mut().any(has),
        }
    }

    /// Where a range lies, in one pin or anywhere; it then counts as used.
    pub(super) fn locate(&mut self, only: Option<u64>, pack: &PackId, start: u32, end: u64) -> Option<Place> {
        let mut pins = self.pins.iter_mut().filter(|(pin, _)| only.is_none_or(|only| only == **pin));
        let pinned = pins.find_map(|(pin, index)| Some((Some(*pin), *index.find(pack, start, end)?)));
        let (pin, held) = pinned.or_else(|| {
            if only.is_some() {
                return None;
            }
            let held = self.loose.find(pack, start, end)?;
            held.is_used = true;
            Some((None, *held))
        })?;
        let row = Row { extent: Extent { pack: *pack, start: held.start, length: held.length }, offset: held.offset };
        Some(Place { pin, held, row, file: self.file(held.segment) })
    }

    /// Length of what is held from the very beginning of a pack.
    pub(super) fn length_from_start(&self, pack: &PackId) -> Option<u32> {
        self.pins.values().chain([&self.loose]).find_map(|index| index.first(pack)).map(|held| held.length)
    }

    fn file(&mut self, number: u32) -> Option<Arc<File>> {
        let segment = self.segments.get(&number)?;
        if let Some(file) = segment.file.as_ref().or_else(|| self.handles.get(&number)) {
            return Some(Arc::clone(file));
        }
        let file = Arc::new(segment::open(&self.folder, segment.name).ok()?);
        self.handles.put(number, Arc::clone(&file));
        Some(file)
    }

    /// Forgets one entry that does not give its bytes.
    pub(super) fn remove(&mut self, place: &Place) {
        if let Some(index) = self.index(place.pin) {
            let Held { segment, offset, .. } = place.held;
            index.remove(&place.row.extent.pack, |held| (held.segment, held.offset) == (segment, offset));
        }
    }

    /// Forgets all entries that share bytes with a range, and says where they were.
    pub(super) fn remove_range(&mut self, pack: &PackId, start: u64, end: u64) -> Vec<(Held, Option<Arc<File>>)> {
        let overlaps = |held: &Held| u64::from(held.start) < end && held.end() > start;
        let mut gone = self.loose.remove(pack, overlaps);
        gone.extend(self.pins.values_mut().flat_map(|index| index.remove(pack, overlaps)));
        gone.into_iter().map(|held| (held, self.file(held.segment))).collect()
    }

    /// A segment that this process begins to write, known before or new.
    pub(super) fn begin(&mut self, name: Name, file: Arc<File>, length: u64, claim: u64) -> u32 {
        let number = self.number_of(name).unwrap_or_else(|| self.add_segment(name, length));
        self.handles.pop(&number);
        if let Some(segment) = self.segments.get_mut(&number) {
            (segment.length, segment.claim, segment.file) = (length, claim.max(length), Some(file));
        }
        number
    }

    /// The segment is written no more.
    pub(super) fn end(&mut self, number: u32, length: u64) {
        if let Some(segment) = self.segments.get_mut(&number) {
            (segment.length, segment.claim, segment.file) = (length, length, None);
        }
    }

    /// A segment with all its entries, from another process or an earlier run.
    pub(super) fn adopt(&mut self, name: Name, length: u64, rows: &[Row]) {
        let number = self.add_segment(name, length);
        rows.iter().for_each(|row| self.add_row(number, row));
    }

    fn add_segment(&mut self, name: Name, length: u64) -> u32 {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.segments.insert(number, Segment { name, length, claim: length, file: None, packs: HashSet::new() });
        number
    }

    /// An entry of a segment that is being written, and the segment's length with it.
    pub(super) fn add(&mut self, number: u32, row: &Row, length: u64) {
        self.add_row(number, row);
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.length = length;
        }
    }

    fn add_row(&mut self, number: u32, row: &Row) {
        let Some(segment) = self.segments.get_mut(&number) else { return };
        let Row { extent: Extent { pack, start, length }, offset } = *row;
        segment.packs.insert(pack);
        let index = match segment.name.pin {
            Some(pin) => self.pins.entry(pin).or_default(),
            None => &mut self.loose,
        };
        index.insert(pack, Held { start, length, segment: number, offset, is_used: false });
    }

    /// Forgets a segment and says which of its entries were used.
    pub(super) fn remove_segment(&mut self, number: u32) -> Vec<Place> {
        let Some(segment) = self.segments.remove(&number) else { return Vec::new() };
        let file = segment.file.or_else(|| self.handles.pop(&number));
        let pin = segment.name.pin;
        let Some(index) = self.index(pin) else { return Vec::new() };
        let mut gone = index.remove_segment(number, &segment.packs);
        gone.retain(|(_, held)| held.is_used);
        self.pins.retain(|_, index| index.count() > 0);
        if gone.is_empty() {
            return Vec::new();
        }
        let file = file.or_else(|| segment::open(&self.folder, segment.name).ok().map(Arc::new));
        let place = |(pack, held): (PackId, Held)| {
            let row = Row { extent: Extent { pack, start: held.start, length: held.length }, offset: held.offset };
            Place { pin, held, row, file: file.clone() }
        };
        gone.into_iter().map(place).collect()
    }

    fn index(&mut self, pin: Option<u64>) -> Option<&mut Index> {
        match pin {
            Some(pin) => self.pins.get_mut(&pin),
            None => Some(&mut self.loose),
        }
    }

    /// Number of a segment.
    pub(super) fn number_of(&self, name: Name) -> Option<u32> {
        self.segments.iter().find(|(_, segment)| segment.name == name).map(|(number, _)| *number)
    }

    /// Segments that are finished, loose or of one pin, oldest first.
    pub(super) fn finished(&self, pin: Option<u64>) -> Vec<(Name, u32, u64)> {
        let fits = |segment: &&Segment| segment.name.pin == pin && segment.file.is_none();
        let rows = self.segments.iter().map(|(number, segment)| (segment, *number));
        let mut found: Vec<_> =
            rows.filter(|(segment, _)| fits(segment)).map(|(segment, number)| (segment.name, number, segment.length)).collect();
        found.sort();
        found
    }

    /// All segments with their lengths, `None` for those that this process is writing.
    pub(super) fn names(&self) -> Vec<(Name, u32, Option<u64>)> {
        let length = |segment: &Segment| segment.file.is_none().then_some(segment.length);
        self.segments.iter().map(|(number, segment)| (segment.name, *number, length(segment))).collect()
    }

    /// Bytes that the folder may come to without another segment.
    pub(super) fn claim(&self) -> u64 {
        self.segments.values().map(|segment| segment.claim).sum::<u64>() + self.foreign_claim
    }

    /// Bytes of the known files: all, and those that are pinned.
    pub(super) fn lengths(&self) -> (u64, u64) {
        let pinned = self.segments.values().filter(|segment| segment.name.pin.is_some()).map(|segment| segment.length).sum();
        (self.segments.values().map(|segment| segment.length).sum(), pinned)
    }

    /// How many segments there are.
    pub(super) fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// How many entries there are: all, and those that are pinned.
    pub(super) fn entry_counts(&self) -> (usize, usize) {
        let pinned = self.pins.values().map(Index::count).sum();
        (self.loose.count() + pinned, pinned)
    }

    /// How many pins there are, and whether this is one of them.
    pub(super) fn pins(&self, pin: u64) -> (usize, bool) {
        (self.pins.len(), self.pins.contains_key(&pin))
    }
}
