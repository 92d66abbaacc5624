//! `key`

use std::path::Path;

use backup_writer::create::put_slot;
use fs_core::crypto::{Key as SecretKey, SystemRandom};
use fs_core::id::KeyId;
use fs_core::key::slot::{Credential, PasswordCost, SlotKind, SlotLabel, key_file_text, open, open_label};
use fs_core::key::words::recovery_words;
use fs_core::object::{self, ObjectKind};
use fs_core::repository::Repository;
use fs_core::storage::{WriteStore, wait};
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
    let keys = Keys { repository: &repository, store: &*store, all: slots(&*store)? };
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
        Key::Remove { key } => {
            keys.remove(keys.find(key)?, output)?;
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
            let page = Sheet::new(recovery_words(&code), &session::address(global)?, repository.id())?;
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

    /// The key that a name or the beginning of an id means.
    fn find(&self, wanted: &str) -> Result<KeyId, Failure> {
        let fits = |slot: &&(KeyId, bytes::Bytes)| {
            !wanted.is_empty() && (slot.0.to_string().starts_with(wanted) || self.label(slot).is_some_and(|label| label.label == wanted))
        };
        let hits: Vec<_> = self.all.iter().filter(fits).map(|slot| slot.0).collect();
        match hits[..] {
            [id] => Ok(id),
            [] => Err(Failure::new(Exit::Usage, format!("no key has the name '{wanted}' or an id that begins so"))
                .hint("'yesterdrive key list' shows them")),
            _ => Err(Failure::new(Exit::Usage, format!("'{wanted}' means {} keys", hits.len())).hint("give more of the id")),
        }
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

    fn remove(&self, id: KeyId, output: &Output) -> Result<(), Failure> {
        // Only those count that can be read: a damaged slot opens nothing.
        if !self.all.iter().any(|slot| slot.0 != id && self.label(slot).is_some()) {
            let message = "this is the last key: without it nobody could open the repository";
            return Err(Failure::new(Exit::Failed, message).hint("add another key first"));
        }
        self.delete(id, output)
    }

    fn delete(&self, id: KeyId, output: &Output) -> Result<(), Failure> {
        let name = object::slot_name(&id);
        wait(name.as_str(), self.store.delete(&name))?;
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
