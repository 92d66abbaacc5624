//! Catalogues that others have replaced long enough ago, for whoever may delete them.

use std::collections::HashSet;

use super::catalogue::{damaged, fetch, open_catalogue};
use super::listing::{Listing, NamedCatalogue};
use super::open::Ahead;
use super::{Repository, RepositoryError};
use crate::id::{ObjectHash, SnapshotId};
use crate::report::Finding;
use crate::storage::{ObjectName, StoreError};
use crate::time::Timestamp;

/// What nobody needs any more.
#[derive(Clone, Debug, Default)]
pub struct SupersededCatalogues {
    /// Catalogues of which another one has every row whose manifest is listed.
    pub names: Vec<ObjectName>,
    /// Catalogues in all.
    pub listed_count: u64,
    /// What is wrong with those that do not open.
    pub findings: Vec<Finding>,
}

/// What a catalogue speaks of.
struct Rows {
    manifests: HashSet<SnapshotId>,
    superseded: HashSet<ObjectHash>,
}

impl Repository {
    /// The catalogues that are superseded by one that the store has had since `before` or longer, that opens and that has all of theirs.
    ///
    /// # Errors
    /// [`RepositoryError`] if the store cannot be listed or read.
    pub fn superseded_catalogues(&self, before: Timestamp) -> Result<SupersededCatalogues, RepositoryError> {
        let mut catalogues = Listing::read(&*self.store)?;
        let manifests: HashSet<_> = catalogues.manifests.drain(..).map(|named| SnapshotId::from(named.hash)).collect();
        let mut catalogues = catalogues.catalogues;
        catalogues.sort_by_key(|named| std::cmp::Reverse(named.size));
        let mut found = SupersededCatalogues { listed_count: catalogues.len() as u64, ..SupersededCatalogues::default() };
        let mut gone = HashSet::new();
        for named in catalogues.iter().filter(|named| named.modified.is_some_and(|modified| modified <= before)) {
            // One that is to go proves nothing.
            if gone.contains(&named.hash) {
                continue;
            }
            let Some(whole) = self.rows_of(named, &mut found)? else { continue };
            let is_old = |other: &&NamedCatalogue| whole.superseded.contains(&other.hash) && !gone.contains(&other.hash);
            let replaced: Vec<_> = catalogues.iter().filter(is_old).collect();
            for old in replaced {
                let Some(part) = self.rows_of(old, &mut found)? else { continue };
                if part.manifests.iter().all(|id| whole.manifests.contains(id) || !manifests.contains(id)) {
                    gone.insert(old.hash);
                    found.names.push(old.name.clone());
                }
            }
        }
        Ok(found)
    }

    /// `None` if it does not open or is gone.
    fn rows_of(&self, named: &NamedCatalogue, found: &mut SupersededCatalogues) -> Result<Option<Rows>, RepositoryError> {
        let Some(object) = fetch(self, &mut Ahead::default(), [(&named.name, named.size)].into_iter()).pop() else { return Ok(None) };
        match open_catalogue(self, named, object) {
            Ok(catalogue) => Ok(Some(Rows {
                manifests: catalogue.rows.iter().map(|row| row.manifest).collect(),
                superseded: catalogue.superseded.into_iter().collect(),
            })),
            Err(RepositoryError::Object { name, source }) => {
                found.findings.push(damaged(&name, source));
                Ok(None)
            }
            Err(RepositoryError::Store(StoreError::NotFound { .. })) => Ok(None),
            Err(RepositoryError::Store(error)) if error.is_of_object() => {
                found.findings.push(damaged(&named.name, error));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
