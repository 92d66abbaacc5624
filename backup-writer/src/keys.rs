//! Roles in use: a key of its own for each device, and the end of one.
//!
//! A device that is enrolled gets a key file. It opens a slot that holds the keys of its role and, for those who write, a signing key of its own, certified by
//! the owner. Revoking takes the slot away, and, because whoever had the file may have kept what is in it, says of the device what still counts.

use fs_core::config::{COUNTED_MAX, Certificate, Revocation};
use fs_core::crypto::{self, Key, random_array};
use fs_core::id::{DeviceId, KeyId, ObjectHash};
use fs_core::key::Role;
use fs_core::key::slot::{Credential, PasswordCost, SlotKind, SlotLabel};
use fs_core::object::keyless::Promise;
use fs_core::object::{ObjectError, ObjectKind};
use fs_core::repository::{Repository, RepositoryError};
use fs_core::storage::{StoreError, WriteStore, wait};

use crate::create::{CreateError, put_slot};
use crate::device::{DeviceError, certify};

/// Why a device could not be enrolled or revoked.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// Only owners say who may do what.
    #[error("only the owner's key enrols and revokes")]
    NotAllowed(#[source] ObjectError),
    /// More than a certificate can name.
    #[error("the device has saved too much for one list: {count} objects, and {COUNTED_MAX} can be named")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// The certificate could not be put.
    #[error(transparent)]
    Device(DeviceError),
    /// The slot could not be put.
    #[error(transparent)]
    Slot(#[from] CreateError),
    /// The repository could not be read.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The store failed.
    #[error("the store cannot be listed")]
    Store(#[from] StoreError),
}

impl From<DeviceError> for KeysError {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::NotAllowed(source) => Self::NotAllowed(source),
            error => Self::Device(error),
        }
    }
}

/// A device that is to be enrolled.
#[derive(Clone, Debug)]
pub struct Enrolment {
    /// Its name, which no other key has.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Whether a writer relies on what other devices have stored.
    pub trusts_others: bool,
}

/// Enrols a device, whose key file holds `secret`. The certificate stands before the slot: a device that nobody can be does no harm.
///
/// # Errors
/// [`KeysError`].
pub fn enrol(repository: &Repository, store: &dyn WriteStore, secret: Key, enrolment: &Enrolment) -> Result<KeyId, KeysError> {
    let (ring, random, created) = (repository.ring(), repository.random(), repository.clock().now());
    let Enrolment { name, role, trusts_others } = enrolment;
    let signer = (role.may_write() || role.may_forget()).then(|| (DeviceId::from_bytes(random_array(&**random)), Key::random(&**random)));
    if let Some((device, seed)) = &signer {
        let public = crypto::signing_public(seed);
        let (device, label) = (*device, name.clone());
        let certificate = Certificate { device, public, role: *role, created, label, trusts_others: *trusts_others, revoked: None };
        certify(repository, store, &certificate)?;
    }
    let granted = ring.grant(*role, signer).map_err(KeysError::NotAllowed)?;
    let label = SlotLabel { label: name.clone(), role: *role, kind: SlotKind::KeyFile, created, changed: None };
    Ok(put_slot(store, &granted, &Credential::KeyFile(secret), &PasswordCost::DEFAULT, &label, random)?)
}

/// The devices that were enrolled under a name and are not revoked.
///
/// # Errors
/// If the store cannot be read.
pub fn enrolled(repository: &Repository, name: &str) -> Result<Vec<Certificate>, RepositoryError> {
    let mut devices = repository.devices()?;
    devices.retain(|device| device.label == name && device.role != Role::Owner && device.revoked.is_none());
    Ok(devices)
}

/// Revokes a device. What it has written so far counts on; nothing else does that anybody signs with its key.
///
/// # Errors
/// [`KeysError`].
pub fn revoke(repository: &Repository, store: &dyn WriteStore, certificate: &Certificate) -> Result<(), KeysError> {
    let mut counted = Vec::new();
    for kind in [ObjectKind::Manifest, ObjectKind::Seal] {
        counted.extend(hashes(store, &format!("{}{}/", kind.prefix(), certificate.device))?);
    }
    // Their names do not say who signed them. That all are named does no harm: they count by their signature.
    if certificate.role.may_forget() {
        for kind in [ObjectKind::Tombstones, ObjectKind::Mark] {
            counted.extend(hashes(store, kind.prefix())?);
        }
    }
    if counted.len() > COUNTED_MAX {
        return Err(KeysError::TooMany { count: counted.len() });
    }
    counted.sort_unstable();
    let revoked = Some(Revocation { time: repository.clock().now(), counted });
    Ok(certify(repository, store, &Certificate { revoked, ..certificate.clone() })?)
}

fn hashes(store: &dyn WriteStore, prefix: &str) -> Result<Vec<ObjectHash>, StoreError> {
    let names = wait(prefix, store.list_names(prefix))?;
    Ok(names.iter().filter_map(|(name, _)| Promise::of(name)?.hash()).collect())
}
