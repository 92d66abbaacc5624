//! Random trees with everything that Linux keeps of a file, the same for the same seed, and the parts of a file that are no holes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, lchown, symlink};
use std::path::{Path, PathBuf};

use anyhow::Result;
use fs_core::crypto::SharedRandom;
use fs_core::testing::SeededRandom;
use rustix::fs::{AtFlags, CWD, FileType, Mode, SeekFrom, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use crate::{access_list, noise};

/// Symbolic links may lead to anything but nothing.
const TARGETS: [&[u8]; 7] = [b".", b"..", b"/", b"a/../b//c/", b" ", b"\xff\n\x01", b"/proc/self/root/nowhere"];
/// Whom files belong to: some have a name on every machine, some on none.
const OWNERS: [u32; 5] = [0, 1, 1234, 65_534, 4_000_000_000];
/// `cap_net_bind_service=ep`, as the kernel writes it.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

struct Grower {
    seed: u64,
    random: SharedRandom,
    /// Without being root one cannot give files away, make devices, or set attributes of the system.
    is_root: bool,
    folders: Vec<PathBuf>,
    /// What can have a second name.
    linkable: Vec<PathBuf>,
    made: u64,
}

/// Fills a folder with a small tree of all kinds of entries and metadata. The sizes suit a repository with small packs: fragments, inline records and lists of them.
///
/// # Errors
/// If the system refuses something that everybody may do.
pub fn grow(folder: &Path, seed: u64) -> Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    let (random, folders) = (SeededRandom::shared(seed) as SharedRandom, vec![folder.to_path_buf()]);
    let mut grower = Grower { seed, random, is_root, folders, linkable: Vec::new(), made: 0 };
    for _ in 0..4 + grower.draw(14) {
        grower.entry()?;
    }
    // Making something changes the times of the folder that it is in.
    let mut all: Vec<_> = crate::look(folder)?.into_keys().collect();
    all.reverse();
    all.iter().try_for_each(|path| grower.metadata(&folder.join(path)))
}

impl Grower {
    fn draw(&self, below: u64) -> u64 {
        u64::from_le_bytes(fs_core::crypto::random_array(&*self.random)) % below
    }

    fn chance(&self, one_of: u64) -> bool {
        self.draw(one_of) == 0
    }

    fn one_of<'a, T>(&self, of: &'a [T]) -> Option<&'a T> {
        of.get(usize::try_from(self.draw(of.len().max(1) as u64)).ok()?)
    }

    fn noise(&self, least: u64, more: u64) -> Vec<u8> {
        noise(self.seed * 1000 + self.made, usize::try_from(least + self.draw(more)).unwrap_or(0))
    }

    /// A new place in one of the folders, with a name of any bytes.
    fn place(&mut self) -> PathBuf {
        self.made += 1;
        let length = if self.chance(20) { 250 } else { 1 + self.draw(20) };
        let mut name: Vec<u8> = self.noise(length, 1).into_iter().filter(|byte| !matches!(byte, 0 | b'/')).collect();
        name.extend_from_slice(self.made.to_string().as_bytes());
        self.one_of(&self.folders).map_or_else(PathBuf::new, |folder| folder.join(OsStr::from_bytes(&name)))
    }

    fn entry(&mut self) -> Result<()> {
        let path = self.place();
        let node = |kind, device| rustix::fs::mknodat(CWD, &path, kind, Mode::from_raw_mode(0o600), device);
        match self.draw(16) {
            0..=2 => {
                std::fs::create_dir(&path)?;
                // One in three stays empty.
                if !self.chance(3) {
                    self.folders.push(path);
                }
            }
            3 => {
                let deep = (0..10 + self.draw(25)).fold(path, |path, level| path.join(level.to_string()));
                std::fs::create_dir_all(&deep)?;
                self.folders.push(deep);
            }
            4 | 5 => {
                let long = vec![b'x'; 4000];
                let target = if self.chance(8) { &long } else { self.one_of(&TARGETS).copied().unwrap_or(b"x") };
                symlink(OsStr::from_bytes(target), &path)?;
                self.linkable.push(path);
            }
            6 => {
                node(FileType::Fifo, 0)?;
                self.linkable.push(path);
            }
            7 => node(FileType::Socket, 0)?,
            8 if self.is_root => {
                let (kind, device) =
                    if self.chance(2) { (FileType::CharacterDevice, (1, 3)) } else { (FileType::BlockDevice, (300, 70_000)) };
                // Some containers do not allow it; then there is one kind less.
                let _ = node(kind, rustix::fs::makedev(device.0, device.1));
            }
            9 | 10 => {
                if let Some(first) = self.one_of(&self.linkable) {
                    std::fs::hard_link(first, &path)?;
                }
            }
            _ => {
                self.file(&path)?;
                self.linkable.push(path);
            }
        }
        Ok(())
    }

    fn file(&self, path: &Path) -> Result<()> {
        match self.draw(10) {
            0 => std::fs::write(path, b"")?,
            1..=4 => std::fs::write(path, self.noise(1, 2000))?,
            5 => std::fs::write(path, b"the same line again\n".repeat(usize::try_from(self.draw(5000))?))?,
            6 => std::fs::write(path, self.noise(400_000, 200_000))?,
            7 | 8 => {
                let file = std::fs::File::create(path)?;
                file.set_len(100_000 + self.draw(1_000_000))?;
                for _ in 0..self.draw(4) {
                    file.write_all_at(&self.noise(1, 30_000), 4096 * self.draw(200))?;
                }
            }
            _ => std::fs::write(path, self.noise(3000, 120_000))?,
        }
        Ok(())
    }

    /// Owner, attributes, mode, lists, times: each takes away something of what comes after it.
    fn metadata(&self, path: &Path) -> Result<()> {
        let kind = path.symlink_metadata()?.file_type();
        let set = |name: &str, value: &[u8]| match rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()) {
            // Not every file system has all of them.
            Ok(()) | Err(Errno::NOTSUP | Errno::NOSPC) => Ok(()),
            refused => refused,
        };
        if self.is_root && self.chance(3) {
            lchown(path, self.one_of(&OWNERS).copied(), self.one_of(&OWNERS).copied())?;
        }
        if (kind.is_file() || kind.is_dir()) && self.chance(3) {
            set("user.note", &self.noise(0, 400))?;
            set("user.\u{e4} \u{20ac}", b"")?;
        }
        if self.is_root && self.chance(4) {
            set("trusted.note", &self.noise(0, 400))?;
        }
        if self.is_root && kind.is_file() && self.chance(4) {
            set("security.note", &self.noise(1, 50))?;
            set("security.capability", &CAPABILITY)?;
        }
        if !kind.is_symlink() {
            let mode = u32::try_from(self.draw(0o10000))?;
            let mode = if self.is_root { mode } else { mode | 0o600 };
            let mode = if kind.is_dir() { mode | 0o700 } else { mode };
            rustix::fs::chmod(path, Mode::from_raw_mode(mode))?;
            let list = access_list(&[(1, 6, u32::MAX), (2, 4, 1234), (4, 4, u32::MAX), (8, 5, 77), (16, 5, u32::MAX), (32, 0, u32::MAX)]);
            if self.chance(5) && (self.is_root || kind.is_file()) {
                set("system.posix_acl_access", &list)?;
            }
            if kind.is_dir() && self.chance(4) {
                set("system.posix_acl_default", &list)?;
            }
        }
        let seconds = i64::try_from(self.draw(8_000_000_000))? - 2_000_000_000;
        let nanos = if self.chance(8) { 999_999_999 } else { i64::try_from(self.draw(1_000_000_000))? };
        let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
        let times = Timestamps { last_access: time, last_modification: time };
        Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// Where the bytes of a file lie that are no holes: beginnings and ends.
///
/// # Errors
/// If it cannot be opened or searched.
pub fn data_of(path: &Path) -> Result<Vec<(u64, u64)>> {
    let file = std::fs::File::open(path)?;
    let (mut found, mut at) = (Vec::new(), 0);
    loop {
        match rustix::fs::seek(&file, SeekFrom::Data(at)) {
            Ok(start) => {
                at = rustix::fs::seek(&file, SeekFrom::Hole(start))?;
                found.push((start, at));
            }
            Err(Errno::NXIO) => return Ok(found),
            Err(error) => return Err(error.into()),
        }
    }
}
