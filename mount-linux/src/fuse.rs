//! One callback, three steps: decode, ask the view, reply. The reply goes along with the question and is given when what is missing has come.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crossbeam_channel::Sender;
use fs_core::repository::Held;
use fs_core::tree::EntryKind;
use fs_core::view::attr::Attr;
use fs_core::view::error::ViewError;
use fs_core::view::inode::Inode;
use fs_core::view::layout::ROOT;
use fs_core::view::{Answer, Listed, Stop, View};
use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::errno::{attributes, errno, file_type};

/// Contents of snapshots never change.
const FOR_EVER: Duration = Duration::from_secs(86_400);
/// What the view makes up changes with every new snapshot.
const SHORTLY: Duration = Duration::from_secs(1);
/// Bytes of one answer to a listing, as the kernel asks for them.
const LISTING_SIZE: usize = 32 << 10;
const ROOT_GENERATION: Generation = Generation(0);
/// An empty file in the root that keeps Spotlight from reading the backup. Seen on macOS only.
const NEVER_INDEX: &[u8] = b".metadata_never_index";
/// Its number: the smallest that no entry of the view has in practice, as theirs come from hashes of their paths.
const NEVER_INDEX_INODE: u64 = ROOT + 1;

/// The drive as the kernel calls it.
#[derive(Debug)]
pub(crate) struct Drive {
    view: Arc<View>,
    /// Whether the kernel lets users in by ACLs too and not by the mode alone.
    by_acls: bool,
    /// Whether the kernel opens files without telling us, once it is told that we have nothing to say.
    opens_alone: bool,
    /// Dropped last: says that the drive is over.
    _until_over: Sender<()>,
}

impl Drive {
    pub(crate) fn new(view: Arc<View>, by_acls: bool, until_over: Sender<()>) -> Self {
        Self { view, by_acls, opens_alone: false, _until_over: until_over }
    }

    /// Asks, and replies when there is an answer: nobody waits here. A panic costs this answer, because a reply that is dropped is an error: it must not
    /// end the thread, without which everybody who touches the drive would hang.
    fn answer<T: 'static, R: Send + 'static>(
        &self,
        reply: R,
        ask: impl Fn(&View, &Held) -> Answer<T> + Send + 'static,
        done: impl FnOnce(R, Result<T, Errno>) + Send + 'static,
    ) {
        survive(|| self.view.ask(ask, move |answer| done(reply, answer.map_err(|error| logged(&error, None, None)))));
    }
}

fn survive(step: impl FnOnce()) {
    drop(std::panic::catch_unwind(AssertUnwindSafe(step)));
}

/// Damage and lost connections are worth a line, of files with the place; a missing name is not.
fn logged(error: &ViewError, path: Option<&str>, offset: Option<u64>) -> Errno {
    if let ViewError::Damaged(source) | ViewError::Unreachable(source) = error {
        tracing::error!(path, offset, %source, "{error}");
    }
    errno(error)
}

fn lifetime(attr: &Attr, moves: bool) -> &'static Duration {
    match (moves, attr.kind) {
        (false, _) => &FOR_EVER,
        // What changes is another file then: its name is asked for whenever it is opened.
        (true, EntryKind::File) => &Duration::ZERO,
        (true, _) => &SHORTLY,
    }
}

/// Attributes of the file that keeps Spotlight away.
fn never_index(root: &Attr) -> Attr {
    Attr { inode: NEVER_INDEX_INODE, kind: EntryKind::File, mode: 0o444, link_count: 1, size: 0, allocated: 0, ..*root }
}

fn reply_xattr(reply: ReplyXattr, size: u32, value: Result<Vec<u8>, Errno>) {
    match value {
        Err(error) => reply.error(error),
        Ok(value) => match u32::try_from(value.len()) {
            Ok(length) if size == 0 => reply.size(length),
            Ok(length) if length <= size => reply.data(&value),
            _ => reply.error(Errno::ERANGE),
        },
    }
}

/// Lines of a directory that fill one answer, if each takes so many bytes beside its name.
fn lines(view: &View, held: &Held, inode: INodeNo, offset: u64, bytes_each: usize) -> Answer<Vec<Listed>> {
    let (mut lines, mut room) = (Vec::new(), LISTING_SIZE);
    view.readdir(held, inode.0, offset, &mut |line| {
        room = room.saturating_sub(bytes_each + line.name.len());
        lines.push(line);
        room > 0
    })?;
    Ok(lines)
}

impl Filesystem for Drive {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // READDIRPLUS only where the kernel sees that attributes are wanted; never together with cached listings, which would suppress it.
        let mut wanted = InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_EXPORT_SUPPORT;
        wanted.set(InitFlags::FUSE_POSIX_ACL, self.by_acls);
        if let Err(unsupported) = config.add_capabilities(wanted) {
            let _ = config.add_capabilities(wanted - unsupported);
        }
        self.opens_alone = config.add_capabilities(InitFlags::FUSE_NO_OPEN_SUPPORT).is_ok();
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if cfg!(target_os = "macos") && parent.0 == ROOT && name.as_bytes() == NEVER_INDEX {
            return self.answer(
                reply,
                |view, held| view.getattr(held, ROOT),
                |reply, root| match root {
                    Ok(root) => reply.entry(&FOR_EVER, &attributes(&never_index(&root)), ROOT_GENERATION),
                    Err(error) => reply.error(error),
                },
            );
        }
        let name = name.as_bytes().to_vec();
        let ask = move |view: &View, held: &Held| view.lookup(held, parent.0, &name);
        self.answer(reply, ask, |reply, found| match found {
            Ok((attr, moves)) => reply.entry(lifetime(&attr, moves), &attributes(&attr), ROOT_GENERATION),
            Err(error) => reply.error(error),
        });
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let moves = Inode::from_number(inode.0).is_made_up();
        self.answer(
            reply,
            move |view, held| match inode.0 {
                NEVER_INDEX_INODE if cfg!(target_os = "macos") => view.getattr(held, ROOT).map(|root| never_index(&root)),
                number => view.getattr(held, number),
            },
            move |reply, attr| match attr {
                Ok(attr) => reply.attr(lifetime(&attr, moves), &attributes(&attr)),
                Err(error) => reply.error(error),
            },
        );
    }

    fn readlink(&self, _request: &Request, inode: INodeNo, reply: ReplyData) {
        self.answer(
            reply,
            move |view, held| view.readlink(held, inode.0),
            |reply, target| match target {
                Ok(target) => reply.data(&target),
                Err(error) => reply.error(error),
            },
        );
    }

    fn open(&self, _request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != fuser::OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        if cfg!(target_os = "macos") && inode.0 == NEVER_INDEX_INODE {
            return reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
        }
        match self.view.check(inode.0) {
            // Saves two of four messages for a small file. It keeps what it has read, as it would with the flag.
            Ok(()) if self.opens_alone => reply.error(Errno::ENOSYS),
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            // The kernel then asks again for the name, which may lead to what came after.
            Err(error) => reply.error(errno(&error)),
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
        if cfg!(target_os = "macos") && inode.0 == NEVER_INDEX_INODE {
            return reply.data(&[]);
        }
        let length = u64::from(size);
        survive(|| self.view.read_ahead(inode.0, offset, length));
        let view = Arc::clone(&self.view);
        survive(|| {
            self.view.ask(
                move |view, held| view.read(held, inode.0, offset, length),
                move |answer| match answer {
                    Ok(bytes) => reply.data(&bytes),
                    Err(error) => {
                        let path = view.path_of(inode.0).unwrap_or_default();
                        reply.error(logged(&error, Some(&path), Some(offset)));
                    }
                },
            );
        });
    }

    fn readdir(&self, _request: &Request, inode: INodeNo, _handle: FileHandle, offset: u64, reply: ReplyDirectory) {
        let ask = move |view: &View, held: &Held| lines(view, held, inode, offset, 24);
        self.answer(reply, ask, |mut reply, lines| match lines {
            Ok(lines) => {
                let _ = lines
                    .iter()
                    .any(|line| reply.add(INodeNo(line.attr.inode), line.next, file_type(line.attr.kind), OsStr::from_bytes(&line.name)));
                reply.ok();
            }
            Err(error) => reply.error(error),
        });
    }

    fn readdirplus(&self, _request: &Request, inode: INodeNo, _handle: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        let ask = move |view: &View, held: &Held| lines(view, held, inode, offset, 152);
        self.answer(reply, ask, |mut reply, lines| match lines {
            Ok(lines) => {
                let _ = lines.iter().any(|line| {
                    let name = OsStr::from_bytes(&line.name);
                    reply.add(
                        INodeNo(line.attr.inode),
                        line.next,
                        name,
                        lifetime(&line.attr, line.moves),
                        &attributes(&line.attr),
                        ROOT_GENERATION,
                    )
                });
                reply.ok();
            }
            Err(error) => reply.error(error),
        });
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        let (bytes, entries) = self.view.totals();
        reply.statfs(bytes.div_ceil(4096), 0, 0, entries, 0, 4096, 255, 4096);
    }

    fn getxattr(&self, _request: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.as_bytes().to_vec();
        // The kernel that asks for an ACL to let somebody in takes "not supported" for a refusal.
        let is_for_kernel = self.by_acls && name.starts_with(b"system.posix_acl_");
        let ask = move |view: &View, held: &Held| match view.xattr(held, inode.0, &name) {
            Err(Stop::Failed(ViewError::Unsupported)) if is_for_kernel => Err(ViewError::NoAttribute.into()),
            answer => answer,
        };
        self.answer(reply, ask, move |reply, value| reply_xattr(reply, size, value.map(|value| value.to_vec())));
    }

    fn listxattr(&self, _request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let ask = move |view: &View, held: &Held| view.xattr_names(held, inode.0);
        self.answer(reply, ask, move |reply, names| {
            let listed = names.map(|names| names.into_iter().flat_map(|name| name.into_iter().chain([0])).collect());
            reply_xattr(reply, size, listed);
        });
    }

    fn access(&self, _request: &Request, _inode: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        if mask.contains(AccessFlags::W_OK) { reply.error(Errno::EROFS) } else { reply.ok() }
    }

    fn lseek(&self, _request: &Request, inode: INodeNo, _handle: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        const SEEK_DATA: i32 = 3;
        const SEEK_HOLE: i32 = 4;
        let (Ok(from), SEEK_DATA | SEEK_HOLE) = (u64::try_from(offset), whence) else { return reply.error(Errno::EINVAL) };
        let ask = move |view: &View, held: &Held| view.seek(held, inode.0, from, whence == SEEK_DATA);
        self.answer(reply, ask, |reply, at| match at.map(i64::try_from) {
            Ok(Ok(at)) => reply.offset(at),
            Ok(Err(_)) => reply.error(Errno::EOVERFLOW),
            Err(error) => reply.error(error),
        });
    }

    // Everything that would change something: the drive is read-only. The kernel refuses most of it before it comes here.

    fn setattr(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, _mode: u32, _umask: u32, _device: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, _target: &std::path::Path, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn rename(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _to: INodeNo,
        _new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _request: &Request, _inode: INodeNo, _parent: INodeNo, _name: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn create(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, _mode: u32, _umask: u32, _flags: i32, reply: ReplyCreate) {
        reply.error(Errno::EROFS);
    }

    fn setxattr(&self, _request: &Request, _inode: INodeNo, _name: &OsStr, _value: &[u8], _flags: i32, _position: u32, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _request: &Request, _inode: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }
}
