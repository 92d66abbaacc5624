//! The newest snapshot of each device: what a manifest names of the others, and what numbers go on from.
//!
//! Whoever opens manifests takes them from there. Whoever opens none takes the newest seal of each device, which everybody can check who has any key.

use std::collections::BTreeMap;

use super::catalogue::{fetch, list, open_seal, refused};
use super::listing::{Listing, Named};
use super::open::small;
use super::{Repository, RepositoryError, lock};
use crate::id::{DeviceId, SnapshotId};
use crate::report::Finding;
use crate::snapshot::{Head, Snapshot};

/// Seals of a device that are looked at, one after the other, until one is good: anybody can put a name.
const SEALS_MAX: usize = 64;

/// The newest manifest of each device, by its number.
pub type Heads = BTreeMap<DeviceId, Head>;

/// The newest of these snapshots.
pub(super) fn newest<'a>(snapshots: impl Iterator<Item = &'a Snapshot>) -> Heads {
    let mut heads = Heads::new();
    for snapshot in snapshots {
        take(&mut heads, Head { device: snapshot.device(), sequence: snapshot.sequence(), manifest: snapshot.id });
    }
    heads
}

fn take(heads: &mut Heads, head: Head) {
    let newest = heads.entry(head.device).or_insert_with(|| head.clone());
    if (newest.sequence, newest.manifest) < (head.sequence, head.manifest) {
        *newest = head;
    }
}

/// The newest manifests that are sealed, by their seals, with what is listed and what is wrong with seals that do not count.
pub(super) fn sealed(repository: &Repository) -> Result<(Heads, Listing, Vec<Finding>), RepositoryError> {
    let opening = lock(&repository.catalogue).opening.take();
    let (listing, mut ahead) = list(repository, opening)?;
    let mut heads = Heads::new();
    let mut findings = Vec::new();
    let mut open: BTreeMap<DeviceId, Vec<&Named>> = BTreeMap::new();
    // They come by device and number.
    listing.seals.iter().for_each(|seal| open.entry(seal.device).or_default().push(seal));
    for _ in 0..SEALS_MAX {
        let next: Vec<&Named> = open.values_mut().filter_map(Vec::pop).collect();
        if next.is_empty() {
            break;
        }
        let names: Vec<_> = next.iter().map(|named| named.name()).collect();
        let certificates = repository.certificates_of(next.iter().map(|named| named.device))?;
        let objects = fetch(repository, &mut ahead, names.iter().map(|name| (name, 0)));
        for ((named, name), object) in next.into_iter().zip(&names).zip(objects) {
            let object = match small(name, object) {
                Err(error) if error.is_of_object() => continue,
                object => object?,
            };
            let opened = open_seal(repository, &certificates, named, &object);
            let is_listed = |manifest: &SnapshotId| listing.manifest_at(named.device, named.sequence, (*manifest).into()).is_some();
            match opened {
                Ok(manifest) if is_listed(&manifest) => {
                    take(&mut heads, Head { device: named.device, sequence: named.sequence, manifest });
                    open.remove(&named.device);
                }
                Ok(_) => {}
                Err(error) => findings.push(refused(name, &error)),
            }
        }
    }
    Ok((heads, listing, findings))
}
