//! A cluster of flannel's (vxlan, over etcd) that moves in node by node.
//!
//! The daemon is real: `flanneld` in the folder that `WEFT_FLANNEL_BIN` names (the Go module `github.com/flannel-io/flannel`; its
//! backends `vxlan` and `host-gw` are enough). Its CNI plugin only calls `bridge` and `host-local` with what the daemon wrote into
//! subnet.env: pods come by that call, written down. etcd is Kubernetes' lab's, or Debian's.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use weft_lab::runtime::Runtime;
use weft_lab::sandbox::in_sandbox;
use weft_lab::topology::ROUTER;
use weft_lab::{Machine, Net, Process};

use crate::site::{Site, cache, wait};

const TEST: &str = "flannel::a_flannel_cluster_moves_in_node_by_node";
const ETCD: &str = "http://192.0.2.1:2379";
const CONFIG: &str =
    r#"{"Network": "10.42.0.0/16", "SubnetLen": 24, "Backend": {"Type": "vxlan", "VNI": 1, "Port": 8472}}"#;
const CONFLIST: &str = r#"{"cniVersion": "0.3.1", "name": "cbr0", "plugins": [{"type": "flannel",
  "delegate": {"hairpinMode": true, "isDefaultGateway": true}}]}"#;
/// As the network is, for as long as one node is flannel's.
const NETWORK: &str = "apiVersion: weft.dev/v1\nkind: Network\nmetadata: {name: default}\nspec:\n  \
  podCIDRs: [10.42.0.0/16]\n  overlay: vxlan\n  vni: 1\n  vxlanPort: 8472\n";

/// The programs, where there are all.
struct Parts {
    flanneld: PathBuf,
    etcd: PathBuf,
}

impl Parts {
    fn find() -> Result<Self, String> {
        let folder = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
        let here = |path: PathBuf| path.exists().then_some(path);
        let flannel = folder("WEFT_FLANNEL_BIN").ok_or("WEFT_FLANNEL_BIN names no folder with flanneld")?;
        let flanneld =
            here(flannel.join("flanneld")).ok_or(format!("no flanneld in {}", flannel.display()))?;
        let etcd = folder("WEFT_KUBERNETES_BIN").and_then(|folder| here(folder.join("etcd")));
        let etcd = etcd.or_else(|| here("/usr/bin/etcd".into())).ok_or("no etcd (Debian's etcd-server)")?;
        here("/usr/lib/cni/bridge".into())
            .ok_or("no /usr/lib/cni/bridge (Debian's containernetworking-plugins)")?;
        Ok(Self { flanneld, etcd })
    }
}

/// A node while it is flannel's.
struct Flannel {
    process: Process,
    subnet: String,
    mac: String,
}

#[test]
fn a_flannel_cluster_moves_in_node_by_node() {
    let parts = match Parts::find() {
        Ok(parts) => parts,
        Err(reason) => {
            println!("SKIPPED: {TEST}: {reason}");
            return;
        }
    };
    in_sandbox(TEST, move || moves_in(&parts));
}

fn moves_in(parts: &Parts) {
    let site = Site::start("moving-flannel", 2);
    let _etcd = start_etcd(&site, parts);
    let (n1, n2) = (site.node("n1"), site.node("n2"));
    let first = start_flannel(&n1, parts);
    let second = start_flannel(&n2, parts);
    let runtimes = [&n1, &n2].map(|node| Arc::new(Runtime::new(Arc::clone(node))));
    site.fact("00-network.yaml", NETWORK);
    site.fact("10-n1.yaml", &node("n1", "192.0.2.11", &first));
    site.fact("10-n2.yaml", &node("n2", "192.0.2.12", &second));
    let (a, b) = (site.pod(&runtimes[0], "a"), site.pod(&runtimes[1], "b"));
    cache(&n1, "cbr0", &a);
    cache(&n2, "cbr0", &b);
    wait("flannel's nodes know each other", || {
        let has = |node: &Machine| {
            node.run("ip", &["route"]).expect("routes can be listed").contains("flannel.1 onlink")
        };
        has(&n1) && has(&n2)
    });
    site.all_reach_all("by flannel alone", &[&a, &b]);

    configure(&n1, CONFLIST);
    let refused = site.migrate("n1", "").expect_err("flanneld runs");
    assert!(refused.contains("flanneld runs here"), "{refused}");
    let first_agent = site.under_traffic(&a, &[&b], || {
        first.process.terminate(Duration::from_secs(5));
        println!("{}", site.migrate("n1", "").expect("the first node moves"));
        site.start_agent("n1", &runtimes[0])
    });
    let new = site.pod(&runtimes[0], "new");
    assert!(n1.run("ip", &["-o", "link"]).expect("links can be listed").contains("weftx1"));
    site.all_reach_all("one node moved", &[&a, &new, &b]);
    // A pod of flannel's that comes after the first node has moved.
    let late = site.pod(&runtimes[1], "late");
    site.all_reach_all("a new pod of flannel's", &[&a, &new, &b, &late]);
    assert_eq!(first_agent.differences().expect("it compares"), Vec::<String>::new());

    let second_agent = site.under_traffic(&b, &[&a, &new], || {
        second.process.terminate(Duration::from_secs(5));
        configure(&n2, CONFLIST);
        println!("{}", site.migrate("n2", "").expect("the second node moves"));
        site.start_agent("n2", &runtimes[1])
    });
    site.all_reach_all("both nodes moved", &[&a, &new, &b, &late]);
    // Nobody needs flannel's annotations any more: each node has published what was in them.
    for (name, ip, flannel) in [("n1", "192.0.2.11", &first), ("n2", "192.0.2.12", &second)] {
        let text = format!("{}  podCIDRs: [{}]\n", head(name, ip, ""), flannel.subnet);
        site.fact(&format!("10-{name}.yaml"), &text);
    }
    std::thread::sleep(Duration::from_secs(1));
    site.all_reach_all("without annotations", &[&a, &new, &b, &late]);
    for (node, agent, flannel) in [(&n1, &first_agent, &first), (&n2, &second_agent, &second)] {
        let mac = node.run("cat", &["/sys/class/net/weftx1/address"]).expect("it has one");
        assert_eq!(mac.trim(), flannel.mac);
        let links = node.run("ip", &["-o", "link"]).expect("links can be listed");
        assert!(!links.contains("cni0") && !links.contains("flannel.1"), "{links}");
        assert_eq!(agent.differences().expect("it compares"), Vec::<String>::new());
    }
    for pod in [a, new, b, late] {
        pod.stop().expect("DEL works");
    }
    drop((first_agent, second_agent, first, second, runtimes, n1, n2, _etcd));
    println!("{}", site.lab.close().expect("nothing is left"));
}

/// A Node as kube-flannel would have annotated it.
fn node(name: &str, ip: &str, flannel: &Flannel) -> String {
    let annotations = format!(
        "\n  annotations:\n    flannel.alpha.coreos.com/backend-type: vxlan\n    flannel.alpha.coreos.com/public-ip: {ip}\n    \
         flannel.alpha.coreos.com/backend-data: '{{\"VNI\":1,\"VtepMAC\":\"{}\"}}'",
        flannel.mac
    );
    format!("{}  podCIDRs: [{}]\n", head(name, ip, &annotations), flannel.subnet)
}

fn head(name: &str, ip: &str, annotations: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: {name}{annotations}\nstatus:\n  addresses:\n  - {{type: InternalIP, \
         address: {ip}}}\nspec:\n"
    )
}

fn put(machine: &Machine, from: &Path, to: &str) {
    std::fs::copy(from, machine.path(to)).expect("the program can be copied");
}

fn start_etcd(site: &Site, parts: &Parts) -> Process {
    let router = site.node(ROUTER);
    put(&router, &parts.etcd, "/opt/etcd");
    let mut command = Command::new("/opt/etcd");
    command.args(["--data-dir=/var/lib/etcd-lab", "--advertise-client-urls", ETCD, "--unsafe-no-fsync"]);
    command.arg("--listen-client-urls=http://0.0.0.0:2379").stdout(Stdio::null()).stderr(Stdio::null());
    let process = router.spawn(command, Net::Machine).expect("etcd starts");
    let body = format!(
        "{{\"key\": \"{}\", \"value\": \"{}\"}}",
        STANDARD.encode("/coreos.com/network/config"),
        STANDARD.encode(CONFIG)
    );
    wait("etcd takes the configuration", || {
        router.run("curl", &["-sf", "-X", "POST", "-d", &body, "http://127.0.0.1:2379/v3/kv/put"]).is_ok()
    });
    process
}

fn configure(node: &Machine, conflist: &str) {
    std::fs::write(node.path("/etc/cni/net.d/05-flannel.conflist"), conflist).expect("it can be written");
}

/// What flannel's CNI plugin hands to the bridge plugin.
fn delegate(subnet: &str) -> String {
    format!(
        r#"{{"cniVersion": "0.3.1", "name": "cbr0", "plugins": [{{"type": "bridge", "hairpinMode": true, "isGateway": true,
        "isDefaultGateway": true, "ipMasq": false, "mtu": 1450, "ipam": {{"type": "host-local",
        "ranges": [[{{"subnet": "{subnet}"}}]], "routes": [{{"dst": "10.42.0.0/16"}}]}}}}]}}"#
    )
}

/// Starts flannel's daemon on a node, and has runtimes use it.
fn start_flannel(node: &Arc<Machine>, parts: &Parts) -> Flannel {
    put(node, &parts.flanneld, "/opt/flanneld");
    node.sysctl(&[("net/ipv4/ip_forward", "1")]).expect("it forwards");
    node.run("mkdir", &["-p", "/etc/cni/net.d"]).expect("it can be made");
    let log = std::fs::File::create(node.path("/run/flanneld.log")).expect("it can be made");
    let mut command = Command::new("/opt/flanneld");
    command.args([
        format!("--etcd-endpoints={ETCD}"),
        "--iface=eth0".into(),
        "--iptables-forward-rules=false".into(),
    ]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let process = node.spawn(command, Net::Machine).expect("flanneld starts");
    let file = node.path("/run/flannel/subnet.env");
    wait("flanneld has a subnet", || {
        let said = std::fs::read_to_string(node.path("/run/flanneld.log")).unwrap_or_default();
        assert!(process.is_running(), "flanneld ended:\n{said}");
        file.exists()
    });
    let text = std::fs::read_to_string(file).expect("it is there");
    let gateway =
        text.lines().find_map(|line| line.strip_prefix("FLANNEL_SUBNET=")).expect("it names the subnet");
    let subnet = gateway.replace(".1/24", ".0/24");
    configure(node, &delegate(&subnet));
    let mac = node.run("cat", &["/sys/class/net/flannel.1/address"]).expect("the tunnel is there");
    Flannel { process, subnet, mac: mac.trim().to_owned() }
}
