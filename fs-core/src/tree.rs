//! Trees: what a directory looked like. Types here, their bytes in `tree/codec.rs`, the splitting of large directories in `tree/page.rs`,
//! the lists of large files in `tree/list.rs`, what an entry leaves unsaid in `tree/proof.rs`, what a run changed in `tree/change.rs`. Layout: docs/FORMAT.md, sections 9 and 10.

use std::ops::Range;

use crate::path::{Name, NameError};
use crate::record::Reference;
use crate::time::Timestamp;
use crate::wire::WireError;

pub mod change;
pub mod codec;
pub mod list;
pub mod page;
pub mod proof;

/// References that stand in an entry itself; more go into a list.
pub const INLINE_REFERENCES_MAX: usize = 32;
/// Rows of one list record.
pub const LIST_ROWS_MAX: usize = 4096;
/// Levels of lists or page indexes.
pub const DEPTH_MAX: u8 = 6;
/// Extended attribute values up to this length stand in the entry itself.
pub const XATTR_INLINE_MAX: usize = 256;
/// Position of the root directory.
pub const ROOT_POSITION: u64 = 1;
/// Largest position in a snapshot.
pub const POSITION_MAX: u64 = (1 << 44) - 1;

/// The records that hold a stream of bytes, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// At most [`INLINE_REFERENCES_MAX`] references to data records; empty for no bytes.
    Inline(Vec<Reference>),
    /// A list record: depth 1 lists data records, depth n lists of depth n − 1.
    List {
        /// Levels below.
        depth: u8,
        /// The list record.
        reference: Reference,
    },
    /// A part of one data record, which it shares with other small files. Only files are fragments, and each says its size and its hash.
    Fragment {
        /// Where in the record it begins, in bytes.
        start: u32,
        /// The data record.
        reference: Reference,
    },
}

impl Content {
    /// No bytes.
    pub const EMPTY: Self = Self::Inline(Vec::new());

    /// The references that stand here itself.
    pub fn references(&self) -> &[Reference] {
        match self {
            Self::Inline(references) => references,
            Self::List { reference, .. } | Self::Fragment { reference, .. } => std::slice::from_ref(reference),
        }
    }
}

/// Bytes that stand in the entry if short, in records of their own if long.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// The bytes.
    Inline(Vec<u8>),
    /// Their number and where they are.
    Stored {
        /// Length in bytes.
        size: u64,
        /// The records.
        content: Content,
    },
}

impl Value {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Stored { size, .. } => *size,
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Kinds of entries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum EntryKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

impl EntryKind {
    /// All kinds with their numbers in the format.
    pub const ALL: [(u8, Self); 7] = [
        (1, Self::File),
        (2, Self::Directory),
        (3, Self::Symlink),
        (4, Self::Fifo),
        (5, Self::Socket),
        (6, Self::CharDevice),
        (7, Self::BlockDevice),
    ];

    /// The word used in JSON records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::CharDevice => "char_device",
            Self::BlockDevice => "block_device",
        }
    }
}

/// An alternate data stream (Windows) or resource fork.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stream {
    /// Its name, bytes.
    pub name: Vec<u8>,
    /// Its bytes: inline until a writer has put them into records.
    pub value: Value,
}

/// A run of bytes that is present in a sparse file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Extent {
    /// Where it begins in the file.
    pub offset: u64,
    /// How many bytes it has.
    pub length: u64,
}

/// POSIX access control lists, as the bytes of the Linux extended attributes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Acl {
    /// `system.posix_acl_access`.
    pub access: Option<Vec<u8>>,
    /// `system.posix_acl_default`.
    pub default: Option<Vec<u8>>,
}

/// What a directory entry that is a directory says about everything below it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Subtree {
    /// Its page or page index; `None` if it is empty.
    pub page: Option<Reference>,
    /// Positions it takes in the pre-order numbering, itself included: 1 if empty.
    pub position_count: u64,
    /// Subdirectories directly in it.
    pub directory_count: u64,
    /// Bytes of all files below.
    pub byte_count: u64,
    /// Entries below, at any depth, that are not directories.
    pub file_count: u64,
}

impl Subtree {
    /// An empty directory.
    pub const EMPTY: Self = Self { page: None, position_count: 1, directory_count: 0, byte_count: 0, file_count: 0 };
}

/// One line of a tree: everything that `ls -l` and `open` need.
///
/// Fields that a kind does not have are empty. `unknown` holds keys of later versions, undecoded, so that rewriting a page keeps them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Name in its directory; `None` only for the root of a snapshot.
    pub name: Option<Name>,
    /// Kind.
    pub kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky: the low twelve.
    pub mode: u32,
    /// Owner id.
    pub uid: Option<u32>,
    /// Group id.
    pub gid: Option<u32>,
    /// Owner name.
    pub user: Option<String>,
    /// Group name.
    pub group: Option<String>,
    /// Time of modification.
    pub mtime: Option<Timestamp>,
    /// Time of change of content or metadata.
    pub ctime: Option<Timestamp>,
    /// Time of birth.
    pub btime: Option<Timestamp>,
    /// Bytes of a file with its holes, or of a symlink's target.
    pub size: u64,
    /// Content of a file: its data extents, concatenated.
    pub content: Content,
    /// Which parts of a sparse file are present; `None` if all.
    pub sparse: Option<Vec<Extent>>,
    /// Whole-file hash; `None` where the content is at most one record and the file is not sparse: see [`Self::proof`].
    pub file_hash: Option<[u8; 32]>,
    /// Fixed block size by which the content was cut; `None` if by content.
    pub block_size: Option<u32>,
    /// What is below a directory; `None` for all other kinds.
    pub subtree: Option<Subtree>,
    /// Target of a symlink.
    pub target: Option<Vec<u8>>,
    /// Device number (major, minor).
    pub device: Option<(u32, u32)>,
    /// Entries with the same group in a snapshot are one file.
    pub link_group: Option<u64>,
    /// Link count of the source.
    pub link_count: Option<u64>,
    /// Extended attributes sorted by name, without the ACLs.
    pub xattrs: Vec<(Vec<u8>, Value)>,
    /// POSIX ACLs.
    pub acl: Acl,
    /// Windows attributes.
    pub windows_attributes: Option<u32>,
    /// Windows security descriptor.
    pub security_descriptor: Option<Value>,
    /// Alternate streams.
    pub streams: Vec<Stream>,
    /// Placeholder state of a cloud file.
    pub placeholder: Option<u64>,
    /// Reparse data.
    pub reparse: Option<Vec<u8>>,
    /// `st_flags` of macOS.
    pub flags: Option<u32>,
    /// Keys of later versions with their values, as CBOR.
    pub unknown: Vec<(u64, Vec<u8>)>,
}

impl Entry {
    /// References to the records of trees and lists that lead on from here.
    pub fn metadata_references(&self) -> [Option<&Reference>; 2] {
        let list = match &self.content {
            Content::List { reference, .. } => Some(reference),
            Content::Inline(_) | Content::Fragment { .. } => None,
        };
        [self.subtree.as_ref().and_then(|subtree| subtree.page.as_ref()), list]
    }

    /// Everything that stands in the entry if short, in records of its own if long: attributes, the security descriptor, streams.
    pub fn values(&self) -> impl Iterator<Item = &Value> {
        self.xattrs.iter().map(|(_, value)| value).chain(&self.security_descriptor).chain(self.streams.iter().map(|stream| &stream.value))
    }

    /// The same, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Value> {
        let attributes = self.xattrs.iter_mut().map(|(_, value)| value);
        attributes.chain(&mut self.security_descriptor).chain(self.streams.iter_mut().map(|stream| &mut stream.value))
    }

    /// The contents of those that stand in records.
    pub fn side_contents(&self) -> impl Iterator<Item = &Content> {
        self.values().filter_map(|value| match value {
            Value::Stored { content, .. } => Some(content),
            Value::Inline(_) => None,
        })
    }

    /// An entry with nothing but name and kind.
    pub fn new(name: Option<Name>, kind: EntryKind) -> Self {
        Self {
            name,
            kind,
            mode: 0,
            uid: None,
            gid: None,
            user: None,
            group: None,
            mtime: None,
            ctime: None,
            btime: None,
            size: 0,
            content: Content::EMPTY,
            sparse: None,
            file_hash: None,
            block_size: None,
            subtree: (kind == EntryKind::Directory).then_some(Subtree::EMPTY),
            target: None,
            device: None,
            link_group: None,
            link_count: None,
            xattrs: Vec::new(),
            acl: Acl::default(),
            windows_attributes: None,
            security_descriptor: None,
            streams: Vec::new(),
            placeholder: None,
            reparse: None,
            flags: None,
            unknown: Vec::new(),
        }
    }

    /// The record that a fragment shares, and which bytes of it are the file; `None` for all else.
    pub fn fragment(&self) -> Option<(Reference, Range<usize>)> {
        let Content::Fragment { start, reference } = self.content else { return None };
        let start = start as usize;
        Some((reference, start..start + usize::try_from(self.size).ok()?))
    }

    /// Takes over the content of another entry of the same file, with all that describes it.
    pub fn take_content(&mut self, other: &Self) {
        (self.content, self.sparse) = (other.content.clone(), other.sparse.clone());
        (self.file_hash, self.block_size) = (other.file_hash, other.block_size);
        self.unknown.clone_from(&other.unknown);
    }

    /// Takes over the extended attributes, ACLs and alternate streams of another entry of the same file.
    pub fn take_attributes(&mut self, other: &Self) {
        (self.xattrs, self.acl) = (other.xattrs.clone(), other.acl.clone());
        (self.security_descriptor, self.streams) = (other.security_descriptor.clone(), other.streams.clone());
        if other.security_descriptor.is_some() {
            // Read with it.
            (self.user, self.group) = (other.user.clone(), other.group.clone());
        }
    }

    /// The name's bytes; empty for the root.
    pub fn name_bytes(&self) -> &[u8] {
        self.name.as_ref().map_or(&[], Name::as_bytes)
    }

    /// An upper bound of its encoded length, without encoding it.
    pub fn encoded_size_max(&self) -> usize {
        const REFERENCE: usize = 64;
        let content = |content: &Content| 16 + content.references().len() * REFERENCE;
        let value = |value: &Value| match value {
            Value::Inline(bytes) => 8 + bytes.len(),
            Value::Stored { content: stored, .. } => 16 + content(stored),
        };
        let text = |text: &Option<String>| text.as_ref().map_or(0, |text| 8 + text.len());
        let bytes = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, |bytes| 8 + bytes.len());
        let fixed = 256 + self.name_bytes().len() + content(&self.content) + if self.subtree.is_some() { REFERENCE + 48 } else { 0 };
        fixed
            + text(&self.user)
            + text(&self.group)
            + bytes(&self.target)
            + bytes(&self.reparse)
            + bytes(&self.acl.access)
            + bytes(&self.acl.default)
            + self.sparse.as_ref().map_or(0, |extents| 8 + 20 * extents.len())
            + self.xattrs.iter().map(|(name, v)| 16 + name.len() + value(v)).sum::<usize>()
            + self.security_descriptor.as_ref().map_or(0, value)
            + self.streams.iter().map(|stream| 32 + stream.name.len() + value(&stream.value)).sum::<usize>()
            + self.unknown.iter().map(|(_, bytes)| 16 + bytes.len()).sum::<usize>()
    }

    /// Positions that this entry takes in the pre-order numbering.
    pub fn position_count(&self) -> u64 {
        self.subtree.as_ref().map_or(1, |subtree| subtree.position_count)
    }
}

/// One row of a page index. Entries and positions are cumulative: they count everything up to and including this row's page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageRow {
    /// Name of the first entry in the page.
    pub first_name: Name,
    /// Entries up to the end of this page.
    pub entry_end: u64,
    /// Positions up to the end of this page, the directory itself not counted.
    pub position_end: u64,
    /// The page.
    pub reference: Reference,
}

/// Bytes that are no tree, list or table of the format.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
pub enum TreeError {
    /// The bytes do not decode.
    #[error("it does not decode")]
    Malformed(#[from] WireError),
    /// A name cannot be one.
    #[error("it holds an impossible name")]
    Name(#[from] NameError),
    /// A rule of the format is broken.
    #[error("it breaks the format: {0}")]
    Broken(&'static str),
}

/// A page of entries, with the positions that they take.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Leaf {
    entries: Vec<Entry>,
    position_ends: Vec<u64>,
}

impl Leaf {
    /// A page of entries that are sorted by name.
    pub fn new(entries: Vec<Entry>) -> Self {
        let ends = entries.iter().scan(0u64, |end, entry| {
            *end = end.saturating_add(entry.position_count());
            Some(*end)
        });
        let position_ends = ends.collect();
        Self { entries, position_ends }
    }

    /// The entries in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entries in order, taken out.
    pub fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// Positions of all entries before one.
    pub fn positions_before(&self, index: usize) -> u64 {
        index.checked_sub(1).and_then(|before| self.position_ends.get(before)).copied().unwrap_or(0)
    }

    /// Positions of all entries.
    pub fn position_count(&self) -> u64 {
        self.position_ends.last().copied().unwrap_or(0)
    }

    /// Where a name stands.
    pub fn find(&self, name: &[u8]) -> Option<usize> {
        self.entries.binary_search_by(|entry| entry.name_bytes().cmp(name)).ok()
    }

    /// The entry whose subtree takes the position `offset`, counted from 1 within this page.
    pub fn find_position(&self, offset: u64) -> Option<usize> {
        let index = self.position_ends.partition_point(|&end| end < offset);
        (offset > 0 && index < self.entries.len()).then_some(index)
    }
}

/// A tree record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Page {
    /// Entries sorted by name.
    Leaf(Leaf),
    /// Pages in the order of their names.
    Index(Vec<PageRow>),
}

impl Page {
    /// Entries of a leaf; none for an index.
    pub fn entries(&self) -> &[Entry] {
        match self {
            Self::Leaf(leaf) => leaf.entries(),
            Self::Index(_) => &[],
        }
    }

    /// References to further records of trees and lists.
    pub fn metadata_references(&self) -> impl Iterator<Item = &Reference> {
        let rows: &[PageRow] = match self {
            Self::Leaf(_) => &[],
            Self::Index(rows) => rows,
        };
        self.entries().iter().flat_map(Entry::metadata_references).flatten().chain(rows.iter().map(|row| &row.reference))
    }

    /// Roughly how many bytes of memory it takes, for the cache.
    pub fn memory_size(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.entries.iter().map(|entry| size_of::<Entry>() + 8 + entry.encoded_size_max() / 2).sum(),
            Self::Index(rows) => rows.iter().map(|row| size_of::<PageRow>() + row.first_name.as_bytes().len()).sum(),
        }
    }
}

/// One row of a list record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListRow {
    /// Content bytes up to and including this row, from the beginning of the list.
    pub end: u64,
    /// Data record or list below.
    pub reference: Reference,
}

/// A list record: where the bytes of a large file are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List {
    /// 1 if the rows are data records.
    pub depth: u8,
    /// At most [`LIST_ROWS_MAX`] rows.
    pub rows: Vec<ListRow>,
}

/// One row of the hard-link table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkRow {
    /// Position of an entry with a group.
    pub position: u64,
    /// Lowest position of the group.
    pub leader: u64,
    /// Members of the group in the snapshot.
    pub link_count: u64,
}
