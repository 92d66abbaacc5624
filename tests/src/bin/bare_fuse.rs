//! The limit that FUSE sets: a tree in memory, served by a loop that does nothing else. The benchmarks compare with it.
//!
//! usage: bare_fuse SOURCE MOUNT-POINT   prints a line when the drive is there; ends when somebody unmounts it

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner,
    MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, ReplyOpen, Request,
};

/// As long as the product lets the kernel remember what never changes.
const FOR_EVER: Duration = Duration::from_secs(86_400);

/// An entry: a directory has children, a file or link has bytes.
struct Node {
    attr: FileAttr,
    children: Vec<(OsString, u64)>,
    by_name: HashMap<OsString, u64>,
    bytes: Vec<u8>,
}

/// Everything below the source; number n stands at n - 1.
#[derive(Default)]
struct Tree {
    nodes: Vec<Node>,
    opens_alone: bool,
}

impl Tree {
    fn load(source: &Path) -> Result<Self> {
        let mut tree = Self::default();
        tree.add(source)?;
        // Parents stand before their children, so that one pass sees all.
        let mut open: Vec<(u64, PathBuf)> = vec![(1, source.into())];
        while let Some((number, folder)) = open.pop() {
            let mut items = std::fs::read_dir(&folder)?.collect::<Result<Vec<_>, _>>()?;
            items.sort_by_key(std::fs::DirEntry::file_name);
            for item in items {
                let child = tree.add(&item.path())?;
                if item.file_type()?.is_dir() {
                    open.push((child, item.path()));
                }
                if let Some(parent) = tree.nodes.get_mut(index(number)) {
                    parent.by_name.insert(item.file_name(), child);
                    parent.children.push((item.file_name(), child));
                }
            }
        }
        Ok(tree)
    }

    fn add(&mut self, path: &Path) -> Result<u64> {
        let metadata = path.symlink_metadata().with_context(|| path.display().to_string())?;
        let (kind, bytes) = if metadata.is_dir() {
            (FileType::Directory, Vec::new())
        } else if metadata.is_symlink() {
            (FileType::Symlink, std::fs::read_link(path)?.into_os_string().into_encoded_bytes())
        } else {
            (FileType::RegularFile, std::fs::read(path)?)
        };
        let number = self.nodes.len() as u64 + 1;
        let mtime = metadata.modified()?;
        let attr = FileAttr {
            ino: INodeNo(number),
            size: bytes.len() as u64,
            blocks: metadata.blocks(),
            atime: mtime,
            mtime,
            ctime: mtime,
            crtime: mtime,
            kind,
            perm: u16::try_from(metadata.permissions().mode() & 0o7777)?,
            nlink: u32::try_from(metadata.nlink())?,
            uid: metadata.uid(),
            gid: metadata.gid(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        self.nodes.push(Node { attr, children: Vec::new(), by_name: HashMap::new(), bytes });
        Ok(number)
    }

    fn node(&self, inode: INodeNo) -> Option<&Node> {
        self.nodes.get(index(inode.0))
    }

    fn children(&self, inode: INodeNo, offset: u64) -> Option<impl Iterator<Item = (u64, &OsString, &Node)>> {
        let children = self.node(inode)?.children.iter().enumerate().skip(usize::try_from(offset).ok()?);
        Some(children.filter_map(|(at, (name, number))| Some((at as u64 + 1, name, self.node(INodeNo(*number))?))))
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number.wrapping_sub(1)).unwrap_or(usize::MAX)
}

impl Filesystem for Tree {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // What the product asks for too.
        let wanted = InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_CACHE_SYMLINKS;
        let _ = config.add_capabilities(wanted);
        self.opens_alone = config.add_capabilities(InitFlags::FUSE_NO_OPEN_SUPPORT).is_ok();
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.node(parent).and_then(|node| self.node(INodeNo(*node.by_name.get(name)?)));
        match found {
            Some(node) => reply.entry(&FOR_EVER, &node.attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.node(inode) {
            Some(node) => reply.attr(&FOR_EVER, &node.attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readlink(&self, _request: &Request, inode: INodeNo, reply: ReplyData) {
        match self.node(inode) {
            Some(node) => reply.data(&node.bytes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.opens_alone { reply.error(Errno::ENOSYS) } else { reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE) }
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
        let Some(node) = self.node(inode) else { return reply.error(Errno::ENOENT) };
        let length = node.bytes.len();
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(length);
        let to = from.saturating_add(size as usize).min(length);
        reply.data(node.bytes.get(from..to).unwrap_or_default());
    }

    fn readdir(&self, _request: &Request, inode: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let Some(mut children) = self.children(inode, offset) else { return reply.error(Errno::ENOENT) };
        let _ = children.any(|(next, name, node)| reply.add(node.attr.ino, next, node.attr.kind, name));
        reply.ok();
    }

    fn readdirplus(&self, _request: &Request, inode: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let Some(mut children) = self.children(inode, offset) else { return reply.error(Errno::ENOENT) };
        let _ = children.any(|(next, name, node)| reply.add(node.attr.ino, next, name, &FOR_EVER, &node.attr, Generation(0)));
        reply.ok();
    }
}

/// As the product does, where it may.
fn raise_read_ahead(place: &Path) -> Result<()> {
    let device = place.metadata()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let _ = std::fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), "1024");
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(source), Some(place)) = (arguments.next(), arguments.next()) else { anyhow::bail!("usage: bare_fuse SOURCE MOUNT-POINT") };
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("bare_fuse".into()),
        MountOption::RO,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
    ];
    config.n_threads = cfg!(target_os = "linux").then_some(4);
    config.clone_fd = cfg!(target_os = "linux");
    let session = fuser::spawn_mount(Tree::load(Path::new(&source))?, &place, &config)?;
    raise_read_ahead(Path::new(&place))?;
    std::io::Write::write_all(&mut std::io::stdout(), b"mounted\n")?;
    session.join()?;
    Ok(())
}
