//! A file that is being read: its reader, and how far ahead of the reader records are fetched.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::reader::ContentReader;

/// A read this far from the expected place still continues: the kernel reads ahead out of order.
const TOLERANCE: u64 = 2 << 20;
/// First window ahead of a reader.
const WINDOW_MIN: u64 = 1 << 20;
/// Largest window ahead of a reader.
const WINDOW_MAX: u64 = 16 << 20;

/// A reader with its place.
#[derive(Debug)]
pub struct Handle {
    /// Reads the file.
    pub reader: ContentReader,
    cursor: Mutex<Cursor>,
}

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
        Self { reader, cursor: Mutex::default() }
    }

    /// Notes a read; what should be fetched because of it.
    pub fn advance(&self, offset: u64, length: u64) -> Option<Range<u64>> {
        let mut cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let range = cursor.advance(offset, length);
        let end = range.end.min(self.reader.size());
        (range.start < end).then_some(range.start..end)
    }
}

impl Cursor {
    /// Windows double while reads go on in order, and close when they do not.
    fn advance(&mut self, offset: u64, length: u64) -> Range<u64> {
        let end = offset.saturating_add(length);
        if offset.abs_diff(self.next) > TOLERANCE {
            *self = Self { next: end, fetched: end, window: 0 };
            return end..end;
        }
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
        let (mut cursor, mut fetched, mut largest) = (Cursor::default(), 0, 0);
        for step in 0..400u64 {
            // Two requests at a time arrive in the wrong order.
            let range = cursor.advance((step ^ 1) * 131_072, 131_072);
            assert!(range.start >= fetched || range.is_empty(), "nothing is fetched twice");
            fetched = fetched.max(range.end);
            largest = largest.max(range.end - range.start);
        }
        assert!(fetched > 400 * 131_072 && largest <= WINDOW_MAX);
        for step in 1..50u64 {
            assert!(cursor.advance(step * 1_000_000_007 % (1 << 40), 4096).is_empty(), "random reads fetch nothing ahead");
        }
    }
}
