//! Which bytes to fetch before somebody asks for them. Pure policy: it is told of reads and says what comes next.
//!
//! The kernel does not say who reads, reads ahead out of order, and opens small files one after the other: what belongs together is seen here by place.

use std::collections::VecDeque;
use std::ops::Range;

/// A read this far before the expected place, or this far behind what is fetched, still continues: the kernel reads ahead out of order, players skip.
const TOLERANCE: u64 = 2 << 20;
/// First and largest window ahead of a reader.
const WINDOW: Range<u64> = 1 << 20..16 << 20;
/// Files up to this size are fetched whole when their beginning is read.
const WHOLE: u64 = 1 << 20;
/// Places in one file that are followed: as many may read it in order at the same time.
const CURSORS: usize = 8;

/// Those who read one file, the latest first. A read belongs to the cursor that expects it.
#[derive(Debug, Default)]
pub struct Cursors(Vec<Cursor>);

#[derive(Debug, Default, Clone, Copy)]
struct Cursor {
    /// Where the reader is expected to go on.
    next: u64,
    /// Up to where records were asked for.
    fetched: u64,
    /// How far ahead to fetch; 0 while reads look random.
    window: u64,
    /// Reads that must still come in order before anything is fetched.
    doubts: u8,
}

impl Cursors {
    /// Notes a read in a file of `size` bytes; the range that should be fetched because of it, often none.
    pub fn advance(&mut self, offset: u64, length: u64, size: u64) -> Range<u64> {
        let end = offset.saturating_add(length);
        let expected = self.0.iter().position(|cursor| cursor.expects(offset));
        let (mut cursor, range);
        match expected {
            Some(at) => {
                cursor = self.0.remove(at);
                range = cursor.advance(end);
            }
            // Who begins at the beginning will likely go on; of large files many only read the head.
            None if offset == 0 => {
                let fetched = if size <= WHOLE { size.max(end) } else { end };
                cursor = Cursor { next: end, fetched, window: 0, doubts: 0 };
                range = end..fetched;
            }
            None => {
                cursor = Cursor { next: end, fetched: end, window: 0, doubts: 1 };
                range = end..end;
            }
        }
        self.0.truncate(CURSORS - 1);
        self.0.insert(0, cursor);
        range.start.min(size)..range.end.min(size)
    }
}

impl Cursor {
    fn expects(&self, offset: u64) -> bool {
        offset.saturating_add(TOLERANCE) >= self.next && offset <= self.fetched.max(self.next).saturating_add(TOLERANCE)
    }

    /// Windows double while reads go on in order.
    fn advance(&mut self, end: u64) -> Range<u64> {
        self.next = self.next.max(end);
        if self.doubts > 0 {
            self.doubts -= 1;
            return end..end;
        }
        if self.fetched >= self.next.saturating_add(self.window / 2) && self.window > 0 {
            return end..end;
        }
        self.window = (self.window * 2).clamp(WINDOW.start, WINDOW.end);
        let start = self.fetched.max(self.next);
        self.fetched = start.max(self.next.saturating_add(self.window));
        start..self.fetched
    }
}

/// Bytes that are fetched with the first small file of a folder: about what a line brings in the time of another request.
const BATCH_FIRST: u64 = 256 << 10;
/// The same once a second file shows that the folder is being read.
const BATCH_NEXT: u64 = 8 << 20;
/// Folders that are followed.
const RUNS: usize = 16;

/// Small files that are read one after the other: where in their snapshots that happens.
#[derive(Debug, Default)]
pub struct Runs(VecDeque<Run>);

#[derive(Debug, Clone, Copy)]
struct Run {
    slot: u32,
    /// Positions of the files that were asked for.
    start: u64,
    until: u64,
    /// Where the last batch begins.
    batch: u64,
    /// The file that was read last.
    last: u64,
    has_more: bool,
}

/// What to fetch: small files of the same folder from a position on, so many bytes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// The first position; it is the file that is being read if nothing of its folder was.
    pub from: u64,
    /// Bytes of memory while they come, sealed and opened taken together.
    pub bytes: u64,
}

impl Runs {
    /// Notes a read of a small file; what should be fetched because of it. The caller says by [`Self::reached`] how far that went.
    pub fn note(&mut self, slot: u32, position: u64) -> Option<Batch> {
        let Some(at) = self.0.iter().position(|run| run.slot == slot && (run.start..=run.until).contains(&position)) else {
            self.0.truncate(RUNS - 1);
            self.0.push_front(Run { slot, start: position, until: position, batch: position, last: position, has_more: true });
            return Some(Batch { from: position, bytes: BATCH_FIRST });
        };
        let run = self.0.get_mut(at)?;
        if run.last == position || !run.has_more {
            return None;
        }
        let is_second = run.batch == run.start;
        run.last = position;
        let is_half_way = position >= run.batch + (run.until - run.batch) / 2;
        (is_second || is_half_way).then_some(Batch { from: run.until, bytes: BATCH_NEXT })
    }

    /// A batch that began at `from` ended before `until`; `has_more` if the folder goes on there.
    pub fn reached(&mut self, slot: u32, from: u64, until: u64, has_more: bool) {
        if let Some(run) = self.0.iter_mut().find(|run| run.slot == slot && run.until == from) {
            (run.batch, run.until, run.has_more) = (from, until.max(from), has_more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUGE: u64 = 1 << 41;

    #[test]
    fn windows_grow_in_order_and_close_at_random() {
        let (mut cursors, mut fetched, mut largest) = (Cursors::default(), 0, 0);
        for step in 0..400u64 {
            // Two requests at a time arrive in the wrong order.
            let range = cursors.advance((step ^ 1) * 131_072, 131_072, HUGE);
            assert!(range.start >= fetched || range.is_empty(), "nothing is fetched twice");
            fetched = fetched.max(range.end);
            largest = largest.max(range.end - range.start);
        }
        assert!(fetched > 400 * 131_072 && largest <= WINDOW.end);
        for step in 1..50u64 {
            assert!(cursors.advance(step * 1_000_000_007 % (1 << 40), 4096, HUGE).is_empty(), "random reads fetch nothing ahead");
        }
    }

    #[test]
    fn a_head_brings_small_files_whole_and_of_large_ones_nothing_more() {
        assert_eq!(Cursors::default().advance(0, 4096, 700_000), 4096..700_000);
        let mut large = Cursors::default();
        assert!(large.advance(0, 131_072, HUGE).is_empty());
        assert_eq!(large.advance(131_072, 131_072, HUGE), 262_144..262_144 + WINDOW.start);
        assert_eq!(Cursors::default().advance(0, 1 << 20, 100), 100..100, "never beyond the end");
    }

    #[test]
    fn a_skip_forward_keeps_the_window() {
        let mut cursors = Cursors::default();
        let mut at = 0;
        for _ in 0..100 {
            cursors.advance(at, 131_072, HUGE);
            at += 131_072;
        }
        let skipped = cursors.advance(at + (4 << 20), 131_072, HUGE);
        assert!(skipped.is_empty() || skipped.end - skipped.start > WINDOW.start, "{skipped:?}");
        assert_eq!(cursors.0.len(), 1);
    }

    #[test]
    fn each_of_several_who_read_one_file_is_followed() {
        let mut cursors = Cursors::default();
        let mut fetched = [0; 4];
        for step in 0..200u64 {
            for (reader, fetched) in (0..).zip(&mut fetched) {
                let range = cursors.advance((reader << 30) + step * 131_072, 131_072, HUGE);
                assert!(range.is_empty() || range.start >= reader << 30 && range.end < (reader + 1) << 30);
                *fetched += range.end - range.start;
            }
        }
        assert!(fetched.iter().all(|&bytes| bytes > 200 * 131_072), "{fetched:?}");
    }

    #[test]
    fn a_folder_is_fetched_in_batches_that_grow_when_it_is_read_on() {
        let mut runs = Runs::default();
        assert_eq!(runs.note(1, 100), Some(Batch { from: 100, bytes: BATCH_FIRST }));
        runs.reached(1, 100, 164, true);
        assert_eq!(runs.note(1, 100), None, "the same file");
        assert_eq!(runs.note(1, 101), Some(Batch { from: 164, bytes: BATCH_NEXT }));
        runs.reached(1, 164, 1164, true);
        for position in 102..664 {
            assert_eq!(runs.note(1, position), None, "{position}");
        }
        assert_eq!(runs.note(1, 664), Some(Batch { from: 1164, bytes: BATCH_NEXT }));
        runs.reached(1, 1164, 1200, false);
        for position in 665..=1200 {
            assert_eq!(runs.note(1, position), None, "the folder has no more");
        }
        assert_eq!(runs.note(2, 150), Some(Batch { from: 150, bytes: BATCH_FIRST }), "another snapshot");
    }
}
