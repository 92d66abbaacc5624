//! Who this machine is to a repository: a random id and a signing key, kept sealed in the local state folder.
//!
//! Losing the file costs nothing but a new id: the next backup enrols the machine again and finds its parent by host and set.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use fs_core::config::Certificate;
use fs_core::crypto::{self, Key, random_array};
use fs_core::id::DeviceId;
use fs_core::object::{self, Header, ObjectError, ObjectKind, Signer};
use fs_core::repository::{Repository, RepositoryError};
use fs_core::state::private_folder;
use fs_core::storage::{StoreError, WriteStore};
use fs_core::time::Timestamp;

use crate::create::put_hashed;

/// Why this machine could not be enrolled.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Only owners enrol devices.
    #[error("this key may not write to the repository")]
    NotAllowed(#[source] ObjectError),
    /// What it writes would not count.
    #[error("this device was revoked on {time}")]
    Revoked {
        /// When.
        time: Timestamp,
    },
    /// Its certificate is not in the repository.
    #[error("this device is not enrolled: its certificate is missing from the repository")]
    Unknown,
    /// The local state folder cannot be written.
    #[error("the state folder {} cannot be written", .path.display())]
    State {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The repository could not be read.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The certificate could not be put.
    #[error("the device could not be enrolled")]
    Store(#[from] StoreError),
}

/// The signer of this machine, enrolled if it is new. `state` is the repository's local folder; without one the id lasts for this run only.
///
/// # Errors
/// [`DeviceError`].
pub fn open(repository: &Repository, store: &dyn WriteStore, state: Option<&Path>, label: &str) -> Result<Signer, DeviceError> {
    if let Some(signer) = repository.ring().device_signer() {
        return match repository.certificate(&signer.device)? {
            Some(Certificate { revoked: Some(revoked), .. }) => Err(DeviceError::Revoked { time: revoked.time }),
            Some(_) => Ok(signer),
            None => Err(DeviceError::Unknown),
        };
    }
    let signer = match state.and_then(|folder| load(repository, &folder.join("device"))) {
        Some(signer) => signer,
        None => {
            let random = &**repository.random();
            let signer = Signer { device: DeviceId::from_bytes(random_array(random)), seed: Key::random(random) };
            if let Some(folder) = state {
                save(repository, folder, &signer).map_err(|source| DeviceError::State { path: folder.into(), source })?;
            }
            signer
        }
    };
    if repository.certificate(&signer.device)?.is_none() {
        enrol(repository, store, &signer, label)?;
    }
    Ok(signer)
}

/// The device that this machine is to a repository, if it has been one before. Nothing is written.
pub fn known(repository: &Repository, state: Option<&Path>) -> Option<DeviceId> {
    let of_state = || load(repository, &state?.join("device"));
    Some(repository.ring().device_signer().or_else(of_state)?.device)
}

fn enrol(repository: &Repository, store: &dyn WriteStore, signer: &Signer, label: &str) -> Result<(), DeviceError> {
    let certificate = Certificate {
        device: signer.device,
        public: crypto::signing_public(&signer.seed),
        role: repository.ring().role,
        created: repository.clock().now(),
        label: label.into(),
        trusts_others: false,
        revoked: None,
    };
    certify(repository, store, &certificate)
}

/// Signs and puts a certificate.
///
/// # Errors
/// [`DeviceError::NotAllowed`] unless the key is an owner's.
pub(crate) fn certify(repository: &Repository, store: &dyn WriteStore, certificate: &Certificate) -> Result<(), DeviceError> {
    let ring = repository.ring();
    let root = ring.root_signer().ok_or(DeviceError::NotAllowed(ObjectError::NotAllowed))?;
    let header = Header::new(ObjectKind::Device, ring.epoch(), ring.repository, &**repository.random());
    let object = certificate.encode_object(&header, &ring.current().structure, &root);
    put_hashed(store, object, |hash| object::device_name(&certificate.device, hash))?;
    Ok(())
}

/// `None` for a file that is missing, damaged or another repository's: the machine is then enrolled anew.
fn load(repository: &Repository, path: &Path) -> Option<Signer> {
    let bytes = std::fs::read(path).ok()?;
    let (header, head, sealed) = Header::expect(&bytes, ObjectKind::Device, repository.id()).ok()?;
    let body = object::open_section(&repository.ring().structure(header.epoch)?, head, 0, true, sealed).ok()?;
    let (device, seed) = body.split_at_checked(DeviceId::LENGTH)?;
    Some(Signer { device: DeviceId::from_slice(device)?, seed: Key::from_slice(seed)? })
}

fn save(repository: &Repository, folder: &Path, signer: &Signer) -> std::io::Result<()> {
    private_folder(folder)?;
    let ring = repository.ring();
    let head = Header::new(ObjectKind::Device, ring.epoch(), ring.repository, &**repository.random()).encode();
    let body = [&signer.device.as_bytes()[..], signer.seed.expose()].concat();
    let sealed = object::seal_section(&ring.current().structure, &head, 0, true, body);
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&head)?;
    file.write_all(&sealed)?;
    file.as_file().sync_all()?;
    file.persist(folder.join("device"))?;
    Ok(())
}
