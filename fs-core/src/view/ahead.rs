//! Fetching ahead: of large files what comes next, of small ones their neighbours in the folder, which are then given to the kernel unasked.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::inode::Inode;
use super::{Stop, View, lock};
use crate::prefetch::Batch;
use crate::record::{RecordKind, Reference};
use crate::repository::{Held, Opened, PART_MAX, Pause, Urgency, Waiter, Want};
use crate::tree::page::Wanted;
use crate::tree::{Content, Entry, EntryKind, ROOT_POSITION};

/// Files up to this size lie beside those of their folder in the packs.
const SMALL: u64 = 64 << 10;
/// Small files that are asked for at once.
const SIBLINGS_MAX: usize = 2048;

/// Entries that are looked at for one batch.
const LOOKED_AT_MAX: usize = 8192;

/// Largest request for small files: a batch is at most so long.
const SMALL_PART_MAX: u64 = 8 << 20;
/// Pages that are brought for one batch.
const PAGES_MAX: usize = 64;

/// What takes whole small files before anybody has asked for them: the kernel's page cache.
pub trait PageCache: Send + Sync + std::fmt::Debug {
    /// Takes all bytes of a file. Must not wait: it may leave it.
    fn push(&self, inode: u64, bytes: Bytes);
}

/// A small file near the one that is read.
struct Sibling {
    inode: u64,
    reference: Reference,
    /// Which bytes of its record are all bytes of the file; `None` if that is not so, or if the number is not its own.
    part: Option<Range<usize>>,
}

/// What a batch consists of.
struct Batched {
    siblings: Vec<Sibling>,
    /// Memory while they come, sealed and opened taken together.
    bytes: u64,
    /// The position after the last entry that was looked at.
    until: u64,
    end: End,
}

/// Why a batch ends.
enum End {
    /// It is full.
    Full,
    /// These pages are not in memory.
    Unknown(Vec<Want>),
    /// There is nothing more, or nothing that can be read.
    Over,
}

impl View {
    /// Where files go that are fetched before anybody asked. Once.
    pub fn set_page_cache(&self, page_cache: Arc<dyn PageCache>) {
        let _ = self.page_cache.set(page_cache);
    }

    /// Notes that a range of a file is about to be read, and fetches what will be wanted next. Never waits.
    pub fn read_ahead(self: &Arc<Self>, inode: u64, offset: u64, length: u64) {
        let Ok(handle) = self.handle(&Held::default(), inode) else { return };
        if handle.reader.size() <= SMALL {
            if offset == 0 {
                self.fetch_siblings(Inode::from_number(inode));
            }
            return;
        }
        let range = handle.advance(offset, length);
        if range.is_empty() {
            return;
        }
        let data = |reference: Reference| (Want { kind: RecordKind::Data, reference }, None);
        match handle.reader.records(&Held::default(), range.clone()) {
            Ok(records) => {
                self.repository.request(records.into_iter().map(data).collect(), Urgency::Ahead, PART_MAX);
            }
            // Its list comes first.
            Err(Pause::Missing(lists)) => {
                let view = Arc::clone(self);
                self.repository.fetch(&lists, Held::default(), move |arrived| {
                    if let Some(records) = arrived.ok().and_then(|held| handle.reader.records(&held, range).ok()) {
                        view.repository.request(records.into_iter().map(data).collect(), Urgency::Ahead, PART_MAX);
                    }
                });
            }
            // Whoever reads there will be told.
            Err(Pause::Failed(_)) => {}
        }
    }

    fn fetch_siblings(self: &Arc<Self>, inode: Inode) {
        let Some(mut batch) = lock(&self.runs).note(inode.slot, inode.position) else { return };
        if batch.from != inode.position {
            batch.bytes = batch.bytes.min(self.repository.ahead_room());
        }
        self.fetch_batch(inode, batch, PAGES_MAX);
    }

    /// Fetches a batch of small files. A page that is missing on the way is brought, and then it goes on, `pages_max` times.
    fn fetch_batch(self: &Arc<Self>, inode: Inode, batch: Batch, pages_max: usize) {
        let Batched { siblings, bytes, until, end } = self.batch(inode, batch);
        lock(&self.runs).reached(inode.slot, batch.from, until, !matches!(end, End::Over));
        // What is read now comes with its neighbours.
        let is_first = batch.from == inode.position;
        let request = |sibling: Sibling| {
            let want = Want { kind: RecordKind::Data, reference: sibling.reference };
            let is_read_now = sibling.inode == inode.number();
            (want, sibling.part.filter(|_| !is_read_now).and_then(|part| self.pushing(sibling.inode, part)))
        };
        let urgency = if is_first { Urgency::Demand } else { Urgency::Ahead };
        self.repository.request(siblings.into_iter().map(request).collect(), urgency, SMALL_PART_MAX);
        if let (End::Unknown(pages), false, Some(pages_max)) = (end, is_first, pages_max.checked_sub(1)) {
            let (view, rest) = (Arc::clone(self), Batch { from: until, bytes: batch.bytes.saturating_sub(bytes) });
            self.repository.fetch(&pages, Held::default(), move |arrived| {
                if arrived.is_ok() {
                    view.fetch_batch(inode, rest, pages_max);
                }
            });
        }
    }

    /// Gives a file to the kernel when it has arrived.
    fn pushing(&self, inode: u64, part: Range<usize>) -> Option<Waiter> {
        let page_cache = Arc::clone(self.page_cache.get()?);
        Some(Box::new(move |arrived| {
            if let Ok(Opened::Data(bytes)) = arrived
                && part.end <= bytes.len()
            {
                // What waits for the kernel must not hold the memory of all files that share its record.
                let is_small = part.len() < bytes.len() / 4;
                let bytes = if is_small { bytes.get(part).map(Bytes::copy_from_slice).unwrap_or_default() } else { bytes.slice(part) };
                page_cache.push(inode, bytes);
            }
        }))
    }

    /// Small files from a position on, in the order in which somebody walks through the snapshot and in which they lie in the packs. Only what is in memory, opened or sealed.
    fn batch(&self, inode: Inode, batch: Batch) -> Batched {
        let mut found = Batched { siblings: Vec::new(), bytes: 0, until: batch.from, end: End::Full };
        let (tree, held) = (self.tree(), Held::default());
        let folder = |number| self.node(&tree, &held, number).ok();
        let Some(mut folder_now) = folder(inode.number()).and_then(|node| folder(node.parent)) else { return found };
        for _ in 0..LOOKED_AT_MAX {
            if found.siblings.len() == SIBLINGS_MAX || found.bytes >= batch.bytes {
                return found;
            }
            let Some(offset) = found.until.checked_sub(folder_now.inode.position) else { return found };
            match self.find(&held, &folder_now, Wanted::Position(offset)) {
                Ok(Some(line)) => {
                    let (position, entry) = (folder_now.inode.position + line.position_offset, line.entry());
                    if position == found.until {
                        found.add(Inode { slot: inode.slot, position }, entry);
                    }
                    if entry.subtree.is_some() {
                        folder_now = self.child(&folder_now, &line);
                    }
                }
                // The folder ends here: the walk goes on in the one above.
                Ok(None) if folder_now.inode.position == ROOT_POSITION => {
                    found.end = End::Over;
                    return found;
                }
                Ok(None) => match folder(folder_now.parent) {
                    Some(above) => folder_now = above,
                    None => return found,
                },
                // Only to be opened: one request for the files of many folders is better than many.
                Err(Stop::Missing(pages)) if pages.iter().all(|page| self.repository.open_at_hand(page)) => {}
                Err(Stop::Missing(pages)) => {
                    found.end = End::Unknown(pages);
                    return found;
                }
                Err(Stop::Failed(_)) => {
                    found.end = End::Over;
                    return found;
                }
            }
        }
        found
    }
}

impl Batched {
    fn add(&mut self, inode: Inode, entry: &Entry) {
        if let Some((reference, part)) = small(entry) {
            let is_shared = self.siblings.last().is_some_and(|last| last.reference.id == reference.id);
            self.bytes += if is_shared { 0 } else { reference.cost() };
            self.siblings.push(Sibling { inode: inode.number(), reference, part });
        }
        self.until = inode.position + 1;
    }
}

/// The one record of a small file, and which part of it is the file.
fn small(entry: &Entry) -> Option<(Reference, Option<Range<usize>>)> {
    if entry.kind != EntryKind::File || entry.size > SMALL {
        return None;
    }
    let (reference, part) = match (entry.fragment(), &entry.content) {
        (Some((reference, part)), _) => (reference, Some(part)),
        (None, Content::Inline(references)) => {
            let reference = *references.first()?;
            (reference, (entry.size == u64::from(reference.plain_len)).then_some(0..reference.plain_len as usize))
        }
        (None, _) => return None,
    };
    Some((reference, part.filter(|_| entry.link_group.is_none() && entry.sparse.is_none())))
}
