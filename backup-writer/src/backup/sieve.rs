//! The rules applied to the walk: which names of a directory are seen, which entries are taken, and how many were not.
//!
//! What is left out is told once for each rule and each file of patterns, not for each entry.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use fs_core::path::{Name, TreePath};
use fs_core::report::{Finding, Place, Severity};
use fs_core::tree::{Entry, EntryKind};

use crate::source::rules::{IGNORE_FILE, Marker, Patterns, Rules, Verdict, lines_of};
use crate::source::{Directory, LiveTree, SourceError};

/// Longest file of patterns that is read, in bytes.
const IGNORE_FILE_SIZE_MAX: usize = 1 << 20;

/// How much was left out by one rule.
#[derive(Clone, Copy, Default)]
struct LeftOut {
    files: u64,
    directories: u64,
}

impl LeftOut {
    fn add(&mut self, kind: EntryKind) {
        *(if kind == EntryKind::Directory { &mut self.directories } else { &mut self.files }) += 1;
    }
}

/// The patterns of one directory.
struct IgnoreFile {
    path: TreePath,
    patterns: Patterns,
    /// Length of the path from the source to its directory, with the slash behind it.
    offset: usize,
    left_out: Mutex<LeftOut>,
}

/// Where a directory stands below its source, and the files of patterns on the way.
#[derive(Clone)]
pub(super) struct Scope {
    /// File system of the source.
    device: (u32, u32),
    /// Path from the source, with a slash at its end; empty for the source itself.
    below: Vec<u8>,
    /// The outermost first.
    ignores: Vec<Arc<IgnoreFile>>,
    /// Only its mark is left of it.
    marked: bool,
}

impl Scope {
    pub(super) fn of_source(device: (u32, u32)) -> Self {
        Self { device, below: Vec::new(), ignores: Vec::new(), marked: false }
    }

    pub(super) fn of_child(&self, name: &[u8]) -> Self {
        let below = [&self.below, name, b"/"].concat();
        Self { device: self.device, below, ignores: self.ignores.clone(), marked: self.marked }
    }

    /// Whether only the mark of the directory is saved.
    pub(super) fn is_marked(&self) -> bool {
        self.marked
    }
}

/// Applies rules and counts.
pub(super) struct Sieve<'a> {
    rules: &'a Rules,
    left_out: RefCell<BTreeMap<String, LeftOut>>,
}

impl<'a> Sieve<'a> {
    pub(super) fn new(rules: &'a Rules) -> Self {
        Self { rules, left_out: RefCell::default() }
    }

    /// The names of a directory that are looked at, of all that it has, sorted. Learns its patterns; says what is wrong with them.
    pub(super) fn names(
        &self,
        source: &LiveTree,
        directory: &Directory,
        names: Vec<Name>,
        (scope, path): (&mut Scope, &TreePath),
    ) -> (Vec<Name>, Vec<Finding>) {
        let begins = |marker: &Marker| source.beginning(directory, &marker.name, marker.header.len()).is_ok_and(|b| b == marker.header);
        let is_there = |marker: &Marker| names.binary_search(&marker.name).is_ok();
        let is_marked = |marker: &&Marker| is_there(marker) && (marker.header.is_empty() || begins(marker));
        if !scope.below.is_empty()
            && let Some(marker) = self.rules.markers.iter().find(is_marked)
        {
            self.count(&format!("but for the folder itself, where there is a {}", marker.name), EntryKind::Directory);
            scope.marked = true;
            return (vec![marker.name.clone()], Vec::new());
        }
        let ignore_file = names.iter().find(|name| self.rules.ignore_files && name.as_bytes() == IGNORE_FILE.as_bytes());
        let findings = ignore_file.map(|name| learn(source, directory, scope, path.join(name.clone()))).unwrap_or_default();
        (names, findings)
    }

    /// Whether a name says something about the directory that it is in.
    pub(super) fn is_telling(&self, name: &[u8]) -> bool {
        self.rules.ignore_files && name == IGNORE_FILE.as_bytes() || self.rules.markers.iter().any(|marker| marker.name.as_bytes() == name)
    }

    /// Whether every entry of a directory is saved, whatever it is.
    pub(super) fn takes_all(&self, scope: &Scope) -> bool {
        let Rules { patterns, size_max, modified_min, modified_max, .. } = self.rules;
        let has_limits = size_max.is_some() || modified_min.is_some() || modified_max.is_some();
        !scope.marked && !has_limits && patterns.is_empty() && scope.ignores.is_empty()
    }

    /// Whether an entry of a directory is saved.
    pub(super) fn takes(&self, scope: &Scope, entry: &Entry) -> bool {
        if scope.marked {
            // A mark that is a folder would bring its contents along.
            return entry.kind != EntryKind::Directory;
        }
        if let Some(rule) = self.rules.left_out_as(entry) {
            self.count(rule, entry.kind);
            return false;
        }
        if self.rules.patterns.is_empty() && scope.ignores.is_empty() {
            return true;
        }
        let (path, is_directory) = ([&scope.below, entry.name_bytes()].concat(), entry.kind == EntryKind::Directory);
        match self.rules.patterns.decide(&path, is_directory) {
            Verdict::Out(pattern) => {
                self.count(&format!("by {pattern}"), entry.kind);
                return false;
            }
            Verdict::In => return true,
            Verdict::Silent => {}
        }
        for ignores in scope.ignores.iter().rev() {
            match ignores.patterns.decide(path.get(ignores.offset..).unwrap_or_default(), is_directory) {
                Verdict::Out(_) => {
                    ignores.left_out.lock().unwrap_or_else(PoisonError::into_inner).add(entry.kind);
                    return false;
                }
                Verdict::In => return true,
                Verdict::Silent => {}
            }
        }
        true
    }

    /// Whether what is in a directory is saved, as far as its file system tells. Only directories are asked: in layered file systems
    /// files have numbers of their layer.
    pub(super) fn enters(&self, scope: &Scope, device: (u32, u32)) -> bool {
        let enters = !self.rules.one_file_system || device == scope.device;
        if !enters {
            self.count("on other file systems", EntryKind::Directory);
        }
        enters
    }

    /// What the patterns of a directory left out, now that everything below it was seen.
    pub(super) fn leave(&self, scope: &Scope) -> Option<Finding> {
        let own = scope.ignores.last().filter(|ignores| ignores.offset == scope.below.len())?;
        let left_out = *own.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        told("", left_out).map(|message| Finding::at(Severity::Note, own.path.clone(), message))
    }

    /// What the rules of the run left out.
    pub(super) fn finish(self) -> Vec<Finding> {
        let finding = |(rule, left_out): (String, LeftOut)| {
            let message = told(&format!(" {rule}"), left_out)?;
            Some(Finding { severity: Severity::Note, place: Place::Operation, message })
        };
        self.left_out.into_inner().into_iter().filter_map(finding).collect()
    }

    fn count(&self, rule: &str, kind: EntryKind) {
        self.left_out.borrow_mut().entry(rule.into()).or_default().add(kind);
    }
}

/// Adds the patterns of a directory to its scope.
fn learn(source: &LiveTree, directory: &Directory, scope: &mut Scope, path: TreePath) -> Vec<Finding> {
    let Some(name) = path.last() else { return Vec::new() };
    let bytes = match source.beginning(directory, name, IGNORE_FILE_SIZE_MAX + 1) {
        Ok(bytes) if bytes.len() <= IGNORE_FILE_SIZE_MAX => bytes,
        Ok(_) => return vec![Finding::at(Severity::Warning, path, "too long for a file of patterns: it leaves nothing out")],
        // A folder or a link of that name is no file of patterns.
        Err(SourceError::Replaced) => return Vec::new(),
        Err(error) => return vec![Finding::at(Severity::Warning, path, format!("its patterns leave nothing out: {error}"))],
    };
    let (patterns, errors) = Patterns::parse(&lines_of(&path.to_string(), &bytes));
    let findings = errors.iter().map(|error| Finding { severity: Severity::Warning, place: Place::Operation, message: error.to_string() });
    let findings = findings.collect();
    if !patterns.is_empty() {
        scope.ignores.push(Arc::new(IgnoreFile { path, patterns, offset: scope.below.len(), left_out: Mutex::default() }));
    }
    findings
}

fn told(rule: &str, left_out: LeftOut) -> Option<String> {
    let counted = |count: u64, one: &str| (count > 0).then(|| if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") });
    let parts: Vec<_> = [counted(left_out.files, "file"), counted(left_out.directories, "folder")].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("left out{rule}: {}", parts.join(" and ")))
}
