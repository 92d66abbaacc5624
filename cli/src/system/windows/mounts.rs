//! Drives on Windows: each listens to an event by which this program asks it to go.

use std::path::{Path, PathBuf};

use mount_windows::place::Spot;

/// One of our mounts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mounted {
    /// Where.
    pub path: PathBuf,
}

/// The drives of this user that have a letter, and those that were asked for by name.
pub(crate) fn list() -> Vec<Mounted> {
    mount_windows::list().into_iter().map(|spot| Mounted { path: spot.to_string().into() }).collect()
}

/// Whether the program of a drive has ended: Windows then takes the drive away itself.
pub(crate) fn is_dead(_path: &Path) -> bool {
    false
}

/// Takes a drive away. Windows lets those who use it finish with what they have read.
///
/// # Errors
/// If there is none.
pub(crate) fn unmount(path: &Path, _lazily: bool) -> std::io::Result<()> {
    let spot = Spot::parse(&path.to_string_lossy()).map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidInput, error))?;
    if mount_windows::unmount(&spot) { Ok(()) } else { Err(std::io::Error::new(std::io::ErrorKind::NotFound, "no drive is there")) }
}

/// The place of a drive as it was written when it was mounted.
///
/// # Errors
/// If it is no place for a drive.
pub(crate) fn absolute(path: &Path) -> std::io::Result<PathBuf> {
    let spot = Spot::parse(&path.to_string_lossy()).map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidInput, error))?;
    Ok(spot.to_string().into())
}

/// Whether a drive is mounted at a place.
pub(crate) fn is_mounted(path: &Path) -> bool {
    Spot::parse(&path.to_string_lossy()).is_ok_and(|spot| mount_windows::is_mounted(&spot))
}
