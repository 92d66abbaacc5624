//! The walk of a check: the trees of all snapshots, each page and list once. Those with damage in or below them are looked at again for each snapshot, so that
//! it is known of each what is wrong with it.

use std::collections::HashMap;
use std::sync::Arc;

use fs_core::id::RecordId;
use fs_core::path::TreePath;
use fs_core::record::{RecordKind, Reference};
use fs_core::report::{Finding, Place, Severity};
use fs_core::repository::ReadError;
use fs_core::snapshot::Snapshot;
use fs_core::tree::{Content, Entry, Page};

use super::Run;

/// What is damaged where, each with the snapshots that show it.
#[derive(Default)]
pub(super) struct Damage {
    places: HashMap<(TreePath, String), usize>,
    all: Vec<(TreePath, String, Showing)>,
}

/// Which snapshots show something damaged.
struct Showing {
    first: String,
    last: String,
    count: u64,
}

impl Damage {
    fn add(&mut self, path: &TreePath, what: String, snapshot: &str) {
        let place = *self.places.entry((path.clone(), what.clone())).or_insert(self.all.len());
        match self.all.get_mut(place) {
            // Two parts of one snapshot may be the same.
            Some((_, _, showing)) if showing.last == snapshot => {}
            Some((_, _, showing)) => {
                showing.count += 1;
                snapshot.clone_into(&mut showing.last);
            }
            None => self.all.push((path.clone(), what, Showing { first: snapshot.to_owned(), last: snapshot.to_owned(), count: 1 })),
        }
    }

    pub(super) fn findings(self) -> impl Iterator<Item = Finding> {
        self.all.into_iter().map(|(path, what, Showing { first, last, count })| {
            let message = match count {
                1 => format!("in snapshot {first}: {what}"),
                count => format!("in {count} snapshots, from {first} to {last}: {what}"),
            };
            Finding::at(Severity::Error, path, message)
        })
    }
}

/// A page, and those above it up to the root.
struct Above {
    page: RecordId,
    above: Option<Arc<Above>>,
}

/// Where the walk is.
struct At<'a> {
    snapshot: &'a str,
    path: &'a TreePath,
    above: &'a Option<Arc<Above>>,
}

/// What is still to be looked at.
type Open = Vec<(TreePath, Entry, Option<Arc<Above>>)>;

impl Run<'_> {
    pub(super) fn snapshot(&mut self, snapshot: &Snapshot) {
        if self.is_over() {
            return;
        }
        self.report.snapshot_count += 1;
        let id = snapshot.id.short();
        if !snapshot.sealed {
            let message =
                format!("snapshot {id} is incomplete: its backup was interrupted before the last check; the next run replaces it");
            self.note([Finding { severity: Severity::Note, place: Place::Operation, message }]);
        }
        let root = At { snapshot: &id, path: &TreePath::ROOT, above: &None };
        let manifest = match snapshot.manifest() {
            Ok(manifest) => manifest,
            Err(error) => return self.damaged(&root, "its manifest", error.into()),
        };
        for reference in manifest.link_table.iter().map(|(_, reference)| reference).chain(&manifest.findings).chain(&manifest.changes) {
            if let Err(error) = self.repository.read_record(RecordKind::Table, reference) {
                self.missed(reference.pack, RecordKind::Table);
                self.damaged(&root, "a table", error);
            }
        }
        let mut open = vec![(TreePath::ROOT, manifest.root, None)];
        while let Some((path, entry, above)) = open.pop() {
            if self.is_over() {
                return;
            }
            self.observer.at(&path);
            let at = At { snapshot: &id, path: &path, above: &above };
            self.contents(&entry, &at);
            let Some(page) = entry.subtree.as_ref().and_then(|subtree| subtree.page) else { continue };
            self.pages(page, &at, &mut open);
        }
    }

    /// Whether a page or list is to be looked at: for the first time, or because something is wrong in it.
    fn is_to_be_seen(&mut self, id: RecordId) -> bool {
        self.seen.insert(id) || self.tainted.contains(&id)
    }

    fn pages(&mut self, page: Reference, at: &At<'_>, open: &mut Open) {
        // No recursion: whoever writes decides how deep pages stand in one another.
        let mut pages = vec![(page, at.above.clone())];
        while let Some((page, above)) = pages.pop().filter(|_| !self.is_over()) {
            if !self.is_to_be_seen(page.id) {
                continue;
            }
            let own = Some(Arc::new(Above { page: page.id, above }));
            let at = At { above: &own, ..*at };
            match self.repository.page(&page) {
                Ok(read) => {
                    self.failures = 0;
                    match &*read {
                        Page::Index(rows) => pages.extend(rows.iter().rev().map(|row| (row.reference, own.clone()))),
                        Page::Leaf(leaf) => {
                            for entry in leaf.entries() {
                                let Some(name) = entry.name.clone() else { continue };
                                let below = at.path.join(name);
                                if entry.subtree.is_some() {
                                    open.push((below, entry.clone(), own.clone()));
                                } else {
                                    self.contents(entry, &At { path: &below, ..at });
                                }
                            }
                        }
                    }
                }
                Err(error) => {
                    self.missed(page.pack, RecordKind::Tree);
                    self.damaged(&at, "its list of entries", error);
                }
            }
        }
    }

    fn contents(&mut self, entry: &Entry, at: &At<'_>) {
        self.content(&entry.content, at);
        entry.side_contents().for_each(|content| self.content(content, at));
        let what = match std::mem::take(&mut self.missing) {
            0 => return,
            1 => "a part of it is".to_owned(),
            count => format!("{count} parts of it are"),
        };
        self.tell(at, format!("{what} missing or damaged"));
    }

    fn content(&mut self, content: &Content, at: &At<'_>) {
        match content {
            Content::Inline(_) | Content::Fragment { .. } => content.references().iter().for_each(|reference| self.present(reference)),
            Content::List { depth, reference } => drop(self.list(*depth, reference, at)),
        }
    }

    /// Whether all is well with a list and with what it names.
    fn list(&mut self, depth: u8, reference: &Reference, at: &At<'_>) -> bool {
        if self.is_over() || !self.is_to_be_seen(reference.id) {
            return true;
        }
        let before = self.missing;
        let is_well = match self.repository.list(reference) {
            Ok(list) if list.depth == depth => {
                self.failures = 0;
                let mut is_well = true;
                for row in &list.rows {
                    if depth == 1 { self.present(&row.reference) } else { is_well &= self.list(depth - 1, &row.reference, at) }
                }
                is_well && self.missing == before
            }
            Ok(_) => {
                self.tell(at, "its lists contradict each other".into());
                false
            }
            Err(error) => {
                self.missed(reference.pack, RecordKind::List);
                self.damaged(at, "the list of its parts", error);
                false
            }
        };
        if !is_well {
            self.tainted.insert(reference.id);
        }
        is_well
    }

    /// A data record counts as present if its pack has it at that place, or the index knows another pack that has it.
    fn present(&mut self, reference: &Reference) {
        if self.packs.has(&self.shards, reference) {
            return;
        }
        let found = match self.moved.get(&reference.id) {
            Some(found) => *found,
            None => {
                let mut places = self.shards.iter().flat_map(|shard| shard.find(&reference.id));
                let found = places.any(|place| self.packs.has(&self.shards, &place.reference));
                self.moved.insert(reference.id, found);
                found
            }
        };
        if !found {
            self.missed(reference.pack, RecordKind::Data);
            self.missing += 1;
        }
    }

    fn damaged(&mut self, at: &At<'_>, what: &str, error: ReadError) {
        let message = format!("{what} cannot be read: {}", self.unread(error));
        self.tell(at, message);
    }

    fn tell(&mut self, at: &At<'_>, what: String) {
        self.damage.add(at.path, what, at.snapshot);
        let mut above = at.above.as_ref();
        while let Some(page) = above {
            self.tainted.insert(page.page);
            above = page.above.as_ref();
        }
    }
}
