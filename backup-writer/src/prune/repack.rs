//! Packing anew: the live records of packs that are mostly dead, or that are condemned already, move, as they are, into new packs. Then the old ones are condemned.
//!
//! Records are copied as they are stored, with the session that sealed them. Each is opened twice: as it was read, and from the very bytes that leave.

use bytes::Bytes;
use fs_core::id::PackId;
use fs_core::index::{Shard, ShardPack};
use fs_core::object::{self, ObjectKind, Signer};
use fs_core::observer::Progress;
use fs_core::pack::{self, Pack, PackBuilder, Trailer};
use fs_core::record::Reference;
use fs_core::report::{Finding, Severity};
use fs_core::repository::RepositoryError;
use fs_core::storage::{WriteStore, wait_for_put};

use super::read::{records, trailers};
use super::table::{LIVE, Pack as Listed};
use super::{Plan, PruneError, may_open};
use crate::packer::{put_shard, shard_entries_max};

/// Packs whose trailers are read side by side, before the records of the first of them.
const AHEAD: usize = 64;

/// The new packs of a run.
struct Moving {
    data: Option<PackBuilder>,
    meta: Option<PackBuilder>,
    index: Shard,
}

impl Plan<'_> {
    /// Packs anew what is to be packed anew. The packs that are to be condemned: those, and those that nothing depends on.
    pub(super) fn repack(&mut self, store: &dyn WriteStore, signer: &Signer) -> Result<Vec<PackId>, PruneError> {
        let mut condemned: Vec<_> =
            self.decision.condemn.iter().filter_map(|at| self.table.packs().get(*at)).map(|pack| (pack.id, pack.size)).collect();
        let mut moving = Moving { data: None, meta: None, index: Shard::default() };
        let old = std::mem::take(&mut self.decision.repack);
        let mut progress = Progress { entry_total: old.len() as u64, ..Progress::default() };
        'all: for some in old.chunks(AHEAD) {
            let packs: Vec<_> = some.iter().filter_map(|at| Some((*at, self.table.packs().get(*at)?.clone()))).collect();
            let mut read = Vec::with_capacity(packs.len());
            trailers(self.repository, packs.iter().map(|(_, pack)| pack), |_, trailer| {
                read.push(trailer);
                Ok(())
            })?;
            for ((at, pack), trailer) in packs.into_iter().zip(read) {
                // What was packed so far is of use.
                if self.observer.is_cancelled() {
                    break 'all;
                }
                if self.move_records((at, &pack, trailer), &mut moving, store, signer)? {
                    condemned.extend(self.decision.is_to_be_marked(at).then_some((pack.id, pack.size)));
                    self.report.repacked.add(pack.size);
                }
                progress.entry_count += 1;
                progress.byte_count += pack.size;
                self.observer.progress(&progress);
            }
        }
        for builder in [moving.data.take(), moving.meta.take()].into_iter().flatten() {
            self.put(builder, &mut moving.index, store, signer)?;
        }
        self.write_index(&mut moving.index, store, signer)?;
        condemned.iter().for_each(|(_, size)| self.report.condemned.add(*size));
        Ok(condemned.into_iter().map(|(id, _)| id).collect())
    }

    /// Moves the live records of a pack that no other pack keeps. Whether all of them are moved.
    fn move_records(
        &mut self,
        (at, pack, trailer): (usize, &Listed, Result<Trailer, RepositoryError>),
        moving: &mut Moving,
        store: &dyn WriteStore,
        signer: &Signer,
    ) -> Result<bool, PruneError> {
        if !may_open(self.repository, pack.kind) {
            return Ok(false);
        }
        let name = object::pack_name(pack.kind, &pack.id);
        let damaged = |message: String| Finding::object(Severity::Error, name.as_str(), format!("it is not packed anew: {message}"));
        let trailer = match trailer {
            Ok(trailer) => trailer,
            Err(RepositoryError::Object { source, .. }) => {
                self.report.findings.push(damaged(source.to_string()));
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        let kept: Vec<_> =
            trailer.references(pack.id).map(|(_, _, reference)| reference).filter(|reference| self.is_kept_in(at, reference)).collect();
        let (mut read, mut problem) = (Vec::new(), None);
        records::<PruneError>(self.repository, (pack.kind, &kept), |reference, stored| {
            match stored {
                Ok(stored) => read.push((*reference, stored)),
                Err(error) => problem = Some(error.to_string()),
            }
            Ok(())
        })?;
        for (reference, stored) in read {
            problem = problem.or(self.move_record((pack.kind, &trailer), (&reference, stored), moving, store, signer)?);
        }
        if let Some(problem) = problem {
            self.report.findings.push(damaged(problem));
            return Ok(false);
        }
        Ok(true)
    }

    /// Whether a pack is where a live record stays.
    fn is_kept_in(&self, at: usize, reference: &Reference) -> bool {
        let is_live = self.table.needs(&reference.id) & LIVE != 0;
        let keeper = || self.decision.keeper(&self.table, self.table.copies(&reference.id));
        is_live && keeper().is_some_and(|copy| copy.pack == at && copy.offset == reference.offset)
    }

    /// Moves one record, with the small files in it; what is wrong with it if it does not open.
    fn move_record(
        &mut self,
        (kind, trailer): (ObjectKind, &Trailer),
        (reference, stored): (&Reference, Bytes),
        moving: &mut Moving,
        store: &dyn WriteStore,
        signer: &Signer,
    ) -> Result<Option<String>, PruneError> {
        let found = trailer.records.binary_search_by_key(&reference.offset, |record| record.offset);
        let record = found.ok().and_then(|at| trailer.records.get(at).map(|record| (at, record)));
        let session = record.and_then(|(_, record)| trailer.sessions.get(usize::from(record.session)));
        let (Some((number, record)), Some(session)) = (record, session) else { return Ok(Some("its list contradicts itself".into())) };
        let plain = match self.repository.open_record(record.facts.kind, reference, stored.clone()) {
            Ok(plain) => plain,
            Err(error) => return Ok(Some(error.to_string())),
        };
        let file_key = self.repository.ring().epochs.get(&reference.session.epoch).and_then(|keys| keys.file.as_ref());
        // What a list says of small files is not signed: what is not so does not come along.
        let parts: Vec<_> =
            trailer.fragments_of(number).iter().filter(|part| file_key.is_some_and(|key| part.is_in(&plain, key))).collect();
        let config = self.repository.config();
        let full = if kind == ObjectKind::DataPack { config.data_pack_size } else { config.meta_pack_size } as usize;
        let length = stored.len() + (parts.len() + 1) * pack::RECORD_ROW;
        let slot = if kind == ObjectKind::DataPack { &mut moving.data } else { &mut moving.meta };
        if slot.as_ref().is_some_and(|builder| builder.len() + length > full)
            && let Some(builder) = slot.take()
        {
            self.put(builder, &mut moving.index, store, signer)?;
        }
        let ring = self.repository.ring();
        let random = &**self.repository.random();
        let slot = if kind == ObjectKind::DataPack { &mut moving.data } else { &mut moving.meta };
        let builder = slot.get_or_insert_with(|| PackBuilder::new(kind, ring.epoch(), ring.repository, (full, Vec::new()), random));
        builder.push(&record.facts, session, &stored);
        builder.note_fragments(parts.iter().map(|part| (part.hash, part.start, part.length)));
        self.report.moved.add(stored.len() as u64);
        Ok(None)
    }

    fn put(&mut self, builder: PackBuilder, index: &mut Shard, store: &dyn WriteStore, signer: &Signer) -> Result<(), PruneError> {
        let pack = builder.finish(&self.repository.ring().current().structure, &**self.repository.random());
        self.verify(&pack)?;
        let (name, size) = (object::pack_name(pack.kind, &pack.id), pack.bytes.len() as u64);
        let bytes = Bytes::from(pack.bytes);
        wait_for_put(&name, bytes.len(), store.put_new(&name, bytes.clone(), &pack.hash))?;
        index.add_pack(ShardPack { id: pack.id, kind: pack.kind, size }, &pack.trailer);
        if index.is_full(shard_entries_max(self.repository)) {
            self.write_index(index, store, signer)?;
        }
        Ok(())
    }

    /// Opens every record of a pack that is about to leave, from the very bytes that leave.
    fn verify(&self, pack: &Pack) -> Result<(), PruneError> {
        let repository = self.repository;
        let failed = || PruneError::NotVerified { pack: pack.id };
        let place = (pack.kind, pack.id, repository.id());
        let trailer = pack::decode_whole(&pack.bytes, place, |epoch| repository.ring().structure(epoch)).map_err(|_| failed())?;
        if trailer != pack.trailer || object::object_hash(&pack.bytes) != pack.hash {
            return Err(failed());
        }
        for (kind, _, reference) in trailer.references(pack.id) {
            let start = reference.offset as usize;
            let stored = pack.bytes.get(start..start + reference.stored_len as usize).ok_or_else(failed)?;
            repository.open_record(kind, &reference, Bytes::copy_from_slice(stored)).map_err(|_| failed())?;
        }
        Ok(())
    }

    fn write_index(&self, index: &mut Shard, store: &dyn WriteStore, signer: &Signer) -> Result<(), PruneError> {
        let mut shard = std::mem::take(index);
        if shard.is_empty() {
            return Ok(());
        }
        shard.sort();
        put_shard(self.repository, store, signer, &shard)?;
        Ok(())
    }
}
