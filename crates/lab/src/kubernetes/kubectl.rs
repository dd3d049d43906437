//! Asking the API server, through `kubectl` on the control plane's machine.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{CONTROL, PARTS};
use crate::LabError;
use crate::machine::{Machine, Net, Process};

/// How often something that is waited for is looked at.
const PAUSE: Duration = Duration::from_millis(300);

/// A user of the cluster who may do everything.
#[derive(Debug, Clone)]
pub struct Kubectl {
    machine: Arc<Machine>,
}

impl Kubectl {
    pub(super) fn new(machine: Arc<Machine>) -> Self {
        Self { machine }
    }

    /// Where `kubectl` and other clients on the control plane's machine find the cluster.
    pub const KUBECONFIG: &'static str = "/etc/kubernetes/admin.conf";

    /// A program among the parts, to be run on the control plane's machine as this user.
    pub fn client(&self, program: &str) -> Command {
        let mut command = Command::new(format!("{PARTS}/bin/{program}"));
        command.env("KUBECONFIG", Self::KUBECONFIG).env("HOME", "/run").current_dir("/");
        command
    }

    /// Runs kubectl, and returns what it wrote.
    pub fn run(&self, arguments: &[&str]) -> Result<String, LabError> {
        self.run_with_input(arguments, "")
    }

    /// [`Kubectl::run`] with text as standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Result<String, LabError> {
        let mut command = self.client("kubectl");
        command.args(arguments);
        let finished = self.machine.output(command, Net::Machine, input.as_bytes())?;
        finished.success_or(|output| LabError::Command {
            machine: CONTROL.into(),
            command: format!("kubectl {}", arguments.join(" ")),
            output,
        })
    }

    /// Creates or changes objects.
    pub fn apply(&self, manifests: &str) -> Result<String, LabError> {
        self.run_with_input(&["apply", "-f", "-"], manifests)
    }

    /// What kubectl gets, as JSON; `arguments` follow `get`.
    pub fn get(&self, arguments: &[&str]) -> Result<Value, LabError> {
        let text = self.run(&[&["get", "-o", "json"], arguments].concat())?;
        serde_json::from_str(&text).map_err(|error| LabError::Command {
            machine: CONTROL.into(),
            command: format!("kubectl get {}", arguments.join(" ")),
            output: error.to_string(),
        })
    }

    /// Starts kubectl for something that lasts, `port-forward` for example.
    pub fn start(&self, arguments: &[&str]) -> Result<Process, LabError> {
        let mut command = self.client("kubectl");
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.machine.spawn(command, Net::Machine)
    }

    /// The machine that it runs on.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// Looks again and again until `ready` finds what it looks for; says what was there at last where that takes too long.
    ///
    /// # Errors
    /// [`LabError::Late`].
    pub fn wait<T>(
        &self,
        what: &str,
        patience: Duration,
        mut ready: impl FnMut() -> Result<T, String>,
    ) -> Result<T, LabError> {
        let deadline = Instant::now() + patience;
        loop {
            match ready() {
                Ok(found) => return Ok(found),
                Err(last) if Instant::now() > deadline => {
                    return Err(LabError::Late { what: what.into(), patience, last });
                }
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }
}
