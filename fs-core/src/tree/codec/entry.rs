//! The bytes of an entry. Layout: docs/FORMAT.md, section 10.

use super::super::{Acl, Content, Entry, EntryKind, Extent, POSITION_MAX, Stream, Subtree, TreeError, Value, XATTR_INLINE_MAX};
use super::{BLOB_MAX, ITEMS_MAX, Places, References, TARGET_MAX, TEXT_MAX, drop_ref};
use crate::path::{NAME_LENGTH_MAX, Name};
use crate::time::Timestamp;
use crate::wire::{CborReader, CborWriter, MapWriter, required};

/// A time at most so many nanoseconds away from another one is written as their difference: it takes five bytes at most.
const DIFFERENCE_MAX: i128 = (1 << 32) - 1;

/// Writes an entry; its references go into `places`.
pub fn encode_entry(writer: &mut CborWriter, entry: &Entry, places: &mut Places) {
    let known = |map: &mut MapWriter<'_>, places: &mut Places| {
        map.key(0).bytes(entry.name_bytes());
        let kind = EntryKind::ALL.into_iter().find(|row| row.1 == entry.kind).map_or(0, |row| row.0);
        map.key(1).u64(kind.into());
        map.key(2).u64(entry.mode.into());
        map.optional(3, entry.uid, |w, uid| drop_ref(w.u64(uid.into())));
        map.optional(4, entry.gid, |w, gid| drop_ref(w.u64(gid.into())));
        map.optional(5, entry.mtime, |w, time| drop_ref(w.time(time)));
        map.optional(6, entry.ctime, |w, time| encode_time(w, time, entry.mtime));
        let has_size = entry.implied_size() != Some(entry.size);
        map.optional(7, has_size.then_some(entry.size), |w, size| drop_ref(w.u64(size)));
        map.optional(8, entry.btime, |w, time| encode_time(w, time, entry.ctime));
        map.optional(9, entry.link_group, |w, group| drop_ref(w.u64(group)));
        match &entry.content {
            Content::Inline(references) if references.is_empty() => {}
            Content::Fragment { reference, .. } if places.is_fragment_of_the_last(reference) => {}
            content @ (Content::Inline(_) | Content::Fragment { .. }) => places.encode_content(map.key(10), content),
            content @ Content::List { .. } => places.encode_content(map.key(11), content),
        }
        map.optional(12, entry.subtree.as_ref().and_then(|s| s.page.as_ref()), |w, page| places.encode_reference(w, page));
        map.optional(13, entry.target.as_ref(), |w, target| drop_ref(w.bytes(target)));
        map.optional(14, (!entry.xattrs.is_empty()).then_some(&entry.xattrs), |w, xattrs| {
            w.array_of(xattrs, |w, (name, value)| places.encode_value(w.array(2).bytes(name), value));
        });
        map.optional(15, (entry.acl != Acl::default()).then_some(&entry.acl), |w, acl| {
            let half =
                |w: &mut CborWriter, half: &Option<Vec<u8>>| drop_ref(w.optional(half.as_ref(), |w, bytes| drop_ref(w.bytes(bytes))));
            w.array(2);
            half(w, &acl.access);
            half(w, &acl.default);
        });
        map.optional(16, entry.windows_attributes, |w, attributes| drop_ref(w.u64(attributes.into())));
        map.optional(17, entry.security_descriptor.as_ref(), |w, value| places.encode_value(w, value));
        map.optional(18, (!entry.streams.is_empty()).then_some(&entry.streams), |w, streams| {
            w.array_of(streams, |w, stream| places.encode_stream(w, stream));
        });
        map.optional(19, entry.sparse.as_ref(), |w, extents| {
            w.array_of(extents, |w, extent| drop_ref(w.array(2).u64(extent.offset).u64(extent.length)));
        });
        map.optional(20, entry.device, |w, (major, minor)| drop_ref(w.array(2).u64(major.into()).u64(minor.into())));
        map.optional(21, entry.user.as_ref(), |w, name| drop_ref(w.text(name)));
        map.optional(22, entry.group.as_ref(), |w, name| drop_ref(w.text(name)));
        map.optional(23, entry.file_hash.as_ref(), |w, hash| drop_ref(w.bytes(hash)));
        map.optional(24, entry.placeholder, |w, state| drop_ref(w.u64(state)));
        map.optional(25, entry.link_count, |w, count| drop_ref(w.u64(count)));
        if let Some(subtree) = &entry.subtree {
            map.key(26).u64(subtree.position_count);
            map.key(27).u64(subtree.directory_count);
            map.key(28).u64(subtree.byte_count);
            map.key(29).u64(subtree.file_count);
        }
        map.optional(30, entry.reparse.as_ref(), |w, bytes| drop_ref(w.bytes(bytes)));
        map.optional(31, entry.block_size, |w, size| drop_ref(w.u64(size.into())));
        let start = if let Content::Fragment { start, .. } = entry.content { Some(start) } else { None };
        map.optional(32, start, |w, start| drop_ref(w.u64(start.into())));
        map.optional(33, entry.flags, |w, flags| drop_ref(w.u64(flags.into())));
    };
    writer.map(|map| {
        known(map, places);
        for (key, value) in &entry.unknown {
            map.key(*key).raw(value);
        }
    });
}

/// Writes a time as its difference to `base` if they are close: files are mostly written at once and then left alone.
fn encode_time(writer: &mut CborWriter, time: Timestamp, base: Option<Timestamp>) {
    let difference = base.map(|base| time.as_nanos() - base.as_nanos()).filter(|difference| difference.abs() <= DIFFERENCE_MAX);
    match difference.and_then(|difference| i64::try_from(difference).ok()) {
        Some(difference) => drop_ref(writer.i64(difference)),
        None => drop_ref(writer.time(time)),
    }
}

fn decode_time(reader: &mut CborReader<'_>, base: Option<Timestamp>) -> Result<Timestamp, TreeError> {
    if reader.at_array()? {
        return Ok(reader.time()?);
    }
    let difference = reader.i64()?;
    let base = base.ok_or(TreeError::Broken("a time counts from one that is not there"))?;
    base.checked_add_nanos(difference).ok_or(TreeError::Broken("a time is out of range"))
}

/// Reads an entry; `references` continues with those that stand in it.
///
/// # Errors
/// [`TreeError`].
pub fn decode_entry(reader: &mut CborReader<'_>, references: &mut References<'_>) -> Result<Entry, TreeError> {
    let mut entry = Entry::new(None, EntryKind::File);
    let (mut kind, mut size, mut subtree, mut has_positions, mut start) = (None, None, Subtree::EMPTY, false, None);
    reader.map::<TreeError>(|key, reader| {
        match key {
            // Only the root of a snapshot has no name.
            0 => match reader.bytes(NAME_LENGTH_MAX)? {
                b"" => entry.name = None,
                name => entry.name = Some(Name::new(name)?),
            },
            1 => kind = Some(decode_kind(reader.u8()?)?),
            2 => entry.mode = reader.u32()?,
            7 => size = Some(reader.u64()?),
            12 => subtree.page = Some(references.decode_reference(reader)?),
            26 => {
                has_positions = true;
                subtree.position_count = reader.u64()?;
            }
            27 => subtree.directory_count = reader.u64()?,
            28 => subtree.byte_count = reader.u64()?,
            29 => subtree.file_count = reader.u64()?,
            32 => start = Some(reader.u32()?),
            3..=9 | 20..=25 | 30 | 31 | 33 => decode_scalar(key, reader, &mut entry)?,
            10 | 11 | 13..=19 => decode_body(key, reader, &mut entry, references)?,
            _ => entry.unknown.push((key, reader.raw()?.to_vec())),
        }
        Ok(())
    })?;
    entry.kind = required(kind, 1)?;
    let is_directory = entry.kind == EntryKind::Directory;
    entry.subtree = is_directory.then_some(subtree);
    if let Some(start) = start {
        entry.content = decode_fragment(&entry, start, size, references)?;
    }
    entry.size = size.or_else(|| entry.implied_size()).ok_or(TreeError::Broken("an entry does not say its size"))?;
    check_entry(&entry, has_positions)?;
    Ok(entry)
}

/// The part of its only record that a small file is.
fn decode_fragment(entry: &Entry, start: u32, size: Option<u64>, references: &mut References<'_>) -> Result<Content, TreeError> {
    let broken = |what| Err(TreeError::Broken(what));
    let record = match &entry.content {
        Content::Inline(records) => match &records[..] {
            [] => references.fragment,
            [record] => Some(*record),
            _ => None,
        },
        _ => None,
    };
    let Some(reference) = record else { return broken("a fragment of no record or of several") };
    references.fragment = record;
    if size.and_then(|size| size.checked_add(start.into())).is_none_or(|end| end > reference.plain_len.into()) {
        return broken("a fragment reaches beyond its record");
    }
    if entry.kind != EntryKind::File || entry.sparse.is_some() || entry.file_hash.is_none() {
        return broken("what is no plain file with its hash is a fragment");
    }
    Ok(Content::Fragment { start, reference })
}

fn decode_kind(byte: u8) -> Result<EntryKind, TreeError> {
    let row = EntryKind::ALL.into_iter().find(|row| row.0 == byte);
    row.map(|row| row.1).ok_or(TreeError::Broken("an entry is of an unknown kind"))
}

fn decode_scalar(key: u64, reader: &mut CborReader<'_>, entry: &mut Entry) -> Result<(), TreeError> {
    match key {
        3 => entry.uid = Some(reader.u32()?),
        4 => entry.gid = Some(reader.u32()?),
        5 => entry.mtime = Some(reader.time()?),
        6 => entry.ctime = Some(decode_time(reader, entry.mtime)?),
        8 => entry.btime = Some(decode_time(reader, entry.ctime)?),
        9 => entry.link_group = Some(reader.u64()?),
        20 => entry.device = Some(reader.tuple(2, |r| Ok::<_, TreeError>((r.u32()?, r.u32()?)))?),
        21 => entry.user = Some(reader.text(TEXT_MAX)?.to_owned()),
        22 => entry.group = Some(reader.text(TEXT_MAX)?.to_owned()),
        23 => entry.file_hash = Some(reader.byte_array()?),
        24 => entry.placeholder = Some(reader.u64()?),
        25 => entry.link_count = Some(reader.u64()?),
        30 => entry.reparse = Some(reader.bytes(TARGET_MAX)?.to_vec()),
        31 => entry.block_size = Some(reader.u32()?),
        33 => entry.flags = Some(reader.u32()?),
        _ => reader.skip()?,
    }
    Ok(())
}

fn decode_body(key: u64, reader: &mut CborReader<'_>, entry: &mut Entry, references: &mut References<'_>) -> Result<(), TreeError> {
    match key {
        10 => entry.content = references.decode_inline(reader)?,
        11 if entry.content == Content::EMPTY => entry.content = references.decode_list_content(reader)?,
        11 => return Err(TreeError::Broken("an entry has two contents")),
        13 => entry.target = Some(reader.bytes(TARGET_MAX)?.to_vec()),
        14 => {
            entry.xattrs = reader.array(ITEMS_MAX, |reader| {
                reader.tuple(2, |r| Ok::<_, TreeError>((r.bytes(NAME_LENGTH_MAX)?.to_vec(), references.decode_value(r, XATTR_INLINE_MAX)?)))
            })?;
        }
        15 => {
            let half = |r: &mut CborReader<'_>| r.optional(|r| Ok::<_, TreeError>(r.bytes(TARGET_MAX)?.to_vec()));
            entry.acl = reader.tuple(2, |r| Ok::<_, TreeError>(Acl { access: half(r)?, default: half(r)? }))?;
        }
        16 => entry.windows_attributes = Some(reader.u32()?),
        17 => entry.security_descriptor = Some(references.decode_value(reader, BLOB_MAX)?),
        18 => {
            entry.streams = reader.array(ITEMS_MAX, |reader| {
                reader.tuple(3, |r| {
                    let (name, size) = (r.bytes(NAME_LENGTH_MAX)?.to_vec(), r.u64()?);
                    Ok::<_, TreeError>(Stream { name, value: Value::Stored { size, content: references.decode_content(r)? } })
                })
            })?;
        }
        19 => {
            let extent = |r: &mut CborReader<'_>| r.tuple(2, |r| Ok::<_, TreeError>(Extent { offset: r.u64()?, length: r.u64()? }));
            entry.sparse = Some(reader.array(BLOB_MAX, extent)?);
        }
        _ => reader.skip()?,
    }
    Ok(())
}

fn check_entry(entry: &Entry, has_positions: bool) -> Result<(), TreeError> {
    let broken = |what| Err(TreeError::Broken(what));
    let positions = entry.position_count();
    if has_positions != entry.subtree.is_some() || positions == 0 || positions > POSITION_MAX {
        return broken("an entry's positions are out of range");
    }
    if entry.mode > 0o7777 {
        return broken("an entry's mode is out of range");
    }
    let mut end = 0u64;
    for extent in entry.sparse.iter().flatten() {
        let next = extent.offset.checked_add(extent.length);
        match next {
            Some(next) if extent.offset >= end && extent.length > 0 && next <= entry.size => end = next,
            _ => return broken("a sparse map is out of order"),
        }
    }
    Ok(())
}
