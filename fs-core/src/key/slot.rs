//! Key slots: a role bundle wrapped under a password, a recovery code or a key file.
//!
//! Password parameters come from the store, so they are bounded before a byte of memory is spent on them, and a key commitment is compared
//! before anything is opened: AES-GCM alone would let one slot open under two passwords. Layout: docs/FORMAT.md, section 4, "Key slot".

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{KeyRing, Role, words};
use crate::crypto::{self, Key, NONCE_LENGTH, PasswordHashError, RandomSource, TAG_LENGTH};
use crate::id::{KeyId, RepositoryId};
use crate::object::{self, Header, ObjectError, ObjectKind};
use crate::time::Timestamp;
use crate::wire::{self, CborReader, CborWriter, Reader, Writer};

/// Size of every slot, so that neither role nor label shows.
pub const SLOT_SIZE: usize = 4096;
/// Longest label of a slot, in bytes.
pub const LABEL_LENGTH_MAX: usize = 128;

const LABEL_BODY: usize = 240;
const LABEL_START: usize = 140;
const BUNDLE_START: usize = LABEL_START + LABEL_BODY + TAG_LENGTH;
const BUNDLE_BODY: usize = HASH_START - BUNDLE_START - TAG_LENGTH;
/// Where the hash of everything before begins: damage shows without the slot's own password or code.
const HASH_START: usize = SLOT_SIZE - 32;
const KEY_FILE_PREFIX: &str = "yesterdrive-key-1:";

/// Cost of guessing a password once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PasswordCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl PasswordCost {
    /// What new slots get: 256 MiB, three passes.
    pub const DEFAULT: Self = Self { memory_kib: 256 * 1024, passes: 3, lanes: 1 };
    /// The least that a reader accepts: for tests and very small machines.
    pub const LEAST: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 1 };

    const MEMORY_KIB_MAX: u32 = 4 << 20;
    const PASSES_MAX: u32 = 64;
    const LANES_MAX: u32 = 16;

    /// Whether a slot with these parameters is neither a trap nor a weakness.
    pub fn is_acceptable(&self) -> bool {
        let passes_min = if self.memory_kib >= 1 << 20 { 1 } else { 3 };
        (Self::LEAST.memory_kib..=Self::MEMORY_KIB_MAX).contains(&self.memory_kib)
            && (passes_min..=Self::PASSES_MAX).contains(&self.passes)
            && (1..=Self::LANES_MAX).contains(&self.lanes)
    }
}

/// Kinds of slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum SlotKind {
    /// A password, through Argon2id.
    Password,
    /// A recovery code of 24 words.
    Recovery,
    /// A key file of 256 random bits.
    KeyFile,
}

impl SlotKind {
    const ALL: [(u8, Self, &'static str); 3] =
        [(1, Self::Password, "password"), (2, Self::Recovery, "recovery"), (3, Self::KeyFile, "key-file")];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        self.row().2
    }

    fn to_byte(self) -> u8 {
        self.row().0
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|row| row.0 == byte).map(|row| row.1)
    }

    fn row(self) -> (u8, Self, &'static str) {
        Self::ALL.into_iter().find(|row| row.1 == self).expect("the table has a row for every kind")
    }
}

/// What a person or service holds.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A password, as UTF-8.
    Password(Zeroizing<String>),
    /// The 256 bits of a recovery code.
    Recovery(Key),
    /// The 256 bits of a key file.
    KeyFile(Key),
}

/// Text that is no recovery code or key file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CredentialError {
    /// Not 24 words of the list, or the check sum does not fit.
    #[error("this is no recovery code: it has 24 English words, and one of them is wrong or missing")]
    Recovery,
    /// A word that is not in the list.
    #[error("word {number} of the recovery code is none of the 2048 words that there are")]
    RecoveryWord {
        /// Counted from 1, check words left out.
        number: usize,
    },
    /// A line whose check word does not fit.
    #[error("in line {line} of the recovery code one of the words, or the check word, is wrong")]
    RecoveryLine {
        /// Counted from 1.
        line: usize,
    },
    /// Not the one line that a key file has.
    #[error("this is no key file: it begins with '{KEY_FILE_PREFIX}'")]
    KeyFile,
}

impl Credential {
    /// Reads a recovery code: 24 words, any white space between them, any case, with or without the check words of a sheet, or a whole sheet.
    ///
    /// # Errors
    /// [`CredentialError`], which says where the words are wrong as well as it can be known.
    pub fn from_words(text: &str) -> Result<Self, CredentialError> {
        words::parse(text).map(Self::Recovery)
    }

    /// Reads the text of a key file.
    ///
    /// # Errors
    /// [`CredentialError::KeyFile`].
    pub fn from_key_file(text: &str) -> Result<Self, CredentialError> {
        let digits = text.trim_end().strip_prefix(KEY_FILE_PREFIX).ok_or(CredentialError::KeyFile)?;
        let bytes = Zeroizing::new(crate::id::from_hex(digits).ok_or(CredentialError::KeyFile)?);
        Key::from_slice(&bytes).map(Self::KeyFile).ok_or(CredentialError::KeyFile)
    }

    /// Which slots it can open.
    pub fn kind(&self) -> SlotKind {
        match self {
            Self::Password(_) => SlotKind::Password,
            Self::Recovery(_) => SlotKind::Recovery,
            Self::KeyFile(_) => SlotKind::KeyFile,
        }
    }

    fn key(&self, cost: &PasswordCost, salt: &[u8; 32]) -> Result<Key, PasswordHashError> {
        match self {
            Self::Password(password) => crypto::password_hash(password.as_bytes(), salt, cost.memory_kib, cost.passes, cost.lanes),
            Self::Recovery(code) => Ok(crypto::derive("slot recovery", &[code.expose(), salt])),
            Self::KeyFile(key) => Ok(crypto::derive("slot key file", &[key.expose(), salt])),
        }
    }
}

/// The text of a key file.
pub fn key_file_text(key: &Key) -> Zeroizing<String> {
    Zeroizing::new(format!("{KEY_FILE_PREFIX}{}\n", crate::id::to_hex(key.expose())))
}

/// What `key list` shows of a slot; readable with any key of the repository.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotLabel {
    /// Name given by a person.
    pub label: String,
    /// What the slot's holder may do.
    pub role: Role,
    /// What opens it.
    pub kind: SlotKind,
    /// When it was made.
    pub created: Timestamp,
    /// When its password was changed last; `None` if it never was.
    pub changed: Option<Timestamp>,
}

/// Makes a slot. Takes seconds for a password.
///
/// # Errors
/// [`ObjectError::Broken`] if the label is too long or the bundle holds too many epochs for a slot; a [`PasswordHashError`] cannot be
/// told apart from it and means that the machine lacks the memory.
pub fn encode(
    slot: KeyId,
    ring: &KeyRing,
    credential: &Credential,
    cost: &PasswordCost,
    label: &SlotLabel,
    random: &dyn RandomSource,
) -> Result<Vec<u8>, ObjectError> {
    let header = Header { kind: ObjectKind::Slot, epoch: ring.epoch(), repository: ring.repository, salt: *slot.as_bytes() };
    let head = header.encode();
    let salt: [u8; 32] = crypto::random_array(random);
    let nonce: [u8; NONCE_LENGTH] = crypto::random_array(random);
    let (kdf, cost_fields) = match credential {
        Credential::Password(_) => (1, *cost),
        Credential::Recovery(_) | Credential::KeyFile(_) => (0, PasswordCost { memory_kib: 0, passes: 0, lanes: 0 }),
    };
    let key = credential.key(cost, &salt).map_err(|_| ObjectError::Broken("this machine cannot compute the password hash"))?;
    let mut writer = Writer::with_capacity(SLOT_SIZE);
    writer.bytes(&head).u8(credential.kind().to_byte()).u8(kdf).u16(0);
    writer.u32(cost_fields.memory_kib).u32(cost_fields.passes).u32(cost_fields.lanes);
    writer.bytes(&salt).bytes(key.derive("slot commit").expose()).bytes(&nonce);
    writer.bytes(&object::seal_section(&ring.current().structure, &head, 0, true, encode_label(label)?));
    let mut bytes = writer.finish();
    let bundle = exact_body(&ring.encode(), BUNDLE_BODY).ok_or(ObjectError::Broken("the bundle does not fit into a slot"))?;
    let associated = bytes.clone();
    bytes.extend_from_slice(&Zeroizing::new(bundle));
    crypto::seal(&key.derive("slot wrap"), nonce, &associated, &mut bytes, BUNDLE_START);
    bytes.extend_from_slice(&crypto::hash(&bytes));
    Ok(bytes)
}

/// Opens a slot: `None` if the credential is not this slot's. Takes seconds for a password.
///
/// # Errors
/// [`ObjectError`] if the slot is damaged, forged or of a later version.
pub fn open(slot: KeyId, object: &[u8], credential: &Credential) -> Result<Option<KeyRing>, ObjectError> {
    let parts = SlotParts::decode(slot, object)?;
    if parts.kind != credential.kind() {
        return Ok(None);
    }
    let key = credential.key(&parts.cost, &parts.salt).map_err(|_| ObjectError::Broken("this machine lacks the memory to open it"))?;
    if !bool::from(key.derive("slot commit").expose().ct_eq(&parts.commitment)) {
        return Ok(None);
    }
    let (associated, sealed) = (object.get(..BUNDLE_START), object.get(BUNDLE_START..HASH_START));
    let (associated, sealed) = associated.zip(sealed).ok_or(ObjectError::NotOurs)?;
    let mut sealed = Zeroizing::new(sealed.to_vec());
    let body = crypto::open(&key.derive("slot wrap"), parts.nonce, associated, &mut sealed)?;
    let ring = KeyRing::decode(wire::open_padded_body(body)?)?;
    if ring.repository == parts.header.repository { Ok(Some(ring)) } else { Err(ObjectError::Misplaced) }
}

/// Reads the label of any slot with the keys at hand.
///
/// # Errors
/// [`ObjectError`].
pub fn open_label(slot: KeyId, object: &[u8], ring: &KeyRing) -> Result<SlotLabel, ObjectError> {
    let parts = SlotParts::decode(slot, object)?;
    let key = ring.structure(parts.header.epoch).ok_or(ObjectError::UnknownEpoch(parts.header.epoch))?;
    let sealed = object.get(LABEL_START..BUNDLE_START).ok_or(ObjectError::NotOurs)?;
    let body = object::open_section(&key, &parts.header.encode(), 0, true, sealed)?;
    decode_label(wire::open_padded_body(&body)?)
}

/// The repository that a slot belongs to: known without any key.
///
/// # Errors
/// [`ObjectError`] if it is no slot.
pub fn repository_of(slot: KeyId, object: &[u8]) -> Result<RepositoryId, ObjectError> {
    Ok(SlotParts::decode(slot, object)?.header.repository)
}

/// The fields in clear.
struct SlotParts {
    header: Header,
    kind: SlotKind,
    cost: PasswordCost,
    salt: [u8; 32],
    commitment: [u8; 32],
    nonce: [u8; NONCE_LENGTH],
}

impl SlotParts {
    fn decode(slot: KeyId, object: &[u8]) -> Result<Self, ObjectError> {
        let (header, _, fields) = Header::decode(object)?;
        if header.kind != ObjectKind::Slot || header.salt != *slot.as_bytes() {
            return Err(ObjectError::Misplaced);
        }
        if object.len() != SLOT_SIZE {
            return Err(ObjectError::Broken("a key slot has 4096 bytes"));
        }
        if object.split_at_checked(HASH_START).is_none_or(|(before, hash)| crypto::hash(before) != *hash) {
            return Err(ObjectError::Broken("its bytes do not have the hash at its end"));
        }
        let mut reader = Reader::new(fields);
        let (kind, kdf, zero) = (reader.u8()?, reader.u8()?, reader.u16()?);
        let cost = PasswordCost { memory_kib: reader.u32()?, passes: reader.u32()?, lanes: reader.u32()? };
        let kind = SlotKind::from_byte(kind).ok_or(ObjectError::Broken("its kind is of a later version: use a newer program"))?;
        let expected = match kind {
            SlotKind::Password => kdf == 1 && cost.is_acceptable(),
            SlotKind::Recovery | SlotKind::KeyFile => kdf == 0 && (cost.memory_kib, cost.passes, cost.lanes) == (0, 0, 0),
        };
        if !expected || zero != 0 {
            return Err(ObjectError::Broken("its password parameters are outside the allowed range"));
        }
        Ok(Self { header, kind, cost, salt: reader.array()?, commitment: reader.array()?, nonce: reader.array()? })
    }
}

/// `u32 n ‖ bytes ‖ zeros`, exactly `length` bytes; `None` if they do not fit.
fn exact_body(bytes: &[u8], length: usize) -> Option<Vec<u8>> {
    (bytes.len() + 4 <= length).then(|| wire::padded_body(bytes, length))
}

fn encode_label(label: &SlotLabel) -> Result<Vec<u8>, ObjectError> {
    if label.label.len() > LABEL_LENGTH_MAX {
        return Err(ObjectError::Broken("the label is longer than 128 bytes"));
    }
    let mut writer = CborWriter::new();
    writer.map(|map| {
        map.key(0).text(&label.label);
        map.key(1).u64(label.role.to_byte().into());
        map.key(2).u64(label.kind.to_byte().into());
        map.key(3).time(label.created);
        if let Some(changed) = label.changed {
            map.key(4).time(changed);
        }
    });
    exact_body(&writer.finish(), LABEL_BODY).ok_or(ObjectError::Broken("the label does not fit into a slot"))
}

fn decode_label(bytes: &[u8]) -> Result<SlotLabel, ObjectError> {
    let (mut label, mut role, mut kind, mut created, mut changed) = (None, None, None, None, None);
    let mut reader = CborReader::new(bytes);
    reader.map::<ObjectError>(|key, reader| {
        match key {
            0 => label = Some(reader.text(LABEL_LENGTH_MAX)?.to_owned()),
            1 => role = Role::from_byte(reader.u8()?),
            2 => kind = SlotKind::from_byte(reader.u8()?),
            3 => created = Some(reader.time()?),
            4 => changed = Some(reader.time()?),
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    let (Some(label), Some(role), Some(kind), Some(created)) = (label, role, kind, created) else {
        return Err(ObjectError::Broken("its label is incomplete"));
    };
    Ok(SlotLabel { label, role, kind, created, changed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SystemRandom;

    const SLOT: KeyId = KeyId::from_bytes([6; 16]);

    fn sample(credential: &Credential) -> (KeyRing, SlotLabel, Vec<u8>) {
        let ring = KeyRing::generate(RepositoryId::from_bytes([3; 16]), &SystemRandom);
        let created = Timestamp::new(1_795_000_000, 0).unwrap();
        let changed = (credential.kind() == SlotKind::Password).then(|| Timestamp::new(1_796_000_000, 0).unwrap());
        let label = SlotLabel { label: "Büro".into(), role: Role::Owner, kind: credential.kind(), created, changed };
        let bytes = encode(SLOT, &ring, credential, &PasswordCost::LEAST, &label, &SystemRandom).unwrap();
        (ring, label, bytes)
    }

    fn key_file(byte: u8) -> Credential {
        Credential::KeyFile(Key::from_bytes([byte; 32]))
    }

    #[test]
    fn every_kind_of_credential_opens_its_slot() {
        let password = |text: &str| Credential::Password(Zeroizing::new(text.into()));
        for (right, wrong) in [
            (key_file(1), key_file(2)),
            (Credential::Recovery(Key::from_bytes([1; 32])), Credential::Recovery(Key::from_bytes([2; 32]))),
            (password("correct horse"), password("correct hors")),
        ] {
            let (ring, label, bytes) = sample(&right);
            assert_eq!(bytes.len(), SLOT_SIZE);
            assert_eq!(open(SLOT, &bytes, &right), Ok(Some(ring.clone())));
            assert_eq!(open(SLOT, &bytes, &wrong), Ok(None));
            assert_eq!(open_label(SLOT, &bytes, &ring), Ok(label));
            assert_eq!(repository_of(SLOT, &bytes), Ok(ring.repository));
        }
        assert_eq!(open(SLOT, &sample(&key_file(1)).2, &password("x")), Ok(None));
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let (ring, _, bytes) = sample(&key_file(1));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x04;
            assert!(open(SLOT, &damaged, &key_file(1)).is_err(), "byte {at}");
            assert!(open_label(SLOT, &damaged, &ring).is_err(), "byte {at}: seen by who holds another key");
        }
    }

    #[test]
    fn planted_parameters_are_refused_before_any_work() {
        let (_, _, bytes) = sample(&key_file(1));
        for (memory_kib, passes, lanes) in
            [(1024, 3, 1), (65_536, 2, 1), (u32::MAX, 3, 1), (65_536, 1000, 1), (65_536, 3, 0), (65_536, 3, 99)]
        {
            let mut planted = bytes.clone();
            planted[48] = 1;
            planted[49] = 1;
            for (at, value) in [(52, memory_kib), (56, passes), (60, lanes)] {
                planted[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
            }
            let hash = crypto::hash(&planted[..HASH_START]);
            planted[HASH_START..].copy_from_slice(&hash);
            let opened = open(SLOT, &planted, &Credential::Password(Zeroizing::new("x".into())));
            let expected = ObjectError::Broken("its password parameters are outside the allowed range");
            assert_eq!(opened, Err(expected), "{memory_kib} {passes} {lanes}");
        }
    }

    #[test]
    fn key_files_as_text() {
        let key = Key::from_bytes([7; 32]);
        assert!(matches!(Credential::from_key_file(&key_file_text(&key)), Ok(Credential::KeyFile(read)) if read == key));
        assert_eq!(Credential::from_key_file("yesterdrive-key-1:00").unwrap_err(), CredentialError::KeyFile);
    }
}
