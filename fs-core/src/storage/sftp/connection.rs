//! An SSH connection with an SFTP channel: host keys, authentication, life and death.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use russh::client::{self, AuthResult, Handle};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::{AgentClient, AgentStream};
use russh::keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate, check_known_hosts_path, load_secret_key};
use russh_sftp::client::RawSftpSession;

use crate::storage::{RemoteOptions, StoreError};

/// Seconds after which a single request has failed.
const REQUEST_TIMEOUT: u64 = 25;
/// A silent server is asked whether it is there: twice in vain, and the next attempt of a call makes a new connection.
const KEEPALIVE: Duration = Duration::from_secs(4);
/// Key files of OpenSSH, the better ones first.
const KEY_FILES: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

/// Whom to connect to.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) user: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) options: RemoteOptions,
}

/// A live session.
pub(super) struct Connection {
    pub(super) sftp: RawSftpSession,
    ssh: Handle<Client>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection(alive: {})", self.is_alive())
    }
}

impl Connection {
    pub(super) fn is_alive(&self) -> bool {
        !self.ssh.is_closed()
    }
}

/// Checks the server's key against the file of known hosts.
pub(super) struct Client {
    host: String,
    port: u16,
    known_hosts: Option<PathBuf>,
}

impl client::Handler for Client {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = key else { return Ok(false) };
        let Some(file) = &self.known_hosts else { return Ok(false) };
        Ok(check_known_hosts_path(&self.host, self.port, key, file)?)
    }
}

/// Connects, checks the host's key, authenticates and starts SFTP.
pub(super) async fn open(place: &Place, location: &str) -> Result<Connection, StoreError> {
    let failed = |error: io::Error| StoreError::Failed { place: location.into(), source: error };
    let denied = |text: String| StoreError::Denied { place: location.into(), source: io::Error::other(text) };
    let config = client::Config { keepalive_interval: Some(KEEPALIVE), keepalive_max: 2, nodelay: true, ..client::Config::default() };
    let ssh = place.options.ssh_folder.clone();
    let client = Client { host: place.host.clone(), port: place.port, known_hosts: ssh.map(|folder| folder.join("known_hosts")) };
    let mut handle = match client::connect(Arc::new(config), (&*place.host, place.port), client).await {
        Ok(handle) => handle,
        Err(russh::Error::UnknownKey) => {
            return Err(denied(format!(
                "the key of {0} is not known: connect once with 'ssh -p {1} {0}' and compare it",
                place.host, place.port
            )));
        }
        Err(russh::Error::Keys(russh::keys::Error::KeyChanged { line })) => {
            return Err(denied(format!(
                "the key of {} is not the one in line {line} of known_hosts: somebody may be in between",
                place.host
            )));
        }
        Err(error) => return Err(failed(io::Error::other(error))),
    };
    let accepted = authenticate(&mut handle, place).await.map_err(|error| failed(io::Error::other(error)))?;
    if !accepted {
        return Err(denied(format!("{} accepts no key of the agent or of ~/.ssh, and no password", place.host)));
    }
    let start = async {
        let channel = handle.channel_open_session().await?;
        channel.request_subsystem(true, "sftp").await?;
        Ok::<_, russh::Error>(channel.into_stream())
    };
    let stream = start.await.map_err(|error| failed(io::Error::other(error)))?;
    let sftp = RawSftpSession::new(stream);
    sftp.set_timeout(REQUEST_TIMEOUT);
    sftp.init().await.map_err(|error| failed(io::Error::other(error)))?;
    Ok(Connection { sftp, ssh: handle })
}

/// The agent behind its socket, if there is one.
#[cfg(unix)]
async fn agent(options: &RemoteOptions) -> Option<AgentClient<impl AgentStream + Send + Unpin + 'static>> {
    AgentClient::connect_uds(options.ssh_agent.as_ref()?).await.ok()
}

/// The agent behind the pipe that `SSH_AUTH_SOCK` names, or that of the system's own.
#[cfg(windows)]
async fn agent(options: &RemoteOptions) -> Option<AgentClient<impl AgentStream + Send + Unpin + 'static>> {
    let pipe = options.ssh_agent.as_deref().unwrap_or(std::path::Path::new(r"\\.\pipe\openssh-ssh-agent"));
    AgentClient::connect_named_pipe(pipe).await.ok()
}

/// The agent's keys, then those in the folder of SSH that need no passphrase, then a password.
async fn authenticate(handle: &mut Handle<Client>, place: &Place) -> Result<bool, russh::Error> {
    let (user, options) = (place.user.as_str(), &place.options);
    let hash = handle.best_supported_rsa_hash().await?.flatten();
    if let Some(mut agent) = agent(options).await
        && let Ok(identities) = agent.request_identities().await
    {
        for identity in identities {
            let AgentIdentity::PublicKey { key, .. } = identity else { continue };
            if let Ok(AuthResult::Success) = handle.authenticate_publickey_with(user, key, hash, &mut agent).await {
                return Ok(true);
            }
        }
    }
    for file in options.ssh_folder.iter().flat_map(|folder| KEY_FILES.map(|file| folder.join(file))) {
        let Ok(key) = load_secret_key(&file, None) else { continue };
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
        if handle.authenticate_publickey(user, key).await?.success() {
            return Ok(true);
        }
    }
    match options.variables.get("YESTERDRIVE_SFTP_PASSWORD") {
        Some(password) => Ok(handle.authenticate_password(user, password).await?.success()),
        None => Ok(false),
    }
}
