//! What the files of the disk cache are called: they say their age, their pin and whether they are still being written, and nothing else.

use std::path::{Path, PathBuf};

/// Names a segment file. The order is the order of age.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Name {
    /// Larger than those of all files that its maker knew.
    pub(super) order: u64,
    /// Keeps apart what two processes make at the same time.
    pub(super) random: u64,
    /// The pin that keeps it from eviction.
    pub(super) pin: Option<u64>,
}

/// Whether a file still grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// One process writes it.
    Open,
    /// It has its table, and every process may read it.
    Finished,
}

const EXTENSION_OPEN: &str = "open";
const EXTENSION_FINISHED: &str = "segment";

impl Name {
    /// Where the file lies.
    pub(super) fn path(&self, folder: &Path, stage: Stage) -> PathBuf {
        let pin = self.pin.map(|pin| format!("-{pin:016x}")).unwrap_or_default();
        let extension = match stage {
            Stage::Open => EXTENSION_OPEN,
            Stage::Finished => EXTENSION_FINISHED,
        };
        folder.join(format!("{:016x}-{:016x}{pin}.{extension}", self.order, self.random))
    }

    /// Reads a file name; `None` for what is not ours.
    pub(super) fn parse(file: &str) -> Option<(Self, Stage)> {
        let (stem, extension) = file.split_once('.')?;
        let stage = match extension {
            EXTENSION_OPEN => Stage::Open,
            EXTENSION_FINISHED => Stage::Finished,
            _ => return None,
        };
        let mut parts = stem.split('-').map(|part| u64::from_str_radix(part, 16).ok().filter(|_| part.len() == 16));
        let (order, random) = (parts.next()??, parts.next()??);
        let pin = match parts.next() {
            Some(pin) => Some(pin?),
            None => None,
        };
        parts.next().is_none().then_some((Self { order, random, pin }, stage))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_foreign_files_are_none_of_ours() {
        for pin in [None, Some(0), Some(u64::MAX)] {
            for stage in [Stage::Open, Stage::Finished] {
                let name = Name { order: 7, random: 0xabc, pin };
                let path = name.path(Path::new("x"), stage);
                assert_eq!(Name::parse(path.file_name().unwrap().to_str().unwrap()), Some((name, stage)));
            }
        }
        for foreign in ["", "a.open", "0000000000000001.open", "0000000000000001-0000000000000001.txt", "notes"] {
            assert_eq!(Name::parse(foreign), None);
        }
    }
}
