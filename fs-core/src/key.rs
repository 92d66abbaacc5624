//! Keys: what a password, recovery code or key file unlocks, and the slots that hold it.
//!
//! A slot wraps a *role bundle*. Opened, the bundle becomes a [`KeyRing`]: for each key epoch the keys that the role may use. Layout:
//! docs/FORMAT.md, section 4. The slot itself is in `key/slot.rs`.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use crate::crypto::{self, HpkeContext, Key, Pair, RandomSource};
use crate::id::{DeviceId, RepositoryId};
use crate::object::{ObjectError, Signer};
use crate::record::{RecordKey, RecordKind, SessionKeyRef};
use crate::wire::{CborReader, CborWriter};

pub mod slot;
pub mod words;

/// Key epochs that a bundle may hold.
const EPOCHS_MAX: usize = 64;
const BUNDLE_VERSION: u64 = 1;

/// What the holder of a key may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Role {
    /// Everything.
    Owner,
    /// Lists, mounts, restores, verifies.
    Reader,
    /// Backs up; opens no content, tree or manifest, its own included.
    Writer,
    /// Forgets, prunes, copies; sees names and sizes, no content.
    Maintainer,
}

impl Role {
    const ALL: [(u8, Self, &'static str); 4] =
        [(1, Self::Owner, "owner"), (2, Self::Reader, "reader"), (3, Self::Writer, "writer"), (4, Self::Maintainer, "maintainer")];

    /// The number in the format.
    pub fn to_byte(self) -> u8 {
        self.row().0
    }

    /// The role of a number in the format.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|row| row.0 == byte).map(|row| row.1)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        self.row().2
    }

    /// Whether such a key opens manifests and trees: who has it sees names, sizes and times.
    pub fn may_list(self) -> bool {
        !matches!(self, Self::Writer)
    }

    /// Whether such a key opens contents.
    pub fn may_read(self) -> bool {
        matches!(self, Self::Owner | Self::Reader)
    }

    /// Whether such a device may write manifests, seals, sessions and shards.
    pub fn may_write(self) -> bool {
        matches!(self, Self::Owner | Self::Writer)
    }

    /// Whether such a device may write index shards: what those say is a hint to whoever looks for a record.
    pub fn may_index(self) -> bool {
        self.may_write() || self.may_forget()
    }

    /// Whether such a device may say that a snapshot is forgotten, or is not any more. Who can only write backups cannot let go of any.
    pub fn may_forget(self) -> bool {
        matches!(self, Self::Owner | Self::Maintainer)
    }

    fn row(self) -> (u8, Self, &'static str) {
        Self::ALL.into_iter().find(|row| row.1 == self).expect("the table has a row for every role")
    }
}

/// The keys of one HPKE pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairKeys {
    /// Opens; not with writers.
    pub secret: Option<Key>,
    /// Seals; not with maintainers where they may not write.
    pub public: Option<[u8; 32]>,
    /// Pre-shared key.
    pub psk: Key,
}

/// The keys of one epoch, as far as the role holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochKeys {
    /// Ids of data records.
    pub id_data: Option<Key>,
    /// Ids of tree, list and table records; page splitting.
    pub id_tree: Key,
    /// Whole-file hashes.
    pub file: Option<Key>,
    /// Chunker table.
    pub chunker: Option<Key>,
    /// Structure of objects.
    pub structure: Key,
    /// Index shards.
    pub index: Key,
    /// Catalogue.
    pub catalogue: Option<Key>,
    /// Pair for file content.
    pub data: Option<PairKeys>,
    /// Pair for trees and manifests.
    pub tree: PairKeys,
}

impl EpochKeys {
    /// All keys of an epoch from its master secret.
    pub fn from_master(master: &Key) -> Self {
        let pair = |hpke: &str, psk: &str| {
            let (secret, public) = crypto::hpke_key_pair(&master.derive(hpke));
            PairKeys { secret: Some(secret), public: Some(public), psk: master.derive(psk) }
        };
        Self {
            id_data: Some(master.derive("id data")),
            id_tree: master.derive("id tree"),
            file: Some(master.derive("file hash")),
            chunker: Some(master.derive("chunker")),
            structure: master.derive("structure"),
            index: master.derive("index"),
            catalogue: Some(master.derive("catalogue")),
            data: Some(pair("hpke data", "psk data")),
            tree: pair("hpke tree", "psk tree"),
        }
    }

    /// The id key of a kind of records; `None` if the role does not hold it.
    pub fn id_key(&self, kind: RecordKind) -> Option<&Key> {
        match kind.pair() {
            Pair::Data => self.id_data.as_ref(),
            Pair::Tree => Some(&self.id_tree),
        }
    }

    /// The keys of a pair; `None` if the role does not hold them.
    pub fn pair(&self, pair: Pair) -> Option<&PairKeys> {
        match pair {
            Pair::Data => self.data.as_ref(),
            Pair::Tree => Some(&self.tree),
        }
    }

    /// What remains for a role with fewer rights.
    fn restricted_to(&self, role: Role) -> Self {
        let mut keys = self.clone();
        let without_secret = |pair: &PairKeys| PairKeys { secret: None, ..pair.clone() };
        match role {
            Role::Owner => {}
            Role::Reader => keys.chunker = None,
            Role::Writer => {
                keys.catalogue = None;
                keys.data = keys.data.as_ref().map(without_secret);
                keys.tree = without_secret(&keys.tree);
            }
            Role::Maintainer => {
                keys.id_data = None;
                keys.file = None;
                keys.chunker = None;
                keys.data = None;
                keys.tree.public = None;
            }
        }
        keys
    }
}

/// Everything that an opened slot gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRing {
    /// What the holder may do.
    pub role: Role,
    /// The repository that the keys belong to.
    pub repository: RepositoryId,
    /// Public half of the root key: checks configuration and certificates.
    pub root_public: [u8; 32],
    /// Keys by epoch; never empty.
    pub epochs: BTreeMap<u16, EpochKeys>,
    /// Master secrets by epoch; owner only.
    masters: BTreeMap<u16, Key>,
    /// Seed of the root key; owner only.
    root_seed: Option<Key>,
    /// The device's own signing key; writer and maintainer.
    device: Option<(DeviceId, Key)>,
}

impl KeyRing {
    /// The owner's keys of a new repository.
    pub fn generate(repository: RepositoryId, random: &dyn RandomSource) -> Self {
        Self::owner(repository, BTreeMap::from([(1, Key::random(random))]), Key::random(random))
    }

    /// The epoch that new objects are written under.
    pub fn epoch(&self) -> u16 {
        self.epochs.last_key_value().map_or(1, |(&epoch, _)| epoch)
    }

    /// The keys that new objects are written under.
    ///
    /// # Panics
    /// Never: a ring without epochs is not made.
    pub fn current(&self) -> &EpochKeys {
        self.epochs.last_key_value().expect("a ring has at least one epoch").1
    }

    /// The structure key of an epoch, for opening objects.
    pub fn structure(&self, epoch: u16) -> Option<Key> {
        self.epochs.get(&epoch).map(|keys| keys.structure.clone())
    }

    /// The index key of an epoch.
    pub fn index(&self, epoch: u16) -> Option<Key> {
        self.epochs.get(&epoch).map(|keys| keys.index.clone())
    }

    /// The catalogue key of an epoch; `None` also for roles without it.
    pub fn catalogue(&self, epoch: u16) -> Option<Key> {
        self.epochs.get(&epoch).and_then(|keys| keys.catalogue.clone())
    }

    /// Who signs configuration and certificates; `None` unless owner.
    pub fn root_signer(&self) -> Option<Signer> {
        self.root_seed.clone().map(|seed| Signer { device: DeviceId::ROOT, seed })
    }

    /// The device's signer that stands in the bundle itself.
    pub fn device_signer(&self) -> Option<Signer> {
        self.device.clone().map(|(device, seed)| Signer { device, seed })
    }

    /// What opens the records of a session.
    ///
    /// # Errors
    /// [`ObjectError::UnknownEpoch`], [`ObjectError::NotAllowed`] if the role lacks the key, [`ObjectError::Damaged`] for an invalid HPKE value.
    pub fn record_key(&self, session: &SessionKeyRef, pair: Pair) -> Result<RecordKey, ObjectError> {
        let key = self.receive(session.epoch, pair, &session.enc, "record")?;
        Ok(RecordKey { repository: self.repository, epoch: session.epoch, key })
    }

    /// What opens a manifest with this HPKE value.
    ///
    /// # Errors
    /// As [`Self::record_key`].
    pub fn manifest_key(&self, epoch: u16, enc: &[u8; 32]) -> Result<Key, ObjectError> {
        self.receive(epoch, Pair::Tree, enc, "object")
    }

    /// A new agreement in the current epoch: the HPKE value to publish and the key under `label`.
    ///
    /// # Errors
    /// [`ObjectError::NotAllowed`] if the role lacks the public key.
    pub fn send(&self, pair: Pair, label: &str, random: &dyn RandomSource) -> Result<([u8; 32], Key), ObjectError> {
        let keys = self.current().pair(pair).ok_or(ObjectError::NotAllowed)?;
        let public = keys.public.as_ref().ok_or(ObjectError::NotAllowed)?;
        Ok(crypto::hpke_send(&self.context(self.epoch(), pair, &keys.psk), public, label, random)?)
    }

    /// The bundle of a role with fewer rights, or of an owner. `device` is the signing key that writers and maintainers get.
    ///
    /// # Errors
    /// [`ObjectError::NotAllowed`] unless this ring is an owner's.
    pub fn grant(&self, role: Role, device: Option<(DeviceId, Key)>) -> Result<Self, ObjectError> {
        if self.role != Role::Owner {
            return Err(ObjectError::NotAllowed);
        }
        if role == Role::Owner {
            return Ok(self.clone());
        }
        let epochs = self.epochs.iter().map(|(&epoch, keys)| (epoch, keys.restricted_to(role))).collect();
        Ok(Self {
            role,
            epochs,
            masters: BTreeMap::new(),
            root_seed: None,
            device,
            repository: self.repository,
            root_public: self.root_public,
        })
    }

    /// The role bundle.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut writer = CborWriter::new();
        writer.map(|map| {
            map.key(0).u64(BUNDLE_VERSION);
            map.key(1).u64(self.role.to_byte().into());
            map.key(2).bytes(self.repository.as_bytes());
            map.key(3).bytes(&self.root_public);
            map.key(4).array_of(&self.epochs, |writer, (&epoch, keys)| match self.masters.get(&epoch) {
                Some(master) => {
                    writer.map(|map| {
                        map.key(0).u64(epoch.into());
                        map.key(1).bytes(master.expose());
                    });
                }
                None => encode_epoch(writer, epoch, keys),
            });
            map.optional(5, self.root_seed.as_ref(), |writer, seed| {
                writer.bytes(seed.expose());
            });
            map.optional(6, self.device.as_ref(), |writer, (device, _)| {
                writer.bytes(device.as_bytes());
            });
            map.optional(7, self.device.as_ref(), |writer, (_, seed)| {
                writer.bytes(seed.expose());
            });
        });
        Zeroizing::new(writer.finish())
    }

    /// Reads a role bundle.
    ///
    /// # Errors
    /// [`ObjectError`] if it is malformed or does not hold what its role needs.
    pub fn decode(bundle: &[u8]) -> Result<Self, ObjectError> {
        let mut raw = RawBundle::default();
        let mut reader = CborReader::new(bundle);
        reader.map::<ObjectError>(|key, reader| raw.field(key, reader))?;
        reader.finish()?;
        raw.finish()
    }

    fn owner(repository: RepositoryId, masters: BTreeMap<u16, Key>, root_seed: Key) -> Self {
        let epochs = masters.iter().map(|(&epoch, master)| (epoch, EpochKeys::from_master(master))).collect();
        let root_public = crypto::signing_public(&root_seed);
        Self { role: Role::Owner, repository, root_public, epochs, masters, root_seed: Some(root_seed), device: None }
    }

    fn receive(&self, epoch: u16, pair: Pair, enc: &[u8; 32], label: &str) -> Result<Key, ObjectError> {
        let keys = self.epochs.get(&epoch).ok_or(ObjectError::UnknownEpoch(epoch))?;
        let pair_keys = keys.pair(pair).ok_or(ObjectError::NotAllowed)?;
        let secret = pair_keys.secret.as_ref().ok_or(ObjectError::NotAllowed)?;
        Ok(crypto::hpke_receive(&self.context(epoch, pair, &pair_keys.psk), secret, enc, label)?)
    }

    fn context<'a>(&'a self, epoch: u16, pair: Pair, psk: &'a Key) -> HpkeContext<'a> {
        HpkeContext { repository: self.repository.as_bytes(), epoch, pair, psk }
    }
}

fn encode_epoch(writer: &mut CborWriter, epoch: u16, keys: &EpochKeys) {
    let secret = |pair: Option<&PairKeys>| pair.and_then(|pair| pair.secret.clone());
    let public = |pair: Option<&PairKeys>| pair.and_then(|pair| pair.public).map(Key::from_bytes);
    let data = keys.data.as_ref();
    let tree = Some(&keys.tree);
    let fields = [
        keys.id_data.clone(),
        Some(keys.id_tree.clone()),
        keys.file.clone(),
        keys.chunker.clone(),
        Some(keys.structure.clone()),
        Some(keys.index.clone()),
        keys.catalogue.clone(),
        secret(data),
        secret(tree),
        public(data),
        public(tree),
        data.map(|pair| pair.psk.clone()),
        Some(keys.tree.psk.clone()),
    ];
    writer.map(|map| {
        map.key(0).u64(epoch.into());
        for (key, field) in (2..).zip(&fields) {
            map.optional(key, field.as_ref(), |writer, value| {
                writer.bytes(value.expose());
            });
        }
    });
}

/// A bundle as read, before its parts are known to be there.
#[derive(Default)]
struct RawBundle {
    version: u64,
    role: u8,
    repository: Option<RepositoryId>,
    root_public: Option<[u8; 32]>,
    epochs: Vec<(u16, BTreeMap<u64, Key>)>,
    root_seed: Option<Key>,
    device: Option<DeviceId>,
    device_seed: Option<Key>,
}

impl RawBundle {
    fn field(&mut self, key: u64, reader: &mut CborReader<'_>) -> Result<(), ObjectError> {
        match key {
            0 => self.version = reader.u64()?,
            1 => self.role = reader.u8()?,
            2 => self.repository = Some(RepositoryId::from_bytes(reader.byte_array()?)),
            3 => self.root_public = Some(reader.byte_array()?),
            4 => self.epochs = reader.array(EPOCHS_MAX, decode_epoch)?,
            5 => self.root_seed = Some(Key::from_bytes(reader.byte_array()?)),
            6 => self.device = Some(DeviceId::from_bytes(reader.byte_array()?)),
            7 => self.device_seed = Some(Key::from_bytes(reader.byte_array()?)),
            _ => reader.skip()?,
        }
        Ok(())
    }

    fn finish(self) -> Result<KeyRing, ObjectError> {
        const INCOMPLETE: ObjectError = ObjectError::Broken("its role bundle is incomplete");
        if self.version != BUNDLE_VERSION {
            return Err(ObjectError::Broken("its role bundle is of a later version: use a newer program"));
        }
        let role = Role::from_byte(self.role).ok_or(ObjectError::Broken("its role is of a later version: use a newer program"))?;
        let (Some(repository), Some(root_public)) = (self.repository, self.root_public) else { return Err(INCOMPLETE) };
        if self.epochs.is_empty() {
            return Err(INCOMPLETE);
        }
        if role == Role::Owner {
            let masters = self.epochs.into_iter().map(|(epoch, mut keys)| Some((epoch, keys.remove(&1)?)));
            let masters = masters.collect::<Option<_>>().ok_or(INCOMPLETE)?;
            return Ok(KeyRing::owner(repository, masters, self.root_seed.ok_or(INCOMPLETE)?));
        }
        let epochs = self.epochs.into_iter().map(|(epoch, keys)| Some((epoch, epoch_from(keys)?)));
        let epochs = epochs.collect::<Option<_>>().ok_or(INCOMPLETE)?;
        let device = self.device.zip(self.device_seed);
        Ok(KeyRing { role, repository, root_public, epochs, masters: BTreeMap::new(), root_seed: None, device })
    }
}

fn decode_epoch(reader: &mut CborReader<'_>) -> Result<(u16, BTreeMap<u64, Key>), ObjectError> {
    let (mut number, mut keys) = (None, BTreeMap::new());
    reader.map::<ObjectError>(|key, reader| {
        match key {
            0 => number = Some(reader.u16()?),
            1..=14 => drop(keys.insert(key, Key::from_bytes(reader.byte_array()?))),
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok((number.ok_or(ObjectError::Broken("an epoch has no number"))?, keys))
}

fn epoch_from(mut keys: BTreeMap<u64, Key>) -> Option<EpochKeys> {
    let mut take = |key| keys.remove(&key);
    let (id_data, id_tree, file, chunker) = (take(2), take(3)?, take(4), take(5));
    let (structure, index, catalogue) = (take(6)?, take(7)?, take(8));
    let (data_secret, tree_secret) = (take(9), take(10));
    let mut public = |key| take(key).map(|key| *key.expose());
    let (data_public, tree_public) = (public(11), public(12));
    let data = take(13).map(|psk| PairKeys { secret: data_secret, public: data_public, psk });
    let tree = PairKeys { secret: tree_secret, public: tree_public, psk: take(14)? };
    Some(EpochKeys { id_data, id_tree, file, chunker, structure, index, catalogue, data, tree })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SystemRandom;

    fn owner() -> KeyRing {
        KeyRing::generate(RepositoryId::from_bytes([3; 16]), &SystemRandom)
    }

    #[test]
    fn bundles_of_every_role_round_trip() {
        let owner = owner();
        for (_, role, _) in Role::ALL {
            let device = (!matches!(role, Role::Owner | Role::Reader)).then(|| (DeviceId::from_bytes([4; 16]), Key::from_bytes([5; 32])));
            let ring = owner.grant(role, device).unwrap();
            assert_eq!(KeyRing::decode(&ring.encode()), Ok(ring));
        }
    }

    #[test]
    fn roles_hold_what_they_need_and_no_more() {
        let owner = owner();
        let (enc, sealed_with) = owner.send(Pair::Data, "record", &SystemRandom).unwrap();
        let session = SessionKeyRef { epoch: 1, enc };
        assert_eq!(owner.record_key(&session, Pair::Data).unwrap().key, sealed_with);
        let reader = owner.grant(Role::Reader, None).unwrap();
        assert_eq!(reader.record_key(&session, Pair::Data).unwrap().key, sealed_with);
        assert!(reader.root_signer().is_none());

        let writer = owner.grant(Role::Writer, None).unwrap();
        assert_eq!(writer.record_key(&session, Pair::Data).unwrap_err(), ObjectError::NotAllowed);
        assert_eq!(writer.record_key(&session, Pair::Tree).unwrap_err(), ObjectError::NotAllowed);
        assert!(writer.send(Pair::Data, "record", &SystemRandom).is_ok());
        assert!(writer.catalogue(1).is_none());

        let maintainer = owner.grant(Role::Maintainer, None).unwrap();
        assert_eq!(maintainer.record_key(&session, Pair::Data).unwrap_err(), ObjectError::NotAllowed);
        assert!(maintainer.current().id_key(RecordKind::Data).is_none());
        assert!(maintainer.grant(Role::Owner, None).is_err(), "only an owner hands out keys");
        assert!(owner.record_key(&SessionKeyRef { epoch: 2, enc }, Pair::Data).is_err());
    }

    #[test]
    fn damaged_bundles_are_refused_without_panic() {
        let bundle = owner().grant(Role::Reader, None).unwrap().encode();
        for at in 0..bundle.len() {
            assert!(KeyRing::decode(&bundle[..at]).is_err());
            let mut damaged = bundle.to_vec();
            damaged[at] ^= 0x81;
            let _ = KeyRing::decode(&damaged);
        }
    }
}
