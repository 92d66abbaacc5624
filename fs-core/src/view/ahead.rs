//! Fetching ahead: of large files what comes next, of small ones their neighbours in the folder, which are then given to the kernel unasked.

use std::sync::Arc;

use bytes::Bytes;

use super::inode::Inode;
use super::{View, lock};
use crate::prefetch::Batch;
use crate::record::{RecordKind, Reference};
use crate::repository::{Held, Opened, PART_MAX, Pause, Urgency, Waiter, Want};
use crate::tree::page::Wanted;
use crate::tree::{Content, Entry, EntryKind};

/// Files up to this size lie beside those of their folder in the packs.
const SMALL: u64 = 64 << 10;
/// Small files that are asked for at once.
const SIBLINGS_MAX: usize = 2048;

/// What takes whole small files before anybody has asked for them: the kernel's page cache.
pub trait PageCache: Send + Sync + std::fmt::Debug {
    /// Takes all bytes of a file. Must not wait: it may leave it.
    fn push(&self, inode: u64, bytes: Bytes);
}

/// A small file beside the one that is read.
struct Sibling {
    inode: u64,
    reference: Reference,
    /// Whether the bytes of its record are all bytes of the file, and the number is its own.
    is_plain: bool,
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
        let Some((siblings, until, has_more)) = self.siblings(inode, batch) else { return };
        lock(&self.runs).reached(inode.slot, batch.from, until, has_more);
        // What is read now comes with its neighbours.
        let urgency = if batch.from == inode.position { Urgency::Demand } else { Urgency::Ahead };
        let request = |sibling: Sibling| {
            let want = Want { kind: RecordKind::Data, reference: sibling.reference };
            let is_read_now = sibling.inode == inode.number();
            (want, (sibling.is_plain && !is_read_now).then(|| self.pushing(sibling.inode)).flatten())
        };
        self.repository.request(siblings.into_iter().map(request).collect(), urgency, batch.bytes + 2 * SMALL);
    }

    /// Gives a file to the kernel when it has arrived.
    fn pushing(&self, inode: u64) -> Option<Waiter> {
        let page_cache = Arc::clone(self.page_cache.get()?);
        Some(Box::new(move |arrived| {
            if let Ok(Opened::Data(bytes)) = arrived {
                page_cache.push(inode, bytes);
            }
        }))
    }

    /// Small files of a folder from a position on, where the next would be, and whether there may be more. Only what is in memory.
    fn siblings(&self, inode: Inode, batch: Batch) -> Option<(Vec<Sibling>, u64, bool)> {
        let (tree, held) = (self.tree(), Held::default());
        let parent = self.node(&tree, &held, inode.number()).ok()?.parent;
        let folder = self.node(&tree, &held, parent).ok()?;
        let offset = batch.from.checked_sub(folder.inode.position)?;
        let mut next = self.find(&held, &folder, Wanted::Position(offset)).ok()?;
        let (mut siblings, mut until, mut bytes) = (Vec::new(), batch.from, 0);
        while let Some(found) = next {
            if siblings.len() == SIBLINGS_MAX || bytes >= batch.bytes {
                return Some((siblings, until, true));
            }
            let position = folder.inode.position + found.position_offset;
            if let Some(reference) = small(found.entry()) {
                bytes += u64::from(reference.stored_len) + u64::from(reference.plain_len);
                let entry = found.entry();
                let is_plain = entry.link_group.is_none() && entry.sparse.is_none() && entry.size == u64::from(reference.plain_len);
                siblings.push(Sibling { inode: Inode { slot: inode.slot, position }.number(), reference, is_plain });
            }
            until = position + found.entry().position_count();
            next = match found.next_in_page() {
                Some(found) => Some(found),
                // A page that is not here yet ends the batch, not the run.
                None => match self.find(&held, &folder, Wanted::Index(found.entry_index + 1)) {
                    Ok(found) => found,
                    Err(_) => return Some((siblings, until, true)),
                },
            };
        }
        Some((siblings, until, false))
    }
}

/// The one record of a small file.
fn small(entry: &Entry) -> Option<Reference> {
    match &entry.content {
        Content::Inline(references) if entry.kind == EntryKind::File && entry.size <= SMALL => references.first().copied(),
        _ => None,
    }
}
