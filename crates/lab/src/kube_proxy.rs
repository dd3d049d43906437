//! kube-proxy as the lab starts it: alone on a machine, with an [`crate::api_server::ApiServer`] that has nothing else to do.
//!
//! What is absent: where the program comes from, and what it is fed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::api_server::ApiServer;
use crate::{LabError, Machine, Net, Process};

/// How it programs the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A table of its own.
    Nftables,
    /// Chains among everybody's.
    Iptables,
}

impl Mode {
    /// The value of `--proxy-mode`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

/// A program, and how it runs.
#[derive(Debug, Clone)]
pub struct KubeProxy {
    /// The program, as the machine sees it.
    pub program: PathBuf,
    /// See there.
    pub mode: Mode,
    /// Pods' addresses, by commas, so that it knows what comes from outside.
    pub pods: &'static str,
}

impl KubeProxy {
    /// Starts it on a machine. What it says goes into `log`.
    ///
    /// # Errors
    /// Where the program can't be run or the log can't be made.
    pub fn start(&self, machine: &Machine, server: &ApiServer, log: &Path) -> Result<Process, LabError> {
        let file = File::create(log).map_err(LabError::file("make", log))?;
        let copy = file.try_clone().map_err(LabError::file("share", log))?;
        let mut command = Command::new(&self.program);
        command
            .arg(format!("--master={}", server.url()))
            .arg(format!("--hostname-override={}", machine.name()))
            .arg(format!("--proxy-mode={}", self.mode.word()))
            .arg(format!("--cluster-cidr={}", self.pods))
            .arg("--metrics-bind-address=127.0.0.1:10249")
            // Leave the kernel's own settings as they are.
            .args(["--conntrack-max-per-core=0", "--conntrack-min=0"])
            .args(["--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0"])
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(copy);
        machine.spawn(command, Net::Machine)
    }

    /// Has it remove all rules that it has ever made on a machine, in any mode.
    ///
    /// # Errors
    /// Where it can't be run. That it fails is no error: it says so as well where iptables is missing.
    pub fn clean_up(&self, machine: &Machine) -> Result<(), LabError> {
        let mut command = Command::new(&self.program);
        command.args(["--cleanup", "--hostname-override", machine.name()]);
        machine.output(command, Net::Machine, b"")?;
        Ok(())
    }
}
