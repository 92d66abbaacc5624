//! What a run has copied so far, directory by directory: snapshots that follow one another have most of them in common.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use fs_core::id::{PackId, RecordId};

use crate::state::Summary;

/// Memory that it takes, about. Beyond that those go that were not met for the longest time.
const BYTES_MAX: usize = 64 << 20;
/// What a row takes beside its lists: the entry, and its place in the table.
const ROW: usize = 1024;

/// Directories that were copied, by the ids of their pages: an id says all that is in a directory, and below it.
#[derive(Debug, Default)]
pub struct Known(Mutex<Rows>);

#[derive(Debug, Default)]
struct Rows {
    by_page: HashMap<RecordId, Row>,
    bytes: usize,
    /// Counts what is asked for and added.
    turn: u64,
}

#[derive(Debug)]
struct Row {
    summary: Arc<Summary>,
    met: u64,
}

impl Known {
    /// What a directory with this page became.
    pub(super) fn get(&self, page: &RecordId) -> Option<Arc<Summary>> {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rows.turn += 1;
        let turn = rows.turn;
        let row = rows.by_page.get_mut(page)?;
        row.met = turn;
        Some(Arc::clone(&row.summary))
    }

    /// Notes what a directory with this page became.
    pub(in crate::backup) fn insert(&self, page: RecordId, summary: Summary) {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rows.turn += 1;
        let (met, bytes) = (rows.turn, weight(&summary));
        let before = rows.by_page.insert(page, Row { summary: Arc::new(summary), met });
        rows.bytes = rows.bytes + bytes - before.map_or(0, |row| weight(&row.summary));
        if rows.bytes > BYTES_MAX {
            rows.make_room();
        }
    }
}

impl Rows {
    /// The older half goes.
    fn make_room(&mut self) {
        let mut met: Vec<_> = self.by_page.values().map(|row| row.met).collect();
        let middle = met.len() / 2;
        let middle = *met.select_nth_unstable(middle).1;
        self.by_page.retain(|_, row| row.met > middle);
        self.bytes = self.by_page.values().map(|row| weight(&row.summary)).sum();
    }
}

fn weight(summary: &Summary) -> usize {
    ROW + summary.packs.len() * size_of::<PackId>() + summary.links.len() * 16 + summary.attributes.iter().map(Vec::len).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use fs_core::tree::{Entry, EntryKind};

    use super::*;
    use crate::state::Counts;

    #[test]
    fn it_stays_within_its_memory_and_keeps_what_was_met_last() {
        let known = Known::default();
        let page = |n: u64| RecordId::from_bytes(fs_core::crypto::hash(&n.to_le_bytes()));
        let packs = vec![PackId::from_bytes([1; PackId::LENGTH]); 2000];
        let summary = Summary {
            entry: Entry::new(None, EntryKind::Directory),
            packs,
            counts: Counts::default(),
            attributes: Vec::new(),
            links: Vec::new(),
            since: None,
        };
        for n in 0..5000 {
            known.insert(page(n), summary.clone());
            assert!(known.get(&page(0)).is_some() && known.get(&page(n)).is_some());
        }
        let rows = known.0.lock().unwrap();
        assert!(rows.bytes <= BYTES_MAX && rows.bytes == rows.by_page.values().map(|row| weight(&row.summary)).sum::<usize>());
        assert!(!rows.by_page.contains_key(&page(1)));
    }
}
