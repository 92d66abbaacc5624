//! Tombstones: signed lists of snapshots that are forgotten, and of such lists that are undone. Layout and meaning: docs/FORMAT.md, section 12.
//!
//! What is undone is named by the object that said it, so that neither clocks nor the order of writing decide what stands: [`standing`].

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::crypto::{Key, RandomSource};
use crate::id::{DeviceId, ObjectHash, RepositoryId, RunId, SnapshotId};
use crate::key::KeyRing;
use crate::object::{Header, ObjectError, ObjectKind, Signed, Signer, decode_signed, encode_signed};
use crate::time::Timestamp;
use crate::wire::{CborReader, CborWriter, required};

/// Rows of one object: with them it stays below the limit of small objects.
pub const ROWS_MAX: usize = 8192;
/// Longest text that says why, in bytes.
pub const WHY_LENGTH_MAX: usize = 4096;

/// One object of tombstones.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tombstones {
    /// The run that wrote it, perhaps with others.
    pub run: RunId,
    /// Who signed it.
    pub device: DeviceId,
    /// When, by the signer's clock.
    pub time: Timestamp,
    /// The same moment by the store's clock.
    pub server_time: Option<Timestamp>,
    /// Why, for people: the rules, or that somebody named the snapshots.
    pub why: String,
    /// Snapshots that are forgotten by it, in order.
    pub forgotten: Vec<SnapshotId>,
    /// What is undone, in order: what that object of tombstones says of that snapshot.
    pub undone: Vec<Saying>,
}

impl Tombstones {
    /// When, by the store's clock if it has one.
    pub fn moment(&self) -> Timestamp {
        self.server_time.unwrap_or(self.time)
    }

    /// The whole object.
    pub fn encode_object(&self, ring: &KeyRing, signer: &Signer, random: &dyn RandomSource) -> Vec<u8> {
        let header = Header::new(ObjectKind::Tombstones, ring.epoch(), ring.repository, random);
        encode_signed(&header, &ring.current().structure, self.encode(), signer)
    }

    /// Opens an object of tombstones. The signature, and whether its signer may forget, is the caller's to check.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn decode_object(
        object: &[u8],
        repository: RepositoryId,
        key_of: impl FnOnce(u16) -> Option<Key>,
    ) -> Result<(Self, Header, Signed), ObjectError> {
        let (header, signed) = decode_signed(object, ObjectKind::Tombstones, repository, key_of)?;
        let tombstones = Self::decode(&signed.payload)?;
        if tombstones.device == signed.signer { Ok((tombstones, header, signed)) } else { Err(ObjectError::Misplaced) }
    }

    /// The payload that is signed.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = CborWriter::new();
        writer.map(|map| {
            map.key(0).bytes(self.run.as_bytes());
            map.key(1).bytes(self.device.as_bytes());
            map.key(2).time(self.time);
            map.key(3).optional(self.server_time, |writer, time| {
                writer.time(time);
            });
            map.key(4).text(&self.why);
            map.key(5).array_of(&self.forgotten, |writer, id| {
                writer.bytes(id.as_bytes());
            });
            map.key(6).array_of(&self.undone, |writer, (hash, id)| {
                writer.array(2).bytes(hash.as_bytes()).bytes(id.as_bytes());
            });
        });
        writer.finish()
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn decode(payload: &[u8]) -> Result<Self, ObjectError> {
        let (mut run, mut device, mut time, mut server_time, mut why) = (None, None, None, None, None);
        let (mut forgotten, mut undone) = (None, None);
        let id = |reader: &mut CborReader<'_>| Ok::<_, ObjectError>(SnapshotId::from_bytes(reader.byte_array()?));
        let mut reader = CborReader::new(payload);
        reader.map::<ObjectError>(|key, reader| {
            match key {
                0 => run = Some(RunId::from_bytes(reader.byte_array()?)),
                1 => device = Some(DeviceId::from_bytes(reader.byte_array()?)),
                2 => time = Some(reader.time()?),
                3 => server_time = reader.optional(|reader| Ok::<_, ObjectError>(reader.time()?))?,
                4 => why = Some(reader.text(WHY_LENGTH_MAX)?.to_owned()),
                5 => forgotten = Some(reader.array(ROWS_MAX, id)?),
                6 => {
                    let row = |reader: &mut CborReader<'_>| {
                        reader.tuple(2, |reader| Ok::<_, ObjectError>((ObjectHash::from_bytes(reader.byte_array()?), id(reader)?)))
                    };
                    undone = Some(reader.array(ROWS_MAX, row)?);
                }
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        reader.finish()?;
        let (run, device, time, why) = (required(run, 0)?, required(device, 1)?, required(time, 2)?, required(why, 4)?);
        let (forgotten, undone) = (required(forgotten, 5)?, required(undone, 6)?);
        let ascend = forgotten.is_sorted_by(|a, b| a < b) && undone.is_sorted_by(|a, b| a < b);
        if !ascend || forgotten.len() + undone.len() > ROWS_MAX {
            return Err(ObjectError::Broken("its rows do not ascend or are too many"));
        }
        Ok(Self { run, device, time, server_time, why, forgotten, undone })
    }
}

/// What an object of tombstones says of a snapshot.
pub type Saying = (ObjectHash, SnapshotId);

/// Of each snapshot that is forgotten the objects that say so and are not undone.
pub fn standing<'a>(all: impl Iterator<Item = (&'a ObjectHash, &'a Tombstones)> + Clone) -> HashMap<SnapshotId, Vec<ObjectHash>> {
    let undone = undone(all.clone());
    // In the order of their hashes, whatever order they come in.
    let mut standing: BTreeMap<(SnapshotId, ObjectHash), ()> = BTreeMap::new();
    for (hash, tombstones) in all {
        standing.extend(tombstones.forgotten.iter().filter(|id| !undone.contains(&(*hash, **id))).map(|id| ((*id, *hash), ())));
    }
    let mut forgotten: HashMap<_, Vec<_>> = HashMap::new();
    for ((id, hash), ()) in standing {
        forgotten.entry(id).or_default().push(hash);
    }
    forgotten
}

/// What is undone by an object of which that is not undone itself.
fn undone<'a>(all: impl Iterator<Item = (&'a ObjectHash, &'a Tombstones)>) -> HashSet<Saying> {
    let mut undoers: HashMap<Saying, Vec<ObjectHash>> = HashMap::new();
    for (hash, tombstones) in all {
        tombstones.undone.iter().for_each(|saying| undoers.entry(*saying).or_default().push(*hash));
    }
    let mut decided: HashMap<Saying, bool> = HashMap::new();
    for first in undoers.keys() {
        // Objects are named by their hashes, so none waits for itself, however long the row is.
        let mut waiting = vec![*first];
        while let Some(saying) = waiting.last().copied() {
            let by = || undoers.get(&saying).into_iter().flatten().map(|object| (*object, saying.1));
            if let Some(undecided) = by().find(|by| undoers.contains_key(by) && !decided.contains_key(by)) {
                waiting.push(undecided);
                continue;
            }
            let is_undone = by().any(|by| !decided.get(&by).copied().unwrap_or(false));
            decided.insert(saying, is_undone);
            waiting.pop();
        }
    }
    decided.into_iter().filter(|(_, is_undone)| *is_undone).map(|(saying, _)| saying).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SystemRandom;

    fn id(n: u8) -> SnapshotId {
        SnapshotId::from_bytes([n; 32])
    }

    fn hash(n: u8) -> ObjectHash {
        ObjectHash::from_bytes([n; 32])
    }

    fn tombstones(forgotten: &[u8], undone: &[(u8, u8)]) -> Tombstones {
        Tombstones {
            run: RunId::from_bytes([1; 16]),
            device: DeviceId::from_bytes([2; 16]),
            time: Timestamp::new(1_795_000_000, 5).unwrap(),
            server_time: None,
            why: "last:28".into(),
            forgotten: forgotten.iter().copied().map(id).collect(),
            undone: undone.iter().map(|(object, snapshot)| (hash(*object), id(*snapshot))).collect(),
        }
    }

    #[test]
    fn payloads_round_trip_and_any_bytes_are_refused_without_panic() {
        let said = Tombstones { server_time: Timestamp::new(1_795_000_001, 0), ..tombstones(&[3, 4], &[(5, 6), (5, 7)]) };
        let payload = said.encode();
        assert_eq!(Tombstones::decode(&payload), Ok(said));
        for at in 0..payload.len() {
            let _ = Tombstones::decode(&payload[..at]);
            for bit in 0..8 {
                let mut changed = payload.clone();
                changed[at] ^= 1 << bit;
                let _ = Tombstones::decode(&changed);
            }
        }
        for wrong in [tombstones(&[4, 3], &[]), tombstones(&[3, 3], &[]), tombstones(&[], &[(2, 1), (1, 1)])] {
            assert!(Tombstones::decode(&wrong.encode()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_object_of_all_rows_is_small() {
        let ids = |n: u64| SnapshotId::from_bytes(crate::crypto::hash(&n.to_le_bytes()));
        let mut undone: Vec<_> = (0..ROWS_MAX as u64).map(|n| (hash(1), ids(n))).collect();
        undone.sort();
        let ring = KeyRing::generate(RepositoryId::from_bytes([9; 16]), &SystemRandom);
        let signer = Signer { device: DeviceId::from_bytes([2; 16]), seed: Key::from_bytes([8; 32]) };
        let most = Tombstones { undone, why: "x".repeat(WHY_LENGTH_MAX), ..tombstones(&[], &[]) };
        let object = most.encode_object(&ring, &signer, &SystemRandom);
        assert!(object.len() as u64 <= crate::object::SMALL_OBJECT_SIZE_MAX, "{} bytes", object.len());
        let (read, _, _) = Tombstones::decode_object(&object, ring.repository, |epoch| ring.structure(epoch)).unwrap();
        assert_eq!(read, most);
        let other = Signer { device: DeviceId::from_bytes([3; 16]), ..signer };
        let object = most.encode_object(&ring, &other, &SystemRandom);
        let read = Tombstones::decode_object(&object, ring.repository, |epoch| ring.structure(epoch));
        assert!(matches!(read, Err(ObjectError::Misplaced)), "signed by another than it says");
    }

    /// Whatever order objects come in, the same stands: what nobody has undone.
    #[test]
    fn what_is_undone_is_what_was_seen() {
        let all = [(hash(1), tombstones(&[1, 2], &[])), (hash(2), tombstones(&[2, 3], &[])), (hash(3), tombstones(&[], &[(1, 1), (1, 2)]))];
        for turn in 0..3 {
            let mut order = all.clone();
            order.rotate_left(turn);
            let standing = standing(order.iter().map(|(hash, tombstones)| (hash, tombstones)));
            assert_eq!(standing, HashMap::from([(id(2), vec![hash(2)]), (id(3), vec![hash(2)])]));
        }
        let again = [all[0].clone(), all[2].clone(), (hash(4), tombstones(&[1], &[]))];
        let standing = standing(again.iter().map(|(hash, tombstones)| (hash, tombstones)));
        assert_eq!(standing, HashMap::from([(id(1), vec![hash(4)])]), "forgotten again");
    }

    /// An undoing that is undone was none, and so on; of several one is enough.
    #[test]
    fn what_is_undone_undoes_nothing() {
        let all: Vec<_> = (1..=200)
            .map(|n| (hash(n), if n == 1 { tombstones(&[1, 2], &[]) } else { tombstones(&[], &[(n - 1, 1)]) }))
            .chain([(hash(201), tombstones(&[], &[(1, 2)])), (hash(202), tombstones(&[], &[(201, 1)]))])
            .collect();
        let stands = |count: usize| {
            let mut part = all[..count].to_vec();
            part.rotate_left(count / 3);
            standing(part.iter().map(|(hash, tombstones)| (hash, tombstones)))
        };
        for count in 1..=200 {
            assert_eq!(stands(count).contains_key(&id(1)), count % 2 == 1, "{count}");
            assert!(stands(count).contains_key(&id(2)));
        }
        assert!(!stands(201).contains_key(&id(2)));
        assert!(!stands(202).contains_key(&id(2)), "of this one nothing was undone");
        let twice = [all[0].clone(), all[1].clone(), all[2].clone(), (hash(9), tombstones(&[], &[(1, 1)]))];
        assert!(!standing(twice.iter().map(|(hash, tombstones)| (hash, tombstones))).contains_key(&id(1)), "one undoing is left");
    }
}
