//! Small files in groups: those that the walk meets one after the other are read by one reader and become fragments of one record, because they compress
//! better together, and because a thousand records cost more than ten.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use fs_core::chunker::Chunker;
use fs_core::compress::Compression;
use fs_core::crypto;
use fs_core::object::ObjectError;
use fs_core::path::Name;
use fs_core::record::RecordKind;
use fs_core::tree::Content;

use super::BackupError;
use super::pulse::Pulse;
use super::read::{FileJob, FileReader, Origin, Piece, ReadStop};
use crate::packer::{PackError, Part, Sealed, Shared, Stage};
use crate::source::{Directory, LiveTree, SourceError, SourceFile, Stamp};

/// Bytes of a group. With twice as many the record of a small file takes twice as long to open, and real files become 5 % smaller.
const BYTES: u64 = 512 << 10;
/// Files of a group: each may hold a folder open.
const FILES_MAX: usize = 128;
/// A file that has grown beyond this since it was listed is saved with the size that it had then.
const GROWN_MAX: u64 = 1 << 20;
/// Bytes that are read at a time of what is longer than it was.
const STEP: u64 = 64 << 10;

/// A group to read.
pub(super) struct GroupJob {
    /// Groups count in the order of the walk.
    number: u32,
    members: Vec<Member>,
    results: Sender<Result<GroupResult, PackError>>,
}

struct Member {
    directory: Directory,
    name: Name,
    stamp: Stamp,
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
    },
    /// It is cut by itself; here are its chunks.
    Alone(Receiver<Piece>),
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
    jobs: Sender<GroupJob>,
    count: u32,
    open: Option<(GroupJob, u64, Rc<Group>)>,
}

impl Groups {
    pub(super) fn new(jobs: Sender<GroupJob>) -> Self {
        Self { jobs, count: 0, open: None }
    }

    /// Adds a file to the group that is open, and sends that to the readers when it is full.
    pub(super) fn add(&mut self, directory: Directory, name: Name, stamp: Stamp) -> Rc<Group> {
        let (mut job, bytes, group) = self.open.take().unwrap_or_else(|| {
            let (results, receiver) = bounded(1);
            self.count += 1;
            let group = Rc::new(Group { results: receiver, taken: RefCell::default() });
            (GroupJob { number: self.count, members: Vec::new(), results }, 0, group)
        });
        let bytes = bytes + stamp.size;
        job.members.push(Member { directory, name, stamp });
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

    fn send(&mut self) {
        if let Some((job, _, _)) = self.open.take() {
            // The readers end only with the run; whoever waits for the group will find that out.
            let _ = self.jobs.send(job);
        }
    }
}

/// Reads groups until there are no more.
pub(super) fn serve(jobs: &Receiver<GroupJob>, shared: &Shared, source: &LiveTree, chunker: &Chunker, compression: Compression) {
    let mut reader = FileReader::new(shared, chunker, compression);
    let mut plain = Vec::new();
    for job in jobs {
        plain.clear();
        // If nobody takes it, the run was given up and the next job will not come.
        let _ = job.results.send(shared.busy(Stage::Read, || read_group(&mut reader, source, &job, &mut plain)));
    }
}

fn read_group(reader: &mut FileReader<'_>, source: &LiveTree, job: &GroupJob, plain: &mut Vec<u8>) -> Result<GroupResult, PackError> {
    let (mut members, mut parts) = (VecDeque::with_capacity(job.members.len()), Vec::new());
    for member in &job.members {
        if !reader.shared().pace().pass() {
            return Err(PackError::Stopped);
        }
        members.push_back(match read_member(reader, source, (member, job.number), (plain, &mut parts)) {
            Ok(result) => result,
            Err(ReadStop::Source(error)) => MemberResult::Failed(error),
            Err(ReadStop::Repository(error)) => return Err(error),
            Err(ReadStop::Stream(_) | ReadStop::Abandoned) => MemberResult::Failed(SourceError::Vanished),
        });
    }
    let record = if plain.is_empty() { None } else { Some(reader.seal(RecordKind::Data, plain)?) };
    Ok(GroupResult { record, parts, members })
}

fn read_member(
    reader: &mut FileReader<'_>,
    source: &LiveTree,
    (member, number): (&Member, u32),
    (plain, parts): (&mut Vec<u8>, &mut Vec<Part>),
) -> Result<MemberResult, ReadStop> {
    let Member { directory, name, stamp } = member;
    let (file, before) = source.open_file(directory, name, stamp)?;
    if before.size <= GROWN_MAX && file.extents(&before)?.is_some() {
        return alone(reader, source, member);
    }
    let start = plain.len();
    let result =
        read_whole(&file, stamp, plain).and_then(|changed| Ok((changed, hash(reader.shared(), plain.get(start..).unwrap_or_default())?)));
    let (changed, file_hash) = result.inspect_err(|_| plain.truncate(start))?;
    let size = plain.len() - start;
    let Some(hash) = file_hash else { return Ok(MemberResult::Read { size: 0, file_hash: None, known: None, changed }) };
    let shared = reader.shared();
    let known = shared.fragment(&hash)?;
    if known.is_some() || !shared.claim(&hash, number) {
        plain.truncate(start);
    } else {
        let number = |length: usize| u32::try_from(length).map_err(|_| PackError::from(ObjectError::Broken("a group is too long")));
        parts.push(Part { hash, start: number(start)?, length: number(size)? });
    }
    Ok(MemberResult::Read { size: size as u64, file_hash, known, changed })
}

/// Reads a file to its end. Says whether it was written to meanwhile.
fn read_whole(file: &SourceFile, stamp: &Stamp, plain: &mut Vec<u8>) -> Result<bool, ReadStop> {
    let (start, listed) = (plain.len(), stamp.size.min(GROWN_MAX));
    loop {
        let (end, read) = (plain.len(), (plain.len() - start) as u64);
        let wanted = if read == 0 { listed + 1 } else { STEP }.min(GROWN_MAX + 1 - read);
        if wanted == 0 {
            plain.truncate(start + usize::try_from(listed).unwrap_or(0));
            break;
        }
        plain.resize(end + usize::try_from(wanted).unwrap_or(0), 0);
        let count = file.read(plain.get_mut(end..).unwrap_or_default())?;
        plain.truncate(end + count);
        // A short answer is the end only where the end was expected.
        if count == 0 || read + count as u64 == listed {
            break;
        }
    }
    let after = file.stamp()?;
    let is_other = (after.size, after.mtime, after.ctime) != (stamp.size, stamp.mtime, stamp.ctime);
    Ok(is_other || after.size != (plain.len() - start) as u64)
}

fn hash(shared: &Shared, bytes: &[u8]) -> Result<Option<[u8; 32]>, ReadStop> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let key = shared.repository().ring().current().file.as_ref().ok_or(PackError::Key(ObjectError::NotAllowed))?;
    Ok(Some(crypto::keyed_hash(key, &[bytes])))
}

/// A file with holes keeps them: it is read as larger ones are.
fn alone(reader: &mut FileReader<'_>, source: &LiveTree, member: &Member) -> Result<MemberResult, ReadStop> {
    let Member { directory, name, stamp } = member;
    let (results, pieces) = unbounded();
    let origin = Origin::Listed { directory: directory.clone(), name: name.clone(), stamp: *stamp };
    let job = FileJob { origin, block_size: None, results };
    let end = reader.read(source, &job)?;
    let _ = job.results.send(Piece::End(Ok(end)));
    Ok(MemberResult::Alone(pieces))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of a file of `now` bytes that had `listed` bytes when it was listed.
    fn read(listed: u64, now: usize) -> (usize, bool) {
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
        (plain.len() - before, changed)
    }

    #[test]
    fn a_file_that_grows_or_shrinks_is_read_to_its_end_and_not_without_end() {
        assert_eq!(read(0, 0), (0, false));
        assert_eq!(read(5000, 5000), (5000, false));
        assert_eq!(read(5000, 0), (0, true));
        assert_eq!(read(5000, 4999), (4999, true));
        assert!(read(5000, 5001).1);
        assert_eq!(read(0, 300_000), (300_000, true));
        let most = usize::try_from(GROWN_MAX).unwrap();
        assert_eq!(read(5000, most + 1), (5000, true), "as much as was there when it was listed");
    }
}
