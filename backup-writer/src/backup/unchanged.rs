//! Directories in which nothing has changed, at any depth: found before the walk, and taken over whole.

use std::collections::HashSet;
use std::sync::Arc;

use fs_core::id::PackId;
use fs_core::observer::Observer;
use fs_core::path::TreePath;
use fs_core::report::Stats;
use fs_core::snapshot::attributes::AttributeNames;
use fs_core::time::Timestamp;
use fs_core::tree::{Content, Entry, EntryKind};

use super::BackupOptions;
use super::fingerprint::Fingerprint;
use super::scan::{Fingerprints, Scan};
use super::walk::Walk;
use crate::packer::Shared;
use crate::parent::is_settled;
use crate::source::LiveTree;
use crate::state::{Counts, Summaries, Summary};

/// What the walk asks before it enters a directory.
pub(super) struct Unchanged {
    shared: Arc<Shared>,
    summaries: Summaries,
    fingerprints: Fingerprints,
}

impl Unchanged {
    /// Looks at the whole source; `None` if nothing is known that could be unchanged.
    pub(super) fn look(
        shared: &Arc<Shared>,
        options: &BackupOptions,
        (walk, source): (&Walk<'_>, &LiveTree),
        observer: &dyn Observer,
    ) -> Option<Self> {
        let key = walk.fingerprint_key.as_ref().filter(|_| !options.reread)?;
        let summaries = Summaries::open(options.state.as_deref()?, shared.repository())?;
        let paths = walk.named.paths.iter().filter(|named| !named.is_device);
        let sources: Vec<_> = paths
            .filter_map(|named| {
                let shown = crate::system::shown_bytes(&named.shown);
                Some((TreePath::parse(&shown).ok()?, named.path.clone()))
            })
            .collect();
        let thread_count = crate::worker_count();
        let scan = Scan { source, rules: walk.rules, never: walk.never, key, observer, thread_count };
        Some(Self { shared: Arc::clone(shared), summaries, fingerprints: scan.run(&sources) })
    }

    /// A directory that is, with all below, what it was when it was saved, if all that it was saved to is still listed.
    pub(super) fn get(&self, path: &TreePath) -> Option<(Fingerprint, Summary)> {
        let fingerprint = *self.fingerprints.get(path)?;
        let summary = self.summaries.get(path, &fingerprint)?;
        summary.packs.iter().all(|pack| self.shared.is_listed(pack)).then_some((fingerprint, summary))
    }
}

impl Summary {
    /// Counts what is taken over.
    pub(super) fn count(&self, stats: &mut Stats) {
        let Counts { files, directories, others, bytes } = self.counts;
        stats.file_count += files;
        stats.directory_count += directories;
        stats.other_count += others;
        stats.byte_count += bytes;
    }
}

/// What a summary is made of, gathered while a directory is.
#[derive(Default)]
pub(super) struct Sum {
    counts: Counts,
    packs: HashSet<PackId>,
    attributes: AttributeNames,
    /// Day since which some of it was not looked at.
    since: Option<i64>,
    /// Something in it must be looked at by the next run.
    is_spoilt: bool,
}

impl Sum {
    /// Adds an entry that is no directory; `packs` that hold its content, `None` if the next run must read it again.
    pub(super) fn add(&mut self, entry: &Entry, packs: Option<impl Iterator<Item = PackId>>, began: Timestamp) {
        match (entry.kind, packs) {
            (EntryKind::File, Some(packs)) => {
                self.counts.files += 1;
                self.counts.bytes += entry.size;
                self.packs.extend(packs);
            }
            (EntryKind::File, None) => self.is_spoilt = true,
            _ => self.counts.others += 1,
        }
        self.add_metadata(entry, began);
    }

    /// Adds a subdirectory.
    pub(super) fn add_below(&mut self, below: Self) {
        if self.packs.is_empty() {
            self.packs = below.packs;
        } else {
            self.packs.extend(below.packs);
        }
        self.attributes.add(&below.attributes);
        self.is_spoilt |= below.is_spoilt;
        self.add_since(below.since);
        self.add_counts(below.counts);
    }

    /// Adds a subdirectory that was taken over whole.
    pub(super) fn add_summary(&mut self, summary: &Summary) {
        self.packs.extend(&summary.packs);
        self.attributes.add(&AttributeNames::from_iter(summary.attributes.clone()));
        self.add_since(summary.since);
        self.add_counts(summary.counts);
    }

    /// Something in it was not saved.
    pub(super) fn spoil(&mut self) {
        self.is_spoilt = true;
    }

    /// Adds the directory itself, whose pages are in these packs.
    pub(super) fn close(&mut self, entry: &Entry, pages: impl IntoIterator<Item = PackId>, began: Timestamp) {
        self.counts.directories += 1;
        self.packs.extend(pages);
        self.add_metadata(entry, began);
    }

    /// The summary of a finished directory; `None` if the next run must look at it.
    pub(super) fn summary(&self, entry: &Entry, links: &[(u64, u64)]) -> Option<Summary> {
        let attributes = self.attributes.clone().fits().filter(|_| !self.is_spoilt)?;
        let mut packs: Vec<_> = self.packs.iter().copied().collect();
        packs.sort_unstable();
        let attributes = attributes.iter().map(<[u8]>::to_vec).collect();
        let summary = Summary { entry: entry.clone(), packs, counts: self.counts, attributes, links: links.to_vec(), since: self.since };
        summary.fits().then_some(summary)
    }

    fn add_since(&mut self, since: Option<i64>) {
        self.since = self.since.into_iter().chain(since).min();
    }

    fn add_counts(&mut self, counts: Counts) {
        self.counts.files += counts.files;
        self.counts.directories += counts.directories;
        self.counts.others += counts.others;
        self.counts.bytes += counts.bytes;
    }

    /// Every later change of an entry that is settled shows in its time of change: of its attributes and, for a link, of its target too.
    fn add_metadata(&mut self, entry: &Entry, began: Timestamp) {
        self.is_spoilt |= entry.ctime.is_none() || !is_settled(entry, began);
        match std::mem::take(&mut self.attributes).with(entry) {
            Some(names) => self.attributes = names,
            None => self.is_spoilt = true,
        }
        for content in entry.side_contents() {
            // A list names packs that do not stand here.
            self.is_spoilt |= matches!(content, Content::List { .. });
            self.packs.extend(content.references().iter().map(|reference| reference.pack));
        }
    }
}
