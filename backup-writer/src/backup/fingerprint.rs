//! The fingerprint of a directory with everything below: a keyed hash over what the system tells of it, and of what is saved of it. Two runs that get the same
//! one have met the same tree, whatever rules they went by.

use std::cell::Cell;

use fs_core::crypto::{Key, StreamHash, keyed_hash};

use crate::source::{Facts, LiveTree};

/// What a snapshot says of an entry follows from this much of what the system tells. To be counted up whenever a program captures more than the one before,
/// as then every directory has to be looked at anew.
const VERSION: u8 = 1;
/// Bytes that are gathered before they are hashed.
const GATHERED_MAX: usize = 64 << 10;

/// The fingerprint.
pub(super) type Fingerprint = [u8; 16];

/// Owner and group by their numbers.
type Owner = (u32, u32);

/// Owners by name, as a snapshot has them: hashed, because a person who gets another name makes every entry another one.
pub(super) struct Owners<'a> {
    source: &'a LiveTree,
    /// Who runs this: another user may be told more of the same tree, for example of its attributes.
    reader: u32,
    last: Cell<Option<(Owner, [u8; 8])>>,
}

impl<'a> Owners<'a> {
    pub(super) fn new(source: &'a LiveTree) -> Self {
        Self { source, reader: crate::system::reader(), last: Cell::new(None) }
    }

    fn mark(&self, owner: Owner) -> [u8; 8] {
        if let Some((last, mark)) = self.last.get()
            && last == owner
        {
            return mark;
        }
        let (user, group) = self.source.owners(owner.0, owner.1);
        let [a, b, c, d, e, f, g, h, ..] = fs_core::crypto::hash(format!("{user:?} {group:?}").as_bytes());
        let mark = [a, b, c, d, e, f, g, h];
        self.last.set(Some((owner, mark)));
        mark
    }
}

/// Gathers the fingerprint of one directory.
pub(super) struct Gathering<'a> {
    key: &'a Key,
    bytes: Vec<u8>,
    hash: Option<StreamHash>,
    /// Subdirectories, in any order.
    below: Vec<(Vec<u8>, Fingerprint)>,
    /// Whether all of it is saved and told of by nothing but its entries.
    is_clean: bool,
}

impl<'a> Gathering<'a> {
    /// Begins with the directory itself.
    pub(super) fn new(key: &'a Key, owners: &Owners<'_>, directory: &Facts) -> Self {
        let mut all = Self { key, bytes: Vec::new(), hash: None, below: Vec::new(), is_clean: true };
        all.bytes.push(VERSION);
        all.bytes.extend_from_slice(&owners.reader.to_le_bytes());
        all.write(owners, directory);
        all
    }

    /// Adds an entry that is no directory. They come sorted by name.
    pub(super) fn add(&mut self, owners: &Owners<'_>, name: &[u8], facts: &Facts) {
        self.write(owners, facts);
        self.write_name(name);
        if self.bytes.len() > GATHERED_MAX {
            self.hash.get_or_insert_with(|| StreamHash::keyed(self.key)).update(&self.bytes);
            self.bytes.clear();
        }
    }

    /// Adds a subdirectory, in any order; one without a fingerprint leaves this one without.
    pub(super) fn add_directory(&mut self, name: &[u8], fingerprint: Option<Fingerprint>) {
        match fingerprint {
            Some(fingerprint) => self.below.push((name.into(), fingerprint)),
            None => self.is_clean = false,
        }
    }

    /// Something in it is not saved, or tells more than entries do: every run has to look at it.
    pub(super) fn spoil(&mut self) {
        self.is_clean = false;
    }

    /// The fingerprint; `None` if there is something that every run has to look at.
    pub(super) fn finish(mut self) -> Option<Fingerprint> {
        if !self.is_clean {
            return None;
        }
        let mut below = std::mem::take(&mut self.below);
        below.sort_unstable();
        // Facts never begin with it: no entry is of this kind.
        self.bytes.extend_from_slice(&[0xff; 4]);
        for (name, fingerprint) in below {
            self.bytes.extend_from_slice(&fingerprint);
            self.write_name(&name);
        }
        let all = match self.hash {
            None => keyed_hash(self.key, &[&self.bytes]),
            Some(mut hash) => {
                hash.update(&self.bytes);
                hash.finish()
            }
        };
        all.first_chunk().copied()
    }

    fn write(&mut self, owners: &Owners<'_>, facts: &Facts) {
        facts.write(&mut self.bytes);
        let mark = owners.mark((facts.uid, facts.gid));
        self.bytes.extend_from_slice(&mark);
    }

    /// A zero byte is in no name, so each ends where it ends.
    fn write_name(&mut self, name: &[u8]) {
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_its_name_and_its_place_count() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("a"), "x").unwrap();
        let (source, key) = (LiveTree::default(), Key::from_bytes([3; 32]));
        let owners = Owners::new(&source);
        let (directory, top) = source.at(place.path()).unwrap();
        let a = source.facts(&directory, c"a").unwrap();
        type Row<'a> = (&'a str, Option<u8>);
        let print = |key: &Key, rows: &[Row<'_>]| {
            let mut all = Gathering::new(key, &owners, &top.facts);
            for (name, below) in rows {
                match below {
                    Some(below) => all.add_directory(name.as_bytes(), Some([*below; 16])),
                    None => all.add(&owners, name.as_bytes(), &a),
                }
            }
            all.finish().unwrap()
        };
        let all = print(&key, &[("a", None), ("b", Some(1)), ("c", Some(2))]);
        assert_eq!(all, print(&key, &[("a", None), ("c", Some(2)), ("b", Some(1))]), "subdirectories come in any order");
        let others: [&[Row<'_>]; 7] = [
            &[],
            &[("a", None)],
            &[("b", None), ("b", Some(1)), ("c", Some(2))],
            &[("a", None), ("b", Some(1)), ("c", Some(3))],
            &[("a", None), ("b", Some(1)), ("d", Some(2))],
            &[("a", None), ("a", None), ("b", Some(1)), ("c", Some(2))],
            &[("b", Some(1)), ("c", Some(2))],
        ];
        for rows in others {
            assert_ne!(all, print(&key, rows), "{rows:?}");
        }
        assert_ne!(all, print(&Key::from_bytes([4; 32]), &[("a", None), ("b", Some(1)), ("c", Some(2))]));
        let many: Vec<Row<'_>> = vec![("a", None); 2000];
        assert_ne!(print(&key, &many), print(&key, &many[1..]), "more than is gathered at once");
        let mut spoilt = Gathering::new(&key, &owners, &top.facts);
        spoilt.add_directory(b"b", None);
        assert_eq!(spoilt.finish(), None);
    }
}
