//! `restore()`: a snapshot, or a part of one, becomes a local tree with everything that was saved.
//!
//! Nothing is written through a symbolic link below the target, so a tree that somebody prepared there cannot lead outside of it. A file is
//! written under another name and renamed when it is complete and its hash is right, so a cut leaves old files whole; running again continues.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use fs_core::observer::{Observer, Progress};
use fs_core::path::{Name, TreePath};
use fs_core::report::{Finding, Severity};
use fs_core::repository::{ReadError, Repository};
use fs_core::snapshot::Snapshot;
use fs_core::tree::page::Wanted;
use fs_core::tree::{Entry, EntryKind};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::metadata::{self, MetadataOptions};

mod write;

/// Files that wait for a writer.
const FILES_AHEAD: usize = 256;
/// Bytes read and written at a time.
const STEP: u64 = 4 << 20;

/// What to do where something stands already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Overwrite {
    /// Leave it.
    Never,
    /// Replace it unless size and time of modification are the same.
    #[default]
    Changed,
    /// Replace it if the saved one is newer.
    Newer,
    /// Replace it.
    Always,
    /// Leave it and write the saved one beside it.
    KeepBoth,
}

/// How to restore.
#[derive(Clone, Copy, Debug, Default)]
pub struct RestoreOptions {
    /// What to do where something stands already.
    pub overwrite: Overwrite,
    /// Everything belongs to who restores.
    pub as_me: bool,
    /// Read every written file again and compare its hash.
    pub verify: bool,
    /// Say what would be done and do nothing.
    pub dry_run: bool,
}

/// What a restore did.
#[derive(Clone, Debug, Default)]
pub struct RestoreReport {
    /// Files written.
    pub file_count: u64,
    /// Directories made or met.
    pub directory_count: u64,
    /// Other entries made.
    pub other_count: u64,
    /// Entries left as they were.
    pub kept_count: u64,
    /// Bytes written.
    pub byte_count: u64,
    /// What could not be restored, in full or in part.
    pub findings: Vec<Finding>,
}

/// Why nothing could be restored at all.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The snapshot has no such path.
    #[error("snapshot {snapshot} has no {path}")]
    NotFound {
        /// The snapshot.
        snapshot: String,
        /// The path.
        path: TreePath,
    },
    /// The tree cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The target cannot be made or entered.
    #[error("{} cannot be written to", .path.display())]
    Target {
        /// The target.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The observer cancelled.
    #[error("the restore was interrupted; run it again to continue")]
    Cancelled,
}

/// Finds the entry at a path of a snapshot; `None` if there is none.
///
/// # Errors
/// [`ReadError`].
pub fn entry_at(repository: &Repository, snapshot: &Snapshot, path: &TreePath) -> Result<Option<Entry>, ReadError> {
    let mut entry = snapshot.manifest()?.root;
    for name in path.names() {
        let Some(subtree) = &entry.subtree else { return Ok(None) };
        match repository.find_entry(subtree, Wanted::Name(name.as_bytes()))? {
            Some(found) => entry = found.entry().clone(),
            None => return Ok(None),
        }
    }
    Ok(Some(entry))
}

/// All entries of a directory, in order, one page after the other.
///
/// # Errors
/// [`ReadError`], also half-way.
pub fn for_each_entry<E: From<ReadError>>(
    repository: &Repository,
    directory: &Entry,
    mut each: impl FnMut(&Entry) -> Result<(), E>,
) -> Result<(), E> {
    let Some(subtree) = &directory.subtree else { return Ok(()) };
    let mut index = 0;
    while let Some(found) = repository.find_entry(subtree, Wanted::Index(index))? {
        let mut next = Some(found);
        while let Some(found) = next {
            each(found.entry())?;
            index = found.entry_index + 1;
            next = found.next_in_page();
        }
    }
    Ok(())
}

/// Restores `what` into the directory `target`: the contents of a directory, or a single entry under its name. A target that is made here also gets the
/// metadata of that directory.
///
/// # Errors
/// [`RestoreError`]. Everything that concerns single entries is a finding.
pub fn restore(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    what: &TreePath,
    target: &Path,
    options: &RestoreOptions,
    observer: &dyn Observer,
) -> Result<RestoreReport, RestoreError> {
    let entry = entry_at(repository, snapshot, what)?;
    let entry = entry.ok_or_else(|| RestoreError::NotFound { snapshot: snapshot.id.short(), path: what.clone() })?;
    let fail = |source| RestoreError::Target { path: target.into(), source };
    let is_new = !options.dry_run && !target.exists();
    if is_new {
        std::fs::create_dir_all(target).map_err(fail)?;
    }
    let root = match rustix::fs::open(target, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(root) => Some(root),
        Err(Errno::NOENT) if options.dry_run => None,
        Err(error) => return Err(fail(error.into())),
    };
    let bytes_total = entry.subtree.as_ref().map_or(entry.size, |below| below.byte_count);
    let files_total = entry.subtree.as_ref().map_or(1, |below| below.file_count);
    let run = Run {
        repository,
        options,
        observer,
        root,
        suffix: format!(".restored-{}", snapshot.id.short()),
        report: Mutex::default(),
        bytes: AtomicU64::new(0),
        files: AtomicU64::new(0),
        totals: (files_total, bytes_total),
    };
    // A folder that stood there keeps what it is: somebody's home must not change its owner because a tree is restored into it.
    let top = entry.clone();
    run.all(entry)?;
    if is_new && top.subtree.is_some() && top.mtime.is_some() {
        run.finish_target(target, &top);
    }
    Ok(run.report.into_inner().unwrap_or_else(PoisonError::into_inner))
}

struct Run<'a> {
    repository: &'a Arc<Repository>,
    options: &'a RestoreOptions,
    observer: &'a dyn Observer,
    /// The target; `None` only in a dry run where it does not exist.
    root: Option<OwnedFd>,
    suffix: String,
    report: Mutex<RestoreReport>,
    bytes: AtomicU64,
    files: AtomicU64,
    totals: (u64, u64),
}

/// A file for the writers.
struct FileJob {
    directory: Option<Arc<OwnedFd>>,
    name: Name,
    path: TreePath,
    entry: Entry,
}

/// What is done when all files are written.
#[derive(Default)]
struct Later {
    links: Vec<(TreePath, TreePath)>,
    directories: Vec<(TreePath, Entry)>,
}

impl Run<'_> {
    fn all(&self, entry: Entry) -> Result<(), RestoreError> {
        let (jobs, to_write) = bounded::<FileJob>(FILES_AHEAD);
        let writer_count = thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
        let mut later = Later::default();
        thread::scope(|scope| {
            for _ in 0..writer_count {
                let to_write: Receiver<FileJob> = to_write.clone();
                scope.spawn(move || to_write.iter().for_each(|job| self.file(&job)));
            }
            drop(to_write);
            let result = self.walk(entry, &jobs, &mut later);
            drop(jobs);
            result
        })?;
        self.finish(&later);
        if self.observer.is_cancelled() { Err(RestoreError::Cancelled) } else { Ok(()) }
    }

    fn walk(&self, top: Entry, jobs: &Sender<FileJob>, later: &mut Later) -> Result<(), RestoreError> {
        let root = self.root.as_ref().map(|root| root.try_clone()).transpose().ok().flatten().map(Arc::new);
        let mut first_of_group: HashMap<u64, TreePath> = HashMap::new();
        if top.subtree.is_none() {
            self.place(&top, &TreePath::ROOT, root.as_ref(), &mut first_of_group, jobs, later);
            return Ok(());
        }
        let mut open = vec![(TreePath::ROOT, root, top)];
        while let Some((path, directory, entry)) = open.pop() {
            if self.observer.is_cancelled() {
                return Err(RestoreError::Cancelled);
            }
            self.observer.at(&path);
            self.count(|report| report.directory_count += 1);
            let mut below = Vec::new();
            let listed = for_each_entry::<ReadError>(self.repository, &entry, |child| {
                if child.subtree.is_some() {
                    below.push(child.clone());
                } else {
                    self.place(child, &path, directory.as_ref(), &mut first_of_group, jobs, later);
                }
                Ok(())
            });
            if let Err(error) = listed {
                self.finding(Severity::Error, &path, format!("its list of entries cannot be read: {}", chain(&error)));
            }
            for child in below.into_iter().rev() {
                let Some(name) = child.name.clone() else { continue };
                let child_path = path.join(name.clone());
                match self.enter(directory.as_deref().map(|fd| fd.as_fd()), &name) {
                    Ok(opened) => {
                        later.directories.push((child_path.clone(), child.clone()));
                        open.push((child_path, opened.map(Arc::new), child));
                    }
                    Err(error) => self.finding(Severity::Error, &child_path, format!("the directory cannot be made: {error}")),
                }
            }
        }
        Ok(())
    }

    /// Makes or enters a directory, never through a link.
    fn enter(&self, parent: Option<BorrowedFd<'_>>, name: &Name) -> Result<Option<OwnedFd>, Errno> {
        let Some(parent) = parent else { return Ok(None) };
        if !self.options.dry_run {
            match rustix::fs::mkdirat(parent, name.as_bytes(), Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
        match open_directory(parent, name) {
            Ok(opened) => Ok(Some(opened)),
            Err(Errno::NOENT) if self.options.dry_run => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Decides what happens to an entry that is no directory, and does it, or has it done.
    fn place(
        &self,
        entry: &Entry,
        path: &TreePath,
        directory: Option<&Arc<OwnedFd>>,
        first_of_group: &mut HashMap<u64, TreePath>,
        jobs: &Sender<FileJob>,
        later: &mut Later,
    ) {
        let Some(name) = entry.name.clone() else { return };
        let place = path.join(name.clone());
        if let Some(group) = entry.link_group {
            match first_of_group.get(&group) {
                Some(first) => {
                    later.links.push((first.clone(), place));
                    return;
                }
                None => drop(first_of_group.insert(group, place.clone())),
            }
        }
        let name = match directory.map(|directory| self.decide(directory.as_fd(), &name, entry)) {
            Some(Ok(Some(name))) => name,
            Some(Ok(None)) => return self.count(|report| report.kept_count += 1),
            Some(Err(error)) => return self.finding(Severity::Error, &place, error),
            None => name,
        };
        let job = FileJob { directory: directory.cloned(), name, path: place, entry: entry.clone() };
        if entry.kind == EntryKind::File {
            // The writers end only when the channel does.
            let _ = jobs.send(job);
        } else {
            self.node(&job);
        }
    }

    /// Under which name to write; `None` to leave what is there.
    fn decide(&self, directory: BorrowedFd<'_>, name: &Name, entry: &Entry) -> Result<Option<Name>, String> {
        let there = match rustix::fs::statat(directory, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => there,
            Err(Errno::NOENT) => return Ok(Some(name.clone())),
            Err(error) => return Err(error.to_string()),
        };
        let is_directory = FileType::from_raw_mode(there.st_mode) == FileType::Directory;
        let replace = match self.options.overwrite {
            Overwrite::Never => false,
            Overwrite::Always => true,
            Overwrite::Changed => !is_same(&there, entry),
            Overwrite::Newer => entry.mtime.is_some_and(|mtime| (mtime.seconds(), i64::from(mtime.nanos())) > mtime_of(&there)),
            Overwrite::KeepBoth if is_same(&there, entry) => false,
            Overwrite::KeepBoth => {
                let beside = Name::new([name.as_bytes(), self.suffix.as_bytes()].concat());
                return beside.map(Some).map_err(|error| error.to_string());
            }
        };
        match (replace, is_directory) {
            (false, _) => Ok(None),
            (true, true) => Err("a directory stands in its place and is left alone: move it away, or restore elsewhere".into()),
            (true, false) => Ok(Some(name.clone())),
        }
    }

    fn file(&self, job: &FileJob) {
        if self.observer.is_cancelled() {
            return;
        }
        let written = match (&job.directory, self.options.dry_run) {
            (Some(directory), false) => self.write_file(directory.as_fd(), job),
            _ => Ok(()),
        };
        match written {
            Ok(()) => self.count(|report| {
                report.file_count += 1;
                report.byte_count += job.entry.size;
            }),
            Err(message) => self.finding(Severity::Error, &job.path, message),
        }
        let entry_count = self.files.fetch_add(1, Ordering::Relaxed) + 1;
        let byte_count = self.bytes.fetch_add(job.entry.size, Ordering::Relaxed) + job.entry.size;
        self.observer.progress(&Progress { entry_count, entry_total: self.totals.0, byte_count, byte_total: self.totals.1 });
    }

    /// Hard links, then the metadata of directories, the deepest first: writing into them has changed their times.
    fn finish(&self, later: &Later) {
        let Some(root) = self.root.as_ref().filter(|_| !self.options.dry_run) else { return };
        for (first, place) in &later.links {
            match link(root.as_fd(), first, place) {
                Ok(()) => self.count(|report| report.file_count += 1),
                Err(Errno::EXIST) => self.count(|report| report.kept_count += 1),
                Err(error) => self.finding(Severity::Error, place, format!("it cannot be linked to {first}: {error}")),
            }
        }
        for (path, entry) in later.directories.iter().rev() {
            let (Some(parent), Some(name)) = (path.parent(), path.last()) else { continue };
            if let Ok(directory) = open_below(root.as_fd(), &parent) {
                let options = MetadataOptions { owner: !self.options.as_me };
                for problem in metadata::apply(self.repository, directory.as_fd(), name, entry, options) {
                    self.finding(Severity::Warning, path, problem.to_string());
                }
            }
        }
    }

    /// The metadata of the directory whose contents the target has.
    fn finish_target(&self, target: &Path, entry: &Entry) {
        let Ok(whole) = target.canonicalize() else { return };
        let (Some(parent), Some(name)) = (whole.parent(), whole.file_name().and_then(|name| Name::new(name.as_bytes()).ok())) else {
            return;
        };
        let Ok(parent) = rustix::fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) else { return };
        let options = MetadataOptions { owner: !self.options.as_me };
        for problem in metadata::apply(self.repository, parent.as_fd(), &name, entry, options) {
            self.finding(Severity::Warning, &TreePath::ROOT, problem.to_string());
        }
    }

    fn count(&self, change: impl FnOnce(&mut RestoreReport)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn finding(&self, severity: Severity, path: &TreePath, message: impl Into<String>) {
        let finding = Finding::at(severity, path.clone(), message);
        self.observer.finding(&finding);
        self.count(|report| report.findings.push(finding));
    }
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn is_same(there: &Stat, entry: &Entry) -> bool {
    let kind = FileType::from_raw_mode(there.st_mode);
    let mtime = entry.mtime.is_none_or(|mtime| (mtime.seconds(), i64::from(mtime.nanos())) == mtime_of(there));
    kind == FileType::RegularFile && entry.kind == EntryKind::File && u64::try_from(there.st_size) == Ok(entry.size) && mtime
}

fn mtime_of(stat: &Stat) -> (i64, i64) {
    (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0))
}

fn open_directory(parent: BorrowedFd<'_>, name: &Name) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(parent, name.as_bytes(), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn open_below(root: BorrowedFd<'_>, path: &TreePath) -> Result<OwnedFd, Errno> {
    let mut directory = rustix::fs::openat(root, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for name in path.names() {
        directory = open_directory(directory.as_fd(), name)?;
    }
    Ok(directory)
}

fn link(root: BorrowedFd<'_>, first: &TreePath, place: &TreePath) -> Result<(), Errno> {
    let (Some(first_parent), Some(first_name), Some(parent), Some(name)) = (first.parent(), first.last(), place.parent(), place.last())
    else {
        return Err(Errno::INVAL);
    };
    let (from, to) = (open_below(root, &first_parent)?, open_below(root, &parent)?);
    rustix::fs::linkat(&from, first_name.as_bytes(), &to, name.as_bytes(), AtFlags::empty())
}
