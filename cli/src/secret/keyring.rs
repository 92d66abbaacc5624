//! The keyring of the system: a place in the kernel where a password lies until the machine restarts, for this user only and never on a disk.
//!
//! The kernel answers at once, with or without a desktop. Keyrings of desktops are reached by `--password-command` with their own programs: they may ask
//! their user something, which nobody answers at night.

use fs_core::storage::address::Address;
use linux_keyutils::{KeyError, KeyPermissionsBuilder, KeyRing, KeyRingIdentifier, Permission};
use zeroize::Zeroizing;

use crate::error::{Exit, Failure};

/// Keeps the password of a repository. One that was there is replaced.
pub(crate) fn keep(address: &Address, password: &str) -> Result<(), Failure> {
    let mine = ring()?;
    let key = mine.add_key(&name(address)?, password).map_err(refused)?;
    // A service of this user does not hold the user's keyring through its session as a login does, and has to be able to read what lies in it.
    let all = KeyPermissionsBuilder::builder().posessor(Permission::ALL).user(Permission::ALL).build();
    key.set_perms(all).map_err(refused)
}

/// The password that was kept.
pub(crate) fn kept(address: &Address) -> Result<Zeroizing<String>, Failure> {
    let bytes = match find(address)? {
        Some(key) => Zeroizing::new(key.read_to_vec().map_err(refused)?),
        None => return Err(not_there(address)),
    };
    let text = std::str::from_utf8(&bytes).map_err(|_| Failure::new(Exit::Failed, "what the keyring holds is no password"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Forgets it.
pub(crate) fn forget(address: &Address) -> Result<(), Failure> {
    match find(address)? {
        Some(key) => key.invalidate().map_err(refused),
        None => Err(not_there(address)),
    }
}

fn find(address: &Address) -> Result<Option<linux_keyutils::Key>, Failure> {
    match ring()?.search(&name(address)?) {
        Ok(key) => Ok(Some(key)),
        Err(KeyError::KeyDoesNotExist | KeyError::KeyRevoked | KeyError::KeyExpired) => Ok(None),
        Err(error) => Err(refused(error)),
    }
}

fn not_there(address: &Address) -> Failure {
    Failure::new(Exit::Usage, format!("the keyring holds no password of {address}"))
        .hint("'yesterdrive key remember' puts it there; it is gone when the machine restarts")
}

fn ring() -> Result<KeyRing, Failure> {
    KeyRing::from_special_id(KeyRingIdentifier::User, true).map_err(refused)
}

/// The same folder has the same name from wherever it is opened.
fn name(address: &Address) -> Result<String, Failure> {
    let place = match address {
        Address::Folder(path) => std::path::absolute(path)?.display().to_string(),
        other => other.to_string(),
    };
    Ok(format!("yesterdrive:{place}"))
}

fn refused(error: KeyError) -> Failure {
    Failure::new(Exit::Failed, format!("this system's keyring cannot be used: {error}"))
        .hint("use --password-command, with the program of another keyring if you like: secret-tool lookup …, pass …, op read …")
}
