//! Small files in groups: those that the walk meets one after the other are read by one reader and become fragments of one record, because they compress
//! better together, and because a thousand records cost more than ten.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use crossbeam_channel::{Receiver, Sender, bounded};
use fs_core::crypto;
use fs_core::object::ObjectError;
use fs_core::path::Name;
use fs_core::tree::Content;

use super::BackupError;
use super::again::{self, SavedFile, Trouble};
use super::pulse::Pulse;
use super::read::{FileJob, FileReader, Origin, Piece, ReadStop};
use crate::packer::{PackError, Part, Sealed, Shared, Stage};
use crate::source::{Attributes, Directory, LiveTree, SourceError, SourceFile, Stamp};

/// Bytes of a group. With twice as many the record of a small file takes twice as long to open, and real files become 5 % smaller.
const BYTES: u64 = 512 << 10;
/// Files of a group: each may hold a folder open.
const FILES_MAX: usize = 128;
/// A file that has grown beyond this since it was listed is read like a large one.
const GROWN_MAX: u64 = 256 << 10;
/// Bytes of a group whose files have grown: the rest of them is read like large ones.
const GROUP_MAX: usize = 4 << 20;
/// Bytes that are read at a time of what is longer than it was.
const STEP: u64 = 64 << 10;

/// What the readers of small files do.
pub(super) enum SmallJob {
    Group(GroupJob),
    /// A file that somebody waits for, and that proved to be no small one.
    Aside(FileJob),
}

/// A group to read.
pub(super) struct GroupJob {
    /// Groups count in the order of the walk.
    number: u32,
    members: Vec<Member>,
    results: Sender<Result<GroupResult, PackError>>,
}

/// A small file.
#[derive(Clone)]
pub(super) enum Member {
    /// As it was listed.
    Listed { directory: Directory, name: Name, stamp: Stamp },
    /// Of another repository.
    Saved(SavedFile),
}

impl From<Member> for Origin {
    fn from(member: Member) -> Self {
        match member {
            Member::Listed { directory, name, stamp } => Self::Listed { directory, name, stamp },
            Member::Saved(file) => Self::Saved(file),
        }
    }
}

/// What has become of a group.
pub(super) struct GroupResult {
    /// Its record; `None` if the repository has all of its files.
    record: Option<Sealed>,
    parts: Vec<Part>,
    /// By member, in order.
    members: VecDeque<MemberResult>,
}

/// What has become of one file.
pub(super) enum MemberResult {
    Read {
        size: u64,
        /// `None` only for an empty file.
        file_hash: Option<[u8; 32]>,
        /// Where the repository has it; `None` if this run places it.
        known: Option<Content>,
        /// It was written to while it was read.
        changed: bool,
        /// `None` if they are known.
        attributes: Option<Attributes>,
    },
    /// It has holes, or has grown: it is to be read like a large one.
    Aside(Member),
    Failed(SourceError),
}

/// A group whose members wait to be gathered.
pub(super) struct Group {
    results: Receiver<Result<GroupResult, PackError>>,
    taken: RefCell<Option<VecDeque<MemberResult>>>,
}

impl Group {
    /// Whether its members can be gathered without waiting.
    pub(super) fn is_there(&self) -> bool {
        !self.results.is_empty() || self.taken.borrow().is_some()
    }

    /// The result of the next member, in order. The first one waits for all of them, and `place` puts their record into a pack.
    ///
    /// # Errors
    /// Of the repository, or if somebody wants an end; `None` if the readers have ended.
    pub(super) fn next(
        &self,
        pulse: Pulse<'_>,
        place: impl FnOnce(Option<Sealed>, &[Part]) -> Result<(), PackError>,
    ) -> Result<Option<MemberResult>, BackupError> {
        let mut taken = self.taken.borrow_mut();
        if taken.is_none() {
            let Some(result) = pulse.next(&self.results)? else { return Ok(None) };
            let GroupResult { record, parts, members } = result?;
            place(record, &parts)?;
            *taken = Some(members);
        }
        Ok(taken.as_mut().and_then(VecDeque::pop_front))
    }
}

/// The group that is being put together.
pub(super) struct Groups {
    jobs: Sender<SmallJob>,
    count: u32,
    open: Option<(GroupJob, u64, Rc<Group>)>,
}

impl Groups {
    pub(super) fn new(jobs: Sender<SmallJob>) -> Self {
        Self { jobs, count: 0, open: None }
    }

    /// Adds a file to the group that is open, and sends that to the readers when it is full.
    pub(super) fn add(&mut self, member: Member, size: u64) -> Rc<Group> {
        let (mut job, bytes, group) = self.open.take().unwrap_or_else(|| {
            let (results, receiver) = bounded(1);
            self.count += 1;
            let group = Rc::new(Group { results: receiver, taken: RefCell::default() });
            (GroupJob { number: self.count, members: Vec::new(), results }, 0, group)
        });
        let bytes = bytes + size;
        job.members.push(member);
        let is_full = bytes >= BYTES || job.members.len() >= FILES_MAX;
        self.open = Some((job, bytes, Rc::clone(&group)));
        if is_full {
            self.send();
        }
        group
    }

    /// Sends a group to the readers if it is the one that is open: somebody waits for it.
    pub(super) fn want(&mut self, group: &Rc<Group>) {
        if self.open.as_ref().is_some_and(|(_, _, open)| Rc::ptr_eq(open, group)) {
            self.send();
        }
    }

    /// Has a file read that is gathered now. Readers of large files may all wait for us with what comes later, those of small ones never do.
    pub(super) fn aside(&self, member: Member) -> Receiver<Piece> {
        let (job, pieces) = FileJob::new(member.into(), None);
        let _ = self.jobs.send(SmallJob::Aside(job));
        pieces
    }

    fn send(&mut self) {
        if let Some((job, _, _)) = self.open.take() {
            // The readers end only with the run; whoever waits for the group will find that out.
            let _ = self.jobs.send(SmallJob::Group(job));
        }
    }
}

/// Reads groups until there are no more.
pub(super) fn serve(jobs: &Receiver<SmallJob>, source: &LiveTree, mut reader: FileReader<'_>) {
    let mut plain = Vec::new();
    for job in jobs {
        // If nobody takes it, the run was given up and the next job will not come.
        match job {
            SmallJob::Group(job) => {
                plain.clear();
                let _ = job.results.send(reader.shared().busy(Stage::Read, || read_group(&mut reader, source, &job, &mut plain)));
            }
            SmallJob::Aside(job) => reader.serve(source, &job),
        }
    }
}

fn read_group(reader: &mut FileReader<'_>, source: &LiveTree, job: &GroupJob, plain: &mut Vec<u8>) -> Result<GroupResult, PackError> {
    let (mut members, mut parts) = (VecDeque::with_capacity(job.members.len()), Vec::new());
    let saved = job.members.iter().filter_map(|member| match member {
        Member::Saved(file) => Some(file),
        Member::Listed { .. } => None,
    });
    let mut landed = again::land(&saved.collect::<Vec<_>>());
    for member in &job.members {
        if !reader.shared().pace().pass() {
            return Err(PackError::Stopped);
        }
        let filled = match member {
            Member::Listed { directory, name, stamp } => fill_listed(source, (directory, name, stamp), plain),
            Member::Saved(_) => fill_saved(landed.pop_front(), plain),
        };
        let result = filled.and_then(|filled| match filled {
            Some(filled) => placed(reader, job.number, filled, (plain, &mut parts)),
            None => Ok(MemberResult::Aside(member.clone())),
        });
        members.push_back(match result {
            Ok(result) => result,
            Err(ReadStop::Source(error)) => MemberResult::Failed(error),
            Err(ReadStop::Repository(error)) => return Err(error),
            Err(ReadStop::Stream(_) | ReadStop::Abandoned) => MemberResult::Failed(SourceError::Vanished),
        });
    }
    let record = if plain.is_empty() { None } else { Some(reader.seal(plain)?) };
    Ok(GroupResult { record, parts, members })
}

/// A file whose bytes stand at the end of a group.
struct Filled {
    /// Where it begins.
    start: usize,
    changed: bool,
    attributes: Option<Attributes>,
}

/// Reads a file as it was listed; `None` if it is to be read like a large one.
fn fill_listed(
    source: &LiveTree,
    (directory, name, stamp): (&Directory, &Name, &Stamp),
    plain: &mut Vec<u8>,
) -> Result<Option<Filled>, ReadStop> {
    let (file, before) = source.open_file(directory, name, stamp)?;
    let start = plain.len();
    if before.size > GROWN_MAX || start > GROUP_MAX || file.extents(&before)?.is_some() {
        return Ok(None);
    }
    let attributes = Some(file.attributes());
    match read_whole(&file, stamp, plain) {
        Ok(Some(changed)) => Ok(Some(Filled { start, changed, attributes })),
        Ok(None) => {
            plain.truncate(start);
            Ok(None)
        }
        Err(error) => {
            plain.truncate(start);
            Err(error)
        }
    }
}

/// Takes what came of another repository.
fn fill_saved(came: Option<Result<Vec<u8>, Trouble>>, plain: &mut Vec<u8>) -> Result<Option<Filled>, ReadStop> {
    let start = plain.len();
    let Some(bytes) = came.transpose()? else { return Ok(None) };
    plain.extend_from_slice(&bytes);
    Ok(Some(Filled { start, changed: false, attributes: None }))
}

/// Says where the bytes of a file go: into the record of the group, unless they are somewhere already.
fn placed(
    reader: &FileReader<'_>,
    number: u32,
    Filled { start, changed, attributes }: Filled,
    (plain, parts): (&mut Vec<u8>, &mut Vec<Part>),
) -> Result<MemberResult, ReadStop> {
    let file_hash = hash(reader.shared(), plain.get(start..).unwrap_or_default())?;
    let size = plain.len() - start;
    let Some(hash) = file_hash else { return Ok(MemberResult::Read { size: 0, file_hash: None, known: None, changed, attributes }) };
    let shared = reader.shared();
    let known = shared.fragment(&hash)?;
    if known.is_some() || !shared.claim(&hash, number)? {
        plain.truncate(start);
    } else {
        let number = |length: usize| u32::try_from(length).map_err(|_| PackError::from(ObjectError::Broken("a group is too long")));
        parts.push(Part { hash, start: number(start)?, length: number(size)? });
    }
    Ok(MemberResult::Read { size: size as u64, file_hash, known, changed, attributes })
}

/// Reads a file to its end. Says whether it was written to meanwhile; `None` if it is no small one any more.
fn read_whole(file: &SourceFile, stamp: &Stamp, plain: &mut Vec<u8>) -> Result<Option<bool>, ReadStop> {
    let (start, listed) = (plain.len(), stamp.size.min(GROWN_MAX));
    loop {
        let (end, read) = (plain.len(), (plain.len() - start) as u64);
        // One byte more than expected, so that the end is seen with the first call.
        let wanted = if read == 0 { listed + 1 } else { STEP };
        plain.resize(end + usize::try_from(wanted).unwrap_or(0), 0);
        let count = file.read(plain.get_mut(end..).unwrap_or_default())?;
        plain.truncate(end + count);
        let read = read + count as u64;
        if read > GROWN_MAX {
            return Ok(None);
        }
        // A short answer is the end only where the end was expected.
        if count == 0 || read == listed {
            break;
        }
    }
    let after = file.stamp()?;
    Ok(Some(stamp.has_changed(&after) || after.size != (plain.len() - start) as u64))
}

fn hash(shared: &Shared, bytes: &[u8]) -> Result<Option<[u8; 32]>, ReadStop> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let key = shared.repository().ring().current().file.as_ref().ok_or(PackError::Key(ObjectError::NotAllowed))?;
    Ok(Some(crypto::keyed_hash(key, &[bytes])))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of a file of `now` bytes that had `listed` bytes when it was listed.
    fn read(listed: u64, now: usize) -> Option<(usize, bool)> {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        std::fs::write(&path, vec![7; usize::try_from(listed).unwrap()]).unwrap();
        let (source, name) = (LiveTree::new(false), Name::new(&b"file"[..]).unwrap());
        let (directory, _) = source.at(place.path()).unwrap();
        let stamp = source.entry(&directory, &name).unwrap().stamp;
        if now as u64 != listed {
            std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(now as u64).unwrap();
        }
        let (file, _) = source.open_file(&directory, &name, &stamp).unwrap();
        let mut plain = b"what stands before".to_vec();
        let before = plain.len();
        let Ok(changed) = read_whole(&file, &stamp, &mut plain) else { panic!("it can be read") };
        assert!(plain.starts_with(b"what stands before"));
        Some((plain.len() - before, changed?))
    }

    #[test]
    fn a_file_that_grows_or_shrinks_is_read_to_its_end_and_not_without_end() {
        assert_eq!(read(0, 0), Some((0, false)));
        assert_eq!(read(5000, 5000), Some((5000, false)));
        assert_eq!(read(5000, 0), Some((0, true)));
        assert_eq!(read(5000, 4999), Some((4999, true)));
        assert!(read(5000, 5001).is_some_and(|(length, changed)| changed && (5000..=5001).contains(&length)));
        assert_eq!(read(0, 200_000), Some((200_000, true)));
        let most = usize::try_from(GROWN_MAX).unwrap();
        assert_eq!((read(5000, most), read(5000, most + 1)), (Some((most, true)), None), "a large one is read like large ones");
    }
}
