//! Extended attributes and ACLs.

use fs_core::tree::{Acl, Entry, Value};
use rustix::io::Errno;

const SIZE_MAX: usize = 1 << 16;

/// The extended attributes and ACLs of an entry.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    acl: Acl,
    /// By name.
    xattrs: Vec<(Vec<u8>, Value)>,
}

impl Attributes {
    /// Reads them by the system's calls for a list of names and for a value. Those that cannot be read are left out: most often the file system has none.
    pub(super) fn read(list: impl Fn(&mut [u8]) -> Result<usize, Errno>, value: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>) -> Self {
        let mut read = Self::default();
        let mut names = [0u8; 1024];
        let names = match list(&mut names) {
            Ok(0) | Err(Errno::NOTSUP | Errno::NOENT | Errno::ACCESS | Errno::PERM) => return read,
            Ok(length) => names.get(..length).unwrap_or_default().to_vec(),
            Err(_) => {
                let mut long = vec![0u8; SIZE_MAX];
                let Ok(length) = list(&mut long) else { return read };
                long.truncate(length);
                long
            }
        };
        for name in names.split(|&b| b == 0).filter(|name| !name.is_empty()) {
            let mut bytes = vec![0u8; SIZE_MAX];
            let Ok(length) = value(name, &mut bytes) else { continue };
            bytes.truncate(length);
            match name {
                b"system.posix_acl_access" => read.acl.access = Some(bytes),
                b"system.posix_acl_default" => read.acl.default = Some(bytes),
                _ => read.xattrs.push((name.to_vec(), Value::Inline(bytes))),
            }
        }
        read.xattrs.sort_by(|a, b| a.0.cmp(&b.0));
        read
    }

    /// Says them of an entry.
    pub fn give(self, entry: &mut Entry) {
        (entry.acl, entry.xattrs) = (self.acl, self.xattrs);
    }
}
