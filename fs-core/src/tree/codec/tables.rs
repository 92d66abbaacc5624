//! The bytes of the hard-link table and of the lists of findings and changes. Layout: docs/FORMAT.md, section 10.

use super::super::change::{Change, ChangeKind};
use super::super::{EntryKind, LinkRow, TreeError};
use super::{BLOB_MAX, CHANGES, CHANGES_MAX, FINDINGS, FINDINGS_MAX, LINK_ROWS_MAX, LINKS, TEXT_MAX, drop_ref};
use crate::path::TreePath;
use crate::report::{Finding, Place, Severity};
use crate::wire::{CborReader, CborWriter, required};

/// One record of the hard-link table.
pub fn encode_links(rows: &[LinkRow]) -> Vec<u8> {
    let mut writer = CborWriter::new();
    writer.map(|map| {
        map.key(0).u64(LINKS);
        map.key(1).array_of(rows, |writer, row| drop_ref(writer.array(3).u64(row.position).u64(row.leader).u64(row.link_count)));
    });
    writer.finish()
}

/// Reads one record of the hard-link table.
///
/// # Errors
/// [`TreeError`].
pub fn decode_links(plain: &[u8]) -> Result<Vec<LinkRow>, TreeError> {
    let row =
        |r: &mut CborReader<'_>| r.tuple(3, |r| Ok::<_, TreeError>(LinkRow { position: r.u64()?, leader: r.u64()?, link_count: r.u64()? }));
    let rows = decode_table(plain, LINKS, |reader| reader.array(LINK_ROWS_MAX, row))?;
    let plausible = |row: &LinkRow| row.leader <= row.position && row.leader > 0 && row.link_count > 1;
    if rows.is_sorted_by(|a, b| a.position < b.position) && rows.iter().all(plausible) {
        Ok(rows)
    } else {
        Err(TreeError::Broken("a hard-link table is out of order"))
    }
}

/// One record of the finding list.
pub fn encode_findings(findings: &[Finding]) -> Vec<u8> {
    let mut writer = CborWriter::new();
    writer.map(|map| {
        map.key(0).u64(FINDINGS);
        map.key(1).array_of(findings, |writer, finding| {
            let path = match &finding.place {
                Place::Path(path) => path.to_bytes(),
                Place::Object(name) => name.clone().into_bytes(),
                Place::Operation => Vec::new(),
            };
            writer.array(3).text(finding.severity.as_str()).bytes(&path).text(&finding.message);
        });
    });
    writer.finish()
}

/// Reads one record of the finding list.
///
/// # Errors
/// [`TreeError`].
pub fn decode_findings(plain: &[u8]) -> Result<Vec<Finding>, TreeError> {
    decode_table(plain, FINDINGS, |reader| {
        reader.array(FINDINGS_MAX, |reader| {
            reader.tuple(3, |reader| {
                let word = reader.text(TEXT_MAX)?;
                let severity = [Severity::Note, Severity::Warning, Severity::Error].into_iter().find(|s| s.as_str() == word);
                let path = TreePath::parse(reader.bytes(BLOB_MAX)?)?;
                let message = reader.text(BLOB_MAX)?.to_owned();
                Ok(Finding { severity: severity.unwrap_or(Severity::Error), place: Place::Path(path), message })
            })
        })
    })
}

/// One record of the list of changes.
pub fn encode_changes(changes: &[Change]) -> Vec<u8> {
    let number = |kind: EntryKind| EntryKind::ALL.iter().find(|(_, known)| *known == kind).map_or(0, |(number, _)| (*number).into());
    let size = |writer: &mut CborWriter, size| {
        writer.optional(size, |writer, size| drop_ref(writer.u64(size)));
    };
    let mut writer = CborWriter::new();
    writer.map(|map| {
        map.key(0).u64(CHANGES);
        map.key(1).array_of(changes, |writer, change| {
            let kind = ChangeKind::ALL.iter().find(|(_, kind)| *kind == change.kind).map_or(0, |(number, _)| *number);
            writer.array(6).u64(kind.into()).u64(change.entry_kind.map_or(0, number)).bytes(&change.path.to_bytes());
            size(writer, change.size);
            size(writer, change.size_before);
            writer.optional(change.mtime, |writer, time| drop_ref(writer.time(time)));
        });
    });
    writer.finish()
}

/// Reads one record of the list of changes.
///
/// # Errors
/// [`TreeError`].
pub fn decode_changes(plain: &[u8]) -> Result<Vec<Change>, TreeError> {
    let size = |reader: &mut CborReader<'_>| reader.optional(|reader| Ok::<_, TreeError>(reader.u64()?));
    let row = |reader: &mut CborReader<'_>| {
        let (kind, entry_kind) = (reader.u64()?, reader.u64()?);
        let kind = ChangeKind::ALL.iter().find(|(number, _)| u64::from(*number) == kind).map(|(_, kind)| *kind);
        let known = EntryKind::ALL.iter().find(|(number, _)| u64::from(*number) == entry_kind).map(|(_, kind)| *kind);
        if known.is_none() && entry_kind != 0 {
            return Err(TreeError::Broken("a change is of an unknown kind of entry"));
        }
        Ok(Change {
            kind: kind.ok_or(TreeError::Broken("a change is of an unknown kind"))?,
            entry_kind: known,
            path: TreePath::parse(reader.bytes(plain.len())?)?,
            size: size(reader)?,
            size_before: size(reader)?,
            mtime: reader.optional(|reader| Ok::<_, TreeError>(reader.time()?))?,
        })
    };
    decode_table(plain, CHANGES, |reader| reader.array(CHANGES_MAX, |reader| reader.tuple(6, row)))
}

fn decode_table<T>(
    plain: &[u8],
    kind: u64,
    read: impl FnOnce(&mut CborReader<'_>) -> Result<Vec<T>, TreeError>,
) -> Result<Vec<T>, TreeError> {
    let (mut found, mut rows, mut read) = (None, None, Some(read));
    let mut reader = CborReader::new(plain);
    reader.map::<TreeError>(|key, reader| {
        match (key, read.take_if(|_| key == 1)) {
            (0, _) => found = Some(reader.u64()?),
            (_, Some(read)) => rows = Some(read(reader)?),
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    reader.finish()?;
    if found != Some(kind) {
        return Err(TreeError::Broken("a table is of another kind"));
    }
    Ok(required(rows, 1)?)
}
