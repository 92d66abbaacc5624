//! What this machine has checked before: manifests and seals, kept sealed in its state folder, so that ten thousand signatures are not checked at every start.
//!
//! Only what costs time is spared: what counts is still what the store lists, and a row holds only while the key that signed it is certified as it was then.
//! A file that is missing, damaged, foreign or of another program version is as good as none. Several processes may write it: each puts a whole file in place
//! of the one before, and what one of them did not know is read again. Sealed under a key that only those have who may read manifests.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::certified::Certificates;
use super::known::{Known, Row};
use super::{Repository, lock};
use crate::crypto::{Key, random_array};
use crate::id::{DeviceId, ObjectHash, SnapshotId, to_hex};
use crate::key::Role;
use crate::object::{self, HEADER_LENGTH, Header, ObjectError, ObjectKind};
use crate::snapshot::attributes::AttributeNames;
use crate::snapshot::kept::{Block, Kept, Recent};
use crate::snapshot::tombstone::Tombstones;
use crate::snapshot::{Outline, Series};
use crate::state::private_folder;
use crate::wire::{CborReader, CborWriter};

const FILE: &str = "snapshots";
/// Another program may know more of a manifest than this one has kept.
const VERSION: &str = concat!("4 ", env!("CARGO_PKG_VERSION"));
/// A section is closed when it has so many bytes. Each is read, opened and taken over before the next, so they should be small.
const SECTION_SIZE: usize = 128 << 10;
/// Largest section that is read; a single manifest may be long.
const SECTION_SIZE_MAX: u32 = 64 << 20;
/// Bytes of a host's name, a tag and the like: what manifests may have.
const TEXT_MAX: usize = 4096;
/// Devices, catalogues or rows that are read from one section.
const ITEMS_MAX: usize = 1 << 20;

/// Whether this machine remembers snapshots of any repository.
pub(super) fn is_any(state: &Path) -> bool {
    let folders = fs::read_dir(state).into_iter().flatten().flatten();
    folders.into_iter().any(|folder| folder.path().join(FILE).is_file())
}

/// What was kept; nothing if there is nothing that can be used.
pub(super) fn load(repository: &Repository) -> Known {
    let Some((folder, _)) = place(repository) else { return Known::default() };
    match read(repository, &folder.join(FILE)) {
        Ok(known) => known,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Known::default(),
        Err(error) => {
            tracing::warn!(%error, "what this machine knew of the snapshots is not used");
            Known::default()
        }
    }
}

/// Keeps what is known of the snapshots.
pub(super) fn save(repository: &Repository, known: &Known) {
    let Some((folder, key)) = place(repository) else { return };
    if let Err(error) = write(repository, &folder, &key, known) {
        tracing::warn!(%error, "what this machine knows of the snapshots cannot be kept: the next start takes longer");
    }
}

/// The folder and the key; `None` without a state folder, and for a role that may not read manifests.
fn place(repository: &Repository) -> Option<(PathBuf, Key)> {
    let folder = repository.state.as_ref()?.join(repository.id().to_string());
    Some((folder, local_key(repository, repository.ring.epoch())?))
}

fn local_key(repository: &Repository, epoch: u16) -> Option<Key> {
    Some(repository.ring.catalogue(epoch)?.derive("yesterdrive 1 local snapshots"))
}

/// `[version, [[device, public key]], [catalogue that was read], [useless catalogue], [series], [[hash, payload of tombstones]], [manifest that is gone]]`
struct Front {
    devices: HashMap<DeviceId, [u8; 32]>,
    done: Vec<ObjectHash>,
    useless: Vec<ObjectHash>,
    series: Vec<Series>,
    tombstones: Vec<(ObjectHash, Arc<Tombstones>)>,
    gone: Vec<SnapshotId>,
}

fn read(repository: &Repository, path: &Path) -> io::Result<Known> {
    let damaged = |error: ObjectError| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut file = File::open(path)?;
    let mut head = [0; HEADER_LENGTH];
    file.read_exact(&mut head)?;
    let (header, _, _) = Header::expect(&head, ObjectKind::Catalogue, repository.id()).map_err(damaged)?;
    let key = local_key(repository, header.epoch).ok_or_else(|| damaged(ObjectError::UnknownEpoch(header.epoch)))?;
    let mut index = 0;
    let mut section = || {
        let mut length = [0; 4];
        file.read_exact(&mut length)?;
        let (length, is_last) = (u32::from_le_bytes(length) >> 1, length[0] & 1 == 1);
        if length > SECTION_SIZE_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut sealed = vec![0; length as usize];
        file.read_exact(&mut sealed)?;
        let plain = object::open_section(&key, &head, index, is_last, &sealed).map_err(|error| damaged(error.into()))?;
        index += 1;
        Ok::<_, io::Error>((plain, is_last))
    };
    let (plain, mut is_last) = section()?;
    let front = Front::decode(&plain).map_err(damaged)?;
    let (done, useless, gone) = (front.done, front.useless, front.gone);
    let mut known = Known {
        done: done.into_iter().collect(),
        useless: useless.into_iter().collect(),
        gone: gone.into_iter().collect(),
        ..Known::default()
    };
    let series: Vec<_> = {
        let (certificates, devices) = (lock(&repository.certificates), &front.devices);
        let stands = |tombstones: &Tombstones| is_certified(&certificates, devices, &tombstones.device, Role::may_forget);
        let counts = |(hash, tombstones): &(_, Arc<Tombstones>)| stands(tombstones) && counts(&certificates, &tombstones.device, hash);
        known.tombstones = front.tombstones.into_iter().filter(counts).collect();
        let certified = |series: Series| is_certified(&certificates, devices, &series.device, Role::may_write).then_some(series);
        front.series.into_iter().map(|series| certified(series).map(|series| known.share(series))).collect()
    };
    let mut found = Found { series, recent: known.recent.clone(), rows: Vec::new(), seals: Vec::new() };
    while !is_last {
        let plain;
        (plain, is_last) = section()?;
        found.decode(&plain).map_err(damaged)?;
    }
    // Made in one go, from everything in order, they take half the memory.
    let certificates = lock(&repository.certificates);
    let still = |(id, row): &(SnapshotId, Row)| counts(&certificates, &row.outline.series.device, &(*id).into());
    known.manifests = found.rows.into_iter().filter(still).collect();
    known.seals = found.seals.into_iter().collect();
    Ok(known)
}

/// Whether what a device has signed still counts.
fn counts(certificates: &Certificates, device: &DeviceId, hash: &ObjectHash) -> bool {
    certificates.get(device).is_none_or(|certificate| certificate.counts(Some(hash)).is_ok())
}

fn is_certified(certificates: &Certificates, devices: &HashMap<DeviceId, [u8; 32]>, device: &DeviceId, may: fn(Role) -> bool) -> bool {
    let now = certificates.get(device).filter(|certificate| may(certificate.role));
    now.is_some_and(|certificate| devices.get(device) == Some(&certificate.public))
}

impl Front {
    fn encode(&self) -> Vec<u8> {
        let mut writer = CborWriter::new();
        writer.array(7).text(VERSION);
        writer.array_of(&self.devices, |writer, (device, public)| {
            writer.array(2).bytes(device.as_bytes()).bytes(public);
        });
        for hashes in [&self.done, &self.useless] {
            writer.array_of(hashes, |writer, hash| {
                writer.bytes(hash.as_bytes());
            });
        }
        writer.array_of(&self.series, encode_series);
        writer.array_of(&self.tombstones, |writer, (hash, tombstones)| {
            writer.array(2).bytes(hash.as_bytes()).bytes(&tombstones.encode());
        });
        writer.array_of(&self.gone, |writer, id| {
            writer.bytes(id.as_bytes());
        });
        writer.finish()
    }

    fn decode(plain: &[u8]) -> Result<Self, ObjectError> {
        let mut reader = CborReader::new(plain);
        let front = reader.tuple(7, |reader| {
            if reader.text(64)? != VERSION {
                return Err(ObjectError::Broken("another version of the program wrote it"));
            }
            let device = |reader: &mut CborReader<'_>| {
                reader.tuple(2, |reader| Ok::<_, ObjectError>((DeviceId::from_bytes(reader.byte_array()?), reader.byte_array()?)))
            };
            let devices = reader.array(ITEMS_MAX, device)?.into_iter().collect();
            let (done, useless) = (reader.array(ITEMS_MAX, object_hash)?, reader.array(ITEMS_MAX, object_hash)?);
            let series = reader.array(ITEMS_MAX, decode_series)?;
            let tombstones = |reader: &mut CborReader<'_>| {
                reader.tuple(2, |reader| {
                    Ok::<_, ObjectError>((object_hash(reader)?, Arc::new(Tombstones::decode(reader.bytes(plain.len())?)?)))
                })
            };
            let tombstones = reader.array(ITEMS_MAX, tombstones)?;
            let gone = reader.array(ITEMS_MAX, |reader| Ok::<_, ObjectError>(SnapshotId::from_bytes(reader.byte_array()?)))?;
            Ok(Self { devices, done, useless, series, tombstones, gone })
        })?;
        reader.finish()?;
        Ok(front)
    }
}

fn object_hash(reader: &mut CborReader<'_>) -> Result<ObjectHash, ObjectError> {
    Ok(ObjectHash::from_bytes(reader.byte_array()?))
}

/// `[device, host, set, [tag], [attribute name] or null]`
fn encode_series(writer: &mut CborWriter, series: &Series) {
    writer.array(5).bytes(series.device.as_bytes()).text(&series.host).text(&series.set);
    writer.array_of(&series.tags, |writer, tag| {
        writer.text(tag);
    });
    writer.optional(series.attribute_names.as_ref(), |writer, names| {
        writer.array_of(names.iter(), |writer, name| {
            writer.bytes(name);
        });
    });
}

fn decode_series(reader: &mut CborReader<'_>) -> Result<Series, ObjectError> {
    let text = |reader: &mut CborReader<'_>| Ok::<_, ObjectError>(reader.text(TEXT_MAX)?.to_owned());
    let name = |reader: &mut CborReader<'_>| Ok::<_, ObjectError>(reader.bytes(TEXT_MAX)?.to_vec());
    reader.tuple(5, |reader| {
        let device = DeviceId::from_bytes(reader.byte_array()?);
        let (host, set, tags) = (text(reader)?, text(reader)?, reader.array(ITEMS_MAX, text)?);
        let attribute_names = reader.optional(|reader| Ok::<_, ObjectError>(AttributeNames::from_iter(reader.array(ITEMS_MAX, name)?)))?;
        Ok(Series { device, host, set, tags, attribute_names })
    })
}

/// What the sections after the first one hold: `[block, [[manifest, stands in a catalogue, [seal], series, sequence, started, place in the block]]]`,
/// one after the other.
struct Found {
    /// Those of devices that may write; `None` for others.
    series: Vec<Option<Arc<Series>>>,
    recent: Recent,
    rows: Vec<(SnapshotId, Row)>,
    seals: Vec<(ObjectHash, SnapshotId)>,
}

impl Found {
    fn decode(&mut self, plain: &[u8]) -> Result<(), ObjectError> {
        let mut reader = CborReader::new(plain);
        while reader.remaining() > 0 {
            reader.tuple(2, |reader| {
                let block = Arc::new(Block::decode(reader, &self.recent)?);
                reader.each(ITEMS_MAX, |reader, _| self.row(reader, &block))
            })?;
        }
        Ok(())
    }

    fn row(&mut self, reader: &mut CborReader<'_>, block: &Arc<Block>) -> Result<(), ObjectError> {
        reader.tuple(7, |reader| {
            let (id, is_covered) = (SnapshotId::from_bytes(reader.byte_array()?), reader.u64()? == 1);
            let before = self.seals.len();
            reader.each(ITEMS_MAX, |reader, _| {
                self.seals.push((object_hash(reader)?, id));
                Ok::<_, ObjectError>(())
            })?;
            let series = usize::try_from(reader.u64()?).ok().and_then(|at| self.series.get(at));
            let series = series.ok_or(ObjectError::Broken("a row names a series that is not there"))?;
            let (sequence, started, at) = (reader.u64()?, reader.time()?, reader.u32()?);
            match series {
                Some(series) => {
                    let outline = Outline { series: Arc::clone(series), sequence, started, kept: Kept::new(block, at) };
                    self.rows.push((id, Row { outline, is_covered }));
                }
                None => self.seals.truncate(before),
            }
            Ok(())
        })
    }
}

fn write(repository: &Repository, folder: &Path, key: &Key, known: &Known) -> io::Result<()> {
    private_folder(folder)?;
    let temporary = folder.join(format!("{FILE}.{}", to_hex(&random_array::<8>(&*repository.random))));
    let mut new = fs::OpenOptions::new();
    new.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut new, 0o600);
    let result = new.open(&temporary).and_then(|file| {
        let mut file = BufWriter::new(file);
        write_sections(repository, key, known, &mut file)?;
        file.flush()?;
        drop(file);
        fs::rename(&temporary, folder.join(FILE))
    });
    if result.is_err() {
        // It may not even be there.
        let _ = fs::remove_file(&temporary);
    }
    result
}

fn write_sections(repository: &Repository, key: &Key, known: &Known, file: &mut impl io::Write) -> io::Result<()> {
    let ring = &repository.ring;
    let head = Header::new(ObjectKind::Catalogue, ring.epoch(), ring.repository, &*repository.random).encode();
    file.write_all(&head)?;
    let mut index = 0;
    let mut put = |plain: Vec<u8>, is_last: bool| {
        let sealed = object::seal_section(key, &head, index, is_last, plain);
        index += 1;
        let length = u32::try_from(sealed.len()).map_err(|_| io::ErrorKind::FileTooLarge)? << 1 | u32::from(is_last);
        file.write_all(&length.to_le_bytes())?;
        file.write_all(&sealed)
    };
    let devices = lock(&repository.certificates).iter().map(|certificate| (certificate.device, certificate.public)).collect();
    let (done, useless) = (known.done.iter().copied().collect(), known.useless.iter().copied().collect());
    // One copy of each is shared by all rows.
    let mut places: HashMap<*const Series, u64> = HashMap::new();
    let mut series = Vec::new();
    for row in known.manifests.values() {
        places.entry(Arc::as_ptr(&row.outline.series)).or_insert_with(|| {
            series.push((*row.outline.series).clone());
            series.len() as u64 - 1
        });
    }
    let tombstones = known.tombstones.iter().map(|(hash, tombstones)| (*hash, Arc::clone(tombstones))).collect();
    let gone = known.gone.iter().copied().collect();
    put(Front { devices, done, useless, series, tombstones, gone }.encode(), false)?;
    let mut seals: Vec<_> = known.seals.iter().map(|(seal, manifest)| (manifest, seal)).collect();
    seals.sort_unstable();
    let mut rows: Vec<_> = known.manifests.iter().collect();
    rows.sort_unstable_by_key(|(_, row)| (Arc::as_ptr(row.outline.kept.block()), row.outline.kept.at()));
    let mut writer = CborWriter::new();
    for group in rows.chunk_by(|(_, one), (_, other)| Arc::ptr_eq(one.outline.kept.block(), other.outline.kept.block())) {
        encode_group(&mut writer, group, &seals, &places);
        if writer.len() >= SECTION_SIZE {
            put(std::mem::take(&mut writer).finish(), false)?;
        }
    }
    put(writer.finish(), true)
}

/// Seals by what they seal, in order.
type SealsOf<'a> = [(&'a SnapshotId, &'a ObjectHash)];

/// A block and what stands in it: see [`Found`].
fn encode_group(writer: &mut CborWriter, group: &[(&SnapshotId, &Row)], seals: &SealsOf<'_>, places: &HashMap<*const Series, u64>) {
    let Some((_, first)) = group.first() else { return };
    first.outline.kept.block().encode(writer.array(2));
    writer.array_of(group, |writer, (id, row)| {
        let outline = &row.outline;
        writer.array(7).bytes(id.as_bytes()).u64(row.is_covered.into());
        let from = seals.partition_point(|(manifest, _)| manifest < id);
        let of_it: Vec<_> = seals.iter().skip(from).take_while(|(manifest, _)| manifest == id).collect();
        writer.array_of(of_it, |writer, (_, seal)| {
            writer.bytes(seal.as_bytes());
        });
        writer.u64(places.get(&Arc::as_ptr(&outline.series)).copied().unwrap_or(u64::MAX));
        writer.u64(outline.sequence).time(outline.started).u64(outline.kept.at().into());
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::codec::tests::manifest;
    use crate::snapshot::{Manifest, Snapshot};

    fn found(device: DeviceId) -> Found {
        let series = Some(Arc::new(Series::of(&manifest(device, 1))));
        Found { series: vec![series, None], recent: Recent::default(), rows: Vec::new(), seals: Vec::new() }
    }

    /// Opening a repository looks at no manifest that nobody asks for: what is no manifest at all is taken over, and an error for those who ask.
    #[test]
    fn manifests_are_decoded_for_those_who_ask() {
        let device = DeviceId::from_bytes([1; 16]);
        let of = |n: u8, payload: &[u8]| {
            let outline = Outline {
                series: Arc::new(Series::of(&manifest(device, 1))),
                sequence: n.into(),
                started: manifest(device, 1).started,
                kept: Kept::alone(payload, &Recent::default()),
            };
            (SnapshotId::from_bytes([n; 32]), Row { outline, is_covered: n == 2 })
        };
        let rows = [of(1, &manifest(device, 1).encode()), of(2, b"no manifest")];
        let seal = ObjectHash::from_bytes([9; 32]);
        let encoded = |place: u64| {
            let mut writer = CborWriter::new();
            for (id, row) in &rows {
                let places = HashMap::from([(Arc::as_ptr(&row.outline.series), place)]);
                encode_group(&mut writer, &[(id, row)], &[(&rows[1].0, &seal)], &places);
            }
            writer.finish()
        };
        let mut all = found(device);
        all.decode(&encoded(0)).unwrap();
        assert_eq!(all.seals, [(seal, rows[1].0)]);
        let read: Vec<_> =
            all.rows.into_iter().map(|(id, row)| (row.is_covered, Snapshot { id, sealed: true, outline: row.outline })).collect();
        assert_eq!(read.iter().map(|(covered, snapshot)| (*covered, snapshot.sequence())).collect::<Vec<_>>(), [(false, 1), (true, 2)]);
        assert_eq!(read[0].1.manifest().unwrap(), manifest(device, 1));
        assert!(read[1].1.manifest().unwrap_err().to_string().contains(&rows[1].0.to_string()));

        let mut none = found(device);
        none.decode(&encoded(1)).unwrap();
        assert!(none.rows.is_empty() && none.seals.is_empty(), "its device may not write any more");
        assert!(found(device).decode(&encoded(2)).is_err() && found(device).decode(&encoded(0)[1..]).is_err());
    }

    #[test]
    fn a_snapshot_takes_little_memory() {
        let device = DeviceId::from_bytes([1; 16]);
        let mut known = Known::default();
        let (count, mut plain) = (1000, 0);
        for n in 1..=1000 {
            let (id, mut manifest) = (|n: u64| SnapshotId::from_bytes(crate::crypto::hash(&n.to_le_bytes())), manifest(device, n));
            manifest.previous = Some(id(n - 1));
            plain += manifest.encode().len();
            known.insert(id(n), super::super::known::Checked::new(&manifest, manifest.encode()));
        }
        known.pack().unwrap();
        let blocks: HashMap<_, _> = known.manifests.values().map(|row| (Arc::as_ptr(row.outline.kept.block()), row)).collect();
        let mut writer = CborWriter::new();
        blocks.values().for_each(|row| row.outline.kept.block().encode(&mut writer));
        let at_hand = size_of::<(SnapshotId, Row)>() + size_of::<(ObjectHash, SnapshotId)>();
        assert!(at_hand <= 160 && size_of::<Manifest>() > 1000 && plain > 500_000, "{at_hand} bytes at hand, {plain} in all");
        assert!(writer.len() <= count * 120, "{} bytes kept", writer.len());
    }
}
