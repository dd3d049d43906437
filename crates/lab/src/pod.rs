//! Pods as real processes: a network namespace that the CNI plugins have connected, and the test server in it with
//! a host name, /sys and /etc/resolv.conf of its own.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::sethostname;
use serde::{Deserialize, Serialize};

use crate::machine::{Machine, Net, Process};
use crate::runtime::{PodIdentity, PortMapping, Runtime, RuntimeError, Sandbox};
use crate::tool::Tool;
use crate::{LabError, serve};

/// A pod to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSpec {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Ports of the node that lead to it.
    pub ports: Vec<PortMapping>,
    /// Name servers of its /etc/resolv.conf.
    pub name_servers: Vec<IpAddr>,
    /// The cluster's DNS domain, for the search list.
    pub cluster_domain: String,
}

impl PodSpec {
    /// A pod without ports and name servers.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            uid: format!("uid-{namespace}-{name}"),
            ports: Vec::new(),
            name_servers: Vec::new(),
            cluster_domain: "cluster.local".into(),
        }
    }

    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The container id and the namespace's name: the same again for the same pod, so that logs can be compared.
    fn container_id(&self) -> String {
        format!("cni-{}-{}", self.namespace, self.name)
    }

    fn sandbox(&self, netns: impl Into<std::path::PathBuf>) -> Sandbox {
        let mut sandbox = Sandbox::new(self.container_id(), netns);
        sandbox.pod = Some(PodIdentity {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
        });
        if !self.ports.is_empty() {
            sandbox.capabilities = BTreeMap::from([("portMappings".into(), serde_json::json!(self.ports))]);
        }
        sandbox
    }

    /// /etc/resolv.conf, as a kubelet writes it for `ClusterFirst`.
    fn resolv_conf(&self) -> String {
        let servers: String = self.name_servers.iter().map(|s| format!("nameserver {s}\n")).collect();
        let (namespace, domain) = (&self.namespace, &self.cluster_domain);
        format!("search {namespace}.svc.{domain} svc.{domain} {domain}\n{servers}options ndots:5\n")
    }
}

/// A running pod.
#[derive(Debug)]
pub struct Pod {
    spec: PodSpec,
    runtime: Arc<Runtime>,
    sandbox: Sandbox,
    addresses: Vec<IpAddr>,
    add_took: Duration,
    process: Process,
}

/// What the pod's process is told on its command line.
#[derive(Debug, Serialize, Deserialize)]
struct Orders {
    name: String,
    hostname: String,
    resolv_conf: String,
}

impl Pod {
    /// Makes the namespace, has it connected, and starts the server. A failure leaves nothing behind.
    pub fn start(runtime: &Arc<Runtime>, tool: &Tool, spec: PodSpec) -> Result<Self, RuntimeError> {
        let netns = runtime.create_netns(&spec.container_id())?;
        let sandbox = spec.sandbox(&netns);
        let added = match runtime.add(&sandbox) {
            Ok(added) => added,
            Err(error) => {
                // The failure to report is the first one.
                let _ = runtime.delete_netns(&spec.container_id());
                return Err(error);
            }
        };
        let process = match start_server(runtime.machine(), tool, &spec, &netns) {
            Ok(process) => process,
            Err(error) => {
                let _ = runtime.del(&sandbox);
                let _ = runtime.delete_netns(&spec.container_id());
                return Err(error.into());
            }
        };
        Ok(Self {
            spec,
            runtime: Arc::clone(runtime),
            sandbox,
            addresses: added.result.ips().collect(),
            add_took: added.took,
            process,
        })
    }

    /// What it was started from.
    pub fn spec(&self) -> &PodSpec {
        &self.spec
    }

    /// `namespace/name`.
    pub fn key(&self) -> String {
        self.spec.key()
    }

    /// Its addresses as the plugins gave them.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// How long ADD took.
    pub fn add_took(&self) -> Duration {
        self.add_took
    }

    /// The machine that it runs on.
    pub fn machine(&self) -> &Arc<Machine> {
        self.runtime.machine()
    }

    /// Its network, for processes that are to run in it.
    pub fn net(&self) -> Net<'_> {
        self.sandbox.netns.as_deref().map_or(Net::Machine, Net::At)
    }

    /// Its process id, as seen from outside the machine.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// CHECK.
    pub fn check(&self) -> Result<(), RuntimeError> {
        self.runtime.check(&self.sandbox)
    }

    /// Ends the process, has the pod disconnected, and removes the namespace. Returns how long DEL took.
    pub fn stop(self) -> Result<Duration, RuntimeError> {
        self.process.kill();
        let took = self.runtime.del(&self.sandbox)?;
        self.runtime.delete_netns(&self.sandbox.id)?;
        Ok(took)
    }
}

fn start_server(machine: &Machine, tool: &Tool, spec: &PodSpec, netns: &Path) -> Result<Process, LabError> {
    let orders = Orders { name: spec.key(), hostname: spec.name.clone(), resolv_conf: spec.resolv_conf() };
    let orders =
        serde_json::to_string(&orders).map_err(|e| LabError::Tool { tool: "pod", why: e.to_string() })?;
    spawn_server(machine, tool.command(&["pod", &orders]), Net::At(netns))
}

/// Starts a server process and waits until it says that its ports are open.
pub fn spawn_server(machine: &Machine, mut command: Command, net: Net<'_>) -> Result<Process, LabError> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut process = machine.spawn(command, net)?;
    let mut line = String::new();
    let read = process.stdout.as_mut().map(|out| BufReader::new(out).read_line(&mut line));
    match (read, line.trim()) {
        (Some(Ok(_)), "ready") => Ok(process),
        (_, said) => {
            Err(LabError::Tool { tool: "server", why: format!("it said {said:?} instead of `ready`") })
        }
    }
}

/// `pod ORDERS`: the process of a pod.
pub(crate) fn pod_main(orders: &str) -> ExitCode {
    let result = serde_json::from_str::<Orders>(orders)
        .map_err(|e| e.to_string())
        .and_then(|orders| settle_in(&orders).map(|()| orders.name));
    match result {
        Ok(name) => serve::serve_main(&name),
        Err(why) => {
            println!("error {why}");
            ExitCode::FAILURE
        }
    }
}

/// Gives this process the host name and the files that a container has for itself.
fn settle_in(orders: &Orders) -> Result<(), String> {
    let failed = |what: &'static str| move |e: nix::Error| format!("can't {what}: {e}");
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)
        .map_err(failed("make the pod's namespaces"))?;
    sethostname(&orders.hostname).map_err(failed("set the host name"))?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(failed("make mounts private"))?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>)
        .map_err(failed("mount /sys"))?;
    let file = format!("/run/resolv-{}.conf", std::process::id());
    std::fs::write(&file, &orders.resolv_conf).map_err(|e| format!("can't write {file}: {e}"))?;
    mount(Some(file.as_str()), "/etc/resolv.conf", None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(failed("bind /etc/resolv.conf"))?;
    std::fs::remove_file(&file).map_err(|e| format!("can't remove {file}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_a_kubelets() {
        let mut spec = PodSpec::new("shop", "web-0");
        spec.name_servers = vec!["169.254.53.53".parse().expect("an address")];
        assert_eq!(
            spec.resolv_conf(),
            "search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 169.254.53.53\noptions ndots:5\n"
        );
    }
}
