//! The first step of a merge: which shards there are, which of them open, what they supersede.

use fs_core::index::Shard;
use fs_core::report::{Finding, Severity};
use fs_core::repository::{ListedShard, RepositoryError};
use fs_core::storage::StoreError;

use super::{GONE_SHARE, MergeError, Run, Seen, Sound};

/// Shards up to this size in bytes are read whole: that is one request.
const WHOLE_MAX: u64 = 64 << 10;
/// Bytes of those that stay in memory until it is known what is to be merged; others are read twice.
const KEPT_MAX: u64 = 32 << 20;

impl Run<'_> {
    /// Looks at all shards, but for those that are superseded by one that was seen before them: that is what comes newest and largest.
    pub(super) fn look(&mut self) -> Result<Seen, MergeError> {
        let listed = self.repository.list_shards()?;
        self.report.shard_count = listed.len() as u64;
        let mut seen = Seen { listed: listed.iter().map(|listed| (listed.hash, *listed)).collect(), ..Seen::default() };
        let (mut largest, mut kept_bytes) = (0, 0);
        let is_ahead = |listed: &ListedShard| {
            let is_larger = listed.size > largest;
            largest = largest.max(listed.size);
            is_larger
        };
        let (first, rest): (Vec<_>, Vec<_>) = listed.into_iter().partition(is_ahead);
        for step in [first, rest] {
            let step = step.into_iter().filter(|listed| !seen.superseded.contains(&listed.hash));
            let (whole, tables): (Vec<_>, Vec<_>) = step.partition(|listed| listed.size <= WHOLE_MAX);
            for listed in tables {
                let tables = self.repository.read_shard_tables(&listed);
                self.saw(&mut seen, &listed, tables)?;
            }
            let repository = self.repository;
            repository.read_shards(&whole, |listed, shard| {
                let Some(shard) = self.saw(&mut seen, listed, shard)? else { return Ok(()) };
                kept_bytes += listed.size;
                if kept_bytes <= KEPT_MAX {
                    seen.kept.insert(listed.hash, shard);
                }
                Ok::<_, MergeError>(())
            })?;
        }
        Ok(seen)
    }

    fn saw(&mut self, seen: &mut Seen, listed: &ListedShard, read: Result<Shard, RepositoryError>) -> Result<Option<Shard>, MergeError> {
        self.progress(seen)?;
        let shard = match read {
            Ok(shard) => shard,
            Err(RepositoryError::Object { name, source }) => {
                let message = format!("{source}; it is left alone, and 'yesterdrive repair index' writes anew what it said");
                self.report.findings.push(Finding::object(Severity::Error, name.as_str(), message));
                return Ok(None);
            }
            Err(RepositoryError::Store(error @ StoreError::WrongSize { .. })) => {
                self.report.findings.push(Finding::object(Severity::Error, listed.name().as_str(), format!("{error}; it is left alone")));
                return Ok(None);
            }
            // Somebody else has just deleted it.
            Err(RepositoryError::Store(StoreError::NotFound { .. })) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let gone = shard.packs().iter().filter(|pack| !self.packs.present.contains(&pack.id)).count();
        let is_urgent = gone > 0 && gone * GONE_SHARE >= shard.packs().len();
        seen.superseded.extend(shard.superseded());
        seen.sound.push(Sound { listed: *listed, superseded: shard.superseded().to_vec(), is_urgent });
        Ok(Some(shard))
    }
}
