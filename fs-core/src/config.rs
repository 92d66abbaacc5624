//! What a repository is set to, and who may write to it: configuration, device certificates, sessions.
//!
//! All three are sealed, signed objects of [`crate::object`]. Layout: docs/FORMAT.md, section 5.

use crate::crypto::{self, Key};
use crate::id::{DeviceId, ObjectHash, RepositoryId, SessionId};
use crate::key::Role;
use crate::object::{Header, ObjectError, ObjectKind, Signed, Signer, decode_signed, encode_signed};
use crate::time::Timestamp;
use crate::wire::{CborReader, CborWriter};

/// Version of the format that this program reads and writes.
pub const FORMAT_VERSION: u64 = 1;

const RULES_MAX: usize = 64;
const EXTENSIONS_MAX: usize = 256;
const WORD_MAX: usize = 64;
const LABEL_MAX: usize = 1024;

/// How files are cut into chunks. All sizes in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkSizes {
    /// Least chunk, but for the last of a file.
    pub min: u32,
    /// Mean chunk.
    pub mean: u32,
    /// Largest chunk.
    pub max: u32,
    /// Files up to this size are one chunk.
    pub small: u32,
}

/// Files that are cut into blocks of one size instead of by content: disk images and databases change in place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockRule {
    /// Extensions in lower case, without the dot; empty for all files.
    pub extensions: Vec<String>,
    /// Only files of at least this many bytes.
    pub size_min: u64,
    /// Block size in bytes.
    pub block_size: u32,
}

/// A repository's parameters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Counts configurations from 1; the highest valid one holds.
    pub generation: u64,
    /// When it was written.
    pub created: Timestamp,
    /// Chunk sizes.
    pub chunks: ChunkSizes,
    /// Fixed-block rules; the first that fits a file holds.
    pub block_rules: Vec<BlockRule>,
    /// Size at which a data pack is full, in bytes.
    pub data_pack_size: u32,
    /// Size at which a metadata pack is full, in bytes.
    pub meta_pack_size: u32,
    /// When the repository ends; `None` for one that goes on.
    pub closing: Option<Closing>,
}

/// The announced end of a repository: nothing is saved into it any more, all of it can be read until then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Closing {
    /// When it was announced.
    pub since: Timestamp,
    /// From when on it may be destroyed.
    pub due: Timestamp,
}

impl Config {
    /// What `init` writes.
    pub fn new(created: Timestamp) -> Self {
        let rule = |extensions: &[&str], size_min, block_size| BlockRule {
            extensions: extensions.iter().map(|&extension| extension.into()).collect(),
            size_min,
            block_size,
        };
        let images = ["img", "raw", "qcow2", "vmdk", "vdi", "vhd", "vhdx", "hdd", "mdf", "ldf", "ibd", "pst", "ost", "edb", "fdb", "gdb"];
        Self {
            generation: 1,
            created,
            chunks: ChunkSizes { min: 64 << 10, mean: 256 << 10, max: 1 << 20, small: 64 << 10 },
            block_rules: vec![rule(&images, 64 << 30, 1 << 20), rule(&images, 1 << 20, 64 << 10)],
            data_pack_size: 32 << 20,
            meta_pack_size: 8 << 20,
            closing: None,
        }
    }

    /// The block size for a file of this name and size; `None` to cut by content.
    pub fn block_size(&self, name: &[u8], size: u64) -> Option<u32> {
        let (_, extension) = name.rsplit_at_dot()?;
        let extension = std::str::from_utf8(extension).ok()?.to_lowercase();
        let fits = |rule: &&BlockRule| size >= rule.size_min && (rule.extensions.is_empty() || rule.extensions.contains(&extension));
        self.block_rules.iter().find(fits).map(|rule| rule.block_size)
    }

    /// The payload that is signed.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = CborWriter::new();
        let chunks = &self.chunks;
        writer.map(|map| {
            map.key(0).u64(self.generation);
            map.key(1).time(self.created);
            map.key(2).array_of([chunks.min, chunks.mean, chunks.max, chunks.small], |writer, size| {
                writer.u64(size.into());
            });
            map.key(3).array_of(&self.block_rules, |writer, rule| {
                writer.map(|map| {
                    map.key(0).array_of(&rule.extensions, |writer, extension| {
                        writer.text(extension);
                    });
                    map.key(1).u64(rule.size_min);
                    map.key(2).u64(rule.block_size.into());
                });
            });
            map.key(4).array(2).u64(self.data_pack_size.into()).u64(self.meta_pack_size.into());
            map.key(5).u64(FORMAT_VERSION);
            map.key(6).u64(FORMAT_VERSION);
            map.key(7).array(0);
            map.optional(8, self.closing, |writer, closing| {
                writer.array(2).time(closing.since).time(closing.due);
            });
        });
        writer.finish()
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// [`ObjectError`], also if it asks for a newer program.
    pub fn decode(payload: &[u8]) -> Result<Self, ObjectError> {
        let mut config = Self { generation: 0, ..Self::new(Timestamp::default()) };
        let mut versions = (u64::MAX, u64::MAX);
        let mut features = Vec::new();
        let mut reader = CborReader::new(payload);
        reader.map::<ObjectError>(|key, reader| {
            match key {
                0 => config.generation = reader.u64()?,
                1 => config.created = reader.time()?,
                2 => config.chunks = decode_chunks(reader)?,
                3 => config.block_rules = reader.array(RULES_MAX, decode_rule)?,
                4 => (config.data_pack_size, config.meta_pack_size) = reader.tuple(2, |r| Ok::<_, ObjectError>((r.u32()?, r.u32()?)))?,
                5 => versions.0 = reader.u64()?,
                6 => versions.1 = reader.u64()?,
                7 => features = reader.array(RULES_MAX, |r| Ok::<_, ObjectError>(r.text(WORD_MAX)?.to_owned()))?,
                8 => config.closing = Some(reader.tuple(2, |r| Ok::<_, ObjectError>(Closing { since: r.time()?, due: r.time()? }))?),
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        reader.finish()?;
        if versions.0 > FORMAT_VERSION || versions.1 > FORMAT_VERSION || !features.is_empty() {
            return Err(ObjectError::Broken("the repository asks for a newer program"));
        }
        let sizes = 64 << 10..=64 << 20;
        if config.generation == 0 || !sizes.contains(&config.data_pack_size) || !sizes.contains(&config.meta_pack_size) {
            return Err(ObjectError::Broken("a size in the configuration is out of range"));
        }
        Ok(config)
    }
}

fn decode_chunks(reader: &mut CborReader<'_>) -> Result<ChunkSizes, ObjectError> {
    let read = |r: &mut CborReader<'_>| Ok::<_, ObjectError>(ChunkSizes { min: r.u32()?, mean: r.u32()?, max: r.u32()?, small: r.u32()? });
    let sizes = reader.tuple(4, read)?;
    let even = [sizes.min, sizes.mean, sizes.max].iter().all(|size| size.is_multiple_of(2));
    let ordered = 1024 <= sizes.min && sizes.min < sizes.mean && sizes.mean < sizes.max && sizes.max <= 16 << 20;
    if even && ordered && sizes.small <= sizes.max { Ok(sizes) } else { Err(ObjectError::Broken("its chunk sizes are out of range")) }
}

fn decode_rule(reader: &mut CborReader<'_>) -> Result<BlockRule, ObjectError> {
    let mut rule = BlockRule { extensions: Vec::new(), size_min: 0, block_size: 0 };
    reader.map::<ObjectError>(|key, reader| {
        match key {
            0 => rule.extensions = reader.array(EXTENSIONS_MAX, |r| Ok::<_, ObjectError>(r.text(WORD_MAX)?.to_owned()))?,
            1 => rule.size_min = reader.u64()?,
            2 => rule.block_size = reader.u32()?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    let fits = (4096..=16 << 20).contains(&rule.block_size);
    if fits { Ok(rule) } else { Err(ObjectError::Broken("a block size is out of range")) }
}

/// Splits a name at its last dot.
trait RsplitAtDot {
    fn rsplit_at_dot(&self) -> Option<(&[u8], &[u8])>;
}

impl RsplitAtDot for [u8] {
    fn rsplit_at_dot(&self) -> Option<(&[u8], &[u8])> {
        let at = self.iter().rposition(|&b| b == b'.')?;
        Some((self.get(..at)?, self.get(at + 1..)?))
    }
}

/// Who a device is and what it may do; signed by the root key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// The device.
    pub device: DeviceId,
    /// Checks what it signs.
    pub public: [u8; 32],
    /// What it may do.
    pub role: Role,
    /// When it was enrolled.
    pub created: Timestamp,
    /// Its name for people.
    pub label: String,
    /// Whether a writer relies on what others have stored, and so stores nothing twice that they have. Without it, it relies on its own only: it cannot see
    /// whether what another device claims to have stored is there.
    pub trusts_others: bool,
    /// What still counts of a device that was lost or whose holder has left; `None` for one that may go on.
    pub revoked: Option<Revocation>,
}

/// The end of a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Revocation {
    /// When it was revoked.
    pub time: Timestamp,
    /// Manifests, seals, tombstones and marks of the device that were there then, by the hash of each object, sorted. Nothing else that it signed counts.
    pub counted: Vec<ObjectHash>,
}

/// Objects of a device that can count on after it was revoked: as many as fit into a small object.
pub const COUNTED_MAX: usize = 30_000;

impl Certificate {
    /// Whether an object that the device signed counts. Of objects without a hash in their name, which say nothing that could do harm, all count.
    ///
    /// # Errors
    /// [`ObjectError::Revoked`].
    pub fn counts(&self, hash: Option<&ObjectHash>) -> Result<(), ObjectError> {
        match (&self.revoked, hash) {
            (Some(revoked), Some(hash)) if revoked.counted.binary_search(hash).is_err() => Err(ObjectError::Revoked(revoked.time)),
            _ => Ok(()),
        }
    }

    /// The whole object.
    pub fn encode_object(&self, header: &Header, structure: &Key, root: &Signer) -> Vec<u8> {
        let mut writer = CborWriter::new();
        writer.map(|map| {
            map.key(0).bytes(self.device.as_bytes());
            map.key(1).bytes(&self.public);
            map.key(2).u64(self.role.to_byte().into());
            map.key(3).time(self.created);
            map.key(4).text(&self.label);
            map.optional(5, self.trusts_others.then_some(()), |writer, ()| {
                writer.u64(1);
            });
            map.optional(6, self.revoked.as_ref(), |writer, revoked| {
                writer.array(2).time(revoked.time).array_of(&revoked.counted, |writer, hash| {
                    writer.bytes(hash.as_bytes());
                });
            });
        });
        encode_signed(header, structure, writer.finish(), root)
    }

    /// Opens a certificate and checks the root's signature.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn decode_object(
        object: &[u8],
        repository: RepositoryId,
        root: &[u8; 32],
        key_of: impl FnOnce(u16) -> Option<Key>,
    ) -> Result<Self, ObjectError> {
        let payload = open_root_signed(object, ObjectKind::Device, repository, root, key_of)?;
        let (mut device, mut public, mut role, mut created, mut label) = (None, None, None, None, String::new());
        let (mut trusts_others, mut revoked) = (false, None);
        let mut reader = CborReader::new(&payload);
        reader.map::<ObjectError>(|key, reader| {
            match key {
                0 => device = Some(DeviceId::from_bytes(reader.byte_array()?)),
                1 => public = Some(reader.byte_array()?),
                2 => role = Role::from_byte(reader.u8()?),
                3 => created = Some(reader.time()?),
                4 => label = reader.text(LABEL_MAX)?.to_owned(),
                5 => trusts_others = reader.u64()? == 1,
                6 => revoked = Some(decode_revocation(reader)?),
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        reader.finish()?;
        let (Some(device), Some(public), Some(role), Some(created)) = (device, public, role, created) else {
            return Err(ObjectError::Broken("the certificate is incomplete"));
        };
        Ok(Self { device, public, role, created, label, trusts_others, revoked })
    }
}

fn decode_revocation(reader: &mut CborReader<'_>) -> Result<Revocation, ObjectError> {
    reader.tuple(2, |reader| {
        let time = reader.time()?;
        let mut counted = reader.array(COUNTED_MAX, |reader| Ok::<_, ObjectError>(ObjectHash::from_bytes(reader.byte_array()?)))?;
        counted.sort_unstable();
        Ok(Revocation { time, counted })
    })
}

/// The configuration as a whole object, signed by the root key.
pub fn encode_config(config: &Config, header: &Header, structure: &Key, root: &Signer) -> Vec<u8> {
    encode_signed(header, structure, config.encode(), root)
}

/// Opens a configuration and checks the root's signature.
///
/// # Errors
/// [`ObjectError`].
pub fn decode_config(
    object: &[u8],
    repository: RepositoryId,
    root: &[u8; 32],
    key_of: impl FnOnce(u16) -> Option<Key>,
) -> Result<Config, ObjectError> {
    Config::decode(&open_root_signed(object, ObjectKind::Config, repository, root, key_of)?)
}

fn open_root_signed(
    object: &[u8],
    kind: ObjectKind,
    repository: RepositoryId,
    root: &[u8; 32],
    key_of: impl FnOnce(u16) -> Option<Key>,
) -> Result<Vec<u8>, ObjectError> {
    let (header, signed) = decode_signed(object, kind, repository, key_of)?;
    if signed.signer != DeviceId::ROOT {
        return Err(ObjectError::Damaged(crypto::OpenError::BadSignature));
    }
    signed.verify(&header.encode(), root)?;
    Ok(signed.payload)
}

/// When a device began to write, and the HPKE values under which it sealed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    /// The device.
    pub device: DeviceId,
    /// The session.
    pub id: SessionId,
    /// When it began.
    pub started: Timestamp,
    /// HPKE value of the data pair.
    pub enc_data: [u8; 32],
    /// HPKE value of the tree pair.
    pub enc_tree: [u8; 32],
}

impl Session {
    /// The whole object.
    pub fn encode_object(&self, epoch: u16, repository: RepositoryId, structure: &Key, signer: &Signer) -> Vec<u8> {
        let mut writer = CborWriter::new();
        writer.map(|map| {
            map.key(0).bytes(self.device.as_bytes());
            map.key(1).bytes(self.id.as_bytes());
            map.key(2).time(self.started);
            map.key(3).bytes(&self.enc_data);
            map.key(4).bytes(&self.enc_tree);
        });
        let header = Header { kind: ObjectKind::Session, epoch, repository, salt: *self.id.as_bytes() };
        encode_signed(&header, structure, writer.finish(), signer)
    }

    /// Opens a session. The signature is the caller's to check.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn decode_object(
        object: &[u8],
        repository: RepositoryId,
        key_of: impl FnOnce(u16) -> Option<Key>,
    ) -> Result<(Self, Header, Signed), ObjectError> {
        let (header, signed) = decode_signed(object, ObjectKind::Session, repository, key_of)?;
        let (mut device, mut id, mut started, mut enc_data, mut enc_tree) = (None, None, None, None, None);
        let mut reader = CborReader::new(&signed.payload);
        reader.map::<ObjectError>(|key, reader| {
            match key {
                0 => device = Some(DeviceId::from_bytes(reader.byte_array()?)),
                1 => id = Some(SessionId::from_bytes(reader.byte_array()?)),
                2 => started = Some(reader.time()?),
                3 => enc_data = Some(reader.byte_array()?),
                4 => enc_tree = Some(reader.byte_array()?),
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        reader.finish()?;
        let (Some(device), Some(id), Some(started), Some(enc_data), Some(enc_tree)) = (device, id, started, enc_data, enc_tree) else {
            return Err(ObjectError::Broken("the session is incomplete"));
        };
        if header.salt != *id.as_bytes() || signed.signer != device {
            return Err(ObjectError::Misplaced);
        }
        Ok((Self { device, id, started, enc_data, enc_tree }, header, signed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SystemRandom;
    use crate::key::KeyRing;

    const REPOSITORY: RepositoryId = RepositoryId::from_bytes([3; 16]);

    fn time() -> Timestamp {
        Timestamp::new(1_795_000_000, 5).unwrap()
    }

    #[test]
    fn signed_by_the_root_or_not_at_all() {
        let ring = KeyRing::generate(REPOSITORY, &SystemRandom);
        let root = ring.root_signer().unwrap();
        let config = Config::new(time());
        let header = |kind| Header::new(kind, 1, REPOSITORY, &SystemRandom);
        let structure = &ring.current().structure;
        let object = encode_config(&config, &header(ObjectKind::Config), structure, &root);
        assert_eq!(decode_config(&object, REPOSITORY, &ring.root_public, |e| ring.structure(e)), Ok(config.clone()));
        let closing = Config { closing: Some(Closing { since: time(), due: time() }), ..config.clone() };
        assert_eq!(Config::decode(&closing.encode()), Ok(closing));

        let impostor = Signer { device: DeviceId::from_bytes([1; 16]), seed: root.seed.clone() };
        let forged = encode_config(&config, &header(ObjectKind::Config), structure, &impostor);
        assert!(decode_config(&forged, REPOSITORY, &ring.root_public, |e| ring.structure(e)).is_err());
        let other = Signer { device: DeviceId::ROOT, seed: Key::from_bytes([9; 32]) };
        let forged = encode_config(&config, &header(ObjectKind::Config), structure, &other);
        assert!(decode_config(&forged, REPOSITORY, &ring.root_public, |e| ring.structure(e)).is_err());

        let (device, public) = (DeviceId::from_bytes([4; 16]), [5; 32]);
        let label = "büro-pc".into();
        let certificate = Certificate { device, public, role: Role::Writer, created: time(), label, trusts_others: false, revoked: None };
        let hash = |n| ObjectHash::from_bytes([n; 32]);
        let revoked = Certificate { revoked: Some(Revocation { time: time(), counted: vec![hash(1), hash(7)] }), ..certificate.clone() };
        let trusting = Certificate { trusts_others: true, ..certificate.clone() };
        let mut object = Vec::new();
        for certificate in [revoked.clone(), trusting, certificate.clone()] {
            object = certificate.encode_object(&header(ObjectKind::Device), structure, &root);
            assert_eq!(Certificate::decode_object(&object, REPOSITORY, &ring.root_public, |e| ring.structure(e)), Ok(certificate));
        }
        assert_eq!([1, 2, 7].map(|n| revoked.counts(Some(&hash(n))).is_ok()), [true, false, true]);
        assert!(revoked.counts(None).is_ok() && certificate.counts(Some(&hash(2))).is_ok());
        assert!(decode_config(&object, REPOSITORY, &ring.root_public, |e| ring.structure(e)).is_err());
    }

    #[test]
    fn sessions_round_trip_under_their_own_name_only() {
        let ring = KeyRing::generate(REPOSITORY, &SystemRandom);
        let signer = Signer { device: DeviceId::from_bytes([4; 16]), seed: Key::from_bytes([8; 32]) };
        let id = SessionId::from_bytes([6; 16]);
        let session = Session { device: signer.device, id, started: time(), enc_data: [1; 32], enc_tree: [2; 32] };
        let object = session.encode_object(1, REPOSITORY, &ring.current().structure, &signer);
        assert_eq!(Session::decode_object(&object, REPOSITORY, |e| ring.structure(e)).unwrap().0, session);
        let stolen = Session { device: DeviceId::from_bytes([1; 16]), ..session };
        let object = stolen.encode_object(1, REPOSITORY, &ring.current().structure, &signer);
        assert_eq!(Session::decode_object(&object, REPOSITORY, |e| ring.structure(e)), Err(ObjectError::Misplaced));
    }

    #[test]
    fn newer_repositories_are_refused_with_a_reason() {
        let mut payload = Config::new(time()).encode();
        let at = payload.windows(4).position(|w| w == [5, 1, 6, 1]).unwrap();
        payload[at + 1] = 2;
        assert!(Config::decode(&payload).unwrap_err().to_string().contains("newer program"));
    }

    #[test]
    fn images_are_cut_into_blocks() {
        let config = Config::new(time());
        assert_eq!(config.block_size(b"disk.IMG", 10 << 20), Some(64 << 10));
        assert_eq!(config.block_size(b"disk.img", 100 << 30), Some(1 << 20));
        assert_eq!(config.block_size(b"disk.img", 1000), None);
        assert_eq!(config.block_size(b"letter.odt", 10 << 20), None);
        assert_eq!(config.block_size(b"img", 10 << 20), None);
    }
}
