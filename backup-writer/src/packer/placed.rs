//! What a run has placed, found by id or hash: a few bytes for each in memory, the rest as rows in a file.
//!
//! A run may place hundreds of millions of small files, so no more of each is kept in memory than tells almost surely that something else is not there. The newest rows are
//! in memory too: what was just placed is asked for soon. The file has no name and is gone when the program ends; without room for it the rows stay in memory.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use fs_core::compress::Codec;
use fs_core::crypto;
use fs_core::id::{PackId, RecordId};
use fs_core::record::{Reference, SessionKeyRef};
use fs_core::tree::Content;

use super::Part;

/// id or hash 32 ‖ pack index or row of the record ‖ offset or start in the record ‖ stored length ‖ plaintext length ‖ session index u16 ‖ kind ‖ codec.
const ROW_LENGTH: usize = 52;
/// Bytes behind each row in the file: the beginning of its hash. A row that a disk has changed would be a wrong reference in a snapshot.
const CHECK_LENGTH: usize = 4;
/// Rows in memory, of which the older half then goes into the file.
const RECENT_MAX: usize = 1 << 15;
/// Tables that find rows: a power of two.
const TABLES: usize = 256;
/// Slots of a table at the beginning.
const SLOTS_MIN: usize = 16;

type RowBytes = [u8; ROW_LENGTH];

/// The records and small files that a run has placed.
#[derive(Debug)]
pub(super) struct Placed {
    slots: Slots,
    rows: Rows,
    /// What rows name by index.
    packs: Vec<PackId>,
    sessions: Vec<SessionKeyRef>,
}

/// A row, decoded.
enum Row {
    Record(Reference),
    Fragment { record: u32, start: u32 },
}

impl Placed {
    /// Nothing yet. Rows go into a file in this folder, or where the system has temporary files.
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        let rows = Rows { recent: VecDeque::new(), recent_max: RECENT_MAX, filed: 0, folder, file: None, is_full: false };
        Self { slots: Slots::default(), rows, packs: Vec::new(), sessions: Vec::new() }
    }

    /// Notes where a record is.
    pub(super) fn push_record(&mut self, reference: &Reference) -> u32 {
        let Reference { id, plain_len, stored_len, offset, codec, pack, session } = *reference;
        let numbers = [index_of(&mut self.packs, pack), offset, stored_len, plain_len];
        let session = u16::try_from(index_of(&mut self.sessions, session)).expect("a run seals for one session and takes over from few");
        self.push(id.as_bytes(), numbers, session, [0, codec.to_byte()])
    }

    /// Notes where a small file is, if that is not known; `record` is the number of its record's row.
    pub(super) fn push_fragment(&mut self, record: u32, part: &Part) -> io::Result<()> {
        if self.has_fragment(&part.hash)? {
            return Ok(());
        }
        self.push(&part.hash, [record, part.start, 0, 0], 0, [1, 0]);
        Ok(())
    }

    /// Where a record was placed.
    pub(super) fn record(&self, id: &RecordId) -> io::Result<Option<Reference>> {
        Ok(self.find(id.as_bytes(), |_, row| if let Row::Record(reference) = row { Some(reference) } else { None })?.next())
    }

    /// The number of a record's row.
    pub(super) fn record_row(&self, id: &RecordId) -> io::Result<Option<u32>> {
        Ok(self.find(id.as_bytes(), |number, row| matches!(row, Row::Record(_)).then_some(number))?.next())
    }

    /// Where a small file was placed.
    pub(super) fn fragment(&self, hash: &[u8; 32]) -> io::Result<Option<Content>> {
        let Some((record, start)) = self.fragment_place(hash)? else { return Ok(None) };
        let row = self.rows.get(record)?;
        Ok(match self.decode(&row) {
            Some(Row::Record(reference)) => Some(Content::Fragment { start, reference }),
            _ => None,
        })
    }

    /// Whether a small file was placed.
    pub(super) fn has_fragment(&self, hash: &[u8; 32]) -> io::Result<bool> {
        Ok(self.fragment_place(hash)?.is_some())
    }

    fn fragment_place(&self, hash: &[u8; 32]) -> io::Result<Option<(u32, u32)>> {
        let place = |_, row| if let Row::Fragment { record, start } = row { Some((record, start)) } else { None };
        Ok(self.find(hash, place)?.next())
    }

    /// What `wanted` makes of the rows of an id or hash.
    fn find<T>(&self, id: &[u8; 32], wanted: impl Fn(u32, Row) -> Option<T>) -> io::Result<impl Iterator<Item = T>> {
        let mut found = Vec::new();
        for number in self.slots.find(fingerprint(id)) {
            let row = self.rows.get(number)?;
            if row.starts_with(id) {
                found.extend(self.decode(&row).and_then(|row| wanted(number, row)));
            }
        }
        Ok(found.into_iter())
    }

    fn push(&mut self, id: &[u8; 32], numbers: [u32; 4], session: u16, kind_and_codec: [u8; 2]) -> u32 {
        let mut row = [0; ROW_LENGTH];
        let fields =
            id.iter().copied().chain(numbers.into_iter().flat_map(u32::to_le_bytes)).chain(session.to_le_bytes()).chain(kind_and_codec);
        row.iter_mut().zip(fields).for_each(|(byte, field)| *byte = field);
        let number = self.rows.push(row);
        self.slots.insert(fingerprint(id), number);
        number
    }

    fn decode(&self, row: &RowBytes) -> Option<Row> {
        let number = |at: usize| row.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let [.., low, high, kind, codec] = *row;
        if kind == 1 {
            return Some(Row::Fragment { record: number(32), start: number(36) });
        }
        Some(Row::Record(Reference {
            id: RecordId::from_bytes(*row.first_chunk()?),
            plain_len: number(44),
            stored_len: number(40),
            offset: number(36),
            codec: Codec::from_byte(codec)?,
            pack: *self.packs.get(number(32) as usize)?,
            session: *self.sessions.get(usize::from(u16::from_le_bytes([low, high])))?,
        }))
    }
}

/// The index of a value. It is mostly one of the last.
fn index_of<T: Copy + PartialEq>(all: &mut Vec<T>, value: T) -> u32 {
    let at = all.iter().rposition(|known| *known == value).unwrap_or_else(|| {
        all.push(value);
        all.len() - 1
    });
    u32::try_from(at).expect("a run writes fewer than 2^32 packs")
}

/// Ids and hashes are keyed hashes: any four bytes of them are as good as random.
fn fingerprint(id: &[u8; 32]) -> u32 {
    let [first, second, third, fourth, ..] = *id;
    u32::from_le_bytes([first, second, third, fourth])
}

/// Rows by number: the newest in memory, those before in the file.
#[derive(Debug)]
struct Rows {
    recent: VecDeque<RowBytes>,
    recent_max: usize,
    /// How many are in the file.
    filed: u32,
    folder: Option<PathBuf>,
    /// Made when it is first needed: most runs place little.
    file: Option<File>,
    /// Nothing can be written any more.
    is_full: bool,
}

impl Rows {
    fn push(&mut self, row: RowBytes) -> u32 {
        let number = u32::try_from(self.recent.len()).ok().and_then(|recent| self.filed.checked_add(recent));
        let number = number.expect("a run places fewer than 2^32 records and files");
        self.recent.push_back(row);
        if self.recent.len() >= self.recent_max
            && !self.is_full
            && let Err(error) = self.file_older_half()
        {
            tracing::warn!(%error, "what was placed cannot be kept on the local disk: it takes memory");
            self.is_full = true;
        }
        number
    }

    fn file_older_half(&mut self) -> io::Result<()> {
        let count = self.recent_max / 2;
        let file = match &self.file {
            Some(file) => file,
            None => {
                let in_folder = self.folder.as_deref().and_then(|folder| tempfile::tempfile_in(folder).ok());
                self.file.insert(in_folder.map_or_else(tempfile::tempfile, Ok)?)
            }
        };
        let bytes: Vec<u8> = self.recent.iter().take(count).flat_map(|row| row.iter().copied().chain(check(row))).collect();
        crate::system::write_all_at(file, &bytes, place(self.filed))?;
        self.recent.drain(..count);
        self.filed += u32::try_from(count).expect("half of a small number");
        Ok(())
    }

    fn get(&self, number: u32) -> io::Result<RowBytes> {
        let missing = || io::Error::other("a row that was never written");
        if let Some(at) = number.checked_sub(self.filed) {
            return self.recent.get(at as usize).copied().ok_or_else(missing);
        }
        let mut bytes = [0; ROW_LENGTH + CHECK_LENGTH];
        crate::system::read_exact_at(self.file.as_ref().ok_or_else(missing)?, &mut bytes, place(number))?;
        let row = *bytes.first_chunk().ok_or_else(missing)?;
        if bytes.ends_with(&check(&row)) {
            Ok(row)
        } else {
            Err(io::Error::other("the local disk gave back something else than was written"))
        }
    }
}

/// Where a row stands in the file.
fn place(number: u32) -> u64 {
    u64::from(number) * (ROW_LENGTH + CHECK_LENGTH) as u64
}

fn check(row: &RowBytes) -> [u8; CHECK_LENGTH] {
    let [first, second, third, fourth, ..] = crypto::hash(row);
    [first, second, third, fourth]
}

/// Finds row numbers by four bytes of their ids: 11 to 16 bytes for each row.
///
/// Many small tables, so that what grows, and is there twice meanwhile, is never more than a small part of the whole.
#[derive(Debug)]
struct Slots([Table; TABLES]);

/// A table with open addressing. The place of a slot is what its fingerprint is in proportion to all fingerprints of the table, so it can grow by any factor, and without
/// the rows.
#[derive(Debug, Default)]
struct Table {
    /// Fingerprint, then number plus one; 0 is an empty slot.
    slots: Vec<u64>,
    count: usize,
}

impl Default for Slots {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Table::default()))
    }
}

impl Slots {
    fn insert(&mut self, fingerprint: u32, number: u32) {
        if let Some(table) = self.0.get_mut(table_of(fingerprint)) {
            table.insert(u64::from(fingerprint) << 32 | (u64::from(number) + 1));
        }
    }

    /// Rows that may be those of this fingerprint: mostly none.
    fn find(&self, fingerprint: u32) -> impl Iterator<Item = u32> {
        self.0.get(table_of(fingerprint)).into_iter().flat_map(move |table| table.find(fingerprint))
    }
}

impl Table {
    fn insert(&mut self, slot: u64) {
        // Three in four at the most: the next empty slot is then eight slots away, which is one line of the processor's cache.
        if (self.count + 1) * 4 > self.slots.len() * 3 {
            let larger = SLOTS_MIN.max(self.slots.len() / 2 * 3);
            let before = std::mem::replace(&mut self.slots, vec![0; larger]);
            before.into_iter().filter(|slot| *slot != 0).for_each(|slot| self.put(slot));
        }
        self.count += 1;
        self.put(slot);
    }

    fn find(&self, fingerprint: u32) -> impl Iterator<Item = u32> {
        let slots = self.from(fingerprint).filter_map(|at| self.slots.get(at).copied()).take_while(|slot| *slot != 0);
        slots.filter(move |slot| slot >> 32 == u64::from(fingerprint)).filter_map(|slot| u32::try_from((slot & 0xffff_ffff) - 1).ok())
    }

    fn put(&mut self, slot: u64) {
        let fingerprint = u32::try_from(slot >> 32).expect("the upper half of 64 bits");
        let empty = self.from(fingerprint).find(|at| self.slots.get(*at) == Some(&0));
        if let Some(place) = empty.and_then(|at| self.slots.get_mut(at)) {
            *place = slot;
        }
    }

    /// All slots, beginning with that of a fingerprint.
    fn from(&self, fingerprint: u32) -> impl Iterator<Item = usize> + use<> {
        let count = self.slots.len();
        let within = u64::from(fingerprint << TABLES.ilog2());
        let home = usize::try_from((within * count as u64) >> 32).expect("less than the number of slots");
        (home..count).chain(0..home)
    }
}

/// The table of a fingerprint, by its highest bits; the others say where in it.
fn table_of(fingerprint: u32) -> usize {
    (fingerprint >> (u32::BITS - TABLES.ilog2())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u32) -> [u8; 32] {
        crypto::hash(&n.to_le_bytes())
    }

    fn reference(n: u32) -> Reference {
        Reference {
            id: RecordId::from_bytes(hash(n)),
            plain_len: n,
            stored_len: n + 1,
            offset: n + 2,
            codec: if n.is_multiple_of(2) { Codec::Zstd } else { Codec::Raw },
            pack: PackId::from_bytes([u8::try_from(n / 1000).unwrap(); 16]),
            session: SessionKeyRef { epoch: u16::try_from(n / 5000).unwrap(), enc: [7; 32] },
        }
    }

    /// Records with two small files each.
    fn filled(placed: &mut Placed, count: u32) {
        for n in 0..count {
            let record = placed.push_record(&reference(n));
            for (start, part) in [(0, 2 * n), (9, 2 * n + 1)] {
                placed.push_fragment(record, &Part { hash: hash(1_000_000 + part), start, length: 9 }).unwrap();
            }
        }
    }

    fn check_all(placed: &Placed, count: u32) {
        for n in 0..count {
            assert_eq!(placed.record(&reference(n).id).unwrap(), Some(reference(n)));
            let found = placed.fragment(&hash(1_000_000 + 2 * n + 1)).unwrap();
            assert_eq!(found, Some(Content::Fragment { start: 9, reference: reference(n) }));
        }
        for n in count..2 * count {
            assert_eq!(placed.record(&reference(n).id).unwrap(), None);
            assert_eq!(placed.fragment(&hash(1_000_000 + 2 * n)).unwrap(), None);
            assert_eq!(placed.fragment(&hash(n - count)).unwrap(), None, "a record is no small file");
        }
    }

    #[test]
    fn what_was_placed_is_found_in_memory_and_in_the_file() {
        let place = tempfile::tempdir().unwrap();
        let mut placed = Placed::new(Some(place.path().to_path_buf()));
        placed.rows.recent_max = 100;
        filled(&mut placed, 10_000);
        assert!(placed.rows.recent.len() < 100, "the rest is in the file");
        check_all(&placed, 10_000);
        let files = || std::fs::read_dir(place.path()).unwrap().count();
        // On Windows it has one until it is closed.
        assert!(files() == 0 || cfg!(windows), "it has no name");
        drop(placed);
        assert_eq!(files(), 0);
    }

    #[test]
    fn what_was_placed_first_stays() {
        let mut placed = Placed::new(None);
        filled(&mut placed, 2);
        let other = placed.push_record(&reference(77));
        placed.push_fragment(other, &Part { hash: hash(1_000_001), start: 3, length: 9 }).unwrap();
        check_all(&placed, 2);
        assert_eq!(placed.record_row(&reference(77).id).unwrap(), Some(other));
    }

    #[test]
    fn without_room_for_a_file_all_is_in_memory() {
        let mut placed = Placed::new(None);
        placed.rows.recent_max = 100;
        placed.rows.file = Some(File::open("/dev/null").unwrap());
        filled(&mut placed, 1000);
        assert_eq!(placed.rows.recent.len(), 3000);
        check_all(&placed, 1000);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error_and_not_an_absence() {
        let mut placed = Placed::new(None);
        placed.rows.recent_max = 100;
        filled(&mut placed, 1000);
        placed.rows.file.as_ref().unwrap().set_len(0).unwrap();
        assert!(placed.record(&reference(1).id).is_err());
        assert!(placed.fragment(&hash(1_000_000)).is_err());
        assert_eq!(placed.record(&reference(5000).id).unwrap(), None, "for what is not there nobody looks into the file");
    }

    #[test]
    fn a_row_that_the_disk_changed_is_an_error() {
        let mut placed = Placed::new(None);
        placed.rows.recent_max = 100;
        filled(&mut placed, 1000);
        // The offset of the first record.
        crate::system::write_all_at(placed.rows.file.as_ref().unwrap(), &[1], 36).unwrap();
        assert!(placed.record(&reference(0).id).is_err());
        assert_eq!(placed.record(&reference(1).id).unwrap(), Some(reference(1)));
    }

    #[test]
    fn fingerprints_that_are_alike_or_at_the_end_are_all_found() {
        let mut slots = Slots::default();
        for number in 0..5000 {
            slots.insert([u32::MAX, 0, 5][number as usize % 3], number);
        }
        for (first, fingerprint) in [u32::MAX, 0, 5].into_iter().enumerate() {
            let mut found: Vec<_> = slots.find(fingerprint).collect();
            found.sort_unstable();
            assert!(found.into_iter().eq((0..5000).skip(first).step_by(3)));
        }
        assert_eq!(slots.find(77).count(), 0);
    }
}
