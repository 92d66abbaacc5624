//! What a new catalogue should hold, for the writer: when enough manifests stand in none, those, and the catalogues that are not much larger than what is gathered.
//!
//! So every manifest is written about sixteen times for each sixteenfold of the repository, and three catalogues hold ten thousand.

use std::collections::{HashMap, HashSet};

use super::catalogue::{self, Thoroughness, fetch, look, open_catalogue};
use super::known::Known;
use super::listing::{Listing, Named, NamedCatalogue};
use super::open::Ahead;
use super::{Repository, RepositoryError, lock, verified};
use crate::id::{ObjectHash, SnapshotId};
use crate::snapshot::codec::{CATALOGUE_SIZE_MAX, Catalogue, CatalogueRow};

/// A catalogue is written when so many manifests stand in none.
const LOOSE_MAX: usize = 8;
/// A catalogue is taken into a new one unless it is so many times larger than what has been gathered.
const GROWTH: u64 = 16;
/// What a row takes, roughly.
const ROW_SIZE: u64 = 1 << 10;
/// Rows that one catalogue takes from loose manifests; the next run takes the next.
const LOOSE_TAKEN_MAX: usize = 1 << 14;

impl Repository {
    /// Whether a catalogue should be written when `more` manifests have been added to those that were seen last. Costs nothing.
    ///
    /// Never for keys that do not open catalogues: a writer does not read what others wrote.
    pub fn is_roll_up_due(&self, more: usize) -> bool {
        let known = lock(&self.catalogue);
        self.ring.catalogue(self.ring.epoch()).is_some() && known.loose_count() + more >= LOOSE_MAX
    }

    /// Lists the snapshots anew and gathers what a new catalogue should hold; `None` if it turns out that others have written one.
    ///
    /// Every row was checked, every seal in it too.
    ///
    /// # Errors
    /// [`RepositoryError`] if the store cannot be listed or read.
    pub fn roll_up(&self) -> Result<Option<Catalogue>, RepositoryError> {
        let mut known = lock(&self.catalogue);
        known.opening = None;
        let (listing, _) = look(self, &mut known, Thoroughness::Everything)?;
        let rows = loose_rows(self, &known, &listing)?;
        if rows.len() < LOOSE_MAX {
            return Ok(None);
        }
        let mut rows: HashMap<_, _> = rows.into_iter().map(|row| (row.manifest, row)).collect();
        let listed: HashSet<_> = listing.catalogues.iter().map(|named| named.hash).collect();
        let mut superseded: Vec<_> = known.useless.iter().copied().filter(|hash| listed.contains(hash)).collect();
        for named in smaller_catalogues(&known, &listing, rows.len()) {
            let object = fetch(self, &mut Ahead::default(), [(&named.name, named.size)].into_iter()).pop();
            // One that cannot be read now stays in use.
            let Some(Ok(catalogue)) = object.map(|object| open_catalogue(self, named, object)) else { continue };
            // What was read just now is preferred.
            for row in catalogue.rows {
                rows.entry(row.manifest).or_insert(row);
            }
            superseded.push(named.hash);
        }
        let seals: HashMap<_, _> = listing.seals.iter().filter_map(|named| Some((*known.seals.get(&named.hash)?, named.hash))).collect();
        let listed: HashSet<_> = listing.manifests.iter().map(|named| SnapshotId::from(named.hash)).collect();
        let rows = rows.into_values().filter(|row| listed.contains(&row.manifest) && known.manifests.contains_key(&row.manifest));
        let mut rows: Vec<_> = rows.map(|row| CatalogueRow { seal: seals.get(&row.manifest).copied(), ..row }).collect();
        rows.sort_unstable_by_key(|row| row.manifest);
        superseded.sort_unstable();
        Ok(Some(Catalogue { rows, superseded }))
    }

    /// Takes note of a catalogue that this process has written, so that it need not be read.
    pub fn rolled_up(&self, hash: ObjectHash, catalogue: &Catalogue) {
        let mut known = lock(&self.catalogue);
        known.done.insert(hash);
        known.useless.extend(&catalogue.superseded);
        known.cover(catalogue.rows.iter().map(|row| row.manifest));
        verified::save(self, &known);
    }
}

/// The rows of all manifests that stand in no catalogue, read anew: what was kept of them is not what was signed.
fn loose_rows(repository: &Repository, known: &Known, listing: &Listing) -> Result<Vec<CatalogueRow>, RepositoryError> {
    let is_loose = |id: &SnapshotId| known.manifests.get(id).is_some_and(|row| !row.is_covered);
    let loose = listing.manifests.iter().filter(|named| is_loose(&named.hash.into()));
    let loose: Vec<_> = loose.take(LOOSE_TAKEN_MAX).collect();
    if loose.len() < LOOSE_MAX {
        return Ok(Vec::new());
    }
    let certificates = repository.certificates_of(loose.iter().map(|named| named.device))?;
    let open = |named: &Named, object: &[u8]| {
        let (_, header, signed) = catalogue::open_manifest(repository, &certificates, named, object)?;
        Ok(CatalogueRow { manifest: named.hash.into(), header: header.encode(), signed, seal: None })
    };
    let mut rows = Vec::new();
    catalogue::read_each(repository, &loose, &mut Ahead::default(), &mut Vec::new(), open, &mut |_, row| rows.push(row))?;
    Ok(rows)
}

/// The catalogues in use that a new one takes in, the smallest first.
fn smaller_catalogues<'a>(known: &Known, listing: &'a Listing, row_count: usize) -> Vec<&'a NamedCatalogue> {
    let mut gathered = ROW_SIZE * row_count as u64;
    let mut in_use: Vec<_> = listing.catalogues.iter().filter(|named| !known.useless.contains(&named.hash)).collect();
    in_use.sort_by_key(|named| named.size);
    let is_taken = |named: &&'a NamedCatalogue| {
        let fits = named.size <= gathered.saturating_mul(GROWTH) && gathered.saturating_add(named.size) <= CATALOGUE_SIZE_MAX / 2;
        gathered = gathered.saturating_add(named.size);
        fits
    };
    in_use.into_iter().take_while(is_taken).collect()
}
