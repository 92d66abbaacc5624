//! Which packs something new may rely on.

use fs_core::id::PackId;
use fs_core::object::ObjectKind;
use fs_core::repository::{Repository, RepositoryError};

use super::list_packs;

/// Packs that something new may rely on: those that the store lists and that no mark condemns. Id, kind, size.
///
/// # Errors
/// If the store cannot be listed or read.
pub fn usable_packs(repository: &Repository) -> Result<Vec<(PackId, ObjectKind, u64)>, RepositoryError> {
    // In this order: a mark goes after the packs that it names, so what is condemned by none any more is not listed either.
    let condemned = repository.marks()?.packs();
    let mut packs = list_packs(repository)?;
    packs.retain(|(id, _, _)| !condemned.contains(id));
    Ok(packs)
}
