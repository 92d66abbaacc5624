//! Errors of Windows by the names that Unix has for them.

use std::fmt;

use windows_sys::Win32::Foundation as codes;

/// An error of the system. Codes that mean the same to us are one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(u32);

impl Errno {
    /// It is not there.
    pub const NOENT: Self = Self(codes::ERROR_FILE_NOT_FOUND);
    /// It is there already.
    pub const EXIST: Self = Self(codes::ERROR_ALREADY_EXISTS);
    /// The system refuses.
    pub const ACCESS: Self = Self(codes::ERROR_ACCESS_DENIED);
    /// It takes a privilege.
    pub const PERM: Self = Self(codes::ERROR_PRIVILEGE_NOT_HELD);
    /// Somebody has it open and lets nobody else have it.
    pub const BUSY: Self = Self(codes::ERROR_SHARING_VIOLATION);
    /// It is a reparse point.
    pub const LOOP: Self = Self(codes::ERROR_REPARSE_TAG_MISMATCH);
    /// It is no directory.
    pub const NOTDIR: Self = Self(codes::ERROR_DIRECTORY);
    /// It is a directory.
    pub const ISDIR: Self = Self(codes::ERROR_DIRECTORY_NOT_SUPPORTED);
    /// The file system cannot do that.
    pub const NOTSUP: Self = Self(codes::ERROR_NOT_SUPPORTED);
    /// The system cannot do that.
    pub const NOSYS: Self = Self(codes::ERROR_CALL_NOT_IMPLEMENTED);
    /// It makes no sense.
    pub const INVAL: Self = Self(codes::ERROR_INVALID_PARAMETER);
    /// The name or path is too long.
    pub const NAMETOOLONG: Self = Self(codes::ERROR_FILENAME_EXCED_RANGE);
    /// It lies on another file system.
    pub const XDEV: Self = Self(codes::ERROR_NOT_SAME_DEVICE);
    /// It has as many names as it may have.
    pub const MLINK: Self = Self(codes::ERROR_TOO_MANY_LINKS);
    /// It is no device of blocks.
    pub const NOTBLK: Self = Self(codes::ERROR_BAD_DEV_TYPE);
    /// There is no more of it.
    pub const EOF: Self = Self(codes::ERROR_HANDLE_EOF);
    /// The content of a cloud file cannot be had.
    pub const CLOUD: Self = Self(codes::ERROR_CLOUD_FILE_ACCESS_DENIED);
    /// An owner that this user may not give.
    pub const OWNER: Self = Self(codes::ERROR_INVALID_OWNER);

    /// The error of a code of Windows.
    pub(crate) fn from_code(code: u32) -> Self {
        match code {
            codes::ERROR_PATH_NOT_FOUND => Self::NOENT,
            codes::ERROR_FILE_EXISTS => Self::EXIST,
            codes::ERROR_LOCK_VIOLATION => Self::BUSY,
            codes::ERROR_INVALID_FUNCTION => Self::NOTSUP,
            code => Self(code),
        }
    }

    /// The code of Windows.
    pub(crate) fn code(self) -> u32 {
        self.0
    }
}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Self {
        let code = error.raw_os_error().and_then(|code| u32::try_from(code).ok());
        code.map_or(Self(codes::ERROR_GEN_FAILURE), Self::from_code)
    }
}

impl From<Errno> for std::io::Error {
    fn from(error: Errno) -> Self {
        Self::from_raw_os_error(i32::try_from(error.0).unwrap_or(i32::MAX))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::io::Error::from(*self).fmt(f)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({})", self.0)
    }
}

impl std::error::Error for Errno {}
