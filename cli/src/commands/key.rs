//! `key`

use backup_writer::create::{NewKey, add_key};
use fs_core::crypto::{Key as SecretKey, SystemRandom};
use fs_core::id::KeyId;
use fs_core::key::slot::{Credential, PasswordCost, SlotKind, key_file_text, open, open_label, recovery_words};
use fs_core::object::{self, ObjectKind};
use fs_core::repository::Repository;
use fs_core::storage::{WriteStore, wait};
use fs_core::time::SystemClock;
use serde_json::json;

use super::init::{sheet, write_secret};
use crate::args::{Global, Key};
use crate::error::{Exit, Failure};
use crate::output::Output;
use crate::{secret, session};

pub(crate) fn run(global: &Global, command: &Key, output: &Output) -> Result<Exit, Failure> {
    let (repository, store) = session::open(global)?;
    match command {
        Key::List => list(&repository, &*store, output)?,
        Key::Add { label, new_key_file: Some(file), .. } => {
            let key = SecretKey::random(&SystemRandom);
            write_secret(file, &key_file_text(&key))?;
            add(&repository, &*store, Credential::KeyFile(key), label, output)?;
        }
        Key::Add { label, new_password_file, .. } => {
            // The environment holds the password that opened the repository, not the new one.
            let password = ask_new(global, new_password_file.as_deref())?;
            add(&repository, &*store, Credential::Password(password), label, output)?;
        }
        Key::Remove { id } => remove(&repository, &*store, id, output)?,
        Key::Password { new_password_file } => {
            let used = secret::credential(global)?;
            if used.kind() != SlotKind::Password {
                return Err(Failure::new(Exit::Usage, "open the repository with the password that is to be changed"));
            }
            let old = slots(&*store)?.into_iter().find(|(id, bytes)| matches!(open(*id, bytes, &used), Ok(Some(_))));
            let password = ask_new(global, new_password_file.as_deref())?;
            add(&repository, &*store, Credential::Password(password), "password", output)?;
            if let Some((id, _)) = old {
                remove(&repository, &*store, &id.to_string(), output)?;
            }
        }
        Key::Recovery => {
            let code = SecretKey::random(&SystemRandom);
            add(&repository, &*store, Credential::Recovery(code.clone()), "recovery code", output)?;
            output.message(&sheet(&recovery_words(&code), &store.location(), &repository.id().to_string()));
        }
    }
    Ok(Exit::Done)
}

fn ask_new(global: &Global, file: Option<&std::path::Path>) -> Result<zeroize::Zeroizing<String>, Failure> {
    secret::new_password(&global.without_credentials(), file)
}

fn add(repository: &Repository, store: &dyn WriteStore, credential: Credential, label: &str, output: &Output) -> Result<(), Failure> {
    let kind = credential.kind().as_str();
    let key = NewKey { credential, label: label.into(), cost: PasswordCost::DEFAULT };
    let id = add_key(store, repository.ring(), &key, &SystemClock::shared(), &SystemRandom::shared())?;
    output.show(|| format!("added {kind} {id}"), || json!({"type": "key_added", "id": id.to_string(), "kind": kind}));
    Ok(())
}

fn list(repository: &Repository, store: &dyn WriteStore, output: &Output) -> Result<(), Failure> {
    for (id, bytes) in slots(store)? {
        match open_label(id, &bytes, repository.ring()) {
            Ok(label) => {
                let (kind, role, created) = (label.kind.as_str(), label.role.as_str(), label.created);
                output.show(
                    || format!("{id}  {kind:<9} {role:<10} {created}  {}", label.label),
                    || json!({"type": "key", "id": id.to_string(), "kind": kind, "role": role, "created": created.to_string(), "label": label.label}),
                );
            }
            Err(error) => output.message(&format!("warning: key {id}: {error}")),
        }
    }
    Ok(())
}

fn remove(repository: &Repository, store: &dyn WriteStore, id: &str, output: &Output) -> Result<(), Failure> {
    let all = slots(store)?;
    let hits: Vec<_> = all.iter().filter(|(slot, _)| !id.is_empty() && slot.to_string().starts_with(id)).collect();
    let [(slot, _)] = hits[..] else {
        return Err(Failure::new(Exit::Usage, format!("'{id}' is the beginning of {} key ids", hits.len()))
            .hint("'yesterdrive key list' shows them"));
    };
    let usable = all.iter().filter(|(other, bytes)| other != slot && open_label(*other, bytes, repository.ring()).is_ok()).count();
    if usable == 0 {
        return Err(
            Failure::new(Exit::Failed, "this is the last key: without it nobody could open the repository").hint("add another key first")
        );
    }
    let name = object::slot_name(slot);
    wait(name.as_str(), store.delete(&name))?;
    output.show(|| format!("removed key {slot}"), || json!({"type": "key_removed", "id": slot.to_string()}));
    Ok(())
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
