//! One file on its way: made with the first record that comes for it, complete when nobody holds it any more.

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use fs_core::crypto::{self, StreamHash};
use fs_core::path::{Name, TreePath};
use fs_core::record::Reference;
use fs_core::report::Severity;
use fs_core::tree::page::Found;
use fs_core::tree::proof::hash_map;
use fs_core::tree::{Content, Entry, Extent};

use super::Run;
use super::decide::{Decision, WRITING};
use super::folder::Folder;
use super::held::Counted;
use crate::metadata::{Before, Subject};
use crate::system;

/// Bytes read back at a time.
const STEP: u64 = 4 << 20;

/// An entry where it stands in its page, or by itself.
#[derive(Clone, Debug)]
pub(super) enum Line {
    InPage(Found),
    Alone(Arc<Entry>),
}

impl std::ops::Deref for Line {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        match self {
            Self::InPage(found) => found.entry(),
            Self::Alone(entry) => entry,
        }
    }
}

/// A file that is being written. Each of its records that is on its way holds it.
#[derive(Debug)]
pub(super) struct Target {
    folder: Arc<Folder>,
    pub(super) line: Line,
    /// Its name when it is complete.
    name: Name,
    /// Its name until then, if that is another one.
    temporary: Option<Name>,
    /// The same where modes are not kept, so that a mode cannot say that it is not complete.
    unmarked: OnceLock<Name>,
    /// It has old bytes.
    is_patched: bool,
    /// An old file is open before anything comes for it, one of several records until the last of them comes.
    _counted: Option<Counted>,
    file: OnceLock<Result<File, String>>,
    /// Where in the content each extent begins, if it has holes.
    starts: Vec<u64>,
    written: AtomicU64,
    failed: Mutex<Option<String>>,
}

/// A record's place in a file.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) target: Arc<Target>,
    /// Where it begins in the content, holes left out.
    pub(super) start: u64,
    /// Which bytes of the record are meant, if not all.
    pub(super) part: Option<Range<usize>>,
}

impl Target {
    /// What `decision` says, for an entry of a directory.
    pub(super) fn new(run: &Run<'_>, folder: &Arc<Folder>, line: Line, decision: Decision) -> Arc<Self> {
        let (name, temporary, patched) = match decision {
            Decision::Make(name) => (name, None, None),
            Decision::Patch(name, file) => (name, None, Some(file)),
            Decision::Replace(name) => {
                let temporary = run.temporary_name(&name);
                let left_behind = run.left_behind(folder, &temporary, &line);
                (name, Some(temporary), left_behind)
            }
        };
        let starts = line.sparse.iter().flatten().scan(0, |end, extent| {
            let start = *end;
            *end += extent.length;
            Some(start)
        });
        let starts = starts.collect();
        let (is_patched, file) = (patched.is_some(), patched.map_or_else(OnceLock::new, |file| OnceLock::from(Ok(file))));
        let is_long = match &line.content {
            Content::Inline(references) => references.len() > 1,
            Content::Fragment { .. } => false,
            Content::List { .. } => true,
        };
        let (folder, counted) = (Arc::clone(folder), (is_patched || is_long).then(|| run.held.count()));
        Arc::new(Self {
            _counted: counted,
            folder,
            line,
            name,
            temporary,
            unmarked: OnceLock::new(),
            is_patched,
            file,
            starts,
            written: AtomicU64::new(0),
            failed: Mutex::default(),
        })
    }

    /// Where it belongs, for people.
    pub(super) fn path(&self) -> TreePath {
        self.line.name.clone().map_or(TreePath::ROOT, |name| self.folder.path.join(name))
    }

    /// Under which name it is until it is complete.
    fn stands_as(&self) -> &Name {
        self.temporary.as_ref().or_else(|| self.unmarked.get()).unwrap_or(&self.name)
    }

    /// Notes why it cannot be completed. The first reason counts.
    pub(super) fn fail(&self, reason: String) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
    }

    /// Whether the old bytes of a file are those of a record already.
    pub(super) fn has(&self, run: &Run<'_>, reference: &Reference, start: u64) -> bool {
        self.old_bytes(start, reference.plain_len.into()).is_some_and(|bytes| run.repository.is_record(reference, &bytes))
    }

    /// Whether the old bytes of a small file are all that it holds.
    pub(super) fn has_all(&self, run: &Run<'_>) -> bool {
        let proof = self.line.proof(run.repository.ring());
        proof.is_some_and(|proof| {
            self.old_bytes(0, self.line.size).is_some_and(|bytes| crypto::keyed_hash(&proof.key, &[&bytes]) == proof.hash)
        })
    }

    /// What stands where these bytes of the content belong; `None` if there are no old bytes, or fewer.
    fn old_bytes(&self, start: u64, length: u64) -> Option<Vec<u8>> {
        let Some(Ok(file)) = self.file.get().filter(|_| self.is_patched) else { return None };
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        let mut rest = &mut bytes[..];
        for (offset, length) in self.places(start, rest.len()) {
            let (part, after) = std::mem::take(&mut rest).split_at_mut_checked(length)?;
            system::read_exact_at(file, part, offset).ok()?;
            rest = after;
        }
        Some(bytes)
    }

    /// Where in the file a stretch of the content lies: offsets and lengths.
    fn places(&self, start: u64, length: usize) -> Vec<(u64, usize)> {
        let Some(extents) = &self.line.sparse else { return vec![(start, length)] };
        let (mut at, mut left, mut places) = (start, length, Vec::new());
        let first = self.starts.partition_point(|begin| *begin <= start).saturating_sub(1);
        for (extent, begin) in extents.iter().zip(&self.starts).skip(first) {
            let within = at - begin;
            let here = usize::try_from(extent.length.saturating_sub(within)).unwrap_or(usize::MAX).min(left);
            places.push((extent.offset + within, here));
            (at, left) = (at + here as u64, left - here);
            if left == 0 {
                break;
            }
        }
        places
    }
}

/// The bytes of a file that are no holes.
pub(super) fn data_length(entry: &Entry) -> u64 {
    entry.sparse.as_ref().map_or(entry.size, |extents| extents.iter().map(|extent| extent.length).sum())
}

/// Makes holes where the saved file has some.
pub(super) fn punch_holes(file: &File, entry: &Entry) -> std::io::Result<()> {
    let Some(extents) = &entry.sparse else { return Ok(()) };
    let size = file.metadata()?.len().min(entry.size);
    let mut at = 0;
    for extent in extents.iter().copied().chain([Extent { offset: size, length: 0 }]) {
        let end = extent.offset.min(size);
        if end > at {
            system::punch_hole(file, at, end - at)?;
        }
        at = extent.offset + extent.length;
    }
    Ok(())
}

impl Run<'_> {
    /// What a cut has left of a file that was to replace another one.
    fn left_behind(&self, folder: &Folder, temporary: &Name, entry: &Entry) -> Option<File> {
        let directory = self.open(folder).ok()?.fd()?;
        let there = system::look(directory, temporary).ok()?;
        if self.is_unfinished(&there) { self.open_to_patch(directory, temporary, entry) } else { None }
    }

    /// Writes the plaintext of a record, or notes why there is none.
    pub(super) fn write(&self, piece: Piece, plain: Result<&[u8], String>) {
        let Piece { target, start, part } = piece;
        let written = plain.and_then(|plain| {
            let plain = match part {
                None => plain,
                Some(part) => self.fragment(&target, plain.get(part).ok_or("its record is shorter than the file")?)?,
            };
            let file = target.file.get_or_init(|| self.make(&target)).as_ref().map_err(Clone::clone)?;
            let mut rest = plain;
            for (offset, length) in target.places(start, plain.len()) {
                let (part, after) = rest.split_at_checked(length).ok_or("its records are longer than the file")?;
                system::write_all_at(file, part, offset).map_err(|error| error.to_string())?;
                rest = after;
            }
            target.written.fetch_add(plain.len() as u64, Ordering::Relaxed);
            if rest.is_empty() { Ok(()) } else { Err("its records are longer than the file".into()) }
        });
        if let Err(reason) = written {
            target.fail(reason);
        }
        self.done(target);
    }

    /// The bytes of a small file, if they are its own: the id of its record says nothing of where in it the file begins.
    fn fragment<'p>(&self, target: &Target, bytes: &'p [u8]) -> Result<&'p [u8], String> {
        let proof = target.line.proof(self.repository.ring());
        let is_right = proof.is_none_or(|proof| crypto::keyed_hash(&proof.key, &[bytes]) == proof.hash);
        if is_right { Ok(bytes) } else { Err("its record holds something else in its place".into()) }
    }

    fn make(&self, target: &Target) -> Result<File, String> {
        let directory = self.open(&target.folder).map_err(|error| error.to_string())?.fd().ok_or("its folder is not there")?;
        if target.temporary.is_none() && !system::HAS_MODES {
            let _ = target.unmarked.set(self.temporary_name(&target.name));
        }
        let name = target.stands_as();
        let made = system::make_file(directory, name, WRITING).and_then(|made| match made {
            None if *name != target.name => {
                system::remove(directory, name)?;
                system::make_file(directory, name, WRITING)
            }
            made => Ok(made),
        });
        let file = made.map_err(|error| error.to_string())?.ok_or("somebody else has made it meanwhile")?;
        if *name == target.name && !system::look_at(system::lend(&file)).is_ok_and(|made| self.is_unfinished(&made)) {
            // Without modes and owners nobody could see later that it is not complete.
            let temporary = self.temporary_name(&target.name);
            system::rename(directory, &target.name, &temporary).map_err(|error| error.to_string())?;
            let _ = target.unmarked.set(temporary);
        }
        if target.line.sparse.is_some() {
            system::make_sparse(&file).map_err(|error| error.to_string())?;
        }
        Ok(file)
    }

    /// Lets go of a file; the last one to do so completes it.
    pub(super) fn done(&self, target: Arc<Target>) {
        let Some(target) = Arc::into_inner(target) else { return };
        if self.is_over() {
            return;
        }
        let finished = if self.options.dry_run { Ok(()) } else { self.finish(&target) };
        match &finished {
            Ok(()) => self.count(|report| {
                report.file_count += 1;
                report.byte_count += target.line.size;
                report.written_bytes += target.written.load(Ordering::Relaxed);
            }),
            Err(reason) => self.finding(Severity::Error, &target.path(), reason.as_str()),
        }
        if let Some(group) = target.line.link_group {
            self.group_done(group, finished.is_ok().then(|| (target.folder.path.clone(), target.name.clone())));
        }
        self.passed(1, target.line.size);
        self.release(target.folder);
    }

    fn finish(&self, target: &Target) -> Result<(), String> {
        let opened = self.open(&target.folder).map_err(|error| error.to_string())?;
        let directory = opened.fd().ok_or("its folder is not there")?;
        let file = target.file.get_or_init(|| self.make(target)).as_ref().map_err(Clone::clone)?;
        let failed = target.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let completed = failed.map_or(Ok(()), Err).and_then(|()| self.complete(target, file));
        let stands_as = target.stands_as();
        if let Err(reason) = completed {
            if target.is_patched && target.temporary.is_none() {
                return Err(format!("{reason}; what stands there is old in part and new in part, and has a mode of {:o}", WRITING));
            }
            let _ = system::remove(directory, stands_as);
            return Err(reason);
        }
        let before = Before { owner: opened.owner.filter(|_| !target.is_patched), has_more: target.is_patched || opened.hands_down_a_list };
        self.describe(Subject::Open(system::lend(file)), &target.line, before, &target.path());
        if *stands_as == target.name {
            return Ok(());
        }
        system::rename(directory, stands_as, &target.name).map_err(|error| error.to_string())
    }

    /// Everything about the content that is left to do when all records are written.
    fn complete(&self, target: &Target, file: &File) -> Result<(), String> {
        let entry = &*target.line;
        if target.is_patched || entry.sparse.is_some() || target.written.load(Ordering::Relaxed) != entry.size {
            if !target.is_patched && target.written.load(Ordering::Relaxed) != data_length(entry) {
                return Err("its records are shorter than the file".into());
            }
            file.set_len(entry.size).map_err(|error| error.to_string())?;
        }
        if target.is_patched || entry.sparse.is_some() {
            // Its size is final while old bytes or none may still be on the disk: after a power cut nobody could see that.
            system::sync_data(file).map_err(|error| error.to_string())?;
        }
        if self.options.verify { self.verify(file, entry) } else { Ok(()) }
    }

    /// Reads a file back from the disk and compares its hash.
    pub(super) fn verify(&self, file: &File, entry: &Entry) -> Result<(), String> {
        let Some(proof) = entry.proof(self.repository.ring()) else {
            let is_empty = entry.size == 0;
            return if is_empty { Ok(()) } else { Err("it was saved without a hash, so it cannot be verified".into()) };
        };
        // Written out and forgotten by the system, so that what is read comes from the disk.
        system::sync_data(file).map_err(|error| error.to_string())?;
        system::forget(file);
        let whole = [Extent { offset: 0, length: entry.size }];
        let (mut hash, mut buffer) = (StreamHash::keyed(&proof.key), Vec::new());
        for extent in entry.sparse.as_deref().unwrap_or(&whole) {
            let (mut at, end) = (extent.offset, extent.offset + extent.length);
            while at < end {
                buffer.resize(usize::try_from(STEP.min(end - at)).unwrap_or(0), 0);
                system::read_exact_at(file, &mut buffer, at).map_err(|error| error.to_string())?;
                hash.update(&buffer);
                at += buffer.len() as u64;
            }
        }
        if let Some(sparse) = &entry.sparse {
            hash_map(&mut hash, sparse, entry.size);
        }
        if hash.finish() == proof.hash {
            Ok(())
        } else {
            Err("the file read back from the disk differs from the saved one: check the disk".into())
        }
    }
}
