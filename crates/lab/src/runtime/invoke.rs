//! One call of one plugin: its environment, its standard input, and what its answer means.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use super::{RuntimeError, Sandbox, Verb};
use crate::machine::{Finished, Machine, Net};

/// A plugin's error (CNI specification 1.1.0, section 5).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PluginError {
    /// Its number; 11 means "try again later".
    pub code: u32,
    /// One line.
    #[serde(default)]
    pub msg: String,
    /// More.
    #[serde(default)]
    pub details: String,
}

impl std::fmt::Display for PluginError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (code {})", self.msg, self.code)?;
        if !self.details.is_empty() {
            write!(f, ": {}", self.details)?;
        }
        Ok(())
    }
}

/// The parts of an ADD result that the lab uses.
#[derive(Debug, Clone, PartialEq)]
pub struct AddResult {
    /// The pod's addresses with their prefix lengths.
    pub addresses: Vec<IpNet>,
    /// The whole result as the plugin wrote it.
    pub raw: Value,
}

impl AddResult {
    /// Reads a result of any version from 0.3.1 on.
    pub fn read(value: &Value) -> Result<Self, String> {
        let ips = value.get("ips").and_then(Value::as_array).ok_or("`ips` is missing")?;
        let addresses = ips
            .iter()
            .map(|ip| {
                let text = ip.get("address").and_then(Value::as_str).ok_or("an address is missing")?;
                text.parse::<IpNet>().map_err(|e| format!("address {text}: {e}"))
            })
            .collect::<Result<_, String>>()?;
        Ok(Self { addresses, raw: value.clone() })
    }

    /// The pod's addresses.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(IpNet::addr)
    }
}

/// A call that is ready to be made.
pub(super) struct Call<'a> {
    pub machine: &'a Machine,
    pub bin_dirs: &'a [PathBuf],
    pub verb: Verb,
    /// Absent for GC and STATUS.
    pub sandbox: Option<&'a Sandbox>,
    pub request: Value,
}

impl Call<'_> {
    /// Runs the plugin; returns its result, which only ADD and VERSION have.
    pub fn run(&self) -> Result<Option<Value>, RuntimeError> {
        let plugin = self.request.get("type").and_then(Value::as_str).unwrap_or_default();
        let program = self.find(plugin)?;
        let command = self.command(&program);
        let finished = self.machine.output(command, Net::Machine, self.request.to_string().as_bytes())?;
        self.read(plugin, &finished)
    }

    fn find(&self, plugin: &str) -> Result<PathBuf, RuntimeError> {
        let here = |d: &&PathBuf| self.machine.path(&d.join(plugin).to_string_lossy()).exists();
        self.bin_dirs.iter().find(here).map(|d| d.join(plugin)).ok_or_else(|| RuntimeError::NoPlugin {
            plugin: plugin.into(),
            searched: joined(self.bin_dirs, ", "),
        })
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", self.verb.as_str())
            .env("CNI_PATH", joined(self.bin_dirs, ":"));
        if let Some(sandbox) = self.sandbox {
            let netns = sandbox.netns.as_deref().unwrap_or(Path::new(""));
            command
                .env("CNI_CONTAINERID", &sandbox.id)
                .env("CNI_NETNS", netns)
                .env("CNI_IFNAME", &sandbox.interface)
                .env("CNI_ARGS", sandbox.cni_args());
        }
        command
    }

    fn read(&self, plugin: &str, finished: &Finished) -> Result<Option<Value>, RuntimeError> {
        let answer = String::from_utf8_lossy(&finished.stdout).into_owned();
        let unreadable = |why: String| RuntimeError::Unreadable {
            plugin: plugin.into(),
            verb: self.verb,
            answer: answer.clone(),
            why,
        };
        if !finished.status.success() {
            let log = String::from_utf8_lossy(&finished.stderr);
            let error = serde_json::from_str(&answer)
                .map_err(|e| unreadable(format!("{e}; {}; {}", finished.status, log.trim())))?;
            return Err(RuntimeError::Plugin { plugin: plugin.into(), verb: self.verb, error });
        }
        match self.verb {
            Verb::Add | Verb::Version => {
                serde_json::from_str(&answer).map(Some).map_err(|e| unreadable(e.to_string()))
            }
            Verb::Del | Verb::Check | Verb::Gc | Verb::Status => Ok(None),
        }
    }
}

fn joined(paths: &[PathBuf], separator: &str) -> String {
    paths.iter().map(|p| p.to_string_lossy()).collect::<Vec<_>>().join(separator)
}
