//! What this machine has checked before: manifests and seals, kept sealed in its state folder, so that ten thousand signatures are not checked at every start.
//!
//! Only what costs time is spared: what counts is still what the store lists, and a row holds only while the key that signed it is certified as it was then.
//! A file that is missing, damaged, foreign or of another program version is as good as none. Several processes may write it: each puts a whole file in place
//! of the one before, and what one of them did not know is read again. Sealed under a key that only those have who may read manifests.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::catalogue::{Certificates, Known, in_parallel};
use super::{Repository, lock};
use crate::crypto::{Key, random_array};
use crate::id::{DeviceId, ObjectHash, SnapshotId, to_hex};
use crate::object::{self, HEADER_LENGTH, Header, ObjectError, ObjectKind};
use crate::snapshot::Manifest;
use crate::state::private_folder;
use crate::wire::{CborReader, CborWriter};

const FILE: &str = "snapshots";
/// Another program may know more of a manifest than this one has kept.
const VERSION: &str = concat!("1 ", env!("CARGO_PKG_VERSION"));
/// A section is closed when it has so many bytes.
const SECTION_SIZE: usize = 256 << 10;
/// Largest section that is read; a single manifest may be long.
const SECTION_SIZE_MAX: u32 = 16 << 20;
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

/// `[version, [[device, public key]], [catalogue that was read], [useless catalogue]]`
struct Front {
    devices: HashMap<DeviceId, [u8; 32]>,
    done: Vec<ObjectHash>,
    useless: Vec<ObjectHash>,
}

/// `[manifest, stands in a catalogue, [seal], payload]`
struct Row {
    id: SnapshotId,
    covered: bool,
    seals: Vec<ObjectHash>,
    manifest: Manifest,
}

fn read(repository: &Repository, path: &Path) -> io::Result<Known> {
    let damaged = |error: ObjectError| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut file = BufReader::with_capacity(SECTION_SIZE, File::open(path)?);
    let mut head = [0; HEADER_LENGTH];
    file.read_exact(&mut head)?;
    let (header, _, _) = Header::expect(&head, ObjectKind::Catalogue, repository.id()).map_err(damaged)?;
    let key = local_key(repository, header.epoch).ok_or_else(|| damaged(ObjectError::UnknownEpoch(header.epoch)))?;
    let mut sections = Vec::new();
    loop {
        let mut length = [0; 4];
        file.read_exact(&mut length)?;
        let (length, is_last) = (u32::from_le_bytes(length) >> 1, length[0] & 1 == 1);
        if length > SECTION_SIZE_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut sealed = vec![0; length as usize];
        file.read_exact(&mut sealed)?;
        sections.push((sections.len() as u64, is_last, sealed));
        if is_last {
            break;
        }
    }
    let open = |(index, is_last, sealed): (u64, bool, Vec<u8>)| Ok(object::open_section(&key, &head, index, is_last, &sealed)?);
    let mut front = open(sections.remove(0)).and_then(|plain| Front::decode(&plain)).map_err(damaged)?;
    let rows = in_parallel(sections, 2, |section| open(section).and_then(|plain| decode_rows(&plain)));
    let certificates = lock(&repository.certificates);
    let (done, useless) = (front.done.drain(..).collect(), front.useless.drain(..).collect());
    let mut known = Known { done, useless, ..Known::default() };
    for row in rows.into_iter().collect::<Result<Vec<_>, _>>().map_err(damaged)?.into_iter().flatten() {
        if is_certified(&certificates, &front, &row.manifest.device) {
            known.seals.extend(row.seals.into_iter().map(|seal| (seal, row.id)));
            known.covered.extend(row.covered.then_some(row.id));
            known.manifests.insert(row.id, Arc::new(row.manifest));
        }
    }
    Ok(known)
}

fn is_certified(certificates: &Certificates, front: &Front, device: &DeviceId) -> bool {
    let now = certificates.get(device).filter(|certificate| certificate.role.may_write());
    now.is_some_and(|certificate| front.devices.get(device) == Some(&certificate.public))
}

impl Front {
    fn encode(&self) -> Vec<u8> {
        let mut writer = CborWriter::new();
        writer.array(4).text(VERSION);
        writer.array_of(&self.devices, |writer, (device, public)| {
            writer.array(2).bytes(device.as_bytes()).bytes(public);
        });
        for hashes in [&self.done, &self.useless] {
            writer.array_of(hashes, |writer, hash| {
                writer.bytes(hash.as_bytes());
            });
        }
        writer.finish()
    }

    fn decode(plain: &[u8]) -> Result<Self, ObjectError> {
        let mut reader = CborReader::new(plain);
        let front = reader.tuple(4, |reader| {
            if reader.text(64)? != VERSION {
                return Err(ObjectError::Broken("another version of the program wrote it"));
            }
            let device = |reader: &mut CborReader<'_>| {
                reader.tuple(2, |reader| Ok::<_, ObjectError>((DeviceId::from_bytes(reader.byte_array()?), reader.byte_array()?)))
            };
            let devices = reader.array(ITEMS_MAX, device)?.into_iter().collect();
            Ok(Self { devices, done: reader.array(ITEMS_MAX, object_hash)?, useless: reader.array(ITEMS_MAX, object_hash)? })
        })?;
        reader.finish()?;
        Ok(front)
    }
}

fn object_hash(reader: &mut CborReader<'_>) -> Result<ObjectHash, ObjectError> {
    Ok(ObjectHash::from_bytes(reader.byte_array()?))
}

fn decode_rows(plain: &[u8]) -> Result<Vec<Row>, ObjectError> {
    let mut reader = CborReader::new(plain);
    let mut rows = Vec::new();
    while reader.remaining() > 0 {
        rows.push(reader.tuple(4, |reader| {
            let (id, covered) = (SnapshotId::from_bytes(reader.byte_array()?), reader.u64()? == 1);
            let seals = reader.array(ITEMS_MAX, object_hash)?;
            Ok::<_, ObjectError>(Row { id, covered, seals, manifest: Manifest::decode(reader.bytes(plain.len())?)? })
        })?);
    }
    Ok(rows)
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
    let devices = lock(&repository.certificates).iter().map(|(device, certificate)| (*device, certificate.public)).collect();
    let (done, useless) = (known.done.iter().copied().collect(), known.useless.iter().copied().collect());
    put(Front { devices, done, useless }.encode(), false)?;
    let mut seals: HashMap<_, Vec<_>> = HashMap::new();
    for (seal, manifest) in &known.seals {
        seals.entry(*manifest).or_default().push(*seal);
    }
    let mut rows = CborWriter::new();
    for (id, manifest) in &known.manifests {
        rows.array(4).bytes(id.as_bytes()).u64(known.covered.contains(id).into());
        rows.array_of(seals.get(id).map_or(&[][..], |seals| seals), |writer, seal| {
            writer.bytes(seal.as_bytes());
        });
        rows.bytes(&manifest.encode());
        if rows.len() >= SECTION_SIZE {
            put(std::mem::take(&mut rows).finish(), false)?;
        }
    }
    put(rows.finish(), true)
}
