//! Which snapshot and path somebody means who names a place inside of a mounted drive.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use fs_core::path::TreePath;
use fs_core::repository::Repository;
use fs_core::snapshot::Snapshot;
use mount_linux::mounts;

use crate::args::{Global, Select};
use crate::error::{Exit, Failure};
use crate::session;

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
}

impl Place {
    /// What a person means: a path, or a snapshot and a path in it.
    pub(crate) fn of(what: &OsStr) -> Result<Self, Failure> {
        let bytes = what.as_encoded_bytes();
        let head = head(bytes);
        if head.len() == bytes.len() || head.contains(&b'/') {
            return find(what.as_ref());
        }
        Self::snapshot(what)
    }

    /// The same where a snapshot may be named without a path: all of it is meant.
    pub(crate) fn of_any(what: &OsStr) -> Result<Self, Failure> {
        let bytes = what.as_encoded_bytes();
        let head = head(bytes);
        // Somebody in a drive may name what is there.
        if head.contains(&b'/')
            || head.len() == bytes.len() && Path::new(what).symlink_metadata().is_ok() && drive_of(what.as_ref()).is_ok()
        {
            return find(what.as_ref());
        }
        Self::snapshot(what)
    }

    fn snapshot(what: &OsStr) -> Result<Self, Failure> {
        let (snapshot, path) = session::parse_what(what)?;
        Ok(Self::Snapshot(snapshot, path))
    }

    /// The flags with the repository that the drive shows, unless they name one.
    pub(crate) fn complete(&self, global: &Global) -> Global {
        let mut global = global.clone();
        if let (None, Self::Drive { location, .. }) = (&global.repository, self) {
            global.repository = Some(location.clone());
        }
        global
    }

    /// The snapshot and the path in it. A drive must show this repository.
    pub(crate) fn find(&self, repository: &Repository, select: &Select) -> Result<(Snapshot, TreePath), Failure> {
        match self {
            Self::Snapshot(wanted, path) => Ok((session::snapshot(repository, wanted, select)?, path.clone())),
            Self::Drive { drive, repository: shown, location, snapshot, path } => {
                if *shown != repository.id().to_string() {
                    let message = format!("the drive on {} shows another repository: {location}", drive.display());
                    return Err(Failure::new(Exit::Usage, message).hint("name that one: --repository ADDRESS"));
                }
                Ok((session::snapshot(repository, snapshot, &Select::default())?, path.clone()))
            }
        }
    }
}

fn head(what: &[u8]) -> &[u8] {
    what.split(|&byte| byte == b':').next().unwrap_or_default()
}

/// Finds the drive that a path leads into, and what it means there. Links of the drive's own are followed, those that were saved are not.
fn find(path: &Path) -> Result<Place, Failure> {
    let (drive, rest) = drive_of(path)?;
    let (repository, location) = status_of(&drive)?;
    let (shown, path) = split(&drive, &rest)?;
    let ids = drive.join("Ids");
    let is_it =
        |name: &OsStr| std::fs::read_link(ids.join(name)).is_ok_and(|target| inside(&ids, &drive, &target).is_some_and(|at| at == shown));
    let names = std::fs::read_dir(&ids)?.flatten().map(|item| item.file_name());
    let snapshot = names.into_iter().find(|name| is_it(name)).and_then(|name| name.into_string().ok());
    let Some(snapshot) = snapshot else {
        return Err(Failure::new(Exit::Failed, format!("there is no snapshot {} in the drive", shown.display())));
    };
    Ok(Place::Drive { drive, repository, location, snapshot, path })
}

/// The drive that a path leads into, and what remains of the path. What is saved in a drive may lead anywhere, so only what comes before it is resolved.
fn drive_of(path: &Path) -> Result<(PathBuf, PathBuf), Failure> {
    let path = std::path::absolute(path)?;
    let drives = mounts::list();
    let mut above: Vec<_> = path.ancestors().collect();
    above.reverse();
    for part in above {
        let Ok(real) = part.canonicalize() else { break };
        if drives.iter().any(|drive| drive.path == real) {
            return Ok((real, path.strip_prefix(part).unwrap_or(Path::new("")).to_path_buf()));
        }
        // A link in front of the drive may lead into the middle of it.
        if let Some(drive) = drives.iter().find(|drive| real.starts_with(&drive.path)) {
            let within = real.strip_prefix(&drive.path).unwrap_or(Path::new(""));
            return Ok((drive.path.clone(), within.join(path.strip_prefix(part).unwrap_or(Path::new("")))));
        }
    }
    Err(Failure::new(Exit::Usage, format!("{} lies in no drive", path.display()))
        .hint("'yesterdrive mounts' lists the drives; without one name SNAPSHOT:PATH, for instance latest:/home/anna"))
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
