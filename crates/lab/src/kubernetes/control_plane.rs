//! etcd, API server, controller manager and scheduler on one machine.

use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::config::{User, kubeconfig, tokens};
use super::kubectl::Kubectl;
use super::{CONTROL, PARTS, POD_CIDR, SERVICE_CIDR};
use crate::LabError;
use crate::machine::{Machine, Net, Process};

/// Keys and certificates, on the machine's disk.
const KEYS: &str = "/var/lib/kubernetes";
/// What the API server is known by: its own certificate, and that of the authority which it made for itself.
pub(super) const AUTHORITY: &str = "/var/lib/kubernetes/certificates/apiserver.crt";
/// Runs its arguments again whenever they end.
const AGAIN: &str = r#"while :; do "$@"; echo "ended with $?: started again"; sleep 1; done"#;
/// How long the API server may take to answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// The running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    machine: Arc<Machine>,
    address: IpAddr,
    logs: PathBuf,
    api_server: Option<Process>,
    _others: Vec<Process>,
}

impl ControlPlane {
    /// Starts everything, and waits until the API server answers. `logs` is a folder of the real machine.
    pub fn start(
        machine: &Arc<Machine>,
        address: IpAddr,
        nodes: &[String],
        logs: &Path,
    ) -> Result<Self, LabError> {
        machine.run("mkdir", &["-p", KEYS, "/etc/kubernetes"])?;
        machine.run("openssl", &["genrsa", "-out", &format!("{KEYS}/sa.key"), "2048"])?;
        machine.run(
            "openssl",
            &["rsa", "-in", &format!("{KEYS}/sa.key"), "-pubout", "-out", &format!("{KEYS}/sa.pub")],
        )?;
        let mut users = vec![User::admin()];
        users.extend(nodes.iter().map(|node| User::kubelet(node)));
        write(machine, &format!("{KEYS}/tokens.csv"), &tokens(&users))?;
        write(machine, Kubectl::KUBECONFIG, &kubeconfig(address, AUTHORITY, &User::admin()))?;
        let mut control = Self {
            machine: Arc::clone(machine),
            address,
            logs: logs.to_owned(),
            api_server: None,
            _others: Vec::new(),
        };
        let etcd = control.spawn("etcd", &etcd_arguments())?;
        control._others.push(etcd);
        control.start_api_server()?;
        for (program, arguments) in [
            ("kube-controller-manager", controller_arguments()),
            (
                "kube-scheduler",
                words(&["--leader-elect=false", &format!("--kubeconfig={}", Kubectl::KUBECONFIG)]),
            ),
        ] {
            let process = control.keep(program, &arguments)?;
            control._others.push(process);
        }
        Ok(control)
    }

    /// Starts the API server, and waits until it is ready.
    pub fn start_api_server(&mut self) -> Result<(), LabError> {
        self.api_server = Some(self.spawn("kube-apiserver", &api_server_arguments(self.address))?);
        let kubectl = self.kubectl();
        let log = self.log("kube-apiserver");
        kubectl.wait("the API server", PATIENCE, || match kubectl.run(&["get", "--raw", "/readyz"]) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{error}; its log ends with: {}", last_line(&log))),
        })
    }

    /// Ends the API server at once, as a machine that fails does.
    pub fn kill_api_server(&mut self) {
        // Killed when dropped.
        self.api_server = None;
    }

    /// Asks the cluster.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(Arc::clone(&self.machine))
    }

    /// Certificates by which the API server is known, and where it is.
    pub fn contact(&self) -> Result<(IpAddr, String), LabError> {
        let path = self.machine.path(AUTHORITY);
        let authority = std::fs::read_to_string(&path).map_err(LabError::file("read", path))?;
        Ok((self.address, authority))
    }

    fn spawn(&self, program: &str, arguments: &[String]) -> Result<Process, LabError> {
        let mut command = Command::new(format!("{PARTS}/bin/{program}"));
        command.args(arguments);
        start(&self.machine, command, &self.log(program))
    }

    /// Starts a program that is started again when it ends, as kubelets do with static pods: a scheduler that finds its memory
    /// wrong, after the API server was away, ends itself and counts on that.
    fn keep(&self, program: &str, arguments: &[String]) -> Result<Process, LabError> {
        let mut command = Command::new("sh");
        command.args(["-c", AGAIN, "sh", &format!("{PARTS}/bin/{program}")]).args(arguments);
        start(&self.machine, command, &self.log(program))
    }

    fn log(&self, program: &str) -> PathBuf {
        self.logs.join(format!("{CONTROL}-{program}.log"))
    }
}

/// Starts a program whose output goes to a file of the real machine.
pub(super) fn start(machine: &Machine, mut command: Command, log: &Path) -> Result<Process, LabError> {
    let file = File::options().create(true).append(true).open(log).map_err(LabError::file("open", log))?;
    let copy = file.try_clone().map_err(LabError::file("open", log))?;
    command.stdin(Stdio::null()).stdout(file).stderr(copy).current_dir("/");
    machine.spawn(command, Net::Machine)
}

/// Writes a file of a machine, and makes its folder.
pub(super) fn write(machine: &Machine, path: &str, text: &str) -> Result<(), LabError> {
    let path = machine.path(path);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(LabError::file("make", folder))?;
    }
    std::fs::write(&path, text).map_err(LabError::file("write", path))
}

fn last_line(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().last().unwrap_or("(nothing)").to_owned()
}

fn words(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|word| (*word).to_owned()).collect()
}

fn etcd_arguments() -> Vec<String> {
    words(&[
        "--data-dir=/var/lib/etcd",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        // The lab's disk doesn't outlive the lab.
        "--unsafe-no-fsync",
        "--log-level=warn",
    ])
}

fn api_server_arguments(address: IpAddr) -> Vec<String> {
    words(&[
        "--etcd-servers=http://127.0.0.1:2379",
        &format!("--service-cluster-ip-range={SERVICE_CIDR}"),
        &format!("--cert-dir={KEYS}/certificates"),
        "--service-account-issuer=https://kubernetes.default.svc",
        &format!("--service-account-key-file={KEYS}/sa.pub"),
        &format!("--service-account-signing-key-file={KEYS}/sa.key"),
        &format!("--token-auth-file={KEYS}/tokens.csv"),
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--bind-address=0.0.0.0",
        &format!("--advertise-address={address}"),
        "--service-node-port-range=30000-32767",
        "--kubelet-preferred-address-types=InternalIP",
    ])
}

fn controller_arguments() -> Vec<String> {
    words(&[
        &format!("--kubeconfig={}", Kubectl::KUBECONFIG),
        "--leader-elect=false",
        "--allocate-node-cidrs",
        &format!("--cluster-cidr={POD_CIDR}"),
        &format!("--service-cluster-ip-range={SERVICE_CIDR}"),
        "--node-cidr-mask-size=24",
        &format!("--service-account-private-key-file={KEYS}/sa.key"),
        "--use-service-account-credentials",
        &format!("--root-ca-file={AUTHORITY}"),
    ])
}
