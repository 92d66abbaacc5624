//! Writes single entries: under a temporary name, with their metadata, then renamed into place.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use fs_core::crypto::{StreamHash, random_array};
use fs_core::path::Name;
use fs_core::reader::ContentReader;
use fs_core::report::Severity;
use fs_core::tree::{Entry, EntryKind, Extent};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{FileJob, Run, STEP, chain};
use crate::metadata::{self, MetadataOptions};

impl Run<'_> {
    pub(super) fn write_file(&self, directory: BorrowedFd<'_>, job: &FileJob) -> Result<(), String> {
        let temporary = self.temporary_name();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(directory, temporary.as_bytes(), flags, Mode::from_raw_mode(0o600)).map_err(|e| e.to_string())?;
        let written = self.write_content(&File::from(fd), &job.entry).and_then(|()| {
            self.metadata(directory, &temporary, job);
            rename(directory, &temporary, &job.name).map_err(|error| error.to_string())
        });
        if written.is_err() {
            let _ = rustix::fs::unlinkat(directory, temporary.as_bytes(), AtFlags::empty());
        }
        written
    }

    fn write_content(&self, file: &File, entry: &Entry) -> Result<(), String> {
        let reader = ContentReader::of_file(Arc::clone(self.repository), entry);
        let proof = entry.proof(self.repository.ring());
        let whole = [Extent { offset: 0, length: entry.size }];
        let extents = entry.sparse.as_deref().unwrap_or(&whole);
        let hashed = |read: &dyn Fn(u64, u64) -> Result<bytes::Bytes, String>| -> Result<Option<[u8; 32]>, String> {
            let Some(proof) = &proof else { return Ok(None) };
            let mut hash = StreamHash::keyed(&proof.key);
            for extent in extents {
                let (mut at, end) = (extent.offset, extent.offset + extent.length);
                while at < end {
                    let bytes = read(at, STEP.min(end - at))?;
                    hash.update(&bytes);
                    at += bytes.len() as u64;
                }
            }
            if let Some(sparse) = &entry.sparse {
                for extent in sparse {
                    hash.update(&extent.offset.to_le_bytes());
                    hash.update(&extent.length.to_le_bytes());
                }
                hash.update(&entry.size.to_le_bytes());
            }
            Ok(Some(hash.finish()))
        };
        file.set_len(entry.size).map_err(|error| error.to_string())?;
        let hash = hashed(&|offset, length| {
            let bytes = reader.read(offset, length).map_err(|error| chain(&error))?;
            file.write_all_at(&bytes, offset).map_err(|error| error.to_string())?;
            Ok(bytes)
        })?;
        let fits = |hash: Option<[u8; 32]>| hash == proof.as_ref().map(|proof| proof.hash);
        if !fits(hash) {
            return Err("the restored bytes do not have the hash of the saved file".into());
        }
        if self.options.verify {
            let again = hashed(&|offset, length| {
                let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
                file.read_exact_at(&mut bytes, offset).map_err(|error| error.to_string())?;
                Ok(bytes.into())
            })?;
            if !fits(again) {
                return Err("the file read back from the disk differs from the saved one: check the disk".into());
            }
        }
        Ok(())
    }

    /// Symlinks, pipes, sockets, devices.
    pub(super) fn node(&self, job: &FileJob) {
        let made = match (&job.directory, self.options.dry_run) {
            (Some(directory), false) => self.make_node(directory.as_fd(), job),
            _ => Ok(()),
        };
        match made {
            Ok(()) => self.count(|report| report.other_count += 1),
            Err(error) => self.finding(Severity::Warning, &job.path, format!("it cannot be made: {error}")),
        }
    }

    fn make_node(&self, directory: BorrowedFd<'_>, job: &FileJob) -> Result<(), Errno> {
        let temporary = self.temporary_name();
        let raw = temporary.as_bytes();
        let mode = Mode::from_raw_mode(0o600);
        let device = job.entry.device.map_or(0, |(major, minor)| rustix::fs::makedev(major, minor));
        match job.entry.kind {
            EntryKind::Symlink => rustix::fs::symlinkat(job.entry.target.as_deref().unwrap_or_default(), directory, raw)?,
            EntryKind::Fifo => rustix::fs::mknodat(directory, raw, FileType::Fifo, mode, 0)?,
            EntryKind::Socket => rustix::fs::mknodat(directory, raw, FileType::Socket, mode, 0)?,
            EntryKind::CharDevice => rustix::fs::mknodat(directory, raw, FileType::CharacterDevice, mode, device)?,
            EntryKind::BlockDevice => rustix::fs::mknodat(directory, raw, FileType::BlockDevice, mode, device)?,
            EntryKind::File | EntryKind::Directory => return Err(Errno::INVAL),
        }
        self.metadata(directory, &temporary, job);
        rename(directory, &temporary, &job.name)
    }

    fn metadata(&self, directory: BorrowedFd<'_>, name: &Name, job: &FileJob) {
        let options = MetadataOptions { owner: !self.options.as_me };
        for problem in metadata::apply(self.repository, directory, name, &job.entry, options) {
            self.finding(Severity::Warning, &job.path, problem.to_string());
        }
    }

    fn temporary_name(&self) -> Name {
        let random: [u8; 8] = random_array(&**self.repository.random());
        Name::new(format!(".yesterdrive-{}", fs_core::id::to_hex(&random)).into_bytes()).expect("hexadecimal digits are a name")
    }
}

fn rename(directory: BorrowedFd<'_>, from: &Name, to: &Name) -> Result<(), Errno> {
    rustix::fs::renameat_with(directory, from.as_bytes(), directory, to.as_bytes(), RenameFlags::empty())
}
