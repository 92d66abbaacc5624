//! Named profiles in a TOML file, and the folders in which a system keeps such things. Pure but for reading the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::args::backup::{CompressionChoice, RuleFlags};
use crate::error::{Exit, Failure};
use crate::secret::Credentials;

/// The profile that counts when none is named.
pub(crate) const DEFAULT: &str = "default";

/// What a profile may say. Flags and environment count more.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Profile {
    pub(crate) repository: Option<String>,
    password_file: Option<PathBuf>,
    password_command: Option<String>,
    key_file: Option<PathBuf>,
    recovery_file: Option<PathBuf>,
    #[serde(default)]
    keyring: bool,
    pub(crate) cache_dir: Option<PathBuf>,
    #[serde(default)]
    pub(crate) near: Vec<String>,
    pub(crate) host: Option<String>,
    pub(crate) set: Option<String>,
    #[serde(default)]
    pub(crate) tags: Vec<String>,
    #[serde(default)]
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) limit_download: Option<String>,
    pub(crate) limit_upload: Option<String>,
    pub(crate) connections: Option<u16>,
    pub(crate) memory: Option<String>,
    pub(crate) cache_size: Option<String>,
    pub(crate) compression: Option<CompressionChoice>,
    pub(crate) keep: Option<String>,
    #[serde(default)]
    pub(crate) pause: Vec<String>,
    #[serde(default)]
    pub(crate) shown_as: Vec<PathBuf>,
    #[serde(default)]
    pub(crate) devices: Vec<PathBuf>,
    #[serde(default)]
    pub(crate) commands: Vec<Dump>,
    pub(crate) before: Option<String>,
    #[serde(default)]
    pub(crate) before_may_fail: bool,
    pub(crate) after: Option<String>,
    #[serde(default)]
    exclude: Vec<String>,
    #[serde(default)]
    exclude_file: Vec<PathBuf>,
    #[serde(default)]
    no_ignore_files: bool,
    #[serde(default)]
    exclude_caches: bool,
    #[serde(default)]
    exclude_if_present: Vec<String>,
    exclude_larger_than: Option<String>,
    exclude_older_than: Option<String>,
    exclude_newer_than: Option<String>,
    #[serde(default)]
    one_file_system: bool,
}

/// A command whose output is saved.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Dump {
    pub(crate) command: String,
    pub(crate) name: String,
    pub(crate) end_mark: Option<String>,
    #[serde(default)]
    pub(crate) no_end_mark: bool,
    #[serde(default)]
    pub(crate) allow_empty: bool,
}

impl Profile {
    /// Its way to open the repository.
    pub(crate) fn credentials(&self) -> Credentials {
        Credentials {
            password: None,
            password_file: self.password_file.clone(),
            password_command: self.password_command.clone(),
            key_file: self.key_file.clone(),
            recovery_file: self.recovery_file.clone(),
            keyring: self.keyring,
        }
    }

    /// What it leaves out.
    pub(crate) fn rules(&self) -> RuleFlags {
        RuleFlags {
            exclude: self.exclude.clone(),
            exclude_file: self.exclude_file.clone(),
            no_ignore_files: self.no_ignore_files,
            exclude_caches: self.exclude_caches,
            exclude_if_present: self.exclude_if_present.clone(),
            exclude_larger_than: self.exclude_larger_than.clone(),
            exclude_older_than: self.exclude_older_than.clone(),
            exclude_newer_than: self.exclude_newer_than.clone(),
            one_file_system: self.one_file_system,
        }
    }

    /// `~/` means the same as in a shell.
    fn expand(mut self, home: Option<&Path>) -> Self {
        let paths = [&mut self.password_file, &mut self.key_file, &mut self.recovery_file, &mut self.cache_dir];
        for path in paths.into_iter().flatten().chain(&mut self.paths).chain(&mut self.exclude_file).chain(&mut self.shown_as) {
            if let (Ok(rest), Some(home)) = (path.strip_prefix("~"), home) {
                *path = home.join(rest);
            }
        }
        for address in self.repository.iter_mut().chain(&mut self.near) {
            if let (Some(rest), Some(home)) = (address.strip_prefix("~/"), home) {
                *address = home.join(rest).to_string_lossy().into_owned();
            }
        }
        self
    }
}

/// Reads a profile from a file. A default file that is missing holds no profiles; a named one must be there, and a named profile too.
pub(crate) fn load(file: Option<&Path>, is_named: bool, profile: Option<&str>, home: Option<&Path>) -> Result<Profile, Failure> {
    let Some(file) = file else {
        return if profile.is_some() {
            Err(Failure::new(Exit::Usage, "there is no home folder: use --config FILE"))
        } else {
            Ok(Profile::default())
        };
    };
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_named && profile.is_none() => return Ok(Profile::default()),
        Err(error) => return Err(Failure::new(Exit::Usage, format!("{}: {error}", file.display()))),
    };
    let found = parse(&text, profile).map_err(|message| Failure::new(Exit::Usage, format!("{}: {message}", file.display())))?;
    Ok(found.expand(home))
}

fn parse(text: &str, name: Option<&str>) -> Result<Profile, String> {
    let mut profiles: BTreeMap<String, Profile> = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
    let known = profiles.keys().cloned().collect::<Vec<_>>().join(", ");
    match (profiles.remove(name.unwrap_or(DEFAULT)), name) {
        (Some(profile), _) => Ok(profile),
        (None, None) => Ok(Profile::default()),
        (None, Some(name)) => Err(format!("there is no profile '{name}'; there are: {known}")),
    }
}

/// What the environment says about folders.
#[derive(Debug, Default, Clone)]
pub(crate) struct Folders {
    pub(crate) home: Option<PathBuf>,
    pub(crate) xdg_config: Option<PathBuf>,
    pub(crate) xdg_cache: Option<PathBuf>,
    pub(crate) app_data: Option<PathBuf>,
    pub(crate) local_app_data: Option<PathBuf>,
}

/// Systems that differ in where programs keep things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    #[cfg_attr(any(windows, target_os = "macos"), expect(dead_code, reason = "tested on every system"))]
    Linux,
    #[cfg_attr(not(target_os = "macos"), allow(dead_code, reason = "tested on every system"))]
    MacOs,
    #[cfg_attr(not(windows), allow(dead_code, reason = "tested on every system"))]
    Windows,
}

impl System {
    #[cfg(not(any(windows, target_os = "macos")))]
    pub(crate) const HERE: Self = Self::Linux;
    #[cfg(target_os = "macos")]
    pub(crate) const HERE: Self = Self::MacOs;
    #[cfg(windows)]
    pub(crate) const HERE: Self = Self::Windows;

    /// Where the file with profiles is.
    pub(crate) fn config_file(self, folders: &Folders) -> Option<PathBuf> {
        let absolute = |path: &Option<PathBuf>| path.clone().filter(|path| path.is_absolute());
        let folder = match self {
            Self::Linux => absolute(&folders.xdg_config).or_else(|| Some(folders.home.as_ref()?.join(".config"))),
            Self::MacOs => folders.home.as_ref().map(|home| home.join("Library/Application Support")),
            Self::Windows => folders.app_data.clone(),
        };
        Some(folder?.join("yesterdrive/config.toml"))
    }

    /// Where what is remembered of repositories is kept.
    pub(crate) fn cache_folder(self, folders: &Folders) -> Option<PathBuf> {
        let absolute = |path: &Option<PathBuf>| path.clone().filter(|path| path.is_absolute());
        let folder = match self {
            Self::Linux => absolute(&folders.xdg_cache).or_else(|| Some(folders.home.as_ref()?.join(".cache"))),
            Self::MacOs => folders.home.as_ref().map(|home| home.join("Library/Caches")),
            Self::Windows => folders.local_app_data.clone(),
        };
        Some(folder?.join("yesterdrive"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        [default]
        repository = "~/backup"
        key-file = "~/.keys/backup"
        near = ["~/stick", "sftp://nas/copy"]

        [nightly]
        repository = "/srv/backup"
        password-command = "pass show backup"
        paths = ["~/documents", "/etc"]
        tags = ["night"]
    "#;

    #[test]
    fn profiles_are_found_by_name() {
        let home = Some(Path::new("/home/anna"));
        let default = parse(FILE, None).unwrap().expand(home);
        assert_eq!(default.repository.as_deref(), Some("/home/anna/backup"));
        assert_eq!(default.near, ["/home/anna/stick", "sftp://nas/copy"]);
        assert_eq!(default.credentials().key_file.as_deref(), Some(Path::new("/home/anna/.keys/backup")));
        let nightly = parse(FILE, Some("nightly")).unwrap().expand(home);
        assert_eq!(nightly.paths, [Path::new("/home/anna/documents"), Path::new("/etc")]);
        assert_eq!(parse("", None), Ok(Profile::default()));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(parse(FILE, Some("weekly")).unwrap_err().contains("there are: default, nightly"));
        let error = parse("[default]\nrepositry = \"x\"\n", None).unwrap_err();
        assert!(error.contains("repositry") && error.contains("line 2"), "{error}");
        assert!(parse("[default\n", None).is_err());
        assert!(parse("password = 'x'\n", None).is_err(), "a profile is a table");
        assert!(parse("[default]\npassword = 'x'\n", None).is_err(), "a password does not stand in a file of settings");
    }

    #[test]
    fn every_system_has_its_places() {
        let path = |text: &str| Some(PathBuf::from(text));
        let folders = Folders {
            home: path("/home/anna"),
            xdg_config: path("relative"),
            xdg_cache: path("/fast/cache"),
            app_data: path("/AppData"),
            local_app_data: path("/Local"),
        };
        assert_eq!(System::Linux.config_file(&folders), path("/home/anna/.config/yesterdrive/config.toml"));
        assert_eq!(System::Linux.cache_folder(&folders), path("/fast/cache/yesterdrive"));
        assert_eq!(System::MacOs.config_file(&folders), path("/home/anna/Library/Application Support/yesterdrive/config.toml"));
        assert_eq!(System::MacOs.cache_folder(&folders), path("/home/anna/Library/Caches/yesterdrive"));
        assert_eq!(System::Windows.config_file(&folders), path("/AppData/yesterdrive/config.toml"));
        assert_eq!(System::Windows.cache_folder(&folders), path("/Local/yesterdrive"));
        assert_eq!(System::Linux.cache_folder(&Folders::default()), None);
    }
}
