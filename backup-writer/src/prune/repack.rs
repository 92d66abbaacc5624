//! Packing anew: the live records of packs that are mostly dead, or that are condemned already, move, as they are, into new packs. Then the old ones are condemned.
//!
//! Records are copied as they are stored, with the session that sealed them. Each is opened twice: as it was read, and from the very bytes that leave.

use std::collections::HashMap;

use bytes::Bytes;
use fs_core::id::PackId;
use fs_core::index::{Shard, ShardPack};
use fs_core::object::{self, ObjectKind, Signer};
use fs_core::observer::Progress;
use fs_core::pack::{self, Pack, PackBuilder, Trailer};
use fs_core::record::Reference;
use fs_core::report::{Finding, Severity};
use fs_core::repository::RepositoryError;
use fs_core::storage::{StoreError, WriteStore, wait_for_put};

use super::read::{records, trailers};
use super::table::{LIVE, Pack as Listed};
use super::{Plan, PruneError, may_open};
use crate::packer::{put_shard, shard_entries_max};

/// Packs whose trailers are read side by side, before the records of the first of them.
const AHEAD: usize = 64;

/// Bytes that are read together of several packs, unless one has more.
const TOGETHER_MAX: u64 = 16 << 20;

/// What was read of a pack, in the order of the places.
type Stored = Vec<(Reference, Result<Bytes, StoreError>)>;

/// A pack whose live records move.
struct Old {
    /// Its number in the table.
    at: usize,
    pack: Listed,
    trailer: Trailer,
    /// What is to be moved.
    kept: Vec<Reference>,
}

impl Old {
    fn bytes(&self) -> u64 {
        self.kept.iter().map(|reference| u64::from(reference.stored_len)).sum()
    }
}

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
            let mut olds = self.look_into(some)?.into_iter().peekable();
            while olds.peek().is_some() {
                // What was packed so far is of use.
                if self.observer.is_cancelled() {
                    break 'all;
                }
                let mut bytes = 0;
                let together = std::iter::from_fn(|| {
                    let old = olds.next_if(|old| bytes == 0 || bytes + old.bytes() <= TOGETHER_MAX)?;
                    bytes += old.bytes();
                    Some(old)
                });
                let together: Vec<_> = together.collect();
                let mut stored = self.read_records(&together)?;
                for old in &together {
                    let read = stored.remove(&old.pack.id).unwrap_or_default();
                    if self.move_records(old, read, &mut moving, store, signer)? {
                        condemned.extend(self.decision.is_to_be_marked(old.at).then_some((old.pack.id, old.pack.size)));
                        self.report.repacked.add(old.pack.size);
                    }
                    progress.entry_count += 1;
                    progress.byte_count += old.pack.size;
                    self.observer.progress(&progress);
                }
            }
        }
        for builder in [moving.data.take(), moving.meta.take()].into_iter().flatten() {
            self.put(builder, &mut moving.index, store, signer)?;
        }
        self.write_index(&mut moving.index, store, signer)?;
        condemned.iter().for_each(|(_, size)| self.report.condemned.add(*size));
        Ok(condemned.into_iter().map(|(id, _)| id).collect())
    }

    /// What some packs hold that is to be moved. Those that do not open are findings.
    fn look_into(&mut self, some: &[usize]) -> Result<Vec<Old>, PruneError> {
        let packs = some.iter().filter_map(|at| Some((*at, self.table.packs().get(*at)?.clone())));
        let packs: Vec<_> = packs.filter(|(_, pack)| may_open(self.repository, pack.kind)).collect();
        let mut read = Vec::with_capacity(packs.len());
        trailers(self.repository, packs.iter().map(|(_, pack)| pack), |_, trailer| {
            read.push(trailer);
            Ok(())
        })?;
        let mut olds = Vec::with_capacity(packs.len());
        for ((at, pack), trailer) in packs.into_iter().zip(read) {
            match trailer {
                Ok(trailer) => {
                    let all = trailer.references(pack.id).map(|(_, _, reference)| reference);
                    let kept = all.filter(|reference| self.is_kept_in(at, reference)).collect();
                    olds.push(Old { at, pack, trailer, kept });
                }
                Err(RepositoryError::Object { source, .. }) => self.cannot_move(&pack, &source.to_string()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(olds)
    }

    fn cannot_move(&mut self, pack: &Listed, problem: &str) {
        let name = object::pack_name(pack.kind, &pack.id);
        self.report.findings.push(Finding::object(Severity::Error, name.as_str(), format!("it is not packed anew: {problem}")));
    }

    /// Reads what is to be moved of several packs, side by side.
    fn read_records(&self, olds: &[Old]) -> Result<HashMap<PackId, Stored>, PruneError> {
        let mut all: HashMap<PackId, Stored> = HashMap::new();
        for kind in [ObjectKind::DataPack, ObjectKind::MetaPack] {
            let of_kind = olds.iter().filter(|old| old.pack.kind == kind);
            let references: Vec<_> = of_kind.flat_map(|old| &old.kept).copied().collect();
            records::<PruneError>(self.repository, (kind, &references), |reference, stored| {
                all.entry(reference.pack).or_default().push((*reference, stored));
                Ok(())
            })?;
        }
        Ok(all)
    }

    /// Moves the live records of a pack that no other pack keeps. Whether all of them are moved.
    fn move_records(
        &mut self,
        old: &Old,
        read: Stored,
        moving: &mut Moving,
        store: &dyn WriteStore,
        signer: &Signer,
    ) -> Result<bool, PruneError> {
        let mut problem = None;
        for (reference, stored) in read {
            problem = match stored {
                Ok(stored) => problem.or(self.move_record((old.pack.kind, &old.trailer), (&reference, stored), moving, store, signer)?),
                Err(error) => Some(error.to_string()),
            };
        }
        if let Some(problem) = &problem {
            self.cannot_move(&old.pack, problem);
        }
        Ok(problem.is_none())
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
