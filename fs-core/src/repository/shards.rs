//! Index shards: listed, read many at a time, and known without reading where others supersede them.
//!
//! All that are listed count. Those that others supersede need not be read by somebody who only loses time if one of them lied: a writer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::certified::INDEXERS;
use super::{ReadError, Repository, RepositoryError, lock};
use crate::id::{DeviceId, ObjectHash, RecordId};
use crate::index::{Location, Shard};
use crate::object::{self, HEADER_LENGTH, Header, ObjectError, ObjectKind, Signed};
use crate::report::{Finding, Severity};
use crate::snapshot::codec::check_hash;
use crate::storage::{ObjectName, StoreError, get_all, get_ranges, wait};
use crate::time::Timestamp;

/// Bytes of shards that are asked for together; the first one may have more.
const TOGETHER: u64 = 8 << 20;
/// Shards that are asked for together.
const TOGETHER_COUNT: usize = 256;
/// Bytes from the end of a shard that hold its tables as a rule.
const END_LENGTH: u64 = 64 << 10;
/// How often the shards are listed again because one vanished before it was read.
const LISTS_MAX: usize = 5;

/// A shard as the store lists it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListedShard {
    /// Its name says the hash of its bytes.
    pub hash: ObjectHash,
    /// Size of the object in bytes.
    pub size: u64,
    /// When the store received it, by the store's clock.
    pub modified: Option<Timestamp>,
}

impl ListedShard {
    /// The name of the object.
    pub fn name(&self) -> ObjectName {
        object::hashed_name(ObjectKind::Shard, &self.hash)
    }
}

impl Repository {
    /// All index shards that the store lists, the newest first, of those that came at once the larger first: what supersedes comes before what it supersedes.
    ///
    /// # Errors
    /// The store's.
    pub fn list_shards(&self) -> Result<Vec<ListedShard>, StoreError> {
        let prefix = ObjectKind::Shard.prefix();
        let listed = wait(prefix, self.store.list(prefix, None))?.into_iter().filter_map(|meta| {
            let hash = meta.name.as_str().strip_prefix(prefix)?.parse().ok()?;
            Some(ListedShard { hash, size: meta.size, modified: meta.modified })
        });
        let mut listed: Vec<_> = listed.collect();
        listed.sort_by_key(|shard| std::cmp::Reverse((shard.modified, shard.size, shard.hash)));
        Ok(listed)
    }

    /// Reads shards with all checks and hands each to `found`, in their order. Nothing is kept.
    ///
    /// # Errors
    /// What `found` returns.
    pub fn read_shards<E>(
        &self,
        shards: &[ListedShard],
        mut found: impl FnMut(&ListedShard, Result<Shard, RepositoryError>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.read_shard_objects(shards, |shard, object| found(shard, self.open_shard(&shard.name(), &shard.hash, object)))
    }

    fn read_shard_objects<E>(
        &self,
        shards: &[ListedShard],
        mut found: impl FnMut(&ListedShard, Result<Bytes, StoreError>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = shards;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |shard: &&ListedShard| {
                let is_first = bytes == 0;
                bytes += shard.size.max(1);
                is_first || bytes <= TOGETHER
            };
            let (some, later) = rest.split_at(rest.iter().take(TOGETHER_COUNT).take_while(fits).count());
            rest = later;
            let names: Vec<_> = some.iter().map(ListedShard::name).collect();
            let objects = get_all(&*self.store, names.iter().zip(some).map(|(name, shard)| (name, shard.size)));
            for (shard, object) in some.iter().zip(objects) {
                found(shard, object)?;
            }
        }
        Ok(())
    }

    /// What a shard supersedes and which packs it speaks of, without its entries: two small reads as a rule.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn read_shard_tables(&self, shard: &ListedShard) -> Result<Shard, RepositoryError> {
        let (name, size) = (shard.name(), shard.size);
        let wrong = |source| RepositoryError::Object { name: name.clone(), source };
        let end_of = |length: u64| (name.clone(), size.saturating_sub(length)..size);
        let mut parts = get_ranges(&*self.store, &[(name.clone(), 0..size.min(HEADER_LENGTH as u64)), end_of(END_LENGTH)]).into_iter();
        let mut part = || parts.next().unwrap_or_else(|| Err(StoreError::NotFound { name: name.clone() }));
        let (head, mut end) = (part()?, part()?);
        let decode = |end: &[u8]| Shard::decode_tables(&head, end, self.id(), |epoch| self.ring.index(epoch));
        let tables = match decode(&end).map_err(wrong)? {
            Some(tables) => Some(tables),
            None => {
                let length = Shard::end_length(&end).map_err(wrong)? as u64;
                end = wait(name.as_str(), self.store.get_range(&name, end_of(length).1))?;
                decode(&end).map_err(wrong)?
            }
        };
        let (header, shard, signed) = tables.ok_or_else(|| wrong(ObjectError::Broken("it is shorter than its own tables")))?;
        self.check_index_signature(&name, &header, &signed)?;
        Ok(shard)
    }

    /// All index shards that the store lists and that are sound; damaged ones are findings.
    ///
    /// # Errors
    /// If the store cannot be listed or read.
    pub fn shards(&self) -> Result<(Vec<Arc<Shard>>, Vec<Finding>), RepositoryError> {
        self.load_shards(|listed| vec![listed])
    }

    /// The same without those that others supersede: all that a writer needs. What a shard wrongly superseded is only saved again.
    ///
    /// # Errors
    /// As [`Self::shards`].
    pub fn shards_in_use(&self) -> Result<(Vec<Arc<Shard>>, Vec<Finding>), RepositoryError> {
        // What supersedes is newer and larger than what it supersedes.
        let is_ahead = |largest: &mut u64, shard: &ListedShard| {
            let is_larger = shard.size > *largest;
            *largest = shard.size.max(*largest);
            is_larger
        };
        self.load_shards(|listed| {
            let mut largest = 0;
            let (first, rest) = listed.into_iter().partition(|shard| is_ahead(&mut largest, shard));
            vec![first, rest]
        })
    }

    /// Reads the listed shards in steps; what a step finds superseded no later one reads.
    fn load_shards(
        &self,
        steps: impl Fn(Vec<ListedShard>) -> Vec<Vec<ListedShard>>,
    ) -> Result<(Vec<Arc<Shard>>, Vec<Finding>), RepositoryError> {
        let mut lists = 1;
        loop {
            match self.load_listed(steps(self.list_shards()?)) {
                // What it held is in another one, which was there long before.
                Err(RepositoryError::Store(StoreError::NotFound { .. })) if lists < LISTS_MAX => lists += 1,
                result => return result,
            }
        }
    }

    fn load_listed(&self, steps: Vec<Vec<ListedShard>>) -> Result<(Vec<Arc<Shard>>, Vec<Finding>), RepositoryError> {
        let (mut loaded, mut findings) = (HashMap::new(), Vec::new());
        let mut superseded = HashSet::new();
        for step in steps {
            let wanted: Vec<_> = step.into_iter().filter(|shard| !superseded.contains(&shard.hash)).collect();
            let unknown: Vec<_> = {
                let known = lock(&self.shards);
                loaded.extend(wanted.iter().filter_map(|shard| Some((shard.hash, Arc::clone(known.get(&shard.hash)?)))));
                wanted.into_iter().filter(|shard| !known.contains_key(&shard.hash)).collect()
            };
            self.read_shards(&unknown, |listed, shard| {
                match shard {
                    Ok(shard) => drop(loaded.insert(listed.hash, Arc::new(shard))),
                    // Its packs are found by their trailers.
                    Err(RepositoryError::Object { source: ObjectError::Revoked(_), .. }) => {}
                    Err(RepositoryError::Object { name, source }) => {
                        findings.push(Finding::object(Severity::Error, name.as_str(), source.to_string()));
                    }
                    // Anybody who may put objects can put that.
                    Err(RepositoryError::Store(error @ StoreError::WrongSize { .. })) => {
                        findings.push(Finding::object(Severity::Error, listed.name().as_str(), error.to_string()));
                    }
                    Err(error) => return Err(error),
                }
                Ok(())
            })?;
            superseded.extend(loaded.values().flat_map(|shard| shard.superseded().iter().copied()));
        }
        let shards = loaded.values().cloned().collect();
        // What the store lists no more takes no memory any more.
        *lock(&self.shards) = loaded;
        Ok((shards, findings))
    }

    /// Where the index knows a record.
    ///
    /// # Errors
    /// [`ReadError::Index`] if the index cannot be read.
    pub fn locate(&self, id: &RecordId) -> Result<Vec<Location>, ReadError> {
        let (shards, _) = self.shards().map_err(|error| ReadError::Index(Box::new(error)))?;
        Ok(shards.iter().flat_map(|shard| shard.find(id)).collect())
    }

    /// The shards of the store that a device has signed.
    ///
    /// # Errors
    /// If the store cannot be listed or read. Damaged ones are left out.
    pub(super) fn shards_signed_by(&self, device: &DeviceId) -> Result<Vec<Shard>, RepositoryError> {
        let mut own = Vec::new();
        self.read_shard_objects(&self.list_shards()?, |listed, object| {
            match object.map_err(RepositoryError::from).and_then(|object| self.open_signed_shard(&listed.name(), &listed.hash, &object)) {
                Ok((shard, signed)) if signed.signer == *device => own.push(shard),
                Ok(_) | Err(RepositoryError::Object { .. }) => {}
                Err(RepositoryError::Store(error)) if error.is_of_object() => {}
                Err(error) => return Err(error),
            }
            Ok(())
        })?;
        Ok(own)
    }

    fn open_shard(&self, name: &ObjectName, hash: &ObjectHash, object: Result<Bytes, StoreError>) -> Result<Shard, RepositoryError> {
        Ok(self.open_signed_shard(name, hash, &object?)?.0)
    }

    /// Opens a shard with all checks, with who signed it.
    pub(super) fn open_signed_shard(
        &self,
        name: &ObjectName,
        hash: &ObjectHash,
        object: &[u8],
    ) -> Result<(Shard, Signed), RepositoryError> {
        let wrong = |source| RepositoryError::Object { name: name.clone(), source };
        check_hash(object, hash).map_err(wrong)?;
        let (header, shard, signed) = Shard::decode_object(object, self.id(), |epoch| self.ring.index(epoch)).map_err(wrong)?;
        self.check_index_signature(name, &header, &signed)?;
        Ok((shard, signed))
    }

    fn check_index_signature(&self, name: &ObjectName, header: &Header, signed: &Signed) -> Result<(), RepositoryError> {
        self.check_signature_of(name, header, signed, INDEXERS)
    }
}
