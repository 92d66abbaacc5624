//! Which snapshot people mean: `latest`, the beginning of an id, narrowed by host, set and tag. Pure.

use super::Snapshot;

/// What a snapshot must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Host name.
    pub host: Option<String>,
    /// Set; empty for the default set.
    pub set: Option<String>,
    /// A tag that it has.
    pub tag: Option<String>,
}

impl Filter {
    /// Whether a snapshot fits.
    pub fn matches(&self, snapshot: &Snapshot) -> bool {
        self.host.as_ref().is_none_or(|host| host == snapshot.host())
            && self.set.as_ref().is_none_or(|set| set == snapshot.set())
            && self.tag.as_ref().is_none_or(|tag| snapshot.tags().contains(tag))
    }
}

/// Why a selection names no single snapshot.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SelectError {
    /// No snapshot fits.
    #[error("no snapshot fits '{wanted}'")]
    None {
        /// What was asked for.
        wanted: String,
    },
    /// Several ids begin like this.
    #[error("'{wanted}' is the beginning of {count} snapshot ids: give more digits")]
    Several {
        /// What was asked for.
        wanted: String,
        /// How many.
        count: usize,
    },
}

/// Finds the snapshot that `wanted` names: `latest` is the newest sealed one that fits; anything else is the beginning of an id.
///
/// # Errors
/// [`SelectError`].
pub fn select<'a>(snapshots: &'a [Snapshot], wanted: &str, filter: &Filter) -> Result<&'a Snapshot, SelectError> {
    let none = || SelectError::None { wanted: wanted.into() };
    let mut fitting = snapshots.iter().filter(|snapshot| filter.matches(snapshot));
    if wanted == "latest" {
        return fitting.filter(|snapshot| snapshot.sealed).max_by_key(|snapshot| (snapshot.started(), snapshot.id)).ok_or_else(none);
    }
    let hits: Vec<_> = fitting.by_ref().filter(|snapshot| !wanted.is_empty() && snapshot.id.to_string().starts_with(wanted)).collect();
    match hits[..] {
        [] => Err(none()),
        [one] => Ok(one),
        _ => Err(SelectError::Several { wanted: wanted.into(), count: hits.len() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{DeviceId, SnapshotId};
    use crate::snapshot::codec::tests::manifest;
    use crate::time::Timestamp;

    fn snapshot(first: u8, seconds: i64, host: &str, sealed: bool) -> Snapshot {
        let mut manifest = manifest(DeviceId::from_bytes([1; 16]), 1);
        manifest.started = Timestamp::new(seconds, 0).unwrap();
        manifest.host = host.into();
        let mut id = [0xab; 32];
        id[0] = first;
        Snapshot::new(SnapshotId::from_bytes(id), &manifest, sealed)
    }

    #[test]
    fn latest_is_sealed_and_ids_are_unique() {
        let all =
            [snapshot(0x10, 5, "a", true), snapshot(0x11, 9, "a", true), snapshot(0x20, 10, "a", false), snapshot(0x30, 11, "b", true)];
        let host = |host: &str| Filter { host: Some(host.into()), ..Filter::default() };
        assert_eq!(select(&all, "latest", &host("a")).unwrap().id, all[1].id);
        assert_eq!(select(&all, "latest", &Filter::default()).unwrap().id, all[3].id);
        assert_eq!(select(&all, "20", &Filter::default()).unwrap().id, all[2].id);
        assert_eq!(select(&all, "1", &Filter::default()).unwrap_err(), SelectError::Several { wanted: "1".into(), count: 2 });
        assert!(select(&all, "30", &host("a")).is_err());
        assert!(select(&all, "", &Filter::default()).is_err());
        assert!(select(&all, "latest", &host("c")).is_err());
    }
}
