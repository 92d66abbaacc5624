//! The bytes of manifests, seals and catalogues. Layout: docs/FORMAT.md, section 12.

use super::attributes::AttributeNames;
use super::{Head, Manifest, Original, SourcePath};
use crate::crypto::{self, Key, Pair, RandomSource};
use crate::id::{DeviceId, ObjectHash, RepositoryId, SnapshotId};
use crate::key::KeyRing;
use crate::object::{self, HEADER_LENGTH, Header, ObjectError, ObjectKind, Signed, Signer, decode_signed, encode_signed};
use crate::record::Reference;
use crate::report::Stats;
use crate::time::Timestamp;
use crate::tree::TreeError;
use crate::tree::codec::{Places, decode_entry, encode_entry};
use crate::wire::{CborReader, CborWriter, required};

/// Largest catalogue object, in bytes.
pub const CATALOGUE_SIZE_MAX: u64 = 64 << 20;

const ENC_LENGTH: usize = 32;
const TEXT_MAX: usize = 4096;
const PATH_MAX: usize = 65_536;
const ITEMS_MAX: usize = 65_536;

impl From<TreeError> for ObjectError {
    fn from(error: TreeError) -> Self {
        match error {
            TreeError::Malformed(source) => Self::Malformed(source),
            TreeError::Name(_) => Self::Broken("it holds an impossible name"),
            TreeError::Broken(what) => Self::Broken(what),
        }
    }
}

impl Manifest {
    /// The whole object, sealed to the tree pair and signed by the device.
    ///
    /// # Errors
    /// [`ObjectError::NotAllowed`] if the role cannot seal to the tree pair.
    pub fn encode_object(&self, ring: &KeyRing, signer: &Signer, random: &dyn RandomSource) -> Result<Vec<u8>, ObjectError> {
        let head = Header::new(ObjectKind::Manifest, ring.epoch(), ring.repository, random).encode();
        let (enc, key) = ring.send(Pair::Tree, "object", random)?;
        let body = Signed::new(self.encode(), &head, signer).encode();
        Ok([&head[..], &enc, &object::seal_section(&key, &head, 0, true, body)].concat())
    }

    /// Opens a manifest. The signature is the caller's to check.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn decode_object(object: &[u8], ring: &KeyRing) -> Result<(Self, Header, Signed), ObjectError> {
        let (header, head, body) = Header::expect(object, ObjectKind::Manifest, ring.repository)?;
        let (enc, sealed) = body.split_first_chunk::<ENC_LENGTH>().ok_or(ObjectError::NotOurs)?;
        let key = ring.manifest_key(header.epoch, enc)?;
        let signed = Signed::decode(&object::open_section(&key, head, 0, true, sealed)?)?;
        let manifest = Self::decode(&signed.payload)?;
        if manifest.device == signed.signer { Ok((manifest, header, signed)) } else { Err(ObjectError::Misplaced) }
    }

    /// The payload that is signed.
    pub fn encode(&self) -> Vec<u8> {
        let mut places = Places::default();
        let (mut root, mut links, mut findings) = (CborWriter::new(), CborWriter::new(), CborWriter::new());
        encode_entry(&mut root, &self.root, &mut places);
        links.array_of(&self.link_table, |writer, (first, reference)| places.encode_reference(writer.array(2).u64(*first), reference));
        findings.array_of(&self.findings, |writer, reference| places.encode_reference(writer, reference));
        let mut changes = CborWriter::new();
        changes.array_of(&self.changes, |writer, reference| places.encode_reference(writer, reference));
        let mut writer = CborWriter::new();
        writer.map(|map| {
            map.key(0).bytes(self.device.as_bytes());
            map.key(1).u64(self.sequence);
            map.key(2).optional(self.previous, |writer, id| hash(writer, &id));
            map.key(3).array_of(&self.heads, |writer, head| {
                hash(writer.array(3).bytes(head.device.as_bytes()).u64(head.sequence), &head.manifest);
            });
            map.key(4).time(self.started);
            map.key(5).time(self.ended);
            map.key(6).optional(self.server_time, |writer, time| {
                writer.time(time);
            });
            map.key(7).text(&self.host);
            map.key(8).text(&self.set);
            map.key(9).array_of(&self.sources, |writer, source| {
                writer.map(|map| {
                    map.key(0).bytes(&source.path);
                    map.key(1).u64(source.case_insensitive.into());
                });
            });
            map.key(10).array_of(&self.tags, |writer, tag| {
                writer.text(tag);
            });
            map.key(11).raw(root.as_bytes());
            places.encode(map.key(12));
            map.key(13).raw(links.as_bytes());
            encode_stats(map.key(14), &self.stats);
            map.key(15).raw(findings.as_bytes());
            map.key(16).text(&self.tool_version);
            map.key(17).optional(self.parent, |writer, id| hash(writer, &id));
            map.key(18).i64(self.utc_offset_minutes.into());
            if let Some(names) = &self.attribute_names {
                map.key(19).array_of(names.iter(), |writer, name| {
                    writer.bytes(name);
                });
            }
            if !self.changes.is_empty() {
                map.key(20).raw(changes.as_bytes());
            }
            if let Some(Original { repository, snapshot, copied }) = &self.original {
                map.key(21).array(3).bytes(repository.as_bytes()).bytes(snapshot.as_bytes()).time(*copied);
            }
        });
        writer.finish()
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn decode(payload: &[u8]) -> Result<Self, ObjectError> {
        let mut raw = Raw::default();
        let mut reader = CborReader::new(payload);
        reader.map::<ObjectError>(|key, reader| raw.field(key, reader))?;
        reader.finish()?;
        raw.finish()
    }
}

fn hash(writer: &mut CborWriter, id: &SnapshotId) {
    writer.bytes(id.as_bytes());
}

fn encode_stats(writer: &mut CborWriter, stats: &Stats) {
    let numbers = [
        stats.file_count,
        stats.directory_count,
        stats.other_count,
        stats.byte_count,
        stats.new_count,
        stats.changed_count,
        stats.unchanged_count,
        stats.failed_count,
        stats.new_bytes,
        stats.stored_bytes,
        stats.removed_count,
        stats.left_out_count,
        stats.new_size,
        stats.changed_size,
        stats.unchanged_size,
        stats.removed_size,
        stats.left_out_size,
        stats.failed_size,
        stats.read_bytes,
        stats.sent_bytes,
    ];
    writer.map(|map| {
        for (key, number) in (0..).zip(numbers) {
            map.key(key).u64(number);
        }
    });
}

fn decode_stats(reader: &mut CborReader<'_>) -> Result<Stats, ObjectError> {
    let mut stats = Stats::default();
    reader.map::<ObjectError>(|key, reader| {
        let field = match key {
            0 => &mut stats.file_count,
            1 => &mut stats.directory_count,
            2 => &mut stats.other_count,
            3 => &mut stats.byte_count,
            4 => &mut stats.new_count,
            5 => &mut stats.changed_count,
            6 => &mut stats.unchanged_count,
            7 => &mut stats.failed_count,
            8 => &mut stats.new_bytes,
            9 => &mut stats.stored_bytes,
            10 => &mut stats.removed_count,
            11 => &mut stats.left_out_count,
            12 => &mut stats.new_size,
            13 => &mut stats.changed_size,
            14 => &mut stats.unchanged_size,
            15 => &mut stats.removed_size,
            16 => &mut stats.left_out_size,
            17 => &mut stats.failed_size,
            18 => &mut stats.read_bytes,
            19 => &mut stats.sent_bytes,
            _ => return Ok(reader.skip()?),
        };
        *field = reader.u64()?;
        Ok(())
    })?;
    Ok(stats)
}

/// A manifest as read. What names places is kept unread until the places are known: they follow it.
#[derive(Default)]
struct Raw<'a> {
    device: Option<DeviceId>,
    sequence: u64,
    previous: Option<SnapshotId>,
    heads: Vec<Head>,
    started: Option<Timestamp>,
    ended: Option<Timestamp>,
    server_time: Option<Timestamp>,
    host: Option<String>,
    set: String,
    sources: Vec<SourcePath>,
    tags: Vec<String>,
    root: Option<CborReader<'a>>,
    places: Places,
    links: Option<CborReader<'a>>,
    stats: Stats,
    findings: Option<CborReader<'a>>,
    tool_version: String,
    parent: Option<SnapshotId>,
    utc_offset_minutes: i32,
    attribute_names: Option<AttributeNames>,
    changes: Option<CborReader<'a>>,
    original: Option<Original>,
}

impl<'a> Raw<'a> {
    fn field(&mut self, key: u64, reader: &mut CborReader<'a>) -> Result<(), ObjectError> {
        let later = |reader: &mut CborReader<'a>| {
            let place = reader.clone();
            reader.skip().map(|()| Some(place))
        };
        let text = |reader: &mut CborReader<'a>| Ok::<_, ObjectError>(reader.text(TEXT_MAX)?.to_owned());
        match key {
            0 => self.device = Some(DeviceId::from_bytes(reader.byte_array()?)),
            1 => self.sequence = reader.u64()?,
            2 => self.previous = reader.optional(snapshot_id)?,
            3 => self.heads = reader.array(ITEMS_MAX, decode_head)?,
            4 => self.started = Some(reader.time()?),
            5 => self.ended = Some(reader.time()?),
            6 => self.server_time = reader.optional(|reader| Ok::<_, ObjectError>(reader.time()?))?,
            7 => self.host = Some(text(reader)?),
            8 => self.set = text(reader)?,
            9 => self.sources = reader.array(ITEMS_MAX, decode_source)?,
            10 => self.tags = reader.array(ITEMS_MAX, text)?,
            11 => self.root = later(reader)?,
            12 => self.places = Places::decode(reader)?,
            13 => self.links = later(reader)?,
            14 => self.stats = decode_stats(reader)?,
            15 => self.findings = later(reader)?,
            16 => self.tool_version = text(reader)?,
            17 => self.parent = reader.optional(snapshot_id)?,
            18 => self.utc_offset_minutes = i32::try_from(reader.i64()?).unwrap_or(0),
            19 => {
                let name = |reader: &mut CborReader<'a>| Ok::<_, ObjectError>(reader.bytes(TEXT_MAX)?.to_vec());
                // Only a help: what a later version lists beyond our limits is as good as unknown.
                self.attribute_names = AttributeNames::from_iter(reader.array(ITEMS_MAX, name)?).fits();
            }
            20 => self.changes = later(reader)?,
            21 => self.original = Some(decode_original(reader)?),
            _ => reader.skip()?,
        }
        Ok(())
    }

    fn finish(self) -> Result<Manifest, ObjectError> {
        let mut references = self.places.references();
        let root = decode_entry(&mut required(self.root, 11)?, &mut references)?;
        let link_row = |r: &mut CborReader<'_>| r.tuple(2, |r| Ok::<_, TreeError>((r.u64()?, references.decode_reference(r)?)));
        let link_table = self.links.map(|mut reader| reader.array(ITEMS_MAX, link_row)).transpose()?.unwrap_or_default();
        let mut list = |reader: Option<CborReader<'_>>| -> Result<Vec<Reference>, TreeError> {
            let reference = |r: &mut CborReader<'_>| references.decode_reference(r);
            Ok(reader.map(|mut reader| reader.array(ITEMS_MAX, reference)).transpose()?.unwrap_or_default())
        };
        let (findings, changes) = (list(self.findings)?, list(self.changes)?);
        if self.sequence == 0 || root.name.is_some() || root.subtree.is_none() || !link_table.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(ObjectError::Broken("the manifest contradicts itself"));
        }
        Ok(Manifest {
            device: required(self.device, 0)?,
            sequence: self.sequence,
            previous: self.previous,
            heads: self.heads,
            started: required(self.started, 4)?,
            ended: required(self.ended, 5)?,
            server_time: self.server_time,
            host: required(self.host, 7)?,
            set: self.set,
            sources: self.sources,
            tags: self.tags,
            root,
            link_table,
            stats: self.stats,
            findings,
            tool_version: self.tool_version,
            parent: self.parent,
            utc_offset_minutes: self.utc_offset_minutes,
            attribute_names: self.attribute_names,
            changes,
            original: self.original,
        })
    }
}

fn snapshot_id(reader: &mut CborReader<'_>) -> Result<SnapshotId, ObjectError> {
    Ok(SnapshotId::from_bytes(reader.byte_array()?))
}

fn decode_head(reader: &mut CborReader<'_>) -> Result<Head, ObjectError> {
    reader.tuple(3, |reader| {
        let device = DeviceId::from_bytes(reader.byte_array()?);
        Ok(Head { device, sequence: reader.u64()?, manifest: SnapshotId::from_bytes(reader.byte_array()?) })
    })
}

fn decode_original(reader: &mut CborReader<'_>) -> Result<Original, ObjectError> {
    reader.tuple(3, |reader| {
        let repository = RepositoryId::from_bytes(reader.byte_array()?);
        Ok(Original { repository, snapshot: snapshot_id(reader)?, copied: reader.time()? })
    })
}

fn decode_source(reader: &mut CborReader<'_>) -> Result<SourcePath, ObjectError> {
    let mut source = SourcePath { path: Vec::new(), case_insensitive: false };
    reader.map::<ObjectError>(|key, reader| {
        match key {
            0 => source.path = reader.bytes(PATH_MAX)?.to_vec(),
            1 => source.case_insensitive = reader.u64()? == 1,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok(source)
}

/// Says that a manifest was complete at the second look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seal {
    /// The device that wrote the manifest.
    pub device: DeviceId,
    /// Its sequence.
    pub sequence: u64,
    /// The manifest.
    pub manifest: SnapshotId,
    /// When.
    pub time: Timestamp,
}

impl Seal {
    /// The whole object, signed by the device.
    pub fn encode_object(&self, ring: &KeyRing, signer: &Signer, random: &dyn RandomSource) -> Vec<u8> {
        let mut writer = CborWriter::new();
        writer.map(|map| {
            map.key(0).bytes(self.device.as_bytes());
            map.key(1).u64(self.sequence);
            map.key(2).bytes(self.manifest.as_bytes());
            map.key(3).time(self.time);
        });
        let header = Header::new(ObjectKind::Seal, ring.epoch(), ring.repository, random);
        encode_signed(&header, &ring.current().structure, writer.finish(), signer)
    }

    /// Opens a seal. The signature is the caller's to check.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn decode_object(
        object: &[u8],
        repository: RepositoryId,
        key_of: impl FnOnce(u16) -> Option<Key>,
    ) -> Result<(Self, Header, Signed), ObjectError> {
        let (header, signed) = decode_signed(object, ObjectKind::Seal, repository, key_of)?;
        let (mut device, mut sequence, mut manifest, mut time) = (None, 0, None, None);
        let mut reader = CborReader::new(&signed.payload);
        reader.map::<ObjectError>(|key, reader| {
            match key {
                0 => device = Some(DeviceId::from_bytes(reader.byte_array()?)),
                1 => sequence = reader.u64()?,
                2 => manifest = Some(SnapshotId::from_bytes(reader.byte_array()?)),
                3 => time = Some(reader.time()?),
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        reader.finish()?;
        let (device, manifest, time) = (required(device, 0)?, required(manifest, 2)?, required(time, 3)?);
        if signed.signer != device {
            return Err(ObjectError::Misplaced);
        }
        Ok((Self { device, sequence, manifest, time }, header, signed))
    }
}

/// One manifest in a catalogue: everything that is needed to check it as if it had been read itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CatalogueRow {
    /// Hash of the manifest object.
    pub manifest: SnapshotId,
    /// Header of the manifest object.
    pub header: [u8; HEADER_LENGTH],
    /// Payload, signature and signer.
    pub signed: Signed,
    /// Hash of its seal object.
    pub seal: Option<ObjectHash>,
}

/// A roll-up of many manifests, so that ten thousand snapshots are one read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Catalogue {
    /// Manifests, sorted by hash.
    pub rows: Vec<CatalogueRow>,
    /// Catalogues that this one replaces.
    pub superseded: Vec<ObjectHash>,
}

impl Catalogue {
    /// The whole object.
    ///
    /// # Errors
    /// [`ObjectError::NotAllowed`] for roles without the catalogue key.
    pub fn encode_object(&self, ring: &KeyRing, signer: &Signer, random: &dyn RandomSource) -> Result<Vec<u8>, ObjectError> {
        let key = ring.catalogue(ring.epoch()).ok_or(ObjectError::NotAllowed)?;
        let mut writer = CborWriter::new();
        writer.map(|map| {
            map.key(0).array_of(&self.rows, |writer, row| {
                writer.array(6).bytes(row.manifest.as_bytes()).bytes(&row.header).bytes(&row.signed.payload).bytes(&row.signed.signature);
                writer.bytes(row.signed.signer.as_bytes());
                writer.optional(row.seal, |writer, seal| {
                    writer.bytes(seal.as_bytes());
                });
            });
            map.key(1).array_of(&self.superseded, |writer, hash| {
                writer.bytes(hash.as_bytes());
            });
        });
        let header = Header::new(ObjectKind::Catalogue, ring.epoch(), ring.repository, random);
        Ok(encode_signed(&header, &key, writer.finish(), signer))
    }

    /// Opens a catalogue. The signatures, its own and those of its rows, are the caller's to check.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn decode_object(object: &[u8], ring: &KeyRing) -> Result<(Self, Header, Signed), ObjectError> {
        let (header, signed) = decode_signed(object, ObjectKind::Catalogue, ring.repository, |epoch| ring.catalogue(epoch))?;
        let mut catalogue = Self::default();
        let mut reader = CborReader::new(&signed.payload);
        let limit = signed.payload.len();
        let row = |reader: &mut CborReader<'_>| {
            reader.tuple(6, |reader| {
                let (manifest, header) = (SnapshotId::from_bytes(reader.byte_array()?), reader.byte_array()?);
                let payload = reader.bytes(limit)?.to_vec();
                let signed = Signed { payload, signature: reader.byte_array()?, signer: DeviceId::from_bytes(reader.byte_array()?) };
                let seal = reader.optional(|reader| Ok::<_, ObjectError>(ObjectHash::from_bytes(reader.byte_array()?)))?;
                Ok::<_, ObjectError>(CatalogueRow { manifest, header, signed, seal })
            })
        };
        reader.map::<ObjectError>(|key, reader| {
            match key {
                0 => catalogue.rows = reader.array(limit, row)?,
                1 => catalogue.superseded = reader.array(limit, |r| Ok::<_, ObjectError>(ObjectHash::from_bytes(r.byte_array()?)))?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        reader.finish()?;
        if catalogue.rows.is_sorted_by(|a, b| a.manifest < b.manifest) {
            Ok((catalogue, header, signed))
        } else {
            Err(ObjectError::Broken("the catalogue is out of order"))
        }
    }
}

/// Checks that an object's bytes have the hash in its name.
///
/// # Errors
/// [`ObjectError::Misplaced`].
pub fn check_hash(object: &[u8], hash: &ObjectHash) -> Result<(), ObjectError> {
    if crypto::hash(object) == *hash.as_bytes() { Ok(()) } else { Err(ObjectError::Misplaced) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::crypto::SystemRandom;
    use crate::key::Role;
    use crate::tree::codec::tests::reference;
    use crate::tree::{Entry, EntryKind};

    pub(crate) fn manifest(device: DeviceId, sequence: u64) -> Manifest {
        let time = |seconds| Timestamp::new(seconds, 7).unwrap();
        let mut root = Entry::new(None, EntryKind::Directory);
        root.subtree.as_mut().unwrap().page = Some(reference(3));
        Manifest {
            device,
            sequence,
            previous: (sequence > 1).then_some(SnapshotId::from_bytes([4; 32])),
            heads: vec![Head { device: DeviceId::from_bytes([5; 16]), sequence: 9, manifest: SnapshotId::from_bytes([6; 32]) }],
            started: time(1_795_000_000),
            ended: time(1_795_000_100),
            server_time: Some(time(1_795_000_101)),
            host: "büro-pc".into(),
            set: String::new(),
            sources: vec![SourcePath { path: b"/home/\xff".to_vec(), case_insensitive: false }],
            tags: vec!["before update".into()],
            root,
            link_table: vec![(2, reference(8)), (70, reference(9))],
            stats: Stats { file_count: 3, stored_bytes: 1 << 40, removed_count: 4, sent_bytes: 5, ..Stats::default() },
            findings: vec![reference(1)],
            tool_version: "yesterdrive 0.1.0".into(),
            parent: None,
            utc_offset_minutes: -210,
            attribute_names: (sequence > 1).then(|| [b"user.b".to_vec(), b"user.a".to_vec()].into_iter().collect()),
            changes: (2..sequence.min(9)).map(|_| reference(4)).collect(),
            original: (sequence == 5).then(|| Original {
                repository: RepositoryId::from_bytes([7; 16]),
                snapshot: SnapshotId::from_bytes([8; 32]),
                copied: time(1_796_000_000),
            }),
        }
    }

    fn keys() -> (KeyRing, Signer) {
        let ring = KeyRing::generate(RepositoryId::from_bytes([1; 16]), &SystemRandom);
        (ring, Signer { device: DeviceId::from_bytes([2; 16]), seed: Key::from_bytes([3; 32]) })
    }

    #[test]
    fn manifests_round_trip_and_writers_cannot_read_their_own() {
        let (ring, signer) = keys();
        for sequence in [1, 2, 5] {
            let manifest = manifest(signer.device, sequence);
            let object = manifest.encode_object(&ring, &signer, &SystemRandom).unwrap();
            let (read, header, signed) = Manifest::decode_object(&object, &ring).unwrap();
            assert_eq!(read, manifest);
            assert_eq!(signed.verify(&header.encode(), &crypto::signing_public(&signer.seed)), Ok(()));
            let writer = ring.grant(Role::Writer, None).unwrap();
            let own = manifest.encode_object(&writer, &signer, &SystemRandom).unwrap();
            assert_eq!(Manifest::decode_object(&own, &writer).unwrap_err(), ObjectError::NotAllowed);
            assert!(Manifest::decode_object(&own, &ring).is_ok());
        }
    }

    #[test]
    fn every_flipped_byte_of_a_manifest_is_noticed() {
        let (ring, signer) = keys();
        let object = manifest(signer.device, 1).encode_object(&ring, &signer, &SystemRandom).unwrap();
        for at in 0..object.len() {
            let mut damaged = object.clone();
            damaged[at] ^= 2;
            assert!(Manifest::decode_object(&damaged, &ring).is_err(), "byte {at}");
        }
    }

    #[test]
    fn seals_and_catalogues_round_trip() {
        let (ring, signer) = keys();
        let seal = Seal { device: signer.device, sequence: 3, manifest: SnapshotId::from_bytes([7; 32]), time: Timestamp::default() };
        let object = seal.encode_object(&ring, &signer, &SystemRandom);
        assert_eq!(Seal::decode_object(&object, ring.repository, |e| ring.structure(e)).unwrap().0, seal);

        let row = |n: u8| {
            let object = manifest(signer.device, n.into()).encode_object(&ring, &signer, &SystemRandom).unwrap();
            let (_, header, signed) = Manifest::decode_object(&object, &ring).unwrap();
            CatalogueRow {
                manifest: SnapshotId::from_bytes([n; 32]),
                header: header.encode(),
                signed,
                seal: Some(ObjectHash::from_bytes([n; 32])),
            }
        };
        let catalogue = Catalogue { rows: (1..20).map(row).collect(), superseded: vec![ObjectHash::from_bytes([1; 32])] };
        let object = catalogue.encode_object(&ring, &signer, &SystemRandom).unwrap();
        assert_eq!(Catalogue::decode_object(&object, &ring).unwrap().0, catalogue);
        let writer = ring.grant(Role::Writer, None).unwrap();
        assert!(Catalogue::decode_object(&object, &writer).is_err());
    }
}
