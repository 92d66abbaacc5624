//! `key`

use std::path::{Path, PathBuf};

use backup_writer::create::put_slot;
use backup_writer::keys::{self, Enrolment, KeysError};
use backup_writer::prolong::Kept;
use fs_core::crypto::{Key as SecretKey, SystemRandom};
use fs_core::id::KeyId;
use fs_core::key::Role;
use fs_core::key::slot::{Credential, PasswordCost, SlotKind, SlotLabel, key_file_text, open, open_label};
use fs_core::key::words::recovery_words;
use fs_core::object::{self, ObjectError, ObjectKind};
use fs_core::repository::Repository;
use fs_core::storage::{StoreError, WriteStore, wait};
use fs_core::time::{Clock as _, SystemClock};
use serde_json::json;
use zeroize::Zeroizing;

use crate::args::{Global, Key};
use crate::error::{Exit, Failure};
use crate::output::Output;
use crate::sheet::{Sheet, write_secret};
use crate::{secret, session};

/// What removing a key does not undo.
const REVOKED: &str = "It opens the repository no more. That does not undo what was: whoever used it may have kept the keys inside, or a copy of it, and reads with \
them what was and what will be saved here, as long as they reach the store. To lock somebody out, change the access to the store too; what is saved into a \
new repository is out of their reach.";

pub(crate) fn run(global: &Global, command: &Key, output: &Output) -> Result<Exit, Failure> {
    if let Key::Remember { remove } = command {
        return remember(global, *remove, output);
    }
    let session::Opened { repository, store, credential: used } = session::open_knowing(global)?;
    let keys = Keys { repository: &repository, store: &*store, all: slots(&*store)?, state: session::state(global, &repository) };
    match command {
        Key::List => keys.list(output),
        Key::Add { name, new_key_file: Some(file), .. } => {
            let name = keys.new_name(name.as_deref(), "key file")?;
            let key = SecretKey::random(&SystemRandom);
            write_secret(file, key_file_text(&key).as_bytes())?;
            keys.add(&Credential::KeyFile(key), &name, output)?;
        }
        Key::Add { name, new_password_file, weak_password, .. } => {
            let name = keys.new_name(name.as_deref(), "password")?;
            let password = ask_new(global, new_password_file.as_deref(), *weak_password)?;
            keys.add(&Credential::Password(password), &name, output)?;
        }
        Key::Enrol { name, role, new_key_file, trusts_others } => {
            let enrolment = Enrolment { name: keys.new_name(Some(name), "")?, role: (*role).into(), trusts_others: *trusts_others };
            keys.enrol(&enrolment, new_key_file, output)?;
        }
        Key::Remove { key } => {
            keys.remove(key, output)?;
            output.message(REVOKED);
        }
        Key::Password { new_password_file, weak_password } => {
            if used.kind() != SlotKind::Password {
                return Err(Failure::new(Exit::Usage, "open the repository with the password that is to be changed"));
            }
            let password = ask_new(global, new_password_file.as_deref(), *weak_password)?;
            keys.change(&used, &Credential::Password(password), output)?;
            output.message("The old password opens the repository no more; who kept a copy of its slot can still use it. See 'yesterdrive key remove --help'.");
        }
        Key::Recovery { name, sheet } => {
            let name = keys.new_name(name.as_deref(), "recovery code")?;
            let code = SecretKey::random(&SystemRandom);
            let newest =
                repository.snapshots()?.iter().filter(|snapshot| snapshot.sealed).max_by_key(|s| (s.started(), s.id)).map(|s| s.id);
            let page = Sheet::new(recovery_words(&code), &session::address(global)?, repository.id(), newest)?;
            // Before the slot: words that open nothing do no harm, a slot whose words nobody has is one key too many.
            match sheet {
                Some(file) => page.write(file)?,
                None => output.message(&page.text()),
            }
            keys.add(&Credential::Recovery(code), &name, output)?;
        }
        Key::Remember { .. } => {}
    }
    Ok(Exit::Done)
}

/// The environment holds the password that opened the repository, not the new one.
fn ask_new(global: &Global, file: Option<&Path>, may_be_weak: bool) -> Result<Zeroizing<String>, Failure> {
    secret::new_password(&global.without_credentials(), file, may_be_weak)
}

/// The keys of a repository.
struct Keys<'a> {
    repository: &'a Repository,
    store: &'a dyn WriteStore,
    all: Vec<(KeyId, bytes::Bytes)>,
    /// What this machine remembers of the repository.
    state: Option<PathBuf>,
}

impl Keys<'_> {
    fn list(&self, output: &Output) {
        for (id, bytes) in &self.all {
            let label = match open_label(*id, bytes, self.repository.ring()) {
                Ok(label) => label,
                Err(error) => {
                    output.message(&format!("warning: key {id}: {error}"));
                    continue;
                }
            };
            let (kind, role, created) = (label.kind.as_str(), label.role.as_str(), label.created);
            // A password that was never changed is as old as its key.
            let changed = (label.kind == SlotKind::Password).then(|| label.changed.unwrap_or(created).to_string());
            output.show(
                || {
                    let of = changed.as_ref().map(|changed| format!(", password of {changed}")).unwrap_or_default();
                    format!("{id}  {kind:<9} {role:<10} made {created}{of}  {}", label.label)
                },
                || {
                    json!({"type": "key", "id": id.to_string(), "name": label.label, "kind": kind, "role": role,
                        "created": created.to_string(), "password_changed": changed})
                },
            );
        }
    }

    fn label(&self, (id, bytes): &(KeyId, bytes::Bytes)) -> Option<SlotLabel> {
        open_label(*id, bytes, self.repository.ring()).ok()
    }

    fn is_taken(&self, name: &str) -> bool {
        self.all.iter().filter_map(|slot| self.label(slot)).any(|label| label.label == name)
    }

    /// A name for a new key: what somebody wants, or what it is, with a number if there is one like it.
    fn new_name(&self, wanted: Option<&str>, kind: &str) -> Result<String, Failure> {
        match wanted {
            Some(name) if self.is_taken(name) => {
                Err(Failure::new(Exit::Usage, format!("there is a key '{name}' already")).hint("give it another name"))
            }
            Some(name) => Ok(name.to_owned()),
            None => Ok((1..)
                .map(|number| if number == 1 { kind.to_owned() } else { format!("{kind} {number}") })
                .find(|name| !self.is_taken(name))
                .unwrap_or_default()),
        }
    }

    /// The key that a name or the beginning of an id means; `None` if there is none.
    fn find(&self, wanted: &str) -> Result<Option<&(KeyId, bytes::Bytes)>, Failure> {
        let fits = |slot: &&(KeyId, bytes::Bytes)| {
            !wanted.is_empty() && (slot.0.to_string().starts_with(wanted) || self.label(slot).is_some_and(|label| label.label == wanted))
        };
        let hits: Vec<_> = self.all.iter().filter(fits).collect();
        match hits[..] {
            [] => Ok(None),
            [slot] => Ok(Some(slot)),
            _ => Err(Failure::new(Exit::Usage, format!("'{wanted}' means {} keys", hits.len())).hint("give more of the id")),
        }
    }

    fn enrol(&self, enrolment: &Enrolment, file: &Path, output: &Output) -> Result<(), Failure> {
        if self.repository.ring().role != Role::Owner {
            return Err(KeysError::NotAllowed(ObjectError::NotAllowed).into());
        }
        let key = SecretKey::random(&SystemRandom);
        write_secret(file, key_file_text(&key).as_bytes())?;
        let id = keys::enrol(self.repository, self.store, key, enrolment)?;
        let Enrolment { name, role, .. } = enrolment;
        output.show(
            || format!("enrolled {} '{name}' {id}", role.as_str()),
            || json!({"type": "key_enrolled", "id": id.to_string(), "role": role.as_str(), "name": name}),
        );
        let place = file.display();
        output.message(&format!(
            "{place} opens the repository for it: bring it to the device, use it there with --key-file, and delete it here."
        ));
        Ok(())
    }

    fn add(&self, credential: &Credential, name: &str, output: &Output) -> Result<(), Failure> {
        let (kind, created) = (credential.kind(), SystemClock.now());
        let label = SlotLabel { label: name.to_owned(), role: self.repository.ring().role, kind, created, changed: None };
        self.put(credential, &label, output)
    }

    fn put(&self, credential: &Credential, label: &SlotLabel, output: &Output) -> Result<(), Failure> {
        let id = put_slot(self.store, self.repository.ring(), credential, &PasswordCost::DEFAULT, label, &SystemRandom::shared())?;
        let (kind, name) = (label.kind.as_str(), &label.label);
        output.show(
            || format!("added {kind} '{name}' {id}"),
            || json!({"type": "key_added", "id": id.to_string(), "kind": kind, "name": name}),
        );
        Ok(())
    }

    /// Replaces the slot that `used` opens. The new one stands before the old one goes: between them both open the repository.
    fn change(&self, used: &Credential, new: &Credential, output: &Output) -> Result<(), Failure> {
        let old = self.all.iter().find(|(id, bytes)| matches!(open(*id, bytes, used), Ok(Some(_))));
        let old = old.and_then(|slot| Some((slot.0, self.label(slot)?)));
        let (id, label) = old.ok_or_else(|| Failure::new(Exit::Failed, "the key that was used has been removed meanwhile"))?;
        self.put(new, &SlotLabel { changed: Some(SystemClock.now()), ..label }, output)?;
        self.delete(id, output)
    }

    /// Removes a key, and revokes the device that was enrolled with it: its slot may be gone already.
    fn remove(&self, wanted: &str, output: &Output) -> Result<(), Failure> {
        if self.repository.ring().role != Role::Owner {
            return Err(KeysError::NotAllowed(ObjectError::NotAllowed).into());
        }
        let slot = self.find(wanted)?;
        let label = slot.and_then(|slot| self.label(slot));
        let is_owners = label.as_ref().is_none_or(|label| label.role == Role::Owner);
        let devices = match (slot, &label) {
            (Some(_), _) if is_owners => Vec::new(),
            (_, label) => keys::enrolled(self.repository, label.as_ref().map_or(wanted, |label| &label.label))?,
        };
        if slot.is_none() && devices.is_empty() {
            return Err(Failure::new(Exit::Usage, format!("no key has the name '{wanted}' or an id that begins so"))
                .hint("'yesterdrive key list' shows them"));
        }
        // Only those count that can be read, and that can do everything: a damaged slot opens nothing.
        let is_other = |other: &&(KeyId, bytes::Bytes)| slot.is_none_or(|slot| slot.0 != other.0);
        if !self.all.iter().filter(is_other).any(|slot| self.label(slot).is_some_and(|label| label.role == Role::Owner)) {
            let message = "this is the last key of an owner: without it nobody could do everything in the repository";
            return Err(Failure::new(Exit::Failed, message).hint("add another key first"));
        }
        for device in devices {
            keys::revoke(self.repository, self.store, &device)?;
            output.show(
                || format!("revoked {} '{}' {}", device.role.as_str(), device.label, device.device),
                || json!({"type": "device_revoked", "device": device.device.to_string(), "role": device.role.as_str(), "name": device.label}),
            );
        }
        slot.map_or(Ok(()), |slot| self.delete(slot.0, output))
    }

    fn delete(&self, id: KeyId, output: &Output) -> Result<(), Failure> {
        let name = object::slot_name(&id);
        match wait(name.as_str(), self.store.delete(&name)) {
            Err(error @ StoreError::Denied { .. }) if self.store.capabilities().retention.is_some() => {
                let is_noted =
                    self.state.as_deref().is_some_and(|state| Kept::open(state, self.store).and_then(|kept| kept.leave([&name])).is_ok());
                let when = if is_noted {
                    "when its time there is over, which this machine prolongs no more"
                } else {
                    "when its time there is over"
                };
                return Err(Failure::from(error).hint(format!(
                    "the store keeps key {id}, which still opens the repository: 'yesterdrive key remove {id}' again {when}"
                )));
            }
            result => result?,
        }
        output.show(|| format!("removed key {id}"), || json!({"type": "key_removed", "id": id.to_string()}));
        Ok(())
    }
}

#[cfg(target_os = "linux")]
fn remember(global: &Global, remove: bool, output: &Output) -> Result<Exit, Failure> {
    use secret::keyring;
    let address = session::address(global)?;
    if remove {
        keyring::forget(&address)?;
        output.message("the keyring has forgotten the password");
        return Ok(Exit::Done);
    }
    // It is opened first, so that no wrong password is kept.
    let Credential::Password(password) = session::open_knowing(global)?.credential else {
        return Err(Failure::new(Exit::Usage, "the keyring holds passwords: open the repository with one"));
    };
    keyring::keep(&address, &password)?;
    output.message("the keyring holds the password until this machine restarts: use --keyring, or 'keyring = true' in a profile");
    Ok(Exit::Done)
}

#[cfg(not(target_os = "linux"))]
fn remember(_: &Global, _: bool, _: &Output) -> Result<Exit, Failure> {
    Err(Failure::new(Exit::Usage, "there is no keyring on this system that can be used").hint("use --password-command"))
}

fn slots(store: &dyn WriteStore) -> Result<Vec<(KeyId, bytes::Bytes)>, Failure> {
    let prefix = ObjectKind::Slot.prefix();
    let mut slots = Vec::new();
    for meta in wait(prefix, store.list(prefix, None))? {
        if let Some(id) = meta.name.as_str().strip_prefix(prefix).and_then(|id| id.parse().ok()) {
            slots.push((id, wait(meta.name.as_str(), store.get(&meta.name))?));
        }
    }
    Ok(slots)
}
