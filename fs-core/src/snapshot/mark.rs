//! Marks: signed lists of packs and forgotten snapshots that a prune has condemned, to be swept when their time has come. Layout and meaning:
//! docs/FORMAT.md, section 12.
//!
//! A mark deletes nothing. It tells backups what not to rely on any more, and whoever sweeps what may be looked at again.

use std::time::Duration;

use crate::crypto::{Key, RandomSource};
use crate::id::{DeviceId, ObjectHash, PackId, RepositoryId, RunId, SnapshotId};
use crate::key::KeyRing;
use crate::object::{Header, ObjectError, ObjectKind, Signed, Signer, decode_signed, encode_signed};
use crate::time::Timestamp;
use crate::wire::{CborReader, CborWriter, required};

/// Rows of one mark: with them it stays below the limit of small objects.
pub const MARK_ROWS_MAX: usize = 8192;
/// Shortest time between a mark and its sweep, whatever it says: a backup looks again at what it relies on far more often.
pub const GRACE_LEAST: Duration = Duration::from_secs(48 * 3600);
/// Longest time that a mark may ask for: a century.
const GRACE_MOST: Duration = Duration::from_secs(100 * 366 * 86_400);

/// One mark.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    /// The run that wrote it, perhaps with others.
    pub run: RunId,
    /// Who signed it.
    pub device: DeviceId,
    /// When, by the signer's clock; not before anything that the store had received then.
    pub time: Timestamp,
    /// The same moment by the store's clock.
    pub server_time: Option<Timestamp>,
    /// How long what it names stays at least, in whole seconds.
    pub grace: Duration,
    /// Packs that are condemned, in order.
    pub packs: Vec<PackId>,
    /// Forgotten snapshots that are condemned, in order: while that object of tombstones stands that forgets them.
    pub snapshots: Vec<(ObjectHash, SnapshotId)>,
}

impl Mark {
    /// When it may be swept, by the store's clock if it has one. `received` is when the store says that it got the mark. Of several moments the last one
    /// counts: a clock that was behind makes nothing old.
    pub fn due(&self, received: Option<Timestamp>) -> Timestamp {
        let since = received.into_iter().chain(self.server_time).fold(self.time, Timestamp::max);
        since.saturating_add(self.grace.max(GRACE_LEAST))
    }

    /// The whole object.
    pub fn encode_object(&self, ring: &KeyRing, signer: &Signer, random: &dyn RandomSource) -> Vec<u8> {
        let header = Header::new(ObjectKind::Mark, ring.epoch(), ring.repository, random);
        encode_signed(&header, &ring.current().structure, self.encode(), signer)
    }

    /// Opens a mark. The signature, and whether its signer may forget, is the caller's to check.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn decode_object(
        object: &[u8],
        repository: RepositoryId,
        key_of: impl FnOnce(u16) -> Option<Key>,
    ) -> Result<(Self, Header, Signed), ObjectError> {
        let (header, signed) = decode_signed(object, ObjectKind::Mark, repository, key_of)?;
        let mark = Self::decode(&signed.payload)?;
        if mark.device == signed.signer { Ok((mark, header, signed)) } else { Err(ObjectError::Misplaced) }
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
            map.key(4).u64(self.grace.as_secs());
            map.key(5).array_of(&self.packs, |writer, pack| {
                writer.bytes(pack.as_bytes());
            });
            map.key(6).array_of(&self.snapshots, |writer, (hash, id)| {
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
        let (mut run, mut device, mut time, mut server_time, mut grace) = (None, None, None, None, None);
        let (mut packs, mut snapshots) = (None, None);
        let mut reader = CborReader::new(payload);
        reader.map::<ObjectError>(|key, reader| {
            match key {
                0 => run = Some(RunId::from_bytes(reader.byte_array()?)),
                1 => device = Some(DeviceId::from_bytes(reader.byte_array()?)),
                2 => time = Some(reader.time()?),
                3 => server_time = reader.optional(|reader| Ok::<_, ObjectError>(reader.time()?))?,
                4 => grace = Some(Duration::from_secs(reader.u64()?)),
                5 => packs = Some(reader.array(MARK_ROWS_MAX, |reader| Ok::<_, ObjectError>(PackId::from_bytes(reader.byte_array()?)))?),
                6 => {
                    let row = |reader: &mut CborReader<'_>| {
                        reader.tuple(2, |reader| {
                            Ok::<_, ObjectError>((
                                ObjectHash::from_bytes(reader.byte_array()?),
                                SnapshotId::from_bytes(reader.byte_array()?),
                            ))
                        })
                    };
                    snapshots = Some(reader.array(MARK_ROWS_MAX, row)?);
                }
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        reader.finish()?;
        let (run, device, time, grace) = (required(run, 0)?, required(device, 1)?, required(time, 2)?, required(grace, 4)?);
        let (packs, snapshots) = (required(packs, 5)?, required(snapshots, 6)?);
        let ascend = packs.is_sorted_by(|a, b| a < b) && snapshots.is_sorted_by(|a, b| a < b);
        if !ascend || packs.len() + snapshots.len() > MARK_ROWS_MAX {
            return Err(ObjectError::Broken("its rows do not ascend or are too many"));
        }
        if grace > GRACE_MOST {
            return Err(ObjectError::Broken("it asks for more than a century"));
        }
        Ok(Self { run, device, time, server_time, grace, packs, snapshots })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SystemRandom;

    fn mark(packs: &[u8], snapshots: &[(u8, u8)]) -> Mark {
        Mark {
            run: RunId::from_bytes([1; 16]),
            device: DeviceId::from_bytes([2; 16]),
            time: Timestamp::new(1_795_000_000, 5).unwrap(),
            server_time: None,
            grace: GRACE_LEAST,
            packs: packs.iter().map(|n| PackId::from_bytes([*n; 16])).collect(),
            snapshots: snapshots.iter().map(|(a, b)| (ObjectHash::from_bytes([*a; 32]), SnapshotId::from_bytes([*b; 32]))).collect(),
        }
    }

    #[test]
    fn payloads_round_trip_and_any_bytes_are_refused_without_panic() {
        let said = Mark { server_time: Timestamp::new(1_795_000_001, 0), ..mark(&[3, 4], &[(5, 6), (5, 7)]) };
        let payload = said.encode();
        assert_eq!(Mark::decode(&payload), Ok(said));
        for at in 0..payload.len() {
            let _ = Mark::decode(&payload[..at]);
            for bit in 0..8 {
                let mut changed = payload.clone();
                changed[at] ^= 1 << bit;
                let _ = Mark::decode(&changed);
            }
        }
        let for_ever = Mark { grace: Duration::from_secs(u64::MAX), ..mark(&[], &[]) };
        for wrong in [mark(&[4, 3], &[]), mark(&[3, 3], &[]), mark(&[], &[(2, 1), (1, 1)]), for_ever] {
            assert!(Mark::decode(&wrong.encode()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_object_of_all_rows_is_small() {
        let numbers = 0..MARK_ROWS_MAX as u64;
        let mut snapshots: Vec<_> =
            numbers.map(|n| (ObjectHash::from_bytes([1; 32]), SnapshotId::from_bytes(crate::crypto::hash(&n.to_le_bytes())))).collect();
        snapshots.sort();
        let ring = KeyRing::generate(RepositoryId::from_bytes([9; 16]), &SystemRandom);
        let signer = Signer { device: DeviceId::from_bytes([2; 16]), seed: Key::from_bytes([8; 32]) };
        let most = Mark { snapshots, ..mark(&[], &[]) };
        let object = most.encode_object(&ring, &signer, &SystemRandom);
        assert!(object.len() as u64 <= crate::object::SMALL_OBJECT_SIZE_MAX, "{} bytes", object.len());
        let (read, _, _) = Mark::decode_object(&object, ring.repository, |epoch| ring.structure(epoch)).unwrap();
        assert_eq!(read, most);
        let other = Signer { device: DeviceId::from_bytes([3; 16]), ..signer };
        let read = Mark::decode_object(&most.encode_object(&ring, &other, &SystemRandom), ring.repository, |epoch| ring.structure(epoch));
        assert!(matches!(read, Err(ObjectError::Misplaced)), "signed by another than it says");
    }

    #[test]
    fn the_last_of_several_moments_counts_and_no_grace_is_too_short() {
        let at = |seconds| Timestamp::new(1_795_000_000 + seconds, 5).unwrap();
        let hours = |count: i64| count * 3600;
        let said = Mark { server_time: Some(at(10)), grace: Duration::ZERO, ..mark(&[1], &[]) };
        assert_eq!((said.due(None), said.due(Some(at(5)))), (at(10 + hours(48)), at(10 + hours(48))));
        assert_eq!(said.due(Some(at(99))), at(99 + hours(48)));
        let behind = Mark { server_time: Some(at(-99)), grace: Duration::from_secs(7 * 86_400), ..said };
        assert_eq!(behind.due(Some(at(-50))), at(hours(7 * 24)));
    }
}
