//! What anyone can prove of an object who has its bytes and its name, and no key: docs/FORMAT.md, sections 2, 3, 4 and 7.
//!
//! Names of most kinds end in the hash of all bytes. Packs and key slots, whose names are random, end with the hash of what stands before, and have the id of their
//! name in their header. Only of sessions no key-less proof exists: their header is all that can be compared.

use super::{HEADER_LENGTH, Header, ObjectError, ObjectKind, parse_numbered, parse_pack_name, parse_run_name, parse_sequence_name};
use crate::crypto::{StreamHash, TAG_LENGTH};
use crate::id::{DeviceId, KeyId, ObjectHash, PackId, RepositoryId, SessionId};
use crate::storage::ObjectName;
use crate::wire::BODY_STEP;

/// How an object of a kind is proven.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Proof {
    /// The name ends in the hash of all bytes.
    Name(ObjectHash),
    /// The bytes end with the hash of those before; the header has the id of the name.
    End([u8; 16]),
    /// The header has the id of the name. The rest stays unproven.
    HeaderOnly([u8; 16]),
}

/// What a name promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Promise {
    /// Kind of the object.
    pub kind: ObjectKind,
    proof: Proof,
}

impl Promise {
    /// What the name of an object promises; `None` for names that no object of ours has.
    pub fn of(name: &ObjectName) -> Option<Self> {
        let (_, kind, prefix) = ObjectKind::ALL.into_iter().find(|(_, _, prefix)| name.as_str().starts_with(prefix))?;
        let rest = name.as_str().strip_prefix(prefix)?;
        let proof = match kind {
            ObjectKind::DataPack | ObjectKind::MetaPack => Proof::End(*parse_pack_name(kind, name)?.as_bytes()),
            ObjectKind::Slot => Proof::End(*rest.parse::<KeyId>().ok()?.as_bytes()),
            ObjectKind::Session => {
                let (device, session) = rest.split_once('/')?;
                device.parse::<DeviceId>().ok()?;
                Proof::HeaderOnly(*session.parse::<SessionId>().ok()?.as_bytes())
            }
            ObjectKind::Manifest | ObjectKind::Seal => Proof::Name(parse_sequence_name(kind, name)?.2),
            ObjectKind::Tombstones | ObjectKind::Mark => Proof::Name(parse_run_name(kind, name)?.1),
            ObjectKind::Config => Proof::Name(parse_numbered(rest)?.1),
            // `HASH`, or an id of sixteen bytes and then the hash.
            _ => match rest.split_once('-') {
                None => Proof::Name(rest.parse().ok()?),
                Some((id, hash)) => {
                    id.parse::<DeviceId>().ok()?;
                    Proof::Name(hash.parse().ok()?)
                }
            },
        };
        Some(Self { kind, proof })
    }

    /// The hash of all bytes in which the name ends, if it does. What stands before it, a device or number, nobody can prove without a key.
    pub fn hash(&self) -> Option<ObjectHash> {
        match self.proof {
            Proof::Name(hash) => Some(hash),
            Proof::End(_) | Proof::HeaderOnly(_) => None,
        }
    }

    /// Whether the bytes of such an object can be proven at all without a key.
    pub fn is_provable(&self) -> bool {
        !matches!(self.proof, Proof::HeaderOnly(_))
    }
}

/// What is wrong with an object, as far as can be told without a key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Flaw {
    /// The bytes are not those that were written under this name.
    #[error("it is damaged: its bytes do not have the hash {0}")]
    Damaged(&'static str),
    /// It has another length than such an object can have.
    #[error("it is damaged: no such object has {0} bytes")]
    Cut(u64),
    /// It is whole, or its beginning is, and belongs elsewhere.
    #[error("it is misplaced: by its header it is {0}")]
    Misplaced(String),
    /// It does not begin like an object that this program knows.
    #[error("it is damaged or no object: {0}")]
    Unreadable(ObjectError),
}

/// Takes an object in parts and says at its end whether it is what its name promises.
#[derive(Debug)]
pub struct Prover {
    promise: Promise,
    hash: StreamHash,
    head: Vec<u8>,
    length: u64,
    /// The last bytes so far, which may be the end hash.
    tail: Vec<u8>,
}

impl Prover {
    /// Begins with nothing read.
    pub fn new(promise: Promise) -> Self {
        Self { promise, hash: StreamHash::plain(), head: Vec::new(), length: 0, tail: Vec::new() }
    }

    /// The next bytes of the object.
    pub fn update(&mut self, bytes: &[u8]) {
        let room = HEADER_LENGTH.saturating_sub(self.head.len());
        self.head.extend(bytes.iter().take(room));
        self.length += bytes.len() as u64;
        if !matches!(self.promise.proof, Proof::End(_)) {
            return self.hash.update(bytes);
        }
        // All but the last bytes are hashed; which are the last is known at the end.
        let all = self.tail.len() + bytes.len();
        let ready = all.saturating_sub(ObjectHash::LENGTH);
        let (of_tail, of_bytes) = (ready.min(self.tail.len()), ready.saturating_sub(self.tail.len()));
        let (done, kept) = self.tail.split_at(of_tail);
        self.hash.update(done);
        let (now, later) = bytes.split_at(of_bytes);
        self.hash.update(now);
        self.tail = [kept, later].concat();
    }

    /// The repository that the object says to belong to.
    ///
    /// # Errors
    /// [`Flaw`]. An object whose hash is right and whose header is another's is misplaced; else it is damaged.
    pub fn finish(self) -> Result<RepositoryId, Flaw> {
        let end = self.hash.finish();
        let broken = match self.promise.proof {
            Proof::Name(hash) if *hash.as_bytes() != end => Some("that its name says"),
            Proof::End(_) if self.tail != end => Some("at their end"),
            _ => None,
        };
        let header = Header::decode(&self.head).map(|(header, ..)| header);
        let belongs = header.as_ref().ok().and_then(|header| misplaced(self.promise, header));
        match (broken, header, belongs) {
            // The bytes of a pack are proven by themselves: then what its header says is where it belongs.
            (None, _, Some(place)) => Err(Flaw::Misplaced(place)),
            // The header, a padded body, a tag: what was cut off, or put together from two, shows at least by that.
            (None, Ok(_), None) if matches!(self.promise.proof, Proof::HeaderOnly(_)) && !is_length_of_signed(self.length) => {
                Err(Flaw::Cut(self.length))
            }
            (None, Ok(header), None) => Ok(header.repository),
            (None, Err(error), _) => Err(Flaw::Unreadable(error)),
            (Some(_), _, Some(place)) => Err(Flaw::Misplaced(format!("{place}, or it is damaged"))),
            (Some(which), _, None) => Err(Flaw::Damaged(which)),
        }
    }
}

/// Whether an object that is one sealed, signed body can have so many bytes.
fn is_length_of_signed(length: u64) -> bool {
    let body = length.checked_sub((HEADER_LENGTH + TAG_LENGTH) as u64);
    body.is_some_and(|body| body > 0 && body.is_multiple_of(BODY_STEP as u64))
}

/// What the header says that the object is, if that is not what the name says.
fn misplaced(promise: Promise, header: &Header) -> Option<String> {
    let salt = match promise.proof {
        Proof::End(salt) | Proof::HeaderOnly(salt) => Some(salt),
        Proof::Name(_) => None,
    };
    let is_right = header.kind == promise.kind && salt.is_none_or(|salt| salt == header.salt);
    (!is_right).then(|| describe(header))
}

/// What an object is by its header, and its name where that follows.
pub fn describe(header: &Header) -> String {
    match header.kind {
        kind @ (ObjectKind::DataPack | ObjectKind::MetaPack) => super::pack_name(kind, &PackId::from_bytes(header.salt)).to_string(),
        ObjectKind::Slot => super::slot_name(&KeyId::from_bytes(header.salt)).to_string(),
        ObjectKind::Session => format!("a session {}", SessionId::from_bytes(header.salt)),
        kind => format!("one of {}", kind.prefix()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{self, SystemRandom};
    use crate::object::{object_hash, pack_name, sequence_name, session_name};

    const REPOSITORY: RepositoryId = RepositoryId::from_bytes([5; 16]);

    fn prove(name: &ObjectName, bytes: &[u8], step: usize) -> Result<RepositoryId, Flaw> {
        let mut prover = Prover::new(Promise::of(name).unwrap());
        bytes.chunks(step).for_each(|part| prover.update(part));
        prover.finish()
    }

    fn pack() -> (ObjectName, Vec<u8>) {
        let header = Header::new(ObjectKind::DataPack, 1, REPOSITORY, &SystemRandom);
        let body = [&header.encode()[..], &[7; 200]].concat();
        let bytes = [&body[..], &crypto::hash(&body)].concat();
        (pack_name(ObjectKind::DataPack, &PackId::from_bytes(header.salt)), bytes)
    }

    fn seal() -> (ObjectName, Vec<u8>) {
        let bytes = [&Header::new(ObjectKind::Seal, 1, REPOSITORY, &SystemRandom).encode()[..], &[3; 99]].concat();
        (sequence_name(ObjectKind::Seal, &DeviceId::from_bytes([1; 16]), 7, &object_hash(&bytes)), bytes)
    }

    #[test]
    fn whole_objects_are_proven_in_parts_of_any_length() {
        for (name, bytes) in [pack(), seal()] {
            for step in [1, 31, 32, 33, 64, 1000] {
                assert_eq!(prove(&name, &bytes, step), Ok(REPOSITORY), "{name} {step}");
            }
        }
    }

    #[test]
    fn every_flip_and_every_cut_is_a_flaw() {
        for (name, bytes) in [pack(), seal()] {
            for at in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1;
                assert!(prove(&name, &damaged, 50).is_err(), "{name} {at}");
                assert!(prove(&name, &bytes[..at], 50).is_err(), "{name} cut at {at}");
            }
        }
    }

    #[test]
    fn what_is_whole_and_stands_elsewhere_says_where_it_belongs() {
        let ((one, bytes), (other, _)) = (pack(), pack());
        assert_eq!(prove(&other, &bytes, 50), Err(Flaw::Misplaced(one.to_string())));
        let (_, seal) = seal();
        let as_manifest = sequence_name(ObjectKind::Manifest, &DeviceId::from_bytes([1; 16]), 7, &object_hash(&seal));
        assert_eq!(prove(&as_manifest, &seal, 50), Err(Flaw::Misplaced("one of seal/".into())));
    }

    #[test]
    fn names_of_every_kind_promise_something_and_foreign_ones_nothing() {
        let (hash, device) = ("ab".repeat(32), "0c".repeat(16));
        let ours = [
            format!("repo/0000000001-{hash}"),
            format!("keys/{device}"),
            format!("dev/{device}-{hash}"),
            format!("sess/{device}/{device}"),
            format!("pack/0c/{device}"),
            format!("meta/0c/{device}"),
            format!("idx/{hash}"),
            format!("cat/{hash}"),
            format!("snap/{device}/0000000001-{hash}"),
            format!("seal/{device}/0000000001-{hash}"),
            format!("drop/{device}-{hash}"),
            format!("mark/{device}-{hash}"),
        ];
        for (name, (_, kind, _)) in ours.iter().zip(ObjectKind::ALL) {
            let promise = Promise::of(&ObjectName::new(name.as_str())).unwrap();
            assert_eq!((promise.kind, promise.is_provable()), (kind, kind != ObjectKind::Session), "{name}");
        }
        for foreign in ["probe/x", "pack/0d/0c0c", "idx/12", "keys/x", "pack", "cat/ab-cd", &format!("pack/0d/{device}")] {
            assert_eq!(Promise::of(&ObjectName::new(foreign)), None, "{foreign}");
        }
        let session = session_name(&DeviceId::from_bytes([1; 16]), &SessionId::from_bytes([2; 16]));
        let header = Header { kind: ObjectKind::Session, epoch: 1, repository: REPOSITORY, salt: [2; 16] };
        let whole = |header: Header| [&header.encode()[..], &[0; BODY_STEP + TAG_LENGTH]].concat();
        let sound = whole(header);
        assert_eq!(prove(&session, &sound, 50), Ok(REPOSITORY));
        assert!(prove(&session, &whole(Header { salt: [3; 16], ..header }), 50).is_err());
        for cut in [HEADER_LENGTH, HEADER_LENGTH + TAG_LENGTH, 500, sound.len() - 1] {
            assert_eq!(prove(&session, &sound[..cut], 50), Err(Flaw::Cut(cut as u64)));
        }
    }
}
