//! Looking at the folder: for what other processes have kept meanwhile, and from outside, without opening the cache.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::name::Name;
use super::{CacheError, DiskCache, lock};
use crate::time::{Clock as _, SystemClock};

/// The system stamps changes with a clock of its own that goes in steps of up to some ten milliseconds. A folder that had been changed no longer ago when it
/// was looked at may have changed again under the same stamp.
const STEP: Duration = Duration::from_millis(100);
/// A file that another process was writing may have lost its writer, which changes nothing: so long is taken for granted that it has not.
const WRITER_LIVES: Duration = Duration::from_secs(1);

/// How the folder was when it was looked at last.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// When it had been changed; `None` if it was not there.
    changed: Option<SystemTime>,
    /// Whether the same time means that it is the same.
    is_settled: bool,
    /// Until when, by the clock that never runs backwards; `None` for ever.
    until: Option<Duration>,
}

/// What lies in the folder of a cache.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CacheUsage {
    /// Bytes of all files.
    pub used: u64,
    /// Bytes of those that are pinned.
    pub pinned: u64,
    /// How many files.
    pub files: u64,
    /// Bytes of each pin.
    pub pins: BTreeMap<u64, u64>,
}

impl CacheUsage {
    fn add(&mut self, name: &Name, length: u64) {
        self.used += length;
        self.files += 1;
        if let Some(pin) = name.pin {
            self.pinned += length;
            *self.pins.entry(pin).or_default() += length;
        }
    }
}

impl DiskCache {
    /// Looks at the folder if it may have changed since the last time; whether it did. Costs a question to the system if not.
    pub(super) fn look_again(&self) -> bool {
        if self.is_known() {
            return false;
        }
        let _writer = lock(&self.writer);
        // Who waited for the writer may find that another has looked meanwhile; then there is something new to find too.
        self.is_known() || self.look().is_ok()
    }

    fn is_known(&self) -> bool {
        let changed = changed(&self.folder);
        let look = lock(&self.look);
        look.changed == changed && look.is_settled && look.until.is_none_or(|until| SystemClock.elapsed() < until)
    }

    /// Looks at the folder and remembers how it was before. For those who hold the writer, or are the only ones.
    pub(super) fn look(&self) -> io::Result<()> {
        let (changed, now) = (changed(&self.folder), SystemClock.now());
        let result = self.survey();
        let is_settled = changed.is_none_or(|changed| {
            let changed = changed.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            i128::try_from((changed + STEP).as_nanos()).is_ok_and(|changed| changed < now.as_nanos())
        });
        let has_writers = lock(&self.shelf).foreign_claim > 0;
        let until = has_writers.then(|| SystemClock.elapsed().saturating_add(WRITER_LIVES));
        *lock(&self.look) = Look { changed, is_settled, until };
        result
    }

    /// What lies in a folder, by the names and lengths of the files alone. A folder that is not there is empty.
    ///
    /// # Errors
    /// [`CacheError`] if the folder cannot be listed.
    pub fn usage(folder: &Path) -> Result<CacheUsage, CacheError> {
        let mut usage = CacheUsage::default();
        each_file(folder, |name, item| {
            // Gone since: it is not there.
            if let Ok(meta) = item.metadata() {
                usage.add(name, meta.len());
            }
            Ok(())
        })?;
        Ok(usage)
    }

    /// Removes what caches have put into a folder, if wanted also what is pinned, and says what it was. Processes that use it go on without.
    ///
    /// # Errors
    /// [`CacheError`] if the folder cannot be listed or a file not removed. A folder that is not there is empty.
    pub fn clear(folder: &Path, also_pinned: bool) -> Result<CacheUsage, CacheError> {
        let mut removed = CacheUsage::default();
        each_file(folder, |name, item| {
            if name.pin.is_some() && !also_pinned {
                return Ok(());
            }
            let length = item.metadata().map_or(0, |meta| meta.len());
            match fs::remove_file(item.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Err(_) => {}
                Ok(()) => removed.add(name, length),
            }
            Ok(())
        })?;
        Ok(removed)
    }
}

fn changed(folder: &Path) -> Option<SystemTime> {
    fs::metadata(folder).and_then(|meta| meta.modified()).ok()
}

fn each_file(folder: &Path, mut each: impl FnMut(&Name, &fs::DirEntry) -> io::Result<()>) -> Result<(), CacheError> {
    let refused = |source| CacheError::Folder { folder: folder.into(), source };
    let items = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        items => items.map_err(refused)?,
    };
    for item in items {
        let item = item.map_err(refused)?;
        if let Some((name, _)) = item.file_name().to_str().and_then(Name::parse) {
            each(&name, &item).map_err(refused)?;
        }
    }
    Ok(())
}
