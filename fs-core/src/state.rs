//! What this machine remembers of a repository between runs: a folder of its own with small databases in it.
//!
//! Nothing here is needed to read or write a repository; losing it costs time. The folder and its files belong to the user alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

/// How long to wait for another run that holds a database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the local state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The folder or file cannot be made.
    #[error("{} cannot be written", .path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The database cannot be used.
    #[error("the database {} cannot be used", .path.display())]
    Database {
        /// Its file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
}

/// Makes a folder that only this user can enter, with those above it.
///
/// # Errors
/// The system's.
pub fn private_folder(folder: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Opens a database in the state folder, made with `schema` if it is new; readable by this user only.
///
/// # Errors
/// [`StateError`], also for a file that is no database.
pub fn open_database(folder: &Path, file: &str, schema: &str) -> Result<Connection, StateError> {
    let path = folder.join(file);
    let refused = |source| StateError::Folder { path: path.clone(), source };
    private_folder(folder).map_err(refused)?;
    // Made before SQLite does, which would make it readable by others where the mask allows; its journals take over the mode.
    let mut new = std::fs::OpenOptions::new();
    new.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut new, 0o600);
    new.open(&path).map_err(refused)?;
    let prepare = || {
        let database = Connection::open(&path)?;
        database.busy_timeout(BUSY_TIMEOUT)?;
        database.execute_batch(schema)?;
        Ok(database)
    };
    prepare().map_err(|source| StateError::Database { path: path.clone(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn folder_and_database_belong_to_the_user_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("a/b");
        drop(open_database(&folder, "x.db", "CREATE TABLE IF NOT EXISTS t (n)").unwrap());
        drop(open_database(&folder, "x.db", "CREATE TABLE IF NOT EXISTS t (n)").unwrap());
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join("x.db"))), (0o700, 0o600));
    }

    #[test]
    fn a_file_that_is_no_database_is_an_error() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("x.db"), "no database at all, but long enough to be looked at".repeat(50)).unwrap();
        let error = open_database(place.path(), "x.db", "CREATE TABLE t (n)").unwrap_err();
        assert!(matches!(error, StateError::Database { .. }), "{error}");
    }
}
