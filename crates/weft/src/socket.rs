//! Questions to the running agent over its socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use serde_json::Value;
use weft_agent::api::client;
use weft_cni::CniError;
use weft_cni::client::ClientError;
use weft_cni::wire::Response;

/// The agent's socket in a run folder.
#[derive(Debug)]
pub struct AgentSocket {
    path: PathBuf,
    /// What to do about a folder in which no agent listens.
    mend: &'static str,
}

impl AgentSocket {
    /// The socket in this folder; nothing is opened yet.
    pub fn new(run_dir: &Path) -> Self {
        Self { path: run_dir.join("weft.sock"), mend: "name the agent's run folder with --run-dir" }
    }

    /// Another node's, whose folder `--peer` names.
    pub fn of_peer(run_dir: &Path) -> Self {
        Self { mend: "name the run folder of that node's agent with --peer NODE=DIR", ..Self::new(run_dir) }
    }

    /// Gets a path.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.answer(client::get(&self.path, path))
    }

    /// Gets a path, in this time or not at all.
    pub fn get_within(&self, path: &str, within: Duration) -> Result<Value> {
        self.answer(client::get_within(&self.path, path, within))
    }

    /// Posts a body to a path.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.answer(client::post(&self.path, path, body.to_string().as_bytes()))
    }

    fn answer(&self, response: Result<Response, ClientError>) -> Result<Value> {
        let response = response.map_err(|error| self.explain(&error))?;
        if response.status < 300 {
            return serde_json::from_slice(&response.body).map_err(|_| self.stranger());
        }
        let error: CniError = serde_json::from_slice(&response.body).map_err(|_| self.stranger())?;
        match error.details.as_str() {
            "" => bail!("{}", error.msg),
            details => bail!("{}: {details}", error.msg),
        }
    }

    fn explain(&self, error: &ClientError) -> anyhow::Error {
        match error {
            ClientError::Unreachable { cause, .. } if cause.raw_os_error() == Some(libc::EACCES) => {
                anyhow!("{error}; only root and the agent's own user may ask it: try `sudo weft …`")
            }
            ClientError::Unreachable { .. } => {
                anyhow!("{error}; start it with `weft agent --config FILE`, or {}", self.mend)
            }
            // The agent closes without a word on users that it doesn't trust.
            ClientError::Lost(_) if !nix::unistd::geteuid().is_root() => {
                anyhow!("{error}; only root and the agent's own user may ask it: try `sudo weft …`")
            }
            ClientError::Lost(_) => anyhow!("{error}; its log says why, then try again"),
            ClientError::Late(_) => anyhow!("{error}; it may be very busy: try again, and look at its log"),
            ClientError::Garbage(_) => self.stranger(),
        }
    }

    fn stranger(&self) -> anyhow::Error {
        anyhow!(
            "{}: what listens there is no weft agent, or one of another version; {}",
            self.path.display(),
            self.mend
        )
    }
}
