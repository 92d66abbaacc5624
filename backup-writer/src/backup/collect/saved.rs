//! What becomes of an entry of another repository: it is taken from the parent where that has it, or else handed to the readers.

use fs_core::id::PackId;
use fs_core::path::TreePath;
use fs_core::record::RecordKind;
use fs_core::report::{Finding, Severity};
use fs_core::tree::list::ListBuilder;
use fs_core::tree::page::Found;
use fs_core::tree::{Content, Entry, EntryKind, List, Stream, Value};

use super::super::BackupError;
use super::super::again::{Saved, SavedFile, Since, Trouble, bare};
use super::super::before::Seen;
use super::super::group::Member;
use super::super::read::{FileJob, Origin};
use super::take::{Jobs, Reading, Results, send};
use super::{Collector, Lead, Pending, Ready};
use crate::packer::PackError;
use crate::parent::{FileState, is_settled, is_unchanged};
use crate::source::SourceError;

/// Pages are checked for that when they are read.
const NAMELESS: &str = "an entry has no name";

impl Collector<'_> {
    /// Decides whether the content of an entry has to be read.
    pub(super) fn begin_saved(&mut self, mut saved: Saved, lead: &mut Lead, jobs: &mut Jobs) -> Result<Pending, BackupError> {
        let Some(name) = saved.file.entry.name.clone() else { return Err(PackError::Original { reason: NAMELESS.into() }.into()) };
        let was = self.before.entry(&mut lead.before, &name, &lead.path)?;
        let kind = saved.file.entry.kind;
        let before = was.as_ref().map(Found::entry).filter(|before| before.kind == kind);
        self.stats.other_count += u64::from(kind != EntryKind::File);
        if let Some((entry, packs)) = self.all_as_before(&saved, before)? {
            self.packer.rely_on(packs.iter().copied());
            let seen = (kind == EntryKind::File).then(|| Seen { state: FileState::of(&entry, None, packs), kept_at: None });
            return Ok(Pending::Ready(Box::new(Ready { entry, seen, was })));
        }
        let mut entry = match saved.carry() {
            Ok(entry) => entry,
            Err(Trouble::Unreachable(reason)) => return Err(PackError::Original { reason }.into()),
            Err(Trouble::Damaged(reason)) => {
                let results = Results::Pieces(FileJob::failed(SourceError::Damaged { reason }));
                return Ok(self.reading(Reading { entry: bare(&saved.file.entry), inode: None, results, is_made: true, was }));
            }
        };
        self.bring_streams(&mut entry, &saved.file, &lead.path)?;
        self.packer.put_values(&mut entry, before)?;
        if kind != EntryKind::File {
            return Ok(Pending::Ready(Box::new(Ready { entry, seen: None, was })));
        }
        if let Some((before, packs)) = self.content_as_before(&saved, before)? {
            (entry.content, entry.file_hash, entry.block_size) = (before.content.clone(), before.file_hash, before.block_size);
            let seen = Some(Seen { state: FileState::of(&entry, None, packs), kept_at: None });
            return Ok(Pending::Ready(Box::new(Ready { entry, seen, was })));
        }
        let config = self.shared.repository().config();
        let block_size = match before {
            Some(before) => before.block_size,
            None => config.block_size(entry.name_bytes(), entry.size),
        };
        let is_small = block_size.is_none() && entry.sparse.is_none() && entry.size <= config.chunks.small.into();
        let results = if is_small {
            Results::Group(jobs.groups.add(Member::Saved(saved.file), entry.size))
        } else {
            Results::Pieces(send(&jobs.files, Origin::Saved(saved.file), block_size)?)
        };
        Ok(self.reading(Reading { entry, inode: None, results, is_made: false, was }))
    }

    /// The entry of the parent, with all packs that hold what it refers to, if the parent is a copy of a snapshot that has the same entry.
    fn all_as_before(&self, saved: &Saved, before: Option<&Entry>) -> Result<Option<(Entry, Vec<PackId>)>, BackupError> {
        let Some(before) = before.filter(|_| saved.since == Since::Same) else { return Ok(None) };
        if bare(before) != bare(&saved.file.entry) {
            return Ok(None);
        }
        let mut packs = Vec::new();
        for content in before.side_contents().chain([&before.content]) {
            let Some(more) = self.packs_if_listed(content)? else { return Ok(None) };
            packs.extend(more);
        }
        Ok(Some((before.clone(), packs)))
    }

    /// The entry of the parent if it has the content of a file, and the packs that hold that. Where the originals cannot be compared, size and times tell, as in
    /// every backup: a file that was quiet before both runs began.
    fn content_as_before<'b>(&self, saved: &Saved, before: Option<&'b Entry>) -> Result<Option<(&'b Entry, Vec<PackId>)>, BackupError> {
        let now = &saved.file.entry;
        let looks_unchanged = |before: &Entry| match saved.since {
            Since::Same | Since::SameContent => true,
            Since::Changed => false,
            Since::Unknown => {
                let settled = |began| is_settled(now, began);
                is_unchanged(now, None, before, None)
                    && before.link_group == now.link_group
                    && settled(self.started)
                    && self.before.parent.is_some_and(|(_, began)| settled(began))
            }
        };
        let is_it = |before: &&Entry| (before.size, &before.sparse) == (now.size, &now.sparse) && looks_unchanged(before);
        let Some(before) = before.filter(is_it) else { return Ok(None) };
        Ok(self.packs_if_listed(&before.content)?.map(|packs| (before, packs)))
    }

    /// All packs that hold a content; `None` if one of them is not there, or its lists are damaged.
    fn packs_if_listed(&self, content: &Content) -> Result<Option<Vec<PackId>>, BackupError> {
        let mut packs = match self.shared.list_packs_of(content) {
            Ok(packs) => packs,
            Err(error) if error.is_damage() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        packs.extend(content.references().iter().map(|reference| reference.pack));
        Ok(packs.iter().all(|pack| self.shared.is_listed(pack)).then_some(packs))
    }

    /// Brings the alternate streams of an entry of a folder along. One that is damaged is left out.
    pub(super) fn bring_streams(&mut self, entry: &mut Entry, from: &SavedFile, folder: &TreePath) -> Result<(), BackupError> {
        entry.streams.clear();
        for stream in &from.entry.streams {
            let Value::Stored { size, content } = &stream.value else {
                entry.streams.push(stream.clone());
                continue;
            };
            let (mut list, mut length) = (ListBuilder::default(), 0);
            let mut damage = None;
            for bytes in from.stream(content, *size) {
                match bytes {
                    Ok(bytes) => {
                        let reference = self.packer.put(RecordKind::Data, &bytes)?;
                        length += bytes.len() as u64;
                        list.push(reference, &mut |list: List| self.packer.put(RecordKind::List, &list.encode()))?;
                    }
                    Err(Trouble::Unreachable(reason)) => return Err(PackError::Original { reason }.into()),
                    Err(Trouble::Damaged(reason)) => {
                        damage = Some(reason);
                        break;
                    }
                }
            }
            let damage = damage.or_else(|| (length != *size).then(|| "its records are not as long as the stream".to_owned()));
            if let Some(reason) = damage {
                let path = entry.name.clone().map_or_else(|| folder.clone(), |name| folder.join(name));
                let message = format!("an alternate stream is damaged in the repository that is copied, and left out: {reason}");
                self.finding(Finding::at(Severity::Warning, path, message));
                continue;
            }
            let content = list.finish(&mut |list: List| self.packer.put(RecordKind::List, &list.encode()))?;
            entry.streams.push(Stream { name: stream.name.clone(), value: Value::Stored { size: *size, content } });
        }
        Ok(())
    }
}
