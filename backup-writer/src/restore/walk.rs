//! The walk: directory by directory, in each one the small files before the large ones, then what is below, as they lie in the packs.

use std::sync::Arc;
use std::thread;

use crossbeam_channel::bounded;
use fs_core::path::Name;
use fs_core::reader::ContentReader;
use fs_core::record::Reference;
use fs_core::report::{Severity, chain};
use fs_core::tree::page;
use fs_core::tree::{Content, Entry, EntryKind, Subtree};

use super::decide::is_there;
use super::feed::{BATCHES_AHEAD, Feed, Job};
use super::file::{Line, Piece, Target, data_length};
use super::folder::Folder;
use super::{Overwrite, RestoreError, Run};
use crate::selection::Selected;

/// Larger files come after the others of their directory.
const SMALL: u64 = 64 << 10;
/// Of a large file the references to so many bytes are looked up at a time.
const LOOKED_UP: u64 = 256 << 20;

/// What the target gets of a snapshot.
pub(super) enum Wanted {
    /// The contents of a directory, or something else under its name.
    Whole(Box<Entry>),
    /// Each of these under its name.
    Named(Vec<Entry>),
}

/// A directory that is to be walked.
struct Below {
    folder: Arc<Folder>,
    subtree: Subtree,
}

impl Run<'_> {
    pub(super) fn all(&self, wanted: Wanted, top: Arc<Folder>) -> Result<(), RestoreError> {
        let (send, batches) = bounded::<Job>(BATCHES_AHEAD);
        let worker_count = crate::worker_count();
        let walked = thread::scope(|scope| {
            for _ in 0..worker_count {
                let batches = batches.clone();
                scope.spawn(move || self.serve(&batches));
            }
            drop(batches);
            let mut feed = Feed::new(self, send);
            self.walk(wanted, top, &mut feed).and_then(|()| feed.flush())
        });
        if self.is_over() { Err(RestoreError::Cancelled) } else { walked }
    }

    fn walk(&self, wanted: Wanted, top: Arc<Folder>, feed: &mut Feed<'_>) -> Result<(), RestoreError> {
        let mut open = Vec::new();
        match wanted {
            Wanted::Whole(entry) => match entry.subtree.clone() {
                Some(subtree) => {
                    self.count(|report| report.directory_count += 1);
                    open.push(Below { folder: top, subtree });
                }
                None => {
                    let placed = self.place(&top, Line::Alone(Arc::new(*entry)), feed);
                    self.release(top);
                    return placed;
                }
            },
            Wanted::Named(entries) => {
                let mut large = Vec::new();
                for entry in entries {
                    self.line(&top, Line::Alone(Arc::new(entry)), feed, (&mut large, &mut open))?;
                }
                large.into_iter().try_for_each(|line| self.place(&top, line, feed))?;
                open.reverse();
                self.release(top);
            }
        }
        while let Some(Below { folder, subtree }) = open.pop() {
            if self.is_over() {
                return Err(RestoreError::Cancelled);
            }
            feed.make_room()?;
            self.observer.at(&folder.path);
            if folder.is_selected
                && let Err(error) = self.open(&folder)
            {
                self.finding(Severity::Error, &folder.path, format!("the directory cannot be made: {error}"));
                self.release(folder);
                continue;
            }
            let first = open.len();
            let listed = self.list(&folder, &subtree, feed, &mut open);
            // The last one is walked first.
            if let Some(below) = open.get_mut(first..) {
                below.reverse();
            }
            match listed {
                Ok(()) => {}
                Err(RestoreError::Read(error)) => {
                    self.note_failure(&error);
                    self.finding(Severity::Error, &folder.path, format!("its list of entries cannot be read: {}", chain(&error)));
                }
                Err(error) => return Err(error),
            }
            self.release(folder);
        }
        Ok(())
    }

    /// Places what is in a directory, page by page, and notes what is to be walked.
    fn list(&self, folder: &Arc<Folder>, subtree: &Subtree, feed: &mut Feed<'_>, open: &mut Vec<Below>) -> Result<(), RestoreError> {
        let (mut index, mut large) = (0, Vec::new());
        while let Some(found) = self.repository.find_entry(subtree, page::Wanted::Index(index))? {
            let mut next = Some(found);
            while let Some(found) = next {
                index = found.entry_index + 1;
                next = found.next_in_page();
                self.line(folder, Line::InPage(found), feed, (&mut large, open))?;
            }
            large.drain(..).try_for_each(|line| self.place(folder, line, feed))?;
        }
        Ok(())
    }

    /// Places an entry of a directory, or notes it for later: a large file, something to walk.
    fn line(
        &self,
        folder: &Arc<Folder>,
        line: Line,
        feed: &mut Feed<'_>,
        (large, open): (&mut Vec<Line>, &mut Vec<Below>),
    ) -> Result<(), RestoreError> {
        let mut selected = self.selected(folder, &line);
        if selected != Selected::No
            && let Some(name) = line.name.as_ref().filter(|name| !folder.takes(name))
        {
            let reason =
                "its name differs only in case from that of another entry here, and this system takes both for one: restore it by itself";
            self.finding(Severity::Error, &folder.path.join(name.clone()), reason);
            selected = Selected::No;
        }
        match (&line.subtree, &line.name, selected) {
            (_, _, Selected::No) => {}
            (Some(subtree), Some(name), _) => {
                let below = folder.below(name.clone(), (*line).clone(), selected == Selected::Yes);
                open.push(Below { folder: below, subtree: subtree.clone() });
            }
            (Some(_), None, _) => {}
            (None, ..) if line.size > SMALL => large.push(line),
            (None, ..) => self.place(folder, line, feed)?,
        }
        Ok(())
    }

    fn selected(&self, folder: &Folder, entry: &Entry) -> Selected {
        let inherits = folder.is_selected || folder.is_top() && self.selection.has_all();
        let is_directory = entry.kind == EntryKind::Directory;
        entry.name.as_ref().map_or(Selected::No, |name| self.selection.of(&folder.path, name, is_directory, inherits))
    }

    /// Decides what happens to an entry that is no directory, and does it, or has it done.
    fn place(&self, folder: &Arc<Folder>, line: Line, feed: &mut Feed<'_>) -> Result<(), RestoreError> {
        let Some(name) = line.name.clone() else { return Ok(()) };
        if self.is_link(folder, &line) {
            return Ok(());
        }
        feed.make_room()?;
        let decided = self.open(folder).map_err(|error| error.to_string()).and_then(|opened| self.decide(opened, &name, &line));
        match decided {
            Ok(None) => {
                self.count(|report| report.kept_count += 1);
                if let Some(group) = line.link_group {
                    // Something of somebody else's may have been kept: the saved file comes under its next name.
                    match self.kept_as(folder, &name, &line) {
                        Some(kept) => self.group_done(group, Some((folder.path.clone(), kept))),
                        None => self.group_forgotten(group),
                    }
                }
                self.passed(1, line.size);
            }
            Ok(Some(decision)) if line.kind == EntryKind::File => return self.file(Target::new(self, folder, line, decision), feed),
            Ok(Some(decision)) => self.node(folder, &line, &name, decision),
            Err(reason) => {
                self.finding(Severity::Error, &folder.path.join(name), reason);
                if let Some(group) = line.link_group {
                    self.group_forgotten(group);
                }
            }
        }
        Ok(())
    }

    /// Under which name the saved file stands that was left as it is; `None` if something else does.
    fn kept_as(&self, folder: &Arc<Folder>, name: &Name, line: &Line) -> Option<Name> {
        let opened = self.open(folder).ok()?;
        let beside = (self.options.overwrite == Overwrite::KeepBoth).then(|| self.name_beside(name)).flatten();
        [Some(name.clone()), beside].into_iter().flatten().find(|name| is_there(opened, name, line))
    }

    /// Sends the records of a file on their way, those left out that it has already.
    fn file(&self, target: Arc<Target>, feed: &mut Feed<'_>) -> Result<(), RestoreError> {
        if !self.options.dry_run
            && let Err(error) = self.records(&target, feed)
        {
            match error {
                RestoreError::Read(error) => {
                    self.note_failure(&error);
                    target.fail(chain(&error));
                }
                error => return Err(error),
            }
        }
        self.done(target);
        Ok(())
    }

    fn records(&self, target: &Arc<Target>, feed: &mut Feed<'_>) -> Result<(), RestoreError> {
        let mut start = 0;
        let mut send = |reference: Reference| {
            let at = start;
            start += u64::from(reference.plain_len);
            if target.has(self, &reference, at) {
                Ok(())
            } else {
                feed.push(reference, Piece { target: Arc::clone(target), start: at, part: None })
            }
        };
        match &target.line.content {
            Content::Inline(references) => references.iter().copied().try_for_each(send),
            Content::Fragment { .. } if target.has_all(self) => Ok(()),
            Content::Fragment { .. } => {
                let piece = |part| Piece { target: Arc::clone(target), start: 0, part: Some(part) };
                target.line.fragment().map_or(Ok(()), |(reference, part)| feed.push(reference, piece(part)))
            }
            content @ Content::List { .. } => {
                let length = data_length(&target.line);
                let reader = ContentReader::new(Arc::clone(self.repository), length, content.clone(), None);
                let mut at = 0;
                while at < length {
                    let end = at.saturating_add(LOOKED_UP).min(length);
                    let records = self.repository.answer(|held| reader.records(held, at..end))?;
                    for reference in records {
                        at += u64::from(reference.plain_len);
                        send(reference)?;
                    }
                    if self.is_over() {
                        return Err(RestoreError::Cancelled);
                    }
                }
                Ok(())
            }
        }
    }
}
