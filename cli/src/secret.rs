//! Where the credential comes from: key file, recovery code, password file, password command, environment, keyring, terminal.
//!
//! There are three layers, flags, environment and profile; the first that names a way counts, and each may name only one.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use backup_writer::system::shell;
use fs_core::key::slot::Credential;
use zeroize::Zeroizing;

use crate::args::Global;
use crate::error::{Exit, Failure};
use crate::session;
use crate::signals::{self, OnSignal};
use crate::system::{self, Terminal};

#[cfg(target_os = "linux")]
pub(crate) mod keyring;
mod quality;

/// Largest file that can hold a secret.
const SECRET_SIZE_MAX: u64 = 64 << 10;

/// The ways to open a repository that one layer names.
#[derive(Debug, Default, Clone)]
pub(crate) struct Credentials {
    pub(crate) password: Option<Zeroizing<String>>,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) password_command: Option<String>,
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) recovery_file: Option<PathBuf>,
    /// Whether the system's keyring holds the password.
    pub(crate) keyring: bool,
}

/// One way to open a repository.
enum Way<'a> {
    Password(&'a Zeroizing<String>),
    PasswordFile(&'a Path),
    PasswordCommand(&'a str),
    KeyFile(&'a Path),
    RecoveryFile(&'a Path),
    Keyring,
}

impl Credentials {
    /// The one way that is named; `None` if none is.
    fn way(&self, layer: &str) -> Result<Option<Way<'_>>, Failure> {
        let ways = [
            ("password", self.password.as_ref().map(Way::Password)),
            ("password file", self.password_file.as_deref().map(Way::PasswordFile)),
            ("password command", self.password_command.as_deref().map(Way::PasswordCommand)),
            ("key file", self.key_file.as_deref().map(Way::KeyFile)),
            ("recovery file", self.recovery_file.as_deref().map(Way::RecoveryFile)),
            ("keyring", self.keyring.then_some(Way::Keyring)),
        ];
        let mut named = ways.into_iter().filter_map(|(name, way)| Some((name, way?)));
        match (named.next(), named.next()) {
            (Some((first, _)), Some((second, _))) => {
                Err(Failure::new(Exit::Usage, format!("the {layer} name a {first} and a {second}"))
                    .hint("name one way to open the repository"))
            }
            (first, _) => Ok(first.map(|(_, way)| way)),
        }
    }
}

/// The way that counts.
fn way(global: &Global) -> Result<Option<Way<'_>>, Failure> {
    for (layer, credentials) in
        [("flags", &global.flags), ("environment variables", &global.environment), ("settings of the profile", &global.from_profile)]
    {
        if let Some(way) = credentials.way(layer)? {
            return Ok(Some(way));
        }
    }
    Ok(None)
}

/// Which way counts, in words, for tests.
#[cfg(test)]
pub(crate) fn describe(global: &Global) -> Result<String, Failure> {
    Ok(match way(global)? {
        None => "terminal".into(),
        Some(Way::Password(_)) => "password".into(),
        Some(Way::PasswordFile(path)) => format!("password file {}", path.display()),
        Some(Way::PasswordCommand(command)) => format!("password command {command}"),
        Some(Way::KeyFile(path)) => format!("key file {}", path.display()),
        Some(Way::RecoveryFile(path)) => format!("recovery file {}", path.display()),
        Some(Way::Keyring) => "keyring".into(),
    })
}

/// The credential that the flags, the environment or the profile name; asks for a password if they name none.
pub(crate) fn credential(global: &Global) -> Result<Credential, Failure> {
    let wrong = |path: &Path, error: &dyn std::error::Error| Failure::new(Exit::Usage, format!("{}: {error}", path.display()));
    match way(global)? {
        Some(Way::KeyFile(path)) => Credential::from_key_file(&read(path)?).map_err(|error| wrong(path, &error)),
        Some(Way::RecoveryFile(path)) => Credential::from_words(&read(path)?).map_err(|error| wrong(path, &error)),
        Some(Way::Keyring) => of_keyring(global).map(Credential::Password),
        Some(way) => password_of(&way).map(Credential::Password),
        None => ask("Password: ").map(Credential::Password),
    }
}

/// Whether a password is named for a new repository: a key file alone needs none.
pub(crate) fn names_password(global: &Global) -> Result<bool, Failure> {
    Ok(matches!(way(global)?, Some(Way::Password(_) | Way::PasswordFile(_) | Way::PasswordCommand(_))))
}

/// The password that was left in the keyring for this repository.
#[cfg(target_os = "linux")]
fn of_keyring(global: &Global) -> Result<Zeroizing<String>, Failure> {
    keyring::kept(&session::address(global)?)
}

#[cfg(not(target_os = "linux"))]
fn of_keyring(_: &Global) -> Result<Zeroizing<String>, Failure> {
    Err(Failure::new(Exit::Usage, "there is no keyring on this system that --keyring can use").hint("use --password-command"))
}

/// A password for a new key: from a file, from the flags, or typed twice. A weak one is refused unless somebody wants it.
pub(crate) fn new_password(global: &Global, file: Option<&Path>, may_be_weak: bool) -> Result<Zeroizing<String>, Failure> {
    let password = match (file, way(global)?) {
        (Some(path), _) => first_line(&read(path)?),
        (None, Some(way @ (Way::Password(_) | Way::PasswordFile(_) | Way::PasswordCommand(_)))) => password_of(&way)?,
        (None, _) => {
            let first = ask(&format!("New password (at least {} characters, better {}): ", quality::LENGTH_MIN, quality::LENGTH_ADVISED))?;
            if first != ask("Again: ")? {
                return Err(Failure::new(Exit::Usage, "the two passwords differ"));
            }
            first
        }
    };
    if may_be_weak && !password.is_empty() {
        return Ok(password);
    }
    let address = session::address(global)?.to_string();
    quality::judge(&password, &[&address, &session::host_name(), "yesterdrive"])?;
    Ok(password)
}

fn password_of(way: &Way<'_>) -> Result<Zeroizing<String>, Failure> {
    match way {
        Way::Password(password) => Ok((*password).clone()),
        Way::PasswordFile(path) | Way::KeyFile(path) | Way::RecoveryFile(path) => Ok(first_line(&read(path)?)),
        Way::PasswordCommand(command) => run(command),
        Way::Keyring => Err(Failure::new(Exit::Usage, "the keyring holds the password of a repository that there is, not a new one")),
    }
}

/// The first line that a command prints.
fn run(command: &str) -> Result<Zeroizing<String>, Failure> {
    let failed = |reason: String| Failure::new(Exit::Failed, format!("the password command {reason}"));
    let output = shell(command).stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    // Wiped whatever becomes of it.
    let printed = Zeroizing::new(output.stdout);
    if !output.status.success() {
        return Err(failed(format!("failed with {}", output.status)));
    }
    let text = std::str::from_utf8(&printed).map_err(|_| failed("did not print text".into()))?;
    Ok(first_line(text))
}

fn first_line(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.lines().next().unwrap_or_default().to_owned())
}

/// Reads a file with a secret; it may be a pipe, of which no more is read than a secret can be long.
fn read(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let fail = |error: std::io::Error| Failure::new(Exit::Failed, format!("{}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(fail)?;
    if let Ok(metadata) = file.metadata()
        && let Some(remedy) = system::is_open_to_others(&metadata)
    {
        // Not refused: a backup that does not run would be the greater harm, and the folder above may be closed.
        tracing::warn!("{} can be read or changed by others: {remedy}", path.display());
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    file.take(SECRET_SIZE_MAX + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > SECRET_SIZE_MAX {
        return Err(Failure::new(Exit::Usage, format!("{} is too large to hold a key or password", path.display())));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| Failure::new(Exit::Usage, format!("{} is no text", path.display())))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Asks for a line that may be seen.
pub(crate) fn ask_line(prompt: &str) -> Result<Zeroizing<String>, Failure> {
    use std::io::Write as _;
    let mut out = std::io::stderr();
    write!(out, "{prompt}").and_then(|()| out.flush())?;
    let mut line = Zeroizing::new(String::with_capacity(256));
    if std::io::stdin().read_line(&mut line)? == 0 {
        return Err(Failure::new(Exit::Interrupted, "the terminal was closed"));
    }
    Ok(line)
}

fn ask(prompt: &str) -> Result<Zeroizing<String>, Failure> {
    if !std::io::stdin().is_terminal() {
        let hint = "use --key-file, --password-file, --password-command or YESTERDRIVE_PASSWORD";
        return Err(Failure::new(Exit::Usage, "there is no password, and no terminal to ask for it").hint(hint));
    }
    // While a password is typed the terminal does not echo. Whoever presses Ctrl-C then wants one that does.
    let terminal = Terminal::now()?;
    signals::set(OnSignal::RestoreAndExit(terminal))?;
    let password = rpassword::prompt_password(prompt);
    signals::set(OnSignal::Exit)?;
    Ok(Zeroizing::new(password?))
}
