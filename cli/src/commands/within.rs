//! Which snapshot and path somebody means: by its id, inside of a mounted drive, or as it is named on this machine.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use backup_writer::system::{is_path_with_drive, shown_bytes};
use backup_writer::what::{What, entry_at};
use fs_core::path::TreePath;
use fs_core::repository::{Repository, Snapshots};
use fs_core::snapshot::Snapshot;

use crate::args::{Global, Select};
use crate::error::{Exit, Failure};
use crate::session;
use crate::system::mounts::{self, Mounted};

/// A place in a snapshot.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// `latest` or the beginning of an id, and a path.
    Snapshot(String, TreePath),
    /// In a drive.
    Drive {
        /// Where it is mounted.
        drive: PathBuf,
        /// The id of its repository.
        repository: String,
        /// Where that lies.
        location: String,
        /// The beginning of the snapshot's id.
        snapshot: String,
        /// The path in it.
        path: TreePath,
    },
    /// Where something lies, or lay, on this machine.
    Here(TreePath),
}

impl Place {
    /// What a person means: a path in a drive, or a snapshot and a path in it.
    pub(crate) fn of(what: &OsStr) -> Result<Self, Failure> {
        let bytes = what.as_encoded_bytes();
        let head = head(bytes);
        if head.len() == bytes.len() || is_path(head, bytes) {
            return Drives::now().find(what.as_ref());
        }
        Self::snapshot(what)
    }

    /// Several of them, where a snapshot may also be named without a path: all of it is meant. A path in no drive is one of this machine.
    pub(crate) fn of_each(whats: &[OsString]) -> Result<Vec<Self>, Failure> {
        let mut drives = Drives::now();
        whats.iter().map(|what| Self::of_any(what, &mut drives)).collect()
    }

    fn of_any(what: &OsStr, drives: &mut Drives) -> Result<Self, Failure> {
        let (bytes, path) = (what.as_encoded_bytes(), Path::new(what));
        let head = head(bytes);
        let is_in_drive = drives.drive_of(path).is_ok();
        // Somebody in a drive may name what is there.
        if is_in_drive && (is_path(head, bytes) || path.symlink_metadata().is_ok()) {
            return drives.find(path);
        }
        if !is_path(head, bytes) {
            return Self::snapshot(what);
        }
        let path = std::path::absolute(path)?;
        let parsed = TreePath::parse(&shown_bytes(&path));
        let parsed = parsed.map_err(|error| Failure::new(Exit::Usage, format!("{}: {error}", path.display())))?;
        Ok(Self::Here(parsed))
    }

    fn snapshot(what: &OsStr) -> Result<Self, Failure> {
        let (snapshot, path) = session::parse_what(what)?;
        Ok(Self::Snapshot(snapshot, path))
    }

    /// The flags with the repository that the drive shows, unless they name one.
    pub(crate) fn complete(places: &[Self], global: &Global) -> Global {
        let mut global = global.clone();
        let shown = places.iter().find_map(|place| match place {
            Self::Drive { location, .. } => Some(location),
            Self::Snapshot(..) | Self::Here(_) => None,
        });
        if global.repository.is_none() {
            global.repository = shown.cloned();
        }
        global
    }

    /// The snapshots and the paths in them. Drives must show this repository.
    pub(crate) fn find_each(places: &[Self], repository: &Repository, narrow: &Select) -> Result<Vec<What>, Failure> {
        let snapshots = repository.all_snapshots()?;
        places.iter().map(|place| place.find_in(&snapshots, repository, narrow)).collect()
    }

    /// The same for one.
    pub(crate) fn find(&self, repository: &Repository, narrow: &Select) -> Result<What, Failure> {
        self.find_in(&repository.all_snapshots()?, repository, narrow)
    }

    fn find_in(&self, snapshots: &Snapshots, repository: &Repository, narrow: &Select) -> Result<What, Failure> {
        let named = |wanted: &str, narrow| session::select_of(snapshots, wanted, narrow);
        let (snapshot, path) = match self {
            Self::Snapshot(wanted, path) => (named(wanted, narrow)?, path),
            Self::Here(path) => (newest_with(&snapshots.live, repository, path, narrow)?, path),
            Self::Drive { drive, repository: shown, location, snapshot, path } => {
                if *shown != repository.id().to_string() {
                    let message = format!("the drive on {} shows another repository: {location}", drive.display());
                    return Err(Failure::new(Exit::Usage, message).hint("name that one, by itself: --repository ADDRESS"));
                }
                (named(snapshot, &Select::default())?, path)
            }
        };
        Ok(What { snapshot: snapshot.clone(), path: path.clone() })
    }
}

/// For a record: the snapshot that all of it is of, `None` if there are several; and all of them, each once.
pub(crate) fn snapshots_of(whats: &[What]) -> (Option<String>, Vec<String>) {
    let mut ids: Vec<String> = Vec::new();
    for id in whats.iter().map(|what| what.snapshot.id.to_string()) {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    (if ids.len() == 1 { ids.first().cloned() } else { None }, ids)
}

/// The newest sealed snapshot that holds a path of this machine. Another machine may have the same path, and one that holds only what lies below is not meant.
fn newest_with<'a>(snapshots: &'a [Snapshot], repository: &Repository, path: &TreePath, narrow: &Select) -> Result<&'a Snapshot, Failure> {
    let host = narrow.host.clone().unwrap_or_else(session::host_name);
    let filter = session::filter(&Select { host: Some(host.clone()), ..narrow.clone() });
    let mut fitting: Vec<_> = snapshots.iter().filter(|snapshot| snapshot.sealed && filter.matches(snapshot)).collect();
    fitting.sort_by_key(|snapshot| std::cmp::Reverse((snapshot.started(), snapshot.id)));
    for snapshot in fitting {
        let saved = snapshot.manifest()?.sources;
        let saved = saved.iter().filter_map(|source| TreePath::parse(&source.path).ok());
        if saved.into_iter().any(|saved| path.starts_with(&saved)) && entry_at(repository, snapshot, path)?.is_some() {
            return Ok(snapshot);
        }
    }
    Err(Failure::new(Exit::Failed, format!("{path} lies in no drive, and no snapshot of {host} that fits has all of it"))
        .hint("'yesterdrive mounts' lists the drives, 'yesterdrive snapshots' the snapshots: name SNAPSHOT:PATH, or the host with --host"))
}

/// Whether what stands before a colon is part of a path.
fn is_path(head: &[u8], whole: &[u8]) -> bool {
    head.iter().any(|&byte| std::path::is_separator(char::from(byte))) || is_path_with_drive(whole)
}

fn head(what: &[u8]) -> &[u8] {
    what.split(|&byte| byte == b':').next().unwrap_or_default()
}

/// The drives of this machine. Each is asked once, however many paths in it are named.
struct Drives {
    mounted: Vec<Mounted>,
    asked: HashMap<PathBuf, Shown>,
}

/// What a drive says of itself.
struct Shown {
    repository: String,
    location: String,
    /// The beginning of each snapshot's id by its folder, as in `Snapshots/HOST/TIME`.
    ids: HashMap<PathBuf, String>,
}

impl Drives {
    fn now() -> Self {
        Self { mounted: mounts::list(), asked: HashMap::new() }
    }

    /// Finds the drive that a path leads into, and what it means there. Links of the drive's own are followed, those that were saved are not.
    fn find(&mut self, path: &Path) -> Result<Place, Failure> {
        let (drive, rest) = self.drive_of(path)?;
        let (folder, path) = split(&drive, &rest)?;
        if !self.asked.contains_key(&drive) {
            self.asked.insert(drive.clone(), Shown::ask(&drive)?);
        }
        let shown = self.asked.get(&drive).and_then(|shown| Some((shown, shown.ids.get(&folder)?)));
        let Some((shown, snapshot)) = shown else {
            return Err(Failure::new(Exit::Failed, format!("there is no snapshot {} in the drive", folder.display())));
        };
        let (repository, location, snapshot) = (shown.repository.clone(), shown.location.clone(), snapshot.clone());
        Ok(Place::Drive { drive, repository, location, snapshot, path })
    }

    /// The drive that a path leads into, and what remains of the path. What is saved in a drive may lead anywhere, so only what comes before it is resolved.
    fn drive_of(&self, path: &Path) -> Result<(PathBuf, PathBuf), Failure> {
        let path = std::path::absolute(path)?;
        let mut above: Vec<_> = path.ancestors().collect();
        above.reverse();
        for part in above {
            let Ok(real) = part.canonicalize() else { break };
            if self.mounted.iter().any(|drive| drive.path == real) {
                return Ok((real, path.strip_prefix(part).unwrap_or(Path::new("")).to_path_buf()));
            }
            // A link in front of the drive may lead into the middle of it.
            if let Some(drive) = self.mounted.iter().find(|drive| real.starts_with(&drive.path)) {
                let within = real.strip_prefix(&drive.path).unwrap_or(Path::new(""));
                return Ok((drive.path.clone(), within.join(path.strip_prefix(part).unwrap_or(Path::new("")))));
            }
        }
        Err(Failure::new(Exit::Usage, format!("{} lies in no drive", path.display()))
            .hint("'yesterdrive mounts' lists the drives; without one name SNAPSHOT:PATH, for instance latest:/home/anna"))
    }
}

impl Shown {
    fn ask(drive: &Path) -> Result<Self, Failure> {
        let (repository, location) = status_of(drive)?;
        let folder = drive.join("Ids");
        let names = std::fs::read_dir(&folder)?.flatten().filter_map(|item| item.file_name().into_string().ok());
        let place = |name: &str| inside(&folder, drive, &std::fs::read_link(folder.join(name)).ok()?);
        let ids = names.filter_map(|name| Some((place(&name)?, name))).collect();
        Ok(Self { repository, location, ids })
    }
}

/// The id and the place of the repository that a drive shows.
fn status_of(drive: &Path) -> Result<(String, String), Failure> {
    let status: serde_json::Value = std::fs::read(drive.join(".yesterdrive/status.json"))
        .map_err(|error| Failure::new(Exit::Failed, format!("the drive on {} does not answer: {error}", drive.display())))
        .map(|text| serde_json::from_slice(&text).unwrap_or_default())?;
    let field = |name: &str| status.get(name).and_then(|value| value.as_str()).map(str::to_owned);
    field("repository_id").zip(field("repository")).ok_or_else(|| {
        let message = format!("the drive on {} does not say which repository it shows", drive.display());
        Failure::new(Exit::Failed, message).hint("an older program has mounted it: mount it again")
    })
}

/// The folder of a snapshot in the drive, as in `Snapshots/HOST/TIME`, and the path below.
fn split(drive: &Path, rest: &Path) -> Result<(PathBuf, TreePath), Failure> {
    let names: Vec<_> = rest.components().map(Component::as_os_str).collect();
    let too_short = || {
        let message = format!("{} is in no snapshot", drive.join(rest).display());
        Failure::new(Exit::Usage, message).hint("name a snapshot's folder or something in it: Latest/HOST/home/anna")
    };
    let length = match names.first().and_then(|name| name.to_str()) {
        Some("Snapshots" | "Tags") => 3,
        Some("Latest" | "Ids") => 2,
        _ => return Err(too_short()),
    };
    let (head, below) = names.split_at_checked(length).ok_or_else(too_short)?;
    let head: PathBuf = head.iter().collect();
    let shown = match std::fs::read_link(drive.join(&head)) {
        Ok(target) => inside(&drive.join(head.parent().unwrap_or(Path::new(""))), drive, &target).ok_or_else(too_short)?,
        Err(_) => head,
    };
    let bytes = below.iter().map(|name| name.as_encoded_bytes()).collect::<Vec<_>>().join(&b'/');
    let path = TreePath::parse(&bytes).map_err(|error| Failure::new(Exit::Usage, format!("{}: {error}", rest.display())))?;
    Ok((shown, path))
}

/// Where a link of the drive's own leads, from its root; `None` if that is outside.
fn inside(folder: &Path, drive: &Path, target: &Path) -> Option<PathBuf> {
    let mut at = folder.strip_prefix(drive).ok()?.to_path_buf();
    for part in target.components() {
        match part {
            Component::ParentDir => at.pop().then_some(())?,
            Component::Normal(name) => at.push(name),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_the_drive_stay_in_it() {
        let drive = Path::new("/d");
        let inside = |folder: &str, target: &str| inside(Path::new(folder), drive, Path::new(target));
        assert_eq!(inside("/d/Latest", "../Snapshots/pc/now"), Some("Snapshots/pc/now".into()));
        assert_eq!(inside("/d/Tags/a", "../../Snapshots/pc/now"), Some("Snapshots/pc/now".into()));
        for (folder, target) in [("/d/Latest", "/etc"), ("/d/Latest", "../../etc"), ("/e", "x")] {
            assert_eq!(inside(folder, target), None, "{target}");
        }
    }
}
