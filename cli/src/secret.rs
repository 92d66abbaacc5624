//! Where the credential comes from: key file, recovery code, password file, password command, environment, terminal.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::{Command, Stdio};

use fs_core::key::slot::Credential;
use zeroize::Zeroizing;

use crate::args::Global;
use crate::error::{Exit, Failure};

/// Largest file that can hold a secret.
const SECRET_SIZE_MAX: u64 = 64 << 10;

/// The credential that the flags and the environment name; asks for a password if they name none.
pub(crate) fn credential(global: &Global) -> Result<Credential, Failure> {
    if let Some(path) = &global.key_file {
        return Credential::from_key_file(&read(path)?).map_err(|error| Failure::new(Exit::Usage, format!("{}: {error}", path.display())));
    }
    if let Some(path) = &global.recovery_file {
        return Credential::from_words(&read(path)?).map_err(|error| Failure::new(Exit::Usage, format!("{}: {error}", path.display())));
    }
    existing_password(global)?.map_or_else(|| ask("Password: ").map(Credential::Password), |password| Ok(Credential::Password(password)))
}

/// A password for a new key: from the flags, or typed twice.
pub(crate) fn new_password(global: &Global, file: Option<&Path>) -> Result<Zeroizing<String>, Failure> {
    let named = match file {
        Some(path) => Some(first_line(&read(path)?)),
        None => existing_password(global)?,
    };
    let password = match named {
        Some(password) => password,
        None => {
            let first = ask("New password: ")?;
            if first != ask("Again: ")? {
                return Err(Failure::new(Exit::Usage, "the two passwords differ"));
            }
            first
        }
    };
    if password.chars().count() < PASSWORD_LENGTH_MIN {
        let message = format!("the password has fewer than {PASSWORD_LENGTH_MIN} characters");
        return Err(Failure::new(Exit::Usage, message)
            .hint("several words in a row are easy to remember and hard to guess; 20 characters are better"));
    }
    Ok(password)
}

/// Fewer characters can be tried by a machine.
const PASSWORD_LENGTH_MIN: usize = 14;

fn existing_password(global: &Global) -> Result<Option<Zeroizing<String>>, Failure> {
    if let Some(path) = &global.password_file {
        return Ok(Some(first_line(&read(path)?)));
    }
    if let Some(command) = &global.password_command {
        let output = Command::new("sh").arg("-c").arg(command).stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err(Failure::new(Exit::Failed, format!("the password command failed with {}", output.status)));
        }
        let text = Zeroizing::new(
            String::from_utf8(output.stdout).map_err(|_| Failure::new(Exit::Failed, "the password command did not print text"))?,
        );
        return Ok(Some(first_line(&text)));
    }
    Ok(global.password.clone().map(Zeroizing::new))
}

fn first_line(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.lines().next().unwrap_or_default().to_owned())
}

fn read(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let fail = |error: std::io::Error| Failure::new(Exit::Failed, format!("{}: {error}", path.display()));
    let metadata = std::fs::metadata(path).map_err(fail)?;
    if metadata.len() > SECRET_SIZE_MAX {
        return Err(Failure::new(Exit::Usage, format!("{} is too large to hold a key or password", path.display())));
    }
    #[cfg(unix)]
    if metadata.is_file() && std::os::unix::fs::MetadataExt::mode(&metadata) & 0o077 != 0 {
        tracing::warn!("{} can be read by others: chmod 600 it", path.display());
    }
    std::fs::read_to_string(path).map(Zeroizing::new).map_err(fail)
}

fn ask(prompt: &str) -> Result<Zeroizing<String>, Failure> {
    if !std::io::stdin().is_terminal() {
        let hint = "use --key-file, --password-file, --password-command or YESTERDRIVE_PASSWORD";
        return Err(Failure::new(Exit::Usage, "there is no password, and no terminal to ask for it").hint(hint));
    }
    Ok(Zeroizing::new(rpassword::prompt_password(prompt)?))
}
