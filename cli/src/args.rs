//! All flags, completed by the environment and the profile. The only file that reads the environment.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use fs_core::storage::RemoteOptions;
use fs_core::storage::aws_profile::AwsFiles;
use fs_core::storage::limit::{Limits, Rate};
use zeroize::Zeroizing;

use crate::config::{self, Folders, System};
use crate::error::{Exit, Failure};
use crate::report::Format;
use crate::secret::Credentials;

pub(crate) mod backup;
mod check;
mod copy;
mod forget;
mod key;
mod prune;
mod repair;
mod repo;
mod restore;
mod seed;

pub(crate) use backup::{Backup, Nice};
pub(crate) use check::{Check, Drill, Scrub};
pub(crate) use copy::Copy;
pub(crate) use forget::Forget;
pub(crate) use key::{Init, Key};
pub(crate) use prune::Prune;
pub(crate) use repair::{Repair, RepairIndex};
pub(crate) use repo::Repo;
pub(crate) use restore::{ArchiveFormat, Export, OverwriteChoice, Restore};
pub(crate) use seed::{Seed, SeedDisk};

/// Encrypted, deduplicated backups shown as a drive.
#[derive(Debug, Parser)]
#[cfg_attr(windows, command(long_version = concat!(env!("CARGO_PKG_VERSION"), "\n", mount_windows::attribution!())))]
#[command(name = "yesterdrive", version, about, max_term_width = 100, args_override_self = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Global {
    /// The repository: a folder, or s3://BUCKET/PREFIX, azblob://CONTAINER/PREFIX, gs://BUCKET/PREFIX, sftp://USER@HOST/PATH, webdav+https://HOST/PATH
    #[arg(short, long, global = true, env = "YESTERDRIVE_REPOSITORY", hide_env_values = true, value_name = "ADDRESS")]
    pub(crate) repository: Option<String>,
    #[command(flatten)]
    credentials: CredentialFlags,
    /// A copy of the repository that is nearer, a stick or a NAS: drives, restore, export, cat and the like read from it what it has. Several may be named, the nearest first
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub(crate) near: Vec<String>,
    /// Where this machine keeps what it remembers of repositories
    #[arg(long, global = true, env = "YESTERDRIVE_CACHE_DIR", hide_env_values = true, value_name = "FOLDER")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Take repository, key and what to save from this profile of the configuration file
    #[arg(long, global = true, env = "YESTERDRIVE_PROFILE", hide_env_values = true, value_name = "NAME")]
    profile: Option<String>,
    /// The configuration file (default: config.toml in the user's folder for configuration)
    #[arg(long, global = true, env = "YESTERDRIVE_CONFIG", hide_env_values = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Trust these certificates (PEM) beside the system's, for stores over a network
    #[arg(long, global = true, env = "YESTERDRIVE_CA_FILE", hide_env_values = true, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    #[command(flatten)]
    limits: LimitFlags,
    #[command(flatten)]
    caches: CacheFlags,
    /// One JSON record per line on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No progress on the terminal
    #[arg(short, long, visible_alias = "no-progress", global = true)]
    pub(crate) quiet: bool,
    /// More messages
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    /// Ways to open the repository, by layer.
    #[arg(skip)]
    pub(crate) flags: Credentials,
    #[arg(skip)]
    pub(crate) environment: Credentials,
    #[arg(skip)]
    pub(crate) from_profile: Credentials,
    /// How to reach a store over a network.
    #[arg(skip)]
    pub(crate) remote: RemoteOptions,
    /// Memory for reading, in bytes.
    #[arg(skip)]
    pub(crate) memory: Option<u64>,
    /// Disk space for what was fetched, in bytes.
    #[arg(skip)]
    pub(crate) cache_size: Option<u64>,
    /// What the profile says to keep.
    #[arg(skip)]
    pub(crate) keep: Option<String>,
    /// The user's home folder.
    #[arg(skip)]
    pub(crate) home: Option<PathBuf>,
}

/// Ways to open a repository. The password itself is none of them: a command line can be read by others.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Key (or YESTERDRIVE_KEY_FILE, _PASSWORD_FILE, _PASSWORD_COMMAND, _PASSWORD, _KEYRING=1, or the terminal)")]
struct CredentialFlags {
    /// A key file
    #[arg(long, global = true, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// A file whose first line is the password
    #[arg(long, global = true, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// A command whose first line of output is the password
    #[arg(long, global = true, value_name = "COMMAND")]
    password_command: Option<String>,
    /// A file with the 24 words of the recovery code, with or without their check words, or the sheet as text
    #[arg(long, global = true, value_name = "FILE")]
    recovery_file: Option<PathBuf>,
    /// The password that `key remember` left in the system's keyring
    #[arg(long, global = true)]
    keyring: bool,
}

/// How much may be asked of the store at a time.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Limits")]
struct LimitFlags {
    /// Read at most so many bytes per second, on average: 800k, 2M
    #[arg(long, global = true, env = "YESTERDRIVE_LIMIT_DOWNLOAD", hide_env_values = true, value_name = "RATE", value_parser = rate)]
    limit_download: Option<Rate>,
    /// Write at most so many bytes per second, on average: 800k, 2M
    #[arg(long, global = true, env = "YESTERDRIVE_LIMIT_UPLOAD", hide_env_values = true, value_name = "RATE", value_parser = rate)]
    limit_upload: Option<Rate>,
    /// Ask the store so many things at a time (default: 32 for clouds, 16 for SFTP and WebDAV, as many as come for folders)
    #[arg(long, global = true, env = "YESTERDRIVE_CONNECTIONS", hide_env_values = true, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    connections: Option<u16>,
}

impl LimitFlags {
    /// Flags and environment first, then the profile.
    fn or(&self, profile: &config::Profile) -> Result<Limits, Failure> {
        let of_profile = |key: &str, text: &Option<String>| {
            let rate = text.as_deref().map(rate).transpose();
            rate.map_err(|reason| Failure::new(Exit::Usage, format!("the profile's {key}: {reason}")))
        };
        Ok(Limits {
            download: self.limit_download.or(of_profile("limit-download", &profile.limit_download)?),
            upload: self.limit_upload.or(of_profile("limit-upload", &profile.limit_upload)?),
            connections: self.connections.or(profile.connections).map(usize::from),
        })
    }
}

/// What reading may take of this machine.
#[derive(Debug, Clone, Default, clap::Args)]
struct CacheFlags {
    /// Memory for reading (default: 256M)
    #[arg(long, global = true, env = "YESTERDRIVE_MEMORY", hide_env_values = true, value_name = "SIZE", value_parser = memory)]
    memory: Option<u64>,
    /// Disk space for what was fetched from a store over a network, sealed as it is there; 0 for none (default: 10G, and none for folders)
    #[arg(long, global = true, env = "YESTERDRIVE_CACHE_SIZE", hide_env_values = true, value_name = "SIZE", value_parser = size)]
    cache_size: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a repository and print its recovery sheet
    Init(Init),
    /// Take a snapshot
    Backup(Box<Backup>),
    /// List snapshots
    Snapshots(Snapshots),
    /// The report of a snapshot's run: what was new, changed, unchanged, removed and failed, with the list of files
    Report(Report),
    /// List a folder of a snapshot
    Ls(Ls),
    /// Write a file of a snapshot to standard output
    Cat(Cat),
    /// Copy a snapshot, or a part of one, back to a folder
    Restore(Restore),
    /// Write a snapshot, or a part of one, as a tar or zip archive
    Export(Export),
    /// Let go of snapshots: by rules that say what is kept, or by name; and bring them back
    Forget(Box<Forget>),
    /// Free the room of what no snapshot needs: condemns it now, and deletes what was condemned a week ago. Backups and drives go on meanwhile
    Prune(Prune),
    /// Check that everything the snapshots need is there and opens
    Check(Check),
    /// Write anew what is missing
    #[command(subcommand)]
    Repair(Repair),
    /// Check a folder of objects, or a store, without any key: whether every byte is as it was written
    Scrub(Scrub),
    /// Keep a second copy of the repository at another place, without any key: copies what is missing there, and heals what is damaged on either side
    Copy(Copy),
    /// Carry a repository by disk: the first load into a store far away, or a copy that comes back. Without any key
    #[command(subcommand)]
    Seed(Seed),
    /// Show all snapshots as a drive
    Mount(Mount),
    /// Take a drive away
    Unmount(Unmount),
    /// List the drives
    Mounts,
    /// Keep a folder or file of a snapshot on this machine, to read it without the store
    Pin(Pin),
    /// Let go of what was pinned
    Unpin(Unpin),
    /// What was fetched and lies on this machine
    #[command(subcommand)]
    Cache(Cache),
    /// Try it: save a folder into a new repository and show it as a drive
    Try(Try),
    /// Who may open the repository
    #[command(subcommand)]
    Key(Key),
    /// The end of the repository
    #[command(subcommand)]
    Repo(Repo),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write those of all commands into a folder
    Man {
        /// Write all pages into this folder
        #[arg(long, value_name = "FOLDER")]
        all: Option<PathBuf>,
    },
}

#[derive(Debug, Default, Clone, clap::Args)]
pub(crate) struct Select {
    /// Only snapshots of this host
    #[arg(long)]
    pub(crate) host: Option<String>,
    /// Only snapshots of this set
    #[arg(long)]
    pub(crate) set: Option<String>,
    /// Only snapshots with this tag
    #[arg(long)]
    pub(crate) tag: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Snapshots {
    #[command(flatten)]
    pub(crate) select: Select,
    /// Only the newest so many
    #[arg(long, value_name = "COUNT")]
    pub(crate) last: Option<usize>,
    /// Those that are forgotten and can be brought back
    #[arg(long)]
    pub(crate) forgotten: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Report {
    /// `latest` or the beginning of a snapshot's id
    #[arg(default_value = "latest", value_name = "SNAPSHOT")]
    pub(crate) snapshot: String,
    /// How it is written (default: text, or what the extension of FILE says)
    #[arg(long, value_enum, value_name = "text|csv|html|json")]
    pub(crate) format: Option<Format>,
    /// Write it into a file instead of standard output. What stands there is replaced
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) select: Select,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// `latest` or the beginning of a snapshot's id, and after a `:` a path in it
    #[arg(default_value = "latest:/", value_name = "SNAPSHOT[:PATH]")]
    pub(crate) what: OsString,
    /// Everything below too
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// With modes, owners, sizes and times
    #[arg(short, long)]
    pub(crate) long: bool,
    #[command(flatten)]
    pub(crate) select: Select,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Cat {
    /// `latest` or the beginning of a snapshot's id, then `:` and the file
    #[arg(value_name = "SNAPSHOT:PATH")]
    pub(crate) what: OsString,
    #[command(flatten)]
    pub(crate) select: Select,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Links {
    /// As saved: absolute ones lead to the live system
    Raw,
    /// Rewritten so that following one stays in the snapshot
    Inside,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Mount {
    /// An empty folder; made if it is not there
    #[cfg_attr(
        windows,
        arg(
            value_name = "PLACE",
            help = r"X: or any other letter, * for the last free one, a folder that is not there yet, or \\server\share"
        )
    )]
    pub(crate) folder: PathBuf,
    /// Return when the drive is there
    #[arg(short, long)]
    pub(crate) background: bool,
    /// Stay until Ctrl-C: the default
    #[arg(short, long, conflicts_with = "background")]
    pub(crate) foreground: bool,
    /// Show everything as mine and readable
    #[arg(long)]
    pub(crate) owner_me: bool,
    /// Let other users in, by the saved permissions
    #[arg(long)]
    pub(crate) allow_other: bool,
    /// Where symbolic links lead: where they say, or into their snapshot
    #[arg(long, value_enum, default_value_t = Links::Raw, value_name = "raw|inside")]
    pub(crate) links: Links,
    /// What `--background` starts
    #[arg(long, hide = true)]
    pub(crate) detached: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Unmount {
    /// The drive
    #[arg(required_unless_present = "all")]
    pub(crate) folder: Option<PathBuf>,
    /// All drives
    #[arg(long, conflicts_with = "folder")]
    pub(crate) all: bool,
    /// Also while somebody uses it
    #[arg(long)]
    pub(crate) lazy: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Pin {
    /// A path inside of a drive, or `latest` or the beginning of a snapshot's id, then `:` and the path in it
    #[arg(value_name = "PATH|SNAPSHOT:PATH", required_unless_present = "list")]
    pub(crate) what: Option<OsString>,
    /// List what is pinned
    #[arg(long, conflicts_with = "what")]
    pub(crate) list: bool,
    #[command(flatten)]
    pub(crate) select: Select,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Unpin {
    /// What was pinned: as it was named then, or as `pin --list` names it
    #[arg(value_name = "PATH|SNAPSHOT:PATH", required_unless_present = "all")]
    pub(crate) what: Option<OsString>,
    /// Everything of this repository
    #[arg(long, conflicts_with = "what")]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) select: Select,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Cache {
    /// Say how much lies on this machine: of the repository that is named, or of all. Asks for no key
    Status {
        /// Of all repositories, also if one is named
        #[arg(long)]
        all: bool,
    },
    /// Remove what was fetched from the repository that is named; it is fetched again when it is read. Asks for no key
    Clear {
        /// Of all repositories
        #[arg(long)]
        all: bool,
        /// Also what is pinned
        #[arg(long)]
        pinned: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Try {
    /// What to save
    pub(crate) folder: PathBuf,
    /// Where to keep repository, key and drive
    #[arg(long, value_name = "FOLDER")]
    pub(crate) at: Option<PathBuf>,
}

impl Args {
    /// The command line, completed by environment and profile.
    pub(crate) fn read() -> Result<Self, Failure> {
        #[expect(clippy::disallowed_methods, reason = "this is the file that reads the environment")]
        let all =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).filter(|(_, value)| !value.is_empty());
        Self::parse().complete(&all.collect())
    }

    fn complete(mut self, variables: &BTreeMap<String, OsString>) -> Result<Self, Failure> {
        let variable = |name: &str| variables.get(name).cloned();
        let path = |name| variable(name).map(PathBuf::from);
        let text = |name: &str| match variable(name).map(OsString::into_string) {
            Some(Ok(text)) => Ok(Some(text)),
            Some(Err(_)) => Err(Failure::new(Exit::Usage, format!("{name} is no UTF-8 text"))),
            None => Ok(None),
        };
        let folders = Folders {
            home: path("HOME").or_else(|| path("USERPROFILE")),
            xdg_config: path("XDG_CONFIG_HOME"),
            xdg_cache: path("XDG_CACHE_HOME"),
            app_data: path("APPDATA"),
            local_app_data: path("LOCALAPPDATA"),
        };
        let global = &mut self.global;
        let (is_named, config) = (global.config.is_some(), global.config.clone().or_else(|| System::HERE.config_file(&folders)));
        let profile = config::load(config.as_deref(), is_named, global.profile.as_deref(), folders.home.as_deref())?;
        global.environment = Credentials {
            password: text("YESTERDRIVE_PASSWORD")?.map(Zeroizing::new),
            password_file: path("YESTERDRIVE_PASSWORD_FILE"),
            password_command: text("YESTERDRIVE_PASSWORD_COMMAND")?,
            key_file: path("YESTERDRIVE_KEY_FILE"),
            recovery_file: None,
            keyring: text("YESTERDRIVE_KEYRING")?.is_some_and(|value| value != "0"),
        };
        let CredentialFlags { key_file, password_file, password_command, recovery_file, keyring } = global.credentials.clone();
        global.flags = Credentials { password: None, password_file, password_command, key_file, recovery_file, keyring };
        global.from_profile = profile.credentials();
        let limits = global.limits.or(&profile)?;
        let sized = |flag: Option<u64>, key: &str, text: &Option<String>, parse: fn(&str) -> Result<u64, String>| {
            let of_profile = text.as_deref().map(parse).transpose();
            of_profile.map(|value| flag.or(value)).map_err(|reason| Failure::new(Exit::Usage, format!("the profile's {key}: {reason}")))
        };
        global.memory = sized(global.caches.memory, "memory", &profile.memory, memory)?;
        global.cache_size = sized(global.caches.cache_size, "cache-size", &profile.cache_size, size)?;
        global.repository = global.repository.take().or_else(|| profile.repository.clone());
        if global.near.is_empty() {
            global.near.clone_from(&profile.near);
        }
        global.cache_dir = global.cache_dir.take().or_else(|| profile.cache_dir.clone()).or_else(|| System::HERE.cache_folder(&folders));
        global.remote = RemoteOptions {
            variables: variables.iter().filter_map(|(name, value)| Some((name.clone(), service_variable(name, value)?))).collect(),
            aws: AwsFiles {
                credentials: amazon_file(path("AWS_SHARED_CREDENTIALS_FILE"), folders.home.as_deref(), "credentials"),
                config: amazon_file(path("AWS_CONFIG_FILE"), folders.home.as_deref(), "config"),
            },
            ca_file: global.ca_file.clone(),
            proxy: None,
            ssh_folder: folders.home.as_ref().map(|home| home.join(".ssh")),
            ssh_agent: path("SSH_AUTH_SOCK"),
            limits,
        };
        global.keep.clone_from(&profile.keep);
        global.home = folders.home;
        if let Command::Backup(backup) = &mut self.command {
            backup.complete(profile, global.profile.as_deref())?;
        }
        Ok(self)
    }
}

impl Global {
    /// The same with no way to open a repository: what is asked for next is a new secret.
    pub(crate) fn without_credentials(&self) -> Self {
        let (flags, environment, from_profile) = Default::default();
        Self { flags, environment, from_profile, ..self.clone() }
    }

    /// The same for another repository, which only what is named here opens, or what is typed.
    pub(crate) fn for_other(&self, address: &str, password_file: Option<PathBuf>, key_file: Option<PathBuf>) -> Self {
        let flags = Credentials { password_file, key_file, ..Credentials::default() };
        Self { repository: Some(address.to_owned()), near: Vec::new(), flags, ..self.without_credentials() }
    }

    /// The same for another repository that a key file opens.
    pub(crate) fn for_repository(&self, repository: &Path, key_file: PathBuf) -> Self {
        let flags = Credentials { key_file: Some(key_file), ..Credentials::default() };
        Self { repository: Some(repository.to_string_lossy().into_owned()), flags, ..self.without_credentials() }
    }
}

/// What the services of stores take from the environment, by the names that their own programs use.
fn service_variable(name: &str, value: &OsStr) -> Option<String> {
    let is_theirs = ["AWS_", "AZURE_", "GOOGLE_", "YESTERDRIVE_WEBDAV_", "YESTERDRIVE_SFTP_"].iter().any(|family| name.starts_with(family));
    if is_theirs { value.to_str().map(str::to_owned) } else { None }
}

/// A file of Amazon's tools. As with them, one that cannot be read holds no profiles: most repositories have nothing to do with it.
fn amazon_file(named: Option<PathBuf>, home: Option<&Path>, usual: &str) -> String {
    let file = named.or_else(|| Some(home?.join(".aws").join(usual)));
    file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default()
}

/// Names of sets, tags and hosts are shown in folders and lists.
fn label(text: &str) -> Result<String, String> {
    const LENGTH_MAX: usize = 200;
    match text {
        "" => Err("it is empty".into()),
        _ if text.len() > LENGTH_MAX => Err(format!("it has more than {LENGTH_MAX} bytes")),
        _ if text.chars().any(char::is_control) => Err("it holds control characters".into()),
        _ => Ok(text.to_owned()),
    }
}

/// Less would fetch the same bytes again and again.
fn memory(text: &str) -> Result<u64, String> {
    const LEAST: u64 = 16 << 20;
    let bytes = size(text)?;
    if bytes < LEAST { Err("give at least 16M".into()) } else { Ok(bytes) }
}

fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let bytes = if text == "0" { Some(0) } else { Rate::parse(text).map(Rate::bytes_per_second) };
    bytes.ok_or_else(|| "give bytes, with k, M or G for powers of 1024: 500M, 10G".into())
}

fn rate(text: &str) -> Result<Rate, String> {
    Rate::parse(text).ok_or_else(|| "give bytes per second, with k, M or G for powers of 1024: 800k, 2M".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret;

    #[test]
    fn the_flags_are_consistent() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    fn completed(line: &[&str], variables: &[(&str, &[u8])]) -> Result<Args, Failure> {
        let args = Args::try_parse_from([&["yesterdrive"], line].concat()).unwrap();
        args.complete(&variables.iter().map(|(name, bytes)| ((*name).to_owned(), value(bytes))).collect())
    }

    #[cfg(unix)]
    fn value(bytes: &[u8]) -> std::ffi::OsString {
        std::os::unix::ffi::OsStringExt::from_vec(bytes.to_vec())
    }

    #[cfg(windows)]
    fn value(bytes: &[u8]) -> std::ffi::OsString {
        let lone = |_| std::os::windows::ffi::OsStringExt::from_wide(&[0xd800]);
        std::str::from_utf8(bytes).map_or_else(lone, Into::into)
    }

    fn opens_with(line: &[&str], variables: &[(&str, &[u8])]) -> Result<String, Failure> {
        secret::describe(&completed(line, variables)?.global)
    }

    #[test]
    fn flags_beat_the_environment_and_it_beats_the_profile() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("config.toml");
        std::fs::write(&file, "[default]\nkey-file = 'profile'\n[night]\nset = 'n'\n").unwrap();
        let config = ["--config", file.to_str().unwrap(), "mounts"];
        let key: (&str, &[u8]) = ("YESTERDRIVE_KEY_FILE", b"environment");
        for line in [[&["--password-file", "flag"], &config[..]].concat(), [&config[..], &["--password-file", "flag"]].concat()] {
            assert_eq!(opens_with(&line, &[key]).unwrap(), "password file flag");
        }
        assert_eq!(opens_with(&config, &[key]).unwrap(), "key file environment");
        assert_eq!(opens_with(&config, &[]).unwrap(), "key file profile");
        assert_eq!(opens_with(&["mounts"], &[]).unwrap(), "terminal");
    }

    #[test]
    fn contradictions_and_bytes_that_are_no_text_are_wrong_use() {
        let two = opens_with(&["--password-file", "a", "--key-file", "b", "mounts"], &[]).unwrap_err();
        assert_eq!((two.exit, two.message.contains("password file and a key file")), (Exit::Usage, true), "{}", two.message);
        let bytes = completed(&["mounts"], &[("YESTERDRIVE_PASSWORD", b"\xff")]).unwrap_err();
        assert_eq!((bytes.exit, bytes.message.contains("YESTERDRIVE_PASSWORD")), (Exit::Usage, true), "{}", bytes.message);
        let missing = completed(&["--config", "/no/such/file", "mounts"], &[]).unwrap_err();
        assert_eq!(missing.exit, Exit::Usage);
    }

    #[test]
    fn a_profile_says_what_to_save() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("config.toml");
        std::fs::write(&file, "[night]\npaths = ['~/documents']\ntags = ['dark']\nrepository = '/r'\n").unwrap();
        let backup = |line: &[&str]| {
            let line = [&["--config", file.to_str().unwrap()], line].concat();
            let args = completed(&line, &[("HOME", b"/home/anna")]).unwrap();
            let Command::Backup(backup) = args.command else { panic!() };
            (backup.paths, backup.set, backup.tags, args.global.repository)
        };
        let (paths, set, tags, repository) = backup(&["--profile", "night", "backup"]);
        assert_eq!((paths, set.as_deref()), (vec![PathBuf::from("/home/anna/documents")], Some("night")));
        assert_eq!((tags, repository.as_deref()), (vec!["dark".to_owned()], Some("/r")));
        let (paths, set, ..) = backup(&["--profile", "night", "backup", "/etc", "--set", "system"]);
        assert_eq!((paths, set.as_deref()), (vec![PathBuf::from("/etc")], Some("system")));
    }

    #[test]
    fn limits_come_from_flag_environment_and_profile() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("config.toml");
        std::fs::write(&file, "[default]\nlimit-download = '3M'\nlimit-upload = '100k'\nconnections = 3\n[bad]\nlimit-upload = 'fast'\n")
            .unwrap();
        let config = ["--config", file.to_str().unwrap()];
        let line = [&config[..], &["--limit-download", "1M", "mounts"]].concat();
        let limits = completed(&line, &[]).unwrap().global.remote.limits;
        assert_eq!((limits.download, limits.upload, limits.connections), (Rate::new(1 << 20), Rate::new(100 << 10), Some(3)));
        assert_eq!(completed(&["mounts"], &[]).unwrap().global.remote.limits, Limits::default());
        let bad = completed(&[&config[..], &["--profile", "bad", "mounts"]].concat(), &[]).unwrap_err();
        assert!(bad.exit == Exit::Usage && bad.message.contains("limit-upload"), "{}", bad.message);
        for wrong in [["--limit-upload", "0"], ["--limit-upload", "fast"], ["--connections", "0"]] {
            assert!(Args::try_parse_from([&["yesterdrive"], &wrong[..], &["mounts"]].concat()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn files_of_amazons_tools_are_read_where_they_usually_are_or_where_a_variable_says() {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join(".aws")).unwrap();
        std::fs::write(place.path().join(".aws/credentials"), "usual").unwrap();
        std::fs::write(place.path().join("other"), "other").unwrap();
        let home = ("HOME", place.path().to_str().unwrap().as_bytes());
        let aws = |variables: &[(&str, &[u8])]| completed(&["mounts"], variables).unwrap().global.remote.aws;
        let usual = aws(&[home]);
        assert_eq!((usual.credentials.as_str(), usual.config.as_str()), ("usual", ""));
        let other = place.path().join("other");
        let named = aws(&[home, ("AWS_SHARED_CREDENTIALS_FILE", other.to_str().unwrap().as_bytes())]);
        assert_eq!(named.credentials, "other");
        assert_eq!(aws(&[home, ("AWS_CONFIG_FILE", b"/no/such/file")]).config, "");
    }

    #[test]
    fn labels_are_short_text() {
        assert!(label("before update").is_ok());
        for bad in ["", "two\nlines", &"x".repeat(201)] {
            assert!(label(bad).is_err(), "{bad:?}");
        }
    }
}
