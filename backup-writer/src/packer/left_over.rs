//! Packs that a run left without an index because it died: their trailers say what they hold.
//!
//! There may be thousands of them after the first days of a large backup, so many are read at once, each with one request as a rule.

use bytes::Bytes;
use fs_core::id::PackId;
use fs_core::index::{Shard, ShardPack};
use fs_core::object::{self, HEADER_LENGTH, Header, ObjectError, ObjectKind};
use fs_core::pack::{TAIL_LENGTH, Trailer, decode_trailer, trailer_span};
use fs_core::repository::{Repository, RepositoryError};
use fs_core::storage::{self, CALLS_AT_ONCE, StoreError, wait};

use super::PackError;
use super::shared::Shared;

/// Bytes that are read from the end of a pack: the trailer of a full pack of ordinary chunks is a tenth of it, that of a thousand small files fits.
const END_LENGTH: u64 = 64 << 10;
/// Packs that are asked for before it is looked whether the run still wants to know.
pub(crate) const ASKED_MAX: usize = 8 * CALLS_AT_ONCE;

/// The index of packs that no shard names. A pack that does not open is left out: what it holds is saved again.
///
/// # Errors
/// [`PackError::Stopped`].
pub(super) fn read(shared: &Shared, packs: &[ShardPack]) -> Result<Vec<Shard>, PackError> {
    let (mut shards, mut open) = (Vec::new(), Shard::default());
    for some in packs.chunks(ASKED_MAX) {
        if shared.pace.is_stopped() {
            return Err(PackError::Stopped);
        }
        for (pack, trailer) in some.iter().zip(read_trailers(&shared.repository, some)) {
            match trailer {
                Ok(trailer) => open.add_pack(*pack, &trailer),
                Err(error) => tracing::warn!(pack = %pack.id, %error, "a pack without an index does not open and is not used"),
            }
            if shared.is_full(&open) {
                shards.push(std::mem::take(&mut open));
            }
        }
    }
    shards.push(open);
    shards.iter_mut().for_each(Shard::sort);
    Ok(shards)
}

/// The trailers of packs, many at a time, each with one request as a rule. Results come in the order of the packs: give it at most [`ASKED_MAX`].
pub(crate) fn read_trailers(repository: &Repository, packs: &[ShardPack]) -> Vec<Result<Trailer, RepositoryError>> {
    let name = |pack: &ShardPack| object::pack_name(pack.kind, &pack.id);
    let ends: Vec<_> = packs.iter().map(|pack| (name(pack), pack.size.saturating_sub(END_LENGTH)..pack.size)).collect();
    let read = |(pack, end): (&ShardPack, Result<Bytes, StoreError>)| {
        let end = end?;
        open_end(repository, pack, &end).map_or_else(|| read_trailer(repository, pack.id, pack.kind, pack.size), Ok)
    };
    packs.iter().zip(storage::get_ranges(&**repository.store(), &ends)).map(read).collect()
}

/// Opens a trailer with the header that the pack must have if it was written under the present key: a trailer opens only together with its header, so
/// nothing is lost by not reading that. `None` if there is more to read.
fn open_end(repository: &Repository, pack: &ShardPack, end: &[u8]) -> Option<Trailer> {
    let (_, tail) = end.split_last_chunk::<TAIL_LENGTH>()?;
    let span = usize::try_from(trailer_span(tail, pack.size).ok()?).ok()?;
    let end = end.get(end.len().checked_sub(span)?..)?;
    let header = Header { kind: pack.kind, epoch: repository.ring().epoch(), repository: repository.id(), salt: *pack.id.as_bytes() };
    decode_trailer(&header.encode(), end, pack.size, (pack.kind, pack.id, repository.id()), |epoch| repository.ring().structure(epoch)).ok()
}

/// Reads the trailer of a pack: three small ranged reads.
///
/// # Errors
/// [`RepositoryError`].
pub fn read_trailer(repository: &Repository, id: PackId, kind: ObjectKind, size: u64) -> Result<Trailer, RepositoryError> {
    let (name, store) = (object::pack_name(kind, &id), repository.store());
    let wrong = |source| RepositoryError::Object { name: name.clone(), source };
    let range = |from: u64, to: u64| wait(name.as_str(), store.get_range(&name, from..to));
    let Some(tail_start) = size.checked_sub(TAIL_LENGTH as u64) else {
        return Err(wrong(ObjectError::Broken("it is too short for a pack")));
    };
    let tail = range(tail_start, size)?;
    let tail = tail.first_chunk::<TAIL_LENGTH>().ok_or_else(|| wrong(ObjectError::NotOurs))?;
    let span = trailer_span(tail, size).map_err(wrong)?;
    let (head, end) = (range(0, HEADER_LENGTH as u64)?, range(size - span, size)?);
    decode_trailer(&head, &end, size, (kind, id, repository.id()), |epoch| repository.ring().structure(epoch)).map_err(wrong)
}
