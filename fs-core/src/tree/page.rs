//! Large directories: splitting them into pages when writing, finding the one page that is needed when reading.
//!
//! Cuts depend on names (a keyed hash, given as `splits`), so one new name rewrites two pages. Layout: docs/FORMAT.md, section 10.

use std::sync::Arc;

use super::{DEPTH_MAX, Entry, Leaf, Page, PageRow, TreeError};
use crate::record::Reference;

/// A page is not ended by its names before it has this many entries.
const ENTRIES_MIN: usize = 512;
/// A page is ended when it has this many entries.
const ENTRIES_MAX: usize = 8192;
/// A page is ended before its encoding exceeds this many bytes.
const SIZE_MAX: usize = 1 << 20;

/// Whether a page may end after a name: one name in 2048, by a keyed hash of it.
pub type Splits<'a> = &'a dyn Fn(&[u8]) -> bool;

/// Splits a directory's sorted entries into pages and page indexes, and stores each with `store`. The result is the top; `None` for no entries.
///
/// # Errors
/// Those of `store`.
pub fn build<E>(
    entries: Vec<Entry>,
    splits: Splits<'_>,
    store: &mut dyn FnMut(Page) -> Result<Reference, E>,
) -> Result<Option<Reference>, E> {
    let mut rows = Vec::new();
    let (mut entry_end, mut position_end) = (0, 0);
    for group in split(entries, splits, Entry::name_bytes, Entry::encoded_size_max) {
        let Some(first_name) = group.first().and_then(|entry| entry.name.clone()) else { continue };
        entry_end += group.len() as u64;
        let leaf = Leaf::new(group);
        position_end += leaf.position_count();
        rows.push(PageRow { first_name, entry_end, position_end, reference: store(Page::Leaf(leaf))? });
    }
    while rows.len() > 1 {
        let mut upper = Vec::new();
        let row_size = |row: &PageRow| 128 + row.first_name.as_bytes().len();
        let (mut entries_before, mut positions_before) = (0, 0);
        for mut group in split(rows, splits, |row| row.first_name.as_bytes(), row_size) {
            let (Some(first), Some(last)) = (group.first().cloned(), group.last().cloned()) else { continue };
            for row in &mut group {
                row.entry_end -= entries_before;
                row.position_end -= positions_before;
            }
            (entries_before, positions_before) = (last.entry_end, last.position_end);
            let reference = store(Page::Index(group))?;
            upper.push(PageRow { first_name: first.first_name, reference, ..last });
        }
        rows = upper;
    }
    Ok(rows.pop().map(|row| row.reference))
}

fn split<T>(items: Vec<T>, splits: Splits<'_>, name: impl Fn(&T) -> &[u8], size: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let (mut groups, mut group, mut group_size) = (Vec::new(), Vec::new(), 0);
    for item in items {
        let item_size = size(&item);
        if group_size + item_size > SIZE_MAX && !group.is_empty() {
            groups.push(std::mem::take(&mut group));
            group_size = 0;
        }
        group_size += item_size;
        let at_cut = group.len() + 1 >= ENTRIES_MAX || (group.len() + 1 >= ENTRIES_MIN && splits(name(&item)));
        group.push(item);
        if at_cut {
            groups.push(std::mem::take(&mut group));
            group_size = 0;
        }
    }
    groups.extend((!group.is_empty()).then_some(group));
    groups
}

/// Loads pages, from memory or the store.
pub type Load<'a, E> = &'a dyn Fn(&Reference) -> Result<Arc<Page>, E>;

/// An entry found in a directory.
#[derive(Clone, Debug)]
pub struct Found {
    /// The leaf page that holds it.
    pub page: Arc<Page>,
    /// Its index in that page.
    pub index: usize,
    /// Its index in the whole directory.
    pub entry_index: u64,
    /// Its position, counted from the directory's own.
    pub position_offset: u64,
}

impl Found {
    /// The entry.
    ///
    /// # Panics
    /// Never: it was found there.
    pub fn entry(&self) -> &Entry {
        self.page.entries().get(self.index).expect("the entry was found in this page")
    }

    /// The entry after this one in the same page.
    pub fn next_in_page(&self) -> Option<Self> {
        let index = self.index + 1;
        let position_offset = self.position_offset + self.entry().position_count();
        self.page.entries().get(index)?;
        Some(Self { page: Arc::clone(&self.page), index, entry_index: self.entry_index + 1, position_offset })
    }
}

/// Which entry of a directory is wanted.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// The one with this name.
    Name(&'a [u8]),
    /// The n-th.
    Index(u64),
    /// The one whose subtree takes this position, counted from the directory's own.
    Position(u64),
}

/// Finds an entry of the directory whose top page is `top`; `None` if there is none. Loads one page for each level.
///
/// # Errors
/// Those of `load`, and [`TreeError`] for page indexes nested too deeply.
pub fn find<E: From<TreeError>>(top: &Reference, wanted: Wanted<'_>, load: Load<'_, E>) -> Result<Option<Found>, E> {
    let (mut reference, mut entries_before, mut positions_before) = (*top, 0u64, 0u64);
    for _ in 0..=DEPTH_MAX {
        let page = load(&reference)?;
        match &*page {
            Page::Leaf(leaf) => {
                let index = match wanted {
                    Wanted::Name(name) => leaf.find(name),
                    Wanted::Index(n) => {
                        n.checked_sub(entries_before).and_then(|n| usize::try_from(n).ok()).filter(|&n| n < leaf.entries().len())
                    }
                    Wanted::Position(offset) => offset.checked_sub(positions_before).and_then(|offset| leaf.find_position(offset)),
                };
                return Ok(index.map(|index| Found {
                    index,
                    entry_index: entries_before + index as u64,
                    position_offset: positions_before + leaf.positions_before(index) + 1,
                    page: Arc::clone(&page),
                }));
            }
            Page::Index(rows) => {
                let row = match wanted {
                    Wanted::Name(name) => rows.partition_point(|row| row.first_name.as_bytes() <= name).checked_sub(1),
                    Wanted::Index(n) => n.checked_sub(entries_before).map(|n| rows.partition_point(|row| row.entry_end <= n)),
                    Wanted::Position(p) => p.checked_sub(positions_before).map(|p| rows.partition_point(|row| row.position_end < p)),
                };
                let Some((row, before)) = row.and_then(|at| Some((rows.get(at)?, at.checked_sub(1).and_then(|at| rows.get(at))))) else {
                    return Ok(None);
                };
                entries_before += before.map_or(0, |row| row.entry_end);
                positions_before += before.map_or(0, |row| row.position_end);
                reference = row.reference;
            }
        }
    }
    Err(TreeError::Broken("page indexes are nested too deeply").into())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashMap;

    use super::*;
    use crate::id::RecordId;
    use crate::path::Name;
    use crate::tree::EntryKind;
    use crate::tree::codec::tests::reference as sample_reference;

    #[derive(Default)]
    struct Pages(RefCell<HashMap<RecordId, Arc<Page>>>);

    impl Pages {
        fn build(&self, entries: Vec<Entry>) -> Option<Reference> {
            let mut store = |page: Page| {
                let id = RecordId::from_bytes(crate::crypto::hash(&page.encode()));
                self.0.borrow_mut().insert(id, Arc::new(page));
                Ok::<_, TreeError>(Reference { id, ..sample_reference(1) })
            };
            let splits = |name: &[u8]| crate::crypto::hash(name)[0].is_multiple_of(64) && crate::crypto::hash(name)[1] < 32;
            build(entries, &splits, &mut store).unwrap()
        }

        fn find(&self, top: &Reference, wanted: Wanted<'_>) -> Option<Found> {
            find::<TreeError>(top, wanted, &|reference| Ok(Arc::clone(&self.0.borrow()[&reference.id]))).unwrap()
        }
    }

    fn entries(count: usize) -> Vec<Entry> {
        let mut entries: Vec<_> = (0..count)
            .map(|n| {
                let kind = if n % 5 == 0 { EntryKind::Directory } else { EntryKind::File };
                let mut entry = Entry::new(Some(Name::new(format!("entry {n:07}").into_bytes()).unwrap()), kind);
                if let Some(subtree) = &mut entry.subtree {
                    subtree.position_count = 1 + n as u64 % 7;
                }
                entry
            })
            .collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }

    #[test]
    fn every_entry_is_found_by_name_index_and_position() {
        for count in [1, 511, 513, 9000, 50_000] {
            let (pages, entries) = (Pages::default(), entries(count));
            let top = pages.build(entries.clone()).unwrap();
            let mut position = 1;
            for (n, entry) in entries.iter().enumerate() {
                if n % 97 == 0 || n + 1 == count {
                    let last = position + entry.position_count() - 1;
                    for wanted in
                        [Wanted::Name(entry.name_bytes()), Wanted::Index(n as u64), Wanted::Position(position), Wanted::Position(last)]
                    {
                        let found = pages.find(&top, wanted).unwrap();
                        assert_eq!((found.entry(), found.entry_index, found.position_offset), (entry, n as u64, position), "{wanted:?}");
                    }
                }
                position += entry.position_count();
            }
            for missing in
                [Wanted::Name(b"a"), Wanted::Name(b"z"), Wanted::Index(count as u64), Wanted::Position(0), Wanted::Position(position)]
            {
                assert!(pages.find(&top, missing).is_none(), "{missing:?} of {count}");
            }
        }
        assert_eq!(Pages::default().build(Vec::new()), None);
    }

    #[test]
    fn one_new_name_rewrites_few_pages() {
        let pages = Pages::default();
        let mut entries = entries(60_000);
        pages.build(entries.clone());
        let before = pages.0.borrow().len();
        let new = Entry::new(Some(Name::new(&b"entry 0030000 and more"[..]).unwrap()), EntryKind::File);
        entries.insert(entries.partition_point(|entry| entry.name < new.name), new);
        pages.build(entries);
        let added = pages.0.borrow().len() - before;
        assert!(before > 10 && added <= 4, "{added} new pages beside {before}");
    }
}
