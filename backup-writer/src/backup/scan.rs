//! The look at the whole source before the walk: several threads list directories and ask for facts, and nothing is kept of it but a fingerprint for each directory.
//! Where that is the one of a run before, the walk need not go.
//!
//! What the walk would leave out, or tell of, or fail at, leaves its directory and those above it without a fingerprint: the walk goes there.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use fs_core::crypto::{Key, keyed_hash};
use fs_core::observer::Observer;
use fs_core::path::{Name, TreePath};
use fs_core::tree::EntryKind;

use super::fingerprint::{Fingerprint, Gathering, Owners};
use super::sieve::{Scope, Sieve};
use super::walk::Never;
use crate::source::rules::Rules;
use crate::source::{Directory, Facts, LiveTree, Names};

/// Fingerprints by path: 32 bytes for each directory of the source, and what the table around them takes.
pub(super) struct Fingerprints {
    key: Key,
    by_path: HashMap<[u8; 16], Fingerprint>,
}

impl Fingerprints {
    /// The fingerprint of the directory that the snapshot shows at `path`.
    pub(super) fn get(&self, path: &TreePath) -> Option<&Fingerprint> {
        self.by_path.get(&path_key(&self.key, &path.to_bytes()))
    }
}

fn path_key(key: &Key, path: &[u8]) -> [u8; 16] {
    keyed_hash(key, &[path]).first_chunk().copied().unwrap_or_default()
}

/// What to look at.
pub(super) struct Scan<'a> {
    pub source: &'a LiveTree,
    pub rules: &'a Rules,
    pub never: &'a Never,
    pub key: &'a Key,
    pub observer: &'a dyn Observer,
    pub thread_count: usize,
}

impl<'a> Scan<'a> {
    /// Fingerprints of all directories below the sources that have one. Each source is given by where the snapshot shows it and where it is read.
    pub(super) fn run(&self, sources: &[(TreePath, PathBuf)]) -> Fingerprints {
        let begin = |(shown, path): &(TreePath, PathBuf)| {
            let (directory, child) = self.source.at(path).ok()?;
            let path = shown.to_bytes();
            let name_at = path.len() - shown.last().map_or(0, |name| name.as_bytes().len());
            let scope = Scope::of_source(child.facts.device);
            Some(Task { above: None, path, name_at, facts: child.facts, scope, directory: Some(directory) })
        };
        let queue = Queue::new(sources.iter().rev().filter_map(begin).collect());
        let found = Mutex::new(HashMap::new());
        thread::scope(|scope| {
            for _ in 0..self.thread_count.max(1) {
                scope.spawn(|| {
                    let own = Worker { scan: self, owners: Owners::new(self.source), sieve: Sieve::new(self.rules), found: HashMap::new() };
                    let own = own.serve(&queue);
                    let mut all = found.lock().unwrap_or_else(PoisonError::into_inner);
                    if all.is_empty() { *all = own } else { all.extend(own) }
                });
            }
        });
        Fingerprints { key: self.key.clone(), by_path: found.into_inner().unwrap_or_else(PoisonError::into_inner) }
    }
}

/// A directory that waits to be looked at.
struct Task<'a> {
    above: Option<Arc<Node<'a>>>,
    /// Where the snapshot shows it.
    path: Vec<u8>,
    /// Where its name begins in the path.
    name_at: usize,
    facts: Facts,
    scope: Scope,
    /// Opened already, if nothing is above.
    directory: Option<Directory>,
}

/// A directory whose subdirectories are being looked at.
struct Node<'a> {
    above: Option<Arc<Node<'a>>>,
    path: Vec<u8>,
    name_at: usize,
    device: (u32, u32),
    directory: Directory,
    rest: Mutex<Rest<'a>>,
}

struct Rest<'a> {
    gathering: Option<Gathering<'a>>,
    /// Subdirectories that are not done.
    to_come: usize,
}

/// Tasks, the last one first: so few directories are open at a time.
struct Queue<'a> {
    state: Mutex<QueueState<'a>>,
    wake: Condvar,
}

struct QueueState<'a> {
    tasks: Vec<Task<'a>>,
    /// Threads that may still add tasks.
    busy_count: usize,
}

impl<'a> Queue<'a> {
    fn new(tasks: Vec<Task<'a>>) -> Self {
        Self { state: Mutex::new(QueueState { tasks, busy_count: 0 }), wake: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next task; waits for one while others may still add some.
    fn take(&self) -> Option<Task<'a>> {
        let mut state = self.lock();
        loop {
            if let Some(task) = state.tasks.pop() {
                state.busy_count += 1;
                return Some(task);
            }
            if state.busy_count == 0 {
                return None;
            }
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends a task with those that it led to. One of them goes on with the thread that was busy.
    fn done(&self, mut next: Vec<Task<'a>>) -> Option<Task<'a>> {
        let own = next.pop();
        let is_more = !next.is_empty();
        if is_more || own.is_none() {
            let mut state = self.lock();
            state.tasks.append(&mut next);
            state.busy_count -= usize::from(own.is_none());
            if is_more || state.busy_count == 0 {
                self.wake.notify_all();
            }
        }
        own
    }
}

/// One thread of the scan.
struct Worker<'a, 's> {
    scan: &'s Scan<'a>,
    owners: Owners<'a>,
    /// Decides for this look; nobody is told what it counts.
    sieve: Sieve<'a>,
    found: HashMap<[u8; 16], Fingerprint>,
}

impl<'a> Worker<'a, '_> {
    fn serve(mut self, queue: &Queue<'a>) -> HashMap<[u8; 16], Fingerprint> {
        let mut names = Names::default();
        while let Some(mut task) = queue.take() {
            loop {
                let next = if self.scan.observer.is_cancelled() { Vec::new() } else { self.look(task, &mut names) };
                match queue.done(next) {
                    Some(next) => task = next,
                    None => break,
                }
            }
        }
        self.found
    }

    /// Looks at a directory and says which subdirectories are to be looked at.
    fn look(&mut self, task: Task<'a>, names: &mut Names) -> Vec<Task<'a>> {
        let Some(directory) = self.enter(&task) else {
            self.finish(task.above, &task.path, task.name_at, None);
            return Vec::new();
        };
        let mut scope = task.scope.clone();
        let mut gathering = Gathering::new(self.scan.key, &self.owners, &task.facts);
        let mut below = Vec::new();
        if !self.list(&directory, &task, (&mut scope, names), &mut gathering, &mut below) {
            gathering.spoil();
        }
        if below.is_empty() {
            self.finish(task.above, &task.path, task.name_at, gathering.finish());
            return Vec::new();
        }
        let rest = Mutex::new(Rest { gathering: Some(gathering), to_come: below.len() });
        let node = Arc::new(Node { above: task.above, path: task.path, name_at: task.name_at, device: task.facts.device, directory, rest });
        // In the order of their names, as the last one comes first.
        let task = |(name, facts): (Vec<u8>, Facts)| {
            let mut path = Vec::with_capacity(node.path.len() + 1 + name.len());
            path.extend_from_slice(&node.path);
            path.extend((!path.is_empty()).then_some(b'/'));
            let name_at = path.len();
            path.extend_from_slice(&name);
            let (above, scope) = (Some(Arc::clone(&node)), scope.of_child(&name));
            Task { above, path, name_at, facts, scope, directory: None }
        };
        below.into_iter().rev().map(task).collect()
    }

    /// Opens a directory that the walk would list.
    fn enter(&self, task: &Task<'a>) -> Option<Directory> {
        let (scan, facts) = (self.scan, &task.facts);
        if scan.never.contains(&(facts.device, facts.inode)) || !self.sieve.enters(&task.scope, facts.device) {
            return None;
        }
        let name = std::ffi::CString::new(task.path.get(task.name_at..)?).ok()?;
        let directory = match (&task.above, &task.directory) {
            (Some(above), _) => scan.source.open_named(&above.directory, &name).ok()?,
            (None, directory) => directory.clone()?,
        };
        // Only a mount leads into another file system.
        let is_mount = task.above.as_ref().is_none_or(|above| above.device != facts.device);
        let is_saved = !(is_mount && scan.source.is_pseudo(&directory)) && scan.source.has_lasting_inodes(&directory, facts);
        is_saved.then_some(directory)
    }

    /// Gathers what is in a directory. Whether the walk would save all of it and tell nothing.
    fn list(
        &self,
        directory: &Directory,
        task: &Task<'a>,
        (scope, names): (&mut Scope, &mut Names),
        gathering: &mut Gathering<'a>,
        below: &mut Vec<(Vec<u8>, Facts)>,
    ) -> bool {
        let (source, mut is_clean) = (self.scan.source, true);
        if source.list_into(directory, names).is_err() {
            return false;
        }
        let is_telling = names.iter().any(|name| self.sieve.is_telling(name.to_bytes()));
        if is_telling {
            let (Ok(path), all) = (TreePath::parse(&task.path), names.iter().filter_map(|name| Name::new(name.to_bytes()).ok())) else {
                return false;
            };
            let (_, findings) = self.sieve.names(source, directory, all.collect(), (scope, &path));
            if scope.is_marked() {
                return false;
            }
            is_clean = findings.is_empty();
        }
        let takes_all = self.sieve.takes_all(scope);
        for name in names.iter() {
            let bytes = name.to_bytes();
            let Ok(facts) = source.facts(directory, name) else {
                is_clean = false;
                continue;
            };
            let is_taken = takes_all || Name::new(bytes).is_ok_and(|name| self.sieve.takes(scope, &facts.outline(name)));
            let is_directory = facts.kind == EntryKind::Directory;
            if !is_taken || !is_directory && self.scan.never.contains(&(facts.device, facts.inode)) {
                is_clean = false;
            } else if is_directory {
                below.push((bytes.into(), facts));
            } else {
                // A file mounted from elsewhere may be of a file system that makes up its inodes.
                is_clean &= facts.device == task.facts.device;
                gathering.add(&self.owners, bytes, &facts);
            }
        }
        is_clean
    }

    /// Takes over the result of a directory, and of those above that wait for it alone.
    fn finish(&mut self, mut above: Option<Arc<Node<'a>>>, path: &[u8], name_at: usize, fingerprint: Option<Fingerprint>) {
        self.found.extend(fingerprint.map(|fingerprint| (path_key(self.scan.key, path), fingerprint)));
        let (mut name, mut result) = (path.get(name_at..).unwrap_or_default().to_vec(), fingerprint);
        while let Some(node) = above {
            let mut rest = node.rest.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(gathering) = &mut rest.gathering {
                gathering.add_directory(&name, result);
            }
            rest.to_come -= 1;
            if rest.to_come > 0 {
                return;
            }
            result = rest.gathering.take().and_then(Gathering::finish);
            drop(rest);
            self.found.extend(result.map(|result| (path_key(self.scan.key, &node.path), result)));
            name = node.path.get(node.name_at..).unwrap_or_default().to_vec();
            above = node.above.clone();
        }
    }
}
