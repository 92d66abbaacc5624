//! The entries of an archive in order, with their content, fetched ahead: records are gathered for a while, asked for in the order of the packs, and given on in the
//! order of the archive.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, unbounded};
use fs_core::path::TreePath;
use fs_core::reader::ContentReader;
use fs_core::record::Reference;
use fs_core::report::{Finding, Severity};
use fs_core::repository::{Batch, ReadError, Repository, Sealed};
use fs_core::tree::page::Wanted;
use fs_core::tree::{Content, Entry, EntryKind};

use super::ExportError;
use crate::selection::{Selected, Selection};
use crate::what::Tops;

/// Plain bytes and records that are gathered before they are asked for.
const GATHERED_BYTES_MAX: u64 = 8 << 20;
const GATHERED_MAX: usize = 2048;
/// Groups that are on their way.
const ON_THE_WAY_MAX: usize = 4;
/// Of a large file the references to so many bytes are looked up at a time.
const LOOKED_UP: u64 = 256 << 20;

/// What the archive gets, in order.
#[derive(Debug)]
pub(super) enum Event {
    /// An entry begins.
    Entry {
        path: TreePath,
        entry: Arc<Entry>,
        /// The path in the archive that it is a hard link to.
        link: Option<TreePath>,
    },
    /// More of its content, or why there is no more.
    Data(Result<Bytes, String>),
    /// It ends.
    End,
    /// The tree cannot be read on.
    Damaged,
}

impl Event {
    /// The content that it brings, if it does.
    pub(super) fn data(&self) -> Option<&Result<Bytes, String>> {
        match self {
            Self::Data(data) => Some(data),
            Self::Entry { .. } | Self::End | Self::Damaged => None,
        }
    }
}

/// Events of which some wait for their records.
struct Group {
    /// `None` stands for the next record.
    events: Vec<Option<Event>>,
    record_count: usize,
    asked: Vec<(u64, Batch<Part>)>,
}

/// Which record of a group it is, and which bytes of it are wanted.
type Part = (usize, Range<usize>);

/// What has come for a batch of this number.
type Arrival = (u64, Sealed);

/// Walks and reads.
pub(super) struct Reading<'a> {
    repository: &'a Arc<Repository>,
    selection: Selection,
    has_links: bool,
    groups: Sender<Vec<Event>>,
    events: Vec<Option<Event>>,
    gathered: Vec<(Reference, Part)>,
    bytes: u64,
    on_the_way: VecDeque<Group>,
    arrived: HashMap<u64, Sealed>,
    arrive: Sender<Arrival>,
    arrivals: Receiver<Arrival>,
    asked_count: u64,
    first_of_group: HashMap<u64, TreePath>,
    findings: Vec<Finding>,
}

/// The bytes of a file that are no holes.
pub(super) fn data_length(entry: &Entry) -> u64 {
    entry.sparse.as_ref().map_or(entry.size, |extents| extents.iter().map(|extent| extent.length).sum())
}

impl<'a> Reading<'a> {
    pub(super) fn new(repository: &'a Arc<Repository>, selection: Selection, has_links: bool, groups: Sender<Vec<Event>>) -> Self {
        let (arrive, arrivals) = unbounded();
        Self {
            repository,
            selection,
            has_links,
            groups,
            events: Vec::new(),
            gathered: Vec::new(),
            bytes: 0,
            on_the_way: VecDeque::new(),
            arrived: HashMap::new(),
            arrive,
            arrivals,
            asked_count: 0,
            first_of_group: HashMap::new(),
            findings: Vec::new(),
        }
    }

    /// Gives everything on. The findings are directories that could not be listed.
    pub(super) fn all(mut self, tops: Tops) -> Result<Vec<Finding>, ExportError> {
        let walked = self.walk(tops).and_then(|()| self.flush(0));
        if let Err(error) = walked {
            // Nobody listens any more if the archive cannot be written; that is said there.
            let _ = self.groups.send(vec![Event::Damaged]);
            return Err(error);
        }
        Ok(self.findings)
    }

    fn walk(&mut self, tops: Tops) -> Result<(), ExportError> {
        for (_, entries) in tops.of_snapshots {
            self.first_of_group.clear();
            for top in entries {
                self.top(top, tops.is_named)?;
            }
        }
        Ok(())
    }

    fn top(&mut self, top: Entry, is_named: bool) -> Result<(), ExportError> {
        let (has_all, is_directory) = (self.selection.has_all(), top.subtree.is_some());
        let Some(name) = top.name.clone().filter(|_| is_named || !is_directory) else {
            return self.directory(TreePath::ROOT, Arc::new(top), has_all);
        };
        let selected = if is_named { self.selection.of(&TreePath::ROOT, &name, is_directory, has_all) } else { Selected::Yes };
        let path = TreePath::ROOT.join(name);
        match selected {
            Selected::No => Ok(()),
            selected if is_directory => self.directory(path, Arc::new(top), selected == Selected::Yes),
            _ => self.entry(path, Arc::new(top)),
        }
    }

    fn directory(&mut self, path: TreePath, top: Arc<Entry>, is_selected: bool) -> Result<(), ExportError> {
        let mut open = vec![(path, top, is_selected)];
        while let Some((path, directory, is_selected)) = open.pop() {
            if is_selected && directory.mtime.is_some() {
                self.entry(path.clone(), Arc::clone(&directory))?;
            }
            let Some(subtree) = &directory.subtree else { continue };
            let (mut index, first) = (0, open.len());
            loop {
                let found = match self.repository.find_entry(subtree, Wanted::Index(index)) {
                    Ok(Some(found)) => found,
                    Ok(None) => break,
                    Err(error) if error.is_damage() => {
                        self.findings.push(Finding::at(
                            Severity::Error,
                            path.clone(),
                            format!("its list of entries cannot be read: {error}"),
                        ));
                        break;
                    }
                    Err(error) => return Err(error.into()),
                };
                let mut next = Some(found);
                while let Some(found) = next {
                    (index, next) = (found.entry_index + 1, found.next_in_page());
                    let entry = found.entry();
                    let Some(name) = &entry.name else { continue };
                    let is_directory = entry.kind == EntryKind::Directory;
                    match self.selection.of(&path, name, is_directory, is_selected) {
                        Selected::No => {}
                        selected if is_directory => {
                            open.push((path.join(name.clone()), Arc::new(entry.clone()), selected == Selected::Yes))
                        }
                        _ => self.entry(path.join(name.clone()), Arc::new(entry.clone()))?,
                    }
                }
            }
            if let Some(below) = open.get_mut(first..) {
                below.reverse();
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: TreePath, entry: Arc<Entry>) -> Result<(), ExportError> {
        let mut link = None;
        if let Some(group) = entry.link_group.filter(|_| self.has_links) {
            link = self.first_of_group.get(&group).cloned();
            if link.is_none() {
                self.first_of_group.insert(group, path.clone());
            }
        }
        let has_content = entry.kind == EntryKind::File && link.is_none();
        // An entry comes with its first bytes: should those fail, nothing of it has been written.
        if has_content && self.bytes > 0 && self.bytes + data_length(&entry) > GATHERED_BYTES_MAX {
            self.flush(ON_THE_WAY_MAX)?;
        }
        self.events.push(Some(Event::Entry { path, entry: Arc::clone(&entry), link }));
        if has_content {
            self.content(&entry)?;
        }
        self.events.push(Some(Event::End));
        if self.events.len() >= GATHERED_MAX { self.flush(ON_THE_WAY_MAX) } else { Ok(()) }
    }

    fn content(&mut self, entry: &Entry) -> Result<(), ExportError> {
        match &entry.content {
            Content::Inline(references) => references.iter().try_for_each(|reference| self.record(*reference)),
            Content::Fragment { .. } => entry.fragment().map_or(Ok(()), |(reference, part)| self.part(reference, part)),
            content @ Content::List { .. } => {
                let length = data_length(entry);
                let reader = ContentReader::new(Arc::clone(self.repository), length, content.clone(), None);
                let mut at = 0;
                while at < length {
                    let end = at.saturating_add(LOOKED_UP).min(length);
                    match self.repository.answer(|held| reader.records(held, at..end)) {
                        Ok(records) => {
                            for reference in records {
                                at += u64::from(reference.plain_len);
                                self.record(reference)?;
                            }
                        }
                        Err(error) => {
                            self.events.push(Some(Event::Data(Err(error.to_string()))));
                            return Ok(());
                        }
                    }
                }
                Ok(())
            }
        }
    }

    fn record(&mut self, reference: Reference) -> Result<(), ExportError> {
        self.part(reference, 0..reference.plain_len as usize)
    }

    fn part(&mut self, reference: Reference, part: Range<usize>) -> Result<(), ExportError> {
        // Small files share records.
        let is_new = self.gathered.last().is_none_or(|(last, _)| last.id != reference.id);
        self.bytes += if is_new { reference.plain_len.into() } else { 0 };
        self.gathered.push((reference, (self.gathered.len(), part)));
        self.events.push(None);
        if self.bytes >= GATHERED_BYTES_MAX { self.flush(ON_THE_WAY_MAX) } else { Ok(()) }
    }

    /// Asks for what was gathered, and gives on what has come until only so many groups are on their way.
    fn flush(&mut self, keep: usize) -> Result<(), ExportError> {
        let (events, gathered) = (std::mem::take(&mut self.events), std::mem::take(&mut self.gathered));
        self.bytes = 0;
        let mut group = Group { events, record_count: gathered.len(), asked: Vec::new() };
        for batch in self.repository.batches(gathered) {
            self.asked_count += 1;
            let (number, arrive) = (self.asked_count, self.arrive.clone());
            if let Some(sealed) = self.repository.ask(&batch, move |sealed| drop(arrive.send((number, sealed)))) {
                self.arrived.insert(number, sealed);
            }
            group.asked.push((number, batch));
        }
        self.on_the_way.push_back(group);
        while self.on_the_way.len() > keep {
            let Some(group) = self.on_the_way.pop_front() else { break };
            self.give(group)?;
        }
        Ok(())
    }

    fn give(&mut self, group: Group) -> Result<(), ExportError> {
        let mut plain: Vec<Result<Bytes, String>> = vec![Err(String::new()); group.record_count];
        for (number, batch) in group.asked {
            let sealed = loop {
                if let Some(sealed) = self.arrived.remove(&number) {
                    break sealed;
                }
                // We hold a sender ourselves, so this ends only with an answer; each comes within its deadline.
                let Ok((other, sealed)) = self.arrivals.recv() else { return Err(ExportError::Cancelled) };
                self.arrived.insert(other, sealed);
            };
            self.repository.open_batch(batch, sealed, &mut |(at, part): Part, opened: Result<&Bytes, &ReadError>| {
                if let Some(place) = plain.get_mut(at) {
                    let of_it =
                        |plain: &Bytes| plain.get(part).map(|part| plain.slice_ref(part)).ok_or("its record is shorter than the file");
                    *place = opened.map_err(ToString::to_string).and_then(|plain| Ok(of_it(plain)?));
                }
            });
        }
        let mut plain = plain.into_iter();
        let events =
            group.events.into_iter().map(|event| event.unwrap_or_else(|| Event::Data(plain.next().unwrap_or_else(|| Err(String::new())))));
        // Whoever does not listen any more says why.
        self.groups.send(events.collect()).map_err(|_| ExportError::Cancelled)
    }
}
