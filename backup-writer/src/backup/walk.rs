//! The ordered walk of a source: for each directory small files by name, then larger ones, then subdirectories. That is the order of packs.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam_channel::Sender;
use fs_core::crypto::Key;
use fs_core::id::RecordId;
use fs_core::path::{Name, TreePath};
use fs_core::report::{Finding, Severity};
use fs_core::repository::Repository;
use fs_core::time::Timestamp;
use fs_core::tree::{Entry, EntryKind};

use super::BackupOptions;
use super::again::{Saved, SavedFile, SavedWalk};
use super::changes::{Absent, Why};
use super::fingerprint::{Fingerprint, Gathering, Owners};
use super::named::{Named, STREAM_FOLDER};
use super::read::Origin;
use super::sieve::{Scope, Sieve};
use super::unchanged::Unchanged;
use crate::packer::{Shared, Stage};
use crate::source::rules::Rules;
use crate::source::{Child, Directory, LiveTree, SourceError, Stamp};
use crate::state::Summary;

/// One step of the walk.
pub(super) enum Step {
    /// Into a directory; where its alternate streams are read, if it has some.
    Enter(Box<Entry>, Option<Box<SavedFile>>),
    /// An entry of the directory that is open.
    Entry(Box<Child>, Directory),
    /// A file that is no listed one.
    Made(Box<Entry>, Origin),
    /// An entry of another repository that is no directory.
    Saved(Box<Saved>),
    /// Out of it; everything below was seen. What it is known by to who need not look at it again.
    Leave(Option<Mark>),
    /// A directory that is what it was, with all below.
    Same(Box<Summary>),
    /// Something that could not be saved.
    Finding(Finding),
    /// Something that does not come, though the parent snapshot may have it.
    Absent(Absent),
    /// The other repository does not answer: the run ends.
    Broken(String),
}

/// What a directory is known by.
pub(super) enum Mark {
    /// In a live tree, by a later run.
    Fingerprint(Fingerprint),
    /// In another repository, by this run.
    Page(RecordId),
}

/// What is walked.
pub(super) enum Ground<'a> {
    /// A live tree.
    Live(Walk<'a>),
    /// A snapshot of another repository.
    Saved(SavedWalk<'a>),
}

impl Ground<'_> {
    /// Walks until the end, or until nobody takes the steps any more.
    pub(super) fn run(
        &self,
        shared: &Shared,
        (source, unchanged): (&LiveTree, Option<&Unchanged>),
        (steps, batch_len): (&Sender<Vec<Step>>, usize),
    ) {
        let batch = RefCell::new(Vec::new());
        let send = |steps_now: Vec<Step>| shared.waiting(Stage::Walk, || steps.send(steps_now)).map_err(|_| Stopped);
        let emit = |step| {
            let mut batch = batch.borrow_mut();
            batch.push(step);
            if batch.len() < batch_len { Ok(()) } else { send(std::mem::take(&mut batch)) }
        };
        shared.busy(Stage::Walk, || {
            // Whoever listens is told how far it came.
            let _ = match self {
                Self::Live(walk) => walk.walk(source, unchanged, &emit),
                Self::Saved(walk) => walk.walk(&emit),
            };
            let _ = send(batch.take());
        });
    }
}

/// Entries that are left out wherever they are met: device and inode.
pub(super) type Never = HashSet<((u32, u32), u64)>;

/// What to walk.
pub(super) struct Walk<'a> {
    /// What is saved.
    pub named: &'a Named,
    /// When the run began: the time of what has none.
    pub started: Timestamp,
    /// What is never entered.
    pub never: &'a Never,
    /// What is left out.
    pub rules: &'a Rules,
    /// Whether somebody wants to know what is left out: there is a snapshot to compare with.
    pub tells_left_out: bool,
    /// Files up to this size come first.
    pub small: u64,
    /// The key of fingerprints; `None` if nothing is kept of this run.
    pub fingerprint_key: Option<Key>,
}

/// The part of the tree that the sources name.
#[derive(Clone, Default)]
struct Wanted {
    /// Everything below.
    all: bool,
    /// Only these.
    children: BTreeMap<Name, Wanted>,
    /// Where it is read, if that is not where it is shown.
    real: Option<PathBuf>,
    /// It is read as a block device, there.
    is_device: bool,
}

/// A directory whose subdirectories are still to come.
struct Open<'a> {
    /// `None` above the sources.
    scope: Option<Scope>,
    /// Each with the directory that it is opened in.
    rest: std::vec::IntoIter<(Child, Wanted, Directory)>,
    print: Print<'a>,
}

/// The fingerprint of a directory, as far as it is gathered; `None` where it needs none.
struct Print<'a> {
    owners: &'a Owners<'a>,
    gathering: Option<Gathering<'a>>,
}

impl Print<'_> {
    fn add(&mut self, child: &Child) {
        match &mut self.gathering {
            // Where inodes are made up, times may be too.
            Some(gathering) if child.lasting_inode.is_some() => gathering.add(self.owners, child.entry.name_bytes(), &child.facts),
            _ => self.gathering = None,
        }
    }

    fn add_directory(&mut self, name: Option<&Name>, fingerprint: Option<Fingerprint>) {
        match (&mut self.gathering, name) {
            (Some(gathering), Some(name)) => gathering.add_directory(name.as_bytes(), fingerprint),
            _ => self.gathering = None,
        }
    }

    /// Something in the directory is not saved, or tells more than its entry does.
    fn spoil(&mut self) {
        self.gathering = None;
    }
}

/// The walk cannot go on because nobody takes its steps.
pub(super) struct Stopped;

/// Hands a step over.
pub(super) type Emit<'a> = dyn Fn(Step) -> Result<(), Stopped> + 'a;

impl<'a> Walk<'a> {
    /// The walk of a run that began at `started`.
    pub(super) fn new(
        named: &'a Named,
        (started, never): (Timestamp, &'a Never),
        options: &'a BackupOptions,
        (repository, tells_left_out): (&Repository, bool),
        fingerprint_key: Option<Key>,
    ) -> Self {
        let small = repository.config().chunks.small.into();
        Self { named, started, never, rules: &options.rules, tells_left_out, small, fingerprint_key }
    }

    fn walk(&self, source: &LiveTree, unchanged: Option<&Unchanged>, emit: &Emit<'_>) -> Result<(), Stopped> {
        let (wanted, sieve, owners) = (self.wanted(), Sieve::new(self.rules), Owners::new(source));
        let root = wanted.real.as_ref().map_or_else(|| source.root(), |real| source.at(real));
        let Ok((root, child)) = root else { return Ok(()) };
        let (mut open, mut path): (Vec<Open<'_>>, TreePath) = (Vec::new(), TreePath::ROOT);
        let scope = wanted.all.then(|| Scope::of_source(child.stamp.device));
        emit(enter(child, &wanted))?;
        self.streams(source, emit)?;
        let print = Print { owners: &owners, gathering: None };
        open.push(self.list(source, root, (&wanted, &path), (&sieve, scope), print, emit)?);
        // A stack and no recursion: a tree may be deeper than a thread's stack.
        while let Some(top) = open.last_mut() {
            let Some((child, wanted, directory)) = top.rest.next() else {
                top.scope.as_ref().and_then(|scope| sieve.leave(scope)).map_or(Ok(()), |finding| emit(Step::Finding(finding)))?;
                let fingerprint = open.pop().and_then(|done| done.print.gathering).and_then(Gathering::finish);
                let name = path.pop();
                let Some(above) = open.last_mut() else { break };
                above.print.add_directory(name.as_ref(), fingerprint);
                emit(Step::Leave(fingerprint.map(Mark::Fingerprint)))?;
                continue;
            };
            let Some(name) = child.entry.name.clone() else { continue };
            path.push(name.clone());
            if let Some((fingerprint, summary)) = unchanged.and_then(|unchanged| unchanged.get(&path)) {
                top.print.add_directory(path.pop().as_ref(), Some(fingerprint));
                emit(Step::Same(Box::new(summary)))?;
                continue;
            }
            let opened = source.open(&directory, child.alias.as_ref().unwrap_or(&name), &child.stamp);
            let (stamp, print) = (child.stamp, self.print(&owners, &child, &wanted));
            let below = top.scope.as_ref().map(|scope| scope.of_child(name.as_bytes()));
            let scope = below.or_else(|| wanted.all.then(|| Scope::of_source(stamp.device)));
            if let Some(problem) = child.problem.clone() {
                emit(Step::Finding(Finding::at(Severity::Warning, path.clone(), problem)))?;
            }
            emit(enter(child, &wanted))?;
            match opened {
                Ok(_) if scope.as_ref().is_some_and(|scope| !sieve.enters(scope, stamp.device)) => self.left_out(None, emit)?,
                Ok(directory) if !wanted.all || self.enters(source, &directory, &stamp) => {
                    let next = self.list(source, directory, (&wanted, &path), (&sieve, scope), print, emit)?;
                    open.push(next);
                    continue;
                }
                Ok(_) => {
                    emit(Step::Finding(Finding::at(
                        Severity::Note,
                        path.clone(),
                        "left out: it belongs to the system or to this program",
                    )))?;
                    self.left_out(None, emit)?;
                }
                Err(error) => failed(None, &path, &error, emit)?,
            }
            top.print.spoil();
            emit(Step::Leave(None))?;
            path.pop();
        }
        for finding in sieve.finish() {
            emit(Step::Finding(finding))?;
        }
        emit(Step::Leave(None))
    }

    /// Begins the fingerprint of a directory. One above the sources has none: it is not saved as it is.
    fn print<'w>(&'w self, owners: &'w Owners<'w>, child: &Child, wanted: &Wanted) -> Print<'w> {
        let key = self.fingerprint_key.as_ref().filter(|_| wanted.all && child.lasting_inode.is_some());
        Print { owners, gathering: key.map(|key| Gathering::new(key, owners, &child.facts)) }
    }

    /// Whether a directory is saved. One that is only on the way to a source is always entered: `/dev/shm/x` may be named though `/dev` is not saved.
    fn enters(&self, source: &LiveTree, directory: &Directory, stamp: &Stamp) -> bool {
        !self.never.contains(&(stamp.device, stamp.inode)) && !source.is_pseudo(directory)
    }

    /// Before anything else: a command that fails ends the run, and a day of reading files would have been in vain.
    fn streams(&self, source: &LiveTree, emit: &Emit<'_>) -> Result<(), Stopped> {
        let (streams, Ok(folder)) = (&self.named.streams, Name::new(STREAM_FOLDER.as_bytes())) else { return Ok(()) };
        if streams.is_empty() {
            return Ok(());
        }
        emit(Step::Enter(Box::new(source.made_entry(folder, EntryKind::Directory, None)), None))?;
        self.left_out(None, emit)?;
        for stream in streams {
            let entry = source.made_entry(stream.name.clone(), EntryKind::File, Some(self.started));
            emit(Step::Made(Box::new(entry), Origin::Stream(Arc::clone(stream))))?;
        }
        emit(Step::Leave(None))
    }

    /// The names in a directory that the walk wants, sorted.
    fn names(
        &self,
        source: &LiveTree,
        directory: &Directory,
        (wanted, path): (&Wanted, &TreePath),
        (sieve, scope): (&Sieve<'_>, Option<&mut Scope>),
        (print, emit): (&mut Print<'_>, &Emit<'_>),
    ) -> Result<Vec<Name>, Stopped> {
        if !wanted.all {
            self.left_out(None, emit)?;
        }
        let names = if wanted.all { source.names(directory) } else { Ok(wanted.children.keys().cloned().collect()) };
        let mut names = match names {
            Ok(names) => names,
            Err(error) => {
                print.spoil();
                failed(None, path, &error, emit)?;
                Vec::new()
            }
        };
        if let Some(scope) = scope {
            let count = names.len();
            let (taken, findings) = sieve.names(source, directory, names, (scope, path));
            names = taken;
            if names.len() < count {
                self.left_out(None, emit)?;
            }
            if scope.is_marked() || !findings.is_empty() {
                print.spoil();
            }
            findings.into_iter().try_for_each(|finding| emit(Step::Finding(finding)))?;
        }
        Ok(names)
    }

    /// Emits the entries of a directory that are no directories, in order, and keeps the subdirectories for later.
    fn list<'w>(
        &'w self,
        source: &LiveTree,
        directory: Directory,
        (wanted, path): (&Wanted, &TreePath),
        (sieve, mut scope): (&Sieve<'_>, Option<Scope>),
        mut print: Print<'w>,
        emit: &Emit<'_>,
    ) -> Result<Open<'w>, Stopped> {
        let names = self.names(source, &directory, (wanted, path), (sieve, scope.as_mut()), (&mut print, emit))?;
        let (mut large, mut directories) = (Vec::new(), Vec::new());
        for name in names {
            let below = wanted.below(&name);
            let found = match (&below.real, below.is_device) {
                (Some(device), true) => {
                    let made = source.device(device, Some(&name));
                    match made {
                        Ok((entry, file, size)) => emit(Step::Made(Box::new(entry), Origin::Device(file, size)))?,
                        Err(error) => failed(Some(name), path, &error, emit)?,
                    }
                    continue;
                }
                (Some(real), false) => source.entry_as(real, &name),
                (None, _) => source.entry(&directory, &name).map(|child| (directory.clone(), child)),
            };
            let (directory, child) = match found {
                Ok(found) => found,
                Err(error) => {
                    print.spoil();
                    failed(Some(name), path, &error, emit)?;
                    continue;
                }
            };
            let is_ours = self.never.contains(&(child.stamp.device, child.stamp.inode)) && child.entry.kind != EntryKind::Directory;
            if is_ours || scope.as_ref().is_some_and(|scope| !sieve.takes(scope, &child.entry)) {
                print.spoil();
                self.left_out(child.entry.name, emit)?;
                continue;
            }
            if child.entry.kind != EntryKind::Directory {
                print.add(&child);
            }
            match child.entry.kind {
                EntryKind::Directory => directories.push((child, below, directory)),
                EntryKind::File if child.entry.size > self.small => large.push((child, directory)),
                _ => emit(Step::Entry(Box::new(child), directory))?,
            }
        }
        for (child, directory) in large {
            emit(Step::Entry(Box::new(child), directory))?;
        }
        Ok(Open { scope, rest: directories.into_iter(), print })
    }

    /// An entry of the directory that is open is left out, or all of it that does not come.
    fn left_out(&self, name: Option<Name>, emit: &dyn Fn(Step) -> Result<(), Stopped>) -> Result<(), Stopped> {
        if self.tells_left_out { emit(Step::Absent(Absent { name, why: Why::LeftOut })) } else { Ok(()) }
    }

    fn wanted(&self) -> Wanted {
        let mut root = Wanted::default();
        for source in &self.named.paths {
            let mut node = &mut root;
            for name in names_of(&source.shown) {
                node = node.children.entry(name).or_default();
            }
            (node.all, node.is_device) = (true, source.is_device);
            node.real = (source.is_device || source.path != source.shown).then(|| source.path.clone());
        }
        root
    }
}

impl Wanted {
    fn below(&self, name: &Name) -> Self {
        match self.children.get(name) {
            Some(child) if !self.all => child.clone(),
            _ => Self { all: true, ..Self::default() },
        }
    }
}

/// A directory above the sources is only the way to them: its times change with things that are not saved, and would make every run a changed one.
fn enter(child: Child, wanted: &Wanted) -> Step {
    let mut entry = child.entry;
    if !wanted.all {
        (entry.mtime, entry.ctime) = (None, None);
    }
    Step::Enter(Box::new(entry), None)
}

fn names_of(path: &Path) -> Vec<Name> {
    crate::system::shown_bytes(path).split(|&b| b == b'/').filter_map(|part| Name::new(part).ok()).collect()
}

/// An entry of the directory at `path`, which is open, cannot be saved, or what is in that directory itself.
fn failed(name: Option<Name>, path: &TreePath, error: &SourceError, emit: &dyn Fn(Step) -> Result<(), Stopped>) -> Result<(), Stopped> {
    let place = name.as_ref().map_or_else(|| path.clone(), |name| path.join(name.clone()));
    emit(Step::Finding(Finding::at(error.severity(), place, error.to_string())))?;
    let why = if matches!(error, SourceError::InCloud) { Why::LeftOut } else { Why::Failed };
    emit(Step::Absent(Absent { name, why }))
}
