//! containerd and a kubelet on a node.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};

use super::PARTS;
use super::config::{CONTAINERD, User, kubeconfig, kubelet};
use super::control_plane::{start, write};
use super::parts::Parts;
use crate::LabError;
use crate::machine::{Machine, Net, Process};

/// How long containerd may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
const CONTAINERD_CONFIG: &str = "/etc/containerd/config.toml";
const SOCKET: &str = "/run/containerd/containerd.sock";

/// A running node.
#[derive(Debug)]
pub struct Node {
    machine: Arc<Machine>,
    logs: PathBuf,
    _containerd: Process,
    kubelet: Option<Process>,
}

impl Node {
    /// Starts containerd on a machine that has just begun; what it had on its disk it still has.
    pub fn start(machine: &Arc<Machine>, logs: &Path) -> Result<Self, LabError> {
        machine.enter(|| {
            // Volumes that are mounted later must be seen in containers, as on any host that systemd has set up.
            let flags = MsFlags::MS_REC | MsFlags::MS_SHARED;
            mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
                .map_err(|e| LabError::file("share", "/")(e.into()))
        })??;
        write(machine, CONTAINERD_CONFIG, CONTAINERD)?;
        let mut command = Command::new(format!("{PARTS}/bin/containerd"));
        command.args(["--config", CONTAINERD_CONFIG]).env("PATH", path());
        let containerd = start(machine, command, &logs.join(format!("{}-containerd.log", machine.name())))?;
        let node = Self {
            machine: Arc::clone(machine),
            logs: logs.to_owned(),
            _containerd: containerd,
            kubelet: None,
        };
        node.wait_for_containerd()?;
        Ok(node)
    }

    fn wait_for_containerd(&self) -> Result<(), LabError> {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.ctr(&["version"]) {
            if Instant::now() > deadline {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Imports the parts' images.
    pub fn import_all(&self, parts: &Parts) -> Result<(), LabError> {
        for archive in parts.archives()? {
            self.ctr(&["images", "import", "--local", &format!("{PARTS}/img/{archive}")])?;
        }
        Ok(())
    }

    /// Imports one image archive of the real machine.
    pub fn import(&self, archive: &Path) -> Result<(), LabError> {
        let inside = "/run/image.tar";
        let to = self.machine.path(inside);
        std::fs::copy(archive, &to).map_err(LabError::file("write", &to))?;
        let imported = self.ctr(&["images", "import", "--local", inside]).map(drop);
        std::fs::remove_file(&to).map_err(LabError::file("remove", &to))?;
        imported
    }

    /// Runs `ctr` in Kubernetes' own namespace.
    pub fn ctr(&self, arguments: &[&str]) -> Result<String, LabError> {
        let all = [&["--address", SOCKET, "--namespace", "k8s.io"], arguments].concat();
        let mut command = Command::new(format!("{PARTS}/bin/ctr"));
        command.args(&all).env("PATH", path());
        let finished = self.machine.output(command, Net::Machine, b"")?;
        finished.success_or(|output| LabError::Command {
            machine: self.machine.name().into(),
            command: format!("ctr {}", arguments.join(" ")),
            output,
        })
    }

    /// Starts the kubelet.
    pub fn start_kubelet(
        &mut self,
        address: IpAddr,
        (server, authority): &(IpAddr, String),
        cgroup: &str,
    ) -> Result<(), LabError> {
        let name = self.machine.name();
        let known = "/etc/kubernetes/ca.crt";
        write(&self.machine, known, authority)?;
        write(
            &self.machine,
            "/etc/kubernetes/kubelet.conf",
            &kubeconfig(*server, known, &User::kubelet(name)),
        )?;
        write(&self.machine, "/etc/kubernetes/kubelet.yaml", &kubelet(cgroup))?;
        let mut command = Command::new(format!("{PARTS}/bin/kubelet"));
        command.env("PATH", path()).args([
            "--config=/etc/kubernetes/kubelet.yaml",
            "--kubeconfig=/etc/kubernetes/kubelet.conf",
            &format!("--node-ip={address}"),
            &format!("--hostname-override={name}"),
            "--root-dir=/var/lib/kubelet",
        ]);
        self.kubelet = Some(start(&self.machine, command, &self.logs.join(format!("{name}-kubelet.log")))?);
        Ok(())
    }
}

/// Where programs are looked for: containerd starts its shim, and that runc, by name.
fn path() -> String {
    format!("{PARTS}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}
