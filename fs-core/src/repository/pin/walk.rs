//! The walk over what is pinned: pages lead to pages, lists and data, hard links to entries that stand elsewhere.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use crossbeam_channel::Sender;
use lru::LruCache;

use super::{PinError, Run, descend};
use crate::path::TreePath;
use crate::record::{RecordKind, Reference};
use crate::repository::lock;
use crate::repository::opened::{Opened, Want};
use crate::tree::page::{self, Wanted};
use crate::tree::{Content, Entry, Page, ROOT_POSITION};

/// Data that one of them takes at a time, in bytes as stored and in records.
const SHARE: (u64, usize) = (4 << 20, 4096);
/// Pages and lists that are fetched at a time, in bytes of plaintext and in records.
const METADATA_SHARE: (u64, usize) = (16 << 20, 128);
/// Pages that are remembered on the way to single entries.
const PAGES_KEPT: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

/// The walk over the tree.
pub(super) struct Walk<'a> {
    run: &'a Run<'a>,
    shares: Sender<Vec<Want>>,
    /// Data for the next share, and its bytes as stored.
    share: (Vec<Want>, u64),
    /// Pages, lists and tables to come.
    open: Vec<Want>,
    pages: LruCache<Reference, Arc<Page>>,
}

impl<'a> Walk<'a> {
    /// A walk that hands the data it comes by to others.
    pub(super) fn new(run: &'a Run<'a>, shares: Sender<Vec<Want>>) -> Self {
        Self { run, shares, share: (Vec::new(), 0), open: Vec::new(), pages: LruCache::new(PAGES_KEPT) }
    }

    /// Everything that reading an entry takes, and the pages that lead to it.
    pub(super) fn whole(&mut self, path: &TreePath, entry: &Entry, position: u64) -> Result<(), PinError> {
        let manifest = self.run.manifest;
        descend(manifest, path, |directory, wanted| self.find(directory, wanted))?;
        self.entry(entry);
        self.rest()?;
        let within = position..position + entry.position_count();
        for leader in self.leaders(&within)? {
            // What is read of a hard link is read of the first entry of its file, wherever in the snapshot that stands.
            let mut at = ROOT_POSITION;
            let mut found = manifest.root.clone();
            while at != leader {
                let Some(next) = self.find(&found, Wanted::Position(leader.saturating_sub(at)))? else { break };
                at += next.position_offset;
                found = next.entry().clone();
            }
            self.contents(&found);
            self.rest()?;
        }
        self.send()
    }

    /// Everything that waits to be walked.
    fn rest(&mut self) -> Result<(), PinError> {
        while !self.open.is_empty() {
            self.run.go_on()?;
            let mut plain = 0;
            let fits = |want: &&Want| {
                plain += u64::from(want.reference.plain_len);
                plain <= METADATA_SHARE.0
            };
            let count = self.open.iter().rev().take(METADATA_SHARE.1).take_while(fits).count().max(1);
            let batch = self.open.split_off(self.open.len().saturating_sub(count));
            let mut opened = Vec::new();
            self.run.keeper.keep(&batch, &mut |want, plain| {
                opened.push(Opened::decode(want.kind, plain)?);
                Ok(())
            })?;
            for opened in opened {
                self.lead_on(&opened)?;
            }
            self.run.tell();
        }
        Ok(())
    }

    /// What a record leads to.
    fn lead_on(&mut self, opened: &Opened) -> Result<(), PinError> {
        match opened {
            Opened::Page(page) => match &**page {
                Page::Index(rows) => self.open.extend(rows.iter().rev().map(|row| tree(&row.reference))),
                Page::Leaf(leaf) => leaf.entries().iter().for_each(|entry| self.entry(entry)),
            },
            Opened::List(list) => {
                for row in &list.rows {
                    match list.depth {
                        0 | 1 => self.data(row.reference),
                        _ => self.open.push(Want { kind: RecordKind::List, reference: row.reference }),
                    }
                }
            }
            Opened::Links(_) | Opened::Data(_) => {}
        }
        if self.share.1 >= SHARE.0 || self.share.0.len() >= SHARE.1 { self.send() } else { Ok(()) }
    }

    fn entry(&mut self, entry: &Entry) {
        match &entry.subtree {
            Some(subtree) => self.open.extend(subtree.page.iter().map(tree)),
            None => drop(self.run.keeper.shared.files.fetch_add(1, Ordering::Relaxed)),
        }
        self.contents(entry);
    }

    /// All bytes of an entry: its own, and those of its attributes and streams.
    fn contents(&mut self, entry: &Entry) {
        for content in [&entry.content].into_iter().chain(entry.side_contents()) {
            match content {
                Content::Inline(references) => references.iter().for_each(|reference| self.data(*reference)),
                // Its neighbours share its record.
                Content::Fragment { reference, .. } if self.share.0.last().is_some_and(|last| last.reference.id == reference.id) => {}
                Content::Fragment { reference, .. } => self.data(*reference),
                Content::List { reference, .. } => self.open.push(Want { kind: RecordKind::List, reference: *reference }),
            }
        }
    }

    fn data(&mut self, reference: Reference) {
        self.share.0.push(Want { kind: RecordKind::Data, reference });
        self.share.1 += u64::from(reference.stored_len);
    }

    /// Hands the data that has come together to the others, in parts that stand together.
    fn send(&mut self) -> Result<(), PinError> {
        let (wants, _) = std::mem::take(&mut self.share);
        let (mut share, mut stored) = (Vec::new(), 0);
        for want in wants {
            if stored >= SHARE.0 || share.len() >= SHARE.1 {
                self.give(std::mem::take(&mut share))?;
                stored = 0;
            }
            stored += u64::from(want.reference.stored_len);
            share.push(want);
        }
        self.give(share)
    }

    fn give(&self, share: Vec<Want>) -> Result<(), PinError> {
        let is_over = self.run.keeper.shared.is_over.load(Ordering::Relaxed);
        // The failure that ended it is told instead.
        if is_over || self.shares.send(share).is_err() { Err(PinError::Cancelled) } else { Ok(()) }
    }

    /// First entries of hard-linked files that stand elsewhere, of those within. Keeps the tables that say so.
    fn leaders(&self, within: &Range<u64>) -> Result<BTreeSet<u64>, PinError> {
        let table = &self.run.manifest.link_table;
        let from = table.partition_point(|(first, _)| *first <= within.start).saturating_sub(1);
        let concerned = table.iter().skip(from).take_while(|(first, _)| *first < within.end);
        let mut leaders = BTreeSet::new();
        for (_, reference) in concerned {
            self.run.keeper.keep(&[Want { kind: RecordKind::Table, reference: *reference }], &mut |want, plain| {
                if let Opened::Links(rows) = Opened::decode(want.kind, plain)? {
                    let elsewhere = rows.iter().filter(|row| within.contains(&row.position) && !within.contains(&row.leader));
                    leaders.extend(elsewhere.map(|row| row.leader));
                }
                Ok(())
            })?;
        }
        Ok(leaders)
    }

    fn find(&mut self, directory: &Entry, wanted: Wanted<'_>) -> Result<Option<page::Found>, PinError> {
        let Some(top) = directory.subtree.as_ref().and_then(|subtree| subtree.page) else { return Ok(None) };
        let (keeper, pages) = (&self.run.keeper, Mutex::new(&mut self.pages));
        page::find(&top, wanted, &|reference: &Reference| -> Result<Arc<Page>, PinError> {
            if let Some(known) = lock(&pages).get(reference) {
                return Ok(Arc::clone(known));
            }
            let page = keeper.page(reference)?;
            lock(&pages).put(*reference, Arc::clone(&page));
            Ok(page)
        })
    }
}

fn tree(reference: &Reference) -> Want {
    Want { kind: RecordKind::Tree, reference: *reference }
}
