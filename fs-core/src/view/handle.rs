//! A file that is being read: its reader, and how far ahead of those who read it records are fetched.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::reader::ContentReader;

/// A read this far from the expected place still continues: the kernel reads ahead out of order.
const TOLERANCE: u64 = 2 << 20;
/// First window ahead of a reader.
const WINDOW_MIN: u64 = 1 << 20;
/// Largest window ahead of a reader.
const WINDOW_MAX: u64 = 16 << 20;

/// Places in one file that are followed: as many may read it in order at the same time.
const CURSORS: usize = 8;

/// A file with the places where it is read.
#[derive(Debug)]
pub struct Handle {
    /// Reads the file.
    pub reader: ContentReader,
    cursors: Mutex<Cursors>,
}

/// Those who read one file, the latest first. The kernel does not say who reads: a read belongs to the cursor that expects it.
#[derive(Debug, Default)]
struct Cursors(Vec<Cursor>);

#[derive(Debug, Default, Clone, Copy)]
struct Cursor {
    /// Where the reader is expected to go on.
    next: u64,
    /// Up to where records were asked for.
    fetched: u64,
    /// How far ahead to fetch; 0 while reads look random.
    window: u64,
}

impl Handle {
    /// A file of which nothing was read.
    pub fn new(reader: ContentReader) -> Self {
        Self { reader, cursors: Mutex::default() }
    }

    /// Notes a read; what should be fetched because of it.
    pub fn advance(&self, offset: u64, length: u64) -> Option<Range<u64>> {
        let range = self.cursors.lock().unwrap_or_else(PoisonError::into_inner).advance(offset, length);
        let end = range.end.min(self.reader.size());
        (range.start < end).then_some(range.start..end)
    }
}

impl Cursors {
    fn advance(&mut self, offset: u64, length: u64) -> Range<u64> {
        let expected = self.0.iter().position(|cursor| offset.abs_diff(cursor.next) <= TOLERANCE);
        let (mut cursor, range);
        match expected {
            Some(at) => {
                cursor = self.0.remove(at);
                range = cursor.advance(offset, length);
            }
            // Who begins at the beginning will most likely go on.
            None if offset == 0 => {
                cursor = Cursor::default();
                range = cursor.advance(offset, length);
            }
            None => {
                let end = offset.saturating_add(length);
                cursor = Cursor { next: end, fetched: end, window: 0 };
                range = end..end;
            }
        }
        self.0.truncate(CURSORS - 1);
        self.0.insert(0, cursor);
        range
    }
}

impl Cursor {
    /// Windows double while reads go on in order.
    fn advance(&mut self, offset: u64, length: u64) -> Range<u64> {
        let end = offset.saturating_add(length);
        self.next = self.next.max(end);
        if self.fetched >= self.next + self.window / 2 && self.window > 0 {
            return end..end;
        }
        self.window = (self.window * 2).clamp(WINDOW_MIN, WINDOW_MAX);
        let start = self.fetched.max(self.next);
        self.fetched = self.next + self.window;
        start..self.fetched.max(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_grow_in_order_and_close_at_random() {
        let (mut cursors, mut fetched, mut largest) = (Cursors::default(), 0, 0);
        for step in 0..400u64 {
            // Two requests at a time arrive in the wrong order.
            let range = cursors.advance((step ^ 1) * 131_072, 131_072);
            assert!(range.start >= fetched || range.is_empty(), "nothing is fetched twice");
            fetched = fetched.max(range.end);
            largest = largest.max(range.end - range.start);
        }
        assert!(fetched > 400 * 131_072 && largest <= WINDOW_MAX);
        for step in 1..50u64 {
            assert!(cursors.advance(step * 1_000_000_007 % (1 << 40), 4096).is_empty(), "random reads fetch nothing ahead");
        }
    }

    #[test]
    fn each_of_several_who_read_one_file_is_followed() {
        let mut cursors = Cursors::default();
        let mut fetched = [0; 4];
        for step in 0..200u64 {
            for (reader, fetched) in (0..).zip(&mut fetched) {
                let range = cursors.advance((reader << 30) + step * 131_072, 131_072);
                assert!(range.is_empty() || range.start >= reader << 30 && range.end < (reader + 1) << 30);
                *fetched += range.end - range.start;
            }
        }
        assert!(fetched.iter().all(|&bytes| bytes > 200 * 131_072), "{fetched:?}");
    }
}
