//! One callback, three steps: decode, ask the view, reply.
//!
//! Reads and listings are answered when what is missing has come, and hold no thread of WinFsp meanwhile. What finds, opens and describes has to be answered
//! in its own thread: the `winfsp` crate has no later answer for it. So there are many threads (`drive.rs`), the end of the drive wakes all who wait, and
//! every wait ends with the deadline of the repository.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::Receiver;
use fs_core::tree::EntryKind;
use fs_core::view::error::ViewError;
use winfsp::filesystem::{
    AsyncFileSystemContext, DirInfo, DirMarker, FileInfo, FileSecurity, FileSystemContext, ModificationDescriptor, OpenFileInfo,
    StreamInfo, VolumeInfo, WideNameInfo as _,
};
use winfsp::{FspError, Result, U16CStr};

use crate::ffi;
use crate::links::{SYMLINK_TAG, reparse_data};
use crate::pattern::Pattern;
use crate::status::{self, FileInformation, Look, information};
use crate::tasks::{self, Tasks, ask};
use crate::tree::{Found, Line, Place, SEPARATOR, Tree};

/// Lines of a listing to which its reader may come back: more than the system has in one buffer.
const MARKS_KEPT: usize = 4096;
/// The least that a line takes in a listing, with a name of a few letters.
const LINE_SIZE_MIN: usize = 112;
/// Rights that change something: data, attributes, deletion, permissions, and "everything".
const WRITES: u32 = 0x2 | 0x4 | 0x10 | 0x40 | 0x100 | 0x0001_0000 | 0x0004_0000 | 0x0008_0000 | 0x4000_0000 | 0x1000_0000;
/// `MAXIMUM_ALLOWED`: whatever may be had.
const MOST: u32 = 0x0200_0000;
/// `FILE_READ_DATA`
const READ_DATA: u32 = 0x1;
/// `FILE_DELETE_ON_CLOSE`
const DELETE_ON_CLOSE: u32 = 0x1000;
/// Dispositions of an opening: these replace what is there …
const REPLACES: [u32; 3] = [0, 4, 5];
/// … and these make what is not.
const MAKES: [u32; 3] = [0, 3, 5];
/// Makes only: the system then asks for the folder.
const MAKES_ONLY: u32 = 2;
/// The name of the volume.
const LABEL: &str = "Yesterdrive";

/// The drive as WinFsp calls it.
#[derive(Debug)]
pub(crate) struct Drive {
    pub(crate) tree: Tree,
    pub(crate) tasks: Tasks,
    /// Disconnected when the drive ends.
    pub(crate) ending: Receiver<()>,
    /// The one security descriptor.
    pub(crate) security: Vec<u8>,
    /// Whether contents come over a network.
    pub(crate) is_far: bool,
}

/// What somebody has open.
#[derive(Debug)]
pub(crate) struct Opened {
    place: Place,
    info: FileInformation,
    /// Names that were listed last, each with where the listing goes on after it: the reader may go on after any of them.
    marks: Mutex<VecDeque<(Vec<u16>, u64)>>,
}

fn refused(status: u32) -> FspError {
    FspError::NTSTATUS(i32::from_ne_bytes(status.to_ne_bytes()))
}

fn write_protected() -> FspError {
    refused(status::MEDIA_WRITE_PROTECTED)
}

/// Damage and lost connections are worth a line; a missing name is not.
fn failed(error: &ViewError, path: &[u16], offset: Option<u64>) -> FspError {
    if let ViewError::Damaged(source) | ViewError::Unreachable(source) = error {
        tracing::error!(path = String::from_utf16_lossy(path), offset, %source, "{error}");
    }
    refused(status::status(error))
}

impl Drive {
    /// Waits for an answer in this thread; the end of the drive ends the wait.
    fn wait<T>(&self, path: &[u16], future: impl Future<Output = std::result::Result<T, ViewError>>) -> Result<T> {
        match tasks::wait(future, &self.ending) {
            Some(answer) => answer.map_err(|error| failed(&error, path, None)),
            None => Err(refused(status::VOLUME_DISMOUNTED)),
        }
    }

    fn find(&self, path: &[u16]) -> Result<Found> {
        self.wait(path, self.tree.find(path))
    }

    fn entry(&self, path: &[u16]) -> Result<Place> {
        match self.find(path)? {
            Found::Entry(place) => Ok(place),
            Found::NoName => Err(refused(status::OBJECT_NAME_NOT_FOUND)),
            Found::NoPath | Found::LinkOnTheWay => Err(refused(status::OBJECT_PATH_NOT_FOUND)),
        }
    }

    fn information(&self, attr: &fs_core::view::attr::Attr, is_folder: bool, shown: &[u16]) -> FileInformation {
        let is_dotted = shown.first() == Some(&u16::from(b'.')) && !matches!(shown, [_] | [_, 0x2e]);
        information(attr, Look { is_dotted, is_folder, is_far: self.is_far })
    }

    fn information_of(&self, place: &Place) -> FileInformation {
        let name = place.path.rsplit(|unit| *unit == SEPARATOR).next().unwrap_or_default();
        let of_entry = self.information(&place.attr, place.is_folder, name);
        match &place.stream {
            None => of_entry,
            Some(stream) => status::of_stream(of_entry, stream.size),
        }
    }

    /// Copies the descriptor if there is room; its size either way.
    fn put_security(&self, buffer: Option<&mut [c_void]>) -> u64 {
        if let Some(buffer) = buffer {
            ffi::copy_to(buffer, &self.security);
        }
        self.security.len() as u64
    }

    fn reparse(&self, place: &Place, buffer: &mut [u8]) -> Result<u64> {
        if place.attr.kind != EntryKind::Symlink || place.stream.is_some() {
            return Err(refused(status::NOT_A_REPARSE_POINT));
        }
        let target = self.wait(&place.path, self.tree.target(&place.path, place.attr.inode))?;
        let data = reparse_data(&target);
        buffer.get_mut(..data.len()).ok_or_else(|| refused(status::BUFFER_TOO_SMALL))?.copy_from_slice(&data);
        Ok(data.len() as u64)
    }

    /// Where a listing goes on after a name.
    async fn after(&self, opened: &Opened, marker: &[u16]) -> std::result::Result<Option<u64>, ViewError> {
        let known = |marks: &VecDeque<(Vec<u16>, u64)>| marks.iter().rev().find(|(name, _)| name == marker).map(|(_, next)| *next);
        if let Some(next) = known(&opened.marks.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(Some(next));
        }
        // Nobody goes back that far but a program that reads two listings with one handle.
        let mut at = 0;
        loop {
            let lines = self.tree.lines(opened.place.attr.inode, &opened.place.path, at, usize::MAX).await?;
            let Some(last) = lines.last() else { return Ok(None) };
            if let Some(line) = lines.iter().find(|line| line.shown == marker) {
                return Ok(Some(line.next));
            }
            at = last.next;
        }
    }

    async fn list(&self, opened: &Opened, pattern: Option<&[u16]>, marker: Option<&[u16]>, buffer: &mut [u8]) -> Result<u32> {
        let failed = |error: ViewError| failed(&error, &opened.place.path, None);
        let pattern = pattern.filter(|pattern| *pattern != [u16::from(b'*')]).map(Pattern::new);
        let is_root = opened.place.path == [SEPARATOR];
        // Of what does not fit nothing need be read, unless a pattern leaves out most of it.
        let most = if pattern.is_some() { usize::MAX } else { buffer.len() / LINE_SIZE_MIN + 1 };
        let mut cursor = 0;
        let mut at = match marker {
            None => 0,
            Some(marker) => match self.after(opened, marker).await.map_err(failed)? {
                Some(at) => at,
                None => {
                    DirInfo::<255>::finalize_buffer(buffer, &mut cursor);
                    return Ok(cursor);
                }
            },
        };
        loop {
            let lines = self.tree.lines(opened.place.attr.inode, &opened.place.path, at, most).await.map_err(failed)?;
            if lines.is_empty() {
                DirInfo::<255>::finalize_buffer(buffer, &mut cursor);
                return Ok(cursor);
            }
            for line in lines {
                at = line.next;
                let is_dots = matches!(&*line.shown, [0x2e] | [0x2e, 0x2e]);
                if is_root && is_dots || pattern.as_ref().is_some_and(|pattern| !pattern.matches(&line.shown)) {
                    continue;
                }
                let Some(info) = self.dir_info(&line) else { continue };
                if !info.append_to_buffer(buffer, &mut cursor) {
                    return if cursor == 0 { Err(refused(status::BUFFER_OVERFLOW)) } else { Ok(cursor) };
                }
                let mut marks = opened.marks.lock().unwrap_or_else(PoisonError::into_inner);
                if marks.len() >= MARKS_KEPT {
                    marks.pop_front();
                }
                marks.push_back((line.shown, line.next));
            }
        }
    }

    /// A line as the driver wants it; `None` if its name has more than 255 units, which Windows cannot show.
    fn dir_info(&self, line: &Line) -> Option<DirInfo<255>> {
        let mut info = DirInfo::<255>::new();
        if info.set_name_raw(&*line.shown).is_err() {
            tracing::warn!(name = String::from_utf16_lossy(&line.shown), "a name is too long for Windows and is left out");
            return None;
        }
        fill(info.file_info_mut(), &self.information(&line.attr, line.is_folder, &line.shown));
        Some(info)
    }
}

fn fill(to: &mut FileInfo, from: &FileInformation) {
    let FileInformation { attributes, allocation_size, size, created, written, changed, index, link_count: _ } = *from;
    to.file_attributes = attributes;
    to.reparse_tag = if attributes & status::REPARSE_POINT != 0 { SYMLINK_TAG } else { 0 };
    (to.allocation_size, to.file_size) = (allocation_size, size);
    (to.creation_time, to.last_access_time, to.last_write_time, to.change_time) = (created, written, written, changed);
    to.index_number = index;
    // WinFsp knows no hard links, and wants to be told none.
    (to.hard_links, to.ea_size) = (0, 0);
}

impl FileSystemContext for Drive {
    type FileContext = Opened;

    fn get_security_by_name(
        &self,
        file_name: &U16CStr,
        security_descriptor: Option<&mut [c_void]>,
        reparse_point_resolver: impl FnOnce(&U16CStr) -> Option<FileSecurity>,
    ) -> Result<FileSecurity> {
        let wanted = ffi::wanted();
        match self.find(file_name.as_slice())? {
            Found::Entry(place) => {
                // Said before rights are looked at: "access denied" would send people to an administrator, who can change nothing either.
                if wanted.is_some_and(|wanted| {
                    wanted.access & WRITES != 0
                        || wanted.options & DELETE_ON_CLOSE != 0
                        || wanted.disposition == MAKES_ONLY
                        || REPLACES.contains(&wanted.disposition)
                }) {
                    return Err(write_protected());
                }
                let attributes = self.information_of(&place).attributes;
                Ok(FileSecurity { reparse: false, sz_security_descriptor: self.put_security(security_descriptor), attributes })
            }
            Found::LinkOnTheWay => reparse_point_resolver(file_name).ok_or_else(|| refused(status::OBJECT_PATH_NOT_FOUND)),
            Found::NoName if wanted.is_some_and(|wanted| MAKES.contains(&wanted.disposition)) => Err(write_protected()),
            Found::NoName => Err(refused(status::OBJECT_NAME_NOT_FOUND)),
            Found::NoPath => Err(refused(status::OBJECT_PATH_NOT_FOUND)),
        }
    }

    fn open(&self, file_name: &U16CStr, _create_options: u32, granted_access: u32, file_info: &mut OpenFileInfo) -> Result<Opened> {
        // Who asks for whatever may be had gets what an owner may do with any file, and is refused when it is done.
        let wants_most = ffi::wanted().is_some_and(|wanted| wanted.access & MOST != 0);
        if granted_access & WRITES != 0 && !wants_most {
            return Err(write_protected());
        }
        let place = self.entry(file_name.as_slice())?;
        let is_special = !matches!(place.attr.kind, EntryKind::File | EntryKind::Directory | EntryKind::Symlink);
        if is_special && granted_access & READ_DATA != 0 {
            return Err(refused(status::ACCESS_DENIED));
        }
        if place.moves {
            ffi::keep_nothing();
        }
        let info = self.information_of(&place);
        fill(file_info.as_mut(), &info);
        // Without it Windows would show names in capitals.
        if place.path.len() < 1024 {
            file_info.set_normalized_name(&place.path, None);
        }
        Ok(Opened { place, info, marks: Mutex::default() })
    }

    fn close(&self, _context: Opened) {}

    fn get_file_info(&self, context: &Opened, file_info: &mut FileInfo) -> Result<()> {
        fill(file_info, &context.info);
        Ok(())
    }

    fn get_security(&self, _context: &Opened, security_descriptor: Option<&mut [c_void]>) -> Result<u64> {
        Ok(self.put_security(security_descriptor))
    }

    fn get_volume_info(&self, volume: &mut VolumeInfo) -> Result<()> {
        volume.total_size = self.tree.view().totals().0;
        volume.free_size = 0;
        volume.set_volume_label(LABEL);
        Ok(())
    }

    fn get_dir_info_by_name(&self, context: &Opened, file_name: &U16CStr, out: &mut DirInfo) -> Result<()> {
        let Place { attr, path, .. } = &context.place;
        let mut line =
            self.wait(path, self.tree.step(attr.inode, file_name.as_slice()))?.ok_or_else(|| refused(status::OBJECT_NAME_NOT_FOUND))?;
        if line.attr.kind == EntryKind::Symlink {
            let separator: &[u16] = if path.ends_with(&[SEPARATOR]) { &[] } else { &[SEPARATOR] };
            let found = self.find(&[path, separator, &line.shown].concat())?;
            line.is_folder = matches!(found, Found::Entry(place) if place.is_folder);
        }
        let info = self.dir_info(&line).ok_or_else(|| refused(status::OBJECT_NAME_NOT_FOUND))?;
        *out = info;
        Ok(())
    }

    fn get_reparse_point_by_name(&self, file_name: &U16CStr, _is_directory: bool, buffer: &mut [u8]) -> Result<u64> {
        let place = self.entry(file_name.as_slice())?;
        self.reparse(&place, buffer)
    }

    fn get_reparse_point(&self, context: &Opened, _file_name: &U16CStr, buffer: &mut [u8]) -> Result<u64> {
        self.reparse(&context.place, buffer)
    }

    /// As many as there is room for; the last one is followed by an end.
    fn get_stream_info(&self, context: &Opened, buffer: &mut [u8]) -> Result<u32> {
        let Place { attr, path, .. } = &context.place;
        let alternate = self.wait(path, self.tree.streams(attr.inode))?;
        let own = (attr.kind == EntryKind::File).then_some((&[][..], attr.size));
        let mut cursor = 0;
        for (shown, size) in own.into_iter().chain(alternate.iter().map(|stream| (&*stream.shown, stream.size))) {
            let mut info = StreamInfo::<255>::new();
            if info.set_name_raw(shown).is_err() {
                tracing::warn!(name = String::from_utf16_lossy(shown), "the name of a stream is too long for Windows and is left out");
                continue;
            }
            (info.stream_size, info.stream_alloc_size) = (size, status::allocation(size));
            if !info.append_to_buffer(buffer, &mut cursor) {
                return Ok(cursor);
            }
        }
        StreamInfo::<255>::finalize_buffer(buffer, &mut cursor);
        Ok(cursor)
    }

    /// Nothing is ever waiting to be written.
    fn flush(&self, context: Option<&Opened>, file_info: &mut FileInfo) -> Result<()> {
        if let Some(opened) = context {
            fill(file_info, &opened.info);
        }
        Ok(())
    }

    // Everything that would change something: the drive is read-only.

    fn create(
        &self,
        _file_name: &U16CStr,
        _create_options: u32,
        _granted_access: u32,
        _file_attributes: u32,
        _security_descriptor: Option<&[c_void]>,
        _allocation_size: u64,
        _extra_buffer: Option<&[u8]>,
        _extra_buffer_is_reparse_point: bool,
        _file_info: &mut OpenFileInfo,
    ) -> Result<Opened> {
        Err(write_protected())
    }

    fn set_security(&self, _context: &Opened, _security_information: u32, _modification: ModificationDescriptor) -> Result<()> {
        Err(write_protected())
    }

    fn overwrite(
        &self,
        _context: &Opened,
        _file_attributes: u32,
        _replace_file_attributes: bool,
        _allocation_size: u64,
        _extra_buffer: Option<&[u8]>,
        _file_info: &mut FileInfo,
    ) -> Result<()> {
        Err(write_protected())
    }

    fn rename(&self, _context: &Opened, _file_name: &U16CStr, _new_file_name: &U16CStr, _replace_if_exists: bool) -> Result<()> {
        Err(write_protected())
    }

    fn set_basic_info(
        &self,
        _context: &Opened,
        _file_attributes: u32,
        _creation_time: u64,
        _last_access_time: u64,
        _last_write_time: u64,
        _last_change_time: u64,
        _file_info: &mut FileInfo,
    ) -> Result<()> {
        Err(write_protected())
    }

    fn set_delete(&self, _context: &Opened, _file_name: &U16CStr, _delete_file: bool) -> Result<()> {
        Err(write_protected())
    }

    fn set_file_size(&self, _context: &Opened, _new_size: u64, _set_allocation_size: bool, _file_info: &mut FileInfo) -> Result<()> {
        Err(write_protected())
    }

    fn write(
        &self,
        _context: &Opened,
        _buffer: &[u8],
        _offset: u64,
        _write_to_eof: bool,
        _constrained_io: bool,
        _file_info: &mut FileInfo,
    ) -> Result<u32> {
        Err(write_protected())
    }

    fn set_volume_label(&self, _volume_label: &U16CStr, _volume_info: &mut VolumeInfo) -> Result<()> {
        Err(write_protected())
    }

    fn set_reparse_point(&self, _context: &Opened, _file_name: &U16CStr, _buffer: &[u8]) -> Result<()> {
        Err(write_protected())
    }

    fn delete_reparse_point(&self, _context: &Opened, _file_name: &U16CStr, _buffer: &[u8]) -> Result<()> {
        Err(write_protected())
    }

    fn set_extended_attributes(&self, _context: &Opened, _buffer: &[u8], _file_info: &mut FileInfo) -> Result<()> {
        Err(write_protected())
    }
}

impl AsyncFileSystemContext for Drive {
    async fn read_async(&self, context: &Opened, buffer: &mut [u8], offset: u64) -> Result<u32> {
        let FileInformation { size, index, .. } = context.info;
        if offset >= size {
            return Err(refused(status::END_OF_FILE));
        }
        let view = self.tree.view();
        let length = (buffer.len() as u64).min(size - offset);
        let bytes = match &context.place.stream {
            None => {
                view.read_ahead(index, offset, length);
                ask(view, move |view, held| view.read(held, index, offset, length))
            }
            Some(stream) => {
                let name = stream.name.clone();
                ask(view, move |view, held| view.read_stream(held, index, &name, offset, length))
            }
        };
        let bytes = bytes.await.map_err(|error| failed(&error, &context.place.path, Some(offset)))?;
        // Fewer would be taken for the end of the file.
        let place = buffer.get_mut(..bytes.len()).filter(|_| bytes.len() as u64 == length);
        place.ok_or_else(|| refused(status::FILE_CORRUPT_ERROR))?.copy_from_slice(&bytes);
        u32::try_from(length).map_err(|_| refused(status::INVALID_PARAMETER))
    }

    async fn read_directory_async(
        &self,
        context: &Opened,
        pattern: Option<&U16CStr>,
        marker: DirMarker<'_>,
        buffer: &mut [u8],
    ) -> Result<u32> {
        self.list(context, pattern.map(U16CStr::as_slice), marker.inner(), buffer).await
    }

    fn spawn_task(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.tasks.start(future);
    }
}

impl Drive {
    /// A drive over a view.
    pub(crate) fn new(view: Arc<fs_core::view::View>, ending: Receiver<()>, security: Vec<u8>, is_far: bool) -> Self {
        Self { tree: Tree::new(view), tasks: Tasks::new(), ending, security, is_far }
    }
}
