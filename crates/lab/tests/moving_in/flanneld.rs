//! flannel on the lab's machines: its daemon, and what its CNI plugin would do.
//!
//! The daemon is real (the Go module `github.com/flannel-io/flannel`): that of the folder that `WEFT_FLANNEL_BIN` names, or the one that
//! `cargo xtask test` has built. The CNI plugin only calls `bridge` and `host-local` with what the daemon wrote into subnet.env: pods come by
//! that call, written down.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use weft_lab::{Machine, Net, Process};

use crate::site::wait;

/// How flannel's nodes reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Vxlan,
    /// In both families: flannel has a tunnel for each.
    VxlanOfBoth,
    /// In IPv6 alone.
    VxlanOfV6,
    /// In both families.
    HostGw,
}

impl Backend {
    /// As flannel and Weft call it.
    pub fn word(self) -> &'static str {
        match self {
            Backend::Vxlan | Backend::VxlanOfBoth | Backend::VxlanOfV6 => "vxlan",
            Backend::HostGw => "host-gw",
        }
    }

    /// flannel's configuration of the network.
    pub fn config(self) -> &'static str {
        match self {
            Backend::Vxlan => {
                r#"{"Network": "10.42.0.0/16", "SubnetLen": 24, "Backend": {"Type": "vxlan", "VNI": 1, "Port": 8472}}"#
            }
            Backend::VxlanOfBoth => {
                r#"{"Network": "10.42.0.0/16", "SubnetLen": 24, "EnableIPv6": true, "IPv6Network": "fd42::/48",
                  "IPv6SubnetLen": 64, "Backend": {"Type": "vxlan", "VNI": 1, "Port": 8472}}"#
            }
            Backend::VxlanOfV6 => {
                r#"{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd42::/48", "IPv6SubnetLen": 64,
                  "Backend": {"Type": "vxlan", "VNI": 1, "Port": 8472}}"#
            }
            Backend::HostGw => {
                r#"{"Network": "10.42.0.0/16", "SubnetLen": 24, "EnableIPv6": true, "IPv6Network": "fd42::/48",
                  "IPv6SubnetLen": 64, "Backend": {"Type": "host-gw"}}"#
            }
        }
    }

    /// The block of all its pods, IPv4's where it has one.
    pub fn cluster(self) -> &'static str {
        if self == Backend::VxlanOfV6 { "fd42::/48" } else { "10.42.0.0/16" }
    }

    /// Largest packet of its pods.
    fn mtu(self) -> u32 {
        match self {
            Backend::Vxlan => 1450,
            Backend::VxlanOfBoth | Backend::VxlanOfV6 => 1430,
            Backend::HostGw => 1500,
        }
    }
}

/// What runtimes find on a node of flannel's.
pub const CONFLIST: &str = r#"{"cniVersion": "0.3.1", "name": "cbr0", "plugins": [{"type": "flannel",
  "delegate": {"hairpinMode": true, "isDefaultGateway": true}}]}"#;

/// Programs beside the daemon.
const BRIDGE: &str = "/usr/lib/cni/bridge";

/// The daemon's program, where it and what its pods come by are here.
pub fn program() -> Result<PathBuf, String> {
    let named = std::env::var_os("WEFT_FLANNEL_BIN").map(|folder| PathBuf::from(folder).join("flanneld"));
    let found = named.or_else(built).filter(|path| path.exists());
    let found = found
        .ok_or("no flanneld: `cargo xtask test` builds it (Go 1.26), or WEFT_FLANNEL_BIN names its folder")?;
    if !Path::new(BRIDGE).exists() {
        return Err(format!("no {BRIDGE} (Debian's containernetworking-plugins)"));
    }
    Ok(found)
}

/// The newest of those in `target/peers`.
fn built() -> Option<PathBuf> {
    let ours = Path::new(env!("CARGO_BIN_EXE_weft-lab"));
    let entries = std::fs::read_dir(ours.ancestors().nth(2)?.join("peers")).ok()?.flatten();
    let is_daemon = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("flanneld-v"))
    };
    entries.map(|entry| entry.path()).filter(is_daemon).max()
}

/// A program of Kubernetes' lab, or of Debian's.
pub fn part(name: &str) -> Result<PathBuf, String> {
    let folder = std::env::var_os("WEFT_KUBERNETES_BIN").map(PathBuf::from);
    let mut candidates =
        folder.map(|folder| folder.join(name)).into_iter().chain([Path::new("/usr/bin").join(name)]);
    candidates.find(|path| path.exists()).ok_or(format!("no {name} in WEFT_KUBERNETES_BIN or /usr/bin"))
}

/// A node while it is flannel's.
pub struct Flannel {
    pub process: Process,
    /// Of its pods, one a family.
    pub subnets: Vec<String>,
    /// Of its tunnel ends, one a family.
    pub macs: Vec<String>,
}

impl Flannel {
    /// Ends the daemon; its network stays.
    pub fn stop(&self) {
        assert!(self.process.terminate(Duration::from_secs(5)), "flanneld ends");
    }
}

/// Starts flannel's daemon on a node, and has runtimes use it.
pub fn start(node: &Arc<Machine>, program: &Path, backend: Backend, arguments: &[String]) -> Flannel {
    put(node, program, "/opt/flanneld");
    node.sysctl(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")]).expect("it forwards");
    node.run("mkdir", &["-p", "/etc/cni/net.d"]).expect("it can be made");
    let log = std::fs::File::create(node.path("/run/flanneld.log")).expect("it can be made");
    let mut command = Command::new("/opt/flanneld");
    command.args(["--iface=eth0", "--iptables-forward-rules=false"]).args(arguments);
    command.env("NODE_NAME", node.name()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let process = node.spawn(command, Net::Machine).expect("flanneld starts");
    let file = node.path("/run/flannel/subnet.env");
    wait("flanneld has a subnet", || {
        let said = std::fs::read_to_string(node.path("/run/flanneld.log")).unwrap_or_default();
        assert!(process.is_running(), "flanneld ended:\n{said}");
        file.exists()
    });
    let text = std::fs::read_to_string(file).expect("it is there");
    let gateway = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
    let gateways = ["FLANNEL_SUBNET=", "FLANNEL_IPV6_SUBNET="].into_iter().filter_map(gateway);
    let subnets: Vec<String> =
        gateways.map(|gateway| gateway.replace(".1/24", ".0/24").replace("::1/64", "::/64")).collect();
    assert!(!subnets.is_empty(), "it names the subnet: {text}");
    configure(node, &delegate(&subnets, backend));
    let devices: &[&str] = match backend {
        Backend::Vxlan => &["flannel.1"],
        Backend::VxlanOfBoth => &["flannel.1", "flannel-v6.1"],
        Backend::VxlanOfV6 => &["flannel-v6.1"],
        Backend::HostGw => &[],
    };
    let address = |device: &&str| {
        let file = format!("/sys/class/net/{device}/address");
        node.run("cat", &[&file]).expect("the tunnel is there").trim().to_owned()
    };
    Flannel { process, subnets, macs: devices.iter().map(address).collect() }
}

/// Waits until a node has the way to another's pods.
pub fn wait_for_way(node: &Machine, other: &Flannel) {
    wait("flannel's nodes know each other", || {
        let list = |family: &str| node.run("ip", &[family, "route"]).expect("routes can be listed");
        let routes = list("-4") + &list("-6");
        let has =
            |subnet: &String| routes.lines().any(|line| line.starts_with(subnet) && line.contains(" via "));
        other.subnets.iter().all(has)
    });
}

pub fn put(machine: &Machine, from: &Path, to: &str) {
    std::fs::copy(from, machine.path(to)).expect("the program can be copied");
}

/// Writes the network configuration that runtimes find.
pub fn configure(node: &Machine, conflist: &str) {
    std::fs::write(node.path("/etc/cni/net.d/05-flannel.conflist"), conflist).expect("it can be written");
}

/// What flannel's CNI plugin hands to the bridge plugin.
fn delegate(subnets: &[String], backend: Backend) -> String {
    let mtu = backend.mtu();
    let ranges: Vec<String> = subnets.iter().map(|subnet| format!(r#"[{{"subnet": "{subnet}"}}]"#)).collect();
    let ranges = ranges.join(", ");
    let cluster = backend.cluster();
    format!(
        r#"{{"cniVersion": "0.3.1", "name": "cbr0", "plugins": [{{"type": "bridge", "hairpinMode": true, "isGateway": true,
        "isDefaultGateway": true, "ipMasq": false, "mtu": {mtu}, "ipam": {{"type": "host-local", "ranges": [{ranges}],
        "routes": [{{"dst": "{cluster}"}}]}}}}]}}"#
    )
}
