//! Puts shards together into one, and says what one shard has that others have not. Pure; who reads and writes the objects is `backup-writer`.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::digest::SetDigest;
use super::{Row, Shard, ShardPack};
use crate::crypto::Key;
use crate::id::{ObjectHash, PackId, RecordId};
use crate::pack::PackSession;

/// A shard that is being put together from others.
#[derive(Debug)]
pub struct Merging<'a> {
    key: &'a Key,
    shard: Shard,
    packs: HashMap<ShardPack, u32>,
    superseded: BTreeSet<ObjectHash>,
    /// What was added, without what was left out.
    expected: SetDigest,
    /// Entries of packs that are gone.
    left_out: u64,
}

/// What became of it.
#[derive(Debug)]
pub struct Merged {
    /// The shard, sorted. It names what it supersedes.
    pub shard: Shard,
    /// What its entries must amount to under the key: the sum of what was added without what was left out.
    pub expected: SetDigest,
    /// How many entries of packs that are gone were left out.
    pub left_out: u64,
}

impl<'a> Merging<'a> {
    /// Nothing yet. Digests are computed under `key`.
    pub fn new(key: &'a Key) -> Self {
        let (shard, packs) = (Shard::default(), HashMap::new());
        Self { key, shard, packs, superseded: BTreeSet::new(), expected: SetDigest::default(), left_out: 0 }
    }

    /// Whether another shard fits in, if a shard of `entries_max` entries is large. Into nothing everything does.
    pub fn has_room_for(&self, part: &Shard, entries_max: usize) -> bool {
        let entries = self.shard.entries.len() + part.entries.len();
        let sessions = self.shard.sessions.len() + part.sessions.len();
        self.superseded.is_empty() || (entries <= entries_max && sessions <= super::SHARD_SESSIONS_ENOUGH)
    }

    /// Adds a shard with this hash, without the entries of packs that are gone; it and what it supersedes are superseded.
    pub fn add(&mut self, hash: ObjectHash, part: &Shard, is_gone: impl Fn(&PackId) -> bool) {
        let mut places = Vec::with_capacity(part.packs.len());
        for pack in &part.packs {
            let packs = &mut self.shard.packs;
            let place = (!is_gone(&pack.id)).then(|| {
                *self.packs.entry(*pack).or_insert_with(|| {
                    packs.push(*pack);
                    u32::try_from(packs.len() - 1).expect("a shard names at most 2^22 packs")
                })
            });
            places.push(place);
        }
        self.expected.add(part.set_digest(self.key));
        let (key, expected, left_out) = (self.key, &mut self.expected, &mut self.left_out);
        self.shard.add_entries(part, &places, |row| {
            expected.remove(part.term(key, row));
            *left_out += 1;
        });
        self.superseded.insert(hash);
        self.superseded.extend(&part.superseded);
    }

    /// How many shards it supersedes so far, those included that they supersede.
    pub fn superseded_count(&self) -> usize {
        self.superseded.len()
    }

    /// The whole, each entry once. Of what it supersedes only `listed` ones are named.
    pub fn finish(self, listed: impl Fn(&ObjectHash) -> bool) -> Merged {
        let Self { key, mut shard, superseded, mut expected, left_out, .. } = self;
        shard.sort();
        let mut twice = SetDigest::default();
        let term = |shard: &Shard, entry: &[u8; super::ENTRY_LENGTH]| shard.term(key, &Row::decode(entry));
        for pair in shard.entries.windows(2) {
            if let [one, other] = pair
                && one == other
            {
                twice.add(term(&shard, one));
            }
        }
        expected.remove(twice);
        shard.entries.dedup();
        shard.superseded = superseded.into_iter().filter(listed).collect();
        Merged { shard, expected, left_out }
    }
}

/// All that an entry says, without the tables of its shard.
type Said = ([u8; 32], ShardPack, PackSession, [u32; 3], [u8; 2]);

impl Shard {
    /// What the entries amount to under a key.
    pub fn digest(&self, key: &Key) -> SetDigest {
        self.set_digest(key)
    }

    /// What the entries of each of its packs amount to under a key, in the order of [`Self::packs`].
    pub fn digests_of_packs(&self, key: &Key) -> Vec<SetDigest> {
        let mut digests = vec![SetDigest::default(); self.packs.len()];
        for row in self.entries.iter().map(Row::decode) {
            if let Some(digest) = digests.get_mut(row.pack as usize) {
                digest.add(self.term(key, &row));
            }
        }
        digests
    }

    /// The packs of which this shard has an entry that none of the others has.
    pub fn packs_missing_in(&self, others: &[&Self]) -> Vec<ShardPack> {
        let mut is_missing = vec![false; self.packs.len()];
        // Entries of one id come together. Whoever writes decides how many there are, so what others say of it is gathered once.
        for same in self.entries.chunk_by(|one, next| one.split_at(RecordId::LENGTH).0 == next.split_at(RecordId::LENGTH).0) {
            let Some(first) = same.first().map(Row::decode) else { continue };
            if same.iter().map(Row::decode).all(|row| is_missing.get(row.pack as usize).is_none_or(|is_missing| *is_missing)) {
                continue;
            }
            let there: HashSet<Said> =
                others.iter().flat_map(|other| other.rows_of(&first.id).filter_map(|row| other.said(&row))).collect();
            for row in same.iter().map(Row::decode) {
                if let Some(is_missing) = is_missing.get_mut(row.pack as usize) {
                    *is_missing |= !self.said(&row).is_some_and(|said| there.contains(&said));
                }
            }
        }
        self.packs.iter().zip(is_missing).filter(|(_, is_missing)| *is_missing).map(|(pack, _)| *pack).collect()
    }

    fn said(&self, row: &Row) -> Option<Said> {
        let (pack, session) = (self.packs.get(row.pack as usize)?, self.sessions.get(usize::from(row.session))?);
        Some((row.id, *pack, *session, [row.offset, row.stored_len, row.plain_len], [row.kind, row.codec]))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::compress::Codec;
    use crate::crypto;
    use crate::id::{RecordId, SessionId};
    use crate::object::ObjectKind;
    use crate::pack::{PackRecord, Trailer};
    use crate::record::{RecordFacts, RecordKind, SessionKeyRef};

    static KEY: LazyLock<Key> = LazyLock::new(|| Key::from_bytes([1; 32]));

    fn hash(n: u8) -> ObjectHash {
        ObjectHash::from_bytes([n; 32])
    }

    fn pack(n: u8) -> PackId {
        PackId::from_bytes([n; 16])
    }

    /// Packs of ten records each, each of a session of its own.
    fn shard_of(packs: impl IntoIterator<Item = u8>) -> Shard {
        let mut shard = Shard::default();
        for n in packs {
            let session = PackSession { id: SessionId::from_bytes([n; 16]), key: SessionKeyRef { epoch: 1, enc: [n; 32] } };
            let id = |row: u8| RecordId::from_bytes(crypto::hash(&[n, row]));
            let facts = |row| RecordFacts { kind: RecordKind::Data, id: id(row), codec: Codec::Raw, plain_len: 5 };
            let records = (0..10).map(|row| PackRecord { facts: facts(row), offset: 48 + u32::from(row) * 45, stored_len: 45, session: 0 });
            let trailer = Trailer { sessions: vec![session], records: records.collect(), fragments: Vec::new() };
            shard.add_pack(ShardPack { id: pack(n), kind: ObjectKind::DataPack, size: 1000 }, &trailer);
        }
        shard.sort();
        shard
    }

    fn merged(parts: &[(u8, &Shard)], gone: &[u8]) -> Merged {
        let mut merging = Merging::new(&KEY);
        parts.iter().for_each(|(n, part)| merging.add(hash(*n), part, |id| gone.iter().any(|n| pack(*n) == *id)));
        merging.finish(|_| true)
    }

    #[test]
    fn a_merge_is_the_union_and_its_digest_says_so() {
        let (one, two, three) = (shard_of(0..4), shard_of(2..7), shard_of([9]));
        let all = merged(&[(1, &one), (2, &two), (3, &three)], &[]);
        assert_eq!((all.shard.len(), all.shard.packs().len(), all.left_out), (80, 8, 0), "what two say stands once");
        assert_eq!(all.shard.digest(&KEY), all.expected);
        assert_eq!(all.shard.digest(&KEY), shard_of([9, 0, 6, 1, 5, 2, 4, 3]).digest(&KEY), "whatever the order");
        assert_eq!(all.shard.superseded(), [hash(1), hash(2), hash(3)]);
        for part in [&one, &two, &three] {
            assert_eq!(part.packs_missing_in(&[&all.shard]), []);
        }
        assert_eq!(all.shard.packs_missing_in(&[&one, &two]), [three.packs()[0]]);
        assert_eq!(all.shard.packs_missing_in(&[&three, &two, &one]), []);
    }

    #[test]
    fn what_is_gone_is_left_out_and_counted() {
        let (one, two) = (shard_of(0..4), shard_of(2..7));
        let some = merged(&[(1, &one), (2, &two)], &[3, 6, 99]);
        assert_eq!((some.shard.len(), some.shard.packs().len(), some.left_out), (50, 5, 30), "pack 3 stood in both");
        assert_eq!(some.shard.digest(&KEY), some.expected);
        let missing: Vec<_> = two.packs_missing_in(&[&some.shard]).into_iter().map(|pack| pack.id).collect();
        assert_eq!(missing, [pack(3), pack(6)]);
        let none = merged(&[(1, &shard_of(0..2))], &[0, 1]);
        assert_eq!((none.shard.len(), none.expected), (0, SetDigest::default()));
    }

    #[test]
    fn a_pack_amounts_to_the_same_in_every_shard() {
        let all = shard_of([3, 1, 4, 5, 9]);
        let digests: Vec<_> = all.packs().iter().map(|pack| pack.id).zip(all.digests_of_packs(&KEY)).collect();
        for n in [9, 1, 5] {
            assert!(digests.contains(&(pack(n), shard_of([n]).digest(&KEY))));
        }
    }

    /// What a faulty memory makes of an entry on the way is no entry that was added.
    #[test]
    fn a_lost_or_changed_entry_does_not_amount_to_the_same() {
        let mut all = merged(&[(1, &shard_of(0..4))], &[]);
        all.shard.entries.pop();
        assert_ne!(all.shard.digest(&KEY), all.expected);
        for at in [0, 32, 36, 40, 44, 48, 51] {
            let mut all = merged(&[(1, &shard_of(0..4))], &[]);
            all.shard.entries[7][at] ^= 1;
            assert_ne!(all.shard.digest(&KEY), all.expected, "byte {at}");
        }
    }

    #[test]
    fn merges_of_merges_name_everything_that_is_still_there() {
        let first = merged(&[(1, &shard_of(0..2)), (2, &shard_of(2..4))], &[]).shard;
        let mut merging = Merging::new(&KEY);
        merging.add(hash(3), &first, |_| false);
        merging.add(hash(4), &shard_of(4..6), |_| false);
        assert_eq!(merging.superseded_count(), 4);
        assert_eq!(merging.finish(|named| *named != hash(1)).shard.superseded(), [hash(2), hash(3), hash(4)]);
    }

    #[test]
    fn a_shard_takes_no_more_than_it_should() {
        let mut merging = Merging::new(&KEY);
        let part = shard_of(0..2);
        assert!(merging.has_room_for(&part, 1), "into nothing everything fits");
        merging.add(hash(1), &part, |_| false);
        assert!(merging.has_room_for(&part, 40) && !merging.has_room_for(&part, 39));
        let mut crowd = Shard::default();
        for n in 0..super::super::SHARD_SESSIONS_ENOUGH as u64 {
            let id = SessionId::from_slice(&crypto::hash(&n.to_le_bytes())[..16]).unwrap();
            crowd.sessions.push(PackSession { id, key: SessionKeyRef { epoch: 1, enc: [0; 32] } });
        }
        assert!(crowd.is_full(1000) && !merging.has_room_for(&crowd, 1000));
    }
}
