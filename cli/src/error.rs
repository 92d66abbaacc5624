//! What went wrong, in one message with its causes, a hint, and the exit code.

use std::error::Error;
use std::process::ExitCode;

use backup_writer::backup::BackupError;
use backup_writer::close::CloseError;
use backup_writer::copy::CopyError;
use backup_writer::copy::snapshots::SnapshotCopyError;
use backup_writer::create::CreateError;
use backup_writer::device::DeviceError;
use backup_writer::export::ExportError;
use backup_writer::forget::ForgetError;
use backup_writer::keys::KeysError;
use backup_writer::merge::MergeError;
use backup_writer::packer::PackError;
use backup_writer::prolong::ProlongError;
use backup_writer::prune::PruneError;
use backup_writer::repair::RepairError;
use backup_writer::restore::RestoreError;
use backup_writer::source::stream::StreamError;
use backup_writer::what::WhatError;
use fs_core::cache::CacheError;
use fs_core::repository::{PinError, ReadError, RepositoryError};
use fs_core::snapshot::ManifestError;
use fs_core::snapshot::select::SelectError;
use fs_core::storage::StoreError;

use crate::output::size;

/// How the program ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// Done.
    Done,
    /// Failed.
    Failed,
    /// Wrong use.
    Usage,
    /// Done, but the report has findings.
    Findings,
    /// Wrong key.
    WrongKey,
    /// The repository cannot be reached.
    Unreachable,
    /// Interrupted.
    Interrupted,
}

impl Exit {
    /// The number.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Findings => 3,
            Self::WrongKey => 4,
            Self::Unreachable => 5,
            Self::Interrupted => 130,
        }
    }
}

impl Exit {
    /// How another run of this program ended; `None` if a signal ended it.
    pub(crate) fn from_code(code: Option<i32>) -> Self {
        let all = [Self::Usage, Self::Findings, Self::WrongKey, Self::Unreachable, Self::Interrupted];
        all.into_iter().find(|exit| code == Some(exit.code().into())).unwrap_or(Self::Failed)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// How the program ends.
    pub(crate) exit: Exit,
    /// What happened, with causes.
    pub(crate) message: String,
    /// What to do.
    pub(crate) hint: Option<String>,
}

impl Failure {
    /// A failure in our own words.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
    }

    /// The same with advice.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    fn from_error(exit: Exit, error: &dyn Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // A transparent error repeats its cause.
            if !message.ends_with(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            source = cause.source();
        }
        Self::new(exit, message)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let failure = Self::from_error(Exit::Failed, &error);
        match &error {
            StoreError::Full { .. } => {
                failure.hint("free some space where the repository lies and run it again; what was uploaded is used")
            }
            StoreError::Denied { .. } => Self { exit: Exit::Unreachable, ..failure }
                .hint("check the owner and permissions of the repository, and that it is not write-protected"),
            StoreError::Failed { source, .. } if source.kind() == std::io::ErrorKind::InvalidData => {
                failure.hint("it was reached: check the repository's address, and how the place is set up")
            }
            StoreError::Timeout { .. } | StoreError::Failed { .. } => {
                Self { exit: Exit::Unreachable, ..failure }.hint("check that the repository's disk or server is there")
            }
            StoreError::NotFound { .. } | StoreError::AlreadyExists { .. } | StoreError::WrongSize { .. } => failure,
        }
    }
}

impl From<RepositoryError> for Failure {
    fn from(error: RepositoryError) -> Self {
        match error {
            RepositoryError::NotThere { .. } => {
                Self::from_error(Exit::Unreachable, &error).hint("check the path, or create a repository with 'yesterdrive init'")
            }
            RepositoryError::WrongKey { .. } => Self::from_error(Exit::WrongKey, &error)
                .hint("check the password or key file; the recovery code opens it too: --recovery-file"),
            RepositoryError::NotAllowed { .. } => Self::from_error(Exit::WrongKey, &error).hint(READERS_KEY),
            RepositoryError::Object { .. } => Self::from_error(Exit::Failed, &error),
            RepositoryError::OtherNear { .. } => {
                Self::from_error(Exit::Failed, &error).hint("name a copy that 'yesterdrive copy' has made of this repository after --near")
            }
            RepositoryError::Store(error) => error.into(),
        }
    }
}

/// What helps where a key's role does not reach.
const READERS_KEY: &str = "use the owner's key or that of a reader";

impl From<ManifestError> for Failure {
    fn from(error: ManifestError) -> Self {
        Self::from_error(Exit::Failed, &error)
            .hint("the repository may be in order: remove its folder from the cache folder (--cache-dir), and it is read anew")
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Store(error) => error.into(),
            ReadError::Manifest(error) => error.into(),
            ReadError::Index(error) if matches!(*error, RepositoryError::NotAllowed { .. }) => (*error).into(),
            error @ ReadError::Key { .. } => Self::from_error(Exit::WrongKey, &error).hint(READERS_KEY),
            error => Self::from_error(Exit::Failed, &error).hint("'yesterdrive check' tells what is damaged"),
        }
    }
}

impl From<PinError> for Failure {
    fn from(error: PinError) -> Self {
        let failure = Self::from_error(Exit::Failed, &error);
        match error {
            PinError::Read(error) => error.into(),
            PinError::Cancelled => {
                Self { exit: Exit::Interrupted, ..failure }.hint("run it again: it goes on from there; 'yesterdrive unpin' lets go of it")
            }
            PinError::TooLarge { bytes, pinned, quota, enough } => {
                let others = if pinned > 0 { format!(", beside {} that are pinned already", size(pinned)) } else { String::new() };
                let message = format!("{} may be too much for a cache of {}{others}", size(bytes), size(quota));
                let enough = enough.div_ceil(1 << 20);
                let enough = if enough < 10 << 10 { format!("{enough}M") } else { format!("{}G", enough.div_ceil(1 << 10)) };
                Self::new(Exit::Failed, message).hint(format!("--cache-size {enough} will do, here and for the drives of this repository"))
            }
            PinError::NoRoom { folder, quota } => {
                let (folder, quota) = (folder.display(), size(quota));
                let message = format!("the cache in {folder} takes no more: it may have {quota}, and leaves a twentieth of the disk free");
                Self::new(Exit::Failed, message)
                    .hint("free some space or give a larger --cache-size, and run it again: it goes on from there")
            }
            PinError::TooMany { .. } => failure.hint("'yesterdrive pin --list' lists them, 'yesterdrive unpin' lets go of one"),
            PinError::NoCache => failure.hint("name a folder for it: --cache-dir FOLDER"),
            PinError::NotThere { .. } | PinError::Name(_) | PinError::Cache(_) => failure,
        }
    }
}

impl From<CacheError> for Failure {
    fn from(error: CacheError) -> Self {
        Self::from_error(Exit::Failed, &error)
    }
}

impl From<SelectError> for Failure {
    fn from(error: SelectError) -> Self {
        Self::from_error(Exit::Failed, &error).hint("'yesterdrive snapshots' lists them")
    }
}

impl From<CreateError> for Failure {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::Store(error) => error.into(),
            error => Self::from_error(Exit::Failed, &error),
        }
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Cancelled { kept_bytes: 0 } => {
                Self::new(Exit::Interrupted, "the backup was interrupted before anything was put into the repository")
            }
            BackupError::Cancelled { kept_bytes } => {
                let kept = size(kept_bytes);
                Self::new(Exit::Interrupted, format!("the backup was interrupted; {kept} are kept, the next run goes on from there"))
            }
            BackupError::Closed { closing } => Self::from_error(Exit::Failed, &error)
                .hint(format!("fetch what is in it before {}; 'yesterdrive repo close --undo' takes it back", closing.due)),
            BackupError::Overdue => Self::from_error(Exit::Failed, &error)
                .hint("check the clocks of this machine and of the repository's server, and run it again"),
            BackupError::Nothing | BackupError::ShownAs { .. } | BackupError::Inside { .. } | BackupError::Twice { .. } => {
                Self::from_error(Exit::Usage, &error)
            }
            BackupError::Stream(StreamError::Empty { .. }) => {
                Self::from_error(Exit::Failed, &error).hint("there is no snapshot; --allow-empty takes it as it is")
            }
            BackupError::Stream(StreamError::Cut { .. }) => Self::from_error(Exit::Failed, &error)
                .hint("there is no snapshot; --end-mark TEXT names another mark, --no-end-mark expects none"),
            BackupError::Stream(_) => Self::from_error(Exit::Failed, &error).hint("there is no snapshot"),
            BackupError::Repository(error) | BackupError::Pack(PackError::Repository(error)) => error.into(),
            BackupError::Store(error) | BackupError::Pack(PackError::Store(error)) => error.into(),
            BackupError::Pack(PackError::Original { .. }) => Self::from_error(Exit::Unreachable, &error)
                .hint("check that its disk or server is there and run it again: what was copied stays copied"),
            BackupError::Parent(error) if !error.is_damage() => error.into(),
            error => Self::from_error(Exit::Failed, &error),
        }
    }
}

impl From<WhatError> for Failure {
    fn from(error: WhatError) -> Self {
        match error {
            WhatError::Read(error) => error.into(),
            WhatError::SameName { .. } => Self::from_error(Exit::Usage, &error)
                .hint("take each in a run of its own, or the folder above both, with --include for what is meant"),
            WhatError::NoName { .. } => Self::from_error(Exit::Usage, &error).hint("take it in a run of its own"),
            WhatError::NotFound { .. } | WhatError::NoneFound { .. } => {
                Self::from_error(Exit::Failed, &error).hint("'yesterdrive ls SNAPSHOT:FOLDER' lists what is there")
            }
        }
    }
}

impl From<ForgetError> for Failure {
    fn from(error: ForgetError) -> Self {
        match error {
            ForgetError::Repository(error) => error.into(),
            ForgetError::Read(error) => error.into(),
            ForgetError::Store(error) => error.into(),
            ForgetError::Device(DeviceError::Repository(error)) => error.into(),
            ForgetError::Device(DeviceError::Store(error)) => error.into(),
            ForgetError::TooLate { .. } => Self::from_error(Exit::Failed, &error)
                .hint("'yesterdrive forget --undo SNAPSHOT' brings back those that a prune has not condemned"),
            ForgetError::NotAllowed | ForgetError::Device(_) => Self::from_error(Exit::Failed, &error),
        }
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::Repository(error) => error.into(),
            DeviceError::Store(error) => error.into(),
            error @ (DeviceError::Revoked { .. } | DeviceError::Unknown) => {
                Self::from_error(Exit::WrongKey, &error).hint("ask the owner of the repository for a new key: 'yesterdrive key enrol'")
            }
            error => Self::from_error(Exit::Failed, &error),
        }
    }
}

impl From<CloseError> for Failure {
    fn from(error: CloseError) -> Self {
        match error {
            CloseError::NotAllowed(_) => Self::from_error(Exit::WrongKey, &error).hint("open the repository with an owner's key"),
            CloseError::NotClosed => Self::from_error(Exit::Failed, &error).hint("'yesterdrive repo close' announces its end"),
            CloseError::Early { .. } => Self::from_error(Exit::Failed, &error),
            CloseError::Incomplete => Self::from_error(Exit::Unreachable, &error).hint("run it again"),
            CloseError::Cancelled { .. } => Self::from_error(Exit::Interrupted, &error).hint("the same command goes on"),
            CloseError::Store(error) => error.into(),
        }
    }
}

impl From<KeysError> for Failure {
    fn from(error: KeysError) -> Self {
        match error {
            KeysError::NotAllowed(_) => Self::from_error(Exit::WrongKey, &error).hint("open the repository with an owner's key"),
            KeysError::TooMany { .. } => {
                Self::from_error(Exit::Failed, &error).hint("forget some of its snapshots and prune, then revoke it")
            }
            KeysError::Device(error) => error.into(),
            KeysError::Slot(error) => error.into(),
            KeysError::Repository(error) => error.into(),
            KeysError::Store(error) => error.into(),
        }
    }
}

impl From<RepairError> for Failure {
    fn from(error: RepairError) -> Self {
        match error {
            RepairError::Cancelled => Self::from_error(Exit::Interrupted, &error),
            RepairError::Repository(error) => error.into(),
            RepairError::Store(error) => error.into(),
            RepairError::NotAllowed => Self::from_error(Exit::Failed, &error),
        }
    }
}

impl From<MergeError> for Failure {
    fn from(error: MergeError) -> Self {
        match error {
            MergeError::Cancelled => Self::from_error(Exit::Interrupted, &error).hint("run it again: it goes on from there"),
            MergeError::Repository(error) => error.into(),
            MergeError::Store(error) => error.into(),
            MergeError::NotAllowed => Self::from_error(Exit::Failed, &error),
            MergeError::NotAsWritten { .. } => Self::from_error(Exit::Failed, &error).hint("'yesterdrive check' tells what is damaged"),
        }
    }
}

impl From<ProlongError> for Failure {
    fn from(error: ProlongError) -> Self {
        match error {
            ProlongError::Cancelled => Self::from_error(Exit::Interrupted, &error).hint("run it again: it does what is left"),
            ProlongError::Store(error) => error.into(),
        }
    }
}

impl From<PruneError> for Failure {
    fn from(error: PruneError) -> Self {
        match error {
            PruneError::Cancelled => Self::from_error(Exit::Interrupted, &error).hint("the repository is sound; the next run goes on"),
            PruneError::Look(error) => error.into(),
            PruneError::Read(error) => error.into(),
            PruneError::Repository(error) => error.into(),
            PruneError::Store(error) => error.into(),
            PruneError::Damaged { .. } => Self::from_error(Exit::Failed, &error)
                .hint("it may be what keeps a snapshot, so nothing was deleted; get it back from a copy of the repository, or, if somebody planted it, remove it from the store"),
            PruneError::Unreadable { .. } | PruneError::Lost { .. } => Self::from_error(Exit::Failed, &error)
                .hint("nothing was deleted; 'yesterdrive check' names what is damaged, and damaged snapshots can be forgotten by name"),
            PruneError::Missing { .. } => Self::from_error(Exit::Failed, &error)
                .hint("nothing was deleted; if the store has lost it for good, --missing-is-lost goes on without it"),
            PruneError::NoSnapshot { .. } => Self::from_error(Exit::Failed, &error).hint("nothing was deleted; the next backup uses what is of use"),
            PruneError::Unsteady => Self::from_error(Exit::Failed, &error).hint("nothing was deleted; run it again"),
            PruneError::NotVerified { .. } => Self::from_error(Exit::Failed, &error),
        }
    }
}

impl From<CopyError> for Failure {
    fn from(error: CopyError) -> Self {
        let failure = Self::from_error(Exit::Failed, &error);
        match error {
            CopyError::NotThere { .. } => Self { exit: Exit::Unreachable, ..failure }.hint(
                "check the path; to get back a repository that is lost, name its copy as --repository and the empty place after --to",
            ),
            CopyError::Unknown { .. } => failure.hint("'yesterdrive scrub' tells what is there"),
            CopyError::Foreign { .. } => failure.hint("name another place, or an empty one"),
            CopyError::Cancelled { .. } => Self { exit: Exit::Interrupted, ..failure }.hint("run it again: it goes on from there"),
            CopyError::Read(error) => error.into(),
            CopyError::Copy(error @ StoreError::Full { .. }) => {
                Self::from_error(Exit::Failed, &error).hint("free some space where the copy lies and run it again: it goes on from there")
            }
            CopyError::Copy(error) => {
                let Self { exit, .. } = Self::from(error);
                Self { exit, ..failure }
                    .hint("check that the copy's disk or server is there and may be written; run again, it goes on from there")
            }
        }
    }
}

impl From<SnapshotCopyError> for Failure {
    fn from(error: SnapshotCopyError) -> Self {
        match error {
            SnapshotCopyError::Same { .. } => Self::from_error(Exit::Usage, &error).hint("name another repository after --to"),
            SnapshotCopyError::From(error) | SnapshotCopyError::To(error) => error.into(),
            SnapshotCopyError::Manifest(error) => error.into(),
            SnapshotCopyError::Copy { source: BackupError::Cancelled { .. }, .. } => {
                Self::new(Exit::Interrupted, "the copy was interrupted").hint("run it again: it goes on from there")
            }
            SnapshotCopyError::Copy { snapshot, source } => {
                let failure = Self::from(source);
                Self { message: format!("snapshot {} could not be copied: {}", snapshot.short(), failure.message), ..failure }
            }
        }
    }
}

impl From<RestoreError> for Failure {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::Cancelled => Self::from_error(Exit::Interrupted, &error),
            RestoreError::Read(error) => error.into(),
            RestoreError::What(error) => error.into(),
            RestoreError::Pattern(_) => Self::from_error(Exit::Usage, &error),
            error => Self::from_error(Exit::Failed, &error),
        }
    }
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Cancelled => Self::from_error(Exit::Interrupted, &error),
            ExportError::Read(error) => error.into(),
            ExportError::What(error) => error.into(),
            ExportError::Pattern(_) => Self::from_error(Exit::Usage, &error),
            ExportError::Content { .. } => {
                Self::from_error(Exit::Failed, &error).hint("leave it out with --exclude; restore brings what can be read of the others")
            }
            error => Self::from_error(Exit::Failed, &error),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::from_error(Exit::Failed, &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_core::storage::ObjectName;

    #[test]
    fn exit_codes_say_what_a_script_needs() {
        let exit = |error: StoreError| Failure::from(error).exit.code();
        let io = || std::io::Error::other("x");
        assert_eq!(exit(StoreError::Full { name: ObjectName::new("pack/a") }), 1);
        assert_eq!(exit(StoreError::Failed { place: "x".into(), source: io() }), 5);
        assert_eq!(exit(StoreError::Failed { place: "x".into(), source: std::io::ErrorKind::InvalidData.into() }), 1);
        assert_eq!(Failure::from(RepositoryError::WrongKey { kind: "password" }).exit.code(), 4);
        assert_eq!(Failure::from(BackupError::Cancelled { kept_bytes: 5 }).exit.code(), 130);
        assert_eq!(Failure::from(RepositoryError::NotThere { location: "/x".into() }).exit.code(), 5);
    }

    #[test]
    fn causes_are_named_once() {
        let error = BackupError::Pack(PackError::Store(StoreError::Full { name: ObjectName::new("pack/a") }));
        let failure = Failure::from(error);
        assert_eq!(failure.message, "the store is full (while writing pack/a)");
        assert!(failure.hint.is_some());
    }
}
