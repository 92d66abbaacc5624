//! The virtual file system over all snapshots: what a mount shows, in our own types. The adapters only translate.
//!
//! Numbers of entries are computed and not stored: 20 bits for the snapshot's slot, 44 bits for the entry's position in it. Slot 0 holds what
//! the view makes up. Every operation answers from memory or says which records it misses; [`View::ask`] asks again when they have come, so that an adapter
//! never blocks the kernel's thread.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use lru::LruCache;

use crate::id::SnapshotId;
use crate::path::Name;
use crate::prefetch::Runs;
use crate::record::Reference;
use crate::repository::{Held, Pause, ReadError, Repository, RepositoryError};
use crate::time::{Timestamp, Zone};
use crate::tree::page::{self, Found, Wanted};
use crate::tree::{Entry, EntryKind, Page, ROOT_POSITION};

mod ahead;
pub mod answer;
pub mod attr;
pub mod by_time;
mod content;
pub mod error;
pub mod handle;
pub mod inode;
pub mod layout;
pub mod link;
mod status;

pub use ahead::PageCache;
pub use answer::{Answer, Listed, Stop};
use attr::Attr;
use error::ViewError;
use handle::Handle;
use inode::{Inode, SlotTable};
use layout::{Children, DOTS, Folder, STATUS_NAME, Virtual, VirtualKind};

/// Entries whose place in the tree is remembered.
const NODES_KEPT: usize = 1 << 14;
/// Snapshots whose manifests stay decoded.
const TOPS_KEPT: usize = 64;
/// Directories in which entries were found last: what is asked next is most often beside what was asked before.
const RECENT: usize = 16;
/// Files whose readers are kept.
const HANDLES_KEPT: usize = 1 << 10;

/// Whom the entries belong to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// As saved.
    AsSaved,
    /// Everything belongs to this user and is readable by it.
    Me {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// Where the symbolic links of snapshots lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Links {
    /// As saved: absolute ones lead to the live system.
    Raw,
    /// Into the snapshot: [`link::inside`]. Hard links of one symbolic link then have numbers of their own, as what they say depends on their place.
    Inside,
}

/// How to show a repository.
#[derive(Clone, Debug)]
pub struct ViewOptions {
    /// Whom the entries belong to.
    pub owner: Owner,
    /// Where symbolic links lead.
    pub links: Links,
    /// User and group of what the view makes up.
    pub mounter: (u32, u32),
    /// The time zone of folder names.
    pub zone: Zone,
}

/// What is looked at of a manifest again and again while its snapshot is.
#[derive(Debug)]
struct Top {
    root: Arc<Entry>,
    started: Timestamp,
    link_table: Vec<(u64, Reference)>,
}

/// An entry of a snapshot, found.
#[derive(Clone, Debug)]
struct Node {
    inode: Inode,
    parent: u64,
    /// Directories above it in the snapshot.
    depth: usize,
    entry: Arc<Entry>,
    top: Arc<Top>,
}

/// An entry in its place, for as long as it is looked at.
#[derive(Clone, Copy)]
struct Line<'a> {
    inode: Inode,
    depth: usize,
    entry: &'a Entry,
    top: &'a Top,
}

impl Node {
    fn line(&self) -> Line<'_> {
        Line { inode: self.inode, depth: self.depth, entry: &self.entry, top: &self.top }
    }
}

/// All snapshots of a repository as one tree. Shared between threads.
#[derive(Debug)]
pub struct View {
    repository: Arc<Repository>,
    options: ViewOptions,
    slots: Mutex<SlotTable>,
    tree: RwLock<Arc<Virtual>>,
    tops: Mutex<LruCache<u32, Arc<Top>>>,
    nodes: Mutex<LruCache<u64, Node>>,
    recent: Mutex<VecDeque<Node>>,
    handles: Mutex<LruCache<u64, Arc<Handle>>>,
    runs: Mutex<Runs>,
    statuses: Mutex<LruCache<u64, Bytes>>,
    page_cache: OnceLock<Arc<dyn PageCache>>,
}

impl View {
    /// A view of the repository as it is now. `state` is the repository's local folder, where slots are kept so that numbers stay the same after a
    /// remount; without one they last as long as the view.
    ///
    /// # Errors
    /// [`RepositoryError`] if the snapshots cannot be listed.
    pub fn new(repository: Arc<Repository>, state: Option<&Path>, options: ViewOptions) -> Result<Self, RepositoryError> {
        let kept = |count| NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
        let view = Self {
            repository,
            options,
            slots: Mutex::new(SlotTable::open(state)),
            tree: RwLock::default(),
            tops: Mutex::new(LruCache::new(kept(TOPS_KEPT))),
            nodes: Mutex::new(LruCache::new(kept(NODES_KEPT))),
            recent: Mutex::default(),
            handles: Mutex::new(LruCache::new(kept(HANDLES_KEPT))),
            runs: Mutex::default(),
            statuses: Mutex::new(LruCache::new(kept(status::KEPT))),
            page_cache: OnceLock::new(),
        };
        view.refresh()?;
        Ok(view)
    }

    /// The repository.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// Looks for new snapshots. Says which folders of the view changed.
    ///
    /// # Errors
    /// [`RepositoryError`]; the view then stays as it was.
    pub fn refresh(&self) -> Result<Vec<u64>, RepositoryError> {
        let snapshots = self.repository.snapshots()?;
        let mut slots = lock(&self.slots);
        let before = self.tree();
        if before.is_made() && before.is_of(&snapshots) {
            return Ok(Vec::new());
        }
        let now = self.repository.clock().now();
        let location = self.repository.store().location();
        slots.give(snapshots.iter().map(|snapshot| &snapshot.id));
        let mut fresh = layout::build(snapshots, &self.options.zone, &mut |id| slots.slot(id), &location, now);
        let changed = fresh.changed_since(&before);
        fresh.keep_former(&before);
        *self.tree.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        Ok(changed)
    }

    /// Asks a question: `done` gets the answer, at once if memory has it, else on a thread of the repository when what is missing has come. Never waits.
    pub fn ask<T: 'static>(
        self: &Arc<Self>,
        question: impl Fn(&Self, &Held) -> Answer<T> + Send + 'static,
        done: impl FnOnce(Result<T, ViewError>) + Send + 'static,
    ) {
        Self::ask_again(Arc::clone(self), Held::default(), question, done);
    }

    fn ask_again<T: 'static>(
        view: Arc<Self>,
        held: Held,
        question: impl Fn(&Self, &Held) -> Answer<T> + Send + 'static,
        done: impl FnOnce(Result<T, ViewError>) + Send + 'static,
    ) {
        match question(&view, &held) {
            Ok(answer) => done(Ok(answer)),
            Err(Stop::Failed(error)) => done(Err(error)),
            Err(Stop::Missing(wants)) => {
                let repository = Arc::clone(&view.repository);
                repository.fetch(&wants, held, move |arrived| match arrived {
                    Ok(held) => Self::ask_again(view, held, question, done),
                    Err(error) => done(Err(error.into())),
                });
            }
        }
    }

    /// The same for a caller who waits for the answer.
    ///
    /// # Errors
    /// Those of the question.
    pub fn wait<T>(&self, mut question: impl FnMut(&Self, &Held) -> Answer<T>) -> Result<T, ViewError> {
        let answer = self.repository.answer(|held| match question(self, held) {
            Ok(answer) => Ok(Ok(answer)),
            Err(Stop::Missing(wants)) => Err(Pause::Missing(wants)),
            Err(Stop::Failed(error)) => Ok(Err(error)),
        });
        answer?
    }

    /// Whether a number still means something: its snapshot may have been forgotten, or what the view makes up may have changed.
    ///
    /// # Errors
    /// [`ViewError::Stale`].
    pub fn check(&self, inode: u64) -> Result<(), ViewError> {
        let tree = self.tree();
        let known =
            tree.get(inode).is_some() || self.status_text(inode).is_some() || tree.snapshot(Inode::from_number(inode).slot).is_some();
        known.then_some(()).ok_or(ViewError::Stale)
    }

    /// Finds a name in a directory, and whether it may come to mean something else. `.` is the entry itself, whatever it is, and `..` its directory: those
    /// who export the drive come back with a number that we have forgotten.
    ///
    /// # Errors
    /// [`Stop`], like all operations.
    pub fn lookup(&self, held: &Held, parent: u64, name: &[u8]) -> Answer<(Attr, bool)> {
        let tree = self.tree();
        if name == b"." {
            return Ok((self.attr_in(&tree, held, parent)?, tree.get(parent).is_some()));
        }
        if let Some(made_up) = tree.get(parent) {
            let VirtualKind::Folder(folder) = &made_up.kind else { return Err(ViewError::NotDirectory.into()) };
            let child = match name {
                b".." => Some(made_up.parent),
                STATUS_NAME if parent == tree.about.folder => Some(self.new_status(&tree)),
                name => tree.child(parent, folder, name),
            };
            // Also the folder of a snapshot moves: when it is sealed or forgotten.
            return Ok((self.attr_in(&tree, held, child.ok_or(ViewError::NotFound)?)?, true));
        }
        let node = self.node(&tree, held, parent)?;
        if node.entry.subtree.is_none() {
            return Err(ViewError::NotDirectory.into());
        }
        if name == b".." {
            return Ok((self.attr_in(&tree, held, node.parent)?, tree.get(node.parent).is_some()));
        }
        let found = self.find(held, &node, Wanted::Name(name))?.ok_or(ViewError::NotFound)?;
        Ok((self.attr_of_child(held, &node, &found)?, false))
    }

    /// What `stat` tells.
    ///
    /// # Errors
    /// [`Stop`].
    pub fn getattr(&self, held: &Held, inode: u64) -> Answer<Attr> {
        self.attr_in(&self.tree(), held, inode)
    }

    /// Lines of a directory from `offset` on, as many as `more` takes: it returns whether it has room for another.
    ///
    /// # Errors
    /// [`Stop`]. Missing records and failures come before the first line or not at all: what follows is given at the next call.
    pub fn readdir(&self, held: &Held, inode: u64, offset: u64, more: &mut dyn FnMut(Listed) -> bool) -> Answer<()> {
        let tree = self.tree();
        if let Some(made_up) = tree.get(inode) {
            let VirtualKind::Folder(folder) = &made_up.kind else { return Err(ViewError::NotDirectory.into()) };
            return self.read_virtual((&tree, held), (inode, made_up.parent), folder, offset, more);
        }
        let node = self.node(&tree, held, inode)?;
        if node.entry.subtree.is_none() {
            return Err(ViewError::NotDirectory.into());
        }
        for (number, name, inode) in [(0, &b"."[..], inode), (1, b"..", node.parent)] {
            if offset <= number {
                let attr = self.attr_in(&tree, held, inode)?;
                if !more(Listed { name: name.to_vec(), attr, next: number + 1, moves: false }) {
                    return Ok(());
                }
            }
        }
        let mut next = self.find(held, &node, Wanted::Index(offset.saturating_sub(DOTS)))?;
        let mut given = offset < DOTS;
        while let Some(found) = next {
            let attr = match self.attr_of_child(held, &node, &found) {
                Ok(attr) => attr,
                Err(_) if given => return Ok(()),
                Err(stop) => return Err(stop),
            };
            let line = Listed { name: found.entry().name_bytes().to_vec(), attr, next: DOTS + found.entry_index + 1, moves: false };
            if !more(line) {
                return Ok(());
            }
            given = true;
            next = match found.next_in_page() {
                Some(found) => Some(found),
                None => match self.find(held, &node, Wanted::Index(found.entry_index + 1)) {
                    Ok(found) => found,
                    // The lines so far are good; the rest is asked for again, and waited for.
                    Err(_) => return Ok(()),
                },
            };
        }
        Ok(())
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// [`Stop`].
    pub fn readlink(&self, held: &Held, inode: u64) -> Answer<Vec<u8>> {
        let tree = self.tree();
        if let Some(made_up) = tree.get(inode) {
            let VirtualKind::Link(target) = &made_up.kind else { return Err(ViewError::Invalid.into()) };
            return Ok(target.clone());
        }
        let node = self.node(&tree, held, inode)?;
        let target = node.entry.target.as_deref().ok_or(ViewError::Invalid)?;
        Ok(self.target(target, node.line()).into_owned())
    }

    /// The number of a snapshot's root directory; `None` if the view does not show the snapshot.
    pub fn root_of(&self, snapshot: &SnapshotId) -> Option<u64> {
        let slot = lock(&self.slots).slot(snapshot)?;
        self.tree().snapshot(slot).map(|_| Inode { slot, position: ROOT_POSITION }.number())
    }

    /// Where an entry stands in its snapshot, for messages; `None` if that is not in memory.
    pub fn path_of(&self, inode: u64) -> Option<String> {
        let (tree, held) = (self.tree(), Held::default());
        let (mut names, mut number) = (Vec::new(), inode);
        while tree.get(number).is_none() {
            let node = self.node(&tree, &held, number).ok()?;
            names.push(node.entry.name.as_ref().map(ToString::to_string).unwrap_or_default());
            number = node.parent;
        }
        names.reverse();
        Some(names.join("/"))
    }

    /// Bytes and entries of all snapshots that are the newest of their host and set: what a restore of everything would write.
    /// A manifest that cannot be read counts nothing.
    pub fn totals(&self) -> (u64, u64) {
        let (mut bytes, mut entries) = (0, 0);
        for stats in self.tree().newest().into_iter().filter_map(|snapshot| Some(snapshot.manifest().ok()?.stats)) {
            bytes += stats.byte_count;
            entries += stats.file_count + stats.directory_count + stats.other_count;
        }
        (bytes, entries)
    }

    fn tree(&self) -> Arc<Virtual> {
        Arc::clone(&self.tree.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn attr_in(&self, tree: &Virtual, held: &Held, inode: u64) -> Answer<Attr> {
        match tree.get(inode) {
            Some(made_up) => Ok(self.virtual_attr(tree, inode, made_up)),
            None if let Some(text) = self.status_text(inode) => {
                let made_up = Folder { parent: tree.about.folder, kind: VirtualKind::File(text), time: self.repository.clock().now() };
                Ok(self.virtual_attr(tree, inode, &made_up))
            }
            None => {
                let node = self.node(tree, held, inode)?;
                self.attr(held, node.line())
            }
        }
    }

    fn node(&self, tree: &Virtual, held: &Held, number: u64) -> Answer<Node> {
        let inode = Inode::from_number(number);
        let (_, parent) = tree.snapshot(inode.slot).ok_or(ViewError::Stale)?;
        if let Some(node) = lock(&self.nodes).get(&number) {
            return Ok(node.clone());
        }
        let root = Inode { slot: inode.slot, position: ROOT_POSITION };
        let mut node = match self.recent_above(inode) {
            Some(node) => node,
            None => {
                let top = self.top(tree, inode.slot)?;
                Node { inode: root, parent, depth: 0, entry: Arc::clone(&top.root), top }
            }
        };
        let mut directory = None;
        while node.inode.position != inode.position {
            let offset = inode.position.checked_sub(node.inode.position).ok_or(ViewError::Stale)?;
            let found = self.find(held, &node, Wanted::Position(offset))?.ok_or(ViewError::Stale)?;
            let child = self.child(&node, &found);
            directory = Some(std::mem::replace(&mut node, child));
        }
        if let Some(directory) = directory {
            self.remember(directory);
        }
        // The roots of all snapshots are looked at when their host's folder is listed: they come from what is kept of the manifests.
        if node.entry.subtree.is_some() && node.inode != root {
            lock(&self.nodes).put(number, node.clone());
        }
        Ok(node)
    }

    fn top(&self, tree: &Virtual, slot: u32) -> Answer<Arc<Top>> {
        if let Some(top) = lock(&self.tops).get(&slot) {
            return Ok(Arc::clone(top));
        }
        let (snapshot, _) = tree.snapshot(slot).ok_or(ViewError::Stale)?;
        let manifest = snapshot.manifest().map_err(|error| ViewError::from(ReadError::from(error)))?;
        let top = Arc::new(Top { root: Arc::new(manifest.root), started: manifest.started, link_table: manifest.link_table });
        lock(&self.tops).put(slot, Arc::clone(&top));
        Ok(top)
    }

    /// The deepest of the recent directories that holds an entry.
    fn recent_above(&self, inode: Inode) -> Option<Node> {
        let holds = |node: &&Node| {
            let first = node.inode.position;
            node.inode.slot == inode.slot && (first + 1..first + node.entry.position_count()).contains(&inode.position)
        };
        lock(&self.recent).iter().filter(holds).max_by_key(|node| node.inode.position).cloned()
    }

    fn remember(&self, directory: Node) {
        let mut recent = lock(&self.recent);
        if recent.iter().any(|known| known.inode == directory.inode) {
            return;
        }
        recent.truncate(RECENT - 1);
        recent.push_front(directory);
    }

    fn child(&self, parent: &Node, found: &Found) -> Node {
        let inode = child_inode(parent, found);
        let (entry, top) = (Arc::new(found.entry().clone()), Arc::clone(&parent.top));
        let node = Node { inode, parent: parent.inode.number(), depth: parent.depth + 1, entry, top };
        if node.entry.subtree.is_some() {
            lock(&self.nodes).put(inode.number(), node.clone());
        }
        node
    }

    fn find(&self, held: &Held, node: &Node, wanted: Wanted<'_>) -> Answer<Option<Found>> {
        let Some(top) = node.entry.subtree.as_ref().and_then(|subtree| subtree.page) else { return Ok(None) };
        page::find(&top, wanted, &|reference: &Reference| -> Answer<Arc<Page>> { Ok(self.repository.page_in_memory(held, reference)?) })
    }

    fn attr_of_child(&self, held: &Held, parent: &Node, found: &Found) -> Answer<Attr> {
        if found.entry().subtree.is_some() {
            // What is in it will be asked next.
            self.child(parent, found);
        }
        let (inode, depth) = (child_inode(parent, found), parent.depth + 1);
        self.attr(held, Line { inode, depth, entry: found.entry(), top: &parent.top })
    }

    fn attr(&self, held: &Held, line: Line<'_>) -> Answer<Attr> {
        let Line { mut inode, entry, top, .. } = line;
        let mut link_count = 1;
        if let Some(subtree) = &entry.subtree {
            link_count = 2 + subtree.directory_count;
        } else if entry.link_group.is_some()
            && !(entry.kind == EntryKind::Symlink && self.options.links == Links::Inside)
            && let Some((leader, count)) = self.link_row(held, top, inode.position)?
        {
            (inode.position, link_count) = (leader, count);
        }
        let (mut mode, mut owner) =
            (entry.mode, (entry.uid.unwrap_or(self.options.mounter.0), entry.gid.unwrap_or(self.options.mounter.1)));
        if let Owner::Me { uid, gid } = self.options.owner {
            owner = (uid, gid);
            mode = mode & 0o1777 | if entry.subtree.is_some() { 0o500 } else { 0o400 };
        }
        let present = entry.sparse.as_ref().map_or(entry.size, |extents| extents.iter().map(|extent| extent.length).sum());
        let mtime = entry.mtime.unwrap_or(top.started);
        Ok(Attr {
            inode: inode.number(),
            kind: entry.kind,
            mode,
            uid: owner.0,
            gid: owner.1,
            link_count,
            size: entry.target.as_deref().map_or(entry.size, |target| self.target(target, line).len() as u64),
            allocated: if entry.kind == EntryKind::File { present } else { 0 },
            mtime,
            ctime: entry.ctime.unwrap_or(mtime),
            btime: entry.btime.unwrap_or(mtime),
            device: entry.device,
            windows_attributes: entry.windows_attributes,
        })
    }

    /// What a symbolic link says on the drive.
    fn target<'t>(&self, target: &'t [u8], line: Line<'_>) -> Cow<'t, [u8]> {
        match self.options.links {
            Links::Raw => target.into(),
            Links::Inside => link::inside(target, line.depth.saturating_sub(1)).into(),
        }
    }

    /// Leader and link count of a hard-linked entry.
    fn link_row(&self, held: &Held, top: &Top, position: u64) -> Answer<Option<(u64, u64)>> {
        let table = &top.link_table;
        let record = table.partition_point(|(first, _)| *first <= position).checked_sub(1).and_then(|at| table.get(at));
        let Some((_, reference)) = record else { return Ok(None) };
        let rows = self.repository.links_in_memory(held, reference)?;
        let row = rows.binary_search_by_key(&position, |row| row.position).ok().and_then(|at| rows.get(at));
        Ok(row.map(|row| (row.leader, row.link_count)))
    }

    fn virtual_attr(&self, tree: &Virtual, inode: u64, made_up: &Folder) -> Attr {
        let (kind, mode, size, link_count) = match &made_up.kind {
            VirtualKind::Folder(children) => (EntryKind::Directory, 0o555, 0, 2 + tree.folder_count(children)),
            VirtualKind::Link(target) => (EntryKind::Symlink, 0o777, target.len() as u64, 1),
            VirtualKind::File(bytes) => (EntryKind::File, 0o444, bytes.len() as u64, 1),
        };
        let (uid, gid) = self.options.mounter;
        let time: Timestamp = made_up.time;
        Attr {
            inode,
            kind,
            mode,
            uid,
            gid,
            link_count,
            size,
            allocated: size,
            mtime: time,
            ctime: time,
            btime: time,
            device: None,
            windows_attributes: None,
        }
    }

    fn read_virtual(
        &self,
        (tree, held): (&Virtual, &Held),
        (inode, parent): (u64, u64),
        children: &Children,
        offset: u64,
        more: &mut dyn FnMut(Listed) -> bool,
    ) -> Answer<()> {
        let dots = [(1, &b"."[..], inode), (DOTS, b"..", parent)].into_iter().filter(|(next, _, _)| *next > offset);
        for (next, name, child) in
            dots.map(|(next, name, child)| (next, name.to_vec(), child)).chain(tree.lines(inode, children, offset.max(DOTS)))
        {
            let attr = self.attr_in(tree, held, child)?;
            if !more(Listed { name, attr, next, moves: true }) {
                break;
            }
        }
        Ok(())
    }
}

fn child_inode(parent: &Node, found: &Found) -> Inode {
    Inode { slot: parent.inode.slot, position: parent.inode.position + found.position_offset }
}

/// A name that can stand in a path: host names and tags come from elsewhere.
pub fn safe_name(text: &str) -> Vec<u8> {
    let cleaned: String = text.chars().map(|c| if c == '/' || c.is_control() { '_' } else { c }).take(200).collect();
    match Name::new(cleaned.into_bytes()) {
        Ok(name) => name.as_bytes().to_vec(),
        Err(_) => b"_".to_vec(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
