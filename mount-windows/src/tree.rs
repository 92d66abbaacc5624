//! The view as Windows walks through it: by paths, whatever their case. Knows no WinFsp.
//!
//! All operations are futures that wait for nothing but answers of the view, so the same code serves callbacks that wait and those that do not.

use std::sync::Arc;

use fs_core::repository::Held;
use fs_core::tree::EntryKind;
use fs_core::view::attr::Attr;
use fs_core::view::error::ViewError;
use fs_core::view::inode::Inode;
use fs_core::view::layout::{DOTS, ROOT};
use fs_core::view::{Answer, Listed, View};

use crate::folded::{Folded, Folds};
use crate::tasks::ask;
use crate::{links, names, probes};

/// Lines that one question asks for.
const LINES_AT_ONCE: usize = 512;
/// Links that are followed on the way to what one leads to.
const FOLLOWED_MAX: usize = 16;

/// `\`
pub const SEPARATOR: u16 = b'\\' as u16;
/// `:`, before the name of an alternate stream. No shown name has one.
pub const STREAM_SEPARATOR: u16 = b':' as u16;

/// The view with what helps to find names in it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tree {
    view: Arc<View>,
    folds: Arc<Folds>,
}

/// An entry that was found.
#[derive(Clone, Debug)]
pub struct Place {
    /// What it is.
    pub attr: Attr,
    /// Its path as it is stored, beginning with a separator.
    pub path: Vec<u16>,
    /// Whether the path may come to mean something else.
    pub moves: bool,
    /// Whether Windows is to take it for a folder: directories, and links to such.
    pub is_folder: bool,
    /// Which of its alternate streams is meant; `None` for the entry itself.
    pub stream: Option<Box<AlternateStream>>,
}

/// An alternate stream of an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AlternateStream {
    /// The name that is shown.
    pub shown: Vec<u16>,
    /// Its name as it was saved.
    pub name: Vec<u8>,
    /// Length in bytes.
    pub size: u64,
}

/// What a path leads to.
#[derive(Clone, Debug)]
pub enum Found {
    /// An entry; also a link, if the path ends with it.
    Entry(Place),
    /// A link on the way, which is to be followed first.
    LinkOnTheWay,
    /// The folder is there, the name is not.
    NoName,
    /// The folder is not there, or no folder.
    NoPath,
}

/// A line of a folder.
#[derive(Clone, Debug)]
pub struct Line {
    /// The name that is shown.
    pub shown: Vec<u16>,
    /// What it is.
    pub attr: Attr,
    /// Whether the name may come to mean something else.
    pub moves: bool,
    /// Whether Windows is to take it for a folder.
    pub is_folder: bool,
    /// Where a listing goes on after it.
    pub next: u64,
}

impl Tree {
    /// Over a view.
    pub fn new(view: Arc<View>) -> Self {
        Self { view, folds: Arc::default() }
    }

    /// The view.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// To be told when the view shows other snapshots.
    pub fn changed(&self) {
        self.folds.changed();
    }

    /// What a path leads to; behind a colon the name of an alternate stream.
    ///
    /// # Errors
    /// Those of the view.
    pub async fn find(&self, path: &[u16]) -> Result<Found, ViewError> {
        let mut of_stream = path.splitn(2, |unit| *unit == STREAM_SEPARATOR);
        let (path, wanted) = (of_stream.next().unwrap_or_default(), of_stream.next());
        match (self.find_entry(path).await?, wanted) {
            (Found::Entry(place), Some(wanted)) => self.find_stream(place, wanted).await,
            (found, _) => Ok(found),
        }
    }

    async fn find_stream(&self, mut place: Place, wanted: &[u16]) -> Result<Found, ViewError> {
        if place.attr.kind == EntryKind::Symlink {
            // Those of what it leads to, as the system has it.
            let Some(end) = self.end_of(&place.path, &place.attr).await? else { return Ok(Found::NoName) };
            place.attr = end;
        }
        let wanted = names::case_key(wanted);
        let streams = self.streams(place.attr.inode).await?;
        let Some(stream) = streams.into_iter().find(|stream| names::case_key(&stream.shown) == wanted) else { return Ok(Found::NoName) };
        place.path.push(STREAM_SEPARATOR);
        place.path.extend(&stream.shown);
        (place.is_folder, place.stream) = (false, Some(Box::new(stream)));
        Ok(Found::Entry(place))
    }

    /// The alternate streams of an entry.
    ///
    /// # Errors
    /// Those of the view.
    pub async fn streams(&self, inode: u64) -> Result<Vec<AlternateStream>, ViewError> {
        let streams = ask(&self.view, move |view, held| view.streams(held, inode)).await?;
        let shown = |(name, size): (Vec<u8>, u64)| AlternateStream { shown: names::present(&name), name, size };
        Ok(streams.into_iter().map(shown).collect())
    }

    async fn find_entry(&self, path: &[u16]) -> Result<Found, ViewError> {
        let parts: Vec<&[u16]> = path.split(|unit| *unit == SEPARATOR).filter(|part| !part.is_empty()).collect();
        let root = ask(&self.view, |view, held| view.getattr(held, ROOT)).await?;
        let mut place = Place { attr: root, path: Vec::new(), moves: true, is_folder: true, stream: None };
        for (at, part) in parts.iter().enumerate() {
            match place.attr.kind {
                EntryKind::Directory => {}
                EntryKind::Symlink => return Ok(Found::LinkOnTheWay),
                _ => return Ok(Found::NoPath),
            }
            let is_last = at + 1 == parts.len();
            let Some(line) = self.step(place.attr.inode, part).await? else {
                return Ok(if is_last { Found::NoName } else { Found::NoPath });
            };
            place.path.push(SEPARATOR);
            place.path.extend(&line.shown);
            let is_folder = line.attr.kind == EntryKind::Directory;
            place = Place { attr: line.attr, path: place.path, moves: line.moves, is_folder, stream: None };
        }
        if place.path.is_empty() {
            place.path.push(SEPARATOR);
        }
        if place.attr.kind == EntryKind::Symlink {
            place.is_folder = self.leads_to_folder(&place.path, &place.attr).await;
        }
        Ok(Found::Entry(place))
    }

    /// The line of a folder that has a name, whatever its case.
    ///
    /// # Errors
    /// Those of the view.
    pub async fn step(&self, folder: u64, wanted: &[u16]) -> Result<Option<Line>, ViewError> {
        let Some(name) = names::unescaped(wanted) else { return Ok(None) };
        if let Some(spellings) = probes::spellings(&name)
            && self.folds.get(folder).is_none()
            && !self.has_one_of(folder, spellings).await?
        {
            return Ok(None);
        }
        let wanted = names::case_key(wanted);
        let same = self.same_names(folder, &names::key(&name)).await?;
        let Some(leader) = same.first() else { return Ok(None) };
        for name in &same {
            let shown = if name == leader { names::present(name) } else { names::twin(leader, name) };
            if names::case_key(&shown) == wanted {
                let asked = name.clone();
                let found = ask(&self.view, move |view, held| view.lookup(held, folder, &asked)).await;
                return match found {
                    Ok((attr, moves)) => Ok(Some(Line { shown, attr, moves, is_folder: attr.kind == EntryKind::Directory, next: 0 })),
                    Err(ViewError::NotFound) => Ok(None),
                    Err(error) => Err(error),
                };
            }
        }
        Ok(None)
    }

    /// Lines of a folder from `from` on, at most `most` and about as many as one question brings, with the names that are shown. Nothing means that there are no more.
    /// `path` is that of the folder.
    ///
    /// # Errors
    /// Those of the view.
    pub async fn lines(&self, folder: u64, path: &[u16], from: u64, most: usize) -> Result<Vec<Line>, ViewError> {
        let folded = self.folded(folder).await?;
        let mut lines = Vec::new();
        for listed in self.listed(folder, from, most.min(LINES_AT_ONCE)).await? {
            if matches!(&*listed.name, b"." | b"..") {
                let shown = listed.name.iter().copied().map(u16::from).collect();
                lines.push(Line { shown, attr: listed.attr, moves: listed.moves, is_folder: true, next: listed.next });
                continue;
            }
            let mut shown = names::present(&listed.name);
            let key = names::case_key(&shown);
            if folded.find(&key).len() > 1 {
                let same = self.same_names(folder, &key).await?;
                if let Some(leader) = same.first().filter(|leader| **leader != listed.name) {
                    shown = names::twin(leader, &listed.name);
                }
            }
            let mut is_folder = listed.attr.kind == EntryKind::Directory;
            if listed.attr.kind == EntryKind::Symlink {
                let separator: &[u16] = if path.ends_with(&[SEPARATOR]) { &[] } else { &[SEPARATOR] };
                is_folder = self.leads_to_folder(&[path, separator, &shown].concat(), &listed.attr).await;
            }
            lines.push(Line { shown, attr: listed.attr, moves: listed.moves, is_folder, next: listed.next });
        }
        Ok(lines)
    }

    /// The target of the link at a path, as Windows writes it: with the names that are shown, so that it leads to what it led to also where names
    /// differ in case only. Behind another link on its way names are shown as they are when they stand alone.
    ///
    /// # Errors
    /// Those of the view.
    pub async fn target(&self, path: &[u16], inode: u64) -> Result<Vec<u16>, ViewError> {
        let saved = ask(&self.view, move |view, held| view.readlink(held, inode)).await?;
        let mut folders = self.folders_above(path).await?;
        let mut shown = Vec::new();
        for part in saved.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")) {
            if part == b".." {
                shown.push(vec![u16::from(b'.'); 2]);
                folders.pop();
                continue;
            }
            let (name, below) = match folders.last().copied().flatten() {
                Some(folder) => self.exact(folder, part).await?,
                None => (names::present(part), None),
            };
            shown.push(name);
            folders.push(below);
        }
        Ok(links::joined(&shown))
    }

    /// The folders on the way to an entry, from the root; `None` for what is none.
    async fn folders_above(&self, path: &[u16]) -> Result<Vec<Option<u64>>, ViewError> {
        let (mut folders, mut folder) = (vec![Some(ROOT)], Some(ROOT));
        let parts = parts(path);
        for part in parts.iter().take(parts.len().saturating_sub(1)) {
            let line = match folder {
                Some(number) => self.step(number, part).await?,
                None => None,
            };
            folder = line.filter(|line| line.attr.kind == EntryKind::Directory).map(|line| line.attr.inode);
            folders.push(folder);
        }
        Ok(folders)
    }

    /// How a name of a folder is shown, by its bytes; and its number, if it is a folder.
    async fn exact(&self, folder: u64, name: &[u8]) -> Result<(Vec<u16>, Option<u64>), ViewError> {
        let same = self.same_names(folder, &names::key(name)).await?;
        let asked = name.to_vec();
        let found = match ask(&self.view, move |view, held| view.lookup(held, folder, &asked)).await {
            Ok((attr, _)) => (attr.kind == EntryKind::Directory).then_some(attr.inode),
            Err(ViewError::NotFound) => None,
            Err(error) => return Err(error),
        };
        let shown = match same.first() {
            Some(leader) if leader != name => names::twin(leader, name),
            _ => names::present(name),
        };
        Ok((shown, found))
    }

    /// Whether a link leads to a directory: Windows wants to know that of the link itself. One that leads nowhere leads to a file.
    async fn leads_to_folder(&self, path: &[u16], link: &Attr) -> bool {
        if Inode::from_number(link.inode).is_made_up() {
            return true;
        }
        let end = self.end_of(path, link).await;
        end.is_ok_and(|end| end.is_some_and(|end| end.kind == EntryKind::Directory))
    }

    /// What the link at a path leads to in the end, if to anything.
    async fn end_of(&self, path: &[u16], link: &Attr) -> Result<Option<Attr>, ViewError> {
        let target = self.target(path, link.inode).await?;
        let mut path: Vec<Vec<u16>> = parts(path);
        path.pop();
        apply(&mut path, &target);
        self.follow(path).await
    }

    /// What is at a path, links followed.
    async fn follow(&self, mut path: Vec<Vec<u16>>) -> Result<Option<Attr>, ViewError> {
        let root = ask(&self.view, |view, held| view.getattr(held, ROOT)).await?;
        let (mut at, mut attr, mut links_left) = (0, root, FOLLOWED_MAX);
        while let Some(part) = path.get(at) {
            if attr.kind != EntryKind::Directory {
                return Ok(None);
            }
            let Some(line) = self.step(attr.inode, part).await? else { return Ok(None) };
            at += 1;
            attr = line.attr;
            if attr.kind == EntryKind::Symlink {
                let Some(left) = links_left.checked_sub(1) else { return Ok(None) };
                links_left = left;
                let rest = path.split_off(at);
                let target = self.target(&path.join(&SEPARATOR), attr.inode).await?;
                path.pop();
                apply(&mut path, &target);
                path.extend(rest);
                (at, attr) = (0, root);
            }
        }
        Ok(Some(attr))
    }

    async fn has_one_of(&self, folder: u64, spellings: &'static [&'static str]) -> Result<bool, ViewError> {
        for name in spellings {
            match ask(&self.view, move |view, held| view.lookup(held, folder, name.as_bytes())).await {
                Ok(_) => return Ok(true),
                Err(ViewError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// All names of a folder with this key, sorted.
    async fn same_names(&self, folder: u64, key: &[u16]) -> Result<Vec<Vec<u8>>, ViewError> {
        let folded = self.folded(folder).await?;
        let mut same = Vec::new();
        for at in folded.find(key) {
            let found = ask(&self.view, move |view, held| first_line(view, held, folder, at)).await?;
            same.extend(found.map(|line| line.name).filter(|name| names::key(name) == key));
        }
        same.sort_unstable();
        same.dedup();
        Ok(same)
    }

    /// Where the lines of a folder are, read once.
    async fn folded(&self, folder: u64) -> Result<Arc<Folded>, ViewError> {
        if let Some(folded) = self.folds.get(folder) {
            return Ok(folded);
        }
        let round = self.folds.round();
        let (mut folded, mut at) = (Folded::default(), DOTS);
        loop {
            let lines = self.listed(folder, at, LINES_AT_ONCE).await?;
            if lines.is_empty() {
                break;
            }
            for line in lines {
                folded.add(&names::key(&line.name), at);
                at = line.next;
            }
        }
        let folded = Arc::new(folded.finish());
        self.folds.put(folder, round, Arc::clone(&folded));
        Ok(folded)
    }

    async fn listed(&self, folder: u64, from: u64, most: usize) -> Result<Vec<Listed>, ViewError> {
        ask(&self.view, move |view, held| {
            let mut lines = Vec::new();
            view.readdir(held, folder, from, &mut |line| {
                lines.push(line);
                lines.len() < most
            })?;
            Ok(lines)
        })
        .await
    }
}

fn first_line(view: &View, held: &Held, folder: u64, at: u64) -> Answer<Option<Listed>> {
    let mut first = None;
    view.readdir(held, folder, at, &mut |line| {
        first = Some(line);
        false
    })?;
    Ok(first)
}

fn parts(path: &[u16]) -> Vec<Vec<u16>> {
    path.split(|unit| *unit == SEPARATOR).filter(|part| !part.is_empty()).map(<[u16]>::to_vec).collect()
}

/// Goes from a folder to a relative target.
fn apply(folder: &mut Vec<Vec<u16>>, target: &[u16]) {
    const DOT: u16 = b'.' as u16;
    for part in parts(target) {
        match &*part {
            [DOT] => {}
            [DOT, DOT] => drop(folder.pop()),
            _ => folder.push(part),
        }
    }
}
