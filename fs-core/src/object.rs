//! Objects: names, the header that all of them begin with, sealed sections and signed bodies.
//!
//! Every other format module builds on these three. Layout: docs/FORMAT.md, sections 1 to 3.

use zeroize::Zeroizing;

use crate::crypto::{self, Key, NONCE_LENGTH, OpenError, RandomSource};
use crate::id::{DeviceId, KeyId, ObjectHash, PackId, RepositoryId, RunId, SessionId};
use crate::storage::ObjectName;
use crate::time::Timestamp;
use crate::wire::{self, CborReader, CborWriter, WireError};

pub mod keyless;

/// Length of the header.
pub const HEADER_LENGTH: usize = 48;
/// Ends packs and index shards.
pub const MAGIC_END: [u8; 8] = *b"\x59\x44\x52\x54\x0d\x0a\x1a\x0a";
/// Largest object that is read whole, beside packs, shards and catalogues.
pub const SMALL_OBJECT_SIZE_MAX: u64 = 1 << 20;

const MAGIC: [u8; 8] = *b"\x89\x59\x44\x52\x0d\x0a\x1a\x0a";
const SUITE: u8 = 1;
const FORMAT_VERSION: u16 = 1;

/// Why an object is not what its name says.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ObjectError {
    /// It does not begin like an object of ours.
    #[error("it is no Yesterdrive object")]
    NotOurs,
    /// A later version of the format, cipher suite or flags.
    #[error(
        "it was written in format {version} with suite {suite} and flags {flags:#x}; this program knows format 1 only: use a newer program"
    )]
    Newer {
        /// Format version.
        version: u16,
        /// Cipher suite.
        suite: u8,
        /// Flags.
        flags: u16,
    },
    /// Kind, repository or salt belong to another object.
    #[error("it belongs under another name or to another repository")]
    Misplaced,
    /// The key epoch is not among the keys at hand.
    #[error("it is sealed under key epoch {0}, which this key does not open")]
    UnknownEpoch(u16),
    /// The role of this key has no right to open it.
    #[error("this key's role cannot open it")]
    NotAllowed,
    /// Sealed bytes do not open or a signature does not fit.
    #[error("it is damaged or forged")]
    Damaged(#[source] OpenError),
    /// The bytes opened and make no sense.
    #[error("it does not decode")]
    Malformed(#[from] WireError),
    /// The device that signed it was revoked, and this was not there then.
    #[error("the device that signed it was revoked on {0}: it does not count")]
    Revoked(Timestamp),
    /// It is in order, and whoever signed it had no right to.
    #[error("a {0} signed it, who has no right to: it does not count")]
    NoRight(&'static str),
    /// It opened, and breaks a rule of the format.
    #[error("it breaks the format: {0}")]
    Broken(&'static str),
}

impl ObjectError {
    /// Whether the object is what somebody wrote, who could not make it count: nothing is lost with it.
    pub fn is_without_right(&self) -> bool {
        matches!(self, Self::Revoked(_) | Self::NoRight(_))
    }
}

impl From<OpenError> for ObjectError {
    fn from(source: OpenError) -> Self {
        Self::Damaged(source)
    }
}

/// Kinds of objects.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ObjectKind {
    /// Configuration.
    Config,
    /// Key slot.
    Slot,
    /// Device certificate.
    Device,
    /// Session.
    Session,
    /// Data pack.
    DataPack,
    /// Metadata pack.
    MetaPack,
    /// Index shard.
    Shard,
    /// Catalogue.
    Catalogue,
    /// Snapshot manifest.
    Manifest,
    /// Seal.
    Seal,
    /// Tombstones.
    Tombstones,
    /// Mark: what a prune has condemned.
    Mark,
}

impl ObjectKind {
    /// All kinds with their numbers and name prefixes in the format.
    pub const ALL: [(u8, Self, &'static str); 12] = [
        (1, Self::Config, "repo/"),
        (2, Self::Slot, "keys/"),
        (3, Self::Device, "dev/"),
        (4, Self::Session, "sess/"),
        (5, Self::DataPack, "pack/"),
        (6, Self::MetaPack, "meta/"),
        (7, Self::Shard, "idx/"),
        (8, Self::Catalogue, "cat/"),
        (9, Self::Manifest, "snap/"),
        (10, Self::Seal, "seal/"),
        (11, Self::Tombstones, "drop/"),
        (12, Self::Mark, "mark/"),
    ];

    /// The number in the format.
    pub fn to_byte(self) -> u8 {
        self.row().0
    }

    /// What the names of such objects begin with, ending in `/`.
    pub fn prefix(self) -> &'static str {
        self.row().2
    }

    /// The kind of a number in the format.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|row| row.0 == byte).map(|row| row.1)
    }

    fn row(self) -> (u8, Self, &'static str) {
        Self::ALL.into_iter().find(|row| row.1 == self).expect("the table has a row for every kind")
    }
}

/// The 48 bytes in clear that every object begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Kind of the object.
    pub kind: ObjectKind,
    /// Key epoch.
    pub epoch: u16,
    /// Repository.
    pub repository: RepositoryId,
    /// Slot, session or pack id, or random: makes the object's key its own.
    pub salt: [u8; 16],
}

impl Header {
    /// A header with a random salt.
    pub fn new(kind: ObjectKind, epoch: u16, repository: RepositoryId, random: &dyn RandomSource) -> Self {
        Self { kind, epoch, repository, salt: crypto::random_array(random) }
    }

    /// The bytes.
    pub fn encode(&self) -> [u8; HEADER_LENGTH] {
        let mut bytes = Vec::with_capacity(HEADER_LENGTH);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[self.kind.to_byte(), SUITE]);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.epoch.to_le_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(self.repository.as_bytes());
        bytes.extend_from_slice(&self.salt);
        bytes.try_into().expect("the fields add up to the header's length")
    }

    /// Reads the header at the beginning of an object; the rest follows it.
    ///
    /// # Errors
    /// [`ObjectError`] for anything that this version does not read.
    pub fn decode(object: &[u8]) -> Result<(Self, &[u8; HEADER_LENGTH], &[u8]), ObjectError> {
        let (bytes, rest) = object.split_first_chunk::<HEADER_LENGTH>().ok_or(ObjectError::NotOurs)?;
        let mut reader = wire::Reader::new(bytes);
        if reader.array::<8>()? != MAGIC {
            return Err(ObjectError::NotOurs);
        }
        let (kind, suite, version) = (reader.u8()?, reader.u8()?, reader.u16()?);
        let (epoch, flags) = (reader.u16()?, reader.u16()?);
        let (repository, salt) = (RepositoryId::from_bytes(reader.array()?), reader.array()?);
        if (suite, version, flags) != (SUITE, FORMAT_VERSION, 0) {
            return Err(ObjectError::Newer { version, suite, flags });
        }
        let kind = ObjectKind::from_byte(kind).ok_or(ObjectError::Newer { version, suite, flags })?;
        Ok((Self { kind, epoch, repository, salt }, bytes, rest))
    }

    /// Reads the header of an object that must be of this kind and repository.
    ///
    /// # Errors
    /// As [`Self::decode`], and [`ObjectError::Misplaced`].
    pub fn expect(object: &[u8], kind: ObjectKind, repository: RepositoryId) -> Result<(Self, &[u8; HEADER_LENGTH], &[u8]), ObjectError> {
        let parts = Self::decode(object)?;
        if (parts.0.kind, parts.0.repository) == (kind, repository) { Ok(parts) } else { Err(ObjectError::Misplaced) }
    }
}

/// `section(K, index, last, plain)` of the format; `key` is K.
pub fn seal_section(key: &Key, header: &[u8; HEADER_LENGTH], index: u64, last: bool, mut plain: Vec<u8>) -> Vec<u8> {
    let object_key = Key::from_bytes(crypto::keyed_hash(key, &[header]));
    crypto::seal(&object_key, section_nonce(index, last), header, &mut plain, 0);
    plain
}

/// Opens what [`seal_section`] sealed.
///
/// # Errors
/// [`OpenError::NotAuthentic`].
pub fn open_section(key: &Key, header: &[u8; HEADER_LENGTH], index: u64, last: bool, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    let object_key = Key::from_bytes(crypto::keyed_hash(key, &[header]));
    let mut buffer = sealed.to_vec();
    let length = crypto::open(&object_key, section_nonce(index, last), header, &mut buffer)?.len();
    buffer.truncate(length);
    Ok(buffer)
}

fn section_nonce(index: u64, last: bool) -> [u8; NONCE_LENGTH] {
    let [a, b, c, d, e, f, g, h] = index.to_le_bytes();
    [a, b, c, d, e, f, g, h, 0, 0, 0, u8::from(last)]
}

/// Who signs.
#[derive(Clone, Debug)]
pub struct Signer {
    /// The device, or [`DeviceId::ROOT`].
    pub device: DeviceId,
    /// Its signing seed.
    pub seed: Key,
}

/// A payload with its signature, not yet checked against a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signed {
    /// What was signed beside the header.
    pub payload: Vec<u8>,
    /// Ed25519.
    pub signature: [u8; 64],
    /// Who says to have signed.
    pub signer: DeviceId,
}

impl Signed {
    /// Signs a payload for the object with this header.
    pub fn new(payload: Vec<u8>, header: &[u8; HEADER_LENGTH], signer: &Signer) -> Self {
        let signature = crypto::sign(&signer.seed, header, &payload);
        Self { payload, signature, signer: signer.device }
    }

    /// The padded body.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = CborWriter::new();
        writer.array(3).bytes(&self.payload).bytes(&self.signature).bytes(self.signer.as_bytes());
        wire::padded_body(&writer.finish(), wire::BODY_STEP)
    }

    /// Reads a padded body.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`] or [`ObjectError::Broken`].
    pub fn decode(body: &[u8]) -> Result<Self, ObjectError> {
        let body = wire::open_padded_body(body)?;
        let mut reader = CborReader::new(body);
        let signed = reader.tuple(3, |reader| {
            let payload = reader.bytes(body.len())?.to_vec();
            let signature = reader.byte_array()?;
            Ok::<_, WireError>(Self { payload, signature, signer: DeviceId::from_bytes(reader.byte_array()?) })
        })?;
        reader.finish()?;
        Ok(signed)
    }

    /// Checks the signature against the signer's public key.
    ///
    /// # Errors
    /// [`ObjectError::Damaged`].
    pub fn verify(&self, header: &[u8; HEADER_LENGTH], public: &[u8; 32]) -> Result<(), ObjectError> {
        Ok(crypto::verify(public, header, &self.payload, &self.signature)?)
    }
}

/// A whole object that is one sealed, signed body: configuration, certificate, session, seal, catalogue, tombstones, mark.
pub fn encode_signed(header: &Header, key: &Key, payload: Vec<u8>, signer: &Signer) -> Vec<u8> {
    let head = header.encode();
    let sealed = seal_section(key, &head, 0, true, Signed::new(payload, &head, signer).encode());
    [&head[..], &sealed].concat()
}

/// Opens an object made by [`encode_signed`]. The signature is not checked yet: the caller finds the signer's key.
///
/// # Errors
/// [`ObjectError`].
pub fn decode_signed(
    object: &[u8],
    kind: ObjectKind,
    repository: RepositoryId,
    key_of: impl FnOnce(u16) -> Option<Key>,
) -> Result<(Header, Signed), ObjectError> {
    let (header, head, sealed) = Header::expect(object, kind, repository)?;
    let key = key_of(header.epoch).ok_or(ObjectError::UnknownEpoch(header.epoch))?;
    let body = Zeroizing::new(open_section(&key, head, 0, true, sealed)?);
    Ok((header, Signed::decode(&body)?))
}

/// The hash that ends the names of hashed objects.
pub fn object_hash(object: &[u8]) -> ObjectHash {
    ObjectHash::from_bytes(crypto::hash(object))
}

/// `repo/GENERATION-HASH`.
pub fn config_name(generation: u64, hash: &ObjectHash) -> ObjectName {
    ObjectName::new(format!("repo/{generation:010}-{hash}"))
}

/// `keys/SLOT`.
pub fn slot_name(slot: &KeyId) -> ObjectName {
    ObjectName::new(format!("keys/{slot}"))
}

/// `dev/DEVICE-HASH`.
pub fn device_name(device: &DeviceId, hash: &ObjectHash) -> ObjectName {
    ObjectName::new(format!("dev/{device}-{hash}"))
}

/// `sess/DEVICE/SESSION`.
pub fn session_name(device: &DeviceId, session: &SessionId) -> ObjectName {
    ObjectName::new(format!("sess/{device}/{session}"))
}

/// `pack/AA/PACK` or `meta/AA/PACK`.
pub fn pack_name(kind: ObjectKind, pack: &PackId) -> ObjectName {
    let [first, ..] = pack.as_bytes();
    ObjectName::new(format!("{}{first:02x}/{pack}", kind.prefix()))
}

/// `idx/HASH` or `cat/HASH`.
pub fn hashed_name(kind: ObjectKind, hash: &ObjectHash) -> ObjectName {
    ObjectName::new(format!("{}{hash}", kind.prefix()))
}

/// `snap/DEVICE/SEQUENCE-HASH` or `seal/DEVICE/SEQUENCE-HASH`.
pub fn sequence_name(kind: ObjectKind, device: &DeviceId, sequence: u64, hash: &ObjectHash) -> ObjectName {
    ObjectName::new(format!("{}{device}/{sequence:010}-{hash}", kind.prefix()))
}

/// The last number that a name has room for.
pub const SEQUENCE_MAX: u64 = 9_999_999_999;

/// `drop/RUN-HASH` or `mark/RUN-HASH`.
pub fn run_name(kind: ObjectKind, run: &RunId, hash: &ObjectHash) -> ObjectName {
    ObjectName::new(format!("{}{run}-{hash}", kind.prefix()))
}

/// The run and hash in the name of tombstones or of a mark; `None` for foreign names.
pub fn parse_run_name(kind: ObjectKind, name: &ObjectName) -> Option<(RunId, ObjectHash)> {
    let (run, hash) = name.as_str().strip_prefix(kind.prefix())?.split_once('-')?;
    Some((run.parse().ok()?, hash.parse().ok()?))
}

/// The parts of `PREFIX/NUMBER-HASH`; `None` for foreign names.
pub fn parse_numbered(text: &str) -> Option<(u64, ObjectHash)> {
    let (number, hash) = text.split_once('-')?;
    let digits = number.len() == 10 && number.bytes().all(|b| b.is_ascii_digit());
    Some((digits.then(|| number.parse().ok())??, hash.parse().ok()?))
}

/// The device, sequence and hash in the name of a manifest or seal; `None` for foreign names.
pub fn parse_sequence_name(kind: ObjectKind, name: &ObjectName) -> Option<(DeviceId, u64, ObjectHash)> {
    let (device, rest) = name.as_str().strip_prefix(kind.prefix())?.split_once('/')?;
    let (sequence, hash) = parse_numbered(rest)?;
    Some((device.parse().ok()?, sequence, hash))
}

/// The pack in the name of a pack; `None` for foreign names.
pub fn parse_pack_name(kind: ObjectKind, name: &ObjectName) -> Option<PackId> {
    let (first, pack) = name.as_str().strip_prefix(kind.prefix())?.split_once('/')?;
    pack.starts_with(first).then(|| pack.parse().ok())?.filter(|_| first.len() == 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SystemRandom;

    fn header() -> Header {
        Header::new(ObjectKind::Seal, 1, RepositoryId::from_bytes([5; 16]), &SystemRandom)
    }

    #[test]
    fn headers_round_trip_and_refuse_what_is_newer() {
        let header = header();
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes).unwrap().0, header);
        for (at, expected) in [(0, "no Yesterdrive"), (8, "format"), (9, "format"), (10, "format"), (14, "format")] {
            let mut changed = bytes;
            changed[at] ^= 0x40;
            assert!(Header::decode(&changed).unwrap_err().to_string().contains(expected), "{at}");
        }
        assert_eq!(Header::decode(&bytes[..47]), Err(ObjectError::NotOurs));
        assert_eq!(Header::expect(&bytes, ObjectKind::Seal, RepositoryId::from_bytes([6; 16])), Err(ObjectError::Misplaced));
        assert_eq!(Header::expect(&bytes, ObjectKind::Config, header.repository), Err(ObjectError::Misplaced));
    }

    #[test]
    fn sections_keep_their_place() {
        let (key, head) = (Key::from_bytes([1; 32]), header().encode());
        let sealed = seal_section(&key, &head, 3, false, b"third".to_vec());
        assert_eq!(open_section(&key, &head, 3, false, &sealed).as_deref(), Ok(&b"third"[..]));
        assert!(open_section(&key, &head, 4, false, &sealed).is_err());
        assert!(open_section(&key, &head, 3, true, &sealed).is_err());
        assert!(open_section(&key, &Header { epoch: 2, ..header() }.encode(), 3, false, &sealed).is_err());
    }

    #[test]
    fn signed_objects_open_with_key_and_public_key() {
        let (key, header) = (Key::from_bytes([1; 32]), header());
        let signer = Signer { device: DeviceId::from_bytes([7; 16]), seed: Key::from_bytes([8; 32]) };
        let object = encode_signed(&header, &key, b"payload".to_vec(), &signer);
        assert_eq!(object.len(), HEADER_LENGTH + wire::BODY_STEP + crypto::TAG_LENGTH);
        let (read, signed) = decode_signed(&object, ObjectKind::Seal, header.repository, |_| Some(key.clone())).unwrap();
        assert_eq!((read, &signed.payload[..]), (header, &b"payload"[..]));
        assert_eq!(signed.verify(&header.encode(), &crypto::signing_public(&signer.seed)), Ok(()));
        assert!(signed.verify(&header.encode(), &crypto::signing_public(&key)).is_err());
        let none = decode_signed(&object, ObjectKind::Seal, header.repository, |_| None);
        assert_eq!(none, Err(ObjectError::UnknownEpoch(1)));
    }

    #[test]
    fn names_and_back() {
        let (device, hash, pack) = (DeviceId::from_bytes([1; 16]), ObjectHash::from_bytes([2; 32]), PackId::from_bytes([3; 16]));
        let name = sequence_name(ObjectKind::Manifest, &device, 42, &hash);
        assert_eq!(parse_sequence_name(ObjectKind::Manifest, &name), Some((device, 42, hash)));
        assert_eq!(parse_sequence_name(ObjectKind::Seal, &name), None);
        let name = pack_name(ObjectKind::DataPack, &pack);
        assert_eq!(parse_pack_name(ObjectKind::DataPack, &name), Some(pack));
        assert_eq!(parse_numbered("000000001-ab"), None);
        let run = RunId::from_bytes([4; 16]);
        for kind in [ObjectKind::Tombstones, ObjectKind::Mark] {
            assert_eq!(parse_run_name(kind, &run_name(kind, &run, &hash)), Some((run, hash)));
        }
        assert_eq!(parse_run_name(ObjectKind::Mark, &run_name(ObjectKind::Tombstones, &run, &hash)), None);
        assert_eq!(parse_run_name(ObjectKind::Tombstones, &ObjectName::new(format!("drop/{run}"))), None);
    }
}
