//! What the kernel asks of the disk: decode, change the contents, answer.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};

use super::contents::{Contents, Data, Folder, Kind, Node};
use super::{State, Step, lock};

/// The kernel asks again every time.
const NOT_AT_ALL: Duration = Duration::ZERO;

/// A directory as it was when somebody began to list it.
type Listing = Vec<(u64, FileType, OsString)>;

pub(super) struct Server {
    state: Arc<Mutex<State>>,
    listings: Mutex<HashMap<u64, Arc<Listing>>>,
}

impl Server {
    pub(super) fn new(state: Arc<Mutex<State>>) -> Self {
        Self { state, listings: Mutex::default() }
    }

    fn look<T>(&self, at: impl FnOnce(&Contents) -> Option<T>) -> Result<T, Errno> {
        let state = lock(&self.state);
        state.look()?;
        at(&state.contents).ok_or(Errno::ENOENT)
    }

    fn make(&self, request: &Request, (folder, name): (INodeNo, &OsStr), mode: u32, kind: Kind) -> Result<FileAttr, Errno> {
        let mut state = lock(&self.state);
        state.begin(Step::Create)?;
        if state.contents.find(folder.0, name).is_some() {
            return Err(Errno::EEXIST);
        }
        let mode = u16::try_from(mode & 0o7777).unwrap_or(0);
        let node = Node { mode, owner: (request.uid(), request.gid()), modified: state.now(), kind };
        let number = state.contents.add(node);
        state.contents.name(folder.0, name, number);
        state.touch(folder);
        attributes(&state.contents, number).ok_or(Errno::ENOENT)
    }

    fn remove(&self, folder: INodeNo, name: &OsStr) -> Result<(), Errno> {
        let mut state = lock(&self.state);
        state.begin(Step::Remove)?;
        let number = state.contents.find(folder.0, name).ok_or(Errno::ENOENT)?;
        if state.contents.folder(number).is_some_and(|folder| !folder.names.is_empty()) {
            return Err(Errno::ENOTEMPTY);
        }
        state.contents.remove(folder.0, name);
        state.touch(folder);
        Ok(())
    }

    fn move_to(&self, from: (INodeNo, &OsStr), to: (INodeNo, &OsStr), flags: RenameFlags) -> Result<(), Errno> {
        let mut state = lock(&self.state);
        if flags != RenameFlags::empty() && (flags != RenameFlags::RENAME_NOREPLACE || !state.ways.rename_exclusively) {
            return Err(Errno::EINVAL);
        }
        state.begin(Step::Rename)?;
        let number = state.contents.find(from.0.0, from.1).ok_or(Errno::ENOENT)?;
        match state.contents.find(to.0.0, to.1) {
            Some(_) if flags == RenameFlags::RENAME_NOREPLACE => return Err(Errno::EEXIST),
            Some(old) if state.contents.folder(old).is_some_and(|folder| !folder.names.is_empty()) => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
        state.contents.rename((from.0.0, from.1), (to.0.0, to.1), number);
        state.touch(from.0);
        state.touch(to.0);
        Ok(())
    }

    fn give_name(&self, number: INodeNo, folder: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let mut state = lock(&self.state);
        if !state.ways.link {
            return Err(Errno::EPERM);
        }
        state.begin(Step::Link)?;
        if state.contents.find(folder.0, name).is_some() {
            return Err(Errno::EEXIST);
        }
        state.contents.name(folder.0, name, number.0);
        state.touch(folder);
        attributes(&state.contents, number.0).ok_or(Errno::ENOENT)
    }

    fn change(&self, number: INodeNo, change: impl FnOnce(&mut Node)) -> Result<FileAttr, Errno> {
        let mut state = lock(&self.state);
        state.begin(Step::Change)?;
        change(state.contents.node_mut(number.0).ok_or(Errno::ENOENT)?);
        attributes(&state.contents, number.0).ok_or(Errno::ENOENT)
    }

    fn store(&self, number: INodeNo, offset: u64, bytes: &[u8]) -> Result<u32, Errno> {
        let mut state = lock(&self.state);
        state.begin(Step::Write)?;
        let offset = usize::try_from(offset).map_err(|_| Errno::EFBIG)?;
        state.contents.data_mut(number.0).ok_or(Errno::EISDIR)?.write(offset, bytes);
        state.touch(number);
        u32::try_from(bytes.len()).map_err(|_| Errno::EFBIG)
    }

    fn sync(&self, number: INodeNo, step: Step) -> Result<(), Errno> {
        let mut state = lock(&self.state);
        let begun = state.begin(step);
        match begun {
            Ok(()) => state.contents.sync(number.0),
            // What a power cut leaves is decided later.
            Err(_) if !state.is_cut => state.contents.fail_to_sync(number.0),
            Err(_) => {}
        }
        begun
    }
}

fn attributes(contents: &Contents, number: u64) -> Option<FileAttr> {
    let node = contents.node(number)?;
    let (size, time, (uid, gid)) = (node.size() as u64, node.modified, node.owner);
    Some(FileAttr {
        ino: INodeNo(number),
        size,
        blocks: size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: node.file_type(),
        perm: node.mode,
        nlink: u32::try_from(contents.name_count(number)).unwrap_or(u32::MAX),
        uid,
        gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    })
}

fn done(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn entry(reply: ReplyEntry, result: Result<FileAttr, Errno>) {
    match result {
        Ok(attributes) => reply.entry(&NOT_AT_ALL, &attributes, Generation(0)),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Server {
    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.look(|contents| attributes(contents, contents.find(parent.0, name)?)));
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.look(|contents| attributes(contents, inode.0)) {
            Ok(attributes) => reply.attr(&NOT_AT_ALL, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let now = lock(&self.state).now();
        let changed = self.change(inode, |node| {
            node.mode = mode.and_then(|mode| u16::try_from(mode & 0o7777).ok()).unwrap_or(node.mode);
            node.owner = (uid.unwrap_or(node.owner.0), gid.unwrap_or(node.owner.1));
            if let (Some(size), Kind::File(data)) = (size.and_then(|size| usize::try_from(size).ok()), &mut node.kind) {
                data.resize(size);
                node.modified = now;
            }
            node.modified = match mtime {
                Some(TimeOrNow::SpecificTime(time)) => time,
                Some(TimeOrNow::Now) => now,
                None => node.modified,
            };
        });
        match changed {
            Ok(attributes) => reply.attr(&NOT_AT_ALL, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _request: &Request, inode: INodeNo, reply: ReplyData) {
        let target = self.look(|contents| if let Kind::Link(target) = &contents.node(inode.0)?.kind { Some(target.clone()) } else { None });
        match target {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        entry(reply, self.make(request, (parent, name), mode & !umask, Kind::Folder(Folder::default())));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        entry(reply, self.make(request, (parent, name), 0o777, Kind::Link(target.into())));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.remove(parent, name));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.remove(parent, name));
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        done(reply, self.move_to((parent, name), (new_parent, new_name), flags));
    }

    fn link(&self, _request: &Request, inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.give_name(inode, parent, name));
    }

    fn create(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, _flags: i32, reply: ReplyCreate) {
        match self.make(request, (parent, name), mode & !umask, Kind::File(Data::default())) {
            Ok(attributes) => reply.created(&NOT_AT_ALL, &attributes, Generation(0), FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let bytes =
            self.look(|contents| if let Kind::File(data) = &contents.node(inode.0)?.kind { Some(Arc::clone(&data.bytes)) } else { None });
        match bytes {
            Ok(bytes) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                reply.data(bytes.get(from..from.saturating_add(size as usize).min(bytes.len())).unwrap_or_default());
            }
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.store(inode, offset, data) {
            Ok(size) => reply.written(size),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _request: &Request, inode: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        done(reply, self.sync(inode, Step::SyncFile));
    }

    fn fsyncdir(&self, _request: &Request, inode: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        done(reply, self.sync(inode, Step::SyncFolder));
    }

    fn opendir(&self, _request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let listing = self.look(|contents| {
            let names = contents.folder(inode.0)?.names.iter();
            Some(names.filter_map(|(name, number)| Some((*number, contents.node(*number)?.file_type(), name.clone()))).collect::<Listing>())
        });
        match listing {
            Ok(listing) => {
                let mut listings = self.listings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let handle = listings.keys().max().map_or(1, |last| last + 1);
                listings.insert(handle, Arc::new(listing));
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, _request: &Request, _inode: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listing = self.listings.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(&handle.0).cloned();
        match (self.look(|_| Some(())), listing) {
            (Ok(()), Some(listing)) => {
                let mut rest = listing.iter().zip(1..).skip(usize::try_from(offset).unwrap_or(usize::MAX));
                let _ = rest.any(|((number, kind, name), next)| reply.add(INodeNo(*number), next, *kind, name));
                reply.ok();
            }
            (Err(error), _) => reply.error(error),
            (_, None) => reply.error(Errno::EBADF),
        }
    }

    fn releasedir(&self, _request: &Request, _inode: INodeNo, handle: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.listings.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 30, 1 << 29, 1 << 29, 1 << 20, 1 << 19, 4096, 255, 4096);
    }
}
