//! What an entry does not say because the rest of it does: the size of a file, and the hash that its bytes must have.

use super::{Content, Entry, EntryKind, Extent};
use crate::crypto::{Key, StreamHash};
use crate::key::KeyRing;
use crate::record::Reference;

/// A keyed hash that all bytes of a file must have; for a sparse file that of its data extents and then its map (docs/FORMAT.md, key 23 of an entry).
#[derive(Clone, Debug)]
pub struct Proof {
    /// The key of the hash.
    pub key: Key,
    /// The hash.
    pub hash: [u8; 32],
}

/// Adds the map of a sparse file to its hash, after its data.
pub fn hash_map(hash: &mut StreamHash, extents: &[Extent], size: u64) {
    for extent in extents {
        hash.update(&extent.offset.to_le_bytes());
        hash.update(&extent.length.to_le_bytes());
    }
    hash.update(&size.to_le_bytes());
}

impl Entry {
    /// The size that follows from kind, content and target; `None` if only the entry itself can say it.
    pub fn implied_size(&self) -> Option<u64> {
        match (self.kind, &self.content) {
            (EntryKind::File, Content::Inline(references)) if self.sparse.is_none() => {
                Some(references.iter().map(|reference| u64::from(reference.plain_len)).sum())
            }
            (EntryKind::File, _) => None,
            (EntryKind::Symlink, _) => self.target.as_ref().map(|target| target.len() as u64),
            _ => Some(0),
        }
    }

    /// What whoever writes the file out compares: its whole-file hash, or the id of the one record that is the whole file.
    /// `None` where neither is known: for an empty file, or under a key that does not read file data.
    pub fn proof(&self, ring: &KeyRing) -> Option<Proof> {
        if let Some(hash) = self.file_hash {
            // A fragment and its record are of one epoch.
            let keys = match &self.content {
                Content::Fragment { reference, .. } => ring.epochs.get(&reference.session.epoch)?,
                _ => ring.current(),
            };
            return Some(Proof { key: keys.file.clone()?, hash });
        }
        let record = self.only_record()?;
        let key = ring.epochs.get(&record.session.epoch)?.id_data.clone()?;
        Some(Proof { key, hash: *record.id.as_bytes() })
    }

    /// The record that holds all bytes of the file and nothing else.
    fn only_record(&self) -> Option<&Reference> {
        match &self.content {
            Content::Inline(references) if self.sparse.is_none() => match &references[..] {
                [record] if u64::from(record.plain_len) == self.size => Some(record),
                _ => None,
            },
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{SystemRandom, keyed_hash};
    use crate::id::{RecordId, RepositoryId};
    use crate::key::Role;
    use crate::record::record_id;
    use crate::tree::Extent;
    use crate::tree::codec::tests::reference;

    fn file(ring: &KeyRing, bytes: &[u8]) -> Entry {
        let id = record_id(ring.current().id_data.as_ref().unwrap(), bytes);
        let mut entry = Entry::new(None, EntryKind::File);
        entry.size = bytes.len() as u64;
        entry.content = Content::Inline(vec![Reference { id, plain_len: u32::try_from(bytes.len()).unwrap(), ..reference(8) }]);
        entry
    }

    #[test]
    fn one_record_is_the_proof_of_a_file_only_where_it_is_the_whole_file() {
        let ring = KeyRing::generate(RepositoryId::from_bytes([1; 16]), &SystemRandom);
        let entry = file(&ring, b"all there is");
        assert!(entry.proof(&ring).is_some_and(|proof| keyed_hash(&proof.key, &[b"all there is"]) == proof.hash));
        let proves = |change: fn(&mut Entry)| {
            let mut entry = entry.clone();
            change(&mut entry);
            entry.proof(&ring).is_some()
        };
        assert!(!proves(|entry| entry.content = Content::EMPTY));
        assert!(!proves(|entry| entry.size += 1));
        assert!(!proves(|entry| entry.sparse = Some(vec![Extent { offset: 0, length: 1 }])));
        assert!(!proves(|entry| entry.content = Content::Inline(vec![reference(8), reference(9)])));
        assert!(!proves(|entry| entry.content = Content::List { depth: 1, reference: reference(8) }));
        let of_an_unknown_epoch = |mut entry: Entry| {
            let Content::Inline(references) = &mut entry.content else { return None };
            references[0].session.epoch = 9;
            entry.proof(&ring)
        };
        assert!(of_an_unknown_epoch(entry.clone()).is_none());
        assert!(entry.proof(&ring.grant(Role::Maintainer, None).unwrap()).is_none(), "who sees no contents proves none");
    }

    #[test]
    fn a_whole_file_hash_counts_before_a_record() {
        let ring = KeyRing::generate(RepositoryId::from_bytes([1; 16]), &SystemRandom);
        let mut entry = file(&ring, b"all there is");
        entry.file_hash = Some(keyed_hash(ring.current().file.as_ref().unwrap(), &[b"all there is"]));
        entry.content = Content::Inline(vec![Reference { id: RecordId::from_bytes([0; 32]), ..reference(8) }]);
        assert!(entry.proof(&ring).is_some_and(|proof| keyed_hash(&proof.key, &[b"all there is"]) == proof.hash));
    }
}
