//! Security descriptors in their self-relative form: looked at before anything relies on what they say of themselves. Pure.

/// The owner.
pub(crate) const OWNER: u32 = 1;
/// The group.
pub(crate) const GROUP: u32 = 2;
/// The list of who may do what.
pub(crate) const DACL: u32 = 4;
/// The list of what is logged.
pub(crate) const SACL: u32 = 8;
/// That the list takes nothing over from the folder above.
pub(crate) const PROTECTED_DACL: u32 = 0x8000_0000;
/// That it does.
pub(crate) const UNPROTECTED_DACL: u32 = 0x2000_0000;

const HAS_DACL: u16 = 0x0004;
const HAS_SACL: u16 = 0x0010;
const IS_PROTECTED: u16 = 0x1000;
const IS_SELF_RELATIVE: u16 = 0x8000;
/// Length of the part that says where the others are.
const HEAD: usize = 20;
/// As long as any may be.
const SIZE_MAX: usize = 256 << 10;

/// A descriptor whose parts all lie within it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor<'a> {
    bytes: &'a [u8],
    control: u16,
}

impl<'a> Descriptor<'a> {
    /// Takes bytes as a descriptor; `None` if they are none.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let control = u16::from_le_bytes(*bytes.get(2..)?.first_chunk()?);
        let whole = Self { bytes, control };
        let is_whole = bytes.len() <= SIZE_MAX
            && bytes.first() == Some(&1)
            && control & IS_SELF_RELATIVE != 0
            && [4, 8].into_iter().all(|at| whole.offset(at) == Some(0) || whole.sid(at).is_some())
            && [(12, HAS_SACL), (16, HAS_DACL)]
                .into_iter()
                .all(|(at, has)| control & has == 0 || whole.offset(at) == Some(0) || whole.list(at).is_some());
        is_whole.then_some(whole)
    }

    /// The owner's id.
    pub(crate) fn owner(&self) -> Option<&'a [u8]> {
        self.sid(4)
    }

    /// The group's id.
    pub(crate) fn group(&self) -> Option<&'a [u8]> {
        self.sid(8)
    }

    /// Which of the access lists it has, with what is to be said of their inheritance.
    pub(crate) fn lists(&self) -> u32 {
        let inheritance = if self.control & IS_PROTECTED != 0 { PROTECTED_DACL } else { UNPROTECTED_DACL };
        if self.control & HAS_DACL != 0 { DACL | inheritance } else { 0 }
    }

    /// Whether it says what is logged.
    pub(crate) fn has_sacl(&self) -> bool {
        self.control & HAS_SACL != 0
    }

    fn offset(&self, at: usize) -> Option<usize> {
        self.bytes.get(at..)?.first_chunk().and_then(|bytes| usize::try_from(u32::from_le_bytes(*bytes)).ok())
    }

    fn part(&self, at: usize) -> Option<&'a [u8]> {
        let offset = self.offset(at)?;
        if offset < HEAD { None } else { self.bytes.get(offset..) }
    }

    /// A revision, a count, six bytes of who gave the id, and so many numbers.
    fn sid(&self, at: usize) -> Option<&'a [u8]> {
        let part = self.part(at)?;
        let (revision, count) = (part.first()?, part.get(1)?);
        if *revision == 1 && *count <= 15 { part.get(..8 + 4 * usize::from(*count)) } else { None }
    }

    /// A revision, a length, a count, and entries that each say how long they are.
    fn list(&self, at: usize) -> Option<&'a [u8]> {
        let part = self.part(at)?;
        let half = |bytes: &[u8], at: usize| bytes.get(at..)?.first_chunk().map(|bytes| usize::from(u16::from_le_bytes(*bytes)));
        let list = part.get(..half(part, 2)?)?;
        let mut rest = list.get(8..)?;
        for _ in 0..half(list, 4)? {
            let length = half(rest, 2)?;
            if length < 4 {
                return None;
            }
            rest = rest.get(length..)?;
        }
        Some(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Owner and group are administrators; the list lets them do everything.
    fn example() -> Vec<u8> {
        let sid = [1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 32, 2, 0, 0];
        let ace = [&[0u8, 0, 24, 0, 0xff, 1, 0x1f, 0][..], &sid].concat();
        let acl = [&[2u8, 0, 32, 0, 1, 0, 0, 0][..], &ace].concat();
        let control = IS_SELF_RELATIVE | HAS_DACL | IS_PROTECTED;
        let head = [&[1u8, 0][..], &control.to_le_bytes(), &[20, 0, 0, 0, 36, 0, 0, 0, 0, 0, 0, 0, 52, 0, 0, 0]].concat();
        [head, sid.to_vec(), sid.to_vec(), acl].concat()
    }

    #[test]
    fn parts_are_found() {
        let bytes = example();
        let found = Descriptor::parse(&bytes).unwrap();
        assert_eq!((found.owner().unwrap().len(), found.group().unwrap().len()), (16, 16));
        assert_eq!((found.lists(), found.has_sacl()), (DACL | PROTECTED_DACL, false));
    }

    #[test]
    fn what_points_outside_is_none_and_no_bytes_panic() {
        let whole = example();
        for length in 0..whole.len() {
            assert!(Descriptor::parse(&whole[..length]).is_none(), "cut at {length}");
        }
        for at in 0..whole.len() {
            for value in 0..=255 {
                let mut changed = whole.clone();
                changed[at] = value;
                if let Some(found) = Descriptor::parse(&changed) {
                    let _ = (found.owner(), found.group(), found.lists());
                }
            }
        }
    }
}
