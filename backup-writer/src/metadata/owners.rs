//! Who owns what is restored: on another machine the same person may have another number.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use fs_core::tree::Entry;

use crate::system::{group_number, user_number};

/// An owner and a group by their numbers; `None` where nothing was saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

/// To whom restored entries are given.
#[derive(Debug)]
pub enum Owners {
    /// To who restores.
    Me,
    /// To the saved numbers.
    ByNumber,
    /// To those who have the saved names here, else to the saved numbers.
    ByName(Names),
}

/// Numbers of the names that were looked up.
#[derive(Debug, Default)]
pub struct Names {
    users: Mutex<HashMap<String, Option<u32>>>,
    groups: Mutex<HashMap<String, Option<u32>>>,
}

impl Owners {
    /// The owner that an entry is given; `None` to leave it to who restores.
    pub fn of(&self, entry: &Entry) -> Option<Owner> {
        let owner = match self {
            Self::Me => return None,
            Self::ByNumber => Owner { uid: entry.uid, gid: entry.gid },
            Self::ByName(names) => Owner {
                uid: number(&names.users, entry.user.as_deref(), user_number).or(entry.uid),
                gid: number(&names.groups, entry.group.as_deref(), group_number).or(entry.gid),
            },
        };
        // Where owners have no numbers, the security descriptor says who it is.
        (owner.uid.is_some() || owner.gid.is_some() || entry.security_descriptor.is_some()).then_some(owner)
    }
}

fn number(known: &Mutex<HashMap<String, Option<u32>>>, name: Option<&str>, look_up: fn(&str) -> Option<u32>) -> Option<u32> {
    let name = name?;
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(number) = known.get(name) {
        return *number;
    }
    let number = look_up(name);
    known.insert(name.into(), number);
    number
}

// There are no such numbers elsewhere.
#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use fs_core::tree::EntryKind;

    fn entry(user: Option<&str>, uid: u32) -> Entry {
        let user = user.map(str::to_owned);
        Entry { uid: Some(uid), gid: Some(uid), group: user.clone(), user, ..Entry::new(None, EntryKind::File) }
    }

    #[test]
    fn who_has_the_name_here_gets_it_and_else_the_number() {
        let by_name = Owners::ByName(Names::default());
        let owner = |uid| Some(Owner { uid: Some(uid), gid: Some(uid) });
        for (saved, owners, expected) in [
            (entry(Some("root"), 4711), &by_name, owner(0)),
            (entry(Some("nobody-has-this-name"), 4711), &by_name, owner(4711)),
            (entry(None, 4711), &by_name, owner(4711)),
            (entry(Some("root"), 4711), &Owners::ByNumber, owner(4711)),
            (entry(Some("root"), 4711), &Owners::Me, None),
        ] {
            assert_eq!(owners.of(&saved), expected, "{:?} {owners:?}", saved.user);
        }
        assert_eq!(by_name.of(&Entry::new(None, EntryKind::File)), None);
    }
}
