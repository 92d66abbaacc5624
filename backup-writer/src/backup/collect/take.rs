//! What becomes of a file that was handed to the readers: its chunks go into packs, and its entry is finished.

use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;

use crossbeam_channel::{Receiver, Sender};
use fs_core::id::PackId;
use fs_core::object::ObjectError;
use fs_core::path::TreePath;
use fs_core::record::RecordKind;
use fs_core::report::{Finding, Severity};
use fs_core::tree::list::ListBuilder;
use fs_core::tree::page::Found;
use fs_core::tree::{Content, Entry, EntryKind, List};

use super::super::BackupError;
use super::super::ahead::Ahead;
use super::super::before::Seen;
use super::super::group::{Group, Groups, MemberResult};
use super::super::read::{FileJob, FileResult, Origin, PIECES_AHEAD, Piece, Read};
use super::{Collector, Ready};
use crate::packer::{PackError, Packer};
use crate::parent::{FileState, is_settled};
use crate::source::SourceError;

/// As large as a chunk may become.
const CHUNK_MAX: u64 = 1 << 20;

/// What is handed to the readers.
pub(in crate::backup) struct Jobs {
    pub files: Sender<FileJob>,
    pub groups: Groups,
    pub ahead: Ahead,
}

/// A file that was handed to the readers.
pub(super) struct Reading {
    pub entry: Entry,
    pub inode: Option<u64>,
    pub results: Results,
    pub was: Option<Found>,
    /// It stands in no file system as a file, or its times say nothing: no later run may take it for unchanged.
    pub is_made: bool,
}

/// Where the result of a reader comes.
pub(super) enum Results {
    /// Chunk by chunk.
    Pieces(Receiver<Piece>),
    /// With others.
    Group(Rc<Group>),
}

impl Reading {
    /// Bytes that may have been read of it and wait.
    pub(super) fn bytes_ahead(&self) -> u64 {
        self.entry.size.min(PIECES_AHEAD as u64 * CHUNK_MAX)
    }

    /// Whether its result can be taken without much waiting.
    pub(super) fn is_there(&self) -> bool {
        match &self.results {
            // A reader that waits for us must not, and the rest of a file of few chunks comes soon.
            Results::Pieces(pieces) => pieces.is_full() || self.entry.size <= CHUNK_MAX && !pieces.is_empty(),
            Results::Group(group) => group.is_there(),
        }
    }

    fn place(&self, folder: &TreePath) -> TreePath {
        self.entry.name.clone().map_or_else(|| folder.clone(), |name| folder.join(name))
    }
}

impl Collector<'_> {
    /// Takes what the readers made of a file; `None` if it could not be read.
    pub(super) fn take_file(&mut self, reading: Reading, path: &TreePath, groups: &mut Groups) -> Result<Option<Ready>, BackupError> {
        self.bytes_ahead -= reading.bytes_ahead();
        match &reading.results {
            Results::Pieces(pieces) => {
                let pieces = pieces.clone();
                self.take_pieces(reading, &pieces, path)
            }
            Results::Group(group) => {
                let group = Rc::clone(group);
                groups.want(&group);
                self.take_member(reading, (&group, groups), path)
            }
        }
    }

    /// Places the record of a group before its first file.
    fn take_member(
        &mut self,
        reading: Reading,
        (group, groups): (&Rc<Group>, &Groups),
        path: &TreePath,
    ) -> Result<Option<Ready>, BackupError> {
        let packer = &mut self.packer;
        let result = group.next(self.pulse, |record, parts| record.map_or(Ok(()), |record| packer.place_parts(record, parts).map(drop)))?;
        match result.ok_or(BackupError::Cancelled { kept_bytes: 0 })? {
            MemberResult::Aside(member) => self.take_pieces(reading, &groups.aside(member), path),
            MemberResult::Failed(error) => self.failed(&reading, path, &error),
            MemberResult::Read { size, file_hash, known, changed, attributes } => {
                self.progress.byte_count += size;
                self.stats.read_bytes += size;
                // What is as it was stays where it was.
                let was = reading.was.as_ref().map(Found::entry).filter(|was| was.file_hash == file_hash && was.size == size);
                let was = was.filter(|was| was.fragment().is_some_and(|(record, _)| self.shared.is_listed(&record.pack)));
                let content = match (file_hash, was.map(|was| was.content.clone()).or(known)) {
                    (None, _) => Content::EMPTY,
                    (Some(_), Some(content)) => content,
                    (Some(hash), None) => {
                        self.shared.fragment(&hash)?.ok_or(PackError::Key(ObjectError::Broken("a small file was not placed")))?
                    }
                };
                self.packer.rely_on(content.references().iter().map(|record| record.pack));
                let read = Read { size, sparse: None, file_hash, block_size: None, changed, said: String::new(), attributes };
                self.took(reading, (content, Vec::new()), read, path)
            }
        }
    }

    /// Places the chunks of a file as they come.
    fn take_pieces(&mut self, reading: Reading, results: &Receiver<Piece>, path: &TreePath) -> Result<Option<Ready>, BackupError> {
        let (mut chunk_packs, mut list_packs) = (HashSet::new(), Vec::new());
        let (mut list, packer) = (ListBuilder::default(), &mut self.packer);
        let mut put_list = |packer: &mut Packer, list: List| {
            let reference = packer.put(RecordKind::List, &list.encode());
            reference.inspect(|reference| list_packs.push(reference.pack))
        };
        while let Some(piece) = self.pulse.next(results)? {
            let result = match piece {
                Piece::Chunk(chunk) => {
                    let reference = packer.place(chunk.sealed(self.pulse)?)?;
                    self.progress.byte_count += u64::from(reference.plain_len);
                    self.stats.read_bytes += u64::from(reference.plain_len);
                    chunk_packs.insert(reference.pack);
                    list.push(reference, &mut |list| put_list(packer, list))?;
                    continue;
                }
                Piece::Waiting => continue,
                Piece::End(result) => result?,
            };
            match result {
                FileResult::Read(read) => {
                    let content = list.finish(&mut |list| put_list(packer, list))?;
                    let packs = match &content {
                        Content::Inline(_) | Content::Fragment { .. } => Vec::new(),
                        Content::List { .. } => sorted(chunk_packs.into_iter().chain(list_packs)),
                    };
                    return self.took(reading, (content, packs), read, path);
                }
                FileResult::Cut(error) => return Err(error.into()),
                FileResult::Failed(error) => return self.failed(&reading, path, &error),
            }
        }
        Err(BackupError::Cancelled { kept_bytes: 0 })
    }

    /// A file is saved: `packs` are those that hold its content beside those that it names itself.
    fn took(
        &mut self,
        reading: Reading,
        (content, packs): (Content, Vec<PackId>),
        read: Read,
        path: &TreePath,
    ) -> Result<Option<Ready>, BackupError> {
        let place = reading.place(path);
        let Reading { mut entry, inode, is_made, was, .. } = reading;
        (entry.content, entry.size, entry.sparse) = (content, read.size, read.sparse);
        (entry.file_hash, entry.block_size) = (read.file_hash, read.block_size);
        if !read.said.is_empty() {
            self.finding(Finding::at(Severity::Note, place.clone(), format!("its command said:\n{}", read.said)));
        }
        if read.changed {
            self.changes.failed(&mut self.packer, path, &entry, was.as_ref().map(Found::entry))?;
            let message = "it changed while it was read: this version may mix two states";
            self.finding(Finding::at(Severity::Warning, place.clone(), message));
        }
        if let Some(attributes) = read.attributes {
            if let Some(problem) = attributes.give(&mut entry) {
                self.finding(Finding::at(Severity::Warning, place, problem));
            }
            self.packer.put_values(&mut entry, was.as_ref().map(Found::entry).filter(|was| was.kind == EntryKind::File))?;
        }
        let is_kept = !read.changed && !is_made && is_settled(&entry, self.began);
        let seen = is_kept.then(|| Seen { state: FileState::of(&entry, inode, packs), kept_at: None });
        Ok(Some(Ready { entry, seen, was }))
    }

    fn failed(&mut self, reading: &Reading, path: &TreePath, error: &SourceError) -> Result<Option<Ready>, BackupError> {
        self.changes.lost(&mut self.packer, path, &reading.entry, reading.was.as_ref().map(Found::entry))?;
        self.finding(Finding::at(error.severity(), reading.place(path), error.to_string()));
        Ok(None)
    }
}

/// Hands a file to the readers.
pub(super) fn send(jobs: &Sender<FileJob>, origin: Origin, block_size: Option<u32>) -> Result<Receiver<Piece>, BackupError> {
    let (job, pieces) = FileJob::new(origin, block_size);
    jobs.send(job).map_err(|_| BackupError::Cancelled { kept_bytes: 0 })?;
    Ok(pieces)
}

fn sorted(packs: impl Iterator<Item = PackId>) -> Vec<PackId> {
    packs.collect::<BTreeSet<_>>().into_iter().collect()
}
