//! Trailers and records, many at a time, for those who read what no snapshot is asked for.

use std::ops::Range;

use bytes::Bytes;
use fs_core::index::ShardPack;
use fs_core::object::{self, ObjectKind};
use fs_core::pack::Trailer;
use fs_core::record::Reference;
use fs_core::repository::{Repository, RepositoryError};
use fs_core::storage::{self, CALLS_AT_ONCE, StoreError};

use super::table::Pack;
use crate::packer::{ASKED_MAX, read_trailer, read_trailers};

/// Largest request for records that stand close together.
const PART_MAX: u64 = 4 << 20;
/// Bytes between two records that are read with them rather than left out.
const GAP_MAX: u64 = 64 << 10;

/// Reads the trailers of packs and hands each out with the number of its pack, in order.
pub(super) fn trailers<'a>(
    repository: &Repository,
    packs: impl Iterator<Item = &'a Pack>,
    mut take: impl FnMut(usize, Result<Trailer, RepositoryError>) -> Result<(), RepositoryError>,
) -> Result<(), RepositoryError> {
    let packs: Vec<_> = packs.map(|pack| ShardPack { id: pack.id, kind: pack.kind, size: pack.size }).collect();
    let mut number = 0;
    for some in packs.chunks(ASKED_MAX) {
        for (pack, trailer) in some.iter().zip(read_trailers(repository, some)) {
            take(number, trailer.map_err(|error| if is_gone(&error) { gone(pack, &error) } else { error }))?;
            number += 1;
        }
    }
    Ok(())
}

/// The trailer of one pack.
pub(super) fn trailer(repository: &Repository, pack: &Pack) -> Result<Trailer, RepositoryError> {
    let mut found = None;
    trailers(repository, std::iter::once(pack), |_, trailer| {
        found = Some(trailer);
        Ok(())
    })?;
    found.unwrap_or_else(|| read_trailer(repository, pack.id, pack.kind, pack.size))
}

/// What is damage to one pack, and no failure of the store.
fn is_gone(error: &RepositoryError) -> bool {
    matches!(error, RepositoryError::Store(error) if error.is_of_object())
}

fn gone(pack: &ShardPack, error: &RepositoryError) -> RepositoryError {
    tracing::debug!(pack = %pack.id, %error, "a pack does not have what it was listed with");
    RepositoryError::Object {
        name: object::pack_name(pack.kind, &pack.id),
        source: object::ObjectError::Broken("it is not as it was listed"),
    }
}

/// Reads the stored bytes of records of packs of one kind, given pack by pack in the order of their places, and hands each out.
pub(super) fn records<E: From<StoreError>>(
    repository: &Repository,
    (kind, references): (ObjectKind, &[Reference]),
    mut take: impl FnMut(&Reference, Result<Bytes, StoreError>) -> Result<(), E>,
) -> Result<(), E> {
    let mut parts: Vec<(Range<u64>, Range<usize>)> = Vec::new();
    for (at, reference) in references.iter().enumerate() {
        let place = reference.place();
        let is_next = at.checked_sub(1).and_then(|before| references.get(before)).is_some_and(|before| before.pack == reference.pack);
        match parts.last_mut() {
            Some((range, records))
                if is_next && place.start <= range.end + GAP_MAX && place.end.saturating_sub(range.start) <= PART_MAX =>
            {
                range.end = range.end.max(place.end);
                records.end = at + 1;
            }
            _ => parts.push((place, at..at + 1)),
        }
    }
    for some in parts.chunks(CALLS_AT_ONCE / 4) {
        let name = |reference: &Reference| object::pack_name(kind, &reference.pack);
        let first = |records: &Range<usize>| references.get(records.start);
        let ranges: Vec<_> = some.iter().filter_map(|(range, records)| Some((name(first(records)?), range.clone()))).collect();
        for ((range, records), read) in some.iter().zip(storage::get_ranges(&**repository.store(), &ranges)) {
            for reference in references.get(records.clone()).unwrap_or_default() {
                let place = reference.place();
                let part = |bytes: &Bytes| {
                    let at = |offset: u64| usize::try_from(offset.saturating_sub(range.start)).unwrap_or(usize::MAX);
                    let part = bytes.get(at(place.start)..at(place.end));
                    part.map(|part| bytes.slice_ref(part))
                        .ok_or_else(|| StoreError::WrongSize { name: name(reference), size: bytes.len() as u64 })
                };
                match &read {
                    Ok(bytes) => take(reference, part(bytes))?,
                    Err(error) if error.is_of_object() => {
                        take(reference, Err(StoreError::NotFound { name: name(reference) }))?;
                    }
                    Err(error) => {
                        return Err(StoreError::Failed {
                            place: name(reference).to_string(),
                            source: std::io::Error::other(error.to_string()),
                        }
                        .into());
                    }
                }
            }
        }
    }
    Ok(())
}
