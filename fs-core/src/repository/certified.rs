//! Who may have signed what: the certificates of all devices that were read. A device has a second one if it was revoked, and that holds.

use std::collections::{HashMap, HashSet};

use super::{Repository, RepositoryError, lock};
use crate::config::Certificate;
use crate::id::{DeviceId, ObjectHash};
use crate::key::Role;
use crate::object::keyless::Promise;
use crate::object::{Header, ObjectError, Signed};
use crate::storage::ObjectName;

/// Certificates by device.
#[derive(Clone, Default, Debug)]
pub(super) struct Certificates {
    by_device: HashMap<DeviceId, Certificate>,
    /// The objects that they were read from.
    read: HashSet<ObjectHash>,
}

impl Certificates {
    /// Whether this object was read.
    pub(super) fn has_read(&self, hash: &ObjectHash) -> bool {
        self.read.contains(hash)
    }

    /// Takes a certificate that was checked. Nobody takes back that a device is revoked; of two that say so the one that was first holds.
    pub(super) fn insert(&mut self, hash: ObjectHash, certificate: Certificate) {
        self.read.insert(hash);
        let revoked = |certificate: &Certificate| certificate.revoked.as_ref().map(|revoked| revoked.time);
        match self.by_device.get(&certificate.device) {
            Some(known) if revoked(known).is_some_and(|time| revoked(&certificate).is_none_or(|other| time <= other)) => {}
            Some(_) if certificate.revoked.is_none() => {}
            _ => drop(self.by_device.insert(certificate.device, certificate)),
        }
    }

    /// That of a device.
    pub(super) fn get(&self, device: &DeviceId) -> Option<&Certificate> {
        self.by_device.get(device)
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Certificate> {
        self.by_device.values()
    }

    /// Checks a signature by somebody whose certificate says that he may; `otherwise` is what is wrong if he has none. `hash` is that of the object, if
    /// its name says it.
    pub(super) fn check(
        &self,
        (may, otherwise): (fn(Role) -> bool, &'static str),
        hash: Option<&ObjectHash>,
        header: &Header,
        signed: &Signed,
    ) -> Result<(), ObjectError> {
        let certificate = self.get(&signed.signer).ok_or(ObjectError::Broken(otherwise))?;
        signed.verify(&header.encode(), &certificate.public)?;
        if !may(certificate.role) {
            return Err(ObjectError::NoRight(certificate.role.as_str()));
        }
        certificate.counts(hash)
    }
}

/// Who may write, and what is wrong with what others sign.
pub(super) const WRITERS: (fn(Role) -> bool, &str) = (Role::may_write, "nobody who may write signed it");

/// The same of parts of the index.
pub(super) const INDEXERS: (fn(Role) -> bool, &str) = (Role::may_index, WRITERS.1);

impl Repository {
    /// The certificate of a device; reads new ones if it is not known.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn certificate(&self, device: &DeviceId) -> Result<Option<Certificate>, RepositoryError> {
        Ok(self.certificates_of([*device])?.get(device).cloned())
    }

    /// The certificates of all devices that are enrolled, with those that were revoked.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn devices(&self) -> Result<Vec<Certificate>, RepositoryError> {
        self.load_certificates()?;
        Ok(lock(&self.certificates).iter().cloned().collect())
    }

    /// All certificates, among them those of `signers` if they have any.
    pub(super) fn certificates_of(&self, signers: impl IntoIterator<Item = DeviceId>) -> Result<Certificates, RepositoryError> {
        let is_known = {
            let known = lock(&self.certificates);
            signers.into_iter().all(|signer| known.get(&signer).is_some())
        };
        if !is_known {
            self.load_certificates()?;
        }
        Ok(lock(&self.certificates).clone())
    }

    /// Checks that a signed object was signed by a device that may write it.
    ///
    /// # Errors
    /// [`ObjectError`] inside [`RepositoryError::Object`]; [`RepositoryError::Store`].
    pub fn check_signature(&self, name: &ObjectName, header: &Header, signed: &Signed) -> Result<(), RepositoryError> {
        self.check_signature_of(name, header, signed, WRITERS)
    }

    /// The same for what a device of another role may write too.
    pub(super) fn check_signature_of(
        &self,
        name: &ObjectName,
        header: &Header,
        signed: &Signed,
        who: (fn(Role) -> bool, &'static str),
    ) -> Result<(), RepositoryError> {
        let hash = Promise::of(name).and_then(|promise| promise.hash());
        let checked = self.certificates_of([signed.signer])?.check(who, hash.as_ref(), header, signed);
        checked.map_err(|source| RepositoryError::Object { name: name.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Revocation;
    use crate::time::Timestamp;

    #[test]
    fn whoever_is_revoked_stays_so_in_whatever_order_it_is_read() {
        let time = |second| Timestamp::new(second, 0).unwrap();
        let device = DeviceId::from_bytes([1; 16]);
        let certificate = |revoked: Option<i64>| Certificate {
            device,
            public: [2; 32],
            role: Role::Writer,
            created: time(1),
            label: "pc".into(),
            trusts_others: false,
            revoked: revoked.map(|at| Revocation { time: time(at), counted: Vec::new() }),
        };
        let all = [(1, None), (2, Some(20)), (3, Some(10))];
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0], [2, 0, 1], [0, 2, 1]] {
            let mut certificates = Certificates::default();
            for at in order {
                let (n, revoked) = all[at];
                certificates.insert(ObjectHash::from_bytes([n; 32]), certificate(revoked));
            }
            assert_eq!(certificates.get(&device), Some(&certificate(Some(10))), "{order:?}");
            assert!(certificates.has_read(&ObjectHash::from_bytes([2; 32])));
        }
    }
}
