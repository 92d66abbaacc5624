//! Memory for keys that the system does not write to its swap space.
//!
//! Keys are small and come and go by the thousand, while memory is locked by pages and a process may lock only some of it. So cells of the
//! length of a key are cut from a few pages, which are locked once, and go back to the others when their key is dropped. What the system
//! does not let be locked is used all the same: a key that may be swapped is better than no backup.

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use zeroize::Zeroize;

/// Bytes of a cell.
const LENGTH: usize = 32;
/// Bytes of cells that are made at once: pages of every system, and no more than the oldest limits for an ordinary user let be locked.
const GROWTH: usize = 64 << 10;
/// Bytes that are locked at most: a process with more keys than that leaves the rest of the limit to others.
const LOCKED_MOST: usize = 1 << 20;

static POOL: Mutex<Pool> = Mutex::new(Pool { free: Vec::new(), locked: 0 });

struct Pool {
    free: Vec<&'static mut [u8]>,
    /// Bytes that are locked.
    locked: usize,
}

impl Pool {
    fn get() -> MutexGuard<'static, Self> {
        // Nothing in here panics between two changes that belong together.
        POOL.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes more cells, in pages that hold nothing else.
    fn grow(&mut self) {
        let page = region::page::size();
        let memory = vec![0; GROWTH + page].leak();
        let (_, pages) = memory.split_at_mut(memory.as_ptr().align_offset(page));
        let (pages, _) = pages.split_at_mut(GROWTH);
        if self.locked < LOCKED_MOST
            && let Ok(guard) = region::lock(pages.as_ptr(), GROWTH)
        {
            // The cells are used as long as the process runs.
            mem::forget(guard);
            self.locked += GROWTH;
        }
        self.free.extend(pages.chunks_exact_mut(LENGTH));
    }
}

/// Thirty-two bytes of such memory, zero when made, wiped when dropped.
pub(super) struct Cell(&'static mut [u8]);

impl Cell {
    pub(super) fn new() -> Self {
        let mut pool = Pool::get();
        if pool.free.is_empty() {
            pool.grow();
        }
        Self(pool.free.pop().expect("there are cells after there were made some"))
    }

    pub(super) const fn bytes(&self) -> &[u8; LENGTH] {
        self.0.first_chunk().expect("a cell has its length until it is dropped")
    }

    pub(super) const fn bytes_mut(&mut self) -> &mut [u8; LENGTH] {
        self.0.first_chunk_mut().expect("a cell has its length until it is dropped")
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        self.0.zeroize();
        Pool::get().free.push(mem::take(&mut self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_apart_and_come_back_wiped() {
        let mut cells: Vec<_> = (0..2 * GROWTH / LENGTH).map(|_| Cell::new()).collect();
        for (number, cell) in cells.iter_mut().enumerate() {
            assert_eq!(cell.bytes(), &[0; LENGTH]);
            cell.bytes_mut()[..8].copy_from_slice(&number.to_le_bytes());
        }
        assert!(cells.iter().enumerate().all(|(number, cell)| cell.bytes()[..8] == number.to_le_bytes()));
        drop(cells);
        assert!((0..2 * GROWTH / LENGTH).map(|_| Cell::new()).all(|cell| cell.bytes() == &[0; LENGTH]));
    }

    /// Whether the page of an address is locked, by what the system says of the process.
    #[cfg(target_os = "linux")]
    fn is_locked(address: usize) -> bool {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let is_around = |line: &str| {
            let ends = line.split(' ').next().and_then(|range| range.split_once('-'));
            let ends = ends.map(|(from, to)| (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16)));
            matches!(ends, Some((Ok(from), Ok(to))) if (from..to).contains(&address))
        };
        let flags = maps.lines().skip_while(|line| !is_around(line)).find_map(|line| line.strip_prefix("VmFlags:"));
        flags.unwrap().split(' ').any(|flag| flag == "lo")
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn keys_lie_in_locked_pages() {
        let key = super::super::Key::from_bytes([7; LENGTH]);
        assert!(is_locked(key.expose().as_ptr().addr()));
        let elsewhere = Box::new([7; LENGTH]);
        assert!(!is_locked(elsewhere.as_ptr().addr()), "the question tells locked pages from others");
    }
}
