//! A container runtime's side of CNI: it reads a configuration list, calls its plugins as a runtime does, and keeps
//! their results for DEL and CHECK.
//!
//! Source: CNI specification 1.1.0, sections 3 and 4. What it doesn't do: start containers; [`crate::pod`] does.

mod conflist;
mod invoke;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::LabError;
use crate::machine::{Machine, Net};
pub use conflist::{ConfList, Verb};
use invoke::Call;
pub use invoke::{AddResult, PluginError};

/// A call of a plugin, or the lab's part of it, that failed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The directory has no configuration list.
    #[error("no network configuration in {0} on {1}: is the agent running and ready?")]
    NoConfig(PathBuf, String),
    /// The configuration list can't be understood.
    #[error("can't read {path}: {why}")]
    BadConfig {
        /// The file on the machine.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A plugin isn't in any of the directories.
    #[error("plugin {plugin} is in none of {searched}")]
    NoPlugin {
        /// The plugin's `type`.
        plugin: String,
        /// The directories.
        searched: String,
    },
    /// A plugin answered with an error.
    #[error("{plugin} refused {verb}: {error}")]
    Plugin {
        /// The plugin's `type`.
        plugin: String,
        /// The verb.
        verb: Verb,
        /// Its error.
        error: PluginError,
    },
    /// A plugin's answer can't be understood.
    #[error("{plugin} answered {verb} with {answer:?}: {why}")]
    Unreadable {
        /// The plugin's `type`.
        plugin: String,
        /// The verb.
        verb: Verb,
        /// What it wrote.
        answer: String,
        /// What is wrong with it.
        why: String,
    },
    /// The machine failed.
    #[error(transparent)]
    Lab(#[from] LabError),
}

/// A port of the node that leads to a port of the pod (the `portMappings` capability).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The node's port.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The one address of the node that it holds for; all where absent.
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none", default)]
    pub host_ip: Option<std::net::IpAddr>,
}

/// What a runtime knows of a pod's sandbox when it asks for a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Container id.
    pub id: String,
    /// Path of the network namespace on the machine; `None` once it is gone.
    pub netns: Option<PathBuf>,
    /// Interface to make.
    pub interface: String,
    /// The pod, for CNI_ARGS; containers without Kubernetes have none.
    pub pod: Option<PodIdentity>,
    /// Values for the plugins' capabilities, by capability.
    pub capabilities: BTreeMap<String, Value>,
}

/// A pod's name as a kubelet hands it on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodIdentity {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

impl Sandbox {
    /// A sandbox with interface `eth0` and neither identity nor capabilities.
    pub fn new(id: impl Into<String>, netns: impl Into<PathBuf>) -> Self {
        Self {
            id: id.into(),
            netns: Some(netns.into()),
            interface: "eth0".into(),
            pod: None,
            capabilities: BTreeMap::new(),
        }
    }

    /// CNI_ARGS, as a kubelet's runtime writes it.
    pub fn cni_args(&self) -> String {
        let Some(pod) = &self.pod else { return String::new() };
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
            pod.namespace, pod.name, self.id, pod.uid
        )
    }
}

/// The outcome of an ADD, and how long the plugins took.
#[derive(Debug, Clone, PartialEq)]
pub struct Added {
    /// The last plugin's result.
    pub result: AddResult,
    /// Time from the first plugin's start to the last one's end.
    pub took: Duration,
}

/// The runtime of one machine.
#[derive(Debug)]
pub struct Runtime {
    machine: Arc<Machine>,
    conf_dir: PathBuf,
    bin_dirs: Vec<PathBuf>,
    /// Results by container id and interface.
    results: Mutex<BTreeMap<(String, String), Value>>,
}

impl Runtime {
    /// A runtime that reads /etc/cni/net.d and looks for plugins in /opt/cni/bin, then in /usr/lib/cni.
    pub fn new(machine: Arc<Machine>) -> Self {
        Self {
            machine,
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            results: Mutex::default(),
        }
    }

    /// The machine.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// The first configuration list by file name.
    pub fn config(&self) -> Result<ConfList, RuntimeError> {
        ConfList::first_in(
            &self.machine.path(&self.conf_dir.to_string_lossy()),
            &self.conf_dir,
            self.machine.name(),
        )
    }

    /// Waits until there is a configuration list and every plugin that answers STATUS says that it is ready.
    pub fn wait_ready(&self, patience: Duration) -> Result<(), RuntimeError> {
        let deadline = Instant::now() + patience;
        loop {
            match self.config().and_then(|_| self.status()) {
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                result => return result,
            }
        }
    }

    /// Makes a network namespace at /run/netns/NAME on the machine, with loopback up, and returns its path there.
    pub fn create_netns(&self, name: &str) -> Result<PathBuf, RuntimeError> {
        self.machine.run("ip", &["netns", "add", name])?;
        let path = Path::new("/run/netns").join(name);
        // Not `ip -n`: it mounts /sys anew, which a user namespace may refuse.
        let mut command = Command::new("ip");
        command.args(["link", "set", "lo", "up"]);
        let finished = self.machine.output(command, Net::At(&path), b"")?;
        finished.success_or(|output| LabError::Command {
            machine: self.machine.name().into(),
            command: format!("ip link set lo up in {name}"),
            output,
        })?;
        Ok(path)
    }

    /// Removes what [`Runtime::create_netns`] made.
    pub fn delete_netns(&self, name: &str) -> Result<(), RuntimeError> {
        self.machine.run("ip", &["netns", "delete", name])?;
        Ok(())
    }

    /// ADD through all plugins in turn. Where one fails, DEL is called through all, as the specification asks.
    pub fn add(&self, sandbox: &Sandbox) -> Result<Added, RuntimeError> {
        let config = self.config()?;
        let start = Instant::now();
        let mut result = None;
        for plugin in config.plugins() {
            match self.call(&config, plugin, Verb::Add, Some(sandbox), result.as_ref()) {
                Ok(answer) => result = answer,
                Err(error) => {
                    // The failure to report is the first one.
                    let _ = self.del_with(&config, sandbox, None);
                    return Err(error);
                }
            }
        }
        let took = start.elapsed();
        let value = result.unwrap_or(Value::Null);
        let result = AddResult::read(&value).map_err(|why| RuntimeError::Unreadable {
            plugin: config.name().into(),
            verb: Verb::Add,
            answer: value.to_string(),
            why,
        })?;
        self.results().insert((sandbox.id.clone(), sandbox.interface.clone()), value);
        Ok(Added { result, took })
    }

    /// DEL through all plugins in reverse order. Returns how long they took.
    pub fn del(&self, sandbox: &Sandbox) -> Result<Duration, RuntimeError> {
        let key = (sandbox.id.clone(), sandbox.interface.clone());
        let kept = self.results().get(&key).cloned();
        let start = Instant::now();
        self.del_with(&self.config()?, sandbox, kept.as_ref())?;
        self.results().remove(&key);
        Ok(start.elapsed())
    }

    fn del_with(
        &self,
        config: &ConfList,
        sandbox: &Sandbox,
        kept: Option<&Value>,
    ) -> Result<(), RuntimeError> {
        for plugin in config.plugins().iter().rev() {
            self.call(config, plugin, Verb::Del, Some(sandbox), kept)?;
        }
        Ok(())
    }

    /// CHECK through all plugins in turn.
    pub fn check(&self, sandbox: &Sandbox) -> Result<(), RuntimeError> {
        let config = self.config()?;
        let kept = self.results().get(&(sandbox.id.clone(), sandbox.interface.clone())).cloned();
        for plugin in config.plugins() {
            self.call(&config, plugin, Verb::Check, Some(sandbox), kept.as_ref())?;
        }
        Ok(())
    }

    /// VERSION: the versions that each plugin of the list says it speaks.
    pub fn versions(&self) -> Result<Vec<Vec<String>>, RuntimeError> {
        let config = self.config()?;
        let read = |plugin: &Value| {
            let answer = self.call(&config, plugin, Verb::Version, None, None)?.unwrap_or_default();
            let list = answer.get("supportedVersions").and_then(Value::as_array).into_iter().flatten();
            Ok(list.filter_map(Value::as_str).map(str::to_owned).collect())
        };
        config.plugins().iter().map(read).collect()
    }

    /// GC through all plugins, with the attachments that this runtime has results of as the valid ones. Plugins
    /// that speak an older version aren't called.
    pub fn gc(&self) -> Result<(), RuntimeError> {
        let valid: Vec<Value> = self
            .results()
            .keys()
            .map(|(id, interface)| serde_json::json!({"containerID": id, "ifname": interface}))
            .collect();
        let config = self.config()?.with_valid_attachments(valid);
        self.call_newer(&config, Verb::Gc)
    }

    /// STATUS through all plugins. Plugins that speak an older version aren't called.
    pub fn status(&self) -> Result<(), RuntimeError> {
        self.call_newer(&self.config()?, Verb::Status)
    }

    fn call_newer(&self, config: &ConfList, verb: Verb) -> Result<(), RuntimeError> {
        if !config.speaks_1_1() {
            return Ok(());
        }
        for plugin in config.plugins() {
            self.call(config, plugin, verb, None, None)?;
        }
        Ok(())
    }

    /// Forgets what it has added, as a runtime whose state was lost.
    pub fn forget(&self) {
        self.results().clear();
    }

    fn results(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, String), Value>> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(
        &self,
        config: &ConfList,
        plugin: &Value,
        verb: Verb,
        sandbox: Option<&Sandbox>,
        previous: Option<&Value>,
    ) -> Result<Option<Value>, RuntimeError> {
        let request = config.request(plugin, sandbox, previous);
        Call { machine: &self.machine, bin_dirs: &self.bin_dirs, verb, sandbox, request }.run()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cni_args_name_the_pod() {
        let mut sandbox = Sandbox::new("c1", "/run/netns/c1");
        assert_eq!(sandbox.cni_args(), "");
        sandbox.pod = Some(PodIdentity { namespace: "shop".into(), name: "web-0".into(), uid: "u".into() });
        assert_eq!(
            sandbox.cni_args(),
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u"
        );
    }
}
