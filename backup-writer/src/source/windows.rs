//! The tree on Windows. At its top stand the drives (`C`) and `UNC` with servers and their shares, which are no directories of any file system.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Component, Path, PathBuf, Prefix};
use std::sync::{Arc, Mutex, PoisonError};

use fs_core::path::Name;
use fs_core::time::Timestamp;
use fs_core::tree::{Entry, EntryKind, Extent};

use super::{Child, EXTENTS_MAX, SourceError, Stamp, link_group, shadow};
use crate::system::{self, Errno, Info, Owned, Shadows, lend, reparse, wtf8};

mod attributes;
mod facts;

pub use attributes::Attributes;
pub use facts::{Facts, Names};

/// Where servers stand.
const UNC: &[u8] = b"UNC";
/// What the system keeps at the top of a drive for itself alone.
const OF_THE_SYSTEM: [&str; 5] = ["pagefile.sys", "swapfile.sys", "hiberfil.sys", "DumpStack.log.tmp", "System Volume Information"];

/// An open directory. Shared with the threads that read its files.
#[derive(Clone, Debug)]
pub struct Directory(Arc<Place>);

#[derive(Debug)]
enum Place {
    /// What stands above drives and shares: names that lead here.
    Above(Vec<Name>),
    /// A directory; whether it is the top of a drive or share.
    Open(Owned, bool),
    /// A directory in which every name means itself: the top of a drive that is shown elsewhere.
    Itself(Owned),
}

impl Directory {
    fn of(place: Place) -> Self {
        Self(Arc::new(place))
    }

    fn handle(&self) -> Option<&Owned> {
        match &*self.0 {
            Place::Above(_) => None,
            Place::Open(handle, _) | Place::Itself(handle) => Some(handle),
        }
    }

    /// Opens what has a name here.
    fn open(&self, name: &[u8], rights: &[u32], is_followed: bool) -> Result<Owned, Errno> {
        match &*self.0 {
            // The tree itself opens drives, because it knows where they are read.
            Place::Above(_) => Err(Errno::NOENT),
            Place::Open(handle, _) => system::open_in(lend(handle), name, rights, is_followed),
            Place::Itself(handle) => system::open_in(lend(handle), b"", rights, is_followed),
        }
    }

    /// The security descriptor and streams of an entry, as far as they can be read.
    pub fn attributes(&self, name: &[u8]) -> Attributes {
        match self.open(name, system::looking_rights(), false) {
            Ok(open) => Attributes::read(lend(&open)),
            Err(error) => Attributes::missing(error),
        }
    }

    /// Whether a name here is none that a backup takes.
    fn is_of_the_system(&self, name: &[u16]) -> bool {
        matches!(*self.0, Place::Open(_, true)) && {
            let name = String::from_utf16_lossy(name);
            OF_THE_SYSTEM.iter().any(|known| known.eq_ignore_ascii_case(&name))
        }
    }
}

/// The path of a drive or share, by the names that lead to it; `None` if that is none yet.
fn volume(above: &[Name], name: &[u8]) -> Option<PathBuf> {
    let text = |bytes: &[u8]| String::from_utf16(&wtf8::to_units(bytes)).ok();
    match (above, name) {
        ([], [drive]) if drive.is_ascii_alphabetic() => Some(format!("\\\\?\\{}:\\", char::from(*drive)).into()),
        // What has no drive: shadow copies.
        ([], other) if other != UNC => Some(format!("\\\\?\\{}\\", text(other)?).into()),
        ([unc, server], share) if unc.as_bytes() == UNC => {
            Some(format!("\\\\?\\UNC\\{}\\{}\\", text(server.as_bytes())?, text(share)?).into())
        }
        _ => None,
    }
}

/// Reads a live tree.
#[derive(Debug, Default)]
pub struct LiveTree {
    /// File systems that keep the numbers of files, by serial number.
    lasting: Mutex<HashMap<u32, bool>>,
    /// Drives that are read from shadow copies, and where those are.
    shadows: Vec<(char, PathBuf)>,
}

/// What keeps the source as it is while it is read: shadow copies, if there are any.
#[derive(Debug)]
pub struct Still(#[expect(dead_code, reason = "they last as long as this")] Option<Shadows>);

impl LiveTree {
    /// A live tree. Windows cannot be told to leave its cache as it is.
    pub fn new(_gentle: bool) -> Self {
        Self::default()
    }

    /// Has drives read from shadow copies, made now, as long as what is returned lives. Says why not, if there should be some.
    pub fn hold_still(&mut self, paths: &[Vec<u8>], is_wanted: bool) -> (Still, Option<String>) {
        let drives = match shadow::plan(paths, is_wanted, system::is_backup_operator()) {
            shadow::Plan::Copy(drives) => drives,
            shadow::Plan::Nothing => return (Still(None), None),
            // What is in use then says itself what to do.
            shadow::Plan::NotAllowed => return (Still(None), None),
        };
        match Shadows::of(&drives) {
            Ok(shadows) => {
                self.shadows.clone_from(&shadows.copies);
                (Still(Some(shadows)), None)
            }
            Err(error) => (Still(None), Some(shadow::told(&error.to_string()))),
        }
    }

    /// Where a path is read.
    fn real(&self, path: &Path) -> PathBuf {
        let mut parts = path.components();
        let drive = match parts.next() {
            Some(Component::Prefix(prefix)) => match prefix.kind() {
                Prefix::Disk(drive) | Prefix::VerbatimDisk(drive) => char::from(drive.to_ascii_uppercase()),
                _ => return path.into(),
            },
            _ => return path.into(),
        };
        let Some((_, copy)) = self.shadows.iter().find(|(known, _)| *known == drive) else { return path.into() };
        let names = parts.filter(|part| matches!(part, Component::Normal(_)));
        names.fold(copy.clone(), |path, name| path.join(name))
    }

    /// The place where the drives stand.
    ///
    /// # Errors
    /// None.
    pub fn root(&self) -> Result<(Directory, Child), SourceError> {
        Ok((Directory::of(Place::Above(Vec::new())), above(None)))
    }

    /// Opens a directory by its path.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn at(&self, path: &Path) -> Result<(Directory, Child), SourceError> {
        let is_top = path.parent().is_none();
        let handle = system::open_volume(&self.real(path))?;
        let child = self.child(&handle, None)?;
        Ok((Directory::of(Place::Open(handle, is_top)), child))
    }

    /// Opens a subdirectory that was listed as `stamp`.
    ///
    /// # Errors
    /// [`SourceError`], `Replaced` if it is another one by now.
    pub fn open(&self, parent: &Directory, name: &Name, stamp: &Stamp) -> Result<Directory, SourceError> {
        let directory = self.open_named_bytes(parent, name.as_bytes())?;
        match directory.handle() {
            Some(handle) if system::info(lend(handle))?.index != stamp.inode => Err(SourceError::Replaced),
            _ => Ok(directory),
        }
    }

    fn open_named_bytes(&self, parent: &Directory, name: &[u8]) -> Result<Directory, SourceError> {
        if let Place::Above(names) = &*parent.0 {
            return Ok(Directory::of(match volume(names, name) {
                Some(path) => Place::Open(system::open_volume(&self.real(&path))?, true),
                None => Place::Above(names.iter().cloned().chain(Name::new(name)).collect()),
            }));
        }
        let is_top = matches!(*parent.0, Place::Itself(_));
        let handle = parent.open(name, &system::LISTING_RIGHTS, false)?;
        if system::info(lend(&handle))?.kind() == EntryKind::Directory {
            Ok(Directory::of(Place::Open(handle, is_top)))
        } else {
            Err(SourceError::Replaced)
        }
    }

    /// Names in a directory, sorted bytewise.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn names(&self, directory: &Directory) -> Result<Vec<Name>, SourceError> {
        let (mut names, Some(handle)) = (Vec::new(), directory.handle()) else { return Ok(Vec::new()) };
        system::names(lend(handle), &mut |units| {
            if !directory.is_of_the_system(units) {
                // "." and ".." are no names.
                names.extend(Name::new(wtf8::encode(units)));
            }
        })?;
        names.sort();
        // A name that is made anew while the system lists it may come twice.
        names.dedup();
        Ok(names)
    }

    /// One entry of a directory.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn entry(&self, directory: &Directory, name: &Name) -> Result<Child, SourceError> {
        if let Place::Above(names) = &*directory.0
            && volume(names, name.as_bytes()).is_none()
        {
            return Ok(above(Some(name.clone())));
        }
        let open = match &*directory.0 {
            Place::Above(names) => system::open_volume(&self.real(&volume(names, name.as_bytes()).ok_or(Errno::NOENT)?))?,
            _ => directory.open(name.as_bytes(), system::looking_rights(), false)?,
        };
        self.child(&open, Some(name.clone()))
    }

    /// Whether a directory is one of our own drives.
    pub fn is_pseudo(&self, directory: &Directory) -> bool {
        let kind = directory.handle().and_then(|handle| system::file_system(lend(handle)));
        kind.is_some_and(|kind| kind.eq_ignore_ascii_case("yesterdrive"))
    }

    /// Opens a regular file that was listed as `stamp`.
    ///
    /// # Errors
    /// [`SourceError`], `Replaced` if it is another file by now.
    pub fn open_file(&self, directory: &Directory, name: &Name, stamp: &Stamp) -> Result<(SourceFile, Stamp), SourceError> {
        let file = open_to_read(directory, name)?;
        let now = file.stamp()?;
        if now.inode == stamp.inode && now.device == stamp.device { Ok((file, now)) } else { Err(SourceError::Replaced) }
    }

    /// An entry by its path, with the directory that it is in. The entry is shown under another name.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn entry_as(&self, path: &Path, shown: &Name) -> Result<(Directory, Child), SourceError> {
        let name =
            path.file_name().map(|name| Name::new(&*system::shown_bytes(Path::new(name)).strip_prefix(b"/").unwrap_or_default().to_vec()));
        let (Some(parent), Some(Ok(name))) = (path.parent(), name) else {
            let handle = system::open_volume(&self.real(path))?;
            let child = self.child(&handle, Some(shown.clone()))?;
            return Ok((Directory::of(Place::Itself(handle)), child));
        };
        let directory = Directory::of(Place::Open(system::open_volume(&self.real(parent))?, parent.parent().is_none()));
        let mut child = self.entry(&directory, &name)?;
        (child.entry.name, child.alias) = (Some(shown.clone()), Some(name));
        Ok((directory, child))
    }

    /// A file that is saved as an image; drives themselves cannot be saved on Windows.
    ///
    /// # Errors
    /// [`SourceError`], `NOTBLK` if it is no regular file.
    pub fn device(&self, path: &Path, shown: Option<&Name>) -> Result<(Entry, SourceFile, u64), SourceError> {
        let file = SourceFile { file: File::open(self.real(path)).map_err(Errno::from)? };
        let info = file.info()?;
        if info.kind() != EntryKind::File {
            return Err(SourceError::Failed(Errno::NOTBLK));
        }
        let mut entry = Entry::new(shown.cloned(), EntryKind::File);
        (entry.size, entry.mode, entry.mtime) = (info.size, 0o600, info.modified());
        Ok((entry, file, info.size))
    }

    /// The entry of a file that is in no file system, of this user and this time.
    pub fn made_entry(&self, name: Name, kind: EntryKind, time: Option<Timestamp>) -> Entry {
        let mut entry = Entry::new(Some(name), kind);
        entry.mode = if kind == EntryKind::Directory { 0o700 } else { 0o600 };
        entry.mtime = time;
        entry
    }

    /// The first bytes of a small regular file: its mark, or its patterns.
    ///
    /// # Errors
    /// [`SourceError`], `Replaced` if it is no regular file.
    pub fn beginning(&self, directory: &Directory, name: &Name, length_max: usize) -> Result<Vec<u8>, SourceError> {
        let file = open_to_read(directory, name)?;
        file.stamp()?;
        let mut bytes = Vec::new();
        file.file.take(length_max as u64).read_to_end(&mut bytes).map_err(Errno::from)?;
        Ok(bytes)
    }

    fn child(&self, open: &Owned, name: Option<Name>) -> Result<Child, SourceError> {
        let info = system::info(lend(open))?;
        if info.is_in_cloud() {
            return Err(SourceError::InCloud);
        }
        let facts = Facts::of(&info);
        let mut entry = Entry::new(name, facts.kind);
        let stamp = stamp_of(&info);
        let is_directory = facts.kind == EntryKind::Directory;
        let writable = if info.attributes & system::ATTRIBUTE_READONLY != 0 && !is_directory { 0 } else { 0o200 };
        entry.mode = writable | if is_directory { 0o500 } else { 0o400 };
        (entry.mtime, entry.ctime, entry.btime) = (info.modified(), info.changed(), info.born());
        entry.windows_attributes = Some(info.attributes);
        if facts.kind == EntryKind::File {
            entry.size = info.size;
        }
        if info.reparse_kind() != reparse::Kind::Content {
            if facts.kind == EntryKind::File && info.attributes & system::ATTRIBUTE_DIRECTORY != 0 {
                return Err(SourceError::Strange { tag: info.tag });
            }
            let data = system::reparse_data(lend(open))?;
            if facts.kind == EntryKind::Symlink {
                let target = reparse::target(&data).unwrap_or_default();
                (entry.size, entry.target) = (target.len() as u64, Some(target));
            } else {
                entry.size = 0;
            }
            entry.reparse = Some(data);
        }
        if !is_directory && info.link_count > 1 {
            entry.link_group = Some(link_group(stamp.device, stamp.inode));
            entry.link_count = Some(info.link_count.into());
        }
        let mut problem = None;
        if facts.kind != EntryKind::File {
            problem = Attributes::read(lend(open)).give(&mut entry);
        }
        let lasting_inode = self.keeps_numbers(open, info.serial).then_some(stamp.inode);
        Ok(Child { entry, stamp, facts, lasting_inode, alias: None, problem })
    }

    /// Other file systems than these give files new numbers when they like.
    fn keeps_numbers(&self, open: &Owned, serial: u32) -> bool {
        let mut known = self.lasting.lock().unwrap_or_else(PoisonError::into_inner);
        *known.entry(serial).or_insert_with(|| system::file_system(lend(open)).is_some_and(|kind| matches!(&*kind, "NTFS" | "ReFS")))
    }
}

/// What stands above drives and shares has nothing but its name.
fn above(name: Option<Name>) -> Child {
    let mut entry = Entry::new(name, EntryKind::Directory);
    entry.mode = 0o700;
    let facts = Facts::of(&Info { attributes: system::ATTRIBUTE_DIRECTORY, ..Info::default() });
    Child { entry, stamp: stamp_of(&Info::default()), facts, lasting_inode: None, alias: None, problem: None }
}

/// An open regular file of the source.
#[derive(Debug)]
pub struct SourceFile {
    file: File,
}

impl SourceFile {
    /// Reads into the buffer; 0 at the end.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn read(&self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        Ok((&self.file).read(buffer).map_err(Errno::from)?)
    }

    /// Fills the buffer from this offset; less only at the end.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, SourceError> {
        let mut filled = 0;
        while let Some(space) = buffer.get_mut(filled..).filter(|space| !space.is_empty()) {
            match system::read_at(&self.file, space, offset + filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    }

    /// Its security descriptor and streams, as far as they can be read.
    pub fn attributes(&self) -> Attributes {
        Attributes::read(lend(&self.file))
    }

    /// Continues reading at this offset.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn seek(&self, offset: u64) -> Result<(), SourceError> {
        (&self.file).seek(SeekFrom::Start(offset)).map_err(Errno::from)?;
        Ok(())
    }

    fn info(&self) -> Result<Info, Errno> {
        system::info(lend(&self.file))
    }

    /// What it is now.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn stamp(&self) -> Result<Stamp, SourceError> {
        let info = self.info()?;
        if info.is_in_cloud() {
            return Err(SourceError::InCloud);
        }
        if info.kind() == EntryKind::File { Ok(stamp_of(&info)) } else { Err(SourceError::Replaced) }
    }

    /// The parts of a sparse file that are present; `None` if it has no holes worth keeping. Reading then begins at its beginning again.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn extents(&self, stamp: &Stamp) -> Result<Option<Vec<Extent>>, SourceError> {
        if stamp.allocated >= stamp.size || self.info()?.attributes & system::ATTRIBUTE_SPARSE == 0 {
            return Ok(None);
        }
        let (mut extents, mut at): (Vec<Extent>, u64) = (Vec::new(), 0);
        while at < stamp.size {
            let Ok((ranges, is_more)) = system::allocated_ranges(&self.file, at, stamp.size) else { return Ok(None) };
            for (offset, length) in ranges {
                let end = offset.saturating_add(length).min(stamp.size);
                match extents.last_mut() {
                    Some(last) if last.offset + last.length >= offset => last.length = end.max(last.offset + last.length) - last.offset,
                    _ => extents.push(Extent { offset, length: end.saturating_sub(offset) }),
                }
                at = end;
            }
            if extents.len() > EXTENTS_MAX {
                return Ok(None);
            }
            if !is_more {
                break;
            }
        }
        extents.retain(|extent| extent.length > 0);
        let all = [Extent { offset: 0, length: stamp.size }];
        Ok((extents != all).then_some(extents))
    }
}

/// Opens a regular file. What the file system stores in a way of its own is read as what it stands for.
fn open_to_read(directory: &Directory, name: &Name) -> Result<SourceFile, SourceError> {
    let mut open = directory.open(name.as_bytes(), &system::READING_RIGHTS, false)?;
    let info = system::info(lend(&open))?;
    if info.is_in_cloud() {
        return Err(SourceError::InCloud);
    }
    if info.attributes & system::ATTRIBUTE_REPARSE_POINT != 0 && info.reparse_kind() == reparse::Kind::Content {
        open = directory.open(name.as_bytes(), &system::READING_RIGHTS, true)?;
    }
    Ok(SourceFile { file: system::file(open) })
}

fn stamp_of(info: &Info) -> Stamp {
    let modified = info.modified().unwrap_or_default();
    Stamp {
        device: (0, info.serial),
        inode: info.index,
        size: info.size,
        mtime: modified,
        ctime: info.changed().unwrap_or(modified),
        allocated: info.allocated,
    }
}

#[cfg(test)]
mod tests;
