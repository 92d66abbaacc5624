//! The security descriptor of everything on the drive: who may read, and nobody may write. Pure.
//!
//! It must stay below 1024 bytes: the WinFsp library asks with a buffer of that size, and hangs on an answer that does not fit.

/// The most that a descriptor may have.
pub const SIZE_MAX: usize = 1024;
/// Everybody.
pub const WORLD: [u8; 12] = [1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
/// The system itself.
const SYSTEM: [u8; 12] = [1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
/// The administrators of the machine, who can read everything anyway.
const ADMINISTRATORS: [u8; 16] = [1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 0x20, 2, 0, 0];
/// Whoever is the owner: without this entry an owner may change permissions, whatever the list says.
const OWNER: [u8; 12] = [1, 1, 0, 0, 0, 0, 0, 3, 4, 0, 0, 0];
/// To read, to list, to run, to see attributes and permissions.
const READ_AND_EXECUTE: u32 = 0x0012_00a9;
/// `SE_SELF_RELATIVE | SE_DACL_PROTECTED | SE_DACL_PRESENT`
const CONTROL: u16 = 0x8000 | 0x1000 | 0x4;
const HEADER_SIZE: u32 = 20;

/// A descriptor that belongs to `owner` and lets `reader`, the system and administrators read. Both are security identifiers as Windows stores them.
pub fn descriptor(owner: &[u8], reader: &[u8]) -> Vec<u8> {
    let entries: Vec<u8> = [&OWNER, reader, &SYSTEM, &ADMINISTRATORS].into_iter().flat_map(allowed).collect();
    let list_size = 8 + entries.len();
    let size_of = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let group_at = HEADER_SIZE + size_of(owner);
    let list_at = group_at + size_of(owner);
    let mut bytes = vec![1, 0];
    bytes.extend(CONTROL.to_le_bytes());
    // Owner, group, no audit list, access list.
    for offset in [HEADER_SIZE, group_at, 0, list_at] {
        bytes.extend(offset.to_le_bytes());
    }
    bytes.extend(owner);
    bytes.extend(owner);
    bytes.extend([2, 0]);
    bytes.extend(u16::try_from(list_size).unwrap_or(u16::MAX).to_le_bytes());
    bytes.extend([4, 0, 0, 0]);
    bytes.extend(entries);
    bytes
}

/// An entry of an access list that lets somebody read.
fn allowed(who: &[u8]) -> Vec<u8> {
    let mut entry = vec![0, 0];
    entry.extend(u16::try_from(8 + who.len()).unwrap_or(u16::MAX).to_le_bytes());
    entry.extend(READ_AND_EXECUTE.to_le_bytes());
    entry.extend(who);
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A user of a domain has the longest identifier that is met.
    const USER: [u8; 28] = [1, 5, 0, 0, 0, 0, 0, 5, 21, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0xe9, 3, 0, 0];

    #[test]
    fn a_descriptor_has_its_parts_where_it_says_and_fits() {
        let bytes = descriptor(&USER, &USER);
        let at = |offset: usize| u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap()) as usize;
        assert_eq!(bytes[at(4)..at(4) + USER.len()], USER);
        assert_eq!(bytes[at(8)..at(8) + USER.len()], USER);
        let list = &bytes[at(16)..];
        assert_eq!(usize::from(u16::from_le_bytes([list[2], list[3]])), list.len());
        assert!(bytes.len() < SIZE_MAX / 4);
        let rights = |entry: usize| u32::from_le_bytes(list[entry + 4..entry + 8].try_into().unwrap());
        assert_eq!(rights(8), READ_AND_EXECUTE);
        assert_eq!(descriptor(&USER, &WORLD).len() + 16, bytes.len());
    }
}
